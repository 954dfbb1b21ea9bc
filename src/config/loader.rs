//! From layers to a valid [`Config`]: reads each key of the table and gathers every problem on the way.
//!
//! A key that has a problem keeps its default, so that the rest can still be checked; with any problem at all
//! no configuration comes out. Checks of two keys against each other are at the end, and are left out where
//! one of the two is wrong already: its default would accuse the other.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use figment::value::{Dict, Value};

use super::{
    AuthMode, Config, ConfigError, Endpoint, LoadOptions, Problem, Secret, cores,
    notation::Notation,
    sources::{PREFIX, Sources, variable_of},
    table::{self, Walk},
};

/// Bytes of a password's file at most: tokens of some kilobytes serve as passwords, and the operator may have
/// named the wrong file.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// Letters by which a key may differ from the one that was meant: a slip or two, or single underscores for
/// the double ones of a variable.
const SLIPS_MAX: usize = 2;

pub(super) fn load(options: &LoadOptions) -> Result<Config, ConfigError> {
    let sources = Sources::gather(options)?;
    let mut loader = Loader { sources: &sources, known: Vec::new(), problems: Vec::new() };
    let mut config = Config::default();
    // What comes later goes first: its message says more than "expected one of" would.
    table::later(&mut loader);
    table::rows(&mut config, &mut loader);
    // Layer by layer, since what one layer has in place of a section may be overridden by the next.
    for layer in sources.layers() {
        loader.refuse_unknown(&layer.origin, "", &layer.values);
    }
    loader.read_password(&mut config);
    loader.check_certificates(&config);
    loader.check_together(&config);
    if config.server.workers == 0 {
        config.server.workers = cores();
    }
    if loader.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: loader.problems }) }
}

struct Loader<'a> {
    sources: &'a Sources,
    /// The keys of the table, as they were asked for.
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl Walk for Loader<'_> {
    fn row<T>(&mut self, key: &'static str, field: &mut T, notation: impl Notation<T>) {
        self.known.push(key);
        if self.is_refused(key) {
            return;
        }
        if let Some(value) = self.sources.value(key) {
            match notation.read(value) {
                Ok(read) => *field = read,
                Err(why) => self.refuse(key, why),
            }
        }
    }

    fn refuse(&mut self, key: &'static str, message: String) {
        let origin = self.sources.value(key).map(|value| self.sources.origin(value)).unwrap_or_default();
        self.problems.push(Problem { origin, key: Some(key.to_owned()), message });
    }

    fn is_written(&self, key: &'static str, beginning: &str) -> bool {
        let begins = |value: &Value| {
            let start = value.as_str().and_then(|text| text.get(..beginning.len()));
            start.is_some_and(|start| start.eq_ignore_ascii_case(beginning))
        };
        self.sources.value(key).is_some_and(|value| match value {
            Value::Array(_, items) => items.iter().any(begins),
            value => begins(value),
        })
    }
}

