//! One client, from its first byte to its last.
//!
//! A request flows downward through this file: read a batch, scan, classify, one dispatch match, and after the batch
//! one write. Dispatch never awaits. A request that cannot be taken yet (a lane is being dialled, earlier replies
//! must come first) is held, and nothing behind it is looked at; what needs an await (a checkout, a password check)
//! is a [`Transition`], carried out between two requests when nothing is in flight.
//!
//! `state` is what the session is in the middle of, `output` what the client is owed, `ticket` what becomes of each
//! command in flight; `read`, `mget`, `write`, `exclusive` and `local` are the ways a request can go. The cache is
//! reached through `coherence` alone.

mod client;
mod exclusive;
mod local;
mod mget;
mod output;
mod read;
pub mod registry;
mod state;
mod stats;
mod ticket;
pub mod worker;
mod write;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};
use tokio_util::io::poll_read_buf;

use self::{
    exclusive::{Exclusive, Transition, Verdict},
    output::{Output, Seq, Stop},
    registry::ClientInfo,
    state::{ReplyMode, Subscriptions, Transaction},
    ticket::{Place, Ticket, Work},
    worker::Worker,
};
use crate::{
    clock::{self, Nanos},
    coherence::Batch,
    command::{Class, Command, CommandId, Table},
    ids::Database,
    resp::{Args, OutputBuffer, Protocol, Raw, RequestScanner, SHARED_BYTES_MIN, Scanned},
    upstream::{
        connection::{DialError, Greeting, Profile},
        identity::Identity,
        lane::{Lane, Pinned, write_some},
        lanes::Pick,
    },
};

/// While a client has this much undelivered, nothing more is taken from it.
const UNDELIVERED_BYTES_PAUSE: usize = 256 * 1024;

/// An input buffer is read into in pieces of at least this size.
const INPUT_BYTES: usize = 16 * 1024;

/// A client's claim about the size of its request makes us reserve this much ahead at most.
const INPUT_RESERVE_MAX: usize = 4 * 1024 * 1024;

/// One client.
pub struct Session {
    worker: Rc<Worker>,
    info: Arc<ClientInfo>,
    write: OwnedWriteHalf,
    inner: RefCell<Inner>,
    /// In the worker's list of sessions with output to look at.
    dirty: Cell<bool>,
    /// In the worker's list of sessions behind a fence.
    parked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    ending: Cell<Ending>,
}

/// How far a session is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// It goes on.
    No,
    /// No more requests; what is owed is delivered first.
    AfterOutput,
    /// At once.
    Now,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, not a state of one machine")]
struct Inner {
    scanner: RequestScanner,
    /// Bytes that have been read and not been taken.
    input: BytesMut,
    /// A large request that has been read and is held.
    held: Option<Bytes>,
    /// The client has closed its sending side.
    input_ended: bool,
    output: Output<mget::Parts>,
    /// The socket takes nothing at the moment.
    is_write_blocked: bool,
    /// A request is held until something comes back.
    is_held: bool,
    /// Who the client is, in which database, in which protocol.
    profile: Profile,
    reply_mode: ReplyMode,
    /// The reply to the request at hand is not written.
    mute: bool,
    lane: Option<Pinned<Ticket>>,
    /// The lane serves this client alone, since it has used WAIT.
    has_private_lane: bool,
    /// Whether the upstream takes commands from a client that has not authenticated; `None`: not known yet.
    needs_auth: Option<bool>,
    /// The last command taken, for CLIENT LIST.
    last_command: CommandId,
    exclusive: Option<Exclusive>,
    /// Commands of this client in flight, on whatever connection.
    in_flight: usize,
    /// Reads of this client that wait for another client's, or to be asked again.
    waits: usize,
    /// Commands in flight that may change or show anything: until they are answered, there are no hits.
    barriers: usize,
    /// The place of the last command sent that is not a read.
    last_write: Option<Seq>,
    /// How many reads of each key (by hash) are in flight.
    reading: HashMap<u64, u32>,
    /// Reads that wait for another client's, so that they can be asked again.
    joined: HashMap<Seq, (Box<[u8]>, u64)>,
    /// Reads that must be asked again.
    again: VecDeque<(Seq, Box<[u8]>)>,
    transaction: Option<Box<Transaction>>,
    is_watching: bool,
    subscriptions: Subscriptions,
    /// SUBSCRIBEs and UNSUBSCRIBEs in flight.
    subscribing: usize,
    is_monitoring: bool,
    /// What an awaited checkout or verification came to, for the request that asked for it.
    verdict: Option<Verdict>,
    /// Requests in flight before nothing more is taken.
    pipeline_max: usize,
}

