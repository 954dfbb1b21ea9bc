//! Which entry goes when there is no room.
//!
//! `cache.eviction` names the policy: [`sampled`] LRU or [`s3fifo`]. Either keeps a handle of every entry of its
//! shard, 8 B, and each entry keeps its *place* among them, so that one that is invalidated is struck at once. An
//! exact LRU list would have to be written at every hit, which costs 2.8 times as much with two threads on one map.
//! Here a hit writes one word of its entry, and that seldom: see [`Clock`].
//!
//! A policy chooses; taking out is the shard's business, since handles and entries point at each other.

mod s3fifo;
mod sampled;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use foldhash::fast::RandomState;

use self::{s3fifo::Queues, sampled::Sampled};
use super::{
    Moment,
    entry::Entry,
    shard::{Spare, Table, entry_of},
};
use crate::config::Eviction;

/// How many candidates are looked at where they are drawn at random. Redis looks at 5 by default and calls 10 close
/// to true LRU. Each costs two or three cache misses in a large cache. With 10 the hit ratio is up to 0.3 points below
/// the exact one's (`tests/ratios.rs`), with 8 up to 0.5.
const SAMPLES: usize = 10;

/// What is counted of an entry's hits, up to this.
const USES_MAX: u32 = 3;

/// Where an entry is found: its key's hash, and its position among the variants of its record.
///
/// The position sits in twelve bits of the hash that neither `DashMap` (which takes the highest) nor the table
/// inside a shard (highest and lowest) looks at, and that [`Handle::hash_of`] clears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Handle(u64);

const POSITION_SHIFT: u32 = 32;
const POSITION_MASK: u64 = 0xFFF << POSITION_SHIFT;

/// How many variants of one key are held at most; then the one idle for longest goes.
pub const VARIANTS_MAX: usize = 4096;

const _: () =
    assert!(VARIANTS_MAX as u64 - 1 == POSITION_MASK >> POSITION_SHIFT, "a handle holds every position");

impl Handle {
    /// The part of a hash that is used, everywhere.
    pub(super) fn hash_of(hash: u64) -> u64 {
        hash & !POSITION_MASK
    }

    pub(super) fn new(hash: u64, position: usize) -> Self {
        debug_assert!(position < VARIANTS_MAX && Self::hash_of(hash) == hash);
        Self(hash | (position as u64) << POSITION_SHIFT)
    }

    pub(super) fn hash(self) -> u64 {
        Self::hash_of(self.0)
    }

    pub(super) fn position(self) -> usize {
        ((self.0 & POSITION_MASK) >> POSITION_SHIFT) as usize
    }
}

/// How a policy reads and writes the word that an entry has for it. A hit writes it under a read lock, and only if
/// it changes, so that a hot entry's cache line is not passed from core to core.
#[derive(Clone, Copy)]
pub(super) enum Clock {
    /// When the entry was last hit, on a clock that ticks 256 times while the cache's contents turn over.
    Ticks(u32),
    /// How often it was hit, up to [`USES_MAX`].
    Uses,
}

impl Clock {
    /// What a new entry's word says.
    pub(super) fn first(self) -> u32 {
        match self {
            Self::Ticks(now) => now,
            Self::Uses => 0,
        }
    }

    /// Notes a hit. Of two at once one may be lost.
    #[inline]
    pub(super) fn note(self, word: &AtomicU32) {
        let last = word.load(Relaxed);
        let next = match self {
            Self::Ticks(now) => now,
            Self::Uses => USES_MAX.min(last + 1),
        };
        if next != last {
            word.store(next, Relaxed);
        }
    }

    /// Whether a word may say what it says.
    pub(super) fn allows(self, word: &AtomicU32) -> bool {
        matches!(self, Self::Ticks(_)) || word.load(Relaxed) <= USES_MAX
    }

    /// The higher, the sooner the entry may go.
    pub(super) fn idle(self, word: &AtomicU32) -> u32 {
        match self {
            Self::Ticks(now) => now.wrapping_sub(word.load(Relaxed)),
            Self::Uses => USES_MAX - word.load(Relaxed),
        }
    }
}

/// One shard's list of entries that may be evicted, which is all of them, and its counters. Locked only by who
/// holds the shard's write lock.
pub(super) struct Candidates {
    policy: Policy,
    rng: fastrand::Rng,
    stamp: u32,
}

enum Policy {
    Sampled(Sampled),
    Queues(Queues),
}

/// What a policy sees while it chooses.
pub(super) struct Sight<'a, W> {
    pub(super) table: &'a mut Table<W>,
    pub(super) hasher: &'a RandomState,
    pub(super) at: &'a Moment,
    pub(super) spare: Spare,
    pub(super) clock: Clock,
}

