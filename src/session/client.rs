//! CLIENT: about this client's connection to nearhit, and about nearhit's other clients.
//!
//! What concerns the server's own connections (PAUSE, TRACKINGINFO and the like) is forwarded. Where it names a client
//! (UNBLOCK, REDIRECT), the number that the client has here is exchanged for that of its exclusive connection, and back
//! in the answer.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    Inner, Next, Session,
    pause::PauseChange,
    registry::ClientInfo,
    state::ReplyMode,
    ticket::Work,
    transition::{Transition, Verdict},
    worker::Mail,
};
use crate::{
    clock,
    coherence::Batch,
    command::CommandId,
    ids::ClientId,
    resp::{Args, Raw, Value, encode_request, reply},
};

/// Redis's words for a name that would break CLIENT LIST's lines.
pub(super) const NAME_ERROR: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// Whether a text may stand as a name in CLIENT LIST.
pub(super) fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// Where a client's own tracking sends its invalidations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redirect {
    /// The client's number here.
    own: u64,
    /// The number that the server has for the client's connection.
    servers: i64,
}

impl Redirect {
    /// A reply with the client's number in the place of the server's.
    pub(super) fn shown<'a>(&self, raw: Raw<'a>) -> Raw<'a> {
        let servers = format!(":{}\r\n", self.servers);
        match memchr::memmem::find(&raw, servers.as_bytes()) {
            Some(at) => {
                let own = format!(":{}\r\n", self.own);
                Raw::Shared([&raw[..at], own.as_bytes(), &raw[at + servers.len()..]].concat().into())
            }
            None => raw,
        }
    }
}

impl Session {
    /// Dispatches on the subcommand.
    pub(super) fn client(
        self: &Rc<Self>,
        inner: &mut Inner,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        let Some(subcommand) = args.get(1) else { return inner.wrong_arity("client") };
        let (may_client, knows_7_2) = inner
            .greeting()
            .map_or((true, true), |greeting| (greeting.may_client, is_at_least(&greeting.version, (7, 2))));
        if !may_client {
            let name = String::from_utf8_lossy(subcommand).to_ascii_lowercase();
            let text = format!("NOPERM this user has no permissions to run the 'client|{name}' command");
            return inner.refuse(&text);
        }
        let is = |name: &str, count: usize| {
            subcommand.eq_ignore_ascii_case(name.as_bytes()) && args.len() == count
        };
        if is("ID", 2) {
            return inner.reply(&Value::Integer(self.info.id.0.cast_signed()));
        }
        if is("GETNAME", 2) {
            let name = self.info.details.lock().name.clone();
            return inner.reply(&if name.is_empty() { Value::Nil } else { Value::Bulk(name) });
        }
        if is("SETNAME", 3) {
            return self.set_name(inner, &args[2]);
        }
        if is("SETINFO", 4) && knows_7_2 {
            return self.set_info(inner, &args[2], &args[3]);
        }
        if is("INFO", 2) {
            let line = format!("{}\n", self.info.line(clock::now(), "client|info", request.len()));
            return inner.reply(&Value::Verbatim(line.into()));
        }
        if is("REPLY", 3) {
            return Self::reply_mode(inner, &args[2]);
        }
        if is("NO-EVICT", 3) || (is("NO-TOUCH", 3) && knows_7_2) {
            let known = [&b"ON"[..], b"OFF"].iter().any(|value| args[2].eq_ignore_ascii_case(value));
            return if known { inner.reply(&Value::OK) } else { inner.refuse("ERR syntax error") };
        }
        if subcommand.eq_ignore_ascii_case(b"LIST") {
            return self.list(inner, args, request.len());
        }
        if subcommand.eq_ignore_ascii_case(b"KILL") && args.len() >= 3 {
            return self.kill_clients(inner, args);
        }
        if subcommand.eq_ignore_ascii_case(b"TRACKING") {
            return match self.redirect(args) {
                Some((redirect, _)) if self.must_claim(inner, redirect) => {
                    if inner.is_drained() {
                        Next::Await(Transition::Claim(ClientId(redirect.own)))
                    } else {
                        Next::Hold
                    }
                }
                Some((redirect, translated)) => {
                    inner.redirect = Some(redirect);
                    self.track(inner, batch, args, Raw::Borrowed(&translated))
                }
                None => self.track(inner, batch, args, request),
            };
        }
        if let (true, Some(redirect)) = (is("GETREDIR", 2) || is("TRACKINGINFO", 2), inner.redirect) {
            return self.forward(inner, batch, request, Work::Redirected(redirect));
        }
        if let Some(change) = PauseChange::asked(args) {
            if change != PauseChange::End || inner.exclusive.is_some() {
                return self.forward(inner, batch, request, Work::Pause(change));
            }
            if matches!(&inner.verdict, Some(Verdict::Answered(raw)) if !reply::is_error(raw)) {
                self.worker.shared.pause.change(change, batch.now);
            }
            return Self::ask_apart(inner, &request);
        }
        if subcommand.eq_ignore_ascii_case(b"UNBLOCK") && args.len() >= 3 {
            return self.unblock(inner, batch, args, request);
        }
        self.forward_plain(inner, batch, request)
    }

