//! The frame table of the process: what the published batches of the log hold, by frame number.
//!
//! Grows by one commit at a time, in commit order, and is dropped up to `backfilled`: a frame
//! number below its base says that the database file holds that image.

use super::epoch_counts::EpochCounts;
use super::page_index::PageIndex;
use crate::disk::LogFile;
use crate::log::format::{Batch, Descriptor, ImageForm, ImagePlace, OmittedZeros, POSITION_END, batch_head_bytes};
use crate::view;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// A file that holds images, in the numbering of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum FileId {
    /// A segment, by its number in the file name.
    Segment(u32),
    /// A spill file, by its number in the file name.
    Spill(u32),
}

/// Where one image lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) page: u32,
    /// Of its descriptor; [`UNREAD`]: the head of its batch was not read.
    pub(crate) crc: u32,
    file_number: u32,
    omitted: OmittedZeros,
    /// Bytes from the start of the file, below 2^48.
    offset_low: u32,
    offset_high: u16,
    is_spilled: bool,
    mask: u8,
    pub(crate) sequence: u64,
}

/// No CRC is known; an image that has this one by chance is looked up once more.
pub(crate) const UNREAD: u32 = 0;

/// A long reader's log has millions.
const _: () = assert!(size_of::<Frame>() == 32);

impl Frame {
    /// The file that it lies in.
    pub(crate) fn file(&self) -> FileId {
        if self.is_spilled { FileId::Spill(self.file_number) } else { FileId::Segment(self.file_number) }
    }

    /// Where it begins in its file, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.offset_high) << 32 | u64::from(self.offset_low)
    }

    /// How it is stored there.
    pub(crate) fn form(&self) -> ImageForm {
        ImageForm { mask: self.mask, omitted: self.omitted }
    }
}

/// A frame of a commit, to be added to the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFrame {
    page: u32,
    place: ImagePlace,
    form: ImageForm,
    crc: u32,
}

impl NewFrame {
    /// A frame of a small batch whose head was not read: its images follow the head, packed, as they are.
    pub(crate) fn unread(page: u32, offset: u64) -> NewFrame {
        NewFrame { page, place: ImagePlace::Batch(offset), form: ImageForm::PLAIN, crc: UNREAD }
    }
}

impl From<&Descriptor> for NewFrame {
    fn from(descriptor: &Descriptor) -> NewFrame {
        let Descriptor { page, place, form, crc } = *descriptor;
        NewFrame { page, place, form, crc }
    }
}

/// The address of a batch whose head was not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchAt {
    pub(crate) sequence: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u64,
}

/// A published commit and where its batch lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogCommit {
    pub(crate) sequence: u64,
    pub(crate) database_pages: u32,
    pub(crate) lane: u16,
    /// The segment file.
    pub(crate) segment: u32,
    pub(crate) ordinal: u64,
    /// Bytes from the start of the segment, and where it ends.
    pub(crate) offset: u64,
    pub(crate) end: u64,
}

impl LogCommit {
    /// That of a batch in this segment file.
    pub(super) fn of(batch: &Batch, segment: u32) -> LogCommit {
        let header = &batch.header;
        LogCommit {
            sequence: header.sequence,
            database_pages: header.database_pages,
            lane: header.lane,
            segment,
            ordinal: header.ordinal,
            offset: header.offset,
            end: header.offset + header.bytes,
        }
    }
}

/// Frames and their files, by page.
pub(crate) type NewestByPage = BTreeMap<u32, (Frame, Arc<dyn LogFile>)>;

#[derive(Clone, Copy, Debug)]
struct Commit {
    /// The number of its last frame.
    last: u64,
    database_pages: u32,
    lane: u16,
}

#[derive(Debug)]
pub(crate) struct Frames {
    /// The commit up to which frames have been dropped.
    base_sequence: u64,
    /// The number of the last frame that was dropped.
    base_number: u64,
    base_pages: u32,
    commits: VecDeque<Commit>,
    frames: VecDeque<Frame>,
    /// Once a connection writes beside others.
    by_page: Option<PageIndex>,
    files: BTreeMap<FileId, Arc<dyn LogFile>>,
    /// It is in there.
    added_last: Option<FileId>,
    /// Spill files that batches name: (commit, number).
    spills: Vec<(u64, u32)>,
    /// Commits up to here were not all read: what spill files they name is not known.
    skipped_to: u64,
    /// Segment and offset after the last commit, if known.
    end: Option<(u64, u64)>,
}

