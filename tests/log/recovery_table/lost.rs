//! The first sector of the database file is lost while it is rewritten: it comes back from the log, if the file is the log's.

use super::{FACTS, OTHER, OWN};
use pwal::internal::log::ErrorKind;
use pwal::internal::log::format::marker_name;
use pwal::internal::log::recovery::{Done, Next, Recovered, open_database};
use pwal::internal::log::salvage::{self, Salvage};
use support::log::{Commit, Files, LogBuilder, Place, RealPlace, SimPlace, database_of, image, stamped};

/// What becomes of a sector.
const LOST: [fn(&mut [u8]); 3] = [
    |sector| sector.fill(0),
    |sector| sector.fill(0xff),
    |sector| sector.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 37 % 251) as u8),
];

fn checksum_behind(database: &[u8], page_bytes: usize) -> u32 {
    let behind = &database[page_bytes.min(4096)..];
    crc32c::crc32c(&behind[..behind.len().min(4096)])
}

/// A log as an activation begins it, on a database whose pages are filled with these values.
pub fn begun(values: &[u64], page_bytes: u32) -> LogBuilder {
    let mut log = LogBuilder::with_blocks(OWN, page_bytes, 4096, 400);
    let database = database_of(values, page_bytes);
    let copied = (page_bytes as usize).min(4096);
    log.certify_doubled(0, 0, &image(1, values[0], page_bytes)[..copied], checksum_behind(&database, copied));
    log
}

pub fn commit(log: &mut LogBuilder, frames: &[(u32, u64)]) {
    log.commit(&Commit { frames, ..Commit::default() });
}

/// The open brings page 1 back and ends the log.
#[track_caller]
fn expect_back(files: &Files, values: &[u64], page_bytes: u32, from_copy: bool) {
    for place in [&SimPlace::new(files) as &dyn Place, &RealPlace::new(files)] {
        let opened = open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap();
        assert_eq!(opened.next, Next::Ready);
        let [Done::Recovered(Recovered { log_id: OWN, restored_header, .. })] = opened.done[..] else {
            panic!("{opened:?}")
        };
        assert_eq!(restored_header, from_copy);
        let after = place.files();
        assert!(after.database == database_of(values, page_bytes), "pages of {page_bytes} bytes");
        assert!(after.directory.unwrap_or_default().into_keys().all(|name| name == "lock"));
    }
}

#[track_caller]
fn expect_refused(files: &Files) {
    for place in [&SimPlace::new(files) as &dyn Place, &RealPlace::new(files)] {
        let error = open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotOpen, "{error}");
        assert!(error.to_string().contains("pwal recover --salvage"), "{error}");
        assert!(&place.files() == files, "touched");
    }
}

#[test]
fn it_comes_back_from_the_copy_of_the_activation() {
    for page_bytes in [512, 1024, 4096, 65536] {
        for lose in LOST {
            let mut files =
                Files::new(stamped(&[5, 6, 7], page_bytes, OWN, 0)).with(&begun(&[5, 6, 7], page_bytes).files);
            lose(&mut files.database[..512]);
            expect_back(&files, &[5, 6, 7], page_bytes, true);
            // All of a sector of 4096 bytes.
            lose(&mut files.database[..4096.min(page_bytes as usize)]);
            expect_back(&files, &[5, 6, 7], page_bytes, true);
        }
    }
}

#[test]
fn it_comes_back_in_a_pass_and_in_a_retirement() {
    for page_bytes in [512, 1024, 4096] {
        let mut log = begun(&[5, 6, 7], page_bytes);
        commit(&mut log, &[(2, 8)]);
        log.certify(1, 0);
        commit(&mut log, &[(3, 9)]);
        log.certify(2, 0);
        // Page 1 was in no commit: the copy. The pass has written all, or half of it.
        for values in [[5, 8, 9], [5, 8, 7]] {
            let mut files = Files::new(stamped(&values, page_bytes, OWN, 2)).with(&log.files);
            LOST[2](&mut files.database[..512]);
            expect_back(&files, &[5, 8, 9], page_bytes, true);
        }
        let mut files = Files::new(stamped(&[5, 8, 9], page_bytes, OWN, 2)).with(&log.files);
        LOST[0](&mut files.database[..512]);
        expect_back(&files.with_file(marker_name(OWN, 2), b""), &[5, 8, 9], page_bytes, true);
        // It was in one: the image.
        commit(&mut log, &[(1, 10)]);
        let mut files = Files::new(stamped(&[10, 8, 9], page_bytes, OWN, 3)).with(&log.files);
        LOST[1](&mut files.database[..512]);
        expect_back(&files, &[10, 8, 9], page_bytes, false);
    }
}

