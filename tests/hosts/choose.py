"""Which VFS a connection is on, by entry point and by URI."""
import os
import sqlite3
import threading


def load(entry=None):
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    if entry is None:
        loader.load_extension("./libpwal")
    else:
        loader.execute("SELECT load_extension('./libpwal', ?)", (entry,))
    return loader


def mode(connection):
    row = connection.execute("PRAGMA parallel_wal_mode").fetchone()
    return row and row[0]


def fill(connection):
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(x)")
    connection.execute("INSERT INTO t VALUES(1)")
    connection.commit()


before = sqlite3.connect("before.db")
load("sqlite3_pwalvfs_init")
by_uri_only = sqlite3.connect("file:by-uri-only.db?vfs=pwal", uri=True)
assert mode(sqlite3.connect("stock.db")) is None, "the second entry point is not the default"
assert mode(by_uri_only).startswith("inactive: "), "through pwal, and not in WAL mode yet"
fill(by_uri_only)
assert mode(by_uri_only) == "auto"
by_uri_only.close()

load()
assert mode(before) is None, "opened before pwal was loaded"
load("sqlite3_pwal_init")  # by a connection that has the functions already, while a statement runs
default = sqlite3.connect("default.db")
assert mode(default).startswith("inactive: ")
fill(default)
assert mode(default) == "auto"
by_uri = sqlite3.connect("file:by-uri.db?vfs=pwal", uri=True)
fill(by_uri)
assert by_uri.execute("SELECT pwal_version()").fetchone()[0]

# One connection used by several threads in turn.
shared = sqlite3.connect("threads.db", check_same_thread=False, isolation_level=None)
fill(shared)
for sql in ["BEGIN IMMEDIATE", "INSERT INTO t VALUES(2)", "COMMIT", "SELECT count(*) FROM t"]:
    thread = threading.Thread(target=lambda: shared.execute(sql).fetchall())
    thread.start()
    thread.join()
assert shared.execute("SELECT count(*) FROM t").fetchone() == (2,)
for connection in (default, by_uri, shared):
    connection.close()
assert not os.path.exists("default.db-pwal")