impl Frames {
    /// An empty log over a database of `database_pages` pages.
    pub(crate) fn new(database_pages: u32) -> Frames {
        Frames {
            base_sequence: 0,
            base_number: 0,
            base_pages: database_pages,
            commits: VecDeque::new(),
            frames: VecDeque::new(),
            by_page: None,
            files: BTreeMap::new(),
            added_last: None,
            spills: Vec::new(),
            skipped_to: 0,
            end: None,
        }
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        self.base_sequence + self.commits.len() as u64
    }

    /// The number of the last frame of the commits up to `sequence`.
    pub(crate) fn last_number(&self, sequence: u64) -> u64 {
        match self.commit(sequence) {
            Some(commit) => commit.last,
            None => self.base_number,
        }
    }

    /// Whether the frames of all commits after `sequence`, up to the last of the table, are in it.
    pub(crate) fn has_all_after(&self, sequence: u64) -> bool {
        self.base_sequence <= sequence
    }

    /// Frames that are not dropped.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// The size of the database after commit `sequence`, in pages.
    pub(crate) fn database_pages(&self, sequence: u64) -> u32 {
        match self.commit(sequence) {
            Some(commit) => commit.database_pages,
            None => self.base_pages,
        }
    }

    fn commit(&self, sequence: u64) -> Option<&Commit> {
        let index = sequence.checked_sub(self.base_sequence + 1)?;
        self.commits.get(usize::try_from(index).ok()?)
    }

    /// Where the log continues after the last commit: segment and offset in bytes; `None`: not known.
    pub(crate) fn end(&self) -> Option<(u64, u64)> {
        self.end
    }

    /// Follows the log from commit `sequence` on, which is backfilled like all before it. Frame numbers continue.
    pub(crate) fn begin_at(&mut self, sequence: u64, database_pages: u32) {
        self.base_number += self.frames.len() as u64;
        (self.base_sequence, self.base_pages, self.end) = (sequence, database_pages, None);
        self.skipped_to = sequence;
        self.commits.clear();
        self.frames.clear();
        if self.by_page.is_some() {
            self.by_page = Some(PageIndex::default());
        }
        shrink(&mut self.commits);
        shrink(&mut self.frames);
    }

    pub(crate) fn has_file(&self, id: FileId) -> bool {
        self.files.contains_key(&id)
    }

    pub(crate) fn add_file(&mut self, id: FileId, file: &Arc<dyn LogFile>) {
        // Mostly the one in which the last commit lies.
        if self.added_last != Some(id) {
            self.files.entry(id).or_insert_with(|| Arc::clone(file));
            self.added_last = Some(id);
        }
    }

    pub(crate) fn remove_file(&mut self, id: FileId) {
        self.files.remove(&id);
        self.added_last = None;
    }

    /// Adds the next commit, whose frames are these; returns the number of its first frame.
    pub(crate) fn append(&mut self, commit: &LogCommit, frames: impl Iterator<Item = NewFrame>) -> u64 {
        debug_assert_eq!(commit.sequence, self.last_sequence() + 1, "commits come in their order");
        let first = self.base_number + self.frames.len() as u64 + 1;
        self.frames.extend(frames.map(|NewFrame { page, place, form, crc }| {
            let (file_number, is_spilled, offset) = match place {
                ImagePlace::Batch(offset) => (commit.segment, false, commit.offset + offset),
                ImagePlace::Spill { file, offset } => (file, true, offset),
            };
            debug_assert!(offset < POSITION_END);
            let (offset_low, offset_high) = (offset as u32, (offset >> 32) as u16);
            let ImageForm { mask, omitted } = form;
            let sequence = commit.sequence;
            Frame { page, crc, file_number, omitted, offset_low, offset_high, is_spilled, mask, sequence }
        }));
        let last = self.base_number + self.frames.len() as u64;
        if let Some(by_page) = &mut self.by_page {
            let index = usize::try_from(first - self.base_number - 1).unwrap_or(usize::MAX);
            for (number, frame) in (first..).zip(self.frames.range(index..)) {
                by_page.push(number, frame.page);
            }
        }
        self.commits.push_back(Commit { last, database_pages: commit.database_pages, lane: commit.lane });
        self.end = Some((commit.ordinal, commit.end));
        first
    }

    /// Whether [`Frames::newest_of`] knows.
    pub(crate) fn has_page_index(&self) -> bool {
        self.by_page.is_some()
    }

    /// Indexes the frames by page, from now on.
    pub(crate) fn index_pages(&mut self) {
        let mut by_page = PageIndex::default();
        for (number, frame) in (self.base_number + 1..).zip(&self.frames) {
            by_page.push(number, frame.page);
        }
        self.by_page = Some(by_page);
    }

    /// The number of the newest frame of a page in the commits up to `sequence`; `None`: the database file has the page.
    pub(crate) fn newest_of(&self, page: u32, sequence: u64) -> Option<u64> {
        let number = self.by_page.as_ref()?.newest(page, self.last_number(sequence))?;
        (number > self.base_number).then_some(number)
    }

