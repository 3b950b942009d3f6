//! The format as text dumps: a change of the format shows here, and in the review of `tests/golden`.
//!
//! `PWAL_GOLDEN=write cargo test --test format golden::` writes them anew.

use pwal::internal::log::format::{OmittedZeros, Rule, segment_name};
use pwal::internal::log::scan::{self, dump_segment};
use pwal::internal::log::stamp::Stamp;
use std::fmt::Write;
use std::path::Path;
use support::log::{Commit, Files, LogBuilder, Place, SimPlace, database_of, image, stamped};

const ID: u64 = 0x0123_4567_89ab_cdef;

/// Compares with the golden file, or writes it.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("PWAL_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{name} differs; it is now:\n{text}");
}

/// 16 bytes in a line, runs of equal lines left out.
fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut before: Option<&[u8]> = None;
    let mut skipped = false;
    for (index, line) in bytes.chunks(16).enumerate() {
        if before == Some(line) {
            if !skipped {
                out.push_str("*\n");
            }
            skipped = true;
            continue;
        }
        (before, skipped) = (Some(line), false);
        let _ = write!(out, "{:06x} ", index * 16);
        for byte in line {
            let _ = write!(out, " {byte:02x}");
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{:06x}", bytes.len());
    out
}

/// Every kind of record, in two segments; and where the certificates lie in the first that are in no batch.
fn sample() -> (LogBuilder, [usize; 2]) {
    let mut log = LogBuilder::with_blocks(ID, 1024, 4096, 12);
    log.commits(1);
    let mut images = [image(1, 7, 1024), image(4, 8, 1024)];
    images[1][256..768].fill(0);
    log.commit(&Commit {
        frames: &[(1, 7), (4, 8)],
        images: &[&images[0], &images[1]],
        omitted: &[OmittedZeros::NONE, OmittedZeros::longest_in(&images[1])],
        database_pages: 4,
        certificate: Some((0, 0)),
        ..Commit::default()
    });
    let frames = [(2, 9), (3, 10), (4, 11)];
    log.commit(&Commit {
        frames: &frames,
        database_pages: 4,
        spill_from: 1,
        wants_durable: false,
        ..Commit::default()
    });
    let certificate = log.offset as usize;
    log.certify(2, 0);
    // Batches between two cuts, before one that begins on a block.
    log.commit(&Commit { frames: &[(3, 12)], database_pages: 4, ..Commit::default() });
    let doubled = log.offset.next_multiple_of(4096) as usize;
    log.certify_doubled(3, 2, &image(1, 10, 1024), 0x0a0b_0c0d);
    log.certify(4, 2);
    log.rotate(1);
    log.commit(&Commit { frames: &[(2, 12)], database_pages: 4, ..Commit::default() });
    let (bytes, at) = log.place(5);
    bytes[at + 400] ^= 1;
    log.put(&[0xee; 4096]);
    (log, [certificate, doubled])
}

#[test]
fn segments_as_text() {
    let (log, _) = sample();
    let place = SimPlace::new(&Files::new(stamped(&[0; 3], 1024, ID, 2)).with(&log.files).with_file("lock", b""));
    let directory = place.directory();
    let mut text = String::new();
    for segment in 0..2 {
        text += &dump_segment(&*directory, &segment_name(ID, segment)).unwrap();
    }
    golden("segments.txt", &text);
    assert!(dump_segment(&*directory, "lock").is_err());
}

#[test]
fn records_byte_for_byte() {
    let (log, [certificate, doubled]) = sample();
    let segment = &log.files[&segment_name(ID, 0)];
    golden("segment_header.hex", &hex(&segment[..128]));
    let (_, batch) = log.places[&2];
    golden("batch_with_certificate.hex", &hex(&segment[batch as usize..][..344 + 48 + 32]));
    let (_, spilled) = log.places[&3];
    golden("batch_with_spill.hex", &hex(&segment[spilled as usize..][..344 + 72 + 32]));
    golden("certificate.hex", &hex(&segment[certificate..][..288]));
    for (name, at) in [("doubled_first.hex", doubled), ("doubled_second.hex", doubled + 4096)] {
        golden(name, &hex(&segment[at..][..448]));
    }
    let mut header = database_of(&[0], 1024);
    Stamp { log_id: ID, backfill_target: 77 }.apply(&mut header);
    golden("stamp.hex", &hex(&header[..112]));
}

#[test]
fn the_survey_finds_what_the_dump_shows() {
    let (log, _) = sample();
    let place = SimPlace::new(&Files::new(stamped(&[0; 3], 1024, ID, 2)).with(&log.files).with_file("x", b""));
    let survey = scan::survey(&*place.directory(), &place.files().database).unwrap();
    assert_eq!(survey.foreign, ["x"]);
    let [found] = survey.logs.as_slice() else { panic!("{survey:?}") };
    assert_eq!((found.backfilled, found.durable, found.last), (2, 4, 4));
    assert_eq!(found.commits.iter().map(|commit| commit.sequence).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(found.certificates.len(), 5);
    assert!(found.certificates[0].in_batch && found.certificates[4].certificate.is_mark());
    assert_eq!(found.segments.iter().map(|segment| segment.batches).collect::<Vec<_>>(), [4, 1]);
    assert_eq!(found.torn_tail.as_ref().unwrap().offset, 4096 + 344 + 24);
    assert_eq!(found.findings, []);
    let after = place.files();
    assert_eq!(after.directory.unwrap().len(), log.files.len() + 1);
}

#[test]
fn every_rule_is_in_the_specification() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap();
    for rule in Rule::ALL {
        assert!(text.contains(&format!("| {} |", rule.number())), "{} is not in docs/format.md", rule.number());
    }
    for row in pwal::internal::log::decide::ROWS {
        assert!(text.contains(row.name), "the row {} is not in docs/format.md", row.name);
    }
    for rule in ["L1", "L2", "L3", "L4", "W1", "W2", "W3", "W4", "W5", "E1", "E2", "E3"] {
        assert!(text.contains(&format!("| {rule} |")), "{rule} is not in docs/format.md");
    }
}
