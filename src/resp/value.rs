//! Replies made here: PONG, HELLO's map, errors, the figures of the PROXY command.
//!
//! A [`Value`] says what is meant and [`Value::encode`] writes it as Redis would in the protocol that the client
//! speaks. Single values go through redis-protocol's encoders. The headers of aggregates are written here instead:
//! redis-protocol keeps maps and sets in hash tables, so that their order would change from reply to reply, and it
//! knows no null array. This is the cold path: nothing that came from the upstream is ever made into a `Value`.

use std::borrow::Cow;

use bytes::Bytes;
use redis_protocol::{
    error::RedisProtocolError,
    resp2::{self, types::BorrowedFrame as Frame2},
    resp3::{
        self,
        types::{BorrowedFrame as Frame3, VerbatimStringFormat},
    },
};

use super::{Protocol, header};

/// A reply or push to be written by nearhit itself. It nests as deep as our own code makes it, which is not deep.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+OK`. Line ends in the text become spaces, as in Redis.
    Simple(Cow<'static, str>),
    /// `-ERR ...`, the code included. Line ends in the text become spaces.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// A string of bytes.
    Bulk(Bytes),
    /// A text to be shown as it is (INFO, CLIENT LIST): `=` with the format `txt` in RESP3, a bulk string in RESP2.
    Verbatim(Bytes),
    /// Null: `$-1` in RESP2, `_` in RESP3.
    Nil,
    /// Null where RESP2 would have an array: `*-1`; in RESP3 there is only `_`.
    NullArray,
    /// An array.
    Array(Vec<Value>),
    /// Pairs in the order given; RESP2 flattens them into an array.
    Map(Vec<(Value, Value)>),
    /// A set in the order given; an array in RESP2.
    Set(Vec<Value>),
    /// A number as Redis has written it since 7.2, the shortest text that reads back as the same; a bulk string
    /// in RESP2.
    Double(f64),
    /// `#t`; `:1` and `:0` in RESP2.
    Boolean(bool),
    /// A push; an array in RESP2, as pub/sub messages are there.
    Push(Vec<Value>),
}

impl Value {
    /// `+OK`.
    pub const OK: Self = Self::Simple(Cow::Borrowed("OK"));

    /// An error reply; `text` begins with its code.
    pub fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    /// A bulk string.
    pub fn bulk(text: impl Into<Bytes>) -> Self {
        Self::Bulk(text.into())
    }

    /// Appends the reply in `protocol`.
    pub fn encode(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Array(items) => aggregate(b'*', items, protocol, out),
            Self::Set(items) => aggregate(if resp3 { b'~' } else { b'*' }, items, protocol, out),
            Self::Push(items) => aggregate(if resp3 { b'>' } else { b'*' }, items, protocol, out),
            Self::Map(pairs) => {
                if resp3 {
                    header::push(out, b'%', pairs.len());
                } else {
                    header::push(out, b'*', pairs.len() * 2);
                }
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            single if resp3 => single.encode_resp3(out),
            single => single.encode_resp2(out),
        }
    }

    fn encode_resp2(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => write_resp2(&Frame2::SimpleString(one_line(text).as_bytes()), out),
            Self::Error(text) => write_resp2(&Frame2::Error(&one_line(text)), out),
            Self::Integer(number) => write_resp2(&Frame2::Integer(*number), out),
            Self::Bulk(bytes) | Self::Verbatim(bytes) => write_resp2(&Frame2::BulkString(bytes), out),
            Self::Nil => write_resp2(&Frame2::Null, out),
            Self::Double(number) => write_resp2(&Frame2::BulkString(double(*number).as_bytes()), out),
            Self::Boolean(yes) => write_resp2(&Frame2::Integer(i64::from(*yes)), out),
            // redis-protocol has one null for strings and arrays alike.
            Self::NullArray => out.extend_from_slice(b"*-1\r\n"),
            Self::Array(_) | Self::Map(_) | Self::Set(_) | Self::Push(_) => self.encode(Protocol::Resp2, out),
        }
    }

    fn encode_resp3(&self, out: &mut Vec<u8>) {
        let attributes = None;
        match self {
            Self::Simple(text) => {
                write_resp3(&Frame3::SimpleString { data: one_line(text).as_bytes(), attributes }, out);
            }
            Self::Error(text) => write_resp3(&Frame3::SimpleError { data: &one_line(text), attributes }, out),
            Self::Integer(number) => write_resp3(&Frame3::Number { data: *number, attributes }, out),
            Self::Bulk(data) => write_resp3(&Frame3::BlobString { data, attributes }, out),
            Self::Verbatim(data) => {
                let format = VerbatimStringFormat::Text;
                write_resp3(&Frame3::VerbatimString { data, format, attributes }, out);
            }
            Self::Nil | Self::NullArray => write_resp3(&Frame3::Null, out),
            Self::Boolean(data) => write_resp3(&Frame3::Boolean { data: *data, attributes }, out),
            // redis-protocol writes 1e300 as 301 digits, which is not how Redis does.
            Self::Double(number) => out.extend_from_slice(format!(",{}\r\n", double(*number)).as_bytes()),
            Self::Array(_) | Self::Map(_) | Self::Set(_) | Self::Push(_) => self.encode(Protocol::Resp3, out),
        }
    }
}

