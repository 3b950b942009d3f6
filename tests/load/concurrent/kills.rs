//! SIGKILL of processes whose transactions write beside each other: what was acknowledged is there, what was not is there as a whole or not at
//! all, and no two have committed against each other.
//!
//! Each transaction moves an amount between two of many accounts, counts in a row of its process, and takes or leaves one of a pair of
//! duties of which at most one may be taken, by a look at both (write skew would take both).
//!
//! `PWAL_TEST_KILLS` (default 16), `PWAL_TEST_SEED`. The long form: `PWAL_TEST_KILLS=2000 cargo test --test load concurrent::kills`.

use super::is_busy;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Scratch, Watchdog, child, code_of, env_number, number, run, text};

const PLACES: u64 = 3;
const PAIRS: u32 = 4;
/// Each row of the last two tables has a page.
const SCHEMA: &str = "CREATE TABLE accounts(id INTEGER PRIMARY KEY, n, pad);
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 800)
    INSERT INTO accounts SELECT x, 0, zeroblob(100) FROM c;
    CREATE TABLE counters(id INTEGER PRIMARY KEY, n, pad);
    INSERT INTO counters SELECT id, 0, zeroblob(3000) FROM accounts WHERE id <= 3;
    CREATE TABLE duties(id INTEGER PRIMARY KEY, n, pad);
    INSERT INTO duties SELECT id, 0, zeroblob(3000) FROM accounts WHERE id <= 8;";

#[test]
fn a_killed_process_leaves_whole_commits() {
    let kills = env_number("PWAL_TEST_KILLS", 16);
    let seed = env_number("PWAL_TEST_SEED", 1);
    let mut random = StdRng::seed_from_u64(seed);
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    {
        let connection = support::open_wal(&path);
        run(&connection, SCHEMA);
        support::close(connection);
    }
    let start = |place: u64, random: &mut StdRng| {
        let settings = [
            ("PWAL_TEST_DATABASE", path.to_str().expect("a name in UTF-8").to_owned()),
            ("PWAL_TEST_SEED", random.random_range(0..u64::MAX / 2).to_string()),
            ("PWAL_TEST_PLACE", place.to_string()),
        ];
        child::start("concurrent::kills::child_transfers", &settings)
    };
    let mut processes: Vec<child::Role> = (0..PLACES).map(|place| start(place, &mut random)).collect();
    for kill in 0..kills {
        let what = format!("PWAL_TEST_SEED={seed}, kill {kill}");
        let _watchdog = Watchdog::new(&what, Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(random.random_range(20..120)));
        // Now and then all of them: then the log is recovered.
        let all = random.random_range(0..5) == 0;
        let victims: Vec<u64> = if all { (0..PLACES).collect() } else { vec![random.random_range(0..PLACES)] };
        for victim in &victims {
            let process = &mut processes[usize::try_from(*victim).expect("a place")];
            assert!(process.try_wait().is_none(), "{what}: a process has ended by itself, see above");
            process.kill();
        }
        let connection = support::open(&path);
        for victim in &victims {
            let there = counted(&connection, *victim);
            let acknowledged = acknowledged(&path, *victim);
            assert!([acknowledged, acknowledged + 1].contains(&there), "{what}: {there} of {acknowledged}");
        }
        check(&connection, &what);
        support::close(connection);
        for victim in victims {
            processes[usize::try_from(victim).expect("a place")] = start(victim, &mut random);
        }
    }
    for process in &mut processes {
        process.kill();
    }
    let connection = support::open(&path);
    check(&connection, "the end");
    support::assert_integrity(&connection);
    let commits: u64 = (0..PLACES).map(|place| counted(&connection, place)).sum();
    support::close(connection);
    let stock = support::open_stock(&path);
    check(&stock, "the end, by stock SQLite");
    support::assert_integrity(&stock);
    println!("{commits} commits, {kills} kills");
}

fn counted(connection: &Connection, place: u64) -> u64 {
    u64::try_from(number(connection, &format!("SELECT n FROM counters WHERE id={}", place + 1))).expect("a count")
}

fn check(connection: &Connection, what: &str) {
    assert_eq!(number(connection, "SELECT sum(n) FROM accounts"), 0, "{what}");
    let both = "SELECT count(*) FROM duties a JOIN duties b ON b.id = a.id + 4 WHERE a.n + b.n > 1";
    assert_eq!(number(connection, both), 0, "{what}: both of a pair are taken");
}

fn file_of(path: &Path, place: u64) -> PathBuf {
    path.with_file_name(format!("acknowledged-{place}"))
}

fn acknowledged(path: &Path, place: u64) -> u64 {
    let mut bytes = [0; 8];
    let file = std::fs::File::open(file_of(path, place));
    // It was killed before its first commit.
    file.and_then(|file| file.read_exact_at(&mut bytes, 0)).map_or(0, |()| u64::from_le_bytes(bytes))
}

/// A role of its own process, which goes on until it is killed; nothing in a normal run.
#[test]
fn child_transfers() {
    if !child::role("concurrent::kills::child_transfers") {
        return;
    }
    let setting = |name: &str| child::setting(name).parse::<u64>().expect("a number");
    let (seed, place) = (setting("PWAL_TEST_SEED"), setting("PWAL_TEST_PLACE"));
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let mut random = StdRng::seed_from_u64(seed);
    let connection = support::open(&path);
    connection.busy_timeout(Duration::from_secs(20)).expect("a busy timeout");
    run(&connection, &format!("PRAGMA synchronous={}", ["NORMAL", "FULL"][random.random_range(0..2)]));
    assert_eq!(text(&connection, "PRAGMA parallel_wal_writers=concurrent"), "concurrent");
    let file = std::fs::File::options().write(true).create(true).truncate(false).open(file_of(&path, place));
    let file = file.expect("open the count");
    // The one that was under way may be there, and one that only reads need not see it yet.
    run(&connection, "BEGIN IMMEDIATE");
    let mut count = counted(&connection, place);
    run(&connection, "COMMIT");
    file.write_all_at(&count.to_le_bytes(), 0).expect("write the count");
    loop {
        let (from, to) = (random.random_range(1..=800), random.random_range(1..=800));
        let duty = random.random_range(1..=PAIRS);
        let mine = duty + PAIRS * random.random_range(0..2);
        run(&connection, if random.random_range(0..8) == 0 { "BEGIN IMMEDIATE" } else { "BEGIN" });
        let taken = number(&connection, &format!("SELECT sum(n) FROM duties WHERE id IN ({duty}, {})", duty + PAIRS));
        let statements = [
            format!("UPDATE accounts SET n=n-1 WHERE id={from}"),
            format!("UPDATE accounts SET n=n+1 WHERE id={to}"),
            format!("UPDATE duties SET n={} WHERE id={mine}", i64::from(taken == 0)),
            format!("UPDATE counters SET n=n+1 WHERE id={}", place + 1),
            String::from("COMMIT"),
        ];
        match statements.iter().map(|sql| code_of(&connection, sql)).find(|code| *code != 0) {
            None => {
                count += 1;
                file.write_all_at(&count.to_le_bytes(), 0).expect("write the count");
            }
            Some(code) => {
                assert!(is_busy(code), "{code}");
                if !connection.is_autocommit() {
                    run(&connection, "ROLLBACK");
                }
            }
        }
    }
}
