//! What is done to which key: lives, and the random commands that read and write them.
//!
//! A key is attacked for a few hundred milliseconds and then given up for a new one: that is its *life*. So histories
//! stay short enough to be read, each can be judged while the run goes on, and the value "nothing" can stay
//! unambiguous: a life either begins with nothing, or is deleted once at most. Whoever lets go of a life last hands its
//! record in.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::{Mutex, RwLock};

use super::recorder::{History, NOTHING, Op, Value, Written, now};

const MGET_SHARE: f64 = 0.14;
const LIFE_MS: Range<u64> = 150..600;
/// A value as large as this is stored by reference, not by copy.
const LARGE_PADDING_BYTES: usize = 20 * 1024;
const SMALL_PADDING_BYTES: usize = 24;
/// GETRANGE to this end or any after it reads the whole value.
const RANGE_END_MIN: u32 = 1_000_000;

/// How hard the keys are attacked.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// How long a writer pauses before it comes back to a key, at most, in milliseconds: drawn for each life.
    pub(crate) tempo_ms: Range<f64>,
    /// The share of reads that are made within MULTI and EXEC. They always show what is in Redis, and with each the
    /// cache has to wait for a certification before it may answer again.
    pub(crate) exec_reads: f64,
    /// The share of GETRANGEs. A key with several variants has to wait for certifications, too.
    pub(crate) ranges: f64,
    /// How many different variants besides GET and GETRANGE 0 -1 are asked for: some of them are always missing.
    pub(crate) variants: u32,
    /// The server evicts keys.
    pub(crate) evicts: bool,
    /// One author's turn in so many is to delete everything.
    pub(crate) turns_per_flush: Option<u16>,
}

/// One key, as long as it is attacked.
pub(crate) struct Life {
    pub(crate) key: String,
    pub(crate) initial: Value,
    padding: usize,
    /// How long a writer pauses before it comes back to this key, at most.
    pub(crate) tempo: Duration,
    born: Instant,
    born_at: u64,
    may_vanish: bool,
    lasts: Duration,
    /// It is to be replaced, whatever its age.
    pub(crate) is_over: AtomicBool,
    may_be_deleted: AtomicBool,
    /// Its versions have times to live.
    pub(crate) is_volatile: bool,
    /// The number of the pair of keys that are always written together.
    pair: Option<u64>,
    record: Mutex<(Vec<Op>, Vec<Written>)>,
    judge: Sender<History>,
}

/// How a life is to be.
#[derive(Clone)]
pub(crate) struct Nature {
    pub(crate) key: String,
    pub(crate) initial: Value,
    pub(crate) is_volatile: bool,
    pub(crate) pair: Option<u64>,
    pub(crate) tempo: Duration,
    pub(crate) lasts: Duration,
    pub(crate) is_large: bool,
    /// The server may evict it.
    pub(crate) may_vanish: bool,
}

impl Nature {
    pub(crate) fn random(random: &mut Rng, load: &Load, key: String, initial: Value) -> Self {
        // As many lives with pauses of 1 to 2 ms as with pauses of 10 to 20.
        let Range { start, end } = load.tempo_ms;
        let tempo_ms = start * (end / start).powf(random.f64());
        Self {
            key,
            initial,
            is_volatile: false,
            pair: None,
            tempo: Duration::from_secs_f64(tempo_ms / 1e3),
            lasts: Duration::from_millis(random.u64(LIFE_MS)),
            is_large: random.u8(0..10) == 0,
            may_vanish: load.evicts,
        }
    }
}

impl Life {
    pub(crate) fn new(nature: Nature, judge: Sender<History>) -> Arc<Self> {
        let Nature { key, initial, is_volatile, pair, tempo, lasts, is_large, may_vanish } = nature;
        Arc::new(Self {
            key,
            initial,
            padding: if is_large { LARGE_PADDING_BYTES } else { SMALL_PADDING_BYTES },
            tempo,
            born: Instant::now(),
            born_at: now(),
            may_vanish,
            lasts,
            is_over: AtomicBool::new(false),
            // Else a reader of nothing could not tell which nothing it was.
            may_be_deleted: AtomicBool::new(initial != NOTHING),
            is_volatile,
            pair,
            record: Mutex::default(),
            judge,
        })
    }

    pub(crate) fn is_due(&self) -> bool {
        self.is_over.load(Relaxed) || self.born.elapsed() > self.lasts
    }

