//! `docs/mutants.md` and the places in the source name the same mutants, and each has a test or a reason.

use pwal::internal::log::decide::ROWS;
use std::collections::BTreeSet;
use std::path::Path;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The names in `drops("...")` in the files below `directory`.
fn asked_in(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            asked_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("mutants.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            names.extend(text.split("drops(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
}

#[test]
fn the_table_names_every_mutant() {
    let mut asked: BTreeSet<String> = ROWS.iter().map(|row| row.name.to_owned()).collect();
    asked_in(&Path::new(HERE).join("src"), &mut asked);
    asked_in(&Path::new(HERE).join("models/src"), &mut asked);
    let table = std::fs::read_to_string(Path::new(HERE).join("docs/mutants.md")).unwrap();
    let mut named = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _rule, place, noticed_by, _seconds] = cells[..] else { panic!("not five columns: {line}") };
        assert!(!noticed_by.is_empty(), "neither a test nor a reason: {line}");
        for place in place.split(", ") {
            let path = Path::new(HERE).join("src").join(place.trim_matches('`'));
            assert!(path.is_file(), "no such file: {line}");
        }
        assert!(named.insert(name.trim_matches('`').to_owned()), "twice: {line}");
    }
    assert_eq!(asked, named);
}

/// What users get has no rule that can be dropped.
#[test]
fn no_build_without_debug_assertions_has_the_feature() {
    let manifest = std::fs::read_to_string(Path::new(HERE).join("Cargo.toml")).unwrap();
    let feature = |name: &str| manifest.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert_eq!(feature("mutants ="), "mutants = []");
    assert_eq!(feature("default ="), "default = [\"linked\"]");
    let source = std::fs::read_to_string(Path::new(HERE).join("src/mutants.rs")).unwrap();
    assert!(source.contains("#[cfg(all(feature = \"mutants\", not(debug_assertions)))]\ncompile_error!("));
}
