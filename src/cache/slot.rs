//! The state of one key: its cached replies, its reads in flight, its writers, and what has been seen of it.
//!
//! Pure: no lock, no clock, no table. Every change tells the [`Ledger`] which entries came and went. A key with one
//! valid entry and nothing to remember has no slot: see `record.rs`.
//!
//! # Invariants kept here
//!
//! The numbers are those of `docs/ARCHITECTURE.md`.
//!
//! - **2** A token is granted, and a flight joined, only while `writers` is 0; one flight a variant.
//! - **3** A reply is stored only if exactly its flight is still in the slot, in the same generation.
//! - **4** The start and the end of a write and an invalidation drop all entries and detach all flights.
//! - **9** *No going back*, for which the slot keeps two times:
//!
//! `seen_at` is the latest arrival of a reply that showed something new of this key; `heard_at` is the latest
//! arrival of any reply. An entry or a flight that was sent at `s` is *usable* if
//!
//! > `certified >= seen_at` or `s >= heard_at`.
//!
//! An upstream reply that arrives moves both, except:
//!
//! - a reply *byte-equal* to what its own variant holds (not expired, of this generation) moves `heard_at` only;
//! - a reply that is stored, when the slot holds nothing else (no flight, no live entry of another variant), moves
//!   neither: nothing is left that could be older. An equal reply to a lone entry makes it as young as itself.
//!
//! ## Why that is enough
//!
//! Let an entry V, read by the server at `v`, be hit, and let O be a read of the key that completed before, read
//! by the server at `o`. V may not be older than O: no write `w` with `v < w < o` may be told apart.
//!
//! *`s >= heard_at`.* Every reply that arrived while V or its flight was here was read before it arrived, hence
//! before `s`, hence before `v`. Every reply before that was read before V's flight began.
//!
//! *`certified >= seen_at`, O showed something new.* `o` is before O's arrival, which is at most `seen_at`, so `w`
//! is before `certified`: its invalidation has been applied, after V's flight began, and dropped V.
//!
//! *`certified >= seen_at`, O was byte-equal to an entry B.* B and V (or its flight) were both here then, and V
//! still is: so no invalidation came between, and no write between B's read and `certified` happened. B's reply
//! was true all that time, so O can be explained as read at the earlier of `o` and `certified`, together with
//! V. This is also why B must not have expired: expiry changes the key without a word.
//!
//! ## Why two times
//!
//! With `seen_at` alone an equal reply would have to move either it or nothing. Moving it starves the cache: of a
//! thousand fields of one hash under load some reply arrives in every round trip, a certification takes two or
//! three, and none would ever be servable again. Moving nothing is wrong: w1 changes A and B, C is seen after w1,
//! A is read again; w2 changes A and B *back to what is cached of B*; B is read, equal; now A, sent after `seen_at`,
//! is shown, older than B. With `heard_at`, A has to wait for the certification that C began.
//! `seen_at` moves at most once for each variant not held and each real change, so certification catches up.
//!
//! ## Interleavings
//!
//! - *Two flights of one variant.* A write detaches F1; F2 begins; F1's reply comes late. It is delivered and not
//!   stored, but F2 may have been read before it: it moves both times, and F2 is not joinable until certified.
//! - *An unjoinable flight stays.* Its readers go upstream by themselves. Were it replaced, a hot key would never
//!   be filled: each late reply would make the next flight unjoinable, and be replaced in turn.
//! - *B filled while A is in flight.* Both times move to B's arrival. A's waiters, who asked before B was shown, are
//!   answered; A is stored, and usable once certified.
//! - *A variant alone* (nearly every key) is usable as soon as it is stored, and never waits.

