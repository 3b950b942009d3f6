//! A failed read or write, a short write, a failed sync, a full disk, at every place where pwal touches the medium: what the
//! statement answers, what the next ones answer here and on other connections, and what is there
//! after a kill, and after the database is opened again.
//!
//! Each case plans one failure of the n-th operation of a kind ([`pwal::internal::disk::fault`] for the log's files,
//! [`support::shim`] below pwal for the database file), plays a scene, and compares: nothing acknowledged is
//! missing, nothing that was reported as failed comes back (unless the error says that its outcome is
//! unknown), nobody sees a failed commit, nothing hangs. n goes up until nothing fails any more.
//!
//! `PWAL_TEST_FAULTS=all` plays every n; by default the larger ones are thinned out. One case again:
//! `PWAL_TEST_FAULT='<as printed>'`.

mod scene;
mod world;

use pwal::internal::disk::fault::{Effect, Operation};
use scene::SCENES;
use std::time::Duration;
use support::Watchdog;
use world::{Case, Target, World};

/// What fails, and where.
const LOG: [(Operation, &str, &[Effect]); 10] = [
    (Operation::Write, ".seg", &[Effect::Error, Effect::NoSpace, Effect::Short(600), Effect::Done]),
    (Operation::Write, ".spill", &[Effect::Error, Effect::NoSpace, Effect::Short(600)]),
    (Operation::Sync, ".seg", &[Effect::Error, Effect::Done]),
    (Operation::Sync, ".spill", &[Effect::Error, Effect::Done]),
    (Operation::Sync, "(", &[Effect::Error, Effect::Done]),
    (Operation::Create, "", &[Effect::Error, Effect::NoSpace, Effect::Done]),
    (Operation::Open, "", &[Effect::Error, Effect::Done]),
    (Operation::Remove, "", &[Effect::Error, Effect::Done]),
    // And lists of the directory.
    (Operation::Read, "", &[Effect::Error]),
    (Operation::SetBytes, "", &[Effect::Error, Effect::Done]),
];

const DATABASE: [(Operation, &[Effect]); 4] = [
    (Operation::Write, &[Effect::Error, Effect::NoSpace, Effect::Short(100), Effect::Done]),
    (Operation::Sync, &[Effect::Error, Effect::Done]),
    (Operation::SetBytes, &[Effect::Error, Effect::Done]),
    (Operation::Read, &[Effect::Error]),
];

fn play_all(target: Target, operation: Operation, name: &str, effects: &[Effect]) {
    if !support::on_pwal() {
        return;
    }
    let only = std::env::var("PWAL_TEST_FAULT").ok();
    let world = World::new();
    let (mut cases, mut failed) = (0, 0);
    for scene in &SCENES {
        for effect in effects {
            for goes_on in [false, true] {
                if goes_on && *effect != effects[0] && !all() {
                    continue;
                }
                let mut nth = 1;
                loop {
                    let case = Case { target, operation, name: name.to_owned(), effect: *effect, goes_on, nth };
                    let title = format!("{}: {case}", scene.name);
                    if only.as_ref().is_none_or(|only| *only == title) {
                        let _watchdog = Watchdog::new(&title, Duration::from_secs(60));
                        let fired = std::panic::catch_unwind(|| world.play(scene, &case));
                        let fired = fired.unwrap_or_else(|_| panic!("PWAL_TEST_FAULT='{title}'"));
                        cases += 1;
                        failed += u32::from(fired);
                        if !fired {
                            break;
                        }
                    } else if nth > 500 {
                        break;
                    }
                    nth += step(nth);
                }
            }
        }
    }
    println!("{operation:?} {name}: {cases} cases, {failed} with a failure");
    // Files are opened again only to take back what failed.
    assert!(failed > 0 || operation == Operation::Open || only.is_some(), "no scene comes here");
}

fn all() -> bool {
    std::env::var("PWAL_TEST_FAULTS").as_deref() == Ok("all")
}

/// All of the first ones, then fewer and fewer.
fn step(nth: u64) -> u64 {
    if all() { 1 } else { 1 + nth / 3 }
}

macro_rules! log_faults {
    ($($test:ident $index:expr;)*) => {
        $(#[test]
        fn $test() {
            let (operation, name, effects) = LOG[$index];
            play_all(Target::Log, operation, name, effects);
        })*
    };
}

log_faults! {
    writes_to_slots 0;
    writes_to_spill_files 1;
    syncs_of_slots 2;
    syncs_of_spill_files 3;
    syncs_of_directories 4;
    creations 5;
    openings 6;
    deletions 7;
    reads_of_the_log 8;
    truncations_of_slots 9;
}

macro_rules! database_faults {
    ($($test:ident $index:expr;)*) => {
        $(#[test]
        fn $test() {
            let (operation, effects) = DATABASE[$index];
            play_all(Target::Database, operation, "app.db", effects);
        })*
    };
}

database_faults! {
    writes_to_the_database_file 0;
    syncs_of_the_database_file 1;
    truncations_of_the_database_file 2;
    reads_of_the_database_file 3;
}
