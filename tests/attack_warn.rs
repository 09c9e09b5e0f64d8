//! A rule that warns lets pass what `required` would refuse, and says so: counted and logged, so that a fleet moves over
//! topic by topic. What is refused everywhere is refused here.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use lab::{full, now};
use smqtt::mqtt::{QoS, ReasonCode, Version};
use smqtt::secure::Denied;
use ward::*;

const TOPIC: &str = "move/3";
const SENSORS: Option<&str> = Some("role=sensor");
const TEMPLATE: Option<&str> = Some("role=nurse and ward=$1");

/// Every way in which a message can be wrong, and the word for it; `true`: in every mode.
fn wrongs(site: &Site) -> Vec<(&'static str, bool, Vec<u8>)> {
    let seal = |policy: &str, filter: &str, edit: &dyn Fn(&mut smqtt_core::header::Draft<'_>)| {
        let (header, key) = site.sensor.header_with(policy, filter, |draft| edit(draft));
        full(&header, &key.seal(TOPIC, b"36.6").unwrap())
    };
    let nothing = |_: &mut smqtt_core::header::Draft<'_>| ();
    let (header, key) = site.nurse.header(POLICY, TOPIC);
    let foreign = full(&header, &key.seal(TOPIC, b"36.6").unwrap());
    let (header, key) = site.sensor.header(POLICY, TOPIC);
    let unknown = key.seal(TOPIC, b"36.6").unwrap();
    let mut forged = header.as_bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let kid = &smqtt_core::crypto::sha256(&[&forged])[..16];
    let forged = smqtt_core::envelope::full(&forged, &lab::cose::replace(&unknown, &header.kid().0, kid));
    vec![
        ("plaintext", false, b"36.6".to_vec()),
        ("policy", false, seal("role=nurse", TOPIC, &nothing)),
        ("epoch", false, seal(POLICY, TOPIC, &|draft| draft.epoch = 1000)),
        ("clock", false, seal(POLICY, TOPIC, &|draft| draft.created = now() + 1000)),
        ("expired", false, seal(POLICY, TOPIC, &|draft| draft.expires = draft.created)),
        ("filter", true, seal(POLICY, "elsewhere/#", &nothing)),
        ("publisher", true, foreign),
        ("publisher", true, forged),
        ("no-header", true, unknown),
        ("broken", true, b"\xdaSMQTnonsense".to_vec()),
    ]
}

fn word(said: &Said) -> &str {
    match said {
        Said::Refused(_, word) => word,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn warnings_are_what_required_would_refuse() {
    let site = Site::new().await;
    let mode = async |mode: &str| {
        site.broker.knows(site.lab.rule("move/+", mode, TEMPLATE, SENSORS, None).await).await;
    };
    mode("warn").await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let mut expected = 0;
    for (code, everywhere, payload) in wrongs(&site) {
        let before = site.broker.denied(Denied::Warning, code);
        let said = publish(&mut sensor, TOPIC, &payload, QoS::AtLeastOnce).await;
        if everywhere {
            assert_eq!(word(&said), code);
            continue;
        }
        assert_eq!(said, Said::Taken, "{code}");
        assert_eq!(site.broker.denied(Denied::Warning, code), before + 1, "{code}");
        expected += 1;
    }
    let counts = site.broker.hook.denials().counts();
    let warnings: Vec<_> = counts.iter().filter(|count| count.denied == Denied::Warning).collect();
    assert!(warnings.iter().all(|count| &*count.rule == "move/+"), "{warnings:?}");
    assert_eq!(site.broker.hook.denials().total(Denied::Warning), expected);
    // What is right is not warned of, nor what others may not do let pass.
    let (header, key) = site.sensor.header(POLICY, TOPIC);
    let good = full(&header, &key.seal(TOPIC, b"36.6").unwrap());
    assert_eq!(publish(&mut sensor, TOPIC, &good, QoS::AtLeastOnce).await, Said::Taken);
    let compact = key.seal(TOPIC, b"36.7").unwrap();
    assert_eq!(publish(&mut sensor, TOPIC, &compact, QoS::AtLeastOnce).await, Said::Taken);
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    let said = publish(&mut visitor, TOPIC, b"36.6", QoS::AtLeastOnce).await;
    assert_eq!(said, refused(ReasonCode::NotAuthorized, "not-allowed"));
    assert_eq!(site.broker.hook.denials().total(Denied::Warning), expected);

    // And `required` refuses all of them, for the same reason.
    mode("required").await;
    for (code, _, payload) in wrongs(&site) {
        let said = publish(&mut sensor, TOPIC, &payload, QoS::AtLeastOnce).await;
        assert_eq!(word(&said), code);
    }
    assert_eq!(publish(&mut sensor, TOPIC, &compact, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(site.broker.hook.denials().total(Denied::Warning), expected);
}

/// A message that passed once with a warning is warned of each time.
#[tokio::test]
async fn a_compact_message_like_the_last_one_is_warned_of_again() {
    let site = Site::new().await;
    site.broker.knows(site.lab.rule("move/+", "warn", TEMPLATE, None, None).await).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let (header, key) = site.sensor.header("role=nurse", TOPIC);
    let whole = full(&header, &key.seal(TOPIC, b"1").unwrap());
    assert_eq!(publish(&mut sensor, TOPIC, &whole, QoS::AtLeastOnce).await, Said::Taken);
    for _ in 0..3 {
        let compact = key.seal(TOPIC, b"2").unwrap();
        assert_eq!(publish(&mut sensor, TOPIC, &compact, QoS::AtLeastOnce).await, Said::Taken);
    }
    assert_eq!(site.broker.denied(Denied::Warning, "policy"), 4);
}
