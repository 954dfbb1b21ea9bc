//! The table of commands: built once, looked up for every request.
//!
//! It starts from the rows in `rows.rs` and grows by what the server's `COMMAND` answer lists beyond them. After that
//! it is immutable and shared by `Arc`. It forgets nothing: a command that the server lacks or was made to rename
//! keeps its row, which is harmless, since the server refuses it; under its new name it is unknown, and fenced.

use thiserror::Error;

use super::{
    Access, Blocking, Class, Command, CommandId, KeySpec, Sameness, ServerCommand, Varies,
    keys::Keys,
    name::Name,
    rows::{ROWS, Row},
};

/// The most rows a table holds; what a server lists beyond is unknown. Redis 8 with all its modules has some 700.
const COMMANDS_MAX: usize = 2048;
/// Slots of the hash index, a power of two: half of them stay empty, so that a search ends at its first look mostly.
const SLOTS: usize = 2 * COMMANDS_MAX;
/// The row for everything unknown. No command is its subcommand, so it also stands for "no container".
pub(super) const UNKNOWN: CommandId = CommandId(0);

/// Why a command that the configuration wants cached is not.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotCacheable {
    /// Neither built in nor listed by the server.
    #[error("the server does not know this command")]
    Missing,
    /// Built in, and not on the allowlist on purpose.
    #[error("its replies change without any signal, differ each time, or show more than one key")]
    Unsafe,
    /// The server does not call it read-only, or its keys are not all declared.
    #[error("the server does not call it read-only with all its keys declared")]
    NotRead,
    /// It reads several keys, or its key is elsewhere.
    #[error("its only key is not its first argument")]
    NotOneKey,
}

/// All commands that are known.
#[derive(Clone, Debug)]
pub struct Table {
    commands: Vec<Command>,
    /// Open addressing with linear search. An array, so that no bounds are checked.
    slots: Box<[Slot; SLOTS]>,
    /// Commands whose name does not pack.
    long: Vec<CommandId>,
}

/// A place in the hash index. It holds the name itself, so that a search touches no row but the right one.
#[derive(Clone, Copy, Debug)]
struct Slot {
    name: Name,
    container: CommandId,
    /// `UNKNOWN` in an empty slot.
    id: CommandId,
}

impl Slot {
    fn none() -> Box<[Self; SLOTS]> {
        let empty = Self { name: Name::NONE, container: UNKNOWN, id: UNKNOWN };
        vec![empty; SLOTS].into_boxed_slice().try_into().expect("as many slots as were made")
    }
}

impl Table {
    /// The commands that are built in.
    pub fn builtin() -> Self {
        let mut table = Self { commands: Vec::new(), slots: Slot::none(), long: Vec::new() };
        table.push(UNKNOWN, "unknown", Entry::UNKNOWN);
        for row in ROWS {
            let (container, name) = match row.name.split_once('|') {
                Some((container, name)) => (table.find(UNKNOWN, container.as_bytes()), name),
                None => (UNKNOWN, row.name),
            };
            table.push(container, name, Entry::from(row));
        }
        table
    }

    /// The same commands and those that the server lists beyond them.
    ///
    /// The server is believed in one more thing: if it says that a command writes which we take for a read, it
    /// knows better.
    #[must_use]
    pub fn extend(&self, rows: &[ServerCommand]) -> Self {
        let mut table = self.clone();
        for row in rows {
            let container = table.learn(UNKNOWN, row);
            // What we treat as a whole (CLIENT, COMMAND) covers all its subcommands.
            if container.is_builtin() && table[container].class != Class::Unknown {
                continue;
            }
            for subcommand in &row.subcommands {
                table.learn(container, subcommand);
            }
        }
        table
    }

