//! Attacks by those who come in with a password, without a certificate: they are nobody's device, whatever they call
//! themselves.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use broker_support::{Client, connect as connect_packet, persistent, will};
use bytes::Bytes;
use lab::{Device, Lab, LabBroker, full};
use smqtt::broker::{Config, Stored, Whom};
use smqtt::mqtt::{Connack, Connect, QoS, ReasonCode, Version};
use smqtt::passwords::{Accounts, Passwords, password_line};
use tokio::net::TcpStream;
use ward::{BOTH, POLICY, Said, WARD, answer, publish, subscribe, why};

const PASSWORD: &str = "open sesame";

/// A site whose clients without a certificate need a password, which is the same for all.
struct Site {
    lab: Lab,
    broker: LabBroker,
    nurse: Device,
    sensor: Device,
}

impl Site {
    async fn start() -> Self {
        let lab = Lab::start().await;
        lab.rule("ward/+/temperature", "required", Some("role=nurse and ward=$1"), Some("role=sensor"), None)
            .await;
        lab.rule("staff/#", "open", None, Some("role=nurse"), Some("role=nurse")).await;
        let nurse = lab.enrol("nurse", &["role=nurse", "ward=3"]).await;
        let sensor = lab.enrol("sensor", &["role=sensor"]).await;
        let names = ["guest".to_owned(), "other".into(), "nurse".into(), nurse.id().to_string()];
        let lines: Vec<_> =
            names.iter().map(|name| password_line(name, PASSWORD.as_bytes()).unwrap()).collect();
        let passwords = Passwords::new(Accounts::parse(&lines.join("\n")).unwrap());
        let broker = lab.broker_with(Config::default(), vec![Box::new(passwords)]).await;
        Self { lab, broker, nurse, sensor }
    }

    async fn knock(&self, connect: Connect) -> (Option<Connack>, Option<Client>) {
        answer(Client::over(TcpStream::connect(self.broker.plain).await.unwrap()), connect).await
    }

    async fn enter(&self, connect: Connect) -> Client {
        let (connack, client) = self.knock(connect).await;
        assert_eq!(why(&connack).0, ReasonCode::Success, "{connack:?}");
        client.unwrap()
    }

    async fn as_device(&self, device: &Device, connect: Connect) -> (Option<Connack>, Option<Client>) {
        let stream = self.broker.dial(&self.lab.roots(), Some(&device.identity())).await.unwrap();
        answer(Client::over(stream), connect).await
    }
}

fn named(name: &str, mut connect: Connect) -> Connect {
    connect.user_name = Some(name.into());
    connect.password = Some(Bytes::from_static(PASSWORD.as_bytes()));
    connect
}

#[tokio::test]
async fn a_name_like_a_devices_is_not_that_device() {
    let site = Site::start().await;
    let id = site.nurse.id().to_string();
    for version in BOTH {
        // Not even with its own client id, in any of its forms.
        for name in ["guest", "nurse", &id] {
            for client_id in ["nurse", "nurse/1", &id, &format!("{id}/1")] {
                let (connack, _) = site.knock(named(name, connect_packet(version, client_id))).await;
                assert_eq!(why(&connack).0, ReasonCode::ClientIdentifierNotValid, "{name} as {client_id}");
            }
            // Nor has it its attributes.
            let mut user = site.enter(named(name, connect_packet(version, "somebody"))).await;
            let reason = subscribe(&mut user, "staff/rota").await;
            assert!(reason.is_error(), "{reason:?}");
            let said = publish(&mut user, "staff/rota", b"you are off", QoS::AtLeastOnce).await;
            assert!(!matches!(said, Said::Taken), "{said:?}");
        }
        let nobody = site.knock(connect_packet(version, "nobody")).await;
        assert_eq!(why(&nobody.0).0, ReasonCode::NotAuthorized, "without a password nobody comes in");
    }
    // A device needs none, and one that it sends makes it nobody else.
    let mut boastful = connect_packet(Version::V5, "nurse/1");
    boastful.user_name = Some("guest".into());
    boastful.password = Some(Bytes::from_static(b"wrong"));
    let (connack, nurse) = site.as_device(&site.nurse, boastful).await;
    assert_eq!(why(&connack).0, ReasonCode::Success);
    assert!(!subscribe(&mut nurse.unwrap(), "staff/rota").await.is_error());
}

#[tokio::test]
async fn sessions_of_devices_and_users_are_not_each_others() {
    let site = Site::start().await;
    let id = site.nurse.id().to_string();
    let mut user = site.enter(named(&id, persistent(Version::V5, "dashboard"))).await;
    let (connack, _) = site.as_device(&site.nurse, persistent(Version::V5, "dashboard")).await;
    assert_eq!(why(&connack).0, ReasonCode::ClientIdentifierNotValid);
    let (connack, nurse) = site.as_device(&site.nurse, persistent(Version::V5, "tablet")).await;
    assert_eq!(why(&connack).0, ReasonCode::Success);
    let (connack, _) = site.knock(named(&id, persistent(Version::V5, "tablet"))).await;
    assert_eq!(why(&connack).0, ReasonCode::ClientIdentifierNotValid);
    // What is done about the device is not done about the user that is called like it.
    let cut = site.broker.handle.disconnect(
        Whom::Identity(&id),
        ReasonCode::NotAuthorized,
        "revoked",
        Stored::Discard,
    );
    assert_eq!(cut, 1);
    assert_eq!(nurse.unwrap().closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(user.until_ping().await, []);
}

#[tokio::test]
async fn what_a_device_sealed_is_not_a_users_to_publish() {
    let site = Site::start().await;
    let (header, key) = site.sensor.header(POLICY, "ward/+/temperature");
    let compact = key.seal(WARD, b"38.5").unwrap();
    let whole = full(&header, &compact);
    let (_, sensor) = site.as_device(&site.sensor, connect_packet(Version::V5, "")).await;
    assert_eq!(publish(&mut sensor.unwrap(), WARD, &whole, QoS::AtLeastOnce).await, Said::Taken);
    for payload in [&whole, &compact] {
        for topic in [WARD, "notes/1"] {
            let mut user = site.enter(named("guest", connect_packet(Version::V5, "guest"))).await;
            let said = publish(&mut user, topic, payload, QoS::AtLeastOnce).await;
            assert!(matches!(said, Said::Refused(ReasonCode::NotAuthorized, _)), "{topic}: {said:?}");
        }
    }
    // Nor is it as a will.
    let mut last = connect_packet(Version::V5, "guest");
    last.will = Some(smqtt::mqtt::Will { payload: whole.into(), ..will(WARD, "") });
    let (connack, _) = site.knock(named("guest", last)).await;
    assert_eq!(why(&connack).0, ReasonCode::NotAuthorized);
}
