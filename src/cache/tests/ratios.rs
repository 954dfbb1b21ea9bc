//! How often the cache hits, against models of its policies: an exact LRU and a plain S3-FIFO.
//!
//! The traces here are drawn; real ones come from a directory that `NEARHIT_TRACES` names, as `xz` and `gzip` unpack
//! them, and have their hit ratios in [`REAL`]. The short ones are then part of the test, and the long one is to be
//! asked for:
//!
//! `NEARHIT_TRACES=DIR cargo test --release --lib ratios -- --include-ignored --nocapture --test-threads 1`

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    env,
    path::Path,
    process::Command,
};

use super::*;

/// How far below its model a policy may be.
const TOLERANCE: f64 = 0.005;

/// What is done with a key.
#[derive(Clone, Copy)]
enum Step {
    Read(u64),
    /// A change, which drops it.
    Write(u64),
}

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

    fn draw(&self, rng: &mut fastrand::Rng) -> u64 {
        let ticket = rng.f64() * self.cumulated.last().unwrap();
        self.cumulated.partition_point(|&sum| sum <= ticket) as u64
    }
}

/// An exact LRU of keys.
#[derive(Default)]
struct ExactLru {
    tick: u64,
    used_at: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
}

impl ExactLru {
    fn step(&mut self, step: Step, entries_max: usize) -> bool {
        match step {
            Step::Read(key) => self.read(key, entries_max),
            Step::Write(key) => {
                self.used_at.remove(&key).and_then(|at| self.by_use.remove(&at));
                false
            }
        }
    }

    fn read(&mut self, key: u64, entries_max: usize) -> bool {
        self.tick += 1;
        let last = self.used_at.insert(key, self.tick);
        if let Some(last) = last {
            self.by_use.remove(&last);
        }
        self.by_use.insert(self.tick, key);
        if self.used_at.len() > entries_max {
            let (_, oldest) = self.by_use.pop_first().unwrap();
            self.used_at.remove(&oldest);
        }
        last.is_some()
    }
}

/// S3-FIFO as it is in the paper, with a small queue of a tenth and a ghost queue as long as the cache.
#[derive(Default)]
struct PlainS3Fifo {
    uses: HashMap<u64, u8>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghosts: VecDeque<u64>,
    is_ghost: HashSet<u64>,
}

impl PlainS3Fifo {
    fn step(&mut self, step: Step, entries_max: usize) -> bool {
        match step {
            Step::Read(key) => self.read(key, entries_max),
            Step::Write(key) => {
                if self.uses.remove(&key).is_some() {
                    self.small.retain(|other| *other != key);
                    self.main.retain(|other| *other != key);
                }
                false
            }
        }
    }

    fn read(&mut self, key: u64, entries_max: usize) -> bool {
        if let Some(uses) = self.uses.get_mut(&key) {
            *uses = 3.min(*uses + 1);
            return true;
        }
        let was_ghost = self.is_ghost.remove(&key);
        if was_ghost {
            self.ghosts.retain(|ghost| *ghost != key);
        }
        while self.uses.len() >= entries_max {
            self.evict(entries_max);
        }
        self.uses.insert(key, 0);
        if was_ghost { &mut self.main } else { &mut self.small }.push_back(key);
        false
    }

    fn evict(&mut self, entries_max: usize) {
        let is_small = self.main.is_empty() || self.small.len() >= (entries_max / 10).max(1);
        let queue = if is_small { &mut self.small } else { &mut self.main };
        let key = queue.pop_front().unwrap();
        let uses = self.uses.get_mut(&key).unwrap();
        if *uses > 0 {
            *uses = if is_small { 0 } else { *uses - 1 };
            return self.main.push_back(key);
        }
        self.uses.remove(&key);
        if is_small {
            self.ghosts.push_back(key);
            self.is_ghost.insert(key);
            if self.ghosts.len() > entries_max {
                let oldest = self.ghosts.pop_front().unwrap();
                self.is_ghost.remove(&oldest);
            }
        }
    }
}

/// The share of reads that hit.
fn ratio(trace: &[Step], mut hits: impl FnMut(Step) -> bool) -> f64 {
    let reads = trace.iter().filter(|step| matches!(step, Step::Read(_))).count();
    trace.iter().filter(|&&step| hits(step)).count() as f64 / reads as f64
}

/// The share of reads that hit in the cache itself, as the proxy makes it and asks it.
fn cached(trace: &[Step], entries_max: usize, eviction: Eviction) -> f64 {
    let limits = Limits { entries_max, shards: 128, eviction, ..UNBOUNDED };
    let cache: Cache<u32> = Cache::new(limits);
    let ratio = ratio(trace, |step| {
        let (Step::Read(key) | Step::Write(key)) = step;
        let name = key.to_string();
        if matches!(step, Step::Write(_)) {
            cache.invalidate(name.as_bytes());
            return false;
        }
        let is_hit = cache.hit(name.as_bytes(), &field(b""), &at(1), |_| ()).is_some();
        if !is_hit {
            cache.store(name.as_bytes(), &field(b""), b"+OK\r\n", &at(1));
        }
        is_hit
    });
    assert!(cache.entries() <= entries_max);
    cache.check_invariants();
    ratio
}

