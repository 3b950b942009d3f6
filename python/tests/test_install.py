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
            assert pwal.status(stock) == {"schema": 1, "vfs": "unix", "active": False, "reason": "opened on another VFS than pwal"}
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

    def test_retire_leaves_a_plain_file_with_connections_open(self):
        script = """
            import os, sqlite3, pwal
            pwal.install()
            db = sqlite3.connect("app.db", isolation_level=None)
            fill(db)
            log = lambda: [name for name in os.listdir("app.db-pwal") if name.endswith(".seg")]
            assert log()
            assert pwal.retire(db) == "retired"
            assert log() == [] and not os.path.exists("app.db-wal"), os.listdir(".")
            assert pwal.retire(db) == "no log"
            db.execute("INSERT INTO t VALUES(2)")
            db.execute("BEGIN")
            db.execute("INSERT INTO t VALUES(3)")
            try:
                pwal.retire(db)
                raise AssertionError("inside a transaction")
            except sqlite3.OperationalError as error:
                print(error)
            db.execute("COMMIT")
            db.close()
        """
        out, errors = self.run_script(FILL + textwrap.dedent(script), "-W", "error")
        self.assertIn("pwal_retire: ", out)
        self.assertEqual(errors, "")
        self.assert_plain(rows=3)

    def test_commits_are_made_durable_and_waited_for_on_demand(self):
        script = """
            import sqlite3, pwal
            pwal.install()
            db = sqlite3.connect("app.db", isolation_level=None)
            fill(db)
            db.close()
            db = sqlite3.connect("app.db", isolation_level=None)
            db.execute("PRAGMA synchronous=NORMAL")
            assert pwal.commit_number(db) is None
            db.execute("INSERT INTO t VALUES(2)")
            db.execute("INSERT INTO t VALUES(3)")
            number = pwal.commit_number(db)
            assert not pwal.wait_durable(db, number, 0)
            assert pwal.wait_durable(db, number, 30)
            db.execute("INSERT INTO t VALUES(4)")
            assert pwal.sync(db) == number + 1
            assert pwal.wait_commit(db, 0, 0) == number + 1
            assert pwal.wait_commit(db, number + 1, 0.01) == number + 1
            print(pwal.wait_commit(db, number, 30) - number)
            db.close()
        """
        out, errors = self.run_script(FILL + textwrap.dedent(script), "-W", "error")
        self.assertEqual((out, errors), ("1\n", ""))
        self.assert_plain(rows=4)

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


class Strict(Cases):
    """What would stay on stock SQLite is an error."""

    def test_a_database_that_is_open_and_one_on_another_vfs(self):
        script = """
            import subprocess, sqlite3, sys, pwal
            old = sqlite3.connect("app.db")
            fill(old)
            try:
                pwal.install(strict=True)
            except pwal.InstallError as error:
                print(error)
            old.close()
            pwal.install()
            sqlite3.connect("file:app.db?vfs=unix", uri=True).close()
            pwal.install(strict=True)
            pwal.install()  # stays strict
            try:
                sqlite3.connect("file:app.db?vfs=unix", uri=True)
            except sqlite3.OperationalError as error:
                print(error)
            sqlite3.connect(":memory:").execute("CREATE TABLE t(x)")
            sqlite3.connect("").execute("CREATE TABLE t(x)")
            db = sqlite3.connect("app.db", timeout=0)
            assert db.execute("SELECT count(*) FROM t").fetchone() == (1,)
            assert pwal.status(db)["active"]
            db.close()
            # Another process has it open past pwal.
            words = [sys.executable, "-c", "import sqlite3\\ndb = sqlite3.connect('app.db')\\ndb.execute('SELECT * FROM t').fetchall()\\nprint(1, flush=True)\\ninput()"]
            other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            other.stdout.readline()
            db = sqlite3.connect("app.db", timeout=0)
            try:
                db.execute("SELECT count(*) FROM t")
                raise AssertionError("on stock's WAL")
            except sqlite3.OperationalError as error:
                assert str(error) == "database is locked", error
            db.close()
            other.communicate(b"\\n")
            try:
                pwal.install(default=False, strict=True)
            except ValueError:
                print("not both")
        """
        out, _ = self.run_script(FILL + textwrap.dedent(script), "-W", "error")
        lines = out.splitlines()
        self.assertIn("open before pwal was installed: ", lines[0])
        self.assertIn("app.db", lines[0])
        self.assertIn("another VFS than pwal", lines[1])
        self.assertEqual(lines[2], "not both")
        self.assert_plain(rows=1)


