//! What a database stands on: litestream, permissions, hosts, the library, mounts.

use super::{Open, Report, ask, by_hand, closed, doctor, doctor_command, log_of};
use crate::{Output, contents, library};
use proptest::prelude::*;
use pwal::internal::shared::{CONTROL_NAME, LOCK_NAME};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Scratch, close, open_stock, run};

#[path = "../../../src/doctor/mount.rs"]
mod mount;
#[path = "../../../src/doctor/schema.rs"]
mod schema;

#[test]
fn traces_of_litestream_are_found() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let stock = open_stock(&path);
    // So many tables that the schema has several levels.
    for table in 0..400 {
        run(&stock, &format!("CREATE TABLE a_table_with_a_long_name_{table}(x, y, z, {})", "w".repeat(200)));
    }
    run(&stock, "CREATE TABLE _litestream_seq(id INTEGER PRIMARY KEY, seq INTEGER); DROP TABLE _litestream_seq");
    run(&stock, "CREATE TABLE t2(x DEFAULT '_litestream_seq'); CREATE VIEW _litestream_lock AS SELECT 1");
    let mut wanted = support::rows(&stock, "SELECT name FROM sqlite_schema WHERE type='table'").expect("names");
    close(stock);
    wanted.sort();
    let header = fs::read(&path).expect("read");
    let mut names = schema::tables(&File::open(&path).expect("open"), &header).expect("a schema");
    names.sort();
    assert_eq!(names, wanted);
    doctor(&scratch, &path).says("litestream", "ok", &[]).only(&[]);
    let stock = open_stock(&path);
    run(&stock, "DROP VIEW _litestream_lock; CREATE TABLE _litestream_lock(id INTEGER)");
    close(stock);
    doctor(&scratch, &path).says("litestream", "warn", &["table _litestream_lock"]).only(&["litestream"]);

    let other = closed(&scratch, "other.db");
    fs::create_dir(scratch.file(".other.db-litestream")).expect("a directory");
    doctor(&scratch, &other).says("litestream", "warn", &[".other.db-litestream"]).only(&["litestream"]);
    if cfg!(target_os = "linux") {
        let file = File::open(&other).expect("open");
        let mut running = Command::new("/bin/sleep");
        let running = running.arg0("litestream replicate").arg("600").stdin(file).spawn().expect("sleep starts");
        let running = Open(running);
        crate::wait_until(|| {
            fs::read(format!("/proc/{}/cmdline", running.pid())).is_ok_and(|line| line.starts_with(b"litestream"))
        });
        doctor(&scratch, &other).says("litestream", "problem", &[&running.pid().to_string()]);
    }
}

/// A database of small pages whose schema has two levels.
fn many_tables() -> &'static [u8] {
    static SOUND: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SOUND.get_or_init(|| {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let stock = open_stock(&path);
        run(&stock, "PRAGMA page_size=512");
        for table in 0..60 {
            run(&stock, &format!("CREATE TABLE table_{table}(x, y, z)"));
        }
        close(stock);
        fs::read(&path).expect("read")
    })
}

fn tables_of(bytes: &[u8]) -> Option<usize> {
    let scratch = Scratch::in_memory();
    let path = scratch.file("any.db");
    fs::write(&path, bytes).expect("write");
    schema::tables(&File::open(&path).expect("open"), &bytes[..100]).map(|names| names.len())
}

#[test]
fn a_schema_that_makes_no_sense_has_no_answer() {
    let sound = many_tables();
    assert_eq!(tables_of(sound), Some(60));
    let changed = |at: usize, bytes: &[u8]| {
        let mut all = sound.to_vec();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        tables_of(&all)
    };
    // The right-most child of the root, in the header of the b-tree page behind that of the database.
    for child in [0, 1, 1 << 30, u32::MAX] {
        assert_eq!(changed(108, &child.to_be_bytes()), None, "{child}");
    }
    assert_eq!(changed(100, &[2]), None, "an index");
    assert_eq!(changed(103, &[0xff, 0xff]), None, "more cells than the page has");
    assert_eq!(changed(16, &[0, 3]), None, "no page size");
    assert_eq!(tables_of(&sound[..700]), None, "a file that ends early");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the bytes are, the walk ends, with or without an answer.
    #[test]
    fn a_schema_of_any_bytes_is_walked_to_an_end(changes in prop::collection::vec((0usize..16384, any::<u8>()), 1..40)) {
        let mut bytes = many_tables().to_vec();
        let length = bytes.len();
        for (at, byte) in changes {
            // The first page and the header most of all.
            bytes[if at % 3 == 0 { at % 600 } else { at % length }] = byte;
        }
        let tables = tables_of(&bytes);
        prop_assert!(tables.is_none_or(|tables| tables <= length), "{tables:?}");
    }
}

