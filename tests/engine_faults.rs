//! The engine when its disk or the database file fails: what is answered, what others see meanwhile, and what is there
//! after the next open. No commit that was acknowledged is lost, none that was refused comes back.

mod common;
#[path = "engine/lab.rs"]
mod lab;

use lab::{Call, Gate, Lab, Once, status};
use rusqlite::ffi;

/// A checkpoint that fails for the second time poisons, and erases what is not durable. A flush that was under way then
/// must not acknowledge what was erased.
#[test]
fn a_flush_does_not_acknowledge_what_poison_has_erased() {
    let lab = Lab::new();
    let connection = lab.wal();
    common::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    let other = lab.open("a.db");
    lab.base_fails("a.db: write", ffi::SQLITE_IOERR_WRITE);
    assert_ne!(common::code_of(&other, "PRAGMA wal_checkpoint"), 0);

    // The next flush has synced and is not over.
    let (synced, go_on, once) = (Gate::default(), Gate::default(), Once::default());
    let (tell, wait) = (synced.clone(), go_on.clone());
    lab.hook(move |moment| {
        if moment.call == Call::Sync && moment.name.ends_with(".seg") && moment.done && once.first() {
            tell.open();
            wait.pass();
        }
        Ok(())
    });
    let code = std::thread::scope(|scope| {
        let commit = scope.spawn(|| {
            let code = common::code_of(&connection, "PRAGMA wal_autocheckpoint=1000; INSERT INTO t VALUES(1)");
            drop(connection);
            code
        });
        synced.pass();
        // The checkpoint of an idle log comes by itself.
        lab::wait_until(|| status(&other, "poisoned").is_string());
        go_on.open();
        commit.join().unwrap()
    });
    lab.base_works();
    common::close(other);
    let reopened = lab.open("a.db");
    let rows = common::text(&reopened, "SELECT x FROM t");
    assert_eq!(rows, if code == 0 { "0 1" } else { "0" }, "COMMIT answered {code}");
    assert_eq!(code, ffi::SQLITE_IOERR_FSYNC);
}
