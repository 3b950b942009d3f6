//! The medium does not give the beginning of the database file: a write heals it, and the log says what has to be written.

use super::lost::{begun, commit};
use super::{FACTS, OWN};
use pwal::internal::disk::Database;
use pwal::internal::log::format::marker_name;
use pwal::internal::log::recovery::{Done, Next, Recovered, open_database};
use pwal::internal::log::salvage::{Salvage, discard_log, plan, plan_discard, salvage};
use pwal::internal::log::{ErrorKind, LogError};
use std::io;
use std::ops::Range;
use support::log::{Files, LogBuilder, Place, SimPlace, database_of, image, stamped};

/// A database file with bytes that cannot be read until all of them are written.
#[derive(Debug)]
struct BadDatabase {
    inner: Box<dyn Database>,
    bad: Option<Range<u64>>,
}

impl BadDatabase {
    fn new(place: &SimPlace, bad: Range<u64>) -> BadDatabase {
        BadDatabase { inner: place.database(), bad: Some(bad) }
    }
}

impl Database for BadDatabase {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.bad {
            Some(bad) if offset < bad.end && bad.start < offset + buffer.len() as u64 => {
                Err(io::Error::from_raw_os_error(5))
            }
            _ => self.inner.read_at(buffer, offset),
        }
    }
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + data.len() as u64;
        match self.bad.clone() {
            Some(bad) if offset <= bad.start && bad.end <= end => self.bad = None,
            // A part of it: the rest would have to be read.
            Some(bad) if offset < bad.end && bad.start < end => return Err(io::Error::from_raw_os_error(5)),
            _ => {}
        }
        self.inner.write_at(data, offset)
    }
    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.inner.set_bytes(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()
    }
    fn bytes(&mut self) -> io::Result<u64> {
        self.inner.bytes()
    }
}

#[track_caller]
fn expect_back(files: &Files, bad: u64, values: &[u64], page_bytes: u32) {
    let place = SimPlace::new(files);
    let opened = open_database(&*place.directory(), &mut BadDatabase::new(&place, 0..bad), FACTS);
    let opened = opened.unwrap_or_else(|error| panic!("pages of {page_bytes}, {bad} bad bytes: {error}"));
    assert_eq!(opened.next, Next::Ready);
    assert!(matches!(opened.done[..], [Done::Recovered(Recovered { log_id: OWN, .. })]), "{opened:?}");
    assert!(place.files().database == database_of(values, page_bytes), "pages of {page_bytes} bytes");
    assert!(place.files().directory.unwrap_or_default().into_keys().all(|name| name == "lock"));
}

#[test]
fn it_is_written_again_from_the_log() {
    for page_bytes in [512, 1024, 4096, 65536] {
        for bad in [512, u64::from(page_bytes.min(4096))] {
            let log = begun(&[5, 6, 7], page_bytes);
            let files = Files::new(stamped(&[5, 6, 7], page_bytes, OWN, 0)).with(&log.files);
            expect_back(&files, bad, &[5, 6, 7], page_bytes);
            // In a pass, and in a retirement; page 1 was in no commit, and in one.
            for (page_one, value) in [(5, 8), (10, 8)] {
                let mut log = log.clone();
                commit(&mut log, &[(2, value)]);
                if page_one != 5 {
                    commit(&mut log, &[(1, page_one)]);
                }
                let n = log.sequence;
                log.certify(n, 0);
                let files = Files::new(stamped(&[page_one, value, 7], page_bytes, OWN, n)).with(&log.files);
                expect_back(&files, bad, &[page_one, value, 7], page_bytes);
                expect_back(&files.with_file(marker_name(OWN, n), b""), bad, &[page_one, value, 7], page_bytes);
            }
        }
    }
}

/// Without anything that says whose file it is: refused with the place, for a person to say.
#[test]
fn where_nothing_proves_whose_file_it_is_a_person_says_so() {
    let log = begun(&[5], 512);
    let files = Files::new(stamped(&[5], 512, OWN, 0)).with(&log.files);
    let place = SimPlace::new(&files);
    let mut database = BadDatabase::new(&place, 0..512);
    let directory = place.directory();
    let error = open_database(&*directory, &mut database, FACTS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let text = error.to_string();
    assert!(text.contains("the database file cannot be read at byte 0") && text.contains("--salvage"), "{text}");
    assert!(place.files() == files, "touched");
    let Salvage::Possible(planned) = plan(&*directory, &mut database).unwrap() else { panic!("not possible") };
    assert_eq!(plan_discard(&*directory, &mut database).unwrap().unreadable.len(), 1);
    assert!(place.files() == files, "touched");
    assert_eq!(salvage(&*directory, &mut database).unwrap().unwrap().plan, planned);
    assert!(database.bad.is_none() && place.files().database == database_of(&[5], 512));

    // Given up: the file stays as it is, and what was not looked at is said.
    let place = SimPlace::new(&files);
    let mut database = BadDatabase::new(&place, 0..512);
    let discarded = discard_log(&*place.directory(), &mut database).unwrap();
    assert!(discarded.unreadable[0].1.contains("first sector"), "{discarded:?}");
    assert_eq!(place.moved_away(), [format!("discarded-{OWN:016x}")]);
    assert!(place.files().database == files.database);
}

#[test]
fn without_a_log_or_with_another_it_is_an_error_of_the_medium() {
    let alone = SimPlace::new(&Files::new(database_of(&[5, 6], 512)));
    let another = SimPlace::new(&Files::new(database_of(&[1, 2, 3], 512)).with(&begun(&[5, 6, 7], 512).files));
    let mut damaged = LogBuilder::new(OWN, 512);
    damaged.certify_doubled(0, 0, &image(1, 5, 512), 0);
    commit(&mut damaged, &[(2, 8)]);
    damaged.certify(1, 0);
    let (bytes, at) = damaged.place(1);
    bytes[at + 600] ^= 1;
    let damaged = SimPlace::new(&Files::new(stamped(&[5, 8], 512, OWN, 1)).with(&damaged.files));
    for place in [alone, another, damaged] {
        let files = place.files();
        let error = open_database(&*place.directory(), &mut BadDatabase::new(&place, 0..512), FACTS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(matches!(error, LogError::Io { .. } | LogError::UnreadableHeader { .. }), "{error:?}");
        assert!(place.files() == files, "touched");
    }
}
