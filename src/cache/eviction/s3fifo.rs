//! S3-FIFO (Yang et al., SOSP 2023): two queues and the memory of what was evicted lately.
//!
//! A new entry joins the *small* queue. When it has come to that one's front, it goes to the *main* queue if it was
//! hit in the meantime, and else leaves the cache and becomes a *ghost*. A new entry that finds its ghost joins the
//! main queue at once. What comes to the front of the main queue goes round again as often as it was hit, up to three
//! times, and then leaves. So what is asked for only once stays for a tenth of the cache's turnover, and a scan passes
//! through without washing away what is in use.
//!
//! Three things differ from the paper's.
//!
//! - A ghost is 4 B of hash in a bucket of eight, where the ninth pushes the first out. That makes them a queue as
//!   long as the cache but for the unevenness of the buckets, without an index beside it.
//! - An entry that is taken from the middle (by a write or an invalidation) leaves no hole: the one at the front moves
//!   there, so that no removal takes longer than others. It costs 0.1 points of the hit ratio where a tenth of the
//!   steps are writes, 0.4 where a third are.
//! - One eviction looks at a few of either queue and then takes what is next, since it holds the shard's lock: after
//!   a time without evictions all of them may have been hit. See [`LOOKS_MAX`].

use std::{collections::VecDeque, hash::BuildHasher};

use super::{Handle, Sight, Victim};
use crate::cache::shard::Spare;

/// The share of the small queue. Counted in entries: a hit is one whatever its length, and the books need not know
/// what an entry costs. A long reply that nobody asks for again passes as fast as a short one.
const SMALL_SHARE: usize = 10;

/// How many of the small queue one eviction looks at, and of both twice as many: 25 us of a large cache at worst.
const LOOKS_MAX: u32 = 128;

/// A place is a handle's number, counted since its queue began, modulo this; and the queue.
const NUMBERS: u32 = 1 << 30;

/// The bit that says that a place is in the main queue.
const MAIN: u32 = NUMBERS;

#[derive(Default)]
pub(super) struct Queues {
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
}

impl Queues {
    pub(super) fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    pub(super) fn nth(&self, index: usize) -> Option<(u32, Handle)> {
        match index.checked_sub(self.small.len()) {
            None => self.small.nth(index),
            Some(index) => self.main.nth(index).map(|(number, handle)| (MAIN | number, handle)),
        }
    }

    pub(super) fn handle(&self, place: u32) -> Handle {
        let queue = self.queue(place);
        queue.handles[queue.offset(place)]
    }

    pub(super) fn handle_mut(&mut self, place: u32) -> &mut Handle {
        let queue = self.queue_mut(place);
        let offset = queue.offset(place);
        &mut queue.handles[offset]
    }

    pub(super) fn add(&mut self, handle: Handle, variant_hash: u64) -> u32 {
        if self.ghosts.take(fingerprint(handle, variant_hash)) {
            MAIN | self.main.push(handle)
        } else {
            self.small.push(handle)
        }
    }

    /// The handle at the queue's front moves there.
    pub(super) fn remove(&mut self, place: u32) -> Option<(Handle, u32)> {
        let (handle, was) = self.queue_mut(place).remove(place)?;
        Some((handle, place & MAIN | was))
    }

    /// From the fronts backwards.
    pub(super) fn removal_order(&self, place: u32) -> u32 {
        self.queue(place).offset(place) as u32
    }

    pub(super) fn choose<W>(&mut self, sight: &mut Sight<'_, W>) -> Option<Victim> {
        let mut looks = 0;
        loop {
            let is_small_due = self.small.len() * SMALL_SHARE >= self.len() && looks < LOOKS_MAX;
            let (place, handle) = self.front(is_small_due)?;
            let is_main = place & MAIN != 0;
            let (at, spare, hasher) = (sight.at, sight.spare, sight.hasher);
            let entry = sight.entry(handle, place);
            let is_spared = spare == Spare::Stamp(entry.stamp);
            let is_alive = !entry.is_dead(at.now, at.generation);
            let uses = entry.access.get_mut();
            if !is_spared && (!is_alive || *uses == 0 || looks >= 2 * LOOKS_MAX) {
                if !is_main {
                    let variant_hash = hasher.hash_one(entry.variant());
                    self.ghosts.put(fingerprint(handle, variant_hash), self.len());
                }
                return Some(Victim { place, is_alive });
            }
            if is_spared && self.len() == 1 {
                return None;
            }
            *uses = if is_main && !is_spared { *uses - 1 } else { 0 };
            self.queue_mut(place).remove(place);
            entry.index = MAIN | self.main.push(handle);
            looks += 1;
        }
    }

