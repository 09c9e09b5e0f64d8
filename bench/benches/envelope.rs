//! `cargo bench -p smqtt-bench --bench envelope`: sealing and opening 256 bytes under a key that is there, then the
//! ratios to bare AES-256-GCM, by the same code as `smqtt bench`.

use criterion::{Criterion, Throughput};
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

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    envelope(&mut criterion);
    criterion.final_summary();
    ratios::print_after_bench(&[ratios::steady_state, ratios::header_bytes]);
}
