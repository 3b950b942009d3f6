//! The members of a database: the process slots, and what each process reads, waits for and holds, as plain values.
//!
//! For display, from inside ([`ControlBlock`](super::ControlBlock)) and from outside ([`Observed`](super::Observed)):
//! it takes no lock and stores nothing. The values are read one after the other, while all of them may change.

use super::control_block::ControlView;
use super::owner::Owner;
use super::process_slots::Process;
use super::snapshots::Snapshot;
use crate::status::{ProcessStatus, ReaderStatus};

/// The names of the owner locks, in the order of [`ControlView::holders`], and EXCL.
const OWNER_LOCKS: [&str; 6] = ["WRITE", "APPEND", "LEADER", "CKPT", "CREATE", "EXCL"];

/// One joined process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its slot and incarnation.
    pub owner: Owner,
    /// Its process id in its own namespace. Never a proof of life.
    pub pid: u32,
    /// The beginning of its command, at most 32 bytes.
    pub command: String,
    /// When it joined: microseconds, as [`now_us`](crate::os::now_us).
    pub joined_us: u64,
    /// Its registered snapshots: transactions that read.
    pub transactions: usize,
    /// The lowest of them.
    pub oldest_snapshot: Option<Snapshot>,
    /// Since when the longest of its waiters for WRITE waits: microseconds, as [`now_us`](crate::os::now_us).
    pub waiting_since_us: Option<u64>,
    /// Which of WRITE, APPEND, LEADER, CKPT, CREATE and EXCL (SQLite's EXCLUSIVE on the database file) it owns, in this order.
    pub holding: Vec<&'static str>,
    /// Whether it is alive, by the kernel's lock on its slot. False: it was killed; what it holds is taken over by the
    /// next process that needs it, and its slot is given to the next process.
    pub alive: bool,
}

impl ControlView {
    /// The joined processes, in the order of their slots, the dead ones too. `alive` says whether the process of an
    /// owner lives: it is this one, or its ALIVE byte is held ([`LockProbe::is_alive`](super::LockProbe::is_alive)).
    pub fn process_infos(&self, mut alive: impl FnMut(Owner) -> bool) -> Vec<ProcessInfo> {
        let mut all: Vec<ProcessInfo> = self.processes().map(|process| ProcessInfo::new(process, &mut alive)).collect();
        for snapshot in self.snapshots() {
            let Some(process) = all.iter_mut().find(|process| process.owner == snapshot.owner) else { continue };
            process.transactions += 1;
            if process.oldest_snapshot.is_none_or(|oldest| snapshot.sequence < oldest.sequence) {
                process.oldest_snapshot = Some(snapshot);
            }
        }
        let creating: Vec<Owner> = self.create.holders().collect();
        for process in &mut all {
            let holds = self.holders().map(|holder| holder == Some(process.owner));
            let creates = creating.contains(&process.owner);
            let is_exclusive = self.exclusive_holder() == Some(process.owner);
            let held = holds.into_iter().chain([creates, is_exclusive]).zip(OWNER_LOCKS);
            process.holding.extend(held.filter_map(|(is_held, name)| is_held.then_some(name)));
        }
        all
    }
}

impl Snapshot {
    /// For people: its process (`None`: it has ended meanwhile), its age at `now_us` ([`now_us`](crate::os::now_us)), and the bytes of the
    /// log that stay for it (`None`: the log cannot be read).
    #[must_use]
    pub fn status(&self, process: Option<(u32, String)>, now_us: u64, kept_bytes: Option<u64>) -> ReaderStatus {
        let (pid, command) = process.unzip();
        let for_us = now_us.saturating_sub(self.since_us);
        ReaderStatus { pid, command, snapshot: self.sequence, for_us, kept_bytes }
    }
}

impl ProcessInfo {
    fn new(process: Process, mut alive: impl FnMut(Owner) -> bool) -> ProcessInfo {
        let Process { owner, pid, joined_us, waiting_since_us, command } = process;
        ProcessInfo {
            owner,
            pid,
            command,
            joined_us,
            transactions: 0,
            oldest_snapshot: None,
            waiting_since_us: (waiting_since_us != 0).then_some(waiting_since_us),
            holding: Vec::new(),
            alive: alive(owner),
        }
    }

