//! What a database contains, as one number.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};
use std::hash::Hasher;
use twox_hash::XxHash3_64;

fn add_rows(connection: &Connection, sql: &str, hash: &mut XxHash3_64) -> Result<()> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            let (kind, bytes) = match row.get_ref(column)? {
                ValueRef::Null => (0, Vec::new()),
                ValueRef::Integer(number) => (1, number.to_le_bytes().to_vec()),
                ValueRef::Real(number) => (2, number.to_le_bytes().to_vec()),
                ValueRef::Text(bytes) => (3, bytes.to_vec()),
                ValueRef::Blob(bytes) => (4, bytes.to_vec()),
            };
            hash.write_u8(kind);
            hash.write_usize(bytes.len());
            hash.write(&bytes);
        }
    }
    Ok(())
}

/// The same for two databases with the same schema, the same rows and the same `user_version`; `database`: by its name in the
/// connection.
pub fn state(connection: &Connection, database: &str) -> Result<u64> {
    let mut hash = XxHash3_64::default();
    let schema = format!("SELECT type, name, sql FROM {database}.sqlite_schema ORDER BY type, name");
    add_rows(connection, &schema, &mut hash)?;
    add_rows(connection, &format!("PRAGMA {database}.user_version"), &mut hash)?;
    let tables = format!("SELECT name FROM {database}.sqlite_schema WHERE type='table' ORDER BY name");
    let mut tables = connection.prepare(&tables)?;
    let names: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_>>()?;
    for name in names {
        hash.write(name.as_bytes());
        add_rows(connection, &format!("SELECT * FROM {database}.{name} ORDER BY 1"), &mut hash)?;
    }
    Ok(hash.finish())
}
