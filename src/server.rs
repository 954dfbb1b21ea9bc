//! The whole proxy: threads, listeners, drain.
//!
//! One worker thread a core serves clients; the link has a thread of its own; the control thread accepts, probes the
//! upstream, answers what the other threads ask of the server, and sweeps the cache. [`Server`] is the public
//! surface: start, drain, stop, wait.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{
        Semaphore,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    task::LocalSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    clock,
    coherence::{self, Coherence, Limits, Phase, canary, link},
    command::{ServerCommand, Table},
    config::{AuthMode, CacheMode, Config, Endpoint, ListenAddress, TlsProblem, TrackingMode, Upstream},
    ids::WorkerId,
    metrics::Metrics,
    net::{certificates::Current, listener::Listener},
    session::{
        arrival::{Greeter, admit, greet_all},
        attempts::Attempts,
        pause::Pause,
        registry::Registry,
        worker::{Mail, Shared, Waiter, Worker},
    },
    upstream::{
        connection::{DialError, Dialer, Servers, Tls},
        control::{Control, QUESTIONS_MAX, Report},
        health::Schedule,
        identity::{ClientDefault, Credentials, Identities},
        pool::{Budget, Pool},
    },
};

/// The whole cache is swept for dead entries about once in this time.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);
/// But for each entry there is so much time: to look at one takes some 100 ns, and no more than a hundredth of a core is
/// to be spent on that, however large the cache.
const SWEEP_PACE: Duration = Duration::from_micros(10);

/// A connection's peer may leave our bytes unacknowledged for this much longer than a command may take.
const USER_TIMEOUT_SLACK: Duration = Duration::from_secs(5);

/// Locks of the cache. Many more than cores, so that two threads seldom meet at one.
const CACHE_SHARDS: usize = 128;

/// File descriptors beside those of clients: upstream connections, listeners, event loops.
const DESCRIPTORS_RESERVED: usize = 256;

