//! What the environment sets: `PWAL_<NAME>` is the setting `parallel_wal_<name>`, and `PWAL_LOG` says where messages go.
//! Read once, at registration, so that a value that is not accepted is an error of the loading, which every host shows.

use super::error::RegisterError;
use crate::handle;

/// Variables of the command line tool.
const OF_THE_TOOL: [&str; 2] = ["PWAL_LIBRARY", "PWAL_SQLITE3"];
/// Where messages go.
pub(super) const LOG: &str = "PWAL_LOG";

/// The settings, by the names of the URI parameters, and the variables that are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// `PWAL_MODE=auto` is `("parallel_wal_mode", "auto")`.
    pub(super) accepted: Vec<(String, String)>,
    /// Names that begin with `PWAL_` and that pwal does not know: a slip of the pen, or another program's.
    pub(super) unknown: Vec<String>,
}

/// # Errors
/// A value that is not accepted.
pub(super) fn settings() -> Result<Settings, RegisterError> {
    settings_of(std::env::vars_os().filter_map(|(name, value)| {
        let name = name.to_str().filter(|name| name.starts_with("PWAL_"))?.to_owned();
        Some((name, value.to_string_lossy().into_owned()))
    }))
}

fn settings_of(variables: impl Iterator<Item = (String, String)>) -> Result<Settings, RegisterError> {
    let mut settings = Settings::default();
    for (variable, value) in variables.filter(|(name, _)| name != LOG && !OF_THE_TOOL.contains(&name.as_str())) {
        let name = format!("parallel_wal_{}", variable.trim_start_matches("PWAL_").to_lowercase());
        match handle::check_setting(&name, &value) {
            Ok(true) => settings.accepted.push((name, value)),
            Ok(false) => settings.unknown.push(variable),
            Err(reason) => return Err(RegisterError::Environment { variable, reason }),
        }
    }
    settings.accepted.sort();
    settings.unknown.sort();
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, RegisterError> {
        settings_of(variables.iter().map(|(name, value)| (String::from(*name), String::from(*value))))
    }

    #[test]
    fn a_value_that_is_not_accepted_is_an_error_that_names_the_variable() {
        for (name, value, accepted) in [
            ("PWAL_MODE", "fast", "auto, conservative, off"),
            ("PWAL_SEGMENT_BYTES", "1", "262144 to 1073741824 bytes"),
            ("PWAL_LANES", "", "1 to 64 lanes"),
            ("PWAL_FILE_SYSTEM", "nfs", "accepted: any"),
            ("PWAL_WRITERS", "parallel", "serial, concurrent"),
        ] {
            let error = of(&[("PWAL_LANES", "3"), (name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(accepted), "{error}");
        }
    }

    #[test]
    fn an_unknown_name_is_no_setting_and_no_error() {
        let settings = of(&[
            ("PWAL_MOED", "off"),
            ("PWAL_MODE", "off"),
            ("PWAL_FILE_SYSTEM", "any"),
            ("PWAL_WRITERS", "concurrent"),
            ("PWAL_LOG", "stderr"),
            ("PWAL_LIBRARY", "/usr/lib/libpwal.so"),
        ])
        .unwrap();
        let accepted =
            [("parallel_wal_file_system", "any"), ("parallel_wal_mode", "off"), ("parallel_wal_writers", "concurrent")];
        assert_eq!(settings.accepted, accepted.map(|(name, value)| (String::from(name), String::from(value))));
        assert_eq!(settings.unknown, ["PWAL_MOED"]);
    }
}
