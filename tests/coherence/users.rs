//! Users that come and go: what becomes of their clients, what each of their rules hides, and what wrong passwords cost.

use crate::access::{house_with_users, is_refused};
use crate::common::resp::shown;
use crate::common::{Client, Proxy, ProxyBuilder, Redis, eventually, proxy};
use crate::{Ask, House, LONG_LEASE, bulk};

/// Places of one address for attempts that have failed (`session/attempts.rs`).
const FAILURES_MAX: usize = 20;

#[track_caller]
fn is_wrong(reply: &[u8]) {
    assert!(reply.starts_with(b"-WRONGPASS"), "{}", shown(reply));
}

/// Redis closes the connections of a user that is deleted, and so idle clients know: whatever they are in the middle of.
#[test]
fn the_clients_of_a_deleted_user_are_cut_off() {
    let house = house_with_users();
    let (mut root, mut outside) = (house.client(), house.outside());
    root.must("SET alice:k secret");
    for round in 0..4 {
        let mut bystander = house.client_of("bob", "b");
        let mut idle = house.client_of("alice", "a");
        let mut reader = house.client_of("alice", "a");
        house.heat(&mut reader, "GET alice:k");
        let mut transaction = house.client_of("alice", "a");
        transaction.must("MULTI");
        let mut blocked = house.client_of("alice", "a");
        blocked.send(&["BLPOP", "alice:list", "0"]);
        let mut subscriber = house.client_of("alice", "a");
        subscriber.must("SUBSCRIBE channel");
        // Authenticated where it has no shared connection.
        let mut watcher = house.client();
        watcher.must("WATCH alice:k");
        watcher.expect(b"+OK\r\n", &["AUTH", "alice", "a"]);
        watcher.must("UNWATCH");
        match round % 3 {
            0 => outside.must("ACL DELUSER alice"),
            1 => root.must("ACL DELUSER alice"),
            _ => reader.must("ACL DELUSER alice"),
        };
        for client in [&mut idle, &mut reader, &mut transaction, &mut blocked, &mut subscriber, &mut watcher]
        {
            let last = client.recv_to_end();
            assert!(last.is_empty() || last.starts_with(b"-"), "{}", shown(&last));
        }
        is_wrong(&house.client().ask("AUTH alice a"));
        bystander.must("GET shared:k");
        root.expect(&bulk("secret"), &["GET", "alice:k"]);
        outside.must("ACL SETUSER alice on >a ~alice:* ~shared:* &* +@all");
    }
    assert!(house.proxy.stat("auth_disowned") >= 4 * 3, "idle ones and readers");
}

/// Whom the server takes back while nearhit has lost all its connections loses none of its clients.
#[test]
fn the_clients_of_a_user_that_is_still_there_stay_when_connections_are_lost() {
    let house = house_with_users();
    let (mut alice, mut outside) = (house.client_of("alice", "a"), house.outside());
    for _ in 0..5 {
        alice.must("SET alice:k value");
        let examined = house.redis.calls("auth");
        assert!(crate::kill_named(&mut outside, "nearhit-lane") > 0);
        eventually("the server was asked", || house.redis.calls("auth") > examined);
    }
    alice.expect(&bulk("value"), &["GET", "alice:k"]);
    assert_eq!(house.proxy.stat("auth_disowned"), 0);
}

/// As with Redis: who is in stays in, and nobody else gets in.
#[test]
fn a_user_who_is_switched_off_or_gets_another_password_keeps_its_connections() {
    let house = house_with_users();
    let (mut alice, mut outside) = (house.client_of("alice", "a"), house.outside());
    alice.must("SET alice:k value");
    for change in ["off", "resetpass >other"] {
        house.heat(&mut alice, "GET alice:k");
        let generation = house.proxy.stat("generation");
        outside.must(&format!("ACL SETUSER alice {change}"));
        eventually("it is found", || house.proxy.stat("generation") > generation);
        for _ in 0..3 {
            alice.expect(&bulk("value"), &["GET", "alice:k"]);
            alice.must("SET alice:k value");
        }
        is_wrong(&house.client().ask("AUTH alice a"));
        outside.must("ACL SETUSER alice on resetpass >a");
        alice.must("PING");
    }
    house.client_of("alice", "a").expect(&bulk("value"), &["GET", "alice:k"]);
}

