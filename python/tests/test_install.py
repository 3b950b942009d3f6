"""The package as it is installed, in a fresh interpreter for each case: what is loaded stays loaded.

    python -m unittest discover python/tests

Modules that are not there are skipped by name.
"""

import os
import textwrap
import unittest

from cases import FILL, Cases


class Install(Cases):
    def test_every_later_connection_goes_through_pwal(self):
        script = """
            import sqlite3, threading, pwal
            pwal.install()
            pwal.install()          # changes nothing
            db = sqlite3.connect("app.db")
            fill(db)
            assert pwal.status(db)["active"], pwal.status(db)
            assert db.execute("PRAGMA parallel_wal_mode").fetchone() == ("auto",)

            def work():
                db = sqlite3.connect("app.db", timeout=20, isolation_level=None)
                for n in range(50):
                    db.execute("INSERT INTO t VALUES(?)", (n,))
                db.close()

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            db.close()
        """
        self.assertEqual(self.run_script(FILL + textwrap.dedent(script), "-W", "error"), ("", ""))
        self.assert_plain(rows=201)

    def test_several_processes(self):
        script = """
            import sqlite3, subprocess, sys, pwal
            pwal.install()
            work = (
                "import pwal, sqlite3; pwal.install(); db = sqlite3.connect('app.db', timeout=30, isolation_level=None)\\n"
                "for n in range(100): db.execute('INSERT INTO t VALUES(?)', (n,))\\n"
                "assert pwal.status(db)['active']; db.close()"
            )
            db = sqlite3.connect("app.db")
            fill(db)
            others = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(4)]
            assert [other.wait() for other in others] == [0, 0, 0, 0]
            assert db.execute("SELECT count(*) FROM t").fetchone() == (401,)
            db.close()
        """
        self.assertEqual(self.run_script(FILL + textwrap.dedent(script), "-W", "error"), ("", ""))
        self.assert_plain(rows=401)

    def test_without_default_only_who_says_so(self):
        script = """
            import sqlite3, pwal
            pwal.install(default=False)
            stock = sqlite3.connect("stock.db")
            fill(stock)
            assert pwal.status(stock) == {"vfs": "unix", "active": False, "reason": "opened on another VFS than pwal"}
            db = sqlite3.connect("file:app.db?vfs=pwal", uri=True)
            fill(db)
            assert pwal.status(db)["active"]
            # And later as the default, which it stays.
            pwal.install()
            pwal.install(default=False)
            other = sqlite3.connect("other.db")
            fill(other)
            assert pwal.status(other)["active"]
            for db in db, stock, other: db.close()
        """
        self.assertEqual(self.run_script(FILL + textwrap.dedent(script), "-W", "error"), ("", ""))
        self.assert_plain(rows=1)
        self.assert_plain("stock.db", rows=1)
        self.assert_plain("other.db", rows=1)

    def test_the_library_is_where_the_path_says(self):
        out, _ = self.run_script("import pwal; print(pwal.path())")
        with open(out.strip(), "rb") as file:
            self.assertEqual(file.read(4), b"\x7fELF")

    def test_without_the_library_it_says_how_to_get_it(self):
        script = """
            import pwal, shutil, sys
            shutil.copytree(pwal.__path__[0], "pwal", ignore=shutil.ignore_patterns("*.so"))
            for name in [name for name in sys.modules if name.split(".")[0] == "pwal"]: del sys.modules[name]
            sys.path.insert(0, ".")
            import pwal
            try:
                pwal.install()
            except pwal.InstallError as error:
                print(error)
        """
        out, _ = self.run_script(script)
        self.assertIn("pip wheel", out)

    def test_a_module_that_is_no_sqlite(self):
        script = """
            import pwal, json
            try:
                pwal.install(into=json)
            except pwal.InstallError as error:
                print(error)
        """
        self.assertIn("json is no SQLite module", self.run_script(script)[0])

    def test_without_enable_load_extension_it_goes_past_python(self):
        """As in pyenv's Python; elsewhere the method is hidden."""
        script = """
            import sqlite3, pwal, pwal._host
            class Without:
                def __init__(self, connection): self.connection = connection
                def cursor(self): return self.connection.cursor()
                def close(self): self.connection.close()
            def hidden(module, open_memory=pwal._host.open_memory): return Without(open_memory(module))
            pwal._host.open_memory = hidden
            pwal.install()
            db = sqlite3.connect("app.db")
            fill(db)
            assert pwal.status(db)["active"]
            db.close()
        """
        self.assertEqual(self.run_script(FILL + textwrap.dedent(script)), ("", ""))
        self.assert_plain(rows=1)


