//! The golden list: what must be durable before what, by the rules of `docs/format.md` and `docs/architecture.md`, and a walk
//! over recorded calls that holds each against it.
//!
//! The list says nothing of the order of calls that do not depend on each other, nor when a thread of the engine runs.

use super::medium::{Change, Left, Medium, Node, ROOT};
use super::records::{self, BLOCK_BYTES, Image, Kind, Record, Role, batches};
use super::trace::Call;
use pwal::internal::log::format::{LogId, image_crc};
use pwal::internal::log::stamp::{self, StampState};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The header of a database file.
const HEADER_BYTES: usize = 100;

/// Rules, and what each demands.
pub const RULES: &[(&str, &str)] = &[
    (
        "A0 file",
        "before the stamp of a new log is written, the database file is synced: by those that wrote it, stock SQLite under FULL or pwal",
    ),
    ("A0 journal", "and a journal that stays beside it"),
    ("A0 -wal", "and an empty WAL of stock SQLite"),
    ("A1 segment", "and the first segment, with header and doubled certificate"),
    ("A1 names", "and the names in the log directory"),
    ("A1 parent", "and the names of the log directory and the placeholder, beside the database"),
    ("A2", "before the first batch of a log is written, the stamp is synced"),
    ("A3", "and a marker of a rest is deleted, durably"),
    ("R2", "when a commit under FULL or EXTRA is acknowledged, all batches up to it are synced"),
    ("R4", "before a checkpoint writes a page of commits up to T, a durable certificate says D >= T"),
    ("R5", "when a commit is answered with an error, its record is gone, durably"),
    ("R6 space", "before a segment begins in a segment file, the segment file's space is synced"),
    ("R6 allocated", "also where it was allocated, not written"),
    ("R6 name", "and its name"),
    (
        "cut",
        "no block is written again in which a commit ends, or its certificate, that is durable; but the same bytes are, by a process \
         that finishes the flush of one that died when it had synced them and had answered nobody",
    ),
    ("D", "before a certificate is written, all commits up to its D are synced"),
    ("B", "before a doubled certificate is written, the database file with all commits up to its B is synced"),
    (
        "recycle",
        "before a segment file is used again or deleted, a doubled certificate in a later segment is durable whose B is at or \
                 beyond the last commit in it",
    ),
    (
        "begun",
        "before a segment begins, the header of another segment file that was begun as this segment is gone, durably",
    ),
    ("spill", "before a batch is written, its spill file is synced, with its name"),
    (
        "spill end",
        "before the spill file of a commit is deleted, a durable doubled certificate has B at or beyond it, or the log has ended",
    ),
    ("recovery files", "before a recovery writes to the database file, all segments and spill files are synced"),
    ("recovery names", "and the log directory"),
    ("recovery parent", "and the directory that it lies in"),
    ("recovery T", "before a recovery writes a page of a commit up to T, that T is in the stamp, durably"),
    (
        "Z1",
        "before the marker of a retirement is made, the database file is synced, but for the change counter: the log brings the first sector back",
    ),
    ("Z2", "before page 1 is made plain behind commits, the marker's name is durable"),
    ("Z3", "before the segments of a log are deleted, the plain page 1 is synced"),
    ("Z4", "before a marker is deleted, the deletion of the segments and spill files of its log is durable"),
    ("moved", "before a log directory is made, the renaming of another one is durable"),
    ("alone", "before a page is written to a plain database file beside frames of stock SQLite's -wal, that is synced"),
    ("undo whole", "before the header of the journal that undoes a salvage is written, its records are synced"),
    ("undo", "before a salvage overwrites a page, the journal that undoes it is durable"),
];

/// Holds the calls against [`RULES`]; how often each was asked for.
pub fn check(before: &Medium, calls: &[(u32, Call)]) -> BTreeMap<&'static str, usize> {
    let mut walk = Walk::new(before.clone());
    for (at, (pid, call)) in calls.iter().enumerate() {
        walk.before(at, *pid, call);
        walk.medium.apply(call);
        walk.behind(at, call);
    }
    let text: Vec<String> =
        walk.broken.iter().take(10).map(|(at, text)| format!("{at} {}: {text}", calls[*at].1)).collect();
    assert!(text.is_empty(), "{} barriers are missing:\n{}", walk.broken.len(), text.join("\n"));
    walk.met
}

