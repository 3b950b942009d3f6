//! Recovery without a connection, through the linked SQLite's base VFS.

use super::database_handle::SqliteHost;
use super::environment;
use super::register::{self, RegisterError};
use crate::disk::{Disk, RealDisk};
use crate::handle::settle::{How, Report, SettleError, settle};
use crate::handle::{Context, Registry};
use std::path::Path;
use std::sync::Arc;

/// Why a database was not recovered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The linked SQLite lacks something.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The database could not be had, or not be settled.
    #[error(transparent)]
    Settle(#[from] SettleError),
}

/// Settles the database file at `path` as an open through pwal would, and closes it again: what a crash left is
/// replayed and retired, and what is left is one plain SQLite file. `disk`: where the files of the log are;
/// `None` is the file system.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover(path: &Path, how: How, disk: Option<Arc<dyn Disk>>) -> Result<Report, RecoverError> {
    let (api, base) = register::linked_base()?;
    let context = Context {
        host: Box::new(SqliteHost::new(api, base)),
        disk: disk.unwrap_or_else(|| Arc::new(RealDisk)),
        defaults: environment::settings()?.accepted,
        // Whatever engine of this process has the database holds `lock`, which belongs to its open file.
        registry: Registry::default(),
    };
    Ok(settle(&Arc::new(context), path, how)?)
}
