//! Processes that do not know each other: in other containers, or other users' with access by a group.

use super::assert_left;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::processes::agent::{self, Agent};
use support::scene::{COUNT, create, scene, watchdog};
use support::{Scratch, child, library};

const UNSHARE: [&str; 5] = ["--user", "--map-root-user", "--pid", "--mount-proc", "--fork"];

/// Why a process cannot have namespaces of its own here, if it cannot.
fn refused() -> Option<String> {
    let output = Command::new("unshare").args(UNSHARE).arg("true").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// An agent in a PID and mount namespace of its own, where it is process 1.
fn contained(path: &Path) -> Agent {
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg("--kill-child").arg(std::env::current_exe().expect("this binary"));
    let mut agent = Agent::of(child::start_by(command, agent::ROLE, &[]));
    agent.open("c", path);
    agent
}

#[test]
fn two_containers_share_a_database() {
    if let Some(why) = refused() {
        println!("not played: this machine gives no namespaces: {why}");
        return;
    }
    let (_scene, path) = scene("two containers");
    let (mut one, mut two, mut outside) = (contained(&path), contained(&path), Agent::on(&path));
    for round in 1..=20 {
        for agent in [&mut one, &mut two, &mut outside] {
            agent.run("INSERT INTO t VALUES(1)");
        }
        for agent in [&mut one, &mut two, &mut outside] {
            assert_eq!(agent.run(COUNT), (3 * round).to_string());
        }
    }
    // Their pids are the same, and one of them dies: that is not the other.
    for round in 1..=5 {
        one.run("BEGIN IMMEDIATE");
        one.run("INSERT INTO t VALUES('never committed')");
        two.tell("c INSERT INTO t VALUES(2)");
        one.kill_inside();
        assert_eq!(two.answer(), "");
        one = contained(&path);
        assert_eq!(one.run(COUNT), (60 + round).to_string());
    }
    // All die at once, and one comes back.
    one.kill_inside();
    two.kill_inside();
    outside.kill();
    let mut back = contained(&path);
    back.run("INSERT INTO t VALUES(3)");
    back.end();
    assert_left(&path, 66);
}

const GROUP: u32 = 61_000;

/// An agent of this user, with a umask that gives nobody else anything.
fn agent_of(user: u32, group: u32, program: &Path, path: &Path) -> (Agent, String) {
    let mut command = Command::new(program);
    command.uid(user).gid(group);
    let mut agent = Agent::of(child::start_by(command, agent::ROLE, &[("PWAL_TEST_UMASK", String::from("077"))]));
    let answer = agent.ask(&format!("c .open {}", path.display()));
    (agent, answer)
}

/// Group and permission bits of everything in the log directory, and its own.
fn log_modes(path: &Path) -> Vec<(String, u32, u32)> {
    let directory = path.with_file_name("app.db-pwal");
    let mut found = vec![directory.clone()];
    found.extend(std::fs::read_dir(&directory).expect("the log").map(|entry| entry.expect("an entry").path()));
    found
        .into_iter()
        .filter_map(|path| {
            // Files come and go.
            let facts = path.metadata().ok()?;
            Some((path.file_name()?.to_string_lossy().into_owned(), facts.gid(), facts.mode() & 0o7777))
        })
        .collect()
}

#[test]
fn users_with_access_by_their_group_share_a_database() {
    if !rustix::process::geteuid().is_root() {
        println!("not played: only root can be several users");
        return;
    }
    let _watchdog = watchdog("several users");
    let scratch = Scratch::new();
    // They must reach the test's binary.
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).expect("open the directory");
    let program = scratch.file("program");
    library::copy_program(&std::env::current_exe().expect("this binary"), &program);
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("let them run it");
    let (anna, bert) = ((61_001, GROUP), (61_002, GROUP));
    // Who comes first makes the log: the owner of the file, another of the group, root.
    for (first, second, kills) in [
        (anna, bert, false),
        (bert, anna, false),
        (anna, bert, true),
        (bert, anna, true),
        ((0, 0), anna, true),
        ((0, 0), bert, true),
    ] {
        let what = format!("{first:?} before {second:?}, kills {kills}");
        let directory = scratch.file(&format!("shared-{}-{}-{kills}", first.0, second.0));
        std::fs::create_dir(&directory).expect("a directory");
        chown(&directory, Some(0), Some(GROUP)).expect("give it to the group");
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o775)).expect("the group's");
        let path = directory.join("app.db");
        create(&path);
        chown(&path, Some(anna.0), Some(GROUP)).expect("give it to Anna and the group");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o660)).expect("the group's");

        let (mut one, answer) = agent_of(first.0, first.1, &program, &path);
        assert_eq!(answer, "open", "{what}");
        one.run("INSERT INTO t VALUES(1)");
        let (mut two, answer) = agent_of(second.0, second.1, &program, &path);
        assert_eq!(answer, "open", "{what}");
        two.run("INSERT INTO t VALUES(2)");
        assert_eq!(one.run(COUNT), "2", "{what}");
        if support::on_pwal() {
            for (name, group, mode) in log_modes(&path) {
                let wanted = if name == "app.db-pwal" { 0o770 } else { 0o660 };
                assert_eq!((group, mode), (GROUP, wanted), "{what}: {name}");
            }
        }
        // Who may not read the file does not come in, and disturbs nobody.
        let (stranger, answer) = agent_of(61_003, 61_003, &program, &path);
        assert_eq!(answer, "code 14", "{what}");
        stranger.end();
        one.run("INSERT INTO t VALUES(3)");
        if kills {
            // The second recovers and retires a log that the first has made.
            one.kill();
            two.kill();
            let (mut three, _) = agent_of(second.0, second.1, &program, &path);
            assert_eq!(three.run(COUNT), "3", "{what}");
            three.end();
        } else {
            one.end();
            two.run("PRAGMA wal_checkpoint(TRUNCATE)");
            two.end();
        }
        assert_left(&path, 3);
    }
}