/// What dispatch made of a request.
enum Next {
    /// It was answered or sent.
    Done,
    /// It cannot be taken yet; the session will be woken.
    Hold,
    /// Something has to be awaited first, then it is dispatched again.
    Await(Transition),
    /// It was the last one.
    End,
}

/// Why the processing of input stopped.
enum Flow {
    /// All complete requests have been taken.
    More,
    /// The next request is held.
    Held,
    /// See [`Next::Await`].
    Await(Transition),
    /// A large request of this length lies at the front of the input.
    Large(usize),
}

impl Session {
    fn new(worker: Rc<Worker>, info: Arc<ClientInfo>, write: OwnedWriteHalf) -> Rc<Self> {
        let profile = Profile {
            identity: Arc::clone(worker.shared.identities.client_default()),
            database: worker.shared.default_database,
            protocol: Protocol::Resp2,
        };
        let inner = RefCell::new(Inner {
            scanner: RequestScanner::new(worker.request_limits),
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
            has_private_lane: false,
            needs_auth: None,
            last_command: CommandId(0),
            exclusive: None,
            in_flight: 0,
            waits: 0,
            barriers: 0,
            last_write: None,
            reading: HashMap::new(),
            joined: HashMap::new(),
            again: VecDeque::new(),
            transaction: None,
            is_watching: false,
            subscriptions: Subscriptions::default(),
            subscribing: 0,
            is_monitoring: false,
            verdict: None,
            pipeline_max: worker.shared.config.server.max_pipeline,
        });
        Rc::new(Self {
            worker,
            info,
            write,
            inner,
            dirty: Cell::new(false),
            parked: Cell::new(false),
            waker: RefCell::new(None),
            ending: Cell::new(Ending::No),
        })
    }

    /// Serves the client to its end. What it had in flight is finished by the lanes; nothing else is sent for it.
    async fn run(self: Rc<Self>, mut read: OwnedReadHalf) {
        while let Some(transition) = poll_fn(|cx| self.poll(cx, &mut read)).await {
            self.perform(transition).await;
        }
        self.ending.set(Ending::Now);
        let mut inner = self.inner.borrow_mut();
        inner.pin(None);
        if let Some(exclusive) = inner.exclusive.take() {
            exclusive.discard();
        }
        drop(inner);
        self.waker.replace(None);
        self.worker.forget(self.info.id);
    }

