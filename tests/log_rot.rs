//! Rot and bad sectors anywhere in a log: what comes of an open, and of a salvage where the open refuses, is a state of the
//! history, never below what the database file had seen.

mod log_support;
#[path = "log_support/media.rs"]
mod media;

use log_support::{Commit, Files, LogBuilder, Place, SimPlace, database_of, stamped};
use media::Medium;
use proptest::prelude::*;
use pwal::log::recovery::{Next, OpenFacts, open_database};
use pwal::log::salvage::{Salvage, plan, plan_discard, salvage};
use std::ops::Range;

const ID: u64 = 0xfeed;
const COMMITS: u64 = 9;

/// The frames of commit `sequence`, and the size behind it.
fn commit(sequence: u64) -> (Vec<(u32, u64)>, u32) {
    let value = 100 * sequence;
    let pages = 3 + (sequence % 3) as u32;
    let frames = (1..=pages).filter(|page| *page == 1 + sequence as u32 % 3 || page % 2 == 0 || *page > 3);
    (frames.map(|page| (page, value + u64::from(page))).collect(), pages)
}

/// The states behind each commit.
fn history() -> Vec<Vec<u64>> {
    let mut states = vec![vec![0; 3]];
    for sequence in 1..=COMMITS {
        let (frames, pages) = commit(sequence);
        let mut state = states.last().unwrap().clone();
        state.resize(pages as usize, 0);
        for (page, value) in frames {
            state[page as usize - 1] = value;
        }
        states.push(state);
    }
    states
}

/// Three segments; 1 to 3 are backfilled, and commit 5 spilled. A writer that died had begun a fourth with commit 9.
fn log() -> LogBuilder {
    let mut log = LogBuilder::with_blocks(ID, 512, 4096, 12);
    let add = |log: &mut LogBuilder, sequence, certificate, spill_from| {
        let (frames, database_pages) = commit(sequence);
        log.commit(&Commit { frames: &frames, database_pages, certificate, spill_from, ..Commit::default() });
    };
    add(&mut log, 1, Some((0, 0)), usize::MAX);
    add(&mut log, 2, None, usize::MAX);
    add(&mut log, 3, None, usize::MAX);
    log.certify(1, 0);
    log.rotate(1);
    add(&mut log, 4, None, usize::MAX);
    log.certify(3, 3);
    add(&mut log, 5, None, 1);
    add(&mut log, 6, Some((4, 3)), usize::MAX);
    log.rotate(2);
    log.certify(6, 3);
    add(&mut log, 7, None, usize::MAX);
    add(&mut log, 8, None, usize::MAX);
    let mut dead = log.clone();
    dead.rotate(3);
    dead.commit(&Commit { frames: &[(1, 7), (2, 7)], certificate: Some((6, 3)), ..Commit::default() });
    let begun = dead.slot_name();
    log.files.insert(begun.clone(), dead.files[&begun].clone());
    add(&mut log, 9, None, usize::MAX);
    log.certify(8, 3);
    log
}

#[derive(Clone, Debug)]
enum Harm {
    Bytes(usize, prop::sample::Index, Vec<u8>),
    Zeros(usize, prop::sample::Index),
    Unreadable(usize, prop::sample::Index),
}

fn harms() -> impl Strategy<Value = Harm> {
    let (file, at) = (0..8_usize, any::<prop::sample::Index>());
    prop_oneof![
        (file.clone(), at.clone(), prop::collection::vec(any::<u8>(), 1..16))
            .prop_map(|(f, at, bytes)| Harm::Bytes(f, at, bytes)),
        (file.clone(), at.clone()).prop_map(|(file, at)| Harm::Zeros(file, at)),
        (file, at).prop_map(|(file, at)| Harm::Unreadable(file, at)),
    ]
}

/// Puts it on the files; what cannot be read any more is returned.
fn harm(files: &mut Files, harms: &[Harm]) -> Vec<(String, Range<u64>)> {
    let directory = files.directory.as_mut().unwrap();
    let names: Vec<String> = directory.keys().cloned().collect();
    let mut bad = Vec::new();
    for harm in harms {
        let (Harm::Bytes(file, at, _) | Harm::Zeros(file, at) | Harm::Unreadable(file, at)) = harm;
        let name = &names[file % names.len()];
        let bytes = directory.get_mut(name).unwrap();
        // Mostly where there is something.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let at = if used.is_empty() { at.index(bytes.len()) } else { used[at.index(used.len())] };
        let block = at / 512 * 512..(at / 512 * 512 + 512).min(bytes.len());
        match harm {
            Harm::Bytes(_, _, new) => {
                let end = (at + new.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&new[..end - at]);
            }
            Harm::Zeros(..) => bytes[block].fill(0),
            Harm::Unreadable(..) => bad.push((name.clone(), block.start as u64..block.end as u64)),
        }
    }
    bad
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_comes_of_it_is_a_state_of_the_history(harms in prop::collection::vec(harms(), 1..4), target in 3..=8_usize) {
        let states: Vec<Vec<u8>> = history().iter().map(|state| database_of(state, 512)).collect();
        let mut files = Files::new(stamped(&history()[target], 512, ID, target as u64)).with(&log().files);
        let bad = harm(&mut files, &harms);
        let place = SimPlace::new(&files);
        let medium = Medium::new(bad.clone());
        let directory = medium.under(place.directory());
        let planned = plan(&directory, &mut *place.database()).unwrap();
        let discarded = plan_discard(&directory, &mut *place.database()).unwrap();
        prop_assert_eq!(discarded.unreadable.is_empty(), bad.iter().all(|(name, _)| name.ends_with(".spill")));
        let opened = open_database(&directory, &mut *place.database(), OpenFacts::default());
        match opened {
            Ok(opened) => {
                prop_assert_eq!(planned, Salvage::NotNeeded);
                prop_assert_eq!(opened.next, Next::Ready);
            }
            Err(error) => {
                prop_assert!(place.files() == files, "a refusal touched something");
                let Salvage::Possible(planned) = planned else {
                    return Err(TestCaseError::fail(format!("nothing can be saved: {error}: {planned:?}")));
                };
                let done = salvage(&directory, &mut *place.database()).unwrap().unwrap();
                prop_assert_eq!(&done.plan, &planned);
            }
        }
        let state = states.iter().position(|state| *state == place.files().database);
        prop_assert!(state.is_some_and(|state| state >= target), "state {state:?}, the file had seen {target}");
    }
}

#[test]
fn unharmed_it_is_whole() {
    let files = Files::new(stamped(&history()[3], 512, ID, 3)).with(&log().files);
    let place = SimPlace::new(&files);
    open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap();
    assert!(place.files().database == database_of(&history()[9], 512));
}
