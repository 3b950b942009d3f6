//! The log gives back the space that it does not need, while processes stay attached.
//!
//! Segments have 256 KiB here, so that a log of a few megabytes has many.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};

const SMALL: &str = "PRAGMA parallel_wal_segment_bytes=262144";
/// What the tail and the next segment may take, and one that waits for a certificate.
const SEGMENT_BYTES: u64 = 262_144;

fn log_directory(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-pwal", path.display()))
}

/// The segments in the log directory and the bytes that they take on the disk.
fn segments(path: &Path) -> (usize, u64) {
    let entries = std::fs::read_dir(log_directory(path)).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.ends_with(".seg")));
    // A file that goes just now counts for nothing.
    let bytes: Vec<u64> = files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).collect();
    (bytes.len(), bytes.iter().sum())
}

/// The highest number of a segment.
fn highest(path: &Path) -> u32 {
    let entries = std::fs::read_dir(log_directory(path)).unwrap().map(|entry| entry.unwrap().file_name());
    let numbers = entries.filter_map(|name| name.to_str()?.strip_suffix(".seg")?.split_once('-')?.1.parse().ok());
    numbers.max().unwrap()
}

/// Deleted files that this process still has open.
fn deleted_but_open(pid: i32) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let links = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    links.filter(|link| link.to_string_lossy().ends_with(".seg (deleted)")).count()
}

/// A megabyte or two of commits that replace each other.
fn write_much(writer: &mut Agent, rounds: usize) {
    for _ in 0..rounds {
        writer.run("INSERT INTO t VALUES(randomblob(60000))");
        writer.run("DELETE FROM t WHERE rowid % 2 = 0");
    }
}

/// A reader, and a writer whose log has grown to 20 segments and more beside it.
fn pinned(path: &Path) -> (Agent, Agent) {
    let (mut reader, mut writer) = (Agent::on(path), Agent::on(path));
    writer.run(SMALL);
    writer.run("PRAGMA wal_autocheckpoint=100");
    writer.run("INSERT INTO t VALUES(1)");
    reader.run("BEGIN");
    reader.run(COUNT);
    write_much(&mut writer, 60);
    let (count, bytes) = segments(path);
    assert!(count > 20 && bytes > 20 * SEGMENT_BYTES * 8 / 10, "{count} segments of {bytes} bytes");
    (reader, writer)
}

#[test]
fn truncate_gives_back_what_a_reader_has_kept_and_every_process_goes_on() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("TRUNCATE behind a long reader");
    let (mut reader, mut writer) = pinned(&path);
    let mut idle = Agent::on(&path);
    let rows = writer.run(COUNT);
    assert_eq!(idle.run(COUNT), rows);
    assert_eq!(reader.run(COUNT), "1", "its snapshot stays");
    assert_eq!(&writer.run("PRAGMA wal_checkpoint(TRUNCATE)")[..1], "1", "the reader is there");
    assert_eq!(reader.run(COUNT), "1", "its snapshot stays");
    reader.run("COMMIT");
    assert_eq!(writer.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    let (count, bytes) = segments(&path);
    assert!(count <= 2 && bytes <= 2 * SEGMENT_BYTES, "{count} segments of {bytes} bytes are left");
    // Those that have the segments open go on, and let go of them with their next read of something new.
    writer.run("INSERT INTO t VALUES(2)");
    let rows = writer.run(COUNT);
    for agent in [&mut reader, &mut idle, &mut writer] {
        assert_eq!(agent.run(COUNT), rows);
        assert_eq!(agent.run("PRAGMA integrity_check"), "ok");
        assert_eq!(deleted_but_open(agent.pid()), 0);
    }
    // The log that is left can be recovered.
    for agent in [reader, idle, writer] {
        agent.kill();
    }
    support::processes::log::assert_sound(&path);
    let mut next = Agent::on(&path);
    assert_eq!((next.run(COUNT), next.run("PRAGMA integrity_check")), (rows, String::from("ok")));
    next.end();
    support::assert_plain(&path);
}

/// Nobody asks for anything.
#[test]
fn an_idle_log_goes_down_to_what_a_load_needs() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("an idle log behind a long reader");
    let (mut reader, writer) = pinned(&path);
    reader.run("COMMIT");
    let deadline = Instant::now() + Duration::from_secs(60);
    while segments(&path).0 > 3 {
        assert!(Instant::now() < deadline, "{:?} segments and bytes are left", segments(&path));
        std::thread::sleep(Duration::from_millis(20));
    }
    writer.end();
    reader.end();
    support::assert_plain(&path);
}

