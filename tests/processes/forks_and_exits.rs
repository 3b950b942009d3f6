//! How a process ends or doubles, and who else is there: exits without a close, forks, second processes, other
//! names of one file, a second SQLite in the process.
//!
//! Each scene plays in child processes of their own.

mod second_library;

use rusqlite::{Connection, ffi};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::child;
use support::scene::{COUNT, scene};

fn count(connection: &Connection) -> i64 {
    support::number(connection, COUNT)
}

/// Starts a scene of [`child_plays`].
fn play(scene: &str, path: &Path) -> child::Role {
    child::start(
        "forks_and_exits::child_plays",
        &[("PWAL_TEST_SCENE", scene.to_owned()), ("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())],
    )
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_plays() {
    if !child::role("forks_and_exits::child_plays") {
        return;
    }
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    match child::setting("PWAL_TEST_SCENE").as_str() {
        "exit" => exits(&path, || std::process::exit(0)),
        "_exit" => exits(&path, || {
            // SAFETY: ends the process without its exit handlers.
            unsafe { libc::_exit(0) }
        }),
        "abort" => exits(&path, || std::process::abort()),
        "exit in a transaction" => exits_in_a_transaction(&path),
        "exit while threads write" => exits_while_threads_write(&path),
        "hold" => holds(&path),
        "fork" => forks(&path),
        "fork and be killed" => forks_and_is_killed(&path),
        "names" => meets_itself(&path),
        scene => panic!("no scene {scene}"),
    }
}

fn exits(path: &Path, end: impl FnOnce()) {
    let connections: Vec<Connection> = (0..3).map(|_| support::open(path)).collect();
    for (number, connection) in connections.iter().enumerate() {
        support::run(connection, &format!("INSERT INTO t VALUES({number})"));
    }
    std::mem::forget(connections);
    child::report("written");
    end();
}

fn exits_in_a_transaction(path: &Path) {
    let (one, two) = (support::open(path), support::open(path));
    support::run(&one, "INSERT INTO t VALUES(1); PRAGMA cache_size=1; BEGIN IMMEDIATE");
    support::run(&one, "INSERT INTO t SELECT zeroblob(3000) FROM t JOIN (VALUES(1),(2),(3),(4),(5))");
    support::run(&two, "BEGIN; SELECT * FROM t");
    std::mem::forget((one, two));
    child::report("written");
    std::process::exit(0);
}

fn exits_while_threads_write(path: &Path) {
    for thread in 0..4 {
        let path = path.to_owned();
        std::thread::spawn(move || {
            let connection = support::open(&path);
            for n in 0.. {
                if connection.execute_batch(&format!("INSERT INTO t VALUES({thread}*1000000+{n})")).is_err() {
                    // The engine is closed: the process is about to end.
                    return;
                }
                child::report("row");
            }
        });
    }
    child::command();
    std::process::exit(0);
}

fn holds(path: &Path) {
    let connection = support::open(path);
    support::run(&connection, "INSERT INTO t VALUES('held')");
    child::report("open");
    child::command();
    support::close(connection);
    child::report("closed");
}

/// Runs `act` in a forked child that leaves by `exit`; returns its status.
fn forked(act: impl FnOnce() -> i32) -> i32 {
    // SAFETY: this process has no other thread that runs (libtest's waits).
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let status = act();
        // Normal exit, with the exit handlers that the child has inherited.
        std::process::exit(status);
    }
    wait(pid)
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a child of this process, a living number.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "the forked child died: {status:x}");
    libc::WEXITSTATUS(status)
}

fn forks(path: &Path) {
    let connection = support::open(path);
    support::run(&connection, "INSERT INTO t VALUES(1)");
    let reader = support::open(path);
    support::run(&reader, "BEGIN; SELECT * FROM t");
    for round in 0..3 {
        let status = forked(|| {
            // SQLite forbids to carry a connection over a fork. It must be an error, not damage.
            for sql in ["SELECT * FROM t", "INSERT INTO t VALUES('from the child')", "PRAGMA wal_checkpoint(TRUNCATE)"]
            {
                if support::on_pwal() && connection.execute_batch(sql).is_ok() && !sql.starts_with("PRAGMA") {
                    return 10;
                }
            }
            0
        });
        assert_eq!(status, 0, "round {round}: 10 = the child used its parent's connection");
        let status = forked(|| {
            // Another process: its close and its exit must not let go of the parent's locks.
            let own = support::open(path);
            let code = support::code_of(&own, "INSERT INTO t VALUES('also from the child')");
            if round % 2 == 0 {
                support::close(own);
            } else {
                std::mem::forget(own);
            }
            i32::from(support::on_pwal() && code != 0)
        });
        assert_eq!(status, 0, "round {round}: a second process was kept out");
        support::run(&connection, "INSERT INTO t VALUES(2)");
    }
    support::run(&reader, "COMMIT");
    child::report(&count(&reader).to_string());
    child::command();
    support::close(reader);
    support::close(connection);
    child::report("closed");
}

fn forks_and_is_killed(path: &Path) {
    let connection = support::open(path);
    support::run(&connection, "INSERT INTO t VALUES(1)");
    // SAFETY: as in `forked`; the child only waits until its input ends, and touches nothing.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        child::report("forked");
        child::command();
        // SAFETY: ends the process without exit handlers.
        unsafe { libc::_exit(0) };
    }
    support::run(&connection, "INSERT INTO t VALUES(2)");
    child::report("written");
    loop {
        std::thread::park();
    }
}

