//! Settings and their sources: pragmas, URI parameters, environment. A bad value changes nothing, and the answer lists
//! the accepted values.
//!
//! The settings belong to the database: they lie in the control block, and what one process sets is valid for all. The
//! environment of the process that claims the database counts; a process that joins later has URI parameters and
//! pragmas.

use crate::log::segments::SEGMENT_BYTES_MAX;
use crate::shared::{Member, SETTINGS};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// How commits become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Lanes, shared epochs, leases, background checkpoint.
    Auto,
    /// One ordered path; each commit is its own epoch.
    Conservative,
    /// The connection is not on pwal: everything passes through.
    Off,
}

impl Mode {
    const ALL: [(Mode, &'static str); 3] =
        [(Mode::Auto, "auto"), (Mode::Conservative, "conservative"), (Mode::Off, "off")];

    pub(crate) fn name(self) -> &'static str {
        Mode::ALL.iter().find(|(mode, _)| *mode == self).map_or("auto", |(_, name)| name)
    }

    /// Its number in the control block.
    pub(crate) fn number(self) -> u64 {
        match self {
            Mode::Auto => 0,
            Mode::Conservative => 1,
            Mode::Off => 2,
        }
    }

    /// # Errors
    /// The list of what is accepted.
    pub(crate) fn parse(text: &str) -> Result<Mode, String> {
        let text = text.trim().trim_matches(|c| c == '\'' || c == '"').to_ascii_lowercase();
        Mode::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(mode, _)| *mode)
            .ok_or_else(|| format!("parallel_wal_mode: '{text}' is not a mode; accepted: auto, conservative, off"))
    }
}

/// One number that can be set.
struct Number {
    name: &'static str,
    unit: &'static str,
    least: u64,
    most: u64,
    default: u64,
}

/// SQLite's own pragma, which it also keeps itself.
pub(crate) const JOURNAL_SIZE_LIMIT: &str = "journal_size_limit";
/// No limit.
pub(crate) const UNLIMITED: u64 = u64::MAX - 1;

const NUMBERS: [Number; 8] = [
    Number { name: "parallel_wal_lanes", unit: "lanes", least: 1, most: 64, default: 8 },
    Number { name: "parallel_wal_max_batch_bytes", unit: "bytes", least: 65_536, most: 1 << 30, default: 4 << 20 },
    Number { name: "parallel_wal_max_flush_delay_ms", unit: "milliseconds", least: 0, most: 100, default: 2 },
    Number {
        name: "parallel_wal_segment_bytes",
        unit: "bytes",
        least: 1 << 18,
        most: 1 << 30,
        default: SEGMENT_BYTES_MAX,
    },
    Number { name: JOURNAL_SIZE_LIMIT, unit: "bytes", least: 0, most: UNLIMITED, default: UNLIMITED },
    Number { name: "parallel_wal_log_limit_bytes", unit: "bytes", least: 0, most: 1 << 50, default: 0 },
    Number { name: "parallel_wal_reader_limit_bytes", unit: "bytes", least: 0, most: 1 << 50, default: 0 },
    Number {
        name: "parallel_wal_idle_retire_ms",
        unit: "milliseconds (0: never)",
        least: 0,
        most: 86_400_000,
        default: 10_000,
    },
];

const _: () = assert!(NUMBERS.len() <= SETTINGS);

/// The settings of one database.
#[derive(Debug)]
pub(crate) struct Settings(Place);

#[derive(Debug)]
enum Place {
    /// Of a database that is not open yet.
    Own { mode: AtomicU64, numbers: [AtomicU64; NUMBERS.len()] },
    /// Those that all processes share.
    ControlBlock(Arc<Member>),
}

impl Default for Settings {
    fn default() -> Settings {
        Settings(Place::Own { mode: AtomicU64::new(0), numbers: [const { AtomicU64::new(0) }; NUMBERS.len()] })
    }
}

impl Settings {
    /// Those of the control block.
    pub(super) fn shared(member: &Arc<Member>) -> Settings {
        Settings(Place::ControlBlock(Arc::clone(member)))
    }

    /// Transactions spill that have more images than these bytes, below the user-visible minimum.
    #[cfg(test)]
    pub(super) fn spill_from(&self, batch_bytes: u64) {
        self.store(1, batch_bytes);
    }

    /// Segments of `segment_bytes`, below the user-visible minimum, and no waiting for other commits.
    #[cfg(test)]
    pub(crate) fn for_simulation(segment_bytes: u64) -> Settings {
        let settings = Settings::default();
        settings.store(2, 0);
        settings.store(3, segment_bytes);
        settings.store(7, 0);
        settings
    }

    /// Puts them all into `other`.
    pub(crate) fn copy_to(&self, other: &Settings) {
        other.set_mode(self.mode());
        for index in 0..NUMBERS.len() {
            other.store_code(index, self.code(index));
        }
    }

    /// A number as it is stored: 0 is the default, else the value + 1.
    fn code(&self, index: usize) -> u64 {
        match &self.0 {
            Place::Own { numbers, .. } => numbers[index].load(SeqCst),
            Place::ControlBlock(member) => member.control().setting(index),
        }
    }

    fn store_code(&self, index: usize, code: u64) {
        match &self.0 {
            Place::Own { numbers, .. } => numbers[index].store(code, SeqCst),
            Place::ControlBlock(member) => member.control().set_setting(index, code),
        }
    }

