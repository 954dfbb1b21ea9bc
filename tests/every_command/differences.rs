//! What two servers with the same contents may rightly answer differently, and how such answers are compared.

use super::common::resp::{children, sorted, without_digits};

/// How two replies are compared. Errors are the same bytes, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    /// The same bytes.
    Bytes,
    /// The same but for the order inside of aggregates.
    AnyOrder,
    /// The same but for numbers.
    Digits,
    /// The same kinds of frames in the same places; payloads differ.
    Kinds,
    /// The same kind of frame.
    Kind,
    /// A frame each.
    Nothing,
    /// The proxy refuses it, and Redis is not asked: the README says so.
    Refused,
    /// The first frame; behind it, each server tells what only it knows.
    First,
}

/// The command, words among its arguments without which there is no difference, and the reason. What is not named is
/// compared byte for byte.
const DIFFERENCES: &[(&str, &str, Compare, &str)] = &[
    // The seed of a server's hash tables is its own.
    ("smembers", "", Compare::AnyOrder, "members of a hash table"),
    ("sinter", "", Compare::AnyOrder, "members of a hash table"),
    ("sunion", "", Compare::AnyOrder, "members of a hash table"),
    ("sdiff", "", Compare::AnyOrder, "members of a hash table"),
    ("keys", "", Compare::AnyOrder, "keys of a hash table"),
    ("sort", "BY LIMIT", Compare::Kinds, "what is the same by BY is in the order of its hash table"),
    ("sort_ro", "BY LIMIT", Compare::Kinds, "what is the same by BY is in the order of its hash table"),
    ("sort", "BY", Compare::AnyOrder, "what is the same by BY is in the order of its hash table"),
    ("sort_ro", "BY", Compare::AnyOrder, "what is the same by BY is in the order of its hash table"),
    ("command", "", Compare::AnyOrder, "commands are a hash table"),
    ("command|info", "", Compare::AnyOrder, "subcommands are a hash table"),
    ("command|docs", "", Compare::AnyOrder, "commands are a hash table"),
    ("command|list", "", Compare::AnyOrder, "commands are a hash table"),
    ("config|get", "", Compare::AnyOrder, "parameters are a hash table"),
    ("function|list", "", Compare::AnyOrder, "libraries are a hash table"),
    ("acl|cat", "", Compare::AnyOrder, "commands are a hash table"),
    ("pubsub|channels", "", Compare::AnyOrder, "channels are a hash table"),
    ("dump", "", Compare::Kinds, "a set is serialized in the order of its hash table"),
    ("scan", "", Compare::Kind, "a cursor, and which keys come first, depend on the hash table"),
    ("sscan", "", Compare::Kind, "a cursor, and which members come first, depend on the hash table"),
    // Chance.
    ("randomkey", "", Compare::Kinds, "a key at random"),
    ("srandmember", "", Compare::Kinds, "members at random"),
    ("hrandfield", "", Compare::Kinds, "fields at random"),
    ("zrandmember", "", Compare::Kinds, "members at random"),
    ("spop", "", Compare::Kinds, "members at random"),
    ("acl|genpass", "", Compare::Kinds, "bits at random"),
    // Time and place.
    ("time", "", Compare::Digits, "it"),
    ("lastsave", "", Compare::Digits, "a time"),
    ("ttl", "", Compare::Digits, "time passes between the two"),
    ("pttl", "", Compare::Digits, "time passes between the two"),
    ("expiretime", "", Compare::Digits, "a relative time to live was set at two moments"),
    ("pexpiretime", "", Compare::Digits, "a relative time to live was set at two moments"),
    ("xadd", "*", Compare::Digits, "the id that * gives is a time"),
    ("object|idletime", "", Compare::Digits, "time since the last access"),
    ("xinfo|stream", "FULL", Compare::Digits, "FULL shows when consumers were seen"),
    ("xinfo|consumers", "", Compare::Digits, "time since a consumer was seen"),
    ("xpending", "", Compare::Digits, "time since a delivery"),
    ("hello", "", Compare::Digits, "a client's id"),
    ("client|id", "", Compare::Digits, "it"),
    ("slowlog|len", "", Compare::Digits, "how many commands were slow"),
    ("slowlog|get", "", Compare::Kind, "what was slow, and when"),
    ("latency|histogram", "", Compare::Kind, "how long commands took"),
    ("latency|latest", "", Compare::Kind, "how long events took"),
    ("info", "", Compare::Kind, "a server's own figures, and nearhit's section"),
    ("memory|usage", "", Compare::Digits, "what the allocator had"),
    ("memory|stats", "", Compare::Kind, "a server's own figures"),
    ("memory|doctor", "", Compare::Kind, "advice from a server's own figures"),
    ("memory|malloc-stats", "", Compare::Kind, "a server's own figures"),
    ("lolwut", "", Compare::Kind, "art at random"),
];

/// How replies to this request are compared.
pub(crate) fn compare(command: &str, request: &[Vec<u8>]) -> Compare {
    let has = |word: &str| {
        word.is_empty() || request.iter().any(|known| known.eq_ignore_ascii_case(word.as_bytes()))
    };
    let found = DIFFERENCES.iter().find(|(name, words, ..)| *name == command && words.split(' ').all(has));
    found.map_or(Compare::Bytes, |(_, _, compare, _)| *compare)
}

/// The commands of which something is excused.
pub(crate) fn excused() -> impl Iterator<Item = &'static str> {
    DIFFERENCES.iter().map(|(name, ..)| *name)
}

impl Compare {
    pub(crate) fn is_same(self, one: &[u8], other: &[u8]) -> bool {
        if one == other || self == Self::Nothing {
            return true;
        }
        if one.is_empty() || other.is_empty() || one[0] == b'-' || other[0] == b'-' {
            return false;
        }
        match self {
            Self::Bytes | Self::Nothing | Self::Refused | Self::First => false,
            Self::AnyOrder => sorted(one) == sorted(other),
            Self::Digits => without_digits(one) == without_digits(other),
            Self::Kinds => kinds(one) == kinds(other),
            Self::Kind => one[0] == other[0],
        }
    }
}

/// The frame without its payloads: what is left are kinds, and how many there are of them.
fn kinds(frame: &[u8]) -> String {
    let inside: String = children(frame).into_iter().map(kinds).collect();
    format!("{}[{inside}]", char::from(frame[0]))
}

/// Requests after which two servers hold different contents, so that nothing is to follow them.
pub(crate) fn diverges(command: &str, request: &[Vec<u8>]) -> bool {
    let has = |word: &[u8]| request.iter().any(|known| known.eq_ignore_ascii_case(word));
    match command {
        "spop" => true,
        "xadd" => has(b"*"),
        "sort" => has(b"BY") && has(b"STORE"),
        _ => false,
    }
}

/// Commands whose answer depends on what others have done just before: Redis's SORT takes a stale `ERANGE` in `errno`,
/// left by whoever was given a number too large, for one of its own.
pub(crate) fn depends_on_others(command: &str) -> bool {
    matches!(command, "sort" | "sort_ro")
}
