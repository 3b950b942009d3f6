//! A database of ours and one of another VFS in one transaction. When the other one fails, no call of ours comes between
//! our prepare and SQLite's rollback, which copies the header that prepare has advanced (`sqlite3WalUndo`) and keeps the
//! pages of the transaction in its cache.

use rusqlite::{Connection, ffi};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::lab::{Call, Lab};
use support::shim::{Shim, Verdict};

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
    /// The name of the other VFS.
    other: String,
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
        Shim::register(&name, support::STOCK, false).hook(move |moment| {
            let write = moment.text.starts_with("x.db: write") || moment.text.starts_with("x.db-wal: write");
            if write && failing.load(SeqCst) { Verdict::Answer(answer.load(SeqCst)) } else { Verdict::Pass }
        });
        let connection = lab.wal();
        support::run(&connection, settings);
        support::run(
            &connection,
            &format!(
                "CREATE TABLE t(x, y); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT {ROWS})
                 INSERT INTO t SELECT n, hex(randomblob(15)) FROM c"
            ),
        );
        let attach = |schema: &str| {
            let path = lab.scratch.file(&format!("{schema}.db"));
            support::run(&connection, &format!("ATTACH 'file:{}?vfs={name}' AS {schema}", path.display()));
            if beside == Beside::Wal {
                support::run(&connection, &format!("PRAGMA {schema}.journal_mode=WAL"));
            }
            support::run(&connection, &format!("CREATE TABLE {schema}.{schema}(x)"));
        };
        match beside {
            Beside::Journal | Beside::Wal => attach("x"),
            Beside::Two => ["x", "y"].into_iter().for_each(attach),
            Beside::Temporary => support::run(
                &connection,
                "PRAGMA temp_store=FILE; PRAGMA temp.cache_size=20; CREATE TEMP TABLE x(x);
                 WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 100)
                 INSERT INTO x SELECT randomblob(3000) FROM c",
            ),
        }
        Scene { lab, other: name, fails, code, connection, beside }
    }

    /// Writes to our database and to what fails; in a transaction that stays open.
    fn write(&self, change: &str) {
        let beside = match self.beside {
            Beside::Journal | Beside::Wal => "INSERT INTO x VALUES(77)",
            Beside::Two => "INSERT INTO x VALUES(77); INSERT INTO y VALUES(77)",
            Beside::Temporary => "UPDATE temp.x SET x=randomblob(2990) WHERE rowid<10",
        };
        support::run(&self.connection, &format!("BEGIN; {change}; {beside}"));
    }

    /// `x` is in rollback mode on our VFS from here on: its calls let ours hide what prepare advanced.
    fn attach_on_ours(&self) {
        let path = self.lab.scratch.file("x.db");
        support::run(&self.connection, &format!("DETACH x; ATTACH '{}' AS x", path.display()));
    }

    fn commit_that_fails(&self) -> i32 {
        self.fails.store(true, SeqCst);
        if self.beside == Beside::Temporary {
            self.lab.base_fails("temp: write", ffi::SQLITE_FULL);
        }
        let code = support::code_of(&self.connection, "COMMIT");
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
        let code = support::code_of(&other, "INSERT INTO t VALUES(-1, 'other')");
        tell.send((code, support::text(&other, "SELECT count(*), min(x), sum(x) FROM t"))).unwrap();
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
                        assert_eq!(support::code(&error), ffi::SQLITE_ABORT_ROLLBACK, "{what}: after {last}");
                        break;
                    }
                }
            }
            drop(rows);
            drop(cursor);
            assert_eq!(support::text(&scene.connection, "SELECT count(*), min(x), sum(x) FROM t"), truth(), "{what}");
            support::assert_integrity(&scene.connection);
            scene.write("UPDATE t SET x=5 WHERE rowid=5");
            support::run(&scene.connection, "COMMIT");
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
                    scene.attach_on_ours();
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
                    let code = support::code_of(&connection, &again_in_thread);
                    tell.send((code, connection)).unwrap();
                });
                let (code, connection) = told.recv_timeout(Duration::from_secs(20)).expect(&what);
                assert_eq!(code, 0, "{what}");
                let sum = ROWS * (ROWS + 1) / 2 + more;
                for connection in [connection, lab.open("a.db")] {
                    assert_eq!(support::number(&connection, "SELECT sum(x) FROM t"), sum, "{what}");
                    support::run(&connection, "UPDATE t SET y='z' WHERE rowid=9");
                    support::assert_integrity(&connection);
                }
            }
        }
    }
}

