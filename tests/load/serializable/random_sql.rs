//! Random SQL for several processes. Every statement answers the same in the same state: no clock, no random values of
//! SQLite's, no order left open.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a thread does next.
pub enum Plan {
    Write {
        immediate: bool,
        commits: bool,
    },
    ReadThenWrite,
    Read,
    Autocommit,
    /// Without a place in the order of transactions, and without influence on it.
    Setting(String),
    OpenAgain,
}

pub struct Maker {
    rng: StdRng,
}

impl Maker {
    pub fn new(seed: u64) -> Maker {
        Maker { rng: StdRng::seed_from_u64(seed) }
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.rng.random_range(0..from.len())]
    }

    pub fn plan(&mut self) -> Plan {
        match self.rng.random_range(0..100) {
            0..35 => Plan::Write { immediate: self.rng.random_bool(0.5), commits: self.rng.random_bool(0.8) },
            35..50 => Plan::ReadThenWrite,
            50..70 => Plan::Read,
            70..88 => Plan::Autocommit,
            88..97 => Plan::Setting(self.setting()),
            _ => Plan::OpenAgain,
        }
    }

    fn setting(&mut self) -> String {
        match self.rng.random_range(0..5) {
            0 => format!("PRAGMA wal_checkpoint({})", self.pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"])),
            1 => format!("PRAGMA wal_autocheckpoint={}", self.pick(&["0", "5", "50", "1000"])),
            2 => format!("PRAGMA cache_size={}", self.pick(&["1", "10", "1000"])),
            3 => format!("PRAGMA synchronous={}", self.pick(&["FULL", "NORMAL", "FULL", "EXTRA", "OFF"])),
            _ => format!("PRAGMA parallel_wal_mode={}", self.pick(&["auto", "auto", "conservative"])),
        }
    }

    /// A write of one statement, which moves the clock and returns its state.
    pub fn tick(&mut self) -> String {
        let (key, value) = (self.rng.random_range(0..40), self.value());
        format!("INSERT OR REPLACE INTO tick VALUES({key}, (SELECT n+1 FROM clock), {value}) RETURNING n")
    }

    fn value(&mut self) -> String {
        let number = self.rng.random_range(-1000..1000_i32);
        match self.rng.random_range(0..6) {
            0 => String::from("NULL"),
            1 => format!("{number}"),
            2 => format!("{number}.5"),
            3 => format!("'text {number}'"),
            // A few that need a chain of pages.
            4 => format!("zeroblob({})", self.rng.random_range(0..9000)),
            _ => format!("replace(hex(zeroblob({})), '0', '{}')", self.rng.random_range(0..600), number.unsigned_abs()),
        }
    }

    /// Statements of a transaction that writes; savepoints in it are closed or rolled back, or end with it.
    pub fn writes(&mut self) -> Vec<String> {
        let mut all: Vec<String> = (0..self.rng.random_range(1..8)).map(|_| self.write()).collect();
        if self.rng.random_bool(0.2) {
            // Some of them are undone.
            let (one, two) = (self.rng.random_range(0..=all.len()), self.rng.random_range(0..=all.len()));
            all.insert(one.max(two), String::from("ROLLBACK TO undone"));
            all.insert(one.min(two), String::from("SAVEPOINT undone"));
        }
        all
    }

    fn write(&mut self) -> String {
        let (id, other, part) =
            (self.rng.random_range(0..300), self.rng.random_range(0..300), self.rng.random_range(2..20));
        let (value, extra) = (self.value(), self.rng.random_range(0..4));
        match self.rng.random_range(0..26) {
            0..4 => format!("INSERT INTO a VALUES({id}, {other}, {value})"),
            4..6 => format!("REPLACE INTO a VALUES({id}, {other}, {value})"),
            6 | 7 => format!("UPDATE a SET x=x+1 WHERE id%{part}={}", id % part),
            8 => format!("UPDATE a SET y={value} WHERE id BETWEEN {id} AND {id}+{part}"),
            9 => format!("DELETE FROM a WHERE id BETWEEN {id} AND {id}+{part}"),
            10 | 11 => format!("INSERT INTO b VALUES('key {id}', {value})"),
            12 => format!("INSERT OR IGNORE INTO b SELECT 'a'||id, x FROM a WHERE id%{part}=1"),
            13 => format!("DELETE FROM b WHERE k > 'key {id}' AND k < 'key {id}5'"),
            14 => format!("UPDATE OR FAIL a SET id=id+{part} WHERE id BETWEEN {id} AND {other}"),
            15 => format!("UPDATE b SET v={value} WHERE k='key {id}'"),
            16 => format!("CREATE TABLE extra_{extra}(id INTEGER PRIMARY KEY, v)"),
            17 => format!("DROP TABLE extra_{extra}"),
            18 | 19 => format!("INSERT INTO extra_{extra} VALUES(NULL, {value})"),
            20 => format!("CREATE INDEX extra_{extra}_v ON extra_{extra}(v)"),
            21 => String::from("SAVEPOINT s"),
            22 => String::from("ROLLBACK TO s"),
            23 => String::from("RELEASE s"),
            24 => format!("PRAGMA user_version={id}"),
            _ => self.read(),
        }
    }

    pub fn reads(&mut self) -> Vec<String> {
        (0..self.rng.random_range(1..5)).map(|_| self.read()).collect()
    }

    fn read(&mut self) -> String {
        let (id, part, extra) =
            (self.rng.random_range(0..300), self.rng.random_range(2..40), self.rng.random_range(0..4));
        match self.rng.random_range(0..8) {
            0 => format!("SELECT id, x, y FROM a WHERE id BETWEEN {id} AND {id}+{part} ORDER BY id"),
            1 => format!("SELECT x, count(*) FROM a WHERE x < {id} GROUP BY x ORDER BY x"),
            2 => String::from("SELECT count(*), sum(x), total(length(y)) FROM a"),
            3 => format!("SELECT k, length(v) FROM b WHERE k > 'key {id}' ORDER BY k LIMIT {part}"),
            4 => String::from("SELECT count(*), max(n), sum(length(v)) FROM tick"),
            5 => format!("SELECT count(*), max(id), total(length(v)) FROM extra_{extra}"),
            6 => String::from("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"),
            _ => String::from("SELECT n FROM clock"),
        }
    }
}
