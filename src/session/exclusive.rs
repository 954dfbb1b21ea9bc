//! Connections of one client's own: MULTI to EXEC, WATCH, blocking commands, subscriptions, MONITOR, a client's own
//! tracking; and the lane that WAIT makes a client's own.
//!
//! An exclusive connection is a lane with one user, so commands travel on it as on any other. It is taken out of a
//! pool when the first command needs it and nothing of the client is in flight elsewhere, and goes back when
//! the client is in the middle of nothing and all its commands are answered; one whose state cannot be undone stays
//! until the client ends, and is closed. While it has one, a client gets no hits.

use std::{
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use super::{
    Inner, Next, Session,
    registry::{BlockedMark, ClientInfo},
    state::Transaction,
    ticket::{Ticket, Work},
    transition::{Transition, Verdict},
    worker::Shared,
    write::keys,
};
use crate::{
    coherence::{Batch, WriteKind},
    command::{Class, Command, Local},
    ids::Database,
    metrics::{Counter, Counters},
    mutation::Mutation,
    resp::{Args, FrameKind, Protocol, Raw, Value},
    upstream::{
        lane::{Hooks, Lane},
        pool::{self, CheckoutError, Patience, Pool},
    },
};

/// What an exclusive connection is for, which decides the pool that it is taken from: none may starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// MULTI, WATCH and whatever else ends by itself soon.
    Transaction,
    /// Blocking commands, and whatever else may take long: each ends once.
    Blocking,
    /// Subscriptions, MONITOR, a client's own tracking: they may stay for good.
    Subscribed,
}

impl Purpose {
    fn of(class: Class) -> Self {
        match class {
            Class::Multi | Class::Watch | Class::ScriptDebug | Class::Session(_) => Self::Transaction,
            Class::Subscribe(_) | Class::Monitor => Self::Subscribed,
            _ => Self::Blocking,
        }
    }

    /// The pool, and the name in the server's CLIENT LIST.
    fn pool(self, shared: &Shared) -> (&Pool, &'static str) {
        match self {
            Self::Transaction => (&shared.transactions, "nearhit-transaction"),
            Self::Blocking => (&shared.blocking, "nearhit-blocking"),
            Self::Subscribed => (&shared.subscribed, "nearhit-subscribed"),
        }
    }

    fn gauge(self, counters: &Counters) -> &Counter {
        match self {
            Self::Transaction => &counters.pool_in_use,
            Self::Blocking => &counters.blocking_in_use,
            Self::Subscribed => &counters.subscribed_in_use,
        }
    }
}

/// A connection of one client's own.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Exclusive {
    pub(super) lane: Rc<Lane<Ticket>>,
    place: pool::Exclusive,
    pub(super) purpose: Purpose,
    /// It is in a state that cannot be undone, and must be thrown away: MONITOR, SCRIPT DEBUG, a client's own
    /// tracking.
    is_spent: bool,
    /// The client's own tracking tells of what it reads here and nowhere else: no hit can be older than that.
    pub(super) tracks_reads: bool,
    /// What would have brought it back to a known state was refused or not answered: it must not be used again.
    is_soiled: bool,
    /// The request it was taken out for has not been sent yet.
    is_fresh: bool,
    number: Number,
}

/// What CLIENT UNBLOCK finds a connection by, for as long as it is this client's.
pub(super) struct Number(Arc<ClientInfo>, fn(&ClientInfo) -> &AtomicI64);

impl Number {
    fn enter(info: &Arc<ClientInfo>, of: fn(&ClientInfo) -> &AtomicI64, number: Option<i64>) -> Self {
        of(info).store(number.unwrap_or(0), Ordering::Release);
        Self(Arc::clone(info), of)
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.1(&self.0).store(0, Ordering::Release);
    }
}

impl Class {
    /// Whether this class of command needs a connection of its own.
    pub(super) fn needs_exclusive(self) -> bool {
        matches!(self, Self::Multi | Self::Watch | Self::Subscribe(_) | Self::Monitor | Self::ScriptDebug)
    }
}

