//! `pwal off`

use super::{crashed, tool};
use std::os::unix::fs::FileExt;
use support::{Scratch, assert_plain, assert_plain_header, close, number, open_stock, open_wal, run};

#[test]
fn a_crashed_database_becomes_a_plain_file() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 7);
    let output = tool(["off".as_ref(), path.as_os_str()]);
    let text = output.printed();
    assert!(text.contains("commits 1 to 8 replayed"), "{text}");
    assert!(text.contains("plain, WAL mode:") && text.contains("integrity_check ok, nothing beside it"), "{text}");
    assert_plain(&path);
    let output = tool(["off", "--journal-mode", "delete", &path.display().to_string()]);
    assert!(output.printed().contains("plain, rollback mode:"), "{output:?}");
    assert_plain_header(&path, 1);
    assert_eq!(number(&open_stock(&path), "SELECT count(*) FROM t"), 7);
}

#[test]
fn damage_in_the_database_file_is_told() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x INTEGER PRIMARY KEY, y); CREATE INDEX i ON t(y)");
    run(&connection, "INSERT INTO t(y) VALUES(1), (2), (3)");
    close(connection);
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.write_at(&[0; 100], 2 * 4096).expect("write");
    drop(file);
    let output = tool(["off".as_ref(), path.as_os_str()]);
    assert!(output.refused(1).contains("app.db"), "{output:?}");
}

#[test]
fn a_reader_on_stock_keeps_the_journal_mode() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let stock = open_stock(&path);
    run(&stock, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); BEGIN; SELECT * FROM t");
    let output = tool(["off", "--journal-mode", "delete", &path.display().to_string()]);
    assert!(output.refused(3).contains("a connection that is not on pwal"), "{output:?}");
    close(stock);
}
