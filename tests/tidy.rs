//! Holds the shape of the house: who may import whom, and how a file in `src/` looks.
//!
//! A layering that lives in a document alone is broken within a month, one harmless `use` at a time. So the table
//! stands here, and every `crate::`, `nearhit::` and `super::` path in `src/` is resolved and held against it, also
//! inside macros, groups and tests. The sources are read as token trees, so that a comment or a string that merely
//! mentions a path is none. This is no compiler: it sees neither what a macro expands to nor renamed re-exports.
//!
//! Below the checks stand violations made up for each of them, so that a rule that no longer bites is found out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    str::FromStr,
};

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// The rooms, lowest layer first. A room imports from the rooms to its left in its own row and from the rows above
/// it here. That is a total order, so no two rooms can import each other.
const LAYERS: &[&[&str]] = &[
    &["clock", "ids", "net", "config", "metrics", "mutation", "sync", "resp", "command"],
    &["cache", "upstream"],
    &["coherence"],
    &["session"],
    &["server", "admin"],
    &["main"],
];

/// The roots of the library and of the binary: they declare and start everything, so they may name everything.
const ROOTS: &[&str] = &["lib", "main"];

/// What the order would permit and the design forbids: coherence is the only door to the cache, and the only joint
/// of cache and upstream.
const CLOSED_DOORS: &[(&str, &str)] = &[("upstream", "cache"), ("session", "cache")];

/// Rooms whose files are one state machine laid out over several files, so that they refer to each other: a session's
/// ways of answering all end in its ticket, and a cached record and a slot turn into each other.
const ONE_STATE: &[&str] = &["session", "cache"];

/// Longer than this, one idea has become two.
const LINES_MAX: usize = 600;

/// The files that may be longer, since they are tables and not thoughts.
const DATA_TABLES: &[&str] = &["command/rows.rs"];

/// Names that say nothing about what a file is.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "managers"];

#[test]
fn the_tree_is_tidy() {
    let sources = read_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.iter().any(|source| source.path == "lib.rs"), "no sources were found");
    let faults = faults(&sources);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// One file; `path` is relative to `src/`.
struct Source {
    path: String,
    text: String,
}

