//! A pwal over a disk and a base VFS that a test may look into, stop, and break.
//!
//! Hooks run without a lock held, so they may use SQLite themselves.

use crate::{Scratch, shim::Shim, shim::Verdict};
use pwal::internal::disk::RealDisk;
use pwal::internal::disk::fault::{DIRECTORY_NAME, Operation, PLACEHOLDER_NAME};
use pwal::internal::disk::hooked::{self, Hook, HookedDisk};
use rusqlite::Connection;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::Duration;

/// What is done to a file of the log or to its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    Open,
    Read,
    Write,
    Sync,
    Remove,
}

/// Before the call: an error is its result, and nothing is done. After it (`done`): an error replaces its result.
pub struct Moment<'a> {
    pub call: Call,
    /// The file's name; `(directory)`, `(parent)`.
    pub name: &'a str,
    pub done: bool,
}

type MomentHook = dyn Fn(&Moment<'_>) -> io::Result<()> + Send + Sync;

#[derive(Clone, Default)]
pub struct Hooks {
    hook: Arc<RwLock<Option<Arc<MomentHook>>>>,
    /// The placeholder is there, and is being removed.
    removes_placeholder: Arc<AtomicBool>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    fn ask(&self, call: Call, name: &str, done: bool) -> io::Result<()> {
        let hook = self.hook.read().unwrap().clone();
        hook.map_or(Ok(()), |hook| hook(&Moment { call, name, done }))
    }
}

pub fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Hooks {
    fn sees(&self, call: &hooked::Call<'_>) -> Option<Call> {
        match call.operation {
            Operation::Create if call.name == DIRECTORY_NAME => None,
            // Every open asks.
            Operation::Remove if call.name == PLACEHOLDER_NAME && !self.removes_placeholder.load(SeqCst) => None,
            Operation::Create => Some(Call::Create),
            Operation::Open => Some(Call::Open),
            Operation::Read => Some(Call::Read),
            Operation::Write | Operation::Allocate | Operation::SetBytes => Some(Call::Write),
            Operation::Sync => Some(Call::Sync),
            Operation::Remove => Some(Call::Remove),
            Operation::List | Operation::Rename => None,
        }
    }
}

fn placeholder(log: &Path) -> PathBuf {
    let log = log.display().to_string();
    PathBuf::from(format!("{}-wal", log.strip_suffix("-pwal").expect("the name of a log directory")))
}

impl Hook for Hooks {
    fn before(&self, call: &hooked::Call<'_>) -> hooked::Verdict {
        if call.operation == Operation::Remove && call.name == PLACEHOLDER_NAME {
            self.removes_placeholder.store(placeholder(call.directory).is_dir(), SeqCst);
        }
        match self.sees(call).map_or(Ok(()), |what| self.ask(what, call.name, false)) {
            Ok(()) => hooked::Verdict::Pass,
            Err(error) => hooked::Verdict::Fail(error),
        }
    }

    fn after(&self, call: &hooked::Call<'_>) -> io::Result<()> {
        self.sees(call).map_or(Ok(()), |what| self.ask(what, call.name, true))
    }
}

/// A VFS of its own, a directory, and the two places where things can be made to fail.
pub struct Lab {
    pub scratch: Scratch,
    pub vfs: String,
    hooks: Hooks,
    /// Calls of the base VFS whose text contains the word are answered with the code.
    base_fails: Arc<Mutex<Vec<(&'static str, i32)>>>,
    base_hook: Arc<RwLock<Option<Arc<BaseHook>>>>,
}

/// Sees the text of each call of the base VFS, and may answer it.
type BaseHook = dyn Fn(&str) -> Option<i32> + Send + Sync;

impl Lab {
    pub fn new() -> Lab {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, SeqCst);
        let (base, vfs) = (format!("engine-base-{number}"), format!("engine-{number}"));
        let base_fails: Arc<Mutex<Vec<(&'static str, i32)>>> = Arc::default();
        let fails = Arc::clone(&base_fails);
        let base_hook: Arc<RwLock<Option<Arc<BaseHook>>>> = Arc::default();
        let hook_of_base = Arc::clone(&base_hook);
        Shim::register(&base, crate::STOCK, false).hook(move |moment| {
            let hook = hook_of_base.read().unwrap().clone();
            if let Some(code) = hook.and_then(|hook| hook(moment.text)) {
                return Verdict::Answer(code);
            }
            let fails = fails.lock().unwrap();
            fails
                .iter()
                .find(|(word, _)| moment.text.contains(word))
                .map_or(Verdict::Pass, |(_, c)| Verdict::Answer(*c))
        });
        let hooks = Hooks::default();
        let disk = HookedDisk::new(Arc::new(RealDisk), Arc::new(hooks.clone()));
        pwal::Vfs::builder().name(&vfs).base(base).disk(Arc::new(disk)).register().expect("pwal registers");
        Lab { scratch: Scratch::new(), vfs, hooks, base_fails, base_hook }
    }

    pub fn hook(&self, hook: impl Fn(&Moment<'_>) -> io::Result<()> + Send + Sync + 'static) {
        *self.hooks.hook.write().unwrap() = Some(Arc::new(hook));
    }

    /// Holds one sync of a segment: `after` it, or before it is begun. The first gate is open once a thread is there; it goes on when
    /// the second one is opened.
    pub fn hold_a_sync(&self, after: bool) -> (Gate, Gate) {
        let (there, go_on, once) = (Gate::default(), Gate::default(), Once::default());
        let (reached, wait) = (there.clone(), go_on.clone());
        self.hook(move |moment| {
            if moment.call == Call::Sync && moment.name.ends_with(".seg") && moment.done == after && once.first() {
                reached.open();
                wait.pass();
            }
            Ok(())
        });
        (there, go_on)
    }

    pub fn hook_base(&self, hook: impl Fn(&str) -> Option<i32> + Send + Sync + 'static) {
        *self.base_hook.write().unwrap() = Some(Arc::new(hook));
    }

    pub fn unhook(&self) {
        *self.hooks.hook.write().unwrap() = None;
        *self.base_hook.write().unwrap() = None;
    }

    /// Calls of the base VFS that contain `word` (`a.db: write`) are answered with `code` from now on.
    pub fn base_fails(&self, word: &'static str, code: i32) {
        self.base_fails.lock().unwrap().push((word, code));
    }

    /// For a hook.
    pub fn base_failures(&self) -> Arc<Mutex<Vec<(&'static str, i32)>>> {
        Arc::clone(&self.base_fails)
    }

    pub fn base_works(&self) {
        self.base_fails.lock().unwrap().clear();
    }

    pub fn path(&self) -> PathBuf {
        self.scratch.file("a.db")
    }

    pub fn open(&self, name: &str) -> Connection {
        let connection = crate::try_open(&self.scratch.file(name), crate::flags(), &self.vfs).expect("open");
        connection.busy_timeout(Duration::ZERO).expect("no busy timeout");
        connection
    }

    /// A connection to `a.db` in WAL mode.
    pub fn wal(&self) -> Connection {
        let connection = self.open("a.db");
        crate::run(&connection, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL");
        connection
    }

    /// What a kill would leave of `a.db`, elsewhere.
    pub fn crash(&self) -> Crashed {
        copy_crashed(&self.path())
    }
}

/// A copy of a database and of its log directory.
pub struct Crashed {
    _scratch: Scratch,
    path: PathBuf,
}

/// What a kill would leave of the database at `path`, elsewhere.
pub fn copy_crashed(path: &Path) -> Crashed {
    let scratch = Scratch::new();
    let copy = scratch.file("a.db");
    std::fs::copy(path, &copy).expect("copy the database");
    let beside = |path: &Path| PathBuf::from(format!("{}-pwal", path.display()));
    if let Ok(files) = std::fs::read_dir(beside(path)) {
        std::fs::create_dir(beside(&copy)).expect("a directory");
        for file in files.flatten() {
            // The background thread may be making a segment.
            let copied = std::fs::copy(file.path(), beside(&copy).join(file.file_name()));
            assert!(copied.is_ok() || !file.path().exists(), "copy the log: {copied:?}");
        }
    }
    Crashed { _scratch: scratch, path: copy }
}

impl Crashed {
    /// Opens the copy, on the real disk.
    pub fn open(&self) -> Connection {
        crate::open(&self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Something that a thread waits for.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *self.0.0.lock().unwrap()
    }

    /// Waits until it is open; a minute is a failure.
    pub fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        let (open, _) = self.0.1.wait_timeout_while(open, Duration::from_secs(60), |open| !*open).unwrap();
        assert!(*open, "the gate stays shut");
    }
}

/// True the first time.
#[derive(Clone, Default)]
pub struct Once(Arc<AtomicBool>);

impl Once {
    pub fn first(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }

    pub fn happened(&self) -> bool {
        self.0.load(SeqCst)
    }
}

/// Waits for something that another thread does; a minute is a failure.
pub fn wait_until(mut happened: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(std::time::Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn status(connection: &Connection, field: &str) -> serde_json::Value {
    let json: String = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).expect("status");
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    status[field].clone()
}
