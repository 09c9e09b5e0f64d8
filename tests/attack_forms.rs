//! In which form a sealed message is delivered, on every way that it can take: whoever gets it has the header, or gets it
//! with it.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use broker_support::Client;
use lab::full;
use smqtt::mqtt::{Publish, QoS, ReasonCode, Version};
use smqtt::secure::Denied;
use smqtt_core::envelope::SealingKey;
use smqtt_core::header::Header;
use ward::*;

const BED: &str = "bed/3";

async fn say(client: &mut Client, payload: &[u8]) {
    assert_eq!(publish(client, BED, payload, QoS::AtLeastOnce).await, Said::Taken);
}

/// The next message is this one, in this form.
async fn gets(client: &mut Client, header: Option<&Header>, compact: &[u8]) -> Publish {
    let got = client.message().await;
    let expected = header.map_or_else(|| compact.to_vec(), |header| full(header, compact));
    assert!(got.payload == expected, "full: {}, {} bytes", header.is_some(), got.payload.len());
    got
}

fn compact(key: &SealingKey, text: &[u8]) -> Vec<u8> {
    key.seal(BED, text).unwrap()
}

#[tokio::test]
async fn who_asks_for_compact_messages_is_told_that_it_gets_them_under_a_name_of_its_own() {
    let site = Site::new().await;
    for asks in [true, false] {
        let plain = broker_support::connect(Version::V5, "");
        let connect = if asks { reader(plain) } else { plain };
        let connack = site.knock(Some(site.nurse.identity()), connect).await.0.unwrap();
        let told = connack.properties.user.iter().any(|(k, v)| (k.as_str(), v.as_str()) == ("smqtt", "1"));
        assert_eq!(told, asks);
        let id = connack.properties.assigned_client_id.unwrap().to_string();
        let digits = id.strip_prefix("nurse/").unwrap();
        assert!(digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
}

#[tokio::test]
async fn each_member_of_a_group_gets_the_header_first() {
    let site = Site::new().await;
    let mut members = Vec::new();
    for _ in 0..2 {
        let mut member = site.join(&site.nurse, reader(broker_support::connect(Version::V5, ""))).await;
        assert!(!subscribe(&mut member, "$share/group/bed/#").await.is_error());
        members.push(member);
    }
    let (header, key) = site.sensor.header(POLICY, BED);
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let messages: Vec<_> = (0..8u8).map(|n| compact(&key, &[n])).collect();
    say(&mut sensor, &full(&header, &messages[0])).await;
    for message in &messages[1..] {
        say(&mut sensor, message).await;
    }
    let mut count = 0;
    for member in &mut members {
        let got = member.until_ping().await;
        assert!(!got.is_empty(), "both have their share");
        for (place, packet) in got.into_iter().enumerate() {
            let smqtt::mqtt::Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            let whole = messages.iter().any(|message| publish.payload == full(&header, message));
            assert_eq!(whole, place == 0, "the first one, and that alone");
            assert!(whole || messages.iter().any(|message| publish.payload == *message));
            count += 1;
        }
    }
    assert_eq!(count, messages.len());
}

/// What the last connection got does not help the next one.
#[tokio::test]
async fn a_session_that_comes_back_gets_the_header_again() {
    let site = Site::new().await;
    let connect = || reader(Site::persistent("nurse/1"));
    let mut nurse = site.join(&site.nurse, connect()).await;
    nurse.subscribe(BED, QoS::AtLeastOnce).await;
    let (header, key) = site.sensor.header(POLICY, BED);
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let [first, second, third] = [1, 2, 3].map(|n| compact(&key, &[n]));
    say(&mut sensor, &full(&header, &first)).await;
    say(&mut sensor, &second).await;
    gets(&mut nurse, Some(&header), &first).await;
    gets(&mut nurse, None, &second).await;
    // Neither was acknowledged.
    nurse.disconnect().await;
    say(&mut sensor, &third).await;
    let mut nurse = site.join(&site.nurse, connect()).await;
    assert!(gets(&mut nurse, Some(&header), &first).await.dup);
    assert!(gets(&mut nurse, None, &second).await.dup);
    assert!(!gets(&mut nurse, None, &third).await.dup);
}

/// A header counts as given when it is written, not when it was about to be.
#[tokio::test]
async fn a_message_that_was_too_large_to_write_gave_no_header() {
    let site = Site::new().await;
    let (header, key) = site.sensor.header(POLICY, BED);
    let mut connect = reader(broker_support::connect(Version::V5, ""));
    connect.properties.packet_bytes_max = Some(header.as_bytes().len() as u32 + 500);
    let mut nurse = site.join(&site.nurse, connect).await;
    nurse.subscribe(BED, QoS::AtMostOnce).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    say(&mut sensor, &full(&header, &compact(&key, &[0; 2000]))).await;
    let small = compact(&key, b"36.6");
    say(&mut sensor, &small).await;
    gets(&mut nurse, Some(&header), &small).await;
    say(&mut sensor, &small).await;
    gets(&mut nurse, None, &small).await;
}

/// Readers keep 1,024 headers, so a connection that got 256 others gets the first again, and not before.
#[tokio::test]
async fn after_256_other_keys_a_header_is_given_again() {
    let site = Site::new().await;
    let mut nurse = site.join(&site.nurse, reader(broker_support::connect(Version::V5, ""))).await;
    nurse.subscribe(BED, QoS::AtMostOnce).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let mut keys = Vec::new();
    for number in 0..257 {
        if number % 60 == 59 {
            // A publisher may bring so many in that time.
            site.lab.advance(64);
        }
        let (header, key) = site.sensor.header(POLICY, BED);
        let first = compact(&key, b"1");
        say(&mut sensor, &full(&header, &first)).await;
        gets(&mut nurse, Some(&header), &first).await;
        keys.push((header, key));
    }
    site.lab.advance(64);
    for (place, known) in [(1, true), (0, false), (256, true)] {
        let (header, key) = &keys[place];
        let next = compact(key, b"2");
        say(&mut sensor, &full(header, &next)).await;
        gets(&mut nurse, (!known).then_some(header), &next).await;
    }
}

/// A subscription that was made under another rule is asked about again when its session goes on.
#[tokio::test]
async fn a_resumed_subscription_is_held_to_the_rule_of_now() {
    let site = Site::new().await;
    let (mut visitor, _) = site.resume(&site.visitor, "visitor/1").await;
    visitor.subscribe("notes/1", QoS::AtLeastOnce).await;
    visitor.disconnect().await;
    site.broker.knows(site.lab.rule("notes/#", "open", None, None, Some("role=nurse")).await).await;
    let (mut visitor, present) = site.resume(&site.visitor, "visitor/1").await;
    assert!(present);
    assert_eq!(site.broker.denied(Denied::Subscription, "not-allowed"), 1);
    site.broker.knows(site.lab.rule("notes/#", "open", None, None, None).await).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    assert_eq!(publish(&mut sensor, "notes/1", b"x", QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(visitor.until_ping().await, []);
}

/// Under parameters of somebody else nobody could open it, or somebody else could.
#[tokio::test]
async fn a_header_under_other_parameters_is_refused_by_name() {
    let site = Site::new().await;
    let other = lab::Lab::start().await.enrol("nurse", &["role=nurse"]).await;
    let foreign = other.with(|k| k.params().to_vec());
    let (header, key) = {
        let own = site.sensor.with(|k| k.params()[0].suite());
        let params = foreign.into_iter().find(|params| params.suite() == own).unwrap();
        // It outlives the closure that borrows it.
        let params: &'static _ = Box::leak(Box::new(params));
        site.sensor.header_with(POLICY, BED, |draft| draft.params = params)
    };
    let payload = full(&header, &compact(&key, b"36.6"));
    let invalid = ReasonCode::PayloadFormatInvalid;
    everywhere_refused(&site, &site.sensor, BED, &payload, invalid, "params").await;
    // Where the rule warns it passes, as all that `required` alone would refuse.
    site.broker.knows(site.lab.rule("bed/+", "warn", Some("role=nurse and ward=$1"), None, None).await).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    say(&mut sensor, &payload).await;
    assert_eq!(site.broker.denied(Denied::Warning, "params"), 1);
    // So does what no level of the topic can be put into the policy for.
    let (header, key) = site.sensor.header("role=nurse", "bed/#");
    let payload = full(&header, &key.seal("bed/", b"36.6").unwrap());
    assert_eq!(publish(&mut sensor, "bed/", &payload, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(site.broker.denied(Denied::Warning, "topic"), 1);
}