    /// CLIENT TRACKING with REDIRECT, which names a client of nearhit where the server knows its connection by another
    /// number. One that there is not gets a number that nobody has.
    fn redirect(&self, args: Args<'_>) -> Option<(Redirect, Vec<u8>)> {
        let mut index = 3;
        while !args.get(index)?.eq_ignore_ascii_case(b"REDIRECT") {
            index += if args[index].eq_ignore_ascii_case(b"PREFIX") { 2 } else { 1 };
        }
        let own = number(args.get(index + 1)?)?;
        let info = self.worker.shared.registry.get(ClientId(own));
        let known = info.map(|info| info.exclusive.load(Ordering::Acquire)).filter(|number| *number != 0);
        let redirect = Redirect { own, servers: known.unwrap_or(i64::MAX) };
        let target = redirect.servers.to_string();
        let words = args.iter().enumerate();
        let words = words.map(|(at, word)| if at == index + 1 { target.as_bytes() } else { word });
        let mut translated = Vec::new();
        encode_request(words, &mut translated);
        Some((redirect, translated))
    }

    /// Whether the client that is redirected to has no connection of its own yet, on which it could hear of anything,
    /// and has not been asked in vain to take one.
    fn must_claim(&self, inner: &mut Inner, redirect: Redirect) -> bool {
        let was_asked = inner.verdict.take_if(|verdict| matches!(verdict, Verdict::Claimed)).is_some();
        let target = ClientId(redirect.own);
        redirect.servers == i64::MAX
            && !was_asked
            && target != self.info.id
            && self.worker.shared.registry.get(target).is_some()
    }

    /// CLIENT UNBLOCK: the connection that is blocked is the one that the client has to itself, and has another number.
    fn unblock(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, args: Args<'_>, request: Raw<'_>) -> Next {
        let Some(id) = number(&args[2]) else { return self.forward_plain(inner, batch, request) };
        let info = self.worker.shared.registry.get(ClientId(id));
        // No connection is number 0.
        let connection = info.map_or(0, |info| info.exclusive.load(Ordering::Acquire)).to_string();
        let mut translated = Vec::new();
        let rest = args.iter().skip(3);
        encode_request([&args[0], &args[1], connection.as_bytes()].into_iter().chain(rest), &mut translated);
        self.forward_plain(inner, batch, Raw::Borrowed(&translated))
    }

    fn set_name(&self, inner: &mut Inner, name: &[u8]) -> Next {
        if !is_name(name) {
            return inner.refuse(NAME_ERROR);
        }
        self.info.details.lock().name = Bytes::copy_from_slice(name);
        inner.reply(&Value::OK)
    }

