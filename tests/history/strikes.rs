//! One strike of each trouble, from the breaking to the mending. What has to hold meanwhile and afterwards, beside the law
//! of the history, is checked in here as well.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::outside::Outside;
use super::trouble::{FOUND_MAX, RECOVERY_MAX, Scene};
use crate::common::resp::{payload, shown};
use crate::common::{Client, Relay, eventually};

/// Longer than `MAX_STALENESS`, so that the lease lapses, and shorter than the second that a command may take.
const STALL_MS: std::ops::Range<u64> = 400..700;
const HUGE_BYTES: usize = 100 << 20;
/// Keys with names of a megabyte, of which an invalidation is as large.
const LONG_NAMES: usize = 32;
/// A loop in Lua: scripts have no clock to go by. An idle machine makes about so many rounds, a busy one far fewer.
const SCRIPT_ROUNDS_PER_MS: u64 = 250_000;

pub(super) fn jitter(scene: &Scene<'_>, random: &mut Rng) {
    while scene.goes_on() {
        let mut delay = || random.choice([0, 0, 1, 3, 8]).expect("there are some");
        scene.relay.others().delay(delay(), delay());
        sleep_ms(random, 1..6);
    }
}

pub(super) fn lanes_die(scene: &Scene<'_>, random: &mut Rng) {
    // So that there is something in flight.
    scene.relay.others().delay(1, 1);
    let mut redis = scene.redis.client();
    while scene.goes_on() {
        sleep_ms(random, 10..50);
        match random.u8(0..10) {
            // What Redis had done already stays unanswered.
            0 => scene.relay.others().cut(),
            1..4 => kill(&mut redis, "nearhit-transaction", random),
            _ => kill(&mut redis, "nearhit-lane", random),
        }
    }
}

pub(super) fn link_fails(scene: &Scene<'_>, random: &mut Rng) {
    let mut redis = scene.redis.client();
    while scene.goes_on() {
        // Most of the time there is to be a link, or nothing is hit.
        sleep_ms(random, 200..600);
        if random.bool() {
            kill(&mut redis, "nearhit-link", random);
        } else {
            scene.relay.link().hold_down(true);
            sleep_ms(random, 450..451);
            scene.relay.link().hold_down(false);
        }
    }
}

pub(super) fn link_black_hole(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.link().black_hole(true);
    sleep_ms(random, STALL_MS);
    scene.relay.link().black_hole(false);
}

/// Short ones, and some that commands do not outlast.
pub(super) fn black_hole(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.all().black_hole(true);
    sleep_ms(random, 300..1_500);
    scene.relay.all().black_hole(false);
}

pub(super) fn lane_black_hole(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.lose_a_lane();
    sleep_ms(random, 1..100);
}

pub(super) fn cut(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.refuse(random.bool());
    scene.relay.all().cut();
    sleep_ms(random, 1..300);
    scene.relay.refuse(false);
    scene.relay.all().cut();
}

pub(super) fn killed(scene: &Scene<'_>, random: &mut Rng) {
    let mut redis = scene.redis.client();
    let mut ids = connections(&mut redis, " name=nearhit-");
    random.shuffle(&mut ids);
    for id in ids {
        // It may have closed by itself.
        redis.cmd(&["CLIENT", "KILL", "ID", &id]);
        sleep_ms(random, 0..20);
    }
}

/// What was in memory must not be shown for longer than any other change elsewhere.
pub(super) fn restart_empty(scene: &Scene<'_>, random: &mut Rng) {
    let mut client = scene.proxy.client();
    scene.loses();
    scene.outside().must("SET relic old");
    scene.shows(&mut client, &["GET", "relic"], b"$3\r\nold", RECOVERY_MAX);
    scene.redis.kill9();
    let killed = Instant::now();
    sleep_ms(random, 0..300);
    scene.redis.restart_empty();
    // Whatever is acknowledged from here on stays.
    scene.regains();
    scene.healed.set(Some(Instant::now()));
    scene.forgets(&mut client, "relic", b"$3\r\nold", killed);
}

