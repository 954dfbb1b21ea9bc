//! Where the keys of a request are.
//!
//! Most commands have theirs in one of three shapes that need no interpreting. The others are described as the
//! server describes them (the *key specifications* of Redis 7: where to start, how far to go), which is also the form
//! in which commands learned from the server arrive. Four commands escape that language and are walked by hand, by
//! the rules of `db.c` in the server's source.
//!
//! Nothing here judges whether arguments make sense, and nothing here can panic on them.

use std::borrow::Cow;

use super::{Access, Arguments};

/// The keys of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    None,
    /// Argument 1.
    First(Access),
    /// All arguments.
    Every(Access),
    /// Every other argument, from 1 (MSET).
    Pairs,
    /// As the server would describe them.
    Specs(Cow<'static, [KeySpec]>),
    Sort,
    Georadius,
    Migrate,
    Streams(Access),
}

/// One run of keys, with one access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Where it begins.
    pub start: Start,
    /// How far it goes.
    pub extent: Extent,
    /// What is done to its keys.
    pub access: Access,
}

/// Where a run of keys begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this argument.
    At(usize),
    /// Behind the first occurrence of a word, searched from an argument on; from a negative one, counted from the
    /// end, towards the front. No word, no keys.
    After {
        /// The word, in any case.
        word: Cow<'static, [u8]>,
        /// The first argument that may be the word.
        from: i64,
    },
}

/// How far a run of keys goes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// To a last argument.
    Range {
        /// The last key, relative to the first; a negative one counts from the end of the request, -1 being the
        /// last argument.
        last: i64,
        /// From key to key.
        step: usize,
        /// With a `last` of -1: the keys are the first `1 / limit` of the arguments that are left (XREAD: half of
        /// them, the other half being ids). 0 and 1 are no limit.
        limit: usize,
    },
    /// As many keys as an argument says.
    Count {
        /// The argument with the number, relative to the start.
        number: usize,
        /// The first key, relative to the start.
        first: usize,
        /// From key to key.
        step: usize,
    },
}

impl Keys {
    /// Visits every key.
    #[inline]
    pub(super) fn for_each<'a, A: Arguments + ?Sized>(
        &self,
        args: &'a A,
        mut visit: impl FnMut(&'a [u8], Access),
    ) {
        match self {
            Self::None => {}
            Self::First(access) => {
                if let Some(key) = args.get(1) {
                    visit(key, *access);
                }
            }
            Self::Every(access) => visit_all(args, 1..args.len(), 1, *access, visit),
            Self::Pairs => visit_all(args, 1..args.len(), 2, Access::Write, visit),
            Self::Specs(specs) => specs.iter().for_each(|spec| spec.for_each(args, &mut visit)),
            Self::Sort => {
                visit_all(args, 1..2, 1, Access::Read, &mut visit);
                if let Some(key) = sort_options(args).store.and_then(|at| args.get(at)) {
                    visit(key, Access::Write);
                }
            }
            Self::Georadius => {
                visit_all(args, 1..2, 1, Access::Read, &mut visit);
                visit_georadius_stores(args, visit);
            }
            Self::Migrate => {
                let (from, to) = migrate_keys(args);
                visit_all(args, from..to, 1, Access::Write, visit);
            }
            Self::Streams(access) => {
                let Some(from) = stream_options(args).keys_from else { return };
                let count = (args.len() - from) / 2;
                visit_all(args, from..from + count, 1, *access, visit);
            }
        }
    }
}

impl KeySpec {
    fn for_each<'a, A: Arguments + ?Sized>(&self, args: &'a A, visit: impl FnMut(&'a [u8], Access)) {
        let Some(start) = self.start.find(args) else { return };
        match self.extent {
            Extent::Range { last, step, limit } => {
                let left = args.len().saturating_sub(start);
                let end = match (usize::try_from(last), limit) {
                    (Ok(last), _) => start.saturating_add(last).saturating_add(1),
                    (Err(_), 0 | 1) => args.len().saturating_add_signed(last as isize).saturating_add(1),
                    (Err(_), limit) => start + left / limit,
                };
                visit_all(args, start..end, step, self.access, visit);
            }
            Extent::Count { number, first, step } => {
                let number = args.get(start.saturating_add(number)).and_then(parse_count).unwrap_or(0);
                let start = start.saturating_add(first);
                let end = start.saturating_add(number.saturating_mul(step.max(1)));
                visit_all(args, start..end, step, self.access, visit);
            }
        }
    }
}

