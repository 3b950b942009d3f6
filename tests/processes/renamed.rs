//! The directory of a database that is in use, its log's directory or the file itself gets another name (a release that is switched, a
//! backup that is put in its place). What processes have open goes on, and is found under the new name; what is made under
//! the old name is left alone.

use std::path::{Path, PathBuf};
use support::Scratch;
use support::processes::agent::Agent;
use support::scene::{COUNT, create, scene, watchdog};

fn log_directory(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-pwal", path.display()))
}

/// Segments end, a transaction spills, a checkpoint writes, and all is there: `count` rows more each time.
fn live(agent: &mut Agent, count: &mut u64) {
    agent.run("PRAGMA parallel_wal_segment_bytes=262144");
    for _ in 0..3 {
        agent.run("INSERT INTO t VALUES(zeroblob(200000))");
    }
    agent.run("PRAGMA cache_size=10");
    agent.run("PRAGMA parallel_wal_max_batch_bytes=65536");
    agent.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) INSERT INTO t SELECT randomblob(2000) FROM n",
    );
    agent.run("PRAGMA wal_checkpoint");
    agent.run("INSERT INTO t VALUES(1)");
    *count += 204;
    assert_eq!(agent.run(COUNT), count.to_string());
}

/// A directory with a database, which two processes have open.
fn before(scratch: &Scratch) -> (PathBuf, [Agent; 2]) {
    let directory = scratch.file("before");
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("app.db");
    create(&path);
    let mut agents = [Agent::on(&path), Agent::on(&path)];
    for agent in &mut agents {
        agent.run("INSERT INTO t VALUES(0)");
    }
    (path, agents)
}

#[test]
fn who_opens_it_by_its_new_name_shares_it_with_those_that_have_it_open() {
    let _watchdog = watchdog("a renamed directory");
    let scratch = Scratch::new();
    let (old, [mut one, mut other]) = before(&scratch);
    let after = scratch.file("after");
    std::fs::rename(old.parent().unwrap(), &after).unwrap();
    let path = after.join("app.db");
    let mut count = 2;
    live(&mut one, &mut count);
    let mut newcomer = Agent::on(&path);
    assert_eq!(newcomer.run(COUNT), count.to_string());
    live(&mut newcomer, &mut count);
    live(&mut other, &mut count);
    one.kill();
    live(&mut newcomer, &mut count);
    other.end();
    live(&mut newcomer, &mut count);
    newcomer.end();
    assert!(!old.parent().unwrap().exists());
    support::assert_plain(&path);
    assert_eq!(support::number(&support::open_stock(&path), COUNT), count as i64);
}

#[test]
fn a_new_database_under_the_old_name_is_another_one() {
    let _watchdog = watchdog("a new database under the old name");
    let scratch = Scratch::new();
    let (old, [mut one, other]) = before(&scratch);
    let after = scratch.file("after");
    std::fs::rename(old.parent().unwrap(), &after).unwrap();
    std::fs::create_dir(old.parent().unwrap()).unwrap();
    create(&old);
    let (mut count, mut new_count) = (2, 0);
    let mut new = Agent::on(&old);
    live(&mut new, &mut new_count);
    live(&mut one, &mut count);
    // What these delete at their end is theirs. As on stock SQLite, the log stays: another file has its name.
    other.end();
    one.end();
    assert_eq!(support::number(&support::open(&after.join("app.db")), COUNT), count as i64);
    support::assert_plain(&after.join("app.db"));
    let mut second = Agent::on(&old);
    live(&mut second, &mut new_count);
    live(&mut new, &mut new_count);
    new.kill();
    second.end();
    support::assert_plain(&old);
    for (path, count) in [(after.join("app.db"), count), (old, new_count)] {
        assert_eq!(support::number(&support::open_stock(&path), COUNT), count as i64, "{}", path.display());
    }
}

/// A file without its log is refused as it is, and whole as soon as the log is back.
#[test]
fn a_log_that_was_moved_away_is_missed_until_it_is_back() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a log that was moved away");
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    let mut count = 0;
    live(&mut one, &mut count);
    // A connection finds its log with its first statement.
    assert_eq!(other.run(COUNT), count.to_string());
    let away = path.with_file_name("away");
    std::fs::rename(log_directory(&path), &away).unwrap();
    live(&mut other, &mut count);
    live(&mut one, &mut count);
    one.kill();
    other.kill();
    let file = std::fs::read(&path).unwrap();
    let mut next = Agent::start();
    assert_eq!(next.ask(&format!("c .open {}", path.display())), "open");
    assert_eq!(next.ask(&format!("c {COUNT}")), format!("code {}", rusqlite::ffi::SQLITE_CANTOPEN));
    assert!(std::fs::read(&path).unwrap() == file, "a refused file was written");
    // What the attempt has made there.
    if log_directory(&path).exists() {
        std::fs::remove_dir_all(log_directory(&path)).unwrap();
    }
    std::fs::rename(&away, log_directory(&path)).unwrap();
    assert_eq!(next.run(COUNT), count.to_string());
    next.end();
    support::assert_plain(&path);
}

/// The file alone gets another name, and its log does not: those that have it open go on; a process that opens it by that name is refused, and
/// finds all of it when the two are together again. (Stock SQLite opens an old state then.)
#[test]
fn a_file_that_was_renamed_without_its_log_is_refused() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a renamed file");
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    let mut count = 0;
    live(&mut one, &mut count);
    // A connection finds its log with its first statement.
    assert_eq!(other.run(COUNT), count.to_string());
    let renamed = path.with_file_name("renamed.db");
    std::fs::rename(&path, &renamed).unwrap();
    live(&mut other, &mut count);
    let mut newcomer = Agent::start();
    assert_eq!(newcomer.ask(&format!("c .open {}", renamed.display())), "open");
    assert_eq!(newcomer.ask("c .timeout 100"), "ok");
    let refused = newcomer.ask(&format!("c {COUNT}"));
    assert!(refused.starts_with("code "), "{refused}");
    live(&mut one, &mut count);
    one.end();
    other.end();
    assert_eq!(newcomer.ask(&format!("c {COUNT}")), format!("code {}", rusqlite::ffi::SQLITE_CANTOPEN));
    if log_directory(&renamed).exists() {
        std::fs::remove_dir_all(log_directory(&renamed)).unwrap();
    }
    std::fs::rename(log_directory(&path), log_directory(&renamed)).unwrap();
    assert_eq!(newcomer.run(COUNT), count.to_string());
    live(&mut newcomer, &mut count);
    newcomer.end();
    assert_eq!(support::number(&support::open_stock(&renamed), COUNT), count as i64);
}
