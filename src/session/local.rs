//! Commands that the session answers itself, because they are about this client's connection to nearhit.
//!
//! Where the upstream's verdict matters (AUTH, a database's existence, the fields of HELLO) it is asked, and its
//! words are passed on; PING and ECHO are forwarded while it might say something else than usual. What has to hold on
//! the client's exclusive connection (HELLO, AUTH) is said there. Texts of errors are those of Redis 7.

use std::{
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::{
    Ending, Inner, Next, Session, attempts,
    send::NoLane,
    sharing::CANNOT_CHANGE,
    state::{ReplyMode, Subscriptions},
    ticket::Work,
    transition::{Transition, Verdict},
};
use crate::{
    coherence::Batch,
    command::Local,
    config::AuthMode,
    ids::Database,
    net::Address,
    resp::{Args, Protocol, Raw, Value, reply},
    upstream::{
        connection::Profile,
        identity::{Credentials, Identity},
    },
};

/// What a HELLO asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hello {
    protocol: Option<Protocol>,
    credentials: Option<Credentials>,
    name: Option<Bytes>,
}

/// What an accepted HELLO or AUTH on an exclusive connection changes.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    hello: Hello,
    is_hello: bool,
    /// Leave for the attempt, where its credentials are not known to be right.
    place: Option<attempts::Place>,
}

/// What `auth.mode = "none"` cannot do on a connection that the client cannot leave.
pub(super) const AUTH_WAITS: &str = "ERR nearhit: AUTH has to wait for EXEC, UNWATCH or the last UNSUBSCRIBE";

/// What is said to who may not even try.
pub(super) const TOO_MANY_ATTEMPTS: &str =
    "ERR nearhit: too many failed authentications from this address, try again in a few seconds";

impl Session {
    /// Dispatches a command of the session's own.
    pub(super) fn local(
        self: &Rc<Self>,
        inner: &mut Inner,
        local: Local,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        let wants_lane = matches!(local, Local::Ping | Local::Echo | Local::Client);
        if wants_lane && inner.greeting().is_none() && matches!(self.lane(inner), Err(NoLane::Wait)) {
            // What the user may do is found out when a connection is made.
            return Next::Hold;
        }
        let is_open = matches!(local, Local::Hello | Local::Auth | Local::Quit | Local::Reset);
        let may_ping = inner.greeting().is_none_or(|greeting| greeting.may_ping);
        // Where a connection brings messages, its answer has a place among them.
        let is_silent = inner.exclusive.is_none() && inner.share.is_none();
        let expects_pong = is_silent && may_ping && self.worker.shared.coherence.expects_pong(batch.now);
        if (!is_open && !inner.is_authenticated())
            || (matches!(local, Local::Ping | Local::Echo) && !expects_pong)
        {
            // The server refuses it, or may do so (-BUSY), and has the right words.
            return self.forward_plain(inner, batch, request);
        }
        match local {
            Local::Ping => match args.len() {
                1 => inner.reply(&Value::Simple("PONG".into())),
                2 => inner.reply(&Value::Bulk(Bytes::copy_from_slice(&args[1]))),
                _ => inner.wrong_arity("ping"),
            },
            Local::Echo if args.len() == 2 => inner.reply(&Value::Bulk(Bytes::copy_from_slice(&args[1]))),
            Local::Echo => inner.wrong_arity("echo"),
            Local::Select => self.select(inner, args),
            Local::Hello => self.hello(inner, args),
            Local::Auth => self.auth(inner, args, &request),
            Local::Quit => {
                inner.reply(&Value::OK);
                Next::End
            }
            Local::Reset if args.len() > 1 => inner.wrong_arity("reset"),
            Local::Reset => self.reset(inner),
            Local::Client => self.client(inner, batch, args, request),
            Local::Command => self.forward_plain(inner, batch, request),
            Local::Info => self.info(inner, batch, args, request),
            Local::Proxy => self.proxy(inner, args),
        }
    }

    // ---- SELECT, AUTH, HELLO, RESET: they change which lane the client is on -----------------------------------------

