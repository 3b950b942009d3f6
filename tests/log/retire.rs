//! A checkpoint's pass over the database file, and the end of a log at a clean close.

use pwal::internal::disk::sim::{Dice, HeaderTear, PowerCut};
use pwal::internal::disk::{Database, Disk, RealDisk};
use pwal::internal::log::LogError;
use pwal::internal::log::backfill::Backfill;
use pwal::internal::log::format::{Certificate, CertificatePlace, SegmentHeader, segment_name};
use pwal::internal::log::recovery::{Next, OpenFacts, open_database};
use pwal::internal::log::retire::{remove_directory, retire};
use pwal::internal::log::scan;
use pwal::internal::log::segments::{Space, create_first_segment, create_segment};
use pwal::internal::log::stamp::{self, Stamp, StampState};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use support::log::{Files, LogBuilder, Place, RealPlace, SimPlace, database_of, image, stamped};

const ID: u64 = 0x1234;

/// Writes down what is done to a database file.
#[derive(Debug)]
struct Recorder {
    inner: Box<dyn Database>,
    calls: RefCell<Vec<String>>,
}

impl Database for Recorder {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.calls.borrow_mut().push(format!("write {} at {offset}", data.len()));
        self.inner.write_at(data, offset)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.calls.borrow_mut().push(format!("size {bytes}"));
        self.inner.set_bytes(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.calls.borrow_mut().push("sync".to_owned());
        self.inner.sync()
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.inner.bytes()
    }
}

fn backfill(place: &dyn Place, pages: &[(u32, u64)], database_pages: u32, target: u64) -> Vec<String> {
    let mut database = Recorder { inner: place.database(), calls: RefCell::default() };
    let newest: BTreeMap<u32, u64> = pages.iter().copied().collect();
    let stamp = Stamp { log_id: ID, backfill_target: target };
    let result: Result<(), LogError> =
        Backfill::new(&mut database, 1024, stamp).run(newest.keys().copied(), database_pages, |page, buffer| {
            buffer.copy_from_slice(&image(page, newest[&page], 1024));
            Ok(())
        });
    result.unwrap();
    database.calls.into_inner()
}

#[test]
fn a_pass_goes_in_page_order_and_ends_with_page_one_and_the_size() {
    let place = RealPlace::new(&Files::new(stamped(&[0; 6], 1024, ID, 0)));
    let calls = backfill(&place, &[(1, 9), (2, 8), (3, 7), (5, 6), (6, 5), (7, 4)], 6, 12);
    assert_eq!(calls, ["write 2048 at 1024", "write 2048 at 4096", "write 1024 at 0", "sync"]);
    let mut expected = database_of(&[9, 8, 7, 0, 6, 5], 1024);
    Stamp { log_id: ID, backfill_target: 12 }.apply(&mut expected);
    assert!(place.files().database == expected);
    // Without page 1 only the sector of the stamp is written; the file shrinks.
    let calls = backfill(&place, &[(2, 80)], 3, 13);
    assert_eq!(calls, ["write 1024 at 1024", "write 512 at 0", "size 3072", "sync"]);
    let mut expected = database_of(&[9, 80, 7], 1024);
    Stamp { log_id: ID, backfill_target: 13 }.apply(&mut expected);
    assert!(place.files().database == expected);
    // And grows, also by pages that nobody wrote.
    assert_eq!(backfill(&place, &[], 5, 14), ["write 512 at 0", "size 5120", "sync"]);
    assert_eq!(stamp::read(&place.files().database), StampState::Stamped(Stamp { log_id: ID, backfill_target: 14 }));
}

#[test]
fn a_long_run_is_written_in_pieces() {
    let place = RealPlace::new(&Files::new(stamped(&[0; 2], 1024, ID, 0)));
    let pages: Vec<(u32, u64)> = (2..=2500).map(|page| (page, u64::from(page))).collect();
    let calls = backfill(&place, &pages, 2500, 1);
    let writes =
        ["write 1048576 at 1024", "write 1048576 at 1049600", "write 461824 at 2098176", "write 512 at 0", "sync"];
    assert_eq!(calls, writes);
    let values: Vec<u64> = [0].into_iter().chain(2..=2500).collect();
    assert!(place.files().database[1024..] == database_of(&values, 1024)[1024..]);
}

