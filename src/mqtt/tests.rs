//! Round trips and hostile bytes.

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*};

use super::*;

fn text() -> impl Strategy<Value = Text> {
    "[^\\x00]{0,12}".prop_map(Text::from)
}

fn topic() -> impl Strategy<Value = Text> {
    "[^\\x00+#]{1,12}".prop_map(Text::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn user() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn packet_id() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

fn subscription_id() -> impl Strategy<Value = SubscriptionId> {
    (1..=268_435_455u32).prop_map(SubscriptionId)
}

fn publish_properties() -> impl Strategy<Value = PublishProperties> {
    let first =
        (option::of(any::<bool>()), option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(topic()));
    let second = (option::of(binary()), user(), vec(subscription_id(), 0..3), option::of(text()));
    (first, second).prop_map(
        |(
            (payload_is_text, expiry_secs, topic_alias, response_topic),
            (correlation_data, user, subscription_ids, content_type),
        )| PublishProperties {
            payload_is_text,
            expiry_secs,
            topic_alias,
            response_topic,
            correlation_data,
            user,
            subscription_ids,
            content_type,
        },
    )
}

fn publish(v5: bool) -> impl Strategy<Value = Packet> {
    (any::<bool>(), qos(), any::<bool>(), topic(), packet_id(), publish_properties(), binary()).prop_map(
        move |(dup, qos, retain, topic, packet_id, properties, payload)| {
            let quiet = qos == QoS::AtMostOnce;
            Packet::Publish(Publish {
                dup: dup && !quiet,
                qos,
                retain,
                topic,
                packet_id: if quiet { 0 } else { packet_id },
                properties: if v5 { properties } else { PublishProperties::default() },
                payload,
            })
        },
    )
}

fn will(v5: bool) -> impl Strategy<Value = Will> {
    (topic(), binary(), qos(), any::<bool>(), option::of(any::<u32>()), user()).prop_map(
        move |(topic, payload, qos, retain, delay_secs, user)| {
            let mut properties = WillProperties::default();
            if v5 {
                properties = WillProperties { delay_secs, user, ..properties };
            }
            Will { topic, payload, qos, retain, properties }
        },
    )
}

fn connect(v5: bool) -> impl Strategy<Value = Packet> {
    let head =
        (any::<bool>(), any::<u16>(), text(), option::of(will(v5)), option::of(text()), option::of(binary()));
    let properties = (option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(1..=u32::MAX), user());
    (head, properties).prop_map(
        move |(
            (clean_start, keep_alive_secs, client_id, will, user_name, password),
            (session_expiry_secs, receive_max, packet_bytes_max, user),
        )| {
            let mut properties = ConnectProperties::default();
            if v5 {
                properties = ConnectProperties {
                    session_expiry_secs,
                    receive_max,
                    packet_bytes_max,
                    user,
                    ..properties
                };
            }
            Packet::Connect(Box::new(Connect {
                version: if v5 { Version::V5 } else { Version::V3 },
                clean_start: clean_start || client_id.is_empty(),
                keep_alive_secs,
                properties,
                client_id,
                will,
                password: password.filter(|_| v5 || user_name.is_some()),
                user_name,
            }))
        },
    )
}

fn subscribe(v5: bool) -> impl Strategy<Value = Packet> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    let subscription = ("[a-z/+#]{1,9}", qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        move |(filter, qos, no_local, retain_as_published, retain_handling)| Subscription {
            filter: filter.into(),
            options: if v5 {
                SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
            } else {
                SubscriptionOptions { qos, ..SubscriptionOptions::default() }
            },
        },
    );
    (packet_id(), option::of(subscription_id()), user(), vec(subscription, 1..4)).prop_map(
        move |(packet_id, subscription_id, user, subscriptions)| {
            let mut properties = SubscribeProperties::default();
            if v5 {
                properties = SubscribeProperties { subscription_id, user };
            }
            Packet::Subscribe(Subscribe { packet_id, properties, subscriptions })
        },
    )
}

fn acks(v5: bool) -> impl Strategy<Value = Packet> {
    (0..4, packet_id(), any::<bool>(), option::of(text()), user()).prop_map(
        move |(kind, packet_id, fine, reason_string, user)| {
            let mut ack = Ack::new(packet_id, ReasonCode::Success);
            if v5 {
                ack.properties = AckProperties { reason_string, user };
                ack.reason = match (fine, kind) {
                    (true, _) => ReasonCode::Success,
                    (false, 0 | 1) => ReasonCode::NotAuthorized,
                    (false, _) => ReasonCode::PacketIdentifierNotFound,
                };
            }
            match kind {
                0 => Packet::Puback(ack),
                1 => Packet::Pubrec(ack),
                2 => Packet::Pubrel(ack),
                _ => Packet::Pubcomp(ack),
            }
        },
    )
}

fn others(v5: bool) -> impl Strategy<Value = Packet> {
    (0..7, packet_id(), option::of(text()), user(), vec(text(), 1..3), any::<bool>()).prop_map(
        move |(kind, packet_id, reason_string, user, filters, flag)| {
            let reason = if flag { ReasonCode::Success } else { ReasonCode::NotAuthorized };
            let mut ack = AckProperties::default();
            let mut connack = ConnackProperties::default();
            let mut disconnect = DisconnectProperties::default();
            if v5 {
                ack = AckProperties { reason_string: reason_string.clone(), user: user.clone() };
                connack.reason_string.clone_from(&reason_string);
                connack.user.clone_from(&user);
                disconnect.reason_string = reason_string;
            }
            match kind {
                0 => {
                    Packet::Connack(Box::new(Connack { session_present: flag, reason, properties: connack }))
                }
                1 => {
                    let failure = if v5 { ReasonCode::QuotaExceeded } else { ReasonCode::UnspecifiedError };
                    let reasons = vec![ReasonCode::GrantedQoS2, failure];
                    Packet::Suback(Suback { packet_id, properties: ack, reasons })
                }
                2 => {
                    let user = if v5 { user } else { Vec::new() };
                    Packet::Unsubscribe(Unsubscribe {
                        packet_id,
                        properties: UnsubscribeProperties { user },
                        filters,
                    })
                }
                3 => {
                    let reasons = if v5 { vec![ReasonCode::Success] } else { Vec::new() };
                    Packet::Unsuback(Unsuback { packet_id, properties: ack, reasons })
                }
                4 => Packet::Pingreq,
                5 => Packet::Pingresp,
                _ => {
                    let reason = if v5 { reason } else { ReasonCode::Success };
                    Packet::Disconnect(Disconnect { reason, properties: disconnect })
                }
            }
        },
    )
}

fn packet(v5: bool) -> impl Strategy<Value = Packet> {
    prop_oneof![publish(v5), connect(v5), subscribe(v5), acks(v5), others(v5)]
}

fn round_trip(packet: &Packet, version: Version) {
    let mut buffer = BytesMut::new();
    packet.encode(version, &mut buffer).unwrap();
    let whole = buffer.clone();
    for cut in 0..whole.len() {
        let mut part = BytesMut::from(&whole[..cut]);
        assert_eq!(decode(&mut part, version, Limits::default()), Ok(None));
        assert_eq!(part.len(), cut);
    }
    assert_eq!(decode(&mut buffer, version, Limits::default()).unwrap().as_ref(), Some(packet));
    assert!(buffer.is_empty());
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_again_in_5_0(packet in packet(true)) {
        round_trip(&packet, Version::V5);
    }

    #[test]
    fn what_is_encoded_is_decoded_again_in_3_1_1(packet in packet(false)) {
        round_trip(&packet, Version::V3);
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in vec(any::<u8>(), 0..300), v5: bool) {
        let mut buffer = BytesMut::from(&bytes[..]);
        let version = if v5 { Version::V5 } else { Version::V3 };
        while let Ok(Some(_)) = decode(&mut buffer, version, Limits::default()) {}
    }

    #[test]
    fn a_damaged_packet_is_decoded_without_panic(packet in packet(true), at: prop::sample::Index, byte: u8) {
        let mut buffer = BytesMut::new();
        packet.encode(Version::V5, &mut buffer).unwrap();
        let at = at.index(buffer.len());
        buffer[at] = byte;
        // What is accepted can be encoded, and then says the same.
        if let Ok(Some(packet)) = decode(&mut buffer, Version::V5, Limits::default())
            && !matches!(&packet, Packet::Connect(connect) if connect.version == Version::V3)
        {
            round_trip(&packet, Version::V5);
        }
    }
}

#[test]
fn a_publish_is_as_long_as_it_says() {
    let (topic, wire) = (Text::from("a/b"), WireProperties::default());
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        for version in [Version::V3, Version::V5] {
            for payload in [0, 100, 120, 127, 128, 20_000] {
                let head = PublishHead { qos, packet_id: qos as u16, ..PublishHead::default() };
                let payload = vec![0; payload];
                let mut out = BytesMut::new();
                head.encode(version, &topic, &wire, &payload, &mut out).unwrap();
                assert_eq!(out.len(), head.encoded_bytes(version, &topic, &wire, &payload));
            }
        }
    }
}

