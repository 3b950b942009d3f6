//! What is not durable under NORMAL.

use std::collections::BTreeSet;
use std::sync::Mutex;
use support::lab::{Call, Gate, Lab, Once, status, wait_until};

/// Commits that came while it was under way would be made durable by the next flush, which no commit may ask for.
#[test]
fn a_flush_that_took_long_is_followed_by_another_one() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); PRAGMA parallel_wal_segment_bytes=262144; PRAGMA synchronous=NORMAL");
    let durable = || status(&connection, "durable").as_u64().unwrap();
    let (syncs, go_on, once, made) =
        (Gate::default(), Gate::default(), Once::default(), Mutex::<BTreeSet<String>>::default());
    let (reached, wait) = (syncs.clone(), go_on.clone());
    lab.hook(move |moment| {
        // The first one of a segment may be of the one that makes it.
        if moment.call == Call::Sync
            && moment.name.ends_with(".seg")
            && !moment.done
            && !made.lock().unwrap().insert(moment.name.to_owned())
            && once.first()
        {
            reached.open();
            wait.pass();
        }
        Ok(())
    });
    let row = || support::run(&connection, "INSERT INTO t VALUES(zeroblob(150000))");
    while !syncs.is_open() {
        row();
    }
    let before = durable();
    (0..8).for_each(|_| row());
    let published = status(&connection, "published").as_u64().unwrap();
    assert_eq!(durable(), before);
    go_on.open();
    wait_until(|| durable() + 3 >= published);
}
