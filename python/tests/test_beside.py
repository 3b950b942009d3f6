"""Transactions beside each other in frameworks: the ways of docs/concurrent.md, by threads that all change one row."""

import unittest

from cases import Cases

RUN = """
import threading

def run_in_threads(add):
    failed = []
    def work():
        try:
            for _ in range(40):
                add()
        except BaseException as error:
            failed.append(error)
            raise
    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
"""


class Beside(Cases):
    def run_framework(self, script):
        # 0: the last attempt is the first one, too.
        for attempts in (8, 0):
            with self.subTest(attempts=attempts):
                script_of = f"ATTEMPTS = {attempts}\n{RUN}{script}".replace("app.db", f"app{attempts}.db")
                out, _ = self.run_script(script_of)
                self.assertEqual(out, "200\n")

    def test_django(self):
        self.needs("django")
        self.run_framework("""
import pwal
from django.conf import settings
pwal.install()
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": "app.db",
    "OPTIONS": {"timeout": 20, "init_command": "PRAGMA journal_mode=WAL; PRAGMA parallel_wal_writers=concurrent"},
}})
import django
django.setup()
from django.db import OperationalError, connection, transaction

def again(work, attempts=ATTEMPTS):
    for attempt in range(attempts + 1):
        connection.ensure_connection()
        connection.transaction_mode = "IMMEDIATE" if attempt == attempts else None     # the last one waits, and cannot lose
        try:
            with transaction.atomic(durable=True):
                return work()
        except OperationalError as error:
            if attempt == attempts or "locked" not in str(error):
                raise
        finally:
            connection.transaction_mode = None

connection.cursor().execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n)")
connection.cursor().execute("INSERT INTO t VALUES(1, 0)")

def work():
    cursor = connection.cursor()
    n = cursor.execute("SELECT n FROM t WHERE id=1").fetchone()[0]
    cursor.execute("UPDATE t SET n=%s WHERE id=1", [n + 1])

run_in_threads(lambda: again(work))
assert ATTEMPTS == 0 or pwal.status(connection)["concurrent"]["commits"] > 0
print(connection.cursor().execute("SELECT n FROM t").fetchone()[0])
""")

    def test_sqlalchemy(self):
        self.needs("sqlalchemy")
        self.run_framework("""
import pwal
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
pwal.install()
engine = create_engine("sqlite:///app.db", connect_args={"timeout": 20})

@event.listens_for(engine, "connect")
def connect(connection, _):
    connection.isolation_level = None            # SQLAlchemy begins, not the driver
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA parallel_wal_writers=concurrent")

@event.listens_for(engine, "begin")
def begin(connection):
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

def again(work, attempts=ATTEMPTS):
    for attempt in range(attempts + 1):
        try:
            with Session(engine) as session, session.begin():
                if attempt == attempts:              # the last one waits, and cannot lose
                    session.connection(execution_options={"begin": "BEGIN IMMEDIATE"})
                return work(session)
        except OperationalError as error:
            if attempt == attempts or "locked" not in str(error.orig):
                raise

with engine.begin() as setup:
    setup.execute(text("CREATE TABLE t(id INTEGER PRIMARY KEY, n)"))
    setup.execute(text("INSERT INTO t VALUES(1, 0)"))

def work(session):
    n = session.execute(text("SELECT n FROM t WHERE id=1")).scalar_one()
    session.execute(text("UPDATE t SET n=:n WHERE id=1"), {"n": n + 1})

run_in_threads(lambda: again(work))
with engine.begin() as check:
    status = pwal.status(check.connection.driver_connection)
    assert ATTEMPTS == 0 or status["concurrent"]["commits"] > 0, status
    print(check.execute(text("SELECT n FROM t")).scalar_one())
""")


if __name__ == "__main__":
    unittest.main()