impl<W> Sight<'_, W> {
    fn entry(&mut self, handle: Handle, place: u32) -> &mut Entry {
        entry_of(self.table, handle, place).expect("a handle leads to its entry")
    }
}

/// The one to go.
pub(super) struct Victim {
    pub(super) place: u32,
    /// Whether it could still have been shown: the dead are not counted as evicted.
    pub(super) is_alive: bool,
}

impl Candidates {
    pub(super) fn new(eviction: Eviction) -> Self {
        let policy = match eviction {
            Eviction::Lru => Policy::Sampled(Sampled::default()),
            Eviction::S3Fifo => Policy::Queues(Queues::default()),
        };
        Self { policy, rng: fastrand::Rng::new(), stamp: 0 }
    }

    pub(super) fn len(&self) -> usize {
        match &self.policy {
            Policy::Sampled(sampled) => sampled.len(),
            Policy::Queues(queues) => queues.len(),
        }
    }

    /// The place and the handle at an index below [`len`](Self::len). A walk downwards that removes as it goes misses
    /// none: what moves to a place that was left was above it, or is met next.
    pub(super) fn nth(&self, index: usize) -> Option<(u32, Handle)> {
        match &self.policy {
            Policy::Sampled(sampled) => sampled.nth(index),
            Policy::Queues(queues) => queues.nth(index),
        }
    }

    pub(super) fn handle(&self, place: u32) -> Handle {
        match &self.policy {
            Policy::Sampled(sampled) => sampled.handle(place),
            Policy::Queues(queues) => queues.handle(place),
        }
    }

    /// Adds an entry and says at which place.
    pub(super) fn add(&mut self, handle: Handle, variant_hash: u64) -> u32 {
        match &mut self.policy {
            Policy::Sampled(sampled) => sampled.add(handle),
            Policy::Queues(queues) => queues.add(handle, variant_hash),
        }
    }

    /// Takes a place out. Another handle may move there: the answer is that handle and the place where it was.
    pub(super) fn remove(&mut self, place: u32) -> Option<(Handle, u32)> {
        match &mut self.policy {
            Policy::Sampled(sampled) => sampled.remove(place),
            Policy::Queues(queues) => queues.remove(place),
        }
    }

    /// When to remove a place, of several that go, lowest first: so that none of them is moved.
    pub(super) fn removal_order(&self, place: u32) -> u32 {
        match &self.policy {
            Policy::Sampled(_) => u32::MAX - place,
            Policy::Queues(queues) => queues.removal_order(place),
        }
    }

    /// The entry at `place` has moved within its record.
    pub(super) fn reposition(&mut self, place: u32, position: usize) {
        let handle = match &mut self.policy {
            Policy::Sampled(sampled) => sampled.handle_mut(place),
            Policy::Queues(queues) => queues.handle_mut(place),
        };
        *handle = Handle::new(handle.hash(), position);
    }

    /// A number no other entry of this shard has.
    pub(super) fn next_stamp(&mut self) -> u32 {
        self.stamp = self.stamp.wrapping_add(1);
        self.stamp
    }

    /// The number that was given out last.
    pub(super) fn last_stamp(&self) -> u32 {
        self.stamp
    }

    /// Counts a fill, and lets the access clock tick when it is time. Shards fill evenly, so each lets it tick
    /// at its share of the turnover.
    pub(super) fn count_fill(&mut self, shards: usize, clock: &AtomicU32) {
        if let Policy::Sampled(sampled) = &mut self.policy {
            sampled.count_fill(shards, clock);
        }
    }

    /// The one that should go first, if there is any that may.
    pub(super) fn choose<W>(&mut self, sight: &mut Sight<'_, W>) -> Option<Victim> {
        match &mut self.policy {
            Policy::Sampled(sampled) => sampled.choose(&mut self.rng, sight),
            Policy::Queues(queues) => queues.choose(sight),
        }
    }

    /// Of the variants of one key, the one to go when there are [`VARIANTS_MAX`]: the longest idle of a few drawn.
    pub(super) fn choose_variant(&mut self, len: usize, idle: impl Fn(usize) -> u32) -> usize {
        (0..SAMPLES).map(|_| self.rng.usize(..len)).max_by_key(|&position| idle(position)).unwrap_or(0)
    }

    /// Gives memory back after a burst.
    pub(super) fn shrink(&mut self) {
        match &mut self.policy {
            Policy::Sampled(sampled) => sampled.shrink(),
            Policy::Queues(queues) => queues.shrink(),
        }
    }

    /// Panics if the policy's own books are wrong.
    pub(super) fn check_invariants(&self) {
        if let Policy::Queues(queues) = &self.policy {
            queues.check_invariants();
        }
    }
}
