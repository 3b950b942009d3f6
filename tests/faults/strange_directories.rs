//! A log directory that somebody else prepared: links, pipes, other users' files. As root, who opens a database of another
//! user. What lies elsewhere is not touched, and nothing is waited for.

use rusqlite::ffi;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::scene::watchdog;
use support::{Scratch, code, code_of, open, open_stock, run};

/// Who owns the database, and who does not.
const OWNER: u32 = 65_534;
const STRANGER: u32 = 61_009;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("not played: only root can be several users");
    }
    root && support::on_pwal()
}

/// A database in WAL mode, of the owner, and the path of its log.
struct Place {
    scratch: Scratch,
    database: PathBuf,
    log: PathBuf,
}

impl Place {
    fn new(mode: u32) -> Place {
        let scratch = Scratch::new();
        let home = scratch.file("home");
        fs::create_dir(&home).expect("a directory");
        let database = home.join("x.db");
        let stock = open_stock(&database);
        run(&stock, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
        support::close(stock);
        chown(&home, Some(OWNER), Some(OWNER)).expect("give it away");
        chown(&database, Some(OWNER), Some(OWNER)).expect("give it away");
        fs::set_permissions(&database, PermissionsExt::from_mode(mode)).expect("set its mode");
        let log = home.join("x.db-pwal");
        Place { scratch, database, log }
    }

    /// Root's own file, elsewhere.
    fn victim(&self, name: &str) -> Victim {
        let directory = self.scratch.file("victim");
        if !directory.exists() {
            fs::create_dir(&directory).expect("a directory");
            fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).expect("set its mode");
        }
        let path = directory.join(name);
        fs::write(&path, format!("root's own {name}")).expect("a file");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set its mode");
        Victim { before: (facts(&path), facts(&directory)), path }
    }

    /// The code that a first statement gets, and what the log of SQLite would say.
    fn refusal(&self) -> (i32, String) {
        let connection = open(&self.database);
        let code = code_of(&connection, "INSERT INTO t VALUES(1)") & 0xff;
        let told = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).expect("the state");
        (code, told)
    }

    fn works(&self) {
        let connection = open(&self.database);
        run(&connection, "INSERT INTO t VALUES(1)");
        assert!(self.log.is_dir());
        support::close(connection);
    }
}

struct Victim {
    path: PathBuf,
    before: ([u64; 4], [u64; 4]),
}

impl Victim {
    fn is_untouched(&self) {
        let name = self.path.file_name().expect("a name").to_str().expect("text");
        assert_eq!(fs::read_to_string(&self.path).expect("it is there"), format!("root's own {name}"));
        assert_eq!((facts(&self.path), facts(self.path.parent().expect("a directory"))), self.before);
    }
}

/// Inode, owner, group, mode.
fn facts(path: &Path) -> [u64; 4] {
    let of = |metadata: Metadata| {
        [metadata.ino(), u64::from(metadata.uid()), u64::from(metadata.gid()), u64::from(metadata.mode())]
    };
    of(fs::symlink_metadata(path).expect("it is there"))
}

fn mkfifo(path: &Path) {
    let name = std::ffi::CString::new(path.to_str().expect("text")).expect("a name");
    // SAFETY: a C string that lives through the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0);
}

#[test]
fn a_symbolic_link_in_the_place_of_the_log_is_refused_and_what_it_leads_to_untouched() {
    if !is_root() {
        return;
    }
    let place = Place::new(0o666);
    let victims = ["lock", "control", "other"].map(|name| place.victim(name));
    symlink(place.scratch.file("victim"), &place.log).expect("a link");
    for _ in 0..2 {
        let (code, told) = place.refusal();
        assert_eq!(code, ffi::SQLITE_CANTOPEN);
        assert!(told.contains("symbolic link"), "{told}");
        victims.iter().for_each(Victim::is_untouched);
        assert!(place.log.is_symlink());
    }
    let refused = pwal::recover(&place.database).expect_err("a link");
    assert!(refused.to_string().contains("symbolic link"), "{refused}");
    victims.iter().for_each(Victim::is_untouched);
    // A link that leads nowhere creates nothing there.
    fs::remove_file(&place.log).expect("delete the link");
    symlink(place.scratch.file("nowhere"), &place.log).expect("a link");
    assert_eq!(place.refusal().0, ffi::SQLITE_CANTOPEN);
    assert!(!place.scratch.file("nowhere").exists());
    fs::remove_file(&place.log).expect("delete the link");
    place.works();
}

