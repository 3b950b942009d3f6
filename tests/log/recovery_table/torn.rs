//! A first commit that a kill or a power cut has torn goes without a trace; one that was written and has rotted is kept.

use super::{FACTS, OWN};
use proptest::prelude::*;
use pwal::internal::log::recovery::{Done, Next, Opened, Recovered, open_database};
use std::ops::Range;
use support::log::{Commit, Files, LogBuilder, Place, SimPlace, database_of, stamped};

const SECTOR: usize = 512;
const PAGE: usize = 1024;

/// A log as an engine begins it, with commits behind; where commit 1 lies, and how many bytes of it hold something.
struct Begun {
    log: LogBuilder,
    segment: String,
    batch: Range<usize>,
    used: usize,
}

fn base() -> Vec<u8> {
    stamped(&[0; 3], PAGE as u32, OWN, 0)
}

impl Begun {
    /// `before` its first commit something else lies there. The frames in memory; all of them are pages with zeros in the middle.
    fn new(frames: u32, spilled: usize, later: u64, before: impl Fn(&mut LogBuilder)) -> Begun {
        let mut log = LogBuilder::with_blocks(OWN, PAGE as u32, 4096, 40);
        let plain = database_of(&[0; 3], PAGE as u32);
        log.certify_doubled(0, 0, &plain[..PAGE], 0);
        before(&mut log);
        let image = |page: u32| {
            let mut image = vec![0; PAGE];
            image[..8].copy_from_slice(&(1000 + u64::from(page)).to_le_bytes());
            image[PAGE - 8..].copy_from_slice(&u64::from(page).to_le_bytes());
            image
        };
        let images: Vec<Vec<u8>> = (2..2 + frames + spilled as u32).map(image).collect();
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let frames_of: Vec<(u32, u64)> = (2..).map(|page| (page, 0)).take(images.len()).collect();
        let database_pages = 1 + images.len() as u32;
        let spill_from = frames as usize;
        log.commit(&Commit { frames: &frames_of, images: &images, database_pages, spill_from, ..Commit::default() });
        let (segment, start) = log.places[&1].clone();
        let batch = start as usize..log.offset as usize;
        let used = 344 + 24 * images.len() + PAGE * frames as usize;
        log.commits(later);
        if later > 1 {
            log.certify(0, 0);
        }
        Begun { log, segment, batch, used }
    }

    fn files(&self, change: impl FnOnce(&mut [u8])) -> Files {
        let mut log = self.log.clone();
        change(&mut log.files.get_mut(&self.segment).unwrap()[self.batch.clone()]);
        Files::new(base()).with(&log.files)
    }
}

fn samples() -> Vec<Begun> {
    vec![
        Begun::new(1, 0, 0, |_| {}),
        Begun::new(9, 0, 3, |_| {}),
        Begun::new(3, 2, 2, |_| {}),
        Begun::new(0, 2, 1, |_| {}),
        // Head and descriptors of more than a block.
        Begun::new(12, 170, 0, |_| {}),
        // Another mark before it; a batch that did not fit the first segment.
        Begun::new(4, 0, 2, |log| log.certify(0, 0)),
        Begun::new(30, 0, 0, |log| log.rotate(1)),
    ]
}

/// The open leaves the file as it was before the first commit, and nothing beside it.
#[track_caller]
fn expect_gone(files: &Files, what: &str) {
    let place = SimPlace::new(files);
    let opened = open_database(&*place.directory(), &mut *place.database(), FACTS);
    let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(opened.next, Next::Ready, "{what}: {opened:?}");
    assert_eq!(opened.done, [Done::DeletedLeftovers { log_ids: vec![OWN] }], "{what}");
    assert!(place.moved_away().is_empty(), "{what}");
    assert!(place.files().database == database_of(&[0; 3], PAGE as u32), "{what}");
    assert_eq!(place.files().directory.unwrap_or_default().len(), 0, "{what}");
}

#[track_caller]
fn expect_kept(files: &Files, what: &str) {
    let place = SimPlace::new(files);
    let opened = open_database(&*place.directory(), &mut *place.database(), FACTS);
    let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(matches!(opened.done[..], [Done::SetAside { log_id: OWN, .. }]), "{what}: {opened:?}");
    assert_eq!(place.moved_away(), [format!("orphan-{OWN:016x}")], "{what}");
    assert!(place.files().database == database_of(&[0; 3], PAGE as u32), "{what}");
}

