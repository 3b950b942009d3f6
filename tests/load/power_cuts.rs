//! Several threads commit when the machine stops: the log lies on the simulated disk, SQLite and the database file are
//! real. Then the power is gone (of what was not synced survives what the dice say), or only the process is; and the
//! next life finds a whole prefix of the commits, with all that was promised.
//!
//! The database file survives as it was written last: a page that the log did not have durably before would show.
//! `PWAL_TEST_ROUNDS` sets the runs, `PWAL_TEST_ONE=<seed>` plays one. Threads make each run its own.

use pwal::internal::disk::fault::{DIRECTORY_NAME, Operation};
use pwal::internal::disk::hooked::{Call, Hook, HookedDirectory, Verdict};
use pwal::internal::disk::sim::{Dice, HeaderTear, PowerCut, SimDisk};
use pwal::internal::disk::{Disk, LogDirectory};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Scratch, Watchdog, env_number};

/// Files that are shared memory and locks, and no part of the medium.
const REAL: [&str; 2] = ["lock", "control"];
/// Rows that are written again and again: `v` is the last commit that touched the row.
const PADS: u64 = 12;

/// The log lies on the simulated disk, as that of a database that has another real path in each life.
#[derive(Debug)]
struct LogOnSim(SimDisk);

/// The real directory of `lock` and `control`.
#[derive(Debug)]
struct RealFiles(PathBuf);

impl Disk for LogOnSim {
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory> {
        let real = RealFiles(PathBuf::from(format!("{}-pwal", database.display())));
        Arc::new(HookedDirectory::new(self.0.log_directory(Path::new("/sim/a.db")), Arc::new(real)))
    }
    fn sector_bytes(&self, database: &Path) -> u32 {
        self.0.sector_bytes(database)
    }
}

impl Hook for RealFiles {
    fn path(&self) -> Option<&Path> {
        Some(&self.0)
    }
    fn before(&self, call: &Call<'_>) -> Verdict {
        let done = match call.operation {
            Operation::Create if call.name == DIRECTORY_NAME => {
                return std::fs::create_dir_all(&self.0).map_or_else(Verdict::Fail, |()| Verdict::Pass);
            }
            Operation::Remove if REAL.contains(&call.name) => std::fs::remove_file(self.0.join(call.name)),
            _ => return Verdict::Pass,
        };
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Verdict::Fail(error),
            _ => Verdict::Skip,
        }
    }
    fn after(&self, call: &Call<'_>) -> io::Result<()> {
        if call.operation == Operation::Remove && call.name == DIRECTORY_NAME {
            std::fs::remove_dir(&self.0)?;
        }
        Ok(())
    }
    fn listed(&self, names: &mut Vec<String>) {
        names.extend(REAL.iter().filter(|name| self.0.join(name).exists()).map(|name| (*name).to_owned()));
        names.sort();
    }
}

/// What one life was told.
#[derive(Debug, Default)]
struct Told {
    /// Commit number to its row, for what COMMIT answered OK; and whether it asked for durability.
    acknowledged: BTreeMap<i64, (String, bool)>,
    /// The newest commit that asked for durability and was read by somebody who does not write.
    seen: i64,
}

struct Life<'a> {
    vfs: String,
    path: PathBuf,
    sim: &'a SimDisk,
}

impl<'a> Life<'a> {
    /// On a VFS of its own: to it nothing of an earlier life is open.
    fn new(path: &Path, sim: &'a SimDisk) -> Life<'a> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let vfs = format!("cut-{}", NUMBER.fetch_add(1, SeqCst));
        let disk = Arc::new(LogOnSim(sim.clone()));
        pwal::Vfs::builder().name(&vfs).base(support::STOCK).disk(disk).register().expect("pwal registers");
        Life { vfs, path: path.to_owned(), sim }
    }