impl Exclusive {
    /// Closes the connection; its place in the pool becomes free.
    pub(super) fn discard(self) {
        self.lane.close();
    }
}

impl Inner {
    /// Whether the exclusive connection is bound to what the client is in the middle of.
    pub(super) fn has_state(&self) -> bool {
        self.transaction.is_some()
            || self.doomed.is_some()
            || self.watch.is_set()
            || self.is_monitoring
            || (self.share.is_none() && !self.subscriptions.is_empty())
            || self.exclusive.as_ref().is_some_and(|exclusive| exclusive.is_spent || exclusive.is_fresh)
    }

    /// Whether it is told what others do, without asking each time.
    pub(super) fn listens(&self) -> bool {
        self.share.is_some() || self.has_exclusive_for(Purpose::Subscribed)
    }

    fn has_exclusive_for(&self, purpose: Purpose) -> bool {
        self.exclusive.as_ref().is_some_and(|exclusive| exclusive.purpose == purpose)
    }

    /// Whether the exclusive connection is dead, and everything that was in flight on it given up.
    pub(super) fn has_lost_exclusive(&self) -> bool {
        self.in_flight == 0 && self.exclusive.as_ref().is_some_and(|exclusive| !exclusive.lane.is_open())
    }

    /// Whether the exclusive connection has done its work.
    pub(super) fn may_release(&self) -> bool {
        self.exclusive.is_some() && self.in_flight == 0 && !self.has_state()
    }
}

impl Session {
    /// Whether a command of this client may wait for what others do for who knows how long. What is behind that is not
    /// executed, here as with Redis, once the client has gone.
    pub(super) fn is_blocked(&self, inner: &Inner) -> bool {
        self.info.blocking.load(Ordering::Relaxed) > 0 || inner.has_exclusive_for(Purpose::Blocking)
    }

    /// A command that needs an exclusive connection, which the client does not have yet.
    pub(super) fn acquire(inner: &mut Inner, class: Class) -> Next {
        if let Some(Verdict::Refused(raw)) = inner.verdict.take() {
            if class == Class::Multi {
                // The commands behind MULTI may be on their way already, and must not be executed one by one.
                inner.doomed = Some(raw);
                return inner.reply(&Value::OK);
            }
            return inner.reply_raw(&raw);
        }
        if !inner.is_drained() {
            return Next::Hold;
        }
        Next::Await(Transition::Acquire(Purpose::of(class)))
    }

    /// Takes out a connection; who cannot have one finds the reason as a verdict.
    pub(super) async fn check_out(self: &Rc<Self>, purpose: Purpose) {
        if let Err(error) = self.try_check_out(purpose, Patience::Waits).await {
            let raw = match &error {
                CheckoutError::Dial(error) => error.reply().to_vec(),
                CheckoutError::Exhausted { .. } => super::ticket::error(&format!("nearhit: {error}")),
            };
            self.inner.borrow_mut().verdict = Some(Verdict::Refused(raw));
        }
    }

