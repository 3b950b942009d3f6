//! Tests of the view against a model of the log and a client that behaves as `wal.c` does.

mod client;
mod file;
mod index;
mod lane;
mod log;
mod model;
mod transactions;

use super::View;
use crate::disk::sim::SimDisk;
use crate::disk::{LogDirectory, LogFile, OpenMode};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A spill file on this disk.
fn spill_on(disk: &SimDisk) -> io::Result<Arc<dyn LogFile>> {
    let directory = disk.directory(Path::new("/view/a.db"));
    directory.create()?;
    directory.open("a.spill", OpenMode::CreateNew)
}

pub(super) fn open_spill() -> io::Result<Arc<dyn LogFile>> {
    spill_on(&SimDisk::new(1))
}

fn no_spill() -> io::Result<Arc<dyn LogFile>> {
    panic!("the lane has room")
}

/// The 12 words of a header copy, from a view's region 0.
fn header_words(view: &mut View, copy: usize) -> [u32; 12] {
    let region = view.region(0, false).unwrap();
    std::array::from_fn(|i| region.word(12 * copy + i))
}