/// The last doubled certificate is not whole: it was not durable when the power went, and an older one has a copy.
#[test]
fn it_comes_back_from_an_older_copy() {
    for page_one_between in [false, true] {
        let mut log = begun(&[5, 6, 7], 1024);
        commit(&mut log, &[(2, 8)]);
        if page_one_between {
            commit(&mut log, &[(1, 11)]);
        }
        let n = log.sequence;
        log.certify(n, 0);
        let at = log.offset as usize;
        let values = [if page_one_between { 11 } else { 5 }, 8, 7];
        log.certify_doubled(n, n, &image(1, values[0], 1024), 0);
        for half in [0, 4096] {
            let mut log = log.clone();
            log.place_of_header()[at + half..][..512].fill(0xee);
            let mut files = Files::new(stamped(&values, 1024, OWN, n)).with(&log.files);
            LOST[0](&mut files.database[..512]);
            expect_back(&files, &values, 1024, true);
        }
        // B counts with either half.
        let mut files = Files::new(stamped(&values, 1024, OWN, n)).with(&log.files);
        LOST[0](&mut files.database[..512]);
        expect_back(&files, &values, 1024, true);
    }
}

/// What was written is there up to some byte, and behind it what was lost before.
#[test]
fn half_of_a_lost_sector_comes_back() {
    let mut log = begun(&[5, 6, 7], 1024);
    commit(&mut log, &[(2, 8)]);
    log.certify(1, 0);
    for cut in [1, 17, 18, 19, 20, 50, 72, 75, 81, 89] {
        let mut files = Files::new(stamped(&[5, 8, 7], 1024, OWN, 1)).with(&log.files);
        LOST[2](&mut files.database[cut..512]);
        for files in [files.clone(), files.clone().with_file(marker_name(OWN, 1), b"")] {
            expect_back(&files, &[5, 8, 7], 1024, true);
        }
        let mut files = Files::new(stamped(&[5, 6, 7], 1024, OWN, 0)).with(&begun(&[5, 6, 7], 1024).files);
        LOST[2](&mut files.database[cut..512]);
        expect_back(&files, &[5, 6, 7], 1024, true);
    }
}

/// The marks are whole, and the rest of the sector is not.
#[test]
fn what_rots_beside_a_whole_stamp_comes_back() {
    let log = begun(&[5, 6, 7], 1024);
    for at in [0, 30, 300, 511] {
        let mut files = Files::new(stamped(&[5, 6, 7], 1024, OWN, 0)).with(&log.files);
        files.database[at] ^= 0x55;
        let place = SimPlace::new(&files);
        open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap();
        assert!(place.files().database == database_of(&[5, 6, 7], 1024), "byte {at}");
    }
}

#[test]
fn another_file_beside_the_log_is_not_touched() {
    let mut log = begun(&[5, 6, 7], 1024);
    commit(&mut log, &[(2, 8)]);
    log.certify(1, 0);
    let encrypted: Vec<u8> = (0..3 * 1024_u32).map(|at| (at * at % 253) as u8).collect();
    for database in [encrypted.clone(), vec![0; 3 * 1024], vec![0xff; 8192]] {
        expect_refused(&Files::new(database.clone()).with(&log.files));
        expect_refused(&Files::new(database).with(&log.files).with_file(marker_name(OWN, 1), b""));
    }
    // Two logs: nothing says which.
    let mut other = LogBuilder::new(OTHER, 1024);
    commit(&mut other, &[(2, 8)]);
    let mut files = Files::new(stamped(&[5, 8, 7], 1024, OWN, 1)).with(&log.files).with(&other.files);
    LOST[0](&mut files.database[..512]);
    expect_refused(&files);
    // An old copy: a page that is in the file for long is not what it should be.
    let mut long = log.clone();
    long.certify_doubled(1, 1, &image(1, 5, 1024), 0);
    let mut files = Files::new(stamped(&[5, 6, 7], 1024, OWN, 1)).with(&long.files);
    LOST[0](&mut files.database[..512]);
    expect_refused(&files);
    // Giving up the log leaves it as it is.
    let place = SimPlace::new(&Files::new(encrypted.clone()).with(&log.files));
    salvage::discard_log(&*place.directory(), &mut *place.database()).unwrap();
    assert!(place.files().database == encrypted);
}

/// Nothing but the lost sector says whose file it is: a person does.
#[test]
fn salvage_brings_it_back_on_a_persons_word() {
    let log = begun(&[5], 512);
    let mut files = Files::new(stamped(&[5], 512, OWN, 0)).with(&log.files);
    LOST[2](&mut files.database);
    expect_refused(&files);
    for place in [&SimPlace::new(&files) as &dyn Place, &RealPlace::new(&files)] {
        let planned = salvage::plan(&*place.directory(), &mut *place.database()).unwrap();
        assert!(matches!(planned, Salvage::Possible(_)), "{planned:?}");
        salvage::salvage(&*place.directory(), &mut *place.database()).unwrap().unwrap();
        assert!(place.files().database == database_of(&[5], 512));
        assert_eq!(place.moved_away(), [format!("salvaged-{OWN:016x}")]);
    }
}
