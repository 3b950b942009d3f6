//! Replay: the newest image of each page of a walk goes to the database file.
//!
//! What the probe has kept ([`image_cache`](super::image_cache)) comes first, then the rest in the order of the log, in parts
//! that fit into memory: the images of a part are read by large reads, which are begun before the part before it is written, and
//! written in page order. So the log is read forwards at most twice, however its commits are scattered over the database.
//! Where pages lie side by side, each part is synced while the next one is read and verified.
//!
//! Promises: each image is verified as it was read last, and written from there; page 1 is the last; a read that fails is an error
//! with its place, and all of it may be repeated.

use super::backfill::{Backfill, Pass};
use super::error::LogError;
use super::follow::{ImageRef, SegmentReader};
use super::format::{ImageForm, ImagePlace};
use super::found::FoundLog;
use super::image_cache::ImageCache;
use super::read_ahead::AheadBytes;
use super::stamp::Marks;
use super::walk::Walk;
use crate::disk::Database;
use crate::os::spawn_scoped_without_signals;
use std::io;
use std::ops::Range;

/// What is read and held at once, in bytes of the log; small in the simulations, so that they have several parts.
const PART_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 16 << 20 };
/// One read at most, in bytes.
const READ_BYTES: u64 = PART_BYTES / 8;
/// Images are read together with what lies between them, up to this number of bytes.
const GAP_BYTES: u64 = 32 << 10;
/// A part is synced at once if its pages lie side by side in runs of this number of bytes, on average.
const RUN_BYTES: usize = if cfg!(test) { 1 << 10 } else { 256 << 10 };
/// Reads begin and end on a multiple of this: past the page cache without a copy.
const ALIGN: u64 = 4096;

/// An image that is not kept, and its segment.
#[derive(Clone, Copy)]
struct Wanted {
    segment: usize,
    frame: ImageRef,
}

/// One read of a segment file.
struct Read {
    segment: usize,
    start: u64,
    end: u64,
    images: Range<usize>,
}

impl Read {
    fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// The rest of a log that is replayed.
struct Replay<'a, 'l> {
    log: &'a FoundLog<'l>,
    walk: &'a Walk,
    cache: &'a ImageCache,
    page_bytes: usize,
    /// In the order of the log, those in spill files at the end.
    wanted: Vec<Wanted>,
}

/// The newest image of each page up to the final size, page 1 with `marks`; the size; a sync. Returns the pages written.
pub(crate) fn replay(
    database: &mut dyn Database,
    log: &FoundLog<'_>,
    walk: &Walk,
    cache: &ImageCache,
    page_bytes: u32,
    marks: Marks,
) -> Result<u64, LogError> {
    if walk.batches.is_empty() {
        // A certificate says that everything is in the database file, and was synced there.
        return Ok(0);
    }
    let newest = || walk.newest.range(..=walk.database_pages).map(|(page, (segment, frame))| (*page, *segment, frame));
    let mut replay = Replay { log, walk, cache, page_bytes: page_bytes as usize, wanted: Vec::new() };
    let others = newest().filter(|(page, segment, frame)| *page != 1 && !cache.has(*segment, frame));
    replay.wanted.extend(others.map(|(_, segment, frame)| Wanted { segment, frame: *frame }));
    replay.wanted.sort_unstable_by_key(Wanted::place);
    let reads = replay.reads();
    let parts = parts(&reads);
    let mut pass = Backfill::with_marks(database, page_bytes, marks).begin();
    let mut are_begun = parts.first().is_some_and(|first| replay.begin(&reads[first.clone()]));
    for (page, segment, frame) in newest().filter(|(page, segment, frame)| *page != 1 && cache.has(*segment, frame)) {
        pass.write(page, |image| replay.image(segment, frame, image))?;
    }
    for (index, range) in parts.iter().enumerate() {
        let read = || Part::read(&replay, &reads[range.clone()]);
        let part = match pass.has_written(RUN_BYTES)? {
            true if are_begun => sync_beside(&mut pass, read)?,
            true => pass.sync().and_then(|()| read())?,
            false => read()?,
        };
        are_begun = parts.get(index + 1).is_some_and(|next| replay.begin(&reads[next.clone()]));
        part.write(&mut pass)?;
    }
    let page_one = walk.newest.get(&1);
    let page_one = page_one.map(|(segment, frame)| |image: &mut [u8]| replay.image(*segment, frame, image));
    pass.end(page_one, walk.database_pages)?;
    Ok(newest().count() as u64)
}

/// A sync of the database file, by another thread if there is one, and meanwhile `read`.
fn sync_beside<T>(pass: &mut Pass<'_>, read: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    let mut synced = None;
    let done = std::thread::scope(|scope| {
        // It is joined at the end of the scope.
        let _syncing = spawn_scoped_without_signals(scope, "pwal-sync", || synced = Some(pass.sync()));
        read()
    });
    synced.unwrap_or_else(|| pass.sync()).and(done)
}

/// Ranges of `reads` that are held at once.
fn parts(reads: &[Read]) -> Vec<Range<usize>> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, read) in reads.iter().enumerate() {
        if index > start && bytes + (read.end - read.start) > PART_BYTES {
            parts.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += read.end - read.start;
    }
    if start < reads.len() {
        parts.push(start..reads.len());
    }
    parts
}

