//! One simulated machine: a disk that loses what is not synced, and a real directory that stands for what the kernel shows of it.
//!
//! All content is the simulated disk's. The real directory has the locks, the shared memory, `lock` and `control`, and a copy of
//! each file as its page cache holds it, for what is asked of the file system by path: the inode, the size, whether a journal
//! is there. After a crash the next machine begins with a directory made from the disk, at the same path: a journal names its
//! super-journal by it.

use super::{NAMES, sim_path};
use crate::disk::sim::{Dice, SimBeside, SimDirectory, SimDisk};
use crate::disk::{Disk, LogDirectory, LogFile, OpenMode};
use crate::log::format::{CONTROL_NAME, LOCK_NAME};
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};

/// What holds of one database when the machine stops at some moment, in numbers of its history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// The newest commit that a power cut may not take.
    pub must: usize,
    /// The newest one that the end of all processes may not take.
    pub kept: usize,
    /// The newest one that was answered.
    pub last: usize,
    /// The state if the commit that is under way is there.
    pub under_way: Option<u64>,
}

/// What a commit of several databases is to one of them.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub file: usize,
    /// In the history of the file.
    pub number: usize,
    pub has_journal: bool,
}

/// A commit of several databases. Those with a rollback journal all have it, or none: SQLite makes a super-journal where they
/// are two or more (`vdbeCommit`). Each other one has it or not.
#[derive(Clone, Debug)]
pub struct Set(pub Vec<Member>);

impl Set {
    fn with_journal(&self) -> impl Iterator<Item = &Member> {
        self.0.iter().filter(|member| member.has_journal)
    }

    pub fn has_super_journal(&self) -> bool {
        self.with_journal().count() > 1
    }

    /// Whether a database with a rollback journal has it, and all of them keep it.
    pub fn is_there(&self, states: &[usize]) -> bool {
        self.with_journal().any(|member| states[member.file] >= member.number)
    }

    /// Whether some have it and others not, where the files have these states: of all, and of those with a journal.
    pub fn is_split(&self, states: &[usize]) -> (bool, bool) {
        let has = |member: &Member| states[member.file] >= member.number;
        let differ = |has: Vec<bool>| has.contains(&true) && has.contains(&false);
        (differ(self.0.iter().map(has).collect()), differ(self.with_journal().map(has).collect()))
    }
}

/// What holds of all databases.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// By the number of the file.
    pub files: Vec<Promise>,
    pub sets: Vec<Set>,
}

/// How often something happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// A machine that could have stopped here.
pub struct Moment {
    pub disk: SimDisk,
    pub promises: Promises,
    /// The operation that was to come.
    pub place: String,
}

/// Chooses the moments.
pub struct Watch {
    pub dice: Dice,
    pub permille: u64,
    pub promises: Promises,
    pub moments: Vec<Moment>,
    pub most: usize,
}

/// One machine from its start to its end.
pub struct Machine {
    pub disk: SimDisk,
    real: PathBuf,
    watch: Mutex<Watch>,
    operations: AtomicU64,
    counts: Mutex<Counts>,
}

/// The machines by their real directories.
static MACHINES: Mutex<BTreeMap<PathBuf, Weak<Machine>>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// Where the machines of this thread lie, one after the other.
    static PLACE: tempfile::TempDir = {
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("pwal-power-");
        if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.expect("a directory")
    };
}

impl Machine {
    /// The machine starts with what is on the disk.
    pub fn start(disk: SimDisk, watch: Watch) -> Arc<Machine> {
        let real = PLACE.with(|place| place.path().join("sim"));
        let is_there = |real: &Path| MACHINES.lock().get(real).is_some_and(|machine| machine.strong_count() > 0);
        assert!(!is_there(&real), "the machine before is still there");
        if real.exists() {
            std::fs::remove_dir_all(&real).expect("an empty place");
        }
        std::fs::create_dir(&real).expect("a directory");
        for name in disk.names(Path::new("/sim")).unwrap_or_default() {
            let (from, to) = (Path::new("/sim").join(&name), real.join(&name));
            match disk.contents(&from) {
                Some((bytes, _)) => std::fs::write(to, bytes).expect("a file"),
                None => std::fs::create_dir(to).expect("a directory"),
            }
        }
        let machine = Arc::new(Machine {
            disk,
            real,
            watch: Mutex::new(watch),
            operations: AtomicU64::new(0),
            counts: Mutex::default(),
        });
        MACHINES.lock().insert(machine.real.clone(), Arc::downgrade(&machine));
        machine
    }

    /// The one whose directory a file lies in.
    pub fn of(path: &Path) -> Option<Arc<Machine>> {
        MACHINES.lock().get(path.parent()?)?.upgrade()
    }

    /// The real path of the database file.
    pub fn path(&self, file: usize) -> PathBuf {
        self.real(NAMES[file])
    }

    pub fn real(&self, name: &str) -> PathBuf {
        self.real.join(name)
    }

    /// The files beside the log of a database.
    pub fn beside(&self, file: usize) -> SimBeside {
        self.disk.beside(&sim_path(file))
    }

    pub fn promise(&self, file: usize, change: impl FnOnce(&mut Promise)) {
        change(&mut self.watch.lock().promises.files[file]);
    }

    pub fn sets(&self, change: impl FnOnce(&mut Vec<Set>)) {
        change(&mut self.watch.lock().promises.sets);
    }

    /// What holds now.
    pub fn current(&self) -> Promises {
        let mut promises = self.watch.lock().promises.clone();
        // A failed operation may have taken what only the cache held.
        if self.disk.plan().fired() > 0 {
            promises.files.iter_mut().for_each(|promise| promise.kept = promise.must);
        }
        promises
    }

