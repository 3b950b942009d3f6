//! The stage of a scene: its database, and the processes that take its steps, on stock SQLite or on pwal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::Watchdog;
use support::processes::agent::Agent;

/// The processes of a scene, and its database.
pub struct Stage {
    pub vfs: &'static str,
    pub scratch: support::Scratch,
    pub agents: BTreeMap<char, Agent>,
}

impl Stage {
    pub fn new(vfs: &'static str) -> Stage {
        let stage = Stage { vfs, scratch: support::Scratch::new(), agents: BTreeMap::new() };
        let stock = support::open_stock(&stage.path());
        support::run(&stock, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(0)");
        support::close(stock);
        stage
    }

    pub fn path(&self) -> PathBuf {
        self.scratch.file("app.db")
    }

    /// One step, and its answer. It is `<process><connection> <statement>`, or one of:
    /// * `<process><connection> open`, `open stock` (not on pwal), `open for reading`, `close`;
    /// * `<process><connection> attach`: a connection whose main database is another one, with this one as `app`;
    /// * `<process> kill`;
    /// * `wal`: whether a `-wal` lies beside the database, and is a file.
    pub fn play(&mut self, step: &str) -> String {
        let path = self.path();
        let (who, what) = step.split_once(' ').unwrap_or((step, ""));
        if who == "wal" {
            return wal(&path);
        }
        let process = who.chars().next().expect("a process");
        let name = &who[1..];
        if what == "kill" {
            self.agents.remove(&process).expect("a process").kill();
            return String::from("killed");
        }
        let agent = self.agents.entry(process).or_insert_with(Agent::start);
        let mut open = |vfs: &str, path: &str| {
            let answer = agent.ask(&format!("{name} .vfs {vfs} {path}"));
            assert_eq!(agent.ask(&format!("{name} .timeout 0")), "ok");
            answer
        };
        match what {
            "open" => open(self.vfs, &path.display().to_string()),
            "open stock" => open(support::STOCK, &path.display().to_string()),
            "open for reading" => open(self.vfs, &format!("file:{}?mode=ro", path.display())),
            "attach" => {
                assert_eq!(open(support::STOCK, ":memory:"), "open");
                agent.ask(&format!("{name} ATTACH 'file:{}?vfs={}' AS app", path.display(), self.vfs))
            }
            "close" => agent.ask(&format!("{name} .close")),
            sql => agent.ask(&format!("{name} {sql}")),
        }
    }

    /// All close; what is left.
    pub fn end(self) -> Vec<String> {
        let path = self.path();
        self.agents.into_values().for_each(Agent::end);
        // What a killed one left.
        let last = support::try_open(&path, support::flags(), self.vfs).expect("open");
        support::text(&last, "SELECT x FROM t");
        support::close(last);
        let beside = format!("beside: {:?}", support::beside(&path));
        let stock = support::open_stock(&path);
        let left = format!("left: {}", support::rows(&stock, "SELECT x FROM t").expect("its rows").join(" "));
        support::assert_integrity(&stock);
        support::close(stock);
        vec![beside, left]
    }
}

/// Plays the steps on this VFS; what was answered, a line for each step.
fn play(vfs: &'static str, steps: &[&str]) -> Vec<String> {
    let mut stage = Stage::new(vfs);
    let mut answers: Vec<String> = steps.iter().map(|step| format!("{step}: {}", stage.play(step))).collect();
    answers.extend(stage.end());
    answers
}

/// Whether a file has the name of the `-wal`.
fn wal(path: &Path) -> String {
    let name = format!("{}-wal", path.display());
    std::fs::symlink_metadata(name).is_ok_and(|wal| wal.is_file()).to_string()
}

/// The steps, played on both.
#[track_caller]
pub fn same(steps: &[&str]) {
    let _watchdog = Watchdog::new("a scene of locking_mode", Duration::from_secs(100));
    let (stock, pwal) = (play(support::STOCK, steps), play(support::vfs(), steps));
    for (stock, pwal) in stock.iter().zip(&pwal) {
        if stock == pwal { println!("  {stock}") } else { println!("! {stock} | {pwal}") }
    }
    assert_eq!(pwal, stock);
}