/// Our database attached, the other VFS's as main: a super-journal is not seen then.
#[test]
fn attached_to_a_main_database_of_another_vfs() {
    for (count, settings) in [1, 2].into_iter().flat_map(|count| SETTINGS.map(|settings| (count, settings))) {
        let what = format!("{count}, {settings}");
        let scene = Scene::new(Beside::Two, settings);
        let open = |connection: &Connection, schema: &str, vfs: &str, file: &str| {
            let path = scene.lab.scratch.file(file);
            support::run(connection, &format!("ATTACH 'file:{}?vfs={vfs}' AS {schema}", path.display()));
        };
        let connection = support::try_open(&scene.lab.scratch.file("y.db"), support::flags(), &scene.other).unwrap();
        open(&connection, "a", &scene.lab.vfs, "a.db");
        open(&connection, "x", &scene.other, "x.db");
        support::run(&connection, settings);
        let mut cursor = connection.prepare("SELECT x FROM t").unwrap();
        let mut rows = cursor.query([]).unwrap();
        rows.next().unwrap();
        let journals = ["INSERT INTO x VALUES(1)", "INSERT INTO x VALUES(1); INSERT INTO y VALUES(1)"][count - 1];
        support::run(&connection, &format!("BEGIN; UPDATE t SET x=-x WHERE rowid%300=0; {journals}"));
        scene.fails.store(true, SeqCst);
        assert_eq!(support::code_of(&connection, "COMMIT"), ffi::SQLITE_FULL, "{what}");
        scene.fails.store(false, SeqCst);
        assert_eq!(another_writes(&scene.lab), Ok((0, truth())), "{what}");
        drop(rows);
        drop(cursor);
        assert_eq!(support::text(&connection, "SELECT count(*), min(x), sum(x) FROM t"), truth(), "{what}");
        support::run(&connection, &format!("BEGIN; UPDATE t SET x=0 WHERE rowid=1; {journals}; COMMIT"));
        let other = scene.lab.open("a.db");
        assert_eq!(support::number(&other, "SELECT count(*) FROM t WHERE x=0"), 1, "{what}");
    }
}

/// `walCleanupHash` leaves no trace where the snapshot ends with a block of the wal-index (frame 4062).
#[test]
fn a_snapshot_that_ends_with_a_block_of_the_index() {
    for hidden in [false, true] {
        let mut scene = Scene::new(Beside::Journal, SETTINGS[2]);
        if hidden {
            scene.attach_on_ours();
        }
        let frames = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&frames);
        let hook = move |_: &mut rusqlite::hooks::Wal, of: i32| {
            told.store(u32::try_from(of).unwrap(), SeqCst);
            Ok(())
        };
        scene.connection.wal_hook(Some(hook)).unwrap();
        support::run(&scene.connection, "PRAGMA synchronous=OFF");
        for n in 0..4062 {
            support::run(&scene.connection, &format!("UPDATE t SET y='{n}' WHERE rowid=1"));
            if frames.load(SeqCst) >= 4062 {
                break;
            }
        }
        assert_eq!(frames.load(SeqCst), 4062);
        support::run(&scene.connection, "PRAGMA synchronous=FULL");
        let mut cursor = scene.connection.prepare("SELECT x FROM t").unwrap();
        let mut rows = cursor.query([]).unwrap();
        rows.next().unwrap();
        scene.write("UPDATE t SET x=-x WHERE rowid%300=0");
        scene.lab.base_fails("x.db: write", ffi::SQLITE_FULL);
        assert_eq!(scene.commit_that_fails(), ffi::SQLITE_FULL, "{hidden}");
        assert_eq!(another_writes(&scene.lab), Ok((0, truth())), "{hidden}");
        drop(rows);
        drop(cursor);
        assert_eq!(support::text(&scene.connection, "SELECT count(*), min(x), sum(x) FROM t"), truth(), "{hidden}");
    }
}

