//! Several processes on one database: the board that they share with the test, and what a working process does.

pub mod agent;
pub mod board;
pub mod ledger;
pub mod log;
#[cfg(target_os = "linux")]
pub mod network_disk;
pub mod worker;

use board::{Board, TICK};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Nobody may be longer than this in one statement or transaction, or in a checkpoint or a close.
const HANG: Duration = Duration::from_secs(40);

/// Ends the test with a message when a thread of a process hangs: see [`watch_progress`].
pub struct Progress(#[allow(dead_code, reason = "it is dropped")] Sender<()>);

/// Keeps the clock of the board, and looks at it until dropped: a thread that is in one thing for too long hangs, and that is a failure, not a job
/// that somebody must cancel. `PWAL_TEST_HOLD=1` keeps everything as it is then, for a debugger.
pub fn watch_progress(board: &Board, lines: usize) -> Progress {
    let (alive, gone): (_, Receiver<()>) = channel();
    let board = board.clone();
    std::thread::spawn(move || {
        let mut last = Instant::now();
        while gone.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            board.tick(now - std::mem::replace(&mut last, now));
            let hanging = board.hanging(lines, HANG.as_micros() as u64);
            if hanging.is_empty() {
                continue;
            }
            eprintln!("watchdog: {hanging:#?}");
            while std::env::var_os("PWAL_TEST_HOLD").is_some() {
                std::thread::park();
            }
            std::process::abort();
        }
    });
    Progress(alive)
}
