//! `PWAL_VERSION` for `pwal_version()`: the package's version, and in release builds from a
//! checkout the git revision (`0.1.0 (1a2b3c4d5e6f)`), so that a report about a library file
//! says which source it was. Development builds carry no revision: they would be rebuilt by every commit.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let revision = if release { revision() } else { None };
    match revision {
        Some(revision) => println!("cargo::rustc-env=PWAL_VERSION={version} ({revision})"),
        None => println!("cargo::rustc-env=PWAL_VERSION={version}"),
    }
}

/// The revision of the checkout whose root is this package; `None` without git, and for a package
/// that merely lies inside another repository.
fn revision() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&root).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // HEAD changes with the branch, its log with every commit.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
