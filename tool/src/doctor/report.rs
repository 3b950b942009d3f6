//! What the checks found.

use crate::database::DatabaseFile;
use serde_json::{Value, json};
use std::fmt::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works, but not as well as it could, or not for all users.
    Warn,
    /// It does not work, or data is at risk.
    Problem,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Warn => "warn",
            Verdict::Problem => "problem",
        }
    }
}

/// One line of the report.
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What to change.
    advice: Option<String>,
}

#[derive(Default)]
pub struct Report {
    checks: Vec<Check>,
}

impl Report {
    pub fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.add(what, Verdict::Ok, found.into(), None);
    }

    pub fn note(&mut self, what: &'static str, found: impl Into<String>) {
        self.add(what, Verdict::Note, found.into(), None);
    }

    pub fn warn(&mut self, what: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(what, Verdict::Warn, found.into(), Some(advice.into()));
    }

    pub fn problem(&mut self, what: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(what, Verdict::Problem, found.into(), Some(advice.into()));
    }

    fn add(&mut self, what: &'static str, verdict: Verdict, found: String, advice: Option<String>) {
        self.checks.push(Check { what, verdict, found, advice });
    }

    /// Whether the checks of this name have found nothing to say yet.
    pub fn is_silent_on(&self, what: &str) -> bool {
        self.checks.iter().all(|check| check.what != what)
    }

    pub fn count(&self, verdict: Verdict) -> u64 {
        self.checks.iter().filter(|check| check.verdict == verdict).count() as u64
    }

    /// A line for each check, and below it what to change.
    pub fn render(&self) -> String {
        let width = self.checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Check { what, verdict, found, advice } in &self.checks {
            let _ = writeln!(text, "{:<8} {what:<width$}  {found}", verdict.name());
            if let Some(advice) = advice {
                let _ = writeln!(text, "{:<8} {:<width$}  -> {advice}", "", "");
            }
        }
        text
    }

    pub fn as_json(&self, database: &DatabaseFile) -> Value {
        let worst = self.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
        json!({
            "database": database.name().to_string(),
            "verdict": worst.name(),
            "checks": self.checks.iter().map(|check| json!({
                "check": check.what,
                "verdict": check.verdict.name(),
                "found": check.found,
                "advice": check.advice,
            })).collect::<Vec<_>>(),
        })
    }
}
