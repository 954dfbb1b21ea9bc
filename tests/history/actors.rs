//! Who attacks the keys: readers, swarms, writers, and the authors of versions.
//!
//! The mix is made so that the guards matter. A guard that is missing shows only if a read is under way while
//! something changes and nobody writes for a moment afterwards, while many read: so writers are quiet and readers many,
//! they keep to a few keys, and a write on one connection is followed at once by reads on others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::{Mutex, RwLock};

use super::caller::{Caller, Shared};
use super::generator::{Keys, Life, Meaning, Nature, Step, words};
use super::outside::Outside;
use super::recorder::{Door, History, NOTHING, UNKNOWN, Value, Written, now};
use super::strikes::Chaser;
use super::trouble::Trouble;
use crate::common::{Proxy, Relay};

/// Connections of one swarm, which all ask the same at once.
const SWARM_SIZE: usize = 5;
const PIPELINE_MAX: usize = 8;
/// Some pairs of versions are written so seldom that a value kept too long would be noticed.
const QUIET_TEMPO: Duration = Duration::from_millis(450);
const QUIET_LIFE: Duration = Duration::from_millis(1_600);
const TTL_MS: std::ops::Range<u64> = 3..60;

/// What all actors of a run share.
pub(crate) struct Stage<'a> {
    pub(crate) proxy: &'a Proxy,
    /// It knows where the server is.
    pub(crate) relay: &'a Relay,
    pub(crate) keys: Keys,
    pub(crate) shared: Arc<Shared>,
    pub(crate) is_over: Arc<AtomicBool>,
    judge: Sender<History>,
    names: AtomicU64,
    /// Held for writing by who flushes everything, and for reading by who writes a version.
    flushing: RwLock<()>,
    /// Every life that may still be read, for who flushes everything.
    lives: Mutex<Vec<Weak<Life>>>,
    /// See [`keep_ledger`].
    ledger: Mutex<Vec<String>>,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(
        proxy: &'a Proxy,
        relay: &'a Relay,
        shared: Arc<Shared>,
        is_over: Arc<AtomicBool>,
        judge: Sender<History>,
        trouble: Trouble,
    ) -> Self {
        Self {
            proxy,
            relay,
            keys: Keys::new(trouble.load()),
            shared,
            is_over,
            judge,
            names: AtomicU64::new(0),
            flushing: RwLock::new(()),
            lives: Mutex::default(),
            ledger: Mutex::default(),
        }
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    fn caller(&self) -> Caller {
        Caller::connect(self.proxy.addr(), &self.shared)
    }

    fn begin(&self, nature: Nature) -> Arc<Life> {
        let life = Life::new(nature, self.judge.clone());
        let mut lives = self.lives.lock();
        lives.retain(|life| life.strong_count() > 0);
        lives.push(Arc::downgrade(&life));
        life
    }

    pub(crate) fn outside(&self) -> Outside<'a> {
        Outside::new(self.relay)
    }

    /// Gives all keys up as soon as may be.
    pub(crate) fn retire(&self) {
        self.lives.lock().iter().filter_map(Weak::upgrade).for_each(|life| life.is_over.store(true, Relaxed));
    }

    /// Gives a key up for a new one, which begins with nothing or with a value.
    pub(crate) fn renew(&self, place: usize, random: &mut Rng, outside: &mut Outside<'_>) {
        let life = |random: &mut Rng, initial| {
            let key = format!("key:{}", self.names.fetch_add(1, Relaxed));
            self.begin(Nature::random(random, &self.keys.load, key, initial))
        };
        let initial = if random.bool() { self.keys.fresh() } else { NOTHING };
        let mut begun = life(random, initial);
        if initial != NOTHING {
            // Nobody knows the key yet, so this needs no record.
            let set = vec![b"SET".to_vec(), begun.key.clone().into_bytes(), begun.bytes(initial)];
            if outside.ask_all(&[set]).is_none() {
                // What is in this one now, nobody knows.
                begun = life(random, NOTHING);
            }
        }
        self.keys.put(place, begun);
    }

    /// Once everything is mended.
    pub(crate) fn check_ledger(&self) {
        let mut outside = self.outside();
        for key in self.ledger.lock().iter() {
            if outside.text(&format!("GET {key}")) != "entered" {
                return self.shared.complain(format!("SET {key} was acknowledged, and is lost"));
            }
        }
    }

    /// Gives a pair up for a new one, which begins with nothing.
    pub(crate) fn renew_pair(&self, place: usize, random: &mut Rng) {
        let number = self.names.fetch_add(1, Relaxed);
        let (is_volatile, is_quiet) = (random.u8(0..4) == 0, random.u8(0..4) == 0);
        let mut nature = Nature::random(random, &self.keys.load, String::new(), NOTHING);
        for (place, side) in [(place, 'a'), (place + 1, 'b')] {
            nature.key = format!("pair:{number}:{side}");
            nature.pair = Some(number);
            nature.is_volatile = is_volatile;
            if is_quiet {
                (nature.tempo, nature.lasts) = (QUIET_TEMPO, QUIET_LIFE);
            }
            self.keys.put(place, self.begin(nature.clone()));
        }
    }
}

