//! Registrations: one `sqlite3_vfs` of ours each, leaked, since SQLite and open connections
//! keep pointers to it for the life of the process.

use super::base::{BaseVfs, RawBase};
use super::database_handle::SqliteHost;
use super::environment;
use super::messages;
use super::methods;
use crate::VFS_NAME;
use crate::disk::{Disk, RealDisk};
use crate::handle::{Context, Handle, Registry};
use crate::host::Environment;
use crate::shared::{between_forks, watch_forks};
use crate::sqlite::ffi::{self, RawFile, RawVfs};
use crate::sqlite::{Api, ApiError, Code};
use crate::sync::Mutex;
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::SeqCst};

/// How to register the VFS.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// The name of the VFS.
    pub(super) name: String,
    /// The VFS below; `None` is the one that is SQLite's default now (or what lies below, if that is pwal).
    pub(super) base: Option<String>,
    /// Whether databases that are opened without naming a VFS use this one.
    pub(super) make_default: bool,
    /// Where the files of the log are; `None` is the file system.
    pub(super) disk: Option<Arc<dyn Disk>>,
}

impl Default for Options {
    fn default() -> Options {
        Options { name: String::from(VFS_NAME), base: None, make_default: false, disk: None }
    }
}

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// SQLite lacks something.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// `SQLITE_THREADSAFE=0`: the log is written and checkpointed by more than one thread.
    #[error("this SQLite was built without thread safety (SQLITE_THREADSAFE=0), which pwal needs")]
    NotThreadSafe,
    /// `SQLITE_CONFIG_SINGLETHREAD`: the same, by `sqlite3_config`.
    #[error("this SQLite is configured for one thread (SQLITE_CONFIG_SINGLETHREAD), and pwal needs its mutexes")]
    SingleThread,
    /// The name belongs to other code, perhaps to another copy of pwal.
    #[error("a VFS named {0:?} is registered already, by other code than this copy of pwal; load one copy only")]
    NameTaken(String),
    /// The name is registered on another base.
    #[error("the VFS {name:?} is registered on {base:?} already")]
    OtherBase {
        /// The VFS.
        name: String,
        /// What it is on.
        base: String,
    },
    /// The base is a VFS of ours.
    #[error("{0:?} is a pwal VFS itself and cannot be the base of one")]
    OwnBase(String),
    /// The base is not there, or SQLite could not be initialised.
    #[error("SQLite has no VFS {0}")]
    NoBase(String),
    /// A name cannot be used.
    #[error("{0:?} cannot be the name of a VFS")]
    BadName(String),
    /// A variable of the environment has a value that pwal does not take.
    #[error("the environment variable {variable} is not accepted: {reason}")]
    Environment {
        /// Its name.
        variable: String,
        /// What is wrong with it, and what is accepted.
        reason: String,
    },
    /// `sqlite3_vfs_register` or `sqlite3_auto_extension` failed.
    #[error("SQLite refused the registration: result code {0}")]
    Refused(i32),
}

/// One registration of the VFS.
pub(super) struct Registration {
    /// SQLite links it into its list of VFSes.
    vfs: UnsafeCell<RawVfs>,
    pub(super) api: Api,
    pub(super) base: BaseVfs,
    pub(super) names: WalNames,
    pub(super) context: Arc<Context>,
    /// What would work past pwal is refused ([`super::load::Wanted::Strict`]).
    pub(super) strict: AtomicBool,
    name: CString,
    base_name: String,
    /// The one that was made before this one.
    before: Option<&'static Registration>,
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