#[test]
fn permissions_that_keep_others_out_are_told() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    mode(&path, 0o664);
    mode(scratch.path(), 0o755);
    doctor(&scratch, &path).says("permissions", "warn", &["group", "make no log"]).only(&["permissions"]);
    mode(scratch.path(), 0o775);
    doctor(&scratch, &path).only(&[]);
    let (lock, _control) = by_hand(&path, 1);
    mode(&log_of(&path), 0o775);
    mode(&log_of(&path).join(CONTROL_NAME), 0o664);
    mode(&log_of(&path).join(LOCK_NAME), 0o644);
    doctor(&scratch, &path).says("permissions", "warn", &["lock has mode 644, the database 664"]);
    mode(&log_of(&path).join(LOCK_NAME), 0o664);
    doctor(&scratch, &path).only(&[]);
    // Another owner or group can be made by root only.
    let is_root = fs::metadata(&path).expect("look").uid() == 0;
    if is_root {
        let own = |path: &Path, user, group| std::os::unix::fs::chown(path, user, group).expect("chown");
        own(&log_of(&path).join(LOCK_NAME), None, Some(12_345));
        doctor(&scratch, &path).says("permissions", "warn", &["has group 12345"]);
        own(&log_of(&path).join(LOCK_NAME), Some(12_345), Some(0));
        doctor(&scratch, &path).only(&[]);
        mode(&path, 0o644);
        doctor(&scratch, &path).says("permissions", "warn", &["belongs to user 12345"]);
    }
    drop(lock);
    fs::remove_dir_all(log_of(&path)).expect("remove");
    let other = scratch.file("other.db");
    fs::hard_link(&path, &other).expect("a link");
    doctor(&scratch, &path).says("permissions", "warn", &["2 names"]);
    fs::remove_file(&other).expect("remove");
    symlink(&path, &other).expect("a symlink");
    doctor(&scratch, &other).says("symlink", "note", &["other.db", "app.db"]).only(&[]);
}

/// As another user, which takes root to become.
#[test]
fn a_user_without_rights_is_told_what_it_may_not_do() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    if fs::metadata(&path).expect("look").uid() != 0 {
        println!("not run: only root can run the tool as another user");
        return;
    }
    // The build may lie where nobody else may look.
    let tool = scratch.file("pwal");
    library::copy_program(&library::tool(), &tool);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    // Whatever the umask is.
    mode(scratch.path(), 0o755);
    mode(&tool, 0o755);
    mode(&path, 0o644);
    let as_nobody = |path: &Path| {
        let mut command = Command::new(&tool);
        command.args(["doctor".as_ref(), "--json".as_ref(), path.as_os_str()]).env_clear().uid(65_534).gid(65_534);
        ask(command)
    };
    let report = as_nobody(&path);
    report.says("permissions", "warn", &["not write it"]).says("permissions", "problem", &["no files in"]);
    mode(&path, 0o600);
    let report = as_nobody(&path);
    report.says("permissions", "problem", &["may not read the database"]);
    // Nothing is claimed about what was not seen.
    assert!(
        report.checks().all(|(check, _, _)| !matches!(check, "database" | "journal mode" | "log")),
        "{:#}",
        report.said
    );
    mode(&path, 0o666);
    mode(scratch.path(), 0o777);
    fs::create_dir(log_of(&path)).expect("a directory");
    mode(&log_of(&path), 0o700);
    as_nobody(&path).says("permissions", "problem", &["may not look into", "app.db-pwal"]);
    if cfg!(target_os = "linux") {
        mode(&log_of(&path), 0o777);
        let _open = Open::new(&path);
        as_nobody(&path).says("other openers", "note", &["processes of other users"]);
    }
}