    fn select(&self, inner: &mut Inner, args: Args<'_>) -> Next {
        if args.len() != 2 {
            return inner.wrong_arity("select");
        }
        let Some(number) = integer(&args[1]) else {
            return inner.refuse("ERR value is not an integer or out of range");
        };
        if i32::try_from(number).is_err() {
            let text = "ERR value is out of range, value must between -2147483648 and 2147483647";
            return inner.refuse(text);
        }
        let Ok(number) = u32::try_from(number) else {
            return inner.refuse("ERR DB index is out of range");
        };
        // Another client's lane in that database says nothing about whether this user may select it.
        match self.lane(inner).map(|lane| lane.greeting.select_refusal.clone()) {
            Ok(None) => {}
            Ok(Some(refusal)) => return inner.reply_raw(&refusal),
            Err(reason) => return inner.no_lane(reason),
        }
        let profile = Profile { database: Database(number), ..inner.profile.clone() };
        match self.switch(inner, profile) {
            Ok(()) => inner.reply(&Value::OK),
            Err(next) => next,
        }
    }

    /// Moves the client to a lane of another profile, once nothing of it is in flight on the old one.
    fn switch(&self, inner: &mut Inner, profile: Profile) -> Result<(), Next> {
        let is_same =
            (profile.identity.id, profile.protocol) == (inner.profile.identity.id, inner.profile.protocol);
        if inner.share.is_some() && !is_same {
            return Err(inner.refuse(CANNOT_CHANGE));
        }
        if !inner.is_drained() {
            return Err(Next::Hold);
        }
        if profile != inner.profile || inner.lane.is_none() {
            match self.pick(&profile) {
                Ok(lane) => inner.pin(Some(lane)),
                Err(reason) => return Err(inner.no_lane(reason)),
            }
        }
        inner.profile = profile;
        self.show_profile(inner);
        Ok(())
    }

    fn auth(&self, inner: &mut Inner, args: Args<'_>, request: &[u8]) -> Next {
        let credentials = match args.len() {
            2 => credentials(b"default", &args[1]),
            3 => credentials(&args[1], &args[2]),
            1 => return inner.wrong_arity("auth"),
            _ => return inner.refuse("ERR syntax error"),
        };
        let identity = match self.authenticated(inner, credentials, request.to_vec()) {
            Ok(identity) => identity,
            Err(next) => return next,
        };
        let profile = Profile { identity: Arc::clone(&identity), ..inner.profile.clone() };
        match self.switch(inner, profile) {
            Ok(()) => inner.reply(&Value::OK),
            Err(next) => {
                Self::keep_verdict(inner, &next, identity);
                next
            }
        }
    }

    /// The identity of credentials that the upstream accepts; first it has to be asked.
    fn authenticated(
        &self,
        inner: &mut Inner,
        credentials: Credentials,
        question: Vec<u8>,
    ) -> Result<Arc<Identity>, Next> {
        if self.worker.shared.config.auth.mode == AuthMode::None {
            return Ok(Arc::clone(self.worker.shared.identities.client_default()));
        }
        match inner.verdict.take() {
            Some(Verdict::Accepted(identity)) => Ok(identity),
            Some(Verdict::Refused(raw)) => Err(inner.reply_raw(&raw)),
            _ if inner.is_drained() => Err(Next::Await(Transition::Authenticate(credentials, question))),
            _ => Err(Next::Hold),
        }
    }

    /// Has the upstream judge a user and password, unless too many from this address have been wrong of late.
    pub(super) async fn judge(&self, credentials: Credentials, request: &[u8]) -> Verdict {
        let shared = &self.worker.shared;
        let place = if shared.identities.knows(&credentials) {
            None
        } else {
            let place = shared.attempts.wait(self.source()).await;
            // Another client may have been accepted with them meanwhile.
            if place.is_none() && !shared.identities.knows(&credentials) {
                return Verdict::Refused(self.throttled());
            }
            place
        };
        let _turn = shared.attempts.turn().await;
        if let Some(error) = shared.health.down_reason() {
            return Verdict::Refused(error.reply().to_vec());
        }
        match shared.dialer.judge(request).await {
            Ok(None) => {
                let identity = shared.identities.verified(credentials);
                self.worker.lanes.forgive(identity.id);
                Verdict::Accepted(identity)
            }
            Ok(Some(refusal)) => {
                self.failed(Some(&credentials), place);
                Verdict::Refused(refusal.to_vec())
            }
            Err(error) => Verdict::Refused(error.reply().to_vec()),
        }
    }

