//! What pwal rests on: how SQLite calls a VFS, seen by a shim on stock's VFS. One test for each
//! fact, named by it; a test that fails with a new SQLite names the code that must be looked at again.
//!
//! The shim ([`support::shim`]) records each call as `<file>: <call> <arguments>`, and may answer
//! instead of the base. pwal itself has no part here.

mod checkpoint;
mod commit;
mod controls;
mod errors;
mod exclusive;
mod frames;
mod growth;
mod locking;
mod opening;
mod read_only;
mod view;
mod waiting;

use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::Scratch;
use support::shim::Shim;

/// A shim of its own and a directory.
struct Lab {
    shim: &'static Shim,
    scratch: Scratch,
}

impl Lab {
    fn new() -> Lab {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("facts-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Lab { shim: Shim::register(&name, support::STOCK, true), scratch: Scratch::new() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }

    /// A connection through the shim, without a busy timeout.
    fn open(&self, name: &str) -> Connection {
        let connection = support::try_open(&self.file(name), support::flags(), &self.shim.name).expect("open");
        connection.busy_timeout(Duration::ZERO).expect("no busy timeout");
        connection
    }

    /// A connection to `a.db` in WAL mode with a table `t(x)`, and a trace that begins behind that.
    fn wal(&self) -> Connection {
        let connection = self.open("a.db");
        support::run(&connection, "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(x)");
        self.shim.take();
        connection
    }

    /// What SQLite calls while `act` runs.
    fn trace<T>(&self, act: impl FnOnce() -> T) -> Trace {
        self.shim.take();
        act();
        Trace(self.shim.take())
    }
}

struct Trace(Vec<String>);

impl Trace {
    /// The calls that contain one of these words, in their order.
    fn only(&self, words: &[&str]) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|call| words.iter().any(|word| call.contains(word))).collect()
    }

    fn count(&self, word: &str) -> usize {
        self.only(&[word]).len()
    }

    /// Where the call that contains this word is first.
    fn position(&self, word: &str) -> usize {
        self.0.iter().position(|call| call.contains(word)).unwrap_or_else(|| panic!("no {word} in {:#?}", self.0))
    }
}
