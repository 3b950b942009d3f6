//! The disk, the history that the checks compare with, and the dice.

use super::adapters::{Directory, Medium, SimDatabaseHandle};
use crate::disk::fault::{DATABASE_NAME, DIRECTORY_NAME, Effect, Fault, Operation, PARENT_NAME};
use crate::disk::sim::{Dice, HeaderTear, PowerCut, SimDatabase, SimDisk};
use crate::disk::{LogDirectory, OpenMode};
use crate::engine::Engine;
use crate::log::LogError;
use crate::log::format::FileName;
use crate::log::recovery::{Next, OpenFacts, open_database};
use crate::log::salvage::salvage;
use crate::log::stamp::{self, StampState};
use crate::shared::LOCK_NAME;
use std::path::{Path, PathBuf};

/// The pages that a database has at most.
pub const PAGES_MAX: u32 = 6;
/// The name of the database file.
pub const NAME: &str = "a.db";

/// The value that fills each page; `None` for a page that is filled with more than one.
pub type Contents = Vec<Option<u64>>;

/// What may happen in a run.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub name: &'static str,
    /// Operations of the disk may fail.
    pub faults: bool,
    /// The disk may be full for a while.
    pub fills: bool,
    /// Rewriting the same bytes can destroy a sector.
    pub tears_same_bytes: bool,
    /// The sector of the stamp is not atomic.
    pub tears_header: HeaderTear,
    /// Nobody wants durability, and checkpoints are those of an idle log: few certificates, which carry much.
    pub lazy: bool,
    /// Processes are stopped for long, and go on.
    pub stops: bool,
    /// Large pages, spills of many blocks, twice as many processes.
    pub large: bool,
    /// What the blocks of the log may be, in bytes.
    pub blocks: &'static [u32],
    /// In so many per cent of the runs what the world exists for has to happen ([`World::met`]).
    pub met_percent: u64,
}

pub const CALM: Conditions = Conditions {
    name: "crash",
    faults: false,
    fills: false,
    tears_same_bytes: false,
    tears_header: HeaderTear::Never,
    lazy: false,
    stops: false,
    large: false,
    blocks: &[4096],
    met_percent: 40,
};

/// Those of a disk with sectors of usual size, and of one with larger ones.
pub const BLOCKS: &[u32] = &[4096, 16_384];

pub const WORLDS: &[Conditions] = &[
    CALM,
    Conditions { name: "faults", faults: true, blocks: BLOCKS, met_percent: 20, ..CALM },
    Conditions { name: "full", fills: true, met_percent: 20, ..CALM },
    Conditions { name: "torn", tears_header: HeaderTear::Mixed, met_percent: 15, ..CALM },
    Conditions { name: "ecc", faults: true, tears_same_bytes: true, met_percent: 10, ..CALM },
    Conditions { name: "lazy", lazy: true, blocks: BLOCKS, met_percent: 20, ..CALM },
    Conditions { name: "garbage", tears_header: HeaderTear::Garbage, met_percent: 25, ..CALM },
];

/// A commit that was begun.
#[derive(Debug)]
pub struct Doubt {
    pub sequence: u64,
    pub state: Contents,
    pub wants_durable: bool,
}