fn aggregate(kind: u8, items: &[Value], protocol: Protocol, out: &mut Vec<u8>) {
    header::push(out, kind, items.len());
    for item in items {
        item.encode(protocol, out);
    }
}

fn write_resp2(frame: &Frame2<'_>, out: &mut Vec<u8>) {
    append(out, frame.encode_len(false), |room| resp2::encode::encode_borrowed(room, frame, false));
}

fn write_resp3(frame: &Frame3<'_>, out: &mut Vec<u8>) {
    append(out, frame.encode_len(false), |room| resp3::encode::complete::encode_borrowed(room, frame, false));
}

/// Lets `encode` write behind `out`. The length that redis-protocol announces comes from a logarithm in floating
/// point and can be one too many (for the integer 999999999999999999); what it has written is what counts.
fn append(
    out: &mut Vec<u8>,
    len: usize,
    encode: impl FnOnce(&mut [u8]) -> Result<usize, RedisProtocolError>,
) {
    const SLACK: usize = 4;
    let start = out.len();
    out.resize(start + len + SLACK, 0);
    let written =
        encode(&mut out[start..]).expect("the buffer is as long as the frame asked for, and longer");
    out.truncate(start + written);
}

/// Redis puts spaces in place of line ends, since they would end the reply.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], " ").into() } else { text.into() }
}

