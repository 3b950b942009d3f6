//! The control surface of a connection: its pragmas, and its status.

use super::alone::WHY_INACTIVE;
use super::base::{BaseFile, PragmaAnswer};
use super::concurrent;
use super::file::OpenFile;
use super::header::{read_header, why_bases};
use super::options::{BESIDE_STOCK, CONCURRENT, REFUSE, SERIAL, SHARE, WRITERS, beside_stock, writers};
use super::state::{HandleState, State};
use crate::VFS_NAME;
use crate::engine::{JOURNAL_SIZE_LIMIT, Mode, UNLIMITED};
use crate::host::LockLevel;
use crate::status::Status;

const PREFIX: &str = "parallel_wal_";

/// The pragma of the connection; it counts where the database is first read.
fn set_beside_stock(file: &OpenFile, state: &mut State, value: Option<&str>) -> PragmaAnswer {
    if let Some(value) = value {
        if let Err(error) = beside_stock(value) {
            return PragmaAnswer::Error(error);
        }
        state.pending_settings.retain(|(name, _)| name != BESIDE_STOCK);
        state.pending_settings.push((BESIDE_STOCK.to_owned(), value.to_owned()));
    }
    PragmaAnswer::Row(if file.options().shares_with_stock(&state.pending_settings) { SHARE } else { REFUSE }.to_owned())
}

/// The pragma of the connection; it counts from the next snapshot on.
fn set_writers(file: &OpenFile, state: &mut State, value: Option<&str>) -> PragmaAnswer {
    if let Some(value) = value {
        if let Err(error) = writers(value) {
            return PragmaAnswer::Error(error);
        }
        if matches!(&state.kind, HandleState::Wal(wal) if wal.writer.has_transaction()) {
            return PragmaAnswer::Error(format!("{WRITERS} cannot be set while the transaction writes"));
        }
        state.pending_settings.retain(|(name, _)| name != WRITERS);
        state.pending_settings.push((WRITERS.to_owned(), value.to_owned()));
        apply_pending_settings(file, state);
    }
    let is_concurrent = match &state.kind {
        HandleState::Wal(wal) => wal.writer.concurrent.is_some(),
        HandleState::Alone(_) => false,
        HandleState::Plain | HandleState::Retired { .. } => {
            !state.off && file.options().wants_concurrent(&state.pending_settings)
        }
    };
    PragmaAnswer::Row(if is_concurrent { CONCURRENT } else { SERIAL }.to_owned())
}

/// SQLite's own.
const MAX_PAGE_COUNT: &str = "max_page_count";

fn apply_page_limit(state: &mut State) {
    if let HandleState::Wal(wal) = &mut state.kind {
        wal.writer.limits_pages = state.pending_settings.iter().any(|(name, _)| name == MAX_PAGE_COUNT);
    }
}

/// `SQLITE_FCNTL_PRAGMA`. It comes when the statement is prepared, before the file was read, in a transaction, under
/// the connection's mutexes.
pub(super) fn pragma(
    file: &OpenFile,
    state: &mut State,
    base: &mut dyn BaseFile,
    name: &str,
    value: Option<&str>,
) -> PragmaAnswer {
    let name = name.to_ascii_lowercase();
    if let ("wal_autocheckpoint", Some(value)) = (name.as_str(), value) {
        state.autocheckpoint = integer(value);
        apply_pending_settings(file, state);
    }
    if let ("journal_mode", Some(value)) = (name.as_str(), value) {
        state.leaves_wal = !value.trim_matches(|c| c == '\'' || c == '"').eq_ignore_ascii_case("wal");
    }
    if let ("journal_size_limit", Some(value)) = (name.as_str(), value) {
        limit_size(file, state, value);
    }
    if let ("locking_mode", Some(value), HandleState::Wal(wal)) = (name.as_str(), value, &mut state.kind) {
        wal.wants_alone = value.trim_matches(|c| c == '\'' || c == '"').eq_ignore_ascii_case("exclusive");
    }
    if name == MAX_PAGE_COUNT && value.is_some() {
        state.pending_settings.push((MAX_PAGE_COUNT.to_owned(), String::new()));
        state.pending_settings.dedup();
        apply_page_limit(state);
    }
    if let ("integrity_check" | "quick_check", HandleState::Wal(wal)) = (name.as_str(), &state.kind)
        && wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.growth.has_left())
        && wal.is_reading()
    {
        return PragmaAnswer::Error(format!(
            "{name}: not in a transaction that sees what others have allocated since it began"
        ));
    }
    if !name.starts_with(PREFIX) {
        return PragmaAnswer::NotMine;
    }
    match (name.as_str(), value) {
        ("parallel_wal_status", _) => PragmaAnswer::Row(status_json(file, state)),
        ("parallel_wal_mode", value) => mode(file, state, base, value),
        (BESIDE_STOCK, value) => set_beside_stock(file, state, value),
        (WRITERS, value) => set_writers(file, state, value),
        (name, value) => number(file, state, name, value),
    }
}

