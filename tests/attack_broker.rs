//! Attacks on the broker by its clients: what is not sealed as the rules say, by the device that signed it, now, goes
//! nowhere, and whoever sent it learns why.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use broker_support::Client;
use bytes::Bytes;
use lab::{Device, full, now};
use smqtt::broker::Limit;
use smqtt::mqtt::{Packet, Publish, QoS, ReasonCode, Version};
use smqtt::secure::Denied;
use smqtt_client::sealer::{Outgoing, SealError, Sealer, Wish};
use smqtt_core::header::{HEADER_BYTES_MAX, HEADER_SECONDS_MAX};
use ward::*;

#[tokio::test]
async fn plaintext_goes_nowhere_where_sealing_is_required() {
    let site = Site::new().await;
    for payload in [&b"41.0"[..], b"", b"\xdaSMQ"] {
        let (reason, word) = (ReasonCode::PayloadFormatInvalid, "plaintext");
        everywhere_refused(&site, &site.sensor, WARD, payload, reason, word).await;
    }
    everywhere_refused(&site, &site.sensor, WARD, b"\xdaSMQT", ReasonCode::PayloadFormatInvalid, "broken")
        .await;
    // A client without a certificate may not even clear what is retained; a device that may publish can.
    let clear =
        || Publish { topic: "bed/3".into(), retain: true, qos: QoS::AtLeastOnce, ..Publish::default() };
    let (header, key) = site.sensor.header("role=nurse and ward=3", "bed/3");
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let payload = full(&header, &key.seal("bed/3", b"taken").unwrap());
    assert_eq!(send(&mut sensor, Publish { payload: payload.into(), ..clear() }).await, Said::Taken);
    let mut nobody = site.as_nobody(Version::V5, "").await.1.unwrap();
    assert_eq!(send(&mut nobody, clear()).await, refused(ReasonCode::PayloadFormatInvalid, "plaintext"));
    let topic = || Publish { topic: WARD.into(), ..clear() };
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    assert_eq!(send(&mut visitor, topic()).await, refused(ReasonCode::NotAuthorized, "not-allowed"));
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    nurse.subscribe("bed/3", QoS::AtLeastOnce).await;
    assert!(nurse.message().await.retain);
    assert_eq!(send(&mut sensor, clear()).await, Said::Taken);
}

#[tokio::test]
async fn a_message_counts_only_from_the_device_that_signed_its_header() {
    let site = Site::new().await;
    let other = site.lab.enrol("other", &["role=sensor"]).await;
    let (header, key) = site.sensor.header(POLICY, WARD);
    let compact = key.seal(WARD, b"36.6").unwrap();
    let captured = full(&header, &compact);
    // Before the broker knows the header: a compact message has none, a captured envelope is somebody else's.
    let unknown = (ReasonCode::ImplementationSpecificError, "no-header");
    everywhere_refused(&site, &site.sensor, WARD, &compact, unknown.0, unknown.1).await;
    let foreign = (ReasonCode::NotAuthorized, "publisher");
    everywhere_refused(&site, &other, WARD, &captured, foreign.0, foreign.1).await;
    // And after.
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    assert_eq!(publish(&mut sensor, WARD, &captured, QoS::AtLeastOnce).await, Said::Taken);
    for payload in [&captured, &compact, &key.seal(WARD, b"36.7").unwrap()] {
        everywhere_refused(&site, &other, WARD, payload, foreign.0, foreign.1).await;
    }
    // A reader of the policy is no publisher under that header, on a topic where anyone may publish; nor is nobody.
    let (header, key) = site.sensor.header(POLICY, "bed/3");
    let captured = full(&header, &key.seal("bed/3", b"taken").unwrap());
    assert_eq!(publish(&mut sensor, "bed/3", &captured, QoS::AtLeastOnce).await, Said::Taken);
    let compact = key.seal("bed/3", b"free").unwrap();
    everywhere_refused(&site, &site.nurse, "bed/3", &compact, foreign.0, foreign.1).await;
    let mut nobody = site.as_nobody(Version::V5, "").await.1.unwrap();
    for payload in [&captured, &compact] {
        let said = publish(&mut nobody, "bed/3", payload, QoS::AtLeastOnce).await;
        assert_eq!(said, refused(foreign.0, foreign.1));
    }
    assert_eq!(publish(&mut sensor, "bed/3", &compact, QoS::AtMostOnce).await, Said::Taken);

    // Headers that the sensor did not sign, or that are another's than the message's.
    let bent = {
        let mut bytes = header.as_bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let kid = &smqtt_core::crypto::sha256(&[&bytes])[..16];
        smqtt_core::envelope::full(&bytes, &lab::cose::replace(&compact, &header.kid().0, kid))
    };
    everywhere_refused(&site, &site.sensor, "bed/3", &bent, foreign.0, foreign.1).await;
    let (second, _) = site.sensor.header(POLICY, "bed/3");
    let mixed = full(&second, &compact);
    everywhere_refused(&site, &site.sensor, "bed/3", &mixed, ReasonCode::PayloadFormatInvalid, "kid").await;
    let (fresh, fresh_key) = site.sensor.header(POLICY, "bed/3");
    let mixed = full(&second, &fresh_key.seal("bed/3", b"").unwrap());
    everywhere_refused(&site, &site.sensor, "bed/3", &mixed, ReasonCode::PayloadFormatInvalid, "kid").await;
    let honest = full(&fresh, &fresh_key.seal("bed/3", b"").unwrap());
    assert_eq!(publish(&mut sensor, "bed/3", &honest, QoS::AtLeastOnce).await, Said::Taken);
}

