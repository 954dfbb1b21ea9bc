//! The cache against a naive model of the same rules: a map of plain structs, no shards, no compact form, no books.
//!
//! Random steps over few keys and variants; every answer has to be the model's, and the books have to add up after
//! every step. What has expired or is of another generation does not exist for the model. With bounds, the cache
//! knows less than the model, and what it knows may wait for less; but it never says anything else.

use std::collections::HashMap;

use super::*;

const KEYS: [&[u8]; 4] = [b"a", b"b", b"key:000000000003", b""];
const TAILS: [&[u8]; 12] = [b"", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"10", b"11"];

type Waiter = u32;

#[derive(Default)]
struct Key {
    writers: u32,
    seen_at: u64,
    heard_at: u64,
    entries: HashMap<usize, Entry>,
    flights: HashMap<usize, Flight>,
}

struct Entry {
    reply: Vec<u8>,
    sent_at: u64,
    deadline: u64,
}

struct Flight {
    number: usize,
    sent_at: u64,
}

/// A token and what the model knows of it.
struct Outstanding {
    token: Token<Waiter>,
    number: usize,
    key: usize,
    tail: usize,
    sent_at: u64,
    generation: u64,
    waiters: Vec<(u64, Waiter)>,
}

/// What a reader is told.
#[derive(Debug, PartialEq)]
enum Told {
    Hit(Vec<u8>),
    Joined,
    Fetch,
    Bypass,
}

struct Model {
    now: u64,
    certified: u64,
    generation: u64,
    keys: [Key; KEYS.len()],
}

impl Model {
    /// What is gone does not exist.
    fn tidy(&mut self) {
        for key in &mut self.keys {
            key.entries.retain(|_, entry| self.now < entry.deadline);
            if key.entries.is_empty() && key.flights.is_empty() {
                (key.seen_at, key.heard_at) = (0, 0);
            }
        }
    }

    fn is_usable(&self, key: &Key, sent_at: u64) -> bool {
        self.certified >= key.seen_at || sent_at >= key.heard_at
    }

    fn hit(&self, key: usize, tail: usize) -> Option<Vec<u8>> {
        let key = &self.keys[key];
        let entry = key.entries.get(&tail)?;
        self.is_usable(key, entry.sent_at).then(|| entry.reply.clone())
    }

    fn read(&self, key: usize, tail: usize, may_join: bool) -> Told {
        if let Some(reply) = self.hit(key, tail) {
            return Told::Hit(reply);
        }
        let key = &self.keys[key];
        match key.flights.get(&tail) {
            _ if key.writers > 0 => Told::Bypass,
            Some(flight) if may_join && self.is_usable(key, flight.sent_at) => Told::Joined,
            Some(_) => Told::Bypass,
            None => Told::Fetch,
        }
    }

    fn clear(&mut self, key: usize) {
        self.keys[key].entries.clear();
        self.keys[key].flights.clear();
    }

    fn holds(&self, key: usize, tail: usize, reply: &[u8]) -> bool {
        self.keys[key].entries.get(&tail).is_some_and(|entry| entry.reply == reply)
    }

    /// An upstream reply, `stored` until a deadline or not.
    fn arrive(&mut self, key: usize, read: Option<(usize, &[u8], u64)>, stored: Option<u64>) {
        let is_equal = read.is_some_and(|(tail, reply, _)| self.holds(key, tail, reply));
        let (now, certified) = (self.now, self.certified);
        let own = read.map(|(tail, ..)| tail);
        let key = &mut self.keys[key];
        let is_alone = key.flights.is_empty() && key.entries.keys().all(|tail| Some(*tail) == own);
        let is_nothing = key.flights.is_empty() && key.entries.is_empty();
        let hear = |key: &mut Key| {
            key.heard_at = now;
            if !is_equal {
                key.seen_at = now;
            }
        };
        match (read, stored) {
            (Some((tail, reply, sent_at)), Some(deadline)) => {
                if !is_alone {
                    hear(key);
                }
                key.entries.insert(tail, Entry { reply: reply.to_vec(), sent_at, deadline });
            }
            (Some((tail, _, sent_at)), None) if is_equal && is_alone => {
                let is_usable = |at: u64| certified >= key.seen_at || at >= key.heard_at;
                let entry = key.entries.get_mut(&tail).unwrap();
                if !is_usable(entry.sent_at) {
                    entry.sent_at = entry.sent_at.max(sent_at);
                }
            }
            _ if is_nothing => {}
            _ => hear(key),
        }
    }
}

