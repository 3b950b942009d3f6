//! Which processes have the files of a database open, as far as this user may see (Linux: `/proc`; elsewhere none).
//!
//! For display only: the owners of a database are known by the kernel's locks on `<database>-pwal/lock`.

use crate::database::DatabaseFile;
use pwal::internal::shared::{CONTROL_NAME, LOCK_NAME, ProcessInfo};
use rustix::fs::{major, minor};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How a process has the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It has `<database>-pwal/lock` open, or `control` mapped.
    Pwal,
    /// It has the database file open, but nothing of a log: stock SQLite, a copy, or a connection of pwal that has
    /// not read yet.
    Other,
    /// It holds a lock on the database file, and this user may not look at its files.
    Unknown,
}

/// One process that has the database file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opener {
    pub pid: u32,
    /// Its process ids, from ours to that in its own namespace.
    pids: Vec<u32>,
    pub command: String,
    pub way: Way,
    /// It holds SQLite's EXCLUSIVE on the database file.
    pub exclusive: bool,
    /// It was stopped by a signal or a debugger.
    pub stopped: bool,
    /// The user it runs as.
    pub user: Option<u32>,
}

impl fmt::Display for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

impl Opener {
    /// Whether it calls itself `pid` in its own namespace.
    pub fn is(&self, pid: u32) -> bool {
        self.pids.last() == Some(&pid)
    }
}

/// The processes that have a database open.
#[derive(Clone, Debug, Default)]
pub struct Openers {
    /// By process id.
    pub all: Vec<Opener>,
    /// Processes whose files this user may not look at.
    pub hidden: usize,
    /// Of those: their ids, as [`Opener::pids`], and whether they are stopped.
    unseen: Vec<(Vec<u32>, bool)>,
}

impl Openers {
    pub fn of(database: &DatabaseFile) -> Openers {
        let Some(files) = Files::of(database) else { return Openers::default() };
        let Ok(entries) = fs::read_dir("/proc") else { return Openers::default() };
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let locks: Vec<_> =
            locks.lines().filter_map(FileLock::parse).filter(|lock| lock.is_on(files.database)).collect();
        let mut found = Openers::default();
        for pid in entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()) {
            if pid == std::process::id() {
                continue;
            }
            let mine = || locks.iter().filter(|lock| lock.pid == i64::from(pid));
            let way = match files.way(pid) {
                Ok(way) => way,
                Err(Hidden) => {
                    let counts = !command_line(pid).is_empty();
                    found.hidden += usize::from(counts);
                    if counts {
                        let (pids, _, stopped) = status_of(pid);
                        found.unseen.push((pids, stopped));
                    }
                    mine().next().map(|_| Way::Unknown)
                }
            };
            if let Some(way) = way {
                let (pids, user, stopped) = status_of(pid);
                let exclusive = mine().any(FileLock::is_exclusive);
                found.all.push(Opener { pid, pids, command: command_of(pid), way, exclusive, stopped, user });
            }
        }
        found.all.sort_by_key(|opener| opener.pid);
        found
    }

    /// Whether the joined process that calls itself `pid` is stopped. Of another user's only where no two call themselves so.
    pub fn is_stopped(&self, pid: u32) -> bool {
        let mut unseen = self.unseen.iter().filter(|(pids, _)| pids.last() == Some(&pid));
        let only = unseen.next().filter(|_| unseen.next().is_none());
        self.all.iter().any(|opener| opener.stopped && opener.is(pid)) || only.is_some_and(|(_, stopped)| *stopped)
    }

    /// Those who have it open and are not among the `joined`, as far as can be seen.
    pub fn not_among<'a>(&'a self, attached: &'a [ProcessInfo]) -> impl Iterator<Item = &'a Opener> {
        let is_attached = |opener: &Opener| attached.iter().any(|process| process.alive && opener.is(process.pid));
        self.all.iter().filter(move |opener| opener.way == Way::Other || !is_attached(opener))
    }
}

type FileId = (u64, u64);

