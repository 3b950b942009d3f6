//! SQLite's allocator fails at one call of a life, or from that call on: a statement gets the code that stock SQLite gives it, what was
//! acknowledged is there and what was refused is not, and everything works when there is memory again.
//!
//! `PWAL_TEST_STRIDE=1` tries each call (the default takes a sample). And a process without address space (`ulimit -v`): where Rust's
//! allocator gets none the process ends, as by a kill, and nothing acknowledged is lost.

use rusqlite::{Connection, ffi};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use support::scene::watchdog;
use support::{Scratch, child, code_of, env_number, run};

type Malloc = unsafe extern "C" fn(c_int) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

/// The allocator that SQLite comes with.
static BELOW: OnceLock<(Malloc, Realloc)> = OnceLock::new();
/// Calls up to the one that fails; not positive: that one is over.
static LEFT: AtomicI64 = AtomicI64::new(0);
static ARMED: AtomicBool = AtomicBool::new(false);
/// All calls after it fail, too.
static GOES_ON: AtomicBool = AtomicBool::new(false);
static FAILED: AtomicU64 = AtomicU64::new(0);

fn below() -> &'static (Malloc, Realloc) {
    BELOW.get().expect("the allocator below")
}

fn fails() -> bool {
    if !ARMED.load(SeqCst) {
        return false;
    }
    let left = LEFT.fetch_sub(1, SeqCst);
    let fails = left == 1 || left < 1 && GOES_ON.load(SeqCst);
    FAILED.fetch_add(u64::from(fails), SeqCst);
    fails
}

unsafe extern "C" fn malloc(bytes: c_int) -> *mut c_void {
    // SAFETY: SQLite's own call, passed on.
    if fails() { std::ptr::null_mut() } else { unsafe { (below().0)(bytes) } }
}

unsafe extern "C" fn realloc(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    // SAFETY: as above.
    if fails() { std::ptr::null_mut() } else { unsafe { (below().1)(memory, bytes) } }
}

/// Before SQLite is used for the first time. Without lookaside memory, each small object is a call.
fn install() {
    // SAFETY: SQLite is not initialized yet; the structures live through the calls, which copy them.
    unsafe {
        let mut methods: ffi::sqlite3_mem_methods = std::mem::zeroed();
        assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods), ffi::SQLITE_OK);
        let below = (methods.xMalloc.expect("a method"), methods.xRealloc.expect("a method"));
        assert!(BELOW.set(below).is_ok());
        methods.xMalloc = Some(malloc);
        methods.xRealloc = Some(realloc);
        assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods), ffi::SQLITE_OK);
        assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, 0 as c_int, 0 as c_int), ffi::SQLITE_OK);
    }
}

/// Of one database: what was acknowledged, and what was answered.
#[derive(Default)]
struct Life {
    rows: BTreeSet<i64>,
    codes: BTreeMap<i32, u64>,
    what: String,
}

impl Life {
    fn count(&mut self, code: i32) -> bool {
        *self.codes.entry(code).or_default() += 1;
        code == ffi::SQLITE_OK
    }

