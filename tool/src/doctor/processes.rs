//! Who has the database open: through pwal, and past it.

use super::Scene;
use super::report::Report;
use crate::openers::{Opener, Way};
use crate::reader::OldestReader;
use crate::text;
use pwal::internal::log::stamp::StampState;
use pwal::internal::shared::{ControlView, OnStockWal, PROCESS_SLOTS, ProcessInfo, now_us};
use std::time::Duration;

const PROCESSES: &str = "processes";
const OTHERS: &str = "other openers";

/// A reader that lasts so long keeps the log from being used again.
const READS_LONG: Duration = Duration::from_secs(60);
/// A busy timeout of most hosts.
const WAITS_LONG: Duration = Duration::from_secs(5);

pub fn check(scene: &Scene, report: &mut Report) {
    check_attached(scene, report);
    if let Ok(Some((control, _))) = &scene.control {
        check_engine(control.control(), report);
    }
    check_others(scene, report);
}

fn check_attached(scene: &Scene, report: &mut Report) {
    let attached = scene.process_infos();
    if !scene.owned {
        return report.ok(PROCESSES, "none has it open through pwal");
    }
    for process in attached.iter().filter(|process| !process.alive) {
        let found = format!("{} was killed; what it left is taken over by the others", name(process));
        report.note(PROCESSES, found);
    }
    let now_us = now_us();
    let mut living = attached.iter().filter(|process| process.alive).collect::<Vec<_>>();
    let control = scene.control.as_ref().ok().and_then(Option::as_ref);
    let oldest = control.and_then(|(control, _)| OldestReader::of(&scene.database, control.control(), attached));
    for process in &living {
        check_one(scene, process, now_us, oldest.as_ref(), report);
    }
    living.truncate(8);
    let names = living.iter().map(|process| name(process)).collect::<Vec<_>>().join(", ");
    let count = attached.iter().filter(|process| process.alive).count();
    match count {
        0 => report.note(PROCESSES, "a process holds its lock, and has not joined (yet)"),
        _ if count * 10 > PROCESS_SLOTS * 9 => {
            let found = format!("{count} of at most {PROCESS_SLOTS} are attached");
            report.warn(PROCESSES, found, "the next ones get SQLITE_BUSY: close what is not needed");
        }
        1 => report.ok(PROCESSES, format!("1 is attached: {names}")),
        _ => {
            let more = if count > living.len() { ", ..." } else { "" };
            report.ok(PROCESSES, format!("{count} are attached: {names}{more}"));
        }
    }
}

fn name(process: &ProcessInfo) -> String {
    format!("{} ({})", process.pid, process.command)
}

fn check_one(scene: &Scene, process: &ProcessInfo, now_us: u64, reader: Option<&OldestReader>, report: &mut Report) {
    let since = |since_us: u64| Duration::from_micros(now_us.saturating_sub(since_us));
    let named = name(process);
    let stopped = scene.openers.is_stopped(process.pid);
    if stopped && process.holding.iter().any(|word| *word != "EXCL") {
        let found =
            format!("{named} is stopped and holds {}: no other process can continue", process.holding.join(", "));
        report.problem(PROCESSES, found, format!("kill -CONT {0}, or kill {0}", process.pid));
    } else if stopped {
        report.warn(PROCESSES, format!("{named} is stopped"), format!("kill -CONT {}", process.pid));
    }
    if let Some(oldest) = process.oldest_snapshot.filter(|oldest| since(oldest.since_us) >= READS_LONG) {
        let keeps = reader.filter(|reader| reader.snapshot == oldest).map_or(String::new(), |reader| {
            format!(" (the oldest reader: it sees commit {}{})", oldest.sequence, reader.keeps())
        });
        let age = text::duration(since(oldest.since_us));
        let found = format!("{named} reads since {age}: the log grows meanwhile{keeps}");
        report.warn(PROCESSES, found, "end the transaction, or the statement that was not stepped to its end");
    }
    if let Some(since_us) = process.waiting_since_us.filter(|since_us| since(*since_us) >= WAITS_LONG) {
        let holder = scene.process_infos().iter().find(|process| process.holding.contains(&"WRITE"));
        let holder = holder.map_or_else(|| "a process".to_owned(), name);
        let found = format!("{named} waits to write since {}; {holder} writes", text::duration(since(since_us)));
        report.warn(PROCESSES, found, "keep write transactions short: nothing else inside BEGIN IMMEDIATE and COMMIT");
    }
}

