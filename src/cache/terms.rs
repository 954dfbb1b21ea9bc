//! The words the cache is spoken to in: what a caller brings, and what it is told. No code.

#[cfg(doc)]
use super::{Cache, VARIANTS_MAX};
use super::{
    entry::{Entry, Reply, VariantKey},
    flight::Token,
};
use crate::{clock::Nanos, config::Eviction, ids::Generation};

/// The bounds of a cache. All hold at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many entries; 0: any number.
    pub entries_max: usize,
    /// What they may cost together, in bytes of memory, their share of the tables included; 0: any amount.
    pub bytes_max: usize,
    /// The longest encoded reply that is kept, in bytes; 0: any length.
    pub value_bytes_max: usize,
    /// How many shards, rounded up to a power of two, 2 to 4096; fewer where `entries_max` is small.
    pub shards: usize,
    /// Which entries go.
    pub eviction: Eviction,
}

/// What is known at one point in time, read once per use by the coherence layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time.
    pub now: Nanos,
    /// Every write the server made before this has been applied here.
    pub certified: Nanos,
    /// The contents of the upstream.
    pub generation: Generation,
}

/// Tells a valid entry from any that the same variant had before or gets later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub(super) u32);

/// A valid entry, seen under the shard's lock.
pub struct Hit<'a> {
    /// The reply, to be copied.
    pub reply: Reply<'a>,
    /// The key is due for a TOUCH upstream, and this hit is the one to send it.
    pub touch: bool,
    pub(super) entry: &'a Entry,
}

impl Hit<'_> {
    /// For [`Cache::still_valid`].
    pub fn stamp(&self) -> Stamp {
        Stamp(self.entry.stamp)
    }

    /// When the reply had arrived, rounded up: what it shows of outside writes may run ahead of the invalidations of
    /// other keys until this is certified.
    pub fn arrived(&self) -> Nanos {
        self.entry.arrived()
    }
}

/// What becomes of a reader.
#[must_use]
pub enum Read<R, W> {
    /// It was a hit after all: what `found` made of it.
    Hit(R),
    /// The waiter has joined a read in flight, and comes back with its reply.
    Joined,
    /// Send the read, and fill with its reply.
    Fetch(Token<W>),
    /// Send the read; [`Cache::observe`] its reply.
    Bypass(Bypass),
}

/// Why a reader goes upstream without the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// The key is being written.
    Writing,
    /// A read is in flight that may be older than what was seen of the key, and may not be joined.
    InFlight,
    /// The link is not live within its lease, the key is not tracked, or the reader's lane ends at another server. Not
    /// this layer's to say: coherence says it in its place.
    NotLive,
    /// The name is too long, or the number of the database or the identity too high, to be cached.
    Unfit,
    /// [`VARIANTS_MAX`] variants of the key are in flight.
    TooMany,
    /// The caller's moment is of an earlier generation than what is here.
    LateMoment,
}

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillOutcome {
    /// It is cached.
    Stored,
    /// A write, an invalidation or a new generation came between.
    Revoked,
    /// The rule for its time to live refused it (no deadline was given), or its deadline has passed.
    Expired,
    /// It is longer than `value_bytes_max`, or would fill the cache alone.
    TooLarge,
}

/// The end of a flight.
#[must_use = "the waiters are to be answered"]
pub struct Filled<W> {
    /// What became of the reply.
    pub outcome: FillOutcome,
    /// Who waited for it: they are to be answered with this reply, stored or not.
    pub waiters: Vec<W>,
    /// Who joined at or after the deadline, when the key may have expired and others been told so; expiry is silent,
    /// so nothing else kept them out. They are to ask again.
    pub latecomers: Vec<W>,
    /// Other variants of the key wait for a certification: start one.
    pub seen_moved: bool,
}

/// An upstream reply that is no fill.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// What was read.
    pub variant: VariantKey<'a>,
    /// What the answer was.
    pub reply: Reply<'a>,
    /// A time before the read was sent.
    pub sent_at: Nanos,
}

/// Entries evicted so far, by the bound that asked for it. Expired entries do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// To keep `entries_max`.
    pub by_count: u64,
    /// To keep `bytes_max`.
    pub by_bytes: u64,
}
