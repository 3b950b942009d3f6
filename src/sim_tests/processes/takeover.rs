//! A leader was told that its sync failed, and died before it told anybody: what the sync lost is written again by whoever
//! goes on, or nobody is told that it is durable.

use super::super::client::Phase;
use super::super::world::sim_path;
use super::parties::{EARLY, FULL, NORMAL, Party, SELF_SEALED, Scenery};
use crate::disk::Database;
use crate::disk::fault::Operation;
use crate::disk::sim::{HeaderTear, PowerCut};
use crate::log::format::Certificate;
use crate::log::scan::{CertificateSurvey, survey};
use crate::log::stamp::DATABASE_HEADER_BYTES;
use crate::shared::Owner;

/// Nothing that is not synced survives.
const ALL_LOST: PowerCut =
    PowerCut { keep_percent: 0, tears_sectors: false, tears_same_bytes: false, tears_header: HeaderTear::Never };

/// Of what a failed sync covered the dice say which part is lost.
const SEEDS: std::ops::Range<u64> = 0..12;
/// Where certificates alone may go on in a first segment.
const BATCHES_END: u64 = 32 * 4096;

/// `leader` cuts everything that is published, its sync of every segment fails, and it is killed with LEADER.
fn dies_over_a_failed_sync(scenery: &Scenery, leader: &Party) {
    let engine = leader.engine();
    let held = engine.lease.lead_waiting().expect("LEADER is free, or of a dead process");
    engine.flusher.write_epoch(&held, false).expect("cut").expect("something was published");
    scenery.plan(Operation::Sync, 1, true);
    for segment in engine
        .files
        .segments_between(1.max(engine.log.tail().ordinal.saturating_sub(1)), engine.log.tail().ordinal)
        .expect("open")
    {
        assert!(segment.sync().is_err());
    }
    scenery.heal();
    leader.is_killed(scenery);
    std::mem::forget(held);
}

fn me(party: &Party) -> Owner {
    party.engine().log.marks.member().me()
}

/// The power goes: what the last commit, `acknowledged`, left is there.
pub fn check_durable(scenery: &Scenery, acknowledged: u64, parties: Vec<Party>) {
    {
        let world = scenery.world.lock();
        world.disk.power_cut(&ALL_LOST);
        world.disk.plan().reset();
    }
    let expected = scenery.world.lock().history[usize::try_from(acknowledged).unwrap()].clone();
    for party in parties {
        party.engine().abandon();
    }
    *scenery.holder.lock() = None;
    check_certificates(scenery, acknowledged);
    assert_eq!(scenery.recovered(Vec::new()), expected, "commit {acknowledged}");
}

/// What the certificates say of the commits that they seal is true (rules E1 to E4), whoever of the dead and the living wrote which;
/// one of them seals the last commit.
fn check_certificates(scenery: &Scenery, last: u64) {
    let world = scenery.world.lock();
    let mut header = vec![0; DATABASE_HEADER_BYTES];
    world.database().read_at(&mut header, 0).expect("read");
    let survey = survey(&world.disk.directory(&sim_path()), &header).expect("a survey");
    let log = survey.logs.iter().find(|log| log.log_id == world.log_id).expect("the log");
    let findings: Vec<String> = log.findings.iter().map(|finding| format!("{finding:?}")).collect();
    assert_eq!((log.last, findings), (last, vec![]));
    let seals = |certificate: &CertificateSurvey| {
        let Certificate { lo, hi, batches, .. } = certificate.certificate;
        lo <= last && hi == last && u64::from(batches) == hi + 1 - lo
    };
    assert!(log.certificates.iter().any(seals), "no certificate seals commit {last}: {:?}", log.certificates);
}

#[test]
fn what_a_dead_leaders_sync_lost_is_written_again() {
    for seed in SEEDS {
        let scenery = Scenery::new(seed);
        let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
        first.commits();
        let sequence = second.publishes();
        dies_over_a_failed_sync(&scenery, &first);
        second.acknowledges().expect("taken over");
        check_durable(&scenery, sequence, vec![second]);
    }
}

/// Its place is another process's by now, and LEADER was freed with it.
#[test]
fn it_is_written_again_by_who_finds_leader_free() {
    let scenery = Scenery::new(1);
    let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
    first.commits();
    let sequence = second.publishes();
    dies_over_a_failed_sync(&scenery, &first);
    let slot = me(&first).slot;
    let third = scenery.party(3, FULL);
    assert_eq!(me(&third).slot, slot);
    assert_eq!(third.engine().log.marks.control().leader().holder(), None);
    second.acknowledges().expect("the cut that was left is made durable first");
    check_durable(&scenery, sequence, vec![second, third]);
}

/// And by who waits for LEADER, as a checkpoint does and a commit that is written before its last word.
#[test]
fn it_is_written_again_by_who_waits_for_leader() {
    let scenery = Scenery::new(1);
    let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
    first.commits();
    let sequence = second.publishes();
    dies_over_a_failed_sync(&scenery, &first);
    drop(second.engine().durability.lead_before_all().expect("taken over"));
    assert_eq!(second.engine().log.marks.durable(), sequence);
    check_durable(&scenery, sequence, vec![second]);
}

/// The header of a segment that begins is part of it.
#[test]
fn so_is_the_header_of_a_segment() {
    for seed in SEEDS {
        let scenery = Scenery::new(seed);
        let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
        let before = first.ordinal();
        let sequence = loop {
            first.commits();
            let sequence = second.publishes();
            if second.ordinal() > before {
                break sequence;
            }
            second.acknowledges().expect("acknowledged");
        };
        dies_over_a_failed_sync(&scenery, &first);
        second.acknowledges().expect("taken over");
        check_durable(&scenery, sequence, vec![second]);
    }
}

