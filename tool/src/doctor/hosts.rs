//! The SQLite libraries that are here, and whether pwal loads into them.

use super::report::Report;
use super::run::ask;
use crate::shell;
use serde_json::Value;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest SQLite that pwal loads into.
const OLDEST: [u32; 3] = [3, 32, 0];
/// Programs of one name that are asked at most.
const PROGRAMS_MAX: usize = 4;

const SQLITE: &str = "sqlite";

pub fn check(library: Option<&Path>, report: &mut Report) {
    report.ok(SQLITE, format!("{} in this program", rusqlite::version()));
    let own = env::var_os("PWAL_SQLITE3").map(PathBuf::from);
    let shells = own.into_iter().chain(in_path("sqlite3"));
    for program in distinct(shells) {
        tell(&program, ask_shell(&program, library), library, report);
    }
    for program in distinct(in_path("python3").into_iter()) {
        tell(&program, ask_python(&program, library), library, report);
    }
}

/// The programs of a name in PATH.
fn in_path(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join(name)).filter(|program| program.is_file()).collect()
}

fn distinct(programs: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    programs.filter(|program| seen.insert(fs::canonicalize(program).ok())).take(PROGRAMS_MAX).collect()
}

/// What a host says of its SQLite.
struct Host {
    /// `3.40.1`
    version: String,
    /// It was built with SQLITE_OMIT_LOAD_EXTENSION.
    cannot_load: bool,
    /// It can load, but does not offer it: pwal's package for it loads past that.
    offers_no_loading: bool,
    /// It was built with SQLITE_THREADSAFE=0.
    single_threaded: bool,
    /// The version of pwal that it loaded, or why not; `None`: not tried.
    loaded: Option<Result<String, String>>,
}

fn tell(program: &Path, host: Result<Host, String>, library: Option<&Path>, report: &mut Report) {
    let program = program.display();
    let host = match host {
        Ok(host) => host,
        Err(why) => return report.note(SQLITE, format!("{program}: cannot be asked: {why}")),
    };
    let found = format!("{} of {program}", host.version);
    if parse_version(&host.version).is_none_or(|version| version < OLDEST) {
        let [major, minor, _] = OLDEST;
        return report.warn(SQLITE, format!("{found}: older than {major}.{minor}"), "pwal needs a newer SQLite there");
    }
    if host.single_threaded {
        return report.warn(
            SQLITE,
            format!("{found}: built with SQLITE_THREADSAFE=0"),
            "pwal needs one that is thread-safe",
        );
    }
    if host.cannot_load {
        let advice = "use another build (Debian's python3, a python.org or uv build, pysqlite3, apsw), or link the crate sqlite-pwal";
        return report.warn(SQLITE, format!("{found}: built without loading of extensions"), advice);
    }
    if host.offers_no_loading {
        let found = format!(
            "{found}: built without enable_load_extension; `pwal.install()` of pwal's Python package loads past it"
        );
        return report.note(SQLITE, found);
    }
    let library = library.map_or(String::new(), |library| library.display().to_string());
    match host.loaded {
        None => report.ok(SQLITE, format!("{found}: new enough, loads extensions")),
        Some(Ok(version)) if version == pwal::version() => report.ok(SQLITE, format!("{found}: loads {library}")),
        Some(Ok(version)) => {
            let found = format!("{found}: {library} is pwal {version}, this program {}", pwal::version());
            report.warn(SQLITE, found, "use one version of the library and of the tool");
        }
        Some(Err(why)) => {
            report.warn(
                SQLITE,
                format!("{found}: does not load {library}: {why}"),
                "is it built for this machine and C library?",
            );
        }
    }
}

fn parse_version(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.trim().split('.');
    let mut next = || parts.next()?.parse().ok();
    Some([next()?, next()?, next().unwrap_or(0)])
}

/// The shell `program`, without the user's start file and without a database.
fn shell_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["-batch", "-bail", "-init", "/dev/null", ":memory:"]);
    command
}

fn ask_shell(program: &Path, library: Option<&Path>) -> Result<Host, String> {
    let said = ask(shell_of(program).args(["SELECT sqlite_version()", "PRAGMA compile_options"]))?;
    let mut lines = said.lines();
    let version = lines.next().unwrap_or_default().to_owned();
    let options: Vec<&str> = lines.collect();
    let mut host = Host {
        cannot_load: options.contains(&"OMIT_LOAD_EXTENSION"),
        offers_no_loading: false,
        single_threaded: options.contains(&"THREADSAFE=0"),
        version,
        loaded: None,
    };
    if let Some(load) = library.filter(|_| !host.cannot_load).and_then(|library| shell::quoted(library).ok()) {
        let said = ask(shell_of(program).args([&format!(".load {load}"), "SELECT pwal_version()"]));
        host.loaded = Some(said.map(|version| version.trim().to_owned()));
    }
    Ok(host)
}

const PYTHON: &str = "\
import json, sqlite3, sys
db = sqlite3.connect(':memory:')
said = {'version': sqlite3.sqlite_version, 'options': [row[0] for row in db.execute('PRAGMA compile_options')]}
said['loads'] = hasattr(db, 'enable_load_extension')
if said['loads'] and len(sys.argv) > 1:
    try:
        db.enable_load_extension(True)
        db.load_extension(sys.argv[1])
        said['pwal'] = db.execute('SELECT pwal_version()').fetchone()[0]
    except Exception as error:
        said['error'] = str(error)
print(json.dumps(said))
";

fn ask_python(program: &Path, library: Option<&Path>) -> Result<Host, String> {
    // Isolated: it imports nothing from the current directory.
    let said = ask(Command::new(program).args(["-I", "-c", PYTHON]).args(library))?;
    let said: Value = serde_json::from_str(said.trim()).map_err(|error| format!("says what is no JSON ({error})"))?;
    let text = |field: &str| said[field].as_str().map(str::to_owned);
    let has = |option: &str| said["options"].as_array().is_some_and(|options| options.iter().any(|o| o == option));
    Ok(Host {
        version: text("version").ok_or("does not say its version")?,
        cannot_load: has("OMIT_LOAD_EXTENSION"),
        offers_no_loading: said["loads"] != true,
        single_threaded: has("THREADSAFE=0"),
        loaded: text("pwal").map(Ok).or(text("error").map(Err)),
    })
}
