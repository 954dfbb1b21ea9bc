//! Versions of keys of every type: how one is written, in one atomic step, and what each reading command tells of it.
//!
//! A version's number is all there is in a key: it is the string, each field of the hash, the only element of the list,
//! the only member of the set, the score in the sorted set. So every reply tells which version it shows, whatever
//! part it shows; a reply with two numbers is torn. The database is in the number too, since an invalidation does not
//! name one: what is shown of a key of the same name in another database is found out.

use std::time::Duration;

use fastrand::Rng;

use crate::common::resp::{children, payload};
use crate::history::generator::words;
use crate::history::recorder::{NOTHING, SOMETHING, Value, Written};

/// More versions than a key has in its life.
pub(crate) const VERSIONS_MAX: Value = 2_000;
/// The string of version 0 of database 0 is so long: STRLEN tells the version.
const LENGTH_MIN: u64 = 64;
/// Strings and hashes have two questions for all, and then so many that tell a version.
const RARE: usize = 3;
const FIELDS: [&str; 3] = ["a", "b", "c"];
const MEMBER: &str = "m";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    #[default]
    Text,
    Number,
    Hash,
    List,
    Set,
    Sorted,
}

impl Shape {
    pub(crate) const ALL: [Self; 6] =
        [Self::Text, Self::Number, Self::Hash, Self::List, Self::Set, Self::Sorted];
}

/// A key of one database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) database: u8,
    pub(crate) shape: Shape,
}

/// What is sent to write a version. The last request makes it, at one moment; those before are its preparation.
pub(crate) struct Change {
    pub(crate) command: &'static str,
    pub(crate) requests: Vec<Vec<Vec<u8>>>,
    pub(crate) removes: bool,
}

/// A reading command, and how its reply is to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) command: &'static str,
    words: &'static [&'static str],
    tells: Tells,
}

#[derive(Clone, Copy, Debug)]
enum Tells {
    /// The whole string.
    Text,
    /// Its length.
    Length,
    /// Numbers, among names.
    Numbers,
    /// That there is something, or not.
    Presence,
}