    /// Goes on until there is nothing to do; `None` is the end.
    fn poll(self: &Rc<Self>, cx: &mut Context<'_>, read: &mut OwnedReadHalf) -> Poll<Option<Transition>> {
        if !self.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker.replace(Some(cx.waker().clone()));
        }
        loop {
            if self.inner.borrow().is_write_blocked {
                match self.write.as_ref().poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => self.flush(),
                    Poll::Ready(Err(_)) => self.ending.set(Ending::Now),
                    Poll::Pending => {}
                }
            }
            match self.take_input() {
                Some(transition) => return Poll::Ready(Some(transition)),
                None if self.is_over() => return Poll::Ready(None),
                None => {}
            }
            if self.ending.get() != Ending::No || !self.inner.borrow().takes_more() || !self.knows_auth() {
                return Poll::Pending;
            }
            match self.read(cx, read) {
                Poll::Ready(Ok(0)) => self.inner.borrow_mut().input_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => self.ending.set(Ending::Now),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Finds out whether the upstream wants a password before the first byte is looked at: what a client may send
    /// before AUTH is limited, and only a connection of its kind can tell. With the upstream gone nobody can.
    fn knows_auth(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.needs_auth.is_none() {
            inner.needs_auth = match self.lane(&mut inner) {
                Ok(lane) => Some(lane.greeting.hello.starts_with(b"-NOAUTH")),
                Err(NoLane::Failed(_)) => Some(false),
                Err(NoLane::Wait) => return false,
            };
        }
        true
    }

    /// Reads once and takes what is complete. A client with nothing left over is read into the worker's own buffer,
    /// so that an idle client holds none.
    fn read(self: &Rc<Self>, cx: &mut Context<'_>, read: &mut OwnedReadHalf) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        if !inner.input.is_empty() || inner.held.is_some() {
            let wanted = inner.scanner.bytes_wanted().clamp(INPUT_BYTES, INPUT_RESERVE_MAX);
            inner.input.reserve(wanted);
            return poll_read_buf(Pin::new(read), cx, &mut inner.input);
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        match Pin::new(read).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        let data = buffer.filled();
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let (taken, flow) = self.take(&mut inner, data, LargeRequests::Copied);
        inner.input.extend_from_slice(&data[taken..]);
        drop(inner);
        self.after_batch(&flow);
        // A transition is not lost: its request is still in the input and will be dispatched again.
        Poll::Ready(Ok(data.len()))
    }

    /// Takes the requests that lie in the input buffer.
    fn take_input(self: &Rc<Self>) -> Option<Transition> {
        loop {
            let mut inner = self.inner.borrow_mut();
            if self.ending.get() != Ending::No || !inner.may_take() {
                inner.is_held = true;
                return None;
            }
            if inner.has_lost_exclusive() {
                self.lost_exclusive(&mut inner);
            } else if inner.may_release() {
                return Some(Transition::Release);
            }
            if !self.ask_pending_again(&mut inner) {
                inner.is_held = true;
                return None;
            }
            if let Some(request) = inner.held.take() {
                match self.take_large(&mut inner, request) {
                    Flow::More => {}
                    flow => {
                        drop(inner);
                        self.after_batch(&flow);
                        return flow.transition();
                    }
                }
            }
            if inner.input.is_empty() {
                drop(inner);
                self.after_batch(&Flow::More);
                return None;
            }
            let mut input = std::mem::take(&mut inner.input);
            let (taken, flow) = self.take(&mut inner, &input, LargeRequests::Apart);
            input.advance(taken);
            if let Flow::Large(len) = flow {
                inner.held = Some(input.split_to(len).freeze());
            }
            inner.input = if input.is_empty() { BytesMut::new() } else { input };
            drop(inner);
            self.after_batch(&flow);
            if !matches!(flow, Flow::Large(_)) {
                return flow.transition();
            }
        }
    }

    /// A whole request of its own, held by reference count.
    fn take_large(self: &Rc<Self>, inner: &mut Inner, request: Bytes) -> Flow {
        let batch = self.worker.shared.coherence.batch(clock::now());
        let table = Arc::clone(&self.worker.table.borrow());
        let mut scanner =
            std::mem::replace(&mut inner.scanner, RequestScanner::new(self.worker.request_limits));
        let authenticated = inner.is_authenticated();
        let next = match scanner.scan(&request, authenticated) {
            Ok(Scanned::Request { .. }) => {
                let args = scanner.args(&request);
                self.dispatch(inner, &table, &batch, args, Raw::Shared(request.clone()))
            }
            _ => Next::End,
        };
        inner.scanner = scanner;
        match next {
            Next::Done => Flow::More,
            Next::Hold => {
                inner.held = Some(request);
                Flow::Held
            }
            Next::Await(transition) => {
                inner.held = Some(request);
                Flow::Await(transition)
            }
            Next::End => {
                self.end(Ending::AfterOutput);
                Flow::More
            }
        }
    }

    /// Takes the complete requests at the front of `data`; returns how many bytes they were.
    fn take(self: &Rc<Self>, inner: &mut Inner, data: &[u8], large: LargeRequests) -> (usize, Flow) {
        // Invariant 1's clock: read after the socket was, so every request of the batch had come by then.
        let batch = self.worker.shared.coherence.batch(clock::now());
        self.info.active.store(batch.now.0, Ordering::Relaxed);
        inner.output.ready().lend(&mut self.worker.spare.borrow_mut());
        let table = Arc::clone(&self.worker.table.borrow());
        let mut scanner =
            std::mem::replace(&mut inner.scanner, RequestScanner::new(self.worker.request_limits));
        let mut taken = 0;
        let flow = loop {
            if !inner.may_take() {
                break Flow::Held;
            }
            let rest = &data[taken..];
            let (len, next) = match scanner.scan(rest, inner.is_authenticated()) {
                Ok(Scanned::Incomplete) => break Flow::More,
                Ok(Scanned::Empty { len }) => (len, Next::Done),
                Ok(Scanned::Request { len }) if len >= SHARED_BYTES_MIN && large == LargeRequests::Apart => {
                    break Flow::Large(len);
                }
                Ok(Scanned::Request { len }) => {
                    let request = &rest[..len];
                    (len, self.dispatch(inner, &table, &batch, scanner.args(request), Raw::Borrowed(request)))
                }
                Ok(Scanned::Rewritten { len, request }) => {
                    let args = scanner.args(&request);
                    (len, self.dispatch(inner, &table, &batch, args, Raw::Borrowed(&request)))
                }
                Err(error) => {
                    inner.output.append(|out| error.encode(out));
                    (rest.len(), Next::End)
                }
            };
            match next {
                Next::Done => taken += len,
                Next::Hold => break Flow::Held,
                Next::Await(transition) => break Flow::Await(transition),
                Next::End => {
                    taken = data.len();
                    self.end(Ending::AfterOutput);
                    break Flow::More;
                }
            }
        };
        inner.scanner = scanner;
        self.info.command.store(inner.last_command.0, Ordering::Relaxed);
        (taken, flow)
    }

    /// Every request comes through here, once for each try.
    fn dispatch(
        self: &Rc<Self>,
        inner: &mut Inner,
        table: &Table,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        let command = table.lookup(&args[0], args.get(1));
        let class = command.class(&args);
        inner.mute = inner.reply_mode != ReplyMode::On;
        if self.is_denied(command) {
            return inner.refuse(&format!(
                "NOPERM this proxy does not allow '{}' (server.deny_commands)",
                command.name
            ));
        }
        let next = match class {
            _ if inner.exclusive.is_some() => self.on_exclusive(inner, command, class, batch, args, request),
            Class::Cached(sameness) => {
                let same = sameness.same(&args);
                self.read_cached(inner, command, same, batch, args, request)
            }
            Class::Mget => self.mget(inner, batch, args, request),
            Class::Session(local) => self.local(inner, local, batch, args, request),
            Class::Refused => Self::refuse_class(inner, command),
            _ if class.needs_exclusive() || command.blocks(&args) => Self::acquire(inner, class),
            Class::Read | Class::ReadUndeclared => self.forward_read(inner, batch, args, request),
            Class::Wait => self.wait(inner, batch, request),
            Class::Neutral | Class::Exec | Class::Discard | Class::Unwatch => {
                self.forward_plain(inner, batch, request)
            }
            _ => self.forward_write(inner, command, class, batch, args, request),
        };
        if let Next::Done | Next::End = next {
            inner.last_command = command.id;
            self.worker.counters.commands.add(1);
            if inner.reply_mode == ReplyMode::SkipNext && inner.mute {
                inner.reply_mode = ReplyMode::On;
            }
        }
        next
    }

    fn is_denied(&self, command: &Command) -> bool {
        let denied = &self.worker.shared.config.server.deny_commands;
        !denied.is_empty()
            && denied.iter().any(|name| {
                command.name.eq_ignore_ascii_case(name)
                    || command
                        .name
                        .split('|')
                        .next()
                        .is_some_and(|container| container.eq_ignore_ascii_case(name))
            })
    }

    /// What would turn a connection into a replica's is refused; what Redis takes for an attack by way of a browser
    /// ends the client's connection, as it does there.
    fn refuse_class(inner: &mut Inner, command: &Command) -> Next {
        if matches!(&*command.name, "post" | "host:") {
            return Next::End;
        }
        let text = format!(
            "ERR nearhit does not forward '{}': it would make the connection a replica's",
            command.name
        );
        inner.refuse(&text)
    }

    // ---- sending ------------------------------------------------------------------------------------------------

    /// The connection that this client's commands travel on.
    fn lane(&self, inner: &mut Inner) -> Result<Rc<Lane<Ticket>>, NoLane> {
        if let Some(exclusive) = &inner.exclusive {
            return Ok(Rc::clone(&exclusive.lane));
        }
        if let Some(lane) = &inner.lane {
            // A retired lane is left only when nothing is in flight on it: the order of a pipeline is the lane's.
            if lane.is_usable() || (lane.is_open() && (inner.has_private_lane || inner.in_flight > 0)) {
                let congested = lane.is_congested(self.waker.borrow().as_ref());
                return if congested { Err(NoLane::Wait) } else { Ok(Rc::clone(lane)) };
            }
            if inner.in_flight > 0 {
                return Err(NoLane::Wait);
            }
            inner.pin(None);
        }
        let lane = self.pick(&inner.profile)?;
        let shared = Rc::clone(&lane);
        inner.pin(Some(lane));
        Ok(shared)
    }

    fn pick(&self, profile: &Profile) -> Result<Pinned<Ticket>, NoLane> {
        let waker = self.waker.borrow().clone().unwrap_or_else(|| Waker::noop().clone());
        match self.worker.lanes.pick(profile, &waker) {
            Pick::Ready(lane) => Ok(lane),
            Pick::Dialing => Err(NoLane::Wait),
            Pick::Failed(error) => Err(NoLane::Failed(error)),
        }
    }

    /// Sends one command; `write` encodes it.
    fn send(
        self: &Rc<Self>,
        inner: &mut Inner,
        batch: &Batch,
        lane: &Rc<Lane<Ticket>>,
        place: Place,
        work: Work,
        write: impl FnOnce(&mut OutputBuffer),
    ) -> Next {
        let due = if work.may_take_its_time() {
            Nanos::FOREVER
        } else {
            batch.now + self.worker.shared.config.upstream.command_timeout
        };
        inner.expect(&place);
        self.worker.counters.upstream_commands.add(1);
        if let Err(ticket) = lane.send(Ticket::new(Rc::clone(self), place, work), due, write) {
            inner.settle(&ticket.place);
            let address = self.worker.shared.dialer.address();
            let text = ticket::error(&format!("nearhit: upstream {address} is not answering"));
            inner.output.complete(ticket.place.seq, Raw::Borrowed(&text), None);
            self.worker.mark_dirty(self);
        }
        Next::Done
    }

    /// Sends a command that the cache need not know of.
    fn forward_plain(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, request: Raw<'_>) -> Next {
        self.forward(inner, batch, request, Work::Plain)
    }

    /// Sends a command that is no read, behind the reads it must not overtake.
    fn forward(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, request: Raw<'_>, work: Work) -> Next {
        if inner.waits > 0 {
            return Next::Hold;
        }
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(reason) => return inner.no_lane(reason),
        };
        let place = inner.place();
        inner.last_write = Some(place.seq);
        self.send(inner, batch, &lane, place, work, |out| out.push(request))
    }