    fn is_of_host(&self, api: &Api) -> bool {
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
static REGISTRATIONS: Mutex<Vec<&'static Registration>> = Mutex::new(Vec::new());

/// The newest registration, from which the others are reached without a lock; null: there is none.
static NEWEST: AtomicPtr<Registration> = AtomicPtr::new(std::ptr::null_mut());

fn newest() -> Option<&'static Registration> {
    // SAFETY: null, or a registration, which is complete before it is stored and lives as long as the process.
    unsafe { NEWEST.load(SeqCst).as_ref() }
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

/// Whether SQLite has mutexes: `sqlite3_threadsafe` says what it was built for, `sqlite3_config` may have taken them away since.
fn has_mutexes(api: &Api) -> bool {
    /// What `noopMutexAlloc` answers for every mutex.
    const NO_MUTEX: usize = 8;
    let (Some(alloc), Some(free)) = (api.mutex_alloc, api.mutex_free) else { return false };
    // SAFETY: a fast mutex is allocated, which may initialise SQLite, and freed.
    unsafe {
        let mutex = alloc(ffi::MUTEX_FAST);
        let is_one = mutex.addr() != NO_MUTEX;
        free(mutex);
        is_one
    }
}

/// Registers a VFS with the SQLite of this table.
pub(super) fn register_api(api: Api, options: Options) -> Result<&'static Registration, RegisterError> {
    // SAFETY: needs nothing.
    if unsafe { (api.threadsafe)() } == 0 {
        return Err(RegisterError::NotThreadSafe);
    }
    if !has_mutexes(&api) {
        return Err(RegisterError::SingleThread);
    }
    let bad_name = |_| RegisterError::BadName(options.name.clone());
    let name = CString::new(options.name.as_bytes()).map_err(bad_name)?;
    watch_forks();
    let _no_fork = between_forks();
    let mut registrations = REGISTRATIONS.lock();
    // SAFETY: a C string; the call initialises SQLite if need be.
    let present = unsafe { (api.vfs_find)(name.as_ptr()) };
    if !present.is_null() {
        let ours = registrations.iter().find(|registration| registration.vfs.get() == present);
        let registration = *ours.ok_or_else(|| RegisterError::NameTaken(options.name.clone()))?;
        same_base(registration, &options)?;
        if options.make_default {
            enlist(registration, true)?;
        }
        return Ok(registration);
    }
    let forgotten = registrations.iter().find(|known| known.is_of_host(&api) && known.name == name);
    if let Some(registration) = forgotten.copied() {
        same_base(registration, &options)?;
        enlist(registration, options.make_default)?;
        return Ok(registration);
    }
    let base = find_base(&api, &registrations, options.base.as_deref())?;
    let registration = build(api, base, name, options.disk)?;
    enlist(registration, options.make_default)?;
    registrations.push(registration);
    Ok(registration)
}

/// The linked SQLite, and what a VFS of ours would lie on.
#[cfg(feature = "linked")]
pub(super) fn linked_base() -> Result<(Api, BaseVfs), RegisterError> {
    let api = Api::linked()?;
    let base = find_base(&api, &REGISTRATIONS.lock(), None)?;
    Ok((api, base))
}

fn same_base(registration: &Registration, options: &Options) -> Result<(), RegisterError> {
    match &options.base {
        Some(base) if *base != registration.base_name => {
            Err(RegisterError::OtherBase { name: options.name.clone(), base: registration.base_name.clone() })
        }
        _ => Ok(()),
    }
}

fn enlist(registration: &'static Registration, make_default: bool) -> Result<(), RegisterError> {
    // SAFETY: the table is complete, has its name, and lives for ever.
    match unsafe { (registration.api.vfs_register)(registration.vfs.get(), c_int::from(make_default)) } {
        0 => Ok(()),
        code => Err(RegisterError::Refused(code)),
    }
}

fn find_base(api: &Api, ours: &[&'static Registration], name: Option<&str>) -> Result<BaseVfs, RegisterError> {
    let missing = || RegisterError::NoBase(name.map_or_else(|| String::from("at all"), |name| format!("{name:?}")));
    let c_name = name.map(CString::new).transpose().map_err(|_| missing())?;
    let pointer = c_name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
    // SAFETY: null (the default) or a C string.
    let found: *mut RawVfs = unsafe { (api.vfs_find)(pointer) };
    if found.is_null() {
        return Err(missing());
    }
    match (ours.iter().find(|registration| registration.vfs.get() == found), name) {
        (Some(_), Some(name)) => Err(RegisterError::OwnBase(name.to_owned())),
        (Some(registration), None) => Ok(registration.base),
        // SAFETY: SQLite keeps a VFS registered while connections may use it.
        (None, _) => Ok(unsafe { BaseVfs::new(found) }),
    }
}

fn build(
    api: Api,
    base: BaseVfs,
    name: CString,
    disk: Option<Arc<dyn Disk>>,
) -> Result<&'static Registration, RegisterError> {
    let base_name = base.name();
    let file_bytes = methods::file_bytes(base).ok_or_else(|| RegisterError::NoBase(format!("{base_name:?}")))?;
    messages::open()?;
    let settings = environment::settings()?;
    for variable in &settings.unknown {
        messages::write(&api, Code::WARNING.number(), &format!("pwal: {variable} is not a setting of pwal; ignored"));
    }
    let environment = Environment {
        host: Box::new(SqliteHost::new(api, base)),
        disk: disk.unwrap_or_else(|| Arc::new(RealDisk)),
        defaults: settings.accepted,
    };
    let context = Context { environment: Arc::new(environment), registry: Registry::default() };
    let registration = Box::leak(Box::new(Registration {
        vfs: UnsafeCell::new(methods::table(&base.table(), file_bytes)),
        api,
        base,
        names: WalNames::default(),
        context: Arc::new(context),
        strict: AtomicBool::new(false),
        name,
        base_name,
        before: newest(),
    }));
    let app_data = std::ptr::from_mut(registration).cast();
    // SAFETY: not registered yet, so no other thread sees it.
    unsafe {
        (*registration.vfs.get()).name = registration.name.as_ptr();
        (*registration.vfs.get()).app_data = app_data;
    }
    NEWEST.store(registration, SeqCst);
    Ok(registration)
}
