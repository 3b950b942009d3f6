//! The lane: where images lie, what stays for the next transaction, and a spill file that fails.

use super::log::{Log, content, image};
use super::{no_spill, spill_on};
use crate::disk::LogFile;
use crate::disk::sim::SimDisk;
use crate::log::format::image_crc;
use crate::view::{Image, View, ViewError, Written};
use std::io;
use std::sync::Arc;

struct Writer {
    view: View,
    disk: SimDisk,
    file: Arc<dyn LogFile>,
    opened: u32,
    page_bytes: u32,
}

impl Writer {
    fn new(page_bytes: u32, lane_bytes: usize) -> Writer {
        let log = Log::new(1);
        let mut view = View::new(page_bytes, lane_bytes);
        view.refresh(&log, log.snapshot(0), 1000);
        view.begin_write(5, 1);
        let disk = SimDisk::new(1);
        let file = spill_on(&disk).unwrap();
        Writer { view, disk, file, opened: 0, page_bytes }
    }

    fn offset(&self, index: u64) -> u64 {
        32 + (index + 1) * u64::from(self.page_bytes + 24)
    }

    fn header(&mut self, index: u64, page: u32, database_pages: u32) -> Result<Written, ViewError> {
        let mut header = [0; 24];
        header[..4].copy_from_slice(&page.to_be_bytes());
        header[4..8].copy_from_slice(&database_pages.to_be_bytes());
        self.view.write(&header, self.offset(index), &mut no_spill)
    }

    fn image(&mut self, index: u64, content: u64) -> Result<Written, ViewError> {
        let offset = self.offset(index) + 24;
        let (file, opened) = (&self.file, &mut self.opened);
        self.view.write(&image(content, self.page_bytes), offset, &mut || {
            *opened += 1;
            Ok(Arc::clone(file))
        })
    }

    fn frame(&mut self, index: u64, page: u32, content: u64) -> Result<Written, ViewError> {
        self.header(index, page, 0)?;
        self.image(index, content)
    }

    fn contents(&self) -> Vec<(u32, u64)> {
        let lane = self.view.lane();
        let mut buffer = vec![0; self.page_bytes as usize];
        lane.frames()
            .map(|frame| {
                match frame.image {
                    Image::Memory(image) => buffer.copy_from_slice(image),
                    Image::Spill(offset) => {
                        assert_eq!(self.file.read_at(&mut buffer, offset).unwrap(), buffer.len());
                    }
                }
                assert_eq!(frame.crc, image_crc(5, frame.page, 1, &buffer));
                (frame.page, content(&buffer))
            })
            .collect()
    }
}

#[test]
fn frames_beyond_the_limit_are_spilled_densely() {
    for (page_bytes, lane_bytes, in_memory) in [(512, 1536, 3), (512, 2000, 3), (4096, 1, 1), (65536, 140_000, 2)] {
        let mut writer = Writer::new(page_bytes, lane_bytes);
        for i in 0..6 {
            writer.frame(i, 10 + i as u32, i).unwrap();
        }
        let lane = writer.view.lane();
        assert_eq!((lane.len(), lane.memory_frames()), (6, in_memory));
        assert_eq!(lane.frames().nth(in_memory).unwrap().image, Image::Spill(0));
        assert_eq!(lane.frames().nth(5).unwrap().image, Image::Spill((5 - in_memory as u64) * u64::from(page_bytes)));
        assert_eq!(lane.frames().nth(6), None);
        assert_eq!(writer.opened, 1);
        assert_eq!(writer.file.bytes().unwrap(), (6 - in_memory as u64) * u64::from(page_bytes));
        let expected: Vec<(u32, u64)> = (0..6).map(|i| (10 + i as u32, i)).collect();
        assert_eq!(writer.contents(), expected);
    }
}

#[test]
fn overwritten_in_place() {
    let mut writer = Writer::new(512, 1024);
    for i in 0..4 {
        writer.frame(i, 10 + i as u32, i).unwrap();
    }
    assert_eq!(writer.image(1, 71).unwrap(), Written::Staged);
    assert_eq!(writer.image(2, 72).unwrap(), Written::Staged);
    assert_eq!(writer.contents(), [(10, 0), (11, 71), (12, 72), (13, 3)]);
}

#[test]
fn a_lower_header_with_its_image_drops_what_was_behind() {
    for (index, expected) in
        [(3, vec![(10, 0), (11, 1), (12, 2), (99, 9)]), (1, vec![(10, 0), (99, 9)]), (0, vec![(99, 9)])]
    {
        let mut writer = Writer::new(512, 1024);
        for i in 0..5 {
            writer.frame(i, 10 + i as u32, i).unwrap();
        }
        writer.header(index, 99, 0).unwrap();
        // Not before the image is there.
        assert_eq!(writer.view.lane().len(), 5);
        writer.image(index, 9).unwrap();
        assert_eq!(writer.contents(), expected);
        writer.frame(index + 1, 100, 10).unwrap();
        assert_eq!(writer.contents().last(), Some(&(100, 10)));
        assert_eq!(writer.contents().len(), expected.len() + 1);
    }
}