fn meets_itself(path: &Path) {
    let directory = path.parent().unwrap();
    std::env::set_current_dir(directory).unwrap();
    std::os::unix::fs::symlink(path, directory.join("link.db")).unwrap();
    std::os::unix::fs::symlink(directory, directory.join("here")).unwrap();
    let names = [
        path.to_str().unwrap().to_owned(),
        String::from("app.db"),
        String::from("./here/app.db"),
        directory.join("link.db").to_str().unwrap().to_owned(),
        directory.join("here/app.db").to_str().unwrap().to_owned(),
        format!("file:{}?cache=private", path.display()),
        String::from("file:app.db"),
    ];
    let connections: Vec<Connection> = names.iter().map(|name| support::open(name.as_ref())).collect();
    for round in 1..=3 {
        for (connection, name) in connections.iter().zip(&names) {
            support::run(connection, &format!("INSERT INTO t VALUES('{name} {round}')"));
            for other in &connections {
                assert_eq!(count(other), count(connection), "by {name}");
            }
        }
    }
    connections.into_iter().for_each(support::close);
    child::report("closed");
}

#[test]
fn a_normal_exit_without_a_close_leaves_a_plain_file() {
    for end in ["exit", "_exit", "abort"] {
        let (_scene, path) = scene(end);
        let mut process = play(end, &path);
        process.expect("written");
        process.wait();
        if end == "exit" && support::on_pwal() {
            support::assert_plain(&path);
        }
        let connection = support::open(&path);
        assert_eq!(count(&connection), 3, "{end}");
        support::close(connection);
        support::assert_plain(&path);
    }
}

#[test]
fn an_exit_in_the_middle_of_a_transaction_neither_hangs_nor_keeps_it() {
    let (_scene, path) = scene("an exit in a transaction");
    let mut process = play("exit in a transaction", &path);
    process.expect("written");
    assert!(process.wait().success());
    let connection = support::open(&path);
    assert_eq!(count(&connection), 1);
    support::close(connection);
    support::assert_plain(&path);
}

#[test]
fn an_exit_while_threads_write_loses_no_acknowledged_row() {
    for _ in 0..5 {
        let (_scene, path) = scene("an exit while threads write");
        let mut process = play("exit while threads write", &path);
        let mut reported = 0;
        while reported < 100 {
            assert_eq!(process.lines.next().as_deref(), Some("row"));
            reported += 1;
        }
        process.send("exit");
        reported += i64::try_from(process.lines.by_ref().filter(|line| line == "row").count()).unwrap();
        process.wait();
        let connection = support::open(&path);
        let found = count(&connection);
        assert!((reported..=reported + 4).contains(&found), "{reported} rows were reported, {found} are there");
        support::assert_integrity(&connection);
        support::close(connection);
        support::assert_plain(&path);
    }
}

