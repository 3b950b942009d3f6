//! A commit of another process in the midst of one that writes beside it: after what was published by then was validated, before WRITE
//! is held. (On one thread no other process comes between by itself.)

use super::{Checked, Life, Statement, Write, twin_schema};
use crate::vfs::power_tests::script;
use crate::vfs::power_tests::state::state;
use rusqlite::Connection;
use std::cell::RefCell;
use std::rc::Rc;

/// The place in `handle::concurrent`.
pub const PLACE: &str = "before WRITE of a commit";

type Act = Box<dyn FnOnce()>;

thread_local! {
    static ACT: RefCell<Option<Act>> = const { RefCell::new(None) };
}

/// A commit has come to [`PLACE`].
pub fn is_there() {
    if let Some(act) = ACT.with_borrow_mut(Option::take) {
        act();
    }
}

impl Life {
    /// A connection of another process, whose open transaction has written.
    pub(super) fn other_writer(&self, at: usize) -> Option<usize> {
        let process = self.clients[at].process;
        (0..self.clients.len())
            .find(|other| self.clients[*other].process != process && self.clients[*other].has_written())
    }

    /// The state of the only database after these transactions.
    fn played(&self, transactions: &[&[Statement]], end: &str) -> u64 {
        self.twin.execute_batch("BEGIN").expect("the twin begins");
        for Statement { file, sql } in transactions.iter().copied().flatten() {
            let sql = file.map_or_else(|| sql.clone(), |file| script::in_schema(sql, &twin_schema(file)));
            let _either = self.twin.execute_batch(&sql);
        }
        let then = state(&self.twin, &twin_schema(0)).expect("a state");
        self.twin.execute_batch(end).expect("the twin ends");
        then
    }

    /// COMMIT of the connection `at`; in its midst that of `other`, if it comes there. Each has done these statements.
    pub(super) fn commit_with(
        &mut self,
        (at, own): (usize, &[Statement]),
        (other, others): (usize, Vec<Statement>),
    ) -> Checked {
        let [alone, first, second] = [&[own][..], &[&others], &[&others, own]].map(|all| self.played(all, "ROLLBACK"));
        let (machine, is_durable) = (self.machine.clone(), self.is_durable(other, 0));
        let nothing = Connection::open_in_memory().expect("a connection");
        let seat = Rc::new((std::mem::replace(&mut self.clients[other].connection, nothing), RefCell::new(None)));
        machine.promise(0, |promise| promise.under_way = Some(alone));
        let act = {
            let (seat, machine) = (seat.clone(), machine.clone());
            move || {
                machine.promise(0, |promise| promise.under_way = Some(first));
                let done = seat.0.execute_batch("COMMIT");
                machine.promise(0, |promise| {
                    promise.under_way = Some(if done.is_ok() { second } else { alone });
                    if done.is_ok() {
                        promise.last += 1;
                        promise.kept = promise.last;
                        promise.must = if is_durable { promise.last } else { promise.must };
                    }
                });
                *seat.1.borrow_mut() = Some(done);
            }
        };
        ACT.set(Some(Box::new(act)));
        let done = self.clients[at].connection.execute_batch("COMMIT");
        ACT.take();
        let (connection, others_done) = Rc::into_inner(seat).expect("the act is over");
        self.clients[other].connection = connection;
        let others_done = others_done.into_inner();
        self.say(format!("{at}: COMMIT: {done:?}; before it has WRITE, {other}: COMMIT: {others_done:?}"));
        match &others_done {
            None => self.clients[other].transaction = Some(others),
            Some(Ok(())) => {
                self.played(&[&others], "COMMIT");
                self.histories[0].push(first);
                self.machine.count("commits in the midst of another's");
            }
            Some(Err(error)) => {
                self.fails("COMMIT", error)?;
                self.roll_back(other)?;
            }
        }
        match done {
            Ok(()) => {
                let then = self.played(&[own], "COMMIT");
                self.committed(at, &Write { file: 0, then, changes: true, has_journal: false });
                self.machine.count("commits");
                self.machine.count("commits beside others");
            }
            Err(error) => {
                self.machine.promise(0, |promise| promise.under_way = None);
                self.machine.count("transactions that lost");
                self.fails("COMMIT", &error)?;
            }
        }
        self.roll_back(at)
    }
}
