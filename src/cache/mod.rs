//! The cache: encoded replies in memory, by key, sharded, bounded, and coherent if it is told the truth.
//!
//! It is a map of per-key state machines (`slot.rs`), in which every step is one critical section under one shard's
//! lock: to check a token, store its reply and make room is one step, so that nothing comes between. A hit takes one
//! shard's read lock and nothing else. The table is `DashMap`'s, used through its raw shards: its own interface locks
//! for each call, and hashes twice.
//!
//! It is pure: no runtime, no clock (`now` comes in with each [`Moment`]), no I/O. It does not know whether the
//! link is alive, when a certification ends or what a command is; the coherence layer does, and is its only user.
//! It is generic over its waiters, and never wakes one: whoever gets them back does, after the lock is released.

mod entry;
mod eviction;
mod flight;
mod record;
mod shard;
mod slot;
mod terms;
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests;
mod variants;

use std::{
    sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use foldhash::fast::RandomState;

use self::{
    entry::{Draft, Held, PLACE_BYTES, block_bytes, coarse_seconds},
    eviction::{Candidates, Clock},
    record::{Fate, Ledger, Record, View},
    shard::{Books, Locked, Spare, Table, Totals, hash_of},
    slot::Entrance,
};
pub use self::{
    entry::{INLINE_BYTES_MAX, NAME_BYTES_MAX, Protocols, Reply, VariantKey},
    eviction::VARIANTS_MAX,
    flight::Token,
    terms::{Bypass, Evictions, FillOutcome, Filled, Hit, Limits, Moment, Observed, Read, Stamp},
};
use crate::{
    clock::Nanos,
    config::Eviction,
    mutation::Mutation,
    sync::{DashMap, Mutex, RwLockReadGuard},
};

/// Each shard evicts by itself, and in one of few entries too little is seen of what else is in use: a small cache
/// gets fewer shards, down to one. With 64, S3-FIFO hits up to 1.2 points less than in one shard, with 128 up to 0.6,
/// with 256 up to 0.2.
const SHARD_ENTRIES_MIN: usize = 256;

/// A shard that is one of so many parts below its share of the entries does not evict for its own fills. Room that an
/// invalidation left in one shard would else be taken by another for good: one key that is written often leaves most
/// shards empty in the end.
const SHARE_PARTS: usize = 16;

/// How many candidates a sweep looks at before it lets others have the shard: some 50 us.
const SWEEP_STEPS: usize = 512;

/// What every hit reads and hardly anything writes, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Clocks {
    /// See `eviction/sampled.rs`.
    access: AtomicU32,
    /// In seconds; 0: off.
    touch_interval: AtomicU16,
}

/// See the module's text.
pub struct Cache<W> {
    map: DashMap<Record<W>, (), RandomState>,
    /// One for each shard of the map that is used, which are two or more; see [`Books`] for when they may be locked.
    books: Box<[Mutex<Books<W>>]>,
    limits: Limits,
    clocks: Clocks,
    totals: Totals,
}

