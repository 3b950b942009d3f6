//! The disk, the history that the checks compare with, and the dice.

use pwal::internal::disk::fault::{DATABASE_NAME, Effect, Fault, Operation};
use pwal::internal::disk::hooked::HookedDirectory;
use pwal::internal::disk::sim::{Dice, HeaderTear, PowerCut, SimDatabase, SimDirectory, SimDisk};
use pwal::internal::disk::{Database, LogDirectory};
use pwal::internal::log::LogError;
use pwal::internal::log::format::FileName;
use pwal::internal::log::recovery::{Done, Next, OpenFacts, open_database};
use pwal::internal::log::stamp::{self, StampState};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// The pages that a database has at most.
pub const PAGES_MAX: u32 = 4;

/// The size in pages, and the value that fills each page; `None` for a page that is filled with more than one.
pub type Contents = (u32, Vec<Option<u64>>);

/// What may happen in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    pub name: &'static str,
    /// Rewriting the same bytes can destroy a sector.
    pub tears_same_bytes: bool,
    /// Syncs may fail.
    pub faults: bool,
    /// The sector of the stamp is not atomic.
    pub tears_header: HeaderTear,
    /// An old copy of the database file is put back under the log.
    pub restores: bool,
    /// One block or the stamp rots.
    pub rots: bool,
}

const CALM: Conditions = Conditions {
    name: "crash",
    tears_same_bytes: false,
    faults: false,
    tears_header: HeaderTear::Never,
    restores: false,
    rots: false,
};

/// The worlds of the model.
pub const WORLDS: &[Conditions] = &[
    CALM,
    Conditions { name: "faults", faults: true, ..CALM },
    Conditions { name: "torn", tears_header: HeaderTear::Mixed, ..CALM },
    Conditions { name: "restore", restores: true, ..CALM },
    Conditions { name: "ecc", faults: true, tears_same_bytes: true, ..CALM },
    Conditions { name: "rot", rots: true, ..CALM },
];

pub struct World {
    pub dice: Dice,
    pub conditions: Conditions,
    pub dropped: &'static str,
    pub disk: SimDisk,
    pub path: PathBuf,
    pub page_bytes: u32,
    /// The blocks of a segment.
    pub segment_blocks: u64,
    /// The application repeats its transactions.
    pub repeats: bool,
    pub faults: bool,
    pub next_id: u64,
    pub counter: u64,
    pub copy: Option<Vec<u8>>,
    pub orphans: BTreeSet<u64>,
    /// The state behind each commit of this life; 0 is the one that it began with.
    pub history: Vec<Contents>,
    /// Acknowledged: must survive if nothing but processes died; must survive a power cut, too.
    pub must_kill: u64,
    pub must_power: u64,
    /// What lies behind was reported as rolled back.
    pub ceiling: Option<u64>,
    /// Written, but neither acknowledged nor reported as failed.
    pub doubt: Vec<(u64, Contents)>,
    /// All that ever was a state.
    pub ever: BTreeSet<Contents>,
    pub had_power_cut: bool,
    pub is_restored: bool,
    pub is_rotten: bool,
    /// The machine stopped inside a step.
    pub is_crashed: bool,
    /// Contents of segments of earlier lives, where their log ids come again.
    pub pool: Vec<Vec<u8>>,
    pub events: Vec<String>,
}

/// How a run ended.
pub enum Outcome {
    Fine,
    Violation(String),
}

