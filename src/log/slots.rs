//! Slots: how large they are, and how one is made so that a commit can rely on its space.

use super::error::LogError;
use super::format::SlotHeader;
use crate::disk::{LogDirectory, LogFile, OpenHow};
use std::io::IoSlice;
use std::sync::Arc;

/// The first slot of a log in bytes.
pub const SLOT_BYTES_FIRST: u64 = 1 << 20;
/// The largest slot in bytes, but for one made for a batch that fits none: two checkpoints' worth, so that the same few
/// megabytes are written over and stay in the processor's cache. With 64 MiB, writers that outran the fill of a
/// new slot waited 250 ms for it.
pub const SLOT_BYTES_MAX: u64 = 16 << 20;
/// Zeros are written in pieces of at most so many bytes, so that commits beside them are not stalled.
pub const ZERO_PIECE_BYTES: usize = 1 << 20;

/// The size of the slot after one of `previous_bytes`: doubling up to `max_bytes`.
#[must_use]
pub fn next_slot_bytes(previous_bytes: u64, max_bytes: u64) -> u64 {
    previous_bytes.saturating_mul(2).clamp(SLOT_BYTES_FIRST, max_bytes.max(SLOT_BYTES_FIRST))
}

/// The size of a slot that holds a batch of `batch_bytes` behind its header block: `usual_bytes` if it is
/// enough, else the next multiple of [`SLOT_BYTES_FIRST`] that is.
#[must_use]
pub fn slot_bytes_for(batch_bytes: u64, block_bytes: u32, usual_bytes: u64) -> u64 {
    // One more block, so that a certificate of its own has room behind the batch.
    let needed = batch_bytes.saturating_add(2 * u64::from(block_bytes));
    if needed <= usual_bytes { usual_bytes } else { needed.div_ceil(SLOT_BYTES_FIRST).saturating_mul(SLOT_BYTES_FIRST) }
}

/// Makes the slot file `name` of `bytes`: zero-written (space that is only allocated can still be
/// refused, and is slower to overwrite), synced, and its name synced in the directory (rule R6). Each piece is synced by
/// itself: a flush beside it would wait for all that is dirty.
///
/// # Errors
/// Any error of the medium; the file is removed again then, as far as that works.
pub fn create_slot(dir: &dyn LogDirectory, name: &str, bytes: u64) -> Result<Arc<dyn LogFile>, LogError> {
    create(dir, name, bytes, &[])
}

/// Makes the slot file that a log begins with: as [`create_slot`], with its header in it from the first sync on. The
/// stamp comes after this, so that a stamped file whose log has no slot header left is known to be damaged.
///
/// # Errors
/// As [`create_slot`].
pub fn create_first_slot(
    dir: &dyn LogDirectory,
    name: &str,
    header: &SlotHeader,
) -> Result<Arc<dyn LogFile>, LogError> {
    create(dir, name, header.slot_bytes, &header.encode())
}

fn create(dir: &dyn LogDirectory, name: &str, bytes: u64, start: &[u8]) -> Result<Arc<dyn LogFile>, LogError> {
    let file =
        dir.open(name, OpenHow::CreateNew).map_err(|error| LogError::io("create", &dir.path().join(name), error))?;
    match fill(dir, file.as_ref(), name, bytes, start) {
        Ok(()) => Ok(file),
        Err(error) => {
            // Only for the space: a slot without a header is free, so a failure to remove it harms nothing.
            let _ = dir.remove(name);
            Err(error)
        }
    }
}

/// Zeros, but for what it starts with.
fn fill(dir: &dyn LogDirectory, file: &dyn LogFile, name: &str, bytes: u64, start: &[u8]) -> Result<(), LogError> {
    let path = dir.path().join(name);
    let mut offset = 0;
    while offset < bytes {
        let piece = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(ZERO_PIECE_BYTES);
        file.write_zeros(piece, offset).map_err(|error| LogError::io("write", &path, error))?;
        if offset == 0 && !start.is_empty() {
            file.write_at(&[IoSlice::new(start)], 0).map_err(|error| LogError::io("write", &path, error))?;
        }
        file.sync().map_err(|error| LogError::io("sync", &path, error))?;
        offset += piece as u64;
    }
    dir.sync().map_err(|error| LogError::io("sync", dir.path(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_double_up_to_the_largest() {
        assert_eq!(next_slot_bytes(0, SLOT_BYTES_MAX), SLOT_BYTES_FIRST);
        assert_eq!(next_slot_bytes(SLOT_BYTES_FIRST, SLOT_BYTES_MAX), 2 * SLOT_BYTES_FIRST);
        assert_eq!(next_slot_bytes(SLOT_BYTES_MAX, SLOT_BYTES_MAX), SLOT_BYTES_MAX);
        assert_eq!(next_slot_bytes(u64::MAX, SLOT_BYTES_MAX), SLOT_BYTES_MAX);
        assert_eq!(slot_bytes_for(8192, 4096, SLOT_BYTES_FIRST), SLOT_BYTES_FIRST);
        assert_eq!(slot_bytes_for(SLOT_BYTES_FIRST - 4096, 4096, SLOT_BYTES_FIRST), 2 * SLOT_BYTES_FIRST);
    }
}
