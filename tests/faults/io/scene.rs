//! The scenes in which something fails. Each gets the books and a function that arms the failure.

use super::world::Books;
use rusqlite::Connection;

type Play = fn(&mut Books<'_>, &dyn Fn());

pub struct Scene {
    pub name: &'static str,
    pub play: Play,
}

pub const SCENES: [Scene; 15] = [
    Scene { name: "activation and first commits", play: activation },
    Scene { name: "commits under FULL", play: commits_full },
    Scene { name: "commits under NORMAL", play: commits_normal },
    Scene { name: "commits in conservative mode", play: commits_conservative },
    Scene { name: "commits over two databases", play: both_full },
    Scene { name: "commits over two databases under NORMAL", play: both_normal },
    Scene { name: "rotation", play: rotation },
    Scene { name: "a large transaction", play: large },
    Scene { name: "checkpoints", play: checkpoints },
    Scene { name: "a checkpoint that cuts the file", play: cut },
    Scene { name: "a kill", play: killed },
    Scene { name: "the last close", play: last_close },
    Scene { name: "away from WAL", play: away_from_wal },
    Scene { name: "two processes", play: two_processes },
    Scene { name: "transactions beside each other", play: beside },
];

/// Who writes, who also writes, who only reads.
fn cast(books: &Books<'_>) -> [Connection; 3] {
    [books.open(), books.open(), books.open()]
}

/// Commits on both writers until well behind the first failure; the reader looks each time.
fn go_on(books: &mut Books<'_>, [one, two, reader]: &[Connection; 3], commits: u32, bytes: u32) {
    let mut failures = 0;
    for round in 0..commits {
        let writer = if round % 3 == 2 { two } else { one };
        failures += u32::from(!books.commit(writer, bytes));
        books.look(reader);
        if failures >= 4 {
            break;
        }
    }
    for connection in [one, two, reader] {
        books.look(connection);
    }
}

/// Closes them; a failure in the last close is nobody's to see.
fn leave(cast: [Connection; 3]) {
    for connection in cast {
        drop(connection);
    }
}

fn activation(books: &mut Books<'_>, strike: &dyn Fn()) {
    books.create();
    strike();
    let cast = cast(books);
    books.look(&cast[2]);
    go_on(books, &cast, 6, 100);
    leave(cast);
}

fn started(books: &mut Books<'_>) -> [Connection; 3] {
    books.create();
    let cast = cast(books);
    for connection in &cast[..2] {
        assert!(books.commit(connection, 100));
    }
    books.must_see(&cast[2]);
    cast
}

fn commits_full(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    books.kill_at_failure();
    strike();
    go_on(books, &cast, 9, 5000);
    leave(cast);
}

/// Under NORMAL a commit is acknowledged before it is durable: a failed flush takes back nothing that was acknowledged.
fn commits_normal(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    for connection in &cast {
        support::run(connection, "PRAGMA synchronous=NORMAL");
    }
    books.kill_at_failure();
    strike();
    go_on(books, &cast, 9, 5000);
    leave(cast);
}

fn commits_conservative(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    support::run(&cast[0], "PRAGMA parallel_wal_mode=conservative");
    books.kill_at_failure();
    strike();
    go_on(books, &cast, 6, 5000);
    leave(cast);
}

fn both_full(books: &mut Books<'_>, strike: &dyn Fn()) {
    both(books, strike, "FULL");
}

fn both_normal(books: &mut Books<'_>, strike: &dyn Fn()) {
    both(books, strike, "NORMAL");
}

fn both(books: &mut Books<'_>, strike: &dyn Fn(), synchronous: &str) {
    books.create();
    let first = books.open_both();
    support::run(&first, "PRAGMA two.journal_mode=WAL; CREATE TABLE two.t(n INTEGER PRIMARY KEY, x)");
    let cast = [first, books.open_both(), books.open()];
    for connection in &cast {
        support::run(connection, &format!("PRAGMA synchronous={synchronous}"));
    }
    for connection in &cast[..2] {
        assert!(books.commit_both(connection, 100));
    }
    books.must_see(&cast[2]);
    strike();
    let mut failures = 0;
    for round in 0..7 {
        failures += u32::from(!books.commit_both(&cast[round % 2], 5000));
        for connection in &cast {
            books.look(connection);
        }
        if failures >= 3 {
            break;
        }
    }
    leave(cast);
}

fn rotation(books: &mut Books<'_>, strike: &dyn Fn()) {
    books.create();
    let cast = cast(books);
    support::run(&cast[0], "PRAGMA parallel_wal_segment_bytes=1048576; PRAGMA wal_autocheckpoint=20");
    assert!(books.commit(&cast[0], 700_000));
    strike();
    go_on(books, &cast, 8, 300_000);
    leave(cast);
}

fn large(books: &mut Books<'_>, strike: &dyn Fn()) {
    books.create();
    let first = books.open();
    support::run(&first, "SELECT * FROM t; PRAGMA parallel_wal_max_batch_bytes=65536");
    let cast = cast(books);
    support::run(&cast[0], "PRAGMA cache_size=5");
    assert!(books.commit(&cast[0], 100));
    drop(first);
    strike();
    books.commit(&cast[0], 1_000_000);
    books.look(&cast[2]);
    if books.try_run(&cast[0], "BEGIN; UPDATE other SET x=zeroblob(300000)") {
        books.try_run(&cast[0], "ROLLBACK");
    }
    go_on(books, &cast, 4, 300_000);
    leave(cast);
}

fn checkpoints(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    for _ in 0..3 {
        assert!(books.commit(&cast[0], 20_000));
    }
    strike();
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        books.try_run(&cast[1], &format!("PRAGMA wal_checkpoint({mode})"));
        books.look(&cast[2]);
        books.commit(&cast[0], 5000);
        books.look(&cast[2]);
    }
    leave(cast);
}

