"""Each case in a fresh interpreter: what is loaded stays loaded."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest


class Cases(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="pwal-python-")
        self.addCleanup(scratch.cleanup)
        self.directory = scratch.name

    def run_script(self, script, *options, **variables):
        """Its standard output and standard error; it must succeed. `variables` are added to its environment."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PWAL_")}
        environment.update(variables)
        done = subprocess.run(
            [sys.executable, *options, "-c", textwrap.dedent(script)],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, f"{done.stdout}\n{done.stderr}")
        return done.stdout, done.stderr

    def assert_plain(self, name="app.db", rows=None):
        """One plain file, and stock SQLite reads it."""
        beside = [other for other in os.listdir(self.directory) if other.startswith(name)]
        self.assertEqual(beside, [name])
        script = f"""
            import sqlite3
            db = sqlite3.connect({name!r})
            print(db.execute("PRAGMA integrity_check").fetchone()[0], db.execute("SELECT count(*) FROM t").fetchone()[0])
        """
        out, _ = self.run_script(script)
        self.assertEqual(out.split()[0], "ok")
        if rows is not None:
            self.assertEqual(int(out.split()[1]), rows)

    def needs(self, *names):
        for name in names:
            if importlib.util.find_spec(name) is None:
                self.skipTest(f"{name} is not installed")


FILL = """
def fill(db):
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE t(x)")
    db.execute("INSERT INTO t VALUES(1)")
    db.commit()
"""
