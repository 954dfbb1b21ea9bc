//! One connection to the upstream: dialling it, and agreeing with the server on who speaks, which protocol and
//! which database.
//!
//! Everything that talks to Redis on raw bytes starts here: lanes, exclusive connections, the invalidation link, and
//! the short-lived connections on which a password is judged or a single command is asked apart from all others. The
//! handshake learns which server process is at the other end, because a cache may only be filled from the process
//! whose invalidations it hears. Nothing here is retried: callers know whether a retry is safe.

use std::{error::Error, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::identity::Identity;
use crate::{
    config::Endpoint,
    ids::{Database, ServerId},
    net::{Stream, certificates::Current, keep_alive, tls::TlsStream},
    resp::{FrameKind, Protocol, ReplyScanner, Value, encode_request, reply},
};

/// A handshake's replies together may be this long; INFO's server section is about 1 KiB.
const HANDSHAKE_BYTES_MAX: usize = 1024 * 1024;

/// What a connection is agreed to be. Two connections of one profile are interchangeable.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Whose connection it is.
    pub identity: Arc<Identity>,
    /// The selected database.
    pub database: Database,
    /// The protocol of its replies.
    pub protocol: Protocol,
}

impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

/// A [`Profile`] as a map's key.
pub type ProfileKey = (crate::ids::IdentityId, Database, Protocol);

impl Profile {
    /// The profile as a map's key.
    pub fn key(&self) -> ProfileKey {
        (self.identity.id, self.database, self.protocol)
    }
}

/// Why a connection could not be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// No connection: refused, timed out, name not found, or cut off during the handshake.
    #[error("upstream {address} is unreachable: {reason}")]
    Unreachable {
        /// Where it was tried.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// TLS has failed: the server is not who it should be, or does not take us for who we should be.
    #[error("upstream {address} cannot be used over TLS: {reason}")]
    Tls {
        /// Where it was tried.
        address: String,
        /// What rustls said.
        reason: String,
    },
    /// The server is there, but it is not one that nearhit can serve.
    #[error("upstream {address} cannot be used: {reason}")]
    Unfit {
        /// Where it is.
        address: String,
        /// What it is.
        reason: String,
    },
    /// The server is there and said no: the raw error reply, to be passed on as it is.
    #[error("{}", String::from_utf8_lossy(.0).trim_start_matches('-').trim_end())]
    Refused(Bytes),
    /// The server answered what no Redis answers.
    #[error("upstream {address} does not speak the Redis protocol: {reason}")]
    Protocol {
        /// Where it was tried.
        address: String,
        /// What was wrong.
        reason: String,
    },
}

impl DialError {
    /// The reason, if there is no connection: whoever reports it has the upstream looked at.
    pub fn no_connection(&self) -> Option<&str> {
        match self {
            Self::Unreachable { reason, .. } | Self::Tls { reason, .. } => Some(reason),
            Self::Unfit { .. } | Self::Refused(_) | Self::Protocol { .. } => None,
        }
    }

    /// The error reply that tells a client.
    pub fn reply(&self) -> Bytes {
        match self {
            Self::Refused(raw) => raw.clone(),
            error => {
                let mut out = Vec::new();
                Value::error(format!("ERR nearhit: {error}")).encode(Protocol::Resp2, &mut out);
                out.into()
            }
        }
    }
}

/// Interned server processes: a run id together with the role the process plays.
#[derive(Debug, Default)]
pub struct Servers(Mutex<Vec<String>>);

impl Servers {
    /// The number of a process in a role; the same for the same text, for the life of nearhit.
    pub fn intern(&self, run_id: &str, role: &str) -> ServerId {
        let name = format!("{run_id} {role}");
        let mut names = self.0.lock();
        let index = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        ServerId(u32::try_from(index).map_or(0, |index| index + 1))
    }
}

