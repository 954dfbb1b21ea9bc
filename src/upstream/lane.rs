//! A pipelined connection to the upstream, shared by the clients of one worker.
//!
//! Requests are appended to one output buffer and replies are paired with them by count alone, because a Redis
//! answers every command exactly once and in order, refusals included. One driver task owns the socket: it is
//! woken once for whatever was appended since it last ran, so that the commands of many clients leave in one
//! write, and it hands out all the replies of one read before it lets the clients write. An exclusive
//! connection is a lane with a single user, and runs through the same code.
//!
//! A lane retries nothing. What was in flight when it died is told so, through [`Completion::lost`]. It knows whether
//! the server keeps it waiting ([`Lane::is_stalled`]); to leave it then is its clients' business.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::io::poll_read_buf;

use super::{
    completion::{Completion, Loss, Progress},
    connection::{Connection, Greeting, Profile},
    passing::{PIECE_BYTES, Passing},
};
use crate::{
    clock::{self, Nanos},
    net::{ReadHalf, Stream, WriteHalf},
    resp::{FrameKind, OutputBuffer, Raw, ReplyScanner, SHARED_BYTES_MIN},
};

/// Read at least this much at a time.
const READ_BYTES: usize = 64 * 1024;

/// While more than this waits to be written, clients with more requests wait too.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A lane on which nothing has come for this long is no place for a client that can go elsewhere. Few commands but
/// scripts take so much of the server's time, and a spare lane is cheap.
pub const STALLED_AFTER: Duration = Duration::from_millis(50);

/// With this many timed-out commands still unanswered, further ones are refused instead of queued behind them.
const ORPHANS_MAX: usize = 10_000;

/// What a lane's owner wants to be told.
pub struct Hooks {
    /// All replies of one read have been handed out: time to write to the clients.
    pub batch_end: Rc<dyn Fn()>,
    /// Sees every frame first. Returns it if it is a reply to a command in flight, and keeps it if nobody asked
    /// for it (a message, a push). `None`: pushes are dropped and everything else is a reply.
    pub unsolicited: Option<Unsolicited>,
    /// The lane has ended, by itself (with the reason) or because it was closed.
    pub ended: Ended,
}

/// See [`Hooks::ended`].
pub type Ended = Box<dyn FnOnce(Option<&Loss>)>;

/// See [`Hooks::unsolicited`].
pub type Unsolicited = Box<dyn for<'a> Fn(Raw<'a>, FrameKind, Nanos) -> Option<Raw<'a>>>;

pub(super) struct InFlight<C> {
    pub(super) completion: C,
    /// Since when its reply is waited for; [`Nanos::FOREVER`] if it may take its time.
    since: Nanos,
    orphan: bool,
}

impl<C> InFlight<C> {
    /// Whether its client has been answered that it has timed out.
    pub(super) fn is_orphan(&self) -> bool {
        self.orphan
    }
}

pub(super) struct Queue<C> {
    output: OutputBuffer,
    pub(super) in_flight: VecDeque<InFlight<C>>,
    orphans: usize,
}

/// The task that owns the reading half, and returns it from a lane that was closed clean.
type Driver = JoinHandle<Option<ReadHalf>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Closing,
    Dead,
}

/// A pipelined connection. Lives on one worker's thread.
pub struct Lane<C: Completion> {
    /// What the connection is agreed to be.
    pub profile: Profile,
    /// What the server said when it was made.
    pub greeting: Greeting,
    address: String,
    write: RefCell<Option<WriteHalf>>,
    pub(super) queue: RefCell<Queue<C>>,
    /// What is done of a large reply.
    pub(super) passing: Passing,
    state: Cell<State>,
    /// No client is to be pinned to it any more.
    retired: Cell<bool>,
    /// It serves one client alone, which may keep it waiting: see [`Lane::make_private`].
    private: Cell<bool>,
    pins: Cell<usize>,
    used: Cell<Nanos>,
    /// Since when the command at the head of the queue has been waited for; [`Nanos::FOREVER`] while there is none.
    waiting_since: Cell<Nanos>,
    /// How long the first reply of the last read had been waited for.
    round_trip: Cell<Duration>,
    /// When bytes of an unfinished reply last came in; [`Nanos::NEVER`] between replies.
    progress: Cell<Nanos>,
    /// When a command that may take its time (BLPOP, WAIT) was last answered, or the end of a large reply was read: only
    /// since then has the server been at what was sent behind it.
    pub(super) held_up_until: Cell<Nanos>,
    driver: RefCell<Option<Waker>>,
    kicked: Cell<bool>,
    congested: RefCell<Vec<Waker>>,
    task: RefCell<Option<Driver>>,
}