    fn value(&self, index: usize) -> u64 {
        let Number { least, most, default, .. } = NUMBERS[index];
        // The simulation's segments are smaller than a user may ask for.
        let least = if cfg!(test) { 0 } else { least };
        self.code(index).checked_sub(1).map_or(default, |value| value.clamp(least, most))
    }

    fn store(&self, index: usize, value: u64) {
        self.store_code(index, value.saturating_add(1));
    }

    pub(crate) fn mode(&self) -> Mode {
        let mode = match &self.0 {
            Place::Own { mode, .. } => mode.load(SeqCst),
            Place::ControlBlock(member) => member.control().mode(),
        };
        if mode == Mode::Conservative.number() { Mode::Conservative } else { Mode::Auto }
    }

    /// Valid from the next prepare on, for all processes. `Off` belongs to the connection, not to the database: not
    /// stored here.
    pub(crate) fn set_mode(&self, mode: Mode) {
        let number = if mode == Mode::Off { Mode::Auto.number() } else { mode.number() };
        match &self.0 {
            Place::Own { mode, .. } => mode.store(number, SeqCst),
            Place::ControlBlock(member) => member.control().set_mode(number),
        }
    }

    pub(crate) fn lanes(&self) -> u64 {
        self.value(0)
    }

    pub(crate) fn batch_bytes_max(&self) -> u64 {
        self.value(1)
    }

    pub(crate) fn flush_delay_max(&self) -> Duration {
        Duration::from_millis(self.value(2))
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.value(3)
    }

    /// As SQLite's `journal_size_limit`: what an idle log may keep though it does not need it, in bytes.
    pub(crate) fn journal_size_limit(&self) -> u64 {
        self.value(4)
    }

    /// From this size of a log that a reader keeps, commits are refused.
    pub(crate) fn log_limit_bytes(&self) -> Option<u64> {
        Some(self.value(5)).filter(|bytes| *bytes != 0)
    }

    /// From this size of a log that a reader keeps, the reader loses its snapshot.
    pub(crate) fn reader_limit_bytes(&self) -> Option<u64> {
        Some(self.value(6)).filter(|bytes| *bytes != 0)
    }

    /// The time without a commit after which the log is retired with connections open; `None`: it is not.
    pub(crate) fn idle_retire(&self) -> Option<Duration> {
        Some(self.value(7)).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// The number named `name`, if there is one.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        NUMBERS.iter().position(|number| number.name == name).map(|index| self.value(index))
    }

    /// Sets the number `name`; `None`: there is no such number.
    ///
    /// # Errors
    /// The range of what is accepted.
    pub(crate) fn set_number(&self, name: &str, text: &str) -> Option<Result<u64, String>> {
        let index = NUMBERS.iter().position(|number| number.name == name)?;
        Some(parse_number(&NUMBERS[index], text).inspect(|value| self.store(index, *value)))
    }

    /// Sets what a URI parameter or a variable of the environment (without its prefix) names; false: no such name.
    ///
    /// # Errors
    /// What is accepted.
    pub(crate) fn set(&self, name: &str, text: &str) -> Result<bool, String> {
        if name == "parallel_wal_mode" {
            self.set_mode(Mode::parse(text)?);
            return Ok(true);
        }
        match self.set_number(name, text) {
            None => Ok(false),
            Some(result) => result.map(|_| true),
        }
    }
}

fn parse_number(number: &Number, text: &str) -> Result<u64, String> {
    let Number { name, unit, least, most, .. } = number;
    let value = text.trim().trim_matches(|c| c == '\'' || c == '"').parse().ok();
    value
        .filter(|value| (least..=most).contains(&value))
        .ok_or_else(|| format!("{name}: '{text}' is not accepted; accepted: {least} to {most} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_place_sets_another_reads() {
        let (one, other) = (Settings::default(), Settings::default());
        one.set("parallel_wal_max_flush_delay_ms", "0").unwrap().then_some(()).unwrap();
        one.set_mode(Mode::Conservative);
        one.copy_to(&other);
        assert_eq!((other.flush_delay_max(), other.mode()), (Duration::ZERO, Mode::Conservative));
        assert_eq!(other.lanes(), 8, "what was not set stays the default");
        other.store_code(0, u64::MAX);
        assert_eq!(other.lanes(), 64, "what no version of pwal stores");
    }

    #[test]
    fn a_bad_value_changes_nothing_and_says_what_is_accepted() {
        let settings = Settings::default();
        let error = settings.set("parallel_wal_mode", "fast").unwrap_err();
        assert!(error.contains("auto, conservative, off"), "{error}");
        assert_eq!(settings.mode(), Mode::Auto);
        let error = settings.set("parallel_wal_segment_bytes", "1").unwrap_err();
        assert!(error.contains("262144 to 1073741824 bytes"), "{error}");
        assert_eq!(settings.segment_bytes(), SEGMENT_BYTES_MAX);
        assert_eq!(settings.set("parallel_wal_mode", "'Conservative'"), Ok(true));
        assert_eq!(settings.mode(), Mode::Conservative);
        assert_eq!(settings.set("parallel_wal_lanes", "3"), Ok(true));
        assert_eq!(settings.number("parallel_wal_lanes"), Some(3));
        assert_eq!(settings.set("parallel_wal_nonsense", "3"), Ok(false));
    }
}