    // ---- what comes back ------------------------------------------------------------------------------------------

    /// A command of this client was answered.
    fn answered(self: &Rc<Self>, place: &Place, raw: Raw<'_>, fence: Option<Nanos>) {
        let mut inner = self.inner.borrow_mut();
        inner.settle(place);
        inner.output.complete(place.seq, raw, fence);
        drop(inner);
        self.worker.mark_dirty(self);
    }

    /// An MGET has all its parts, and must be looked at again once they are certified.
    fn deferred(self: &Rc<Self>, place: &Place, parts: mget::Parts) {
        let mut inner = self.inner.borrow_mut();
        inner.settle(place);
        let arrived = parts.arrived;
        inner.output.defer(place.seq, parts, arrived);
        drop(inner);
        self.worker.counters.fences.add(1);
        self.worker.mark_dirty(self);
    }

    /// The read that this one waited for was answered.
    fn joined(self: &Rc<Self>, seq: Seq, raw: Raw<'_>) {
        let mut inner = self.inner.borrow_mut();
        if let Some((_, key)) = inner.joined.remove(&seq) {
            inner.waits -= 1;
            inner.read_ended(key);
            inner.output.complete(seq, raw, None);
        }
        drop(inner);
        self.worker.mark_dirty(self);
    }

    /// The read that this one waited for came to nothing.
    fn ask_again(self: &Rc<Self>, seq: Seq) {
        let mut inner = self.inner.borrow_mut();
        if let Some((request, key)) = inner.joined.remove(&seq) {
            inner.waits -= 1;
            inner.read_ended(key);
            inner.ask_again(seq, request);
        }
        drop(inner);
        self.wake();
    }

