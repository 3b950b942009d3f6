//! The loadable library in real hosts: Debian's `sqlite3` shell and Debian's Python, which bring
//! their own SQLite.
//!
//! A host that is not installed is skipped, and the test says so.

mod python;
mod shell;

use std::path::{Path, PathBuf};
use support::{Scratch, library};

/// The program, if it is there.
fn host(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(path);
    if !path.exists() {
        println!("skipped: {} is not installed", path.display());
        return None;
    }
    Some(path)
}

/// A directory with `libpwal.so` in it, to be the current one of the host.
fn directory() -> Scratch {
    let scratch = Scratch::new();
    std::os::unix::fs::symlink(library::library(), scratch.file("libpwal.so")).expect("a link to the library");
    scratch
}

/// Stock SQLite finds these numbers in `t(writer, n)`: 1 to at least `acknowledged` for each writer, without a gap.
fn assert_rows(path: &Path, acknowledged: [i64; 2]) {
    support::assert_plain(path);
    let stock = support::open_stock(path);
    for (writer, acknowledged) in acknowledged.into_iter().enumerate() {
        let found =
            support::text(&stock, &format!("SELECT count(*), max(n), count(DISTINCT n) FROM t WHERE writer={writer}"));
        let numbers: Vec<i64> = found.split('|').map(|number| number.parse().unwrap_or(0)).collect();
        assert_eq!((numbers[0], numbers[2]), (numbers[1], numbers[1]), "writer {writer}: {found}");
        assert!(
            (acknowledged..=acknowledged + 1).contains(&numbers[1]),
            "writer {writer}: {found}, {acknowledged} acknowledged"
        );
    }
}
