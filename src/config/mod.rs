//! The configuration: what an operator may choose, with a default for everything.
//!
//! It is read in layers (defaults, the file, `NEARHIT_*` variables, `--set` flags; a later layer wins key by
//! key) and parsed into the types below once; nothing is bound or dialled before all of it is valid. Every
//! problem found is reported, one line each, with where the value came from, its key and what would be right.
//! A key that is not known is a problem too: a misspelt limit must not silently be no limit. Passwords never
//! reach a message.
//!
//! `table` lists the keys, `notation` how their values are written, `sources` is the layers, and `loader`
//! puts the three together. `tls` reads certificates, from the files that are named.

mod loader;
mod notation;
mod sources;
mod table;
mod tls;
mod values;

use std::{
    fmt::{self, Display},
    num::NonZero,
    path::PathBuf,
    thread,
    time::Duration,
};

pub use sources::LoadOptions;
pub use tls::{ServerTls, TlsProblem, UpstreamTls};
pub use values::{Endpoint, InvalidValue, ListenAddress, Secret, UpstreamUrl};

/// A valid configuration. Sections and fields are named as in `proxy.toml`, which says when to change what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The side that clients see.
    pub server: Server,
    /// Who clients are.
    pub auth: Auth,
    /// The Redis or Valkey behind.
    pub upstream: Upstream,
    /// What is kept in memory, and for how long.
    pub cache: Cache,
    /// How the cache is kept true.
    pub coherence: Coherence,
    /// How changes made elsewhere are heard of.
    pub tracking: Tracking,
    /// How it is seen that the cache is true.
    pub audit: Audit,
    /// Who may look inside.
    pub admin: Admin,
    /// What is logged, to standard error.
    pub log: Log,
}

/// `[server]`: listeners, workers and the limits of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// At least one.
    pub listen: Vec<ListenAddress>,
    /// Worker threads; the 0 of the file is already the number of cores here.
    pub workers: usize,
    /// Clients connected at a time, over all workers.
    pub max_clients: usize,
    /// A client that has sent nothing for so long is disconnected; zero: never.
    pub idle_timeout: Duration,
    /// How long a stopping proxy waits for requests in flight.
    pub drain_timeout: Duration,
    /// Bytes of finished, undelivered replies at which a client is cut off.
    pub output_limit: usize,
    /// Bytes of one request.
    pub max_request: usize,
    /// Requests in flight before a client is not read from.
    pub max_pipeline: usize,
    /// Commands refused with -NOPERM here, in upper case.
    pub deny_commands: Vec<String>,
    /// Lets `auth.mode = "none"` go together with a listener that other machines reach.
    pub allow_public_without_auth: bool,
    /// TLS on the TCP listeners.
    pub tls: ServerTls,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// See [`AuthMode`].
    pub mode: AuthMode,
}

/// Who a client is to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Whoever it authenticates as, checked by the upstream itself.
    Upstream,
    /// Everyone is the user of `upstream.url`.
    None,
}

/// `[upstream]`: where it is, how many connections it gets, and how patient we are.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Where it is, and the control plane's credentials.
    pub url: UpstreamUrl,
    /// Where `url.password` was read from, if not from the URL.
    pub password_file: Option<PathBuf>,
    /// Shared pipelined connections of one worker for one identity, database and protocol.
    pub lanes: usize,
    /// Exclusive connections for transactions.
    pub max_connections: usize,
    /// Exclusive connections for blocked clients.
    pub max_blocking: usize,
    /// Exclusive connections for subscribed clients; those beyond share.
    pub max_subscribed: usize,
    /// How long a command may wait for a connection.
    pub connect_timeout: Duration,
    /// One attempt at connecting.
    pub dial_timeout: Duration,
    /// How long a command, unless it blocks, may wait for its answer.
    pub command_timeout: Duration,
    /// TCP keepalive, at least one second.
    pub keepalive: Duration,
    /// Between two probes of the upstream.
    pub health_check_interval: Duration,
    /// Whether a read whose connection died is sent once more.
    pub retry_reads: bool,
    /// The first pause between attempts at connecting.
    pub backoff_min: Duration,
    /// The longest pause between attempts at connecting; not below `backoff_min`.
    pub backoff_max: Duration,
    /// How a `rediss://` upstream proves itself, and we to it.
    pub tls: UpstreamTls,
}

/// `[cache]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// See [`CacheMode`].
    pub mode: CacheMode,
    /// Entries kept at most; 0: no bound by number. Never 0 together with `max_memory`.
    pub max_entries: usize,
    /// Bytes kept at most; 0: no bound by size.
    pub max_memory: usize,
    /// How long an entry is kept at most, whatever the key's own time to live.
    pub ttl: Duration,
    /// Bytes of the largest reply that is kept.
    pub max_value_size: usize,
    /// See [`Eviction`].
    pub eviction: Eviction,
    /// The bound on staleness that the proxy promises.
    pub max_staleness: Duration,
    /// How often a key that is hit is sent to the upstream as a TOUCH; zero: never.
    pub touch_interval: Duration,
    /// Further read commands of one key that may be cached, in upper case.
    pub cacheable_reads: Vec<String>,
}

