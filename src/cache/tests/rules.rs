//! One test a rule, named after what it keeps.

use super::*;

const K: &[u8] = b"key";
const A: &[u8] = b"$1\r\na\r\n";
const B: &[u8] = b"$1\r\nb\r\n";

/// Two variants of one key.
fn pair() -> (VariantKey<'static>, VariantKey<'static>) {
    (field(b"one"), field(b"two"))
}

#[test]
fn a_stored_reply_is_hit_byte_for_byte_and_at_once() {
    let (cache, (one, two)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(10));
    assert_eq!((token.sent_at(), token.generation(), token.variant()), (ms(10), Generation(1), one));
    let filled = cache.fill_now(K, token, A, &at(11));
    assert_eq!((filled.outcome, filled.waiters.len(), filled.seen_moved), (FillOutcome::Stored, 0, false));
    assert_eq!(cache.shown(K, &one, &at(11)).as_deref(), Some(A));
    assert_eq!(cache.shown(K, &two, &at(11)), None);
    assert_eq!(cache.shown(b"other", &one, &at(11)), None);
    cache.check_invariants();
}

#[test]
fn every_part_of_a_variant_tells_it_apart() {
    let (cache, base) = (unbounded(), field(b"tail"));
    cache.store(K, &base, A, &at(1));
    let others = [
        VariantKey { identity: IdentityId(8), ..base },
        VariantKey { database: Database(1), ..base },
        VariantKey { database: Database(0x1_0000), ..base },
        VariantKey { protocols: Protocols::Resp2, ..base },
        VariantKey { protocols: Protocols::Resp3, ..base },
        VariantKey { command: 4, ..base },
        VariantKey { tail: b"tai", ..base },
    ];
    for other in others {
        assert_eq!(cache.shown(K, &other, &at(1)), None, "{other:?}");
    }
    // The key and the tail are not run together.
    assert_eq!(cache.shown(b"keyt", &field(b"ail"), &at(1)), None);
    assert_eq!(cache.shown(K, &base, &at(1)).as_deref(), Some(A));
}

#[test]
fn nil_is_kept_as_a_fact() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(1));
    let filled = cache.fill(K, token, Reply::Nil, Some(ms(50)), ms(1), &at(1));
    assert_eq!(filled.outcome, FillOutcome::Stored);
    assert_eq!(cache.hit(K, &one, &at(2), |hit| hit.reply == Reply::Nil), Some(true));
}

#[test]
fn replies_of_every_length_come_back_whole() {
    let (cache, (one, _)) = (unbounded(), pair());
    for len in
        (1..1200).chain((1200..40_000).step_by(997)).chain(INLINE_BYTES_MAX - 20..INLINE_BYTES_MAX + 20)
    {
        let reply: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        let key = format!("key:{len}");
        cache.store(key.as_bytes(), &one, &reply, &at(1));
        assert_eq!(cache.shown(key.as_bytes(), &one, &at(1)), Some(reply), "{len} bytes");
    }
    cache.check_invariants();
}

#[test]
fn a_long_reply_is_shared_not_copied() {
    let (cache, (one, _)) = (unbounded(), pair());
    let reply = bytes::Bytes::from(vec![b'x'; 100_000]);
    let token = cache.fetch(K, &one, &at(1));
    let _ = cache.fill(K, token, Reply::Shared(&reply), Some(ms(50)), ms(1), &at(1));
    let is_same = cache.hit(K, &one, &at(2), |hit| match hit.reply {
        Reply::Shared(bytes) => bytes.as_ptr() == reply.as_ptr(),
        _ => false,
    });
    assert_eq!(is_same, Some(true));
    assert!(cache.bytes() > 100_000);
}

