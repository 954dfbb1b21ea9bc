//! A small map from variant to whatever a slot keeps for it.
//!
//! Most keys are read in one way and many hashes in a thousand (one a field). So the items stand in a vector,
//! where eviction finds them by position, and only a vector of more than [`SCANNED_MAX`] gets an index beside it:
//! until then nothing is hashed.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::raw::RawTable;

use super::entry::VariantKey;

/// Up to here the vector is scanned.
const SCANNED_MAX: usize = 8;

/// What knows which variant it is of.
pub(super) trait OfVariant {
    fn variant(&self) -> VariantKey<'_>;
}

pub(super) struct Variants<T> {
    items: Vec<T>,
    /// Positions by hash; empty until the items are too many to scan.
    index: RawTable<u32>,
}

impl<T: OfVariant> Variants<T> {
    pub(super) const fn new() -> Self {
        Self { items: Vec::new(), index: RawTable::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    pub(super) fn at(&self, position: usize) -> Option<&T> {
        self.items.get(position)
    }

    pub(super) fn at_mut(&mut self, position: usize) -> Option<&mut T> {
        self.items.get_mut(position)
    }

    /// Where the item of `variant` stands.
    pub(super) fn find(&self, variant: &VariantKey<'_>, hasher: &RandomState) -> Option<usize> {
        if self.index.is_empty() {
            return self.items.iter().position(|item| item.variant() == *variant);
        }
        let is_it = |&position: &u32| self.items[position as usize].variant() == *variant;
        self.index.get(hasher.hash_one(variant), is_it).map(|&position| position as usize)
    }

    /// Adds an item, whose variant is not here yet, at the end.
    pub(super) fn push(&mut self, item: T, hasher: &RandomState) {
        if self.items.len() == self.items.capacity() {
            // Doubling would leave half of a large slot empty, which nothing accounts for.
            self.items.reserve_exact((self.items.len() / 4).max(2));
        }
        self.items.push(item);
        if !self.index.is_empty() {
            self.index_from(self.items.len() - 1, hasher);
        } else if self.items.len() > SCANNED_MAX {
            self.index_from(0, hasher);
        }
    }

    /// Takes an item out; the last one moves into its place.
    pub(super) fn swap_remove(&mut self, position: usize, hasher: &RandomState) -> T {
        let last = self.items.len() - 1;
        let item = self.items.swap_remove(position);
        if !self.index.is_empty() {
            self.index.remove_entry(hasher.hash_one(item.variant()), |&at| at as usize == position);
            if position != last {
                let moved_hash = hasher.hash_one(self.items[position].variant());
                let moved = self.index.get_mut(moved_hash, |&at| at as usize == last);
                *moved.expect("every item is indexed") = position as u32;
            }
        }
        item
    }

    /// Takes everything out. What had room for a few keeps it.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<'_, T> {
        self.index = RawTable::new();
        self.items.drain(..)
    }

    /// Whether it has room for more than a few.
    pub(super) fn is_roomy(&self) -> bool {
        self.items.capacity() > SCANNED_MAX
    }

    fn index_from(&mut self, start: usize, hasher: &RandomState) {
        let items = &self.items;
        let hash = |&at: &u32| hasher.hash_one(items[at as usize].variant());
        for position in start..items.len() {
            self.index.insert(hash(&(position as u32)), position as u32, hash);
        }
    }

    /// Panics if the index and the items disagree.
    pub(super) fn check_invariants(&self, hasher: &RandomState) {
        if self.index.is_empty() {
            assert!(self.items.len() <= SCANNED_MAX, "a long vector is indexed");
            return;
        }
        assert_eq!(self.index.len(), self.items.len());
        for (position, item) in self.items.iter().enumerate() {
            let hash = hasher.hash_one(item.variant());
            assert!(self.index.get(hash, |&at| at as usize == position).is_some(), "item {position} is lost");
        }
    }
}
