//! Which part of the source knows which: no room of `src` uses a room above it, and no files use each other in a circle. A file uses
//! another one by a path, of a `use` or in the code, or by calling a method of a type whose methods stand in several files. A name that a
//! room re-exports counts as one of the room, not of the file behind it.

use crate::{Source, files, report, root};
use std::collections::{BTreeMap, BTreeSet};

/// The rooms and the files beside them, from the top. One uses those after it.
const ROOMS: [&str; 17] = [
    "",
    "recovery",
    "vfs",
    "handle",
    "engine",
    "view",
    "host",
    "shared",
    "status",
    "log",
    "pages",
    "disk",
    "os",
    "sync",
    "interleave",
    "mutants",
    "sqlite",
];

/// Types with more fields or methods than the bound: how many of each they may have, and why. No number may grow.
const LARGE: [(&str, usize, usize, &str); 13] = [
    ("engine::Engine", 23, 27, "the parts of an engine, put together"),
    ("handle::WalConnection", 12, 64, "what a reader, a writer and a checkpointer do with one view"),
    (
        "view::View",
        11,
        47,
        "the WAL and the wal-index that one connection sees, and what it has committed beside others",
    ),
    ("log::Certificate", 17, 5, "the fields of a record"),
    ("log::FoundLog", 15, 52, "all that was found of one log"),
    ("log::LogFacts", 13, 4, "the columns of the recovery table"),
    ("disk::Plan", 13, 9, "the failures that a test can plan"),
    ("shared::CommitEntry", 16, 1, "the fields of an entry of the ring"),
    ("shared::ControlBlock", 1, 77, "loads and stores of one word each"),
    ("shared::ControlView", 28, 40, "the layout of the control block"),
    ("sqlite::IoMethods", 19, 0, "SQLite's"),
    ("sqlite::RawVfs", 22, 0, "SQLite's"),
    ("status::LogStatus", 20, 0, "the keys of the status"),
];
const FIELDS: usize = 12;
const METHODS: usize = 40;

/// The text before the tests that stand in the file itself; a module of tests in another file ends nothing.
fn without_tests(text: &str) -> &str {
    let marks = text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at);
    let inner = marks.filter(|at| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{')));
    &text[..inner.min().unwrap_or(text.len())]
}

/// Without comments, which have semicolons, too, and without the tests in the file.
fn code_of(text: &str) -> Vec<&str> {
    without_tests(text).lines().filter(|line| !line.trim_start().starts_with("//")).collect()
}

fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Paths that the code names outside of `use` statements.
fn paths_in_code(text: &str) -> Vec<String> {
    let code = code_of(text).join(" ");
    let begins = |at: usize| !code[..at].ends_with("use ") && !code[..at].ends_with(|c| is_of_name(c) || c == ':');
    let paths = ["super::", "crate::"].iter().flat_map(|root| code.match_indices(root)).filter(|(at, _)| begins(*at));
    let to_end = |at: usize| code[at..].split(|c| !is_of_name(c) && c != ':').next().unwrap_or_default();
    paths.map(|(at, _)| to_end(at).trim_end_matches(':').to_owned()).collect()
}

/// The type whose methods a line begins: `impl<'a> Name<'a> {` or `impl Name {`.
fn type_of_impl(line: &str) -> Option<&str> {
    let is_own = line.starts_with("impl") && line.ends_with('{') && !line.contains(" for ");
    let rest = line.trim_start_matches("impl").trim_start_matches("<'a>").trim_start_matches("<'_>");
    is_own.then(|| name_after(rest, " ")).flatten()
}

/// Lines, each with the type among whose methods it stands.
fn lines_of_types(text: &str) -> Vec<(Option<&str>, &str)> {
    let mut of = None;
    let lines = code_of(text).into_iter().map(|line| {
        of = if line == "}" { None } else { type_of_impl(line).or(of) };
        (of, line)
    });
    lines.collect()
}

/// What is called in a line, as `receiver.method(`.
fn calls(line: &str) -> Vec<(&str, &str)> {
    let call = |(at, _): (usize, &str)| {
        let receiver = line[..at].rsplit(|c| !is_of_name(c)).next()?;
        let (method, rest) = line[at + 1..].split_at(line[at + 1..].find(|c| !is_of_name(c))?);
        rest.starts_with('(').then_some((receiver, method))
    };
    line.match_indices('.').filter_map(call).collect()
}

/// By room and type: the file of each method.
type Methods<'a> = BTreeMap<(&'a str, &'a str), BTreeMap<&'a str, &'a str>>;

/// Those of types whose methods stand in several files.
fn methods(sources: &[Source]) -> Methods<'_> {
    let mut methods = Methods::new();
    for file in sources {
        for (of, line) in lines_of_types(&file.text) {
            let is_member = line.starts_with("    ") && !line.starts_with("     ");
            if let (Some(of), true, Some(name)) = (of, is_member, name_after(line, "fn ")) {
                methods.entry((room(&file.path), of)).or_default().insert(name, &file.path);
            }
        }
    }
    methods.retain(|_, by_name| by_name.values().collect::<BTreeSet<_>>().len() > 1);
    methods
}

