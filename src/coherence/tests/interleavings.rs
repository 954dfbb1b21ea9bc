//! Who holds which lock when: the real slots, shards, certifier and guards under Shuttle's scheduler.
//!
//! Readers, a writer, an outside writer, the link and whoever evicts run as threads over one [`Coherence`] of two
//! keys, and the scheduler decides at every lock and atomic who goes on. The server is a counter for each key
//! behind a lock: a read says its number. No reader may be told a smaller number than one that another had been told,
//! or whose write had been acknowledged, when it began.
//!
//! `NEARHIT_INTERLEAVINGS=n` draws n schedules instead of the ten thousand of the short run, at random and by random
//! priorities. Orderings weaker than sequential consistency are beyond it. The broken variants at
//! the end are found, or the search would prove nothing; they want the feature `mutations`, too.

use std::{collections::VecDeque, env, panic, sync::Arc, time::Duration};

use shuttle::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc::{Sender, channel},
    },
    thread,
};

use super::super::*;
use crate::{
    config::Eviction,
    ids::{Database, IdentityId},
};

const KEYS: usize = 2;
const NAMES: [&[u8]; KEYS] = [b"a", b"b"];
const SERVER: ServerId = ServerId(1);
const SCHEDULES: usize = 10_000;

/// Those who joined are sent the value, or nothing if they have to ask for themselves.
type Waiter = Sender<Option<u64>>;

/// The upstream: what each key holds, and what the link has not heard of yet.
#[derive(Default)]
struct Server {
    values: [u64; KEYS],
    pushes: VecDeque<usize>,
}

struct World {
    coherence: Arc<Coherence<Waiter>>,
    server: Mutex<Server>,
    clock: AtomicU64,
    /// What the oldest value is that may be read of each key from now on.
    floors: [AtomicU64; KEYS],
}

impl World {
    fn new(bytes_max: usize) -> Arc<Self> {
        let settings = Settings {
            phase: Phase::Down,
            max_staleness: Duration::from_secs(1),
            ttl: Duration::from_hours(1),
            touch_interval: Duration::ZERO,
            prefixes: Vec::new(),
            canary_key: None,
            workers: 1,
        };
        let limits =
            Limits { entries_max: 0, bytes_max, value_bytes_max: 0, shards: 2, eviction: Eviction::S3Fifo };
        let world = Self {
            coherence: Arc::new(Coherence::new(settings, limits, Arc::default())),
            server: Mutex::default(),
            clock: AtomicU64::new(1),
            floors: Default::default(),
        };
        world.coherence.link_synced(SERVER);
        world.coherence.link_certified(Nanos(1));
        Arc::new(world)
    }

    fn now(&self) -> Nanos {
        Nanos(self.clock.fetch_add(1, SeqCst))
    }

    fn get(&self, key: usize) -> u64 {
        self.server.lock().unwrap().values[key]
    }

    fn set(&self, key: usize) -> u64 {
        let mut server = self.server.lock().unwrap();
        server.values[key] += 1;
        server.pushes.push_back(key);
        server.values[key]
    }

    fn set_outside(&self, key: usize) {
        self.set(key);
    }

    /// One client's read, from beginning to end. `field` is which variant of the key it asks for.
    fn read(&self, key: usize, field: usize) {
        let floor = self.floors[key].load(SeqCst);
        let value = self.ask(key, field);
        assert!(value >= floor, "key {key}: {value} was read after {floor}");
        self.floors[key].fetch_max(value, SeqCst);
    }

