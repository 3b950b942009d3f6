//! What several manifests say of one thing.

use super::root;

/// A source distribution of the Python package builds the library by cargo, which wants to see every member of the workspace.
#[test]
fn the_source_distribution_has_every_member_of_the_workspace() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("UTF-8");
    let (manifest, setup) = (read("Cargo.toml"), read("python/setup.py"));
    let list = |text: &str, from: &str| {
        let (_, rest) = text.split_once(from).expect("a list");
        rest.split_once(']').expect("its end").0.to_owned()
    };
    let sources = list(&setup, "SOURCES = [");
    for member in list(&manifest, "members = [").split(',').map(str::trim).filter(|member| *member != "\".\"") {
        assert!(sources.contains(member), "python/setup.py: SOURCES lacks {member}");
    }
}
