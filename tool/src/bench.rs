//! `pwal bench`: how fast pwal is on this machine, beside stock SQLite.

use crate::failure::{Done, Failure};
use crate::{shell, text};
use pwal_bench::{Arguments, ChildArguments, Verdict};

pub fn run(arguments: &Arguments) -> Done {
    // Without a library the lines with the shell say so.
    let arguments = arguments.clone().with_library(shell::library().ok());
    match pwal_bench::run(&arguments, &text::print).map_err(failure)? {
        Verdict::Met => Ok(()),
        Verdict::Missed => Err(Failure::no("a target is missed")),
    }
}

pub fn run_child(arguments: &ChildArguments) -> Done {
    pwal_bench::child(arguments).map_err(failure)
}

fn failure(error: pwal_bench::Error) -> Failure {
    match error {
        pwal_bench::Error::Sqlite { path, source } => Failure::sqlite(&path, &source),
        // What was acknowledged and is lost, too.
        pwal_bench::Error::Run { .. } => Failure::no(error.to_string()),
        error => Failure::cannot(error.to_string()),
    }
}
