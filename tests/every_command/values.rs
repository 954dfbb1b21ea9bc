//! What arguments are filled with: what suits them, and what no client should send.

use fastrand::Rng;

use super::catalog::{Argument, Entry, Kind};

/// A name that no text protocol survives.
const BINARY: &[u8] = b"bin\r\n\0\xff";
/// The keys that there are, by the group of commands that they suit; each stands in the seed.
const KEYS: &[(&str, &[&[u8]])] = &[
    ("string", &[b"string", b"int", b"float", b"volatile", b"", BINARY]),
    ("bitmap", &[b"string", b"int", b"", BINARY]),
    ("list", &[b"list", b"list2"]),
    ("set", &[b"set", b"set2", b"intset"]),
    ("sorted-set", &[b"zset", b"zset2", b"geo"]),
    ("hash", &[b"hash"]),
    ("stream", &[b"stream"]),
    ("hyperloglog", &[b"hll", b"hll2"]),
    ("geo", &[b"geo"]),
];

/// What the database holds before a group of commands: the same on both servers.
pub(crate) const SEED: &[&[&[u8]]] = &[
    &[b"FLUSHALL"],
    &[b"SET", b"string", b"hello world"],
    &[b"SET", b"int", b"10"],
    &[b"SET", b"float", b"3.25"],
    &[b"SET", b"volatile", b"soon", b"EX", b"500000"],
    &[b"SET", b"", b"the empty key"],
    &[b"SET", BINARY, b"\0\x01\r\n$5\r\n\xfe\xff"],
    &[b"RPUSH", b"list", b"a", b"b", b"c", b"a", b"", BINARY],
    &[b"RPUSH", b"list2", b"1", b"2", b"3"],
    &[b"SADD", b"set", b"a", b"b", b"c", b"", BINARY],
    &[b"SADD", b"set2", b"c"],
    &[b"SADD", b"intset", b"1", b"2", b"3"],
    &[b"ZADD", b"zset", b"1", b"a", b"2", b"b", b"3.5", b"c", b"inf", BINARY],
    &[b"ZADD", b"zset2", b"0", b"a", b"0", b"b", b"0", b"c"],
    &[b"HSET", b"hash", b"f1", b"v1", b"f2", b"10", b"", b"", BINARY, BINARY],
    &[b"XADD", b"stream", b"1-1", b"f1", b"v1"],
    &[b"XADD", b"stream", b"2-0", b"", BINARY],
    &[b"XADD", b"stream", b"3-0", b"f1", b"v3"],
    &[b"XGROUP", b"CREATE", b"stream", b"g", b"0"],
    &[b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"1", b"STREAMS", b"stream", b">"],
    &[b"PFADD", b"hll", b"a", b"b", b"c"],
    &[b"PFADD", b"hll2", b"c", b"d"],
    &[b"GEOADD", b"geo", b"13.361389", b"38.115556", b"a", b"15.087269", b"37.502669", b"b"],
    &[b"FUNCTION", b"FLUSH"],
    &[b"FUNCTION", b"LOAD", LIBRARY],
    &[b"SCRIPT", b"LOAD", b"return 1"],
];

const LIBRARY: &[u8] = b"#!lua name=lib\nredis.register_function('f', function(keys, args) return args end)";
/// DUMP's answer for the string "hello", by Redis 7.0.
const DUMPED: &[u8] = b"\x00\x05\x68\x65\x6c\x6c\x6f\x0a\x00\x63\x72\xdf\x76\x65\x34\x20\x0a";

