//! SQLite's pager above a main file, asked by SQLite's public functions from inside a call of that pager.
//!
//! The connection is known from `SQLITE_FCNTL_PDB`: SQLite passes the place where the pager's present connection stands
//! (`BtShared.db`, `sqlite3BtreeOpen`). With a shared cache that may be another one than the one that opened the file,
//! which may be gone: then nothing is asked.

use super::above::Above;
use super::registration::Registration;
use crate::handle::{self, Pager, Running};
use crate::sqlite::Api;
use crate::sqlite::ffi::{self, Connection, RawFile};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Of a connection with more statements than these it is not looked which one runs.
const STATEMENTS_MAX: usize = 1000;

pub(super) struct PagerOfFile {
    registration: &'static Registration,
    api: Api,
    file: *mut RawFile,
    /// SQLite's name of the file: where another VFS lies above, its pager is known by it.
    name: *const c_char,
    opened_by: *mut Connection,
    present: *const *mut Connection,
    /// Null: the application's busy handler is not known.
    busy_handler: *const BusyHandler,
    is_on_pwal: IsOnPwal,
}

/// Whether a file object of SQLite's, open or null, is on pwal; `None`: it is not ours.
pub(super) type IsOnPwal = unsafe fn(*mut RawFile) -> Option<bool>;

/// The argument of `SQLITE_FCNTL_BUSYHANDLER`: a function of the pager, which calls the connection's handler, and its argument. They lie in
/// the pager, as long as it has the file open (`sqlite3PagerSetBusyHandler`).
#[repr(C)]
pub(super) struct BusyHandler {
    call: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    argument: *mut c_void,
}

// SAFETY: the pointers are followed only inside a call that SQLite makes on this file, so on the thread that uses its
// pager and holds the mutexes of the connection.
unsafe impl Send for PagerOfFile {}
// SAFETY: as above.
unsafe impl Sync for PagerOfFile {}

impl PagerOfFile {
    /// # Safety
    /// `file` is the open file object of the `SQLITE_FCNTL_PDB` whose argument `present` is; `busy_handler` is null or the argument of
    /// its `SQLITE_FCNTL_BUSYHANDLER`; this value is used only in
    /// calls of SQLite on that file, made by SQLite itself or passed on by a VFS above on the thread that SQLite calls it on.
    pub(super) unsafe fn new(
        registration: &'static Registration,
        file: *mut RawFile,
        name: *const c_char,
        present: *const *mut Connection,
        busy_handler: *const BusyHandler,
        is_on_pwal: IsOnPwal,
    ) -> PagerOfFile {
        // SAFETY: the argument of the file control.
        let opened_by = unsafe { *present };
        PagerOfFile { registration, api: registration.api, file, name, opened_by, present, busy_handler, is_on_pwal }
    }

    fn present(&self) -> *mut Connection {
        // SAFETY: a member of the `BtShared` whose pager has the file open: it is freed after it (`sqlite3BtreeClose`).
        unsafe { *self.present }
    }

    /// The connection, where it may be asked.
    fn open_connection(&self) -> Option<*mut Connection> {
        let present = self.present();
        (!present.is_null() && present == self.opened_by).then_some(present)
    }

    /// The databases of the connection, by their schema names, main and temp first; main alone where SQLite does not
    /// report them.
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

    /// SQLite's name of the file of that schema; null where there is none.
    fn name_of(&self, connection: *mut Connection, schema: &CStr) -> *const c_char {
        // SAFETY: the connection is in use by this thread.
        unsafe { (self.api.db_filename)(connection, schema.as_ptr()) }
    }

    /// The schema name of this file in its connection.
    fn schema(&self, connection: *mut Connection) -> Option<&CStr> {
        self.schemas(connection)
            .find(|name| self.file_of(connection, name) == self.file)
            .or_else(|| self.schema_above(connection))
    }

    /// The same, where SQLite has the file object of another VFS.
    fn schema_above(&self, connection: *mut Connection) -> Option<&CStr> {
        self.schemas(connection).find(|name| self.name_of(connection, name) == self.name)
    }

    /// The VFS above, if there is one and it has passed the name on.
    fn vfs_above(&self, connection: *mut Connection) -> Option<Above> {
        let schema = self.schema_above(connection)?;
        let file = self.file_of(connection, schema);
        // SAFETY: the connection is in use by this thread, the file object its schema's.
        (!file.is_null()).then(|| unsafe { Above::of(&self.api, connection, schema, file) })
    }

