//! The first sector of the database file cannot be read: an open through SQLite writes it again from the log.

use pwal::internal::sqlite::Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::lab::Lab;

/// From here on reads of the first sector of `a.db` are answered with this code, until it is written.
fn make_bad(lab: &Lab, code: i32) -> Arc<AtomicBool> {
    let healed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&healed);
    lab.hook_base(move |call| {
        let (what, place) = call.strip_prefix("a.db: ")?.split_once(' ')?;
        let offset: u64 = place.split_once('@')?.1.parse().ok()?;
        match what {
            "write" if offset == 0 => seen.store(true, SeqCst),
            "read" if offset < 512 && !seen.load(SeqCst) => return Some(code),
            _ => {}
        }
        None
    });
    healed
}

#[test]
fn an_open_writes_it_again() {
    if !support::on_pwal() {
        return;
    }
    for code in [Code::IOERR_READ, Code::IOERR_CORRUPTFS] {
        let lab = Lab::new();
        let connection = lab.wal();
        support::run(
            &connection,
            "CREATE TABLE t(x); INSERT INTO t VALUES(1); PRAGMA wal_checkpoint; INSERT INTO t VALUES(2)",
        );
        let killed = lab.crash();
        support::close(connection);
        // The copy takes the place of the database, whose VFS has the bad sector.
        let to = |suffix: &str| format!("{}{suffix}", lab.path().display());
        std::fs::copy(killed.path(), lab.path()).unwrap();
        std::fs::create_dir(to("-pwal")).unwrap();
        for file in std::fs::read_dir(format!("{}-pwal", killed.path().display())).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), std::path::Path::new(&to("-pwal")).join(file.file_name())).unwrap();
        }
        let healed = make_bad(&lab, code.number());
        let connection = lab.open("a.db");
        assert_eq!(support::number(&connection, "SELECT sum(x) FROM t"), 3);
        assert!(healed.load(SeqCst));
        support::assert_integrity(&connection);
        support::close(connection);
        lab.unhook();
        support::assert_plain(&lab.path());
    }
}

#[test]
fn without_a_log_it_is_the_error_that_stock_sqlite_gives() {
    if !support::on_pwal() {
        return;
    }
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x)");
    support::close(connection);
    make_bad(&lab, Code::IOERR_READ.number());
    let opened = support::try_open(&lab.path(), support::flags(), &lab.vfs);
    let error = opened.and_then(|connection| connection.query_row("SELECT * FROM t", [], |_| Ok(()))).unwrap_err();
    assert_eq!(support::code(&error), Code::IOERR_READ.number(), "{error}");
}
