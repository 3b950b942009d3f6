# Ruby with the gem sqlite3, beside libpwal.so: transactions that write beside each other. docs/concurrent.md shows its lines about pwal.

require "sqlite3"

def pwal
  loader = SQLite3::Database.new(":memory:")
  loader.enable_load_extension(true)
  loader.load_extension("./libpwal")
  loader.close
end

def connect
  db = SQLite3::Database.new("app.db")
  db.busy_timeout = 10_000
  db.execute("PRAGMA parallel_wal_writers = concurrent")
  db
end

def again(db, attempts = 8)
  (0..attempts).each do |attempt|
    db.transaction(attempt < attempts ? :deferred : :immediate) { yield db }
    return
  rescue SQLite3::BusyException
    db.rollback if db.transaction_active?
    raise if attempt == attempts
  end
end

pwal
db = connect
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS counter(id INTEGER PRIMARY KEY, n)")
db.execute("REPLACE INTO counter VALUES(1, 0)")
db.close

workers = (1..4).map do
  fork do
    pwal
    db = connect
    50.times do
      again(db) do
        n = db.get_first_value("SELECT n FROM counter WHERE id = 1")
        sleep(0.001)
        db.execute("UPDATE counter SET n = ? WHERE id = 1", [n + 1])
      end
    end
    db.close
  end
end
workers.each { |worker| raise "a worker has failed" unless Process.wait2(worker)[1].success? }

db = connect
n = db.get_first_value("SELECT n FROM counter WHERE id = 1")
raise "#{n} of 200" unless n == 200
puts db.get_first_value("PRAGMA parallel_wal_mode") # auto
db.close
