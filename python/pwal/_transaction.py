"""A transaction that begins again where SQLite says that it has to."""

from __future__ import annotations

import functools
import time
from typing import Any, Callable, Optional, TypeVar

T = TypeVar("T")

_BUSY = 5
# Attempts that follow at once: what an attempt lost against is over.
_AT_ONCE = 3
# From then on a pause before each, of this for each attempt that failed, in seconds.
_PAUSE = 0.001


def transaction(connection: Any, work: Callable[[Any], T], *, attempts: int = 8) -> T:
    """Runs `work(connection)` in a transaction, and returns what it returns.

    It begins again if it is refused for what others write meanwhile ("database is locked": SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT):
    `attempts` times after BEGIN, and then once after BEGIN IMMEDIATE, which waits for the write lock by the busy timeout and is
    refused nothing after it. So `work` runs several times, each time from the beginning: what it does outside of the database it may
    do several times. It must not end the transaction.

    Raises what `work` raises, after a rollback, and the error of the last attempt. `connection` is one of `sqlite3` or of a module
    like it, and in no transaction: with `autocommit=False` (Python 3.12) it always is in one.
    """
    if connection.in_transaction:
        raise ValueError("the connection is in a transaction already")
    for attempt in range(attempts + 1):
        is_last = attempt == attempts
        connection.execute("BEGIN IMMEDIATE" if is_last else "BEGIN")
        try:
            result = work(connection)
            connection.execute("COMMIT")
            return result
        except BaseException as error:
            # COMMIT that is refused has rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if is_last or not _is_busy(error):
                raise
        if attempt >= _AT_ONCE:
            time.sleep(_PAUSE * attempt)
    raise AssertionError("the last attempt returns or raises")


def transactional(work: Optional[Callable[..., T]] = None, *, attempts: int = 8) -> Any:
    """A decorator: each call of the function, whose first argument is a connection, is a `transaction`.

        @pwal.transactional
        def add(connection, key, n):
            ...

        add(connection, 1, 5)
    """
    if work is None:
        return functools.partial(transactional, attempts=attempts)

    @functools.wraps(work)
    def run(connection: Any, *arguments: Any, **named: Any) -> T:
        return transaction(connection, lambda connection: work(connection, *arguments, **named), attempts=attempts)

    return run


def _is_busy(error: BaseException) -> bool:
    """Also of an error that a framework has wrapped."""
    for each in (error, error.__cause__):
        if each is None:
            continue
        code = getattr(each, "sqlite_errorcode", None)  # since Python 3.11
        if code is not None:
            return code & 0xFF == _BUSY
        if type(each).__name__ == "OperationalError" and "database is locked" in str(each):
            return True
    return False
