//! One commit: header with room for a certificate, descriptors; the images follow.

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::certificate::CERTIFICATE_BYTES;
use super::error::{FormatError, Rule, require};
use super::magic::{BATCH as MAGIC, MAGICS};
use super::mask::RECORD_PLACE_BYTES;
use super::{
    BatchHeader, Certificate, CertificatePlace, Descriptor, FORMAT_VERSION, ImageForm, ImagePlace, LogId, OmittedZeros,
    PAGE_BYTES_MAX, ZEROS_UNIT,
};
use std::collections::TryReserveError;
use std::hash::Hasher;
use twox_hash::XxHash3_64;

const VERSION: usize = 8;
const FLAGS: usize = 10;
const CRC: usize = 12;
const CERTIFICATE: usize = 16;
// What the chain value covers begins here and ends after the last descriptor.
const CHAINED: usize = CERTIFICATE + CERTIFICATE_BYTES;
const CHAIN: usize = CHAINED;
const LOG_ID: usize = CHAIN + 8;
const SEQUENCE: usize = LOG_ID + 8;
const ORDINAL: usize = SEQUENCE + 8;
const OFFSET: usize = ORDINAL + 8;
const BYTES: usize = OFFSET + 8;
const FRAMES: usize = BYTES + 8;
const DATABASE_PAGES: usize = FRAMES + 4;
const LANE: usize = DATABASE_PAGES + 4;
const RESERVED_2: usize = LANE + 2;
const HEAD: usize = RESERVED_2 + 2;
const TIME: usize = HEAD + 4;
/// The header of a batch, with the room for its certificate, in bytes.
pub const BATCH_HEADER_BYTES: usize = TIME + 8;
/// A descriptor in bytes.
pub const DESCRIPTOR_BYTES: usize = 24;
// The whole header, by which a torn tail is detected, lies in the first sector.
const _: () = assert!(BATCH_HEADER_BYTES == 344 && BATCH_HEADER_BYTES <= RECORD_PLACE_BYTES);

/// Positions of images, in a batch or a spill file, are below this, in bytes.
pub const POSITION_END: u64 = 1 << 48;
/// Numbers of spill files are below this.
pub const SPILL_NUMBER_END: u32 = 1 << 30;

// No descriptor reads as a magic at a place where a record could begin. Header and descriptors are multiples
// of 8, so such a place is at byte 0, 8 or 16 of a descriptor: there the last of the 8 bytes is the reserved one, the
// highest of a position, or the highest of the number of a spill file or of the length of the zeros that are left out, and each
// is below that of every magic.
const _: () = {
    assert!(RECORD_PLACE_BYTES.is_multiple_of(8) && BATCH_HEADER_BYTES.is_multiple_of(8));
    assert!(DESCRIPTOR_BYTES == 24);
    let mut magic = 0;
    while magic < MAGICS.len() {
        let last = MAGICS[magic][7] as u64;
        assert!(last > 0 && POSITION_END <= last << 56 && (SPILL_NUMBER_END as u64) <= last << 24);
        assert!(PAGE_BYTES_MAX as u64 / (ZEROS_UNIT as u64) < last << 8);
        magic += 1;
    }
};

const FLAG_CERTIFICATE: u16 = 1;
const FLAG_SPILL: u16 = 2;
const FLAG_WANTS_DURABLE: u16 = 4;
const FLAGS_KNOWN: u16 = FLAG_CERTIFICATE | FLAG_SPILL | FLAG_WANTS_DURABLE;

const DESCRIPTOR_FLAG_SPILL: u16 = 1;

/// The bytes of header and descriptors of a batch with `frames` frames, with or without a certificate;
/// the first image lies there.
#[must_use]
pub fn batch_head_bytes(frames: usize) -> u64 {
    (BATCH_HEADER_BYTES as u64).saturating_add((frames as u64).saturating_mul(DESCRIPTOR_BYTES as u64))
}

/// CRC-32C over log id, page number, commit sequence and image.
#[must_use]
pub fn image_crc(log_id: LogId, page: u32, sequence: u64, image: &[u8]) -> u32 {
    let mut name = [0; 20];
    put(&mut name, 0, log_id.to_le_bytes());
    put(&mut name, 8, page.to_le_bytes());
    put(&mut name, 12, sequence.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&name), image)
}

/// The chain value after a commit: XXH3-64 over the chain value before it, its header without flags, CRC and
/// certificate, and its descriptors. Before commit 1 the chain value is the log id.
#[must_use]
pub fn chain_after(header: &BatchHeader, descriptors: &[Descriptor]) -> u64 {
    chain_of(&chained(header, descriptors))
}

