//! One cached reply, in one heap block.
//!
//! An [`Entry`] is a header and, right behind it, the key, the arguments after the key and the encoded reply.
//! A million entries of 16 B key and 64 B value take 191 B each this way, table and all (181 B when the tables are
//! fuller), and 430 B as nested Rust structs. The block has a header of real fields (two of them atomic, written
//! under a read lock), which a boxed byte slice cannot have without `unsafe`; so it is a struct with an unsized tail,
//! allocated in one of a fixed list of sizes and coerced. glibc rounds every block to 16 B anyhow, so the list loses
//! nothing up to 512 B.
//!
//! This file knows nothing of locks, states or eviction: it lays out bytes and says what they cost.

use std::{
    mem::{self, size_of_val},
    sync::atomic::{AtomicU16, AtomicU32},
    time::Duration,
};

use bytes::Bytes;

use super::eviction::Clock;
use crate::{
    clock::Nanos,
    ids::{Database, Generation, IdentityId},
};

/// What key, arguments and reply may take together to be held in one block. A longer reply is held as [`Bytes`]
/// and shared by reference count, so that no reader copies more than this under the shard's lock.
pub const INLINE_BYTES_MAX: usize = 16 * 1024 + 7;

/// What key and arguments may take together; longer ones are not cached.
pub const NAME_BYTES_MAX: usize = INLINE_BYTES_MAX;

/// The share of an entry in the table and in the list of eviction candidates. A table slot is 17 B (pointer,
/// length, control byte) and a table is between 7/16 and 7/8 full, which is 19 to 39 B an entry; a candidate is
/// 8 B in a vector that grows by an eighth, and a ghost 4 B.
pub(super) const PLACE_BYTES: usize = 28 + 9 + 4;

/// The reference count and the vector behind a shared [`Bytes`].
const SHARED_BYTES: usize = 64;

/// What the time a reply took is counted in: fine enough that a reply counts as arrived soon after it has.
const FLIGHT_UNIT: Duration = Duration::from_micros(16);

/// An entry that has no place in the list of candidates.
pub(super) const UNPLACED: u32 = u32::MAX;

/// Which protocols a variant's reply is right for. Replies that are the same in both share one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocols {
    /// The command's reply is the same bytes in RESP2 and RESP3; nil is kept as a fact, not as bytes.
    Both,
    /// A reply in RESP2.
    Resp2,
    /// A reply in RESP3.
    Resp3,
}

/// What is asked of a key, and by whom: one key has one cached reply for each of these.
#[derive(Clone, Copy, Debug, Eq, Hash)]
pub struct VariantKey<'a> {
    /// Who asks: a cached reply is never shown to another user. Numbers over 65,535 are not cached.
    pub identity: IdentityId,
    /// The selected database. Numbers over 65,535 are not cached.
    pub database: Database,
    /// The protocols the reply is right for.
    pub protocols: Protocols,
    /// The command's number in the command table.
    pub command: u16,
    /// The raw bytes of the arguments after the key.
    pub tail: &'a [u8],
}

impl PartialEq for VariantKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.tail.len() == other.tail.len()
            && self.identity == other.identity
            && self.database == other.database
            && self.protocols == other.protocols
            && self.command == other.command
            // GET has no tail, and an empty slice may point nowhere: glibc's memcmp on AVX-512 then loads nothing from
            // an unmapped page, which the processor takes 40 ns to find out; half of a hit.
            && (self.tail.is_empty() || self.tail == other.tail)
    }
}

impl VariantKey<'_> {
    /// Whether a reply to this can be held at all: see [`NAME_BYTES_MAX`] and `database`.
    pub fn fits(&self, key: &[u8]) -> bool {
        key.len() + self.tail.len() <= NAME_BYTES_MAX
            && u16::try_from(self.database.0).is_ok()
            && u16::try_from(self.identity.0).is_ok()
    }
}

/// An upstream reply, as it is handed in and out.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// Nil, which is `$-1` in RESP2 and `_` in RESP3: the same fact, so it is kept as a fact.
    Nil,
    /// The encoded reply; never empty.
    Bytes(&'a [u8]),
    /// The encoded reply, shared by reference count. Handed in, it should own its memory: what is kept is a
    /// reference, and only its length is counted.
    Shared(&'a Bytes),
}

impl<'a> Reply<'a> {
    /// The encoded reply, or nothing for nil.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Nil => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Shared(bytes) => Some(bytes),
        }
    }

    /// Its length in bytes; nil has none.
    pub fn len(self) -> usize {
        self.bytes().map_or(0, <[u8]>::len)
    }

    /// Whether this is nil: an encoded reply is never empty.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Reply<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

/// What an entry is made from.
pub(super) struct Draft<'a> {
    pub(super) key: &'a [u8],
    pub(super) variant: VariantKey<'a>,
    pub(super) reply: Reply<'a>,
    pub(super) sent_at: Nanos,
    pub(super) deadline: Nanos,
    pub(super) generation: Generation,
    /// When the reply arrived; the first TOUCH is due an interval later.
    pub(super) arrived: Nanos,
}