/// What the server said in the handshake.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// HELLO's reply as it came, an error reply included (an unauthenticated connection in RESP2 lives on).
    pub hello: Bytes,
    /// The server's number for this connection.
    pub client_id: Option<i64>,
    /// The server process; unknown where this identity may not ask INFO.
    pub server: ServerId,
    /// The role, as HELLO told it: "master" or "replica".
    pub role: String,
    /// The server's version, as HELLO told it.
    pub version: String,
    /// Whether this user may PING: if not, its own PING has to be refused by the server, not answered here.
    pub may_ping: bool,
    /// Whether this user may use CLIENT.
    pub may_client: bool,
    /// What this user is told when it selects a database and may not.
    pub select_refusal: Option<Bytes>,
    /// The error of a server in a long script, which answers next to nothing meanwhile.
    pub busy: Option<Bytes>,
}

impl Greeting {
    /// Whether the server wants a password of whoever has this connection and has not authenticated.
    pub fn wants_auth(&self) -> bool {
        self.hello.starts_with(b"-NOAUTH")
    }
}

/// A dialled, greeted connection.
pub struct Connection {
    /// The socket, with nothing unread on it.
    pub stream: Stream,
    /// What was agreed.
    pub profile: Profile,
    /// What the server said.
    pub greeting: Greeting,
    /// Our end's address, by which CLIENT LIST knows this connection. Over a Unix socket all have the same.
    pub local: Option<SocketAddr>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("local", &self.local).finish_non_exhaustive()
    }
}

/// What a server has to prove, and by what.
#[derive(Debug)]
pub struct Tls {
    /// Who it must be.
    pub name: ServerName<'static>,
    /// Whom we believe, and our own certificate.
    pub config: Current<ClientConfig>,
}

/// Where the upstream is, and how to reach it.
#[derive(Debug)]
pub struct Dialer {
    /// A name in it is resolved anew at every dial.
    pub endpoint: Endpoint,
    /// For an endpoint with TLS.
    pub tls: Option<Tls>,
    /// For one attempt at connecting.
    pub dial_timeout: Duration,
    /// For the handshake on a connection that stands. A server in the middle of a long command accepts at once and
    /// answers late: it is busy, not gone, and a client that asks it directly waits as well.
    pub answer_timeout: Duration,
    /// TCP: idle time before the kernel probes the peer.
    pub keepalive: Duration,
    /// TCP: how long sent bytes may stay unacknowledged by the peer's kernel before the connection counts as dead.
    pub user_timeout: Duration,
    /// The server processes seen so far.
    pub servers: Servers,
}

impl Dialer {
    /// `host:port` or `unix:/path`, for messages.
    pub fn address(&self) -> String {
        self.endpoint.to_string()
    }

    /// Dials and greets. A server in a long script refuses to say who it is: its -BUSY is the error. Cancel safe: a
    /// dropped attempt closes its socket.
    pub async fn open(&self, profile: Profile, name: &str) -> Result<Connection, DialError> {
        let mut stream = self.open_bare().await?;
        let greeting = self.agree(&mut stream, &profile, name, Fresh::Yes).await?;
        if let Some(busy) = greeting.busy {
            return Err(DialError::Refused(busy));
        }
        let local = stream.local().map_err(|error| self.unreachable(&error))?;
        Ok(Connection { stream, profile, greeting, local })
    }

    /// A bare connection, within `dial_timeout`, that has agreed on nothing yet; a server that is busy may take
    /// `answer_timeout` for the handshake of TLS.
    pub async fn open_bare(&self) -> Result<Stream, DialError> {
        let stream = timeout(self.dial_timeout, self.connect()).await.unwrap_or_else(|_| {
            let reason = format!("no connection within {:?} (upstream.dial_timeout)", self.dial_timeout);
            Err(DialError::Unreachable { address: self.address(), reason })
        })?;
        match (&self.tls, stream) {
            (Some(Tls { name, config }), Stream::Tcp(socket)) => {
                // Boxed, since every session's task has room for all that it may ever wait for: unboxed, the state of a
                // handshake made each idle client 3 KiB larger, with TLS or without.
                let greeting = Box::pin(TlsStream::connect(socket, config.get(), name.clone()));
                let greeting = async { greeting.await.map_err(|error| self.unreachable(&error)) };
                self.answered("TLS handshake", greeting).await.map(Stream::Tls)
            }
            (_, stream) => Ok(stream),
        }
    }