pub(super) fn server_stopped(scene: &Scene<'_>, random: &mut Rng) {
    scene.redis.stop();
    sleep_ms(random, STALL_MS);
    scene.redis.cont();
}

/// The proxy has slept through a change. Who asks while it sleeps must not be told what it knew before.
pub(super) fn proxy_stopped(scene: &Scene<'_>, random: &mut Rng) {
    let (mut client, mut outside) = (scene.proxy.client(), scene.outside());
    let [before, after] = [random.u32(..).to_string(), random.u32(..).to_string()];
    outside.must(&format!("SET dream {before}"));
    for _ in 0..10 {
        client.cmd(&["GET", "dream"]);
    }
    scene.proxy.stop();
    outside.must(&format!("SET dream {after}"));
    sleep_ms(random, STALL_MS);
    client.send(&["GET", "dream"]);
    thread::sleep(Duration::from_millis(5));
    scene.proxy.cont();
    let reply = client.recv();
    if payload(&reply) != after.as_bytes() {
        scene.complain(&format!("woken, the proxy told {} and not {after}", shown(&reply)));
    }
}

pub(super) fn resync(scene: &Scene<'_>, random: &mut Rng) {
    let mut redis = Outside::new(scene.relay);
    let other = scene.other.expect("it was started").port();
    let mut client = scene.proxy.client();
    scene.loses();
    redis.must("SET relic old");
    scene.shows(&mut client, &["GET", "relic"], b"$3\r\nold", RECOVERY_MAX);
    redis.must(&format!("REPLICAOF 127.0.0.1 {other}"));
    eventually("the replica is in step", || redis.text("INFO replication").contains("master_link_status:up"));
    let gone = Instant::now();
    sleep_ms(random, 50..300);
    redis.must("REPLICAOF NO ONE");
    scene.healed.set(Some(Instant::now()));
    scene.forgets(&mut client, "relic", b"$3\r\nold", gone);
    scene.regains();
}

/// To and fro. When the new server's contents are shown, nobody is sent to the old one any more, but for what was on
/// its way.
pub(super) fn moved(scene: &Scene<'_>, random: &mut Rng) {
    let other = scene.other.expect("it was started");
    let target = if scene.relay.target() == other.addr() { scene.redis } else { other };
    let mark = random.u32(..).to_string();
    let mut client = scene.proxy.client();
    target.client().expect(b"+OK\r\n", &["SET", "where", &mark]);
    scene.loses();
    scene.relay.move_to(target.addr());
    let wanted = format!("${}\r\n{mark}", mark.len());
    scene.shows(&mut client, &["GET", "where"], wanted.as_bytes(), FOUND_MAX);
    thread::sleep(Duration::from_millis(100));
    scene.regains();
}

pub(super) fn pause(scene: &Scene<'_>, random: &mut Rng, whom: &str) {
    let ms = random.u64(STALL_MS);
    scene.outside().must(&format!("CLIENT PAUSE {ms} {whom}"));
    thread::sleep(Duration::from_millis(ms));
}

/// Fills the memory, over and over.
pub(super) fn evictions(scene: &Scene<'_>, random: &mut Rng) {
    let mut outside = scene.outside();
    let evicted = |outside: &mut Outside<'_>| {
        let text = outside.text("INFO stats");
        let line = text.lines().find_map(|line| line.strip_prefix("evicted_keys:"));
        line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    let before = evicted(&mut outside);
    for _ in 0..60 {
        let value = "f".repeat(20_000);
        let sets = (0..20).map(|_| vec!["SET".to_owned(), format!("fill:{}", random.u32(..)), value.clone()]);
        outside.ask_all(&sets.collect::<Vec<_>>());
        sleep_ms(random, 1..6);
    }
    assert!(evicted(&mut outside) > before + 100, "memory was not full");
}

