//! A database of ours and one of another VFS in one transaction. When the other one fails, no call of ours comes between
//! our prepare and SQLite's rollback, which copies the header that prepare has advanced (`sqlite3WalUndo`) and keeps the
//! pages of the transaction in its cache.

mod common;
#[path = "engine/lab.rs"]
mod lab;

use common::shim::{Shim, Verdict};
use lab::Lab;
use rusqlite::{Connection, ffi};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Rows of `t`, over some forty pages.
const ROWS: i64 = 4000;

/// What fails beside our database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// One database of another VFS, in rollback mode.
    Journal,
    /// One database of another VFS, in WAL mode.
    Wal,
    /// Two databases of another VFS, in rollback mode: SQLite writes a super-journal.
    Two,
    /// A temporary table, whose file is on no VFS of ours either.
    Temporary,
}

struct Scene {
    lab: Lab,
    fails: Arc<AtomicBool>,
    /// What failing calls answer.
    code: Arc<AtomicI32>,
    connection: Connection,
    beside: Beside,
}

impl Scene {
    fn new(beside: Beside, settings: &str) -> Scene {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let lab = Lab::new();
        let name = format!("beside-{}", NUMBER.fetch_add(1, SeqCst));
        let fails = Arc::new(AtomicBool::new(false));
        let code = Arc::new(AtomicI32::new(ffi::SQLITE_FULL));
        let (failing, answer) = (Arc::clone(&fails), Arc::clone(&code));
        Shim::register(&name, common::STOCK, false).hook(move |moment| {
            let write = moment.text.starts_with("x.db: write") || moment.text.starts_with("x.db-wal: write");
            if write && failing.load(SeqCst) { Verdict::Answer(answer.load(SeqCst)) } else { Verdict::Pass }
        });
        let connection = lab.wal();
        common::run(&connection, settings);
        common::run(
            &connection,
            &format!(
                "CREATE TABLE t(x, y); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT {ROWS})
                 INSERT INTO t SELECT n, hex(randomblob(15)) FROM c"
            ),
        );
        let attach = |schema: &str| {
            let path = lab.scratch.file(&format!("{schema}.db"));
            common::run(&connection, &format!("ATTACH 'file:{}?vfs={name}' AS {schema}", path.display()));
            if beside == Beside::Wal {
                common::run(&connection, &format!("PRAGMA {schema}.journal_mode=WAL"));
            }
            common::run(&connection, &format!("CREATE TABLE {schema}.{schema}(x)"));
        };
        match beside {
            Beside::Journal | Beside::Wal => attach("x"),
            Beside::Two => ["x", "y"].into_iter().for_each(attach),
            Beside::Temporary => common::run(
                &connection,
                "PRAGMA temp_store=FILE; PRAGMA temp.cache_size=20; CREATE TEMP TABLE x(x);
                 WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 100)
                 INSERT INTO x SELECT randomblob(3000) FROM c",
            ),
        }
        Scene { lab, fails, code, connection, beside }
    }

    /// Writes to our database and to what fails; in a transaction that stays open.
    fn write(&self, change: &str) {
        let beside = match self.beside {
            Beside::Journal | Beside::Wal => "INSERT INTO x VALUES(77)",
            Beside::Two => "INSERT INTO x VALUES(77); INSERT INTO y VALUES(77)",
            Beside::Temporary => "UPDATE temp.x SET x=randomblob(2990) WHERE rowid<10",
        };
        common::run(&self.connection, &format!("BEGIN; {change}; {beside}"));
    }

    fn commit_that_fails(&self) -> i32 {
        self.fails.store(true, SeqCst);
        if self.beside == Beside::Temporary {
            self.lab.base_fails("temp: write", ffi::SQLITE_FULL);
        }
        let code = common::code_of(&self.connection, "COMMIT");
        self.lab.base_works();
        self.fails.store(false, SeqCst);
        code
    }
}

/// In a thread, so that a hang is a failure: what another connection's write and read answer.
fn another_writes(lab: &Lab) -> Result<(i32, String), mpsc::RecvTimeoutError> {
    let other = lab.open("a.db");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let code = common::code_of(&other, "INSERT INTO t VALUES(-1, 'other')");
        tell.send((code, common::text(&other, "SELECT count(*), min(x), sum(x) FROM t"))).unwrap();
    });
    told.recv_timeout(Duration::from_secs(20))
}