struct Run {
    rng: fastrand::Rng,
    cache: Cache<Waiter>,
    /// Whether the cache may evict.
    is_bounded: bool,
    model: Model,
    tokens: Vec<Outstanding>,
    next: usize,
    hits: usize,
}

impl Run {
    fn new(seed: u64, entries_max: usize, eviction: Eviction) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            cache: Cache::new(Limits { entries_max, eviction, ..UNBOUNDED }),
            is_bounded: entries_max > 0,
            model: Model { now: 1, certified: 0, generation: 1, keys: Default::default() },
            tokens: Vec::new(),
            next: 0,
            hits: 0,
        }
    }

    fn at(&self) -> Moment {
        let Model { now, certified, generation, .. } = self.model;
        Moment { now: ms(now), certified: ms(certified), generation: Generation(generation) }
    }

    fn step(&mut self) {
        self.model.now += self.rng.u64(0..3);
        self.model.tidy();
        let key = self.rng.usize(0..KEYS.len());
        // Few variants of some keys, many of others.
        let tail = self.rng.usize(0..[1, 2, 12, 12][key]);
        match self.rng.u32(0..100) {
            0..45 => self.read(key, tail),
            45..70 => self.fill(),
            70..78 => self.observe(key, tail),
            78..80 => self.abandon(),
            80..84 => {
                self.cache.begin_write(KEYS[key]);
                self.model.clear(key);
                self.model.keys[key].writers += 1;
            }
            84..89 if self.model.keys[key].writers > 0 => {
                self.cache.end_write(KEYS[key]);
                self.model.clear(key);
                self.model.keys[key].writers -= 1;
            }
            89..91 => {
                let model = &self.model.keys[key];
                let is_known = model.writers > 0 || !model.flights.is_empty() || !model.entries.is_empty();
                // What has expired or was evicted may or may not be there still.
                assert!(self.cache.invalidate(KEYS[key]) || !is_known || self.is_bounded);
                self.model.clear(key);
            }
            91..96 => self.model.certified = self.rng.u64(self.model.certified..=self.model.now),
            96..98 => self.sweep(),
            98 if self.rng.u32(0..10) == 0 => {
                self.model.generation += 1;
                (0..KEYS.len()).for_each(|key| self.model.clear(key));
            }
            _ => {}
        }
        self.cache.check_invariants();
    }

    fn read(&mut self, key: usize, tail: usize) {
        let (variant, at) = (field(TAILS[tail]), self.at());
        let expected = self.model.hit(key, tail);
        let shown = self.cache.shown(KEYS[key], &variant, &at);
        if self.is_bounded {
            let known = self.model.keys[key].entries.get(&tail).map(|entry| &entry.reply);
            assert!(shown.is_none() || shown.as_ref() == known, "{shown:?} is not {known:?}");
        } else {
            assert_eq!(shown, expected);
        }
        if shown.is_some() {
            self.hits += 1;
            return;
        }
        let may_join = self.rng.u32(0..6) > 0;
        self.next += 1;
        let (number, waiter) = (self.next, self.next as Waiter);
        let found = |hit: Hit<'_>| hit.reply.bytes().unwrap_or(b"nil").to_vec();
        let read = if may_join {
            self.cache.join_or_fetch(KEYS[key], &variant, &at, found, || waiter)
        } else {
            let token = self.cache.fetch_only(KEYS[key], &variant, &at);
            token.map_or(Read::Bypass(Bypass::InFlight), Read::Fetch)
        };
        let sent_at = self.model.now;
        let told = match read {
            Read::Hit(reply) => Told::Hit(reply),
            Read::Bypass(_) => Told::Bypass,
            Read::Joined => {
                let flight = &self.model.keys[key].flights[&tail];
                let mut tokens = self.tokens.iter_mut();
                let token = tokens.find(|token| token.number == flight.number).unwrap();
                token.waiters.push((sent_at, waiter));
                Told::Joined
            }
            Read::Fetch(token) => {
                let generation = self.model.generation;
                let waiters = Vec::new();
                self.tokens.push(Outstanding { token, number, key, tail, sent_at, generation, waiters });
                Told::Fetch
            }
        };
        if !self.is_bounded {
            assert_eq!(told, self.model.read(key, tail, may_join));
        }
        if told == Told::Fetch {
            self.model.keys[key].flights.insert(tail, Flight { number, sent_at });
        }
    }

    fn fill(&mut self) {
        if self.tokens.is_empty() {
            return;
        }
        let token = self.tokens.swap_remove(self.rng.usize(0..self.tokens.len()));
        let (key, tail, at) = (token.key, token.tail, self.at());
        let reply = self.some_reply(tail);
        let deadline = (self.rng.u32(0..10) > 0).then(|| token.sent_at + self.rng.u64(0..200));
        let filled = self.cache.fill(
            KEYS[key],
            token.token,
            if reply == b"nil" { Reply::Nil } else { Reply::Bytes(&reply) },
            deadline.map(ms),
            at.now,
            &at,
        );
        let flights = &mut self.model.keys[key].flights;
        let is_live = flights.get(&tail).is_some_and(|flight| flight.number == token.number);
        if is_live {
            flights.remove(&tail);
        }
        let good = deadline.filter(|&deadline| deadline > self.model.now);
        let outcome = match good {
            _ if !is_live || token.generation != self.model.generation => FillOutcome::Revoked,
            None => FillOutcome::Expired,
            Some(_) => FillOutcome::Stored,
        };
        assert_eq!(filled.outcome, outcome);
        let stored = good.filter(|_| outcome == FillOutcome::Stored);
        self.model.arrive(key, Some((tail, &reply, token.sent_at)), stored);
        self.model.tidy();
        let (early, late): (Vec<_>, Vec<_>) =
            token.waiters.iter().partition(|(joined_at, _)| *joined_at < deadline.unwrap_or(0));
        assert_eq!(filled.waiters, early.iter().map(|(_, waiter)| *waiter).collect::<Vec<_>>());
        assert_eq!(filled.latecomers, late.iter().map(|(_, waiter)| *waiter).collect::<Vec<_>>());
    }

    fn abandon(&mut self) {
        if let Some(token) = self.tokens.pop() {
            let waiters = self.cache.abandon(KEYS[token.key], token.token);
            assert_eq!(waiters, token.waiters.iter().map(|(_, waiter)| *waiter).collect::<Vec<_>>());
            let flights = &mut self.model.keys[token.key].flights;
            flights.retain(|_, flight| flight.number != token.number);
        }
    }

    fn observe(&mut self, key: usize, tail: usize) {
        let (at, reply) = (self.at(), self.some_reply(tail));
        let sent_at = self.rng.u64(self.model.now.saturating_sub(20)..=self.model.now);
        let is_named = self.rng.u32(0..3) > 0;
        let observed = Observed {
            variant: field(TAILS[tail]),
            reply: if reply == b"nil" { Reply::Nil } else { Reply::Bytes(&reply) },
            sent_at: ms(sent_at),
        };
        let before = self.model.keys[key].seen_at;
        let moved = self.cache.observe(KEYS[key], is_named.then_some(&observed), at.now, &at);
        self.model.arrive(key, is_named.then_some((tail, &reply, sent_at)), None);
        let after = self.model.keys[key].seen_at;
        let is_due = after > before && self.model.certified < after;
        // A lone entry sent at this very moment is as new as what was seen: the cache keeps nothing to wait for.
        let is_as_new = self.model.keys[key].entries.values().all(|entry| entry.sent_at >= self.model.now);
        assert!(moved == is_due || self.is_bounded || (is_as_new && !moved), "{moved} {is_due}");
    }

    fn sweep(&mut self) {
        self.cache.sweep_all(&self.at());
        let entries: usize = self.model.keys.iter().map(|key| key.entries.len()).sum();
        assert!(self.cache.entries() == entries || (self.is_bounded && self.cache.entries() <= entries));
    }

    /// Often the same for one variant, sometimes nil, sometimes too long to be inline.
    fn some_reply(&mut self, tail: usize) -> Vec<u8> {
        match self.rng.u32(0..40) {
            0 => b"nil".to_vec(),
            1 => vec![b'x'; INLINE_BYTES_MAX + 10],
            2..12 => self.rng.u64(..).to_string().into_bytes(),
            _ => format!("${tail}").into_bytes(),
        }
    }
}

/// Runs of two thousand steps with each policy; says how many hits there were.
fn run(entries_max: impl Fn(u64) -> usize) -> usize {
    let runs = (0..100).flat_map(|seed| BOTH.map(|eviction| Run::new(seed, entries_max(seed), eviction)));
    let hits = runs.map(|mut run| {
        (0..2000).for_each(|_| run.step());
        run.hits
    });
    hits.sum()
}

#[test]
fn the_cache_is_its_model() {
    let hits = run(|_| 0);
    assert!(hits > 5000, "{hits} hits");
}

#[test]
fn a_bounded_cache_says_nothing_else_than_its_model() {
    let hits = run(|seed| 1 + seed as usize % 9);
    assert!(hits > 2000, "{hits} hits");
}
