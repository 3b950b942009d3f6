//! A small reference writer: the protocol of the log, task by task, with a switch for each of its rules.
//!
//! Each `step().await` is a point where another task may run, the process may die, or the power may go.

mod checkpoint;

use super::world::{PAGES_MAX, World, header_of};
use pwal::internal::disk::sim::{Dice, SimDatabase, SimDirectory, SimLogFile};
use pwal::internal::disk::{Database, LogDirectory, LogFile, OpenMode};
use pwal::internal::log::format::{
    BatchHeader, Certificate, Descriptor, ImagePlace, SegmentHeader, batch_head_bytes, chain_after, encode_batch,
    image_crc, segment_name, spill_name,
};
use pwal::internal::log::stamp::Stamp;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::IoSlice;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

const BLOCK: u64 = 4096;
/// Places in a segment are counted in these: batches follow one another from sector to sector.
const SECTOR: u64 = 512;

/// How a commit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// It rolls back after it was written.
    RollsBack,
    /// A write fails.
    WriteFails,
}

struct Segment {
    file: SimLogFile,
    ordinal: u64,
    /// The last commit that needs it.
    last: u64,
    is_dirty: bool,
}

/// What a published commit left behind for the tasks after it.
#[derive(Clone)]
struct Published {
    chain: u64,
    pages: BTreeMap<u32, u64>,
    database_pages: u32,
    wants_durable: bool,
    place: (usize, u64),
}

/// What one process holds for the database; lost in a crash.
#[derive(Default)]
pub struct Engine {
    pub log_id: Option<u64>,
    segments: Vec<Segment>,
    pub published: u64,
    durable: u64,
    visible: u64,
    pub backfilled: u64,
    certified_durable: u64,
    certified_backfilled: u64,
    epoch: u64,
    /// The pages of each commit.
    pages: BTreeMap<u64, Vec<u32>>,
    database_errors: u32,
    write_held: bool,
    append_held: bool,
    leader_held: bool,
    checkpoint_held: bool,
    pub poisoned: bool,
    /// After poisoning: whether what was not durable is gone for certain.
    invalidated: Option<bool>,
    segment: usize,
    offset: u64,
    spills: Vec<(u64, u32)>,
    spill_count: u32,
    commits: Vec<Published>,
    certificates: Vec<(u64, usize, u64)>,
}

impl Engine {
    fn chain(&self) -> u64 {
        self.commits.last().map_or(self.log_id.unwrap_or(0), |commit| commit.chain)
    }

    fn commit(&self, sequence: u64) -> &Published {
        &self.commits[sequence as usize - 1]
    }
}

pub struct Writer {
    pub world: RefCell<World>,
    pub engine: RefCell<Engine>,
    database: SimDatabase,
    directory: SimDirectory,
}

pub type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Step(bool);

impl Future for Step {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        Poll::Pending
    }
}

fn step() -> Step {
    Step(false)
}

impl Writer {
    pub fn new(world: World) -> Rc<Writer> {
        let (database, directory) = (world.database(), world.directory());
        Rc::new(Writer { world: RefCell::new(world), engine: RefCell::default(), database, directory })
    }

    fn keeps(&self, rule: &str) -> bool {
        self.world.borrow().keeps(rule)
    }

    fn keeps_all(&self) -> bool {
        self.world.borrow().dropped.is_empty()
    }

    fn percent(&self, percent: u32) -> bool {
        self.world.borrow_mut().dice.percent(percent)
    }

    fn fault(&self, percent: u32) -> bool {
        self.world.borrow_mut().fault(percent)
    }

    fn say(&self, event: String) {
        self.world.borrow_mut().say(event);
    }

    async fn sync_file(&self, file: &SimLogFile, fails: bool) -> bool {
        let token = file.sync_begin();
        step().await;
        let is_synced = file.sync_end(token, fails).is_ok();
        if is_synced {
            step().await;
        }
        is_synced
    }

    async fn sync_database(&self, fails: bool) -> bool {
        let token = self.database.sync_begin();
        step().await;
        let is_synced = self.database.sync_end(token, fails).is_ok();
        if is_synced {
            step().await;
        }
        is_synced
    }

