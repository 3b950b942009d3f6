//! `docs/testing.md` names every variable of the environment that tests, benchmarks and fuzz targets have, and no other.

use crate::{files, report, root};
use std::collections::BTreeSet;

/// For users (`docs/settings.md`), or no variable: a slip of the pen on purpose, and what `build.rs` hands to the compiler.
const OTHERS: [&str; 11] = [
    "PWAL_BESIDE_STOCK",
    "PWAL_FILE_SYSTEM",
    "PWAL_LANES",
    "PWAL_LIBRARY",
    "PWAL_LOG",
    "PWAL_MODE",
    "PWAL_MOED",
    "PWAL_SEGMENT_BYTES",
    "PWAL_SQLITE3",
    "PWAL_VERSION",
    "PWAL_WRITERS",
];

/// The names `PWAL_...` in a text.
fn names(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("PWAL_").filter_map(|(at, prefix)| {
        let is_of_name = |c: &char| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_';
        let rest: String = text[at + prefix.len()..].chars().take_while(is_of_name).collect();
        let is_name = rest.starts_with(|c: char| c.is_ascii_uppercase()) && !rest.ends_with('_');
        is_name.then(|| format!("{prefix}{rest}"))
    })
}

#[test]
fn the_page_names_every_variable_of_the_tests() {
    let mut sources = files(&["src", "tests", "tool", "bench", "models", "fuzz", "sqlite-ext", "preload"], "rs");
    sources.extend(files(&["python"], "py"));
    sources.retain(|source| source.path != "tests/tidy/variables.rs");
    let used: BTreeSet<String> = sources.iter().flat_map(|source| names(&source.text)).collect();
    let page = std::fs::read_to_string(root().join("docs/testing.md")).expect("the page");
    let named: BTreeSet<String> = names(&page).collect();
    let is_of_tests = |name: &&String| !OTHERS.contains(&name.as_str());
    let missing =
        used.difference(&named).filter(is_of_tests).map(|name| format!("docs/testing.md does not name {name}"));
    let gone = named.difference(&used).map(|name| format!("docs/testing.md names {name}, which nothing reads"));
    report(&missing.chain(gone).collect::<Vec<_>>());
}