#[test]
fn an_error_while_reading_ends_the_pass() {
    let place = SimPlace::new(&Files::new(stamped(&[0; 3], 1024, ID, 0)));
    let mut database = place.database();
    let stamp = Stamp { log_id: ID, backfill_target: 5 };
    let error = Backfill::new(&mut *database, 1024, stamp)
        .run([1, 2], 3, |_, _| Err(LogError::io("read", "x".as_ref(), io::ErrorKind::Other.into())))
        .unwrap_err();
    assert!(error.to_string().contains('x'));
    assert!(place.files().database == stamped(&[0; 3], 1024, ID, 0));
    // Page 1, which comes last, stays as it is.
    let read = |page, buffer: &mut [u8]| {
        buffer.copy_from_slice(&image(page, 7, 1024));
        if page > 1 { Ok(()) } else { Err(LogError::io("read", "x".as_ref(), io::ErrorKind::Other.into())) }
    };
    Backfill::new(&mut *database, 1024, stamp).run([1, 2], 3, read).unwrap_err();
    let mut expected = stamped(&[0; 3], 1024, ID, 0);
    expected[1024..2048].copy_from_slice(&image(2, 7, 1024));
    assert!(place.files().database == expected);
}

/// A database whose log is backfilled to its last commit.
fn complete() -> Files {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(4);
    log.certify(4, 1);
    Files::new(stamped(&LogBuilder::values_after(4), 1024, ID, 4))
        .with(&log.files)
        .with_file("lock", b"")
        .with_file("control", b"words")
}

#[test]
fn a_clean_close_leaves_one_plain_file() {
    for place in [Box::new(SimPlace::new(&complete())) as Box<dyn Place>, Box::new(RealPlace::new(&complete()))] {
        retire(&*place.directory(), &mut *place.database(), ID, 4, 1024).unwrap();
        assert!(place.files() == Files::new(database_of(&LogBuilder::values_after(4), 1024)));
    }
}

#[test]
fn a_file_of_somebody_else_keeps_the_directory() {
    let place = RealPlace::new(&complete().with_file("notes.txt", b"mine"));
    retire(&*place.directory(), &mut *place.database(), ID, 4, 1024).unwrap();
    let after = Files::new(database_of(&LogBuilder::values_after(4), 1024)).with_file("notes.txt", b"mine");
    assert!(place.files() == after);
    remove_directory(&*place.directory()).unwrap();
    assert!(place.files() == after);
}

#[test]
fn another_file_under_the_path_is_not_retired() {
    for database in [stamped(&[0; 3], 1024, 99, 4), database_of(&[0; 3], 1024), stamped(&[0; 3], 512, ID, 4), vec![]] {
        let files = Files { database, ..complete() };
        let place = SimPlace::new(&files);
        let error = retire(&*place.directory(), &mut *place.database(), ID, 4, 1024).unwrap_err();
        assert!(matches!(error, LogError::NotOurs { log_id: ID }), "{error}");
        assert!(place.files() == files);
    }
}

