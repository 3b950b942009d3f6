//! Everything at once: several processes that work on the ledger (`support::processes::worker`), some with busy handlers of their own,
//! while one after another is killed, stopped and continued, stopped and killed, forks, has no descriptor left, or the disk is
//! full.
//!
//! What must hold: nothing acknowledged is lost, every reader's snapshot is consistent, nothing fails but what the trouble
//! excuses, no statement waits longer than its bound, and at the end there is one plain file.
//!
//! `PWAL_TEST_SECONDS` (default 10 for each world), `PWAL_TEST_PROCESSES` (default 4), `PWAL_TEST_SEED` (default: the time;
//! printed). The long form: `PWAL_TEST_SECONDS=600 cargo test --test load nemesis:: -- --nocapture`.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use support::child::{self, Role};
use support::processes::board::Board;
use support::processes::worker::{BUSY_TIMEOUT, Trouble, Work};
use support::processes::{ledger, log, watch_progress};
use support::{Scratch, env_number, small_disk};

/// A process that is stopped for no longer keeps nobody waiting for longer than the busy timeout.
const SHORT_STOP: Duration = Duration::from_millis(2_500);
/// Longer than the busy timeout of the others.
const LONG_STOP: Duration = Duration::from_secs(15);
const THREADS: usize = 2;

/// What is done to the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Kill,
    KillAll,
    Stop,
    StopAndKill,
    StopForLong,
    Descriptors,
    Full,
}

/// The disk of a world.
enum Place {
    /// The one of the other tests.
    Disk,
    /// A file system of so many bytes, which can be filled.
    Small(PathBuf),
}

#[test]
fn kills_stops_forks_and_no_descriptors() {
    let _one = super::one_at_a_time();
    let scratch = Scratch::new();
    println!("{}", Nemesis::new(scratch.file("app.db"), scratch.file("board"), Place::Disk).run());
}

const SMALL: &str = "nemesis::on_a_disk_that_gets_full";

/// The same on a file system in memory of 48 MiB, in a mount namespace of a process of its own.
#[test]
fn on_a_disk_that_gets_full() {
    if child::role(SMALL) {
        let place = small_disk::place();
        let told = Nemesis::new(place.join("app.db"), place.join("board"), Place::Small(place)).run();
        child::report(&told);
        child::report("done");
        return;
    }
    let _one = super::one_at_a_time();
    let scratch = Scratch::new();
    let Some(mut nemesis) = small_disk::start(&scratch, 48, SMALL) else { return };
    let lines: Vec<String> = nemesis.lines.by_ref().inspect(|line| println!("{line}")).collect();
    assert!(nemesis.wait().success(), "the world in a namespace has failed: see above");
    assert_eq!(lines.last().map(String::as_str), Some("done"));
}

struct Nemesis {
    board: Board,
    path: PathBuf,
    place: Place,
    rng: StdRng,
    seed: u64,
    processes: Vec<Role>,
    places: usize,
    blows: BTreeMap<Blow, u64>,
}

impl Nemesis {
    fn new(path: PathBuf, board: PathBuf, place: Place) -> Nemesis {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
        let seed = env_number("PWAL_TEST_SEED", now.as_micros() as u64);
        eprintln!("PWAL_TEST_SEED={seed}");
        ledger::create(&path);
        Nemesis {
            board: Board::create(&board),
            path,
            place,
            rng: StdRng::seed_from_u64(seed),
            seed,
            processes: Vec::new(),
            places: env_number("PWAL_TEST_PROCESSES", 4) as usize,
            blows: BTreeMap::new(),
        }
    }

    /// What was done and seen.
    fn run(mut self) -> String {
        let _progress = watch_progress(&self.board, self.lines());
        self.all_start();
        let end = Instant::now() + Duration::from_secs(env_number("PWAL_TEST_SECONDS", 10));
        while Instant::now() < end {
            self.work();
            let blow = self.choose();
            *self.blows.entry(blow).or_default() += 1;
            self.strike(blow);
        }
        self.finish()
    }

    fn lines(&self) -> usize {
        self.places * THREADS
    }

    fn choose(&mut self) -> Blow {
        match self.rng.random_range(0..100) {
            0..40 => Blow::Kill,
            40..44 => Blow::KillAll,
            44..70 => Blow::Stop,
            70..80 => Blow::StopAndKill,
            80 if env_number("PWAL_TEST_SECONDS", 10) >= 60 => Blow::StopForLong,
            80..90 => Blow::Descriptors,
            _ if matches!(self.place, Place::Small(_)) => Blow::Full,
            _ => Blow::Kill,
        }
    }

    fn strike(&mut self, blow: Blow) {
        let place = self.rng.random_range(0..self.places);
        match blow {
            Blow::Kill => {
                self.kill(place);
                self.processes[place] = self.start(place);
            }
            Blow::KillAll => self.kill_all(),
            Blow::Stop => self.stop(place, SHORT_STOP, false),
            Blow::StopAndKill => self.stop(place, SHORT_STOP, true),
            Blow::StopForLong => {
                self.board.set_trouble(Trouble::STOPPED);
                self.stop(place, LONG_STOP, false);
                self.board.set_trouble(0);
            }
            Blow::Descriptors => self.no_descriptors(place),
            Blow::Full => self.fill(),
        }
    }

    fn start(&mut self, place: usize) -> Role {
        let synchronous: &[&str] = if self.rng.random_range(0..2) == 0 { &["FULL"] } else { &["FULL", "NORMAL"] };
        let work = Work {
            database: &self.path,
            board: self.board.path(),
            place,
            places: self.places,
            threads: THREADS,
            mode: "auto",
            synchronous,
            checkpoints: true,
            seed: self.rng.random(),
            life: u64::MAX,
            limit: Duration::from_secs(24 * 3600),
        };
        work.start_with(&[("PWAL_TEST_NEMESIS", String::from("1"))])
    }

