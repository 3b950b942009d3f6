//! How `libpwal.so` is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // SQLite keeps pointers into the library (VFS, SQL functions), and so do its threads: `dlclose` of the
        // last connection that loaded it must not unmap it, even in hosts that ignore SQLITE_OK_LOAD_PERMANENTLY.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
