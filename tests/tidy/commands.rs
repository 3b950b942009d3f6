//! Commands in the documents name test programs that exist.

use crate::{files, report, root};

#[test]
fn commands_name_test_programs_that_exist() {
    let mut faults = Vec::new();
    let mut found = 0;
    for page in files(&["."], "md") {
        for (_, rest) in page.text.match_indices("--test ").map(|(at, option)| page.text.split_at(at + option.len())) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if name.is_empty() {
                // A placeholder.
                continue;
            }
            found += 1;
            let places = ["tests", "tool/tests", "models/tests"].map(|place| root().join(place).join(&name));
            if !places.iter().any(|place| place.is_dir() || place.with_extension("rs").is_file()) {
                faults.push(format!("{}: --test {name}: no such program", page.path));
            }
        }
    }
    assert!(found > 20, "{found}");
    report(&faults);
}