#[test]
fn no_hit_at_or_after_the_deadline() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(10));
    let _ = cache.fill(K, token, Reply::Bytes(A), Some(ms(20)), ms(12), &at(12));
    assert!(cache.shown(K, &one, &at(19)).is_some());
    assert_eq!(cache.shown(K, &one, &at(20)), None);
    // Whole milliseconds are kept, rounded down.
    let token = cache.fetch(b"fine", &one, &at(10));
    let _ = cache.fill(b"fine", token, Reply::Bytes(A), Some(Nanos(ms(20).0 + 999_999)), ms(12), &at(12));
    assert_eq!(cache.shown(b"fine", &one, &at(20)), None);
}

#[test]
fn a_deadline_far_away_is_cut_to_what_four_bytes_hold() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(10));
    let _ = cache.fill(K, token, Reply::Bytes(A), Some(Nanos::FOREVER), ms(12), &at(12));
    assert!(cache.shown(K, &one, &at(u64::from(u32::MAX))).is_some());
    assert_eq!(cache.shown(K, &one, &at(10 + u64::from(u32::MAX))), None);
}

#[test]
fn another_generation_is_not_shown_in_either_direction() {
    let (cache, (one, _)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(1));
    let next = Moment { generation: Generation(2), ..at(2) };
    assert_eq!(cache.shown(K, &one, &next), None);
    cache.store(K, &one, B, &next);
    assert_eq!(cache.shown(K, &one, &next).as_deref(), Some(B));
    assert_eq!(cache.shown(K, &one, &at(2)), None);
    assert_eq!(cache.entries(), 1);
}

#[test]
fn a_reader_joins_the_read_in_flight_and_gets_its_reply() {
    let (cache, (one, two)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(1));
    assert_eq!(cache.read_as(K, &one, &at(2), 21).name(), "a join");
    assert_eq!(cache.read_as(K, &one, &at(3), 22).name(), "a join");
    let other = cache.fetch(K, &two, &at(3));
    assert_eq!(cache.fill_now(K, token, A, &at(4)).waiters, [21, 22]);
    assert!(cache.fill_now(K, other, A, &at(5)).waiters.is_empty());
}

#[test]
fn who_joined_at_or_after_the_deadline_asks_again() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(10));
    for (now, waiter) in [(19, 1), (20, 2), (21, 3)] {
        assert_eq!(cache.read_as(K, &one, &at(now), waiter).name(), "a join");
    }
    let filled = cache.fill(K, token, Reply::Bytes(A), Some(ms(20)), ms(25), &at(25));
    assert_eq!(filled.outcome, FillOutcome::Expired);
    assert_eq!((filled.waiters, filled.latecomers), (vec![1], vec![2, 3]));
    // With no deadline at all, the key may have expired just after it was read.
    let token = cache.fetch(K, &one, &at(30));
    assert_eq!(cache.read_as(K, &one, &at(30), 4).name(), "a join");
    let filled = cache.fill(K, token, Reply::Bytes(A), None, ms(31), &at(31));
    assert_eq!((filled.waiters, filled.latecomers), (vec![], vec![4]));
}

#[test]
fn a_reader_that_cannot_send_may_still_join() {
    let (cache, (one, two)) = (unbounded(), pair());
    assert!(!cache.join(K, &one, &at(1), || 5));
    assert!(!cache.invalidate(K), "no slot was made");
    let token = cache.fetch(K, &one, &at(1));
    assert!(!cache.join(K, &two, &at(2), || 6), "another variant");
    assert!(cache.join(K, &one, &at(2), || 7));
    assert_eq!(cache.fill_now(K, token, A, &at(4)).waiters, [7]);
    assert!(!cache.join(K, &one, &at(5), || 8), "it has landed");
    cache.check_invariants();
}

#[test]
fn a_read_that_is_sent_in_any_case_gets_a_token_only_where_none_is_out() {
    let (cache, (one, two)) = (unbounded(), pair());
    let token = cache.fetch_only(K, &one, &at(1)).expect("nothing stands against it");
    assert!(cache.fetch_only(K, &one, &at(2)).is_none(), "one token a variant");
    let other = cache.fetch_only(K, &two, &at(2)).expect("another variant");
    assert_eq!(cache.read_as(K, &one, &at(2), 5).name(), "a join");
    assert_eq!(cache.fill_now(K, token, A, &at(4)).waiters, [5]);
    assert!(cache.abandon(K, other).is_empty());
    cache.begin_write(K);
    assert!(cache.fetch_only(K, &one, &at(9)).is_none(), "it is being written");
    cache.end_write(K);
    assert!(!cache.invalidate(K), "nothing was left behind");
}