/// A cached reply: header and bytes in one block. Always behind a `Box`; `B` is `[u8; N]` only while it is made.
pub(super) struct Block<B: ?Sized> {
    sent_at: Nanos,
    generation: Generation,
    /// The deadline, counted from `sent_at` and rounded down: 4 B instead of 8, for a loss of less than a
    /// millisecond; at most 49 days.
    ttl_ms: u32,
    /// Tells this entry from every other of its shard. It wraps after four billion fills, which nobody who
    /// remembers a stamp (one MGET in flight) lives to see.
    pub(super) stamp: u32,
    identity: u16,
    /// How long after `sent_at` the reply arrived, in units of [`FLIGHT_UNIT`] rounded up; a second and more are all
    /// the same.
    flight: u16,
    /// What eviction wants to know of the hits, see [`Clock`]; written under a read lock.
    pub(super) access: AtomicU32,
    /// The place of this entry in its shard's list of candidates.
    pub(super) index: u32,
    database: u16,
    command: u16,
    /// The second of the last TOUCH, modulo 18 hours; written under a read lock. Only an entry that is alone in
    /// its record uses it.
    pub(super) touch: AtomicU16,
    key_len: u16,
    tail_len: u16,
    /// 0 for nil, and where the reply is held apart.
    reply_len: u16,
    protocols: Protocols,
    bytes: B,
}

/// See [`Block`].
pub(super) type Entry = Block<[u8]>;

// The header is 49 B; with it, every size below fills a block of the allocator exactly.
const _: () = assert!(size_of::<Block<[u8; 7]>>() == 56);

impl Entry {
    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..usize::from(self.key_len)]
    }

    pub(super) fn variant(&self) -> VariantKey<'_> {
        let start = usize::from(self.key_len);
        VariantKey {
            identity: IdentityId(u32::from(self.identity)),
            database: Database(u32::from(self.database)),
            protocols: self.protocols,
            command: self.command,
            tail: &self.bytes[start..start + usize::from(self.tail_len)],
        }
    }

    pub(super) fn reply(&self) -> Reply<'_> {
        let start = usize::from(self.key_len) + usize::from(self.tail_len);
        match usize::from(self.reply_len) {
            0 => Reply::Nil,
            len => Reply::Bytes(&self.bytes[start..start + len]),
        }
    }

    pub(super) fn sent_at(&self) -> Nanos {
        self.sent_at
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn deadline(&self) -> Nanos {
        self.sent_at + Duration::from_millis(u64::from(self.ttl_ms))
    }

    /// Whether `now` lies before the deadline: what every hit asks.
    #[inline]
    pub(super) fn is_fresh(&self, now: Nanos) -> bool {
        now.0.saturating_sub(self.sent_at.0) < u64::from(self.ttl_ms) * 1_000_000
    }

    /// When the reply had certainly arrived; never, if that took over a second.
    pub(super) fn arrived(&self) -> Nanos {
        match self.flight {
            u16::MAX => Nanos::FOREVER,
            units => self.sent_at + FLIGHT_UNIT * u32::from(units),
        }
    }

    /// Past its deadline, or of contents that are gone: never shown again.
    pub(super) fn is_dead(&self, now: Nanos, generation: Generation) -> bool {
        now >= self.deadline() || self.generation < generation
    }

    /// The same reply was read again, by a request sent at `sent_at` and answered at `arrived`. The deadline stays.
    pub(super) fn read_again(&mut self, sent_at: Nanos, arrived: Nanos) {
        if sent_at > self.sent_at {
            self.ttl_ms = ttl_ms(sent_at, self.deadline());
            self.flight = flight(sent_at, arrived);
            self.sent_at = sent_at;
        }
    }

    /// Notes a hit.
    #[inline]
    pub(super) fn accessed(&self, clock: Clock) {
        clock.note(&self.access);
    }

    /// The higher, the sooner eviction takes it.
    pub(super) fn idle(&self, clock: Clock) -> u32 {
        clock.idle(&self.access)
    }

    /// Takes over the place of an entry of the same variant, and what was noted of its hits: it is asked for once more.
    pub(super) fn take_place_of(&mut self, old: &mut Self, clock: Clock) {
        self.index = mem::replace(&mut old.index, UNPLACED);
        *self.access.get_mut() = *old.access.get_mut();
        self.accessed(clock);
    }

    /// What it costs, its place in the table included.
    pub(super) fn cost(&self) -> usize {
        block_bytes(size_of_val(self)) + PLACE_BYTES
    }
}

/// A cached reply, whether in one block or, if long, beside it.
pub(super) enum Held {
    Inline(Box<Entry>),
    Apart(Box<Apart>),
}

/// An entry whose reply is too long for its block.
pub(super) struct Apart {
    entry: Box<Entry>,
    reply: Bytes,
}