impl World {
    pub fn new(seed: u64, conditions: Conditions, dropped: &'static str) -> World {
        let mut dice = Dice::new(seed);
        let disk = SimDisk::new(dice.next());
        let path = PathBuf::from("/sim/model.db");
        let page_bytes = dice.pick(&[512, 1024, 4096]);
        let mut world = World {
            conditions,
            dropped,
            page_bytes,
            segment_blocks: 4 + dice.below(4),
            repeats: dice.percent(30),
            faults: conditions.faults && dice.percent(50),
            next_id: 0,
            counter: 0,
            copy: None,
            orphans: BTreeSet::new(),
            history: Vec::new(),
            must_kill: 0,
            must_power: 0,
            ceiling: None,
            doubt: Vec::new(),
            ever: BTreeSet::new(),
            had_power_cut: false,
            is_restored: false,
            is_rotten: false,
            is_crashed: false,
            pool: Vec::new(),
            events: Vec::new(),
            dice,
            disk,
            path,
        };
        let mut bytes = Vec::new();
        for page in 1..=3 {
            bytes.extend(world.image(page, 0));
        }
        drop(world.disk.database(&world.path));
        let path = world.path.clone();
        world.disk.edit(&path, |file| *file = bytes);
        world.begin_history((3, vec![Some(0); 3]));
        world
    }

    /// Whether a rule is kept in this run.
    pub fn keeps(&self, rule: &str) -> bool {
        self.dropped != rule
    }

    pub fn say(&mut self, event: impl Into<String>) {
        self.events.push(event.into());
    }

    /// Whether a sync fails here.
    pub fn fault(&mut self, percent: u32) -> bool {
        self.faults && self.dice.percent(percent)
    }

    pub fn begin_history(&mut self, state: Contents) {
        self.ever.insert(state.clone());
        self.history = vec![state];
        (self.must_kill, self.must_power, self.ceiling) = (0, 0, None);
        self.doubt.clear();
        (self.had_power_cut, self.is_restored, self.is_rotten) = (false, false, false);
    }

    /// A page filled with `value`, as SQLite would hand it to the log.
    pub fn image(&self, page: u32, value: u64) -> Vec<u8> {
        let mut image: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(self.page_bytes as usize).collect();
        if page == 1 {
            image[..100].fill(0);
            image[..16].copy_from_slice(b"SQLite format 3\0");
            image[16..18].copy_from_slice(&u16::try_from(self.page_bytes).unwrap().to_be_bytes());
            image[18..20].fill(2);
        }
        image
    }

    pub fn database(&self) -> SimDatabase {
        self.disk.database(&self.path)
    }

    pub fn directory(&self) -> SimDirectory {
        self.disk.directory(&self.path)
    }

    /// The state of the database file as a reader sees it.
    pub fn state(&self) -> Contents {
        let (bytes, _) = self.disk.contents(&self.path).unwrap();
        let pages = bytes.chunks(self.page_bytes as usize).enumerate().map(|(index, page)| {
            let value = u64::from_le_bytes(page[page.len() - 8..].try_into().unwrap());
            let mut expected = self.image(index as u32 + 1, value);
            if index == 0 {
                expected[18..20].copy_from_slice(&page[18..20]);
                expected[72..92].copy_from_slice(&page[72..92]);
            }
            (page == expected).then_some(value)
        });
        let pages: Vec<Option<u64>> = pages.collect();
        (pages.len() as u32, pages)
    }

    pub fn crash(&mut self) {
        if self.dice.percent(50) {
            self.say("KILL");
            self.disk.kill();
        } else {
            self.say("POWER CUT");
            let how = PowerCut {
                keep_percent: self.dice.pick(&[0, 10, 50, 90, 100]),
                tears_sectors: true,
                tears_same_bytes: self.conditions.tears_same_bytes,
                tears_header: self.conditions.tears_header,
            };
            self.disk.power_cut(&how);
            self.had_power_cut = true;
        }
        if self.dice.percent(30) {
            self.disk.evict();
        }
        if self.conditions.restores
            && self.dice.percent(15)
            && let Some(copy) = self.copy.clone()
        {
            let path = self.path.clone();
            self.disk.edit(&path, |file| *file = copy);
            self.is_restored = true;
            self.say("OLD COPY RESTORED");
        }
        self.is_crashed = false;
    }

