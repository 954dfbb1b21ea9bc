//! What becomes of a command in flight: the session's side of a lane's queue.
//!
//! A ticket knows whose command it is, which place in that client's output its reply takes, and what the cache must
//! be told before the reply may be seen. It does the second before the first, always, and it does it when
//! the client has gone, too: what was sent is finished.

use std::{ops::Range, rc::Rc};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Session,
    audit::ToAudit,
    client::Redirect,
    local::Agreement,
    mget::{Mget, Parts},
    output::Seq,
    pause::PauseChange,
    registry::BlockedMark,
    state::Transaction,
    worker::{Outcome, Waiter},
};
use crate::{
    clock::Nanos,
    coherence::{Acknowledge, Protocols, Token, VariantKey, WriteGuard},
    command::{CommandId, MissingReply, SubscribeKind, Users},
    ids::{Database, Generation},
    resp::{Raw, reply},
    upstream::{
        completion::{Completion, Loss, Progress},
        identity::StringRead,
        passing::Piece,
    },
};

/// A command in flight.
pub(super) struct Ticket {
    pub(super) session: Rc<Session>,
    /// Whether the client has had its answer: after a timeout the late reply serves the cache alone.
    pub(super) answered: bool,
    pub(super) place: Place,
    pub(super) work: Work,
    /// What has to be certified before a reply that has begun may be seen.
    pub(super) fence: Option<Nanos>,
    /// It goes to the client in pieces.
    pub(super) is_passed_on: bool,
}

/// Where the reply goes, and what the session counts until then.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) seq: Seq,
    /// Hashes of the keys that the command reads: no hit on them overtakes it.
    pub(super) reading: SmallVec<[u64; 1]>,
    /// Whether it keeps its client from hits altogether.
    pub(super) barrier: bool,
    /// Whether it may have to be asked again, later than what follows it: nothing that could tell is sent meanwhile.
    pub(super) may_repeat: bool,
}

/// What a reply does before it is delivered.
pub(super) enum Work {
    /// Nothing.
    Plain,
    Read(PlainRead),
    Fill(Fill),
    Mget(Box<Mget>),
    Write {
        guard: WriteGuard<Waiter>,
        /// The keys whose values it has read.
        sources: Vec<Box<[u8]>>,
        /// Whom it may change.
        users: Users,
    },
    Exec {
        guard: WriteGuard<Waiter>,
        transaction: Box<Transaction>,
        /// What has come of the reply, if it takes more frames than one.
        gathered: Vec<u8>,
    },
    /// A command that waited for somebody else's write: its keys are dropped when it answers.
    Blocking {
        writes: Vec<Box<[u8]>>,
        reads: Vec<Box<[u8]>>,
        mark: BlockedMark,
    },
    Subscribe {
        kind: SubscribeKind,
        named: usize,
        left: Option<usize>,
        /// CLIENT REPLY OFF or SKIP: an error is not told. Confirmations are, like messages.
        mute: bool,
        /// The confirmations so far; the server sends them in one go, and so do we.
        gathered: Vec<u8>,
    },
    /// INFO: the server's answer, with a section of nearhit's own.
    Info,
    /// WAIT and WAITAOF, which take as long as the client allows; and whether another has been answered that is sent
    /// ahead of it.
    Wait {
        mark: BlockedMark,
        is_announced: bool,
    },
    /// SELECT on an exclusive connection.
    Select(Database),
    /// MULTI.
    Multi,
    /// WATCH, which may be refused.
    Watch,
    /// What the operator does not allow, in a transaction: the server was sent something that spoils it, and the client
    /// is told this.
    Denied(Vec<u8>),
    /// DISCARD or UNWATCH.
    Leave,
    /// What leaves its connection in a state that only its end undoes.
    Spend,
    /// CLIENT TRACKING, and whether it is to tell of what the client reads on this connection, and of nothing else.
    Track {
        reads: bool,
    },
    /// A command that neither nearhit nor the server's own list knows. If the server takes it all the same, it has been
    /// renamed, and may be SELECT, MULTI or AUTH: its connection is nobody else's from then on.
    Unheard {
        guard: WriteGuard<Waiter>,
    },
    /// HELLO or AUTH on an exclusive connection.
    Agree(Box<Agreement>),
    /// A command whose answer may name the client that invalidations are redirected to.
    Redirected(Redirect),
    /// CLIENT PAUSE, or UNPAUSE.
    Pause(PauseChange),
    /// MONITOR: what follows its answer is not asked for one by one.
    Monitor,
    /// A hit read once more, for no client.
    Audit(ToAudit),
}

