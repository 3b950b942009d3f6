"""Two threads write and say what is committed; or: what is there after they were killed."""
import os
import sqlite3
import sys
import threading

loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension("./libpwal")


def write(writer):
    connection = sqlite3.connect("app.db", timeout=60)
    connection.execute("PRAGMA synchronous=FULL")
    n = 0
    while True:
        n += 1
        with connection:
            connection.execute("INSERT INTO t VALUES(?, ?)", (writer, n))
        os.write(1, b"%d %d\n" % (writer, n))


connection = sqlite3.connect("app.db")
if sys.argv[1] == "write":
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(writer, n)")
    connection.commit()
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
else:
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] >= 150
    print(connection.execute("PRAGMA integrity_check").fetchone()[0])
    connection.close()
