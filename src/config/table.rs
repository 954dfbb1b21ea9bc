//! The table of keys: each key once, with its field and its notation.
//!
//! Reading, printing and the check for unknown keys all walk this one table, so that no key can be printed
//! but not read, or read but not known. [`later`] is the list of what this version does not do yet; a feature
//! that lands deletes its lines there and gets a field and a row in [`rows`] instead. Nothing here knows
//! where values come from.

use std::{fmt::Write, time::Duration};

use super::{
    AuthMode, CANARY_KEY_BYTES_MAX, CacheMode, Config, Eviction, LogFormat, LogLevel, Scripts, TrackingMode,
    notation::{
        CommandName, Count, List, Listen, Notation, OneOf, Optional, OptionalKey, SecretUrl, Share, Size,
        Switch, Tables, Text, Time,
    },
};

/// What is done with each row of the table.
pub(super) trait Walk {
    /// A key, the field that holds its value and the way it is written.
    fn row<T>(&mut self, key: &'static str, field: &mut T, notation: impl Notation<T>);

    /// Makes the value of `key` a problem.
    fn refuse(&mut self, key: &'static str, why: String);

    /// Whether what was written for `key`, or an item of it, begins with `beginning`, in whichever case.
    fn is_written(&self, key: &'static str, beginning: &str) -> bool;

    /// A key that may only be what it is by default, `off`, until `feature` is there.
    fn off<T: Clone + PartialEq>(
        &mut self,
        key: &'static str,
        off: T,
        notation: impl Notation<T>,
        feature: &str,
    ) {
        let default = notation.print(&off);
        let mut value = off.clone();
        self.row(key, &mut value, notation);
        if value != off {
            self.refuse(
                key,
                format!("{feature} comes with a later version; until then only {default} is accepted"),
            );
        }
    }

    /// A value, given by how it begins, that an existing key cannot have until `feature` is there.
    fn without(&mut self, key: &'static str, beginning: &str, feature: &str) {
        if self.is_written(key, beginning) {
            self.refuse(key, format!("{beginning} ({feature}) comes with a later version"));
        }
    }
}

/// Every key of this version.
pub(super) fn rows(config: &mut Config, walk: &mut impl Walk) {
    let Config { server, auth, upstream, cache, coherence, tracking, audit, admin, log } = config;
    let commands = || List { item: CommandName, min: 0 };

    walk.row("server.listen", &mut server.listen, List { item: Listen, min: 1 });
    walk.row("server.workers", &mut server.workers, Count { min: 0 });
    walk.row("server.max_clients", &mut server.max_clients, Count { min: 1 });
    walk.row("server.idle_timeout", &mut server.idle_timeout, Time::ANY);
    walk.row("server.drain_timeout", &mut server.drain_timeout, Time::ANY);
    walk.row("server.output_limit", &mut server.output_limit, Size { min: 1 });
    walk.row("server.max_request", &mut server.max_request, Size { min: 1 });
    walk.row("server.max_pipeline", &mut server.max_pipeline, Count { min: 1 });
    walk.row("server.deny_commands", &mut server.deny_commands, commands());
    walk.row("server.allow_public_without_auth", &mut server.allow_public_without_auth, Switch);
    walk.row("server.tls.cert", &mut server.tls.cert, Optional);
    walk.row("server.tls.key", &mut server.tls.key, Optional);
    walk.row("server.tls.client_ca", &mut server.tls.client_ca, Optional);

    walk.row(
        "auth.mode",
        &mut auth.mode,
        OneOf(&[("upstream", AuthMode::Upstream), ("none", AuthMode::None)]),
    );

    walk.row("upstream.url", &mut upstream.url, SecretUrl);
    walk.row("upstream.password_file", &mut upstream.password_file, Optional);
    walk.row("upstream.lanes", &mut upstream.lanes, Count { min: 1 });
    walk.row("upstream.max_connections", &mut upstream.max_connections, Count { min: 1 });
    walk.row("upstream.max_blocking", &mut upstream.max_blocking, Count { min: 1 });
    walk.row("upstream.max_subscribed", &mut upstream.max_subscribed, Count { min: 1 });
    walk.row("upstream.connect_timeout", &mut upstream.connect_timeout, Time::POSITIVE);
    walk.row("upstream.dial_timeout", &mut upstream.dial_timeout, Time::POSITIVE);
    walk.row("upstream.command_timeout", &mut upstream.command_timeout, Time::POSITIVE);
    // The kernel counts it in whole seconds.
    walk.row("upstream.keepalive", &mut upstream.keepalive, Time { min: Duration::from_secs(1) });
    walk.row("upstream.health_check_interval", &mut upstream.health_check_interval, Time::POSITIVE);
    walk.row("upstream.retry_reads", &mut upstream.retry_reads, Switch);
    walk.row("upstream.backoff_min", &mut upstream.backoff_min, Time::POSITIVE);
    walk.row("upstream.backoff_max", &mut upstream.backoff_max, Time::POSITIVE);
    walk.row("upstream.tls.ca", &mut upstream.tls.ca, Optional);
    walk.row("upstream.tls.cert", &mut upstream.tls.cert, Optional);
    walk.row("upstream.tls.key", &mut upstream.tls.key, Optional);
    walk.row("upstream.tls.server_name", &mut upstream.tls.server_name, Optional);

    walk.row("cache.mode", &mut cache.mode, OneOf(&[("on", CacheMode::On), ("off", CacheMode::Off)]));
    walk.row("cache.max_entries", &mut cache.max_entries, Count { min: 0 });
    walk.row("cache.max_memory", &mut cache.max_memory, Size { min: 0 });
    walk.row("cache.ttl", &mut cache.ttl, Time::POSITIVE);
    walk.row("cache.max_value_size", &mut cache.max_value_size, Size { min: 1 });
    let words = &[("s3-fifo", Eviction::S3Fifo), ("lru", Eviction::Lru)];
    walk.row("cache.eviction", &mut cache.eviction, OneOf(words));
    walk.row("cache.max_staleness", &mut cache.max_staleness, Time::POSITIVE);
    walk.row("cache.touch_interval", &mut cache.touch_interval, Time::ANY);
    walk.row("cache.cacheable_reads", &mut cache.cacheable_reads, commands());

    let words = &[("fence", Scripts::Fence), ("declared", Scripts::Declared)];
    walk.row("coherence.scripts", &mut coherence.scripts, OneOf(words));
    walk.row("coherence.order_messages", &mut coherence.order_messages, Switch);
    walk.row("coherence.fence_timeout", &mut coherence.fence_timeout, Time::POSITIVE);

    let words = &[("broadcast", TrackingMode::Broadcast), ("off", TrackingMode::Off)];
    walk.row("tracking.mode", &mut tracking.mode, OneOf(words));
    let prefix = Text("the beginning of a key, such as \"session:\" (for all keys, leave the list empty)");
    walk.row("tracking.prefixes", &mut tracking.prefixes, List { item: prefix, min: 0 });

    walk.row("audit.sample", &mut audit.sample, Share);
    let key = OptionalKey { bytes_max: CANARY_KEY_BYTES_MAX };
    walk.row("audit.canary_key", &mut audit.canary_key, key);

    let user = Text("the name of a user, such as \"operator\"");
    walk.row("admin.proxy_users", &mut admin.proxy_users, List { item: user, min: 0 });

    let words = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    walk.row("log.level", &mut log.level, OneOf(words));
    walk.row("log.format", &mut log.format, OneOf(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
}

/// What this version refuses because the feature is not there yet.
pub(super) fn later(walk: &mut impl Walk) {
    const NONE: Option<String> = None;

    walk.without("cache.mode", "shadow", "measuring what a cache would have saved");
    walk.off("cache.serve_stale", Duration::ZERO, Time::ANY, "serving entries after the upstream is lost");
    walk.off("cache.rule", 0, Tables, "a rule of its own for some keys");
    walk.without("tracking.mode", "per-key", "being told of just the keys that are cached");
    walk.without("tracking.mode", "auto", "choosing the way of tracking by itself");

    walk.off("admin.listen", NONE, Optional, "the HTTP listener");
}

/// See [`Config::to_toml`].
pub(super) fn to_toml(config: &Config) -> String {
    let mut config = config.clone();
    // The password of a file belongs to the file: printed in the URL too, it would be there twice.
    if config.upstream.password_file.is_some() {
        config.upstream.url.password = None;
    }
    let mut sections = Sections::default();
    rows(&mut config, &mut sections);
    later(&mut sections);
    sections.to_toml()
}

/// The table as printed: sections in the order of their first key, each with its lines.
#[derive(Default)]
struct Sections(Vec<(&'static str, String)>);

impl Sections {
    fn to_toml(&self) -> String {
        let sections: Vec<_> = self.0.iter().map(|(name, lines)| format!("[{name}]\n{lines}")).collect();
        sections.join("\n")
    }
}

impl Walk for Sections {
    fn row<T>(&mut self, key: &'static str, field: &mut T, notation: impl Notation<T>) {
        let (section, name) = key.split_once('.').expect("every key of the table is in a section");
        let index = self.0.iter().position(|(known, _)| *known == section).unwrap_or_else(|| {
            self.0.push((section, String::new()));
            self.0.len() - 1
        });
        writeln!(self.0[index].1, "{name} = {}", notation.print(field))
            .expect("a String takes all that is written");
    }

    fn refuse(&mut self, _: &'static str, _: String) {}

    fn is_written(&self, _: &'static str, _: &str) -> bool {
        false
    }
}
