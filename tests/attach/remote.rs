//! Another process that does with a database what it is told.

use crate::common::{self, child};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The test of the test binary that plays the other process.
pub const ROLE: &str = "remote::plays";

/// A process with one connection, opened at its first command.
pub struct Remote {
    pub role: child::Role,
}

impl Remote {
    /// A process that has not opened the database yet.
    pub fn start(path: &Path) -> Remote {
        Remote::start_with(path, &[])
    }

    /// With these variables of the environment.
    pub fn start_with(path: &Path, variables: &[(&str, String)]) -> Remote {
        let mut all = vec![("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())];
        all.extend_from_slice(variables);
        Remote { role: child::start(ROLE, &all) }
    }

    /// A process that has read the database.
    pub fn attached(path: &Path) -> Remote {
        let mut remote = Remote::start(path);
        remote.text("SELECT count(*) FROM sqlite_schema");
        remote
    }

    /// Asks without waiting for the answer.
    pub fn ask(&mut self, command: &str, argument: &str) {
        assert!(!argument.contains('\n'));
        self.role.send(&format!("{command} {argument}"));
    }

    pub fn answer(&mut self) -> String {
        match self.role.lines.next() {
            Some(line) => line,
            None => panic!("the other process ended: {:?}", self.role.wait()),
        }
    }

    /// The rows of a statement that must work.
    pub fn text(&mut self, sql: &str) -> String {
        self.ask("text", sql);
        let answer = self.answer();
        answer.strip_prefix("rows ").unwrap_or_else(|| panic!("{sql}: {answer}")).to_owned()
    }

    /// The extended result code of statements, 0 for success.
    pub fn code(&mut self, sql: &str) -> i32 {
        self.ask("code", sql);
        self.answer().parse().unwrap()
    }

    pub fn run(&mut self, sql: &str) {
        assert_eq!(self.code(sql), 0, "{sql}");
    }

    /// Does something else: see [`plays`].
    pub fn act(&mut self, command: &str) {
        self.ask(command, "");
        assert_eq!(self.answer(), command);
    }

    /// Closes the connection; the process goes on.
    pub fn close(&mut self) {
        self.act("close");
    }

    /// Ends the process by `exit`, with what is open.
    pub fn exit(mut self) {
        self.ask("exit", "");
        assert!(self.role.wait().success());
    }

    pub fn kill(&mut self) {
        self.role.kill();
    }
}

/// A role of its own process; nothing in a normal run.
#[test]
fn plays() {
    if !child::role(ROLE) {
        return;
    }
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    become_user();
    let mut connection: Option<Connection> = None;
    while let Some(line) = child::command() {
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match command {
            "close" => {
                connection.take().into_iter().for_each(common::close);
                child::report("close");
            }
            // Opens again at the next statement.
            "forget" => {
                std::mem::forget(connection.take());
                child::report("forget");
            }
            "exit" => {
                std::mem::forget(connection.take());
                std::process::exit(0);
            }
            "fork" => {
                std::mem::forget(connection.take());
                // SAFETY: this process has no other thread that runs (libtest's waits).
                let pid = unsafe { libc::fork() };
                if pid != 0 {
                    // The child goes on with stdin and stdout; the parent keeps what it has until it is killed.
                    child::report(&format!("parent {}", std::process::id()));
                    loop {
                        std::thread::park();
                    }
                }
                child::report("child");
            }
            _ => {
                let own = connection.get_or_insert_with(|| open(&path));
                child::report(&statement(own, command, argument));
            }
        }
    }
}

fn open(path: &Path) -> Connection {
    let name = std::env::var("PWAL_TEST_URI").unwrap_or_else(|_| path.to_str().unwrap().to_owned());
    let connection = common::open(name.as_ref());
    let timeout = common::env_number("PWAL_TEST_TIMEOUT_MS", 5000);
    connection.busy_timeout(Duration::from_millis(timeout)).unwrap();
    connection
}

fn statement(connection: &Connection, command: &str, argument: &str) -> String {
    match command {
        "text" => match common::rows(connection, argument) {
            Ok(rows) => format!("rows {}", rows.join(" ")),
            Err(error) => format!("error {} {error}", common::code(&error)),
        },
        "code" => common::code_of(connection, argument).to_string(),
        command => panic!("no command {command}"),
    }
}

/// Another user, if the test asks for one.
fn become_user() {
    let (Ok(user), Ok(group)) = (std::env::var("PWAL_TEST_USER"), std::env::var("PWAL_TEST_GROUP")) else { return };
    let (user, group): (u32, u32) = (user.parse().unwrap(), group.parse().unwrap());
    // SAFETY: changes the identity of this process only.
    unsafe {
        assert_eq!(libc::setgroups(1, &raw const group), 0);
        assert_eq!(libc::setgid(user), 0);
        assert_eq!(libc::setuid(user), 0);
        libc::umask(0o077);
    }
}