pub struct World {
    pub dice: Dice,
    pub conditions: Conditions,
    pub disk: SimDisk,
    pub medium: Medium,
    /// Where the real files are.
    pub real: PathBuf,
    pub page_bytes: u32,
    pub segment_bytes: u64,
    counter: u64,
    /// The log that all of what follows is about.
    pub log_id: u64,
    /// The state behind each commit of this life; 0 is the one that it began with.
    pub history: Vec<Contents>,
    /// Whether it asked for durability.
    pub wants: Vec<bool>,
    /// Published: must survive if nothing but processes died; acknowledged as durable, or seen by a reader where durability
    /// was asked for: must survive a power cut, too.
    pub must_kill: u64,
    pub must_power: u64,
    /// What lies behind was reported as rolled back.
    pub ceiling: Option<u64>,
    /// Begun, and neither published nor reported as failed.
    pub doubt: Vec<Doubt>,
    /// Or a sync failed in an open.
    pub had_power_cut: bool,
    pub power_cuts: u64,
    /// Planned failures that happened before the plan was made anew.
    faults: u64,
    /// Checkpoints of an idle log that brought something to the database file.
    pub idle_checkpoints: u64,
    /// Opens that were refused because nothing but the lost sector said whose file it was.
    pub salvaged: u64,
    /// The last one was cut short.
    is_salvaging: bool,
    pub violation: Option<String>,
    pub events: Vec<String>,
}

impl World {
    pub fn new(seed: u64, conditions: Conditions, real: &Path) -> World {
        // Another course for each world, also where they differ in something that happens seldom.
        let mut dice = Dice::new(seed ^ u64::from(crc32c::crc32c(conditions.name.as_bytes())) << 32);
        let disk = SimDisk::new(dice.next());
        if conditions.stops {
            // Who is stopped in a sync is told of its failure, and cannot say so: then only this helps the others.
            disk.report_each();
        }
        let block_bytes = dice.pick(conditions.blocks);
        disk.set_sector_bytes(block_bytes);
        let mut world = World {
            conditions,
            page_bytes: dice.pick(if conditions.large { &[8192, 16_384, 65_536] } else { &[512, 1024, 4096] }),
            segment_bytes: u64::from(block_bytes) * (17 + dice.below(8)),
            disk,
            medium: Medium::default(),
            real: real.to_path_buf(),
            counter: 0,
            log_id: 0,
            history: Vec::new(),
            wants: Vec::new(),
            must_kill: 0,
            must_power: 0,
            ceiling: None,
            doubt: Vec::new(),
            had_power_cut: false,
            power_cuts: 0,
            faults: 0,
            idle_checkpoints: 0,
            salvaged: 0,
            is_salvaging: false,
            violation: None,
            events: Vec::new(),
            dice,
        };
        let bytes: Vec<u8> = (1..=3).flat_map(|page| world.image(page, 0)).collect();
        drop(world.database());
        world.disk.edit(&sim_path(), |file| *file = bytes);
        world.begin_history(vec![Some(0); 3]);
        world
    }

    pub fn say(&mut self, event: impl Into<String>) {
        self.events.push(event.into());
    }

