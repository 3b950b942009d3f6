//! Checkpoint and clean close of the reference writer: in small steps, or as the project does them.

use super::{Writer, step};
use pwal::internal::disk::fault::{DATABASE_NAME, Effect, Fault, Operation};
use pwal::internal::disk::{Database, LogDirectory, OpenMode};
use pwal::internal::log::LogError;
use pwal::internal::log::backfill::Backfill;
use pwal::internal::log::format::{FileName, marker_name, spill_name};
use pwal::internal::log::retire::retire_keeping_lock;
use pwal::internal::log::stamp::{self, Stamp};
use std::collections::BTreeMap;
use std::rc::Rc;

impl Writer {
    pub async fn checkpoint(self: Rc<Writer>, is_last: bool) {
        {
            let mut engine = self.engine.borrow_mut();
            if engine.checkpoint_held || engine.poisoned || engine.log_id.is_none() {
                return;
            }
            engine.checkpoint_held = true;
        }
        if is_last || self.percent(60) {
            for is_mark in [false, true] {
                let behind = {
                    let engine = self.engine.borrow();
                    engine.certified_durable < engine.published
                };
                if behind && self.keeps("t_under_d") {
                    while self.engine.borrow().leader_held {
                        step().await;
                    }
                    if is_mark || self.engine.borrow().durable < self.engine.borrow().published {
                        self.flush(is_mark).await;
                    }
                }
            }
        }
        let (target, base, is_poisoned) = {
            let engine = self.engine.borrow();
            let target = if !self.keeps("log_before_data") {
                engine.visible
            } else if !self.keeps("t_under_d") {
                engine.durable
            } else {
                engine.certified_durable.min(engine.visible)
            };
            (target, engine.backfilled, engine.poisoned)
        };
        if target > base && !is_poisoned {
            self.backfill(base, target).await;
            if self.world.borrow().is_crashed {
                return;
            }
        }
        let gone: Vec<(u64, u32)> = {
            let mut engine = self.engine.borrow_mut();
            let gate = if self.keeps("spill_keep") { engine.certified_backfilled } else { engine.published };
            let (gone, kept) = engine.spills.iter().partition(|(sequence, _)| *sequence <= gate);
            engine.spills = kept;
            gone
        };
        for (_, number) in gone {
            self.directory.remove(&spill_name(self.engine.borrow().log_id.unwrap(), number)).unwrap();
        }
        self.engine.borrow_mut().checkpoint_held = false;
    }

    async fn backfill(&self, base: u64, target: u64) {
        self.say(format!("checkpoint to {target} from {base}"));
        let log_id = self.engine.borrow().log_id.unwrap();
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        for sequence in base + 1..=target {
            newest.extend(self.engine.borrow().commit(sequence).pages.clone());
        }
        let database_pages = self.engine.borrow().commit(target).database_pages;
        if !self.keeps("b_after_sync") {
            self.engine.borrow_mut().backfilled = target;
        }
        let stamp = Stamp { log_id, backfill_target: if self.keeps("t_in_stamp") { target } else { 0 } };
        let is_synced = if self.keeps_all() && self.percent(50) {
            self.real_backfill(&newest, database_pages, stamp)
        } else {
            self.step_backfill(&newest, database_pages, stamp).await
        };
        if self.world.borrow().is_crashed {
            return;
        }
        if is_synced || !self.keeps("b_not_after_error") {
            self.engine.borrow_mut().backfilled = target;
            self.say(format!("backfilled {target}"));
        } else {
            self.say("database sync failed".to_owned());
            let mut engine = self.engine.borrow_mut();
            engine.database_errors += 1;
            if engine.database_errors > 1 {
                (engine.poisoned, engine.invalidated) = (true, Some(false));
            }
        }
    }

