//! What the killed process does, and how to see from the rows that nothing of it is missing.
//!
//! Each thread numbers its commits. A commit is 1 row in `whole` and as many rows in `part` as that one
//! says: half a transaction shows. Beside it pages churn in `churn`.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::child;

const THREADS: i64 = 4;

pub struct Workload<'a> {
    pub path: &'a Path,
    pub mode: &'a str,
    pub synchronous: &'a str,
    pub kind: Kind,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Threads that keep their connections.
    Stays,
    /// One thread that opens for each transaction, so that the log comes and goes with it.
    ComesAndGoes,
    /// As the first, each transaction over two databases.
    ProcessInfo,
}

/// The last commit of each thread that was reported.
#[derive(Default)]
pub struct Reported(BTreeMap<i64, i64>);

pub fn create(path: &Path) {
    for path in [path, &second(path)] {
        create_one(path);
    }
}

/// The database that is attached where there are two.
pub fn second(path: &Path) -> PathBuf {
    path.with_extension("two")
}

fn create_one(path: &Path) {
    let connection = support::open_wal(path);
    support::run(
        &connection,
        "CREATE TABLE whole(thread INTEGER, n INTEGER, parts INTEGER, PRIMARY KEY(thread, n)) WITHOUT ROWID;
         CREATE TABLE part(thread INTEGER, n INTEGER, i INTEGER, body BLOB);
         CREATE INDEX parts ON part(thread, n);
         CREATE TABLE churn(id INTEGER PRIMARY KEY, body BLOB)",
    );
    support::close(connection);
}

/// Leaves a small database for the next kill, with pages to recycle.
pub fn clear(connection: &Connection) {
    support::run(connection, "DELETE FROM whole; DELETE FROM part; DELETE FROM churn WHERE id%3");
}

impl Workload<'_> {
    pub fn start(&self) -> child::Role {
        child::start(
            "crashes::child_writes",
            &[
                ("PWAL_TEST_DATABASE", self.path.to_str().expect("a name in UTF-8").to_owned()),
                ("PWAL_TEST_MODE", self.mode.to_owned()),
                ("PWAL_TEST_SYNCHRONOUS", self.synchronous.to_owned()),
                ("PWAL_TEST_KIND", format!("{:?}", self.kind)),
                ("PWAL_TEST_SEED", self.seed.to_string()),
            ],
        )
    }
}

/// The child's part: writes until it is killed.
pub fn run() {
    let seed: u64 = child::setting("PWAL_TEST_SEED").parse().expect("a seed");
    let kinds = [Kind::Stays, Kind::ComesAndGoes, Kind::ProcessInfo];
    let kind = child::setting("PWAL_TEST_KIND");
    let kind = kinds.into_iter().find(|known| format!("{known:?}") == kind).expect("a kind");
    let threads = if kind == Kind::ComesAndGoes { 1 } else { THREADS };
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let rng = StdRng::seed_from_u64(seed * 16 + u64::try_from(thread).expect("positive"));
            scope.spawn(move || write(thread, kind, rng));
        }
    });
}

fn open(thread: i64, kind: Kind) -> Connection {
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let connection = support::open(&path);
    let (mode, synchronous) = (child::setting("PWAL_TEST_MODE"), child::setting("PWAL_TEST_SYNCHRONOUS"));
    if kind == Kind::ProcessInfo {
        support::run(&connection, &format!("ATTACH '{}' AS two", second(&path).display()));
    }
    // Small segments, small lanes and early checkpoints: rotation, recycling, spilling and backfill are in every
    // run. Stock ignores the control block it does not know.
    support::run(
        &connection,
        &format!(
            "PRAGMA parallel_wal_mode={mode}; PRAGMA parallel_wal_segment_bytes=1048576;
             PRAGMA parallel_wal_max_batch_bytes=65536; PRAGMA synchronous={synchronous};
             PRAGMA wal_autocheckpoint={}; PRAGMA cache_size={}",
            if thread == 0 { 30 } else { 200 },
            if thread == 1 { 5 } else { 500 }
        ),
    );
    connection
}

