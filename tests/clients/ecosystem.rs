//! Clients that are not written in Rust: what they need, and how their workloads run.
//!
//! An ecosystem is a directory beside this file. Its script `install DIRECTORY` makes that directory hold what the
//! directory's workloads need, by pinned versions, and does nothing where that has been done. What it makes is kept
//! beside the build, where `cargo clean` finds it. Nothing is skipped where it cannot be made: a client that was not
//! tried is no client that works.
//!
//! A workload is a program that runs against the server in `REDIS_HOST` and `REDIS_PORT`, in the protocol of
//! `REDIS_PROTOCOL` (2 or 3), as `REDIS_USERNAME` with `REDIS_PASSWORD` where there are such. It flushes the server,
//! does everything once, and then all over on the same server, so that the second time meets what the first left in a
//! cache between. It prints its transcript, and `done` as the last line.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::pair::{Login, Place, USER};

/// What a workload ends with, so that a transcript that stops half-way cannot pass.
const LAST_LINE: &str = "done";
/// A workload that has not ended by then hangs. `timeout` ends its whole process group, and so its own workers too.
const SECONDS_MAX: &str = "600";

/// Where the sources of an ecosystem are.
pub(crate) fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Where the things are that an ecosystem's script installs. It is run here, in case nobody has; since tests are
/// processes of their own, a lock on a file decides which of them does the work.
pub(crate) fn installed(name: &str) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(kept).expect("the build directory is writable");
    let lock = File::create(kept.join(format!("{name}.lock"))).expect("the build directory is writable");
    lock.lock().expect("a lock on a file of our own");
    let directory = kept.join(name);
    let mut install = Command::new(sources(name).join("install"));
    let output = output(install.arg(&directory));
    assert!(
        output.status.success(),
        "{install:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    directory
}

/// The transcript of one run of a workload, which is a `program` with its arguments and variables.
pub(crate) fn transcript(program: &Command, protocol: &str, place: Place) -> Vec<String> {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", SECONDS_MAX]).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("REDIS_HOST", place.address.ip().to_string());
    command.env("REDIS_PORT", place.address.port().to_string());
    command.env("REDIS_PROTOCOL", protocol);
    for (name, value) in [("REDIS_USERNAME", USER.0), ("REDIS_PASSWORD", USER.1)] {
        match place.login {
            Login::Nobody => command.env_remove(name),
            Login::User => command.env(name, value),
        };
    }
    let output = output(&mut command);
    let transcript = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = transcript.lines().map(str::to_owned).collect();
    assert!(
        output.status.success() && lines.last().is_some_and(|line| line == LAST_LINE),
        "{program:?} at {}: {}\nafter {:?}\n{}",
        place.address,
        output.status,
        lines.last(),
        String::from_utf8_lossy(&output.stderr)
    );
    lines
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}
