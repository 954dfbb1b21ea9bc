//! Does to a real server what was done to the model of one, step by step, and demands the same replies and pushes.
//!
//! What several connections say in one round is sent while the server is stopped: so it finds all of it when it goes
//! on, and Linux names ready sockets in the order in which they became so. Behind each step every connection asks
//! HELLO, which is answered at all times: what has come before that answer is all there is.
//!
//! Times are the model's, and no clock is raced: on the server keys live for an hour, until the model's time has passed
//! theirs. Then they are given a millisecond, which is a change like any other and is told of, and are gone without a
//! word from then on, as any key whose time is over. In a long script the server spins until a bell is rung.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::iter;
use std::thread;
use std::time::Duration;

use super::common::resp::{children, encode, payload, shown};
use super::common::{Client, Redis, eventually};
use super::server::{Change, Command, Frame, Key, Said, Server, SocketId, Step};

/// For how long a script is deaf at its end: the length of a text whose search takes 0.05, 0.2 or 1 second. If that is
/// missed, all begins anew with the next.
const DEAF: [usize; 3] = [50, 70, 100];
const HOUR_MS: u64 = 3_600_000;
/// After this long a key is gone that had a millisecond to live.
const MORE_THAN_ONE_MS: Duration = Duration::from_millis(3);
/// What a failure shows of the steps before it.
const STEPS_TOLD: usize = 12;

/// What the server was seen to do, so that nobody takes a replay of nothing for a proof.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rounds: usize,
    pub(crate) replies: usize,
    pub(crate) pushes: usize,
    pub(crate) refusals: usize,
    /// What was said in a script's last moments.
    pub(crate) late: usize,
    pub(crate) expiries: usize,
}

/// What each connection was sent in a step.
pub(crate) type Told = BTreeMap<SocketId, Vec<Frame>>;

#[derive(Debug)]
enum Fault {
    /// A script had ended before something could be said in its last moments.
    TooLate,
    /// A key's time ended while a script ran, and the script's round went on: the server can be told neither before nor
    /// after.
    OutOfReach,
    Disagreement(String),
}

/// How much of it there is to be, which a variable may say.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Replays a trace on a new server, as far as that can be done.
#[track_caller]
pub(crate) fn replay(trace: &[Step]) -> Figures {
    for deaf in DEAF {
        let mut replay = Replay::with_deaf(deaf);
        let fault =
            trace.iter().enumerate().find_map(|(place, step)| Some((place, replay.take(step).err()?)));
        match fault {
            None | Some((_, Fault::OutOfReach)) => return replay.figures,
            Some((_, Fault::TooLate)) => {}
            Some((place, Fault::Disagreement(what))) => {
                let before = &trace[place.saturating_sub(STEPS_TOLD)..place];
                let before: Vec<String> = before.iter().map(|step| format!("  {step:?}\n")).collect();
                panic!("step {place}, {:?}: {what}; before it\n{}", trace[place], before.concat());
            }
        }
    }
    panic!("the last moments of a script are always missed");
}

/// A server and its model, with the same connections.
pub(crate) struct Replay {
    redis: Redis,
    model: Server,
    clients: BTreeMap<SocketId, Client>,
    /// A connection that the model does not know of, for what is not of the trace.
    control: Client,
    /// Hears of each long script that it has begun.
    listener: Client,
    /// When keys are to be gone that are not yet.
    ends: BTreeMap<Key, u64>,
    deaf: usize,
    figures: Figures,
}

impl Replay {
    pub(crate) fn start() -> Self {
        Self::with_deaf(DEAF[DEAF.len() - 1])
    }