#[test]
fn a_header_alone_changes_nothing_but_the_header() {
    let mut writer = Writer::new(512, 1024);
    for i in 0..3 {
        writer.frame(i, 10 + i as u32, i).unwrap();
    }
    writer.header(3, 1, 44).unwrap();
    assert_eq!(writer.image(3, 3).unwrap(), Written::Commit { database_pages: 44 });
    let before = writer.contents();
    for (index, page, pages) in [(1, 11, 0), (2, 12, 0), (3, 1, 44)] {
        assert_eq!(writer.header(index, page, pages).unwrap(), Written::Staged);
    }
    assert_eq!(writer.contents(), before);
    let mut header = [0; 24];
    writer.view.read::<()>(&mut header, writer.offset(3), &mut |_, _, _, _| Ok(())).unwrap();
    assert_eq!(header[..8], [0, 0, 0, 1, 0, 0, 0, 44]);
    // A commit that was answered BUSY starts over.
    writer.header(3, 1, 45).unwrap();
    assert_eq!(writer.image(3, 5).unwrap(), Written::Commit { database_pages: 45 });
    assert_eq!(writer.contents()[3], (1, 5));
}

#[test]
fn headers_are_read_back_as_written() {
    let mut writer = Writer::new(512, 1024);
    let header = |writer: &Writer, index| {
        let mut header = [0xaa; 24];
        writer.view.read::<()>(&mut header, writer.offset(index), &mut |_, _, _, _| Ok(())).unwrap();
        header
    };
    writer.frame(0, 10, 0).unwrap();
    writer.header(1, 1, 44).unwrap();
    writer.image(1, 1).unwrap();
    // Refused, and more is spilled instead: the frame ends no commit any more.
    writer.frame(1, 1, 1).unwrap();
    assert_eq!(header(&writer, 1)[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
    // Without sums at first (`iReCksum` is set), then rewritten with salt and sums.
    assert_eq!(header(&writer, 0)[8..], [0; 16]);
    let mut again = header(&writer, 0);
    again[8..].copy_from_slice(b"saltsaltchecksum");
    writer.view.write(&again, writer.offset(0), &mut no_spill).unwrap();
    assert_eq!(header(&writer, 0), again);
    assert_eq!(header(&writer, 1)[8..], [0; 16]);
}

#[test]
fn a_header_belongs_to_the_image_of_its_frame_only() {
    let mut writer = Writer::new(512, 1024);
    for i in 0..3 {
        writer.frame(i, 10 + i as u32, i).unwrap();
    }
    writer.header(2, 99, 44).unwrap();
    assert_eq!(writer.image(1, 71).unwrap(), Written::Staged);
    assert_eq!(writer.image(2, 72).unwrap(), Written::Staged);
    assert_eq!(writer.contents(), [(10, 0), (11, 71), (12, 72)]);
}

#[test]
fn memory_stays_for_the_next_transaction() {
    let mut writer = Writer::new(4096, 1 << 20);
    let place = |writer: &Writer, index| match writer.view.lane().frames().nth(index).unwrap().image {
        Image::Memory(image) => image.as_ptr(),
        Image::Spill(_) => panic!("the lane has room"),
    };
    for i in 0..100 {
        writer.frame(i, 1, i).unwrap();
    }
    let places = [0, 16, 99].map(|index| place(&writer, index));
    writer.view.rolled_back();
    writer.view.begin_write(5, 1);
    for i in 0..100 {
        writer.frame(i, 1, 7).unwrap();
    }
    assert_eq!([0, 16, 99].map(|index| place(&writer, index)), places);
    assert_eq!(writer.view.lane().memory_pieces().map(<[u8]>::len).sum::<usize>(), 100 * 4096);
    assert!(writer.contents().iter().all(|&frame| frame == (1, 7)));
}

#[test]
fn another_limit_counts_from_the_next_transaction() {
    let mut writer = Writer::new(512, 70_000);
    for (limit, in_memory) in [(1024, 2), (140_000, 200), (0, 1), (512 * 130, 130)] {
        writer.view.rolled_back();
        writer.view.set_lane_bytes_max(limit);
        writer.view.begin_write(5, 1);
        for i in 0..200 {
            writer.frame(i, 1 + i as u32, i).unwrap();
            writer.view.set_lane_bytes_max(10_000_000);
        }
        assert_eq!(writer.view.lane().memory_frames(), in_memory);
        let expected: Vec<(u32, u64)> = (0..200).map(|i| (1 + i as u32, i)).collect();
        assert_eq!(writer.contents(), expected);
    }
}

#[test]
fn a_full_disk_ends_the_transaction() {
    let mut writer = Writer::new(512, 512);
    for i in 0..3 {
        writer.frame(i, 1, i).unwrap();
    }
    writer.disk.set_capacity(Some(0));
    let full = writer.frame(3, 1, 3);
    assert!(matches!(&full, Err(ViewError::Spill(error)) if error.kind() == io::ErrorKind::StorageFull));
    writer.disk.set_capacity(None);
    // What is in the file is not known any more: nothing may be committed from it.
    assert!(matches!(writer.frame(3, 1, 3), Err(ViewError::SpillFailedBefore)));
    assert!(matches!(writer.image(0, 3), Err(ViewError::SpillFailedBefore)));
    writer.view.rolled_back();
    writer.view.begin_write(5, 1);
    writer.frame(0, 1, 0).unwrap();
    writer.frame(1, 1, 1).unwrap();
    assert_eq!(writer.opened, 2);
}

#[test]
fn a_spill_file_that_cannot_be_opened() {
    let mut writer = Writer::new(512, 512);
    writer.frame(0, 1, 0).unwrap();
    writer.header(1, 2, 0).unwrap();
    let offset = writer.offset(1) + 24;
    let refused = writer.view.write(&[0; 512], offset, &mut || Err(io::ErrorKind::PermissionDenied.into()));
    assert!(matches!(refused, Err(ViewError::Spill(_))));
    assert_eq!(writer.view.lane().len(), 1);
}