    /// Writes what can be written, and looks after what the batch has changed.
    fn flush(self: &Rc<Self>) {
        let mut inner = self.inner.borrow_mut();
        self.advance(&mut inner);
        while !inner.output.ready().is_empty() {
            match write_some(&self.write, inner.output.ready()) {
                Ok(written) => inner.output.ready().advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.end(Ending::Now);
                    break;
                }
            }
        }
        let was_blocked = inner.is_write_blocked;
        inner.is_write_blocked = !inner.output.ready().is_empty();
        inner.output.ready().give_back(&mut self.worker.spare.borrow_mut());
        let limit = self.worker.shared.config.server.output_limit;
        if inner.output.undelivered() - inner.output.ready().front_len() > limit {
            self.worker.counters.output_limit_disconnections.add(1);
            tracing::warn!(client = self.info.id.0, peer = %self.info.peer, "cut off: server.output_limit");
            self.end(Ending::Now);
        }
        if inner.needs_attention(was_blocked) || self.ending.get() != Ending::No {
            self.wake();
        }
    }

    /// Moves what is due to the ready bytes.
    fn advance(self: &Rc<Self>, inner: &mut Inner) {
        let certifier = self.worker.shared.coherence.certifier();
        loop {
            match inner.output.advance(|moment| certifier.is_past(moment)) {
                Stop::Waiting => return,
                Stop::Deferred(seq, parts) => self.finish_mget(inner, seq, parts),
                Stop::Fence(moment) => {
                    // Parked first, asked second, looked at third: a certification in between is not missed.
                    self.worker.park(self);
                    certifier.want(moment);
                    if !certifier.is_past(moment) {
                        return;
                    }
                }
            }
        }
    }

    fn after_batch(self: &Rc<Self>, flow: &Flow) {
        let mut inner = self.inner.borrow_mut();
        inner.is_held = matches!(flow, Flow::Held);
        let quiet = inner.output.ready().is_empty() && !inner.is_write_blocked;
        drop(inner);
        if quiet {
            self.inner.borrow_mut().output.ready().give_back(&mut self.worker.spare.borrow_mut());
        } else {
            self.flush();
        }
    }

    // ---- ending -----------------------------------------------------------------------------------------------

    /// Wakes the session's task.
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn end(&self, ending: Ending) {
        self.ending.set(self.ending.get().max(ending));
    }

    /// Cuts the client off.
    fn kill(&self) {
        self.end(Ending::Now);
        self.wake();
    }

    fn kill_if_idle(&self, now: Nanos, idle_timeout: Duration) {
        let active = Nanos(self.info.active.load(Ordering::Relaxed));
        if now.since(active) > idle_timeout && self.inner.borrow().is_idle() {
            self.kill();
        }
    }

    /// Whether the session has come to its end: at once, or because nothing is owed any more.
    fn is_over(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let waits_for_others = inner.exclusive.as_ref().is_some_and(Exclusive::waits_for_others);
        match self.ending.get() {
            Ending::Now => true,
            Ending::AfterOutput => inner.is_delivered(),
            Ending::No if inner.input_ended => waits_for_others || (!inner.is_held && inner.is_delivered()),
            Ending::No if self.worker.draining.get() => {
                waits_for_others || (inner.is_idle() && inner.is_delivered())
            }
            Ending::No => false,
        }
    }
}

