//! `pwal demo`

use super::{Output, command, contents, tool};
use crate::common::Scratch;
use std::process::Stdio;

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
