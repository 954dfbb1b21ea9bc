//! What the sessions of one thread share: lanes, output in progress, fences, and the mailbox through which other
//! workers answer waiters here.
//!
//! A worker is one current-thread runtime, so all of this is plain cells. What crosses threads is in [`Shared`], or
//! comes as [`Mail`].

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{
        Notify, Semaphore,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    task::spawn_local,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Session, attempts::Attempts, audit::Auditor, hub::Hubs, pause::Pause, registry::Registry, ticket::Ticket,
};
use crate::{
    clock::{self, Nanos},
    coherence::Coherence,
    command::{Table, Users},
    config::{CacheMode, Config},
    ids::{ClientId, Database, ServerId, WorkerId},
    metrics::{Counters, Metrics},
    mutation::Mutation,
    net::Resting,
    resp::{Limits, Raw},
    upstream::{
        backoff::backoff,
        connection::Dialer,
        control::Question,
        health::Health,
        identity::{Identities, Identity},
        lane::Lane,
        lanes::{Lanes, Policy},
        pool::Pool,
    },
};

/// How often timeouts are looked for. A timeout is late by this much at most.
const TICK: Duration = Duration::from_millis(100);

/// One read from a client's socket takes this much at most.
const SCRATCH_BYTES: usize = 64 * 1024;

/// How many buffers for requests in flight are kept, and how large a one at most: 2 MiB a worker.
const BUFFERS_MAX: usize = 4096;
const BUFFER_BYTES_MAX: usize = 512;

/// How often a user is looked for whom the upstream neither knows nor disowns.
const EXAMINATIONS_MAX: u32 = 10;

/// Who waits for a reply that another client has asked for.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    pub(super) worker: WorkerId,
    pub(super) client: ClientId,
    pub(super) seq: u64,
}

/// What a waiter gets.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The reply.
    Reply(Bytes),
    /// A nil, which each client reads in its own protocol.
    Nil,
    /// Nothing that could serve it: it must ask for itself.
    Again,
}

/// What reaches a worker from other threads. The mailbox has no limit of its own: its letters are bounded by the
/// requests in flight, the clients and the operator's hand.
pub enum Mail {
    /// A new client.
    Client(Resting, ClientId),
    /// A waiter's reply.
    Answer(Box<(Waiter, AnswerOutcome)>),
    /// The table of commands has grown; and the longest argument the server takes, if it says.
    Server(Arc<Table>, Option<usize>),
    /// A client is to be cut off. Whoever waits for that has the channel's other end, and hears when it is dropped.
    Kill(ClientId, mpsc::Sender<()>),
    /// Whether clients have to authenticate may have changed: those to come are not like those there are.
    StrangersApart,
    /// A client is to have a connection of its own, since another's invalidations are redirected to it.
    Claim(ClientId),
    /// Finish what is in hand and take nothing more.
    Drain,
    /// Cut everybody off.
    Stop,
}

/// The outcome of [`Mail::Answer`]; opaque outside this room.
pub struct AnswerOutcome(Outcome);

/// What all workers are started with.
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// The door to the cache.
    pub coherence: Arc<Coherence<Waiter>>,
    /// Where the upstream is.
    pub dialer: Arc<Dialer>,
    /// Whether it is there.
    pub health: Arc<Health>,
    /// Who has authenticated.
    pub identities: Arc<Identities>,
    /// Who has failed to.
    pub attempts: Attempts,
    /// Exclusive connections for transactions.
    pub transactions: Pool,
    /// Exclusive connections for blocking commands.
    pub blocking: Pool,
    /// Exclusive connections for subscriptions and the like.
    pub subscribed: Pool,
    /// Lanes that WAIT has made a client's own; as many as there may be blocked clients.
    pub private_lanes: Arc<Semaphore>,
    /// Questions to the control thread.
    pub questions: tokio::sync::mpsc::Sender<Question>,
    /// The database a client begins in: that of `upstream.url`.
    pub default_database: Database,
    /// Whether the server holds up its clients.
    pub pause: Pause,
    /// All clients.
    pub registry: Arc<Registry>,
    /// All threads' counters.
    pub metrics: Arc<Metrics>,
    /// Every worker's mailbox.
    pub mailboxes: Vec<UnboundedSender<Mail>>,
}

/// An exclusive connection and its client.
type Watched = (Weak<Lane<Ticket>>, Weak<Session>);

