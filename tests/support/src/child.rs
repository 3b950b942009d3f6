//! Child processes of a test: the test binary started again for one of its own tests, which
//! plays a role only if [`role`] says so.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

const ROLE: &str = "PWAL_TEST_ROLE";
/// Before each line of a child's report; what libtest prints itself does not have it.
const MARK: &str = "@@ ";

/// A running child; killed when dropped.
pub struct Role {
    child: Child,
    pub lines: Lines,
}

/// What a child reports, line by line, until it ends.
pub struct Lines(BufReader<ChildStdout>);

/// Whether this process was started for this test's role.
pub fn role(test: &str) -> bool {
    std::env::var(ROLE).as_deref() == Ok(test)
}

/// One line for the parent. A single write of less than `PIPE_BUF`, unbuffered: it arrives whole or
/// not at all, also if the process is killed right behind it.
pub fn report(line: &str) {
    let text = format!("{MARK}{line}\n");
    assert!(text.len() < 4096);
    if rustix::io::write(std::io::stdout(), text.as_bytes()).is_err() {
        // The parent is gone.
        std::process::exit(3);
    }
}

/// Waits for a line from the parent; `None` if it closed the pipe.
pub fn command() -> Option<String> {
    let mut line = String::new();
    let bytes = std::io::stdin().read_line(&mut line).expect("read a command");
    (bytes > 0).then(|| line.trim_end().to_owned())
}

/// The value of a variable that the parent has set.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// Starts the test `test` of this binary again, in its role, with these variables.
pub fn start(test: &str, settings: &[(&str, String)]) -> Role {
    start_by(Command::new(std::env::current_exe().expect("the path of this binary")), test, settings)
}

/// [`start`] by a command that runs this binary, or a copy of it, with the arguments that follow.
pub fn start_by(mut command: Command, test: &str, settings: &[(&str, String)]) -> Role {
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, test);
    for (name, value) in settings {
        command.env(name, value);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a child");
    let stdout = child.stdout.take().expect("its stdout");
    Role { child, lines: Lines(BufReader::new(stdout)) }
}

/// What an [`alone`] child reports at its end.
const DONE: &str = "done";

/// Runs `act` in a process of its own: for a test that measures or changes what belongs to a whole process (limits, memory,
/// SQLite's configuration). `test` is that test's name with its module's path; it is started again.
pub fn alone(test: &str, act: impl FnOnce()) {
    if role(test) {
        act();
        report(DONE);
        return;
    }
    let mut child = start(test, &[]);
    let mut reports = Vec::new();
    reports.extend(child.lines.by_ref());
    let status = child.wait();
    assert!(status.success() && reports.last().is_some_and(|last| last == DONE), "{test} alone: {status}: {reports:?}");
}

impl Role {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> ExitStatus {
        let _ = self.child.kill();
        self.child.wait().expect("wait for a child")
    }

    /// SIGKILL, without waiting for the end.
    pub fn strike(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends a signal. (It was not waited for yet: its pid is nobody else's.)
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a pid");
        kill_process(pid, signal).expect("send a signal");
    }

    /// How it has ended; `None` if it lives.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("look at a child")
    }

    /// Waits for the end of a child that ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("wait for a child")
    }

    /// The child's stdin, to send commands by.
    pub fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("its stdin")
    }

    /// Ends the input of a child that reads [`command`].
    pub fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends a line to a child that reads [`command`].
    pub fn send(&mut self, line: &str) {
        writeln!(self.stdin(), "{line}").expect("send a command");
    }

    /// Waits for exactly this line.
    pub fn expect(&mut self, line: &str) {
        match self.lines.next() {
            Some(got) => assert_eq!(got, line),
            None => panic!("the child ended ({:?}) without saying {line:?}", self.child.wait()),
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some((_, text)) = line.split_once(MARK) {
                return Some(text.trim_end_matches('\n').to_owned());
            }
        }
    }
}
