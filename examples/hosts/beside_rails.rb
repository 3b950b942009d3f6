# Active Record beside libpwal.so: transactions that write beside each other, by processes that all change one row. docs/concurrent.md
# shows its method `again`. Set PWAL_WRITERS=concurrent.

require "active_record"
require "sqlite3"

loader = SQLite3::Database.new(":memory:")
loader.enable_load_extension(true)
loader.load_extension("./libpwal")
loader.close

ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: "app.db", timeout: 10_000)

class Counter < ActiveRecord::Base
end

def again(attempts = 8)
  (0..attempts).each do |attempt|
    return ActiveRecord::Base.transaction { yield }
  rescue ActiveRecord::StatementInvalid => error
    # After a COMMIT that is refused the first one is about ROLLBACK.
    busy = error
    busy = busy.cause until busy.nil? || busy.is_a?(SQLite3::BusyException)
    raise if busy.nil? || attempt == attempts
  end
end

connection = ActiveRecord::Base.connection
connection.execute("PRAGMA journal_mode = WAL")
connection.create_table(:counters, force: true) { |table| table.integer :n }
Counter.create!(id: 1, n: 0)
ActiveRecord::Base.connection_handler.clear_all_connections!

workers = (1..4).map do
  fork do
    50.times do
      again do
        counter = Counter.find(1)
        sleep(0.001)
        counter.update!(n: counter.n + 1)
      end
    end
  end
end
workers.each { |worker| raise "a worker has failed" unless Process.wait2(worker)[1].success? }

raise "#{Counter.find(1).n} of 200" unless Counter.find(1).n == 200
raise "serial" unless ActiveRecord::Base.connection.select_value("PRAGMA parallel_wal_writers") == "concurrent"
puts ActiveRecord::Base.connection.select_value("PRAGMA parallel_wal_mode") # auto