/// Of which clients that do not authenticate are known not to be the user of the proxy itself.
#[track_caller]
fn proxy_with_a_keeper(redis: &Redis, configure: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Proxy {
    redis.client().must("ACL SETUSER keeper on >k ~* &* +@all");
    let proxy = proxy()
        .set("upstream.url", &redis.url().replace("redis://", "redis://keeper:k@"))
        .set("cache.max_staleness", LONG_LEASE)
        .set("upstream.health_check_interval", "100ms")
        .set("upstream.max_subscribed", "1")
        .set("upstream.connect_timeout", "1s")
        .set("server.workers", "1");
    let proxy = configure(proxy).start();
    proxy.wait_live();
    proxy
}

/// Who came while no password was wanted stays, as with Redis; who comes later is shown nothing of what the former read.
#[test]
fn strangers_are_kept_out_once_a_password_is_wanted() {
    let redis = Redis::start();
    let proxy = proxy_with_a_keeper(&redis, |proxy| proxy);
    let mut old = proxy.client();
    old.must("SET k value");
    for set in ["CONFIG SET requirepass secret", "ACL SETUSER default off"] {
        let mut outside = redis.client();
        crate::heat(&proxy, &mut old, "GET k");
        outside.must(set);
        eventually("a newcomer is turned away", || proxy.client().ask("PING").starts_with(b"-NOAUTH"));
        let mut newcomer = proxy.client();
        for _ in 0..10 {
            old.expect(&bulk("value"), &["GET", "k"]);
            for line in ["GET k", "MGET k", "STRLEN k"] {
                let reply = newcomer.ask(line);
                assert!(reply.starts_with(b"-NOAUTH"), "{line}: {}", shown(&reply));
            }
        }
        // Who starts anew is a newcomer, too.
        let mut fickle = proxy.client();
        fickle.expect(b"+OK\r\n", &["AUTH", "keeper", "k"]);
        fickle.must("GET k");
        let replies = fickle.ask_all(&["RESET", "GET k", "PING"]);
        assert!(replies[1].starts_with(b"-NOAUTH"), "{}", shown(&replies[1]));
        assert!(replies[2].starts_with(b"-NOAUTH"), "{}", shown(&replies[2]));
        outside.must("ACL SETUSER default on nopass");
        eventually("a newcomer is let in", || proxy.client().ask("PING") == b"+PONG\r\n");
        newcomer.expect(&bulk("value"), &["GET", "k"]);
    }
}

/// A change that is made here counts from its acknowledgement, whichever way it is made.
#[test]
fn strangers_are_kept_out_from_when_the_password_is_acknowledged() {
    let redis = Redis::start();
    let proxy = proxy_with_a_keeper(&redis, |proxy| {
        proxy.set("upstream.health_check_interval", "1h").set("server.workers", "2")
    });
    let mut keeper = proxy.client();
    keeper.expect(b"+OK\r\n", &["AUTH", "keeper", "k"]);
    let ways: [&[&str]; 4] = [
        &["ACL SETUSER default off"],
        &["CONFIG SET requirepass {}"],
        &["MULTI", "ACL SETUSER default off", "EXEC"],
        &["MULTI", "CONFIG SET requirepass {}", "EXEC"],
    ];
    for (round, way) in ways.into_iter().cycle().take(20).enumerate() {
        eventually("newcomers are let in", || proxy.client().ask("SET k value") == b"+OK\r\n");
        way.iter().for_each(|line| drop(keeper.must(&line.replace("{}", &format!("secret{round}")))));
        for _ in 0..4 {
            let reply = proxy.client().ask("GET k");
            assert!(reply.starts_with(b"-NOAUTH"), "after {way:?}: {}", shown(&reply));
        }
        keeper.must("ACL SETUSER default on nopass");
    }
}

/// What others leave behind in the pools, or share, was made while no password was wanted.
#[test]
fn strangers_get_no_connection_that_others_have_opened_without_a_password() {
    let redis = Redis::start();
    let proxy = proxy_with_a_keeper(&redis, |proxy| proxy);
    let (mut old, mut sharer, mut occupant) = (proxy.client(), proxy.client(), proxy.client());
    occupant.must("SUBSCRIBE a");
    sharer.must("SUBSCRIBE a");
    assert_eq!(proxy.stat("hub_clients"), 1);
    for line in ["SET k value", "LPUSH list a b c", "MULTI", "EXEC", "BLPOP list 1", "GET k"] {
        old.must(line);
    }
    redis.client().must("ACL SETUSER default off");
    eventually("a newcomer is turned away", || proxy.client().ask("PING").starts_with(b"-NOAUTH"));
    let scripts: [&[&str]; 4] =
        [&["MULTI", "GET k", "EXEC"], &["WATCH k", "GET k"], &["BLPOP list 1"], &["SUBSCRIBE a"]];
    for script in scripts.into_iter().cycle().take(12) {
        let mut newcomer = proxy.client();
        for line in script {
            let reply = newcomer.ask(line);
            assert!(reply.starts_with(b"-"), "{line}: {}", shown(&reply));
        }
    }
}

/// A reply that comes when its client has become somebody else tells nothing of that user's rights.
#[test]
fn a_late_reply_gives_nobody_elses_rights() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("upstream.command_timeout", "200ms")
    });
    let mut outside = house.outside();
    outside.must("ACL SETUSER one on >p ~* +@all");
    outside.must("ACL SETUSER many on >p ~* +@all -get");
    outside.must("SET k value");
    house.proxy.wait_live();
    let mut client = house.client_of("one", "p");
    client.must("PING");
    // Nobody else knows of the pause, so that the read stays behind the write.
    outside.must("CLIENT PAUSE 100000 WRITE");
    let late = client.ask_all(&["SET other value", "GET k"]);
    assert!(late.iter().all(|reply| memchr::memmem::find(reply, b"command_timeout").is_some()));
    client.expect(b"+OK\r\n", &["AUTH", "many", "p"]);
    outside.must("CLIENT UNPAUSE");
    eventually("the write is late", || house.redis.client().ask("GET other") == bulk("value"));
    for _ in 0..10 {
        house.heat(&mut client, "MGET k");
        is_refused(&client.ask("GET k"));
    }
}

