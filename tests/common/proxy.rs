//! The proxy's own binary, started as an operator would, and read by its log and its statistics.
//!
//! `NEARHIT_TEST_BINARY` names another executable to test in its place: a release build, a sanitizer's, or a
//! stand-in that a new test must catch.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::{Client, Process, Redis, eventually};

/// From the start to the bound listener.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// A failed test prints this many lines of the log's end.
const LOG_LINES_MAX: usize = 200;

/// A proxy that is about to be started; every key of the configuration can be set.
pub(crate) struct ProxyBuilder {
    settings: Vec<(String, String)>,
    mutation: Option<String>,
}

/// Milliseconds, for keys of the configuration.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// Begins `proxy().upstream(&redis).set("cache.max_staleness", "500ms").start()`.
pub(crate) fn proxy() -> ProxyBuilder {
    let builder = ProxyBuilder { settings: Vec::new(), mutation: None };
    // The admin port is a fixed one by default, and tests run side by side.
    builder.set("server.listen", r#"["127.0.0.1:0"]"#).set("admin.listen", "").set("log.format", "json")
}

impl ProxyBuilder {
    pub(crate) fn upstream(self, redis: &Redis) -> Self {
        self.set("upstream.url", &redis.url())
    }

    /// For a relay, or a scripted server.
    pub(crate) fn upstream_addr(self, address: SocketAddr) -> Self {
        self.set("upstream.url", &format!("redis://{address}"))
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Breaks one of its guards (`src/mutation.rs`): only for a binary that was built with the feature `mutations`.
    pub(crate) fn broken(mut self, mutation: &str) -> Self {
        self.mutation = Some(mutation.to_owned());
        self
    }

    /// Starts it and waits until its listener is bound.
    #[track_caller]
    pub(crate) fn start(self) -> Proxy {
        let mut command = Command::new(binary());
        for (key, _) in env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("NEARHIT_")) {
            command.env_remove(key);
        }
        for (key, value) in &self.settings {
            command.env(format!("NEARHIT_{}", key.to_uppercase().replace('.', "__")), value);
        }
        if let Some(mutation) = &self.mutation {
            command.env("MUTATION", mutation);
        }
        // Away from the repository, whose proxy.toml would otherwise be picked up.
        command.current_dir(env::temp_dir());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let stderr = process.child().stderr.take().expect("stderr is piped");
        let log = Log::default();
        let addresses = log.follow(stderr);
        let Ok(address) = addresses.recv_timeout(START_TIMEOUT) else {
            panic!("the proxy does not listen; its log:\n{}", log.text());
        };
        Proxy { process, address, log, statistics: Mutex::new(None) }
    }
}

/// A running proxy, killed on drop. When its test fails, the end of its log is printed.
pub(crate) struct Proxy {
    process: Process,
    address: SocketAddr,
    log: Log,
    statistics: Mutex<Option<Client>>,
}

impl Proxy {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Every line of the `# Nearhit` section, without the prefix `nearhit_`. The connection that asks is kept, and
    /// counts as one connected client.
    #[track_caller]
    pub(crate) fn stats(&self) -> HashMap<String, String> {
        let mut kept = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = kept.take().unwrap_or_else(|| self.client());
        let text = client.text(&["INFO", "nearhit"]);
        *kept = Some(client);
        let pairs = text.lines().filter_map(|line| line.strip_prefix("nearhit_")?.split_once(':'));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// One counter, as in `stat("hits")`.
    #[track_caller]
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let stats = self.stats();
        let value = stats.get(name).unwrap_or_else(|| panic!("no nearhit_{name} among {stats:?}"));
        value.parse().unwrap_or_else(|_| panic!("nearhit_{name} is no number: {value}"))
    }

    /// Has it read until the reply comes from memory, by the proxy's own count.
    #[track_caller]
    pub(crate) fn until_hit(&self, what: &str, mut read: impl FnMut()) {
        eventually(&format!("{what} is answered from memory"), || {
            let hits = self.stat("hits");
            read();
            self.stat("hits") > hits
        });
    }

    /// Waits until hits are allowed.
    #[track_caller]
    pub(crate) fn wait_live(&self) {
        self.wait_link("live");
    }

    /// Waits until the invalidation link is down, sync, live, suspect or off.
    #[track_caller]
    pub(crate) fn wait_link(&self, state: &str) {
        let reached = || self.stats().get("link_state").is_some_and(|now| now == state);
        eventually(&format!("the link is {state}"), reached);
    }

    /// Returns once every change that Redis has acknowledged to anyone is in the cache: a script may write
    /// anything, so its reply waits until the invalidations before it were applied.
    #[track_caller]
    pub(crate) fn settle(&self) {
        self.client().expect(b":1\r\n", &["EVAL", "return 1", "0"]);
    }

    /// Freezes it: connections stand, and nothing answers.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.process.stop();
    }

    pub(crate) fn cont(&self) {
        self.process.cont();
    }

    /// Asks it to drain and waits for its exit.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// The end of its log, one event a line.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            self.process.kill9();
            eprintln!("the proxy on {} logged:\n{}", self.address, self.log.text());
        }
    }
}

/// What the proxy wrote to stderr, read by a thread of its own, so that a full pipe never stops the proxy.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Log {
    fn follow(&self, stderr: ChildStderr) -> Receiver<SocketAddr> {
        let (sender, addresses) = mpsc::channel();
        let log = self.clone();
        thread::spawn(move || log.read(stderr, &sender));
        addresses
    }

    fn read(&self, stderr: ChildStderr, addresses: &Sender<SocketAddr>) {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(address) = listening_on(&line) {
                // Nobody listens any more once the first address has come.
                let _ = addresses.send(address);
            }
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_back(line);
            if lines.len() > LOG_LINES_MAX {
                lines.pop_front();
            }
        }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

/// The address in the line that announces a listener.
fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, address) =
        line.contains(r#""message":"listening""#).then(|| line.split_once(r#""address":""#))??;
    address.split('"').next()?.parse().ok()
}

fn binary() -> OsString {
    env::var_os("NEARHIT_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_nearhit").into())
}
