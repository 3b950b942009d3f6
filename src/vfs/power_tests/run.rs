//! One run: a machine lives, stops at any operation, and what is found then is compared with what was promised.

use super::alone::Alone;
use super::life::{Checked, Ended, Histories, Life, copy, open, schema};
use super::machine::{Counts, Machine, Moment, Promise, Promises, Watch};
use super::state::state;
use super::{Character, DEPTH, LIVES, NAMES, PROCESSES, STEPS, World, registration, script, sim_path};
use crate::disk::fault::{DATABASE_NAME, DIRECTORY_NAME, Effect, Fault, Operation, PARENT_NAME};
use crate::disk::sim::{Dice, HeaderTear, PowerCut, SimDisk};
use crate::interleave::{Turns, simulate};
use crate::log::recovery::{OpenFacts, open_database};
use crate::log::salvage::salvage;
use crate::log::stamp::{self, StampState};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Run {
    world: World,
    seed: u64,
    skips: BTreeSet<u64>,
    /// More machines stop than by chance.
    is_eager: bool,
    pub counts: Counts,
    pub events: Vec<String>,
    /// Since a sector was spoiled.
    is_spoiled: bool,
    /// A sector has changed without an error.
    has_rotted: bool,
}

/// A machine that was opened after it had stopped.
struct Opened {
    machine: Arc<Machine>,
    connection: Connection,
    /// The databases of the connection.
    files: Vec<usize>,
    /// The histories up to the states that were found.
    known: Histories,
}

impl Opened {
    /// The states that a connection to these databases finds.
    fn read(connection: &Connection, files: &[usize]) -> rusqlite::Result<Vec<u64>> {
        (0..files.len()).map(|file| state(connection, &schema(files, file))).collect()
    }

    fn in_order(&self) -> rusqlite::Result<String> {
        self.connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))
    }

    fn journal_modes(&self) -> rusqlite::Result<Vec<String>> {
        let mode = |file| {
            let sql = format!("PRAGMA {}.journal_mode", schema(&self.files, file));
            self.connection.query_row(&sql, [], |row| row.get(0))
        };
        (0..self.files.len()).map(mode).collect()
    }
}

impl Run {
    pub fn new(world: World, seed: u64, skips: Option<&BTreeSet<u64>>) -> Run {
        Run {
            world,
            seed,
            skips: skips.cloned().unwrap_or_default(),
            is_eager: skips.is_some(),
            counts: Counts::default(),
            events: Vec::new(),
            is_spoiled: false,
            has_rotted: false,
        }
    }