    async fn sync_directory(&self) {
        self.directory.sync().unwrap();
        step().await;
    }

    /// Writes at a sector of a segment.
    fn put(&self, segment: usize, sector: u64, bytes: &[u8]) {
        let mut engine = self.engine.borrow_mut();
        let segment = &mut engine.segments[segment];
        segment.file.write_at(&[IoSlice::new(bytes)], sector * SECTOR).unwrap();
        segment.is_dirty = true;
    }

    /// A record that begins there is none any more.
    fn put_zeros(&self, segment: usize, sector: u64) {
        self.put(segment, sector, &[0; SECTOR as usize]);
    }

    /// Without cuts the block before the record is written again.
    fn cut(&self, segment: usize, sector: u64) {
        if !self.keeps("cut") && (sector * SECTOR).is_multiple_of(BLOCK) {
            let mut bytes = [0; SECTOR as usize];
            self.engine.borrow().segments[segment].file.read_at(&mut bytes, (sector - 1) * SECTOR).unwrap();
            self.put(segment, sector - 1, &bytes);
        }
    }

    fn segment_header(&self, ordinal: u64, first_sequence: u64, chain: u64) -> SegmentHeader {
        let world = self.world.borrow();
        SegmentHeader {
            log_id: self.engine.borrow().log_id.unwrap(),
            block_bytes: BLOCK as u32,
            page_bytes: world.page_bytes,
            segment_bytes: world.segment_blocks * BLOCK,
            ordinal,
            first_sequence,
            chain,
        }
    }

    /// A0 to A2.
    async fn activate(&self) {
        self.sync_database(false).await;
        let log_id = {
            let mut world = self.world.borrow_mut();
            world.next_id = if world.keeps("new_log_id") { world.next_id + 1 } else { 1 };
            world.next_id
        };
        self.engine.borrow_mut().log_id = Some(log_id);
        self.directory.create().unwrap();
        let segment = self.create_segment(true).await;
        self.put(segment, 0, &self.segment_header(1, 1, log_id).encode());
        {
            let mut engine = self.engine.borrow_mut();
            engine.segments[segment].ordinal = 1;
            (engine.segment, engine.offset) = (segment, BLOCK / SECTOR);
        }
        step().await;
        if self.keeps("a1_sync") {
            let file = self.engine.borrow().segments[segment].file.clone();
            self.engine.borrow_mut().segments[segment].is_dirty = false;
            self.sync_file(&file, false).await;
            self.sync_directory().await;
            self.directory.sync_parent().unwrap();
            step().await;
        }
        self.write_header(|header| Stamp { log_id, backfill_target: 0 }.apply(header));
        self.say(format!("A2 stamp {log_id}"));
        step().await;
        if self.keeps("a2_sync") {
            self.sync_database(false).await;
        }
    }

    fn write_header(&self, change: impl FnOnce(&mut [u8])) {
        let mut database = self.database.clone();
        let mut header = header_of(&mut database);
        change(&mut header);
        database.write_at(&header, 0).unwrap();
    }

    async fn create_segment(&self, is_first: bool) -> usize {
        let index = self.engine.borrow().segments.len();
        let name = segment_name(self.engine.borrow().log_id.unwrap(), index as u32);
        let file = self.directory.open_file(&name, OpenMode::CreateNew).unwrap();
        let bytes = {
            let mut world = self.world.borrow_mut();
            let zeros = vec![0; (world.segment_blocks * BLOCK) as usize];
            // Without new log ids, files of an earlier life come again, too.
            if world.pool.is_empty() { zeros } else { world.pool.remove(0) }
        };
        file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        let segment = Segment { file: file.clone(), ordinal: 0, last: 0, is_dirty: false };
        self.engine.borrow_mut().segments.push(segment);
        self.sync_file(&file, false).await;
        if !is_first && self.keeps("segment_dir_sync") {
            self.sync_directory().await;
        }
        index
    }