/// Threads commit over our database and one of another VFS each, which fails at random, with cursors left open and without,
/// beside threads that write ours alone: nobody waits for ever, ours has what was acknowledged and nothing else.
#[test]
#[expect(clippy::too_many_lines, reason = "a scene, from top to bottom")]
fn threads_whose_siblings_fail() {
    let seconds = Duration::from_secs(support::env_number("PWAL_TEST_SECONDS", 3));
    let _watchdog = support::Watchdog::new("threads whose siblings fail", seconds + Duration::from_secs(60));
    let lab = Lab::new();
    let setup = lab.wal();
    support::run(&setup, "CREATE TABLE t(w, n); CREATE INDEX i ON t(w, n)");
    let until = std::time::Instant::now() + seconds;
    let acknowledged: Vec<(i64, i64, i64)> = std::thread::scope(|scope| {
        let lab = &lab;
        let threads = (0..6_i64).map(|writer| {
            scope.spawn(move || {
                let fails = Arc::new(AtomicBool::new(false));
                let (failing, vfs) = (Arc::clone(&fails), format!("{}-{writer}", lab.vfs));
                Shim::register(&vfs, support::STOCK, false).hook(move |moment| {
                    let hit = moment.text.contains(".db: write") && failing.load(SeqCst);
                    if hit { Verdict::Answer(ffi::SQLITE_FULL) } else { Verdict::Pass }
                });
                let connection = lab.open("a.db");
                connection.busy_timeout(Duration::from_secs(20)).unwrap();
                let idle = lab.open("a.db");
                idle.busy_timeout(Duration::from_secs(20)).unwrap();
                let beside = writer < 4;
                if beside {
                    let path = lab.scratch.file(&format!("x{writer}.db"));
                    support::run(&connection, &format!("ATTACH 'file:{}?vfs={vfs}' AS x", path.display()));
                    support::run(&connection, "CREATE TABLE x.x(n)");
                }
                let (mut n, mut failed) = (0, 0);
                for round in 0_u64.. {
                    if std::time::Instant::now() > until {
                        break;
                    }
                    let mode = ["auto", "conservative"][usize::from(round % 50 > 40)];
                    let synchronous = ["FULL", "NORMAL"][usize::from(round % 7 > 3)];
                    support::run(
                        &connection,
                        &format!("PRAGMA parallel_wal_mode={mode}; PRAGMA synchronous={synchronous}"),
                    );
                    let fail = beside && round % 3 == 0;
                    let journal = if beside { format!("INSERT INTO x VALUES({n})") } else { String::new() };
                    support::run(
                        &connection,
                        &format!("BEGIN IMMEDIATE; INSERT INTO t VALUES({writer},{n}); {journal}"),
                    );
                    let mut cursor = connection.prepare("SELECT n FROM t WHERE w=?1 ORDER BY n").unwrap();
                    let mut rows = cursor.query([writer]).unwrap();
                    if round % 2 == 0 {
                        rows.next().unwrap();
                    }
                    fails.store(fail, SeqCst);
                    let code = support::code_of(&connection, "COMMIT");
                    fails.store(false, SeqCst);
                    if round % 9 == 0 {
                        support::run(&idle, &format!("INSERT INTO t VALUES(100, {round})"));
                    }
                    drop(rows);
                    drop(cursor);
                    match (fail, code) {
                        (true, ffi::SQLITE_FULL) => failed += 1,
                        (false, 0) => n += 1,
                        other => panic!("writer {writer}, round {round}: {other:?}"),
                    }
                    let sql = format!("SELECT count(*), ifnull(max(n)+1, 0) FROM t WHERE w={writer}");
                    assert_eq!(support::text(&connection, &sql), format!("{n}|{n}"), "writer {writer}, round {round}");
                }
                (writer, n, failed)
            })
        });
        threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("{acknowledged:?}");
    for (writer, n, failed) in &acknowledged {
        assert!(*n > 0 && (*failed > 0) == (*writer < 4));
        let sql = format!("SELECT count(*) FROM t WHERE w={writer}");
        assert_eq!(support::number(&setup, &sql), *n, "{acknowledged:?}");
    }
    support::assert_integrity(&setup);
}

/// With a super-journal SQLite ignores what PHASETWO answers: our part is durable in prepare, also where the journal is
/// opened through another VFS, that of the main database.
#[test]
fn a_super_journal_of_another_vfs() {
    for settings in SETTINGS {
        for call in [Call::Write, Call::Sync] {
            let scene = Scene::new(Beside::Two, settings);
            let other = scene.lab.open("a.db");
            // A flush that fails takes what was not durable before it.
            support::run(&other, "PRAGMA wal_checkpoint");
            let connection =
                support::try_open(&scene.lab.scratch.file("y.db"), support::flags(), &scene.other).unwrap();
            for (schema, vfs) in [("x", &scene.other), ("a", &scene.lab.vfs)] {
                let path = scene.lab.scratch.file(&format!("{schema}.db"));
                support::run(&connection, &format!("ATTACH 'file:{}?vfs={vfs}' AS {schema}", path.display()));
            }
            support::run(&connection, settings);
            let transaction =
                "BEGIN; INSERT INTO x VALUES(1); INSERT INTO y VALUES(1); UPDATE t SET x=0 WHERE rowid=1; COMMIT";
            scene.lab.hook(move |moment| {
                if moment.call == call && moment.name.ends_with(".seg") { Err(support::lab::eio()) } else { Ok(()) }
            });
            let what = format!("{settings}, {call:?}");
            assert_eq!(support::code_of(&connection, transaction) & 0xff, ffi::SQLITE_IOERR, "{what}");
            scene.lab.unhook();
            let counts =
                "SELECT (SELECT count(*) FROM x), (SELECT count(*) FROM y), (SELECT count(*) FROM t WHERE x=0)";
            let read = support::rows(&connection, counts);
            assert!(read.as_ref().map_or(true, |rows| *rows == ["0|0|0"]), "{what}: {read:?}");
            drop((connection, other, scene.connection));
            let again = scene.lab.open("a.db");
            assert_eq!(support::number(&again, "SELECT count(*) FROM t WHERE x=0"), 0, "{what}");
        }
    }
}
