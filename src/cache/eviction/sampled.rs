//! Sampled LRU, as Redis does it.
//!
//! The handles stand in a vector. To evict, a few are drawn at random and the one idle for longest goes; dead ones
//! (expired, or of contents that are gone) go first. With [`SAMPLES`] draws the hit ratio is at most a third of a point
//! below the exact one's (`tests/ratios.rs`).
//!
//! The access clock is no clock of time: it ticks 256 times while the cache's contents turn over once. A hit
//! writes its entry's clock only when it has ticked since the last, and while everything hits, it stands still.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Handle, SAMPLES, Sight, Victim};
use crate::cache::shard::Spare;

/// Ticks of the access clock while the contents turn over once.
const TICKS_PER_TURNOVER: usize = 256;

/// A place is an index.
#[derive(Default)]
pub(super) struct Sampled {
    handles: Vec<Handle>,
    fills: usize,
}

impl Sampled {
    pub(super) fn len(&self) -> usize {
        self.handles.len()
    }

    pub(super) fn nth(&self, index: usize) -> Option<(u32, Handle)> {
        Some((index as u32, *self.handles.get(index)?))
    }

    pub(super) fn handle(&self, index: u32) -> Handle {
        self.handles[index as usize]
    }

    pub(super) fn handle_mut(&mut self, index: u32) -> &mut Handle {
        &mut self.handles[index as usize]
    }

    pub(super) fn add(&mut self, handle: Handle) -> u32 {
        if self.handles.len() == self.handles.capacity() {
            // Doubling would leave up to half of a large vector empty, at 8 B an entry.
            self.handles.reserve_exact((self.handles.len() / 8).max(8));
        }
        self.handles.push(handle);
        (self.handles.len() - 1) as u32
    }

    /// The last handle moves into the hole.
    pub(super) fn remove(&mut self, index: u32) -> Option<(Handle, u32)> {
        self.handles.swap_remove(index as usize);
        let moved = self.handles.get(index as usize)?;
        Some((*moved, self.handles.len() as u32))
    }

    pub(super) fn count_fill(&mut self, shards: usize, clock: &AtomicU32) {
        self.fills += 1;
        if self.fills >= self.handles.len() * shards / TICKS_PER_TURNOVER {
            self.fills = 0;
            clock.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn choose<W>(&self, rng: &mut fastrand::Rng, sight: &mut Sight<'_, W>) -> Option<Victim> {
        let len = self.handles.len();
        let mut best = None;
        let mut look = |index: usize| {
            let place = index as u32;
            let (at, spare, clock) = (sight.at, sight.spare, sight.clock);
            let entry = sight.entry(self.handles[index], place);
            if spare == Spare::Stamp(entry.stamp) {
                return;
            }
            let is_alive = !entry.is_dead(at.now, at.generation);
            let idle = if is_alive { u64::from(entry.idle(clock)) } else { u64::MAX };
            if best.as_ref().is_none_or(|&(longest, _)| idle > longest) {
                best = Some((idle, Victim { place, is_alive }));
            }
        };
        // Draws repeat themselves in a small shard: looking at all costs hardly more.
        if len <= 2 * SAMPLES {
            (0..len).for_each(&mut look);
        } else {
            (0..SAMPLES).for_each(|_| look(rng.usize(..len)));
        }
        best.map(|(_, victim)| victim)
    }

    pub(super) fn shrink(&mut self) {
        if self.handles.capacity() > 4 * self.handles.len().max(16) {
            self.handles.shrink_to(2 * self.handles.len());
        }
    }
}
