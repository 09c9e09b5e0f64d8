//! `cargo bench -p smqtt-bench --bench suites`: our suites, the floor and rabe's at ten attributes, then the ratios
//! that were promised, by the same code as `smqtt bench`.

use std::time::Duration;

use criterion::Criterion;
use smqtt_bench::floor::Floor;
use smqtt_bench::questions::ratios;
use smqtt_bench::schemes::all;

const ATTRIBUTES: usize = 10;

fn suites(criterion: &mut Criterion) {
    let floor = Floor::new();
    let mut group = criterion.benchmark_group("floor");
    for pairings in [2, 3] {
        group.bench_function(format!("{pairings} pairings"), |b| b.iter(|| floor.single(pairings)));
    }
    group.finish();
    for scheme in all() {
        let mut group = criterion.benchmark_group(scheme.name());
        // rabe's take up to a fifth of a second each.
        if !scheme.protects() {
            group
                .sample_size(10)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(2));
        }
        let mut instance = scheme.at(ATTRIBUTES);
        instance.keygen();
        instance.seal();
        group.bench_function("encapsulate", |b| b.iter(|| instance.encapsulate()));
        group.bench_function("decapsulate", |b| b.iter(|| instance.decapsulate()));
        group.bench_function("keygen", |b| b.iter(|| instance.keygen()));
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    suites(&mut criterion);
    criterion.final_summary();
    ratios::print_after_bench(&[ratios::against_floor, ratios::against_rabe]);
}
