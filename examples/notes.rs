//! The Rust program of the README.

use rusqlite::{Connection, OpenFlags};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pwal::register()?;
    let db = Connection::open_with_flags_and_vfs("app.db", OpenFlags::default(), "pwal")?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.execute("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text)", [])?;
    db.execute("INSERT INTO note(text) VALUES(?1)", ["from Rust"])?; // durable when it returns
    let notes: i64 = db.query_row("SELECT count(*) FROM note", [], |row| row.get(0))?;
    println!("{notes} notes");
    Ok(())
}