/// As `sqlite3Atoi` reads it (`sqlite3GetInt32`): the digits at the begin; 0 where there are none, or a number of more than 31 bits.
fn integer(text: &str) -> i32 {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        [b'0', b'x' | b'X', digits @ ..] => {
            let bytes = digits.iter().take_while(|digit| digit.is_ascii_hexdigit()).count();
            let text = std::str::from_utf8(&digits[..bytes]).unwrap_or_default();
            return i32::from_str_radix(text, 16).unwrap_or(0);
        }
        digits => (false, digits),
    };
    let mut number = 0_i64;
    for digit in digits.iter().take_while(|digit| digit.is_ascii_digit()) {
        number = number.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    }
    i32::try_from(if negative { -number } else { number }).unwrap_or(0)
}

/// As `sqlite3DecOrHexToI64` reads it: a negative number is no limit, and what is no number is 0. SQLite keeps it, too, and
/// answers what counts for this connection; the log has the limit that was set last.
fn limit_size(file: &OpenFile, state: &mut State, value: &str) {
    let text = value.trim().trim_matches(|c| c == '\'' || c == '"');
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = digits.map_or_else(|| text.parse(), |digits| i64::from_str_radix(digits, 16)).unwrap_or(0);
    let bytes = u64::try_from(number).unwrap_or(UNLIMITED);
    state.pending_settings.retain(|(name, _)| name != JOURNAL_SIZE_LIMIT);
    state.pending_settings.push((JOURNAL_SIZE_LIMIT.to_owned(), bytes.to_string()));
    apply_pending_settings(file, state);
}

fn mode(file: &OpenFile, state: &mut State, base: &mut dyn BaseFile, value: Option<&str>) -> PragmaAnswer {
    let wanted = match value.map(Mode::parse).transpose() {
        Ok(wanted) => wanted,
        Err(error) => return PragmaAnswer::Error(error),
    };
    match (&state.kind, wanted) {
        (_, None) => {}
        (HandleState::Wal(_), Some(Mode::Off)) => {
            let text = "parallel_wal_mode: 'off' counts only before the database is first read; \
                        open a new connection with parallel_wal_mode=off, or use journal_mode=DELETE";
            return PragmaAnswer::Error(text.to_owned());
        }
        (_, Some(Mode::Off)) if state.level != LockLevel::None => {
            return PragmaAnswer::Error("parallel_wal_mode: 'off' cannot be set inside a transaction".to_owned());
        }
        (HandleState::Wal(wal), Some(mode)) => {
            wal.engine.log.settings.set_mode(mode);
        }
        (_, Some(mode)) => {
            state.off = mode == Mode::Off;
            state.pending_settings.retain(|(name, _)| name != "parallel_wal_mode");
            state.pending_settings.push(("parallel_wal_mode".to_owned(), mode.name().to_owned()));
        }
    }
    let answer = match why_inactive(file, state, base) {
        Some(why) => format!("inactive: {why}"),
        None => actual_mode(file, state).name().to_owned(),
    };
    PragmaAnswer::Row(answer)
}

/// Why this connection is not on a log, and will not be by a read; but for `parallel_wal_mode=off`.
fn why_inactive(file: &OpenFile, state: &State, base: &mut dyn BaseFile) -> Option<String> {
    if is_alone(file, state) {
        return Some(WHY_INACTIVE.to_owned());
    }
    if !matches!(state.kind, HandleState::Plain) || state.off {
        return None;
    }
    let refused = || file.refused.lock().clone();
    if state.level != LockLevel::None {
        return file.bases.lock().map(str::to_owned).or_else(refused);
    }
    // Before the first read, or between two of a database in rollback mode: as the next SHARED will find it.
    let header = read_header(base).ok()?;
    let plain = !file.is_ours(&header);
    if plain { Some(why_bases(&header).to_owned()) } else { refused() }
}

