//! What a power cut behind an open finds: what the open did is durable, as far as the next one relies on it.

use super::{FACTS, OWN};
use pwal::internal::disk::fault::{DATABASE_NAME, Effect, Fault, Operation};
use pwal::internal::disk::sim::{HeaderTear, PowerCut};
use pwal::internal::log::recovery::{Next, Opened, open_database};
use support::log::{Commit, Files, LogBuilder, Place, SimPlace, database_of, stamped};

/// Of what was not synced a power cut leaves what the dice say.
const SEEDS: std::ops::Range<u64> = 0..24;
const NOTHING_KEPT: PowerCut =
    PowerCut { keep_percent: 0, tears_sectors: false, tears_same_bytes: false, tears_header: HeaderTear::Never };

fn place(files: &Files, seed: u64) -> SimPlace {
    let place = SimPlace::new(files);
    SimPlace { disk: place.disk.deep_clone(seed), path: place.path }
}

/// Commits that write every page.
fn log() -> LogBuilder {
    let mut log = LogBuilder::new(OWN, 1024);
    log.commit(&Commit { frames: &[(1, 5), (2, 5), (3, 5)], ..Commit::default() });
    log
}

/// Beside a new log it would be one more, of nobody knows which file.
#[test]
fn a_directory_that_was_moved_away_is_not_back_after_a_power_cut() {
    let files = Files::new(database_of(&[0; 3], 1024)).with_file("lock", b"").with(&log().files);
    for seed in SEEDS {
        let place = place(&files, seed);
        let opened = open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap();
        assert_eq!(opened.next, Next::ClaimAgain);
        place.disk.power_cut(&NOTHING_KEPT);
        assert_eq!(place.moved_away(), [format!("orphan-{OWN:016x}")], "seed {seed}");
        assert_eq!(place.files().directory, None, "seed {seed}");
    }
}

/// The sync of the plain page 1 (Z3) has failed: it reads plain, and what the medium has nobody knows. The open after that may not
/// delete the log before page 1 is written again, and synced.
#[test]
fn a_page_one_that_reads_plain_behind_a_failed_sync_is_written_again() {
    let files = Files::new(stamped(&[0; 3], 1024, OWN, 0)).with_file("lock", b"").with(&log().files);
    let mut old_on_the_medium = 0;
    for seed in SEEDS {
        let place = place(&files, seed);
        let fault = Fault {
            operation: Operation::Sync,
            name_contains: DATABASE_NAME.to_owned(),
            nth: 3,
            effect: Effect::Error,
            goes_on: false,
        };
        place.disk.plan().add(fault);
        open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap_err();
        assert_eq!(place.disk.plan().fired(), 1, "that of T is the first, the replay's the second");
        let (cache, medium) = place.disk.contents(&place.path).unwrap();
        assert_eq!(cache[18..20], [2, 2]);
        old_on_the_medium += u32::from(medium[18..20] != [2, 2]);
        let opened = open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap();
        assert_eq!(opened.next, Next::Ready);
        place.disk.power_cut(&NOTHING_KEPT);
        let again = open_database(&*place.directory(), &mut *place.database(), FACTS);
        assert!(matches!(again, Ok(Opened { next: Next::Ready, .. })), "seed {seed}: {again:?}");
        assert!(place.files().database == database_of(&[5; 3], 1024), "seed {seed}");
    }
    assert!(old_on_the_medium >= 6, "the medium had the stamp in {old_on_the_medium} runs only");
}
