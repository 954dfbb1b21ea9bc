//! What is done to the servers and to the connections between them while a history is being made.
//!
//! Most troubles strike and heal by turns. After each heal the proxy must have recovered by itself: a connection that
//! has stood all the time writes, reads what it wrote, and is answered from memory again. What else must hold is
//! the law's affair; where a trouble makes the law impossible, [`Trouble`] says what is left of it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::caller::Shared;
use super::generator::Load;
use super::outside::Outside;
use crate::common::resp::{payload, shown};
use crate::common::{Client, Proxy, ProxyBuilder, Redis, Relay, eventually};

/// Short, so that a value that is kept too long is soon noticed.
pub(crate) const MAX_STALENESS: Duration = Duration::from_millis(300);
pub(crate) const LINK_DELAY_MS: u64 = 25;
/// Longer than `MAX_STALENESS`, so that the lease lapses, and shorter than the second that a command may take.
const STALL_MS: std::ops::Range<u64> = 400..700;
/// In between, the cache is to be used.
const CALM_MS: std::ops::Range<u64> = 200..800;
/// The least of it.
const AFTERMATH: Duration = Duration::from_millis(150);
/// The contract says two seconds after the heal. A machine that is busy with other tests may take as long again.
const RECOVERY_MAX: Duration = Duration::from_secs(4);
/// Where the server says nothing, and its health check has to find out.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const HUGE_BYTES: usize = 100 << 20;
/// Keys with names of a megabyte, of which an invalidation is as large.
const LONG_NAMES: usize = 32;
/// A loop in Lua: scripts have no clock to go by. An idle machine makes about so many rounds, a busy one far fewer.
const SCRIPT_ROUNDS_PER_MS: u64 = 250_000;
/// A server with this much is full at once; the filler's values are a few hundred.
const MEMORY_MAX: &str = "8mb";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "tests/history.rs makes some, and tests/faults.rs others")]
pub(crate) enum Trouble {
    None,
    /// Invalidations come late.
    SlowLink,
    /// Lanes are slow by turns, so that replies overtake each other.
    Jitter,
    /// Redis closes lanes and exclusive connections.
    LanesDie,
    /// Redis closes the link, or nothing comes through it for longer than a lease.
    LinkFails,
    /// The link seems to stand, and everything on it is swallowed. It is never any use again.
    LinkBlackHole,
    /// As above, but everything between proxy and server, new connections too.
    BlackHole,
    /// As above, but one lane.
    LaneBlackHole,
    /// Everything is closed, and new connections are refused for a while.
    Cut,
    /// The server closes every connection of the proxy, one by one.
    Killed,
    /// The server is killed, and comes back empty. Writes from before are gone.
    RestartEmpty,
    /// The server is frozen for longer than a lease.
    ServerStopped,
    /// The proxy is.
    ProxyStopped,
    /// The server becomes a replica of another, with all that is in that, and then a master again. Its own is gone.
    Resync,
    /// The address leads to another server from now on, while the old one lives. Until the health check has found
    /// out, some are served by the one and some by the other.
    Moved,
    PauseAll,
    PauseWrites,
    /// Somebody deletes everything, again and again.
    Flushes,
    /// The server evicts keys: each may vanish at any time, but then it stays away until it is written again.
    Evictions,
    /// A script runs past `busy-reply-threshold`, right behind a write of somebody else, of which the server says
    /// nothing until the script ends.
    BusyScript,
    /// The server cannot save, and refuses writes.
    Misconf,
    /// Every byte is a segment of its own.
    Bytewise,
    /// 100 MB on a lane, and invalidations behind a push of 32 MB.
    Huge,
    /// Databases change places, elsewhere, of which the server says nothing: found by the health check.
    SwapDb,
    /// A user may read, and then may not: found by the health check.
    AclEdits,
    /// A field of a hash is given a time to live elsewhere. Needs Redis 7.4.
    FieldExpiry,
}

use Trouble::{
    AclEdits, BlackHole, BusyScript, Bytewise, Cut, Evictions, FieldExpiry, Flushes, Huge, Jitter, Killed,
    LaneBlackHole, LanesDie, LinkBlackHole, LinkFails, Misconf, Moved, PauseAll, PauseWrites, ProxyStopped,
    RestartEmpty, Resync, ServerStopped, SlowLink, SwapDb,
};

