//! Registers the VFS: one `sqlite3_vfs` of ours for each name and SQLite.

use super::base::BaseVfs;
use super::database_handle::SqliteHost;
use super::environment;
use super::error::RegisterError;
use super::messages;
use super::methods;
use super::registration::{REGISTRATIONS, Registration, WalNames, newest, set_newest};
use crate::VFS_NAME;
use crate::disk::{Disk, RealDisk};
use crate::handle::{Context, Registry};
use crate::host::Environment;
use crate::os::{between_forks, watch_forks};
use crate::sqlite::ffi::{self, RawVfs};
use crate::sqlite::{Api, Code};
use std::cell::UnsafeCell;
use std::ffi::{CString, c_int};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    set_newest(registration);
    Ok(registration)
}
