//! A database as text, and two database files compared page by page.

use super::{rows, text};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::Path;

/// Settings, schema and rows of all attached databases. The same content gives the same text.
pub fn dump(connection: &Connection) -> String {
    let databases = connection
        .prepare("SELECT name FROM pragma_database_list WHERE name<>'temp' ORDER BY name")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>())
        .expect("the list of databases");
    databases.iter().map(|database| dump_database(connection, database)).collect::<Vec<_>>().join("\n")
}

/// [`dump`] of one attached database.
pub fn dump_database(connection: &Connection, database: &str) -> String {
    let mut lines = Vec::new();
    for pragma in ["page_size", "auto_vacuum", "encoding", "user_version", "application_id", "page_count"] {
        lines.push(format!("{database}.{pragma} {}", text(connection, &format!("PRAGMA \"{database}\".{pragma}"))));
    }
    let schema = format!("SELECT type, name, tbl_name, rootpage, sql FROM \"{database}\".sqlite_schema ORDER BY rowid");
    lines.extend(rows(connection, &schema).expect("the schema"));
    let tables = format!(
        "SELECT name FROM \"{database}\".sqlite_schema WHERE type='table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    );
    for table in rows(connection, &tables).expect("the tables") {
        lines.push(format!("-- {database}.{table}"));
        let mut content = rows(connection, &format!("SELECT * FROM \"{database}\".\"{}\"", table.replace('"', "\"\"")))
            .expect(&table);
        content.sort();
        lines.extend(content);
    }
    lines.join("\n")
}

/// The first line that differs, for a failure's message.
pub fn first_difference(one: &str, other: &str) -> Option<String> {
    let (mut left, mut right) = (one.lines(), other.lines());
    for line in 1.. {
        match (left.next(), right.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => return Some(format!("line {line}: {a:?} against {b:?}")),
        }
    }
    None
}

/// Whether two closed database files hold the same pages, but for two things. Leaves of the free list: SQLite
/// never writes them, so they hold what the last checkpoint happened to leave there. The change
/// counter (and its copy): in WAL mode SQLite counts on from what page 1 said when it was last *read*
/// (`pager_write_changecounter`), so it depends on the page cache.
pub fn different_page(one: &Path, other: &Path) -> Option<String> {
    let (mut left, mut right) = (std::fs::read(one).expect("read"), std::fs::read(other).expect("read"));
    if left.len() != right.len() {
        return Some(format!("{} bytes against {}", left.len(), right.len()));
    }
    if left.is_empty() {
        return None;
    }
    for file in [&mut left, &mut right] {
        for counter in [24..28, 92..96] {
            file[counter].fill(0);
        }
    }
    let page_bytes = match u16::from_be_bytes([left[16], left[17]]) {
        1 => 65536,
        bytes => usize::from(bytes),
    };
    let unwritten = free_leaves(&left, page_bytes);
    left.chunks(page_bytes).zip(right.chunks(page_bytes)).enumerate().find_map(|(index, (a, b))| {
        let page = index + 1;
        if a == b || unwritten.contains(&page) {
            return None;
        }
        let at = a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(0);
        Some(format!(
            "page {page} of {page_bytes} bytes differs from byte {at} on: {:02x?} {:02x?}",
            &a[at..][..1],
            &b[at..][..1]
        ))
    })
}

fn free_leaves(file: &[u8], page_bytes: usize) -> BTreeSet<usize> {
    let word = |at: usize| file.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let mut leaves = BTreeSet::new();
    let mut trunk = word(32);
    let mut steps = 0;
    while trunk != 0 && steps < file.len() / page_bytes {
        let start = (trunk - 1) * page_bytes;
        let count = word(start + 4).min(page_bytes / 4);
        leaves.extend((0..count).map(|index| word(start + 8 + 4 * index)));
        trunk = word(start);
        steps += 1;
    }
    leaves
}
