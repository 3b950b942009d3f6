//! Numbers, tables and lines for people.

use std::fmt::Write;
use std::io::{self, Write as _};
use std::time::Duration;

/// Prints a line as `println!` does, but for a reader that has gone (`pwal dump ... | head`) it ends the program quietly.
macro_rules! say {
    ($($arguments:tt)*) => { $crate::text::print(&format!("{}\n", format_args!($($arguments)*))) };
}
pub(crate) use say;

/// Prints a text.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        if !gone {
            eprintln!("pwal: cannot print: {error}");
        }
        std::process::exit(if gone { 0 } else { 4 });
    }
}

/// `1234567` as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size as people write it: `512 bytes`, `64 KiB`, `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    // Rounded down, so that nothing looks larger than it is.
    let tenths = (u128::from(bytes) * 10) >> shift;
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        rest => format!("{}.{rest} {unit}", tenths / 10),
    }
}

/// One word with its number: `1 segment`, `2 segments`.
pub fn counted(number: u64, word: &str) -> String {
    format!("{} {word}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A waiting time.
pub fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{:.1} s", duration.as_secs_f64()),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}

/// A table with a head; columns of numbers, ranges and sizes stand right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table, each line behind `indent`.
    pub fn render(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: usize, column: usize| self.rows[row].get(column).map_or("", String::as_str);
        let is_number = |text: &str| {
            let first = text.split(' ').next().unwrap_or_default();
            !first.is_empty() && first.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '.')
        };
        let mut lines = vec![String::new(); self.rows.len()];
        for column in 0..columns {
            let width = (0..self.rows.len()).map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
            let right = (1..self.rows.len()).any(|row| is_number(cell(row, column)))
                && (1..self.rows.len())
                    .all(|row| is_number(cell(row, column)) || matches!(cell(row, column), "" | "free"));
            for (row, line) in lines.iter_mut().enumerate() {
                let text = cell(row, column);
                let _ = if right { write!(line, "{text:>width$}  ") } else { write!(line, "{text:<width$}  ") };
            }
        }
        let mut text = String::new();
        for line in lines {
            let _ = writeln!(text, "{indent}{}", line.trim_end());
        }
        text
    }
}
