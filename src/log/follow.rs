//! Reading batches back from a segment: the same code for recovery, for the tools, and for a process that follows a log
//! that others write.
//!
//! Everything that it returns is verified by the rules of the format; an error of the medium is never taken for an
//! invalid record.

use super::error::LogError;
use super::files::Ahead;
use super::format::{
    BATCH_HEADER_BYTES, Batch, BatchPlace, CERTIFICATE_BYTES, Certificate, ClaimedBatch, DESCRIPTOR_BYTES, Descriptor,
    FormatError, HeadDecoder, ImageForm, ImagePlace, LogId, Rule, SegmentHeader, block_after, decode_batch_header,
    image_crc,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

pub use super::open_file::OpenFile;

/// The spill files of a log by their number.
pub type Spills<'a> = BTreeMap<u32, OpenFile<'a>>;

/// Descriptors are read in pieces of this size.
const HEAD_PIECE_BYTES: usize = 1024 * DESCRIPTOR_BYTES;

/// A segment whose header is valid.
#[derive(Clone, Debug)]
pub struct SegmentReader<'a> {
    /// The file.
    pub open: OpenFile<'a>,
    /// Its header.
    pub header: SegmentHeader,
}

impl<'a> SegmentReader<'a> {
    /// Reads the header of the segment file `open` of the log `log_id` (rules S1 to S4).
    ///
    /// # Errors
    /// [`LogError::Record`] if it is not valid: the segment is free then. [`LogError::OtherVersion`], or any error
    /// of the medium.
    pub fn new(open: OpenFile<'a>, log_id: LogId) -> Result<SegmentReader<'a>, LogError> {
        let mut bytes = [0; 512];
        let read = open.read(&mut bytes, 0)?;
        let header =
            SegmentHeader::decode(&bytes[..read], log_id).map_err(|error| LogError::record(&open.path, 0, error))?;
        if header.segment_bytes > open.bytes()? {
            return Err(LogError::record(&open.path, 0, Rule::SegmentPlace.into()));
        }
        Ok(SegmentReader { open, header })
    }

    /// The same for a walk: what is read is read ahead. It may be older than what the file has by then.
    pub(crate) fn reading_ahead(self) -> SegmentReader<'a> {
        let OpenFile { path, file } = self.open;
        SegmentReader { open: OpenFile { path, file: Arc::new(Ahead::new(file)) }, header: self.header }
    }

    /// The place `offset` (bytes) of this segment, for the decoders.
    #[must_use]
    pub fn place(&self, offset: u64) -> BatchPlace {
        BatchPlace {
            log_id: self.header.log_id,
            ordinal: self.header.ordinal,
            offset,
            block_bytes: self.header.block_bytes,
            page_bytes: self.header.page_bytes,
            segment_bytes: self.header.segment_bytes,
        }
    }

    /// The first block after `offset`, in bytes.
    #[must_use]
    pub fn block_after(&self, offset: u64) -> u64 {
        block_after(offset, self.header.block_bytes)
    }

    /// What the bytes at `offset` claim, unproven: whether a batch that is not valid was begun there.
    ///
    /// # Errors
    /// [`LogError::Record`] if they claim no batch, or any error of the medium.
    pub fn claimed_at(&self, offset: u64) -> Result<ClaimedBatch, LogError> {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let read = self.open.read(&mut bytes, offset)?;
        decode_batch_header(&bytes[..read], &self.place(offset)).map_err(|error| self.record(offset, error))
    }

    /// The batch at `offset`, its head proven (rules B1 to B7), its images not.
    ///
    /// # Errors
    /// [`LogError::Record`] if there is none, [`LogError::OtherVersion`], or any error of the medium.
    pub fn head_at(&self, offset: u64) -> Result<Batch, LogError> {
        let record = |error| self.record(offset, error);
        let mut header = [0; BATCH_HEADER_BYTES];
        let read = self.open.read(&mut header, offset)?;
        let mut decoder = HeadDecoder::new(&header[..read], &self.place(offset)).map_err(record)?;
        let mut piece = vec![0; decoder.left().min(HEAD_PIECE_BYTES)];
        let mut at = offset + BATCH_HEADER_BYTES as u64;
        while decoder.left() > 0 {
            let wanted = decoder.left().min(HEAD_PIECE_BYTES);
            let read = self.open.read(&mut piece[..wanted], at)?;
            // A length that lies ends with the file, or with the first descriptor that is none.
            if read < wanted {
                return Err(record(FormatError::Short { needed: decoder.claimed().head_bytes, found: read }));
            }
            decoder.reserve(wanted).map_err(|_| {
                LogError::io("hold the descriptors of a batch in", &self.open.path, io::ErrorKind::OutOfMemory.into())
            })?;
            decoder.feed(&piece[..wanted]).map_err(record)?;
            at += wanted as u64;
        }
        decoder.finish().map_err(record)
    }

