//! The same random SQL on the VFS under test and on stock SQLite gives the same rows, the same
//! result codes and the same pages.
//!
//! Each round is a script of steps made from a seed alone: several connections of one thread,
//! schema changes, transactions, savepoints, open cursors, attached databases, checkpoints, journal
//! modes, closing and opening again (also with stock in between). The script runs step by step on both sides. At
//! the end both databases are in order, have the same dump and, closed, the same pages.
//!
//! `PWAL_TEST_ROUNDS` (default 300) and `PWAL_TEST_SEED` (default 1) choose the rounds. A failure
//! prints the seed of its round and the smallest script that still fails:
//! `PWAL_TEST_SEED=<seed> PWAL_TEST_ROUNDS=1 cargo test --test load equivalence::`.
//! `PWAL_TEST_TRACE=1` prints each step before it is taken, for one that never answers.

mod script;
mod side;

use script::{Script, Step};
use side::Side;
use std::io::Write;
use std::time::{Duration, Instant};
use support::{Scratch, Watchdog, dump, env_number};

#[test]
fn random_sql_does_the_same_on_both() {
    let rounds = env_number("PWAL_TEST_ROUNDS", 300);
    let first = env_number("PWAL_TEST_SEED", 1);
    for seed in first..first + rounds {
        let _watchdog = Watchdog::new(&format!("the round of seed {seed}"), Duration::from_secs(300));
        let script = Script::random(seed);
        if let Err(difference) = play(&script) {
            let (shortest, difference) = shrink(script, difference);
            panic!(
                "seed {seed}, shortest script:\n{shortest}\n=> {difference}\n\
                 Again: PWAL_TEST_SEED={seed} PWAL_TEST_ROUNDS=1"
            );
        }
    }
}

/// What differed, and at which step; `None` for what shows at the end only.
struct Difference {
    step: Option<usize>,
    text: String,
}

/// Runs a script on both sides; says what differs first.
fn play(script: &Script) -> Result<(), Difference> {
    let scratch = Scratch::in_memory();
    let mut tested = Side::new(scratch.file("tested"), support::vfs());
    let mut stock = Side::new(scratch.file("stock"), support::STOCK);
    let trace = std::env::var_os("PWAL_TEST_TRACE").is_some();
    for (index, step) in script.steps.iter().enumerate() {
        if trace {
            let _ = writeln!(std::io::stderr(), "{index} {step}");
        }
        let stale = step.connection().is_some_and(|connection| stock.is_stale(connection));
        let (got, expected) = (tested.take(step), stock.take(step));
        if expected == "517:" && got.starts_with("0:") && !stale {
            // A writer that finds everything backfilled starts stock's log again, and every open snapshot is stale
            // from there on, also if that writer rolls back. pwal knows that nothing was committed (5: another of its
            // databases is busy). From here
            // on the two sides differ; what is left to say is that ours is in order.
            tested.close_all();
            return in_order(&tested).map_err(|text| Difference { step: None, text });
        }
        if let Step::Sql { connection, .. } = step
            && expected == "517:"
            && (got.starts_with("0:") || got == "5:")
            && stock.sees_the_newest(*connection)
        {
            // A writer that finds everything backfilled starts stock's log again, and every open snapshot is stale
            // from there on, also if that writer rolls back. pwal knows that nothing was committed (5: another of its
            // databases is busy). From here
            // on the two sides differ; what is left to say is that ours is in order.
            tested.close_all();
            return in_order(&tested).map_err(|text| Difference { step: None, text });
        }
        if got != expected && excuse(step, &got, &expected).is_none() {
            let text = format!("step {index}, {step}: {got} where stock says {expected}");
            return Err(Difference { step: Some(index), text });
        }
    }
    finish(&mut tested, &mut stock).map_err(|text| Difference { step: None, text })
}

/// `integrity_check` of each closed database on both VFSes.
fn in_order(side: &Side) -> Result<(), String> {
    for name in side::DATABASES.iter().filter(|name| side.file(name).exists()) {
        for vfs in [support::vfs(), support::STOCK] {
            let connection = support::try_open(&side.file(name), support::flags(), vfs)
                .map_err(|error| format!("{name}: {error}"))?;
            let check = support::rows(&connection, "PRAGMA integrity_check").map_err(|error| error.to_string())?;
            if check != ["ok"] {
                return Err(format!("{name} on {vfs}: integrity_check: {check:?}"));
            }
        }
    }
    Ok(())
}

