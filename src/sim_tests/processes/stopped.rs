//! A leader that lost LEADER while it stood still, and goes on: it writes nothing at the tail, certifies nothing, and lets go of
//! nothing that is not its own.

use super::parties::{FULL, Party, Scenery};
use super::takeover::check_durable;
use crate::disk::fault::Operation;
use crate::engine::Stall;
use crate::shared::Owner;
use std::time::{Duration, Instant};

fn me(party: &Party) -> Owner {
    party.engine().log.marks.member().me()
}

/// As by a process that finds that `from` makes no progress.
fn takes_leader(party: &Party, from: &Party) {
    let control = party.engine().log.marks.control();
    assert!(control.leader().take_over(me(from), me(party)));
    control.set_led_away();
}

#[test]
fn who_lost_leader_certifies_nothing() {
    let scenery = Scenery::new(1);
    let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
    first.commits();
    let sequence = second.publishes();
    let leader = first.engine().lease.try_lead().expect("LEADER is free");
    let epoch = first.engine().flusher.write_epoch(&leader, false).expect("cut").expect("something was published");
    takes_leader(&second, &first);
    let engine = second.engine().clone();
    let control = engine.log.marks.control();
    // Its sync is through; but what it synced may be written again just now, by who has LEADER.
    first.engine().flusher.sync_and_seal(&leader, epoch).expect("another process finishes it");
    assert!(control.last_certified_epoch() < epoch);
    // Nor is it poison that its own sync fails: the other one writes again, and is told by its own sync.
    scenery.plan(Operation::Sync, 1, false);
    first.engine().flusher.sync_and_seal(&leader, epoch).expect("another process finishes it");
    assert!(control.last_certified_epoch() < epoch && first.engine().log.check_poison().is_ok());
    drop(leader);
    assert_eq!(control.leader().holder(), Some(me(&second)), "it is not its own any more");
    control.leader().release(me(&second));
    second.acknowledges().expect("acknowledged");
    assert!(control.last_certified_epoch() >= epoch);
    check_durable(&scenery, sequence, vec![first, second]);
}

#[test]
fn who_lost_leader_cuts_nothing() {
    let scenery = Scenery::new(1);
    let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
    first.commits();
    second.publishes();
    let leader = first.engine().lease.try_lead().expect("LEADER is free");
    takes_leader(&second, &first);
    let control = second.engine().log.marks.control();
    let before = (control.last_written_epoch(), control.tail());
    assert_eq!(first.engine().flusher.write_epoch(&leader, false).expect("nothing failed"), None);
    assert_eq!((control.last_written_epoch(), control.tail()), before);
}

#[test]
fn a_thread_that_lost_leader_leaves_it_to_another_one_of_its_process() {
    let scenery = Scenery::new(1);
    let (first, second) = (scenery.party(1, FULL), scenery.party(2, FULL));
    let old = first.engine().lease.try_lead().expect("LEADER is free");
    takes_leader(&second, &first);
    second.engine().log.marks.control().leader().release(me(&second));
    let new = first.engine().lease.try_lead().expect("LEADER is free again");
    let append = first.engine().append.lock().expect("APPEND is free");
    assert!(new.leads(&append) && !old.leads(&append));
    drop(append);
    drop(old);
    assert_eq!(first.engine().log.marks.control().leader().holder(), Some(me(&first)));
    drop(new);
    assert_eq!(first.engine().log.marks.control().leader().holder(), None);
}

/// The lease: a live leader that makes no progress keeps LEADER for about a second.
#[test]
fn a_leader_that_makes_no_progress_loses_leader() {
    let scenery = Scenery::new(1);
    let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
    first.commits();
    let sequence = second.publishes();
    let leader = first.engine().lease.try_lead().expect("LEADER is free");
    first.engine().flusher.write_epoch(&leader, false).expect("cut").expect("something was published");
    let start = Instant::now();
    second.acknowledges().expect("acknowledged");
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert!(second.engine().log.marks.control().was_led_away(), "leaders with younger descriptors are to write again");
    let append = first.engine().append.lock().expect("APPEND is free");
    assert!(!leader.leads(&append));
    drop(append);
    drop(leader);
    check_durable(&scenery, sequence, vec![first, second]);
}

/// Each taking doubles the lease, so that a slow disk gets its time; a flush that ends sets it back.
#[test]
fn the_lease_grows_with_each_taking_and_goes_back() {
    let scenery = Scenery::new(1);
    let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
    first.commits();
    let engine = second.engine().clone();
    let control = engine.log.marks.control();
    control.set_lease_us(1_200_000);
    let leader = first.engine().lease.try_lead().expect("LEADER is free");
    let (start, mut stall) = (Instant::now(), Stall::new());
    let taken = loop {
        if let Some(taken) = engine.lease.lead_for_other(&mut stall).expect("nothing failed") {
            break taken;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(start.elapsed() >= Duration::from_millis(1200), "{:?}", start.elapsed());
    assert_eq!(control.lease_us(), 2_400_000);
    drop((leader, taken));
    second.commits();
    assert!(control.lease_us() < 1_200_000, "{}: this sync was fast", control.lease_us());
}

/// The stopped leader's sync is told of a failure that is told to no file that is opened later: who leads with such a file writes
/// again what was written before.
#[test]
fn what_the_sync_of_a_stopped_leader_lost_is_written_again_by_who_came_later() {
    for seed in 0..12 {
        let scenery = Scenery::new(seed);
        scenery.world.lock().disk.report_each();
        let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
        first.commits();
        second.publishes();
        let leader = first.engine().lease.try_lead().expect("LEADER is free");
        takes_leader(&second, &first);
        second.engine().log.marks.control().leader().release(me(&second));
        second.acknowledges().expect("acknowledged");
        // It goes on in its sync, behind another commit.
        let sequence = second.publishes();
        scenery.plan(Operation::Sync, 1, false);
        let engine = first.engine();
        let tail = engine.log.tail();
        assert!(engine.files.segment(tail.segment).expect("open").sync().is_err());
        drop(leader);
        let third = scenery.party(3, FULL);
        second.is_killed(&scenery);
        third.engine().durability.wait_durable(sequence).expect("durable");
        check_durable(&scenery, sequence, vec![first, second, third]);
    }
}

/// Of many threads that wait for a flush one looks often whether the leader goes on; the others sleep.
#[test]
fn many_that_wait_for_a_flush_sleep() {
    const WAITERS: u64 = 64;
    let scenery = Scenery::new(1);
    let mut first = scenery.party(1, FULL);
    first.commits();
    let sequence = first.publishes();
    let engine = first.engine().clone();
    let leader = engine.lease.try_lead().expect("LEADER is free");
    let switches = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("a thread of Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<u64>().ok()).expect("a number")
    };
    let slept: Vec<u64> = std::thread::scope(|threads| {
        let wait = || {
            let before = switches();
            engine.durability.wait_durable(sequence).expect("durable");
            switches() - before
        };
        let waiters: Vec<_> = (0..WAITERS).map(|_| threads.spawn(wait)).collect();
        // Of 5 ms each this would be 100 looks.
        std::thread::sleep(Duration::from_millis(500));
        drop(leader);
        waiters.into_iter().map(|waiter| waiter.join().expect("a waiter")).collect()
    });
    let most = slept.iter().max().expect("some");
    let all: u64 = slept.iter().sum();
    println!("{all} looks of {WAITERS} threads, {most} of one of them");
    // What is not 50 ms or more apart is the watcher's, and the chain of wakes at the end.
    assert!(all < WAITERS * 25, "{all} looks of {WAITERS} threads");
    assert!(*most > 15, "one looks often: {most}");
}
