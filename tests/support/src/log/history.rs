//! Logs of which every state is known, damage to them, and the judgement of what comes of it.
//!
//! Allowed is the right state, or a refusal that touched nothing; after a salvage a state of the history, or the file as it
//! was. No state is older than what the database file had seen, or than what an unharmed certificate says was durable; and
//! what holds nothing that is needed, or has another copy, may be harmed without loss.

use super::media::Medium;
use super::{Commit, Files, LogBuilder, Place, SimPlace, image};
use pwal::internal::disk::Disk;
use pwal::internal::disk::hooked::HookedDirectory;
use pwal::internal::log::LogError;
use pwal::internal::log::format::{FileName, LogId, OmittedZeros, marker_name};
use pwal::internal::log::recovery::{Next, OpenFacts, Opened, open_database};
use pwal::internal::log::salvage::{Plan, Salvage, discard_log, plan, salvage};
use pwal::internal::log::stamp::{self, Stamp};
use pwal::internal::log::undo::UNDO_NAME;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What the database file is called among the files.
pub const DATABASE: &str = "(database)";
const SECTOR: usize = 512;
const BLOCK: usize = 4096;

/// What lies in a piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The header of a segment.
    Header,
    /// A commit, with its images.
    Batch {
        /// The commit.
        sequence: u64,
        /// The bytes of header and descriptors.
        head: usize,
    },
    /// Images of a commit in a file of their own.
    Spill {
        /// The commit.
        sequence: u64,
    },
    /// A certificate outside of a batch.
    Certificate,
    /// One block of a doubled certificate.
    Half {
        /// The second one.
        is_second: bool,
    },
}

/// A record, and what it says.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: Kind,
    pub file: String,
    pub bytes: Range<usize>,
    /// Of its segment.
    pub ordinal: u64,
    /// D and B of the certificate in it.
    pub marks: Option<(u64, u64)>,
}

/// What a pass has done to the database file.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// T.
    pub target: u64,
    /// Of the pages that the pass writes, those whose bit is set are there.
    pub pages: u64,
}

/// The zeros in the images of commits that have their certificate in the batch.
fn zeros(page_bytes: u32) -> OmittedZeros {
    OmittedZeros::new(16, 21, page_bytes).expect("a page of 512 bytes at least")
}

/// A log as it grows.
#[derive(Clone, Debug)]
pub struct History {
    pub log: LogBuilder,
    /// The database file, plain, behind each commit.
    pub states: Vec<Vec<u8>>,
    /// The records that still lie where they were written.
    pub records: Vec<Record>,
    /// The segment before each record, by its name: what a place held before.
    pub older: Vec<(String, Vec<u8>)>,
    /// B.
    pub backfilled: u64,
    /// D.
    pub durable: u64,
    /// The first and the last commit of the segment in each segment file, and its ordinal.
    segments: BTreeMap<u32, (u64, u64, u64)>,
    /// States behind a commit that its writer did not live to publish: what may come of a log in which the one that was
    /// published in its place is harmed.
    dead: Vec<(u64, Vec<u8>)>,
    /// n of its marker.
    pub marker: Option<u64>,
}

impl History {
    /// A log behind a database file of so many pages, with its first segment.
    pub fn new(log_id: LogId, page_bytes: u32, pages: u32, segment_blocks: u64) -> History {
        let first: Vec<u8> = (1..=pages).flat_map(|page| image(page, 1 << 20 | u64::from(page), page_bytes)).collect();
        let log = LogBuilder::with_blocks(log_id, page_bytes, 4096, segment_blocks);
        let mut history = History {
            log,
            states: vec![first],
            records: Vec::new(),
            older: Vec::new(),
            backfilled: 0,
            durable: 0,
            segments: BTreeMap::from([(0, (1, 0, 1))]),
            dead: Vec::new(),
            marker: None,
        };
        history.note(Kind::Header, 0, 4096, None);
        history.log.database_pages = pages;
        history.double();
        history
    }