#[test]
fn a_kill_in_the_first_write_leaves_nothing_beside() {
    for (nth, begun) in samples().iter().enumerate() {
        let later = begun.log.sequence > 1;
        for tear in (0..=begun.batch.len()).step_by(SECTOR) {
            let files = begun.files(|batch| batch[tear..].fill(0));
            // Commits behind it: only a power cut leaves them.
            if tear < begun.used {
                expect_gone(&files, &format!("sample {nth}, {tear} of {} bytes, later {later}", begun.used));
                // A header that is plain already: the step before the deletion was the last.
                let plain = Files { database: database_of(&[0; 3], PAGE as u32), ..files };
                expect_gone(&plain, &format!("sample {nth}, {tear} bytes, plain"));
            } else {
                let place = SimPlace::new(&files);
                let opened = open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap();
                let [Done::Recovered(Recovered { last, .. })] = opened.done[..] else { panic!("{opened:?}") };
                assert_eq!(last, begun.log.sequence, "sample {nth}: all of it is there");
            }
        }
    }
}

#[test]
fn each_sector_that_was_not_written_is_known() {
    for (nth, begun) in samples().iter().enumerate() {
        for at in (0..begun.used).step_by(SECTOR) {
            let files = begun.files(|batch| batch[at..at + SECTOR].fill(0));
            expect_gone(&files, &format!("sample {nth}, the sector at {at} of {}", begun.used));
        }
    }
}

#[test]
fn each_sector_that_rots_is_kept() {
    for (nth, begun) in samples().iter().enumerate() {
        for at in (0..begun.used).step_by(SECTOR) {
            for (place, bits) in [(at, 0x01), (at, 0x80), ((at + 300).min(begun.used - 1), 0xff)] {
                let files = begun.files(|batch| batch[place] ^= bits);
                expect_kept(&files, &format!("sample {nth}, byte {place}"));
            }
            let garbage = begun.files(|batch| batch[at..at + SECTOR].fill(0xa5));
            expect_kept(&garbage, &format!("sample {nth}, garbage at {at}"));
        }
    }
}

#[test]
fn a_torn_batch_of_a_writer_that_died_does_not_explain_rot_in_another() {
    let mut begun = Begun::new(4, 0, 0, |_| {});
    let mut dead = Begun::new(30, 0, 0, |log| log.rotate(1));
    dead.log.files.get_mut(&dead.segment).unwrap()[dead.batch.start + 8192..].fill(0);
    let torn = dead.log.files[&dead.segment].clone();
    begun.log.files.insert(dead.segment.clone(), torn);
    expect_gone(&begun.files(|batch| batch[4096..].fill(0)), "both are torn");
    expect_kept(&begun.files(|batch| batch[3000] ^= 1), "one has rotted");
    let place = SimPlace::new(&begun.files(|_| {}));
    let opened = open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap();
    assert!(matches!(&opened.done[..], [Done::Recovered(Recovered { last: 1, .. })]), "{opened:?}");
}

#[test]
fn what_speaks_of_commits_outweighs_zeros() {
    let mut begun = Begun::new(4, 0, 0, |_| {});
    // The header of a later segment, of which the first record may be commit 1.
    begun.log.rotate(1);
    let header = begun.log.segment_name();
    begun.log.files.get_mut(&header).unwrap()[9] ^= 1;
    expect_kept(&begun.files(|batch| batch[512..].fill(0)), "a broken header");
    // A certificate that calls it durable.
    let mut begun = Begun::new(4, 0, 0, |_| {});
    begun.log.certify(1, 0);
    let place = SimPlace::new(&begun.files(|batch| batch[512..1024].fill(0)));
    let error = open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap_err();
    assert!(error.to_string().contains("durable up to 1"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// A power cut keeps any of the sectors; the commits behind it too.
    #[test]
    fn a_power_cut_in_the_first_write_leaves_nothing_beside(
        sample in 0..7_usize,
        lost in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
        headers in any::<bool>(),
    ) {
        let begun = &samples()[sample];
        let sectors = begun.used.div_ceil(SECTOR);
        let mut files = begun.files(|batch| {
            for at in &lost {
                let at = at.index(sectors) * SECTOR;
                batch[at..at + SECTOR].fill(0);
            }
        });
        if headers && begun.batch.start == 4096 {
            // The header of the segment was written with it.
            files.directory.as_mut().unwrap().get_mut(&begun.segment).unwrap()[..SECTOR].fill(0);
        }
        expect_gone(&files, &format!("sample {sample}"));
        let opened = Opened { done: vec![], next: Next::Ready };
        let place = SimPlace::new(&Files::new(database_of(&[0; 3], PAGE as u32)));
        prop_assert_eq!(open_database(&*place.directory(), &mut *place.database(), FACTS).unwrap(), opened);
    }
}