fn read_tree(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree is readable") {
            let path = entry.expect("an entry of the tree is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root).expect("it was found under the root");
                sources.push(Source {
                    path: relative.to_str().expect("file names are UTF-8").to_owned(),
                    text: fs::read_to_string(&path).expect("a source file is readable"),
                });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Every breach of a rule, one line each, in the order of the files.
fn faults(sources: &[Source]) -> Vec<String> {
    let files: BTreeSet<Vec<String>> = sources.iter().map(|source| module_of(&source.path)).collect();
    let readings: Vec<Reading> = sources.iter().map(read).collect();
    // `#[cfg(test)] mod tests;` makes tests of a file, and of those under it, that do not say so themselves.
    let test_files: BTreeSet<&[String]> =
        readings.iter().flat_map(|reading| &reading.test_modules).map(Vec::as_slice).collect();

    let mut faults = Vec::new();
    let mut imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (source, reading) in sources.iter().zip(&readings) {
        let module = module_of(&source.path);
        let mut fault = |line: usize, what: &str| {
            faults.push(format!("src/{}:{line}: {what}", source.path));
        };
        form_faults(source, &files, &mut fault);
        let is_test = (1..=module.len()).any(|length| test_files.contains(&module[..length]));
        for (line, what) in reading.left_undone.iter().filter(|_| !is_test) {
            fault(*line, &format!("`{what}` outside `#[cfg(test)]`"));
        }
        for (line, path) in &reading.paths {
            if let Some(what) = import_fault(room_of(source), path) {
                fault(*line, &what);
            }
            // A room's `mod.rs` and the files under it know each other by nature; neighbours should not.
            if ONE_STATE.contains(&room_of(source)) {
                continue;
            }
            if let Some(neighbour) = path.get(..module.len())
                && module.len() > 1
                && neighbour != module
                && parent(neighbour) == parent(&module)
                && files.contains(neighbour)
            {
                imports.entry(module.clone()).or_default().insert(neighbour.to_vec());
            }
        }
    }
    faults.extend(cycles(&imports));
    faults
}

/// What can be seen without reading the code: name, place, length, opening.
fn form_faults(source: &Source, files: &BTreeSet<Vec<String>>, fault: &mut impl FnMut(usize, &str)) {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    if !source.text.starts_with("//!") {
        fault(1, "opens without `//!`: say what the file is, why it exists and what it refuses to do");
    }
    let room = room_of(source);
    if rank(room).is_none() {
        fault(1, &format!("the room `{room}` is not in the table of layers"));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX && !DATA_TABLES.contains(&source.path.as_str()) {
        fault(lines, &format!("{lines} lines, and it is no listed data table: more than {LINES_MAX}"));
    }
    for name in folder.split('/').chain([stem]) {
        if EMPTY_NAMES.iter().any(|empty| name == *empty || name.ends_with(&format!("_{empty}"))) {
            fault(1, &format!("the name `{name}` does not say what the file is"));
        }
    }
    let module = module_of(&source.path);
    let is_parent = files.iter().any(|other| other.len() > module.len() && other.starts_with(&module));
    if stem != "mod" && !module.is_empty() && is_parent {
        fault(1, &format!("has files under it: move it to `{}/mod.rs`", module.join("/")));
    }
}

/// Why `room` may not name `path`, if it may not.
fn import_fault(room: &str, path: &[String]) -> Option<String> {
    let target = path.first().map_or("", String::as_str);
    let from = rank(room)?;
    if room == target || ROOTS.contains(&room) {
        return None;
    }
    let Some(to) = rank(target) else {
        return Some(format!("`crate::{target}` is no room of the table: name the room it comes from"));
    };
    if to > from {
        return Some(format!("`{room}` may not import `{target}`, which is not below it or to its left"));
    }
    CLOSED_DOORS
        .contains(&(room, target))
        .then(|| format!("`{room}` may not import `{target}`: coherence is the only door to it"))
}

/// Layer, and place in it.
fn rank(room: &str) -> Option<(usize, usize)> {
    let room = if ROOTS.contains(&room) { "main" } else { room };
    LAYERS
        .iter()
        .enumerate()
        .find_map(|(layer, rooms)| rooms.iter().position(|known| *known == room).map(|place| (layer, place)))
}

/// Files of one folder that import each other round in a circle.
fn cycles(imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let mut done = BTreeSet::new();
    let mut faults = Vec::new();
    for start in imports.keys() {
        follow(start, imports, &mut Vec::new(), &mut done, &mut faults);
    }
    faults
}

/// Depth first: a file met again on the way to itself closes a circle.
fn follow<'a>(
    file: &'a Vec<String>,
    imports: &'a BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
    way: &mut Vec<&'a Vec<String>>,
    done: &mut BTreeSet<&'a Vec<String>>,
    faults: &mut Vec<String>,
) {
    if let Some(first) = way.iter().position(|passed| *passed == file) {
        let mut circle = String::new();
        for passed in &way[first..] {
            let _ = write!(circle, "{} -> ", passed.join("::"));
        }
        faults.push(format!("{circle}{}: a circle of imports", file.join("::")));
        return;
    }
    if !done.insert(file) {
        return;
    }
    way.push(file);
    for next in imports.get(file).into_iter().flatten() {
        follow(next, imports, way, done, faults);
    }
    way.pop();
}

/// `cache/slot.rs` is `cache::slot`, `cache/mod.rs` is `cache`, the two roots are empty.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" || path == "main" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn room_of(source: &Source) -> &str {
    source.path.split(['/', '.']).next().unwrap_or_default()
}

fn parent(module: &[String]) -> &[String] {
    &module[..module.len().saturating_sub(1)]
}

/// What the tokens of one file hold that a rule is about. Paths are absolute, without the crate's name.
#[derive(Default)]
struct Reading {
    paths: Vec<(usize, Vec<String>)>,
    left_undone: Vec<(usize, &'static str)>,
    test_modules: Vec<Vec<String>>,
}

fn read(source: &Source) -> Reading {
    let mut reading = Reading::default();
    let tokens = TokenStream::from_str(&source.text)
        .unwrap_or_else(|error| panic!("src/{} is not Rust: {error}", source.path));
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    reading.read_tokens(&tokens, &module_of(&source.path), false);
    reading
}

impl Reading {
    /// `module` is where the tokens stand, inline modules counted; `in_test`: only tests compile them.
    fn read_tokens(&mut self, tokens: &[TokenTree], module: &[String], in_test: bool) {
        let mut rest = tokens;
        while let [first, tail @ ..] = rest {
            if starts_with_colons(rest) {
                // A segment behind `::` goes on with a path that has been read already.
                rest = if rest.get(2).and_then(ident).is_some() { &rest[3..] } else { &rest[2..] };
            } else if let Some(item) = after_cfg_test(rest) {
                let (item, after) = split_item(item);
                self.read_tokens(item, module, true);
                rest = after;
            } else if let Some((name, body, after)) = inline_module(rest) {
                self.read_tokens(&body, &[module, &[name]].concat(), in_test);
                rest = after;
            } else {
                match first {
                    TokenTree::Group(group) => self.read_tokens(&inside(group), module, in_test),
                    TokenTree::Ident(_) => self.read_ident(rest, module, in_test),
                    TokenTree::Punct(_) if !in_test => self.left_undone.extend(unwrap(rest)),
                    TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                }
                rest = tail;
            }
        }
    }

    fn read_ident(&mut self, tokens: &[TokenTree], module: &[String], in_test: bool) {
        let line = line_of(&tokens[0]);
        match ident(&tokens[0]).as_deref() {
            Some("crate" | "nearhit") => self.read_path(&tokens[1..], &[], line),
            Some("self") => self.read_path(&tokens[1..], module, line),
            Some("super") => self.read_path(&tokens[1..], parent(module), line),
            Some("mod") if in_test && is_punct(tokens.get(2), ';') => {
                self.test_modules.extend(ident(&tokens[1]).map(|name| [module, &[name]].concat()));
            }
            Some("todo") if !in_test && is_punct(tokens.get(1), '!') => {
                self.left_undone.push((line, "todo!"));
            }
            Some("unimplemented") if !in_test && is_punct(tokens.get(1), '!') => {
                self.left_undone.push((line, "unimplemented!"));
            }
            _ => {}
        }
    }

    /// Follows a path, into groups as well, from the `::` behind its first segment.
    fn read_path(&mut self, tail: &[TokenTree], base: &[String], line: usize) {
        if !starts_with_colons(tail) {
            return;
        }
        let mut path = base.to_vec();
        let mut tail = tail;
        while starts_with_colons(tail) {
            match tail.get(2) {
                Some(TokenTree::Ident(name)) if *name == "super" => path = parent(&path).to_vec(),
                Some(TokenTree::Ident(name)) => path.push(name.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    for branch in inside(group).split(|token| is_punct(Some(token), ',')) {
                        self.read_branch(branch, &path);
                    }
                    return;
                }
                Some(TokenTree::Punct(star)) if star.as_char() == '*' => path.push("*".to_owned()),
                _ => break,
            }
            tail = &tail[3..];
        }
        self.paths.push((line, path));
    }

    /// One branch of a group, `state::{Mode, State}` in `use super::{read, state::{Mode, State}}`.
    fn read_branch(&mut self, branch: &[TokenTree], base: &[String]) {
        let [first, tail @ ..] = branch else { return };
        let line = line_of(first);
        let path = match ident(first).as_deref() {
            Some("self") | None => base.to_vec(),
            Some("super") => parent(base).to_vec(),
            Some(name) => [base, &[name.to_owned()]].concat(),
        };
        if starts_with_colons(tail) {
            self.read_path(tail, &path, line);
        } else {
            self.paths.push((line, path));
        }
    }
}

fn inside(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn line_of(token: &TokenTree) -> usize {
    token.span().start().line
}

fn ident(token: &TokenTree) -> Option<String> {
    if let TokenTree::Ident(name) = token { Some(name.to_string()) } else { None }
}

fn is_punct(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn starts_with_colons(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(first), second, ..]
        if first.as_char() == ':' && first.spacing() == Spacing::Joint && is_punct(Some(second), ':'))
}

/// `.unwrap()`, with the line it is on.
fn unwrap(tokens: &[TokenTree]) -> Option<(usize, &'static str)> {
    let [dot, name, TokenTree::Group(arguments), ..] = tokens else { return None };
    (is_punct(Some(dot), '.') && ident(name).as_deref() == Some("unwrap") && arguments.stream().is_empty())
        .then(|| (line_of(name), ".unwrap()"))
}

/// The name of `mod name { .. }`, its body, and what follows it.
fn inline_module(tokens: &[TokenTree]) -> Option<(String, Vec<TokenTree>, &[TokenTree])> {
    let [keyword, name, TokenTree::Group(body), after @ ..] = tokens else { return None };
    (ident(keyword)? == "mod" && body.delimiter() == Delimiter::Brace)
        .then(|| (name.to_string(), inside(body), after))
}

/// What stands behind `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn after_cfg_test(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    let [hash, TokenTree::Group(attribute), after @ ..] = tokens else { return None };
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    (is_punct(Some(hash), '#') && (text == "cfg(test)" || text.starts_with("cfg(all(test,"))).then_some(after)
}

/// Cuts behind the item at the front: its body, or the semicolon or comma that ends it.
fn split_item(tokens: &[TokenTree]) -> (&[TokenTree], &[TokenTree]) {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        other => is_punct(Some(other), ';') || is_punct(Some(other), ','),
    };
    tokens.split_at(tokens.iter().position(ends).map_or(tokens.len(), |end| end + 1))
}