/// A read that fills nothing.
pub(super) struct PlainRead {
    /// One of the worker's buffers.
    pub(super) request: Vec<u8>,
    /// Where the keys lie in it; none where nothing is cached.
    pub(super) keys: SmallVec<[Range<usize>; 1]>,
    /// What was asked, if it is something that may be cached.
    pub(super) variant: Option<AskedVariant>,
    /// Whether it may have read more than it declares.
    pub(super) undeclared: bool,
    /// The generation that an MGET was sent in.
    pub(super) mget: Option<Generation>,
    /// Whether it has been sent before, on a connection that died.
    pub(super) again: bool,
}

/// A cacheable read's variant, but for key and identity.
pub(super) struct AskedVariant {
    pub(super) protocols: Protocols,
    pub(super) command: CommandId,
    /// Where the arguments behind the key lie in the request.
    pub(super) tail: Range<usize>,
    pub(super) database: Database,
    pub(super) sent_at: Nanos,
}

impl PlainRead {
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &self.request[key.clone()])
    }
}

/// A read that may fill the cache; PTTL goes ahead of it.
pub(super) struct Fill {
    /// One of the worker's buffers.
    pub(super) request: Vec<u8>,
    pub(super) key: Range<usize>,
    pub(super) token: Option<Token<Waiter>>,
    pub(super) pttl: Option<Pttl>,
    pub(super) nature: Nature,
    /// The generation that a GET was sent in.
    pub(super) get: Option<Generation>,
}

/// What the command tells of its reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nature {
    pub(super) missing: MissingReply,
    pub(super) is_hash: bool,
}

/// PTTL's answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pttl {
    Milliseconds(i64),
    /// By the user's rights, to the command or to this key.
    Forbidden,
    /// It failed in another way.
    Failed,
}

impl Place {
    pub(super) fn new(seq: Seq) -> Self {
        Self { seq, reading: SmallVec::new(), barrier: false, may_repeat: false }
    }
}

impl Ticket {
    pub(super) fn new(session: Rc<Session>, place: Place, work: Work) -> Self {
        Self { session, answered: false, place, work, fence: None, is_passed_on: false }
    }

    /// One whose reply no client waits for: its place is never looked at.
    pub(super) fn unanswerable(session: Rc<Session>, work: Work) -> Self {
        Self { answered: true, ..Self::new(session, Place::new(0), work) }
    }

    /// Delivers, unless the client has been answered already.
    pub(super) fn answer(&mut self, raw: Raw<'_>, fence: Option<Nanos>) {
        if !std::mem::replace(&mut self.answered, true) {
            let place = self.take_place();
            self.session.answered(place, raw, fence);
        }
    }

    /// The reply is complete but must be looked at again once its arrival is certified.
    pub(super) fn defer(&mut self, parts: impl FnOnce(Place) -> Parts) {
        if !std::mem::replace(&mut self.answered, true) {
            let place = self.take_place();
            self.session.deferred(parts(place));
        }
    }

    /// The place, with all that is counted until it is settled.
    fn take_place(&mut self) -> Place {
        let seq = self.place.seq;
        std::mem::replace(&mut self.place, Place::new(seq))
    }

    fn acknowledge(&mut self, raw: Raw<'_>, acknowledge: Acknowledge) {
        match acknowledge {
            Acknowledge::Now => self.answer(raw, None),
            Acknowledge::After(moment) => {
                self.session.worker.counters.fences.add(1);
                self.answer(raw, Some(moment));
            }
        }
    }

