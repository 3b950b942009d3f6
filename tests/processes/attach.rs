//! Who comes to a database: the first claims it, the next attach, the last one retires the log; and who is refused, in
//! which words. (How processes stop, die and fork, and who may share: `lives.rs`.)

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::lab::{Call, Gate, Lab, Once, eio};
use support::processes::agent::{self, Agent, wait_for};
use support::scene::{COUNT, scene, watchdog};
use support::{child, library};

fn directory(path: &Path) -> PathBuf {
    path.with_file_name("app.db-pwal")
}

fn version(path: &Path) -> [u8; 2] {
    let bytes = std::fs::read(path).unwrap();
    [bytes[18], bytes[19]]
}

/// The answer to a read by stock SQLite that does not wait.
fn stock_reads(path: &Path) -> i32 {
    let stock = support::open_stock(path);
    stock.busy_timeout(Duration::ZERO).unwrap();
    support::code_of(&stock, COUNT)
}

#[test]
fn the_second_activates_what_the_first_has_only_read() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a second reader");
    let mut first = Agent::on(&path);
    first.run(COUNT);
    assert_eq!(version(&path), [2, 2], "a read writes nothing");
    let mut second = Agent::on(&path);
    second.run(COUNT);
    assert_eq!(version(&path), [0x70, 0x70]);
    first.run("INSERT INTO t VALUES(1)");
    assert_eq!(second.run(COUNT), "1");
    second.end();
    assert_eq!(version(&path), [0x70, 0x70], "the first has it still");
    first.end();
    support::assert_plain(&path);
}

#[test]
fn processes_that_come_and_leave_at_once_are_never_refused_without_a_timeout() {
    let (_scene, path) = scene("coming at once");
    let mut agents: Vec<Agent> = (0..3).map(|_| Agent::start()).collect();
    for _ in 0..30 {
        for agent in &mut agents {
            agent.tell(&format!("c .open {}", path.display()));
            agent.tell("c .timeout 0");
            agent.tell(&format!("c {COUNT}"));
            agent.tell("c .close");
        }
        for agent in &mut agents {
            let answers: Vec<String> = (0..4).map(|_| agent.answer()).collect();
            assert_eq!(answers, ["open", "ok", "0", "closed"]);
        }
    }
    agents.into_iter().for_each(Agent::end);
    support::assert_plain(&path);
}

#[test]
fn processes_that_exit_at_once_without_a_close_leave_a_plain_file() {
    let (_scene, path) = scene("exits at once");
    for round in 1..=5 {
        let mut agents: Vec<Agent> = (0..3).map(|_| Agent::on(&path)).collect();
        for agent in &mut agents {
            agent.run("INSERT INTO t VALUES(1)");
        }
        agents.iter_mut().for_each(|agent| agent.tell("c .exit"));
        agents.into_iter().for_each(Agent::wait);
        if support::on_pwal() {
            support::assert_plain(&path);
        }
        assert_eq!(support::number(&support::open(&path), COUNT), 3 * round);
    }
}

#[test]
fn an_exit_leaves_the_log_to_the_others_and_the_guard_too() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("an exit beside others");
    let (mut first, mut second) = (Agent::on(&path), Agent::on(&path));
    first.run("INSERT INTO t VALUES(1)");
    second.run(COUNT);
    assert!(second.status().contains("EXCL"), "the first has it");
    for killed in [false, true] {
        if killed {
            first.kill();
        } else {
            first.tell("c .exit");
            first.wait();
        }
        // Kept out by the log, until somebody who reads finds that nobody holds EXCLUSIVE.
        wait_for("a new guard", || {
            second.run(COUNT);
            let code = stock_reads(&path);
            assert!([ffi::SQLITE_CANTOPEN, ffi::SQLITE_BUSY].contains(&code), "{code}");
            code == ffi::SQLITE_BUSY
        });
        first = second;
        second = Agent::on(&path);
        second.run(COUNT);
    }
    first.end();
    second.end();
    support::assert_plain(&path);
}

