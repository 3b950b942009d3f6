//! The slots of the log and its tail: where the next record goes. All under APPEND.

use super::EngineError;
use super::marks::Recyclable;
use crate::disk::LogFile;
use crate::log::format::{LogId, SlotHeader};
use std::io::IoSlice;
use std::sync::Arc;

/// Blocks at the end of a slot that only certificates may use: between two batches of a prepared writer
/// there are few, so that a certificate always finds room.
pub(crate) const CERTIFICATE_BLOCKS: u64 = 8;

/// One slot.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The number in its file name.
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn LogFile>,
    pub(crate) bytes: u64,
    /// The ordinal of the segment in it; 0: free.
    pub(crate) ordinal: u64,
    /// The newest commit that its records speak of.
    pub(crate) last_sequence: u64,
    /// Written since the last sync of it began.
    pub(crate) dirty: bool,
}

/// Where a record goes.
#[derive(Debug)]
pub(crate) struct Place {
    slot: usize,
    pub(crate) index: u32,
    pub(crate) ordinal: u64,
    /// Of the record, in bytes.
    pub(crate) offset: u64,
    bytes: u64,
    header: Option<Vec<u8>>,
}

/// The slots of one log.
#[derive(Debug)]
pub(crate) struct Slots {
    log_id: LogId,
    block_bytes: u64,
    page_bytes: u32,
    list: Vec<Slot>,
    current: usize,
    tail: u64,
    /// Chosen for the time when the current one is full.
    next: Option<usize>,
    /// None could be made ahead of need since the current one began: a nearly full disk is not filled again and again.
    ahead_failed: bool,
}

impl Slots {
    /// A log whose first slot, `first`, has its header already.
    pub(crate) fn new(log_id: LogId, block_bytes: u32, page_bytes: u32, first: Slot) -> Slots {
        let block_bytes = u64::from(block_bytes);
        let list = vec![first];
        Slots { log_id, block_bytes, page_bytes, list, current: 0, tail: block_bytes, next: None, ahead_failed: false }
    }

