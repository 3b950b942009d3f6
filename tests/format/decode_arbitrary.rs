//! Any bytes give a value or an error, never a panic; valid records come back as they were; no bit of a record can be
//! flipped unseen.

use proptest::prelude::*;
use pwal::internal::log::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchPlace, CERTIFICATE_BYTES, Certificate, CertificatePlace, DESCRIPTOR_BYTES,
    Descriptor, FileName, HeadDecoder, ImageForm, ImagePlace, LANES_MAX, OmittedZeros, Rule, SEGMENT_HEADER_BYTES,
    SPILL_NUMBER_END, SegmentHeader, batch_head_bytes, chain_after, decode_batch, decode_batch_header,
    embedded_certificate, encode_batch, encode_batch_sealed, image_crc,
};
use pwal::internal::log::recovery::{OpenFacts, open_database};
use pwal::internal::log::salvage;
use pwal::internal::log::scan::{dump_segment, survey};
use pwal::internal::log::stamp;
use support::log::{Commit, Files, LogBuilder, Place, SimPlace, stamped};

const ID: u64 = 0x77;

fn segment_headers() -> impl Strategy<Value = SegmentHeader> {
    (1..=u64::MAX, 12..=16_u32, 9..=16_u32, 2..10_000_u64, 1..=u64::MAX, 1..=u64::MAX, any::<u64>()).prop_map(
        |(log_id, block, page, blocks, ordinal, first_sequence, chain)| SegmentHeader {
            log_id,
            block_bytes: 1 << block,
            page_bytes: 1 << page,
            segment_bytes: blocks << block,
            ordinal,
            first_sequence,
            chain,
        },
    )
}

fn place_of(certificate: &Certificate) -> CertificatePlace {
    let Certificate { log_id, ordinal, offset, .. } = *certificate;
    CertificatePlace { log_id, ordinal: Some(ordinal), offset }
}

fn certificates() -> impl Strategy<Value = Certificate> {
    let names = (1..=u64::MAX, 1..=u64::MAX, any::<u64>());
    let marks = (names, 1..=u64::MAX, 1..=u64::MAX, any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let counts = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>(), any::<bool>());
    (marks, counts, prop::collection::vec(any::<u32>(), 0..=LANES_MAX)).prop_map(
        |(
            ((log_id, ordinal, offset), epoch, lo, span, d, b, chain),
            (batches, frames, distinct_pages, database_pages, fallback, end),
            lanes,
        )| {
            let hi = (lo - 1).saturating_add(span);
            let durable = if hi == u64::MAX { d } else { d % (hi + 1) };
            let backfilled = if durable == u64::MAX { b } else { b % (durable + 1) };
            Certificate {
                log_id,
                ordinal,
                offset,
                epoch,
                lo,
                hi,
                durable,
                backfilled,
                chain,
                batches,
                frames,
                distinct_pages,
                database_pages,
                fallback,
                clean_end: end,
                lane_frames: lanes,
                copy: None,
            }
        },
    )
}

/// The page, CRC and spill file of a frame; the mask and the zeros of its image, if it is in the batch.
type Given = (u32, u32, Option<u32>, (u8, Option<(u16, u16)>));

/// The descriptors of frames whose images are packed from this position on, and where they end.
fn packed(frames: &[Given], page_bytes: u32, start: u64) -> (Vec<Descriptor>, u64) {
    let mut end = start;
    let descriptor = |&(page, crc, spill, (mask, zeros)): &Given| {
        if let Some(file) = spill {
            let place = ImagePlace::Spill { file, offset: u64::from(crc) };
            return Descriptor { page, place, form: ImageForm::PLAIN, crc };
        }
        let omitted = zeros.and_then(|(start, words)| OmittedZeros::new(start, words, page_bytes)).unwrap_or_default();
        let form = ImageForm { mask, omitted };
        let place = ImagePlace::Batch(end);
        end += form.stored_bytes(page_bytes as usize) as u64;
        Descriptor { page, place, form, crc }
    };
    (frames.iter().map(descriptor).collect(), end)
}