    fn with_deaf(deaf: usize) -> Self {
        // The more often it looks for what has expired, the sooner it comes across it, when it is to.
        let redis = Redis::start_with(&["--hz", "500", "--busy-reply-threshold", "1"]);
        let (mut control, mut listener) = (redis.client(), redis.client());
        control.expect(b"+OK\r\n", &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        listener.cmd(&["SUBSCRIBE", "scripts"]);
        Self {
            redis,
            model: Server::default(),
            clients: BTreeMap::new(),
            control,
            listener,
            ends: BTreeMap::new(),
            deaf,
            figures: Figures::default(),
        }
    }

    /// What each connection is told in a step.
    #[track_caller]
    pub(crate) fn told(&mut self, step: &Step) -> Told {
        self.take(step).unwrap_or_else(|fault| panic!("{step:?}: {fault:?}"))
    }

    fn take(&mut self, step: &Step) -> Result<Told, Fault> {
        if let Step::Cycle { at, .. } | Step::FinishScript { at, .. } | Step::Expire { at } = step {
            self.end_lives(*at, step)?;
        }
        let size = self.model.size();
        self.model.take(step);
        match step {
            Step::Connect(socket) => {
                let mut client = self.redis.client();
                client.hello(3);
                self.clients.insert(*socket, client);
            }
            Step::Disconnect(socket) => drop(self.clients.remove(socket)),
            Step::Cycle { said, .. } => {
                self.figures.rounds += 1;
                self.stop();
                said.iter().for_each(|said| self.say(said));
                self.redis.cont();
                self.settle();
            }
            Step::Refuse(said) => self.say(said),
            Step::FinishScript { said, .. } => {
                if said.is_empty() {
                    self.control.expect(b"+OK\r\n", &["UNWATCH"]);
                } else {
                    self.finish_with(said)?;
                }
                self.settle();
            }
            Step::Expire { .. } if self.model.size() == size => {}
            Step::Expire { .. } => {
                self.figures.expiries += 1;
                let left = format!(":{}\r\n", self.model.size());
                self.control.expect(b"+OK\r\n", &["DEBUG", "SET-ACTIVE-EXPIRE", "1"]);
                eventually("what has expired is deleted", || {
                    self.control.cmd(&["DBSIZE"]) == left.as_bytes()
                });
                self.control.expect(b"+OK\r\n", &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
            }
        }
        for Change { key, expires_at, .. } in self.model.journal.drain(..) {
            self.ends.remove(&key);
            self.ends.extend(expires_at.map(|at| (key, at)));
        }
        let refused = match step {
            Step::Refuse(said) => vec![said.socket],
            _ => self.model.rest().to_vec(),
        };
        self.compare(&refused)
    }

    /// What the model finds gone from now on has to be gone.
    fn end_lives(&mut self, now: u64, step: &Step) -> Result<(), Fault> {
        let due: Vec<Key> = self.ends.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
        if due.is_empty() {
            return Ok(());
        }
        if self.model.is_busy_with().is_some() {
            let goes_on = self.model.has_more_to_do()
                || matches!(step, Step::FinishScript { said, .. } if !said.is_empty());
            return if goes_on { Err(Fault::OutOfReach) } else { Ok(()) };
        }
        for key in due {
            self.ends.remove(&key);
            self.control.expect(b":1\r\n", &["PEXPIRE", &name(key), "1"]);
            self.model.touch(key);
        }
        thread::sleep(MORE_THAN_ONE_MS);
        self.compare(&[]).map(drop)
    }

    /// Stops the server while it waits for its sockets. Had it not come to wait yet, those that it has just served would
    /// still be in its list, ahead of whoever speaks first.
    fn stop(&self) {
        let stat = format!("/proc/{}/stat", self.redis.process().pid());
        let is_waiting = || {
            let stat = fs::read_to_string(&stat).expect("the server runs");
            // The state follows the name, which is in parentheses.
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
        };
        while !is_waiting() {
            thread::yield_now();
        }
        self.redis.stop();
    }

    /// Ends a script, and says something when the server looks at its sockets no more but is in the script still.
    fn finish_with(&mut self, said: &[Said]) -> Result<(), Fault> {
        self.figures.late += said.len();
        let ended = self.logged("listens again");
        let deaf = self.logged("does not listen");
        self.control.expect(b"+OK\r\n", &["WATCH", "bell"]);
        // Its answer may have to wait until the server listens again.
        self.control.send(&["UNWATCH"]);
        while self.logged("does not listen") == deaf {
            thread::yield_now();
        }
        self.redis.stop();
        let is_late = self.logged("listens again") > ended;
        if !is_late {
            said.iter().for_each(|said| self.say(said));
        }
        self.redis.cont();
        assert_eq!(self.control.recv(), b"+OK\r\n");
        if is_late { Err(Fault::TooLate) } else { Ok(()) }
    }

    fn logged(&self, what: &str) -> usize {
        let log = fs::read_to_string(self.redis.directory().join("redis.log")).expect("the server has a log");
        log.matches(what).count()
    }

    fn say(&mut self, Said { socket, commands }: &Said) {
        let request: Vec<u8> =
            commands.iter().flat_map(|command| encode(&words(command, self.deaf))).collect();
        self.clients.get_mut(socket).expect("who speaks is connected").send_raw(&request);
    }

    /// Waits until the round is over, or, if the model says so, until a long script has begun.
    fn settle(&mut self) {
        if self.model.is_busy_with().is_some() {
            self.listener.recv();
        } else {
            while self.control.cmd(&["PING"]).starts_with(b"-BUSY") {}
        }
    }

    /// What connections were sent must be what the model has sent them. Whose script is running is not listened to,
    /// and has its turn later.
    ///
    /// They ask one after the other, and first whoever is being refused, so that in a script the server never finds
    /// others ready besides those: its list of whom to come to afterwards would be another.
    fn compare(&mut self, refused: &[SocketId]) -> Result<Told, Fault> {
        let running = self.model.is_busy_with();
        let (refused, others): (Vec<_>, Vec<_>) =
            self.clients.keys().partition(|socket| refused.contains(socket));
        let mut told = Told::new();
        for socket in [refused, others].concat().into_iter().filter(|socket| Some(*socket) != running) {
            let client = self.clients.get_mut(&socket).expect("it is one of them");
            client.send(&["HELLO", "3"]);
            let frames = iter::from_fn(|| Some(client.recv()).filter(|raw| raw[0] != b'%'));
            let frames: Vec<Frame> = frames.map(|raw| frame(&raw)).collect();
            let imagined: Vec<Frame> = iter::from_fn(|| self.model.leave(socket)).map(plain).collect();
            if frames != imagined {
                let what =
                    format!("connection {socket} is told {frames:?} by Redis, {imagined:?} by the model");
                return Err(Fault::Disagreement(what));
            }
            self.figures.add(&frames);
            told.insert(socket, frames);
        }
        Ok(told)
    }
}

impl Figures {
    fn add(&mut self, frames: &[Frame]) {
        let is_push = |frame: &&Frame| matches!(frame, Frame::Invalidate(_) | Frame::InvalidateAll);
        let pushes = frames.iter().filter(is_push).count();
        self.pushes += pushes;
        self.replies += frames.len() - pushes;
        self.refusals += frames.iter().filter(|frame| **frame == Frame::Busy).count();
    }
}

impl iter::Sum for Figures {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            rounds: sum.rounds + one.rounds,
            replies: sum.replies + one.replies,
            pushes: sum.pushes + one.pushes,
            refusals: sum.refusals + one.refusals,
            late: sum.late + one.late,
            expiries: sum.expiries + one.expiries,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, replies, pushes, refusals, late, expiries } = self;
        write!(f, "{rounds} rounds, {replies} replies, {pushes} pushes, {refusals} refusals, ")?;
        write!(f, "{late} spoke in the last moments of a script, {expiries} expiries")
    }
}