    fn open(&self) -> Connection {
        let connection = support::try_open(&self.path, support::flags(), &self.vfs).expect("open");
        connection.busy_timeout(Duration::from_secs(20)).expect("a timeout");
        connection
    }

    /// Commits until the machine stops or there were enough.
    fn write(&self, writer: u64, seed: u64, told: &Mutex<Told>) {
        let mut dice = Dice::new(seed);
        let connection = self.open();
        let full_percent = dice.pick(&[0, 50, 100]);
        let checkpoints = dice.pick(&[0, 5, 1000]);
        if support::code_of(&connection, &format!("PRAGMA wal_autocheckpoint={checkpoints}")) != 0 {
            return;
        }
        for n in 0..60 {
            let full = dice.percent(full_percent);
            let mode = if dice.percent(10) { "PRAGMA parallel_wal_mode=conservative" } else { "" };
            let back = if mode.is_empty() && dice.percent(30) { "PRAGMA parallel_wal_mode=auto" } else { mode };
            let set = format!("PRAGMA synchronous={}; {back}", if full { "FULL" } else { "NORMAL" });
            let (pad, bytes) = (dice.below(PADS), dice.pick(&[10, 3000, 20_000, 90_000]));
            let row = format!("{writer}.{n}|{}|{pad}", u8::from(full));
            let insert = format!(
                "INSERT INTO log SELECT ifnull(max(seq), 0)+1, '{writer}.{n}', {}, {pad} FROM log RETURNING seq",
                u8::from(full)
            );
            let update = format!("UPDATE pad SET v=(SELECT max(seq) FROM log), x=zeroblob({bytes}) WHERE id={pad}");
            let committed = connection.execute_batch(&format!("{set}; BEGIN IMMEDIATE")).and_then(|()| {
                let seq: i64 = connection.query_row(&insert, [], |row| row.get(0))?;
                connection.execute_batch(&format!("{update}; COMMIT"))?;
                Ok(seq)
            });
            match committed {
                Ok(seq) => {
                    told.lock().unwrap().acknowledged.insert(seq, (row, full));
                }
                Err(error) => {
                    assert!(self.sim.is_off(), "an error out of nowhere: {error:?}");
                    return;
                }
            }
            if dice.percent(10) {
                // BUSY beside a transaction.
                let code = support::code_of(&connection, "SELECT pwal_retire()");
                assert!(code == 0 || code == rusqlite::ffi::SQLITE_BUSY || self.sim.is_off(), "{code}");
            }
        }
    }

    fn read(&self, told: &Mutex<Told>, over: &AtomicBool) {
        let connection = self.open();
        while !over.load(SeqCst) {
            let seen = support::rows(&connection, "SELECT ifnull(max(seq), 0) FROM log WHERE full=1");
            let Ok(seen) = seen else { return };
            let seen = seen[0].parse().unwrap();
            let mut told = told.lock().unwrap();
            told.seen = told.seen.max(seen);
        }
    }
}

/// The rows of the log, after a check of everything that has to fit them.
fn history(connection: &Connection) -> BTreeMap<i64, String> {
    support::assert_integrity(connection);
    let rows = support::rows(connection, "SELECT seq, w||'|'||full||'|'||pad FROM log ORDER BY seq").unwrap();
    let rows: BTreeMap<i64, String> = rows
        .iter()
        .map(|row| row.split_once('|').unwrap())
        .map(|(seq, row)| (seq.parse().unwrap(), row.to_owned()))
        .collect();
    assert!(rows.keys().copied().eq(1..=rows.len() as i64), "not dense: {rows:?}");
    let odd = "SELECT id, v FROM pad WHERE v IS NOT ifnull((SELECT max(seq) FROM log WHERE log.pad=pad.id), 0)";
    assert_eq!(support::rows(connection, odd).unwrap(), Vec::<String>::new(), "pages of different commits");
    rows
}

