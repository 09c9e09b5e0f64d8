//! Names with passwords and tokens: who gets in, how fast, and until when.

mod broker_support;

use std::sync::Arc;

use broker_support::*;
use bytes::Bytes;
use smqtt::{
    broker::{Config, EngineKind, Limit},
    mqtt::*,
    passwords::{Accounts, Passwords, password_line, token_line},
};

/// `alice` and `bob` with a password, `meter` with a token.
struct Office {
    broker: TestBroker,
    passwords: Passwords,
    lines: Vec<String>,
    token: String,
}

impl Office {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(mut config: Config) -> Self {
        config.engine = EngineKind::Direct;
        let (token, token_line) = token_line("meter").unwrap();
        let lines = vec![
            password_line("alice", b"wonderland").unwrap(),
            password_line("bob", b"builder").unwrap(),
            token_line,
        ];
        let passwords = Passwords::new(accounts(&lines));
        let broker = TestBroker::with(config, vec![Box::new(passwords.clone())]).await;
        Self { broker, passwords, lines, token: token.to_string() }
    }

    /// What CONNACK says.
    async fn knock(&self, connect: Connect) -> (Connack, Client) {
        let mut client = self.broker.raw().await;
        client.version = connect.version;
        client.send(Packet::Connect(Box::new(connect))).await;
        (client.connack().await, client)
    }
}

fn accounts(lines: &[String]) -> Accounts {
    Accounts::parse(&lines.join("\n")).unwrap()
}

fn named(version: Version, client_id: &str, name: &str, password: &str) -> Connect {
    let mut packet = persistent(version, client_id);
    packet.user_name = Some(name.into());
    packet.password = Some(Bytes::copy_from_slice(password.as_bytes()));
    packet
}

#[tokio::test]
async fn who_knows_its_password_or_token_comes_in_and_nobody_else() {
    let office = Office::start().await;
    let token = office.token.clone();
    for version in [Version::V3, Version::V5] {
        for (name, password) in [("alice", "wonderland"), ("bob", "builder"), ("meter", &token)] {
            let (connack, client) = office.knock(named(version, name, name, password)).await;
            assert_eq!(connack.reason, ReasonCode::Success, "{name}");
            client.disconnect().await;
        }
        // A wrong name and a wrong password cannot be told apart.
        let mut answers = Vec::new();
        let wrong = [
            ("alice", "builder"),
            ("alice", ""),
            ("alice", "wonderland "),
            ("mallory", "wonderland"),
            ("user:alice", "wonderland"),
            ("Alice", "wonderland"),
            ("", "wonderland"),
            ("meter", "wonderland"),
            ("alice", &token),
        ];
        for (name, password) in wrong {
            let (connack, mut client) = office.knock(named(version, "x", name, password)).await;
            assert_eq!(connack.reason, ReasonCode::BadUserNameOrPassword, "{name} {password}");
            assert_eq!(client.next().await, None);
            answers.push(connack);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        let mut nameless = persistent(version, "x");
        for _ in 0..2 {
            let (connack, _) = office.knock(nameless.clone()).await;
            assert_eq!(connack.reason, ReasonCode::NotAuthorized);
            nameless.user_name = Some("alice".into());
        }
    }
}

#[tokio::test]
async fn a_session_is_its_users_and_nobody_elses() {
    let office = Office::start().await;
    let (_, mut alice) = office.knock(named(Version::V5, "desk", "alice", "wonderland")).await;
    alice.subscribe("mail", QoS::AtLeastOnce).await;
    for version in [Version::V3, Version::V5] {
        let (connack, _) = office.knock(named(version, "desk", "bob", "builder")).await;
        assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
    }
    assert_eq!(alice.until_ping().await, []);
    alice.disconnect().await;
    let (connack, _) = office.knock(named(Version::V5, "desk", "bob", "builder")).await;
    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid, "a stored one neither");
    let (connack, _) = office.knock(named(Version::V5, "desk", "alice", "wonderland")).await;
    assert!(connack.session_present);
}

