//! Records whose CRC fits and whose fields are impossible are none (rules S3, S4, B5, B6, B7, C3).

use super::ID;
use pwal::internal::log::format::{
    BATCH_HEADER_BYTES, BatchPlace, Certificate, CertificatePlace, OmittedZeros, SegmentHeader, decode_batch,
    segment_name,
};
use support::log::{Commit, LogBuilder};

const CERTIFICATE: usize = 16;

/// A change of a record before its CRC is made anew.
type Change<'a> = (usize, &'a [u8]);

fn log() -> LogBuilder {
    let mut log = LogBuilder::new(ID, 1024);
    log.commit(&Commit { frames: &[(2, 5)], certificate: Some((0, 0)), ..Commit::default() });
    log.certify(1, 0);
    log
}

fn put(bytes: &mut [u8], (at, new): Change<'_>) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

#[test]
fn a_segment_header() {
    let log = log();
    let header = &log.files[&segment_name(ID, 0)][..4096];
    assert!(SegmentHeader::decode(header, ID).is_ok());
    for change in [(12, &[1, 16][..]), (16, &[1, 2]), (20, &[1]), (40, &[0]), (48, &[0]), (32, &[1])] {
        let mut header = header.to_vec();
        put(&mut header, change);
        let crc = crc32c::crc32c(&header[..64]);
        header[64..68].copy_from_slice(&crc.to_le_bytes());
        assert!(SegmentHeader::decode(&header, ID).is_err(), "{change:?}");
    }
}

fn seal_certificate(certificate: &mut [u8]) {
    let crc = crc32c::crc32c(&certificate[..252]);
    certificate[252..256].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_certificate() {
    let log = log();
    let place = CertificatePlace { log_id: ID, ordinal: Some(1), offset: 2 * 4096 };
    let certificate = &log.files[&segment_name(ID, 0)][2 * 4096..2 * 4096 + 256];
    assert!(Certificate::decode(certificate, &place).is_ok());
    // Epoch, lo, D beyond hi, B beyond D, reserved bytes.
    for change in [(24, &[0][..]), (32, &[0]), (48, &[9]), (56, &[9]), (78, &[1])] {
        let mut certificate = certificate.to_vec();
        put(&mut certificate, change);
        seal_certificate(&mut certificate);
        assert!(Certificate::decode(&certificate, &place).is_err(), "{change:?}");
    }
}

fn expect_no_batch(certificate: Option<(u64, u64)>, changes: &[Change<'_>]) {
    let mut log = LogBuilder::new(ID, 1024);
    log.commit(&Commit { frames: &[(2, 5)], certificate, ..Commit::default() });
    let segment_bytes = log.segment_bytes;
    let place = BatchPlace { log_id: ID, ordinal: 1, offset: 4096, block_bytes: 4096, page_bytes: 1024, segment_bytes };
    let head = &log.files[&segment_name(ID, 0)][4096..4096 + BATCH_HEADER_BYTES + 24];
    assert!(decode_batch(head, &place).is_ok());
    for change in changes {
        let mut head = head.to_vec();
        put(&mut head, *change);
        if certificate.is_some() {
            seal_certificate(&mut head[CERTIFICATE..CERTIFICATE + 256]);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &head[16..]);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        assert!(decode_batch(&head, &place).is_err(), "{change:?}");
    }
}

#[test]
fn the_head_of_a_batch() {
    // The commit, the size, reserved bytes, the room of a certificate that is none.
    expect_no_batch(None, &[(288, &[0]), (324, &[0]), (330, &[1]), (CERTIFICATE, &[1])]);
}

#[test]
fn a_descriptor() {
    // The page, a place in the head, and one behind the batch.
    let at = BATCH_HEADER_BYTES;
    expect_no_batch(None, &[(at, &[0]), (at + 8, &[8, 0]), (at + 8, &[0, 64])]);
}

#[test]
fn zeros_that_are_left_out() {
    // They begin somewhere and are none; are the whole page; end after it; begin after it.
    let at = BATCH_HEADER_BYTES + 20;
    expect_no_batch(
        None,
        &[(at, &[1]), (at, &[0, 0, 128]), (at, &[126, 0, 3]), (at, &[255, 255, 1]), (at, &[0, 0, 255, 255])],
    );
}

/// What is stored of an image ends in the batch, wherever the page would.
#[test]
fn an_image_without_zeros_may_lie_at_the_end_of_a_batch() {
    let mut image = support::log::image(2, 5, 4096);
    image[1024..3072].fill(0);
    let omitted = OmittedZeros::longest_in(&image);
    let mut log = LogBuilder::new(ID, 4096);
    log.commit(&Commit { frames: &[(2, 5)], images: &[&image], omitted: &[omitted], ..Commit::default() });
    assert_eq!((omitted.range(), log.offset), (1024..3072, 4096 + 2560));
    let segment_bytes = log.segment_bytes;
    let place = BatchPlace { log_id: ID, ordinal: 1, offset: 4096, block_bytes: 4096, page_bytes: 4096, segment_bytes };
    let head = &log.files[&segment_name(ID, 0)][4096..4096 + BATCH_HEADER_BYTES + 24];
    assert_eq!(decode_batch(head, &place).unwrap().descriptors[0].form.omitted, omitted);
    // One word fewer, and it ends after the batch: 2560 - 368 - 2048 = 144 bytes are free there.
    for (words, is_valid) in [(256 - 18, true), (256 - 19, false)] {
        let mut head = head.to_vec();
        put(&mut head, (BATCH_HEADER_BYTES + 22, &u16::to_le_bytes(words)));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &head[16..]);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_batch(&head, &place).is_ok(), is_valid, "{words}");
    }
}

#[test]
fn the_certificate_in_a_batch() {
    // The last commit, and the chain value behind it.
    expect_no_batch(Some((0, 0)), &[(CERTIFICATE + 40, &[9]), (CERTIFICATE + 64, &[1, 2, 3])]);
}

/// What it calls durable is in no block that is written again.
#[test]
fn a_batch_with_a_certificate_ends_on_a_block() {
    for certificate in [None, Some((0, 0))] {
        let mut log = LogBuilder::with_blocks(ID, 1024, 512, 64);
        log.commits(1);
        log.commit(&Commit { frames: &[(2, 5)], certificate, ..Commit::default() });
        let (segment_bytes, end) = (log.segment_bytes, log.offset);
        assert_ne!(end % 4096, 0);
        let (bytes, at) = log.place(2);
        let place =
            BatchPlace { log_id: ID, ordinal: 1, offset: at as u64, block_bytes: 512, page_bytes: 1024, segment_bytes };
        assert!(decode_batch(&bytes[at..], &place).is_ok());
        let decoded = decode_batch(&bytes[at..], &BatchPlace { block_bytes: 4096, ..place });
        assert_eq!(decoded.is_ok(), certificate.is_none());
    }
}
