//! Question 4: what one more subscriber costs the publisher.
//!
//! Three ways to send 256 bytes to n readers, each from nothing: sealing once under a policy, with the whole header,
//! its signature and certificate included, and a message; a content key wrapped for each reader with HPKE, the payload
//! sealed once; the payload encrypted for each reader with HPKE (RFC 9180, DHKEM P-256, HKDF-SHA-256, AES-256-GCM, base
//! mode). HPKE here says nothing about who sent it: neither signature nor certificate is counted for it.

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{Hpke, HpkePublicKey};
use smqtt_core::crypto::{AeadKey, random};

use super::Context;
use super::mode::COMPARED_AT;
use crate::measure::repeat;
use crate::publisher::{Publisher, TOPIC};
use crate::result::{Figure, Part, Question, Spread};
use crate::schemes::{Fabeo, PAYLOAD_BYTES};

/// What varies along the lines.
pub const SUBSCRIBERS: &str = "subscribers";
/// Sealing once.
pub const ONCE: &str = "fabeo-cp, sealed once";
/// A key for each.
pub const WRAPPED: &str = "HPKE, a key wrapped for each";
/// The payload for each.
pub const EACH: &str = "HPKE, encrypted for each";

/// Bytes that AES-256-GCM adds.
const TAG_BYTES: usize = 16;
/// Bytes of an encapsulated key of P-256.
const ENC_BYTES: usize = 65;
/// Bytes of a content key.
const KEY_BYTES: usize = 32;
/// Bytes of a content key for one reader.
const WRAPPED_BYTES: usize = ENC_BYTES + KEY_BYTES + TAG_BYTES;
/// Bytes of a payload for one reader.
const EACH_BYTES: usize = ENC_BYTES + PAYLOAD_BYTES + TAG_BYTES;

/// Measures all three at every number of subscribers, and where they break even.
pub fn run(context: &mut Context<'_>) -> Part {
    let plan = context.plan;
    context.progress.begin(Question::Subscribers.name(), 3 * plan.subscribers.len() as u64);
    let mut part = Part::default();
    let most = plan.subscribers.iter().copied().max().unwrap_or_default();
    let readers: Vec<HpkePublicKey> = (0..most)
        .map(|_| SUITE.generate_key_pair().expect("the operating system gives random bytes").0)
        .collect();
    let payload = random::<PAYLOAD_BYTES>();
    let publisher = Publisher::new(&Fabeo::CP, COMPARED_AT, false);
    for _ in 0..plan.rounds.warm_up {
        seal_once(&publisher, &payload);
    }
    let once_bytes = seal_once(&publisher, &payload);
    let mut slopes = [None, None];
    let mut once_ms = None;
    for &count in plan.subscribers {
        let at = (SUBSCRIBERS, count as f64);
        let figure = |measure: &str, series: &str, unit: &str, spread: Spread| {
            Figure::new(Question::Subscribers, measure, series, at, unit, spread)
        };
        let wrapped_bytes = count * WRAPPED_BYTES + PAYLOAD_BYTES + TAG_BYTES;
        let each_bytes = count * EACH_BYTES;
        let progress = context.progress;
        for (series, bytes) in [(ONCE, once_bytes), (WRAPPED, wrapped_bytes), (EACH, each_bytes)] {
            if !context.step(&format!("{count} subscribers: {series}")) {
                return part;
            }
            let readers = &readers[..count];
            let samples = repeat(
                plan.effort,
                &mut context.counters,
                || progress.stopped(),
                || match series {
                    ONCE => _ = std::hint::black_box(seal_once(&publisher, &payload)),
                    WRAPPED => wrap_for_each(readers, &payload),
                    _ => encrypt_for_each(readers, &payload),
                },
            );
            let Some(spread) = samples.milliseconds() else { return part };
            match series {
                ONCE => once_ms = once_ms.or(Some(spread)),
                WRAPPED => slopes[0] = Some(spread.scaled(1.0 / count as f64)),
                _ => slopes[1] = Some(spread.scaled(1.0 / count as f64)),
            }
            part.figures.push(figure("seal", series, "ms", spread));
            part.figures.push(figure("bytes sent", series, "bytes", Spread::exact(bytes as f64)));
        }
    }
    for (series, slope) in [WRAPPED, EACH].into_iter().zip(slopes) {
        if let (Some(once), Some(slope)) = (once_ms, slope) {
            part.figures.extend(break_even(series, &once, &slope));
        }
    }
    for (series, fixed, slope) in [(WRAPPED, PAYLOAD_BYTES + TAG_BYTES, WRAPPED_BYTES), (EACH, 0, EACH_BYTES)]
    {
        let crossing = once_bytes.saturating_sub(fixed) as f64 / slope as f64;
        let at = ("attributes", COMPARED_AT as f64);
        let figure = |spread| {
            Figure::new(Question::Subscribers, "break-even by bytes", series, at, "subscribers", spread)
        };
        part.figures.push(figure(Spread::exact(crossing)));
    }
    part
}

