//! Tests of the cache: its rules one by one, a naive model, a simulated server, real threads, and measurements.

mod bounds;
mod history;
mod measure;
mod model;
mod ratios;
mod rules;
mod steady;
mod stress;

use super::*;
use crate::ids::{Database, Generation, IdentityId};

/// The policies of eviction.
const BOTH: [Eviction; 2] = [Eviction::Lru, Eviction::S3Fifo];

/// No bounds.
const UNBOUNDED: Limits =
    Limits { entries_max: 0, bytes_max: 0, value_bytes_max: 0, shards: 4, eviction: Eviction::Lru };

/// A cache without bounds, whose waiters are numbers.
fn unbounded() -> Cache<u32> {
    Cache::new(UNBOUNDED)
}

/// The variants of a key that the tests read: one a field, as HGET has them.
fn field(tail: &[u8]) -> VariantKey<'_> {
    VariantKey {
        identity: IdentityId(7),
        database: Database(0),
        protocols: Protocols::Both,
        command: 3,
        tail,
    }
}

/// Times in the tests are milliseconds.
fn ms(time: u64) -> Nanos {
    Nanos(time * 1_000_000)
}

/// A moment at which nothing has been certified.
fn at(now: u64) -> Moment {
    certified(now, 0)
}

/// A moment at which all that happened before `certified` has been applied.
fn certified(now: u64, certified: u64) -> Moment {
    Moment { now: ms(now), certified: ms(certified), generation: Generation(1) }
}

impl<W> Cache<W> {
    /// What a hit on `key` says.
    fn shown(&self, key: &[u8], variant: &VariantKey<'_>, at: &Moment) -> Option<Vec<u8>> {
        self.hit(key, variant, at, |hit| hit.reply.bytes().unwrap_or(b"nil").to_vec())
    }

    /// Reads as a session does that may fetch; a hit says its reply.
    fn read_as(&self, key: &[u8], variant: &VariantKey<'_>, at: &Moment, waiter: W) -> Read<Vec<u8>, W> {
        let found = |hit: Hit<'_>| hit.reply.bytes().unwrap_or(b"nil").to_vec();
        self.join_or_fetch(key, variant, at, found, || waiter)
    }

    /// Reads, and must get a token.
    #[track_caller]
    fn fetch(&self, key: &[u8], variant: &VariantKey<'_>, at: &Moment) -> Token<W>
    where
        W: Default,
    {
        match self.read_as(key, variant, at, W::default()) {
            Read::Fetch(token) => token,
            other => panic!("a token was due, not {}", other.name()),
        }
    }

    /// Fills with a reply that arrives now and is good for a minute.
    fn fill_now(&self, key: &[u8], token: Token<W>, reply: &[u8], at: &Moment) -> Filled<W> {
        self.fill(key, token, Reply::Bytes(reply), Some(at.now + Duration::from_mins(1)), at.now, at)
    }

    /// A read with its reply at once.
    #[track_caller]
    fn store(&self, key: &[u8], variant: &VariantKey<'_>, reply: &[u8], at: &Moment)
    where
        W: Default,
    {
        let token = self.fetch(key, variant, at);
        assert_eq!(self.fill_now(key, token, reply, at).outcome, FillOutcome::Stored);
    }

    fn sweep_all(&self, at: &Moment) -> usize {
        (0..self.shards()).map(|shard| self.sweep(shard, at)).sum()
    }
}

impl<R, W> Read<R, W> {
    fn name(&self) -> &'static str {
        match self {
            Self::Hit(_) => "a hit",
            Self::Joined => "a join",
            Self::Fetch(_) => "a token",
            Self::Bypass(_) => "a bypass",
        }
    }

    fn bypass(&self) -> Option<Bypass> {
        if let Self::Bypass(reason) = self { Some(*reason) } else { None }
    }
}
