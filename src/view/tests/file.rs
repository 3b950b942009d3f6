//! The virtual WAL file: reads at any place, and the writes that are refused.

use super::log::{Log, image};
use super::{header_words, no_spill, open_spill};
use crate::view::{ReadError, View, ViewError, Written};

const PAGE: usize = 512;

fn header(page: u32, database_pages: u32) -> [u8; 24] {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&page.to_be_bytes());
    header[4..8].copy_from_slice(&database_pages.to_be_bytes());
    header[8..].copy_from_slice(b"saltsaltchecksum");
    header
}

fn frame_at(frame: u64) -> u64 {
    32 + (frame - 1) * (PAGE as u64 + 24)
}

fn page_at(frame: u64) -> u64 {
    frame_at(frame) + 24
}

/// Three frames of a snapshot (pages 2, 3, 2) and a lane with pages 7 and 8 (in the spill file).
fn sample() -> (View, Log) {
    let mut log = Log::new(9);
    log.commit([(2, 0x22), (3, 0x33), (2, 0x44)], 9);
    let mut view = View::new(PAGE as u32, PAGE);
    view.refresh(&log, log.snapshot(0), 1000);
    view.refresh(&log, log.snapshot(1), 1000);
    assert_eq!(view.max_frame(), 4);
    view.begin_write(1, 2);
    for (frame, page, content) in [(5, 7, 0x77), (6, 8, 0x88)] {
        view.write(&header(page, 0), frame_at(frame), &mut open_spill).unwrap();
        assert_eq!(view.write(&image(content, 512), page_at(frame), &mut open_spill).unwrap(), Written::Staged);
    }
    (view, log)
}

fn read(view: &View, log: &Log, buffer: &mut [u8], offset: u64) -> Result<(), ReadError<()>> {
    view.read(buffer, offset, &mut |number, page, at, part| {
        let image = image(log.image(number, page), 512);
        part.copy_from_slice(&image[at as usize..at as usize + part.len()]);
        Ok(())
    })
}

#[test]
fn reads_at_any_place() {
    let (view, log) = sample();
    let mut whole = vec![0xaa; view.wal_bytes() as usize];
    read(&view, &log, &mut whole, 0).unwrap();
    assert_eq!(whole.len() as u64, frame_at(7));
    let pages = [(1_u32, log.in_database(1)), (2, 0x22), (3, 0x33), (2, 0x44), (7, 0x77), (8, 0x88)];
    for (frame, (page, content)) in (1..).zip(pages) {
        let at = frame_at(frame) as usize;
        let head = if page < 7 { [&page.to_be_bytes()[..], &[0; 20]].concat() } else { header(page, 0).to_vec() };
        assert_eq!(whole[at..at + 24], head, "header of frame {frame}");
        assert_eq!(whole[at + 24..at + 24 + PAGE], image(content, 512), "image of frame {frame}");
    }
    for length in [0, 1, 7, 8, 24, 25, 512, 535, 536, 537, 1100] {
        for offset in (0..whole.len()).step_by(if length < 30 { 1 } else { 7 }) {
            let mut buffer = vec![0xaa; length];
            let end = offset + length;
            let result = read(&view, &log, &mut buffer, offset as u64);
            let inside = &whole[offset..end.min(whole.len())];
            assert_eq!(&buffer[..inside.len()], inside, "{length} bytes at {offset}");
            assert!(buffer[inside.len()..].iter().all(|&b| b == 0));
            // Frame headers behind the end are zeros, images there an error.
            assert_eq!(result.is_ok(), end <= whole.len() + 24, "{length} bytes at {offset}");
        }
    }
}

#[test]
fn the_header_is_a_valid_one() {
    let (mut view, log) = sample();
    let mut header = [0; 32];
    read(&view, &log, &mut header, 0).unwrap();
    let field = |i: usize| u32::from_be_bytes(header[4 * i..4 * i + 4].try_into().unwrap());
    assert_eq!([field(0) & !1, field(1), field(2), field(3)], [0x377f_0682, 3_007_000, 512, 0]);
    let big = field(0) & 1 == 1;
    let (mut s1, mut s2) = (0_u32, 0_u32);
    for i in [0, 2, 4] {
        let word = |i| if big { field(i) } else { field(i).swap_bytes() };
        s1 = s1.wrapping_add(word(i)).wrapping_add(s2);
        s2 = s2.wrapping_add(word(i + 1)).wrapping_add(s1);
    }
    assert_eq!([field(6), field(7)], [s1, s2]);
    let salt: Vec<u8> = header_words(&mut view, 0)[8..10].iter().flat_map(|w| w.to_ne_bytes()).collect();
    assert_eq!(header[16..24], salt);
}

#[test]
fn errors_of_the_image_are_passed_on() {
    let (view, _) = sample();
    let failed = view.read(&mut [0; 512], page_at(2), &mut |_, _, _, _| Err("broken"));
    assert!(matches!(failed, Err(ReadError::Image("broken"))));
}

#[test]
fn what_is_no_frame_is_refused() {
    let (mut view, _) = sample();
    let lane = view.lane().len();
    let mut write = |data: &[u8], offset| view.write(data, offset, &mut open_spill);
    assert!(matches!(write(&[0; 32], 0), Err(ViewError::Misplaced { .. })), "the WAL header");
    assert!(matches!(write(&[1; 23], frame_at(7)), Err(ViewError::Misplaced { .. })));
    assert!(matches!(write(&[1; 24], frame_at(7) + 1), Err(ViewError::Misplaced { .. })));
    assert!(matches!(write(&header(1, 0), frame_at(8)), Err(ViewError::Gap { frame: 8, expected: 7 })));
    assert!(matches!(write(&header(1, 0), u64::MAX), Err(ViewError::Misplaced { .. } | ViewError::Gap { .. })));
    assert!(matches!(write(&header(0, 0), frame_at(7)), Err(ViewError::PageZero { frame: 7 })));
    assert!(matches!(write(&header(1, 0), frame_at(4)), Err(ViewError::Committed { frame: 4 })));
    assert!(matches!(write(&[0; 512], page_at(4)), Err(ViewError::Committed { frame: 4 })));
    assert!(matches!(write(&[0; 512], page_at(7)), Err(ViewError::NoHeader { frame: 7 })));
    assert!(matches!(write(&[0; 512], page_at(9)), Err(ViewError::NoHeader { frame: 9 })));
    for bytes in [0, 1, 511, 513, 1024] {
        write(&header(1, 0), frame_at(7)).unwrap();
        let wrong = write(&vec![0; bytes], page_at(7));
        assert!(matches!(wrong, Err(ViewError::ImageBytes { frame: 7, .. })), "{bytes}");
    }
    // The header went with the image that was refused.
    assert!(matches!(write(&[0; 512], page_at(7)), Err(ViewError::NoHeader { frame: 7 })));
    assert_eq!(view.lane().len(), lane);
    view.rolled_back();
    let outside = view.write(&header(1, 0), frame_at(5), &mut no_spill);
    assert!(matches!(outside, Err(ViewError::NotWriting { .. })));
}

#[test]
fn a_frame_that_went_away_is_not_zeros() {
    let (mut view, log) = sample();
    view.rolled_back();
    let gone = read(&view, &log, &mut [0xaa; 512], page_at(5));
    assert!(matches!(gone, Err(ReadError::BehindEnd { frame: 5 })));
    assert_eq!(view.wal_bytes(), frame_at(5));
}
