//! Connections and servers that die: nothing from before is shown afterwards, errors come at once, and it all
//! mends by itself.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::resp::{integer, shown};
use crate::common::{Client, Redis, eventually, proxy};
use crate::{Ask, House, LONG_LEASE, bulk, is_own_error, kill_named, words};

/// The contract says two seconds from when the server is back. A machine that is busy with other tests may take
/// as long again.
const RECOVERY_MAX: Duration = Duration::from_secs(4);

#[test]
fn nothing_from_before_the_link_was_lost_is_shown() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for round in 0..5 {
        outside.must(&format!("SET seen before{round}"));
        outside.must(&format!("SET unseen before{round}"));
        house.proxy.settle();
        for read in ["GET seen", "GET unseen"] {
            house.heat(&mut reader, read);
        }
        house.relay.refuse(true);
        assert_eq!(kill_named(&mut outside, "nearhit-link"), 1);
        house.proxy.wait_link("down");
        // Nobody hears of these any more, and lanes still stand.
        outside.must(&format!("SET unseen {round}"));
        for number in 0..20 {
            outside.must(&format!("SET seen {number}"));
            reader.expect(&bulk(&number.to_string()), &["GET", "seen"]);
        }
        house.relay.refuse(false);
        house.proxy.wait_live();
        reader.expect(&bulk(&round.to_string()), &["GET", "unseen"]);
        assert_eq!(shown(&house.heat(&mut reader, "GET unseen")), shown(&bulk(&round.to_string())));
    }
    assert_eq!(house.proxy.stat("link_losses"), 5);
}

/// A probe that has fallen into a hole says so when its patience is over. By then everything may long be well again.
#[test]
fn a_health_check_that_is_stuck_does_not_find_the_upstream_down_after_all() {
    const PATIENCE: Duration = Duration::from_millis(2_500);
    let house = House::start_with(&[], |proxy| {
        proxy
            .set("upstream.health_check_interval", "100ms")
            .set("upstream.dial_timeout", "500ms")
            .set("upstream.command_timeout", "2s")
    });
    eventually("the first health check has ended", || house.proxy.log().contains("upstream known"));
    house.relay.others().black_hole(true);
    // Until a health check is in it, and a lane owes a reply.
    let mut waiting = house.client();
    waiting.send(&["STRLEN", "k"]);
    thread::sleep(Duration::from_millis(400));
    house.relay.others().black_hole(false);
    house.client().expect(b":0\r\n", &["STRLEN", "k"]);
    // Longer than any probe may last that was under way when the hole was mended.
    let mended = Instant::now();
    while mended.elapsed() < PATIENCE {
        house.client().expect(b"+OK\r\n", &["WATCH", "k"]);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(house.proxy.stat("upstream_downs"), 0);
}

/// As above, without waiting for the proxy to notice: it is not later than the bound.
#[test]
fn a_write_right_after_the_link_was_lost_is_seen() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for round in 0..20 {
        house.heat(&mut reader, "GET k");
        assert_eq!(kill_named(&mut outside, "nearhit-link"), 1);
        outside.must(&format!("SET k {round}"));
        eventually("the write is seen", || reader.ask("GET k") == bulk(&round.to_string()));
        house.proxy.wait_live();
        reader.expect(&bulk(&round.to_string()), &["GET", "k"]);
    }
}

#[test]
fn reads_survive_their_lane_and_writes_tell_the_truth() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut client, mut outside) = (house.client(), house.outside());
    let (mut acknowledged, mut unknown) = (0, 0);
    for round in 0..60 {
        // One lane is idle when it is killed, another has just been given something to do.
        outside.must(&format!("SET k {round}"));
        kill_named(&mut outside, "nearhit-lane");
        let number = round.to_string();
        eventually("the write is seen", || {
            let reply = client.ask("GET k");
            assert!(!is_own_error(&reply), "a read is sent again: {}", shown(&reply));
            reply == bulk(&number)
        });
        kill_named(&mut outside, "nearhit-lane");
        let reply = client.ask("INCR counter");
        if is_own_error(&reply) {
            unknown += 1;
        } else {
            acknowledged += 1;
            let counted = integer(&reply);
            assert!((acknowledged..=acknowledged + unknown).contains(&counted), "{counted}");
        }
    }
    let counted = integer(&outside.must("INCRBY counter 0"));
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&counted),
        "{acknowledged} acknowledged, {unknown} unknown, and it is {counted}: something was lost, or sent twice"
    );
    assert!(house.proxy.stat("lanes_lost") > 30, "lanes were killed");
}