#[tokio::test]
async fn a_message_is_sealed_as_the_rule_of_its_topic_says() {
    let site = Site::new().await;
    let invalid = ReasonCode::PayloadFormatInvalid;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    for (policy, filter, topic, word) in [
        (POLICY, "ward/3/temperature", WARD, ""),
        ("role=nurse", "ward/3/temperature", WARD, "policy"),
        ("role=nurse and ward=4", "ward/3/temperature", WARD, "policy"),
        ("ward=3 and role=nurse", "ward/3/temperature", WARD, "policy"),
        ("role=nurse and ward=3 or role=visitor", "#", WARD, "policy"),
        // One header for many topics is fine, the policy still has to be each topic's.
        (POLICY, "#", WARD, ""),
        (POLICY, "ward/+/temperature", "ward/4/temperature", "policy"),
        (POLICY, "ward/4/temperature", WARD, "filter"),
        (POLICY, "bed/#", WARD, "filter"),
        // The number three is not the text "03", and a level cannot be empty.
        (POLICY, "#", "ward/03/temperature", "policy"),
        (POLICY, "#", "ward//temperature", "topic"),
    ] {
        let (header, key) = site.sensor.header(policy, filter);
        let payload = full(&header, &key.seal(topic, b"36.6").unwrap());
        let said = publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await;
        let expected = if word.is_empty() { Said::Taken } else { refused(invalid, word) };
        assert_eq!(said, expected, "{policy} for {filter} on {topic}");
        if word.is_empty() {
            continue;
        }
        // Also once the broker knows the header, by a compact message.
        let good = match site.broker.view.bundle().rule_for(topic).unwrap().target_for(topic) {
            Ok(Some(policy)) => policy.to_string(),
            _ => continue,
        };
        if good != policy {
            let said = publish(&mut sensor, topic, &key.seal(topic, b"36.6").unwrap(), QoS::AtMostOnce).await;
            assert_eq!(said, cut(invalid, word));
            sensor = site.as_device(&site.sensor, Version::V5).await;
        }
    }
}

