//! A client that knows when it asked and when it was answered.
//!
//! It sends steps, one by one or as a pipeline, and turns replies into operations in the record of the keys they
//! concern. An error is an answer like any other; it leaves a write's fate unknown. A reply that does not come at
//! all fails the test: the proxy owes one to every request.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::generator::{Life, Meaning, Step};
use super::recorder::{Kind, Losses, NOTHING, Op, UNKNOWN, Value, now};
use crate::common::Client;
use crate::common::resp::{children, encode, payload, shown};

/// Nobody is kept waiting for longer: the timeouts of a run with faults, and then some for a busy machine.
pub(crate) const HANG_MAX: Duration = Duration::from_secs(7);
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
    /// What was sent, and when; what it is answered is still to come.
    sent: Vec<(Step, u64)>,
}

/// What all callers of a run share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) tally: Tally,
    batches: AtomicU64,
    callers: AtomicU64,
    /// What a caller saw that no history would tell.
    pub(crate) faults: parking_lot::Mutex<Vec<String>>,
    /// Error replies are part of the run.
    may_fail: bool,
    pub(crate) losses: Losses,
    /// See [`super::strikes::Chaser`].
    pub(crate) is_chased: AtomicBool,
    /// Something is broken: the run is not to end before it is mended.
    pub(crate) is_striking: AtomicBool,
    /// How many times everything was mended, and the longest that it took the proxy to recover.
    recoveries: parking_lot::Mutex<(u64, Duration)>,
}

/// What a step came to.
pub(crate) struct Answer {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The replies; nothing if any was an error, or did not come.
    replies: Option<Vec<Vec<u8>>>,
}

impl Shared {
    pub(crate) fn new(may_fail: bool) -> Self {
        Self { may_fail, ..Self::default() }
    }

    pub(crate) fn may_fail(&self) -> bool {
        self.may_fail
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
        (began.elapsed() < lasts || self.is_striking.load(Relaxed)) && self.faults.lock().is_empty()
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
        let client = dial(address, protocol);
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
            let start = now();
            let bytes: Vec<u8> =
                steps.iter().flat_map(|step| &step.requests).flat_map(|r| encode(r)).collect();
            // Whether it arrived will show when the replies are read.
            let _ = self.client.try_send_raw(&bytes);
            self.sent.extend(steps.into_iter().map(|step| (step, start)));
        }
        self.finish();
    }

    /// Sends a step; [`Self::finish`] is to follow.
    pub(crate) fn send(&mut self, step: Step) {
        let bytes: Vec<u8> = step.requests.iter().flat_map(|request| encode(request)).collect();
        let start = now();
        let _ = self.client.try_send_raw(&bytes);
        self.sent.push((step, start));
    }

    /// Reads the answers to all that was sent, and records them.
    pub(crate) fn finish(&mut self) -> Vec<Answer> {
        let steps = std::mem::take(&mut self.sent);
        let batch = self.shared.batches.fetch_add(1, Relaxed);
        let mut is_connected = true;
        let mut answers = Vec::with_capacity(steps.len());
        for ((step, start), place) in steps.into_iter().zip(0..) {
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
            let answer = self.answer(&step, replies, start, end, is_connected);
            self.record(&step, &answer, batch, place);
            answers.push(answer);
        }
        if !is_connected {
            self.client = dial(self.address, self.protocol);
        }
        answers
    }

    fn answer(&self, step: &Step, replies: Vec<Vec<u8>>, start: u64, end: u64, is_connected: bool) -> Answer {
        let error = replies.iter().find(|reply| reply[0] == b'-');
        if error.is_some() || !is_connected {
            self.shared.tally.errors.fetch_add(1, Relaxed);
            if !self.shared.may_fail {
                let said = error.map_or("the connection was closed".to_owned(), |reply| shown(reply));
                self.complain(&format!("{} failed with nothing broken: {said}", step.command));
            }
            return Answer { start, end: UNKNOWN, replies: None };
        }
        Answer { start, end, replies: Some(replies) }
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

fn dial(address: SocketAddr, protocol: u8) -> Client {
    let mut client = Client::connect(address);
    client.set_timeout(HANG_MAX);
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
