//! One locked shard: its table of records, its list of candidates, and the totals of the whole cache, kept in step.
//!
//! A record is only ever changed through [`Locked::edit`], which measures it before and after, takes it out of the
//! table if it says so, and strikes the entries that left from the list of candidates. They are freed when
//! the locks have been released, since freeing four thousand blocks takes longer than everything else here.

use std::hash::{BuildHasher, Hash, Hasher};

use dashmap::SharedValue;
use foldhash::fast::RandomState;
use hashbrown::raw::RawTable;

use super::{
    Moment,
    entry::{Entry, UNPLACED},
    eviction::{Candidates, Clock, Handle, Sight},
    record::{Doomed, Fate, Ledger, Record, Size},
    slot::Slot,
};
use crate::sync::{
    MutexGuard, RwLockWriteGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// What is behind a shard's lock.
pub(super) type Table<W> = RawTable<(Record<W>, SharedValue<()>)>;

/// The part of a key's hash that is used: for the shard, for the probe, and in handles.
pub(super) fn hash_of(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(key);
    Handle::hash_of(state.finish())
}

// DashMap wants its keys to be keys; the raw tables under it are handed the hash.
impl<W> Hash for Record<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.key());
    }
}

impl<W> PartialEq for Record<W> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<W> Eq for Record<W> {}

/// Sums over all shards. On cache lines of their own: every fill writes them, and no hit reads them.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Totals {
    pub(super) entries: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    pub(super) evicted_by_count: AtomicU64,
    pub(super) evicted_by_bytes: AtomicU64,
}

impl Totals {
    fn replace(&self, before: Size, after: Size) {
        // Wrapping: adding a negative difference subtracts it.
        self.entries.fetch_add(after.entries.wrapping_sub(before.entries), Relaxed);
        self.bytes.fetch_add(after.bytes.wrapping_sub(before.bytes), Relaxed);
    }
}

/// Which entry eviction has to leave alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spare {
    Nothing,
    /// The one with this stamp, in this shard.
    Stamp(u32),
}

/// So many slots are kept for keys to come: nearly every one is needed for a round trip alone.
const SLOTS_KEPT: usize = 32;

/// What a shard keeps beside its table. Locked only by who holds the shard's write lock.
pub(super) struct Books<W> {
    candidates: Candidates,
    /// Empty ones, to be used again.
    #[expect(clippy::vec_box, reason = "it is the allocation that is used again")]
    slots: Vec<Box<Slot<W>>>,
}

impl<W> Books<W> {
    pub(super) fn new(candidates: Candidates) -> Self {
        Self { candidates, slots: Vec::new() }
    }

    fn take_slot(&mut self, key: &[u8]) -> Box<Slot<W>> {
        let Some(mut slot) = self.slots.pop() else { return Box::new(Slot::new(key)) };
        slot.reuse(key);
        slot
    }

    fn keep_slot(&mut self, slot: Box<Slot<W>>) {
        if self.slots.len() < SLOTS_KEPT && !slot.is_large() {
            self.slots.push(slot);
        }
    }
}

/// A shard under its write lock. The fields are dropped in this order: the locks first, then what has left.
pub(super) struct Locked<'a, W> {
    table: RwLockWriteGuard<'a, Table<W>>,
    books: MutexGuard<'a, Books<W>>,
    totals: &'a Totals,
    hasher: &'a RandomState,
    clock: Clock,
    /// How many of the doomed are off the list of candidates already.
    struck: usize,
    doomed: Doomed,
}

impl<'a, W> Locked<'a, W> {
    pub(super) fn new(
        table: RwLockWriteGuard<'a, Table<W>>,
        books: MutexGuard<'a, Books<W>>,
        totals: &'a Totals,
        hasher: &'a RandomState,
        clock: Clock,
    ) -> Self {
        Self { table, books, totals, hasher, clock, struck: 0, doomed: Doomed::new() }
    }

    pub(super) fn candidates(&mut self) -> &mut Candidates {
        &mut self.books.candidates
    }

