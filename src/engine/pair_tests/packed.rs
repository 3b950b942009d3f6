//! Batches lie packed between cuts: what holds then of each write at the tail.

use super::{BLOCK, EngineError, PAGES, Pair, SEGMENT_BYTES, commit, die, facts, image_of, sim_path, staged};
use crate::disk::fault::Operation;
use crate::disk::sim::{HeaderTear, PowerCut};
use crate::engine::Engine;
use crate::engine::epoch_counts::EpochCounts;
use crate::engine::tail::{AppendGuard, Place, Record};
use crate::log::LogError;
use crate::log::format::BATCH_HEADER_BYTES;
use crate::log::recovery::{OpenFacts, open_database};
use crate::log::scan::survey;
use crate::shared::{COMMIT_RING, CommitEntry};
use std::path::Path;
use std::sync::Arc;

const SECTOR: u64 = 512;

/// The segment that the log ends in, as the cache has it, and where it ends.
fn segment(pair: &Pair, engine: &Engine) -> (Vec<u8>, u64) {
    let tail = engine.log.tail();
    let name = engine.files.segment(tail.segment).unwrap().name.clone();
    let (cached, _) = pair.disk.contents(&Path::new("/sim/a.db-pwal").join(name)).unwrap();
    (cached, tail.offset)
}

/// A commit whose writer dies before it publishes it.
fn abandon(engine: Arc<Engine>, value: u64) {
    let view = staged(&engine, 1, value);
    engine.committer.prepare(view.lane()).unwrap();
    let written = engine.committer.write_prepared(view.lane(), facts(&engine, false)).unwrap();
    std::mem::forget(written);
    die(engine);
}

/// B moves with the next certificate, and the log ends in the middle of a block, with a commit that is not durable. There is
/// room for another one in that block.
fn ends_before_a_doubled_certificate(engine: &Arc<Engine>) {
    commit(engine, PAGES as usize, 1, true).unwrap();
    engine.checkpointer.checkpoint_on_request().unwrap();
    commit(engine, 1, 2, false).unwrap();
    assert!(engine.flusher.moves_backfilled());
    assert_eq!(engine.log.tail().offset % BLOCK, 2 * SECTOR);
}

fn flush(engine: &Engine) {
    let leader = engine.lease.lead_waiting().unwrap();
    engine.flusher.flush(&leader, false).unwrap();
}

#[test]
fn commits_that_are_not_durable_follow_one_another_from_sector_to_sector() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 1, 1, false).unwrap();
    let (_, first) = segment(&pair, &one);
    assert_eq!(first % BLOCK, SECTOR);
    commit(&one, 1, 2, false).unwrap();
    let (_, second) = segment(&pair, &one);
    assert_eq!(second - first, BLOCK + SECTOR);
    // The certificate lies in the block in which they end, and ends it.
    flush(&one);
    let (_, cut) = segment(&pair, &one);
    assert_eq!(cut, second.next_multiple_of(BLOCK));
    // One that carries its certificate ends a block itself.
    commit(&one, 1, 3, false).unwrap();
    commit(&one, 1, 4, true).unwrap();
    let (_, sealed) = segment(&pair, &one);
    assert_eq!(sealed, cut + 3 * BLOCK);
    die(one);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [4, 0, 0]);
}

/// What an older segment left after the tail is not read from the disk for the next write: a page of the page cache is
/// written whole.
#[test]
fn a_write_ends_with_zeros_to_the_end_of_its_page() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 1, 1, true).unwrap();
    let (bytes, tail) = segment(&pair, &one);
    let name = one.files.segment(one.log.tail().segment).unwrap().name.clone();
    let left = usize::try_from(tail).unwrap()..bytes.len();
    pair.disk.edit(&Path::new("/sim/a.db-pwal").join(name), |bytes| bytes[left].fill(0xee));
    for value in 2..8 {
        commit(&one, 1, value, false).unwrap();
        let (bytes, tail) = segment(&pair, &one);
        let page = usize::try_from(tail.next_multiple_of(BLOCK)).unwrap();
        assert!(bytes[usize::try_from(tail).unwrap()..page].iter().all(|&byte| byte == 0), "commit {value}");
        assert_eq!(bytes[page], 0xee);
    }
}