impl Wanted {
    /// In the order of the log; the position is that in a spill file, if there is one.
    fn place(&self) -> (Option<u32>, usize, u64) {
        match self.frame.place {
            ImagePlace::Batch(offset) => (None, self.segment, offset),
            ImagePlace::Spill { file, offset } => (Some(file), self.segment, offset),
        }
    }
}

impl Replay<'_, '_> {
    /// What has to be read. An image in a spill file is a read of its own.
    fn reads(&self) -> Vec<Read> {
        let page_bytes = self.page_bytes as u64;
        let mut reads: Vec<Read> = Vec::new();
        for (index, wanted) in self.wanted.iter().enumerate() {
            let (spill, segment, offset) = wanted.place();
            let start = offset - offset % ALIGN;
            let stored = wanted.frame.form.stored_bytes(self.page_bytes) as u64;
            let end = offset.saturating_add(stored).next_multiple_of(ALIGN);
            match reads.last_mut() {
                Some(last)
                    if spill.is_none()
                        && last.segment == segment
                        && start <= last.end.saturating_add(GAP_BYTES)
                        && end - last.start <= READ_BYTES.max(page_bytes) =>
                {
                    last.end = last.end.max(end);
                    last.images.end = index + 1;
                }
                _ => reads.push(Read { segment, start, end, images: index..index + 1 }),
            }
        }
        reads
    }

    fn reader(&self, segment: usize) -> Result<&SegmentReader<'_>, LogError> {
        let missing = || LogError::database("replay", io::ErrorKind::NotFound.into());
        self.log.reader(segment, self.walk.through).ok_or_else(missing)
    }

    fn is_spilled(&self, read: &Read) -> bool {
        self.wanted[read.images.clone()].iter().any(|wanted| wanted.place().0.is_some())
    }

    /// Whether any of these is read from now on.
    fn begin(&self, reads: &[Read]) -> bool {
        let mut is_any = false;
        for read in reads.iter().filter(|read| !self.is_spilled(read)) {
            if let Ok(reader) = self.reader(read.segment) {
                is_any |= self.log.files.begin(&reader.open, read.bytes(), read.start);
            }
        }
        is_any
    }

    /// One image, from the cache or the log, verified.
    fn image(&self, segment: usize, frame: &ImageRef, image: &mut [u8]) -> Result<(), LogError> {
        match self.cache.get(self.log.log_id, segment, frame) {
            Some(kept) => image.copy_from_slice(kept),
            None => self.reader(segment)?.image_of(frame, &self.log.spills, image)?,
        }
        Ok(())
    }
}

