//! Who is next, among processes that live.

use super::*;

#[test]
fn one_owner_of_all_processes() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| directory.queue());
    assert!(queues[0].try_acquire(1));
    assert!(!queues[1].try_acquire(1));
    queues[0].release(1, true);
    assert!(queues[1].try_acquire(1), "nobody waits: a lease keeps nobody out");
    assert!(!queues[0].try_acquire(1));
}

fn patient(directory: &Directory) -> WriteQueue {
    WriteQueue { times: PATIENT, ..directory.queue() }
}

#[test]
fn the_next_waiter_of_a_process_takes_the_part_of_one_that_leaves() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| patient(&directory));
    assert!(queues[0].try_acquire(1));
    std::thread::scope(|threads| {
        let leaves = threads.spawn(|| queues[1].wait(1, Duration::from_secs(1)));
        wait_until("one waits", || queues[1].waiting() == 1);
        let stays = threads.spawn(|| queues[1].wait(2, LONG));
        wait_until("both wait", || queues[1].waiting() == 2);
        assert!(!leaves.join().unwrap());
        std::thread::sleep(Duration::from_millis(5));
        let begin = Instant::now();
        queues[0].release(1, false);
        assert!(stays.join().unwrap());
        assert!(begin.elapsed() < Duration::from_secs(2), "it was not told");
    });
}

#[test]
fn another_process_knows_when_a_lease_ends() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| patient(&directory));
    assert!(queues[0].try_acquire(1));
    std::thread::scope(|threads| {
        let waits = threads.spawn(|| queues[1].wait(1, LONG));
        wait_until("it waits", || queues[0].contended());
        std::thread::sleep(Duration::from_millis(5));
        // A lease as after a short write.
        queues[0].state.lock().lease = Some((1, now_us() + 3000));
        queues[0].release(1, true);
        assert!(!queues[1].try_acquire(2), "it is kept");
        let begin = Instant::now();
        assert!(waits.join().unwrap());
        assert!(begin.elapsed() < Duration::from_secs(2), "it was not told");
    });
}

#[test]
fn who_waits_sleeps() {
    let directory = Directory::new();
    let queue = directory.queue();
    assert!(queue.try_acquire(1));
    // The longest waiter, and one behind it.
    let mut children = [(); 2].map(|()| start("sleeps", &directory, &[]));
    for child in &mut children {
        let line = child.lines.next().unwrap();
        println!("half a second: us of processor, times awake: {line}");
        let (cpu, sleeps) = line.split_once(' ').unwrap();
        assert!(cpu.parse::<u64>().unwrap() < 100_000, "{line}");
        assert!(sleeps.parse::<u64>().unwrap() < 120, "{line}");
    }
}

#[test]
fn poison_ends_the_waits_of_all_processes() {
    let directory = Directory::new();
    let queues = [(); 2].map(|()| patient(&directory));
    assert!(queues[0].try_acquire(1));
    std::thread::scope(|threads| {
        let waits = [0, 1].map(|queue| {
            let waits = threads.spawn({
                let queue = &queues[queue];
                move || queue.wait(2, LONG)
            });
            wait_until("it waits", || queues[queue].waiting() == 1);
            waits
        });
        std::thread::sleep(Duration::from_millis(5));
        let begin = Instant::now();
        directory.mapping().control().poison();
        queues[0].close();
        assert!(!waits.map(|wait| wait.join().unwrap()).contains(&true), "a grant of a poisoned log");
        assert!(begin.elapsed() < Duration::from_secs(2), "it was not told");
    });
}

#[test]
fn the_longest_waiter_of_all_processes_is_next() {
    let directory = Directory::new();
    let queues = [(); 4].map(|()| patient(&directory));
    assert!(queues[0].try_acquire(1));
    std::thread::scope(|threads| {
        // In the order of waiting, and two of one process apart.
        let mut waits = Vec::new();
        for (queue, connection) in [(2, 1), (1, 1), (3, 1), (0, 2), (2, 2)] {
            let queue = &queues[queue];
            let before = queue.waiting();
            waits.push((queue, connection, threads.spawn(move || queue.wait(connection, LONG))));
            wait_until("it waits", || queue.waiting() > before);
        }
        let mut owner = (&queues[0], 1);
        for (queue, connection, wait) in waits {
            // Longer than a tenure.
            std::thread::sleep(Duration::from_millis(2));
            owner.0.release(owner.1, false);
            assert!(wait.join().unwrap());
            assert!(queue.try_acquire(connection));
            owner = (queue, connection);
        }
    });
}

/// Runs the load in so many processes at once.
fn together(load: Load, processes: u16) -> Vec<Done> {
    all_together(&vec![load; usize::from(processes)])
}

/// Runs each of these loads in a process of its own, all at once.
fn all_together(loads: &[Load]) -> Vec<Done> {
    let directory = Directory::new();
    let mut children: Vec<_> = loads.iter().map(|load| load.start(&directory)).collect();
    for child in &mut children {
        child.expect("ready");
    }
    for child in &mut children {
        child.send("go");
    }
    let done: Vec<_> = children.iter_mut().map(|child| Done::from_line(&child.lines.next().unwrap())).collect();
    let control = directory.mapping();
    let control = control.control();
    let all: u64 = done.iter().map(|done| done.writes).sum();
    assert_eq!(control.setting(COUNT), all, "two were inside at once");
    assert_eq!(control.write().look(), OwnerState::FREE);
    done
}

