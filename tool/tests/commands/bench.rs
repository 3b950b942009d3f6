//! `pwal bench`: that everything runs, and what it writes. No bound on rates: the machine is shared with other tests.

use super::{contents, tool};
use serde_json::Value;
use std::path::Path;
use support::{Scratch, library};

/// The loads that the short form has, by the beginnings of their lines.
const LOADS: [&str; 28] = [
    "insert, FULL, 2 threads",
    "update",
    "ten-rows",
    "read-modify-write",
    "own-tables, FULL, concurrent",
    "own-inserts, FULL, concurrent",
    "random-keys, FULL, 2 threads: concurrent against serial",
    "read-think-update, FULL, 2 threads",
    "late-append, FULL, concurrent",
    "early-append, FULL, concurrent",
    "mixed",
    "read,",
    "read-beside-writers",
    "ten-thousand-rows",
    "beside-checkpoint",
    "on-demand",
    "bulk,",
    "vacuum",
    "behind-reader",
    "log-bytes, FULL",
    "notice",
    "connections",
    "databases",
    "open-after-crash",
    "open-insert-close",
    "open-read-close",
    "shell-insert",
    "shell-read",
];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

#[test]
fn every_load_runs_on_both_sides_and_nothing_is_lost() {
    let scratch = Scratch::new();
    let (place, results) = (scratch.path().join("place"), scratch.file("results.json"));
    std::fs::create_dir(&place).expect("a directory");
    let library = library::library();
    let arguments: [&Path; 8] = [
        "bench".as_ref(),
        "--quick".as_ref(),
        "--dir".as_ref(),
        &place,
        "--json".as_ref(),
        &results,
        "--library".as_ref(),
        &library,
    ];
    let output = tool(arguments);
    let text = output.printed();
    assert!(!text.contains("failed") && !text.contains("not measured"), "{text}");
    assert!(contents(&place).is_empty(), "what is measured is removed");
    let results: Value = serde_json::from_slice(&std::fs::read(&results).expect("results")).expect("JSON");
    assert!(results["machine"]["cores"].as_u64() > Some(0), "{}", results["machine"]);
    let lines = results["lines"].as_array().expect("lines");
    for load in LOADS {
        let line = lines.iter().find(|line| line["name"].as_str().is_some_and(|name| name.starts_with(load)));
        let line = line.unwrap_or_else(|| panic!("{load} was not measured: {text}"));
        for side in [0, 1] {
            let seen = &line["runs"][side][0];
            // On a machine that is busy no operation may end within the time, nor a checkpoint begin.
            let latencies = seen["latency_us"].as_array().expect("a list");
            assert!(latencies.iter().all(|at| number(&at[1]) > 0.0), "{load}: {seen}");
            assert!(load == "beside-checkpoint" || !latencies.is_empty(), "{load}: {seen}");
            assert!((0.0..=1.0).contains(&number(&seen["fairness"])), "{load}: {seen}");
        }
    }
    let more = |load: &str, side: usize, what: &str| {
        let line = lines.iter().find(|line| line["name"].as_str().is_some_and(|name| name.starts_with(load)));
        number(&line.expect("measured")["runs"][side][0]["more"][what])
    };
    // A frame of SQLite's log: a head of 24 bytes and a page.
    assert!((more("log-bytes, FULL", 0, "log bytes") - 4120.0).abs() < 1.0);
    assert!((4096.0..20_000.0).contains(&more("log-bytes, FULL", 1, "log bytes")));
    assert!(more("connections", 1, "descriptors") >= 32.0);
    assert!(more("open-after-crash", 1, "bytes read / log") >= 0.9);
    assert!(more("read-modify-write", 1, "retries") >= 0.0);
    let slower: Vec<f64> = lines
        .iter()
        .filter(|line| line["case"]["delay_us"] == 100)
        .flat_map(|line| [0, 1].map(|side| number(&line["runs"][side][0]["delay_us"])))
        .collect();
    // One that was measured while the machine did something else may have missed it.
    assert!(slower.iter().any(|delay_us| *delay_us >= 50.0), "{slower:?}");
    for picture in ["results.svg", "results-latency.svg", "results-writers.svg"] {
        let text = std::fs::read_to_string(scratch.file(picture)).expect("a picture");
        assert!(text.starts_with("<svg") && text.contains("stock SQLite"), "{text}");
    }
}

#[test]
fn the_table_of_targets_names_what_is_wanted_and_seen() {
    let scratch = Scratch::new();
    let place = scratch.path().display().to_string();
    let arguments = ["bench", "--targets", "--quick", "--dir", &place, "--only", "insert, FULL, 8 threads", "--check"];
    let stock_again = tool(arguments.into_iter().chain(["--vfs", "unix"]));
    // Stock is not three times as fast as stock.
    assert!(stock_again.refused(1).contains("a target is missed"), "{stock_again:?}");
    let rows: Vec<&str> = stock_again.stdout.lines().filter(|line| line.starts_with("| insert")).collect();
    let [rate, fairness] = rows[..] else { panic!("{rows:?}") };
    assert!(rate.starts_with("| insert, FULL, 8 threads: rate | at least 3.5, 7, 7.6 | "), "{rate}");
    assert!(rate.contains("**"), "{rate}");
    assert!(fairness.starts_with("| insert, FULL, 8 threads: slowest / fastest | at least 0.9 | "), "{fairness}");
    assert_eq!((rate.matches('|').count(), fairness.matches('|').count()), (6, 6));
}

/// The pictures in the documents are those of the results beside them.
#[test]
fn the_committed_pictures_are_drawn_from_the_committed_results() {
    let scratch = Scratch::new();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/measurements");
    for results in ["commits.json", "concurrent.json"] {
        let copy = scratch.file(results);
        std::fs::copy(committed.join(results), &copy).expect("copy the results");
        let arguments: [&Path; 3] = ["bench".as_ref(), "--draw".as_ref(), &copy];
        assert_eq!(tool(arguments).printed(), "");
    }
    for picture in ["commits.svg", "commits-latency.svg", "concurrent-writers.svg"] {
        let [drawn, committed] = [scratch.file(picture), committed.join(picture)]
            .map(|path| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        assert!(
            drawn == committed,
            "{picture} is not that of its results: pwal bench --draw docs/measurements/{{commits,concurrent}}.json"
        );
    }
}

#[test]
fn what_is_no_file_of_results_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.file("other.json");
    std::fs::write(&file, "{\"lines\": 3}").expect("write");
    let arguments: [&Path; 3] = ["bench".as_ref(), "--draw".as_ref(), &file];
    assert!(tool(arguments).refused(4).contains("not a file with results"));
    assert_eq!(tool(["bench", "--sync-delay", "fast"]).status, Some(2));
    assert_eq!(tool(["bench", "--targets", "--load", "insert"]).status, Some(2));
    assert!(tool(["bench-run", "nonsense"]).refused(4).contains("is for this program itself"));
}
