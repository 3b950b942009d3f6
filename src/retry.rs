//! A transaction that begins again where SQLite says that it has to.

use std::time::Duration;

/// `SQLITE_BUSY`, the primary code of `SQLITE_BUSY_SNAPSHOT`, too.
const BUSY: i32 = 5;
/// Attempts by `BEGIN`, before one by `BEGIN IMMEDIATE`.
const ATTEMPTS: u32 = 8;
/// Attempts that follow at once: what an attempt lost against is over.
const AT_ONCE: u32 = 3;
/// From then on a pause before each, of this for each attempt that failed.
const PAUSE: Duration = Duration::from_millis(1);

/// Runs `work` in a transaction on `connection`, again if it is refused for what others write meanwhile (`SQLITE_BUSY`,
/// `SQLITE_BUSY_SNAPSHOT`): eight times after `BEGIN`, and then once after `BEGIN IMMEDIATE`, which waits for the write lock by the busy
/// timeout and is refused nothing after it.
///
/// For any crate: `execute` runs a statement, `code` gives SQLite's result code of an error, primary or extended, and `None` for an error
/// that is not SQLite's. `work` runs several times, each time from the beginning: what it does outside of the database it may do
/// several times. It must not end the transaction.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut connection = rusqlite::Connection::open_in_memory()?;
/// # connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 1)")?;
/// use rusqlite::{Connection, Error};
///
/// fn transaction<T>(
///     connection: &mut Connection,
///     work: impl FnMut(&mut Connection) -> Result<T, Error>,
/// ) -> Result<T, Error> {
///     let code = |error: &Error| error.sqlite_error().map(|error| error.extended_code);
///     pwal::retry(connection, |connection, sql| connection.execute_batch(sql), code, work)
/// }
///
/// let n = transaction(&mut connection, |connection| {
///     let n: i64 = connection.query_row("SELECT n FROM t WHERE id = 1", [], |row| row.get(0))?;
///     connection.execute("UPDATE t SET n = ?1 WHERE id = 1", [n + 1])?;
///     Ok(n + 1)
/// })?;
/// assert_eq!(n, 2);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What `work` or a statement of the transaction answers, but for BUSY, and BUSY after `BEGIN IMMEDIATE`. The transaction is rolled
/// back then, also where `work` panics.
pub fn retry<C: ?Sized, T, E>(
    connection: &mut C,
    execute: impl Fn(&mut C, &str) -> Result<(), E>,
    code: impl Fn(&E) -> Option<i32>,
    mut work: impl FnMut(&mut C) -> Result<T, E>,
) -> Result<T, E> {
    for attempt in 0.. {
        let is_last = attempt == ATTEMPTS;
        let begin = if is_last { "BEGIN IMMEDIATE" } else { "BEGIN" };
        execute(connection, begin)?;
        let mut open = Open { connection: &mut *connection, execute: &execute, is_over: false };
        let result = work(open.connection).and_then(|value| {
            execute(open.connection, "COMMIT")?;
            Ok(value)
        });
        open.is_over = result.is_ok();
        drop(open);
        match result {
            Err(error) if !is_last && code(&error).is_some_and(|code| code & 0xff == BUSY) => {
                if attempt >= AT_ONCE {
                    std::thread::sleep(PAUSE * attempt);
                }
            }
            result => return result,
        }
    }
    unreachable!("the last attempt returns")
}

/// A transaction that is rolled back unless it is over.
struct Open<'a, C: ?Sized, E, F: Fn(&mut C, &str) -> Result<(), E>> {
    connection: &'a mut C,
    execute: &'a F,
    is_over: bool,
}

impl<C: ?Sized, E, F: Fn(&mut C, &str) -> Result<(), E>> Drop for Open<'_, C, E, F> {
    fn drop(&mut self) {
        if !self.is_over {
            // SQLite has rolled it back itself, perhaps, and says that there is none. If it is still open, the next BEGIN fails.
            let _none_is_active = (self.execute)(self.connection, "ROLLBACK");
        }
    }
}