#[test]
fn a_remaining_length_is_in_its_shortest_form_in_5_0_alone() {
    let connect = |level| {
        let properties: &[u8] = if level == 5 { &[0] } else { &[] };
        let body = [&[0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0], properties, &[0, 1, b'a']].concat();
        [&[0x10, body.len() as u8 | 0x80, 0], &body[..]].concat()
    };
    let read = |bytes: &[u8], version| decode(&mut BytesMut::from(bytes), version, Limits::default());
    assert!(matches!(read(&connect(4), Version::V3), Ok(Some(Packet::Connect(_)))));
    assert_eq!(read(&[0xC0, 0x80, 0], Version::V3), Ok(Some(Packet::Pingreq)));
    for refused in [read(&connect(5), Version::V3), read(&[0xC0, 0x80, 0], Version::V5)] {
        assert_eq!(refused.unwrap_err().reason(), ReasonCode::MalformedPacket);
    }
    assert!(read(&[0xC0, 0x80, 0x80, 0x80, 0x80], Version::V3).is_err());
}

#[test]
fn a_property_of_another_packet_is_malformed() {
    // PUBLISH with a session expiry.
    let bytes: &[u8] = &[0x30, 9, 0, 1, b'a', 5, 0x11, 0, 0, 0, 1];
    let error = decode(&mut BytesMut::from(bytes), Version::V5, Limits::default()).unwrap_err();
    assert_eq!(error.reason(), ReasonCode::MalformedPacket);
}

