//! What a connection was opened with: the environment's settings, then those of its URI, then those of its pragmas, of which the last
//! one counts. By name: some are the engine's ([`Settings`]), some the connection's own.

use super::base::OpenFacts;
use super::registry::Context;
use crate::engine::{Mode, Settings};
use crate::sqlite::Code;

pub(super) const FILE_SYSTEM: &str = "parallel_wal_file_system";

pub(super) const BESIDE_STOCK: &str = "parallel_wal_beside_stock";
/// What it takes: work as stock SQLite does beside a connection of it, or BUSY.
pub(super) const SHARE: &str = "share";
pub(super) const REFUSE: &str = "refuse";

pub(super) const WRITERS: &str = "parallel_wal_writers";
/// What it takes: one transaction writes at a time, or those after BEGIN write beside each other.
pub(super) const SERIAL: &str = "serial";
pub(super) const CONCURRENT: &str = "concurrent";

type Pair = (String, String);

/// The options of one open file, without those of pragmas.
#[derive(Clone, Copy)]
pub(super) struct Options<'a> {
    pub(super) context: &'a Context,
    pub(super) facts: &'a OpenFacts,
}

impl<'a> Options<'a> {
    /// All, in their order; then those of pragmas.
    fn with<'b>(self, pragmas: &'b [Pair]) -> impl DoubleEndedIterator<Item = &'b Pair>
    where
        'a: 'b,
    {
        self.context.environment.defaults.iter().chain(&self.facts.parameters).chain(pragmas)
    }

    /// Whether URI or environment say `parallel_wal_mode=off` for this connection; the URI counts more.
    pub(super) fn opens_off(self) -> bool {
        let of = |pairs: &[Pair]| {
            let value =
                pairs.iter().rev().find(|(name, _)| name == "parallel_wal_mode").map(|(_, value)| value.clone());
            value.and_then(|value| Mode::parse(&value).ok())
        };
        of(&self.facts.parameters).or_else(|| of(&self.context.environment.defaults)) == Some(Mode::Off)
    }

    /// Whether URI or environment take a file system on which the log's promises may not hold.
    pub(super) fn any_file_system(self) -> bool {
        self.with(&[]).rfind(|(name, _)| name == FILE_SYSTEM).is_some_and(|(_, value)| value == "any")
    }

    /// Whether this connection works as stock SQLite does where one that is not on pwal has the database open.
    pub(super) fn shares_with_stock(self, pragmas: &[Pair]) -> bool {
        self.with(pragmas)
            .rfind(|(name, value)| name == BESIDE_STOCK && beside_stock(value).is_ok())
            .is_none_or(|(_, value)| beside_stock(value) == Ok(SHARE))
    }

    /// Whether this connection wants its transactions to write beside others.
    pub(super) fn wants_concurrent(self, pragmas: &[Pair]) -> bool {
        let last = self.with(pragmas).rfind(|(name, value)| name == WRITERS && writers(value).is_ok());
        last.is_some_and(|(_, value)| writers(value) == Ok(CONCURRENT))
    }

    /// What the settings would be if this connection's claim were the first.
    pub(super) fn preview(self, pragmas: &[Pair]) -> Settings {
        let settings = Settings::default();
        for (name, value) in self.with(pragmas) {
            // Bad values were reported when they were first applied, or will be.
            let _ = Mode::parse(value).map_or_else(
                |_| settings.set(name, value),
                |mode| {
                    if mode == Mode::Off { Ok(false) } else { settings.set(name, value) }
                },
            );
        }
        settings
    }

    /// The environment's settings, for a database that is claimed. A process that joins finds the settings made: another
    /// environment (a console, a job) must not change what the servers run with.
    pub(super) fn apply_defaults(self, settings: &Settings) {
        self.apply(settings, &self.context.environment.defaults);
    }

    /// The URI parameters of a connection that joins.
    pub(super) fn apply_parameters(self, settings: &Settings) {
        self.apply(settings, &self.facts.parameters);
    }

    /// Those that are the engine's; a bad one is logged.
    pub(super) fn apply(self, settings: &Settings, pairs: &[Pair]) {
        for (name, value) in pairs {
            if matches!(name.as_str(), FILE_SYSTEM | BESIDE_STOCK | WRITERS)
                || (name == "parallel_wal_mode" && Mode::parse(value) == Ok(Mode::Off))
            {
                continue;
            }
            let told = match settings.set(name, value) {
                Ok(true) => continue,
                Ok(false) => format!("{name} is not a setting of pwal"),
                Err(error) => error,
            };
            self.context.environment.host.log(Code::ERROR.number(), &format!("pwal: {told}; ignored"));
        }
    }
}

/// # Errors
/// What is accepted.
pub(super) fn beside_stock(value: &str) -> Result<&'static str, String> {
    let text = value.trim().trim_matches(|c| c == '\'' || c == '"');
    [SHARE, REFUSE]
        .into_iter()
        .find(|word| word.eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("{BESIDE_STOCK}: '{value}' is not accepted; accepted: {SHARE}, {REFUSE}"))
}

/// # Errors
/// What is accepted.
pub(super) fn writers(value: &str) -> Result<&'static str, String> {
    let text = value.trim().trim_matches(|c| c == '\'' || c == '"');
    [SERIAL, CONCURRENT]
        .into_iter()
        .find(|word| word.eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("{WRITERS}: '{value}' is not accepted; accepted: {SERIAL}, {CONCURRENT}"))
}

/// Whether `name` is a setting that takes `value`, of a URI or of the environment; false: there is no such setting.
///
/// # Errors
/// What is accepted.
pub(crate) fn check_setting(name: &str, value: &str) -> Result<bool, String> {
    match (name, value) {
        (FILE_SYSTEM, "any") => Ok(true),
        (BESIDE_STOCK, value) => beside_stock(value).map(|_| true),
        (WRITERS, value) => writers(value).map(|_| true),
        (FILE_SYSTEM, _) => Err(format!("{FILE_SYSTEM}: '{value}' is not accepted; accepted: any")),
        _ => Settings::default().set(name, value),
    }
}
