"""A transaction over a database of pwal and one of the `unix` VFS, whose file must not grow: COMMIT fails behind pwal's
prepare. With a cursor open and nothing called any more, another connection writes at once, and the cursor reads nothing
that was rolled back. The 3.40 line of SQLite, and the rest that a Python of the system may bring."""
import resource
import signal
import sqlite3

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension("./libpwal")


def connect():
    return sqlite3.connect("file:app.db?vfs=pwal", uri=True, isolation_level=None, timeout=0)


for mode in ["auto", "conservative"]:
    for journal in ["delete", "wal"]:
        connection = connect()
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute(f"PRAGMA parallel_wal_mode={mode}")
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t(x, y)")
        connection.executemany("INSERT INTO t VALUES(?, hex(randomblob(15)))", [(n,) for n in range(1000)])
        name = f"{mode}-{journal}.db"
        connection.execute(f"ATTACH 'file:{name}?vfs=unix' AS x")
        connection.execute(f"PRAGMA x.journal_mode={journal}")
        connection.execute("CREATE TABLE x.x(y)")
        cursor = connection.execute("SELECT x FROM t")
        assert cursor.fetchone() == (0,)
        connection.execute("BEGIN")
        connection.execute("UPDATE t SET x=-x WHERE rowid%100=0")
        connection.execute("PRAGMA x.cache_size=10000")
        connection.execute("INSERT INTO x SELECT zeroblob(1000000) FROM t LIMIT 10")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        try:
            connection.execute("COMMIT")
            raise SystemExit("COMMIT worked")
        except sqlite3.OperationalError as error:
            message = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        other = connect()
        other.execute("INSERT INTO t VALUES(-1, 'other')")
        last = 0
        try:
            for (x,) in cursor:
                assert x == last + 1, (x, last)
                last = x
            end = "done"
        except sqlite3.Error as error:
            end = str(error)
        cursor.close()
        for each in [connection, other]:
            assert each.execute("SELECT count(*), min(x), sum(x) FROM t").fetchone() == (1001, -1, 499499)
            assert each.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            each.close()
        print(f"{mode}, {journal}: {message}; {end}")