    /// The batch at `offset`, proven with its images (rule B8).
    ///
    /// # Errors
    /// As [`SegmentReader::head_at`].
    pub fn batch_at(&self, offset: u64, spills: &Spills<'_>) -> Result<Batch, LogError> {
        let batch = self.head_at(offset)?;
        self.check_images(&batch, spills)?;
        Ok(batch)
    }

    /// Proves every image of `batch` (rule B8).
    ///
    /// # Errors
    /// [`LogError::Record`] with the offset of the first image that is not valid, or any error of the medium.
    pub fn check_images(&self, batch: &Batch, spills: &Spills<'_>) -> Result<(), LogError> {
        let mut image = vec![0; self.header.page_bytes as usize];
        batch.descriptors.iter().try_for_each(|descriptor| self.image(batch, descriptor, spills, &mut image))
    }

    /// Reads the image of one frame of `batch` into `image` (one page) and verifies it.
    ///
    /// # Errors
    /// As [`SegmentReader::check_images`].
    pub fn image(
        &self,
        batch: &Batch,
        descriptor: &Descriptor,
        spills: &Spills<'_>,
        image: &mut [u8],
    ) -> Result<(), LogError> {
        self.image_of(&ImageRef::of(batch, descriptor), spills, image)
    }

    pub(crate) fn image_of(&self, frame: &ImageRef, spills: &Spills<'_>, image: &mut [u8]) -> Result<(), LogError> {
        let (open, offset) = match frame.place {
            ImagePlace::Batch(position) => (&self.open, position),
            ImagePlace::Spill { file, offset } => match spills.get(&file) {
                Some(open) => (open, offset),
                None => {
                    let name = super::format::spill_name(self.header.log_id, file);
                    let path = self.open.path.with_file_name(name);
                    return Err(LogError::record(&path, offset, Rule::ImageCrc.into()));
                }
            },
        };
        let stored = frame.form.stored_bytes(image.len());
        let read = open.read(&mut image[..stored], offset)?;
        let is_whole = frame.is_whole(self.header.log_id, offset, image);
        if read == stored && (is_whole || crate::drops("b8")) {
            Ok(())
        } else {
            Err(LogError::record(&open.path, offset, Rule::ImageCrc.into()))
        }
    }

    /// The certificate at `offset` that lies in no batch.
    ///
    /// # Errors
    /// [`LogError::Record`] if there is none of this log and segment, [`LogError::OtherVersion`], or any error of the medium.
    pub fn certificate_at(&self, offset: u64) -> Result<Certificate, LogError> {
        let mut bytes = [0; CERTIFICATE_BYTES];
        let read = self.open.read(&mut bytes, offset)?;
        Certificate::decode(&bytes[..read], &self.place(offset).of_certificate())
            .map_err(|error| self.record(offset, error))
    }

    fn record(&self, offset: u64, error: FormatError) -> LogError {
        LogError::record(&self.open.path, offset, error)
    }
}

/// A frame in the log, with all that proves its image. A [`ImagePlace::Batch`] is an offset in the segment here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageRef {
    pub(crate) place: ImagePlace,
    pub(crate) page: u32,
    pub(crate) sequence: u64,
    pub(crate) form: ImageForm,
    pub(crate) crc: u32,
}

impl ImageRef {
    /// Whether what `image` begins with, as it is stored at `offset`, is its image (rule B8), which is there after that.
    pub(crate) fn is_whole(&self, log_id: LogId, offset: u64, image: &mut [u8]) -> bool {
        self.form.restore(image, 0, offset);
        self.is_of(log_id, image)
    }

    /// Whether these bytes are its image.
    pub(crate) fn is_of(&self, log_id: LogId, image: &[u8]) -> bool {
        image_crc(log_id, self.page, self.sequence, image) == self.crc
    }

    /// That of a frame of `batch`.
    pub(crate) fn of(batch: &Batch, descriptor: &Descriptor) -> ImageRef {
        ImageRef {
            place: match descriptor.place {
                ImagePlace::Batch(position) => ImagePlace::Batch(batch.header.offset + position),
                spilled @ ImagePlace::Spill { .. } => spilled,
            },
            page: descriptor.page,
            sequence: batch.header.sequence,
            form: descriptor.form,
            crc: descriptor.crc,
        }
    }
}

/// `Ok(None)` for a record that is not valid; every other error stays one.
pub(crate) fn proven<T>(result: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(LogError::Record { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
