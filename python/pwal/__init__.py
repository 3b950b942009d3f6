"""pwal in the SQLite of this process: shared flushes, fair writers, a log that proves itself.

    import pwal
    pwal.install()

Every `sqlite3.connect` to a file goes through pwal from then on. Call it before the first connection: in Django's
settings, at the top of a Flask application, at the start of a script.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
from types import ModuleType
from typing import Any, Optional

from . import _host
from ._host import InstallError

__all__ = ["InstallError", "OpenedBeforeWarning", "install", "path", "status"]

_mutex = threading.Lock()
# Modules that have pwal; whether it is their default.
_installed: dict[str, bool] = {}


class OpenedBeforeWarning(RuntimeWarning):
    """A database was open before pwal was there: that connection stays on stock SQLite, and pwal cannot have it."""


def path() -> str:
    """The loadable library, for programs that load it themselves (`.load` in the shell, `load_extension`)."""
    library = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libpwal.so")
    if not os.path.exists(library):
        raise InstallError(f"{library} is not there: install the wheel (`pip wheel --no-deps ./python` builds it)")
    return library


def install(default: bool = True, *, into: Optional[ModuleType] = None) -> None:
    """Loads pwal into the SQLite of this process, for connections that are opened afterwards.

    With `default`, every connection to a file goes through pwal; without, those that say so:
    `sqlite3.connect("file:app.db?vfs=pwal", uri=True)`. Once the default, always the default.

    `into` is the module whose SQLite is meant, if it is not `sqlite3`: `pysqlite3`, `apsw`. Each brings a SQLite of its
    own; open one database by one of them only.

    Calling it again changes nothing. Raises InstallError; warns with OpenedBeforeWarning where a database is open
    already, as that connection stays on stock SQLite.
    """
    module = sqlite3 if into is None else into
    library = path()
    entry = "sqlite3_pwal_init" if default else "sqlite3_pwalvfs_init"
    with _mutex:
        known = _installed.get(module.__name__)
        if known is True or known is default:
            return
        before = [] if _installed else _host.open_databases()
        _host.load(module, library, entry)
        _check(module)
        _installed[module.__name__] = default
    if before:
        warnings.warn(
            f"open before pwal was installed: {', '.join(before)}. Such a connection stays on stock SQLite, and those "
            "through pwal to the same file work on stock SQLite's own -wal beside it. Close it before they open, or call "
            "pwal.install() before the first connection",
            OpenedBeforeWarning,
            stacklevel=2,
        )


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
