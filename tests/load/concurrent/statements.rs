//! Random statements over a few tables: keys that are given and generated, ranges, an index, UNIQUE, FOREIGN KEY, overflow pages.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const SCHEMA: &str = "
    CREATE TABLE a(id INTEGER PRIMARY KEY, n, pad);
    CREATE INDEX a_n ON a(n);
    CREATE TABLE b(k PRIMARY KEY, v, pad) WITHOUT ROWID;
    CREATE TABLE c(id INTEGER PRIMARY KEY, r REFERENCES a(id), u UNIQUE);
    CREATE INDEX c_r ON c(r);
    CREATE TABLE d(id INTEGER PRIMARY KEY AUTOINCREMENT, n);";

pub const INTEGRITY: &str = "PRAGMA integrity_check";

/// A source of statements, and of the decisions of a schedule.
pub struct Maker {
    random: StdRng,
    /// Keys are below it.
    range: u32,
}

impl Maker {
    pub fn new(seed: u64, range: u32) -> Maker {
        Maker { random: StdRng::seed_from_u64(seed), range }
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound)
    }

    pub fn is_one_of(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }

    fn id(&mut self) -> u32 {
        self.below(self.range)
    }

    /// Mostly short; an eighth of them fill several pages.
    fn pad(&mut self) -> String {
        let length = if self.is_one_of(8) { self.below(3000) } else { self.below(60) };
        format!("zeroblob({length})")
    }

    /// In no order that resembles that of the numbers, and of different lengths.
    fn key(&mut self) -> String {
        let id = u64::from(self.id());
        let word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("'{word:016x}{}'", "k".repeat((id % 40) as usize))
    }

    fn span(&mut self, part: u32) -> (u32, u32) {
        let from = self.id();
        (from, from + self.below(self.range / part + 1))
    }

    /// One that reads or writes.
    pub fn statement(&mut self) -> String {
        let (id, n) = (self.id(), self.below(50));
        match self.below(28) {
            0..=3 => format!("INSERT INTO a(id, n, pad) VALUES({id}, {n}, {})", self.pad()),
            4 => format!("INSERT INTO a(n, pad) VALUES({n}, {})", self.pad()),
            5..=6 => format!("UPDATE a SET n={n}, pad={} WHERE id={id}", self.pad()),
            7..=8 => format!("UPDATE a SET n=n+1 WHERE id={id}"),
            9 => format!("DELETE FROM a WHERE id={id}"),
            10 => {
                let (from, to) = self.span(20);
                format!("DELETE FROM a WHERE id BETWEEN {from} AND {to}")
            }
            11..=12 => format!("INSERT INTO b VALUES({}, {n}, {})", self.key(), self.pad()),
            // So many beside each other that interior pages are balanced, too.
            13 if self.is_one_of(8) => {
                let from = self.below(256);
                format!("DELETE FROM b WHERE k BETWEEN '{from:02x}' AND '{:02x}'", (from + self.below(16)).min(255))
            }
            13 => format!("DELETE FROM b WHERE k={}", self.key()),
            14..=15 => format!("UPDATE b SET v=v+1 WHERE k={}", self.key()),
            16..=17 => format!("INSERT INTO c VALUES({}, {id}, {})", self.id(), self.id()),
            18 => format!("DELETE FROM c WHERE r={id}"),
            19 => format!("INSERT INTO d(n) VALUES({n})"),
            20 => format!("REPLACE INTO c VALUES({}, {id}, {})", self.id(), self.id()),
            _ => self.reading(),
        }
    }

    /// One that only reads.
    pub fn reading(&mut self) -> String {
        let (id, n) = (self.id(), self.below(50));
        match self.below(8) {
            // Of what the transaction sees, whichever pages it allocates.
            0 if self.is_one_of(12) => String::from(INTEGRITY),
            0 => {
                let (from, to) = self.span(10);
                format!("SELECT count(*), sum(n), sum(length(pad)) FROM a WHERE id BETWEEN {from} AND {to}")
            }
            1 => format!("SELECT count(*), sum(id) FROM a WHERE n={n}"),
            2 if self.is_one_of(6) => String::from("SELECT count(*), sum(n) FROM a"),
            2 | 3 => format!("SELECT n, length(pad) FROM a WHERE id={id}"),
            4 => String::from("SELECT max(id), min(id) FROM a"),
            5 => format!("SELECT v, length(pad) FROM b WHERE k={}", self.key()),
            6 => format!("SELECT count(*), sum(v) FROM b WHERE k BETWEEN {} AND 'f'", self.key()),
            _ => format!("SELECT id, r FROM c WHERE u={id}"),
        }
    }

    /// A query of one value.
    pub fn scalar(&mut self) -> String {
        match self.below(3) {
            0 => format!("SELECT count(*) FROM a WHERE n={}", self.below(50)),
            1 => format!("SELECT length(pad) FROM a WHERE id={}", self.id()),
            _ => format!("SELECT sum(v) FROM b WHERE k BETWEEN {} AND 'f'", self.key()),
        }
    }

    /// One that moves a running transaction about: names and numbers as they come.
    pub fn savepoint(&mut self) -> &'static str {
        ["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"][self.below(3) as usize]
    }
}
