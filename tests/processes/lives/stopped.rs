//! A process that is stopped (SIGSTOP, a debugger, a frozen container) while it holds something.

use super::program;
use super::{assert_left, status};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use support::library;
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};

#[test]
fn who_waits_for_a_stopped_writer_is_told_its_name_and_goes_on_when_it_does() {
    library::tool();
    let (_scene, path) = scene("a stopped writer");
    let (mut stopped, mut other) = (Agent::on(&path), Agent::on(&path));
    stopped.run("INSERT INTO t VALUES(1)");
    other.run(COUNT);
    stopped.run("BEGIN IMMEDIATE");
    stopped.run("INSERT INTO t VALUES(2)");
    stopped.signal(Signal::STOP);
    stopped.wait_stopped();

    other.ask("c .timeout 2000");
    other.log();
    let start = Instant::now();
    assert_eq!(other.ask("c INSERT INTO t VALUES(3)"), "code 5");
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(1900) && waited < Duration::from_secs(8), "{waited:?}");
    // Who only reads is not held up.
    assert_eq!(other.run(COUNT), "1");
    if support::on_pwal() {
        let told = other.log();
        for text in [&told, &status(&path)] {
            assert!(text.contains(&stopped.pid().to_string()) && text.contains(&program()), "{text}");
        }
    }
    let mut late = Agent::on(&path);
    assert_eq!(late.run(COUNT), "1");

    other.ask("c .timeout 10000");
    other.tell("c INSERT INTO t VALUES(3)");
    stopped.signal(Signal::CONT);
    stopped.run("COMMIT");
    assert_eq!(other.answer(), "");
    assert_eq!(late.run(COUNT), "3");
    for agent in [stopped, other, late] {
        agent.end();
    }
    assert_left(&path, 3);
}

#[test]
fn a_stopped_reader_holds_nobody_up() {
    let (_scene, path) = scene("a stopped reader");
    let (mut stopped, mut other) = (Agent::on(&path), Agent::on(&path));
    other.run("INSERT INTO t VALUES(1)");
    stopped.run("BEGIN");
    stopped.run(COUNT);
    stopped.signal(Signal::STOP);
    stopped.wait_stopped();
    for _ in 0..50 {
        other.run("INSERT INTO t VALUES(randomblob(2000))");
    }
    other.run("PRAGMA wal_checkpoint(PASSIVE)");
    // It leaves while the stopped one is attached: no clean close of the log, no hang.
    other.end();
    let mut late = Agent::on(&path);
    assert_eq!(late.run(COUNT), "51");
    stopped.signal(Signal::CONT);
    assert_eq!(stopped.run(COUNT), "1");
    stopped.run("COMMIT");
    assert_eq!(stopped.run(COUNT), "51");
    stopped.end();
    late.end();
    assert_left(&path, 51);
}

#[test]
fn a_stopped_writer_that_is_killed_is_taken_over() {
    let (_scene, path) = scene("a stopped writer that dies");
    let (mut stopped, mut other) = (Agent::on(&path), Agent::on(&path));
    other.run(COUNT);
    stopped.run("BEGIN IMMEDIATE");
    stopped.run("INSERT INTO t VALUES(2)");
    stopped.signal(Signal::STOP);
    stopped.wait_stopped();
    other.tell("c INSERT INTO t VALUES(3)");
    stopped.kill();
    assert_eq!(other.answer(), "");
    assert_eq!(other.run("SELECT * FROM t"), "3");
    other.end();
    assert_left(&path, 1);
}
