"""pwal in a Python program that only knows the module sqlite3. Prints "ok"."""

import json
import sqlite3

LATE = '{"schema":1,"vfs":"unix","active":false,"reason":"opened before pwal was loaded"}'


def status(connection):
    return connection.execute("SELECT pwal_status()").fetchone()[0]


def expect(got, wanted):
    assert got == wanted, f"{got!r} instead of {wanted!r}"


# A connection that loads is itself older than pwal.
first = sqlite3.connect("other.db")
first.enable_load_extension(True)
# The entry point that leaves the default as it is.
first.execute("SELECT load_extension('./libpwal', 'sqlite3_pwalvfs_init')")
expect(status(first), LATE)
expect(json.loads(status(sqlite3.connect("other.db")))["vfs"], "unix")
chosen = sqlite3.connect("file:other.db?vfs=pwal", uri=True)
assert json.loads(status(chosen))["vfs"] == "pwal"
chosen.close()

# The entry point that becomes the default.
first.load_extension("./libpwal")
first.load_extension("./libpwal")
expect(status(first), LATE)
first.close()

writers = [sqlite3.connect("app.db", isolation_level=None) for _ in range(2)]
for connection in writers:
    expect(json.loads(status(connection))["vfs"], "pwal")
    expect(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0], "wal")
writers[0].execute("CREATE TABLE t(n INTEGER PRIMARY KEY, who INTEGER)")
for n in range(200):
    writers[n % 2].execute("INSERT INTO t(who) VALUES(?)", (n % 2,))
    if n % 20 == 0:
        seen = [connection.execute("SELECT count(*) FROM t").fetchone()[0] for connection in writers]
        expect(seen, [n + 1, n + 1])

# One keeps its snapshot while the other writes.
writers[0].execute("BEGIN")
expect(writers[0].execute("SELECT count(*) FROM t").fetchone()[0], 200)
writers[1].execute("INSERT INTO t(who) VALUES(9)")
expect(writers[0].execute("SELECT count(*) FROM t").fetchone()[0], 200)
try:
    writers[0].execute("INSERT INTO t(who) VALUES(8)")
    raise AssertionError("an old snapshot must not write")
except sqlite3.OperationalError as error:
    expect(str(error), "database is locked")
writers[0].execute("ROLLBACK")
expect(writers[0].execute("SELECT count(*) FROM t").fetchone()[0], 201)

# Backup to memory, and a query that has not come to its end when the program does.
memory = sqlite3.connect(":memory:")
writers[0].backup(memory)
expect(memory.execute("SELECT count(*) FROM t").fetchone()[0], 201)
expect(writers[1].execute("PRAGMA integrity_check").fetchone()[0], "ok")
print("ok")
