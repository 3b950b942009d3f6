//! Why the control block refuses a step, and a file `control` to be one.

use std::io;
use std::path::PathBuf;

/// Why the control block refuses a step, or a `control` file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SharedError {
    /// A commit that is not the next one.
    #[error("commit {offered} cannot be published: the last published commit is {published}")]
    NotTheNextCommit {
        /// The sequence that was to be published.
        offered: u64,
        /// The last one that is.
        published: u64,
    },
    /// An epoch that is not the next one.
    #[error("epoch {offered} cannot be recorded: the last recorded epoch is {last_epoch}")]
    NotTheNextEpoch {
        /// The epoch that was to be recorded.
        offered: u64,
        /// The last one that is.
        last_epoch: u64,
    },
    /// The ring's oldest entry is still needed: something before it is not durable yet.
    #[error("the ring of {ring} is full: commits or epochs that are not durable yet fill it; lead a flush first")]
    RingFull {
        /// "commits" or "epochs".
        ring: &'static str,
    },
    /// `control` cannot be opened or mapped.
    #[error(
        "cannot open {file}: {source}; each user of a shared database must be able to read and write the files of its log"
    )]
    ControlOpen {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another program has overwritten `control`, or put another file there.
    #[error(
        "{file} is no control file ({reason}), but processes have the database open: close them, and open it again; \
         the log has what was committed"
    )]
    ControlDamaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The layout of another version of this library.
    #[error(
        "processes with {} version of pwal have the database open ({file} has layout {found}, this version knows {known}): \
         close them, or use their version", if found < known { "an older" } else { "a newer" }
    )]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// Its layout version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The control block is of another boot of the machine, or of another machine.
    #[error(
        "{file} is of another boot or another machine, but processes have the database open: \
         pwal shares a database only between the processes of one machine"
    )]
    OtherBoot {
        /// The file.
        file: PathBuf,
    },
    /// The control block belongs to another database file.
    #[error(
        "{file} belongs to another database file than the one with this name, which was replaced while processes had it \
         open: close them, and open it again"
    )]
    OtherDatabase {
        /// The file.
        file: PathBuf,
    },
    /// The clock of another time namespace: the times in the control block would be over long ago, or never.
    #[error(
        "{file} is shared by processes of another time namespace, whose monotonic clock differs: pwal shares a database only \
         between processes with one clock"
    )]
    OtherClock {
        /// The file.
        file: PathBuf,
    },
    /// The announced target of a checkpoint lies beyond what is visible, and stays there.
    #[error(
        "no snapshot can be taken: a checkpoint announces commit {target}, and commits up to {visible} are visible: the \
         control block is damaged; close all connections of all processes and open the database again"
    )]
    NoSnapshot {
        /// The announced target.
        target: u64,
        /// The last visible commit.
        visible: u64,
    },
    /// A value that its place in the control block cannot hold.
    #[error("{what} {value} does not fit the control block")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// The value.
        value: u64,
    },
}
