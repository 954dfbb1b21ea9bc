//! A read in flight: who waits for it, and the token that may fill with it.
//!
//! Waiters belong to the flight, not to the slot. A write or an invalidation detaches the flight from its slot,
//! so that its reply will not be stored and nobody can join any more; those who had joined stay with it and are
//! answered by its late reply, which is as new as any they were entitled to. The slot and the [`Token`] share the
//! flight; the token alone can end it, and there is exactly one.

use std::sync::Arc;

use super::entry::{Protocols, VariantKey};
use crate::{
    clock::Nanos,
    ids::{Database, Generation, IdentityId},
    sync::Mutex,
};

/// A read that is on its way, for one variant.
pub(super) struct Flight<W> {
    identity: IdentityId,
    database: Database,
    protocols: Protocols,
    command: u16,
    tail: Box<[u8]>,
    pub(super) sent_at: Nanos,
    pub(super) generation: Generation,
    /// With the time at which each joined. Nothing once the flight has ended: then nobody can join.
    waiters: Mutex<Option<Vec<(Nanos, W)>>>,
}

impl<W> Flight<W> {
    pub(super) fn variant(&self) -> VariantKey<'_> {
        VariantKey {
            identity: self.identity,
            database: self.database,
            protocols: self.protocols,
            command: self.command,
            tail: &self.tail,
        }
    }

    /// Adds a waiter, unless the flight has ended.
    pub(super) fn join(&self, now: Nanos, waiter: impl FnOnce() -> W) -> bool {
        let mut waiters = self.waiters.lock();
        waiters.as_mut().map(|waiters| waiters.push((now, waiter()))).is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.waiters.lock().is_none()
    }

    fn end(&self) -> Vec<(Nanos, W)> {
        self.waiters.lock().take().unwrap_or_default()
    }
}

/// The right to fill one variant with the reply of one read, if nothing has come between.
///
/// It goes to [`fill`](super::Cache::fill) or [`abandon`](super::Cache::abandon), which give back the waiters.
/// A token that is dropped instead (its lane's task was torn down) ends its flight: later readers start a new
/// one, and the waiters are dropped with it, so a `W` that owes its client an answer gives it in its own `Drop`.
/// That is the emergency exit: the slot remains until the key is next read, written or invalidated.
#[must_use = "a read in flight ends in `fill` or `abandon`"]
pub struct Token<W> {
    flight: Arc<Flight<W>>,
}

impl<W> Token<W> {
    pub(super) fn new(variant: &VariantKey<'_>, sent_at: Nanos, generation: Generation) -> Self {
        let flight = Flight {
            identity: variant.identity,
            database: variant.database,
            protocols: variant.protocols,
            command: variant.command,
            tail: variant.tail.into(),
            sent_at,
            generation,
            waiters: Mutex::new(Some(Vec::new())),
        };
        Self { flight: Arc::new(flight) }
    }

    /// When it was granted, which is before the read is sent.
    pub fn sent_at(&self) -> Nanos {
        self.flight.sent_at
    }

    /// The contents of the upstream it was granted for.
    pub fn generation(&self) -> Generation {
        self.flight.generation
    }

    /// What is being read.
    pub fn variant(&self) -> VariantKey<'_> {
        self.flight.variant()
    }

    pub(super) fn flight(&self) -> &Arc<Flight<W>> {
        &self.flight
    }

    /// Ends the flight. Only after it was taken out of its slot, so that nobody finds it and waits in vain.
    pub(super) fn into_waiters(self) -> Vec<W> {
        self.flight.end().into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// The same, with those apart who joined at or after `deadline` (invariant 2).
    pub(super) fn into_waiters_until(self, deadline: Nanos) -> (Vec<W>, Vec<W>) {
        let (mut waiters, mut latecomers) = (Vec::new(), Vec::new());
        for (joined_at, waiter) in self.flight.end() {
            if joined_at < deadline { waiters.push(waiter) } else { latecomers.push(waiter) }
        }
        (waiters, latecomers)
    }
}

impl<W> Drop for Token<W> {
    fn drop(&mut self) {
        drop(self.flight.end());
    }
}
