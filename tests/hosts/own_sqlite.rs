//! pwal in SQLites that are built or configured otherwise than the linked one, and under programs in C: each test is a host of its
//! own, `tests/hosts/own_sqlite/*.c`, which checks for itself.
//!
//! SQLite is built once, from the source of the linked one, and kept beside the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const OPTIONS: [&str; 4] = [
    "-DSQLITE_ENABLE_SNAPSHOT",
    "-DSQLITE_ENABLE_DBPAGE_VTAB",
    "-DSQLITE_ENABLE_COLUMN_METADATA",
    "-DSQLITE_THREADSAFE=1",
];

/// The directory with `sqlite3.c`.
fn source() -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--manifest-path"]);
    let output = command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).output().expect("run cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let manifest = packages.iter().find(|package| package["name"] == "libsqlite3-sys").expect("the linked SQLite");
    Path::new(manifest["manifest_path"].as_str().expect("a path")).with_file_name("sqlite3")
}

fn compile(arguments: &[&str], sources: &[&Path], to: &Path) {
    let unfinished = to.with_extension(format!("{}.part", std::process::id()));
    let mut command = Command::new("cc");
    command.args(arguments).args(sources).arg("-o").arg(&unfinished).args(["-lpthread", "-ldl", "-lm"]);
    let output = command.output().expect("run cc");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&unfinished, to).expect("rename");
}

/// The source's directory, and SQLite as an object file, built without optimisation: most of a minute is saved.
fn sqlite() -> &'static (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = source();
        let version = source.parent().and_then(Path::file_name).expect("a name").to_string_lossy().into_owned();
        let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{version}-own.o"));
        if !object.exists() {
            let arguments: Vec<&str> = ["-O0", "-w", "-fPIC", "-c"].into_iter().chain(OPTIONS).collect();
            compile(&arguments, &[&source.join("sqlite3.c")], &object);
        }
        (source, object)
    })
}

fn play(program: &str) {
    let (source, object) = sqlite();
    let scratch = support::Scratch::new();
    let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/own_sqlite").join(format!("{program}.c"));
    let (host, include) = (scratch.file("host"), format!("-I{}", source.display()));
    let arguments: Vec<&str> =
        ["-g", "-Wall", "-Wno-unused-function", "-rdynamic", &include].into_iter().chain(OPTIONS).collect();
    compile(&arguments, &[&code, object], &host);
    let output = Command::new(&host)
        .current_dir(scratch.path())
        .env("PWAL_LIBRARY", support::library::library())
        .output()
        .expect("run the host");
    assert!(
        output.status.success(),
        "{program}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn snapshots_are_refused() {
    play("snapshots");
}

#[test]
fn a_sqlite_that_is_configured_for_one_thread_is_refused() {
    play("threads");
}

#[test]
fn connections_under_another_vfs_work_as_stock() {
    play("shims");
}

#[test]
fn methods_that_are_swapped_for_the_first_read_change_nothing() {
    play("methods");
}

#[test]
fn an_automatic_extension_inside_a_claim_does_not_wait_for_itself() {
    play("extension");
}

#[test]
fn a_reader_of_another_process_is_told() {
    play("controls");
}