fn id_of(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The files that tell.
struct Files {
    database: FileId,
    lock: Option<FileId>,
    control: Option<FileId>,
}

/// This user may not look at the files of that process.
struct Hidden;

impl Files {
    fn of(database: &DatabaseFile) -> Option<Files> {
        let directory = database.log_directory();
        let (lock, control) = (id_of(&directory.join(LOCK_NAME)), id_of(&directory.join(CONTROL_NAME)));
        Some(Files { database: id_of(&database.path)?, lock, control })
    }

    /// `None`: it has nothing of it, or it has ended.
    fn way(&self, pid: u32) -> Result<Option<Way>, Hidden> {
        let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(Hidden),
            Err(_) => return Ok(None),
        };
        let mut open = None;
        for file in files.filter_map(|file| id_of(&file.ok()?.path())) {
            if Some(file) == self.lock {
                return Ok(Some(Way::Pwal));
            }
            if file == self.database {
                open = Some(Way::Other);
            }
        }
        // A forked child keeps the mapping of its parent's words, and has closed the lock file.
        let maps = open.is_some() && self.control.is_some_and(|control| maps(pid, control));
        Ok(if maps { Some(Way::Pwal) } else { open })
    }
}

/// Whether a process has mapped a file. On file systems whose mappings bear another device number than their files
/// (btrfs, overlayfs) it looks as if it had not.
fn maps(pid: u32, file: FileId) -> bool {
    // Bytes: paths need not be UTF-8.
    let text = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    text.split(|byte| *byte == b'\n').any(|line| {
        let line = String::from_utf8_lossy(line);
        // address, permissions, offset, device, inode, path
        let mut words = line.split_ascii_whitespace().skip(3);
        let device = words.next().and_then(parse_device);
        device == Some((major(file.0), minor(file.0))) && words.next() == Some(&file.1.to_string())
    })
}

fn parse_device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
}

/// One line of `/proc/locks`.
#[derive(Debug, PartialEq, Eq)]
struct FileLock {
    /// -1: the lock belongs to an open file (OFD), not to a process.
    pid: i64,
    write: bool,
    device: (u32, u32),
    inode: u64,
    first: u64,
    last: u64,
}

// SQLite's lock bytes: what EXCLUSIVE covers (`SHARED_FIRST`, `SHARED_SIZE` in os.h).
const SHARED_FIRST: u64 = 0x4000_0002;
const SHARED_LAST: u64 = SHARED_FIRST + 509;

impl FileLock {
    /// `1: POSIX  ADVISORY  WRITE 12345 fe:00:131 1073741826 1073742335`; lines of those who wait (`1: -> POSIX ...`) are
    /// no locks.
    fn parse(line: &str) -> Option<FileLock> {
        let mut words = line.split_ascii_whitespace().skip(1);
        if !matches!(words.next()?, "POSIX" | "OFDLCK") {
            return None;
        }
        let write = words.nth(1)? == "WRITE";
        let pid = words.next()?.parse().ok()?;
        let (device, inode) = words.next()?.rsplit_once(':')?;
        let first = words.next()?.parse().ok()?;
        let last = match words.next()? {
            "EOF" => u64::MAX,
            last => last.parse().ok()?,
        };
        Some(FileLock { pid, write, device: parse_device(device)?, inode: inode.parse().ok()?, first, last })
    }

    fn is_on(&self, file: FileId) -> bool {
        self.device == (major(file.0), minor(file.0)) && self.inode == file.1
    }

    fn is_exclusive(&self) -> bool {
        self.write && self.first <= SHARED_FIRST && SHARED_LAST <= self.last
    }
}

/// Process ids in all namespaces, user, and whether it is stopped, from `/proc/<pid>/status`.
fn status_of(pid: u32) -> (Vec<u32>, Option<u32>, bool) {
    let text = fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
    parse_status(&String::from_utf8_lossy(&text), pid)
}

fn parse_status(text: &str, pid: u32) -> (Vec<u32>, Option<u32>, bool) {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let numbers = |text: &str| text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u32>>();
    let pids = field("NSpid:").map_or_else(Vec::new, numbers);
    // Real, effective, saved, file system.
    let user = field("Uid:").and_then(|line| numbers(line).get(1).copied());
    let stopped = field("State:").is_some_and(|state| state.trim_start().starts_with(['T', 't']));
    (if pids.is_empty() { vec![pid] } else { pids }, user, stopped)
}

fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn command_of(pid: u32) -> String {
    let line = command_line(pid);
    let words: Vec<_> = line.split(|&byte| byte == 0).filter(|word| !word.is_empty()).collect();
    let text: String =
        String::from_utf8_lossy(&words.join(&b' ')).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.chars().count() {
        0 => "command not visible".to_owned(),
        1..=60 => text,
        _ => text.chars().take(57).chain("...".chars()).collect(),
    }
}
