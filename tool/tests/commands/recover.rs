//! `pwal recover`

use super::{contents, crashed, hold, log_id, rot, tool};
use support::{Scratch, assert_plain, close, number, open_stock, open_wal, run};

#[test]
fn a_killed_process_loses_nothing_and_the_report_says_what_was_done() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 20);
    let id = log_id(&path);
    let output = tool(["recover".as_ref(), path.as_os_str()]);
    let text = output.printed();
    assert!(text.contains(&format!("recovered log {id}: commits 1 to 21 replayed")), "{text}");
    assert!(text.contains("is plain, WAL mode"), "{text}");
    assert!(!text.contains("torn"), "{text}");
    assert_plain(&path);
    let stock = open_stock(&path);
    assert_eq!(number(&stock, "SELECT count(*) FROM t"), 20);
    close(stock);
    let again = tool(["recover".as_ref(), path.as_os_str()]);
    assert!(again.printed().starts_with("nothing to recover\n"), "{again:?}");
    assert_plain(&path);
}

#[test]
fn a_torn_tail_is_cut_and_told() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 4);
    // The last commit, with the certificate in it, as a torn write would leave it.
    rot(&path, 5);
    let output = tool(["recover".as_ref(), path.as_os_str()]);
    let text = output.printed();
    assert!(text.contains("commits 1 to 4 replayed"), "{text}");
    assert!(text.contains("truncated a torn tail: commit 5 was begun and is not whole, byte"), "{text}");
    assert!(text.contains("rule B8"), "{text}");
    assert_plain(&path);
    let stock = open_stock(&path);
    assert_eq!(number(&stock, "SELECT count(*) FROM t"), 3);
}

#[test]
fn a_damaged_log_is_refused_and_nothing_is_touched() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 10);
    rot(&path, 4);
    let before = contents(scratch.path());
    let output = tool(["recover".as_ref(), path.as_os_str()]);
    let text = output.refused(1);
    assert!(text.contains("-0000.seg is damaged at byte") && text.contains("rule B8"), "{text}");
    assert!(text.contains("whole up to commit 3"), "{text}");
    assert!(text.contains("pwal recover --salvage"), "{text}");
    assert_eq!(contents(scratch.path()), before);
}

#[test]
fn a_database_that_is_open_is_refused_and_its_owner_is_named() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, 2);
    for command in ["recover", "off"] {
        let output = tool([command.as_ref(), path.as_os_str()]);
        let text = output.refused(3);
        assert!(text.contains("another process"), "{text}");
        if cfg!(target_os = "linux") {
            assert!(text.contains(&format!("process {} (", holder.pid())), "{text}");
        }
    }
    holder.send("go");
    holder.wait();
    assert_plain(&path);
    let stock = open_stock(&path);
    assert_eq!(number(&stock, "SELECT count(*) FROM t"), 2);
    let output = tool(["recover".as_ref(), path.as_os_str()]);
    assert!(output.refused(3).contains("a connection that is not on pwal"), "{output:?}");
    close(stock);
    tool(["recover".as_ref(), path.as_os_str()]).printed();
    assert_plain(&path);
}

#[test]
fn a_bare_copy_is_refused_with_the_way_on() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let copy = scratch.file("copy.db");
    std::fs::copy(&path, &copy).expect("copy");
    let output = tool(["recover".as_ref(), copy.as_os_str()]);
    let text = output.refused(1);
    assert!(text.contains(&log_id(&path)) && text.contains("--discard-log"), "{text}");
    assert!(!scratch.file("copy.db-pwal").exists());
}

#[test]
fn what_stock_left_is_played_back_by_stock() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let stock = open_stock(&path);
    run(&stock, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1), (2)");
    let copy = scratch.file("copy.db");
    for suffix in ["", "-wal"] {
        let of = |path: &std::path::Path| format!("{}{suffix}", path.display());
        std::fs::copy(of(&path), of(&copy)).expect("copy");
    }
    let output = tool(["recover".as_ref(), copy.as_os_str()]);
    assert!(output.printed().contains("stock SQLite played back"), "{output:?}");
    assert_plain(&copy);
    assert_eq!(number(&open_stock(&copy), "SELECT count(*) FROM t"), 2);
    drop(stock);
}

