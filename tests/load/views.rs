//! What readers see while the log rotates, is backfilled and recycled under them: rows whose content is known, counts that
//! belong to one commit, snapshots that stay, files that shrink and grow.
//!
//! `PWAL_TEST_SECONDS` (default 5) for all of it, `PWAL_TEST_SEED` (default 1).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, ffi};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Scratch, Watchdog, env_number};

/// The blob of a row: its id again and again.
fn content(id: i64, bytes: usize) -> Vec<u8> {
    id.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

struct Run<'a> {
    path: &'a Path,
    until: Instant,
    seed: u64,
}

impl Run<'_> {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    fn open(&self, dice: &mut StdRng) -> Connection {
        let connection = support::open(self.path);
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        let synchronous = ["OFF", "NORMAL", "FULL"][dice.random_range(0..3)];
        let (cache, checkpoint) = (dice.random_range(2..100), dice.random_range(0..60));
        support::run(
            &connection,
            &format!(
                "PRAGMA synchronous={synchronous}; PRAGMA cache_size={cache}; PRAGMA wal_autocheckpoint={checkpoint}"
            ),
        );
        connection
    }
}

/// BUSY may happen (a snapshot that is too old); anything else is wrong.
fn worked<T>(result: rusqlite::Result<T>, what: &str) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if support::code(&error) & 0xff == ffi::SQLITE_BUSY => None,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

/// Counts the commits that raised the version.
fn write(run: &Run<'_>, number: u64) -> u64 {
    let mut dice = StdRng::seed_from_u64(run.seed * 100 + number);
    let connection = run.open(&mut dice);
    let mut commits = 0;
    while run.goes_on() {
        let done = worked(change(&connection, &mut dice), "write");
        commits += done.unwrap_or(0);
        if !connection.is_autocommit() {
            support::run(&connection, "ROLLBACK");
        }
    }
    commits
}

/// One commit; returns by how much it raised the version.
fn change(connection: &Connection, dice: &mut StdRng) -> rusqlite::Result<u64> {
    if dice.random_range(0..400) == 0 {
        return connection.execute_batch("VACUUM").map(|()| 0);
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    match dice.random_range(0..10) {
        0..=5 => {
            let rows = if dice.random_range(0..40) == 0 { 200 } else { dice.random_range(1..5) };
            for _ in 0..rows {
                let id: i64 = dice.random_range(1..1_000_000_000);
                let bytes = if dice.random() { dice.random_range(0..300) } else { dice.random_range(0..12_000) };
                connection.execute("INSERT OR REPLACE INTO t VALUES(?1, ?2)", (id, content(id, bytes)))?;
            }
        }
        6..=8 => {
            let share: i64 = [50, 10, 2][dice.random_range(0..3)];
            connection.execute("DELETE FROM t WHERE id % ?1 = 0", [share])?;
        }
        _ => connection.execute_batch("SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; PRAGMA incremental_vacuum(20)")?,
    }
    connection.execute_batch("UPDATE total SET n = (SELECT count(*) FROM t), v = v + 1; COMMIT")?;
    Ok(1)
}

/// The version that a snapshot shows, after all of it has been looked at.
fn look(connection: &Connection, whole: bool) -> rusqlite::Result<i64> {
    let (n, version): (i64, i64) =
        connection.query_row("SELECT n, v FROM total", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = connection.prepare_cached("SELECT id, b FROM t")?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let (id, blob): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        assert_eq!(blob, content(id, blob.len()), "row {id} at version {version}");
        count += 1;
    }
    assert_eq!(count, n, "rows at version {version}");
    if whole {
        assert_eq!(support::text(connection, "PRAGMA integrity_check"), "ok", "version {version}");
    }
    Ok(version)
}

fn read(run: &Run<'_>, number: u64) -> u64 {
    let mut dice = StdRng::seed_from_u64(run.seed * 100 + 50 + number);
    let connection = run.open(&mut dice);
    let (mut last, mut looks) = (0, 0);
    while run.goes_on() {
        let whole = dice.random_range(0..8) == 0;
        support::run(&connection, "BEGIN");
        let version = look(&connection, whole).unwrap_or_else(|error| panic!("look: {error:?}"));
        assert!(version >= last, "back from {last} to {version}");
        last = version;
        if dice.random_range(0..4) == 0 {
            std::thread::sleep(Duration::from_millis(dice.random_range(0..150)));
            assert_eq!(look(&connection, false).unwrap_or_else(|error| panic!("second look: {error:?}")), version);
        }
        support::run(&connection, "COMMIT");
        looks += 1;
    }
    looks
}

fn checkpoint(run: &Run<'_>) -> u64 {
    let mut dice = StdRng::seed_from_u64(run.seed * 100 + 99);
    let connection = run.open(&mut dice);
    connection.busy_timeout(Duration::from_millis(5)).unwrap();
    let mut checkpoints = 0;
    while run.goes_on() {
        let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][dice.random_range(0..4)];
        worked(connection.execute_batch(&format!("PRAGMA wal_checkpoint({mode})")), mode);
        std::thread::sleep(Duration::from_millis(dice.random_range(0..20)));
        checkpoints += 1;
    }
    checkpoints
}

fn play(seed: u64, time: Duration) {
    let mut dice = StdRng::seed_from_u64(seed);
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let setup = support::open(&path);
    let page_bytes = [512, 1024, 4096, 8192, 65536][dice.random_range(0..5)];
    let vacuum = ["NONE", "FULL", "INCREMENTAL"][dice.random_range(0..3)];
    support::run(
        &setup,
        &format!(
            "PRAGMA page_size={page_bytes}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode=WAL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE TABLE total(n, v); INSERT INTO total VALUES(0, 0)"
        ),
    );
    if support::on_pwal() {
        support::run(&setup, "PRAGMA parallel_wal_segment_bytes=262144; PRAGMA parallel_wal_max_batch_bytes=65536");
    }
    let what = format!("seed {seed}, pages of {page_bytes}, auto_vacuum={vacuum}");
    let _watchdog = Watchdog::new(&what, time + Duration::from_secs(120));
    let run = Run { path: &path, until: Instant::now() + time, seed };
    let (commits, looks, checkpoints) = std::thread::scope(|scope| {
        let run = &run;
        let writers: Vec<_> = (0..3).map(|number| scope.spawn(move || write(run, number))).collect();
        let readers: Vec<_> = (0..3).map(|number| scope.spawn(move || read(run, number))).collect();
        let checkpoints = scope.spawn(move || checkpoint(run));
        let sum = |threads: Vec<std::thread::ScopedJoinHandle<'_, u64>>| -> u64 {
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panic!("{what}"))).sum()
        };
        (sum(writers), sum(readers), checkpoints.join().unwrap_or_else(|_| panic!("{what}")))
    });
    assert_eq!(look(&setup, true).ok(), i64::try_from(commits).ok(), "{what}");
    println!("{what}: {commits} commits, {looks} looks, {checkpoints} checkpoints");
    support::close(setup);
    support::assert_plain(&path);
}

#[test]
fn readers_see_whole_snapshots_while_the_log_is_recycled() {
    let seed = env_number("PWAL_TEST_SEED", 1);
    let seconds = env_number("PWAL_TEST_SECONDS", 5);
    let runs = (seconds / 2).clamp(1, 1000);
    for number in 0..runs {
        play(seed * 1000 + number, Duration::from_secs(seconds) / u32::try_from(runs).unwrap());
    }
}
