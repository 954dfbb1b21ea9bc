//! Figures, on demand: what a hit, a fill and an entry cost.

use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};

use super::*;

fn key(number: usize) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

/// `$64` and 64 bytes.
fn value() -> Vec<u8> {
    [b"$64\r\n".as_slice(), &[b'v'; 64], b"\r\n"].concat()
}

/// What the process has in memory, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What this thread has computed so far: others may be busy on the machine.
fn cpu_time() -> Nanos {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Nanos(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}

/// `cargo test --release --lib measure -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "a measurement, for a release build"]
fn bytes_an_entry() {
    // Kept, so that the next is not built from the memory of the last.
    let mut kept = Vec::new();
    let sizes = [(1_000_000, 64), (1_000_000, 8), (700_000, 64), (500_000, 1000)];
    for ((count, len), eviction) in sizes.into_iter().flat_map(|size| BOTH.map(|eviction| (size, eviction))) {
        let reply = [format!("${len}\r\n").as_bytes(), &vec![b'v'; len], b"\r\n"].concat();
        let before = resident_bytes();
        let cache: Cache<u32> = Cache::new(Limits { entries_max: count, shards: 64, eviction, ..UNBOUNDED });
        // Once to fill it, and once more with evictions.
        for turn in [0..count, count..2 * count] {
            turn.for_each(|number| cache.store(&key(number), &field(b""), &reply, &at(1)));
            let resident = (resident_bytes() - before) as f64 / count as f64;
            let counted = cache.bytes() as f64 / count as f64;
            println!(
                "{eviction:?}: {count} entries of 16 + {len} B: {resident:.1} B resident, {counted:.1} B counted, each"
            );
            assert!((resident / counted - 1.0).abs() < 0.1, "counted within a tenth");
        }
        kept.push(cache);
    }
}

#[test]
#[ignore = "a measurement, for a release build"]
fn nanoseconds_a_hit() {
    for count in [100, 10_000, 1_000_000] {
        let cache: Cache<u32> = Cache::new(Limits { shards: 64, ..UNBOUNDED });
        let keys: Vec<_> = (0..count).map(key).collect();
        let start = cpu_time();
        for key in &keys {
            cache.store(key, &field(b""), &value(), &at(1));
        }
        println!(
            "{count} keys: {} ns a miss with its fill",
            cpu_time().since(start).as_nanos() / count as u128
        );
        let mut rng = fastrand::Rng::with_seed(1);
        let order: Vec<usize> = (0..2_000_000).map(|_| rng.usize(0..count)).collect();
        let mut output = Vec::with_capacity(64 * 1024);
        for _ in 0..3 {
            let start = cpu_time();
            for &number in &order {
                if output.len() > 32 * 1024 {
                    output.clear();
                }
                let hit = cache.hit(&keys[number], &field(b""), &at(1), |hit| {
                    output.extend_from_slice(hit.reply.bytes().unwrap_or_default());
                });
                assert!(hit.is_some());
            }
            black_box(&output);
            println!("{count} keys: {} ns a hit", cpu_time().since(start).as_nanos() / order.len() as u128);
        }
    }
}

#[test]
#[ignore = "a measurement, for a release build"]
fn nanoseconds_a_fill_that_evicts() {
    for (entries_max, eviction) in [10_000, 1_000_000].into_iter().flat_map(|max| BOTH.map(|one| (max, one)))
    {
        let cache: Cache<u32> = Cache::new(Limits { entries_max, shards: 64, eviction, ..UNBOUNDED });
        // So that the queues, if there are any, have found their lengths.
        for number in 0..2 * entries_max {
            cache.store(&key(number), &field(b""), &value(), &at(1));
        }
        // New keys, and every other time one that was read lately: some are here, and some were.
        let mut rng = fastrand::Rng::with_seed(1);
        for share in [0, 50] {
            let (mut fills, start) = (0, cpu_time());
            for number in 0..500_000 {
                let newest = 2 * entries_max + (share * 10_000) + number;
                let back = if rng.usize(0..100) < share { rng.usize(0..2 * entries_max) } else { 0 };
                let key = key(newest - back);
                if cache.hit(&key, &field(b""), &at(1), |_| ()).is_none() {
                    cache.store(&key, &field(b""), &value(), &at(1));
                    fills += 1;
                }
            }
            let nanoseconds = cpu_time().since(start).as_nanos() / 500_000;
            println!(
                "{eviction:?}, {entries_max}, {share} % back: {nanoseconds} ns a read, {fills} fills that evict"
            );
        }
    }
}