/// A program in a directory that is PATH for the tool.
fn program(directory: &Path, name: &str, script: &str) {
    fs::create_dir_all(directory).expect("a directory");
    let (written, path) = (directory.join("written"), directory.join(name));
    fs::write(&written, format!("#!/bin/sh\n{script}\n")).expect("write");
    fs::set_permissions(&written, Permissions::from_mode(0o755)).expect("chmod");
    library::copy_program(&written, &path);
}

#[test]
fn hosts_are_asked_and_judged() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let with = |name: &str, script: &str| {
        let place = scratch.file(&format!("{}-{name}", script.len()));
        program(&place, name, script);
        let mut command = doctor_command(&scratch, &path);
        command.env("PATH", &place);
        ask(command)
    };
    let old = with("sqlite3", "echo 3.31.1");
    old.says("sqlite", "warn", &["3.31.1", "older than 3.32"]).only(&["sqlite"]);
    let omits = with("sqlite3", "echo 3.45.0; echo OMIT_LOAD_EXTENSION");
    omits.says("sqlite", "warn", &["3.45.0", "without loading of extensions"]).only(&["sqlite"]);
    let single = with("sqlite3", "echo 3.45.0; echo THREADSAFE=0");
    single.says("sqlite", "warn", &["THREADSAFE=0"]).only(&["sqlite"]);
    let other = with("sqlite3", "case \"$*\" in *.load*) echo 0.0.7;; *) echo 3.45.0;; esac");
    other.says("sqlite", "warn", &["is pwal 0.0.7"]).only(&["sqlite"]);
    let refuses = with("sqlite3", "case \"$*\" in *.load*) echo no such symbol >&2; exit 1;; *) echo 3.45.0;; esac");
    refuses.says("sqlite", "warn", &["does not load", "no such symbol"]).only(&["sqlite"]);
    with("sqlite3", "echo broken >&2; exit 7").says("sqlite", "note", &["cannot be asked: broken"]).only(&[]);
    with("python3", "echo '{\"version\":\"3.40.1\",\"options\":[],\"loads\":false}'")
        .says("sqlite", "note", &["3.40.1", "without enable_load_extension", "pwal.install()"])
        .only(&[]);
    with("python3", "echo '{\"version\":\"3.40.1\",\"options\":[\"OMIT_LOAD_EXTENSION\"],\"loads\":false}'")
        .says("sqlite", "warn", &["3.40.1", "without loading of extensions"])
        .only(&["sqlite"]);
    with("python3", "echo Traceback >&2; exit 1").says("sqlite", "note", &["cannot be asked: Traceback"]).only(&[]);
    with("python3", "echo '[}'").says("sqlite", "note", &["no JSON"]).only(&[]);
}

/// The real ones: `PWAL_TEST_SQLITE3` and `PWAL_TEST_PYTHON3` name others than those in `/usr/bin`.
#[test]
fn the_hosts_that_are_here_load_the_library() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let place = scratch.file("bin");
    fs::create_dir(&place).expect("a directory");
    let real = |variable: &str, default: &str| std::env::var_os(variable).map_or(PathBuf::from(default), PathBuf::from);
    symlink(real("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3"), place.join("sqlite3")).expect("a symlink");
    symlink(real("PWAL_TEST_PYTHON3", "/usr/bin/python3"), place.join("python3")).expect("a symlink");
    let mut command = doctor_command(&scratch, &path);
    command.env("PATH", &place);
    let before = contents(scratch.path());
    let report = ask(command);
    report.says("sqlite", "ok", &["bin/sqlite3: loads"]).says("sqlite", "ok", &["bin/python3: loads"]).only(&[]);
    assert_eq!(contents(scratch.path()), before);
}

