//! The replay of logs that are larger than what is held at once: scattered over the database, with images that are kept in memory
//! and others that are read again.

use pwal::internal::disk::fault::{DATABASE_NAME, Effect, Fault, Operation};
use pwal::internal::disk::hooked::{Call, Hook, HookedDirectory, Verdict};
use pwal::internal::disk::sim::{HeaderTear, PowerCut};
use pwal::internal::log::recovery::{Done, OpenFacts, open_database};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use support::log::history::{History, Seen};
use support::log::{Place, RealPlace, SimPlace};

const ID: u64 = 0xabcd;
const PAGE: u32 = 4096;
/// 20 MiB: more than a part of a replay has.
const PAGES: u32 = 5000;
const SEED: u64 = 11;

/// Three commits, each of half of the pages, scattered; `spilled` images of the second one lie in a spill file.
fn scattered(spilled: usize) -> History {
    let mut history = History::new(ID, PAGE, PAGES, 4096);
    let mut dice = StdRng::seed_from_u64(SEED);
    let mut pages: Vec<u32> = (1..=PAGES).collect();
    for spilled in [0, spilled, 0] {
        pages.shuffle(&mut dice);
        let half = PAGES as usize / 2;
        history.fill(&pages[..half], PAGES, true, half - spilled);
    }
    history
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Hook for Counter {
    fn before(&self, call: &Call<'_>) -> Verdict {
        if call.operation == Operation::Read {
            self.0.fetch_add(call.bytes as u64, SeqCst);
        }
        Verdict::Pass
    }
}

/// Recovers it with that much memory, on real files. Returns how often the log was read.
fn recover(history: &History, cache_bytes: usize) -> f64 {
    let seen = Seen { target: 0, pages: u64::MAX };
    let files = history.files(seen);
    let log_bytes: usize = files.directory.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
    let expected = history.states.last().unwrap();
    let facts = OpenFacts { cache_bytes, ..OpenFacts::default() };
    let place = RealPlace::new(&files);
    let opened = open_database(&*place.directory(), &mut *place.database(), facts).unwrap();
    assert!(matches!(&opened.done[..], [Done::Recovered(recovered)] if recovered.last == 3), "{opened:?}");
    assert!(place.files().database == *expected, "{cache_bytes} bytes in memory");
    // The same again where no read is begun ahead.
    let place = RealPlace::new(&files);
    let counter = Arc::new(Counter::default());
    let directory = HookedDirectory::new(place.directory(), Arc::clone(&counter) as Arc<dyn Hook>);
    open_database(&directory, &mut *place.database(), facts).unwrap();
    assert!(place.files().database == *expected, "{cache_bytes} bytes in memory");
    counter.0.load(SeqCst) as f64 / log_bytes as f64
}

/// Two commits of neighbouring pages: two parts, and the first one is synced before the second is written.
#[test]
fn a_sync_in_the_midst_may_fail_and_the_next_open_writes_everything() {
    let mut history = History::new(ID, PAGE, PAGES, 4096);
    let half = PAGES / 2;
    history.fill(&(1..=half).collect::<Vec<u32>>(), PAGES, true, usize::MAX);
    history.fill(&(half + 1..=PAGES).collect::<Vec<u32>>(), PAGES, true, usize::MAX);
    let expected = history.states.last().unwrap();
    let place = SimPlace::new(&history.files(Seen { target: 0, pages: u64::MAX }));
    // That of T is the first; the third, at the end, is for the pages of the second part.
    for nth in [2, 3] {
        let place = SimPlace { disk: place.disk.deep_clone(SEED), path: place.path.clone() };
        let (name_contains, effect) = (DATABASE_NAME.to_owned(), Effect::Error);
        place.disk.plan().add(Fault { operation: Operation::Sync, name_contains, nth, effect, goes_on: false });
        open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap_err();
        assert_eq!(place.disk.plan().fired(), 1, "sync {nth}");
        let (cache, _) = place.disk.contents(&place.path).unwrap();
        let last = (PAGES as usize - 1) * PAGE as usize..;
        assert_eq!(cache[last.clone()] == expected[last], nth == 3, "sync {nth}");
        place.disk.power_cut(&PowerCut {
            keep_percent: 50,
            tears_sectors: false,
            tears_same_bytes: false,
            tears_header: HeaderTear::Never,
        });
        open_database(&*place.directory(), &mut *place.database(), OpenFacts::default()).unwrap();
        assert!(place.files().database == *expected, "sync {nth}");
    }
}

#[test]
fn a_log_that_fits_into_memory_is_read_once() {
    let history = scattered(0);
    let read = [1 << 30, 5 << 20, 0].map(|cache_bytes| recover(&history, cache_bytes));
    assert!(read[0] < 1.1 && read[1] < 2.1 && read[2] < 2.1, "{read:?}");
}

#[test]
fn images_in_spill_files_are_replayed_with_the_others() {
    let history = scattered(40);
    for cache_bytes in [1 << 30, 0] {
        recover(&history, cache_bytes);
    }
}
