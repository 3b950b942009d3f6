//! Writers that do not wait in SQLite's own busy handler, beside some that do: a handler of the application's that sleeps and
//! tries again (Rails, .NET), no handler at all, and a write inside a transaction that has read, for which SQLite asks none.
//! And one with a busy timeout beside several that poll.

use rusqlite::{Connection, ErrorCode};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use support::Watchdog;

/// Writers beside the one under test.
const OTHERS: u64 = 4;
/// What a busy machine takes from one thread in one round it does not take in all: in one of so many it has its share.
const ROUNDS: usize = 20;

/// How the connection under test comes again.
#[derive(Clone, Copy, Debug)]
enum Polls {
    /// A busy handler that sleeps so many milliseconds, and gives up after 5 s.
    Handler(u64),
    /// No busy handler: the application tries again after a millisecond.
    Application,
    /// `BEGIN; SELECT; UPDATE; COMMIT`, again from the start after a millisecond.
    Upgrade,
}

thread_local! {
    static REFUSED: Cell<u64> = const { Cell::new(0) };
    static SLEEP: Cell<u64> = const { Cell::new(0) };
    static BEGIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn sleep_and_try_again(tries: i32) -> bool {
    if tries == 0 {
        BEGIN.set(Some(Instant::now()));
    }
    REFUSED.set(REFUSED.get() + 1);
    std::thread::sleep(Duration::from_millis(SLEEP.get()));
    BEGIN.get().is_some_and(|begin| begin.elapsed() < Duration::from_secs(5))
}

fn write(db: &Connection, polls: Option<Polls>) -> rusqlite::Result<()> {
    let sql = match polls {
        Some(Polls::Upgrade) => "BEGIN; SELECT x FROM t WHERE id=1; UPDATE t SET x=x+1 WHERE id=1; COMMIT",
        _ => "UPDATE t SET x=x+1 WHERE id=1",
    };
    db.execute_batch(sql)
}

/// Commits of one connection until `stop`, and how often it was refused.
fn commits(path: &Path, synchronous: &str, polls: Option<Polls>, stop: &AtomicBool) -> (u64, u64) {
    let mut db = support::open(path);
    db.busy_timeout(if polls.is_some() { Duration::ZERO } else { Duration::from_secs(20) }).unwrap();
    if let Some(Polls::Handler(milliseconds)) = polls {
        SLEEP.set(milliseconds);
        db.busy_handler(Some(sleep_and_try_again)).unwrap();
    }
    db.pragma_update(None, "synchronous", synchronous).unwrap();
    let mut commits = 0;
    while !stop.load(SeqCst) {
        match (write(&db, polls), polls) {
            (Ok(()), _) => commits += 1,
            (Err(error), Some(Polls::Application | Polls::Upgrade)) => {
                assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy), "{error}");
                if !db.is_autocommit() {
                    support::run(&db, "ROLLBACK");
                }
                REFUSED.set(REFUSED.get() + 1);
                std::thread::sleep(Duration::from_millis(1));
            }
            (Err(error), _) => panic!("{polls:?} {synchronous}: {error}"),
        }
    }
    (commits, REFUSED.get())
}

/// What the connection under test and the others did.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    mine: u64,
    refused: u64,
    others: u64,
}

impl Done {
    /// Its commits, divided by its fair share.
    fn share(self) -> f64 {
        self.mine as f64 * (OTHERS + 1) as f64 / (self.mine + self.others) as f64
    }
}

/// `polls`: the connection under test; `others`: each of the others.
fn round(path: &Path, synchronous: &str, polls: Option<Polls>, others: Option<Polls>) -> Done {
    let stop = AtomicBool::new(false);
    let ((mine, refused), of_others): (_, u64) = std::thread::scope(|threads| {
        let others: Vec<_> = (0..OTHERS).map(|_| threads.spawn(|| commits(path, synchronous, others, &stop))).collect();
        let mine = threads.spawn(|| commits(path, synchronous, polls, &stop));
        std::thread::sleep(Duration::from_millis(700));
        stop.store(true, SeqCst);
        (mine.join().unwrap(), others.into_iter().map(|other| other.join().unwrap().0).sum())
    });
    let done = Done { mine, refused, others: of_others };
    println!("{synchronous}, {polls:?} beside {others:?}: {done:?}: {:.2} of its share", done.share());
    done
}