impl Trouble {
    /// Whether errors are part of it. Where they are not, each one is a violation.
    pub(crate) fn may_fail(self) -> bool {
        match self {
            LanesDie | BlackHole | LaneBlackHole | Cut | Killed | RestartEmpty | ServerStopped | Resync
            | Moved | BusyScript | Misconf => true,
            Self::None
            | SlowLink
            | Jitter
            | LinkFails
            | LinkBlackHole
            | ProxyStopped
            | PauseAll
            | PauseWrites
            | Flushes
            | Evictions
            | Bytewise
            | Huge
            | SwapDb
            | AclEdits
            | FieldExpiry => false,
        }
    }

    /// The share of the attacked keys' reads that must have been hits. Where the cache rightly rests for most of the run,
    /// it is less.
    pub(crate) fn hit_share_min(self) -> f64 {
        if matches!(self, BlackHole | LinkBlackHole | Resync | BusyScript) { 0.10 } else { 0.30 }
    }

    /// Whether it comes and goes. Then most of a run is waiting.
    pub(crate) fn strikes(self) -> bool {
        !matches!(self, Self::None | SlowLink | Jitter | LanesDie | LinkFails | Flushes)
    }

    /// The load under which the cache is still hit: what slows reads or certifications down leaves less to write.
    pub(crate) fn load(self) -> Load {
        let (tempo_ms, exec_reads, ranges, variants) = match self {
            Self::None => (0.5..40.0, 0.03, 0.24, 12),
            SlowLink => (40.0..400.0, 0.0002, 0.0006, 1),
            _ => (2.0..80.0, 0.01, 0.2, 4),
        };
        let (evicts, turns_per_flush) = (self == Evictions, self.turns_per_flush());
        Load { tempo_ms, exec_reads, ranges, variants, evicts, turns_per_flush }
    }

    pub(crate) fn start_redis(self) -> Redis {
        match self {
            Evictions => Redis::start_with(&["--maxmemory", MEMORY_MAX, "--maxmemory-policy", "allkeys-lru"]),
            BusyScript => Redis::start_with(&["--busy-reply-threshold", "20"]),
            _ => Redis::start(),
        }
    }

    /// The server that takes the other's place.
    pub(crate) fn start_other(self) -> Option<Redis> {
        let args = ["--repl-diskless-sync-delay", "0"];
        matches!(self, Resync | Moved).then(|| Redis::start_with(&args))
    }

    /// Timeouts short enough for a short run. That a fault is over within two seconds is also a matter of these: a dead
    /// link is given up after `max_staleness` and `fence_timeout`.
    pub(crate) fn configure(self, builder: ProxyBuilder) -> ProxyBuilder {
        if !self.strikes() {
            return builder;
        }
        // Where no error is part of the trouble, none is to come from a machine that is busy either.
        let patience = if self.may_fail() { "1s" } else { "3s" };
        let builder = builder
            .set("cache.max_staleness", &format!("{}ms", MAX_STALENESS.as_millis()))
            .set("coherence.fence_timeout", "1s")
            .set("upstream.command_timeout", patience)
            .set("upstream.connect_timeout", patience)
            .set("upstream.dial_timeout", "500ms");
        match self {
            SwapDb | AclEdits | FieldExpiry | Moved => {
                builder.set("upstream.health_check_interval", &format!("{}s", CHECK_INTERVAL.as_secs()))
            }
            _ => builder,
        }
    }

    /// One author's turn in so many is to delete everything. Where a strike looks for keys of its own, none.
    fn turns_per_flush(self) -> Option<u16> {
        match self {
            Flushes => Some(100),
            _ => (!self.strikes()).then_some(1_500),
        }
    }

    /// Whether what was acknowledged may be gone in the end.
    pub(crate) fn loses(self) -> bool {
        matches!(self, RestartEmpty | Resync | Moved | SwapDb | Flushes | Evictions)
    }
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

/// Where it happens.
pub(crate) struct Scene<'a> {
    pub(crate) redis: &'a Redis,
    pub(crate) other: Option<&'a Redis>,
    pub(crate) proxy: &'a Proxy,
    pub(crate) relay: &'a Relay,
    pub(crate) shared: &'a Shared,
    pub(crate) is_over: &'a AtomicBool,
    /// Gives up all keys for new ones.
    pub(crate) retire: &'a (dyn Fn() + Sync),
    /// When everything was mended, if that was before the strike returned.
    pub(crate) healed: Cell<Option<Instant>>,
}