impl<C: Completion> Lane<C> {
    /// Starts a lane on a greeted connection. Must be called within a `LocalSet`.
    pub fn open(connection: Connection, address: String, hooks: Hooks) -> Rc<Self> {
        let (read, write) = connection.stream.into_split();
        let lane = Rc::new(Self {
            profile: connection.profile,
            greeting: connection.greeting,
            address,
            write: RefCell::new(Some(write)),
            queue: RefCell::new(Queue {
                output: OutputBuffer::default(),
                in_flight: VecDeque::new(),
                orphans: 0,
            }),
            passing: Passing::default(),
            state: Cell::new(State::Open),
            retired: Cell::new(false),
            private: Cell::new(false),
            pins: Cell::new(0),
            used: Cell::new(clock::now()),
            waiting_since: Cell::new(Nanos::FOREVER),
            round_trip: Cell::new(Duration::MAX),
            progress: Cell::new(Nanos::NEVER),
            held_up_until: Cell::new(Nanos::NEVER),
            driver: RefCell::new(None),
            kicked: Cell::new(false),
            congested: RefCell::new(Vec::new()),
            task: RefCell::new(None),
        });
        let task = spawn_local(drive(Rc::clone(&lane), read, hooks));
        lane.task.replace(Some(task));
        lane
    }

    /// Queues one command, which `write` encodes; it may be several requests if the completion expects as many
    /// replies. `since` is from when on the time counts after which to give up waiting; [`Nanos::FOREVER`]: never. Gives the
    /// completion back if the lane takes nothing any more.
    pub fn send(
        &self,
        completion: C,
        now: Nanos,
        since: Nanos,
        write: impl FnOnce(&mut OutputBuffer),
    ) -> Result<(), C> {
        let mut queue = self.queue.borrow_mut();
        if self.state.get() != State::Open || queue.orphans >= ORPHANS_MAX {
            return Err(completion);
        }
        write(&mut queue.output);
        if queue.in_flight.is_empty() {
            self.waiting_since.set(now);
        }
        queue.in_flight.push_back(InFlight { completion, since, orphan: false });
        drop(queue);
        self.kick();
        Ok(())
    }

    /// Whether commands can be sent on it.
    pub fn is_open(&self) -> bool {
        self.state.get() == State::Open
    }

    /// Whether a client may be pinned to it or stay so.
    pub fn is_usable(&self) -> bool {
        self.is_open() && !self.retired.get()
    }

    /// Whether a client with nothing in flight had better go elsewhere: a large reply is under way, or a large request, or
    /// the server keeps the lane waiting. Then it may answer elsewhere, if only with -BUSY.
    pub fn is_stalled(&self, now: Nanos) -> bool {
        self.passing.is_on() || self.is_silent(now) || self.queue.borrow().output.len() > BACKLOG_BYTES_MAX
    }

    /// Whether the server keeps this lane waiting for longer than [`STALLED_AFTER`]: it runs a long script, or one of
    /// the commands is held up by CLIENT PAUSE.
    fn is_silent(&self, now: Nanos) -> bool {
        now.since(self.waiting_since.get()) > STALLED_AFTER
    }

    /// Whether a reply can be expected so soon: the last one came as fast, and none is waited for longer.
    pub fn answers_within(&self, bound: Duration, now: Nanos) -> bool {
        self.round_trip.get() < bound && now.since(self.waiting_since.get()) < bound
    }

    /// Whether the command that it is at has timed out, and nothing has come since. The server may be busy, or the lane
    /// may end in something that takes in bytes and passes on none: there is no telling by the lane alone.
    pub fn is_given_up(&self, now: Nanos) -> bool {
        self.is_silent(now) && self.queue.borrow().in_flight.front().is_some_and(|entry| entry.orphan)
    }

