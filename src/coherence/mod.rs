//! The only door to the cache, and the only joint of cache and upstream.
//!
//! Sessions ask it for hits, for leave to fill, and for a guard around each write; the link tells it what the server
//! has invalidated; the health check tells it what the server does not signal. The eleven invariants of
//! `docs/ARCHITECTURE.md` are kept here, in `cache` and, where they are about a client, in `session`, each named where
//! it is kept. It refuses to know anything of clients: who waits for a reply is an opaque `W`.

pub mod canary;
mod certify;
pub mod link;
mod state;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tracing::{info, warn};

pub use self::{
    canary::{Canary, Staleness},
    certify::Certifier,
    state::{Answer, Heartbeat, Phase},
};
pub use crate::cache::{Bypass, FillOutcome, Hit, Limits, Protocols, Read, Reply, Stamp, Token, VariantKey};
use crate::{
    cache::{Cache, Filled, Moment, Observed},
    clock::{self, Nanos},
    ids::{Generation, ServerId},
    metrics::Counters,
    mutation::Mutation,
    resp::Raw,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    upstream::{control::Report, lane::STALLED_AFTER},
};

/// While any hash has fields that expire by themselves, which the server does not signal, hash reads live this long.
const FIELD_EXPIRY_TTL: Duration = Duration::from_secs(1);

/// What the coherence protocol is told by the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The phase to begin in: `Down`, or `Off` and `Disabled` where the configuration says so.
    pub phase: Phase,
    /// The longest an entry may be behind the server.
    pub max_staleness: Duration,
    /// The longest an entry lives, whatever its key's own time to live.
    pub ttl: Duration,
    /// How often a hot key is touched where the upstream evicts by use; zero is never.
    pub touch_interval: Duration,
    /// Keys must begin with one of these to be cached; empty: all may be.
    pub prefixes: Vec<Bytes>,
    /// A key that is written to measure how late its invalidation comes.
    pub canary_key: Option<Bytes>,
    /// Number of worker threads.
    pub workers: usize,
}

/// One look at clock and lease, good for a batch of requests: the clock is read after the batch came off the
/// socket, so each request of it may be answered as of that moment.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// When the batch was read.
    pub now: Nanos,
    certified: Nanos,
    leased: bool,
}

/// The reply that may be stored, and what is known of its key's life.
pub struct Response<'a> {
    /// The raw bytes.
    pub raw: Raw<'a>,
    /// PTTL's answer, sent just ahead of the read: milliseconds, -1 for none, -2 for no such key.
    pub pttl: i64,
    /// Whether it is what this command answers of a key that does not exist.
    pub is_missing: bool,
    /// Whether it came from a hash, whose fields may expire by themselves.
    pub is_hash: bool,
    /// When it came off the socket.
    pub arrived: Nanos,
}

impl Batch {
    /// Whether there may be hits at all.
    pub fn is_leased(&self) -> bool {
        self.leased
    }

    /// The certified time as the batch sees it.
    pub fn certified(&self) -> Nanos {
        self.certified
    }
}

/// A cacheable read that was no hit.
pub struct Missed<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is asked of it.
    pub variant: &'a VariantKey<'a>,
    /// The process that the client's lane ends at.
    pub server: ServerId,
}

/// What a write does to the cache before it may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteKind {
    /// It changes the keys it declares and no others.
    Declared,
    /// It may change, or show, keys that it does not declare: a fence stands before its acknowledgement.
    Undeclared,
    /// It changes contents or rights wholesale: the generation moves when it is sent and when it is answered.
    Flush,
}

/// When a write's reply may go to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// At once.
    Now,
    /// Once this moment is certified.
    After(Nanos),
}

/// Cache, generation and certified time.
pub struct Coherence<W> {
    cache: Cache<W>,
    settings: Settings,
    certifier: Certifier,
    generation: AtomicU64,
    /// The server process whose invalidations are heard.
    server: AtomicU32,
    hashes_live_short: AtomicBool,
    /// Scripts and the like in flight, which may keep the server from answering anybody.
    undeclared: AtomicUsize,
    /// Since when there has been one all the time.
    undeclared_since: AtomicU64,
    /// The calls of unsignalled commands at the last health check, and of which server.
    unsignalled: Mutex<(ServerId, HashMap<String, u64>)>,
    /// Breaks the link, so that it is dialled anew.
    relink: Notify,
    canary: Option<Canary>,
    link_counters: Arc<Counters>,
}