struct Walk {
    medium: Medium,
    roles: HashMap<Node, Role>,
    records: Vec<Record>,
    /// Headers, also those that were written over.
    headers: Vec<Record>,
    /// The log whose stamp is in the database file, as it reads.
    stamped: Option<LogId>,
    /// A process writes to the database file that has written nothing to its log.
    recovering: bool,
    /// The processes that have written to the log, and so do not recover it.
    writers: BTreeSet<u32>,
    /// Segment files that have got their space without a write.
    allocated: BTreeSet<Node>,
    /// The process of a salvage.
    salvages: bool,
    /// The commit that is not answered yet wants durability.
    wants_durable: bool,
    /// What was written since it began.
    written: Vec<Record>,
    /// The last commit that was there when one was acknowledged that wants durability.
    promised: BTreeMap<LogId, u64>,
    met: BTreeMap<&'static str, usize>,
    broken: Vec<(usize, String)>,
}

impl Walk {
    fn new(medium: Medium) -> Walk {
        let mut walk = Walk {
            roles: HashMap::new(),
            records: Vec::new(),
            headers: Vec::new(),
            stamped: None,
            recovering: false,
            writers: BTreeSet::new(),
            allocated: BTreeSet::new(),
            salvages: false,
            wants_durable: false,
            written: Vec::new(),
            promised: BTreeMap::new(),
            met: BTreeMap::new(),
            broken: Vec::new(),
            medium,
        };
        walk.take_over(ROOT);
        walk
    }

    /// What was there before the first call.
    fn take_over(&mut self, directory: Node) {
        for (name, node) in self.medium.names(directory) {
            let role = Role::of(directory, &name);
            self.roles.insert(node, role);
            let bytes = self.medium.bytes(node, true);
            if role == Role::Database {
                self.stamped = stamp_of(&bytes);
            } else if let Some(log_id) = role.segment() {
                self.records.extend(records::read(log_id, node, records::FOUND, 0, &bytes));
            } else if role == Role::LogDirectory {
                self.take_over(node);
            }
        }
    }

    fn role(&self, node: Node) -> Role {
        self.roles.get(&node).copied().unwrap_or(Role::Other)
    }

    fn nodes(&self, is_wanted: impl Fn(Role) -> bool) -> Vec<Node> {
        self.roles.iter().filter(|(_, role)| is_wanted(**role)).map(|(node, _)| *node).collect()
    }

    /// The last node in this role that has a name now.
    fn named(&self, is_wanted: impl Fn(Role) -> bool) -> Option<Node> {
        self.nodes(is_wanted).into_iter().max()
    }

    fn is_synced(&self, node: Node) -> bool {
        self.medium.pending_of(node).next().is_none()
    }

    fn is_synced_behind_header(&self, database: Node) -> bool {
        let is_of_header =
            |change: &Change| matches!(change, Change::Write { offset: 0, bytes } if bytes.len() <= HEADER_BYTES);
        self.medium.pending_of(database).all(|pending| is_of_header(&pending.change))
    }

    fn demand(&mut self, rule: &'static str, at: usize, holds: bool, what: &str) {
        let (_, text) = RULES.iter().find(|(name, _)| *name == rule).unwrap_or_else(|| panic!("no rule {rule}"));
        *self.met.entry(rule).or_default() += 1;
        if !holds {
            self.broken.push((at, format!("rule {rule}: {text} ({what})")));
        }
    }

    /// Whether all names in a directory are durable, of which `counts`.
    fn names_are_synced(&self, directory: Node, counts: impl Fn(&str) -> bool) -> bool {
        !self.medium.pending_of(directory).any(|pending| match &pending.change {
            Change::Enter { name, .. } | Change::Leave { name } => counts(name),
            Change::Move { name, new_name } => counts(name) || counts(new_name),
            _ => false,
        })
    }

