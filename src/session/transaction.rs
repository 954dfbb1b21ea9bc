//! MULTI to EXEC: what is queued by the server is added up here, so that EXEC can be one write of all its keys.
//!
//! What follows MULTI waits for the answer to it: were it refused, it would be executed at once. If no connection could
//! be had, the transaction is doomed and nothing of it is sent.

use std::{rc::Rc, sync::atomic::Ordering};

use bytes::Bytes;

use super::{
    Ending, Inner, Next, Session,
    client::Queued,
    denial, ends_connection,
    exclusive::{Purpose, database},
    local::{AUTH_WAITS, Agreement, TOO_MANY_ATTEMPTS},
    output::Seq,
    pause::PauseChange,
    sharing::CANNOT_CHANGE,
    state::{Effect, Transaction, first_line},
    ticket::Work,
    write::keys,
};
use crate::{
    coherence::{Batch, WriteKind},
    command::{Class, Command, Local},
    mutation::Mutation,
    resp::{Args, Protocol, Raw, Value, encode_request, reply},
};

/// What Redis says of a command that cannot be part of a transaction.
const NOT_ALLOWED: &str = "ERR Command not allowed inside a transaction";

impl Session {
    /// Between MULTI and EXEC everything is forwarded and queued by the server; here the keys are collected.
    pub(super) fn in_transaction(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        class: Class,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        if self.is_denied(&args[0]) {
            return self.spoil(inner, batch, &args[0], &denial(&args[0]));
        }
        let mut request = request;
        let mut effect = None;
        match class {
            Class::Session(local @ (Local::Quit | Local::Reset)) => {
                return self.local(inner, local, batch, args, request);
            }
            Class::Exec => return self.exec(inner, batch, request),
            Class::Discard if args.len() == 1 => {
                inner.transaction = None;
                inner.watch.clear();
                return self.forward(inner, batch, request, Work::Leave);
            }
            // Refused at once by the server, and not queued; DISCARD for its arguments, which does not end the transaction.
            Class::Multi | Class::Watch | Class::Discard => return self.forward_plain(inner, batch, request),
            // Of one who shares a subscription connection, they would change this connection alone.
            Class::Session(Local::Hello | Local::Auth)
            | Class::Subscribe(_)
            | Class::Monitor
            | Class::ScriptDebug
                if inner.share.is_some() =>
            {
                return self.spoil(inner, batch, &args[0], CANNOT_CHANGE);
            }
            Class::Refused if ends_connection(command) => return Self::refuse_class(inner, command),
            Class::Refused => return self.spoil(inner, batch, &args[0], NOT_ALLOWED),
            Class::Session(local @ (Local::Hello | Local::Auth)) => {
                let mut agreement = Agreement::asked(local, args);
                if let Some(agreement) = agreement.as_mut() {
                    if self.must_not_agree(agreement) {
                        return self.spoil(inner, batch, &args[0], AUTH_WAITS);
                    }
                    if !self.may_attempt(agreement) {
                        return self.spoil(inner, batch, &args[0], TOO_MANY_ATTEMPTS);
                    }
                }
                effect = agreement.map(Effect::Agree);
                inner.soil_exclusive();
            }
            Class::Session(Local::Select) => effect = args.get(1).and_then(database).map(Effect::Select),
            Class::Session(Local::Client) => match self.queue_client(inner, args, &request) {
                Queued::AsItIs(of_client) => effect = of_client,
                Queued::Instead(other, of_client) => (request, effect) = (Raw::Shared(other), of_client),
                Queued::Never(text) => return self.spoil(inner, batch, &args[0], text),
            },
            // The server refuses both at EXEC, as far as we know.
            Class::Monitor | Class::ScriptDebug => effect = Some(Effect::Spend),
            Class::Subscribe(kind) => effect = Some(Effect::Subscribe(kind, args.len().saturating_sub(1))),
            _ => {}
        }
        let kind = self.write_kind(class);
        let Some(transaction) = inner.transaction.as_mut() else { return Next::Hold };
        transaction.kind = transaction.kind.max(kind);
        transaction.is_uncertain |= command.is_unheard_of();
        transaction.users = transaction.users.max(command.changes_users(&args));
        if class == Class::ReadUndeclared {
            transaction.kind = transaction.kind.max(WriteKind::Undeclared);
        }
        transaction.effects.extend(effect.map(|effect| (transaction.queued, effect)));
        if class == Class::Session(Local::Client) {
            transaction.pause = PauseChange::asked(args).or(transaction.pause);
        }
        let (writes, reads) = keys(command, args);
        transaction.writes.extend(writes);
        transaction.reads.extend(reads);
        transaction.queued += 1;
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(reason) => return inner.no_lane(reason),
        };
        let place = inner.place();
        self.send(inner, batch, &lane, place, Work::Plain, |out| out.push(request))
    }

    /// In a transaction that there is no connection for, each command gets the reason, as with a server that cannot
    /// take it (-OOM, -BUSY), and EXEC aborts.
    pub(super) fn in_doomed(
        self: &Rc<Self>,
        inner: &mut Inner,
        class: Class,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        match class {
            Class::Session(local @ (Local::Quit | Local::Reset)) => {
                self.local(inner, local, batch, args, request)
            }
            Class::Exec if args.len() == 1 => {
                inner.doomed = None;
                inner.refuse("EXECABORT Transaction discarded because of previous errors.")
            }
            Class::Discard if args.len() == 1 => {
                inner.doomed = None;
                inner.reply(&Value::OK)
            }
            _ => {
                let reason = inner.doomed.clone().unwrap_or_default();
                inner.reply_raw(&reason)
            }
        }
    }

    /// EXEC: the union of the queue is one write.
    pub(super) fn exec(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, request: Raw<'_>) -> Next {
        let Some(transaction) = inner.transaction.take() else { return Next::Hold };
        inner.watch.clear();
        if let (true, Some(exclusive)) = (transaction.subscribes(), inner.exclusive.as_mut()) {
            exclusive.purpose = Purpose::Subscribed;
        }
        let missed = usize::from(Mutation::ExecMissesKey.is_on());
        let writes = transaction.writes.iter().skip(missed).map(|key| &**key);
        let guard = self.worker.shared.coherence.begin_write(transaction.kind, writes);
        self.worker.counters.writes.add(1);
        inner.subscribing += usize::from(transaction.subscribes());
        inner.is_agreeing |= transaction.agrees();
        self.forward(inner, batch, request, Work::Exec { guard, transaction, gathered: Vec::new() })
    }

    /// Has the server refuse a command, and thereby the transaction: one that it cannot know is sent instead. The
    /// client is told `text`.
    fn spoil(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, name: &[u8], text: &str) -> Next {
        let mut request = Vec::new();
        encode_request([&b"nearhit:not-in-a-transaction"[..], name], &mut request);
        let mut error = Vec::new();
        Value::error(text).encode(Protocol::Resp2, &mut error);
        self.forward(inner, batch, Raw::Borrowed(&request), Work::Denied(error))
    }

    /// Whether this is all of EXEC's reply. Only subscriptions make it more than the array that it begins with.
    pub(super) fn has_whole_exec(&self, transaction: &Transaction, raw: &[u8]) -> bool {
        let inner = self.inner.borrow();
        (inner.subscriptions.is_empty() && !transaction.subscribes())
            || transaction.results(&inner.subscriptions, raw).is_some()
    }

    /// EXEC was answered, by this reply: what the queue does to the session is done. Returns what the client is to read,
    /// which holds nearhit's own numbers and names in the place of its connection's.
    pub(super) fn executed<'r>(&self, mut transaction: Transaction, raw: Raw<'r>) -> Raw<'r> {
        self.exec_ended(&transaction);
        if transaction.effects.is_empty() {
            return raw;
        }
        let results = transaction.results(&self.inner.borrow().subscriptions, &raw).unwrap_or_default();
        let mut told: Vec<Bytes> = Vec::with_capacity(results.len());
        let mut effects = std::mem::take(&mut transaction.effects).into_iter().peekable();
        let mut effect = None;
        for (at, (place, frame)) in results.iter().enumerate() {
            let frame = Bytes::copy_from_slice(frame);
            let is_first = at == 0 || results[at - 1].0 != *place;
            if place.is_some() && is_first {
                effect = effects.next_if(|(queued, _)| Some(*queued) == *place).map(|(_, effect)| effect);
            }
            told.push(match (place, &mut effect) {
                (Some(_), Some(effect)) => self.take_effect(effect, frame),
                _ => frame,
            });
        }
        let begin = first_line(&raw);
        Raw::Shared([&raw[..begin], &told.concat()].concat().into())
    }

    /// A queued command was executed; returns its result as the client is to read it.
    fn take_effect(&self, effect: &mut Effect, result: Bytes) -> Bytes {
        let is_done = !reply::is_error(&result);
        match effect {
            Effect::Agree(agreement) => return self.agreed(std::mem::take(agreement), result),
            Effect::Client(request) if is_done => return self.own_client(request).unwrap_or(result),
            Effect::Subscribe(kind, _) if is_done => self.confirmed(*kind, &result),
            Effect::Select(database) if is_done => {
                let database = *database;
                self.changed(|profile| profile.database = database);
            }
            Effect::Spend if is_done => self.spent(),
            _ => {}
        }
        result
    }

    /// EXEC is in flight no longer.
    pub(super) fn exec_ended(&self, transaction: &Transaction) {
        if transaction.subscribes() {
            self.subscribe_ended();
        }
        if transaction.agrees() {
            self.not_agreed();
        }
    }

    /// WATCH was answered.
    pub(super) fn watch_answered(&self, seq: Seq, is_accepted: bool) {
        self.inner.borrow_mut().watch.answered(seq, is_accepted);
    }

    /// MULTI was answered.
    pub(super) fn multi_answered(&self, is_open: bool) {
        let mut inner = self.inner.borrow_mut();
        match inner.transaction.as_mut() {
            Some(transaction) if is_open => transaction.is_open = true,
            _ => {
                inner.transaction = None;
                self.info.queued.store(-1, Ordering::Relaxed);
            }
        }
    }

    /// MULTI's time is up, and nobody knows what state its connection is in: it is given up. The commands behind MULTI
    /// may be on their way already, and must not be executed one by one: the transaction is doomed, as where there is
    /// no connection to be had. A client that is bound to the connection by something else loses its own.
    pub(super) fn multi_timed_out(&self, reason: Vec<u8>) {
        let mut inner = self.inner.borrow_mut();
        inner.transaction = None;
        inner.watch.clear();
        if inner.has_state() {
            self.end(Ending::AfterOutput);
        }
        inner.doomed = Some(reason);
        if let Some(exclusive) = inner.exclusive.take() {
            exclusive.discard();
        }
    }
}
