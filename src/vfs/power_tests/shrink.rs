//! A run that fails, with fewer steps.

use super::{LIVES, STEPS, World, run_one};
use std::collections::BTreeSet;

/// Steps that the run fails without, found in pieces that get smaller; `None`: it does not fail where more machines stop.
pub fn shrink(world: World, seed: u64) -> Option<BTreeSet<u64>> {
    let fails = |skips: &BTreeSet<u64>| run_one(world, seed, Some(skips)).2.is_err();
    let mut skips = BTreeSet::new();
    if !fails(&skips) {
        return None;
    }
    let all: Vec<u64> = (1..=LIVES).flat_map(|life| (0..STEPS).map(move |step| life << 16 | step)).collect();
    let mut piece = all.len() / 2;
    while piece > 0 {
        for steps in all.chunks(piece) {
            let more: BTreeSet<u64> = skips.iter().chain(steps).copied().collect();
            if more.len() > skips.len() && fails(&more) {
                skips = more;
            }
        }
        piece /= 2;
    }
    Some(skips)
}

pub fn list(steps: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for step in steps {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == *step => *to = *step,
            _ => ranges.push((*step, *step)),
        }
    }
    ranges.iter().map(|(from, to)| format!("{from}-{to}")).collect::<Vec<_>>().join(",")
}

pub fn listed(text: &str) -> BTreeSet<u64> {
    let range = |text: &str| {
        let (from, to) = text.split_once('-')?;
        Some(from.parse::<u64>().ok()?..=to.parse::<u64>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}