fn chain_of(head: &[u8]) -> u64 {
    XxHash3_64::oneshot(&head[CHAINED..])
}

fn crc_of(head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..CRC]), &head[CERTIFICATE..])
}

/// A head with what the chain value covers, and zeros before that. (Made without zeroed memory of the allocator: glibc before 2.41
/// has that in no cache of the thread.)
fn chained(header: &BatchHeader, descriptors: &[Descriptor]) -> Vec<u8> {
    let bytes = BATCH_HEADER_BYTES + descriptors.len() * DESCRIPTOR_BYTES;
    let head = &mut [0; BATCH_HEADER_BYTES];
    put(head, CHAIN, header.chain.to_le_bytes());
    put(head, LOG_ID, header.log_id.to_le_bytes());
    put(head, SEQUENCE, header.sequence.to_le_bytes());
    put(head, ORDINAL, header.ordinal.to_le_bytes());
    put(head, OFFSET, header.offset.to_le_bytes());
    put(head, BYTES, header.bytes.to_le_bytes());
    put(head, FRAMES, header.frames.to_le_bytes());
    put(head, DATABASE_PAGES, header.database_pages.to_le_bytes());
    put(head, LANE, header.lane.to_le_bytes());
    put(head, HEAD, u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes());
    put(head, TIME, header.time_us.to_le_bytes());
    let mut all = Vec::with_capacity(bytes);
    all.extend_from_slice(head);
    for descriptor in descriptors {
        let bytes = &mut [0; DESCRIPTOR_BYTES];
        let (flags, position, last) = match descriptor.place {
            ImagePlace::Batch(position) => (0, position, encode_zeros(descriptor.form.omitted)),
            ImagePlace::Spill { file, offset } => (DESCRIPTOR_FLAG_SPILL, offset, file.to_le_bytes()),
        };
        put(bytes, 0, descriptor.page.to_le_bytes());
        put(bytes, 4, flags.to_le_bytes());
        put(bytes, 6, [descriptor.form.mask, 0]);
        put(bytes, 8, position.to_le_bytes());
        put(bytes, 16, descriptor.crc.to_le_bytes());
        put(bytes, 20, last);
        all.extend_from_slice(bytes);
    }
    all
}

fn encode_zeros(omitted: OmittedZeros) -> [u8; 4] {
    let ([s0, s1], [w0, w1]) = (omitted.words().0.to_le_bytes(), omitted.words().1.to_le_bytes());
    [s0, s1, w0, w1]
}

/// Header, certificate and descriptors of a batch, unpadded, [`batch_head_bytes`] long. The images follow
/// directly, and zeros to the end of the sector, or of the block if there is a certificate.
///
/// # Errors
/// The rule that the batch would violate.
pub fn encode_batch(header: &BatchHeader, descriptors: &[Descriptor]) -> Result<Vec<u8>, FormatError> {
    let mut head = begin_batch(header, descriptors)?;
    let chain = if header.certificate.is_some() { chain_of(&head) } else { 0 };
    end_batch(&mut head, header, chain)?;
    Ok(head)
}

/// The same, and the chain value after the batch; `seal` makes the certificate from it, if there is to be one.
///
/// # Errors
/// As [`encode_batch`].
pub fn encode_batch_sealed(
    header: &mut BatchHeader,
    descriptors: &[Descriptor],
    seal: impl FnOnce(u64) -> Option<Certificate>,
) -> Result<(Vec<u8>, u64), FormatError> {
    let mut head = begin_batch(header, descriptors)?;
    let chain = chain_of(&head);
    header.certificate = seal(chain);
    end_batch(&mut head, header, chain)?;
    Ok((head, chain))
}

/// The head, but for its certificate and its CRC.
fn begin_batch(header: &BatchHeader, descriptors: &[Descriptor]) -> Result<Vec<u8>, FormatError> {
    let head_bytes = batch_head_bytes(descriptors.len());
    let lengths = !descriptors.is_empty()
        && usize::try_from(header.frames) == Ok(descriptors.len())
        && head_bytes <= header.bytes.min(u64::from(u32::MAX));
    require(lengths, Rule::BatchLengths)?;
    let possible = header.sequence != 0 && header.database_pages != 0 && header.log_id != 0 && header.ordinal != 0;
    require(possible, Rule::BatchFields)?;
    let mut flags = if header.wants_durable { FLAG_WANTS_DURABLE } else { 0 };
    for descriptor in descriptors {
        require(descriptor.page != 0, Rule::BatchDescriptor)?;
        match descriptor.place {
            ImagePlace::Batch(position) => {
                let lies = position >= head_bytes && position < header.bytes.min(POSITION_END);
                require(lies, Rule::BatchDescriptor)?;
            }
            ImagePlace::Spill { file, offset } => {
                let lies = file < SPILL_NUMBER_END && offset < POSITION_END && descriptor.form.is_plain();
                require(lies, Rule::BatchDescriptor)?;
                flags |= FLAG_SPILL;
            }
        }
    }
    let mut head = chained(header, descriptors);
    put(&mut head, 0, *MAGIC);
    put(&mut head, VERSION, FORMAT_VERSION.to_le_bytes());
    put(&mut head, FLAGS, flags.to_le_bytes());
    Ok(head)
}

