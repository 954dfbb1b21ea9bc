//! The control plane: what nearhit itself asks the server, through redis-rs and bb8-redis.
//!
//! INFO for the health check, COMMAND for the table of commands, CONFIG GET for the longest argument that the server
//! takes, CLIENT LIST to find out which process a lane ends at, TOUCH for keys that are hot here and look cold there,
//! SET for the canary key.
//! None of it is on the path of a client's request, and none of it runs anywhere but on the control thread. It uses
//! the credentials of `upstream.url`.

use std::{collections::HashMap, error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use bb8_redis::{
    bb8::{self, ManageConnection},
    redis::{
        self, AsyncConnectionConfig, RedisConnectionInfo, RedisError, Value, aio::MultiplexedConnection,
    },
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::connection::{DialError, Dialer, info_field};
use crate::{
    command::ServerCommand,
    ids::{Database, ServerId},
};

/// Keys that one TOUCH names at most.
const TOUCH_KEYS_MAX: usize = 100;

/// Questions that wait for the control thread at most; a TOUCH over that is not worth waiting for.
pub const QUESTIONS_MAX: usize = 1024;

/// How long an answer on the pooled connection may take: who asks there is kept waiting, and can ask again.
const POOLED_ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// What INFO said.
#[derive(Clone, Debug)]
pub struct Report {
    /// The server process and its role; unknown where INFO is refused.
    pub server: ServerId,
    /// "master" or "slave".
    pub role: String,
    /// The server's version.
    pub version: String,
    /// Whether it is a node of a cluster.
    pub is_cluster: bool,
    /// Whether it evicts by LRU or LFU, so that keys answered from memory would look cold to it.
    pub evicts_by_use: bool,
    /// Whether any database holds hash fields with an expiry of their own (Redis 7.4).
    pub has_field_expiries: bool,
    /// Whether it wants a password of who connects; unknown where it does not say.
    pub wants_auth: Option<bool>,
    /// How often each command was called that changes contents or rights without a signal.
    pub unsignalled: HashMap<String, u64>,
}

/// Commands that change what clients read, or may read, without an invalidation.
///
/// CONFIG RESETSTAT is among them because it makes the counts start anew.
const UNSIGNALLED: &[&str] = &["swapdb", "acl", "debug", "replicaof", "slaveof", "failover", "config"];

/// A question to the control thread from another one.
#[derive(Debug)]
pub enum Question {
    /// Which process is the connection with this HELLO id and address on?
    WhoServes(i64, SocketAddr, oneshot::Sender<ServerId>),
    /// A key that is hot here.
    Touch(Database, Box<[u8]>),
}

/// The control plane's connections.
pub struct Control {
    client: Client,
    pool: bb8::Pool<Client>,
}

/// Makes connections of redis-rs out of the dialer's.
#[derive(Clone)]
struct Client {
    dialer: Arc<Dialer>,
    settings: RedisConnectionInfo,
}

/// One of them. Nothing but its task reads and writes, and the task goes with it.
struct Connected {
    commands: MultiplexedConnection,
    _task: AbortOnDropHandle<()>,
}

/// Why the control plane has no connection.
#[derive(Debug, Error)]
enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl Client {
    /// Dials. The server's first answers may take as long as the caller lets them.
    async fn connect(&self, answer_timeout: Duration) -> Result<Connected, ConnectError> {
        let stream = self.dialer.open_bare().await?;
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(answer_timeout));
        let (commands, task) =
            MultiplexedConnection::new_with_config(&self.settings, stream, settings).await?;
        Ok(Connected { commands, _task: AbortOnDropHandle::new(tokio::spawn(task)) })
    }

    /// The same, first answers included, within `dial_timeout`.
    async fn connect_in_time(&self, answer_timeout: Duration) -> Result<Connected, ConnectError> {
        let patience = self.dialer.dial_timeout;
        timeout(patience, self.connect(answer_timeout)).await.unwrap_or_else(|_| {
            let reason = format!("no connection within {patience:?} (upstream.dial_timeout)");
            Err(DialError::Unreachable { address: self.dialer.address(), reason }.into())
        })
    }
}

impl ManageConnection for Client {
    type Connection = Connected;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Connected, ConnectError> {
        self.connect_in_time(POOLED_ANSWER_TIMEOUT).await
    }

    async fn is_valid(&self, connection: &mut Connected) -> Result<(), ConnectError> {
        Ok(redis::cmd("PING").query_async(&mut connection.commands).await?)
    }

    /// What has died in the pool is found by `is_valid`.
    fn has_broken(&self, _: &mut Connected) -> bool {
        false
    }
}

impl Control {
    /// Prepares, but dials nothing yet. Must be called within the runtime that is to run its reaper.
    pub fn new(dialer: Arc<Dialer>, credentials: Option<(String, String)>) -> Self {
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some((user, password)) = credentials {
            settings = settings.set_username(user).set_password(password);
        }
        let client = Client { dialer, settings };
        let pool = bb8::Pool::builder()
            .max_size(1)
            .connection_timeout(client.dialer.dial_timeout)
            .retry_connection(false)
            .build_unchecked(client.clone());
        Self { client, pool }
    }

    /// `host:port`, for messages.
    pub fn address(&self) -> String {
        self.client.dialer.address()
    }

    /// The error of an upstream that cannot be asked.
    pub fn unreachable(&self, reason: &str) -> DialError {
        DialError::Unreachable { address: self.address(), reason: reason.to_owned() }
    }

    /// Dials afresh and asks for INFO. A server that refuses to answer it is there all the same, and so is one that
    /// accepts and is busy: that nobody accepts is found out within `dial_timeout`, how long to wait for an answer is
    /// the caller's affair. `None`: it is there, and cannot say more at the moment.
    pub async fn probe(&self) -> Result<Option<Report>, DialError> {
        let stranger = self.client.dialer.open_bare().await?;
        // A server that is busy for long is not gone; how long it may take is the prober's to say.
        let mut connection = match self.client.connect(self.client.dialer.user_timeout).await {
            Ok(connection) => connection,
            Err(ConnectError::Dial(error)) => return Err(error),
            Err(ConnectError::Redis(error)) => return self.refused_or_gone(&error),
        };
        match redis::cmd("INFO").arg("all").query_async::<Value>(&mut connection.commands).await {
            Ok(value) => {
                let wants_auth = self.client.dialer.wants_auth(stranger).await;
                Ok(Some(Report { wants_auth, ..self.report(&text(&value)) }))
            }
            Err(error) => self.refused_or_gone(&error),
        }
    }

    fn refused_or_gone(&self, error: &RedisError) -> Result<Option<Report>, DialError> {
        if is_of_the_network(error) {
            // redis-rs has it behind an `Arc`.
            let source =
                error.source().and_then(|error| error.downcast_ref::<Arc<dyn Error + Send + Sync>>());
            let source = source.and_then(|error| error.downcast_ref::<io::Error>());
            return Err(source.map_or_else(
                || self.unreachable(&error.to_string()),
                |error| self.client.dialer.unreachable(error),
            ));
        }
        if matches!(error.code(), Some("BUSY" | "LOADING" | "MASTERDOWN")) {
            tracing::debug!(%error, "the upstream cannot answer INFO at the moment");
            return Ok(None);
        }
        tracing::warn!(%error, "the control user may not ask INFO: the cache cannot be kept coherent");
        Ok(Some(self.report("")))
    }

    fn report(&self, info: &str) -> Report {
        let field = |name: &str| info_field(info.as_bytes(), name).unwrap_or_default();
        let (run_id, role) = (field("run_id"), field("role"));
        let server = if run_id.is_empty() {
            ServerId::UNKNOWN
        } else {
            self.client.dialer.servers.intern(&run_id, wire_role(&role))
        };
        let policy = field("maxmemory_policy");
        Report {
            server,
            version: field("redis_version"),
            is_cluster: field("redis_mode") == "cluster",
            evicts_by_use: policy.contains("lru") || policy.contains("lfu"),
            has_field_expiries: info.lines().any(|line| {
                line.starts_with("db") && line.split_once("subexpiry=").is_some_and(|(_, n)| n.trim() != "0")
            }),
            wants_auth: None,
            unsignalled: unsignalled_calls(info),
            role,
        }
    }

    /// The longest argument the server takes, in bytes; `None` where it does not say. A longer one would make it hang
    /// up, on everybody who shares the connection.
    pub async fn bulk_bytes_max(&self) -> Option<usize> {
        let mut connection = self.pool.get().await.ok()?;
        let mut question = redis::cmd("CONFIG");
        let answer: Vec<String> =
            question.arg("GET").arg("proto-max-bulk-len").query_async(&mut connection.commands).await.ok()?;
        answer.get(1)?.parse().ok()
    }

    /// The server's own table of commands.
    pub async fn commands(&self) -> Result<Vec<ServerCommand>, String> {
        let mut connection = self.pool.get().await.map_err(|error| error.to_string())?;
        let rows: Value = redis::cmd("COMMAND")
            .query_async(&mut connection.commands)
            .await
            .map_err(|error| error.to_string())?;
        let mut raw = Vec::new();
        encode(&rows, &mut raw);
        ServerCommand::parse(&raw).map_err(|error| error.to_string())
    }

    /// Answers the other threads' questions, for ever.
    pub async fn answer(&self, mut questions: mpsc::Receiver<Question>) {
        let mut batch = Vec::new();
        while questions.recv_many(&mut batch, TOUCH_KEYS_MAX).await > 0 {
            let mut touched: HashMap<Database, Vec<Box<[u8]>>> = HashMap::new();
            for question in batch.drain(..) {
                match question {
                    Question::Touch(database, key) => touched.entry(database).or_default().push(key),
                    Question::WhoServes(id, local, answer) => {
                        let server = self.who_serves(id, local).await.unwrap_or(ServerId::UNKNOWN);
                        // The asker may have gone; then nobody needs the answer.
                        let _ = answer.send(server);
                    }
                }
            }
            for (database, keys) in touched {
                if let Err(error) = self.touch(database, &keys).await {
                    tracing::debug!(%error, "TOUCH failed; the keys will be touched again later");
                }
            }
        }
    }

    /// The connection's own list of clients names the lane, so both are on one process: the one INFO names.
    async fn who_serves(&self, id: i64, local: SocketAddr) -> Result<ServerId, String> {
        let mut connection = self.pool.get().await.map_err(|error| error.to_string())?;
        let (info, list): (Value, Value) = redis::pipe()
            .cmd("INFO")
            .arg("all")
            .cmd("CLIENT")
            .arg("LIST")
            .arg("ID")
            .arg(id)
            .query_async(&mut connection.commands)
            .await
            .map_err(|error| error.to_string())?;
        let listed = text(&list).lines().any(|line| {
            let mut fields = line.split(' ');
            fields.next() == Some(&format!("id={id}")) && fields.next() == Some(&format!("addr={local}"))
        });
        Ok(if listed { self.report(&text(&info)).server } else { ServerId::UNKNOWN })
    }

    async fn touch(&self, database: Database, keys: &[Box<[u8]>]) -> Result<(), String> {
        let mut connection = self.pool.get().await.map_err(|error| error.to_string())?;
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(database.0).ignore().cmd("TOUCH").arg(keys).ignore();
        pipe.query_async::<()>(&mut connection.commands).await.map_err(|error| error.to_string())
    }
}

/// The connection on which the canary key is written. It is in database 0, and carries nothing else that could delay
/// the write and so be measured with it.
pub struct CanaryWriter(Connected);

/// Why the canary key was not written.
#[derive(Clone, Debug)]
pub enum NotWritten {
    /// The server said no.
    Refused(String),
    /// The connection is of no use any more; the write may have been carried out.
    Lost(String),
}

impl Control {
    /// Dials a connection for the canary.
    pub async fn canary_writer(&self) -> Result<CanaryWriter, String> {
        let connection = self.client.connect_in_time(self.client.dialer.user_timeout).await;
        connection.map(CanaryWriter).map_err(|error| error.to_string())
    }
}

impl CanaryWriter {
    /// Writes a number that goes by itself after `lifetime`.
    pub async fn set(&mut self, key: &[u8], number: u64, lifetime: Duration) -> Result<(), NotWritten> {
        let mut command = redis::cmd("SET");
        command.arg(key).arg(number).arg("PX").arg(lifetime.as_millis() as u64);
        command.query_async::<()>(&mut self.0.commands).await.map_err(|error| {
            let kind = if is_of_the_network(&error) { NotWritten::Lost } else { NotWritten::Refused };
            kind(error.to_string())
        })
    }
}

fn is_of_the_network(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
}

/// INFO says "slave" where HELLO says "replica".
fn wire_role(role: &str) -> &str {
    if role == "slave" { "replica" } else { role }
}

/// The number of calls of each command of [`UNSIGNALLED`], subcommands by themselves where the server counts them
/// so. ACL and DEBUG have many harmless subcommands; only the others' counts matter.
fn unsignalled_calls(info: &str) -> HashMap<String, u64> {
    let harmless = |name: &str| {
        name.split_once('|').is_some_and(|(container, sub)| {
            container == "acl" && !matches!(sub, "setuser" | "deluser" | "load")
                || container == "debug"
                || container == "config" && sub != "resetstat"
        })
    };
    let rows = info.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let container = name.split('|').next()?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (UNSIGNALLED.contains(&container) && !harmless(name)).then(|| (name.to_owned(), calls))
    });
    rows.collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}

/// A reply of redis-rs as the bytes it was, for those who read bytes.
fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Int(n) => out.extend_from_slice(format!(":{n}\r\n").as_bytes()),
        Value::SimpleString(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
        Value::Okay => out.extend_from_slice(b"+OK\r\n"),
        Value::BulkString(bytes) => {
            out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
        Value::Array(items) | Value::Set(items) => {
            out.extend_from_slice(format!("*{}\r\n", items.len()).as_bytes());
            for item in items {
                encode(item, out);
            }
        }
        _ => out.extend_from_slice(b"$-1\r\n"),
    }
}
