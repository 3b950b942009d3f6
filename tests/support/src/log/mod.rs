//! Logs made by hand, byte for byte, and the two disks that they are put on.
pub mod forged;
pub mod history;
pub mod media;

use pwal::internal::disk::sim::SimDisk;
use pwal::internal::disk::{Database, Disk, LogDirectory, RealDisk};
use pwal::internal::log::format::{
    BatchHeader, Certificate, Descriptor, ImageForm, ImagePlace, LogId, OmittedZeros, RECORD_PLACE_BYTES,
    SegmentHeader, batch_head_bytes, block_after, chain_after, encode_batch, image_crc, mask_of, mask_of_first,
    segment_name, spill_name,
};
use pwal::internal::log::stamp::Stamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A page filled with `value`; page 1 with a header of SQLite in WAL mode.
pub fn image(page: u32, value: u64, page_bytes: u32) -> Vec<u8> {
    let mut image: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(page_bytes as usize).collect();
    if page == 1 {
        image[..100].fill(0);
        image[..16].copy_from_slice(b"SQLite format 3\0");
        let stated = if page_bytes == 65536 { 1 } else { page_bytes as u16 };
        image[16..18].copy_from_slice(&stated.to_be_bytes());
        image[18..20].fill(2);
    }
    image
}

/// A database file whose pages are filled with `values`.
pub fn database_of(values: &[u64], page_bytes: u32) -> Vec<u8> {
    values.iter().enumerate().flat_map(|(index, value)| image(index as u32 + 1, *value, page_bytes)).collect()
}

/// The same, stamped.
pub fn stamped(values: &[u64], page_bytes: u32, log_id: LogId, backfill_target: u64) -> Vec<u8> {
    let mut bytes = database_of(values, page_bytes);
    Stamp { log_id, backfill_target }.apply(&mut bytes);
    bytes
}

/// A commit to be written.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// Pages and what fills them.
    pub frames: &'a [(u32, u64)],
    pub database_pages: u32,
    /// D and B of a certificate in the batch.
    pub certificate: Option<(u64, u64)>,
    /// From this frame on the images lie in a spill file.
    pub spill_from: usize,
    pub wants_durable: bool,
    /// The certificate in it counts a frame more than there is.
    pub miscounts: bool,
    /// The images, if they are others than pages filled with a value.
    pub images: &'a [&'a [u8]],
    /// The zeros that they are stored without, in the batch.
    pub omitted: &'a [OmittedZeros],
}

impl Default for Commit<'_> {
    fn default() -> Self {
        Commit {
            frames: &[],
            database_pages: 3,
            certificate: None,
            spill_from: usize::MAX,
            wants_durable: true,
            miscounts: false,
            images: &[],
            omitted: &[],
        }
    }
}

/// The files of one log, grown record by record.
#[derive(Clone, Debug)]
pub struct LogBuilder {
    pub log_id: LogId,
    pub page_bytes: u32,
    pub block_bytes: u32,
    pub segment_bytes: u64,
    pub files: BTreeMap<String, Vec<u8>>,
    /// The segment that is written, and where the next record goes.
    pub segment: u32,
    pub offset: u64,
    pub ordinal: u64,
    pub sequence: u64,
    pub chain: u64,
    pub epoch: u64,
    pub durable: u64,
    pub database_pages: u32,
    pub spills: u32,
    /// Where each commit lies: file name, offset.
    pub places: BTreeMap<u64, (String, u64)>,
    /// The pages of each commit.
    pub pages: BTreeMap<u64, Vec<u32>>,
}

impl LogBuilder {
    /// A log with segment 0 and its header.
    pub fn new(log_id: LogId, page_bytes: u32) -> LogBuilder {
        LogBuilder::with_blocks(log_id, page_bytes, 4096, 64)
    }

    pub fn with_blocks(log_id: LogId, page_bytes: u32, block_bytes: u32, segment_blocks: u64) -> LogBuilder {
        let mut log = LogBuilder {
            log_id,
            page_bytes,
            block_bytes,
            segment_bytes: segment_blocks * u64::from(block_bytes),
            files: BTreeMap::new(),
            segment: 0,
            offset: 0,
            ordinal: 0,
            sequence: 0,
            chain: log_id,
            epoch: 0,
            durable: 0,
            database_pages: 0,
            spills: 0,
            places: BTreeMap::new(),
            pages: BTreeMap::new(),
        };
        log.rotate(0);
        log
    }