/// Reads, one by one or in pipelines, for a while the same.
pub(crate) fn read(stage: &Stage<'_>, random: &mut Rng) {
    let mut caller = stage.caller();
    while stage.goes_on() {
        match random.u8(0..10) {
            0..2 => {
                let depth = random.usize(2..=PIPELINE_MAX);
                let steps = (0..depth).map(|_| Step::random_read(&stage.keys, random)).collect();
                caller.pipeline(steps, random);
            }
            2 => {
                let step = Step::random_read(&stage.keys, random);
                for _ in 0..random.u8(2..10) {
                    caller.call(step.clone());
                }
            }
            _ => drop(caller.call(Step::random_read(&stage.keys, random))),
        }
    }
}

/// Asks the same on all its connections before it reads the first answer.
pub(crate) fn swarm(stage: &Stage<'_>, random: &mut Rng) {
    let mut callers: Vec<Caller> = (0..SWARM_SIZE).map(|_| stage.caller()).collect();
    while stage.goes_on() {
        let step = Step::random_read(&stage.keys, random);
        callers.iter_mut().for_each(|caller| caller.send(step.clone()));
        callers.iter_mut().for_each(|caller| drop(caller.finish()));
    }
}

/// Writes, at the pace of the key, alone or in a pipeline with reads of the same keys. Renews its share of the keys.
pub(crate) fn write(stage: &Stage<'_>, random: &mut Rng, share: (usize, usize)) {
    let mut caller = stage.caller();
    let mut outside = stage.outside();
    while stage.goes_on() {
        for place in (share.0..stage.keys.len()).step_by(share.1) {
            if stage.keys.get(place).is_due() {
                stage.renew(place, random, &mut outside);
            }
        }
        let step = Step::random_write(&stage.keys, random);
        let Some(life) = step.first_key() else { continue };
        pause(life.tempo, random);
        if random.bool() {
            caller.call(step);
            continue;
        }
        let mut steps = vec![step];
        for _ in 0..random.u8(1..4) {
            let read = if random.bool() {
                Step::get(Arc::clone(&life))
            } else {
                Step::random_read(&stage.keys, random)
            };
            let place = random.usize(0..=steps.len());
            steps.insert(place, read);
        }
        drop(life);
        caller.pipeline(steps, random);
    }
}

