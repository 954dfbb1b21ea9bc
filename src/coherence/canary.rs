//! How late a change made elsewhere is heard of, measured by a key of nearhit's own.
//!
//! The control thread writes the canary key once a second, as any outsider would: nothing here drops it by itself. The
//! link notes when the invalidation of that write has been applied. From just before the write was sent until
//! then no hit can have been staler, and none of it is network or server time that an outside write would not take as
//! well: an upper bound, which includes the way of the write to the server. It decides nothing.
//!
//! One write is outstanding at a time, so each push belongs to the write before it. That holds while nobody else
//! writes the key: two proxies on one server want two names.

use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Coherence, Phase};
use crate::{
    clock::{self, Nanos},
    sync::Mutex,
    upstream::control::{CanaryWriter, Control, NotWritten},
};

/// Between two writes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The key goes by itself when nobody writes it any more.
const LIFETIME: Duration = Duration::from_mins(1);

/// After a refusal, which stays until somebody mends it and may leave a line in the server's ACL LOG each time.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// What takes longer is counted as this long: in microseconds, an hour.
const STALENESS_US_MAX: u64 = 3_600_000_000;

/// Within a hundredth: 30 KiB of counts.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The histogram's bounds, in microseconds, each with the name of its figure. Each counts what was heard of within it, as
/// a Prometheus histogram does; [`Staleness::count`] is the one without a bound.
const BUCKETS: [(&str, u64); 10] = [
    ("staleness_le_100us", 100),
    ("staleness_le_250us", 250),
    ("staleness_le_500us", 500),
    ("staleness_le_1ms", 1_000),
    ("staleness_le_2500us", 2_500),
    ("staleness_le_10ms", 10_000),
    ("staleness_le_25ms", 25_000),
    ("staleness_le_100ms", 100_000),
    ("staleness_le_250ms", 250_000),
    ("staleness_le_1s", 1_000_000),
];

/// The canary key, and what it has shown.
pub struct Canary {
    pub(super) key: Bytes,
    state: Mutex<State>,
}

struct State {
    outstanding: Option<Written>,
    heard: Histogram<u64>,
    sum_us: u64,
    missed: u64,
}

/// A write whose push has not come.
struct Written {
    sent_at: Nanos,
    /// Once this is certified, the push must have come.
    answered_at: Option<Nanos>,
}