#[test]
fn the_library_is_looked_for() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let place = scratch.file("tool");
    fs::create_dir(&place).expect("a directory");
    library::copy_program(&library::tool(), &place.join("pwal"));
    let asked = |library: Option<&str>| {
        let mut command = Command::new(place.join("pwal"));
        command.args(["doctor".as_ref(), "--json".as_ref(), path.as_os_str()]).env_clear().current_dir(scratch.path());
        command.envs(library.map(|library| ("PWAL_LIBRARY", library)));
        ask(command)
    };
    let built = library::library();
    let name = built.file_name().expect("a name");
    asked(None).says("library", "warn", &["no libpwal", "beside this program"]).only(&["library"]);
    asked(Some("/nowhere/libpwal.so")).says("library", "problem", &["/nowhere/libpwal.so"]);
    fs::copy(&built, scratch.path().join(name)).expect("copy");
    asked(None).says("library", "ok", &["not beside this program"]).only(&[]);
    fs::copy(&built, place.join(name)).expect("copy");
    asked(None).says("library", "ok", &["tool/libpwal"]).only(&[]);
    fs::write(scratch.path().join(name), "an older one").expect("write");
    asked(None).says("library", "warn", &["differ"]).only(&["library"]);
}

#[test]
fn mounts_are_found_and_read() {
    let table = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
30 22 0:26 / /srv ro,nosuid shared:5 - btrfs /dev/vdb rw,space_cache
31 30 0:27 / /srv/my\\040data rw - nfs4 server:/export rw,vers=4.2
32 30 0:28 / /srv/my\\040data rw - fuse.sshfs a:/b rw,barrier=0
not a line
";
    let find = |path: &str| mount::Mount::find(table, Path::new(path)).expect("a mount");
    assert_eq!((find("/home/app.db").kind.as_str(), find("/home/app.db").point.as_str()), ("ext4", "/"));
    assert_eq!(find("/srvs/app.db").kind, "ext4", "by whole names");
    assert_eq!(find("/srv/app.db").kind, "btrfs");
    assert_eq!(find("/srv/my data/app.db").kind, "fuse.sshfs", "the last hides the others");
    assert!(find("/srv/app.db").has("ro") && !find("/home/app.db").has("ro"), "an option as a whole");
    assert!(find("/srv/my data/app.db").has("barrier=0") && !find("/srv/app.db").has("space"));
    assert_eq!(mount::Mount::find("", Path::new("/app.db")), None);
    assert_eq!(mount::Mount::of(Path::new("/app.db")).is_some(), cfg!(target_os = "linux"));
}

/// Real mounts, in a mount namespace of their own, which takes root to make.
#[cfg(target_os = "linux")]
#[test]
fn file_systems_are_told_by_their_mounts() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let place = scratch.file("mounted");
    fs::create_dir(&place).expect("a directory");
    let tool = library::tool();
    let run = |mount: &str| {
        let script = format!(
            "set -e; cd {0}; {mount}; cp -f {1} mounted/app.db 2>/dev/null || true; exec {2} doctor --json mounted/app.db",
            scratch.path().display(),
            path.display(),
            tool.display()
        );
        let mut command = Command::new("unshare");
        command.env_remove("PWAL_VERSION").args(["-m", "sh", "-c", &script]).env("PWAL_LIBRARY", library::library());
        Output::of(command.output().expect("unshare starts"))
    };
    let tmpfs = run("mount -t tmpfs -o size=2m none mounted");
    if !tmpfs.stdout.starts_with('{') {
        println!("not run: no mounts can be made here: {}", tmpfs.stderr);
        return;
    }
    Report::of(tmpfs).says("file system", "warn", &["tmpfs", "memory"]).says("free space", "problem", &["MiB free"]);
    let read_only =
        run(&format!("cp {} mounted/; mount --bind mounted mounted; mount -o remount,ro,bind mounted", path.display()));
    Report::of(read_only).says("file system", "problem", &["mounted read-only"]);
    let files = run("mount -t tmpfs -o size=64m,nr_inodes=2 none mounted");
    Report::of(files).says("free space", "problem", &["no more files"]);
    let overlay = run(
        "mount -t tmpfs none mounted; mkdir mounted/l mounted/u mounted/w; mount -t overlay -o lowerdir=mounted/l,upperdir=mounted/u,workdir=mounted/w none mounted",
    );
    if overlay.stdout.starts_with('{') {
        Report::of(overlay).says("file system", "warn", &["overlay", "goes with the container"]);
    }
}
