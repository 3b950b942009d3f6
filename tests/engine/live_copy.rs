//! A copy of the files while the database is in use, the database file first, or its log. It opens as one state of the history, or is
//! refused; a checkpoint while it was made may be the reason for the latter.

use rusqlite::Connection;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use support::{Scratch, assert_integrity, open_wal, rows};

fn beside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-pwal", path.display()))
}

/// Which of the two is copied first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Database,
    Log,
}

/// Copies the database and its log, with `during` in the middle of the file that may be long (and, if the log is first, between the
/// two), and `after` after each file of the log.
fn copy(first: First, from: &Path, to: &Path, during: &mut dyn FnMut(), after: &mut dyn FnMut()) {
    if first == First::Log {
        copy_log(from, to, after);
        during();
    }
    let mut source = std::fs::File::open(from).unwrap();
    let half = source.metadata().unwrap().len() / 2;
    let mut target = std::fs::File::create(to).unwrap();
    std::io::copy(&mut (&mut source).take(half), &mut target).unwrap();
    during();
    std::io::copy(&mut source, &mut target).unwrap();
    target.flush().unwrap();
    if first == First::Database {
        copy_log(from, to, after);
    }
}

fn copy_log(from: &Path, to: &Path, after: &mut dyn FnMut()) {
    std::fs::create_dir(beside(to)).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(beside(from)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        std::fs::copy(beside(from).join(&name), beside(to).join(&name)).unwrap();
        after();
    }
}

/// Every row has the value of the last commit.
fn update(connection: &Connection, value: &mut u32) {
    *value += 1;
    connection.execute("UPDATE t SET v=?", [*value]).unwrap();
}

#[test]
fn the_file_first_and_then_the_log_is_whole_or_refused() {
    whole_or_refused(First::Database, 12);
}

/// The log of the copy may lack what a checkpoint has put into the file since.
#[test]
fn the_log_first_and_then_the_file_is_whole_or_refused() {
    whole_or_refused(First::Log, 36);
}

fn whole_or_refused(first: First, rounds: u32) {
    if !support::on_pwal() {
        return;
    }
    let (mut whole, mut refused) = (0, 0);
    for round in 0..rounds {
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
        let (commits, checkpoints, more) = (round % 3, round / 3 % 2 == 1, round / 6 % 2 == 1);
        // Commits that only the log has before the copy begins.
        (0..round / 12).for_each(|_| update(&connection, &mut value));
        let before = value;
        let value = std::cell::RefCell::new(value);
        copy(
            first,
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
        let file = std::fs::read(&twin).unwrap();
        // A copied `lock` is nobody's.
        let copied = support::open(&twin);
        match rows(&copied, "SELECT DISTINCT v FROM t NOT INDEXED") {
            Ok(seen) => {
                whole += 1;
                assert_eq!(seen.len(), 1, "{first:?} first, round {round}: rows of several commits: {seen:?}");
                let last: u32 = seen[0].parse().unwrap();
                assert!(last >= before, "{first:?} first, round {round}: {last}, {before} before the copy");
                assert_integrity(&copied);
            }
            Err(error) => {
                refused += 1;
                let status: String = copied.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap();
                let named = ["was durable up to commit", "has seen", "was checkpointed to commit"]
                    .map(|why| status.contains(why));
                assert!(named.contains(&true), "{first:?} first, round {round}: {error}: {status}");
                assert!(
                    std::fs::read(&twin).unwrap() == file,
                    "{first:?} first, round {round}: a refused file was written"
                );
                assert!(checkpoints, "{first:?} first, round {round}: {error}");
            }
        }
    }
    println!("{first:?} first: {whole} whole, {refused} refused");
    assert!(whole >= rounds / 2, "{first:?} first: {whole} whole, {refused} refused");
}