/// And so are the zeros behind a segment that was left: a record of a process that died lies there, durably.
#[test]
fn so_are_the_zeros_behind_a_segment() {
    leaves_a_segment_with_a_record_behind_it(true);
}

#[test]
fn a_record_of_a_dead_writer_behind_a_segment_does_not_count() {
    leaves_a_segment_with_a_record_behind_it(false);
}

/// `first` nearly fills its segment. `third` writes a batch at the tail, syncs it, and is killed before it publishes it. The ordinal
/// of that segment; `None`: `third` has written none.
fn dies_with_a_written_batch(scenery: &Scenery, first: &mut Party, third: &mut Party) -> Option<u64> {
    while first.ordinal() == 1 && first.engine().log.tail().offset < BATCHES_END - 4 * 4096 {
        first.commits();
    }
    let ordinal = first.ordinal();
    for _ in 0..20 {
        if !matches!(third.client.phase, Phase::PreparedBatch { .. }) {
            third.client.step(&third.scene);
        }
    }
    let Phase::PreparedBatch { early, .. } = std::mem::replace(&mut third.client.phase, Phase::Idle) else {
        return None;
    };
    third.is_killed(scenery);
    std::mem::forget(early);
    Some(ordinal)
}

fn leaves_a_segment_with_a_record_behind_it(sync_fails: bool) {
    let rotates = |seed: u64| {
        let scenery = Scenery::new(seed);
        let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, FULL));
        let mut third = scenery.party(3, EARLY);
        let Some(before) = dies_with_a_written_batch(&scenery, &mut first, &mut third) else { return false };
        let (tail, mut there) = (first.engine().log.tail(), [0; 64]);
        let segment = first.engine().files.segment(tail.segment).expect("open");
        segment.file.read_at(&mut there, tail.offset).expect("readable");
        let sequence = second.publishes();
        if there == [0; 64] || second.ordinal() == before {
            return false;
        }
        if sync_fails {
            dies_over_a_failed_sync(&scenery, &first);
        } else {
            // LEADER is the dead one's, who did not come to its epoch record: the next one takes it over.
            first.is_killed(&scenery);
            second.engine().log.marks.control().leader().take_over(me(&third), me(&second));
            second.engine().log.marks.control().leader().release(me(&second));
        }
        second.acknowledges().expect("acknowledged");
        check_durable(&scenery, sequence, vec![second, third]);
        true
    };
    // Of 100 seeds some put it there.
    let found = (0..100).filter(|seed| rotates(*seed)).count();
    assert!(found > 5, "{found} rotations");
}

/// And where the certificate is in the batch, so that nothing denies what lies there.
#[test]
fn so_are_they_where_the_certificate_is_in_the_batch() {
    let rotates = |seed: u64| {
        let scenery = Scenery::new(seed);
        let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, SELF_SEALED));
        let mut third = scenery.party(3, EARLY);
        let Some(before) = dies_with_a_written_batch(&scenery, &mut first, &mut third) else { return false };
        let leader = second.engine().log.marks.control().leader();
        leader.take_over(me(&third), me(&second));
        leader.release(me(&second));
        let sequence = second.publishes();
        let Phase::Published { self_sealed: Some(self_sealed), .. } =
            std::mem::replace(&mut second.client.phase, Phase::Idle)
        else {
            return false;
        };
        if second.ordinal() == before {
            return false;
        }
        // Its sync fails, and it dies before it says so.
        let segments = second.engine().files.segments_between(before, second.ordinal()).expect("open");
        scenery.plan(Operation::Sync, 1, true);
        segments.iter().for_each(|segment| assert!(segment.sync().is_err()));
        scenery.heal();
        second.is_killed(&scenery);
        std::mem::forget(self_sealed);
        first.engine().durability.wait_durable(sequence).expect("taken over");
        check_durable(&scenery, sequence, vec![first, third]);
        true
    };
    let found = (0..100).filter(|seed| rotates(*seed)).count();
    assert!(found > 5, "{found} rotations");
}

/// What lies before the last durable certificate is not looked at: it may be written over.
#[test]
fn a_segment_before_the_certificate_may_be_gone() {
    let scenery = Scenery::new(1);
    let (mut first, mut second) = (scenery.party(1, FULL), scenery.party(2, NORMAL));
    first.commits();
    let (engine, of_durable) = (first.engine().clone(), first.ordinal());
    // Everything is in the database file, and a doubled certificate in another segment says so.
    while first.ordinal() == of_durable {
        let leader = engine.lease.try_lead().expect("LEADER is free");
        engine.flusher.flush(&leader, true).expect("a mark");
    }
    let durable = first.commits();
    engine.checkpointer.checkpoint_when_idle().expect("a checkpoint");
    let is_gone = || engine.files.segment_with_ordinal(of_durable).expect("readable").is_none();
    while !is_gone() {
        second.publishes();
        second.client.phase = Phase::Idle;
        second.engine().connections.drop_snapshot(second.client.me);
    }
    assert_eq!(engine.log.marks.durable(), durable);
    let leader = engine.lease.try_lead().expect("LEADER is free");
    engine.flusher.write_epoch(&leader, false).expect("cut");
    first.is_killed(&scenery);
    std::mem::forget(leader);
    let sequence = second.publishes();
    second.engine().durability.wait_durable(sequence).expect("taken over");
    check_durable(&scenery, sequence, vec![second]);
}