#[tokio::test]
async fn who_is_removed_is_cut_with_all_that_waits_and_who_is_changed_must_come_again() {
    let mut office = Office::start().await;
    let mut gone = named(Version::V5, "a", "alice", "wonderland");
    gone.will = Some(will("gone", "alice"));
    let (_, mut alice) = office.knock(gone).await;
    alice.subscribe("mail", QoS::AtLeastOnce).await;
    let (_, away) = office.knock(named(Version::V5, "away", "alice", "wonderland")).await;
    away.disconnect().await;
    let (_, mut bob) = office.knock(named(Version::V5, "b", "bob", "builder")).await;
    bob.subscribe("#", QoS::AtMostOnce).await;
    let (_, mut meter) = office.knock(named(Version::V5, "m", "meter", &office.token)).await;

    // The same once more changes nothing.
    office.passwords.replace(accounts(&office.lines), &office.broker.handle);
    assert_eq!(alice.until_ping().await, []);

    office.lines[0] = password_line("carol", b"wonderland").unwrap();
    office.lines[1] = password_line("bob", b"changed").unwrap();
    office.passwords.replace(accounts(&office.lines), &office.broker.handle);
    assert_eq!(alice.closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(bob.closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(meter.until_ping().await, []);
    let refused = [("alice", "wonderland"), ("bob", "builder")];
    for (name, password) in refused {
        let (connack, _) = office.knock(named(Version::V5, "b", name, password)).await;
        assert_eq!(connack.reason, ReasonCode::BadUserNameOrPassword, "{name}");
    }
    let (connack, mut bob) = office.knock(named(Version::V5, "b", "bob", "changed")).await;
    assert!(connack.session_present, "what waits for bob is still bob's");
    // Of alice nothing is left: no session that another could not have, and no will.
    for client_id in ["a", "away"] {
        let (connack, client) = office.knock(named(Version::V5, client_id, "carol", "wonderland")).await;
        assert_eq!((connack.reason, connack.session_present), (ReasonCode::Success, false));
        client.disconnect().await;
    }
    assert_eq!(bob.until_ping().await, []);
}

#[tokio::test]
async fn who_went_while_no_broker_ran_is_forgotten_with_its_will() {
    let dir = std::env::temp_dir().join(format!("smqtt-passwords-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let on_disk = || {
        let mut config = Config::default();
        config.data = Some(dir.clone());
        config
    };
    let office = Office::with(on_disk()).await;
    let mut gone = named(Version::V5, "a", "alice", "wonderland");
    let late = WillProperties { delay_secs: Some(1), ..WillProperties::default() };
    gone.will = Some(Will { retain: true, properties: late, ..will("gone", "alice") });
    let (_, mut alice) = office.knock(gone).await;
    alice.subscribe("mail", QoS::AtLeastOnce).await;
    drop(alice);
    office.broker.shutdown().await;

    let lines = [password_line("carol", b"x").unwrap()];
    let passwords = Passwords::new(accounts(&lines));
    let broker = TestBroker::with(on_disk(), vec![Box::new(passwords.clone())]).await;
    passwords.forget_strangers(&broker.handle);
    let (mut carol, connack) = broker.connect(named(Version::V5, "a", "carol", "x")).await;
    assert!(!connack.session_present);
    carol.subscribe("gone", QoS::AtMostOnce).await;
    assert_eq!(carol.until_ping().await, []);
    broker.shutdown().await;
    let _ = std::fs::remove_dir_all(&dir);
}

/// Each check of a password takes megabytes and milliseconds: strangers must not have them without bound, and must not keep
/// out who comes with a token, or is in already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_passwords_is_answered_busy_and_stops_nobody_else() {
    let office = Arc::new(Office::start().await);
    let (_, mut inside) = office.knock(named(Version::V5, "inside", "bob", "builder")).await;
    inside.subscribe("news", QoS::AtMostOnce).await;
    let mut flood = Vec::new();
    for number in 0..200 {
        let office = office.clone();
        flood.push(tokio::spawn(async move {
            let version = if number % 2 == 0 { Version::V3 } else { Version::V5 };
            office.knock(named(version, &format!("flood-{number}"), "alice", "guess")).await.0.reason
        }));
    }
    let (connack, mut meter) = office.knock(named(Version::V5, "m", "meter", &office.token)).await;
    assert_eq!(connack.reason, ReasonCode::Success);
    meter.publish(message("news", "still here", QoS::AtLeastOnce)).await;
    assert_eq!(inside.payload().await, "still here");
    let (mut busy, mut wrong) = (0, 0);
    for knock in flood {
        match knock.await.unwrap() {
            // 3.1.1 knows "server unavailable" alone.
            ReasonCode::ServerBusy | ReasonCode::ServerUnavailable => busy += 1,
            ReasonCode::BadUserNameOrPassword => wrong += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(busy > 0 && wrong > 0, "{busy} busy, {wrong} wrong");
    let metrics = office.broker.handle.metrics().render();
    let name = Limit::PasswordChecksPerAddress.name();
    assert!(metrics.contains(&format!("smqtt_limit_hits_total{{limit=\"{name}\"}} {busy}\n")), "{metrics}");
    // When it is over, the right one gets in.
    let (connack, _) = office.knock(named(Version::V5, "a", "alice", "wonderland")).await;
    assert_eq!(connack.reason, ReasonCode::Success);
}
