//! What a test starts or loads into a host: the loadable library, the tool, an example. Built once, by the cargo that
//! runs the test, in the profile of the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// `libpwal.so` of this workspace.
pub fn library() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["-p", "pwal-sqlite-ext"], "cdylib")).clone()
}

/// `libpwal_preload.so`, which cargo puts beside `libpwal.so`.
pub fn preload() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["-p", "pwal-preload"], "cdylib")).clone()
}

/// The tool `pwal`.
pub fn tool() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["-p", "pwal-tool"], "bin")).clone()
}

/// The example `examples/notes.rs`.
pub fn example() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["-p", "sqlite-pwal", "--example", "notes"], "example")).clone()
}

fn build(what: &[&str], kind: &str) -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    command.args(["build", "--quiet", "--message-format=json"]).args(what);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output().expect("run cargo");
    assert!(output.status.success(), "cargo build {what:?}");
    let messages = String::from_utf8(output.stdout).expect("cargo writes JSON");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["kind"][0] == kind)
        .find_map(|message| Some(PathBuf::from(message["filenames"][0].as_str()?)))
        .expect("cargo names what it has built")
}

/// Copies a program that is to be started from there. By another process: who has written a program itself may find that it
/// cannot be started (ETXTBSY), because a child that another thread has just forked has it open for writing still.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-p").arg(from).arg(to).status().expect("cp starts");
    assert!(copied.success(), "copy {} to {}: {copied}", from.display(), to.display());
}
