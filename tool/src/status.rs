//! `pwal status`: the processes that have a database open, and the state of its log; disturbs no process.

use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::openers::{Opener, Openers, Way};
use crate::owner;
use crate::reader::OldestReader;
use crate::text::{self, Table, say};
use pwal::internal::disk::Directory;
use pwal::internal::log::stamp::StampState;
use pwal::internal::shared::{ControlView, OnStockWal, ProcessInfo, now_us};
use pwal::{ProcessStatus, ReaderStatus};
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Show who has a database open, and the watermarks of its log
///
/// Creates and locks nothing, also while the database is written.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Done {
    let status = Status::look(&arguments.database)?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&status.as_json());
        say!("{}", json.map_err(|error| Failure::cannot(error.to_string()))?);
    } else {
        status.show();
    }
    Ok(())
}

struct Status {
    database: DatabaseFile,
    owned: bool,
    stock_wal: OnStockWal,
    openers: Openers,
    log: Option<LogFiles>,
    /// What the control block says; `None`: it is not ready, or no process owns the log.
    control: Option<ControlBlock>,
    /// Why the control block says nothing.
    unread: Option<String>,
}

/// The files of the log.
#[derive(Clone, Serialize)]
struct LogFiles {
    #[serde(rename = "slots")]
    slots: u64,
    #[serde(rename = "spill_files")]
    spills: u64,
    bytes: u64,
}

/// What the control block says.
struct ControlBlock {
    attached: Vec<ProcessInfo>,
    published: u64,
    visible: u64,
    durable: u64,
    backfilled: u64,
    mode: &'static str,
    transactions: usize,
    oldest: Option<OldestReader>,
    poisoned: bool,
}

