//! Whether the upstream is there.
//!
//! One prober on the control thread dials afresh every `health_check_interval`, so that a moved DNS name and a
//! half-dead host are found, and at once when anybody reports trouble; while the upstream is down it tries
//! again with a backoff. Everybody else reads the verdict: while it is "down", nobody dials, and every command is
//! answered with the reason at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    backoff::backoff,
    connection::DialError,
    control::{Control, Report},
};
use crate::metrics::Metrics;

/// The verdict, shared by all threads.
#[derive(Debug, Default)]
pub struct Health {
    down: AtomicBool,
    reason: Mutex<Option<DialError>>,
    suspected: Notify,
    reached: Notify,
    recovered: Notify,
}

/// How often and how patiently the prober asks.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Between two probes of a healthy upstream.
    pub interval: Duration,
    /// For one probe: dialling and the answer.
    pub patience: Duration,
    /// While it is down: the first and the longest wait between two tries.
    pub backoff: (Duration, Duration),
}

impl Health {
    /// Whether the last probe failed.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// Why the upstream counts as down; `None` while it is up.
    pub fn down_reason(&self) -> Option<DialError> {
        if self.is_down() { self.reason.lock().clone() } else { None }
    }

    /// Reports trouble, or an answer that tells of a changed role: the prober looks at once.
    pub fn suspect(&self, reason: &str) {
        tracing::debug!(reason, "upstream suspected");
        self.suspected.notify_one();
    }

    /// Somebody has just reached the upstream. A probe that began before may be stuck on a way that nothing comes through
    /// any more: what it would find out in the end is no longer true.
    pub fn reached(&self) {
        self.reached.notify_waiters();
    }

    /// Waits until the upstream is up. Cancel safe.
    pub async fn wait_until_up(&self) {
        loop {
            let recovered = self.recovered.notified();
            if !self.is_down() {
                return;
            }
            recovered.await;
        }
    }

    fn set_down(&self, error: DialError) {
        *self.reason.lock() = Some(error);
        self.down.store(true, Ordering::Release);
    }

    fn set_up(&self) {
        self.down.store(false, Ordering::Release);
        self.recovered.notify_waiters();
    }

    /// Probes for ever, on the control thread. `found` sees each report; what it refuses (a cluster, say) counts
    /// as down for the reason it gives.
    pub async fn run(
        &self,
        control: &Control,
        schedule: Schedule,
        metrics: &Metrics,
        mut found: impl AsyncFnMut(Report) -> Result<(), DialError>,
    ) {
        let mut failures = 0;
        loop {
            let report = tokio::select! {
                report = timeout(schedule.patience, control.probe()) => report.unwrap_or_else(|_| {
                    Err(control.unreachable(&format!("no answer to INFO within {:?}", schedule.patience)))
                }),
                () = self.reached.notified() => continue,
            };
            let verdict = match report {
                Ok(Some(report)) => found(report).await,
                // What was known of it holds until it says otherwise.
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            let was_down = self.is_down();
            match verdict {
                Ok(()) => {
                    if was_down {
                        info!(upstream = control.address(), "upstream is up");
                    }
                    failures = 0;
                    self.set_up();
                    // However often it is suspected (each write to a replica is answered -READONLY).
                    sleep(schedule.backoff.0.min(schedule.interval)).await;
                    tokio::select! {
                        () = sleep(schedule.interval) => {}
                        () = self.suspected.notified() => {}
                    }
                }
                Err(error) => {
                    if !was_down {
                        warn!(upstream = control.address(), %error, "upstream is down");
                        metrics.control().upstream_downs.add(1);
                    }
                    self.set_down(error);
                    sleep(backoff(failures, schedule.backoff)).await;
                    failures += 1;
                }
            }
        }
    }
}