    fn before(&mut self, at: usize, pid: u32, call: &Call) {
        match call {
            Call::Mark(text) => self.mark(at, text),
            Call::Write { node, offset, bytes } => {
                let node = self.medium.node(*node);
                let role = self.role(node);
                if let Some(log_id) = role.segment() {
                    self.writers.insert(pid);
                    self.cut(at, log_id, node, *offset, bytes);
                    for record in records::read(log_id, node, at, *offset, bytes) {
                        self.record(at, &record);
                    }
                } else if role == Role::Undo && *offset == 0 {
                    let holds = self.is_synced(node);
                    self.demand("undo whole", at, holds, "they are not");
                } else if role == Role::Database {
                    self.database(at, pid, node, *offset, bytes);
                }
            }
            Call::Create { name, .. } if name.starts_with("retired-") => {
                if let Some(database) = self.named(|role| role == Role::Database) {
                    let holds = self.is_synced_behind_header(database);
                    self.demand("Z1", at, holds, "it is not");
                }
            }
            Call::MakeDirectory { directory, name, .. } if name.ends_with("-pwal") => {
                let directory = self.medium.node(*directory);
                let is_moved = |change: &Change| matches!(change, Change::Move { .. });
                let moved = self.medium.pending_of(directory).any(|pending| is_moved(&pending.change));
                self.demand("moved", at, !moved, "it is not");
            }
            Call::Resize { node, bytes: 1.. } => {
                self.allocated.insert(self.medium.node(*node));
            }
            Call::Resize { node, bytes: 0 } => {
                let node = self.medium.node(*node);
                if self.role(node).segment().is_some() {
                    self.deleted(at, node);
                }
            }
            Call::Remove { directory, name } => {
                let directory = self.medium.node(*directory);
                if let Some(node) = self.medium.names(directory).get(name).copied() {
                    self.removed(at, directory, node);
                }
            }
            _ => {}
        }
    }

    fn behind(&mut self, at: usize, call: &Call) {
        match call {
            Call::Create { directory, node, name } | Call::MakeDirectory { directory, node, name } => {
                let role = Role::of(self.medium.node(*directory), name);
                // A name that is used again is that of the newer file.
                self.roles.insert(self.medium.node(*node), role);
            }
            Call::Write { node, offset, bytes } => {
                let node = self.medium.node(*node);
                if let Some(log_id) = self.role(node).segment() {
                    let end = offset + bytes.len() as u64;
                    self.records.retain(|record| record.segment != node || !(*offset..end).contains(&record.offset));
                    let new = records::read(log_id, node, at, *offset, bytes);
                    self.written.extend(new.iter().filter(|record| matches!(record.kind, Kind::Batch { .. })).cloned());
                    self.headers
                        .extend(new.iter().filter(|record| matches!(record.kind, Kind::Header { .. })).cloned());
                    self.records.extend(new);
                } else if self.role(node) == Role::Database {
                    self.stamped = stamp_of(&self.medium.bytes(node, false));
                }
            }
            _ => {}
        }
    }

    fn mark(&mut self, at: usize, text: &str) {
        let words: Vec<&str> = text.split(' ').collect();
        match words[0] {
            "life" => {
                self.recovering = false;
                self.salvages = text == "life salvaged";
            }
            "begin" => {
                self.wants_durable = words[3] == "durable";
                self.written.clear();
            }
            "acknowledged" if self.wants_durable => {
                let Some(log_id) = self.stamped else { return };
                let batches = batches(&self.records, log_id);
                let unsynced: Vec<u64> =
                    batches.iter().filter(|(_, batch)| !batch.is_durable(&self.medium)).map(|(n, _)| *n).collect();
                self.promised.insert(log_id, batches.keys().next_back().copied().unwrap_or(0));
                self.demand("R2", at, unsynced.is_empty(), &format!("not synced: {unsynced:?}"));
            }
            "failed" => {
                for batch in std::mem::take(&mut self.written) {
                    let gone = self.is_gone(&batch);
                    self.demand("R5", at, gone, "it may come back");
                }
            }
            _ => {}
        }
    }

