//! `pwal status`

use super::{FEW, contents, crashed, hold, tool, wait_until};
use pwal::internal::disk::Directory;
use pwal::internal::shared::{ALIVE_BYTE, ControlMapping, Identity, LockFile, State, now_us};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::Path;
use support::{Scratch, child, close, open_stock, open_wal, run};

fn json_of(path: &Path) -> Value {
    let output = tool(["status", "--json", &path.display().to_string()]);
    serde_json::from_str(output.printed()).expect("JSON")
}

#[test]
fn it_says_who_has_the_database_open_and_disturbs_nobody() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, FEW);
    let before = contents(scratch.path());
    let output = tool(["status".as_ref(), path.as_os_str()]);
    let text = output.printed();
    assert!(text.contains("open through pwal\n"), "{text}");
    assert!(text.contains("stamped by log"), "{text}");
    assert!(text.contains("1 segment, 256 KiB"), "{text}");
    let row = text.lines().skip_while(|line| !line.starts_with("attached ")).nth(1).expect("a row");
    let pid = holder.pid().to_string();
    assert!(row.trim_start().starts_with(&pid) && row.contains(" commands-"), "{text}");
    // Named once: who is joined is not one more process that has the file open.
    assert_eq!(text.matches(&pid).count(), 1, "{text}");
    let json = json_of(&path);
    assert_eq!((&json["open_through_pwal"], &json["marks"]["published"]), (&json!(true), &json!(FEW + 1)));
    let process = &json["processes"][0];
    assert_eq!((&process["pid"], &process["alive"], &process["slot"]), (&json!(holder.pid()), &json!(true), &json!(0)));
    assert_eq!(process["waiting_for_us"], Value::Null);
    assert!(!process["holding"].to_string().contains("WRITE"), "{json}");
    assert!(process["attached_for_us"].as_u64() > Some(0), "{json}");
    if cfg!(target_os = "linux") {
        assert_eq!(json["open_in"].as_array().map(Vec::len), Some(1), "{json}");
        assert_eq!((&json["open_in"][0]["pid"], &json["open_in"][0]["through_pwal"]), (&process["pid"], &json!(true)));
    }
    assert_eq!(contents(scratch.path()), before);
    holder.kill();
    assert_eq!(json_of(&path)["processes"], Value::Null);
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
fn marks_mode_and_readers_come_from_the_shared_words() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    let status = || tool(["status".as_ref(), path.as_os_str()]).printed().to_owned();
    run(&connection, "SELECT * FROM sqlite_schema");
    let text = status();
    assert!(text.contains("nothing committed yet"), "{text}");
    assert!(text.lines().last().is_some_and(|row| row.contains(&std::process::id().to_string())), "{text}");
    run(&connection, "PRAGMA synchronous=FULL; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let text = status();
    assert!(text.contains("published 2, visible 2, durable 2, in the database file 0\n"), "{text}");
    assert!(text.contains("mode       auto\n") && !text.contains("reading"), "{text}");
    run(&connection, "PRAGMA parallel_wal_mode=conservative; BEGIN; SELECT * FROM t");
    let writer = open_wal(&path);
    run(&writer, "INSERT INTO t VALUES(2)");
    let text = status();
    assert!(text.contains("mode       conservative\n"), "{text}");
    assert!(text.contains(&format!("1 transaction; the oldest: {} (commands-", std::process::id())), "{text}");
    // What is no control is not believed.
    let mapping = path.with_file_name("app.db-pwal").join("control");
    // A new file: the old one is mapped.
    std::fs::remove_file(&mapping).and_then(|()| std::fs::write(&mapping, "nonsense")).expect("replace");
    assert!(!status().contains("published"), "{}", status());
}

