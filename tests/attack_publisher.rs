//! Attacks on publishers: by time, by threads, by a broker that asks again and again, and by their own callers.

#[path = "common/lab.rs"]
mod lab;

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use lab::{DAY, Device, EvilBroker, Lab, now};
use smqtt_client::mqtt::{self, MqttError, Options, Order, QoS};
use smqtt_client::sealer::{KEY_AGE_SECONDS_MAX, Outgoing, SealError, Sealed, Sealer, Wish};
use smqtt_core::envelope::Envelope;
use smqtt_core::header::Kid;
use smqtt_core::target::Target;

const WARD: &str = "ward/3/temperature";

fn seal(
    device: &Device,
    sealer: &mut Sealer,
    topic: &str,
    wish: Wish<'_>,
    at: u64,
) -> Result<Sealed, SealError> {
    match device.with(|k| sealer.seal(k, topic, b"36.6", wish, at))? {
        Outgoing::Sealed(sealed) => Ok(sealed),
        Outgoing::Plain(_) => panic!("in the clear"),
    }
}

fn counter(payload: &[u8]) -> (Kid, u64) {
    let message = Envelope::parse(payload).unwrap().message;
    (message.kid(), message.counter())
}

async fn ward() -> (Lab, Device) {
    let lab = Lab::start().await;
    lab.require("ward/+/temperature", "role=nurse and ward=$1").await;
    lab.rule("notes/#", "open", None, None, None).await;
    let sensor = lab.enrol("sensor", &["role=sensor"]).await;
    (lab, sensor)
}

#[tokio::test]
async fn nobody_seals_under_what_has_expired_or_was_revoked() {
    let (lab, sensor) = ward().await;
    let mut sealer = Sealer::new(false);
    let first = seal(&sensor, &mut sealer, WARD, Wish::Rule, now()).unwrap();
    // Cut off from the authority it goes on for as long as the bundle says, and not a second longer.
    let expires = sensor.with(|k| k.bundle().expires);
    assert!(seal(&sensor, &mut sealer, WARD, Wish::Rule, expires - 1).is_ok());
    let error = seal(&sensor, &mut sealer, WARD, Wish::Rule, expires).unwrap_err();
    assert!(matches!(error, SealError::Expired(_)), "{error}");
    lab.advance(expires - now());
    lab.authority.housekeep().await.unwrap();
    sensor.refresh().await.unwrap();
    let second = seal(&sensor, &mut sealer, WARD, Wish::Rule, now()).unwrap();
    assert_ne!(first.kid(), second.kid());
    assert!(second.header().epoch() > first.header().epoch());

    let other = lab.enrol("other", &[]).await;
    lab.revoke("sensor").await;
    other.refresh().await.unwrap();
    let bundle = other.with(|k| k.bundle_bytes().to_vec());
    sensor.with(|k| k.take_bundle(&bundle)).unwrap();
    let error = seal(&sensor, &mut sealer, WARD, Wish::Rule, now()).unwrap_err();
    assert!(matches!(error, SealError::Revoked), "{error}");
}

#[tokio::test]
async fn a_content_key_ends_with_its_bundle_and_its_hour() {
    let (lab, sensor) = ward().await;
    let mut sealer = Sealer::new(false);
    let mut kid = |topic: &str, at: u64| seal(&sensor, &mut sealer, topic, Wish::Rule, at).unwrap().kid();
    let begun = now();
    let first = kid(WARD, begun);
    assert_eq!(kid(WARD, begun + KEY_AGE_SECONDS_MAX - 1), first);
    assert_ne!(kid("ward/4/temperature", begun), first, "another policy");
    let second = kid(WARD, begun + KEY_AGE_SECONDS_MAX);
    assert_ne!(second, first);
    assert_ne!(kid(WARD, begun), second, "the clock went back");
    let third = kid(WARD, begun);

    // Whatever the bundle says that is new.
    lab.rule("elsewhere", "open", None, None, None).await;
    sensor.refresh().await.unwrap();
    let fourth = kid(WARD, begun);
    assert_ne!(fourth, third);
    lab.rotate().await;
    sensor.refresh().await.unwrap();
    assert_ne!(kid(WARD, begun), fourth);
    // A colleague of the readers is revoked: the raised version is in the next header.
    lab.enrol("lost", &["role=nurse"]).await;
    lab.revoke("lost").await;
    sensor.refresh().await.unwrap();
    let sealed = seal(&sensor, &mut sealer, WARD, Wish::Rule, now()).unwrap();
    assert_eq!(sealed.header().versions().get(&"role=nurse".parse().unwrap()), 1);

    // What expires stays far below a day, whatever the caller does.
    assert!(sealed.header().expires() - sealed.header().created() < DAY);
}