    fn ask(&self, key: usize, field: usize) -> u64 {
        let variant = VariantKey {
            identity: IdentityId(1),
            database: Database(0),
            protocols: Protocols::Both,
            command: 1,
            tail: NAMES[field],
        };
        let name = NAMES[key];
        let batch = self.coherence.batch(self.now());
        if let Some(value) = self.coherence.hit(name, &variant, &batch, |hit| number(hit.reply)) {
            return value;
        }
        let (waiter, answer) = channel();
        let missed = Missed { key: name, variant: &variant, server: SERVER };
        match self.coherence.miss(&missed, &batch, |hit| number(hit.reply), || waiter) {
            Read::Hit(value) => value,
            Read::Joined => match answer.recv() {
                Ok(Some(value)) => value,
                Ok(None) | Err(_) => self.ask_apart(key, variant, batch.now),
            },
            Read::Bypass(_) => self.ask_apart(key, variant, batch.now),
            Read::Fetch(token) => {
                let value = self.get(key);
                let bytes = value.to_string();
                let response = Response {
                    raw: Raw::Borrowed(bytes.as_bytes()),
                    pttl: -1,
                    is_missing: false,
                    is_hash: false,
                    arrived: self.now(),
                };
                let filled = self.coherence.fill(name, token, &response);
                for waiter in filled.waiters {
                    waiter.send(Some(value)).expect("who joined waits");
                }
                for waiter in filled.latecomers {
                    waiter.send(None).expect("who joined waits");
                }
                value
            }
        }
    }

    /// A read that fills nothing.
    fn ask_apart(&self, key: usize, variant: VariantKey<'_>, sent_at: Nanos) -> u64 {
        let value = self.get(key);
        let bytes = value.to_string();
        self.coherence.observe_read(
            NAMES[key],
            variant,
            &Raw::Borrowed(bytes.as_bytes()),
            sent_at,
            self.now(),
        );
        value
    }

    /// A write through the proxy, from beginning to acknowledgement.
    fn write(&self, key: usize) {
        let guard = self.coherence.begin_write(WriteKind::Declared, std::iter::once(NAMES[key]));
        let value = self.set(key);
        assert_eq!(guard.complete(self.now()), Acknowledge::Now);
        self.floors[key].fetch_max(value, SeqCst);
    }

    /// The link: it applies a push, or certifies a moment up to which it has applied all.
    fn hear(&self) {
        let asked = self.now();
        let push = self.server.lock().unwrap().pushes.pop_front();
        match push {
            Some(key) => self.coherence.link_invalidated(NAMES[key]),
            None => self.coherence.link_certified(asked),
        }
    }

    fn sweep(&self) {
        let at = self.coherence.moment(self.now());
        (0..self.coherence.cache().shards()).for_each(|shard| {
            self.coherence.cache().sweep(shard, &at);
        });
    }

    /// All is certified and swept. What a record has to remember until then makes it longer, and makes nobody evict: only
    /// the next fill would.
    fn settle(&self) {
        while !self.server.lock().unwrap().pushes.is_empty() {
            self.hear();
        }
        self.hear();
        self.sweep();
    }
}

fn number(reply: Reply<'_>) -> u64 {
    let bytes = reply.bytes().expect("no value is nil");
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).expect("a value is a number")
}

/// Runs these as threads of one world that has something to hit, until all have ended.
fn all_at_once(bytes_max: usize, acts: &[fn(&World)]) {
    let world = World::new(bytes_max);
    for key in 0..KEYS {
        world.read(key, 0);
    }
    let run = |act: &fn(&World)| {
        let (world, act) = (Arc::clone(&world), *act);
        thread::spawn(move || act(&world))
    };
    let running: Vec<_> = acts.iter().map(run).collect();
    running.into_iter().for_each(|one| one.join().unwrap());
    world.settle();
    world.coherence.cache().check_invariants();
}

/// Readers of two variants of two keys, a writer of both, an outside writer, the link, and whoever evicts.
fn everybody(bytes_max: usize) {
    let acts: [fn(&World); 7] = [
        |world| (0..6).for_each(|_| world.read(0, 0)),
        |world| (0..6).for_each(|n| world.read(0, n % 2)),
        |world| (0..6).for_each(|n| world.read(n % 2, n / 4)),
        |world| [0, 1].into_iter().for_each(|key| world.write(key)),
        |world| world.set_outside(0),
        // Few enough times that some pushes come late.
        |world| (0..4).for_each(|_| world.hear()),
        World::sweep,
    ];
    all_at_once(bytes_max, &acts);
}

/// Readers of two variants of one key, which others write, and a link that is behind.
fn readers_of_what_others_write() {
    let acts: [fn(&World); 4] = [
        |world| (0..6).for_each(|n| world.read(0, 1 - n / 3)),
        |world| (0..6).for_each(|_| world.read(0, 0)),
        |world| (0..2).for_each(|_| world.set_outside(0)),
        |world| (0..4).for_each(|_| world.hear()),
    ];
    all_at_once(0, &acts);
}