/// Writes on one connection and reads on another: before the write is acknowledged, or as soon as it is.
pub(crate) fn alternate(stage: &Stage<'_>, random: &mut Rng) {
    let mut callers: Vec<Caller> = (0..4).map(|_| stage.caller()).collect();
    while stage.goes_on() {
        let step = Step::random_write(&stage.keys, random);
        let Some(life) = step.first_key() else { continue };
        pause(life.tempo, random);
        random.shuffle(&mut callers);
        let [writer, early, readers @ ..] = callers.as_mut_slice() else { continue };
        writer.send(step);
        let is_early = random.bool();
        if is_early {
            thread::sleep(Duration::from_micros(random.u64(0..300)));
            early.send(Step::get(Arc::clone(&life)));
        }
        writer.finish();
        for reader in readers.iter_mut() {
            reader.call(Step::get(Arc::clone(&life)));
        }
        if is_early {
            early.finish();
        }
    }
}

/// Writes keys that nobody else does, once each. In the end the server must have all that were acknowledged.
pub(crate) fn keep_ledger(stage: &Stage<'_>, random: &mut Rng) {
    let mut caller = stage.caller();
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while stage.goes_on() {
        number += 1;
        let key = format!("ledger:{number}");
        let step = Step::new("set", vec![words(&["SET", &key, "entered"])], Meaning::Nothing);
        if caller.call(step).end != UNKNOWN {
            acknowledged.push(key);
        }
        pause(Duration::from_millis(10), random);
    }
    *stage.ledger.lock() = acknowledged;
}

/// Writes the versions of its share of the pairs, past the proxy or through it.
pub(crate) fn publish(stage: &Stage<'_>, random: &mut Rng, share: (usize, usize)) {
    let mut author =
        Author { stage, proxy: stage.caller(), reader: stage.caller(), outside: stage.outside() };
    let places: Vec<usize> = (2 * share.0..stage.keys.len()).step_by(2 * share.1).collect();
    let mut due: Vec<u64> = vec![0; places.len()];
    while stage.goes_on() {
        for (place, due) in places.iter().zip(&mut due) {
            let pair = [stage.keys.get(*place), stage.keys.get(place + 1)];
            if pair.iter().any(|life| life.is_due()) {
                stage.renew_pair(*place, random);
            } else if *due <= now() {
                author.publish(&pair, random);
                let tempo = super::recorder::nanoseconds(pair[0].tempo);
                *due = now() + random.u64(0..=2 * tempo);
            }
        }
        if stage.keys.load.turns_per_flush.is_some_and(|turns| random.u16(0..turns) == 0) {
            author.flush(random);
        }
        thread::sleep(Duration::from_micros(300));
    }
}

struct Author<'a> {
    stage: &'a Stage<'a>,
    proxy: Caller,
    reader: Caller,
    outside: Outside<'a>,
}

