//! What it costs to find out what a command is, and which keys it names.
//!
//! `cargo bench --bench commands`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use nearhit::command::Table;

criterion_group!(benches, classification, keys);
criterion_main!(benches);

const REQUESTS: [(&str, &[&[u8]]); 6] = [
    ("GET", &[b"GET", b"key:1"]),
    ("set, in small letters", &[b"set", b"key:1", b"value"]),
    ("ZRANGE BYSCORE", &[b"ZRANGE", b"key:1", b"0", b"10", b"BYSCORE"]),
    ("CLIENT LIST", &[b"CLIENT", b"LIST"]),
    ("EVAL of one key", &[b"EVAL", b"return 1", b"1", b"key:1"]),
    ("an unknown command", &[b"NOSUCHCOMMAND", b"key:1"]),
];

fn classification(criterion: &mut Criterion) {
    let table = Table::builtin();
    let mut group = criterion.benchmark_group("classification");
    for (name, args) in REQUESTS {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let args = black_box(args);
                let command = table.lookup(args[0], args.get(1).copied());
                (command.id, command.class(args))
            });
        });
    }
}

fn keys(criterion: &mut Criterion) {
    let table = Table::builtin();
    let mset: Vec<&[u8]> = std::iter::once(b"MSET".as_slice()).chain([b"key:1".as_slice(); 20]).collect();
    let mut group = criterion.benchmark_group("keys");
    for (name, args) in [REQUESTS[1], ("MSET of 10 keys", &mset)] {
        let command = table.lookup(args[0], None);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut bytes = 0;
                command.for_each_key(black_box(args), |key, _| bytes += key.len());
                bytes
            });
        });
    }
}
