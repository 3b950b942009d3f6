//! Page images hold what users store, records of this very log among it. So that none of their bytes is ever read as a
//! record, an image is stored with a mask: the byte at every place where a record could begin is XORed with it, and the
//! mask is chosen so that no such place reads as a magic. Readers undo it.

use super::magic::MAGICS;

/// Records begin at multiples of this number of bytes: a sector.
pub const RECORD_PLACE_BYTES: usize = 512;

/// The first block after `offset` (bytes) in a segment: where a certificate ends that begins at `offset`.
#[must_use]
pub fn block_after(offset: u64, block_bytes: u32) -> u64 {
    let block = u64::from(block_bytes).max(1);
    if crate::drops("cut") && !offset.is_multiple_of(block) {
        return offset + RECORD_PLACE_BYTES as u64;
    }
    offset.saturating_add(1).checked_next_multiple_of(block).unwrap_or(u64::MAX)
}

/// What every magic begins with, those of later formats too.
const START: u8 = b'p';
const GOES_ON: &[u8; 3] = b"wal";
const _: () = {
    let mut magic = 0;
    while magic < MAGICS.len() {
        let [p, w, a, l, ..] = *MAGICS[magic];
        assert!(p == START && w == GOES_ON[0] && a == GOES_ON[1] && l == GOES_ON[2]);
        magic += 1;
    }
};

/// Whether these bytes, at a place where a record could begin, begin one of this or another version.
#[must_use]
pub fn begins_record(bytes: &[u8]) -> bool {
    matches!(bytes, [START, next @ ..] if next.starts_with(GOES_ON))
}

/// The first place at or after `position` (bytes), as an index relative to it.
fn first_place(position: u64) -> usize {
    // Below RECORD_PLACE_BYTES.
    (position.wrapping_neg() % RECORD_PLACE_BYTES as u64) as usize
}

/// The mask for bytes that are stored at `position` of a batch or block: 0 where no place in them reads as the
/// beginning of a record, else the smallest with which none does. A place excludes one mask at most, and 64 KiB have
/// 129 places.
///
/// The bytes begin and end at multiples of 8, so that no magic continues from one image into the next.
#[must_use]
pub fn mask_of(bytes: &[u8], position: u64) -> u8 {
    let excludes = |place: &[u8]| match place {
        [first, next @ ..] if next.starts_with(GOES_ON) => Some(first ^ START),
        _ => None,
    };
    mask_without(bytes, position, excludes, 0..=u8::MAX)
}

/// As [`mask_of`], for an image of commit 1: with this mask no place begins bytes that are all zeros up to the next place or
/// the end of the image, either. So no sector of that batch is all zeros before its last image ends, and one that is was
/// never written. Zeros and what begins a record rule out one mask together: a place is not both. The largest mask: no single
/// bit that rots makes zeros of it.
#[must_use]
pub fn mask_of_first(bytes: &[u8], position: u64) -> u8 {
    let excludes = |place: &[u8]| match place {
        [first, next @ ..] if next.starts_with(GOES_ON) => Some(first ^ START),
        [first, next @ ..] if next.iter().all(|&byte| byte == 0) => Some(*first),
        _ => None,
    };
    mask_without(bytes, position, excludes, (0..=u8::MAX).rev())
}

/// 0 if `excludes` says it of no place, else the first of `masks` of which it does not.
fn mask_without(
    bytes: &[u8],
    position: u64,
    excludes: impl Fn(&[u8]) -> Option<u8>,
    mut masks: impl Iterator<Item = u8>,
) -> u8 {
    debug_assert!(position.is_multiple_of(8) && bytes.len().is_multiple_of(8));
    let places = || bytes.get(first_place(position)..).unwrap_or_default().chunks(RECORD_PLACE_BYTES);
    if !places().any(|place| excludes(place) == Some(0)) {
        return 0;
    }
    let mut is_excluded = [false; 256];
    for mask in places().filter_map(&excludes) {
        is_excluded[usize::from(mask)] = true;
    }
    masks.find(|mask| !is_excluded[usize::from(*mask)]).unwrap_or(0)
}

