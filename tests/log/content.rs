//! Any page contents, records of this very log in the places where they lie among them, go through commit, kill, recovery,
//! salvage and verify: the same last commit, the same bytes.

use proptest::prelude::*;
use pwal::internal::log::format::{OmittedZeros, batch_head_bytes};
use pwal::internal::log::recovery::{Done, OpenFacts, Recovered, open_database};
use pwal::internal::log::salvage::{Salvage, plan, salvage};
use pwal::internal::log::scan;
use pwal::internal::log::stamp;
use support::log::forged::{KINDS, forged};
use support::log::{Commit, Files, LogBuilder, Place, SimPlace, database_of, image, stamped};

const ID: u64 = 0xfeed_0001;
const PAGES: u32 = 4;

/// A record in an image: which, and where; in steps of a sector of the segment, and so many bytes beside it.
#[derive(Clone, Debug)]
struct Stored {
    frame: usize,
    kind: usize,
    place: prop::sample::Index,
    beside: u64,
    /// Whose: this segment's, or another's.
    ordinal: u64,
    next: u64,
}

fn stored() -> impl Strategy<Value = Stored> {
    let beside = prop_oneof![6 => Just(0), 1 => Just(8), 1 => 1..512_u64];
    let ordinal = prop_oneof![4 => Just(0), 1 => 0..3_u64];
    (0..4_usize, 0..KINDS, any::<prop::sample::Index>(), beside, ordinal, 1..4_u64)
        .prop_map(|(frame, kind, place, beside, ordinal, next)| Stored { frame, kind, place, beside, ordinal, next })
}

/// A commit: the pages that it writes, what fills them, what is stored in them.
#[derive(Clone, Debug)]
struct Written {
    pages: Vec<u32>,
    fill: u8,
    stored: Vec<Stored>,
    spills: bool,
    certified: bool,
    rotates: bool,
    /// Zeros in each image, and where: a run of them that is not stored.
    zeros: Option<(prop::sample::Index, prop::sample::Index)>,
}

fn written() -> impl Strategy<Value = Written> {
    let fill = prop_oneof![Just(0), Just(b'p'), any::<u8>()];
    let zeros = prop::option::of(any::<(prop::sample::Index, prop::sample::Index)>());
    let rest = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), zeros);
    (prop::collection::vec(2..=PAGES, 1..4), fill, prop::collection::vec(stored(), 0..6), rest).prop_map(
        |(mut pages, fill, stored, (spills, certified, rotates, zeros))| {
            pages.sort_unstable();
            pages.dedup();
            Written { pages, fill, stored, spills: spills && fill % 4 == 1, certified, rotates, zeros }
        },
    )
}

/// The images of a commit at the tail of `log`, with what is stored in them, and the zeros that each is stored without. Records lie
/// where they count in what is stored.
fn images(log: &LogBuilder, written: &Written, page_bytes: usize) -> (Vec<Vec<u8>>, OmittedZeros) {
    let omitted = written.zeros.map_or(OmittedZeros::NONE, |(start, words)| {
        let words = 1 + words.index(page_bytes / 8 - 1);
        let start = start.index(page_bytes / 8 - words + 1);
        OmittedZeros::new(start as u16, words as u16, page_bytes as u32).expect("zeros in the page")
    });
    let (page_bytes, zeros) = (page_bytes - omitted.range().len(), omitted.range());
    let start = log.offset + batch_head_bytes(written.pages.len());
    let mut images = vec![vec![written.fill; page_bytes]; written.pages.len()];
    for Stored { frame, kind, place, beside, ordinal, next } in &written.stored {
        let image = &mut images[frame % written.pages.len()];
        let begins = start + (frame % written.pages.len() * page_bytes) as u64;
        // The sectors of the segment that begin in it: where a record could begin.
        let sectors: Vec<u64> = (begins.next_multiple_of(512)..begins + page_bytes as u64).step_by(512).collect();
        let Some(at) = (!sectors.is_empty()).then(|| sectors[place.index(sectors.len())] + beside) else { continue };
        let ordinal = if *ordinal == 0 { log.ordinal } else { *ordinal };
        let record = forged(*kind, ID, ordinal, at, log.sequence + next);
        let from = (at - begins) as usize;
        let end = page_bytes.min(from + record.len());
        if from < end {
            image[from..end].copy_from_slice(&record[..end - from]);
        }
    }
    for image in &mut images {
        image.splice(zeros.start..zeros.start, vec![0; zeros.len()]);
    }
    (images, omitted)
}