impl Status {
    fn look(path: &std::path::Path) -> Result<Status, Failure> {
        let database = DatabaseFile::look(path)?;
        let directory = database.log_directory();
        let owned =
            owner::is_owned(&database).map_err(|error| Failure::io("look at the lock in", &directory, &error))?;
        let stock_wal =
            owner::stock_wal(&database).map_err(|error| Failure::io("look at the lock in", &directory, &error))?;
        let control = if owned { owner::processes(&database) } else { Ok(None) };
        let (control, unread) = match control {
            Ok(control) => {
                (control.map(|(control, attached)| ControlBlock::read(&database, control.control(), attached)), None)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => (None, Some(error.to_string())),
            Err(error) => (None, Some(format!("control cannot be read: {error}"))),
        };
        let (openers, log) = (Openers::of(&database), LogFiles::of(&database));
        Ok(Status { database, owned, stock_wal, openers, log, control, unread })
    }

    fn show(&self) {
        let Status { database, owned, openers, log, control, unread, .. } = self;
        let pages = database.page_bytes().map_or(String::new(), |page_bytes| {
            let pages = database.bytes / u64::from(page_bytes);
            format!(", {} of {page_bytes} bytes", text::counted(pages, "page"))
        });
        line("database", &format!("{} ({}{pages})", database.name(), text::bytes(database.bytes)));
        line("header", &database.describe());
        line("state", self.state());
        for process in self.others() {
            line("open in", &format!("{process}{}", how(process, *owned)));
        }
        if openers.hidden > 0 && control.is_none() {
            line("", &format!("and perhaps in processes of other users ({})", text::count(openers.hidden as u64)));
        }
        let directory = database.log_directory();
        if let Some(LogFiles { slots, spills, bytes }) = log {
            let spills =
                if *spills > 0 { format!(", {}", text::counted(*spills, "spill file")) } else { String::new() };
            let (segments, bytes) = (text::counted(*slots, "segment"), text::bytes(*bytes));
            line("log", &format!("{segments}{spills}, {bytes} in {}", directory.display()));
        }
        match (control, unread) {
            (Some(control), _) => control.show(),
            (None, Some(why)) => line("watermarks", &format!("not shown: {why}")),
            (None, None) if *owned => line(
                "watermarks",
                "not visible: a process is just opening it, or its only process has them in private memory",
            ),
            (None, None) => {}
        }
        // Beside a log the placeholder is part of it.
        let placeholder = database.placeholder().filter(|_| log.is_some());
        for path in
            database.leftovers().iter().filter(|path| **path != directory && Some(*path) != placeholder.as_ref())
        {
            line("beside it", &path.display().to_string());
        }
        if let Some(ControlBlock { attached, .. }) = control {
            text::print(&format!("\n{}", table(attached, now_us()).render("")));
        }
    }

    /// Who has the file open and is not among the joined.
    fn others(&self) -> impl Iterator<Item = &Opener> {
        self.openers.not_among(self.control.as_ref().map_or(&[], |control| &control.attached))
    }

    fn as_json(&self) -> Json {
        let Status { database, owned, openers, log, control, unread, .. } = self;
        let now_us = now_us();
        let open_in = openers.all.iter().map(|opener| OpenIn {
            pid: opener.pid,
            command: opener.command.clone(),
            through_pwal: match opener.way {
                Way::Pwal => Some(true),
                Way::Other => Some(false),
                Way::Unknown => None,
            },
        });
        Json {
            schema: pwal::Status::SCHEMA,
            database: database.name().to_string(),
            bytes: database.bytes,
            page_bytes: database.page_bytes(),
            header: database.describe(),
            open_through_pwal: *owned,
            beside_stock: self.stock_wal == OnStockWal::Shared,
            exclusive: self.stock_wal == OnStockWal::Alone,
            state: self.state(),
            open_in: open_in.collect(),
            log: log.clone(),
            marks: control.as_ref().map(|control| control.marks(now_us)),
            marks_unread: unread.clone(),
            processes: control
                .as_ref()
                .map(|control| control.attached.iter().map(|process| process.status(now_us)).collect()),
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Json {
    schema: u32,
    database: String,
    bytes: u64,
    page_bytes: Option<u32>,
    header: String,
    open_through_pwal: bool,
    beside_stock: bool,
    exclusive: bool,
    state: &'static str,
    open_in: Vec<OpenIn>,
    log: Option<LogFiles>,
    marks: Option<Marks>,
    marks_unread: Option<String>,
    processes: Option<Vec<ProcessStatus>>,
}

/// A process that has the file open.
#[derive(Serialize)]
struct OpenIn {
    pid: u32,
    command: String,
    /// `None`: this user may not look at the process.
    through_pwal: Option<bool>,
}

#[derive(Serialize)]
struct Marks {
    published: u64,
    visible: u64,
    durable: u64,
    backfilled: u64,
    mode: &'static str,
    transactions: usize,
    oldest_reader: Option<ReaderStatus>,
    poisoned: bool,
}

fn line(what: &str, value: &str) {
    say!("{what:<10} {value}");
}

impl Status {
    fn state(&self) -> &'static str {
        match (self.owned, self.database.stamp()) {
            (true, _) => "open through pwal",
            (false, StampState::Plain { .. }) if self.stock_wal == OnStockWal::Alone => {
                "open through pwal in locking_mode=EXCLUSIVE: one connection has it for itself, on stock SQLite's own -wal"
            }
            (false, StampState::Plain { wal: true }) if self.stock_wal == OnStockWal::Shared => {
                "open through pwal, on stock SQLite's own -wal: a connection that is not on pwal was there first"
            }
            (false, StampState::Plain { wal: true }) => "not open through pwal; pwal takes it with the next open",
            (false, StampState::Plain { wal: false }) => "not open through pwal, not in WAL mode",
            (false, _) if self.log.as_ref().is_none_or(|log| log.slots == 0) => {
                "a copy without its log, or the log was removed: an open through pwal is refused, `pwal recover` says what can be done"
            }
            (false, _) => "closed by a crash: the next open through pwal recovers it, or `pwal recover`",
        }
    }
}

/// What a reader may ask about a process that is not joined.
fn how(opener: &Opener, owned: bool) -> &'static str {
    match opener.way {
        Way::Other if owned => ", not through pwal: it cannot read or write now",
        Way::Other | Way::Pwal => "",
        Way::Unknown => ", which this user may not look at",
    }
}

impl LogFiles {
    /// By their names; `None`: no log directory.
    fn of(database: &DatabaseFile) -> Option<LogFiles> {
        let directory = Directory::open(&database.log_directory()).ok()?;
        let (mut slots, mut spills, mut bytes) = (0, 0, 0);
        for name in directory.list().ok()? {
            let counter = match () {
                () if name.ends_with(".seg") => &mut slots,
                () if name.ends_with(".spill") => &mut spills,
                () => continue,
            };
            *counter += 1;
            bytes += directory.look_at(&name).map_or(0, |file| u64::try_from(file.st_size).unwrap_or(0));
        }
        Some(LogFiles { slots, spills, bytes })
    }
}

impl ControlBlock {
    fn read(database: &DatabaseFile, control: &ControlView, attached: Vec<ProcessInfo>) -> ControlBlock {
        // The lower ones first: they only grow.
        let (backfilled, durable) = (control.backfilled(), control.durable());
        let (visible, published) = (control.visible(), control.published());
        let oldest = OldestReader::of(database, control, &attached);
        ControlBlock {
            attached,
            published,
            visible,
            durable,
            backfilled,
            mode: if control.mode() == 1 { "conservative" } else { "auto" },
            transactions: control.snapshots().count(),
            oldest,
            poisoned: control.poisoned() != 0,
        }
    }

    fn marks(&self, now_us: u64) -> Marks {
        let ControlBlock { published, visible, durable, backfilled, mode, transactions, poisoned, .. } = *self;
        let oldest_reader = self.oldest.as_ref().map(|oldest| oldest.status(now_us));
        Marks { published, visible, durable, backfilled, mode, transactions, oldest_reader, poisoned }
    }

    fn show(&self) {
        let ControlBlock { published, visible, durable, backfilled, mode, transactions, oldest, poisoned, .. } = self;
        let marks =
            format!("published {published}, visible {visible}, durable {durable}, in the database file {backfilled}");
        line("watermarks", if *published > 0 { &marks } else { "nothing committed yet" });
        line("mode", mode);
        if let Some(oldest) = oldest {
            let transactions = text::counted(*transactions as u64, "transaction");
            let OldestReader { snapshot, pid, command, .. } = oldest;
            let (age, keeps) = (text::duration(oldest.since(now_us())), oldest.keeps());
            let reader = format!("{pid} ({command}) sees commit {}, for {age}{keeps}", snapshot.sequence);
            line("reading", &format!("{transactions}; the oldest: {reader}"));
        }
        if *poisoned {
            line("failed", "a write or a sync of the log failed: close all connections and open the database again");
        }
    }
}

/// The joined processes, a row each.
fn table(attached: &[ProcessInfo], now_us: u64) -> Table {
    let mut table = Table::new(&["attached", "since", "oldest snapshot", "waiting", "holding", "command"]);
    for process in attached {
        table.row(vec![
            process.pid.to_string(),
            ago(process.joined_us, now_us),
            process.oldest_snapshot.map_or(String::new(), |oldest| {
                format!("commit {}, for {}", oldest.sequence, ago(oldest.since_us, now_us))
            }),
            process.waiting_since_us.map_or(String::new(), |since_us| ago(since_us, now_us)),
            process.holding.join(" "),
            format!("{}{}", process.command, if process.alive { "" } else { " (killed)" }),
        ]);
    }
    table
}

fn ago(since_us: u64, now_us: u64) -> String {
    text::duration(Duration::from_micros(now_us.saturating_sub(since_us)))
}