    pub(crate) fn round_up(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.block_bytes) * self.block_bytes
    }

    /// What a batch may use of a slot.
    fn limit(&self, slot: usize) -> u64 {
        self.list[slot].bytes.saturating_sub(CERTIFICATE_BLOCKS * self.block_bytes)
    }

    /// Whether a batch of so many bytes has its place: in the current slot, whatever few certificates
    /// come before it, or in the next one.
    pub(crate) fn has_room(&self, batch_bytes: u64) -> bool {
        let margin = 4 * self.block_bytes;
        self.tail + batch_bytes + margin <= self.limit(self.current)
            || self.next.is_some_and(|next| self.block_bytes + batch_bytes + margin <= self.limit(next))
    }

    /// The bytes of a slot that takes such a batch.
    pub(crate) fn bytes_for(&self, batch_bytes: u64) -> u64 {
        self.round_up(batch_bytes) + (CERTIFICATE_BLOCKS + 8) * self.block_bytes
    }

    /// Takes a free slot of at least so many bytes as the next one, if there is one.
    pub(crate) fn take_free(&mut self, bytes: u64, recyclable: Recyclable) -> bool {
        let free = |(i, slot): &(usize, &Slot)| {
            let is_over = slot.last_sequence <= recyclable.backfilled && recyclable.keep != Some(slot.index);
            *i != self.current && (slot.ordinal == 0 || is_over) && slot.bytes >= bytes
        };
        let found = self.list.iter().enumerate().filter(free).map(|(i, _)| i).next();
        if found.is_some() {
            self.next = found;
        }
        found.is_some()
    }

    /// A slot that was created ahead of need: the next one, unless there is one by now.
    pub(crate) fn add_free(&mut self, slot: Slot) {
        self.list.push(slot);
        self.next = self.next.or(Some(self.list.len() - 1));
    }

    /// A slot that was just created becomes the next one.
    pub(crate) fn add_next(&mut self, slot: Slot) {
        self.list.push(slot);
        self.next = Some(self.list.len() - 1);
    }

    /// Whether a slot is to be prepared ahead of need.
    pub(crate) fn wants_next(&self) -> bool {
        self.next.is_none() && !self.ahead_failed
    }

    pub(crate) fn ahead_failed(&mut self) {
        self.ahead_failed = true;
    }

    /// How full the current slot is, in per cent.
    pub(crate) fn filled_percent(&self) -> u64 {
        self.tail * 100 / self.list[self.current].bytes
    }

    pub(crate) fn largest(&self) -> u64 {
        self.list.iter().map(|slot| slot.bytes).max().unwrap_or(0)
    }

    pub(crate) fn next_index(&self) -> u32 {
        self.list.iter().map(|slot| slot.index + 1).max().unwrap_or(0)
    }

    /// The bytes of all slots.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.list.iter().map(|slot| slot.bytes).sum()
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// Where a record of so many bytes goes; a batch leaves the last blocks of a slot to certificates.
    /// `None`: neither the current slot nor the next one has room.
    pub(crate) fn place(&self, bytes: u64, batch: bool, first_sequence: u64, chain: u64) -> Option<Place> {
        let bytes = self.round_up(bytes);
        let end = |slot: usize| if batch { self.limit(slot) } else { self.list[slot].bytes };
        let here = &self.list[self.current];
        if self.tail + bytes <= end(self.current) {
            let (index, ordinal) = (here.index, here.ordinal);
            return Some(Place { slot: self.current, index, ordinal, offset: self.tail, bytes, header: None });
        }
        let next = self.next?;
        if self.block_bytes + bytes > end(next) {
            return None;
        }
        let slot = &self.list[next];
        let header = SlotHeader {
            log_id: self.log_id,
            block_bytes: u32::try_from(self.block_bytes).ok()?,
            page_bytes: self.page_bytes,
            slot_bytes: slot.bytes,
            ordinal: here.ordinal + 1,
            first_sequence,
            chain,
        };
        Some(Place {
            slot: next,
            index: slot.index,
            ordinal: header.ordinal,
            offset: self.block_bytes,
            bytes,
            header: Some(header.encode()),
        })
    }

    /// The commits that a recycled slot held before `place` goes there: they are read from the
    /// database file from now on.
    pub(crate) fn recycles(&self, place: &Place) -> Option<u64> {
        place.header.as_ref().map(|_| self.list[place.slot].last_sequence)
    }

    /// Writes a record, padded to its blocks; with it the header of a slot that begins, after the block at the tail
    /// of the slot that ends was zeroed. The tail does not move.
    pub(crate) fn write(&mut self, place: &Place, parts: &[&[u8]]) -> Result<(), EngineError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let padding = vec![0; usize::try_from(place.bytes).map_or(0, |bytes| bytes.saturating_sub(length))];
        if place.header.is_some() && self.tail < self.list[self.current].bytes {
            let slot = &mut self.list[self.current];
            slot.dirty = true;
            let zeros = vec![0; usize::try_from(self.block_bytes).unwrap_or(0)];
            slot.file.write_at(&[IoSlice::new(&zeros)], self.tail).map_err(|e| EngineError::write(&slot.name, e))?;
        }
        let mut slices = Vec::with_capacity(parts.len() + 2);
        slices.extend(place.header.as_deref().map(IoSlice::new));
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        slices.push(IoSlice::new(&padding));
        let slot = &mut self.list[place.slot];
        slot.dirty = true;
        let offset = if place.header.is_some() { 0 } else { place.offset };
        slot.file.write_at(&slices, offset).map_err(|e| EngineError::write(&slot.name, e))?;
        if place.header.is_some() {
            crate::fault_point("rotating");
        }
        Ok(())
    }

    /// The record at `place` counts: the tail is behind it.
    pub(crate) fn enter(&mut self, place: &Place, sequence: u64) {
        if place.header.is_some() {
            self.current = place.slot;
            self.next = None;
            self.ahead_failed = false;
            self.list[place.slot].ordinal = place.ordinal;
            self.list[place.slot].last_sequence = sequence;
        }
        let slot = &mut self.list[place.slot];
        slot.last_sequence = slot.last_sequence.max(sequence);
        self.tail = place.offset + place.bytes;
    }

    /// Makes what was written at `place` and does not count unprovable: zeros, synced.
    pub(crate) fn erase(&mut self, place: &Place) -> Result<(), EngineError> {
        let zeros = vec![0; usize::try_from(self.block_bytes).unwrap_or(0)];
        let slot = &mut self.list[place.slot];
        let offsets = [if place.header.is_some() { 0 } else { place.offset }, place.offset];
        for offset in offsets {
            slot.file.write_at(&[IoSlice::new(&zeros)], offset).map_err(|e| EngineError::write(&slot.name, e))?;
        }
        slot.file.sync().map_err(|e| EngineError::sync(&slot.name, e))
    }

    /// The files written since their last sync began, in the order of the log; they count as clean now.
    pub(crate) fn take_dirty(&mut self) -> Vec<(String, Arc<dyn LogFile>)> {
        let mut dirty: Vec<_> = self.list.iter_mut().filter(|slot| slot.dirty).collect();
        dirty.sort_by_key(|slot| slot.ordinal);
        dirty
            .into_iter()
            .map(|slot| {
                slot.dirty = false;
                (slot.name.clone(), Arc::clone(&slot.file))
            })
            .collect()
    }

    /// The file of the slot with this number.
    pub(crate) fn file(&self, index: u32) -> Option<(String, Arc<dyn LogFile>)> {
        self.list.iter().find(|slot| slot.index == index).map(|slot| (slot.name.clone(), Arc::clone(&slot.file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::disk::{Disk, OpenHow};
    use std::path::Path;

    fn slot(index: u32, blocks: u64, ordinal: u64, last_sequence: u64) -> Slot {
        let dir = SimDisk::new(1).log_directory(Path::new("/a.db"));
        dir.create().unwrap();
        let name = format!("{index}");
        let file = dir.open(&name, OpenHow::CreateNew).unwrap();
        Slot { index, name, file, bytes: blocks * 4096, ordinal, last_sequence, dirty: false }
    }

    fn slots() -> Slots {
        Slots::new(7, 4096, 4096, slot(0, 64, 1, 0))
    }

    #[test]
    fn a_slot_made_ahead_of_need_does_not_take_the_place_that_a_writer_relies_on() {
        let mut slots = slots();
        slots.add_next(slot(1, 512, 0, 0));
        let large = 400 * 4096;
        assert!(slots.has_room(large));
        slots.add_free(slot(2, 128, 0, 0));
        assert!(slots.has_room(large));
        let place = slots.place(large, true, 1, 7).unwrap();
        assert_eq!((place.index, place.ordinal), (1, 2));
    }

    #[test]
    fn what_is_over_is_taken_but_not_where_the_certificate_that_says_so_lies() {
        let mut slots = slots();
        slots.add_free(slot(1, 64, 0, 0));
        for commit in [5, 6] {
            let place = slots.place(40 * 4096, true, commit, 7).unwrap();
            slots.enter(&place, commit);
        }
        assert!(slots.place(40 * 4096, true, 7, 7).is_none(), "slot 0 has not been taken yet");
        let over = Recyclable { backfilled: 5, keep: None };
        assert!(!slots.take_free(4096, Recyclable { backfilled: 4, keep: None }));
        assert!(!slots.take_free(4096, Recyclable { keep: Some(0), ..over }));
        assert!(!slots.take_free(65 * 4096, over));
        assert!(slots.take_free(4096, over));
        assert_eq!(slots.place(40 * 4096, true, 7, 7).unwrap().index, 0);
    }
}