impl Start {
    fn find<A: Arguments + ?Sized>(&self, args: &A) -> Option<usize> {
        match self {
            Self::At(index) => Some(*index),
            Self::After { word, from } => {
                let found = |index: &usize| is_word(args, *index, word);
                let position = if let Ok(from) = usize::try_from(*from) {
                    (from..args.len()).find(found)
                } else {
                    let from = args.len().saturating_add_signed(*from as isize);
                    (1..=from).rev().find(found)
                };
                position.map(|index| index + 1)
            }
        }
    }
}

/// Visits the arguments of a range that are there.
#[inline]
fn visit_all<'a, A: Arguments + ?Sized>(
    args: &'a A,
    range: std::ops::Range<usize>,
    step: usize,
    access: Access,
    mut visit: impl FnMut(&'a [u8], Access),
) {
    for index in (range.start..range.end.min(args.len())).step_by(step.max(1)) {
        if let Some(key) = args.get(index) {
            visit(key, access);
        }
    }
}

/// Reads a number of keys. Laxer than the server (it takes `+2` and `02`), which errs towards more keys.
fn parse_count(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_word<A: Arguments + ?Sized>(args: &A, index: usize, word: &[u8]) -> bool {
    args.get(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word))
}

/// What matters of the options of SORT.
pub(super) struct SortOptions {
    /// Where the key is that the result goes to. The last STORE counts, as in the server.
    pub(super) store: Option<usize>,
    /// Whether a pattern leads to keys that are not declared: one without `*` does not (`BY nosort`, `GET #`).
    pub(super) follows: bool,
}

/// Walks the options of SORT and `SORT_RO` (`sortGetKeys`).
pub(super) fn sort_options<A: Arguments + ?Sized>(args: &A) -> SortOptions {
    let mut options = SortOptions { store: None, follows: false };
    let mut index = 2;
    while let Some(word) = args.get(index) {
        let value = args.get(index + 1);
        index += 1;
        if word.eq_ignore_ascii_case(b"LIMIT") {
            index += 2;
        } else if word.eq_ignore_ascii_case(b"BY") || word.eq_ignore_ascii_case(b"GET") {
            options.follows |= value.is_some_and(|pattern| pattern.contains(&b'*'));
            index += 1;
        } else if word.eq_ignore_ascii_case(b"STORE") && value.is_some() {
            options.store = Some(index);
            index += 1;
        }
    }
    options
}

/// Visits where GEORADIUS and GEORADIUSBYMEMBER may store their result. The last STORE or STOREDIST counts
/// (`georadiusGetKeys`), yet the server declares them all, and so do we.
fn visit_georadius_stores<'a, A: Arguments + ?Sized>(args: &'a A, mut visit: impl FnMut(&'a [u8], Access)) {
    let mut index = 5;
    while let Some(key) = args.get(index + 1) {
        index += 1;
        if is_word(args, index - 1, b"STORE") || is_word(args, index - 1, b"STOREDIST") {
            visit(key, Access::Write);
            index += 1;
        }
    }
}

/// The keys of MIGRATE: argument 3, or if that is empty whatever follows KEYS. A password named KEYS is not the
/// option (`migrateGetKeys`).
fn migrate_keys<A: Arguments + ?Sized>(args: &A) -> (usize, usize) {
    let mut index = 6;
    while index < args.len() {
        if is_word(args, index, b"KEYS") {
            let alone = args.get(3).is_some_and(<[u8]>::is_empty);
            return if alone { (index + 1, args.len()) } else { (0, 0) };
        }
        index += match args.get(index) {
            Some(word) if word.eq_ignore_ascii_case(b"AUTH") => 2,
            Some(word) if word.eq_ignore_ascii_case(b"AUTH2") => 3,
            _ => 1,
        };
    }
    (3, 4)
}

/// What matters of the options of XREAD and XREADGROUP.
pub(super) struct StreamOptions {
    /// The first stream, if STREAMS was found.
    pub(super) keys_from: Option<usize>,
    pub(super) blocks: bool,
}

