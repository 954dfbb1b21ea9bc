//! The benchmark works: `bench/` measures, in one short round of little, and leaves nothing behind.
//!
//! What it measures is not looked at: the machine that runs tests is busy with them. `scripts/bench` is not run itself,
//! since it installs and builds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The programs of `examples/`, which cargo does not build for a single test. Returns where they are.
#[track_caller]
fn build_tools() -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--locked", "--example", "load", "--example", "relay"]).current_dir(ROOT);
    let output = command.output().expect("cargo is installed");
    assert!(output.status.success(), "{}", printed(&output));
    Path::new(env!("CARGO_BIN_EXE_nearhit")).with_file_name("examples")
}

fn printed(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}[{}]", output.status)
}

/// What it printed, and what it wrote.
struct Ran {
    said: String,
    json: String,
    svg: Option<String>,
}

#[track_caller]
fn run(what: &str, svg: bool) -> Ran {
    let directory = tempfile::tempdir().expect("a directory for tools and results");
    let scratch = tempfile::tempdir().expect("a directory for its servers");
    let [json, chart] = ["json", "svg"].map(|kind| directory.path().join(kind));
    let mut command = Command::new("python3");
    command.env("TMPDIR", scratch.path()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args([&format!("{ROOT}/bench"), what, "--quick", "--nearhit", env!("CARGO_BIN_EXE_nearhit")]);
    command.arg("--tools").arg(build_tools()).arg("--json").arg(&json);
    if svg {
        command.arg("--svg").arg(&chart);
    }
    let output = command.output().expect("python3 is installed");
    let said = printed(&output);
    assert!(output.status.success(), "{said}");
    assert_nothing_left(&scratch);
    let read = |path: PathBuf| fs::read_to_string(path).expect("it was written");
    Ran { said, json: read(json), svg: svg.then(|| read(chart)) }
}

/// Each of its servers has a directory there, and runs in it.
#[track_caller]
fn assert_nothing_left(scratch: &TempDir) {
    let left = fs::read_dir(scratch.path()).expect("it is still there").count();
    assert_eq!(left, 0, "directories are left");
    let processes = fs::read_dir("/proc").expect("Linux has it").flatten();
    let homes = processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    let left: Vec<PathBuf> = homes.filter(|home| home.starts_with(scratch.path())).collect();
    assert!(left.is_empty(), "servers are left in {left:?}");
}

/// That all of `words` are in it.
#[track_caller]
fn assert_holds(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[test]
fn it_measures_every_target() {
    let ran = run("matrix", true);
    let targets =
        ["redis", "redis, listener", "forwarding", "forwarding, listener", "nearhit", "nearhit, 2 workers"];
    assert_holds(&ran.said, &targets);
    assert_holds(&ran.said, &["GET 32 B c=5 P=16", "SET", "LRANGE", "mixture", "% of reads hit", "p99.9 us"]);
    assert_holds(&ran.json, &["\"cpu_us_per_op\"", "\"versions\"", "\"marks\""]);
    assert_holds(&ran.svg.expect("it was asked for"), &["</svg>", "class=\"forwarding\"", "GET  P=16"]);
}

#[test]
fn it_counts_what_redis_is_spared() {
    let ran = run("saved", false);
    assert_holds(
        &ran.said,
        &["connections, for 1,000 clients", "PTTL", "Redis 1 ms away", "a hit's latency"],
    );
    assert_holds(&ran.json, &["\"traffic\"", "\"connections\"", "\"latency_us\""]);
}

#[test]
fn it_shows_how_cost_grows() {
    let ran = run("scaling", true);
    let dimensions = ["keys", "clients", "bytes of a value", "requests a round trip"];
    assert_holds(&ran.said, &dimensions);
    assert_holds(&ran.json, &dimensions);
    assert_holds(&ran.svg.expect("it was asked for"), &dimensions);
}
