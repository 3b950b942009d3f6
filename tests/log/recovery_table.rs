//! The decision table of recovery: every combination of its inputs fits exactly one row, and each row is made by hand
//! (`recovery_table/rows.rs`).

mod lost;
mod power;
mod rows;
mod torn;
mod unreadable;

use pwal::internal::log::decide::{Action, LogFacts, ROWS, Refusal, Situation, decide};
use pwal::internal::log::recovery::OpenFacts;
use pwal::internal::log::stamp::{Stamp, StampState};

const OWN: u64 = 0x1122_3344_5566_7788;
const OTHER: u64 = 0x99;
const FACTS: OpenFacts = OpenFacts { read_only: false, hot_journal: false, real_wal_not_empty: false, cache_bytes: 0 };

/// The table of the specification, written down a second time and in another way.
#[expect(clippy::too_many_lines, reason = "a table")]
fn specified(s: &Situation) -> Action {
    let finished = |log: &LogFacts| log.marker.is_some() || !log.has_commits;
    let all_finished = s.logs.iter().all(finished);
    let plain = match s.header {
        StampState::Plain { .. } => true,
        StampState::Leftover | StampState::NoHeader => s.logs.is_empty(),
        _ => false,
    };
    if plain {
        return match (s.logs.is_empty(), s.has_stock_leftovers, s.is_read_only) {
            (true, false, _) | (true, true, true) => Action::Open,
            (_, true, false) => Action::RecoverStock,
            (false, _, true) => Action::Refuse(Refusal::ReadOnly),
            (false, false, false) if all_finished => Action::DeleteAll,
            _ => Action::Orphan(s.logs.iter().find(|log| !finished(log)).unwrap().log_id),
        };
    }
    if let StampState::Older { log_id } = s.header {
        return Action::Refuse(Refusal::OlderStamp(log_id));
    }
    if s.has_stock_leftovers {
        return Action::Refuse(Refusal::StockLeftovers);
    }
    let own = s.logs.iter().find(|log| log.log_id == OWN);
    let tellers: Vec<&LogFacts> = s.logs.iter().filter(|log| log.has_header || !finished(log)).collect();
    let sole = if tellers.len() == 1 { Some(tellers[0]) } else { None };
    let back = |log: &LogFacts| {
        log.has_page_one
            && log.is_of_file
            && log.durable <= log.last
            && log.marker.is_none_or(|m| m == log.last)
            && !log.is_unreadable
            && !log.is_contradicted
    };
    let half_finished = || match sole.filter(|log| log.has_lost_page_one) {
        Some(log) if back(log) => Action::Recover(log.log_id),
        Some(log) => Action::Refuse(Refusal::NoHeader(log.log_id)),
        None => Action::DeleteAll,
    };
    // What was durable before a stamp was written is there, or the log is damaged.
    let begun = |log: &LogFacts| log.has_header || log.marker.is_some();
    let all_finished_beside_half = s.logs.iter().all(|log| finished(log) && begun(log));
    let half_beside = || match sole {
        Some(log) if back(log) => Action::Recover(log.log_id),
        _ => Action::Refuse(Refusal::UnknownHeader),
    };
    match s.header {
        StampState::Stamped(Stamp { backfill_target: t, .. }) => {
            let Some(own) = own else { return Action::Refuse(Refusal::BareCopy(OWN)) };
            if s.is_read_only {
                return Action::Refuse(Refusal::ReadOnly);
            }
            if t == 0 && !own.has_commits && own.marker.is_none() && own.has_header {
                return Action::DeleteOwn(OWN);
            }
            let (b, d, n) = (own.backfilled, own.durable, own.last);
            let refusal = if !own.page_size_fits {
                Some(Refusal::PageSize(OWN))
            } else if t < b {
                Some(Refusal::OldCopy(OWN))
            } else if own.is_unreadable {
                Some(Refusal::Unreadable(OWN))
            } else if t > n || d > n || (!own.has_header && own.marker.is_none()) || own.is_contradicted {
                Some(Refusal::Damaged(OWN))
            } else if own.marker.is_some_and(|marker| marker != n) {
                Some(Refusal::MarkerMismatch(OWN))
            } else {
                None
            };
            let settled =
                if own.marker.is_none() && t == 0 && n == 0 { Action::SetAside(OWN) } else { Action::Recover(OWN) };
            refusal.map_or(settled, Action::Refuse)
        }
        StampState::BadStamp { .. } => {
            if s.logs.is_empty() {
                return Action::Refuse(Refusal::UnknownHeader);
            }
            if s.is_read_only {
                return Action::Refuse(Refusal::ReadOnly);
            }
            if all_finished_beside_half {
                return half_finished();
            }
            match own {
                Some(own) if !finished(own) || !begun(own) => {
                    if !own.page_size_fits && !own.has_page_one {
                        Action::Refuse(Refusal::PageSize(OWN))
                    } else if own.is_unreadable {
                        Action::Refuse(Refusal::Unreadable(OWN))
                    } else if own.durable > own.last || !begun(own) || own.is_contradicted {
                        Action::Refuse(Refusal::Damaged(OWN))
                    } else {
                        Action::Recover(OWN)
                    }
                }
                _ => half_beside(),
            }
        }
        StampState::NoHeader if !s.is_read_only => match sole {
            Some(log) if back(log) => Action::Recover(log.log_id),
            sole => Action::Refuse(Refusal::NoHeader(sole.unwrap_or(&s.logs[0]).log_id)),
        },
        _ if s.is_read_only => Action::Refuse(Refusal::ReadOnly),
        _ if all_finished_beside_half => half_finished(),
        _ => half_beside(),
    }
}

