//! A small map from variant to whatever a slot keeps for it.
//!
//! Most keys are read in one way and many hashes in a thousand (one a field). So the items stand in a vector,
//! where eviction finds them by position, and only a vector of more than [`SCANNED_MAX`] gets an index beside it.
//! The caller brings the hash, which the items keep.

use hashbrown::raw::RawTable;

use super::entry::VariantKey;

/// Up to here the vector is scanned, comparing hashes.
const SCANNED_MAX: usize = 8;

/// What knows which variant it is of.
pub(super) trait OfVariant {
    fn is_of(&self, variant: &VariantKey<'_>) -> bool;
}

pub(super) struct Variants<T> {
    items: Vec<(u64, T)>,
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
        self.items.iter().map(|(_, item)| item)
    }

    pub(super) fn at(&self, position: usize) -> Option<&T> {
        self.items.get(position).map(|(_, item)| item)
    }

    pub(super) fn at_mut(&mut self, position: usize) -> Option<&mut T> {
        self.items.get_mut(position).map(|(_, item)| item)
    }

    /// Where the item of `variant` stands.
    pub(super) fn find(&self, hash: u64, variant: &VariantKey<'_>) -> Option<usize> {
        let is_it = |(item_hash, item): &(u64, T)| *item_hash == hash && item.is_of(variant);
        if self.index.is_empty() {
            return self.items.iter().position(is_it);
        }
        self.index
            .get(hash, |&position| is_it(&self.items[position as usize]))
            .map(|&position| position as usize)
    }

    /// Adds an item, whose variant is not here yet, at the end.
    pub(super) fn push(&mut self, hash: u64, item: T) {
        if self.items.len() == self.items.capacity() {
            // Doubling would leave half of a large slot empty, which nothing accounts for.
            self.items.reserve_exact((self.items.len() / 4).max(2));
        }
        self.items.push((hash, item));
        if !self.index.is_empty() {
            self.index_from(self.items.len() - 1);
        } else if self.items.len() > SCANNED_MAX {
            self.index_from(0);
        }
    }

    /// Takes an item out; the last one moves into its place.
    pub(super) fn swap_remove(&mut self, position: usize) -> T {
        let last = self.items.len() - 1;
        let (hash, item) = self.items.swap_remove(position);
        if !self.index.is_empty() {
            self.index.remove_entry(hash, |&at| at as usize == position);
            if position != last {
                let moved_hash = self.items[position].0;
                let moved = self.index.get_mut(moved_hash, |&at| at as usize == last);
                *moved.expect("every item is indexed") = position as u32;
            }
        }
        item
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.index = RawTable::new();
        std::mem::take(&mut self.items).into_iter().map(|(_, item)| item)
    }

    fn index_from(&mut self, start: usize) {
        let items = &self.items;
        for position in start..items.len() {
            self.index.insert(items[position].0, position as u32, |&at| items[at as usize].0);
        }
    }

    /// Panics if the index and the items disagree.
    pub(super) fn check_invariants(&self) {
        if self.index.is_empty() {
            assert!(self.items.len() <= SCANNED_MAX, "a long vector is indexed");
            return;
        }
        assert_eq!(self.index.len(), self.items.len());
        for (position, (hash, _)) in self.items.iter().enumerate() {
            assert!(
                self.index.get(*hash, |&at| at as usize == position).is_some(),
                "item {position} is lost"
            );
        }
    }
}
