//! A handle below another VFS: whether it is served there, and what is done when that VFS does not pass on a call of
//! SQLite.
//!
//! `vfs::above` has checked that it passes on what a log needs. A VFS that does not do so with a later call is detected
//! here: it reads the WAL without a lock of the wal-index, SQLite's header names a commit whose frames have not come,
//! or a commit ends without `COMMIT_PHASETWO`. Then no call returns anything untrue, the connection is given up, and
//! later ones work beside stock.

use super::base::Above;
use super::file::OpenFile;
use super::wal_connection::WalConnection;
use crate::sqlite::Code;
use std::sync::atomic::Ordering::SeqCst;

/// Whether another VFS calls this handle, not SQLite, and does not pass on all that a log needs, as far as is known: it
/// might answer `xShmMap` itself, or keep the file control back by which a commit is published. A VFS that reads the
/// file on its own may answer SQLite's later reads from what it has read.
pub(super) fn is_refused(file: &OpenFile) -> bool {
    // SQLite sends `SQLITE_FCNTL_PDB` after each open (`sqlite3BtreeOpen`).
    let Some(pager) = file.pager.get().filter(|_| !file.facts.foreign_name) else { return true };
    match pager.above() {
        None | Some(Above::Nothing) => false,
        Some(Above::PassesOn) => file.read_unlocked.load(SeqCst),
        Some(Above::Unknown) => true,
    }
}

pub(super) const WHY_REFUSED: &str = "another VFS lies above pwal in this connection, and does not pass on all of SQLite's calls, or has not been \
                          seen to; register that one below pwal, and open databases on pwal itself";

/// What another VFS has not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withheld {
    /// The locks of SQLite: it reads the WAL without them, or will answer SQLite from what it has read.
    Locks,
    /// Frames that SQLite's header names.
    Frames,
    /// The end of a commit. COMMIT is answered OK, whatever the commit comes to.
    PhaseTwo,
}

impl WalConnection {
    /// The VFS above is not relied on any more, for any connection; what this one answers.
    pub(super) fn distrust(&self, file: &OpenFile, withheld: Withheld) -> Code {
        if let Some(pager) = file.pager.get() {
            pager.distrust_above();
        }
        let (code, what) = match withheld {
            Withheld::Locks => (Code::CANTOPEN, "reads the WAL on its own, or does not pass on SQLite's locks of it"),
            Withheld::Frames => (Code::IOERR_WRITE, "keeps frames of the WAL back, or writes them later"),
            Withheld::PhaseTwo => (Code::IOERR_WRITE, "keeps SQLITE_FCNTL_COMMIT_PHASETWO back, which ends a commit"),
        };
        let text = format!(
            "another VFS lies above pwal in this connection, and {what}: close the connection; opened anew it works as on stock \
             SQLite, if no process has the database open through pwal"
        );
        self.log(code, &text);
        code
    }
}
