//! Figures: how near sampled LRU is to the exact one, and, on demand, what a hit and an entry cost.

use std::{
    collections::{BTreeMap, HashMap},
    hint::black_box,
};

use rustix::time::{ClockId, clock_gettime};

use super::*;

/// Draws from 0..n, the k-th with a chance in proportion to 1/(k+1)^exponent.
struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    fn new(n: usize, exponent: f64) -> Self {
        let weights = (1..=n).map(|rank| (rank as f64).powf(-exponent));
        let cumulated = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { cumulated: cumulated.collect() }
    }

    fn draw(&self, rng: &mut fastrand::Rng) -> usize {
        let ticket = rng.f64() * self.cumulated.last().unwrap();
        self.cumulated.partition_point(|&sum| sum <= ticket)
    }
}

/// An exact LRU of keys.
struct Exact {
    entries_max: usize,
    tick: u64,
    used_at: HashMap<usize, u64>,
    by_use: BTreeMap<u64, usize>,
}

impl Exact {
    fn new(entries_max: usize) -> Self {
        Self { entries_max, tick: 0, used_at: HashMap::new(), by_use: BTreeMap::new() }
    }

    fn access(&mut self, key: usize) -> bool {
        self.tick += 1;
        let last = self.used_at.insert(key, self.tick);
        if let Some(last) = last {
            self.by_use.remove(&last);
        }
        self.by_use.insert(self.tick, key);
        if self.used_at.len() > self.entries_max {
            let (_, oldest) = self.by_use.pop_first().unwrap();
            self.used_at.remove(&oldest);
        }
        last.is_some()
    }
}

#[test]
fn sampled_lru_hits_as_often_as_exact_lru_within_a_point() {
    for (universe, entries_max, exponent) in [(50_000, 5_000, 0.9), (50_000, 5_000, 0.6), (8_000, 400, 0.9)] {
        let (zipf, mut rng) = (Zipf::new(universe, exponent), fastrand::Rng::with_seed(42));
        let cache: Cache<u32> =
            Cache::new(Limits { entries_max, bytes_max: 0, value_bytes_max: 0, shards: 16 });
        let mut exact = Exact::new(entries_max);
        let (mut hits, mut exact_hits) = (0, 0);
        let (warm, reads) = (entries_max * 6, entries_max * 6 + 100_000);
        for read in 0..reads {
            let key = zipf.draw(&mut rng);
            let name = key.to_string();
            let is_hit = cache.shown(name.as_bytes(), &field(b""), &at(1)).is_some();
            if !is_hit {
                cache.store(name.as_bytes(), &field(b""), b"+OK\r\n", &at(1));
            }
            let is_exact_hit = exact.access(key);
            if read >= warm {
                hits += usize::from(is_hit);
                exact_hits += usize::from(is_exact_hit);
            }
        }
        let [ratio, exact_ratio] = [hits, exact_hits].map(|hits| hits as f64 / 100_000.0);
        println!(
            "{entries_max} of {universe}, exponent {exponent}: sampled {ratio:.4}, exact {exact_ratio:.4}"
        );
        assert!(ratio > exact_ratio - 0.01, "sampled {ratio:.4}, exact {exact_ratio:.4}");
    }
}

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
    for (count, len) in [(1_000_000, 64), (1_000_000, 8), (700_000, 64), (500_000, 1000)] {
        let reply = [format!("${len}\r\n").as_bytes(), &vec![b'v'; len], b"\r\n"].concat();
        let before = resident_bytes();
        let cache: Cache<u32> =
            Cache::new(Limits { entries_max: 0, bytes_max: 0, value_bytes_max: 0, shards: 64 });
        for number in 0..count {
            cache.store(&key(number), &field(b""), &reply, &at(1));
        }
        let resident = (resident_bytes() - before) as f64 / count as f64;
        let counted = cache.bytes() as f64 / count as f64;
        println!("{count} entries of 16 + {len} B: {resident:.1} B resident, {counted:.1} B counted, each");
        kept.push(cache);
        assert!((resident / counted - 1.0).abs() < 0.1, "counted within a tenth");
    }
}

#[test]
#[ignore = "a measurement, for a release build"]
fn nanoseconds_a_hit() {
    for count in [100, 10_000, 1_000_000] {
        let cache: Cache<u32> =
            Cache::new(Limits { entries_max: 0, bytes_max: 0, value_bytes_max: 0, shards: 64 });
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
    for entries_max in [10_000, 1_000_000] {
        let cache: Cache<u32> =
            Cache::new(Limits { entries_max, bytes_max: 0, value_bytes_max: 0, shards: 64 });
        for number in 0..entries_max {
            cache.store(&key(number), &field(b""), &value(), &at(1));
        }
        let start = cpu_time();
        for number in 0..500_000 {
            cache.store(&key(entries_max + number), &field(b""), &value(), &at(1));
        }
        println!(
            "{entries_max} entries: {} ns a fill that evicts",
            cpu_time().since(start).as_nanos() / 500_000
        );
    }
}
