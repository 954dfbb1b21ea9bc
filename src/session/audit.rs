//! The auditor: a share of the hits is read again upstream, behind everybody's back, and compared.
//!
//! It is how an operator sees that the promise holds, so it trusts nothing that the hit itself relied on but the
//! fence: the same command is sent by the same user, in the same database and protocol, on a shared lane, and once
//! everything up to its reply's arrival has been applied to the cache, the two replies are held against each other.
//!
//! - Equal: agreement.
//! - Different, and the entry that was shown has gone: explained. Something changed after the hit, and was heard of.
//! - Different, and that very entry would still be shown: *violation*. Whatever made the difference happened after the
//!   entry's reply was read and before the arrival that is certified, so its invalidation has been applied, and by
//!   invariant 4 the entry cannot be there. It is counted, logged and dropped.
//! - No answer, an error, or no lease to judge by: inconclusive.
//!
//! The second reply is shown to nobody, so nothing is observed (invariant 9) and nothing filled: an audited cache
//! behaves like another. Off, it costs a hit one comparison; on, a countdown.

use std::{cell::Cell, future::poll_fn, rc::Rc, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    task::spawn_local,
};

use super::{
    Session,
    mget::owned,
    ticket::{Ticket, Work},
    worker::Worker,
};
use crate::{
    clock::{self, Nanos},
    coherence::{Hit, Phase, Protocols, Stamp, VariantKey},
    command::Command,
    ids::ServerId,
    metrics::Counters,
    resp::{Protocol, Raw, reply},
    upstream::{connection::Profile, lane::Pinned, lanes::Pick},
};

/// Audits in flight of one worker at most: what they hold is a reply each. A hit that is drawn beyond that is skipped.
const IN_FLIGHT_MAX: usize = 16;

/// So much of a key stands in the log.
const LOGGED_KEY_BYTES_MAX: usize = 128;

/// Between two violations in one worker's log. All are counted; where one thing has gone wrong, many keys show it.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// One worker's auditor.
pub(super) struct Auditor {
    share: f64,
    /// Hits until the next one that is drawn, that one included; 0: none ever is.
    left: Cell<u64>,
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
    /// When a violation was logged last.
    logged_at: Cell<Option<Nanos>>,
    /// The certified time or the phase has moved.
    pub(super) moved: Notify,
}

/// A hit that was drawn, as it was shown.
pub(super) struct Shown {
    _place: OwnedSemaphorePermit,
    reply: Bytes,
    stamp: Stamp,
    arrived: Nanos,
}

/// What there is to be judged.
struct Audit {
    shown: Box<Shown>,
    shown_at: Nanos,
    profile: Profile,
    request: Vec<u8>,
    key: Box<[u8]>,
    tail: Box<[u8]>,
    protocols: Protocols,
    command: u16,
    name: String,
    is_hash: bool,
}

/// The other reply.
struct Reread {
    raw: Bytes,
    arrived: Nanos,
    server: ServerId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Agreement,
    Explained,
    Violation,
    Inconclusive,
}

/// Where an audit's reply goes: to the task that waits for it.
pub(super) type ToAudit = oneshot::Sender<(Bytes, Nanos)>;

impl Auditor {
    pub(super) fn new(share: f64, counters: Arc<Counters>) -> Self {
        Self {
            share,
            left: Cell::new(gap(share)),
            places: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            counters,
            logged_at: Cell::new(None),
            moved: Notify::new(),
        }
    }

    /// Whether hits are audited at all.
    pub(super) fn is_on(&self) -> bool {
        self.left.get() > 0
    }

    /// Counts a hit down, and takes down what was shown if it is one to be audited. Under the shard's lock.
    #[inline]
    pub(super) fn draw(&self, hit: &Hit<'_>, protocol: Protocol) -> Option<Box<Shown>> {
        match self.left.get() {
            0 => None,
            1 => self.drawn(hit, protocol),
            left => {
                self.left.set(left - 1);
                None
            }
        }
    }

    #[cold]
    fn drawn(&self, hit: &Hit<'_>, protocol: Protocol) -> Option<Box<Shown>> {
        self.left.set(gap(self.share));
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.counters.audit_skipped.add(1);
            return None;
        };
        let reply = owned(hit.reply, protocol);
        Some(Box::new(Shown { _place: place, reply, stamp: hit.stamp(), arrived: hit.arrived() }))
    }

    /// Whether a violation is to stand in the log, beside those that were logged before.
    fn may_log(&self, now: Nanos) -> bool {
        let may = self.logged_at.get().is_none_or(|logged_at| now.since(logged_at) >= LOG_INTERVAL);
        if may {
            self.logged_at.set(Some(now));
        }
        may
    }
}

