//! What the server says of its own commands: COMMAND for their names and arities, COMMAND DOCS for their arguments.

use super::common::{
    Client,
    resp::{children, integer, payload},
};

/// A command or a subcommand, as the server lists it.
pub(crate) struct Entry {
    /// `get`, or `config|set`.
    pub(crate) name: String,
    /// Arguments with the name; if negative, at least so many.
    pub(crate) arity: i64,
    /// `string`, `sorted-set` ...: which type of key it is about.
    pub(crate) group: String,
    pub(crate) is_readonly: bool,
    /// It has subcommands, and says nothing without.
    pub(crate) is_container: bool,
    pub(crate) arguments: Vec<Argument>,
}

/// An argument, or a group of them.
pub(crate) struct Argument {
    /// Which it is among all of its command.
    pub(crate) id: usize,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The word that introduces it.
    pub(crate) token: Option<String>,
    pub(crate) is_optional: bool,
    pub(crate) is_multiple: bool,
    /// Whether the word stands before each of them.
    pub(crate) repeats_token: bool,
    /// Branches or members.
    pub(crate) arguments: Vec<Argument>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing but its token.
    Token,
    OneOf,
    Block,
    Key,
    Integer,
    Double,
    UnixTime,
    Text,
}

impl Entry {
    /// Its words: one, or two for a subcommand.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.name.split('|').collect()
    }
}

/// All that the server lists, subcommands behind their containers. `client` speaks RESP2.
pub(crate) fn catalog(client: &mut Client) -> Vec<Entry> {
    let docs = client.cmd(&["COMMAND", "DOCS"]);
    let docs = fields(&docs);
    let rows = client.cmd(&["COMMAND"]);
    let mut entries = Vec::new();
    for row in children(&rows) {
        let doc = docs.iter().find(|(name, _)| name.as_bytes() == payload(children(row)[0]));
        add(row, doc.map(|(_, doc)| *doc), "", &mut entries);
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    entries
}

fn add(row: &[u8], doc: Option<&[u8]>, container_group: &str, entries: &mut Vec<Entry>) {
    let row = children(row);
    let name = text(row[0]);
    let doc = doc.map(fields).unwrap_or_default();
    let subcommands = row.get(9).map(|rows| children(rows)).unwrap_or_default();
    let mut id = 0;
    let group = field(&doc, "group").map_or_else(|| container_group.to_owned(), text);
    entries.push(Entry {
        arity: integer(row[1]),
        is_readonly: children(row[2]).iter().any(|flag| payload(flag) == b"readonly"),
        is_container: !subcommands.is_empty(),
        arguments: arguments(field(&doc, "arguments"), &mut id),
        group: group.clone(),
        name,
    });
    let subdocs = field(&doc, "subcommands").map(fields).unwrap_or_default();
    for row in subcommands {
        let name = payload(children(row)[0]);
        let doc = subdocs.iter().find(|(known, _)| known.as_bytes() == name);
        add(row, doc.map(|(_, doc)| *doc), &group, entries);
    }
}

fn arguments(list: Option<&[u8]>, id: &mut usize) -> Vec<Argument> {
    let list = list.map(children).unwrap_or_default();
    list.into_iter()
        .map(|argument| {
            let about = fields(argument);
            let flags = field(&about, "flags").map(children).unwrap_or_default();
            let has = |flag: &str| flags.iter().any(|known| payload(known) == flag.as_bytes());
            let kind = match field(&about, "type").map(payload).expect("a type") {
                b"pure-token" => Kind::Token,
                b"oneof" => Kind::OneOf,
                b"block" => Kind::Block,
                b"key" => Kind::Key,
                b"integer" => Kind::Integer,
                b"double" => Kind::Double,
                b"unix-time" => Kind::UnixTime,
                _ => Kind::Text,
            };
            *id += 1;
            Argument {
                id: *id,
                name: field(&about, "name").map(text).expect("a name"),
                kind,
                token: field(&about, "token").map(text),
                is_optional: has("optional"),
                is_multiple: has("multiple"),
                repeats_token: has("multiple_token"),
                arguments: arguments(field(&about, "arguments"), id),
            }
        })
        .collect()
}

/// The pairs of a map, which RESP2 writes as a flat array.
fn fields(map: &[u8]) -> Vec<(String, &[u8])> {
    children(map).chunks_exact(2).map(|pair| (text(pair[0]), pair[1])).collect()
}

fn field<'a>(fields: &[(String, &'a [u8])], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
}

fn text(frame: &[u8]) -> String {
    String::from_utf8_lossy(payload(frame)).into_owned()
}
