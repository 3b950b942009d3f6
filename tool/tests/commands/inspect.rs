//! `pwal inspect`, `pwal dump` and `pwal verify`: they only look.

use super::{FEW, contents, crashed, hold, log_id, rot, segment, tool};
use serde_json::{Value, json};
use std::path::Path;
use std::time::UNIX_EPOCH;
use support::{Scratch, close, open_wal, run};

fn json_of(path: &Path) -> Value {
    let output = tool(["inspect", "--json", &path.display().to_string()]);
    serde_json::from_str(output.printed()).expect("JSON")
}

#[test]
fn a_crashed_log_is_shown_and_left_alone() {
    let scratch = Scratch::new();
    let now_us = || u64::try_from(UNIX_EPOCH.elapsed().expect("a clock that is set").as_micros()).expect("a time");
    let began = now_us();
    let path = crashed(&scratch, 22);
    let id = log_id(&path);
    let before = contents(scratch.path());
    let seen = json_of(&path);
    let log = &seen["logs"][0];
    assert_eq!(seen["in_use"], json!(false));
    assert_eq!(seen["next_open"], json!(format!("recovers log {id}")));
    assert_eq!(log["log_id"], json!(id));
    assert_eq!((&log["last"], &log["backfilled"], &log["torn_tail"]), (&json!(23), &json!(0), &Value::Null));
    assert_eq!(log["findings"], json!([]));
    let commits = log["commits"].as_array().expect("commits");
    let sequences: Vec<_> = commits.iter().map(|commit| commit["commit"].as_u64().expect("a number")).collect();
    assert_eq!(sequences, (1..=23).collect::<Vec<_>>());
    assert!(commits.iter().all(|commit| commit["wants_durable"] == json!(true) && commit["epoch"].is_u64()));
    let times: Vec<u64> = commits.iter().map(|commit| commit["time_us"].as_u64().expect("a time")).collect();
    assert!(times.is_sorted() && times[0] >= began && times[22] <= now_us(), "{times:?}");
    let last = log["epochs"].as_array().and_then(|epochs| epochs.last()).expect("an epoch");
    assert_eq!(last["hi"], json!(23));
    assert_eq!(log["slots"][0]["batches"], json!(23));
    assert_eq!(log["slots"][0]["name"], json!(segment(&path, 0).file_name().and_then(|name| name.to_str())));

    let output = tool(["inspect".as_ref(), path.as_os_str()]);
    let text = output.printed();
    assert!(text.contains(&format!("log {id}\n")) && text.contains("commits to 23 are valid"), "{text}");
    assert!(text.contains("(3 commits before these: --last)"), "{text}");
    let clock = rusqlite::Connection::open_in_memory().expect("SQLite");
    let sql = "SELECT strftime('%Y-%m-%d %H:%M:%S', ?1 / 1000000, 'unixepoch') || printf('.%06d', ?1 % 1000000)";
    let time: String =
        clock.query_row(sql, [i64::try_from(times[22]).expect("a time")], |row| row.get(0)).expect("a time");
    assert!(text.contains("time (UTC)") && text.contains(&time), "{time} is not in {text}");
    assert_eq!(text.lines().rev().take_while(|line| !line.contains("database pages")).count(), 20, "{text}");
    let output = tool(["inspect", "--last", "40", &path.display().to_string()]);
    assert!(!output.printed().contains("before these"), "{output:?}");
    assert!(tool(["verify".as_ref(), path.as_os_str()]).printed().contains("is valid: 23 commits after 0"));

    let output = tool(["dump".as_ref(), segment(&path, 0).as_os_str()]);
    let text = output.printed();
    assert_eq!(text.matches("wants durability").count(), 23, "{text}");
    assert!(text.contains(&format!("log {id}, segment 1, first commit 1")), "{text}");
    let twice = tool(["dump".as_ref(), segment(&path, 0).as_os_str(), segment(&path, 0).as_os_str()]);
    assert_eq!(twice.printed(), text.repeat(2));
    assert_eq!(contents(scratch.path()), before);
}