fn all_logs(log_id: u64) -> Vec<LogFacts> {
    let mut logs = Vec::new();
    let bools = [false, true];
    for marker in [None, Some(2), Some(3)] {
        for (backfilled, durable, last) in (0..3).flat_map(|b| (0..4).flat_map(move |d| (b..4).map(move |n| (b, d, n))))
        {
            for bits in 0..256 {
                let bit = |n: usize| bools[bits >> n & 1];
                logs.push(LogFacts {
                    log_id,
                    marker,
                    has_commits: bit(0),
                    has_header: bit(1),
                    backfilled,
                    durable,
                    last,
                    page_size_fits: bit(2),
                    has_page_one: bit(3),
                    is_unreadable: bit(4),
                    is_contradicted: bit(5),
                    has_lost_page_one: bit(6),
                    is_of_file: bit(7),
                });
            }
        }
    }
    logs
}

#[test]
fn every_combination_fits_exactly_one_row() {
    let mut headers = vec![
        StampState::Plain { wal: true },
        StampState::Plain { wal: false },
        StampState::BadStamp { log_id: OWN },
        StampState::Older { log_id: OWN },
        StampState::Leftover,
        StampState::NoHeader,
    ];
    headers.extend((0..5).map(|backfill_target| StampState::Stamped(Stamp { log_id: OWN, backfill_target })));
    let own = all_logs(OWN);
    let other: Vec<LogFacts> = [(None, false), (None, true), (Some(1), false), (Some(1), true)]
        .map(|(marker, has_commits)| LogFacts { log_id: OTHER, marker, has_commits, ..own[15] })
        .to_vec();
    let mut beside: Vec<Vec<LogFacts>> = vec![vec![]];
    beside.extend(other.iter().map(|other| vec![*other]));
    let mut sets = beside.clone();
    sets.extend(own.iter().flat_map(|own| beside.iter().map(|rest| [rest.as_slice(), &[*own]].concat())));
    let mut hits = vec![0_u64; ROWS.len()];
    for logs in sets {
        for &header in &headers {
            for (has_stock_leftovers, is_read_only) in [(false, false), (false, true), (true, false), (true, true)] {
                let situation = Situation { header, logs: logs.clone(), has_stock_leftovers, is_read_only };
                let fits = |row: &usize| (ROWS[*row].fits)(&situation);
                let mut fitting = (0..ROWS.len()).filter(fits);
                let (first, second) = (fitting.next(), fitting.next());
                let (Some(first), None) = (first, second) else {
                    let names = (0..ROWS.len()).filter(fits).map(|row| ROWS[row].name).collect::<Vec<_>>();
                    panic!("{names:?} fit {situation:?}");
                };
                assert_eq!(decide(&situation), specified(&situation), "{} {situation:?}", ROWS[first].name);
                hits[first] += 1;
            }
        }
    }
    for (row, hits) in ROWS.iter().zip(hits) {
        assert!(hits > 0, "no combination fits {}", row.name);
    }
}