#[test]
fn the_slot_of_a_killed_process_is_given_to_the_next() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a slot");
    let slot_of = |agent: &mut Agent, pid: i32| {
        let status: serde_json::Value = serde_json::from_str(&agent.status()).unwrap();
        let processes = status["processes"].as_array().unwrap().clone();
        processes.iter().find(|process| process["pid"] == pid).map(|process| process["slot"].as_u64().unwrap())
    };
    let (mut first, mut second) = (Agent::on(&path), Agent::on(&path));
    first.run(COUNT);
    second.run(COUNT);
    let killed = first.pid();
    assert_eq!((slot_of(&mut second, killed), slot_of(&mut first, second.pid())), (Some(0), Some(1)));
    // With WRITE, a snapshot and what else is its own.
    first.run("BEGIN IMMEDIATE");
    first.run("INSERT INTO t VALUES('never committed')");
    first.kill();
    let mut third = Agent::on(&path);
    third.ask("c .timeout 200");
    third.run("INSERT INTO t VALUES(1)");
    assert_eq!((slot_of(&mut second, killed), slot_of(&mut second, third.pid())), (None, Some(0)));
    second.run("INSERT INTO t VALUES(2)");
    third.end();
    second.end();
    support::assert_plain(&path);
}

#[test]
fn who_comes_during_a_recovery_waits_and_then_attaches() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a recovery");
    let mut killed = Agent::on(&path);
    killed.run("INSERT INTO t VALUES(1)");
    killed.kill();
    let lab = Lab::new();
    let (reads, goes_on) = (Gate::default(), Gate::default());
    let (reads_there, goes_on_there) = (reads.clone(), goes_on.clone());
    let once = Once::default();
    lab.hook(move |moment| {
        if moment.call == Call::Read && once.first() {
            reads_there.open();
            goes_on_there.pass();
        }
        Ok(())
    });
    let recovering = {
        let (path, vfs) = (path.clone(), lab.vfs.clone());
        std::thread::spawn(move || {
            let connection = support::try_open(&path, support::flags(), &vfs).unwrap();
            assert_eq!(support::number(&connection, COUNT), 1);
            connection
        })
    };
    reads.pass();
    let mut late = Agent::on(&path);
    late.ask("c .timeout 0");
    assert_eq!(late.ask(&format!("c {COUNT}")), "code 5");
    let told = late.log();
    assert!(told.contains("opening or closing the database"), "{told}");
    late.ask("c .timeout 60000");
    late.tell(&format!("c {COUNT}"));
    goes_on.open();
    assert_eq!(late.answer(), "1");
    let recovered: Connection = recovering.join().unwrap();
    support::run(&recovered, "INSERT INTO t VALUES(2)");
    assert_eq!(late.run(COUNT), "2");
    support::close(recovered);
    late.end();
    support::assert_plain(&path);
}

#[test]
fn a_failed_log_is_not_attached_to() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("a failed log");
    let lab = Lab::new();
    let path = lab.path();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let mut other = Agent::on(&path);
    assert_eq!(other.run(COUNT), "1");
    lab.hook(|moment| if moment.call == Call::Sync { Err(eio()) } else { Ok(()) });
    assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(2)") & 0xff, ffi::SQLITE_IOERR);
    lab.unhook();
    let mut late = Agent::on(&path);
    late.ask("c .timeout 100");
    assert_eq!(late.ask(&format!("c {COUNT}")), format!("code {}", ffi::SQLITE_IOERR_FSYNC));
    let told = late.log();
    assert!(told.contains("has failed") && told.contains(&other.pid().to_string()), "{told}");
    drop(connection);
    other.close();
    late.ask("c .timeout 10000");
    assert_eq!(late.run(COUNT), "1", "when all have closed it is recovered");
    late.end();
    other.end();
    support::assert_plain(&path);
}

