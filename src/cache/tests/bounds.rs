//! The bounds: how many, how much, which goes, what is swept, and what asks for a TOUCH.

use super::*;

/// A reply of `len` bytes.
fn reply(len: usize) -> Vec<u8> {
    vec![b'x'; len]
}

fn bounded(entries_max: usize, bytes_max: usize) -> Cache<u32> {
    Cache::new(Limits { entries_max, bytes_max, shards: 16, ..UNBOUNDED })
}

/// One of each policy.
fn both(entries_max: usize, bytes_max: usize) -> [Cache<u32>; 2] {
    BOTH.map(|eviction| Cache::new(Limits { entries_max, bytes_max, shards: 16, eviction, ..UNBOUNDED }))
}

fn key(number: usize) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

#[test]
fn the_count_is_kept_exactly_in_small_caches() {
    for cache in [1, 2, 3, 7, 100].into_iter().flat_map(|entries_max| both(entries_max, 0)) {
        let entries_max = cache.limits.entries_max;
        for number in 0..500 {
            cache.store(&key(number), &field(b""), b"+OK\r\n", &at(1));
            assert_eq!(cache.entries(), entries_max.min(number + 1));
            assert!(cache.shown(&key(number), &field(b""), &at(1)).is_some(), "what was just stored stays");
        }
        cache.check_invariants();
        assert_eq!(cache.evictions(), Evictions { by_count: 500 - entries_max as u64, by_bytes: 0 });
    }
}

#[test]
fn a_small_cache_has_few_shards_and_a_large_one_what_it_is_given() {
    assert_eq!(bounded(1, 0).shards(), 1);
    assert_eq!(bounded(511, 0).shards(), 1);
    assert_eq!(bounded(512, 0).shards(), 2);
    assert_eq!(bounded(10_000, 0).shards(), 16);
    assert_eq!(bounded(0, 0).shards(), 16);
}

#[test]
fn the_bytes_are_kept_with_replies_of_all_sizes() {
    for cache in both(0, 100_000) {
        let mut rng = fastrand::Rng::with_seed(1);
        for number in 0..3000 {
            let len = [8, 100, 1000, 10_000, 30_000][rng.usize(0..5)];
            cache.store(&key(number), &field(b""), &reply(rng.usize(1..len)), &at(1));
            assert!(cache.bytes() <= 100_000);
            assert!(cache.shown(&key(number), &field(b""), &at(1)).is_some(), "what was just stored stays");
        }
        cache.check_invariants();
        let evictions = cache.evictions();
        assert!(evictions.by_bytes > 2000 && evictions.by_count == 0, "{evictions:?}");
    }
}

#[test]
fn a_large_reply_makes_room_in_the_other_shards() {
    for cache in both(0, 100_000) {
        for number in 0..500 {
            cache.store(&key(number), &field(b""), &reply(64), &at(1));
        }
        cache.store(b"big", &field(b""), &reply(90_000), &at(1));
        assert!(cache.bytes() <= 100_000);
        assert!(cache.shown(b"big", &field(b""), &at(1)).is_some());
        assert!(cache.entries() > 1, "no more than needed is evicted");
        cache.check_invariants();
    }
}

#[test]
fn an_entry_whose_slot_is_over_the_bound_alone_goes_too() {
    // It fits by itself, but not with the slot that it needs while another read of the key is in flight.
    for cache in both(0, 600) {
        let _flight = cache.fetch(b"key", &field(b"other"), &at(1));
        let token = cache.fetch(b"key", &field(b""), &at(1));
        assert_eq!(cache.fill_now(b"key", token, &reply(450), &at(1)).outcome, FillOutcome::Stored);
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
        cache.check_invariants();
    }
}

#[test]
fn the_dead_go_first_and_are_not_counted_as_evicted() {
    // Few enough to be looked at one and all.
    for cache in both(6, 0) {
        let keys: Vec<_> = (0..11).map(key).collect();
        let next = Moment { generation: Generation(2), ..at(5) };
        for key in &keys[..3] {
            cache.store(key, &field(b""), b"+OK\r\n", &at(1));
        }
        for (number, key) in keys[3..6].iter().enumerate() {
            let token = cache.fetch(key, &field(b""), &next);
            let deadline = Some(ms(if number < 2 { 6 } else { 1000 }));
            let _ = cache.fill(key, token, Reply::Bytes(b"+OK\r\n"), deadline, ms(5), &next);
        }
        // Hits are forgotten with what was hit.
        assert!(keys[3..5].iter().all(|key| cache.shown(key, &field(b""), &next).is_some()));
        let later = Moment { now: ms(10), ..next };
        for key in &keys[6..] {
            cache.store(key, &field(b""), b"+OK\r\n", &later);
        }
        assert_eq!((cache.entries(), cache.evictions().by_count), (6, 0));
        assert!(keys[5..].iter().all(|key| cache.shown(key, &field(b""), &later).is_some()));
    }
}

