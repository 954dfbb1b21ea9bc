//! What a server says about its own commands.
//!
//! The answer to `COMMAND` is the only way to learn of modules and of versions to come. It is read here from its raw
//! bytes, RESP2 or RESP3, since redis-rs has no types for it: rows have 6 or 7 elements up to Redis 6 and 10 since
//! Redis 7. Unfamiliar elements are skipped, and a row without a name is left out; only an answer that is no array of
//! arrays at all is an error. Judging what the rows mean is the table's business.

use std::borrow::Cow;

use thiserror::Error;

use super::{Access, Extent, KeySpec, Start, keys::Keys};

/// How deep an answer may nest. Redis 8 needs 7: row, subcommands, row, key specifications, one of them, its search,
/// the search's parameters.
const DEPTH_MAX: usize = 16;

/// A command as the server's `COMMAND` answer lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCommand {
    /// Its name; a subcommand's is `container|name`.
    pub name: String,
    /// Arguments including the name; if negative, at least that many.
    pub arity: i64,
    /// `write`, `readonly`, `movablekeys` ...
    pub flags: Vec<String>,
    /// The first argument that is a key, 0 if there is none.
    pub first_key: i64,
    /// The last one, a negative number counting from the end.
    pub last_key: i64,
    /// From key to key.
    pub step: i64,
    /// Empty before Redis 7.
    pub key_specs: Vec<ServerKeySpec>,
    /// Empty before Redis 7.
    pub subcommands: Vec<ServerCommand>,
}

/// A key specification of Redis 7 and later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerKeySpec {
    /// `RO`, `RW`, `OW`, `RM`, `not_key`, `incomplete`, `variable_flags` ...
    pub flags: Vec<String>,
    /// Where the keys are, unless the server itself does not know.
    pub keys: Option<(Start, Extent)>,
}

/// The answer to `COMMAND` cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the server's answer to COMMAND is malformed")]
pub struct Malformed;

impl ServerCommand {
    /// Reads the raw answer to `COMMAND`.
    pub fn parse(reply: &[u8]) -> Result<Vec<Self>, Malformed> {
        match (Parser { rest: reply }).value(DEPTH_MAX)? {
            Value::List(rows) => Ok(rows.iter().filter_map(Self::from_row).collect()),
            Value::Text(_) | Value::Integer(_) | Value::Other => Err(Malformed),
        }
    }

    fn from_row(row: &Value<'_>) -> Option<Self> {
        let element = |index: usize| row.list().get(index);
        let integer = |index: usize| element(index).map_or(0, Value::integer);
        Some(Self {
            name: element(0)?.text()?,
            arity: integer(1),
            flags: element(2).map(Value::texts).unwrap_or_default(),
            first_key: integer(3),
            last_key: integer(4),
            step: integer(5),
            key_specs: element(8)
                .iter()
                .flat_map(|specs| specs.list())
                .map(ServerKeySpec::from_value)
                .collect(),
            subcommands: element(9).iter().flat_map(|rows| rows.list()).filter_map(Self::from_row).collect(),
        })
    }

    /// Whether the server gives it this flag.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given.eq_ignore_ascii_case(flag))
    }

    /// Where its keys are, or nothing if the server does not say or may not say all.
    pub(super) fn declared_keys(&self) -> Option<Vec<KeySpec>> {
        let moves = self.has_flag("movablekeys");
        if self.key_specs.is_empty() {
            return if moves { None } else { self.legacy_keys() };
        }
        let mut specs = Vec::new();
        for spec in self.key_specs.iter().filter(|spec| !spec.has_flag("not_key")) {
            // A module that finds its keys by a function of its own is marked by variable flags and movable keys.
            if spec.has_flag("incomplete") || (moves && spec.has_flag("variable_flags")) {
                return None;
            }
            let (start, extent) = spec.keys.clone()?;
            let access = if spec.writes() { Access::Write } else { Access::Read };
            specs.push(KeySpec { start, extent, access });
        }
        // Keys that move, by specifications that do not, are not all of them.
        let fixed =
            |spec: &KeySpec| matches!((&spec.start, spec.extent), (Start::At(_), Extent::Range { .. }));
        if moves && specs.iter().all(fixed) { None } else { Some(specs) }
    }

    /// First, last and step, all that Redis 6 tells; whether keys are written is in the command's flags alone.
    fn legacy_keys(&self) -> Option<Vec<KeySpec>> {
        if self.first_key <= 0 {
            return Some(Vec::new());
        }
        let start = usize::try_from(self.first_key).ok()?;
        let last = if self.last_key < 0 { self.last_key } else { self.last_key - self.first_key };
        if self.last_key >= 0 && last < 0 {
            return None;
        }
        let step = usize::try_from(self.step).unwrap_or(1).max(1);
        let access = if self.has_flag("write") { Access::Write } else { Access::Read };
        Some(vec![KeySpec {
            start: Start::At(start),
            extent: Extent::Range { last, step, limit: 0 },
            access,
        }])
    }
}