    /// Lets replies of a module's command be cached (`JSON.GET`), because the operator says so. They are taken to
    /// differ between the protocols.
    pub fn cache(&mut self, name: &str) -> Result<(), NotCacheable> {
        let id = self.find(UNKNOWN, name.as_bytes());
        let command = &mut self.commands[usize::from(id.0)];
        match (command.class, &command.keys) {
            _ if id == UNKNOWN => return Err(NotCacheable::Missing),
            (Class::Cached(_) | Class::Mget, _) => return Ok(()),
            _ if id.is_builtin() => return Err(NotCacheable::Unsafe),
            (Class::Read, Keys::First(Access::Read)) if !command.is_container => {}
            (Class::Read, _) => return Err(NotCacheable::NotOneKey),
            _ => return Err(NotCacheable::NotRead),
        }
        command.class = Class::Cached(Sameness::Differs);
        command.varies = Varies::WithoutKey;
        Ok(())
    }

    /// The row of a request, by its first argument and, for the containers, its second; letters in any case.
    /// What has no row gets the one of an unknown command.
    #[inline]
    pub fn lookup(&self, name: &[u8], sub: Option<&[u8]>) -> &Command {
        let command = &self[self.find(UNKNOWN, name)];
        if command.is_container
            && let Some(sub) = sub
        {
            let id = self.find(command.id, sub);
            if id != UNKNOWN {
                return &self[id];
            }
        }
        command
    }

    /// All rows but the one for the unknown.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter().skip(1)
    }

    #[inline]
    fn find(&self, container: CommandId, name: &[u8]) -> CommandId {
        let Some(name) = Name::pack(name) else { return self.find_long(container, name) };
        let mut index = name.hash(container.0) as usize % SLOTS;
        loop {
            let slot = &self.slots[index];
            if slot.id == UNKNOWN || (slot.name == name && slot.container == container) {
                return slot.id;
            }
            index = (index + 1) % SLOTS;
        }
    }

    fn find_long(&self, container: CommandId, name: &[u8]) -> CommandId {
        let is_it = |id: &CommandId| {
            let command = &self[*id];
            command.container == container && last_name(&command.name).as_bytes().eq_ignore_ascii_case(name)
        };
        self.long.iter().copied().find(is_it).unwrap_or(UNKNOWN)
    }

    /// Adds what the server lists, unless it is known. Gives its row, known or new.
    fn learn(&mut self, container: CommandId, row: &ServerCommand) -> CommandId {
        let name = last_name(&row.name).to_ascii_lowercase();
        let id = self.find(container, name.as_bytes());
        if id == UNKNOWN {
            return self.push(container, &name, Entry::from(row));
        }
        if row.has_flag("write") && self[id].class.is_read() {
            let entry = Entry::from(row);
            let command = &mut self.commands[usize::from(id.0)];
            (command.class, command.keys, command.varies) = (entry.class, entry.keys, entry.varies);
        }
        id
    }

    /// Adds a row. A full table stays as it is, and the command unknown.
    fn push(&mut self, container: CommandId, name: &str, entry: Entry) -> CommandId {
        if self.commands.len() == COMMANDS_MAX {
            return UNKNOWN;
        }
        let id = CommandId(self.commands.len() as u16);
        let full_name = match container {
            UNKNOWN => name.to_owned(),
            container => format!("{}|{name}", self[container].name),
        };
        self.commands.push(Command {
            name: full_name,
            id,
            blocking: entry.blocking,
            class: entry.class,
            varies: entry.varies,
            keys: entry.keys,
            container,
            is_container: false,
        });
        if container != UNKNOWN {
            self.commands[usize::from(container.0)].is_container = true;
        }
        if id != UNKNOWN {
            self.index(id, container, name);
        }
        id
    }

    fn index(&mut self, id: CommandId, container: CommandId, name: &str) {
        let Some(name) = Name::pack(name.as_bytes()) else { return self.long.push(id) };
        let mut index = name.hash(container.0) as usize % SLOTS;
        while self.slots[index].id != UNKNOWN {
            index = (index + 1) % SLOTS;
        }
        self.slots[index] = Slot { name, container, id };
    }
}

