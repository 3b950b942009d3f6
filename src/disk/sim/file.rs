//! One simulated file: what readers see, what the medium holds for certain, and the writes between the two.

use super::{Dice, HeaderTear, PowerCut};
use std::collections::{BTreeMap, BTreeSet};

/// What the medium writes at once.
pub(super) const SECTOR_BYTES: usize = 512;
/// What the page cache writes back at once: most power cuts leave one of these old or new as a whole.
const CACHE_PAGE_SECTORS: u64 = 8;

type Sector = [u8; SECTOR_BYTES];
/// What a sector was after each unsynced write, with the clock of the write.
type Versions = Vec<(u64, Sector)>;

/// A file, with a clock on each unsynced write.
#[derive(Clone, Debug, Default)]
pub(super) struct SimFile {
    cache: Vec<u8>,
    medium: Vec<u8>,
    pending: BTreeMap<u64, Versions>,
    pending_bytes: Vec<(u64, u64)>,
    /// Those of them that made the file shorter.
    pending_epochs: Vec<(u64, u64)>,
    is_database: bool,
    /// Sectors that are rewritten with another one of their page may be torn, too.
    tears_pages: bool,
    /// Sectors that came out of a power cut as garbage though they were rewritten with the bytes that they had.
    same_bytes_torn: u64,
    /// Sectors that cannot be read until they are written.
    unreadable: BTreeSet<u64>,
    /// Syncs that failed.
    failed_syncs: u64,
    /// Power cuts that left the first sector of a database file as garbage.
    headers_lost: u64,
}

impl SimFile {
    /// An empty database file.
    pub(super) fn database() -> SimFile {
        SimFile { is_database: true, ..SimFile::default() }
    }

    /// An empty file of the log.
    pub(super) fn of_log() -> SimFile {
        SimFile { tears_pages: true, ..SimFile::default() }
    }

    pub(super) fn headers_lost(&self) -> u64 {
        self.headers_lost
    }

    pub(super) fn make_unreadable(&mut self, sector: u64) {
        self.unreadable.insert(sector);
    }

    /// Whether a sector of these bytes cannot be read.
    pub(super) fn is_unreadable(&self, offset: u64, bytes: usize) -> bool {
        let sectors = offset / SECTOR_BYTES as u64..(offset + bytes as u64).div_ceil(SECTOR_BYTES as u64);
        self.unreadable.range(sectors).next().is_some()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.len() as u64
    }

    pub(super) fn cached(&self) -> &[u8] {
        &self.cache
    }

    pub(super) fn failed_syncs(&self) -> u64 {
        self.failed_syncs
    }

    pub(super) fn same_bytes_torn(&self) -> u64 {
        self.same_bytes_torn
    }

    pub(super) fn medium(&self) -> &[u8] {
        &self.medium
    }

