//! What the script commits, and what each of its states holds.
//!
//! Commit k is the same statements wherever it is made: so each state is known, by playing the commits into a database in
//! memory, on stock SQLite.

use super::trace::Call;
use rusqlite::Connection;

/// Rows that are written again and again, each on a page of its own.
const ROWS: u64 = 80;

/// The first commit.
const TABLES: &str = "CREATE TABLE n(n); INSERT INTO n VALUES(0); CREATE TABLE t(id INTEGER PRIMARY KEY, k, x)";

/// Commit `number` over so many pages, as statements; 0 pages: the tables.
pub fn statements(number: u64, pages: u64) -> String {
    let work = match pages {
        0 => TABLES.to_owned(),
        _ => format!(
            "REPLACE INTO t SELECT i, {number}, replace(printf('%0300d', 0), '0', printf('%05d%05d', {number}, i)) FROM
             (WITH RECURSIVE c(j) AS (SELECT 0 UNION ALL SELECT j+1 FROM c LIMIT {pages})
              SELECT ({number} * 7 + j) % {ROWS} AS i FROM c)"
        ),
    };
    format!("{work}; UPDATE n SET n={number}")
}

/// What a database holds: the last commit and a checksum of all rows.
pub fn digest(connection: &Connection) -> rusqlite::Result<String> {
    if support::rows(connection, "SELECT 1 FROM sqlite_schema WHERE name='n'")?.is_empty() {
        return Ok(String::from("no tables"));
    }
    let rows = support::rows(connection, "SELECT id, k, x FROM t ORDER BY id")?.join("\n");
    let last = support::rows(connection, "SELECT n FROM n")?.join(" ");
    Ok(format!("commit {last}, rows {:08x}", crc32c::crc32c(rows.as_bytes())))
}

/// Which states may be found behind a call, as places in [`History::states`].
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// Where the power goes.
    pub durable: usize,
    /// Where only the processes are killed.
    pub acknowledged: usize,
    /// That of a commit that was begun and is not answered yet.
    pub begun: Option<String>,
    /// That of a commit whose process died before it was published, and how many were acknowledged then: it may come back until a
    /// later one is durable.
    pub abandoned: Option<(String, usize)>,
}

/// All states, and what was promised behind each call.
pub struct History {
    pub states: Vec<String>,
    pub moments: Vec<Moment>,
}

impl History {
    pub fn of(calls: &[(u32, Call)]) -> History {
        let twin = Connection::open_in_memory().expect("a database in memory");
        let mut states = vec![digest(&twin).expect("its content")];
        let (mut now, mut moments, mut wants_durable) = (Moment::default(), Vec::new(), false);
        for (_, call) in calls {
            if let Call::Mark(text) = call {
                let words: Vec<&str> = text.split(' ').collect();
                let number = |at: usize| words[at].parse::<u64>().expect("a number");
                match words[0] {
                    "begin" => {
                        support::run(&twin, &format!("BEGIN; {}", statements(number(1), number(2))));
                        wants_durable = words[3] == "durable";
                        now.begun = Some(digest(&twin).expect("its content"));
                    }
                    "acknowledged" => {
                        support::run(&twin, "COMMIT");
                        states.push(now.begun.take().expect("a commit that was begun"));
                        now.acknowledged += 1;
                        if wants_durable {
                            now.durable = now.acknowledged;
                            now.abandoned = None;
                        }
                    }
                    "failed" => {
                        support::run(&twin, "ROLLBACK");
                        now.begun = None;
                    }
                    // By the next process, where the commit of one that died may be there. What a process finds that opens the
                    // database alone is durable.
                    "found" | "saw" => {
                        let found = text.split_once(' ').map_or("", |(_, found)| found);
                        match now.begun.take() {
                            Some(begun) if begun == found => {
                                support::run(&twin, "COMMIT");
                                states.push(begun);
                                now.acknowledged += 1;
                            }
                            Some(begun) => {
                                support::run(&twin, "ROLLBACK");
                                now.abandoned = Some((begun, now.acknowledged));
                            }
                            None => {}
                        }
                        assert_eq!(found, states[now.acknowledged], "behind the death of a process");
                        if words[0] == "found" {
                            now.durable = now.acknowledged;
                            now.abandoned = None;
                        }
                    }
                    "durable" => now.durable = now.acknowledged,
                    _ => {}
                }
            }
            moments.push(now.clone());
        }
        History { states, moments }
    }

    /// What is wrong with this content behind call `at`: `None` is right.
    pub fn contradiction(&self, at: usize, killed: bool, found: &str) -> Option<String> {
        let moment = &self.moments[at];
        if moment.begun.as_deref() == Some(found) {
            return None;
        }
        let of_dead = moment.abandoned.as_ref();
        if of_dead.is_some_and(|(state, behind)| state == found && (!killed || moment.acknowledged == *behind)) {
            return None;
        }
        let least = if killed { moment.acknowledged } else { moment.durable };
        match self.states[..=moment.acknowledged].iter().rposition(|state| state == found) {
            Some(place) if place >= least => None,
            Some(place) => Some(format!("state {place} where {least} was promised: {found}")),
            None => Some(format!("no state that ever was (promised: {}): {found}", self.states[least])),
        }
    }
}
