//! The power is gone behind any of the recorded calls: of what was not durable some is lost, and what is left is opened.

use super::history::{History, digest};
use super::medium::{Change, Left, Medium, ROOT, lay_down};
use super::records::BLOCK_BYTES;
use super::script::DATABASE;
use super::trace::Call;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::time::Instant;
use support::Scratch;

/// What a hot journal begins with.
const JOURNAL: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// What is left of each change that is not durable, all others being whole; and the name of this choice.
struct Cut {
    name: String,
    left: BTreeMap<usize, Left>,
}

/// All that is lost, and each alone, and all but one, and the last write in part, and some at random.
fn cuts(medium: &Medium, dice: &mut StdRng) -> Vec<Cut> {
    let pending = &medium.pending();
    let cut = |name: String, left: &dyn Fn(usize) -> Left| {
        let left = pending.iter().map(|pending| (pending.at, left(pending.at)));
        Cut { name, left: left.filter(|(_, left)| *left != Left::All).collect() }
    };
    let only = |lost: bool| if lost { Left::Nothing } else { Left::All };
    let mut cuts = vec![cut("nothing is lost".into(), &|_| Left::All)];
    if pending.is_empty() {
        return cuts;
    }
    cuts.push(cut("all is lost".into(), &|_| Left::Nothing));
    for one in pending {
        cuts.push(cut(format!("call {} is lost", one.at), &|at| only(at == one.at)));
        cuts.push(cut(format!("all but call {} is lost", one.at), &|at| only(at != one.at)));
    }
    let last_write = pending.iter().rev().find(|pending| matches!(pending.change, Change::Write { .. }));
    if let Some(torn) = last_write {
        for others in [Left::All, Left::Nothing] {
            let edge = dice.random_range(1..63);
            for mask in [(1 << edge) - 1, !((1 << edge) - 1), dice.random()] {
                let name = format!("call {} is torn ({mask:x}), of the others {others:?}", torn.at);
                cuts.push(cut(name, &|at| if at == torn.at { Left::Sectors(mask) } else { others }));
            }
        }
    }
    // Of a database of one page that says nothing nobody can prove whose it is.
    let database = medium.names(ROOT).get(DATABASE).copied();
    let database = database.filter(|database| medium.bytes(*database, true).len() > BLOCK_BYTES);
    let of_database = database.into_iter().flat_map(|database| medium.pending_of(database));
    for lost in of_database.filter(|pending| matches!(pending.change, Change::Write { offset: 0, .. })) {
        for others in [Left::All, Left::Nothing] {
            let bytes = dice.random();
            let name = format!("the first sector is lost in call {}, of the others {others:?}", lost.at);
            cuts.push(cut(name, &|at| if at == lost.at { Left::LostSector(bytes) } else { others }));
        }
    }
    for percent in [20, 50, 80] {
        let lost: BTreeMap<usize, Left> =
            pending.iter().map(|pending| (pending.at, only(dice.random_ratio(percent, 100)))).collect();
        cuts.push(cut(format!("{percent} % are lost"), &|at| lost[&at]));
    }
    cuts
}

/// Plays at most so many cuts, which `seed` chooses; 0: all.
///
/// # Panics
/// One of them breaks a promise.
pub fn play(before: &Medium, calls: &[(u32, Call)], seed: u64, most: usize) -> String {
    let history = History::of(calls);
    let mut found: HashMap<u64, Result<String, String>> = HashMap::new();
    let total = each_epoch(before, calls, seed, &mut |_, _, _| {});
    let scratch = Scratch::in_memory();
    let (mut number, mut opened, began) = (0, 0, Instant::now());
    let mut wrong = Vec::new();
    let mut dice = StdRng::seed_from_u64(seed ^ 0xc075);
    each_epoch(before, calls, seed, &mut |medium, at, cut| {
        if most > 0 && !dice.random_ratio(most.min(total) as u32, total as u32) || wrong.len() >= 5 {
            return;
        }
        number += 1;
        let result = match found.entry(identity(medium, cut)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let place = scratch.file(&opened.to_string());
                opened += 1;
                let left = |at: usize| cut.left.get(&at).copied().unwrap_or(Left::All);
                std::fs::create_dir(&place).expect("a directory");
                lay_down(&medium.tree(&left), &place);
                let result = open(&place);
                std::fs::remove_dir_all(&place).expect("remove a directory");
                new.insert(result)
            }
        };
        let killed = cut.left.is_empty();
        let problem = match result {
            Ok(content) => history.contradiction(at, killed, content),
            Err(error) => Some(error.clone()),
        };
        if let Some(problem) = problem {
            wrong.push(format!("behind call {at}, {}: {problem}\n{}", cut.name, story(medium, calls, at)));
        }
    });
    assert!(wrong.is_empty(), "seed {seed}, {} cuts went wrong:\n{}", wrong.len(), wrong.join("\n"));
    let seconds = began.elapsed().as_secs_f64();
    format!("{number} of {total} cuts, {opened} states opened in {seconds:.1} s")
}

