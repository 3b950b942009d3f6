"""Transactions that begin again."""

import unittest

from cases import Cases

OPEN = """
import sqlite3, threading
import pwal
pwal.install()

def connect(timeout=20):
    db = sqlite3.connect("app.db", isolation_level=None, timeout=timeout)
    db.execute("PRAGMA parallel_wal_writers=concurrent")
    return db

db = connect()
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n)")
db.execute("INSERT INTO t VALUES(1, 0)")

def n(db):
    return db.execute("SELECT n FROM t WHERE id=1").fetchone()[0]
"""


class Transactions(Cases):
    def run_after_open(self, script):
        out, _ = self.run_script(OPEN + script + '\nprint("done")\n')
        self.assertEqual(out, "done\n")

    def test_no_update_is_lost(self):
        self.run_after_open("""
@pwal.transactional
def add(db, more):
    db.execute("UPDATE t SET n=? WHERE id=1", (n(db) + more,))
    return "added"

def work():
    own = connect()
    for _ in range(50):
        assert add(own, 2) == "added"
    own.close()

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert n(db) == 600, n(db)
""")

    def test_only_what_is_locked_is_tried_again(self):
        self.run_after_open("""
other = connect(timeout=0)
tries = 0

def work(db):
    global tries
    tries += 1
    db.execute("UPDATE t SET n=n+1 WHERE id=1")
    if tries < 3:
        other.execute("UPDATE t SET n=n+10 WHERE id=1")
    return tries

assert pwal.transaction(db, work) == 3
assert (n(db), db.in_transaction) == (21, False)

def fail(db):
    global tries
    tries += 1
    db.execute("UPDATE t SET n=n+1 WHERE id=1")
    db.execute("INSERT INTO t VALUES(1, 0)")

try:
    pwal.transaction(db, fail)
    raise AssertionError("no error")
except sqlite3.IntegrityError:
    pass
assert (tries, n(db), db.in_transaction) == (4, 21, False)

# The last one is after BEGIN IMMEDIATE: another writer has the lock, and the busy timeout is over.
other.execute("BEGIN IMMEDIATE")
db.execute("PRAGMA busy_timeout=1")
try:
    pwal.transactional(attempts=2)(work)(db)
    raise AssertionError("no error")
except sqlite3.OperationalError as error:
    assert "locked" in str(error)
assert not db.in_transaction
other.execute("ROLLBACK")

db.execute("BEGIN")
try:
    pwal.transaction(db, work)
    raise AssertionError("no error")
except ValueError:
    pass
db.execute("ROLLBACK")
""")


if __name__ == "__main__":
    unittest.main()