/// A power cut tears pages that are written, and with them every sector of the same page: none of them is durable.
#[test]
fn what_is_durable_shares_no_page_with_what_is_written_later() {
    for seed in 0..40 {
        for seals in [false, true] {
            let pair = Pair::with_dice(seed);
            let one = pair.claim();
            commit(&one, 1, 1, false).unwrap();
            commit(&one, 2, 2, seals).unwrap();
            flush(&one);
            commit(&one, 1, 3, false).unwrap();
            commit(&one, 3, 4, false).unwrap();
            die(one);
            pair.disk.power_cut(&PowerCut {
                keep_percent: 0,
                tears_sectors: true,
                tears_same_bytes: true,
                tears_header: HeaderTear::Never,
            });
            let recovered = pair.recovered();
            let states = [[2, 2, 0], [3, 2, 0], [4, 4, 4]];
            assert!(states.iter().any(|state| recovered == state), "seed {seed}: {recovered:?}");
        }
    }
}

/// The batch of a writer that died lies in the rest of the block, whole, before a doubled certificate, which begins on the next
/// one: it is not the next commit.
#[test]
fn what_was_abandoned_before_a_doubled_certificate_is_overwritten() {
    let pair = Pair::with_pages(512, 1);
    let one = pair.claim();
    ends_before_a_doubled_certificate(&one);
    abandon(pair.join(), 66);
    flush(&one);
    commit(&one, 1, 3, true).unwrap();
    die(one);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [3, 1, 1]);
}

/// It was synced by then, and of what overwrites it the sync fails, and whose sync that was dies.
#[test]
fn it_is_overwritten_again_by_whoever_finishes_that_flush() {
    for seed in 0..8 {
        let pair = Pair::with_pages(512, seed);
        let one = pair.claim();
        ends_before_a_doubled_certificate(&one);
        abandon(pair.join(), 66);
        let other = pair.join();
        let segment = other.files.segment(other.log.tail().segment).unwrap();
        segment.sync().unwrap();
        let leader = one.lease.lead_waiting().unwrap();
        one.flusher.write_epoch(&leader, false).unwrap().unwrap();
        pair.disk.plan().add(pair.fault(Operation::Sync, ".seg"));
        one.files.segment(segment.id).unwrap().sync().unwrap_err();
        std::mem::forget(leader);
        die(one);
        drop(other.lease.lead_waiting().unwrap());
        // With its certificate, so that none of its own denies the abandoned one.
        commit(&other, 1, 3, true).unwrap();
        die(other);
        pair.lose_power();
        assert_eq!(pair.recovered(), [3, 1, 1], "seed {seed}");
    }
}

/// A commit that returned an error goes, and what was acknowledged before it in the same block stays.
#[test]
fn what_is_erased_takes_nothing_of_its_block_with_it() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 1, 1, true).unwrap();
    commit(&one, 1, 2, false).unwrap();
    assert_ne!(one.log.tail().offset % BLOCK, 0);
    let view = staged(&one, 1, 3);
    one.committer.prepare(view.lane()).unwrap();
    let facts = facts(&one, false);
    drop(one.publish(view.lane(), facts, false).unwrap());
    one.append.take_back_after_panic(Some(facts.sequence));
    assert!(one.log.is_poisoned());
    die(one);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [2, 0, 0]);
}

/// The control block refuses what prepare had made sure of: the batch that is not published is whole by then.
#[test]
fn a_batch_that_the_control_block_refuses_is_erased() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 1, 1, false).unwrap();
    let control = one.log.marks.control();
    let entry = control.commit(1).unwrap();
    for sequence in 2..COMMIT_RING {
        control.publish(&CommitEntry { sequence, ..entry }).unwrap();
    }
    let view = staged(&one, 1, 66);
    let facts = facts(&one, false);
    let refused = one.publish(view.lane(), facts, false).err();
    assert!(matches!(refused, Some(EngineError::Poisoned { unknown: false, .. })), "{refused:?}");
    assert!(control.published() < facts.sequence);
    let (bytes, tail) = segment(&pair, &one);
    assert!(bytes[usize::try_from(tail).unwrap()..].iter().take(BATCH_HEADER_BYTES).all(|&byte| byte == 0));
}

/// Nor does the certificate go that lies after it in its block: what it says of D is true.
#[test]
fn the_certificate_of_an_epoch_that_failed_stays() {
    let pair = Pair::with_pages(512, 1);
    let one = pair.claim();
    commit(&one, 1, 1, true).unwrap();
    let view = staged(&one, 1, 2);
    one.committer.prepare(view.lane()).unwrap();
    let facts = facts(&one, true);
    let published = one.publish(view.lane(), facts, false).unwrap();
    assert_ne!(one.log.tail().offset % BLOCK, 0);
    let leader = one.lease.try_lead().unwrap();
    let epoch = one.flusher.write_epoch(&leader, false).unwrap();
    assert!(epoch.is_some() && published.self_sealed.is_none());
    one.append.take_back_after_panic(Some(facts.sequence));
    drop(leader);
    die(one);
    pair.disk.kill();
    let (header, _) = pair.disk.contents(&sim_path()).unwrap();
    let survey = survey(&*pair.directory(), &header[..100]).unwrap();
    let certificates = survey.logs[0].certificates.iter().map(|found| &found.certificate);
    assert!(certificates.into_iter().any(|certificate| (certificate.durable, certificate.hi) == (1, 2)));
    assert_eq!(survey.logs[0].last, 1);
    assert_eq!(pair.recovered(), [1, 0, 0]);
}

