//! The `nearhit` binary: arguments, logging and exit codes; everything else is the library's.
//!
//! Exit codes are those of `sysexits.h`: 64 for a command line or a configuration that is wrong, 69 when a listener
//! cannot be bound or the upstream is one that nearhit does not serve. Before the configuration is known to be valid
//! nothing is bound, dialled or logged: what is wrong goes to standard error as plain lines.

use std::{
    env,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use nearhit::{
    config::{Config, ConfigError, LoadOptions, Log, LogFormat, LogLevel},
    server::Server,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, level_filters::LevelFilter};

/// The command line or the configuration is wrong: `EX_USAGE`.
const EXIT_USAGE: u8 = 64;

/// A listener cannot be bound, or the upstream cannot be served: `EX_UNAVAILABLE`.
const EXIT_UNAVAILABLE: u8 = 69;

/// A transparent, coherent caching proxy for Redis and Valkey.
#[derive(Parser)]
#[command(name = "nearhit", version)]
struct Arguments {
    /// Read FILE, which must exist, instead of ./proxy.toml, which need not
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Override a key, as in --set cache.ttl=30s; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// Check the configuration and exit
    #[arg(long)]
    check: bool,

    /// Print the effective configuration as TOML, passwords as ***, and exit
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => return print_usage(&answer),
    };
    let options = match load_options(&arguments) {
        Ok(options) => options,
        Err(why) => return refuse(why),
    };
    let config = match Config::load(&options) {
        Ok(config) => config,
        Err(ConfigError { problems }) => return refuse(problems),
    };
    if arguments.print_config {
        print(&config.to_toml());
        return ExitCode::SUCCESS;
    }
    if arguments.check {
        let file = options.file().map_or_else(|| "no file".into(), |file| file.display().to_string());
        print(&format!("configuration ok: {file}\n"));
        return ExitCode::SUCCESS;
    }
    init_logging(&config.log);
    serve(config)
}

/// Runs the proxy until it is told to stop: SIGTERM and SIGINT drain, a second one stops. SIGHUP has certificates read
/// anew.
fn serve(config: Config) -> ExitCode {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        workers = config.server.workers,
        upstream = %config.upstream.url,
        cache = ?config.cache.mode,
        tracking = ?config.tracking.mode,
        "starting",
    );
    let result = start_and_wait(config);
    if let Err(error) = result {
        error!("{error:#}");
        eprintln!("nearhit: {error:#}");
        return ExitCode::from(EXIT_UNAVAILABLE);
    }
    info!("stopped");
    ExitCode::SUCCESS
}

fn start_and_wait(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt, mut hangup) = {
        let _within = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    let server = Server::start(config)?;
    runtime.block_on(async {
        let mut stops = [Server::drain, Server::stop].into_iter();
        loop {
            let act = tokio::select! {
                _ = terminate.recv() => stops.next(),
                _ = interrupt.recv() => stops.next(),
                _ = hangup.recv() => Some(Server::reload as fn(&Server)),
                () = server.ended() => None,
            };
            let Some(act) = act else { return };
            act(&server);
        }
    });
    server.wait();
    Ok(())
}

/// Takes `--set` apart. Not a parser of clap's, which would repeat what it could not parse: that may be a URL
/// with a password, as may the "key" of an argument that lacks its key.
fn load_options(arguments: &Arguments) -> Result<LoadOptions, [&'static str; 1]> {
    let is_key =
        |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
    let split = |text: &String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| is_key(key))?;
        Some((key.to_owned(), value.to_owned()))
    };
    let overrides: Option<Vec<_>> = arguments.overrides.iter().map(split).collect();
    let overrides = overrides.ok_or(["--set: expected KEY=VALUE, such as cache.ttl=30s"])?;
    Ok(LoadOptions { path: arguments.config.clone(), overrides })
}

/// Help, the version, or what is wrong with the command line.
fn print_usage(answer: &clap::Error) -> ExitCode {
    if !answer.use_stderr() {
        print(&answer.render().to_string());
        return ExitCode::SUCCESS;
    }
    // clap repeats what it did not expect; an argument with an `@`, or its part after `--flag=`, may be a URL
    // with a password.
    let mut text = answer.render().to_string();
    for argument in env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()) {
        let value = argument.strip_prefix("--").and_then(|flag| flag.split_once('=')).map(|(_, value)| value);
        let value = value.unwrap_or(&argument);
        if value.contains('@') {
            text = text.replace(value, "***");
        }
    }
    eprint!("{text}");
    ExitCode::from(EXIT_USAGE)
}

/// One line a problem, and the exit code for them.
fn refuse(problems: impl IntoIterator<Item = impl std::fmt::Display>) -> ExitCode {
    for problem in problems {
        eprintln!("nearhit: {problem}");
    }
    ExitCode::from(EXIT_USAGE)
}

/// Writes to standard output. A reader that went away (`nearhit --print-config | head -1`) is no failure.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Sends events to standard error, as `[log]` says; called once, before the first event.
fn init_logging(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    // Where nobody reads standard error any more, to say so there would be a panic of whichever thread has logged.
    let builder = builder.log_internal_errors(false);
    match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
