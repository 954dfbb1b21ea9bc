//! One monotone certified time, which serves the lease, the fence and the order of messages.
//!
//! Everything the server did before the certified time has been applied to the cache. The link moves it; workers
//! compare against it, and ask for it to be moved when somebody waits.
//!
//! A worker says that it waits and then looks at the time; the link moves the time and then looks who waits. Each
//! writes one word and reads another, so these are sequentially consistent: else both could miss each other.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::state::Phase;
use crate::{
    clock::Nanos,
    mutation::Mutation,
    sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

/// The certified time, and who is waiting for it.
#[derive(Debug)]
pub struct Certifier {
    phase: AtomicU8,
    certified: AtomicU64,
    /// The latest moment anybody asked to be certified.
    wanted: AtomicU64,
    max_staleness: Duration,
    /// Wakes the link when something is wanted.
    link: Notify,
    /// Replies and messages that are parked behind a fence, on all workers.
    parked: AtomicUsize,
    /// Wakes each worker when the certified time or the phase has moved while something is parked.
    workers: Vec<Arc<Notify>>,
}

impl Certifier {
    /// Nothing is certified yet.
    pub fn new(phase: Phase, max_staleness: Duration, workers: usize) -> Self {
        Self {
            phase: AtomicU8::new(phase as u8),
            certified: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            max_staleness,
            link: Notify::new(),
            parked: AtomicUsize::new(0),
            workers: (0..workers).map(|_| Arc::default()).collect(),
        }
    }

    /// What the link allows now.
    pub fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    /// The time up to which every change has been applied to the cache.
    pub fn certified(&self) -> Nanos {
        Nanos(self.certified.load(Ordering::SeqCst))
    }

    /// Whether hits are allowed at `now`: the bound of `max_staleness` is kept by this comparison alone.
    pub fn is_leased(&self, now: Nanos) -> bool {
        match self.phase() {
            Phase::Live => now < self.certified() + self.max_staleness,
            Phase::Off => true,
            Phase::Down | Phase::Sync | Phase::Disabled => false,
        }
    }

    /// The longest an entry may be behind the server.
    pub fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    /// Whether what happened up to `moment` can no longer be contradicted by the cache: it is certified, or there is
    /// no cache that could contradict it (its generation moved when the link was lost).
    pub fn is_past(&self, moment: Nanos) -> bool {
        if Mutation::FenceReleasedEarly.is_on() {
            return true;
        }
        self.phase() != Phase::Live || self.certified() >= moment
    }

    /// Asks for `moment` to be certified. Costs a system call only if nobody had asked already.
    pub fn want(&self, moment: Nanos) {
        let before = self.wanted.fetch_max(moment.0, Ordering::SeqCst);
        if before <= self.certified.load(Ordering::SeqCst) {
            self.link.notify_one();
        }
    }

    /// Whether something is wanted that is not certified yet.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > self.certified.load(Ordering::SeqCst)
    }

    /// Waits until something is wanted. Cancel safe. For the link.
    pub async fn wanted(&self) {
        self.link.notified().await;
    }

    /// One more reply is parked; while any is, workers are told of each move.
    pub fn park(&self) {
        self.parked.fetch_add(1, Ordering::SeqCst);
    }

    /// A parked reply has gone.
    pub fn unpark(&self) {
        self.parked.fetch_sub(1, Ordering::AcqRel);
    }

    /// What wakes this worker when parked replies may go.
    pub fn worker(&self, worker: usize) -> Arc<Notify> {
        Arc::clone(&self.workers[worker])
    }

    /// The link certifies `moment`; it never goes back. All invalidations up to it have been applied before.
    pub(super) fn certify(&self, moment: Nanos) {
        self.certified.fetch_max(moment.0, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            self.wake_workers();
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.wake_workers();
    }

    /// Wakes all workers, whatever is parked.
    pub(super) fn wake_workers(&self) {
        self.workers.iter().for_each(|worker| worker.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_is_counted_from_the_certified_time() {
        let certifier = Certifier::new(Phase::Live, Duration::from_nanos(100), 1);
        assert!(!certifier.is_leased(Nanos(1000)), "nothing is certified yet");
        certifier.certify(Nanos(1000));
        assert!(certifier.is_leased(Nanos(1099)));
        assert!(!certifier.is_leased(Nanos(1100)));
    }

    #[test]
    fn the_certified_time_never_goes_back() {
        let certifier = Certifier::new(Phase::Live, Duration::from_nanos(100), 1);
        certifier.certify(Nanos(50));
        certifier.certify(Nanos(40));
        assert_eq!(certifier.certified(), Nanos(50));
    }

    #[test]
    fn a_fence_ends_by_certification_or_by_the_loss_of_the_link() {
        let certifier = Certifier::new(Phase::Live, Duration::from_nanos(100), 1);
        certifier.certify(Nanos(9));
        assert!(!certifier.is_past(Nanos(10)));
        certifier.certify(Nanos(10));
        assert!(certifier.is_past(Nanos(10)));
        assert!(!certifier.is_past(Nanos(11)));
        certifier.set_phase(Phase::Down);
        assert!(certifier.is_past(Nanos(11)));
    }

    #[test]
    fn wanting_what_is_certified_wants_nothing() {
        let certifier = Certifier::new(Phase::Live, Duration::from_nanos(100), 1);
        certifier.certify(Nanos(10));
        certifier.want(Nanos(5));
        assert!(!certifier.is_wanted());
        certifier.want(Nanos(15));
        assert!(certifier.is_wanted());
    }
}
