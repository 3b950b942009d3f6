//! What every callback needs of a registration: the base, the SQLite functions, and the open main files by the names of
//! their WALs. A registration is leaked, since SQLite and open connections keep pointers to it for the life of the process.

use super::base::{BaseVfs, RawBase};
use crate::handle::{Context, Handle};
use crate::sqlite::Api;
use crate::sqlite::ffi::{RawFile, RawVfs};
use crate::sync::Mutex;
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::SeqCst};

/// One registration of the VFS.
pub(super) struct Registration {
    /// SQLite links it into its list of VFSes.
    pub(super) vfs: UnsafeCell<RawVfs>,
    pub(super) api: Api,
    pub(super) base: BaseVfs,
    pub(super) names: WalNames,
    pub(super) context: Arc<Context>,
    /// What would work past pwal is refused ([`super::load::Wanted::Strict`]).
    pub(super) strict: AtomicBool,
    pub(super) name: CString,
    pub(super) base_name: String,
    /// The one that was made before this one.
    pub(super) before: Option<&'static Registration>,
}

// SAFETY: after registration only SQLite touches `vfs`, under its own mutex; the rest is `Sync`.
unsafe impl Sync for Registration {}
// SAFETY: as above; its pointers are to static memory.
unsafe impl Send for Registration {}

impl Registration {
    /// The name of the VFS.
    pub(super) fn name(&self) -> std::borrow::Cow<'_, str> {
        self.name.to_string_lossy()
    }

    pub(super) fn is_of_host(&self, api: &Api) -> bool {
        std::ptr::fn_addr_eq(self.api.vfs_find, api.vfs_find)
    }
}

/// An open main file, as its WAL's name knows it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) handle: Arc<Handle>,
    /// The connection's own handle on the database file.
    pub(super) base: RawBase,
    /// The address of the file object.
    pub(super) file: usize,
    /// The address of the main file's name.
    name: usize,
    wal_name: CString,
}

/// The WAL names of the open main files, by the address of SQLite's own copy: a file that merely has such a
/// name is another's.
#[derive(Default)]
pub(super) struct WalNames(Mutex<HashMap<usize, Known>>);

impl WalNames {
    /// # Safety
    /// `wal_name` is null or a C string.
    pub(super) unsafe fn add(
        &self,
        (name, wal_name): (*const c_char, *const c_char),
        handle: &Arc<Handle>,
        base: RawBase,
        file: *mut RawFile,
    ) {
        if !wal_name.is_null() {
            let handle = Arc::clone(handle);
            // SAFETY: by the contract.
            let text = unsafe { CStr::from_ptr(wal_name) }.to_owned();
            let known = Known { handle, base, file: file.addr(), name: name.addr(), wal_name: text };
            self.0.lock().insert(wal_name.addr(), known);
        }
    }

    pub(super) fn remove(&self, name: *const c_char) {
        let known = self.0.lock().remove(&name.addr());
        // Not under the lock: it may be the last one.
        drop(known);
    }

    pub(super) fn get(&self, name: *const c_char) -> Option<Known> {
        self.0.lock().get(&name.addr()).cloned()
    }

    /// By the name of the main file, SQLite's own copy.
    pub(super) fn of_main(&self, name: *const c_char) -> Option<Known> {
        self.0.lock().values().find(|known| known.name == name.addr()).cloned()
    }

    /// Whether a joined handle has a WAL of this name, wherever in memory.
    pub(super) fn has_virtual(&self, name: &CStr) -> bool {
        let same: Vec<Known> = self.0.lock().values().filter(|known| *known.wal_name == *name).cloned().collect();
        same.iter().any(|known| known.handle.is_on_pwal())
    }

    /// Whether it is the WAL of a joined handle: there is no such file then.
    pub(super) fn is_virtual(&self, name: *const c_char) -> bool {
        self.get(name).is_some_and(|known| known.handle.is_on_pwal())
    }
}

/// All registrations of this copy of pwal, of every SQLite in the process.
pub(super) static REGISTRATIONS: Mutex<Vec<&'static Registration>> = Mutex::new(Vec::new());

/// The newest registration, from which the others are reached without a lock; null: there is none.
static NEWEST: AtomicPtr<Registration> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn newest() -> Option<&'static Registration> {
    // SAFETY: null, or a registration, which is complete before it is stored and lives as long as the process.
    unsafe { NEWEST.load(SeqCst).as_ref() }
}

/// From here on `registration` is found by its address.
pub(super) fn set_newest(registration: &'static Registration) {
    NEWEST.store(std::ptr::from_ref(registration).cast_mut(), SeqCst);
}

/// The registration whose address a VFS with our methods has as its `pAppData`. A VFS that copies ours and puts something of its own
/// there can only mean the registration that is the only one.
pub(super) fn of_app_data(app_data: *const Registration) -> Option<&'static Registration> {
    let newest = newest()?;
    let known = std::iter::successors(Some(newest), |one| one.before).find(|one| std::ptr::eq(*one, app_data));
    known.or(newest.before.is_none().then_some(newest))
}

/// The first registration, unless a thread is registering just now.
pub(super) fn any() -> Option<&'static Registration> {
    REGISTRATIONS.try_lock()?.first().copied()
}

/// The open main file of this SQLite with this name, SQLite's own copy: also below another VFS, if that passes names on.
pub(super) fn find_open(api: &Api, name: *const c_char) -> Option<Known> {
    let registrations = REGISTRATIONS.lock().clone();
    registrations.iter().filter(|known| known.is_of_host(api)).find_map(|known| known.names.of_main(name))
}
