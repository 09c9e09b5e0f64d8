//! How often sealing and opening ask for memory. A program of its own: the counter is its allocator.
//! What the provider's C asks for is not counted; for AES-GCM it asks for nothing.

mod common;

use allocation_counter::measure;
use common::pki::Pki;
use common::{NOW, key, policy, setup};
use smqtt_core::attribute::Versions;
use smqtt_core::envelope::{Envelope, OpeningKey, SealingKey};
use smqtt_core::header::{Draft, Header};

const TOPIC: &str = "ward/3/temperature";
const PAYLOAD: [u8; 256] = [0x55; 256];

fn keys() -> (SealingKey, OpeningKey) {
    let (params, master) = setup(1);
    let target = policy("role=nurse and ward=3").into();
    let draft = Draft {
        params: &params,
        epoch: 7,
        versions: &Versions::default(),
        target: &target,
        created: NOW,
        expires: NOW + 3600,
        filter: &"#".parse().unwrap(),
        sign_messages: false,
    };
    let (header, sealing) = Header::seal(&draft, &Pki::new().device(1)).unwrap();
    let reader = key(&master, "role=nurse, ward=3", 7, 2);
    (sealing, header.open(&params, &reader).unwrap())
}

fn allocations(run: impl FnOnce()) -> u64 {
    measure(run).count_total
}

/// The counter counts: a test that cannot fail is none.
#[test]
fn allocations_are_counted() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))), 1);
}

#[test]
fn a_message_costs_its_output_and_nothing_else() {
    let (sealing, opening) = keys();
    let mut sealed = Vec::new();
    assert_eq!(allocations(|| sealed = sealing.seal(TOPIC, &PAYLOAD).unwrap()), 1);
    let mut opened = Vec::new();
    let open = || opened = opening.open(TOPIC, &Envelope::parse(&sealed).unwrap().message).unwrap();
    assert_eq!(allocations(open), 1);
    assert_eq!(opened, PAYLOAD);
    assert_eq!(opened.capacity(), PAYLOAD.len(), "no more than asked for");
}

#[test]
fn a_message_into_a_buffer_costs_nothing() {
    let (sealing, opening) = keys();
    let (mut sealed, mut opened) = (Vec::with_capacity(400), Vec::with_capacity(400));
    let messages = || {
        for _ in 0..300 {
            sealed.clear();
            sealing.seal_into(TOPIC, &PAYLOAD, &mut sealed).unwrap();
            let message = Envelope::parse(&sealed).unwrap().message;
            opened.clear();
            assert!(opening.open_into("ward/4", &message, &mut opened).is_err());
            opening.open_into(TOPIC, &message, &mut opened).unwrap();
        }
    };
    assert_eq!(allocations(messages), 0);
    assert_eq!(opened, PAYLOAD);
}

/// Such a topic does not fit the stack.
#[test]
fn a_long_topic_costs_one_more() {
    let (sealing, opening) = keys();
    let topic = "a".repeat(4096);
    let mut sealed = Vec::new();
    assert_eq!(allocations(|| sealed = sealing.seal(&topic, &PAYLOAD).unwrap()), 2);
    let open = || drop(opening.open(&topic, &Envelope::parse(&sealed).unwrap().message).unwrap());
    assert_eq!(allocations(open), 2);
}

#[test]
fn parsing_costs_nothing() {
    let (sealing, _) = keys();
    let sealed = sealing.seal(TOPIC, &PAYLOAD).unwrap();
    let full = [&sealed[..5], &[0x82, 0x81, 0x40], &sealed[5..]].concat();
    for cut in 0..=full.len() {
        assert_eq!(allocations(|| _ = Envelope::parse(&full[..cut])), 0);
    }
    for cut in 0..=sealed.len() {
        assert_eq!(allocations(|| _ = Envelope::parse(&sealed[..cut])), 0);
    }
    assert!(Envelope::parse(&full).unwrap().header.is_some());
}