fn end_batch(head: &mut [u8], header: &BatchHeader, chain_after: u64) -> Result<(), FormatError> {
    if let Some(certificate) = &header.certificate {
        require(certificate_fits(certificate, header, chain_after), Rule::BatchCertificate)?;
        put(head, CERTIFICATE, certificate.encode());
        let flags = u16_at(head, FLAGS) | FLAG_CERTIFICATE;
        put(head, FLAGS, flags.to_le_bytes());
    }
    let crc = crc_of(head);
    put(head, CRC, crc.to_le_bytes());
    Ok(())
}

fn certificate_fits(certificate: &Certificate, header: &BatchHeader, chain_after: u64) -> bool {
    certificate.log_id == header.log_id
        && (certificate.ordinal, certificate.offset) == (header.ordinal, header.offset)
        && certificate.copy.is_none()
        && certificate.hi == header.sequence
        && certificate.chain == chain_after
}

/// Where a batch is looked for, as the header of its segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    /// The log.
    pub log_id: LogId,
    /// The ordinal of the segment.
    pub ordinal: u64,
    /// The offset in the segment in bytes.
    pub offset: u64,
    /// The block in bytes.
    pub block_bytes: u32,
    /// The page in bytes.
    pub page_bytes: u32,
    /// The segment in bytes.
    pub segment_bytes: u64,
}

impl BatchPlace {
    /// That of the certificate in a batch there.
    #[must_use]
    pub fn of_certificate(&self) -> CertificatePlace {
        CertificatePlace { log_id: self.log_id, ordinal: Some(self.ordinal), offset: self.offset }
    }
}

/// What the first bytes at a place claim of a batch there. Nothing of it is verified yet: no CRC was checked, but the
/// lengths fit the segment, and so bound what must be read to verify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedBatch {
    /// The log.
    pub log_id: LogId,
    /// The commit sequence.
    pub sequence: u64,
    /// The ordinal of the segment.
    pub ordinal: u64,
    /// The offset in the segment in bytes.
    pub offset: u64,
    /// The whole batch in bytes.
    pub bytes: u64,
    /// The number of descriptors.
    pub frames: u32,
    /// Header and descriptors in bytes.
    pub head_bytes: usize,
}

/// What the first [`BATCH_HEADER_BYTES`] at a place claim (rules B1, B2, B4).
///
/// # Errors
/// The rule that does not hold.
pub fn decode_batch_header(block: &[u8], place: &BatchPlace) -> Result<ClaimedBatch, FormatError> {
    let Some(bytes) = block.first_chunk::<BATCH_HEADER_BYTES>() else {
        return Err(FormatError::Short { needed: BATCH_HEADER_BYTES, found: block.len() });
    };
    require(bytes.starts_with(MAGIC), Rule::BatchMagic)?;
    let (frames, head_bytes) = (u32_at(bytes, FRAMES), u32_at(bytes, HEAD));
    let claimed = ClaimedBatch {
        log_id: u64_at(bytes, LOG_ID),
        sequence: u64_at(bytes, SEQUENCE),
        ordinal: u64_at(bytes, ORDINAL),
        offset: u64_at(bytes, OFFSET),
        bytes: u64_at(bytes, BYTES),
        frames,
        head_bytes: head_bytes as usize,
    };
    let is_here = claimed.log_id == place.log_id && claimed.ordinal == place.ordinal && claimed.offset == place.offset;
    require(is_here || crate::drops("b4"), Rule::BatchPlace)?;
    // Of a later version only what it needs to be recognised: its head may be another one.
    let is_later = u16_at(bytes, VERSION) > FORMAT_VERSION;
    let lengths = (is_later || frames != 0 && batch_head_bytes(frames as usize) == u64::from(head_bytes))
        && claimed.head_bytes >= BATCH_HEADER_BYTES
        && u64::from(head_bytes) <= claimed.bytes
        && claimed.bytes.is_multiple_of(RECORD_PLACE_BYTES as u64)
        && place.offset.checked_add(claimed.bytes).is_some_and(|end| end <= place.segment_bytes);
    require(lengths || crate::drops("b2"), Rule::BatchLengths)?;
    Ok(claimed)
}