    /// Gives back the leave to fill; returns those who joined, who are to be told.
    pub(super) fn give_up(&mut self) -> Vec<Waiter> {
        match &mut self.work {
            Work::Fill(fill) => fill.token.take().map_or_else(Vec::new, |token| {
                self.session.worker.shared.coherence.abandon(&fill.request[fill.key.clone()], token)
            }),
            Work::Mget(mget) => mget.give_up(&self.session),
            _ => Vec::new(),
        }
    }

    /// The upstream has obeyed this read, which was sent in that generation. When a late reply comes, its client may be
    /// somebody else by now.
    pub(super) fn allow(&self, read: StringRead, generation: Generation) {
        if !self.answered {
            self.session.identity().allow(read, generation);
        }
    }

    /// Answers such as -READONLY tell of a changed role long before the next health check would.
    fn note_trouble(&self, raw: &[u8]) {
        if let Some(code @ (b"READONLY" | b"LOADING" | b"MASTERDOWN")) = reply::error_code(raw) {
            self.session.worker.shared.health.suspect(&String::from_utf8_lossy(code));
        }
    }

    pub(super) fn observe(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>, arrived: Nanos) {
        for key in keys {
            self.session.worker.shared.coherence.observe(key.as_ref(), arrived);
        }
    }

    fn observe_variant(&self, read: &PlainRead, asked: &AskedVariant, raw: &Raw<'_>, arrived: Nanos) {
        let variant = VariantKey {
            identity: self.session.identity().id,
            database: asked.database,
            protocols: asked.protocols,
            command: asked.command.0,
            tail: &read.request[asked.tail.clone()],
        };
        for key in read.keys() {
            self.session.worker.shared.coherence.observe_read(key, variant, raw, asked.sent_at, arrived);
        }
    }
}

/// PTTL's answer as it counts for a fill.
pub(super) fn pttl(raw: &[u8]) -> Pttl {
    match reply::integer(raw) {
        Some(ms) => Pttl::Milliseconds(ms),
        None if reply::error_code(raw) == Some(b"NOPERM") => Pttl::Forbidden,
        None => Pttl::Failed,
    }
}

impl Completion for Ticket {
    fn absorb(&mut self, raw: &[u8]) -> bool {
        match &mut self.work {
            Work::Fill(fill) if fill.pttl.is_none() => {
                fill.pttl = Some(pttl(raw));
                true
            }
            _ => false,
        }
    }

