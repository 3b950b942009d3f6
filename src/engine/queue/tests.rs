//! The queue of one process, and of several: `WriteQueue`s on one control file, here and in child processes.

mod processes;
mod table;

use super::*;
use crate::os::boot_id;
use crate::shared::{ControlMapping, INIT_BYTE, Identity, LockFile, State as Complete};
use std::path::Path;

/// Longer than anything here takes: a wait of that long is a failure.
const LONG: Duration = Duration::from_secs(20);

fn alone() -> WriteQueue {
    let directory = tempfile::tempdir().unwrap();
    let lock = LockFile::open(&crate::disk::Directory::open(directory.path()).unwrap(), 0o600).unwrap();
    let member = Member::acquire(ControlMapping::anonymous().unwrap(), lock, "alone").unwrap();
    WriteQueue::new(Arc::new(member.unwrap()))
}

/// A log directory as far as the queue needs it.
struct Directory(tempfile::TempDir);

const DEVICE: u64 = 1;
const INODE: u64 = 2;

impl Directory {
    fn new() -> Directory {
        let directory = tempfile::tempdir().unwrap();
        let mapping = ControlMapping::create(&crate::disk::Directory::open(directory.path()).unwrap(), 0o600).unwrap();
        let boot_id = boot_id().unwrap();
        let identity = Identity { boot_id, log_id: 3, device: DEVICE, inode: INODE, block_bytes: 4096 };
        mapping.control().set_identity(&identity);
        mapping.control().set_state(Complete::Ready);
        Directory(directory)
    }

    fn join(&self) -> Arc<Member> {
        join(self.0.path())
    }

    fn queue(&self) -> WriteQueue {
        WriteQueue::new(self.join())
    }

    fn mapping(&self) -> ControlMapping {
        ControlMapping::open(&crate::disk::Directory::open(self.0.path()).unwrap(), DEVICE, INODE).unwrap()
    }
}

/// One more process, as the queue sees it: an open file of its own holds its lock.
fn join(directory: &Path) -> Arc<Member> {
    let mapping = ControlMapping::open(&crate::disk::Directory::open(directory).unwrap(), DEVICE, INODE).unwrap();
    // Under INIT: several children begin at once.
    let lock = LockFile::open(&crate::disk::Directory::open(directory).unwrap(), 0o600).unwrap();
    wait_until("INIT", || lock.try_lock(INIT_BYTE..INIT_BYTE + 1).unwrap());
    let member = Member::acquire(mapping, lock, "").unwrap().unwrap();
    member.end_init().unwrap();
    Arc::new(member)
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

/// A waiter comes for its grant at once, and its commit makes the snapshot of a writer without a transaction too old: that one
/// waits in its busy handler, with a new snapshot afterwards. A connection that reads with its grant may never write.
#[test]
fn only_the_grant_of_a_connection_that_reads_is_waited_for() {
    let mut queue = alone();
    // No grant ends by itself, however busy the machine is.
    queue.times.grant = LONG.as_micros() as u64;
    let queue = Arc::new(queue);
    assert!(queue.try_acquire(1));
    let waits = {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || queue.wait(2, LONG))
    };
    wait_until("it waits", || queue.waiting() == 1);
    queue.release(1, false);
    assert!(waits.join().unwrap(), "granted");
    assert!(!queue.try_acquire(1));
    let began = Instant::now();
    assert!(!queue.acquire_after_grant(1, false));
    assert!(began.elapsed() < LONG, "it is refused at once");
    queue.give_up_grant(2);
    assert!(queue.take_turn(2, Duration::ZERO), "it reads");
    assert!(!queue.try_acquire(1));
    let waits = {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || queue.acquire_after_grant(1, false))
    };
    wait_until("it waits for the end of the grant", || queue.waiting() == 1);
    queue.give_up_grant(2);
    assert!(waits.join().unwrap());
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

