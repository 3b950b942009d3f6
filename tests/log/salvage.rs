//! What can be had where recovery refuses: the longest prefix that is valid, or the database file without its log.

use pwal::internal::disk::fault::{Effect, Fault, FaultDatabase, Operation, Plan};
use pwal::internal::disk::hooked::HookedDisk;
use pwal::internal::disk::sim::{HeaderTear, PowerCut};
use pwal::internal::disk::{Disk, LogDirectory, RealDisk};
use pwal::internal::log::format::{marker_name, segment_name};
use pwal::internal::log::recovery::{Next, OpenFacts, open_database};
use pwal::internal::log::salvage::{Discarded, Salvage, discard_log, plan, salvage};
use pwal::internal::log::undo::UNDO_NAME;
use pwal::internal::log::{ErrorKind, LogError};
use std::sync::Arc;
use support::log::{Commit, Files, LogBuilder, Place, RealPlace, SimPlace, database_of, stamped};

const ID: u64 = 0xfeed;

fn log(commits: u64) -> LogBuilder {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(commits);
    log
}

fn damaged() -> LogBuilder {
    let mut log = log(6);
    log.certify(6, 1);
    let (bytes, at) = log.place(4);
    bytes[at + 1000] ^= 1;
    log
}

fn files(target: u64, log: &LogBuilder) -> Files {
    Files::new(stamped(&LogBuilder::values_after(target), 1024, ID, target)).with(&log.files).with_file("lock", b"")
}

fn open(place: &dyn Place) -> Result<Next, LogError> {
    Ok(open_database(&*place.directory(), &mut *place.database(), OpenFacts::default())?.next)
}

/// Salvages on both disks; the pages behind it are those of commit `last`.
#[track_caller]
fn expect_salvaged(files: &Files, base: u64, last: u64, known: u64, seen: u64) {
    let places: [Box<dyn Place>; 2] = [Box::new(SimPlace::new(files)), Box::new(RealPlace::new(files))];
    for place in places {
        assert!(open(&*place).is_err());
        let Salvage::Possible(planned) = plan(&*place.directory(), &mut *place.database()).unwrap() else {
            panic!("nothing to salvage")
        };
        assert!(place.files() == *files, "the plan touched something");
        let done = salvage(&*place.directory(), &mut *place.database()).unwrap().unwrap();
        assert_eq!(done.plan, planned);
        assert_eq!((planned.base, planned.last, planned.known, planned.seen), (base, last, known, seen));
        assert!(place.files() == Files::new(database_of(&LogBuilder::values_after(last), 1024)));
        assert_eq!(place.moved_away(), [done.moved_to]);
        assert_eq!(open(&*place).unwrap(), Next::Ready);
    }
}

#[test]
fn the_prefix_before_damage_is_saved() {
    expect_salvaged(&files(2, &damaged()), 1, 3, 6, 2);
    expect_salvaged(&files(2, &log(4)).with_file(marker_name(ID, 5), b""), 0, 4, 5, 2);
}

#[test]
fn an_old_copy_gets_what_the_log_still_holds() {
    let mut log = log(6);
    log.certify(6, 4);
    expect_salvaged(&files(2, &log), 2, 6, 6, 2);
    // Commit 3 is gone: the segment was used again.
    let (bytes, at) = log.place(3);
    bytes[at..at + 4096].fill(0);
    let files = files(2, &log);
    let place = SimPlace::new(&files);
    let impossible = plan(&*place.directory(), &mut *place.database()).unwrap();
    assert!(matches!(impossible, Salvage::Impossible { .. }), "{impossible:?}");
    let error = salvage(&*place.directory(), &mut *place.database()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CannotOpen);
    assert!(place.files() == files);
}

#[test]
fn a_half_stamp_with_commits_is_saved() {
    let mut files = files(0, &log(3));
    files.database[18..20].fill(2);
    expect_salvaged(&files, 0, 3, 3, 0);
}