    /// Whether the upstream takes in requests too slowly; then `waker` is woken when it has caught up.
    pub fn is_congested(&self, waker: Option<&Waker>) -> bool {
        let congested = self.queue.borrow().output.len() > BACKLOG_BYTES_MAX;
        if let (true, Some(waker)) = (congested, waker) {
            let mut waiting = self.congested.borrow_mut();
            if !waiting.iter().any(|other| other.will_wake(waker)) {
                waiting.push(waker.clone());
            }
        }
        congested
    }

    /// Lets no further client in. Clients move away as they become idle, and the last one closes it.
    pub fn retire(&self) {
        self.retired.set(true);
        self.close_if_unused();
    }

    /// Retires it for the sake of one of its clients, whose next command will hold it up (WAIT). Whatever the others
    /// send from now on would wait behind that: they leave as soon as they are idle, and send nothing before.
    pub fn make_private(&self) {
        self.private.set(true);
        self.retire();
    }

    /// Whether it is one client's own.
    pub fn is_private(&self) -> bool {
        self.private.get()
    }

    /// Closes a lane that is idle for longer than `idle`, or retired, and that nobody is pinned to.
    pub fn close_if_idle(&self, now: Nanos, idle: Duration) {
        if self.pins.get() == 0 && now.since(self.used.get()) > idle {
            self.retire();
        }
    }

    /// Closes a lane that was retired, that nobody is pinned to, and on which nobody waits for a reply: the late ones may
    /// never come.
    pub fn close_if_abandoned(&self, now: Nanos) {
        let is_abandoned = self.retired.get() && self.pins.get() == 0 && self.is_given_up(now);
        if is_abandoned && self.queue.borrow().in_flight.iter().all(|entry| entry.orphan) {
            self.close();
        }
    }

    /// Ends the lane now; what is in flight is lost.
    pub fn close(&self) {
        if self.state.get() == State::Open {
            self.state.set(State::Closing);
            self.kick();
        }
    }

    /// The same for a client that has gone. The server gets what it has not got yet, and hears of the end at once: a BLPOP
    /// would take what is pushed next.
    pub fn hang_up(&self) {
        self.close();
        let Some(write) = self.write.take() else { return };
        let output = &mut self.queue.borrow_mut().output;
        while !output.is_empty()
            && let Ok(written) = write_some(&write, output)
        {
            output.advance(written);
        }
    }

    /// Ends a lane on which nothing is in flight and returns its socket; `None` if it is not clean.
    ///
    /// Cancelled, it leaves the lane closed.
    pub async fn into_stream(&self) -> Option<Stream> {
        self.close();
        let task = self.task.borrow_mut().take()?;
        let read = task.await.ok()??;
        let write = self.write.borrow_mut().take()?;
        read.reunite(write)
    }

    /// Answers those whose time is up. A reply that is still coming in holds up all behind it, rightly, and so does a
    /// command that may take its time.
    pub fn sweep(&self, now: Nanos, timeout: Duration) {
        let waits_for_reader = self.watch_reader(now);
        if waits_for_reader {
            self.progress.set(now);
        }
        let mut queue = self.queue.borrow_mut();
        let Queue { in_flight, orphans, .. } = &mut *queue;
        if in_flight.front().is_some_and(|head| waits_for_reader || head.since == Nanos::FOREVER) {
            in_flight.iter_mut().skip(1).for_each(|entry| entry.completion.held_up());
        }
        let progress = self.progress.get();
        if progress != Nanos::NEVER && now.since(progress) < timeout {
            return;
        }
        let earliest = self.held_up_until.get();
        let in_turn = in_flight.iter_mut().take_while(|entry| entry.since != Nanos::FOREVER);
        for entry in in_turn.filter(|entry| !entry.orphan && entry.since.max(earliest) + timeout <= now) {
            entry.orphan = true;
            *orphans += 1;
            entry.completion.timed_out();
        }
    }