/// Whoever chooses a topic does not choose the policy.
#[tokio::test]
async fn a_topic_level_is_a_value_and_never_syntax() {
    let site = Site::new().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let levels =
        ["3 or role=visitor", "3) or (role=visitor", "3\" or role=visitor or x=\"", "$1", "3,4", "x"];
    for level in levels {
        let topic = format!("bed/{level}");
        let mut sealer = Sealer::new(false);
        let sealed = site.sensor.with(|k| sealer.seal(k, &topic, b"taken", Wish::Rule, now()).unwrap());
        let Outgoing::Sealed(sealed) = sealed else { panic!("sealed") };
        let policy = sealed.header().target().as_policy().unwrap();
        assert_eq!(policy.attributes().len(), 2, "{policy}");
        assert_eq!(policy.names().into_iter().collect::<Vec<_>>(), ["role", "ward"]);
        assert_eq!(publish(&mut sensor, &topic, &sealed.full(), QoS::AtLeastOnce).await, Said::Taken);
        let seen = site.visitor.sees(&mut site.visitor.opener(), &topic, &sealed.full());
        assert_eq!(seen, "not-for-me attributes");
        // A device whose attribute is that odd value is the one that reads.
        let (wide, key) = site.sensor.header("role=nurse and ward=3 or role=visitor", "bed/#");
        let payload = full(&wide, &key.seal(&topic, b"taken").unwrap());
        let said = publish(&mut sensor, &topic, &payload, QoS::AtLeastOnce).await;
        assert_eq!(said, refused(ReasonCode::PayloadFormatInvalid, "policy"));
    }
    let odd = site.lab.enrol("odd", &["role=nurse", "ward=\"3 or role=visitor\""]).await;
    let (header, key) = site.sensor.header("role=nurse and ward=\"3 or role=visitor\"", "bed/#");
    let topic = "bed/3 or role=visitor";
    let payload = full(&header, &key.seal(topic, b"taken").unwrap());
    assert_eq!(odd.sees(&mut odd.opener(), topic, &payload), "opened taken");

    for level in ["", "a\u{7f}", &"x".repeat(5000)] {
        let topic = format!("bed/{level}");
        let mut sealer = Sealer::new(false);
        let error = site.sensor.with(|k| sealer.seal(k, &topic, b"taken", Wish::Rule, now()).unwrap_err());
        assert!(matches!(error, SealError::Level { .. }), "{error}");
    }
    let (header, key) = site.sensor.header("role=nurse", "bed/#");
    let payload = full(&header, &key.seal("bed/", b"taken").unwrap());
    everywhere_refused(&site, &site.sensor, "bed/", &payload, ReasonCode::PayloadFormatInvalid, "topic")
        .await;
}

/// Where a rule says who may publish, that is asked each time. Where it does not, a message like the last one passes
/// without being asked again: until something is not like it any more.
#[tokio::test]
async fn headers_of_another_time_are_refused() {
    refuses_headers_of_another_time(WARD).await;
}

#[tokio::test]
async fn headers_of_another_time_are_refused_where_anyone_may_publish() {
    refuses_headers_of_another_time("bed/3").await;
}

