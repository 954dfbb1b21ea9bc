//! Looking into a raw reply without decoding it.
//!
//! A reply stays the bytes that the server sent, from the socket to the cache to the client; these functions answer
//! the few questions that nearhit has about one. They read complete frames, as [`ReplyScanner`] delimits them, and
//! answer `None` or `false` for anything else, never with a panic. An attribute in front is looked past.

use super::{
    Protocol, ReplyScanner,
    header::{self, Header},
};

/// The null of a protocol, as Redis writes it for a key that does not exist.
pub const fn nil(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    }
}

/// Whether this is a null in either protocol: `$-1`, `*-1` or `_`.
pub fn is_nil(reply: &[u8]) -> bool {
    let value = value(reply);
    value.starts_with(b"_") || value.starts_with(b"$-1") || value.starts_with(b"*-1")
}

/// Whether this is the null that each protocol writes its own way, as [`nil`] does. RESP2's other null, `*-1`, is an
/// array that is not there, and has to stay one.
pub fn is_translatable_nil(reply: &[u8]) -> bool {
    is_nil(reply) && !value(reply).starts_with(b"*")
}

/// Whether this is an error.
pub fn is_error(reply: &[u8]) -> bool {
    matches!(value(reply).first(), Some(b'-' | b'!'))
}

/// The first word of an error, such as `READONLY`.
pub fn error_code(reply: &[u8]) -> Option<&[u8]> {
    let value = value(reply);
    let text = match value.first()? {
        b'-' => line(value)?,
        b'!' => payload(value)?,
        _ => return None,
    };
    text.split(|byte| *byte == b' ').next()
}

/// The number of an integer reply.
pub fn integer(reply: &[u8]) -> Option<i64> {
    let value = value(reply);
    let text = if value.first()? == &b':' { line(value)? } else { return None };
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The text of a bulk, simple or verbatim string, without a verbatim string's format.
pub fn bulk(reply: &[u8]) -> Option<&[u8]> {
    let value = value(reply);
    match value.first()? {
        b'$' => payload(value),
        b'+' => line(value),
        b'=' => payload(value)?.get("txt:".len()..),
        _ => None,
    }
}

/// The elements of an array, set or push; a map's keys and values in turn. `None` for a null and everything else.
pub fn elements(reply: &[u8]) -> Option<Elements<'_>> {
    let value = value(reply);
    let each = match value.first()? {
        b'*' | b'~' | b'>' => 1,
        b'%' => 2,
        _ => return None,
    };
    let Header::Length { value: count, len } = header::parse(&value[1..]) else { return None };
    Some(Elements { rest: &value[1 + len..], left: count.checked_mul(each)? })
}

/// The frames that stand one behind the other.
pub fn frames(bytes: &[u8]) -> Elements<'_> {
    Elements { rest: bytes, left: u64::MAX }
}

/// The raw bytes of each element of an aggregate, attributes and all. Ends early where the bytes do.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    left: u64,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let Ok(Some(frame)) = ReplyScanner::new().scan(self.rest) else {
            self.left = 0;
            return None;
        };
        let (element, rest) = self.rest.split_at(frame.len);
        self.rest = rest;
        Some(element)
    }

    /// Exact for a complete reply: a count may promise more than there is, but never hides anything.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.left).ok())
    }
}

/// The reply without the attributes in front of it.
fn value(reply: &[u8]) -> &[u8] {
    if reply.first() == Some(&b'|') { behind_attributes(reply) } else { reply }
}

#[cold]
fn behind_attributes(mut reply: &[u8]) -> &[u8] {
    while let Some(attribute) = reply.strip_prefix(b"|") {
        let Header::Length { value: pairs, len } = header::parse(attribute) else { return &[] };
        let mut entries = Elements { rest: &attribute[len..], left: pairs.saturating_mul(2) };
        entries.by_ref().for_each(drop);
        reply = entries.rest;
    }
    reply
}

/// The rest of a one-line value.
fn line(value: &[u8]) -> Option<&[u8]> {
    value.get(1..)?.strip_suffix(b"\r\n")
}

