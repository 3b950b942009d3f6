//! What the tests of pwal share.
//!
//! Every system test runs on the VFS named by [`vfs`]. `PWAL_TEST_VFS=unix` puts stock SQLite
//! there: a test that fails on stock is a wrong test, but where it asks [`on_pwal`] first. `PWAL_TEST_LOG=1`
//! prints what `sqlite3_log` is told.

#[cfg(feature = "sqlite")]
pub mod child;
#[cfg(feature = "sqlite")]
pub mod dump;
#[cfg(feature = "sqlite")]
pub mod lab;
#[cfg(feature = "sqlite")]
pub mod library;
pub mod log;
#[cfg(feature = "sqlite")]
pub mod processes;
#[cfg(feature = "sqlite")]
pub mod scene;
#[cfg(target_os = "linux")]
pub mod seccomp;
#[cfg(feature = "sqlite")]
pub mod shim;
#[cfg(feature = "sqlite")]
pub mod small_disk;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
pub mod test_vfs;

#[cfg(feature = "sqlite")]
pub use sqlite::*;

/// The tests that play the roles of [`processes::agent`] and [`processes::worker`]: once in the root of each test program that
/// starts such processes.
#[cfg(feature = "sqlite")]
#[macro_export]
macro_rules! roles {
    () => {
        mod roles {
            #[test]
            fn child_obeys() {
                $crate::processes::agent::child_obeys();
            }

            #[test]
            fn child_works() {
                $crate::processes::worker::child_works();
            }
        }
    };
}