#[test]
fn a_read_that_is_sent_in_any_case_does_not_fill_what_is_there() {
    let (cache, (one, _)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(1));
    assert!(cache.fetch_only(K, &one, &at(2)).is_none());
    assert_eq!(cache.shown(K, &one, &at(3)), Some(A.to_vec()));
    let token = cache.fetch_only(K, &one, &at(3_600_000)).expect("it has expired");
    assert_eq!(cache.fill_now(K, token, B, &at(3_600_001)).outcome, FillOutcome::Stored);
    cache.check_invariants();
}

#[test]
fn a_hit_says_by_when_its_reply_had_arrived() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(10));
    let arrived = ms(26);
    let deadline = Some(ms(60_000));
    assert_eq!(
        cache.fill(K, token, Reply::Bytes(A), deadline, arrived, &at(13)).outcome,
        FillOutcome::Stored
    );
    assert_eq!(cache.hit(K, &one, &at(14), |hit| hit.arrived()), Some(arrived));
}

#[test]
fn what_was_filled_in_between_is_a_hit_after_all() {
    let (cache, (one, _)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(1));
    assert!(matches!(cache.read_as(K, &one, &at(1), 0), Read::Hit(reply) if reply == A));
}

#[test]
fn a_write_drops_blocks_and_unblocks() {
    let (cache, (one, two)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(1));
    cache.begin_write(K);
    assert_eq!(cache.shown(K, &one, &at(2)), None);
    assert_eq!(cache.read_as(K, &two, &at(2), 0).bypass(), Some(Bypass::Writing));
    cache.begin_write(K);
    cache.end_write(K);
    assert_eq!(cache.read_as(K, &one, &at(2), 0).bypass(), Some(Bypass::Writing), "one write is left");
    assert!(cache.invalidate(K));
    assert_eq!(cache.read_as(K, &one, &at(2), 0).bypass(), Some(Bypass::Writing), "it stays counted");
    cache.end_write(K);
    assert!(!cache.invalidate(K), "nothing is left behind");
    cache.store(K, &one, B, &at(3));
    cache.check_invariants();
}

#[test]
fn a_write_kills_the_tokens_of_before_but_answers_their_waiters() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(1));
    assert_eq!(cache.read_as(K, &one, &at(1), 9).name(), "a join");
    cache.begin_write(K);
    cache.end_write(K);
    let later = cache.fetch(K, &one, &at(2));
    assert_eq!(cache.read_as(K, &one, &at(2), 10).name(), "a join");
    let filled = cache.fill_now(K, token, A, &at(3));
    assert_eq!((filled.outcome, filled.waiters), (FillOutcome::Revoked, vec![9]));
    assert_eq!(cache.shown(K, &one, &at(3)), None);
    let filled = cache.fill_now(K, later, B, &at(4));
    assert_eq!((filled.outcome, filled.waiters), (FillOutcome::Stored, vec![10]));
}

#[test]
fn an_invalidation_drops_all_variants_in_all_databases() {
    let (cache, (one, two)) = (unbounded(), pair());
    let far = VariantKey { database: Database(9), ..one };
    for variant in [one, two, far] {
        cache.store(K, &variant, A, &at(1));
    }
    let token = cache.fetch(K, &field(b"three"), &at(1));
    assert_eq!(cache.entries(), 3);
    assert!(cache.invalidate(K));
    assert_eq!((cache.entries(), cache.bytes()), (0, 0));
    assert_eq!(cache.fill_now(K, token, A, &at(2)).outcome, FillOutcome::Revoked);
    assert!(!cache.invalidate(K));
    cache.check_invariants();
}

