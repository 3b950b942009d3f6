//! One connection: what `handle` and SQLite do with the engine, one transition at a time.

use super::scene::Scene;
use super::world::{Contents, Doubt, PAGES_MAX};
use crate::disk::Database;
use crate::engine::{CommitFacts, Connection, EngineError, PreparedBatch, SelfSealed};
use crate::view::{ReadError, Snapshot, View, ViewError, Written};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// ControlBlock of the wal-index: the second copy of the header, the fields of one, the page numbers.
const HEADER_WORDS: usize = 12;
const CHANGE: usize = 2;
const MAX_FRAME: usize = 4;
const PAGES: usize = 5;
const NUMBERS: usize = 34;

pub struct Client {
    pub me: Connection,
    pub view: View,
    /// The newest commit that it has seen.
    pub seen: u64,
    pub phase: Phase,
    /// What it saw was rolled back: it gets errors until it is opened again.
    pub is_lost: bool,
    /// It was refused WRITE: its busy handler waits.
    pub is_refused: bool,
}

pub enum Phase {
    Idle,
    /// A read transaction; `newest`: of a likely writer.
    Reading {
        sequence: u64,
        newest: bool,
    },
    /// WRITE is held.
    Writing,
    /// All frames are in the lane.
    Staged(Commit),
    Prepared {
        commit: Commit,
        two_phase: bool,
    },
    PreparedBatch {
        commit: Commit,
        early: Box<PreparedBatch>,
    },
    /// Not acknowledged.
    Published {
        sequence: u64,
        wants_durable: bool,
        self_sealed: Option<SelfSealed>,
    },
}

pub struct Commit {
    facts: CommitFacts,
    state: Contents,
    pages: Vec<u32>,
}

impl Commit {
    fn doubt(&self) -> Doubt {
        let CommitFacts { sequence, wants_durable, .. } = self.facts;
        Doubt { sequence, state: self.state.clone(), wants_durable }
    }
}

impl Client {
    /// Whether it stands still with LEADER.
    pub fn holds(&self) -> bool {
        matches!(self.phase, Phase::PreparedBatch { .. } | Phase::Published { self_sealed: Some(_), .. })
    }