#[test]
fn what_is_used_stays() {
    for cache in both(1000, 0) {
        for number in 0..20_000 {
            cache.store(&key(number), &field(b""), b"+OK\r\n", &at(1));
            for hot in 0..10 {
                cache.shown(&key(hot), &field(b""), &at(1));
            }
        }
        let kept = (0..10).filter(|&hot| cache.shown(&key(hot), &field(b""), &at(1)).is_some());
        assert_eq!(kept.count(), 10);
    }
}

/// How many of some keys are shown.
fn shown(cache: &Cache<u32>, keys: std::ops::Range<usize>) -> usize {
    keys.filter(|&number| cache.shown(&key(number), &field(b""), &at(1)).is_some()).count()
}

/// Reads each of some keys once, which are not here.
fn scan(cache: &Cache<u32>, keys: std::ops::Range<usize>) {
    keys.for_each(|number| cache.store(&key(number), &field(b""), b"+OK\r\n", &at(1)));
}

#[test]
fn a_scan_washes_lru_away_and_passes_through_s3_fifo() {
    let [lru, fifo] = both(1000, 0).map(|cache| {
        scan(&cache, 0..800);
        assert_eq!(shown(&cache, 0..800), 800);
        scan(&cache, 1000..4000);
        shown(&cache, 0..800)
    });
    // While the small queue shrinks to its share, evictions that have looked at enough of it take from the other.
    assert!(lru < 100 && fifo > 780, "{lru}, {fifo} of 800");
}

#[test]
fn what_left_s3_fifo_lately_stays_for_longer_when_it_comes_back() {
    let [_, cache] = both(1000, 0);
    scan(&cache, 0..2000);
    assert_eq!(shown(&cache, 500..700), 0);
    scan(&cache, 500..700);
    scan(&cache, 3000..6000);
    let back: Vec<_> = (500..700).filter(|&number| shown(&cache, number..number + 1) == 1).collect();
    // Buckets of ghosts fill unevenly.
    assert!(back.len() > 150, "{} of 200", back.len());
    // Its ghost served once: what is invalidated begins anew.
    for &number in &back {
        cache.invalidate(&key(number));
        scan(&cache, number..number + 1);
    }
    scan(&cache, 6000..9000);
    assert!(back.iter().all(|&number| shown(&cache, number..number + 1) == 0));
    cache.check_invariants();
}

#[test]
fn what_is_filled_again_keeps_its_place_and_what_was_noted_of_it() {
    let [_, cache] = both(400, 0);
    let uses = || {
        let item = cache.map.iter().find(|item| item.key().key() == key(0)).unwrap();
        item.key().entry_at(0).unwrap().access.load(Relaxed)
    };
    let fill = |at: &Moment| {
        let token = cache.fetch(&key(0), &field(b""), at);
        let _ = cache.fill(
            &key(0),
            token,
            Reply::Bytes(b"+OK\r\n"),
            Some(at.now + ms(1).since(ms(0))),
            at.now,
            at,
        );
    };
    fill(&at(1));
    cache.shown(&key(0), &field(b""), &at(1));
    assert_eq!(uses(), 1);
    fill(&at(2));
    assert_eq!(uses(), 2);
    cache.check_invariants();
}

#[test]
fn one_eviction_looks_at_few() {
    let [_, cache] = both(400, 0);
    scan(&cache, 0..400);
    assert_eq!(shown(&cache, 0..400), 400);
    scan(&cache, 400..401);
    // Whoever was looked at has begun anew.
    let hit = cache.map.iter().filter(|item| {
        let entry = item.key().entry_at(0).unwrap();
        entry.access.load(Relaxed) > 0
    });
    assert_eq!(hit.count(), 400 - 128);
}

#[test]
fn shards_stay_as_large_as_each_other() {
    for cache in both(2048, 0) {
        scan(&cache, 0..2048);
        // Each time others take the room that this one leaves, and it comes back.
        for number in 2048..12_000 {
            assert!(cache.invalidate(&key(0)));
            scan(&cache, number..number + 1);
            scan(&cache, 0..1);
        }
        let shares: Vec<_> = (0..cache.shards()).map(|shard| cache.lock(shard).candidate_count()).collect();
        assert!(shares.len() == 8 && shares.iter().all(|share| *share >= 200), "{shares:?}");
        cache.check_invariants();
    }
}

#[test]
fn flights_and_writes_are_never_evicted_nor_counted() {
    for cache in both(4, 0) {
        cache.begin_write(b"written");
        let token = cache.fetch(b"read", &field(b""), &at(1));
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
        for number in 0..100 {
            cache.store(&key(number), &field(b""), b"+OK\r\n", &at(1));
        }
        assert_eq!(cache.read_as(b"written", &field(b""), &at(1), 0).bypass(), Some(Bypass::Writing));
        assert_eq!(cache.fill_now(b"read", token, b"+OK\r\n", &at(1)).outcome, FillOutcome::Stored);
        cache.check_invariants();
    }
}