/// The log, the segment and the offset that the bytes of a batch name; nothing of it is proven. `None`: they begin no batch.
#[must_use]
pub fn batch_place(block: &[u8]) -> Option<(LogId, u64, u64)> {
    let bytes = block.first_chunk::<BATCH_HEADER_BYTES>().filter(|bytes| bytes.starts_with(MAGIC))?;
    Some((u64_at(bytes, LOG_ID), u64_at(bytes, ORDINAL), u64_at(bytes, OFFSET)))
}

/// A batch whose head is valid; its images are not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The header, with the certificate if there is one.
    pub header: BatchHeader,
    /// The frames.
    pub descriptors: Vec<Descriptor>,
    /// The chain value after it.
    pub chain_after: u64,
}

/// Proves the head of a batch (rules B1 to B7). `head` holds at least the bytes that
/// [`decode_batch_header`] claimed.
///
/// # Errors
/// The rule that does not hold; a newer version or unknown flags of a whole head by name.
pub fn decode_batch(head: &[u8], place: &BatchPlace) -> Result<Batch, FormatError> {
    let mut decoder = HeadDecoder::new(head, place)?;
    let needed = decoder.claimed.head_bytes;
    let Some(descriptors) = head.get(BATCH_HEADER_BYTES..needed) else {
        return Err(FormatError::Short { needed, found: head.len() });
    };
    decoder.feed(descriptors)?;
    decoder.finish()
}

/// Verifies the head of a batch whose descriptors come piece by piece, so that the memory that a header claims is not
/// allocated before the descriptors are there.
pub struct HeadDecoder {
    place: BatchPlace,
    claimed: ClaimedBatch,
    header: [u8; BATCH_HEADER_BYTES],
    crc: u32,
    chain: XxHash3_64,
    left: usize,
    descriptors: Vec<Descriptor>,
    /// Flags that a newer version knows, if the CRC says that they are its.
    unknown: Option<FormatError>,
}

