//! A process that leaves a database which others have open does not finish what they can do: its close waits for one piece
//! of that, not for a segment or a checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use support::lab::{Call, Lab};
use support::processes::agent::Agent;
use support::scene::COUNT;

/// A call of a slow disk: long enough that a close comes in the middle of what makes several.
const SLOW: Duration = Duration::from_millis(30);

/// An agent that has the lab's file open, too.
fn beside(lab: &Lab) -> Agent {
    let mut other = Agent::on(&lab.path());
    other.run(COUNT);
    other
}

#[test]
fn a_segment_that_is_being_made_is_given_up() {
    if !support::on_pwal() {
        return;
    }
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "PRAGMA synchronous=NORMAL; CREATE TABLE t(x)");
    let mut other = beside(&lab);
    // The fifth segment has 4 MiB, in four pieces.
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&syncs);
    lab.hook(move |moment| {
        if moment.call == Call::Sync && moment.name.ends_with("-0004.seg") && !moment.done {
            counted.fetch_add(1, SeqCst);
            std::thread::sleep(SLOW);
        }
        Ok(())
    });
    let mut rows = 0;
    while syncs.load(SeqCst) == 0 {
        support::run(&connection, "INSERT INTO t VALUES(randomblob(5000))");
        rows += 1;
        assert!(rows < 5000, "no segment was made ahead of need");
    }
    support::close(connection);
    let made = syncs.load(SeqCst);
    assert!(made <= 2, "{made} syncs of a segment that nobody needs");
    lab.unhook();
    assert_eq!(other.run(COUNT), rows.to_string());
    other.run("INSERT INTO t VALUES(randomblob(3000000))");
    assert_eq!(other.run("PRAGMA integrity_check"), "ok");
    other.end();
    support::assert_plain(&lab.path());
}

#[test]
fn a_checkpoint_in_the_background_is_left_to_the_others() {
    if !support::on_pwal() {
        return;
    }
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x)");
    let mut other = beside(&lab);
    let writes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&writes);
    lab.hook_base(move |call| {
        if call.contains("a.db: write") {
            counted.fetch_add(1, SeqCst);
            std::thread::sleep(SLOW);
        }
        None
    });
    // Some 12 MB, which are written by the megabyte.
    let much = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
                SELECT randomblob(4000) FROM n";
    support::run(&connection, "PRAGMA wal_autocheckpoint=100");
    support::run(&connection, much);
    // In the middle of the pass that brings it to the file.
    support::lab::wait_until(|| writes.load(SeqCst) >= 5);
    let before = writes.load(SeqCst);
    support::close(connection);
    let written = writes.load(SeqCst) - before;
    // The database handle writes a piece of 1 MiB by 64 KiB; there are eleven pieces.
    assert!(written <= 32, "{written} writes more of a checkpoint that others can make");
    lab.unhook();
    assert_eq!(other.run(COUNT), "3000");
    assert_eq!(&other.run("PRAGMA wal_checkpoint(TRUNCATE)")[..2], "0|");
    assert_eq!(other.run("PRAGMA integrity_check"), "ok");
    other.end();
    support::assert_plain(&lab.path());
}

fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// A process may have many databases open that nobody writes to.
#[test]
#[cfg(target_os = "linux")]
fn an_idle_database_has_no_thread() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = support::scene::scene("an idle database");
    let mut agent = Agent::on(&path);
    agent.run(COUNT);
    let before = threads(agent.pid());
    for round in 1..=2 {
        agent.run("INSERT INTO t VALUES(1)");
        assert_eq!(threads(agent.pid()), before + 1);
        support::lab::wait_until(|| threads(agent.pid()) == before);
        assert_eq!(agent.run(COUNT), round.to_string());
    }
    agent.end();
    support::assert_plain(&path);
}