    pub fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    pub fn take_moments(&self) -> Vec<Moment> {
        std::mem::take(&mut self.watch.lock().moments)
    }

    pub fn operations(&self) -> u64 {
        self.operations.load(SeqCst)
    }

    /// Before each operation that changes something.
    pub fn tick(&self, operation: &str, name: &str) {
        self.operations.fetch_add(1, SeqCst);
        match operation {
            "create" if name.ends_with(".seg") => self.count("segments made"),
            "create" if name.starts_with("retired") => self.count("logs retired"),
            _ => {}
        }
        if std::env::var_os("PWAL_TEST_TALK").is_some() {
            println!("    {operation} {name}");
        }
        let is_chosen = {
            let mut watch = self.watch.lock();
            let permille = watch.permille;
            watch.moments.len() < watch.most && watch.dice.below(1000) < permille
        };
        if is_chosen {
            let promises = self.current();
            let mut watch = self.watch.lock();
            let disk = self.disk.deep_clone(watch.dice.next());
            watch.moments.push(Moment { disk, promises, place: format!("{operation} {name}") });
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        MACHINES.lock().remove(&self.real);
    }
}

/// Finds the machine of a database, and the log on its disk.
#[derive(Debug)]
pub struct PowerDisk;

impl Disk for PowerDisk {
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory> {
        let machine = Machine::of(database).expect("a database of a simulated machine");
        let file = NAMES.iter().position(|name| database.ends_with(name)).expect("a database of ours");
        let path = PathBuf::from(format!("{}-pwal", database.display()));
        Arc::new(Directory { inner: machine.disk.directory(&sim_path(file)), path, file, machine })
    }

    fn sector_bytes(&self, database: &Path) -> u32 {
        Machine::of(database).expect("a database of a simulated machine").disk.sector_bytes(database)
    }
}

struct Directory {
    inner: SimDirectory,
    path: PathBuf,
    /// The database's number.
    file: usize,
    machine: Arc<Machine>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

fn is_real(name: &str) -> bool {
    name == LOCK_NAME || name == CONTROL_NAME
}

impl Directory {
    fn placeholder(&self) -> PathBuf {
        self.machine.real(&format!("{}-wal", NAMES[self.file]))
    }
}

impl LogDirectory for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self) -> io::Result<()> {
        self.machine.tick("create", "the log directory");
        self.inner.create()?;
        std::fs::create_dir_all(&self.path)
    }

    fn exists(&self) -> io::Result<bool> {
        self.inner.exists()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.inner.list()?;
        let real = [CONTROL_NAME, LOCK_NAME].into_iter().filter(|name| self.path.join(name).exists());
        names.extend(real.map(str::to_owned));
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        if how == OpenMode::CreateNew {
            self.machine.tick("create", name);
        }
        let inner = self.inner.open_file(name, how)?;
        Ok(Arc::new(File { inner, name: name.to_owned(), machine: Arc::clone(&self.machine) }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !is_real(name) {
            self.machine.tick("remove", name);
            return self.inner.remove(name);
        }
        match std::fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.tick("sync", "the log directory");
        self.inner.sync()
    }

    fn sync_parent(&self) -> io::Result<()> {
        self.machine.tick("sync", "the parent");
        self.inner.sync_parent()
    }

    fn sync_beside(&self, suffix: &str) -> io::Result<()> {
        match self.machine.beside(self.file).open(&format!("{}{suffix}", NAMES[self.file]), false) {
            Ok(file) => {
                self.machine.tick("sync", &format!("{suffix} for the log"));
                file.sync()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn remove_directory(&self) -> io::Result<bool> {
        if [CONTROL_NAME, LOCK_NAME].iter().any(|name| self.path.join(name).exists()) {
            return Ok(false);
        }
        self.machine.tick("remove", "the log directory");
        Ok(self.inner.remove_directory()? && std::fs::remove_dir(&self.path).is_ok())
    }

    fn create_placeholder(&self) -> io::Result<bool> {
        if std::fs::symlink_metadata(self.placeholder()).is_ok_and(|there| !there.is_dir()) {
            return Ok(false);
        }
        self.machine.tick("create", "the placeholder");
        let made = self.inner.create_placeholder()?;
        std::fs::create_dir_all(self.placeholder())?;
        Ok(made)
    }

    fn remove_placeholder(&self) -> io::Result<()> {
        if !std::fs::symlink_metadata(self.placeholder()).is_ok_and(|there| there.is_dir()) {
            return Ok(());
        }
        self.machine.tick("remove", "the placeholder");
        self.inner.remove_placeholder()?;
        std::fs::remove_dir(self.placeholder())
    }

    fn rename(&self, suffix: &str) -> io::Result<()> {
        self.machine.tick("rename", "the log directory");
        self.inner.rename(suffix)?;
        std::fs::rename(&self.path, format!("{}.{suffix}", self.path.display()))
    }
}

struct File {
    inner: crate::disk::sim::SimLogFile,
    name: String,
    machine: Arc<Machine>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name.fmt(f)
    }
}

impl LogFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.machine.tick("write", &self.name);
        if self.name.ends_with(".spill") && offset >= 4 * 4096 {
            self.machine.count("writes to spills of many blocks");
        }
        self.inner.write_at(parts, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.machine.tick("write", &self.name);
        self.machine.count("segments allocated");
        self.inner.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.tick("sync", &self.name);
        self.inner.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn truncate(&self) -> io::Result<()> {
        self.machine.tick("truncate", &self.name);
        self.inner.truncate()
    }
}