/// A writer that never rests: each checkpoint gives a part back, until the log has what the load needs; and then no more
/// files are made and deleted.
#[test]
fn a_busy_log_gives_back_what_its_load_does_not_need_and_then_stays() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a busy log behind a long reader");
    let (mut reader, mut writer) = pinned(&path);
    reader.run("COMMIT");
    let deadline = Instant::now() + Duration::from_secs(60);
    while segments(&path).0 > 8 {
        assert!(Instant::now() < deadline, "{:?} segments and bytes are left", segments(&path));
        write_much(&mut writer, 5);
    }
    let before = highest(&path);
    let rounds = 250;
    write_much(&mut writer, rounds);
    // The log may grow where a checkpoint is late; but most segments begin in segment files that were there.
    let (made, segments) = (u64::from(highest(&path) - before), rounds as u64 * 60_000 / SEGMENT_BYTES);
    assert!(made <= segments / 4, "{made} segment files were made anew for {segments} segments");
    writer.end();
    reader.end();
    support::assert_plain(&path);
}

#[test]
fn journal_size_limit_bounds_what_an_idle_log_keeps() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("journal_size_limit");
    let mut agent = Agent::start();
    agent.open("c", &path);
    assert_eq!(agent.run("PRAGMA journal_size_limit=600000"), "600000");
    agent.run(SMALL);
    agent.run("PRAGMA wal_autocheckpoint=100");
    write_much(&mut agent, 20);
    let deadline = Instant::now() + Duration::from_secs(60);
    while segments(&path).1 > 600_000 {
        assert!(Instant::now() < deadline, "{:?} segments and bytes are left", segments(&path));
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.end();
}

/// Who deletes segments dies on the way: alone, and beside one that goes on.
#[cfg(debug_assertions)]
fn dies_while_it_deletes(point: &str, pass: u32) {
    let (_scene, path) = scene(&format!("a death while segments are deleted: {point}, {pass}"));
    let (mut reader, mut writer) = pinned(&path);
    reader.run("COMMIT");
    let rows = writer.run(COUNT);
    let mut victim = Agent::start_with(&[("PWAL_TEST_DIE_AT", format!("{point}:{pass}"))]);
    victim.open("c", &path);
    assert_eq!(victim.run(COUNT), rows);
    victim.tell("c PRAGMA wal_checkpoint(TRUNCATE)");
    victim.wait_killed();
    for agent in [&mut reader, &mut writer] {
        assert_eq!((agent.run(COUNT), agent.run("PRAGMA integrity_check")), (rows.clone(), String::from("ok")));
    }
    writer.run("INSERT INTO t VALUES(2)");
    let rows = writer.run(COUNT);
    // What it left is deleted by the next.
    assert_eq!(writer.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    assert!(segments(&path).0 <= 2, "{:?} segments and bytes are left", segments(&path));
    assert_eq!(reader.run(COUNT), rows);

    // And all die: what is left is a log that is valid.
    write_much(&mut writer, 20);
    let rows = writer.run(COUNT);
    let mut victim = Agent::start_with(&[("PWAL_TEST_DIE_AT", format!("{point}:1"))]);
    victim.open("c", &path);
    assert_eq!(victim.run(COUNT), rows);
    reader.kill();
    writer.signal(rustix::process::Signal::STOP);
    victim.tell("c PRAGMA wal_checkpoint(TRUNCATE)");
    victim.wait_killed();
    writer.kill();
    support::processes::log::assert_sound(&path);
    let mut next = Agent::on(&path);
    assert_eq!((next.run(COUNT), next.run("PRAGMA integrity_check")), (rows, String::from("ok")));
    next.end();
    support::assert_plain(&path);
}

#[test]
#[cfg(debug_assertions)]
fn who_deletes_segments_may_die_on_the_way() {
    if support::on_pwal() {
        for point in ["deleting", "truncated"] {
            dies_while_it_deletes(point, 1);
            dies_while_it_deletes(point, 5);
        }
    }
}

/// A segment that is truncated and has its name still is open in another process, which knows how large it was.
#[test]
#[cfg(debug_assertions)]
fn a_truncated_segment_is_not_used_again() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a truncated segment");
    let (mut reader, mut writer) = pinned(&path);
    reader.run("COMMIT");
    let rows = writer.run(COUNT);
    let mut victim = Agent::start_with(&[("PWAL_TEST_DIE_AT", String::from("truncated:3"))]);
    victim.open("c", &path);
    assert_eq!(victim.run(COUNT), rows);
    victim.tell("c PRAGMA wal_checkpoint(TRUNCATE)");
    victim.wait_killed();
    writer.run("PRAGMA wal_autocheckpoint=0");
    write_much(&mut writer, 40);
    let rows = writer.run(COUNT);
    writer.kill();
    reader.kill();
    support::processes::log::assert_sound(&path);
    let mut next = Agent::on(&path);
    assert_eq!((next.run(COUNT), next.run("PRAGMA integrity_check")), (rows, String::from("ok")));
    next.end();
    support::assert_plain(&path);
}

