//! CLIENT: about this client's connection to nearhit, and about nearhit's other clients.
//!
//! What concerns the server's own connections (PAUSE, TRACKINGINFO and the like) is forwarded. Where it names a client
//! (UNBLOCK, REDIRECT), the number that the client has here is exchanged for that of its exclusive connection, and back
//! in the answer.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Inner, Next, Session,
    local::integer,
    pause::PauseChange,
    registry::ClientInfo,
    state::{Effect, ReplyMode},
    ticket::Work,
    transition::{Transition, Verdict},
    worker::Mail,
};
use crate::{
    clock,
    coherence::Batch,
    command::CommandId,
    ids::ClientId,
    net::Address,
    resp::{Args, Raw, RequestScanner, Scanned, Value, encode_request, reply},
};

/// Redis's words for a name that would break CLIENT LIST's lines.
pub(super) const NAME_ERROR: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// The number of a connection that nobody has.
const NOBODY: &[u8] = b"9223372036854775807";

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

/// What of CLIENT is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Id,
    GetName,
    SetName,
    SetInfo,
    Info,
    /// NO-EVICT and NO-TOUCH.
    NoEvict,
    List,
    Kill,
}

impl Own {
    fn of(args: Args<'_>, knows_7_2: bool) -> Option<Self> {
        match (args.get(1)?.to_ascii_uppercase().as_slice(), args.len()) {
            (b"ID", 2) => Some(Self::Id),
            (b"GETNAME", 2) => Some(Self::GetName),
            (b"SETNAME", 3) => Some(Self::SetName),
            (b"SETINFO", 4) if knows_7_2 => Some(Self::SetInfo),
            (b"INFO", 2) => Some(Self::Info),
            (b"NO-EVICT", 3) => Some(Self::NoEvict),
            (b"NO-TOUCH", 3) if knows_7_2 => Some(Self::NoEvict),
            (b"LIST", _) => Some(Self::List),
            (b"KILL", 3..) => Some(Self::Kill),
            _ => None,
        }
    }
}