const fn ask(command: &'static str, words: &'static [&'static str], tells: Tells) -> Question {
    Question { command, words, tells }
}

const EXISTS: Question = ask("exists", &["EXISTS", "KEY"], Tells::Presence);
const TYPE: Question = ask("type", &["TYPE", "KEY"], Tells::Presence);

const OF_TEXT: &[Question] = &[
    ask("get", &["GET", "KEY"], Tells::Text),
    ask("strlen", &["STRLEN", "KEY"], Tells::Length),
    ask("getrange", &["GETRANGE", "KEY", "0", "-1"], Tells::Text),
    ask("mget", &["MGET", "KEY"], Tells::Text),
    ask("substr", &["SUBSTR", "KEY", "0", "-1"], Tells::Text),
    EXISTS,
    TYPE,
];
const OF_NUMBER: &[Question] = &[
    ask("get", &["GET", "KEY"], Tells::Numbers),
    ask("getrange", &["GETRANGE", "KEY", "0", "-1"], Tells::Numbers),
    ask("mget", &["MGET", "KEY", "KEY"], Tells::Numbers),
    EXISTS,
];
const OF_HASH: &[Question] = &[
    ask("hget a", &["HGET", "KEY", "a"], Tells::Numbers),
    ask("hgetall", &["HGETALL", "KEY"], Tells::Numbers),
    ask("hget b", &["HGET", "KEY", "b"], Tells::Numbers),
    ask("hmget", &["HMGET", "KEY", "a", "c"], Tells::Numbers),
    ask("hvals", &["HVALS", "KEY"], Tells::Numbers),
    ask("hlen", &["HLEN", "KEY"], Tells::Presence),
    TYPE,
];
const OF_LIST: &[Question] = &[
    ask("lrange", &["LRANGE", "KEY", "0", "-1"], Tells::Numbers),
    ask("lindex", &["LINDEX", "KEY", "0"], Tells::Numbers),
    ask("llen", &["LLEN", "KEY"], Tells::Presence),
    TYPE,
];
const OF_SET: &[Question] = &[
    ask("smembers", &["SMEMBERS", "KEY"], Tells::Numbers),
    ask("scard", &["SCARD", "KEY"], Tells::Presence),
    EXISTS,
];
const OF_SORTED: &[Question] = &[
    ask("zrange", &["ZRANGE", "KEY", "0", "-1", "WITHSCORES"], Tells::Numbers),
    ask("zscore", &["ZSCORE", "KEY", MEMBER], Tells::Numbers),
    ask("zmscore", &["ZMSCORE", "KEY", MEMBER, MEMBER], Tells::Numbers),
    ask("zcard", &["ZCARD", "KEY"], Tells::Presence),
];

impl Place {
    /// One of the first `variants` questions that there are for such a key.
    pub(crate) fn question(&self, variants: usize, random: &mut Rng) -> Question {
        let all = self.questions();
        all[random.usize(0..all.len().min(variants))]
    }

    /// One of the questions behind those, which is in nobody's memory yet.
    pub(crate) fn rare_question(&self, variants: usize, random: &mut Rng) -> Question {
        self.questions()[variants + random.usize(0..RARE)]
    }

    fn questions(&self) -> &'static [Question] {
        match self.shape {
            Shape::Text => OF_TEXT,
            Shape::Number => OF_NUMBER,
            Shape::Hash => OF_HASH,
            Shape::List => OF_LIST,
            Shape::Set => OF_SET,
            Shape::Sorted => OF_SORTED,
        }
    }

    /// Writes a version, as one atomic step. `follows` says that the version before is there, and `dumped` makes a
    /// key by these requests and dumps it.
    pub(crate) fn change(
        &self,
        version: Value,
        ttl: Option<Duration>,
        follows: bool,
        dumped: impl FnOnce(Vec<Vec<Vec<u8>>>, &str) -> Vec<u8>,
        random: &mut Rng,
    ) -> Change {
        let of = |command, requests| Change { command, requests, removes: false };
        if random.u8(0..12) == 0 {
            let [command, word] = match (self.shape, random.bool()) {
                (Shape::Text | Shape::Number, true) => ["getdel", "GETDEL"],
                (_, true) => ["unlink", "UNLINK"],
                (_, false) => ["del", "DEL"],
            };
            return Change { command, requests: vec![words(&[word, &self.name])], removes: true };
        }
        let number = self.number(version).to_string();
        match random.u8(0..10) {
            0 if ttl.is_none() => {
                let copy = words(&["COPY", &self.scratch(), &self.name, "REPLACE"]);
                of("copy", [self.writes(&self.scratch(), version), vec![copy]].concat())
            }
            1 => {
                let payload = dumped(self.writes(&self.scratch(), version), &self.scratch());
                let ttl = ttl.map_or(0, |ttl| ttl.as_millis()).to_string();
                let restore = [words(&["RESTORE", &self.name, &ttl]), vec![payload], words(&["REPLACE"])];
                of("restore", vec![restore.concat()])
            }
            2..6 if follows && self.shape == Shape::Number => of("incr", vec![words(&["INCR", &self.name])]),
            2..6 if ttl.is_none() && self.shape == Shape::Hash => {
                of("hset", vec![words(&["HSET", &self.name, "a", &number, "b", &number, "c", &number])])
            }
            2..6 if ttl.is_none() && self.shape == Shape::Sorted => {
                of("zadd", vec![words(&["ZADD", &self.name, &number, MEMBER])])
            }
            6 if ttl.is_none() && self.shape == Shape::Text => {
                of("getset", vec![vec![b"GETSET".to_vec(), self.name.clone().into(), self.text(version)]])
            }
            _ => {
                let expiry = ttl.map(|ttl| {
                    let ttl = ttl.as_millis().to_string();
                    // GETEX changes the time to live alone, as PEXPIRE does.
                    match self.shape {
                        Shape::Text => words(&["GETEX", &self.name, "PX", &ttl]),
                        _ => words(&["PEXPIRE", &self.name, &ttl]),
                    }
                });
                let mut requests = vec![words(&["MULTI"])];
                requests.extend(self.writes(&self.name, version));
                requests.extend(expiry);
                requests.push(words(&["EXEC"]));
                of("exec", requests)
            }
        }
    }

    /// Leaves a version in a key that may hold another one, in one transaction or where nobody looks.
    pub(crate) fn writes(&self, key: &str, version: Value) -> Vec<Vec<Vec<u8>>> {
        let number = &*self.number(version).to_string();
        match self.shape {
            Shape::Text => vec![vec![b"SET".to_vec(), key.into(), self.text(version)]],
            Shape::Number => vec![words(&["SET", key, number])],
            Shape::Hash => vec![words(&["HSET", key, "a", number, "b", number, "c", number])],
            Shape::List => vec![words(&["RPUSH", key, number]), words(&["LTRIM", key, "-1", "-1"])],
            Shape::Set => vec![words(&["DEL", key]), words(&["SADD", key, number])],
            Shape::Sorted => vec![words(&["ZADD", key, number, MEMBER])],
        }
    }

    /// What a reply tells; `None` if nobody wrote what it says.
    pub(crate) fn told(&self, question: Question, reply: &[u8]) -> Option<Value> {
        let mut said = Vec::new();
        scalars(reply, &mut said);
        match question.tells {
            Tells::Text => {
                let [text] = said[..] else { return None };
                if text.is_empty() {
                    return Some(NOTHING);
                }
                let digits = &text[..memchr::memchr(b':', text)?];
                self.version(digits).filter(|version| self.text(*version) == text)
            }
            Tells::Length => match said[..] {
                [b"0"] => Some(NOTHING),
                [length] => {
                    let length: u64 = str::from_utf8(length).ok()?.parse().ok()?;
                    self.version(length.checked_sub(LENGTH_MIN)?.to_string().as_bytes())
                }
                _ => None,
            },
            Tells::Numbers => {
                let is_name =
                    |text: &[u8]| FIELDS.iter().chain([&MEMBER]).any(|name| name.as_bytes() == text);
                said.retain(|text| !is_name(text));
                said.dedup();
                match said[..] {
                    [] | [b""] => Some(NOTHING),
                    [number] => self.version(number),
                    _ => None,
                }
            }
            Tells::Presence => match said[..] {
                [b"0" | b"none"] => Some(NOTHING),
                [_] => Some(SOMETHING),
                _ => None,
            },
        }
    }

    /// The command that made a version, and the number that it named, if it did.
    pub(crate) fn mark(&self, written: &Written) -> (&'static str, Option<u64>) {
        let number = Some(self.number(written.version));
        match (written.command, self.shape) {
            ("exec", Shape::Text | Shape::Number) => ("set", number),
            ("exec", Shape::Hash) => ("hset", number),
            ("exec", Shape::List) => ("rpush", number),
            ("exec", Shape::Set) => ("sadd", number),
            ("exec", Shape::Sorted) => ("zadd", number),
            (other @ ("hset" | "zadd" | "getset"), _) => (other, number),
            (other, _) => (other, None),
        }
    }

    fn scratch(&self) -> String {
        format!("{}:scratch", self.name)
    }

    fn number(&self, version: Value) -> u64 {
        assert!(version < VERSIONS_MAX, "a key has too many versions");
        version + VERSIONS_MAX * u64::from(self.database)
    }

    fn version(&self, digits: &[u8]) -> Option<Value> {
        let number: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
        number
            .checked_sub(VERSIONS_MAX * u64::from(self.database))
            .filter(|version| (1..VERSIONS_MAX).contains(version))
    }

    fn text(&self, version: Value) -> Vec<u8> {
        let number = self.number(version);
        let mut text = format!("{number}:").into_bytes();
        text.resize(usize::try_from(LENGTH_MIN + number).expect("a few thousand"), b'.');
        text
    }
}