/// Why the proxy does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error} (server.listen)")]
    Bind {
        /// As configured.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// Certificates that were good when the configuration was checked are no longer.
    #[error(transparent)]
    Tls(#[from] TlsProblem),
    /// The upstream is there and cannot be served.
    #[error("{0}")]
    Upstream(DialError),
    /// The system refuses threads or event loops.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// A running proxy.
pub struct Server {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    /// What TLS clients are shown; `None` without TLS.
    clients_tls: Option<Arc<Current<ServerConfig>>>,
    stopping: Stopping,
    control: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

/// The two ways to end.
#[derive(Clone, Debug, Default)]
struct Stopping {
    drain: CancellationToken,
    now: CancellationToken,
    /// Cancelled when the control thread has seen everything off.
    ended: CancellationToken,
}

impl Server {
    /// Binds, looks at the upstream once, and serves. An upstream that is not there yet is no error.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let clients_tls = config.server.tls.read()?.map(|tls| Arc::new(Current::new(tls)));
        let upstream_tls = upstream_tls(&config.upstream)?;
        raise_descriptor_limit(config.server.max_clients);
        let runtime = runtime()?;
        let listeners = runtime.block_on(bind(&config))?;
        let addresses = listeners.iter().filter_map(Listener::tcp_address).collect();
        let stopping = Stopping::default();

        let (mailboxes, mail): (Vec<_>, Vec<_>) =
            (0..config.server.workers).map(|_| mpsc::unbounded_channel()).unzip();
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let shared = {
            let _within = runtime.enter();
            Arc::new(shared(&config, upstream_tls, mailboxes, questions))
        };
        let control = control(&shared, &runtime);
        let table = Arc::new(Table::builtin());
        let first = first_look(&runtime, &control)?;

        let mut workers = start_workers(&shared, mail, &table)?;
        let greeter = match &clients_tls {
            Some(tls) => {
                let (sender, thread) = start_greeter(tls)?;
                workers.push(thread);
                Some(sender)
            }
            None => None,
        };
        if config.cache.mode == CacheMode::On && config.tracking.mode == TrackingMode::Broadcast {
            start_link(&shared)?;
        }
        let keeper = Keeper { shared: Arc::clone(&shared), control, table, first };
        let thread = {
            let stopping = stopping.clone();
            thread::Builder::new()
                .name("control".into())
                .spawn(move || runtime.block_on(keeper.run(listeners, greeter, asked, stopping)))?
        };
        Ok(Self { addresses, shared, clients_tls, stopping, control: thread, workers })
    }

    /// The TCP addresses that are listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Reads certificates and keys anew, for connections to come. Where a file is of no use, what there was stays. Nothing
    /// else of the configuration is read.
    pub fn reload(&self) {
        let Config { server, upstream, .. } = &*self.shared.config;
        if let Some(tls) = &self.clients_tls {
            match server.tls.read() {
                Ok(read) => {
                    read.into_iter().for_each(|new| tls.set(new));
                    info!("the certificates of server.tls were read anew");
                }
                Err(problem) => error!(%problem, "server.tls stays as it was"),
            }
        }
        if let Some(tls) = &self.shared.dialer.tls {
            match upstream.tls.read() {
                Ok(new) => {
                    tls.config.set(new);
                    info!("the certificates of upstream.tls were read anew");
                }
                Err(problem) => error!(%problem, "upstream.tls stays as it was"),
            }
        }
        info!("nothing but certificates is read anew: for the rest of the configuration, restart");
    }

    /// Takes no further client, lets requests in flight finish, and ends; at the latest after `drain_timeout`.
    pub fn drain(&self) {
        self.stopping.drain.cancel();
    }

    /// Ends at once.
    pub fn stop(&self) {
        self.stopping.drain.cancel();
        self.stopping.now.cancel();
    }

    /// Waits until all clients have been seen off. Cancel safe.
    pub async fn ended(&self) {
        self.stopping.ended.cancelled().await;
    }

    /// Waits for the end of all threads.
    pub fn wait(self) {
        for thread in self.workers.into_iter().chain([self.control]) {
            if thread.join().is_err() {
                error!("a thread has panicked");
            }
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn bind(config: &Config) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for address in &config.server.listen {
        let listener = match address {
            ListenAddress::Tcp(address) => Listener::tcp(*address).await,
            ListenAddress::Unix(path) => Listener::unix(path).await,
        };
        let listener = listener.map_err(|error| StartError::Bind { address: address.to_string(), error })?;
        info!(address = listener.address(), "listening");
        listeners.push(listener);
    }
    Ok(listeners)
}

/// What a `rediss://` upstream has to prove.
fn upstream_tls(upstream: &Upstream) -> Result<Option<Tls>, TlsProblem> {
    let Endpoint::Tls { host, .. } = &upstream.url.endpoint else { return Ok(None) };
    Ok(Some(Tls { name: upstream.tls.name(host)?, config: Current::new(upstream.tls.read()?) }))
}

/// Everything that all threads share. Must be called within the control thread's runtime, which keeps the pools.
fn shared(
    config: &Arc<Config>,
    tls: Option<Tls>,
    mailboxes: Vec<UnboundedSender<Mail>>,
    questions: mpsc::Sender<crate::upstream::control::Question>,
) -> Shared {
    let upstream = &config.upstream;
    let metrics = Arc::new(Metrics::new(config.server.workers));
    let dialer = Arc::new(Dialer {
        endpoint: upstream.url.endpoint.clone(),
        tls,
        dial_timeout: upstream.dial_timeout,
        answer_timeout: upstream.connect_timeout,
        keepalive: upstream.keepalive,
        user_timeout: upstream.command_timeout + USER_TIMEOUT_SLACK,
        servers: Servers::default(),
    });
    let client_default = match config.auth.mode {
        AuthMode::Upstream => ClientDefault::Unauthenticated,
        AuthMode::None => ClientDefault::Control,
    };
    let budget = |purpose, key, max| Budget { purpose, key, max, wait: upstream.connect_timeout };
    let transactions = budget("transactions", "upstream.max_connections", upstream.max_connections);
    let blocking = budget("blocked clients", "upstream.max_blocking", upstream.max_blocking);
    let subscribed = budget("subscribed clients", "upstream.max_subscribed", upstream.max_subscribed);
    Shared {
        coherence: Arc::new(coherence(config, &metrics)),
        attempts: Attempts::default(),
        identities: Arc::new(Identities::new(credentials(config), client_default)),
        health: Arc::default(),
        transactions: Pool::new(Arc::clone(&dialer), transactions),
        blocking: Pool::new(Arc::clone(&dialer), blocking),
        subscribed: Pool::new(Arc::clone(&dialer), subscribed),
        private_lanes: Arc::new(Semaphore::new(upstream.max_blocking)),
        default_database: upstream.url.database,
        pause: Pause::default(),
        registry: Arc::new(Registry::new(config.server.workers)),
        config: Arc::clone(config),
        questions,
        mailboxes,
        metrics,
        dialer,
    }
}

fn coherence(config: &Config, metrics: &Metrics) -> Coherence<Waiter> {
    let phase = match (config.cache.mode, config.tracking.mode) {
        (CacheMode::Off, _) => Phase::Disabled,
        (CacheMode::On, TrackingMode::Off) => Phase::Off,
        (CacheMode::On, TrackingMode::Broadcast) => Phase::Down,
    };
    let settings = coherence::Settings {
        phase,
        max_staleness: config.cache.max_staleness,
        ttl: config.cache.ttl,
        touch_interval: config.cache.touch_interval,
        prefixes: prefixes(config),
        canary_key: config.audit.canary_key.as_ref().map(|key| bytes::Bytes::copy_from_slice(key.as_bytes())),
        workers: config.server.workers,
    };
    let limits = Limits {
        entries_max: config.cache.max_entries,
        bytes_max: config.cache.max_memory,
        value_bytes_max: config.cache.max_value_size,
        shards: CACHE_SHARDS,
        eviction: config.cache.eviction,
    };
    Coherence::new(settings, limits, Arc::clone(metrics.link()))
}

fn prefixes(config: &Config) -> Vec<bytes::Bytes> {
    config.tracking.prefixes.iter().map(|prefix| bytes::Bytes::copy_from_slice(prefix.as_bytes())).collect()
}

/// The operator's own credentials: user "default" where only a password is given, as in Redis.
fn credentials(config: &Config) -> Option<Credentials> {
    let url = &config.upstream.url;
    let password = url.password.as_ref()?;
    Some(Credentials {
        user: bytes::Bytes::copy_from_slice(url.user.as_deref().unwrap_or("default").as_bytes()),
        password: bytes::Bytes::copy_from_slice(password.expose().as_bytes()),
    })
}

fn control(shared: &Shared, runtime: &Runtime) -> Control {
    let _within = runtime.enter();
    let credentials = credentials(&shared.config).map(|credentials| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&credentials.user), text(&credentials.password))
    });
    Control::new(Arc::clone(&shared.dialer), credentials)
}

/// The table of commands with what the server tells of its own, and what the configuration adds to the allowlist.
/// It grows from the one before, so that the number of a command never changes.
fn extend(table: &Table, rows: &[ServerCommand], config: &Config) -> Table {
    let mut table = table.extend(rows);
    for name in &config.cache.cacheable_reads {
        if let Err(error) = table.cache(name) {
            warn!(command = name, %error, "cache.cacheable_reads");
        }
    }
    table
}

/// A cluster is refused before anything is served; a server that is not there is waited for.
fn first_look(runtime: &Runtime, control: &Control) -> Result<Option<Report>, StartError> {
    match runtime.block_on(async { timeout(Duration::from_secs(2), control.probe()).await }) {
        Ok(Ok(report)) => {
            if let Some(report) = &report {
                fit(report, control).map_err(StartError::Upstream)?;
            }
            Ok(report)
        }
        Ok(Err(error)) => {
            warn!(%error, "starting without the upstream");
            Ok(None)
        }
        Err(_) => {
            warn!(upstream = control.address(), "starting without the upstream: no answer");
            Ok(None)
        }
    }
}

fn fit(report: &Report, control: &Control) -> Result<(), DialError> {
    if report.is_cluster {
        let reason =
            "it is a node of a Redis Cluster (cluster-enabled yes), which nearhit does not support; \
                      give it a server that is not clustered"
                .into();
        return Err(DialError::Unfit { address: control.address(), reason });
    }
    Ok(())
}

fn start_workers(
    shared: &Arc<Shared>,
    mail: Vec<UnboundedReceiver<Mail>>,
    table: &Arc<Table>,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let mut threads = Vec::new();
    for (index, mail) in mail.into_iter().enumerate() {
        let (shared, table) = (Arc::clone(shared), Arc::clone(table));
        let runtime = runtime()?;
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let local = LocalSet::new();
            local.block_on(
                &runtime,
                async move { Worker::new(WorkerId(index), shared, table).run(mail).await },
            );
        })?;
        threads.push(thread);
    }
    Ok(threads)
}