/// Whether reads are answered from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Yes.
    On,
    /// No: everything is forwarded.
    Off,
}

/// Which entries go when the cache is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// S3-FIFO: what was hit stays, and the rest goes in the order in which it came.
    S3Fifo,
    /// The least recently used of a few.
    Lru,
}

/// `[coherence]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Coherence {
    /// See [`Scripts`].
    pub scripts: Scripts,
    /// Whether pub/sub messages and blocking pops wait until every invalidation before them has been applied.
    pub order_messages: bool,
    /// How long a fence waits before it declares the link dead.
    pub fence_timeout: Duration,
}

/// Whether a script is believed about the keys that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripts {
    /// No: its acknowledgement waits for a fence.
    Fence,
    /// Yes: the keys that it declares are all that it writes.
    Declared,
}

/// `[tracking]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracking {
    /// See [`TrackingMode`].
    pub mode: TrackingMode,
    /// Only keys that begin with one of these are cached; none: all keys. None is the beginning of another.
    pub prefixes: Vec<String>,
}

/// How the upstream tells us of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackingMode {
    /// By CLIENT TRACKING in broadcast mode.
    Broadcast,
    /// Not at all: own writes and `cache.ttl` are what bounds staleness.
    Off,
}

/// `[audit]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// The share of hits that are read again from the upstream and compared, from 0 to 1.
    pub sample: f64,
    /// A key that is written again and again, to measure how late its invalidation comes.
    pub canary_key: Option<String>,
}

/// `[admin]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admin {
    /// Users of the upstream who may use PROXY; none: whoever comes over loopback or a Unix socket.
    pub proxy_users: Vec<String>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// See [`LogLevel`].
    pub level: LogLevel,
    /// See [`LogFormat`].
    pub format: LogFormat,
}

/// The least important event that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs somebody's hand.
    Error,
    /// What may need it soon.
    Warn,
    /// Starts, stops and changes of state.
    Info,
    /// Why the link, the generation and the verdict on the upstream have changed.
    Debug,
    /// What the libraries say, too.
    Trace,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for a reader.
    Text,
    /// A JSON object a line, for a collector.
    Json,
}

/// The longest [`Audit::canary_key`].
const CANARY_KEY_BYTES_MAX: usize = KIB;

const KIB: usize = 1 << 10;
const MIB: usize = KIB << 10;

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddress::Tcp(([127, 0, 0, 1], 6380).into())],
            workers: cores(),
            max_clients: 10_000,
            idle_timeout: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
            output_limit: 64 * MIB,
            max_request: 513 * MIB,
            max_pipeline: 10_000,
            deny_commands: Vec::new(),
            allow_public_without_auth: false,
            tls: ServerTls::default(),
        }
    }
}

/// The cores that this process may use, as its affinity and its control group allow.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

impl Default for Auth {
    fn default() -> Self {
        Self { mode: AuthMode::Upstream }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: UpstreamUrl::default(),
            password_file: None,
            lanes: 2,
            max_connections: 50,
            max_blocking: 1000,
            max_subscribed: 100,
            connect_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_secs(5),
            keepalive: Duration::from_mins(1),
            health_check_interval: Duration::from_secs(30),
            retry_reads: true,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            tls: UpstreamTls::default(),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            mode: CacheMode::On,
            max_entries: 10_000,
            max_memory: 256 * MIB,
            ttl: Duration::from_hours(1),
            max_value_size: MIB,
            eviction: Eviction::S3Fifo,
            max_staleness: Duration::from_secs(1),
            touch_interval: Duration::from_mins(1),
            cacheable_reads: Vec::new(),
        }
    }
}

impl Default for Coherence {
    fn default() -> Self {
        Self { scripts: Scripts::Fence, order_messages: true, fence_timeout: Duration::from_secs(5) }
    }
}

impl Default for Tracking {
    fn default() -> Self {
        Self { mode: TrackingMode::Broadcast, prefixes: Vec::new() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

impl Config {
    /// Reads all layers, or says everything that is wrong with them. Blocks: for before any runtime.
    pub fn load(options: &LoadOptions) -> Result<Self, ConfigError> {
        loader::load(options)
    }

    /// The whole configuration as TOML, every key, passwords as `***`. Loading it gives the same
    /// configuration, passwords aside.
    pub fn to_toml(&self) -> String {
        table::to_toml(self)
    }
}

/// Everything that is wrong with a configuration: its own fault entirely, and no retry helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, variable or flag that the value came from; `default` where none set it.
    pub origin: String,
    /// The dotted key, unless the origin as a whole is at fault.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.origin, self.message),
            None => write!(f, "{}: {}", self.origin, self.message),
        }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
