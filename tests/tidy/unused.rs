//! No function of `src` has a parameter that it does not use. The compiler says so of all but those whose name begins with `_`.

use crate::{files, report};

/// Their other form, in another build, uses it.
const OTHER_FORMS: [&str; 3] = ["src/interleave.rs", "src/mutants.rs", "src/shared/lock.rs"];
/// Parameters that prove something by being there.
const PROOFS: [&str; 1] = ["&AppendGuard"];

/// The parameters `_name: Type` of functions, but for callbacks of C and the methods of traits, whose parameters are given.
fn unused(text: &str) -> Vec<String> {
    let (mut found, mut is_of_trait, mut is_signature, mut is_of_c) = (Vec::new(), false, false, false);
    for line in text.lines() {
        if line.starts_with("impl") || line.starts_with("pub trait") || line.starts_with("pub(crate) trait") {
            is_of_trait = line.contains(" for ") || line.contains("trait ");
        } else if line == "}" {
            is_of_trait = false;
        }
        if line.contains("fn ") && !line.trim_start().starts_with("//") {
            (is_signature, is_of_c) = (true, line.contains("extern \"C\""));
        }
        if !is_signature {
            continue;
        }
        if !is_of_trait && !is_of_c {
            for part in line.split(['(', ',']).map(str::trim) {
                let parameter = part.split_once(": ").filter(|(name, _)| name.starts_with('_') && name.len() > 1);
                if let Some((name, of)) = parameter.filter(|(_, of)| !PROOFS.iter().any(|proof| of.starts_with(proof)))
                {
                    found.push(format!("{name}: {of}"));
                }
            }
        }
        is_signature = !line.ends_with(['{', ';', '}']);
    }
    found
}

#[test]
fn every_parameter_is_used() {
    let sources = files(&["src"], "rs").into_iter();
    let sources = sources.filter(|file| !file.path.contains("tests") && !OTHER_FORMS.contains(&file.path.as_str()));
    let faults = sources.flat_map(|file| {
        let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        unused(&code).into_iter().map(move |parameter| format!("{}: {parameter}", file.path))
    });
    report(&faults.collect::<Vec<_>>());
}

#[test]
fn an_unused_parameter_is_seen() {
    let text = "impl A {\n    pub fn b(&self, _c: u32, d: u8) {\n        let _e: u8 = d;\n    }\n    fn f(\n        &self,\n        _g: i8,\n    ) {\n    }\n}\n";
    assert_eq!(unused(text), ["_c: u32", "_g: i8"]);
    assert!(
        unused("impl A for B {\n    fn b(&self, _c: u32) {}\n}\nunsafe extern \"C\" fn x(\n    _a: u8,\n) {}\n")
            .is_empty()
    );
    assert!(unused("fn a(_append: &AppendGuard) {}\n").is_empty());
}