impl CommandId {
    fn is_builtin(self) -> bool {
        usize::from(self.0) <= ROWS.len()
    }
}

impl std::ops::Index<CommandId> for Table {
    type Output = Command;

    fn index(&self, id: CommandId) -> &Command {
        &self.commands[usize::from(id.0)]
    }
}

/// The part of a name behind the container's.
fn last_name(name: &str) -> &str {
    name.rsplit('|').next().unwrap_or(name)
}

/// What a row says, wherever it comes from.
struct Entry {
    class: Class,
    keys: Keys,
    blocking: Blocking,
    varies: Varies,
}

impl Entry {
    const UNKNOWN: Self =
        Self { class: Class::Unknown, keys: Keys::None, blocking: Blocking::No, varies: Varies::Never };
}

impl From<&Row> for Entry {
    fn from(row: &Row) -> Self {
        Self { class: row.class, keys: row.keys.clone(), blocking: row.blocking, varies: row.varies }
    }
}

impl From<&ServerCommand> for Entry {
    /// Judges a command by what the server says of it. Only what it vouches for is trusted: a write whose keys it
    /// may not have named all, and whatever is neither a read nor a write, is unknown.
    fn from(row: &ServerCommand) -> Self {
        let specs = row.declared_keys().filter(|specs| !specs.is_empty());
        let writes_a_key = specs.iter().flatten().any(|spec| spec.access == Access::Write);
        let (class, keys) = match specs {
            Some(specs) if row.has_flag("write") => {
                // A write that only reads its keys, as it says, changes something about them all the same, as
                // XREADGROUP does.
                (Class::Write, if writes_a_key { specs } else { with_access(specs, Access::Write) })
            }
            // For every key of a module the server says "read and written", whatever the command is.
            Some(specs) if row.has_flag("readonly") && row.has_flag("module") => {
                (Class::Read, with_access(specs, Access::Read))
            }
            Some(specs) if row.has_flag("readonly") && writes_a_key => (Class::Write, specs),
            Some(specs) if row.has_flag("readonly") => (Class::Read, specs),
            None if row.has_flag("readonly") && !row.has_flag("write") => (Class::ReadUndeclared, Vec::new()),
            _ => (Class::Unknown, Vec::new()),
        };
        let blocking = if row.has_flag("blocking") { Blocking::Always } else { Blocking::No };
        Self { class, keys: Keys::from(keys), blocking, varies: Varies::Never }
    }
}

