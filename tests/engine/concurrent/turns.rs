//! Transactions that lose again and again, and those that are tried again.

use super::*;
use pwal::internal::disk::Directory;
use pwal::internal::shared::{ControlMapping, now_us};
use rusqlite::Error;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

pub(super) const ADD: &str = "UPDATE t SET n=n+1 WHERE id=10";

/// Loses this often against `other`, each time at COMMIT.
fn lose(connection: &Connection, other: &Connection, times: usize) {
    for _ in 0..times {
        run(connection, &format!("BEGIN; {ADD}"));
        run(other, &format!("BEGIN; {ADD}; COMMIT"));
        assert_eq!(commit(connection), SNAPSHOT);
    }
}

/// A connection that has lost often enough to take its turn, in a transaction that has read, and another one with this busy timeout.
pub(super) fn pair_with_a_turn(scene: &Scene, for_ms: u64) -> (Connection, Connection) {
    let (a, b) = scene.pair();
    patient(&b, for_ms);
    lose(&a, &b, 4);
    run(&a, "BEGIN");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 4);
    (a, b)
}

#[test]
fn one_that_has_lost_often_does_not_lose() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    patient(&b, 0);
    lose(&a, &b, 3);
    // The fourth in a row.
    run(&a, &format!("BEGIN; {ADD}"));
    run(&b, &format!("BEGIN; {ADD}"));
    assert_eq!((commit(&b), commit(&a)), (0, SNAPSHOT));
    run(&b, &format!("BEGIN; {ADD}"));
    run(&a, "BEGIN");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 4);
    assert_eq!(code_of(&b, "COMMIT"), ffi::SQLITE_BUSY, "it is the turn of the other one");
    run(&a, ADD);
    assert_eq!(code_of(&b, "COMMIT"), ffi::SQLITE_BUSY);
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
    assert_eq!(number(&scene.serial, "SELECT n FROM t WHERE id=10"), 5);
    // It is over with that commit.
    lose(&a, &b, 1);
}

/// Whether a turn is taken before the next transaction of `a` reads; then it commits.
fn takes_turn(a: &Connection, b: &Connection) -> bool {
    run(a, "BEGIN");
    number(a, "SELECT n FROM t WHERE id=10");
    let other = tried(b, "BEGIN; UPDATE t SET n=n+1 WHERE id=10000; COMMIT");
    assert!([0, ffi::SQLITE_BUSY].contains(&other), "{other}");
    run(a, ADD);
    assert_eq!(commit(a), 0);
    other == ffi::SQLITE_BUSY
}

/// Where nearly all lose, fewer do so in vain.
#[test]
fn one_that_needed_its_turn_gets_the_next_one_sooner() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    patient(&b, 0);
    for often in [4, 2, 1, 1] {
        lose(&a, &b, often - 1);
        if often > 1 {
            // One fewer is not enough; but a commit would begin the count anew.
            run(&a, "BEGIN");
            number(&a, "SELECT n FROM t WHERE id=10");
            assert_eq!(tried(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=10000; COMMIT"), 0, "{often}");
            run(&a, "ROLLBACK");
        }
        lose(&a, &b, 1);
        assert!(takes_turn(&a, &b), "{often}");
    }
    // One that has not lost begins anew.
    assert!(!takes_turn(&a, &b));
    lose(&a, &b, 3);
    assert!(!takes_turn(&a, &b));
    lose(&a, &b, 4);
    assert!(takes_turn(&a, &b));
}

/// What it reads first it could have read later; others that wait for it would lose for that.
#[test]
fn one_that_reads_first_gets_its_turn_no_sooner() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    patient(&b, 0);
    for _ in 0..3 {
        for lost in 0..4 {
            run(&a, "BEGIN");
            number(&a, "SELECT n FROM t WHERE id=10");
            assert_eq!(tried(&b, &format!("BEGIN; {ADD}; COMMIT")), 0, "after {lost}");
            assert_eq!(code_of(&a, ADD), SNAPSHOT);
            run(&a, "ROLLBACK");
        }
        assert!(takes_turn(&a, &b));
    }
}

