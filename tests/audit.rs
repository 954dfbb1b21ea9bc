//! What the operator sees of the promise while it is kept: hits that are read again, and how late changes made
//! elsewhere are heard of. That the auditor finds what is wrong is shown in `tests/mutations.rs`, in a proxy that has
//! something to be found.

mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, Proxy, ProxyBuilder, Redis, Relay, eventually, proxy};

/// For tests that want every hit they can get: no pause of a busy machine ends this lease.
const LONG_LEASE: &str = "10s";
/// How late pushes are where they are made late.
const PUSH_DELAY: Duration = Duration::from_millis(25);
const KEYS: usize = 6;

/// A Redis, a relay in front of it, and a proxy that audits every hit.
struct House {
    proxy: Proxy,
    relay: Relay,
    redis: Redis,
}

/// How the audits came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Audits {
    agreements: u64,
    explained: u64,
    violations: u64,
    inconclusive: u64,
    skipped: u64,
}

impl House {
    #[track_caller]
    fn start(configure: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Self {
        let redis = Redis::start();
        let relay = Relay::to(redis.addr());
        let builder = proxy().upstream_addr(relay.addr()).set("server.workers", "2");
        let builder = builder.set("audit.sample", "1.0").set("cache.max_staleness", LONG_LEASE);
        let proxy = configure(builder).start();
        proxy.wait_live();
        Self { proxy, relay, redis }
    }

    /// Reads until the reply comes from memory.
    #[track_caller]
    fn heat(&self, client: &mut Client, read: &str) {
        self.proxy.until_hit(read, || drop(ask(client, read)));
    }

    /// Once nothing is in flight any more.
    #[track_caller]
    fn audits(&self) -> Audits {
        eventually("every hit has been audited", || {
            let audits = Audits::of(&self.proxy);
            audits.total() >= self.proxy.stat("hits")
        });
        Audits::of(&self.proxy)
    }
}

impl Audits {
    #[track_caller]
    fn of(proxy: &Proxy) -> Self {
        let stats = proxy.stats();
        let stat = |name: &str| stats[&format!("audit_{name}")].parse().expect("a number");
        Self {
            agreements: stat("agreements"),
            explained: stat("explained"),
            violations: stat("violations"),
            inconclusive: stat("inconclusive"),
            skipped: stat("skipped"),
        }
    }

    fn total(self) -> u64 {
        self.agreements + self.explained + self.violations + self.inconclusive + self.skipped
    }
}

#[track_caller]
fn ask(client: &mut Client, line: &str) -> Vec<u8> {
    client.cmd(&line.split(' ').collect::<Vec<_>>())
}

/// As `ask`, of a command that cannot fail.
#[track_caller]
fn must(client: &mut Client, line: &str) -> Vec<u8> {
    let reply = ask(client, line);
    assert_ne!(reply[0], b'-', "{line}: {}", String::from_utf8_lossy(&reply));
    reply
}

/// Own and outside writes under swarms of readers, with pushes that come late: half of what is shown is stale by then,
/// and all of it within the promise.
#[test]
fn nothing_is_wrong_with_hits_that_a_late_push_explains() {
    let house = House::start(|proxy| proxy);
    house.relay.link().delay(0, PUSH_DELAY.as_millis() as u64);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for protocol in [2, 3, 2, 3] {
            let (house, is_over) = (&house, &is_over);
            scope.spawn(move || {
                let mut reader = house.proxy.client();
                reader.hello(protocol);
                let mut random = fastrand::Rng::new();
                while !is_over.load(Relaxed) {
                    let k = random.usize(..KEYS);
                    for read in
                        ["GET k{}", "STRLEN k{}", "HGETALL h{}", "HGET h{} f", "MGET k{} k0", "LRANGE l 0 -1"]
                    {
                        must(&mut reader, &read.replace("{}", &k.to_string()));
                    }
                }
            });
        }
        for mut writer in [house.proxy.client(), house.redis.client()] {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut random = fastrand::Rng::new();
                for round in 0.. {
                    if is_over.load(Relaxed) {
                        return;
                    }
                    let k = random.usize(..KEYS);
                    for write in
                        ["SET k{} {n}", "HSET h{} f {n} g{n} 1", "DEL k{}", "RPUSH l {n}", "LTRIM l -9 -1"]
                    {
                        let write = write.replace("{}", &k.to_string()).replace("{n}", &round.to_string());
                        must(&mut writer, &write);
                        thread::sleep(Duration::from_millis(random.u64(10..40)));
                    }
                }
            });
        }
        thread::sleep(Duration::from_secs(4));
        is_over.store(true, Relaxed);
    });
    let audits = house.audits();
    assert_eq!((audits.violations, audits.inconclusive), (0, 0), "{audits:?}");
    assert!(audits.agreements > 500 && audits.explained > 10, "{audits:?}");
}