    /// CLIENT SETINFO, as Redis 7.2 has it; older servers do not know it, but libraries ask and go on.
    fn set_info(&self, inner: &mut Inner, attribute: &[u8], value: &[u8]) -> Next {
        let shown = String::from_utf8_lossy(attribute).to_ascii_lowercase();
        if !is_name(value) {
            let text = format!("ERR {shown} cannot contain spaces, newlines or special characters.");
            return inner.refuse(&text);
        }
        let mut details = self.info.details.lock();
        match shown.as_str() {
            "lib-name" => details.library = Bytes::copy_from_slice(value),
            "lib-ver" => details.library_version = Bytes::copy_from_slice(value),
            _ => {
                drop(details);
                let text = format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(attribute));
                return inner.refuse(&text);
            }
        }
        drop(details);
        inner.reply(&Value::OK)
    }

    fn reply_mode(inner: &mut Inner, mode: &[u8]) -> Next {
        if mode.eq_ignore_ascii_case(b"ON") {
            inner.reply_mode = ReplyMode::On;
            inner.mute = false;
            return inner.reply(&Value::OK);
        }
        if mode.eq_ignore_ascii_case(b"OFF") {
            inner.reply_mode = ReplyMode::Off;
        } else if mode.eq_ignore_ascii_case(b"SKIP") {
            if inner.reply_mode != ReplyMode::Off {
                inner.reply_mode = ReplyMode::SkipNext;
                // It is the next request's reply that is skipped; this one has none anyway.
                inner.mute = false;
            }
        } else {
            return inner.refuse("ERR syntax error");
        }
        Next::Done
    }

    fn list(&self, inner: &mut Inner, args: Args<'_>, request_bytes: usize) -> Next {
        let now = clock::now();
        let ids: Vec<ClientId> = args.iter().skip(3).filter_map(number).map(ClientId).collect();
        let wanted = |info: &ClientInfo| match args.get(2) {
            None => true,
            Some(filter) if filter.eq_ignore_ascii_case(b"ID") => ids.contains(&info.id),
            Some(filter) if filter.eq_ignore_ascii_case(b"TYPE") => {
                args.get(3).is_some_and(|kind| info.is_of_type(kind))
            }
            Some(_) => false,
        };
        let known = args.get(2).is_none_or(|filter| {
            (filter.eq_ignore_ascii_case(b"ID") || filter.eq_ignore_ascii_case(b"TYPE")) && args.len() > 3
        });
        if !known {
            return inner.refuse("ERR syntax error");
        }
        if let (Some(b"TYPE" | b"type"), Some(kind)) = (args.get(2), args.get(3))
            && !is_type(kind)
        {
            return inner.refuse(&unknown_type(kind));
        }
        let table = Arc::clone(&self.worker.table.borrow());
        let last = |info: &ClientInfo| {
            let id = CommandId(info.command.load(Ordering::Relaxed));
            if info.id == self.info.id {
                "client|list"
            } else if id.0 == 0 {
                "NULL"
            } else {
                &*table[id].name
            }
        };
        let lines: String = self
            .worker
            .shared
            .registry
            .all()
            .iter()
            .filter(|info| wanted(info))
            .map(|info| {
                let query_bytes = if info.id == self.info.id { request_bytes } else { 0 };
                info.line(now, last(info), query_bytes) + "\n"
            })
            .collect();
        inner.reply(&Value::Verbatim(lines.into()))
    }

    /// `CLIENT KILL addr`, and the filter form.
    fn kill_clients(&self, inner: &mut Inner, args: Args<'_>) -> Next {
        let all = self.worker.shared.registry.all();
        if args.len() == 3 {
            let found = all.iter().find(|info| is_address(info.peer, &args[2]));
            if !found.is_some_and(|info| self.kill_client(info)) {
                return inner.refuse("ERR No such client");
            }
            return inner.reply(&Value::OK);
        }
        if args.iter().skip(2).step_by(2).any(|option| option.eq_ignore_ascii_case(b"USER"))
            && args.len().is_multiple_of(2)
            && let Some(next) = Self::judge_kill(inner, args)
        {
            return next;
        }
        let mut doomed: Vec<&Arc<ClientInfo>> = all.iter().collect();
        let mut skip_me = true;
        for index in (2..args.len()).step_by(2) {
            let (option, Some(value)) = (&args[index], args.get(index + 1)) else {
                return inner.refuse("ERR syntax error");
            };
            match option.to_ascii_uppercase().as_slice() {
                b"ID" => match number(value).filter(|id| *id > 0) {
                    Some(id) => doomed.retain(|info| info.id.0 == id),
                    None => return inner.refuse("ERR client-id should be greater than 0"),
                },
                b"ADDR" => doomed.retain(|info| is_address(info.peer, value)),
                b"LADDR" => doomed.retain(|info| is_address(info.local, value)),
                b"USER" => {
                    doomed.retain(|info| info.details.lock().user.as_deref().unwrap_or(b"default") == value);
                }
                b"TYPE" if is_type(value) => doomed.retain(|info| info.is_of_type(value)),
                b"TYPE" => return inner.refuse(&unknown_type(value)),
                b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => {}
                b"SKIPME" if value.eq_ignore_ascii_case(b"no") => skip_me = false,
                _ => return inner.refuse("ERR syntax error"),
            }
        }
        doomed.retain(|info| !skip_me || info.id != self.info.id);
        doomed.retain(|info| self.kill_client(info));
        let count = i64::try_from(doomed.len()).unwrap_or(i64::MAX);
        inner.reply(&Value::Integer(count))
    }

    /// Which users there are only the server knows. It is asked to kill a connection that nobody has, and says what is
    /// wrong with that: then this is the answer.
    fn judge_kill(inner: &mut Inner, args: Args<'_>) -> Option<Next> {
        match inner.verdict.take() {
            Some(Verdict::Answered(raw)) if reply::is_error(&raw) => Some(inner.reply_raw(&raw)),
            Some(Verdict::Answered(_)) => None,
            _ if inner.is_drained() => {
                let mut question = Vec::new();
                let nobody = i64::MAX.to_string();
                let words: Vec<&[u8]> = args.iter().chain([&b"ID"[..], nobody.as_bytes()]).collect();
                encode_request(words, &mut question);
                Some(Next::Await(Transition::Ask(question)))
            }
            _ => Some(Next::Hold),
        }
    }

    /// False if it is being killed already.
    fn kill_client(&self, info: &ClientInfo) -> bool {
        if !info.doom() {
            return false;
        }
        if info.id == self.info.id {
            self.end_after_output();
            return true;
        }
        self.worker.post(info.worker, Mail::Kill(info.id));
        true
    }
}

/// Whether a version such as "7.0.15" is at least this major and minor one.
fn is_at_least(version: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

fn is_type(name: &[u8]) -> bool {
    [&b"normal"[..], b"master", b"replica", b"slave", b"pubsub"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

fn unknown_type(name: &[u8]) -> String {
    format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn is_address(address: SocketAddr, text: &[u8]) -> bool {
    address.to_string().as_bytes() == text
}