    pub fn segment_name(&self) -> String {
        segment_name(self.log_id, self.segment)
    }

    /// Goes on in this segment file, with a header of its own; what lay there stays behind it.
    pub fn rotate(&mut self, segment: u32) {
        self.segment = segment;
        self.ordinal += 1;
        let header = SegmentHeader {
            log_id: self.log_id,
            block_bytes: self.block_bytes,
            page_bytes: self.page_bytes,
            segment_bytes: self.segment_bytes,
            ordinal: self.ordinal,
            first_sequence: self.sequence + 1,
            chain: self.chain,
        };
        let (name, bytes) = (self.segment_name(), self.segment_bytes as usize);
        self.files.entry(name).or_insert_with(|| vec![0; bytes]);
        self.offset = 0;
        self.put(&header.encode());
    }

    /// Writes a record at the tail; the next one goes to the sector after it.
    pub fn put(&mut self, record: &[u8]) {
        let (name, start) = (self.segment_name(), self.offset as usize);
        self.files.get_mut(&name).unwrap()[start..start + record.len()].copy_from_slice(record);
        self.offset += (record.len() as u64).next_multiple_of(RECORD_PLACE_BYTES as u64);
    }

    /// Writes a certificate at the tail; the next record goes to the block after it.
    pub fn put_certificate(&mut self, certificate: &Certificate) {
        let mut record = certificate.encode().to_vec();
        record.resize((block_after(self.offset, self.block_bytes) - self.offset) as usize, 0);
        self.put(&record);
    }

    /// The next record goes to a block.
    pub fn end_block(&mut self) {
        self.offset = self.offset.next_multiple_of(u64::from(self.block_bytes));
    }

    pub fn commit(&mut self, commit: &Commit<'_>) {
        self.sequence += 1;
        let head_bytes = batch_head_bytes(commit.frames.len());
        let (mut images, mut spilled, mut descriptors) = (Vec::<u8>::new(), Vec::<u8>::new(), Vec::new());
        for (index, &(page, value)) in commit.frames.iter().enumerate() {
            let given = commit.images.get(index).map(|image| image.to_vec());
            let image = given.unwrap_or_else(|| image(page, value, self.page_bytes));
            let crc = image_crc(self.log_id, page, self.sequence, &image);
            let mut form = ImageForm::PLAIN;
            let place = if index >= commit.spill_from {
                let offset = spilled.len() as u64;
                spilled.extend(&image);
                ImagePlace::Spill { file: self.spills, offset }
            } else {
                let position = head_bytes + images.len() as u64;
                let omitted = commit.omitted.get(index).copied().unwrap_or_default();
                let mask_of = if self.sequence == 1 { mask_of_first } else { mask_of };
                let (stored_form, stored) = ImageForm::of(&image, omitted, position, mask_of);
                form = stored_form;
                images.extend(&*stored);
                ImagePlace::Batch(position)
            };
            descriptors.push(Descriptor { page, place, form, crc });
        }
        if !spilled.is_empty() {
            self.files.insert(spill_name(self.log_id, self.spills), spilled);
            self.spills += 1;
        }
        let end = self.offset + head_bytes + images.len() as u64;
        let unit = if commit.certificate.is_some() { u64::from(self.block_bytes) } else { RECORD_PLACE_BYTES as u64 };
        let bytes = end.next_multiple_of(unit) - self.offset;
        let mut header = BatchHeader {
            log_id: self.log_id,
            sequence: self.sequence,
            ordinal: self.ordinal,
            offset: self.offset,
            bytes,
            frames: descriptors.len() as u32,
            database_pages: commit.database_pages,
            lane: 0,
            wants_durable: commit.wants_durable,
            time_us: 1_000_000 * self.sequence,
            chain: self.chain,
            certificate: None,
        };
        self.chain = chain_after(&header, &descriptors);
        self.database_pages = commit.database_pages;
        self.pages.insert(self.sequence, commit.frames.iter().map(|(page, _)| *page).collect());
        header.certificate =
            commit.certificate.map(|(durable, backfilled)| self.next_certificate(self.sequence, durable, backfilled));
        if let Some(certificate) = header.certificate.as_mut().filter(|_| commit.miscounts) {
            certificate.frames += 1;
        }
        let mut record = encode_batch(&header, &descriptors).unwrap();
        record.extend(images);
        record.resize(bytes as usize, 0);
        self.places.insert(self.sequence, (self.segment_name(), self.offset));
        self.put(&record);
    }