/// All connections in one thread: nothing waits for what only this thread could end, but for a while.
#[test]
fn a_turn_that_is_not_used_ends() {
    let scene = scene(ROWS);
    let (a, b) = pair_with_a_turn(&scene, 60_000);
    run(&b, &format!("BEGIN; {ADD}; COMMIT"));
    assert_eq!(code_of(&a, ADD), SNAPSHOT, "it did not write in time");
    run(&a, "ROLLBACK; BEGIN");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 5);
    run(&a, "ROLLBACK");
    // With the end of its transaction at once.
    patient(&b, 0);
    assert_eq!(tried(&b, &format!("BEGIN; {ADD}; COMMIT")), 0);
    // And its turn does not come while another connection of this thread writes.
    run(&b, "BEGIN IMMEDIATE");
    run(&a, "BEGIN");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 6);
    run(&b, "COMMIT");
    run(&a, &format!("{ADD}; COMMIT"));
}

/// After four that have lost an application may only read: that must not keep the others waiting for ever.
#[test]
fn those_that_only_read_use_the_turns_up() {
    let scene = scene(ROWS);
    let (a, b) = pair_with_a_turn(&scene, 0);
    let read = || assert!(number(&a, "SELECT n FROM t WHERE id=10") >= 4);
    run(&a, "COMMIT; BEGIN");
    read();
    assert_eq!(tried(&b, &format!("BEGIN; {ADD}; COMMIT")), 0, "it does not wait for one that only reads");
    run(&a, "COMMIT");
    // One more that loses gives two turns: one that only reads takes none away from one that writes.
    lose(&a, &b, 1);
    run(&a, "BEGIN");
    read();
    run(&a, "COMMIT; BEGIN");
    read();
    assert_eq!(tried(&b, &format!("BEGIN; {ADD}; COMMIT")), ffi::SQLITE_BUSY, "it is the turn of the other one");
    run(&a, ADD);
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 7);
}

/// It writes beside the others then, and loses only if they have written what it depends on.
#[test]
fn one_that_writes_after_its_turn_has_ended_is_no_worse_than_without() {
    let scene = scene(ROWS);
    let (a, b) = pair_with_a_turn(&scene, 60_000);
    // When the turn has ended.
    run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=10000; COMMIT");
    run(&a, ADD);
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&b, "SELECT sum(n) FROM t"), 6);
}

fn transaction<T>(
    connection: &mut Connection,
    work: impl FnMut(&mut Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let code = |error: &Error| error.sqlite_error().map(|error| error.extended_code);
    pwal::retry(connection, |connection, sql| connection.execute_batch(sql), code, work)
}

#[test]
fn every_thread_gets_its_transactions_done() {
    const THREADS: usize = 6;
    const EACH: u64 = 40;
    let scene = scene(ROWS);
    let (path, barrier, tries) = (&scene.path, &Barrier::new(THREADS), &AtomicU64::new(0));
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(move || {
                let mut connection = concurrent(path);
                patient(&connection, 20_000);
                barrier.wait();
                for _ in 0..EACH {
                    let done = transaction(&mut connection, |connection| {
                        tries.fetch_add(1, SeqCst);
                        let n: i64 = connection.query_row("SELECT n FROM t WHERE id=10", [], |row| row.get(0))?;
                        std::thread::yield_now();
                        connection.execute("UPDATE t SET n=?1 WHERE id=10", [n + 1])
                    });
                    assert_eq!(done.expect("a transaction that is tried again"), 1);
                }
            });
        }
    });
    println!("{} tries", tries.load(SeqCst));
    assert_eq!(number(&scene.serial, "SELECT n FROM t WHERE id=10"), (THREADS as u64 * EACH) as i64);
}

#[test]
fn what_is_tried_again_is_a_refusal_only() {
    let scene = scene(ROWS);
    let (mut a, b) = scene.pair();
    let mut tries = 0;
    let failed = transaction(&mut a, |connection| {
        tries += 1;
        connection.execute_batch(&format!("{ADD}; INSERT INTO t VALUES(10, 0, 0)"))
    });
    assert_eq!(failed.unwrap_err().sqlite_error().unwrap().extended_code, ffi::SQLITE_CONSTRAINT_PRIMARYKEY);
    assert_eq!((tries, a.is_autocommit(), number(&a, "SELECT n FROM t WHERE id=10")), (1, true, 0));
    // The ninth try is by BEGIN IMMEDIATE, and loses against nobody.
    patient(&b, 0);
    let mut tries = 0;
    let done = transaction(&mut a, |connection| {
        tries += 1;
        connection.execute_batch(ADD)?;
        let other = tried(&b, &format!("BEGIN; {ADD}; COMMIT"));
        assert!(other == 0 || tries > 4, "try {tries}: {other}");
        Ok(())
    });
    done.unwrap();
    assert_eq!(tries, 5, "the turn after four that lost");
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 5);
    // A panic leaves no transaction.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        transaction(&mut a, |connection| -> Result<(), Error> {
            connection.execute_batch(ADD)?;
            panic!("of the application")
        })
    }));
    assert!(panicked.is_err() && a.is_autocommit());
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 5);
}