    /// A copy of the database file as it is, if all its pages are whole.
    pub fn take_copy(&mut self) {
        if self.state().1.iter().all(Option::is_some) {
            self.copy = self.disk.contents(&self.path).map(|(cached, _)| cached);
        }
    }

    /// One rotten block of the log, or the stamp.
    pub fn rot(&mut self) {
        let directory = self.directory();
        let names: Vec<String> =
            directory.list().unwrap().into_iter().filter(|name| !name.starts_with("retired")).collect();
        let path = self.path.clone();
        let (header, _) = self.disk.contents(&path).unwrap();
        if self.dice.percent(20) && matches!(stamp::read(&header), StampState::Stamped(_)) {
            let at = self.dice.pick(&[18, 19, 72, 80, 88]);
            self.disk.edit(&path, |file| file[at] ^= 1);
            self.say(format!("ROT of the stamp at {at}"));
        } else if !names.is_empty() {
            let name = names[self.dice.index(names.len())].clone();
            let file = directory.path().join(&name);
            let (bytes, _) = self.disk.contents(&file).unwrap();
            let used: Vec<usize> = (0..bytes.len() / 512)
                .filter(|sector| bytes[sector * 512..][..512].iter().any(|&byte| byte != 0))
                .collect();
            if used.is_empty() {
                return;
            }
            let sector = used[self.dice.index(used.len())];
            let (at, flip) = (sector * 512 + self.dice.index(512), 1 << self.dice.below(8));
            let whole = self.dice.percent(50);
            self.disk.edit(&file, |bytes| {
                if whole {
                    bytes[sector * 512..][..512].fill(0xa5);
                } else {
                    bytes[at] ^= flip;
                }
            });
            self.say(format!("ROT in {name} at {at}, whole sector: {whole}"));
        } else {
            return;
        }
        self.is_rotten = true;
    }

    /// Where log ids come again: remembers the segments before recovery deletes them.
    pub fn keep_files(&mut self) {
        if !self.keeps("new_log_id") {
            let directory = self.directory();
            let names = directory.list().unwrap().into_iter().filter(|name| name.ends_with(".seg"));
            let files = names.map(|name| self.disk.contents(&directory.path().join(name)).unwrap().0);
            self.pool = files.filter(|bytes| bytes.len() as u64 == self.segment_blocks * 4096).collect();
        }
    }

    /// Opens the database until it is open; the machine may stop on the way. `Err`: refused.
    pub fn open(&mut self) -> Result<(), Outcome> {
        for attempt in 0.. {
            let is_calm = attempt >= 3;
            self.disk.plan().reset();
            if !is_calm && self.dice.percent(50) {
                let after = self.dice.below(25);
                self.disk.stop_after(after);
            } else if !is_calm && self.faults && self.dice.percent(30) {
                let fault = Fault {
                    operation: Operation::Sync,
                    name_contains: self.dice.pick(&[DATABASE_NAME, ".seg", "directory"]).to_owned(),
                    nth: 1 + self.dice.below(3),
                    effect: Effect::Error,
                    goes_on: false,
                };
                self.disk.plan().add(fault);
            }
            let result = self.open_once();
            // What a killed process wrote and no sync brought to the medium is lost as in a power cut.
            self.had_power_cut |= self.disk.plan().fired() > 0;
            self.disk.plan().clear();
            match result {
                Ok(()) if !self.disk.is_off() => {
                    // The fuse of this attempt must not burn down later.
                    self.disk.stop_after(u64::MAX);
                    return self.check_open();
                }
                Ok(()) => self.crash(),
                Err(OpenFailed::Stopped) => {
                    self.say("stopped in recovery");
                    self.crash();
                }
                Err(OpenFailed::Io(error)) => {
                    self.say(format!("open failed: {error}"));
                    if is_calm {
                        return Err(Outcome::Violation(format!("open fails again and again: {error}")));
                    }
                    self.crash();
                }
                Err(OpenFailed::Refused(error)) => {
                    self.say(format!("REFUSED: {error}"));
                    return Err(if self.is_rotten || self.is_restored {
                        Outcome::Fine
                    } else {
                        Outcome::Violation(format!("healthy database refused: {error}"))
                    });
                }
                Err(OpenFailed::Violation(what)) => return Err(Outcome::Violation(what)),
            }
        }
        unreachable!()
    }

