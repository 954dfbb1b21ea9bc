//! What the cache costs alone: a hit, the lookup of what is not there, a miss with its fill, with and without an
//! eviction, and an invalidation. Two sizes: one that fits in the processor's cache, and one that does not.
//!
//! `cargo bench --bench cache`

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use nearhit::{
    cache::{Cache, FillOutcome, Limits, Moment, Protocols, Read, Reply, VariantKey},
    clock::Nanos,
    config::Eviction,
    ids::{Database, Generation, IdentityId},
};

criterion_group!(benches, hits, misses, invalidations);
criterion_main!(benches);

const SIZES: [usize; 2] = [1_000, 1_000_000];
const REPLY: &[u8] = b"$64\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";
const GET: VariantKey<'_> = VariantKey {
    identity: IdentityId(0),
    database: Database(0),
    protocols: Protocols::Both,
    command: 1,
    tail: b"",
};

/// A moment that stands still: nothing expires.
const NOW: Moment =
    Moment { now: Nanos(1_000_000_000), certified: Nanos(999_000_000), generation: Generation(1) };

/// A cache with so many entries, and room for no more.
fn full(entries: usize) -> Cache<u32> {
    let limits = Limits {
        entries_max: entries,
        bytes_max: 0,
        value_bytes_max: 0,
        shards: 128,
        eviction: Eviction::S3Fifo,
    };
    let cache = Cache::new(limits);
    (0..entries).for_each(|number| fill(&cache, &key(number)));
    cache
}

fn key(number: usize) -> String {
    format!("key:{number:012}")
}

/// A miss, and the reply that fills.
fn fill(cache: &Cache<u32>, key: &str) {
    let Read::Fetch(token) = cache.join_or_fetch(key.as_bytes(), &GET, &NOW, |_| (), || 0) else {
        panic!("{key} is there")
    };
    let deadline = Some(NOW.now + Duration::from_hours(1));
    let filled = cache.fill(key.as_bytes(), token, Reply::Bytes(REPLY), deadline, NOW.now, &NOW);
    assert_eq!(filled.outcome, FillOutcome::Stored);
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    for entries in SIZES {
        let cache = full(entries);
        let keys: Vec<String> = (0..4096).map(|_| key(fastrand::usize(..entries))).collect();
        let mut out: Vec<u8> = Vec::with_capacity(REPLY.len());
        let mut turn = keys.iter().cycle();
        group.bench_function(format!("among {entries}"), |bencher| {
            bencher.iter(|| {
                let key = turn.next().expect("a cycle has no end");
                out.clear();
                let found = cache.hit(black_box(key).as_bytes(), &GET, &NOW, |hit| {
                    out.extend_from_slice(hit.reply.bytes().unwrap_or_default());
                });
                found.expect("every key is there");
            });
        });
        group.bench_function(format!("none, among {entries}"), |bencher| {
            bencher.iter(|| cache.hit(black_box(b"key:elsewhere"), &GET, &NOW, |_| ()));
        });
    }
}

fn misses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("miss and fill");
    for entries in SIZES {
        let cache = full(entries);
        let mut numbers = entries..;
        let mut next = || key(numbers.next().expect("a range without an end"));
        group.bench_function(format!("evicting one of {entries}"), |bencher| {
            bencher.iter_batched(&mut next, |key| fill(&cache, &key), BatchSize::SmallInput);
        });
    }
}

fn invalidations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("invalidation");
    let cache = full(SIZES[0]);
    group.bench_function("of what is there, and its fill", |bencher| {
        let key = key(7);
        bencher.iter(|| {
            assert!(cache.invalidate(black_box(&key).as_bytes()));
            fill(&cache, &key);
        });
    });
    group.bench_function("of what is not", |bencher| {
        bencher.iter(|| cache.invalidate(black_box(b"key:elsewhere")));
    });
}
