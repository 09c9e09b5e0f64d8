//! What a revocation takes: until the session is cut and until the first envelope that is closed, under load; and what it
//! costs in fleets of different sizes. Prints figures, asserts none: docs/GUARANTEES.md has those of one machine.
//!
//! Short by itself. `SMQTT_REVOCATIONS=500 SMQTT_FLEETS=100,1000,10000 cargo test -p smqtt --test measure_revocation --
//! --nocapture --test-threads 1` measures.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use broker_support::{Client, connect as connect_packet};
use lab::*;
use smqtt::broker::Config;
use smqtt::mqtt::{Packet, QoS, ReasonCode, Version};
use smqtt_client::enrol::keep_fresh;
use smqtt_client::mqtt::{self, Options, Order};
use smqtt_client::sealer::{Sealer, Wish};
use smqtt_core::api::{EnrolRequest, RevocationReport, TokenRequest};
use smqtt_core::crypto::SigningKey;
use smqtt_core::target::Target;
use smqtt_core::token::Token;
use smqtt_keysvc::Caller;
use tokio::sync::mpsc;

const TOPIC: &str = "load/1";
/// About how much is delivered meanwhile.
const DELIVERIES_PER_SECOND: u32 = 5000;
/// Devices of one group: the holders of one attribute.
const GROUP: usize = 10;

fn asked(variable: &str, default: &[usize]) -> Vec<usize> {
    let numbers = |text: String| text.split(',').map(|number| number.trim().parse().unwrap()).collect();
    std::env::var(variable).map_or_else(|_| default.to_vec(), numbers)
}

fn milliseconds(times: &mut [Duration], part: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * part).div_ceil(100).clamp(1, times.len()) - 1;
    times[at].as_secs_f64() * 1000.0
}

/// Processor time of this process: authority, broker and devices together, in milliseconds.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10
}

/// A connected device, which notes when it is cut.
async fn join(
    lab: &Lab,
    broker: &LabBroker,
    device: &Device,
    name: &str,
    cut: mpsc::UnboundedSender<(String, Instant)>,
) {
    let stream = broker.dial(&lab.roots(), Some(&device.identity())).await.unwrap();
    let mut client = Client::over(stream);
    client.send(Packet::Connect(Box::new(connect_packet(Version::V5, "")))).await;
    assert_eq!(client.connack().await.reason, ReasonCode::Success);
    client.subscribe("load/#", QoS::AtMostOnce).await;
    let name = name.to_owned();
    tokio::spawn(async move {
        while let Some(packet) = client.next().await {
            if matches!(packet, Packet::Disconnect(_)) {
                break;
            }
        }
        let _ = cut.send((name, Instant::now()));
    });
}

