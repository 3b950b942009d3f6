//! A database file and a log directory with anything in them: what opening, looking, salvaging and giving up may do.
//!
//! An input is a list of files, each a length and what lies in it; see [`Image::read`].

use crate::input::Input;
use crate::memory;
use crate::records::{name_place, seal, seal_chain};
use pwal::internal::log::format::{BatchPlace, FileName, marker_name, segment_name, spill_name};
use pwal::internal::log::recovery::{Next, OpenFacts, Opened, open_database};
use pwal::internal::log::salvage::{Salvage, discard_log, plan, plan_discard, salvage};
use pwal::internal::log::scan::{dump_segment, survey};
use pwal::internal::log::stamp::{self, Stamp, StampState};
use pwal::internal::log::{ErrorKind, LogError};
use support::log::{Files, Place, SimPlace};

/// The logs that an image may have.
const LOGS: [u64; 2] = [0x77, 0xfeed];
/// No file is longer, in bytes.
const FILE_BYTES_MAX: usize = 40 * 4096;
const FILES_MAX: usize = 12;
const UNIT: usize = 512;

/// What an input stands for.
#[derive(Clone, Debug)]
pub struct Image {
    /// The files.
    pub files: Files,
    /// What the opener knows beside.
    pub facts: OpenFacts,
}

impl Image {
    /// A byte of facts, the database file, and the files of the log. A file is a kind, a number, flags, a length in sectors, and
    /// pieces: how many, and each with its place in sectors, a byte with the length in eights of bytes (or, if it repeats eight
    /// bytes, in sectors), and its bytes.
    #[must_use]
    pub fn read(input: &mut Input<'_>) -> Image {
        let facts = input.u8();
        let mut image = Image {
            files: Files::default(),
            facts: OpenFacts {
                read_only: facts & 15 == 1,
                hot_journal: facts & 15 == 2,
                real_wal_not_empty: facts & 15 == 3,
                cache_bytes: usize::from(facts & 16 != 0) << 20,
            },
        };
        let stamps = input.u8();
        image.files.database = contents(input);
        // A stamp that is whole, which chance would not find.
        if stamps & 1 != 0 {
            let log_id = LOGS[usize::from(stamps >> 1 & 1)];
            Stamp { log_id, backfill_target: u64::from(stamps >> 2) }.apply(&mut image.files.database);
        }
        for _ in 0..FILES_MAX {
            if input.is_empty() {
                break;
            }
            let (kind, flags) = (input.u8(), input.u8());
            let log_id = LOGS[usize::from(kind >> 3 & 1)];
            let number = u32::from(flags >> 4);
            let (name, is_empty) = match kind % 8 {
                0..=4 => (segment_name(log_id, number), false),
                5 => (spill_name(log_id, number), false),
                6 => (marker_name(log_id, u64::from(number)), true),
                _ => (["lock", "control", "other"][number as usize % 3].to_owned(), true),
            };
            let mut bytes = if is_empty { Vec::new() } else { contents(input) };
            if kind % 8 <= 4 {
                mend(&mut bytes, log_id, flags);
            }
            image.files.directory.get_or_insert_default().insert(name, bytes);
        }
        image
    }

    /// The bytes of all of it.
    fn bytes(&self) -> usize {
        self.files.database.len() + self.files.directory.iter().flatten().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }
}

fn contents(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = vec![0; (usize::from(input.u16()) * UNIT).min(FILE_BYTES_MAX)];
    let shorter = usize::from(input.u8());
    bytes.truncate(bytes.len().saturating_sub(shorter));
    for _ in 0..input.u8() {
        let at = usize::from(input.u16()) * UNIT;
        let length = usize::from(input.u8());
        let (piece, repeats) = match length {
            0..=127 => (input.bytes(8 * length), 1),
            _ => (input.bytes(8), UNIT / 8 * (length - 127)),
        };
        let Some(room) = bytes.get_mut(at..) else { continue };
        for (to, from) in room.iter_mut().zip(piece.iter().cycle().take(piece.len() * repeats)) {
            *to = *from;
        }
    }
    bytes
}

/// The input that stands for these files of the logs [`LOGS`], with `flags` for each segment.
#[must_use]
pub fn write(files: &Files, flags: u8) -> Vec<u8> {
    let mut input = vec![0, 0];
    put_contents(&mut input, &files.database);
    for (name, bytes) in files.directory.iter().flatten() {
        let (kind, log_id, number) = match FileName::parse(name) {
            Some(FileName::Segment { log_id, id }) => (0, log_id, id),
            Some(FileName::Spill { log_id, number }) => (5, log_id, number),
            Some(FileName::Marker { log_id, last }) => (6, log_id, last as u32),
            _ => (7, LOGS[0], 0),
        };
        input.extend([kind | u8::from(log_id == LOGS[1]) << 3, flags | (number as u8) << 4]);
        if kind < 6 {
            put_contents(&mut input, bytes);
        }
    }
    input
}

fn put_contents(input: &mut Vec<u8>, bytes: &[u8]) {
    let mut pieces: Vec<(usize, u8, &[u8])> = Vec::new();
    for (sector, content) in bytes.chunks(UNIT).enumerate() {
        let eight = &content[..8.min(content.len())];
        if content.iter().all(|byte| *byte == 0) {
            continue;
        }
        if content.len() == UNIT && content.chunks(8).all(|other| other == eight) {
            pieces.push((sector, 128, eight));
        } else {
            let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).next_multiple_of(8);
            pieces.push((sector, (end / 8) as u8, &content[..end.min(content.len())]));
        }
    }
    let sectors = bytes.len().div_ceil(UNIT);
    input.extend((sectors as u16).to_le_bytes());
    input.extend([(sectors * UNIT - bytes.len()) as u8, pieces.len() as u8]);
    for (sector, length, content) in pieces {
        input.extend((sector as u16).to_le_bytes());
        input.push(length);
        input.extend(content);
    }
}