#[test]
fn a_password_that_is_set_through_here_is_wanted_at_once() {
    let sets: [&[&str]; 3] = [
        &["CONFIG SET requirepass secret"],
        &["ACL SETUSER default on resetpass >secret"],
        &["MULTI", "CONFIG SET requirepass secret", "EXEC"],
    ];
    for set in sets {
        let redis = Redis::start();
        redis.client().must("ACL SETUSER keeper on >k ~* &* +@all");
        let url = redis.url().replace("redis://", "redis://keeper:k@");
        let proxy = proxy().set("upstream.url", &url).set("upstream.health_check_interval", "1h").start();
        proxy.wait_live();
        let mut old = proxy.client();
        old.must("SET k value");
        old.ask_all(set);
        eventually("a newcomer is turned away", || proxy.client().ask("GET k").starts_with(b"-NOAUTH"));
        old.expect(&bulk("value"), &["GET", "k"]);
    }
}

#[test]
fn what_one_command_may_read_another_may_not_show() {
    let house = house_with_users();
    let mut outside = house.outside();
    outside.must("ACL SETUSER one on >p ~* +@all -mget");
    outside.must("ACL SETUSER many on >p ~* +@all -get");
    outside.must("ACL SETUSER length on >p ~* +@all -get -mget -getrange");
    let (mut one, mut many) = (house.client_of("one", "p"), house.client_of("many", "p"));
    let mut length = house.client_of("length", "p");
    outside.must("SET k value");
    for _ in 0..20 {
        house.heat(&mut one, "GET k");
        house.proxy.settle();
        is_refused(&one.ask("MGET k"));
        is_refused(&one.ask("MGET k other"));
        house.heat(&mut many, "MGET k");
        is_refused(&many.ask("GET k"));
        house.heat(&mut length, "STRLEN k");
        is_refused(&length.ask("GET k"));
        is_refused(&length.ask("GETRANGE k 0 -1"));
        outside.must("SET k value");
    }
    // A right that is lost: with the acknowledgement of who takes it away through here.
    let (mut root, mut both) = (house.client(), house.client_of("alice", "a"));
    for _ in 0..20 {
        root.must("ACL SETUSER alice +mget +get");
        house.heat(&mut both, "GET shared:k");
        house.heat(&mut both, "MGET shared:k");
        root.must("ACL SETUSER alice -mget");
        house.heat(&mut both, "GET shared:k");
        is_refused(&both.ask("MGET shared:k"));
        root.must("ACL SETUSER alice +mget -get");
        house.heat(&mut both, "MGET shared:k");
        is_refused(&both.ask("GET shared:k"));
    }
}

