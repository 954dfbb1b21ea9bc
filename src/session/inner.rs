//! What a session knows: the state that its requests and its replies change.
//!
//! Plain data with its small rules; whoever needs a socket or another thread is elsewhere.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Next, UNDELIVERED_BYTES_PAUSE,
    client::Redirect,
    exclusive::{Exclusive, Number},
    mget,
    output::{Output, PLACES_KEPT_MAX, Seq},
    send::NoLane,
    sharing::Share,
    state::{ReplyMode, Subscriptions, Transaction, Watch},
    ticket::{Place, Ticket},
    transition::Verdict,
};
use crate::{
    command::CommandId,
    resp::{RequestScanner, Value},
    upstream::{
        connection::{Greeting, Profile},
        lane::Pinned,
    },
};

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, not a state of one machine")]
pub(super) struct Inner {
    pub(super) scanner: RequestScanner,
    /// Bytes that have been read and not been taken.
    pub(super) input: BytesMut,
    /// A large request that has been read and is held.
    pub(super) held: Option<Bytes>,
    /// The client has closed its sending side.
    pub(super) input_ended: bool,
    pub(super) output: Output<mget::Parts>,
    /// The socket takes nothing at the moment.
    pub(super) is_write_blocked: bool,
    /// A request is held until something comes back, or something is awaited for it.
    pub(super) is_held: bool,
    /// Who the client is, in which database, in which protocol.
    pub(super) profile: Profile,
    pub(super) reply_mode: ReplyMode,
    /// The reply to the request at hand is not written.
    pub(super) mute: bool,
    pub(super) lane: Option<Pinned<Ticket>>,
    /// The lane serves this client alone, since it has used WAIT: its place among those that wait.
    pub(super) private_lane: Option<(OwnedSemaphorePermit, Number)>,
    /// Whether the upstream takes commands from a client that has not authenticated; `None`: not known yet.
    pub(super) needs_auth: Option<bool>,
    /// The last command taken, for CLIENT LIST.
    pub(super) last_command: CommandId,
    pub(super) exclusive: Option<Exclusive>,
    /// Commands of this client in flight, on whatever connection.
    pub(super) in_flight: usize,
    /// Reads of this client that wait for another client's, or may have to be asked again.
    pub(super) waits: usize,
    /// Commands in flight that may change or show anything: until they are answered, there are no hits.
    pub(super) barriers: usize,
    /// The place of the last command sent that is not a read.
    pub(super) last_write: Option<Seq>,
    /// How many reads of each key (by hash) are in flight.
    pub(super) reading: HashMap<u64, u32, RandomState>,
    /// Reads that wait for another client's, so that they can be asked again.
    pub(super) joined: HashMap<Seq, (Vec<u8>, u64)>,
    /// Reads that must be asked again.
    pub(super) again: VecDeque<Repeat>,
    pub(super) transaction: Option<Box<Transaction>>,
    /// Why the transaction that the client believes to be in was never begun.
    pub(super) doomed: Option<Vec<u8>>,
    pub(super) watch: Watch,
    pub(super) subscriptions: Subscriptions,
    /// What it is subscribed to it hears on a shared connection.
    pub(super) share: Option<Share>,
    /// SUBSCRIBEs and UNSUBSCRIBEs in flight, and EXECs that hold some.
    pub(super) subscribing: usize,
    pub(super) is_monitoring: bool,
    /// A HELLO or AUTH is in flight on the exclusive connection, or an EXEC with one, or with what of CLIENT is answered
    /// here: how to take what follows depends on the answer.
    pub(super) is_agreeing: bool,
    /// The client's own tracking sends invalidations to another client.
    pub(super) redirect: Option<Redirect>,
    /// Another client redirects its invalidations to this one, which has no connection yet to hear of them on.
    pub(super) is_claimed: bool,
    /// What an awaited checkout or verification came to, for the request that asked for it.
    pub(super) verdict: Option<Verdict>,
    /// Requests in flight before nothing more is taken.
    pub(super) pipeline_max: usize,
}

