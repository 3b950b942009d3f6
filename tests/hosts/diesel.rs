//! diesel: `.ci/newest` builds it, in a project of its own.

use diesel::prelude::*;
use diesel::sql_types::Text;

#[derive(QueryableByName)]
struct Mode {
    #[diesel(sql_type = Text)]
    mode: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pwal::register()?;
    let mut db = SqliteConnection::establish("file:app.db?vfs=pwal")?;
    for sql in [
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text)",
        "INSERT INTO note(text) VALUES('from diesel')",
    ] {
        diesel::sql_query(sql).execute(&mut db)?;
    }
    // The pragma itself has a column without a name.
    let status = "SELECT json_extract(pwal_status(), '$.mode') AS mode WHERE json_extract(pwal_status(), '$.active')";
    let mode: Mode = diesel::sql_query(status).get_result(&mut db)?;
    println!("{}", mode.mode); // auto
    Ok(())
}