    fn open_once(&mut self) -> Result<(), OpenFailed> {
        loop {
            let mut database = super::adapters::DatabaseAdapter { inner: self.database(), dropped: self.dropped };
            let dropped = Arc::new(super::adapters::Dropped(self.dropped));
            let directory = HookedDirectory::new(Arc::new(self.directory()), dropped);
            let opened = match open_database(&directory, &mut database, OpenFacts::default()) {
                Ok(opened) => opened,
                Err(_) if self.disk.is_off() => return Err(OpenFailed::Stopped),
                Err(error @ (LogError::Io { .. } | LogError::Full { .. })) => return Err(OpenFailed::Io(error)),
                Err(error) => return Err(OpenFailed::Refused(error)),
            };
            for done in &opened.done {
                self.say(format!("{done:?}"));
                if let Done::Orphaned { log_id, .. } = done {
                    // A recovery that set such a log aside was cut short behind the plain header.
                    let held_nothing = self.had_power_cut && self.must_power == 0;
                    if !self.is_restored && !self.is_rotten && !held_nothing && !self.orphans.contains(log_id) {
                        let what = "the log of a healthy database taken for that of a replaced file".to_owned();
                        return Err(OpenFailed::Violation(what));
                    }
                    self.orphans.insert(*log_id);
                }
            }
            match opened.next {
                Next::Ready => return Ok(()),
                Next::ClaimAgain => {}
                Next::RecoverStock => return Err(OpenFailed::Violation("stock's leftovers from nowhere".to_owned())),
            }
        }
    }

    fn check_open(&mut self) -> Result<(), Outcome> {
        let violation = |what: String| Err(Outcome::Violation(what));
        let (_, medium) = self.disk.contents(&self.path).unwrap();
        if stamp::read(&medium) != (StampState::Plain { wal: true }) {
            return violation("header not plain, durably, after open".to_owned());
        }
        let names = self.disk.names(&self.path.with_file_name("model.db-pwal")).unwrap_or_default();
        if names.iter().any(|name| FileName::parse(name).is_some_and(|parsed| parsed.log_id().is_some())) {
            return violation("a log still there after open".to_owned());
        }
        let state = self.state();
        let must = if self.had_power_cut { self.must_power } else { self.must_kill };
        let top = self.ceiling.unwrap_or(self.history.len() as u64 - 1);
        let low = if self.is_rotten { 0 } else { must };
        let is_good = if self.is_restored {
            self.ever.contains(&state) || self.doubt.iter().any(|(_, doubtful)| *doubtful == state)
        } else {
            (low..=top).any(|commit| self.history[commit as usize] == state)
                || self.doubt.iter().any(|(commit, doubtful)| *commit > low && *commit <= top + 1 && *doubtful == state)
        };
        let at = self.history.iter().position(|known| *known == state);
        if !is_good {
            return violation(match at {
                Some(at) if (at as u64) < must => format!("acknowledged commit lost: state {at}, must {must}"),
                Some(at) => format!("a commit that was reported as rolled back is there: {at} above {top}"),
                None => format!("mixed or phantom state {state:?}"),
            });
        }
        self.say(format!("opened: state {at:?} of {}, must {must}", self.history.len() - 1));
        self.begin_history(state);
        Ok(())
    }
}

enum OpenFailed {
    Stopped,
    Io(LogError),
    Refused(LogError),
    Violation(String),
}

/// Reads the first bytes of the database file.
pub fn header_of(database: &mut dyn Database) -> Vec<u8> {
    let mut header = vec![0; 512];
    let read = database.read_at(&mut header, 0).unwrap_or(0);
    header.truncate(read);
    header
}