fn schedules() -> usize {
    env::var("NEARHIT_INTERLEAVINGS").map_or(SCHEDULES, |text| text.parse().expect("a number of schedules"))
}

#[test]
fn no_interleaving_shows_an_older_value() {
    shuttle::check_random(|| everybody(0), schedules());
    shuttle::check_pct(|| everybody(0), schedules(), 4);
}

#[test]
fn no_interleaving_with_evictions_shows_an_older_value() {
    // One key of one variant fits, and not one of two, nor both while one is more than a lone entry. By bytes, since a
    // cache of one entry has one shard, and room is to be made in the other, too.
    shuttle::check_random(|| everybody(400), schedules());
    shuttle::check_pct(|| everybody(400), schedules(), 4);
}

#[test]
fn no_interleaving_with_outside_writes_goes_back() {
    shuttle::check_random(readers_of_what_others_write, schedules());
    shuttle::check_pct(readers_of_what_others_write, schedules(), 4);
}

/// The loss of a link between a read and its fill.
#[test]
fn no_interleaving_fills_across_the_loss_of_the_link() {
    shuttle::check_random(link_is_lost, schedules());
    shuttle::check_pct(link_is_lost, schedules(), 3);
}

fn link_is_lost() {
    let world = World::new(0);
    let reader = {
        let world = Arc::clone(&world);
        thread::spawn(move || (0..3).for_each(|_| world.read(0, 0)))
    };
    let link = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            world.coherence.link_lost("the test has cut it");
            // What is changed now, no push will ever tell of.
            world.server.lock().unwrap().values[0] += 1;
            world.coherence.link_synced(SERVER);
            world.coherence.link_certified(world.now());
        })
    };
    link.join().unwrap();
    let now = world.get(0);
    world.floors[0].fetch_max(now, SeqCst);
    world.read(0, 0);
    reader.join().unwrap();
    world.read(0, 0);
}

/// A worker that parks and the link that certifies: one of them sees the other, whoever comes first.
#[test]
fn no_interleaving_forgets_a_parked_reply() {
    shuttle::check_random(park_and_certify, schedules());
    shuttle::check_pct(park_and_certify, schedules(), 3);
}

fn park_and_certify() {
    let world = World::new(0);
    let certifier = |world: &World| {
        let certifier = world.coherence.certifier();
        (certifier.certified(), certifier.is_wanted())
    };
    let worker = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let certifier = world.coherence.certifier();
            let moment = Nanos(5);
            certifier.park();
            certifier.want(moment);
            certifier.is_past(moment)
        })
    };
    world.coherence.link_certified(Nanos(5));
    let is_past = worker.join().unwrap();
    let woken = {
        let notify = world.coherence.certifier().worker(0);
        let mut notified = std::pin::pin!(notify.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        notified.as_mut().poll(&mut context).is_ready()
    };
    assert!(is_past || woken, "parked, and nobody comes: {:?}", certifier(&world));
}

#[cfg(feature = "mutations")]
mod broken {
    use super::*;
    use crate::mutation::{self, Mutation};

    #[track_caller]
    fn is_found(mutation: Mutation, run: fn()) {
        let found = panic::catch_unwind(|| {
            mutation::with(Some(mutation), || shuttle::check_pct(run, 20_000, 4));
        });
        let Err(panicked) = found else { panic!("{}: no schedule shows it", mutation.name()) };
        // Not by an assertion that fails within: a reader has to have been told something wrong.
        let said = panicked.downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        assert!(said.contains(" was read after "), "{}: found for another reason: {said}", mutation.name());
    }

    #[test]
    fn a_fill_that_does_not_look_at_its_token_is_found() {
        is_found(Mutation::NoTokenCheck, || everybody(0));
    }

    #[test]
    fn an_acknowledgement_before_the_drop_is_found() {
        is_found(Mutation::AcknowledgeBeforeDrop, || everybody(0));
    }

    #[test]
    fn not_remembering_what_was_seen_is_found() {
        is_found(Mutation::SeenNotMoved, readers_of_what_others_write);
    }

    #[test]
    fn a_generation_that_stays_is_found() {
        is_found(Mutation::GenerationKept, link_is_lost);
    }
}