#[test]
fn a_hit_that_was_true_agrees() {
    let house = House::start(|proxy| proxy);
    let mut client = house.proxy.client();
    must(&mut client, "SET k value");
    must(&mut client, "HSET h f 1 g 2");
    must(&mut client, "SET large value");
    must(&mut client, "SETRANGE large 100000 end");
    for protocol in [2, 3] {
        client.hello(protocol);
        for read in
            ["GET k", "get k", "GET missing", "HGETALL h", "GETRANGE k 1 2", "MGET k missing", "GET large"]
        {
            house.heat(&mut client, read);
        }
    }
    let audits = house.audits();
    assert_eq!((audits.agreements, audits.total()), (house.proxy.stat("hits"), house.proxy.stat("hits")));
}

/// The outside write has been made, and its push is on its way: the hit is stale, as it may be.
#[test]
fn a_difference_is_judged_when_all_before_it_has_been_heard_of() {
    let house = House::start(|proxy| proxy);
    let (mut client, mut outside) = (house.proxy.client(), house.redis.client());
    must(&mut client, "SET k old");
    house.heat(&mut client, "GET k");
    let before = house.audits();
    house.relay.link().hold_down(true);
    must(&mut outside, "SET k new");
    client.expect(b"$3\r\nold\r\n", &["GET", "k"]);
    thread::sleep(PUSH_DELAY);
    assert_eq!(Audits::of(&house.proxy), before, "nothing can be said yet");
    house.relay.link().hold_down(false);
    assert_eq!(house.audits(), Audits { explained: before.explained + 1, ..before });
}

#[test]
fn what_cannot_be_judged_is_counted_as_such() {
    let house = House::start(|proxy| proxy.set("upstream.command_timeout", "300ms"));
    let (mut client, mut outside) = (house.proxy.client(), house.redis.client());
    must(&mut client, "SET k old");
    house.heat(&mut client, "GET k");
    let inconclusive = || house.audits().inconclusive;
    let before = inconclusive();

    // The link dies under an audit that waits for it.
    house.relay.link().hold_down(true);
    must(&mut outside, "SET k new");
    client.expect(b"$3\r\nold\r\n", &["GET", "k"]);
    thread::sleep(PUSH_DELAY);
    house.relay.link().cut();
    house.relay.link().hold_down(false);
    eventually("the link is found to be dead", || inconclusive() == before + 1);

    // The lane does.
    house.proxy.wait_live();
    house.heat(&mut client, "GET k");
    let before = inconclusive();
    house.relay.others().hold_down(true);
    client.expect(b"$3\r\nnew\r\n", &["GET", "k"]);
    thread::sleep(PUSH_DELAY);
    house.relay.others().cut();
    house.relay.others().hold_down(false);
    assert_eq!(inconclusive(), before + 1);

    // The server says nothing for longer than a command may take.
    house.proxy.wait_live();
    house.heat(&mut client, "GET k");
    let before = inconclusive();
    house.relay.others().hold_up(true);
    client.expect(b"$3\r\nnew\r\n", &["GET", "k"]);
    assert_eq!(inconclusive(), before + 1);
    house.relay.others().hold_up(false);

    assert_eq!(house.audits().violations, 0);
}

/// More of them wait than may, and nobody waits for them.
#[test]
fn audits_in_flight_are_bounded() {
    let house = House::start(|proxy| proxy.set("server.workers", "1"));
    let mut client = house.proxy.client();
    must(&mut client, "SET k value");
    house.heat(&mut client, "GET k");
    let before = house.audits();
    house.relay.others().hold_down(true);
    for _ in 0..100 {
        client.expect(b"$5\r\nvalue\r\n", &["GET", "k"]);
    }
    eventually("the rest is skipped", || house.proxy.stat("audit_skipped") == before.skipped + 84);
    house.relay.others().hold_down(false);
    assert_eq!(house.audits().agreements, before.agreements + 16);
}

