//! Devices that keep themselves going: certificates and keys renewed unasked, next epoch's keys ahead of time, sleepers that
//! come back, and a process that ends in the middle of it.

#[path = "common/lab.rs"]
mod lab;

use std::time::Duration;

use lab::*;
use smqtt_client::enrol::{EnrolError, renewal_due, validity};
use smqtt_client::keyring::Keyring;
use smqtt_client::mqtt::{self, Options, Order, QoS, Status};
use smqtt_client::opener::Outcome;
use smqtt_client::sealer::Wish;

const WARD: &str = "ward/3/temperature";

fn certificate(device: &Device) -> Vec<u8> {
    device.identity().0
}

fn due(device: &Device) -> u64 {
    device.with(|k| renewal_due(k))
}

fn epochs(device: &Device) -> Vec<u64> {
    let mut epochs = device.with(|k| k.keys().iter().map(|key| key.epoch()).collect::<Vec<_>>());
    epochs.sort_unstable();
    epochs.dedup();
    epochs
}

/// As a process that begins anew finds it.
fn reloaded(device: &Device) -> Device {
    Device::new(Keyring::load(&device.with(|k| k.dir().to_owned())).unwrap())
}

fn next_file(device: &Device) -> std::path::PathBuf {
    device.with(|k| k.dir().join("certificate.next.pem"))
}

/// A day passes, and the authority notices.
async fn day(lab: &Lab) {
    // A second may have passed since the last one.
    lab.advance(DAY + 5);
    lab.authority.housekeep().await.unwrap();
}

fn sealed(sensor: &Device, policy: &str, text: &str) -> Vec<u8> {
    let (header, key) = sensor.header(policy, WARD);
    full(&header, &key.seal(WARD, text.as_bytes()).unwrap())
}

#[tokio::test]
async fn certificates_are_renewed_unasked_and_not_all_at_once() {
    let lab = Lab::start().await;
    let mut fleet = Vec::new();
    for n in 0..6 {
        fleet.push(lab.enrol(&format!("sensor-{n}"), &["kind=sensor"]).await);
    }
    let dues: Vec<u64> = fleet.iter().map(due).collect();
    for (device, due) in fleet.iter().zip(&dues) {
        let (from, to) = validity(&certificate(device)).unwrap();
        let (earliest, latest) = (from + (to - from) / 3 * 2, from + (to - from) / 6 * 5);
        assert!((earliest..=latest).contains(due), "{earliest} {due} {latest}");
    }
    assert!(dues.iter().max().unwrap() - dues.iter().min().unwrap() > 3600, "{dues:?}");

    let (device, due) = (&fleet[0], dues[0]);
    let first = certificate(device);
    lab.advance(due - now() - 60);
    assert!(!device.refresh().await.unwrap().certificate);
    lab.advance(61);
    let done = device.refresh().await.unwrap();
    assert!(done.certificate && certificate(device) != first && !next_file(device).exists());
    assert_eq!(certificate(&reloaded(device)), certificate(device));
    assert!(!device.refresh().await.unwrap().certificate);
}

#[tokio::test]
async fn the_next_epochs_keys_come_without_a_bundle_and_before_they_are_needed() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &[]).await;
    let number = nurse.with(|k| k.bundle().number);
    assert_eq!(epochs(&nurse), [1]);
    lab.advance(DAY / 4 * 3 - 60);
    assert!(!nurse.refresh().await.unwrap().keys);
    // At some time in the last quarter of the epoch, which is the device's own, and never in its last sixteenth.
    lab.advance(DAY / 16 * 3 + 120);
    let done = nurse.refresh().await.unwrap();
    assert!(done.keys);
    assert_eq!((epochs(&nurse), nurse.with(|k| k.bundle().number)), (vec![1, 2], number));
    assert!(!nurse.refresh().await.unwrap().keys);

    lab.advance(DAY / 4);
    lab.authority.housekeep().await.unwrap();
    let done = nurse.refresh().await.unwrap();
    assert!(done.bundle && !done.keys);
    sensor.refresh().await.unwrap();
    let payload = sealed(&sensor, "role=nurse", "36.6");
    assert_eq!(nurse.sees(&mut nurse.opener(), WARD, &payload), "opened 36.6");
}