/// The link's thread is not waited for: it has nothing to finish.
fn start_link(shared: &Shared) -> Result<(), StartError> {
    let upstream = &shared.config.upstream;
    let settings = link::Settings {
        dialer: Arc::clone(&shared.dialer),
        identity: Arc::clone(shared.identities.control()),
        health: Arc::clone(&shared.health),
        prefixes: prefixes(&shared.config),
        fence_timeout: shared.config.coherence.fence_timeout,
        backoff: (upstream.backoff_min, upstream.backoff_max),
    };
    let coherence = Arc::clone(&shared.coherence);
    let runtime = runtime()?;
    thread::Builder::new()
        .name("link".into())
        .spawn(move || runtime.block_on(link::run(coherence, settings)))?;
    Ok(())
}

/// The thread of handshakes: no client's signature holds up the replies of others, nor the accept loop.
fn start_greeter(tls: &Arc<Current<ServerConfig>>) -> Result<(Greeter, JoinHandle<()>), StartError> {
    let (greeter, arrivals) = mpsc::unbounded_channel();
    let tls = Arc::clone(tls);
    let runtime = runtime()?;
    let thread = thread::Builder::new().name("greeter".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, greet_all(arrivals, tls));
    })?;
    Ok((greeter, thread))
}

/// What runs on the control thread.
struct Keeper {
    shared: Arc<Shared>,
    control: Control,
    table: Arc<Table>,
    first: Option<Report>,
}

