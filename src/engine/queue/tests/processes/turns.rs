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

/// Runs the load in so many processes at once.
fn together(load: Load, processes: u16) -> Vec<Done> {
    let directory = Directory::new();
    let mut children: Vec<_> = (0..processes).map(|_| load.start(&directory)).collect();
    for child in &mut children {
        child.expect("ready");
    }
    for child in &mut children {
        child.send("go");
    }
    let done: Vec<_> = children.iter_mut().map(|child| Done::from_line(&child.lines.next().unwrap())).collect();
    let words = directory.control();
    let words = words.words();
    let all: u64 = done.iter().map(|done| done.writes).sum();
    assert_eq!(words.setting(COUNT), all, "two were inside at once");
    assert_eq!(words.write().look(), Held::FREE);
    done
}

fn show(name: &str, done: &[Done]) -> f64 {
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
    slowest as f64 / fastest as f64
}

const LOAD: Load = Load {
    threads: 1,
    keep_lease: false,
    work_us: 10,
    think_us: 0,
    for_us: 300_000,
    slice_us: 5_000_000,
    patient: false,
};

#[test]
fn processes_have_equal_shares() {
    for (processes, threads, keep_lease, think_us) in [(4, 1, false, 100), (2, 4, false, 100), (4, 2, true, 0)] {
        let load = Load { threads, keep_lease, think_us, ..LOAD };
        let name = format!("{processes} x {threads}, lease {keep_lease}, flush {think_us} us");
        // Other tests run at the same time: what they take from one process in one round they do not take in all.
        let ratios: Vec<_> = (0..5).map(|_| show(&name, &together(load, processes))).collect();
        assert!(ratios.iter().any(|ratio| *ratio > 0.8), "{name}: {ratios:?}");
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
