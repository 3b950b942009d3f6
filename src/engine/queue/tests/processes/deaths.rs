//! A process that is killed or stopped delays the others by less than a grant.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

/// A takeover is promised within 50 ms; a machine that is busy with other tests gets more.
const SOON: Duration = Duration::from_millis(200);

/// Waits until `queue` grants `connection` what `end` frees, and says how long that took since.
fn granted_after(queue: &WriteQueue, connection: ConnectionId, end: impl FnOnce()) -> Duration {
    assert!(!queue.try_acquire(connection));
    let waiting = queue.waiting();
    std::thread::scope(|threads| {
        let granted = threads.spawn(|| {
            let granted = queue.wait(connection, LONG);
            (granted, Instant::now())
        });
        wait_until("it waits", || queue.waiting() > waiting);
        // It sleeps by now, or nearly so.
        std::thread::sleep(Duration::from_millis(7));
        let begin = Instant::now();
        end();
        let (granted, at) = granted.join().unwrap();
        assert!(granted && queue.try_acquire(connection));
        at.saturating_duration_since(begin)
    })
}

fn quick(what: &str, times: &[Duration]) {
    let longest = times.iter().max().unwrap();
    println!("{what}: {times:?}");
    assert!(*longest < SOON, "{what}: {longest:?}");
}

/// A child that plays this part and has said `told`.
fn playing(part: &str, told: &str, directory: &Directory) -> Role {
    let mut child = start(part, directory, &[]);
    child.expect(told);
    child
}

/// A child that waits for what connection 1 of `owner` has just taken.
fn waiting_for(owner: &WriteQueue, directory: &Directory) -> Role {
    assert!(owner.try_acquire(1));
    let child = playing("waits", "refused", directory);
    wait_until("it waits", || waiting(directory) == 1);
    child
}

/// The same several times, one after the other: how long each took.
fn times(count: usize, mut take: impl FnMut() -> Duration) -> Vec<Duration> {
    (0..count).map(|_| take()).collect()
}

#[test]
fn the_owner_is_killed() {
    let directory = Directory::new();
    let queue = directory.queue();
    let times = times(5, || {
        // The slot is the next one's at once.
        let child = playing("owns", "inside", &directory);
        let time = granted_after(&queue, 7, || drop(child));
        queue.release(7, false);
        time
    });
    quick("killed inside", &times);
}

#[test]
fn the_owner_is_killed_and_its_slot_is_used_again_at_once() {
    let directory = Directory::new();
    let queue = directory.queue();
    let mut child = playing("owns", "inside", &directory);
    let mut next = None;
    let time = granted_after(&queue, 7, || {
        child.kill();
        next = Some(directory.queue());
    });
    quick("killed inside, and another attached", &[time]);
    assert!(!next.unwrap().try_acquire(1));
}

#[test]
fn a_dead_owner_keeps_nobody_out_that_does_not_wait() {
    let directory = Directory::new();
    let queue = directory.queue();
    for (part, told) in [("owns", "inside"), ("keeps", "kept")] {
        playing(part, told, &directory).kill();
        assert!(queue.try_acquire(1), "{part}");
        queue.release(1, false);
    }
}

#[test]
fn a_process_that_keeps_a_lease_is_killed() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| directory.queue());
    let times = times(3, || {
        assert!(queues[1].try_acquire(1));
        let mut child = start("keeps", &directory, &[]);
        // Somebody has to wait for a lease to be kept.
        wait_until("it waits", || waiting(&directory) == 1);
        std::thread::scope(|threads| {
            let other = threads.spawn(|| write(&queues[0], 2, LONG));
            wait_until("the child waits, too", || waiting(&directory) == 2);
            queues[1].release(1, false);
            child.expect("kept");
            let begin = Instant::now();
            child.kill();
            other.join().unwrap();
            queues[0].release(2, false);
            begin.elapsed()
        })
    });
    quick("killed with a lease", &times);
}

/// How many processes wait.
fn waiting(directory: &Directory) -> usize {
    let mapping = directory.mapping();
    mapping.control().processes().filter(|process| process.waiting_since_us != 0).count()
}

