//! A small disk, which a test can fill: a file system in memory, in a mount namespace of a process of its own.

use crate::Scratch;
use crate::child::{self, Role};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where the disk is, for the process in the namespace.
const PLACE: &str = "PWAL_TEST_SMALL_DISK";

/// Starts the test `test` of this binary again, in its role, with a disk of `mib` MiB that is mounted below `scratch`. `None`: this
/// machine refuses that, and the test prints why.
pub fn start(scratch: &Scratch, mib: u64, test: &str) -> Option<Role> {
    let place = scratch.file("small");
    std::fs::create_dir(&place).expect("a mount point");
    let place = place.to_str().expect("a name in UTF-8").to_owned();
    let mounted = || {
        let mut command = Command::new("unshare");
        // Root mounts by itself; others as the root of a user namespace.
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let script = format!(r#"mount -t tmpfs -o size={mib}m none "${PLACE}" && exec "$0" "$@""#);
        command.args(["--mount", "sh", "-c", &script]);
        command
    };
    let tried = mounted().arg("true").env(PLACE, &place).stdin(Stdio::null()).output();
    let refused = match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    };
    if let Some(why) = refused {
        println!("not played: this machine mounts no disk for a test: {why}");
        return None;
    }
    let mut command = mounted();
    command.arg(std::env::current_exe().expect("this binary"));
    Some(child::start_by(command, test, &[(PLACE, place)]))
}

/// Where the disk is: in the process that [`start`] has started.
pub fn place() -> PathBuf {
    child::setting(PLACE).into()
}
