//! Who has the database open, through pwal and past it, and what the control block says.

use super::{Open, by_hand, closed, doctor, identity, log_of, tool};
use pwal::internal::shared::{CONTROL_NAME, ControlBlock, Identity, now_us};
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use support::{Scratch, child, close, open, open_stock, run};

const STOCK: &str = "doctor::processes::runs_what_it_is_told_on_stock";

/// A role of its own process; nothing in a normal run.
#[test]
fn runs_what_it_is_told_on_stock() {
    if !child::role(STOCK) {
        return;
    }
    let stock = open_stock(child::setting("DATABASE").as_ref());
    while let Some(sql) = child::command() {
        run(&stock, &sql);
        child::report("done");
    }
    close(stock);
}

const BESIDE: &str = "doctor::processes::reads_through_pwal";

/// A role of its own process; nothing in a normal run.
#[test]
fn reads_through_pwal() {
    if !child::role(BESIDE) {
        return;
    }
    let connection = open(child::setting("DATABASE").as_ref());
    run(&connection, "SELECT * FROM t");
    child::report("here");
    let _ = child::command();
    close(connection);
}

#[cfg(target_os = "linux")]
#[test]
fn stock_connections_are_named() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    // In another process: what this one has open, the children have, too, that other tests are just starting.
    let mut stock = child::start(STOCK, &[("DATABASE", path.display().to_string())]);
    let pid = stock.pid().to_string();
    let mut runs = |sql: &str| {
        stock.send(sql);
        stock.expect("done");
    };
    runs("SELECT * FROM t");
    let report = doctor(&scratch, &path);
    report.says("other openers", "warn", &[&pid, "until it closes it"]).only(&["other openers"]);
    let mut beside = child::start(BESIDE, &[("DATABASE", path.display().to_string())]);
    beside.expect("here");
    let control = ["works on stock SQLite's own -wal", &beside.pid().to_string()];
    doctor(&scratch, &path).says("other openers", "warn", &control).only(&["other openers", "other openers"]);
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("on stock SQLite's own -wal: a connection that is not on pwal"), "{text:?}");
    assert!(tool(["recover".as_ref(), path.as_os_str()]).refused(3).contains("is not on pwal"));
    beside.end_input();
    assert!(beside.wait().success());
    doctor(&scratch, &path).says("other openers", "warn", &[&pid, "until it closes it"]).only(&["other openers"]);
    runs("PRAGMA busy_timeout=0; INSERT INTO t VALUES(2)");
    doctor(&scratch, &path).says("leftovers", "note", &["app.db-wal", "in use by stock"]);
    runs("PRAGMA journal_mode=DELETE; PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT");
    let report = doctor(&scratch, &path);
    report.says("other openers", "problem", &[&pid, "EXCLUSIVE"]);
    runs("PRAGMA locking_mode=NORMAL; SELECT * FROM t");
    doctor(&scratch, &path).says("other openers", "note", &[&pid, "rollback mode"]).only(&["journal mode"]);
    stock.end_input();
    assert!(stock.wait().success());
}

/// What the control block of a live engine say, one thing after the other.
#[test]
fn the_words_of_a_live_engine_are_read() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let (_lock, control) = by_hand(&path, 2);
    let control = control.control();
    doctor(&scratch, &path).says("processes", "note", &["has not joined"]).only(&[]);

    let ago = |seconds: u64| now_us() - seconds * 1_000_000;
    let writer = control.process_slots().acquire(0, 4_000_001, "writer").expect("a slot");
    let waiter = control.process_slots().acquire(1, 4_000_002, "waiter").expect("a slot");
    let killed = control.process_slots().acquire(2, 4_000_003, "killed").expect("a slot");
    doctor(&scratch, &path)
        .says("processes", "ok", &["2 are attached", "4000001 (writer)", "4000002 (waiter)"])
        .says("processes", "note", &["4000003 (killed) was killed"])
        .only(&[]);
    assert!(control.write().try_acquire(writer, false));
    control.process_slots().set_waiting(waiter, ago(30));
    let slot = control.snapshot_slots().claim(waiter).expect("a slot");
    assert!(control.take_snapshot(slot, 1, ago(600)));
    let slot = control.snapshot_slots().claim(killed).expect("a slot");
    assert!(control.take_snapshot(slot, 1, ago(20)));
    doctor(&scratch, &path)
        .says("processes", "warn", &["4000002 (waiter) waits to write", "4000001 (writer) writes"])
        .says("processes", "warn", &["4000002 (waiter) reads since 10 min", "the oldest reader: it sees commit 1"])
        .only(&["processes", "processes"]);
    control.process_slots().set_waiting(waiter, ago(1));
    control.snapshot_slots().end(slot);

    control.set_mode(1);
    doctor(&scratch, &path).says("engine", "ok", &["conservative"]);
    assert!(control.poison());
    doctor(&scratch, &path).says("engine", "problem", &["no process can commit"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_stopped_process_is_told_and_worse_if_it_holds_what_others_need() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let (_lock, control) = by_hand(&path, 1);
    let process = Open::new(&path);
    let control: &ControlBlock = control.control();
    let me = control.process_slots().acquire(0, process.pid(), "sleeper").expect("a slot");
    let pid = process.pid().to_string();
    process.signal(Signal::STOP);
    let stopped = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "));
    crate::wait_until(stopped);
    doctor(&scratch, &path).says("processes", "warn", &[&pid, "is stopped"]);
    assert!(control.write().try_acquire(me, false));
    doctor(&scratch, &path).says("processes", "problem", &[&pid, "holds WRITE"]);
    process.signal(Signal::CONT);
    crate::wait_until(|| !stopped());
    doctor(&scratch, &path).says("processes", "ok", &["1 is attached"]);
}

#[test]
fn a_control_of_another_version_or_file_is_told() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let (lock, control) = by_hand(&path, 1);
    assert!(control.control().process_slots().acquire(0, 4_000_001, "it").is_some());
    control.control().set_identity(&Identity { inode: 1, ..identity(&path) });
    doctor(&scratch, &path).says("control", "problem", &["another file"]).only(&["control"]);
    let file = File::options().write(true).open(log_of(&path).join(CONTROL_NAME)).expect("open");
    file.write_all_at(&99u64.to_ne_bytes(), 8).expect("write");
    doctor(&scratch, &path).says("control", "problem", &["another version", "layout version 99"]).only(&["control"]);
    drop(lock);
    doctor(&scratch, &path).says("control", "note", &["another version"]).only(&[]);
    control.control().set_identity(&identity(&path));
    if cfg!(target_os = "linux") {
        doctor(&scratch, &path).says("control", "note", &["another boot"]).only(&[]);
    }
}