/// Whether large requests of a batch are left for [`Session::take_large`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LargeRequests {
    Copied,
    Apart,
}

impl Flow {
    fn transition(self) -> Option<Transition> {
        match self {
            Self::Await(transition) => Some(transition),
            Self::More | Self::Held | Self::Large(_) => None,
        }
    }
}

impl Inner {
    /// Answers with an error made here; `text` begins with its code.
    fn refuse(&mut self, text: &str) -> Next {
        self.reply(&crate::resp::Value::error(text))
    }

    /// Answers with a reply made here.
    fn reply(&mut self, value: &crate::resp::Value) -> Next {
        if !self.mute {
            let protocol = self.profile.protocol;
            self.output.append(|out| value.encode(protocol, out));
        }
        Next::Done
    }

    /// Redis's words for too few or too many arguments.
    fn wrong_arity(&mut self, name: &str) -> Next {
        self.refuse(&format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// Holds the request, or passes on what the server said, or says that it is not there.
    fn no_lane(&mut self, reason: NoLane) -> Next {
        match reason {
            NoLane::Wait => Next::Hold,
            NoLane::Failed(error) => self.reply_raw(&error.raw()),
        }
    }

    /// Answers with bytes made here.
    fn reply_raw(&mut self, raw: &[u8]) -> Next {
        if !self.mute {
            self.output.append(|out| out.extend_from_slice(raw));
        }
        Next::Done
    }

    /// A place for the reply of a command that is about to be sent.
    fn place(&mut self) -> Place {
        Place::new(self.output.reserve(self.mute))
    }

    /// Invariant 1, the client's part: no transaction, no WATCH, no subscription or tracking of its own (all of which
    /// have an exclusive connection), nothing in flight that may change anything, nothing to be asked again.
    fn is_eligible(&self) -> bool {
        self.barriers == 0 && self.again.is_empty() && self.exclusive.is_none() && !self.output.is_fenced()
    }

    /// Whether a read of this key is in flight, so that a hit would overtake it.
    fn reads(&self, key: impl FnOnce() -> u64) -> bool {
        !self.reading.is_empty() && self.reading.contains_key(&key())
    }

    /// Changes the shared lane.
    fn pin(&mut self, lane: Option<Pinned<Ticket>>) {
        self.lane = lane;
        self.has_private_lane = false;
    }

    fn expect(&mut self, place: &Place) {
        self.in_flight += 1;
        self.barriers += usize::from(place.barrier);
        for key in &place.reading {
            *self.reading.entry(*key).or_insert(0) += 1;
        }
    }

    fn settle(&mut self, place: &Place) {
        self.in_flight -= 1;
        self.barriers -= usize::from(place.barrier);
        for key in &place.reading {
            self.read_ended(*key);
        }
    }

    fn read_ended(&mut self, key: u64) {
        if let Some(count) = self.reading.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.reading.remove(&key);
            }
        }
    }