#[tokio::test]
async fn no_nonce_is_used_twice() {
    let (_lab, sensor) = ward().await;
    let sealer = Mutex::new(Sealer::new(false));
    let seen = Mutex::new(HashSet::new());
    let (threads, each) = (8, 250);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut last: BTreeMap<Kid, u64> = BTreeMap::new();
                for n in 0..each {
                    let topic = if n % 2 == 0 { WARD } else { "ward/4/temperature" };
                    let mut sealer = sealer.lock().unwrap();
                    let sealed = seal(&sensor, &mut sealer, topic, Wish::Rule, smqtt_client::system_now());
                    drop(sealer);
                    let (kid, number) = counter(sealed.unwrap().compact());
                    assert!(last.insert(kid, number).is_none_or(|before| before < number));
                    assert!(seen.lock().unwrap().insert((kid, number)), "{kid} {number}");
                }
            });
        }
    });
    assert_eq!(seen.lock().unwrap().len(), threads * each);

    // One content key shared by threads.
    let (_, key) = sensor.header("role=nurse", WARD);
    let seen = Mutex::new(HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..each {
                    let message = key.seal(WARD, b"36.6").unwrap();
                    assert!(seen.lock().unwrap().insert(counter(&message)));
                }
            });
        }
    });
    assert_eq!(seen.lock().unwrap().len(), threads * each);
    // Two processes of one device have a key each, so their numbers do not meet.
    let [one, two] =
        [(); 2].map(|()| seal(&sensor, &mut Sealer::new(false), WARD, Wish::Rule, now()).unwrap());
    assert_eq!((counter(one.compact()).1, counter(two.compact()).1), (0, 0));
    assert_ne!(one.kid(), two.kid());
}

#[tokio::test]
async fn the_rule_decides_for_whom() {
    let (_lab, sensor) = ward().await;
    let mut sealer = Sealer::new(false);
    let policy = |text: &str| Target::Policy(text.parse().unwrap());
    let ruled = seal(&sensor, &mut sealer, WARD, Wish::Rule, now()).unwrap();
    assert_eq!(*ruled.header().target(), policy("role=nurse and ward=3"));
    assert!(!ruled.header().filter().matches("ward/4/temperature"));
    for wider in ["role=nurse", "role=visitor", "role=nurse and ward=3 or role=visitor"] {
        let wider = policy(wider);
        let error = seal(&sensor, &mut sealer, WARD, Wish::Under(&wider), now()).unwrap_err();
        assert!(matches!(error, SealError::OtherPolicy { .. }), "{error}");
    }
    let same = policy("role=nurse and ward=3");
    assert_eq!(seal(&sensor, &mut sealer, WARD, Wish::Under(&same), now()).unwrap().kid(), ruled.kid());
    let plain = |topic: &str| sensor.with(|k| Sealer::new(false).seal(k, topic, b"36.6", Wish::Plain, now()));
    assert!(matches!(plain(WARD), Err(SealError::PlainForbidden { .. })));
    assert!(matches!(plain("notes/1"), Ok(Outgoing::Plain(_))));
    // Without rule or option nothing is sent, and what has a policy of its own stays on its topic.
    let error = seal(&sensor, &mut sealer, "notes/1", Wish::Rule, now()).unwrap_err();
    assert!(matches!(error, SealError::NoPolicy(_)), "{error}");
    let own = seal(&sensor, &mut sealer, "notes/1", Wish::Under(&same), now()).unwrap();
    assert!(own.header().filter().matches("notes/1") && !own.header().filter().matches("notes/2"));
    for topic in ["ward/+/temperature", "#", "", "ward/3/\0"] {
        let error = seal(&sensor, &mut sealer, topic, Wish::Rule, now()).unwrap_err();
        assert!(matches!(error, SealError::Topic { .. }), "{error}");
    }
}

/// A broker that refuses again and again gets the message again, sealed anew under the newest bundle, and an end.
#[tokio::test]
async fn a_broker_that_asks_again_gets_no_nonce_twice_and_no_old_epoch() {
    let (lab, sensor) = ward().await;
    let evil = EvilBroker::start(None).await;
    let options = Options { broker: Some(evil.url.clone()), now, ..Options::default() };
    let (client, _inbox) = mqtt::connect(sensor.keyring.clone(), &options).unwrap();
    client.connected(1).await.unwrap();
    let order =
        Order { topic: WARD, payload: b"36.6", wish: Wish::Rule, qos: QoS::AtLeastOnce, retain: false };
    client.publish(&order).await.unwrap();
    lab.rotate().await;
    for text in
        ["epoch: it is epoch 0", "version: it is 0", "no-header: what header", "policy: wider, please"]
    {
        evil.refuse_with(text);
        assert!(matches!(client.publish(&order).await, Err(MqttError::Refused(_))));
    }
    // What it says is shown to people, and steers no terminal.
    evil.refuse_with("policy: \u{1b}[2J\nerror: all is well\u{202e}");
    let error = client.publish(&order).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the broker refused: policy: \u{fffd}[2J\u{fffd}error: all is well\u{fffd}"
    );
    let heard = evil.heard();
    let numbers: HashSet<_> = heard.iter().map(|payload| counter(payload)).collect();
    assert_eq!(numbers.len(), heard.len());
    assert!((8..=24).contains(&heard.len()), "{}", heard.len());
    let mut epochs = Vec::new();
    for payload in &heard {
        if let Some(header) = Envelope::parse(payload).unwrap().header {
            let header = smqtt_core::header::Header::parse(header).unwrap();
            assert_eq!(header.target().to_string(), "role=nurse and ward=3");
            epochs.push(header.epoch());
        }
    }
    assert!(epochs.is_sorted() && epochs.first() == Some(&1) && epochs.last() == Some(&2), "{epochs:?}");
}