/// Whoever writes past the proxy now has a script behind it.
pub(super) fn busy_scripts(scene: &Scene<'_>, random: &mut Rng) {
    scene.shared.is_chased.store(true, Relaxed);
    sleep_ms(random, 50..250);
    scene.shared.is_chased.store(false, Relaxed);
    // Some laws have no such writers. Refused while another one is running.
    let mut outside = scene.outside();
    outside.ask_all(&[busy_script(random)]);
    drop(scene.shared.chases.write());
    eventually("the last script has ended", || outside.ask("PING").is_some());
}

pub(super) fn misconf(scene: &Scene<'_>, random: &mut Rng) {
    let mut redis = scene.outside();
    let home = scene.redis.directory();
    let gone = home.join("gone");
    std::fs::create_dir_all(&gone).expect("a directory in the server's own");
    redis.must(&format!("CONFIG SET dir {}", gone.display()));
    std::fs::remove_dir(&gone).expect("it is empty");
    let saving = ["CONFIG", "SET", "save", "3600 1000000", "stop-writes-on-bgsave-error", "yes"];
    redis.ask_all(&[saving.to_vec()]).expect("the server takes it");
    redis.must("BGSAVE");
    let saved = |redis: &mut Outside<'_>, how: &str| {
        redis.text("INFO persistence").contains(&format!("rdb_last_bgsave_status:{how}"))
    };
    eventually("saving fails", || saved(&mut redis, "err"));
    let mut client = scene.proxy.client();
    scene.shows(&mut client, &["SET", "refused", "1"], b"-MISCONF", RECOVERY_MAX);
    sleep_ms(random, STALL_MS);
    redis.must(&format!("CONFIG SET dir {}", home.display()));
    redis.must("BGSAVE");
    eventually("saving works", || saved(&mut redis, "ok"));
}

pub(super) fn bytewise(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.all().bytewise(true);
    sleep_ms(random, STALL_MS);
    scene.relay.all().bytewise(false);
}

pub(super) fn huge(scene: &Scene<'_>, random: &mut Rng) {
    let mut outside = scene.outside();
    outside.must(&format!("SETRANGE huge {} x", HUGE_BYTES - 1));
    let mut client = scene.proxy.client();
    client.send(&["GET", "huge"]);
    // At once, or it might be cut off, since others wait behind the reply.
    let reader = thread::spawn(move || client.recv());
    sleep_ms(random, 0..20);
    let mut request = vec!["MSET".to_owned()];
    for number in 0..LONG_NAMES {
        request.extend([format!("{number}").repeat((1 << 20) / 2), String::new()]);
    }
    outside.ask_all(&[request.clone()]).expect("there is memory enough");
    let reply = reader.join().expect("it came");
    if payload(&reply).len() != HUGE_BYTES {
        scene.complain(&format!("{} bytes of {HUGE_BYTES} came", reply.len()));
    }
    "DEL".clone_into(&mut request[0]);
    outside.ask_all(&[request]);
    outside.must("DEL huge");
}

pub(super) fn swap_db(scene: &Scene<'_>, random: &mut Rng) {
    let (mut client, mut outside) = (scene.proxy.client(), scene.outside());
    let sides = [random.u32(..).to_string(), random.u32(..).to_string()];
    scene.loses();
    let requests =
        ["SELECT 1", &format!("SET side {}", sides[1]), "SELECT 0", &format!("SET side {}", sides[0])];
    requests.iter().for_each(|line| drop(outside.must(line)));
    for (side, is_last) in [(0, false), (1, false), (0, true)] {
        let wanted = format!("${}\r\n{}", sides[side].len(), sides[side]);
        scene.shows(&mut client, &["GET", "side"], wanted.as_bytes(), FOUND_MAX);
        if !is_last {
            // What this client sees next does not tell that all have found out: it may have asked the server.
            let generation = scene.proxy.stat("generation");
            outside.must("SWAPDB 0 1");
            eventually("the swap is found", || scene.proxy.stat("generation") > generation);
        }
    }
    scene.regains();
}