    pub fn last(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub fn page_bytes(&self) -> usize {
        self.log.page_bytes as usize
    }

    /// Pages of the database file behind the last commit.
    pub fn pages(&self) -> u32 {
        (self.states[self.states.len() - 1].len() / self.page_bytes()) as u32
    }

    fn note(&mut self, kind: Kind, at: u64, bytes: usize, marks: Option<(u64, u64)>) {
        let (file, at, ordinal) = (self.log.segment_name(), at as usize, self.log.ordinal);
        let bytes = at..at + bytes;
        // What was written over is gone.
        self.records
            .retain(|record| record.file != file || record.bytes.end <= bytes.start || bytes.end <= record.bytes.start);
        self.records.push(Record { kind, file, bytes, ordinal, marks });
    }

    fn keep_older(&mut self) {
        let name = self.log.segment_name();
        let segment = self.log.files[&name].clone();
        self.older.push((name, segment));
    }

    fn room(&self) -> u64 {
        self.log.segment_bytes - self.log.offset
    }

    /// A commit of these pages, with an image of each; goes on in another segment if this one has no room for it.
    pub fn commit(&mut self, images: &[(u32, Vec<u8>)], pages: u32, seals: bool, spill_from: usize) {
        let page_bytes = self.page_bytes();
        let inline = images.len().min(spill_from);
        let bytes = (344 + 24 * images.len() + inline * page_bytes).next_multiple_of(4096) as u64;
        assert!(bytes <= self.log.segment_bytes - 3 * 4096, "a segment has no room for this commit");
        // A certificate or a doubled one fits behind every commit.
        if self.room() < bytes + 3 * 4096 {
            self.rotate();
        }
        self.keep_older();
        let (offset, spill) = (self.log.offset, self.log.spills);
        let frames: Vec<(u32, u64)> = images.iter().map(|(page, _)| (*page, 0)).collect();
        let given: Vec<&[u8]> = images.iter().map(|(_, image)| image.as_slice()).collect();
        let zeros = zeros(self.log.page_bytes);
        let are_there = |(_, image): &(u32, Vec<u8>)| image[zeros.range()].iter().all(|&byte| byte == 0);
        let omitted: Vec<OmittedZeros> =
            images.iter().map(|image| if seals && are_there(image) { zeros } else { OmittedZeros::NONE }).collect();
        let marks = seals.then_some((self.log.durable, self.backfilled));
        self.log.commit(&Commit {
            frames: &frames,
            database_pages: pages,
            certificate: marks,
            spill_from,
            images: &given,
            omitted: &omitted,
            ..Commit::default()
        });
        let sequence = self.log.sequence;
        let head = 344 + 24 * images.len();
        self.note(Kind::Batch { sequence, head }, offset, (self.log.offset - offset) as usize, marks);
        if images.len() > spill_from {
            let file = pwal::internal::log::format::spill_name(self.log.log_id, spill);
            let bytes = 0..self.log.files[&file].len();
            let ordinal = self.log.ordinal;
            self.records.push(Record { kind: Kind::Spill { sequence }, file, bytes, ordinal, marks: None });
        }
        if let Some((durable, _)) = marks {
            self.durable = self.durable.max(durable);
        }
        let segment = self.segments.get_mut(&self.log.segment).unwrap();
        segment.1 = sequence;
        let mut state = self.states[self.states.len() - 1].clone();
        state.resize(pages as usize * page_bytes, 0);
        for (page, image) in images {
            if let Some(room) = state.get_mut((*page as usize - 1) * page_bytes..*page as usize * page_bytes) {
                room.copy_from_slice(image);
            }
        }
        self.states.push(state);
    }

    /// A commit that fills these pages with a value of its own, but for zeros that are not stored if it has its certificate.
    pub fn fill(&mut self, pages: &[u32], database_pages: u32, seals: bool, spill_from: usize) {
        let value = 100 * (self.log.sequence + 1);
        let page_bytes = self.log.page_bytes;
        let image = |page: &u32| {
            let mut image = image(*page, value + u64::from(*page), page_bytes);
            if seals {
                image[zeros(page_bytes).range()].fill(0);
            }
            (*page, image)
        };
        let images: Vec<(u32, Vec<u8>)> = pages.iter().map(image).collect();
        self.commit(&images, database_pages, seals, spill_from);
    }

    /// Goes on in a segment file that is free: one of which all is backfilled, by a durable doubled certificate in a later segment, or
    /// a new one.
    pub fn rotate(&mut self) {
        let home = self.records.iter().filter(|record| matches!(record.kind, Kind::Half { is_second: false }));
        let newest = home.map(|record| record.ordinal).max().unwrap_or(0);
        let is_free = |(_, last, ordinal): &(u64, u64, u64)| *last <= self.backfilled && *ordinal < newest;
        let free = self.segments.iter().find(|(_, segment)| is_free(segment)).map(|(segment, _)| *segment);
        // A segment that a dead writer began is begun again.
        let begun = self.segments.iter().find(|(_, segment)| segment.2 > self.log.ordinal).map(|(segment, _)| *segment);
        let next = self.segments.keys().max().map_or(0, |segment| segment + 1);
        self.rotate_to(begun.or(free).unwrap_or(next));
    }

    fn rotate_to(&mut self, segment: u32) {
        if let Some(again) = self.log.files.get(&pwal::internal::log::format::segment_name(self.log.log_id, segment)) {
            self.older.push((pwal::internal::log::format::segment_name(self.log.log_id, segment), again.clone()));
        }
        self.log.rotate(segment);
        self.segments.insert(segment, (self.log.sequence + 1, self.log.sequence, self.log.ordinal));
        self.note(Kind::Header, 0, 4096, None);
    }

    /// A certificate outside of a batch over what has none yet.
    pub fn certify(&mut self) {
        if self.room() < 3 * 4096 {
            self.rotate();
        }
        self.keep_older();
        let (offset, durable) = (self.log.offset, self.log.durable);
        self.log.certify(durable, self.backfilled);
        self.durable = self.durable.max(durable);
        let bytes = (self.log.offset - offset) as usize;
        self.note(Kind::Certificate, offset, bytes, Some((durable, self.backfilled)));
    }

    /// A doubled certificate with the B that there is.
    fn double(&mut self) {
        self.keep_older();
        self.log.end_block();
        let (offset, durable) = (self.log.offset, self.log.durable);
        let state = &self.states[self.backfilled as usize];
        let copied = self.page_bytes().min(4096);
        let behind = &state[copied..state.len().min(copied + 4096)];
        let behind = if behind.is_empty() { 0 } else { crc32c::crc32c(behind) };
        let copy = state[..copied].to_vec();
        self.log.certify_doubled(durable, self.backfilled, &copy, behind);
        self.durable = self.durable.max(durable);
        let marks = Some((durable, self.backfilled));
        self.note(Kind::Half { is_second: false }, offset, 4096, marks);
        self.note(Kind::Half { is_second: true }, offset + 4096, 4096, marks);
    }

    /// A pass has brought everything that is durable into the database file: B moves. Spill files of before are deleted.
    pub fn backfill(&mut self) {
        if self.room() < 4 * 4096 {
            self.rotate();
        }
        self.backfilled = self.log.durable;
        self.double();
        let done = |record: &&Record| matches!(record.kind, Kind::Spill { sequence } if sequence <= self.backfilled);
        let done: BTreeSet<String> = self.records.iter().filter(done).map(|record| record.file.clone()).collect();
        self.log.files.retain(|name, _| !done.contains(name));
        self.records.retain(|record| !done.contains(&record.file));
    }

    /// A rest: everything is in the database file and the log was deleted, and then it was made anew.
    pub fn rest(&mut self) {
        if self.log.durable < self.log.sequence {
            self.certify();
        }
        self.backfilled = self.log.sequence;
        let segment = self.segments.keys().max().map_or(0, |segment| segment + 1);
        let deleted = std::mem::take(&mut self.log.files);
        self.older.extend(deleted);
        self.records.clear();
        self.segments.clear();
        self.rotate_to(segment);
        self.double();
    }

    /// A writer that died had begun another segment with a commit that another batch became.
    pub fn begin_elsewhere(&mut self) {
        let mut dead = self.clone();
        dead.rotate_to(self.segments.keys().max().map_or(0, |segment| segment + 1));
        dead.fill(&[1, 2], 2, true, usize::MAX);
        let name = dead.log.segment_name();
        self.dead.push((dead.last(), dead.states[dead.states.len() - 1].clone()));
        self.segments.insert(dead.log.segment, (self.last() + 1, self.last(), dead.log.ordinal));
        self.log.files.insert(name.clone(), dead.log.files[&name].clone());
    }

    /// The database file as a pass to `seen.target` left it, stamped.
    pub fn database(&self, seen: Seen) -> Vec<u8> {
        let (base, target) = (&self.states[self.backfilled as usize], &self.states[seen.target as usize]);
        let page_bytes = self.page_bytes();
        let is_whole = seen.pages == u64::MAX;
        let mut bytes = base.clone();
        bytes.resize(if is_whole { target.len() } else { base.len().max(target.len()) }, 0);
        for (page, image) in target.chunks(page_bytes).enumerate() {
            // Page 1 is written last.
            if is_whole || (page > 0 && seen.pages >> (page % 64) & 1 == 1) {
                bytes[page * page_bytes..][..page_bytes].copy_from_slice(image);
            }
        }
        Stamp { log_id: self.log.log_id, backfill_target: seen.target }.apply(&mut bytes);
        bytes
    }

    /// All files, unharmed.
    pub fn files(&self, seen: Seen) -> Files {
        let files = Files::new(self.database(seen)).with(&self.log.files).with_file("lock", b"");
        match self.marker {
            Some(last) => files.with_file(marker_name(self.log.log_id, last), b""),
            None => files,
        }
    }

    /// Whether recovery cannot do without this record. A doubled certificate has another half.
    fn is_needed(&self, record: &Record) -> bool {
        match record.kind {
            Kind::Batch { sequence, .. } | Kind::Spill { sequence } => sequence > self.backfilled,
            Kind::Header => {
                let holds = |other: &Record| {
                    let is_commit = matches!(other.kind, Kind::Batch { sequence, .. } if sequence > self.backfilled);
                    other.file == record.file && is_commit
                };
                self.records.iter().any(holds)
            }
            Kind::Certificate | Kind::Half { .. } => false,
        }
    }
}

/// One harm.
#[derive(Clone, Debug)]
pub enum Harm {
    /// These bytes lie there.
    Bytes(String, usize, Vec<u8>),
    /// The file ends there.
    Truncated(String, usize),
    /// All of the file of the log is this, or it is gone. It need not have been there.
    File(String, Option<Vec<u8>>),
    /// The medium does not give these bytes.
    Unreadable(String, Range<usize>),
}

/// The files with harm.
#[derive(Clone, Debug)]
pub struct Harmed {
    pub files: Files,
    pub bad: Vec<(String, Range<u64>)>,
    /// What is not as it was.
    pub touched: Vec<(String, Range<usize>)>,
}

impl Harmed {
    pub fn new(files: &Files, harms: &[Harm]) -> Harmed {
        let mut harmed = Harmed { files: files.clone(), bad: Vec::new(), touched: Vec::new() };
        for harm in harms {
            harmed.add(harm);
        }
        harmed
    }

