//! A device asks the authority over one connection for as long as it holds, and over another when it does not.

#[path = "common/lab.rs"]
mod lab;

use lab::{DAY, Device, Lab, Line, now};
use smqtt_client::enrol::enrol;

async fn behind_a_line() -> (Lab, Line) {
    let line = Line::to("").await;
    let public_url = Some(format!("https://{}", line.address));
    let config = smqtt_keysvc::Config { public_url, ..smqtt_keysvc::Config::default() };
    let mut lab = Lab::with(config).await;
    restart(&mut lab, &line).await;
    (lab, line)
}

async fn restart(lab: &mut Lab, line: &Line) {
    lab.stop_authority().await;
    line.turn_to(lab.start_authority(None).await.to_string());
}

async fn enrolled(lab: &Lab) -> Device {
    let token = lab.token("nurse", "device", &["role=nurse"]).await;
    Device::new(enrol(&token, &lab.device_dir("nurse"), now()).await.unwrap())
}

#[tokio::test]
async fn requests_share_a_connection_and_outlive_it() {
    let (mut lab, line) = behind_a_line().await;
    let nurse = enrolled(&lab).await;
    let before = line.accepted();
    for _ in 0..5 {
        nurse.refresh().await.unwrap();
        lab.rotate().await;
    }
    // That of the administrator is another one each time.
    assert_eq!(line.accepted(), before + 1 + 5);
    assert_eq!(nurse.with(|k| k.bundle().epoch.number), 5);
    restart(&mut lab, &line).await;
    nurse.refresh().await.unwrap();
    assert_eq!(nurse.with(|k| k.bundle().epoch.number), 6);
}

/// Over the old connection the authority would go on seeing the old certificate.
#[tokio::test]
async fn a_renewed_certificate_has_a_connection_of_its_own() {
    let (lab, line) = behind_a_line().await;
    let nurse = enrolled(&lab).await;
    nurse.refresh().await.unwrap();
    let before = line.accepted();
    lab.advance(26 * DAY);
    assert!(nurse.refresh().await.unwrap().certificate);
    // One to try it out, and one from then on; the request for it went over the old one.
    assert_eq!(line.accepted(), before + 2);
    lab.advance(5 * DAY);
    nurse.refresh().await.unwrap();
}

#[tokio::test]
async fn who_is_revoked_hears_it_over_a_connection_that_stands() {
    let (lab, line) = behind_a_line().await;
    let nurse = enrolled(&lab).await;
    nurse.refresh().await.unwrap();
    lab.revoke("nurse").await;
    let before = line.accepted();
    assert!(nurse.refresh().await.unwrap_err().is_revoked());
    assert_eq!(line.accepted(), before);
}
