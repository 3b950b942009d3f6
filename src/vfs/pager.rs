//! SQLite's pager above a main file, asked by SQLite's public functions from inside a call of that pager.
//!
//! The connection is known from `SQLITE_FCNTL_PDB`: SQLite passes the place where the pager's present connection stands
//! (`BtShared.db`, `sqlite3BtreeOpen`). With a shared cache that may be another one than the one that opened the file,
//! which may be gone: then nothing is asked.

use super::main_file::MainFile;
use crate::handle::{Pager, Running};
use crate::sqlite::Api;
use crate::sqlite::ffi::{self, Connection, RawFile};
use std::ffi::{CStr, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Of a connection with more statements than these it is not looked which one runs.
const STATEMENTS_MAX: usize = 1000;

pub(super) struct PagerOfFile {
    api: Api,
    file: *mut RawFile,
    opened_by: *mut Connection,
    present: *const *mut Connection,
}

// SAFETY: the pointers are followed only inside a call that SQLite makes on this file, so on the thread that uses its
// pager and holds the mutexes of the connection.
unsafe impl Send for PagerOfFile {}
// SAFETY: as above.
unsafe impl Sync for PagerOfFile {}

impl PagerOfFile {
    /// # Safety
    /// `file` is the open file object of the `SQLITE_FCNTL_PDB` whose argument `present` is; this value is used only in
    /// calls of SQLite on that file, made by SQLite itself and not by another VFS above ours.
    pub(super) unsafe fn new(api: Api, file: *mut RawFile, present: *const *mut Connection) -> PagerOfFile {
        // SAFETY: the argument of the file control.
        PagerOfFile { api, file, opened_by: unsafe { *present }, present }
    }

    fn present(&self) -> *mut Connection {
        // SAFETY: a member of the `BtShared` whose pager has the file open: it is freed behind it (`sqlite3BtreeClose`).
        unsafe { *self.present }
    }

    /// The connection, where it may be asked.
    fn open_connection(&self) -> Option<*mut Connection> {
        let present = self.present();
        (!present.is_null() && present == self.opened_by).then_some(present)
    }

    /// The databases of the connection, by their schema names, main and temp first; main alone where SQLite does not tell.
    fn schemas(&self, connection: *mut Connection) -> impl Iterator<Item = &CStr> {
        (0..).map_while(move |at: c_int| {
            let Some(db_name) = self.api.db_name else { return (at == 0).then_some(c"main") };
            // SAFETY: the connection is in use by this thread; a number beyond its databases answers null. SQLite keeps the name
            // until the database is detached, which no call on a file of the connection does.
            unsafe {
                let name = db_name(connection, at);
                (!name.is_null()).then(|| CStr::from_ptr(name))
            }
        })
    }

    fn file_of(&self, connection: *mut Connection, schema: &CStr) -> *mut RawFile {
        let mut file: *mut RawFile = std::ptr::null_mut();
        // SAFETY: the connection is in use by this thread; the file control stores a pointer and calls no VFS.
        let code = unsafe {
            let out = (&raw mut file).cast();
            (self.api.file_control)(connection, schema.as_ptr(), ffi::FCNTL_FILE_POINTER, out)
        };
        if code == ffi::OK { file } else { std::ptr::null_mut() }
    }

    /// The schema name of this file in its connection.
    fn schema(&self, connection: *mut Connection) -> Option<&CStr> {
        self.schemas(connection).find(|name| self.file_of(connection, name) == self.file)
    }
}

impl Pager for PagerOfFile {
    fn connection(&self) -> usize {
        self.present().addr()
    }

    fn is_direct(&self) -> Option<bool> {
        let connection = self.open_connection()?;
        // The object that SQLite has, whatever methods somebody has put into it for a while (`sqlite3_recover_init`).
        match self.schema(connection).is_some() {
            // Without names, of all databases but main.
            false if self.api.db_name.is_none() => None,
            direct => Some(direct),
        }
    }

    fn running(&self) -> Running {
        let Some(connection) = self.open_connection() else { return Running::Unknown };
        let mut running = Running::Unknown;
        let mut statement = std::ptr::null_mut();
        for _ in 0..STATEMENTS_MAX {
            // SAFETY: the connection is in use by this thread, which is why no statement of it can go meanwhile; the text
            // belongs to the statement.
            unsafe {
                statement = (self.api.next_stmt)(connection, statement);
                if statement.is_null() {
                    return running;
                }
                if (self.api.stmt_busy)(statement) == 0 {
                    continue;
                }
                if (self.api.stmt_readonly)(statement) == 0 {
                    return Running::Writes;
                }
                let sql = (self.api.sql)(statement);
                if running == Running::Unknown && !sql.is_null() {
                    let mut hasher = DefaultHasher::new();
                    CStr::from_ptr(sql).hash(&mut hasher);
                    running = Running::Reads { text: hasher.finish() };
                }
            }
        }
        Running::Unknown
    }

    fn has_siblings(&self) -> bool {
        let (Some(connection), Some(db_name), Some(txn_state)) =
            (self.open_connection(), self.api.db_name, self.api.txn_state)
        else {
            return true;
        };
        // SAFETY: the connection is in use by this thread. Databases 0 and 1 are main and temp.
        unsafe { !db_name(connection, 2).is_null() || txn_state(connection, c"temp".as_ptr()) == ffi::TXN_WRITE }
    }

    fn may_have_super_journal(&self) -> bool {
        let (Some(connection), Some(txn_state)) = (self.open_connection(), self.api.txn_state) else { return false };
        let may_have_journal = |schema: &&CStr| {
            let file = self.file_of(connection, schema);
            // SAFETY: the connection is in use by this thread, and has the file open, or it has no methods.
            unsafe {
                file != self.file
                    && txn_state(connection, schema.as_ptr()) == ffi::TXN_WRITE
                    && file.as_ref().is_some_and(|file| !file.methods.is_null())
                    && MainFile::of(file).is_none_or(|main| !main.handle().is_on_pwal())
            }
        };
        // Temp has no part in a super-journal.
        self.schemas(connection).filter(|schema| *schema != c"temp").filter(may_have_journal).nth(1).is_some()
    }

    fn data_version(&self) -> Option<u32> {
        let connection = self.open_connection()?;
        let schema = self.schema(connection)?;
        let mut version: std::ffi::c_uint = 0;
        // SAFETY: the connection is in use by this thread; the file control stores a number and calls no VFS.
        let code = unsafe {
            let out = (&raw mut version).cast();
            (self.api.file_control)(connection, schema.as_ptr(), ffi::FCNTL_DATA_VERSION, out)
        };
        (code == ffi::OK).then_some(version)
    }

    fn release_pages(&self) {
        if let Some(connection) = self.open_connection() {
            // SAFETY: the connection is in use by this thread; pages that somebody uses stay, no file is called.
            unsafe { (self.api.db_release_memory)(connection) };
        }
    }
}
