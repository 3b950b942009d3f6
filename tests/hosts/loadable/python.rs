//! Python's `sqlite3` module: the scripts lie in `tests/scripts` and check themselves.

use super::{Place, printed, program, run};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn interpreter() -> PathBuf {
    program("PWAL_TEST_PYTHON3", "/usr/bin/python3")
}

fn script(name: &str) -> String {
    format!("{}/tests/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn python_loads_chooses_and_writes_from_two_connections() {
    let place = Place::new();
    let output = run(&place, &interpreter(), &[&script("loadable.py")], "");
    assert_eq!(printed(&output), "ok", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.files(), ["app.db"], "Python closes what is left at its end");
}

/// Two copies of SQLite in one process load the library: their POSIX locks do not see each other.
#[cfg(target_os = "linux")]
#[test]
fn two_sqlite_libraries_in_one_process_do_not_overwrite_each_other() {
    let place = Place::new();
    let output = run(&place, &interpreter(), &[&script("two_libraries.py")], "");
    assert_eq!(printed(&output), "ok", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.files(), ["app.db"]);
}

/// Kills a writer in the middle, twice, and looks at what it had been told.
#[test]
fn a_killed_python_loses_nothing_that_was_acknowledged() {
    let place = Place::new();
    let mut acknowledged: i64 = 0;
    for lines in [40, 75] {
        let mut child = Command::new(interpreter())
            .arg(script("writer.py"))
            .current_dir(place.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Each line is the number of a commit that has returned.
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        for _ in 0..lines {
            acknowledged = told.next().expect("the writer writes on").parse().unwrap();
        }
        child.kill().unwrap();
        // What it still printed before it died counts, too.
        // Its last line may be cut.
        acknowledged = told.filter_map(|line| line.parse().ok()).fold(acknowledged, i64::max);
        child.wait().unwrap();
    }
    let check = "import sqlite3
m = sqlite3.connect(':memory:'); m.enable_load_extension(True); m.load_extension('./libpwal')
c = sqlite3.connect('app.db')
print(c.execute('SELECT max(n), count(*), count(DISTINCT n) FROM t').fetchone(), c.execute('PRAGMA integrity_check').fetchone()[0])";
    let text = printed(&run(&place, &interpreter(), &["-c", check], ""));
    let numbers: Vec<i64> =
        text.split(|character: char| !character.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    assert!(text.ends_with("ok"), "{text}");
    assert!(numbers[0] >= acknowledged, "commit {acknowledged} was acknowledged, the newest there is {}", numbers[0]);
    assert_eq!(numbers[1], numbers[0], "no commit is missing before the newest");
    assert_eq!(numbers[2], numbers[0]);
    assert_eq!(place.files(), ["app.db"]);

    let stock =
        "import sqlite3; c = sqlite3.connect('app.db'); print(c.execute('SELECT count(*) FROM t').fetchone()[0])";
    assert_eq!(printed(&run(&place, &interpreter(), &["-c", stock], "")), numbers[0].to_string());
}