impl<W> Cache<W> {
    /// An empty cache.
    pub fn new(limits: Limits) -> Self {
        let unless_zero = |max| if max == 0 { usize::MAX } else { max };
        let entries_max = unless_zero(limits.entries_max);
        let mut shards = limits.shards.clamp(2, 4096).next_power_of_two();
        while shards > 1 && entries_max / shards < SHARD_ENTRIES_MIN {
            shards /= 2;
        }
        Self {
            map: DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), shards.max(2)),
            books: (0..shards).map(|_| Mutex::new(Books::new(Candidates::new(limits.eviction)))).collect(),
            limits: Limits {
                entries_max,
                bytes_max: unless_zero(limits.bytes_max),
                value_bytes_max: unless_zero(limits.value_bytes_max),
                shards,
                eviction: limits.eviction,
            },
            clocks: Clocks::default(),
            totals: Totals::default(),
        }
    }

    /// How often a key that is hit asks for a TOUCH; from a second to 18 hours, or never, which is the default.
    pub fn set_touch_interval(&self, interval: Option<Duration>) {
        let seconds = interval.map_or(0, |interval| interval.as_secs().clamp(1, u64::from(u16::MAX)) as u16);
        self.clocks.touch_interval.store(seconds, Relaxed);
    }

    /// Answers from memory, if a valid entry is there that is not older than what was seen of the key. `found` runs
    /// under the shard's read lock: it copies the reply, and does not come back to the cache.
    pub fn hit<R>(
        &self,
        key: &[u8],
        variant: &VariantKey<'_>,
        at: &Moment,
        found: impl FnOnce(Hit<'_>) -> R,
    ) -> Option<R> {
        let hash = self.hash(key);
        let table = self.read(hash);
        let (record, _) = table.get(hash, |(record, _)| record.key() == key)?;
        let view = record.view(variant, at, self.map.hasher())?;
        Some(found(self.note(&view, at)))
    }

    /// Whether the entry that a hit saw is still there and may still be shown.
    pub fn still_valid(&self, key: &[u8], variant: &VariantKey<'_>, stamp: Stamp, at: &Moment) -> bool {
        let hash = self.hash(key);
        let table = self.read(hash);
        let record = table.get(hash, |(record, _)| record.key() == key);
        let view = record.and_then(|(record, _)| record.view(variant, at, self.map.hasher()));
        view.is_some_and(|view| view.entry.stamp == stamp.0)
    }

    /// What a reader does who had no hit: looks once more, then joins the read in flight, or starts one. `found` and
    /// `waiter` run under the shard's lock, at most one of them.
    pub fn join_or_fetch<R>(
        &self,
        key: &[u8],
        variant: &VariantKey<'_>,
        at: &Moment,
        found: impl FnOnce(Hit<'_>) -> R,
        waiter: impl FnOnce() -> W,
    ) -> Read<R, W> {
        if !variant.fits(key) {
            return Read::Bypass(Bypass::Unfit);
        }
        let hash = self.hash(key);
        self.write(hash).edit_or_insert(hash, key, |record, ledger| {
            if let Some(view) = record.view(variant, at, self.map.hasher()) {
                return (Read::Hit(found(self.note(&view, at))), Fate::Keep);
            }
            let slot = record.as_slot(ledger);
            let read = match slot.entrance(variant, at, ledger) {
                Entrance::Join(flight) => {
                    let joined = flight.join(at.now, waiter);
                    if joined { Read::Joined } else { Read::Bypass(Bypass::InFlight) }
                }
                Entrance::Bypass(reason) => Read::Bypass(reason),
                Entrance::Begin => {
                    let token = Token::new(variant, at.now, at.generation);
                    slot.begin(&token, ledger);
                    Read::Fetch(token)
                }
            };
            (read, record.fate())
        })
    }

    /// What a reader does that cannot send its read now: joins the one in flight, if there is one that it may join.
    pub fn join(
        &self,
        key: &[u8],
        variant: &VariantKey<'_>,
        at: &Moment,
        waiter: impl FnOnce() -> W,
    ) -> bool {
        let hash = self.hash(key);
        let joined = self.write(hash).edit(hash, key, |record, ledger| {
            let Record::Slot(slot) = record else { return (false, Fate::Keep) };
            let joined = match slot.entrance(variant, at, ledger) {
                Entrance::Join(flight) => flight.join(at.now, waiter),
                Entrance::Begin | Entrance::Bypass(_) => false,
            };
            (joined, record.fate())
        });
        joined.unwrap_or(false)
    }

    /// What a reader does that has to send its read in any case: starts a flight, unless one is under way or there is
    /// a valid entry already.
    pub fn fetch_only(&self, key: &[u8], variant: &VariantKey<'_>, at: &Moment) -> Option<Token<W>> {
        if !variant.fits(key) {
            return None;
        }
        let hash = self.hash(key);
        self.write(hash).edit_or_insert(hash, key, |record, ledger| {
            if record.view(variant, at, self.map.hasher()).is_some() {
                return (None, Fate::Keep);
            }
            let slot = record.as_slot(ledger);
            let token = match slot.entrance(variant, at, ledger) {
                Entrance::Join(_) | Entrance::Bypass(_) => None,
                Entrance::Begin => {
                    let token = Token::new(variant, at.now, at.generation);
                    slot.begin(&token, ledger);
                    Some(token)
                }
            };
            (token, record.fate_to_settle(at.certified))
        })
    }

    /// The reply to a token's read has arrived, and was no error. It is stored if nothing came between (invariant
    /// 3), until `deadline`; stored or not, it is observed (invariant 9). Without a deadline the key may be expiring
    /// at this moment: the reply is right for who sent the read, but is not stored, nor good for who joined it.
    pub fn fill(
        &self,
        key: &[u8],
        token: Token<W>,
        reply: Reply<'_>,
        deadline: Option<Nanos>,
        arrived: Nanos,
        at: &Moment,
    ) -> Filled<W> {
        let drafted = self.draft(key, &token, reply, deadline, arrived, at);
        let hash = self.hash(key);
        let mut shard = self.write(hash);
        let judge = |record: &mut Record<W>, ledger: &mut Ledger<'_>| {
            let has_landed = match record {
                Record::Single(_) => false,
                Record::Slot(slot) => slot.land(&token, ledger) && token.generation() == at.generation,
            };
            let has_landed = has_landed
                || (Mutation::NoTokenCheck.is_on()
                    && token.generation() == at.generation
                    && record.as_slot(ledger).admits(&token, at, ledger));
            let (outcome, seen_moved) = match drafted {
                Ok(held) if has_landed => {
                    let slot = record.as_slot(ledger);
                    (FillOutcome::Stored, slot.store(held, reply, arrived, at, ledger))
                }
                refused => {
                    let read = Observed { variant: token.variant(), reply, sent_at: token.sent_at() };
                    let outcome = if has_landed { refused.err() } else { None };
                    let seen_moved = record.observe(Some(&read), arrived, at, ledger);
                    (outcome.unwrap_or(FillOutcome::Revoked), seen_moved)
                }
            };
            ((outcome, seen_moved), record.fate_to_settle(at.certified))
        };
        let judged = if Mutation::NoTokenCheck.is_on() {
            Some(shard.edit_or_insert(hash, key, judge))
        } else {
            shard.edit(hash, key, judge)
        };
        let (outcome, seen_moved) = judged.unwrap_or((FillOutcome::Revoked, false));
        if outcome == FillOutcome::Stored {
            let candidates = shard.candidates();
            candidates.count_fill(self.limits.shards, &self.clocks.access);
            let stored = Spare::Stamp(candidates.last_stamp());
            let fair = self.entries() / self.shards();
            self.evict(&mut shard, at, stored, fair - fair / SHARE_PARTS);
            drop(shard);
            if self.excess().is_some() {
                self.evict_elsewhere(hash, at, stored, fair);
            }
        } else {
            drop(shard);
        }
        let deadline = if Mutation::JoinPastDeadline.is_on() { Some(Nanos::FOREVER) } else { deadline };
        let (waiters, latecomers) = token.into_waiters_until(deadline.unwrap_or(Nanos::NEVER));
        Filled { outcome, waiters, latecomers, seen_moved }
    }

    /// A token's read has failed: an error reply, a dead lane, a timeout. The waiters are to be told, or sent again.
    pub fn abandon(&self, key: &[u8], token: Token<W>) -> Vec<W> {
        let hash = self.hash(key);
        let mut shard = self.write(hash);
        shard.edit(hash, key, |record, ledger| {
            let fate = match record {
                Record::Single(_) => Fate::Keep,
                Record::Slot(slot) => slot.abandon(&token, ledger),
            };
            ((), fate)
        });
        drop(shard);
        token.into_waiters()
    }

    /// A write of the key is about to be sent: what is cached is dropped, what is in flight detached, and nothing
    /// comes in until [`end_write`](Self::end_write).
    pub fn begin_write(&self, key: &[u8]) {
        let hash = self.hash(key);
        self.write(hash).edit_or_insert(hash, key, |record, ledger| {
            record.begin_write(ledger);
            ((), Fate::Keep)
        });
    }

    /// A write of the key that had begun is over, well or badly.
    pub fn end_write(&self, key: &[u8]) {
        let hash = self.hash(key);
        let found = self.write(hash).edit(hash, key, |record, ledger| ((), record.end_write(ledger)));
        debug_assert!(found.is_some(), "a write ends that has not begun");
    }

    /// The key has changed: drops all its variants in all databases and detaches what is in flight. Writes in
    /// progress stay counted. Says whether there was anything.
    pub fn invalidate(&self, key: &[u8]) -> bool {
        let hash = self.hash(key);
        self.write(hash).edit(hash, key, |record, ledger| ((), record.invalidate(ledger))).is_some()
    }

    /// An upstream reply that read the key has arrived at `arrived`, and fills nothing (invariant 9): a bypassing
    /// read, a part of an MGET, or, without `read`, whatever is not a variant of the key: a read inside EXEC, the
    /// source of a write. Says whether variants of the key now wait for a certification: then start one.
    pub fn observe(&self, key: &[u8], read: Option<&Observed<'_>>, arrived: Nanos, at: &Moment) -> bool {
        let hash = self.hash(key);
        // Most keys that are observed are not here, and then nobody needs to be kept waiting.
        if self.read(hash).get(hash, |(record, _)| record.key() == key).is_none() {
            return false;
        }
        let moved = self.write(hash).edit(hash, key, |record, ledger| {
            let moved = record.observe(read, arrived, at, ledger);
            (moved, record.fate())
        });
        moved.unwrap_or(false)
    }

    /// Frees what has expired and what is of an earlier generation in one shard, and memory left over from a burst.
    /// Holds the lock for short whiles only. Says how many entries were freed.
    pub fn sweep(&self, shard: usize, at: &Moment) -> usize {
        let (mut freed, mut end) = (0, usize::MAX);
        while end > 0 {
            let (more, next) = self.lock(shard).sweep(end, SWEEP_STEPS, at);
            freed += more;
            end = next;
        }
        self.lock(shard).shrink();
        freed
    }

    /// How many shards there are, to [`sweep`](Self::sweep) one by one.
    pub fn shards(&self) -> usize {
        self.books.len()
    }

    /// How many entries are cached; a variant of a key is one.
    pub fn entries(&self) -> usize {
        self.totals.entries.load(Relaxed)
    }

    /// What they cost: blocks as the allocator rounds them, and their share of the tables (an estimate, right
    /// within a tenth).
    pub fn bytes(&self) -> usize {
        self.totals.bytes.load(Relaxed)
    }

    /// How many entries have been evicted.
    pub fn evictions(&self) -> Evictions {
        Evictions {
            by_count: self.totals.evicted_by_count.load(Relaxed),
            by_bytes: self.totals.evicted_by_bytes.load(Relaxed),
        }
    }

    /// For tests, while nobody else uses the cache.
    ///
    /// # Panics
    ///
    /// Panics if the books do not add up.
    pub fn check_invariants(&self) {
        let (entries, bytes) = self.count();
        let mut candidates = 0;
        for shard in 0..self.shards() {
            let shard = self.lock(shard);
            shard.check_invariants();
            candidates += shard.candidate_count();
        }
        assert_eq!(entries, self.entries(), "entries are counted");
        assert_eq!(bytes, self.bytes(), "bytes are counted");
        assert_eq!(candidates, entries, "every entry can be evicted");
        assert!(entries <= self.limits.entries_max && bytes <= self.limits.bytes_max, "the bounds hold");
    }

    /// How many entries there are, and what they cost, record by record.
    #[cfg(not(feature = "shuttle"))]
    fn count(&self) -> (usize, usize) {
        let (mut entries, mut bytes) = (0, 0);
        for item in &self.map {
            item.key().check_invariants(self.map.hasher());
            let size = item.key().size();
            entries += size.entries;
            bytes += size.bytes;
        }
        (entries, bytes)
    }

    /// The raw tables of `sync.rs` cannot be walked without unsafe code: what the candidates lead to has to do.
    #[cfg(feature = "shuttle")]
    fn count(&self) -> (usize, usize) {
        (self.entries(), self.bytes())
    }

    /// The new entry, made before the lock is taken, or why there is none.
    fn draft(
        &self,
        key: &[u8],
        token: &Token<W>,
        reply: Reply<'_>,
        deadline: Option<Nanos>,
        arrived: Nanos,
        at: &Moment,
    ) -> Result<Held, FillOutcome> {
        let deadline = deadline.ok_or(FillOutcome::Expired)?;
        let least_cost = block_bytes(key.len() + reply.len()) + PLACE_BYTES;
        if reply.len() > self.limits.value_bytes_max || least_cost > self.limits.bytes_max {
            return Err(FillOutcome::TooLarge);
        }
        let (variant, generation) = (token.variant(), token.generation());
        let sent_at = if Mutation::SeenByFillTime.is_on() { arrived } else { token.sent_at() };
        let held = Held::new(&Draft { key, variant, reply, sent_at, deadline, generation, arrived });
        if at.now >= held.entry().deadline() {
            return Err(FillOutcome::Expired);
        }
        if held.cost() > self.limits.bytes_max {
            return Err(FillOutcome::TooLarge);
        }
        Ok(held)
    }

    /// Makes room in one shard, as long as there is too little, the shard has more than `left` entries and something
    /// else than `spare` to evict.
    fn evict(&self, shard: &mut Locked<'_, W>, at: &Moment, spare: Spare, left: usize) {
        while let Some(bound) = self.excess()
            && shard.candidate_count() > left
        {
            match shard.evict(at, spare) {
                Some(true) => match bound {
                    Bound::Count => self.totals.evicted_by_count.fetch_add(1, Relaxed),
                    Bound::Bytes => self.totals.evicted_by_bytes.fetch_add(1, Relaxed),
                },
                Some(false) => continue,
                None => return,
            };
        }
    }

    /// Makes room in the other shards, when the one that was filled has less than a `fair` share of the entries: first
    /// in those that have more, then in all of them, little by little; what was stored goes last of all.
    fn evict_elsewhere(&self, hash: u64, at: &Moment, stored: Spare, fair: usize) {
        let home = self.shard(hash);
        for parts in (0..=SHARE_PARTS).rev() {
            for offset in 1..=self.shards() {
                let is_home = offset == self.shards();
                let spare = if is_home && parts > 0 { stored } else { Spare::Nothing };
                let mut locked = self.lock((home + offset) % self.shards());
                self.evict(&mut locked, at, spare, fair * parts / SHARE_PARTS);
                drop(locked);
                if self.excess().is_none() {
                    return;
                }
            }
        }
    }

    /// Which bound does not hold, if any.
    fn excess(&self) -> Option<Bound> {
        if self.entries() > self.limits.entries_max {
            Some(Bound::Count)
        } else if self.bytes() > self.limits.bytes_max {
            Some(Bound::Bytes)
        } else {
            None
        }
    }

    /// What a hit does besides reading: notes the access, and claims the TOUCH if one is due.
    #[inline]
    fn note<'a>(&self, view: &View<'a>, at: &Moment) -> Hit<'a> {
        view.entry.accessed(self.clock());
        let interval = self.clocks.touch_interval.load(Relaxed);
        let touch = interval > 0 && {
            let (now, last) = (coarse_seconds(at.now), view.touch.load(Relaxed));
            let is_due = now.wrapping_sub(last) >= interval;
            is_due && view.touch.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
        };
        Hit { reply: view.reply, touch, entry: view.entry }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        hash_of(self.map.hasher(), key)
    }

    fn read(&self, hash: u64) -> RwLockReadGuard<'_, Table<W>> {
        self.map.shards()[self.shard(hash)].read()
    }

    fn write(&self, hash: u64) -> Locked<'_, W> {
        self.lock(self.shard(hash))
    }

    /// The map has two shards at least, of which a small cache uses one.
    #[inline]
    fn shard(&self, hash: u64) -> usize {
        self.map.determine_shard(hash as usize) & (self.books.len() - 1)
    }

    fn lock(&self, shard: usize) -> Locked<'_, W> {
        let table = self.map.shards()[shard].write();
        Locked::new(table, self.books[shard].lock(), &self.totals, self.map.hasher(), self.clock())
    }

    /// What a hit notes in its entry.
    #[inline]
    fn clock(&self) -> Clock {
        match self.limits.eviction {
            Eviction::Lru => Clock::Ticks(self.clocks.access.load(Relaxed)),
            Eviction::S3Fifo => Clock::Uses,
        }
    }
}

/// The bound that asks for an eviction.
#[derive(Clone, Copy)]
enum Bound {
    Count,
    Bytes,
}