    fn reply(&mut self, raw: Raw<'_>, arrived: Nanos) -> Progress {
        if raw.first() == Some(&b'-') {
            self.note_trouble(&raw);
        }
        match std::mem::replace(&mut self.work, Work::Plain) {
            Work::Plain | Work::Wait { is_announced: true, .. } => self.answer(raw, self.fence),
            Work::Wait { mark, is_announced: false } => {
                self.work = Work::Wait { mark, is_announced: true };
                return Progress::More;
            }
            Work::Select(database) => {
                if !reply::is_error(&raw) {
                    self.session.changed(|profile| profile.database = database);
                }
                self.answer(raw, None);
            }
            Work::Multi => {
                if !self.answered {
                    self.session.multi_answered(!reply::is_error(&raw));
                }
                self.answer(raw, None);
            }
            Work::Watch => {
                self.session.watch_answered(self.place.seq, !reply::is_error(&raw));
                self.answer(raw, None);
            }
            Work::Denied(text) => self.answer(text.as_slice().into(), None),
            Work::Leave => {
                if reply::is_error(&raw) {
                    self.session.soiled();
                }
                self.answer(raw, None);
            }
            Work::Agree(agreement) => {
                let raw = self.session.agreed(*agreement, raw.into_bytes());
                self.answer(Raw::Shared(raw), None);
            }
            Work::Redirected(redirect) => self.answer(redirect.shown(raw), None),
            Work::Pause(change) => {
                if !reply::is_error(&raw) {
                    self.session.worker.shared.pause.change(change, arrived);
                }
                self.answer(raw, None);
            }
            Work::Read(read) => {
                if let Some(generation) = read.mget.filter(|_| !reply::is_error(&raw)) {
                    self.allow(StringRead::Mget, generation);
                }
                match &read.variant {
                    Some(asked) if !reply::is_error(&raw) => {
                        self.observe_variant(&read, asked, &raw, arrived);
                    }
                    _ => self.observe(read.keys(), arrived),
                }
                let fence = if read.undeclared { self.session.worker.fence(arrived) } else { None };
                self.session.worker.reuse(read.request);
                self.answer(raw, fence);
            }
            Work::Fill(fill) => self.fill(fill, raw, arrived),
            Work::Mget(mget) => return self.mget(mget, raw, arrived),
            Work::Write { guard, sources, users } => {
                self.session.worker.changed(users);
                self.observe(&sources, arrived);
                let acknowledge = guard.complete(arrived);
                self.acknowledge(raw, acknowledge);
            }
            Work::Exec { guard, transaction, mut gathered } => {
                let raw = if gathered.is_empty() {
                    raw
                } else {
                    gathered.extend_from_slice(&raw);
                    Raw::Shared(gathered.into())
                };
                if !self.session.has_whole_exec(&transaction, &raw) {
                    self.work = Work::Exec { guard, transaction, gathered: raw.to_vec() };
                    return Progress::More;
                }
                self.observe(&transaction.reads, arrived);
                let acknowledge = guard.complete(arrived);
                if let Some(change) =
                    transaction.pause.filter(|_| !reply::is_error(&raw) && !reply::is_nil(&raw))
                {
                    self.session.worker.shared.pause.change(change, arrived);
                }
                self.session.worker.changed(transaction.users);
                if transaction.is_uncertain && !reply::is_error(&raw) {
                    self.session.spent();
                }
                let raw = self.session.executed(*transaction, raw);
                self.acknowledge(raw, acknowledge);
            }
            Work::Blocking { writes, reads, mark } => {
                drop(mark);
                for key in &writes {
                    self.session.worker.shared.coherence.invalidate(key);
                }
                self.observe(&reads, arrived);
                // Invariant 11: news does not outrun its key.
                let fence = self.session.worker.news_fence(arrived);
                self.answer(raw, fence);
            }
            Work::Subscribe { kind, named, left, mute, mut gathered } => {
                if !reply::is_error(&raw) {
                    let left = left.unwrap_or_else(|| self.session.confirmations(kind, named)) - 1;
                    self.session.confirmed(kind, &raw);
                    gathered.extend_from_slice(&raw);
                    if left > 0 {
                        self.work = Work::Subscribe { kind, named, left: Some(left), mute, gathered };
                        return Progress::More;
                    }
                }
                self.session.subscribe_ended();
                let all = match gathered.is_empty() {
                    true if mute => Raw::Borrowed(b""),
                    true => raw,
                    false => Raw::Shared(gathered.into()),
                };
                self.answer(all, None);
            }
            Work::Info => {
                let raw = Bytes::from(self.session.with_own_section(&raw));
                self.answer(Raw::Shared(raw), None);
            }
            Work::Track { reads } => {
                if !reply::is_error(&raw) {
                    self.session.tracks(reads);
                }
                self.answer(raw, None);
            }
            Work::Spend => {
                if !reply::is_error(&raw) {
                    self.session.spent();
                }
                self.answer(raw, None);
            }
            Work::Unheard { guard } => {
                if !reply::is_error(&raw) {
                    self.session.spent();
                }
                let acknowledge = guard.complete(arrived);
                self.acknowledge(raw, acknowledge);
            }
            Work::Monitor => {
                if !reply::is_error(&raw) {
                    self.session.monitors();
                    self.session.spent();
                }
                self.answer(raw, None);
            }
            Work::Audit(to) => {
                // The task that waits for it ends with its worker alone.
                let _ = to.send((raw.into_bytes(), arrived));
            }
        }
        Progress::Done
    }