    fn count(&mut self, what: &'static str, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    fn dice(&self, what: u64) -> Dice {
        let mut dice = Dice::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ what);
        dice.next();
        dice
    }

    fn watch(&self, dice: &mut Dice, permille: u64, most: usize) -> Watch {
        let permille = if self.is_eager { permille * 4 } else { permille };
        let most = if self.is_eager { most * 4 } else { most };
        let promises = Promises { files: vec![Promise::default(); self.world.files], sets: Vec::new() };
        Watch { dice: Dice::new(dice.next()), permille, promises, moments: Vec::new(), most }
    }

    /// The power goes, or all processes end.
    fn stop(&mut self, disk: &SimDisk, dice: &mut Dice) -> bool {
        let is_killed = dice.percent(20);
        disk.plan().reset();
        disk.set_capacity(None);
        if is_killed {
            disk.kill();
        } else {
            let (torn, lost) = (disk.same_bytes_torn(), disk.headers_lost());
            disk.power_cut(&PowerCut {
                keep_percent: dice.pick(&[0, 0, 10, 50, 90, 100]),
                tears_sectors: dice.percent(80),
                tears_same_bytes: self.world.tears_same_bytes,
                tears_header: self.world.tears_header,
            });
            self.count("sectors lost that were rewritten", disk.same_bytes_torn() - torn);
            self.count("first sectors lost", disk.headers_lost() - lost);
        }
        if self.world.spoils && dice.percent(50) {
            self.spoil(disk, dice);
        }
        if dice.percent(30) {
            disk.evict();
        }
        disk.forget_unnamed();
        is_killed
    }

    /// One sector of the log is not what it was.
    fn spoil(&mut self, disk: &SimDisk, dice: &mut Dice) {
        let directory = PathBuf::from(format!("{}-pwal", sim_path(dice.index(self.world.files)).display()));
        let names: Vec<String> = disk.names(&directory).unwrap_or_default();
        let names: Vec<&String> =
            names.iter().filter(|name| name.contains(".seg") || name.contains(".spill")).collect();
        if names.is_empty() {
            return;
        }
        let path = directory.join(names[dice.index(names.len())]);
        let bytes = disk.contents(&path).map_or(0, |(bytes, _)| bytes.len() as u64);
        // The beginning of the file is where its records are.
        let end = if dice.percent(50) { bytes.min(32_768) } else { bytes };
        let sector = dice.below(end / 512);
        if dice.percent(50) {
            disk.make_unreadable(&path, sector);
        } else {
            self.has_rotted = true;
            let (at, bit) = (dice.below(512), dice.below(8));
            disk.edit(&path, |file| {
                if let Some(byte) = file.get_mut(usize::try_from(sector * 512 + at).expect("an offset")) {
                    *byte ^= 1 << bit;
                }
            });
        }
        self.is_spoiled = true;
        self.count("bad sectors", 1);
    }

    /// Whether an open was refused since nothing but the lost sector said whose file it is. Then what the refusal says is done.
    fn salvages(&mut self, disk: &SimDisk) -> bool {
        let copy = disk.deep_clone(0);
        let path = sim_path(0);
        let opened = open_database(&copy.directory(&path), &mut copy.database(&path), OpenFacts::default());
        if !opened.is_err_and(|error| error.to_string().contains("nothing proves that the log")) {
            return false;
        }
        self.count("first sectors salvaged", 1);
        matches!(salvage(&disk.directory(&path), &mut disk.database(&path)), Ok(Some(_)))
    }

    /// What a stopped machine has left.
    fn count_leftovers(&mut self, disk: &SimDisk) {
        for name in disk.names(Path::new("/sim")).unwrap_or_default() {
            let path = Path::new("/sim").join(&name);
            let content = disk.contents(&path).map(|(cached, _)| cached).unwrap_or_default();
            if name.contains("-mj") {
                self.count("super-journals left", 1);
            } else if name.ends_with("-journal") {
                self.count("hot journals", u64::from(content.first().is_some_and(|byte| *byte != 0)));
            } else if name.ends_with("-wal") {
                self.count("stock WALs left", u64::from(!content.is_empty()));
            } else if name.ends_with("-pwal") {
                let names = disk.names(&path).unwrap_or_default();
                self.count("logs left", u64::from(names.iter().any(|name| name.ends_with(".seg"))));
            }
        }
    }

    /// The number of the state that was found, in a history that may become longer by what was under way.
    fn place(
        &mut self,
        found: u64,
        promise: Promise,
        history: &[u64],
        is_killed: bool,
    ) -> Result<(usize, Vec<u64>), String> {
        let least = match is_killed {
            // What only the last records say has no other copy: changed, they look like the torn end of the log.
            _ if self.has_rotted => 0,
            true => promise.kept.max(promise.must),
            false => promise.must,
        };
        let answered = (least..=promise.last).rev().find(|at| history[*at] == found);
        let mut known = history[..=promise.last].to_vec();
        match answered {
            Some(at) => known.truncate(at + 1),
            None if promise.under_way == Some(found) => known.push(found),
            None => {
                let at: Vec<usize> = (0..history.len()).filter(|at| history[*at] == found).collect();
                return Err(format!("found state {at:?}, which must be {least}..={} or the next", promise.last));
            }
        }
        self.count("commits under way that are there", u64::from(answered.is_none()));
        self.count("commits gone that were not promised", u64::from(answered.is_some_and(|at| at < promise.last)));
        Ok((known.len() - 1, known))
    }

    /// The machine starts again, and the databases are opened.
    fn start_again(
        &mut self,
        moment: Moment,
        histories: &Histories,
        depth: u32,
        dice: &mut Dice,
    ) -> Result<Option<Opened>, String> {
        let Moment { disk, promises, place } = moment;
        let is_killed = self.stop(&disk, dice);
        self.count("cuts", 1);
        self.count("cuts while opening", u64::from(depth > 0));
        self.count("cuts while opening after such a cut", u64::from(depth > 1));
        self.count_leftovers(&disk);
        let failed_at = |what: String| {
            format!("{what}\n  stopped before: {place} (killed {is_killed}, {promises:?}, depth {depth})")
        };
        if std::env::var_os("PWAL_TEST_TALK").is_some() {
            println!("START depth {depth} {place} killed {is_killed} {promises:?}");
            for name in disk.names(Path::new("/sim")).unwrap_or_default() {
                if let Some((bytes, _)) = disk.contents(&Path::new("/sim").join(&name)) {
                    println!("  {name}: {} {:02x?}", bytes.len(), &bytes[..bytes.len().min(64)]);
                }
            }
        }
        let permille = if depth < DEPTH { dice.pick(&[0, 0, 10, 50]) } else { 0 };
        let mut watch = self.watch(dice, permille, 2);
        watch.promises = promises.clone();
        if !is_killed {
            // What the power took is not there for the next end of a process.
            watch.promises.files.iter_mut().for_each(|promise| promise.kept = promise.must);
        }
        let before = self.is_spoiled.then(|| files(&disk));
        let machine = Machine::start(disk.clone(), watch);
        let opened = self.open_all(&machine, dice);
        if let (Err(error), Some(before)) = (&opened, &before) {
            if files(&disk) != *before {
                return Err(failed_at(format!("a refused database was changed: {error:?}")));
            }
            self.count("bad sectors, and refused", 1);
            return Ok(None);
        }
        if opened.is_err() && self.world.tears_header == HeaderTear::Garbage {
            disk.kill();
            if self.salvages(&disk) {
                // What a salvage brings back is what it says, not what was promised.
                return Ok(None);
            }
        }
        let (mut opened, found) = opened.map_err(|error| {
            failed_at(format!("a healthy database is not opened: {error:?}: {:?}", files(&machine.disk).keys()))
        })?;
        self.count("bad sectors, and all is there", u64::from(before.is_some()));
        let mut states = Vec::new();
        for (file, found) in found.into_iter().enumerate() {
            let placed = self.place(found, promises.files[file], &histories[file], is_killed);
            let (at, known) = placed.map_err(|what| failed_at(format!("{}: {what}", NAMES[file])))?;
            states.push(at);
            opened.known.push(known);
        }
        for set in &promises.sets {
            let (is_split, is_split_with_journal) = set.is_split(&states);
            self.count("commits that some databases have", u64::from(is_split));
            if is_split_with_journal {
                return Err(failed_at(format!("only some have the commit {set:?}: {states:?}")));
            }
        }
        let order = opened.in_order().map_err(|error| failed_at(format!("integrity_check: {error:?}")))?;
        if order != "ok" {
            return Err(failed_at(format!("integrity_check: {order}")));
        }
        // The next commits take the numbers of those that are gone.
        machine.sets(|sets| sets.retain(|set| set.is_there(&states)));
        for (file, at) in states.into_iter().enumerate() {
            // What was read once stays; but for the deletion of a rollback journal that only the cache has, as with stock SQLite.
            let must = if is_killed && self.world.stock { promises.files[file].must.min(at) } else { at };
            machine.promise(file, |promise| *promise = Promise { must, kept: at, last: at, under_way: None });
        }
        Ok(Some(opened))
    }

    /// One connection to all databases, and their states.
    fn open_all(&self, machine: &Arc<Machine>, dice: &mut Dice) -> rusqlite::Result<(Opened, Vec<u64>)> {
        let process = dice.index(PROCESSES);
        let mut files: Vec<usize> = (0..self.world.files).collect();
        files.rotate_left(dice.index(self.world.files));
        let connection = open(machine, Some(process), &files)?;
        let found = Opened::read(&connection, &files)?;
        Ok((Opened { machine: Arc::clone(machine), connection, files, known: Histories::new() }, found))
    }

    /// A machine that stopped at this moment keeps what was promised, also if it stops again while it is opened.
    fn examine(&mut self, moment: Moment, histories: &Histories, depth: u32, dice: &mut Dice) -> Checked {
        let place = moment.place.clone();
        let Some(mut opened) = self.start_again(moment, histories, depth, dice)? else {
            return Ok(());
        };
        let failed_at = |what: String| format!("{what}\n  stopped before: {place} (depth {depth})");
        let modes = opened.journal_modes().map_err(|error| failed_at(format!("the modes: {error:?}")))?;
        if dice.percent(20) {
            let file = dice.index(self.world.files);
            if self.world.stock {
                // After a kill the end of a journal (its deletion, or zeros in its header) is in the cache only. SQLite writes the
                // next one over it, and a power cut then may leave the old header before new records.
                self.sync_all(&opened.machine);
            }
            self.commit_next(&mut opened, file, dice).map_err(failed_at)?;
        }
        let Opened { machine, connection, known, .. } = opened;
        connection.close().map_err(|(_, error)| failed_at(format!("close: {error:?}")))?;
        self.check_closed(&machine, &known, &modes, dice).map_err(failed_at)?;
        let moments = machine.take_moments();
        drop(machine);
        for moment in moments {
            let mut dice = Dice::new(dice.next());
            // That of the opening was not one of reading yet.
            let history = |file: usize| match moment.promises.files[file].last < known[file].len() {
                true => known[file].clone(),
                false => histories[file].clone(),
            };
            let histories = (0..self.world.files).map(history).collect();
            self.examine(moment, &histories, depth + 1, &mut dice)?;
        }
        Ok(())
    }

    /// The next commit after an opening.
    fn commit_next(&self, opened: &mut Opened, file: usize, dice: &mut Dice) -> Checked {
        let Opened { machine, connection, files, known } = opened;
        let (at, schema) = (known[file].len(), schema(files, file));
        machine.promise(file, |promise| promise.last = at);
        let number = dice.below(1000);
        let sql =
            format!("PRAGMA {schema}.synchronous=EXTRA; INSERT OR REPLACE INTO {schema}.n VALUES(1, 'after {number}')");
        connection.execute_batch(&sql).map_err(|error| format!("the next commit: {error:?}"))?;
        known[file].push(state(connection, &schema).map_err(|error| format!("{error:?}"))?);
        machine.promise(file, |promise| *promise = Promise { must: at, kept: at, last: at, under_way: None });
        Ok(())
    }

    /// Plain files, as stock SQLite leaves them.
    fn check_closed(&self, machine: &Arc<Machine>, known: &Histories, modes: &[String], dice: &mut Dice) -> Checked {
        let names = machine.disk.names(Path::new("/sim")).unwrap_or_default();
        let is_of_wal = |name: &str| (0..modes.len()).any(|file| modes[file] == "wal" && name.starts_with(NAMES[file]));
        // With rollback journals it is stock SQLite that leaves an empty `-wal`, a journal in a mode that keeps it, and a
        // super-journal that no journal names yet.
        let is_stocks = |name: &str| {
            name.ends_with("-journal") || name.contains("-mj") || (!is_of_wal(name) && name.ends_with("-wal"))
        };
        // The deletion of an empty directory is not synced. A later log is made in it.
        let is_empty = |name: &str| {
            name.ends_with("-pwal")
                && !is_of_wal(name)
                && machine.disk.names(&Path::new("/sim").join(name)).is_some_and(|names| names.is_empty())
        };
        let is_beside = |name: &&String| {
            !NAMES.contains(&name.as_str()) && !name.contains("-pwal.") && !is_stocks(name) && !is_empty(name)
        };
        if let Some(name) = names.iter().find(is_beside) {
            return Err(format!("{name} is left after a close in the modes {modes:?}"));
        }
        for (file, mode) in modes.iter().enumerate() {
            let (cached, medium) = machine.disk.contents(&sim_path(file)).expect("a database file");
            let is_plain = |bytes: &[u8]| stamp::read(bytes) == (StampState::Plain { wal: mode == "wal" });
            if !is_plain(&cached) || !is_plain(&medium) {
                return Err(format!("the header of {} is not plain after a close", NAMES[file]));
            }
        }
        if dice.percent(10) {
            let files: Vec<usize> = (0..modes.len()).collect();
            let stock = open(machine, None, &files).and_then(|connection| Opened::read(&connection, &files));
            let last = known.iter().map(|history| history[history.len() - 1]);
            if !stock.as_ref().is_ok_and(|found| found.iter().copied().eq(last)) {
                return Err(format!("stock SQLite finds {stock:?}"));
            }
        }
        Ok(())
    }

    fn create(&self, dice: &mut Dice) -> SimDisk {
        let disk = SimDisk::new(dice.next());
        disk.set_sector_bytes(dice.pick(&[512, 512, 4096, 16_384]));
        let machine = Machine::start(disk.clone(), self.watch(dice, 0, 0));
        for file in 0..self.world.files {
            let connection = open(&machine, None, &[file]).expect("a database");
            let page = dice.pick(&[512, 512, 1024, 1024, 4096, 4096, 8192, 65_536]);
            let vacuum = dice.pick(&["NONE", "NONE", "FULL"]);
            // Several rollback journals are needed for a super-journal, and a switch back needs the file alone.
            let mode = if self.world.files > 1 && dice.percent(70) { "DELETE" } else { "WAL" };
            let sql = format!(
                "PRAGMA page_size={page}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={mode}; {}",
                if self.world.beside { script::schema_beside() } else { script::SCHEMA.to_owned() }
            );
            connection.execute_batch(&sql).expect("a schema");
            connection.close().expect("a close");
        }
        self.sync_all(&machine);
        disk
    }

    /// The database files, the journals that stay, and their names.
    fn sync_all(&self, machine: &Machine) {
        for (file, name) in NAMES.iter().enumerate().take(self.world.files) {
            let beside = machine.beside(file);
            if let Ok(journal) = beside.open(&format!("{name}-journal"), false) {
                journal.sync().expect("a sync");
            }
            let file = beside.open(name, false).expect("the file");
            file.sync().and_then(|()| beside.sync()).expect("a sync");
        }
    }

    fn plan_fault(&self, disk: &SimDisk, dice: &mut Dice) {
        let (operation, names): (Operation, &[&str]) = match dice.below(10) {
            0..4 => (Operation::Sync, &[".seg", ".seg", ".spill", DATABASE_NAME, DIRECTORY_NAME, PARENT_NAME]),
            4..8 => (Operation::Write, &[".seg", ".seg", ".spill", DATABASE_NAME]),
            8 => (Operation::Create, &[".seg", ".spill", "retired"]),
            _ => (dice.pick(&[Operation::SetBytes, Operation::Remove, Operation::Open, Operation::Read]), &[""]),
        };
        let bytes = dice.pick(&[0, 4096, 8192, 1 << 20]);
        let effect = match (operation, dice.below(4)) {
            (Operation::Write, 0) => Effect::Short(bytes),
            (Operation::Write, 1) => Effect::ShortNoSpace(bytes),
            (Operation::Write | Operation::Create, 2) => Effect::NoSpace,
            _ => Effect::Error,
        };
        let (nth, goes_on) = (1 + dice.below(12), dice.percent(25));
        disk.plan().add(Fault { operation, name_contains: dice.pick(names).to_owned(), nth, effect, goes_on });
    }

    fn one_life(&mut self, number: u64, opened: Opened) -> Result<(Moment, Histories), String> {
        let mut dice = self.dice(number << 32);
        let Opened { machine: before, connection, files, .. } = opened;
        let twin = copy(&connection, &files);
        connection.close().map_err(|(_, error)| format!("close: {error:?}"))?;
        if self.world.stock {
            // After a kill the deletion of a journal is in the cache only, and would undo what this life begins with.
            self.sync_all(&before);
        }
        let disk = before.disk.clone();
        drop(before);
        let permille = dice.pick(&[5, 20, 60]);
        let machine = Machine::start(disk, self.watch(&mut dice, permille, 25));
        let character = Character {
            files: self.world.files,
            // Rollback journals let few work beside each other.
            connections: match self.world.beside {
                true => 3 + dice.index(script::OF_EACH - 2),
                false => 1 + dice.index(if self.world.files > 1 { 4 } else { 6 }),
            },
            processes: dice.pick(&[1, 2, 3, PROCESSES, PROCESSES]),
            segment_bytes: 4096 * (17 + dice.below(8)),
            batch_bytes: dice.pick(&[4096, 20_000, 4 << 20]),
            stock: self.world.stock && dice.percent(30),
            switches: self.world.stock,
            fills: self.world.fills,
            beside: self.world.beside,
            falls_behind: dice.percent(30),
        };
        let mut life = Life::new(Arc::clone(&machine), character, twin);
        life.events.push(format!("LIFE {number}: {character:?}"));
        let steps = if character.falls_behind { STEPS } else { dice.pick(&[10, 40, STEPS]) };
        let mut done = Ok(());
        for step in 0..steps {
            if self.skips.contains(&(number << 16 | step)) {
                continue;
            }
            let mut dice = self.dice(number << 32 | step << 8 | 1);
            if self.world.fails && dice.percent(5) {
                self.plan_fault(&machine.disk, &mut dice);
            }
            if self.world.fills && dice.percent(10) {
                let room = dice.pick(&[None, Some(0), Some(5000), Some(80_000)]);
                machine.disk.set_capacity(room.map(|room| machine.disk.used() + room));
            }
            done = life.step(dice);
            if done.is_err() {
                break;
            }
        }
        if done.is_ok() && dice.percent(15) && !self.world.fails && !self.world.fills {
            done = life.close_all();
        }
        let promises = machine.current();
        let last =
            Moment { disk: machine.disk.deep_clone(dice.next()), promises, place: String::from("the end of the life") };
        self.count("failed operations", machine.disk.plan().fired());
        machine.disk.kill();
        let Ended { histories, moments, events } = life.end();
        self.events.extend(events);
        for (what, count) in machine.counts() {
            self.count(what, count);
        }
        drop(machine);
        for (moments, histories) in moments {
            for moment in moments {
                if done.is_ok() {
                    done = self.examine(moment, &histories, 0, &mut Dice::new(dice.next()));
                }
            }
        }
        done.map(|()| (last, histories))
    }

    pub fn play(&mut self) -> Checked {
        registration(0);
        let alone = Arc::new(Alone::new(self.dice(1)));
        simulate(Arc::clone(&alone) as Arc<dyn Turns>);
        let played = self.play_alone();
        self.count("runs", 1);
        self.count("laps of the commit ring", alone.laps());
        self.count("reads of the log where the commit ring had moved on", alone.ring_moved_on());
        played
    }

    fn play_alone(&mut self) -> Checked {
        let mut dice = self.dice(0);
        let disk = self.create(&mut dice);
        let promises = Promises { files: vec![Promise::default(); self.world.files], sets: Vec::new() };
        let mut moment = Moment { disk, promises, place: String::from("the beginning") };
        let mut histories = self.begun(&moment);
        for number in 1..=1 + dice.below(LIVES) {
            let mut dice = Dice::new(dice.next());
            let Some(opened) = self.start_again(moment, &histories, 0, &mut dice)? else { return Ok(()) };
            (moment, histories) = self.one_life(number, opened)?;
        }
        self.examine(moment, &histories, 0, &mut dice)
    }

    /// The states that the databases begin with.
    fn begun(&self, moment: &Moment) -> Histories {
        let machine = Machine::start(moment.disk.deep_clone(0), self.watch(&mut Dice::new(0), 0, 0));
        let files: Vec<usize> = (0..self.world.files).collect();
        let connection = open(&machine, None, &files).expect("a database");
        let states = Opened::read(&connection, &files).expect("a state");
        states.into_iter().map(|state| vec![state]).collect()
    }
}

/// All files of the disk.
type Files = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn files(disk: &SimDisk) -> Files {
    let mut all = Files::new();
    let mut directories = vec![PathBuf::from("/sim")];
    while let Some(directory) = directories.pop() {
        for name in disk.names(&directory).unwrap_or_default() {
            let path = directory.join(name);
            let content = disk.contents(&path).map(|(cached, _)| cached);
            if content.is_none() && directory.as_path() == Path::new("/sim") {
                directories.push(path.clone());
            }
            all.insert(path, content);
        }
    }
    all
}