fn cut(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    support::run(&cast[0], "INSERT INTO other SELECT zeroblob(100000); PRAGMA wal_checkpoint(FULL)");
    strike();
    books.try_run(&cast[1], "DELETE FROM other");
    books.try_run(&cast[1], "VACUUM");
    books.try_run(&cast[1], "PRAGMA wal_checkpoint(TRUNCATE)");
    go_on(books, &cast, 3, 5000);
    books.try_run(&cast[1], "PRAGMA wal_checkpoint(TRUNCATE)");
    leave(cast);
}

/// Only these connections run checkpoints: what a copy finds is what a kill would leave. Small segments and batches: segments are
/// changed, and large transactions have their images in files of their own.
fn killed(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    for connection in &cast {
        support::run(connection, "PRAGMA wal_autocheckpoint=0");
    }
    support::run(&cast[0], "PRAGMA parallel_wal_segment_bytes=262144; PRAGMA parallel_wal_max_batch_bytes=65536");
    books.kill_at_failure();
    strike();
    for (mode, synchronous, bytes) in
        [("auto", "FULL", 5000), ("auto", "NORMAL", 80_000), ("conservative", "FULL", 80_000)]
    {
        support::run(&cast[0], &format!("PRAGMA parallel_wal_mode={mode}; PRAGMA synchronous={synchronous}"));
        go_on(books, &cast, 3, bytes);
        books.try_run(
            &cast[0],
            "BEGIN; INSERT INTO other VALUES(zeroblob(9000)); SAVEPOINT s; DELETE FROM other; ROLLBACK TO s; ROLLBACK",
        );
        books.try_run(&cast[1], "PRAGMA wal_checkpoint");
    }
    books.look_after_kill();
    leave(cast);
}

fn last_close(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    go_on(books, &cast, 3, 20_000);
    strike();
    leave(cast);
    // Whatever the close has left, the next open through the same medium settles it or says what fails.
    let again = [books.open(), books.open(), books.open()];
    go_on(books, &again, 3, 100);
    leave(again);
}

fn away_from_wal(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    go_on(books, &cast, 3, 20_000);
    let [one, two, reader] = cast;
    drop((two, reader));
    strike();
    books.try_run(&one, "PRAGMA journal_mode=DELETE");
    books.commit(&one, 5000);
    books.try_run(&one, "PRAGMA journal_mode=WAL");
    books.commit(&one, 5000);
    books.look(&one);
    drop(one);
}

/// They follow each other's commits, in several segments, and take LEADER and checkpoints from each other.
fn two_processes(books: &mut Books<'_>, strike: &dyn Fn()) {
    books.create();
    let one = books.open();
    support::run(&one, "PRAGMA parallel_wal_segment_bytes=262144; PRAGMA wal_autocheckpoint=0");
    assert!(books.commit(&one, 100));
    let cast = [one, books.open_elsewhere(), books.open_elsewhere()];
    assert!(books.commit(&cast[1], 100));
    books.must_see(&cast[2]);
    strike();
    go_on(books, &cast, 6, 5000);
    // More pages than an entry of the commit ring has.
    go_on(books, &cast, 6, 150_000);
    books.try_run(&cast[1], "PRAGMA wal_checkpoint(TRUNCATE)");
    go_on(books, &cast, 3, 100);
    books.try_run(&cast[0], "PRAGMA wal_checkpoint(TRUNCATE)");
    leave(cast);
}

/// They allocate beside each other, and read what is in the log, in a spill file and in the database file.
fn beside(books: &mut Books<'_>, strike: &dyn Fn()) {
    let cast = started(books);
    let [one, two, reader] = &cast;
    for connection in [one, two] {
        support::run(connection, "PRAGMA parallel_wal_writers=concurrent; PRAGMA cache_size=5");
    }
    for _ in 0..3 {
        books.commit_beside([one, two], 20_000);
    }
    support::run(reader, "PRAGMA wal_checkpoint");
    strike();
    let mut failures = 0;
    for bytes in [9000, 20_000, 9000, 100, 30_000] {
        failures += u32::from(!books.commit_beside([one, two], bytes));
        books.look(reader);
        if failures >= 4 {
            break;
        }
    }
    for connection in &cast {
        books.look(connection);
    }
    leave(cast);
}