    /// `count` commits that each fill page 2 with 100 + their number, and page 1 and 3 with the same now and then.
    pub fn commits(&mut self, count: u64) {
        for _ in 0..count {
            let value = 101 + self.sequence;
            let frames = [(2, value), (1 + 2 * (self.sequence as u32 % 2), value)];
            self.commit(&Commit { frames: &frames, ..Commit::default() });
        }
    }

    /// A certificate of its own over everything since the last.
    pub fn certify(&mut self, durable: u64, backfilled: u64) {
        let certificate = self.next_certificate(self.sequence, durable, backfilled);
        self.put_certificate(&certificate);
    }

    /// The same, doubled: B moves by these in the engine.
    pub fn certify_doubled(&mut self, durable: u64, backfilled: u64, page_one: &[u8], behind: u32) {
        self.end_block();
        let certificate = self.next_certificate(self.sequence, durable, backfilled);
        self.put(&certificate.encode_doubled(self.block_bytes, page_one, behind));
    }

    pub fn next_certificate(&mut self, hi: u64, durable: u64, backfilled: u64) -> Certificate {
        self.epoch += 1;
        let sealed = self.pages.range(self.durable + 1..).take_while(|(sequence, _)| **sequence <= hi);
        let pages: Vec<u32> = sealed.flat_map(|(_, pages)| pages.clone()).collect();
        let distinct: BTreeSet<u32> = pages.iter().copied().collect();
        let certificate = Certificate {
            log_id: self.log_id,
            ordinal: self.ordinal,
            offset: self.offset,
            epoch: self.epoch,
            lo: self.durable + 1,
            hi,
            durable,
            backfilled,
            chain: self.chain,
            batches: (hi - self.durable) as u32,
            frames: pages.len() as u64,
            distinct_pages: distinct.len() as u64,
            database_pages: self.database_pages,
            fallback: false,
            clean_end: false,
            lane_frames: if hi > self.durable { vec![pages.len() as u32] } else { vec![] },
            copy: None,
        };
        self.durable = hi;
        certificate
    }

    /// The bytes of the file that commit `sequence` lies in, and its offset there.
    pub fn place(&mut self, sequence: u64) -> (&mut Vec<u8>, usize) {
        let (name, offset) = self.places[&sequence].clone();
        (self.files.get_mut(&name).unwrap(), offset as usize)
    }

    /// The bytes of segment 0.
    pub fn place_of_header(&mut self) -> &mut Vec<u8> {
        self.files.get_mut(&segment_name(self.log_id, 0)).unwrap()
    }

    /// The values of pages 1 to 3 behind the last of `count` such commits on a file that is filled with 0.
    pub fn values_after(count: u64) -> Vec<u64> {
        let mut values = vec![0; 3];
        for sequence in 0..count {
            values[1] = 101 + sequence;
            values[2 * (sequence as usize % 2)] = 101 + sequence;
        }
        values
    }
}

/// A database file and the files of its log directory, to be put on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub database: Vec<u8>,
    /// `None`: there is no directory.
    pub directory: Option<BTreeMap<String, Vec<u8>>>,
}

impl Files {
    pub fn new(database: Vec<u8>) -> Files {
        Files { database, directory: None }
    }

    pub fn with(mut self, files: &BTreeMap<String, Vec<u8>>) -> Files {
        self.directory.get_or_insert_default().extend(files.clone());
        self
    }

    pub fn with_file(mut self, name: impl Into<String>, bytes: &[u8]) -> Files {
        self.directory.get_or_insert_default().insert(name.into(), bytes.to_vec());
        self
    }
}

