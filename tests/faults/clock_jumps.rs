//! The wall clock jumps, back before 1970 and on by centuries, while databases are in use: a commit carries what the clock shows,
//! and nothing else depends on it. (The monotonic clock cannot be set; a process whose one differs is in `processes`, `lives`.)
//!
//! The C library's `clock_gettime` and `gettimeofday` are replaced in this program by those below, which the standard library and
//! SQLite call.

use pwal::internal::disk::RealLogDirectory;
use pwal::internal::log::scan;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use support::lab::copy_crashed;
use support::scene::{COUNT, watchdog};
use support::{Scratch, child, code_of, number, run};

/// By how much the wall clock is wrong, in seconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// # Safety
/// `time` takes a time, as the C library's function demands.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: passed on to the kernel, which checks the address.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::c_long::from(clock), time) };
    if result == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).tv_sec += AHEAD.load(SeqCst) };
    }
    result as libc::c_int
}

/// # Safety
/// `time` takes a time, as the C library's function demands.
#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, _: *mut libc::c_void) -> libc::c_int {
    // SAFETY: all zero is a time; the address is the caller's.
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        let result = clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        *time = libc::timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1000 };
        result
    }
}

/// What the commits of the log of a copy carry, in seconds since 1970.
fn times(database: &Path) -> Vec<u64> {
    let header = std::fs::read(database).expect("the database file");
    let survey = scan::survey(&RealLogDirectory::new(database), &header[..100]).expect("a survey");
    assert!(scan::is_sound(&survey), "{survey:?}");
    survey.logs.iter().flat_map(|log| &log.commits).map(|commit| commit.time_us / 1_000_000).collect()
}

#[test]
fn the_clock_on_the_wall_jumps_and_nothing_waits_or_is_lost() {
    child::alone("clock_jumps::the_clock_on_the_wall_jumps_and_nothing_waits_or_is_lost", || {
        let _watchdog = watchdog("jumps of the clock");
        let scratch = Scratch::new();
        let path = scratch.file("a.db");
        support::scene::create(&path);
        let (one, other) = (support::open(&path), support::open(&path));
        run(&one, "PRAGMA wal_autocheckpoint=0");
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        let year = 365 * 24 * 3600;
        let jumps = [0, year, -year, 400 * year, -(now as i64), -100 * year, 1, 200_000 * year, -1, 0];
        let mut rows = 0;
        let mut expected = Vec::new();
        for ahead in jumps {
            AHEAD.store(ahead, SeqCst);
            assert_eq!(code_of(&one, "PRAGMA synchronous=FULL; INSERT INTO t VALUES(1)"), 0, "{ahead}");
            assert_eq!(code_of(&other, "PRAGMA synchronous=NORMAL; INSERT INTO t VALUES(2)"), 0, "{ahead}");
            rows += 2;
            // A time before 1970 is none.
            expected.extend([u64::try_from(now as i64 + ahead).unwrap_or(0); 2]);
            assert_eq!((number(&one, COUNT), number(&other, COUNT)), (rows, rows), "{ahead}");
            if support::on_pwal() {
                let crashed = copy_crashed(&path);
                let seen = times(crashed.path());
                let right = |(seen, expected): (&u64, &u64)| seen.abs_diff(*expected) < 100;
                assert!(
                    seen.len() == expected.len() && seen.iter().zip(&expected).all(right),
                    "{seen:?}, {expected:?}"
                );
                assert_eq!(number(&crashed.open(), COUNT), rows, "{ahead}");
            }
        }
        // Also what comes by itself, and the close.
        AHEAD.store(-year, SeqCst);
        assert_eq!(code_of(&one, "PRAGMA wal_checkpoint(TRUNCATE)"), 0);
        AHEAD.store(year, SeqCst);
        support::assert_integrity(&one);
        support::close(one);
        support::close(other);
        support::assert_plain(&path);
        assert_eq!(number(&support::open_stock(&path), COUNT), rows);
    });
}
