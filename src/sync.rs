//! The locks and atomics on which coherence stands, by one name, so that a model checker can take their place.
//!
//! With the feature `shuttle`, which only `src/coherence/tests/interleavings.rs` uses, each of them is Shuttle's: its
//! scheduler then decides at every lock and every atomic who goes on. Without it they are the real ones, and this
//! file is nothing but names. What is only a hint (the access clock, a TOUCH that is due, figures) stays with the
//! standard library: whatever order it is seen in is right.

#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::atomic;

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::atomic;
#[cfg(feature = "shuttle")]
pub(crate) use shuttle_parking_lot::{Mutex, MutexGuard};

#[cfg(not(feature = "shuttle"))]
pub(crate) use dashmap::{DashMap, RwLockReadGuard, RwLockWriteGuard};

/// `DashMap`'s raw shards, which is all of it that is used, under locks that the scheduler knows.
#[cfg(feature = "shuttle")]
mod shards {
    use dashmap::SharedValue;
    use hashbrown::raw::RawTable;
    pub(crate) use shuttle_parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

    type Shard<K, V> = RwLock<RawTable<(K, SharedValue<V>)>>;

    pub(crate) struct DashMap<K, V, S> {
        shards: Box<[Shard<K, V>]>,
        hasher: S,
    }

    impl<K, V, S> DashMap<K, V, S> {
        pub(crate) fn with_capacity_and_hasher_and_shard_amount(
            capacity: usize,
            hasher: S,
            shards: usize,
        ) -> Self {
            let shards =
                (0..shards).map(|_| RwLock::new(RawTable::with_capacity(capacity / shards))).collect();
            Self { shards, hasher }
        }

        pub(crate) fn shards(&self) -> &[Shard<K, V>] {
            &self.shards
        }

        pub(crate) fn determine_shard(&self, hash: usize) -> usize {
            hash % self.shards.len()
        }

        pub(crate) fn hasher(&self) -> &S {
            &self.hasher
        }
    }
}

#[cfg(feature = "shuttle")]
pub(crate) use shards::{DashMap, RwLockReadGuard, RwLockWriteGuard};