    fn file(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        if name == DATABASE { Some(&mut self.files.database) } else { self.files.directory.as_mut()?.get_mut(name) }
    }

    fn add(&mut self, harm: &Harm) {
        if let Harm::File(name, content) = harm {
            return self.replace(name, content.as_deref());
        }
        let (Harm::Bytes(name, ..) | Harm::Truncated(name, _) | Harm::Unreadable(name, _) | Harm::File(name, _)) = harm;
        let Some(file) = self.file(name) else { return };
        match harm {
            Harm::Bytes(_, at, bytes) => {
                let bytes = &bytes[..bytes.len().min(file.len().saturating_sub(*at))];
                let differs = |(index, byte): (usize, &u8)| (file[*at + index] != *byte).then_some(*at + index);
                let mut changed = bytes.iter().enumerate().filter_map(differs);
                let Some(first) = changed.next() else { return };
                let last = changed.next_back().unwrap_or(first);
                file[*at..*at + bytes.len()].copy_from_slice(bytes);
                self.touched.push((name.clone(), first..last + 1));
            }
            Harm::File(..) => {}
            Harm::Truncated(_, at) => {
                if *at < file.len() {
                    // A segment that is longer than its file is none (S4).
                    file.truncate(*at);
                    self.touched.push((name.clone(), 0..usize::MAX));
                }
            }
            Harm::Unreadable(_, bytes) => {
                let bytes = bytes.start / SECTOR * SECTOR..bytes.end.next_multiple_of(SECTOR).min(file.len());
                if !bytes.is_empty() {
                    self.bad.push((name.clone(), bytes.start as u64..bytes.end as u64));
                    self.touched.push((name.clone(), bytes));
                }
            }
        }
    }