impl Keeper {
    async fn run(
        self,
        listeners: Vec<Listener>,
        greeter: Option<Greeter>,
        asked: mpsc::Receiver<crate::upstream::control::Question>,
        stopping: Stopping,
    ) {
        let local = LocalSet::new();
        let acceptors = TaskTracker::new();
        for listener in listeners {
            let (shared, drain) = (Arc::clone(&self.shared), stopping.drain.clone());
            // A Unix socket needs no TLS: what passes over it does not leave the machine.
            let greeter = greeter.clone().filter(|_| matches!(listener, Listener::Tcp(_)));
            acceptors.spawn_local_on(
                async move { drain.run_until_cancelled(accept(listener, greeter, shared)).await },
                &local,
            );
        }
        drop(greeter);
        acceptors.close();
        let Self { shared, control, table, first } = self;
        local
            .run_until(async {
                tokio::select! {
                    () = Box::pin(watch_upstream(&shared, &control, table, first)) => {}
                    () = control.answer(asked) => {}
                    () = sweep(&shared) => {}
                    () = Box::pin(canary::run(&shared.coherence, &control)) => {}
                    () = end(&shared, &acceptors, stopping) => {}
                }
            })
            .await;
    }
}

/// Drains: no new clients, then the old ones get `drain_timeout`, then everybody is cut off.
async fn end(shared: &Shared, acceptors: &TaskTracker, stopping: Stopping) {
    stopping.drain.cancelled().await;
    acceptors.wait().await;
    info!(clients = shared.registry.len(), "draining");
    tell(shared, || Mail::Drain);
    let deadline = Instant::now() + shared.config.server.drain_timeout;
    let empty = async {
        while !shared.registry.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        result = timeout_at(deadline, empty) => if result.is_err() {
            warn!(clients = shared.registry.len(), "cutting off what has not finished (server.drain_timeout)");
        },
        () = stopping.now.cancelled() => {}
    }
    tell(shared, || Mail::Stop);
    stopping.ended.cancel();
}