    fn close_if_unused(&self) {
        // With nobody pinned to it, a WAIT is its client's that has gone.
        let is_waited_for =
            || self.queue.borrow().in_flight.front().is_some_and(|entry| entry.since != Nanos::FOREVER);
        if self.retired.get() && self.pins.get() == 0 && !is_waited_for() {
            self.hang_up();
        }
    }

    /// Wakes the driver, once for everything that is queued before it runs.
    pub(super) fn kick(&self) {
        if !self.kicked.replace(true)
            && let Some(waker) = self.driver.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Writes what the socket takes; registers for more if it does not take all.
    fn poll_write(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let write = self.write.borrow();
        let Some(write) = write.as_ref() else { return Ok(()) };
        let mut queue = self.queue.borrow_mut();
        while !queue.output.is_empty() {
            match write_some(write, &queue.output) {
                Ok(written) => queue.output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match write.poll_write_ready(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => break,
                },
                Err(error) => return Err(error),
            }
        }
        if queue.output.len() <= BACKLOG_BYTES_MAX {
            self.congested.borrow_mut().drain(..).for_each(Waker::wake);
        }
        Ok(())
    }

    /// Hands one frame to the command it answers.
    fn complete(&self, raw: Raw<'_>, arrived: Nanos) -> Result<(), String> {
        let mut queue = self.queue.borrow_mut();
        if queue.in_flight.front_mut().is_some_and(|head| head.completion.absorb(&raw)) {
            return Ok(());
        }
        let Some(mut entry) = queue.in_flight.pop_front() else {
            return Err("a reply that nobody asked for".into());
        };
        drop(queue);
        match entry.completion.reply(raw, arrived) {
            Progress::More => self.queue.borrow_mut().in_flight.push_front(entry),
            Progress::Done => self.ended(&entry, arrived),
        }
        Ok(())
    }

    /// A command has its last reply.
    pub(super) fn ended(&self, entry: &InFlight<C>, arrived: Nanos) {
        if entry.since == Nanos::FOREVER {
            self.held_up_until.set(arrived);
        } else if entry.orphan {
            self.queue.borrow_mut().orphans -= 1;
        }
    }
}

/// One write of as much as can be offered at once.
pub fn write_some(write: &WriteHalf, output: &OutputBuffer) -> io::Result<usize> {
    if let Some(bytes) = output.contiguous() {
        return write.try_write(bytes);
    }
    let mut slices = [IoSlice::new(&[]); 64];
    let count = output.slices(&mut slices);
    write.try_write_vectored(&slices[..count])
}

/// The driver: owns the reading half and ends when the lane does. Returns the half if the lane was closed clean.
async fn drive<C: Completion>(lane: Rc<Lane<C>>, mut read: ReadHalf, hooks: Hooks) -> Option<ReadHalf> {
    let mut reader = Reader { buffer: BytesMut::new(), scanner: ReplyScanner::new() };
    let result = poll_fn(|cx| lane.poll(cx, &mut read, &mut reader, &hooks)).await;
    lane.state.set(State::Dead);
    let left: Vec<_> = lane.queue.borrow_mut().in_flight.drain(..).collect();
    let clean = result.is_ok() && left.is_empty() && reader.buffer.is_empty();
    let reason = match &result {
        Ok(()) => "it was closed".to_owned(),
        Err(reason) => reason.clone(),
    };
    let loss = Loss { address: lane.address.clone(), reason };
    for entry in left {
        entry.completion.lost(&loss);
    }
    lane.congested.borrow_mut().drain(..).for_each(Waker::wake);
    (hooks.ended)(result.is_err().then_some(&loss));
    (hooks.batch_end)();
    clean.then_some(read)
}

pub(super) struct Reader {
    pub(super) buffer: BytesMut,
    pub(super) scanner: ReplyScanner,
}

impl<C: Completion> Lane<C> {
    fn poll(
        &self,
        cx: &mut Context<'_>,
        read: &mut ReadHalf,
        reader: &mut Reader,
        hooks: &Hooks,
    ) -> Poll<Result<(), String>> {
        if !self.driver.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.driver.replace(Some(cx.waker().clone()));
        }
        loop {
            self.kicked.set(false);
            if self.state.get() == State::Closing {
                return Poll::Ready(Ok(()));
            }
            self.poll_write(cx).map_err(|error| error.to_string())?;
            if self.must_pause() {
                return Poll::Pending;
            }
            reader.reserve(self.passing.is_on());
            match poll_read_buf(Pin::new(&mut *read), cx, &mut reader.buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err("it closed the connection".into())),
                Poll::Ready(Ok(_)) => {
                    // After the read, so that no reply is ever dated before the server sent it.
                    let arrived = clock::now();
                    self.used.set(arrived);
                    let asked = self.queue.borrow().in_flight.front().map(|head| head.since);
                    if let Some(asked) = asked.filter(|asked| *asked != Nanos::FOREVER) {
                        self.round_trip.set(arrived.since(asked));
                    }
                    let result = self.deliver(reader, hooks, arrived);
                    let waits = !self.queue.borrow().in_flight.is_empty();
                    self.waiting_since.set(if waits { arrived } else { Nanos::FOREVER });
                    (hooks.batch_end)();
                    result?;
                    self.close_if_unused();
                }
            }
        }
    }

    /// Hands out all complete frames of the buffer.
    fn deliver(&self, reader: &mut Reader, hooks: &Hooks, arrived: Nanos) -> Result<(), String> {
        let mut start = 0;
        loop {
            let frame = reader.scanner.scan(&reader.buffer[start..]).map_err(|error| error.to_string())?;
            let Some(frame) = frame else { break };
            if self.passing.is_on() {
                let bytes = reader.buffer.split_to(frame.len).freeze();
                self.last_piece(bytes, arrived);
            } else if frame.len >= SHARED_BYTES_MIN {
                reader.buffer.advance(start);
                start = 0;
                let bytes = reader.buffer.split_to(frame.len).freeze();
                self.route(Raw::Shared(bytes), frame.kind, hooks, arrived)?;
            } else {
                let raw = Raw::Borrowed(&reader.buffer[start..start + frame.len]);
                self.route(raw, frame.kind, hooks, arrived)?;
                start += frame.len;
            }
        }
        reader.buffer.advance(start);
        self.pass_on(reader, arrived);
        let is_between = reader.buffer.is_empty() && !self.passing.is_on();
        self.progress.set(if is_between { Nanos::NEVER } else { arrived });
        Ok(())
    }

    fn route(&self, raw: Raw<'_>, kind: FrameKind, hooks: &Hooks, arrived: Nanos) -> Result<(), String> {
        let raw = match &hooks.unsolicited {
            Some(unsolicited) => unsolicited(raw, kind, arrived),
            None => (kind == FrameKind::Reply).then_some(raw),
        };
        raw.map_or(Ok(()), |raw| self.complete(raw, arrived))
    }
}