mod made_up_violations {
    use super::{DATA_TABLES, LINES_MAX, Source};

    /// The faults of a tree of made-up files, given as (path, code behind a proper opening).
    fn faults_of(files: &[(&str, &str)]) -> Vec<String> {
        let source = |(path, code): &(&str, &str)| Source {
            path: (*path).to_owned(),
            text: format!("//! What it is.\n{code}"),
        };
        super::faults(&files.iter().map(source).collect::<Vec<_>>())
    }

    /// One fault in the one file, on its second line, that speaks of `what`.
    #[track_caller]
    fn assert_caught(path: &str, code: &str, what: &str) {
        let faults = faults_of(&[(path, code)]);
        assert!(
            faults.len() == 1
                && faults[0].starts_with(&format!("src/{path}:2: "))
                && faults[0].contains(what),
            "{code:?} in {path} gave {faults:?}"
        );
    }

    #[track_caller]
    fn assert_clean(path: &str, code: &str) {
        assert_eq!(faults_of(&[(path, code)]), Vec::<String>::new(), "{code:?} in {path}");
    }

    #[test]
    fn an_import_from_a_higher_layer() {
        assert_caught("resp/scan.rs", "use crate::cache::Cache;", "`resp` may not import `cache`");
        assert_caught("clock.rs", "fn f() { crate::server::start() }", "`clock` may not import `server`");
        assert_caught("upstream/lane.rs", "use crate::session;", "`upstream` may not import `session`");
        assert_caught("coherence/mod.rs", "pub use crate::{session::Session};", "`session`");
    }