/// Its lease may end between its snapshot and its write: what others commit then it would not have seen.
#[test]
fn one_that_takes_its_turn_within_its_lease_has_a_grant() {
    let mut queue = alone();
    // Neither ends by itself, however busy the machine is.
    let long = LONG.as_micros() as u64;
    (queue.times.lease, queue.times.longest_lease, queue.times.grant) = (long, long, long);
    let queue = Arc::new(queue);
    assert!(queue.is_alone(1));
    assert!(queue.try_acquire(1));
    assert!(!queue.is_alone(2), "another one writes");
    let of_thread = Arc::clone(&queue);
    let waits = std::thread::spawn(move || of_thread.wait(2, LONG));
    wait_until("it waits", || queue.waiting() > 0);
    queue.release(1, true);
    assert!(!queue.is_alone(3), "it has no lease");
    assert!(!queue.is_alone(1), "another one waits for the end of the lease");
    assert!(queue.take_turn(1, LONG), "at once");
    // The lease ends, and the waiter looks.
    queue.state.lock().lease = Some((1, now_us()));
    queue.settle(&mut queue.state.lock());
    assert!(queue.granted(1) && queue.waiting() == 1);
    assert!(queue.try_acquire(1));
    queue.release(1, true);
    assert!(waits.join().unwrap(), "the lease has ended, and none has begun since");
    assert!(!queue.is_alone(1));
    queue.give_up_grant(2);
    assert!(queue.is_alone(1));
}

#[test]
fn a_lease_is_longer_where_waiters_come_late() {
    let mut queue = alone();
    queue.times.grant = 5_000_000;
    assert!(queue.try_acquire(1));
    let length = |queue: &WriteQueue| queue.state.lock().lease_us(&queue.times);
    assert_eq!(length(&queue), TIMES.lease);
    for _ in 0..20 {
        let until = now_us() + 10_000_000;
        let ticket = queue.state.lock().ticket(2, now_us());
        queue.release(1, false);
        let granted = queue.wait_with(&mut queue.state.lock(), 2, (ticket, false), until);
        assert!(granted);
        let late = now_us() + 200;
        wait_until("it comes late", || now_us() >= late);
        assert!(queue.try_acquire(2));
        queue.release(2, false);
        assert!(queue.try_acquire(1));
    }
    assert_eq!(length(&queue), TIMES.longest_lease);
    // One that reads first says nothing of how late threads are woken.
    queue.state.lock().taken.handover = 0;
    queue.release(1, false);
    assert!(queue.take_turn(1, Duration::ZERO));
    let late = now_us() + 1000;
    wait_until("it reads", || now_us() >= late);
    assert!(queue.try_acquire(1));
    assert_eq!(queue.state.lock().taken.handover, 0);
}