    /// The upstream has refused an attempt.
    fn failed(&self, credentials: Option<&Credentials>, place: Option<attempts::Place>) {
        let Some(credentials) = credentials else { return };
        let shared = &self.worker.shared;
        self.worker.counters.auth_failures.add(1);
        shared.identities.doubt(credentials);
        if let Some(place) = place.or_else(|| shared.attempts.try_take(self.source())) {
            place.keep();
        }
    }

    fn throttled(&self) -> Vec<u8> {
        self.worker.counters.auth_throttled.add(1);
        let mut out = Vec::new();
        Value::error(TOO_MANY_ATTEMPTS).encode(Protocol::Resp2, &mut out);
        out
    }

    /// Gives an attempt that may fail its place among those of its source; false if all are taken.
    pub(super) fn may_attempt(&self, agreement: &mut Agreement) -> bool {
        let shared = &self.worker.shared;
        if agreement.hello.credentials.as_ref().is_none_or(|one| shared.identities.knows(one)) {
            return true;
        }
        agreement.place = shared.attempts.try_take(self.source());
        if agreement.place.is_none() {
            self.worker.counters.auth_throttled.add(1);
        }
        agreement.place.is_some()
    }

    /// Where attempts of this client are counted.
    fn source(&self) -> IpAddr {
        match &self.info.peer {
            Address::Tcp(address) => address.ip(),
            // They are all of this machine.
            Address::Unix(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A held request comes back, and must find the verdict it has waited for.
    fn keep_verdict(inner: &mut Inner, next: &Next, identity: Arc<Identity>) {
        if matches!(next, Next::Hold) {
            inner.verdict = Some(Verdict::Accepted(identity));
        }
    }

    fn hello(&self, inner: &mut Inner, args: Args<'_>) -> Next {
        let hello = match parse_hello(args) {
            Ok(hello) => hello,
            Err(text) => return inner.refuse(&text),
        };
        let mut identity = Arc::clone(&inner.profile.identity);
        if let Some(credentials) = &hello.credentials {
            identity = match self.authenticated(inner, credentials.clone(), credentials.auth()) {
                Ok(identity) => identity,
                Err(next) => return next,
            };
        }
        let protocol = hello.protocol.unwrap_or(inner.profile.protocol);
        let profile = Profile { identity: Arc::clone(&identity), protocol, database: inner.profile.database };
        if let Err(next) = self.switch(inner, profile) {
            if hello.credentials.is_some() {
                Self::keep_verdict(inner, &next, identity);
            }
            return next;
        }
        let greeting = inner.lane.as_ref().map(|lane| lane.greeting.hello.clone()).unwrap_or_default();
        if let Some(name) = hello.name
            && !reply::is_error(&greeting)
        {
            self.info.details.lock().name = name;
        }
        inner.reply_raw(&self.own_hello(&greeting, protocol))
    }

    /// HELLO and AUTH of a client that cannot leave its connection: they are said on it, and hold if it accepts them.
    pub(super) fn agree_on_exclusive(
        self: &Rc<Self>,
        inner: &mut Inner,
        local: Local,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        // What cannot be read, the server refuses.
        let Some(mut agreement) = Agreement::asked(local, args) else {
            return self.forward_plain(inner, batch, request);
        };
        if self.must_not_agree(&agreement) {
            return inner.refuse(AUTH_WAITS);
        }
        if !inner.is_drained() {
            return Next::Hold;
        }
        if !self.may_attempt(&mut agreement) {
            return inner.refuse(TOO_MANY_ATTEMPTS);
        }
        inner.spend_exclusive();
        inner.is_agreeing = true;
        self.forward(inner, batch, request, Work::Agree(Box::new(agreement)))
    }

    /// Whether the upstream must not hear of it: with `auth.mode = "none"` clients are not known to it.
    pub(super) fn must_not_agree(&self, agreement: &Agreement) -> bool {
        agreement.hello.credentials.is_some() && self.worker.shared.config.auth.mode == AuthMode::None
    }

    /// The server has answered; returns what the client is to read.
    pub(super) fn agreed(&self, agreement: Agreement, raw: Bytes) -> Bytes {
        self.not_agreed();
        let Agreement { hello, is_hello, place } = agreement;
        if reply::is_error(&raw) {
            self.failed(hello.credentials.as_ref(), place);
            return raw;
        }
        let identity =
            hello.credentials.map(|credentials| self.worker.shared.identities.verified(credentials));
        self.changed(|profile| {
            profile.protocol = hello.protocol.unwrap_or(profile.protocol);
            profile.identity = identity.unwrap_or_else(|| Arc::clone(&profile.identity));
        });
        if let Some(name) = hello.name {
            self.info.details.lock().name = name;
        }
        if is_hello { self.own_hello(&raw, self.protocol()).into() } else { raw }
    }

    pub(super) fn not_agreed(&self) {
        self.inner.borrow_mut().is_agreeing = false;
    }

    /// The server's HELLO as it would be if this client had asked it: with the client's own id.
    fn own_hello(&self, greeting: &[u8], protocol: Protocol) -> Vec<u8> {
        if greeting.first() == Some(&b'-') && greeting.starts_with(b"-ERR unknown command") {
            // A server without HELLO: one is made up for it, since no client library may be refused (RESP2 only).
            return self.made_up_hello(protocol);
        }
        let Some(elements) = reply::elements(greeting) else { return greeting.to_vec() };
        let header = greeting.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut out = greeting[..header].to_vec();
        let mut is_id = false;
        for element in elements {
            if is_id {
                Value::Integer(self.info.id.0.cast_signed()).encode(protocol, &mut out);
            } else {
                out.extend_from_slice(element);
            }
            is_id = !is_id && reply::bulk(element) == Some(b"id");
        }
        out
    }

    fn made_up_hello(&self, protocol: Protocol) -> Vec<u8> {
        let text = |text: &'static str| Value::Bulk(Bytes::from_static(text.as_bytes()));
        let fields = vec![
            (text("server"), text("redis")),
            (text("version"), text("5.0.0")),
            (text("proto"), Value::Integer(if protocol == Protocol::Resp3 { 3 } else { 2 })),
            (text("id"), Value::Integer(self.info.id.0.cast_signed())),
            (text("mode"), text("standalone")),
            (text("role"), text("master")),
            (text("modules"), Value::Array(Vec::new())),
        ];
        let mut out = Vec::new();
        Value::Map(fields).encode(protocol, &mut out);
        out
    }

    fn reset(self: &Rc<Self>, inner: &mut Inner) -> Next {
        // What is in flight on an exclusive connection (a BLPOP) would hold this up for as long as it blocks: but the
        // server, too, looks at a blocked client's RESET only when it is no longer blocked.
        if !inner.is_drained() {
            return Next::Hold;
        }
        let profile = Profile {
            identity: Arc::clone(self.worker.shared.identities.client_default()),
            database: self.worker.shared.default_database,
            protocol: Protocol::Resp2,
        };
        // The server's mind about those who do not authenticate may have changed since the client was one.
        let lane = match self.pick(&profile) {
            Ok(lane) => Some(lane),
            Err(NoLane::Wait) => return Next::Hold,
            Err(NoLane::Failed(_)) => None,
        };
        if let Some(exclusive) = inner.exclusive.take() {
            exclusive.discard();
        }
        self.leave_hub(inner);
        inner.transaction = None;
        inner.doomed = None;
        inner.watch.clear();
        inner.is_monitoring = false;
        inner.redirect = None;
        inner.subscriptions = Subscriptions::default();
        // SKIP holds for RESET, too, and OFF does not.
        inner.mute &= inner.reply_mode == ReplyMode::SkipNext;
        inner.reply_mode = ReplyMode::On;
        inner.needs_auth = None;
        inner.pin(lane);
        inner.profile = profile;
        *self.info.details.lock() = super::registry::Details::default();
        inner.reply(&Value::Simple("RESET".into()))
    }

    // ---- INFO -------------------------------------------------------------------------------------------------

    fn info(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, args: Args<'_>, request: Raw<'_>) -> Next {
        let asks =
            |name: &str| args.iter().skip(1).any(|section| section.eq_ignore_ascii_case(name.as_bytes()));
        if args.len() == 2 && asks("nearhit") {
            let section = self.own_section();
            return inner.reply(&Value::Verbatim(section.into()));
        }
        let with_own = args.len() == 1 || ["nearhit", "all", "everything", "default"].into_iter().any(asks);
        let work = if with_own { Work::Info } else { Work::Plain };
        self.forward(inner, batch, request, work)
    }

    /// The server's INFO with nearhit's section behind it.
    pub(super) fn with_own_section(&self, raw: &[u8]) -> Vec<u8> {
        let Some(info) = reply::bulk(raw) else { return raw.to_vec() };
        let mut text = BytesMut::from(info);
        if !text.is_empty() {
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(self.own_section().as_bytes());
        let mut out = Vec::with_capacity(text.len() + 32);
        let value = if raw.first() == Some(&b'=') { Value::Verbatim } else { Value::Bulk };
        value(text.freeze())
            .encode(if raw.first() == Some(&b'=') { Protocol::Resp3 } else { Protocol::Resp2 }, &mut out);
        out
    }

    /// Ends the session once everything is delivered.
    pub(super) fn end_after_output(&self) {
        self.end(Ending::AfterOutput);
    }
}

impl Agreement {
    /// What a HELLO or AUTH asks for, if that can be read.
    pub(super) fn asked(local: Local, args: Args<'_>) -> Option<Self> {
        let of = |user: &[u8], password: &[u8]| Hello {
            credentials: Some(credentials(user, password)),
            ..Hello::default()
        };
        let hello = match (local, args.len()) {
            (Local::Hello, _) => parse_hello(args).ok()?,
            (_, 2) => of(b"default", &args[1]),
            (_, 3) => of(&args[1], &args[2]),
            _ => return None,
        };
        Some(Self { hello, is_hello: local == Local::Hello, place: None })
    }
}

fn credentials(user: &[u8], password: &[u8]) -> Credentials {
    Credentials { user: Bytes::copy_from_slice(user), password: Bytes::copy_from_slice(password) }
}

/// A number as Redis reads one: no plus sign, no leading zero.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// `HELLO [protover [AUTH user password] [SETNAME name]]`, with Redis's own errors.
fn parse_hello(args: Args<'_>) -> Result<Hello, String> {
    let mut hello = Hello::default();
    let Some(version) = args.get(1) else { return Ok(hello) };
    hello.protocol = match integer(version) {
        Some(2) => Some(Protocol::Resp2),
        Some(3) => Some(Protocol::Resp3),
        Some(_) => return Err("NOPROTO unsupported protocol version".into()),
        None => return Err("ERR Protocol version is not an integer or out of range".into()),
    };
    let mut index = 2;
    while let Some(option) = args.get(index) {
        match (args.get(index + 1), args.get(index + 2)) {
            (Some(user), Some(password)) if option.eq_ignore_ascii_case(b"AUTH") => {
                hello.credentials = Some(credentials(user, password));
                index += 3;
            }
            (Some(name), _) if option.eq_ignore_ascii_case(b"SETNAME") => {
                if !super::client::is_name(name) {
                    return Err(super::client::NAME_ERROR.into());
                }
                hello.name = Some(Bytes::copy_from_slice(name));
                index += 2;
            }
            _ => {
                return Err(format!(
                    "ERR Syntax error in HELLO option '{}'",
                    String::from_utf8_lossy(option)
                ));
            }
        }
    }
    Ok(hello)
}