impl HeadDecoder {
    /// Begins with the first [`BATCH_HEADER_BYTES`] at least (rules B1, B2, B4).
    ///
    /// # Errors
    /// As [`decode_batch_header`].
    pub fn new(block: &[u8], place: &BatchPlace) -> Result<HeadDecoder, FormatError> {
        let claimed = decode_batch_header(block, place)?;
        let Some(header) = block.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(FormatError::Short { needed: BATCH_HEADER_BYTES, found: block.len() });
        };
        let mut chain = XxHash3_64::with_seed(0);
        chain.write(&header[CHAINED..]);
        Ok(HeadDecoder {
            place: *place,
            header: *header,
            crc: crc_of(header),
            chain,
            left: claimed.head_bytes - BATCH_HEADER_BYTES,
            claimed,
            descriptors: Vec::new(),
            unknown: None,
        })
    }

    /// What the header claims.
    #[must_use]
    pub fn claimed(&self) -> &ClaimedBatch {
        &self.claimed
    }

    /// The bytes of descriptors that are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// Makes room for the descriptors in the next `bytes`.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), TryReserveError> {
        self.descriptors.try_reserve(bytes / DESCRIPTOR_BYTES)
    }

    /// Takes the next descriptors: whole ones, and no more than [`left`](HeadDecoder::left).
    ///
    /// # Errors
    /// One of them is impossible (rule B6), or the bytes are not whole descriptors of this batch.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let is_ours = u16_at(&self.header, VERSION) == FORMAT_VERSION;
        if bytes.len() > self.left || (is_ours && !bytes.len().is_multiple_of(DESCRIPTOR_BYTES)) {
            return Err(FormatError::Short { needed: self.left, found: bytes.len() });
        }
        self.left -= bytes.len();
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.chain.write(bytes);
        // Descriptors of another version are only counted in the CRC.
        if !is_ours {
            return Ok(());
        }
        let may_spill = u16_at(&self.header, FLAGS) & FLAG_SPILL != 0;
        for bytes in bytes.chunks_exact(DESCRIPTOR_BYTES) {
            match decode_descriptor(bytes, &self.claimed, &self.place, may_spill) {
                Ok(descriptor) => self.descriptors.push(descriptor),
                Err(error) if error.is_other_version() => self.unknown = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The batch, after all its descriptors (rules B3, B5, B7).
    ///
    /// # Errors
    /// As [`decode_batch`].
    pub fn finish(self) -> Result<Batch, FormatError> {
        let (head, claimed) = (&self.header, &self.claimed);
        if self.left > 0 {
            return Err(FormatError::Short { needed: claimed.head_bytes, found: claimed.head_bytes - self.left });
        }
        require(u32_at(head, CRC) == self.crc || crate::drops("b3"), Rule::BatchCrc)?;
        let (version, flags) = (u16_at(head, VERSION), u16_at(head, FLAGS));
        FormatError::check_version(version)?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(FormatError::UnknownFlags(flags));
        }
        let chain_after = self.chain.finish();
        let mut header = BatchHeader {
            log_id: claimed.log_id,
            sequence: claimed.sequence,
            ordinal: claimed.ordinal,
            offset: claimed.offset,
            bytes: claimed.bytes,
            frames: claimed.frames,
            database_pages: u32_at(head, DATABASE_PAGES),
            lane: u16_at(head, LANE),
            wants_durable: flags & FLAG_WANTS_DURABLE != 0,
            time_us: u64_at(head, TIME),
            chain: u64_at(head, CHAIN),
            certificate: None,
        };
        let room = &head[CERTIFICATE..CHAINED];
        let has_certificate = flags & FLAG_CERTIFICATE != 0;
        let possible = header.sequence != 0
            && header.database_pages != 0
            && u16_at(head, RESERVED_2) == 0
            && (has_certificate || room.iter().all(|&byte| byte == 0));
        require(possible || crate::drops("b5"), Rule::BatchFields)?;
        if has_certificate {
            let certificate = Certificate::decode(room, &self.place.of_certificate())?;
            // It may call the batch durable: the block in which that ends is not written again.
            let ends = header.offset.checked_add(header.bytes);
            let ends_block =
                ends.is_some_and(|end| end.is_multiple_of(u64::from(self.place.block_bytes))) || crate::drops("cut");
            let fits = (certificate_fits(&certificate, &header, chain_after) && ends_block) || crate::drops("b7");
            require(fits, Rule::BatchCertificate)?;
            header.certificate = Some(certificate);
        }
        match self.unknown {
            Some(error) => Err(error),
            None => Ok(Batch { header, descriptors: self.descriptors, chain_after }),
        }
    }
}

fn decode_descriptor(
    bytes: &[u8],
    batch: &ClaimedBatch,
    place: &BatchPlace,
    may_spill: bool,
) -> Result<Descriptor, FormatError> {
    let (page, flags, position, file) = (u32_at(bytes, 0), u16_at(bytes, 4), u64_at(bytes, 8), u32_at(bytes, 20));
    let [mask, reserved] = [bytes[6], bytes[7]];
    if flags & !DESCRIPTOR_FLAG_SPILL != 0 {
        return Err(FormatError::UnknownFlags(flags));
    }
    let is_spilled = flags & DESCRIPTOR_FLAG_SPILL != 0;
    let zeros = OmittedZeros::new(u16_at(bytes, 20), u16_at(bytes, 22), place.page_bytes);
    let omitted = zeros.filter(|_| !is_spilled).unwrap_or_default();
    let form = ImageForm { mask, omitted };
    let end = position.checked_add(form.stored_bytes(place.page_bytes as usize) as u64);
    let lies = if is_spilled {
        may_spill && mask == 0 && file < SPILL_NUMBER_END
    } else {
        zeros.is_some() && position >= batch.head_bytes as u64 && end.is_some_and(|end| end <= batch.bytes)
    };
    let possible = lies && position < POSITION_END && page != 0 && reserved == 0;
    require(possible || crate::drops("b6"), Rule::BatchDescriptor)?;
    let image = if is_spilled { ImagePlace::Spill { file, offset: position } } else { ImagePlace::Batch(position) };
    Ok(Descriptor { page, place: image, form, crc: u32_at(bytes, 16) })
}

/// The certificate in the head of a batch at these bytes, by its own CRC alone: what it says of D and B
/// is true even where the batch around it is damaged. `None` if there is no batch or no certificate. `place` is that of the
/// batch.
#[must_use]
pub fn embedded_certificate(block: &[u8], place: &CertificatePlace) -> Option<Result<Certificate, FormatError>> {
    let bytes = block.first_chunk::<BATCH_HEADER_BYTES>()?;
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    match Certificate::decode(&bytes[CERTIFICATE..CHAINED], place) {
        Err(FormatError::Violated(Rule::CertificateMagic)) => None,
        other => Some(other),
    }
}