const TEXTS: &[&[u8]] = &[b"a", b"b", b"value", b"", b"7", BINARY];
const MEMBERS: &[&[u8]] = &[b"a", b"b", b"c", b"nothing", b"", b"2", BINARY];
const FIELDS: &[&[u8]] = &[b"f1", b"f2", b"nothing", b"", BINARY];
const SMALL: &[&[u8]] = &[b"0", b"1", b"2", b"-1", b"3", b"-2"];
/// No number between a million and 2^32: an offset of that kind takes memory.
const INTEGERS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"2",
    b"10",
    b"-3",
    b"1000",
    b"",
    b"x",
    b" 1",
    b"+1",
    b"01",
    b"1.5",
    b"-0",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551615",
    b"1\0",
];
const DOUBLES: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1.5",
    b"2.25",
    b"1e3",
    b"inf",
    b"-inf",
    b"+inf",
    b"nan",
    b"1e400",
    b"1e-400",
    b"",
    b"x",
    b"0x10",
    b" 1",
    b"9223372036854775808",
    b"-0",
];
const BOUNDS: &[&[u8]] = &[
    b"-",
    b"+",
    b"[a",
    b"(b",
    b"[",
    b"(",
    b"-inf",
    b"+inf",
    b"(1",
    b"0",
    b"2",
    b"-1",
    b"(x",
    b"a",
    b"",
    b"1-1",
    b"(1-1",
    b"2-0",
    b"18446744073709551615",
];
const STREAM_IDS: &[&[u8]] = &[
    b"0",
    b"$",
    b">",
    b"1-1",
    b"2-0",
    b"3",
    b"9-9",
    b"9-*",
    b"0-0",
    b"x",
    b"",
    b"18446744073709551615-18446744073709551615",
];
/// None of them passes while the test runs.
const SPANS: &[&[u8]] =
    &[b"0", b"-1", b"x", b"", b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808"];
/// Far away, or refused: a key that is made with its time behind it is there until somebody looks for it, and nearhit's
/// PTTL may be the first to do so.
const MOMENTS: &[&[u8]] = &[b"33177117420000", b"0", b"-1", b"x", b"9223372036854775807"];
/// Never 0, which waits for ever.
const WAITS: &[&[u8]] = &[b"0.001", b"0.002", b"-1", b"x", b"", b"nan", b"1e400"];
const WAITS_MS: &[&[u8]] = &[b"1", b"2", b"-1", b"x", b"", b"1.5"];
const PATTERNS: &[&[u8]] = &[b"*", b"s*", b"[", b"\\", b"", b"?t*", b"weight_*", b"#", BINARY];
const SCRIPTS: &[&[u8]] = &[
    b"return 1",
    b"return {KEYS, ARGV}",
    b"return redis.call('TYPE', KEYS[1])",
    b"return redis.call('SET', KEYS[1], ARGV[1])",
    b"return redis.call('RPUSH', KEYS[1], ARGV[1])",
    b"return {1, 'two', {3, false}, 3.7}",
    b"redis.setresp(3) return redis.call('HGETALL', 'hash')",
    b"return redis.error_reply('MINE of my own')",
    b"(",
];

/// A value for an argument that is neither a token nor a group.
pub(crate) fn value(entry: &Entry, argument: &Argument, rng: &mut Rng) -> Vec<u8> {
    if argument.kind == Kind::Key {
        return key(&entry.group, rng);
    }
    let of = |values: &[&[u8]], rng: &mut Rng| rng.choice(values.iter()).expect("some values").to_vec();
    let suits = rng.f32() < 0.6;
    let is_stream = entry.group == "stream";
    match (&*argument.name, argument.kind) {
        ("milliseconds", _) if argument.token.as_deref() == Some("BLOCK") => of(WAITS_MS, rng),
        ("timeout", Kind::Integer) => of(WAITS_MS, rng),
        ("timeout", _) => of(WAITS, rng),
        // No two are the same, for GT and LT would show which of the servers is the faster.
        ("seconds" | "milliseconds" | "ttl" | "min-idle-time" | "ms", _) if suits => {
            rng.u32(1_000_000..100_000_000).to_string().into()
        }
        ("seconds" | "milliseconds" | "ttl" | "min-idle-time" | "ms", _) => of(SPANS, rng),
        (_, Kind::UnixTime) => of(MOMENTS, rng),
        ("cursor", _) => of(&[b"0", b"0", b"1", b"x", b"18446744073709551615", b"18446744073709551616"], rng),
        ("numreplicas", _) => of(&[b"0", b"1", b"-1", b"x"], rng),
        ("db" | "destination-db" | "index1" | "index2", _) => {
            of(&[b"0", b"1", b"15", b"16", b"-1", b"x"], rng)
        }
        ("longitude" | "latitude", _) if suits => of(&[b"13.5", b"15", b"38", b"-120", b"90"], rng),
        ("radius" | "width" | "height", _) if suits => of(&[b"100", b"300", b"0", b"-1"], rng),
        ("encoding", _) => of(&[b"i8", b"u4", b"u63", b"i64", b"u64", b"x", b""], rng),
        ("offset", _) if entry.group == "bitmap" => {
            of(&[b"0", b"7", b"#1", b"#x", b"100", b"-1", b"4294967296", b"x"], rng)
        }
        ("version", _) => of(&[b"9"], rng),
        ("count" | "num-matches" | "rank" | "limit" | "len" | "index" | "offset", Kind::Integer) if suits => {
            of(SMALL, rng)
        }
        ("start" | "stop" | "end" | "min" | "max" | "threshold", Kind::Text) => of(BOUNDS, rng),
        ("min" | "max", _) => of(&[b"-inf", b"+inf", b"(1", b"1", b"3", b"x", b"(", b""], rng),
        ("start" | "stop" | "end", _) if suits => of(SMALL, rng),
        ("id" | "last-id" | "lastid" | "max_deleted_entry_id", _) if is_stream => of(STREAM_IDS, rng),
        ("group" | "groupname", _) => of(&[b"g", b"g", b"nothing", b""], rng),
        ("consumer" | "consumername", _) => of(&[b"c", b"d", b""], rng),
        ("field", _) => of(FIELDS, rng),
        ("member" | "member1" | "member2" | "element" | "pivot", _) => of(MEMBERS, rng),
        ("script", _) => of(SCRIPTS, rng),
        ("sha1", _) => of(
            &[b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db", b"0000000000000000000000000000000000000000", b"x"],
            rng,
        ),
        ("function", _) => of(&[b"f", b"nothing"], rng),
        ("function-code", _) => of(&[LIBRARY, b"#!lua name=lib2\n(", b"", b"#!js name=x\n"], rng),
        ("library-name" | "library-name-pattern", _) => of(&[b"lib", b"l*", b"nothing", b""], rng),
        ("serialized-value", _) => of(&[DUMPED, DUMPED, b"junk", b""], rng),
        ("operation", _) => of(&[b"AND", b"or", b"XOR", b"NOT", b"nothing"], rng),
        ("type", _) => of(&[b"string", b"ZSET", b"nothing"], rng),
        ("username", _) => of(&[b"default", b"limited", b"nobody", b""], rng),
        ("category" | "categoryname", _) => of(&[b"geo", b"@geo", b"nothing"], rng),
        ("command" | "command-name", _) => of(&[b"get", b"GETRANGE", b"config|set", b"nothing", b""], rng),
        ("parameter", _) => of(&[b"maxmemory-policy", b"hash-max-listpack-*", b"nothing"], rng),
        ("section", _) => of(&[b"server", b"clients", b"nothing", b"all"], rng),
        ("pattern", _) => of(PATTERNS, rng),
        ("connection-name" | "clientname", _) => of(&[b"me", b"", b"not me", BINARY], rng),
        ("channel" | "shardchannel", _) => of(&[b"ch", b"other", b"", BINARY], rng),
        (_, Kind::Integer) => of(if suits { SMALL } else { INTEGERS }, rng),
        (_, Kind::Double) => of(DOUBLES, rng),
        _ => of(TEXTS, rng),
    }
}

/// A key that suits the group, or any other.
fn key(group: &str, rng: &mut Rng) -> Vec<u8> {
    let suiting = KEYS.iter().find(|(name, _)| *name == group).map_or(&[][..], |(_, keys)| keys);
    let missing: &[u8] = b"missing";
    let all: Vec<&[u8]> = KEYS.iter().flat_map(|(_, keys)| keys.iter().copied()).chain([missing]).collect();
    let from = if !suiting.is_empty() && rng.f32() < 0.65 { suiting } else { &all };
    rng.choice(from.iter()).expect("some keys").to_vec()
}
