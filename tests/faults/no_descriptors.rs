//! A process that has no descriptor left goes on with the databases that it has open, as on stock SQLite; and a log of more
//! files than the process may have descriptors is read, written, checkpointed and recovered.

use rusqlite::Connection;
use std::fs::File;
use std::path::{Path, PathBuf};
use support::scene::watchdog;
use support::{Scratch, child, number, run};

fn limit(descriptors: u64) {
    let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
    // SAFETY: a limit of this process.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// One that can be raised again.
fn soft_limit(descriptors: u64) {
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = rustix::process::Rlimit { current: Some(descriptors), ..before };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a limit");
}

/// Takes every descriptor that is left.
fn take_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn start(role: &str, path: &Path) -> child::Role {
    child::start(role, &[("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned())])
}

fn path_of_parent() -> PathBuf {
    PathBuf::from(child::setting("PWAL_TEST_DATABASE"))
}

/// Files of the log that this process has open.
fn open_segments() -> usize {
    let links = (0..1024).filter_map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    links.filter(|link| link.to_string_lossy().contains(".seg")).count()
}

#[test]
fn child_commits_without_descriptors() {
    if !child::role("no_descriptors::child_commits_without_descriptors") {
        return;
    }
    limit(64);
    let path = path_of_parent();
    let connection = support::open(&path);
    run(&connection, "PRAGMA wal_autocheckpoint=100");
    for synchronous in ["FULL", "NORMAL"] {
        run(&connection, &format!("PRAGMA synchronous={synchronous}"));
        for _ in 0..20 {
            run(&connection, "INSERT INTO t(x) VALUES(randomblob(3000))");
        }
        let hogs = take_all();
        assert!(hogs.len() > 8);
        assert!(File::open("/dev/null").is_err());
        for n in 0..400 {
            let code = support::code_of(&connection, "INSERT INTO t(x) VALUES(randomblob(3000))");
            assert_eq!(
                code,
                0,
                "{synchronous}: insert {n}: {}",
                support::text(&connection, "PRAGMA parallel_wal_status")
            );
        }
        assert_eq!(number(&connection, "SELECT count(*) FROM t WHERE length(x) = 3000") % 420, 0);
        assert_eq!(support::code_of(&connection, "PRAGMA wal_checkpoint(PASSIVE)"), 0);
        drop(hogs);
    }
    child::report(&number(&connection, "SELECT count(*) FROM t").to_string());
    // Also the close.
    let hogs = take_all();
    drop(connection);
    drop(hogs);
    child::report("closed");
}

#[test]
fn who_has_no_descriptor_left_goes_on_committing() {
    let _watchdog = watchdog("commits without descriptors");
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let setup = support::open_wal(&path);
    run(&setup, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    support::close(setup);
    let mut process = start("no_descriptors::child_commits_without_descriptors", &path);
    process.expect("840");
    process.expect("closed");
    assert!(process.wait().success());
    let connection = support::open(&path);
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 840);
    support::assert_integrity(&connection);
}

const SMALL_ROW: &str = "INSERT INTO t(x) VALUES(zeroblob(3000))";
const SMALL_ROWS: &str = "SELECT count(*) FROM t WHERE length(x) = 3000";

#[test]
fn child_has_no_descriptor_beside_another_process() {
    if !child::role("no_descriptors::child_has_no_descriptor_beside_another_process") {
        return;
    }
    soft_limit(64);
    let connection = small_segments(&path_of_parent());
    run(&connection, "PRAGMA synchronous=FULL");
    run(&connection, SMALL_ROW);
    let mut hogs = Vec::new();
    child::report("opened");
    while let Some(command) = child::command() {
        match command.as_str() {
            "take all" => hogs = take_all(),
            // Also what is closed cannot be opened again.
            "none at all" => soft_limit(3),
            "have all" => {
                soft_limit(64);
                hogs.clear();
            }
            sql if sql.starts_with("SELECT") => {
                child::report(&number(&connection, sql).to_string());
                continue;
            }
            sql => {
                child::report(&support::code_of(&connection, sql).to_string());
                continue;
            }
        }
        child::report("done");
    }
}

/// All that the process needs of the segments that the other one begins and deletes meanwhile it opens with what it can close, or
/// with the descriptor in reserve.
#[test]
fn who_has_no_descriptor_left_goes_on_beside_a_process_that_rotates() {
    let _watchdog = watchdog("commits beside a process without descriptors");
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let setup = support::open_wal(&path);
    run(&setup, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    support::close(setup);
    let other = small_segments(&path);
    let mut process = start("no_descriptors::child_has_no_descriptor_beside_another_process", &path);
    process.expect("opened");
    process.send("take all");
    process.expect("done");
    for round in 1..=10 {
        run(&other, &format!("PRAGMA synchronous={}", if round % 2 == 0 { "FULL" } else { "NORMAL" }));
        for _ in 0..20 {
            run(&other, ROW);
        }
        process.send(SMALL_ROW);
        process.expect("0");
        run(&other, ROW);
        assert_eq!(support::code_of(&other, "PRAGMA wal_checkpoint(TRUNCATE)"), 0);
        process.send(SMALL_ROW);
        process.expect("0");
        process.send("PRAGMA wal_checkpoint(PASSIVE)");
        process.expect("0");
        process.send(SMALL_ROWS);
        process.expect(&(1 + 2 * round).to_string());
        process.send(COUNT);
        process.expect(&(21 * round).to_string());
        assert_eq!(number(&other, SMALL_ROWS), 1 + 2 * round);
    }
    process.end_input();
    assert!(process.wait().success());
    support::assert_integrity(&other);
}

/// The limit is below what is open: nothing that is closed makes room. The process cannot write to segments that the other one has
/// begun since; that one goes on, and so does this one when it may open files again.
#[test]
fn who_can_open_nothing_ends_nothing_for_others() {
    let _watchdog = watchdog("commits beside a process that can open nothing");
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let setup = support::open_wal(&path);
    run(&setup, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    support::close(setup);
    let other = small_segments(&path);
    let mut process = start("no_descriptors::child_has_no_descriptor_beside_another_process", &path);
    process.expect("opened");
    let mut small = 1;
    for round in 1..=2 {
        process.send("none at all");
        process.expect("done");
        // Where nobody has rotated all goes on.
        process.send(SMALL_ROW);
        process.expect("0");
        small += 1;
        for _ in 0..20 {
            run(&other, ROW);
        }
        for sql in [SMALL_ROW, "PRAGMA wal_checkpoint(PASSIVE)"] {
            process.send(sql);
            let code: i32 = process.lines.next().expect("an answer").parse().expect("a code");
            small += i64::from(code == 0 && sql == SMALL_ROW);
            run(&other, ROW);
            assert_eq!(support::code_of(&other, "PRAGMA wal_checkpoint(PASSIVE)"), 0);
        }
        process.send("have all");
        process.expect("done");
        process.send(SMALL_ROW);
        process.expect("0");
        small += 1;
        assert_eq!(number(&other, SMALL_ROWS), small);
        process.send(COUNT);
        process.expect(&(22 * round).to_string());
    }
    process.end_input();
    assert!(process.wait().success());
    support::assert_integrity(&other);
}

/// The marker of a log that is retired takes a descriptor while a segment of it is open: the one in reserve.
#[test]
fn a_process_without_descriptors_retires_its_log() {
    child::alone("no_descriptors::a_process_without_descriptors_retires_its_log", || {
        soft_limit(64);
        for sql in ["SELECT pwal_retire()", "PRAGMA journal_mode=DELETE", "SELECT count(*) FROM t"] {
            let scratch = Scratch::new();
            let path = scratch.file("a.db");
            let connection = support::open_wal(&path);
            run(&connection, "CREATE TABLE t(x)");
            let hogs = take_all();
            assert_eq!(support::code_of(&connection, sql), 0, "{sql}");
            support::close(connection);
            drop(hogs);
            assert_eq!(support::beside(&path), Vec::<String>::new(), "{sql}");
            support::assert_integrity(&support::open_stock(&path));
        }
    });
}

#[test]
fn child_commits_to_many_databases() {
    if !child::role("no_descriptors::child_commits_to_many_databases") {
        return;
    }
    limit(100);
    let path = path_of_parent();
    let databases: Vec<Connection> = (0..6).map(|n| small_segments(&path.with_extension(n.to_string()))).collect();
    let failed_everywhere = |sql: &str| -> Vec<i32> {
        databases.iter().map(|database| support::code_of(database, sql)).filter(|code| *code != 0).collect()
    };
    for synchronous in ["FULL", "NORMAL"] {
        let settings = format!("PRAGMA synchronous={synchronous}");
        assert_eq!(failed_everywhere(&settings), Vec::<i32>::new());
        assert_eq!(failed_everywhere(SMALL_ROW), Vec::<i32>::new());
        let hogs = take_all();
        for n in 0..20 {
            assert_eq!(failed_everywhere(ROW), Vec::<i32>::new(), "{synchronous}: row {n}");
        }
        assert_eq!(failed_everywhere("PRAGMA wal_checkpoint(PASSIVE)"), Vec::<i32>::new(), "{synchronous}");
        drop(hogs);
    }
    for database in databases {
        assert_eq!((number(&database, COUNT), number(&database, SMALL_ROWS)), (40, 2));
        support::assert_integrity(&database);
        support::close(database);
    }
    child::report("done");
}

/// There is one descriptor in reserve for all of them. Each makes do with what it has open.
#[test]
fn many_databases_go_on_committing_without_descriptors() {
    let _watchdog = watchdog("commits to many databases without descriptors");
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    for n in 0..6 {
        let setup = support::open_wal(&path.with_extension(n.to_string()));
        run(&setup, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
        support::close(setup);
    }
    let mut process = start("no_descriptors::child_commits_to_many_databases", &path);
    process.expect("done");
    assert!(process.wait().success());
}

/// Rows of 200 kB, one in each segment.
const ROWS: i64 = 300;
const ROW: &str = "INSERT INTO t(x) VALUES(zeroblob(200000))";
const COUNT: &str = "SELECT count(*) FROM t WHERE length(x) = 200000";

fn small_segments(path: &Path) -> Connection {
    let connection = support::open(path);
    run(
        &connection,
        "PRAGMA parallel_wal_segment_bytes=262144; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL",
    );
    connection
}

#[test]
fn child_writes_a_log_of_many_files() {
    if !child::role("no_descriptors::child_writes_a_log_of_many_files") {
        return;
    }
    limit(64);
    let path = path_of_parent();
    let writer = small_segments(&path);
    let reader = support::open(&path);
    run(&reader, "BEGIN");
    assert_eq!(number(&reader, COUNT), 0);
    for _ in 0..ROWS {
        run(&writer, ROW);
    }
    assert!(open_segments() < 50, "{}", open_segments());
    // From any of the files, old and new.
    assert_eq!(number(&writer, COUNT), ROWS);
    assert_eq!(number(&support::open(&path), COUNT), ROWS);
    assert_eq!(number(&reader, COUNT), 0);
    child::report("written");
    // Another process reads and writes.
    assert_eq!(child::command().as_deref(), Some("go on"));
    assert_eq!(number(&writer, COUNT), ROWS + 1);
    run(&writer, ROW);
    child::report("once more");
    assert_eq!(child::command().as_deref(), Some("checkpoint"));
    run(&reader, "COMMIT");
    assert_eq!(support::code_of(&writer, "PRAGMA wal_checkpoint(PASSIVE)"), 0);
    assert_eq!(number(&reader, COUNT), ROWS + 2);
    child::report("checkpointed");
    child::command();
}

#[test]
fn child_opens_a_log_of_many_files() {
    if !child::role("no_descriptors::child_opens_a_log_of_many_files") {
        return;
    }
    limit(64);
    let connection = small_segments(&path_of_parent());
    child::report(&number(&connection, COUNT).to_string());
    run(&connection, ROW);
    child::report(&number(&connection, COUNT).to_string());
    support::assert_integrity(&connection);
}

#[test]
fn a_log_of_more_files_than_descriptors_works() {
    let _watchdog = watchdog("a log of many files");
    for recovers in [false, true] {
        let scratch = Scratch::new();
        let path = scratch.file("a.db");
        let setup = support::open_wal(&path);
        run(&setup, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
        support::close(setup);
        let mut writer = start("no_descriptors::child_writes_a_log_of_many_files", &path);
        writer.expect("written");
        if support::on_pwal() {
            let files = std::fs::read_dir(scratch.file("a.db-pwal")).expect("the log").count();
            assert!(files as i64 > ROWS, "{files}");
        }
        let mut other = start("no_descriptors::child_opens_a_log_of_many_files", &path);
        other.expect(&ROWS.to_string());
        other.expect(&(ROWS + 1).to_string());
        assert!(other.wait().success());
        writer.send("go on");
        writer.expect("once more");
        if recovers {
            writer.kill();
        } else {
            writer.send("checkpoint");
            writer.expect("checkpointed");
            writer.end_input();
            assert!(writer.wait().success());
        }
        let mut last = start("no_descriptors::child_opens_a_log_of_many_files", &path);
        last.expect(&(ROWS + 2).to_string());
        last.expect(&(ROWS + 3).to_string());
        assert!(last.wait().success());
    }
}

#[test]
fn child_has_closed_its_standard_streams() {
    if !child::role("no_descriptors::child_has_closed_its_standard_streams") {
        return;
    }
    let path = path_of_parent();
    let told = path.with_extension("told");
    let connection = small_segments(&path);
    run(&connection, "PRAGMA synchronous=FULL; PRAGMA cache_size=1; PRAGMA parallel_wal_max_batch_bytes=65536");
    run(&connection, "INSERT INTO t(x) VALUES(1)");
    let mut said = Vec::new();
    let mut look = |when: &str| {
        for fd in 0..3 {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
            let link = link.map_or_else(|_| String::from("closed"), |link| link.display().to_string());
            said.push(format!("{when}: {fd} {link}"));
        }
        // As a message of the program, or of the C library.
        for fd in 1..3 {
            // SAFETY: a write from live memory, to whatever has that number.
            unsafe { libc::write(fd, c"a message that nobody reads".as_ptr().cast(), 27) };
        }
    };
    // SAFETY: nothing here prints any more.
    (0..3).for_each(|fd| unsafe {
        libc::close(fd);
    });
    look("behind the open");
    // SQLite opens no file here, which would keep the numbers from pwal's (`robust_open`).
    for _ in 0..6 {
        run(&connection, ROW);
    }
    look("behind a rotation");
    run(&connection, "BEGIN");
    for _ in 0..6 {
        run(&connection, ROW);
    }
    look("in a transaction that spilled");
    run(&connection, "COMMIT; PRAGMA wal_checkpoint(TRUNCATE)");
    look("behind a checkpoint");
    let second = support::open(&path);
    run(&second, "SELECT * FROM t");
    look("behind a second open");
    drop((connection, second));
    look("behind the close");
    let again = support::open(&path);
    run(&again, ROW);
    look("behind an open");
    std::mem::forget(again);
    std::fs::write(told, said.join("\n")).expect("tell");
    // SAFETY: ends the process as a kill does.
    unsafe { libc::_exit(0) };
}

#[test]
fn no_file_gets_the_number_of_a_standard_stream() {
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let setup = support::open_wal(&path);
    run(&setup, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    support::close(setup);
    let mut process = start("no_descriptors::child_has_closed_its_standard_streams", &path);
    process.wait();
    let told = std::fs::read_to_string(path.with_extension("told")).expect("what the child saw");
    for line in told.lines() {
        assert!(line.ends_with("closed") || line.ends_with("/dev/null"), "{told}");
    }
    // A file of the log would have had it.
    assert!(told.contains("behind the open: 0 closed") && told.contains("behind a rotation: 0 /dev/null"), "{told}");
    let connection = support::open(&path);
    assert_eq!(number(&connection, COUNT), 13);
    support::assert_integrity(&connection);
}

/// Every place in the library that opens something goes through one door, but for what is read and closed at once.
#[test]
fn nothing_is_opened_past_the_one_door() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let words = [
        "File::open",
        "File::create",
        "File::options",
        "OpenOptions",
        "fs::open",
        "openat(",
        "libc::open",
        "memfd",
        "eventfd",
        "pidfd",
        "fs::write",
        "read_dir(",
        "Dir::read_from",
        "fcntl_dupfd",
        "libc::dup",
        "socket(",
        "pipe(",
    ];
    let allowed = ["disk/descriptor.rs", "disk/directory.rs"];
    let mut found = Vec::new();
    let mut left = vec![source.clone()];
    while let Some(place) = left.pop() {
        if place.is_dir() {
            left.extend(std::fs::read_dir(&place).expect("the source").map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let name = place.strip_prefix(&source).expect("in it").display().to_string();
        // The tool's descriptors live for a moment, in a process that prints before and behind.
        if allowed.contains(&name.as_str()) || name.starts_with("bin/") || name.contains("test") {
            continue;
        }
        let text = std::fs::read_to_string(&place).expect("text");
        let code = text.split("#[cfg(test)]\nmod tests").next().expect("a part");
        // What is in /proc is read and closed at once, and cannot be written to.
        let is_code = |line: &str| !line.trim_start().starts_with("//") && !line.contains("(\"/proc/");
        for (number, line) in code.lines().enumerate().filter(|(_, line)| is_code(line)) {
            // Not in the middle of a longer name.
            let begins = |(at, _): (usize, &str)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if words.iter().any(|word| line.match_indices(word).any(begins)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
