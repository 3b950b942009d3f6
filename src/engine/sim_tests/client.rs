//! One connection: what `handle` and SQLite do with the engine, one transition at a time.

use super::life::Life;
use super::world::{Contents, PAGES_MAX};
use crate::disk::Database;
use crate::engine::{CommitFacts, Connection, Early, EngineError, Lone};
use crate::view::{ReadError, Snapshot, View, ViewError, Written};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;

const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Words of the wal-index: the second copy of the header, the fields of one, the page numbers.
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
        early_path: bool,
    },
    Early {
        commit: Commit,
        early: Box<Early>,
    },
    /// Not acknowledged.
    Published {
        sequence: u64,
        wants_durable: bool,
        lone: Option<Lone>,
    },
}

pub struct Commit {
    facts: CommitFacts,
    state: Contents,
    pages: Vec<u32>,
}

impl Client {
    /// Whether it stands still with LEADER.
    pub fn holds(&self) -> bool {
        matches!(self.phase, Phase::Early { .. } | Phase::Published { lone: Some(_), .. })
    }

    /// One transition, if nobody stands in the way.
    pub fn step(&mut self, life: &Rc<Life>) {
        if self.is_lost {
            return;
        }
        let free = life.free();
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {
                if free.frames {
                    if life.percent(life.habits.reads) {
                        self.begin_read(life, false);
                    } else if self.begin_read(life, true) {
                        self.begin_write(life);
                    }
                }
            }
            Phase::Reading { sequence, newest } => {
                self.phase = Phase::Reading { sequence, newest };
                match life.below(10) {
                    0..5 if free.frames => self.check_read(life, sequence),
                    5 => self.begin_write(life),
                    6.. => self.end_read(life),
                    _ => {}
                }
            }
            Phase::Writing if free.frames => self.stage(life),
            Phase::Staged(commit) if life.percent(life.habits.rolls_back) => {
                life.say("rolls back before prepare");
                self.roll_back(life, &commit);
            }
            Phase::Staged(commit) => self.prepare(life, commit),
            Phase::Prepared { commit, early_path } => self.last_word(life, commit, early_path),
            Phase::Early { commit, early } if free.frames => self.end_early(life, commit, early),
            Phase::Published { sequence, wants_durable, lone } => self.acknowledge(life, sequence, wants_durable, lone),
            phase => self.phase = phase,
        }
    }

    /// Ends what it is doing, before it closes.
    pub fn finish(&mut self, life: &Rc<Life>) {
        for _ in 0..50 {
            if life.is_over() || self.is_lost {
                return;
            }
            match std::mem::replace(&mut self.phase, Phase::Idle) {
                Phase::Idle => return,
                phase @ Phase::Reading { .. } => {
                    self.phase = phase;
                    self.end_read(life);
                }
                Phase::Writing => self.end_write(life),
                Phase::Staged(commit) => self.roll_back(life, &commit),
                phase => {
                    self.phase = phase;
                    self.step(life);
                }
            }
        }
    }

    /// Registers a snapshot and brings the view to it; false: this connection gets errors from now on.
    fn begin_read(&mut self, life: &Life, newest: bool) -> bool {
        let engine = &life.engine;
        let at = engine.take_snapshot(self.me, newest);
        let refreshed = engine.with_frames(
            |table, facts| {
                let to = Snapshot { sequence: at, database_pages: facts.database_pages };
                let bound = u32::try_from(facts.frames).unwrap().saturating_add(life.habits.bound);
                self.view.refresh(table, to, bound)
            },
            at,
        );
        if let Err(error) = refreshed {
            engine.drop_snapshot(self.me);
            life.check_error(&error);
            return false;
        }
        if at < self.seen {
            engine.drop_snapshot(self.me);
            self.is_lost = true;
            if !engine.marks.is_poisoned() {
                life.world.borrow_mut().violate(format!("a snapshot goes back from {} to {at}", self.seen));
            }
            return false;
        }
        self.seen = at;
        if !newest {
            life.seen(at);
        }
        life.say(format!("client {} snapshot {at} newest {newest}", self.me.id));
        self.phase = Phase::Reading { sequence: at, newest };
        true
    }

    fn end_read(&mut self, life: &Life) {
        if self.seen > life.engine.marks.visible() {
            if !life.free().can_flush() && !life.engine.is_poisoned() {
                return;
            }
            if let Err(error) = life.engine.wait_visible(self.seen) {
                life.check_error(&error);
            } else {
                life.seen(self.seen);
            }
        }
        life.engine.drop_snapshot(self.me);
        self.phase = Phase::Idle;
    }

    /// Every page as SQLite would find it, against the history.
    fn check_read(&mut self, life: &Life, sequence: u64) {
        let engine = &life.engine;
        let read = self.read_pages(life);
        if life.is_over() || engine.shows_lost(sequence) {
            return;
        }
        match read {
            Ok(pages) => {
                let mut world = life.world.borrow_mut();
                let expected = world.history[usize::try_from(sequence).unwrap()].clone();
                if pages != expected {
                    let what = format!("a reader at {sequence} finds {pages:?} instead of {expected:?}");
                    world.violate(what);
                }
            }
            Err(ReadError::Image(error)) => life.check_error(&error),
            Err(error) => life.world.borrow_mut().violate(format!("a reader at {sequence}: {error:?}")),
        }
    }

    fn read_pages(&mut self, life: &Life) -> Result<Contents, ReadError<EngineError>> {
        let page_bytes = self.view.page_bytes();
        let frame_bytes = u64::from(page_bytes) + FRAME_HEADER_BYTES as u64;
        let database = life.world.borrow().database();
        let pages = self.view.region(0, true).unwrap().word(PAGES);
        let mut frames = vec![None; pages as usize + 1];
        let mut image = |number: u64, page: u32, within: u64, part: &mut [u8]| {
            if number != 0 && life.engine.read_frame(number, within, part)? {
                return Ok(());
            }
            let offset = u64::from(page - 1) * u64::from(page_bytes) + within;
            let read = database.clone().read_at(part, offset).map_err(|e| EngineError::read(&life.engine.path, e))?;
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
            found.push(life.world.borrow().value(page, &bytes));
        }
        Ok(found)
    }

    fn begin_write(&mut self, life: &Life) {
        let engine = &life.engine;
        if engine.check_poison().is_err() || !engine.queue.try_acquire(self.me.id) {
            return;
        }
        let published = engine.marks.published();
        if self.view.sequence() != Some(published) {
            engine.queue.release(self.me.id, false);
            return;
        }
        self.view.begin_write(engine.log_id, published + 1);
        self.phase = Phase::Writing;
    }

    /// As `sqlite3WalFrames`: header and image of each page.
    fn stage(&mut self, life: &Rc<Life>) {
        let sequence = life.engine.marks.published() + 1;
        let (state, writes) = {
            let mut world = life.world.borrow_mut();
            let mut state = world.history.last().unwrap().clone();
            let old = state.len() as u32;
            let size = 2 + world.dice.below(u64::from(PAGES_MAX) - 1) as u32;
            let at_most = 1 + world.dice.below(u64::from(size.min(life.habits.pages_of_commit)));
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
            wants_durable: life.percent(life.habits.full_sync),
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
            let image = life.world.borrow().image(*page, *value);
            let mut open_spill = || {
                let (number, file) = life.engine.create_spill()?;
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
                    life.check_error(&EngineError::write("spill", error));
                    return self.roll_back(life, &commit);
                }
                Err(error) => panic!("not staged: {error}"),
            }
            at += frame_bytes;
        }
        life.say(format!(
            "client {} stages {sequence} pages {:?} size {size} durable {} spill {spill:?}",
            self.me.id, commit.pages, facts.wants_durable
        ));
        self.phase = Phase::Staged(commit);
    }

    /// WRITE goes; the read transaction is still there.
    fn end_write(&mut self, life: &Life) {
        self.view.rolled_back();
        life.engine.queue.release(self.me.id, true);
        self.phase = Phase::Reading { sequence: self.seen, newest: true };
    }

    fn roll_back(&mut self, life: &Life, commit: &Commit) {
        self.view.rolled_back();
        if let Some(number) = commit.facts.spill {
            life.engine.remove_spill(number);
        }
        self.end_write(life);
    }

    fn prepare(&mut self, life: &Life, commit: Commit) {
        let (free, is_active) = (life.free(), life.engine.is_active());
        if !(free.append && free.creating && free.frames && (is_active || free.broker)) {
            self.phase = Phase::Staged(commit);
            return;
        }
        match life.engine.prepare(self.view.lane()) {
            Ok(()) => {
                let early_path = life.percent(life.habits.early);
                self.phase = Phase::Prepared { commit, early_path };
            }
            Err(error) => {
                life.say(format!("prepare {}: {error}", commit.facts.sequence));
                life.check_error(&error);
                self.roll_back(life, &commit);
            }
        }
    }

    fn last_word(&mut self, life: &Rc<Life>, commit: Commit, early_path: bool) {
        let free = life.free();
        let early = early_path && commit.facts.wants_durable;
        if !free.can_publish() || (early && !free.can_flush()) {
            self.phase = Phase::Prepared { commit, early_path };
        } else if early {
            self.write_early(life, commit);
        } else if life.percent(life.habits.rolls_back / 2) {
            life.say("rolls back, prepared");
            self.roll_back(life, &commit);
        } else {
            self.publish(life, commit);
        }
    }

    fn write_early(&mut self, life: &Rc<Life>, commit: Commit) {
        let facts = commit.facts;
        life.world.borrow_mut().doubt.push((facts.sequence, commit.state.clone()));
        let written = life.engine.write_early(self.view.lane(), facts);
        life.say(format!("client {} early {}: {:?}", self.me.id, facts.sequence, written.as_ref().err()));
        match written {
            Ok(early) if life.is_nested() => self.end_early(life, commit, Box::new(early)),
            Ok(early) => self.phase = Phase::Early { commit, early: Box::new(early) },
            Err(error) => {
                life.check_error(&error);
                life.not_committed(facts.sequence);
                self.roll_back(life, &commit);
            }
        }
    }

    fn end_early(&mut self, life: &Rc<Life>, commit: Commit, early: Box<Early>) {
        let facts = commit.facts;
        if life.percent(life.habits.rolls_back) {
            let abandoned = life.engine.abandon_early(*early);
            life.say(format!("client {} abandons {}: {abandoned:?}", self.me.id, facts.sequence));
            if let Err(error) = abandoned {
                life.check_error(&error);
            }
            life.not_committed(facts.sequence);
            return self.roll_back(life, &commit);
        }
        self.advance_header(&commit);
        let published = life.engine.publish_early(*early).map(|published| (published.first_number, published.lone));
        self.published(life, commit, published);
    }

    fn publish(&mut self, life: &Rc<Life>, commit: Commit) {
        let facts = commit.facts;
        self.advance_header(&commit);
        life.world.borrow_mut().doubt.push((facts.sequence, commit.state.clone()));
        let may_lead = life.percent(life.habits.leads);
        let published = life.engine.publish(self.view.lane(), facts, may_lead);
        self.published(life, commit, published.map(|published| (published.first_number, published.lone)));
    }

    fn published(&mut self, life: &Rc<Life>, commit: Commit, result: Result<(u64, Option<Lone>), EngineError>) {
        let CommitFacts { sequence, wants_durable, .. } = commit.facts;
        let (first, lone) = match result {
            Ok(published) => published,
            Err(error) => {
                life.say(format!("client {} publishes {sequence}: {error}", self.me.id));
                life.check_error(&error);
                life.not_committed(sequence);
                return self.roll_back(life, &commit);
            }
        };
        life.say(format!("client {} published {sequence} lone {}", self.me.id, lone.is_some()));
        self.view.published(first, sequence);
        self.seen = sequence;
        {
            let mut world = life.world.borrow_mut();
            assert_eq!(world.history.len() as u64, sequence, "commits are dense");
            world.doubt.clear();
            world.history.push(commit.state);
            world.wants.push(wants_durable);
            world.must_kill = sequence;
        }
        life.engine.queue.release(self.me.id, !wants_durable);
        if life.is_nested() && lone.is_some() {
            // LEADER is not left to whoever waits for it below.
            return self.acknowledge(life, sequence, wants_durable, lone);
        }
        self.phase = Phase::Published { sequence, wants_durable, lone };
    }

    fn acknowledge(&mut self, life: &Life, sequence: u64, wants_durable: bool, lone: Option<Lone>) {
        let engine = &life.engine;
        let free = life.free();
        let ready = |marks: &crate::engine::marks::Marks| {
            if wants_durable { marks.durable() >= sequence } else { marks.visible() >= sequence }
        };
        let can = if lone.is_some() { free.append && free.frames } else { ready(&engine.marks) || free.can_flush() };
        if !can && !engine.is_poisoned() {
            self.phase = Phase::Published { sequence, wants_durable, lone };
            return;
        }
        let result = engine.acknowledge(sequence, wants_durable, lone);
        life.say(format!("client {} commit {sequence}: {result:?}", self.me.id));
        match result {
            Ok(()) => life.seen(sequence),
            Err(error) => life.check_error(&error),
        }
        engine.drop_snapshot(self.me);
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