    /// Agrees on `profile` on a bare or a pooled connection, within `answer_timeout`.
    pub async fn agree(
        &self,
        stream: &mut Stream,
        profile: &Profile,
        name: &str,
        fresh: Fresh,
    ) -> Result<Greeting, DialError> {
        self.answered("answer", self.greet(stream, profile, name, fresh)).await
    }

    /// Has the server judge a user and password, by the client's own AUTH or HELLO on a connection of its own.
    /// `None`: accepted; else the error reply.
    pub async fn judge(&self, request: &[u8]) -> Result<Option<Bytes>, DialError> {
        let mut stream = self.open_bare().await?;
        let question = Handshake { request: request.to_vec(), replies: 1 };
        let answer = self.answered("answer", self.exchange(&mut stream, &question)).await?.remove(0);
        Ok(reply::is_error(&answer).then_some(answer))
    }

    /// Whether this server wants a password of a connection on which nothing has been said yet. `None`: it did not answer.
    pub async fn wants_auth(&self, mut bare: Stream) -> Option<bool> {
        let mut request = Vec::new();
        encode_request([b"PING"], &mut request);
        let question = Handshake { request, replies: 1 };
        let answer = self.answered("answer", self.exchange(&mut bare, &question)).await;
        answer.ok().map(|replies| replies[0].starts_with(b"-NOAUTH"))
    }

    /// Sends one request on a connection of its own, as `profile`'s user and in its protocol, and returns the answer.
    /// For what a server in a long script takes all the same, so nothing else is said: neither SELECT nor INFO.
    pub async fn ask(&self, profile: &Profile, request: &[u8]) -> Result<Bytes, DialError> {
        let mut stream = self.open_bare().await?;
        let mut question = Vec::with_capacity(128);
        encode_hello(profile, &mut question);
        question.extend_from_slice(request);
        let question = Handshake { request: question, replies: 2 };
        Ok(self.answered("answer", self.exchange(&mut stream, &question)).await?.remove(1))
    }