/// Root opens the database while its owner moves the log directory away again and again, as soon as it is there, and calls `exchange`, which
/// answers whether it has put something in its place for a while. At least as many as it took to lose, several times over; it ends where
/// `is_lost`.
fn open_while_exchanged(place: &Place, exchange: impl Fn(&Path) -> bool + Sync, is_lost: impl Fn() -> bool) {
    let (stop, exchanged) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let away = place.log.with_extension("away");
            while !stop.load(SeqCst) {
                // Whoever has it open may have put a file there since.
                let _a_directory = fs::remove_dir_all(&away);
                if fs::rename(&place.log, &away).is_ok() {
                    exchanged.fetch_add(usize::from(exchange(&away)), SeqCst);
                }
            }
        });
        let mut opens = 0;
        while (opens < 400 || exchanged.load(SeqCst) < 60) && !is_lost() {
            opens += 1;
            let connection = open(&place.database);
            // An open that loses is BUSY, and would be tried again until the default of five seconds is over.
            connection.busy_timeout(Duration::ZERO).expect("no busy timeout");
            // Any answer is right; that nobody but the owner's own files change is not a question of luck.
            let _any = code_of(&connection, "SELECT * FROM t");
        }
        stop.store(true, SeqCst);
    });
    let _left = fs::remove_file(&place.log);
    let _left = fs::remove_dir_all(&place.log);
}

/// The owner of the database puts a link in the place of the directory that root has just made.
#[test]
fn a_race_for_the_new_directory_gives_nobody_anything() {
    if !is_root() {
        return;
    }
    let _watchdog = watchdog("a race for the log directory");
    let place = Place::new(0o666);
    // As a directory that was just made, but for whose it is.
    let target = place.scratch.file("target");
    fs::create_dir(&target).expect("a directory");
    fs::set_permissions(&target, PermissionsExt::from_mode(0o700)).expect("set its mode");
    let before = facts(&target);
    let is_untouched = || facts(&target) == before && fs::read_dir(&target).expect("it is there").count() == 0;
    let link = |away: &Path| {
        let linked = symlink(&target, &place.log).is_ok();
        std::thread::yield_now();
        let _gone_already = fs::remove_file(&place.log);
        let _a_link = fs::remove_file(away);
        linked
    };
    open_while_exchanged(&place, link, || !is_untouched());
    assert!(is_untouched(), "{:?}, and was {before:?}", facts(&target));
    place.works();
}

/// Or a directory of somebody else's that lies beside it: it is not the one that was made.
#[test]
fn nor_does_a_race_with_a_directory_that_is_there() {
    if !is_root() {
        return;
    }
    let _watchdog = watchdog("a race for the log directory, with another one");
    let place = Place::new(0o666);
    let (target, kept) = (place.scratch.file("target"), place.scratch.file("target/kept"));
    fs::create_dir(&target).expect("a directory");
    fs::write(&kept, "of root").expect("a file");
    fs::set_permissions(&target, PermissionsExt::from_mode(0o700)).expect("set its mode");
    fs::set_permissions(&kept, PermissionsExt::from_mode(0o600)).expect("set its mode");
    let before = (facts(&target), facts(&kept));
    let directory = |_: &Path| {
        let is_there = fs::rename(&target, &place.log).is_ok();
        std::thread::yield_now();
        if is_there {
            fs::rename(&place.log, &target).expect("it is not deleted: there is a file in it");
        }
        is_there
    };
    open_while_exchanged(&place, directory, || false);
    assert_eq!((facts(&target), facts(&kept)), before);
    place.works();
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    if !is_root() {
        return;
    }
    let _watchdog = watchdog("a pipe in the log directory");
    let segment = pwal::internal::log::format::segment_name(7, 1);
    for (name, refused) in [("lock", true), ("control", false), (segment.as_str(), true)] {
        let place = Place::new(0o666);
        fs::create_dir(&place.log).expect("a directory");
        chown(&place.log, Some(OWNER), Some(OWNER)).expect("give it away");
        mkfifo(&place.log.join(name));
        let (code, told) = place.refusal();
        if refused {
            assert_ne!(code, ffi::SQLITE_OK, "{name}");
            assert!(told.contains("not a regular file"), "{name}: {told}");
            fs::remove_file(place.log.join(name)).expect("it is there still");
        } else {
            // Replaced by a file of its own.
            assert_eq!(code, ffi::SQLITE_OK, "{name}: {told}");
        }
        place.works();
    }
    // And stock's journal beside the database.
    let place = Place::new(0o666);
    let journal = place.database.with_extension("db-journal");
    mkfifo(&journal);
    let _any = place.refusal();
    assert!(journal.exists());
}