    /// These bytes of a segment are about to be written, and with them all of the blocks in which they lie.
    fn cut(&mut self, at: usize, log_id: LogId, segment: Node, offset: u64, new: &[u8]) {
        let block = BLOCK_BYTES as u64;
        let bytes = offset / block * block..(offset + new.len() as u64).next_multiple_of(block);
        let is_same = self.medium.bytes(segment, false).get(offset as usize..).is_some_and(|old| old.starts_with(new));
        let finishes = |last: u64| is_same && last > self.promised.get(&log_id).copied().unwrap_or(0);
        let durable = self.records.iter().filter_map(|record| match record.kind {
            Kind::Certificate { last, .. } if record.log_id == log_id && record.is_durable(&self.medium) => Some(last),
            _ => None,
        });
        let durable = durable.max().unwrap_or(0);
        let here = self.records.iter().filter(|record| record.segment == segment && record.log_id == log_id);
        let ordinal = here.clone().map(|record| record.ordinal).max().unwrap_or(0);
        // With a header the segment is another one.
        let torn = here.filter(|record| bytes.start > 0 && record.ordinal == ordinal).find(|record| {
            let last = match record.kind {
                Kind::Header { .. } => return false,
                Kind::Batch { sequence, .. } => sequence,
                Kind::Certificate { last, .. } => last,
            };
            last <= durable
                && !finishes(last)
                && record.is_durable(&self.medium)
                && record.offset < bytes.end
                && bytes.start < record.end
        });
        let what = torn.map_or(String::new(), |record| format!("{:?} at {}", record.kind, record.offset));
        self.demand("cut", at, what.is_empty(), &what);
    }

    /// A record is about to be written.
    fn record(&mut self, at: usize, record: &Record) {
        let log_id = record.log_id;
        let is_live = self.stamped == Some(log_id);
        match &record.kind {
            Kind::Header { ordinal } => {
                // The first segment is made whole before the stamp.
                if is_live {
                    let size = self.medium.bytes(record.segment, true).len();
                    let has_space =
                        size == self.medium.bytes(record.segment, false).len() && !self.grows(record.segment);
                    let rule = if self.allocated.contains(&record.segment) { "R6 allocated" } else { "R6 space" };
                    self.demand(rule, at, has_space, "it is not");
                    let has_name = self.name_is_synced(record.segment);
                    self.demand("R6 name", at, has_name, "it is not");
                    self.only_one(at, record);
                    let older = self.last_of(record.segment, Some(*ordinal));
                    self.may_be_reused(at, record.segment, older);
                }
            }
            Kind::Batch { spills, .. } => {
                let database = self.named(|role| role == Role::Database);
                let is_stamped = is_live && database.is_some_and(|database| self.is_stamp_synced(database));
                self.demand("A2", at, is_stamped, "it is not");
                let markers = self.nodes(Role::is_marker);
                let directory = self.directory();
                let names = self.medium.names(directory);
                let is_left = |marker: &Node| names.values().any(|node| node == marker);
                let no_marker = !markers.iter().any(is_left)
                    && self.names_are_synced(directory, |name| name.starts_with("retired-"));
                self.demand("A3", at, no_marker, "it may be there");
                for number in spills {
                    let spill = self.named(|role| role.spill() == Some(*number));
                    let is_synced = spill.is_some_and(|spill| self.is_synced(spill) && self.name_is_synced(spill));
                    self.demand("spill", at, is_synced, &format!("number {number}"));
                }
            }
            Kind::Certificate { durable, backfilled, is_doubled, .. } => {
                let batches = batches(&self.records, log_id);
                let mut unsynced = batches.range(..=*durable).filter(|(_, batch)| !batch.is_durable(&self.medium));
                let unsynced = unsynced.next().map(|(sequence, _)| *sequence);
                self.demand("D", at, unsynced.is_none(), &format!("D is {durable}, not synced: {unsynced:?}"));
                if *is_doubled && let Some(database) = self.named(|role| role == Role::Database) {
                    let is_synced = self.is_synced(database);
                    self.demand("B", at, is_synced, &format!("B is {backfilled}"));
                }
            }
        }
    }