class OpenedBefore(Cases):
    """A connection that is older than pwal stays on stock SQLite."""

    SCRIPT = FILL + """
import sqlite3, sys
old = sqlite3.connect("app.db")
fill(old)
import pwal
pwal.install()
db = sqlite3.connect("app.db", timeout=0)
assert db.execute("SELECT count(*) FROM t").fetchone() == (1,)
assert pwal.status(db)["beside_stock"]
print(pwal.status(db)["reason"])
# It goes on as it was, and when both are closed pwal has the database.
old.execute("INSERT INTO t VALUES(2)")
old.commit()
old.close()
db.close()
db = sqlite3.connect("app.db", timeout=0)
assert db.execute("SELECT count(*) FROM t").fetchone() == (2,)
assert pwal.status(db)["active"] and "reason" not in pwal.status(db)
db.close()
"""

    def test_it_is_named_and_what_to_do(self):
        out, errors = self.run_script(self.SCRIPT)
        self.assertIn("OpenedBeforeWarning: open before pwal was installed", errors)
        self.assertIn(os.path.join(os.path.realpath(self.directory), "app.db"), errors)
        self.assertIn("call pwal.install() before the first connection", errors)
        # The connection beside it says so, too, whoever loaded pwal.
        self.assertIn("a connection that is not on pwal has the database open", out)
        self.assertIn("load pwal before the first connection", out)
        self.assert_plain(rows=2)

    def test_it_can_be_an_error(self):
        script = """
            import sqlite3, warnings, pwal
            old = sqlite3.connect("app.db")
            old.execute("CREATE TABLE t(x)")
            warnings.simplefilter("error", pwal.OpenedBeforeWarning)
            try:
                pwal.install()
            except pwal.OpenedBeforeWarning as error:
                print(error)
        """
        self.assertIn("app.db", self.run_script(script)[0])

    def test_looking_for_it_leaves_its_locks(self):
        script = """
            import sqlite3, subprocess, sys, pwal
            old = sqlite3.connect("app.db", isolation_level=None)
            old.execute("CREATE TABLE t(x)")
            old.execute("BEGIN EXCLUSIVE")
            pwal.install()
            other = "import sqlite3; sqlite3.connect('app.db', timeout=0).execute('SELECT * FROM t')"
            print(subprocess.run([sys.executable, "-c", other], capture_output=True, text=True).stderr)
        """
        self.assertIn("database is locked", self.run_script(script)[0])


class OtherModules(Cases):
    """Modules that bring a SQLite of their own."""

    def test_pysqlite3(self):
        self.needs("pysqlite3")
        script = """
            import pysqlite3, pwal
            pwal.install(into=pysqlite3)
            db = pysqlite3.connect("app.db")
            fill(db)
            assert pwal.status(db)["active"]
            db.close()
        """
        self.assertEqual(self.run_script(FILL + textwrap.dedent(script), "-W", "error"), ("", ""))
        self.assert_plain(rows=1)

    def test_apsw(self):
        self.needs("apsw")
        script = """
            import apsw, pwal
            pwal.install(into=apsw)
            db = apsw.Connection("app.db")
            for sql in "PRAGMA journal_mode=WAL", "CREATE TABLE t(x)", "INSERT INTO t VALUES(1)":
                db.execute(sql)
            assert pwal.status(db)["active"]
            assert apsw.vfs_names()[0] == "pwal"
            db.close()
        """
        self.assertEqual(self.run_script(script, "-W", "error"), ("", ""))
        self.assert_plain(rows=1)

    def test_two_modules_in_one_process(self):
        self.needs("pysqlite3")
        script = """
            import pysqlite3, sqlite3, pwal
            pwal.install()
            pwal.install(into=pysqlite3)
            one = sqlite3.connect("app.db", isolation_level=None, timeout=20)
            fill(one)
            other = pysqlite3.connect("app.db", isolation_level=None, timeout=20)
            for n in range(50):
                for db in one, other:
                    db.execute("INSERT INTO t VALUES(?)", (n,))
                    assert db.execute("SELECT count(*) FROM t").fetchone()[0] == 2 * n + (2 if db is one else 3)
            assert pwal.status(one)["active"] and pwal.status(other)["active"]
            one.close()
            other.execute("INSERT INTO t VALUES(50)")
            other.close()
        """
        self.assertEqual(self.run_script(FILL + textwrap.dedent(script), "-W", "error"), ("", ""))
        self.assert_plain(rows=102)


if __name__ == "__main__":
    unittest.main()
