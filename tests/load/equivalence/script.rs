//! Random scripts. A script depends on its seed alone, never on an answer, so that a part
//! of it can be played too.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::fmt;

/// Connections of one thread in a script.
pub const CONNECTIONS: usize = 4;

#[derive(Clone, Debug)]
pub struct Script {
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Open(usize),
    Close(usize),
    /// Closes every connection; those opened next are stock's, or not.
    CloseAll {
        stock_next: bool,
    },
    /// `{dir}` stands for the directory of the side.
    Sql {
        connection: usize,
        sql: String,
    },
    /// `database` is empty or ends with a dot.
    Checkpoint {
        connection: usize,
        database: &'static str,
        mode: &'static str,
    },
    OpenCursor {
        connection: usize,
        sql: String,
    },
    Advance(usize),
    CloseCursor(usize),
}

impl Step {
    /// The connection that runs it, if it is one.
    pub fn connection(&self) -> Option<usize> {
        match self {
            Step::Sql { connection, .. }
            | Step::Checkpoint { connection, .. }
            | Step::OpenCursor { connection, .. }
            | Step::Advance(connection) => Some(*connection),
            Step::Open(_) | Step::Close(_) | Step::CloseAll { .. } | Step::CloseCursor(_) => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Open(connection) => write!(f, "{connection}: open"),
            Step::Close(connection) => write!(f, "{connection}: close"),
            Step::CloseAll { stock_next: false } => write!(f, "all: close"),
            Step::CloseAll { stock_next: true } => write!(f, "all: close, then stock"),
            Step::Sql { connection, sql } => write!(f, "{connection}: {sql}"),
            Step::Checkpoint { connection, database, mode } => {
                write!(f, "{connection}: {database}wal_checkpoint({mode})")
            }
            Step::OpenCursor { connection, sql } => write!(f, "{connection}: cursor on {sql}"),
            Step::Advance(connection) => write!(f, "{connection}: step the cursor"),
            Step::CloseCursor(connection) => write!(f, "{connection}: close the cursor"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().enumerate().try_for_each(|(index, step)| writeln!(f, "  {index:3} {step}"))
    }
}

/// Page sizes, small ones more often: they make deep trees and many frames of few rows.
const PAGE_SIZES: [u32; 10] = [512, 512, 1024, 1024, 2048, 4096, 4096, 8192, 32768, 65536];

impl Script {
    pub fn random(seed: u64) -> Script {
        let mut maker = Maker {
            rng: StdRng::seed_from_u64(seed),
            page_bytes: 0,
            steps: Vec::new(),
            next_id: 1,
            guesses: Default::default(),
            writer: None,
        };
        maker.prelude();
        for _ in 0..maker.rng.random_range(60..180) {
            maker.step();
        }
        Script { steps: maker.steps }
    }
}

struct Maker {
    rng: StdRng,
    page_bytes: u32,
    steps: Vec<Step>,
    next_id: u32,
    guesses: [Guess; CONNECTIONS],
    /// Who probably holds the write lock.
    writer: Option<usize>,
}

/// The state that a connection is probably in: so that most steps do something.
#[derive(Clone, Copy, Default)]
struct Guess {
    open: bool,
    attached: bool,
    transaction: bool,
    savepoints: u32,
}

impl Maker {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("a choice")
    }

    fn open(&mut self, connection: usize) {
        self.steps.push(Step::Open(connection));
        if !self.guesses[connection].open {
            self.guesses[connection] = Guess { open: true, ..Guess::default() };
        }
    }

    fn closed(&mut self, connection: usize) {
        self.guesses[connection] = Guess::default();
        if self.writer == Some(connection) {
            self.writer = None;
        }
    }

    fn sql(&mut self, connection: usize, sql: String) {
        self.steps.push(Step::Sql { connection, sql });
    }

    /// Connection 0 makes the databases; the others come, with the attached ones or without.
    fn prelude(&mut self) {
        self.page_bytes = self.pick(&PAGE_SIZES);
        let vacuum = self.pick(&["NONE", "NONE", "FULL", "INCREMENTAL"]);
        let encoding = self.pick(&["UTF-8", "UTF-8", "UTF-8", "UTF-16le"]);
        let mode = self.pick(&["WAL", "WAL", "WAL", "WAL", "DELETE"]);
        let attached = self.rng.random_bool(0.4);
        self.open(0);
        for pragma in [
            format!("page_size={}", self.page_bytes),
            format!("auto_vacuum={vacuum}"),
            format!("encoding='{encoding}'"),
        ] {
            self.sql(0, format!("PRAGMA {pragma}"));
        }
        self.sql(0, format!("PRAGMA journal_mode={mode}"));
        let mut schemas = vec!["main"];
        if attached {
            for (file, schema) in [("one.db", "one"), ("two.db", "two")] {
                self.sql(0, format!("ATTACH '{{dir}}/{file}' AS {schema}"));
                self.sql(0, format!("PRAGMA {schema}.page_size={}", self.page_bytes));
                self.sql(0, format!("PRAGMA {schema}.journal_mode=WAL"));
                schemas.push(schema);
            }
            self.guesses[0].attached = true;
        }
        for schema in schemas {
            for table in 0..3 {
                self.sql(0, create_table(schema, table));
            }
        }
        if self.rng.random_bool(0.7) {
            self.sql(0, String::from("CREATE TABLE wide(k TEXT PRIMARY KEY, v) WITHOUT ROWID"));
            self.sql(0, String::from("CREATE VIRTUAL TABLE words USING fts5(body)"));
        }
        if self.rng.random_bool(0.5) {
            let sql = self.ours();
            self.sql(0, sql);
        }
        for connection in 0..self.rng.random_range(1..=CONNECTIONS) {
            if connection > 0 {
                self.open(connection);
                if attached && self.rng.random_bool(0.7) {
                    self.sql(connection, String::from("ATTACH '{dir}/one.db' AS one"));
                    self.sql(connection, String::from("ATTACH '{dir}/two.db' AS two"));
                    self.guesses[connection].attached = true;
                }
            }
            if self.rng.random_bool(0.5) {
                let pages = self.rng.random_range(1..20);
                self.sql(connection, format!("PRAGMA cache_size={pages}"));
            }
        }
    }

    fn step(&mut self) {
        let mut connection = self.rng.random_range(0..CONNECTIONS);
        let kind = self.rng.random_range(0..100);
        if !self.guesses[connection].open && self.rng.random_bool(0.9) {
            connection = (0..CONNECTIONS).find(|index| self.guesses[*index].open).unwrap_or(0);
        }
        if let Some(writer) = self.writer
            && kind < 40
            && self.rng.random_bool(0.8)
        {
            connection = writer;
        }
        match kind {
            0..40 => {
                let sql = self.write(connection);
                self.sql(connection, sql);
                if self.guesses[connection].transaction {
                    self.writer = self.writer.or(Some(connection));
                }
            }
            40..54 => {
                let sql = self.read(connection);
                self.sql(connection, sql);
            }
            54..74 => self.transaction(connection),
            74..79 => {
                let (database, mode) = (
                    self.pick(&["", "", "main.", "one."]),
                    self.pick(&["PASSIVE", "PASSIVE", "FULL", "RESTART", "TRUNCATE"]),
                );
                self.steps.push(Step::Checkpoint { connection, database, mode });
            }
            79..85 => {
                let step = match self.rng.random_range(0..4) {
                    0 => Step::OpenCursor { connection, sql: self.cursor(connection) },
                    1 | 2 => Step::Advance(connection),
                    _ => Step::CloseCursor(connection),
                };
                self.steps.push(step);
            }
            85..94 => {
                let sql = self.setting();
                self.sql(connection, sql);
            }
            _ => self.come_and_go(connection),
        }
    }

    fn come_and_go(&mut self, connection: usize) {
        match self.rng.random_range(0..12) {
            0..4 => {
                let any = self.rng.random_range(0..CONNECTIONS);
                self.open(any);
            }
            4 | 5 => {
                self.steps.push(Step::Close(connection));
                self.closed(connection);
            }
            6 => {
                let stock_next = self.rng.random_bool(0.3);
                self.steps.push(Step::CloseAll { stock_next });
                for connection in 0..CONNECTIONS {
                    self.closed(connection);
                    self.open(connection);
                }
            }
            7 => {
                let schema = self.pick(&["one", "two"]);
                self.sql(connection, format!("DETACH {schema}"));
            }
            8 => {
                // The same file under a second name: two views of one connection.
                let file = self.pick(&["main", "one"]);
                self.sql(connection, format!("ATTACH '{{dir}}/{file}.db' AS again"));
                self.sql(connection, String::from("SELECT count(*), sum(a) FROM again.t0"));
                if self.rng.random_bool(0.8) {
                    self.sql(connection, String::from("DETACH again"));
                }
            }
            _ => {
                self.sql(connection, String::from("ATTACH '{dir}/one.db' AS one"));
                self.sql(connection, String::from("ATTACH '{dir}/two.db' AS two"));
                self.guesses[connection].attached = true;
            }
        }
    }

    fn table(&mut self, connection: usize) -> String {
        let schemas: &[&str] =
            if self.guesses[connection].attached { &["", "", "main.", "one.", "two."] } else { &["", "", "main."] };
        let schema = self.pick(schemas);
        format!("{schema}t{}", self.pick(&[0, 0, 0, 0, 1, 1, 1, 2, 2, 3]))
    }

    fn id(&mut self) -> u32 {
        self.rng.random_range(1..=self.next_id)
    }

    /// An expression for a blob: mostly small, sometimes over several overflow pages.
    fn blob(&mut self) -> String {
        let page = self.page_bytes;
        let bytes = match self.rng.random_range(0..20) {
            0 => self.rng.random_range(page..page * 12).min(200_000),
            1..4 => self.rng.random_range(page / 3..page * 2),
            _ => self.rng.random_range(0..40),
        };
        match self.rng.random_range(0..3) {
            0 => format!("zeroblob({bytes})"),
            _ => format!("CAST(printf('%.*c', {bytes}, '{}') AS BLOB)", self.pick(&['a', 'b', 'c', 'd'])),
        }
    }

    fn write(&mut self, connection: usize) -> String {
        let (table, id, blob) = (self.table(connection), self.id(), self.blob());
        let (number, many) = (self.rng.random_range(-1000..1000), self.rng.random_range(2..120));
        match self.rng.random_range(0..34) {
            0..8 => {
                self.next_id += 1;
                format!("INSERT INTO {table}(a,b,c) VALUES({number},'{}',{blob}) RETURNING id", word(number))
            }
            8..11 => {
                self.next_id += many / 2;
                format!(
                    "INSERT INTO {table}(a,b,c) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{many}) \
                     SELECT i*{number}, 'row '||i, {blob} FROM n"
                )
            }
            11 => format!("REPLACE INTO {table}(id,a,b,c) VALUES({id},{number},'replaced',{blob})"),
            12 => format!(
                "INSERT INTO {table}(id,a,b) VALUES({id},{number},'upsert') ON CONFLICT(id) DO UPDATE SET a=a+excluded.a"
            ),
            13..17 => format!("UPDATE {table} SET a=a+{number}, c={blob} WHERE id={id}"),
            17..19 => format!("UPDATE {table} SET a=a+1, b=b||'+' WHERE id BETWEEN {id} AND {}", id + many),
            19 => format!("UPDATE {table} SET c={blob} WHERE id%7={}", number.rem_euclid(7)),
            20 => format!("UPDATE {table} SET id=id+100000 WHERE id={id}"),
            21..23 => format!("DELETE FROM {table} WHERE id={id}"),
            23..25 => format!("DELETE FROM {table} WHERE id BETWEEN {id} AND {}", id + many),
            25 => self.pick(&["DELETE FROM t2", "DELETE FROM t1 WHERE a<0", "DELETE FROM t0 WHERE id%2"]).to_owned(),
            26 | 27 => self.schema(),
            28 => format!("INSERT INTO {table}(a,b,c) SELECT a,b,c FROM t0 WHERE id<{many}"),
            29 => self
                .pick(&[
                    "CREATE TEMP TABLE IF NOT EXISTS here(x)",
                    "INSERT INTO temp.here VALUES(1)",
                    "INSERT INTO words SELECT b||' '||a FROM t0 LIMIT 20",
                ])
                .to_owned(),
            30 | 31 => format!("REPLACE INTO wide(k,v) VALUES('{}',{blob})", word(number)),
            32 => format!("INSERT INTO {table}(id,a) VALUES({id},{number})"),
            _ => format!("UPDATE OR IGNORE {table} SET id=id/2 WHERE id>{id}"),
        }
    }

    fn schema(&mut self) -> String {
        let (schema, number) = (self.pick(&["main", "main", "main", "one"]), self.rng.random_range(0..4));
        match self.rng.random_range(0..16) {
            0..3 => create_table(schema, number),
            3 => format!("DROP TABLE IF EXISTS {schema}.t{number}"),
            4..6 => format!("CREATE INDEX IF NOT EXISTS {schema}.i{number} ON t{number}(a, b)"),
            6 => format!("CREATE UNIQUE INDEX {schema}.u{number} ON t{number}(a)"),
            7 => format!("DROP INDEX IF EXISTS {schema}.i{number}"),
            8 => format!("ALTER TABLE {schema}.t{number} ADD COLUMN d{} DEFAULT 'new'", self.rng.random_range(0..50)),
            9 => format!("ALTER TABLE {schema}.t3 RENAME TO t{number}"),
            10 => String::from("CREATE TABLE IF NOT EXISTS wide(k TEXT PRIMARY KEY, v) WITHOUT ROWID"),
            11 => format!("CREATE VIEW IF NOT EXISTS {schema}.seen AS SELECT count(*) AS n FROM t{number}"),
            12 => format!(
                "CREATE TRIGGER IF NOT EXISTS {schema}.follow AFTER DELETE ON t0 BEGIN INSERT INTO t1(a,b) VALUES(old.a,'gone'); END"
            ),
            13 => self.pick(&["REINDEX", "ANALYZE"]).to_owned(),
            _ => String::from("CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(body)"),
        }
    }

    fn read(&mut self, connection: usize) -> String {
        let (table, id) = (self.table(connection), self.id());
        match self.rng.random_range(0..12) {
            0..3 => format!("SELECT count(*), sum(a), sum(length(c)), max(id) FROM {table}"),
            3..5 => format!("SELECT id,a,b,c FROM {table} WHERE id>={id} ORDER BY id LIMIT 15"),
            5 => format!("SELECT a,b FROM {table} ORDER BY a,b,id LIMIT 10"),
            6 => format!("SELECT count(*) FROM {table} x JOIN t0 y ON y.a=x.a"),
            7 => String::from("SELECT changes(), total_changes(), last_insert_rowid()"),
            8 => self.pick(&["SELECT n FROM seen", "SELECT count(*) FROM wide", "SELECT * FROM temp.here"]).to_owned(),
            9 => String::from("SELECT type,name,tbl_name,rootpage,sql FROM main.sqlite_schema"),
            10 => String::from("SELECT rowid FROM words WHERE words MATCH 'row' ORDER BY rowid"),
            _ => self
                .pick(&[
                    "PRAGMA page_count",
                    "PRAGMA freelist_count",
                    "PRAGMA schema_version",
                    "PRAGMA quick_check",
                    "PRAGMA integrity_check",
                    "PRAGMA one.page_count",
                    "PRAGMA journal_mode",
                    "PRAGMA locking_mode",
                    "PRAGMA page_size",
                ])
                .to_owned(),
        }
    }

    fn cursor(&mut self, connection: usize) -> String {
        let table = self.table(connection);
        self.pick(&["SELECT id, c FROM {}", "SELECT id FROM {} ORDER BY a, id", "SELECT id FROM {} WHERE a>0"])
            .replace("{}", &table)
    }

    fn transaction(&mut self, connection: usize) {
        let guess = self.guesses[connection];
        let sql = if !guess.transaction && self.rng.random_bool(0.95) {
            self.pick(&["BEGIN", "BEGIN", "BEGIN IMMEDIATE", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "SAVEPOINT s"])
        } else if guess.savepoints > 0 && self.rng.random_bool(0.7) {
            self.pick(&["SAVEPOINT s", "RELEASE s", "ROLLBACK TO s", "ROLLBACK TO s", "COMMIT"])
        } else {
            self.pick(&[
                "SAVEPOINT s",
                "SAVEPOINT s",
                "COMMIT",
                "COMMIT",
                "COMMIT",
                "COMMIT",
                "COMMIT",
                "ROLLBACK",
                "BEGIN",
            ])
        };
        self.sql(connection, sql.to_owned());
        let guess = &mut self.guesses[connection];
        match sql {
            "COMMIT" | "ROLLBACK" => (guess.transaction, guess.savepoints) = (false, 0),
            "SAVEPOINT s" => (guess.transaction, guess.savepoints) = (true, guess.savepoints + 1),
            "RELEASE s" => guess.savepoints -= u32::from(guess.savepoints > 0),
            "ROLLBACK TO s" => {}
            _ => guess.transaction = true,
        }
        if sql == "BEGIN IMMEDIATE" || sql == "BEGIN EXCLUSIVE" {
            self.writer = self.writer.or(Some(connection));
        } else if !guess.transaction && self.writer == Some(connection) {
            self.writer = None;
        }
    }

    /// ControlBlock that stock does not know. They change how things are done, never what comes out.
    fn ours(&mut self) -> String {
        let schema = self.pick(&["", "main.", "one."]);
        let word = self.pick(&[
            "mode=conservative",
            "mode=auto",
            "mode",
            "max_batch_bytes=65536",
            "segment_bytes=262144",
            "lanes=1",
            "max_flush_delay_ms=0",
            "status",
        ]);
        format!("PRAGMA {schema}parallel_wal_{word}")
    }

    fn setting(&mut self) -> String {
        let schema = self.pick(&["main", "main", "main", "one"]);
        let number = self.rng.random_range(0..30);
        match self.rng.random_range(0..23) {
            22 => self.ours(),
            0..2 => format!("PRAGMA wal_autocheckpoint={}", self.pick(&[0, 1, 3, 20, 1000])),
            2..5 => format!("PRAGMA {schema}.cache_size={}", self.pick(&[1, 2, 5, 10, 100, 2000])),
            5..7 => format!("PRAGMA {schema}.synchronous={}", self.pick(&["OFF", "NORMAL", "NORMAL", "FULL", "EXTRA"])),
            7 => format!("PRAGMA cache_spill={}", self.pick(&["ON", "OFF", "1"])),
            8 => format!("PRAGMA secure_delete={}", self.pick(&["ON", "OFF", "FAST"])),
            9 => format!("PRAGMA {schema}.user_version={number}"),
            10 => format!("PRAGMA {schema}.application_id={number}"),
            11 => format!("PRAGMA {schema}.incremental_vacuum({number})"),
            12 => format!("PRAGMA mmap_size={}", self.pick(&[0, 100_000, 10_000_000])),
            13..16 => {
                let mode = self.pick(&["WAL", "WAL", "WAL", "DELETE", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"]);
                format!("PRAGMA {schema}.journal_mode={mode}")
            }
            16 => String::from("VACUUM"),
            17 => format!("VACUUM {schema}"),
            18 => format!("PRAGMA page_size={}", self.pick(&PAGE_SIZES)),
            19 => String::from("PRAGMA shrink_memory"),
            20 => String::from("PRAGMA query_only=OFF"),
            _ => format!("PRAGMA journal_size_limit={}", self.pick(&[0, 1000, -1])),
        }
    }
}

fn create_table(schema: &str, number: u32) -> String {
    format!("CREATE TABLE IF NOT EXISTS {schema}.t{number}(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c BLOB)")
}

fn word(number: i32) -> String {
    format!("word {}", number.rem_euclid(37))
}