impl ServerKeySpec {
    fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given.eq_ignore_ascii_case(flag))
    }

    /// Whether the keys may change: anything but a plain read.
    fn writes(&self) -> bool {
        !self.has_flag("RO") || ["insert", "update", "delete"].iter().any(|flag| self.has_flag(flag))
    }

    fn from_value(value: &Value<'_>) -> Self {
        let flags = value.field("flags").map(Value::texts).unwrap_or_default();
        let start = value.field("begin_search").and_then(start);
        let extent = value.field("find_keys").and_then(extent);
        Self { flags, keys: start.zip(extent) }
    }
}

fn start(search: &Value<'_>) -> Option<Start> {
    let spec = search.field("spec")?;
    match search.field("type")?.text()?.as_str() {
        "index" => Some(Start::At(spec.count("index")?)),
        "keyword" => Some(Start::After {
            word: Cow::Owned(spec.field("keyword")?.text()?.into_bytes()),
            from: spec.field("startfrom")?.integer(),
        }),
        _ => None,
    }
}

fn extent(find: &Value<'_>) -> Option<Extent> {
    let spec = find.field("spec")?;
    match find.field("type")?.text()?.as_str() {
        "range" => Some(Extent::Range {
            last: spec.field("lastkey")?.integer(),
            step: spec.count("keystep")?,
            limit: spec.count("limit")?,
        }),
        "keynum" => Some(Extent::Count {
            number: spec.count("keynumidx")?,
            first: spec.count("firstkey")?,
            step: spec.count("keystep")?,
        }),
        _ => None,
    }
}

impl From<Vec<KeySpec>> for Keys {
    /// The shapes that need no interpreting are recognized.
    fn from(specs: Vec<KeySpec>) -> Self {
        match specs[..] {
            [] => Self::None,
            [KeySpec { start: Start::At(1), extent: Extent::Range { last: 0, .. }, access }] => {
                Self::First(access)
            }
            [
                KeySpec {
                    start: Start::At(1),
                    extent: Extent::Range { last: -1, step: 1, limit: 0 | 1 },
                    access,
                },
            ] => Self::Every(access),
            _ => Self::Specs(Cow::Owned(specs)),
        }
    }
}

/// As much of a reply's structure as matters here. Maps are lists of keys and values, as RESP2 has them.
enum Value<'a> {
    Text(&'a [u8]),
    Integer(i64),
    List(Vec<Value<'a>>),
    Other,
}

impl<'a> Value<'a> {
    fn list(&self) -> &[Self] {
        if let Self::List(values) = self { values } else { &[] }
    }

    fn integer(&self) -> i64 {
        if let Self::Integer(number) = self { *number } else { 0 }
    }

    fn text(&self) -> Option<String> {
        if let Self::Text(text) = self { Some(String::from_utf8_lossy(text).into_owned()) } else { None }
    }

    fn texts(&self) -> Vec<String> {
        self.list().iter().filter_map(Self::text).collect()
    }

    fn field(&self, name: &str) -> Option<&Value<'a>> {
        let mut pairs = self.list().chunks_exact(2);
        pairs.find(|pair| matches!(pair[0], Self::Text(text) if text == name.as_bytes())).map(|pair| &pair[1])
    }

    fn count(&self, name: &str) -> Option<usize> {
        usize::try_from(self.field(name)?.integer()).ok()
    }
}

