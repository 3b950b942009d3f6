//! What `wal.c` does with a wal-index and a WAL file, written again from its description, one method for each
//! of its functions. It knows a view only by its regions and by reads and writes of the virtual file.

use super::log::{Content, Log, content, image};
use crate::disk::LogFile;
use crate::view::{View, ViewError, Written};
use std::io;
use std::sync::Arc;

const FIRST: u32 = 4062;
const NEXT: u32 = 4096;

pub struct Client {
    pub header: [u32; 12],
    pub min_frame: u32,
    pub rechecksum: u32,
    pub page_bytes: u32,
    /// The owner of the view answers BUSY to the next commit frame.
    pub refuse: bool,
}

/// What `sqlite3WalSavepoint` remembers.
#[derive(Clone, Copy)]
pub struct Savepoint(u32);

fn region_of(frame: u32) -> u32 {
    (frame + NEXT - FIRST - 1) / NEXT
}

fn zero_of(region: u32) -> u32 {
    if region == 0 { 0 } else { FIRST + (region - 1) * NEXT }
}

fn page_words(region: u32) -> usize {
    if region == 0 { 34 } else { 0 }
}

fn hash(page: u32) -> usize {
    (page.wrapping_mul(383) & 8191) as usize
}

fn slot(view: &mut View, region: u32, slot: usize) -> u16 {
    let word = view.region(region, false).unwrap().word(4096 + slot / 2).to_ne_bytes();
    u16::from_ne_bytes([word[slot % 2 * 2], word[slot % 2 * 2 + 1]])
}

fn set_slot(view: &mut View, region: u32, slot: usize, value: u16) {
    let region = view.region(region, false).unwrap();
    let mut word = region.word(4096 + slot / 2).to_ne_bytes();
    word[slot % 2 * 2..slot % 2 * 2 + 2].copy_from_slice(&value.to_ne_bytes());
    region.set_word(4096 + slot / 2, u32::from_ne_bytes(word));
}

pub fn frame_page(view: &mut View, frame: u32) -> u32 {
    let region = region_of(frame);
    view.region(region, false).unwrap().word(page_words(region) + (frame - zero_of(region)) as usize - 1)
}

impl Client {
    pub fn new(page_bytes: u32) -> Client {
        Client { header: [0; 12], min_frame: 1, rechecksum: 0, page_bytes, refuse: false }
    }

    pub fn max_frame(&self) -> u32 {
        self.header[4]
    }

    /// `walIndexTryHdr`: whether the header is another one than before. Panics where SQLite would start a recovery.
    pub fn try_header(&mut self, view: &mut View) -> bool {
        let first = super::header_words(view, 0);
        assert_eq!(first, super::header_words(view, 1), "dirty read");
        let bytes: Vec<u8> = first.iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!((first[0], bytes[12], bytes[13]), (3_007_000, 1, u8::from(cfg!(target_endian = "big"))));
        let (mut s1, mut s2) = (0_u32, 0_u32);
        for pair in first[..10].chunks(2) {
            s1 = s1.wrapping_add(pair[0].wrapping_add(s2));
            s2 = s2.wrapping_add(pair[1].wrapping_add(s1));
        }
        assert_eq!([s1, s2], first[10..], "header checksum");
        let size = u32::from(u16::from_ne_bytes([bytes[14], bytes[15]]));
        assert_eq!((size & 0xfe00) + ((size & 1) << 16), self.page_bytes);
        let changed = first != self.header;
        self.header = first;
        changed
    }

    /// `walTryBeginRead` behind `walIndexReadHdr`: no way into `READ_LOCK(0)`, mark 1 fits.
    pub fn begin_read(&mut self, view: &mut View) {
        let region = view.region(0, false).unwrap();
        let backfill = region.word(24);
        assert!(backfill < self.max_frame());
        let marks: Vec<u32> = (25..30).map(|w| region.word(w)).collect();
        assert_eq!(marks[0], 0);
        let best = (1..5).filter(|&i| marks[i] <= self.max_frame()).max_by_key(|&i| marks[i]);
        let best = best.unwrap_or(1);
        if marks[best] < self.max_frame() || marks[best] == u32::MAX {
            region.set_word(25 + best, self.max_frame());
        }
        self.min_frame = backfill + 1;
    }