/// Compares the policies to what they should reach, in this order: LRU, S3-FIFO.
fn compare(name: &str, trace: &[Step], entries_max: usize, wanted: [f64; 2]) -> [f64; 2] {
    let found = BOTH.map(|eviction| cached(trace, entries_max, eviction));
    println!(
        "| {name} | {entries_max} | {:.3} | {:.3} | {:.3} | {:.3} |",
        wanted[0], found[0], wanted[1], found[1]
    );
    for ((eviction, wanted), found) in BOTH.iter().zip(wanted).zip(found) {
        let at_least = wanted - TOLERANCE;
        assert!(found >= at_least, "{eviction:?} on {name}, {entries_max}: {found:.4}, not {wanted:.4}");
    }
    found
}

/// Zipf; the same with a scan in every fourth read; with ranks that wander from key to key; with writes.
fn drawn() -> [(&'static str, Vec<Step>); 4] {
    const KEYS: u64 = 20_000;
    let (zipf, mut rng) = (Zipf::new(KEYS as usize, 0.9), fastrand::Rng::with_seed(42));
    let mut draw = |step: &dyn Fn(u64, u64) -> Step| {
        (0..200_000).map(|number| step(number, zipf.draw(&mut rng))).collect()
    };
    [
        ("Zipf", draw(&|_, key| Step::Read(key))),
        ("scans", draw(&|number, key| Step::Read(if number % 4 == 0 { KEYS + number } else { key }))),
        ("drift", draw(&|number, key| Step::Read(key + number / 40))),
        ("writes", draw(&|number, key| if number % 10 == 0 { Step::Write(key) } else { Step::Read(key) })),
    ]
}

#[test]
fn each_policy_hits_as_often_as_its_model() {
    for (name, trace) in drawn() {
        for entries_max in [300, 2000] {
            let (mut lru, mut fifo) = (ExactLru::default(), PlainS3Fifo::default());
            let wanted = [
                ratio(&trace, |step| lru.step(step, entries_max)),
                ratio(&trace, |step| fifo.step(step, entries_max)),
            ];
            let found = compare(name, &trace, entries_max, wanted);
            assert!(found[1] > wanted[0] + 2.0 * TOLERANCE, "{name} tells them apart");
            assert!(found[0] < wanted[0] + TOLERANCE, "LRU is LRU");
        }
    }
    for real in REAL.iter().filter(|real| !real.is_long && env::var_os("NEARHIT_TRACES").is_some()) {
        real.compare();
    }
}

#[test]
#[ignore = "wants NEARHIT_TRACES, and half a minute in a release build"]
fn each_policy_hits_as_often_as_its_model_on_a_long_trace() {
    for real in REAL.iter().filter(|real| real.is_long) {
        real.compare();
    }
}

/// A trace of somebody's cache.
struct Real {
    name: &'static str,
    file: &'static str,
    unpack: &'static str,
    is_long: bool,
    form: Form,
    /// Entries, and the hit ratios of exact LRU and of S3-FIFO.
    ratios: &'static [(usize, [f64; 2])],
}

enum Form {
    /// Numbers of four bytes, the most significant first.
    Binary,
    /// A number a line; lines with a star are comments.
    Lines,
    /// A table with a header; the key is in the last column.
    Table,
}

/// How much of a trace is used.
const REQUESTS_MAX: usize = 2_500_000;

#[rustfmt::skip]
const REAL: [Real; 4] = [
    Real {
        name: "orm-night",
        file: "orm-night.trace.xz",
        unpack: "xz",
        is_long: true,
        form: Form::Binary,
        ratios: &[(618, [0.638, 0.651]), (3094, [0.760, 0.805]), (12379, [0.950, 0.954])],
    },
    Real {
        name: "web07",
        file: "web07.trace.xz",
        unpack: "xz",
        is_long: false,
        form: Form::Binary,
        ratios: &[(204, [0.391, 0.432]), (1024, [0.506, 0.541]), (4096, [0.610, 0.630])],
    },
    Real {
        name: "2_pools",
        file: "2_pools.trace.gz",
        unpack: "gzip",
        is_long: false,
        form: Form::Lines,
        ratios: &[(99, [0.218, 0.446]), (496, [0.510, 0.519])],
    },
    Real {
        name: "cloudPhysicsIO",
        file: "cloudPhysicsIO.csv.xz",
        unpack: "xz",
        is_long: false,
        form: Form::Table,
        ratios: &[(489, [0.162, 0.172]), (2448, [0.175, 0.201]), (9794, [0.275, 0.327])],
    },
];

impl Real {
    fn compare(&self) {
        let trace = self.read();
        for &(entries_max, wanted) in self.ratios {
            compare(self.name, &trace, entries_max, wanted);
        }
    }

    fn read(&self) -> Vec<Step> {
        let directory = env::var_os("NEARHIT_TRACES").expect("NEARHIT_TRACES names a directory");
        let file = Path::new(&directory).join(self.file);
        let unpacked = Command::new(self.unpack).arg("-dc").arg(&file).output().unwrap();
        assert!(unpacked.status.success(), "{} {file:?}: {}", self.unpack, unpacked.status);
        let bytes = unpacked.stdout;
        let lines = || str::from_utf8(&bytes).unwrap().lines();
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        let mut keys: Vec<_> = match self.form {
            Form::Binary => {
                bytes.as_chunks().0.iter().map(|word| u64::from(u32::from_be_bytes(*word))).collect()
            }
            Form::Lines => lines().filter(|line| !line.starts_with('*')).map(number).collect(),
            Form::Table => lines().skip(1).map(|line| number(line.rsplit(',').next().unwrap())).collect(),
        };
        keys.truncate(REQUESTS_MAX);
        keys.into_iter().map(Step::Read).collect()
    }
}
