//! A process that does what a test tells it, statement by statement, so that a scene with several processes can be read
//! from top to bottom.
//!
//! Each line for it is `<connection> <what>`; `what` is SQL, or one of `.open <path>`, `.vfs <name> <path>`, `.timeout
//! <ms>`, `.close`, `.status` (`PRAGMA parallel_wal_status`), `.log` (what `sqlite3_log` was told since it was last asked),
//! `.fork <pipe>` (a child of the process that is an agent itself), `.exit` (without a close and an answer). It answers with
//! one line: the rows, or `code <n>`.

use crate::child;
use rusqlite::{Connection, ffi};
use rustix::process::Signal;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What the agent waits for before it says BUSY, unless it is told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Nothing that a test waits for takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What `sqlite3_log` was told.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

unsafe extern "C" fn tell(_: *mut c_void, code: c_int, text: *const c_char) {
    // SAFETY: SQLite passes a text that ends with a zero byte.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().replace('\n', " ");
    if let Ok(mut told) = TOLD.lock() {
        told.push(format!("{code} {text}"));
    }
}

/// The test that plays it in a process of its own ([`crate::roles!`]).
pub const ROLE: &str = "roles::child_obeys";

/// A role of its own process; nothing in a normal run.
pub fn child_obeys() {
    if child::role(ROLE) {
        run();
    }
}

fn run() {
    // A stopped agent would outlive its test otherwise.
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if let Ok(mask) = std::env::var("PWAL_TEST_UMASK") {
        let mask = libc::mode_t::from_str_radix(&mask, 8).expect("an octal number");
        // SAFETY: a number.
        unsafe { libc::umask(mask) };
    }
    // SAFETY: nothing uses SQLite yet; the function has the documented type and never goes.
    let code = unsafe {
        let tell = tell as unsafe extern "C" fn(*mut c_void, c_int, *const c_char);
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOG, tell, std::ptr::null_mut::<c_void>())
    };
    assert_eq!(code, ffi::SQLITE_OK);
    #[cfg(target_os = "linux")]
    if std::env::var_os("PWAL_TEST_NETWORK_DISK").is_some()
        && let Err(error) = super::network_disk::pretend()
    {
        return refuse(&format!("this machine gives no seccomp user notification: {error}"));
    }
    let mut connections = HashMap::new();
    child::report("here");
    while let Some(line) = child::command() {
        let (name, what) = line.split_once(' ').expect("a connection and what to do");
        let answer = obey(&mut connections, name, what);
        child::report(answer.get(..3000).unwrap_or(&answer));
    }
    connections.into_values().for_each(crate::close);
}

/// An agent that cannot be what was asked for: it says so to everything.
fn refuse(why: &str) {
    child::report("here");
    while child::command().is_some() {
        child::report(why);
    }
}

fn obey(connections: &mut HashMap<String, Connection>, name: &str, what: &str) -> String {
    let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
    match word {
        ".open" => open(connections, name, crate::vfs(), rest),
        ".vfs" => {
            let (vfs, path) = rest.split_once(' ').expect("a VFS and a path");
            crate::vfs();
            open(connections, name, vfs, path)
        }
        ".timeout" => {
            let timeout = Duration::from_millis(rest.parse().expect("milliseconds"));
            connections[name].busy_timeout(timeout).map_or_else(error, |()| String::from("ok"))
        }
        ".close" => {
            let connection = connections.remove(name).expect("an open connection");
            connection.close().map_or_else(|(_, code)| error(code), |()| String::from("closed"))
        }
        ".log" => std::mem::take(&mut *TOLD.lock().expect("what was told")).join(" | "),
        ".status" => {
            let status = connections[name].query_row("PRAGMA parallel_wal_status", [], |row| row.get(0));
            status.unwrap_or_else(error)
        }
        ".fork" => fork(connections, rest),
        // With what is open.
        ".exit" => {
            std::mem::forget(std::mem::take(connections));
            std::process::exit(0);
        }
        _ => crate::rows(&connections[name], what).map_or_else(error, |rows| rows.join(" ")),
    }
}

fn error(error: rusqlite::Error) -> String {
    format!("code {}", crate::code(&error))
}

fn open(connections: &mut HashMap<String, Connection>, name: &str, vfs: &str, path: &str) -> String {
    match crate::try_open(path.as_ref(), crate::flags(), vfs) {
        Ok(connection) => {
            connection.busy_timeout(TIMEOUT).expect("a busy timeout");
            connections.insert(name.to_owned(), connection);
            String::from("open")
        }
        Err(code) => error(code),
    }
}