    fn replace(&mut self, name: &str, content: Option<&[u8]>) {
        let files = self.files.directory.get_or_insert_default();
        if files.get(name).map(Vec::as_slice) == content {
            return;
        }
        match content {
            Some(bytes) => drop(files.insert(name.to_owned(), bytes.to_vec())),
            None => drop(files.remove(name)),
        }
        self.touched.push((name.to_owned(), 0..usize::MAX));
    }

    fn touches(&self, file: &str, bytes: &Range<usize>) -> bool {
        self.touched.iter().any(|(name, other)| name == file && other.start < bytes.end && bytes.start < other.end)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The last commit.
    Right,
    /// An earlier one that nothing calls durable.
    Earlier,
    /// It was refused, and salvage came to a state.
    Salvaged,
    /// It was refused, and salvage took the file as it was.
    AsItWas,
    /// Nothing can be saved of the log.
    Impossible,
}

impl History {
    /// The oldest state that may come of it.
    fn floor(&self, seen: Seen, harmed: &Harmed) -> u64 {
        let whole = self.records.iter().filter_map(|record| {
            let (durable, _) = record.marks?;
            let start = record.bytes.start;
            let bytes = start..start + if matches!(record.kind, Kind::Batch { .. }) { 272 } else { 256 };
            (!harmed.touches(&record.file, &bytes)).then_some(durable)
        });
        // Where the stamp is harmed, too, nothing says T but a certificate: T is never beyond D.
        let is_stamped = harmed.touched.len() == 1 || harmed.touched.iter().all(|(name, _)| name != DATABASE);
        whole.max().unwrap_or(0).max(if is_stamped { seen.target } else { 0 })
    }