use std::{
    hash::BuildHasher,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use foldhash::fast::RandomState;

use super::{
    Bypass, Moment, Observed,
    entry::{Entry, Held, Reply, VariantKey, block_bytes},
    eviction::{Handle, VARIANTS_MAX},
    flight::{Flight, Token},
    record::{Doomed, Fate, Ledger, Size, View},
    variants::{OfVariant, Variants},
};
use crate::{clock::Nanos, ids::Generation, mutation::Mutation};

/// Longer keys are not kept room for in a slot that is to be used again.
const KEY_BYTES_KEPT: usize = 64;

pub(super) struct Slot<W> {
    key: Vec<u8>,
    /// Writes that have begun and not ended. While there are any, the slot holds no entry and no flight.
    writers: u32,
    /// Of everything in here; what belongs to an earlier one is dropped by whoever comes next.
    generation: Generation,
    /// See the module's text. Both are zero while the slot is empty.
    seen_at: Nanos,
    heard_at: Nanos,
    touch: AtomicU16,
    entries: Variants<Held>,
    /// What the entries cost together.
    entries_cost: usize,
    flights: Variants<Arc<Flight<W>>>,
}

impl OfVariant for Held {
    fn variant(&self) -> VariantKey<'_> {
        self.entry().variant()
    }
}

impl<W> OfVariant for Arc<Flight<W>> {
    fn variant(&self) -> VariantKey<'_> {
        Flight::variant(self)
    }
}

/// What a reader without a hit may do.
pub(super) enum Entrance<'a, W> {
    /// Wait for this flight.
    Join(&'a Flight<W>),
    /// Start a flight.
    Begin,
    /// Ask upstream without the cache.
    Bypass(Bypass),
}

impl<W> Slot<W> {
    pub(super) fn new(key: &[u8]) -> Self {
        Self {
            key: key.into(),
            writers: 0,
            generation: Generation::default(),
            seen_at: Nanos::NEVER,
            heard_at: Nanos::NEVER,
            touch: AtomicU16::new(0),
            entries: Variants::new(),
            entries_cost: 0,
            flights: Variants::new(),
        }
    }

    /// Begins a write (invariant 4).
    pub(super) fn begin_write(&mut self, ledger: &mut Ledger<'_>) {
        self.clear(ledger);
        self.writers += 1;
    }

    /// Ends a write (invariant 4): what a read has brought in between is not to be trusted.
    pub(super) fn end_write(&mut self, ledger: &mut Ledger<'_>) -> Fate {
        debug_assert!(self.writers > 0, "a write ends that has not begun");
        self.clear(ledger);
        self.writers = self.writers.saturating_sub(1);
        self.fate()
    }

