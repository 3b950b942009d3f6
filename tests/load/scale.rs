//! Sizes at which something could break: a log of more files than descriptors, of many gigabytes; rings that lap; as many processes and
//! connections as there are places; a transaction of many gigabytes. Each prints what it measured.
//!
//! `PWAL_TEST_SCALE` (default 1) multiplies the sizes; the figures of docs/measurements.md are of `PWAL_TEST_SCALE=1024` (10 GiB, on a
//! disk with 40 GiB free).

use rusqlite::Connection;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::child::{self, Role};
use support::scene::COUNT;
use support::{Scratch, Watchdog, env_number, number, run};

/// Bytes of a log, or of a transaction, at scale 1.
const BYTES: u64 = 10 << 20;
const MIB: u64 = 1 << 20;

fn scale() -> u64 {
    env_number("PWAL_TEST_SCALE", 1)
}

fn watchdog(what: &str) -> Watchdog {
    Watchdog::new(what, Duration::from_secs(100 + 4 * scale()))
}

fn database() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    support::scene::create(&path);
    (scratch, path)
}

/// So many bytes in seconds, for people.
fn rate(bytes: u64, since: Instant) -> String {
    let seconds = since.elapsed().as_secs_f64();
    format!("{} MiB in {seconds:.1} s ({:.0} MiB/s)", bytes / MIB, bytes as f64 / MIB as f64 / seconds)
}

fn seconds(since: Instant) -> String {
    format!("{:.2} s", since.elapsed().as_secs_f64())
}

/// The most memory that this process ever had resident, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}

fn descriptors(count: u64) {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), ..before }).expect("a limit of descriptors");
}

fn segments(path: &Path) -> usize {
    let log = PathBuf::from(format!("{}-pwal", path.display()));
    let names = std::fs::read_dir(log).expect("the log").map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".seg")).count()
}