    /// The same, for who may have another way to go.
    pub(super) async fn try_check_out(
        self: &Rc<Self>,
        purpose: Purpose,
        patience: Patience,
    ) -> Result<(), CheckoutError> {
        let shared = &self.worker.shared;
        if let Some(error) = shared.health.down_reason() {
            return Err(error.into());
        }
        let (pool, name) = purpose.pool(shared);
        let (profile, wants_auth) = {
            let inner = self.inner.borrow();
            (inner.profile.clone(), inner.wants_auth())
        };
        let taken = pool.checkout(&profile, name, shared.coherence.server(), wants_auth, patience).await;
        let (connection, place) = taken.inspect_err(|error| {
            if let CheckoutError::Dial(error) = error {
                self.dial_failed(&profile, error);
            }
        })?;
        let connection = match purpose {
            // It is left when the upstream moves.
            Purpose::Subscribed => self.worker.lanes.identified(connection).await,
            Purpose::Transaction | Purpose::Blocking => connection,
        };
        purpose.gauge(&self.worker.counters).add(1);
        let weak = Rc::downgrade(self);
        let counters = Arc::clone(&self.worker.counters);
        let worker = Rc::downgrade(&self.worker);
        let hooks = Hooks {
            batch_end: Rc::new(move || {
                if let Some(worker) = worker.upgrade() {
                    worker.flush_dirty();
                }
            }),
            unsolicited: Some({
                let weak = Weak::clone(&weak);
                Box::new(move |raw, kind, arrived| match weak.upgrade() {
                    Some(session) => session.unsolicited(raw, kind, arrived),
                    None => (kind == FrameKind::Reply).then_some(raw),
                })
            }),
            ended: Box::new(move |_| {
                purpose.gauge(&counters).sub(1);
                if let Some(session) = weak.upgrade() {
                    session.wake();
                }
            }),
        };
        let lane = Lane::open(connection, shared.dialer.address(), hooks);
        self.worker.watch_exclusive(&lane, self);
        let number = Number::enter(&self.info, |info| &info.exclusive, lane.greeting.client_id);
        self.inner.borrow_mut().exclusive = Some(Exclusive {
            lane,
            place,
            purpose,
            is_spent: false,
            tracks_reads: false,
            is_soiled: false,
            is_fresh: true,
            number,
        });
        Ok(())
    }

    /// Whether this is an exclusive connection that its client may have for good: a subscriber's, or one that is of no use
    /// to anybody else (it may have tracking of its own).
    pub(super) fn stays_on(&self, lane: &Rc<Lane<Ticket>>) -> bool {
        let inner = self.inner.borrow();
        let stays = |one: &Exclusive| one.purpose == Purpose::Subscribed || one.is_spent;
        inner.exclusive.as_ref().is_some_and(|one| stays(one) && Rc::ptr_eq(&one.lane, lane))
    }

    /// Puts the connection back, clean, or closes it.
    pub(super) async fn release(&self) {
        let Some(exclusive) = self.inner.borrow_mut().exclusive.take() else { return };
        let Exclusive { lane, place, is_spent, is_soiled, number, .. } = exclusive;
        drop(number);
        if is_spent || is_soiled {
            return lane.close();
        }
        let profile = self.inner.borrow().profile.clone();
        if let Some(stream) = lane.into_stream().await {
            place.give_back(stream, profile, lane.greeting.clone());
        }
    }

