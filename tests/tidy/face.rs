//! The names that a program can use: semver binds them, so that a new one is a decision.

use super::root;

const FACE: [&str; 21] = [
    "ApiError",
    "ConcurrentStatus",
    "ContendedPage",
    "LogStatus",
    "ProcessStatus",
    "ReaderStatus",
    "RecoverError",
    "Recovery",
    "RegisterError",
    "Status",
    "Unrecovered",
    "VFS_NAME",
    "Vfs",
    "VfsBuilder",
    "discard_log",
    "internal",
    "recover",
    "register",
    "retry",
    "salvage",
    "version",
];

/// The public names of `src/lib.rs`. It has no items of more than these forms, nor `pub use` with a rename or a `*`.
fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("pub ")) {
        let (kind, rest) = line.split_once(' ').expect("a kind and a name");
        match kind {
            "mod" | "const" | "fn" | "struct" | "enum" => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                names.push(rest[..end].to_owned());
            }
            "use" => {
                let (_, last) = rest.trim_end_matches(';').rsplit_once("::").expect("a path");
                let last = last.trim_matches(|c| c == '{' || c == '}');
                names.extend(last.split(", ").map(str::to_owned));
            }
            _ => panic!("pub {line}"),
        }
    }
    names.sort();
    names
}

#[test]
fn the_crate_shows_these_names_and_hides_its_rooms() {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).expect("UTF-8");
    assert_eq!(names(&text), FACE);
    assert!(text.contains("#[doc(hidden)]\npub mod internal {"));
}
