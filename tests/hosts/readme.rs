//! The README's examples are run as they stand: the blocks marked `run`, in the order of the page, in one
//! directory with the library in it. The Rust example is the file `examples/notes.rs`; those in other languages are files,
//! too, below `examples/hosts`, which `.ci/hosts` runs.
//!
//! Needs `sqlite3` and `python3` as the page does: `PWAL_TEST_SQLITE3` and `PWAL_TEST_PYTHON3` name others than
//! those in `/usr/bin`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Scratch, assert_plain_header, library, number, open_stock};

const README: &str = include_str!("../../README.md");
const HOSTS: &str = include_str!("../../docs/hosts.md");
const CONCURRENT: &str = include_str!("../../docs/concurrent.md");

/// The fenced blocks of a page: the words after the fence, and the text.
fn blocks(page: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (kind, after) = after.split_once('\n').expect("a line");
        let (text, after) = after.split_once("\n```").expect("an end of the block");
        blocks.push((kind, text));
        rest = after;
    }
    blocks
}

fn program(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from)
}

fn run(place: &Path, program: &Path, arguments: &[&str]) -> String {
    let path = format!("{0}:{0}/bin:{1}", place.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PWAL_")) {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } =
        command.args(arguments).current_dir(place).env("PATH", path).output().expect("the program starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && stderr.is_empty(), "{arguments:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// The page shows lines of this file, all that lie between its first and its last one.
fn assert_lines_of(text: &str, file: &str) {
    let trimmed = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    assert!(trimmed(file).contains(&trimmed(text.trim_end())), "not in the example:\n{text}");
}

/// The Python package as a wheel lays it out, in the directory where Python looks first.
fn python_package(place: &Path, library: &Path) {
    let package = place.join("pwal");
    std::fs::create_dir(&package).expect("a directory");
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/pwal")).expect("the package") {
        let source = entry.expect("an entry").path();
        if source.extension().is_some_and(|suffix| suffix == "py") {
            symlink(&source, package.join(source.file_name().expect("a name"))).expect("a symlink");
        }
    }
    symlink(library, package.join("libpwal.so")).expect("a symlink");
}

#[test]
fn the_examples_run() {
    let scratch = Scratch::new();
    let place = scratch.path();
    let built = library::library();
    symlink(&built, place.join(built.file_name().expect("a name"))).expect("a symlink");
    symlink(program("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3"), place.join("sqlite3")).expect("a symlink");
    std::fs::create_dir(place.join("bin")).expect("a directory");
    symlink(library::tool(), place.join("bin/pwal")).expect("a symlink");
    assert_eq!(library::preload().parent(), built.parent(), "cargo puts both libraries beside the tool");
    python_package(place, &built);
    let mut printed = Vec::new();
    for (kind, text) in blocks(README) {
        match kind {
            "sh run" => printed.push(run(place, Path::new("bash"), &["-euc", text])),
            "python run" => printed.push(run(place, &program("PWAL_TEST_PYTHON3", "/usr/bin/python3"), &["-c", text])),
            "rust" if text.contains("rusqlite") => {
                let (_, program) = include_str!("../../examples/notes.rs").split_once("\n\n").expect("a comment first");
                assert_eq!(text.trim_end(), program.trim_end());
                printed.push(run(place, &library::example(), &[]));
            }
            other => panic!("a block of README.md that is not run: {other}"),
        }
    }
    assert_eq!(printed.len(), 6, "{printed:?}");
    assert_eq!(printed[0], "wal\nauto\nfrom the shell\n");
    assert_eq!(printed[1], "");
    assert_eq!(printed[2], "('auto',)\n");
    assert_eq!(printed[3], "4 notes\n");
    assert_eq!(printed[4], "('FROM THE SHELL',)\n");
    assert!(printed[5].contains("plain, WAL mode") && printed[5].contains("plain, rollback mode"), "{printed:?}");
    assert_plain_header(&scratch.file("app.db"), 1);
    assert_eq!(number(&open_stock(&scratch.file("app.db")), "SELECT count(*) FROM note"), 4);
}

#[test]
fn what_the_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contributing = include_str!("../../CONTRIBUTING.md");
    let names = [README, contributing].into_iter().flat_map(|page| page.split(['`', '(', ')'])).filter(|name| {
        ["src/", "docs/", "tests/", ".ci/", "LICENSE-", "CONTRIBUTING", "sqlite-ext", "python/", "npm/"]
            .iter()
            .any(|start| name.starts_with(start))
    });
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names.iter().filter_map(|name| name.split(' ').next()) {
        let (file, section) = name.split_once('#').map_or((name, None), |(file, section)| (file, Some(section)));
        assert!(root.join(file).exists(), "{name}");
        if let Some(section) = section {
            let text = std::fs::read_to_string(root.join(file)).expect("a page");
            let headings = text.lines().filter(|line| line.starts_with('#'));
            let mut anchors = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"));
            assert!(anchors.any(|anchor| anchor == section), "{name}");
        }
    }
}

/// Examples in languages that `.ci/hosts` runs: the page shows lines of the files that it runs.
#[test]
fn the_examples_of_other_hosts_are_lines_of_their_programs() {
    let mut shown = Vec::new();
    for (kind, text) in blocks(HOSTS) {
        let program = match kind {
            "rust" => include_str!("../../examples/hosts/sqlx/src/main.rs"),
            "js" => include_str!("../../examples/hosts/notes.js"),
            "go" => include_str!("../../examples/hosts/notes.go"),
            "ruby" => include_str!("../../examples/hosts/notes.rb"),
            _ => continue,
        };
        assert_lines_of(text, program);
        shown.push(kind);
    }
    assert_eq!(shown, ["js", "rust", "go", "ruby"]);
    let of_languages = blocks(CONCURRENT).into_iter().filter(|(kind, _)| ["js", "ruby"].contains(kind));
    let programs = [
        include_str!("../../examples/hosts/beside.js"),
        include_str!("../../examples/hosts/beside.rb"),
        include_str!("../../examples/hosts/beside_rails.rb"),
    ];
    assert_eq!(of_languages.clone().count(), programs.len());
    of_languages.zip(programs).for_each(|((_, text), program)| assert_lines_of(text, program));
}

/// The Python package's page shows Django's settings as they are tested.
#[test]
fn the_settings_of_django_are_those_of_the_example() {
    let page = include_str!("../../python/README.md");
    let (_, section) = page.split_once("## Django").expect("a section");
    let block = section.split_once("```python\n").and_then(|(_, rest)| rest.split_once("\n```")).expect("a block").0;
    assert_lines_of(block, include_str!("../../python/examples/django_notes/notes/settings.py"));
}

/// npm reads the version from a file of its own.
#[test]
fn the_npm_package_has_the_version_of_its_library() {
    let package: serde_json::Value = serde_json::from_str(include_str!("../../npm/package.json")).expect("JSON");
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
}
