# Ruby with the gem sqlite3, beside libpwal.so: the README shows its lines about pwal.

require "sqlite3"

loader = SQLite3::Database.new(":memory:")
loader.enable_load_extension(true)
loader.load_extension("./libpwal") # for every database that this process opens from here on

db = SQLite3::Database.new("app.db")
db.busy_timeout = 10_000
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text)")
db.execute("INSERT INTO note(text) VALUES('from Ruby')")
puts db.get_first_value("PRAGMA parallel_wal_mode") # auto
db.close