    /// Whether an MGET of both must find the same in both. Two times to live need not end in the same instant, and
    /// one may be evicted without the other.
    pub(crate) fn is_twin_of(&self, other: &Self) -> bool {
        self.pair.is_some() && self.pair == other.pair && !self.is_volatile && !self.may_vanish
    }

    pub(crate) fn record(&self, op: Op) {
        self.record.lock().0.push(op);
    }

    /// Records the next version.
    pub(crate) fn record_version(&self, written: impl FnOnce(Value) -> Written) {
        let mut record = self.record.lock();
        let version = record.1.len() as Value + 1;
        record.1.push(written(version));
    }

    pub(crate) fn next_version(&self) -> Value {
        self.record.lock().1.len() as Value + 1
    }

    /// The bytes that stand for a value in this key.
    pub(crate) fn bytes(&self, value: Value) -> Vec<u8> {
        let mut bytes = format!("{value}:").into_bytes();
        bytes.resize(bytes.len() + self.padding, b'.');
        bytes
    }

    /// The value that was read; `None` if nobody wrote such bytes to this key.
    pub(crate) fn value(&self, bytes: &[u8]) -> Option<Value> {
        if bytes.is_empty() {
            // GETRANGE of a key that is not there.
            return Some(NOTHING);
        }
        let digits = &bytes[..memchr::memchr(b':', bytes)?];
        let value = str::from_utf8(digits).ok()?.parse().ok()?;
        (bytes == self.bytes(value)).then_some(value)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let (ops, versions) = std::mem::take(&mut *self.record.lock());
        let key = std::mem::take(&mut self.key);
        let (initial, born, may_vanish) = (self.initial, self.born_at, self.may_vanish);
        let history = History { key, initial, ops, versions, born, may_vanish };
        // Nobody judges any more once a run has failed.
        let _ = self.judge.send(history);
    }
}

/// The keys under attack at the moment.
pub(crate) struct Keys {
    pub(crate) load: Load,
    lives: RwLock<Vec<Arc<Life>>>,
    /// Where the swarm is.
    hot: AtomicUsize,
    values: AtomicU64,
}

impl Keys {
    pub(crate) fn new(load: Load) -> Self {
        Self { load, lives: RwLock::default(), hot: AtomicUsize::new(0), values: AtomicU64::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.lives.read().len()
    }

    pub(crate) fn get(&self, place: usize) -> Arc<Life> {
        Arc::clone(&self.lives.read()[place])
    }

    /// Puts a life in its place, or behind the last one.
    pub(crate) fn put(&self, place: usize, mut life: Arc<Life>) {
        let mut lives = self.lives.write();
        if place == lives.len() {
            return lives.push(life);
        }
        std::mem::swap(&mut lives[place], &mut life);
        // The old one may be handed in right here, outside of the lock.
        drop(lives);
        drop(life);
    }

    /// Every other time it is the key where all are at the moment.
    pub(crate) fn any(&self, random: &mut Rng) -> Arc<Life> {
        let places = self.len();
        if random.u8(0..40) == 0 {
            self.hot.store(random.usize(0..places), Relaxed);
        }
        self.get(if random.bool() { self.hot.load(Relaxed) } else { random.usize(0..places) })
    }

    /// A value that nobody has written yet.
    pub(crate) fn fresh(&self) -> Value {
        self.values.fetch_add(1, Relaxed) + 1
    }
}

/// What is sent, as one or several requests, and what the last reply to it means.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) command: &'static str,
    pub(crate) requests: Vec<Vec<Vec<u8>>>,
    pub(crate) meaning: Meaning,
}

#[derive(Clone)]
pub(crate) enum Meaning {
    /// It reads these keys.
    Reads(Vec<Arc<Life>>),
    Writes(Vec<(Arc<Life>, Value)>),
    /// It says what it replaced.
    Swaps(Arc<Life>, Value),
    /// Whoever sends it knows.
    Nothing,
}

impl Step {
    pub(crate) fn new(command: &'static str, requests: Vec<Vec<Vec<u8>>>, meaning: Meaning) -> Self {
        Self { command, requests, meaning }
    }

    /// The first key that it writes.
    pub(crate) fn first_key(&self) -> Option<Arc<Life>> {
        match &self.meaning {
            Meaning::Writes(written) => written.first().map(|(life, _)| Arc::clone(life)),
            Meaning::Swaps(life, _) => Some(Arc::clone(life)),
            Meaning::Reads(_) | Meaning::Nothing => None,
        }
    }