    /// Whatever a power cut leaves, it is not there.
    fn is_gone(&self, record: &Record) -> bool {
        let is_gone = |left: &dyn Fn(usize) -> Left| {
            let bytes = self.medium.bytes_left(record.segment, left);
            bytes.get(record.offset as usize..).is_none_or(|block| block.starts_with(&[0; 8]) || block.is_empty())
        };
        let alone = |at| if at == record.at { Left::All } else { Left::Nothing };
        is_gone(&|_| Left::All) && is_gone(&alone)
    }

    /// Of two segment files that were begun as the same segment one is left.
    fn only_one(&mut self, at: usize, header: &Record) {
        let is_other = |other: &&Record| {
            other.log_id == header.log_id && other.segment != header.segment && other.ordinal == header.ordinal
        };
        let others: Vec<Record> = self.headers.iter().filter(is_other).cloned().collect();
        for other in others {
            let gone = self.is_gone(&other);
            self.demand("begun", at, gone, &format!("segment {}", header.ordinal));
        }
    }

    /// Whether a write that is not durable gave the file its space: zeros, at least a block, that nothing lay under.
    fn grows(&self, segment: Node) -> bool {
        self.medium.pending_of(segment).any(|pending| match &pending.change {
            Change::Write { bytes, .. } => bytes.len() > 2 * BLOCK_BYTES && bytes.iter().all(|byte| *byte == 0),
            Change::Resize(_) => true,
            _ => false,
        })
    }

    fn directory(&self) -> Node {
        self.named(|role| role == Role::LogDirectory).unwrap_or(ROOT)
    }

    fn name_is_synced(&self, file: Node) -> bool {
        let is_its = |change: &Change| matches!(change, Change::Enter { node, .. } if *node == file);
        !self.medium.pending_of(self.directory()).any(|pending| is_its(&pending.change))
    }

    fn is_stamp_synced(&self, database: Node) -> bool {
        stamp_of(&self.medium.bytes(database, true)) == stamp_of(&self.medium.bytes(database, false))
    }

    /// The last commit in a segment file and the ordinal of its segment; not that of the segment `but`.
    fn last_of(&self, segment: Node, but: Option<u64>) -> Option<(u64, u64)> {
        let of_segment = self.records.iter().filter(|record| record.segment == segment && Some(record.ordinal) != but);
        let newest = of_segment.clone().map(|record| record.ordinal).max()?;
        // A commit that died before it was published is another batch by now.
        let batches = batches(&self.records, self.role(segment).segment()?);
        let mut of_segment = batches.iter().filter(|(_, batch)| batch.segment == segment && batch.ordinal == newest);
        of_segment.next_back().map(|(last, _)| (*last, newest))
    }

    fn may_be_reused(&mut self, at: usize, segment: Node, held: Option<(u64, u64)>) {
        let Some((last, ordinal)) = held else { return };
        let log_id = self.role(segment).segment();
        let allows = self.records.iter().any(|record| {
            let is_far =
                matches!(record.kind, Kind::Certificate { backfilled, is_doubled: true, .. } if backfilled >= last);
            is_far && Some(record.log_id) == log_id && record.ordinal > ordinal && record.is_durable(&self.medium)
        });
        self.demand("recycle", at, allows, &format!("commit {last} in segment {ordinal}"));
    }

    /// A segment is about to lose its bytes or its name.
    fn deleted(&mut self, at: usize, segment: Node) {
        if self.stamped.is_some() && self.stamped == self.role(segment).segment() {
            let held = self.last_of(segment, None);
            self.may_be_reused(at, segment, held);
        } else if let Some(database) = self.named(|role| role == Role::Database) {
            let holds = self.is_synced(database);
            self.demand("Z3", at, holds, "it is not");
        }
    }