    /// Bounds the wait for what a connected server says.
    async fn answered<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, DialError>>,
    ) -> Result<T, DialError> {
        timeout(self.answer_timeout, answer).await.unwrap_or_else(|_| {
            let reason = format!("no {what} within {:?} (upstream.connect_timeout)", self.answer_timeout);
            Err(DialError::Unreachable { address: self.address(), reason })
        })
    }

    /// What an error of a socket comes to.
    pub fn unreachable(&self, error: &io::Error) -> DialError {
        let (address, reason) = (self.address(), error.to_string());
        // A refusal of our certificate comes with the first answer, not with the handshake.
        if error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>) {
            return DialError::Tls { address, reason };
        }
        DialError::Unreachable { address, reason }
    }

    async fn connect(&self) -> Result<Stream, DialError> {
        match &self.endpoint {
            Endpoint::Tcp { host, port } | Endpoint::Tls { host, port } => {
                self.connect_tcp(host, *port).await.map(Stream::Tcp)
            }
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
        .map_err(|error| self.unreachable(&error))
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        keep_alive(&stream, self.keepalive)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(self.user_timeout))?;
        Ok(stream)
    }

    /// HELLO, SELECT, a name for CLIENT LIST, and the question which process this is, in one round trip.
    async fn greet(
        &self,
        stream: &mut Stream,
        profile: &Profile,
        name: &str,
        fresh: Fresh,
    ) -> Result<Greeting, DialError> {
        let question = handshake(profile, name, fresh);
        let selects_first = selects_first(profile);
        let mut replies = self.exchange(stream, &question).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        if fresh == Fresh::No && reply::is_error(&next()) {
            // A server before 6.2 has no RESET, and nothing else brings a used connection back to a known state.
            let reason = "it has no RESET, so a used connection cannot be taken over".into();
            return Err(DialError::Unreachable { address: self.address(), reason });
        }
        let is_there = selects_first && !reply::is_error(&next());
        let greeting = next();
        let rest = Rest { select: next(), setname: next(), ping: next(), info: next() };
        if reply::is_error(&greeting) {
            if is_unknown_command(&greeting) && profile.protocol == Protocol::Resp2 {
                return self.greet_without_hello(stream, profile, name, greeting).await;
            }
            let anonymous = profile.identity.credentials().is_none();
            if !(anonymous && profile.protocol == Protocol::Resp2) {
                return Err(DialError::Refused(greeting));
            }
        }
        if reply::is_error(&rest.select) && profile.database != Database(0) && !is_there {
            return Err(DialError::Refused(rest.select));
        }
        Ok(self.greeting(greeting, &rest))
    }

    /// The handshake with a server before 6.0, which has AUTH but no HELLO.
    async fn greet_without_hello(
        &self,
        stream: &mut Stream,
        profile: &Profile,
        name: &str,
        refusal: Bytes,
    ) -> Result<Greeting, DialError> {
        let mut request = Vec::new();
        if let Some(credentials) = profile.identity.credentials() {
            encode_request([&b"AUTH"[..], &credentials.password], &mut request);
            let replies = self
                .exchange(stream, &Handshake { request: std::mem::take(&mut request), replies: 1 })
                .await?;
            if reply::is_error(&replies[0]) {
                return Err(DialError::Refused(replies[0].clone()));
            }
        }
        let count = encode_tail(profile, name, &mut request);
        let replies = self.exchange(stream, &Handshake { request, replies: count }).await?;
        if profile.database != Database(0) && reply::is_error(&replies[0]) {
            return Err(DialError::Refused(replies[0].clone()));
        }
        let [select, setname, ping, info] = &replies[..] else {
            let reason = "too few answers to the handshake".into();
            return Err(DialError::Protocol { address: self.address(), reason });
        };
        let rest =
            Rest { select: select.clone(), setname: setname.clone(), ping: ping.clone(), info: info.clone() };
        Ok(self.greeting(refusal, &rest))
    }

    fn greeting(&self, hello: Bytes, rest: &Rest) -> Greeting {
        let field = |name: &str| hello_field(&hello, name);
        let role = field("role").and_then(|raw| text(&raw)).unwrap_or_default();
        let version = field("version").and_then(|raw| text(&raw)).unwrap_or_default();
        let client_id = field("id").and_then(|raw| reply::integer(&raw));
        let run_id = reply::bulk(&rest.info).and_then(|info| info_field(info, "run_id"));
        let server = run_id.map_or(ServerId::UNKNOWN, |run_id| self.servers.intern(&run_id, &role));
        Greeting {
            hello,
            client_id,
            server,
            role,
            version,
            may_ping: !is_forbidden(&rest.ping),
            may_client: !is_forbidden(&rest.setname),
            select_refusal: is_forbidden(&rest.select).then(|| rest.select.clone()),
            busy: (reply::error_code(&rest.ping) == Some(b"BUSY")).then(|| rest.ping.clone()),
        }
    }

    /// Sends the handshake and reads exactly its replies.
    async fn exchange(&self, stream: &mut Stream, handshake: &Handshake) -> Result<Vec<Bytes>, DialError> {
        stream.write_all(&handshake.request).await.map_err(|error| self.unreachable(&error))?;
        let mut replies = Vec::with_capacity(handshake.replies);
        let mut buffer = BytesMut::with_capacity(4096);
        let mut scanner = ReplyScanner::new();
        while replies.len() < handshake.replies {
            let broken = |reason: String| DialError::Protocol { address: self.address(), reason };
            if let Some(frame) = scanner.scan(&buffer).map_err(|error| broken(error.to_string()))? {
                let bytes = buffer.split_to(frame.len).freeze();
                if frame.kind == FrameKind::Reply {
                    replies.push(bytes);
                }
                continue;
            }
            if buffer.len() > HANDSHAKE_BYTES_MAX {
                return Err(broken("the answer to the handshake is too long".into()));
            }
            let read = stream.read_buf(&mut buffer).await.map_err(|error| self.unreachable(&error))?;
            if read == 0 {
                // "max number of clients reached" is said unasked, before the connection is closed.
                let last = replies.pop().filter(|last| reply::is_error(last));
                let reason = "it closed the connection during the handshake".into();
                return Err(last
                    .map_or(DialError::Unreachable { address: self.address(), reason }, DialError::Refused));
            }
        }
        if buffer.has_remaining() {
            let reason = "more answers than questions in the handshake".into();
            return Err(DialError::Protocol { address: self.address(), reason });
        }
        Ok(replies)
    }
}