impl Question {
    pub(crate) fn request(&self, key: &str) -> Vec<Vec<u8>> {
        words(&self.words.iter().map(|word| if *word == "KEY" { key } else { word }).collect::<Vec<_>>())
    }
}

/// Everything in a reply that is no aggregate, in its order; nothing counts as an empty string.
fn scalars<'a>(frame: &'a [u8], into: &mut Vec<&'a [u8]>) {
    match frame[0] {
        b'*' | b'~' | b'%' if !frame.starts_with(b"*-1") => {
            children(frame).into_iter().for_each(|child| scalars(child, into));
        }
        _ if frame.starts_with(b"$-1") || frame.starts_with(b"*-1") || frame[0] == b'_' => into.push(b""),
        _ => into.push(payload(frame)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_tells_the_version_in_both_protocols() {
        let place = |shape| Place { name: "k".to_owned(), database: 1, shape };
        let (hash, sorted) = (place(Shape::Hash), place(Shape::Sorted));
        let told = |reply: &[u8]| hash.told(OF_HASH[1], reply);
        assert_eq!(told(b"*4\r\n$1\r\na\r\n$4\r\n2007\r\n$1\r\nb\r\n$4\r\n2007\r\n"), Some(7));
        assert_eq!(told(b"%2\r\n$1\r\na\r\n$4\r\n2007\r\n$1\r\nb\r\n$4\r\n2007\r\n"), Some(7));
        assert_eq!(told(b"%2\r\n$1\r\na\r\n$4\r\n2007\r\n$1\r\nb\r\n$4\r\n2008\r\n"), None, "torn");
        assert_eq!(told(b"%1\r\n$1\r\na\r\n$1\r\n7\r\n"), None, "of database 0");
        assert_eq!(told(b"*0\r\n"), Some(NOTHING));
        let told = |reply: &[u8]| sorted.told(OF_SORTED[0], reply);
        assert_eq!(told(b"*2\r\n$1\r\nm\r\n$4\r\n2007\r\n"), Some(7));
        assert_eq!(told(b"*1\r\n*2\r\n$1\r\nm\r\n,2007\r\n"), Some(7));
        let text = place(Shape::Text);
        assert_eq!(text.told(OF_TEXT[1], b":2071\r\n"), Some(7));
        assert_eq!(text.told(OF_TEXT[5], b":1\r\n"), Some(SOMETHING));
        assert_eq!(text.told(OF_TEXT[6], b"+none\r\n"), Some(NOTHING));
    }
}
