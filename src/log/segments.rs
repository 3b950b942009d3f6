//! Segments: how large they are, and how one is made so that a commit can rely on its space.

use super::error::LogError;
use super::format::{Certificate, SegmentHeader};
use crate::disk::{LogDirectory, LogFile, OpenMode};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// The first segment of a log in bytes.
pub const SEGMENT_BYTES_FIRST: u64 = 256 << 10;
/// The largest segment in bytes, but for one made for a batch that fits none: two checkpoints' worth, so that the same few
/// megabytes are written over and stay in the processor's cache. With 64 MiB, writers that outran the fill of a
/// new segment waited 250 ms for it.
pub const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// Zeros are written in pieces of at most this size, so that commits beside them are not stalled.
pub const ZERO_PIECE_BYTES: usize = 1 << 20;

/// How a segment gets its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Zeros are written to it. A commit that waits for its sync pays more in space that is only allocated, since
    /// the file system has to note what is written by then.
    Written,
    /// It is allocated, which needs no write, or zeros are written where the file system cannot do that.
    Allocated,
}

/// Makes the segment file `name` of `bytes`: with space that cannot be refused any more, synced, and its name synced in the
/// directory (rule R6). Each piece of zeros that the page cache holds is synced separately: a flush beside it would wait for
/// all that is dirty.
///
/// `goes_on` is called before each piece: its error ends it.
///
/// # Errors
/// Any error of the medium or of `goes_on`; the file is removed again then, as far as that works.
pub fn create_segment(
    dir: &dyn LogDirectory,
    name: &str,
    bytes: u64,
    space: Space,
    goes_on: &dyn Fn() -> io::Result<()>,
) -> Result<Arc<dyn LogFile>, LogError> {
    create(dir, name, |file, path| fill(file, path, (bytes, space), goes_on), false)
}

/// Makes the segment file that a log begins with: as [`create_segment`], with its header in it from the first sync on, and a
/// doubled certificate of the epoch `epoch`, without commits, which copies `page_one` (with `next_block_crc` what
/// [`Certificate::encode_doubled`] takes) of a database of `database_pages`. The stamp comes after this, so that a stamped
/// file whose log has no segment header left is known to be damaged, and the sector that it is written to has a copy.
///
/// # Errors
/// As [`create_segment`].
pub fn create_first_segment(
    dir: &dyn LogDirectory,
    name: &str,
    header: &SegmentHeader,
    epoch: u64,
    database_pages: u32,
    page_one: &[u8],
    next_block_crc: u32,
) -> Result<Arc<dyn LogFile>, LogError> {
    let mut start = header.encode();
    let certificate = first_certificate(header, epoch, database_pages);
    start.extend(certificate.encode_doubled(header.block_bytes, page_one, next_block_crc));
    let bytes = usize::try_from(header.segment_bytes).unwrap_or(usize::MAX);
    start.resize(bytes.max(start.len()), 0);
    create(dir, name, |file, path| write_first(file, path, &start), true)
}

fn first_certificate(header: &SegmentHeader, epoch: u64, database_pages: u32) -> Certificate {
    // All commits before it are in the database file.
    let last = header.first_sequence.saturating_sub(1);
    Certificate {
        log_id: header.log_id,
        ordinal: header.ordinal,
        offset: u64::from(header.block_bytes),
        epoch,
        lo: last + 1,
        hi: last,
        durable: last,
        backfilled: last,
        chain: header.chain,
        batches: 0,
        frames: 0,
        distinct_pages: 0,
        database_pages,
        fallback: false,
        clean_end: false,
        lane_frames: Vec::new(),
        copy: None,
    }
}

/// Makes the file, and makes what `fill` has written and its name durable.
fn create(
    dir: &dyn LogDirectory,
    name: &str,
    fill: impl FnOnce(&dyn LogFile, &Path) -> Result<(), LogError>,
    is_first: bool,
) -> Result<Arc<dyn LogFile>, LogError> {
    let path = dir.path().join(name);
    let file = dir.open(name, OpenMode::CreateNew).map_err(|error| LogError::io("create", &path, error))?;
    let is_name_synced = !(is_first && crate::drops("a1-sync-name") || !is_first && crate::drops("r6-sync-name"));
    let filled = fill(file.as_ref(), &path).and_then(|()| {
        if is_name_synced { dir.sync().map_err(|error| LogError::io("sync", dir.path(), error)) } else { Ok(()) }
    });
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            // Only for the space: a segment without a header is free, so a failure to remove it harms nothing.
            let _ = dir.remove(name);
            Err(error)
        }
    }
}

/// All of a first segment by one write, through the page cache: it is written out with one sync, and what the first commit looks at
/// before it writes is not read from the disk.
fn write_first(file: &dyn LogFile, path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    file.write_at(&[IoSlice::new(bytes)], 0).map_err(|error| LogError::io("write", path, error))?;
    if crate::drops("a1-sync-segment") {
        return Ok(());
    }
    file.sync().map_err(|error| LogError::io("sync", path, error))
}

/// Zeros, written or allocated.
fn fill(
    file: &dyn LogFile,
    path: &Path,
    (bytes, space): (u64, Space),
    goes_on: &dyn Fn() -> io::Result<()>,
) -> Result<(), LogError> {
    let is_synced = !crate::drops("r6-sync-segment");
    let mut offset = 0;
    while offset < bytes {
        goes_on().map_err(|error| LogError::io("make", path, error))?;
        let write_error = |error| LogError::io("write", path, error);
        let mut is_past_cache = true;
        if offset == 0 && space == Space::Allocated && file.allocate(bytes).map_err(write_error)? {
            offset = bytes;
        } else {
            let piece = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(ZERO_PIECE_BYTES);
            is_past_cache = file.write_zeros(piece, offset).map_err(write_error)?;
            offset += piece as u64;
        }
        crate::fault_point("making");
        if is_synced && (!is_past_cache || offset >= bytes) {
            file.sync().map_err(|error| LogError::io("sync", path, error))?;
        }
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Space, fill};
    use crate::disk::sim::SimDisk;
    use crate::disk::{LogDirectory, LogFile, OpenMode};
    use std::io::{self, IoSlice};
    use std::path::Path;
    use std::sync::Arc;

    /// On a file system that allocates nothing.
    #[derive(Debug)]
    struct Plain(Arc<dyn LogFile>);

    impl LogFile for Plain {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buffer, offset)
        }

        fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
            self.0.write_at(parts, offset)
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }

        fn bytes(&self) -> io::Result<u64> {
            self.0.bytes()
        }
    }

    #[test]
    fn zeros_are_written_where_nothing_can_be_allocated() {
        let disk = SimDisk::new(1);
        let dir = disk.directory(Path::new("/a.db"));
        dir.create().unwrap();
        let file = Plain(dir.open("1.seg", OpenMode::CreateNew).unwrap());
        let asked = std::cell::Cell::new(0);
        let goes_on = || {
            asked.set(asked.get() + 1);
            Ok(())
        };
        fill(&file, Path::new("1.seg"), (5 << 19, Space::Allocated), &goes_on).unwrap();
        assert_eq!((file.bytes().unwrap(), asked.get()), (5 << 19, 3));
    }
}
