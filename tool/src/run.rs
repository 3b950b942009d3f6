//! `pwal run`: a program that knows nothing of pwal, with a library in it that loads pwal before its first database
//! (`LD_PRELOAD`, the package `pwal-preload`).

use crate::failure::{Done, Failure};
use crate::shell;
use object::Endianness;
use object::elf::{PT_INTERP, SHN_UNDEF};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, Sym};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Run a program with its databases on pwal: the sqlite3 shell, a script, a browser
///
/// Reaches every program, and what it starts, that gets SQLite from a shared library (libsqlite3.so): pwal is the default
/// VFS there, and an open where it does not load fails. Not reached, and refused or named at the end of the process: programs
/// and modules with a SQLite of their own in them, setuid programs, PHP.
#[derive(clap::Args)]
pub struct Arguments {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The library for `LD_PRELOAD`, beside the loadable one.
const PRELOAD: &str = "libpwal_preload.so";
const VARIABLE: &str = "LD_PRELOAD";
/// An interpreter of an interpreter of a script: the kernel follows four.
const INTERPRETERS_MAX: usize = 4;

pub fn run(arguments: &Arguments) -> Done {
    let Some((program, rest)) = arguments.command.split_first() else {
        return Err(Failure::cannot("no program is named"));
    };
    let library = shell::library()?;
    let preload = library.with_file_name(PRELOAD);
    if !preload.is_file() {
        return Err(Failure::cannot(format!("{} is not there", preload.display()))
            .hint("build it (cargo build --release -p pwal-preload): it belongs beside libpwal.so"));
    }
    if preload.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        let text = format!("{}: a path with blanks or colons cannot be in {VARIABLE}", preload.display());
        return Err(Failure::cannot(text).hint("put the libraries into another directory, and set PWAL_LIBRARY"));
    }
    let file = find(program).ok_or_else(|| Failure::cannot(format!("{} is not in PATH", program.display())))?;
    check(&file)?;
    let mut preloads = preload.into_os_string();
    if let Some(others) = env::var_os(VARIABLE).filter(|others| !others.is_empty()) {
        preloads.push(":");
        preloads.push(others);
    }
    let error = Command::new(program).args(rest).env(VARIABLE, preloads).env("PWAL_LIBRARY", library).exec();
    Err(Failure::io("run", &file, &error))
}

/// The file that `execvp` would run.
fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(program));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let runs = |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    env::split_paths(&path).map(|directory| directory.join(program)).find(runs)
}

/// # Errors
/// The dynamic linker would not preload, or the program would not notice.
fn check(program: &Path) -> Done {
    let mut program = program.to_owned();
    for _ in 0..INTERPRETERS_MAX {
        let failed = |error| Failure::io("read", &program, &error);
        let has_other_rights = has_other_rights(&program).map_err(failed)?;
        if has_other_rights {
            let text =
                format!("{} runs with other rights than yours: {VARIABLE} has no effect there", program.display());
            return Err(Failure::cannot(text).hint("start `pwal run` with those rights (sudo pwal run ...)"));
        }
        let bytes = fs::read(&program).map_err(failed)?;
        match interpreter(&bytes) {
            Some(next) => program = next,
            None => return check_binary(&program, &bytes),
        }
    }
    Ok(())
}

/// Whether the kernel starts it in secure mode (`AT_SECURE`): a set-user-id, a set-group-id, capabilities of the file.
fn has_other_rights(program: &Path) -> std::io::Result<bool> {
    let file = program.metadata()?;
    let user = file.mode() & 0o4000 != 0 && file.uid() != rustix::process::getuid().as_raw();
    let group = file.mode() & 0o2000 != 0 && file.gid() != rustix::process::getgid().as_raw();
    let capabilities = !rustix::process::getuid().is_root()
        && rustix::fs::getxattr(program, "security.capability", &mut [0_u8; 64][..]).is_ok();
    Ok(user || group || capabilities)
}

/// What the first line of a script names.
fn interpreter(bytes: &[u8]) -> Option<PathBuf> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
    let name = line.split(|byte| byte.is_ascii_whitespace()).next()?;
    Some(PathBuf::from(OsString::from_vec(name.to_vec())))
}

fn check_binary(program: &Path, bytes: &[u8]) -> Done {
    // `DL_LOAD` of PHP: `dlopen` with RTLD_DEEPBIND, so that its modules find their own SQLite before ours.
    let name =
        fs::canonicalize(program).ok().and_then(|real| real.file_name().map(OsStr::to_owned)).unwrap_or_default();
    if name.as_bytes().starts_with(b"php") {
        let text = format!("{}: PHP opens its modules past what is preloaded", program.display());
        return Err(Failure::cannot(text).hint("load pwal by SQLite3::loadExtension (docs/hosts.md)"));
    }
    // What is no program of 64 bits is left to the kernel.
    let Ok(seen) = look(bytes) else { return Ok(()) };
    let advice = "load pwal there (docs/hosts.md), or take a build that uses the system's libsqlite3";
    if !seen.is_dynamic {
        let text = format!("{} is statically linked: {VARIABLE} has no effect there", program.display());
        return Err(Failure::cannot(text).hint(advice));
    }
    if seen.has_own_sqlite {
        let text = format!("{} has a SQLite of its own in it, which `pwal run` does not reach", program.display());
        return Err(Failure::cannot(text).hint(advice));
    }
    Ok(())
}

struct Seen {
    /// The kernel starts it by the dynamic linker.
    is_dynamic: bool,
    /// SQLite's code is in it, and it does not ask another file for SQLite's functions.
    has_own_sqlite: bool,
}

fn look(bytes: &[u8]) -> object::Result<Seen> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let (endian, header) = (file.endian(), file.elf_header());
    let is_dynamic = header.program_headers(endian, bytes)?.iter().any(|part| part.p_type(endian) == PT_INTERP);
    let symbols = file.elf_dynamic_symbol_table();
    let imports = symbols
        .iter()
        .filter(|symbol| symbol.st_shndx(endian) == SHN_UNDEF)
        .any(|symbol| symbols.symbol_name(endian, symbol).is_ok_and(|name| name.starts_with(b"sqlite3_open")));
    // What SQLite writes at the start of each database, and the name of its schema.
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    Ok(Seen { is_dynamic, has_own_sqlite: !imports && has(b"SQLite format 3\0") && has(b"sqlite_master\0") })
}
