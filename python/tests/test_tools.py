"""Programs that open databases on their own: Datasette, sqlite-utils, uvicorn.

`PWAL_TEST_RUN` names the tool `pwal` for the cases that need `pwal run`, with both libraries beside it.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import unittest

from cases import FILL, Cases

# Not for the programs that are started: it is no setting of pwal.
RUN = os.environ.pop("PWAL_TEST_RUN", None)


class Tools(Cases):
    def make(self):
        """A database in WAL mode, with one row in `t`, closed."""
        script = """
            import sqlite3, pwal
            pwal.install()
            db = sqlite3.connect("app.db")
            fill(db)
            db.close()
        """
        self.run_script(FILL + textwrap.dedent(script))

    def call(self, *words):
        done = subprocess.run(words, cwd=self.directory, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, f"{done.stdout}\n{done.stderr}")
        return done.stdout

    def library(self):
        return self.run_script("import pwal; print(pwal.path())")[0].strip()

    STATUS = "/app.json?sql=select+pwal_status()+as+said&_shape=array"

    def on_pwal(self, answer):
        return json.loads(json.loads(answer)[0]["said"])["active"]

    def test_datasette_by_a_plugin(self):
        self.needs("datasette")
        self.make()
        os.mkdir(os.path.join(self.directory, "plugins"))
        with open(os.path.join(self.directory, "plugins", "on_pwal.py"), "w") as plugin:
            plugin.write("import pwal\n\npwal.install()\n")
        datasette = [sys.executable, "-m", "datasette", "--plugins-dir", "plugins", "app.db", "--get"]
        self.assertTrue(self.on_pwal(self.call(*datasette, self.STATUS)))
        self.assertIn("app", self.call(*datasette, "/"))
        self.assert_plain(rows=1)

    def test_a_shared_database_in_memory_that_was_open_before_is_another_afterwards(self):
        script = """
            import sqlite3, pwal
            shared = "file:shared?mode=memory&cache=shared"
            before = sqlite3.connect(shared, uri=True)
            before.execute("CREATE TABLE t(x)")
            pwal.install(default=False)
            assert sqlite3.connect(shared, uri=True).execute("SELECT count(*) FROM t").fetchone() == (0,)
            pwal.install()
            try:
                sqlite3.connect(shared, uri=True).execute("SELECT count(*) FROM t")
                raise AssertionError("it is the same: say so in docs/hosts.md")
            except sqlite3.OperationalError as error:
                assert str(error) == "no such table: t", error
        """
        self.assertEqual(self.run_script(script, "-W", "error"), ("", ""))

    def test_sqlite_utils_loads_extensions_after_it_has_opened_the_file(self):
        self.needs("sqlite_utils")
        self.make()
        words = [sys.executable, "-m", "sqlite_utils", "query", "app.db", "--load-extension", self.library()]
        said = json.loads(self.call(*words, "select pwal_status() as said"))[0]["said"]
        self.assertEqual(json.loads(said)["reason"], "opened before pwal was loaded")

    @unittest.skipUnless(RUN, "PWAL_TEST_RUN does not name the tool")
    def test_both_by_pwal_run(self):
        self.needs("datasette", "sqlite_utils")
        self.make()
        run = [RUN, "run", sys.executable, "-m"]
        self.assertTrue(self.on_pwal(self.call(*run, "datasette", "app.db", "--get", self.STATUS)))
        self.assertIn("app", self.call(*run, "datasette", "app.db", "--get", "/"))
        words = ["select json_extract(pwal_status(), '$.active') as said"]
        self.assertEqual(json.loads(self.call(*run, "sqlite_utils", "query", "app.db", *words)), [{"said": 1}])
        self.assert_plain(rows=1)


class Signals(Cases):
    """A server that ends by a signal runs no exit handler: what it closed before counts."""

    APPLICATION = FILL + """
import sqlite3, pwal
pwal.install()

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    db = sqlite3.connect("app.db")
    fill(db)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if CLOSE:
        db.close()
    await send({"type": "lifespan.shutdown.complete"})
"""

    def end(self, close):
        self.needs("uvicorn")
        with open(os.path.join(self.directory, "served.py"), "w") as file:
            file.write(f"CLOSE = {close}\n" + self.APPLICATION)
        words = [sys.executable, "-m", "uvicorn", "served:app", "--port", "0"]
        with subprocess.Popen(words, cwd=self.directory, stderr=subprocess.PIPE, text=True) as server:
            for line in server.stderr:
                if "Application startup complete" in line:
                    server.send_signal(signal.SIGTERM)
            self.assertIn(server.wait(), (0, -signal.SIGTERM))
        return sorted(name for name in os.listdir(self.directory) if name.startswith("app.db"))

    def test_uvicorn_leaves_one_plain_file_where_the_application_closes_at_its_shutdown(self):
        self.assertEqual(self.end(close=True), ["app.db"])
        self.assert_plain(rows=1)

    def test_uvicorn_leaves_the_log_where_it_does_not(self):
        self.assertIn("app.db-pwal", self.end(close=False))
        script = """
            import sqlite3, pwal
            pwal.install()
            db = sqlite3.connect("app.db")
            assert db.execute("SELECT count(*) FROM t").fetchone() == (1,)
            db.close()
        """
        self.run_script(script)
        self.assert_plain(rows=1)

    def test_a_program_that_makes_an_exit_of_sigterm_leaves_one_plain_file(self):
        script = """
            import signal, sqlite3, sys, pwal
            if HANDLED: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            pwal.install()
            db = sqlite3.connect("app.db")
            fill(db)
            print("ready", flush=True)
            while True: signal.pause()
        """
        for handled, status in (True, 143), (False, -signal.SIGTERM):
            words = [sys.executable, "-c", f"HANDLED = {handled}\n{FILL}\n{textwrap.dedent(script)}"]
            with subprocess.Popen(words, cwd=self.directory, stdout=subprocess.PIPE, text=True) as program:
                self.assertEqual(program.stdout.readline(), "ready\n")
                program.send_signal(signal.SIGTERM)
                self.assertEqual(program.wait(), status)
            self.assertEqual("app.db-pwal" in os.listdir(self.directory), not handled)
            if handled:
                os.remove(os.path.join(self.directory, "app.db"))


if __name__ == "__main__":
    unittest.main()
