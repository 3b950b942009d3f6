//! A simulated disk: files and directories in memory, with a page cache between them and a medium.
//!
//! It is for tests, of this crate and of crates that embed it. What is not synced survives a power cut old, new, in an
//! intermediate state, or torn; a failed sync leaves pages that read as written and are not on the medium; names in
//! directories need their own syncs. Everything is decided by one seed. The same traits are implemented by the real
//! disk, so that the code under test is the code that users run.

mod beside;
mod dice;
mod file;
mod open;

pub use beside::{SimBeside, SimBesideFile};
pub use dice::Dice;
pub use open::{SimDatabase, SimLogFile};

use super::fault::{DATABASE_NAME, DIRECTORY_NAME, Effect, Operation, PARENT_NAME, PLACEHOLDER_NAME, Plan};
use super::{Disk, LogDirectory, LogFile, OpenMode};
use crate::sync::Mutex;
use file::{SECTOR_BYTES, SimFile, last_survivor};
use open::SimHandle;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a power cut does to what is not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut {
    /// The share of unsynced pages, in per cent, that survive with their newest bytes.
    pub keep_percent: u32,
    /// A sector may come out as garbage (never that of the database header).
    pub tears_sectors: bool,
    /// Also one that was rewritten with the bytes that it had.
    pub tears_same_bytes: bool,
    /// What may become of the sector of the database header.
    pub tears_header: HeaderTear,
}

/// What a power cut may do to the first sector of the database file while it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderTear {
    /// It is written whole or not at all.
    #[default]
    Never,
    /// It may come out mixed from the old and the new fields of the stamp.
    Mixed,
    /// It may come out as garbage, as zeros, or half new and half old.
    Garbage,
}

type FileId = usize;
/// Names and the files that they get; `None`: the name goes.
type Renames = Vec<(String, Option<FileId>)>;

/// A directory: names to files, with the changes that are not synced.
#[derive(Clone, Debug, Default)]
struct SimNames {
    cache: BTreeMap<String, FileId>,
    medium: BTreeMap<String, FileId>,
    /// Changes that happen together or not at all.
    pending: Vec<(u64, Renames)>,
}

impl SimNames {
    fn change(&mut self, clock: u64, changes: Renames) {
        apply(&mut self.cache, &changes);
        self.pending.push((clock, changes));
    }

    fn sync(&mut self, clock: u64) {
        let covered = self.pending.partition_point(|(at, _)| *at <= clock);
        for (_, changes) in self.pending.drain(..covered) {
            apply(&mut self.medium, &changes);
        }
    }

    fn power_cut(&mut self, how: &PowerCut, dice: &mut Dice) {
        for change in std::mem::take(&mut self.pending) {
            if let Some((_, changes)) = last_survivor(&[change], how, dice) {
                apply(&mut self.medium, &changes);
            }
        }
        self.cache.clone_from(&self.medium);
    }
}

fn apply(names: &mut BTreeMap<String, FileId>, changes: &[(String, Option<FileId>)]) {
    for (name, file) in changes {
        match file {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
    }
}

#[derive(Clone, Debug)]
enum Node {
    File(SimFile),
    Directory(SimNames),
}

#[derive(Clone, Debug)]
struct State {
    nodes: Vec<Node>,
    /// The directories that databases lie in; they exist from the start.
    parents: BTreeMap<PathBuf, FileId>,
    clock: u64,
    dice: Dice,
    operations: u64,
    /// Operations that still work; at 0 the machine stops.
    fuse: Option<u64>,
    /// Writes to the first sector of a database file that still work; after the next one the machine stops.
    header_fuse: Option<u64>,
    is_off: bool,
    /// Handles of an earlier one belong to a dead process.
    incarnation: u64,
    /// A failed sync is reported to each file that was open then, as by Linux; else only to the one that requested it.
    reports_each: bool,
    /// The bytes that all files together may have.
    capacity: Option<u64>,
    /// What [`Disk::sector_bytes`] says.
    sector_bytes: u32,
}

/// The simulated disk; clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    plan: Plan,
}

/// A point in time; what was written before it is covered by the sync that took it.
#[derive(Clone, Copy, Debug)]
pub struct SyncToken(u64);

