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

use super::caller::{Errors, Shared};
use super::generator::Load;
use super::outside::Outside;
use super::strikes;
use crate::common::resp::shown;
use crate::common::{Client, Proxy, ProxyBuilder, Redis, Relay, ms};

/// Short, so that a value that is kept too long is soon noticed.
pub(crate) const MAX_STALENESS: Duration = Duration::from_millis(300);
pub(crate) const LINK_DELAY_MS: u64 = 25;
/// In between, the cache is to be used.
const CALM_MS: std::ops::Range<u64> = 200..800;
/// The least of it.
const AFTERMATH: Duration = Duration::from_millis(150);
/// What a machine may add to whatever has a limit. Two cores that compile at the same time have been seen to take a second
/// and a half for what takes one.
const BUSY_ALLOWANCE: Duration = Duration::from_secs(2);
/// The contract says two seconds after the heal, and `scripts/soak` holds the proxy to them: it has the machine for
/// itself. These runs have not.
pub(super) const RECOVERY_MAX: Duration = Duration::from_secs(2).saturating_add(BUSY_ALLOWANCE);
const FENCE_TIMEOUT: Duration = Duration::from_secs(1);
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Where the server says nothing, and the proxy's health check has to find out.
pub(super) const FOUND_MAX: Duration = CHECK_INTERVAL.saturating_add(BUSY_ALLOWANCE);
/// A server with this much is full at once; the filler's values are a few hundred.
const MEMORY_MAX: &str = "8mb";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub(crate) fn errors(self) -> Errors {
        match self {
            // Lanes die all the time, and one in a black hole stays there until a command has waited for it in vain.
            LanesDie | LaneBlackHole => Errors::Always,
            BlackHole | Cut | Killed | RestartEmpty | ServerStopped | Resync | Moved | BusyScript
            | Misconf => Errors::InStrikes,
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
            | FieldExpiry => Errors::Never,
        }
    }

    /// The share of the attacked keys' reads that must have been hits. Where the cache rightly rests for most of the run,
    /// it is less.
    pub(crate) fn hit_share_min(self) -> f64 {
        match self {
            LinkBlackHole | BusyScript => 0.05,
            Resync => 0.20,
            _ => 0.30,
        }
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
        let builder = builder
            .set("coherence.fence_timeout", &ms(FENCE_TIMEOUT))
            .set("upstream.command_timeout", &ms(self.patience()))
            .set("upstream.connect_timeout", &ms(self.patience()))
            .set("upstream.dial_timeout", &ms(DIAL_TIMEOUT));
        let builder =
            if self.strikes() { builder.set("cache.max_staleness", &ms(MAX_STALENESS)) } else { builder };
        match self {
            SwapDb | AclEdits | FieldExpiry | Moved => {
                builder.set("upstream.health_check_interval", &ms(CHECK_INTERVAL))
            }
            _ => builder,
        }
    }

    /// How long a command may wait for a connection, and then for its answer. Where no error is part of the trouble, none
    /// is to come from a machine that is busy either.
    fn patience(self) -> Duration {
        Duration::from_secs(if self.errors() == Errors::Never { 3 } else { 1 })
    }

    /// No reply stays out for longer. A command waits for a connection, for its answer and for a certification, and a read
    /// whose connection is lost is sent once more.
    pub(crate) fn hang_max(self) -> Duration {
        let tries = if self.errors() == Errors::Never { 1 } else { 2 };
        tries * 2 * self.patience() + MAX_STALENESS + FENCE_TIMEOUT + BUSY_ALLOWANCE
    }

    /// For how long errors are still excused once the proxy has recovered.
    fn aftermath(self) -> Duration {
        match self {
            // Lanes that the witness is not on may be found out later. So may a health check be that fell into the hole, and
            // then the proxy dials nobody until the next one.
            BlackHole | LaneBlackHole => AFTERMATH + DIAL_TIMEOUT + self.patience(),
            _ => AFTERMATH,
        }
    }

    /// One author's turn in so many is to delete everything. Where a strike looks for keys of its own, none.
    fn turns_per_flush(self) -> Option<u16> {
        match self {
            Flushes => Some(100),
            _ => (!self.strikes()).then_some(1_500),
        }
    }

    /// Whether the server changes what it holds and tells nobody, which the auditor counts against the proxy.
    pub(crate) fn changes_silently(self) -> bool {
        matches!(self, SwapDb | FieldExpiry)
    }

    /// Whether what was acknowledged may be gone in the end.
    pub(crate) fn loses(self) -> bool {
        matches!(self, RestartEmpty | Resync | Moved | SwapDb | Flushes | Evictions)
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
        Jitter => return strikes::jitter(scene, random),
        LanesDie => return strikes::lanes_die(scene, random),
        LinkFails => return strikes::link_fails(scene, random),
        LinkBlackHole => strikes::link_black_hole,
        BlackHole => strikes::black_hole,
        LaneBlackHole => strikes::lane_black_hole,
        Cut => strikes::cut,
        Killed => strikes::killed,
        RestartEmpty => strikes::restart_empty,
        ServerStopped => strikes::server_stopped,
        ProxyStopped => strikes::proxy_stopped,
        Resync => strikes::resync,
        Moved => strikes::moved,
        PauseAll => |scene, random| strikes::pause(scene, random, "ALL"),
        PauseWrites => |scene, random| strikes::pause(scene, random, "WRITE"),
        Evictions => strikes::evictions,
        BusyScript => strikes::busy_scripts,
        Misconf => strikes::misconf,
        Bytewise => strikes::bytewise,
        Huge => strikes::huge,
        SwapDb => strikes::swap_db,
        AclEdits => strikes::acl_edits,
        FieldExpiry => strikes::field_expiry,
    };
    let mut witness = Witness::new(scene);
    strikes::sleep_ms(random, 50..200);
    loop {
        scene.shared.strike_begins();
        strike(scene, random);
        witness.recovers();
        // What follows is to be seen, too.
        thread::sleep(trouble.aftermath());
        scene.shared.strike_ends();
        if !scene.goes_on() {
            return;
        }
        strikes::sleep_ms(random, CALM_MS);
    }
}

impl<'a> Scene<'a> {
    pub(super) fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    pub(super) fn outside(&self) -> Outside<'a> {
        Outside::new(self.relay)
    }

    /// From here on what was written is lost, and what is read is from before or after: until [`Self::regains`],
    /// histories are not judged.
    pub(super) fn loses(&self) {
        self.shared.losses.begin();
        (self.retire)();
    }

    pub(super) fn regains(&self) {
        self.shared.losses.end();
        (self.retire)();
    }

    /// Reads a key through the proxy until it is what it has to be, which is a promise with a time.
    pub(super) fn shows(&self, client: &mut Client, request: &[&str], wanted: &[u8], within: Duration) {
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
    pub(super) fn forgets(&self, client: &mut Client, key: &str, old: &[u8], since: Instant) {
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

    pub(super) fn complain(&self, fault: &str) {
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

/// How often the server ran a command, wherever it is by now.
fn calls(scene: &Scene<'_>, command: &str) -> Option<u64> {
    Redis::calls_in(&scene.outside().text("INFO commandstats"), command)
}
