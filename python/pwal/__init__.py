"""pwal in the SQLite of this process: shared flushes, fair writers, a log that is valid.

    import pwal
    pwal.install()

Every `sqlite3.connect` to a file goes through pwal from then on. Call it before the first connection: in Django's
settings, at the top of a Flask application, at the start of a script.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import warnings
from types import ModuleType
from typing import Any, Optional

from . import _host, _log
from ._host import InstallError
from ._transaction import transaction, transactional

__all__ = [
    "InstallError",
    "NotOnPwalWarning",
    "OpenedBeforeWarning",
    "commit_number",
    "install",
    "path",
    "retire",
    "status",
    "sync",
    "transaction",
    "transactional",
    "wait_commit",
    "wait_durable",
]

_mutex = threading.Lock()
# The entry points of the library, each with all that the one before it does.
_ENTRIES = ["sqlite3_pwalvfs_init", "sqlite3_pwal_init", "sqlite3_pwalstrict_init"]
# Modules that have pwal: by which entry point.
_installed: dict[str, int] = {}
# Modules that bring a SQLite of their own.
_OTHERS = ["pysqlite3", "apsw", "sqlean"]


class NotOnPwalWarning(RuntimeWarning):
    """Something in this process stays on stock SQLite."""


class OpenedBeforeWarning(NotOnPwalWarning):
    """A database was open before pwal was there: that connection stays on stock SQLite, and pwal cannot have it."""


def path() -> str:
    """The loadable library, for programs that load it themselves (`.load` in the shell, `load_extension`)."""
    library = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libpwal.so")
    if not os.path.exists(library):
        raise InstallError(f"{library} is not there: install the wheel (`pip wheel --no-deps ./python` builds it)")
    return library


def install(default: bool = True, *, into: Optional[ModuleType] = None, strict: bool = False) -> None:
    """Loads pwal into the SQLite of this process, for connections that are opened afterwards.

    With `default`, every connection to a file goes through pwal; without, those that say so:
    `sqlite3.connect("file:app.db?vfs=pwal", uri=True)`. Once the default, always the default.

    `into` is the module whose SQLite is meant. Without it, `sqlite3`, and `pysqlite3`, `apsw` and `sqlean` where they are
    imported already. Each brings a SQLite of its own; open one database by one of them only.

    With `strict`, what would stay on stock SQLite is an error: a database that is open already is an InstallError here, and a
    connection to a file on another VFS an OperationalError when it is opened.

    pwal's messages go to the logger "pwal". Calling it again changes nothing. Raises InstallError; warns with
    OpenedBeforeWarning where a database is open already, as that connection stays on stock SQLite.
    """
    if strict and not default:
        raise ValueError("strict makes every connection to a file go through pwal: it cannot be had without default")
    level = 2 if strict else int(default)
    with _mutex:
        # Once pwal is there, what is open may well be on it.
        module = sqlite3 if into is None else into
        before = [] if _installed or _host.has_pwal(module) else _host.open_databases()
        if before and strict:
            raise InstallError(f"open before pwal was installed: {', '.join(before)}")
        _install_into(module, level)
        others = [sys.modules[name] for name in _OTHERS if name in sys.modules] if into is None else []
        failures = [failure for failure in (_try_into(module, level) for module in others) if failure is not None]
    if failures and strict:
        raise failures[0]
    for failure in failures:
        warnings.warn(str(failure), NotOnPwalWarning, stacklevel=2)
    if before:
        warnings.warn(
            f"open before pwal was installed: {', '.join(before)}. Such a connection stays on stock SQLite, and those "
            "through pwal to the same file work on stock SQLite's own -wal beside it. Close it before they open, or call "
            "pwal.install() before the first connection",
            OpenedBeforeWarning,
            stacklevel=2,
        )


def _try_into(module: ModuleType, level: int) -> Optional[InstallError]:
    try:
        _install_into(module, level)
        return None
    except InstallError as error:
        return error


def _install_into(module: ModuleType, level: int) -> None:
    if _installed.get(module.__name__, -1) >= level:
        return
    library = path()
    try:
        _log.listen(library)
        _host.load(module, library, _ENTRIES[level])
    except _host.AnotherCopy as error:
        # The same version from another file (a preload, a second wheel) is as good: once more, that one.
        copy = _host.copy_of(module, library, error)
        _log.listen(copy)
        _host.load(module, copy, _ENTRIES[level])
    _check(module)
    _installed[module.__name__] = level


def _check(module: ModuleType) -> None:
    """A new connection must know pwal: else another SQLite has got it than the one that the module uses."""
    connection = _host.open_memory(module)
    try:
        _host.one(connection, "SELECT pwal_version()")
    except Exception as error:  # each module has its own class of errors
        raise InstallError(f"pwal was loaded into another SQLite than that of {module.__name__}: {error}") from error
    finally:
        connection.close()


def status(connection: Any) -> dict[str, Any]:
    """What `connection` is on: `active` (through pwal), `vfs`, and where it is not active, the `reason`."""
    # The pragma answers without reading the database, but on pwal only; the function on every connection that can read.
    return json.loads(
        _host.one(connection, "PRAGMA parallel_wal_status") or _host.one(connection, "SELECT pwal_status()")
    )


def commit_number(connection: Any) -> int | None:
    """The number of the last commit of `connection`, for `wait_durable`; None if it has not committed."""
    return _host.one(connection, "SELECT pwal_commit()")


def wait_durable(connection: Any, number: int, timeout: float) -> bool:
    """Waits until commit `number` and all before it are durable, at most `timeout` seconds; whether they are."""
    return bool(_host.one(connection, "SELECT pwal_wait_durable(?, ?)", (number, int(timeout * 1000))))


def sync(connection: Any) -> int:
    """Makes all commits to the database durable, those of other connections too; the number of the last one."""
    return _host.one(connection, "SELECT pwal_sync()")


def wait_commit(connection: Any, after: int, timeout: float) -> int:
    """Waits for a commit after number `after`, of any connection and process, at most `timeout` seconds.

    The number of the newest commit, which is not greater than `after` if the time was over. With 0 as `after` and as
    `timeout` it does not wait.
    """
    return _host.one(connection, "SELECT pwal_wait_commit(?, ?)", (after, int(timeout * 1000)))


def retire(connection: Any) -> str:
    """Takes the log of a connection's database away with connections open: for the shutdown of a server.

    The file is plain and complete then, and stock SQLite can open it once this process has ended, however it ends. Answers "retired", or "no log" where there is none. The next commit makes a log anew. The module's error for
    `database is locked` if another process has the database open, or a transaction is open.
    """
    return _host.one(connection, "SELECT pwal_retire()")
