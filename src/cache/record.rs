//! What the table holds under a key, and what a change of it has to tell its shard.
//!
//! In the common case a key has one valid entry and nothing else to remember: that is one heap block, and the
//! [`Record`] is its pointer. A key that is being read or written, has several variants, a very long reply, or may
//! be older than what a client has seen, is a [`Slot`]; a slot with nothing left but one entry settles into that
//! entry again. This file is the door between the two, and decides nothing about coherence that `slot.rs` does not.

use std::{mem, sync::atomic::AtomicU16};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::{
    Moment, Observed,
    entry::{Entry, Held, Reply, VariantKey},
    eviction::{Candidates, Clock},
    slot::Slot,
};
use crate::clock::Nanos;

/// Entries on their way out: struck from the books, then freed when the lock is released.
pub(super) type Doomed = SmallVec<[Held; 1]>;

/// What is in the table, under its key.
pub(super) enum Record<W> {
    /// One valid entry and nothing else to remember.
    Single(Box<Entry>),
    /// Anything else.
    Slot(Box<Slot<W>>),
}

// Pointer and length; a slot hides behind the null pointer.
const _: () = assert!(size_of::<Record<()>>() == 16);

/// A valid entry, as a hit sees it.
pub(super) struct View<'a> {
    pub(super) entry: &'a Entry,
    pub(super) reply: Reply<'a>,
    pub(super) touch: &'a AtomicU16,
}

/// Whether a record stays in the table after a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// The same, but as a lone entry if there is nothing else to remember at this certified time.
    Settle(Nanos),
    Remove,
}

/// How much of the budget a record uses.
#[derive(Clone, Copy, Default)]
pub(super) struct Size {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// What a change of one record must keep up to date in its shard.
pub(super) struct Ledger<'a> {
    pub(super) key_hash: u64,
    pub(super) candidates: &'a mut Candidates,
    pub(super) doomed: &'a mut Doomed,
    pub(super) hasher: &'a RandomState,
    pub(super) clock: Clock,
}

impl<W> Record<W> {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Single(entry) => entry.key(),
            Self::Slot(slot) => slot.key(),
        }
    }

    /// The entry of `variant`, if it may be shown (invariant 1, as far as the cache knows).
    #[expect(clippy::inline_always, reason = "a view passed through memory costs a hit a tenth of its time")]
    #[inline(always)]
    pub(super) fn view(
        &self,
        variant: &VariantKey<'_>,
        at: &Moment,
        hasher: &RandomState,
    ) -> Option<View<'_>> {
        let view = match self {
            Self::Single(entry) if entry.variant() == *variant => {
                View { entry, reply: entry.reply(), touch: &entry.touch }
            }
            Self::Single(_) => return None,
            Self::Slot(slot) => slot.view(variant, at, hasher)?,
        };
        let is_valid = view.entry.generation() == at.generation && view.entry.is_fresh(at.now);
        is_valid.then_some(view)
    }

    /// The entry at a position among the variants.
    pub(super) fn entry_at(&self, position: usize) -> Option<&Entry> {
        match self {
            Self::Single(entry) => (position == 0).then_some(&**entry),
            Self::Slot(slot) => slot.entry_at(position),
        }
    }

    /// The same, to be changed.
    pub(super) fn entry_at_mut(&mut self, position: usize) -> Option<&mut Entry> {
        match self {
            Self::Single(entry) => (position == 0).then_some(&mut **entry),
            Self::Slot(slot) => slot.entry_at_mut(position),
        }
    }

    pub(super) fn size(&self) -> Size {
        match self {
            Self::Single(entry) => Size { entries: 1, bytes: entry.cost() },
            Self::Slot(slot) => slot.size(),
        }
    }

    /// The record as a slot; a lone entry becomes the slot's first.
    pub(super) fn as_slot(&mut self, ledger: &Ledger<'_>) -> &mut Slot<W> {
        match self {
            Self::Slot(slot) => slot,
            Self::Single(entry) => {
                let slot = Box::new(Slot::new(entry.key()));
                let single = mem::replace(self, Self::Slot(slot));
                let (Self::Slot(slot), Self::Single(entry)) = (self, single) else {
                    unreachable!("a lone entry was replaced by a slot");
                };
                slot.adopt(entry, ledger);
                slot
            }
        }
    }

    /// A slot with nothing to remember but one entry becomes that entry again. Returns the slot, which is empty.
    pub(super) fn settle(&mut self, certified: Nanos, hasher: &RandomState) -> Option<Box<Slot<W>>> {
        let Self::Slot(slot) = self else { return None };
        let entry = slot.take_single(certified, hasher)?;
        match mem::replace(self, Self::Single(entry)) {
            Self::Slot(slot) => Some(slot),
            Self::Single(_) => unreachable!("it was a slot a moment ago"),
        }
    }

    /// Takes the record apart; its flights are detached. Returns its slot, if it had one.
    pub(super) fn bury(self, doomed: &mut Doomed) -> Option<Box<Slot<W>>> {
        match self {
            Self::Single(entry) => {
                doomed.push(Held::Inline(entry));
                None
            }
            Self::Slot(mut slot) => {
                slot.bury(doomed);
                Some(slot)
            }
        }
    }

    /// What an upstream reply to a read that is not stored means for what is here (invariant 9). Says whether
    /// `seen_at` has moved past what is certified.
    pub(super) fn observe(
        &mut self,
        read: Option<&Observed<'_>>,
        arrived: Nanos,
        at: &Moment,
        ledger: &mut Ledger<'_>,
    ) -> bool {
        if let Self::Single(entry) = self {
            let is_same =
                read.is_some_and(|read| entry.variant() == read.variant && entry.reply() == read.reply);
            // The same, or sent after the other had arrived: it is as new as what was seen.
            if is_same || entry.sent_at() >= arrived {
                return false;
            }
        }
        self.as_slot(ledger).observe(read, arrived, at, ledger)
    }

    /// Begins a write: invariant 4.
    pub(super) fn begin_write(&mut self, ledger: &mut Ledger<'_>) {
        self.as_slot(ledger).begin_write(ledger);
    }

    /// Ends a write: invariant 4.
    pub(super) fn end_write(&mut self, ledger: &mut Ledger<'_>) -> Fate {
        self.as_slot(ledger).end_write(ledger)
    }

    /// Drops what is cached and detaches what is in flight; writes in progress stay counted.
    pub(super) fn invalidate(&mut self, ledger: &mut Ledger<'_>) -> Fate {
        match self {
            Self::Single(_) => Fate::Remove,
            Self::Slot(slot) => {
                slot.clear(ledger);
                slot.fate()
            }
        }
    }

    /// Whether the books may forget this record.
    pub(super) fn fate(&self) -> Fate {
        match self {
            Self::Single(_) => Fate::Keep,
            Self::Slot(slot) => slot.fate(),
        }
    }

    /// The same, where what is not forgotten may settle.
    pub(super) fn fate_to_settle(&self, certified: Nanos) -> Fate {
        match self.fate() {
            Fate::Keep => Fate::Settle(certified),
            fate => fate,
        }
    }

    /// Panics if the record contradicts itself.
    pub(super) fn check_invariants(&self, hasher: &RandomState) {
        if let Self::Slot(slot) = self {
            slot.check_invariants(hasher);
        }
    }
}
