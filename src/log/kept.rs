//! How much of a log a reader keeps from being given back.

use super::format::SegmentHeader;

/// The bytes of the segments that hold commits after `snapshot`, up to the one before `last`, which is written and
/// stays in any case. A segment file whose header is of no segment up to `last` is free, or next.
#[must_use]
pub fn bytes_kept(segments: &[SegmentHeader], snapshot: u64, last: u64) -> u64 {
    let has_begun =
        |segment: &&SegmentHeader| segment.ordinal <= last && segment.first_sequence <= snapshot.saturating_add(1);
    let first = segments.iter().filter(has_begun).map(|segment| segment.ordinal).max();
    let kept = segments.iter().filter(|segment| (first.unwrap_or(0)..last).contains(&segment.ordinal));
    kept.map(|segment| segment.segment_bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_a_snapshot_and_the_segment_that_is_written_is_kept() {
        let segment = |ordinal: u64, first_sequence: u64| SegmentHeader {
            log_id: 1,
            block_bytes: 4096,
            page_bytes: 4096,
            segment_bytes: 1 << ordinal,
            ordinal,
            first_sequence,
            chain: 0,
        };
        // The third has certificates only; the fifth is what a segment was before, or shall be.
        let segments = [segment(3, 21), segment(1, 1), segment(2, 11), segment(4, 21), segment(5, 2)];
        for (snapshot, kept) in [(0, 0b1110), (9, 0b1110), (10, 0b1100), (19, 0b1100), (20, 0), (99, 0)] {
            assert_eq!(bytes_kept(&segments, snapshot, 4), kept, "{snapshot}");
        }
        // Those before are given back already.
        let left = [segment(3, 21), segment(2, 11), segment(4, 21), segment(5, 2)];
        assert_eq!(bytes_kept(&left, 3, 4), 0b1100);
        assert_eq!(bytes_kept(&[], 3, 4), 0);
    }
}