/// Keys for an epoch that were fetched ahead do not hold on to versions that were raised before it began.
#[tokio::test]
async fn early_keys_are_no_way_around_a_revocation() {
    let lab = Lab::start().await;
    let lost = lab.enrol("lost", &["role=nurse"]).await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &[]).await;
    lab.advance(DAY - 60);
    assert!(lost.refresh().await.unwrap().keys && nurse.refresh().await.unwrap().keys);
    assert_eq!(epochs(&lost), [1, 2]);
    lab.revoke("lost").await;
    lab.advance(60);
    lab.authority.housekeep().await.unwrap();
    for device in [&nurse, &sensor] {
        device.refresh().await.unwrap();
    }
    let bundle = nurse.with(|k| k.bundle_bytes().to_vec());
    assert!(lost.with(|k| k.take_bundle(&bundle)).unwrap());
    let payload = sealed(&sensor, "role=nurse", "36.6");
    assert_eq!(nurse.sees(&mut nurse.opener(), WARD, &payload), "opened 36.6");
    assert_eq!(lost.sees(&mut lost.opener(), WARD, &payload), "not-for-me version");
}

/// It sleeps through 45 epochs and past the end of its certificate.
#[tokio::test]
async fn a_sleeper_comes_back_by_itself_and_reads_the_last_epochs() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &[]).await;
    let mut payloads = vec![sealed(&sensor, "role=nurse", "epoch 1")];
    for epoch in 2..=46 {
        day(&lab).await;
        sensor.refresh().await.unwrap();
        assert_eq!(sensor.with(|k| k.bundle().epoch.number), epoch);
        payloads.push(sealed(&sensor, "role=nurse", &format!("epoch {epoch}")));
    }
    assert!(now() > validity(&certificate(&nurse)).unwrap().1 + 10 * DAY);

    let nurse = reloaded(&nurse);
    let done = nurse.refresh().await.unwrap();
    assert!(done.certificate && done.bundle, "{done:?}");
    let mut opener = nurse.opener();
    for epoch in 39..=46 {
        let seen = nurse.sees(&mut opener, WARD, &payloads[epoch - 1]);
        assert_eq!(seen, format!("opened epoch {epoch}"));
    }
    let Outcome::NotForMe(why) = nurse.open(&mut opener, WARD, &payloads[37]) else { panic!("it opened") };
    assert_eq!(why.to_string(), "sealed in epoch 38, my keys begin at 39");
    assert!(!nurse.refresh().await.unwrap().keys);
}

/// A version was raised at the end of an epoch through which the device had slept, with the next one's keys in its pocket.
#[tokio::test]
async fn a_sleeper_also_reads_what_was_sealed_after_a_revocation_that_it_missed() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    lab.enrol("lost", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &[]).await;
    lab.advance(DAY - 60);
    assert!(nurse.refresh().await.unwrap().keys);
    lab.revoke("lost").await;
    sensor.refresh().await.unwrap();
    let payload = sealed(&sensor, "role=nurse", "36.6");
    lab.advance(60);
    lab.authority.housekeep().await.unwrap();
    nurse.refresh().await.unwrap();
    assert_eq!(nurse.with(|k| k.bundle().epoch.number), 2);
    assert_eq!(nurse.sees(&mut nurse.opener(), WARD, &payload), "opened 36.6");
}

#[tokio::test]
async fn who_sleeps_longer_than_the_window_is_told_to_enrol_again() {
    let lab = Lab::start().await;
    let (late, later) = (lab.enrol("late", &[]).await, lab.enrol("later", &[]).await);
    lab.advance(60 * DAY - 3600);
    assert!(late.refresh().await.unwrap().certificate);
    lab.advance(DAY);
    let error = later.refresh().await.unwrap_err();
    assert!(matches!(error, EnrolError::RanOut(_)), "{error:?}");
    assert!(error.hint().unwrap().contains("new token"));
}