/// `%R~`, `%W~` and selectors (Redis 7.0): everything is hot for others, and for this user what it may read.
#[test]
fn patterns_and_selectors_hold_for_what_is_cached() {
    let house = house_with_users();
    let mut outside = house.outside();
    let rules = "ACL SETUSER picky on >p %R~read:* %W~write:* +@all (%R~list:* +lrange) (~both:* +get)";
    let rules: Vec<String> = rules.split(' ').map(str::to_owned).collect();
    // A selector has spaces in it.
    let (plain, selectors) = rules.split_at(8);
    let mut words = plain.to_vec();
    words.extend(selectors.chunks(2).map(|pair| pair.join(" ")));
    assert_eq!(shown(&outside.cmd(&words)), r"+OK\r\n");
    let mut root = house.client();
    root.must("MSET read:k r write:k w both:k b secret s");
    root.must("RPUSH list:k x y");
    let reads = [
        ("GET read:k", true),
        ("GET write:k", false),
        ("GET both:k", true),
        ("STRLEN both:k", false),
        ("GET secret", false),
        ("LRANGE list:k 0 -1", true),
        ("LINDEX list:k 0", false),
        ("LLEN list:k", false),
        ("MGET read:k", true),
        ("MGET read:k write:k", false),
        ("MGET read:k both:k", false),
        ("HGETALL secret", false),
        ("TYPE secret", false),
        ("EXISTS secret", false),
    ];
    let (mut picky, mut direct) = (house.client_of("picky", "p"), house.outside());
    direct.expect(b"+OK\r\n", &["AUTH", "picky", "p"]);
    for _ in 0..10 {
        for (read, may) in reads {
            root.ask(read);
            let replies = [picky.ask(read), picky.ask(read), direct.ask(read)];
            assert_eq!(!replies[2].starts_with(b"-NOPERM"), may, "{read}: {}", shown(&replies[2]));
            assert_eq!(shown(&replies[0]), shown(&replies[2]), "{read}");
            assert_eq!(shown(&replies[1]), shown(&replies[2]), "{read}, again");
        }
        picky.must("SET write:k again");
        root.expect(&bulk("again"), &["GET", "write:k"]);
    }
}

#[test]
fn channels_are_for_those_who_may_hear_them() {
    let house = house_with_users();
    house.outside().must("ACL SETUSER alice resetchannels &alice:*");
    let mut alice = house.client_of("alice", "a");
    for line in ["SUBSCRIBE bob:c", "PSUBSCRIBE *", "SSUBSCRIBE bob:c", "PUBLISH bob:c x", "SPUBLISH bob:c x"]
    {
        is_refused(&alice.ask(line));
    }
    alice.must("SUBSCRIBE alice:c");
    // Redis closes the connection of who hears what it may not hear any more.
    house.outside().must("ACL SETUSER alice resetchannels");
    assert_eq!(shown(&alice.recv_to_end()), "");
    is_refused(&house.client_of("alice", "a").ask("SUBSCRIBE alice:c"));
}