/// Whether the connection has the database for itself, in WAL mode.
fn is_alone(file: &OpenFile, state: &State) -> bool {
    let in_wal_mode = || state.level == LockLevel::Exclusive && *file.bases.lock() == Some(WHY_INACTIVE);
    matches!(state.kind, HandleState::Alone(_)) || in_wal_mode()
}

/// The mode that counts, or that will count when the database is first read.
fn actual_mode(file: &OpenFile, state: &State) -> Mode {
    match &state.kind {
        HandleState::Wal(wal) => wal.engine.log.settings.mode(),
        _ if state.off => Mode::Off,
        _ => file.options().preview(&state.pending_settings).mode(),
    }
}

fn number(file: &OpenFile, state: &mut State, name: &str, value: Option<&str>) -> PragmaAnswer {
    let scratch = file.options().preview(&state.pending_settings);
    let settings = match &state.kind {
        HandleState::Wal(wal) => &wal.engine.log.settings,
        _ => &scratch,
    };
    if let Some(value) = value {
        match settings.set_number(name, value) {
            None => return PragmaAnswer::NotMine,
            Some(Err(error)) => return PragmaAnswer::Error(error),
            Some(Ok(_)) => {}
        }
    }
    let Some(now) = settings.number(name) else { return PragmaAnswer::NotMine };
    if let (Some(value), false) = (value, matches!(state.kind, HandleState::Wal(_))) {
        state.pending_settings.retain(|(request, _)| request != name);
        state.pending_settings.push((name.to_owned(), value.to_owned()));
    }
    PragmaAnswer::Row(now.to_string())
}

/// What was set before the database was first read counts from the join on.
pub(super) fn apply_pending_settings(file: &OpenFile, state: &mut State) {
    if let HandleState::Wal(wal) = &mut state.kind {
        if !wal.writer.has_transaction() {
            concurrent::set(wal, file.options().wants_concurrent(&state.pending_settings));
        }
        wal.checkpointer.autocheckpoint = state.autocheckpoint;
        file.options().apply(&wal.engine.log.settings, &state.pending_settings);
        // The next time that this connection has no engine.
        state.pending_settings.retain(|(name, _)| matches!(name.as_str(), BESIDE_STOCK | WRITERS | MAX_PAGE_COUNT));
    }
    apply_page_limit(state);
}

/// The state at a glance, as JSON.
pub(super) fn status_json(file: &OpenFile, state: &State) -> String {
    let status = match &state.kind {
        HandleState::Wal(wal) => Status {
            active: true,
            reason: None,
            path: Some(wal.engine.log.path.display().to_string()),
            concurrent: concurrent::status(wal),
            log: Some(wal.engine.status()),
            ..Status::inactive(None, "")
        },
        HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Status {
            path: Some(file.facts.path.display().to_string()),
            beside_stock: Some(state.beside.is_some()),
            exclusive: Some(is_alone(file, state)),
            ..Status::inactive(None, reason(file, state))
        },
    };
    let mode = actual_mode(file, state).name().to_owned();
    Status { vfs: Some(VFS_NAME.to_owned()), mode: Some(mode), ..status }.to_json()
}

/// Why this connection is not on a log, or not yet.
fn reason(file: &OpenFile, state: &State) -> String {
    if is_alone(file, state) {
        return WHY_INACTIVE.to_owned();
    }
    if state.off {
        return "parallel_wal_mode=off".to_owned();
    }
    let refused = file.refused.lock().clone();
    refused.unwrap_or_else(|| file.bases.lock().unwrap_or("not read yet").to_owned())
}

#[cfg(test)]
mod tests {
    use super::integer;

    #[test]
    fn an_integer_is_read_as_sqlite_reads_it() {
        for (text, value) in [
            ("1000", 1000),
            ("1000abc", 1000),
            ("abc", 0),
            ("", 0),
            ("-5", -5),
            ("+7x", 7),
            ("0x10", 16),
            ("0x10g", 16),
            ("0xffffffff", 0),
            ("2147483647", i32::MAX),
            ("2147483648", 0),
            ("99999999999999999999", 0),
            ("1 000", 1),
            ("10.9", 10),
        ] {
            assert_eq!(integer(text), value, "{text}");
        }
    }
}
