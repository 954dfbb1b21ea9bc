//! The commands we know: data, one row each.
//!
//! Up to Redis 8.6 and Valkey 9.1, their modules excepted (those tell about themselves, see `server.rs`). A row holds
//! the name as the server lists it, how requests of it are treated, and where their keys are. What a class or an
//! access means is said where they are declared. A subcommand that has no row gets its container's, which is
//! *unknown*: fenced, never wrong.
//!
//! `tests/command_table.rs` holds every row against a real server: its flags, its keys, and the bytes of its replies
//! in both protocols.

use std::borrow::Cow;

use super::{
    Access::{self, Read, Write},
    Blocking, Class, Extent, KeySpec, Local, Sameness, Start, SubscribeKind, Varies,
    keys::Keys,
};

/// What the table is made from.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) class: Class,
    pub(super) keys: Keys,
    pub(super) blocking: Blocking,
    pub(super) varies: Varies,
}

/// A row whose class follows from its name alone.
const fn row(name: &'static str, class: Class, keys: Keys) -> Row {
    Row { name, class, keys, blocking: Blocking::No, varies: Varies::Never }
}

/// A row of the allowlist: a read of the one key at argument 1, whose reply may be cached.
const fn cached(name: &'static str, sameness: Sameness) -> Row {
    row(name, Class::Cached(sameness), KEY).varies(Varies::WithoutKey)
}

impl Row {
    const fn blocks(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
    }

    const fn varies(mut self, varies: Varies) -> Self {
        self.varies = varies;
        self
    }
}

const fn spec(start: usize, extent: Extent, access: Access) -> KeySpec {
    KeySpec { start: Start::At(start), extent, access }
}

const fn specs(specs: &'static [KeySpec]) -> Keys {
    Keys::Specs(Cow::Borrowed(specs))
}

const ONE: Extent = Extent::Range { last: 0, step: 1, limit: 0 };
const TWO: Extent = Extent::Range { last: 1, step: 1, limit: 0 };
const REST: Extent = Extent::Range { last: -1, step: 1, limit: 0 };
const ALL_BUT_LAST: Extent = Extent::Range { last: -2, step: 1, limit: 0 };
const COUNTED: Extent = Extent::Count { number: 0, first: 1, step: 1 };
const COUNTED_PAIRS: Extent = Extent::Count { number: 0, first: 1, step: 2 };

// Shapes of key lists: `_2` begins at argument 2, `_W` writes.
const NONE: Keys = Keys::None;
const KEY: Keys = Keys::First(Read);
const KEY_W: Keys = Keys::First(Write);
const EVERY: Keys = Keys::Every(Read);
const EVERY_W: Keys = Keys::Every(Write);
const KEY_2: Keys = specs(const { &[spec(2, ONE, Read)] });
const KEY_2_W: Keys = specs(const { &[spec(2, ONE, Write)] });
const REST_2: Keys = specs(const { &[spec(2, REST, Read)] });
const PAIR: Keys = specs(const { &[spec(1, TWO, Read)] });
const BLOCKING_W: Keys = specs(const { &[spec(1, ALL_BUT_LAST, Write)] });
const MOVES: Keys = specs(const { &[spec(1, TWO, Write)] });
const COPIES: Keys = specs(const { &[spec(1, ONE, Read), spec(2, ONE, Write)] });
const STORES_ONE: Keys = specs(const { &[spec(1, ONE, Write), spec(2, ONE, Read)] });
const STORES_REST: Keys = specs(const { &[spec(1, ONE, Write), spec(2, REST, Read)] });
const STORES_COUNTED: Keys = specs(const { &[spec(1, ONE, Write), spec(2, COUNTED, Read)] });
const BIT_OPERATION: Keys = specs(const { &[spec(2, ONE, Write), spec(3, REST, Read)] });
const COUNTED_1: Keys = specs(const { &[spec(1, COUNTED, Read)] });
const COUNTED_1_W: Keys = specs(const { &[spec(1, COUNTED, Write)] });
const COUNTED_2: Keys = specs(const { &[spec(2, COUNTED, Read)] });
const COUNTED_2_W: Keys = specs(const { &[spec(2, COUNTED, Write)] });
const COUNTED_PAIRS_W: Keys = specs(const { &[spec(1, COUNTED_PAIRS, Write)] });
const AFTER_KEYS: Keys = specs(
    const {
        &[KeySpec {
            start: Start::After { word: Cow::Borrowed(b"KEYS"), from: 2 },
            extent: TWO,
            access: Read,
        }]
    },
);

