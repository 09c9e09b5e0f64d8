//! What clients must not be able to do to the broker: malformed packets in every way. What other servers fell over is in
//! `regressions_*.rs`, floods are in `broker_mass.rs`.

mod broker_support;

use broker_support::*;
use smqtt::mqtt::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn faults_are_answered_with_their_reason() {
    let broker = TestBroker::start().await;
    let cases: [(&[u8], ReasonCode); 10] = [
        (b"\x00\x00", ReasonCode::MalformedPacket),
        (b"\x36\x05\x00\x01a\x00\x01", ReasonCode::MalformedPacket),
        (b"\x38\x04\x00\x01a\x00", ReasonCode::MalformedPacket),
        (b"\x32\x06\x00\x01a\x00\x00\x00", ReasonCode::MalformedPacket),
        (b"\x30\x04\x00\x01+\x00", ReasonCode::TopicNameInvalid),
        (b"\x30\x04\x00\x01\xff\x00", ReasonCode::MalformedPacket),
        (b"\x30\x03\x00\x00\x00", ReasonCode::ProtocolError),
        (b"\x82\x03\x00\x01\x00", ReasonCode::ProtocolError),
        (b"\x30\xff\xff\xff\x7f", ReasonCode::PacketTooLarge),
        (b"\x80\x03\x00\x01\x00", ReasonCode::MalformedPacket),
    ];
    for (bytes, reason) in cases {
        let mut client = broker.v5("client").await;
        client.send_bytes(bytes).await;
        assert_eq!(client.closed().await, Some(reason), "{bytes:02x?}");
    }
    broker.works().await;
}

/// Whoever must wait after its last packet goes on once it need not, and takes nobody's time meanwhile.
#[tokio::test]
async fn who_waits_after_its_last_packet_goes_on() {
    let broker = TestBroker::direct().await;
    let mut client = broker.v3("client").await;
    // Two messages and copies of them in turn, until as many wait for acknowledgements as may.
    let publish = |id| [0x34, 6, 0, 1, b'a', 0, id, b'x'];
    client.send_bytes(&[publish(1), publish(2)].concat().repeat(513)).await;
    for number in 0..1_026 {
        let Packet::Pubrec(ack) = client.packet().await else { panic!("PUBREC expected") };
        assert_eq!(ack.packet_id, 1 + number % 2);
    }
    assert_eq!(client.until_ping().await, []);
    broker.works().await;
}

#[tokio::test]
async fn a_packet_may_arrive_byte_by_byte_or_many_at_once() {
    let broker = TestBroker::start().await;
    let mut client = broker.raw().await;
    client.version = Version::V3;
    for byte in b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c" {
        client.send_bytes(&[*byte]).await;
        client.stream.flush().await.unwrap();
    }
    assert_eq!(client.connack().await.reason, ReasonCode::Success);
    client.send_bytes(&b"\xc0\x00".repeat(1_000)).await;
    for _ in 0..1_000 {
        assert_eq!(client.packet().await, Packet::Pingresp);
    }
}

#[tokio::test]
async fn who_is_in_the_middle_of_a_packet_hears_why_it_is_cut() {
    let broker = TestBroker::start().await;
    let mut client = broker.v5("client").await;
    // Eight megabytes are announced, and three come.
    client.send_bytes(b"\x30\x80\x80\x80\x04").await;
    for _ in 0..48 {
        client.send_bytes(&[0; 64 << 10]).await;
    }
    let mut answer = Vec::new();
    client.stream.read_to_end(&mut answer).await.expect("an end, not a reset");
    assert_eq!(answer[..3], [0xE0, answer.len() as u8 - 2, ReasonCode::PacketTooLarge as u8]);
    // What was sent behind a CONNECT that is refused does not take the refusal away either.
    let mut client = broker.raw().await;
    client.send_bytes(b"\x10\x0d\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00").await;
    for _ in 0..48 {
        client.send_bytes(&[0; 64 << 10]).await;
    }
    let mut answer = Vec::new();
    client.stream.read_to_end(&mut answer).await.expect("an end, not a reset");
    assert_eq!((answer[0], answer[3]), (0x20, ReasonCode::MalformedPacket as u8));
    drop(client);
    until(|| broker.handle.connections() == 0).await;
}

/// A small packet that asks for all retained messages a thousand times gets them once, and its answers in order.
#[tokio::test]
async fn a_filter_repeated_in_a_packet_asks_for_retained_messages_once() {
    const RETAINED: usize = 300;
    const FILTERS: usize = 5_000;
    let broker = TestBroker::direct().await;
    let (mut publisher, _) = broker.connect(connect(Version::V5, "publisher")).await;
    for n in 0..RETAINED {
        let retained = Publish { retain: true, ..message(&format!("kept/{n}"), "x", QoS::AtMostOnce) };
        publisher.publish(retained).await;
    }
    publisher.until_ping().await;
    let (mut client, _) = broker.connect(connect(Version::V5, "many")).await;
    let all = Subscription { filter: "#".into(), options: SubscriptionOptions::default() };
    let properties = SubscribeProperties::default();
    let packet = Subscribe { packet_id: 1, properties, subscriptions: vec![all; FILTERS] };
    client.send(Packet::Subscribe(packet)).await;
    let mut packets = client.until_ping().await;
    // The messages may follow what is answered at once.
    packets.extend(client.until_ping().await);
    let mut messages = 0;
    for packet in packets {
        match packet {
            Packet::Publish(_) => messages += 1,
            Packet::Suback(suback) => assert_eq!(suback.reasons, vec![ReasonCode::Success; FILTERS]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(messages, RETAINED);
    broker.shutdown().await;
}
