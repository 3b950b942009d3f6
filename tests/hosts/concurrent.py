"""Transactions beside each other on the SQLite that this Python has: what SQLite does that pwal relies on. Prints "ok"."""

import sqlite3
import threading

loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension("./libpwal")


def expect(got, wanted):
    assert got == wanted, f"{got!r} instead of {wanted!r}"


def connect(setting="concurrent", timeout=5.0):
    connection = sqlite3.connect("app.db", isolation_level=None, timeout=timeout, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys=ON")
    expect(connection.execute(f"PRAGMA parallel_wal_writers={setting}").fetchone()[0], setting)
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return connection


def code(connection, sql):
    """"ok", or the name of the primary code; and whether a transaction is open then."""
    try:
        connection.execute(sql).fetchall()
        return "ok", connection.in_transaction
    except sqlite3.OperationalError as error:
        return str(error), connection.in_transaction


def value(connection, sql):
    return connection.execute(sql).fetchone()[0]


LOCKED = "database is locked"

setup = sqlite3.connect("app.db", isolation_level=None)
setup.execute("PRAGMA journal_mode=WAL")
setup.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n, pad)")
setup.execute("CREATE TABLE u(id INTEGER PRIMARY KEY, n)")
setup.executemany("INSERT INTO t VALUES(?, 0, zeroblob(100))", [(10 * n,) for n in range(1, 2001)])
a, b = connect(), connect()

# Different pages; the same row; a skew; a phantom. What COMMIT refuses is rolled back.
for first, second, refused in [
    ("UPDATE t SET n=n+1 WHERE id=10", "UPDATE t SET n=n+1 WHERE id=20000", False),
    ("UPDATE t SET n=n+1 WHERE id=10", "UPDATE t SET n=n+1 WHERE id=10", True),
]:
    for connection, sql in ((a, first), (b, second)):
        connection.execute("BEGIN")
        connection.execute(sql)
    expect(code(a, "COMMIT"), ("ok", False))
    expect(code(b, "COMMIT"), (LOCKED, False) if refused else ("ok", False))
for connection, id in ((a, 10), (b, 20000)):
    connection.execute("BEGIN")
    value(connection, "SELECT sum(n) FROM t WHERE id IN (10, 20000)")
    connection.execute("UPDATE t SET n=n+1 WHERE id=?", (id,))
expect((code(a, "COMMIT"), code(b, "COMMIT")), (("ok", False), (LOCKED, False)))
a.execute("BEGIN")
expect(value(a, "SELECT count(*) FROM u WHERE n=1"), 0)
a.execute("UPDATE t SET n=n+1 WHERE id=20000")
b.execute("INSERT INTO u VALUES(1, 1)")
expect(code(a, "COMMIT"), (LOCKED, False))

# The cache counts, and the first write says what has changed by then.
a.execute("BEGIN")
before = value(a, "SELECT n FROM t WHERE id=10")
b.execute("UPDATE t SET n=n+1 WHERE id=10")
expect(code(a, "UPDATE t SET n=n+1 WHERE id=10"), (LOCKED, True))
expect(value(a, "SELECT n FROM t WHERE id=10"), before)
a.execute("ROLLBACK")

# A savepoint begins one; its RELEASE is the commit.
a.execute("SAVEPOINT s")
a.execute("UPDATE t SET n=n+1 WHERE id=10")
b.execute("UPDATE t SET n=n+1 WHERE id=10")
expect(code(a, "RELEASE s")[0], LOCKED)
if a.in_transaction:
    a.execute("ROLLBACK")

# BEGIN IMMEDIATE is serial: COMMIT beside it waits, by the busy timeout, and stays open.
impatient = connect(timeout=0)
b.execute("BEGIN IMMEDIATE")
impatient.execute("BEGIN")
impatient.execute("UPDATE t SET n=n+1 WHERE id=20000")
expect(code(impatient, "COMMIT"), (LOCKED, True))
a.execute("BEGIN")
a.execute("UPDATE t SET n=n+1 WHERE id=10")
waiter = threading.Thread(target=lambda: expect(code(a, "COMMIT"), ("ok", False)))
waiter.start()
b.execute("COMMIT")
waiter.join()
expect(code(impatient, "COMMIT"), ("ok", False))

# VACUUM runs BEGIN itself, and is serial. A spilled page that needs WRITE stays in memory.
b.execute("BEGIN IMMEDIATE")
expect(code(impatient, "VACUUM")[0], LOCKED)
setup.execute("PRAGMA parallel_wal_max_batch_bytes=65536")
impatient.execute("PRAGMA cache_size=10")
impatient.execute("BEGIN")
impatient.execute("UPDATE t SET pad=zeroblob(101)")
expect(code(impatient, "COMMIT"), (LOCKED, True))
b.execute("ROLLBACK")
expect(code(impatient, "COMMIT"), ("ok", False))
expect(code(a, "VACUUM"), ("ok", False))


# Counters that threads raise by one, each time with what they have read.
def count(raised):
    connection = connect()
    for turn in range(60):
        id = (10, 10000, 20000)[turn % 3]
        while True:
            connection.execute("BEGIN")
            n = value(connection, f"SELECT n FROM t WHERE id={id}")
            try:
                connection.execute("UPDATE t SET n=? WHERE id=?", (n + 1, id))
                connection.execute("COMMIT")
                break
            except sqlite3.OperationalError as error:
                expect(str(error), LOCKED)
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
    raised.append(60)
    connection.close()


before, raised = value(setup, "SELECT sum(n) FROM t"), []
threads = [threading.Thread(target=count, args=(raised,)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
expect(value(setup, "SELECT sum(n) FROM t"), before + sum(raised))
expect(sum(raised), 240)
for connection in (a, b, impatient, setup):
    expect(value(connection, "PRAGMA integrity_check"), "ok")
    connection.close()
print("ok")