    pub(super) fn shrink(&mut self) {
        self.ghosts.fit(self.len());
    }

    pub(super) fn check_invariants(&self) {
        self.ghosts.check_invariants();
    }

    /// What is next to be looked at, in the small queue if it is due, if there is anything.
    fn front(&self, is_small_due: bool) -> Option<(u32, Handle)> {
        if self.small.len() > 0 && (is_small_due || self.main.len() == 0) {
            return self.small.nth(0);
        }
        self.main.nth(0).map(|(number, handle)| (MAIN | number, handle))
    }

    fn queue(&self, place: u32) -> &Queue {
        if place & MAIN == 0 { &self.small } else { &self.main }
    }

    fn queue_mut(&mut self, place: u32) -> &mut Queue {
        if place & MAIN == 0 { &mut self.small } else { &mut self.main }
    }
}

#[derive(Default)]
struct Queue {
    handles: VecDeque<Handle>,
    /// The number of the one at the front.
    head: u32,
}

impl Queue {
    fn len(&self) -> usize {
        self.handles.len()
    }

    fn nth(&self, offset: usize) -> Option<(u32, Handle)> {
        let handle = self.handles.get(offset)?;
        Some(((self.head + offset as u32) % NUMBERS, *handle))
    }

    fn offset(&self, place: u32) -> usize {
        (place.wrapping_sub(self.head) % NUMBERS) as usize
    }

    fn push(&mut self, handle: Handle) -> u32 {
        let len = self.handles.len();
        if len == self.handles.capacity() {
            // Doubling would leave up to half of a large queue empty, at 8 B an entry.
            self.handles.reserve_exact((len / 8).max(8));
        }
        self.handles.push_back(handle);
        (self.head + len as u32) % NUMBERS
    }

    /// What moves there, and its old number, if anything does.
    fn remove(&mut self, place: u32) -> Option<(Handle, u32)> {
        let (offset, front) = (self.offset(place), self.head);
        self.handles.swap_remove_front(offset);
        self.head = (front + 1) % NUMBERS;
        // A shard that is full for the first time has everything in the small queue.
        if self.handles.capacity() > 4 * self.handles.len().max(16) {
            self.handles.shrink_to(2 * self.handles.len());
        }
        offset.checked_sub(1).map(|offset| (self.handles[offset], front))
    }
}

/// What is remembered of an entry that was evicted.
fn fingerprint(handle: Handle, variant_hash: u64) -> u32 {
    // All hashes of a shard have some high bits in common: multiplied, the low ones decide.
    let mixed = (handle.hash() ^ variant_hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 32) as u32).max(1)
}

/// Ghosts in a bucket, youngest first; 0 where there is none.
const WAYS: usize = 8;

#[derive(Default)]
struct Ghosts {
    buckets: Vec<[u32; WAYS]>,
}

impl Ghosts {
    /// Remembers one, among as many as there are entries.
    fn put(&mut self, ghost: u32, entries: usize) {
        self.fit(entries);
        self.push(ghost);
    }

    /// Forgets one, if it is here.
    fn take(&mut self, ghost: u32) -> bool {
        if self.buckets.is_empty() {
            return false;
        }
        let index = self.index(ghost);
        let bucket = &mut self.buckets[index];
        let Some(way) = bucket.iter().position(|&other| other == ghost) else { return false };
        bucket[way..].rotate_left(1);
        bucket[WAYS - 1] = 0;
        true
    }