/// Whatever ended the process, and at whichever step: the keyring loads, and goes on.
#[tokio::test]
async fn a_renewal_that_was_cut_off_anywhere_leaves_a_keyring_that_goes_on() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let dir = nurse.with(|k| k.dir().to_owned());
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let first: Vec<Vec<u8>> = ["certificate.pem", "keys.json", "revision"].map(read).into();
    lab.advance(26 * DAY);
    assert!(nurse.refresh().await.unwrap().certificate);
    let second: Vec<Vec<u8>> = ["certificate.pem", "keys.json", "revision"].map(read).into();

    // How far it came: the new certificate beside, in the place of the old one and beside, alone; then the keys; then
    // the revision. And a file that was cut off while it was written.
    type State<'a> = [Option<&'a [u8]>; 4];
    let half = &second[0][..second[0].len() / 2];
    let states: [(&str, State<'_>); 7] = [
        ("nothing", [Some(&first[0]), None, Some(&first[1]), Some(&first[2])]),
        ("half of the new one", [Some(&first[0]), Some(half), Some(&first[1]), Some(&first[2])]),
        ("beside", [Some(&first[0]), Some(&second[0]), Some(&first[1]), Some(&first[2])]),
        ("both", [Some(&second[0]), Some(&second[0]), Some(&first[1]), Some(&first[2])]),
        ("swapped", [Some(&second[0]), None, Some(&first[1]), Some(&first[2])]),
        ("keys", [Some(&second[0]), None, Some(&second[1]), Some(&first[2])]),
        ("no revision", [Some(&second[0]), None, Some(&second[1]), None]),
    ];
    for (step, state) in states {
        for (name, bytes) in
            ["certificate.pem", "certificate.next.pem", "keys.json", "revision"].iter().zip(state)
        {
            let path = dir.join(name);
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => drop(std::fs::remove_file(path)),
            }
        }
        // What `write_private` leaves when it ends half way.
        std::fs::write(dir.join(".keys.json.1"), b"[\"").unwrap();
        let again = reloaded(&nurse);
        again.refresh().await.unwrap_or_else(|error| panic!("{step}: {error}"));
        let (_, to) = validity(&certificate(&again)).unwrap();
        assert!(to > now() + 10 * DAY, "{step}");
        assert!(!next_file(&again).exists(), "{step}");
        assert_eq!(reloaded(&again).refresh().await.unwrap(), again.refresh().await.unwrap(), "{step}");
    }
}

/// The authority is gone between the renewal and the trial: the new certificate waits, the old one is used on.
#[tokio::test]
async fn a_certificate_on_trial_waits_for_the_authority() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let first = certificate(&nurse);
    lab.advance(26 * DAY);
    assert!(nurse.refresh().await.unwrap().certificate);
    let second = std::fs::read(nurse.with(|k| k.dir().join("certificate.pem"))).unwrap();

    let line = Line::to(lab.authority.url().trim_start_matches("https://")).await;
    let dir = nurse.with(|k| k.dir().to_owned());
    let identity = std::fs::read_to_string(dir.join("identity.json")).unwrap();
    let through = identity.replace(lab.authority.url(), &format!("https://{}", line.address));
    std::fs::write(dir.join("identity.json"), through).unwrap();
    std::fs::write(dir.join("certificate.pem"), &*smqtt_client::keyring::pem("CERTIFICATE", &first)).unwrap();
    std::fs::write(dir.join("certificate.next.pem"), second).unwrap();
    line.cut();
    let waiting = reloaded(&nurse);
    assert!(waiting.refresh().await.unwrap_err().is_temporary());
    assert_eq!(certificate(&waiting), first);
    assert!(next_file(&waiting).exists());
    line.restore();
    assert!(waiting.refresh().await.unwrap().certificate);
    assert!(certificate(&waiting) != first && !next_file(&waiting).exists());
}

/// A certificate that the authority does not take, whoever put it there, does not replace one that works.
#[tokio::test]
async fn a_new_certificate_that_is_refused_leaves_the_old_one() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let first = certificate(&nurse);
    lab.advance(26 * DAY);
    assert!(nurse.refresh().await.unwrap().certificate);
    let good = certificate(&nurse);
    // Run out for longer than the window, so that TLS refuses it without a word.
    lab.advance(26 * DAY);
    assert!(nurse.refresh().await.unwrap().certificate);
    lab.advance(26 * DAY);
    nurse.refresh().await.unwrap();
    let present = certificate(&nurse);
    assert!(present != good);
    std::fs::write(next_file(&nurse), &*smqtt_client::keyring::pem("CERTIFICATE", &first)).unwrap();
    let again = reloaded(&nurse);
    let error = again.refresh().await.unwrap_err();
    assert!(matches!(error, EnrolError::NewCertificate(_)), "{error:?}");
    assert_eq!(certificate(&again), present);
    assert!(!next_file(&again).exists());
    again.refresh().await.unwrap();
    assert_eq!(certificate(&reloaded(&again)), present);
}