    fn passes_on(&mut self, announced: usize, arrived: Nanos) -> bool {
        self.begin_large(announced, arrived)
    }

    fn piece(&mut self, bytes: Raw<'_>, piece: Piece) {
        self.pass_on(bytes, piece);
    }

    fn is_full(&self, holds_up_others: impl FnOnce() -> bool) -> bool {
        !self.answered && self.session.is_full(holds_up_others)
    }

    fn cut_off(&self) {
        self.session.cut_off();
    }

    fn held_up(&mut self) {
        let waiters = self.give_up();
        self.session.all_ask_again(waiters);
    }

    fn is_of_client_of(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.session, &other.session)
    }

    fn lost(mut self, loss: &Loss) {
        if self.is_passed_on {
            return self.tear();
        }
        let work = std::mem::replace(&mut self.work, Work::Plain);
        let session = Rc::clone(&self.session);
        let is_second_loss = matches!(&work, Work::Read(read) if read.again);
        let request = match work {
            Work::Fill(fill) => {
                let Fill { request, key, token, .. } = fill;
                if let Some(token) = token {
                    let waiters = session.worker.shared.coherence.abandon(&request[key], token);
                    session.all_ask_again(waiters);
                }
                Some(request)
            }
            Work::Subscribe { .. } => {
                session.subscribe_ended();
                None
            }
            Work::Exec { transaction, .. } => {
                session.exec_ended(&transaction);
                None
            }
            Work::Read(read) => Some(read.request),
            Work::Agree(_) => {
                session.not_agreed();
                None
            }
            Work::Mget(mget) => Some(mget.abandon(&session)),
            // Dropping the rest ends its guards: the keys are dropped once more and unblocked.
            _ => None,
        };
        if self.answered {
            return;
        }
        match request {
            Some(request) if !is_second_loss && session.may_ask_again(self.place.seq) => {
                session.lost_read(&self.place, request);
            }
            Some(_) => {
                session.answered(self.place, error(&format!("nearhit: {loss}")).as_slice().into(), None);
            }
            None => {
                let text = format!("nearhit: {loss}; the command may or may not have been executed");
                session.answered(self.place, error(&text).as_slice().into(), None);
            }
        }
    }

    fn timed_out(&mut self) {
        if self.is_passed_on {
            return self.tear();
        }
        if matches!(self.work, Work::Audit(_)) {
            // Dropping the sender tells the auditor.
            self.work = Work::Plain;
            return;
        }
        self.session.worker.counters.timeouts.add(1);
        let waited = self.session.worker.shared.config.upstream.command_timeout;
        let reason = format!(
            "nearhit: upstream {} has not answered within {waited:?} (upstream.command_timeout)",
            self.session.worker.shared.dialer.address()
        );
        if matches!(self.work, Work::Multi) {
            self.session.multi_timed_out(error(&reason));
            return self.answer(b"+OK\r\n".as_slice().into(), None);
        }
        let text = error(&format!("{reason}; the command may still be executed"));
        let waiters = self.give_up();
        let bytes = Bytes::from(text.clone());
        for waiter in waiters {
            self.session.worker.answer(waiter, Outcome::Reply(bytes.clone()));
        }
        self.answer(text.as_slice().into(), None);
    }
}

impl Ticket {
    fn fill(&mut self, fill: Fill, raw: Raw<'_>, arrived: Nanos) {
        let Fill { request, key, token, pttl, nature, get } = fill;
        let session = Rc::clone(&self.session);
        if let Some(generation) = get.filter(|_| !reply::is_error(&raw)) {
            self.allow(StringRead::Get, generation);
        }
        let key = &request[key];
        if let Some(token) = token {
            session.settle_flight(key, token, raw.clone(), pttl, nature, arrived);
        } else {
            session.worker.shared.coherence.observe(key, arrived);
        }
        session.worker.reuse(request);
        self.answer(raw, None);
    }
}

/// An error reply's bytes.
pub(super) fn error(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    crate::resp::Value::error(format!("ERR {text}")).encode(crate::resp::Protocol::Resp2, &mut out);
    out
}
