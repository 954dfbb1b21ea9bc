//! A client that knows when it asked and when it was answered.
//!
//! It sends steps, one by one or as a pipeline, and turns replies into operations in the record of the keys they
//! concern. An error is an answer like any other; it leaves a write's fate unknown. A reply that does not come at
//! all fails the test: the proxy owes one to every request.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::generator::{Life, Meaning, Step};
use super::recorder::{Kind, Losses, NOTHING, Op, UNKNOWN, Value, now};
use super::trouble::Trouble;
use crate::common::Client;
use crate::common::resp::{children, encode, payload, shown};

/// The longest pause within a pipeline that is sent in pieces.
const TRICKLE_PAUSE_US: u64 = 1_500;

/// Counted over all callers of a run.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) errors: AtomicU64,
}

/// One connection.
pub(crate) struct Caller {
    client: Client,
    address: SocketAddr,
    protocol: u8,
    number: u32,
    shared: Arc<Shared>,
    /// What was sent, when, and in which phase; what it is answered is still to come.
    sent: Vec<(Step, u64, Phase)>,
}

/// What all callers of a run share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) tally: Tally,
    batches: AtomicU64,
    callers: AtomicU64,
    /// What a caller saw that no history would tell.
    pub(crate) faults: parking_lot::Mutex<Vec<String>>,
    errors: Errors,
    /// No reply stays out for longer.
    pub(crate) hang_max: Duration,
    /// Odd while something is broken: the run is not to end before it is mended.
    phase: AtomicU64,
    pub(crate) losses: Losses,
    /// See [`super::strikes::Chaser`].
    pub(crate) is_chased: AtomicBool,
    /// Held for reading by who may be chased.
    pub(crate) chases: parking_lot::RwLock<()>,
    /// How many times everything was mended, and the longest that it took the proxy to recover.
    recoveries: parking_lot::Mutex<(u64, Duration)>,
}

/// When error replies are part of a run. Where they are not, each one is a violation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Errors {
    #[default]
    Never,
    /// From the strike until everything is as before. In between, in the calm, nothing is broken.
    InStrikes,
    Always,
}

/// Which of the strikes or of the calms between them it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase(u64);

