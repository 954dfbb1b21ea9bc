//! Runs redis-py: an environment with the versions of `requirements.txt`, and the workload in `workload/` within it.
//!
//! The environment is made once and kept beside the build, where `cargo clean` finds it. Tests run in processes of
//! their own, so that a lock on a file decides which of them makes it. Nothing is skipped where it cannot be made: a
//! client that was not tried is no client that works.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::pair::{Login, Place, USER};

/// What the workload ends with, so that a transcript that stops half-way cannot pass.
const LAST_LINE: &str = "done";
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A way of using redis-py.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// `blocking` or `asyncio`.
    pub(crate) interface: &'static str,
    /// The version of the protocol, `2` or `3`.
    pub(crate) protocol: &'static str,
    /// `python`, or `hiredis`, which is C and which redis-py takes where it is installed.
    pub(crate) parser: &'static str,
}

/// The transcript of one whole run of the workload, in the environment that [`environment`] made.
pub(crate) fn run(environment: &Path, variant: Variant, place: Place) -> Vec<String> {
    let mut command = Command::new(environment.join("bin/python"));
    // Isolated from the variables and packages of whoever runs the tests, and leaving nothing in the sources.
    command.args(["-I", "-B"]).arg(Path::new(SOURCES).join("workload"));
    command.arg(format!("redis://{}", place.address)).args(["--interface", variant.interface]);
    command.args(["--protocol", variant.protocol]).args(["--parser", variant.parser]);
    if place.login == Login::User {
        command.arg("--user").arg(format!("{}:{}", USER.0, USER.1));
    }
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let transcript = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = transcript.lines().map(str::to_owned).collect();
    assert!(
        output.status.success() && lines.last().is_some_and(|line| line == LAST_LINE),
        "{variant:?} at {}: {}\nafter {:?}\n{}",
        place.address,
        output.status,
        lines.last(),
        String::from_utf8_lossy(&output.stderr)
    );
    lines
}

/// The directory of a virtual environment that holds what `requirements.txt` asks for.
pub(crate) fn environment() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(kept).expect("the build directory is writable");
    let lock = File::create(kept.join("redis-py.lock")).expect("the build directory is writable");
    lock.lock().expect("a lock on a file of our own");
    let directory = kept.join("redis-py");
    let requirements = Path::new(SOURCES).join("requirements.txt");
    let asked = fs::read_to_string(&requirements).expect("requirements.txt is part of the tree");
    let python = said(Command::new("python3").arg("--version"), &directory);
    // Written last, so that an environment that was interrupted in the making is made again.
    let made_of = directory.join("made-of");
    let wanted = format!("{python}{asked}");
    if fs::read_to_string(&made_of).is_ok_and(|made| made == wanted) {
        return directory;
    }
    if directory.exists() {
        fs::remove_dir_all(&directory).expect("the directory is ours");
    }
    said(Command::new("python3").args(["-m", "venv"]).arg(&directory), &directory);
    let mut install = Command::new(directory.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    said(install.arg("--requirement").arg(&requirements), &directory);
    fs::write(made_of, wanted).expect("the environment is writable");
    directory
}

/// What a command of the preparation printed.
fn said(command: &mut Command, directory: &Path) -> String {
    let failure = match command.output() {
        Ok(Output { status, stdout, .. }) if status.success() => {
            return String::from_utf8_lossy(&stdout).into_owned();
        }
        Ok(Output { status, stdout, stderr }) => {
            let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            format!("{status}\n{out}{err}")
        }
        Err(error) => error.to_string(),
    };
    panic!(
        "the tests of redis-py need a Python environment in {}, and {command:?} failed: {failure}\n\
         Install Debian's python3 and python3-venv (scripts/test does) and let pip reach its package index once; \
         what it installs is kept.",
        directory.display()
    );
}