/// Calls of the kernel that read, of this process so far.
#[cfg(target_os = "linux")]
fn reads(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

/// Twice as many commits as the commit ring holds: half of them must be read.
#[test]
#[cfg(target_os = "linux")]
fn who_attaches_behind_a_long_log_reads_it_in_large_pieces() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a process that attaches behind a long log");
    let mut writer = Agent::on(&path);
    writer.run("PRAGMA wal_autocheckpoint=0");
    writer.run("PRAGMA synchronous=NORMAL");
    let commits = 16_384;
    for commit in 0..commits {
        writer.run(&format!("INSERT INTO t VALUES({commit})"));
    }
    let mut late = Agent::on(&path);
    let before = reads(late.pid());
    assert_eq!(late.run(COUNT), commits.to_string());
    let (_, bytes) = segments(&path);
    let (read, pieces) = (reads(late.pid()) - before, bytes / (64 << 10));
    assert!(read < 500 + 2 * pieces, "{read} reads for {pieces} pieces of 64 KiB");
    writer.end();
    late.end();
}

/// Where nobody wants durability, no more than a few segments are written that are not durable: a later commit that does would
/// wait for all of them.
#[test]
fn what_is_not_durable_is_bounded_in_bytes() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("undurable bytes");
    let writer = support::open(&path);
    support::run(&writer, &format!("{SMALL}; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL"));
    let reader = support::open(&path);
    support::run(&reader, "BEGIN");
    support::number(&reader, COUNT);
    let durable = || {
        let status: String = writer.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).expect("status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["checkpoints"], 0, "a checkpoint makes all durable, too");
        status["durable"].as_u64().expect("a commit")
    };
    let first = durable();
    // Far fewer commits than the ring holds, one after the other: the log is never idle.
    let mut commits = 0;
    while durable() == first {
        commits += 1;
        assert!(commits < 400, "{commits} segments and more are not durable");
        support::run(&writer, "INSERT INTO t VALUES(zeroblob(120000))");
    }
    assert!(commits > 2, "{commits} commits");
}

/// A reader of a table that does not fit its cache, and a writer beside it.
fn reader_of_much(path: &Path) -> (Agent, Agent) {
    let (mut reader, mut writer) = (Agent::on(path), Agent::on(path));
    writer.run(SMALL);
    writer.run("PRAGMA wal_autocheckpoint=100");
    writer.run("CREATE TABLE much AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300) SELECT i, randomblob(3000) x FROM n");
    reader.run("PRAGMA cache_size=5");
    reader.run("BEGIN");
    reader.run(COUNT);
    (reader, writer)
}

const SUM: &str = "SELECT count(*), sum(length(x)) FROM much";

#[test]
fn a_log_that_has_reached_its_limit_refuses_commits_and_names_the_reader() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("parallel_wal_log_limit_bytes");
    let (mut reader, mut writer) = reader_of_much(&path);
    let limit = 5_000_000;
    assert_eq!(writer.run(&format!("PRAGMA parallel_wal_log_limit_bytes={limit}")), limit.to_string());
    let insert = "c INSERT INTO t VALUES(randomblob(60000))";
    let refused = (0..400).find_map(|_| Some(writer.ask(insert)).filter(|answer| answer.starts_with("code ")));
    assert_eq!(refused.as_deref(), Some("code 13"));
    let log = writer.log();
    let named = format!("process {} (", reader.pid());
    assert!(log.contains(&named) && log.contains("parallel_wal_log_limit_bytes"), "{log}");
    assert!(segments(&path).1 <= limit, "{:?} segments and bytes", segments(&path));
    // The reader reads what it has read, and when it has ended, the writer goes on.
    assert_eq!(reader.run(SUM), "300|900000");
    reader.run("COMMIT");
    assert_eq!(&writer.run("PRAGMA wal_checkpoint")[..2], "0|");
    for _ in 0..100 {
        writer.run(&insert[2..]);
    }
    writer.end();
    reader.end();
    support::assert_plain(&path);
}

#[test]
fn a_reader_that_keeps_a_log_of_its_limit_loses_its_snapshot() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("parallel_wal_reader_limit_bytes");
    let (mut reader, mut writer) = reader_of_much(&path);
    let mut idle = Agent::on(&path);
    idle.run(COUNT);
    let limit = 5_000_000;
    writer.run(&format!("PRAGMA parallel_wal_reader_limit_bytes={limit}"));
    let mut most = 0;
    for commit in 0..300 {
        writer.run("INSERT INTO t VALUES(randomblob(60000))");
        if commit % 10 == 0 {
            writer.run("UPDATE much SET x = randomblob(3000)");
        }
        most = most.max(segments(&path).1);
    }
    let log = writer.log();
    assert!(log.contains(&format!("process {} (", reader.pid())) && log.contains("its snapshot ends here"), "{log}");
    assert!(most < 3 * limit, "the log had {most} bytes");
    // Not a row of another state: an error, until the transaction has ended.
    assert_eq!(reader.ask(&format!("c {SUM}")), "code 517");
    assert_eq!(reader.ask("c INSERT INTO t VALUES(1)"), "code 517");
    reader.run("ROLLBACK");
    assert_eq!(reader.run(SUM), "300|900000");
    assert_eq!(reader.run(COUNT), writer.run(COUNT));
    assert_eq!(reader.run("PRAGMA integrity_check"), "ok");
    for agent in [reader, writer, idle] {
        agent.end();
    }
    support::assert_plain(&path);
}