    /// Has a read asked again, in its old place.
    fn ask_again(&mut self, seq: Seq, request: Box<[u8]>) {
        self.waits += 1;
        self.again.push_back((seq, request));
    }

    /// Whether nothing of this client is under way, so that its connection may be changed.
    fn is_drained(&self) -> bool {
        self.in_flight == 0 && self.waits == 0
    }

    /// Whether the next request may be looked at.
    fn may_take(&self) -> bool {
        self.output.undelivered() < UNDELIVERED_BYTES_PAUSE && self.output.queued() < self.pipeline_max
    }

    /// Whether more bytes may be read.
    fn takes_more(&self) -> bool {
        !self.is_held && !self.input_ended && self.may_take()
    }

    /// Whether everything that is owed has been written.
    fn is_delivered(&mut self) -> bool {
        self.is_drained() && self.output.undelivered() == 0 && self.output.queued() == 0
    }

    /// Whether the client is between two requests, and not in the middle of anything.
    fn is_idle(&self) -> bool {
        self.is_drained() && self.held.is_none() && self.input.is_empty() && !self.has_state()
    }

    /// Whether the session's task has something to do that no event of its socket would tell it.
    fn needs_attention(&self, was_blocked: bool) -> bool {
        self.is_held
            || self.input_ended
            || self.is_write_blocked != was_blocked
            || !self.again.is_empty()
            || self.may_release()
    }

