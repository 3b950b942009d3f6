//! Rounds of threads in processes, on one database each. In two of three one process or all are killed, and what was committed is the
//! same all the same, with those transactions that were in their COMMIT in the order in which they fit.

use super::journal::{self, Journal, Journaled};
use super::replay::difference;
use super::statements::Maker;
use super::{Client, Length, RANGES, World, open};
use crate::serializable::history::Item;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use support::{Watchdog, child};

pub const PROCESSES: u64 = 3;
pub const THREADS: u64 = 2;

/// Of a process; its round has a little more ([`super::patience`]).
const PATIENCE: Duration = Duration::from_secs(110);
/// A busy timeout.
const WAIT: Duration = Duration::from_secs(60);

/// How many of the processes are killed.
fn killed(seed: u64) -> u64 {
    [0, 1, PROCESSES][seed as usize % 3]
}

pub fn round(seed: u64, length: &mut Length) {
    let mut world = World::new(seed);
    let (killed, steps) = (killed(seed), super::steps());
    let mut players: Vec<child::Role> = (0..PROCESSES)
        .map(|place| {
            let settings = [
                ("PWAL_TEST_DATABASE", world.path.to_str().expect("a name in UTF-8").to_owned()),
                ("PWAL_TEST_SEED", seed.to_string()),
                ("PWAL_TEST_PLACE", place.to_string()),
                ("PWAL_TEST_STEPS", steps.to_string()),
            ];
            child::start("concurrent::rounds::child_plays", &settings)
        })
        .collect();
    if killed > 0 {
        players.iter_mut().for_each(|player| player.expect("open"));
        if killed == PROCESSES {
            // So that no process has the log when they are dead: it is recovered.
            let nothing = Connection::open_in_memory().expect("a connection");
            support::close(std::mem::replace(&mut world.serial, nothing));
        }
        let mut random = StdRng::seed_from_u64(seed);
        std::thread::sleep(Duration::from_millis(random.random_range(0..=steps / 6)));
        let victims = &mut players[..usize::try_from(killed).expect("a count")];
        victims.iter().for_each(child::Role::strike);
        victims
            .iter_mut()
            .for_each(|victim| assert!(victim.wait().code().is_none(), "{}: it has ended before", world.seed));
        if killed == PROCESSES {
            world.serial = support::open(&world.path);
        }
    }
    for player in players.iter_mut().skip(usize::try_from(killed).expect("a count")) {
        assert!(player.wait().success(), "{}: a process has failed, see above", world.seed);
    }
    let (mut items, mut pending) = (Vec::new(), Vec::new());
    for place in 0..PROCESSES {
        for thread in 0..THREADS {
            let Journaled { mut done, pending: last, last: marked } = journal::read(&world.path, place, thread);
            items.append(&mut done);
            if place < killed {
                let there = journal::last_marked(&world.serial, place, thread);
                match last {
                    Some((mark, item)) if mark == there => pending.push(item),
                    _ => assert_eq!(there, marked, "{}: the last transaction of {place}.{thread}", world.seed),
                }
            }
        }
    }
    length.transactions += (items.len() + pending.len()) as u64;
    length.commits += (items.iter().filter(|item| item.commits).count() + pending.len()) as u64;
    length.kills += killed;
    check(world, items, pending);
}

/// What other processes count is not known here: interior pages may have changed beside each other.
///
/// With those that were killed in their COMMIT where a commit is missing, in the order that fits.
fn check(world: World, items: Vec<Item>, pending: Vec<Item>) {
    if pending.is_empty() {
        return world.check(items, false);
    }
    let known: BTreeSet<i64> = items.iter().filter(|item| item.commits).map(|item| item.order).collect();
    let missing: Vec<i64> = (world.first + 1..).filter(|order| !known.contains(order)).take(pending.len()).collect();
    let with = |order: &[usize]| {
        let placed =
            order.iter().zip(&missing).map(|(nth, at)| Item { order: *at, commits: true, ..pending[*nth].clone() });
        items.iter().cloned().chain(placed).collect::<Vec<Item>>()
    };
    let orders = orders(pending.len());
    // What they answered need not say which came first of two that wrote the same.
    let fits = |(nth, order): (usize, &Vec<usize>)| {
        world.replay(with(order), nth + 1).is_ok_and(|replayed| difference(&world.serial, &replayed).is_none())
    };
    // The last one says what does not fit.
    let nth = orders.iter().enumerate().position(fits).unwrap_or(orders.len() - 1);
    let items = with(&orders[nth]);
    println!("{}: order {nth} of {} of those that were killed", world.seed, orders.len());
    world.check(items, false);
}

/// All orders of so many.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
    let with_last = |order: &Vec<usize>, at| [&order[..at], &[last], &order[at..]].concat();
    let shorter = orders(last);
    shorter.iter().flat_map(|order| (0..=last).map(move |at| with_last(order, at))).collect()
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_plays() {
    if !child::role("concurrent::rounds::child_plays") {
        return;
    }
    let number = |name: &str| child::setting(name).parse::<u64>().expect("a number");
    let (seed, place, steps) = (number("PWAL_TEST_SEED"), number("PWAL_TEST_PLACE"), number("PWAL_TEST_STEPS"));
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let patience = PATIENCE * u32::try_from(steps.div_ceil(600)).expect("a few");
    let _watchdog = Watchdog::new("a process that plays", patience);
    // Those that are killed go on until then.
    let steps = if place < killed(seed) { u64::MAX } else { steps };
    let clients: Vec<Client> = (0..THREADS)
        .map(|thread| {
            let mut client = Client::new(open(&path, seed, WAIT));
            client.journal = Some(Journal::create(&path, (place, thread), killed(seed) > 0));
            client
        })
        .collect();
    child::report("open");
    std::thread::scope(|scope| {
        for (client, thread) in clients.into_iter().zip(0..) {
            scope.spawn(move || play(client, Maker::new(seed * 1000 + place * THREADS + thread, range(seed)), steps));
        }
    });
}

fn range(seed: u64) -> u32 {
    RANGES[seed as usize % RANGES.len()]
}

fn play(mut client: Client, mut maker: Maker, steps: u64) {
    for _ in 0..steps / 12 {
        match maker.below(8) {
            0..=1 => {
                let sql = match &mut client.journal {
                    Some(journal) if journal.marks() => journal.marked(&maker.scalar()),
                    _ => maker.statement(),
                };
                client.autocommit(&sql);
            }
            kind => {
                client.begin(if kind == 2 { "BEGIN IMMEDIATE" } else { "BEGIN" });
                for _ in 0..1 + maker.below(8) {
                    let sql = if maker.is_one_of(9) { maker.savepoint().to_owned() } else { maker.statement() };
                    client.step(&sql);
                    if maker.is_one_of(3) {
                        std::thread::yield_now();
                    }
                }
                if client.open.is_none() {
                    continue;
                }
                if maker.is_one_of(40) {
                    client.roll_back();
                } else {
                    assert!(client.commit(), "BUSY within the busy timeout");
                }
            }
        }
    }
    client.roll_back();
    support::close(client.connection);
}