#[test]
fn older_images_are_never_written_over_newer_ones() {
    // The one record that carries B rots, and the spill file of commit 2 is gone, as it may: the file holds commit 3 whole.
    let mut log = LogBuilder::new(ID, 1024);
    log.commit(&Commit { frames: &[(1, 11), (2, 12)], ..Commit::default() });
    log.commit(&Commit { frames: &[(1, 21), (3, 23)], spill_from: 1, ..Commit::default() });
    log.commit(&Commit { frames: &[(2, 32)], ..Commit::default() });
    log.certify(0, 0);
    log.certify(3, 0);
    let mark = log.offset as usize;
    log.certify(3, 3);
    log.files.retain(|name, _| !name.ends_with(".spill"));
    log.place_of_header()[mark + 56] ^= 1;
    let files = Files::new(stamped(&[21, 32, 23], 1024, ID, 3)).with(&log.files).with_file("lock", b"");
    for place in [Box::new(SimPlace::new(&files)) as Box<dyn Place>, Box::new(RealPlace::new(&files))] {
        assert!(open(&*place).is_err());
        let done = salvage(&*place.directory(), &mut *place.database()).unwrap().unwrap();
        assert_eq!((done.plan.last, done.plan.seen, done.plan.replays, done.pages), (1, 3, false, 0));
        assert!(place.files() == Files::new(database_of(&[21, 32, 23], 1024)));
    }
}

#[test]
fn a_broken_segment_header_costs_salvage_nothing() {
    let mut log = log(2);
    log.certify(2, 0);
    log.rotate(1);
    log.commits(5);
    log.certify(7, 0);
    let mut only = log.clone();
    log.files.get_mut(&segment_name(ID, 1)).unwrap()[40] ^= 1;
    expect_salvaged(&files(0, &log), 0, 7, 7, 0);
    // Both: block and page are those of the batches and of the database.
    only.files.get_mut(&segment_name(ID, 1)).unwrap()[40] ^= 1;
    only.place_of_header()[16] ^= 1;
    expect_salvaged(&files(0, &only), 0, 7, 7, 0);
}

/// What a salvage overwrote comes back by SQLite itself.
#[test]
fn sqlite_undoes_a_salvage() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.db");
    let sql = |path: &std::path::Path, sql: &str| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.query_row("SELECT group_concat(x, ' ') FROM t", [], |row| row.get::<_, String>(0)).unwrap()
    };
    let page = "PRAGMA page_size=1024; PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES('old');";
    assert_eq!(sql(&path, page), "old");
    let before = std::fs::read(&path).unwrap();
    assert_eq!(sql(&path, "UPDATE t SET x='new'; INSERT INTO t VALUES('more')"), "new more");
    let after = std::fs::read(&path).unwrap();
    // Its pages as one commit of a log of which the second is damaged.
    let mut log = LogBuilder::new(ID, 1024);
    let images: Vec<&[u8]> = after.chunks(1024).collect();
    let pages: Vec<(u32, u64)> = (1..=images.len() as u32).map(|page| (page, 0)).collect();
    let database_pages = images.len() as u32;
    log.commit(&Commit { frames: &pages, database_pages, images: &images, ..Commit::default() });
    log.commits(1);
    log.certify(2, 0);
    let (bytes, at) = log.place(2);
    bytes[at + 1000] ^= 1;
    let mut stamped = before.clone();
    pwal::internal::log::stamp::Stamp { log_id: ID, backfill_target: 0 }.apply(&mut stamped);
    let real = RealPlace::new(&Files::new(stamped).with(&log.files).with_file("lock", b""));
    let done = salvage(&*real.directory(), &mut *real.database()).unwrap().unwrap();
    assert_eq!((done.plan.last, done.pages), (1, pages.len() as u64));
    assert_eq!(sql(&real.path(), ""), "new more");
    let moved = real.path().with_file_name(format!("a.db-pwal.{}", done.moved_to));
    std::fs::rename(moved.join(UNDO_NAME), real.path().with_file_name("a.db-journal")).unwrap();
    assert_eq!(sql(&real.path(), ""), "old");
    assert!(std::fs::read(real.path()).unwrap() == before, "the file is not what it was");
}

#[test]
fn a_healthy_log_needs_no_salvage() {
    for files in [files(0, &log(3)), Files::new(database_of(&[0; 3], 1024))] {
        let place = SimPlace::new(&files);
        assert_eq!(plan(&*place.directory(), &mut *place.database()).unwrap(), Salvage::NotNeeded);
        assert_eq!(salvage(&*place.directory(), &mut *place.database()).unwrap(), None);
        assert!(place.files().database == files.database);
    }
}