#[test]
fn a_property_given_twice_or_of_no_meaning_is_a_protocol_error() {
    let wrong: [&[u8]; 4] = [
        // PUBLISH with two content types.
        &[0x30, 12, 0, 1, b'a', 8, 3, 0, 1, b'x', 3, 0, 1, b'y'],
        // SUBSCRIBE with QoS 3.
        &[0x82, 7, 0, 1, 0, 0, 1, b'a', 3],
        // PUBLISH with a payload format of 2.
        &[0x30, 6, 0, 1, b'a', 2, 1, 2],
        // SUBSCRIBE with subscription identifier 0.
        &[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b'a', 0],
    ];
    for bytes in wrong {
        let error = decode(&mut BytesMut::from(bytes), Version::V5, Limits::default()).unwrap_err();
        assert_eq!(error.reason(), ReasonCode::ProtocolError, "{bytes:02x?}: {error}");
    }
}

#[test]
fn a_packet_beyond_the_limit_is_refused_before_it_has_arrived() {
    let mut buffer = BytesMut::from(&[0x30, 0x80, 0x08][..]);
    let error = decode(&mut buffer, Version::V5, Limits { packet_bytes_max: 1_000 }).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { bytes: 1_027, bytes_max: 1_000 });
}

#[test]
fn connack_and_disconnect_say_only_what_they_may() {
    let connack: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
        0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];
    let disconnect: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ];
    for reason in (0..=u8::MAX).filter_map(ReasonCode::from_u8) {
        let (of_connack, of_disconnect) = (reason.for_connack() as u8, reason.for_disconnect() as u8);
        assert!(connack.contains(&of_connack) && disconnect.contains(&of_disconnect), "{reason:?}");
        assert!(!connack.contains(&(reason as u8)) || of_connack == reason as u8, "{reason:?}");
        assert!(!disconnect.contains(&(reason as u8)) || of_disconnect == reason as u8, "{reason:?}");
    }
}

/// Also those that the broker never adds: sections 3.2.2.3.9, 3.4.2.2.2 and their like.
#[test]
fn texts_are_left_out_of_what_they_would_make_too_large() {
    let (reason_string, user) = (Some(Text::from("why")), vec![("name".into(), "value".into())]);
    let ack = Ack {
        packet_id: 1,
        reason: ReasonCode::PacketIdentifierNotFound,
        properties: AckProperties { reason_string: reason_string.clone(), user: user.clone() },
    };
    let (packet_id, reasons) = (1, vec![ReasonCode::UnspecifiedError]);
    let properties = ack.properties.clone();
    let connack =
        ConnackProperties { reason_string: reason_string.clone(), user: user.clone(), ..Default::default() };
    let disconnect = DisconnectProperties { reason_string, user, ..DisconnectProperties::default() };
    let reason = ReasonCode::ServerBusy;
    let packets = [
        Packet::Connack(Box::new(Connack { session_present: false, reason, properties: connack })),
        Packet::Puback(ack.clone()),
        Packet::Pubrec(ack.clone()),
        Packet::Pubrel(ack.clone()),
        Packet::Pubcomp(ack),
        Packet::Suback(Suback { packet_id, properties: properties.clone(), reasons: reasons.clone() }),
        Packet::Unsuback(Unsuback { packet_id, properties, reasons }),
        Packet::Disconnect(Disconnect { reason, properties: disconnect }),
    ];
    for packet in packets {
        let written = |bytes_max| {
            let mut out = BytesMut::from("x");
            let fits = packet.clone().encode_within(Version::V5, bytes_max, &mut out).is_ok();
            (fits, out.len() - 1, format!("{out:?}"))
        };
        let (_, all, text) = written(usize::MAX);
        assert!(text.contains("why") && text.contains("name"), "{packet:?}");
        assert_eq!(written(all), (true, all, text));
        let (fits, less, text) = written(all - 1);
        assert!(fits && less < all && !text.contains("why") && text.contains("name"), "{packet:?}");
        let (fits, least, text) = written(less - 1);
        assert!(fits && least < less && !text.contains("name"), "{packet:?}");
        assert_eq!(written(least - 1), (false, 0, format!("{:?}", BytesMut::from("x"))));
    }
}