fn write(thread: i64, kind: Kind, mut rng: StdRng) {
    let mut connection = open(thread, kind);
    let mut n = 0;
    loop {
        let committed = transaction(&connection, thread, n + 1, kind == Kind::ProcessInfo, &mut rng);
        match committed {
            Ok(true) => {
                n += 1;
                child::report(&format!("{thread} {n}"));
            }
            Ok(false) => {}
            Err(error) => {
                let code = support::code(&error) & 0xff;
                assert_eq!(code, rusqlite::ffi::SQLITE_BUSY, "thread {thread}: {error:?}");
                if !connection.is_autocommit() {
                    support::run(&connection, "ROLLBACK");
                }
            }
        }
        if thread == 0 && rng.random_bool(0.05) {
            let kind = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][rng.random_range(0..4)];
            support::text(&connection, &format!("PRAGMA wal_checkpoint({kind})"));
        }
        if kind == Kind::ComesAndGoes {
            support::close(connection);
            connection = open(thread, kind);
        }
    }
}

/// One transaction; `false` if it was rolled back on purpose.
fn transaction(connection: &Connection, thread: i64, n: i64, two: bool, rng: &mut StdRng) -> rusqlite::Result<bool> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for schema in if two { &["main", "two"][..] } else { &["main"] } {
        let parts = rng.random_range(1..8_i64);
        connection.execute(&format!("INSERT INTO {schema}.whole VALUES(?1, ?2, ?3)"), [thread, n, parts])?;
        for i in 0..parts {
            let bytes = if rng.random_bool(0.02) { rng.random_range(0..200_000) } else { rng.random_range(0..500) };
            let insert = format!("INSERT INTO {schema}.part VALUES(?1, ?2, ?3, zeroblob(?4))");
            connection.execute(&insert, [thread, n, i, bytes])?;
        }
    }
    if rng.random_bool(0.2) {
        let (id, bytes) = (rng.random_range(0..50_i64), rng.random_range(0..20_000_i64));
        connection.execute("REPLACE INTO churn VALUES(?1, randomblob(?2))", [id, bytes])?;
        connection.execute("DELETE FROM churn WHERE id=?1", [rng.random_range(0..50_i64)])?;
    }
    let gives_up = rng.random_bool(0.05);
    connection.execute_batch(if gives_up { "ROLLBACK" } else { "COMMIT" })?;
    Ok(!gives_up)
}

impl Reported {
    pub fn add(&mut self, line: &str) {
        let (thread, n) = line.split_once(' ').expect("a thread and a number");
        let (thread, n) = (thread.parse().expect("a thread"), n.parse().expect("a number"));
        let before = self.0.insert(thread, n).unwrap_or(0);
        assert_eq!(n, before + 1, "the reports of thread {thread} are in order");
    }

    /// Each thread's commits are there up to the last that was reported, or to the one behind it that was
    /// under way when the process was killed.
    pub fn compare(&self, found: &BTreeMap<i64, i64>) {
        for thread in 0..THREADS {
            let reported = self.0.get(&thread).copied().unwrap_or(0);
            let last = found.get(&thread).copied().unwrap_or(0);
            assert!(
                last == reported || last == reported + 1,
                "thread {thread}: {reported} commits were acknowledged, {last} are there"
            );
        }
    }
}

/// The last commit of each thread, all of them dense and whole.
pub fn found(connection: &Connection) -> BTreeMap<i64, i64> {
    let halves = "SELECT thread, n, parts, count(body), count(DISTINCT i) FROM whole LEFT JOIN part USING(thread, n) \
                  GROUP BY thread, n HAVING parts<>count(body) OR parts<>count(DISTINCT i)";
    assert_eq!(support::text(connection, halves), "", "half transactions");
    let orphans = "SELECT thread, n FROM part WHERE NOT EXISTS \
                   (SELECT 1 FROM whole WHERE whole.thread=part.thread AND whole.n=part.n)";
    assert_eq!(support::text(connection, orphans), "", "parts without their whole");
    let lasts = "SELECT thread, max(n), count(*) FROM whole GROUP BY thread";
    let mut found = BTreeMap::new();
    for line in support::rows(connection, lasts).expect("the lasts") {
        let numbers: Vec<i64> = line.split('|').map(|number| number.parse().expect("a number")).collect();
        assert_eq!(numbers[1], numbers[2], "thread {}: a commit before another is missing", numbers[0]);
        found.insert(numbers[0], numbers[1]);
    }
    found
}