/// What the length header of a string announces.
fn payload(value: &[u8]) -> Option<&[u8]> {
    let Header::Length { value: bytes, len } = header::parse(value.get(1..)?) else { return None };
    let start = 1 + len;
    value.get(start..start.checked_add(usize::try_from(bytes).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTRIBUTE: &str = "|1\r\n+ttl\r\n*2\r\n:1\r\n:2\r\n";

    fn items(reply: &str) -> Option<Vec<&str>> {
        Some(elements(reply.as_bytes())?.map(|raw| std::str::from_utf8(raw).unwrap()).collect())
    }

    #[test]
    fn tells_nulls_from_values() {
        for null in ["$-1\r\n", "*-1\r\n", "_\r\n", &format!("{ATTRIBUTE}_\r\n")] {
            assert!(is_nil(null.as_bytes()), "{null:?}");
        }
        for value in ["$0\r\n\r\n", "*0\r\n", ":-1\r\n", "+_\r\n", "-_\r\n", "$3\r\n$-1\r\n", ""] {
            assert!(!is_nil(value.as_bytes()), "{value:?}");
        }
        assert!(is_nil(nil(Protocol::Resp2)) && is_nil(nil(Protocol::Resp3)));
    }

    #[test]
    fn tells_errors_and_their_codes() {
        let code =
            |reply: &'static str| error_code(reply.as_bytes()).map(|code| std::str::from_utf8(code).unwrap());
        assert_eq!(code("-READONLY You can't write\r\n"), Some("READONLY"));
        assert_eq!(code("-LOADING\r\n"), Some("LOADING"));
        assert_eq!(code("!10\r\nERR broken\r\n"), Some("ERR"));
        assert_eq!(code("-\r\n"), Some(""));
        assert_eq!(code("+READONLY x\r\n"), None);
        assert_eq!(code(""), None);
        assert!(is_error(b"-ERR x\r\n") && is_error(b"!3\r\nERR\r\n"));
        assert!(is_error(format!("{ATTRIBUTE}-ERR x\r\n").as_bytes()));
        assert!(!is_error(b"$1\r\n-\r\n") && !is_error(b":-1\r\n") && !is_error(b""));
    }

    #[test]
    fn reads_numbers_and_strings() {
        assert_eq!(integer(b":42\r\n"), Some(42));
        assert_eq!(integer(b":-9223372036854775808\r\n"), Some(i64::MIN));
        assert_eq!(integer(format!("{ATTRIBUTE}:7\r\n").as_bytes()), Some(7));
        for other in [&b":9223372036854775808\r\n"[..], b":\r\n", b":1", b"$1\r\n1\r\n", b"(1\r\n", b""] {
            assert_eq!(integer(other), None, "{other:?}");
        }
        assert_eq!(bulk(b"$5\r\nhello\r\n"), Some(&b"hello"[..]));
        assert_eq!(bulk(b"$0\r\n\r\n"), Some(&b""[..]));
        assert_eq!(bulk(b"+OK\r\n"), Some(&b"OK"[..]));
        assert_eq!(bulk(b"=9\r\ntxt:hello\r\n"), Some(&b"hello"[..]));
        assert_eq!(bulk(format!("{ATTRIBUTE}+OK\r\n").as_bytes()), Some(&b"OK"[..]));
        for other in
            [&b"$-1\r\n"[..], b"_\r\n", b"-ERR\r\n", b":1\r\n", b"*0\r\n", b"$9\r\nshort\r\n", b"=1\r\nx\r\n"]
        {
            assert_eq!(bulk(other), None, "{other:?}");
        }
    }

    #[test]
    fn walks_elements_raw() {
        assert_eq!(items("*2\r\n$1\r\na\r\n*1\r\n:1\r\n"), Some(vec!["$1\r\na\r\n", "*1\r\n:1\r\n"]));
        assert_eq!(items("~1\r\n#t\r\n"), Some(vec!["#t\r\n"]));
        assert_eq!(items(">2\r\n+invalidate\r\n_\r\n"), Some(vec!["+invalidate\r\n", "_\r\n"]));
        assert_eq!(items("%1\r\n+k\r\n%1\r\n+a\r\n+b\r\n"), Some(vec!["+k\r\n", "%1\r\n+a\r\n+b\r\n"]));
        assert_eq!(items("*0\r\n"), Some(vec![]));
        let attributed = format!("*2\r\n{ATTRIBUTE}:1\r\n:2\r\n");
        assert_eq!(items(&attributed), Some(vec![&attributed[4..attributed.len() - 4], ":2\r\n"]));
        for none in ["*-1\r\n", "_\r\n", "$1\r\na\r\n", "*", "", "%9223372036854775808\r\n"] {
            assert_eq!(items(none), None, "{none:?}");
        }
    }

    #[test]
    fn broken_aggregates_end_early() {
        assert_eq!(items("*3\r\n:1\r\n:2"), Some(vec![":1\r\n"]));
        assert_eq!(items("*3\r\n:1\r\n?\r\n:3\r\n"), Some(vec![":1\r\n"]));
        assert_eq!(items("*9223372036854775807\r\n:1\r\n"), Some(vec![":1\r\n"]));
        assert!(!is_error(b"|9223372036854775807\r\n-ERR\r\n") && !is_error(b"|x"));
    }
}