#[test]
fn a_hard_link_to_anothers_file_changes_nothing_there() {
    if !is_root() {
        return;
    }
    for name in ["lock", "control"] {
        let place = Place::new(0o666);
        let victim = place.victim(name);
        fs::create_dir(&place.log).expect("a directory");
        chown(&place.log, Some(OWNER), Some(OWNER)).expect("give it away");
        fs::hard_link(&victim.path, place.log.join(name)).expect("a link");
        let (code, told) = place.refusal();
        victim.is_untouched();
        if name == "lock" {
            assert_eq!(code, ffi::SQLITE_CANTOPEN);
            assert!(told.contains("hard link"), "{told}");
            fs::remove_file(place.log.join(name)).expect("it is there still");
        } else {
            assert_eq!(code, ffi::SQLITE_OK, "{told}");
        }
        place.works();
        victim.is_untouched();
    }
}

/// A log directory belongs to somebody who may write the database, or nothing in it is used.
#[test]
fn a_directory_of_another_user_is_refused_unless_he_may_write_the_database() {
    if !is_root() {
        return;
    }
    for (mode, group, accepted) in [
        (0o640, OWNER, false),
        (0o600, OWNER, false),
        (0o660, STRANGER, false),
        (0o660, OWNER, true),
        (0o666, STRANGER, true),
    ] {
        let place = Place::new(mode);
        fs::create_dir(&place.log).expect("a directory");
        fs::write(place.log.join("lock"), "").expect("a file");
        chown(&place.log, Some(STRANGER), Some(group)).expect("give it away");
        let before = (facts(&place.log), facts(&place.log.join("lock")));
        let (code, told) = place.refusal();
        if accepted {
            assert_eq!(code, ffi::SQLITE_OK, "{mode:o}: {told}");
        } else {
            assert_eq!(code, ffi::SQLITE_CANTOPEN, "{mode:o}");
            assert!(told.contains("belongs to user 61009"), "{told}");
            assert_eq!((facts(&place.log), facts(&place.log.join("lock"))), before);
        }
    }
    // The owner's own, and root's.
    for owner in [OWNER, 0] {
        let place = Place::new(0o600);
        fs::create_dir(&place.log).expect("a directory");
        chown(&place.log, Some(owner), Some(owner)).expect("give it away");
        place.works();
    }
}

/// New files are the owner's, by their descriptors; what was there keeps its owner and mode.
#[test]
fn only_what_is_new_is_given_to_the_owner() {
    if !is_root() {
        return;
    }
    let place = Place::new(0o664);
    fs::create_dir(&place.log).expect("a directory");
    fs::set_permissions(&place.log, PermissionsExt::from_mode(0o755)).expect("set its mode");
    fs::write(place.log.join("lock"), "").expect("a file");
    let before = (facts(&place.log), facts(&place.log.join("lock")));
    let connection = open(&place.database);
    run(&connection, "INSERT INTO t VALUES(1)");
    assert_eq!((facts(&place.log), facts(&place.log.join("lock"))), before);
    let mut new = 0;
    for entry in fs::read_dir(&place.log).expect("the log").flatten().filter(|entry| entry.file_name() != "lock") {
        let metadata = entry.metadata().expect("it is there");
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (OWNER, OWNER, 0o664), "{entry:?}");
        new += 1;
    }
    assert!(new >= 2, "control and a segment");
}

/// Files of any size that hold nothing cost neither memory nor time.
#[test]
fn files_that_are_all_holes_are_no_work() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("files of holes");
    let scratch = Scratch::new();
    let database = scratch.file("x.db");
    let stock = open_stock(&database);
    run(&stock, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    support::close(stock);
    let log = scratch.file("x.db-pwal");
    fs::create_dir(&log).expect("a directory");
    for name in ["lock", "control"] {
        let file = File::create(log.join(name)).expect("a file");
        file.set_len(1 << 40).expect("a hole");
        file.write_all_at(b"x", 1 << 39).expect("a byte in the middle");
    }
    let connection = open(&database);
    run(&connection, "INSERT INTO t VALUES(1)");
    assert!(fs::metadata(log.join("control")).expect("it is there").len() < 1 << 30);
    drop(connection);
    assert!(!log.exists());
    let error = open(&database).execute_batch("SELECT * FROM nothing").expect_err("no such table");
    assert_eq!(code(&error), ffi::SQLITE_ERROR);
}