#[test]
fn a_process_is_killed_with_a_grant() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| directory.queue());
    let times = times(5, || {
        let mut child = waiting_for(&queues[1], &directory);
        let time = granted_after(&queues[0], 7, || {
            queues[1].release(1, false);
            child.expect("granted");
            child.kill();
        });
        queues[0].release(7, false);
        time
    });
    quick("killed with a grant", &times);
}

#[test]
fn a_process_is_killed_while_it_waits() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| directory.queue());
    let times = times(5, || {
        waiting_for(&queues[1], &directory).kill();
        let time = granted_after(&queues[0], 7, || queues[1].release(1, false));
        queues[0].release(7, false);
        time
    });
    quick("killed while it waits", &times);
}

#[test]
fn a_process_that_is_stopped_while_it_waits_misses_its_turn_once() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| directory.queue());
    let mut child = waiting_for(&queues[1], &directory);
    child.signal(Signal::STOP);
    let first = granted_after(&queues[0], 7, || queues[1].release(1, false));
    println!("the grant of a stopped process: {first:?}");
    assert!(
        first >= Duration::from_micros(TIMES.grant) - Duration::from_millis(1),
        "nobody may take a grant before its time"
    );
    let others = [granted_after(&queues[1], 1, || queues[0].release(7, false))];
    quick("the next one", &[first]);
    println!("without it: {others:?}");
    assert!(others[0] < Duration::from_micros(TIMES.grant), "its turn again");
    child.signal(Signal::CONT);
    wait_until("it waits again", || waiting(&directory) == 1);
    queues[1].release(1, false);
    child.expect("granted");
    child.send("go");
    child.expect("inside");
}

#[test]
fn a_stopped_owner_keeps_what_it_has() {
    let directory = Directory::new();
    let queue = directory.queue();
    let mut child = playing("owns", "inside", &directory);
    child.signal(Signal::STOP);
    assert!(!queue.try_acquire(7));
    assert!(!queue.wait(7, Duration::from_millis(120)));
    let time = granted_after(&queue, 7, || {
        child.send("go");
        child.signal(Signal::CONT);
    });
    quick("after it went on", &[time]);
}

#[test]
fn processes_are_killed_at_random_moments() {
    let seed = std::env::var("PWAL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let kills = std::env::var("PWAL_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(30);
    println!("seed {seed}, {kills} kills");
    let mut rng = StdRng::seed_from_u64(seed);
    let directory = Directory::new();
    let end = Arc::new(std::sync::atomic::AtomicBool::new(false));
    // One that stays: the longest that it waits is the longest that a death took.
    let stays = directory.join();
    let queue = WriteQueue::new(Arc::clone(&stays));
    let longest = std::thread::scope(|threads| {
        let watch = threads.spawn(|| {
            let mut longest = 0;
            while !end.load(SeqCst) {
                let begin = now_us();
                write(&queue, 1, LONG);
                longest = longest.max(now_us() - begin);
                queue.release(1, begin.is_multiple_of(2));
                std::thread::sleep(Duration::from_micros(300));
            }
            longest
        });
        let mut begin = || {
            let keep_lease = rng.random_bool(0.5);
            let long = LONG.as_micros() as u64;
            let load = Load {
                threads: 2,
                keep_lease,
                work_us: 5,
                think_us: 50,
                for_us: long,
                slice_us: long,
                patient: false,
                polls_us: 0,
            };
            let mut child = load.start(&directory);
            child.expect("ready");
            child.send("go");
            (child, Duration::from_micros(rng.random_range(500..20_000)))
        };
        let mut children: Vec<_> = (0..3).map(|_| begin()).collect();
        for kill in 0..kills {
            let (child, after) = &mut children[kill % 3];
            std::thread::sleep(*after);
            child.kill();
            children[kill % 3] = begin();
        }
        end.store(true, SeqCst);
        watch.join().unwrap()
    });
    quick("the longest wait", &[Duration::from_micros(longest)]);
    assert!(stays.control().setting(COUNT) > 0);
}