    #[test]
    fn an_import_from_the_right_in_its_own_layer() {
        assert_caught("config.rs", "use crate::metrics::Counter;", "`config` may not import `metrics`");
        assert_caught("resp/reply.rs", "use crate::command::Class;", "`resp` may not import `command`");
        assert_caught("cache/mod.rs", "use crate::upstream::Lane;", "`cache` may not import `upstream`");
    }

    #[test]
    fn an_import_past_the_only_door() {
        assert_caught("session/read.rs", "use crate::cache::Cache;", "`session` may not import `cache`");
        assert_caught("upstream/lane.rs", "use crate::cache::Waiter;", "`upstream` may not import `cache`");
    }

    #[test]
    fn an_import_in_disguise() {
        let what = "`session` may not import `cache`";
        for code in [
            "use crate::{clock, cache::Cache};",
            "use crate::{clock::{self, Nanos}, cache as store};",
            "use super::super::cache::Cache;",
            "use super::{super::cache::Cache, state::Mode};",
            "fn f(cache: &crate::cache::Cache) {}",
            "fn f() { Vec::<crate::cache::Entry>::new() }",
            "fn f() { log!(crate :: cache :: SIZE) }",
            "macro_rules! m { () => { $crate::cache::SIZE } }",
            "#[cfg(test)] mod tests { use crate::cache::Cache; }",
            "mod inner { use super::super::super::cache::Cache; }",
        ] {
            assert_caught("session/read.rs", code, what);
        }
        assert_caught("session/mod.rs", "use super::cache::Cache;", what);
        assert_caught("session/mod.rs", "use nearhit::cache::Cache;", what);
        assert_caught("session/read.rs", "use crate::*;", "`crate::*` is no room");
        assert_caught("session/read.rs", "use crate::Cache;", "`crate::Cache` is no room");
    }