    /// One transition, if nobody stands in the way.
    pub fn step(&mut self, scene: &Scene) {
        if self.is_lost {
            return;
        }
        let free = scene.free();
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {
                if free.frames {
                    if scene.percent(scene.habits.reads) && !scene.engine.queue.granted(self.me.id) {
                        self.begin_read(scene, false);
                    } else if self.begin_read(scene, true) {
                        self.begin_write(scene);
                    }
                }
            }
            Phase::Reading { sequence, newest } => {
                self.phase = Phase::Reading { sequence, newest };
                match scene.below(10) {
                    0..5 if free.frames => self.check_read(scene, sequence),
                    5 => self.begin_write(scene),
                    6.. => self.end_read(scene),
                    _ => {}
                }
            }
            Phase::Writing if free.frames => self.stage(scene),
            Phase::Staged(commit) if scene.percent(scene.habits.rolls_back) => {
                scene.say("rolls back before prepare");
                self.roll_back(scene, &commit);
            }
            Phase::Staged(commit) => self.prepare(scene, commit),
            Phase::Prepared { commit, two_phase } => self.last_word(scene, commit, two_phase),
            Phase::PreparedBatch { commit, early } if free.frames => self.end_prepared(scene, commit, early),
            Phase::Published { sequence, wants_durable, self_sealed } => {
                self.acknowledge(scene, sequence, wants_durable, self_sealed)
            }
            phase => self.phase = phase,
        }
    }

    /// Ends what it is doing, before it closes.
    pub fn finish(&mut self, scene: &Scene) {
        for _ in 0..50 {
            if scene.is_over() || self.is_lost {
                return;
            }
            match std::mem::replace(&mut self.phase, Phase::Idle) {
                Phase::Idle => return,
                phase @ Phase::Reading { .. } => {
                    self.phase = phase;
                    self.end_read(scene);
                }
                Phase::Writing => self.end_write(scene),
                Phase::Staged(commit) => self.roll_back(scene, &commit),
                phase => {
                    self.phase = phase;
                    self.step(scene);
                }
            }
        }
    }

    /// Registers a snapshot and brings the view to it; false: this connection gets errors from now on.
    fn begin_read(&mut self, scene: &Scene, newest: bool) -> bool {
        let engine = &scene.engine;
        let at = engine.connections.take_snapshot(self.me, newest).expect("the words are whole");
        let refreshed = engine.reader.with_frames(
            |table, facts| {
                let to = Snapshot { sequence: at, database_pages: facts.database_pages };
                let bound = u32::try_from(facts.frames).unwrap().saturating_add(scene.habits.bound);
                self.view.refresh(table, to, bound)
            },
            at,
        );
        if let Err(error) = refreshed {
            engine.connections.drop_snapshot(self.me);
            scene.check_error(&error);
            return false;
        }
        if at < self.seen {
            engine.connections.drop_snapshot(self.me);
            self.is_lost = true;
            if !engine.log.marks.is_poisoned() {
                scene.world.lock().violate(format!("a snapshot goes back from {} to {at}", self.seen));
            }
            return false;
        }
        self.seen = at;
        if !newest {
            scene.seen(at);
        }
        scene.say(format!("client {} snapshot {at} newest {newest}", self.me.id));
        self.phase = Phase::Reading { sequence: at, newest };
        true
    }

    fn end_read(&mut self, scene: &Scene) {
        if self.seen > scene.engine.log.marks.visible() {
            if !scene.free().can_flush() && !scene.engine.log.is_poisoned() {
                return;
            }
            if let Err(error) = scene.engine.durability.wait_visible_of_seen(self.seen) {
                scene.check_error(&error);
            } else {
                scene.seen(self.seen);
            }
        }
        scene.engine.connections.drop_snapshot(self.me);
        self.phase = Phase::Idle;
    }

    /// Every page as SQLite would find it, against the history.
    fn check_read(&mut self, scene: &Scene, sequence: u64) {
        let engine = &scene.engine;
        let read = self.read_pages(scene);
        if scene.is_over() || engine.log.shows_lost(sequence) {
            return;
        }
        match read {
            Ok(pages) => {
                scene.catch_up();
                let mut world = scene.world.lock();
                let expected = world.history[usize::try_from(sequence).unwrap()].clone();
                if pages != expected {
                    let what = format!("a reader at {sequence} finds {pages:?} instead of {expected:?}");
                    world.violate(what);
                }
            }
            Err(ReadError::Image(error)) => scene.check_error(&error),
            Err(error) => scene.world.lock().violate(format!("a reader at {sequence}: {error:?}")),
        }
    }

    fn read_pages(&mut self, scene: &Scene) -> Result<Contents, ReadError<EngineError>> {
        let page_bytes = self.view.page_bytes();
        let frame_bytes = u64::from(page_bytes) + FRAME_HEADER_BYTES as u64;
        let database = scene.world.lock().database();
        let pages = self.view.region(0, true).unwrap().word(PAGES);
        let mut frames = vec![None; pages as usize + 1];
        let mut image = |number: u64, page: u32, within: u64, part: &mut [u8]| {
            if number != 0 && scene.engine.reader.read_frame(number, within, part)? {
                return Ok(());
            }
            let offset = u64::from(page - 1) * u64::from(page_bytes) + within;
            let read =
                database.clone().read_at(part, offset).map_err(|e| EngineError::read(&scene.engine.log.path, e))?;
            part[read..].fill(0);
            Ok(())
        };
        for frame in 1..=u64::from(self.view.max_frame()) {
            let mut header = [0; FRAME_HEADER_BYTES];
            let at = WAL_HEADER_BYTES + (frame - 1) * frame_bytes;
            self.view.read(&mut header, at, &mut image)?;
            let page = u32::from_be_bytes(*header.first_chunk().unwrap());
            if page <= pages {
                frames[page as usize] = Some(at + FRAME_HEADER_BYTES as u64);
            }
        }
        let mut found = Contents::new();
        for page in 1..=pages {
            let mut bytes = vec![0; page_bytes as usize];
            match frames[page as usize] {
                Some(at) => self.view.read(&mut bytes, at, &mut image)?,
                None => image(0, page, 0, &mut bytes).map_err(ReadError::Image)?,
            }
            found.push(scene.world.lock().value(page, &bytes));
        }
        Ok(found)
    }

    fn begin_write(&mut self, scene: &Scene) {
        let engine = &scene.engine;
        if engine.log.check_poison().is_err() {
            return;
        }
        if !engine.queue.try_acquire(self.me.id) {
            if scene.waits && scene.percent(50) {
                self.is_refused = true;
                self.end_read(scene);
            }
            return;
        }
        let published = engine.log.marks.published();
        if self.view.sequence() != Some(published) {
            engine.queue.release(self.me.id, false);
            return;
        }
        self.view.begin_write(engine.log.log_id, published + 1);
        self.phase = Phase::Writing;
    }

    /// As `sqlite3WalFrames`: header and image of each page.
    fn stage(&mut self, scene: &Scene) {
        scene.catch_up();
        let sequence = scene.engine.log.marks.published() + 1;
        let (state, writes) = {
            let mut world = scene.world.lock();
            let mut state = world.history.last().unwrap().clone();
            let old = state.len() as u32;
            let size = 2 + world.dice.below(u64::from(PAGES_MAX) - 1) as u32;
            let at_most = 1 + world.dice.below(u64::from(size.min(scene.habits.pages_of_commit)));
            let mut pages: BTreeSet<u32> = (0..at_most).map(|_| 1 + world.dice.below(u64::from(size)) as u32).collect();
            pages.extend(old + 1..=size);
            state.resize(size as usize, None);
            let mut writes = Vec::new();
            if world.dice.percent(15) {
                writes.push((*pages.first().unwrap(), world.new_value()));
            }
            for page in pages {
                let value = world.new_value();
                state[page as usize - 1] = Some(value);
                writes.push((page, value));
            }
            (state, writes)
        };
        let frame_bytes = u64::from(self.view.page_bytes()) + FRAME_HEADER_BYTES as u64;
        let mut at = WAL_HEADER_BYTES + u64::from(self.view.max_frame()) * frame_bytes;
        let mut spill = None;
        let pages: Vec<u32> = writes.iter().map(|(page, _)| *page).collect();
        let size = state.len() as u32;
        let facts = CommitFacts {
            sequence,
            database_pages: size,
            wants_durable: scene.percent(scene.habits.full_sync),
            lane: 0,
            spill: None,
            checkpoint_when_idle: false,
        };
        let mut commit = Commit { facts, state, pages };
        for (index, (page, value)) in writes.iter().enumerate() {
            let mut header = [0; FRAME_HEADER_BYTES];
            header[..4].copy_from_slice(&page.to_be_bytes());
            let is_last = index + 1 == writes.len();
            if is_last {
                header[4..8].copy_from_slice(&size.to_be_bytes());
            }
            let image = scene.world.lock().image(*page, *value);
            let mut open_spill = || {
                let (number, file) = scene.engine.spills.create()?;
                spill = Some(number);
                Ok(file)
            };
            let written = self
                .view
                .write(&header, at, &mut open_spill)
                .and_then(|_| self.view.write(&image, at + FRAME_HEADER_BYTES as u64, &mut open_spill));
            commit.facts.spill = spill;
            match written {
                Ok(Written::Commit { database_pages }) => assert!(is_last && database_pages == size),
                Ok(Written::Staged) => assert!(!is_last),
                Err(ViewError::Spill(error)) => {
                    scene.check_error(&EngineError::write("spill", error));
                    return self.roll_back(scene, &commit);
                }
                Err(error) => panic!("not staged: {error}"),
            }
            at += frame_bytes;
        }
        scene.say(format!(
            "client {} stages {sequence} pages {:?} size {size} durable {} spill {spill:?}",
            self.me.id, commit.pages, facts.wants_durable
        ));
        self.phase = Phase::Staged(commit);
    }

    /// WRITE goes; the read transaction is still there.
    fn end_write(&mut self, scene: &Scene) {
        self.view.rolled_back();
        scene.engine.queue.release(self.me.id, true);
        self.phase = Phase::Reading { sequence: self.seen, newest: true };
    }

    fn roll_back(&mut self, scene: &Scene, commit: &Commit) {
        self.view.rolled_back();
        if let Some(number) = commit.facts.spill {
            scene.engine.spills.remove(number);
        }
        self.end_write(scene);
    }

    fn prepare(&mut self, scene: &Scene, commit: Commit) {
        let (free, is_active) = (scene.free(), scene.engine.log.is_active());
        let would_flush = scene.engine.log.marks.undurable_backlog_is_full() && !free.can_flush();
        if would_flush || !(free.append && free.creating && free.frames && (is_active || free.database_handle)) {
            self.phase = Phase::Staged(commit);
            return;
        }
        match scene.engine.committer.prepare(self.view.lane()) {
            Ok(()) => {
                let two_phase = scene.percent(scene.habits.early);
                self.phase = Phase::Prepared { commit, two_phase };
            }
            Err(error) => {
                scene.say(format!("prepare {}: {error}", commit.facts.sequence));
                scene.check_error(&error);
                self.roll_back(scene, &commit);
            }
        }
    }

    fn last_word(&mut self, scene: &Scene, commit: Commit, two_phase: bool) {
        let free = scene.free();
        let early = two_phase && commit.facts.wants_durable;
        if !free.can_publish() || (early && !free.can_flush()) {
            self.phase = Phase::Prepared { commit, two_phase };
        } else if early {
            self.write_prepared(scene, commit);
        } else if scene.percent(scene.habits.rolls_back / 2) {
            scene.say("rolls back, prepared");
            self.roll_back(scene, &commit);
        } else {
            self.publish(scene, commit);
        }
    }

    fn write_prepared(&mut self, scene: &Scene, commit: Commit) {
        let facts = commit.facts;
        scene.world.lock().doubt.push(commit.doubt());
        let written = scene.engine.committer.write_prepared(self.view.lane(), facts);
        scene.say(format!("client {} early {}: {:?}", self.me.id, facts.sequence, written.as_ref().err()));
        match written {
            Ok(early) if scene.is_nested() => self.end_prepared(scene, commit, Box::new(early)),
            Ok(early) => self.phase = Phase::PreparedBatch { commit, early: Box::new(early) },
            Err(error) => {
                scene.check_error(&error);
                scene.not_committed(facts.sequence);
                self.roll_back(scene, &commit);
            }
        }
    }

    fn end_prepared(&mut self, scene: &Scene, commit: Commit, early: Box<PreparedBatch>) {
        let facts = commit.facts;
        if scene.percent(scene.habits.rolls_back) {
            let abandoned = scene.engine.committer.rollback_prepared(*early);
            scene.say(format!("client {} abandons {}: {abandoned:?}", self.me.id, facts.sequence));
            if let Err(error) = abandoned {
                scene.check_error(&error);
            }
            scene.not_committed(facts.sequence);
            return self.roll_back(scene, &commit);
        }
        self.advance_header(&commit);
        let published =
            scene.engine.commit_prepared(*early).map(|published| (published.first_number, published.self_sealed));
        self.published(scene, commit, published);
    }

    fn publish(&mut self, scene: &Scene, commit: Commit) {
        let facts = commit.facts;
        self.advance_header(&commit);
        scene.world.lock().doubt.push(commit.doubt());
        let may_lead = scene.percent(scene.habits.leads);
        let published = scene.engine.publish(self.view.lane(), facts, may_lead);
        self.published(scene, commit, published.map(|published| (published.first_number, published.self_sealed)));
    }

    fn published(&mut self, scene: &Scene, commit: Commit, result: Result<(u64, Option<SelfSealed>), EngineError>) {
        let CommitFacts { sequence, wants_durable, .. } = commit.facts;
        let (first, self_sealed) = match result {
            Ok(published) => published,
            Err(error) => {
                scene.say(format!("client {} publishes {sequence}: {error}", self.me.id));
                scene.check_error(&error);
                scene.not_committed(sequence);
                return self.roll_back(scene, &commit);
            }
        };
        scene.say(format!("client {} published {sequence} lone {}", self.me.id, self_sealed.is_some()));
        self.view.published(first, sequence);
        self.seen = sequence;
        {
            scene.catch_up();
            let world = scene.world.lock();
            assert_eq!(world.history.len() as u64, sequence + 1, "commits are dense");
            assert_eq!(world.history.last(), Some(&commit.state));
        }
        scene.engine.queue.release(self.me.id, !wants_durable);
        if scene.is_nested() && self_sealed.is_some() {
            // LEADER is not left to whoever waits for it below.
            return self.acknowledge(scene, sequence, wants_durable, self_sealed);
        }
        self.phase = Phase::Published { sequence, wants_durable, self_sealed };
    }

    fn acknowledge(&mut self, scene: &Scene, sequence: u64, wants_durable: bool, self_sealed: Option<SelfSealed>) {
        let engine = &scene.engine;
        let free = scene.free();
        let ready = |marks: &crate::engine::Marks| {
            if wants_durable { marks.durable() >= sequence } else { marks.visible() >= sequence }
        };
        let can = if self_sealed.is_some() {
            free.append && free.frames
        } else {
            ready(&engine.log.marks) || free.can_flush()
        };
        if !can && !engine.log.is_poisoned() {
            self.phase = Phase::Published { sequence, wants_durable, self_sealed };
            return;
        }
        let result = engine.durability.acknowledge(sequence, wants_durable, self_sealed);
        scene.say(format!("client {} commit {sequence}: {result:?}", self.me.id));
        match result {
            Ok(_wakes_at_once) => scene.seen(sequence),
            Err(error) => scene.check_error(&error),
        }
        engine.connections.drop_snapshot(self.me);
        self.phase = Phase::Idle;
    }

    /// As `walIndexAppend` and `walIndexWriteHdr` behind the last frame.
    fn advance_header(&mut self, commit: &Commit) {
        let frames = self.view.max_frame();
        let region = self.view.region(0, true).unwrap();
        for (index, page) in commit.pages.iter().enumerate() {
            region.0[NUMBERS + frames as usize + index].store(*page, SeqCst);
        }
        for copy in [HEADER_WORDS, 0] {
            let change = region.word(copy + CHANGE);
            region.0[copy + CHANGE].store(change.wrapping_add(1), SeqCst);
            region.0[copy + MAX_FRAME].store(frames + commit.pages.len() as u32, SeqCst);
            region.0[copy + PAGES].store(commit.facts.database_pages, SeqCst);
        }
    }
}
