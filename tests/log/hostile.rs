//! A log directory that somebody else made: lengths that lie cost neither memory nor time, and are an error with a name.
//! One test, in a process of its own: it measures the memory of the process.

use pwal::internal::disk::LogDirectory;
use pwal::internal::log::ErrorKind;
use pwal::internal::log::format::{BATCH_HEADER_BYTES, DESCRIPTOR_BYTES, SegmentHeader, segment_name};
use pwal::internal::log::recovery::{OpenFacts, open_database};
use pwal::internal::log::salvage::{discard_log, plan};
use pwal::internal::log::scan::{dump_segment, survey};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering::SeqCst;
use support::child;
use support::log::media::Medium;
use support::log::{Files, LogBuilder, Place, RealPlace, stamped};

const ID: u64 = 0xfeed;
const HUGE: u64 = 512 << 30;

/// The first bytes of a batch of commit 1 at this offset, which claims all of the segment, and as many frames as there can be.
fn head(offset: u64, version: u16) -> Vec<u8> {
    let bytes = HUGE - offset;
    let frames = (u32::MAX - BATCH_HEADER_BYTES as u32) / DESCRIPTOR_BYTES as u32;
    let head_bytes = BATCH_HEADER_BYTES as u32 + frames * DESCRIPTOR_BYTES as u32;
    let mut head = vec![0; 4096];
    head[..8].copy_from_slice(b"pwalbtch");
    head[8..10].copy_from_slice(&version.to_le_bytes());
    for (at, word) in [(280, ID), (288, 1), (296, 1), (304, offset), (312, bytes)] {
        head[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
    }
    head[320..324].copy_from_slice(&frames.to_le_bytes());
    head[332..336].copy_from_slice(&head_bytes.to_le_bytes());
    head
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// In a process of its own, whose memory is measured.
#[test]
fn a_sparse_file_whose_lengths_lie_costs_nothing() {
    child::alone("hostile::a_sparse_file_whose_lengths_lie_costs_nothing", measure_sparse_file);
}

fn measure_sparse_file() {
    let log = LogBuilder::new(ID, 1024);
    let files = Files::new(stamped(&[0; 3], 1024, ID, 0)).with(&log.files);
    let header = SegmentHeader {
        log_id: ID,
        block_bytes: 4096,
        page_bytes: 1024,
        segment_bytes: HUGE,
        ordinal: 1,
        first_sequence: 1,
        chain: ID,
    };
    // A few that claim all that follows them, of this version and of the next one, whose descriptors nobody knows.
    for (version, claims) in [(2, 1), (2, 64), (3, 1), (3, 64)] {
        let place = RealPlace::new(&files);
        let name = segment_name(ID, 0);
        let path = place.path().with_file_name("a.db-pwal").join(&name);
        std::fs::write(&path, header.encode()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for block in 1..=claims {
            file.write_all_at(&head(4096 * block, version), 4096 * block).unwrap();
        }
        file.set_len(HUGE).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20, "the file system knows no holes");
        let medium = Medium::new(vec![]);
        let directory: &dyn LogDirectory = &medium.under(place.directory());
        let opened = open_database(directory, &mut *place.database(), OpenFacts::default());
        if version == 3 {
            let error = opened.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains("lengths") && error.to_string().contains(&name), "{error}");
            let discarded = discard_log(directory, &mut *place.database()).unwrap();
            assert_eq!(discarded.unreadable.len(), 1, "{discarded:?}");
        } else {
            // No descriptor is possible: what lies there is no batch.
            opened.unwrap();
        }
        let again = medium.under(place.directory());
        let _ = survey(&again, &place.files().database[..100]);
        let _ = plan(&again, &mut *place.database());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        file.write_all_at(&header.encode(), 0).unwrap();
        file.write_all_at(&head(4096, version), 4096).unwrap();
        file.set_len(HUGE).unwrap();
        let _ = dump_segment(&again, &name);
        let read = medium.read.load(SeqCst);
        println!("version {version}, {claims} claims: {} MiB read, peak {} MiB", read >> 20, peak_memory() >> 20);
        assert!(read < 512 << 20, "{read} bytes are read");
        assert!(peak_memory() < 256 << 20);
    }
}
