//! MULTI to EXEC: what is queued by the server is added up here, so that EXEC can be one write of all its keys.
//!
//! What follows MULTI waits for the answer to it: were it refused, it would be executed at once. If no connection could
//! be had, the transaction is doomed and nothing of it is sent.

use std::{rc::Rc, sync::atomic::Ordering};

use super::{
    Ending, Inner, Next, Session, denial,
    exclusive::{Purpose, database},
    output::Seq,
    pause::PauseChange,
    ticket::Work,
    write::keys,
};
use crate::{
    coherence::{Batch, WriteKind},
    command::{Class, Command, Local},
    mutation::Mutation,
    resp::{Args, Protocol, Raw, Value, encode_request},
};

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
        if self.is_denied(command) {
            let mut text = Vec::new();
            Value::error(denial(command)).encode(Protocol::Resp2, &mut text);
            return self.spoil(inner, batch, &args[0], Work::Denied(text));
        }
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
            // These would change the connection under us.
            Class::Subscribe(_) if inner.share.is_some() => {
                return self.spoil(inner, batch, &args[0], Work::Plain);
            }
            Class::Session(Local::Hello | Local::Auth)
            | Class::Monitor
            | Class::ScriptDebug
            | Class::Refused => return self.spoil(inner, batch, &args[0], Work::Plain),
            Class::Session(Local::Client) if changes_connection(args.get(1)) => {
                return self.spoil(inner, batch, &args[0], Work::Plain);
            }
            _ => {}
        }
        let kind = self.write_kind(class);
        let Some(transaction) = inner.transaction.as_mut() else { return Next::Hold };
        transaction.kind = transaction.kind.max(kind);
        transaction.is_uncertain |= command.is_unheard_of();
        if class == Class::ReadUndeclared {
            transaction.kind = transaction.kind.max(WriteKind::Undeclared);
        }
        if class == Class::Session(Local::Select)
            && let Some(database) = args.get(1).and_then(database)
        {
            transaction.selects.push((transaction.queued, database));
        }
        transaction.subscribes |= matches!(class, Class::Subscribe(_));
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
        if let (true, Some(exclusive)) = (transaction.subscribes, inner.exclusive.as_mut()) {
            exclusive.purpose = Purpose::Subscribed;
        }
        let missed = usize::from(Mutation::ExecMissesKey.is_on());
        let writes = transaction.writes.iter().skip(missed).map(|key| &**key);
        let guard = self.worker.shared.coherence.begin_write(transaction.kind, writes);
        self.worker.counters.writes.add(1);
        inner.subscribing += usize::from(transaction.subscribes);
        self.forward(inner, batch, request, Work::Exec { guard, transaction })
    }

    /// Has the server refuse a command, and thereby the transaction: one that it cannot know is sent instead, and
    /// the error names it.
    fn spoil(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, name: &[u8], work: Work) -> Next {
        let mut request = Vec::new();
        encode_request([&b"nearhit:not-in-a-transaction"[..], name], &mut request);
        self.forward(inner, batch, Raw::Borrowed(&request), work)
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

/// Subcommands of CLIENT that change the state of the connection they are sent on.
fn changes_connection(subcommand: Option<&[u8]>) -> bool {
    subcommand.is_some_and(|name| {
        [&b"REPLY"[..], b"TRACKING", b"CACHING", b"SETNAME", b"SETINFO", b"NO-EVICT", b"NO-TOUCH"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    })
}
