//! The names of the files in a log directory.

use super::LogId;

/// The file whose lock shows that the database has an owner.
pub const LOCK_NAME: &str = "lock";
/// The file that holds the control block processes share.
pub const CONTROL_NAME: &str = "control";

/// The name of a segment: `<log id, 16 hex>-<id, 4 digits>.seg`.
#[must_use]
pub fn segment_name(log_id: LogId, id: u32) -> String {
    format!("{log_id:016x}-{id:04}.seg")
}

/// The name of a spill file: `<log id, 16 hex>-<number, 4 digits>.spill`.
#[must_use]
pub fn spill_name(log_id: LogId, number: u32) -> String {
    format!("{log_id:016x}-{number:04}.spill")
}

/// The name of the marker that says: everything of this log, to commit `last`, is in the database file.
#[must_use]
pub fn marker_name(log_id: LogId, last: u64) -> String {
    format!("retired-{log_id:016x}-{last}")
}

/// What a name in the log directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileName {
    /// [`LOCK_NAME`]
    Lock,
    /// [`CONTROL_NAME`]
    Control,
    /// [`segment_name`]
    Segment {
        /// The log.
        log_id: LogId,
        /// The number in the name.
        id: u32,
    },
    /// [`spill_name`]
    Spill {
        /// The log.
        log_id: LogId,
        /// The number in the name.
        number: u32,
    },
    /// [`marker_name`]
    Marker {
        /// The log.
        log_id: LogId,
        /// The last commit of the log.
        last: u64,
    },
}

impl FileName {
    /// What `name` says, if it is one of ours, spelt exactly as we spell it.
    #[must_use]
    pub fn parse(name: &str) -> Option<FileName> {
        let parsed = match name {
            LOCK_NAME => FileName::Lock,
            CONTROL_NAME => FileName::Control,
            _ => {
                if let Some(rest) = name.strip_prefix("retired-") {
                    let (id, last) = rest.split_once('-')?;
                    FileName::Marker { log_id: parse_id(id)?, last: last.parse().ok()? }
                } else {
                    let (id, rest) = name.split_once('-')?;
                    let log_id = parse_id(id)?;
                    if let Some(number) = rest.strip_suffix(".seg") {
                        FileName::Segment { log_id, id: number.parse().ok()? }
                    } else {
                        FileName::Spill { log_id, number: rest.strip_suffix(".spill")?.parse().ok()? }
                    }
                }
            }
        };
        // One spelling for each name, so that two files can never claim to be the same segment.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// The log that the file belongs to; `None` for `lock` and `control`.
    #[must_use]
    pub fn log_id(&self) -> Option<LogId> {
        match *self {
            FileName::Lock | FileName::Control => None,
            FileName::Segment { log_id, .. } | FileName::Spill { log_id, .. } | FileName::Marker { log_id, .. } => {
                Some(log_id)
            }
        }
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            FileName::Lock => f.write_str(LOCK_NAME),
            FileName::Control => f.write_str(CONTROL_NAME),
            FileName::Segment { log_id, id } => f.write_str(&segment_name(log_id, id)),
            FileName::Spill { log_id, number } => f.write_str(&spill_name(log_id, number)),
            FileName::Marker { log_id, last } => f.write_str(&marker_name(log_id, last)),
        }
    }
}

fn parse_id(text: &str) -> Option<LogId> {
    let id = LogId::from_str_radix(text, 16).ok()?;
    (text.len() == 16 && id != 0).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_have_one_spelling() {
        for name in [
            FileName::Lock,
            FileName::Control,
            FileName::Segment { log_id: 1, id: 0 },
            FileName::Segment { log_id: u64::MAX, id: 12345 },
            FileName::Spill { log_id: 0xabcdef, number: 9999 },
            FileName::Marker { log_id: 7, last: 0 },
            FileName::Marker { log_id: 7, last: u64::MAX },
        ] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        for foreign in [
            "",
            "lock2",
            "0000000000000000-0000.seg",
            "0000000000000001-000.seg",
            "0000000000000001-00001.seg",
            "000000000000000A-0001.seg",
            "000000000000000a-+001.seg",
            "retired-0000000000000001-01",
            "retired-0000000000000001-",
            "0000000000000001-0001.spil",
            "é000000000000001-0001.seg",
        ] {
            assert_eq!(FileName::parse(foreign), None, "{foreign}");
        }
    }
}