/// Whether a connection has been used before, and must be brought back to a known state first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// Nothing has been said on it yet.
    Yes,
    /// It has served somebody: RESET comes first (Redis 6.2).
    No,
}

/// The last answers of a handshake.
struct Rest {
    select: Bytes,
    setname: Bytes,
    ping: Bytes,
    info: Bytes,
}

struct Handshake {
    request: Vec<u8>,
    replies: usize,
}

fn handshake(profile: &Profile, name: &str, fresh: Fresh) -> Handshake {
    let mut request = Vec::with_capacity(256);
    if fresh == Fresh::No {
        encode_request([b"RESET"], &mut request);
    }
    let selects_first = selects_first(profile);
    if selects_first {
        encode_select(profile, &mut request);
    }
    encode_hello(profile, &mut request);
    let tail = encode_tail(profile, name, &mut request);
    let head = usize::from(fresh == Fresh::No) + usize::from(selects_first);
    Handshake { request, replies: head + 1 + tail }
}

/// A user who may not SELECT keeps the database that the connection was in before AUTH, so it is selected before, too.
fn selects_first(profile: &Profile) -> bool {
    profile.identity.credentials().is_some() && profile.database != Database(0)
}

fn encode_select(profile: &Profile, request: &mut Vec<u8>) {
    encode_request([&b"SELECT"[..], profile.database.0.to_string().as_bytes()], request);
}

fn encode_hello(profile: &Profile, request: &mut Vec<u8>) {
    let protocol: &[u8] = match profile.protocol {
        Protocol::Resp2 => b"2",
        Protocol::Resp3 => b"3",
    };
    match profile.identity.credentials() {
        Some(credentials) => encode_request(
            [&b"HELLO"[..], protocol, b"AUTH", &credentials.user, &credentials.password],
            request,
        ),
        None => encode_request([&b"HELLO"[..], protocol], request),
    }
}

/// What follows the greeting; returns how many replies it brings. That database 0 cannot be selected is no obstacle:
/// the connection is in it, and an unauthenticated one can still pass its user's commands on to be refused.
fn encode_tail(profile: &Profile, name: &str, request: &mut Vec<u8>) -> usize {
    encode_select(profile, request);
    encode_request([&b"CLIENT"[..], b"SETNAME", name.as_bytes()], request);
    encode_request([&b"PING"[..]], request);
    encode_request([&b"INFO"[..], b"server"], request);
    4
}

fn is_forbidden(raw: &[u8]) -> bool {
    reply::error_code(raw) == Some(b"NOPERM")
}

fn is_unknown_command(raw: &[u8]) -> bool {
    raw.windows(15).any(|window| window.eq_ignore_ascii_case(b"unknown command"))
}

/// The raw value of one field of HELLO's reply, a map in RESP3 and a flat array in RESP2.
pub fn hello_field(hello: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut elements = reply::elements(hello)?;
    while let (Some(field), Some(value)) = (elements.next(), elements.next()) {
        if reply::bulk(field) == Some(name.as_bytes()) {
            return Some(value.to_vec());
        }
    }
    None
}

/// The value of a `name:value` line of INFO.
pub fn info_field(info: &[u8], name: &str) -> Option<String> {
    String::from_utf8_lossy(info)
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
}

fn text(raw: &[u8]) -> Option<String> {
    reply::bulk(raw).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}