    pub fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say(format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    fn begin_history(&mut self, state: Contents) {
        self.is_salvaging = false;
        self.history = vec![state];
        self.wants = vec![false];
        (self.must_kill, self.must_power, self.ceiling) = (0, 0, None);
        self.doubt.clear();
        self.had_power_cut = false;
    }

    /// Whether what is known here is of this engine's log.
    pub fn is_of(&self, engine: &Engine) -> bool {
        self.log_id == engine.log.log_id
    }

    /// Whatever was published is history, whoever did it, and died over it. Of several attempts at a commit the last one counts:
    /// who begins it holds WRITE, and found that the one before had not published.
    pub fn catch_up(&mut self, engine: &Engine) {
        if !self.is_of(engine) {
            return;
        }
        let (published, durable) = (engine.log.marks.published(), engine.log.marks.durable());
        while (self.history.len() as u64) <= published {
            let sequence = self.history.len() as u64;
            let Some(at) = self.doubt.iter().rposition(|doubt| doubt.sequence == sequence) else {
                return self.violate(format!("commit {sequence} is published, and nobody began it"));
            };
            let Doubt { state, wants_durable, .. } = self.doubt.remove(at);
            self.history.push(state);
            self.wants.push(wants_durable);
        }
        // Until then an attempt of a process that died may come back with a power cut.
        self.doubt.retain(|doubt| doubt.sequence > durable);
        if !engine.log.marks.is_poisoned() {
            self.must_kill = published;
        } else if !self.disk.is_off() {
            let kept = engine.log.marks.control().kept_by_poison().unwrap_or(published);
            self.may_lose(durable, kept);
        }
    }

    /// The engine is poisoned: what lies behind `kept` is erased; what is not durable, the cache may have lost where a sync failed.
    pub fn may_lose(&mut self, durable: u64, kept: u64) {
        let stays = if self.medium.has_failed() { durable } else { kept };
        self.must_kill = self.must_kill.min(stays);
    }

    /// The last attempt at this commit was reported as failed.
    pub fn forget_doubt(&mut self, sequence: u64) {
        if let Some(at) = self.doubt.iter().rposition(|doubt| doubt.sequence == sequence) {
            self.doubt.remove(at);
        }
    }

    /// A value that no page ever had.
    pub fn new_value(&mut self) -> u64 {
        self.counter += 1;
        1000 + self.counter
    }

    /// A page filled with `value`, as SQLite would hand it to the log; if that is odd, zeros are in its middle.
    pub fn image(&self, page: u32, value: u64) -> Vec<u8> {
        let page_bytes = self.page_bytes as usize;
        let mut image = value.to_le_bytes().repeat(page_bytes / 8);
        if value % 2 == 1 {
            image[page_bytes / 4 + 8..page_bytes - page_bytes / 8].fill(0);
        }
        if page == 1 {
            image[..100].fill(0);
            image[..16].copy_from_slice(b"SQLite format 3\0");
            // 65536 is written as 1.
            image[16..18].copy_from_slice(&u16::try_from(self.page_bytes).unwrap_or(1).to_be_bytes());
            image[18..20].fill(2);
        }
        image
    }

    /// The value of a page as it was read, from the log or from the database file.
    pub fn value(&self, page: u32, image: &[u8]) -> Option<u64> {
        let value = u64::from_le_bytes(image.last_chunk::<8>().copied()?);
        let mut expected = self.image(page, value);
        if page == 1 {
            expected[18..20].copy_from_slice(&image[18..20]);
            expected[72..92].copy_from_slice(&image[72..92]);
        }
        (image == expected).then_some(value)
    }

    pub fn database(&self) -> SimDatabase {
        self.disk.database(&sim_path())
    }

    pub fn database_handle(&self) -> SimDatabaseHandle {
        SimDatabaseHandle { inner: self.database(), medium: self.medium.clone(), exclusive: None }
    }

    pub fn directory(&self) -> Directory {
        let path = self.real.join(format!("{NAME}-pwal"));
        Directory { inner: self.disk.directory(&sim_path()), path, medium: self.medium.clone(), is_shared: false }
    }

    /// As the claim does it: directory and `lock`.
    pub fn take_lock(&self) -> std::io::Result<()> {
        let directory = self.directory();
        directory.create()?;
        match directory.open(LOCK_NAME, OpenMode::CreateNew) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether an open was refused since nothing proved whose file this is: the user does what the refusal says then. The machine
    /// may stop in that, too, and leave half of a stamp: then the next open goes on, or refuses, and the user starts again.
    pub fn salvages_lost_header(&mut self, refusal: &str) -> bool {
        let is_asked = refusal.contains("nothing proves that the log") || self.is_salvaging;
        if self.conditions.tears_header != HeaderTear::Garbage || !is_asked {
            return false;
        }
        let salvaged = salvage(&self.disk.directory(&sim_path()), &mut self.database());
        self.say(format!("salvage: {salvaged:?}"));
        self.salvaged += 1;
        self.is_salvaging = self.disk.is_off();
        matches!(salvaged, Ok(Some(_))) || self.is_salvaging
    }

    /// The state of the database file as a reader sees it.
    pub fn state(&self) -> Contents {
        let (bytes, _) = self.disk.contents(&sim_path()).unwrap();
        let pages = bytes.chunks(self.page_bytes as usize).zip(1..);
        pages.map(|(image, page)| self.value(page, image)).collect()
    }

    /// One of the next syncs of the log fails.
    pub fn plan_failed_sync(&mut self) {
        let nth = 1 + self.dice.below(5);
        self.say(format!("PLAN sync {nth} fails"));
        let (name_contains, effect) = (String::from(".seg"), Effect::Error);
        self.disk.plan().add(Fault { operation: Operation::Sync, name_contains, nth, effect, goes_on: false });
    }

    /// Some failure of the disk to come.
    pub fn plan_fault(&mut self) {
        let (operation, names): (Operation, &[&str]) = match self.dice.below(10) {
            0..4 => (Operation::Sync, &[".seg", ".seg", ".spill", DATABASE_NAME, DIRECTORY_NAME, PARENT_NAME]),
            4..8 => (Operation::Write, &[".seg", ".seg", ".spill", DATABASE_NAME]),
            8 => (Operation::Create, &[".seg", ".spill", "retired"]),
            _ => (self.dice.pick(&[Operation::SetBytes, Operation::Remove, Operation::Open, Operation::Read]), &[""]),
        };
        let bytes = self.dice.pick(&[0, 4096, 8192, 1 << 20]);
        let effect = match (operation, self.dice.below(4)) {
            (Operation::Write, 0) => Effect::Short(bytes),
            (Operation::Write, 1) => Effect::ShortNoSpace(bytes),
            (Operation::Write | Operation::Create, 2) => Effect::NoSpace,
            _ => Effect::Error,
        };
        let fault = Fault {
            operation,
            name_contains: self.dice.pick(names).to_owned(),
            nth: 1 + self.dice.below(12),
            effect,
            goes_on: self.dice.percent(25),
        };
        self.say(format!("PLAN {fault:?}"));
        self.disk.plan().add(fault);
    }

    /// What the worlds of torn headers are for: the power goes while one is written.
    pub fn may_lose_header(&mut self) {
        if self.conditions.tears_header != HeaderTear::Never && self.dice.percent(60) {
            let writes = self.dice.below(4);
            self.disk.stop_behind_header(writes);
        }
    }

    fn crash(&mut self) {
        let loses_header = self.conditions.tears_header != HeaderTear::Never && self.disk.is_off();
        if !loses_header && self.dice.percent(50) {
            self.say("KILL");
            self.disk.kill();
        } else {
            self.power_cut();
        }
        if self.dice.percent(30) {
            self.disk.evict();
        }
    }

    /// How often that happened for which this world exists.
    pub fn met(&self) -> u64 {
        let Conditions { faults, fills, tears_same_bytes, tears_header, lazy, .. } = self.conditions;
        match tears_header {
            HeaderTear::Mixed => self.disk.headers_lost(),
            HeaderTear::Garbage => self.disk.headers_lost().saturating_sub(self.salvaged),
            HeaderTear::Never if tears_same_bytes => self.disk.same_bytes_torn(),
            HeaderTear::Never if faults => self.faults + self.disk.plan().fired(),
            HeaderTear::Never if fills => self.medium.refused(),
            HeaderTear::Never if lazy => self.idle_checkpoints,
            HeaderTear::Never => self.power_cuts,
        }
    }

    /// Nothing is planned any more, and what is met from here on is explained by new plans only.
    pub fn plan_anew(&mut self) {
        self.faults += self.disk.plan().fired();
        self.disk.plan().reset();
    }

    /// What was not synced survives or not.
    pub fn power_cut(&mut self) {
        self.power_cuts += 1;
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

    /// A crash, and then opens until it is open, with crashes on the way.
    ///
    /// # Errors
    /// What is violated.
    pub fn crash_and_open(&mut self) -> Result<(), String> {
        self.medium.set_full(false);
        self.crash();
        for attempt in 0.. {
            let is_calm = attempt >= 3;
            self.plan_anew();
            if !is_calm {
                self.may_lose_header();
            }
            if !is_calm && self.dice.percent(50) {
                let after = self.dice.below(30);
                self.disk.stop_after(after);
            } else if !is_calm && self.conditions.faults && self.dice.percent(30) {
                self.plan_fault();
            } else if !is_calm && self.conditions.fills && self.dice.percent(30) {
                self.medium.set_full(true);
            }
            let opened = self.take_lock().map_err(|error| format!("lock: {error}")).and_then(|()| self.open_once());
            let is_full = self.medium.is_full();
            self.medium.set_full(false);
            match opened {
                Ok(()) if !self.disk.is_off() => {
                    self.plan_anew();
                    return self.check_open();
                }
                Ok(()) => {}
                Err(what) if self.disk.is_off() => self.say(format!("stopped: {what}")),
                Err(what) if !is_calm && (self.disk.plan().fired() > 0 || is_full) => {
                    self.say(format!("open failed: {what}"));
                    // What only the cache held may be lost with a failed sync.
                    self.had_power_cut |= !is_full;
                }
                Err(what) if self.salvages_lost_header(&what) => {}
                Err(what) => return Err(format!("a healthy database is not opened: {what}")),
            }
            self.crash();
        }
        unreachable!("the last attempt is calm")
    }

    fn open_once(&mut self) -> Result<(), String> {
        let mut database_handle = self.database_handle();
        let directory = self.directory();
        let opened =
            open_database(&directory, &mut database_handle, OpenFacts::default()).map_err(|error| match error {
                LogError::Full { .. } => format!("full: {error}"),
                error => error.to_string(),
            })?;
        for done in &opened.done {
            self.say(format!("{done:?}"));
        }
        match opened.next {
            Next::Ready => Ok(()),
            // A log without a whole commit is moved away, and the lock with it: nothing in it may have been promised.
            Next::ClaimAgain if self.must() == 0 => {
                drop(database_handle);
                self.take_lock().map_err(|error| format!("lock: {error}"))?;
                self.open_once()
            }
            _ => Err(format!("{opened:?}")),
        }
    }

    /// The last commit that was promised, after what happened.
    fn must(&self) -> u64 {
        if self.had_power_cut { self.must_power } else { self.must_kill }
    }

    pub fn check_open(&mut self) -> Result<(), String> {
        let (_, medium) = self.disk.contents(&sim_path()).unwrap();
        if stamp::read(&medium) != (StampState::Plain { wal: true }) {
            return Err("header not plain, durably, after open".to_owned());
        }
        let names = self.disk.names(&sim_path().with_file_name(format!("{NAME}-pwal"))).unwrap_or_default();
        if names.iter().any(|name| FileName::parse(name).is_some_and(|parsed| parsed.log_id().is_some())) {
            return Err(format!("a log still there after open: {names:?}"));
        }
        let state = self.state();
        let must = self.must();
        let top = self.ceiling.unwrap_or(self.history.len() as u64 - 1);
        let at = self.history.iter().position(|known| *known == state).map(|at| at as u64);
        let in_doubt = self.doubt.iter().find(|doubt| doubt.sequence <= top + 1 && doubt.state == state);
        match (at, in_doubt) {
            (Some(at), _) if at < must => return Err(format!("acknowledged commit lost: state {at}, must {must}")),
            (Some(at), _) if at > top => {
                return Err(format!("a commit that was reported as rolled back is there: {at} above {top}"));
            }
            (None, Some(doubt)) if doubt.sequence <= must => {
                return Err(format!("acknowledged commit {must} lost to an attempt at {}", doubt.sequence));
            }
            (None, None) => return Err(format!("mixed or phantom state {state:?}")),
            _ => {}
        }
        self.say(format!("opened: state {at:?} of {}, must {must}", self.history.len() - 1));
        self.begin_history(state);
        Ok(())
    }
}

pub fn sim_path() -> PathBuf {
    Path::new("/sim").join(NAME)
}