    /// `walFindFrame`, and its expensive assertion: a linear search finds the same.
    pub fn find(&self, view: &mut View, page: u32) -> u32 {
        let last = self.max_frame();
        let mut found = 0;
        for region in (region_of(self.min_frame)..=region_of(last)).rev() {
            let mut key = hash(page);
            let mut collisions = 8192;
            loop {
                let entry = u32::from(slot(view, region, key));
                if entry == 0 {
                    break;
                }
                let frame = entry + zero_of(region);
                if frame <= last && frame >= self.min_frame && frame_page(view, frame) == page {
                    assert!(frame > found, "hash order");
                    found = frame;
                }
                assert!(collisions > 0, "SQLITE_CORRUPT from walFindFrame");
                collisions -= 1;
                key = (key + 1) & 8191;
            }
            if found != 0 {
                break;
            }
        }
        let linear = (self.min_frame..=last).rev().find(|&frame| frame_page(view, frame) == page);
        assert_eq!(found, linear.unwrap_or(0), "page {page}: hash and linear search differ");
        found
    }

    /// `readDbPage`: from the frame, or from the database file.
    pub fn read(&self, view: &mut View, log: &Log, page: u32) -> Content {
        match self.find(view, page) {
            0 => log.in_database(page),
            frame => self.read_frame(view, log, frame),
        }
    }

    pub fn read_frame(&self, view: &View, log: &Log, frame: u32) -> Content {
        let mut buffer = vec![0xaa; self.page_bytes as usize];
        let offset = self.frame_offset(frame) + 24;
        view.read::<()>(&mut buffer, offset, &mut |number, page, at, part| {
            let image = image(log.image(number, page), self.page_bytes);
            part.copy_from_slice(&image[at as usize..at as usize + part.len()]);
            Ok(())
        })
        .unwrap();
        content(&buffer)
    }

    pub fn frame_offset(&self, frame: u32) -> u64 {
        32 + (u64::from(frame) - 1) * (u64::from(self.page_bytes) + 24)
    }

    /// `walIndexAppend`
    pub fn append(&self, view: &mut View, frame: u32, page: u32) {
        let region = region_of(frame);
        let idx = frame - zero_of(region);
        let memory = view.region(region, true).unwrap();
        if idx == 1 {
            for word in page_words(region)..8192 {
                memory.set_word(word, 0);
            }
        }
        let word = page_words(region) + idx as usize - 1;
        if memory.word(word) != 0 {
            self.clean_up_hash(view);
            assert_eq!(memory.word(word), 0);
        }
        let mut key = hash(page);
        let mut collisions = idx;
        while slot(view, region, key) != 0 {
            assert!(collisions > 0, "SQLITE_CORRUPT from walIndexAppend");
            collisions -= 1;
            key = (key + 1) & 8191;
        }
        memory.set_word(word, page);
        set_slot(view, region, key, idx as u16);
    }

    /// `walCleanupHash`
    fn clean_up_hash(&self, view: &mut View) {
        if self.max_frame() == 0 {
            return;
        }
        let region = region_of(self.max_frame());
        let limit = self.max_frame() - zero_of(region);
        for key in 0..8192 {
            if u32::from(slot(view, region, key)) > limit {
                set_slot(view, region, key, 0);
            }
        }
        for word in page_words(region) + limit as usize..4096 {
            view.region(region, false).unwrap().set_word(word, 0);
        }
    }

    fn write_header(
        &self,
        view: &mut View,
        frame: u32,
        page: u32,
        pages: u32,
        spill: &mut dyn FnMut() -> io::Result<Arc<dyn LogFile>>,
    ) -> Result<(), ViewError> {
        let mut header = [0; 24];
        header[..4].copy_from_slice(&page.to_be_bytes());
        header[4..8].copy_from_slice(&pages.to_be_bytes());
        if self.rechecksum == 0 {
            header[8..16].copy_from_slice(b"saltsalt");
            header[16..20].copy_from_slice(&frame.to_be_bytes());
            header[20..].copy_from_slice(b"sums");
        }
        assert_eq!(view.write(&header, self.frame_offset(frame), spill)?, Written::Staged);
        Ok(())
    }