#[test]
fn a_log_of_another_file_is_moved_away() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let id = log_id(&path);
    let other = scratch.file("other.db");
    let connection = open_wal(&other);
    run(&connection, "CREATE TABLE u(x)");
    close(connection);
    std::fs::rename(&other, &path).expect("replace the database");
    let output = tool(["recover".as_ref(), path.as_os_str()]);
    assert!(output.printed().contains(&format!("its directory is now -pwal.orphan-{id}")), "{output:?}");
    assert_eq!(support::beside(&path), [format!("app.db-pwal.orphan-{id}")]);
}

#[test]
fn a_salvage_shows_what_it_gives_up_and_keeps_the_log() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 10);
    let id = log_id(&path);
    rot(&path, 5);
    let before = contents(scratch.path());
    let output = tool(["recover", "--salvage", &path.display().to_string()]);
    assert!(output.refused(1).contains("nothing was done") && output.stderr.contains("--yes"), "{output:?}");
    assert!(output.stdout.contains("commits 1 to 4 would be replayed"), "{output:?}");
    assert!(output.stdout.contains("commits 5 to 11 would be given up"), "{output:?}");
    assert_eq!(contents(scratch.path()), before);
    let output = tool(["recover", "--salvage", "--yes", &path.display().to_string()]);
    let text = output.printed();
    assert!(text.contains("commits 1 to 4 were replayed") && text.contains("commits 5 to 11 were given up"), "{text}");
    assert!(text.contains(&format!("the log directory is now -pwal.salvaged-{id}")), "{text}");
    assert_eq!(support::beside(&path), [format!("app.db-pwal.salvaged-{id}")]);
    let stock = open_stock(&path);
    assert_eq!(number(&stock, "SELECT count(*) FROM t"), 3);
    close(stock);
    // Nothing to salvage any more.
    let again = tool(["recover", "--salvage", &path.display().to_string()]);
    assert!(again.printed().contains("nothing has to be given up"), "{again:?}");
}

#[test]
fn a_sound_log_is_recovered_not_salvaged() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let output = tool(["recover", "--salvage", "--yes", &path.display().to_string()]);
    assert!(output.printed().contains("commits 1 to 4 replayed"), "{output:?}");
    assert_plain(&path);
}

#[test]
fn a_log_is_discarded_on_demand_only() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let id = log_id(&path);
    let output = tool(["recover", "--discard-log", &path.display().to_string()]);
    assert!(output.refused(1).contains("nothing was done"), "{output:?}");
    assert!(output.stdout.contains("commits 1 to 4 would be given up"), "{output:?}");
    let output = tool(["recover", "--discard-log", "--yes", &path.display().to_string()]);
    let text = output.printed();
    assert!(text.contains(&format!("log {id}: commits 1 to 4 were given up")), "{text}");
    assert!(text.contains(&format!("now -pwal.discarded-{id}")) && text.contains("plain, WAL mode"), "{text}");
    assert_eq!(support::beside(&path), [format!("app.db-pwal.discarded-{id}")]);
    assert_eq!(number(&open_stock(&path), "SELECT count(*) FROM sqlite_schema"), 0);
}

#[test]
fn what_cannot_be_looked_at_is_never_nothing_given_up() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let id = log_id(&path);
    // A segment of a version that this pwal does not read: magic, version, log id and CRC keep their places.
    let segment = path.with_file_name("app.db-pwal").join(format!("{id}-0000.seg"));
    let mut bytes = std::fs::read(&segment).expect("a segment");
    bytes[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..64]);
    bytes[64..68].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&segment, bytes).expect("write");
    let name = path.display().to_string();
    tool(["verify", &name]).refused(1);
    tool(["recover", "--salvage", "--yes", &name]).refused(1);
    let output = tool(["recover", "--discard-log", &name]);
    assert!(output.refused(1).contains("nothing was done"), "{output:?}");
    let what = format!("log {id}: could not be looked at, and what it holds would be given up");
    assert!(output.stdout.contains(&what) && output.stdout.contains("version 65535"), "{output:?}");
    let output = tool(["recover", "--discard-log", "--yes", &name]);
    assert!(output.printed().contains(&what.replace("would be", "were")), "{output:?}");
    assert_eq!(support::beside(&path), [format!("app.db-pwal.discarded-{id}")]);
}

