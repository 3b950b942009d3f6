//! Links of the documents: the file is there, and the section.

use crate::{Source, files, report, root};
use std::path::{Component, Path, PathBuf};

/// The links of a page in Markdown, without those to the web.
fn links(page: &Source) -> Vec<&str> {
    let mut links = Vec::new();
    let mut rest = page.text.as_str();
    while let Some((_, after)) = rest.split_once("](") {
        let (link, after) = after.split_once(')').expect("an end of the link");
        if !link.contains("://") {
            links.push(link);
        }
        rest = after;
    }
    links
}

/// The anchor of a heading, as GitHub makes it: lower case, spaces become hyphens, punctuation goes.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

fn anchors(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#')))
}

/// `a/../b` is `b`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => assert!(path.pop(), "a link out of the project"),
            part => path.push(part),
        }
        path
    })
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let pages = files(&["."], "md");
    assert!(pages.len() > 10 && pages.iter().any(|page| page.path.ends_with("architecture.md")));
    let mut faults = Vec::new();
    for page in &pages {
        for link in links(page) {
            let (file, section) = link.split_once('#').map_or((link, None), |(file, section)| (file, Some(section)));
            let here = Path::new(&page.path);
            let target =
                if file.is_empty() { here.to_owned() } else { plain(&here.parent().expect("a parent").join(file)) };
            let found = root().join(&target);
            if !found.exists() {
                faults.push(format!("{}: {link}: no such file", page.path));
            } else if let Some(section) = section {
                let text = std::fs::read_to_string(&found).expect("a page");
                if !anchors(&text).any(|anchor| anchor == section) {
                    faults.push(format!("{}: {link}: no such section", page.path));
                }
            }
        }
    }
    report(&faults);
}

/// Each page of `docs` is in the reading order.
#[test]
fn the_reading_order_names_each_document() {
    let order = std::fs::read_to_string(root().join("docs/README.md")).expect("a page");
    let missing = files(&["docs"], "md").into_iter().filter(|page| {
        let name = page.path.strip_prefix("docs/").expect("a page of docs");
        name != "README.md" && !order.contains(&format!("]({name})"))
    });
    report(&missing.map(|page| format!("{} is not in docs/README.md", page.path)).collect::<Vec<_>>());
}

#[test]
fn anchors_are_made_as_github_makes_them() {
    assert_eq!(
        anchor(" Where it differs from its first design, and why"),
        "where-it-differs-from-its-first-design-and-why"
    );
    assert_eq!(anchor(" Programs as they are: `pwal run`"), "programs-as-they-are-pwal-run");
}