    /// As if nothing had ever been otherwise: cache and medium alike.
    pub(super) fn replace(&mut self, bytes: Vec<u8>) {
        self.medium.clone_from(&bytes);
        self.cache = bytes;
        self.pending.clear();
        self.pending_bytes.clear();
        self.pending_epochs.clear();
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64, past_cache: bool) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.cache.len());
        let length = buffer.len().min(self.cache.len() - start);
        buffer[..length].copy_from_slice(&self.cache[start..start + length]);
        if past_cache {
            // A dirty sector is written first by the kernel, and reads as in the cache.
            let mut at = start;
            while at < start + length {
                let end = (start + length).min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
                if !self.pending.contains_key(&((at / SECTOR_BYTES) as u64)) {
                    let held = self.medium.len().clamp(at, end);
                    buffer[at - start..held - start].copy_from_slice(self.medium.get(at..held).unwrap_or(&[]));
                    buffer[held - start..end - start].fill(0);
                }
                at = end;
            }
        }
        length
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64, clock: u64) {
        if data.is_empty() {
            return;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start + data.len();
        if end > self.cache.len() {
            resize(&mut self.cache, end);
            self.pending_bytes.push((clock, end as u64));
        }
        self.cache[start..end].copy_from_slice(data);
        for sector in start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let now = sector_of(&self.cache, sector as u64);
            self.pending.entry(sector as u64).or_default().push((clock, now));
            self.unreadable.remove(&(sector as u64));
        }
    }

    pub(super) fn set_bytes(&mut self, bytes: u64, clock: u64) {
        let new = usize::try_from(bytes).unwrap_or(usize::MAX);
        let old = self.cache.len();
        resize(&mut self.cache, new);
        self.pending_bytes.push((clock, bytes));
        if new < old {
            self.pending_epochs.push((clock, bytes));
            // What is truncated must not come back when the file grows again.
            for sector in new / SECTOR_BYTES..=(old - 1) / SECTOR_BYTES {
                let now = sector_of(&self.cache, sector as u64);
                self.pending.entry(sector as u64).or_default().push((clock, now));
            }
        }
    }

    /// The writes up to `clock` reach the medium.
    pub(super) fn sync(&mut self, clock: u64) {
        self.settle(clock, &mut |_, written| written);
    }

    /// A write-back error: the pages count as clean now, and the medium has any of the values.
    pub(super) fn sync_failed(&mut self, clock: u64, dice: &mut Dice) {
        self.failed_syncs += 1;
        // The cache writes back a page at once: often all of it is lost.
        let mut lost = (None, false);
        self.settle(clock, &mut |sector, written| {
            let page = Some(sector / CACHE_PAGE_SECTORS);
            if lost.0 != page {
                lost = (page, dice.percent(50));
            }
            if lost.1 { 0 } else { dice.index(written + 1) }
        });
    }

    /// Takes the writes up to `clock` off the list; `choose` says how many of a sector's reached the medium.
    fn settle(&mut self, clock: u64, choose: &mut dyn FnMut(u64, usize) -> usize) {
        let covered = self.pending_bytes.partition_point(|(at, _)| *at <= clock);
        if let Some((_, bytes)) = self.pending_bytes[..covered].last() {
            resize(&mut self.medium, usize::try_from(*bytes).unwrap_or(usize::MAX));
        }
        self.pending_bytes.drain(..covered);
        self.pending_epochs.retain(|(at, _)| *at > clock);
        let mut chosen = Vec::new();
        self.pending.retain(|sector, values| {
            let covered = values.partition_point(|(at, _)| *at <= clock);
            if covered > 0 {
                let reached = choose(*sector, covered);
                if let Some((_, value)) = values[..reached].last() {
                    chosen.push((*sector, *value));
                }
                values.drain(..covered);
            }
            !values.is_empty()
        });
        for (sector, value) in chosen {
            put_sector(&mut self.medium, sector, &value);
        }
    }

    /// What is unsynced survives old, new, in between, or torn.
    pub(super) fn power_cut(&mut self, how: &PowerCut, dice: &mut Dice) {
        let size = last_survivor(&self.pending_bytes, how, dice);
        self.power_cut_cuts(size.map_or(0, |(clock, _)| clock));
        if let Some((_, bytes)) = size {
            resize(&mut self.medium, usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        let pending = std::mem::take(&mut self.pending);
        let mut pages: BTreeMap<u64, Vec<(u64, Versions)>> = BTreeMap::new();
        for (sector, values) in pending {
            pages.entry(sector / CACHE_PAGE_SECTORS).or_default().push((sector, values));
        }
        for sectors in pages.into_values() {
            self.power_cut_page(&sectors, how, dice);
        }
        self.pending_bytes.clear();
        self.cache.clone_from(&self.medium);
    }

    /// A file that was made shorter, and the sizes up to `survived` are on the medium: where that is one of them, nothing of what
    /// it took is; else what it took is not zeros.
    fn power_cut_cuts(&mut self, survived: u64) {
        for (clock, bytes) in std::mem::take(&mut self.pending_epochs) {
            let has_happened = clock <= survived;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            if has_happened {
                self.medium.truncate(bytes);
            }
            for (_, versions) in self.pending.range_mut((bytes / SECTOR_BYTES) as u64..) {
                versions.retain(|(at, _)| if has_happened { *at >= clock } else { *at != clock });
            }
        }
        self.pending.retain(|_, versions| !versions.is_empty());
    }

    fn power_cut_page(&mut self, sectors: &[(u64, Versions)], how: &PowerCut, dice: &mut Dice) {
        let header_before = sector_of(&self.medium, 0);
        let roll = dice.below(100);
        let keep = u64::from(how.keep_percent);
        let between = keep + (100 - keep) * 3 / 10;
        let torn = between + (100 - keep) * 2 / 10;
        // In between: the page as it was at one moment.
        let clocks: Vec<u64> = sectors.iter().flat_map(|(_, values)| values.iter().map(|(clock, _)| *clock)).collect();
        let moment = dice.pick(&clocks);
        for (sector, values) in sectors {
            let old = sector_of(&self.medium, *sector);
            let last = values.last().map_or(old, |(_, value)| *value);
            let is_header = self.is_database && *sector == 0;
            let new = if roll < keep {
                last
            } else if roll < between {
                values.iter().rev().find(|(clock, _)| *clock <= moment).map_or(old, |(_, value)| *value)
            } else if roll < torn {
                match dice.below(8) {
                    0..4 => old,
                    4..7 => last,
                    _ if !how.tears_sectors => old,
                    _ if is_header => torn_header(&old, &last, how, dice),
                    // A drive may lose a sector to its own check even if the bytes were to stay the same.
                    _ if last != old || how.tears_same_bytes => garbage(&old, &last, dice),
                    _ => old,
                }
            } else {
                old
            };
            self.same_bytes_torn += u64::from(last == old && new != old);
            put_sector(&mut self.medium, *sector, &new);
        }
        if sectors.is_empty() {
            return;
        }
        self.tear_neighbours(sectors, (between..torn).contains(&roll), how, dice);
        self.tear_same_bytes(sectors, how, dice);
        // A header sector alone in its page is torn too seldom by the roll above for the rules about torn stamps.
        if how.tears_header != HeaderTear::Never && self.is_database && sectors[0].0 == 0 && dice.percent(60) {
            let values = &sectors[0].1;
            let other = dice.pick(values).1;
            put_sector(&mut self.medium, 0, &torn_header(&header_before, &other, how, dice));
        }
        if how.tears_header != HeaderTear::Never
            && self.is_database
            && let [(0, values), ..] = sectors
        {
            let now = sector_of(&self.medium, 0);
            let is_known = now == header_before || values.iter().any(|(_, value)| *value == now);
            self.headers_lost += u64::from(!is_known);
        }
    }

    /// The page cache writes back whole pages: the sectors of this one that were not written are rewritten with the bytes that they
    /// had. `is_torn`: the page is not written whole.
    fn tear_neighbours(&mut self, sectors: &[(u64, Versions)], is_torn: bool, how: &PowerCut, dice: &mut Dice) {
        if !self.tears_pages || !how.tears_sectors || !(is_torn || how.tears_same_bytes) {
            return;
        }
        let first = sectors[0].0 / CACHE_PAGE_SECTORS * CACHE_PAGE_SECTORS;
        let end = (self.medium.len() / SECTOR_BYTES) as u64;
        for sector in first..(first + CACHE_PAGE_SECTORS).min(end) {
            let is_written = sectors.iter().any(|(written, _)| *written == sector);
            if !is_written && dice.percent(20) {
                let old = sector_of(&self.medium, sector);
                self.same_bytes_torn += 1;
                put_sector(&mut self.medium, sector, &garbage(&old, &old, dice));
            }
        }
    }

    /// A rewrite with the same bytes is torn too seldom by the roll for all sectors for the rule that no durable block is
    /// written twice.
    fn tear_same_bytes(&mut self, sectors: &[(u64, Versions)], how: &PowerCut, dice: &mut Dice) {
        if !how.tears_sectors || !how.tears_same_bytes {
            return;
        }
        for (sector, values) in sectors.iter().filter(|(sector, _)| !self.is_database || *sector != 0) {
            let old = sector_of(&self.medium, *sector);
            let is_same = values.iter().all(|(_, value)| *value == old);
            if is_same && dice.percent(20) {
                self.same_bytes_torn += 1;
                put_sector(&mut self.medium, *sector, &garbage(&old, &old, dice));
            }
        }
    }

    /// Clean pages leave the cache: what a failed sync lost is read from the medium then.
    pub(super) fn evict(&mut self, dice: &mut Dice) {
        let sectors = self.cache.len().div_ceil(SECTOR_BYTES) as u64;
        for sector in 0..sectors {
            if !self.pending.contains_key(&sector) && dice.percent(50) {
                let value = sector_of(&self.medium, sector);
                put_sector(&mut self.cache, sector, &value);
            }
        }
    }

    /// Changes the file in the cache and on the medium alike, unnoticed.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.cache.clone();
        change(&mut bytes);
        self.replace(bytes);
    }
}

