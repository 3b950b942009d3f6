//! A process that has WRITE as a grant, before it has come for it, and dies, stops or forks: the others wait no longer than for the end of
//! the grant. `tests/engine/concurrent/grants.rs` has what happens to its connection.

use crate::lives::forks::Forked;
use pwal::internal::disk::Directory;
use pwal::internal::shared::{ControlMapping, now_us};
use rusqlite::{Connection, ffi};
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::processes::agent::{Agent, PATIENCE};
use support::scene::watchdog;
use support::{Scratch, Watchdog, code_of, number, run, text};

const ADD: &str = "UPDATE t SET n=n+1 WHERE id=1";
const CONCURRENT: &str = "PRAGMA parallel_wal_writers=concurrent";

struct Granted {
    _watchdog: Watchdog,
    _scratch: Scratch,
    path: PathBuf,
    /// Without a busy timeout.
    other: Connection,
    words: ControlMapping,
    /// What is committed.
    sum: i64,
}

fn words(path: &Path) -> ControlMapping {
    let file = std::fs::metadata(path).expect("the database");
    let directory = Directory::open(&path.with_file_name("app.db-pwal")).expect("the log directory");
    ControlMapping::open(&directory, file.dev(), file.ino()).expect("the words")
}

impl Granted {
    fn new(name: &str) -> (Granted, Agent) {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let other = support::open_wal(&path);
        run(&other, "CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 0)");
        assert_eq!(text(&other, CONCURRENT), "concurrent");
        other.busy_timeout(Duration::ZERO).expect("no busy timeout");
        number(&other, "SELECT count(*) FROM t");
        let mut agent = Agent::on(&path);
        let words = words(&path);
        let mut granted = Granted { _watchdog: watchdog(name), _scratch: scratch, path, other, words, sum: 0 };
        assert_eq!(agent.run(CONCURRENT), "concurrent");
        agent.run("SELECT count(*) FROM t");
        granted.take(&mut agent);
        (granted, agent)
    }

    /// The agent loses often enough to take its turn, for a second.
    fn take(&mut self, agent: &mut Agent) {
        for _ in 0..=4 {
            agent.run("BEGIN");
            assert_eq!(agent.run("SELECT n FROM t"), self.sum.to_string());
            if self.is_taken() {
                assert!(self.words.control().grant_until_us() <= now_us() + 1_000_000);
                return;
            }
            self.others_go_on();
            assert_eq!(agent.ask(&format!("c {ADD}")), format!("code {}", ffi::SQLITE_BUSY_SNAPSHOT));
            agent.run("ROLLBACK");
        }
        panic!("it has no turn after four that have lost");
    }

    fn is_taken(&self) -> bool {
        self.words.control().write().holder().is_some()
    }

    fn others_go_on(&mut self) {
        run(&self.other, &format!("BEGIN; {ADD}"));
        assert_eq!(code_of(&self.other, "COMMIT"), 0);
        self.sum += 1;
    }

    fn end(self) {
        assert_eq!(number(&self.other, "SELECT n FROM t"), self.sum);
        support::assert_integrity(&self.other);
        support::close(self.other);
        support::assert_plain(&self.path);
    }
}

/// Its grant is over at once.
#[test]
fn one_that_is_killed_keeps_nobody_waiting() {
    if !support::on_pwal() {
        return;
    }
    for sql in ["SELECT n FROM t", ADD] {
        let (mut granted, mut agent) = Granted::new("a kill with a grant");
        agent.run(sql);
        assert!(granted.is_taken());
        agent.kill();
        granted.others_go_on();
        granted.end();
    }
}

/// Its grant expires.
#[test]
fn one_that_stops_is_waited_for_until_its_grant_ends() {
    if !support::on_pwal() {
        return;
    }
    let (mut granted, mut agent) = Granted::new("a stop with a grant");
    agent.signal(Signal::STOP);
    agent.wait_stopped();
    granted.other.busy_timeout(PATIENCE).expect("a busy timeout");
    let ends = granted.words.control().grant_until_us();
    granted.others_go_on();
    assert!(now_us() >= ends, "nothing is committed beside it before");
    agent.signal(Signal::CONT);
    assert_eq!(agent.ask(&format!("c {ADD}")), format!("code {}", ffi::SQLITE_BUSY_SNAPSHOT));
    agent.run("ROLLBACK");
    agent.run(ADD);
    granted.sum += 1;
    agent.end();
    granted.end();
}

/// A forked child has no part in the grant of its parent: it neither uses nor ends it, and keeps it for nobody.
#[test]
fn a_forked_child_has_no_part_in_a_grant() {
    if !support::on_pwal() {
        return;
    }
    let (mut granted, mut parent) = Granted::new("a fork with a grant");
    let scratch = [Scratch::new(), Scratch::new()];
    let mut child = Forked::of(&mut parent, scratch[0].path());
    assert!(child.ask(&format!("c {ADD}")).starts_with("code "));
    child.ask("c ROLLBACK");
    assert_eq!(child.ask("c .close"), "closed");
    assert!(granted.is_taken());
    parent.run(ADD);
    parent.run("COMMIT");
    granted.sum += 1;
    child.end();
    granted.take(&mut parent);
    let child = Forked::of(&mut parent, scratch[1].path());
    parent.kill();
    // While the child lives.
    granted.others_go_on();
    child.end();
    granted.end();
}