    fn all_start(&mut self) {
        self.processes = (0..self.places).map(|place| self.start(place)).collect();
    }

    /// Lets them work for a while.
    fn work(&mut self) {
        let milliseconds = [2, 10, 50, 200][self.rng.random_range(0..4)];
        let time = Duration::from_millis(self.rng.random_range(0..=milliseconds));
        self.pass(time);
    }

    /// So long nothing is done to them, and nobody may fail.
    fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            self.assert_alive();
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            std::thread::sleep(left.min(Duration::from_millis(1)));
        }
    }

    fn assert_alive(&mut self) {
        let seed = self.seed;
        let ended = self.processes.iter_mut().any(|process| process.try_wait().is_some());
        assert!(!ended && !self.board.failed(), "seed {seed}: a process has ended by itself: see above");
    }

    fn kill(&mut self, place: usize) {
        self.assert_alive();
        self.processes[place].kill();
        self.clear(place);
    }

    fn clear(&self, place: usize) {
        for line in place * THREADS..(place + 1) * THREADS {
            self.board.line(line).clear();
        }
    }

    fn kill_all(&mut self) {
        self.assert_alive();
        self.processes.iter().for_each(Role::strike);
        for place in 0..self.places {
            self.processes[place].kill();
            self.clear(place);
        }
        log::assert_sound(&self.path);
        self.all_start();
    }

    fn stop(&mut self, place: usize, at_most: Duration, kill: bool) {
        let time = match self.rng.random_range(0..8) {
            0 => at_most,
            _ => at_most.min(Duration::from_millis(self.rng.random_range(0..300))),
        };
        self.processes[place].signal(Signal::STOP);
        self.pass(time);
        if kill {
            self.kill(place);
            self.processes[place] = self.start(place);
        } else {
            self.processes[place].signal(Signal::CONT);
        }
    }

    /// The process gets no new descriptor for a while; what is open stays open.
    fn no_descriptors(&mut self, place: usize) {
        let lines = place * THREADS..(place + 1) * THREADS;
        // A process that is only starting would end for reasons of its own.
        if lines.into_iter().any(|line| self.board.line(line).ready.load(SeqCst) == 0) {
            return;
        }
        let pid = Pid::from_raw(self.processes[place].pid()).expect("a pid");
        self.board.set_trouble(Trouble::DESCRIPTORS);
        let none = Rlimit { current: Some(3), ..rustix::process::getrlimit(Resource::Nofile) };
        let before = prlimit(Some(pid), Resource::Nofile, none).expect("set a limit");
        let time = Duration::from_millis(self.rng.random_range(0..300));
        self.pass(time);
        prlimit(Some(pid), Resource::Nofile, before).expect("set the limit back");
        self.board.set_trouble(0);
    }

    /// Somebody else's file takes what is left of the disk, for a while.
    fn fill(&mut self) {
        let Place::Small(place) = &self.place else { return };
        let neighbour = place.join("neighbour");
        let stays = self.rng.random_range(0..3) * 100 * 1024;
        self.board.set_trouble(Trouble::FULL);
        take_all_but(&neighbour, stays);
        let time = Duration::from_millis(self.rng.random_range(0..500));
        self.pass(time);
        std::fs::remove_file(&neighbour).expect("remove the neighbour's file");
        self.board.set_trouble(0);
    }

    /// Lets all end cleanly: one plain file is left, with every acknowledged transaction.
    fn finish(mut self) -> String {
        let seed = self.seed;
        while (0..self.lines()).any(|line| self.board.line(line).ready.load(SeqCst) == 0) {
            self.pass(Duration::from_millis(1));
        }
        self.board.stop();
        for process in &mut self.processes {
            assert!(process.wait().success(), "seed {seed}: a process has failed: see above");
        }
        let longest = Duration::from_micros(self.board.highest(|line| &line.longest_us));
        // A process that was stopped for long kept itself waiting, too.
        let bound = BUSY_TIMEOUT + if self.blows.contains_key(&Blow::StopForLong) { LONG_STOP } else { Duration::ZERO };
        assert!(longest < bound, "seed {seed}: a statement took {longest:?}");
        let done = self.board.acknowledged(self.lines());
        support::assert_plain(&self.path);
        let stock = support::open_stock(&self.path);
        support::assert_integrity(&stock);
        assert_eq!(
            ledger::look(&stock, done.len()).expect("a look"),
            done,
            "seed {seed}: rows against acknowledgements"
        );
        support::close(stock);
        format!(
            "seed {seed}: {:?}; {} commits, {} reads, {} excused, {} stale, longest {} us",
            self.blows,
            self.board.sum(|line| &line.acknowledged),
            self.board.sum(|line| &line.reads),
            self.board.sum(|line| &line.busy),
            self.board.sum(|line| &line.stale),
            self.board.highest(|line| &line.longest_us),
        )
    }
}

/// Fills the file system of this new file, but for so many bytes.
fn take_all_but(path: &Path, bytes: u64) {
    let file = File::create(path).expect("the neighbour's file");
    let left = rustix::fs::fstatvfs(&file).expect("the free space");
    let take = (left.f_bavail * left.f_frsize).saturating_sub(bytes);
    // The others take and give space meanwhile: what is not there any more is not needed.
    let mut step = take;
    let mut taken = 0;
    while step >= 4096 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), taken, step) {
            Ok(()) => taken += step,
            Err(rustix::io::Errno::NOSPC) => step /= 2,
            Err(error) => panic!("fill the disk: {error}"),
        }
        if taken >= take {
            break;
        }
    }
}