    /// Room for a record of so many bytes, which ends a block if a certificate is in it: the segment file, the sectors in it, and
    /// the header to write first, if it is a new segment.
    async fn place(&self, bytes: u64, has_certificate: bool) -> (usize, Range<u64>, Option<SegmentHeader>) {
        let unit = if has_certificate { BLOCK } else { SECTOR };
        let from = |sector: u64| sector..(sector * SECTOR + bytes).next_multiple_of(unit) / SECTOR;
        let (segment, here) = (self.engine.borrow().segment, from(self.engine.borrow().offset));
        if here.end * SECTOR <= self.world.borrow().segment_blocks * BLOCK {
            return (segment, here, None);
        }
        let free: Vec<usize> = {
            let engine = self.engine.borrow();
            let gate = if self.keeps("recycle_gate") { engine.certified_backfilled } else { engine.backfilled };
            (0..engine.segments.len())
                .filter(|&index| index != segment && engine.segments[index].last <= gate)
                .collect()
        };
        let next = if !free.is_empty() && self.percent(90) {
            self.world.borrow_mut().dice.pick(&free)
        } else {
            self.create_segment(false).await
        };
        self.engine.borrow_mut().segments[next].last = 0;
        let (ordinal, first, chain) = {
            let engine = self.engine.borrow();
            (engine.segments[segment].ordinal + 1, engine.published + 1, engine.chain())
        };
        self.say(format!("  rotate to segment {next} ordinal {ordinal}"));
        (next, from(BLOCK / SECTOR), Some(self.segment_header(ordinal, first, chain)))
    }

    fn enter(&self, segment: usize, offset: u64, header: Option<&SegmentHeader>) {
        let mut engine = self.engine.borrow_mut();
        if let Some(header) = header {
            engine.segments[segment].ordinal = header.ordinal;
            let (left, published) = (engine.segment, engine.published);
            engine.segments[left].last = engine.segments[left].last.max(published);
            engine.segment = segment;
        }
        engine.offset = offset;
    }