/// Until it is over. Everything is whole again when this returns.
pub(crate) fn make(scene: &Scene<'_>, trouble: Trouble, random: &mut Rng) {
    let strike: fn(&Scene<'_>, &mut Rng) = match trouble {
        // Its authors do it: the history has to know.
        Trouble::None | Flushes => return,
        SlowLink => return scene.relay.link().delay(0, LINK_DELAY_MS),
        Jitter => return jitter(scene, random),
        LanesDie => return lanes_die(scene, random),
        LinkFails => return link_fails(scene, random),
        LinkBlackHole => link_black_hole,
        BlackHole => black_hole,
        LaneBlackHole => lane_black_hole,
        Cut => cut,
        Killed => killed,
        RestartEmpty => restart_empty,
        ServerStopped => server_stopped,
        ProxyStopped => proxy_stopped,
        Resync => resync,
        Moved => moved,
        PauseAll => |scene, random| pause(scene, random, "ALL"),
        PauseWrites => |scene, random| pause(scene, random, "WRITE"),
        Evictions => evictions,
        BusyScript => busy_scripts,
        Misconf => misconf,
        Bytewise => bytewise,
        Huge => huge,
        SwapDb => swap_db,
        AclEdits => acl_edits,
        FieldExpiry => field_expiry,
    };
    let mut witness = Witness::new(scene);
    sleep_ms(random, 50..200);
    loop {
        scene.shared.is_striking.store(true, Relaxed);
        strike(scene, random);
        witness.recovers();
        // What follows is to be seen, too.
        thread::sleep(AFTERMATH);
        scene.shared.is_striking.store(false, Relaxed);
        if !scene.goes_on() {
            return;
        }
        sleep_ms(random, CALM_MS);
    }
}