fn with_access(specs: Vec<KeySpec>, access: Access) -> Vec<KeySpec> {
    specs.into_iter().map(|spec| KeySpec { access, ..spec }).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Blocking, *};
    use crate::command::{Extent, ServerKeySpec, Start};

    fn row(name: &str, flags: &str, key_specs: Vec<ServerKeySpec>) -> ServerCommand {
        let flags = flags.split_ascii_whitespace().map(str::to_owned).collect();
        ServerCommand { name: name.to_owned(), flags, key_specs, ..ServerCommand::default() }
    }

    fn spec(flags: &str, start: usize, extent: Extent) -> ServerKeySpec {
        let flags = flags.split_ascii_whitespace().map(str::to_owned).collect();
        ServerKeySpec { flags, keys: Some((Start::At(start), extent)) }
    }

    const ONE: Extent = Extent::Range { last: 0, step: 1, limit: 0 };
    const REST: Extent = Extent::Range { last: -1, step: 1, limit: 0 };
    const COUNTED: Extent = Extent::Count { number: 0, first: 1, step: 1 };

    /// How a request is treated by a table that learned of one command, and its keys, writes with a `!`.
    fn treated(learned: ServerCommand, line: &str) -> (Class, String) {
        let table = Table::builtin().extend(&[learned]);
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let command = table.lookup(args[0], args.get(1).copied());
        let mut keys = Vec::new();
        command.for_each_key(&args[..], |key, access| {
            let mark = if access == Access::Write { "!" } else { "" };
            keys.push(format!("{}{mark}", str::from_utf8(key).unwrap()));
        });
        (command.class(&args[..]), keys.join(" "))
    }

    #[test]
    fn every_row_is_found_in_any_case_and_has_its_own_id() {
        let table = Table::builtin();
        let mut ids = std::collections::HashSet::new();
        for (command, row) in table.commands().zip(ROWS) {
            assert_eq!(command.name, row.name);
            assert!(ids.insert(command.id), "{}", row.name);
            for name in [row.name.to_owned(), row.name.to_uppercase()] {
                let mut words = name.split('|').map(str::as_bytes);
                let found = table.lookup(words.next().unwrap(), words.next());
                assert_eq!(found.id, command.id, "{name}");
            }
        }
        assert_eq!(ids.len(), ROWS.len());
    }

    #[test]
    fn what_has_no_row_is_unknown() {
        let table = Table::builtin();
        let args: &[&[u8]] = &[b"NOSUCH", b"key"];
        for name in [
            &b"NOSUCH"[..],
            b"",
            b"GE",
            b"GETT",
            b"GET\0",
            b"config|get",
            b"a name far too long to be packed",
        ] {
            let command = table.lookup(name, Some(b"key"));
            assert_eq!((command.class(args), command.id), (Class::Unknown, CommandId(0)), "{name:?}");
            assert!(!command.blocks(args));
            command.for_each_key(args, |key, _| panic!("{key:?} is no key"));
        }
    }

    #[test]
    fn containers_are_told_apart_by_their_subcommands() {
        let table = Table::builtin();
        assert_eq!(table.lookup(b"CONFIG", Some(b"get")).name, "config|get");
        assert_eq!(table.lookup(b"config", Some(b"NOSUCH")).name, "config");
        assert_eq!(table.lookup(b"config", None).name, "config");
        assert_eq!(
            table.lookup(b"CLUSTER", Some(b"Count-Failure-Reports")).name,
            "cluster|count-failure-reports"
        );
        assert_eq!(table.lookup(b"client", Some(b"kill")).name, "client");
        assert_eq!(table.lookup(b"get", Some(b"get")).name, "get");
        assert_eq!(table.lookup(b"georadiusbymember_RO", Some(b"k")).name, "georadiusbymember_ro");
    }

    #[test]
    fn equal_subcommands_of_many_containers_are_not_mixed_up() {
        let subcommands = |container: usize| {
            let name =
                |sub: usize| format!("c{container}|a subcommand{}{sub}", " of some length".repeat(sub % 2));
            (0..30).map(|sub| row(&name(sub), "", vec![])).collect()
        };
        let rows: Vec<_> = (0..40)
            .map(|container| ServerCommand {
                subcommands: subcommands(container),
                ..row(&format!("c{container}"), "", vec![])
            })
            .chain([row("c40", "", vec![])])
            .collect();
        let table = Table::builtin().extend(&rows);
        for expected in rows.iter().flat_map(|row| &row.subcommands) {
            let (container, sub) = expected.name.split_once('|').unwrap();
            assert_eq!(table.lookup(container.as_bytes(), Some(sub.as_bytes())).name, expected.name);
            assert_eq!(table.lookup(sub.as_bytes(), None).id, UNKNOWN);
            assert_eq!(table.lookup(b"config", Some(sub.as_bytes())).name, "config");
        }
    }

    #[test]
    fn every_cached_row_has_its_only_key_at_argument_one() {
        for command in Table::builtin().commands() {
            let args: &[&[u8]] = &[b"x", b"key"];
            if matches!(command.class(args), Class::Cached(_)) {
                let mut keys = Vec::new();
                command.for_each_key(args, |key, access| keys.push((key, access)));
                assert_eq!(keys, [(&b"key"[..], Access::Read)], "{}", command.name);
                assert!(args.get(1).is_some());
            }
        }
    }

    #[test]
    fn a_modules_read_has_read_keys_whatever_the_server_says_of_them() {
        let get = row("json.get", "readonly module", vec![spec("RW access update", 1, ONE)]);
        assert_eq!(treated(get, "JSON.GET a $"), (Class::Read, "a".to_owned()));
    }

    #[test]
    fn writes_drop_the_keys_they_declare() {
        let set = row("json.set", "write denyoom module", vec![spec("RW access update", 1, ONE)]);
        assert_eq!(treated(set, "json.set a $ 1"), (Class::Write, "a!".to_owned()));
        let merge = row("cms.merge", "write", vec![spec("OW update", 1, ONE), spec("RO access", 2, COUNTED)]);
        assert_eq!(treated(merge, "CMS.MERGE d 2 a b"), (Class::Write, "d! a b".to_owned()));
        let group = row("newreadgroup", "write", vec![spec("RO access", 1, REST)]);
        assert_eq!(treated(group, "NEWREADGROUP a b"), (Class::Write, "a! b!".to_owned()));
        let count = row("newcount", "readonly", vec![spec("RW access", 1, REST)]);
        assert_eq!(treated(count, "NEWCOUNT a"), (Class::Write, "a!".to_owned()));
    }

    #[test]
    fn only_complete_declarations_are_trusted() {
        let no_keys = row("x", "write", vec![]);
        assert_eq!(treated(no_keys, "X a").0, Class::Unknown);
        let fake_keys = row("x", "readonly", vec![spec("not_key", 1, ONE)]);
        assert_eq!(treated(fake_keys, "X a").0, Class::ReadUndeclared);
        let search = row("ft.search", "readonly module", vec![]);
        assert_eq!(treated(search, "FT.SEARCH i q").0, Class::ReadUndeclared);
        let incomplete =
            row("x", "write movablekeys", vec![spec("RW", 1, COUNTED), spec("RW incomplete", 3, REST)]);
        assert_eq!(treated(incomplete, "X 1 a b").0, Class::Unknown);
        let by_function = row("x", "write module movablekeys", vec![spec("RW variable_flags", 1, COUNTED)]);
        assert_eq!(treated(by_function, "X 1 a").0, Class::Unknown);
        let fixed_though_they_move = row("x", "write module movablekeys", vec![spec("RW", 1, ONE)]);
        assert_eq!(treated(fixed_though_they_move, "X a").0, Class::Unknown);
        let unknown_place = row("x", "write", vec![ServerKeySpec::default()]);
        assert_eq!(treated(unknown_place, "X a").0, Class::Unknown);
        let no_flag = row("x", "fast module", vec![spec("RW access update", 1, ONE)]);
        assert_eq!(treated(no_flag, "X a").0, Class::Unknown);
        let counted = row("x", "readonly movablekeys", vec![spec("RO", 1, COUNTED)]);
        assert_eq!(treated(counted, "X 1 a b"), (Class::Read, "a".to_owned()));
    }

    #[test]
    fn redis_6_tells_first_last_and_step() {
        let six = |flags: &str, first_key, last_key, step| ServerCommand {
            first_key,
            last_key,
            step,
            ..row("x", flags, vec![])
        };
        assert_eq!(treated(six("write", 1, -1, 2), "X a 1 b 2"), (Class::Write, "a! b!".to_owned()));
        assert_eq!(treated(six("readonly", 2, 3, 1), "X 0 a b c"), (Class::Read, "a b".to_owned()));
        assert_eq!(treated(six("write", 1, -2, 1), "X a b 0"), (Class::Write, "a! b!".to_owned()));
        assert_eq!(treated(six("write movablekeys", 1, 1, 1), "X a").0, Class::Unknown);
        assert_eq!(treated(six("write", 0, 0, 0), "X a").0, Class::Unknown);
        assert_eq!(treated(six("write", 3, 1, 1), "X a").0, Class::Unknown);
    }

    #[test]
    fn what_blocks_elsewhere_is_kept_off_shared_connections() {
        let table = Table::builtin().extend(&[row("bx", "write blocking", vec![spec("RW", 1, ONE)])]);
        assert_eq!(table.lookup(b"BX", None).blocking, Blocking::Always);
    }

    #[test]
    fn the_server_is_believed_when_it_says_a_command_writes() {
        let get = row("get", "write", vec![spec("RW access delete", 1, ONE)]);
        assert_eq!(treated(get, "GET a"), (Class::Write, "a!".to_owned()));
        let set = row("set", "readonly", vec![spec("RO", 1, ONE)]);
        assert_eq!(
            treated(set, "SET a b"),
            (Class::Write, "a!".to_owned()),
            "but not when it says the opposite"
        );
    }

    #[test]
    fn subcommands_are_learned_where_they_matter() {
        let newer = |container: &str, name: &str, flags: &str| ServerCommand {
            subcommands: vec![row(&format!("{container}|{name}"), flags, vec![spec("RW update", 2, ONE)])],
            ..row(container, "", vec![])
        };
        assert_eq!(treated(newer("xgroup", "NEW", "write"), "XGROUP NEW a"), (Class::Write, "a!".to_owned()));
        assert_eq!(
            treated(newer("mod", "new", "write module"), "mod new a"),
            (Class::Write, "a!".to_owned())
        );
        assert_eq!(treated(newer("mod", "new", "write module"), "mod old a").0, Class::Unknown);
        let client = treated(newer("client", "new", "write"), "CLIENT NEW a");
        assert!(matches!(client.0, Class::Session(_)));
    }

    #[test]
    fn ids_stay_when_a_table_is_extended_again() {
        let first = Table::builtin().extend(&[row("a.b", "readonly", vec![spec("RO", 1, ONE)])]);
        let again = first.extend(&[row("c.d", "write", vec![]), row("A.B", "readonly", vec![])]);
        assert_eq!(first.lookup(b"A.B", None).id, again.lookup(b"a.b", None).id);
        assert_ne!(again.lookup(b"C.D", None).id, again.lookup(b"A.B", None).id);
        assert_eq!(again.commands().count(), first.commands().count() + 1);
    }

    #[test]
    fn a_server_with_too_many_commands_does_not_fill_the_memory() {
        let rows: Vec<_> = (0..COMMANDS_MAX + 10).map(|n| row(&format!("x{n}"), "", vec![])).collect();
        let table = Table::builtin().extend(&rows);
        assert_eq!(table.commands().count() + 1, COMMANDS_MAX);
        assert_eq!(table.lookup(b"x7", None).name, "x7");
        assert_eq!(table.lookup(b"nosuch", None).id, CommandId(0));
    }

    #[test]
    fn a_module_read_of_one_key_can_be_cached_on_request() {
        let mut table = Table::builtin().extend(&[
            row("json.get", "readonly module", vec![spec("RW access update", 1, ONE)]),
            row("json.mget", "readonly module", vec![spec("RW access update", 1, REST)]),
            row("json.set", "write module", vec![spec("RW access update", 1, ONE)]),
        ]);
        assert_eq!(table.cache("JSON.GET"), Ok(()));
        assert_eq!(table.cache("get"), Ok(()), "it is already");
        assert_eq!(table.cache("json.mget"), Err(NotCacheable::NotOneKey));
        assert_eq!(table.cache("json.set"), Err(NotCacheable::NotRead));
        assert_eq!(table.cache("ttl"), Err(NotCacheable::Unsafe));
        assert_eq!(table.cache("json.nosuch"), Err(NotCacheable::Missing));
        let args: &[&[u8]] = &[b"json.get", b"a", b"$"];
        assert_eq!(table.lookup(b"json.get", None).class(args), Class::Cached(Sameness::Differs));
        assert_eq!(table.lookup(b"json.get", None).class(&args[..1]), Class::Read);
        assert!(!table.lookup(b"json.mget", None).class(args).eq(&Class::Cached(Sameness::Differs)));
    }
}