/// A new header and the first message under it; the bytes of both.
fn seal_once(publisher: &Publisher, payload: &[u8]) -> usize {
    let (header, key) = publisher.author.header();
    let message = key.seal(TOPIC, payload).expect("the first of many messages");
    header.as_bytes().len() + message.len()
}

/// The number of subscribers from which on sealing once is cheaper, by time.
fn break_even(series: &str, once: &Spread, slope: &Spread) -> Option<Figure> {
    let quotients = [once.min / slope.max, once.p10 / slope.p90, once.p50 / slope.p50, once.p90 / slope.p10];
    let [min, p10, p50, p90] = quotients;
    let max = once.max / slope.min;
    let spread = Spread { count: slope.count, min, p10, p50, p90, p99: max, max };
    let at = ("attributes", COMPARED_AT as f64);
    let figure = Figure::new(Question::Subscribers, "break-even", series, at, "subscribers", spread);
    let note = "sealing once at the first number of subscribers over one reader's share at the last; the ends are \
                the ends of both";
    spread.is_sound().then(|| figure.with_note(note))
}

fn encrypt_for_each(readers: &[HpkePublicKey], payload: &[u8]) {
    for reader in readers {
        std::hint::black_box(SUITE.seal(b"", b"", payload, reader).expect("keys that this suite made"));
    }
}

fn wrap_for_each(readers: &[HpkePublicKey], payload: &[u8]) {
    let key = random::<KEY_BYTES>();
    let mut sealed = payload.to_vec();
    AeadKey::new(&key).seal([0; 12], b"", &mut sealed, 0);
    std::hint::black_box(sealed);
    encrypt_for_each(readers, &key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn break_even_is_where_the_lines_cross() {
        let spread = |min, p50, max| Spread { count: 9, min, p10: min, p50, p90: max, p99: max, max };
        let figure = break_even(EACH, &spread(2.0, 3.0, 4.0), &spread(0.1, 0.1, 0.2)).unwrap();
        assert_eq!((figure.spread.min, figure.spread.p50, figure.spread.max), (10.0, 30.0, 40.0));
        assert!(break_even(EACH, &spread(2.0, 3.0, 4.0), &Spread::exact(0.0)).is_none());
    }

    #[test]
    fn hpke_sends_the_bytes_that_are_counted() {
        let (public, _) = SUITE.generate_key_pair().unwrap();
        let (enc, sealed) = SUITE.seal(b"", b"", &[0; PAYLOAD_BYTES], &public).unwrap();
        assert_eq!(enc.0.len() + sealed.len(), EACH_BYTES);
        let (enc, sealed) = SUITE.seal(b"", b"", &[0; KEY_BYTES], &public).unwrap();
        assert_eq!(enc.0.len() + sealed.len(), WRAPPED_BYTES);
    }

    #[test]
    fn sealing_once_counts_all_of_the_header() {
        let publisher = Publisher::new(&Fabeo::CP, 2, false);
        let message = publisher.key.seal(TOPIC, &[0; PAYLOAD_BYTES]).unwrap();
        let whole = publisher.header_parts().whole + message.len();
        assert!(
            seal_once(&publisher, &[0; PAYLOAD_BYTES]).abs_diff(whole) <= 2,
            "counters may differ in length"
        );
    }
}
