"""Commits one row after the other, durable, and prints the number of each commit that has returned."""

import sqlite3

loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension("./libpwal")
connection = sqlite3.connect("app.db", isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=FULL")
connection.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, x)")
while True:
    n = connection.execute("INSERT INTO t(x) VALUES(randomblob(200)) RETURNING n").fetchall()[0][0]
    print(n, flush=True)