/// The text of a double as `d2string` (util.c) and `fpconv_dtoa` write it since Redis 7.2: an integer in full, else
/// the shortest digits that read back as the same number, plain while that is short, else in scientific notation.
/// (fpconv's Grisu2 misses the shortest digits of one number in 200 or so. That is not worth a Grisu2 of our own.)
fn double(number: f64) -> String {
    /// Up to here (`LLONG_MAX / 2` as a double) Redis goes by way of an integer.
    const INTEGER_MAX: f64 = 4_611_686_018_427_387_904.0;
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() || number == 0.0 {
        return number.to_string();
    }
    if number.fract() == 0.0 && number.abs() <= INTEGER_MAX {
        return format!("{number:.0}");
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).fold(0, |count, _| count + 1);
    // The power of ten of the last digit, on which fpconv decides.
    let last = exponent - (digits - 1);
    let plain = if last >= 0 { exponent < digits + 7 } else { last > -7 || exponent.abs() < 4 };
    if plain {
        number.to_string()
    } else {
        format!("{mantissa}e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(value: &Value) -> (String, String) {
        let mut out = (Vec::new(), Vec::new());
        value.encode(Protocol::Resp2, &mut out.0);
        value.encode(Protocol::Resp3, &mut out.1);
        (String::from_utf8(out.0).unwrap(), String::from_utf8(out.1).unwrap())
    }

    #[test]
    fn single_values_are_written_as_redis_does() {
        let cases = [
            (Value::OK, "+OK\r\n", "+OK\r\n"),
            (Value::error("ERR no"), "-ERR no\r\n", "-ERR no\r\n"),
            (Value::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (Value::bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (Value::bulk(&b"a\r\nb"[..]), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (Value::Verbatim("text".into()), "$4\r\ntext\r\n", "=8\r\ntxt:text\r\n"),
            (Value::Nil, "$-1\r\n", "_\r\n"),
            (Value::NullArray, "*-1\r\n", "_\r\n"),
            (Value::Boolean(true), ":1\r\n", "#t\r\n"),
            (Value::Boolean(false), ":0\r\n", "#f\r\n"),
            (Value::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (Value::Double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
        ];
        for (value, resp2, resp3) in cases {
            assert_eq!(both(&value), (resp2.to_owned(), resp3.to_owned()), "{value:?}");
        }
    }

    #[test]
    fn aggregates_keep_their_order_and_resp2_flattens_maps() {
        let pairs = (0..20).map(|number| (Value::Integer(number), Value::Nil)).collect();
        let expected = |head: &str, nil: &str| {
            (0..20).fold(head.to_owned(), |text, number| text + &format!(":{number}\r\n{nil}\r\n"))
        };
        assert_eq!(both(&Value::Map(pairs)), (expected("*40\r\n", "$-1"), expected("%20\r\n", "_")));

        let twice = vec![Value::Integer(1), Value::Integer(1)];
        let tail = ":1\r\n:1\r\n";
        for (value, resp2, resp3) in [
            (Value::Array(twice.clone()), "*2\r\n", "*2\r\n"),
            (Value::Set(twice.clone()), "*2\r\n", "~2\r\n"),
            (Value::Push(twice), "*2\r\n", ">2\r\n"),
        ] {
            assert_eq!(both(&value), (format!("{resp2}{tail}"), format!("{resp3}{tail}")));
        }
        let nested = Value::Array(vec![Value::Map(vec![]), Value::Set(vec![Value::Boolean(true)])]);
        assert_eq!(both(&nested), ("*2\r\n*0\r\n*1\r\n:1\r\n".into(), "*2\r\n%0\r\n~1\r\n#t\r\n".into()));
    }

    #[test]
    fn line_ends_inside_a_line_become_spaces() {
        assert_eq!(both(&Value::error("ERR a\r\n+OK\nb")).0, "-ERR a  +OK b\r\n");
        assert_eq!(both(&Value::Simple("x\ry".into())).1, "+x y\r\n");
    }

    #[test]
    fn lengths_that_redis_protocol_misjudges_are_written_right() {
        for power in 0..19 {
            for number in [10_i64.pow(power) - 1, 10_i64.pow(power), 10_i64.pow(power) + 1] {
                for number in [number, -number] {
                    let expected = format!(":{number}\r\n");
                    assert_eq!(both(&Value::Integer(number)), (expected.clone(), expected));
                }
            }
        }
        for power in 0..7 {
            for len in [10_usize.pow(power) - 1, 10_usize.pow(power)] {
                let expected = format!("${len}\r\n{}\r\n", "x".repeat(len));
                assert!(both(&Value::bulk("x".repeat(len))) == (expected.clone(), expected));
            }
        }
    }

    #[test]
    fn encoding_appends() {
        let mut out = b"+before\r\n".to_vec();
        Value::Integer(1).encode(Protocol::Resp3, &mut out);
        Value::Nil.encode(Protocol::Resp2, &mut out);
        assert_eq!(out, b"+before\r\n:1\r\n$-1\r\n");
    }

    /// The expected texts are what `fpconv_dtoa.c` of Redis 7.2.0, compiled and asked, answers.
    #[test]
    #[allow(clippy::excessive_precision)] // the excess is the point
    fn doubles_are_laid_out_as_d2string_does() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (12.75, "12.75"),
            (1e15, "1000000000000000"),
            (4_611_686_018_427_387_904.0, "4611686018427387904"),
            (1e18, "1000000000000000000"),
            (1e19, "1e+19"),
            (1.5e300, "1.5e+300"),
            (123_456_789_012_345_678_901_234.0, "123456789012345690000000"),
            (0.001, "0.001"),
            (0.000_001, "0.000001"),
            (0.000_000_1, "1e-7"),
            (1.234e-10, "1.234e-10"),
            (-5e-324, "-5e-324"),
            (f64::NAN, "nan"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(double(number), text);
        }
    }
}