impl Author<'_> {
    /// Writes the next version of both keys, at one moment.
    fn publish(&mut self, pair: &[Arc<Life>; 2], random: &mut Rng) {
        let _no_flush = self.stage.flushing.read();
        let version = pair[0].next_version();
        let ttl = pair[0].is_volatile.then(|| Duration::from_millis(random.u64(TTL_MS)));
        let removes = random.u8(0..12) == 0;
        let (command, requests) = if removes {
            ("del", vec![words(&["DEL", &pair[0].key, &pair[1].key])])
        } else {
            set_both(pair, version, ttl, random)
        };
        let ttl = ttl.filter(|_| !removes);
        let (door, start, end) = self.write(command, requests, random);
        for life in pair {
            life.record_version(|version| Written { version, door, removes, ttl, command, start, end });
            if end == UNKNOWN {
                // It may happen yet, and then the next version would not be the next.
                life.is_over.store(true, Relaxed);
            }
        }
        if door == Door::Proxy {
            let life = &pair[random.usize(0..2)];
            self.reader.call(Step::get(Arc::clone(life)));
        }
    }

    /// Deletes everything there is.
    fn flush(&mut self, random: &mut Rng) {
        let _alone = self.stage.flushing.write();
        let (door, start, end) = self.write("flushall", vec![words(&["FLUSHALL"])], random);
        for life in self.stage.lives.lock().iter().filter_map(Weak::upgrade) {
            let (removes, ttl, command) = (true, None, "flushall");
            life.record_version(|version| Written { version, door, removes, ttl, command, start, end });
            if end == UNKNOWN {
                life.is_over.store(true, Relaxed);
            }
        }
    }

    fn write(
        &mut self,
        command: &'static str,
        requests: Vec<Vec<Vec<u8>>>,
        random: &mut Rng,
    ) -> (Door, u64, u64) {
        let tally = &self.stage.shared.tally;
        tally.writes.fetch_add(1, Relaxed);
        if random.u8(0..3) == 0 {
            let answer = self.proxy.call(Step::new(command, requests, Meaning::Nothing));
            tally.unknown.fetch_add(u64::from(answer.end == UNKNOWN), Relaxed);
            return (Door::Proxy, answer.start, answer.end);
        }
        let start = now();
        let _chase = self.stage.shared.chases.read();
        let is_chased = self.stage.shared.is_chased.load(Relaxed);
        let mut chaser = is_chased.then(|| Chaser::new(self.stage.relay, random));
        let sent = match &mut chaser {
            None => self.outside.send(&requests),
            Some(chaser) => chaser.follow(|| self.outside.send(&requests)),
        };
        let is_done = sent.is_some()
            && requests.iter().all(|_| self.outside.reply().is_some_and(|reply| reply[0] != b'-'));
        let end = if is_done { now() } else { UNKNOWN };
        if !is_done {
            assert!(self.stage.shared.may_fail(), "{command} was refused outside, with nothing broken");
            tally.unknown.fetch_add(1, Relaxed);
            // Whatever else it may have been answered.
            self.outside = self.stage.outside();
        }
        if let Some(chaser) = chaser {
            chaser.wait();
        }
        (Door::Outside, start, end)
    }
}

fn set_both(
    pair: &[Arc<Life>; 2],
    version: Value,
    ttl: Option<Duration>,
    random: &mut Rng,
) -> (&'static str, Vec<Vec<Vec<u8>>>) {
    let keys = pair.each_ref().map(|life| life.key.clone().into_bytes());
    let values = pair.each_ref().map(|life| life.bytes(version));
    let expiry = ttl.map(|ttl| words(&["PX", &ttl.as_millis().to_string()])).unwrap_or_default();
    let sets = keys
        .iter()
        .zip(&values)
        .map(|(key, value)| [vec![b"SET".to_vec(), key.clone(), value.clone()], expiry.clone()].concat());
    let px = if ttl.is_some() { ", 'PX', ARGV[5]" } else { "" };
    let last = ttl.map_or(0, |ttl| ttl.as_millis()).to_string();
    let script = |keys: [&str; 2]| {
        let set = |key, value| format!("redis.call('SET', {key}, ARGV[{value}]{px})");
        format!("{} {} return 1", set(keys[0], 3), set(keys[1], 4)).into_bytes()
    };
    match random.u8(0..10) {
        0..3 => {
            // The script's arguments stand where those of the undeclared one do.
            let mut request = vec![b"EVAL".to_vec(), script(["KEYS[1]", "KEYS[2]"]), b"2".to_vec()];
            request.extend(keys.clone());
            request.extend([keys, values].concat());
            request.push(last.into_bytes());
            ("eval", vec![request])
        }
        3..5 => {
            let mut request = vec![b"EVAL".to_vec(), script(["ARGV[1]", "ARGV[2]"]), b"0".to_vec()];
            request.extend([keys, values].concat());
            request.push(last.into_bytes());
            ("eval undeclared", vec![request])
        }
        5..8 if ttl.is_none() => {
            let mut request = words(&["MSET"]);
            request.extend(keys.into_iter().zip(values).flat_map(|(key, value)| [key, value]));
            ("mset", vec![request])
        }
        _ => {
            let requests = [vec![words(&["MULTI"])], sets.collect(), vec![words(&["EXEC"])]].concat();
            ("multi/set/set/exec", requests)
        }
    }
}

fn pause(up_to: Duration, random: &mut Rng) {
    thread::sleep(up_to.mul_f64(random.f64()));
}