    /// A request of a client that has an exclusive connection.
    pub(super) fn on_exclusive(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        class: Class,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        if let (true, Class::Cached(sameness)) = (inner.watch.is_set() && inner.transaction.is_none(), class)
            && Mutation::HitsDuringWatch.is_on()
            && self.hit_in_spite_of_watch(inner, command, sameness.same(&args), batch, args)
        {
            return Next::Done;
        }
        let may_stay = command.blocks(&args)
            || command.is_unheard_of()
            || matches!(class, Class::Subscribe(_) | Class::Monitor);
        let fits = class.needs_exclusive() || may_stay;
        if inner.may_release() && !fits {
            return Next::Await(Transition::Release);
        }
        if may_stay
            && !inner.has_state()
            && inner.exclusive.as_ref().is_some_and(|one| one.purpose != Purpose::of(class))
        {
            // Between two transactions, say: one of their connections is not to be kept for hours.
            return if inner.may_release() { Next::Await(Transition::Release) } else { Next::Hold };
        }
        let waker = self.waker.borrow();
        if inner.exclusive.as_ref().is_some_and(|exclusive| exclusive.lane.is_congested(waker.as_ref())) {
            return Next::Hold;
        }
        drop(waker);
        if inner.exclusive.as_ref().is_some_and(|exclusive| !exclusive.lane.is_open()) {
            // The session's task sees to it once all that was in flight has been given up.
            return Next::Hold;
        }
        if inner.transaction.as_ref().is_some_and(|transaction| !transaction.is_open) {
            return Next::Hold;
        }
        if let Some(exclusive) = inner.exclusive.as_mut() {
            exclusive.is_fresh = false;
        }
        // What the server makes of a RESP2 client's command depends on whether it is subscribed by then: it refuses
        // SELECT, AUTH and SET, or obeys them.
        let is_certain = inner.profile.protocol == Protocol::Resp3 || inner.subscribing == 0;
        if inner.is_agreeing || !(is_certain || matches!(class, Class::Subscribe(_))) {
            return Next::Hold;
        }
        if inner.transaction.is_some() {
            return self.in_transaction(inner, command, class, batch, args, request);
        }
        // A RESP2 subscriber may say little, and the server knows best what.
        let restricted = inner.profile.protocol == Protocol::Resp2 && !inner.subscriptions.is_empty();
        match class {
            Class::Session(local @ (Local::Quit | Local::Reset)) => {
                self.local(inner, local, batch, args, request)
            }
            _ if restricted && !matches!(class, Class::Subscribe(_)) => {
                self.forward_plain(inner, batch, request)
            }
            Class::Session(Local::Select) => self.select_on_exclusive(inner, batch, args, request),
            Class::Session(local @ (Local::Hello | Local::Auth)) => {
                self.agree_on_exclusive(inner, local, batch, args, request)
            }
            Class::Session(local) => self.local(inner, local, batch, args, request),
            Class::Refused => Self::refuse_class(inner, command),
            Class::Multi => {
                inner.transaction = Some(Box::new(Transaction::new()));
                self.forward(inner, batch, request, Work::Multi)
            }
            Class::Watch => {
                let seq = inner.output.next_seq();
                let next = self.forward(inner, batch, request, Work::Watch);
                if matches!(next, Next::Done) {
                    inner.watch.ask(seq);
                }
                next
            }
            Class::Unwatch if args.len() == 1 => {
                inner.watch.clear();
                self.forward(inner, batch, request, Work::Leave)
            }
            Class::Exec if inner.exclusive.as_ref().is_some_and(|exclusive| exclusive.is_spent) => {
                // MULTI may have been among what nobody has heard of.
                self.forward_write(inner, command, Class::Unknown, batch, args, request)
            }
            // Refused: there is no transaction, or there are too many arguments.
            Class::Unwatch | Class::Exec | Class::Discard => self.forward_plain(inner, batch, request),
            Class::Subscribe(kind) => self.subscribe(inner, kind, batch, args, request),
            Class::Monitor => self.forward(inner, batch, request, Work::Monitor),
            Class::ScriptDebug => self.forward(inner, batch, request, Work::Spend),
            Class::Wait => self.wait(inner, batch, request),
            _ if command.blocks(&args) => {
                // A client that watches keys may block, too, on the connection that it has.
                if let Some(exclusive) = inner.exclusive.as_mut()
                    && exclusive.purpose == Purpose::Transaction
                {
                    exclusive.purpose = Purpose::Blocking;
                }
                let (writes, reads) = keys(command, args);
                self.forward(
                    inner,
                    batch,
                    request,
                    Work::Blocking { writes, reads, mark: BlockedMark::new(&self.info) },
                )
            }
            Class::Cached(_) | Class::Mget | Class::Read | Class::ReadUndeclared => {
                self.forward_read(inner, command, batch, args, request)
            }
            Class::Neutral | Class::Urgent => self.forward_plain(inner, batch, request),
            _ if command.is_unheard_of() => {
                let guard =
                    self.worker.shared.coherence.begin_write(WriteKind::Undeclared, std::iter::empty());
                self.forward(inner, batch, request, Work::Unheard { guard })
            }
            Class::Write | Class::Script | Class::Flush | Class::Unknown => {
                self.forward_write(inner, command, class, batch, args, request)
            }
        }
    }

