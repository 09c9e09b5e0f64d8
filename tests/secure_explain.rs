//! `explain` says what would be decided: for every client, action and topic the same as what is decided. And the admin
//! listener says when nobody is let in.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use broker_support::TestBroker;
use lab::{DEADLINE, Device, Lab, now, until};
use smqtt::admin::Admin;
use smqtt::broker::Config;
use smqtt::mqtt::{QoS, Version};
use smqtt::secure::{Action, MAX_STALENESS_SECONDS, SecurePublish, View};
use smqtt_client::sealer::{Outgoing, Sealer, Wish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use ward::*;

/// The topic's message as a well-behaved publisher makes it; `None` where it cannot.
fn as_the_rule_says(device: &Device, topic: &str) -> Option<Vec<u8>> {
    let mut sealer = Sealer::new(false);
    let seal = |k: &mut smqtt_client::keyring::Keyring| {
        sealer
            .seal(k, topic, b"36.6", Wish::Rule, now())
            .or_else(|_| sealer.seal(k, topic, b"36.6", Wish::Plain, now()))
    };
    match device.with(seal).ok()? {
        Outgoing::Sealed(sealed) => Some(sealed.full()),
        Outgoing::Plain(payload) => Some(payload),
    }
}

#[tokio::test]
async fn what_is_explained_is_what_is_decided() {
    let site = Site::new().await;
    site.broker.knows(site.lab.rule("move/+", "warn", Some("role=nurse"), None, None).await).await;
    let devices = [("sensor", &site.sensor), ("nurse", &site.nurse), ("visitor", &site.visitor)];
    for (name, device) in devices {
        device.refresh().await.unwrap();
        for topic in [WARD, "ward//temperature", "bed/3", "notes/1", "staff/rota", "move/1", "free"] {
            let explained = site.broker.hook.explain(name, Action::Publish, topic);
            let decided = match as_the_rule_says(device, topic) {
                None => Said::Closed,
                Some(payload) => {
                    let mut client = site.as_device(device, Version::V5).await;
                    publish(&mut client, topic, &payload, QoS::AtLeastOnce).await
                }
            };
            assert_eq!(explained.allowed, decided == Said::Taken, "{name} on {topic}: {explained}");
            if let Said::Refused(_, word) = decided {
                assert_eq!(explained.steps.last().unwrap().code, word);
            }
        }
        for filter in
            ["staff/rota", "staff/#", "#", "$share/group/staff/#", "$share/group/notes/#", "notes/1"]
        {
            let explained = site.broker.hook.explain(name, Action::Subscribe, filter);
            let mut client = site.as_device(device, Version::V5).await;
            let decided = !subscribe(&mut client, filter).await.is_error();
            assert_eq!(explained.allowed, decided, "{name} on {filter}: {explained}");
        }
    }
    // What a wildcard leaves out is said.
    let wide = site.broker.hook.explain("visitor", Action::Subscribe, "staff/#");
    assert!(wide.steps.iter().any(|step| step.code == "left out"), "{wide}");
    // By client id and by identifier, too.
    let id = site.sensor.id().to_string();
    for client in ["sensor/1", &id] {
        assert!(site.broker.hook.explain(client, Action::Publish, WARD).allowed);
    }
    // Wildcards are no topics, and what is no filter is none.
    assert!(!site.broker.hook.explain("sensor", Action::Publish, "ward/#").allowed);
    assert!(!site.broker.hook.explain("sensor", Action::Subscribe, "ward/#/x").allowed);
    // What the broker keeps for itself, whatever the rules say.
    assert!(!site.broker.hook.explain("sensor", Action::Publish, "$SYS/broker/uptime").allowed);
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let said = publish(&mut sensor, "$SYS/broker/uptime", b"0", QoS::AtLeastOnce).await;
    assert_ne!(said, Said::Taken);
}

#[tokio::test]
async fn the_reasons_before_the_rules_come_first() {
    let site = Site::new().await;
    let code = |client: &str| {
        let explained = site.broker.hook.explain(client, Action::Publish, "notes/1");
        (explained.allowed, explained.steps.last().unwrap().code.clone())
    };
    until(|| site.broker.view.peer(site.visitor.id()).is_some()).await;
    // Not a device's name: a client of the listener without TLS.
    assert!(code("stranger").0);
    assert_eq!(code("broker"), (false, "certificate".into()));
    site.broker.knows(site.lab.revoke("visitor").await.bundle).await;
    assert_eq!(code("visitor"), (false, "revoked".into()));
    assert_eq!(code(&site.visitor.id().to_string()), (false, "revoked".into()));
}

#[tokio::test]
async fn a_broker_that_hears_of_nothing_says_so() {
    let (site, line) = Site::behind_a_line().await;
    line.cut();
    until(|| site.broker.view.is_failing()).await;
    site.lab.advance(901);
    let explained = site.broker.hook.explain("sensor", Action::Publish, "notes/1");
    assert_eq!((explained.allowed, &*explained.steps[0].code), (false, "stale"));
}

/// `GET /health/ready` on the admin listener: the status and what it says of the authority.
async fn ready(address: SocketAddr) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let status = answer.split(' ').nth(1).unwrap().to_owned();
    (status, body["checks"]["authority"].as_str().unwrap().to_owned())
}

/// What the laboratory's clock is not for: it belongs to one thread, and the listener answers on others.
fn ahead() -> u64 {
    smqtt_client::system_now() + AHEAD.load(Ordering::SeqCst)
}

static AHEAD: AtomicU64 = AtomicU64::new(0);

/// Who sends clients to a broker that is ready sends none where they would be refused.
#[tokio::test]
async fn a_broker_that_refuses_new_clients_is_not_ready() {
    let lab = Lab::start().await;
    let view = View::new(lab.enrol_broker("broker").await.keyring, ahead);
    let hook = SecurePublish::new(view, true);
    let broker = TestBroker::with(Config::default(), vec![Box::new(hook.clone())]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let admin = hook.shown_on(Admin::new(broker.handle.clone()), &broker.handle);
    tokio::spawn(Arc::new(admin).serve_tcp(listener));
    assert_eq!(ready(address).await, ("200".into(), "ok".into()));
    AHEAD.store(MAX_STALENESS_SECONDS - DEADLINE.as_secs(), Ordering::SeqCst);
    assert_eq!(ready(address).await, ("200".into(), "ok".into()));
    AHEAD.store(MAX_STALENESS_SECONDS + 1, Ordering::SeqCst);
    let (status, why) = ready(address).await;
    assert_eq!(status, "503");
    assert!(why.starts_with("not heard for 9") && why.ends_with("nobody is let in"), "{why}");
    hook.catch_up(DEADLINE).await;
    assert_eq!(ready(address).await, ("200".into(), "ok".into()));
}