/// Puts places and sums on what looks like records, as `flags` say.
fn mend(bytes: &mut [u8], log_id: u64, flags: u8) {
    let ordinal = bytes.get(40..48).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap()));
    for at in (0..bytes.len()).step_by(UNIT) {
        let place = BatchPlace {
            log_id,
            ordinal,
            offset: at as u64,
            block_bytes: 4096,
            page_bytes: 512,
            segment_bytes: bytes.len() as u64,
        };
        if flags & 1 != 0 {
            name_place(&mut bytes[at..], &place);
        }
        if flags & 2 != 0 {
            seal_chain(&mut bytes[at..]);
        }
        if flags & 4 != 0 {
            seal(&mut bytes[at..]);
        }
    }
}

/// What the bytes of an input may make the program allocate: copies of the image on both sides of the simulated disk, and
/// what is read of it.
fn justified(image: &Image) -> usize {
    (1 << 20) + 24 * image.bytes()
}

/// One input.
pub fn check(data: &[u8]) {
    let image = Image::read(&mut Input::new(data));
    memory::within(justified(&image), "an image", || every_way_on(&image));
}

fn open(place: &SimPlace, facts: OpenFacts) -> Result<Opened, LogError> {
    open_database(&*place.directory(), &mut *place.database(), facts)
}

/// The tools and refusals touch nothing; what opens, opens again as a plain file; a log that is given up is gone.
pub fn every_way_on(image: &Image) {
    let Image { files, facts } = image;
    let place = SimPlace::new(files);
    let directory = place.directory();
    let _ = survey(&*directory, &files.database[..files.database.len().min(100)]);
    for name in files.directory.iter().flat_map(|files| files.keys()) {
        if let Some(FileName::Segment { .. }) = FileName::parse(name) {
            let _ = dump_segment(&*directory, name);
        }
    }
    let planned = plan(&*directory, &mut *place.database());
    let discarded = plan_discard(&*directory, &mut *place.database()).expect("a medium without errors");
    assert!(place.files() == *files, "the tools touched something");

    match open(&place, *facts) {
        Ok(opened) => {
            assert!(facts.hot_journal || facts.real_wal_not_empty || facts.read_only || is_not_needed(&planned));
            match opened.next {
                Next::RecoverStock => assert!(place.files() == *files, "stock's files are settled first"),
                Next::Ready | Next::ClaimAgain => expect_opened(&place, opened.next),
            }
        }
        Err(error) => {
            assert!(place.files() == *files, "a refusal touched something: {error}");
            assert!(!error.to_string().is_empty());
            let is_medium = matches!(error.kind(), ErrorKind::Full | ErrorKind::Io);
            assert!(!is_medium, "the medium is whole: {error}");
        }
    }

    // Whatever the facts, for a person.
    let place = SimPlace::new(files);
    match (salvage(&*directory_of(&place), &mut *place.database()), planned) {
        (Ok(None), Ok(Salvage::NotNeeded)) => assert!(place.files() == *files, "a needless salvage touched something"),
        (Ok(Some(done)), Ok(Salvage::Possible(plan))) => {
            assert_eq!(done.plan, plan);
            expect_opened(&place, Next::ClaimAgain);
        }
        (Err(error), Ok(Salvage::Impossible { .. }) | Err(_)) => {
            assert!(place.files() == *files, "a salvage that was refused touched something: {error}");
        }
        (salvaged, planned) => panic!("planned {planned:?}, done {salvaged:?}"),
    }

    let place = SimPlace::new(files);
    let done = discard_log(&*directory_of(&place), &mut *place.database()).expect("a log can be given up");
    assert_eq!((done.given_up, done.unreadable), (discarded.given_up, discarded.unreadable));
    expect_opened(&place, Next::ClaimAgain);
}

fn directory_of(place: &SimPlace) -> std::sync::Arc<dyn pwal::internal::disk::LogDirectory> {
    place.directory()
}

fn is_not_needed(planned: &Result<Salvage, LogError>) -> bool {
    matches!(planned, Ok(Salvage::NotNeeded))
}

/// The next opens find a plain file, and leave it as it is.
fn expect_opened(place: &SimPlace, next: Next) {
    if next == Next::ClaimAgain {
        let mut opened = open(place, OpenFacts::default()).expect("what was moved away is gone");
        if opened.next == Next::ClaimAgain {
            opened = open(place, OpenFacts::default()).expect("what was moved away is gone");
        }
        assert_eq!(opened.next, Next::Ready);
    }
    let files = place.files();
    let state = stamp::read(&files.database[..files.database.len().min(100)]);
    let names = files.directory.iter().flat_map(|files| files.keys());
    let left: Vec<&String> = names.filter(|name| FileName::parse(name).is_some_and(|n| n.log_id().is_some())).collect();
    assert!(left.is_empty(), "{left:?} is left");
    let is_database = stamp::is_database(&files.database);
    assert!(matches!(state, StampState::Plain { .. }) || !is_database, "{state:?}");
    let again = open(place, OpenFacts::default()).expect("a plain file opens");
    assert_eq!((again.done.len(), again.next), (0, Next::Ready));
    assert!(place.files() == files, "an open of a plain file changed something");
}