    #[test]
    fn a_room_that_is_not_in_the_table() {
        let faults = faults_of(&[("parlour/mod.rs", "use crate::server::start;")]);
        assert_eq!(faults, ["src/parlour/mod.rs:1: the room `parlour` is not in the table of layers"]);
    }

    #[test]
    fn neighbours_that_import_each_other() {
        let faults = faults_of(&[
            ("upstream/mod.rs", "mod lane; mod pool; mod health;"),
            ("upstream/lane.rs", "use super::pool::Pool;"),
            ("upstream/pool.rs", "use crate::upstream::health::Health;"),
            ("upstream/health.rs", "fn f() { super::lane::probe() }"),
        ]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("upstream::lane -> upstream::pool -> upstream::health"), "{faults:?}");
    }

    #[test]
    fn work_left_undone() {
        assert_caught("clock.rs", "fn f() { todo!() }", "`todo!`");
        assert_caught("clock.rs", "fn f() { unimplemented!(\"later\") }", "`unimplemented!`");
        assert_caught("clock.rs", "fn f() { g().unwrap() }", "`.unwrap()`");
        assert_caught("clock.rs", "#[cfg(test)] mod tests {} fn f() { g().unwrap() }", "`.unwrap()`");
        assert_caught("clock.rs", "#[cfg(test)] use a::B; fn f() { g().unwrap() }", "`.unwrap()`");
        assert_caught("clock.rs", "#[cfg(not(test))] fn f() { g().unwrap() }", "`.unwrap()`");
    }

    #[test]
    fn a_form_that_is_not_the_house_s() {
        // The opening that `faults_of` puts in front is one line more than may be.
        let long = "\n".repeat(LINES_MAX);
        let faults = faults_of(&[("cache/mod.rs", &long), (DATA_TABLES[0], &long)]);
        assert_eq!(
            faults,
            ["src/cache/mod.rs:601: 601 lines, and it is no listed data table: more than 600"]
        );

        let faults = faults_of(&[("cache.rs", "mod slot;"), ("cache/slot.rs", "")]);
        assert_eq!(faults, ["src/cache.rs:1: has files under it: move it to `cache/mod.rs`"]);

        for path in ["session/utils.rs", "session/read_helpers.rs", "session/manager/mod.rs"] {
            let faults = faults_of(&[(path, "")]);
            assert!(faults.len() == 1 && faults[0].contains("does not say what the file is"), "{faults:?}");
        }

        let unopened = Source { path: "clock.rs".to_owned(), text: "// What it is.\n".to_owned() };
        assert_eq!(super::faults(&[unopened]).len(), 1);
    }

    #[test]
    fn what_is_as_it_should_be_is_let_be() {
        assert_clean("session/read.rs", "use crate::{clock::{self, Nanos}, coherence::Coherence, resp};");
        assert_clean("session/read.rs", "use super::{state::Mode, super::coherence::Fence};");
        assert_clean("session/read.rs", "pub(crate) fn f() {} pub(in crate::session) fn g() {}");
        assert_clean(
            "session/read.rs",
            "/// See [`crate::cache`].\nconst A: &str = \"crate::cache\"; // crate::cache",
        );
        assert_clean("session/read.rs", "fn f(&self) { self.crate_::cache(); other::crate_name::cache() }");
        assert_clean("command/table.rs", "use crate::{clock::Nanos, config, ids::Database, metrics, resp};");
        assert_clean("coherence/mod.rs", "use crate::{cache::Cache, upstream::Upstream};");
        assert_clean("main.rs", "use nearhit::{Server, admin, cache, config::Config};");
        assert_clean("lib.rs", "pub mod cache; pub use crate::server::Server;");
        assert_clean("clock.rs", "#[cfg(test)] mod tests { #[test] fn f() { g().unwrap(); todo!() } }");
        assert_clean("clock.rs", "#[cfg(all(test, unix))] fn f() { g().unwrap() }");
        assert_clean("clock.rs", "fn f() { g().unwrap_or_default(); todo(); o.unwrap(1) }");

        let files =
            [("cache/mod.rs", "#[cfg(test)] mod tests;"), ("cache/tests.rs", "fn f() { g().unwrap() }")];
        assert_eq!(faults_of(&files), Vec::<String>::new());
        let files =
            [("cache/mod.rs", "mod slot; use self::slot::Slot;"), ("cache/slot.rs", "use super::Cache;")];
        assert_eq!(faults_of(&files), Vec::<String>::new());
    }
}
