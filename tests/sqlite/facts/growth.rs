//! How SQLite allocates and frees pages: what a freelist that only one connection is shown rests on.

use super::Lab;
use pwal::internal::pages::{Head, PageOne};
use rusqlite::Connection;
use std::path::Path;

struct Free {
    page_one: Vec<u8>,
    /// What each trunk lists, itself among it, in the order of the list.
    trunks: Vec<Vec<u32>>,
}

/// The freelist in the file, once all is in it.
fn free(connection: &Connection, path: &Path) -> Free {
    support::run(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    let bytes = std::fs::read(path).expect("the database");
    let page = |page: u32| &bytes[(page as usize - 1) * 4096..page as usize * 4096];
    let parsed = PageOne::parse(page(1)).expect("page 1");
    let (mut next, mut trunks) = (parsed.counters().first_trunk, Vec::new());
    while next != 0 {
        let mut head = Head::new(next);
        assert!(head.extend(page(next), parsed.usable()), "a trunk");
        trunks.push(head.pages().to_vec());
        next = head.rest();
    }
    Free { page_one: page(1).to_vec(), trunks }
}

/// `allocateBtreePage`, `freePage2`: the first trunk alone, until it lists nothing; the file does not grow meanwhile; and of page 1 size, freelist and
/// change counter (`pager_write_changecounter`).
#[test]
fn pages_are_allocated_from_the_first_trunk_and_freed_to_it() {
    let lab = Lab::new();
    let (connection, path) = (lab.wal(), lab.file("a.db"));
    support::run(
        &connection,
        "CREATE TABLE big(v); CREATE TABLE u(v); INSERT INTO u VALUES(zeroblob(9000));
         INSERT INTO big VALUES(zeroblob(4096 * 2500)); DELETE FROM big",
    );
    let mut before = free(&connection, &path);
    assert!(before.trunks.len() >= 3);
    let pages = support::number(&connection, "PRAGMA page_count");
    for sql in [
        "INSERT INTO u VALUES(zeroblob(40000))",
        "DELETE FROM u WHERE rowid=1",
        "INSERT INTO u VALUES(zeroblob(1500000))",
    ] {
        support::run(&connection, sql);
        let after = free(&connection, &path);
        let last_of = |free: &Free, count: usize| free.trunks[free.trunks.len() - count..].to_vec();
        assert_eq!(last_of(&after, 2), last_of(&before, 2), "{sql}: later trunks");
        let of = |free: &Free| {
            PageOne::parse(&free.page_one)
                .is_some_and(|one| one.is_same_but_counters(&PageOne::parse(&before.page_one).expect("page 1")))
        };
        assert!(of(&after), "{sql}: page 1");
        assert_eq!(support::number(&connection, "PRAGMA page_count"), pages, "{sql}");
        before = after;
    }
}