/// The files whose methods a file calls: on `self`, and on arguments that are references of the type.
fn files_of_calls<'a>(file: &Source, methods: &Methods<'a>) -> BTreeSet<&'a str> {
    let mut used = BTreeSet::new();
    for ((_, of), by_name) in methods.iter().filter(|((of_room, _), _)| *of_room == room(&file.path)) {
        let arguments: BTreeSet<&str> = [": &", ": &mut "]
            .iter()
            .flat_map(|kind| file.text.match_indices(&format!("{kind}{of}")).collect::<Vec<_>>())
            .filter(|(at, found)| !file.text[at + found.len()..].starts_with(is_of_name))
            .filter_map(|(at, _)| file.text[..at].rsplit(|c| !is_of_name(c)).next())
            .collect();
        for (own, line) in lines_of_types(&file.text) {
            let is_of_type = |receiver: &str| match receiver {
                "self" => own == Some(of),
                name => arguments.contains(name),
            };
            let called = calls(line).into_iter().filter(|(receiver, _)| is_of_type(receiver));
            used.extend(called.filter_map(|(_, method)| by_name.get(method)));
        }
    }
    used
}

/// Paths that `use` statements name, with groups spelled out; not those of tests in the file.
fn used_paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code_of(text).join(" ").split_inclusive(';') {
        let statement = statement.trim();
        let start = statement.rfind("use ").filter(|at| *at == 0 || statement[..*at].ends_with([' ', '}', ')', ']']));
        let Some(start) = start else { continue };
        if !statement[..start].contains("cfg(test)") {
            spell_out("", statement[start + 4..].trim_end_matches(';'), &mut paths);
        }
    }
    paths
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn spell_out(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        paths.push(format!("{prefix}{}", tree.split(" as ").next().unwrap_or(tree)));
        return;
    };
    let (prefix, mut depth, mut start) = (format!("{prefix}{}", head.trim()), 0, 0);
    let group = group.strip_suffix('}').unwrap_or(group);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spell_out(&prefix, &group[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        spell_out(&prefix, &group[start..], paths);
    }
}

/// The module that a file is: `src/engine/flush.rs` is `engine::flush`, `src/engine/mod.rs` `engine`.
fn module_of(path: &str) -> Vec<&str> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "mod" && *part != "lib").collect()
}

struct Tree {
    /// Module to file.
    modules: BTreeMap<Vec<String>, String>,
    /// File to the files that it uses.
    uses: BTreeMap<String, BTreeSet<String>>,
}

fn is_test(path: &str) -> bool {
    path.contains("tests") || path.ends_with("by_hand.rs")
}

