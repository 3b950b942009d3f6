//! What can be set, and how: pragmas, URI parameters, environment. A bad value changes nothing and is
//! answered with what is accepted.

use crate::log::slots::SLOT_BYTES_MAX;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
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

    /// Its number in the shared words.
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

const NUMBERS: [Number; 4] = [
    Number { name: "parallel_wal_lanes", unit: "lanes", least: 1, most: 64, default: 8 },
    Number { name: "parallel_wal_max_batch_bytes", unit: "bytes", least: 65_536, most: 1 << 30, default: 4 << 20 },
    Number { name: "parallel_wal_max_flush_delay_ms", unit: "milliseconds", least: 0, most: 100, default: 2 },
    Number {
        name: "parallel_wal_segment_bytes",
        unit: "bytes",
        least: 1 << 18,
        most: 1 << 30,
        default: SLOT_BYTES_MAX,
    },
];

/// The settings of one database.
#[derive(Debug)]
pub(crate) struct Settings {
    mode: AtomicU8,
    numbers: [AtomicU64; NUMBERS.len()],
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { mode: AtomicU8::new(0), numbers: NUMBERS.map(|number| AtomicU64::new(number.default)) }
    }
}

impl Settings {
    /// Slots of so many bytes, fewer than a user may ask for, and no waiting for other commits.
    #[cfg(test)]
    pub(super) fn for_simulation(segment_bytes: u64) -> Settings {
        let settings = Settings::default();
        settings.numbers[2].store(0, SeqCst);
        settings.numbers[3].store(segment_bytes, SeqCst);
        settings
    }

    pub(crate) fn mode(&self) -> Mode {
        if self.mode.load(SeqCst) == 1 { Mode::Conservative } else { Mode::Auto }
    }

    /// Counts from the next prepare on. `Off` is the connection's, not the database's: not stored here.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(u8::from(mode == Mode::Conservative), SeqCst);
    }

    pub(crate) fn lanes(&self) -> u64 {
        self.numbers[0].load(SeqCst)
    }

    pub(crate) fn batch_bytes_max(&self) -> u64 {
        self.numbers[1].load(SeqCst)
    }

    pub(crate) fn flush_delay_max(&self) -> Duration {
        Duration::from_millis(self.numbers[2].load(SeqCst))
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.numbers[3].load(SeqCst)
    }

    /// The number named `name`, if there is one.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        NUMBERS.iter().position(|number| number.name == name).map(|i| self.numbers[i].load(SeqCst))
    }

    /// Sets the number `name`; `None`: there is no such number.
    ///
    /// # Errors
    /// The range of what is accepted.
    pub(crate) fn set_number(&self, name: &str, text: &str) -> Option<Result<u64, String>> {
        let index = NUMBERS.iter().position(|number| number.name == name)?;
        Some(parse_number(&NUMBERS[index], text).inspect(|value| self.numbers[index].store(*value, SeqCst)))
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
    fn a_bad_value_changes_nothing_and_says_what_is_accepted() {
        let settings = Settings::default();
        let error = settings.set("parallel_wal_mode", "fast").unwrap_err();
        assert!(error.contains("auto, conservative, off"), "{error}");
        assert_eq!(settings.mode(), Mode::Auto);
        let error = settings.set("parallel_wal_segment_bytes", "1").unwrap_err();
        assert!(error.contains("262144 to 1073741824 bytes"), "{error}");
        assert_eq!(settings.segment_bytes(), SLOT_BYTES_MAX);
        assert_eq!(settings.set("parallel_wal_mode", "'Conservative'"), Ok(true));
        assert_eq!(settings.mode(), Mode::Conservative);
        assert_eq!(settings.set("parallel_wal_lanes", "3"), Ok(true));
        assert_eq!(settings.number("parallel_wal_lanes"), Some(3));
        assert_eq!(settings.set("parallel_wal_nonsense", "3"), Ok(false));
    }
}
