//! What can go wrong with the virtual WAL file.

use std::io;

/// Why a write to the virtual WAL file was refused. Nothing of the write is staged then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// SQLite does not hold WRITE.
    #[error("a frame was written to the WAL outside of a write transaction (offset {offset})")]
    NotWriting {
        /// Where, in bytes.
        offset: u64,
    },
    /// Neither a frame header nor an image.
    #[error("a write of {bytes} bytes at offset {offset} of the WAL is neither a frame header nor a page")]
    Misplaced {
        /// Where, in bytes.
        offset: u64,
        /// How long.
        bytes: usize,
    },
    /// A frame of the snapshot, which is committed.
    #[error("frame {frame} of the WAL belongs to the snapshot and cannot be written again")]
    Committed {
        /// The virtual frame.
        frame: u64,
    },
    /// A frame that does not follow the last one of the lane.
    #[error("frame {frame} of the WAL was written before frame {expected}")]
    Gap {
        /// The virtual frame.
        frame: u64,
        /// The one that would be next.
        expected: u64,
    },
    /// An image where no frame header came before.
    #[error("the page of frame {frame} of the WAL was written without its header")]
    NoHeader {
        /// The virtual frame.
        frame: u64,
    },
    /// A frame header with page number 0.
    #[error("the header of frame {frame} of the WAL has page number 0")]
    PageZero {
        /// The virtual frame.
        frame: u64,
    },
    /// An image that is not a page long.
    #[error("an image of {bytes} bytes in frame {frame} of the WAL; the pages of this database have {page_bytes}")]
    ImageBytes {
        /// The virtual frame.
        frame: u64,
        /// How long.
        bytes: usize,
        /// How long it should be.
        page_bytes: u32,
    },
    /// The spill file could not be opened or written; the transaction has to be rolled back.
    #[error("spill file of the transaction: {0}")]
    Spill(#[source] io::Error),
    /// A write to the spill file failed before in this transaction: its content is unknown.
    #[error("the transaction's spill file failed before; roll back")]
    SpillFailedBefore,
}

/// Why bytes of the virtual WAL file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError<E> {
    /// The image of a frame of the snapshot could not be had.
    #[error("image of a committed frame: {0}")]
    Image(E),
    /// The spill file could not be read.
    #[error("spill file of the transaction: {0}")]
    Spill(#[source] io::Error),
    /// There is no such frame; the buffer got zeros. As `SQLITE_IOERR_SHORT_READ`.
    #[error("frame {frame} of the WAL is not there")]
    BehindEnd {
        /// The virtual frame.
        frame: u64,
    },
    /// The index has no page number for a frame of the snapshot: its memory was overwritten.
    #[error("the wal-index has no page for frame {frame}")]
    Index {
        /// The virtual frame.
        frame: u32,
    },
}