    /// For people: times as microseconds from then to `now_us` ([`now_us`](crate::os::now_us)).
    #[must_use]
    pub fn status(&self, now_us: u64) -> ProcessStatus {
        let ago = |since_us: u64| now_us.saturating_sub(since_us);
        ProcessStatus {
            slot: self.owner.slot,
            pid: self.pid,
            command: self.command.clone(),
            alive: self.alive,
            attached_for_us: ago(self.joined_us),
            transactions: self.transactions,
            oldest_snapshot: self.oldest_snapshot.map(|snapshot| snapshot.sequence),
            oldest_snapshot_for_us: self.oldest_snapshot.map(|snapshot| ago(snapshot.since_us)),
            waiting_for_us: self.waiting_since_us.map(ago),
            holding: self.holding.iter().map(|name| String::from(*name)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{ControlBlock, ControlMapping};

    fn join(control: &ControlBlock, slot: u16, pid: u32) -> Owner {
        control.process_slots().acquire(slot, pid, "a program").unwrap()
    }

    #[test]
    fn each_process_has_what_is_its_own() {
        let mapping = ControlMapping::anonymous().unwrap();
        let control = mapping.control();
        assert_eq!(control.process_infos(|_| true), []);
        let one = join(control, 0, 70);
        let other = join(control, 3, 80);
        for (owner, sequence, now) in [(one, 9, 5), (one, 4, 7), (one, 6, 8), (other, 5, 6)] {
            let slot = control.snapshot_slots().claim(owner).unwrap();
            assert!(control.take_snapshot(slot, sequence, now));
        }
        let idle = control.snapshot_slots().claim(other);
        assert!(idle.is_some());
        assert!(control.write().try_acquire(other, false) && control.checkpoint().try_acquire(other, false));
        assert!(control.leader().try_acquire(one, false));
        assert!(control.exclusive().try_acquire(one, false));
        control.process_slots().set_waiting(one, 11);

        let seen = control.process_infos(|owner| owner == one);
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].owner, seen[0].pid, seen[0].alive), (one, 70, true));
        let oldest = seen[0].oldest_snapshot.unwrap();
        assert_eq!((seen[0].transactions, oldest.sequence, oldest.since_us), (3, 4, 7));
        assert_eq!((seen[0].waiting_since_us, &seen[0].holding[..]), (Some(11), &["LEADER", "EXCL"][..]));
        assert_eq!((seen[1].owner, seen[1].pid, seen[1].alive), (other, 80, false));
        assert_eq!((seen[1].transactions, seen[1].oldest_snapshot.unwrap().sequence), (1, 5));
        assert_eq!((seen[1].waiting_since_us, &seen[1].holding[..]), (None, &["WRITE", "CKPT"][..]));

        let status = seen[0].status(1_000_000);
        assert_eq!((status.pid, &status.command[..], status.alive), (70, "a program", true));
        assert_eq!((status.oldest_snapshot, status.oldest_snapshot_for_us), (Some(4), Some(999_993)));
        assert_eq!(
            (status.waiting_for_us, &status.holding[..]),
            (Some(999_989), &["LEADER", "EXCL"].map(String::from)[..])
        );
        assert_eq!(seen[1].status(0).waiting_for_us, None);
        assert_eq!(seen[1].status(0).attached_for_us, 0, "a clock behind the writer's");
    }

    #[test]
    fn what_a_predecessor_left_is_not_its_successors() {
        let mapping = ControlMapping::anonymous().unwrap();
        let control = mapping.control();
        let dead = join(control, 2, 70);
        let slot = control.snapshot_slots().claim(dead).unwrap();
        assert!(control.take_snapshot(slot, 3, 1) && control.write().try_acquire(dead, false));
        let next = join(control, 2, 71);
        let seen = control.process_infos(|_| true);
        assert_eq!((seen.len(), seen[0].owner, seen[0].pid), (1, next, 71));
        assert_eq!((seen[0].transactions, seen[0].oldest_snapshot, seen[0].holding.len()), (0, None, 0));
    }
}
