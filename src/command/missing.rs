//! What a cacheable read answers of a key that does not exist.
//!
//! A reply may be stored for as long as its key lives. PTTL, which goes ahead of the read, may say that there is no
//! key; then a reply can only be stored if it is the very reply that a missing key has, because any other belongs to a
//! key that was made between the two, whose time to live nobody has asked for.

use super::{Arguments, Command};
use crate::resp::reply;

/// The form of that reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingReply {
    /// `$-1`, `_`.
    Nil,
    /// `:0`.
    Zero,
    /// `:-1`, of BITPOS looking for a 1.
    MinusOne,
    /// `+none`, of TYPE.
    None,
    /// An empty string.
    EmptyString,
    /// An empty array, set or map.
    Empty,
    /// An array of nils, one for each thing asked for.
    Nils,
    /// An array of zeros.
    Zeros,
}

impl MissingReply {
    /// Whether `raw` has this form. A nil, which no key that exists would leave behind, always counts.
    pub fn is(self, raw: &[u8]) -> bool {
        let all = |is: fn(&[u8]) -> bool| reply::elements(raw).is_some_and(|mut elements| elements.all(is));
        reply::is_nil(raw)
            || match self {
                Self::Nil => false,
                Self::Zero => raw == b":0\r\n",
                Self::MinusOne => raw == b":-1\r\n",
                Self::None => raw == b"+none\r\n",
                Self::EmptyString => raw == b"$0\r\n\r\n",
                Self::Empty => matches!(raw, b"*0\r\n" | b"%0\r\n" | b"~0\r\n"),
                Self::Nils => all(reply::is_nil),
                Self::Zeros => all(|element| element == b":0\r\n"),
            }
    }
}

impl Command {
    /// The form of the reply to this request if its key does not exist. For commands on the allowlist only.
    pub fn missing_reply<A: Arguments + ?Sized>(&self, args: &A) -> MissingReply {
        match &*self.name {
            "bitpos" if args.get(2) == Some(b"1") => MissingReply::MinusOne,
            "bitpos" | "strlen" | "getbit" | "bitcount" | "hlen" | "hexists" | "hstrlen" | "llen"
            | "sismember" | "scard" | "zcard" | "zcount" | "zlexcount" | "xlen" | "exists" => {
                MissingReply::Zero
            }
            "type" => MissingReply::None,
            "getrange" | "substr" => MissingReply::EmptyString,
            "hgetall" | "hkeys" | "hvals" | "lrange" | "smembers" | "zrange" | "zrevrange"
            | "zrangebyscore" | "zrevrangebyscore" | "zrangebylex" | "zrevrangebylex" | "xrange"
            | "xrevrange" | "geosearch" | "lpos" => MissingReply::Empty,
            "hmget" | "zmscore" | "geopos" | "geohash" => MissingReply::Nils,
            "smismember" | "bitfield_ro" => MissingReply::Zeros,
            _ => MissingReply::Nil,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Table;

    fn is_missing(line: &str, raw: &[u8]) -> bool {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        Table::builtin().lookup(args[0], args.get(1).copied()).missing_reply(&args[..]).is(raw)
    }

    #[test]
    fn a_reply_is_a_missing_keys_only_if_that_command_says_so() {
        assert!(is_missing("STRLEN k", b":0\r\n"));
        assert!(!is_missing("STRLEN k", b":1\r\n"));
        assert!(!is_missing("ZRANK k m", b":0\r\n"), "rank 0 of a key that exists");
        assert!(!is_missing("LPOS k m", b":0\r\n"));
        assert!(is_missing("BITPOS k 1", b":-1\r\n") && !is_missing("BITPOS k 1", b":0\r\n"));
        assert!(is_missing("BITPOS k 0", b":0\r\n") && !is_missing("BITPOS k 0", b":-1\r\n"));
        assert!(is_missing("HMGET k a b", b"*2\r\n$-1\r\n$-1\r\n"));
        assert!(!is_missing("HMGET k a b", b"*2\r\n$-1\r\n$1\r\nx\r\n"));
        assert!(is_missing("HGETALL k", b"%0\r\n") && !is_missing("GET k", b"$0\r\n\r\n"));
        assert!(is_missing("TYPE k", b"+none\r\n") && !is_missing("TYPE k", b"+string\r\n"));
    }
}
