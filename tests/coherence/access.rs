//! Who may read what: a cached value is shown to those to whom Redis itself would show it, and to nobody else.

use crate::common::resp::shown;
use crate::common::{Client, Redis, eventually, proxy};
use crate::{Ask, House, LONG_LEASE, bulk};

/// Two users with different rights, and a default user who may do all.
#[track_caller]
pub(crate) fn house_with_users() -> House {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("upstream.health_check_interval", "200ms")
    });
    let mut outside = house.outside();
    outside.must("ACL SETUSER alice on >a ~alice:* ~shared:* &* +@all");
    outside.must("ACL SETUSER bob on >b ~bob:* ~shared:* &* +@all");
    house.proxy.wait_live();
    house
}

impl House {
    #[track_caller]
    pub(crate) fn client_of(&self, user: &str, password: &str) -> Client {
        let mut client = self.client();
        client.expect(b"+OK\r\n", &["AUTH", user, password]);
        client
    }
}

#[track_caller]
pub(crate) fn is_refused(reply: &[u8]) {
    assert!(reply.starts_with(b"-NOPERM"), "{}", shown(reply));
}

#[test]
fn what_is_cached_for_one_user_is_not_shown_to_another() {
    let house = house_with_users();
    let (mut alice, mut bob) = (house.client_of("alice", "a"), house.client_of("bob", "b"));
    alice.must("MSET alice:k secret shared:k open");
    for _ in 0..20 {
        assert_eq!(shown(&house.heat(&mut alice, "GET alice:k")), shown(&bulk("secret")));
        is_refused(&bob.ask("GET alice:k"));
        is_refused(&bob.ask("MGET shared:k alice:k"));
        is_refused(&bob.ask("STRLEN alice:k"));
        // What both may read, each gets, and each other's writes.
        house.heat(&mut bob, "GET shared:k");
        alice.must("APPEND shared:k x");
        let read = bob.must("GET shared:k");
        assert_eq!(shown(&read), shown(&alice.must("GET shared:k")));
    }
    // Whoever becomes another user, sees as that user from there on.
    let mut turncoat = house.client_of("alice", "a");
    house.heat(&mut turncoat, "GET alice:k");
    turncoat.expect(b"+OK\r\n", &["AUTH", "bob", "b"]);
    is_refused(&turncoat.ask("GET alice:k"));
    let replies = turncoat.ask_all(&["AUTH alice a", "GET alice:k", "AUTH bob b", "GET alice:k"]);
    assert_eq!(shown(&replies[1]), shown(&bulk("secret")));
    is_refused(&replies[3]);
}

#[test]
fn rights_that_are_taken_away_are_gone() {
    let house = house_with_users();
    let (mut root, mut outside) = (house.client(), house.outside());
    let mut alice = house.client_of("alice", "a");
    root.must("SET alice:k secret");
    for _ in 0..3 {
        // Through the proxy: with the acknowledgement.
        house.heat(&mut alice, "GET alice:k");
        root.must("ACL SETUSER alice resetkeys ~shared:*");
        is_refused(&alice.ask("GET alice:k"));
        root.must("ACL SETUSER alice ~alice:*");
        alice.expect(&bulk("secret"), &["GET", "alice:k"]);
        // Elsewhere: with the next health check.
        house.heat(&mut alice, "GET alice:k");
        outside.must("ACL SETUSER alice resetkeys ~shared:*");
        eventually("the right is gone", || alice.ask("GET alice:k").starts_with(b"-NOPERM"));
        outside.must("ACL SETUSER alice ~alice:*");
        eventually("the right is back", || alice.ask("GET alice:k") == bulk("secret"));
    }
}

/// Without PTTL nobody knows how long a value lives, so it is not cached for who may not ask.
#[test]
fn a_user_who_may_not_ask_for_the_time_to_live_is_served_uncached() {
    let redis = Redis::start();
    let mut outside = redis.client();
    outside.must("ACL SETUSER meek on >m ~* +get +set");
    // Without a relay, through which Redis would not know the address of this user's lane, and so nobody the process
    // that it ends at.
    let proxy = proxy().upstream(&redis).set("cache.max_staleness", LONG_LEASE).start();
    proxy.wait_live();
    let (mut meek, mut root) = (proxy.client(), proxy.client());
    meek.expect(b"+OK\r\n", &["AUTH", "meek", "m"]);
    let hits = proxy.stat("hits");
    for round in 0..200 {
        outside.must(&format!("SET k {round}"));
        meek.expect(&bulk(&round.to_string()), &["GET", "k"]);
        meek.expect(b"+OK\r\n", &["SET", "k", "own"]);
        meek.expect(&bulk("own"), &["GET", "k"]);
        meek.expect(&bulk("own"), &["GET", "k"]);
    }
    assert_eq!(proxy.stat("hits"), hits);
    is_refused(&meek.ask("STRLEN k"));
    // Once it may ask, it is cached for.
    root.must("ACL SETUSER meek +pttl");
    assert_eq!(shown(&crate::heat(&proxy, &mut meek, "GET k")), shown(&bulk("own")));
    // And what it may not read any more is not shown to it.
    root.must("ACL SETUSER meek -get");
    is_refused(&meek.ask("GET k"));
}