/// A read that must be asked again.
pub(super) struct Repeat {
    pub(super) seq: Seq,
    pub(super) request: Vec<u8>,
    /// Whether it was sent and its connection died. That is forgiven once; a read that had joined another client's,
    /// or whose parts did not fit together, has not used that up.
    pub(super) was_lost: bool,
}

impl Inner {
    /// A client that has just come.
    pub(super) fn new(profile: Profile, scanner: RequestScanner, pipeline_max: usize) -> Self {
        Self {
            scanner,
            input: BytesMut::new(),
            held: None,
            input_ended: false,
            output: Output::new(),
            is_write_blocked: false,
            is_held: false,
            profile,
            reply_mode: ReplyMode::On,
            mute: false,
            lane: None,
            private_lane: None,
            needs_auth: None,
            last_command: CommandId(0),
            exclusive: None,
            in_flight: 0,
            waits: 0,
            barriers: 0,
            last_write: None,
            reading: HashMap::default(),
            joined: HashMap::new(),
            again: VecDeque::new(),
            transaction: None,
            doomed: None,
            watch: Watch::default(),
            subscriptions: Subscriptions::default(),
            share: None,
            subscribing: 0,
            is_monitoring: false,
            is_agreeing: false,
            redirect: None,
            is_claimed: false,
            verdict: None,
            pipeline_max,
        }
    }

    /// Answers with an error made here; `text` begins with its code.
    pub(super) fn refuse(&mut self, text: &str) -> Next {
        self.reply(&Value::error(text))
    }

    /// Answers with a reply made here.
    pub(super) fn reply(&mut self, value: &Value) -> Next {
        if !self.mute {
            let protocol = self.profile.protocol;
            self.output.append(|out| value.encode(protocol, out));
        }
        Next::Done
    }

    /// Redis's words for too few or too many arguments.
    pub(super) fn wrong_arity(&mut self, name: &str) -> Next {
        self.refuse(&format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// Holds the request, or passes on what the server said, or says that it is not there.
    pub(super) fn no_lane(&mut self, reason: NoLane) -> Next {
        match reason {
            NoLane::Wait => Next::Hold,
            NoLane::Failed(error) => self.reply_raw(&error.reply()),
        }
    }

    /// Answers with bytes made here.
    pub(super) fn reply_raw(&mut self, raw: &[u8]) -> Next {
        if !self.mute {
            self.output.append(|out| out.extend_from_slice(raw));
        }
        Next::Done
    }

    /// A place for the reply of a command that is about to be sent.
    pub(super) fn place(&mut self) -> Place {
        Place::new(self.output.reserve(self.mute))
    }

    /// Invariant 1, the client's part: no transaction, no WATCH, no subscription or tracking of its own (all of which
    /// have an exclusive or a shared connection), nothing in flight that may change anything, nothing to be asked again. A
    /// stranger is shown what others were while none had to authenticate only if it need not do so either.
    pub(super) fn is_eligible(&self) -> bool {
        self.barriers == 0
            && self.again.is_empty()
            && self.exclusive.is_none()
            && self.share.is_none()
            && !self.output.is_fenced()
            && self.wants_auth() == Some(false)
    }

    /// Whether a read of these keys has to wait: one before it may yet be answered from later than it would be itself.
    pub(super) fn must_wait(&self, mut keys: impl Iterator<Item = u64>) -> bool {
        self.waits > 0 && (!self.again.is_empty() || keys.any(|key| self.reading.contains_key(&key)))
    }

    /// Whether a read of this key is in flight, so that a hit would overtake it.
    pub(super) fn reads(&self, key: impl FnOnce() -> u64) -> bool {
        !self.reading.is_empty() && self.reading.contains_key(&key())
    }

    /// Changes the shared lane. One of those who have not authenticated tells whether they have to.
    pub(super) fn pin(&mut self, lane: Option<Pinned<Ticket>>) {
        if let Some(lane) = lane.as_ref().filter(|lane| lane.profile.identity.user.is_none()) {
            self.needs_auth = Some(lane.greeting.wants_auth());
        }
        self.lane = lane;
        self.private_lane = None;
    }

    pub(super) fn expect(&mut self, place: &Place) {
        self.in_flight += 1;
        self.waits += usize::from(place.may_repeat);
        self.barriers += usize::from(place.barrier);
        for key in &place.reading {
            *self.reading.entry(*key).or_insert(0) += 1;
        }
    }

    /// A command has its answer, and its place what was kept for it.
    pub(super) fn settle(&mut self, place: &Place) {
        self.in_flight -= 1;
        self.settle_landed(place);
    }

    /// The same for one that has been out of flight for a while.
    pub(super) fn settle_landed(&mut self, place: &Place) {
        self.waits -= usize::from(place.may_repeat);
        self.barriers -= usize::from(place.barrier);
        for key in &place.reading {
            self.read_ended(*key);
        }
    }

    pub(super) fn read_ended(&mut self, key: u64) {
        if let Some(count) = self.reading.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.reading.remove(&key);
            }
        }
        if self.reading.is_empty() && self.reading.capacity() > PLACES_KEPT_MAX {
            self.reading = HashMap::default();
        }
    }