fn tree() -> Tree {
    let sources: Vec<_> = files(&["src"], "rs").into_iter().filter(|file| !is_test(&file.path)).collect();
    let owned = |module: Vec<&str>| module.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let modules: BTreeMap<_, _> =
        sources.iter().map(|file| (owned(module_of(&file.path)), file.path.clone())).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let methods = methods(&sources);
    for file in &sources {
        let own = owned(module_of(&file.path));
        let called = files_of_calls(file, &methods).into_iter().filter(|target| *target != file.path);
        uses.entry(file.path.clone()).or_default().extend(called.map(str::to_owned));
        for path in used_paths(&file.text).into_iter().chain(paths_in_code(&file.text)) {
            let mut parts: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
            let mut base = match parts[0].as_str() {
                "crate" => Vec::new(),
                "super" | "self" => own.clone(),
                _ => continue,
            };
            while parts.first().is_some_and(|part| matches!(part.as_str(), "crate" | "super" | "self")) {
                if parts.remove(0) == "super" {
                    base.pop();
                }
            }
            base.extend(parts);
            let target = (1..=base.len()).rev().find_map(|length| modules.get(&base[..length]));
            if let Some(target) = target.filter(|target| **target != file.path) {
                uses.entry(file.path.clone()).or_default().insert(target.clone());
            }
        }
    }
    Tree { modules, uses }
}

fn room(path: &str) -> &str {
    module_of(path).first().copied().unwrap_or_default()
}

#[test]
fn no_room_uses_a_room_above_it() {
    let tree = tree();
    let place = |file: &str| ROOMS.iter().position(|of| *of == room(file));
    let mut faults = Vec::new();
    for (file, used) in &tree.uses {
        for target in used {
            match (place(file), place(target)) {
                (Some(from), Some(to)) if from <= to => {}
                // Macros and names that the crate's root re-exports from the room that has them.
                _ if target == "src/lib.rs" => {}
                (Some(_), Some(_)) => faults.push(format!("{file} uses {target}, of a room above")),
                _ => faults.push(format!("{file} uses {target}: a room without a place")),
            }
        }
    }
    report(&faults);
}

/// The files that can be reached from `file` by what they use.
fn reached<'a>(tree: &'a Tree, file: &'a str) -> BTreeSet<&'a str> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![file]);
    while let Some(next) = open.pop() {
        for target in tree.uses.get(next).into_iter().flatten() {
            if seen.insert(target.as_str()) {
                open.push(target);
            }
        }
    }
    seen
}

/// Pairs of files that reach each other.
fn circles(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.modules.values() {
        let used = reached(tree, file);
        let back =
            used.into_iter().filter(|other| *other > file.as_str() && reached(tree, other).contains(file.as_str()));
        faults.extend(back.map(|other| format!("{file} and {other}")));
    }
    faults
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    report(&circles(&tree()));
}

/// The table of architecture.md: from the top, each file of `handle` once, and none uses one above it.
#[test]
fn the_files_of_handle_stand_in_the_order_of_the_document() {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).expect("UTF-8");
    let (_, table) = text.split_once("| files of `src/handle` |").expect("the table");
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.split('|').nth(2).expect("the second column"));
    let names = cells.flat_map(|cell| cell.split('`').filter(|name| name.ends_with(".rs")));
    let order: Vec<String> = names.map(|name| format!("src/handle/{name}")).collect();
    let tree = tree();
    let place = |file: &String| order.iter().position(|known| known == file);
    let mut faults = Vec::new();
    let face = "src/handle/mod.rs";
    for file in tree.modules.values().filter(|file| room(file) == "handle" && *file != face) {
        if order.iter().filter(|known| *known == file).count() != 1 {
            faults.push(format!("{file} does not stand in the table once"));
        }
        for used in tree.uses.get(file).into_iter().flatten().filter(|used| room(used) == "handle" && *used != face) {
            if place(used) < place(file) {
                faults.push(format!("{file} uses {used}, which stands above it"));
            }
        }
    }
    report(&faults);
}

