//! A process dies between the write of its batch and the publication: a whole batch lies behind the tail, with the next
//! sequence and the right chain. The next commit goes over it, or, where it does not fit there, into the next segment: then
//! the abandoned one must not be taken for it.

#![cfg(debug_assertions)] // fault points

use std::path::PathBuf;
use support::lab::copy_crashed;
use support::{Scratch, child};

#[test]
fn child_dies_in_publish() {
    if !child::role("abandoned_batch::child_dies_in_publish") {
        return;
    }
    let connection = support::open(&PathBuf::from(child::setting("PWAL_TEST_DATABASE")));
    let set = child::setting("PWAL_TEST_SETTING");
    support::run(&connection, &format!("{set}; INSERT INTO t VALUES(66, '')"));
    unreachable!("it dies");
}

#[test]
fn an_abandoned_batch_is_not_taken_for_the_one_in_the_next_segment() {
    for set in ["PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL"] {
        // It fits behind the tail; it does not.
        for bytes in [100, 2_000_000] {
            let scratch = Scratch::new();
            let path = scratch.file("a.db");
            let connection = support::open_wal(&path);
            support::run(&connection, "PRAGMA wal_autocheckpoint=0; CREATE TABLE t(n, x); INSERT INTO t VALUES(1, '')");
            let variables = [
                ("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned()),
                ("PWAL_TEST_SETTING", set.to_owned()),
                ("PWAL_TEST_DIE_AT", String::from("publish_before_store")),
            ];
            let mut process = child::start("abandoned_batch::child_dies_in_publish", &variables);
            assert_eq!(process.lines.next(), None);
            assert!(process.wait().code().is_none(), "killed");
            // Everybody dies here: nobody was told that it failed.
            let copy = copy_crashed(&path);
            let alone = support::text(&copy.open(), "SELECT n FROM t");
            assert!(["1", "1 66"].contains(&alone.as_str()), "{alone}");

            support::run(&connection, &format!("PRAGMA synchronous=FULL; INSERT INTO t VALUES(7, zeroblob({bytes}))"));
            support::run(&connection, "INSERT INTO t VALUES(8, '')");
            let what = format!("{set}, {bytes}");
            let copy = copy_crashed(&path);
            let crashed = copy.open();
            assert_eq!(support::text(&crashed, "SELECT n FROM t"), "1 7 8", "{what}");
            support::assert_integrity(&crashed);
            assert_eq!(support::text(&connection, "SELECT n FROM t"), "1 7 8", "{what}");
            support::close(connection);
            support::assert_plain(&path);
        }
    }
}