/// How long a transaction thinks. A machine that is slow, or stops the thread, makes what follows a long time, too: it is tried again with
/// the next one.
const THINKS_MS: [u64; 7] = [50, 50, 100, 200, 400, 800, 1600];

/// A connection whose only transaction has lost at COMMIT, after it had thought for long and written for a short time; and another one.
pub(super) fn pair_that_lost_after_thinking(scene: &Scene) -> (Connection, Connection) {
    for thinks_ms in THINKS_MS {
        let (a, b) = scene.pair();
        patient(&b, 0);
        // No sync is in the way.
        for connection in [&a, &b] {
            run(connection, "PRAGMA synchronous=NORMAL");
        }
        run(&a, "BEGIN");
        number(&a, "SELECT n FROM t WHERE id=10000");
        // Its snapshot is taken.
        let begin = Instant::now();
        std::thread::sleep(Duration::from_millis(thinks_ms));
        let thought = begin.elapsed();
        run(&a, ADD);
        run(&b, &format!("BEGIN; {ADD}; COMMIT"));
        assert_eq!(commit(&a), SNAPSHOT);
        if (begin.elapsed() - thought) * 8 < thought {
            return (a, b);
        }
    }
    panic!("this machine is too slow");
}

/// How long a COMMIT of `b` that changes the row beside takes after the first write of `a`, which then commits: both, and how long that write
/// had been thought about.
fn beside_a_write_after_thinking(a: &Connection, b: &Connection, thinks_ms: u64) -> (Duration, Duration, Duration) {
    run(a, "BEGIN");
    number(a, "SELECT n FROM t WHERE id=10000");
    let begin = Instant::now();
    std::thread::sleep(Duration::from_millis(thinks_ms));
    run(b, &format!("BEGIN; {ADD}; COMMIT"));
    let thought = begin.elapsed();
    run(a, ADD);
    run(b, "BEGIN; UPDATE t SET n=n+1 WHERE id=5000; COMMIT");
    let beside = begin.elapsed() - thought;
    assert_eq!(commit(a), 0, "it sees what is committed by its first write");
    (beside, begin.elapsed() - thought, thought)
}

/// Its first write may have been before it lost; then nothing is committed beside it from its first write on, for a millisecond.
#[test]
fn one_that_lost_with_its_last_statement_is_granted_the_write_lock_with_it() {
    let scene = scene(ROWS);
    for thinks_ms in THINKS_MS {
        let (a, b) = pair_that_lost_after_thinking(&scene);
        let before = number(&b, "SELECT sum(n) FROM t");
        let times = [(); 4].map(|()| beside_a_write_after_thinking(&a, &b, thinks_ms));
        assert_eq!(number(&b, "SELECT sum(n) FROM t"), before + 12);
        if times.iter().all(|(_, wrote, thought)| *wrote * 8 < *thought) {
            let beside = times.map(|(beside, ..)| beside);
            assert!(beside.iter().all(|beside| *beside >= Duration::from_millis(1)), "{beside:?}");
            return;
        }
    }
    panic!("this machine is too slow");
}

/// The page that it writes last is in its cache, of its transaction before, and has changed since. SQLite would use what it has.
#[test]
fn what_is_in_the_cache_is_read_again_after_a_loss_for_it() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    for code in [SNAPSHOT, 0, 0] {
        run(&a, ADD);
        run(&a, "BEGIN");
        number(&a, "SELECT n FROM t WHERE id=10000");
        std::thread::sleep(Duration::from_millis(1));
        run(&b, &format!("BEGIN; {ADD}; COMMIT"));
        assert_eq!(code_of(&a, ADD), code);
        run(&a, "ROLLBACK");
    }
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 6);
}

/// It is in nobody's way when its transaction has ended, and if it is refused.
#[test]
fn others_go_on_after_one_that_was_granted_the_write_lock() {
    for end in ["ROLLBACK", "COMMIT"] {
        let scene = scene(ROWS);
        let (a, b) = pair_that_lost_after_thinking(&scene);
        run(&a, "BEGIN");
        number(&a, "SELECT n FROM t WHERE id=10");
        run(&b, &format!("BEGIN; {ADD}; COMMIT"));
        assert_eq!(code_of(&a, ADD), SNAPSHOT, "it has read what has changed");
        assert_eq!(tried(&b, &format!("BEGIN; {ADD}; COMMIT")), 0, "and does not keep the write lock");
        run(&a, "ROLLBACK; BEGIN");
        number(&a, "SELECT n FROM t WHERE id=10000");
        run(&a, ADD);
        run(&a, end);
        assert_eq!(tried(&b, &format!("BEGIN; {ADD}; COMMIT")), 0, "{end}");
    }
}

