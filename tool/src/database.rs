//! The database file that a command is about, looked at from outside: a tool is a process of its own and holds no
//! lock on it, so that plain file calls disturb no process.

use crate::failure::Failure;
use pwal::internal::log::is_unreadable;
use pwal::internal::log::stamp::{self, DATABASE_HEADER_BYTES, StampState};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A database file and what its header says.
pub struct DatabaseFile {
    /// Absolute, symlinks resolved: the log lies beside the real file.
    pub path: PathBuf,
    pub bytes: u64,
    /// Zeros where the medium does not give it and a log lies beside the file.
    pub header: Vec<u8>,
    /// What the medium says instead.
    pub unreadable: Option<String>,
}

impl DatabaseFile {
    pub fn look(path: &Path) -> Result<DatabaseFile, Failure> {
        let path = fs::canonicalize(path).map_err(|error| Failure::io("find", path, &error))?;
        let failed = |error: &_| Failure::io("read", &path, error);
        // Not opened before: a pipe waits for a writer.
        let metadata = fs::metadata(&path).map_err(|error| failed(&error))?;
        if !metadata.is_file() {
            return Err(Failure::cannot(format!("{} is not a file", path.display())));
        }
        let file = File::open(&path).map_err(|error| failed(&error))?;
        let mut database =
            DatabaseFile { path: path.clone(), bytes: metadata.len(), header: Vec::new(), unreadable: None };
        let has_log = fs::symlink_metadata(database.log_directory()).is_ok();
        match file.take(DATABASE_HEADER_BYTES as u64).read_to_end(&mut database.header) {
            Err(error) if has_log && is_unreadable(&error) => {
                database.header = vec![0; DATABASE_HEADER_BYTES];
                database.unreadable = Some(error.to_string());
            }
            read => drop(read.map_err(|error| failed(&error))?),
        }
        // Beside a log it may be one that has lost its first sector.
        if !has_log && !database.header.is_empty() && !database.header.starts_with(b"SQLite format 3\0") {
            let text = format!("{} is not a SQLite database: its first bytes are others", path.display());
            return Err(Failure::cannot(text));
        }
        Ok(database)
    }

    pub fn stamp(&self) -> StampState {
        stamp::read(&self.header)
    }

    pub fn page_bytes(&self) -> Option<u32> {
        stamp::page_bytes(&self.header)
    }

    /// `<database><suffix>`.
    pub fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    /// The directory of the log, which may not be there.
    pub fn log_directory(&self) -> PathBuf {
        self.beside("-pwal")
    }

    /// The directory at `<database>-wal`, if there is one: it lies there while a log exists, so that stock SQLite cannot open
    /// the database.
    pub fn placeholder(&self) -> Option<PathBuf> {
        Some(self.beside("-wal")).filter(|path| fs::symlink_metadata(path).is_ok_and(|wal| wal.is_dir()))
    }

    /// The name for messages.
    pub fn name(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// What the header says of the journal mode and of a log.
    pub fn describe(&self) -> String {
        if let Some(error) = &self.unreadable {
            return format!("not to be read at byte 0: {error}");
        }
        match self.stamp() {
            _ if !self.header.is_empty() && !stamp::is_database(&self.header) => {
                "no database's: its first sector was lost, or it is another file".to_owned()
            }
            StampState::Plain { .. } if self.header.is_empty() => "empty: no database yet".to_owned(),
            StampState::Plain { wal: true } => "plain, WAL mode".to_owned(),
            StampState::Plain { wal: false } => "plain, rollback mode".to_owned(),
            StampState::Stamped(stamp) => {
                format!("stamped by log {:016x}, checkpointed to commit {}", stamp.log_id, stamp.backfill_target)
            }
            StampState::Older { log_id } => format!("stamped by an older pwal (log {log_id:016x})"),
            StampState::NoHeader => "no database's".to_owned(),
            StampState::BadStamp { log_id } => format!("a stamp that is not whole (log {log_id:016x})"),
            StampState::Leftover => "half of a stamp, or reserved bytes that are not zero".to_owned(),
        }
    }

    /// Journals, logs and shared memory that lie beside the file, without moved-away directories.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        ["-pwal", "-wal", "-shm", "-journal"]
            .iter()
            .map(|suffix| self.beside(suffix))
            .filter(|path| fs::symlink_metadata(path).is_ok())
            .collect()
    }
}
