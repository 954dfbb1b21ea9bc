//! Where values come from: the layers of a configuration, and which of them a value is from.
//!
//! figment merges the layers and remembers the origin of every value. The file is parsed here rather than by
//! figment's own TOML provider, whose errors print the offending line, password and all. Each variable and
//! each flag is a layer of its own, so that a message names exactly the one at fault.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::{Config, ConfigError, Problem};

/// Where a configuration is read from. Holds flags as given, possibly with a password, and so has no `Debug`.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// The file of `--config`, which must exist. Without one, `./proxy.toml` is read if it exists.
    pub path: Option<PathBuf>,
    /// Dotted keys and values of `--set key=value`, the last layer of all.
    pub overrides: Vec<(String, String)>,
}

/// The file that is read when none is named.
const FILE: &str = "proxy.toml";

/// What variables begin with.
pub(super) const PREFIX: &str = "NEARHIT_";

/// The origin of a value that nobody set.
const DEFAULT: &str = "default";

impl LoadOptions {
    /// The file that [`Config::load`] reads; `None` if there is none to read.
    pub fn file(&self) -> Option<PathBuf> {
        // If it cannot even be told whether the file exists, reading it will say why.
        let standard = || Some(PathBuf::from(FILE)).filter(|path| path.try_exists().unwrap_or(true));
        self.path.clone().or_else(standard)
    }
}

/// All layers, merged and one by one.
pub(super) struct Sources {
    figment: Figment,
    merged: Value,
    layers: Vec<Layer>,
}

impl Sources {
    pub(super) fn gather(options: &LoadOptions) -> Result<Self, ConfigError> {
        let mut layers = Vec::new();
        if let Some(path) = options.file() {
            let values = read_file(&path).map_err(|problem| ConfigError { problems: vec![problem] })?;
            layers.push(Layer { origin: path.display().to_string(), values });
        }
        for (name, text) in variables() {
            let key = key_of(&name);
            layers.push(Layer::of_text(name, &key, &text));
        }
        for (key, text) in &options.overrides {
            layers.push(Layer::of_text("--set".to_owned(), key, text));
        }
        let defaults =
            toml::from_str(&Config::default().to_toml()).expect("the defaults are printed as TOML");
        let defaults = Figment::from(Layer { origin: DEFAULT.to_owned(), values: defaults });
        let figment = layers.iter().cloned().fold(defaults, Figment::merge);
        let merged = figment.find_value("").expect("no layer of ours fails");
        Ok(Self { figment, merged, layers })
    }

    /// What each layer but the defaults says, before any other overrode it.
    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The effective value of a dotted key, unless a layer has something else than a table for its section.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.merged.find_ref(key)
    }

    /// The file, variable or flag that `value` is from.
    pub(super) fn origin(&self, value: &Value) -> String {
        self.figment
            .get_metadata(value.tag())
            .map_or_else(|| DEFAULT.to_owned(), |from| from.name.to_string())
    }

    /// How late the layer comes that the key's value is from; 0 for a default.
    pub(super) fn rank(&self, key: &str) -> usize {
        let origin = self.value(key).map(|value| self.origin(value));
        self.layers
            .iter()
            .rposition(|layer| Some(&layer.origin) == origin.as_ref())
            .map_or(0, |index| index + 1)
    }
}

fn read_file(path: &Path) -> Result<Dict, Problem> {
    let problem = |origin: String, message: String| Problem { origin, key: None, message };
    let text = fs::read_to_string(path)
        .map_err(|why| problem(path.display().to_string(), format!("cannot be read: {why}")))?;
    toml::from_str(&text).map_err(|why| {
        // `message` alone: the error's own Display shows the line, and with it whatever secret is on it.
        let before = why.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        problem(
            format!("{}:{line}", path.display()),
            format!("not valid TOML: {}", why.message().replace('\n', "; ")),
        )
    })
}

/// The variables that are meant for us, in the order of their names.
fn variables() -> Vec<(String, String)> {
    let all =
        env::vars_os().map(|(name, text)| (name.to_string_lossy().into(), text.to_string_lossy().into()));
    let mut ours: Vec<(String, String)> =
        all.filter(|(name, _): &(String, _)| name.starts_with(PREFIX) && !is_service_link(name)).collect();
    ours.sort();
    ours
}

/// The dotted key that a variable sets.
fn key_of(variable: &str) -> String {
    variable[PREFIX.len()..].to_ascii_lowercase().replace("__", ".")
}

/// The variable that sets a dotted key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Whether Kubernetes made the variable: it tells every pod of a Service named "nearhit" by `NEARHIT_PORT`,
/// `NEARHIT_SERVICE_HOST`, `NEARHIT_PORT_6380_TCP_ADDR` and so on. All keys of ours have a double
/// underscore.
fn is_service_link(name: &str) -> bool {
    let marks = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];
    !name.contains("__") && (name.ends_with("_PORT") || marks.iter().any(|mark| name.contains(mark)))
}

/// One layer: values that all have the same origin.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) origin: String,
    pub(super) values: Dict,
}

impl Layer {
    /// A single value, in figment's notation for variables: `["a", "b"]`, `5`, `true`, `plain text`.
    fn of_text(origin: String, key: &str, text: &str) -> Self {
        let value = text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
        Self { origin, values: nest(key, value) }
    }
}

/// `a.b.c` as tables within tables. An empty part stays a part, and as such will be found to be unknown.
fn nest(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        Some((first, rest)) => Dict::from([(first.to_owned(), nest(rest, value).into())]),
        None => Dict::from([(key.to_owned(), value)]),
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_kubernetes_service_are_not_ours() {
        for name in [
            "NEARHIT_PORT",
            "NEARHIT_PORT_6380_TCP",
            "NEARHIT_PORT_6380_TCP_ADDR",
            "NEARHIT_SERVICE_HOST",
            "NEARHIT_SERVICE_PORT",
            "NEARHIT_SERVICE_PORT_REDIS",
            "NEARHIT_BLUE_SERVICE_HOST",
            "NEARHIT_BLUE_PORT_6380_TCP_PROTO",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for name in [
            "NEARHIT_UPSTREAM__URL",
            "NEARHIT_UPSTREAM_URL",
            "NEARHIT_SERVER__PORT",
            "NEARHIT_X__SERVICE_HOST",
        ] {
            assert!(!is_service_link(name), "{name}");
        }
    }
}