/// While another one writes serially, it waits for a while, and writes beside it.
#[test]
fn a_first_write_beside_a_serial_transaction_needs_no_lock() {
    let scene = scene(ROWS);
    let (a, b) = pair_that_lost_after_thinking(&scene);
    run(&b, "BEGIN IMMEDIATE");
    run(&a, "BEGIN");
    number(&a, "SELECT n FROM t WHERE id=10000");
    run(&a, ADD);
    run(&b, "UPDATE t SET n=n+1 WHERE id=5000; COMMIT");
    assert_eq!(commit(&a), 0);
}

/// By a connection of another thread: what this one commits would begin its count anew.
fn tried_elsewhere(path: &Path, sql: &str) -> i32 {
    let other = || {
        let other = concurrent(path);
        patient(&other, 0);
        tried(&other, sql)
    };
    std::thread::scope(|threads| threads.spawn(other).join().unwrap())
}

/// As that of an application with a pool of connections.
#[test]
fn one_that_begins_again_on_another_connection_gets_its_turn() {
    let scene = scene(ROWS);
    let pool: [Connection; 2] = scene.pair().into();
    let elsewhere = |sql: &str| tried_elsewhere(&scene.path, sql);
    for lost in 0..4 {
        let a = &pool[lost % 2];
        run(a, &format!("BEGIN; {ADD}"));
        assert_eq!(elsewhere(&format!("BEGIN; {ADD}; COMMIT")), 0, "after {lost}");
        assert_eq!(commit(a), SNAPSHOT);
    }
    run(&pool[0], "BEGIN");
    assert_eq!(number(&pool[0], "SELECT n FROM t WHERE id=10"), 4);
    assert_eq!(elsewhere(&format!("BEGIN; {ADD}; COMMIT")), ffi::SQLITE_BUSY, "it is the turn of the other one");
    run(&pool[0], ADD);
    assert_eq!(commit(&pool[0]), 0);
    run(&pool[1], "BEGIN");
    assert_eq!(number(&pool[1], "SELECT n FROM t WHERE id=10"), 5);
    assert_eq!(elsewhere(&format!("BEGIN; {ADD}; COMMIT")), 0, "the turn of both is over");
}

/// The words of the database, which say of the write lock whose it is, also while it is granted, though nobody asks.
pub(super) fn words(scene: &Scene) -> ControlMapping {
    let file = std::fs::metadata(&scene.path).expect("the database");
    let directory = Directory::open(&scene.path.with_file_name("a.db-pwal")).expect("the log directory");
    ControlMapping::open(&directory, file.dev(), file.ino()).expect("the words")
}

/// A grant that is left to expire would cost those that come next their time: it is given back when its transaction ends or is refused.
#[test]
fn a_grant_ends_with_its_transaction() {
    if !support::on_pwal() {
        return;
    }
    let scene = scene(ROWS);
    let words = words(&scene);
    let is_taken = || words.control().write().holder().is_some();
    for end in ["ROLLBACK", "COMMIT", "refused"] {
        let (a, b) = pair_that_lost_after_thinking(&scene);
        assert!(!is_taken(), "{end}");
        run(&a, "BEGIN");
        if end == "refused" {
            number(&a, "SELECT n FROM t WHERE id=10");
            run(&b, &format!("BEGIN; {ADD}; COMMIT"));
            assert_eq!(code_of(&a, ADD), SNAPSHOT);
        } else {
            number(&a, "SELECT n FROM t WHERE id=10000");
            assert!(!is_taken(), "not for what it reads");
            run(&a, ADD);
            assert!(is_taken(), "with its first write");
            let ends = words.control().grant_until_us();
            assert!(ends <= now_us() + 1000, "for a millisecond");
            run(&a, end);
        }
        assert!(!is_taken(), "{end}");
    }
}

