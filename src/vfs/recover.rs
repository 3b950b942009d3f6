//! Recovery without a connection, through the linked SQLite's base VFS.

use super::database_handle::SqliteHost;
use super::environment;
use super::error::RegisterError;
use super::register;
use crate::disk::Disk;
use crate::handle::settle::{How, Report, SettleError, settle};
use crate::handle::{Context, Registry};
use crate::host::Environment;
use std::path::Path;
use std::sync::Arc;

/// Settles the database file at `path` as an open through pwal would, and closes it again. `disk`: where the files of the log are.
///
/// # Errors
/// The linked SQLite lacks something. Inside: the database could not be had, or not be settled.
pub fn recover_on(path: &Path, how: How, disk: Arc<dyn Disk>) -> Result<Result<Report, SettleError>, RegisterError> {
    let (api, base) = register::linked_base()?;
    let environment =
        Environment { host: Box::new(SqliteHost::new(api, base)), disk, defaults: environment::settings()?.accepted };
    let context = Context {
        environment: Arc::new(environment),
        // Whatever engine of this process has the database holds `lock`, which belongs to its open file.
        registry: Registry::default(),
    };
    Ok(settle(&Arc::new(context), path, how))
}