/// Walks the options up to STREAMS, which may also be the name of a group, a consumer or a stream
/// (`xreadGetKeys`). Unlike the server, it steps over options it does not know, for the sake of those to come.
pub(super) fn stream_options<A: Arguments + ?Sized>(args: &A) -> StreamOptions {
    let mut options = StreamOptions { keys_from: None, blocks: false };
    let mut index = 1;
    while let Some(word) = args.get(index) {
        index += 1;
        if word.eq_ignore_ascii_case(b"STREAMS") {
            options.keys_from = Some(index);
            break;
        } else if word.eq_ignore_ascii_case(b"BLOCK") {
            options.blocks = true;
            index += 1;
        } else if word.eq_ignore_ascii_case(b"COUNT") || word.eq_ignore_ascii_case(b"CLAIM") {
            index += 1;
        } else if word.eq_ignore_ascii_case(b"GROUP") {
            index += 2;
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Table, *};

    /// The keys of a request as a word each, writes marked with a `!`. `''` stands for an empty argument.
    fn keys(line: &str) -> String {
        let args: Vec<&[u8]> =
            line.split(' ').map(|word| if word == "''" { b"" } else { word.as_bytes() }).collect();
        let table = Table::builtin();
        let mut found = Vec::new();
        table.lookup(args[0], args.get(1).copied()).for_each_key(&args[..], |key, access| {
            let mark = if access == Access::Write { "!" } else { "" };
            found.push(format!("{}{mark}", str::from_utf8(key).unwrap()));
        });
        found.join(" ")
    }

    #[test]
    fn plain_shapes() {
        assert_eq!(keys("GET a"), "a");
        assert_eq!(keys("SET a b EX 5"), "a!");
        assert_eq!(keys("MGET a b c"), "a b c");
        assert_eq!(keys("MSET a 1 b 2"), "a! b!");
        assert_eq!(keys("DEL a b"), "a! b!");
        assert_eq!(keys("BLPOP a b 0"), "a! b!");
        assert_eq!(keys("PUBLISH a b"), "");
    }

    #[test]
    fn sources_are_read_and_destinations_written() {
        assert_eq!(keys("COPY a b DB 3"), "a b!");
        assert_eq!(keys("RENAME a b"), "a! b!");
        assert_eq!(keys("SINTERSTORE d a b"), "d! a b");
        assert_eq!(keys("BITOP AND d a b"), "d! a b");
        assert_eq!(keys("ZUNIONSTORE d 2 a b WEIGHTS 1 2"), "d! a b");
        assert_eq!(keys("ZRANGESTORE d a 0 -1"), "d! a");
    }

    #[test]
    fn counted_keys() {
        assert_eq!(keys("EVAL script 2 a b x"), "a! b!");
        assert_eq!(keys("EVAL_RO script 1 a b"), "a");
        assert_eq!(keys("LMPOP 2 a b LEFT"), "a! b!");
        assert_eq!(keys("BZMPOP 0 2 a b MIN"), "a! b!");
        assert_eq!(keys("MSETEX 2 a 1 b 2 EX 9"), "a! b!");
        assert_eq!(keys("SINTERCARD 2 a b LIMIT 1"), "a b");
    }

    #[test]
    fn bad_counts_give_what_is_there_or_nothing() {
        assert_eq!(keys("EVAL script 9 a"), "a!");
        assert_eq!(keys("EVAL script -1 a"), "");
        assert_eq!(keys("EVAL script x a"), "");
        assert_eq!(keys("EVAL script 18446744073709551615 a"), "a!");
        assert_eq!(keys("EVAL script"), "");
        assert_eq!(keys("ZUNIONSTORE d"), "d!");
    }

    #[test]
    fn subcommands_have_their_key_at_argument_two() {
        assert_eq!(keys("OBJECT ENCODING a"), "a");
        assert_eq!(keys("memory usage a SAMPLES 5"), "a");
        assert_eq!(keys("XGROUP CREATE a g $"), "a!");
        assert_eq!(keys("XGROUP HELP"), "");
        assert_eq!(keys("CONFIG GET a"), "");
    }

    #[test]
    fn sort_stores_at_its_last_store() {
        assert_eq!(keys("SORT a"), "a");
        assert_eq!(keys("SORT a BY store GET store LIMIT store store STORE d"), "a d!");
        assert_eq!(keys("SORT a STORE d STORE e"), "a e!");
        assert_eq!(keys("SORT a STORE"), "a");
    }

    #[test]
    fn georadius_may_store_at_every_store() {
        assert_eq!(keys("GEORADIUS a 1 2 3 m"), "a");
        assert_eq!(keys("GEORADIUS a 1 2 3 m STORE d STOREDIST e"), "a d! e!");
        assert_eq!(keys("GEORADIUS a 1 2 3 m STORE store STORE d"), "a store! d!");
        assert_eq!(keys("GEORADIUSBYMEMBER a b 3 m COUNT 1 STOREDIST d"), "a d!");
        assert_eq!(keys("GEORADIUS_RO a 1 2 3 m"), "a");
    }

    #[test]
    fn streams_are_half_of_what_follows_the_word() {
        assert_eq!(keys("XREAD COUNT 1 BLOCK 1 STREAMS a b 0 0"), "a b");
        assert_eq!(keys("XREAD STREAMS streams 0"), "streams");
        assert_eq!(keys("XREADGROUP GROUP streams streams STREAMS a >"), "a!");
        assert_eq!(keys("XREADGROUP COUNT 1 GROUP g streams NOACK STREAMS a b > >"), "a! b!");
        assert_eq!(keys("XREAD COUNT 1 a 0"), "");
        assert_eq!(keys("XREAD STREAMS"), "");
    }

    #[test]
    fn migrate_has_one_key_or_those_after_keys() {
        assert_eq!(keys("MIGRATE h 1 a 0 9 COPY REPLACE"), "a!");
        assert_eq!(keys("MIGRATE h 1 '' 0 9 AUTH keys KEYS a b"), "a! b!");
        assert_eq!(keys("MIGRATE h 1 '' 0 9 AUTH2 keys keys KEYS a"), "a!");
        assert_eq!(keys("MIGRATE h 1 a 0 9 KEYS b"), "", "the server refuses both at once");
    }

    #[test]
    fn stralgo_of_redis_6_names_its_keys() {
        assert_eq!(keys("STRALGO LCS IDX KEYS a b"), "a b");
        assert_eq!(keys("STRALGO LCS STRINGS a b"), "");
    }

    #[test]
    fn a_word_may_be_searched_from_the_end() {
        let spec = KeySpec {
            start: Start::After { word: Cow::Borrowed(b"keys"), from: -2 },
            extent: Extent::Range { last: -1, step: 1, limit: 0 },
            access: Access::Read,
        };
        let args: [&[u8]; 6] = [b"X", b"KEYS", b"a", b"Keys", b"b", b"c"];
        let mut found = Vec::new();
        spec.for_each(&args[..], |key, _| found.push(key));
        assert_eq!(found, [b"b", b"c"]);
    }

    #[test]
    fn a_limit_leaves_the_rest_to_something_else() {
        let spec = KeySpec {
            start: Start::At(2),
            extent: Extent::Range { last: -1, step: 1, limit: 2 },
            access: Access::Read,
        };
        let args: [&[u8]; 6] = [b"XREAD", b"STREAMS", b"a", b"b", b"0", b"0"];
        let mut found = Vec::new();
        spec.for_each(&args[..], |key, _| found.push(key));
        assert_eq!(found, [b"a", b"b"]);
    }

    fn any_spec() -> impl Strategy<Value = KeySpec> {
        let number = prop_oneof![0..6usize, Just(usize::MAX)];
        let signed = prop_oneof![-6..6i64, Just(i64::MIN), Just(i64::MAX)];
        let start = prop_oneof![
            number.clone().prop_map(Start::At),
            signed.clone().prop_map(|from| Start::After { word: Cow::Borrowed(b"a"), from }),
        ];
        let extent = prop_oneof![
            (signed, number.clone(), number.clone()).prop_map(|(last, step, limit)| Extent::Range {
                last,
                step,
                limit
            }),
            (number.clone(), number.clone(), number).prop_map(|(number, first, step)| Extent::Count {
                number,
                first,
                step
            }),
        ];
        (start, extent).prop_map(|(start, extent)| KeySpec { start, extent, access: Access::Write })
    }

    proptest! {
        #[test]
        fn no_spec_panics_or_visits_more_keys_than_there_are_arguments(
            spec in any_spec(),
            words in prop::collection::vec("a|b|0|1|2|-1|18446744073709551615", 0..6),
        ) {
            let args: Vec<&[u8]> = words.iter().map(std::string::String::as_bytes).collect();
            let mut visited = 0;
            spec.for_each(&args[..], |_, _| visited += 1);
            prop_assert!(visited <= args.len());
        }

        #[test]
        fn no_command_panics_on_nonsense(
            row in any::<prop::sample::Index>(),
            words in prop::collection::vec(
                "STORE|STREAMS|KEYS|AUTH2|GROUP|BLOCK|LIMIT|BY|a\\*|0|2|-1|9999999999999999999999|", 0..9),
        ) {
            let table = Table::builtin();
            let commands: Vec<_> = table.commands().collect();
            let command = row.get(&commands);
            let args: Vec<&[u8]> = words.iter().map(std::string::String::as_bytes).collect();
            let mut visited = 0;
            command.for_each_key(&args[..], |_, _| visited += 1);
            prop_assert!(visited <= args.len());
            let _ = (command.class(&args[..]), command.blocks(&args[..]));
        }
    }
}
