//! `pwal status`

use super::{contents, crashed, hold, tool};
use crate::common::{Scratch, close, open_stock, open_wal, run};

#[test]
fn it_says_who_has_the_database_open_and_disturbs_nobody() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, 5);
    let before = contents(scratch.path());
    let output = tool(["status".as_ref(), path.as_os_str()]);
    let text = output.printed();
    assert!(text.contains("open through pwal\n"), "{text}");
    assert!(text.contains("stamped by log"), "{text}");
    assert!(text.contains("1 slot, 256 KiB"), "{text}");
    if cfg!(target_os = "linux") {
        assert!(text.contains(&format!("process {} (", holder.pid())), "{text}");
    }
    assert_eq!(contents(scratch.path()), before);
    holder.kill();
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("closed by a crash"), "{text:?}");
}

#[test]
fn a_closed_database_is_told_so() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x)");
    close(connection);
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("plain, WAL mode"), "{text:?}");
    assert!(text.printed().contains("not open through pwal; pwal takes it"), "{text:?}");
    let stock = open_stock(&path);
    run(&stock, "PRAGMA journal_mode=DELETE");
    close(stock);
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("plain, rollback mode"), "{text:?}");
    std::fs::write(scratch.file("empty.db"), "").expect("write");
    assert!(tool(["status".as_ref(), scratch.file("empty.db").as_os_str()]).printed().contains("no database yet"));
}

#[test]
fn marks_mode_and_readers_come_from_the_shared_words() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    let status = || tool(["status".as_ref(), path.as_os_str()]).printed().to_owned();
    run(&connection, "SELECT * FROM sqlite_schema");
    assert!(status().contains("nothing committed yet"), "{}", status());
    run(&connection, "PRAGMA synchronous=FULL; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let text = status();
    assert!(text.contains("published 2, visible 2, durable 2, in the database file 0\n"), "{text}");
    assert!(text.contains("mode       auto\n") && !text.contains("reading"), "{text}");
    run(&connection, "PRAGMA parallel_wal_mode=conservative; BEGIN; SELECT * FROM t");
    let writer = open_wal(&path);
    run(&writer, "INSERT INTO t VALUES(2)");
    let text = status();
    assert!(text.contains("mode       conservative\n"), "{text}");
    assert!(text.contains("1 transaction; the oldest sees commit 2, for "), "{text}");
    // What is no control is not believed.
    let control = path.with_file_name("app.db-pwal").join("control");
    // A new file: the old one is mapped.
    std::fs::remove_file(&control).and_then(|()| std::fs::write(&control, "nonsense")).expect("replace");
    assert!(!status().contains("published"), "{}", status());
}

#[test]
fn a_crash_behind_a_symlink_is_found() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let link = scratch.file("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a symlink");
    let text = tool(["status".as_ref(), link.as_os_str()]);
    assert!(text.printed().contains("closed by a crash"), "{text:?}");
    assert!(text.printed().contains("app.db-pwal"), "{text:?}");
}