/// Masks bytes that lie at `position` of a batch or of the segment, or undoes it.
pub fn apply_mask(bytes: &mut [u8], position: u64, mask: u8) {
    if mask != 0 {
        let first = first_place(position).min(bytes.len());
        bytes[first..].chunks_mut(RECORD_PLACE_BYTES).for_each(|place| place[0] ^= mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reads_as_a_record(bytes: &[u8], position: u64) -> bool {
        (0..bytes.len()).any(|at| (position + at as u64).is_multiple_of(512) && bytes[at..].starts_with(b"pwal"))
    }

    proptest! {
        #[test]
        fn no_masked_bytes_read_as_a_record(
            eighths in 0..200_u64,
            length in 1..=128_usize,
            firsts in prop::collection::vec(prop::sample::select((0..=255_u8).collect::<Vec<_>>()), 129),
            holes in prop::collection::vec(any::<bool>(), 129),
        ) {
            let position = 8 * eighths;
            let mut bytes = vec![0xaa; 512 * length];
            let places: Vec<usize> = (0..bytes.len()).filter(|at| (position + *at as u64).is_multiple_of(512)).collect();
            for (nth, at) in places.into_iter().enumerate() {
                if !holes[nth] {
                    bytes[at] = if nth % 3 == 0 { b'p' } else { firsts[nth] };
                    bytes[at + 1..at + 4].copy_from_slice(b"wal");
                }
            }
            let mask = mask_of(&bytes, position);
            prop_assert_eq!(mask != 0, reads_as_a_record(&bytes, position));
            let mut masked = bytes.clone();
            apply_mask(&mut masked, position, mask);
            prop_assert!(!reads_as_a_record(&masked, position));
            // Read back in two parts, as a view does.
            let (one, other) = masked.split_at_mut(512 * length / 3);
            apply_mask(one, position, mask);
            apply_mask(other, position + one.len() as u64, mask);
            prop_assert_eq!(masked, bytes);
        }
    }

    proptest! {
        #[test]
        fn no_sector_of_a_first_image_is_zeros(
            eighths in 0..200_u64,
            sectors in 1..=128_usize,
            // Zeros, a lone byte where the place is, what begins a record, a byte elsewhere.
            kinds in prop::collection::vec((0..4_u8, any::<u8>()), 129),
        ) {
            let position = 8 * eighths;
            let mut bytes = vec![0; 512 * sectors];
            let first = first_place(position);
            for (place, (kind, byte)) in bytes[first..].chunks_mut(512).zip(&kinds) {
                match kind {
                    1 => place[0] = *byte,
                    2 => place[..4].copy_from_slice(&[*byte, b'w', b'a', b'l']),
                    3 => place[place.len() - 1] = *byte,
                    _ => {}
                }
            }
            let mask = mask_of_first(&bytes, position);
            let mut masked = bytes.clone();
            apply_mask(&mut masked, position, mask);
            prop_assert!(!reads_as_a_record(&masked, position));
            prop_assert!(masked[first..].chunks(512).all(|place| place.iter().any(|&byte| byte != 0)));
            let needs_none = !reads_as_a_record(&bytes, position)
                && bytes[first..].chunks(512).all(|place| place.iter().any(|&byte| byte != 0));
            prop_assert_eq!(mask == 0, needs_none);
            apply_mask(&mut masked, position, mask);
            prop_assert_eq!(masked, bytes);
        }
    }

    #[test]
    fn every_mask_that_is_excluded_is_passed_over() {
        let mut bytes = vec![0; 65536];
        for place in 0..128_u8 {
            bytes[usize::from(place) * 512..][..4].copy_from_slice(&[b'p' ^ place, b'w', b'a', b'l']);
        }
        assert_eq!(mask_of(&bytes, 0), 128);
    }
}