/// As `Vec::resize` with zeros, which takes a byte at a time in a debug build.
fn resize(bytes: &mut Vec<u8>, length: usize) {
    match length.checked_sub(bytes.len()) {
        Some(more) => bytes.extend_from_slice(&vec![0; more]),
        None => bytes.truncate(length),
    }
}

fn sector_of(bytes: &[u8], sector: u64) -> Sector {
    let mut value = [0; SECTOR_BYTES];
    let start = usize::try_from(sector).unwrap_or(usize::MAX).saturating_mul(SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    value[..end - start].copy_from_slice(&bytes[start..end]);
    value
}

/// Writes what of the sector lies inside the file.
fn put_sector(bytes: &mut [u8], sector: u64, value: &Sector) {
    let start = usize::try_from(sector).unwrap_or(usize::MAX).saturating_mul(SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    bytes[start..end].copy_from_slice(&value[..end - start]);
}

fn garbage(old: &Sector, last: &Sector, dice: &mut Dice) -> Sector {
    let mut value = *last;
    if dice.percent(50) {
        value.iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
    } else {
        let cut = dice.index(SECTOR_BYTES);
        value[cut..].copy_from_slice(&old[cut..]);
        value[cut] ^= 0x55;
    }
    value
}

/// Nothing of it, or the beginning of the new bytes before the end of the old ones.
fn lost_header(old: &Sector, last: &Sector, dice: &mut Dice) -> Sector {
    let mut value = [0; SECTOR_BYTES];
    match dice.below(4) {
        0 => {}
        1 => {
            let cut = dice.index(SECTOR_BYTES);
            value[..cut].copy_from_slice(&last[..cut]);
            value[cut..].copy_from_slice(&old[cut..]);
        }
        _ => value.iter_mut().for_each(|byte| *byte = dice.below(256) as u8),
    }
    value
}

/// The sector of the database header: one atomic sector, or a disk without them that mixes the stamp's fields.
fn torn_header(old: &Sector, last: &Sector, how: &PowerCut, dice: &mut Dice) -> Sector {
    match how.tears_header {
        HeaderTear::Never => return *old,
        HeaderTear::Garbage => return lost_header(old, last, dice),
        HeaderTear::Mixed => {}
    }
    let mut value = *old;
    for field in [18..20, 72..80, 80..88, 88..92] {
        if dice.percent(50) {
            value[field.clone()].copy_from_slice(&last[field]);
        }
    }
    value
}

/// Of writes that hang together in order (a size), the last that survives.
pub(super) fn last_survivor<T: Clone>(pending: &[(u64, T)], how: &PowerCut, dice: &mut Dice) -> Option<(u64, T)> {
    let keep = u64::from(how.keep_percent);
    let roll = dice.below(100);
    if roll < keep {
        pending.last().cloned()
    } else if roll < keep + (100 - keep) * 3 / 10 && !pending.is_empty() {
        Some(pending[dice.index(pending.len())].clone())
    } else {
        None
    }
}
