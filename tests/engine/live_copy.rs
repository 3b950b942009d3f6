//! A copy of the files while the database is in use: the database file first, then its log. It opens as one state of the
//! history, or is refused; a checkpoint in the middle of the file's copy may be the reason for the latter.

use rusqlite::Connection;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use support::{Scratch, assert_integrity, open_wal, rows};

fn beside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-pwal", path.display()))
}

/// Copies the database file and then its log, with `during` after half of the file and `behind` after each file of the log.
fn copy(from: &Path, to: &Path, during: &mut dyn FnMut(), behind: &mut dyn FnMut()) {
    let mut source = std::fs::File::open(from).unwrap();
    let half = source.metadata().unwrap().len() / 2;
    let mut target = std::fs::File::create(to).unwrap();
    std::io::copy(&mut (&mut source).take(half), &mut target).unwrap();
    during();
    std::io::copy(&mut source, &mut target).unwrap();
    target.flush().unwrap();
    std::fs::create_dir(beside(to)).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(beside(from)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        std::fs::copy(beside(from).join(&name), beside(to).join(&name)).unwrap();
        behind();
    }
}

/// Every row has the value of the last commit.
fn update(connection: &Connection, value: &mut u32) {
    *value += 1;
    connection.execute("UPDATE t SET v=?", [*value]).unwrap();
}

#[test]
fn the_file_first_and_then_the_log_is_whole_or_refused() {
    if !support::on_pwal() {
        return;
    }
    let (mut whole, mut refused) = (0, 0);
    for round in 0..12 {
        let scratch = Scratch::new();
        let (path, twin) = (scratch.file("a.db"), scratch.file("copy.db"));
        let connection = open_wal(&path);
        connection
            .execute_batch(
                "PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad); CREATE INDEX i ON t(v);
                 WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300)
                 INSERT INTO t SELECT x, 0, zeroblob(900) FROM n; PRAGMA wal_checkpoint",
            )
            .unwrap();
        let mut value = 0;
        update(&connection, &mut value);
        // All of it in the file; the log has little to write over what a checkpoint puts there.
        connection.execute_batch("PRAGMA wal_checkpoint; CREATE TABLE u(x); INSERT INTO u VALUES(1)").unwrap();
        let before = value;
        let (commits, checkpoints, more) = (round % 3, round / 3 % 2 == 1, round >= 6);
        let value = std::cell::RefCell::new(value);
        copy(
            &path,
            &twin,
            &mut || {
                for _ in 0..commits {
                    update(&connection, &mut value.borrow_mut());
                }
                if checkpoints {
                    connection.execute_batch("PRAGMA wal_checkpoint").unwrap();
                }
            },
            &mut || {
                if more {
                    update(&connection, &mut value.borrow_mut());
                }
            },
        );
        // A copied `lock` is nobody's.
        let copied = support::open(&twin);
        match rows(&copied, "SELECT DISTINCT v FROM t NOT INDEXED") {
            Ok(seen) => {
                whole += 1;
                assert_eq!(seen.len(), 1, "round {round}: rows of several commits: {seen:?}");
                let last: u32 = seen[0].parse().unwrap();
                assert!(last >= before, "round {round}: {last}, {before} before the copy");
                assert_integrity(&copied);
            }
            Err(error) => {
                refused += 1;
                assert!(checkpoints, "round {round}: {error}");
            }
        }
    }
    println!("{whole} whole, {refused} refused");
    assert!(whole >= 6, "{whole} whole, {refused} refused");
}
