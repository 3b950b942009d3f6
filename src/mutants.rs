//! Rules that can be dropped, one at a time, so that it is seen whether a test notices.
//!
//! In every build but those with the feature `mutants`, which `.ci/mutants` makes, [`drops`] is the constant `false`, and each
//! place that asks is compiled as if it did not. With the feature, the environment variable `PWAL_MUTANT` names the rule that is
//! dropped in this process. The feature is refused where debug assertions are off: no library that is built for users has it.
//!
//! To add one: ask `crate::drops("name")` at the place that keeps the rule, in one line that does nothing without the rule, and
//! add a row with the name to the table in `docs/mutants.md`: `.ci/mutants name` shows whether the tests named there notice.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` drops rules that keep data safe: it is for tests only");

/// Whether the rule with this name is dropped.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn drops(_rule: &str) -> bool {
    false
}

/// Whether the rule with this name is dropped; says so on standard error, once.
#[cfg(feature = "mutants")]
pub(crate) fn drops(rule: &str) -> bool {
    use std::sync::OnceLock;
    static DROPPED: OnceLock<Option<String>> = OnceLock::new();
    static MET: OnceLock<()> = OnceLock::new();
    let dropped = DROPPED.get_or_init(|| std::env::var("PWAL_MUTANT").ok()).as_deref() == Some(rule);
    if dropped {
        MET.get_or_init(|| eprintln!("PWAL_MUTANT {rule}: met"));
    }
    dropped
}