    /// Where frame `number` lies; `None`: the database file holds it. Without a file: that is not open any more.
    pub(crate) fn locate(&self, number: u64) -> Option<(Frame, Option<Arc<dyn LogFile>>)> {
        let index = number.checked_sub(self.base_number + 1)?;
        let frame = *self.frames.get(usize::try_from(index).ok()?)?;
        Some((frame, self.files.get(&frame.file()).map(Arc::clone)))
    }

    /// Adds the frames from `number` on of the commits up to `sequence`, at most `at_most`; returns the number of the next one, or
    /// `None`: there is none.
    pub(crate) fn copy(&self, number: u64, sequence: u64, at_most: usize, into: &mut Vec<Frame>) -> Option<u64> {
        let first = number.max(self.base_number + 1);
        let index = usize::try_from(first - self.base_number - 1).ok()?.min(self.frames.len());
        let before = into.len();
        let frames = self.frames.range(index..).take(at_most);
        into.extend(frames.take_while(|frame| frame.sequence <= sequence));
        let copied = into.len() - before;
        (copied == at_most).then_some(first + copied as u64)
    }

    /// These frames, by page, each with its file; `None`: one of the files is not open.
    pub(crate) fn with_files(&self, frames: BTreeMap<u32, Frame>) -> Option<NewestByPage> {
        let with_file = |(page, frame): (u32, Frame)| Some((page, (frame, Arc::clone(self.files.get(&frame.file())?))));
        frames.into_iter().map(with_file).collect()
    }

    /// The batches of the commits up to `sequence` whose heads were not read.
    pub(crate) fn unread_batches(&self, sequence: u64) -> Vec<BatchAt> {
        let mut unread = Vec::new();
        let mut first = self.base_number;
        for (commit, at) in self.commits.iter().zip(self.base_sequence + 1..=sequence) {
            let count = usize::try_from(commit.last - first).unwrap_or(0);
            let index = usize::try_from(first - self.base_number).unwrap_or(usize::MAX);
            first = commit.last;
            let frame = self.frames.get(index).filter(|frame| frame.crc == UNREAD && !frame.is_spilled);
            if let Some(frame) = frame {
                let offset = frame.offset().saturating_sub(batch_head_bytes(count));
                unread.push(BatchAt { sequence: at, segment: frame.file_number, offset });
            }
        }
        unread
    }

    /// The commit `sequence` has images in this spill file.
    pub(crate) fn add_spill(&mut self, sequence: u64, number: u32) {
        self.spills.push((sequence, number));
    }

    /// Removes and returns the spill files that are no longer needed once commit `backfilled` is in the database file.
    pub(crate) fn take_spills(&mut self, backfilled: u64) -> Vec<(u64, u32)> {
        let over = self.spills.extract_if(.., |(sequence, _)| *sequence <= backfilled).collect::<Vec<_>>();
        for (_, number) in &over {
            self.remove_file(FileId::Spill(*number));
        }
        over
    }

    /// Whether this spill file is of a commit in the table, or of a transaction of this process.
    pub(crate) fn has_spill(&self, number: u32) -> bool {
        self.has_file(FileId::Spill(number)) || self.spills.iter().any(|(_, known)| *known == number)
    }

    /// Whether the spill files of all commits after `sequence`, up to the last of the table, are known.
    pub(crate) fn knows_spills_behind(&self, sequence: u64) -> bool {
        self.skipped_to <= sequence
    }

    /// Counts on, what a certificate says of its commits, by so many commits at most. False: there are more.
    pub(crate) fn count(&self, counts: &mut EpochCounts, at_most: u64) -> bool {
        let first = counts.through.max(self.base_sequence);
        let last = self.last_sequence().min(first.saturating_add(at_most));
        for at in first + 1..=last {
            let (first, last) = (self.last_number(at - 1), self.last_number(at));
            let index = |number: u64| usize::try_from(number - self.base_number).unwrap_or(usize::MAX);
            let lane = self.commit(at).map_or(0, |commit| commit.lane);
            counts.add(lane, self.frames.range(index(first)..index(last)).map(|frame| frame.page));
        }
        counts.through = last.max(first);
        counts.through >= self.last_sequence()
    }

    /// Drops what is backfilled: the commits up to `sequence`.
    pub(crate) fn drop_to(&mut self, sequence: u64) {
        while self.base_sequence < sequence {
            let Some(commit) = self.commits.pop_front() else { break };
            let drop = commit.last - self.base_number;
            for _ in 0..drop {
                let dropped = self.frames.pop_front();
                if let (Some(by_page), Some(frame)) = (&mut self.by_page, dropped) {
                    by_page.drop_first(frame.page);
                }
            }
            self.base_sequence += 1;
            self.base_number = commit.last;
            self.base_pages = commit.database_pages;
        }
        shrink(&mut self.commits);
        shrink(&mut self.frames);
    }
}

