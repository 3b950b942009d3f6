"""Two copies of SQLite in one process, one pwal, one database: what both were told is there is there. Prints "ok"."""

import ctypes
import json
import shutil
import sqlite3

first = sqlite3.connect(":memory:")
first.enable_load_extension(True)
first.load_extension("./libpwal")

# The library that the module uses, again, from another file: a SQLite of its own.
path = next(line.split()[-1] for line in open("/proc/self/maps") if "libsqlite3" in line)
shutil.copy(path, "./second-sqlite.so")
library = ctypes.CDLL("./second-sqlite.so")
library.sqlite3_column_text.restype = ctypes.c_char_p
library.sqlite3_errmsg.restype = ctypes.c_char_p


class Second:
    """A connection of the second SQLite."""

    def __init__(self, name):
        self.handle = ctypes.c_void_p()
        assert library.sqlite3_open(name.encode(), ctypes.byref(self.handle)) == 0

    def rows(self, sql):
        statement = ctypes.c_void_p()
        code = library.sqlite3_prepare_v2(self.handle, sql.encode(), -1, ctypes.byref(statement), None)
        found = []
        while code == 0 or code == 100:
            code = library.sqlite3_step(statement)
            if code == 100:
                found.append(library.sqlite3_column_text(statement, 0).decode())
        library.sqlite3_finalize(statement)
        return code, found

    def close(self):
        assert library.sqlite3_close(self.handle) == 0


loader = Second(":memory:")
assert library.sqlite3_enable_load_extension(loader.handle, 1) == 0
assert library.sqlite3_load_extension(loader.handle, b"./libpwal", None, None) == 0, library.sqlite3_errmsg(loader.handle)
# The functions know which SQLite calls them.
assert loader.rows("SELECT pwal_version()")[1] == [first.execute("SELECT pwal_version()").fetchone()[0]]

one = sqlite3.connect("app.db", isolation_level=None, timeout=0)
one.execute("PRAGMA journal_mode=WAL")
one.execute("CREATE TABLE t(who)")
told = 0
other = Second("app.db")
assert json.loads(other.rows("SELECT pwal_status()")[1][0])["vfs"] == "pwal"
for n in range(50):
    one.execute("INSERT INTO t VALUES('one')")
    told += 1
    code, _ = other.rows("INSERT INTO t VALUES('other')")
    # Either it is let in, or it is told to wait; nothing else.
    assert code in (101, 5), library.sqlite3_errmsg(other.handle)
    told += code == 101
other.close()
one.close()

# When the first has let go, the second gets in.
other = Second("app.db")
code, found = other.rows("SELECT count(*) FROM t")
assert (code, found) == (101, [str(told)]), (code, found, told)
assert other.rows("PRAGMA integrity_check")[1] == ["ok"]
other.close()
loader.close()
print("ok")