/// By a path, and by a method.
#[test]
fn a_new_circle_is_found() {
    let mut tree = tree();
    let (low, high) = ("src/handle/wal_connection.rs", "src/handle/transaction.rs");
    assert!(reached(&tree, high).contains(low) && !reached(&tree, low).contains(high));
    tree.uses.entry(low.to_owned()).or_default().insert(high.to_owned());
    assert!(circles(&tree).contains(&format!("{high} and {low}")), "{:?}", circles(&tree));
    let sources = files(&["src/handle"], "rs");
    let low_calls = Source {
        path: low.to_owned(),
        text: "impl WalConnection {\n    fn f(&mut self) {\n        self.roll_back(file);\n    }\n}\n".to_owned(),
    };
    assert!(files_of_calls(&low_calls, &methods(&sources)).contains(high));
    assert_eq!(
        paths_in_code("use super::a;\nlet x = super::b::c(d) + crate::e::F;\n// super::g"),
        ["super::b::c", "crate::e::F"]
    );
}

/// The name after a word of a line: of `pub struct Engine {` after `struct `.
fn name_after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(word)?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').find(|part| !part.is_empty())
}

/// Types by name, with their numbers of fields and of methods, as rustfmt lays them out.
fn sizes() -> BTreeMap<String, (usize, usize)> {
    let mut sizes: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for file in files(&["src"], "rs").into_iter().filter(|file| !is_test(&file.path)) {
        let mut block = (None, false);
        for line in without_tests(&file.text).lines() {
            let is_member =
                line.starts_with("    ") && !line.starts_with("     ") && !line.trim().starts_with(['/', '#']);
            if let Some(of) = type_of_impl(line) {
                block = (Some(of), true);
            } else if line.contains("struct ") && line.ends_with('{') && !line.starts_with(' ') {
                block = (name_after(line, "struct "), false);
            } else if line == "}" {
                block = (None, false);
            } else if let (Some(name), true) = (block.0, is_member) {
                let size = sizes.entry(format!("{}::{name}", room(&file.path))).or_default();
                if block.1 && line.contains("fn ") {
                    size.1 += 1;
                } else if !block.1 && line.contains(": ") {
                    size.0 += 1;
                }
            }
        }
    }
    sizes
}

#[test]
fn types_are_small() {
    let sizes = sizes();
    assert!(sizes["engine::Engine"].0 > FIELDS, "{:?}", sizes["engine::Engine"]);
    let mut faults = Vec::new();
    for (name, (fields, methods)) in &sizes {
        let bound = LARGE.iter().find(|(large, ..)| large == name).map_or((FIELDS, METHODS), |(_, f, m, _)| (*f, *m));
        if *fields > bound.0 || *methods > bound.1 {
            faults.push(format!("{name}: {fields} fields, {methods} methods; at most {bound:?}"));
        }
    }
    report(&faults);
}

/// The files in which methods of the engine may stand: what needs most of its parts.
const ENGINE: [&str; 4] =
    ["src/engine/lifecycle.rs", "src/engine/parts.rs", "src/engine/rest.rs", "src/engine/status.rs"];

/// A part of the engine has a type of its own, and its file names the files that it uses: by the face of the room each file
/// would use each other.
#[test]
fn the_engine_is_put_together_of_parts() {
    let mut faults = Vec::new();
    for file in files(&["src/engine"], "rs").into_iter().filter(|file| !is_test(&file.path)) {
        if file.text.contains("\nimpl Engine {") && !ENGINE.contains(&file.path.as_str()) {
            faults.push(format!("{} has methods of the engine", file.path));
        }
        let is_of_room =
            |path: &String| path.strip_prefix("super::").is_some_and(|name| name.starts_with(char::is_uppercase));
        let face = file.path.matches('/').count() == 2 && !file.path.ends_with("mod.rs");
        faults.extend(
            used_paths(&file.text)
                .iter()
                .filter(|path| face && is_of_room(path))
                .map(|path| format!("{}: {path}", file.path)),
        );
    }
    report(&faults);
}

#[test]
fn groups_of_a_use_are_spelled_out() {
    let text = "//! One; two\n//! three\nuse super::{a::B, c::{d, E as F}};\nuse crate::x;\n#[cfg(test)]\nmod tests { use crate::y; }\n";
    assert_eq!(used_paths(text), ["super::a::B", "super::c::d", "super::c::E", "crate::x"]);
    let outside = "#[cfg(test)]\nmod tests;\nuse crate::x;\n";
    assert_eq!(used_paths(outside), ["crate::x"]);
}