    /// What a reader may do who found nothing to be shown (invariants 2 and 9).
    pub(super) fn entrance(
        &mut self,
        variant: &VariantKey<'_>,
        at: &Moment,
        ledger: &mut Ledger<'_>,
    ) -> Entrance<'_, W> {
        self.advance(at.generation, ledger);
        if self.writers > 0 {
            return Entrance::Bypass(Bypass::Writing);
        }
        if self.generation != at.generation {
            return Entrance::Bypass(Bypass::LateMoment);
        }
        let Some(position) = self.flights.find(variant, ledger.hasher) else {
            let is_full = self.flights.len() >= VARIANTS_MAX;
            return if is_full { Entrance::Bypass(Bypass::TooMany) } else { Entrance::Begin };
        };
        if self.flights.at(position).is_none_or(|flight| flight.has_ended()) {
            self.flights.swap_remove(position, ledger.hasher);
            return Entrance::Begin;
        }
        match self.flights.at(position) {
            Some(flight) if self.is_usable(flight.sent_at, at.certified) => Entrance::Join(flight),
            _ => Entrance::Bypass(Bypass::InFlight),
        }
    }

    /// Installs a flight, where [`entrance`](Self::entrance) said that it may begin.
    pub(super) fn begin(&mut self, token: &Token<W>, ledger: &Ledger<'_>) {
        debug_assert!(self.writers == 0 && self.flights.find(&token.variant(), ledger.hasher).is_none());
        self.flights.push(Arc::clone(token.flight()), ledger.hasher);
    }

    /// Takes a flight out, if it is still here. What was seen meanwhile is remembered: its reply is to be judged.
    pub(super) fn land(&mut self, token: &Token<W>, ledger: &Ledger<'_>) -> bool {
        let Some(position) = self.flights.find(&token.variant(), ledger.hasher) else { return false };
        let is_this = self.flights.at(position).is_some_and(|flight| Arc::ptr_eq(flight, token.flight()));
        if is_this {
            self.flights.swap_remove(position, ledger.hasher);
        }
        is_this
    }

    /// What [`Mutation::NoTokenCheck`] asks in the place of [`land`](Self::land): whether a read could begin now.
    pub(super) fn admits(&mut self, token: &Token<W>, at: &Moment, ledger: &mut Ledger<'_>) -> bool {
        matches!(self.entrance(&token.variant(), at, ledger), Entrance::Begin | Entrance::Join(_))
    }

    /// Takes a flight out whose reply is not to be stored.
    pub(super) fn abandon(&mut self, token: &Token<W>, ledger: &Ledger<'_>) -> Fate {
        self.land(token, ledger);
        self.forget_times_if_empty();
        self.fate()
    }

    /// Stores a reply whose flight has just [landed](Self::land) here (invariants 3 and 9). Says whether `seen_at` has
    /// moved past what is certified.
    pub(super) fn store(
        &mut self,
        held: Held,
        reply: Reply<'_>,
        arrived: Nanos,
        at: &Moment,
        ledger: &mut Ledger<'_>,
    ) -> bool {
        debug_assert!(self.writers == 0, "a write detaches every flight");
        let own = self.entries.find(&held.variant(), ledger.hasher);
        let is_equal = own.is_some_and(|own| self.holds(own, reply, arrived));
        let is_alone = self.flights.is_empty() && !self.has_live_besides(own, at.now);
        if is_alone {
            self.keep_only(own, ledger);
        }
        let moved = !is_alone && self.hear(is_equal, arrived, at.certified);
        self.put(held, ledger);
        moved
    }

    /// Judges what is here by a reply that is not stored (invariant 9). Says whether `seen_at` has moved past what is
    /// certified.
    pub(super) fn observe(
        &mut self,
        read: Option<&Observed<'_>>,
        arrived: Nanos,
        at: &Moment,
        ledger: &mut Ledger<'_>,
    ) -> bool {
        self.advance(at.generation, ledger);
        if !self.has_live_besides(None, at.now) {
            self.keep_only(None, ledger);
        }
        self.forget_times_if_empty();
        if self.is_empty() {
            return false;
        }
        let equal = read.and_then(|read| {
            let position = self.entries.find(&read.variant, ledger.hasher)?;
            self.holds(position, read.reply, arrived).then_some((position, read.sent_at))
        });
        let Some((position, sent_at)) = equal else {
            return self.hear(false, arrived, at.certified);
        };
        if !self.flights.is_empty() || self.has_live_besides(Some(position), at.now) {
            return self.hear(true, arrived, at.certified);
        }
        let position = self.keep_only(Some(position), ledger);
        let was_sent_at = self.entries.at(position).map(|held| held.entry().sent_at());
        if was_sent_at.is_some_and(|was| sent_at > was && !self.is_usable(was, at.certified))
            && let Some(held) = self.entries.at_mut(position)
        {
            let entry = held.entry_mut();
            entry.read_again(sent_at, arrived);
            // Between the two reads it may have been something else, which an MGET must be told.
            entry.stamp = ledger.candidates.next_stamp();
        }
        false
    }

    /// Takes one entry out, which eviction chose.
    pub(super) fn remove(&mut self, position: usize, ledger: &mut Ledger<'_>) {
        let held = self.entries.swap_remove(position, ledger.hasher);
        self.entries_cost -= held.cost();
        if let Some(moved) = self.entries.at(position) {
            ledger.candidates.reposition(moved.entry().index, position);
        }
        ledger.doomed.push(held);
        self.forget_times_if_empty();
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn entry_at(&self, position: usize) -> Option<&Entry> {
        self.entries.at(position).map(Held::entry)
    }

    pub(super) fn entry_at_mut(&mut self, position: usize) -> Option<&mut Entry> {
        self.entries.at_mut(position).map(Held::entry_mut)
    }

    /// Takes all entries out; the flights are detached.
    pub(super) fn bury(&mut self, doomed: &mut Doomed) {
        doomed.extend(self.entries.drain());
        self.flights.drain().for_each(drop);
    }

    /// Makes it the empty slot of another key, whatever it was.
    pub(super) fn reuse(&mut self, key: &[u8]) {
        debug_assert!(self.is_empty(), "what was in it has gone elsewhere");
        self.key.clear();
        self.key.extend_from_slice(key);
        (self.writers, self.generation) = (0, Generation::default());
        (self.seen_at, self.heard_at) = (Nanos::NEVER, Nanos::NEVER);
        *self.touch.get_mut() = 0;
        self.entries_cost = 0;
    }

    /// Whether it takes up more than most slots.
    pub(super) fn is_large(&self) -> bool {
        self.entries.is_roomy() || self.flights.is_roomy() || self.key.capacity() > KEY_BYTES_KEPT
    }

    /// Whether an entry is all there is, so that the record goes with it.
    pub(super) fn is_last_entry(&self) -> bool {
        self.writers == 0 && self.flights.is_empty() && self.entries.len() == 1
    }

    pub(super) fn view(
        &self,
        variant: &VariantKey<'_>,
        at: &Moment,
        hasher: &RandomState,
    ) -> Option<View<'_>> {
        if self.writers > 0 || self.generation != at.generation || self.entries.is_empty() {
            return None;
        }
        let held = self.entries.at(self.entries.find(variant, hasher)?)?;
        let view = View { entry: held.entry(), reply: held.reply(), touch: &self.touch };
        self.is_usable(view.entry.sent_at(), at.certified).then_some(view)
    }

    /// Whether what was sent at `sent_at` is as new as all that was seen (invariant 9).
    fn is_usable(&self, sent_at: Nanos, certified: Nanos) -> bool {
        certified >= self.seen_at || sent_at >= self.heard_at
    }

    /// Whether the entry at `position` is valid at `arrived` and says the same as `reply`.
    fn holds(&self, position: usize, reply: Reply<'_>, arrived: Nanos) -> bool {
        self.entries
            .at(position)
            .is_some_and(|held| arrived < held.entry().deadline() && held.reply() == reply)
    }

    fn has_live_besides(&self, own: Option<usize>, now: Nanos) -> bool {
        let mut entries = self.entries.iter().enumerate();
        entries.any(|(position, held)| Some(position) != own && now < held.entry().deadline())
    }

    /// Drops the other entries, which have expired: a reader whose clock reading is a moment older must not find
    /// them either. Says where the one that is kept stands now.
    fn keep_only(&mut self, own: Option<usize>, ledger: &mut Ledger<'_>) -> usize {
        let Some(mut own) = own else {
            self.clear_entries(ledger);
            return 0;
        };
        while self.entries.len() > 1 {
            let (other, last) = (usize::from(own == 0), self.entries.len() - 1);
            self.remove(other, ledger);
            if own == last {
                own = other;
            }
        }
        own
    }

    /// A reply has arrived: see the module's text. Says whether a certification is needed.
    fn hear(&mut self, is_equal: bool, arrived: Nanos, certified: Nanos) -> bool {
        if Mutation::SeenNotMoved.is_on() {
            return false;
        }
        self.heard_at = self.heard_at.max(arrived);
        if is_equal || arrived <= self.seen_at {
            return false;
        }
        self.seen_at = arrived;
        certified < arrived
    }

    /// Puts an entry in, in the place of the one of the same variant if there is one.
    fn put(&mut self, mut held: Held, ledger: &mut Ledger<'_>) {
        let entry = held.entry_mut();
        entry.stamp = ledger.candidates.next_stamp();
        *entry.access.get_mut() = ledger.clock.first();
        self.touch.store(entry.touch.load(Relaxed), Relaxed);
        self.entries_cost += held.cost();

        let own = self.entries.find(&held.variant(), ledger.hasher);
        if let Some(old) = own.and_then(|own| self.entries.at_mut(own)) {
            held.entry_mut().take_place_of(old.entry_mut(), ledger.clock);
            let old = mem::replace(old, held);
            self.entries_cost -= old.cost();
            ledger.doomed.push(old);
            return;
        }
        if self.entries.len() >= VARIANTS_MAX {
            let idle = |position| self.entries.at(position).map_or(0, |held| held.entry().idle(ledger.clock));
            let position = ledger.candidates.choose_variant(self.entries.len(), idle);
            self.remove(position, ledger);
        }
        let (handle, hash) =
            (Handle::new(ledger.key_hash, self.entries.len()), ledger.hasher.hash_one(held.variant()));
        held.entry_mut().index = ledger.candidates.add(handle, hash);
        self.entries.push(held, ledger.hasher);
    }

    /// Takes over what was a lone entry, whose handle says position 0 already.
    pub(super) fn adopt(&mut self, entry: Box<Entry>, ledger: &Ledger<'_>) {
        self.generation = entry.generation();
        self.touch.store(entry.touch.load(Relaxed), Relaxed);
        self.entries_cost = entry.cost();
        self.entries.push(Held::Inline(entry), ledger.hasher);
    }

    /// The lone entry, if there is nothing else to remember.
    pub(super) fn take_single(&mut self, certified: Nanos, hasher: &RandomState) -> Option<Box<Entry>> {
        let Held::Inline(entry) = self.entries.at(0)? else { return None };
        if !self.is_last_entry() || !self.is_usable(entry.sent_at(), certified) {
            return None;
        }
        match self.entries.swap_remove(0, hasher) {
            Held::Inline(entry) => {
                entry.touch.store(self.touch.load(Relaxed), Relaxed);
                Some(entry)
            }
            Held::Apart(_) => unreachable!("it was inline a moment ago"),
        }
    }

    /// Contents of an earlier generation are gone.
    fn advance(&mut self, generation: Generation, ledger: &mut Ledger<'_>) {
        if generation > self.generation {
            self.clear(ledger);
            self.generation = generation;
        }
    }

    pub(super) fn clear(&mut self, ledger: &mut Ledger<'_>) {
        self.clear_entries(ledger);
        self.flights.drain().for_each(drop);
        self.forget_times_if_empty();
    }

    fn clear_entries(&mut self, ledger: &mut Ledger<'_>) {
        if !self.entries.is_empty() {
            ledger.doomed.extend(self.entries.drain());
            self.entries_cost = 0;
        }
    }

    /// With nothing here that could be older than what was seen, there is nothing to remember: whatever comes
    /// will have been read later.
    fn forget_times_if_empty(&mut self) {
        if self.is_empty() {
            self.seen_at = Nanos::NEVER;
            self.heard_at = Nanos::NEVER;
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.flights.is_empty()
    }

    pub(super) fn fate(&self) -> Fate {
        if self.writers == 0 && self.is_empty() { Fate::Remove } else { Fate::Keep }
    }

    /// Flights and write marks are not counted: they are no entries, eviction cannot free them, and the
    /// requests in flight bound them.
    pub(super) fn size(&self) -> Size {
        if self.entries.is_empty() {
            return Size::default();
        }
        let own = block_bytes(size_of::<Self>()) + block_bytes(self.key.len());
        Size { entries: self.entries.len(), bytes: own + self.entries_cost }
    }

    pub(super) fn check_invariants(&self, hasher: &RandomState) {
        assert!(self.fate() == Fate::Keep, "an empty slot is removed");
        assert!(self.writers == 0 || self.is_empty(), "a key that is written holds nothing");
        assert!(!self.is_empty() || self.heard_at == Nanos::NEVER, "an empty slot remembers nothing");
        assert!(self.seen_at <= self.heard_at);
        assert!(self.entries.len() <= VARIANTS_MAX && self.flights.len() <= VARIANTS_MAX);
        assert_eq!(self.entries_cost, self.entries.iter().map(Held::cost).sum::<usize>());
        assert!(self.entries.iter().all(|held| held.entry().generation() == self.generation));
        assert!(self.entries.iter().all(|held| held.entry().key() == self.key));
        assert!(self.flights.iter().all(|flight| flight.generation == self.generation));
        self.entries.check_invariants(hasher);
        self.flights.check_invariants(hasher);
    }
}
