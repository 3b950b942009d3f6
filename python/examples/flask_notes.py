"""Notes, as a Flask application on pwal: the database is opened by the first request that needs it, so after the fork.

    NOTES_DB=/srv/notes.db gunicorn --workers 4 --threads 4 flask_notes:app
"""

import os
import sqlite3

import pwal
from flask import Flask, abort, g, jsonify, request

pwal.install()  # before the first connection

app = Flask(__name__)


def database():
    """The request's connection."""
    if "database" not in g:
        g.database = sqlite3.connect(os.environ["NOTES_DB"], timeout=20, isolation_level=None)
        g.database.execute("PRAGMA synchronous=FULL")
    return g.database


@app.teardown_appcontext
def close_database(_error):
    if "database" in g:
        g.pop("database").close()


@app.cli.command("migrate")
def migrate():
    """Creates the tables: `flask --app flask_notes migrate`."""
    database().executescript(
        """
        PRAGMA journal_mode=WAL;
        CREATE TABLE IF NOT EXISTS notes_note(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, text TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS notes_total(id INTEGER PRIMARY KEY, notes INTEGER NOT NULL);
        INSERT OR IGNORE INTO notes_total VALUES(1, 0);
        """
    )


@app.put("/notes/<key>")
def put(key):
    """Adds a note once, however often it is sent, and counts it in the same transaction."""
    db = database()
    db.execute("BEGIN IMMEDIATE")
    try:
        added = db.execute(
            "INSERT INTO notes_note(key, text) VALUES(?, ?) ON CONFLICT DO NOTHING", (key, request.get_data(as_text=True))
        ).rowcount
        if added:
            db.execute("UPDATE notes_total SET notes = notes + 1 WHERE id = 1")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return jsonify(added=added)


@app.get("/notes/<key>")
def get(key):
    row = database().execute("SELECT text FROM notes_note WHERE key = ?", (key,)).fetchone()
    return jsonify(text=row[0]) if row else abort(404)


@app.get("/status")
def status():
    """Who answers, and what its database is on."""
    db = database()
    db.execute("SELECT count(*) FROM notes_total").fetchone()
    return jsonify(pid=os.getpid(), status=pwal.status(db))