    fn removed(&mut self, at: usize, directory: Node, node: Node) {
        let role = self.role(node);
        if role.segment().is_some() && !self.medium.bytes(node, false).is_empty() {
            self.deleted(at, node);
        } else if let Some(number) = role.spill() {
            let of_it = self.records.iter().filter_map(|record| match &record.kind {
                Kind::Batch { sequence, spills, .. } if spills.contains(&number) => Some((*sequence, record.log_id)),
                _ => None,
            });
            let Some((sequence, log_id)) = of_it.max() else { return };
            let is_far = |kind: &Kind| matches!(kind, Kind::Certificate { backfilled, is_doubled: true, .. } if *backfilled >= sequence);
            let mut certificates = self.records.iter().filter(|record| is_far(&record.kind) && record.log_id == log_id);
            let holds = self.stamped != Some(log_id) || certificates.any(|record| record.is_durable(&self.medium));
            self.demand("spill end", at, holds, &format!("commit {sequence}"));
        } else if role.is_marker() && self.stamped.is_none() {
            let holds = self.names_are_synced(directory, |name| name.ends_with(".seg") || name.ends_with(".spill"));
            self.demand("Z4", at, holds, "it is not");
        }
    }

    /// A write to the database file.
    fn database(&mut self, at: usize, pid: u32, database: Node, offset: u64, bytes: &[u8]) {
        let becomes = if offset == 0 && bytes.len() >= 100 { stamp_of(bytes) } else { self.stamped };
        match (self.stamped, becomes) {
            (None, Some(_)) => self.activation(at, database),
            (Some(log_id), None) => self.retirement(at, database, log_id),
            (Some(log_id), Some(_)) => self.page(at, pid, log_id, offset, bytes),
            (None, None) => self.plain(at),
        }
    }

    /// `walCheckpoint`, of SQLite or where a connection ends to be alone.
    fn plain(&mut self, at: usize) {
        let beside = |(name, file): (String, Node)| (Role::of(ROOT, &name) == Role::Placeholder).then_some(file);
        let wal = self.medium.names(ROOT).into_iter().find_map(beside);
        if let Some(wal) = wal.filter(|wal| !self.medium.bytes(*wal, false).is_empty()) {
            let is_synced = self.is_synced(wal);
            self.demand("alone", at, is_synced, "it is not");
        }
    }

    fn activation(&mut self, at: usize, database: Node) {
        let is_synced = self.is_synced(database);
        self.demand("A0 file", at, is_synced, "it is not");
        for (name, file) in self.medium.names(ROOT) {
            let rule = match Role::of(ROOT, &name) {
                Role::Journal => "A0 journal",
                Role::Placeholder => "A0 -wal",
                _ => continue,
            };
            let is_synced = self.is_synced(file);
            self.demand(rule, at, is_synced, "it is not");
        }
        for segment in self.nodes(|role| role.segment().is_some()) {
            if self.medium.names(self.directory()).values().any(|node| *node == segment) {
                let is_synced = self.is_synced(segment);
                self.demand("A1 segment", at, is_synced, "it is not");
            }
        }
        let names = self.names_are_synced(self.directory(), |name| name.ends_with(".seg"));
        self.demand("A1 names", at, names, "they are not");
        let names = self.names_are_synced(ROOT, |name| name.ends_with("-pwal") || name.ends_with("-wal"));
        self.demand("A1 parent", at, names, "they are not");
        self.recovering = false;
    }

    fn retirement(&mut self, at: usize, database: Node, log_id: LogId) {
        let is_synced = self.is_synced_behind_header(database);
        self.demand("Z1", at, is_synced, "it is not, before page 1 is made plain");
        // A salvage moves the log away: beside a plain file it is that of another one.
        if self.salvages || batches(&self.records, log_id).is_empty() {
            return;
        }
        let names = self.medium.names(self.directory());
        let marker = names.values().any(|node| self.role(*node).is_marker() && self.name_is_synced(*node));
        self.demand("Z2", at, marker, "it is not");
        self.recovering = false;
    }