#[test]
fn an_upstream_that_is_gone_is_told_at_once_and_comes_back_empty() {
    let redis = Redis::start();
    // Whoever waited for a timeout would be seen: the test's own clients wait for ten seconds.
    let proxy = proxy()
        .upstream(&redis)
        .set("cache.max_staleness", LONG_LEASE)
        .set("upstream.command_timeout", "30s")
        .set("upstream.connect_timeout", "30s")
        .set("upstream.dial_timeout", "30s")
        .start();
    proxy.wait_live();
    let mut reader = proxy.client();
    for round in 0..3 {
        let mut transaction = proxy.client();
        transaction.must("SET k before");
        crate::heat(&proxy, &mut reader, "GET k");
        transaction.must("MULTI");
        transaction.must("SET k never");

        let mut early: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
        early.iter_mut().for_each(|client| drop(client.must("GET k")));
        redis.kill9();
        // Perhaps before anybody here has noticed.
        for (client, line) in early.iter_mut().zip(["WATCH j", "BLPOP list 0", "SUBSCRIBE c", "WATCH k"]) {
            client.send(&crate::words(line));
        }
        for client in &mut early {
            let reply = client.recv();
            assert!(is_own_error(&reply), "{}", shown(&reply));
        }
        proxy.wait_link("down");
        // The one in the middle of something is told by its connection's end.
        assert!(transaction.try_send_raw(b"EXEC\r\n").is_err() || ends(&mut transaction));
        for line in
            ["GET k", "MGET k", "SET k lost", "WATCH k", "BLPOP list 0", "EVAL return(1) 0", "SUBSCRIBE c"]
        {
            for mut client in [proxy.client(), proxy.client()] {
                let reply = client.ask(line);
                assert!(is_own_error(&reply), "{line}: {}", shown(&reply));
            }
            let reply = reader.ask(line);
            assert!(is_own_error(&reply), "{line}: {}", shown(&reply));
        }
        crate::is_doomed(&mut reader, "-ERR nearhit: upstream");

        if round == 0 {
            // Until all who look for it do so as seldom as they ever do.
            thread::sleep(Duration::from_millis(1_500));
        }
        redis.restart_empty();
        let back = Instant::now();
        loop {
            let reply = reader.ask("GET k");
            if !is_own_error(&reply) {
                assert_eq!(shown(&reply), r"$-1\r\n", "the new server is empty");
                break;
            }
            assert!(back.elapsed() < RECOVERY_MAX, "not served {:?} after it is back", back.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
        proxy.wait_live();
        assert!(
            back.elapsed() < RECOVERY_MAX + Duration::from_secs(2),
            "not live {:?} later",
            back.elapsed()
        );
        let mut writer = proxy.client();
        writer.expect(b"$-1\r\n", &["GET", "k"]);
        writer.expect(b"+OK\r\n", &["SET", "k", &round.to_string()]);
        assert_eq!(shown(&crate::heat(&proxy, &mut reader, "GET k")), shown(&bulk(&round.to_string())));
    }
}

/// Those who have a connection go on, and who would need one more is told in the server's own words.
#[test]
fn a_server_that_takes_no_more_connections_says_so_at_once() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("upstream.connect_timeout", "30s")
    });
    house.proxy.wait_live();
    let mut client = house.client();
    client.must("SET k value");
    let mut outside = house.outside();
    outside.must("CONFIG SET maxclients 1");
    for line in ["WATCH k", "SUBSCRIBE c", "BLPOP list 0"] {
        let reply = shown(&client.ask(line));
        assert_eq!(reply, r"-ERR max number of clients reached\r\n", "{line}");
        client.expect(&bulk("value"), &["GET", "k"]);
    }
    crate::is_doomed(&mut client, "-ERR max number of clients reached");
    outside.must("CONFIG SET maxclients 1000");
    client.must("MULTI");
    client.must("DISCARD");
}

