//! Damage with an oracle: each field of each record of logs of several shapes is flipped, zeroed, filled; each record is put at
//! another one's place, swapped, cut off, brought back to what lay there before; each sector is garbage or cannot be read; and
//! so the first sector of the database file. What comes of it is judged by the states that the log went through
//! (`support::log::history`). Whole files are gone, in an older version, there twice, or exchanged.
//!
//! `PWAL_TEST_STRIDE=1` does all of it, a stride of n each n-th harm; `PWAL_TEST_ROUNDS` harms together on each state of the file.

use pwal::internal::disk::fault::{DATABASE_NAME, Effect, Fault, Operation};
use pwal::internal::disk::sim::{Dice, HeaderTear, PowerCut};
use pwal::internal::disk::{Database, OpenMode};
use pwal::internal::log::ErrorKind;
use pwal::internal::log::format::{
    BatchHeader, Certificate, Descriptor, ImageForm, ImagePlace, batch_head_bytes, chain_after, encode_batch,
};
use pwal::internal::log::recovery::{Next, OpenFacts, open_database};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use support::log::history::{DATABASE, Harm, Harmed, History, Kind, Outcome, Record, Seen};
use support::log::{Files, LogBuilder, Place, SimPlace, database_of, stamped};

const ID: u64 = 0xfeed;
const ALL: u64 = u64::MAX;

