//! Holes in files: bytes that were never written, for which the file system keeps no space.

use std::fs::File;
use std::io;
use std::ops::Range;

/// The next bytes of `file` from `from` on that are no hole; `None`: there are no more. All the rest where the file system
/// does not know.
///
/// # Errors
/// Any error of the medium.
pub fn data_of(file: &File, from: u64) -> io::Result<Option<Range<u64>>> {
    let end = file.metadata()?.len();
    if from >= end {
        return Ok(None);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{SeekFrom, seek};
        use rustix::io::Errno;
        // The position that these move is not used: all reads and writes name theirs.
        let start = match seek(file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(from..end)),
            Err(error) => return Err(error.into()),
        };
        let hole = match seek(file, SeekFrom::Hole(start)) {
            Ok(hole) => hole.max(start + 1),
            Err(_) => end,
        };
        Ok(Some(start..hole))
    }
    #[cfg(not(target_os = "linux"))]
    Ok(Some(from..end))
}
