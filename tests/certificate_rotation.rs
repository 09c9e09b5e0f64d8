//! Another root that issues certificates, as devices live through it: awake, asleep, and killed in the middle.

#[path = "common/lab.rs"]
mod lab;

use std::slice::from_ref;

use lab::*;
use smqtt_client::enrol::{EnrolError, enrol};
use smqtt_client::keyring::Keyring;
use smqtt_core::api::{CertificateRotated, CertificateRotation, Rotation};
use smqtt_core::identity::verify_certificate;
use smqtt_keysvc::Config;

const WARD: &str = "ward/3/temperature";

async fn step(lab: &Lab, step: &str, force: bool) -> CertificateRotated {
    let request = CertificateRotation { step: step.into(), force };
    lab.admin().post("/v1/rotate/certificate", &request).await.unwrap()
}

async fn begin_epoch(lab: &Lab) {
    lab.admin().post::<Rotation>("/v1/epoch/rotate", &serde_json::json!({})).await.unwrap();
}

/// As a process that begins anew finds it.
fn reloaded(device: &Device) -> Device {
    Device::new(Keyring::load(&device.with(|k| k.dir().to_owned())).unwrap())
}

fn sealed(device: &Device, text: &str) -> Vec<u8> {
    let (header, key) = device.header("role=nurse", WARD);
    full(&header, &key.seal(WARD, text.as_bytes()).unwrap())
}

fn is_from(device: &Device, root: &[u8]) -> bool {
    verify_certificate(&device.identity().0, &[root.to_vec()], now()).is_ok()
}

fn roots(device: &Device) -> Vec<Vec<u8>> {
    device.with(|k| k.roots().to_vec())
}

fn root_file(device: &Device) -> std::path::PathBuf {
    device.with(|k| k.dir().join("root.pem"))
}

/// Days pass. Whoever is awake keeps itself going, and reads the other, every few of them.
async fn days(lab: &Lab, days: u64, awake: [&Device; 2]) {
    for _ in 0..days / 5 {
        lab.advance(5 * DAY);
        lab.authority.housekeep().await.unwrap();
        for device in awake {
            device.refresh().await.unwrap();
        }
        let [one, other] = awake;
        for (by, to) in [(one, other), (other, one)] {
            let payload = sealed(by, "38.5");
            assert_eq!(to.sees(&mut to.opener(), WARD, &payload), "opened 38.5");
        }
    }
}