fn start(role: &str, path: &Path) -> Role {
    child::start(role, &[("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned())])
}

fn connect() -> Connection {
    support::open(Path::new(&child::setting("PWAL_TEST_DATABASE")))
}

/// Answers each statement with its number, and how long it took.
fn obey(connection: &Connection) {
    while let Some(sql) = child::command() {
        let since = Instant::now();
        let answer = number(connection, &sql);
        child::report(&format!("{answer} in {}, {} MiB resident at most", seconds(since), peak_mib()));
    }
}

const READER: &str = "scale::child_reads";

/// Opens the database with 64 descriptors.
#[test]
fn child_reads() {
    if child::role(READER) {
        descriptors(64);
        obey(&connect());
    }
}

fn ask(role: &mut Role, sql: &str, expected: i64) -> String {
    role.send(sql);
    let answer = role.lines.next().unwrap_or_else(|| panic!("{sql}: the process has ended"));
    let rest =
        answer.strip_prefix(&format!("{expected} in ")).unwrap_or_else(|| panic!("{sql}: {answer}, not {expected}"));
    rest.to_owned()
}

/// A log that no checkpoint shortens: `row` bytes in each commit, segments of at most `segment` bytes.
fn long_log(row: u64, segment: u64, bytes: u64) -> (Scratch, PathBuf, Role, String) {
    let (scratch, path) = database();
    let settings = format!(
        "PRAGMA parallel_wal_segment_bytes={segment}; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL; \
         PRAGMA cache_size=-2000"
    );
    let mut writer = child::start(
        WRITER,
        &[
            ("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned()),
            ("PWAL_TEST_SETTING", settings),
            ("PWAL_TEST_KIND", format!("INSERT INTO t VALUES(randomblob({row}))")),
            ("PWAL_TEST_LIMIT", (bytes / row).to_string()),
        ],
    );
    let wrote = writer.lines.next().expect("the log is written");
    (scratch, path, writer, wrote)
}

/// Not only the length, which stands in the first page of a row.
const READ_ALL: &str = "SELECT sum(1 + length(substr(x, 2))) FROM t";
const WRITER: &str = "scale::child_writes_a_long_log";

#[test]
fn child_writes_a_long_log() {
    if !child::role(WRITER) {
        return;
    }
    descriptors(64);
    let connection = connect();
    run(&connection, &child::setting("PWAL_TEST_SETTING"));
    let sql = child::setting("PWAL_TEST_KIND");
    let rows: u64 = child::setting("PWAL_TEST_LIMIT").parse().expect("a number");
    let since = Instant::now();
    let mut statement = connection.prepare(&sql).expect("a statement");
    (0..rows).for_each(|_| assert_eq!(statement.execute([]).expect("a row"), 1));
    drop(statement);
    child::report(&format!("{rows} commits in {}, {} MiB resident at most", seconds(since), peak_mib()));
    obey(&connection);
}

/// Writes, attaches, kills all, recovers.
fn play_long_log(what: &str, row: u64, segment: u64, bytes: u64) {
    let _one = super::one_at_a_time();
    let _watchdog = watchdog(what);
    let (scratch, path, mut writer, wrote) = long_log(row, segment, bytes);
    let rows = (bytes / row) as i64;
    println!("{what}: {} segments, 64 descriptors: {wrote}", segments(&path));
    let mut second = start(READER, &path);
    println!("{what}: another process attaches: {}", ask(&mut second, COUNT, rows));
    println!("{what}: reads all: {}", ask(&mut second, READ_ALL, rows * row as i64));
    println!("{what}: the writer reads all: {}", ask(&mut writer, READ_ALL, rows * row as i64));
    writer.kill();
    second.kill();
    let mut next = start(READER, &path);
    println!("{what}: recovery after a kill: {}", ask(&mut next, COUNT, rows));
    println!(
        "{what}: integrity: {}",
        ask(&mut next, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check='ok'", 1)
    );
    next.end_input();
    assert!(next.wait().success());
    support::assert_plain(&path);
    drop(scratch);
}

#[test]
fn a_log_of_more_segments_than_descriptors() {
    play_long_log("many segments", 200_000, 262_144, 200_000 * (100 + 2 * scale()));
}

#[test]
fn a_long_log() {
    play_long_log("a long log", MIB, 256 * MIB, BYTES * scale());
}

const IDLE: &str = "scale::child_is_idle";

#[test]
fn child_is_idle() {
    if child::role(IDLE) {
        obey(&connect());
    }
}

/// A process that does nothing while the rings of the control block lap many times.
#[test]
fn rings_lap_beside_an_idle_process() {
    let _one = super::one_at_a_time();
    let _watchdog = watchdog("rings that lap");
    for synchronous in ["NORMAL", "FULL"] {
        let (_scratch, path) = database();
        let mut idle = start(IDLE, &path);
        ask(&mut idle, COUNT, 0);
        let connection = support::open(&path);
        run(&connection, &format!("PRAGMA synchronous={synchronous}"));
        let rows = if synchronous == "FULL" { 1_200 } else { 20_000 } * scale().min(100);
        let since = Instant::now();
        let mut statement = connection.prepare("INSERT INTO t VALUES(1)").expect("a statement");
        (0..rows).for_each(|_| assert_eq!(statement.execute([]).expect("a row"), 1));
        drop(statement);
        println!("rings, {synchronous}: {rows} commits in {}", seconds(since));
        let visible = if synchronous == "FULL" { rows as i64 } else { number(&connection, COUNT) };
        println!("rings, {synchronous}: the idle process reads: {}", ask(&mut idle, COUNT, visible));
        assert_eq!(visible, rows as i64);
        support::close(connection);
        idle.end_input();
        assert!(idle.wait().success());
        support::assert_plain(&path);
    }
}

const ONE_OF_MANY: &str = "scale::child_is_one_of_many";

/// Commits on command, one row after another, then closes.
#[test]
fn child_is_one_of_many() {
    if !child::role(ONE_OF_MANY) {
        return;
    }
    let connection = connect();
    connection.busy_timeout(Duration::from_secs(100)).expect("a busy timeout");
    assert!(number(&connection, COUNT) >= 0);
    child::report("open");
    let rows: u64 = child::command().expect("how many rows").parse().expect("a number");
    let mut longest = Duration::ZERO;
    for _ in 0..rows {
        let since = Instant::now();
        run(&connection, "INSERT INTO t VALUES(1)");
        longest = longest.max(since.elapsed());
    }
    child::report(&longest.as_micros().to_string());
    child::command();
    support::close(connection);
}

/// Every place for a process is taken. One more is refused with a name for it.
#[test]
fn as_many_processes_as_there_are_places() {
    if !support::on_pwal() {
        return;
    }
    let _one = super::one_at_a_time();
    let _watchdog = watchdog("many processes");
    let (_scratch, path) = database();
    let processes = pwal::internal::shared::PROCESS_SLOTS;
    let rows = 4 * scale().min(25);
    let since = Instant::now();
    let mut all: Vec<Role> = (0..processes).map(|_| start(ONE_OF_MANY, &path)).collect();
    all.iter_mut().for_each(|one| one.expect("open"));
    println!("{processes} processes are open after {}", seconds(since));
    let one_more = support::open(&path);
    let refused = support::code_of(&one_more, "SELECT * FROM t") & 0xff;
    assert_eq!(refused, rusqlite::ffi::SQLITE_BUSY);
    drop(one_more);
    let since = Instant::now();
    all.iter_mut().for_each(|one| one.send(&rows.to_string()));
    let longest =
        all.iter_mut().map(|one| one.lines.next().expect("its longest").parse::<u64>().expect("a number")).max();
    let commits = rows * processes as u64;
    println!(
        "{processes} processes: {commits} commits in {}, the longest {:.1} ms",
        seconds(since),
        longest.expect("a process") as f64 / 1e3
    );
    let since = Instant::now();
    all.iter_mut().for_each(Role::end_input);
    all.iter_mut().for_each(|one| assert!(one.wait().success()));
    println!("{processes} processes have closed after {}", seconds(since));
    support::assert_plain(&path);
    assert_eq!(number(&support::open_stock(&path), COUNT), commits as i64);
}

/// Every place for a connection is taken, in one process.
#[test]
fn as_many_connections_as_there_are_places() {
    if !support::on_pwal() {
        return;
    }
    child::alone("scale::as_many_connections_as_there_are_places", || {
        let _watchdog = watchdog("many connections");
        let (_scratch, path) = database();
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        // Where the machine does not allow a descriptor for each connection, as many as it does.
        let places = pwal::internal::shared::SNAPSHOT_SLOTS.min(usize::try_from(most - 100).unwrap_or(usize::MAX));
        descriptors(places as u64 + 100);
        let since = Instant::now();
        let before = peak_mib();
        let all: Vec<Connection> = (0..places).map(|_| support::open(&path)).collect();
        // Each has a snapshot of its own.
        all.iter().for_each(|one| {
            run(one, "BEGIN");
            assert_eq!(number(one, COUNT), 0);
        });
        eprintln!("{places} connections read after {}, {} MiB resident", seconds(since), peak_mib() - before);
        if places == pwal::internal::shared::SNAPSHOT_SLOTS {
            let one_more = support::open(&path);
            assert_eq!(support::code_of(&one_more, "SELECT * FROM t") & 0xff, rusqlite::ffi::SQLITE_BUSY);
        }
        all.iter().for_each(|one| run(one, "COMMIT; PRAGMA synchronous=NORMAL"));
        let since = Instant::now();
        all.iter().for_each(|one| run(one, "INSERT INTO t VALUES(1)"));
        eprintln!("{places} connections: a commit of each in {}, {} MiB resident", seconds(since), peak_mib() - before);
        all.iter().for_each(|one| assert_eq!(number(one, COUNT), places as i64));
        let since = Instant::now();
        all.into_iter().for_each(support::close);
        eprintln!("{places} connections have closed after {}", seconds(since));
        support::assert_plain(&path);
    });
}

const LARGE: &str = "scale::child_commits_much_at_once";

#[test]
fn child_commits_much_at_once() {
    if !child::role(LARGE) {
        return;
    }
    let connection = connect();
    let rows: u64 = child::setting("PWAL_TEST_LIMIT").parse().expect("a number");
    run(&connection, "PRAGMA cache_size=-4000; BEGIN");
    let since = Instant::now();
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO t SELECT randomblob({MIB}) FROM n"
    );
    run(&connection, &sql);
    child::report(&format!("{}, {} MiB resident at most", rate(rows * MIB, since), peak_mib()));
    let since = Instant::now();
    run(&connection, "COMMIT");
    child::report(&format!("{}, {} MiB resident at most", seconds(since), peak_mib()));
    obey(&connection);
}

#[test]
fn a_transaction_of_many_gigabytes() {
    let _one = super::one_at_a_time();
    let _watchdog = watchdog("a large transaction");
    let (_scratch, path) = database();
    let rows = BYTES * scale() / MIB;
    let settings =
        [("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned()), ("PWAL_TEST_LIMIT", rows.to_string())];
    let mut writer = child::start(LARGE, &settings);
    println!("a large transaction is staged: {}", writer.lines.next().expect("staged"));
    println!("a large transaction commits: {}", writer.lines.next().expect("committed"));
    println!("a large transaction, read: {}", ask(&mut writer, READ_ALL, (rows * MIB) as i64));
    writer.kill();
    let mut next = start(READER, &path);
    println!("a large transaction, recovered: {}", ask(&mut next, COUNT, rows as i64));
    next.end_input();
    assert!(next.wait().success());
    support::assert_plain(&path);
}