/// Whether the proxy closes the connection, perhaps with a last error.
fn ends(client: &mut Client) -> bool {
    loop {
        match client.try_recv() {
            Ok(reply) if is_own_error(&reply) => {}
            Ok(reply) => panic!("a reply from nowhere: {}", shown(&reply)),
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// A command that takes too long is given up, but what it did is not: its reply comes late, and finds its place.
#[test]
fn a_late_reply_is_nobody_elses() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("upstream.command_timeout", "300ms")
    });
    house.proxy.wait_live();
    let mut outside = house.outside();
    let (mut writer, mut reader, mut transaction) = (house.client(), house.client(), house.client());
    let mut bystanders: Vec<Client> = (0..6).map(|_| house.client()).collect();
    for round in 0..2 {
        writer.must("SET k old");
        writer.must("GET k");
        transaction.must("MULTI");
        transaction.must("SET t new");
        outside.send(&["DEBUG", "SLEEP", "1"]);
        // The server is asleep by the time it would see these.
        thread::sleep(Duration::from_millis(50));
        let begun = house.proxy.stat("writes");
        writer.send(&["SET", "k", &round.to_string()]);
        eventually("the write has begun", || house.proxy.stat("writes") > begun);
        reader.send(&["GET", "k"]);
        transaction.send(&["EXEC"]);
        for (number, bystander) in bystanders.iter_mut().enumerate() {
            bystander.send(&["SETRANGE", "long", &number.to_string(), "x"]);
        }
        for client in [&mut writer, &mut reader, &mut transaction].into_iter().chain(&mut bystanders) {
            let reply = client.recv();
            assert!(
                is_own_error(&reply) && shown(&reply).contains("upstream.command_timeout"),
                "{}",
                shown(&reply)
            );
        }
        // Asked before the late replies come, some of them, and answered by their own.
        for (number, bystander) in bystanders.iter_mut().enumerate() {
            let line = format!("SET own{number} {number}");
            eventually("it wakes up", || {
                let reply = bystander.ask(&line);
                assert!(reply == b"+OK\r\n" || is_own_error(&reply), "{line}: {}", shown(&reply));
                reply == b"+OK\r\n"
            });
            bystander.expect(&bulk(&number.to_string()), &["GET", &format!("own{number}")]);
        }
        assert_eq!(shown(&outside.recv()), r"+OK\r\n");
        for client in [&mut writer, &mut reader, &mut transaction] {
            eventually("the late write has been made", || client.ask("GET k") == bulk(&round.to_string()));
        }
        for read in ["GET k", "GET t", "STRLEN long"] {
            house.heat(&mut reader, read);
        }
        assert_eq!(house.proxy.stat("pool_in_use"), 0);
    }
    assert!(house.proxy.stat("timeouts") >= 18);
}

/// What swallows everything and yet acknowledges each segment, as a middlebox may, is never found out by the kernel. So
/// it must not use up the lanes that a client may have.
#[test]
fn lanes_that_are_dead_and_do_not_look_it_are_replaced() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("server.workers", "1").set("upstream.command_timeout", "200ms")
    });
    house.proxy.wait_live();
    let mut client = house.client();
    for round in 0..8 {
        let number = round.to_string();
        client.must(&format!("SET k {number}"));
        assert!(house.relay.lose_a_lane(), "there is a lane");
        let reply = client.ask("APPEND k x");
        assert!(is_own_error(&reply), "{}", shown(&reply));
        client.expect(b"+OK\r\n", &["SET", "k", &number]);
        client.expect(&bulk(&number), &["GET", "k"]);
    }
    eventually("those that are dead are closed", || house.proxy.stat("lanes") <= 2);
}

