//! A process that forks with open connections.

use super::assert_left;
use std::io::Write;
use std::path::{Path, PathBuf};
use support::processes::agent::{Agent, wait_for};
use support::scene::{COUNT, scene};

/// A forked child of an agent.
pub(crate) struct Forked {
    pid: i32,
    pipe: PathBuf,
    answers: usize,
}

impl Forked {
    pub(crate) fn of(parent: &mut Agent, directory: &Path) -> Forked {
        let pipe = directory.join("orders");
        let name = std::ffi::CString::new(pipe.to_str().expect("a name in UTF-8")).expect("a name");
        // SAFETY: a C string that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let pid = parent.ask(&format!("c .fork {}", pipe.display())).parse().expect("a pid");
        Forked { pid, pipe, answers: 0 }
    }

    fn order(&self, line: &str) {
        // Opening for reading too does not wait for the other side.
        let mut pipe = std::fs::File::options().read(true).write(true).open(&self.pipe).expect("open the pipe");
        if self.answers == 0 {
            // What is in a pipe goes when nobody has it open: wait until the child does.
            let link = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
            wait_for("the child to open its pipe", || {
                let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the child lives");
                descriptors.flatten().filter_map(link).any(|target| target == self.pipe)
            });
        }
        writeln!(pipe, "{line}").expect("order");
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.order(line);
        self.answers += 1;
        let said = PathBuf::from(format!("{}.said", self.pipe.display()));
        let lines = || std::fs::read_to_string(&said).unwrap_or_default();
        let complete = |text: &str| text.matches('\n').count();
        wait_for(&format!("an answer to {line}"), || complete(&lines()) >= self.answers);
        lines().lines().nth(self.answers - 1).expect("an answer").to_owned()
    }

    pub(crate) fn end(self) {
        self.order("end");
        // Not this process's child: nobody here can wait for it otherwise.
        wait_for("the forked child to end", || !alive(self.pid));
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if alive(self.pid) {
            // SAFETY: numbers. It was alive a moment ago, in a test that has failed.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }
}

/// A process that has ended and is not reaped by its parent counts as ended.
fn alive(pid: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_forked_child_opens_afresh_while_its_parent_lives_and_after_it_died() {
    if !support::on_pwal() {
        return;
    }
    let (scene, path) = scene("a fork");
    let mut parent = Agent::on(&path);
    parent.run("INSERT INTO t VALUES('parent')");
    parent.open("reader", &path);
    parent.ask("reader BEGIN");
    parent.ask("reader SELECT * FROM t");
    let mut child = Forked::of(&mut parent, scene.scratch.path());
    // SQLite forbids to carry a connection over a fork: an error, not damage, whatever it is used for.
    for sql in ["c SELECT * FROM t", "c INSERT INTO t VALUES('inherited')", "reader COMMIT", "c BEGIN IMMEDIATE"] {
        let answer = child.ask(sql);
        // To end a transaction that only read needs no file.
        assert!(answer.starts_with("code ") || sql == "reader COMMIT", "{sql}: {answer}");
    }
    assert_eq!(child.ask("c .close"), "closed");
    parent.run("INSERT INTO t VALUES('parent')");
    // Afresh, beside its parent.
    assert_eq!(child.ask(&format!("own .open {}", path.display())), "open");
    assert_eq!(child.ask(&format!("own {COUNT}")), "2");
    assert_eq!(child.ask("own INSERT INTO t VALUES('child')"), "");
    assert_eq!(parent.run(COUNT), "3");
    let told = parent.status();
    for pid in [parent.pid(), child.pid] {
        assert!(told.contains(&pid.to_string()), "{pid}: {told}");
    }
    // And when the parent dies with the write lock.
    parent.run("BEGIN IMMEDIATE");
    parent.run("INSERT INTO t VALUES('never committed')");
    parent.kill();
    assert_eq!(child.ask("own INSERT INTO t VALUES('alone')"), "");
    let mut other = Agent::on(&path);
    assert_eq!(other.run(COUNT), "4");
    other.end();
    assert_eq!(child.ask(&format!("own {COUNT}")), "4");
    assert_eq!(child.ask("own .close"), "closed");
    assert_eq!(child.ask(&format!("again .open {}", path.display())), "open");
    assert_eq!(child.ask("again INSERT INTO t VALUES('again')"), "");
    assert_eq!(child.ask("again .close"), "closed");
    child.end();
    assert_left(&path, 5);
}

#[test]
fn a_child_that_only_inherits_holds_nothing() {
    if !support::on_pwal() {
        return;
    }
    let (scene, path) = scene("a fork that does nothing");
    let mut parent = Agent::on(&path);
    parent.run("INSERT INTO t VALUES('parent')");
    let child = Forked::of(&mut parent, scene.scratch.path());
    let mut other = Agent::on(&path);
    other.run("INSERT INTO t VALUES('other')");
    parent.run("BEGIN IMMEDIATE");
    parent.kill();
    // The child lives, and the place of its parent counts as dead.
    assert!(alive(child.pid));
    other.run("INSERT INTO t VALUES('other')");
    other.end();
    assert_left(&path, 3);
    // Its exit handlers touch nothing.
    let bytes = std::fs::read(&path).expect("read");
    child.end();
    assert!(std::fs::read(&path).expect("read") == bytes);
    support::assert_plain(&path);
}
