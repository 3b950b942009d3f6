//! The language of comments, messages and documents: phrases that the project does not use, and lengths.

use crate::{Source, files, report};

/// A phrase, and what to write instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("proves itself", "is valid, is verified"),
    ("prove itself", "be valid, be verified"),
    ("prove themselves", "be valid, be verified"),
    ("whoever", "name the part: the caller, a process, a connection"),
    ("nobody", "no process, no connection, no thread"),
    ("somebody", "a process, a connection, a thread"),
    ("everybody", "all processes, all connections"),
    ("anybody", "any process, any connection"),
    ("so many", "name the quantity"),
    ("for so long", "name the time"),
    ("is told", "gets, is notified"),
    ("are told", "get, are notified"),
    ("abroad", "in another process, remote"),
    ("one behind the other", "concatenated, in order"),
    ("at most so long", "for at most `at_most`"),
    ("so long at most", "for at most `at_most`"),
    ("manieth", "the n-th"),
    ("proven itself", "is valid, is verified"),
    ("comes again", "retries"),
    ("of so many", "name the quantity"),
    ("for who ", "name the part"),
    ("by who ", "name the part"),
];

/// Where the phrases are not used any more. A path is a file, or all below a directory.
const CLEAN: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "bench",
    "docs/README.md",
    "docs/architecture.md",
    "docs/debugging.md",
    "docs/format.md",
    "docs/glossary.md",
    "docs/hosts.md",
    "docs/limits.md",
    "docs/measurements.md",
    "docs/processes.md",
    "docs/reliability.md",
    "docs/settings.md",
    "docs/testing.md",
    "docs/tool.md",
    "npm/README.md",
    "preload",
    "python/README.md",
    "sqlite-ext",
    "src/disk",
    "src/engine/activate.rs",
    "src/engine/append.rs",
    "src/engine/background.rs",
    "src/engine/checkpoint.rs",
    "src/engine/commit.rs",
    "src/engine/context.rs",
    "src/engine/durability.rs",
    "src/engine/epoch_counts.rs",
    "src/engine/error.rs",
    "src/engine/exclusive.rs",
    "src/engine/flush.rs",
    "src/engine/follow.rs",
    "src/engine/leader.rs",
    "src/engine/lease.rs",
    "src/engine/lifecycle.rs",
    "src/engine/limits.rs",
    "src/engine/membership.rs",
    "src/engine/owner_lock.rs",
    "src/engine/parts.rs",
    "src/engine/queue/mod.rs",
    "src/engine/queue/state.rs",
    "src/engine/reader.rs",
    "src/engine/segment_files.rs",
    "src/engine/segments.rs",
    "src/engine/settings.rs",
    "src/engine/space.rs",
    "src/engine/spills.rs",
    "src/engine/stopping.rs",
    "src/engine/tail.rs",
    "src/engine/turn.rs",
    "src/engine/undurable.rs",
    "src/handle",
    "src/log",
    "src/shared",
    "src/sqlite",
    "src/view",
    "tool/src",
];

/// A file has one subject; one that has grown beyond this many lines has two.
const LINES: usize = 800;

fn is_clean(page: &Source) -> bool {
    CLEAN.iter().any(|clean| page.path.strip_prefix(clean).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[test]
fn phrases_that_are_not_used() {
    let mut pages = files(&["."], "md");
    pages.extend(files(&["src", "sqlite-ext", "preload", "tool", "bench"], "rs"));
    pages.retain(is_clean);
    assert!(pages.len() >= CLEAN.len());
    let mut faults = Vec::new();
    for page in &pages {
        for (number, line) in page.text.lines().enumerate() {
            let line = line.to_lowercase();
            for (phrase, instead) in FORBIDDEN.iter().filter(|(phrase, _)| line.contains(phrase)) {
                faults.push(format!("{}:{}: \"{phrase}\" (instead: {instead})", page.path, number + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn files_have_one_subject() {
    let long =
        files(&["src", "sqlite-ext", "preload", "tool", "bench", "tests"], "rs").into_iter().filter_map(|file| {
            let lines = file.text.lines().count();
            (lines > LINES).then(|| format!("{}: {lines} lines, more than {LINES}", file.path))
        });
    report(&long.collect::<Vec<_>>());
}