/// A broker cuts it when the old certificate runs out; the client comes back with the new one.
#[tokio::test]
async fn a_connection_goes_on_under_the_renewed_certificate() {
    let lab = Lab::start().await;
    let broker = lab.broker().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &[]).await;
    let options = Options { broker: Some(broker.url()), now, ..Options::default() };
    let (client, mut inbox) = mqtt::connect(nurse.keyring.clone(), &options).unwrap();
    client.connected(3).await.unwrap();
    client.subscribe(WARD, QoS::AtLeastOnce).await.unwrap();
    let first = validity(&certificate(&nurse)).unwrap().1;
    lab.advance(26 * DAY);
    lab.authority.housekeep().await.unwrap();
    assert!(nurse.refresh().await.unwrap().certificate);
    sensor.refresh().await.unwrap();
    broker.view.refresh_directory().await.unwrap();

    let mut status = client.status();
    lab.advance(first + 1 - now());
    lab.authority.housekeep().await.unwrap();
    sensor.refresh().await.unwrap();
    nurse.refresh().await.unwrap();
    status.wait_for(|status| matches!(status, Status::Lost { .. })).await.unwrap();
    status.wait_for(|status| matches!(status, Status::Connected { .. })).await.unwrap();
    let (publisher, _) = mqtt::connect(sensor.keyring.clone(), &options).unwrap();
    let policy = smqtt_core::target::Target::Policy("role=nurse".parse().unwrap());
    let order = Order {
        topic: WARD,
        payload: b"36.6",
        wish: Wish::Under(&policy),
        qos: QoS::AtLeastOnce,
        retain: true,
    };
    publisher.publish(&order).await.unwrap();
    let delivery = tokio::time::timeout(Duration::from_secs(30), inbox.next()).await.unwrap().unwrap();
    assert_eq!(word(&delivery.outcome), "opened 36.6");
}

/// An administrator changes what a device is: its keys follow, and nobody touches the device.
#[tokio::test]
async fn keys_follow_changed_attributes_and_policies_without_anybody() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &[]).await;
    let opener = || nurse.opener();
    let before = sealed(&sensor, "ward=3", "sealed before");
    assert_eq!(nurse.sees(&mut opener(), WARD, &before), "not-for-me attributes");

    // It waits for news, as every device does.
    let keyring = nurse.keyring.clone();
    let waiting = smqtt_client::enrol::refresh(&keyring, now(), DEADLINE);
    let change = serde_json::json!({ "add": ["ward=3"], "policy": "kind=reading" });
    let admin = lab.admin();
    let changing = admin.patch::<serde_json::Value>("/v1/devices/nurse", &change);
    let (waited, changed) = tokio::join!(waiting, changing);
    changed.unwrap();
    assert!(waited.unwrap().keys);
    assert_eq!(nurse.sees(&mut opener(), WARD, &before), "opened sealed before");
    sensor.refresh().await.unwrap();
    let (header, key) = sensor.labelled("kind=reading", WARD);
    let labelled = full(&header, &key.seal(WARD, b"labelled").unwrap());
    let again = reloaded(&nurse);
    assert_eq!(again.sees(&mut again.opener(), WARD, &labelled), "opened labelled");
    assert!(!again.refresh().await.unwrap().keys);

    let change = serde_json::json!({ "remove": ["ward=3"], "policy": null });
    admin.patch::<serde_json::Value>("/v1/devices/nurse", &change).await.unwrap();
    for device in [&again, &sensor] {
        device.refresh().await.unwrap();
    }
    let after = sealed(&sensor, "ward=3", "sealed after");
    assert_eq!(again.sees(&mut again.opener(), WARD, &after), "not-for-me version");
    assert!(again.with(|k| k.policy().is_none()));
}
