//! Litestream: it copies the `-wal` file of stock SQLite, which does not exist under pwal.

use super::Scene;
use super::report::Report;
use super::schema;
use std::fs::{self, File};
use std::path::PathBuf;

const LITESTREAM: &str = "litestream";
const TABLES: [&str; 2] = ["_litestream_seq", "_litestream_lock"];

pub fn check(scene: &Scene, report: &mut Report) {
    let advice = "stop replicating this database with it; back up through pwal: VACUUM INTO, or SQLite's backup API";
    let runs = scene.openers.all.iter().find(|opener| opener.command.contains("litestream"));
    if let Some(opener) = runs {
        let found = format!("{opener} replicates the -wal file of stock SQLite, which there is none of under pwal");
        return report.problem(LITESTREAM, found, advice);
    }
    let tables = tables(scene);
    let mut traces = tables.clone().unwrap_or_default();
    traces.extend(shadow(scene).map(|path| path.display().to_string()));
    if !traces.is_empty() {
        let found = format!("it was here ({}); under pwal it has no -wal file to replicate", traces.join(", "));
        report.warn(LITESTREAM, found, advice);
    } else if tables.is_none() && scene.database.bytes > 0 {
        report.note(LITESTREAM, "no files of it; whether its tables exist is not known now");
    } else {
        report.ok(LITESTREAM, "no traces of it");
    }
}

/// Its tables, as far as they are in the database file.
fn tables(scene: &Scene) -> Option<Vec<String>> {
    let file = File::open(&scene.database.path).ok()?;
    let names = schema::tables(&file, &scene.database.header)?;
    Some(names.into_iter().filter(|name| TABLES.contains(&name.as_str())).map(|name| format!("table {name}")).collect())
}

/// Its own files: `.<database>-litestream`.
fn shadow(scene: &Scene) -> Option<PathBuf> {
    let path = &scene.database.path;
    let name = path.file_name()?.to_string_lossy();
    let shadow = path.with_file_name(format!(".{name}-litestream"));
    fs::symlink_metadata(&shadow).is_ok().then_some(shadow)
}
