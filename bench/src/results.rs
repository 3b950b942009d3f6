//! The file with results: what a run of the program measured, for pictures and for programs.

use crate::Error;
use crate::case::Case;
use crate::machine::Machine;
use crate::pairs::{Line, Pairs};
use crate::seen::Seen;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    pub lines: Vec<LineResults>,
}

/// One line: run `i` of one side and run `i` of the other are a pair.
#[derive(Serialize, Deserialize)]
pub struct LineResults {
    pub name: String,
    /// What the sides are.
    pub sides: [String; 2],
    /// Of the second side.
    pub case: Case,
    pub runs: [Vec<Seen>; 2],
}

impl LineResults {
    pub fn new(line: &Line, pairs: &Pairs) -> LineResults {
        let (one, other): (Vec<Seen>, Vec<Seen>) = pairs.iter().cloned().unzip();
        LineResults {
            name: line.name.clone(),
            sides: [0, 1].map(|side| line.sides[side].name.clone()),
            case: line.sides[1].case.clone(),
            runs: [one, other],
        }
    }
}

impl Results {
    pub fn read(path: &Path) -> Result<Results, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        serde_json::from_str(&text).map_err(|error| Error::Results {
            path: path.to_owned(),
            what: format!("not a file with results: {error}"),
        })
    }

    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Results { path: path.to_owned(), what: error.to_string() })?;
        std::fs::write(path, text + "\n").map_err(Error::io("write", path))
    }
}