fn truth() -> String {
    format!("{}|-1|{}", ROWS + 1, ROWS * (ROWS + 1) / 2 - 1)
}

const SETTINGS: [&str; 4] = [
    "PRAGMA synchronous=FULL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA synchronous=FULL; PRAGMA parallel_wal_mode=conservative",
    "PRAGMA synchronous=NORMAL; PRAGMA parallel_wal_mode=conservative",
];

const ALL: [Beside; 4] = [Beside::Journal, Beside::Wal, Beside::Two, Beside::Temporary];

/// WRITE, and what the early path holds, are free for others although the connection does nothing any more, and its
/// open cursor reads nothing that was rolled back.
#[test]
fn what_another_vfs_takes_back_holds_nothing() {
    for settings in SETTINGS {
        for beside in ALL {
            let what = format!("{settings}, {beside:?}");
            let scene = Scene::new(beside, settings);
            let mut cursor = scene.connection.prepare("SELECT x FROM t").unwrap();
            let mut rows = cursor.query([]).unwrap();
            assert_eq!(rows.next().unwrap().unwrap().get(0), Ok(1));
            scene.write("UPDATE t SET x=-1000000-x WHERE rowid%300=0");
            assert_eq!(scene.commit_that_fails(), ffi::SQLITE_FULL, "{what}");
            assert_eq!(another_writes(&scene.lab), Ok((0, truth())), "{what}");
            let mut last = 1;
            loop {
                match rows.next() {
                    Ok(Some(row)) => {
                        assert_eq!(row.get(0), Ok(last + 1), "{what}");
                        last += 1;
                    }
                    Ok(None) => {
                        assert_eq!(last, ROWS, "{what}");
                        break;
                    }
                    Err(error) => {
                        // The next row's page was in the transaction.
                        assert_eq!(common::code(&error), ffi::SQLITE_ABORT_ROLLBACK, "{what}: after {last}");
                        break;
                    }
                }
            }
            drop(rows);
            drop(cursor);
            assert_eq!(common::text(&scene.connection, "SELECT count(*), min(x), sum(x) FROM t"), truth(), "{what}");
            common::assert_integrity(&scene.connection);
            scene.write("UPDATE t SET x=5 WHERE rowid=5");
            common::run(&scene.connection, "COMMIT");
        }
    }
}

/// A sibling may answer BUSY to a COMMIT (no VFS of SQLite's does that behind a prepare): the transaction stays open,
/// goes on, and commits once, or rolls back.
#[test]
fn a_commit_that_a_sibling_answers_busy_goes_on() {
    for settings in SETTINGS {
        for (beside, hidden) in [(Beside::Journal, false), (Beside::Journal, true), (Beside::Two, false)] {
            for (again, more) in [("COMMIT", 3), ("UPDATE t SET x=x+1 WHERE rowid=7; COMMIT", 4), ("ROLLBACK", 0)] {
                let what = format!("{settings}, {beside:?}, {hidden}, {again}");
                let scene = Scene::new(beside, settings);
                if hidden {
                    let path = scene.lab.scratch.file("x.db");
                    common::run(&scene.connection, "DETACH x");
                    common::run(&scene.connection, &format!("ATTACH '{}' AS x", path.display()));
                }
                scene.write("UPDATE t SET x=x+1 WHERE rowid<4");
                scene.code.store(ffi::SQLITE_BUSY, SeqCst);
                scene.lab.base_fails("x.db: write", ffi::SQLITE_BUSY);
                assert_eq!(scene.commit_that_fails(), ffi::SQLITE_BUSY, "{what}");
                assert!(!scene.connection.is_autocommit(), "{what}");
                let (tell, told) = mpsc::channel();
                let again_in_thread = again.to_owned();
                let (connection, lab) = (scene.connection, scene.lab);
                std::thread::spawn(move || {
                    let code = common::code_of(&connection, &again_in_thread);
                    tell.send((code, connection)).unwrap();
                });
                let (code, connection) = told.recv_timeout(Duration::from_secs(20)).expect(&what);
                assert_eq!(code, 0, "{what}");
                let sum = ROWS * (ROWS + 1) / 2 + more;
                for connection in [connection, lab.open("a.db")] {
                    assert_eq!(common::number(&connection, "SELECT sum(x) FROM t"), sum, "{what}");
                    common::run(&connection, "UPDATE t SET y='z' WHERE rowid=9");
                    common::assert_integrity(&connection);
                }
            }
        }
    }
}