async fn refuses_headers_of_another_time(topic: &str) {
    let site = Site::new().await;
    let invalid = ReasonCode::PayloadFormatInvalid;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let (first, first_key) = site.sensor.header_with(POLICY, topic, |d| d.expires = d.created + 7200);
    let message = |n: u8| first_key.seal(topic, &[n]).unwrap();
    assert_eq!(publish(&mut sensor, topic, &full(&first, &message(1)), QoS::AtLeastOnce).await, Said::Taken);

    let times: [(i64, i64, &str); 7] = [
        (0, 60, ""),
        (290, 60, ""),
        (310, 60, "clock"),
        (-200, 3600, ""),
        (-100, 100, "expired"),
        (0, 0, "expired"),
        (0, HEADER_SECONDS_MAX as i64 + 1, "clock"),
    ];
    for (created, life, word) in times {
        let (header, key) = site.sensor.header_with(POLICY, topic, |draft| {
            draft.created = now().checked_add_signed(created).unwrap();
            draft.expires = draft.created.checked_add_signed(life).unwrap();
        });
        let payload = full(&header, &key.seal(topic, b"").unwrap());
        let said = publish(&mut sensor, topic, &payload, QoS::AtLeastOnce);
        let expected = if word.is_empty() { Said::Taken } else { refused(invalid, word) };
        assert_eq!(said.await, expected, "{created}, {life}");
    }
    for epoch in [2, 1000, u64::MAX] {
        let (header, key) = site.sensor.header_with(POLICY, topic, |draft| draft.epoch = epoch);
        let payload = full(&header, &key.seal(topic, b"").unwrap());
        let said = publish(&mut sensor, topic, &payload, QoS::AtLeastOnce);
        assert_eq!(said.await, refused(invalid, "epoch"));
    }

    // A new epoch: the old one is good for ten minutes more.
    site.broker.knows(site.lab.rotate().await).await;
    assert_eq!(publish(&mut sensor, topic, &message(2), QoS::AtLeastOnce).await, Said::Taken);
    site.lab.advance(601);
    // The sensor's certificate was good then, and perhaps is not any more.
    site.broker.knows(site.lab.rotate().await).await;
    site.sensor.refresh().await.unwrap();
    for (ago, expected) in [(200, Said::Taken), (310, refused(invalid, "clock"))] {
        let (header, key) = site.sensor.header_with(POLICY, topic, |draft| draft.created = now() - ago);
        let payload = full(&header, &key.seal(topic, b"").unwrap());
        assert_eq!(publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await, expected);
    }
    assert_eq!(publish(&mut sensor, topic, &message(3), QoS::AtLeastOnce).await, refused(invalid, "epoch"));
    everywhere_refused(&site, &site.sensor, topic, &full(&first, &message(4)), invalid, "epoch").await;
    site.sensor.refresh().await.unwrap();
    let (second, second_key) = site.sensor.header_with(POLICY, topic, |d| d.expires = d.created + 600);
    let payload = full(&second, &second_key.seal(topic, &[5]).unwrap());
    assert_eq!(publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await, Said::Taken);

    // A version is raised: there is no grace.
    site.lab.enrol("colleague", &["role=nurse"]).await;
    site.broker.knows(site.lab.revoke("colleague").await.bundle).await;
    let late = second_key.seal(topic, &[6]).unwrap();
    assert_eq!(publish(&mut sensor, topic, &late, QoS::AtLeastOnce).await, refused(invalid, "version"));
    site.sensor.refresh().await.unwrap();
    let (third, third_key) = site.sensor.header_with(POLICY, topic, |d| d.expires = d.created + 600);
    let payload = full(&third, &third_key.seal(topic, &[7]).unwrap());
    assert_eq!(publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await, Said::Taken);
    site.lab.advance(600);
    let late = third_key.seal(topic, &[8]).unwrap();
    assert_eq!(publish(&mut sensor, topic, &late, QoS::AtLeastOnce).await, refused(invalid, "expired"));
}

#[tokio::test]
async fn a_message_like_the_last_one_passes_only_while_nothing_changed() {
    let site = Site::new().await;
    let invalid = ReasonCode::PayloadFormatInvalid;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let (header, key) = site.sensor.header(POLICY, "bed/#");
    let message = |topic: &str| key.seal(topic, b"36.6").unwrap();
    let whole = full(&header, &message("bed/3"));
    assert_eq!(publish(&mut sensor, "bed/3", &whole, QoS::AtLeastOnce).await, Said::Taken);
    for topic in ["bed/3", "bed/4", "bed/3", "bed/3"] {
        let expected = if topic == "bed/3" { Said::Taken } else { refused(invalid, "policy") };
        assert_eq!(publish(&mut sensor, topic, &message(topic), QoS::AtLeastOnce).await, expected);
    }
    // Another header of the same device, which the broker never saw.
    let (_, other) = site.sensor.header(POLICY, "bed/3");
    let unseen = other.seal("bed/3", b"").unwrap();
    let no_header = refused(ReasonCode::ImplementationSpecificError, "no-header");
    assert_eq!(publish(&mut sensor, "bed/3", &unseen, QoS::AtLeastOnce).await, no_header);
    // The sensor may not publish there any more; then again; then under another policy.
    let nobody =
        site.lab.rule("bed/+", "required", Some("role=nurse and ward=$1"), Some("role=chief"), None).await;
    site.broker.knows(nobody).await;
    let forbidden = refused(ReasonCode::NotAuthorized, "not-allowed");
    assert_eq!(publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await, forbidden);
    site.broker.knows(site.lab.require("bed/+", "role=nurse and ward=$1").await).await;
    assert_eq!(publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await, Said::Taken);
    site.broker.knows(site.lab.require("bed/+", "role=chief and ward=$1").await).await;
    let said = publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await;
    assert_eq!(said, refused(invalid, "policy"));
}