/// A doubled certificate, as a leader writes it that does not come to store its epoch record.
fn abandon_a_doubled_certificate(engine: &Engine) -> (AppendGuard, Place) {
    let (append, last) = (engine.append.lock().unwrap(), engine.log.marks.published());
    let place = engine.tail.place(&append, Record::Doubled, last + 1).unwrap().unwrap();
    let (counts, chain) = (EpochCounts::after(last), append.end().unwrap().chain);
    let mut certificate = engine.flusher.certificate(&counts, &place, last, chain, PAGES, None);
    certificate.backfilled = last;
    let bytes = certificate.encode_doubled(BLOCK as u32, &image_of(512, 1, last), 0);
    engine.tail.write_record(&append, &place, &[&bytes]).unwrap();
    (append, place)
}

/// The next commit lies in the first block of a doubled certificate that was abandoned, with its own certificate, and that block
/// cannot be read: the second half, which would say that no commit lies before it, is not there.
#[test]
fn a_commit_over_an_abandoned_doubled_certificate_is_missed_where_it_cannot_be_read() {
    for (panics, begins_segment) in [(false, false), (true, false), (false, true)] {
        let pair = Pair::with_pages(512, 1);
        let (one, other) = (pair.claim(), pair.join());
        commit(&one, PAGES as usize, 1, true).unwrap();
        while begins_segment && one.log.tail().offset + BLOCK < SEGMENT_BYTES {
            let leader = one.lease.lead_waiting().unwrap();
            drop(one.flusher.flush(&leader, true).unwrap());
        }
        one.segments.make_room(0).unwrap();
        one.checkpointer.checkpoint_on_request().unwrap();
        let (append, place) = abandon_a_doubled_certificate(&one);
        assert_eq!(place.begins_segment(), begins_segment);
        if panics {
            drop(append);
            one.append.take_back_after_panic(None);
        } else {
            std::mem::forget(append);
            die(one);
        }
        commit(&other, 1, 2, true).unwrap();
        let tail = other.log.tail();
        assert_eq!((tail.segment, tail.offset), (place.segment.id, place.offset + BLOCK));
        die(other);
        pair.disk.kill();
        let path = Path::new("/sim/a.db-pwal").join(&place.segment.name);
        (place.offset / SECTOR..tail.offset / SECTOR).for_each(|sector| pair.disk.make_unreadable(&path, sector));
        let refused = open_database(&*pair.directory(), &mut *pair.database_handle(), OpenFacts::default());
        assert!(
            matches!(refused, Err(LogError::Unreadable { .. })),
            "panics {panics}, begins a segment {begins_segment}: {refused:?}"
        );
    }
}

/// Commit 1 was rolled back, and the writer of the next attempt dies in it. What the first one had left after its first block
/// was taken for sectors of the second, and the log for one whose first commit had rotted.
#[test]
fn nothing_is_left_of_a_commit_1_that_was_rolled_back() {
    for (seed, operations, keeps_cache) in (0..16).flat_map(|seed| (0..5).map(move |nth| (seed, nth, seed % 2 == 0))) {
        let pair = Pair::with_dice(seed);
        let one = pair.claim();
        let (first, next) = (staged(&one, 9, 7), staged(&one, 3, 8));
        one.committer.prepare(first.lane()).unwrap();
        let prepared = one.committer.write_prepared(first.lane(), facts(&one, true)).unwrap();
        one.committer.rollback_prepared(prepared).unwrap();
        one.committer.prepare(next.lane()).unwrap();
        pair.disk.stop_after(operations);
        std::mem::forget(one.committer.write_prepared(next.lane(), facts(&one, false)));
        die(one);
        if keeps_cache {
            pair.disk.kill()
        } else {
            pair.lose_power_but(50)
        }
        let found = pair.recovered();
        // A batch that is whole counts, whether it was published or not.
        assert!(found == [0; 3] || found == [8; 3], "seed {seed}, {operations} operations: {found:?}");
    }
}
