//! A real redis-server: empty, without persistence, on a free port, and as mortal as a test needs it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::{Client, Process, free_port};

/// Another process may take a port between the look and the bind; so many different ones are tried.
const START_TRIES: u32 = 5;
const READY_POLLS_MAX: u32 = 1_000;
const READY_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A redis-server, killed on drop.
pub(crate) struct Redis {
    /// Locked, so that it can die and come back while others use its address.
    process: Mutex<Process>,
    port: u16,
    args: Vec<String>,
    directory: TempDir,
}

impl Redis {
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with further arguments, as in `&["--maxmemory", "10mb"]`.
    #[track_caller]
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let directory = tempfile::tempdir().expect("a directory for the server");
        for _ in 0..START_TRIES {
            let port = free_port();
            if let Some(process) = spawn(port, &args, &directory) {
                return Self { process: Mutex::new(process), port, args, directory };
            }
        }
        panic!("redis-server does not start with {args:?}");
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    pub(crate) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its own directory, which goes with it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection past the proxy: the outside writer, or the oracle.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    /// How many times the server itself ran a command, by its own count.
    #[track_caller]
    pub(crate) fn calls(&self, command: &str) -> u64 {
        Self::calls_in(&self.client().text(&["INFO", "commandstats"]), command).unwrap_or(0)
    }

    /// The same, as `INFO commandstats` tells it; it does not name what was never run.
    #[track_caller]
    pub(crate) fn calls_in(statistics: &str, command: &str) -> Option<u64> {
        let prefix = format!("cmdstat_{command}:calls=");
        let rest = statistics.lines().find_map(|line| line.strip_prefix(&prefix))?;
        Some(rest.split(',').next().and_then(|calls| calls.parse().ok()).expect("a count"))
    }

    /// Dies as with the power: no goodbye, no flush.
    pub(crate) fn kill9(&self) {
        self.process().kill9();
    }

    /// Freezes: connections stand, and nothing answers.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.process().stop();
    }

    pub(crate) fn cont(&self) {
        self.process().cont();
    }

    /// A new server process on the same port, with nothing in it.
    #[track_caller]
    pub(crate) fn restart_empty(&self) {
        self.kill9();
        for _ in 0..START_TRIES {
            if let Some(process) = spawn(self.port, &self.args, &self.directory) {
                *self.process() = process;
                return;
            }
        }
        panic!("redis-server does not start again on port {}", self.port);
    }
}

/// `None` when the server exited instead of answering, as it does when its port was taken.
fn spawn(port: u16, args: &[String], directory: &TempDir) -> Option<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"]);
    command.args(["--save", "", "--appendonly", "no"]);
    command.args(["--enable-debug-command", "yes", "--enable-protected-configs", "yes"]);
    command.arg("--dir").arg(directory.path()).arg("--logfile").arg(directory.path().join("redis.log"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn(&mut command);
    for _ in 0..READY_POLLS_MAX {
        if process.exited().is_some() {
            return None;
        }
        if answers(port) {
            // Whoever took the port first would answer too, and then ours is about to exit.
            thread::sleep(READY_POLL_INTERVAL);
            return process.exited().is_none().then_some(process);
        }
        thread::sleep(READY_POLL_INTERVAL);
    }
    panic!("redis-server on port {port} does not answer");
}

/// A refusal to talk without a password is an answer as well.
fn answers(port: u16) -> bool {
    let Ok(mut client) = Client::try_connect((Ipv4Addr::LOCALHOST, port).into()) else { return false };
    let sent = client.try_send_raw(b"PING\r\n");
    sent.is_ok()
        && client.try_recv().is_ok_and(|reply| reply == b"+PONG\r\n" || reply.starts_with(b"-NOAUTH"))
}
