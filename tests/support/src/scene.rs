//! What a scene begins with: a database of its own, and somebody who ends it if it hangs.

use super::{Scratch, Watchdog, close, open_wal, run};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No scene takes so long: a hang is a failure.
const LIMIT: Duration = Duration::from_secs(100);

/// How many rows are in the table of a scene.
pub const COUNT: &str = "SELECT count(*) FROM t";

/// Lives as long as its scene.
pub struct Scene {
    pub scratch: Scratch,
    _watchdog: Watchdog,
}

/// The scene of this name, and its database: in WAL mode, with an empty table `t(x)`, closed.
pub fn scene(name: &str) -> (Scene, PathBuf) {
    let scene = Scene { scratch: Scratch::new(), _watchdog: watchdog(name) };
    let path = scene.scratch.file("app.db");
    create(&path);
    (scene, path)
}

/// Ends the process when a scene hangs that makes its database itself.
pub fn watchdog(name: &str) -> Watchdog {
    Watchdog::new(name, LIMIT)
}

/// A database in WAL mode with an empty table `t(x)`, closed.
pub fn create(path: &Path) {
    let connection = open_wal(path);
    run(&connection, "CREATE TABLE t(x)");
    close(connection);
}