/// The forked child reads what to do from the named pipe `pipe`, and answers into the file `<pipe>.said`, a line each. It
/// has the connections of its parent.
fn fork(connections: &mut HashMap<String, Connection>, pipe: &str) -> String {
    // SAFETY: the process has no other thread that works (libtest's waits for this one; pwal's are not in the child).
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid > 0 {
        return pid.to_string();
    }
    // A test that failed does not leave it for ever.
    // SAFETY: a number.
    unsafe { libc::alarm(120) };
    let said = format!("{pipe}.said");
    // Opened for both, so that it has no end while this process lives.
    let orders = std::fs::File::options().read(true).write(true).open(pipe).expect("open the pipe");
    let mut orders = std::io::BufReader::new(orders);
    let mut line = String::new();
    loop {
        line.clear();
        std::io::BufRead::read_line(&mut orders, &mut line).expect("read an order");
        let line = line.trim_end();
        if line == "end" {
            // A normal exit, with the exit handlers that it has inherited.
            std::process::exit(0);
        }
        let (name, what) = line.split_once(' ').expect("a connection and what to do");
        let answer = obey(connections, name, what);
        let mut file = std::fs::File::options().append(true).create(true).open(&said).expect("open the answers");
        std::io::Write::write_all(&mut file, format!("{answer}\n").as_bytes()).expect("answer");
    }
}

/// An agent, from outside.
pub struct Agent {
    role: child::Role,
}

impl Agent {
    /// Starts one.
    pub fn start() -> Agent {
        Agent::start_with(&[])
    }

    /// With variables of the environment.
    pub fn start_with(settings: &[(&str, String)]) -> Agent {
        Agent::of(child::start(ROLE, settings))
    }

    pub fn of(role: child::Role) -> Agent {
        let mut agent = Agent { role };
        agent.role.expect("here");
        agent
    }

    /// Starts one with the connection `c` on `path`.
    pub fn on(path: &Path) -> Agent {
        let mut agent = Agent::start();
        agent.open("c", path);
        agent
    }

    pub fn pid(&self) -> i32 {
        self.role.pid()
    }

    /// Opens a connection; SQLite does not read the file yet.
    #[track_caller]
    pub fn open(&mut self, connection: &str, path: &Path) {
        let answer = self.ask(&format!("{connection} .open {}", path.display()));
        assert_eq!(answer, "open");
    }

    /// Tells it something, without waiting for the answer.
    pub fn tell(&mut self, line: &str) {
        self.role.send(&line.replace('\n', " "));
    }

    /// Sends it several lines by one write, since it may die of each.
    pub fn tell_all(&mut self, lines: &[&str]) {
        let text = format!("{}\n", lines.join("\n"));
        std::io::Write::write_all(self.role.stdin(), text.as_bytes()).expect("send commands");
    }

    /// Waits for the next answer.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        let pid = self.pid();
        self.role.lines.next().unwrap_or_else(|| panic!("process {pid} ended without an answer"))
    }

    /// [`Agent::tell`], then [`Agent::answer`].
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// SQL that must work on the connection `c`; its rows.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> String {
        let answer = self.ask(&format!("c {sql}"));
        assert!(!answer.starts_with("code "), "process {}: {sql}: {answer}", self.pid());
        answer
    }

    /// What `sqlite3_log` was told since it was last asked.
    pub fn log(&mut self) -> String {
        self.ask("c .log")
    }

    /// `PRAGMA parallel_wal_status` of the connection `c`.
    pub fn status(&mut self) -> String {
        self.ask("c .status")
    }

    /// Closes the connection `c`.
    #[track_caller]
    pub fn close(&mut self) {
        assert_eq!(self.ask("c .close"), "closed");
    }

    pub fn signal(&self, signal: Signal) {
        self.role.signal(signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) -> ExitStatus {
        self.role.kill()
    }

    /// Waits for the end of one that is killed by itself, whatever it answers before.
    #[track_caller]
    pub fn end_killed(mut self) {
        self.role.lines.by_ref().for_each(drop);
        let status = self.role.wait();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL), "{status}");
    }

    /// [`Agent::kill`] of one in a namespace: what runs here is the program that made it, and dies first.
    pub fn kill_inside(mut self) {
        self.role.kill();
        // Its output ends when it does.
        self.role.lines.by_ref().for_each(drop);
    }

    /// Waits for the end of one that ends by itself.
    #[track_caller]
    pub fn wait(mut self) {
        let status = self.role.wait();
        assert!(status.success(), "a process ended with {status}");
    }

    /// Waits until it is killed, at a fault point.
    #[track_caller]
    pub fn wait_killed(mut self) {
        let status = self.role.wait();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "a process ended with {status}");
    }

    /// Ends it: it closes what is open.
    #[track_caller]
    pub fn end(mut self) {
        self.role.end_input();
        let status = self.role.wait();
        assert!(status.success(), "a process ended with {status}");
    }

    /// Waits until it has stopped itself, or was stopped.
    #[track_caller]
    pub fn wait_stopped(&self) {
        wait_for(&format!("process {} to stop", self.pid()), || is_stopped(self.pid()));
    }
}

/// Whether a process is stopped by a signal.
pub fn is_stopped(pid: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Waits until `what` holds; panics if it does not in [`PATIENCE`].
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_micros(300));
    }
}