    /// `walFrames`: all of `pages`; as a commit with the database size `commit`. False if that was refused.
    pub fn frames(
        &mut self,
        view: &mut View,
        pages: &[(u32, Content)],
        commit: Option<u32>,
        spill: &mut dyn FnMut() -> io::Result<Arc<dyn LogFile>>,
    ) -> Result<bool, ViewError> {
        let live = super::header_words(view, 0);
        let first = if live == self.header { 0 } else { live[4] + 1 };
        let mut frame = self.max_frame();
        let mut appended = Vec::new();
        for (i, &(page, content)) in pages.iter().enumerate() {
            let last = i + 1 == pages.len();
            let image = image(content, self.page_bytes);
            if first != 0 && !(last && commit.is_some()) {
                let written = self.find(view, page);
                if written >= first {
                    if self.rechecksum == 0 || written < self.rechecksum {
                        self.rechecksum = written;
                    }
                    assert_eq!(view.write(&image, self.frame_offset(written) + 24, spill)?, Written::Staged);
                    continue;
                }
            }
            frame += 1;
            let database_pages = if last { commit.unwrap_or(0) } else { 0 };
            self.write_header(view, frame, page, database_pages, spill)?;
            let expected = if database_pages == 0 { Written::Staged } else { Written::Commit { database_pages } };
            assert_eq!(view.write(&image, self.frame_offset(frame) + 24, spill)?, expected);
            if database_pages != 0 && std::mem::take(&mut self.refuse) {
                return Ok(false);
            }
            appended.push(page);
        }
        if commit.is_some() && self.rechecksum != 0 {
            self.rewrite_checksums(view, frame, spill)?;
        }
        let mut frame = self.max_frame();
        for page in appended {
            frame += 1;
            self.append(view, frame, page);
        }
        self.header[4] = frame;
        if let Some(pages) = commit {
            self.header[2] = self.header[2].wrapping_add(1);
            self.header[5] = pages;
            self.write_index_header(view);
        }
        Ok(true)
    }

    /// `walRewriteChecksums`
    fn rewrite_checksums(
        &mut self,
        view: &mut View,
        last: u32,
        spill: &mut dyn FnMut() -> io::Result<Arc<dyn LogFile>>,
    ) -> Result<(), ViewError> {
        let nothing = &mut |_: u64, _: u32, _: u64, _: &mut [u8]| -> Result<(), ()> { panic!("only its own frames") };
        let mut sums = [0xaa; 8];
        view.read(&mut sums, self.frame_offset(self.rechecksum - 1) + 16, nothing).unwrap();
        let mut buffer = vec![0xaa; self.page_bytes as usize + 24];
        for frame in std::mem::take(&mut self.rechecksum)..=last {
            view.read(&mut buffer, self.frame_offset(frame), nothing).unwrap();
            content(&buffer[24..]);
            let page = u32::from_be_bytes(buffer[..4].try_into().unwrap());
            let pages = u32::from_be_bytes(buffer[4..8].try_into().unwrap());
            self.write_header(view, frame, page, pages, spill)?;
            let mut again = [0; 24];
            view.read(&mut again, self.frame_offset(frame), nothing).unwrap();
            assert_eq!(again[16..20], frame.to_be_bytes());
            assert_eq!(again[..8], buffer[..8]);
            assert_eq!(&again[8..16], b"saltsalt");
        }
        Ok(())
    }

    /// `walIndexWriteHdr`
    pub fn write_index_header(&mut self, view: &mut View) {
        let (mut s1, mut s2) = (0_u32, 0_u32);
        for pair in self.header[..10].chunks(2) {
            s1 = s1.wrapping_add(pair[0].wrapping_add(s2));
            s2 = s2.wrapping_add(pair[1].wrapping_add(s1));
        }
        self.header[10..].copy_from_slice(&[s1, s2]);
        let region = view.region(0, false).unwrap();
        for i in 0..24 {
            region.set_word(i, self.header[i % 12]);
        }
    }

    /// `sqlite3WalUndo`: the pages that the cache must drop.
    pub fn undo(&mut self, view: &mut View) -> Vec<u32> {
        let max = self.max_frame();
        self.header = super::header_words(view, 0);
        let dropped = (self.max_frame() + 1..=max).map(|frame| frame_page(view, frame)).collect();
        if max != self.max_frame() {
            self.clean_up_hash(view);
        }
        self.rechecksum = 0;
        dropped
    }

    /// `sqlite3WalSavepoint`
    pub fn savepoint(&self) -> Savepoint {
        Savepoint(self.max_frame())
    }

    /// `sqlite3WalSavepointUndo`
    pub fn savepoint_undo(&mut self, view: &mut View, savepoint: Savepoint) {
        if savepoint.0 < self.max_frame() {
            self.header[4] = savepoint.0;
            self.clean_up_hash(view);
            if self.rechecksum > self.max_frame() {
                self.rechecksum = 0;
            }
        }
    }

    /// `walRestartHdr`, in a `wal_checkpoint(TRUNCATE)`.
    pub fn restart_header(&mut self, view: &mut View) {
        self.header[4] = 0;
        self.header[8] = self.header[8].wrapping_add(1);
        self.header[9] = 0x1234_5678;
        self.write_index_header(view);
        let region = view.region(0, false).unwrap();
        region.set_word(24, 0);
        region.set_word(26, 0);
        for word in 27..30 {
            region.set_word(word, u32::MAX);
        }
        region.set_word(32, 0);
    }
}