#[tokio::test]
async fn a_root_is_exchanged_and_whoever_wakes_in_time_finds_the_way() {
    let lab = Lab::with(Config { epoch_seconds: 10 * DAY, history_epochs: 2, ..Config::default() }).await;
    let sensor = lab.enrol("sensor", &["role=nurse"]).await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let dozer = lab.enrol("dozer", &["role=nurse"]).await;
    let sleeper = lab.enrol("sleeper", &["role=nurse"]).await;
    let dead = lab.enrol("dead", &["role=nurse"]).await;
    let token = lab.token("outstanding", "device", &["role=nurse"]).await;
    let old = lab.authority.root();
    let old_file = std::fs::read(root_file(&nurse)).unwrap();

    step(&lab, "prepare", false).await;
    begin_epoch(&lab).await;
    for device in [&sensor, &nurse] {
        device.refresh().await.unwrap();
        assert_eq!(roots(device), lab.roots());
    }
    let activated = step(&lab, "activate", false).await;
    let new = lab.authority.root();
    let newcomer = lab.enrol("newcomer", &["role=nurse"]).await;
    assert!(is_from(&newcomer, &new) && is_from(&sensor, &old) && roots(&newcomer).len() == 2);
    // One that knows both reads both, and so does one that has just come.
    let (of_new, of_old) = (sealed(&newcomer, "new"), sealed(&sensor, "old"));
    assert_eq!(nurse.sees(&mut nurse.opener(), WARD, &of_new), "opened new");
    assert_eq!(newcomer.sees(&mut newcomer.opener(), WARD, &of_old), "opened old");
    // One that has not heard of it holds back what it cannot verify, until it has.
    let mut opener = dozer.opener();
    assert_eq!((roots(&dozer).len(), dozer.sees(&mut opener, WARD, &of_new)), (1, "newer".into()));
    dozer.refresh().await.unwrap();
    assert_eq!(dozer.sees(&mut opener, WARD, &of_new), "opened new");
    // Killed after the bundle was written and before the roots were: the next process writes them.
    std::fs::write(root_file(&dozer), &old_file).unwrap();
    assert_eq!(roots(&reloaded(&dozer)), lab.roots());
    assert_ne!(std::fs::read(root_file(&dozer)).unwrap(), old_file);
    // A token from before names the old root alone.
    let late = Device::new(enrol(&token, &lab.device_dir("late"), now()).await.unwrap());
    assert!(is_from(&late, &new) && roots(&late) == lab.roots());

    // Awake, they move over within the epoch, long before their certificates run out.
    days(&lab, 10, [&sensor, &nurse]).await;
    assert!(is_from(&sensor, &new) && is_from(&nurse, &new));
    // A sleeper's certificate has run out, and the window is nearly over: it comes back by itself.
    days(&lab, 45, [&sensor, &nurse]).await;
    let done = sleeper.refresh().await.unwrap();
    assert!(done.certificate && done.bundle && done.keys);
    let sleeper = reloaded(&sleeper);
    assert!(is_from(&sleeper, &new) && roots(&sleeper) == lab.roots());
    let fresh = sealed(&sleeper, "awake");
    assert_eq!(nurse.sees(&mut nurse.opener(), WARD, &fresh), "opened awake");

    // The time comes that was said, and nobody notices.
    let until = activated.retire_from.unwrap();
    while now() < until {
        days(&lab, 5, [&sensor, &nurse]).await;
    }
    let before = roots(&nurse);
    let retired = step(&lab, "retire", false).await;
    days(&lab, 5, [&sensor, &nurse]).await;
    assert_eq!((before.len(), roots(&nurse), retired.roots.len()), (2, vec![new.clone()], 1));
    assert_eq!(nurse.with(|k| k.past_roots().to_vec()), from_ref(&old));
    assert_eq!(roots(&reloaded(&nurse)), from_ref(&new));
    // What the old root vouches for is nobody's any more, though its keys are those of a device.
    let epoch = nurse.with(|k| k.bundle().epoch.number);
    let (header, key) = dead.header_with("role=nurse", WARD, |draft| draft.epoch = epoch);
    let payload = full(&header, &key.seal(WARD, b"38.5").unwrap());
    assert_eq!(nurse.sees(&mut nurse.opener(), WARD, &payload), "broken publisher-not-verified");
    // Whoever slept for longer than certificates can be renewed enrols anew, as ever, and finds the way there.
    let error = dead.refresh().await.unwrap_err();
    assert!(matches!(error, EnrolError::RanOut(_)), "{error}");
}

/// Messages that came over an opener's connection before are not believed for the sake of a root that went.
#[tokio::test]
async fn a_reader_forgets_the_publishers_of_a_retired_root() {
    let lab = Lab::start().await;
    let sensor = lab.enrol("sensor", &["role=nurse"]).await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let (header, key) = sensor.header("role=nurse", WARD);
    let mut opener = nurse.opener();
    let first = full(&header, &key.seal(WARD, b"1").unwrap());
    assert_eq!(nurse.sees(&mut opener, WARD, &first), "opened 1");
    for what in ["prepare", "activate"] {
        step(&lab, what, true).await;
    }
    nurse.refresh().await.unwrap();
    let compact = || key.seal(WARD, b"2").unwrap();
    assert_eq!(nurse.sees(&mut opener, WARD, &compact()), "opened 2", "both are in trust");
    // The nurse moved over by the end of the epoch, the sensor did not.
    lab.advance(DAY);
    lab.authority.housekeep().await.unwrap();
    nurse.refresh().await.unwrap();
    step(&lab, "retire", true).await;
    nurse.refresh().await.unwrap();
    assert_eq!(nurse.sees(&mut opener, WARD, &compact()), "broken no-header");
    assert_eq!(nurse.sees(&mut opener, WARD, &first), "broken publisher-not-verified");
    // Told so, and not that the connection broke, which it would try again.
    let error = sensor.refresh().await.unwrap_err();
    assert!(!error.is_temporary(), "{error}");
}