    /// The pass as the project does it, in which the machine may stop.
    fn real_backfill(&self, newest: &BTreeMap<u32, u64>, database_pages: u32, stamp: Stamp) -> bool {
        let (page_bytes, disk) = (self.world.borrow().page_bytes, self.world.borrow().disk.clone());
        if self.percent(20) {
            disk.stop_after(self.world.borrow_mut().dice.below(5));
        }
        if self.fault(15) {
            let (operation, name_contains) = (Operation::Sync, DATABASE_NAME.to_owned());
            disk.plan().add(Fault { operation, name_contains, nth: 1, effect: Effect::Error, goes_on: false });
        }
        let mut database = self.database.clone();
        let result: Result<(), LogError> = Backfill::new(&mut database, page_bytes, stamp).run(
            newest.keys().copied(),
            database_pages,
            |page, image| {
                image.copy_from_slice(&self.world.borrow().image(page, newest[&page]));
                Ok(())
            },
        );
        disk.plan().clear();
        if disk.is_off() {
            self.world.borrow_mut().is_crashed = true;
            self.say("stopped in the checkpoint".to_owned());
        } else {
            disk.stop_after(u64::MAX);
        }
        result.is_ok()
    }

    /// The pass in small steps, in which other tasks go on.
    async fn step_backfill(&self, newest: &BTreeMap<u32, u64>, database_pages: u32, stamp: Stamp) -> bool {
        for (&page, &value) in newest.iter().filter(|(page, _)| (2..=database_pages).contains(*page)) {
            let image = self.world.borrow().image(page, value);
            self.write_halves(page, &image).await;
        }
        if let Some(&value) = newest.get(&1) {
            let mut image = self.world.borrow().image(1, value);
            if self.keeps("stamp_page1") {
                stamp.apply(&mut image);
            }
            self.write_halves(1, &image).await;
        } else {
            self.write_header(|header| stamp.apply(header));
            step().await;
        }
        let bytes = u64::from(database_pages) * u64::from(self.world.borrow().page_bytes);
        self.database.clone().set_bytes(bytes).unwrap();
        step().await;
        let fails = self.fault(15);
        self.sync_database(fails).await
    }

    async fn write_halves(&self, page: u32, image: &[u8]) {
        let start = u64::from(page - 1) * image.len() as u64;
        let half = (image.len() / 2).max(512);
        let mut halves: Vec<(usize, &[u8])> = image.chunks(half).enumerate().collect();
        if self.percent(50) {
            halves.reverse();
        }
        for (index, bytes) in halves {
            self.database.clone().write_at(bytes, start + (index * half) as u64).unwrap();
            step().await;
        }
    }

    pub async fn close(self: Rc<Writer>) {
        for _ in 0..2 {
            self.clone().checkpoint(true).await;
            if self.world.borrow().is_crashed {
                return;
            }
        }
        let is_complete = {
            let engine = self.engine.borrow();
            engine.log_id.is_some() && engine.backfilled == engine.published && !engine.poisoned
        };
        if !is_complete {
            return;
        }
        self.say("close".to_owned());
        if self.keeps_all() && self.percent(50) {
            self.real_retire();
        } else {
            self.step_retire().await;
        }
    }

    fn real_retire(&self) {
        let (page_bytes, disk) = (self.world.borrow().page_bytes, self.world.borrow().disk.clone());
        if self.percent(50) {
            disk.stop_after(self.world.borrow_mut().dice.below(12));
        }
        let (log_id, last) = (self.engine.borrow().log_id.unwrap(), self.engine.borrow().published);
        let result = retire_keeping_lock(&self.directory, &mut self.database.clone(), log_id, last, page_bytes);
        self.say(format!("retired: {result:?}"));
        if disk.is_off() {
            self.world.borrow_mut().is_crashed = true;
        } else {
            disk.stop_after(u64::MAX);
        }
    }

    async fn step_retire(&self) {
        let (log_id, last) = (self.engine.borrow().log_id.unwrap(), self.engine.borrow().published);
        if self.keeps("marker") {
            drop(self.directory.open(&marker_name(log_id, last), OpenMode::CreateNew).unwrap());
            step().await;
            self.sync_directory().await;
        }
        self.write_header(stamp::clear);
        step().await;
        if self.keeps("z3_sync") {
            let fails = self.fault(5);
            if !self.sync_database(fails).await {
                return;
            }
        }
        let mut names = self.directory.list().unwrap();
        names.sort_by_key(|name| matches!(FileName::parse(name), Some(FileName::Marker { .. })));
        for name in names {
            if name.starts_with("retired-") && self.keeps("marker_last") {
                self.sync_directory().await;
            }
            self.directory.remove(&name).unwrap();
            step().await;
        }
        self.directory.remove_directory().unwrap();
        step().await;
    }
}
