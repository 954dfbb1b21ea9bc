//! What the workload saw, one line a thing.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use fred::prelude::*;

/// Longer values stand there as their length and a hash.
const SHOWN_MAX: usize = 300;

pub(crate) struct Transcript {
    step: String,
}

impl Transcript {
    pub(crate) fn new(step: String) -> Self {
        Self { step }
    }

    /// A reply or an error as fred made it of the bytes that came.
    pub(crate) fn say(&mut self, what: &str, result: Result<Value, Error>) {
        self.line(what, &result.map_or_else(|error| error_shown(&error), |value| shown(&value)));
    }

    /// A reply without an order.
    pub(crate) fn say_sorted(&mut self, what: &str, result: Result<Value, Error>) {
        let sorted = result.map(|value| {
            let mut members: Vec<String> = value.into_array().iter().map(shown).collect();
            members.sort();
            members.join(", ")
        });
        self.line(what, &sorted.unwrap_or_else(|error| error_shown(&error)));
    }

    /// Anything that is not a reply as it came.
    pub(crate) fn note(&mut self, what: &str, value: impl std::fmt::Debug) {
        self.line(what, &format!("{value:?}"));
    }

    fn line(&mut self, what: &str, shown: &str) {
        let mut line = format!("{}/{what}: ", self.step);
        if shown.len() <= SHOWN_MAX {
            line += shown;
        } else {
            let mut hasher = DefaultHasher::new();
            shown.hash(&mut hasher);
            write!(line, "<{} bytes, {:x}>", shown.len(), hasher.finish())
                .expect("a string takes everything");
        }
        println!("{line}");
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Map(map) => {
            let mut pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{:?}: {}", key.as_bytes(), shown(value))).collect();
            pairs.sort();
            format!("map({})", pairs.join(", "))
        }
        Value::Array(items) => format!("array({})", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => format!("{other:?}"),
    }
}

/// The kind, which programs decide on, and the words, which people read.
pub(crate) fn error_shown(error: &Error) -> String {
    format!("{:?}: {}", error.kind(), error.details())
}