    /// Whether anything that is whole says that pages of commits up to the target may be in the file: the stamp (its reserved bytes and
    /// the page size), or a record. Else salvage takes an older state for the newest, and keeps what it overwrites.
    fn says_target(&self, seen: Seen, harmed: &Harmed) -> bool {
        let stamp = [16..18, 72..92].iter().all(|bytes| !harmed.touches(DATABASE, bytes));
        let mut whole = self.records.iter().filter(|record| !harmed.touches(&record.file, &record.bytes));
        stamp || whole.any(|record| record.marks.is_some_and(|(durable, _)| durable >= seen.target))
    }

    /// Whether what is harmed is not needed, or has another copy: then nothing may be lost, and nothing is refused.
    pub fn is_spared(&self, harmed: &Harmed) -> bool {
        let [(name, bytes)] = harmed.touched.as_slice() else { return harmed.touched.is_empty() };
        // A block is read or is not.
        let block = match harmed.bad.is_empty() {
            true => bytes.clone(),
            false => bytes.start / BLOCK * BLOCK..bytes.end.next_multiple_of(BLOCK),
        };
        let lies =
            |record: &&Record| record.file == *name && record.bytes.start < block.end && block.start < record.bytes.end;
        let touched = self.records.iter().filter(lies);
        let (needed, others): (Vec<&Record>, Vec<&Record>) = touched.partition(|record| self.is_needed(record));
        let halves = others.iter().filter(|record| matches!(record.kind, Kind::Half { .. })).count();
        needed.is_empty() && halves <= 1 && (harmed.bad.is_empty() || !self.may_be_next(name, bytes))
    }

    /// Whether what cannot be read there could be the next commit, or the segment that it lies in (U1 to U5).
    fn may_be_next(&self, name: &str, bytes: &Range<usize>) -> bool {
        let place = |commit: u64| {
            let is_it = |record: &&Record| matches!(record.kind, Kind::Batch { sequence, .. } if sequence == commit);
            self.records.iter().find(is_it).map(|record| (record.file.as_str(), record.bytes.end))
        };
        let (last, before) = (place(self.last()), place(self.last().saturating_sub(1)));
        let is_behind = |end: Option<(&str, usize)>| end.is_some_and(|(file, end)| name == file && bytes.end > end);
        let is_another = |end: Option<(&str, usize)>| end.is_none_or(|(file, _)| name != file);
        // The last commit, alone in a segment, may be that of a writer that died.
        let is_alone = last.map(|last| last.0) != before.map(|before| before.0) && is_behind(before);
        let is_tail = is_behind(last) || (name == self.log.segment_name() && is_another(last));
        is_tail || is_alone || bytes.start < 4096 || self.backfilled == self.last()
    }

    /// Where the log is harmed, too, its copies of page 1 may be gone: what was harmed in the file may be as it was found.
    fn state_of(&self, database: &[u8], harmed: &Harmed) -> Option<u64> {
        let is_state = |state: &Vec<u8>| {
            if harmed.touched.len() < 2 {
                return state == database;
            }
            let mut state = state.clone();
            for (_, bytes) in harmed.touched.iter().filter(|(name, _)| name == DATABASE) {
                let bytes = bytes.start..bytes.end.min(state.len()).min(database.len());
                let mut found = harmed.files.database.clone();
                stamp::clear(&mut found);
                if database.get(bytes.clone()) == found.get(bytes.clone()) {
                    state[bytes.clone()].copy_from_slice(&found[bytes]);
                }
            }
            state == database
        };
        let published = self.states.iter().rposition(is_state).map(|state| state as u64);
        published.or_else(|| self.dead.iter().find(|(_, state)| is_state(state)).map(|(sequence, _)| *sequence))
    }

