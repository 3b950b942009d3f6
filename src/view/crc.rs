//! The checksum of a staged image.

/// CRC-32C over the log id, the page number, the commit sequence (little-endian) and the image.
pub(super) fn image_crc(log_id: u64, page: u32, sequence: u64, image: &[u8]) -> u32 {
    let mut prefix = [0; 20];
    prefix[..8].copy_from_slice(&log_id.to_le_bytes());
    prefix[8..12].copy_from_slice(&page.to_le_bytes());
    prefix[12..].copy_from_slice(&sequence.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&prefix), image)
}