#[test]
fn a_close_may_be_cut_short_anywhere() {
    let values = database_of(&LogBuilder::values_after(4), 1024);
    for stop in 0.. {
        let stopped = SimPlace::new(&complete());
        stopped.directory().create_placeholder().unwrap();
        stopped.directory().sync_parent().unwrap();
        stopped.disk.stop_after(stop);
        let result = retire(&*stopped.directory(), &mut *stopped.database(), ID, 4, 1024);
        for seed in 0..60 {
            let place = SimPlace { disk: stopped.disk.deep_clone(seed), path: stopped.path.clone() };
            let keep_percent = Dice::new(seed).pick(&[0, 20, 50, 100]);
            match seed % 4 {
                0 => place.disk.kill(),
                _ => place.disk.power_cut(&PowerCut {
                    keep_percent,
                    tears_sectors: true,
                    tears_same_bytes: false,
                    tears_header: if seed % 4 == 1 { HeaderTear::Mixed } else { HeaderTear::Never },
                }),
            }
            // What is left of a finished log is nothing to complain of.
            let survey = scan::survey(&*place.directory(), &place.files().database).expect("a survey");
            assert!(scan::is_sound(&survey), "stop {stop} seed {seed}: {survey:?}");
            let opened = open_database(&*place.directory(), &mut *place.database(), OpenFacts::default())
                .unwrap_or_else(|error| panic!("stop {stop} seed {seed}: {error}"));
            assert_eq!(opened.next, Next::Ready, "stop {stop} seed {seed}");
            assert!(place.files().database == values, "stop {stop} seed {seed}");
            let names = place.disk.names("/sim".as_ref()).unwrap();
            assert!(!names.contains(&String::from("a.db-wal")), "stop {stop} seed {seed}: {names:?}");
        }
        if result.is_ok() {
            assert!(stop > 7);
            break;
        }
    }
}

#[test]
fn a_failed_close_may_be_repeated() {
    use pwal::internal::disk::fault::{Effect, Fault, Operation};
    for (operation, name) in [
        (Operation::Create, "retired"),
        (Operation::Sync, "(directory)"),
        (Operation::Write, "(database)"),
        (Operation::Sync, "(database)"),
        (Operation::Remove, "(placeholder)"),
        (Operation::Remove, ".seg"),
        (Operation::Remove, "control"),
        (Operation::Remove, "retired"),
        (Operation::Remove, "lock"),
        (Operation::Remove, "(directory)"),
    ] {
        let place = SimPlace::new(&complete());
        place.directory().create_placeholder().unwrap();
        let fault = Fault { operation, name_contains: name.to_owned(), nth: 1, effect: Effect::Error, goes_on: false };
        place.disk.plan().add(fault);
        retire(&*place.directory(), &mut *place.database(), ID, 4, 1024).unwrap_err();
        // By the closer while the marker says what is going on, else by the next opener.
        match retire(&*place.directory(), &mut *place.database(), ID, 4, 1024) {
            Ok(()) => assert!(place.files().directory.is_none(), "{operation:?} {name}"),
            Err(LogError::NotOurs { .. }) => assert!(["lock", "(directory)"].contains(&name), "{name}"),
            Err(error) => panic!("{error}"),
        }
        assert!(place.files().database == database_of(&LogBuilder::values_after(4), 1024));
    }
}

