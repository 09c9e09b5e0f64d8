//! `cargo bench -p smqtt-bench --bench envelope`: sealing and opening 256 bytes under a key that is there; bare
//! AES-256-GCM of aws-lc-rs and of the `aes-gcm` crate side by side, and their ratio; then the ratios to bare
//! AES-256-GCM, by the same code as `smqtt bench`.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Tag};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{Criterion, Throughput};
use smqtt_bench::measure::{Pair, Rounds, paired};
use smqtt_bench::publisher::{Publisher, TOPIC};
use smqtt_bench::questions::ratios;
use smqtt_bench::schemes::{Fabeo, PAYLOAD_BYTES};
use smqtt_core::envelope::Envelope;

fn envelope(criterion: &mut Criterion) {
    let payload = [7; PAYLOAD_BYTES];
    let mut group = criterion.benchmark_group("envelope");
    group.throughput(Throughput::Bytes(PAYLOAD_BYTES as u64));
    for (name, signed) in [("compact", false), ("signed", true)] {
        let publisher = Publisher::new(&Fabeo::CP, 3, signed);
        let sealed = publisher.key.seal(TOPIC, &payload).expect("the first of many messages");
        group.bench_function(format!("seal, {name}"), |b| b.iter(|| publisher.key.seal(TOPIC, &payload)));
        group.bench_function(format!("open, {name}"), |b| {
            b.iter(|| {
                let envelope = Envelope::parse(&sealed).expect("it was just sealed");
                publisher.opening.open(TOPIC, &envelope.message)
            });
        });
    }
    group.finish();
}

const KEY: [u8; 32] = [7; 32];
const NONCE: [u8; 12] = [0; 12];
const SIZES: [usize; 4] = [16, 256, 1_024, 16_384];

/// AES-256-GCM of one library, in place.
trait Cipher {
    const NAME: &'static str;

    fn seal(&self, buffer: &mut [u8]) -> [u8; 16];

    fn open(&self, buffer: &mut [u8], tag: &[u8; 16]);
}

struct AwsLc(LessSafeKey);

impl Cipher for AwsLc {
    const NAME: &'static str = "aws-lc-rs";

    fn seal(&self, buffer: &mut [u8]) -> [u8; 16] {
        let nonce = Nonce::assume_unique_for_key(NONCE);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), buffer).expect("short enough");
        tag.as_ref().try_into().expect("16 bytes")
    }

    fn open(&self, buffer: &mut [u8], tag: &[u8; 16]) {
        let nonce = Nonce::assume_unique_for_key(NONCE);
        self.0.open_in_place_separate_tag(nonce, Aad::empty(), tag, buffer).expect("it was just sealed");
    }
}

struct RustCrypto(Aes256Gcm);

impl Cipher for RustCrypto {
    const NAME: &'static str = "aes-gcm";

    fn seal(&self, buffer: &mut [u8]) -> [u8; 16] {
        self.0.encrypt_inout_detached(&NONCE.into(), b"", buffer.into()).expect("short enough").into()
    }

    fn open(&self, buffer: &mut [u8], tag: &[u8; 16]) {
        let tag = Tag::from(*tag);
        self.0.decrypt_inout_detached(&NONCE.into(), b"", buffer.into(), &tag).expect("it was just sealed");
    }
}

/// What seals or opens `bytes` bytes, beginning with a copy, which both libraries need.
fn operation(cipher: &impl Cipher, opens: bool, bytes: usize) -> impl FnMut() {
    let mut sealed = vec![7; bytes];
    let tag = cipher.seal(&mut sealed);
    let (from, mut buffer) = (if opens { sealed } else { vec![7; bytes] }, vec![0; bytes]);
    move || {
        buffer.copy_from_slice(&from);
        match opens {
            true => cipher.open(&mut buffer, &tag),
            false => _ = cipher.seal(&mut buffer),
        }
        std::hint::black_box(&buffer);
    }
}

fn ciphers() -> (AwsLc, RustCrypto) {
    let aws_lc = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes"));
    (AwsLc(aws_lc), RustCrypto(Aes256Gcm::new(&KEY.into())))
}

fn libraries(criterion: &mut Criterion) {
    let (aws_lc, aes_gcm) = ciphers();
    let mut group = criterion.benchmark_group("AES-256-GCM");
    for bytes in SIZES {
        group.throughput(Throughput::Bytes(bytes as u64));
        for (verb, opens) in [("seal", false), ("open", true)] {
            let name = |library| format!("{verb} {bytes}, {library}");
            group.bench_function(name(AwsLc::NAME), |b| b.iter(operation(&aws_lc, opens, bytes)));
            group.bench_function(name(RustCrypto::NAME), |b| b.iter(operation(&aes_gcm, opens, bytes)));
        }
    }
    group.finish();
}

/// One against the other in turn, since the machine is now fast, now slow.
fn print_ratios_of_libraries() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (aws_lc, aes_gcm) = ciphers();
    for bytes in SIZES {
        for (verb, opens) in [("seal", false), ("open", true)] {
            let rounds = Rounds { warm_up: 64, count: 2_000, batch: 64 };
            let (theirs, ours) = (operation(&aes_gcm, opens, bytes), operation(&aws_lc, opens, bytes));
            let Some(Pair { ratio, interval, .. }) = paired(rounds, || false, theirs, ours) else { continue };
            println!(
                "{verb} {bytes} bytes, aes-gcm / aws-lc-rs: {:.2} (95 %: {:.2} to {:.2}; {} rounds of {})",
                ratio.p50, interval.low, interval.high, ratio.count, rounds.batch
            );
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    envelope(&mut criterion);
    libraries(&mut criterion);
    criterion.final_summary();
    print_ratios_of_libraries();
    ratios::print_after_bench(&[ratios::steady_state, ratios::header_bytes]);
}
