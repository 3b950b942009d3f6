//! What the records of the log begin with.

pub(super) const SEGMENT: &[u8; 8] = b"pwalslot";
pub(super) const BATCH: &[u8; 8] = b"pwalbtch";
pub(super) const CERTIFICATE: &[u8; 8] = b"pwalcert";
pub(super) const MAGICS: [&[u8; 8]; 3] = [SEGMENT, BATCH, CERTIFICATE];
