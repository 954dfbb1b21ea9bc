//! One client, from its first byte to its last.
//!
//! A request flows downward through this file: read a batch, scan, classify, one dispatch match, and after the batch
//! one write. Dispatch never awaits. A request that cannot be taken yet (a lane is being dialled, earlier replies
//! must come first) is held, and nothing behind it is looked at; what needs an await (a checkout, a password check)
//! is a transition, carried out between two requests when nothing is in flight.
//!
//! `state` is what the session is in the middle of, `output` what the client is owed, `ticket` what becomes of each
//! command in flight; `read`, `mget`, `write`, `exclusive`, `transaction`, `pubsub`, `local` and `client` are the ways
//! a request can go, `send` and `delivery` the ways to the connection and back; `audit` reads a share of the hits
//! again. The cache is reached through `coherence` alone.

pub mod arrival;
pub mod attempts;
mod audit;
mod client;
mod delivery;
mod exclusive;
mod hub;
mod inner;
mod large;
mod local;
mod mget;
mod output;
pub mod pause;
mod pubsub;
mod read;
pub mod registry;
mod send;
mod sharing;
mod state;
mod stats;
mod ticket;
mod topics;
mod transaction;
mod transition;
pub mod worker;
mod write;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use self::{
    inner::Inner, output::Output, registry::ClientInfo, send::NoLane, state::ReplyMode,
    transition::Transition, worker::Worker,
};
use crate::{
    clock::{self, Nanos},
    coherence::Batch,
    command::{Class, Command, Table},
    net::{ReadHalf, WriteHalf},
    resp::{Args, Protocol, Raw, RequestScanner, SHARED_BYTES_MIN, Scanned},
    upstream::connection::Profile,
};

/// While a client has this much undelivered, nothing more is taken from it.
const UNDELIVERED_BYTES_PAUSE: usize = 256 * 1024;

/// After so much input in one go it is the others' turn, whatever a client has to say.
const TURN_BYTES: usize = 64 * 1024;

/// An input buffer is read into in pieces of at least this size.
const INPUT_BYTES: usize = 16 * 1024;

/// A client's claim about the size of its request makes us reserve this much ahead at most.
const INPUT_RESERVE_MAX: usize = 4 * 1024 * 1024;

/// One client.
pub struct Session {
    worker: Rc<Worker>,
    info: Arc<ClientInfo>,
    /// Missing once the session has ended: what is still in flight keeps the session, but not the socket.
    write: RefCell<Option<WriteHalf>>,
    inner: RefCell<Inner>,
    /// In the worker's list of sessions with output to look at.
    dirty: Cell<bool>,
    /// In the worker's list of sessions that have put off writing.
    late: Cell<bool>,
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
    fn new(worker: Rc<Worker>, info: Arc<ClientInfo>, write: WriteHalf) -> Rc<Self> {
        let profile = Profile {
            identity: Arc::clone(worker.shared.identities.client_default()),
            database: worker.shared.default_database,
            protocol: Protocol::Resp2,
        };
        let inner = RefCell::new(Inner::new(
            profile,
            RequestScanner::new(worker.request_limits.get()),
            worker.shared.config.server.max_pipeline,
        ));
        Rc::new(Self {
            worker,
            info,
            write: RefCell::new(Some(write)),
            inner,
            dirty: Cell::new(false),
            late: Cell::new(false),
            parked: Cell::new(false),
            waker: RefCell::new(None),
            ending: Cell::new(Ending::No),
        })
    }

    /// Serves the client to its end. What it had in flight is finished by the lanes; nothing else is sent for it.
    async fn run(self: Rc<Self>, mut read: ReadHalf) {
        while let Some(transition) = poll_fn(|cx| self.poll(cx, &mut read)).await {
            // Most clients never wait for one, and what a handshake has in hand is large.
            let mut performed = Box::pin(self.perform(transition));
            // Who is cut off meanwhile waits for nothing. Whatever is cancelled leaves no connection in use.
            poll_fn(|cx| match self.ending.get() {
                Ending::Now => Poll::Ready(()),
                _ => performed.as_mut().poll(cx),
            })
            .await;
        }
        self.ending.set(Ending::Now);
        self.resume();
        let mut inner = self.inner.borrow_mut();
        inner.pin(None);
        self.leave_hub(&mut inner);
        inner.output = Output::new();
        if let Some(exclusive) = inner.exclusive.take() {
            exclusive.lane.hang_up();
        }
        drop(inner);
        self.write.replace(None);
        self.waker.replace(None);
        self.worker.forget(self.info.id);
    }