/// What follows a MULTI that was refused is no transaction: each command is executed at once, as a write like any
/// other.
#[test]
fn a_user_who_may_not_use_transactions_writes_all_the_same() {
    let house = house_with_users();
    house.outside().must("ACL SETUSER plain on >p ~* &* +@all -multi");
    let (mut plain, mut reader) = (house.client_of("plain", "p"), house.client());
    for round in 0..20 {
        house.relay.link().delay(0, 0);
        reader.must("SET k old");
        house.heat(&mut reader, "GET k");
        house.delay_pushes();
        let number = round.to_string();
        if round % 2 == 0 {
            let set = format!("SET k {number}");
            let replies = plain.ask_all(&["MULTI", &set]);
            is_refused(&replies[0]);
            assert_eq!(shown(&replies[1]), r"+OK\r\n");
        } else {
            is_refused(&plain.ask("MULTI"));
            plain.expect(b"+OK\r\n", &["SET", "k", &number]);
        }
        reader.expect(&bulk(&number), &["GET", "k"]);
        plain.expect(b"-ERR EXEC without MULTI\r\n", &["EXEC"]);
    }
    eventually("no connection is kept", || house.proxy.stat("pool_in_use") == 0);
}

#[test]
fn a_wrong_password_is_refused_in_the_words_of_redis() {
    let house = house_with_users();
    let (mut client, mut outside) = (house.client(), house.outside());
    for line in ["AUTH alice wrong", "AUTH nobody a", "HELLO 3 AUTH alice wrong", "AUTH", "AUTH a b c"] {
        assert_eq!(shown(&client.ask(line)), shown(&outside.ask(line)), "{line}");
    }
    // It is who it was.
    assert_eq!(shown(&client.ask("ACL WHOAMI")), shown(&bulk("default")));
}

#[test]
fn a_stranger_is_shown_nothing_that_is_cached() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let proxy = proxy()
        .set("upstream.url", &redis.url().replace("redis://", "redis://:secret@"))
        .set("cache.max_staleness", LONG_LEASE)
        .start();
    let mut friend = proxy.client();
    friend.expect(b"+OK\r\n", &["AUTH", "secret"]);
    friend.must("SET k value");
    eventually("it is live", || friend.text(&["INFO", "nearhit"]).contains("link_state:live"));
    heat_alone(&mut friend);
    for protocol in ["2", "3"] {
        let mut stranger = proxy.client();
        for line in ["GET k", "MGET k", "MULTI", "SUBSCRIBE c", "BLPOP k 1", "SELECT 1", "INFO"] {
            let reply = stranger.ask(line);
            assert_eq!(shown(&reply), r"-NOAUTH Authentication required.\r\n", "{line}");
        }
        let reply = stranger.ask(&format!("HELLO {protocol}"));
        assert!(reply.starts_with(b"-NOAUTH"), "{}", shown(&reply));
        let reply = stranger.ask(&format!("HELLO {protocol} AUTH default wrong"));
        assert!(reply.starts_with(b"-WRONGPASS"), "{}", shown(&reply));
        stranger.must(&format!("HELLO {protocol} AUTH default secret SETNAME me"));
        stranger.expect(&bulk("me"), &["CLIENT", "GETNAME"]);
        stranger.expect(&bulk("value"), &["GET", "k"]);
        heat_alone(&mut stranger);
        // A stranger again.
        stranger.expect(b"+RESET\r\n", &["RESET"]);
        assert_eq!(shown(&stranger.ask("GET k")), r"-NOAUTH Authentication required.\r\n");
    }
    // RESET also undoes the rest.
    friend.must("CLIENT SETNAME friend");
    friend.must("SELECT 1");
    friend.expect(b"+RESET\r\n", &["RESET"]);
    friend.expect(b"+OK\r\n", &["AUTH", "secret"]);
    friend.expect(b"$-1\r\n", &["CLIENT", "GETNAME"]);
    friend.expect(&bulk("value"), &["GET", "k"]);
}

/// As `heat`, where a client has to authenticate before it may ask for statistics.
#[track_caller]
fn heat_alone(client: &mut Client) {
    let hits = |client: &mut Client| {
        let text = client.text(&["INFO", "nearhit"]);
        let line = text.lines().find_map(|line| line.strip_prefix("nearhit_hits:").map(str::to_owned));
        line.and_then(|hits| hits.trim().parse::<u64>().ok()).expect("a count")
    };
    eventually("it is answered from memory", || {
        client.must("GET k");
        let before = hits(client);
        client.expect(&bulk("value"), &["GET", "k"]);
        hits(client) > before
    });
}
