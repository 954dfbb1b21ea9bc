//! The configuration as an operator meets it: keys, defaults, layers, messages and exit codes.
//!
//! What concerns values is tested on [`Config::load`]; what concerns variables, the working directory and
//! exit codes on the binary itself, with `--check` and `--print-config` only, which never bind anything.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use nearhit::config::{
    AuthMode, CacheMode, Config, ConfigError, Endpoint, ListenAddress, LoadOptions, LogFormat, LogLevel,
    Scripts, Secret, TrackingMode,
};
use tempfile::TempDir;

/// Every key with its default and, unless its feature is still to come or it names a file, another value, both as in a
/// file.
const KEYS: &[(&str, &str, Option<&str>)] = &[
    (
        "server.listen",
        r#"["127.0.0.1:6380"]"#,
        Some(r#"["0.0.0.0:7000", "[::1]:7001", "unix:/run/nearhit.sock"]"#),
    ),
    ("server.workers", "0", Some("3")),
    ("server.max_clients", "10000", Some("1")),
    ("server.idle_timeout", r#""0s""#, Some(r#""300s""#)),
    ("server.drain_timeout", r#""10s""#, Some(r#""0s""#)),
    ("server.output_limit", r#""64MiB""#, Some(r#""1MiB""#)),
    ("server.max_request", r#""513MiB""#, Some(r#""1GiB""#)),
    ("server.max_pipeline", "10000", Some("16")),
    ("server.deny_commands", "[]", Some(r#"["FLUSHALL", "KEYS"]"#)),
    ("server.allow_public_without_auth", "false", Some("true")),
    ("server.tls.cert", r#""""#, None),
    ("server.tls.key", r#""""#, None),
    ("server.tls.client_ca", r#""""#, None),
    ("auth.mode", r#""upstream""#, Some(r#""none""#)),
    ("upstream.url", r#""redis://127.0.0.1:6379""#, Some(r#""redis://db.example:7000/3""#)),
    ("upstream.password_file", r#""""#, None),
    ("upstream.lanes", "2", Some("4")),
    ("upstream.max_connections", "50", Some("5")),
    ("upstream.max_blocking", "1000", Some("10")),
    ("upstream.max_subscribed", "100", Some("7")),
    ("upstream.connect_timeout", r#""5s""#, Some(r#""500ms""#)),
    ("upstream.dial_timeout", r#""1s""#, Some(r#""2s""#)),
    ("upstream.command_timeout", r#""5s""#, Some(r#""60s""#)),
    ("upstream.keepalive", r#""60s""#, Some(r#""15s""#)),
    ("upstream.health_check_interval", r#""30s""#, Some(r#""1s""#)),
    ("upstream.retry_reads", "true", Some("false")),
    ("upstream.backoff_min", r#""50ms""#, Some(r#""1ms""#)),
    ("upstream.backoff_max", r#""1s""#, Some(r#""10s""#)),
    ("upstream.tls.ca", r#""""#, None),
    ("upstream.tls.cert", r#""""#, None),
    ("upstream.tls.key", r#""""#, None),
    ("upstream.tls.server_name", r#""""#, None),
    ("cache.mode", r#""on""#, Some(r#""off""#)),
    ("cache.max_entries", "10000", Some("0")),
    ("cache.max_memory", r#""256MiB""#, Some(r#""1000000001""#)),
    ("cache.ttl", r#""1h""#, Some(r#""24h""#)),
    ("cache.max_value_size", r#""1MiB""#, Some(r#""16KiB""#)),
    ("cache.eviction", r#""s3-fifo""#, Some(r#""lru""#)),
    ("cache.max_staleness", r#""1s""#, Some(r#""250ms""#)),
    ("cache.touch_interval", r#""60s""#, Some(r#""0s""#)),
    ("cache.cacheable_reads", "[]", Some(r#"["JSON.GET"]"#)),
    ("cache.serve_stale", r#""0s""#, None),
    ("cache.rule", "[]", None),
    ("coherence.scripts", r#""fence""#, Some(r#""declared""#)),
    ("coherence.order_messages", "true", Some("false")),
    ("coherence.fence_timeout", r#""5s""#, Some(r#""1s""#)),
    ("tracking.mode", r#""broadcast""#, Some(r#""off""#)),
    ("tracking.prefixes", "[]", Some(r#"["session:", "user:"]"#)),
    ("audit.sample", "0.0", Some("0.0001")),
    ("audit.canary_key", r#""""#, Some(r#""session:canary""#)),
    ("admin.listen", r#""""#, None),
    ("admin.proxy_users", "[]", Some(r#"["operator"]"#)),
    ("log.level", r#""info""#, Some(r#""trace""#)),
    ("log.format", r#""text""#, Some(r#""json""#)),
];

/// A directory for files of one test.
fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Loads a file with this text.
fn load(text: &str) -> Result<Config, ConfigError> {
    let directory = directory();
    let path = directory.path().join("test.toml");
    fs::write(&path, text).expect("a writable directory");
    Config::load(&LoadOptions { path: Some(path), overrides: Vec::new() })
}

/// Loads a file that sets just this key.
fn load_key(key: &str, value: &str) -> Result<Config, ConfigError> {
    load(&format!("{key} = {value}\n"))
}

/// The one problem of a file that sets just this key.
fn problem(key: &str, value: &str) -> String {
    let error = load_key(key, value).expect_err(&format!("{key} = {value} is accepted"));
    let [problem] = error.problems.as_slice() else { panic!("{key} = {value}: {error}") };
    assert_eq!(problem.key.as_deref(), Some(key));
    assert!(problem.origin.ends_with("test.toml"), "{problem}");
    assert!(!problem.to_string().contains('\n'), "{problem}");
    problem.message.clone()
}

/// The value of a dotted key in printed TOML.
fn value(toml: &str, key: &str) -> Option<toml::Value> {
    let table: toml::Table = toml.parse().unwrap_or_else(|why| panic!("{why}\n{toml}"));
    key.split('.').try_fold(toml::Value::Table(table), |value, name| value.get(name).cloned())
}

fn parse(text: &str) -> toml::Value {
    text.parse().expect("TOML")
}

/// Runs the binary in `directory`, with no variables but these.
fn nearhit(directory: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearhit"));
    command.current_dir(directory).env_clear().envs(variables.iter().copied()).args(arguments);
    command.output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What a refused start says.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

// Keys and defaults.

#[test]
fn every_key_has_its_default() {
    let printed = Config::default().to_toml();
    for (key, default, _) in KEYS {
        let expected = match *key {
            "server.workers" => i64::try_from(Config::default().server.workers).unwrap().into(),
            _ => parse(default),
        };
        assert_eq!(value(&printed, key), Some(expected), "{key}");
    }
    let lines = printed.lines().filter(|line| line.contains('=')).count();
    assert_eq!(lines, KEYS.len(), "a key is printed that is not in this test's table:\n{printed}");
}

#[test]
fn workers_are_resolved_to_the_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(Config::default().server.workers, cores);
    assert_eq!(load_key("server.workers", "0").unwrap().server.workers, cores);
    assert_eq!(load_key("server.workers", "7").unwrap().server.workers, 7);
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(load("").unwrap(), Config::default());
}

#[test]
fn the_shipped_file_is_the_default_with_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml");
    let text = fs::read_to_string(&path).unwrap();
    for (key, default, _) in KEYS {
        assert_eq!(value(&text, key), Some(parse(default)), "{key} in proxy.toml");
    }
    let options = LoadOptions { path: Some(path), overrides: Vec::new() };
    assert_eq!(Config::load(&options).unwrap(), Config::default());
}

#[test]
fn every_key_can_be_set_and_is_read_back_as_printed() {
    for (key, _, other) in KEYS {
        let Some(other) = other else { continue };
        let config = load_key(key, other).unwrap_or_else(|why| panic!("{why}"));
        assert_ne!(config, Config::default(), "{key} = {other} has no effect");
        let printed = config.to_toml();
        assert_eq!(value(&printed, key), Some(parse(other)), "{key}");
        assert_eq!(load(&printed).unwrap(), config, "{key}");
    }
}

#[test]
fn all_keys_set_together_are_read_back_as_printed() {
    let others = KEYS.iter().filter_map(|(key, _, other)| other.map(|other| format!("{key} = {other}\n")));
    let config = load(&others.collect::<String>()).unwrap();
    assert_eq!(load(&config.to_toml()).unwrap(), config);

    // The fields, since reading and printing could agree on a wrong one.
    assert_eq!(
        config.server.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["0.0.0.0:7000", "[::1]:7001", "unix:/run/nearhit.sock"]
    );
    assert_eq!(config.server.listen[2], ListenAddress::Unix("/run/nearhit.sock".into()));
    assert_eq!((config.server.workers, config.server.max_clients, config.server.max_pipeline), (3, 1, 16));
    assert_eq!(config.server.idle_timeout, Duration::from_mins(5));
    assert_eq!(config.server.drain_timeout, Duration::ZERO);
    assert_eq!((config.server.output_limit, config.server.max_request), (1 << 20, 1 << 30));
    assert_eq!(config.server.deny_commands, ["FLUSHALL", "KEYS"]);
    assert!(config.server.allow_public_without_auth);
    assert_eq!(config.auth.mode, AuthMode::None);
    assert_eq!(config.upstream.url.endpoint, Endpoint::Tcp { host: "db.example".into(), port: 7000 });
    assert_eq!(config.upstream.url.database.0, 3);
    assert_eq!(
        (config.upstream.lanes, config.upstream.max_connections, config.upstream.max_blocking),
        (4, 5, 10)
    );
    assert_eq!(config.upstream.max_subscribed, 7);
    assert_eq!(config.upstream.connect_timeout, Duration::from_millis(500));
    assert_eq!(config.upstream.dial_timeout, Duration::from_secs(2));
    assert_eq!(config.upstream.command_timeout, Duration::from_mins(1));
    assert_eq!(config.upstream.keepalive, Duration::from_secs(15));
    assert_eq!(config.upstream.health_check_interval, Duration::from_secs(1));
    assert!(!config.upstream.retry_reads);
    assert_eq!(config.upstream.backoff_min, Duration::from_millis(1));
    assert_eq!(config.upstream.backoff_max, Duration::from_secs(10));
    assert_eq!(config.cache.mode, CacheMode::Off);
    assert_eq!((config.cache.max_entries, config.cache.max_memory), (0, 1_000_000_001));
    assert_eq!(config.cache.ttl, Duration::from_hours(24));
    assert_eq!(config.cache.max_value_size, 16 << 10);
    assert_eq!(config.cache.max_staleness, Duration::from_millis(250));
    assert_eq!(config.cache.touch_interval, Duration::ZERO);
    assert_eq!(config.cache.cacheable_reads, ["JSON.GET"]);
    assert_eq!(config.coherence.scripts, Scripts::Declared);
    assert!(!config.coherence.order_messages);
    assert_eq!(config.coherence.fence_timeout, Duration::from_secs(1));
    assert_eq!(config.tracking.mode, TrackingMode::Off);
    assert_eq!(config.tracking.prefixes, ["session:", "user:"]);
    assert!((config.audit.sample - 0.0001).abs() < f64::EPSILON);
    assert_eq!(config.audit.canary_key.as_deref(), Some("session:canary"));
    assert_eq!(config.admin.proxy_users, ["operator"]);
    assert_eq!((config.log.level, config.log.format), (LogLevel::Trace, LogFormat::Json));
}

#[test]
fn command_names_are_kept_in_upper_case() {
    assert_eq!(
        load_key("server.deny_commands", r#"["flushAll"]"#).unwrap().server.deny_commands,
        ["FLUSHALL"]
    );
    assert_eq!(
        load_key("cache.cacheable_reads", r#"["json.get"]"#).unwrap().cache.cacheable_reads,
        ["JSON.GET"]
    );
}

// Problems.

#[test]
fn values_that_cannot_be_are_refused_with_what_would_be_right() {
    for (key, value, right) in [
        ("server.listen", "[]", "at least 1 in the list"),
        ("server.listen", r#""127.0.0.1:6380""#, "a list in brackets"),
        ("server.listen", r#"["localhost:6380"]"#, "an IP address and a port, such as \"127.0.0.1:6380\""),
        ("server.listen", r#"["127.0.0.1:1", "127.0.0.1:1"]"#, "\"127.0.0.1:1\" is listed twice"),
        ("server.listen", "[6380]", "found 6380"),
        ("server.workers", "-1", "a whole number from 0 to 4294967295, found -1"),
        ("server.workers", r#""2""#, "found \"2\""),
        ("server.max_clients", "0", "from 1 to"),
        ("server.max_clients", "1.5", "found 1.5"),
        ("server.idle_timeout", "30", "found 30; if seconds are meant, write \"30s\""),
        (
            "server.idle_timeout",
            r#""30""#,
            "a duration with its unit, such as \"250ms\", \"30s\" or \"1h\", found \"30\"",
        ),
        ("server.output_limit", r#""64mb""#, "\"64KiB\" (1024 bytes each)"),
        ("server.output_limit", "0", "at least \"1\""),
        ("server.max_request", r#""0""#, "at least \"1\""),
        ("server.max_pipeline", "0", "from 1 to"),
        ("server.deny_commands", r#"["keys", "KEYS"]"#, "\"KEYS\" is listed twice"),
        ("server.deny_commands", r#"["CONFIG SET"]"#, "the name of a whole command, such as \"FLUSHALL\""),
        ("server.deny_commands", r#"["CONFIG|SET"]"#, "the name of a whole command"),
        ("server.deny_commands", r#"[""]"#, "the name of a whole command"),
        ("server.allow_public_without_auth", r#""yes""#, "true or false, found \"yes\""),
        ("auth.mode", r#""acl""#, "\"upstream\" or \"none\", found \"acl\""),
        ("auth.mode", "false", "\"upstream\" or \"none\", found false"),
        ("upstream.url", r#""127.0.0.1:6379""#, "redis://[user][:password@]host[:port][/database]"),
        ("upstream.url", r#""redis://h:0""#, "a port from 1 to 65535"),
        ("upstream.url", r#""redis://h/one""#, "a database number"),
        ("upstream.url", "6379", "redis://"),
        ("upstream.url", r#""redis://app@h""#, "a user without a password"),
        ("upstream.url", r#""redis://localhost:6380""#, "the proxy's own listener"),
        ("upstream.password_file", "5", "a text in quotes"),
        ("upstream.password_file", r#""/does/not/exist""#, "cannot be read: No such file"),
        ("upstream.lanes", "0", "from 1 to"),
        ("upstream.max_connections", "0", "from 1 to"),
        ("upstream.max_blocking", "0", "from 1 to"),
        ("upstream.max_subscribed", "0", "from 1 to"),
        ("upstream.connect_timeout", r#""0s""#, "at least \"1ms\", found \"0s\""),
        ("upstream.dial_timeout", r#""0s""#, "at least \"1ms\""),
        ("upstream.command_timeout", r#""0s""#, "at least \"1ms\""),
        ("upstream.keepalive", r#""999ms""#, "at least \"1s\""),
        ("upstream.health_check_interval", r#""0s""#, "at least \"1ms\""),
        ("upstream.backoff_min", r#""0s""#, "at least \"1ms\""),
        ("upstream.backoff_min", r#""2s""#, "must not be above upstream.backoff_max, 1s"),
        ("upstream.backoff_max", r#""10ms""#, "upstream.backoff_min, 50ms, must not be above"),
        ("cache.mode", "true", "\"on\" or \"off\", found true"),
        ("cache.max_entries", r#""many""#, "a whole number"),
        ("cache.ttl", r#""0s""#, "at least \"1ms\""),
        ("cache.ttl", r#""100000h""#, "at most \"87600h\""),
        ("cache.max_value_size", "0", "at least \"1\""),
        ("cache.eviction", r#""fifo""#, "\"s3-fifo\" or \"lru\", found \"fifo\""),
        ("cache.max_staleness", r#""0s""#, "at least \"1ms\""),
        ("cache.cacheable_reads", r#"["JSON.GET", "json.get"]"#, "listed twice"),
        ("coherence.scripts", r#""trust""#, "\"fence\" or \"declared\""),
        ("coherence.order_messages", "1", "true or false, found 1"),
        ("coherence.fence_timeout", r#""0s""#, "at least \"1ms\""),
        ("tracking.mode", r#""default""#, "\"broadcast\" or \"off\""),
        ("tracking.prefixes", r#"[""]"#, "leave the list empty"),
        ("tracking.prefixes", r#"["user:", "user:"]"#, "listed twice"),
        ("tracking.prefixes", r#"["user:1", "x", "user:"]"#, "\"user:1\" begins with \"user:\""),
        ("audit.sample", "1.5", "a share from 0.0 to 1.0, found 1.5"),
        ("audit.sample", "-0.1", "a share from 0.0 to 1.0, found -0.1"),
        ("audit.canary_key", "7", "a text in quotes"),
        ("audit.canary_key", &format!("{:?}", "k".repeat(1025)), "at most 1024 bytes, found one of 1025"),
        ("admin.proxy_users", r#"["a", "a"]"#, "listed twice"),
        ("log.level", r#""verbose""#, "\"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\""),
        ("log.format", r#""xml""#, "\"text\" or \"json\""),
    ] {
        let message = problem(key, value);
        assert!(message.contains(right), "{key} = {value}: {message}");
    }
}

#[test]
fn what_comes_later_is_refused_as_such() {
    for (key, value) in [
        ("cache.mode", r#""shadow""#),
        ("cache.serve_stale", r#""1s""#),
        ("cache.rule", r#"[{ match = "session:*", ttl = "5s" }]"#),
        ("tracking.mode", r#""per-key""#),
        ("tracking.mode", r#""auto""#),
        ("admin.listen", r#""127.0.0.1:9180""#),
    ] {
        let message = problem(key, value);
        assert!(message.contains("comes with a later version"), "{key} = {value}: {message}");
    }
    let rule = load("[[cache.rule]]\nmatch = \"session:*\"\ncache = false\n").expect_err("a rule");
    assert_eq!(rule.problems[0].key.as_deref(), Some("cache.rule"));
}

#[test]
fn what_comes_later_may_be_off_in_any_spelling() {
    for (key, value) in [("cache.serve_stale", r#""0ms""#), ("cache.rule", "[]"), ("admin.listen", r#""""#)] {
        assert_eq!(load_key(key, value).unwrap(), Config::default(), "{key} = {value}");
    }
}

#[test]
fn unknown_keys_are_refused_with_what_may_be_meant() {
    for (key, hint) in [
        ("cache.max_entires", "did you mean cache.max_entries?"),
        ("upstream.pasword_file", "did you mean upstream.password_file?"),
        ("cache.max_clients", "did you mean server.max_clients?"),
        ("cache.size", "[cache] has cacheable_reads, eviction, max_entries,"),
        ("upstream.tls.verify", "[upstream] has "),
        (
            "redis.host",
            "the sections are admin, audit, auth, cache, coherence, log, server, tracking, upstream",
        ),
        ("max_entries", "did you mean cache.max_entries?"),
        (r#"server."tls.cert""#, "did you mean server.tls.cert?"),
        ("cache.ttl.default", "cache.ttl: expected a duration"),
    ] {
        let error = load_key(key, "1").expect_err(key).to_string();
        assert!(error.contains(hint) && error.lines().count() == 1, "{key}: {error}");
    }
}

#[test]
fn a_section_that_is_no_table_is_refused_even_if_overridden() {
    let directory = directory();
    fs::write(directory.path().join("proxy.toml"), "cache = 5\n").unwrap();
    for variables in [&[][..], &[("NEARHIT_CACHE__TTL", "5s")]] {
        let refusal = refusal(&nearhit(directory.path(), variables, &["--check"]));
        assert!(
            refusal.starts_with("nearhit: proxy.toml: cache: expected a table with cacheable_reads,"),
            "{refusal}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let error =
        load("nonsense = 1\n[cache]\nttl = 5\nmode = \"shadow\"\n[upstream]\nlanes = 0\n").unwrap_err();
    let mut keys: Vec<_> = error.problems.iter().filter_map(|problem| problem.key.as_deref()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["cache.mode", "cache.ttl", "nonsense", "upstream.lanes"]);
}

#[test]
fn one_bound_of_the_cache_may_be_taken_off_but_not_both() {
    load_key("cache.max_entries", "0").unwrap();
    load_key("cache.max_memory", "0").unwrap();
    let error = load("cache.max_entries = 0\ncache.max_memory = \"0\"\n").unwrap_err().to_string();
    assert!(error.contains("one of them must bound the cache"), "{error}");
}

#[test]
fn without_authentication_a_public_listener_must_be_meant() {
    for (listen, allow, accepted) in [
        ("127.0.0.1:6380", false, true),
        ("[::1]:6380", false, true),
        ("unix:/run/nearhit.sock", false, true),
        ("0.0.0.0:6380", false, false),
        ("10.1.2.3:6380", false, false),
        ("0.0.0.0:6380", true, true),
    ] {
        let server = format!("server.listen = [\"{listen}\"]\nserver.allow_public_without_auth = {allow}\n");
        let loaded = load(&format!("{server}auth.mode = \"none\"\n"));
        assert_eq!(loaded.is_ok(), accepted, "{listen} {allow}: {loaded:?}");
        if let Err(error) = loaded {
            assert_eq!(error.problems[0].key.as_deref(), Some("server.listen"));
            assert!(
                error.to_string().contains("set server.allow_public_without_auth = true if it is meant"),
                "{error}"
            );
        }
        load(&server).unwrap();
    }
}

#[test]
fn certificates_are_read_when_they_are_named() {
    let directory = directory();
    let file = |name: &str| directory.path().join(name);
    for name in ["one", "other"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["h".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(file(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    fs::write(file("empty"), "").unwrap();
    fs::write(file("torn"), "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").unwrap();
    let lines = |keys: &[(&str, &str)]| -> String {
        let value = |text: &str| match text {
            "h" | "a b" | "" => text.to_owned(),
            url if url.contains(':') => url.to_owned(),
            name => file(name).display().to_string(),
        };
        let lines: Vec<_> = keys.iter().map(|(key, text)| format!("{key} = {:?}", value(text))).collect();
        lines.join("\n") + "\n"
    };
    let tls = ("upstream.url", "rediss://h");
    let server = [
        ("server.tls.cert", "one.pem"),
        ("server.tls.key", "one.key"),
        ("server.tls.client_ca", "other.pem"),
    ];
    let upstream = [
        tls,
        ("upstream.tls.ca", "other.pem"),
        ("upstream.tls.cert", "one.pem"),
        ("upstream.tls.key", "one.key"),
        ("upstream.tls.server_name", "h"),
    ];
    let config = load(&lines(&[&server[..], &upstream[..]].concat())).unwrap();
    assert_eq!(load(&config.to_toml()).unwrap(), config);
    assert_eq!(config.server.tls.client_ca, Some(file("other.pem")));
    assert_eq!(config.upstream.tls.ca, Some(file("other.pem")));
    assert_eq!(config.upstream.tls.server_name.as_deref(), Some("h"));
    load(&lines(&server[..2])).unwrap();
    load(&lines(&upstream[..2])).unwrap();

    for (keys, at_fault, why) in [
        (&server[..1], "server.tls.cert", "it needs its server.tls.key"),
        (&server[1..2], "server.tls.key", "it needs its server.tls.cert"),
        (&server[2..], "server.tls.client_ca", "set server.tls.cert"),
        (&[server[0], ("server.tls.key", "other.key")], "server.tls.key", "not the key of the certificate"),
        (&[server[0], ("server.tls.key", "one.pem")], "server.tls.key", "no private key"),
        (&[("server.tls.cert", "missing"), server[1]], "server.tls.cert", "cannot be read"),
        (&[("server.tls.cert", "empty"), server[1]], "server.tls.cert", "no certificate"),
        (&[server[0], server[1], ("server.tls.client_ca", "torn")], "server.tls.client_ca", "of no use"),
        (&[tls, ("upstream.tls.ca", "missing")], "upstream.tls.ca", "cannot be read"),
        (&[tls, upstream[1], upstream[2]], "upstream.tls.cert", "it needs its upstream.tls.key"),
        (&[tls, upstream[1], ("upstream.tls.server_name", "a b")], "upstream.tls.server_name", "a host name"),
        (&upstream[1..2], "upstream.tls.ca", "only to a rediss:// URL"),
        (&[upstream[4], ("upstream.url", "unix:/s")], "upstream.url", "only to a rediss:// URL"),
    ] {
        let text = lines(keys);
        let error = load(&text).expect_err(&text);
        let [problem] = error.problems.as_slice() else { panic!("{text}: {error}") };
        assert_eq!(problem.key.as_deref(), Some(at_fault), "{text}: {error}");
        assert!(problem.message.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_canary_whose_changes_are_not_announced_is_refused() {
    let prefixes = "tracking.prefixes = [\"session:\", \"user:\"]\n";
    for key in ["user:canary", "session:"] {
        load(&format!("{prefixes}audit.canary_key = {key:?}\n")).unwrap();
    }
    let error = load(&format!("{prefixes}audit.canary_key = \"canary\"\n")).unwrap_err();
    assert_eq!(error.problems[0].key.as_deref(), Some("audit.canary_key"));
    assert!(error.to_string().contains("begins with none of tracking.prefixes"), "{error}");
    load_key("audit.canary_key", &format!("{:?}", "k".repeat(1024))).unwrap();
}

#[test]
fn a_problem_of_one_key_does_not_accuse_another() {
    // Below the default of backoff_max, but above the wrong value that stands in its place.
    let error = load("upstream.backoff_min = \"2s\"\nupstream.backoff_max = 10\n").unwrap_err();
    let keys: Vec<_> = error.problems.iter().filter_map(|problem| problem.key.as_deref()).collect();
    assert_eq!(keys, ["upstream.backoff_max"]);
}

// Secrets.

#[test]
fn a_password_is_read_from_its_file_without_the_last_newline() {
    let directory = directory();
    let path = directory.path().join("password");
    for (contents, password) in
        [("hush", "hush"), ("hush\n", "hush"), ("hush\r\n", "hush"), (" hu sh \n\n", " hu sh \n")]
    {
        fs::write(&path, contents).unwrap();
        let file = format!("upstream.url = \"redis://app@h\"\nupstream.password_file = {path:?}\n");
        let config = load(&file).unwrap();
        assert_eq!(config.upstream.url.password, Some(Secret::new(password)));
        assert_eq!(config.upstream.url.user.as_deref(), Some("app"));

        let printed = config.to_toml();
        assert!(!printed.contains("hush"), "{printed}");
        assert_eq!(load(&printed).unwrap(), config);
    }
}

#[test]
fn a_password_in_two_places_or_in_an_empty_file_is_refused() {
    let directory = directory();
    let path = directory.path().join("password");
    let load_with = |url: &str, contents: &[u8]| {
        fs::write(&path, contents).unwrap();
        load(&format!("upstream.url = {url:?}\nupstream.password_file = {path:?}\n")).unwrap_err().to_string()
    };
    for (error, right) in [
        (load_with("redis://:hush@h", b"hush"), "give it in one place only"),
        (load_with("redis://h", b"\n"), "the file is empty"),
        (load_with("redis://h", b"hush\xff"), "cannot be read"),
        (load_with("redis://h", &b"h".repeat(64 * 1024 + 1)), "longer than 65536 bytes"),
    ] {
        assert!(error.contains(right) && !error.contains("hush"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn secrets_never_appear() {
    let config = load_key("upstream.url", r#""redis://app:hush@h""#).unwrap();
    assert_eq!(config.upstream.url.password.as_ref().map(Secret::expose), Some("hush"));
    assert!(!format!("{config:?} {config:#?}").contains("hush"));
    assert_eq!(value(&config.to_toml(), "upstream.url"), Some("redis://app:***@h:6379".into()));

    for text in [
        "upstream.url = \"redis://:hush@h",
        "upstream.url = redis://:hush@h",
        "upstream.url = \"redis://:hush@h\"\nupstream.url = \"redis://:hush@h\"",
        "upstream.url = \"redis://:hush@h\" x",
        "upstream.url = \"redis://:\\hush@h\"",
        "upstream.url = \"redis://:hush@h:0\"",
        "upstream.url = \"redis://:hu#hush@h\"",
        "upstream.url = \"http://:hush@h\"",
        "upstream.url = \"redis://:hush @h\"",
        "upstream.url = \"hush\"",
        "upstream.url = [\"redis://:hush@h\"]",
        "upstream.url = \"unix://:hush@h\"",
        "upstream.password = \"hush\"",
        "upstream.password_file = \"hush\"",
        "server.listen = [\"redis://:hush@h\"]",
        "tracking.mode = \"redis://:hush@h\"",
        "redis = \"redis://:hush@h\"",
    ] {
        let error = load(text).expect_err(text);
        assert!(!format!("{error} {error:?}").contains("hush"), "{text}: {error}");
    }
}

#[test]
fn secrets_of_the_command_line_never_appear() {
    let directory = directory();
    for arguments in [
        &["redis://:hush@h"][..],
        &["--upstream", "redis://:hush@h"],
        &["--check=redis://:hush@h"],
        &["--set", "redis://:hush@h"],
        &["--set", "redis://:hush=@h"],
        &["--set", "upstream.url", "redis://:hush@h"],
        &["--set", "upstream.url=redis://:hush@h:0"],
        &["--set", "upstream.urk=redis://:hush@h"],
    ] {
        let refusal = refusal(&nearhit(directory.path(), &[], arguments));
        assert!(!refusal.contains("hush"), "{arguments:?}: {refusal}");
    }
    let refusal = refusal(&nearhit(directory.path(), &[("NEARHIT_UPSTREAM__URL", "hush")], &[]));
    assert!(
        refusal.starts_with("nearhit: NEARHIT_UPSTREAM__URL: upstream.url: expected redis://"),
        "{refusal}"
    );
    assert!(!refusal.contains("hush"), "{refusal}");
}

// Layers and exit codes.

#[test]
fn flags_beat_variables_beat_the_file() {
    let directory = directory();
    let file = "[cache]\nmax_entries = 1\nmax_memory = \"1MiB\"\nttl = \"1s\"\n";
    fs::write(directory.path().join("proxy.toml"), file).unwrap();
    let variables = [("NEARHIT_CACHE__MAX_MEMORY", "2MiB"), ("NEARHIT_CACHE__TTL", "2s")];
    let arguments =
        ["--print-config", "--set", "cache.ttl=3s", "--set", "log.level=warn", "--set", "log.level=error"];
    let printed = stdout(&nearhit(directory.path(), &variables, &arguments));
    assert_eq!(value(&printed, "cache.max_entries"), Some(1.into()));
    assert_eq!(value(&printed, "cache.max_memory"), Some("2MiB".into()));
    assert_eq!(value(&printed, "cache.ttl"), Some("3s".into()));
    assert_eq!(value(&printed, "log.level"), Some("error".into()));
    assert_eq!(value(&printed, "cache.max_staleness"), Some("1s".into()));
}

#[test]
fn every_key_can_be_set_by_a_variable_and_by_a_flag() {
    let directory = directory();
    let others: Vec<_> = KEYS.iter().filter_map(|(key, _, other)| other.map(|other| (*key, other))).collect();
    let names = others.iter().map(|(key, _)| format!("NEARHIT_{}", key.to_uppercase().replace('.', "__")));
    let names: Vec<_> = names.collect();
    let variables: Vec<_> =
        names.iter().zip(&others).map(|(name, (_, other))| (name.as_str(), *other)).collect();
    let by_variables = stdout(&nearhit(directory.path(), &variables, &["--print-config"]));

    let flags: Vec<_> = others.iter().map(|(key, other)| format!("--set={key}={other}")).collect();
    let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
    flags.push("--print-config");
    assert_eq!(stdout(&nearhit(directory.path(), &[], &flags)), by_variables);

    for (key, other) in others {
        assert_eq!(value(&by_variables, key), Some(parse(other)), "{key}");
    }
}

#[test]
fn variables_need_no_quotes() {
    let directory = directory();
    let variables = [
        ("NEARHIT_UPSTREAM__URL", "redis://[::1]:7000/1"),
        ("NEARHIT_SERVER__LISTEN", r#"["127.0.0.1:0"]"#),
        ("NEARHIT_SERVER__OUTPUT_LIMIT", "4096"),
        ("NEARHIT_SERVER__DENY_COMMANDS", "[keys, flushall]"),
        ("NEARHIT_ADMIN__LISTEN", ""),
    ];
    let printed = stdout(&nearhit(directory.path(), &variables, &["--print-config"]));
    assert_eq!(value(&printed, "upstream.url"), Some("redis://[::1]:7000/1".into()));
    assert_eq!(value(&printed, "server.listen"), Some(parse(r#"["127.0.0.1:0"]"#)));
    assert_eq!(value(&printed, "server.output_limit"), Some("4KiB".into()));
    assert_eq!(value(&printed, "server.deny_commands"), Some(parse(r#"["KEYS", "FLUSHALL"]"#)));
}

#[test]
fn unknown_variables_are_refused_but_not_those_of_kubernetes() {
    let directory = directory();
    for (name, meant) in [
        ("NEARHIT_UPSTREAM_URL", "did you mean NEARHIT_UPSTREAM__URL?"),
        ("NEARHIT_CACHE__TLL", "did you mean NEARHIT_CACHE__TTL?"),
        ("NEARHIT_VERBOSE", "the sections are admin,"),
        ("NEARHIT_CACHE____TTL", "[cache] has "),
    ] {
        let refusal = refusal(&nearhit(directory.path(), &[(name, "1s")], &["--check"]));
        assert!(refusal.starts_with(&format!("nearhit: {name}: ")) && refusal.contains(meant), "{refusal}");
    }
    let links =
        [("NEARHIT_PORT", "tcp://10.0.0.1:6380"), ("NEARHIT_SERVICE_HOST", "10.0.0.1"), ("NEARHITS__X", "1")];
    stdout(&nearhit(directory.path(), &links, &["--check"]));
}

#[test]
fn two_keys_at_odds_blame_the_one_that_was_set_last() {
    let directory = directory();
    let proxy_toml = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml");
    fs::copy(proxy_toml, directory.path().join("proxy.toml")).unwrap();
    for (argument, key) in [
        ("upstream.backoff_max=10ms", "upstream.backoff_max"),
        ("upstream.backoff_min=10s", "upstream.backoff_min"),
        (r#"server.listen=["127.0.0.1:6379"]"#, "server.listen"),
        ("upstream.url=redis://127.0.0.1:6380", "upstream.url"),
    ] {
        let refusal = refusal(&nearhit(directory.path(), &[], &["--set", argument]));
        assert!(refusal.starts_with(&format!("nearhit: --set: {key}: ")), "{refusal}");
    }
}

#[test]
fn check_says_which_file_it_found_to_be_right() {
    let directory = directory();
    assert_eq!(stdout(&nearhit(directory.path(), &[], &["--check"])), "configuration ok: no file\n");
    fs::write(directory.path().join("proxy.toml"), "").unwrap();
    assert_eq!(stdout(&nearhit(directory.path(), &[], &["--check"])), "configuration ok: proxy.toml\n");
    fs::write(directory.path().join("other.toml"), "").unwrap();
    let other = nearhit(directory.path(), &[], &["--check", "--config", "other.toml"]);
    assert_eq!(stdout(&other), "configuration ok: other.toml\n");
}

#[test]
fn a_named_file_must_exist() {
    let directory = directory();
    fs::write(directory.path().join("proxy.toml"), "").unwrap();
    let refusal = refusal(&nearhit(directory.path(), &[], &["--config", "absent.toml"]));
    assert_eq!(refusal, "nearhit: absent.toml: cannot be read: No such file or directory (os error 2)\n");
}

#[test]
fn a_bad_configuration_exits_with_64_and_one_line_a_problem() {
    let directory = directory();
    fs::write(directory.path().join("proxy.toml"), "[cache]\nttl = 5\n[log]\nlevel = \"loud\"\n").unwrap();
    for arguments in [&[][..], &["--check"], &["--print-config"]] {
        let refusal = refusal(&nearhit(directory.path(), &[("NEARHIT_CACHE__MODE", "maybe")], arguments));
        let lines: Vec<_> = refusal.lines().collect();
        assert_eq!(
            lines,
            [
                "nearhit: NEARHIT_CACHE__MODE: cache.mode: expected \"on\" or \"off\", found \"maybe\"",
                "nearhit: proxy.toml: cache.ttl: expected a duration with its unit, such as \"250ms\", \"30s\" or \
                 \"1h\", found 5; if seconds are meant, write \"5s\"",
                "nearhit: proxy.toml: log.level: expected \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\", \
                 found \"loud\"",
            ]
        );
    }
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let directory = directory();
    fs::write(directory.path().join("proxy.toml"), "[cache]\nttl = \"1s\"\nmode = on\n").unwrap();
    let refusal = refusal(&nearhit(directory.path(), &[], &["--check"]));
    assert!(refusal.starts_with("nearhit: proxy.toml:3: not valid TOML: "), "{refusal}");
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
}

#[test]
fn bad_flags_exit_with_64_and_questions_with_0() {
    let directory = directory();
    for arguments in
        [&["--frob"][..], &["--config"], &["--set"], &["--set", "cache.ttl"], &["--set", "=5s"], &["extra"]]
    {
        refusal(&nearhit(directory.path(), &[], arguments));
    }
    let version = stdout(&nearhit(directory.path(), &[], &["--version"]));
    assert_eq!(version, format!("nearhit {}\n", env!("CARGO_PKG_VERSION")));
    let help = stdout(&nearhit(directory.path(), &[], &["--help"]));
    for flag in ["--config", "--set", "--check", "--print-config", "--version"] {
        assert!(help.contains(flag), "{help}");
    }
}

#[test]
fn what_is_printed_is_a_file_that_gives_the_same() {
    let directory = directory();
    let variables = [("NEARHIT_UPSTREAM__URL", "redis://app:hush@h/3"), ("NEARHIT_LOG__FORMAT", "json")];
    let printed = stdout(&nearhit(directory.path(), &variables, &["--print-config"]));
    assert!(!printed.contains("hush"), "{printed}");
    fs::write(directory.path().join("proxy.toml"), &printed).unwrap();
    assert_eq!(stdout(&nearhit(directory.path(), &[], &["--print-config"])), printed);
}
