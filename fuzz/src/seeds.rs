//! The inputs that a target begins with: the goldens, and logs with every kind of record.

use crate::images;
use pwal::internal::log::format::{OmittedZeros, marker_name};
use std::path::Path;
use support::log::{Commit, Files, LogBuilder, image, stamped};

/// Writes them where `PWAL_FUZZ_SEEDS` says.
pub fn write(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    if let Some(place) = std::env::var_os("PWAL_FUZZ_SEEDS") {
        for (nth, seed) in seeds().iter().enumerate() {
            std::fs::write(Path::new(&place).join(format!("seed-{nth:03}")), seed).expect("the seeds can be written");
        }
    }
}

/// The bytes of a dump in `tests/golden`: 16 in a line, runs of equal lines left out.
fn from_hex(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for line in text.lines().filter(|line| *line != "*") {
        let mut control = line.split_whitespace();
        let at = control.next().map_or(0, |at| usize::from_str_radix(at, 16).expect("an offset"));
        while bytes.len() < at {
            bytes.push(bytes[bytes.len() - 16]);
        }
        bytes.extend(control.map(|byte| u8::from_str_radix(byte, 16).expect("a byte")));
    }
    bytes
}

/// Each golden record for each decoder that may meet it, as it is and with its place and sums put right.
#[must_use]
pub fn records() -> Vec<Vec<u8>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let files = [
        ("segment_header.hex", 0),
        ("certificate.hex", 1),
        ("doubled_first.hex", 1),
        ("doubled_second.hex", 1),
        ("batch_with_certificate.hex", 2),
        ("batch_with_spill.hex", 2),
        ("stamp.hex", 4),
        ("segment_header.hex", 6),
        ("batch_with_spill.hex", 7),
    ];
    let mut seeds = Vec::new();
    for (name, kind) in files {
        let bytes = from_hex(&std::fs::read_to_string(golden.join(name)).expect("the goldens"));
        for flags in [0, 2, 3] {
            seeds.push([&[kind, flags, 1, 1][..], &bytes].concat());
        }
    }
    for name in ["lock", "control", "0123456789abcdef-0001.seg", "0123456789abcdef-0001.spill"] {
        seeds.push([&[5, 0, 0, 0][..], name.as_bytes()].concat());
    }
    seeds.push([&[5, 0, 0, 0][..], marker_name(9, 77).as_bytes()].concat());
    seeds
}

/// Some words in each part of the head.
#[must_use]
pub fn control() -> Vec<Vec<u8>> {
    (0..40_u32)
        .map(|at| [&[0][..], &(at * 13).to_le_bytes(), &[1], &(at * 8).to_le_bytes(), &[254, 3]].concat())
        .collect()
}

/// Logs of several shapes.
#[must_use]
pub fn images() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (page_bytes, target) in [(512, 0), (512, 2), (1024, 3)] {
        let mut log = LogBuilder::with_blocks(0x77, page_bytes, 4096, 10);
        let first = image(1, 0, page_bytes);
        log.certify_doubled(0, 0, &first, 0);
        log.commits(2);
        let frames = [(1, 7), (2, 8), (3, 9)];
        log.commit(&Commit { frames: &frames, spill_from: 2, certificate: Some((1, 0)), ..Commit::default() });
        let mut without_zeros = image(2, 9, page_bytes);
        without_zeros[64..256].fill(0);
        let omitted = [OmittedZeros::longest_in(&without_zeros)];
        let frames = [(2, 9)];
        log.commit(&Commit {
            frames: &frames,
            images: &[&without_zeros],
            omitted: &omitted,
            certificate: Some((3, 0)),
            ..Commit::default()
        });
        log.certify(4, 1);
        log.rotate(1);
        log.commits(2);
        log.certify_doubled(4, target, &image(1, 7, page_bytes), 0);
        let files = Files::new(stamped(&[0; 3], page_bytes, 0x77, target)).with(&log.files);
        seeds.push(images::write(&files, 0));
        let mut other = LogBuilder::with_blocks(0xfeed, page_bytes, 4096, 4);
        other.commits(1);
        seeds.push(images::write(&files.clone().with(&other.files), 7));
        seeds.push(images::write(&files.with_file(marker_name(0x77, 6), b"").with_file("lock", b""), 0));
    }
    seeds
}

/// Scripts are bytes of any kind.
#[must_use]
pub fn histories() -> Vec<Vec<u8>> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..64).map(|_| (0..96).map(|_| next()).collect()).collect()
}