/// The owner released while nobody waited, and whoever comes then is awake already.
#[test]
fn a_free_word_is_kept_only_for_a_connection_that_comes_soon() {
    let mut queue = alone();
    (queue.times.lease, queue.times.longest_lease) = (10 * LONG.as_micros() as u64, 10 * LONG.as_micros() as u64);
    assert!(queue.try_acquire(1));
    queue.release(1, true);
    assert!(queue.wait(2, LONG), "it waits for the end of a lease that nobody uses");
    queue.give_up_grant(2);

    assert!(queue.try_acquire(1));
    queue.state.lock().histories.entry(1).or_default().reacquires_quickly = true;
    queue.release(1, true);
    assert!(!queue.wait(2, Duration::from_millis(1)), "connection 1 may come again");
    assert!(queue.try_acquire(1));
    queue.release(1, false);
    assert!(queue.wait(2, LONG));
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

#[test]
fn a_refused_attempt_has_its_place_in_the_line() {
    let queue = Arc::new(alone());
    assert!(queue.try_acquire(1));
    assert!(!queue.try_acquire(2), "it polls");
    let waits = [3, 4].map(|id| {
        let of_thread = Arc::clone(&queue);
        let thread = std::thread::spawn(move || of_thread.wait(id, LONG));
        wait_until("it waits", || queue.waiting() >= (id - 2) as usize);
        thread
    });
    let [third, fourth] = waits;
    queue.release(1, false);
    assert!(third.join().unwrap());
    assert!(queue.try_acquire(3));
    // It came before connection 4, which is in the line already.
    let of_thread = Arc::clone(&queue);
    let second = std::thread::spawn(move || of_thread.line_up(2));
    wait_until("both wait", || queue.waiting() == 2 || second.is_finished());
    queue.release(3, false);
    if second.join().unwrap() {
        assert!(!queue.try_acquire(4), "the grant is connection 2's");
        assert!(queue.try_acquire(2));
        queue.release(2, false);
    } else {
        // The machine stood still for longer than it waits.
        wait_until("connection 4 has the grant", || queue.waiting() == 0);
    }
    assert!(fourth.join().unwrap());
}

#[test]
fn a_wait_in_the_line_is_bounded_and_only_for_those_that_poll() {
    let queue = Arc::new(alone());
    assert!(queue.try_acquire(1));
    let of_thread = Arc::clone(&queue);
    let waits = std::thread::spawn(move || of_thread.wait(2, LONG));
    wait_until("it waits", || queue.waiting() == 1);
    let begin = Instant::now();
    assert!(!queue.line_up(3), "it was never refused");
    assert!(!queue.try_acquire(3));
    assert!(!queue.line_up(3), "somebody writes");
    assert!(begin.elapsed() < LONG / 2);
    assert!(!queue.try_acquire(3));
    assert!(!queue.wait(3, Duration::from_millis(1)), "it waits in xSleep");
    queue.release(1, false);
    assert!(waits.join().unwrap());
    assert!(!queue.line_up(3), "and is no connection that polls any more");
    queue.give_up_grant(2);
}

/// It would sleep again, for as long as it pleases, each time that it meets a writer.
#[test]
fn one_that_has_polled_waits_in_the_line_when_it_comes_again() {
    let mut queue = alone();
    queue.times.grant = LONG.as_micros() as u64;
    let queue = Arc::new(queue);
    assert!(queue.try_acquire(1));
    assert!(!queue.try_acquire(2), "it polls");
    queue.release(1, false);
    assert!(queue.line_up(2) && queue.try_acquire(2));
    queue.release(2, false);
    queue.state.lock().histories.get_mut(&2).expect("a history").credit = None;
    assert!(!queue.line_up(2), "WRITE is free");
    // It waits for some milliseconds, for which the machine may stand still.
    let is_granted = (0..20).any(|_| {
        assert!(queue.try_acquire(1));
        let of_thread = Arc::clone(&queue);
        let second = std::thread::spawn(move || of_thread.line_up(2));
        wait_until("it waits", || queue.waiting() == 1 || second.is_finished());
        queue.release(1, false);
        second.join().expect("no panic")
    });
    assert!(is_granted && queue.try_acquire(2));
    queue.release(2, false);
    // Its busy timeout was set meanwhile.
    assert!(queue.try_acquire(1));
    assert!(!queue.try_acquire(2) && !queue.wait(2, Duration::from_millis(1)));
    assert!(!queue.line_up(2), "it waits in xSleep");
}

/// WRITE would be refused to it when the lease has ended after its snapshot.
#[test]
fn one_whose_lease_is_about_to_end_waits_in_the_line() {
    for (snapshot, is_about_to_end) in [(0, false), (LONG.as_micros() as u64, true)] {
        let mut queue = alone();
        (queue.times.lease, queue.times.longest_lease) = (LONG.as_micros() as u64, LONG.as_micros() as u64);
        // No grant ends by itself, however busy the machine is.
        queue.times.grant = LONG.as_micros() as u64;
        queue.times.snapshot = snapshot;
        let queue = Arc::new(queue);
        assert!(queue.try_acquire(1));
        assert!(!queue.try_acquire(2), "it polls");
        queue.release(1, false);
        assert!(queue.line_up(2) && queue.try_acquire(2));
        let of_thread = Arc::clone(&queue);
        let waits = std::thread::spawn(move || of_thread.wait(3, LONG));
        wait_until("it waits", || queue.waiting() == 1);
        queue.release(2, true);
        assert_eq!(queue.line_up(2), !is_about_to_end);
        queue.close();
        assert_eq!(waits.join().expect("no panic"), is_about_to_end);
    }
}

/// A connection that polls keeps its place while it has a credit, before all that wait. Of two turns in a row only one is such a
/// one.
#[test]
fn turns_on_credit_alternate_with_those_of_connections_that_wait() {
    let mut queue = alone();
    // No grant ends by itself, however busy the machine is.
    queue.times.grant = LONG.as_micros() as u64;
    assert!(queue.try_acquire(1));
    let order = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for (ticket, (connection, on_credit)) in (1..).zip([(2, true), (3, true), (4, false), (5, false), (6, true)]) {
            let (queue, order) = (&queue, &order);
            threads.spawn(move || {
                let deadline = now_us() + LONG.as_micros() as u64;
                assert!(queue.wait_with(&mut queue.state.lock(), connection, (ticket, on_credit), deadline));
                order.lock().push(connection);
                assert!(queue.try_acquire(connection));
                queue.release(connection, false);
            });
            wait_until("it waits", || queue.waiting() == ticket as usize);
        }
        queue.release(1, false);
    });
    assert_eq!(*order.lock(), [2, 4, 3, 5, 6]);
}
