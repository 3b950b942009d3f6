//! `libpwal.so` in programs that know nothing of it: the `sqlite3` shell and Python's `sqlite3`.
//!
//! Builds the library once, in the profile `dev`. Needs a `sqlite3` shell and a `python3` that can
//! load extensions (Debian's can): `PWAL_TEST_SQLITE3` and `PWAL_TEST_PYTHON3` name others than
//! those in `/usr/bin`.

mod environment;
mod python;
mod shell;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::library::library;

/// An empty directory with the library in it, under the name that people type.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let library = library();
        let name = library.file_name().unwrap();
        std::os::unix::fs::symlink(&library, directory.path().join(name)).unwrap();
        Place(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What lies beside `app.db`.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("app.db"))
            .collect();
        names.sort();
        names
    }
}

/// A program with this input, in this place, with no setting of pwal from outside.
fn run(place: &Place, program: &Path, arguments: &[&str], input: &str) -> Output {
    run_with(place, &[], program, arguments, input)
}

/// The same with these variables in its environment.
fn run_with(place: &Place, environment: &[(&str, &str)], program: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PWAL_")) {
        command.env_remove(name);
    }
    let mut child = command
        .envs(environment.iter().copied())
        .args(arguments)
        .current_dir(place.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}; install it, or name another", program.display()));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn program(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from)
}

/// Runs it and returns what it printed, trimmed; it must succeed and say nothing on standard error.
fn printed(output: &Output) -> String {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    text.trim_end().to_owned()
}

#[cfg(target_os = "linux")]
#[test]
fn the_library_exports_its_entry_points_and_needs_the_c_library_only() {
    let tool = |name: &str, arguments: &[&str]| {
        let output = Command::new(name).args(arguments).arg(library()).output().unwrap();
        printed(&output)
    };
    let symbols = tool("nm", &["-D", "--defined-only"]);
    let mut exported: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
    exported.sort_unstable();
    assert_eq!(exported, ["pwal_messages_to", "sqlite3_pwal_init", "sqlite3_pwalstrict_init", "sqlite3_pwalvfs_init"]);

    let dynamic = tool("readelf", &["-d", "--wide"]);
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        let of_the_system = ["libc.so", "libgcc_s.so", "ld-linux", "libm.so"].iter().any(|name| line.contains(name));
        assert!(of_the_system, "{line}");
    }
    let undefined = tool("nm", &["-D", "--undefined-only"]);
    assert!(!undefined.contains("sqlite3_"), "it must call the SQLite that loads it, by the table: {undefined}");
}
