//! `pwal demo`

use super::{Output, command, contents, tool};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use support::{Scratch, close, open_stock, run};

#[test]
fn nothing_acknowledged_is_lost_and_the_directory_goes() {
    let scratch = Scratch::new();
    let place = scratch.path().display().to_string();
    let output = tool(["demo", "--dir", &place, "--kills", "2", "--rounds", "2", "--seconds", "0.3"]);
    let text = output.printed();
    assert_eq!(text.matches("0 lost; integrity_check ok").count(), 2, "{text}");
    assert!(text.contains("SIGKILL after"), "{text}");
    assert_eq!(text.matches(" pwal ").count() - text.matches("  pwal committed ").count(), 2, "{text}");
    assert!(text.contains("(median of 2 rounds)"), "{text}");
    assert_eq!(contents(scratch.path()).len(), 0);
}

#[test]
fn a_writer_that_cannot_open_its_database_says_so() {
    let scratch = Scratch::new();
    let mut child = command(["demo-writer".as_ref(), scratch.file("none/app.db").as_os_str()]);
    child.args(["--vfs", "pwal", "--threads", "2", "--seconds", "0.1"]);
    let output = Output::of(child.stdin(Stdio::null()).output().expect("the tool starts"));
    assert!(output.refused(1).contains("none/app.db"), "{output:?}");
    assert_eq!(contents(scratch.path()).len(), 0);
}

/// What the demo says of this database, if the writers were told of these commits.
fn check(path: &Path, told: &str) -> Output {
    let mut child = command(["demo-check".as_ref(), path.as_os_str()]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tool starts");
    child.stdin.take().expect("its stdin").write_all(told.as_bytes()).expect("write to it");
    Output::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn what_is_lost_is_found() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut child = command(["demo-writer".as_ref(), path.as_os_str()]);
    child.args(["--vfs", "pwal", "--threads", "2", "--seconds", "0.3"]);
    let output = Output::of(child.stdin(Stdio::null()).output().expect("the tool starts"));
    let told = output.printed().to_owned();
    let first: u64 =
        told.lines().find_map(|line| line.strip_prefix("1 ")).expect("writer 1").parse().expect("a number");
    assert_eq!(check(&path, &told).printed(), "");
    let more = format!("{told}1 {}\n", first + 2);
    let lost = format!("writer 1: commits {} to {} were acknowledged and are lost", first + 1, first + 2);
    assert!(check(&path, &more).refused(1).contains(&lost));
    let stock = open_stock(&path);
    run(&stock, "DELETE FROM entry WHERE writer = 2 AND number = 3");
    close(stock);
    assert!(check(&path, &told).refused(1).contains("writer 2: half a transaction"), "{told}");
    let stock = open_stock(&path);
    run(&stock, "UPDATE account SET entries = entries - 1, total = total - 3 WHERE writer = 2");
    close(stock);
    assert!(check(&path, &told).refused(1).contains("writer 2: 1 commits before its last one are lost"), "{told}");
    assert!(check(&path, "1 1\n2 1\n").refused(1).contains("where at most 2 were begun"));
}
