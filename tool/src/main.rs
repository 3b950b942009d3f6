//! The command line tool: looks at databases that pwal keeps, recovers them, and takes them back to stock SQLite.
//!
//! One file for each command. `inspect`, `dump`, `verify`, `status` and `doctor` only look: they create and lock nothing.
#![forbid(unsafe_code)]

mod backup;
mod bench;
mod database;
mod demo;
mod doctor;
mod dump;
mod failure;
mod inspect;
mod off;
mod openers;
mod owner;
mod progress;
mod read_only;
mod reader;
mod recover;
mod run;
mod shell;
mod status;
mod survey;
mod text;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit status:
  0  done; what was looked at is in order
  1  no: a rule is broken, a commit is lost, or the database needs a decision of yours
  2  the command line is wrong
  3  another process has the database open
  4  cannot: no such file, no permission, a medium that fails, a program that is missing";

/// SQLite's write-ahead log, replaced: looks at databases that pwal keeps, recovers them, and takes them back.
#[derive(Parser)]
#[command(name = "pwal", version = pwal::version(), after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Arguments),
    Dump(dump::Arguments),
    Verify(verify::Arguments),
    Recover(recover::Arguments),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Off(off::Arguments),
    Shell(shell::Arguments),
    Run(run::Arguments),
    Backup(backup::Arguments),
    Demo(demo::Arguments),
    Bench(Box<pwal_bench::Arguments>),
    #[command(hide = true)]
    DemoWriter(demo::writer::Arguments),
    #[command(hide = true)]
    DemoCheck(demo::check::Arguments),
    #[command(hide = true)]
    BenchRun(pwal_bench::ChildArguments),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Dump(arguments) => dump::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Recover(arguments) => recover::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Off(arguments) => off::run(&arguments),
        Command::Shell(arguments) => shell::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::DemoWriter(arguments) => demo::writer::run(&arguments),
        Command::DemoCheck(arguments) => demo::check::run(&arguments),
        Command::BenchRun(arguments) => bench::run_child(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pwal: {failure}");
            failure.exit_code()
        }
    }
}