#[test]
fn a_new_segment_is_zeroed_and_durable() {
    let place = SimPlace::new(&Files::new(database_of(&[0; 3], 1024)).with_file("lock", b""));
    let name = segment_name(ID, 0);
    let segment = create_segment(&*place.directory(), &name, 3 << 20, Space::Written, &|| Ok(())).unwrap();
    assert_eq!(segment.bytes().unwrap(), 3 << 20);
    let nothing =
        PowerCut { keep_percent: 0, tears_sectors: false, tears_same_bytes: false, tears_header: HeaderTear::Never };
    place.disk.power_cut(&nothing);
    assert!(place.files().directory.unwrap()[&name] == vec![0; 3 << 20]);
    assert!(create_segment(&*place.directory(), &name, 1 << 20, Space::Written, &|| Ok(())).is_err(), "it is there");
    // The first one has its header from the first sync on.
    let header = SegmentHeader {
        log_id: ID,
        block_bytes: 4096,
        page_bytes: 1024,
        segment_bytes: 1 << 20,
        ordinal: 1,
        first_sequence: 1,
        chain: ID,
    };
    let page_one = image(1, 5, 1024);
    create_first_segment(&*place.directory(), &segment_name(ID, 7), &header, 1, 3, &page_one, 77).unwrap();
    place.disk.power_cut(&nothing);
    let bytes = place.files().directory.unwrap().remove(&segment_name(ID, 7)).unwrap();
    assert_eq!((bytes.len(), SegmentHeader::decode(&bytes, header.log_id)), (1 << 20, Ok(header)));
    for (offset, is_second) in [(4096, false), (8192, true)] {
        let place = CertificatePlace { log_id: ID, ordinal: Some(1), offset };
        let certificate = Certificate::decode(&bytes[offset as usize..], &place).unwrap();
        assert!(certificate.is_mark() && (certificate.durable, certificate.backfilled) == (0, 0));
        let copy = certificate.copy.unwrap();
        assert_eq!(copy.next_block_crc, 77);
        assert_eq!((copy.is_second, copy.read(&bytes[4096..3 * 4096])), (is_second, Some(page_one.clone())));
    }
    assert!(bytes[3 * 4096..].iter().all(|&byte| byte == 0));
    // A full disk leaves nothing behind.
    use pwal::internal::disk::fault::{Effect, Fault, Operation};
    for (space, nth) in [(Space::Written, 2), (Space::Allocated, 1)] {
        let effect = Effect::ShortNoSpace(4096);
        let fault = Fault { operation: Operation::Write, name_contains: "seg".to_owned(), nth, effect, goes_on: false };
        place.disk.plan().add(fault);
        let create = || create_segment(&*place.directory(), &segment_name(ID, 1), 3 << 20, space, &|| Ok(()));
        assert_eq!(create().unwrap_err().kind(), pwal::internal::log::ErrorKind::Full, "{space:?}");
        assert!(!place.files().directory.unwrap().contains_key(&segment_name(ID, 1)), "{space:?}");
    }
    // It is durable when it is made.
    create_segment(&*place.directory(), &segment_name(ID, 1), 3 << 20, Space::Allocated, &|| Ok(())).unwrap();
    place.disk.power_cut(&nothing);
    assert!(place.files().directory.unwrap()[&segment_name(ID, 1)] == vec![0; 3 << 20]);
}

#[test]
fn a_segment_is_allocated_where_the_file_system_can_do_that() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("a.db");
    std::fs::write(&database, b"").unwrap();
    let place = RealDisk.log_directory(&database);
    place.create().unwrap();
    let asked = std::cell::Cell::new(0);
    let goes_on = || {
        asked.set(asked.get() + 1);
        Ok(())
    };
    for (number, space) in [(0, Space::Written), (1, Space::Allocated)] {
        asked.set(0);
        let name = segment_name(ID, number);
        let segment = create_segment(&*place, &name, 5 << 20, space, &goes_on).unwrap();
        let metadata = std::fs::metadata(place.path().join(&name)).unwrap();
        assert_eq!((segment.bytes().unwrap(), metadata.len()), (5 << 20, 5 << 20));
        assert!(metadata.blocks() * 512 >= 5 << 20, "its space is its own");
        let mut bytes = vec![1; 5 << 20];
        assert_eq!(segment.read_at(&mut bytes, 0).unwrap(), 5 << 20);
        assert!(bytes.iter().all(|&byte| byte == 0));
        if space == Space::Written {
            assert_eq!(asked.get(), 5, "once before each piece");
        }
    }
}

/// Whoever closes the database waits for a piece of it at most.
#[test]
fn a_new_segment_that_is_given_up_leaves_nothing_behind() {
    let place = SimPlace::new(&Files::new(database_of(&[0; 3], 1024)).with_file("lock", b""));
    let asked = std::cell::Cell::new(0);
    let goes_on = || {
        asked.set(asked.get() + 1);
        if asked.get() < 3 { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
    };
    let name = segment_name(ID, 1);
    create_segment(&*place.directory(), &name, 16 << 20, Space::Written, &goes_on).unwrap_err();
    assert_eq!(asked.get(), 3, "once before each piece");
    assert!(!place.files().directory.unwrap().contains_key(&name));
}