/// What a read has given.
enum Given {
    Ahead(AheadBytes),
    Own(Vec<u8>),
}

/// A verified image.
enum Image {
    /// In what this read has given: from here on, and in which form.
    In { read: usize, within: usize, form: ImageForm },
    /// By itself: it lies in a spill file, or could not be read with the others.
    Apart(Vec<u8>),
}

/// What some reads give.
struct Part {
    /// Of each read, and where it begins in its segment.
    given: Vec<(u64, Given)>,
    /// In page order.
    images: Vec<(u32, Image)>,
}

impl Given {
    fn bytes(&self) -> &[u8] {
        match self {
            Given::Ahead(bytes) => bytes,
            Given::Own(bytes) => bytes,
        }
    }

    /// What is stored of an image from `within` on, if it is all there.
    fn stored(&self, within: usize, form: &ImageForm, page_bytes: usize) -> Option<&[u8]> {
        self.bytes().get(within..within + form.stored_bytes(page_bytes))
    }

    /// Nothing where it cannot be read at once: then each image says what is wrong.
    fn of(replay: &Replay<'_, '_>, read: &Read) -> Result<Given, LogError> {
        if replay.is_spilled(read) {
            return Ok(Given::Own(Vec::new()));
        }
        let open = &replay.reader(read.segment)?.open;
        if let Some(bytes) = replay.log.files.take_begun(open, read.bytes(), read.start) {
            return Ok(Given::Ahead(bytes));
        }
        let mut bytes = vec![0; read.bytes()];
        let there = open.read(&mut bytes, read.start).unwrap_or(0);
        bytes.truncate(there);
        Ok(Given::Own(bytes))
    }
}

impl Part {
    /// Reads and verifies.
    fn read(replay: &Replay<'_, '_>, reads: &[Read]) -> Result<Part, LogError> {
        let mut part = Part { given: Vec::new(), images: Vec::new() };
        let mut space = vec![0; replay.page_bytes];
        for (number, read) in reads.iter().enumerate() {
            let given = Given::of(replay, read)?;
            for wanted in &replay.wanted[read.images.clone()] {
                let Wanted { segment, frame } = wanted;
                let within = (wanted.place().2 - read.start) as usize;
                let stored = given.stored(within, &frame.form, replay.page_bytes);
                let is_valid = |stored: &[u8]| {
                    let is_whole = match frame.form.is_plain() {
                        true => frame.is_of(replay.log.log_id, stored),
                        false => {
                            space[..stored.len()].copy_from_slice(stored);
                            frame.is_whole(replay.log.log_id, read.start + within as u64, &mut space)
                        }
                    };
                    is_whole || crate::drops("replay-verifies")
                };
                let image = match stored.is_some_and(is_valid) {
                    true => Image::In { read: number, within, form: frame.form },
                    false => {
                        let mut image = vec![0; replay.page_bytes];
                        replay.image(*segment, frame, &mut image)?;
                        Image::Apart(image)
                    }
                };
                part.images.push((frame.page, image));
            }
            part.given.push((read.start, given));
        }
        part.images.sort_unstable_by_key(|(page, _)| *page);
        Ok(part)
    }

    fn write(&self, pass: &mut Pass<'_>) -> Result<(), LogError> {
        for (page, image) in &self.images {
            pass.write(*page, |buffer| {
                match image {
                    Image::In { read, within, form } => {
                        let (start, given) = &self.given[*read];
                        let stored = given.stored(*within, form, buffer.len()).unwrap_or_default();
                        buffer[..stored.len()].copy_from_slice(stored);
                        form.restore(buffer, 0, start + *within as u64);
                    }
                    Image::Apart(image) => buffer.copy_from_slice(image),
                }
                Ok::<_, LogError>(())
            })?;
        }
        Ok(())
    }
}
