//! An authority that is killed in the middle of many enrolments: whoever was told that they are enrolled is, nobody is
//! enrolled by half, and no token works twice.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::TempDir;
use common::authority::{administrator, start};
use common::site::address;
use smqtt_client::authority::Authority;
use smqtt_client::enrol::{EnrolError, authority_of, enrol, refresh};
use smqtt_client::keyring::{Keyring, SharedKeyring};
use smqtt_client::system_now;
use smqtt_core::api::{AuditRecord, Device, Keys, NewToken, TokenRequest};
use smqtt_core::token::Token;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

const DEVICES: usize = 200;
/// How many enrol at a time.
const AT_ONCE: usize = 16;

fn name(number: usize) -> String {
    format!("device-{number}")
}

fn dir(home: &Path, number: usize) -> PathBuf {
    home.join("devices").join(name(number))
}

/// Enrols everyone who is not; counts in `done` who was told so.
async fn enrol_all(
    home: &Path,
    tokens: &[Token],
    who: BTreeSet<usize>,
    done: Arc<(AtomicUsize, Notify)>,
) -> Answers {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for number in who {
        let (token, dir, room, done) =
            (tokens[number].clone(), dir(home, number), room.clone(), done.clone());
        tasks.spawn(async move {
            let _one = room.acquire_owned().await.unwrap();
            let answer = enrol(&token, &dir, system_now()).await;
            if answer.is_ok() {
                done.0.fetch_add(1, Ordering::SeqCst);
                done.1.notify_one();
            }
            (number, answer)
        });
    }
    tasks.join_all().await.into_iter().collect()
}

type Answers = BTreeMap<usize, Result<Keyring, EnrolError>>;

async fn devices(admin: &Authority) -> BTreeMap<String, Device> {
    let listed: Vec<Device> = admin.get("/v1/devices").await.unwrap();
    let count = listed.len();
    let by_name: BTreeMap<_, _> =
        listed.into_iter().filter(|device| device.role == "device").map(|d| (d.name.clone(), d)).collect();
    assert_eq!(by_name.len() + 1, count, "every name once, and the administrator");
    by_name
}

async fn audit(admin: &Authority) -> Vec<AuditRecord> {
    let mut all: Vec<AuditRecord> = Vec::new();
    loop {
        let after = all.last().map_or(0, |record| record.number);
        let page: Vec<AuditRecord> = admin.get(&format!("/v1/audit?after={after}")).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Everything a device needs is there and works.
async fn works(home: &Path, number: usize, listed: &Device) {
    let name = name(number);
    let keyring = Keyring::load(&dir(home, number)).unwrap();
    assert_eq!((&keyring.place().name, &keyring.id().to_string()), (&name, &listed.id));
    assert_eq!((listed.status.as_str(), &listed.attributes), ("active", &vec![format!("number={number}")]));
    assert!(listed.certificate_expires > system_now());
    let keys: Keys =
        authority_of(&keyring, smqtt_client::system_now()).unwrap().get("/v1/keys").await.unwrap();
    assert_eq!((keys.keys.len(), &keys.attributes), (1, &listed.attributes));
    let mut keyring = keyring;
    keyring.take_keys(&keys.keys).unwrap();
    refresh(&SharedKeyring::new(keyring), system_now(), Duration::ZERO).await.unwrap();
}

/// Kills the authority once `told` devices were told that they are enrolled, and `later` after that.
async fn killed_in_the_middle(told: usize, later: Duration) {
    let home = TempDir::new();
    let home = home.path();
    let (mut authority, url) = start(home, "127.0.0.1:0");
    let admin = administrator(home, &url);
    let mut tokens = Vec::new();
    for number in 0..DEVICES {
        let request = TokenRequest {
            name: name(number),
            attributes: vec![format!("number={number}")],
            ..TokenRequest::default()
        };
        let made: NewToken = admin.post("/v1/tokens", &request).await.unwrap();
        tokens.push(Token::parse(&made.token).unwrap());
    }

    let done = Arc::new((AtomicUsize::new(0), Notify::new()));
    let killing = async {
        while done.0.load(Ordering::SeqCst) < told {
            done.1.notified().await;
        }
        // The moment itself, not a wait for something: it varies from round to round.
        tokio::time::sleep(later).await;
        authority.kill();
    };
    let (answers, ()) = tokio::join!(enrol_all(home, &tokens, (0..DEVICES).collect(), done.clone()), killing);
    let was_told: BTreeSet<usize> =
        answers.iter().filter(|(_, a)| a.is_ok()).map(|(number, _)| *number).collect();
    assert!(
        was_told.len() >= told && was_told.len() < DEVICES,
        "{} of {DEVICES}: not in the middle",
        was_told.len()
    );
    for (number, answer) in &answers {
        if let Err(error) = answer {
            assert!(error.is_temporary(), "{number} was told to give up: {error}");
            assert!(!dir(home, *number).join("identity.json").exists());
        }
    }

    let (_authority, again) = start(home, address(&url));
    assert_eq!(again, url);
    let admin = administrator(home, &url);
    let listed = devices(&admin).await;
    for number in &was_told {
        works(home, *number, &listed[&name(*number)]).await;
    }
    // Some may be enrolled whose answer was lost; nobody beyond those who asked.
    assert!(listed.len() <= DEVICES && listed.len() - was_told.len() <= AT_ONCE, "{} listed", listed.len());

    let rest: BTreeSet<usize> = (0..DEVICES).filter(|number| !was_told.contains(number)).collect();
    let answers = enrol_all(home, &tokens, rest, done).await;
    answers.into_iter().for_each(|(number, answer)| {
        answer.map(drop).unwrap_or_else(|error| panic!("{number} cannot go on: {error}"));
    });
    let complete = devices(&admin).await;
    assert_eq!(complete.len(), DEVICES);
    for number in 0..DEVICES {
        works(home, number, &complete[&name(number)]).await;
    }
    for (name, before) in &listed {
        assert_eq!(before, &complete[name], "whose answer was lost is the same device");
    }
    let ids: BTreeSet<_> = complete.values().map(|device| &device.id).collect();
    assert_eq!(ids.len(), DEVICES);

    // Other keys get nothing for a token that was used, before or after.
    for (number, token) in tokens.iter().enumerate() {
        let second = home.join("second").join(name(number));
        match enrol(token, &second, system_now()).await {
            Err(EnrolError::Request(error)) => {
                assert_eq!(error.code(), Some("token-used"), "{number}: {error}")
            }
            other => panic!("{number}: {other:?}"),
        }
    }
    assert_eq!(devices(&admin).await, complete);
    // And the log knows of each exactly once, without a gap.
    let log = audit(&admin).await;
    assert!(log.iter().zip(1..).all(|(record, number)| record.number == number));
    for (name, device) in &complete {
        let subject = format!("{name} {} (device)", device.id);
        let enrolled = log.iter().filter(|record| record.action == "enrol" && record.subject == subject);
        assert_eq!(enrolled.count(), 1, "{subject}");
    }
}

#[tokio::test]
async fn killed_among_the_first() {
    killed_in_the_middle(5, Duration::from_micros(300)).await;
}

#[tokio::test]
async fn killed_half_way() {
    killed_in_the_middle(90, Duration::from_micros(1900)).await;
}

#[tokio::test]
async fn killed_near_the_end() {
    killed_in_the_middle(165, Duration::from_micros(5200)).await;
}
