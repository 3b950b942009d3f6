//! sqlx: the README shows its lines about pwal.

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    pwal::register()?;
    let options = SqliteConnectOptions::new()
        .filename("app.db")
        .create_if_missing(true)
        .vfs("pwal")
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePool::connect_with(options).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text)").execute(&pool).await?;
    sqlx::query("INSERT INTO note(text) VALUES('from sqlx')").execute(&pool).await?; // durable when it returns
    let mode: String = sqlx::query_scalar("PRAGMA parallel_wal_mode").fetch_one(&pool).await?;
    println!("{mode}"); // auto
    pool.close().await;
    Ok(())
}