/// Each n-th harm is tried.
fn stride() -> usize {
    std::env::var("PWAL_TEST_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(151)
}

/// Commits of which each writes some of the pages, the last of an epoch with a certificate in it or behind it.
fn commits(history: &mut History, count: u64) {
    for _ in 0..count {
        let next = history.last() + 1;
        let pages = history.pages();
        let chosen: Vec<u32> = (1..=pages).filter(|page| u64::from(*page) % 3 == next % 3 || *page == pages).collect();
        history.fill(&chosen, pages, next.is_multiple_of(3), usize::MAX);
        if next.is_multiple_of(4) {
            history.certify();
        }
    }
}

fn shapes() -> Vec<(&'static str, History)> {
    let mut shapes = Vec::new();
    let mut add = |name, page_bytes, pages, make: &dyn Fn(&mut History)| {
        let mut history = History::new(ID, page_bytes, pages, 12);
        make(&mut history);
        shapes.push((name, history));
    };
    add("one commit", 1024, 3, &|history| history.fill(&[1, 2], 3, true, usize::MAX));
    add("nothing durable", 512, 3, &|history| history.fill(&[2, 3], 3, false, usize::MAX));
    add("many commits", 512, 5, &|history| commits(history, 9));
    add("a pass in the middle", 1024, 5, &|history| {
        commits(history, 6);
        history.backfill();
        commits(history, 6);
    });
    add("a ring that lapped", 1024, 6, &|history| {
        for _ in 0..4 {
            commits(history, 9);
            history.certify();
            history.backfill();
        }
        commits(history, 5);
    });
    add("spills", 512, 6, &|history| {
        commits(history, 2);
        history.fill(&[1, 2, 3, 4], 6, true, 1);
        history.certify();
        history.fill(&[2, 5, 6], 6, false, 0);
        history.fill(&[1, 3], 6, true, 1);
        history.certify();
    });
    add("sizes that change", 4096, 2, &|history| {
        history.fill(&[1, 3, 4], 4, true, usize::MAX);
        history.fill(&[1], 1, true, usize::MAX);
        history.certify();
        history.backfill();
        history.fill(&[1, 2], 2, true, usize::MAX);
        history.fill(&[2, 3], 3, false, usize::MAX);
        history.certify();
    });
    add("a rest", 512, 4, &|history| {
        commits(history, 5);
        history.rest();
        commits(history, 4);
    });
    add("a dead writer's segment", 512, 5, &|history| {
        commits(history, 6);
        history.begin_elsewhere();
        commits(history, 3);
    });
    add("pages that hold records", 8192, 3, &|history| {
        commits(history, 2);
        let hostile = records_as_page(history);
        history.commit(&[(2, hostile)], 3, true, usize::MAX);
        commits(history, 2);
    });
    add("a log that is done", 512, 4, &|history| {
        commits(history, 5);
        history.certify();
        history.backfill();
        history.marker = Some(history.last());
    });
    shapes
}

/// A page of records that would count at each place where the next commit may put it.
fn records_as_page(history: &History) -> Vec<u8> {
    let (log, next) = (&history.log, history.last() + 1);
    let certificate = |offset: u64| Certificate {
        log_id: ID,
        ordinal: log.ordinal,
        offset,
        epoch: 1,
        lo: 1,
        hi: 1 << 40,
        durable: 1 << 40,
        backfilled: 1 << 40,
        chain: 7,
        batches: 1,
        frames: 1,
        distinct_pages: 1,
        database_pages: 1,
        fallback: false,
        clean_end: false,
        lane_frames: vec![],
        copy: None,
    };
    let batch = |offset: u64| {
        let descriptors =
            [Descriptor { page: 1, place: ImagePlace::Batch(batch_head_bytes(1)), form: ImageForm::PLAIN, crc: 9 }];
        let mut header = BatchHeader {
            log_id: ID,
            sequence: next + 1,
            ordinal: log.ordinal,
            offset,
            bytes: 4096,
            frames: 1,
            database_pages: 1,
            lane: 0,
            wants_durable: true,
            time_us: 1,
            chain: log.chain,
            certificate: None,
        };
        header.chain = chain_after(&header, &descriptors);
        encode_batch(&header, &descriptors).unwrap()
    };
    let mut page = vec![0; log.page_bytes as usize];
    // Image 0 lies behind the head of its batch.
    let position = batch_head_bytes(1);
    for (nth, at) in (0..page.len()).filter(|at| (position + *at as u64).is_multiple_of(512)).enumerate() {
        let offset = log.offset + position + at as u64;
        let record = if nth % 2 == 0 { certificate(offset).encode().to_vec() } else { batch(offset) };
        let end = page.len().min(at + record.len());
        page[at..end].copy_from_slice(&record[..end - at]);
    }
    page
}

/// The database file before the log, after it, and with some pages of what a pass was writing.
fn seens(history: &History) -> Vec<Seen> {
    let (from, to) = (history.backfilled, history.durable.max(history.backfilled));
    let mut seens = vec![Seen { target: from, pages: ALL }];
    if to > from {
        seens.extend([Seen { target: to, pages: ALL }, Seen { target: to, pages: 0b10110 }]);
    }
    seens
}

/// Pieces of these lengths, one behind the other.
fn pieces(from: usize, lengths: &[usize]) -> Vec<Range<usize>> {
    let mut at = from;
    let next = |length: &usize| {
        at += length;
        at - length..at
    };
    lengths.iter().map(next).collect()
}

const SEGMENT_HEADER: [usize; 12] = [8, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 4];
const CERTIFICATE: [usize; 26] = [8, 2, 2, 4, 8, 8, 8, 8, 8, 8, 8, 4, 2, 2, 8, 8, 4, 4, 120, 8, 8, 2, 1, 1, 4, 8];
const BATCH: [usize; 4] = [8, 2, 2, 4];
const CHAINED: [usize; 12] = [8, 8, 8, 8, 8, 8, 4, 4, 2, 2, 4, 8];
const DESCRIPTOR: [usize; 8] = [4, 2, 1, 1, 8, 4, 2, 2];
/// Magic, page size, versions, what SQLite keeps, log id, T, CRC, what SQLite keeps, the page.
const DATABASE_HEADER: [usize; 10] = [16, 2, 2, 4, 4, 44, 8, 8, 4, 420];

/// The fields of a record, its padding as one.
fn fields(record: &Record, page_bytes: usize) -> Vec<Range<usize>> {
    let Range { start, end } = record.bytes;
    let mut fields = match record.kind {
        Kind::Header => pieces(start, &SEGMENT_HEADER),
        Kind::Certificate | Kind::Half { .. } => pieces(start, &CERTIFICATE),
        Kind::Spill { .. } => Vec::new(),
        Kind::Batch { head, .. } => {
            let mut fields = pieces(start, &BATCH);
            fields.extend(pieces(start + 16, &CERTIFICATE));
            fields.extend(pieces(start + 272, &CHAINED));
            (344..head).step_by(24).for_each(|at| fields.extend(pieces(start + at, &DESCRIPTOR)));
            fields
        }
    };
    let mut at = fields.last().map_or(start, |last| last.end);
    while at < end {
        let next = end.min(at + page_bytes.min(512));
        fields.push(at..next);
        at = next;
    }
    fields
}

/// Every single harm to one field, or to a sector.
fn harms_of_field(name: &str, file: &[u8], field: &Range<usize>, every_bit: bool) -> Vec<Harm> {
    let bytes = |at: usize, bytes: Vec<u8>| Harm::Bytes(name.to_owned(), at, bytes);
    let flip = |at: usize, bit: usize| bytes(at, vec![file[at] ^ 1 << bit]);
    let mut harms = vec![
        flip(field.start, 0),
        flip(field.end - 1, 7),
        bytes(field.start, vec![0; field.len()]),
        bytes(field.start, vec![0xff; field.len()]),
        bytes(field.start, file[field.clone()].iter().map(|byte| byte.wrapping_add(1)).collect()),
    ];
    if every_bit && field.len() <= 24 {
        harms.extend(field.clone().flat_map(|at| (0..8).map(move |bit| (at, bit))).map(|(at, bit)| flip(at, bit)));
    }
    harms
}

fn garbage(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// All harms to the log of a history, each a list.
fn harms(history: &History, files: &Files) -> Vec<Vec<Harm>> {
    let directory = files.directory.as_ref().unwrap();
    let every_bit = stride() == 1;
    let mut harms: Vec<Vec<Harm>> = Vec::new();
    for record in &history.records {
        let (name, file) = (&record.file, &directory[&record.file]);
        let put = |at: usize, bytes: &[u8]| Harm::Bytes(name.clone(), at, bytes.to_vec());
        for field in fields(record, history.page_bytes()) {
            harms.extend(harms_of_field(name, file, &field, every_bit).into_iter().map(|harm| vec![harm]));
        }
        // What lay there before; and only a part of it.
        for (_, older) in history.older.iter().filter(|(of, _)| of == name) {
            harms.push(vec![put(record.bytes.start, &older[record.bytes.clone()])]);
            let sector = record.bytes.start..record.bytes.start + 512;
            harms.push(vec![put(sector.start, &older[sector.clone()])]);
            harms.push(vec![put(sector.end, &older[sector.end..record.bytes.end])]);
        }
        // Another record at this place, the two swapped, and a sector of it.
        for other in &history.records {
            let bytes = &directory[&other.file][other.bytes.clone()];
            let fits = &bytes[..bytes.len().min(record.bytes.len())];
            harms.push(vec![put(record.bytes.start, fits)]);
            harms.push(vec![put(record.bytes.start, &fits[..512])]);
            let back = &file[record.bytes.clone()];
            let back = Harm::Bytes(other.file.clone(), other.bytes.start, back[..fits.len()].to_vec());
            harms.push(vec![put(record.bytes.start, fits), back]);
        }
        for at in [record.bytes.start, record.bytes.start + 512, record.bytes.end] {
            harms.push(vec![Harm::Truncated(name.clone(), at)]);
        }
        for at in record.bytes.clone().step_by(512) {
            harms.push(vec![Harm::Unreadable(name.clone(), at..at + 512)]);
            harms.push(vec![put(at, &garbage(512))]);
            harms.push(vec![put(at, &[0; 512])]);
        }
        harms.push(vec![Harm::Unreadable(name.clone(), record.bytes.clone())]);
    }
    harms.extend(harms_of_files(history, files));
    // Behind the tail, too.
    let tail = history.log.offset as usize;
    for at in (tail..directory[&history.log.segment_name()].len()).step_by(512) {
        harms.push(vec![Harm::Unreadable(history.log.segment_name(), at..at + 512)]);
        harms.push(vec![Harm::Bytes(history.log.segment_name(), at, garbage(512))]);
    }
    harms
}

/// Harms to whole files: gone, in an older version, there twice, one under the name of another.
fn harms_of_files(history: &History, files: &Files) -> Vec<Vec<Harm>> {
    let directory = files.directory.as_ref().unwrap();
    let is_of_log = |name: &&String| name.ends_with(".seg") || name.ends_with(".spill");
    let names: Vec<&String> = directory.keys().filter(is_of_log).collect();
    let mut harms: Vec<Vec<Harm>> = Vec::new();
    for (nth, name) in names.iter().enumerate() {
        let file = |content: Option<&Vec<u8>>| Harm::File((*name).clone(), content.cloned());
        harms.push(vec![file(None)]);
        harms.push(vec![file(Some(&Vec::new()))]);
        harms.extend(history.older.iter().filter(|(of, _)| of == *name).map(|(_, older)| vec![file(Some(older))]));
        let (log, kind) = (&name[..16], name.rsplit_once('.').unwrap().1);
        harms.push(vec![Harm::File(format!("{log}-00ee.{kind}"), Some(directory[*name].clone()))]);
        for other in &names[..nth] {
            let back = Harm::File((*other).clone(), Some(directory[*name].clone()));
            harms.push(vec![file(Some(&directory[*other])), back]);
            harms.push(vec![file(Some(&directory[*other]))]);
        }
    }
    harms
}

/// All harms to the first sector of the database file.
fn harms_of_first_sector(files: &Files) -> Vec<Vec<Harm>> {
    let put = |bytes: &[u8]| Harm::Bytes(DATABASE.to_owned(), 0, bytes.to_vec());
    let mut harms = vec![vec![put(&garbage(512))], vec![put(&[0; 512])], vec![put(&[0xff; 512])]];
    for field in pieces(0, &DATABASE_HEADER) {
        harms.extend(
            harms_of_field(DATABASE, &files.database, &field, stride() == 1).into_iter().map(|harm| vec![harm]),
        );
    }
    // Half written, either way.
    harms.push(vec![put(&garbage(256))]);
    harms.push(vec![Harm::Bytes(DATABASE.to_owned(), 256, garbage(256))]);
    harms
}

/// Judges each n-th of them, on each state of the file.
fn judge_all(
    shape: &str,
    history: &History,
    stride: usize,
    all: impl Fn(&Files) -> Vec<Vec<Harm>>,
) -> BTreeMap<Outcome, usize> {
    let mut outcomes = BTreeMap::new();
    for (index, seen) in seens(history).into_iter().enumerate() {
        let files = history.files(seen);
        assert_eq!(history.judge(seen, &Harmed::new(&files, &[])), Outcome::Right, "{shape}, unharmed");
        for harms in all(&files).into_iter().skip(index).step_by(stride) {
            let harmed = Harmed::new(&files, &harms);
            let context = || format!("{shape}: {:?} with {seen:?}, B {}", harmed.touched, history.backfilled);
            let outcome = std::panic::catch_unwind(|| history.judge(seen, &harmed));
            let outcome = outcome.unwrap_or_else(|panic| {
                println!("{}", context());
                std::panic::resume_unwind(panic)
            });
            assert!(outcome == Outcome::Right || !history.is_spared(&harmed), "{outcome:?}: {}", context());
            let is_one = harms.len() == 1 && !matches!(harms[0], Harm::Truncated(..) | Harm::File(..));
            assert!(outcome != Outcome::Impossible || !is_one, "nothing can be saved: {}", context());
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    println!("{shape}: {outcomes:?}");
    outcomes
}

#[test]
fn a_log_that_is_harmed() {
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for (shape, history) in shapes() {
        for (outcome, count) in judge_all(shape, &history, stride(), |files| harms(&history, files)) {
            *outcomes.entry(outcome).or_default() += count;
        }
    }
    println!("{outcomes:?}");
    for outcome in [Outcome::Right, Outcome::Earlier, Outcome::Salvaged] {
        assert!(outcomes.contains_key(&outcome), "{outcome:?} did not come of anything");
    }
}

#[test]
fn whole_files_that_are_harmed() {
    for (shape, history) in shapes() {
        judge_all(shape, &history, stride().div_ceil(80), |files| harms_of_files(&history, files));
    }
}

#[test]
fn a_first_sector_that_is_harmed() {
    for (shape, history) in shapes() {
        judge_all(shape, &history, stride().div_ceil(40), harms_of_first_sector);
    }
}

/// Several at once, in the log and in the first sector.
#[test]
fn several_harms() {
    let rounds = std::env::var("PWAL_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    for (shape, history) in shapes() {
        for seen in seens(&history) {
            let files = history.files(seen);
            let all = [harms(&history, &files), harms_of_first_sector(&files)].concat();
            let mut dice = Dice::new(1);
            for _ in 0..rounds {
                let count = 2 + dice.below(3);
                let harms: Vec<Harm> =
                    (0..count).flat_map(|_| all[dice.below(all.len() as u64) as usize].clone()).collect();
                let harmed = Harmed::new(&files, &harms);
                let outcome = std::panic::catch_unwind(|| history.judge(seen, &harmed));
                if let Err(panic) = outcome {
                    println!("{shape}: {:?} with {seen:?}, B {}", harmed.touched, history.backfilled);
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

/// A database file whose first sector cannot be read until it is written.
#[derive(Debug)]
struct Unreadable {
    inner: Box<dyn Database>,
    is_bad: bool,
}

impl Database for Unreadable {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_bad && offset < 512 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.is_bad &= offset > 0 || data.len() < 512;
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

#[test]
fn a_first_sector_that_cannot_be_read() {
    for (shape, history) in shapes() {
        for seen in seens(&history) {
            let files = history.files(seen);
            let place = SimPlace::new(&files);
            let mut database = Unreadable { inner: place.database(), is_bad: true };
            let opened = open_database(&*place.directory(), &mut database, OpenFacts::default());
            assert!(opened.is_ok(), "{shape} {seen:?}: {opened:?}");
            assert!(place.files().database == history.states[history.states.len() - 1], "{shape} {seen:?}: {opened:?}");
        }
    }
}

#[test]
fn the_fields_are_those_of_the_format() {
    for (lengths, bytes) in [(&SEGMENT_HEADER[..], 68), (&CERTIFICATE, 256), (&BATCH, 16), (&DESCRIPTOR, 24)] {
        assert_eq!(lengths.iter().sum::<usize>(), bytes);
    }
    assert_eq!((CHAINED.iter().sum::<usize>(), DATABASE_HEADER.iter().sum::<usize>()), (344 - 272, 512));
}

/// What settles the log of a whole stamp also settles whose the others are: of another file, whatever is left of the header.
#[test]
fn a_rotted_header_beside_two_logs() {
    let own = LogBuilder::new(ID, 1024);
    for commits in [0, 2] {
        let mut other = LogBuilder::new(ID + 1, 1024);
        other.commits(commits);
        let mut database = stamped(&[7, 8, 9], 1024, ID, 0);
        database[3] ^= 1;
        let place = SimPlace::new(&Files::new(database).with(&own.files).with(&other.files));
        let open = || open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap();
        let opened = open();
        assert_eq!(opened.next, if commits == 0 { Next::Ready } else { Next::ClaimAgain }, "{opened:?}");
        assert_eq!(open().done, []);
        let mut expected = database_of(&[7, 8, 9], 1024);
        expected[3] ^= 1;
        assert!(place.files().database == expected);
    }
}

/// A pass to commit 3 has begun, and all of the log that speaks of commit 3 is gone; the header is damaged into its versions, and
/// the reserved bytes of the stamp are whole. T counts: the images of commit 2 are not written over those of commit 3.
#[test]
fn the_target_in_a_damaged_header_counts() {
    let mut history = History::new(ID, 4096, 8, 12);
    history.fill(&[1, 2, 3, 4], 8, true, usize::MAX);
    history.backfill();
    history.fill(&[2, 3], 8, false, usize::MAX);
    history.certify();
    history.rotate();
    history.fill(&[2, 4], 8, false, usize::MAX);
    history.certify();
    history.certify();
    let seen = Seen { target: 3, pages: 1 << 1 };
    assert_eq!((history.last(), history.durable), (3, 3));
    let files = history.files(seen);
    let lost: Vec<Harm> = history
        .records
        .iter()
        .filter(|record| {
            record.marks.is_some_and(|(durable, _)| durable == 3)
                || matches!(record.kind, Kind::Batch { sequence: 3, .. })
        })
        .map(|record| Harm::Bytes(record.file.clone(), record.bytes.start, vec![0; record.bytes.len()]))
        .collect();
    assert!(lost.len() >= 2, "{:?}", history.records);
    let header = Harm::Bytes(DATABASE.to_owned(), 18, vec![0xa5; 16]);
    let outcome = history.judge(seen, &Harmed::new(&files, &[lost, vec![header]].concat()));
    assert!(outcome >= Outcome::AsItWas, "{outcome:?}");
}

/// All that a log had is gone, and so is the part of the stamp that would show it. The header of the first segment was durable before
/// the stamp: without it the log is damaged, not one that never began, and nothing is deleted.
#[test]
fn a_log_without_a_beginning_beside_half_a_stamp_is_kept() {
    for (shape, history) in shapes().into_iter().filter(|(_, history)| history.marker.is_none()) {
        for seen in seens(&history) {
            let files = history.files(seen);
            let lost = |byte: u8| {
                let of = |record: &Record| {
                    Harm::Bytes(record.file.clone(), record.bytes.start, vec![byte; record.bytes.len()])
                };
                history.records.iter().map(of).collect::<Vec<Harm>>()
            };
            let stamp = |at: usize, bytes: &[u8]| Harm::Bytes(DATABASE.to_owned(), at, bytes.to_vec());
            for stamp in [stamp(72, &[9; 8]), stamp(80, &[9; 8]), stamp(88, &[9; 4]), stamp(18, &[2, 2])] {
                for byte in [0, 0xa5] {
                    let harms = [lost(byte), vec![stamp.clone()]].concat();
                    let outcome = history.judge(seen, &Harmed::new(&files, &harms));
                    assert!(outcome > Outcome::Earlier, "{shape} {seen:?} {stamp:?} {byte}: {outcome:?}");
                }
            }
        }
    }
}

/// Commit 2, for which no certificate says D, and its batch.
fn unsealed(pages: u32) -> (History, String, u64) {
    let mut history = History::new(ID, 1024, pages, 8 + u64::from(pages) / 2);
    history.fill(&[1, 2], pages, true, usize::MAX);
    history.certify();
    history.fill(&(2..pages).collect::<Vec<u32>>(), pages, false, usize::MAX);
    let is_commit = |record: &&Record| matches!(record.kind, Kind::Batch { sequence: 2, .. });
    let batch = history.records.iter().find(is_commit).unwrap();
    let (file, start) = (batch.file.clone(), batch.bytes.start as u64);
    (history, file, start)
}

/// Opens until the `nth` sync of the database file fails.
fn fail_sync(place: &SimPlace, nth: u64) {
    let (name_contains, effect) = (DATABASE_NAME.to_owned(), Effect::Error);
    place.disk.plan().add(Fault { operation: Operation::Sync, name_contains, nth, effect, goes_on: false });
    open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap_err();
}

/// What is left now, with commit 2 rotted, is refused, or a state of the history.
fn check_rotted(history: &History, mut files: Files, file: &str, start: u64, what: &str) {
    files.directory.as_mut().unwrap().get_mut(file).unwrap()[start as usize + 300] ^= 1;
    let place = SimPlace::new(&files);
    let opened = open_database(&*place.directory(), &mut *place.database(), OpenFacts::default());
    let is_state = history.states.contains(&place.files().database);
    assert!(opened.is_err() || is_state, "{what}: {opened:?}");
}

/// What happens to the bytes of a database file.
type OneHarm = fn(&mut Vec<u8>);

/// A recovery has written pages of commit 2, and is cut short; then commit 2 rots. The next one does not leave these pages beside
/// those of commit 1. Nor where the stamp was torn or the header lost before.
#[test]
fn a_commit_rots_after_a_recovery_that_was_cut_short() {
    let (history, file, start) = unsealed(4);
    let harms: [(&str, OneHarm); 4] = [
        ("whole", |_| {}),
        ("torn T", |bytes| bytes[80] ^= 1),
        ("torn versions", |bytes| bytes[18] = 2),
        ("no header", |bytes| bytes[..512].fill(0x5a)),
    ];
    for (what, harm) in harms {
        for nth in 1..=2 {
            let mut files = history.files(Seen { target: 0, pages: ALL });
            harm(&mut files.database);
            let place = SimPlace::new(&files);
            fail_sync(&place, nth);
            check_rotted(&history, place.files(), &file, start, &format!("{what}, sync {nth}"));
        }
    }
}

/// The sync of T has failed: it reads n, and what the medium has nobody knows. The next recovery may not write a page before it has
/// written T again.
#[test]
fn a_target_that_reads_as_the_last_commit_after_a_failed_sync_is_written_again() {
    let (history, file, start) = unsealed(4);
    let nothing_kept =
        PowerCut { keep_percent: 0, tears_sectors: false, tears_same_bytes: false, tears_header: HeaderTear::Never };
    for seed in 0..24 {
        for nth in 1..=2 {
            let place = SimPlace::new(&history.files(Seen { target: 0, pages: ALL }));
            let place = SimPlace { disk: place.disk.deep_clone(seed), path: place.path };
            fail_sync(&place, 1);
            fail_sync(&place, nth);
            place.disk.power_cut(&nothing_kept);
            check_rotted(&history, place.files(), &file, start, &format!("seed {seed}, sync {nth}"));
        }
    }
}

/// A database file whose first sync lets a byte of the log rot.
#[derive(Debug)]
struct RotsAtSync<'a> {
    inner: Box<dyn Database>,
    log: &'a SimPlace,
    at: Option<(&'a str, u64)>,
}

impl Database for RotsAtSync<'_> {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(data, offset)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.inner.set_bytes(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some((name, offset)) = self.at.take() {
            let file = self.log.directory().open(name, OpenMode::Existing)?;
            let mut byte = [0];
            file.read_at(&mut byte, offset)?;
            file.write_at(&[IoSlice::new(&[byte[0] ^ 1])], offset)?;
            file.sync()?;
        }
        self.inner.sync()
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.inner.bytes()
    }
}

/// The images were verified while they were probed, and rot before they are replayed: they are verified again, and what is left
/// after that is refused, too.
#[test]
fn an_image_rots_between_its_verification_and_its_replay() {
    // More than is read ahead.
    let (history, file, start) = unsealed(1000);
    let place = SimPlace::new(&history.files(Seen { target: 0, pages: ALL }));
    let mut database = RotsAtSync { inner: place.database(), log: &place, at: Some((&file, start + 30_000)) };
    let failed = open_database(&*place.directory(), &mut database, OpenFacts::default()).unwrap_err();
    assert!(failed.to_string().contains("image"), "{failed}");
    let again = open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Corrupt, "{again}");
}