#[test]
fn without_tracking_a_difference_is_how_stale_hits_are() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("tracking.mode", "off").set("audit.sample", "1.0").start();
    let (mut client, mut outside) = (proxy.client(), redis.client());
    must(&mut client, "SET k old");
    must(&mut client, "GET k");
    must(&mut outside, "SET k new");
    client.expect(b"$3\r\nold\r\n", &["GET", "k"]);
    eventually("the hit is explained", || Audits::of(&proxy).explained == 1);
    assert_eq!(Audits::of(&proxy).violations, 0);
}

#[test]
fn a_share_of_the_hits_is_audited_and_none_if_so_said() {
    for (sample, expected) in [("0.0", 0..=0), ("0.1", 120..=290)] {
        let house = House::start(|proxy| proxy.set("audit.sample", sample));
        let mut client = house.proxy.client();
        must(&mut client, "SET k value");
        house.heat(&mut client, "GET k");
        for _ in 0..2_000 {
            client.expect(b"$5\r\nvalue\r\n", &["GET", "k"]);
        }
        house.proxy.settle();
        let total = Audits::of(&house.proxy).total();
        assert!(expected.contains(&total), "audit.sample = {sample}: {total} of 2000");
    }
}

#[test]
fn the_canary_measures_how_late_a_change_is_heard_of() {
    let house = House::start(|proxy| proxy.set("audit.canary_key", "nearhit:canary"));
    let stat = |name: &str| house.proxy.stat(&format!("staleness_{name}"));
    eventually("two changes were heard of", || stat("count") >= 2);
    let fast = stat("p50_us");
    assert!(fast > 0 && stat("p99_us") >= fast && stat("max_us") >= stat("p99_us"));

    let delay = Duration::from_millis(400);
    house.relay.link().delay(0, delay.as_millis() as u64);
    let before = stat("count");
    eventually("another was heard of", || stat("count") >= before + 2);
    assert!(Duration::from_micros(stat("max_us")) >= delay, "{} us", stat("max_us"));
    assert!(Duration::from_micros(fast) < delay, "{fast} us");

    // It is an ordinary key, with an expiry, and nothing but the push drops it.
    let mut outside = house.redis.client();
    let ttl = ask(&mut outside, "PTTL nearhit:canary");
    assert!(ttl.starts_with(b":5") && ttl.len() == b":59000\r\n".len() || ttl == b":60000\r\n", "{ttl:?}");
    assert_eq!(stat("missed"), 0);
}

#[test]
fn a_push_that_never_comes_is_counted() {
    let house = House::start(|proxy| proxy.set("audit.canary_key", "nearhit:canary"));
    let stat = |name: &str| house.proxy.stat(&format!("staleness_{name}"));
    eventually("a change was heard of", || stat("count") >= 1);
    house.relay.link().hold_down(true);
    let (sets, count) = (house.redis.calls("set"), stat("count"));
    eventually("the canary was written again", || house.redis.calls("set") > sets);
    thread::sleep(PUSH_DELAY);
    assert_eq!(house.redis.calls("set"), sets + 1, "one at a time");
    house.relay.link().cut();
    house.relay.link().hold_down(false);
    eventually("the loss is noted", || stat("missed") == 1);
    assert!(stat("count") <= count + 1);
    eventually("the next change is heard of", || stat("count") > count);
}

#[test]
fn without_a_canary_nothing_is_written() {
    let house = House::start(|proxy| proxy);
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!((house.redis.calls("set"), house.proxy.stat("staleness_count")), (0, 0));
}

#[test]
fn a_canary_that_may_not_be_written_is_told_of_once() {
    let redis = Redis::start();
    let mut outside = redis.client();
    let rights = "%R~* +info +ping +echo +command +select +touch +client|setname +client|tracking \
                  +client|no-evict +client|list +config|get";
    must(&mut outside, &format!("ACL SETUSER nearhit reset on >secret {rights}"));
    let start = || {
        let url = format!("redis://nearhit:secret@{}", redis.addr());
        let proxy = proxy().set("upstream.url", &url).set("audit.canary_key", "nearhit:canary").start();
        proxy.wait_live();
        proxy
    };
    let refused = start();
    let warnings = || refused.log().matches("audit.canary_key cannot be written").count();
    eventually("the refusal is logged", || warnings() == 1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(warnings(), 1);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((refused.stat("staleness_count"), refused.stat("staleness_missed")), (0, 0));

    // What the README says that it needs.
    must(&mut outside, "ACL SETUSER nearhit +set ~nearhit:canary");
    let allowed = start();
    eventually("staleness is measured", || allowed.stat("staleness_count") >= 1);
    assert_eq!(allowed.log().matches("audit.canary_key").count(), 0);
}
