//! The lines of a table.

use crate::arguments::Choice;
use crate::case::{Case, Load, STOCK, serial};
use crate::pairs::{Line, Side};

/// What the command line chooses.
pub fn chosen(choice: &Choice) -> Vec<Line> {
    let cases = match (choice.everything, choice.quick) {
        (true, true) => quick(choice),
        (true, false) => everything(choice),
        (false, _) => product(choice),
    };
    let lines = cases.into_iter().flat_map(|case| {
        let serial = (case.writers != serial() && case.is_pwal()).then(|| against_serial(case.clone()));
        [Some(Line::beside_stock(case)), serial].into_iter().flatten()
    });
    lines.filter(|line| choice.wants(&line.name)).collect()
}

/// Each value of each option with each of the others.
fn product(choice: &Choice) -> Vec<Case> {
    let mut cases = Vec::new();
    for load in choice.loads.iter().copied() {
        let sizes: Vec<u64> = match load.mib() {
            Some(_) if !choice.mib.is_empty() => choice.mib.clone(),
            default => vec![default.unwrap_or(0)],
        };
        let one = |values: &[usize]| if load.is_timed() { values.to_vec() } else { vec![1] };
        let writers = writers(choice, load);
        for synchronous in &choice.synchronous {
            for mode in &choice.modes {
                for delay_us in choice.delays_us.iter().copied() {
                    for processes in one(&choice.processes) {
                        for threads in one(&choice.threads) {
                            let of_size = sizes.iter().map(|mib| Case {
                                mode: mode.clone(),
                                delay_us,
                                processes,
                                threads,
                                mib: *mib,
                                ..choice.case(load, synchronous)
                            });
                            let of_size =
                                of_size.flat_map(|case| writers.iter().map(move |writers| (case.clone(), writers)));
                            cases.extend(of_size.map(|(case, writers)| Case { writers: writers.clone(), ..case }));
                        }
                    }
                }
            }
        }
    }
    cases
}

/// With which settings of `parallel_wal_writers` a load runs.
fn writers(choice: &Choice, load: Load) -> Vec<String> {
    match (&choice.writers[..], load.is_for_both_writers() && choice.vfs != STOCK) {
        ([], true) => vec![serial(), CONCURRENT.into()],
        ([], false) => vec![serial()],
        (chosen, _) => chosen.to_vec(),
    }
}

const CONCURRENT: &str = "concurrent";
const BOTH_WRITERS: [Load; 7] = [
    Load::OwnTables,
    Load::OwnInserts,
    Load::RandomKeys,
    Load::RandomInserts,
    Load::ReadThinkUpdate,
    Load::LateAppend,
    Load::EarlyAppend,
];

/// The loads whose transactions may run beside each other, by this number of threads; both settings.
fn for_both_writers(choice: &Choice, threads: usize) -> Vec<Case> {
    let cases = BOTH_WRITERS.iter().flat_map(|load| {
        let case = Case { threads, ..choice.case(*load, "FULL") };
        writers(choice, *load).into_iter().map(move |writers| Case { writers, ..case.clone() })
    });
    cases.collect()
}

/// Transactions beside each other against the same one at a time.
pub fn against_serial(case: Case) -> Line {
    let sides = [
        Side { name: serial(), case: Case { writers: serial(), ..case.clone() } },
        Side { name: case.writers.clone(), case: Case { writers: CONCURRENT.into(), ..case.clone() } },
    ];
    let name = Case { writers: serial(), ..case };
    Line { name: format!("{name}: concurrent against serial"), sides }
}

const TIMED: [Load; 8] = [
    Load::Update,
    Load::TenRows,
    Load::ReadModifyWrite,
    Load::Mixed,
    Load::Read,
    Load::ReadBesideWriters,
    Load::TenThousandRows,
    Load::BesideCheckpoint,
];
/// With the `synchronous` that they are interesting under.
const JOBS: [(Load, &str); 9] = [
    (Load::Bulk, "NORMAL"),
    (Load::Vacuum, "NORMAL"),
    (Load::BehindReader, "NORMAL"),
    (Load::LogBytes, "NORMAL"),
    (Load::LogBytes, "FULL"),
    (Load::Notice, "NORMAL"),
    (Load::Connections, "FULL"),
    (Load::Databases, "FULL"),
    (Load::OpenAfterCrash, "NORMAL"),
];
const LIVES: [Load; 4] = [Load::OpenInsertClose, Load::OpenReadClose, Load::ShellInsert, Load::ShellRead];

/// What there is to say of pwal on a machine.
fn everything(choice: &Choice) -> Vec<Case> {
    let mut cases = Vec::new();
    for (synchronous, delay_us) in [("FULL", 0), ("FULL", 100), ("NORMAL", 0)] {
        let insert = choice.case(Load::Insert, synchronous);
        cases.extend([1, 2, 8, 32].map(|threads| Case { threads, delay_us, ..insert.clone() }));
    }
    for synchronous in ["FULL", "NORMAL"] {
        let insert = choice.case(Load::Insert, synchronous);
        cases.extend([2, 8, 16].map(|processes| Case { processes, ..insert.clone() }));
    }
    if choice.vfs != STOCK {
        let insert = choice.case(Load::Insert, "FULL");
        cases.push(Case { threads: 8, mode: "conservative".into(), ..insert });
    }
    for load in TIMED {
        cases.extend(["FULL", "NORMAL"].map(|synchronous| Case { threads: 8, ..choice.case(load, synchronous) }));
    }
    cases.extend([8, 32].into_iter().flat_map(|threads| for_both_writers(choice, threads)));
    cases.extend(single(choice, 8));
    let crash = choice.case(Load::OpenAfterCrash, "NORMAL");
    if choice.mib.is_empty() {
        cases.extend([256, 1024].map(|mib| Case { mib, ..crash.clone() }));
    }
    cases
}

/// Each load once.
fn quick(choice: &Choice) -> Vec<Case> {
    let mut cases = vec![Case { threads: 2, ..choice.case(Load::Insert, "FULL") }];
    cases.push(Case { processes: 2, delay_us: 100, ..choice.case(Load::Insert, "NORMAL") });
    cases.extend(TIMED.map(|load| Case { threads: 2, ..choice.case(load, "NORMAL") }));
    cases.extend(for_both_writers(choice, 2));
    cases.extend(single(choice, 2));
    cases
}

/// Durability on demand, single jobs, short lives.
fn single(choice: &Choice, threads: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    if choice.vfs != STOCK {
        cases.push(Case { threads, ..choice.case(Load::OnDemand, "NORMAL") });
    }
    cases.extend(JOBS.map(|(load, synchronous)| choice.case(load, synchronous)));
    cases.extend(LIVES.map(|load| choice.case(load, "FULL")));
    cases
}

/// Processes of one thread against as many threads of one process, both on the VFS that is compared.
pub fn against_threads(choice: &Choice, synchronous: &str, count: usize, delay_us: u64) -> Line {
    let one = Case { delay_us, ..choice.case(Load::Insert, synchronous) };
    let sides = [
        Side { name: format!("{count} threads"), case: Case { threads: count, ..one.clone() } },
        Side { name: format!("{count} processes"), case: Case { processes: count, ..one.clone() } },
    ];
    Line { name: format!("{one}: {count} processes against {count} threads").replace(", 1 thread", ""), sides }
}