/// How many hits to the next one drawn, if each is with this probability: geometrically distributed, so that no
/// pattern of the load can hide from it.
#[expect(clippy::cast_sign_loss, reason = "the quotient of two logarithms of shares is not negative")]
fn gap(share: f64) -> u64 {
    if share <= 0.0 {
        return 0;
    }
    // 1 - [0, 1) is never 0.
    let passed = (1.0 - fastrand::f64()).ln() / (-share).ln_1p();
    (passed as u64).saturating_add(1)
}

impl Session {
    /// Audits a hit that was drawn, in the background.
    #[cold]
    pub(super) fn audit(
        self: &Rc<Self>,
        profile: &Profile,
        command: &Command,
        key: &[u8],
        variant: &VariantKey<'_>,
        request: Vec<u8>,
        shown: Box<Shown>,
    ) {
        let audit = Audit {
            shown,
            shown_at: clock::now(),
            profile: profile.clone(),
            request,
            key: key.into(),
            tail: variant.tail.into(),
            protocols: variant.protocols,
            command: variant.command,
            name: command.name.clone(),
            is_hash: command.reads_hash(),
        };
        let session = Rc::clone(self);
        // Cancelled with the worker alone, whose counters nobody reads then.
        spawn_local(async move {
            let verdict = session.reread(&audit).await;
            session.conclude(&audit, verdict);
        });
    }

    async fn reread(self: &Rc<Self>, audit: &Audit) -> Verdict {
        let Some(lane) = self.worker.lane_for_audit(&audit.profile).await else {
            return Verdict::Inconclusive;
        };
        let Some(reread) = self.ask_for_audit(&lane, audit).await else { return Verdict::Inconclusive };
        drop(lane);
        if audit.agrees_with(&reread.raw) {
            // No fence: whatever it brings, it cannot make them differ.
            return Verdict::Agreement;
        }
        let code = reply::error_code(&reread.raw);
        if code.is_some() && code != Some(b"WRONGTYPE") {
            return Verdict::Inconclusive;
        }
        self.worker.until_past(reread.arrived).await;
        self.worker.judge(audit, &reread)
    }

    /// Sends the read once more; `None` if no answer comes.
    async fn ask_for_audit(self: &Rc<Self>, lane: &Pinned<Ticket>, audit: &Audit) -> Option<Reread> {
        let (to, answer) = oneshot::channel();
        let now = clock::now();
        let ticket = Ticket::unanswerable(Rc::clone(self), Work::Audit(to));
        // What the lane gives back is dropped, which is an answer, too.
        let _ = lane.send(ticket, now, self.worker.since(now), |out| out.push(Raw::Borrowed(&audit.request)));
        let (raw, arrived) = answer.await.ok()?;
        Some(Reread { raw, arrived, server: lane.greeting.server })
    }

    fn conclude(&self, audit: &Audit, verdict: Verdict) {
        let counters = &self.worker.counters;
        match verdict {
            Verdict::Agreement => counters.audit_agreements.add(1),
            Verdict::Explained => counters.audit_explained.add(1),
            Verdict::Inconclusive => counters.audit_inconclusive.add(1),
            Verdict::Violation => {
                counters.audit_violations.add(1);
                if self.worker.auditor.may_log(clock::now()) {
                    audit.report();
                }
                self.worker.shared.coherence.invalidate(&audit.key);
                // If it was a SWAPDB or the like, which no push tells of, more than this key is wrong.
                self.worker.shared.health.suspect("a hit differs from what the upstream says");
            }
        }
    }
}

impl Worker {
    /// A shared lane of this profile, dialled if there is none.
    async fn lane_for_audit(&self, profile: &Profile) -> Option<Pinned<Ticket>> {
        let lane = poll_fn(|cx| match self.lanes.pick(profile, clock::now(), cx.waker()) {
            Pick::Ready(lane) => Poll::Ready(Some(lane)),
            Pick::Dialing => Poll::Pending,
            Pick::Failed(_) => Poll::Ready(None),
        });
        // A lane that is behind with its clients' requests is spared this one.
        lane.await.filter(|lane| !lane.is_congested(None))
    }