/// The operator knows that the server cannot track: own writes and time to live keep the cache fresh.
#[test]
fn without_tracking_by_configuration() {
    let house = House::start_with(&[], |proxy| proxy.set("tracking.mode", "off").set("cache.ttl", "500ms"));
    without_tracking(&house);
}

/// The server does not know the command, which is found out, said, and lived with.
#[test]
fn without_tracking_on_a_server_that_has_none() {
    let house =
        House::start_with(&["--rename-command", "CLIENT", ""], |proxy| proxy.set("cache.ttl", "500ms"));
    without_tracking(&house);
    let log = house.proxy.log();
    let warning =
        log.lines().find(|line| line.contains(r#""level":"WARN""#) && line.contains("tracking.mode"));
    assert!(warning.is_some_and(|line| line.contains("CLIENT TRACKING")), "{log}");
}

#[track_caller]
fn without_tracking(house: &House) {
    house.proxy.wait_link("off");
    let (mut reader, mut writer, mut outside) = (house.client(), house.client(), house.outside());
    writer.must("SCRIPT LOAD return(1)");
    for (before, write) in [
        ("SET k old", "SET k new"),
        ("SET k old", "APPEND k er"),
        ("SET k old", "EVAL redis.call('SET','k','new') 0"),
        ("SET k old", "EVAL redis.call('SET',KEYS[1],'new') 1 k"),
        ("SET k old", "DEL k"),
        ("SET k old", "FLUSHALL"),
        ("SET k old", "MULTI; SET k new; EXEC"),
        ("SET k old", "MULTI; EVAL redis.call('SET','k','new') 0; EXEC"),
    ] {
        for round in 0..20 {
            writer.must(before);
            let old = house.heat(&mut reader, "GET k");
            write.split("; ").for_each(|line| drop(writer.must(line)));
            let new = reader.ask("GET k");
            assert_ne!(shown(&new), shown(&old), "after {write}, round {round}");
            assert_eq!(shown(&new), shown(&outside.must("GET k")), "after {write}, round {round}");
        }
    }
    house.heat(&mut reader, "GET k");
    outside.must("SET k elsewhere");
    eventually("the entry's time is up", || reader.ask("GET k") == bulk("elsewhere"));
}

/// It is behind another reply, so that nobody has read any of it when it is lost.
#[test]
fn a_large_read_that_is_lost_on_its_way_is_sent_again() {
    // With a single worker there is a single lane to be lost.
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("server.workers", "1")
    });
    house.proxy.wait_live();
    let (mut client, mut outside) = (house.client(), house.outside());
    let value = "x".repeat(4 << 20);
    outside.expect(b"+OK\r\n", &["SET", "large", &value]);
    for (command, read) in
        [("get", "GET large"), ("getrange", "GETRANGE large 0 -1"), ("mget", "MGET large other")]
    {
        eventually("all is well", || client.ask("EVAL return(1) 0") == b":1\r\n");
        house.proxy.wait_live();
        house.relay.link().hold_down(true);
        let fences = house.proxy.stat("fences");
        client.send(&["EVAL", "return 1", "0"]);
        eventually("it waits for its fence", || house.proxy.stat("fences") > fences);
        house.relay.others().bytewise(true);
        let calls = house.redis.calls(command);
        client.send(&words(read));
        eventually("it is carried out", || house.redis.calls(command) > calls);
        // Time for the first of its bytes; there are many.
        thread::sleep(Duration::from_millis(50));
        house.relay.others().bytewise(false);
        let lost = house.proxy.stat("lanes_lost");
        house.relay.others().cut();
        eventually("it is lost", || house.proxy.stat("lanes_lost") > lost);
        house.relay.link().hold_down(false);
        assert_eq!(client.recv(), b":1\r\n");
        let reply = client.recv();
        assert!(reply.len() > value.len(), "{read}: {}", shown(&reply));
    }
}