struct Built {
    log: LogBuilder,
    /// Behind each commit.
    states: Vec<Vec<u8>>,
}

fn build(history: &[Written], page_bytes: u32) -> Built {
    let mut log = LogBuilder::with_blocks(ID, page_bytes, 4096, 120);
    let base = database_of(&[0; PAGES as usize], page_bytes);
    log.certify_doubled(0, 0, &image(1, 0, page_bytes)[..page_bytes.min(4096) as usize], 0);
    let mut states = vec![base];
    for (nth, written) in history.iter().enumerate() {
        if written.rotates {
            log.rotate(nth as u32 + 1);
        }
        let (images, omitted) = images(&log, written, page_bytes as usize);
        let mut state = states.last().unwrap().clone();
        for (page, image) in written.pages.iter().zip(&images) {
            let at = (*page as usize - 1) * page_bytes as usize;
            state[at..at + page_bytes as usize].copy_from_slice(image);
        }
        let frames: Vec<(u32, u64)> = written.pages.iter().map(|page| (*page, 0)).collect();
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let spill_from = if written.spills { frames.len() / 2 } else { usize::MAX };
        let omitted = vec![omitted; images.len()];
        let commit = Commit {
            frames: &frames,
            images: &images,
            omitted: &omitted,
            spill_from,
            database_pages: PAGES,
            ..Commit::default()
        };
        log.commit(&commit);
        if written.certified {
            log.certify(log.durable, 0);
        }
        states.push(state);
    }
    Built { log, states }
}

/// The file as a kill leaves it beside the log.
fn killed(built: &Built, page_bytes: u32) -> Files {
    Files::new(stamped(&[0; PAGES as usize], page_bytes, ID, 0)).with(&built.log.files)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_pages_hold_the_last_commit_and_its_bytes_are_the_same(
        history in prop::collection::vec(written(), 1..7),
        page_bytes in prop::sample::select(vec![512_u32, 1024, 4096, 8192]),
        broken in any::<prop::sample::Index>(),
    ) {
        let built = build(&history, page_bytes);
        let (files, count) = (killed(&built, page_bytes), history.len() as u64);
        let place = SimPlace::new(&files);
        let survey = scan::survey(&*place.directory(), &files.database[..100]).unwrap();
        prop_assert!(scan::is_sound(&survey), "{:?}", survey.logs[0].findings);
        prop_assert_eq!(survey.logs[0].last, count);
        prop_assert_eq!(plan(&*place.directory(), &mut *place.database()).unwrap(), Salvage::NotNeeded);
        let opened = open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap();
        let [Done::Recovered(Recovered { last, ref torn_tail, .. })] = opened.done[..] else {
            return Err(TestCaseError::fail(format!("{opened:?}")));
        };
        prop_assert_eq!((last, torn_tail), (count, &None));
        prop_assert!(place.files().database == built.states[count as usize]);

        // A commit that is certified rots in its head: salvage brings what lies before it.
        let broken = 1 + broken.index(history.len()) as u64;
        let mut log = built.log.clone();
        log.certify(count, 0);
        let (bytes, at) = log.place(broken);
        bytes[at + 336] ^= 1;
        let files = Files::new(files.database).with(&log.files);
        let place = SimPlace::new(&files);
        prop_assert!(open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).is_err());
        prop_assert!(place.files() == files);
        let done = salvage(&*place.directory(), &mut *place.database()).unwrap().unwrap();
        prop_assert_eq!(done.plan.last, broken - 1);
        // Below D nothing is written over a file that may be newer; it is not, here.
        let expected = match done.plan.replays {
            true => built.states[broken as usize - 1].clone(),
            false => {
                let mut plain = files.database.clone();
                stamp::clear(&mut plain);
                plain
            }
        };
        prop_assert!(place.files().database == expected);
    }
}