    /// Opens and salvages it.
    ///
    /// # Panics
    /// What comes of it is not allowed.
    pub fn judge(&self, seen: Seen, harmed: &Harmed) -> Outcome {
        let place = SimPlace::new(&harmed.files);
        let floor = self.floor(seen, harmed);
        let planned = plan(&under(&place, harmed), &mut *place.database());
        assert!(place.files() == harmed.files, "a plan touched something");
        match open(&place, harmed) {
            Ok(opened) => {
                assert!(matches!(planned, Ok(Salvage::NotNeeded)), "{planned:?}");
                let found = place.files().database;
                let state = self.state_of(&found, harmed);
                assert!(
                    state.is_some_and(|state| state >= floor),
                    "state {state:?} of {floor}..={}: {opened:?}",
                    self.last()
                );
                self.expect_plain(&place, opened.next);
                if found == self.states[self.states.len() - 1] { Outcome::Right } else { Outcome::Earlier }
            }
            Err(error) => {
                assert!(place.files() == harmed.files, "a refusal touched something: {error}");
                let outcome = match planned.expect("what can be read can be planned") {
                    Salvage::NotNeeded => panic!("refused, and no salvage is needed: {error}"),
                    Salvage::Impossible { .. } => Outcome::Impossible,
                    Salvage::Possible(planned) => {
                        let done = salvage(&under(&place, harmed), &mut *place.database()).unwrap().unwrap();
                        assert_eq!((done.plan.last, done.plan.replays), (planned.last, planned.replays));
                        let found = place.files().database;
                        let state = self.state_of(&found, harmed);
                        if done.plan.replays {
                            let is_state = state.is_some_and(|state| state >= floor.min(seen.target));
                            let is_kept = || place.has_moved_away(UNDO_NAME);
                            assert!(
                                is_state || !self.says_target(seen, harmed) && is_kept(),
                                "{state:?} after {:?}",
                                done.plan
                            );
                        } else {
                            self.expect_as_it_was(&found, harmed, &done.plan);
                        }
                        self.expect_plain(&place, Next::ClaimAgain);
                        if done.plan.replays { Outcome::Salvaged } else { Outcome::AsItWas }
                    }
                };
                let place = SimPlace::new(&harmed.files);
                discard_log(&under(&place, harmed), &mut *place.database()).expect("a log can be given up");
                assert!(is_as_it_was(&place.files().database, &harmed.files.database));
                self.expect_plain(&place, Next::ClaimAgain);
                outcome
            }
        }
    }

    /// But for a first sector that was lost, and brought back.
    fn expect_as_it_was(&self, found: &[u8], harmed: &Harmed, done: &Plan) {
        let mut before = harmed.files.database.clone();
        let sector = SECTOR.min(before.len()).min(found.len());
        let is_back = |state: &Vec<u8>| state.get(..sector) == Some(&found[..sector]);
        if harmed.touched.iter().any(|(name, _)| name == DATABASE) && self.states.iter().any(is_back) {
            before[..sector].copy_from_slice(&found[..sector]);
        }
        assert!(is_as_it_was(found, &before), "{done:?}");
    }

    /// The next open finds a plain file, and leaves it as it is.
    fn expect_plain(&self, place: &SimPlace, next: Next) {
        let reopen = || open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap();
        let before = place.files().database;
        if next == Next::ClaimAgain {
            assert_eq!(reopen().next, Next::Ready);
        }
        let names = place.files().directory.unwrap_or_default();
        let left = names.keys().find(|name| FileName::parse(name).is_some_and(|name| name.log_id().is_some()));
        assert_eq!(left, None);
        let again = reopen();
        assert!(again.done.is_empty() && again.next == Next::Ready, "{again:?}");
        assert!(place.files().database == before, "an open of a plain file changed it");
    }
}

fn under(place: &SimPlace, harmed: &Harmed) -> HookedDirectory {
    Medium::new(harmed.bad.clone()).under(place.disk.log_directory(&place.path))
}

fn open(place: &SimPlace, harmed: &Harmed) -> Result<Opened, LogError> {
    open_database(&under(place, harmed), &mut *place.database(), OpenFacts::default())
}

/// But for the marks.
fn is_as_it_was(found: &[u8], before: &[u8]) -> bool {
    let (mut found, mut before) = (found.to_vec(), before.to_vec());
    stamp::clear(&mut found);
    stamp::clear(&mut before);
    found == before
}
