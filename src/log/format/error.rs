//! What a record can violate. The numbers are those of `docs/format.md`.

use std::cmp::Ordering;
use std::fmt;
use thiserror::Error;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// The validity rules of the records, numbered as in the specification of the format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = concat!($number, ": ", $text)] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Rule] = &[$(Rule::$name),*];

            /// The number in the specification.
            #[must_use]
            pub const fn number(self) -> &'static str {
                match self { $(Rule::$name => $number,)* }
            }

            /// The rule as a sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Rule::$name => $text,)* }
            }
        }
    };
}

rules! {
    SegmentMagic = "S1", "a segment header begins with \"pwalslot\"";
    SegmentCrc = "S2", "the CRC of a segment header covers its bytes 0 to 63";
    SegmentFields = "S3", "the fields of a segment header are possible: block a power of two from 4096 to 65536, page a power of two from 512 to 65536, segment a multiple of the block, at least two and at most 2^48 bytes, log id, ordinal and first commit not 0, reserved bytes 0";
    SegmentPlace = "S4", "a segment header names the log of its file name, a segment no longer than its file, and the page size of the log's other segments";
    BatchMagic = "B1", "a batch begins with \"pwalbtch\"";
    BatchLengths = "B2", "the lengths of a batch fit each other and the segment: at least one frame, head the bytes of header and descriptors and not longer than the batch, batch a multiple of the block that ends in the segment";
    BatchCrc = "B3", "the CRC of a batch covers its header, its certificate and its descriptors";
    BatchPlace = "B4", "a batch names the log, the segment and the offset where it lies";
    BatchFields = "B5", "the fields of a batch are possible: commit and database size not 0, reserved bytes 0, no certificate's bytes without the flag";
    BatchDescriptor = "B6", "a descriptor has a page number from 1 on and an image that lies after the descriptors and ends in the batch, without zeros that lie in it and are not all of it, or plain in a spill file if the batch's flag says so; positions are below 2^48, numbers of spill files below 2^30";
    BatchCertificate = "B7", "the certificate in a batch names the log, the place and the commit of the batch, and the chain value after it";
    ImageCrc = "B8", "the CRC of an image covers log id, page number, commit and image";
    CertificateMagic = "C1", "a certificate begins with \"pwalcert\"";
    CertificateCrc = "C2", "the CRC of a certificate covers its bytes 0 to 251";
    CertificateFields = "C3", "the fields of a certificate are possible: log id, epoch and lo not 0, hi at least lo (a mark: lo - 1), B <= D <= hi, at most 32 lanes, reserved bytes 0";
    CertificatePlace = "C4", "a certificate names the log, the segment and the offset where it lies";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.number(), self.text())
    }
}

/// Bytes that are not the record they were read as, or a record that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes are too few to hold the record.
    #[error("{found} bytes where the record needs {needed}")]
    Short {
        /// Bytes that the record needs.
        needed: usize,
        /// Bytes that were there.
        found: usize,
    },
    /// A rule of the format does not hold.
    #[error("rule {0}")]
    Violated(Rule),
    /// The record is valid but was written by a newer pwal.
    #[error(
        "format version {0}, this pwal reads up to {max}: open the database with the pwal that wrote it",
        max = super::FORMAT_VERSION
    )]
    NewerVersion(u16),
    /// The record is valid but was written by an older pwal.
    #[error(
        "format version {0}, written by an older pwal: open the database once with the pwal that wrote it, which leaves one plain file"
    )]
    OlderVersion(u16),
    /// The record is valid but has flags that must be understood and are not.
    #[error("unknown flags {0:#06x}: open the database with the pwal that wrote it")]
    UnknownFlags(u16),
}

impl FormatError {
    /// The record is whole, and this pwal cannot read it, since it is too old or too new for that: nothing may be touched.
    #[must_use]
    pub fn is_other_version(&self) -> bool {
        matches!(self, FormatError::NewerVersion(_) | FormatError::OlderVersion(_) | FormatError::UnknownFlags(_))
    }

    /// Of a whole record.
    pub(super) fn check_version(version: u16) -> Result<(), FormatError> {
        match version.cmp(&super::FORMAT_VERSION) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(FormatError::NewerVersion(version)),
            Ordering::Less => Err(FormatError::OlderVersion(version)),
        }
    }

    /// The rule that does not hold, if it is one.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        match self {
            FormatError::Violated(rule) => Some(*rule),
            _ => None,
        }
    }
}

impl From<Rule> for FormatError {
    fn from(rule: Rule) -> FormatError {
        FormatError::Violated(rule)
    }
}

pub(super) fn require(holds: bool, rule: Rule) -> Result<(), FormatError> {
    if holds { Ok(()) } else { Err(rule.into()) }
}