    /// Whether the database of that schema has a log of ours.
    fn is_on_pwal(&self, connection: *mut Connection, schema: &CStr, file: *mut RawFile) -> bool {
        // SAFETY: the connection is in use by this thread, the file object its schema's.
        let ours = unsafe { (self.is_on_pwal)(file) };
        ours.unwrap_or_else(|| {
            let below = self.registration.names.of_main(self.name_of(connection, schema));
            below.is_some_and(|known| known.handle.is_on_pwal())
        })
    }
}

/// A hash of the text of a statement, but for its numbers and its strings in single quotes, and of whether it is outside of BEGIN.
fn hash_of(sql: &[u8], autocommit: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    autocommit.hash(&mut hasher);
    let mut in_string = false;
    for byte in sql {
        if *byte == b'\'' {
            // A quote inside of a string is two: the string ends, and begins again.
            in_string = !in_string;
        } else if !in_string && !byte.is_ascii_digit() {
            hasher.write_u8(*byte);
        }
    }
    hasher.finish()
}

impl Pager for PagerOfFile {
    fn connection(&self) -> usize {
        self.present().addr()
    }

    fn above(&self) -> Option<handle::Above> {
        let connection = self.open_connection()?;
        // The object that SQLite has, whatever methods a caller has put into it for a while (`sqlite3_recover_init`).
        if self.schemas(connection).any(|name| self.file_of(connection, name) == self.file) {
            return Some(handle::Above::Nothing);
        }
        match self.vfs_above(connection) {
            Some(above) if above.passes_on() => Some(handle::Above::PassesOn),
            Some(_) => Some(handle::Above::Unknown),
            // Without names of schemas, of all databases but main.
            None if self.api.db_name.is_none() => None,
            None => Some(handle::Above::Unknown),
        }
    }

    fn distrust_above(&self) {
        if let Some(above) = self.open_connection().and_then(|connection| self.vfs_above(connection)) {
            above.withdraw();
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
                    let autocommit = (self.api.get_autocommit)(connection) != 0;
                    running = Running::Reads { text: hash_of(CStr::from_ptr(sql).to_bytes(), autocommit) };
                }
            }
        }
        Running::Unknown
    }

    fn in_transaction(&self) -> bool {
        let Some(connection) = self.open_connection() else { return false };
        // SAFETY: the connection is in use by this thread.
        if unsafe { (self.api.get_autocommit)(connection) } != 0 {
            return false;
        }
        // `sqlite3RunVacuum` runs BEGIN itself, after it has attached its copy.
        let is_vacuum = |name: &CStr| name.to_bytes().starts_with(b"vacuum_");
        match self.api.db_name {
            Some(_) => !self.schemas(connection).any(is_vacuum),
            None => self.name_of(connection, c"vacuum_db").is_null(),
        }
    }

    fn is_beginning(&self) -> bool {
        let Some(connection) = self.open_connection() else { return false };
        let Some(txn_state) = self.api.txn_state else { return false };
        // SAFETY: the connection is in use by this thread.
        self.schema(connection).is_some_and(|name| unsafe { txn_state(connection, name.as_ptr()) } == ffi::TXN_NONE)
    }

    fn wait_busy(&self) -> bool {
        // SAFETY: the pager has the file open; SQLite fills both at once, before its first lock.
        let Some(handler) = (unsafe { self.busy_handler.as_ref() }) else { return false };
        // SAFETY: documented for a call by the VFS, on the thread that uses the connection.
        handler.call.is_some_and(|call| unsafe { call(handler.argument) } != 0)
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
                    && self.name_of(connection, schema) != self.name
                    && txn_state(connection, schema.as_ptr()) == ffi::TXN_WRITE
                    && file.as_ref().is_some_and(|file| !file.methods.is_null())
                    && !self.is_on_pwal(connection, schema, file)
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
            // SAFETY: the connection is in use by this thread; pages in use stay, no file is called.
            unsafe { (self.api.db_release_memory)(connection) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::hash_of;

    #[test]
    fn texts_that_differ_in_their_values_are_the_same() {
        let hash = |sql: &str| hash_of(sql.as_bytes(), false);
        assert_eq!(hash("SELECT n FROM t WHERE id=17"), hash("SELECT n FROM t WHERE id=4"));
        assert_eq!(hash("SELECT n FROM t WHERE a='x' AND b=1"), hash("SELECT n FROM t WHERE a='it''s 5' AND b=2"));
        assert_ne!(hash("SELECT n FROM t WHERE id=1"), hash("SELECT n FROM u WHERE id=1"));
        assert_ne!(hash("SELECT 'a', b FROM t"), hash("SELECT 'a', c FROM t"));
        assert_ne!(hash("SELECT n FROM t"), hash_of(b"SELECT n FROM t", true));
    }
}
