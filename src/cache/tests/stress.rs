//! Real threads: the books add up, no waiter is lost, and nobody is shown another's reply.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize},
    thread,
};

use parking_lot::Mutex;

use super::*;

const THREADS: usize = 4;
const STEPS: usize = 60_000;
const KEYS: usize = 48;
const TAILS: usize = 12;

/// Counts its own end, however it comes about.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

struct Shared<'a> {
    cache: Cache<Waiter<'a>>,
    now: AtomicU64,
    /// Tokens change threads, as replies do.
    tokens: Mutex<Vec<(usize, usize, Token<Waiter<'a>>)>>,
    joined: AtomicUsize,
    handed_back: AtomicUsize,
    hits: AtomicUsize,
    ended: &'a AtomicUsize,
}

/// A reply that names what it is of; some are too long to be inline.
fn reply(key: usize, tail: usize) -> Vec<u8> {
    let mut reply = format!("+{key}/{tail}\r\n").into_bytes();
    if (key + tail).is_multiple_of(17) {
        reply.resize(INLINE_BYTES_MAX + 1, b' ');
    }
    reply
}

fn work(shared: &Shared<'_>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..STEPS {
        let now = shared.now.fetch_add(1, Relaxed);
        let at = Moment {
            now: Nanos(now * 10_000),
            certified: Nanos(now.saturating_sub(rng.u64(0..2000)) * 10_000),
            generation: Generation(1 + now / 50_000),
        };
        let (key, tail) = (rng.usize(0..KEYS), rng.usize(0..TAILS).min(rng.usize(0..TAILS)));
        let (name, arguments) = (key.to_string(), tail.to_string());
        let (name, variant) = (name.as_bytes(), field(arguments.as_bytes()));
        match rng.u32(0..100) {
            0..60 => {
                let check = |hit: Hit<'_>| {
                    assert_eq!(hit.reply.bytes(), Some(&*reply(key, tail)));
                    shared.hits.fetch_add(1, Relaxed);
                };
                if shared.cache.hit(name, &variant, &at, check).is_none() {
                    let waiter = || {
                        shared.joined.fetch_add(1, Relaxed);
                        Waiter(shared.ended)
                    };
                    let read = shared.cache.join_or_fetch(name, &variant, &at, check, waiter);
                    if let Read::Fetch(token) = read {
                        shared.tokens.lock().push((key, tail, token));
                    }
                }
            }
            60..90 => {
                let token = {
                    let mut tokens = shared.tokens.lock();
                    if tokens.is_empty() { None } else { Some(rng.usize(0..tokens.len())) }
                        .map(|index| tokens.swap_remove(index))
                };
                if let Some(token) = token {
                    finish(shared, token, &at, rng.u32(0..20) > 0);
                }
            }
            90..91 => {
                shared.cache.begin_write(name);
                thread::yield_now();
                shared.cache.end_write(name);
            }
            91..92 => {
                shared.cache.invalidate(name);
            }
            92..93 => {
                shared.cache.observe(name, None, at.now, &at);
            }
            93 => {
                shared.cache.sweep(rng.usize(0..shared.cache.shards()), &at);
            }
            _ => thread::yield_now(),
        }
    }
}

fn finish<'a>(shared: &Shared<'a>, of: (usize, usize, Token<Waiter<'a>>), at: &Moment, is_good: bool) {
    let (key, tail, token) = of;
    let name = key.to_string();
    let waiters = if is_good {
        let deadline = Some(at.now + Duration::from_millis(500));
        let reply = reply(key, tail);
        let filled = shared.cache.fill(name.as_bytes(), token, Reply::Bytes(&reply), deadline, at.now, at);
        filled.waiters.into_iter().chain(filled.latecomers).collect()
    } else {
        shared.cache.abandon(name.as_bytes(), token)
    };
    shared.handed_back.fetch_add(waiters.len(), Relaxed);
}

#[test]
fn threads_keep_the_books_and_lose_no_waiter() {
    let bounds = [(0, 0), (100, 0), (0, 80_000)];
    let rounds = BOTH.iter().flat_map(|&eviction| bounds.map(|bounds| (bounds, eviction)));
    for (round, ((entries_max, bytes_max), eviction)) in rounds.enumerate() {
        let ended = AtomicUsize::new(0);
        let shared = Shared {
            cache: Cache::new(Limits { entries_max, bytes_max, eviction, ..UNBOUNDED }),
            now: AtomicU64::new(1),
            tokens: Mutex::default(),
            joined: AtomicUsize::new(0),
            handed_back: AtomicUsize::new(0),
            hits: AtomicUsize::new(0),
            ended: &ended,
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let shared = &shared;
                scope.spawn(move || work(shared, (round * THREADS + thread) as u64));
            }
        });
        shared.cache.check_invariants();
        let at = Moment { now: Nanos(u64::MAX / 2), certified: Nanos::NEVER, generation: Generation(99) };
        for token in std::mem::take(&mut *shared.tokens.lock()) {
            finish(&shared, token, &at, true);
        }
        let joined = shared.joined.load(Relaxed);
        let hits = shared.hits.load(Relaxed);
        assert!(joined > 1000 && hits > 1000, "{joined} joined, {hits} hits");
        assert_eq!(shared.handed_back.load(Relaxed), joined, "every waiter is handed back");
        assert_eq!(ended.load(Relaxed), joined, "once");
        shared.cache.sweep_all(&at);
        assert_eq!((shared.cache.entries(), shared.cache.bytes()), (0, 0));
        let left: usize = shared.cache.map.iter().count();
        assert_eq!(left, 0, "no slot is left behind");
    }
}

#[test]
fn a_cache_can_be_shared() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Cache<std::cell::Cell<u8>>>();
}