#[test]
fn leaving_wal_mode_is_for_the_only_process() {
    let (_scene, path) = scene("journal_mode");
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    one.run("INSERT INTO t VALUES(1)");
    assert_eq!(other.run(COUNT), "1");
    one.ask("c .timeout 100");
    one.log();
    assert_eq!(one.ask("c PRAGMA journal_mode=DELETE"), "code 5");
    if support::on_pwal() {
        let told = one.log();
        assert!(told.contains(&other.pid().to_string()) && told.contains("leave WAL mode"), "{told}");
    }
    other.run("INSERT INTO t VALUES(2)");
    other.end();
    if !support::on_pwal() {
        // Stock SQLite loses the second row below: it goes on with its cache of the time before.
        one.run(COUNT);
    }
    assert_eq!(one.run("PRAGMA journal_mode=DELETE"), "delete");
    one.run("INSERT INTO t VALUES(3)");
    // Both on rollback journals, then in WAL mode again.
    let mut other = Agent::on(&path);
    other.run("INSERT INTO t VALUES(4)");
    assert_eq!(one.run("SELECT x FROM t"), "1 2 3 4");
    support::assert_plain_header(&path, 1);
    one.ask("c .timeout 10000");
    assert_eq!(one.run("PRAGMA journal_mode=WAL"), "wal");
    other.run("INSERT INTO t VALUES(5)");
    assert_eq!(one.run(COUNT), "5");
    // A close asks as leaving does, and is not told.
    other.log();
    other.close();
    assert_eq!(other.log(), "");
    other.end();
    one.end();
    support::assert_plain(&path);
}

#[test]
fn the_last_one_leaves_the_log_if_its_connection_wants_no_checkpoint() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("no checkpoint");
    let mut other = Agent::on(&path);
    other.run("INSERT INTO t VALUES(1)");
    let connection = support::open(&path);
    support::run(&connection, "INSERT INTO t VALUES(2)");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    other.end();
    support::close(connection);
    assert_eq!(version(&path), [0x70, 0x70]);
    assert!(directory(&path).join("lock").exists());
    let connection = support::open(&path);
    assert_eq!(support::number(&connection, COUNT), 2);
    support::close(connection);
    support::assert_plain(&path);
}

#[test]
fn the_environment_speaks_where_the_database_is_claimed() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("settings");
    let with = |lanes: u32| {
        let mut agent = Agent::start_with(&[("PWAL_LANES", lanes.to_string())]);
        agent.open("c", &path);
        agent
    };
    let lanes = |agent: &mut Agent| {
        agent.run(COUNT);
        agent.run("PRAGMA parallel_wal_lanes")
    };
    let (mut first, mut second) = (with(3), with(5));
    assert_eq!(lanes(&mut first), "3");
    assert_eq!(lanes(&mut second), "3");
    // A URI parameter and a pragma count whenever they come, for all.
    second.ask(&format!("uri .open file:{}?parallel_wal_lanes=7", path.display()));
    second.ask(&format!("uri {COUNT}"));
    assert_eq!(lanes(&mut first), "7");
    let mut third = with(9);
    assert_eq!(third.run("PRAGMA parallel_wal_lanes=2"), "2");
    assert_eq!(lanes(&mut first), "7", "it has not read the database yet");
    assert_eq!(lanes(&mut third), "2");
    assert_eq!((lanes(&mut first), lanes(&mut second)), (String::from("2"), String::from("2")));
    for agent in [first, second, third] {
        agent.end();
    }
    support::assert_plain(&path);
}

