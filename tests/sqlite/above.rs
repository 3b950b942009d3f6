//! Another VFS above pwal, between SQLite and us: one that passes everything on is served like SQLite itself; one that keeps
//! something back that a log needs works as on stock SQLite, or is refused by name. Nothing acknowledged is lost, nothing else
//! is there.

use rusqlite::{Connection, ffi};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use support::child::{self, report, setting};
use support::lab::Once;
use support::shim::{Shim, Verdict};
use support::{Scratch, number, run, text};

/// A new VFS above pwal that passes everything on, until it has a hook.
fn above() -> &'static Shim {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    support::vfs();
    Shim::register(&format!("above-{}", NUMBER.fetch_add(1, SeqCst)), support::PWAL, false)
}

fn open(path: &Path, vfs: &str) -> Connection {
    support::try_open(path, support::flags(), vfs).expect("open")
}

/// By the SQL function, which needs no file control.
fn status(connection: &Connection) -> serde_json::Value {
    let json: String = connection.query_row("SELECT pwal_status()", [], |row| row.get(0)).expect("status");
    serde_json::from_str(&json).expect("JSON")
}

fn steps_aside(connection: &Connection) -> bool {
    let status = status(connection);
    let reason = status["reason"].as_str().unwrap_or_default();
    status["active"] == false && reason.contains("another VFS lies above pwal")
}