impl<'a> Scene<'a> {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    fn outside(&self) -> Outside<'a> {
        Outside::new(self.relay)
    }

    /// From here on what was written is lost, and what is read is from before or after: until [`Self::regains`],
    /// histories are not judged.
    fn loses(&self) {
        self.shared.losses.begin();
        (self.retire)();
    }

    fn regains(&self) {
        self.shared.losses.end();
        (self.retire)();
    }

    /// Reads a key through the proxy until it is what it has to be, which is a promise with a time.
    fn shows(&self, client: &mut Client, request: &[&str], wanted: &[u8], within: Duration) {
        let began = Instant::now();
        loop {
            let reply = client.cmd(request);
            if reply.starts_with(wanted) {
                return;
            }
            if began.elapsed() > within {
                let (reply, wanted) = (shown(&reply), shown(wanted));
                return self.complain(&format!("{request:?} is {reply} for {within:?}, not {wanted}"));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Reads a key that is gone since then, until that shows. What was there must not be shown for longer than any other
    /// change elsewhere.
    fn forgets(&self, client: &mut Client, key: &str, old: &[u8], since: Instant) {
        while since.elapsed() <= RECOVERY_MAX {
            let asked_after = since.elapsed();
            let reply = client.cmd(&["GET", key]);
            if reply.starts_with(b"$-1") {
                return;
            }
            if reply.starts_with(old) && asked_after > MAX_STALENESS {
                return self.complain(&format!("{key} is shown {asked_after:?} after it has gone"));
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.complain(&format!("{key} is not read {RECOVERY_MAX:?} after it has gone"));
    }

    fn complain(&self, fault: &str) {
        self.shared.complain(fault.to_owned());
        self.is_over.store(true, Relaxed);
    }
}

/// A client that was there before, and is to be served again after.
struct Witness<'a> {
    scene: &'a Scene<'a>,
    client: Client,
    number: u64,
}

impl<'a> Witness<'a> {
    fn new(scene: &'a Scene<'a>) -> Self {
        Self { scene, client: scene.proxy.client(), number: 0 }
    }

    /// Whatever was broken has just been mended.
    fn recovers(&mut self) {
        let healed = self.scene.healed.take().unwrap_or_else(Instant::now);
        let mut missing = "an answer";
        while healed.elapsed() < RECOVERY_MAX {
            match self.is_served() {
                Ok(()) => return self.scene.shared.recovered(healed.elapsed()),
                Err(what) => missing = what,
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.scene.complain(&format!("no {missing} {RECOVERY_MAX:?} after everything was mended"));
    }

    fn is_served(&mut self) -> Result<(), &'static str> {
        self.number += 1;
        let (key, value) = (format!("witness:{}", self.number), "x".repeat(1 + self.number as usize % 50));
        let length = format!(":{}\r\n", value.len());
        let mut ask = |request: &[&str], what: &'static str| {
            self.client.send(request);
            self.client.try_recv().map_err(|_| what)
        };
        if ask(&["SET", &key, &value], "reply to a write")? != b"+OK\r\n" {
            return Err("write that succeeds");
        }
        if ask(&["STRLEN", &key], "reply to a read")? != length.as_bytes() {
            return Err("read of what was written");
        }
        // Nobody else asks for lengths: what the server did not count was answered from memory.
        let before = calls(self.scene, "strlen");
        let again = ask(&["STRLEN", &key], "reply to a second read")?;
        let is_hit = again == length.as_bytes() && before.is_some() && calls(self.scene, "strlen") == before;
        if is_hit { Ok(()) } else { Err("hit") }
    }
}

/// How often the server ran a command, by its own count.
fn calls(scene: &Scene<'_>, command: &str) -> Option<u64> {
    let statistics = scene.outside().text("INFO commandstats");
    let prefix = format!("cmdstat_{command}:calls=");
    let rest = statistics.lines().find_map(|line| line.strip_prefix(&prefix))?;
    rest.split(',').next()?.parse().ok()
}

fn jitter(scene: &Scene<'_>, random: &mut Rng) {
    while scene.goes_on() {
        let mut delay = || random.choice([0, 0, 1, 3, 8]).expect("there are some");
        scene.relay.others().delay(delay(), delay());
        sleep_ms(random, 1..6);
    }
}

fn lanes_die(scene: &Scene<'_>, random: &mut Rng) {
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

fn link_fails(scene: &Scene<'_>, random: &mut Rng) {
    let mut redis = scene.redis.client();
    while scene.goes_on() {
        sleep_ms(random, 100..400);
        if random.bool() {
            kill(&mut redis, "nearhit-link", random);
        } else {
            scene.relay.link().hold_down(true);
            sleep_ms(random, 450..451);
            scene.relay.link().hold_down(false);
        }
    }
}

fn link_black_hole(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.link().black_hole(true);
    sleep_ms(random, STALL_MS);
    scene.relay.link().black_hole(false);
}

/// Short ones, and some that commands do not outlast.
fn black_hole(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.all().black_hole(true);
    sleep_ms(random, 300..1_500);
    scene.relay.all().black_hole(false);
}

fn lane_black_hole(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.lose_a_lane();
    sleep_ms(random, 1..100);
}

fn cut(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.refuse(random.bool());
    scene.relay.all().cut();
    sleep_ms(random, 1..300);
    scene.relay.refuse(false);
    scene.relay.all().cut();
}

fn killed(scene: &Scene<'_>, random: &mut Rng) {
    let mut redis = scene.redis.client();
    let mut ids = connections(&mut redis, " name=nearhit-");
    random.shuffle(&mut ids);
    for id in ids {
        // It may have closed by itself.
        redis.cmd(&["CLIENT", "KILL", "ID", &id]);
        sleep_ms(random, 0..20);
    }
}

fn restart_empty(scene: &Scene<'_>, random: &mut Rng) {
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

fn server_stopped(scene: &Scene<'_>, random: &mut Rng) {
    scene.redis.stop();
    sleep_ms(random, STALL_MS);
    scene.redis.cont();
}

/// The proxy has slept through a change. Who asks while it sleeps must not be told what it knew before.
fn proxy_stopped(scene: &Scene<'_>, random: &mut Rng) {
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

fn resync(scene: &Scene<'_>, random: &mut Rng) {
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
fn moved(scene: &Scene<'_>, random: &mut Rng) {
    let other = scene.other.expect("it was started");
    let target = if scene.relay.target() == other.addr() { scene.redis } else { other };
    let mark = random.u32(..).to_string();
    let mut client = scene.proxy.client();
    target.client().expect(b"+OK\r\n", &["SET", "where", &mark]);
    scene.loses();
    scene.relay.move_to(target.addr());
    let wanted = format!("${}\r\n{mark}", mark.len());
    scene.shows(&mut client, &["GET", "where"], wanted.as_bytes(), CHECK_INTERVAL + RECOVERY_MAX);
    thread::sleep(Duration::from_millis(100));
    scene.regains();
}

fn pause(scene: &Scene<'_>, random: &mut Rng, whom: &str) {
    let ms = random.u64(STALL_MS);
    scene.outside().must(&format!("CLIENT PAUSE {ms} {whom}"));
    thread::sleep(Duration::from_millis(ms));
}

/// Fills the memory, over and over.
fn evictions(scene: &Scene<'_>, random: &mut Rng) {
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
fn busy_scripts(scene: &Scene<'_>, random: &mut Rng) {
    scene.shared.is_chased.store(true, Relaxed);
    sleep_ms(random, 50..250);
    scene.shared.is_chased.store(false, Relaxed);
    // Some laws have no such writers. Refused while another one is running.
    let mut outside = scene.outside();
    outside.ask_all(&[busy_script(random)]);
    eventually("the last script has ended", || outside.ask("PING").is_some());
}

fn misconf(scene: &Scene<'_>, random: &mut Rng) {
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

fn bytewise(scene: &Scene<'_>, random: &mut Rng) {
    scene.relay.all().bytewise(true);
    sleep_ms(random, STALL_MS);
    scene.relay.all().bytewise(false);
}

fn huge(scene: &Scene<'_>, random: &mut Rng) {
    let mut outside = scene.outside();
    outside.must(&format!("SETRANGE huge {} x", HUGE_BYTES - 1));
    let mut client = scene.proxy.client();
    client.send(&["GET", "huge"]);
    sleep_ms(random, 0..20);
    let mut request = vec!["MSET".to_owned()];
    for number in 0..LONG_NAMES {
        request.extend([format!("{number}").repeat((1 << 20) / 2), String::new()]);
    }
    outside.ask_all(&[request.clone()]).expect("there is memory enough");
    let reply = client.recv();
    if payload(&reply).len() != HUGE_BYTES {
        scene.complain(&format!("{} bytes of {HUGE_BYTES} came", reply.len()));
    }
    "DEL".clone_into(&mut request[0]);
    outside.ask_all(&[request]);
    outside.must("DEL huge");
}

fn swap_db(scene: &Scene<'_>, random: &mut Rng) {
    let (mut client, mut outside) = (scene.proxy.client(), scene.outside());
    let sides = [random.u32(..).to_string(), random.u32(..).to_string()];
    scene.loses();
    let requests =
        ["SELECT 1", &format!("SET side {}", sides[1]), "SELECT 0", &format!("SET side {}", sides[0])];
    requests.iter().for_each(|line| drop(outside.must(line)));
    for (side, is_last) in [(0, false), (1, false), (0, true)] {
        let wanted = format!("${}\r\n{}", sides[side].len(), sides[side]);
        scene.shows(&mut client, &["GET", "side"], wanted.as_bytes(), CHECK_INTERVAL + RECOVERY_MAX);
        if !is_last {
            outside.must("SWAPDB 0 1");
        }
    }
    scene.regains();
}

/// Another user's rights are nobody else's trouble: the others get no errors, and are held to the law.
fn acl_edits(scene: &Scene<'_>, random: &mut Rng) {
    let mut outside = scene.outside();
    let user = format!("user{}", random.u32(..));
    outside.must(&format!("ACL SETUSER {user} on >secret ~* +@all"));
    outside.must("SET secret told");
    let mut client = scene.proxy.client();
    client.expect(b"+OK\r\n", &["AUTH", &user, "secret"]);
    for _ in 0..2 {
        scene.shows(&mut client, &["GET", "secret"], b"$", CHECK_INTERVAL + RECOVERY_MAX);
        outside.must(&format!("ACL SETUSER {user} -get"));
        scene.shows(&mut client, &["GET", "secret"], b"-NOPERM", CHECK_INTERVAL + RECOVERY_MAX);
        outside.must(&format!("ACL SETUSER {user} +get"));
    }
    outside.must(&format!("ACL DELUSER {user}"));
}

/// Neither the hash's own time to live nor its value tells of it.
fn field_expiry(scene: &Scene<'_>, random: &mut Rng) {
    let (mut client, mut outside) = (scene.proxy.client(), scene.outside());
    let key = format!("hash:{}", random.u32(..));
    let read: [&str; 3] = ["HGET", &key, "field"];
    outside.must(&format!("HSET {key} field value other value"));
    scene.shows(&mut client, &read, b"$5\r\nvalue", RECOVERY_MAX);
    let ms = random.u64(50..400);
    outside.must(&format!("HPEXPIRE {key} {ms} FIELDS 1 field"));
    thread::sleep(Duration::from_millis(ms));
    // While any field expires, hashes live for a second at most; until that is known, for as long as the check takes.
    scene.shows(&mut client, &read, b"$-1", Duration::from_secs(1) + CHECK_INTERVAL + RECOVERY_MAX);
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

fn sleep_ms(random: &mut Rng, range: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(random.u64(range)));
}
