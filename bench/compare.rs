//! `pwal bench` without the tool: `cargo bench -p pwal-bench --bench compare -- --help`.

use clap::{Args, Parser};
use pwal_bench::{Arguments, CHILD, ChildArguments, Verdict};
use std::ffi::OsString;
use std::process::ExitCode;

#[derive(Parser)]
struct Cli<A: Args> {
    #[command(flatten)]
    arguments: A,
}

fn parse<A: Args>(words: &[OsString]) -> A {
    Cli::parse_from(words).arguments
}

fn main() -> ExitCode {
    // The last one comes from cargo.
    let words: Vec<_> = std::env::args_os().filter(|word| word != "--bench").collect();
    if words.get(1).is_some_and(|word| word == CHILD) {
        return ended(pwal_bench::child(&parse::<ChildArguments>(&words[1..])).map(|()| Verdict::Met));
    }
    ended(pwal_bench::run(&parse::<Arguments>(&words), &|text| print!("{text}")))
}

fn ended(result: Result<Verdict, pwal_bench::Error>) -> ExitCode {
    match result {
        Ok(Verdict::Met) => ExitCode::SUCCESS,
        Ok(Verdict::Missed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