#[test]
fn a_vfs_that_passes_everything_on_is_served() {
    let _watchdog = support::Watchdog::new("served", Duration::from_secs(60));
    for mode in ["auto", "conservative"] {
        for synchronous in ["FULL", "NORMAL"] {
            let (scratch, shim) = (Scratch::new(), above());
            let path = scratch.file("a.db");
            let one = open(&path, &shim.name);
            assert_eq!(text(&one, "PRAGMA journal_mode=WAL"), "wal");
            run(&one, &format!("PRAGMA parallel_wal_mode={mode}; PRAGMA synchronous={synchronous}"));
            run(&one, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
            assert_eq!(status(&one)["active"], true, "{}", status(&one));
            let two = open(&path, &shim.name);
            let direct = support::open(&path);
            for (n, connection) in [&one, &two, &direct].into_iter().cycle().take(30).enumerate() {
                run(connection, &format!("INSERT INTO t VALUES({n})"));
                for reader in [&one, &two, &direct] {
                    assert_eq!(number(reader, "SELECT count(*) FROM t"), i64::try_from(n).unwrap() + 2);
                }
            }
            run(&one, "BEGIN; DELETE FROM t; ROLLBACK; BEGIN; DELETE FROM t WHERE x=1; COMMIT");
            assert_eq!(number(&direct, "SELECT count(*) FROM t"), 29);
            assert_eq!(text(&one, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
            support::assert_integrity(&two);
            for connection in [one, two, direct] {
                support::close(connection);
            }
            support::assert_plain(&path);
        }
    }
}

/// Main and attached, each above and not; two databases in rollback mode beside them, so that there is a super-journal.
#[test]
fn attached_databases_commit_together() {
    let _watchdog = support::Watchdog::new("attached", Duration::from_secs(60));
    for (main_above, attached_above, journals) in
        [(true, true, false), (true, false, false), (false, true, false), (true, true, true), (false, true, true)]
    {
        let what = format!("{main_above}, {attached_above}, {journals}");
        let (scratch, shim) = (Scratch::new(), above());
        let vfs = |above: bool| if above { shim.name.as_str() } else { support::PWAL };
        // It is tried at a main database.
        support::close(open(&scratch.file("b.db"), &shim.name));
        let connection = open(&scratch.file("a.db"), vfs(main_above));
        let attach = |name: &str, above: bool| {
            let path = scratch.file(&format!("{name}.db"));
            run(&connection, &format!("ATTACH 'file:{}?vfs={}' AS {name}", path.display(), vfs(above)));
        };
        attach("b", attached_above);
        for schema in ["main", "b"] {
            assert_eq!(text(&connection, &format!("PRAGMA {schema}.journal_mode=WAL")), "wal");
            run(&connection, &format!("CREATE TABLE {schema}.t(x)"));
            let mode = text(&connection, &format!("PRAGMA {schema}.parallel_wal_mode"));
            assert_eq!(mode, "auto", "{what}, {schema}");
        }
        if journals {
            attach("j", true);
            attach("k", false);
            run(&connection, "CREATE TABLE j.t(x); CREATE TABLE k.t(x)");
        }
        let more = if journals { "INSERT INTO j.t VALUES(1); INSERT INTO k.t VALUES(1);" } else { "" };
        for end in ["COMMIT", "ROLLBACK", "COMMIT"] {
            run(&connection, &format!("BEGIN; INSERT INTO main.t VALUES(1); INSERT INTO b.t VALUES(1); {more} {end}"));
        }
        assert_eq!(
            text(&connection, "SELECT (SELECT count(*) FROM main.t), (SELECT count(*) FROM b.t)"),
            "2|2",
            "{what}"
        );
        support::close(connection);
        for name in ["a.db", "b.db"] {
            assert_eq!(number(&support::open_stock(&scratch.file(name)), "SELECT count(*) FROM t"), 2, "{what}");
        }
    }
}

/// What a VFS above keeps back from the start, so that a log cannot be served.
const KEPT_BACK: [&str; 6] =
    ["controls", "the last word of a commit", "shared memory", "locks", "reads of the file", "characteristics"];

fn keep_back(shim: &'static Shim, what: &'static str) {
    shim.has_own_memory.store(what == "shared memory", SeqCst);
    shim.hook(move |moment| match what {
        "controls" if moment.text.contains("control ") => Verdict::Answer(ffi::SQLITE_NOTFOUND),
        "the last word of a commit" if moment.text.ends_with("control PHASETWO") => Verdict::Answer(ffi::SQLITE_OK),
        "shared memory" | "locks" if moment.text.contains("shm lock") || moment.text.contains("shm unlock") => {
            Verdict::Answer(ffi::SQLITE_OK)
        }
        "reads of the file" if moment.text.ends_with(": open") && !moment.text.starts_with("temp") => Verdict::Read,
        // SQLite pads a commit to a sector, and splits writes there.
        "characteristics" if moment.text.ends_with(": characteristics") => Verdict::Value(0),
        _ => Verdict::Pass,
    });
}

#[test]
fn a_vfs_that_keeps_something_back_works_as_on_stock() {
    let _watchdog = support::Watchdog::new("kept back", Duration::from_secs(60));
    for what in KEPT_BACK {
        let (scratch, shim) = (Scratch::new(), above());
        keep_back(shim, what);
        let path = scratch.file("a.db");
        let connection = open(&path, &shim.name);
        assert_eq!(text(&connection, "PRAGMA journal_mode=WAL"), "wal", "{what}");
        run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        run(&connection, "BEGIN; INSERT INTO t VALUES(2); COMMIT");
        assert_eq!(number(&connection, "SELECT count(*) FROM t"), 2, "{what}");
        assert!(steps_aside(&connection), "{what}: {}", status(&connection));
        support::close(connection);
        // Beside a log that lives it is refused, and changes nothing.
        let direct = support::open(&path);
        run(&direct, "INSERT INTO t VALUES(3)");
        assert_eq!(status(&direct)["active"], true, "{what}");
        let late = open(&path, &shim.name);
        late.busy_timeout(Duration::ZERO).unwrap();
        let code = support::code_of(&late, "INSERT INTO t VALUES(4)");
        assert!([ffi::SQLITE_BUSY, ffi::SQLITE_CANTOPEN].contains(&code), "{what}: {code}");
        drop(late);
        run(&direct, "INSERT INTO t VALUES(5)");
        assert_eq!(text(&direct, "SELECT group_concat(x) FROM t"), "1,2,3,5", "{what}");
        support::close(direct);
        support::assert_plain(&path);
    }
}

/// What a VFS above keeps back that has passed everything on when it was tried: a commit is never answered otherwise than it came
/// out, and connections that are opened later work as on stock.
#[test]
fn a_vfs_that_keeps_something_back_later_is_found_out() {
    let _watchdog = support::Watchdog::new("found out", Duration::from_secs(60));
    for synchronous in ["FULL", "NORMAL"] {
        for (what, code) in [
            ("frames", ffi::SQLITE_IOERR),
            ("the last word of a commit", 0),
            ("memory", ffi::SQLITE_CANTOPEN),
            ("reads of the file", ffi::SQLITE_CANTOPEN),
        ] {
            let (scratch, shim) = (Scratch::new(), above());
            let path = scratch.file("a.db");
            run(&open(&path, &shim.name), "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
            let connection = open(&path, &shim.name);
            // These two show with the first read.
            if code != ffi::SQLITE_CANTOPEN {
                run(&connection, &format!("PRAGMA synchronous={synchronous}"));
                assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1);
            }
            shim.has_own_memory.store(what == "memory", SeqCst);
            shim.hook(move |moment| match what {
                "frames" if moment.text.starts_with("a.db-wal: write") => Verdict::Answer(ffi::SQLITE_OK),
                "the last word of a commit" if moment.text.ends_with("PHASETWO") => Verdict::Answer(ffi::SQLITE_OK),
                "memory" if moment.text.contains("shm lock") || moment.text.contains("shm unlock") => {
                    Verdict::Answer(ffi::SQLITE_OK)
                }
                "reads of the file" if moment.text == "a.db-wal: open" => Verdict::Read,
                _ => Verdict::Pass,
            });
            let what = format!("{what}, {synchronous}");
            let answer = support::code_of(&connection, "INSERT INTO t VALUES(2)");
            assert_eq!(answer, code, "{what}");
            let acknowledged = i64::from(answer == 0);
            shim.unhook();
            shim.has_own_memory.store(false, SeqCst);
            let direct = support::open(&path);
            assert_eq!(number(&direct, "SELECT count(*) FROM t"), 1 + acknowledged, "{what}");
            run(&direct, "INSERT INTO t VALUES(3)");
            drop(connection);
            drop(direct);
            let later = open(&path, &shim.name);
            assert_eq!(number(&later, "SELECT count(*) FROM t"), 2 + acknowledged, "{what}");
            assert!(steps_aside(&later), "{what}: {}", status(&later));
            support::assert_integrity(&later);
            support::close(later);
            support::assert_plain(&path);
        }
    }
}

const LIFE: [&str; 14] = [
    "PRAGMA journal_mode=WAL",
    "CREATE TABLE t(x, y)",
    "INSERT INTO t VALUES(1, randomblob(9000))",
    "BEGIN IMMEDIATE",
    "INSERT INTO t VALUES(2, randomblob(20000))",
    "COMMIT",
    "BEGIN",
    "DELETE FROM t WHERE x=1",
    "ROLLBACK",
    "PRAGMA wal_checkpoint",
    "UPDATE t SET x=x+10",
    "SELECT sum(length(y)) FROM t",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "INSERT INTO t VALUES(4, 'end')",
];

/// What `t` may hold after an error somewhere: each statement's effect is there if it was answered OK, and may be if not.
fn states(answers: &[i32]) -> Vec<Vec<i64>> {
    let mut states: Vec<Vec<i64>> = vec![Vec::new()];
    let mut change = |ok: bool, act: &dyn Fn(&mut Vec<i64>)| {
        let mut changed = states.clone();
        changed.iter_mut().for_each(act);
        if !ok {
            changed.append(&mut states);
        }
        states = changed;
    };
    change(answers[2] == 0, &|rows| rows.push(1));
    if answers[4] == 0 {
        change(answers[5] == 0, &|rows| rows.push(2));
    }
    // Where COMMIT or ROLLBACK failed the transaction may go on, and what follows is in it.
    change(answers[10] == 0, &|rows| rows.iter_mut().for_each(|x| *x += 10));
    change(answers[13] == 0, &|rows| rows.push(4));
    states
}

/// The VFS above takes WRITE and reports that it failed, or keeps the unlock back: the connection that has it gets it again, as from
/// `unixShmLock`, and no other one waits for it for ever.
#[test]
fn a_write_lock_that_is_hidden_is_granted_again() {
    for (text, verdict) in [
        ("a.db: shm lock exclusive WRITE", Verdict::Behind(ffi::SQLITE_BUSY)),
        ("a.db: shm unlock exclusive WRITE", Verdict::Answer(ffi::SQLITE_OK)),
    ] {
        let (scratch, shim) = (Scratch::new(), above());
        let path = scratch.file("a.db");
        let connection = open(&path, &shim.name);
        run(&connection, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        let (once, taken) = (Once::default(), verdict);
        shim.hook(move |moment| if moment.text == text && once.first() { taken } else { Verdict::Pass });
        run(&connection, "BEGIN; SELECT count(*) FROM t");
        let hidden = support::code_of(&connection, "INSERT INTO t VALUES(2)");
        let again =
            support::code_of(&connection, if hidden == 0 { "COMMIT; BEGIN" } else { "INSERT INTO t VALUES(2)" });
        assert_eq!((hidden, again), (if text.contains("unlock") { 0 } else { ffi::SQLITE_BUSY }, 0), "{text}");
        run(&connection, "COMMIT");
        shim.unhook();
        let direct = support::open(&path);
        run(&direct, "INSERT INTO t VALUES(3)");
        assert_eq!(number(&direct, "SELECT count(*) FROM t"), 3, "{text}");
    }
}

/// The same for a transaction that had spilled: its file goes when WRITE is granted again.
#[test]
fn a_hidden_write_lock_leaves_no_spill_file() {
    let (scratch, shim) = (Scratch::new(), above());
    let path = scratch.file("a.db");
    let connection = open(&path, &shim.name);
    run(&connection, "PRAGMA journal_mode=WAL; PRAGMA cache_size=5; PRAGMA cache_spill=1; CREATE TABLE t(x)");
    run(&connection, "PRAGMA parallel_wal_max_batch_bytes=65536");
    let spills = || {
        let files = std::fs::read_dir(scratch.file("a.db-pwal")).expect("the log directory");
        files.filter(|file| file.as_ref().expect("an entry").file_name().to_string_lossy().contains("spill")).count()
    };
    run(&connection, "BEGIN");
    for _ in 0..100 {
        run(&connection, "INSERT INTO t VALUES(randomblob(5000))");
    }
    assert_eq!(spills(), 1);
    shim.hook(|moment| match moment.text {
        "a.db: shm unlock exclusive WRITE" => Verdict::Answer(ffi::SQLITE_OK),
        _ => Verdict::Pass,
    });
    run(&connection, "ROLLBACK");
    shim.unhook();
    run(&connection, "INSERT INTO t VALUES(1)");
    assert_eq!((spills(), number(&connection, "SELECT count(*) FROM t")), (0, 1));
}

/// An error instead of each call in turn, and after it: each statement says what came of it, as far as it may be known.
#[test]
fn an_error_at_each_call() {
    let _watchdog = support::Watchdog::new("an error at each call", Duration::from_secs(300));
    let stride = support::env_number("PWAL_TEST_STRIDE", 101);
    let shim = above();
    for (synchronous, mode) in [("FULL", "auto"), ("NORMAL", "auto"), ("FULL", "conservative")] {
        for behind in [false, true] {
            let mut at = support::env_number("PWAL_TEST_FIRST", 1);
            loop {
                let (scratch, calls) = (Scratch::in_memory(), Arc::new(AtomicU64::new(0)));
                let path = scratch.file("a.db");
                let connection = open(&path, &shim.name);
                connection.busy_timeout(Duration::ZERO).unwrap();
                run(&connection, &format!("PRAGMA synchronous={synchronous}; PRAGMA parallel_wal_mode={mode}"));
                let counted = Arc::clone(&calls);
                shim.hook(move |moment| {
                    // What SQLite does not look at the result of is not made to fail.
                    if moment.text.contains("unlock")
                        || moment.text.contains("shm unmap")
                        || moment.text.ends_with("close")
                    {
                        return Verdict::Pass;
                    }
                    let code = if moment.text.contains("lock") { ffi::SQLITE_IOERR_LOCK } else { ffi::SQLITE_IOERR };
                    match (counted.fetch_add(1, SeqCst) + 1 == at, behind) {
                        (false, _) => Verdict::Pass,
                        (true, false) => Verdict::Answer(code),
                        (true, true) => Verdict::Behind(code),
                    }
                });
                let answers: Vec<i32> = LIFE.iter().map(|sql| answer(&connection, sql)).collect();
                shim.unhook();
                drop(connection);
                let what = format!("{synchronous}, {mode}, {behind}, call {at}: {answers:?}");
                let again = open(&path, &shim.name);
                let rows: Vec<i64> = match support::rows(&again, "SELECT x FROM t ORDER BY rowid") {
                    Ok(rows) => rows.iter().map(|row| row.parse().unwrap()).collect(),
                    Err(error) => {
                        assert!(answers[1] != 0 && error.to_string().contains("no such table"), "{what}: {error}");
                        Vec::new()
                    }
                };
                assert!(states(&answers).contains(&rows), "{what}: {rows:?} of {:?}", states(&answers));
                support::assert_integrity(&again);
                support::close(again);
                if answers.iter().all(|code| *code == 0) && calls.load(SeqCst) < at {
                    assert!(at > 100, "{what}");
                    break;
                }
                at += stride;
            }
        }
    }
}

/// The result code of a statement whose rows do not count.
fn answer(connection: &Connection, sql: &str) -> i32 {
    support::rows(connection, sql).err().map_or(0, |error| support::code(&error))
}

/// A child commits through a VFS above, is killed, and others of both kinds go on.
#[test]
fn processes_and_kills() {
    if child::role("above::processes_and_kills") {
        let path = setting("PWAL_TEST_PATH");
        let vfs = if setting("PWAL_TEST_ABOVE") == "1" { above().name.as_str() } else { support::vfs() };
        let connection = open(Path::new(&path), vfs);
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        for n in 0.. {
            run(&connection, "INSERT INTO t VALUES(1)");
            assert_eq!(status(&connection)["active"], true, "{}", status(&connection));
            report(&format!("{n}"));
        }
    }
    let _watchdog = support::Watchdog::new("processes and kills", Duration::from_secs(120));
    let (scratch, shim) = (Scratch::new(), above());
    let path = scratch.file("a.db");
    run(&open(&path, &shim.name), "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    let start = |above: u32| {
        let settings = [("PWAL_TEST_PATH", path.display().to_string()), ("PWAL_TEST_ABOVE", above.to_string())];
        child::start("above::processes_and_kills", &settings)
    };
    let mut acknowledged = 0;
    for round in 0..6 {
        let mut children = [start(1), start(0), start(1)];
        for child in &mut children {
            for _ in 0..10 {
                child.lines.next().expect("a commit");
            }
        }
        for child in &mut children {
            child.kill();
            acknowledged += 10 + i64::try_from(child.lines.by_ref().count()).unwrap();
        }
        let connection = open(&path, if round % 2 == 0 { &shim.name } else { support::PWAL });
        let there = number(&connection, "SELECT count(*) FROM t");
        assert!((acknowledged..=acknowledged + 3).contains(&there), "{there} of {acknowledged}");
        acknowledged = there;
        support::assert_integrity(&connection);
        support::close(connection);
    }
    support::assert_plain(&path);
}