impl Reader {
    /// Room for the rest of a large frame, or for one ordinary read. An empty buffer that a large frame has
    /// left behind is dropped, not kept.
    fn reserve(&mut self, is_passed_on: bool) {
        if self.buffer.is_empty() && self.buffer.capacity() > 4 * READ_BYTES {
            self.buffer = BytesMut::new();
        }
        let all = self.scanner.bytes_wanted();
        let wanted = if is_passed_on { all.min(PIECE_BYTES) } else { all }.max(READ_BYTES / 4);
        if self.buffer.capacity() - self.buffer.len() < wanted {
            self.buffer.reserve(wanted.max(READ_BYTES));
        }
    }
}

/// A client's hold on a lane; letting go of the last one lets a retired lane close.
pub struct Pinned<C: Completion>(Rc<Lane<C>>);

impl<C: Completion> Pinned<C> {
    /// Pins one client.
    pub fn new(lane: Rc<Lane<C>>) -> Self {
        lane.pins.set(lane.pins.get() + 1);
        Self(lane)
    }
}

impl<C: Completion> std::ops::Deref for Pinned<C> {
    type Target = Rc<Lane<C>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<C: Completion> Drop for Pinned<C> {
    fn drop(&mut self) {
        self.0.pins.set(self.0.pins.get() - 1);
        self.0.used.set(clock::now());
        self.0.close_if_unused();
    }
}

impl<C: Completion> Lane<C> {
    /// How many clients are pinned to it.
    pub fn pins(&self) -> usize {
        self.pins.get()
    }
}