    /// Makes room for as many ghosts as there are entries, within an eighth, or gives it back.
    fn fit(&mut self, entries: usize) {
        let (wanted, len) = (entries.div_ceil(WAYS), self.buckets.len());
        if wanted * 8 <= len * 9 && wanted * 2 >= len {
            return;
        }
        let old = std::mem::replace(&mut self.buckets, vec![[0; WAYS]; wanted]);
        if wanted > 0 {
            let oldest_first = (0..WAYS).rev().flat_map(|way| old.iter().map(move |bucket| bucket[way]));
            oldest_first.filter(|&ghost| ghost != 0).for_each(|ghost| self.push(ghost));
        }
    }

    fn push(&mut self, ghost: u32) {
        let index = self.index(ghost);
        let bucket = &mut self.buckets[index];
        bucket.rotate_right(1);
        bucket[0] = ghost;
    }

    /// Of a ghost's bucket. The ghost says it alone, so that the buckets can be made anew.
    fn index(&self, ghost: u32) -> usize {
        ((u64::from(ghost) * self.buckets.len() as u64) >> 32) as usize
    }

    fn check_invariants(&self) {
        for (index, bucket) in self.buckets.iter().enumerate() {
            let len = bucket.iter().take_while(|&&ghost| ghost != 0).count();
            assert!(bucket[len..].iter().all(|&ghost| ghost == 0), "a bucket has no holes");
            assert!(
                bucket[..len].iter().all(|&ghost| self.index(ghost) == index),
                "a ghost is in its bucket"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ghost(number: u32) -> u32 {
        fingerprint(Handle::new(u64::from(number) << 48, 0), 0)
    }

    #[test]
    fn about_as_many_ghosts_are_remembered_as_there_are_entries() {
        let mut ghosts = Ghosts::default();
        assert!(!ghosts.take(ghost(0)));
        (0..10_000).for_each(|number| ghosts.put(ghost(number), 1000));
        assert_eq!(ghosts.buckets.len() * WAYS, 1000);
        ghosts.check_invariants();
        let found: Vec<_> = (0..10_000).filter(|&number| ghosts.take(ghost(number))).collect();
        let lately = found.iter().filter(|&&number| number >= 9000).count();
        assert!(found.len() > 950 && lately > 800, "{} found, {lately} of the last 1000", found.len());
        assert!(!ghosts.take(ghost(9999)), "a ghost is taken once");
    }

    #[test]
    fn ghosts_keep_their_order_when_their_room_changes() {
        let mut ghosts = Ghosts::default();
        (0..1000).for_each(|number| ghosts.put(ghost(number), 1000));
        ghosts.fit(400);
        ghosts.check_invariants();
        assert_eq!(ghosts.buckets.len() * WAYS, 400);
        let found: Vec<_> = (0..1000).filter(|&number| ghosts.take(ghost(number))).collect();
        let lately = found.iter().filter(|&&number| number >= 600).count();
        assert!(found.len() > 350 && lately > 300, "{} found, {lately} of the last 400", found.len());
        let mut queues = Queues { ghosts, ..Queues::default() };
        queues.shrink();
        assert!(queues.ghosts.buckets.is_empty());
    }

    #[test]
    fn a_queue_outlives_its_numbers() {
        let mut queue = Queue { head: NUMBERS - 2, ..Queue::default() };
        let handles: Vec<_> = (0..4).map(|number| Handle::new(number, 0)).collect();
        let places: Vec<_> = handles.iter().map(|handle| queue.push(*handle)).collect();
        assert_eq!(places, [NUMBERS - 2, NUMBERS - 1, 0, 1]);
        assert_eq!(queue.remove(MAIN | places[2]), Some((handles[0], places[0])));
        assert_eq!(queue.nth(0), Some((places[1], handles[1])));
        assert_eq!(queue.nth(queue.offset(places[2])), Some((places[2], handles[0])));
        assert_eq!(queue.remove(places[1]), None);
        assert_eq!(queue.nth(1), Some((places[3], handles[3])));
    }
}
