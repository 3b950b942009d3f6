//! The log beside a database that no process has open, looked at. (Not one that this process has open: to close
//! the file drops its locks.)

use pwal::internal::disk::{Disk, RealDisk};
use pwal::internal::log::scan::{self, Survey};
use std::path::Path;

/// Surveys the log of `database`: it must be valid, densely.
#[track_caller]
pub fn assert_sound(database: &Path) -> Survey {
    let header = std::fs::read(database).expect("read the database file");
    let directory = RealDisk.log_directory(database);
    let survey = scan::survey(&*directory, &header[..header.len().min(100)]).expect("a survey of the log");
    for log in &survey.logs {
        assert_eq!(log.findings.iter().map(|finding| format!("{finding:?}")).collect::<Vec<_>>(), [""; 0]);
        let sequences: Vec<u64> = log.commits.iter().map(|commit| commit.sequence).collect();
        assert!(sequences.windows(2).all(|two| two[1] == two[0] + 1), "not dense: {sequences:?}");
    }
    assert!(scan::is_sound(&survey), "{survey:?}");
    survey
}