    fn open(&mut self, path: &Path) -> Option<Connection> {
        match support::try_open(path, support::flags(), support::vfs()) {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.count(support::code(&error));
                None
            }
        }
    }

    fn does(&mut self, connection: &Connection, sql: &str) -> bool {
        let code = code_of(connection, sql);
        self.count(code)
    }

    /// A row, in a statement of its own.
    fn insert(&mut self, connection: &Connection, row: i64) {
        if self.does(connection, &format!("INSERT INTO t VALUES({row}, zeroblob(300))")) {
            self.rows.insert(row);
        }
    }

    /// Rows by a transaction that is larger than the caches.
    fn insert_many(&mut self, connection: &Connection, rows: std::ops::Range<i64>) {
        let (from, to) = (rows.start, rows.end);
        let insert = format!(
            "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to} - 1)
             INSERT INTO t SELECT i, randomblob(2000) FROM n"
        );
        let done = ["BEGIN IMMEDIATE", &insert, "COMMIT"].iter().all(|sql| self.does(connection, sql));
        if done {
            self.rows.extend(rows);
        } else if !connection.is_autocommit() {
            // There is memory for that at the latest when there is memory.
            if code_of(connection, "ROLLBACK") != 0 {
                ARMED.store(false, SeqCst);
                run(connection, "ROLLBACK");
            }
        }
    }

    fn sees(&mut self, connection: &Connection) {
        match support::rows(connection, "SELECT id FROM t ORDER BY id") {
            Ok(rows) => {
                let rows: BTreeSet<i64> = rows.iter().map(|row| row.parse().expect("a number")).collect();
                assert_eq!(rows, self.rows, "{}: rows against acknowledgements", self.what);
            }
            Err(error) => {
                self.count(support::code(&error));
            }
        }
    }

    fn play(&mut self, path: &Path) {
        let Some(one) = self.open(path) else { return };
        for sql in ["PRAGMA parallel_wal_max_batch_bytes=65536", "PRAGMA cache_size=10", "PRAGMA synchronous=FULL"] {
            self.does(&one, sql);
        }
        self.insert(&one, 1);
        self.insert(&one, 2);
        let two = self.open(path);
        if let Some(two) = &two {
            self.sees(two);
        }
        self.insert_many(&one, 100..200);
        if let Some(two) = &two {
            self.does(two, "PRAGMA synchronous=NORMAL");
            self.insert(two, 3);
            self.does(two, "PRAGMA wal_checkpoint(TRUNCATE)");
        }
        self.insert(&one, 4);
        self.does(&one, "SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; RELEASE s");
        if !one.is_autocommit() {
            ARMED.store(false, SeqCst);
            run(&one, "ROLLBACK");
        }
        for sql in ["PRAGMA parallel_wal_status", "SELECT pwal_status()", "VACUUM", "ATTACH ':memory:' AS b; DETACH b"]
        {
            self.does(&one, sql);
        }
        self.sees(&one);
        let is_alone = two.is_none();
        drop(two);
        self.does(&one, "PRAGMA journal_mode=DELETE");
        self.insert(&one, 5);
        self.does(&one, "PRAGMA journal_mode=WAL");
        self.insert(&one, 6);
        // Another one, which the first has open: there is memory again.
        ARMED.store(false, SeqCst);
        self.sees(&one);
        assert_eq!(code_of(&one, "INSERT INTO t VALUES(7, NULL)"), 0, "{}, alone {is_alone}", self.what);
        self.rows.insert(7);
    }
}

/// One life with the nth call failing: what was answered, and whether there were so many calls.
fn live(template: &Path, nth: i64, goes_on: bool, codes: &mut BTreeMap<i32, u64>) -> bool {
    let _watchdog = watchdog("a life without memory");
    let scratch = Scratch::in_memory();
    let path = scratch.file("a.db");
    copy(template, scratch.path());
    let mut life = Life { what: format!("call {nth}, goes on {goes_on}, {}", template.display()), ..Life::default() };
    life.rows.insert(0);
    FAILED.store(0, SeqCst);
    LEFT.store(nth, SeqCst);
    GOES_ON.store(goes_on, SeqCst);
    ARMED.store(true, SeqCst);
    life.play(&path);
    ARMED.store(false, SeqCst);
    let failed = FAILED.load(SeqCst) > 0;

    let again = support::open(&path);
    life.codes.remove(&0);
    for (code, count) in &life.codes {
        *codes.entry(*code).or_default() += count;
    }
    life.sees(&again);
    // It may have left that mode for good.
    run(&again, "PRAGMA journal_mode=WAL; INSERT INTO t VALUES(8, NULL)");
    support::assert_integrity(&again);
    support::close(again);
    support::assert_plain(&path);
    failed
}

/// The files of a directory, and of those in it.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            std::fs::create_dir(&to).expect("a directory");
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copy a file");
        }
    }
}