#[tokio::test]
async fn a_plain_message_like_the_last_one_passes_only_while_nothing_changed() {
    let site = Site::new().await;
    let (topic, plain) = ("log/noise", &b"36.6"[..]);
    let rule = async |mode, policy, publishers, subscribers| {
        site.broker.knows(site.lab.rule("log/+", mode, policy, publishers, subscribers).await).await;
    };
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    nurse.subscribe("log/+", QoS::AtLeastOnce).await;
    nurse.disconnect().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let mut says = async |payload: &[u8], retain| {
        let publish = Publish {
            topic: topic.into(),
            payload: payload.to_vec().into(),
            retain,
            qos: QoS::AtLeastOnce,
            ..Publish::default()
        };
        send(&mut sensor, publish).await
    };
    let taken = async |client: &mut Client| {
        let packets = client.until_ping().await;
        packets.iter().filter(|packet| matches!(packet, Packet::Publish(_))).count()
    };
    rule("open", None, None, None).await;
    // The last takes nothing away, though it is like the others: it is not retained.
    for (payload, retain) in [(plain, false), (plain, true), (plain, false), (b"", true), (b"", false)] {
        assert_eq!(says(payload, retain).await, Said::Taken);
    }
    // The sensor may not publish there any more; then again.
    rule("open", None, Some("role=chief"), None).await;
    assert_eq!(says(plain, false).await, refused(ReasonCode::NotAuthorized, "not-allowed"));
    rule("open", None, None, None).await;
    assert_eq!(says(plain, false).await, Said::Taken);
    let warned = || site.broker.hook.denials().total(Denied::Warning);
    rule("warn", Some("role=nurse"), None, None).await;
    for times in 1..=2 {
        assert_eq!(says(plain, false).await, Said::Taken);
        assert_eq!(warned(), times, "every one is warned of");
    }
    rule("required", Some("role=nurse"), None, None).await;
    let plaintext = refused(ReasonCode::PayloadFormatInvalid, "plaintext");
    assert_eq!(says(plain, false).await, plaintext);
    // Of all that waits, only what takes the retained message away says nothing.
    assert_eq!(says(b"", true).await, Said::Taken);
    assert_eq!(says(plain, true).await, plaintext);
    let (mut nurse, present) = site.resume(&site.nurse, "nurse/1").await;
    assert!(present);
    assert_eq!(taken(&mut nurse).await, 2);
}