impl Frames {
    /// Every commit up to `sequence` is backfilled, and no file of the log is needed any more.
    pub(super) fn close_files(&mut self, sequence: u64) {
        self.drop_to(sequence);
        if self.frames.is_empty() {
            self.files.clear();
            self.added_last = None;
            self.spills.clear();
            self.end = None;
        }
    }
}

/// Memory of a table that was much longer once.
const KEPT_BYTES: usize = 1 << 20;

/// Gives memory back that the table has not needed for long.
fn shrink<T>(table: &mut VecDeque<T>) {
    if table.capacity() > 4 * table.len() && table.capacity() * size_of::<T>() > KEPT_BYTES {
        table.shrink_to((2 * table.len()).max(KEPT_BYTES / 2 / size_of::<T>()));
    }
}

impl view::FrameTable for Frames {
    fn between(&self, from: u64, to: u64, each: &mut dyn FnMut(u64, u32)) -> bool {
        if from < self.base_sequence || to > self.last_sequence() {
            return false;
        }
        let (first, last) = (self.last_number(from), self.last_number(to));
        for number in first + 1..=last {
            let Some(frame) = usize::try_from(number - self.base_number - 1).ok().and_then(|i| self.frames.get(i))
            else {
                return false;
            };
            each(number, frame.page);
        }
        true
    }

    fn newest(&self, to: u64, each: &mut dyn FnMut(u64, u32)) {
        let last = self.last_number(to);
        let count = usize::try_from(last.saturating_sub(self.base_number)).unwrap_or(0).min(self.frames.len());
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for index in (0..count).rev() {
            let page = self.frames[index].page;
            if seen.insert(page) {
                found.push((self.base_number + 1 + index as u64, page));
            }
        }
        for (number, page) in found.into_iter().rev() {
            each(number, page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITS: u64 = 50_000;

    /// The number of the first frame.
    fn append(frames: &mut Frames, sequence: u64) -> u64 {
        let offset = sequence * 16384;
        let (segment, ordinal, end) = (1, 1, offset + 16384);
        let commit = LogCommit { sequence, database_pages: 3, lane: 0, segment, ordinal, offset, end };
        frames.append(&commit, (1..=3).map(|page| NewFrame::unread(page, 4096 * u64::from(page))))
    }

    fn filled() -> Frames {
        let mut frames = Frames::new(3);
        for sequence in 1..=COMMITS {
            append(&mut frames, sequence);
        }
        frames
    }

    /// What is kept of an image by its number (`recent`) is not another one's when the log is retired and begins again, nor where
    /// this process has fallen behind.
    #[test]
    fn a_frame_number_is_given_once() {
        let mut frames = filled();
        frames.close_files(COMMITS);
        assert_eq!(append(&mut frames, COMMITS + 1), 3 * COMMITS + 1);
        frames.begin_at(COMMITS + 9, 3);
        assert_eq!(append(&mut frames, COMMITS + 10), 3 * COMMITS + 4);
        frames.drop_to(COMMITS + 10);
        assert_eq!(append(&mut frames, COMMITS + 11), 3 * COMMITS + 7);
    }

    fn bytes(frames: &Frames) -> usize {
        frames.commits.capacity() * size_of::<Commit>() + frames.frames.capacity() * size_of::<Frame>()
    }

    /// What a long reader has kept is in the table of each process; that memory is freed after its end.
    #[test]
    fn the_memory_of_a_long_table_is_given_back() {
        let mut frames = filled();
        let full = bytes(&frames);
        assert!(full > 4 << 20, "{full} bytes");
        frames.drop_to(COMMITS / 2);
        assert!(bytes(&frames) <= full, "a table that is half as long may grow again");
        frames.drop_to(COMMITS - 1);
        assert!(bytes(&frames) <= 2 * KEPT_BYTES, "{} bytes for one commit", bytes(&frames));
        let (frame, _) = frames.locate(3 * COMMITS).expect("the last frame");
        assert_eq!((frame.page, frame.sequence, frames.len()), (3, COMMITS, 3));
        // And where a process has fallen behind the backfilled commit.
        let mut frames = filled();
        frames.begin_at(COMMITS + 9, 3);
        assert!(bytes(&frames) <= 2 * KEPT_BYTES, "{} bytes for none", bytes(&frames));
        assert_eq!(
            (frames.last_sequence(), frames.len(), frames.last_number(COMMITS + 9)),
            (COMMITS + 9, 0, 3 * COMMITS)
        );
    }
}