/// Another user's rights are nobody else's trouble: the others get no errors, and are held to the law.
pub(super) fn acl_edits(scene: &Scene<'_>, random: &mut Rng) {
    let mut outside = scene.outside();
    let user = format!("user{}", random.u32(..));
    outside.must(&format!("ACL SETUSER {user} on >secret ~* +@all"));
    outside.must("SET secret told");
    let mut client = scene.proxy.client();
    client.expect(b"+OK\r\n", &["AUTH", &user, "secret"]);
    for _ in 0..2 {
        scene.shows(&mut client, &["GET", "secret"], b"$", FOUND_MAX);
        outside.must(&format!("ACL SETUSER {user} -get"));
        scene.shows(&mut client, &["GET", "secret"], b"-NOPERM", FOUND_MAX);
        outside.must(&format!("ACL SETUSER {user} +get"));
    }
    outside.must(&format!("ACL DELUSER {user}"));
}

/// Neither the hash's own time to live nor its value tells of it.
pub(super) fn field_expiry(scene: &Scene<'_>, random: &mut Rng) {
    let (mut client, mut outside) = (scene.proxy.client(), scene.outside());
    let key = format!("hash:{}", random.u32(..));
    let read: [&str; 3] = ["HGET", &key, "field"];
    outside.must(&format!("HSET {key} field value other value"));
    scene.shows(&mut client, &read, b"$5\r\nvalue", RECOVERY_MAX);
    let ms = random.u64(50..400);
    outside.must(&format!("HPEXPIRE {key} {ms} FIELDS 1 field"));
    thread::sleep(Duration::from_millis(ms));
    // While any field expires, hashes live for a second at most; until that is known, for as long as the check takes.
    scene.shows(&mut client, &read, b"$-1", Duration::from_secs(1) + FOUND_MAX);
}

/// Runs for longer than a lease.
fn busy_script(random: &mut Rng) -> Vec<String> {
    let rounds = random.u64(STALL_MS) * SCRIPT_ROUNDS_PER_MS;
    let script = format!("for i = 1, {rounds} do end return 1");
    vec!["EVAL".to_owned(), script, "0".to_owned()]
}

/// The numbers of the connections whose line in CLIENT LIST holds this.
fn connections(redis: &mut Client, field: &str) -> Vec<String> {
    let list = redis.text(&["CLIENT", "LIST"]);
    let lines = list.lines().filter(|line| line.contains(field));
    lines.filter_map(|line| Some(line.strip_prefix("id=")?.split(' ').next()?.to_owned())).collect()
}

/// Closes one of the proxy's connections of this name, from the server's side.
fn kill(redis: &mut Client, name: &str, random: &mut Rng) {
    if let Some(id) = random.choice(connections(redis, &format!(" name={name} "))) {
        // It may have closed by itself.
        redis.cmd(&["CLIENT", "KILL", "ID", &id]);
    }
}

pub(super) fn sleep_ms(random: &mut Rng, range: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(random.u64(range)));
}

/// What comes right behind an outside write, so that it is acknowledged and not announced.
///
/// A long script that the server comes to in the same turn of its loop as to somebody's write before it. It passes that one's
/// reply on while the script runs, but invalidations only at the end of the turn. (A write on the script's own connection
/// would not do: nothing is sent on that meanwhile.)
pub(crate) struct Chaser<'a> {
    holder: Outside<'a>,
    runner: Outside<'a>,
    script: Vec<String>,
}

impl<'a> Chaser<'a> {
    pub(crate) fn new(relay: &'a Relay, random: &mut Rng) -> Self {
        Self { holder: Outside::new(relay), runner: Outside::new(relay), script: busy_script(random) }
    }

    /// Sends what `write` does, and the script behind it.
    pub(crate) fn follow<R>(&mut self, write: impl FnOnce() -> R) -> R {
        self.runner.ask("PING");
        // While it sleeps, both arrive.
        self.holder.send(&[["DEBUG", "SLEEP", "0.01"]]);
        thread::sleep(Duration::from_millis(2));
        let written = write();
        self.runner.send(&[self.script.as_slice()]);
        written
    }

    /// Until the script has ended.
    pub(crate) fn wait(mut self) {
        self.runner.reply();
    }
}