/// What it says that a reader keeps is given back when that one ends.
#[test]
fn the_oldest_reader_is_named_with_what_it_keeps() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let writer = open_wal(&path);
    run(
        &writer,
        "PRAGMA parallel_wal_segment_bytes=262144; PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=0; CREATE TABLE t(x)",
    );
    let insert = || run(&writer, "INSERT INTO t VALUES(zeroblob(200000))");
    let mut reader = play(&path, "BEGIN; SELECT * FROM t");
    reader.expect("done");
    let inside = || -> Value {
        let text: String = writer.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).expect("the state");
        serde_json::from_str::<Value>(&text).expect("JSON")["oldest_reader"].clone()
    };
    let outside = || json_of(&path)["marks"]["oldest_reader"].clone();
    let kept = |of: &Value| of["kept_bytes"].as_u64().unwrap_or_else(|| panic!("{of:#}"));
    insert();
    let snapshot = outside()["snapshot"].clone();
    for _ in 0..20 {
        insert();
    }
    let log_bytes = || json_of(&path)["log"]["bytes"].as_u64().expect("a size");
    let before = log_bytes();
    for seen in [inside(), outside()] {
        assert_eq!((&seen["pid"], &seen["snapshot"]), (&json!(reader.pid()), &snapshot), "{seen:#}");
        assert!(seen["command"].as_str().is_some_and(|command| command.starts_with("commands-")), "{seen:#}");
        assert!((19 * 262_144..before).contains(&kept(&seen)), "{seen:#}");
    }
    let was_kept = kept(&outside());
    assert_eq!(kept(&inside()), was_kept);
    let text = tool(["status".as_ref(), path.as_os_str()]);
    let named = format!("the oldest: {} (commands-", reader.pid());
    assert!(text.printed().contains(&named) && text.printed().contains(" of the log\n"), "{text:?}");
    // One that has seen everything keeps nothing.
    let late = open_wal(&path);
    run(&late, "BEGIN; SELECT count(*) FROM t");
    reader.end_input();
    assert!(reader.wait().success());
    assert_eq!((&inside()["pid"], kept(&inside())), (&json!(std::process::id()), 0));
    assert_eq!(kept(&outside()), 0);
    run(&late, "COMMIT");
    assert_eq!((inside(), outside()), (Value::Null, Value::Null));
    writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    let given = before - log_bytes();
    assert!(given >= was_kept, "{given} bytes of {was_kept}");
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

