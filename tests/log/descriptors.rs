//! A log of more segments than the process may open files.
#![cfg(target_os = "linux")]

use pwal::internal::log::recovery::{OpenFacts, open_database};
use pwal::internal::log::salvage::{Salvage, plan, salvage};
use pwal::internal::log::scan::{is_sound, survey};
use rustix::process::{Resource, getrlimit, setrlimit};
use support::child;
use support::log::{Files, LogBuilder, Place, RealPlace, database_of, stamped};

const ID: u64 = 0xfeed;
const SEGMENTS: u32 = 120;

/// In a process of its own, whose limit is lowered.
#[test]
fn a_log_of_more_segments_than_descriptors_is_recovered_surveyed_and_salvaged() {
    child::alone(
        "descriptors::a_log_of_more_segments_than_descriptors_is_recovered_surveyed_and_salvaged",
        with_few_descriptors,
    );
}

fn with_few_descriptors() {
    let mut log = LogBuilder::with_blocks(ID, 1024, 4096, 6);
    for segment in 1..SEGMENTS {
        log.commits(2);
        log.certify(log.sequence - 1, 0);
        log.rotate(segment);
    }
    let last = log.sequence;
    let whole = Files::new(stamped(&[0; 3], 1024, ID, 0)).with(&log.files);
    let mut damaged = log;
    damaged.certify(last, 0);
    let (bytes, at) = damaged.place(last);
    bytes[at + 1000] ^= 1;
    let damaged = Files::new(stamped(&[0; 3], 1024, ID, 0)).with(&damaged.files);
    let (place, broken) = (RealPlace::new(&whole), RealPlace::new(&damaged));
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = rustix::process::Rlimit { current: Some(open + 30), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(open + 30 < u64::from(SEGMENTS), "{open} files are open");

    let seen = survey(&*place.directory(), &whole.database).unwrap();
    assert!(is_sound(&seen) && seen.logs[0].last == last && seen.logs[0].segments.len() == SEGMENTS as usize);
    open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap();
    assert!(place.files().database == database_of(&LogBuilder::values_after(last), 1024));
    let planned = plan(&*broken.directory(), &mut *broken.database()).unwrap();
    assert!(matches!(&planned, Salvage::Possible(plan) if plan.last == last - 1), "{planned:?}");
    salvage(&*broken.directory(), &mut *broken.database()).unwrap().unwrap();
    assert!(broken.files().database == database_of(&LogBuilder::values_after(last - 1), 1024));
}
