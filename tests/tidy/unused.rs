//! No function of `src` has a parameter that it does not use, and no struct a field that nothing reads. The compiler says so of
//! parameters whose names do not begin with `_`, and of private fields.

use crate::{files, report};
use std::collections::BTreeSet;

/// Their other form, in another build, uses it.
const OTHER_FORMS: [&str; 3] = ["src/interleave.rs", "src/mutants.rs", "src/shared/lock.rs"];
/// Parameters that prove something by being there.
const PROOFS: [&str; 1] = ["&AppendGuard"];

/// The parameters `_name: Type` of functions, but for callbacks of C and the methods of traits, whose parameters are given.
fn unused(text: &str) -> Vec<String> {
    let (mut found, mut is_of_trait, mut is_signature, mut is_of_c) = (Vec::new(), false, false, false);
    for line in text.lines() {
        if line.starts_with("impl") || line.starts_with("pub trait") || line.starts_with("pub(crate) trait") {
            is_of_trait = line.contains(" for ") || line.contains("trait ");
        } else if line == "}" {
            is_of_trait = false;
        }
        if line.contains("fn ") && !line.trim_start().starts_with("//") {
            (is_signature, is_of_c) = (true, line.contains("extern \"C\""));
        }
        if !is_signature {
            continue;
        }
        if !is_of_trait && !is_of_c {
            for part in line.split(['(', ',']).map(str::trim) {
                let parameter = part.split_once(": ").filter(|(name, _)| name.starts_with('_') && name.len() > 1);
                if let Some((name, of)) = parameter.filter(|(_, of)| !PROOFS.iter().any(|proof| of.starts_with(proof)))
                {
                    found.push(format!("{name}: {of}"));
                }
            }
        }
        is_signature = !line.ends_with(['{', ';', '}']);
    }
    found
}

#[test]
fn every_parameter_is_used() {
    let sources = files(&["src"], "rs").into_iter();
    let sources = sources.filter(|file| !file.path.contains("tests") && !OTHER_FORMS.contains(&file.path.as_str()));
    let faults = sources.flat_map(|file| {
        let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        unused(&code).into_iter().map(move |parameter| format!("{}: {parameter}", file.path))
    });
    report(&faults.collect::<Vec<_>>());
}

#[test]
fn an_unused_parameter_is_seen() {
    let text = "impl A {\n    pub fn b(&self, _c: u32, d: u8) {\n        let _e: u8 = d;\n    }\n    fn f(\n        &self,\n        _g: i8,\n    ) {\n    }\n}\n";
    assert_eq!(unused(text), ["_c: u32", "_g: i8"]);
    assert!(
        unused("impl A for B {\n    fn b(&self, _c: u32) {}\n}\nunsafe extern \"C\" fn x(\n    _a: u8,\n) {}\n")
            .is_empty()
    );
    assert!(unused("fn a(_append: &AppendGuard) {}\n").is_empty());
}

/// The text without comments, and without the tests in it.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The fields of structs, as rustfmt lays them out, but for those whose derived traits read all of them.
fn fields(code: &str) -> Vec<(String, String)> {
    let (mut found, mut attributes, mut inside) = (Vec::new(), String::new(), None);
    for line in code.lines() {
        if line.starts_with("#[") {
            attributes.push_str(line);
        } else if line.contains("struct ") && line.ends_with('{') && !line.starts_with(' ') {
            let name =
                line.split("struct ").nth(1).unwrap_or_default().split(|c| !is_word(c)).next().unwrap_or_default();
            let reads_all = ["Serialize", "PartialEq", "repr(C"].iter().any(|word| attributes.contains(word));
            inside = (!reads_all).then(|| name.to_owned());
            attributes.clear();
        } else if line == "}" {
            inside = None;
        } else {
            attributes.clear();
            let field = line.strip_prefix("    ").and_then(|rest| rest.split_once(": "));
            let name = field.and_then(|(name, _)| name.split(' ').next_back()).filter(|name| name.chars().all(is_word));
            if let (Some(of), Some(name)) = (&inside, name) {
                found.push((of.clone(), name.to_owned()));
            }
        }
    }
    found
}

/// Names that are read: after a dot, but where they are called or something is assigned to them, and in patterns.
fn read_names(code: &str, names: &mut BTreeSet<String>) {
    for (at, _) in code.match_indices('.') {
        let rest = &code[at + 1..];
        let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        let next = rest[name.len()..].trim_start();
        let is_assigned = ["= ", "+= ", "-= ", "|= ", "&= "].iter().any(|sign| next.starts_with(sign));
        if !name.is_empty() && !next.starts_with('(') && !is_assigned {
            names.insert(name.to_owned());
        }
    }
    for (at, _) in code.match_indices(" {") {
        let name = code[..at].rsplit(|c| !is_word(c)).next().unwrap_or_default();
        let Some(group) = name.starts_with(char::is_uppercase).then(|| braces(&code[at + 1..])).flatten() else {
            continue;
        };
        let after = code[at + 1 + group.len()..].trim_start_matches([')', ' ', '\n']);
        if ["= ", "=>", "|", "if ", ": ", "in "].iter().any(|sign| after.starts_with(sign)) {
            names.extend(group.split(|c| !is_word(c)).map(str::to_owned));
        }
    }
}

/// From the first brace of a text to the one that closes it.
fn braces(text: &str) -> Option<&str> {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if depth == 0 {
            return Some(&text[..=at]);
        }
    }
    None
}

/// The compiler says so of private ones; this asks whether a field of that name is read anywhere.
#[test]
fn every_field_is_read() {
    let is_of_product = |path: &str| !path.contains("tests") && !path.ends_with("by_hand.rs");
    let sources: Vec<_> = files(&["src", "tool", "sqlite-ext", "bench", "preload"], "rs")
        .into_iter()
        .filter(|file| is_of_product(&file.path))
        .map(|file| (code_of(&file.text), file.path))
        .collect();
    let mut names = BTreeSet::new();
    sources.iter().for_each(|(code, _)| read_names(code, &mut names));
    let of_src = sources.iter().filter(|(_, path)| path.starts_with("src/"));
    let all: Vec<_> =
        of_src.flat_map(|(code, path)| fields(code).into_iter().map(move |field| (field, path))).collect();
    assert!(all.len() > 800, "{}", all.len());
    let faults = all.iter().filter(|((_, name), _)| !name.starts_with('_') && !names.contains(name));
    report(&faults.map(|((of, name), path)| format!("{path}: {of}::{name} is not read")).collect::<Vec<_>>());
}

#[test]
fn an_unread_field_is_seen() {
    let code = code_of(
        "pub struct A {\n    pub a: u8, // a.b\n    b: u8,\n    c: u8,\n    d: u8,\n}\n\
         #[derive(PartialEq)]\nstruct B {\n    e: u8,\n}\n\
         fn f(a: A) {\n    a.b = a.a;\n    let A { c, .. } = a;\n    a.d();\n    A { d: 1 };\n}\n",
    );
    let mut names = BTreeSet::new();
    read_names(&code, &mut names);
    let unread = fields(&code).into_iter().map(|(_, name)| name).filter(|name| !names.contains(name));
    assert_eq!(unread.collect::<Vec<_>>(), ["b", "d"]);
}