/// Two databases of one row: closed, and with a log that is to be recovered.
fn templates(scratch: &Scratch) -> [std::path::PathBuf; 2] {
    let plain = scratch.file("plain");
    std::fs::create_dir(&plain).expect("a directory");
    let connection = support::open_wal(&plain.join("a.db"));
    run(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    support::close(connection);
    let connection = support::open_wal(&plain.join("a.db"));
    run(&connection, "INSERT INTO t VALUES(0, zeroblob(5000))");
    let killed = scratch.file("killed");
    std::fs::create_dir(&killed).expect("a directory");
    copy(&plain, &killed);
    support::close(connection);
    [plain, killed]
}

#[test]
fn a_call_of_the_allocator_fails_and_nothing_else() {
    child::alone("no_memory::a_call_of_the_allocator_fails_and_nothing_else", || {
        install();
        let scratch = Scratch::in_memory();
        let stride = env_number("PWAL_TEST_STRIDE", 127) as i64;
        let (mut codes, mut lives, mut calls) = (BTreeMap::new(), 0, [0; 2]);
        for (calls, template) in calls.iter_mut().zip(templates(&scratch)) {
            for goes_on in [false, true] {
                let mut nth = 1;
                while live(&template, nth, goes_on, &mut codes) {
                    nth += stride;
                    lives += 1;
                }
                *calls = nth;
            }
        }
        eprintln!("{lives} lives of {calls:?} calls, refused with {codes:?}");
        assert!(calls.iter().all(|calls| *calls > 1_000), "{calls:?} calls");
    });
}

const NARROW: &str = "no_memory::child_has_little_address_space";

/// Bytes of address space that this process has.
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmSize:")).expect("VmSize");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

#[test]
fn child_has_little_address_space() {
    if !child::role(NARROW) {
        return;
    }
    let path = std::path::PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let more: u64 = child::setting("PWAL_TEST_LIMIT").parse().expect("bytes");
    let limit = rustix::process::Rlimit { current: Some(address_space() + more), maximum: None };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).expect("a limit");
    let mut life = Life::default();
    let connections: Vec<Connection> = (0..3).filter_map(|_| life.open(&path)).collect();
    for (at, connection) in connections.iter().cycle().take(30).enumerate() {
        let row = at as i64 + 1;
        let large = if at % 5 == 4 { 4_000_000 } else { 300 };
        let code = code_of(connection, &format!("INSERT INTO t VALUES({row}, zeroblob({large}))"));
        child::report(&format!("{code} {row}"));
    }
    let code = connections.first().map_or(0, |connection| code_of(connection, "PRAGMA wal_checkpoint"));
    child::report(&format!("{code} checkpoint"));
}

#[test]
fn a_process_without_address_space_loses_nothing() {
    let _watchdog = watchdog("no address space");
    let (mut ended, mut refused) = (0, 0);
    for more in [0, 256 << 10, 3 << 20, 20 << 20, 64 << 20] {
        let scratch = Scratch::in_memory();
        let [plain, killed] = templates(&scratch);
        for template in [plain, killed] {
            let path = template.join("a.db");
            let settings = [
                ("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned()),
                ("PWAL_TEST_LIMIT", more.to_string()),
            ];
            let mut narrow = child::start(NARROW, &settings);
            let mut rows = BTreeSet::from([0]);
            for line in narrow.lines.by_ref() {
                let (code, row) = line.split_once(' ').expect("a code");
                let code: i32 = code.parse().expect("a number");
                let is_known = [0, ffi::SQLITE_NOMEM, ffi::SQLITE_CANTOPEN, ffi::SQLITE_IOERR].contains(&(code & 0xff));
                assert!(is_known, "{more} bytes: {line}");
                refused += u32::from(code != 0);
                if let Ok(row) = row.parse::<i64>()
                    && code == 0
                {
                    rows.insert(row);
                }
            }
            let status = narrow.wait();
            ended += u32::from(!status.success());
            use std::os::unix::process::ExitStatusExt;
            let is_end = status.success() || status.signal() == Some(libc::SIGABRT) || status.code() == Some(101);
            assert!(is_end, "{more} bytes: {status}");
            let again = support::open(&path);
            let seen = support::rows(&again, "SELECT id FROM t").expect("the rows");
            let seen: BTreeSet<i64> = seen.iter().map(|row| row.parse().expect("a number")).collect();
            // The row that was under way when the process ended may be there.
            assert!(seen.is_superset(&rows) && seen.len() <= rows.len() + 1, "{more} bytes: {rows:?}, {seen:?}");
            support::assert_integrity(&again);
            support::close(again);
            support::assert_plain(&path);
        }
    }
    println!("{ended} processes ended, {refused} statements were refused");
}
