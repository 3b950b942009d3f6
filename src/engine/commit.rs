//! A commit: prepare (may fail, writes nothing), publish (writes the batch), acknowledge.

use super::epochs::Leader;
use super::frames::{FileId, Frame};
use super::slots::{Place, Slot, Slots};
use super::{Engine, EngineError};
use crate::log::format::{self, BatchHeader, Certificate, Descriptor, ImagePlace};
use crate::log::slots::create_slot;
use crate::shared::{CommitEntry, Cut};
use crate::sqlite::Code;
use crate::view::{Image, Lane};
use parking_lot::{ArcMutexGuard, RawMutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// APPEND: the tail of the log. Held for the write and the publication of a batch, or of a certificate and
/// its cut; by the conservative path from the write to the last word.
#[derive(Debug)]
pub(crate) struct Append {
    /// Before activation: none.
    pub(crate) slots: Option<Slots>,
    /// The chain value behind the last published commit.
    pub(crate) chain: u64,
    /// The last commit that a certificate covers.
    pub(crate) cut: u64,
    /// The first blocks of the records that are not known to be durable (R5.1).
    pub(crate) unsealed: Vec<Unsealed>,
    pub(crate) counts: EpochCounts,
}

impl Append {
    /// The next slot shall be prepared.
    fn is_low(&self) -> bool {
        self.slots.as_ref().is_some_and(|slots| slots.filled_percent() > 25 && slots.wants_next())
    }
}

/// The first block of a record that speaks of commits up to `sequence`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsealed {
    pub(crate) sequence: u64,
    pub(crate) slot: u32,
    pub(crate) offset: u64,
}

/// What the certificate of the next epoch will say of it.
#[derive(Debug, Default)]
pub(crate) struct EpochCounts {
    pub(crate) batches: u32,
    pub(crate) frames: u64,
    pub(crate) pages: HashSet<u32>,
    pub(crate) lane_frames: Vec<u32>,
}

impl EpochCounts {
    /// Counts one more batch.
    pub(crate) fn add(&mut self, lane: u16, pages: impl ExactSizeIterator<Item = u32>) {
        self.batches += 1;
        self.frames += pages.len() as u64;
        let lane = usize::from(lane);
        if self.lane_frames.len() <= lane {
            self.lane_frames.resize(lane + 1, 0);
        }
        let frames = u32::try_from(pages.len()).unwrap_or(u32::MAX);
        self.lane_frames[lane] = self.lane_frames[lane].saturating_add(frames);
        self.pages.extend(pages);
    }
}

/// APPEND, held across calls of SQLite.
pub(crate) type HeldAppend = ArcMutexGuard<RawMutex, Append>;

/// A batch that is written and not published.
pub(crate) struct Written {
    header: BatchHeader,
    descriptors: Vec<Descriptor>,
    place: Place,
    chain: u64,
    /// Of its head.
    crc: u32,
    spill: Option<u32>,
}

impl Written {
    fn unsealed(&self) -> Unsealed {
        Unsealed { sequence: self.header.sequence, slot: self.place.index, offset: self.place.offset }
    }
}

/// What a commit is, beside its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitFacts {
    pub(crate) sequence: u64,
    pub(crate) database_pages: u32,
    pub(crate) wants_durable: bool,
    pub(crate) lane: u16,
    /// The number of the spill file, if the lane has one.
    pub(crate) spill: Option<u32>,
    /// It may be checkpointed when nobody commits any more.
    pub(crate) checkpoint_when_idle: bool,
}

/// A published commit.
pub(crate) struct Published {
    /// The number of its first frame.
    pub(crate) first_number: u64,
    /// The certificate is in the batch: the writer leads, and has to flush it.
    pub(crate) lone: Option<Lone>,
}

/// The epoch of a batch that carries its own certificate.
pub(crate) struct Lone {
    /// Held until the flush is over.
    _leader: Leader,
    pub(crate) certificate: Certificate,
}

/// A batch that is written and not published, since something may still fail: on the conservative path, beside a
/// super-journal, or in a transaction over several databases. Whoever holds it holds APPEND, and, where the commit wants
/// durability, LEADER: it has its certificate then, and is synced.
pub(crate) struct Early {
    append: HeldAppend,
    leader: Option<Leader>,
    written: Written,
    facts: CommitFacts,
}

fn batch_bytes(lane: &Lane, page_bytes: u32) -> u64 {
    format::batch_head_bytes(lane.len()) + lane.memory_frames() as u64 * u64::from(page_bytes)
}