/// How late the canary's changes were heard of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staleness {
    /// How many were.
    pub count: u64,
    /// All of them together, in microseconds.
    pub sum_us: u64,
    /// How many were heard of within each bound, by the name of the figure.
    pub buckets: [(&'static str, u64); BUCKETS.len()],
    /// The median, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 were heard of earlier.
    pub p99_us: u64,
    /// The latest.
    pub max_us: u64,
    /// Writes that were never heard of: the link was lost meanwhile, or the write itself came to nothing.
    pub missed: u64,
}

impl Canary {
    pub(super) fn new(key: Bytes) -> Self {
        let heard = Histogram::new_with_bounds(1, STALENESS_US_MAX, SIGNIFICANT_DIGITS)
            .expect("bounds that the crate accepts");
        Self { key, state: Mutex::new(State { outstanding: None, heard, sum_us: 0, missed: 0 }) }
    }

    /// The figures now.
    pub fn staleness(&self) -> Staleness {
        let state = self.state.lock();
        Staleness {
            count: state.heard.len(),
            sum_us: state.sum_us,
            buckets: BUCKETS.map(|(name, bound)| (name, state.heard.count_between(0, bound))),
            p50_us: state.heard.value_at_quantile(0.5),
            p99_us: state.heard.value_at_quantile(0.99),
            max_us: state.heard.max(),
            missed: state.missed,
        }
    }

    /// The key is about to be written.
    fn sent(&self, now: Nanos) {
        self.state.lock().outstanding = Some(Written { sent_at: now, answered_at: None });
    }

    /// The server has acknowledged the write. Its push may have come before.
    fn answered(&self, now: Nanos) {
        if let Some(written) = &mut self.state.lock().outstanding {
            written.answered_at = Some(now);
        }
    }

    /// The server has refused the write: there is nothing to be heard of.
    fn refused(&self) {
        self.state.lock().outstanding = None;
    }

    /// The push has been applied.
    pub(super) fn heard(&self, now: Nanos) {
        let mut state = self.state.lock();
        // Else it is the key's expiry, or somebody else has written it.
        if let Some(written) = state.outstanding.take() {
            let us = u64::try_from(now.since(written.sent_at).as_micros()).unwrap_or(u64::MAX);
            state.heard.saturating_record(us);
            state.sum_us = state.sum_us.saturating_add(us);
        }
    }

    /// What is outstanding will not be heard of.
    pub(super) fn lost(&self) {
        let mut state = self.state.lock();
        if state.outstanding.take().is_some() {
            state.missed += 1;
        }
    }

    /// How many writes were never heard of so far.
    fn missed(&self) -> u64 {
        self.state.lock().missed
    }

    /// Whether nothing is outstanding. What was answered before `certified` and not heard of never will be.
    fn is_free(&self, certified: Nanos) -> bool {
        let mut state = self.state.lock();
        let answered_at = state.outstanding.as_ref().and_then(|written| written.answered_at);
        if answered_at.is_some_and(|answered| answered <= certified) {
            state.outstanding = None;
            state.missed += 1;
        }
        state.outstanding.is_none()
    }
}

/// Writes the canary key, for ever, while the link is there to hear of it. On the control thread.
pub async fn run<W>(coherence: &Coherence<W>, control: &Control) {
    let Some(canary) = coherence.canary() else { return std::future::pending().await };
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut writer, mut told): (Option<CanaryWriter>, Option<String>) = (None, None);
    let mut missed = 0;
    for number in 1_u64.. {
        tick.tick().await;
        let certifier = coherence.certifier();
        if certifier.phase() != Phase::Live || !canary.is_free(certifier.certified()) {
            continue;
        }
        if missed != canary.missed() {
            // The connection may end at a server that the link has left.
            missed = canary.missed();
            writer = None;
        }
        let to = match writer.take() {
            Some(writer) => Ok(writer),
            None => control.canary_writer().await,
        };
        let Ok(mut to) = to.inspect_err(|reason| tracing::debug!(reason, "no connection for the canary"))
        else {
            continue;
        };
        canary.sent(clock::now());
        match to.set(&canary.key, number, LIFETIME).await {
            Ok(()) => {
                canary.answered(clock::now());
                (writer, told) = (Some(to), None);
            }
            Err(NotWritten::Refused(reason)) => {
                canary.refused();
                if told.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "audit.canary_key cannot be written: staleness is not measured");
                    told = Some(reason);
                }
                writer = Some(to);
                sleep(REFUSED_PAUSE).await;
            }
            Err(NotWritten::Lost(reason)) => {
                tracing::debug!(reason, "the canary's connection was lost");
                canary.lost();
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::*;

    fn us(time: u64) -> Nanos {
        Nanos(time * 1_000)
    }

    #[test]
    fn a_push_counts_from_when_the_write_was_sent() {
        let canary = Canary::new("canary".into());
        canary.heard(us(5));
        assert_eq!(canary.staleness().count, 0, "nothing was written");
        canary.sent(us(10));
        canary.heard(us(60));
        canary.answered(us(70));
        assert!(canary.is_free(us(0)), "the push came ahead of the answer");
        canary.heard(us(90));
        let Staleness { count, sum_us, p50_us, p99_us, max_us, missed, .. } = canary.staleness();
        assert_eq!((count, sum_us, p50_us, p99_us, max_us, missed), (1, 50, 50, 50, 50, 0));
    }

    #[test]
    fn each_bound_counts_what_was_heard_of_within_it() {
        let canary = Canary::new("canary".into());
        for time in [60, 300, 300, 20_000, 7_000_000] {
            canary.sent(us(0));
            canary.heard(us(time));
        }
        let counts = canary.staleness().buckets.map(|(_, count)| count);
        assert_eq!(counts, [1, 1, 3, 3, 3, 3, 4, 4, 4, 4]);
        assert_eq!(canary.staleness().sum_us, 7_020_660);
    }

    #[test]
    fn a_late_push_is_waited_for_until_it_must_have_come() {
        let canary = Canary::new("canary".into());
        canary.sent(us(10));
        assert!(!canary.is_free(us(1_000)), "it may not have been carried out yet");
        canary.answered(us(20));
        assert!(!canary.is_free(us(19)));
        assert!(canary.is_free(us(20)));
        assert_eq!((canary.staleness().count, canary.staleness().missed), (0, 1));
    }

    #[test]
    fn a_lost_link_takes_the_push_with_it() {
        let canary = Canary::new("canary".into());
        canary.lost();
        canary.sent(us(10));
        canary.refused();
        canary.lost();
        assert_eq!(canary.staleness().missed, 0, "nothing was outstanding");
        canary.sent(us(20));
        canary.lost();
        canary.heard(us(30));
        assert_eq!((canary.staleness().count, canary.staleness().missed), (0, 1));
    }
}
