"""Frameworks that know only `sqlite3`, and processes that fork. (Under gunicorn: tests/hosts/web.)"""

import textwrap
import unittest

from cases import FILL, Cases


class Frameworks(Cases):
    DJANGO = """
        import pwal
        from django.conf import settings
        pwal.install(default={default})
        settings.configure(DATABASES={{"default": {{
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": {name!r},
            "OPTIONS": {{"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", "transaction_mode": "IMMEDIATE"}},
        }}}})
        import django
        django.setup()
        from django.db import connection, transaction
        with transaction.atomic():
            connection.cursor().execute("CREATE TABLE t(x)")
            connection.cursor().execute("INSERT INTO t VALUES(%s)", [1])
        assert pwal.status(connection)["active"], pwal.status(connection)
        connection.close()
    """

    def test_django(self):
        self.needs("django")
        self.run_script(self.DJANGO.format(default=True, name="app.db"))
        self.assert_plain(rows=1)

    def test_django_by_the_name_of_the_database(self):
        self.needs("django")
        self.run_script(self.DJANGO.format(default=False, name="file:app.db?vfs=pwal"))
        self.assert_plain(rows=1)

    def test_sqlalchemy(self):
        self.needs("sqlalchemy")
        script = """
            import pwal
            from sqlalchemy import create_engine, text
            pwal.install()
            engine = create_engine("sqlite:///app.db")
            with engine.connect() as db:
                db.execute(text("PRAGMA journal_mode=WAL"))
                db.execute(text("CREATE TABLE t(x)"))
                db.execute(text("INSERT INTO t VALUES(1)"))
                db.commit()
                assert pwal.status(db.connection)["active"]
            engine.dispose()
        """
        self.run_script(script)
        self.assert_plain(rows=1)


class Forks(Cases):
    HEAD = (
        FILL
        + """
import os, sqlite3, pwal
pwal.install()

def in_child(work):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def open_and_write(**options):
    db = sqlite3.connect("app.db", **options)
    db.execute("INSERT INTO t VALUES(2)")
    db.commit()
    assert pwal.status(db)["active"]
    return db
"""
    )

    def run_forks(self, script, rows):
        """Its standard output; it must leave a plain file with so many rows."""
        out, _ = self.run_script(self.HEAD + textwrap.dedent(script))
        self.assert_plain(rows=rows)
        return out

    def test_installed_before_the_fork_opened_after_it(self):
        script = """
            def work():
                pwal.install()  # changes nothing
                db = sqlite3.connect("app.db")
                fill(db)
                assert pwal.status(db)["active"]
                db.close()

            in_child(work)
            db = sqlite3.connect("app.db")
            assert db.execute("SELECT x FROM t").fetchall() == [(1,)]
            assert pwal.status(db)["active"]
            db.close()
        """
        self.run_forks(script, rows=1)

    def test_opened_and_closed_before_the_fork(self):
        """As an application that asks its database something while it is imported."""
        script = """
            db = sqlite3.connect("app.db")
            fill(db)
            db.close()
            in_child(lambda: open_and_write().close())
            in_child(lambda: open_and_write().close())
        """
        self.run_forks(script, rows=3)

    def test_the_child_opens_while_the_parent_has_it(self):
        script = """
            db = sqlite3.connect("app.db")
            fill(db)
            in_child(lambda: open_and_write(timeout=20).close())
            in_child(lambda: open_and_write(timeout=20).close())
            assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)
            db.close()
        """
        self.run_forks(script, rows=3)

    def test_the_child_goes_on_when_the_parent_has_closed(self):
        """What SQLite itself has inherited, its list of the parent's locks, keeps nobody out."""
        script = """
            parents = sqlite3.connect("app.db")
            fill(parents)
            (closed, close), (opened, tell) = os.pipe(), os.pipe()
            child = os.fork()
            if child == 0:
                os.close(close)
                db = open_and_write(timeout=20)
                os.write(tell, b"o")
                os.read(closed, 1)
                db.execute("INSERT INTO t VALUES(3)")
                db.commit()
                db.close()
                assert [name for name in os.listdir() if name.startswith("app.db")] == ["app.db"]
                open_and_write(timeout=20).close()
                print("done", flush=True)
                os._exit(0)
            os.read(opened, 1)
            parents.close()
            os.close(close)
            os.waitpid(child, 0)
        """
        self.assertEqual(self.run_forks(script, rows=4), "done\n")

    def test_an_inherited_connection_is_an_error_in_the_child(self):
        script = """
            db = sqlite3.connect("app.db")
            fill(db)

            def work():
                for sql in "SELECT * FROM t", "INSERT INTO t VALUES(2)":
                    try:
                        db.execute(sql).fetchall()
                        db.commit()
                    except sqlite3.OperationalError as error:
                        print(error, flush=True)
                    else:
                        raise AssertionError(sql)
                db.close()

            in_child(work)
            db.execute("INSERT INTO t VALUES(3)")
            db.commit()
            db.close()
        """
        out = self.run_forks(script, rows=2)
        self.assertEqual(len(out.splitlines()), 2, out)


if __name__ == "__main__":
    unittest.main()
