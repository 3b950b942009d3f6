//! Images that are stored without their zeros: which commits write such, and who reads them.

use super::{BLOCK, PAGES, Pair, WITH_ZEROS, commit, die, image, sim_path};
use crate::engine::Engine;
use std::sync::Arc;

/// What the log grows by, in bytes.
fn grown(engine: &Arc<Engine>, frames: usize, value: u64, wants_durable: bool) -> u64 {
    let before = engine.log.tail();
    commit(engine, frames, value, wants_durable).unwrap();
    let after = engine.log.tail();
    assert_eq!(before.ordinal, after.ordinal);
    after.offset - before.offset
}

#[test]
fn zeros_are_left_out_where_a_batch_with_its_certificate_needs_fewer_blocks_then() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 1, 1, true).unwrap();
    assert_eq!(grown(&one, 1, 2, true), 2 * BLOCK);
    assert_eq!(grown(&one, 1, WITH_ZEROS | 3, true), BLOCK);
    // 392 bytes, and of each image 1536 of 4096.
    assert_eq!(grown(&one, 2, 4, true), 3 * BLOCK);
    assert_eq!(grown(&one, 2, WITH_ZEROS | 5, true), BLOCK);
    // Without a certificate batches lie packed.
    assert_eq!(grown(&one, 1, WITH_ZEROS | 6, false), BLOCK + 512);
    die(one);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [WITH_ZEROS | 6, WITH_ZEROS | 5, 0]);
    let (bytes, _) = pair.disk.contents(&sim_path()).unwrap();
    assert!(bytes[4096..8192] == image(2, WITH_ZEROS | 5));
}

#[test]
fn a_large_commit_has_its_zeros() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 1, 1, true).unwrap();
    for (frames, bytes) in [(16, 16 * 1536), (17, 17 * 4096)] {
        let (value, before) = (WITH_ZEROS | frames as u64, one.log.tail());
        commit(&one, frames, value, true).unwrap();
        let (after, needed) = (one.log.tail(), (344 + 24 * frames as u64 + bytes).next_multiple_of(BLOCK));
        let begins = if before.ordinal == after.ordinal { before.offset } else { BLOCK };
        assert_eq!(after.offset - begins, needed, "{frames}");
    }
}

/// Any part of an image, from the file: by the process that wrote it, by one that follows the commit ring, by one that joins later.
#[test]
fn every_process_reads_images_without_their_zeros() {
    let pair = Pair::new();
    let one = pair.claim();
    let other = pair.join();
    let value = WITH_ZEROS | 7;
    commit(&one, PAGES as usize, 1, true).unwrap();
    commit(&one, PAGES as usize, value, true).unwrap();
    let late = pair.join();
    for engine in [&one, &other, &late] {
        let sequence = engine.log.marks.published();
        engine.reader.index_pages();
        for page in 1..=PAGES {
            let number = engine.reader.newest_of(page, sequence).unwrap().unwrap();
            let expected = image(page, value);
            let parts = [(0, 4096), (0, 100), (1000, 48), (1016, 2600), (2000, 8), (3583, 2), (4000, 96), (5, 0)];
            for (offset, bytes) in parts {
                let (frame, file) = engine.frames.read().locate(number).unwrap();
                let mut buffer = vec![0xee; bytes];
                assert!(engine.reader.read_located(&frame, file.as_deref(), offset as u64, &mut buffer).unwrap());
                assert!(buffer == expected[offset..offset + bytes], "page {page}, {bytes} bytes from {offset} on");
            }
        }
    }
    // The pass reads the images of the commit at once, and proves them.
    other.checkpointer.checkpoint_on_request().unwrap();
    let (bytes, _) = pair.disk.contents(&sim_path()).unwrap();
    for page in 2..=PAGES {
        let at = (page as usize - 1) * 4096;
        assert!(bytes[at..at + 4096] == image(page, value), "page {page}");
    }
}