#[test]
fn a_log_is_given_up_on_request() {
    let place = RealPlace::new(&files(2, &damaged()));
    let discarded = discard_log(&*place.directory(), &mut *place.database()).unwrap();
    assert_eq!(discarded.given_up, [(ID, 1, 6)]);
    assert_eq!(place.moved_away(), [discarded.moved_to.unwrap()]);
    assert!(place.files() == Files::new(database_of(&LogBuilder::values_after(2), 1024)));
    // A bare copy.
    let bare = Files::new(stamped(&[1, 2, 3], 1024, ID, 7)).with_file("lock", b"");
    let place = SimPlace::new(&bare);
    let discarded = discard_log(&*place.directory(), &mut *place.database()).unwrap();
    assert_eq!(discarded, Discarded { moved_to: None, given_up: vec![], unreadable: vec![] });
    assert!(place.files() == Files::new(database_of(&[1, 2, 3], 1024)).with_file("lock", b""));
}

#[test]
fn a_salvage_may_be_cut_short_anywhere() {
    let files = files(2, &damaged());
    for stop in 0.. {
        let stopped = SimPlace::new(&files);
        stopped.disk.stop_after(stop);
        let result = salvage(&*stopped.directory(), &mut *stopped.database());
        for seed in 0..30 {
            let place = SimPlace { disk: stopped.disk.deep_clone(seed), path: stopped.path.clone() };
            let keep_percent = [0, 50, 100][seed as usize % 3];
            if seed % 4 == 0 {
                place.disk.kill();
            } else {
                place.disk.power_cut(&PowerCut {
                    keep_percent,
                    tears_sectors: true,
                    tears_same_bytes: false,
                    tears_header: HeaderTear::Never,
                });
            }
            salvage(&*place.directory(), &mut *place.database()).unwrap();
            let next = open(&place).unwrap();
            if next == Next::ClaimAgain {
                assert_eq!(open(&place).unwrap(), Next::Ready);
            }
            assert!(place.files().database == database_of(&LogBuilder::values_after(3), 1024), "{stop} {seed}");
        }
        if result.is_ok() {
            assert!(stop > 5);
            break;
        }
    }
}

#[test]
fn planned_faults_hit_real_files() {
    let all = files(0, &log(3));
    let faults = [
        (Operation::Read, ".seg", ErrorKind::Io, Effect::Error),
        (Operation::Sync, ".seg", ErrorKind::Io, Effect::Error),
        (Operation::Open, ".seg", ErrorKind::Io, Effect::Error),
        (Operation::Create, "retired", ErrorKind::Full, Effect::NoSpace),
        (Operation::Remove, ".seg", ErrorKind::Io, Effect::Error),
        (Operation::Sync, "(directory)", ErrorKind::Io, Effect::Error),
        (Operation::Sync, "(parent)", ErrorKind::Io, Effect::Error),
        (Operation::Read, "(directory)", ErrorKind::Io, Effect::Error),
        (Operation::Write, "(database)", ErrorKind::Io, Effect::Short(700)),
        (Operation::Write, "(database)", ErrorKind::Full, Effect::ShortNoSpace(700)),
        (Operation::Sync, "(database)", ErrorKind::Io, Effect::Error),
        (Operation::Read, "(database)", ErrorKind::Io, Effect::Error),
    ];
    for (operation, name, kind, effect) in faults {
        let place = RealPlace::new(&all);
        let fault_plan = Plan::default();
        let disk = HookedDisk::new(Arc::new(RealDisk), Arc::new(fault_plan.clone()));
        let directory: Arc<dyn LogDirectory> = disk.log_directory(&place.path());
        let file = std::fs::OpenOptions::new().read(true).write(true).open(place.path()).unwrap();
        let mut database = FaultDatabase::new(support::log::RealDatabase { file }, fault_plan.clone());
        fault_plan.add(Fault { operation, name_contains: name.to_owned(), nth: 1, effect, goes_on: false });
        let error = open_database(&*directory, &mut database, OpenFacts::default()).unwrap_err();
        assert_eq!(error.kind(), kind, "{operation:?} {name}: {error}");
        assert_eq!(fault_plan.fired(), 1);
        // The second time the fault is over.
        let opened = open_database(&*directory, &mut database, OpenFacts::default()).unwrap();
        assert_eq!(opened.next, Next::Ready);
        assert!(place.files().database == database_of(&LogBuilder::values_after(3), 1024), "{operation:?} {name}");
    }
}