/// What is answered here is nobody's right for that.
#[test]
fn a_user_who_may_not_list_or_kill_clients_does_not() {
    let house = house_with_users();
    house.outside().must("ACL SETUSER alice -client|list -client|kill");
    let (mut alice, mut direct) = (house.client_of("alice", "a"), house.outside());
    direct.expect(b"+OK\r\n", &["AUTH", "alice", "a"]);
    let mut bob = house.client_of("bob", "b");
    for line in ["CLIENT LIST", "CLIENT LIST TYPE normal", "CLIENT KILL ID 1", "CLIENT KILL USER bob"] {
        let reply = alice.ask(line);
        assert_eq!(shown(&reply), shown(&direct.ask(line)), "{line}");
        is_refused(&reply);
    }
    bob.must("CLIENT LIST");
    bob.must("CLIENT GETNAME");
}

/// An address that fails again and again waits, and is refused here; who has been in before is not kept out by that.
#[test]
fn wrong_passwords_do_not_tire_the_upstream_out() {
    let house = house_with_users();
    drop(house.client_of("alice", "a"));
    let before = house.redis.calls("auth");
    let mut guessers: Vec<Client> = (0..3 * FAILURES_MAX).map(|_| house.client()).collect();
    let guess = |guessers: &mut [Client]| {
        for (number, guesser) in guessers.iter_mut().enumerate() {
            let password = format!("guess{number}");
            if number % 2 == 0 {
                guesser.send(&["AUTH", "alice", &password]);
            } else {
                guesser.send(&["HELLO", "3", "AUTH", "alice", &password]);
            }
        }
    };
    guess(&mut guessers);
    let replies: Vec<Vec<u8>> = guessers.iter_mut().map(Client::recv).collect();
    let wrong = replies.iter().filter(|reply| reply.starts_with(b"-WRONGPASS")).count();
    let throttled =
        replies.iter().filter(|reply| reply.starts_with(b"-ERR nearhit: too many failed auth")).count();
    assert_eq!(wrong + throttled, guessers.len());
    // A few more, where the machine is so slow that the first are forgiven before the last have come.
    assert!(throttled > 0 && wrong >= FAILURES_MAX, "{wrong} were judged, {throttled} were not");
    assert_eq!(house.redis.calls("auth") - before, wrong as u64);
    assert_eq!(house.proxy.stat("auth_failures"), wrong as u64);
    assert_eq!(house.proxy.stat("auth_throttled"), throttled as u64);
    // The same address, the same user, the right password, and a line of those who wait to try a wrong one.
    guess(&mut guessers);
    let mut alice = house.client_of("alice", "a");
    alice.must("GET alice:k");
    // Where it is said on a connection of the client's own, the same holds.
    alice.must("WATCH alice:k");
    alice.expect(b"+OK\r\n", &["AUTH", "alice", "a"]);
    let bob = alice.ask("AUTH bob guess");
    assert!(bob.starts_with(b"-ERR nearhit: too many") || bob.starts_with(b"-WRONGPASS"), "{}", shown(&bob));
    // A right password that nobody has used yet gets its turn.
    eventually("bob gets in", || house.client().ask("AUTH bob b") == b"+OK\r\n");
}

/// However many come at once: none of them fails.
#[test]
fn right_passwords_are_not_limited() {
    let house = house_with_users();
    for user in ["alice", "bob"] {
        let password = &user[..1];
        let mut clients: Vec<Client> = (0..50 * FAILURES_MAX).map(|_| house.client()).collect();
        clients.iter_mut().for_each(|client| client.send(&["AUTH", user, password]));
        for client in &mut clients {
            assert_eq!(shown(&client.recv()), r"+OK\r\n");
        }
    }
    assert_eq!(house.proxy.stat("auth_throttled"), 0);
}
