//! Counters, one set a thread, summed when somebody looks.
//!
//! The request path must not make two cores fight over a cache line, so every worker owns a [`Counters`] of its
//! own and writes it with plain loads and stores; readers sum all of them. What this module refuses to do is to
//! decide anything: nothing in nearhit depends on a counter's value.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A number written by one thread and read by any.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this: it is a load and a store, not a locked add.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` off a gauge. Only the owning thread may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// The value now.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one thread has counted. Aligned so that two threads' sets never share a cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters { $($(#[$doc])* pub $name: Counter,)* }

        /// The sum over all threads at one moment.
        #[derive(Clone, Debug, Default)]
        pub struct Totals { $($(#[$doc])* pub $name: u64,)* }

        impl Metrics {
            /// Sums all threads' counters.
            pub fn totals(&self) -> Totals {
                let mut totals = Totals::default();
                for set in &self.threads { $(totals.$name = totals.$name.wrapping_add(set.$name.read());)* }
                totals
            }
        }
    };
}

counters! {
    /// Requests read from clients.
    commands,
    /// Cacheable reads answered from memory; an MGET counts once for each key.
    hits,
    /// Cacheable reads sent upstream, joined ones not counted.
    misses,
    /// Cacheable reads that waited for another client's read of the same thing.
    joins,
    /// Of the misses, those that could not fill the cache: a write of the key was under way, the link was not live...
    bypasses,
    /// Replies stored in the cache.
    fills,
    /// Replies that were not stored: the token was revoked, the key was about to expire, the value was too large.
    fills_refused,
    /// Commands that dropped keys before their acknowledgement.
    writes,
    /// Replies and messages that waited for the certification of the link.
    fences,
    /// Commands sent upstream for clients.
    upstream_commands,
    /// Client requests that needed no upstream command.
    upstream_commands_saved,
    /// TOUCH commands sent for hot keys.
    touches,
    /// Reads sent again after their connection died.
    retried_reads,
    /// Commands that were not answered within `upstream.command_timeout`.
    timeouts,
    /// Users and passwords that the upstream refused.
    auth_failures,
    /// Users and passwords that were refused here, after too many failures from their address.
    auth_throttled,
    /// Clients cut off because the upstream has deleted their user.
    auth_disowned,
    /// Audited hits that the upstream confirmed.
    audit_agreements,
    /// Audited hits that differed from the upstream, and are no longer shown.
    audit_explained,
    /// Audited hits that differed from the upstream and would have been shown still.
    audit_violations,
    /// Audited hits of which nothing could be said.
    audit_inconclusive,
    /// Hits that were drawn while as many audits as may be were in flight.
    audit_skipped,
    /// Clients cut off because their output passed `server.output_limit`.
    output_limit_disconnections,
    /// Clients cut off because others waited behind a large reply that they were slow to read.
    slow_reader_disconnections,
    /// Clients connected now.
    clients,
    /// Clients accepted since the start.
    connections_received,
    /// Clients turned away by `server.max_clients`.
    connections_rejected,
    /// Clients whose TLS handshake failed.
    handshakes_failed,
    /// Shared upstream connections open now.
    lanes,
    /// Shared upstream connections that died.
    lanes_lost,
    /// Exclusive connections in use now for transactions.
    pool_in_use,
    /// Exclusive connections in use now by blocked clients.
    blocking_in_use,
    /// Exclusive connections in use now by subscribed clients.
    subscribed_in_use,
    /// Clients that share a subscription connection now.
    hub_clients,
    /// Shared subscription connections open now.
    hubs,
    /// Keys named by invalidation messages.
    invalidations,
    /// Invalidation messages that flushed everything.
    invalidations_all,
    /// Times the invalidation link was established.
    link_connects,
    /// Times the invalidation link was lost.
    link_losses,
    /// Answers that certified the link.
    certifications,
    /// Times the health check found the upstream gone.
    upstream_downs,
}

/// All threads' counters.
#[derive(Debug)]
pub struct Metrics {
    threads: Vec<Arc<Counters>>,
}

impl Metrics {
    /// Sets for `workers` worker threads, and three more: for the threads of handshakes, of the link and of control.
    pub fn new(workers: usize) -> Self {
        Self { threads: (0..workers + 3).map(|_| Arc::default()).collect() }
    }

    /// The set of one worker.
    pub fn worker(&self, worker: usize) -> &Arc<Counters> {
        &self.threads[worker]
    }

    /// The set of the thread of handshakes.
    pub fn handshakes(&self) -> &Arc<Counters> {
        &self.threads[self.threads.len() - 3]
    }

    /// The set of the link's thread.
    pub fn link(&self) -> &Arc<Counters> {
        &self.threads[self.threads.len() - 2]
    }

    /// The set of the control thread.
    pub fn control(&self) -> &Arc<Counters> {
        &self.threads[self.threads.len() - 1]
    }
}