impl Engine {
    /// Makes sure that the commit of this lane can be written: the log is active, its slot has room or the
    /// next one has, the spill file is durable. No byte of the batch is written.
    ///
    /// # Errors
    /// A full disk, a medium that fails, a poisoned engine: nothing is promised, SQLite rolls back.
    pub(crate) fn prepare(self: &Arc<Engine>, lane: &Lane) -> Result<(), EngineError> {
        self.check_poison()?;
        self.activate()?;
        if let Some(spill) = lane.spill() {
            spill.sync().map_err(|e| EngineError::sync("the spill file", e))?;
            self.dir.sync().map_err(|e| EngineError::sync("the log directory", e))?;
        }
        self.make_room(batch_bytes(lane, self.page_bytes))?;
        if self.marks.too_much_undurable() {
            self.wait_durable(self.marks.published())?;
        }
        Ok(())
    }

    /// Room for a batch of so many bytes, in the current slot or in the next one.
    fn make_room(&self, bytes: u64) -> Result<(), EngineError> {
        if self.find_room(bytes)? {
            return Ok(());
        }
        let _one_creator = self.creating.lock();
        if self.find_room(bytes)? {
            return Ok(());
        }
        self.create_next(bytes)
    }

    /// Prepares the next slot ahead of need; a failure is told to nobody here: the writer that
    /// needs the slot meets it.
    pub(crate) fn prepare_next_slot(&self) {
        let _one_creator = self.creating.lock();
        let bytes = match self.append.lock().slots.as_mut() {
            Some(slots) => {
                let least = slots.bytes_for(0);
                if !slots.wants_next() || slots.take_free(least, self.marks.recyclable()) {
                    return;
                }
                self.usual_bytes(slots)
            }
            None => return,
        };
        let created = self.create_slot(bytes);
        if let Some(slots) = self.append.lock().slots.as_mut() {
            match created {
                // A writer may have found another one meanwhile, and rely on it.
                Ok(slot) => slots.add_free(slot),
                Err(error) => {
                    slots.ahead_failed();
                    self.context.host.log(error.code().number(), &format!("pwal: no slot ahead of need: {error}"));
                }
            }
        }
    }

    fn find_room(&self, bytes: u64) -> Result<bool, EngineError> {
        let mut append = self.append.lock();
        let slots = append.slots.as_mut().ok_or(EngineError::NoLog)?;
        let bytes = slots.round_up(bytes);
        let slot_bytes = slots.bytes_for(bytes);
        Ok(slots.has_room(bytes) || slots.take_free(slot_bytes, self.marks.recyclable()))
    }

    /// A slot for a batch of so many bytes; a smaller one than usual where the disk is nearly full.
    fn create_next(&self, batch_bytes: u64) -> Result<(), EngineError> {
        let (least, usual) = {
            let append = self.append.lock();
            let slots = append.slots.as_ref().ok_or(EngineError::NoLog)?;
            let least = slots.round_up(slots.bytes_for(batch_bytes));
            (least, self.usual_bytes(slots).max(least))
        };
        let mut bytes = usual;
        let slot = loop {
            match self.create_slot(bytes) {
                Err(error) if error.code() == Code::FULL && bytes > least => {
                    bytes = (bytes / 2).next_multiple_of(u64::from(self.block_bytes)).max(least);
                }
                created => break created?,
            }
        };
        if let Some(slots) = self.append.lock().slots.as_mut() {
            slots.add_next(slot);
        }
        Ok(())
    }

    /// Twice the largest so far. Whole blocks: the header of another slot does not prove itself.
    fn usual_bytes(&self, slots: &Slots) -> u64 {
        slots.round_up((slots.largest() * 2).min(self.settings.segment_bytes()).max(slots.bytes_for(0)))
    }

    fn create_slot(&self, bytes: u64) -> Result<Slot, EngineError> {
        let index = self.append.lock().slots.as_ref().ok_or(EngineError::NoLog)?.next_index();
        let name = format::slot_name(self.log_id, index);
        let file = create_slot(&*self.dir, &name, bytes)?;
        self.frames.write().add_file(FileId::Slot(index), Arc::clone(&file));
        Ok(Slot { index, name, file, bytes, ordinal: 0, last_sequence: 0, dirty: false })
    }