impl Loader<'_> {
    fn is_refused(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key.as_deref() == Some(key))
    }

    fn is_section_refused(&self, beginning: &str) -> bool {
        let keys = self.problems.iter().filter_map(|problem| problem.key.as_ref());
        keys.into_iter().any(|key| key.starts_with(beginning))
    }

    /// Makes a problem of every value under `path` that no key of the table asks for.
    fn refuse_unknown(&mut self, origin: &str, path: &str, values: &Dict) {
        for (name, value) in values {
            // A dot within a name was quoted in the file: it is no level.
            let name = if name.contains('.') { format!("{name:?}") } else { name.clone() };
            let key = if path.is_empty() { name } else { format!("{path}.{name}") };
            let inside = format!("{key}.");
            let is_key = self.known.contains(&key.as_str());
            let is_section = self.known.iter().any(|known| known.starts_with(&inside));
            let message = match value {
                _ if is_key => continue,
                Value::Dict(_, values) if is_section => {
                    self.refuse_unknown(origin, &key, values);
                    continue;
                }
                _ if is_section => format!("expected a table with {}", self.names(&inside)),
                _ => format!("unknown key; {}", self.suggestion(origin, &key)),
            };
            self.problems.push(Problem { origin: origin.to_owned(), key: Some(key), message });
        }
    }

    /// What the writer of an unknown key may have meant.
    fn suggestion(&self, origin: &str, key: &str) -> String {
        let distance = |known: &str| strsim::osa_distance(known, key);
        let near = self.known.iter().copied().min_by_key(|known| distance(known));
        // Else the right name in the wrong section.
        let name = |key: &str| key.rsplit('.').next().map(str::to_owned);
        let elsewhere = || self.known.iter().copied().find(|known| name(known) == name(key));
        match near.filter(|near| distance(near) <= SLIPS_MAX).or_else(elsewhere) {
            Some(meant) if origin.starts_with(PREFIX) => format!("did you mean {}?", variable_of(meant)),
            Some(meant) => format!("did you mean {meant}?"),
            None => self.contents(key.split_once('.').map_or("", |(section, _)| section)),
        }
    }

    /// What there is in a section, or which sections there are if there is no such.
    fn contents(&self, section: &str) -> String {
        match self.names(&format!("{section}.")) {
            names if names.is_empty() => format!("the sections are {}", self.names("")),
            names => format!("[{section}] has {names}"),
        }
    }

    /// The names that may follow `inside`, which is empty or ends with a dot.
    fn names(&self, inside: &str) -> String {
        let mut names: Vec<&str> = self.known.iter().filter_map(|key| key.strip_prefix(inside)).collect();
        if inside.is_empty() {
            names = names.iter().filter_map(|key| key.split('.').next()).collect();
        }
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }

    /// Puts the password of `upstream.password_file` where one from the URL would be.
    fn read_password(&mut self, config: &mut Config) {
        let Some(path) = &config.upstream.password_file else { return };
        let url = &mut config.upstream.url;
        // No message shows the path: an operator who misunderstood wrote the password itself there.
        let why = match password_of(path) {
            _ if url.password.is_some() => {
                "upstream.url has a password too; give it in one place only".into()
            }
            Ok(password) if password.is_empty() => "the file is empty; it should hold the password".into(),
            Ok(password) => {
                url.password = Some(Secret::new(password));
                return;
            }
            Err(why) => format!("the file cannot be read: {why}"),
        };
        self.refuse("upstream.password_file", why);
    }

    /// Reads certificates and keys, as they are going to be read.
    fn check_certificates(&mut self, config: &Config) {
        let Config { server, upstream, .. } = config;
        if let (false, Err(problem)) = (self.is_section_refused("server.tls."), server.tls.read()) {
            self.refuse(problem.key, problem.reason);
        }
        if self.is_section_refused("upstream.tls.") || self.is_refused("upstream.url") {
            return;
        }
        match (&upstream.url.endpoint, upstream.tls.any()) {
            (Endpoint::Tls { host, .. }, _) => {
                let problems = [upstream.tls.read().err(), upstream.tls.name(host).err()];
                problems.into_iter().flatten().for_each(|problem| self.refuse(problem.key, problem.reason));
            }
            (Endpoint::Tcp { .. } | Endpoint::Unix(_), Some(key)) => {
                let why = format!("{key} is set, but TLS is spoken only to a rediss:// URL");
                self.refuse_together(&[key, "upstream.url"], &why);
            }
            (Endpoint::Tcp { .. } | Endpoint::Unix(_), None) => {}
        }
    }

    /// Values that are each right, and wrong together.
    fn check_together(&mut self, config: &Config) {
        let Config { server, auth, upstream, cache, tracking, audit, .. } = config;

        if upstream.backoff_min > upstream.backoff_max {
            let (min, max) = (upstream.backoff_min, upstream.backoff_max);
            let why =
                format!("upstream.backoff_min, {min:?}, must not be above upstream.backoff_max, {max:?}");
            self.refuse_together(&["upstream.backoff_min", "upstream.backoff_max"], &why);
        }
        if cache.max_entries == 0 && cache.max_memory == 0 {
            let why = "cache.max_entries and cache.max_memory are both 0; one of them must bound the cache";
            self.refuse_together(&["cache.max_memory", "cache.max_entries"], why);
        }
        if upstream.url.user.is_some() && upstream.url.password.is_none() {
            let why = "the URL has a user without a password; add it, or set upstream.password_file (a user \
                       with `nopass` takes any)";
            self.refuse_together(&["upstream.password_file", "upstream.url"], why);
        }
        if let Some(own) = server.listen.iter().find(|listen| listen.is_reached_by(&upstream.url)) {
            let why = format!("the upstream is {own}, the proxy's own listener; give the server's address");
            self.refuse_together(&["server.listen", "upstream.url"], &why);
        }
        let public = server.listen.iter().find(|listen| !listen.is_local());
        if let Some(public) =
            public.filter(|_| auth.mode == AuthMode::None && !server.allow_public_without_auth)
        {
            let why = format!(
                "with auth.mode = \"none\", {public} would let anyone who reaches it act as the user of \
                 upstream.url; listen on loopback or a Unix socket, or set server.allow_public_without_auth = true if it is meant"
            );
            self.refuse_together(&["auth.mode", "server.listen"], &why);
        }
        if let Some((outer, inner)) = overlap(&tracking.prefixes) {
            let why = format!(
                "{inner:?} begins with {outer:?}, which the server refuses; leave the longer one out"
            );
            self.refuse_together(&["tracking.prefixes"], &why);
        }
        if let (Some(key), Some(first)) = (&audit.canary_key, tracking.prefixes.first())
            && !tracking.prefixes.iter().any(|prefix| key.starts_with(prefix))
        {
            let why = format!(
                "audit.canary_key, {key:?}, begins with none of tracking.prefixes, so the server announces no \
                 change of it; begin it with {first:?}, say"
            );
            self.refuse_together(&["tracking.prefixes", "audit.canary_key"], &why);
        }
    }

    /// Blames the one of `keys` that was set last (among equals, the last) unless one is a problem itself.
    fn refuse_together(&mut self, keys: &[&'static str], why: &str) {
        if keys.iter().any(|key| self.is_refused(key)) {
            return;
        }
        if let Some(key) = keys.iter().max_by_key(|key| self.sources.rank(key)) {
            self.refuse(key, why.to_owned());
        }
    }
}

/// The contents of a password's file without the newline that editors put at the end.
fn password_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {PASSWORD_BYTES_MAX} bytes")));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// Two prefixes of which the first is the beginning of the second: the server refuses to track both.
fn overlap(prefixes: &[String]) -> Option<(&str, &str)> {
    let pairs =
        prefixes.iter().flat_map(|outer| prefixes.iter().map(move |inner| (outer.as_str(), inner.as_str())));
    pairs.into_iter().find(|(outer, inner)| outer != inner && inner.starts_with(outer))
}