    /// Waits until everything up to `moment` has been applied to the cache, or there is none to be judged.
    async fn until_past(&self, moment: Nanos) {
        let certifier = self.shared.coherence.certifier();
        certifier.park();
        loop {
            // Registered first, asked second, looked at third: a certification in between is not missed.
            let moved = self.auditor.moved.notified();
            certifier.want(moment);
            if certifier.is_past(moment) {
                break;
            }
            moved.await;
        }
        certifier.unpark();
    }

    /// What a difference means.
    fn judge(&self, audit: &Audit, reread: &Reread) -> Verdict {
        let coherence = &self.shared.coherence;
        let (certifier, now) = (coherence.certifier(), clock::now());
        match certifier.phase() {
            // Without tracking nothing is promised that this could break: it is how stale the hits are.
            Phase::Off => Verdict::Explained,
            Phase::Live
                if certifier.is_leased(now)
                    && certifier.certified() >= reread.arrived
                    && reread.server.is_same(coherence.server()) =>
            {
                // Nor does the server say when a field expires by itself.
                let is_silent = audit.is_hash && coherence.has_field_expiries();
                let is_shown = coherence.is_still_valid(&audit.key, &audit.variant(), audit.shown.stamp, now);
                if is_shown && !is_silent { Verdict::Violation } else { Verdict::Explained }
            }
            _ => Verdict::Inconclusive,
        }
    }
}

impl Audit {
    fn variant(&self) -> VariantKey<'_> {
        VariantKey {
            identity: self.profile.identity.id,
            database: self.profile.database,
            protocols: self.protocols,
            command: self.command,
            tail: &self.tail,
        }
    }

    fn agrees_with(&self, raw: &[u8]) -> bool {
        let shown = &self.shown.reply;
        raw == shown
            || (reply::is_nil(raw) && reply::is_nil(shown))
            || self.unordered().is_some_and(|width| {
                sorted(raw, width).is_some_and(|members| Some(members) == sorted(shown, width))
            })
    }

    /// Of how many elements a member consists, where the server lists members as they lie in its hash table: a read
    /// alone may move them on to another place while that table grows or shrinks.
    fn unordered(&self) -> Option<usize> {
        match self.name.as_str() {
            "hgetall" => Some(2),
            "hkeys" | "hvals" | "smembers" => Some(1),
            _ => None,
        }
    }

    fn report(&self) {
        let (key, rest) = self.key.split_at(self.key.len().min(LOGGED_KEY_BYTES_MAX));
        tracing::error!(
            key = %key.escape_ascii(),
            key_bytes_left_out = rest.len(),
            command = self.name,
            database = self.profile.database.0,
            age_ms = self.shown_at.since(self.shown.arrived).as_millis() as u64,
            shown_ms_ago = clock::now().since(self.shown_at).as_millis() as u64,
            "VIOLATION: a hit differs from what the upstream says, and nothing explains it; the key is dropped"
        );
    }
}

/// The members of a set or a hash in an order of ours; `None` of what has none.
fn sorted(raw: &[u8], width: usize) -> Option<Vec<Vec<&[u8]>>> {
    let elements: Vec<&[u8]> = reply::elements(raw)?.collect();
    let mut members: Vec<_> = elements.chunks(width).map(<[_]>::to_vec).collect();
    members.sort_unstable();
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_drawn_at_the_rate_that_was_asked_for() {
        assert_eq!(gap(0.0), 0, "never");
        assert!((0..100).all(|_| gap(1.0) == 1), "each");
        fastrand::seed(1);
        for share in [0.5, 0.01, 0.0001] {
            let draws = 20_000;
            let hits: u64 = (0..draws).map(|_| gap(share)).sum();
            let measured = f64::from(draws) / hits as f64;
            assert!((measured / share - 1.0).abs() < 0.05, "{share}: {measured}");
        }
    }

    #[test]
    fn members_agree_in_whichever_order() {
        let hash = b"*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n";
        let moved = b"*4\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\n1\r\n";
        let swapped = b"*4\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$1\r\n1\r\n";
        assert_eq!(sorted(hash, 2), sorted(moved, 2));
        assert_ne!(sorted(hash, 2), sorted(swapped, 2), "other values of the same fields");
        assert_eq!(sorted(hash, 1), sorted(swapped, 1));
        assert_eq!(sorted(b"$-1\r\n", 1), None);
    }
}
