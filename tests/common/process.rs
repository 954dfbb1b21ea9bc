//! A child process that is gone when its fixture is, and the questions that tests ask of the kernel.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use super::eventually;

/// Ports are taken from below Linux's ephemeral range, so that no outgoing connection of another test occupies
/// one between the moment it is found free and the moment the server binds it.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Waiting for an exit looks a hundred times a second, for ten seconds.
const EXIT_POLLS_MAX: u32 = 1_000;
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A port of 127.0.0.1 that nobody listens on right now.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Lets this process and its later children open as many files as the hard limit allows; returns that number.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("raising the soft limit to the hard one is always allowed");
    limit.maximum.unwrap_or(u64::MAX)
}

/// A running child; SIGKILL on drop, which ends a stopped process too.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        static LIMIT: Once = Once::new();
        LIMIT.call_once(|| {
            raise_open_files();
        });
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("pids are positive");
        kill_process(pid, signal).expect("the child was not waited for, so its pid stands");
    }

    /// Freezes every thread of it. The signal alone is no promise: a thread runs on until the kernel gets to it.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        eventually("every thread is stopped", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the child runs");
            tasks.flatten().all(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // The state follows the name, which is in parentheses and may hold anything.
                stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('T'))
            })
        });
    }

    pub(crate) fn cont(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        for _ in 0..EXIT_POLLS_MAX {
            if let Some(status) = self.exited() {
                return status;
            }
            thread::sleep(EXIT_POLL_INTERVAL);
        }
        panic!("process {} does not exit", self.pid());
    }

    pub(crate) fn kill9(&mut self) {
        // An error means that it is gone already, which is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory, in MiB.
    pub(crate) fn rss_mib(&self) -> u64 {
        self.status_mib("VmRSS:")
    }

    /// The most that was ever resident, in MiB.
    pub(crate) fn peak_rss_mib(&self) -> u64 {
        self.status_mib("VmHWM:")
    }

    fn status_mib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the child runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)).expect("a running process has memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("the kernel writes a number of kB");
        kib / 1024
    }

    /// How many files and sockets it holds open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the child runs").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}