    /// A read of one key, or of several by MGET.
    pub(crate) fn random_read(keys: &Keys, random: &mut Rng) -> Self {
        let Load { exec_reads, ranges, .. } = keys.load;
        let drawn = random.f64();
        if drawn < exec_reads {
            Self::exec_get(keys.any(random))
        } else if drawn < exec_reads + ranges {
            Self::getrange(keys, random)
        } else if drawn > 1.0 - MGET_SHARE {
            let place = random.usize(0..keys.len());
            // Neighbours, which may be twins.
            let mut lives = vec![keys.get(place), keys.get(place ^ 1)];
            if random.bool() {
                lives.push(keys.get((place + 2) % keys.len()));
            }
            Self::mget(lives)
        } else {
            Self::get(keys.any(random))
        }
    }

    pub(crate) fn get(life: Arc<Life>) -> Self {
        let request = words(&["GET", &life.key]);
        Self::new("get", vec![request], Meaning::Reads(vec![life]))
    }

    fn getrange(keys: &Keys, random: &mut Rng) -> Self {
        let life = keys.any(random);
        let end = if random.u8(0..4) == 0 {
            (RANGE_END_MIN + random.u32(0..=keys.load.variants)).to_string()
        } else {
            "-1".to_owned()
        };
        let request = words(&["GETRANGE", &life.key, "0", &end]);
        Self::new("getrange", vec![request], Meaning::Reads(vec![life]))
    }

    fn mget(lives: Vec<Arc<Life>>) -> Self {
        let mut request = words(&["MGET"]);
        request.extend(lives.iter().map(|life| life.key.clone().into_bytes()));
        Self::new("mget", vec![request], Meaning::Reads(lives))
    }

    /// A read that always goes to Redis, and may show what no cached variant has heard of yet.
    fn exec_get(life: Arc<Life>) -> Self {
        let requests = vec![words(&["MULTI"]), words(&["GET", &life.key]), words(&["EXEC"])];
        Self::new("multi/get/exec", requests, Meaning::Reads(vec![life]))
    }

    /// A write of a value that is new.
    pub(crate) fn random_write(keys: &Keys, random: &mut Rng) -> Self {
        let (life, value) = (keys.any(random), keys.fresh());
        let (key, bytes) = (life.key.clone().into_bytes(), life.bytes(value));
        let set = vec![b"SET".to_vec(), key.clone(), bytes.clone()];
        let one = |command, requests| {
            Self::new(command, requests, Meaning::Writes(vec![(Arc::clone(&life), value)]))
        };
        match random.u8(0..100) {
            0..25 => one("set", vec![set]),
            25..40 => {
                let request = vec![b"GETSET".to_vec(), key, bytes];
                Self::new("getset", vec![request], Meaning::Swaps(life, value))
            }
            40..55 => one("multi/set/exec", vec![words(&["MULTI"]), set, words(&["EXEC"])]),
            55..65 => {
                let script = b"return redis.call('SET', KEYS[1], ARGV[1])".to_vec();
                one("eval", vec![vec![b"EVAL".to_vec(), script, b"1".to_vec(), key, bytes]])
            }
            65..75 => {
                let script = b"return redis.call('SET', ARGV[1], ARGV[2])".to_vec();
                one("eval undeclared", vec![vec![b"EVAL".to_vec(), script, b"0".to_vec(), key, bytes]])
            }
            75..85 => {
                // The key that is written is not the first one.
                let source = format!("source:{value}").into_bytes();
                let make = vec![b"SET".to_vec(), source.clone(), bytes];
                one("rename", vec![make, vec![b"RENAME".to_vec(), source, key]])
            }
            85..92 => Self::mset(keys, random, life, value),
            _ if life.may_be_deleted.swap(false, Relaxed) => {
                Self::new("del", vec![vec![b"DEL".to_vec(), key]], Meaning::Writes(vec![(life, NOTHING)]))
            }
            _ => one("set", vec![set]),
        }
    }

    fn mset(keys: &Keys, random: &mut Rng, life: Arc<Life>, value: Value) -> Self {
        let mut written = vec![(life, value)];
        let other = keys.any(random);
        if !Arc::ptr_eq(&other, &written[0].0) {
            written.push((other, keys.fresh()));
        }
        let mut request = words(&["MSET"]);
        for (life, value) in &written {
            request.extend([life.key.clone().into_bytes(), life.bytes(*value)]);
        }
        Self::new("mset", vec![request], Meaning::Writes(written))
    }
}

pub(crate) fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}