    /// Writes the batch of this lane at the tail, with `certificate` the one that seals it.
    fn write_batch(
        &self,
        append: &mut Append,
        lane: &Lane,
        facts: CommitFacts,
        certificate: bool,
    ) -> Result<Written, EngineError> {
        let bytes = batch_bytes(lane, self.page_bytes);
        let (chain, epoch) = (append.chain, self.marks.epoch() + 1);
        let slots = append.slots.as_mut().ok_or(EngineError::NoLog)?;
        let place = slots.place(bytes, true, facts.sequence, chain).ok_or(EngineError::NoLog)?;
        let mut in_batch = format::batch_head_bytes(lane.len());
        let mut descriptors = Vec::with_capacity(lane.len());
        for frame in lane.frames() {
            let place = match frame.image {
                Image::Memory(image) => {
                    let here = in_batch;
                    in_batch += image.len() as u64;
                    ImagePlace::Batch(here)
                }
                Image::Spill(offset) => ImagePlace::Spill { file: facts.spill.unwrap_or(u32::MAX), offset },
            };
            descriptors.push(Descriptor { page: frame.page, place, crc: frame.crc });
        }
        let mut header = BatchHeader {
            log_id: self.log_id,
            sequence: facts.sequence,
            ordinal: place.ordinal,
            offset: place.offset,
            bytes: slots.round_up(bytes),
            frames: u32::try_from(descriptors.len()).map_err(|_| EngineError::NoLog)?,
            database_pages: facts.database_pages,
            lane: facts.lane,
            wants_durable: facts.wants_durable,
            chain,
            certificate: None,
        };
        let chain = format::chain_after(&header, &descriptors);
        append.counts.add(facts.lane, descriptors.iter().map(|descriptor| descriptor.page));
        if certificate {
            header.certificate =
                Some(self.certificate(&append.counts, epoch, facts.sequence, chain, facts.database_pages));
        }
        let head = match format::encode_batch(&header, &descriptors) {
            Ok(head) => head,
            Err(error) => {
                append.counts = self.frames.read().counts_since(append.cut);
                return Err(error.into());
            }
        };
        let parts: Vec<&[u8]> = std::iter::once(head.as_slice()).chain(lane.memory_pieces()).collect();
        let slots = append.slots.as_mut().ok_or(EngineError::NoLog)?;
        if let Some(below) = slots.recycles(&place) {
            self.marks.recycle_to(below);
        }
        if let Err(error) = slots.write(&place, &parts) {
            let erased = self.erase_unpublished(append, facts.sequence, &place);
            return Err(if erased { error } else { self.poisoned_as(error) });
        }
        Ok(Written { header, descriptors, place, chain, crc: format::head_crc(&head), spill: facts.spill })
    }

    /// R5.0: the bytes of a batch that is not published may be whole on the disk, and would be replayed.
    fn erase_unpublished(&self, append: &mut Append, sequence: u64, place: &Place) -> bool {
        append.counts = self.frames.read().counts_since(append.cut);
        let erased = append.slots.as_mut().map_or(Ok(()), |slots| slots.erase(place));
        match erased {
            Ok(()) => true,
            Err(error) => {
                // Once more with all that is not durable, through another descriptor.
                append.unsealed.push(Unsealed { sequence, slot: place.index, offset: place.offset });
                self.poison(append, &format!("a batch that was not published could not be erased: {error}"));
                false
            }
        }
    }

    /// The certificate of the epoch that ends with commit `hi`.
    pub(crate) fn certificate(
        &self,
        counts: &EpochCounts,
        epoch: u64,
        hi: u64,
        chain: u64,
        database_pages: u32,
    ) -> Certificate {
        let durable = self.marks.durable();
        Certificate {
            log_id: self.log_id,
            epoch,
            lo: durable + 1,
            hi,
            durable,
            backfilled: self.marks.backfilled(),
            chain,
            batches: counts.batches,
            frames: counts.frames,
            distinct_pages: counts.pages.len() as u64,
            database_pages,
            fallback: false,
            clean_end: false,
            lane_frames: counts.lane_frames.clone(),
        }
    }

    /// The batch is everybody's: one store, of something complete.
    fn finish(&self, append: &mut Append, written: Written) -> Result<u64, EngineError> {
        let Written { header, descriptors, place, chain, crc, spill } = written;
        let frames = descriptors.iter().map(|descriptor| {
            let (file, offset) = match descriptor.place {
                ImagePlace::Batch(offset) => (FileId::Slot(place.index), place.offset + offset),
                ImagePlace::Spill { file, offset } => (FileId::Spill(file), offset),
            };
            Frame { page: descriptor.page, file, offset, sequence: header.sequence }
        });
        let first_number = self.frames.write().append(header.database_pages, header.lane, frames);
        append.chain = chain;
        append.unsealed.push(Unsealed { sequence: header.sequence, slot: place.index, offset: place.offset });
        if let Some(slots) = append.slots.as_mut() {
            slots.enter(&place, header.sequence);
        }
        if let Some(spill) = spill {
            self.spills.lock().push((header.sequence, spill));
        }
        let entry = CommitEntry {
            sequence: header.sequence,
            wants_durable: header.wants_durable,
            ordinal: place.ordinal,
            file: place.index,
            offset: place.offset,
            end: place.offset + header.bytes,
            frames: header.frames,
            database_pages: header.database_pages,
            has_certificate: header.certificate.is_some(),
            has_spill: spill.is_some(),
            writer: 0,
            chain,
            crc,
        };
        crate::fault_point("publish_before_store");
        let published = self.marks.publish(entry).map_err(EngineError::from).and_then(|()| match &header.certificate {
            Some(certificate) => self.cut(append, certificate, &place),
            None => Ok(()),
        });
        if let Err(error) = published {
            // Against what prepare made sure of: the shared words are not what they were.
            self.poison(append, &error.to_string());
            return Err(self.poisoned_as(error));
        }
        Ok(first_number)
    }

