//! Registering the VFS with the linked SQLite: what a program that links pwal calls.

use super::error::RegisterError;
use super::load::add_functions_when_linked;
use super::register::{Options, register_api};
use crate::disk::Disk;
use crate::sqlite::Api;
use std::sync::Arc;

/// Registers the VFS [`VFS_NAME`](crate::VFS_NAME) with the linked SQLite, on SQLite's default VFS, without becoming the default:
/// `Vfs::builder().register()`.
///
/// Databases go through it that are opened with `Connection::open_with_flags_and_vfs`, `?vfs=pwal` or the like. Calling it again
/// changes nothing.
///
/// # Errors
/// See [`RegisterError`].
pub fn register() -> Result<Vfs, RegisterError> {
    Vfs::builder().register()
}

/// A VFS of pwal that is registered with the linked SQLite, for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vfs {
    name: String,
}

impl Vfs {
    /// How to register one: its name, what it lies on, whether it is the default.
    pub fn builder() -> VfsBuilder {
        VfsBuilder::default()
    }

    /// The name to open databases with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// How to register a VFS. By [`Vfs::builder`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("app.db");
/// pwal::Vfs::builder().base("unix").make_default(true).register()?;
/// let connection = rusqlite::Connection::open(path)?; // through pwal, as all that name no VFS
/// # let vfs: String = connection.query_row("SELECT pwal_status() ->> 'vfs'", [], |row| row.get(0))?;
/// # assert_eq!(vfs, pwal::VFS_NAME);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is registered before `register`"]
pub struct VfsBuilder {
    options: Options,
}

impl VfsBuilder {
    /// The name of the VFS; without it [`VFS_NAME`](crate::VFS_NAME).
    pub fn name(mut self, name: impl Into<String>) -> VfsBuilder {
        self.options.name = name.into();
        self
    }

    /// The VFS that it lies on. Without it, the one that is SQLite's default now, or what that lies on, if it is pwal's.
    pub fn base(mut self, base: impl Into<String>) -> VfsBuilder {
        self.options.base = Some(base.into());
        self
    }

    /// Whether databases that are opened without naming a VFS go through it; without it, they do not.
    pub fn make_default(mut self, make_default: bool) -> VfsBuilder {
        self.options.make_default = make_default;
        self
    }

    /// Where the files of the log are; without it, in the file system. For tests.
    #[doc(hidden)]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> VfsBuilder {
        self.options.disk = Some(disk);
        self
    }

    /// Registers it. A second registration of the same name changes nothing but the default, and puts the default back after
    /// `sqlite3_shutdown`.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(self) -> Result<Vfs, RegisterError> {
        let name = self.options.name.clone();
        let registration = register_api(Api::linked()?, self.options)?;
        add_functions_when_linked(registration)?;
        Ok(Vfs { name })
    }
}
