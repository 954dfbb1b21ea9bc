//! What a workload in Rust saw, one line a thing.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use redis::{FromRedisValue, RedisError, RedisResult, Value};

/// Longer values stand there as their length and a hash.
const SHOWN_MAX: usize = 300;

/// Collects lines, each with the step that it belongs to.
#[derive(Default)]
pub(crate) struct Transcript {
    round: usize,
    step: &'static str,
    lines: Vec<String>,
}

impl Transcript {
    pub(crate) fn round(&mut self, round: usize) {
        self.round = round;
    }

    pub(crate) fn step(&mut self, name: &'static str) {
        self.step = name;
    }

    /// A reply or an error as the client made it of the bytes that came.
    pub(crate) fn say(&mut self, what: &str, result: RedisResult<Value>) {
        let shown = result.map_or_else(|error| error_shown(&error), |value| shown(&value));
        self.line(what, &shown);
    }

    /// Anything that is not a reply as it came.
    pub(crate) fn note(&mut self, what: &str, value: impl std::fmt::Debug) {
        self.line(what, &format!("{value:?}"));
    }

    /// A reply that must be there and of its type, since the workload goes on with it.
    #[track_caller]
    pub(crate) fn take<T: FromRedisValue>(&self, what: &str, result: RedisResult<T>) -> T {
        result.unwrap_or_else(|error| panic!("{}/{what}: {}", self.step, error_shown(&error)))
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines
    }

    fn line(&mut self, what: &str, shown: &str) {
        let mut line = format!("{}/{}/{what}: ", self.round, self.step);
        if shown.len() <= SHOWN_MAX {
            line += shown;
        } else {
            let mut hasher = DefaultHasher::new();
            shown.hash(&mut hasher);
            write!(line, "<{} bytes, {:x}>", shown.len(), hasher.finish())
                .expect("a string takes everything");
        }
        self.lines.push(line);
    }
}

/// A reply without the order of what has none.
fn shown(value: &Value) -> String {
    match value {
        Value::Map(pairs) => {
            let mut pairs: Vec<String> =
                pairs.iter().map(|(key, value)| format!("{}: {}", shown(key), shown(value))).collect();
            pairs.sort();
            format!("map({})", pairs.join(", "))
        }
        Value::Set(members) => {
            let mut members: Vec<String> = members.iter().map(shown).collect();
            members.sort();
            format!("set({})", members.join(", "))
        }
        Value::Array(items) => {
            format!("array({})", items.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    }
}

/// The kind, which programs decide on, and the words, which people read.
fn error_shown(error: &RedisError) -> String {
    format!("{:?} {:?}: {error}", error.kind(), error.code())
}