/// A place that [`Files`] are put on and read back from.
pub trait Place: Debug {
    fn directory(&self) -> Arc<dyn LogDirectory>;
    fn database(&self) -> Box<dyn Database>;
    fn files(&self) -> Files;
    /// The directories beside the database whose names go on behind `-pwal`.
    fn moved_away(&self) -> Vec<String>;
}

/// On the simulated disk, all of it durable.
#[derive(Debug)]
pub struct SimPlace {
    pub disk: SimDisk,
    pub path: PathBuf,
}

impl SimPlace {
    pub fn new(files: &Files) -> SimPlace {
        let place = SimPlace { disk: SimDisk::new(1), path: PathBuf::from("/sim/a.db") };
        drop(place.disk.database(&place.path));
        place.disk.edit(&place.path, |bytes| bytes.clone_from(&files.database));
        if let Some(files) = &files.directory {
            let directory = place.disk.directory(&place.path);
            directory.create().unwrap();
            for (name, bytes) in files {
                drop(directory.open_file(name, pwal::internal::disk::OpenMode::CreateNew).unwrap());
                place.disk.edit(&directory.path().join(name), |file| file.clone_from(bytes));
            }
            directory.sync().unwrap();
            directory.sync_parent().unwrap();
        }
        place
    }

    /// Whether a log directory that was moved away has a file of this name.
    pub fn has_moved_away(&self, name: &str) -> bool {
        let mut directories = self.moved_away().into_iter();
        directories.any(|moved| {
            let names = self.disk.names(&PathBuf::from(format!("/sim/a.db-pwal.{moved}")));
            names.is_some_and(|names| names.iter().any(|of| of == name))
        })
    }
}

impl Place for SimPlace {
    fn directory(&self) -> Arc<dyn LogDirectory> {
        self.disk.log_directory(&self.path)
    }

    fn database(&self) -> Box<dyn Database> {
        Box::new(self.disk.database(&self.path))
    }

    fn files(&self) -> Files {
        let (database, _) = self.disk.contents(&self.path).unwrap();
        let directory = self.disk.directory(&self.path);
        let read = |name: String| {
            let (bytes, _) = self.disk.contents(&directory.path().join(&name)).unwrap();
            (name, bytes)
        };
        let names = self.disk.names(directory.path());
        Files { database, directory: names.map(|names| names.into_iter().map(read).collect()) }
    }

    fn moved_away(&self) -> Vec<String> {
        let names = self.disk.names(Path::new("/sim")).unwrap_or_default();
        names.into_iter().filter_map(|name| name.strip_prefix("a.db-pwal.").map(str::to_owned)).collect()
    }
}

/// On the real file system.
#[derive(Debug)]
pub struct RealPlace {
    root: tempfile::TempDir,
}

impl RealPlace {
    pub fn new(files: &Files) -> RealPlace {
        let place = RealPlace { root: tempfile::tempdir().unwrap() };
        fs::write(place.path(), &files.database).unwrap();
        if let Some(files) = &files.directory {
            fs::create_dir(place.root.path().join("a.db-pwal")).unwrap();
            for (name, bytes) in files {
                fs::write(place.root.path().join("a.db-pwal").join(name), bytes).unwrap();
            }
        }
        place
    }

    pub fn path(&self) -> PathBuf {
        self.root.path().join("a.db")
    }
}

impl Place for RealPlace {
    fn directory(&self) -> Arc<dyn LogDirectory> {
        RealDisk.log_directory(&self.path())
    }

    fn database(&self) -> Box<dyn Database> {
        Box::new(RealDatabase { file: OpenOptions::new().read(true).write(true).open(self.path()).unwrap() })
    }

    fn files(&self) -> Files {
        let directory = self.root.path().join("a.db-pwal");
        let read = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        };
        let entries = fs::read_dir(directory).ok();
        Files {
            database: fs::read(self.path()).unwrap(),
            directory: entries.map(|entries| entries.map(read).collect()),
        }
    }

    fn moved_away(&self) -> Vec<String> {
        let names = fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names
            .filter_map(|name| name.into_string().unwrap().strip_prefix("a.db-pwal.").map(str::to_owned))
            .collect();
        names.sort();
        names
    }
}

/// A database file through plain file calls.
#[derive(Debug)]
pub struct RealDatabase {
    pub file: File,
}

impl Database for RealDatabase {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn bytes(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