impl SimDisk {
    /// An empty disk, whose dice start with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            nodes: Vec::new(),
            parents: BTreeMap::new(),
            clock: 0,
            dice: Dice::new(seed),
            operations: 0,
            fuse: None,
            header_fuse: None,
            is_off: false,
            incarnation: 0,
            reports_each: false,
            capacity: None,
            sector_bytes: SECTOR_BYTES as u32,
        };
        SimDisk { state: Arc::new(Mutex::new(state)), plan: Plan::default() }
    }

    /// The failures that are planned for this disk.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The database file at `path`, made durably empty if it is not there.
    #[must_use]
    pub fn database(&self, path: &Path) -> SimDatabase {
        let mut state = self.state.lock();
        let parent = state.parent(path);
        let name = name_of(path);
        let file = match state.names(parent).cache.get(&name).copied() {
            Some(file) => file,
            None => {
                state.nodes.push(Node::File(SimFile::database()));
                let file = state.nodes.len() - 1;
                let names = state.names(parent);
                names.cache.insert(name.clone(), file);
                names.medium.insert(name, file);
                file
            }
        };
        let incarnation = state.incarnation;
        SimDatabase { handle: SimHandle::new(self, &mut state, file, incarnation) }
    }

    /// How many operations that change something were done so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// The machine stops in the operation after this number of operations: it is done in part, and every later one
    /// fails, until [`SimDisk::kill`] or [`SimDisk::power_cut`].
    pub fn stop_after(&self, operations: u64) {
        self.state.lock().fuse = Some(operations);
    }

    /// The disk says that its sectors have this size in bytes, so that a log that begins has blocks of it.
    pub fn set_sector_bytes(&self, bytes: u32) {
        self.state.lock().sector_bytes = bytes;
    }

    /// From here on a failed sync is reported to each file that is open then, at its next sync; else only to the one
    /// that requested it.
    pub fn report_each(&self) {
        self.state.lock().reports_each = true;
    }

    /// The machine stops after the next write to the first sector of a database file but `writes`.
    pub fn stop_behind_header(&self, writes: u64) {
        self.state.lock().header_fuse = Some(writes);
    }

    /// Whether the machine has stopped.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().is_off
    }

    /// The process dies: open handles fail from now on; the page cache stays.
    pub fn kill(&self) {
        self.state.lock().restart();
    }

    /// The power goes: open handles fail from now on; of what was not synced survives what the dice say.
    pub fn power_cut(&self, how: &PowerCut) {
        let mut state = self.state.lock();
        state.restart();
        let State { nodes, dice, .. } = &mut *state;
        for node in nodes {
            match node {
                Node::File(file) => file.power_cut(how, dice),
                Node::Directory(names) => names.power_cut(how, dice),
            }
        }
    }

    /// How many sectors came out of a power cut as garbage though they were rewritten with the bytes that they had.
    #[must_use]
    pub fn same_bytes_torn(&self) -> u64 {
        let state = self.state.lock();
        let files = state.nodes.iter().filter_map(|node| match node {
            Node::File(file) => Some(file.same_bytes_torn()),
            Node::Directory(_) => None,
        });
        files.sum()
    }

    /// How often a power cut left the first sector of a database file as garbage.
    #[must_use]
    pub fn headers_lost(&self) -> u64 {
        let state = self.state.lock();
        let lost = |node: &Node| if let Node::File(file) = node { file.headers_lost() } else { 0 };
        state.nodes.iter().map(lost).sum()
    }

    /// A copy of the whole disk as it is, with dice and failures of its own.
    #[must_use]
    pub fn deep_clone(&self, seed: u64) -> SimDisk {
        let mut state = self.state.lock().clone();
        state.dice = Dice::new(seed);
        SimDisk { state: Arc::new(Mutex::new(state)), plan: Plan::default() }
    }

    /// Half of the clean pages leave the cache.
    pub fn evict(&self) {
        let mut state = self.state.lock();
        let State { nodes, dice, .. } = &mut *state;
        for node in nodes {
            if let Node::File(file) = node {
                file.evict(dice);
            }
        }
    }

    /// What readers see of the file at `path`, and what the medium holds of it for certain; `None` if there is none.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut state = self.state.lock();
        let id = state.find(path)?;
        match &state.nodes[id] {
            Node::File(file) => Some((file.cached().to_vec(), file.medium().to_vec())),
            Node::Directory(_) => None,
        }
    }

    /// The names in the directory at `path` as readers see them; `None` if there is none.
    #[must_use]
    pub fn names(&self, path: &Path) -> Option<Vec<String>> {
        let mut state = self.state.lock();
        let id = state.parents.get(path).copied().or_else(|| state.find(path))?;
        match &state.nodes[id] {
            Node::Directory(names) => Some(names.cache.keys().cloned().collect()),
            Node::File(_) => None,
        }
    }

    /// Changes the file at `path` in the cache and on the medium alike, unnoticed.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        if let Some(id) = state.find(path)
            && let Node::File(file) = &mut state.nodes[id]
        {
            file.edit(change);
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn off() -> io::Error {
    io::Error::other("the simulated machine is off")
}

impl State {
    fn parent(&mut self, path: &Path) -> FileId {
        let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
        if let Some(id) = self.parents.get(&parent) {
            return *id;
        }
        self.nodes.push(Node::Directory(SimNames::default()));
        let id = self.nodes.len() - 1;
        self.parents.insert(parent, id);
        id
    }

    fn names(&mut self, id: FileId) -> &mut SimNames {
        match &mut self.nodes[id] {
            Node::Directory(names) => names,
            Node::File(_) => unreachable!("a directory's number names a file"),
        }
    }

    fn file(&mut self, id: FileId) -> &mut SimFile {
        match &mut self.nodes[id] {
            Node::File(file) => file,
            Node::Directory(_) => unreachable!("a file's number names a directory"),
        }
    }

    fn find(&mut self, path: &Path) -> Option<FileId> {
        let directory = path.parent()?;
        let id = match self.parents.get(directory) {
            Some(id) => *id,
            None => {
                let parent = self.parent(directory);
                *self.names(parent).cache.get(&name_of(directory))?
            }
        };
        self.names(id).cache.get(&name_of(path)).copied()
    }

    fn restart(&mut self) {
        self.incarnation += 1;
        self.fuse = None;
        self.header_fuse = None;
        self.is_off = false;
    }

    /// Whether a process of this incarnation can still do something.
    fn check(&self, incarnation: u64) -> io::Result<()> {
        if self.is_off || incarnation != self.incarnation { Err(off()) } else { Ok(()) }
    }

    /// Begins an operation that changes something; `Ok(false)`: it is the one that the machine stops in.
    fn begin(&mut self, incarnation: u64) -> io::Result<bool> {
        self.check(incarnation)?;
        self.operations += 1;
        self.clock += 1;
        match &mut self.fuse {
            Some(0) => {
                self.is_off = true;
                Ok(false)
            }
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => Ok(true),
        }
    }
}

impl Disk for SimDisk {
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory> {
        Arc::new(self.directory(database))
    }

    fn sector_bytes(&self, _database: &Path) -> u32 {
        self.state.lock().sector_bytes
    }
}

impl SimDisk {
    /// As [`Disk::log_directory`], with its own type.
    #[must_use]
    pub fn directory(&self, database: &Path) -> SimDirectory {
        let mut state = self.state.lock();
        let parent = state.parent(database);
        let (name, placeholder) = (name_of(database) + "-pwal", name_of(database) + "-wal");
        SimDirectory {
            disk: self.clone(),
            path: database.with_file_name(&name),
            parent,
            name,
            placeholder,
            incarnation: state.incarnation,
        }
    }
}

/// The log directory of a database file on a [`SimDisk`].
#[derive(Clone, Debug)]
pub struct SimDirectory {
    disk: SimDisk,
    path: PathBuf,
    parent: FileId,
    name: String,
    placeholder: String,
    incarnation: u64,
}

impl SimDirectory {
    fn id(&self, state: &mut State) -> Option<FileId> {
        state.names(self.parent).cache.get(&self.name).copied()
    }

    fn own(&self, state: &mut State) -> io::Result<FileId> {
        self.id(state).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// An operation on names: all of it, or, where the machine stops in it, all or nothing.
    fn change(&self, state: &mut State, operation: Operation, name: &str) -> io::Result<()> {
        state.check(self.incarnation)?;
        strike(&self.disk.plan, operation, name)?;
        if state.begin(self.incarnation)? || state.dice.percent(50) { Ok(()) } else { Err(off()) }
    }

    fn sync_names(&self, id: FileId, name: &str) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        strike(&self.disk.plan, Operation::Sync, name)?;
        let runs = state.begin(self.incarnation)?;
        let clock = state.clock;
        if runs || state.dice.percent(50) {
            state.names(id).sync(clock);
        }
        if runs { Ok(()) } else { Err(off()) }
    }
}

fn strike(plan: &Plan, operation: Operation, name: &str) -> io::Result<()> {
    plan.strike(operation, name).map_or(Ok(()), |effect| Err(effect.error()))
}

impl LogDirectory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if self.id(&mut state).is_some() {
            return state.check(self.incarnation);
        }
        self.change(&mut state, Operation::Create, DIRECTORY_NAME)?;
        state.nodes.push(Node::Directory(SimNames::default()));
        let (id, clock) = (state.nodes.len() - 1, state.clock);
        state.names(self.parent).change(clock, vec![(self.name.clone(), Some(id))]);
        state.check(self.incarnation)
    }

    fn exists(&self) -> io::Result<bool> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        Ok(self.id(&mut state).is_some())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        strike(&self.disk.plan, Operation::Read, DIRECTORY_NAME)?;
        let Some(id) = self.id(&mut state) else { return Ok(Vec::new()) };
        Ok(state.names(id).cache.keys().cloned().collect())
    }

    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(self.open_file(name, how)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let Some(id) = self.id(&mut state) else { return Ok(()) };
        if !state.names(id).cache.contains_key(name) {
            return Ok(());
        }
        self.change(&mut state, Operation::Remove, name)?;
        let clock = state.clock;
        state.names(id).change(clock, vec![(name.to_owned(), None)]);
        state.check(self.incarnation)
    }

    fn sync(&self) -> io::Result<()> {
        let id = self.own(&mut self.disk.state.lock())?;
        self.sync_names(id, DIRECTORY_NAME)
    }

    fn sync_parent(&self) -> io::Result<()> {
        self.sync_names(self.parent, PARENT_NAME)
    }

    fn remove_directory(&self) -> io::Result<bool> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let Some(id) = self.id(&mut state) else { return Ok(true) };
        if !state.names(id).cache.is_empty() {
            return Ok(false);
        }
        self.change(&mut state, Operation::Remove, DIRECTORY_NAME)?;
        let clock = state.clock;
        state.names(self.parent).change(clock, vec![(self.name.clone(), None)]);
        state.check(self.incarnation)?;
        Ok(true)
    }

    fn create_placeholder(&self) -> io::Result<bool> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        if state.names(self.parent).cache.contains_key(&self.placeholder) {
            return Ok(true);
        }
        self.change(&mut state, Operation::Create, PLACEHOLDER_NAME)?;
        state.nodes.push(Node::Directory(SimNames::default()));
        let (id, clock) = (state.nodes.len() - 1, state.clock);
        state.names(self.parent).change(clock, vec![(self.placeholder.clone(), Some(id))]);
        state.check(self.incarnation)?;
        Ok(true)
    }

    fn remove_placeholder(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        if !state.names(self.parent).cache.contains_key(&self.placeholder) {
            return Ok(());
        }
        self.change(&mut state, Operation::Remove, PLACEHOLDER_NAME)?;
        let clock = state.clock;
        state.names(self.parent).change(clock, vec![(self.placeholder.clone(), None)]);
        state.check(self.incarnation)
    }

    fn rename(&self, suffix: &str) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let id = self.own(&mut state)?;
        let to = format!("{}.{suffix}", self.name);
        if let Some(taken) = state.names(self.parent).cache.get(&to).copied()
            && !state.names(taken).cache.is_empty()
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(&mut state, Operation::Remove, DIRECTORY_NAME)?;
        let clock = state.clock;
        state.names(self.parent).change(clock, vec![(self.name.clone(), None), (to, Some(id))]);
        state.check(self.incarnation)
    }
}

impl SimDirectory {
    /// As [`LogDirectory::open`], with its own type.
    ///
    /// # Errors
    /// As there.
    pub fn open_file(&self, name: &str, how: OpenMode) -> io::Result<SimLogFile> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let id = self.own(&mut state)?;
        let known = state.names(id).cache.get(name).copied();
        let file = match (known, how) {
            (Some(_), OpenMode::CreateNew) => {
                // The kernel takes a descriptor before it looks at the name.
                strike(&self.disk.plan, Operation::Create, name)?;
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (None, OpenMode::CreateNew) => {
                self.change(&mut state, Operation::Create, name)?;
                state.nodes.push(Node::File(SimFile::of_log()));
                let (file, clock) = (state.nodes.len() - 1, state.clock);
                state.names(id).change(clock, vec![(name.to_owned(), Some(file))]);
                state.check(self.incarnation)?;
                file
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
            (Some(file), _) => {
                strike(&self.disk.plan, Operation::Open, name)?;
                file
            }
        };
        let handle = SimHandle::new(&self.disk, &mut state, file, self.incarnation);
        Ok(SimLogFile { handle, directory: id, name: name.to_owned(), how })
    }
}