#[tokio::test]
async fn a_flood_of_headers_ends_at_the_quota() {
    let site = Site::new().await;
    let other = site.lab.enrol("other", &["role=sensor"]).await;
    let fresh = |device: &Device| {
        let (header, key) = device.header(POLICY, WARD);
        (full(&header, &key.seal(WARD, b"").unwrap()), key)
    };
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    // Connecting again brings no new credit.
    for n in 0..64 {
        assert_eq!(
            publish(&mut sensor, WARD, &fresh(&site.sensor).0, QoS::AtLeastOnce).await,
            Said::Taken,
            "{n}"
        );
        if n == 40 {
            sensor = site.as_device(&site.sensor, Version::V5).await;
        }
    }
    let mut over = Said::Taken;
    // The clock of the machine may have gone on by a few seconds.
    for _ in 0..64 {
        over = publish(&mut sensor, WARD, &fresh(&site.sensor).0, QoS::AtLeastOnce).await;
        if over != Said::Taken {
            break;
        }
    }
    assert_eq!(over, refused(ReasonCode::QuotaExceeded, "headers"));
    assert_eq!(ReasonCode::QuotaExceeded as u8, 0x97);
    assert_eq!(site.broker.hits(Limit::NewHeaders), 1);
    // Nobody else pays for it.
    let mut honest = site.as_device(&other, Version::V5).await;
    let (payload, key) = fresh(&other);
    assert_eq!(publish(&mut honest, WARD, &payload, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(
        publish(&mut honest, WARD, &key.seal(WARD, b"").unwrap(), QoS::AtLeastOnce).await,
        Said::Taken
    );
    site.lab.advance(10);
    assert_eq!(publish(&mut sensor, WARD, &fresh(&site.sensor).0, QoS::AtLeastOnce).await, Said::Taken);
}

#[tokio::test]
async fn what_is_too_large_or_too_deep_is_refused() {
    let site = Site::new().await;
    let (header, key) = site.sensor.header(POLICY, WARD);
    let compact = key.seal(WARD, b"36.6").unwrap();
    let magic = smqtt_core::envelope::MAGIC;
    let long = lab::cose::bytes(&vec![0; HEADER_BYTES_MAX - 2]);
    let deep = |head: u8, n: usize| [&magic[..], &[0x82], &vec![head; n]].concat();
    for payload in [
        [&magic[..], &[0x82], &long, &compact[5..]].concat(),
        deep(0x81, 10_000),
        deep(0x81, 1_000_000),
        deep(0xc1, 10_000),
        deep(0x9f, 10_000),
        [&full(&header, &compact)[..], &[0]].concat(),
        [&magic[..], &[0x98, 2], header.as_bytes(), &compact[5..]].concat(),
    ] {
        let mut sensor = site.as_device(&site.sensor, Version::V5).await;
        let said = publish(&mut sensor, WARD, &payload, QoS::AtLeastOnce).await;
        let (invalid, kid) =
            (ReasonCode::PayloadFormatInvalid, refused(ReasonCode::PayloadFormatInvalid, "kid"));
        assert!(said == refused(invalid, "broken") || said == kid, "{said:?}");
    }
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let huge = full(&header, &key.seal(WARD, &vec![0; 2 << 20]).unwrap());
    let said = publish(&mut sensor, WARD, &huge, QoS::AtLeastOnce).await;
    assert!(matches!(said, Said::Cut(ReasonCode::PacketTooLarge, _)), "{said:?}");
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let large = full(&header, &key.seal(WARD, &vec![0; 1 << 20]).unwrap());
    assert_eq!(publish(&mut sensor, WARD, &large, QoS::AtLeastOnce).await, Said::Taken);
}

#[tokio::test]
async fn topic_aliases_lead_nobody_astray() {
    let site = Site::new().await;
    let mut client = site.as_device(&site.visitor, Version::V5).await;
    let aliased = |topic: &str, payload: &[u8]| {
        let mut publish = Publish {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload),
            qos: QoS::AtLeastOnce,
            ..Publish::default()
        };
        publish.properties.topic_alias = Some(1);
        publish
    };
    let plaintext = || refused(ReasonCode::PayloadFormatInvalid, "plaintext");
    assert_eq!(send(&mut client, aliased("notes/1", b"hello")).await, Said::Taken);
    assert_eq!(send(&mut client, aliased("", b"hello")).await, Said::Taken);
    assert_eq!(send(&mut client, aliased("bed/3", b"free")).await, plaintext());
    assert_eq!(send(&mut client, aliased("", b"free")).await, plaintext());
    // A message that was sealed for one topic, sent to another by alias.
    let (header, key) = site.visitor.header("role=nurse and ward=3", "bed/3");
    let payload = full(&header, &key.seal("bed/3", b"free").unwrap());
    assert_eq!(send(&mut client, aliased("", &payload)).await, Said::Taken);
    assert_eq!(send(&mut client, aliased("bed/4", b"")).await, plaintext());
    let said = send(&mut client, aliased("", &payload)).await;
    assert_eq!(said, refused(ReasonCode::PayloadFormatInvalid, "filter"));
}