/// What must be the same when all is over.
fn finish(tested: &mut Side, stock: &mut Side) -> Result<(), String> {
    tested.close_all();
    stock.close_all();
    for name in side::DATABASES {
        let (got, expected) = (tested.file(name), stock.file(name));
        if got.exists() != expected.exists() {
            return Err(format!("{name}: only one side has the file"));
        }
        if !got.exists() {
            continue;
        }
        let left = support::beside(&got);
        if left != support::beside(&expected) {
            return Err(format!("{name}: left beside it: {left:?} against {:?}", support::beside(&expected)));
        }
        if let Some(page) = dump::different_page(&got, &expected) {
            return Err(format!("{name}, closed: {page}"));
        }
        for vfs in [support::vfs(), support::STOCK] {
            let open =
                |path| support::try_open(path, support::flags(), vfs).map_err(|error| format!("{name}: {error}"));
            let (one, two) = (open(&got)?, support::open_stock(&expected));
            if let Some(line) = dump::first_difference(&dump::dump(&one), &dump::dump(&two)) {
                return Err(format!("{name} on {vfs}: dumps differ, {line}"));
            }
        }
    }
    in_order(tested)
}

/// The differences that pwal promises to have. Nothing else may differ.
fn excuse(step: &Step, got: &str, expected: &str) -> Option<&'static str> {
    let mode = match step {
        Step::Checkpoint { mode, .. } => mode,
        // Stock cannot change it while a cursor holds a mapped page; with an engine nothing is mapped.
        Step::Sql { sql, .. } if sql.starts_with("PRAGMA mmap_size") => return Some("nothing is mapped"),
        Step::Sql { sql, .. } if sql.contains("parallel_wal_") => return Some("stock does not know it"),
        _ => return None,
    };
    let (got, expected) = (numbers(got)?, numbers(expected)?);
    let restarts = matches!(*mode, "RESTART" | "TRUNCATE");
    if got[0] == 0 && expected[0] == 1 && restarts {
        // Stock waits for every reader to leave the log file that it wants to reuse. pwal has no such
        // file: a reader at the newest snapshot, all of which is in the database, holds nothing back.
        return Some("no log to restart");
    }
    if got[0] != expected[0] {
        return None;
    }
    // The two logs have not the same length: views are renumbered, segments are recycled, and the background checkpoint
    // may have been there before. How far a checkpoint came that met nobody is the same.
    let complete = |row: [i64; 3]| row[1] == row[2];
    let held_back = got[0] == 1 || *mode == "PASSIVE";
    (held_back || complete(got) == complete(expected)).then_some("frames are counted differently")
}

/// The three columns of a row of `wal_checkpoint`.
fn numbers(row: &str) -> Option<[i64; 3]> {
    let mut columns = row.strip_prefix("0: ")?.split('|').map(str::parse::<i64>);
    Some([columns.next()?.ok()?, columns.next()?.ok()?, columns.next()?.ok()?])
}

/// Leaves steps out as long as it still fails: all behind the failure, then halves, quarters, ... single steps.
fn shrink(mut script: Script, mut difference: Difference) -> (Script, String) {
    let until = Instant::now() + Duration::from_secs(env_number("PWAL_TEST_SHRINK_SECONDS", 60));
    script.steps.truncate(difference.step.map_or(usize::MAX, |step| step + 1));
    let mut size = script.steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let mut progress = false;
        while at < script.steps.len() && Instant::now() < until {
            let mut shorter = script.clone();
            shorter.steps.drain(at..(at + size).min(script.steps.len()));
            match play(&shorter) {
                Err(still) => {
                    shorter.steps.truncate(still.step.map_or(usize::MAX, |step| step + 1));
                    (script, difference, progress) = (shorter, still, true);
                }
                Ok(()) => at += size,
            }
        }
        if Instant::now() >= until || size == 1 && !progress {
            return (script, difference.text);
        }
        size = (size / 2).max(1);
    }
}
