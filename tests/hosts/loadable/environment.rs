//! What the environment says of settings and of messages, and the entry point that forbids other VFSes.

use super::{Place, printed, program, run, run_with};
use std::path::Path;
use std::process::Output;

fn shell(place: &Place, environment: &[(&str, &str)], arguments: &[&str], input: &str) -> Output {
    let batch: Vec<&str> = ["-batch"].iter().chain(arguments).copied().collect();
    run_with(place, environment, &program("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3"), &batch, input)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const OPEN: &str = ".load ./libpwal\n.open app.db\n";

#[test]
fn a_setting_that_is_not_accepted_is_an_error_of_the_loading() {
    for (name, value, accepted) in [
        ("PWAL_MODE", "fast", "accepted: auto, conservative, off"),
        ("PWAL_LANES", "many", "accepted: 1 to 64 lanes"),
        ("PWAL_LOG", "/nowhere/pwal.log", "cannot open /nowhere/pwal.log"),
    ] {
        let place = Place::new();
        let output = shell(&place, &[(name, value)], &["-bail"], OPEN);
        assert!(!output.status.success(), "{output:?}");
        let errors = errors(&output);
        assert!(errors.contains(name) && errors.contains(accepted), "{errors}");
        assert_eq!(place.files(), Vec::<String>::new(), "{name}: the shell went on");
    }
}

/// A stock connection keeps pwal out: the refusal is what `PWAL_LOG` shows.
const REFUSED: &str = "PRAGMA journal_mode=wal;\nCREATE TABLE t(x);\nSELECT * FROM t;\n.load ./libpwal\n.connection 1\n.open app.db\nSELECT * FROM t;\n";

#[test]
fn messages_go_to_standard_error_with_time_process_and_database() {
    let place = Place::new();
    let output = shell(&place, &[("PWAL_LOG", "stderr"), ("PWAL_MOED", "off")], &["app.db"], REFUSED);
    let errors = errors(&output);
    let lines: Vec<&str> = errors.lines().filter(|line| line.contains(" pwal: ")).collect();
    assert!(lines[0].ends_with("(28) pwal: PWAL_MOED is not a setting of pwal; ignored"), "{errors}");
    let database = place.path().canonicalize().unwrap().join("app.db");
    let refused = lines.iter().find(|line| line.contains(&format!("(28) pwal: {}: ", database.display())));
    let words: Vec<&str> = refused.unwrap_or_else(|| panic!("{errors}")).split(' ').collect();
    assert!(words[0].starts_with("20") && words[0].ends_with('Z'), "{words:?}");
    assert!(words[1].parse::<u32>().is_ok(), "{words:?}");
}

#[test]
fn messages_are_appended_to_a_file() {
    let place = Place::new();
    std::fs::write(place.path().join("pwal.log"), "a line before\n").unwrap();
    shell(&place, &[("PWAL_LOG", "pwal.log")], &["app.db"], REFUSED);
    let text = std::fs::read_to_string(place.path().join("pwal.log")).unwrap();
    assert!(text.starts_with("a line before\n20") && text.contains("app.db: "), "{text}");
    assert!(text.ends_with('\n'), "{text}");
}

/// A host without standard streams: other code takes descriptors 0 to 2 for them.
#[test]
fn the_file_of_the_messages_gets_no_descriptor_of_a_standard_stream() {
    let place = Place::new();
    let script = r#"printf '.load ./libpwal\n.shell ls -l /proc/$PPID/fd >fds\n' >in; exec "$0" -batch -init in :memory: "SELECT 1" <&- >&- 2>&-"#;
    let sqlite3 = program("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3");
    let arguments = ["-c", script, sqlite3.to_str().unwrap()];
    run_with(&place, &[("PWAL_LOG", "pwal.log")], Path::new("/bin/sh"), &arguments, "");
    let descriptors = std::fs::read_to_string(place.path().join("fds")).unwrap();
    let ours = descriptors.lines().find(|line| line.ends_with("/pwal.log")).unwrap_or_else(|| panic!("{descriptors}"));
    let number = ours.split(" -> ").next().and_then(|left| left.split(' ').next_back()).unwrap();
    assert!(number.parse::<u32>().unwrap() > 2, "{descriptors}");
}

#[test]
fn under_strict_a_file_on_another_vfs_cannot_be_opened() {
    let place = Place::new();
    let sqlite3 = program("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3");
    // What a stock connection leaves when it is killed: pwal settles it by a connection of its own past itself.
    let copy = ".shell cp app.db left.db; cp app.db-wal left.db-wal\n";
    let stock = format!("PRAGMA journal_mode=wal;\nCREATE TABLE t(x);\nINSERT INTO t VALUES(7);\n{copy}");
    printed(&run(&place, &sqlite3, &["-batch", "app.db"], &stock));
    assert!(place.path().join("left.db-wal").metadata().unwrap().len() > 0);
    let input = ".load ./libpwal sqlite3_pwalstrict_init\n.open left.db\n.vfsname\nSELECT x FROM t;\n\
                 PRAGMA parallel_wal_beside_stock;\n.open :memory:\nSELECT 'memory';\n.open file:left.db?vfs=unix\nSELECT x FROM t;\n";
    let output = run(&place, &sqlite3, &["-batch"], input);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pwal/unix\n7\nrefuse\nmemory\n", "{output:?}");
    assert!(errors(&output).contains("another VFS than pwal"), "{output:?}");
}