class Messages(Cases):
    """The logger "pwal"."""

    BESIDE = """
import logging, os, sqlite3, sys, pwal
def open_beside_stock():
    stock = sqlite3.connect("file:app.db?vfs=unix", uri=True)
    stock.execute("PRAGMA journal_mode=WAL")
    stock.execute("CREATE TABLE IF NOT EXISTS t(x)")
    stock.execute("SELECT * FROM t")
    beside = sqlite3.connect("app.db", timeout=0)
    beside.execute("SELECT * FROM t")
    beside.close()
    stock.close()

class Wait(logging.Handler):
    def __init__(self):
        super().__init__()
        self.read, self.write = os.pipe()
    def emit(self, record):
        os.write(self.write, f"{record.name} {record.levelname} {record.getMessage()}\\n".encode())
    def next(self):
        return os.read(self.read, 10000).decode()
"""

    def test_what_is_not_on_pwal_is_a_warning_of_the_logger(self):
        script = """
            wait = Wait()
            logging.getLogger("pwal").addHandler(wait)
            pwal.install()
            open_beside_stock()
            print(wait.next())
        """
        out, errors = self.run_script(self.BESIDE + textwrap.dedent(script), "-W", "error")
        self.assertTrue(out.startswith("pwal WARNING "), out)
        self.assertIn(os.path.join(os.path.realpath(self.directory), "app.db"), out)
        self.assertEqual(errors, "")

    def test_without_any_logging_it_is_on_standard_error(self):
        script = """
            pwal.install()
            import pwal._log
            open_beside_stock()
            pwal._log._listener.stop()  # after what was sent before
        """
        out, errors = self.run_script(self.BESIDE + textwrap.dedent(script), "-W", "error")
        self.assertEqual(out, "")
        self.assertIn("a connection that is not on pwal has the database open", errors)

    def test_parent_and_child_each_have_their_own_after_a_fork(self):
        script = """
            import threading
            wait = Wait()
            logging.getLogger("pwal").addHandler(wait)
            pwal.install()
            child = os.fork()
            # Under -W error a fork beside a thread would have been one.
            assert [thread.name for thread in threading.enumerate()] == ["MainThread", "pwal messages"]
            if child == 0:
                wait = Wait()
                logging.getLogger("pwal").handlers = [wait]
            open_beside_stock()
            assert wait.next().startswith("pwal WARNING ")
            if child == 0:
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            print("done")
        """
        os.mkdir(os.path.join(self.directory, "child"))
        script = script.replace("open_beside_stock()", "os.chdir('child' if child == 0 else '.'); open_beside_stock()")
        self.assertEqual(self.run_script(self.BESIDE + textwrap.dedent(script), "-W", "error"), ("done\n", ""))

    def test_a_setting_that_is_not_accepted_is_an_error_and_an_unknown_one_a_message(self):
        script = """
            import logging, pwal, pwal._log
            logging.basicConfig(format="%(message)s")
            try:
                pwal.install()
            except pwal.InstallError as error:
                print(error)
            else:
                pwal._log._listener.stop()
        """
        out, _ = self.run_script(script, PWAL_MODE="fast")
        self.assertIn("PWAL_MODE is not accepted", out)
        self.assertIn("accepted: auto, conservative, off", out)
        expected = "PWAL_MOED is not a setting of pwal; ignored\n"
        self.assertEqual(self.run_script(script, PWAL_MOED="off"), ("", expected))

    def test_a_record_for_each_line(self):
        script = """
            import logging, pwal._log
            logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
            for code in 27, 28, 5, 10: pwal._log.record(f"2026-11-29T21:41:36.007Z 4711 ({code}) pwal: /srv/app.db: text")
            pwal._log.record("nonsense")
        """
        text = "/srv/app.db: text"
        expected = f"INFO {text}\nWARNING {text}\nWARNING {text}\nERROR {text}\nERROR nonsense\n"
        self.assertEqual(self.run_script(script), ("", expected))


class Copies(Cases):
    """Another file of the same library in the process: a preload, a second package."""

    SCRIPT = FILL + """
import shutil, sqlite3, pwal
shutil.copyfile(pwal.path(), "libpwal.so")
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.execute("SELECT load_extension('./libpwal.so', ?)", (ENTRY,))
"""

    def test_of_the_same_version_it_is_as_good(self):
        if not hasattr(__import__("sqlite3").Connection, "enable_load_extension"):
            self.skipTest("this Python cannot load the copy")
        script = """
            pwal.install(strict=True)
            db = sqlite3.connect("app.db")
            fill(db)
            assert pwal.status(db)["active"]
            try:
                sqlite3.connect("file:app.db?vfs=unix", uri=True)
                raise AssertionError("not strict")
            except sqlite3.OperationalError:
                pass
            db.close()
        """
        for entry in "sqlite3_pwal_init", "sqlite3_pwalvfs_init":
            head = f"ENTRY = {entry!r}\n" + self.SCRIPT
            self.assertEqual(self.run_script(head + textwrap.dedent(script), "-W", "error"), ("", ""))
            os.remove(os.path.join(self.directory, "app.db"))

    def test_of_another_version_it_is_an_error_that_names_both(self):
        if not hasattr(__import__("sqlite3").Connection, "enable_load_extension"):
            self.skipTest("this Python cannot load the copy")
        script = """
            import importlib.metadata
            importlib.metadata.version = lambda name: "99.0.0"
            try:
                pwal.install()
            except pwal.InstallError as error:
                print(error)
        """
        out, _ = self.run_script("ENTRY = 'sqlite3_pwal_init'\n" + self.SCRIPT + textwrap.dedent(script))
        self.assertIn("this package's is 99.0.0", out)
        self.assertIn(os.path.join(os.path.realpath(self.directory), "libpwal.so"), out)


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

    def test_modules_that_are_imported_get_it_too(self):
        self.needs("pysqlite3")
        script = """
            import pysqlite3, sqlite3, pwal
            pwal.install()
            db = pysqlite3.connect("app.db")
            fill(db)
            assert pwal.status(db)["active"]
            db.close()
        """
        self.assertEqual(self.run_script(FILL + textwrap.dedent(script), "-W", "error"), ("", ""))
        self.assert_plain(rows=1)

    def test_a_module_that_cannot_have_it_is_named(self):
        script = """
            import sys, types, sqlite3, pwal
            sys.modules["apsw"] = types.ModuleType("apsw")
            pwal.install()
            try:
                pwal.install(strict=True)
            except pwal.InstallError as error:
                print(error)
            db = sqlite3.connect("app.db")
            fill(db)
            assert pwal.status(db)["active"]
            db.close()
        """
        out, errors = self.run_script(FILL + textwrap.dedent(script))
        self.assertIn("NotOnPwalWarning: apsw is no SQLite module", errors)
        self.assertIn("apsw is no SQLite module", out)
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