/// A batch, with a certificate in it or not, and the place where it lies.
fn batches() -> impl Strategy<Value = (BatchHeader, Vec<Descriptor>, BatchPlace)> {
    let zeros = prop::option::of((0..64_u16, 1..64_u16));
    let frame = (1..=u32::MAX, any::<u32>(), prop::option::of(0..SPILL_NUMBER_END), (any::<u8>(), zeros));
    let frames = prop::collection::vec(frame, 1..40);
    let times = any::<u64>();
    let words =
        (1..=u64::MAX, 1..=u64::MAX, 1..=u64::MAX, 1..1000_u64, any::<u64>(), 1..=u32::MAX, any::<u16>(), times);
    (frames, words, 9..=13_u32, any::<bool>(), prop::option::of(certificates())).prop_map(
        |(
            frames,
            (log_id, sequence, ordinal, block, chain, database_pages, lane, time_us),
            page,
            wants_durable,
            certificate,
        )| {
            let page_bytes = 1_u64 << page;
            let head_bytes = batch_head_bytes(frames.len());
            let (descriptors, end) = packed(&frames, page_bytes as u32, head_bytes);
            let bytes = end.next_multiple_of(4096);
            let mut header = BatchHeader {
                log_id,
                sequence,
                ordinal,
                offset: block * 4096,
                bytes,
                frames: descriptors.len() as u32,
                database_pages,
                lane,
                wants_durable,
                time_us,
                chain,
                certificate: None,
            };
            let chain = chain_after(&header, &descriptors);
            header.certificate = certificate.map(|certificate| Certificate {
                log_id,
                ordinal,
                offset: block * 4096,
                lo: sequence,
                hi: sequence,
                durable: sequence - 1,
                backfilled: 0,
                chain,
                ..certificate
            });
            let place = BatchPlace {
                log_id,
                ordinal,
                offset: header.offset,
                block_bytes: 4096,
                page_bytes: 1 << page,
                segment_bytes: header.offset + bytes,
            };
            (header, descriptors, place)
        },
    )
}

/// Bytes that begin like a record more often than chance has it.
fn bytes_like_records() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![&b""[..], b"pwalslot\x02\0", b"pwalbtch\x02\0", b"pwalcert\x02\0"]);
    (start, prop::collection::vec(any::<u8>(), 0..1200)).prop_map(|(start, rest)| [start, &rest].concat())
}