fn check_engine(control: &ControlView, report: &mut Report) {
    if control.poisoned() != 0 {
        let advice =
            "look at the disk and the system's messages; then close all connections and open the database again";
        report.problem("engine", "a write or a sync of the log failed: no process can commit", advice);
    } else {
        let mode = if control.mode() == 1 { "conservative: a flush for each commit" } else { "auto" };
        report.ok("engine", format!("mode {mode}; no write of the log has failed"));
    }
}

fn check_others(scene: &Scene, report: &mut Report) {
    let rollback = matches!(scene.database.stamp(), StampState::Plain { wal: false }) && !scene.owned;
    let ours = scene.openers.all.iter().filter(|opener| opener.way == Way::Pwal);
    let names = ours.map(Opener::to_string).collect::<Vec<_>>().join(", ");
    if scene.stock_wal == OnStockWal::Alone {
        let found = format!("has it for itself, on stock SQLite's own -wal: {names}");
        report.warn(OTHERS, found, "locking_mode=EXCLUSIVE: all others get \"database is locked\" until it is closed");
    }
    if scene.stock_wal == OnStockWal::Shared {
        let found = format!("works on stock SQLite's own -wal, beside a connection that was there first: {names}");
        let advice = "close what is not on pwal, and then these, or restart them: the next open is on pwal again";
        report.warn(OTHERS, found, advice);
    }
    for opener in scene.openers.not_among(scene.process_infos()).filter(|opener| opener.way != Way::Pwal) {
        check_other(scene, opener, rollback, report);
    }
    if scene.openers.hidden > 0 {
        let hidden = scene.openers.hidden;
        let found = format!("{hidden} processes of other users may not be looked at: they may have it open, too");
        report.note(OTHERS, format!("{found} (as root one sees them)"));
    }
    if report.is_silent_on(OTHERS) {
        report.ok(OTHERS, "none has it open past pwal");
    }
}

fn check_other(scene: &Scene, opener: &Opener, rollback: bool, report: &mut Report) {
    let user = opener.user.map_or(String::new(), |user| format!(", user {user}"));
    let named = format!("{opener}{user}");
    // Its lock may be pwal's own: its files cannot be looked at.
    if opener.exclusive && !(opener.way == Way::Unknown && scene.owned) {
        let found =
            format!("{named} holds SQLite's EXCLUSIVE on the database file: no other process can read or write");
        let advice = "is it locking_mode=EXCLUSIVE, or a long write in rollback mode? End it, or close the connection";
        return report.problem(OTHERS, found, advice);
    }
    match opener.way {
        Way::Pwal => {}
        Way::Unknown => report.note(OTHERS, format!("{named} has locks on it; this user may not see how")),
        Way::Other if scene.owned => report.warn(
            OTHERS,
            format!(
                "{named} has the file open past pwal, or has not read yet: past pwal it gets \"database is locked\""
            ),
            "load pwal there before its first connection",
        ),
        Way::Other if rollback => {
            report.note(OTHERS, format!("{named} has the file open; in rollback mode all share it"))
        }
        Way::Other => report.warn(
            OTHERS,
            format!(
                "{named} has the file open past pwal: until it closes it, others work on stock SQLite's own -wal, too"
            ),
            "load pwal there before its first connection, or end it",
        ),
    }
}
