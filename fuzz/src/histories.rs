//! A script of a log's life, and damage to what is left of it. Every state of the log is known, so what comes of an open
//! and of a salvage can be judged.

use crate::input::Input;
use support::log::history::{DATABASE, Harm, Harmed, History, Seen};

/// One input: the sizes, the life, what the file has seen, and the harms.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let history = history(&mut input);
    let targets = history.durable.max(history.backfilled) - history.backfilled;
    let target = history.backfilled + input.below(targets as usize + 1) as u64;
    let pages = if input.u8() & 1 == 0 { u64::MAX } else { u64::from(input.u16()) };
    let seen = Seen { target, pages };
    let files = history.files(seen);
    let mut harms = Vec::new();
    for _ in 0..4 {
        if input.is_empty() {
            break;
        }
        harms.extend(harm(&history, &mut input, &files));
    }
    let harmed = Harmed::new(&files, &harms);
    if std::env::var_os("PWAL_FUZZ_SHOW").is_some() {
        history.records.iter().for_each(|record| eprintln!("{record:?}"));
        eprintln!("{seen:?}, last {}, B {}, D {}", history.last(), history.backfilled, history.durable);
        eprintln!("harmed: {:?}", harmed.touched);
    }
    history.judge(seen, &harmed);
}

fn history(input: &mut Input<'_>) -> History {
    let sizes = input.u8();
    let page_bytes = 512 << (sizes & 3);
    let mut history = History::new(0x77, page_bytes, 1 + u32::from(sizes >> 2 & 7), 12);
    for _ in 0..input.u8() % 24 {
        let kind = input.u8();
        match kind % 16 {
            0..=8 => {
                let (chosen, size) = (input.u8() | 1 << (kind >> 5), input.u8());
                let pages: Vec<u32> = (0..8).filter(|bit| chosen >> bit & 1 == 1).map(|bit| bit + 1).collect();
                // A database that grows has an image of each page that is new.
                let size = (1 + u32::from(size & 7)).min(history.pages().max(1));
                let size = size.max(*pages.last().unwrap_or(&1));
                let mut pages = pages;
                pages.extend((history.pages() + 1..=size).filter(|page| !pages.contains(page)).collect::<Vec<_>>());
                let spill_from = if kind & 16 == 0 { usize::MAX } else { pages.len() / 2 };
                history.fill(&pages, size, kind % 16 < 4, spill_from);
            }
            9..=11 => history.certify(),
            12 | 13 => history.backfill(),
            14 => history.rotate(),
            _ if kind & 16 == 0 => history.rest(),
            _ => history.begin_elsewhere(),
        }
    }
    history
}

fn harm(history: &History, input: &mut Input<'_>, files: &support::log::Files) -> Option<Harm> {
    let kind = input.u8();
    if kind % 8 == 7 {
        let at = input.below(512);
        // Nothing has a copy of what lies behind the first sector.
        let bytes = input.bytes((1 + usize::from(kind >> 3)).min(512 - at)).to_vec();
        return Some(Harm::Bytes(DATABASE.to_owned(), at, bytes));
    }
    let record = history.records.get(input.below(history.records.len()))?;
    let file = files.directory.as_ref()?.get(&record.file)?;
    let at = record.bytes.start + input.below(record.bytes.len());
    let block = at / 512 * 512..(at / 512 * 512 + 512).min(file.len());
    let name = record.file.clone();
    Some(match kind % 8 {
        0 | 1 => Harm::Bytes(name, at, vec![file[at] ^ 1 << (kind >> 5)]),
        2 => Harm::Bytes(name, at, input.bytes(1 + usize::from(kind >> 3)).to_vec()),
        3 => Harm::Bytes(name, block.start, vec![if kind & 8 == 0 { 0 } else { 0xff }; block.len()]),
        // Another record at this place, or only a sector of it.
        4 => {
            let other = history.records.get(input.below(history.records.len()))?;
            let bytes = &files.directory.as_ref()?.get(&other.file)?[other.bytes.clone()];
            let bytes = if kind & 8 == 0 { bytes } else { &bytes[..bytes.len().min(512)] };
            Harm::Bytes(name, record.bytes.start, bytes.to_vec())
        }
        // What lay there before.
        5 => {
            let older: Vec<&Vec<u8>> = history.older.iter().filter(|(of, _)| *of == name).map(|(_, old)| old).collect();
            let older = older.get(input.below(older.len()))?;
            let bytes = older.get(if kind & 8 == 0 { block.clone() } else { record.bytes.clone() })?;
            Harm::Bytes(name, if kind & 8 == 0 { block.start } else { record.bytes.start }, bytes.to_vec())
        }
        _ if kind & 24 == 0 => Harm::Truncated(name, at),
        _ => Harm::Unreadable(name, block),
    })
}
