//! The pure modules, in nanoseconds: parse, format, subscribe, append, walk, replay. Their instruction counts, which
//! no neighbour disturbs, are `cargo bench --bench instructions`.

mod support;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("pure");
    for (name, set_up) in support::cases::ALL {
        group.bench_function(name, |bencher| {
            let mut work = set_up();
            bencher.iter(&mut work);
        });
    }
    group.finish();
    criterion.final_summary();
}