#[test]
fn a_connection_tells_who_is_attached() {
    let scratch = Scratch::new();
    let connection = open_wal(&scratch.file("app.db"));
    run(&connection, "CREATE TABLE t(x); BEGIN; SELECT * FROM t");
    let status: String = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).expect("the state");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let process = &status["processes"][0];
    assert_eq!(status["processes"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!((&process["pid"], &process["alive"]), (&json!(std::process::id()), &json!(true)));
    assert_eq!((&process["transactions"], &process["oldest_snapshot"]), (&json!(1), &json!(1)));
    assert!(process["command"].as_str().is_some_and(|command| command.starts_with("commands-")), "{status}");
}

/// Slots, snapshots and owner locks as several processes leave them, by hand.
#[cfg(target_os = "linux")]
#[test]
fn several_processes_have_a_row_each_and_a_killed_one_is_told() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    std::fs::write(&path, "").expect("a database");
    let log = scratch.file("app.db-pwal");
    std::fs::create_dir(&log).expect("a directory");
    let directory = Directory::open(&log).expect("the log");
    let identity = Identity { boot_id: 1, log_id: 2, device: 3, inode: 4, block_bytes: 4096 };
    let mapping = ControlMapping::create(&directory, 0o600).expect("a control");
    let control = mapping.control();
    control.set_identity(&identity);
    control.set_state(State::Ready);
    let lock = LockFile::open(&directory, 0o600).expect("a lock");
    assert!(lock.try_lock(ALIVE_BYTE..ALIVE_BYTE + 2).expect("locks"));
    let writer = control.process_slots().acquire(0, 4_000_001, "gunicorn app").expect("a slot");
    let waiter = control.process_slots().acquire(1, 4_000_002, "python3 worker.py").expect("a slot");
    let killed = control.process_slots().acquire(7, 4_000_003, "sqlite3").expect("a slot");
    assert!(control.write().try_acquire(writer, false) && control.leader().try_acquire(waiter, false));
    control.process_slots().set_waiting(waiter, now_us() - 200_000_000);
    for (owner, sequence) in [(waiter, 8), (waiter, 5), (killed, 3)] {
        let slot = control.snapshot_slots().claim(owner).expect("a slot");
        assert!(control.take_snapshot(slot, sequence, now_us() - 300_000_000));
    }
    let before = contents(scratch.path());
    let output = tool(["status".as_ref(), path.as_os_str()]);
    let rows: Vec<&str> = output.printed().lines().skip_while(|line| !line.starts_with("attached")).collect();
    assert_eq!(rows.len(), 4, "{output:?}");
    assert!(
        rows[1].contains("4000001") && rows[1].contains("  WRITE  ") && rows[1].ends_with("gunicorn app"),
        "{rows:?}"
    );
    assert!(!rows[1].contains("commit"), "{rows:?}");
    assert!(rows[2].contains("commit 5, for 5 min") && rows[2].contains("LEADER"), "{rows:?}");
    assert!(rows[2].contains("  3 min  ") && rows[2].ends_with("python3 worker.py"), "{rows:?}");
    assert!(rows[3].contains("commit 3") && rows[3].ends_with("sqlite3 (killed)"), "{rows:?}");
    let processes = json_of(&path)["processes"].clone();
    let alive: Vec<_> = processes.as_array().expect("a list").iter().map(|process| process["alive"].clone()).collect();
    assert_eq!(alive, [true, true, false]);
    assert_eq!((&processes[1]["transactions"], &processes[1]["holding"]), (&json!(2), &json!(["LEADER"])));
    assert!(processes[1]["waiting_for_us"].as_u64() >= Some(200_000_000), "{processes}");
    assert_eq!(contents(scratch.path()), before);
}

/// A process that does one thing with a database, and stays until it is killed.
const PLAYER: &str = "status::player";

#[test]
fn player() {
    if !child::role(PLAYER) {
        return;
    }
    let connection = open_wal(Path::new(&child::setting("DATABASE")));
    run(&connection, "PRAGMA busy_timeout=600000; SELECT * FROM sqlite_schema");
    child::report("attached");
    run(&connection, &child::setting("SQL"));
    child::report("done");
    let _ = child::command();
}

fn play(path: &Path, sql: &str) -> child::Role {
    let mut role = child::start(PLAYER, &[("DATABASE", path.display().to_string()), ("SQL", sql.to_owned())]);
    role.expect("attached");
    role
}