#[test]
fn what_is_refused_is_not_stored_and_says_why() {
    let cache: Cache<u32> = Cache::new(Limits { bytes_max: 4000, value_bytes_max: 2000, ..UNBOUNDED });
    let one = field(b"");
    let fill = |reply: &[u8], deadline| {
        let token = cache.fetch(K, &one, &at(10));
        cache.fill(K, token, Reply::Bytes(reply), deadline, ms(12), &at(12)).outcome
    };
    assert_eq!(fill(A, None), FillOutcome::Expired);
    assert_eq!(fill(A, Some(ms(12))), FillOutcome::Expired);
    assert_eq!(fill(&[b'x'; 2001], Some(ms(50))), FillOutcome::TooLarge);
    assert_eq!(fill(&[b'x'; 2000], Some(ms(50))), FillOutcome::Stored);
    cache.invalidate(K);
    assert_eq!(fill(A, Some(ms(50))), FillOutcome::Stored);
    cache.check_invariants();
}

#[test]
fn a_reply_that_would_fill_the_cache_alone_is_refused() {
    let cache: Cache<u32> = Cache::new(Limits { bytes_max: 4000, ..UNBOUNDED });
    cache.store(K, &field(b""), A, &at(1));
    let token = cache.fetch(b"big", &field(b""), &at(1));
    assert_eq!(cache.fill_now(b"big", token, &[b'x'; 3990], &at(1)).outcome, FillOutcome::TooLarge);
    assert_eq!(cache.entries(), 1, "and nothing is evicted for it");
}

#[test]
fn a_fill_of_an_earlier_generation_is_refused() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(1));
    let next = Moment { generation: Generation(2), ..at(2) };
    assert_eq!(cache.fill_now(K, token, A, &next).outcome, FillOutcome::Revoked);
    // A moment that is late itself does not bring the old contents back.
    let token = cache.fetch(K, &one, &at(1));
    let _later = cache.fetch(K, &field(b"two"), &next);
    assert_eq!(cache.fill_now(K, token, A, &at(2)).outcome, FillOutcome::Revoked);
    assert_eq!(cache.read_as(K, &one, &at(2), 0).bypass(), Some(Bypass::LateMoment));
}

#[test]
fn an_abandoned_flight_gives_its_waiters_back_and_makes_way() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(1));
    assert_eq!(cache.read_as(K, &one, &at(1), 4).name(), "a join");
    assert_eq!(cache.abandon(K, token), [4]);
    assert!(!cache.invalidate(K), "nothing is left behind");
    let token = cache.fetch(K, &one, &at(2));
    cache.invalidate(K);
    let later = cache.fetch(K, &one, &at(3));
    assert!(cache.abandon(K, token).is_empty());
    assert_eq!(cache.fill_now(K, later, A, &at(4)).outcome, FillOutcome::Stored, "another's flight stays");
}

#[test]
fn a_dropped_token_ends_its_flight_and_drops_its_waiters() {
    let cache: Cache<std::sync::Arc<()>> = Cache::new(UNBOUNDED);
    let (one, waiter) = (field(b""), std::sync::Arc::new(()));
    let token = cache.fetch(K, &one, &at(1));
    assert_eq!(cache.read_as(K, &one, &at(1), waiter.clone()).name(), "a join");
    drop(token);
    assert_eq!(std::sync::Arc::strong_count(&waiter), 1, "its own drop can answer");
    let token = cache.fetch(K, &one, &at(2));
    assert_eq!(cache.fill_now(K, token, A, &at(2)).outcome, FillOutcome::Stored);
}

#[test]
fn names_that_do_not_fit_bypass() {
    let cache = unbounded();
    let long = vec![b'x'; NAME_BYTES_MAX];
    assert_eq!(cache.read_as(K, &field(&long), &at(1), 0).bypass(), Some(Bypass::Unfit));
    let far = VariantKey { database: Database(0x1_0000), ..field(b"") };
    assert_eq!(cache.read_as(K, &far, &at(1), 0).bypass(), Some(Bypass::Unfit));
    cache.store(&long, &field(b""), A, &at(1));
    assert_eq!(cache.shown(&long, &field(b""), &at(1)).as_deref(), Some(A));
}