/// One thread's share.
pub struct Worker {
    pub(super) id: WorkerId,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) lanes: Rc<Lanes<Ticket>>,
    pub(super) table: RefCell<Arc<Table>>,
    /// For clients to come; those there are keep theirs.
    pub(super) request_limits: Cell<Limits>,
    sessions: RefCell<HashMap<ClientId, Rc<Session>>>,
    /// Sessions that have bytes to write since the last batch.
    dirty: Rc<RefCell<Vec<Rc<Session>>>>,
    /// Sessions that have put off writing since the last tick.
    late: RefCell<Vec<Rc<Session>>>,
    /// See [`Worker::copy`].
    buffers: RefCell<Vec<Vec<u8>>>,
    /// Sessions whose first reply waits for a certification.
    parked: RefCell<Vec<Rc<Session>>>,
    /// Exclusive connections with their clients, for their timeouts.
    exclusive: RefCell<Vec<Watched>>,
    /// Shared subscription connections.
    pub(super) hubs: Hubs,
    pub(super) auditor: Auditor,
    /// The read buffer of whoever is reading.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// Write buffers for whoever has bytes to write and none of its own.
    pub(super) spares: RefCell<Vec<Vec<u8>>>,
    hasher: foldhash::fast::RandomState,
    pub(super) draining: Cell<bool>,
    /// Users of whom a connection was lost, for [`Worker::examine`].
    suspects: RefCell<VecDeque<Arc<Identity>>>,
    suspected: Notify,
    server: Cell<ServerId>,
}

impl Worker {
    /// Sets up a worker. Must be called on its own thread, within its `LocalSet`.
    pub fn new(id: WorkerId, shared: Arc<Shared>, table: Arc<Table>) -> Rc<Self> {
        let upstream = &shared.config.upstream;
        let policy = Policy {
            per_profile: upstream.lanes,
            backoff: (upstream.backoff_min, upstream.backoff_max),
            command_timeout: upstream.command_timeout,
        };
        let counters = Arc::clone(shared.metrics.worker(id.0));
        let dirty: Rc<RefCell<Vec<Rc<Session>>>> = Rc::default();
        let flush = {
            let dirty = Rc::clone(&dirty);
            Rc::new(move || flush(&dirty))
        };
        Rc::new_cyclic(|this: &Weak<Self>| Self {
            id,
            counters: Arc::clone(&counters),
            lanes: Lanes::new(
                Arc::clone(&shared.dialer),
                Arc::clone(&shared.health),
                shared.questions.clone(),
                policy,
                Arc::clone(&counters),
                flush,
                {
                    let this = Weak::clone(this);
                    Rc::new(move |identity| {
                        if let Some(worker) = this.upgrade() {
                            worker.suspect(identity);
                        }
                    })
                },
            ),
            table: RefCell::new(table),
            request_limits: Cell::new(Limits {
                request_bytes_max: shared.config.server.max_request,
                ..Limits::default()
            }),
            sessions: RefCell::default(),
            dirty,
            late: RefCell::default(),
            buffers: RefCell::default(),
            parked: RefCell::default(),
            exclusive: RefCell::default(),
            hubs: Hubs::default(),
            auditor: Auditor::new(shared.config.audit.sample, counters),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            spares: RefCell::default(),
            hasher: foldhash::fast::RandomState::default(),
            draining: Cell::new(false),
            suspects: RefCell::default(),
            suspected: Notify::new(),
            server: Cell::new(ServerId::UNKNOWN),
            shared,
        })
    }

    /// Serves until it is told to drain or stop and the last client has gone.
    pub async fn run(self: Rc<Self>, mut mail: UnboundedReceiver<Mail>) {
        let certified = self.shared.coherence.certifier().worker(self.id.0);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        spawn_local(Rc::clone(&self).examine());
        loop {
            tokio::select! {
                biased;
                letter = mail.recv() => match letter {
                    Some(letter) => self.open(letter),
                    None => return,
                },
                () = certified.notified() => self.certified(),
                _ = tick.tick() => self.tick(),
            }
            if self.draining.get() && self.sessions.borrow().is_empty() {
                return;
            }
        }
    }

    /// A connection of this user was lost: the server may have closed it because it has deleted the user.
    pub(super) fn suspect(&self, identity: &Arc<Identity>) {
        let mut suspects = self.suspects.borrow_mut();
        if identity.is_verified() && !suspects.iter().any(|other| other.id == identity.id) {
            suspects.push_back(Arc::clone(identity));
            self.suspected.notify_one();
        }
    }

    /// Cuts off the clients of users that are gone, for ever. The server closes all connections of a user that it deletes,
    /// so that an idle client knows at once; here it is the user's lanes and exclusive connections that it closes.
    async fn examine(self: Rc<Self>) {
        loop {
            let suspect = self.suspects.borrow_mut().pop_front();
            let Some(identity) = suspect else {
                self.suspected.notified().await;
                continue;
            };
            if self.is_gone(&identity).await {
                self.sessions.borrow().values().for_each(|session| session.kill_if_of(identity.id));
            }
        }
    }