#[test]
fn stock_is_kept_out_until_the_first_has_closed() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock beside a process");
    let mut holder = play("hold", &path);
    holder.expect("open");
    let connection = support::open_stock(&path);
    connection.busy_timeout(Duration::from_millis(20)).unwrap();
    for sql in ["SELECT * FROM t", "INSERT INTO t VALUES(1)", "PRAGMA journal_mode=DELETE"] {
        assert_eq!(support::code_of(&connection, sql), ffi::SQLITE_BUSY, "{sql}");
    }
    support::close(connection);
    let waiter = {
        let path = path.clone();
        std::thread::spawn(move || {
            let connection = support::open_stock(&path);
            connection.busy_timeout(Duration::from_secs(60)).unwrap();
            support::run(&connection, "INSERT INTO t VALUES('waited')");
            support::close(connection);
        })
    };
    holder.send("close");
    holder.expect("closed");
    waiter.join().unwrap();
    support::assert_plain(&path);
    assert_eq!(count(&support::open_stock(&path)), 2);
}

#[test]
fn a_process_that_was_killed_keeps_nobody_out() {
    let (_scene, path) = scene("a killed process");
    for round in 1..=3 {
        let mut holder = play("hold", &path);
        holder.expect("open");
        holder.kill();
        let connection = support::open(&path);
        connection.busy_timeout(Duration::ZERO).unwrap();
        assert_eq!(count(&connection), round);
    }
}

#[test]
fn a_stock_connection_of_the_same_process_is_shared_with_and_kept_out_of_pwal() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock first");
    let stock = support::open_stock(&path);
    assert_eq!(count(&stock), 0);
    let own = support::open(&path);
    for connection in [&stock, &own] {
        connection.busy_timeout(Duration::ZERO).unwrap();
    }
    assert_eq!(count(&own), 0);
    let status = |connection: &Connection| -> String {
        connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap()
    };
    assert!(status(&own).contains("\"beside_stock\":true"));
    support::run(&stock, "INSERT INTO t VALUES('stock')");
    assert_eq!(count(&own), 1);
    support::close(stock);
    support::close(own);
    let own = support::open(&path);
    support::run(&own, "INSERT INTO t VALUES('own')");
    assert!(status(&own).contains("\"active\":true"));
    let stock = support::open_stock(&path);
    stock.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(support::code_of(&stock, "SELECT * FROM t"), ffi::SQLITE_BUSY);
    support::close(stock);
    support::run(&own, "INSERT INTO t VALUES('own')");
    support::close(own);
    support::assert_plain(&path);
    assert_eq!(count(&support::open_stock(&path)), 3);
}

#[test]
fn a_forked_child_touches_nothing_of_its_parents() {
    let (_scene, path) = scene("a fork");
    let mut process = play("fork", &path);
    let rows = process.lines.next().expect("a number");
    if support::on_pwal() {
        assert_eq!(rows, "7");
        let stock = support::open_stock(&path);
        stock.busy_timeout(Duration::ZERO).unwrap();
        assert_eq!(support::code_of(&stock, "SELECT * FROM t"), ffi::SQLITE_BUSY, "the parent's lock is still there");
    }
    process.send("close");
    process.expect("closed");
    process.wait();
    support::assert_plain(&path);
}

#[test]
fn a_forked_child_does_not_hold_its_dead_parents_lock() {
    let (_scene, path) = scene("a fork");
    let mut process = play("fork and be killed", &path);
    let mut said = [process.lines.next().unwrap(), process.lines.next().unwrap()];
    said.sort();
    assert_eq!(said, ["forked", "written"]);
    // The forked child lives on: it waits for the end of its input, which is ours to close.
    process.kill();
    let connection = support::open(&path);
    connection.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(count(&connection), 2);
    support::close(connection);
    support::assert_plain(&path);
}

#[test]
fn symlinks_relative_and_uri_paths_meet_in_one() {
    let (scene, path) = scene("several names");
    let mut process = play("names", &path);
    process.expect("closed");
    assert!(process.wait().success());
    support::assert_plain(&path);
    assert_eq!(count(&support::open_stock(&path)), 21);
    assert_eq!(support::beside(&scene.scratch.file("link.db")), Vec::<String>::new());
}