proptest! {
    #[test]
    fn segment_headers_come_back(header in segment_headers()) {
        let block = header.encode();
        prop_assert_eq!(block.len(), header.block_bytes as usize);
        prop_assert_eq!(SegmentHeader::decode(&block, header.log_id), Ok(header));
    }

    #[test]
    fn certificates_come_back(certificate in certificates()) {
        let block = certificate.encode();
        let place = place_of(&certificate);
        for other in [
            CertificatePlace { log_id: place.log_id ^ 1, ..place },
            CertificatePlace { ordinal: Some(certificate.ordinal ^ 1), ..place },
            CertificatePlace { offset: place.offset ^ 512, ..place },
        ] {
            prop_assert_eq!(Certificate::decode(&block, &other), Err(Rule::CertificatePlace.into()));
        }
        prop_assert_eq!(Certificate::decode(&block, &place), Ok(certificate));
    }

    #[test]
    fn doubled_certificates_come_back(
        certificate in certificates(),
        block in 12..=16_u32,
        page in 9..=16_u32,
        fill in any::<[u8; 7]>(),
        magic in prop::sample::select(vec![&b"pwalcert"[..], b"pwalbtch", b"\x77walslot"]),
        at in any::<prop::sample::Index>(),
        damage in any::<prop::sample::Index>(),
    ) {
        let block_bytes = 1_usize << block;
        // Neither block may lie beyond what an offset can say.
        let certificate = Certificate { offset: certificate.offset & (u64::MAX >> 2), ..certificate };
        let mut page_one: Vec<u8> = fill.into_iter().cycle().take((1 << page).min(block_bytes)).collect();
        // At any byte of it, also where a sector begins.
        let at = at.index(page_one.len() - 8);
        page_one[at..at + 8].copy_from_slice(magic);
        let blocks = certificate.encode_doubled(block_bytes as u32, &page_one, 9);
        prop_assert_eq!(blocks.len(), 2 * block_bytes);
        for (index, half) in blocks.chunks(block_bytes).enumerate() {
            let offset = certificate.offset + (index * block_bytes) as u64;
            let place = CertificatePlace { offset, ..place_of(&certificate) };
            let decoded = Certificate::decode(half, &place).unwrap();
            let copy = decoded.copy.unwrap();
            prop_assert_eq!((copy.is_second, copy.next_block_crc), (index == 1, 9));
            prop_assert_eq!(copy.read(&blocks), Some(page_one.clone()));
            prop_assert_eq!(Certificate { copy: None, offset: certificate.offset, ..decoded }, certificate.clone());
            for (nth, place) in half.chunks(512).enumerate().skip(1) {
                prop_assert!(!place.starts_with(b"pwal"), "place {}", nth);
            }
            let mut damaged = blocks.clone();
            let byte = damage.index(page_one.len());
            let byte = if byte < block_bytes - 256 { 256 + byte } else { block_bytes + 512 + byte - block_bytes };
            damaged[byte] ^= 1;
            prop_assert_eq!(copy.read(&damaged), None);
            prop_assert_eq!(copy.read(&blocks[..512]), None);
        }
    }

    #[test]
    fn batches_come_back((header, descriptors, place) in batches()) {
        let head = encode_batch(&header, &descriptors).unwrap();
        prop_assert_eq!(head.len() as u64, batch_head_bytes(descriptors.len()));
        let claimed = decode_batch_header(&head, &place).unwrap();
        prop_assert_eq!(claimed.head_bytes, head.len());
        let batch = decode_batch(&head, &place).unwrap();
        let mut decoder = HeadDecoder::new(&head, &place).unwrap();
        for piece in head[BATCH_HEADER_BYTES..].chunks(3 * DESCRIPTOR_BYTES) {
            prop_assert!(decoder.left() >= piece.len());
            decoder.feed(piece).unwrap();
        }
        prop_assert_eq!(decoder.finish().unwrap(), batch.clone());
        prop_assert_eq!(batch.chain_after, chain_after(&header, &descriptors));
        let mut bare = BatchHeader { certificate: None, ..header.clone() };
        let sealed = encode_batch_sealed(&mut bare, &descriptors, |chain| {
            header.certificate.clone().filter(|certificate| certificate.chain == chain)
        });
        prop_assert_eq!(sealed.unwrap(), (head.clone(), batch.chain_after));
        prop_assert_eq!(&bare, &header);
        prop_assert_eq!(embedded_certificate(&head, &place.of_certificate()).map(Result::unwrap), header.certificate.clone());
        prop_assert_eq!(batch.header, header);
        prop_assert_eq!(batch.descriptors, descriptors);
    }

    #[test]
    fn a_flipped_bit_is_refused((header, descriptors, place) in batches(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut head = encode_batch(&header, &descriptors).unwrap();
        let at = at.index(head.len());
        head[at] ^= 1_u8 << bit;
        prop_assert!(decode_batch(&head, &place).is_err(), "byte {at}");
    }

    #[test]
    fn the_certificate_is_not_in_the_chain((header, descriptors, _) in batches()) {
        let bare = BatchHeader { certificate: None, wants_durable: !header.wants_durable, ..header.clone() };
        prop_assert_eq!(chain_after(&bare, &descriptors), chain_after(&header, &descriptors));
        let other = BatchHeader { chain: header.chain ^ 1, ..header.clone() };
        prop_assert_ne!(chain_after(&other, &descriptors), chain_after(&header, &descriptors));
    }

    #[test]
    fn any_bytes_are_a_value_or_an_error(bytes in bytes_like_records(), place in batches()) {
        let _ = SegmentHeader::decode(&bytes, ID);
        let _ = Certificate::decode(&bytes, &place.2.of_certificate());
        let _ = decode_batch_header(&bytes, &place.2);
        let _ = decode_batch(&bytes, &place.2);
        let _ = embedded_certificate(&bytes, &place.2.of_certificate());
        let _ = stamp::read(&bytes);
        let _ = stamp::page_bytes(&bytes);
    }

    #[test]
    fn any_name_is_ours_or_not(name in "\\PC{0,40}", like in "(retired-)?[0-9a-f]{14,18}-[0-9]{0,6}(\\.seg|\\.spill)?") {
        for name in [name, like] {
            if let Some(parsed) = FileName::parse(&name) {
                prop_assert_eq!(parsed.to_string(), name);
            }
        }
    }
}

#[test]
fn every_bit_of_segment_headers_and_certificates_counts() {
    let header = LogBuilder::new(ID, 1024).files.into_values().next().unwrap();
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(2);
    let certificate = log.next_certificate(2, 1, 1);
    let place = place_of(&certificate);
    let certificate = certificate.encode();
    for at in 0..SEGMENT_HEADER_BYTES.max(CERTIFICATE_BYTES) {
        for bit in 0..8 {
            let (mut segment, mut sealed) = (header.clone(), certificate);
            segment[at] ^= 1 << bit;
            sealed[at] ^= 1 << bit;
            assert!(Certificate::decode(&sealed, &place).is_err(), "certificate, byte {at}");
            // Padding proves nothing and is not looked at: rot in it costs nothing.
            assert_eq!(
                SegmentHeader::decode(&segment, ID).is_err(),
                at < SEGMENT_HEADER_BYTES,
                "segment header, byte {at}"
            );
        }
    }
}

#[test]
fn every_byte_of_an_image_and_its_names_count() {
    let image = vec![5; 512];
    let crc = image_crc(1, 2, 3, &image);
    assert_ne!(crc, image_crc(2, 2, 3, &image));
    assert_ne!(crc, image_crc(1, 3, 3, &image));
    assert_ne!(crc, image_crc(1, 2, 4, &image));
    for at in 0..512 {
        let mut other = image.clone();
        other[at] ^= 1;
        assert_ne!(crc, image_crc(1, 2, 3, &other));
    }
}

#[test]
fn lengths_that_lie_cost_no_memory() {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(1);
    let (bytes, at) = log.place(1);
    let place = BatchPlace {
        log_id: ID,
        ordinal: 1,
        offset: at as u64,
        block_bytes: 4096,
        page_bytes: 1024,
        segment_bytes: 64 * 4096,
    };
    let head = bytes[at..at + BATCH_HEADER_BYTES].to_vec();
    for frames in [0, 11_000, 1 << 20, u32::MAX] {
        let mut head = head.clone();
        head[320..324].copy_from_slice(&u32::to_le_bytes(frames));
        assert!(decode_batch_header(&head, &place).is_err(), "{frames}");
    }
    for length in [0, 4095, 65 * 4096, u64::MAX - 4095] {
        let mut head = head.clone();
        head[312..320].copy_from_slice(&u64::to_le_bytes(length));
        assert!(decode_batch_header(&head, &place).is_err(), "{length}");
    }
}

/// A log with every kind of record, to be damaged.
fn sample() -> LogBuilder {
    let mut log = LogBuilder::with_blocks(ID, 512, 4096, 10);
    log.commits(2);
    let frames = [(1, 7), (2, 8), (3, 9)];
    log.commit(&Commit { frames: &frames, spill_from: 2, certificate: Some((1, 0)), ..Commit::default() });
    log.certify(3, 1);
    log.rotate(1);
    log.commits(2);
    log.certify(4, 3);
    log
}

/// The tools and a refusal touch nothing; with the log given up, the database opens.
fn every_way_on_ends(files: &Files, segment: &str) {
    let place = SimPlace::new(files);
    let directory = place.directory();
    let _ = survey(&*directory, &files.database);
    let _ = dump_segment(&*directory, segment);
    let _ = salvage::plan(&*directory, &mut *place.database());
    assert!(place.files() == *files, "the tools touched something");
    if open_database(&*directory, &mut *place.database(), OpenFacts::default()).is_err() {
        assert!(place.files() == *files, "a refusal touched something");
        let _ = salvage::salvage(&*directory, &mut *place.database());
        salvage::discard_log(&*directory, &mut *place.database()).unwrap();
    }
    // Another open finds nothing that names a log.
    open_database(&*directory, &mut *place.database(), OpenFacts::default()).unwrap();
}

#[test]
fn rot_in_any_byte_of_the_header_leaves_a_way_on() {
    let log = sample();
    let segment = log.files.keys().next().unwrap();
    for target in [0, 3, 6] {
        for at in 0..100 {
            let mut files = Files::new(stamped(&[0; 3], 512, ID, target)).with(&log.files);
            files.database[at] ^= 0xff;
            every_way_on_ends(&files, segment);
            // Neither the stamp nor the magic is whole, and the log is not either.
            files.database[(at + 9) % 100] ^= 0xff;
            every_way_on_ends(&files, segment);
            files.directory.as_mut().unwrap().values_mut().for_each(|file| file.fill(0));
            every_way_on_ends(&files, segment);
        }
    }
}