const SAME: Sameness = Sameness::Same;
const DIFFERS: Sameness = Sameness::Differs;
/// Scores are doubles in RESP3, and each goes with its member into an array of its own.
const UNLESS_SCORES: Sameness = Sameness::SameUnless(b"WITHSCORES");
const UNLESS_SCORE: Sameness = Sameness::SameUnless(b"WITHSCORE");
/// Coordinates are doubles in RESP3; distances and hashes are not.
const UNLESS_COORDINATES: Sameness = Sameness::SameUnless(b"WITHCOORD");
/// XRANGE with a COUNT of 0 answers the null array, `*-1`.
const UNLESS_COUNT: Sameness = Sameness::SameUnless(b"COUNT");

use Class::{
    Discard, Exec, Flush, Mget, Monitor, Multi, Neutral, ReadUndeclared, Refused, Script, ScriptDebug,
    Session, Subscribe, Unknown, Unwatch, Urgent, Wait, Watch,
};
const READ: Class = Class::Read;
const WRITE: Class = Class::Write;

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    // Strings and bits.
    cached("get",                   SAME),
    cached("strlen",                SAME),
    cached("getrange",              SAME),
    cached("substr",                SAME),
    cached("getbit",                SAME),
    cached("bitcount",              SAME),
    cached("bitpos",                SAME),
    cached("bitfield_ro",           SAME),
    row("mget",                     Mget,           EVERY).varies(Varies::WithoutKey),
    row("digest",                   READ,           KEY),
    row("lcs",                      READ,           PAIR),
    row("stralgo",                  READ,           AFTER_KEYS),     // Redis 6 only
    row("set",                      WRITE,          KEY_W),
    row("setnx",                    WRITE,          KEY_W),
    row("setex",                    WRITE,          KEY_W),
    row("psetex",                   WRITE,          KEY_W),
    row("setrange",                 WRITE,          KEY_W),
    row("setbit",                   WRITE,          KEY_W),
    row("bitfield",                 WRITE,          KEY_W),          // with GET alone it only reads
    row("bitop",                    WRITE,          BIT_OPERATION),
    row("append",                   WRITE,          KEY_W),
    row("incr",                     WRITE,          KEY_W),
    row("incrby",                   WRITE,          KEY_W),
    row("incrbyfloat",              WRITE,          KEY_W),
    row("decr",                     WRITE,          KEY_W),
    row("decrby",                   WRITE,          KEY_W),
    row("getset",                   WRITE,          KEY_W),
    row("getdel",                   WRITE,          KEY_W),
    row("getex",                    WRITE,          KEY_W),
    row("mset",                     WRITE,          Keys::Pairs),
    row("msetnx",                   WRITE,          Keys::Pairs),
    row("msetex",                   WRITE,          COUNTED_PAIRS_W),
    row("delex",                    WRITE,          KEY_W),
    row("delifeq",                  WRITE,          KEY_W),
    row("pfadd",                    WRITE,          KEY_W),
    row("pfcount",                  WRITE,          EVERY_W),        // it stores the count it computes
    row("pfmerge",                  WRITE,          STORES_REST),
    row("pfdebug",                  WRITE,          KEY_2_W),
    row("pfselftest",               Neutral,        NONE),

    // Hashes.
    cached("hget",                  SAME),
    cached("hmget",                 DIFFERS),
    cached("hgetall",               DIFFERS),
    cached("hkeys",                 SAME),
    cached("hvals",                 SAME),
    cached("hlen",                  SAME),
    cached("hexists",               SAME),
    cached("hstrlen",               SAME),
    row("hscan",                    READ,           KEY),
    row("hrandfield",               READ,           KEY),
    row("httl",                     READ,           KEY),
    row("hpttl",                    READ,           KEY),
    row("hexpiretime",              READ,           KEY),
    row("hpexpiretime",             READ,           KEY),
    row("hset",                     WRITE,          KEY_W),
    row("hmset",                    WRITE,          KEY_W),
    row("hsetnx",                   WRITE,          KEY_W),
    row("hsetex",                   WRITE,          KEY_W),
    row("hgetex",                   WRITE,          KEY_W),
    row("hgetdel",                  WRITE,          KEY_W),
    row("hdel",                     WRITE,          KEY_W),
    row("hincrby",                  WRITE,          KEY_W),
    row("hincrbyfloat",             WRITE,          KEY_W),
    row("hexpire",                  WRITE,          KEY_W),
    row("hpexpire",                 WRITE,          KEY_W),
    row("hexpireat",                WRITE,          KEY_W),
    row("hpexpireat",               WRITE,          KEY_W),
    row("hpersist",                 WRITE,          KEY_W),

    // Lists.
    cached("lrange",                SAME),
    cached("lindex",                SAME),
    cached("llen",                  SAME),
    cached("lpos",                  SAME),
    row("lpush",                    WRITE,          KEY_W),
    row("lpushx",                   WRITE,          KEY_W),
    row("rpush",                    WRITE,          KEY_W),
    row("rpushx",                   WRITE,          KEY_W),
    row("lpop",                     WRITE,          KEY_W),
    row("rpop",                     WRITE,          KEY_W),
    row("lset",                     WRITE,          KEY_W),
    row("lrem",                     WRITE,          KEY_W),
    row("ltrim",                    WRITE,          KEY_W),
    row("linsert",                  WRITE,          KEY_W),
    row("lmove",                    WRITE,          MOVES),
    row("rpoplpush",                WRITE,          MOVES),
    row("lmpop",                    WRITE,          COUNTED_1_W),
    row("blpop",                    WRITE,          BLOCKING_W)  .blocks(Blocking::Always),
    row("brpop",                    WRITE,          BLOCKING_W)  .blocks(Blocking::Always),
    row("blmove",                   WRITE,          MOVES)       .blocks(Blocking::Always),
    row("brpoplpush",               WRITE,          MOVES)       .blocks(Blocking::Always),
    row("blmpop",                   WRITE,          COUNTED_2_W) .blocks(Blocking::Always),

    // Sets.
    cached("smembers",              DIFFERS),
    cached("sismember",             SAME),
    cached("smismember",            SAME),
    cached("scard",                 SAME),
    row("sscan",                    READ,           KEY),
    row("srandmember",              READ,           KEY),
    row("sinter",                   READ,           EVERY),
    row("sunion",                   READ,           EVERY),
    row("sdiff",                    READ,           EVERY),
    row("sintercard",               READ,           COUNTED_1),
    row("sadd",                     WRITE,          KEY_W),
    row("srem",                     WRITE,          KEY_W),
    row("spop",                     WRITE,          KEY_W),
    row("smove",                    WRITE,          MOVES),
    row("sinterstore",              WRITE,          STORES_REST),
    row("sunionstore",              WRITE,          STORES_REST),
    row("sdiffstore",               WRITE,          STORES_REST),

    // Sorted sets.
    cached("zscore",                DIFFERS),
    cached("zmscore",               DIFFERS),
    cached("zrank",                 UNLESS_SCORE),
    cached("zrevrank",              UNLESS_SCORE),
    cached("zcard",                 SAME),
    cached("zcount",                SAME),
    cached("zlexcount",             SAME),
    cached("zrange",                UNLESS_SCORES),
    cached("zrangebyscore",         UNLESS_SCORES),
    cached("zrangebylex",           SAME),
    cached("zrevrange",             UNLESS_SCORES),
    cached("zrevrangebyscore",      UNLESS_SCORES),
    cached("zrevrangebylex",        SAME),
    row("zscan",                    READ,           KEY),
    row("zrandmember",              READ,           KEY),
    row("zunion",                   READ,           COUNTED_1),
    row("zinter",                   READ,           COUNTED_1),
    row("zdiff",                    READ,           COUNTED_1),
    row("zintercard",               READ,           COUNTED_1),
    row("zadd",                     WRITE,          KEY_W),
    row("zincrby",                  WRITE,          KEY_W),
    row("zrem",                     WRITE,          KEY_W),
    row("zremrangebyrank",          WRITE,          KEY_W),
    row("zremrangebyscore",         WRITE,          KEY_W),
    row("zremrangebylex",           WRITE,          KEY_W),
    row("zpopmin",                  WRITE,          KEY_W),
    row("zpopmax",                  WRITE,          KEY_W),
    row("zmpop",                    WRITE,          COUNTED_1_W),
    row("bzpopmin",                 WRITE,          BLOCKING_W)  .blocks(Blocking::Always),
    row("bzpopmax",                 WRITE,          BLOCKING_W)  .blocks(Blocking::Always),
    row("bzmpop",                   WRITE,          COUNTED_2_W) .blocks(Blocking::Always),
    row("zrangestore",              WRITE,          STORES_ONE),
    row("zunionstore",              WRITE,          STORES_COUNTED),
    row("zinterstore",              WRITE,          STORES_COUNTED),
    row("zdiffstore",               WRITE,          STORES_COUNTED),

    // Places.
    cached("geopos",                DIFFERS),
    cached("geodist",               SAME),
    cached("geohash",               DIFFERS),
    cached("geosearch",             UNLESS_COORDINATES),
    row("georadius_ro",             READ,           KEY),
    row("georadiusbymember_ro",     READ,           KEY),
    row("geoadd",                   WRITE,          KEY_W),
    row("georadius",                WRITE,          Keys::Georadius),
    row("georadiusbymember",        WRITE,          Keys::Georadius),
    row("geosearchstore",           WRITE,          STORES_ONE),

    // Streams.
    cached("xrange",                UNLESS_COUNT),
    cached("xrevrange",             UNLESS_COUNT),
    cached("xlen",                  SAME),
    row("xread",                    READ,           Keys::Streams(Read))  .blocks(Blocking::WhenBlockGiven),
    row("xreadgroup",               WRITE,          Keys::Streams(Write)) .blocks(Blocking::WhenBlockGiven),
    row("xpending",                 READ,           KEY),
    row("xinfo",                    Unknown,        NONE),
    row("xinfo|stream",             READ,           KEY_2),
    row("xinfo|groups",             READ,           KEY_2),
    row("xinfo|consumers",          READ,           KEY_2),
    row("xinfo|help",               Neutral,        NONE),
    row("xadd",                     WRITE,          KEY_W),
    row("xdel",                     WRITE,          KEY_W),
    row("xdelex",                   WRITE,          KEY_W),
    row("xtrim",                    WRITE,          KEY_W),
    row("xsetid",                   WRITE,          KEY_W),
    row("xcfgset",                  WRITE,          KEY_W),
    row("xack",                     WRITE,          KEY_W),
    row("xackdel",                  WRITE,          KEY_W),
    row("xclaim",                   WRITE,          KEY_W),
    row("xautoclaim",               WRITE,          KEY_W),
    row("xgroup",                   Unknown,        NONE),
    row("xgroup|create",            WRITE,          KEY_2_W),
    row("xgroup|createconsumer",    WRITE,          KEY_2_W),
    row("xgroup|delconsumer",       WRITE,          KEY_2_W),
    row("xgroup|destroy",           WRITE,          KEY_2_W),
    row("xgroup|setid",             WRITE,          KEY_2_W),
    row("xgroup|help",              Neutral,        NONE),

    // Vector sets (Redis 8).
    row("vcard",                    READ,           KEY),
    row("vdim",                     READ,           KEY),
    row("vemb",                     READ,           KEY),
    row("vgetattr",                 READ,           KEY),
    row("vinfo",                    READ,           KEY),
    row("vismember",                READ,           KEY),
    row("vlinks",                   READ,           KEY),
    row("vrandmember",              READ,           KEY),
    row("vrange",                   READ,           KEY),
    row("vsim",                     READ,           KEY),
    row("vadd",                     WRITE,          KEY_W),
    row("vrem",                     WRITE,          KEY_W),
    row("vsetattr",                 WRITE,          KEY_W),

    // Keys of any type.
    row("exists",                   Class::Cached(SAME), EVERY)  .varies(Varies::UnlessOneKey),
    row("type",                     Class::Cached(SAME), KEY)    .varies(Varies::UnlessOneKey),
    row("touch",                    READ,           EVERY),
    row("ttl",                      READ,           KEY),
    row("pttl",                     READ,           KEY),
    row("expiretime",               READ,           KEY),
    row("pexpiretime",              READ,           KEY),
    row("dump",                     READ,           KEY),
    row("object",                   Unknown,        NONE),
    row("object|encoding",          READ,           KEY_2),
    row("object|freq",              READ,           KEY_2),
    row("object|idletime",          READ,           KEY_2),
    row("object|refcount",          READ,           KEY_2),
    row("object|help",              Neutral,        NONE),
    row("keys",                     ReadUndeclared, NONE),
    row("scan",                     ReadUndeclared, NONE),
    row("clusterscan",              ReadUndeclared, NONE),
    row("randomkey",                ReadUndeclared, NONE),
    row("dbsize",                   ReadUndeclared, NONE),
    row("sort_ro",                  ReadUndeclared, KEY)         .varies(Varies::SortReadOnly),
    row("sort",                     WRITE,          Keys::Sort)  .varies(Varies::Sort),
    row("del",                      WRITE,          EVERY_W),
    row("unlink",                   WRITE,          EVERY_W),
    row("expire",                   WRITE,          KEY_W),
    row("pexpire",                  WRITE,          KEY_W),
    row("expireat",                 WRITE,          KEY_W),
    row("pexpireat",                WRITE,          KEY_W),
    row("persist",                  WRITE,          KEY_W),
    row("rename",                   WRITE,          MOVES),
    row("renamenx",                 WRITE,          MOVES),
    row("copy",                     WRITE,          COPIES),
    row("move",                     WRITE,          KEY_W),
    row("restore",                  WRITE,          KEY_W),
    row("restore-asking",           WRITE,          KEY_W),
    row("migrate",                  WRITE,          Keys::Migrate),
    row("flushall",                 Flush,          NONE),
    row("flushdb",                  Flush,          NONE),
    row("swapdb",                   Flush,          NONE),
    row("sflush",                   Flush,          NONE),
    row("trimslots",                Flush,          NONE),

    // Scripts and functions.
    row("eval",                     Script,         COUNTED_2_W),
    row("evalsha",                  Script,         COUNTED_2_W),
    row("fcall",                    Script,         COUNTED_2_W),
    row("eval_ro",                  ReadUndeclared, COUNTED_2),
    row("evalsha_ro",               ReadUndeclared, COUNTED_2),
    row("fcall_ro",                 ReadUndeclared, COUNTED_2),
    row("script",                   Unknown,        NONE),
    row("script|debug",             ScriptDebug,    NONE),
    row("script|exists",            Neutral,        NONE),
    row("script|flush",             Neutral,        NONE),
    row("script|kill",              Urgent,         NONE),
    row("script|load",              Neutral,        NONE),
    row("script|show",              Neutral,        NONE),
    row("script|help",              Neutral,        NONE),
    row("function",                 Unknown,        NONE),
    row("function|dump",            Neutral,        NONE),
    row("function|list",            Neutral,        NONE),
    row("function|stats",           Neutral,        NONE),
    row("function|kill",            Urgent,         NONE),
    row("function|help",            Neutral,        NONE),
    row("function|load",            Unknown,        NONE),
    row("function|delete",          Unknown,        NONE),
    row("function|flush",           Unknown,        NONE),
    row("function|restore",         Unknown,        NONE),

    // Transactions.
    row("multi",                    Multi,          NONE),
    row("exec",                     Exec,           NONE),
    row("discard",                  Discard,        NONE),
    row("watch",                    Watch,          EVERY),
    row("unwatch",                  Unwatch,        NONE),

    // Messages.
    row("subscribe",                Subscribe(SubscribeKind::Subscribe),    NONE),
    row("psubscribe",               Subscribe(SubscribeKind::Psubscribe),   NONE),
    row("ssubscribe",               Subscribe(SubscribeKind::Ssubscribe),   NONE),
    row("unsubscribe",              Subscribe(SubscribeKind::Unsubscribe),  NONE),
    row("punsubscribe",             Subscribe(SubscribeKind::Punsubscribe), NONE),
    row("sunsubscribe",             Subscribe(SubscribeKind::Sunsubscribe), NONE),
    row("publish",                  Neutral,        NONE),
    row("spublish",                 Neutral,        NONE),
    row("pubsub",                   Unknown,        NONE),
    row("pubsub|channels",          Neutral,        NONE),
    row("pubsub|numpat",            Neutral,        NONE),
    row("pubsub|numsub",            Neutral,        NONE),
    row("pubsub|shardchannels",     Neutral,        NONE),
    row("pubsub|shardnumsub",       Neutral,        NONE),
    row("pubsub|help",              Neutral,        NONE),

    // The session's own.
    row("ping",                     Session(Local::Ping),    NONE),
    row("echo",                     Session(Local::Echo),    NONE),
    row("hello",                    Session(Local::Hello),   NONE),
    row("auth",                     Session(Local::Auth),    NONE),
    row("select",                   Session(Local::Select),  NONE),
    row("quit",                     Session(Local::Quit),    NONE),
    row("reset",                    Session(Local::Reset),   NONE),
    row("client",                   Session(Local::Client),  NONE),
    row("command",                  Session(Local::Command), NONE),
    row("info",                     Session(Local::Info),    NONE),
    row("proxy",                    Session(Local::Proxy),   NONE),

    // The server.
    row("time",                     Neutral,        NONE),
    row("lolwut",                   Neutral,        NONE),
    row("lastsave",                 Neutral,        NONE),
    row("save",                     Neutral,        NONE),
    row("bgsave",                   Neutral,        NONE),
    row("bgrewriteaof",             Neutral,        NONE),
    row("role",                     Neutral,        NONE),
    row("shutdown",                 Neutral,        NONE),
    row("readonly",                 Neutral,        NONE),
    row("readwrite",                Neutral,        NONE),
    row("asking",                   Neutral,        NONE),
    row("wait",                     Wait,           NONE),
    row("waitaof",                  Wait,           NONE),
    row("monitor",                  Monitor,        NONE),
    row("replicaof",                Flush,          NONE),
    row("slaveof",                  Flush,          NONE),
    row("failover",                 Flush,          NONE),
    row("sync",                     Refused,        NONE),
    row("psync",                    Refused,        NONE),
    row("replconf",                 Refused,        NONE),
    row("post",                     Refused,        NONE),
    row("host:",                    Refused,        NONE),
    row("acl",                      Unknown,        NONE),
    row("acl|setuser",              Flush,          NONE),
    row("acl|deluser",              Flush,          NONE),
    row("acl|load",                 Flush,          NONE),
    row("acl|cat",                  Neutral,        NONE),
    row("acl|dryrun",               Neutral,        NONE),
    row("acl|genpass",              Neutral,        NONE),
    row("acl|getuser",              Neutral,        NONE),
    row("acl|help",                 Neutral,        NONE),
    row("acl|list",                 Neutral,        NONE),
    row("acl|log",                  Neutral,        NONE),
    row("acl|save",                 Neutral,        NONE),
    row("acl|users",                Neutral,        NONE),
    row("acl|whoami",               Neutral,        NONE),
    row("config",                   Unknown,        NONE),
    row("config|get",               Neutral,        NONE),
    row("config|set",               WRITE,          NONE),
    row("config|resetstat",         Neutral,        NONE),
    row("config|rewrite",           Neutral,        NONE),
    row("config|help",              Neutral,        NONE),
    row("slowlog",                  Unknown,        NONE),
    row("slowlog|get",              Neutral,        NONE),
    row("slowlog|len",              Neutral,        NONE),
    row("slowlog|reset",            Neutral,        NONE),
    row("slowlog|help",             Neutral,        NONE),
    row("commandlog",               Unknown,        NONE),
    row("commandlog|get",           Neutral,        NONE),
    row("commandlog|len",           Neutral,        NONE),
    row("commandlog|reset",         Neutral,        NONE),
    row("commandlog|help",          Neutral,        NONE),
    row("hotkeys",                  Unknown,        NONE),
    row("hotkeys|get",              Neutral,        NONE),
    row("hotkeys|reset",            Neutral,        NONE),
    row("hotkeys|start",            Neutral,        NONE),
    row("hotkeys|stop",             Neutral,        NONE),
    row("hotkeys|help",             Neutral,        NONE),
    row("latency",                  Unknown,        NONE),
    row("latency|doctor",           Neutral,        NONE),
    row("latency|graph",            Neutral,        NONE),
    row("latency|histogram",        Neutral,        NONE),
    row("latency|history",          Neutral,        NONE),
    row("latency|latest",           Neutral,        NONE),
    row("latency|reset",            Neutral,        NONE),
    row("latency|help",             Neutral,        NONE),
    row("memory",                   Unknown,        NONE),
    row("memory|usage",             READ,           KEY_2),
    row("memory|doctor",            Neutral,        NONE),
    row("memory|malloc-stats",      Neutral,        NONE),
    row("memory|purge",             Neutral,        NONE),
    row("memory|stats",             Neutral,        NONE),
    row("memory|help",              Neutral,        NONE),
    row("module",                   Unknown,        NONE),
    row("module|list",              Neutral,        NONE),
    row("module|load",              Unknown,        NONE),
    row("module|loadex",            Unknown,        NONE),
    row("module|unload",            Unknown,        NONE),
    row("module|help",              Neutral,        NONE),

    // DEBUG, whose subcommands the server does not list. Those without a row are fenced (POPULATE signals its keys).
    row("debug",                    Unknown,        NONE),
    row("debug|reload",             Flush,          NONE),
    row("debug|loadaof",            Flush,          NONE),
    row("debug|flushall",           Flush,          NONE),
    row("debug|digest",             ReadUndeclared, NONE),
    row("debug|digest-value",       READ,           REST_2),
    row("debug|object",             READ,           KEY_2),
    row("debug|sdslen",             READ,           KEY_2),
    row("debug|listpack",           READ,           KEY_2),
    row("debug|ziplist",            READ,           KEY_2),
    row("debug|quicklist",          READ,           KEY_2),
    row("debug|htstats-key",        READ,           KEY_2),
    row("debug|htstats",            Neutral,        NONE),
    row("debug|error",              Neutral,        NONE),
    row("debug|help",               Neutral,        NONE),
    row("debug|jmap",               Neutral,        NONE),
    row("debug|log",                Neutral,        NONE),
    row("debug|protocol",           Neutral,        NONE),
    row("debug|set-active-expire",  Neutral,        NONE),
    row("debug|sleep",              Neutral,        NONE),
    row("debug|stringmatch-len",    Neutral,        NONE),
    row("debug|structsize",         Neutral,        NONE),

    // Clusters, which are not served yet: what changes one is fenced or flushes.
    row("cluster",                  Unknown,        NONE),
    row("cluster|failover",         Flush,          NONE),
    row("cluster|flushslot",        Flush,          NONE),
    row("cluster|replicate",        Flush,          NONE),
    row("cluster|reset",            Flush,          NONE),
    row("cluster|syncslots",        Refused,        NONE),
    row("cluster|addslots",         Unknown,        NONE),
    row("cluster|addslotsrange",    Unknown,        NONE),
    row("cluster|bumpepoch",        Unknown,        NONE),
    row("cluster|delslots",         Unknown,        NONE),
    row("cluster|delslotsrange",    Unknown,        NONE),
    row("cluster|flushslots",       Unknown,        NONE),
    row("cluster|forget",           Unknown,        NONE),
    row("cluster|meet",             Unknown,        NONE),
    row("cluster|migration",        Unknown,        NONE),
    row("cluster|migrateslots",     Unknown,        NONE),
    row("cluster|set-config-epoch", Unknown,        NONE),
    row("cluster|setslot",          Unknown,        NONE),
    row("cluster|countkeysinslot",  ReadUndeclared, NONE),
    row("cluster|getkeysinslot",    ReadUndeclared, NONE),
    row("cluster|count-failure-reports", Neutral,   NONE),
    row("cluster|getslotmigrations", Neutral,       NONE),
    row("cluster|help",             Neutral,        NONE),
    row("cluster|info",             Neutral,        NONE),
    row("cluster|keyslot",          Neutral,        NONE),
    row("cluster|links",            Neutral,        NONE),
    row("cluster|myid",             Neutral,        NONE),
    row("cluster|myshardid",        Neutral,        NONE),
    row("cluster|nodes",            Neutral,        NONE),
    row("cluster|replicas",         Neutral,        NONE),
    row("cluster|saveconfig",       Neutral,        NONE),
    row("cluster|shards",           Neutral,        NONE),
    row("cluster|slaves",           Neutral,        NONE),
    row("cluster|slot-stats",       Neutral,        NONE),
    row("cluster|slots",            Neutral,        NONE),
];
