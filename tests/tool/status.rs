//! `pwal status`

use super::{contents, crashed, hold, tool};
use crate::common::{Scratch, close, open_stock, open_wal, run};
use pwal::shared::{Control, State};

#[test]
fn it_says_who_has_the_database_open_and_disturbs_nobody() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, 5);
    let before = contents(scratch.path());
    let output = tool(["status".as_ref(), path.as_os_str()]);
    let text = output.printed();
    assert!(text.contains("open through pwal\n"), "{text}");
    assert!(text.contains("stamped by log"), "{text}");
    assert!(text.contains("1 slot, 1 MiB"), "{text}");
    if cfg!(target_os = "linux") {
        assert!(text.contains(&format!("process {} (", holder.pid())), "{text}");
    }
    assert_eq!(contents(scratch.path()), before);
    holder.kill();
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("closed by a crash"), "{text:?}");
}

#[test]
fn a_closed_database_is_told_so() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x)");
    close(connection);
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("plain, WAL mode"), "{text:?}");
    assert!(text.printed().contains("not open through pwal; pwal takes it"), "{text:?}");
    let stock = open_stock(&path);
    run(&stock, "PRAGMA journal_mode=DELETE");
    close(stock);
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("plain, rollback mode"), "{text:?}");
    std::fs::write(scratch.file("empty.db"), "").expect("write");
    assert!(tool(["status".as_ref(), scratch.file("empty.db").as_os_str()]).printed().contains("no database yet"));
}

#[test]
fn marks_come_from_the_shared_words_where_they_are_a_file() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let _holder = hold(&path, 5);
    let words = Control::anonymous().expect("memory");
    words.words().set_identity(&pwal::shared::Identity {
        boot_id: 1,
        log_id: 2,
        device: 3,
        inode: 4,
        generation: 5,
        block_bytes: 4096,
    });
    let control = path.with_file_name("app.db-pwal").join("control");
    let made = Control::create(&control, 0o600, &words).expect("control");
    assert_eq!(made.words().state(), State::Ready);
    let text = tool(["status".as_ref(), path.as_os_str()]);
    assert!(text.printed().contains("published 0, visible 0, backfilled 0"), "{text:?}");
    // What is no control is not believed.
    std::fs::write(&control, "nonsense").expect("write");
    assert!(!tool(["status".as_ref(), path.as_os_str()]).printed().contains("published"));
}

#[test]
fn a_crash_behind_a_symlink_is_found() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 3);
    let link = scratch.file("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a symlink");
    let text = tool(["status".as_ref(), link.as_os_str()]);
    assert!(text.printed().contains("closed by a crash"), "{text:?}");
    assert!(text.printed().contains("app.db-pwal"), "{text:?}");
}