/// An agent that believes to be on NFS, and takes the risk if so told.
#[cfg(target_os = "linux")]
fn on_network_disk(path: &Path, takes_the_risk: bool) -> Option<Agent> {
    let mut settings = vec![("PWAL_TEST_NETWORK_DISK", String::from("1"))];
    if takes_the_risk {
        settings.push(("PWAL_FILE_SYSTEM", String::from("any")));
    }
    let mut agent = Agent::start_with(&settings);
    let answer = agent.ask(&format!("c .open {}", path.display()));
    if answer != "open" {
        println!("not played: {answer}");
        return None;
    }
    agent.ask("c .timeout 200");
    Some(agent)
}

#[cfg(target_os = "linux")]
#[test]
fn a_network_file_system_is_refused_by_name_and_at_its_own_risk_for_one_process() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a network file system");
    let Some(mut careful) = on_network_disk(&path, false) else { return };
    assert_eq!(careful.ask("c SELECT * FROM t"), "code 14");
    let told = careful.log();
    assert!(told.contains("NFS"), "{told}");
    careful.end();
    let (Some(mut one), Some(mut two)) = (on_network_disk(&path, true), on_network_disk(&path, true)) else { return };
    one.run("INSERT INTO t VALUES(1)");
    for _ in 0..2 {
        assert_eq!(two.ask("c SELECT * FROM t"), "code 5");
        let told = two.log();
        assert!(told.contains("NFS"), "{told}");
        one.run("INSERT INTO t VALUES(2)");
    }
    one.end();
    two.run("INSERT INTO t VALUES(3)");
    two.end();
    assert_left(&path, 4);
}

/// Times in the control block is by the monotonic clock: who has another one is refused, and the others go on.
#[test]
fn a_process_of_another_time_namespace_is_refused() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--time", "--monotonic", "100000", "--fork"]);
        command
    };
    let tried = unshare().arg("true").stdin(Stdio::null()).stderr(Stdio::null()).status();
    if !support::on_pwal() || !tried.is_ok_and(|status| status.success()) {
        println!("not played: this machine gives no time namespaces");
        return;
    }
    let (_scene, path) = scene("another clock");
    let mut one = Agent::on(&path);
    one.run("INSERT INTO t VALUES(1)");
    let elsewhere = || {
        let mut command = unshare();
        command.arg("--kill-child").arg(std::env::current_exe().expect("this binary"));
        let mut agent = Agent::of(child::start_by(command, agent::ROLE, &[]));
        agent.open("c", &path);
        agent
    };
    let mut other = elsewhere();
    assert_eq!(other.ask(&format!("c {COUNT}")), "code 14");
    let told = other.log();
    assert!(told.contains("time namespace"), "{told}");
    one.run("INSERT INTO t VALUES(2)");
    one.end();
    // Alone it is fine.
    assert_eq!(other.run(COUNT), "2");
    other.run("INSERT INTO t VALUES(3)");
    let mut second = elsewhere();
    assert_eq!(second.run(COUNT), "3");
    second.end();
    other.end();
    assert_left(&path, 3);
}