#[test]
fn a_log_in_use_is_looked_at_without_disturbing() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, FEW);
    let before = contents(scratch.path());
    let seen = json_of(&path);
    assert_eq!((&seen["in_use"], &seen["logs"][0]["last"]), (&json!(true), &json!(FEW + 1)));
    assert!(tool(["inspect".as_ref(), path.as_os_str()]).printed().contains("in use"));
    tool(["verify".as_ref(), path.as_os_str()]).printed();
    assert_eq!(contents(scratch.path()), before);
    holder.send("go");
    assert!(holder.wait().success());
}

#[test]
fn verify_names_the_rule_that_does_not_hold() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 10);
    rot(&path, 4);
    let before = contents(scratch.path());
    let output = tool(["verify".as_ref(), path.as_os_str()]);
    let text = output.refused(1);
    assert!(text.contains("rule L3") && text.contains("B8") && text.contains("-0000.seg"), "{text}");
    let output = tool(["inspect".as_ref(), path.as_os_str()]);
    assert!(output.printed().contains("broken: rule L3"), "{output:?}");
    assert!(output.printed().contains("next open  refuses: log"), "{output:?}");
    let findings = &json_of(&path)["logs"][0]["findings"];
    assert_eq!(findings[0]["rule"], json!("L3"));
    let output = tool(["dump".as_ref(), segment(&path, 0).as_os_str()]);
    assert_eq!(output.printed().matches("is not valid").count(), 1, "{output:?}");
    assert_eq!(contents(scratch.path()), before);
}

#[test]
fn a_torn_tail_is_sound() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 5);
    rot(&path, 6);
    let output = tool(["verify".as_ref(), path.as_os_str()]);
    assert!(output.printed().contains("a torn tail after them, which recovery truncates"), "{output:?}");
    assert_eq!(json_of(&path)["logs"][0]["last"], json!(5));
    assert!(tool(["inspect".as_ref(), path.as_os_str()]).printed().contains("a torn tail: commit 6 is not whole"));
}

#[test]
fn a_database_without_a_log_is_sound() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x)");
    close(connection);
    assert!(tool(["verify".as_ref(), path.as_os_str()]).printed().contains("no log; plain, WAL mode"));
    assert_eq!(json_of(&path)["logs"], json!([]));
    assert!(tool(["inspect".as_ref(), path.as_os_str()]).printed().contains("opens the file as it is"));
}

#[test]
fn a_stamped_file_alone_or_beside_a_file_of_stock_is_not() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let copy = scratch.file("copy.db");
    std::fs::copy(&path, &copy).expect("copy");
    let output = tool(["verify".as_ref(), copy.as_os_str()]);
    assert!(output.refused(1).contains("which is not there"), "{output:?}");
    let wal = scratch.file("app.db-wal");
    std::fs::remove_dir(&wal).expect("it lies beside a log");
    std::fs::write(&wal, [1; 5000]).expect("write");
    let output = tool(["verify".as_ref(), path.as_os_str()]);
    assert!(output.refused(1).contains("app.db-wal of stock SQLite"), "{output:?}");
}

#[test]
fn only_a_segment_is_dumped() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 1);
    assert!(tool(["dump".as_ref(), path.as_os_str()]).refused(4).contains("not a segment file"));
    let missing = segment(&path, 7);
    assert!(tool(["dump".as_ref(), missing.as_os_str()]).refused(4).contains("-0007.seg"));
    // A segment that was moved away with its directory is still one.
    let moved = scratch.file("elsewhere");
    std::fs::rename(scratch.file("app.db-pwal"), &moved).expect("move");
    let segment =
        moved.join(missing.with_file_name(format!("{}-0000.seg", log_id(&path))).file_name().expect("a name"));
    assert!(tool(["dump".as_ref(), segment.as_os_str()]).printed().contains("commit 2"));
    std::fs::OpenOptions::new().write(true).open(&segment).and_then(|file| file.set_len(100)).expect("cut");
    assert!(tool(["dump".as_ref(), segment.as_os_str()]).printed().contains("free"));
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 30);
    let mut child = super::command(["dump".as_ref(), segment(&path, 0).as_os_str()]);
    let mut child =
        child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("start");
    drop(child.stdout.take());
    let output = super::Output::of(child.wait_with_output().expect("it ends"));
    assert_eq!((output.status, output.stderr.as_str()), (Some(0), ""));
}
