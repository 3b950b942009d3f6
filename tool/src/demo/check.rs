//! Whether everything that was acknowledged is there, by stock SQLite's word.

use crate::failure::{Done, Failure};
use crate::off::open_stock;
use rusqlite::OpenFlags;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Compares the demo's database with what the writers were told, which it reads as they report it.
#[derive(clap::Args)]
pub struct Arguments {
    database: PathBuf,
}

pub fn run(arguments: &Arguments) -> Done {
    let told = last_of(std::io::stdin().lock().lines().map_while(Result::ok));
    let found = check(&arguments.database, &told.last)?;
    if found.wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::no(found.wrong.join("; ")))
}

/// What the writers were told.
#[derive(Default)]
pub struct Told {
    pub commits: u64,
    /// The last commit of each writer.
    pub last: BTreeMap<u32, u64>,
}

/// Reads the writers' reports, `writer number` for each acknowledged commit.
pub fn last_of(lines: impl Iterator<Item = String>) -> Told {
    let mut told = Told::default();
    for line in lines {
        let Some((writer, number)) = line.split_once(' ') else { continue };
        if let (Ok(writer), Ok(number)) = (writer.parse(), number.parse()) {
            told.commits += 1;
            told.last.insert(writer, number);
        }
    }
    told
}

/// What is in the demo's database.
pub struct Found {
    pub commits: u64,
    /// A sentence for each acknowledged commit that is lost, half transaction, or damage; empty if all is well.
    pub wrong: Vec<String>,
}

/// Compares the database at `path` with the last commit that each writer was told of. Each writer may have one
/// more: committed, and killed before it could say so.
pub fn check(path: &Path, acknowledged: &BTreeMap<u32, u64>) -> Result<Found, Failure> {
    let failed = |error: rusqlite::Error| Failure::sqlite(path, &error);
    let stock = open_stock(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let said: String = stock.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
    let mut found = Found { commits: 0, wrong: Vec::new() };
    if said != "ok" {
        found.wrong.push(format!("integrity_check says: {said}"));
    }
    let mut rows = stock
        .prepare(
            "SELECT a.writer, a.entries, a.total, count(e.number), coalesce(max(e.number), 0), coalesce(sum(e.amount), 0)
             FROM account a LEFT JOIN entry e ON e.writer = a.writer GROUP BY a.writer",
        )
        .map_err(failed)?;
    let rows = rows.query_map([], |row| {
        let number = |column| row.get::<_, u64>(column);
        Ok((row.get::<_, u32>(0)?, number(1)?, number(2)?, number(3)?, number(4)?, number(5)?))
    });
    let mut last_of = BTreeMap::new();
    for row in rows.map_err(failed)? {
        let (writer, booked, total, count, last, sum) = row.map_err(failed)?;
        if (booked, total) != (count, sum) {
            found.wrong.push(format!(
                "writer {writer}: half a transaction: {count} entries of {sum}, booked {booked} of {total}"
            ));
        }
        if count != last {
            found.wrong.push(format!("writer {writer}: {} commits before its last one are lost", last - count));
        }
        found.commits += count;
        last_of.insert(writer, last);
    }
    for (writer, told) in acknowledged {
        let last = last_of.get(writer).copied().unwrap_or(0);
        if last < *told {
            found.wrong.push(format!("writer {writer}: commits {} to {told} were acknowledged and are lost", last + 1));
        }
        if last > *told + 1 {
            found.wrong.push(format!("writer {writer}: {last} commits, where at most {} were begun", *told + 1));
        }
    }
    Ok(found)
}