fn tell(shared: &Shared, mail: impl Fn() -> Mail) {
    for mailbox in &shared.mailboxes {
        // A worker that has ended needs no telling.
        let _ = mailbox.send(mail());
    }
}

async fn accept(listener: Listener, greeter: Option<Greeter>, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer, local)) => admit(stream, peer, local, greeter.as_ref(), &shared),
            Err(error) => {
                // Out of descriptors, most likely: nothing gets better by asking again at once.
                warn!(%error, "cannot accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The health check, and what follows from each report.
async fn watch_upstream(shared: &Shared, control: &Control, table: Arc<Table>, first: Option<Report>) {
    let upstream = &shared.config.upstream;
    let schedule = Schedule {
        interval: upstream.health_check_interval,
        patience: upstream.dial_timeout + upstream.command_timeout,
        backoff: (upstream.backoff_min, upstream.backoff_max),
    };
    let mut asked = None;
    let mut wants_auth = first.as_ref().and_then(|report| report.wants_auth);
    let mut table = table;
    if let Some(report) = first {
        shared.coherence.report(&report);
    }
    let found = async |report: Report| {
        fit(&report, control)?;
        shared.coherence.report(&report);
        if report.wants_auth.is_some() && wants_auth != report.wants_auth {
            if wants_auth.is_some() {
                tell(shared, || Mail::StrangersApart);
            }
            wants_auth = report.wants_auth;
        }
        if asked != Some(report.server) {
            match control.commands().await {
                Ok(rows) => {
                    table = Arc::new(extend(&table, &rows, &shared.config));
                    let bulk_bytes_max = control.bulk_bytes_max().await;
                    tell(shared, || Mail::Server(Arc::clone(&table), bulk_bytes_max));
                    asked = Some(report.server);
                    info!(
                        version = report.version,
                        role = report.role,
                        commands = rows.len(),
                        "upstream known"
                    );
                }
                Err(error) => warn!(%error, "COMMAND failed; commands of modules are treated as unknown"),
            }
        }
        Ok(())
    };
    shared.health.run(control, schedule, &shared.metrics, found).await;
}

/// Frees dead entries, a shard at a time.
async fn sweep(shared: &Shared) {
    let cache = shared.coherence.cache();
    let shards = cache.shards() as u32;
    for shard in (0..cache.shards()).cycle() {
        let entries = u32::try_from(cache.entries()).unwrap_or(u32::MAX);
        sleep((SWEEP_PERIOD / shards).max(SWEEP_PACE * (entries / shards))).await;
        shared.coherence.sweep(shard, clock::now());
    }
}

/// Clients cost a file descriptor each; the soft limit is often 1,024.
fn raise_descriptor_limit(clients: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = (clients + DESCRIPTORS_RESERVED) as u64;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let set = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum });
    if set.is_err() || raised < wanted {
        warn!(limit = raised, wanted, "the limit on open files is too low for server.max_clients");
    }
}
