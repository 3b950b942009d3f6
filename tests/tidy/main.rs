//! What a program can check of the project's style, on the files as they stand: links in the documents, lengths, and
//! phrases. The length of functions is clippy's, in `clippy.toml`.

mod commands;
mod face;
mod links;
mod structure;
mod text;
mod unused;
mod variables;
mod workspace;

use std::path::{Path, PathBuf};

/// A file of the project: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `directories` whose names end with `.extension`, without what builds make.
fn files(directories: &[&str], extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = directories.iter().map(|directory| root().join(directory)).collect();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            if path.is_dir() {
                if !matches!(name, "target" | "node_modules" | "build" | "prebuilt") && !name.starts_with('.') {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|of| of == extension) {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                let path = path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no .{extension} below {directories:?}");
    found
}

/// Fails with all faults at once, so that one run shows them.
fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