#[test]
fn the_variants_of_one_key_are_bounded() {
    for cache in both(0, 0) {
        let now = certified(5, 5);
        for number in 0..VARIANTS_MAX + 500 {
            cache.store(b"hash", &field(&key(number)), b"+OK\r\n", &now);
            cache.shown(b"hash", &field(&key(0)), &now);
        }
        assert_eq!(cache.entries(), VARIANTS_MAX);
        assert!(cache.shown(b"hash", &field(&key(0)), &now).is_some(), "the one that is used stays");
        cache.check_invariants();
        cache.invalidate(b"hash");
        let tokens: Vec<_> =
            (0..VARIANTS_MAX).map(|number| cache.fetch(b"hash", &field(&key(number)), &now)).collect();
        assert_eq!(cache.read_as(b"hash", &field(b"more"), &now, 0).bypass(), Some(Bypass::TooMany));
        for token in tokens {
            cache.abandon(b"hash", token);
        }
        assert!(!cache.invalidate(b"hash"));
    }
}

#[test]
fn the_variants_of_one_key_are_evicted_one_by_one() {
    for cache in both(50, 0) {
        let now = certified(5, 5);
        for number in 0..300 {
            cache.store(b"hash", &field(&key(number)), b"+OK\r\n", &now);
            cache.check_invariants();
        }
        assert_eq!(cache.entries(), 50);
        let alive = (0..300).filter(|&number| cache.shown(b"hash", &field(&key(number)), &now).is_some());
        assert_eq!(alive.count(), 50);
    }
}

#[test]
fn a_sweep_frees_the_dead_and_their_memory() {
    for cache in both(0, 0) {
        for number in 0..5000 {
            let token = cache.fetch(&key(number), &field(b""), &at(1));
            let deadline = Some(ms(if number % 5 == 0 { 1000 } else { 10 }));
            let _ = cache.fill(&key(number), token, Reply::Bytes(b"+OK\r\n"), deadline, ms(1), &at(1));
        }
        assert_eq!(cache.sweep_all(&at(9)), 0);
        assert_eq!(cache.sweep_all(&at(10)), 4000);
        assert_eq!(cache.entries(), 1000);
        cache.check_invariants();
        let alive = (0..5000).filter(|&number| cache.shown(&key(number), &field(b""), &at(10)).is_some());
        assert_eq!(alive.count(), 1000);
        let next = Moment { generation: Generation(2), ..at(10) };
        assert_eq!(cache.sweep_all(&next), 1000);
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
        assert!(cache.table_capacity() < 1000, "the tables have shrunk");
        cache.check_invariants();
    }
}

#[test]
fn a_sweep_settles_what_waits_no_longer() {
    let cache = bounded(0, 0);
    cache.store(b"key", &field(b""), b"+OK\r\n", &at(1));
    let lone = cache.bytes();
    cache.observe(b"key", None, ms(2), &at(2));
    assert!(cache.bytes() > lone);
    cache.sweep_all(&at(3));
    assert!(cache.bytes() > lone, "it waits");
    cache.sweep_all(&certified(3, 2));
    assert_eq!(cache.bytes(), lone);
    assert!(cache.shown(b"key", &field(b""), &at(3)).is_some());
    cache.check_invariants();
}

#[test]
fn a_touch_is_asked_for_once_an_interval() {
    let cache = bounded(0, 0);
    let touch = |second: u64, variant: &[u8]| {
        cache.hit(b"key", &field(variant), &certified(second * 1000, second * 1000), |hit| hit.touch).unwrap()
    };
    let long = Some(ms(1_000_000));
    let store = |variant: &[u8], second: u64| {
        let at = certified(second * 1000, second * 1000);
        let token = cache.fetch(b"key", &field(variant), &at);
        let _ = cache.fill(b"key", token, Reply::Bytes(b"+OK\r\n"), long, at.now, &at);
    };
    store(b"", 10);
    assert!(!touch(500, b""), "off by default");
    cache.set_touch_interval(Some(Duration::from_mins(1)));
    assert!(!touch(69, b""), "reading it upstream was a touch");
    assert!(touch(70, b""));
    assert!(!touch(70, b"") && !touch(129, b""));
    assert!(touch(130, b""));
    // One key, one touch, however many variants.
    store(b"second", 140);
    assert!(!touch(199, b"") && touch(200, b"") && !touch(200, b"second") && touch(260, b"second"));
    cache.set_touch_interval(None);
    assert!(!touch(900, b""));
}

impl<W> Cache<W> {
    fn table_capacity(&self) -> usize {
        self.map.shards().iter().map(|shard| shard.read().capacity()).sum()
    }
}
