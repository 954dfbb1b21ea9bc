//! Which entry goes when there is no room: sampled LRU, as Redis does it.
//!
//! Each shard keeps a handle of every entry in a vector. To evict, a few are drawn at random and the one idle for
//! longest goes; dead ones (expired, or of contents that are gone) go first. An exact LRU list would have to be
//! written at every hit, which costs 2.8 times as much with two threads on one map; with [`SAMPLES`] draws the
//! hit ratio is a third of a point below it (`tests/measure.rs`).
//!
//! The access clock is no clock of time: it ticks 256 times while the cache's contents turn over once. A hit
//! writes its entry's clock only when it has ticked since the last, and while everything hits, it stands still.
//!
//! This file chooses; taking out is the shard's business, since handles and entries point at each other.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many candidates are looked at. Redis looks at 5 by default and calls 10 close to true LRU. Each costs two or
/// three cache misses in a large cache: with 10 the hit ratio is 0.15 points below the exact one's, with 8 0.1 to
/// 0.35, with 5 0.2 to 0.6.
const SAMPLES: usize = 8;

/// Ticks of the access clock while the contents turn over once.
const TICKS_PER_TURNOVER: usize = 256;

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
        debug_assert!(position < VARIANTS_MAX && hash & POSITION_MASK == 0);
        Self(hash | (position as u64) << POSITION_SHIFT)
    }

    pub(super) fn hash(self) -> u64 {
        Self::hash_of(self.0)
    }

    pub(super) fn position(self) -> usize {
        ((self.0 & POSITION_MASK) >> POSITION_SHIFT) as usize
    }
}

/// One shard's list of entries that may be evicted, which is all of them, and its counters. Locked only by who
/// holds the shard's write lock.
pub(super) struct Candidates {
    handles: Vec<Handle>,
    rng: fastrand::Rng,
    fills: usize,
    stamp: u32,
}

impl Candidates {
    pub(super) fn new() -> Self {
        Self { handles: Vec::new(), rng: fastrand::Rng::new(), fills: 0, stamp: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.handles.len()
    }

    pub(super) fn handle(&self, index: u32) -> Handle {
        self.handles[index as usize]
    }

    /// Adds an entry and says at which index.
    pub(super) fn add(&mut self, handle: Handle) -> u32 {
        if self.handles.len() == self.handles.capacity() {
            // Doubling would leave up to half of a large vector empty, at 8 B an entry.
            self.handles.reserve_exact((self.handles.len() / 8).max(8));
        }
        self.handles.push(handle);
        (self.handles.len() - 1) as u32
    }

    /// Takes an index out. The last handle moves into its place: the answer is that handle and its old index.
    pub(super) fn remove(&mut self, index: u32) -> Option<(Handle, u32)> {
        self.handles.swap_remove(index as usize);
        let moved = self.handles.get(index as usize)?;
        Some((*moved, self.handles.len() as u32))
    }

    /// The entry at `index` has moved within its record.
    pub(super) fn reposition(&mut self, index: u32, position: usize) {
        let handle = &mut self.handles[index as usize];
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
        self.fills += 1;
        if self.fills >= self.handles.len() * shards / TICKS_PER_TURNOVER {
            self.fills = 0;
            clock.fetch_add(1, Relaxed);
        }
    }

    /// Draws candidates and answers with the one that should go, its index and how long it has been idle: which
    /// is what `idle` says, or nothing for one that must stay.
    pub(super) fn choose(&mut self, mut idle: impl FnMut(u32, Handle) -> Option<u64>) -> Option<(u32, u64)> {
        let len = self.handles.len();
        let mut best = None;
        let mut look = |index: usize| {
            let index = index as u32;
            if let Some(idle) = idle(index, self.handles[index as usize])
                && best.is_none_or(|(_, longest)| idle > longest)
            {
                best = Some((index, idle));
            }
        };
        // Draws repeat themselves in a small shard: looking at all costs hardly more.
        if len <= 2 * SAMPLES {
            (0..len).for_each(&mut look);
        } else {
            (0..SAMPLES).for_each(|_| look(self.rng.usize(..len)));
        }
        best
    }

    /// A position below `len`, at random.
    pub(super) fn draw(&mut self, len: usize) -> usize {
        self.rng.usize(..len)
    }

    /// Gives memory back after a burst.
    pub(super) fn shrink(&mut self) {
        if self.handles.capacity() > 4 * self.handles.len().max(16) {
            self.handles.shrink_to(2 * self.handles.len());
        }
    }
}

/// Of the variants of one key, the one to go when there are [`VARIANTS_MAX`]: the longest idle of a few drawn.
pub(super) fn choose_variant(candidates: &mut Candidates, len: usize, idle: impl Fn(usize) -> u32) -> usize {
    (0..SAMPLES).map(|_| candidates.draw(len)).max_by_key(|&position| idle(position)).unwrap_or(0)
}