#[test]
fn real_processes_that_read_write_and_wait_are_told_from_outside_and_from_inside() {
    let _watchdog = support::Watchdog::new("processes that are looked at", std::time::Duration::from_secs(300));
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut idle = play(&path, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    idle.expect("done");
    let mut reader = play(&path, "BEGIN; SELECT * FROM t");
    reader.expect("done");
    let mut writer = play(&path, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    writer.expect("done");
    let waiter = play(&path, "BEGIN IMMEDIATE");
    let of = |status: &Value, role: &child::Role| {
        let processes = status["processes"].as_array().expect("a list").clone();
        processes.into_iter().find(|process| process["pid"] == json!(role.pid())).unwrap_or(Value::Null)
    };
    wait_until(|| of(&json_of(&path), &waiter)["waiting_for_us"].is_u64());
    let check = |status: &Value, processes: usize| {
        assert_eq!(status["processes"].as_array().map(Vec::len), Some(processes), "{status:#}");
        let [idle, reader, writer, waiter] = [&idle, &reader, &writer, &waiter].map(|role| of(status, role));
        assert!([&idle, &reader, &writer, &waiter].iter().all(|process| process["alive"] == true), "{status:#}");
        let holds = |process: &Value, word| process["holding"].as_array().expect("a list").contains(&json!(word));
        assert!(holds(&idle, "EXCL") && holds(&writer, "WRITE"), "{status:#}");
        assert!(![&idle, &reader, &waiter].iter().any(|process| holds(process, "WRITE")), "{status:#}");
        assert_eq!((&reader["oldest_snapshot"], &reader["transactions"]), (&json!(2), &json!(1)), "{status:#}");
        assert_eq!((&idle["transactions"], &waiter["transactions"]), (&json!(0), &json!(0)), "{status:#}");
        assert!(waiter["waiting_for_us"].is_u64() && writer["waiting_for_us"].is_null(), "{status:#}");
    };
    check(&json_of(&path), 4);
    // From inside, by a process that joins for it.
    let connection = open_wal(&path);
    run(&connection, "SELECT * FROM t");
    let status = || {
        let text: String = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).expect("the state");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    check(&status(), 5);
    // Whose owner is killed: gone by the lock, before anybody took over what it held.
    let pid = reader.pid();
    reader.kill();
    let dead = status();
    let dead = dead["processes"].as_array().expect("a list").iter().find(|process| process["pid"] == json!(pid));
    assert!(dead.is_none_or(|process| process["alive"] == false), "{dead:?}");
    let mut waiter = waiter;
    let gone = writer.pid();
    writer.kill();
    waiter.expect("done");
    let status = json_of(&path);
    assert_eq!(of(&status, &waiter)["holding"], json!(["WRITE"]), "{status:#}");
    assert_eq!(of(&status, &waiter)["waiting_for_us"], Value::Null, "{status:#}");
    let processes = status["processes"].as_array().expect("a list");
    assert!(processes.iter().all(|process| process["pid"] != json!(gone) || process["alive"] == false), "{status:#}");
}

/// The one who looks is not always the one whose processes these are. Takes root to play.
#[cfg(target_os = "linux")]
#[test]
fn another_user_sees_who_is_attached_and_who_is_stopped() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    if !rustix::process::geteuid().is_root() {
        println!("not run: only root can run the tool as another user");
        return;
    }
    let _watchdog = support::Watchdog::new("another user", std::time::Duration::from_secs(100));
    // The build may lie where nobody else may look.
    let copy = scratch.file("tool");
    std::fs::copy(crate::library::tool(), &copy).expect("copy");
    // Whatever the umask is.
    std::fs::File::create(&path).expect("an empty database");
    for (file, mode) in [(scratch.path(), 0o755), (&copy, 0o755), (&path, 0o644)] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&copy);
        command.args(arguments).arg(&path).env_clear().uid(65_534).gid(65_534).stdin(std::process::Stdio::null());
        crate::Output::of(command.output().expect("the tool starts"))
    };
    let mut guard = play(&path, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    guard.expect("done");
    let mut writer = play(&path, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    writer.expect("done");
    let status = as_nobody(&["status"]);
    // The writer reads, too, and is named as the oldest reader.
    let lines = status.printed().lines().filter(|line| !line.starts_with("reading "));
    let text = lines.collect::<Vec<_>>().join("\n");
    for role in [&guard, &writer] {
        assert_eq!(text.matches(&role.pid().to_string()).count(), 1, "{text}");
    }
    let stopped = || {
        let report = as_nobody(&["doctor"]).stdout;
        (report.contains(&format!("{} (", writer.pid())), report.contains("is stopped and holds WRITE"))
    };
    assert_eq!(stopped(), (true, false));
    kill_process(Pid::from_raw(writer.pid()).expect("a pid"), Signal::STOP).expect("the child was not waited for");
    wait_until(|| stopped() == (true, true));
}

#[test]
fn a_copy_without_its_log_is_told_so() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let _holder = hold(&path, 5);
    let copy = scratch.file("copy.db");
    std::fs::copy(&path, &copy).expect("copy");
    let text = tool(["status".as_ref(), copy.as_os_str()]);
    assert!(text.printed().contains("a copy without its log"), "{text:?}");
    tool(["recover".as_ref(), copy.as_os_str()]).refused(1);
}