/// Every cut behind every call; how many there are.
fn each_epoch(before: &Medium, calls: &[(u32, Call)], seed: u64, act: &mut dyn FnMut(&Medium, usize, &Cut)) -> usize {
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut medium, mut total) = (before.clone(), 0);
    for (at, (_, call)) in calls.iter().enumerate() {
        medium.apply(call);
        if matches!(call, Call::Open { .. }) || medium.is_of_shared_memory(call) {
            continue;
        }
        let mut cuts = cuts(&medium, &mut dice);
        cuts.shuffle(&mut dice);
        total += cuts.len();
        cuts.iter().for_each(|cut| act(&medium, at, cut));
    }
    total
}

/// Equal where equal changes are left: then the content is equal, too.
fn identity(medium: &Medium, cut: &Cut) -> u64 {
    let mut hasher = DefaultHasher::new();
    medium.changes().hash(&mut hasher);
    for (at, left) in &cut.left {
        (at, format!("{left:?}")).hash(&mut hasher);
    }
    hasher.finish()
}

/// Opens what is left through pwal; what it holds, or what is wrong with it.
fn open(place: &Path) -> Result<String, String> {
    let path = place.join(DATABASE);
    let flags = support::flags();
    let connection = support::try_open(&path, flags, support::vfs()).map_err(|error| format!("refused: {error}"))?;
    let wrong = |error: rusqlite::Error| format!("refused: {error:?}");
    let content = digest(&connection).map_err(wrong)?;
    let integrity = support::rows(&connection, "PRAGMA integrity_check").map_err(wrong)?.join("; ");
    if integrity != "ok" {
        return Err(integrity);
    }
    connection.close().map_err(|(_, error)| format!("close: {error:?}"))?;
    let bytes = std::fs::read(&path).map_err(|error| format!("read: {error}"))?;
    if bytes.len() >= 100 && bytes[72..92].iter().any(|byte| *byte != 0) {
        return Err(String::from("a stamp is left"));
    }
    let mut beside = support::beside(&path);
    beside.retain(|name| !is_harmless(&place.join(name)));
    if !beside.is_empty() {
        return Err(format!("beside the plain file: {beside:?}"));
    }
    Ok(content)
}

/// What may lie beside a plain file: a journal that stock SQLite had begun, which is no hot one, its shared memory and an empty
/// log.
fn is_harmless(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let starts_with = |magic: &[u8]| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(magic));
    name.ends_with("-shm")
        || name.ends_with("-wal") && path.metadata().is_ok_and(|wal| wal.is_file() && wal.len() == 0)
        || name.ends_with("-journal") && !starts_with(&JOURNAL)
}

/// The calls before it, and which of them are not durable.
fn story(medium: &Medium, calls: &[(u32, Call)], at: usize) -> String {
    let pending: Vec<usize> = medium.pending().iter().map(|pending| pending.at).collect();
    let mut text = String::new();
    for (number, (pid, call)) in calls.iter().enumerate().take(at + 1) {
        let is_pending = pending.contains(&number);
        if is_pending || number + 40 > at && !medium.is_of_shared_memory(call) {
            let _ = writeln!(text, "{} {number} {pid} {call}", if is_pending { '*' } else { ' ' });
        }
    }
    text
}