    /// Whether the upstream does not know this user any more. One of whom it does not say so, for long, is found out by
    /// the next connection that is dialled for it.
    async fn is_gone(&self, identity: &Identity) -> bool {
        let Shared { config, dialer, health, .. } = &*self.shared;
        for failures in 0..EXAMINATIONS_MAX {
            health.wait_until_up().await;
            let Some(credentials) = identity.credentials() else { return false };
            match dialer.judge(&credentials.auth()).await {
                Ok(None) => return false,
                // Unless another password has been accepted meanwhile.
                Ok(Some(refusal)) if refusal.starts_with(b"-WRONGPASS") => {
                    if identity.credentials().as_ref() == Some(&credentials) {
                        return true;
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
            sleep(backoff(failures, (config.upstream.backoff_min, config.upstream.backoff_max))).await;
        }
        false
    }

    /// The hash of a key, for a session's own books.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        key.hash(&mut hasher);
        std::hash::Hasher::finish(&hasher)
    }

    /// The moment a reply that arrived at `arrived` has to wait for, if it must not outrun the invalidations.
    pub(super) fn fence(&self, arrived: Nanos) -> Option<Nanos> {
        let certifier = self.shared.coherence.certifier();
        if certifier.is_past(arrived) {
            return None;
        }
        self.counters.fences.add(1);
        certifier.want(arrived);
        Some(arrived)
    }

    /// The same for news (invariant 11): a message, or a reply that somebody else's write has brought about.
    pub(super) fn news_fence(&self, arrived: Nanos) -> Option<Nanos> {
        let is_ordered = self.shared.config.coherence.order_messages && !Mutation::MessageBeforePush.is_on();
        is_ordered.then(|| self.fence(arrived)).flatten()
    }

    /// Whether there can ever be a hit.
    pub(super) fn caches(&self) -> bool {
        self.shared.config.cache.mode != CacheMode::Off
    }

    /// A copy of a request, in a buffer that may have been used before: those in flight are many and short-lived, which
    /// is what an allocator is slowest at.
    pub(super) fn copy(&self, request: &[u8]) -> Vec<u8> {
        let mut buffer = self.buffers.borrow_mut().pop().unwrap_or_default();
        buffer.extend_from_slice(request);
        buffer
    }

    /// Takes back what [`Worker::copy`] gave.
    pub(super) fn reuse(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() <= BUFFER_BYTES_MAX && buffers.len() < BUFFERS_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// Has the session's output looked at when the batch ends.
    pub(super) fn mark_dirty(&self, session: &Rc<Session>) {
        if !session.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(session));
        }
    }

    /// Has the session's output written at the next tick, if it has not been by then.
    pub(super) fn write_later(&self, session: &Rc<Session>) {
        if !session.late.replace(true) {
            self.late.borrow_mut().push(Rc::clone(session));
        }
    }

    /// Writes what the batch has brought to each client.
    pub(super) fn flush_dirty(&self) {
        flush(&self.dirty);
    }

    /// Wakes this session at the next certification.
    pub(super) fn park(&self, session: &Rc<Session>) {
        if !session.parked.replace(true) {
            self.shared.coherence.certifier().park();
            self.parked.borrow_mut().push(Rc::clone(session));
        }
    }

    /// Takes care of an exclusive connection's timeouts.
    pub(super) fn watch_exclusive(&self, lane: &Rc<Lane<Ticket>>, session: &Rc<Session>) {
        self.exclusive.borrow_mut().push((Rc::downgrade(lane), Rc::downgrade(session)));
    }

    /// Answers one who waits, on whatever worker.
    pub(super) fn answer(&self, waiter: Waiter, outcome: Outcome) {
        if waiter.worker == self.id {
            self.answer_here(waiter, outcome);
        } else {
            self.post(waiter.worker, Mail::Answer(Box::new((waiter, AnswerOutcome(outcome)))));
        }
    }

    /// Sends a letter to a worker. One that has ended has no clients left that it could concern.
    pub(super) fn post(&self, to: WorkerId, letter: Mail) {
        if let Some(mailbox) = self.shared.mailboxes.get(to.0) {
            let _ = mailbox.send(letter);
        }
    }

    /// A command may have changed these users. Strangers to come are not to be taken for what those there are, and what
    /// else is different the health check finds out.
    pub(super) fn changed(&self, users: Users) {
        if users == Users::Default {
            (0..self.shared.mailboxes.len()).for_each(|one| self.post(WorkerId(one), Mail::StrangersApart));
        }
        if users != Users::None {
            self.shared.health.suspect("a client has changed users");
        }
    }

    /// From when on the timeout of a command that is sent at `now` counts: a pause puts that off.
    pub(super) fn since(&self, now: Nanos) -> Nanos {
        now.max(self.shared.pause.until())
    }

    /// Forgets a session that has ended.
    pub(super) fn forget(&self, client: ClientId) {
        if self.sessions.borrow_mut().remove(&client).is_some() {
            self.counters.clients.sub(1);
        }
        self.shared.registry.remove(client);
    }

    fn answer_here(&self, waiter: Waiter, outcome: Outcome) {
        let session = self.sessions.borrow().get(&waiter.client).cloned();
        let Some(session) = session else { return };
        match outcome {
            Outcome::Reply(bytes) => session.joined(waiter.seq, Raw::Shared(bytes)),
            Outcome::Nil => {
                session.joined(waiter.seq, Raw::Borrowed(crate::resp::reply::nil(session.protocol())));
            }
            Outcome::Again => session.ask_again(waiter.seq),
        }
    }

    fn open(self: &Rc<Self>, letter: Mail) {
        match letter {
            Mail::Client(stream, client) => self.welcome(stream, client),
            Mail::Answer(answer) => {
                let (waiter, AnswerOutcome(outcome)) = *answer;
                self.answer_here(waiter, outcome);
                self.flush_dirty();
            }
            Mail::Server(table, bulk_bytes_max) => {
                self.table.replace(table);
                let mut limits = self.request_limits.get();
                limits.bulk_bytes_max = bulk_bytes_max.unwrap_or(Limits::default().bulk_bytes_max);
                self.request_limits.set(limits);
            }
            Mail::Kill(client, _seen_off) => {
                if let Some(session) = self.sessions.borrow().get(&client) {
                    session.kill();
                }
            }
            Mail::StrangersApart => self.lanes.set_aside(self.shared.identities.client_default().id),
            Mail::Claim(client) => {
                if let Some(session) = self.sessions.borrow().get(&client) {
                    session.claimed();
                }
            }
            Mail::Drain => {
                self.draining.set(true);
                self.sessions.borrow().values().for_each(|session| session.wake());
            }
            Mail::Stop => {
                self.draining.set(true);
                self.sessions.borrow().values().for_each(|session| session.kill());
            }
        }
    }

    fn welcome(self: &Rc<Self>, stream: Resting, client: ClientId) {
        let Ok(stream) = stream.wake() else {
            return self.shared.registry.remove(client);
        };
        let (read, write) = stream.into_split();
        let Some(info) = self.shared.registry.get(client) else { return };
        if info.is_doomed() {
            // Its killer's letter has come before it.
            return self.shared.registry.remove(client);
        }
        let session = Session::new(Rc::clone(self), info, write);
        self.sessions.borrow_mut().insert(client, Rc::clone(&session));
        self.counters.clients.add(1);
        spawn_local(session.run(read));
    }

    /// The certified time, the phase or the server has moved: parked replies may go, stray lanes must.
    fn certified(&self) {
        let server = self.shared.coherence.server();
        if server != self.server.replace(server)
            && server != ServerId::UNKNOWN
            && !Mutation::ForeignLane.is_on()
        {
            self.lanes.retire_others(server);
        }
        for session in self.parked.take() {
            session.parked.set(false);
            self.shared.coherence.certifier().unpark();
            self.mark_dirty(&session);
        }
        self.auditor.moved.notify_waiters();
        self.flush_dirty();
    }

    fn tick(&self) {
        let now = clock::now();
        self.lanes.sweep(now);
        let timeout = self.shared.config.upstream.command_timeout;
        let server = self.shared.coherence.server();
        self.hubs.sweep(now, server);
        self.exclusive.borrow_mut().retain(|(lane, session)| {
            let (Some(lane), Some(session)) = (lane.upgrade(), session.upgrade()) else { return false };
            lane.sweep(now, timeout);
            if lane.greeting.server.is_another(server) && session.stays_on(&lane) {
                // The upstream has moved: nothing is published where this one ends.
                lane.close();
            }
            lane.is_open()
        });
        for session in self.late.take() {
            session.late.set(false);
            self.mark_dirty(&session);
        }
        self.flush_dirty();
        let idle_timeout = self.shared.config.server.idle_timeout;
        if !idle_timeout.is_zero() {
            self.sessions.borrow().values().for_each(|session| session.kill_if_idle(now, idle_timeout));
        }
    }
}

fn flush(dirty: &RefCell<Vec<Rc<Session>>>) {
    // A flush may mark a session dirty again (a deferred reply that has to be asked for anew), hence the loop.
    loop {
        let batch = dirty.take();
        if batch.is_empty() {
            return;
        }
        for session in batch {
            session.dirty.set(false);
            session.flush();
        }
    }
}