    /// Prepare, publish, acknowledge.
    #[expect(clippy::too_many_lines, reason = "a whole protocol, step by step")]
    pub async fn commit(self: Rc<Writer>, wants_durable: bool, fate: Fate) {
        loop {
            if self.engine.borrow().poisoned {
                return;
            }
            if !self.engine.borrow().write_held && !self.engine.borrow().append_held {
                break;
            }
            step().await;
        }
        {
            let mut engine = self.engine.borrow_mut();
            (engine.write_held, engine.append_held) = (true, true);
        }
        if self.engine.borrow().log_id.is_none() {
            self.activate().await;
        }
        let log_id = self.engine.borrow().log_id.unwrap();
        let sequence = self.engine.borrow().published + 1;
        let (pages, value, state) = self.next_state(sequence, fate);
        let database_pages = state.0;
        let page_bytes = u64::from(self.world.borrow().page_bytes);
        let inline: Vec<u32> = pages.iter().copied().take(2).collect();
        let spilled: Vec<u32> = pages.iter().copied().skip(2).collect();
        let crc_of = |page: u32| image_crc(log_id, page, sequence, &self.world.borrow().image(page, value));
        let head_bytes = batch_head_bytes(pages.len());
        let mut descriptors: Vec<Descriptor> = Vec::new();
        for (index, &page) in inline.iter().enumerate() {
            let place = ImagePlace::Batch(head_bytes + index as u64 * page_bytes);
            descriptors.push(Descriptor { page, place, mask: 0, crc: crc_of(page) });
        }
        if !spilled.is_empty() {
            let number = self.engine.borrow().spill_count;
            self.engine.borrow_mut().spill_count += 1;
            let file = self.directory.open_file(&spill_name(log_id, number), OpenMode::CreateNew).unwrap();
            for (index, &page) in spilled.iter().enumerate() {
                let offset = index as u64 * page_bytes;
                let image = self.world.borrow().image(page, value);
                file.write_at(&[IoSlice::new(&image)], offset).unwrap();
                step().await;
                let place = ImagePlace::Spill { file: number, offset };
                descriptors.push(Descriptor { page, place, mask: 0, crc: crc_of(page) });
            }
            if self.keeps("spill_sync") {
                self.sync_file(&file, false).await;
            }
            if self.keeps("spill_dir_sync") {
                self.sync_directory().await;
            }
            self.engine.borrow_mut().spills.push((sequence, number));
        }
        let is_self_sealed = wants_durable && !self.engine.borrow().leader_held && self.percent(70);
        if is_self_sealed {
            self.engine.borrow_mut().leader_held = true;
        }
        let batch_bytes = head_bytes + inline.len() as u64 * page_bytes;
        let (segment, sectors, new_header) = self.place(batch_bytes, is_self_sealed).await;
        let offset = sectors.start;
        let ordinal =
            new_header.as_ref().map_or(self.engine.borrow().segments[segment].ordinal, |header| header.ordinal);
        let mut header = BatchHeader {
            log_id,
            sequence,
            ordinal,
            offset: offset * SECTOR,
            bytes: (sectors.end - offset) * SECTOR,
            frames: descriptors.len() as u32,
            database_pages,
            lane: 0,
            wants_durable,
            time_us: 0,
            chain: self.engine.borrow().chain(),
            certificate: None,
        };
        let chain = chain_after(&header, &descriptors);
        let written = descriptors.iter().map(|descriptor| descriptor.page).collect();
        self.engine.borrow_mut().pages.insert(sequence, written);
        if is_self_sealed {
            header.certificate = Some(self.next_certificate(sequence, chain, database_pages, (ordinal, offset)));
        }
        let mut bytes = encode_batch(&header, &descriptors).unwrap();
        for &page in &inline {
            bytes.extend(self.world.borrow().image(page, value));
        }
        bytes.resize(header.bytes as usize, 0);
        self.world.borrow_mut().doubt.push((sequence, state.clone()));
        self.say(format!(
            "prepare {sequence} {} segment {segment} sectors {sectors:?} pages {pages:?} self-sealed {is_self_sealed} {fate:?}",
            if wants_durable { "FULL" } else { "NORMAL" }
        ));
        if let Some(new_header) = &new_header {
            self.put(segment, 0, &new_header.encode());
            step().await;
        }
        if new_header.is_none() {
            self.cut(segment, offset);
        }
        let pieces = header.bytes.div_ceil(BLOCK);
        let stop = (fate == Fate::WriteFails).then(|| self.world.borrow_mut().dice.below(pieces + 1));
        for (index, piece) in bytes.chunks(BLOCK as usize).enumerate() {
            if stop == Some(index as u64) {
                break;
            }
            self.put(segment, offset + index as u64 * (BLOCK / SECTOR), piece);
            step().await;
        }
        if fate != Fate::Fine {
            let rule = if fate == Fate::RollsBack { "rollback_zero" } else { "error_zero" };
            if self.keeps(rule) {
                self.put_zeros(segment, offset);
                step().await;
                if self.keeps("rollback_sync") {
                    let file = self.engine.borrow().segments[segment].file.clone();
                    self.engine.borrow_mut().segments[segment].is_dirty = false;
                    self.sync_file(&file, false).await;
                }
            }
            self.world.borrow_mut().doubt.retain(|doubtful| *doubtful != (sequence, state.clone()));
            self.say(format!("  reported as rolled back {sequence}"));
            let mut engine = self.engine.borrow_mut();
            if is_self_sealed {
                engine.leader_held = false;
            }
            (engine.write_held, engine.append_held) = (false, false);
            return;
        }
        self.enter(segment, sectors.end, new_header.as_ref());
        {
            let mut engine = self.engine.borrow_mut();
            engine.commits.push(Published {
                chain,
                pages: pages.iter().map(|&page| (page, value)).collect(),
                database_pages,
                wants_durable,
                place: (segment, offset),
            });
            engine.published = sequence;
            engine.segments[segment].last = sequence;
            let mut world = self.world.borrow_mut();
            world.doubt.retain(|doubtful| *doubtful != (sequence, state.clone()));
            world.history.push(state.clone());
            world.ever.insert(state);
        }
        self.see();
        {
            let mut engine = self.engine.borrow_mut();
            (engine.write_held, engine.append_held) = (false, false);
        }
        if !wants_durable {
            if !self.engine.borrow().poisoned {
                let mut world = self.world.borrow_mut();
                world.must_kill = world.must_kill.max(sequence);
            }
            return;
        }
        step().await;
        if is_self_sealed {
            let certificate = header.certificate.clone().unwrap();
            self.seal(&certificate, segment).await;
        }
        while self.keeps("wait_ack") && self.engine.borrow().durable < sequence {
            if self.engine.borrow().poisoned {
                while self.engine.borrow().invalidated.is_none() {
                    step().await;
                }
                return;
            }
            if self.engine.borrow().leader_held {
                step().await;
            } else {
                self.flush(false).await;
            }
        }
        self.say(format!("acknowledged {sequence}"));
        let mut world = self.world.borrow_mut();
        world.must_kill = world.must_kill.max(sequence);
        world.must_power = world.must_power.max(sequence);
    }

