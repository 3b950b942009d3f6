//! The queue of one process, and of several: `WriteQueue`s on one control file, here and in child processes.

mod processes;

use super::*;
use crate::shared::{ALIVE_BYTE, Control, LockFile, WHOLE_LOCK};
use std::path::Path;

/// Longer than anything here takes: a wait of that long is a failure.
const LONG: Duration = Duration::from_secs(20);

fn alone() -> WriteQueue {
    let directory = tempfile::tempdir().unwrap();
    let lock = LockFile::open(&directory.path().join("lock"), 0o600).unwrap();
    assert!(lock.try_lock(WHOLE_LOCK).unwrap());
    let control = Control::anonymous().unwrap();
    let me = control.words().attach(0, 1, "alone").unwrap();
    WriteQueue::new(Arc::new(Attachment::new(control, lock, me)))
}

/// A log directory as far as the queue needs it.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Directory {
        let directory = tempfile::tempdir().unwrap();
        Control::create(&directory.path().join("control"), 0o600).unwrap();
        Directory(directory)
    }

    fn attach(&self, slot: u16) -> Arc<Attachment> {
        attach(self.0.path(), slot)
    }

    fn queue(&self, slot: u16) -> WriteQueue {
        WriteQueue::new(self.attach(slot))
    }
}

/// One more process, as the queue sees it: an open file of its own holds its lock.
fn attach(directory: &Path, slot: u16) -> Arc<Attachment> {
    let control = Control::map(&directory.join("control")).unwrap();
    let lock = LockFile::open(&directory.join("lock"), 0o600).unwrap();
    let alive = ALIVE_BYTE + u64::from(slot);
    assert!(lock.try_lock(alive..alive + 1).unwrap());
    let me = control.words().attach(slot, std::process::id(), "").unwrap();
    let attachment = Attachment::new(control, lock, me);
    let write = attachment.words().write();
    if let Some(left) = write.holder().filter(|left| left.slot == slot)
        && write.take_over(left, me)
    {
        write.release(me);
    }
    Arc::new(attachment)
}

fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !there() {
        assert!(begin.elapsed() < LONG, "{what}");
        std::thread::yield_now();
    }
}

/// As SQLite does: tries, and waits a while in the busy handler, until it has WRITE. The number of tries.
fn write(queue: &WriteQueue, connection: ConnectionId, slice: Duration) -> usize {
    let begin = Instant::now();
    for tries in 1.. {
        if queue.try_acquire(connection) {
            return tries;
        }
        assert!(begin.elapsed() < LONG, "BUSY within the timeout");
        queue.wait(connection, slice);
    }
    unreachable!()
}

#[test]
fn one_owner_and_the_longest_waiter_next() {
    let queue = Arc::new(alone());
    assert!(queue.try_acquire(1));
    assert!(!queue.try_acquire(2));
    let waits: Vec<_> = [2, 3]
        .into_iter()
        .map(|id| {
            let queue_of_thread = Arc::clone(&queue);
            let thread = std::thread::spawn(move || queue_of_thread.wait(id, LONG));
            wait_until("it waits", || queue.waiting() >= (id - 1) as usize);
            thread
        })
        .collect();
    queue.release(1, false);
    assert!(!queue.try_acquire(1), "a waiter is granted");
    let mut waits = waits.into_iter();
    assert!(waits.next().unwrap().join().unwrap());
    assert!(!queue.try_acquire(3), "the grant is connection 2's");
    assert!(queue.try_acquire(2));
    queue.release(2, false);
    assert!(waits.next().unwrap().join().unwrap());
    assert!(queue.try_acquire(3));
}

#[test]
fn a_lease_ends() {
    let queue = Arc::new(alone());
    assert!(queue.try_acquire(1));
    let of_thread = Arc::clone(&queue);
    let thread = std::thread::spawn(move || of_thread.wait(2, LONG));
    wait_until("it waits", || queue.waiting() > 0);
    queue.release(1, true);
    assert!(thread.join().unwrap(), "granted after the lease, though nobody released again");
}

#[test]
fn a_wait_ends_at_its_time_and_when_closed() {
    let queue = alone();
    assert!(queue.try_acquire(1));
    assert!(!queue.wait(2, Duration::from_millis(1)));
    queue.close();
    assert!(!queue.wait(2, LONG));
}

#[test]
fn a_grant_that_is_not_used_goes_on() {
    let queue = alone();
    assert!(queue.wait(1, LONG));
    assert!(!queue.try_acquire(2));
    queue.give_up_grant(1);
    assert!(queue.try_acquire(2));
}