    /// The connection died under the client. What it was in the middle of is gone, which no reply could tell it: so
    /// its own connection ends, as it would with Redis. If it was in the middle of nothing, it goes on.
    pub(super) fn lost_exclusive(&self, inner: &mut Inner) {
        if inner.has_state() {
            self.end(super::Ending::AfterOutput);
        }
        if let Some(exclusive) = inner.exclusive.take() {
            exclusive.discard();
        }
        self.worker.suspect(&inner.profile.identity);
    }

    fn select_on_exclusive(
        self: &Rc<Self>,
        inner: &mut Inner,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        match args.get(1).and_then(database).filter(|_| args.len() == 2) {
            Some(database) => self.forward(inner, batch, request, Work::Select(database)),
            None => self.forward_plain(inner, batch, request),
        }
    }

    /// The exclusive connection may not be in the state that the next client would expect.
    pub(super) fn soiled(&self) {
        self.inner.borrow_mut().soil_exclusive();
    }

    /// The exclusive connection is in a state that only its end undoes.
    pub(super) fn spent(&self) {
        self.inner.borrow_mut().spend_exclusive();
    }

    /// A client's own CLIENT TRACKING is a connection's state, so it gets a connection of its own to have it on.
    pub(super) fn track(
        self: &Rc<Self>,
        inner: &mut Inner,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        let is_off = args.get(2).is_some_and(|argument| argument.eq_ignore_ascii_case(b"OFF"));
        match &inner.exclusive {
            None if is_off => self.forward_plain(inner, batch, request),
            None => Self::acquire(inner, Class::Monitor),
            Some(_) => {
                let is_broadcast = (3..args.len()).any(|index| args[index].eq_ignore_ascii_case(b"BCAST"));
                self.forward(inner, batch, request, Work::Track { reads: !is_off && !is_broadcast })
            }
        }
    }

    /// CLIENT TRACKING has been answered.
    pub(super) fn tracks(&self, reads: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.spend_exclusive();
        if let Some(exclusive) = inner.exclusive.as_mut() {
            exclusive.tracks_reads = reads;
        }
    }

    /// WAIT and WAITAOF count the writes of one connection: from the first on, the client's lane is its own. What the
    /// client wrote on another one (a transaction, say) came before what the last command on this one has seen, and so
    /// there is one: WAIT for nobody, which waits for nothing.
    pub(super) fn wait(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, request: Raw<'_>) -> Next {
        if inner.waits > 0 {
            return Next::Hold;
        }
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(reason) => return inner.no_lane(reason),
        };
        if inner.exclusive.is_none() && inner.private_lane.is_none() {
            let Ok(place) = Arc::clone(&self.worker.shared.private_lanes).try_acquire_owned() else {
                let max = self.worker.shared.config.upstream.max_blocking;
                let text = format!(
                    "ERR nearhit: {max} clients have connections of their own for WAIT (upstream.max_blocking)"
                );
                return inner.refuse(&text);
            };
            self.worker.lanes.privatize(&lane);
            let number = Number::enter(&self.info, |info| &info.private_lane, lane.greeting.client_id);
            inner.private_lane = Some((place, number));
        }
        let place = inner.place();
        inner.last_write = Some(place.seq);
        let work = Work::Wait { mark: BlockedMark::new(&self.info), is_announced: false };
        self.send(inner, batch, &lane, place, work, |out| {
            out.extend(b"*3\r\n$4\r\nWAIT\r\n$1\r\n0\r\n$1\r\n0\r\n");
            out.push(request);
        })
    }
}

impl Inner {
    /// The exclusive connection is of no use to the next client.
    pub(super) fn soil_exclusive(&mut self) {
        if let Some(exclusive) = self.exclusive.as_mut() {
            exclusive.is_soiled = true;
        }
    }

    /// The exclusive connection is of no use to anybody else any more.
    pub(super) fn spend_exclusive(&mut self) {
        if let Some(exclusive) = self.exclusive.as_mut() {
            exclusive.is_spent = true;
        }
    }
}

pub(super) fn database(text: &[u8]) -> Option<Database> {
    std::str::from_utf8(text).ok()?.parse().ok().map(Database)
}