    /// Has a read asked again, in its old place.
    pub(super) fn ask_again(&mut self, repeat: Repeat) {
        self.waits += 1;
        self.again.push_back(repeat);
    }

    /// Whether nothing of this client is under way, so that its connection may be changed.
    pub(super) fn is_drained(&self) -> bool {
        self.in_flight == 0 && self.waits == 0
    }

    /// Whether the next request may be looked at.
    pub(super) fn may_take(&self) -> bool {
        self.output.undelivered() < UNDELIVERED_BYTES_PAUSE && self.output.queued() < self.pipeline_max
    }

    /// Whether more bytes may be read.
    pub(super) fn takes_more(&self) -> bool {
        !self.is_held && !self.input_ended && self.may_take()
    }

    /// Whether everything that is owed has been written.
    pub(super) fn is_delivered(&mut self) -> bool {
        self.is_drained() && self.output.undelivered() == 0 && self.output.queued() == 0
    }

    /// Whether it has to take out a connection before anything else, and can.
    pub(super) fn must_be_claimed(&self) -> bool {
        self.is_claimed && self.exclusive.is_none() && self.verdict.is_none() && self.is_drained()
    }

    /// Whether the client is between two requests, and not in the middle of anything.
    pub(super) fn is_idle(&self) -> bool {
        self.is_drained()
            && self.held.is_none()
            && self.input.is_empty()
            && !self.has_state()
            && self.share.is_none()
    }

    /// Whether it is the client's turn to say or to read something. A subscriber's it never is, nor who monitors.
    pub(super) fn is_waited_for(&self) -> bool {
        self.subscriptions.is_empty()
            && !self.is_monitoring
            && (self.is_write_blocked || (self.is_drained() && !self.is_held))
    }

    /// Whether the session's task has something to do that no event of its socket would tell it.
    pub(super) fn needs_attention(&self) -> bool {
        self.is_held || self.input_ended || !self.again.is_empty() || self.may_release() || self.is_claimed
    }

    /// Whether the server would take this client's commands.
    pub(super) fn is_authenticated(&self) -> bool {
        self.wants_auth() != Some(true)
    }

    /// Whether the server wants it to authenticate first; `None`: not known.
    pub(super) fn wants_auth(&self) -> Option<bool> {
        if self.profile.identity.user.is_some() { Some(false) } else { self.needs_auth }
    }

    /// What the server said on the connection that this client is on.
    pub(super) fn greeting(&self) -> Option<&Greeting> {
        let exclusive = self.exclusive.as_ref().map(|exclusive| &exclusive.lane.greeting);
        exclusive.or_else(|| self.lane.as_ref().map(|lane| &lane.greeting))
    }
}