/// The end of a life: the power goes, or (true) only the process.
fn end(sim: &SimDisk, dice: &mut Dice) -> bool {
    let killed = dice.percent(40);
    if killed {
        sim.kill();
    } else {
        let how = PowerCut {
            keep_percent: dice.pick(&[0, 10, 50, 90, 100]),
            tears_sectors: true,
            tears_same_bytes: dice.percent(20),
            tears_header: HeaderTear::Never,
        };
        sim.power_cut(&how);
    }
    if dice.percent(30) {
        sim.evict();
    }
    killed
}

fn run(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let scratch = Scratch::in_memory();
    let sim = SimDisk::new(dice.next());
    let mut before: BTreeMap<i64, String> = BTreeMap::new();
    let mut path = scratch.file("life-0.db");
    let mut story = Vec::new();
    for number in 1..=1 + dice.below(3) {
        let life = Life::new(&path, &sim);
        let setup = life.open();
        if number == 1 {
            support::run(
                &setup,
                &format!(
                    "PRAGMA journal_mode=WAL; CREATE TABLE log(seq INTEGER PRIMARY KEY, w, full, pad);
                     CREATE TABLE pad(id INTEGER PRIMARY KEY, v, x);
                     WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n+1 FROM c LIMIT {PADS})
                     INSERT INTO pad SELECT n, 0, '' FROM c"
                ),
            );
        }
        let found = history(&setup);
        assert_eq!(found, before, "{story:?}");
        support::run(&setup, "PRAGMA parallel_wal_segment_bytes=262144");
        let (told, over) = (Mutex::new(Told::default()), AtomicBool::new(false));
        let (threads, stop) = (2 + dice.below(3), dice.pick(&[20, 200, 1000]));
        // What the setup committed is promised, too.
        support::run(&setup, "PRAGMA synchronous=FULL; UPDATE pad SET x='' WHERE id=0");
        sim.stop_after(dice.below(stop));
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..threads)
                .map(|writer| {
                    let (life, told, seed) = (&life, &told, dice.next());
                    scope.spawn(move || life.write(number * 10 + writer, seed, told))
                })
                .collect();
            scope.spawn(|| life.read(&told, &over));
            let ends: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            over.store(true, SeqCst);
            ends.into_iter().for_each(Result::unwrap);
        });
        drop(setup);
        let next = scratch.file(&format!("life-{number}.db"));
        std::fs::copy(&path, &next).expect("copy the database file");
        path = next;
        let killed = end(&sim, &mut dice);

        let life = Life::new(&path, &sim);
        let look = life.open();
        let found = history(&look);
        let Told { acknowledged, seen } = told.into_inner().unwrap();
        let last = found.len() as i64;
        let promised = acknowledged.iter().filter(|(_, (_, full))| killed || *full).map(|(seq, _)| *seq).max();
        let must = promised.unwrap_or(0).max(seen).max(before.len() as i64);
        story.push(format!(
            "{threads} threads, {} of at most {stop}, killed {killed}: {last}, must {must}",
            acknowledged.len()
        ));
        assert!(last >= must, "seed {seed}: lost: {story:#?}");
        for (seq, row) in &before {
            assert_eq!(found.get(seq), Some(row), "seed {seed}: {story:#?}");
        }
        for (seq, (row, _)) in acknowledged.range(..=last) {
            assert_eq!(found.get(seq), Some(row), "seed {seed}: {story:#?}");
        }
        support::close(look);
        support::assert_plain(&path);
        before = found;
    }
    story.join("; ")
}

#[test]
fn threads_commit_when_the_power_goes() {
    let _watchdog = Watchdog::new("power cuts", Duration::from_secs(500));
    if std::env::var_os("PWAL_TEST_ONE").is_some() {
        println!("{}", run(env_number("PWAL_TEST_ONE", 0)));
        return;
    }
    for seed in 0..env_number("PWAL_TEST_ROUNDS", 20) {
        println!("{seed}: {}", run(seed));
    }
}
