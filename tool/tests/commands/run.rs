//! `pwal run`, with Debian's sqlite3 shell and Python beside a process that has the database open through pwal.

use super::{FEW, Output, command, contents, hold};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Scratch, assert_plain, library, number, open_stock};

fn program(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| String::from(default))
}

fn sqlite3() -> String {
    program("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3")
}

fn python3() -> String {
    program("PWAL_TEST_PYTHON3", "/usr/bin/python3")
}

/// The library, with that for `LD_PRELOAD` beside it.
fn libraries() -> PathBuf {
    let library = library::library();
    assert_eq!(library::preload().parent(), library.parent());
    library
}

fn run_with(library: &Path, place: &Path, words: &[&str]) -> Output {
    let mut command = command(["run"].iter().chain(words));
    command.env("PWAL_LIBRARY", library).current_dir(place).stdin(Stdio::null());
    Output::of(command.output().expect("the tool starts"))
}

fn run(place: &Path, words: &[&str]) -> Output {
    run_with(&libraries(), place, words)
}

#[test]
fn programs_and_their_children_share_the_database_with_a_live_process() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, FEW);
    let output =
        run(scratch.path(), &[&sqlite3(), "app.db", "PRAGMA parallel_wal_mode; INSERT INTO t(y) VALUES('shell')"]);
    assert_eq!(output.printed(), "auto\n");
    let child = format!("{} app.db \"INSERT INTO t(y) VALUES('child')\" && echo done", sqlite3());
    assert_eq!(run(scratch.path(), &["--", "sh", "-c", &child]).printed(), "done\n");
    let script = "import sqlite3\ndb = sqlite3.connect('app.db')\n\
                  db.execute(\"INSERT INTO t(y) VALUES('Python')\")\ndb.commit()\n\
                  print(*db.execute('PRAGMA parallel_wal_mode').fetchone(), *db.execute('SELECT count(*) FROM t').fetchone())";
    assert_eq!(run(scratch.path(), &[&python3(), "-c", script]).printed(), format!("auto {}\n", FEW + 3));
    holder.kill();
    // The last one leaves a plain file.
    let output = run(scratch.path(), &[&sqlite3(), "app.db", "SELECT count(*) FROM t"]);
    assert_eq!(output.printed(), format!("{}\n", FEW + 3));
    assert_plain(&path);
}

#[test]
fn the_program_has_the_process_and_its_exit_status() {
    let scratch = Scratch::new();
    let mut command = command(["run", "sh", "-c", "echo $$; exit 7"]);
    let child = command.env("PWAL_LIBRARY", libraries()).current_dir(scratch.path()).stdout(Stdio::piped()).spawn();
    let child = child.expect("the tool starts");
    let pid = child.id();
    let output = Output::of(child.wait_with_output().expect("it ends"));
    assert_eq!((output.status, output.stdout), (Some(7), format!("{pid}\n")));
}

#[test]
fn what_is_not_reached_is_refused_or_named() {
    let scratch = Scratch::new();
    let tool = library::tool().display().to_string();
    let own = run(scratch.path(), &[&tool, "--version"]);
    assert!(own.refused(4).contains("has a SQLite of its own"), "{own:?}");

    std::fs::write(scratch.file("main.c"), "int main(void) { return 0; }").expect("write");
    let built = Command::new("cc").args(["-static", "-o", "static", "main.c"]).current_dir(scratch.path()).status();
    assert!(built.expect("cc starts").success());
    let output = run(scratch.path(), &["./static"]);
    assert!(output.refused(4).contains("is statically linked"), "{output:?}");
    // Through the line of a script, too.
    let script = scratch.file("script");
    std::fs::write(&script, format!("#! {} x\n", scratch.file("static").display())).expect("write");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("chmod");
    assert!(run(scratch.path(), &["./script"]).refused(4).contains("is statically linked"));

    library::copy_program(Path::new("/bin/true"), &scratch.file("php8.2"));
    assert!(run(scratch.path(), &["./php8.2"]).refused(4).contains("PHP opens its modules past"));

    let missing = run(scratch.path(), &["no-such-program"]);
    assert!(missing.refused(4).contains("no-such-program is not in PATH"), "{missing:?}");

    // Functions that are found by name are SQLite's own.
    let script = "import ctypes\nsqlite = ctypes.CDLL('libsqlite3.so.0')\ndb = ctypes.c_void_p()\n\
                  sqlite.sqlite3_open(b':memory:', ctypes.byref(db))";
    let output = run(scratch.path(), &[&python3(), "-c", script]);
    assert_eq!(output.status, Some(0), "{output:?}");
    assert!(output.stderr.contains("libsqlite3") && output.stderr.contains("it was on stock SQLite"), "{output:?}");
    // A program that has SQLite and does not use it says nothing.
    let output = run(scratch.path(), &[&python3(), "-c", "import ctypes; ctypes.CDLL('libsqlite3.so.0')"]);
    assert_eq!((output.status, output.stderr.as_str()), (Some(0), ""), "{output:?}");
}