/// Random devices, one after the other, while two publishers seal and publish as fast as the broker takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_under_load() {
    let count = asked("SMQTT_REVOCATIONS", &[12])[0];
    let lab = Lab::start().await;
    let broker = lab.broker_with(Config::default(), Vec::new()).await;
    let (cut, mut cuts) = mpsc::unbounded_channel();
    // The load: some thousand deliveries a second, however many there are to get them.
    let pause = Duration::from_millis(20).max(Duration::from_secs(count as u64) / DELIVERIES_PER_SECOND * 2);
    let mut busy = Vec::new();
    for n in 0..2 {
        let sensor = lab.enrol(&format!("busy-{n}"), &[]).await;
        let options = Options { broker: Some(broker.url()), now, ..Options::default() };
        let (client, _inbox) = mqtt::connect(sensor.keyring.clone(), &options).unwrap();
        let policy = Target::Policy("role=reader".parse().unwrap());
        busy.push(tokio::spawn(async move {
            let mut sent = 0u64;
            let fresh = keep_fresh(&sensor.keyring, now);
            let publish = async {
                loop {
                    let (topic, payload) = (TOPIC, &[7; 64][..]);
                    let order = Order {
                        topic,
                        payload,
                        wish: Wish::Under(&policy),
                        qos: mqtt::QoS::AtLeastOnce,
                        retain: false,
                    };
                    sent += u64::from(client.publish(&order).await.is_ok());
                    tokio::time::sleep(pause).await;
                }
            };
            tokio::select! { _ = fresh => {}, () = publish => {} }
        }));
    }
    let mut devices = HashMap::new();
    for n in 0..count {
        let (name, unit) = (format!("device-{n}"), format!("unit=u{}", n / GROUP));
        let device = lab.enrol(&name, &["role=reader", &unit]).await;
        join(&lab, &broker, &device, &name, cut.clone()).await;
        devices.insert(name, (device, unit));
    }
    // One that seals for each device in turn, and only follows the authority.
    let sensor = lab.enrol("sensor", &[]).await;
    let keyring = sensor.keyring.clone();
    let following = tokio::spawn(async move { keep_fresh(&keyring, now).await });
    let mut sealer = Sealer::new(false);

    let admin = lab.admin();
    let (mut until_cut, mut until_closed, mut until_told) = (Vec::new(), Vec::new(), Vec::new());
    // A different order each time, and no device twice: a map gives it.
    for (name, (device, unit)) in &devices {
        let target = Target::Policy(unit.parse().unwrap());
        let begun = Instant::now();
        let path = format!("/v1/devices/{name}/revoke");
        admin.post::<serde_json::Value>(&path, &serde_json::json!({})).await.unwrap();
        // Closed: no key that it has opens what the publisher seals.
        loop {
            let sealed =
                sensor.with(|k| sealer.seal(k, TOPIC, b"36.6", Wish::Under(&target), now())).unwrap();
            let mqtt_sealed = match sealed {
                smqtt_client::sealer::Outgoing::Sealed(sealed) => sealed,
                other => panic!("{other:?}"),
            };
            let scope = mqtt_sealed.header().scope();
            if device.with(|k| k.keys().iter().all(|key| !key.satisfies(&scope))) {
                let closed = begun.elapsed();
                let opens = device.with(|k| {
                    k.keys().iter().any(|key| {
                        mqtt_sealed.header().open(k.params_of(mqtt_sealed.header()).unwrap(), key).is_ok()
                    })
                });
                assert!(!opens, "{name} opens what was sealed after its revocation");
                until_closed.push(closed);
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (was_cut, at) = tokio::time::timeout(DEADLINE, cuts.recv()).await.unwrap().unwrap();
        assert_eq!(&was_cut, name);
        until_cut.push(at - begun);
        let path = format!("/v1/devices/{name}/revocation?wait=30");
        let report: RevocationReport = admin.get(&path).await.unwrap();
        assert!(report.complete);
        assert_eq!(report.brokers[0].done.as_ref().unwrap().connections, 1);
        until_told.push(begun.elapsed());
    }
    following.abort();
    busy.iter().for_each(|task| task.abort());
    println!("{count} revocations under load, in ms from the request:");
    for (what, times) in [
        ("session cut", &mut until_cut),
        ("first envelope closed", &mut until_closed),
        ("broker's word in the report", &mut until_told),
    ] {
        let (p50, p99, max) = (milliseconds(times, 50), milliseconds(times, 99), milliseconds(times, 100));
        println!("{what}: p50 {p50:.1}, p99 {p99:.1}, max {max:.1}");
    }
}

/// Ten groups of ten holders in fleets of different sizes; one of each group is revoked. Counts who renews.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cost_follows_the_holders_and_not_the_fleet() {
    let mut renewals = Vec::new();
    for fleet in asked("SMQTT_FLEETS", &[100, 200]) {
        let lab = Lab::start().await;
        let groups = 10;
        let mut holders: Vec<Vec<Device>> = Vec::new();
        for group in 0..groups {
            let mut members = Vec::new();
            for n in 0..GROUP {
                let unit = format!("unit=u{group}");
                members.push(lab.enrol(&format!("holder-{group}-{n}"), &[&unit]).await);
            }
            holders.push(members);
        }
        enrol_others(&lab, fleet.saturating_sub(groups * GROUP)).await;
        let other = lab.enrol("other", &["role=other"]).await;
        let (mut requests, mut keys, mut others) = (Duration::ZERO, 0usize, 0usize);
        let mut cpu = 0;
        for (group, members) in holders.iter().enumerate() {
            let before = cpu_ms();
            let begun = Instant::now();
            lab.revoke(&format!("holder-{group}-0")).await;
            requests += begun.elapsed();
            for device in &members[1..] {
                keys += usize::from(device.refresh().await.unwrap().keys);
            }
            cpu += cpu_ms() - before;
            others += usize::from(other.refresh().await.unwrap().keys);
        }
        println!(
            "fleet of {fleet}: {keys} keys renewed by {} holders, {others} by others; a revocation {:.1} ms, with its renewals {:.1} ms of processor time, devices included",
            groups * (GROUP - 1),
            requests.as_secs_f64() * 1000.0 / groups as f64,
            cpu as f64 / groups as f64
        );
        renewals.push((keys, others));
    }
    assert!(renewals.iter().all(|count| *count == (90, 0)), "{renewals:?}");
}

/// Devices that the authority knows, and that do nothing.
async fn enrol_others(lab: &Lab, count: usize) {
    let address: IpAddr = [127, 0, 0, 1].into();
    let admin = Caller::new(address, Some(lab.admin_identity().0));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        let (authority, admin) = (lab.authority.clone(), admin.clone());
        tasks.spawn(async move { enrol_other(&authority, &admin, address, n).await });
        if tasks.len() >= 64 {
            tasks.join_next().await.unwrap().unwrap();
        }
    }
    tasks.join_all().await;
}

async fn enrol_other(authority: &Arc<smqtt_keysvc::Authority>, admin: &Caller, address: IpAddr, n: usize) {
    let attributes = vec![format!("place=p{}", n % 500)];
    let request = TokenRequest { name: format!("other-{n}"), attributes, ..TokenRequest::default() };
    let token = authority.issue_token(admin, request).await.unwrap();
    let token = Token::parse(&token.token).unwrap();
    let signing = SigningKey::generate();
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(signing.expose_pkcs8());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&pair).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let request = EnrolRequest {
        token_id: hex(&token.id),
        secret: hex(&token.secret),
        csr: STANDARD.encode(csr.der()),
        hpke_key: STANDARD.encode(SigningKey::generate().public_key()),
        serial: None,
    };
    authority.enrol(&Caller::new(address, None), request).await.unwrap();
}
