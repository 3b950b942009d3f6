//! Which part of the source knows which: no room of `src` uses a room above it, and no files use each other in a circle but those
//! that are named here. A name that a room re-exports counts as one of the room, not of the file behind it.

use crate::{files, report};
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
    ("handle::WalConnection", 12, 67, "what a reader, a writer and a checkpointer do with one view"),
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

/// Files that use each other. docs/architecture.md says why; none may join them.
const CIRCLES: [&[&str]; 1] = [&[
    "src/handle/checkpointer.rs",
    "src/handle/concurrent.rs",
    "src/handle/reader.rs",
    "src/handle/transaction.rs",
    "src/handle/wal_connection.rs",
]];

/// The text before the tests that stand in the file itself; a module of tests in another file ends nothing.
fn without_tests(text: &str) -> &str {
    let marks = text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at);
    let inner = marks.filter(|at| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{')));
    &text[..inner.min().unwrap_or(text.len())]
}

/// Paths that `use` statements name, with groups spelled out; not those of tests in the file.
fn used_paths(text: &str) -> Vec<String> {
    // First without comments: they have semicolons, too.
    let code: Vec<&str> = without_tests(text).lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut paths = Vec::new();
    for statement in code.join(" ").split_inclusive(';') {
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
    for file in &sources {
        let own = owned(module_of(&file.path));
        for path in used_paths(&file.text) {
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

#[test]
fn no_files_use_each_other_in_a_circle() {
    let tree = tree();
    let circle_of = |file: &str| CIRCLES.iter().position(|files| files.contains(&file));
    let (mut faults, mut met) = (Vec::new(), BTreeSet::new());
    for file in tree.modules.values() {
        let used = reached(&tree, file);
        for other in used.into_iter().filter(|other| other != file && reached(&tree, other).contains(file.as_str())) {
            match (circle_of(file), circle_of(other)) {
                (Some(one), Some(same)) if one == same => _ = met.insert(file.as_str()),
                _ => faults.push(format!("{file} and {other}")),
            }
        }
    }
    let open = CIRCLES.iter().flat_map(|files| files.iter()).filter(|file| !met.contains(**file));
    faults.extend(open.map(|file| format!("{file} is in no circle any more: take it from the list")));
    report(&faults);
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
            if line.starts_with("impl") && line.ends_with('{') && !line.contains(" for ") {
                // `impl<'a> Name<'a> {` or `impl Name {`.
                let type_of = line.trim_start_matches("impl").trim_start_matches("<'a>").trim_start_matches("<'_>");
                block = (name_after(type_of, " "), true);
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