#[test]
fn a_stamp_is_good_until_the_entry_goes() {
    let (cache, (one, two)) = (unbounded(), pair());
    let stamp = |variant, at: &Moment| cache.hit(K, variant, at, |hit| hit.stamp()).unwrap();
    cache.store(K, &one, A, &at(1));
    let first = stamp(&one, &at(1));
    assert!(cache.still_valid(K, &one, first, &at(2)));
    assert!(!cache.still_valid(K, &two, first, &at(2)));
    assert!(!cache.still_valid(K, &one, first, &at(100_000)), "expired");
    cache.invalidate(K);
    assert!(!cache.still_valid(K, &one, first, &at(2)));
    cache.store(K, &one, A, &at(3));
    assert!(!cache.still_valid(K, &one, first, &at(3)), "the same bytes, but read anew");
    assert!(cache.still_valid(K, &one, stamp(&one, &at(3)), &at(3)));
}

// Invariant 9.

#[test]
fn a_second_variant_makes_both_wait_for_one_certification() {
    let (cache, (one, two)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    let token = cache.fetch(K, &two, &at(20));
    assert!(cache.shown(K, &one, &at(25)).is_some(), "nothing has been seen yet");
    assert!(cache.fill_now(K, token, B, &at(30)).seen_moved);
    for variant in [&one, &two] {
        assert_eq!(cache.shown(K, variant, &certified(31, 29)), None);
        assert!(cache.shown(K, variant, &certified(32, 30)).is_some());
    }
    cache.check_invariants();
}

#[test]
fn no_certification_is_asked_for_where_it_is_there_already() {
    let (cache, (one, two)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    let token = cache.fetch(K, &two, &at(20));
    assert!(!cache.fill(K, token, Reply::Bytes(B), Some(ms(90)), ms(30), &certified(35, 31)).seen_moved);
    assert!(cache.shown(K, &one, &certified(36, 31)).is_some());
}

#[test]
fn an_equal_reply_keeps_nobody_waiting_longer() {
    let (cache, (one, two)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    let token = cache.fetch(K, &two, &at(20));
    let _ = cache.fill_now(K, token, B, &at(30));
    // Both wait for 30. They are read again meanwhile, with the same replies.
    let token = cache.fetch(K, &one, &at(31));
    assert!(!cache.fill_now(K, token, A, &at(40)).seen_moved);
    let two_again = Observed { variant: two, reply: Reply::Bytes(B), sent_at: ms(32) };
    assert!(!cache.observe(K, Some(&two_again), ms(41), &at(41)));
    for variant in [&one, &two] {
        assert_eq!(cache.shown(K, variant, &certified(42, 29)), None);
        assert!(cache.shown(K, variant, &certified(42, 30)).is_some());
    }
}

#[test]
fn an_equal_reply_may_hide_a_change_and_so_frees_nobody() {
    // The counterexample of slot.rs: w1 changes `one` and `two` and is seen in `three`; w2 puts `two` back and
    // changes `one` again.
    let (cache, (one, two), three) = (unbounded(), pair(), field(b"three"));
    cache.store(K, &one, A, &at(10));
    let token = cache.fetch(K, &two, &at(11));
    let _ = cache.fill_now(K, token, B, &at(12));
    let token = cache.fetch(K, &three, &certified(15, 12));
    let _ = cache.fill_now(K, token, B, &certified(20, 12));
    let token = cache.fetch(K, &one, &certified(21, 12));
    assert!(!cache.fill_now(K, token, A, &certified(24, 12)).seen_moved);
    assert_eq!(cache.shown(K, &one, &certified(25, 19)), None);
    let token = cache.fetch(K, &two, &certified(22, 12));
    assert!(!cache.fill_now(K, token, B, &certified(30, 12)).seen_moved);
    assert_eq!(cache.shown(K, &one, &certified(31, 19)), None, "it may be older than the equal reply");
    assert!(cache.shown(K, &one, &certified(31, 20)).is_some());
}

#[test]
fn an_expired_reply_is_equal_to_nothing() {
    let (cache, (one, two)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    let token = cache.fetch(K, &two, &at(20));
    let _ = cache.fill(K, token, Reply::Bytes(B), Some(ms(40)), ms(21), &at(21));
    let token = cache.fetch(K, &two, &certified(45, 21));
    assert!(
        cache.fill_now(K, token, B, &certified(50, 21)).seen_moved,
        "the key may have gone and come back"
    );
    assert_eq!(cache.shown(K, &one, &certified(51, 21)), None);
}

#[test]
fn other_variants_that_have_expired_keep_nobody_waiting() {
    let (cache, (one, two)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(10));
    let _ = cache.fill(K, token, Reply::Bytes(A), Some(ms(40)), ms(11), &at(11));
    let token = cache.fetch(K, &two, &at(41));
    assert!(!cache.fill_now(K, token, B, &at(50)).seen_moved);
    assert!(cache.shown(K, &two, &at(50)).is_some());
    assert_eq!(cache.entries(), 1);
    cache.check_invariants();
}

#[test]
fn a_late_reply_with_a_dead_token_is_seen_all_the_same() {
    let (cache, (one, _)) = (unbounded(), pair());
    let first = cache.fetch(K, &one, &at(10));
    cache.invalidate(K);
    let second = cache.fetch(K, &one, &at(20));
    // On another lane the first read may have overtaken the second, and the write that came between.
    assert!(cache.fill_now(K, first, B, &at(30)).seen_moved);
    assert_eq!(cache.read_as(K, &one, &at(31), 0).bypass(), Some(Bypass::InFlight));
    assert_eq!(cache.read_as(K, &one, &certified(31, 30), 0).name(), "a join");
    let filled = cache.fill_now(K, second, A, &at(32));
    assert_eq!((filled.outcome, filled.seen_moved), (FillOutcome::Stored, false));
    assert_eq!(cache.shown(K, &one, &at(33)), None, "it may be older than what was seen");
    assert!(cache.shown(K, &one, &certified(33, 30)).is_some());
}

#[test]
fn a_late_reply_makes_a_lone_entry_wait_unless_it_is_equal_or_older() {
    for (late, arrived, waits) in [(B, 30, true), (A, 30, false), (B, 20, false)] {
        let (cache, (one, _)) = (unbounded(), pair());
        let first = cache.fetch(K, &one, &at(10));
        cache.invalidate(K);
        cache.store(K, &one, A, &at(20));
        let deadline = Some(ms(90));
        let filled = cache.fill(K, first, Reply::Bytes(late), deadline, ms(arrived), &at(30));
        assert_eq!(filled.seen_moved, waits);
        assert_eq!(cache.shown(K, &one, &at(31)).is_none(), waits);
        assert!(cache.shown(K, &one, &certified(31, 30)).is_some());
        cache.check_invariants();
    }
}

#[test]
fn a_lone_entry_that_waits_is_freed_by_an_equal_reply_sent_later() {
    let (cache, (one, _)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    let stamp = cache.hit(K, &one, &at(10), |hit| hit.stamp()).unwrap();
    assert!(cache.observe(K, None, ms(20), &at(20)), "EXEC has read the key");
    assert_eq!(cache.shown(K, &one, &at(21)), None);
    let again = |sent_at| Observed { variant: one, reply: Reply::Bytes(A), sent_at: ms(sent_at) };
    assert!(!cache.observe(K, Some(&again(19)), ms(25), &at(25)));
    assert_eq!(cache.shown(K, &one, &at(26)), None, "that read may be as old");
    assert!(!cache.observe(K, Some(&again(22)), ms(30), &at(30)));
    assert!(cache.shown(K, &one, &at(31)).is_some());
    assert!(!cache.still_valid(K, &one, stamp, &at(31)), "it may have been something else in between");
    // The deadline has not moved with it.
    assert_eq!(cache.shown(K, &one, &at(10 + 60_000)), None);
}

#[test]
fn an_unequal_reply_keeps_the_lone_entry_waiting() {
    let (cache, (one, _)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    let other = Observed { variant: one, reply: Reply::Bytes(B), sent_at: ms(15) };
    assert!(cache.observe(K, Some(&other), ms(20), &at(20)));
    assert_eq!(cache.shown(K, &one, &at(21)), None);
    // Read again, it is young enough, and alone.
    cache.store(K, &one, B, &at(22));
    assert_eq!(cache.shown(K, &one, &at(22)).as_deref(), Some(B));
    cache.check_invariants();
}

#[test]
fn a_refused_reply_is_seen() {
    let (cache, (one, two)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    let token = cache.fetch(K, &two, &at(20));
    assert!(cache.fill(K, token, Reply::Bytes(B), None, ms(30), &at(30)).seen_moved);
    assert_eq!(cache.shown(K, &one, &at(31)), None);
}

#[test]
fn what_was_seen_while_a_lone_flight_was_out_is_remembered_for_it() {
    let (cache, (one, _)) = (unbounded(), pair());
    let token = cache.fetch(K, &one, &at(10));
    assert!(cache.observe(K, None, ms(20), &at(20)));
    assert_eq!(cache.fill_now(K, token, A, &at(30)).outcome, FillOutcome::Stored);
    assert_eq!(cache.shown(K, &one, &at(31)), None);
    assert!(cache.shown(K, &one, &certified(31, 20)).is_some());
}

#[test]
fn what_nobody_holds_is_not_observed() {
    let (cache, (one, _)) = (unbounded(), pair());
    assert!(!cache.observe(K, None, ms(20), &at(20)));
    cache.begin_write(K);
    assert!(!cache.observe(K, None, ms(20), &at(20)));
    cache.end_write(K);
    cache.store(K, &one, A, &at(5));
    assert!(cache.shown(K, &one, &at(21)).is_some(), "nothing was remembered");
}

#[test]
fn a_flight_may_not_be_joined_after_an_arrival_but_still_fills() {
    let (cache, (one, two)) = (unbounded(), pair());
    let first = cache.fetch(K, &one, &at(10));
    let second = cache.fetch(K, &two, &at(11));
    assert!(cache.fill_now(K, first, A, &at(20)).seen_moved, "the other is in flight");
    assert_eq!(cache.read_as(K, &two, &at(21), 0).bypass(), Some(Bypass::InFlight));
    assert_eq!(cache.fill_now(K, second, B, &at(22)).outcome, FillOutcome::Stored);
    assert_eq!(cache.shown(K, &one, &certified(23, 21)), None);
    assert!(cache.shown(K, &one, &certified(23, 22)).is_some());
}

#[test]
fn an_equal_arrival_ends_joining_too() {
    let (cache, (one, two)) = (unbounded(), pair());
    cache.store(K, &one, A, &at(10));
    assert!(cache.observe(K, None, ms(14), &at(14)));
    let token = cache.fetch(K, &two, &at(15));
    assert_eq!(cache.read_as(K, &two, &at(16), 0).name(), "a join", "it was sent after all that was seen");
    // `one` is read by a bypass, with the same reply, which may hide a change that the flight does not see.
    let again = Observed { variant: one, reply: Reply::Bytes(A), sent_at: ms(16) };
    assert!(!cache.observe(K, Some(&again), ms(17), &at(17)));
    assert_eq!(cache.read_as(K, &two, &at(18), 0).bypass(), Some(Bypass::InFlight));
    assert_eq!(cache.read_as(K, &two, &certified(18, 14), 0).name(), "a join");
    assert_eq!(cache.fill_now(K, token, B, &at(19)).waiters.len(), 2);
}