/// How a request of CLIENT is queued in a transaction.
pub(super) enum Queued {
    /// It is sent.
    AsItIs(Option<Effect>),
    /// This is sent.
    Instead(Bytes, Option<Effect>),
    /// It is refused, with these words.
    Never(&'static str),
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
        let is = |name: &str, count: usize| is(args, name, count);
        if is("REPLY", 3) {
            return Self::reply_mode(inner, &args[2]);
        }
        if let Some(own) = Own::of(args, knows_7_2) {
            if own == Own::Kill {
                return self.kill_clients(inner, args);
            }
            if own == Own::List
                && let Some(next) = Self::judged(inner, &[b"CLIENT", b"LIST", b"ID", NOBODY])
            {
                return next;
            }
            return inner.reply(&self.own(own, args, request.len()));
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
        if subcommand.eq_ignore_ascii_case(b"UNBLOCK")
            && let Some(translated) = self.unblock(args)
        {
            return self.forward_plain(inner, batch, Raw::Borrowed(&translated));
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

    /// CLIENT UNBLOCK: the connection that is blocked is one that the client has to itself, and has another number.
    fn unblock(&self, args: Args<'_>) -> Option<Vec<u8>> {
        let info =
            self.worker.shared.registry.get(ClientId(u64::try_from(integer(args.get(2)?)?).unwrap_or(0)));
        let connection = info.map_or(0, |info| info.blocked_on()).to_string();
        let mut translated = Vec::new();
        let rest = args.iter().skip(3);
        encode_request([&args[0], &args[1], connection.as_bytes()].into_iter().chain(rest), &mut translated);
        Some(translated)
    }

    /// Answers what is about nearhit's own clients.
    fn own(&self, own: Own, args: Args<'_>, request_bytes: usize) -> Value {
        match own {
            Own::Id => Value::Integer(self.info.id.0.cast_signed()),
            Own::GetName => {
                let name = self.info.details.lock().name.clone();
                if name.is_empty() { Value::Nil } else { Value::Bulk(name) }
            }
            Own::SetName => self.set_name(&args[2]),
            Own::SetInfo => self.set_info(&args[2], &args[3]),
            Own::Info => {
                let line = self.info.line(clock::now(), "client|info", request_bytes) + "\n";
                Value::Verbatim(line.into())
            }
            Own::NoEvict => self.spare(args),
            Own::List => self.list(args, request_bytes),
            Own::Kill => match self.named(args) {
                Ok(doomed) => {
                    let (count, _) = self.condemn(doomed);
                    if self.info.is_doomed() {
                        self.end_after_output();
                    }
                    killed(args, count)
                }
                Err(error) => error,
            },
        }
    }

    /// The answer to a request that was queued, now that the server has executed what it was sent.
    pub(super) fn own_client(&self, request: &[u8]) -> Option<Bytes> {
        let mut scanner = RequestScanner::new(self.worker.request_limits.get());
        let Ok(Scanned::Request { .. }) = scanner.scan(request, true) else { return None };
        let args = scanner.args(request);
        let value = self.own(Own::of(args, true)?, args, request.len());
        let mut out = Vec::new();
        value.encode(self.protocol(), &mut out);
        Some(out.into())
    }

    /// How CLIENT is queued in a transaction. What is answered here is executed there, too, for the server's verdict, as
    /// far as that does no harm.
    pub(super) fn queue_client(&self, inner: &mut Inner, args: Args<'_>, request: &[u8]) -> Queued {
        let knows_7_2 = inner.greeting().is_none_or(|greeting| is_at_least(&greeting.version, (7, 2)));
        let has = |index: usize, word: &[u8]| {
            args.get(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word))
        };
        if is(args, "REPLY", 3) && (has(2, b"OFF") || has(2, b"SKIP") || inner.reply_mode != ReplyMode::On) {
            // EXEC would announce more results than there are.
            return Queued::Never("ERR nearhit: CLIENT REPLY cannot be part of a transaction");
        }
        if has(1, b"TRACKING") {
            if self.redirect(args).is_some() {
                return Queued::Never("ERR nearhit: REDIRECT cannot be part of a transaction");
            }
            return Queued::AsItIs((!has(2, b"OFF")).then_some(Effect::Spend));
        }
        if has(1, b"UNBLOCK")
            && let Some(translated) = self.unblock(args)
        {
            return Queued::Instead(translated.into(), None);
        }
        let Some(own) = Own::of(args, knows_7_2) else { return Queued::AsItIs(None) };
        let effect = Some(Effect::Client(request.into()));
        if own == Own::Kill {
            let mut harmless = Vec::new();
            encode_request(kill_of_nobody(&args), &mut harmless);
            return Queued::Instead(harmless.into(), effect);
        }
        if matches!(own, Own::SetName | Own::SetInfo | Own::NoEvict) {
            inner.soil_exclusive();
        }
        Queued::AsItIs(effect)
    }

    fn set_name(&self, name: &[u8]) -> Value {
        if !is_name(name) {
            return Value::error(NAME_ERROR);
        }
        self.info.details.lock().name = Bytes::copy_from_slice(name);
        Value::OK
    }

    /// CLIENT SETINFO, as Redis 7.2 has it; older servers do not know it, but libraries ask and go on.
    fn set_info(&self, attribute: &[u8], value: &[u8]) -> Value {
        let shown = String::from_utf8_lossy(attribute).to_ascii_lowercase();
        if !is_name(value) {
            return Value::error(format!(
                "ERR {shown} cannot contain spaces, newlines or special characters."
            ));
        }
        let mut details = self.info.details.lock();
        match shown.as_str() {
            "lib-name" => details.library = Bytes::copy_from_slice(value),
            "lib-ver" => details.library_version = Bytes::copy_from_slice(value),
            _ => {
                let attribute = String::from_utf8_lossy(attribute);
                return Value::error(format!("ERR Unrecognized option '{attribute}'"));
            }
        }
        Value::OK
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

    fn list(&self, args: Args<'_>, request_bytes: usize) -> Value {
        let now = clock::now();
        let all = self.worker.shared.registry.all();
        let filter = args.get(2).map(<[u8]>::to_ascii_uppercase);
        let clients: Vec<Arc<ClientInfo>> = match (filter.as_deref(), args.len()) {
            (None, _) => all,
            (Some(b"TYPE"), 4) if !is_type(&args[3]) => return Value::error(unknown_type(&args[3])),
            (Some(b"TYPE"), 4) => all.into_iter().filter(|info| info.is_of_type(&args[3])).collect(),
            (Some(b"ID"), 4..) => {
                // As Redis: in the order, and as often, as they are named.
                let ids: Option<Vec<i64>> = args.iter().skip(3).map(integer).collect();
                let Some(ids) = ids else { return Value::error("ERR Invalid client ID") };
                let place =
                    |id: i64| all.binary_search_by_key(&u64::try_from(id).ok()?, |info| info.id.0).ok();
                ids.into_iter().filter_map(place).map(|place| Arc::clone(&all[place])).collect()
            }
            _ => return Value::error("ERR syntax error"),
        };
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
        let lines: String = clients
            .iter()
            .map(|info| {
                let query_bytes = if info.id == self.info.id { request_bytes } else { 0 };
                info.line(now, last(info), query_bytes) + "\n"
            })
            .collect();
        Value::Verbatim(lines.into())
    }

    /// NO-EVICT and NO-TOUCH, which are kept for CLIENT LIST alone.
    fn spare(&self, args: Args<'_>) -> Value {
        let is_on = args[2].eq_ignore_ascii_case(b"ON");
        if !is_on && !args[2].eq_ignore_ascii_case(b"OFF") {
            return Value::error("ERR syntax error");
        }
        let is_no_evict = args[1].eq_ignore_ascii_case(b"NO-EVICT");
        let flag = if is_no_evict { &self.info.no_evict } else { &self.info.no_touch };
        flag.store(is_on, Ordering::Relaxed);
        Value::OK
    }

    /// CLIENT KILL. As with Redis, whoever is told of it finds the connections closed: a pool looks whether a connection
    /// is at its end before it hands it out.
    fn kill_clients(&self, inner: &mut Inner, args: Args<'_>) -> Next {
        match inner.verdict.take() {
            Some(Verdict::Killed(count)) => {
                let next = inner.reply(&killed(args, count));
                // Nothing behind it is executed.
                return if self.info.is_doomed() { Next::End } else { next };
            }
            // `judged` looks at it.
            verdict => inner.verdict = verdict,
        }
        if let Some(next) = Self::judged(inner, &kill_of_nobody(&args)) {
            return next;
        }
        match self.named(args) {
            Ok(doomed) => Next::Await(Transition::Kill(doomed)),
            Err(error) => inner.reply(&error),
        }
    }

    /// The clients that a CLIENT KILL names, by their address alone or by filters.
    fn named(&self, args: Args<'_>) -> Result<Vec<Arc<ClientInfo>>, Value> {
        let mut doomed = self.worker.shared.registry.all();
        if args.len() == 3 {
            doomed.retain(|info| is_address(&info.peer, &args[2]));
            return Ok(doomed);
        }
        let mut skip_me = true;
        for index in (2..args.len()).step_by(2) {
            let (option, Some(value)) = (&args[index], args.get(index + 1)) else {
                return Err(Value::error("ERR syntax error"));
            };
            match option.to_ascii_uppercase().as_slice() {
                b"ID" => match number(value).filter(|id| *id > 0) {
                    Some(id) => doomed.retain(|info| info.id.0 == id),
                    None => return Err(Value::error("ERR client-id should be greater than 0")),
                },
                b"ADDR" => doomed.retain(|info| is_address(&info.peer, value)),
                b"LADDR" => doomed.retain(|info| is_address(&info.local, value)),
                b"USER" => {
                    doomed.retain(|info| info.details.lock().user.as_deref().unwrap_or(b"default") == value);
                }
                b"TYPE" if is_type(value) => doomed.retain(|info| info.is_of_type(value)),
                b"TYPE" => return Err(Value::error(unknown_type(value))),
                b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => {}
                b"SKIPME" if value.eq_ignore_ascii_case(b"no") => skip_me = false,
                _ => return Err(Value::error("ERR syntax error")),
            }
        }
        doomed.retain(|info| !skip_me || info.id != self.info.id);
        Ok(doomed)
    }

    /// Has the workers of these clients cut them off, and returns how many of them no other CLIENT KILL was first to
    /// name. The killer itself goes once it has its reply.
    pub(super) async fn kill_all(&self, doomed: Vec<Arc<ClientInfo>>) -> i64 {
        let (count, mut gone) = self.condemn(doomed);
        gone.recv().await;
        count
    }

    /// As above, and what ends when they are gone.
    fn condemn(&self, mut doomed: Vec<Arc<ClientInfo>>) -> (i64, mpsc::Receiver<()>) {
        doomed.retain(|info| info.doom());
        let (letter, gone) = mpsc::channel(1);
        for info in doomed.iter().filter(|info| info.id != self.info.id) {
            self.worker.post(info.worker, Mail::Kill(info.id, letter.clone()));
        }
        (i64::try_from(doomed.len()).unwrap_or(i64::MAX), gone)
    }

    /// Has the server judge what is then done here. `None`: it has nothing against it, or cannot be asked, and what its
    /// operator wants to know of nearhit's clients then is not to depend on it.
    fn judged(inner: &mut Inner, question: &[&[u8]]) -> Option<Next> {
        match inner.verdict.take() {
            Some(Verdict::Answered(raw)) if reply::is_error(&raw) && !raw.starts_with(b"-ERR nearhit") => {
                Some(inner.reply_raw(&raw))
            }
            Some(Verdict::Answered(_)) => None,
            _ if inner.is_drained() => {
                let mut request = Vec::new();
                encode_request(question, &mut request);
                Some(Next::Await(Transition::Judge(request)))
            }
            _ => Some(Next::Hold),
        }
    }
}

fn is(args: Args<'_>, name: &str, count: usize) -> bool {
    args.len() == count && args[1].eq_ignore_ascii_case(name.as_bytes())
}

/// What a CLIENT KILL of so many clients is answered.
fn killed(args: Args<'_>, count: i64) -> Value {
    match (args.len(), count) {
        (3, 0) => Value::error("ERR No such client"),
        (3, _) => Value::OK,
        _ => Value::Integer(count),
    }
}

/// A CLIENT KILL of a connection that nobody has. The server knows who may kill, and which users there are.
fn kill_of_nobody<'a>(args: &Args<'a>) -> Vec<&'a [u8]> {
    let filters = args.iter().skip(2).filter(|_| names_user(*args));
    [&b"CLIENT"[..], b"KILL"].into_iter().chain(filters).chain([&b"ID"[..], NOBODY]).collect()
}

/// Whether a CLIENT KILL picks clients by their user.
fn names_user(args: Args<'_>) -> bool {
    args.len().is_multiple_of(2)
        && args.iter().skip(2).step_by(2).any(|option| option.eq_ignore_ascii_case(b"USER"))
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

fn is_address(address: &Address, text: &[u8]) -> bool {
    address.to_string().as_bytes() == text
}