impl<W> Coherence<W> {
    /// An empty cache.
    pub fn new(settings: Settings, limits: Limits, link_counters: Arc<Counters>) -> Self {
        Self {
            cache: Cache::new(limits),
            certifier: Certifier::new(settings.phase, settings.max_staleness, settings.workers),
            canary: settings.canary_key.clone().map(Canary::new),
            settings,
            generation: AtomicU64::new(1),
            server: AtomicU32::new(0),
            hashes_live_short: AtomicBool::new(false),
            undeclared: AtomicUsize::new(0),
            undeclared_since: AtomicU64::new(0),
            unsignalled: Mutex::default(),
            relink: Notify::new(),
            link_counters,
        }
    }

    /// The certified time and its waiters.
    pub fn certifier(&self) -> &Certifier {
        &self.certifier
    }

    /// The cache, for figures and upkeep.
    pub fn cache(&self) -> &Cache<W> {
        &self.cache
    }

    /// What measures staleness, if anything is to.
    pub fn canary(&self) -> Option<&Canary> {
        self.canary.as_ref()
    }

    /// Whether hashes hold fields that expire by themselves, of which the server says nothing.
    pub fn has_field_expiries(&self) -> bool {
        self.hashes_live_short.load(Ordering::Relaxed)
    }

    /// The contents' generation.
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// The server process whose invalidations are heard; unknown while there is no link. Where there is to be none it is
    /// the one that the health check has found.
    pub fn server(&self) -> ServerId {
        ServerId(self.server.load(Ordering::Acquire))
    }

    /// Looks at clock and lease for a batch that was read before `now`.
    pub fn batch(&self, now: Nanos) -> Batch {
        let leased = self.certifier.is_leased(now);
        Batch { now, certified: self.certified(), leased }
    }

    /// Without tracking, nothing is ever certified and nothing has to be.
    fn certified(&self) -> Nanos {
        if self.certifier.phase() == Phase::Off { Nanos::FOREVER } else { self.certifier.certified() }
    }

    /// The batch's look at the cache. The generation is read at each use: it may move within a batch.
    fn at(&self, batch: &Batch) -> Moment {
        Moment { now: batch.now, certified: batch.certified, generation: self.generation() }
    }

    /// A look at the cache as of now, with what is certified now.
    fn moment(&self, now: Nanos) -> Moment {
        Moment { now, certified: self.certified(), generation: self.generation() }
    }

    // ---- reads ------------------------------------------------------------------------------------------------

