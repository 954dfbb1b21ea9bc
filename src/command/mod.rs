//! What a command is to a caching proxy.
//!
//! A request is looked up once in the [`Table`]: may its reply be served from memory, which keys does it read and
//! change, does it block, does it belong to the session rather than to the server? The rows of the commands we know
//! are data (`rows.rs`); commands of modules and of newer servers are added from the server's own `COMMAND` answer
//! (`server.rs`). Everything here is pure, and the lookup stands on the path of every hit, so it never allocates.
//!
//! It does not validate: arity and syntax stay the server's business, so that its errors reach the client unchanged.
//! Malformed arguments therefore never panic; they merely yield the keys that can be found (see
//! [`Command::for_each_key`] for why too few are safe there).

mod keys;
mod missing;
mod name;
mod rows;
mod server;
mod table;

use keys::Keys;
pub use keys::{Extent, KeySpec, Start};
pub use missing::MissingReply;
pub use server::{Malformed, ServerCommand, ServerKeySpec};
pub use table::{NotCacheable, Table};

use crate::resp::Args;

/// The arguments of one request, its command name at 0.
///
/// A trait, so that the parser's view of a request and a plain slice serve alike.
pub trait Arguments {
    /// How many there are, the command's name included.
    fn len(&self) -> usize;

    /// The argument at `index`, or nothing past the end.
    fn get(&self, index: usize) -> Option<&[u8]>;

    /// Whether not even a name was given.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Arguments for [&[u8]] {
    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        <[_]>::get(self, index).copied()
    }
}

impl Arguments for Args<'_> {
    fn len(&self) -> usize {
        Args::len(*self)
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        Args::get(*self, index)
    }
}

impl Arguments for &[&[u8]] {
    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        <[_]>::get(self, index).copied()
    }
}

/// The number of a command's row: part of a cached variant's identity, so no two commands share one, however alike
/// they are (SUBSTR and GETRANGE).
///
/// Numbers of built-in rows are the same in every [`Table`] of this program. Those of rows added from a server hold
/// in that table and in whatever is extended from it, so a cache entry must not outlive them: a table built anew
/// belongs to a new incarnation of the server, which moves the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandId(pub u16);

/// Whether a reply is the same bytes in RESP2 and RESP3, so that one cached variant can serve both.
///
/// A nil that is the whole reply is disregarded, `$-1` against `_`: whoever serves it writes it as the client reads
/// it. That holds for `$-1` alone; a command that may answer a null *array* (`*-1`) is not the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// Always, whatever the arguments.
    Same,
    /// At least sometimes not: maps, sets, doubles, booleans, nested nils.
    Differs,
    /// Same unless this word, in upper case, stands among the arguments behind the key.
    SameUnless(&'static [u8]),
}

impl Sameness {
    /// Whether the reply to these very arguments is the same in both protocols.
    pub fn same<A: Arguments + ?Sized>(self, args: &A) -> bool {
        match self {
            Self::Same => true,
            Self::Differs => false,
            Self::SameUnless(word) => !(2..args.len())
                .any(|index| args.get(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word))),
        }
    }
}

/// A command that is answered from the session's own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name")]
pub enum Local {
    Ping,
    Echo,
    Hello,
    Auth,
    Select,
    Quit,
    Reset,
    Client,
    Command,
    Info,
    Proxy,
}

/// Which of the commands that enter or leave subscribed mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name")]
pub enum SubscribeKind {
    Subscribe,
    Psubscribe,
    Ssubscribe,
    Unsubscribe,
    Punsubscribe,
    Sunsubscribe,
}

/// How a request is treated. The session's dispatch is one match on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A read of exactly one key, always argument 1 (which is there), whose reply may be cached.
    Cached(Sameness),
    /// MGET, which is answered by parts.
    Mget,
    /// Changes nothing, and every key it reads is declared.
    Read,
    /// Changes nothing, but shows keys that it does not declare (KEYS, RANDOMKEY, `SORT_RO ... BY w_*`).
    ReadUndeclared,
    /// Changes no keys but those it declares.
    Write,
    /// Declares keys, but may touch others: scripts, functions, and `SORT ... GET o_* STORE dst`, whose result
    /// shows keys nobody declared.
    Script,
    /// Makes everything that is remembered worthless, whether by changing all keys or by changing who may read them:
    /// moves the generation.
    Flush,
    /// About the server or pub/sub: no key's contents are read or changed. Not to be sent twice: SHUTDOWN and PUBLISH
    /// are among them.
    Neutral,
    /// Ends what may hold up a shared connection (SCRIPT KILL), and so must not wait behind it.
    Urgent,
    /// The session's own.
    Session(Local),
    /// Begins a transaction.
    Multi,
    /// Runs the transaction.
    Exec,
    /// Drops the transaction.
    Discard,
    /// Watches keys; [`Command::for_each_key`] gives them as reads.
    Watch,
    /// Forgets the watched keys.
    Unwatch,
    /// Enters or leaves subscribed mode.
    Subscribe(SubscribeKind),
    /// Streams every command of the server to the client.
    Monitor,
    /// WAIT and WAITAOF, which count one connection's writes. They take their time, yet [`Command::blocks`] denies
    /// it: they need the very connection that wrote, not just any exclusive one.
    Wait,
    /// SCRIPT DEBUG, which changes what EVAL does on this connection.
    ScriptDebug,
    /// Never forwarded: it would turn a shared connection into a replication link (PSYNC), or make the server hang
    /// up on everybody who shares it (POST and HOST:, which Redis takes for an attack by way of a browser).
    Refused,
    /// Nothing is known: fence before the acknowledgement.
    Unknown,
}