/// Times left are compared by their kind.
fn plain(frame: Frame) -> Frame {
    if let Frame::Number(number) = frame { Frame::Number(number.min(1)) } else { frame }
}

fn name(key: Key) -> String {
    format!("k{key}")
}

fn words(command: &Command, deaf: usize) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    match command {
        Command::Get(key) => words(&["GET", &name(*key)]),
        Command::Pttl(key) => words(&["PTTL", &name(*key)]),
        Command::Set { key, value, lives: None } => words(&["SET", &name(*key), &value.to_string()]),
        Command::Set { key, value, lives: Some(lives) } => {
            words(&["SET", &name(*key), &value.to_string(), "PX", &(lives + HOUR_MS).to_string()])
        }
        Command::Del(key) => words(&["DEL", &name(*key)]),
        Command::FlushAll => words(&["FLUSHALL"]),
        Command::Echo(number) => words(&["ECHO", &format!("echo {number}")]),
        Command::Track => words(&["CLIENT", "TRACKING", "ON", "BCAST"]),
        Command::Script(writes) => script("", writes),
        // The bell is UNWATCH, which is served while a script runs, and counted. The server looks at its sockets every
        // 100,000 instructions. If WATCH has been rung as well, it does not for the time that a search takes, which is
        // one instruction.
        Command::LongScript(writes) => script(
            &format!(
                "redis.call('PUBLISH', 'scripts', 'begun') \
                 local function calls(of) \
                   return string.match(redis.call('INFO', 'commandstats'), 'cmdstat_' .. of .. ':calls=(%d+)') \
                 end \
                 local watches, rings = calls('watch'), calls('unwatch') \
                 repeat for _ = 1, 20000 do end until calls('unwatch') ~= rings \
                 if calls('watch') ~= watches then \
                   redis.log(redis.LOG_WARNING, 'does not listen') \
                   string.find(string.rep('a', {deaf}), '.-.-.-.-b') \
                   redis.log(redis.LOG_WARNING, 'listens again') \
                 end "
            ),
            writes,
        ),
    }
}

fn script(before: &str, writes: &[(Key, u64)]) -> Vec<String> {
    let set = |(key, value): &(Key, u64)| format!("redis.call('SET', '{}', {value}) ", name(*key));
    let sets = writes.iter().map(set).collect::<Vec<_>>().concat();
    vec!["EVAL".into(), format!("{before}{sets}return redis.status_reply('OK')"), "0".into()]
}

fn frame(raw: &[u8]) -> Frame {
    let text = String::from_utf8_lossy(payload(raw)).into_owned();
    match raw[0] {
        b'+' => Frame::Ok,
        b'-' if raw.starts_with(b"-BUSY") => Frame::Busy,
        b':' => plain(Frame::Number(text.parse().expect("an integer"))),
        b'_' => Frame::Value(None),
        b'$' => match text.strip_prefix("echo ") {
            Some(number) => Frame::Echo(number.parse().expect("its number")),
            None => Frame::Value(Some(text.parse().expect("a value is a number"))),
        },
        b'>' => {
            let keys = children(raw)[1];
            // Some servers write it as RESP2 does.
            if keys.starts_with(b"_") || keys.starts_with(b"$-1") {
                return Frame::InvalidateAll;
            }
            let mut keys: Vec<Key> = children(keys).iter().map(|key| payload(key)[1] - b'0').collect();
            keys.sort_unstable();
            Frame::Invalidate(keys)
        }
        _ => panic!("not expected: {}", shown(raw)),
    }
}