/// What takes less than a tenth of a millisecond begins with a grant, where others commit, too. How many are so brief depends on the
/// machine: those that were by the clock of the test are.
#[test]
fn brief_ones_begin_with_a_grant() {
    const OFTEN: u32 = 8;
    if !support::on_pwal() {
        return;
    }
    let scene = scene(ROWS);
    let (a, words) = (scene.concurrent(), words(&scene));
    let is_taken = || words.control().write().holder().is_some();
    // No sync is in the way.
    for connection in [&a, &scene.serial] {
        run(connection, "PRAGMA synchronous=NORMAL");
    }
    let [begin, write, commit] = ["BEGIN", ADD, "COMMIT"];
    let step = |sql| a.prepare_cached(sql).unwrap().execute([]).unwrap();
    // At least as many more were brief than not.
    let (mut brief, mut granted) = (0, 0);
    for _ in 0..1000 {
        run(&scene.serial, "UPDATE t SET n=n+1 WHERE id=10000");
        step(begin);
        number(&a, "SELECT count(*) FROM u");
        assert!(!is_taken(), "not for one that has never written after such a statement");
        step(commit);
        let begins = Instant::now();
        step(begin);
        step(write);
        let (is_granted, ends) = (is_taken(), words.control().grant_until_us());
        if brief >= OFTEN {
            assert!(is_granted && ends <= now_us() + 1000, "for a millisecond");
            granted += 1;
        }
        step(commit);
        brief = match begins.elapsed() <= Duration::from_micros(100) {
            true => (brief + 1).min(2 * OFTEN),
            false => brief.saturating_sub(OFTEN),
        };
        if brief >= OFTEN {
            // It has committed last: none is in its way.
            step(begin);
            step(write);
            assert!(!is_taken(), "it needs no grant");
            step("ROLLBACK");
        }
        assert!(!is_taken(), "given back");
        if granted == 10 {
            return;
        }
    }
    println!("{granted} of 1000 were expected to be brief: this machine is slow");
}

/// The more others have committed meanwhile, the longer it takes until a snapshot is taken: that is no time of the transaction.
#[test]
fn brief_ones_that_follow_large_commits_are_brief() {
    if !support::on_pwal() {
        return;
    }
    let scene = scene(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(10, 0); CREATE TABLE large(x);
        WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < 2000) INSERT INTO large SELECT zeroblob(3000) FROM i",
    );
    let (a, words) = (scene.concurrent(), words(&scene));
    let is_taken = || words.control().write().holder().is_some();
    for connection in [&a, &scene.serial] {
        run(connection, "PRAGMA synchronous=NORMAL");
    }
    let step = |sql| a.prepare_cached(sql).unwrap().execute([]).unwrap();
    // Whether it is granted WRITE after a commit of another one.
    let is_granted = |others: &str| {
        run(&scene.serial, others);
        step("BEGIN");
        step(ADD);
        let is_granted = is_taken();
        step("COMMIT");
        is_granted
    };
    let of_small = (0..200).filter(|_| is_granted("UPDATE large SET x=randomblob(3000) WHERE rowid=1")).count();
    // Without optimisation each takes about a tenth of a millisecond.
    if of_small < 150 || cfg!(debug_assertions) {
        println!("{of_small} of 200 were expected to be brief: this machine is slow, or the build is");
        return;
    }
    let of_large = (0..100).filter(|_| is_granted("UPDATE large SET x=randomblob(3000)")).take(20).count();
    assert!(of_large == 20, "{of_large} were expected to be brief");
}

/// What a thread has lost in one database is nothing in another one, and its turn is over with a transaction that only reads.
#[test]
fn the_turn_of_a_thread_is_of_one_database_and_is_used_up() {
    if !support::on_pwal() {
        return;
    }
    let (scene, beside) = (scene(ROWS), scene(ROWS));
    let pool: [Connection; 2] = scene.pair().into();
    let in_another = beside.concurrent();
    for lost in 0..4 {
        let a = &pool[lost % 2];
        run(a, &format!("BEGIN; {ADD}"));
        assert_eq!(tried_elsewhere(&scene.path, &format!("BEGIN; {ADD}; COMMIT")), 0, "after {lost}");
        assert_eq!(commit(a), SNAPSHOT);
    }
    let takes_turn = |connection: &Connection, scene: &Scene| {
        run(connection, "BEGIN");
        number(connection, "SELECT n FROM t WHERE id=10");
        let is_taken = words(scene).control().write().holder().is_some();
        run(connection, "COMMIT");
        is_taken
    };
    assert!(!takes_turn(&in_another, &beside));
    assert!(takes_turn(&pool[0], &scene));
    assert!(!takes_turn(&pool[1], &scene));
}