    /// The certificate at `place` is written: its epoch is cut.
    pub(crate) fn cut(&self, append: &mut Append, certificate: &Certificate, place: &Place) -> Result<(), EngineError> {
        crate::fault_point("leading_before_cut");
        append.counts = EpochCounts::default();
        append.cut = certificate.hi;
        let cut = Cut {
            epoch: certificate.epoch,
            lo: certificate.lo,
            hi: certificate.hi,
            ordinal: place.ordinal,
            file: place.index,
            offset: place.offset,
            durable: certificate.durable,
            backfilled: certificate.backfilled,
            chain: certificate.chain,
        };
        Ok(self.marks.store_cut(&cut)?)
    }

    /// Writes the batch and publishes it. The caller holds WRITE and has prepared. `may_lead`: it can flush right after.
    ///
    /// # Errors
    /// Nothing is published then, and the bytes are erased (or the engine is poisoned).
    pub(crate) fn publish(
        self: &Arc<Engine>,
        lane: &Lane,
        facts: CommitFacts,
        may_lead: bool,
    ) -> Result<Published, EngineError> {
        self.check_poison()?;
        let lone = may_lead && facts.wants_durable && !self.queue.contended() && self.marks.words().flush_group() <= 1;
        let leader = if lone { self.try_lead() } else { None };
        let mut append = self.append.lock();
        self.check_poison()?;
        let written = self.write_batch(&mut append, lane, facts, leader.is_some())?;
        let certificate = written.header.certificate.clone();
        let first_number = self.finish(&mut append, written)?;
        let low = append.is_low();
        drop(append);
        crate::fault_point("after_publish");
        self.tell_background(low, facts);
        if facts.wants_durable {
            self.tell_gathering_leader();
        }
        self.counters.commits.fetch_add(1, SeqCst);
        let lone = leader.zip(certificate).map(|(leader, certificate)| Lone { _leader: leader, certificate });
        Ok(Published { first_number, lone })
    }

    /// A commit is published: what there is to do for the background thread.
    fn tell_background(self: &Arc<Engine>, low: bool, facts: CommitFacts) {
        if low {
            self.background.want_slot(self);
        }
        if facts.checkpoint_when_idle {
            self.background.watch(self);
        }
    }

    /// The conservative path, first half: everything before it is made durable, then batch and certificate are written
    /// and synced. A commit that does not want durability is only written.
    ///
    /// # Errors
    /// Nothing is published. A failed sync poisons.
    pub(crate) fn write_early(self: &Arc<Engine>, lane: &Lane, facts: CommitFacts) -> Result<Early, EngineError> {
        let leader = if facts.wants_durable { Some(self.lead_before_all()?) } else { None };
        let mut append = self.append.lock_arc();
        self.check_poison()?;
        let written = self.write_batch(&mut append, lane, facts, leader.is_some())?;
        if leader.is_some()
            && let Err(error) = self.sync_dirty(&mut append)
        {
            append.unsealed.push(written.unsealed());
            self.poison(&mut append, &error.to_string());
            return Err(self.poisoned_as(error));
        }
        Ok(Early { append, leader, written, facts })
    }

    /// The conservative path, second half.
    ///
    /// # Errors
    /// The shared words refuse: the engine is poisoned.
    pub(crate) fn publish_early(self: &Arc<Engine>, early: Early) -> Result<Published, EngineError> {
        let Early { mut append, leader, written, facts } = early;
        let certificate = written.header.certificate.clone();
        let first_number = self.finish(&mut append, written)?;
        if let Some(certificate) = certificate {
            append.unsealed.clear();
            self.sealed(&certificate, self.marks.wanted());
        }
        let low = append.is_low();
        drop(append);
        crate::fault_point("after_publish");
        drop(leader);
        self.tell_background(low, facts);
        self.counters.commits.fetch_add(1, SeqCst);
        Ok(Published { first_number, lone: None })
    }

    /// The transaction rolls back after all: its batch is zeroed and the zeros synced.
    ///
    /// # Errors
    /// The zeros could not be made durable: the engine is poisoned, the outcome unknown.
    pub(crate) fn abandon_early(&self, early: Early) -> Result<(), EngineError> {
        let Early { mut append, leader, written, .. } = early;
        let erased = self.erase_unpublished(&mut append, written.header.sequence, &written.place);
        drop(append);
        drop(leader);
        if erased { Ok(()) } else { self.check_poison() }
    }
}