/// A reader of complete replies. `resp::scan` finds where replies end; this one looks inside, once an upstream.
struct Parser<'a> {
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        let line = self.line()?;
        let (kind, line) = line.split_first().ok_or(Malformed)?;
        match kind {
            b'+' => Ok(Value::Text(line)),
            b':' => number(line).map(Value::Integer),
            b'$' => match usize::try_from(number(line)?) {
                Ok(len) => self.bulk(len),
                Err(_) => Ok(Value::Other),
            },
            b'*' | b'~' | b'>' | b'%' => {
                let values = number(line)?.saturating_mul(if *kind == b'%' { 2 } else { 1 });
                // Each takes at least three bytes, so that a lying length ends soon and reserves nothing.
                (0..values).map(|_| self.value(depth)).collect::<Result<_, _>>().map(Value::List)
            }
            b'_' | b'#' | b',' | b'(' => Ok(Value::Other),
            _ => Err(Malformed),
        }
    }

    fn line(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(b'\n', self.rest).ok_or(Malformed)?;
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        line.strip_suffix(b"\r\n").ok_or(Malformed)
    }

    fn bulk(&mut self, len: usize) -> Result<Value<'a>, Malformed> {
        let text = self.rest.get(..len).ok_or(Malformed)?;
        self.rest = self.rest[len..].strip_prefix(b"\r\n").ok_or(Malformed)?;
        Ok(Value::Text(text))
    }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer of Redis 7 for one command, in the shape of either protocol.
    fn seven(map: &str, set: &str) -> String {
        let fields = |count: usize| format!("{map}{}\r\n", if map == "*" { 2 * count } else { count });
        format!(
            "*1\r\n*10\r\n$4\r\nzadd\r\n:-4\r\n{set}2\r\n+write\r\n+movablekeys\r\n:1\r\n:-1\r\n:2\r\n{set}0\r\n{set}0\r\n*2\r\n\
             {}$5\r\nflags\r\n{set}1\r\n+RW\r\n$12\r\nbegin_search\r\n{}$4\r\ntype\r\n$7\r\nkeyword\r\n$4\r\nspec\r\n{}$7\r\nkeyword\r\n$4\r\nKEYS\r\n$9\r\nstartfrom\r\n:-2\r\n\
             $9\r\nfind_keys\r\n{}$4\r\ntype\r\n$6\r\nkeynum\r\n$4\r\nspec\r\n{}$9\r\nkeynumidx\r\n:0\r\n$8\r\nfirstkey\r\n:1\r\n$7\r\nkeystep\r\n:2\r\n\
             {}$5\r\nflags\r\n{set}1\r\n+OW\r\n$12\r\nbegin_search\r\n{}$4\r\ntype\r\n$7\r\nunknown\r\n$4\r\nspec\r\n{}$9\r\nfind_keys\r\n{}$4\r\ntype\r\n$7\r\nunknown\r\n$4\r\nspec\r\n{}\
             *1\r\n*10\r\n$8\r\nzadd|sub\r\n:2\r\n{set}0\r\n:0\r\n:0\r\n:0\r\n{set}0\r\n{set}0\r\n{set}0\r\n*0\r\n",
            fields(3),
            fields(2),
            fields(2),
            fields(2),
            fields(3),
            fields(3),
            fields(2),
            fields(0),
            fields(2),
            fields(0),
        )
    }

    #[test]
    fn redis_7_in_either_protocol() {
        let start = Start::After { word: Cow::Borrowed(b"KEYS"), from: -2 };
        let extent = Extent::Count { number: 0, first: 1, step: 2 };
        let expected = ServerCommand {
            name: "zadd".to_owned(),
            arity: -4,
            flags: vec!["write".to_owned(), "movablekeys".to_owned()],
            first_key: 1,
            last_key: -1,
            step: 2,
            key_specs: vec![
                ServerKeySpec { flags: vec!["RW".to_owned()], keys: Some((start, extent)) },
                ServerKeySpec { flags: vec!["OW".to_owned()], keys: None },
            ],
            subcommands: vec![ServerCommand {
                name: "zadd|sub".to_owned(),
                arity: 2,
                ..ServerCommand::default()
            }],
        };
        for (map, set) in [("*", "*"), ("%", "~")] {
            assert_eq!(ServerCommand::parse(seven(map, set).as_bytes()), Ok(vec![expected.clone()]));
        }
    }

    #[test]
    fn redis_6_has_shorter_rows() {
        let reply =
            b"*2\r\n*7\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n*1\r\n+@read\r\n*-1\r\n";
        let rows = ServerCommand::parse(reply).unwrap();
        assert_eq!(rows.len(), 1, "a null row is left out");
        assert_eq!((rows[0].name.as_str(), rows[0].first_key), ("get", 1));
        assert!(rows[0].has_flag("READONLY") && !rows[0].has_flag("write"));
    }

    #[test]
    fn what_is_no_answer_to_command_is_malformed() {
        let deep = "*1\r\n".repeat(100_000);
        for reply in [
            "",
            "-ERR no\r\n",
            "$2\r\nok\r\n",
            "*1\r\n",
            "*1\r\n$9\r\nx\r\n",
            "*x\r\n",
            "*1\n",
            ":1\r\n",
            deep.as_str(),
        ] {
            assert_eq!(ServerCommand::parse(reply.as_bytes()), Err(Malformed), "{reply:.20}");
        }
        assert_eq!(
            ServerCommand::parse(b"*999999999999\r\n:1\r\n"),
            Err(Malformed),
            "and nothing was reserved for it"
        );
    }

    proptest! {
        #[test]
        fn no_cut_or_changed_answer_panics(cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut reply = seven("%", "~").into_bytes();
            let end = cut.index(reply.len());
            prop_assert_eq!(ServerCommand::parse(&reply[..end]), Err(Malformed));
            let at = at.index(reply.len());
            reply[at] = byte;
            let _ = ServerCommand::parse(&reply);
        }
    }
}