impl Held {
    pub(super) fn new(draft: &Draft<'_>) -> Self {
        let name_len = draft.key.len() + draft.variant.tail.len();
        if name_len + draft.reply.len() <= INLINE_BYTES_MAX {
            return Self::Inline(allocate(draft, draft.reply.bytes().unwrap_or_default()));
        }
        let reply = match draft.reply {
            Reply::Shared(bytes) => bytes.clone(),
            Reply::Bytes(bytes) => Bytes::copy_from_slice(bytes),
            Reply::Nil => Bytes::new(),
        };
        Self::Apart(Box::new(Apart { entry: allocate(draft, &[]), reply }))
    }

    pub(super) fn entry(&self) -> &Entry {
        match self {
            Self::Inline(entry) => entry,
            Self::Apart(apart) => &apart.entry,
        }
    }

    pub(super) fn entry_mut(&mut self) -> &mut Entry {
        match self {
            Self::Inline(entry) => entry,
            Self::Apart(apart) => &mut apart.entry,
        }
    }

    pub(super) fn reply(&self) -> Reply<'_> {
        match self {
            Self::Inline(entry) => entry.reply(),
            Self::Apart(apart) => Reply::Shared(&apart.reply),
        }
    }

    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Inline(entry) => entry.cost(),
            Self::Apart(apart) => {
                let reply = block_bytes(apart.reply.len()) + SHARED_BYTES;
                apart.entry.cost() + block_bytes(size_of::<Apart>()) + reply
            }
        }
    }
}

/// What a block of `len` bytes takes in glibc's malloc: 8 B of its own, rounded up to 16, and 32 at least.
pub(super) const fn block_bytes(len: usize) -> usize {
    let rounded = (len + 8).next_multiple_of(16);
    if rounded < 32 { 32 } else { rounded }
}

/// Whole milliseconds from `sent_at` to `deadline`, rounded down.
fn ttl_ms(sent_at: Nanos, deadline: Nanos) -> u32 {
    u32::try_from(deadline.since(sent_at).as_millis()).unwrap_or(u32::MAX)
}

/// The time from `sent_at` to `arrived` in units of [`FLIGHT_UNIT`], rounded up.
fn flight(sent_at: Nanos, arrived: Nanos) -> u16 {
    u16::try_from(arrived.since(sent_at).as_nanos().div_ceil(FLIGHT_UNIT.as_nanos())).unwrap_or(u16::MAX)
}

/// Makes a block of exactly `N` bytes behind the header.
fn block<const N: usize>(draft: &Draft<'_>, reply: &[u8]) -> Box<Entry> {
    let (key, tail) = (draft.key, draft.variant.tail);
    let mut block = Box::new(Block {
        sent_at: draft.sent_at,
        generation: draft.generation,
        ttl_ms: ttl_ms(draft.sent_at, draft.deadline),
        stamp: 0,
        identity: draft.variant.identity.0 as u16,
        flight: flight(draft.sent_at, draft.arrived),
        access: AtomicU32::new(0),
        index: UNPLACED,
        database: draft.variant.database.0 as u16,
        command: draft.variant.command,
        touch: AtomicU16::new(coarse_seconds(draft.arrived)),
        key_len: key.len() as u16,
        tail_len: tail.len() as u16,
        reply_len: reply.len() as u16,
        protocols: draft.variant.protocols,
        bytes: [0; N],
    });
    let (key_room, rest) = block.bytes.split_at_mut(key.len());
    let (tail_room, rest) = rest.split_at_mut(tail.len());
    key_room.copy_from_slice(key);
    tail_room.copy_from_slice(tail);
    rest[..reply.len()].copy_from_slice(reply);
    block
}

/// Seconds modulo 18 hours: what the TOUCH clock counts in.
pub(super) fn coarse_seconds(now: Nanos) -> u16 {
    (now.0 / 1_000_000_000) as u16
}

/// Makes the smallest block that holds the draft. Sizes step by 16 B to 512 B, then by an eighth.
fn allocate(draft: &Draft<'_>, reply: &[u8]) -> Box<Entry> {
    debug_assert!(draft.variant.fits(draft.key), "the caller has refused names that do not fit");
    macro_rules! smallest {
        ($($size:literal)*) => {
            match draft.key.len() + draft.variant.tail.len() + reply.len() {
                $(..=$size => block::<$size>(draft, reply),)*
                len => unreachable!("{len} bytes do not go inline"),
            }
        };
    }
    smallest! {
        7 23 39 55 71 87 103 119 135 151 167 183 199 215 231 247
        263 279 295 311 327 343 359 375 391 407 423 439 455 471 487 503
        567 631 695 759 823 887 951 1015
        1143 1271 1399 1527 1655 1783 1911 2039
        2295 2551 2807 3063 3319 3575 3831 4087
        4599 5111 5623 6135 6647 7159 7671 8183
        9207 10231 11255 12279 13303 14327 15351 16391
    }
}