    /// The pages that the next transaction writes, with what, and the state behind it.
    fn next_state(&self, sequence: u64, fate: Fate) -> (BTreeSet<u32>, u64, (u32, Vec<Option<u64>>)) {
        let mut world = self.world.borrow_mut();
        let (size, old) = world.history.last().unwrap().clone();
        let is_repeat = world.repeats && fate == Fate::Fine;
        world.counter += 1;
        let value = if is_repeat { sequence } else { 1000 + world.counter };
        let mut dice = if is_repeat { Dice::new(sequence) } else { Dice::new(world.dice.next()) };
        let new_size = 2 + dice.below(u64::from(PAGES_MAX) - 1) as u32;
        let mut pages: BTreeSet<u32> = (1..=new_size).filter(|_| dice.percent(45)).collect();
        pages.insert(1 + dice.below(u64::from(new_size)) as u32);
        pages.extend(size + 1..=new_size);
        let mut state: Vec<Option<u64>> = (0..new_size).map(|page| old.get(page as usize).copied().flatten()).collect();
        for &page in &pages {
            state[page as usize - 1] = Some(value);
        }
        (pages, value, (new_size, state))
    }

    fn next_certificate(&self, hi: u64, chain: u64, database_pages: u32, (ordinal, sector): (u64, u64)) -> Certificate {
        let mut engine = self.engine.borrow_mut();
        engine.epoch += 1;
        let sealed = engine.pages.range(engine.durable + 1..).take_while(|(sequence, _)| **sequence <= hi);
        let pages: Vec<u32> = sealed.flat_map(|(_, pages)| pages.clone()).collect();
        Certificate {
            log_id: engine.log_id.unwrap(),
            ordinal,
            offset: sector * SECTOR,
            epoch: engine.epoch,
            lo: engine.durable + 1,
            hi,
            durable: engine.durable,
            backfilled: engine.backfilled,
            chain,
            batches: (hi - engine.durable) as u32,
            frames: pages.len() as u64,
            distinct_pages: pages.iter().collect::<BTreeSet<_>>().len() as u64,
            database_pages,
            fallback: false,
            clean_end: false,
            lane_frames: if hi > engine.durable { vec![pages.len() as u32] } else { vec![] },
            copy: None,
        }
    }

    /// visible: no commit that asked for durability and does not have it.
    fn see(&self) {
        let keeps = self.keeps("visible");
        let mut engine = self.engine.borrow_mut();
        let mut visible = engine.durable;
        while visible < engine.published && !(engine.commit(visible + 1).wants_durable && keeps) {
            visible += 1;
        }
        engine.visible = engine.visible.max(visible);
        // Whoever saw a FULL commit may rely on it.
        let mut world = self.world.borrow_mut();
        for sequence in 1..=engine.visible {
            if engine.commit(sequence).wants_durable {
                world.must_power = world.must_power.max(sequence);
            }
        }
    }