/// Rounds until the connection under test had half of its share in one.
fn rounds(path: &Path, synchronous: &str, polls: Option<Polls>, others: Option<Polls>) -> Vec<Done> {
    let mut rounds: Vec<Done> = Vec::new();
    while rounds.len() < ROUNDS && rounds.last().is_none_or(|done| done.share() < 0.5) {
        rounds.push(round(path, synchronous, polls, others));
    }
    assert!(
        rounds.last().is_some_and(|done| done.share() >= 0.5),
        "{synchronous}, {polls:?} beside {others:?}: {rounds:?}"
    );
    rounds
}

fn scene() -> (support::Scratch, std::path::PathBuf) {
    let scratch = support::Scratch::new();
    let path = scratch.file("app.db");
    let first = support::open_wal(&path);
    support::run(&first, "CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES(1, 0)");
    (scratch, path)
}

#[test]
fn a_writer_that_polls_gets_half_of_its_share_at_least() {
    let _watchdog = Watchdog::new("polling", Duration::from_secs(200));
    let (_scratch, path) = scene();
    for synchronous in ["FULL", "NORMAL"] {
        for polls in [
            Polls::Handler(1),
            Polls::Handler(20),
            Polls::Handler(50),
            Polls::Handler(150),
            Polls::Application,
            Polls::Upgrade,
        ] {
            let rounds = rounds(&path, synchronous, Some(polls), None);
            // Its turn comes: however busy the machine is, hardly any commit takes a second try.
            let (mine, refused) = rounds.iter().fold((0, 0), |all, done| (all.0 + done.mine, all.1 + done.refused));
            assert!(refused <= mine, "{synchronous} {polls:?}: {rounds:?}");
        }
    }
}

/// Those that poll have credits, with older places than that of a connection that waits now.
#[test]
fn so_does_one_that_waits_beside_four_that_poll() {
    let _watchdog = Watchdog::new("waiting beside those that poll", Duration::from_secs(100));
    let (_scratch, path) = scene();
    for synchronous in ["FULL", "NORMAL"] {
        for others in [Polls::Handler(1), Polls::Application] {
            rounds(&path, synchronous, None, Some(others));
        }
    }
}

/// Of those that poll `pollers`, sleeping `milliseconds` each time, beside `waiters`: what the one with the least had, divided by its
/// fair share.
fn least(path: &Path, synchronous: &str, (pollers, milliseconds): (usize, u64), waiters: usize) -> f64 {
    let stop = AtomicBool::new(false);
    let done: Vec<u64> = std::thread::scope(|threads| {
        let start = |number| {
            let polls = (number < pollers).then_some(Polls::Handler(milliseconds));
            let stop = &stop;
            threads.spawn(move || commits(path, synchronous, polls, stop).0)
        };
        let all: Vec<_> = (0..pollers + waiters).map(start).collect();
        std::thread::sleep(Duration::from_secs(3));
        stop.store(true, SeqCst);
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let share = done.iter().sum::<u64>() as f64 / done.len() as f64;
    let least = done[..pollers].iter().min().map_or(0.0, |least| *least as f64 / share);
    println!(
        "{synchronous}, {pollers} that sleep {milliseconds} ms beside {waiters}: {done:?}: {least:.2} of its share at least"
    );
    least
}

/// They sleep for longer than all others write until it is their turn, so that each refusal costs them much.
#[test]
fn so_do_several_that_sleep_for_long_beside_one_that_waits() {
    let _watchdog = Watchdog::new("several that poll", Duration::from_secs(400));
    let (_scratch, path) = scene();
    for synchronous in ["FULL", "NORMAL"] {
        for (polls, waiters) in [((1, 150), 1), ((4, 150), 1), ((4, 150), 4), ((7, 15), 4)] {
            let mut shares: Vec<f64> = Vec::new();
            while shares.len() < ROUNDS / 2 && shares.last().is_none_or(|share| *share < 0.5) {
                shares.push(least(&path, synchronous, polls, waiters));
            }
            let last = shares.last();
            assert!(last.is_some_and(|share| *share >= 0.5), "{synchronous} {polls:?} {waiters}: {shares:?}");
        }
    }
}
