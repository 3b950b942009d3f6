//! Which function a caller would have got without us.
//!
//! The dynamic linker searches the program and what it is linked with first (the global scope), then, for a library that was opened by
//! `dlopen`, that library and what it is linked with. So the next definition after ours in the global scope counts, else that of the
//! caller's own library.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;

/// Where functions of one SQLite are found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scope(*mut c_void);

impl Scope {
    /// The function of this name; null: there is none.
    pub fn find(self, name: &CStr) -> *mut c_void {
        // SAFETY: a scope of `dlopen`, which is never closed, or RTLD_NEXT; a C string.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }

    /// What comes after this library in the global scope.
    pub fn global() -> Scope {
        Scope(libc::RTLD_NEXT)
    }

    /// The library that `address` lies in, and what that is linked with; `None` for the program itself, whose scope is the global one.
    pub fn of(address: *const c_void) -> Option<Scope> {
        let name = object(address)?.0;
        // SAFETY: a name as the dynamic linker has it, of a library that is loaded: nothing is run.
        let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then_some(Scope(handle))
    }
}

/// Name and start of the loaded file that `address` lies in.
fn object(address: *const c_void) -> Option<(*const libc::c_char, *mut c_void)> {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: any address may be asked for; the structure is filled in when the answer is not 0.
    unsafe {
        if libc::dladdr(address, found.as_mut_ptr()) == 0 {
            return None;
        }
        let found = found.assume_init();
        (!found.dli_fname.is_null()).then_some((found.dli_fname, found.dli_fbase))
    }
}

/// The name of the file that `address` lies in, for messages.
pub fn file_of(address: *const c_void) -> String {
    match object(address) {
        // SAFETY: the name is a C string of the dynamic linker's.
        Some((name, _)) => unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(),
        None => String::from("an unknown file"),
    }
}

/// Whether `address` lies in this library.
pub fn is_ours(address: *const c_void) -> bool {
    let ours = object((is_ours as fn(*const c_void) -> bool) as *const c_void);
    matches!((object(address), ours), (Some((_, found)), Some((_, ours))) if found == ours)
}

/// The scope of every library that is loaded now.
pub fn all() -> Vec<Scope> {
    unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
        // SAFETY: `names` is the vector below; the name is a C string.
        unsafe {
            let name = (*info).dlpi_name;
            if !name.is_null() && *name != 0 {
                (*names.cast::<Vec<std::ffi::CString>>()).push(CStr::from_ptr(name).to_owned());
            }
        }
        0
    }
    let mut names: Vec<std::ffi::CString> = Vec::new();
    // SAFETY: the callback gets the vector, which outlives the call. Libraries are opened only afterwards, since the
    // linker's lock is held inside.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut names).cast()) };
    let open = |name: &std::ffi::CString| {
        // SAFETY: as in `of`.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then_some(Scope(handle))
    };
    names.iter().filter_map(open).collect()
}