#[test]
fn a_salvage_says_how_it_is_undone() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 10);
    rot(&path, 4);
    let before = std::fs::read(&path).expect("the database");
    let output = tool(["recover", "--salvage", "--yes", &path.display().to_string()]);
    let text = output.printed();
    assert!(text.contains("commits 1 to 3 were replayed; the pages that they overwrite were kept"), "{text}");
    assert!(text.contains("/undo-salvage.journal") && text.contains("<database>-journal"), "{text}");
    let moved = support::beside(&path);
    assert_eq!(moved.len(), 1, "{moved:?}");
    let undo = path.with_file_name(&moved[0]).join("undo-salvage.journal");
    std::fs::rename(undo, path.with_file_name("app.db-journal")).expect("move");
    let stock = open_stock(&path);
    assert_eq!(number(&stock, "SELECT count(*) FROM sqlite_schema"), 0);
    close(stock);
    // But for the stamp, byte by byte.
    let (mut after, mut plain) = (std::fs::read(&path).expect("the database"), before);
    for bytes in [&mut after, &mut plain] {
        bytes[18..20].fill(0);
        bytes[72..92].fill(0);
    }
    assert!(after == plain, "the file is not what it was");
}

#[test]
fn a_bare_copy_opens_after_its_log_is_given_up() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let copy = scratch.file("copy.db");
    std::fs::copy(&path, &copy).expect("copy");
    let output = tool(["recover", "--discard-log", &copy.display().to_string()]);
    output.refused(1);
    assert!(output.stdout.contains("every commit after 0 would be given up"), "{output:?}");
    let output = tool(["recover", "--discard-log", "--yes", &copy.display().to_string()]);
    assert!(output.printed().contains("there was no log"), "{output:?}");
    assert_plain(&copy);
}

#[test]
fn nothing_is_forced_while_somebody_has_the_database() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, 2);
    for option in ["--salvage", "--discard-log"] {
        tool(["recover", option, "--yes", &path.display().to_string()]).refused(3);
    }
    holder.send("go");
    holder.wait();
    assert_plain(&path);
    assert_eq!(number(&open_stock(&path), "SELECT count(*) FROM t"), 2);
    assert_eq!(tool(["recover", "--salvage", "--discard-log", "x"]).status, Some(2));
}

/// What the library answers to a program is what the tool prints.
#[test]
fn the_library_recovers_salvages_and_discards_too() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, 10);
    let error = pwal::recover(&path).expect_err("it is open");
    assert!(matches!(&error, pwal::RecoverError::InUse(what) if what.code == 5), "{error:?}");
    holder.kill();
    let error = pwal::recover(scratch.file("none.db")).expect_err("it is not there");
    assert!(matches!(&error, pwal::RecoverError::Failed(what) if what.code == 14), "{error:?}");
    let recovery = pwal::recover(&path).expect("a recovery");
    assert_eq!((recovery.commits_replayed, recovery.commits_given_up), (11, 0), "{recovery:?}");
    assert!(
        recovery.pages_written > 0 && recovery.moved_to.is_empty() && recovery.unreadable.is_empty(),
        "{recovery:?}"
    );
    assert_plain(&path);
    assert_eq!(pwal::recover(&path).expect("nothing to do"), pwal::Recovery::default());

    let scratch = Scratch::new();
    let path = crashed(&scratch, 10);
    rot(&path, 4);
    let error = pwal::recover(&path).expect_err("it is damaged");
    assert!(matches!(&error, pwal::RecoverError::Refused(what) if what.done == pwal::Recovery::default()), "{error:?}");
    let id = log_id(&path);
    let recovery = pwal::salvage(&path).expect("a salvage");
    assert_eq!((recovery.commits_replayed, recovery.commits_given_up), (3, 8), "{recovery:?}");
    assert_eq!(recovery.moved_to, [scratch.file(&format!("app.db-pwal.salvaged-{id}"))]);
    assert!(recovery.moved_to[0].is_dir());

    let scratch = Scratch::new();
    let recovery = pwal::discard_log(crashed(&scratch, 10)).expect("without its log");
    assert_eq!(
        (recovery.commits_replayed, recovery.commits_given_up, recovery.pages_written),
        (0, 11, 0),
        "{recovery:?}"
    );
    assert!(recovery.moved_to[0].is_dir(), "{recovery:?}");
}