    /// A page of a checkpoint or of a recovery; the stamp comes last.
    fn page(&mut self, at: usize, pid: u32, log_id: LogId, offset: u64, bytes: &[u8]) {
        if !self.writers.contains(&pid) {
            if !std::mem::replace(&mut self.recovering, true) {
                let is_needed = |role: Role| role.segment().is_some() || role.spill().is_some();
                let names = self.medium.names(self.directory());
                let files: Vec<Node> = names.values().copied().filter(|node| is_needed(self.role(*node))).collect();
                let are_synced = files.iter().all(|file| self.is_synced(*file));
                self.demand("recovery files", at, are_synced, "they are not");
                let names = self.names_are_synced(self.directory(), |_| true);
                self.demand("recovery names", at, names, "they are not");
                let parent = self.names_are_synced(ROOT, |_| true);
                self.demand("recovery parent", at, parent, "it is not");
                if self.salvages {
                    let undo = self.named(|role| role == Role::Undo);
                    let is_kept = undo.is_some_and(|undo| self.is_synced(undo) && self.name_is_synced(undo));
                    self.demand("undo", at, is_kept, "it is not");
                }
            }
            if offset > 0 && !self.salvages {
                self.target_of_recovery(at, log_id, offset, bytes);
            }
            return;
        }
        let durable = self.records.iter().filter(|record| record.log_id == log_id && record.is_durable(&self.medium));
        let certified = durable.filter_map(|record| match record.kind {
            Kind::Certificate { durable, .. } => Some(durable),
            _ => None,
        });
        let certified = certified.max().unwrap_or(0);
        if offset == 0
            && let StampState::Stamped(stamp) = stamp::read(&bytes[..100])
        {
            let target = stamp.backfill_target;
            self.demand("R4", at, target <= certified, &format!("T is {target}, D is {certified}"));
        }
        for (image, page) in bytes.chunks_exact(BLOCK_BYTES).zip(offset / BLOCK_BYTES as u64 + 1..) {
            let commit = self.commit_of(log_id, u32::try_from(page).expect("a page number"), image);
            let holds = commit.is_some_and(|commit| commit <= certified);
            self.demand("R4", at, holds, &format!("page {page} is of commit {commit:?}, D is {certified}"));
        }
    }

    /// Pages of a recovery. Where it is cut short and the last commits rot, T says that the file has seen them.
    fn target_of_recovery(&mut self, at: usize, log_id: LogId, offset: u64, bytes: &[u8]) {
        let durable = self.named(|role| role == Role::Database).map(|database| self.medium.bytes(database, true));
        let target = match durable.map(|bytes| stamp::read(&bytes[..bytes.len().min(HEADER_BYTES)])) {
            Some(StampState::Stamped(stamp)) => stamp.backfill_target,
            _ => 0,
        };
        for (image, page) in bytes.chunks_exact(BLOCK_BYTES).zip(offset / BLOCK_BYTES as u64 + 1..) {
            let commit = self.commit_of(log_id, u32::try_from(page).expect("a page number"), image);
            let holds = commit.is_some_and(|commit| commit <= target);
            self.demand("recovery T", at, holds, &format!("page {page} is of commit {commit:?}, T is {target}"));
        }
    }

    /// The commit that this image is from.
    fn commit_of(&self, log_id: LogId, page: u32, image: &[u8]) -> Option<u64> {
        let mut image = image.to_vec();
        if page == 1 {
            stamp::clear(&mut image);
        }
        let is_it = |sequence, kept: &Image| kept.page == page && kept.crc == image_crc(log_id, page, sequence, &image);
        batches(&self.records, log_id).into_iter().rev().find_map(|(_, batch)| match &batch.kind {
            Kind::Batch { sequence, images, .. } => {
                images.iter().any(|kept| is_it(*sequence, kept)).then_some(*sequence)
            }
            _ => None,
        })
    }
}

fn stamp_of(header: &[u8]) -> Option<LogId> {
    match stamp::read(&header[..header.len().min(100)]) {
        StampState::Stamped(stamp) => Some(stamp.log_id),
        _ => None,
    }
}
