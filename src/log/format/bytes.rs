//! Little-endian fields at fixed places in a buffer whose length the caller has checked.

pub(super) fn put<const N: usize>(buffer: &mut [u8], at: usize, value: [u8; N]) {
    buffer[at..at + N].copy_from_slice(&value);
}

fn get<const N: usize>(buffer: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&buffer[at..at + N]);
    value
}

pub(super) fn u16_at(buffer: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(buffer, at))
}

pub(super) fn u32_at(buffer: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(buffer, at))
}

pub(super) fn u64_at(buffer: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(buffer, at))
}