impl Class {
    /// Whether it changes nothing anywhere, so that it may be sent again when the fate of the first try is unknown.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Cached(_) | Self::Mget | Self::Read | Self::ReadUndeclared)
    }
}

/// What a request does to one of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Its value reaches the client, or another key.
    Read,
    /// It may be changed. Said of every key of a command that changes something about the key without its value
    /// being touched, too (XREADGROUP, PFCOUNT): dropping too much is cheap.
    Write,
}

/// Whether a request may keep its connection waiting for somebody else's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// Never.
    No,
    /// Unless it is inside a transaction or a script.
    Always,
    /// XREAD and XREADGROUP with the option BLOCK.
    WhenBlockGiven,
}

/// The users that a request may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Users {
    /// None.
    #[default]
    None,
    /// Those who authenticate.
    Named,
    /// The one too whom the server takes everybody else for.
    Default,
}

/// What the class of a row still depends on in the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Varies {
    /// Nothing.
    Never,
    /// A plain read, when there is no key: the server will refuse it.
    WithoutKey,
    /// A plain read, unless there is exactly one key (EXISTS).
    UnlessOneKey,
    /// The options BY, GET and STORE of SORT.
    Sort,
    /// The options BY and GET of `SORT_RO`.
    SortReadOnly,
}

/// One row of the [`Table`]: all that is known of a command or a subcommand.
#[derive(Clone, Debug)]
pub struct Command {
    /// The name as the server writes it: `get`, `config|set`.
    pub name: String,
    /// The number of the row.
    pub id: CommandId,
    /// Whether it may wait; ask [`Command::blocks`].
    pub blocking: Blocking,
    class: Class,
    varies: Varies,
    keys: Keys,
    /// The container this is a subcommand of, or row 0.
    container: CommandId,
    /// Whether the class is in the second argument.
    is_container: bool,
}

impl Command {
    /// How a request with these arguments is treated.
    pub fn class<A: Arguments + ?Sized>(&self, args: &A) -> Class {
        match self.varies {
            Varies::WithoutKey if args.len() < 2 => Class::Read,
            Varies::UnlessOneKey if args.len() != 2 => Class::Read,
            Varies::Never | Varies::WithoutKey | Varies::UnlessOneKey => self.class,
            Varies::Sort => {
                let options = keys::sort_options(args);
                match (options.store, options.follows) {
                    (None, false) => Class::Read,
                    (None, true) => Class::ReadUndeclared,
                    (Some(_), false) => Class::Write,
                    (Some(_), true) => Class::Script,
                }
            }
            Varies::SortReadOnly if keys::sort_options(args).follows => Class::ReadUndeclared,
            Varies::SortReadOnly => Class::Read,
        }
    }

    /// Calls `visit` for every key the request declares, in the order of the arguments where the command's syntax
    /// allows. A key given twice is visited twice (`MSET a 1 a 2`). Keys have no database: those of COPY and MOVE may
    /// lie in another one than the client's.
    ///
    /// Where the arguments are malformed (no STREAMS in an XREAD, no number where a number of keys belongs) there may
    /// be none. For a write that is safe: the server reads the same words by the same rules, finds no keys either and
    /// refuses the command before it has touched anything.
    pub fn for_each_key<'a, A: Arguments + ?Sized>(&self, args: &'a A, visit: impl FnMut(&'a [u8], Access)) {
        self.keys.for_each(args, visit);
    }

    /// Whether it reads a hash, whose fields may expire by themselves (Redis 7.4) without the key's knowledge.
    pub fn reads_hash(&self) -> bool {
        self.name.starts_with('h')
    }

    /// Whose rights, or password, it may change.
    pub fn changes_users<A: Arguments + ?Sized>(&self, args: &A) -> Users {
        let is_password =
            |index| args.get(index).is_some_and(|name| name.eq_ignore_ascii_case(b"requirepass"));
        match &*self.name {
            "acl|deluser" => Users::Named,
            "acl|setuser" if args.get(2) != Some(b"default") => Users::Named,
            "acl" | "acl|setuser" | "acl|load" => Users::Default,
            "config|set" if (2..args.len()).step_by(2).any(is_password) => Users::Default,
            _ => Users::None,
        }
    }

    /// Whether neither nearhit nor the server's answer to COMMAND knows it. It may still be one: COMMAND tells the old
    /// names of what `rename-command` has renamed.
    pub fn is_unheard_of(&self) -> bool {
        self.id == table::UNKNOWN
    }

