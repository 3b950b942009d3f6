//! Which of the threads that wait for a flush are woken, and when.

use super::*;
use crate::engine::KeptWake;
use std::time::Instant;

/// Longer than any look of a waiter by itself.
const LONG: Duration = Duration::from_secs(20);

/// A published commit that nobody has flushed.
fn published(engine: &Arc<Engine>, value: u64) -> u64 {
    let view = staged(engine, 1, value);
    engine.committer.prepare(view.lane()).unwrap();
    let facts = facts(engine, true);
    drop(engine.publish(view.lane(), facts, false).unwrap());
    facts.sequence
}

/// A leader that expects another committer waits for it, but no longer than a sync takes.
#[test]
fn a_leader_waits_for_the_next_committer_as_long_as_a_sync_takes() {
    let pair = Pair::new();
    let one = pair.claim();
    let sync = Duration::from_millis(50);
    one.log.settings.set_number("parallel_wal_max_flush_delay_ms", "100").unwrap().unwrap();
    one.log.marks.control().set_flush_group(2);
    one.log.marks.control().set_sync_nanos(u64::try_from(sync.as_nanos()).unwrap());
    published(&one, 1);
    let began = Instant::now();
    one.flusher.gather();
    assert!((sync..LONG).contains(&began.elapsed()), "{:?}", began.elapsed());
    // Another one: all are there.
    let next = published(&one, 2);
    one.log.marks.control().set_sync_nanos(u64::try_from(LONG.as_nanos()).unwrap());
    one.flusher.gather();
    assert!(began.elapsed() < LONG);
    one.log.marks.control().set_sync_nanos(1000);
    one.durability.wait_durable(next).unwrap();
}

/// A connection that commits again at once keeps the wake-up until it has released WRITE.
#[test]
fn the_next_waiter_is_woken_once_write_is_released() {
    let pair = Pair::new();
    let one = pair.claim();
    let mut value = 0;
    // How often the event of the epoch was notified once the commit was answered, and once `after` was done.
    let mut notified = |kept: &mut KeptWake, after: fn(&mut KeptWake)| {
        value += 1;
        let sequence = published(&one, value);
        let event = one.log.marks.control().flush_events().of(one.log.marks.control().last_certified_epoch() + 1);
        let before = event.ticket();
        let wake = one.durability.acknowledge(sequence, true, None).unwrap();
        // As fast as the simulated disk is, also where the thread had to wait for a processor in that sync.
        one.log.marks.control().set_sync_nanos(1000);
        kept.answered(wake);
        let answered = event.ticket();
        after(kept);
        (answered != before, event.ticket() != answered)
    };
    let mut kept = KeptWake::default();
    assert_eq!(notified(&mut kept, KeptWake::released), (true, false), "nothing is known of this connection");
    let mut kept = KeptWake::of_one_that_commits_again();
    assert_eq!(notified(&mut kept, KeptWake::let_go), (false, true), "it is about to wait");
    assert_eq!(notified(&mut kept, KeptWake::released), (false, true));
    let mut kept = KeptWake::of_one_that_commits_again();
    let late = |kept: &mut KeptWake| {
        std::thread::sleep(Duration::from_millis(1));
        kept.released();
    };
    assert_eq!(notified(&mut kept, late), (false, true));
    assert_eq!(notified(&mut kept, KeptWake::released), (true, false), "it was late the last time");
}

/// Whoever keeps the wake-up for ever makes the others late, no more.
#[test]
fn a_waiter_that_nobody_wakes_looks_for_itself() {
    let pair = Pair::new();
    let one = pair.claim();
    let began = Instant::now();
    let sequences: Vec<u64> = (1..=4).map(|value| published(&one, value)).collect();
    let answers: Vec<_> = std::thread::scope(|threads| {
        let waiters = sequences.iter().map(|sequence| {
            let one = &one;
            threads.spawn(move || one.durability.acknowledge(*sequence, true, None).unwrap())
        });
        let waiters: Vec<_> = waiters.collect();
        // Nothing is dropped before all have their answers.
        waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect()
    });
    assert!(began.elapsed() < LONG);
    drop(answers);
}