    /// Whether the server would take this client's commands.
    fn is_authenticated(&self) -> bool {
        self.profile.identity.user.is_some() || self.needs_auth != Some(true)
    }

    /// What the server said on the connection that this client is on.
    fn greeting(&self) -> Option<&Greeting> {
        let exclusive = self.exclusive.as_ref().map(|exclusive| &exclusive.lane.greeting);
        exclusive.or_else(|| self.lane.as_ref().map(|lane| &lane.greeting))
    }
}

impl Work {
    /// Whether there is no telling how long the server may rightly take.
    fn may_take_its_time(&self) -> bool {
        matches!(self, Self::Blocking { .. } | Self::Subscribe { .. } | Self::Monitor | Self::Wait)
    }
}

impl Session {
    fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.inner.borrow().profile.identity)
    }

    fn protocol(&self) -> Protocol {
        self.inner.borrow().profile.protocol
    }

    /// A SELECT inside a transaction, or on an exclusive connection, has taken effect.
    fn selected(&self, database: Database) {
        self.inner.borrow_mut().profile.database = database;
    }

    /// Whether a read whose connection died may be sent once more: only if nothing that is no read was sent after
    /// it, for it would see what came later.
    fn may_ask_again(&self, seq: Seq) -> bool {
        let inner = self.inner.borrow();
        self.worker.shared.config.upstream.retry_reads
            && self.ending.get() == Ending::No
            && inner.exclusive.is_none()
            && inner.last_write.is_none_or(|write| write < seq)
    }

    fn lost_read(self: &Rc<Self>, place: &Place, request: Box<[u8]>) {
        let mut inner = self.inner.borrow_mut();
        inner.settle(place);
        inner.ask_again(place.seq, request);
        drop(inner);
        self.worker.counters.retried_reads.add(1);
        self.wake();
    }

    /// Sends the reads again that came to nothing; false while they have to wait.
    fn ask_pending_again(self: &Rc<Self>, inner: &mut Inner) -> bool {
        while let Some((seq, request)) = inner.again.pop_front() {
            let lane = match self.lane(inner) {
                Ok(lane) => lane,
                Err(NoLane::Wait) => {
                    inner.again.push_front((seq, request));
                    return false;
                }
                Err(NoLane::Failed(error)) => {
                    inner.waits -= 1;
                    let raw = error.raw();
                    inner.output.complete(seq, Raw::Borrowed(&raw), None);
                    self.worker.mark_dirty(self);
                    continue;
                }
            };
            inner.waits -= 1;
            self.resend(inner, &lane, seq, &request);
        }
        true
    }
}

/// Why there is no connection to send on.
enum NoLane {
    /// One is on its way, or the one there is must be drained first.
    Wait,
    /// The upstream cannot be reached, or refuses.
    Failed(DialError),
}

impl DialError {
    /// The error reply that tells a client.
    fn raw(&self) -> Bytes {
        match self {
            Self::Refused(raw) => raw.clone(),
            error => ticket::error(&format!("nearhit: {error}")).into(),
        }
    }
}