    /// Whether this request may wait for another client's write, and so must not travel on a shared connection.
    pub fn blocks<A: Arguments + ?Sized>(&self, args: &A) -> bool {
        match self.blocking {
            Blocking::No => false,
            Blocking::Always => true,
            Blocking::WhenBlockGiven => keys::stream_options(args).blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<&[u8]> {
        line.split_ascii_whitespace().map(str::as_bytes).collect()
    }

    fn class(line: &str) -> Class {
        let args = words(line);
        let table = Table::builtin();
        table.lookup(args[0], args.get(1).copied()).class(&args[..])
    }

    fn blocks(line: &str) -> bool {
        let args = words(line);
        Table::builtin().lookup(args[0], args.get(1).copied()).blocks(&args[..])
    }

    #[test]
    fn users_are_changed_by_few_commands() {
        let users = |line: &str| {
            let args = words(line);
            let table = Table::builtin();
            table.lookup(args[0], args.get(1).copied()).changes_users(&args[..])
        };
        for line in [
            "ACL SETUSER default off",
            "acl load",
            "config set Requirepass p",
            "CONFIG SET a b requirepass p",
        ] {
            assert_eq!(users(line), Users::Default, "{line}");
        }
        assert_eq!(users("ACL SETUSER alice off"), Users::Named);
        assert_eq!(users("ACL DELUSER alice default"), Users::Named);
        for line in
            ["ACL LIST", "CONFIG SET a requirepass", "CONFIG GET requirepass", "SET acl load", "CONFIG SET"]
        {
            assert_eq!(users(line), Users::None, "{line}");
        }
    }

    #[test]
    fn exists_and_type_are_cached_with_exactly_one_key() {
        assert_eq!(class("EXISTS a"), Class::Cached(Sameness::Same));
        assert_eq!(class("exists a b"), Class::Read);
        assert_eq!(class("EXISTS"), Class::Read);
        assert_eq!(class("TYPE a"), Class::Cached(Sameness::Same));
        assert_eq!(class("TYPE a b"), Class::Read);
    }

    #[test]
    fn a_cached_read_without_its_key_is_a_plain_read() {
        assert_eq!(class("GET"), Class::Read);
        assert_eq!(class("MGET"), Class::Read);
        assert_eq!(class("GET a"), Class::Cached(Sameness::Same));
        assert_eq!(class("MGET a"), Class::Mget);
    }

    #[test]
    fn sort_is_classed_by_its_options() {
        assert_eq!(class("SORT k LIMIT 0 5 DESC ALPHA"), Class::Read);
        assert_eq!(class("SORT k BY nosort GET # STORE d"), Class::Write);
        assert_eq!(class("SORT k BY w_*"), Class::ReadUndeclared);
        assert_eq!(class("SORT k GET o_*->f"), Class::ReadUndeclared);
        assert_eq!(class("SORT k GET o_* STORE d"), Class::Script);
        assert_eq!(class("SORT k BY store DESC"), Class::Read, "STORE is BY's pattern here");
        assert_eq!(class("SORT_RO k"), Class::Read);
        assert_eq!(class("SORT_RO k BY w_*"), Class::ReadUndeclared);
    }

    #[test]
    fn only_reads_may_be_sent_again() {
        for line in ["GET a", "MGET a", "SINTER a b", "KEYS *"] {
            assert!(class(line).is_read(), "{line}");
        }
        for line in [
            "SET a b",
            "EVAL x 0",
            "SHUTDOWN",
            "PUBLISH c m",
            "FLUSHALL",
            "NOSUCH",
            "XREADGROUP",
            "PFCOUNT a",
        ] {
            assert!(!class(line).is_read(), "{line}");
        }
    }

    #[test]
    fn a_word_that_changes_the_reply_is_found_in_any_case_behind_the_key() {
        let with_scores = Sameness::SameUnless(b"WITHSCORES");
        assert!(with_scores.same(&words("ZRANGE k 0 -1")[..]));
        assert!(!with_scores.same(&words("ZRANGE k 0 -1 withScores")[..]));
        assert!(with_scores.same(&words("ZRANGE WITHSCORES 0 -1")[..]), "the key is no option");
        assert!(Sameness::Same.same(&words("GET k")[..]));
        assert!(!Sameness::Differs.same(&words("HGETALL k")[..]));
    }

    #[test]
    fn block_counts_as_an_option_only() {
        assert!(blocks("BLPOP a 0"));
        assert!(!blocks("LPOP a"));
        assert!(blocks("XREAD COUNT 2 block 100 STREAMS a 0"));
        assert!(!blocks("XREAD STREAMS block 0"));
        assert!(!blocks("XREADGROUP GROUP block block NOACK STREAMS s >"));
        assert!(blocks("XREADGROUP GROUP g c CLAIM 5 BLOCK 1 STREAMS s >"));
        assert!(!blocks("WAIT 1 0"));
    }
}
