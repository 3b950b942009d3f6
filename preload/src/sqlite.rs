//! The SQLite libraries of this process that are reached, and whether pwal is loaded into each.

use super::resolve::{self, Scope};
use super::say;
use std::cell::Cell;
use std::env;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::SeqCst};

/// More SQLites in one process than pwal serves.
const MAX: usize = 4;

/// `sqlite3_open_v2` of each SQLite that has pwal.
static LOADED: [AtomicPtr<c_void>; MAX] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX];
/// pwal was not loaded into a SQLite, which was said.
static REFUSED: AtomicBool = AtomicBool::new(false);
/// Loading, by one thread at a time.
static LOADING: Mutex<()> = Mutex::new(());

thread_local! {
    /// This thread is loading pwal: what is opened meanwhile is the loader's own.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn loaded() -> impl Iterator<Item = *mut c_void> {
    LOADED.iter().map(|known| known.load(SeqCst)).filter(|known| !known.is_null())
}

/// Whether this is `sqlite3_open_v2` of a SQLite that was reached.
pub fn is_reached(open_v2: *mut c_void) -> bool {
    loaded().any(|known| known == open_v2)
}

/// Whether an open failed for want of pwal.
pub fn was_refused() -> bool {
    REFUSED.load(SeqCst)
}

/// The open function `name` that `caller` means, of a SQLite that has pwal by now. `None`: there is none, or pwal does not load
/// into it, which was said.
pub fn real(name: &CStr, caller: *const c_void) -> Option<*mut c_void> {
    let Some(scope) = scope_of(caller) else {
        say(&format!(
            "cannot determine which SQLite {} calls, so {} fails",
            resolve::file_of(caller),
            name.to_string_lossy()
        ));
        return None;
    };
    let open_v2 = scope.find(c"sqlite3_open_v2");
    if !is_ready(scope, open_v2) && !INSIDE.get() {
        load_once(scope, open_v2)?;
    }
    let real = scope.find(name);
    (!real.is_null()).then_some(real)
}

/// The SQLite that `caller` is linked with. One that comes from none, as the loaded pwal does, which calls by SQLite's table of
/// functions, means the SQLite that was reached, if it is the only one.
fn scope_of(caller: *const c_void) -> Option<Scope> {
    let has_it = |scope: &Scope| !scope.find(c"sqlite3_open_v2").is_null();
    if let Some(scope) = Some(Scope::global()).filter(has_it) {
        return Some(scope);
    }
    if let Some(scope) = Scope::of(caller).filter(has_it) {
        return Some(scope);
    }
    let mut reached = loaded();
    match (reached.next(), reached.next()) {
        (Some(only), None) => Scope::of(only),
        _ => None,
    }
}

fn load_once(scope: Scope, open_v2: *mut c_void) -> Option<()> {
    let _one = LOADING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if is_ready(scope, open_v2) {
        return Some(());
    }
    INSIDE.set(true);
    let done = load(scope);
    INSIDE.set(false);
    let is_for_it = |place: &&AtomicPtr<c_void>| [ptr::null_mut(), open_v2].contains(&place.load(SeqCst));
    let place = LOADED.iter().find(is_for_it);
    match (done, place) {
        (Ok(()), Some(place)) => {
            place.store(open_v2, SeqCst);
            Some(())
        }
        (Ok(()), None) => Some(()),
        (Err(why), _) => {
            REFUSED.store(true, SeqCst);
            say(&format!("not loaded into {}, so the database is not opened: {why}", resolve::file_of(open_v2)));
            None
        }
    }
}

/// The start of `sqlite3_vfs`.
#[repr(C)]
struct Vfs {
    numbers: [c_int; 3],
    next: *mut Vfs,
    name: *const c_char,
}

/// Whether pwal is loaded, and still the default: `sqlite3_shutdown` forgets it, and `sqlite3_initialize` makes `unix` the default
/// (`sqlite3_os_init`). Another VFS is the program's own choice.
fn is_ready(scope: Scope, open_v2: *mut c_void) -> bool {
    let find = scope.find(c"sqlite3_vfs_find");
    if !is_reached(open_v2) || find.is_null() {
        return is_reached(open_v2);
    }
    // SAFETY: SQLite's function of this name has this type; null asks for the default, which lives for ever.
    unsafe {
        let default =
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> *const Vfs>(find)(ptr::null());
        default.is_null() || (*default).name.is_null() || CStr::from_ptr((*default).name) != c"unix"
    }
}

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;
type Enable = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
type Load = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, *mut *mut c_char) -> c_int;
type Free = unsafe extern "C" fn(*mut c_void);

/// Loads pwal into this SQLite and makes it the default VFS.
fn load(scope: Scope) -> Result<(), String> {
    let library = env::var_os("PWAL_LIBRARY").filter(|library| !library.is_empty());
    let library = library.map(OsString::into_vec).and_then(|library| CString::new(library).ok());
    let library = library.ok_or("PWAL_LIBRARY does not name the library (`pwal run` sets it)")?;
    let find = |name: &CStr| match scope.find(name) {
        found if found.is_null() => Err(format!("it was built without {}", name.to_string_lossy())),
        found => Ok(found),
    };
    // SAFETY: SQLite's functions of these names have these types.
    let (open, close, enable, load, free) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Open>(find(c"sqlite3_open")?),
            std::mem::transmute::<*mut c_void, Close>(find(c"sqlite3_close")?),
            std::mem::transmute::<*mut c_void, Enable>(find(c"sqlite3_enable_load_extension")?),
            std::mem::transmute::<*mut c_void, Load>(find(c"sqlite3_load_extension")?),
            std::mem::transmute::<*mut c_void, Free>(find(c"sqlite3_free")?),
        )
    };
    let (mut connection, mut message) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: C strings, variables of ours, and the order that SQLite asks for; a connection is closed even if its
    // opening failed, and null is ignored.
    unsafe {
        let mut code = open(c":memory:".as_ptr(), &raw mut connection);
        if code == 0 {
            code = enable(connection, 1);
        }
        if code == 0 {
            code = load(connection, library.as_ptr(), c"sqlite3_pwal_init".as_ptr(), &raw mut message);
        }
        let text = match message.is_null() {
            true => format!("result code {code}"),
            false => CStr::from_ptr(message).to_string_lossy().into_owned(),
        };
        free(message.cast());
        close(connection);
        if code == 0 { Ok(()) } else { Err(text) }
    }
}