    /// Goes on until there is nothing to do; `None` is the end.
    fn poll(self: &Rc<Self>, cx: &mut Context<'_>, read: &mut ReadHalf) -> Poll<Option<Transition>> {
        if !self.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker.replace(Some(cx.waker().clone()));
        }
        let mut bytes_read = 0;
        loop {
            // Until the socket takes all or promises to wake us: being writable once more is told only to who asks.
            while self.ending.get() != Ending::Now && self.inner.borrow().is_write_blocked {
                let write = self.write.borrow();
                let Some(write) = write.as_ref() else { break };
                match write.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        self.write_out();
                    }
                    Poll::Ready(Err(_)) => self.ending.set(Ending::Now),
                    Poll::Pending => break,
                }
            }
            match self.take_input() {
                Some(transition) => return Poll::Ready(Some(transition)),
                None if self.is_over() => return Poll::Ready(None),
                None if bytes_read >= TURN_BYTES => return Poll::Ready(Some(Transition::Yield)),
                None => {}
            }
            if self.ending.get() != Ending::No || !self.inner.borrow().takes_more() || !self.knows_auth() {
                return self.poll_gone(cx, read);
            }
            match self.read(cx, read) {
                Poll::Ready(Ok(0)) => self.inner.borrow_mut().input_ended = true,
                Poll::Ready(Ok(len)) => bytes_read += len,
                Poll::Ready(Err(_)) => self.ending.set(Ending::Now),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// A client is not read from, but may wait for hours for what others do (BLPOP with RESET, QUIT or garbage behind
    /// it): that it has gone must be noticed all the same, for it has a connection of the upstream to itself.
    fn poll_gone(&self, cx: &mut Context<'_>, read: &mut ReadHalf) -> Poll<Option<Transition>> {
        let mut inner = self.inner.borrow_mut();
        let may_stay = self.is_blocked(&inner);
        while may_stay && !inner.input_ended && inner.input.len() < UNDELIVERED_BYTES_PAUSE {
            inner.input.reserve(INPUT_BYTES);
            match poll_read_buf(Pin::new(&mut *read), cx, &mut inner.input) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(_)) if self.ending.get() == Ending::AfterOutput => inner.input.clear(),
                Poll::Ready(Ok(_)) => {}
            }
        }
        Poll::Pending
    }

    /// Finds out whether the upstream wants a password before the first byte is looked at: what a client may send
    /// before AUTH is limited, and only a connection of its kind can tell. With the upstream gone nobody can.
    fn knows_auth(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.needs_auth.is_some() || inner.profile.identity.user.is_some() || inner.exclusive.is_some() {
            return true;
        }
        // A lane says so when the client is pinned to it; without one it is asked again later.
        !matches!(self.lane(&mut inner), Err(NoLane::Wait))
    }

    /// Reads once and takes what is complete. A client with nothing left over is read into the worker's own buffer,
    /// so that an idle client holds none.
    fn read(self: &Rc<Self>, cx: &mut Context<'_>, read: &mut ReadHalf) -> Poll<io::Result<usize>> {
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
            // First of all, for what is finished behind such a read may be more than a client may have undelivered,
            // and its end may wait for it.
            if self.ending.get() == Ending::Now || !self.ask_pending_again(&mut inner) {
                inner.is_held = true;
                return None;
            }
            if self.ending.get() != Ending::No || !inner.may_take() {
                inner.is_held = true;
                return None;
            }
            if inner.has_lost_exclusive() {
                self.lost_exclusive(&mut inner);
                // If that was the client's end, what lies in the input was meant for the transaction that is gone.
                continue;
            }
            if inner.may_release() {
                return Some(Transition::Release);
            }
            if inner.must_be_claimed() {
                return Some(Transition::BeClaimed);
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
            std::mem::replace(&mut inner.scanner, RequestScanner::new(self.worker.request_limits.get()));
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
        inner.output.ready().lend(&mut self.worker.spares.borrow_mut());
        let table = Arc::clone(&self.worker.table.borrow());
        let mut scanner =
            std::mem::replace(&mut inner.scanner, RequestScanner::new(self.worker.request_limits.get()));
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

    /// Every request comes through here, once for each try. A hit goes no further.
    #[expect(clippy::inline_always, reason = "passing the request on costs a hit a tenth of its time")]
    #[inline(always)]
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
        match class {
            Class::Cached(sameness) if self.hit(inner, command, sameness, batch, args) => Next::Done,
            _ => self.take_on(inner, command, class, batch, args, request),
        }
    }

    /// What is to be done about a request that is no hit.
    #[inline(never)]
    fn take_on(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        class: Class,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        inner.mute = inner.reply_mode != ReplyMode::On;
        let had_exclusive = inner.exclusive.is_some();
        let next = match inner.share.is_some() {
            // Within a transaction the server has to hear of it, too: see `Session::in_transaction`.
            _ if self.is_denied(&args[0]) && inner.transaction.is_none() => inner.refuse(&denial(&args[0])),
            true => self.on_share(inner, command, class, batch, args, request),
            false => self.route(inner, command, class, batch, args, request),
        };
        if let Next::Done | Next::End = next {
            inner.last_command = command.id;
            if had_exclusive {
                let queued =
                    inner.transaction.as_ref().map_or(-1, |transaction| transaction.queued.cast_signed());
                self.info.queued.store(queued as i64, Ordering::Relaxed);
            }
            self.worker.counters.commands.add(1);
            if inner.reply_mode == ReplyMode::SkipNext && inner.mute {
                inner.reply_mode = ReplyMode::On;
            }
        }
        next
    }

    /// The one dispatch match: each class of request goes its way.
    #[expect(clippy::inline_always, reason = "it has one caller, who has got the same arguments")]
    #[inline(always)]
    fn route(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        class: Class,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        match class {
            _ if inner.doomed.is_some() => self.in_doomed(inner, class, batch, args, request),
            _ if inner.exclusive.is_some() => self.on_exclusive(inner, command, class, batch, args, request),
            Class::Cached(sameness) => {
                let same = sameness.same(&args);
                self.read_cached(inner, command, same, batch, args, request)
            }
            Class::Mget => self.mget(inner, command, batch, args, request),
            Class::Session(local) => self.local(inner, local, batch, args, request),
            Class::Refused => Self::refuse_class(inner, command),
            Class::Urgent => Self::ask_apart(inner, &request),
            Class::Subscribe(_) => Self::acquire_subscription(inner, class, args),
            _ if class.needs_exclusive() || command.blocks(&args) || command.is_unheard_of() => {
                Self::acquire(inner, class)
            }
            Class::Read | Class::ReadUndeclared => self.forward_read(inner, command, batch, args, request),
            _ if self.worker.shared.pause.singles_out(class, batch.now) => Self::acquire(inner, class),
            Class::Wait => self.wait(inner, batch, request),
            Class::Neutral | Class::Exec | Class::Discard | Class::Unwatch => {
                self.forward_plain(inner, batch, request)
            }
            _ => self.forward_write(inner, command, class, batch, args, request),
        }
    }

    #[inline]
    fn is_denied(&self, name: &[u8]) -> bool {
        let denied = &self.worker.shared.config.server.deny_commands;
        !denied.is_empty() && denied.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
    }

    /// What would turn a connection into a replica's is refused; what Redis takes for an attack by way of a browser
    /// ends the client's connection, as it does there.
    fn refuse_class(inner: &mut Inner, command: &Command) -> Next {
        if ends_connection(command) {
            return Next::End;
        }
        let text = format!(
            "ERR nearhit does not forward '{}': it would make the connection a replica's",
            command.name
        );
        inner.refuse(&text)
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

    /// Cuts the client off: it sees the end of its connection now, and its task follows.
    fn kill(&self) {
        self.end(Ending::Now);
        self.write.replace(None);
        if let Some(exclusive) = &self.inner.borrow().exclusive {
            exclusive.lane.hang_up();
        }
        self.wake();
    }

    fn kill_if_idle(&self, now: Nanos, idle_timeout: Duration) {
        let active = Nanos(self.info.active.load(Ordering::Relaxed));
        if now.since(active) > idle_timeout && self.inner.borrow().is_waited_for() {
            self.kill();
        }
    }

    /// Whether the session has come to its end: at once, or because nothing is owed any more.
    fn is_over(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        match self.ending.get() {
            Ending::Now => true,
            Ending::AfterOutput => inner.is_delivered(),
            Ending::No if !inner.input_ended && !self.worker.draining.get() => false,
            Ending::No if self.is_blocked(&inner) => true,
            // It is owed its replies alone, not what it would be told as long as it stays.
            Ending::No if inner.listens() && inner.is_drained() => !(inner.is_held && inner.may_take()),
            Ending::No if inner.input_ended => !inner.is_held && inner.is_delivered(),
            Ending::No => inner.is_idle() && inner.is_delivered(),
        }
    }
}

/// Whether Redis hangs up on who sends it.
fn ends_connection(command: &Command) -> bool {
    matches!(&*command.name, "post" | "host:")
}

/// What a client is told of a command that the operator does not allow.
fn denial(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    format!("NOPERM this proxy does not allow '{name}' (server.deny_commands)")
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