fn show(name: &str, done: &[Done]) {
    let all: u64 = done.iter().map(|done| done.writes).sum();
    let sleeps: u64 = done.iter().map(|done| done.sleeps).sum();
    let cpu: u64 = done.iter().map(|done| done.cpu_us).sum();
    let longest = done.iter().map(|done| done.longest_us).max().unwrap();
    let (slowest, fastest) =
        (done.iter().map(|d| d.writes).min().unwrap(), done.iter().map(|d| d.writes).max().unwrap());
    let fewest = done.iter().map(|done| done.fewest).min().unwrap();
    println!(
        "{name}: {all} writes, process {slowest}..{fastest}, slowest thread {fewest}, longest wait {longest} us, \
         {:.2} sleeps and {:.1} us of processor for each",
        sleeps as f64 / all as f64,
        cpu as f64 / all as f64,
    );
}

const LOAD: Load = Load {
    threads: 1,
    keep_lease: false,
    work_us: 10,
    think_us: 0,
    for_us: 300_000,
    slice_us: 5_000_000,
    patient: false,
    polls_us: 0,
};

/// Other tests run at the same time: what they take from one process in one round they do not take in all. So many rounds count
/// together.
const ROUNDS: usize = 15;

#[test]
fn processes_have_equal_shares() {
    for (processes, threads, keep_lease, think_us) in [(4, 1, false, 100), (2, 4, false, 100), (4, 2, true, 0)] {
        let load = Load { threads, keep_lease, think_us, ..LOAD };
        let name = format!("{processes} x {threads}, lease {keep_lease}, flush {think_us} us");
        let mut writes = vec![0; usize::from(processes)];
        let is_equal =
            |writes: &[u64]| *writes.iter().min().unwrap() as f64 > 0.8 * *writes.iter().max().unwrap() as f64;
        for _ in 0..ROUNDS {
            let done = together(load, processes);
            show(&name, &done);
            writes.iter_mut().zip(&done).for_each(|(writes, done)| *writes += done.writes);
            if is_equal(&writes) {
                break;
            }
        }
        assert!(is_equal(&writes), "{name}: {writes:?}");
    }
}

#[test]
fn a_process_that_polls_gets_half_of_its_share_at_least() {
    for (polls_us, keep_lease, think_us) in
        [(1_000, false, 100), (1_000, true, 0), (20_000, false, 100), (20_000, true, 0)]
    {
        let other = Load { keep_lease, think_us, for_us: 500_000, ..LOAD };
        let loads = [Load { polls_us, ..other }, other, other, other];
        let name = format!("polls every {polls_us} us, lease {keep_lease}, flush {think_us} us");
        let (mut mine, mut all) = (0, 0);
        let has_half = |mine: u64, all: u64| mine as f64 * loads.len() as f64 >= 0.5 * all as f64;
        for _ in 0..ROUNDS {
            let done = all_together(&loads);
            show(&name, &done);
            mine += done[0].writes;
            all += done.iter().map(|done| done.writes).sum::<u64>();
            if has_half(mine, all) {
                break;
            }
        }
        assert!(has_half(mine, all), "{name}: {mine} of {all}");
    }
}

/// `PWAL_TEST_MILLISECONDS=1000 cargo test --lib no_wake_is_lost -- --nocapture` takes its time.
#[test]
fn no_wake_is_lost_between_processes() {
    let for_us = 1000 * number_or("PWAL_TEST_MILLISECONDS", 50);
    for (processes, threads) in [(2, 1), (4, 1), (2, 4), (4, 2), (8, 1)] {
        for (keep_lease, think_us) in [(false, 100), (false, 0), (true, 0), (true, 100)] {
            for slice_us in [5_000_000, 700] {
                let load = Load { threads, keep_lease, think_us, for_us, slice_us, patient: true, ..LOAD };
                let name =
                    format!("{processes} x {threads}, lease {keep_lease}, flush {think_us} us, slice {slice_us} us");
                let done = together(load, processes);
                show(&name, &done);
                let longest = done.iter().map(|done| done.longest_us).max().unwrap();
                assert!(longest < PATIENT.look / 2, "{name}: a wake was lost");
            }
        }
    }
}

fn number_or(name: &str, number: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(number)
}

#[test]
fn turns_on_credit_alternate_with_those_of_other_processes_too() {
    let directory = Directory::new();
    let queues = [(); 3].map(|()| patient(&directory));
    assert!(queues[0].try_acquire(1));
    queues[0].state.lock().turn_on_credit = true;
    std::thread::scope(|threads| {
        let waits = [(10, true), (20, false)].map(|(ticket, on_credit)| {
            let queue = &queues[ticket / 10];
            let wait = threads.spawn(move || {
                let deadline = now_us() + LONG.as_micros() as u64;
                queue.wait_with(&mut queue.state.lock(), 1, (ticket as u64, on_credit), deadline)
            });
            wait_until("it waits", || queue.waiting() == 1 && queues[0].contended());
            wait
        });
        let [on_credit, other] = waits;
        queues[0].release(1, false);
        assert!(other.join().unwrap(), "not the longest waiter, whose turn is on credit");
        assert!(queues[2].try_acquire(1));
        assert!(!queues[2].state.lock().turn_on_credit);
        queues[2].release(1, false);
        assert!(on_credit.join().unwrap());
        assert!(queues[1].try_acquire(1));
        assert!(queues[1].state.lock().turn_on_credit);
    });
}