    /// An epoch with a certificate in no batch.
    async fn flush(&self, is_mark: bool) {
        self.engine.borrow_mut().leader_held = true;
        while self.engine.borrow().append_held {
            step().await;
        }
        self.engine.borrow_mut().append_held = true;
        let hi = self.engine.borrow().published;
        let nothing = {
            let engine = self.engine.borrow();
            engine.poisoned || (hi == engine.durable && !is_mark) || engine.log_id.is_none()
        };
        if nothing {
            let mut engine = self.engine.borrow_mut();
            (engine.leader_held, engine.append_held) = (false, false);
            return;
        }
        let (segment, sectors, new_header) = self.place(256, true).await;
        let offset = sectors.start;
        if let Some(new_header) = &new_header {
            self.put(segment, 0, &new_header.encode());
            step().await;
        }
        if new_header.is_none() {
            self.cut(segment, offset);
        }
        self.enter(segment, sectors.end, new_header.as_ref());
        let (chain, database_pages) = {
            let mut engine = self.engine.borrow_mut();
            engine.segments[segment].last = engine.segments[segment].last.max(hi);
            (engine.chain(), engine.commits.last().map_or(0, |commit| commit.database_pages))
        };
        let ordinal = self.engine.borrow().segments[segment].ordinal;
        let certificate = self.next_certificate(hi, chain, database_pages, (ordinal, offset));
        self.say(format!(
            "cut epoch {} {}..{hi} segment {segment} sector {offset} D {} B {}",
            certificate.epoch, certificate.lo, certificate.durable, certificate.backfilled
        ));
        self.engine.borrow_mut().append_held = false;
        step().await;
        self.put(segment, offset, &certificate.encode());
        self.engine.borrow_mut().certificates.push((certificate.epoch, segment, offset));
        step().await;
        self.seal(&certificate, segment).await;
    }

    /// Syncs every segment that holds part of the epoch, and moves `durable`.
    async fn seal(&self, certificate: &Certificate, segment: usize) {
        let mut files: Vec<(u64, usize)> = {
            let engine = self.engine.borrow();
            let ordinal = engine.segments[segment].ordinal;
            let part = |&index: &usize| engine.segments[index].is_dirty && engine.segments[index].ordinal <= ordinal;
            (0..engine.segments.len()).filter(part).map(|index| (engine.segments[index].ordinal, index)).collect()
        };
        files.sort_unstable();
        if !self.keeps("rotation_sync") {
            files = vec![(0, segment)];
        }
        for (_, index) in files {
            let file = {
                let mut engine = self.engine.borrow_mut();
                engine.segments[index].is_dirty = false;
                engine.segments[index].file.clone()
            };
            let fails = self.fault(15);
            if !self.sync_file(&file, fails).await {
                self.poison(certificate.epoch).await;
                self.engine.borrow_mut().leader_held = false;
                return;
            }
        }
        {
            let mut engine = self.engine.borrow_mut();
            engine.durable = certificate.hi;
            engine.certified_durable = certificate.durable;
            engine.certified_backfilled = certificate.backfilled;
        }
        self.see();
        self.say(format!("sealed {} D {} B {}", certificate.hi, certificate.durable, certificate.backfilled));
        self.engine.borrow_mut().leader_held = false;
    }

    /// R5: everybody gets an answer; what was not durable goes from the disk.
    async fn poison(&self, epoch: u64) {
        if self.engine.borrow().poisoned {
            return;
        }
        let durable = self.engine.borrow().durable;
        self.say(format!("sync failed: poisoned, durable {durable}"));
        self.engine.borrow_mut().poisoned = true;
        {
            let mut world = self.world.borrow_mut();
            world.must_kill = world.must_kill.min(durable);
        }
        while self.engine.borrow().append_held {
            step().await;
        }
        self.engine.borrow_mut().append_held = true;
        let mut is_gone = true;
        if self.keeps("r5_zero") {
            let places: Vec<(usize, u64)> = {
                let engine = self.engine.borrow();
                let batches = engine.commits[durable as usize..].iter().map(|commit| commit.place);
                let certificates = engine.certificates.iter().filter(|(at, _, _)| *at >= epoch);
                batches.chain(certificates.map(|&(_, segment, offset)| (segment, offset))).collect()
            };
            for &(segment, offset) in &places {
                self.put_zeros(segment, offset);
                step().await;
            }
            for (segment, _) in places {
                let file = self.engine.borrow().segments[segment].file.clone();
                let fails = self.fault(30);
                is_gone &= self.sync_file(&file, fails).await;
            }
        }
        if is_gone {
            self.world.borrow_mut().ceiling = Some(durable);
        }
        self.say(if is_gone { "  rolled back".to_owned() } else { "  outcome unknown".to_owned() });
        let mut engine = self.engine.borrow_mut();
        (engine.invalidated, engine.visible, engine.append_held) = (Some(is_gone), durable, false);
    }
}