    /// Changes the record of `key`, if there is one.
    pub(super) fn edit<R>(
        &mut self,
        hash: u64,
        key: &[u8],
        change: impl FnOnce(&mut Record<W>, &mut Ledger<'_>) -> (R, Fate),
    ) -> Option<R> {
        let (record, _) = self.table.get_mut(hash, |(record, _)| record.key() == key)?;
        let mut ledger = Ledger {
            key_hash: hash,
            candidates: &mut self.books.candidates,
            doomed: &mut self.doomed,
            hasher: self.hasher,
            clock: self.clock,
        };
        let before = record.size();
        let (result, fate) = change(record, &mut ledger);
        match fate {
            Fate::Keep => self.totals.replace(before, record.size()),
            Fate::Settle(certified) => {
                let slot = record.settle(certified, self.hasher);
                self.totals.replace(before, record.size());
                slot.into_iter().for_each(|slot| self.books.keep_slot(slot));
            }
            Fate::Remove => {
                self.totals.replace(before, Size::default());
                let removed = self.table.remove_entry(hash, |(record, _)| record.key() == key);
                let slot = removed.and_then(|(record, _)| record.bury(&mut self.doomed));
                slot.into_iter().for_each(|slot| self.books.keep_slot(slot));
            }
        }
        self.strike_doomed();
        Some(result)
    }

    /// Changes the record of `key`, which begins as an empty slot if there was none.
    pub(super) fn edit_or_insert<R>(
        &mut self,
        hash: u64,
        key: &[u8],
        change: impl FnOnce(&mut Record<W>, &mut Ledger<'_>) -> (R, Fate),
    ) -> R {
        if self.table.get(hash, |(record, _)| record.key() == key).is_none() {
            let hasher = self.hasher;
            let record = (Record::Slot(self.books.take_slot(key)), SharedValue::new(()));
            self.table.insert(hash, record, |(record, _)| hash_of(hasher, record.key()));
        }
        self.edit(hash, key, change).expect("the record is there or was just inserted")
    }

    /// Takes out the entry that should go first. Says whether it was still alive, or nothing if there is none.
    pub(super) fn evict(&mut self, at: &Moment, spare: Spare) -> Option<bool> {
        let mut sight = Sight { table: &mut self.table, hasher: self.hasher, at, spare, clock: self.clock };
        let victim = self.books.candidates.choose(&mut sight)?;
        self.take_out(victim.place);
        Some(victim.is_alive)
    }

    /// Frees the dead among the candidates at `steps` indices below `end`, and brings slots back to single entries
    /// where nothing else is left to remember. Says how many were freed and where to go on.
    pub(super) fn sweep(&mut self, end: usize, steps: usize, at: &Moment) -> (usize, usize) {
        let end = end.min(self.books.candidates.len());
        let start = end.saturating_sub(steps);
        let mut freed = 0;
        // Downwards, since another candidate may move to where one left.
        for index in (start..end).rev() {
            let Some((place, handle)) = self.books.candidates.nth(index) else { continue };
            let found = self.table.get_mut(handle.hash(), |(record, _)| holds(record, handle, place));
            let Some((record, _)) = found else { continue };
            if record.entry_at(handle.position()).is_some_and(|entry| entry.is_dead(at.now, at.generation)) {
                self.take_out(place);
                freed += 1;
            } else {
                let before = record.size();
                record.settle(at.certified, self.hasher);
                self.totals.replace(before, record.size());
            }
        }
        (freed, start)
    }

    /// Gives memory back after a burst.
    pub(super) fn shrink(&mut self) {
        let len = self.table.len();
        if self.table.capacity() > 4 * len.max(16) {
            let hasher = self.hasher;
            self.table.shrink_to(2 * len, |(record, _)| hash_of(hasher, record.key()));
        }
        self.books.candidates.shrink();
        self.books.slots = Vec::new();
    }

    /// Takes out the entry of a candidate, and its record if that was all.
    fn take_out(&mut self, place: u32) {
        let handle = self.books.candidates.handle(place);
        let is_it = |(record, _): &(Record<W>, _)| holds(record, handle, place);
        let Some((record, _)) = self.table.get_mut(handle.hash(), is_it) else { return };
        let before = record.size();
        match record {
            Record::Slot(slot) if !slot.is_last_entry() => {
                let mut ledger = Ledger {
                    key_hash: handle.hash(),
                    candidates: &mut self.books.candidates,
                    doomed: &mut self.doomed,
                    hasher: self.hasher,
                    clock: self.clock,
                };
                slot.remove(handle.position(), &mut ledger);
                self.totals.replace(before, record.size());
            }
            _ => {
                self.totals.replace(before, Size::default());
                if let Some((record, _)) = self.table.remove_entry(handle.hash(), is_it) {
                    record.bury(&mut self.doomed);
                }
            }
        }
        self.strike_doomed();
    }

    /// Strikes the entries that have left from the list of candidates.
    fn strike_doomed(&mut self) {
        // In an order in which the handle that moves into a hole is never one of those leaving.
        let doomed = &mut self.doomed[self.struck..];
        doomed.sort_unstable_by_key(|held| self.books.candidates.removal_order(held.entry().index));
        for held in doomed {
            let place = std::mem::replace(&mut held.entry_mut().index, UNPLACED);
            if place == UNPLACED {
                continue;
            }
            if let Some((handle, was)) = self.books.candidates.remove(place) {
                let moved = entry_of(&mut self.table, handle, was);
                moved.expect("a handle leads to its entry").index = place;
            }
        }
        self.struck = self.doomed.len();
    }

    /// Panics if a candidate does not lead to its entry.
    pub(super) fn check_invariants(&self) {
        self.books.candidates.check_invariants();
        for (place, handle) in
            (0..self.books.candidates.len()).filter_map(|index| self.books.candidates.nth(index))
        {
            assert_eq!(self.books.candidates.handle(place), handle);
            let found = self.table.get(handle.hash(), |(record, _)| holds(record, handle, place));
            let (record, _) = found.expect("a handle leads to its record");
            record.check_invariants(self.hasher);
            assert_eq!(hash_of(self.hasher, record.key()), handle.hash());
            let entry = record.entry_at(handle.position()).expect("a handle leads to its entry");
            assert_eq!(entry.index, place);
            assert!(self.clock.allows(&entry.access));
        }
    }

    pub(super) fn candidate_count(&self) -> usize {
        self.books.candidates.len()
    }
}

/// The entry of a candidate.
pub(super) fn entry_of<W>(table: &mut Table<W>, handle: Handle, place: u32) -> Option<&mut Entry> {
    let (record, _) = table.get_mut(handle.hash(), |(record, _)| holds(record, handle, place))?;
    record.entry_at_mut(handle.position())
}

/// Whether `record` is the one that a candidate at `place` means.
fn holds<W>(record: &Record<W>, handle: Handle, place: u32) -> bool {
    record.entry_at(handle.position()).is_some_and(|entry| entry.index == place)
}