#[test]
fn where_the_words_cannot_be_shared_one_process_has_the_database() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("one process");
    // Nothing can be put there.
    std::fs::create_dir_all(directory(&path).join("control/in the way")).unwrap();
    let mut first = Agent::on(&path);
    first.run("INSERT INTO t VALUES(1)");
    let told = first.log();
    assert!(told.contains("for this process alone") && told.contains("control"), "{told}");
    let mut second = Agent::on(&path);
    second.ask("c .timeout 100");
    assert_eq!(second.ask(&format!("c {COUNT}")), "code 5");
    let told = second.log();
    assert!(told.contains("for itself alone"), "{told}");
    first.run("INSERT INTO t VALUES(2)");
    first.kill();
    std::fs::remove_dir_all(directory(&path).join("control")).unwrap();
    second.ask("c .timeout 10000");
    assert_eq!(second.run(COUNT), "2");
    second.end();
    support::assert_plain(&path);
}

#[test]
fn a_read_only_connection_attaches_and_keeps_nobody_out() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("read-only connections");
    let uri = format!("file:{}?mode=ro", path.display());
    let (mut writer, mut reader) = (Agent::on(&path), Agent::start());
    writer.run("INSERT INTO t VALUES(1)");
    reader.open("c", uri.as_ref());
    assert_eq!(reader.run(COUNT), "1");
    writer.run("INSERT INTO t VALUES(2)");
    assert_eq!(reader.run(COUNT), "2");
    assert_eq!(reader.ask("c INSERT INTO t VALUES(3)"), format!("code {}", ffi::SQLITE_READONLY));
    // It goes on when the writer has gone.
    writer.close();
    assert_eq!(reader.run(COUNT), "2");
    reader.close();
    support::assert_plain(&path);
    // First, and nobody has a log.
    reader.open("c", uri.as_ref());
    assert_eq!(reader.run(COUNT), "2");
    writer.open("c", &path);
    writer.run("INSERT INTO t VALUES(3)");
    assert_eq!(reader.run(COUNT), "3");
    writer.end();
    reader.end();
    support::assert_plain(&path);
}

#[test]
fn who_may_only_read_the_file_is_told_what_is_missing() {
    if !support::on_pwal() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("not played: only root can be several users");
        return;
    }
    let (scene, path) = scene("a user who may only read");
    let program = scene.scratch.file("program");
    library::copy_program(&std::env::current_exe().unwrap(), &program);
    for (path, mode) in [(scene.scratch.path(), 0o755), (&program, 0o755), (&path, 0o644)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let mut owner = Agent::on(&path);
    owner.run("INSERT INTO t VALUES(1)");
    let mut command = std::process::Command::new(&program);
    command.uid(61_001).gid(61_001);
    let mut reader = Agent::of(child::start_by(command, agent::ROLE, &[]));
    reader.open("c", &path);
    assert_eq!(reader.ask(&format!("c {COUNT}")), format!("code {}", ffi::SQLITE_CANTOPEN));
    let told = reader.log();
    assert!(told.contains("must be able to write to it and to its log directory"), "{told}");
    owner.run("INSERT INTO t VALUES(2)");
    reader.end();
    owner.end();
    support::assert_plain(&path);
}

#[test]
fn a_connection_that_has_read_nothing_leaves_wal_mode_when_the_others_have_gone() {
    let (_scene, path) = scene("a first statement");
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    one.run("INSERT INTO t VALUES(1)");
    assert_eq!(other.ask("c PRAGMA journal_mode=DELETE"), "code 5");
    one.run("CREATE TABLE u(x)");
    one.run("INSERT INTO u VALUES(zeroblob(20000))");
    one.run("INSERT INTO t VALUES(2)");
    one.end();
    assert_eq!(other.run("PRAGMA journal_mode=DELETE"), "delete");
    other.run("INSERT INTO t VALUES(3)");
    assert_eq!(other.run("SELECT x FROM t"), "1 2 3");
    assert_eq!(other.run("SELECT length(x) FROM u"), "20000");
    other.end();
    support::assert_plain_header(&path, 1);
    let stock = support::open_stock(&path);
    support::assert_integrity(&stock);
    assert_eq!(support::text(&stock, "SELECT x FROM t"), "1 2 3");
}