/// A program that is linked with SQLite, and begins anew with it.
#[test]
fn every_open_function_is_reached_also_after_a_shutdown() {
    let scratch = Scratch::new();
    let source = r#"
        #include <stdio.h>
        int sqlite3_open(const char *, void **), sqlite3_open16(const void *, void **), sqlite3_close(void *), sqlite3_shutdown(void);
        int sqlite3_open_v2(const char *, void **, int, const char *);
        int sqlite3_exec(void *, const char *, int (*)(void *, int, char **, char **), void *, char **);
        static int print(void *p, int n, char **texts, char **names) { return puts(texts[0]) < 0; }
        static void ask(void *db) { sqlite3_exec(db, "PRAGMA parallel_wal_mode", print, 0, 0); sqlite3_close(db); }
        int main(void) {
            void *db;
            sqlite3_open16(u"app.db", &db); ask(db);
            sqlite3_shutdown();
            sqlite3_open("app.db", &db); ask(db);
            sqlite3_open_v2("app.db", &db, 6, 0); ask(db);
            sqlite3_open_v2("app.db", &db, 6, "unix"); ask(db);
            return 0;
        }"#;
    std::fs::write(scratch.file("main.c"), source).expect("write");
    let words = ["-o", "linked", "main.c", "-l:libsqlite3.so.0"];
    assert!(Command::new("cc").args(words).current_dir(scratch.path()).status().expect("cc starts").success());
    let output = run(scratch.path(), &["./linked"]);
    // The last one has chosen stock SQLite.
    let expected = "inactive: not in WAL mode: PRAGMA journal_mode=WAL\n".repeat(3);
    assert_eq!(output.printed(), expected);
}

#[test]
fn a_program_with_other_rights_is_refused() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root can make a file of another user");
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.file("other");
    library::copy_program(Path::new("/bin/true"), &program);
    chown(&program, Some(65534), Some(65534)).expect("chown");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("chmod");
    let output = run(scratch.path(), &["./other"]);
    assert!(output.refused(4).contains("runs with other rights"), "{output:?}");
}

/// Not on stock, without a word.
#[test]
fn a_library_that_does_not_load_lets_the_open_fail() {
    let scratch = Scratch::new();
    let broken = scratch.file("libpwal.so");
    std::fs::write(&broken, "no library").expect("write");
    let missing = run_with(&broken, scratch.path(), &[&sqlite3(), "app.db", "CREATE TABLE t(x)"]);
    assert!(missing.refused(4).contains("libpwal_preload.so is not there"), "{missing:?}");
    library::copy_program(&library::preload(), &scratch.file("libpwal_preload.so"));
    let output = run_with(&broken, scratch.path(), &[&sqlite3(), "app.db", "CREATE TABLE t(x)"]);
    assert_ne!(output.status, Some(0), "{output:?}");
    assert!(output.stderr.contains("the database is not opened"), "{output:?}");
    assert!(!output.stderr.contains("it was on stock SQLite"), "{output:?}");
    assert_eq!(contents(scratch.path()).len(), 2, "no database");
}

#[test]
fn another_preloaded_library_stays() {
    let scratch = Scratch::new();
    let mut command = command(["run", "sh", "-c", "echo $LD_PRELOAD"]);
    command.env("PWAL_LIBRARY", libraries()).env("LD_PRELOAD", "libm.so.6").current_dir(scratch.path());
    let output = Output::of(command.stdin(Stdio::null()).output().expect("the tool starts"));
    let expected = format!("{}:libm.so.6\n", library::preload().display());
    assert_eq!(output.printed(), expected);
}

/// What a user types who has both beside the tool, on a database that nobody has open.
#[test]
fn a_new_database_of_a_stock_program_is_on_pwal_once_it_is_in_wal_mode() {
    let scratch = Scratch::new();
    let sql = "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1); PRAGMA parallel_wal_mode";
    assert_eq!(run(scratch.path(), &[&sqlite3(), "app.db", sql]).printed(), "wal\nauto\n");
    assert_plain(&scratch.file("app.db"));
    assert_eq!(number(&open_stock(&scratch.file("app.db")), "SELECT count(*) FROM t"), 1);
}