impl Phase {
    fn is_calm(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

/// What a step came to.
pub(crate) struct Answer {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The replies; nothing if any was an error, or did not come.
    replies: Option<Vec<Vec<u8>>>,
}

impl Shared {
    pub(crate) fn new(trouble: Trouble) -> Self {
        Self { errors: trouble.errors(), hang_max: trouble.hang_max(), ..Self::default() }
    }

    pub(crate) fn may_fail(&self) -> bool {
        self.errors != Errors::Never
    }

    /// Before anything is broken.
    pub(crate) fn strike_begins(&self) {
        assert!(Phase(self.phase.fetch_add(1, SeqCst)).is_calm(), "one strike at a time");
    }

    /// Once everything is as before.
    pub(crate) fn strike_ends(&self) {
        assert!(!Phase(self.phase.fetch_add(1, SeqCst)).is_calm(), "it has begun");
    }

    /// To be asked before a command is sent.
    pub(crate) fn phase(&self) -> Phase {
        Phase(self.phase.load(SeqCst))
    }

    /// Whether an error is excused that has just been read, by a strike at some time since that phase.
    pub(crate) fn excuses(&self, since: Phase) -> bool {
        match self.errors {
            Errors::Never => false,
            Errors::InStrikes => !since.is_calm() || since != self.phase(),
            Errors::Always => true,
        }
    }

    /// One fault tells it all.
    pub(crate) fn complain(&self, fault: String) {
        let mut faults = self.faults.lock();
        if faults.is_empty() {
            faults.push(fault);
        }
    }

    /// Whether a run that began then and is to last so long goes on.
    pub(crate) fn goes_on(&self, began: Instant, lasts: Duration) -> bool {
        (began.elapsed() < lasts || !self.phase().is_calm()) && self.faults.lock().is_empty()
    }

    pub(crate) fn recovered(&self, after: Duration) {
        let mut recoveries = self.recoveries.lock();
        *recoveries = (recoveries.0 + 1, recoveries.1.max(after));
    }

    pub(crate) fn recoveries(&self) -> (u64, Duration) {
        *self.recoveries.lock()
    }
}

impl Caller {
    /// Every other caller speaks RESP3.
    pub(crate) fn connect(address: SocketAddr, shared: &Arc<Shared>) -> Self {
        let number = u32::try_from(shared.callers.fetch_add(1, Relaxed)).expect("there are a few dozen");
        let protocol = 2 + u8::from(number % 2 == 1);
        let client = dial(address, protocol, shared.hang_max);
        Self { client, address, protocol, number, shared: Arc::clone(shared), sent: Vec::new() }
    }

    /// Sends one step, waits for its answer, and records it.
    pub(crate) fn call(&mut self, step: Step) -> Answer {
        self.send(step);
        self.finish().pop().expect("an answer for a step")
    }

    /// Sends steps without waiting for replies, in one piece or in several.
    pub(crate) fn pipeline(&mut self, steps: Vec<Step>, random: &mut Rng) {
        if random.u8(0..3) == 0 {
            for step in steps {
                self.send(step);
                thread::sleep(Duration::from_micros(random.u64(0..TRICKLE_PAUSE_US)));
            }
        } else {
            let (start, phase) = (now(), self.shared.phase());
            let bytes: Vec<u8> =
                steps.iter().flat_map(|step| &step.requests).flat_map(|r| encode(r)).collect();
            // Whether it arrived will show when the replies are read.
            let _ = self.client.try_send_raw(&bytes);
            self.sent.extend(steps.into_iter().map(|step| (step, start, phase)));
        }
        self.finish();
    }

    /// Sends a step; [`Self::finish`] is to follow.
    pub(crate) fn send(&mut self, step: Step) {
        let bytes: Vec<u8> = step.requests.iter().flat_map(|request| encode(request)).collect();
        let (start, phase) = (now(), self.shared.phase());
        let _ = self.client.try_send_raw(&bytes);
        self.sent.push((step, start, phase));
    }

    /// Reads the answers to all that was sent, and records them.
    pub(crate) fn finish(&mut self) -> Vec<Answer> {
        let steps = std::mem::take(&mut self.sent);
        let batch = self.shared.batches.fetch_add(1, Relaxed);
        let mut is_connected = true;
        let mut answers = Vec::with_capacity(steps.len());
        for ((step, start, phase), place) in steps.into_iter().zip(0..) {
            let mut replies = Vec::with_capacity(step.requests.len());
            while is_connected && replies.len() < step.requests.len() {
                match self.client.try_recv() {
                    Ok(reply) => replies.push(reply),
                    Err(error) => {
                        if !is_closing(error.kind()) {
                            self.complain(&format!("no reply to {}: {error}", step.command));
                        }
                        is_connected = false;
                    }
                }
            }
            let end = now();
            let answer = if is_connected {
                self.answer(&step, replies, start, end, phase)
            } else {
                self.closed(&step, start)
            };
            self.record(&step, &answer, batch, place);
            answers.push(answer);
        }
        if !is_connected {
            self.client = dial(self.address, self.protocol, self.shared.hang_max);
        }
        answers
    }

    fn answer(&self, step: &Step, replies: Vec<Vec<u8>>, start: u64, end: u64, phase: Phase) -> Answer {
        let Some(error) = replies.iter().find(|reply| reply[0] == b'-') else {
            return Answer { start, end, replies: Some(replies) };
        };
        self.fail(step, start, self.shared.excuses(phase), &shown(error))
    }

    /// In a strike, perhaps, of which nobody hears before he asks again.
    fn closed(&self, step: &Step, start: u64) -> Answer {
        self.fail(step, start, self.shared.may_fail(), "the connection was closed")
    }

    fn fail(&self, step: &Step, start: u64, is_excused: bool, why: &str) -> Answer {
        self.shared.tally.errors.fetch_add(1, Relaxed);
        if !is_excused {
            self.complain(&format!("{} failed with nothing broken: {why}", step.command));
        }
        Answer { start, end: UNKNOWN, replies: None }
    }

    fn record(&self, step: &Step, answer: &Answer, batch: u64, place: u32) {
        let Answer { start, end, .. } = *answer;
        let (command, client) = (step.command, self.number);
        let record = |life: &Life, kind: Kind| {
            life.record(Op { kind, command, client, batch, place, start, end });
        };
        let tally = &self.shared.tally;
        let last = answer.replies.as_ref().and_then(|replies| replies.last());
        match &step.meaning {
            Meaning::Reads(lives) => {
                let Some(values) = last.and_then(|reply| self.values(step, lives, reply)) else { return };
                tally.reads.fetch_add(values.len() as u64, Relaxed);
                if !self.shared.losses.overlap(start, end) {
                    self.hold_together(step, lives, &values);
                }
                lives.iter().zip(values).for_each(|(life, value)| record(life, Kind::Read(value)));
            }
            Meaning::Writes(written) => {
                tally.writes.fetch_add(written.len() as u64, Relaxed);
                tally.unknown.fetch_add(if last.is_none() { written.len() as u64 } else { 0 }, Relaxed);
                written.iter().for_each(|(life, value)| record(life, Kind::Write(*value)));
            }
            Meaning::Swaps(life, new) => {
                tally.writes.fetch_add(1, Relaxed);
                tally.unknown.fetch_add(u64::from(last.is_none()), Relaxed);
                let old = last.and_then(|reply| self.values(step, std::slice::from_ref(life), reply));
                let swap = old.map(|old| Kind::Swap { old: old[0], new: *new });
                record(life, swap.unwrap_or(Kind::Write(*new)));
            }
            Meaning::Nothing => {}
        }
    }

    /// The values in a reply, one for each key.
    fn values(&self, step: &Step, lives: &[Arc<Life>], reply: &[u8]) -> Option<Vec<Value>> {
        let members = if reply[0] == b'*' { children(reply) } else { vec![reply] };
        let value = |(life, frame): (&Arc<Life>, &[u8])| {
            if frame.starts_with(b"$-1") || frame.starts_with(b"_") {
                return Some(NOTHING);
            }
            let value = life.value(payload(frame)).filter(|_| frame[0] == b'$');
            if value.is_none() {
                self.complain(&format!("{} {} answered {}", step.command, life.key, shown(frame)));
            }
            value
        };
        if members.len() != lives.len() {
            self.complain(&format!("{} of {} keys answered {}", step.command, lives.len(), shown(reply)));
            return None;
        }
        lives.iter().zip(members).map(value).collect()
    }

    /// Twins are written together, so an MGET of both, which Redis answers at one moment, must find the same.
    fn hold_together(&self, step: &Step, lives: &[Arc<Life>], values: &[Value]) {
        if let ([one, other, ..], [a, b, ..]) = (lives, values)
            && one.is_twin_of(other)
            && a != b
        {
            self.complain(&format!("a torn {} of {} and {}: {a} and {b}", step.command, one.key, other.key));
        }
    }

    fn complain(&self, fault: &str) {
        self.shared.complain(format!("client {} (RESP{}): {fault}", self.number, self.protocol));
    }
}

fn dial(address: SocketAddr, protocol: u8, hang_max: Duration) -> Client {
    let mut client = Client::connect(address);
    client.set_timeout(hang_max);
    if protocol == 3 {
        // Refused while the upstream is away, and then it stays in RESP2.
        client.send(&["HELLO", "3"]);
        let _ = client.try_recv();
    }
    client
}

fn is_closing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
