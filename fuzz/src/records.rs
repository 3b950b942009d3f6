//! Every decoder: any bytes give a value or an error; a value has one spelling, the bytes that it was read from.

use crate::input::Input;
use crate::memory;
use pwal::internal::log::format::{
    BATCH_HEADER_BYTES, BatchPlace, CERTIFICATE_BYTES, Certificate, CertificatePlace, DESCRIPTOR_BYTES, FileName,
    HeadDecoder, ImageForm, ImagePlace, OmittedZeros, PageCopy, RECORD_PLACE_BYTES, SEGMENT_HEADER_BYTES,
    SegmentHeader, apply_mask, decode_batch, embedded_certificate, encode_batch, mask_of,
};
use pwal::internal::log::stamp::{self, StampState};
use twox_hash::XxHash3_64;

/// Puts the right CRC on a record, so that what lies behind the check is reached.
pub fn seal(record: &mut [u8]) {
    let crc = match record {
        [b'p', b'w', b'a', b'l', b's', b'l', b'o', b't', ..] if record.len() >= SEGMENT_HEADER_BYTES => {
            Some((64, crc32c::crc32c(&record[..64])))
        }
        [b'p', b'w', b'a', b'l', b'c', b'e', b'r', b't', ..] if record.len() >= CERTIFICATE_BYTES => {
            Some((252, crc32c::crc32c(&record[..252])))
        }
        [b'p', b'w', b'a', b'l', b'b', b't', b'c', b'h', ..] if record.len() >= BATCH_HEADER_BYTES => {
            seal(&mut record[16..16 + CERTIFICATE_BYTES]);
            let claimed = u32_at(record, 332) as usize;
            let head = claimed.clamp(BATCH_HEADER_BYTES, record.len());
            Some((12, crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[16..head])))
        }
        _ => None,
    };
    if let Some((at, crc)) = crc {
        record[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The certificate in a batch also names the chain value behind it, which its bytes say.
pub fn seal_chain(record: &mut [u8]) {
    if record.starts_with(b"pwalbtch") && record.len() >= BATCH_HEADER_BYTES {
        let head = (u32_at(record, 332) as usize).clamp(BATCH_HEADER_BYTES, record.len());
        let chain = XxHash3_64::oneshot(&record[272..head]);
        record[16 + 64..16 + 72].copy_from_slice(&chain.to_le_bytes());
    }
}

/// One input: which decoder, where, and the bytes.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, flags) = (input.u8() % 8, input.u8());
    let page_bytes = 512_u32 << (input.u8() % 8);
    let place = BatchPlace {
        log_id: 0x77,
        ordinal: 1 + u64::from(flags >> 4),
        offset: 4096 * u64::from(input.u8()),
        block_bytes: 4096 << (flags >> 2 & 3),
        page_bytes,
        segment_bytes: 1 << 24,
    };
    let mut bytes = input.rest().to_vec();
    if flags & 1 != 0 {
        name_place(&mut bytes, &place);
    }
    if flags & 2 != 0 {
        seal_chain(&mut bytes);
        seal(&mut bytes);
    }
    let most = 4096 + 64 * bytes.len() + (1 << 18);
    memory::within(most, "a decoder", || match kind {
        0 => segment_header(&bytes),
        1 => certificate(&bytes, &place.of_certificate()),
        2 | 3 => batch(&bytes, &place, 1 + usize::from(flags >> 5)),
        4 => header_of_database(&bytes),
        5 => name(&bytes),
        6 => {
            mask(&bytes, 8 * u64::from(flags));
            form(&bytes, 8 * u64::from(flags));
        }
        _ => copy(&bytes, place.block_bytes, flags),
    });
}

/// Puts log id and place where a record has them.
pub fn name_place(bytes: &mut [u8], place: &BatchPlace) {
    let words: &[(usize, u64)] = match bytes {
        [b'p', b'w', b'a', b'l', b's', ..] => &[(32, place.log_id)],
        [b'p', b'w', b'a', b'l', b'c', ..] => &[(16, place.log_id), (224, place.ordinal), (232, place.offset)],
        [b'p', b'w', b'a', b'l', b'b', ..] => {
            &[(280, place.log_id), (296, place.ordinal), (304, place.offset), (240, place.ordinal), (248, place.offset)]
        }
        _ => &[],
    };
    for (at, word) in words {
        if let Some(room) = bytes.get_mut(*at..at + 8) {
            room.copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn segment_header(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(bytes, 0x77) {
        assert_eq!(header.encode()[..SEGMENT_HEADER_BYTES], bytes[..SEGMENT_HEADER_BYTES]);
    }
}

fn certificate(bytes: &[u8], place: &CertificatePlace) {
    for place in [*place, CertificatePlace { ordinal: None, ..*place }] {
        if let Ok(certificate) = Certificate::decode(bytes, &place) {
            assert_eq!(certificate.encode()[..], bytes[..CERTIFICATE_BYTES]);
            if let Some(copy) = certificate.copy {
                for blocks in [&bytes[..bytes.len() / 2 * 2], &[&bytes[..CERTIFICATE_BYTES], &[0; 8000]].concat()] {
                    assert!(copy.read(blocks).is_none_or(|copied| copied.len() == copy.bytes as usize));
                }
            }
        }
    }
}

fn batch(bytes: &[u8], place: &BatchPlace, piece: usize) {
    let embedded = embedded_certificate(bytes, &place.of_certificate());
    let whole = decode_batch(bytes, place);
    if let Ok(mut decoder) = HeadDecoder::new(bytes, place) {
        let head_bytes = decoder.claimed().head_bytes;
        if let Some(descriptors) = bytes.get(BATCH_HEADER_BYTES..head_bytes) {
            // In pieces as at once.
            let fed = descriptors.chunks(piece * DESCRIPTOR_BYTES).try_for_each(|piece| decoder.feed(piece));
            assert_eq!(fed.and_then(|()| decoder.finish()), whole);
        }
    }
    let Ok(batch) = whole else { return };
    let embedded = embedded.map(Result::ok);
    assert_eq!(embedded.flatten(), batch.header.certificate);
    let mut again = encode_batch(&batch.header, &batch.descriptors).expect("what was read can be written");
    // That it may have spilled is a flag of its own.
    let has_spills = batch.descriptors.iter().any(|descriptor| matches!(descriptor.place, ImagePlace::Spill { .. }));
    assert!(!has_spills || bytes[10] & 2 != 0);
    again[10] |= bytes[10] & 2;
    seal(&mut again);
    assert_eq!(again[..], bytes[..again.len()]);
}

fn header_of_database(bytes: &[u8]) {
    let _ = (stamp::page_bytes(bytes), stamp::is_database(bytes), stamp::is_stamped(bytes));
    let state = stamp::read(bytes);
    let mut changed = bytes.to_vec();
    if let StampState::Stamped(stamp) = state {
        stamp.apply(&mut changed);
        assert_eq!(changed, bytes);
    }
    stamp::clear(&mut changed);
    let is_whole = bytes.len() >= stamp::DATABASE_HEADER_BYTES;
    assert_eq!(stamp::read(&changed), StampState::Plain { wal: is_whole });
}

fn name(bytes: &[u8]) {
    let Ok(name) = std::str::from_utf8(bytes) else { return };
    if let Some(parsed) = FileName::parse(name) {
        assert_eq!(parsed.to_string(), name);
    }
}

fn mask(bytes: &[u8], position: u64) {
    let bytes = &bytes[..bytes.len() / 8 * 8];
    let mask = mask_of(bytes, position);
    let mut masked = bytes.to_vec();
    apply_mask(&mut masked, position, mask);
    for at in 0..masked.len() {
        let is_place = (position + at as u64).is_multiple_of(RECORD_PLACE_BYTES as u64);
        assert!(!is_place || !masked[at..].starts_with(b"pwal"), "byte {at}");
    }
    apply_mask(&mut masked, position, mask);
    assert_eq!(masked, bytes);
}

/// An image of these bytes is stored without its zeros, and comes back, as do its halves.
fn form(bytes: &[u8], position: u64) {
    let image = &bytes[..bytes.len() / 8 * 8];
    let (form, stored) = ImageForm::of(image, OmittedZeros::longest_in(image), position, mask_of);
    for at in (0..stored.len()).filter(|at| (position + *at as u64).is_multiple_of(RECORD_PLACE_BYTES as u64)) {
        assert!(!stored[at..].starts_with(b"pwal"), "byte {at}");
    }
    for range in [0..image.len(), 0..image.len() / 2, image.len() / 2..image.len()] {
        let (of, mut read) = (form.stored(range.clone()), vec![0xee; range.len()]);
        read[..of.len()].copy_from_slice(&stored[of]);
        form.restore(&mut read, range.start, position);
        assert_eq!(read, image[range]);
    }
}

/// A doubled certificate with these bytes as the beginning of page 1.
fn copy(bytes: &[u8], block_bytes: u32, flags: u8) {
    let pages = (bytes.len() / 512).min(block_bytes as usize / 512) * 512;
    if pages == 0 {
        return;
    }
    let certificate = Certificate {
        log_id: 0x77,
        ordinal: 1,
        offset: 4096,
        epoch: 1,
        lo: 1,
        hi: 1,
        durable: 0,
        backfilled: 0,
        chain: 5,
        batches: 1,
        frames: 1,
        distinct_pages: 1,
        database_pages: 1,
        fallback: false,
        clean_end: false,
        lane_frames: vec![1],
        copy: None,
    };
    let blocks = certificate.encode_doubled(block_bytes, &bytes[..pages], u32::from(flags));
    for (half, is_second) in blocks.chunks(block_bytes as usize).zip([false, true]) {
        let offset = 4096 + u64::from(is_second) * u64::from(block_bytes);
        let place = CertificatePlace { log_id: 0x77, ordinal: Some(1), offset };
        let found: PageCopy = Certificate::decode(half, &place).unwrap().copy.unwrap();
        assert_eq!(found.is_second, is_second);
        assert_eq!(found.read(&blocks).as_deref(), Some(&bytes[..pages]));
        assert!(half.chunks(512).skip(1).all(|place| !place.starts_with(b"pwal")));
    }
}