    /// Invariant 1: answers from memory if that is allowed, calling `found` under the shard's read lock.
    ///
    /// The caller vouches that its client is eligible.
    #[inline]
    pub fn hit<R>(
        &self,
        key: &[u8],
        variant: &VariantKey<'_>,
        batch: &Batch,
        found: impl FnOnce(Hit<'_>) -> R,
    ) -> Option<R> {
        if !batch.leased {
            return None;
        }
        self.cache.hit(key, variant, &self.at(batch), found)
    }

    /// Invariant 2: joins a read of the same thing that is in flight, or grants a token to fill. Called before the
    /// read is sent, on a lane that ends at `server`.
    pub fn miss<R>(
        &self,
        read: &Missed<'_>,
        batch: &Batch,
        found: impl FnOnce(Hit<'_>) -> R,
        waiter: impl FnOnce() -> W,
    ) -> Read<R, W> {
        if !batch.leased || !self.is_at_link(read.server) || !self.is_tracked(read.key) {
            return Read::Bypass(Bypass::NotLive);
        }
        self.cache.join_or_fetch(read.key, read.variant, &self.at(batch), found, waiter)
    }

    /// Invariant 2 for a client that has no lane at the moment: it may join a read in flight all the same.
    pub fn join(
        &self,
        key: &[u8],
        variant: &VariantKey<'_>,
        batch: &Batch,
        waiter: impl FnOnce() -> W,
    ) -> bool {
        batch.leased && self.cache.join(key, variant, &self.at(batch), waiter)
    }

    /// Invariant 2 without joining: leave to fill for a read that has to be sent in any case.
    pub fn fetch(&self, read: &Missed<'_>, batch: &Batch) -> Option<Token<W>> {
        if !batch.leased || !self.is_at_link(read.server) || !self.is_tracked(read.key) {
            return None;
        }
        self.cache.fetch_only(read.key, read.variant, &self.at(batch))
    }

    /// Invariants 3, 7 and 9: a token's reply came. It is stored if nothing stands against it. Those who joined it
    /// before its deadline are to be answered with it, the latecomers have to ask for themselves.
    pub fn fill(&self, key: &[u8], token: Token<W>, response: &Response<'_>) -> Filled<W> {
        let deadline = self.deadline(token.sent_at(), response);
        let at = self.moment(response.arrived);
        let filled = self.cache.fill(key, token, reply(&response.raw), deadline, response.arrived, &at);
        if filled.seen_moved {
            self.certifier.want(response.arrived);
        }
        filled
    }

    /// A token's read failed or was refused; returns those who wait for it.
    pub fn abandon(&self, key: &[u8], token: Token<W>) -> Vec<W> {
        self.cache.abandon(key, token)
    }

    /// Invariant 7: until when a reply may be served, counted from when its PTTL was sent, because the server
    /// answered later than that. `None`: not at all.
    fn deadline(&self, sent_at: Nanos, response: &Response<'_>) -> Option<Nanos> {
        let own = match response.pttl {
            -1 => Nanos::FOREVER,
            // The key was gone when PTTL ran; anything else belongs to a life that PTTL knew nothing of.
            ..-1 if response.is_missing => Nanos::FOREVER,
            ..1 => return None,
            ms if Mutation::PttlFromReceipt.is_on() => {
                response.arrived + Duration::from_millis(ms.unsigned_abs())
            }
            ms => sent_at + Duration::from_millis(ms.unsigned_abs()),
        };
        let short = response.is_hash && self.has_field_expiries();
        let ttl = if short { self.settings.ttl.min(FIELD_EXPIRY_TTL) } else { self.settings.ttl };
        Some(own.min(sent_at + ttl))
    }

    /// Invariant 9: an upstream reply that read `key` came, and was not a fill. Nothing older may be shown from now
    /// on, until it is certified that the cache has caught up.
    pub fn observe(&self, key: &[u8], arrived: Nanos) {
        if self.cache.observe(key, None, arrived, &self.moment(arrived)) {
            self.certifier.want(arrived);
        }
    }

    /// The same for a read that is on the allowlist: if it says what is cached of that very variant, nothing new was
    /// seen. It was sent at or after `sent_at`.
    pub fn observe_read(
        &self,
        key: &[u8],
        variant: VariantKey<'_>,
        raw: &Raw<'_>,
        sent_at: Nanos,
        arrived: Nanos,
    ) {
        let read = Observed { variant, reply: reply(raw), sent_at };
        if self.cache.observe(key, Some(&read), arrived, &self.moment(arrived)) {
            self.certifier.want(arrived);
        }
    }

    /// Invariant 10: whether a part that was taken from memory is still the same valid entry.
    pub fn is_still_valid(&self, key: &[u8], variant: &VariantKey<'_>, stamp: Stamp, now: Nanos) -> bool {
        self.certifier.is_leased(now) && self.cache.still_valid(key, variant, stamp, &self.moment(now))
    }

    /// Invariant 8: whether a lane that ends at `server` reads what the link hears of.
    fn is_at_link(&self, server: ServerId) -> bool {
        server.is_same(self.server()) || Mutation::ForeignLane.is_on()
    }

    fn is_tracked(&self, key: &[u8]) -> bool {
        let prefixes = &self.settings.prefixes;
        prefixes.is_empty() || prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    // ---- writes -----------------------------------------------------------------------------------------------

    /// Invariant 4: drops and blocks the keys of a write that is about to be sent. Undone by the guard, however
    /// the write ends.
    pub fn begin_write<'k>(
        self: &Arc<Self>,
        kind: WriteKind,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> WriteGuard<W> {
        let phase = self.certifier.phase();
        let kind = match kind {
            // Without tracking, no fence can tell what an undeclared write has changed.
            WriteKind::Undeclared if phase == Phase::Off => WriteKind::Flush,
            WriteKind::Flush if phase == Phase::Disabled || Mutation::OwnFlushIgnored.is_on() => {
                WriteKind::Declared
            }
            kind => kind,
        };
        let mut guard =
            WriteGuard { coherence: Arc::clone(self), kind, keys: SmallVec::new(), has_ended: false };
        // There is nothing to drop without a cache. A script in flight counts all the same: see `expects_pong`.
        if phase != Phase::Disabled {
            let is_blind = Mutation::AcknowledgeBeforeDrop.is_on() && kind == WriteKind::Declared;
            for key in keys.filter(|_| !is_blind) {
                self.cache.begin_write(key);
                guard.keys.push(key.into());
            }
            if Mutation::DropsOnce.is_on() {
                guard.keys.drain(..).for_each(|key| self.cache.end_write(&key));
            }
            if kind == WriteKind::Flush {
                self.move_generation("a command that changes contents or rights wholesale was sent");
            }
        }
        if guard.kind != WriteKind::Declared && self.undeclared.fetch_add(1, Ordering::Relaxed) == 0 {
            self.undeclared_since.store(clock::now().0, Ordering::Relaxed);
        }
        guard
    }

    /// Whether nothing speaks against the server answering a PING at `now` as it always does: no script has been in
    /// flight for long enough to keep it busy, and the link, where there is one, has heard from it lately.
    pub fn expects_pong(&self, now: Nanos) -> bool {
        let since = Nanos(self.undeclared_since.load(Ordering::Relaxed));
        let may_be_busy = self.undeclared.load(Ordering::Relaxed) > 0 && now.since(since) > STALLED_AFTER;
        let is_silent = self.certifier.phase() == Phase::Live && !self.certifier.is_leased(now);
        !may_be_busy && !is_silent
    }

    /// Drops a key that some upstream reply shows to have changed, before that reply is passed on.
    pub fn invalidate(&self, key: &[u8]) {
        self.cache.invalidate(key);
    }

    /// Invariant 6: everything cached so far is dead.
    pub fn move_generation(&self, reason: &str) {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        tracing::debug!(generation, reason, "generation moved");
    }

    // ---- what the link and the health check report ---------------------------------------------------------------

    /// The server has begun to track on a new link. Lanes on other processes are of no use any more.
    pub(crate) fn link_synced(&self, server: ServerId) {
        if !Mutation::GenerationKept.is_on() {
            self.move_generation("the link was established");
        }
        self.server.store(server.0, Ordering::Release);
        self.certifier.set_phase(Phase::Sync);
        self.link_counters.link_connects.add(1);
    }

    /// An ECHO answer certified `moment`; every push ahead of it has been applied.
    pub(crate) fn link_certified(&self, moment: Nanos) {
        self.certifier.certify(moment);
        self.link_counters.certifications.add(1);
        if self.certifier.phase() == Phase::Sync {
            self.certifier.set_phase(Phase::Live);
            info!("the link is live: the cache is in use");
        }
    }

    /// Invariant 6: the link is lost, and with it every promise about what is cached.
    pub(crate) fn link_lost(&self, reason: &str) {
        if self.certifier.phase() == Phase::Live {
            warn!(reason, "the link is down: answering from the upstream alone");
            self.link_counters.link_losses.add(1);
        }
        if !Mutation::GenerationKept.is_on() {
            self.move_generation("the link was lost");
        }
        self.server.store(ServerId::UNKNOWN.0, Ordering::Release);
        self.certifier.set_phase(Phase::Down);
        if let Some(canary) = &self.canary {
            canary.lost();
        }
    }

    /// The server cannot track. The cache goes on with own writes and time to live.
    pub(crate) fn tracking_unavailable(&self, reason: &str) {
        warn!(
            reason,
            "the upstream has no CLIENT TRACKING: changes made elsewhere are seen only when entries expire \
             (tracking.mode = \"off\")"
        );
        self.move_generation("tracking is not available");
        self.certifier.set_phase(Phase::Off);
        // From now on it is the health check that knows the process; it may have said so before, when nobody asked. The
        // phase is set first, so that a report that comes in at this moment is not missed by both.
        self.server.store(self.unsignalled.lock().0.0, Ordering::Release);
    }

    /// A push named a key.
    pub(crate) fn link_invalidated(&self, key: &[u8]) {
        self.link_counters.invalidations.add(1);
        self.cache.invalidate(key);
        if let Some(canary) = self.canary.as_ref().filter(|canary| canary.key == key) {
            canary.heard(clock::now());
        }
    }

    /// A push named no key: everything may have changed.
    pub(crate) fn link_invalidated_all(&self) {
        self.link_counters.invalidations_all.add(1);
        if !Mutation::NullIgnored.is_on() {
            self.move_generation("the server flushed");
        }
    }

    /// Waits until the health check has found the link to be on the wrong process. Cancel safe.
    pub(crate) async fn relink_wanted(&self) {
        self.relink.notified().await;
    }

    /// What the health check found: changes that the server does not signal are found here, within
    /// `health_check_interval`.
    pub fn report(&self, report: &Report) {
        let interval = self.settings.touch_interval;
        self.cache.set_touch_interval((report.evicts_by_use && !interval.is_zero()).then_some(interval));
        self.hashes_live_short.store(report.has_field_expiries, Ordering::Relaxed);
        let mut last = self.unsignalled.lock();
        let now = (report.server, report.unsignalled.clone());
        if last.0.is_same(now.0) && last.1 != now.1 {
            self.move_generation("SWAPDB, ACL or the like was used elsewhere");
        }
        let changed = !last.0.is_same(now.0);
        *last = now;
        drop(last);
        match self.certifier.phase() {
            Phase::Off | Phase::Disabled if changed => {
                self.move_generation("the upstream is another process");
                self.server.store(report.server.0, Ordering::Release);
                self.certifier.wake_workers();
                self.relink.notify_one();
            }
            Phase::Sync | Phase::Live if !report.server.is_same(self.server()) => self.relink.notify_one(),
            _ => {}
        }
    }

    /// Frees what is dead, one shard after the other; returns how many entries went.
    pub fn sweep(&self, shard: usize, now: Nanos) -> usize {
        self.cache.sweep(shard, &self.moment(now))
    }
}

/// Holds the keys of one write blocked. Whatever happens to the write, dropping the guard drops the keys again and
/// unblocks them (invariant 4).
pub struct WriteGuard<W> {
    coherence: Arc<Coherence<W>>,
    kind: WriteKind,
    keys: SmallVec<[Box<[u8]>; 1]>,
    has_ended: bool,
}

impl<W> WriteGuard<W> {
    /// Invariant 5: the write was answered at `arrived`. The keys are dropped once more and unblocked, and the
    /// reply may go as the result says.
    pub fn complete(mut self, arrived: Nanos) -> Acknowledge {
        self.end();
        let certifier = &self.coherence.certifier;
        if self.kind == WriteKind::Undeclared && !certifier.is_past(arrived) {
            certifier.want(arrived);
            return Acknowledge::After(arrived);
        }
        Acknowledge::Now
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        for key in self.keys.drain(..) {
            self.coherence.cache.end_write(&key);
        }
        if self.kind != WriteKind::Declared {
            self.coherence.undeclared.fetch_sub(1, Ordering::Relaxed);
        }
        // It may have begun before it was known that there is no tracking, which a fence would need.
        let is_unheard = self.kind == WriteKind::Undeclared && self.coherence.certifier.phase() == Phase::Off;
        if self.kind == WriteKind::Flush || is_unheard {
            self.coherence
                .move_generation("a command that changes contents or rights wholesale was answered");
        }
    }
}

impl<W> Drop for WriteGuard<W> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A raw reply as the cache keeps it: a nil as the fact that it is.
fn reply<'a>(raw: &'a Raw<'a>) -> Reply<'a> {
    match raw {
        raw if crate::resp::reply::is_translatable_nil(raw) => Reply::Nil,
        Raw::Borrowed(bytes) => Reply::Bytes(bytes),
        Raw::Shared(bytes) => Reply::Shared(bytes),
    }
}
