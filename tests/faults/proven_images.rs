//! A checkpoint proves each image before it writes any: what the medium has changed never reaches the database file.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};

/// In the image of one page only.
const MARKER: &[u8] = b"the image that rots lies around here";

fn segment_files(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("{}-pwal", path.display())).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

/// Changes the last byte of the last marker in the log.
fn rot(path: &Path) {
    let changed = segment_files(path).into_iter().filter(|segment| {
        let bytes = std::fs::read(segment).unwrap();
        let Some(at) = bytes.windows(MARKER.len()).rposition(|window| window == MARKER) else { return false };
        let at = at + MARKER.len() - 1;
        let file = std::fs::File::options().write(true).open(segment).unwrap();
        file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
        true
    });
    assert_eq!(changed.count(), 1, "the marker lies in one segment");
}

fn insert(agent: &mut Agent) {
    agent.run(&format!("INSERT INTO t VALUES('{}')", String::from_utf8_lossy(MARKER)));
}

/// `checkpointer` is told of the damage, and nothing of the pass is in the database file; nor does a recovery take it.
fn is_refused(path: &Path, mut checkpointer: Agent, others: Vec<Agent>) {
    rot(path);
    let before = std::fs::read(path).unwrap();
    assert_eq!(checkpointer.ask("c PRAGMA wal_checkpoint"), "code 8202");
    assert!(checkpointer.log().contains("does not fit its checksum"));
    assert!(std::fs::read(path).unwrap() == before, "the database file is as it was");
    // The next failure in a row ends the engine, with what is durable in the log.
    let again = checkpointer.ask("c PRAGMA wal_checkpoint");
    assert!(again.starts_with("code "), "{again}");
    assert!(checkpointer.status().contains("does not fit its checksum"), "it is poisoned, and says why");
    for agent in others {
        agent.kill();
    }
    checkpointer.kill();
    assert!(std::fs::read(path).unwrap() == before, "the database file is as it was");
    let mut next = Agent::on(path);
    assert_eq!(next.ask(&format!("c {COUNT}")), "code 11", "a durable commit is damaged: {}", next.log());
    assert!(std::fs::read(path).unwrap() == before, "the database file is as it was");
    next.kill();
}

#[test]
fn an_image_of_this_process_that_has_changed_is_refused() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("an image that rots");
    let mut agent = Agent::on(&path);
    agent.run("PRAGMA wal_autocheckpoint=0");
    agent.run("INSERT INTO t SELECT randomblob(3000) FROM sqlite_schema, (SELECT 1 UNION SELECT 2 UNION SELECT 3)");
    insert(&mut agent);
    is_refused(&path, agent, Vec::new());
}

/// Its commit ring entry names the pages, and no checksum.
#[test]
fn an_image_of_another_process_that_has_changed_is_refused() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("an image of another process that rots");
    let (mut writer, mut checkpointer) = (Agent::on(&path), Agent::on(&path));
    for agent in [&mut writer, &mut checkpointer] {
        agent.run("PRAGMA wal_autocheckpoint=0");
        agent.run(COUNT);
    }
    writer.run("INSERT INTO t VALUES(1)");
    insert(&mut writer);
    assert_eq!(checkpointer.run(COUNT), "2");
    is_refused(&path, checkpointer, vec![writer]);
}

/// Pages of both sizes of pass, of this process and of another one.
#[test]
fn what_has_not_changed_is_proven_and_written() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("images that are valid");
    let (mut writer, mut checkpointer) = (Agent::on(&path), Agent::on(&path));
    for agent in [&mut writer, &mut checkpointer] {
        agent.run("PRAGMA wal_autocheckpoint=0");
        agent.run(COUNT);
    }
    // 40 MB, then small ones by both.
    let much = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<10000)
                SELECT randomblob(3900) FROM n";
    for rounds in [1, 0] {
        for _ in 0..rounds {
            writer.run(much);
        }
        for _ in 0..50 {
            writer.run("INSERT INTO t VALUES(randomblob(100))");
            checkpointer.run("INSERT INTO t VALUES(randomblob(100))");
        }
        let answer = checkpointer.run("PRAGMA wal_checkpoint");
        let [busy, log, done] = answer.split('|').collect::<Vec<_>>()[..] else { panic!("{answer}") };
        assert!(busy == "0" && log == done, "{answer}");
        assert_eq!(checkpointer.run("PRAGMA integrity_check"), "ok");
    }
    writer.end();
    checkpointer.end();
    support::assert_plain(&path);
    let stock = support::open_stock(&path);
    assert_eq!(
        (support::text(&stock, COUNT), support::text(&stock, "PRAGMA integrity_check")),
        ("10200".into(), "ok".into())
    );
}
