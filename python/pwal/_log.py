"""What pwal has to say, in Python's logging: the logger "pwal".

The library sends each message as a datagram, without waiting, from whatever thread and under whatever lock it is: no
Python runs there. A thread reads them here. It ends before a fork and begins again after it, in both processes, so that a
fork never happens with it in the middle of a log record.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import socket
import threading
from typing import Optional

logger = logging.getLogger("pwal")

# SQLite's result codes, as far as they are no errors: SQLITE_BUSY, SQLITE_NOTICE, SQLITE_WARNING.
_LEVELS = {5: logging.WARNING, 27: logging.INFO, 28: logging.WARNING}
_LINE = re.compile(r"\S+ (\d+) \((\d+)\) (?:pwal: )?(.*)", re.DOTALL)


class _Listener:
    """The socket of one process, and the thread that reads it."""

    def __init__(self, libraries: list[ctypes.CDLL]) -> None:
        self.libraries = libraries
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for library in libraries:
            library.pwal_messages_to(self.writer.fileno())
        self.thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self.read, name="pwal messages", daemon=True)
        self.thread.start()

    def read(self) -> None:
        while True:
            line = self.reader.recv(8192)
            if not line:
                return
            record(line.decode(errors="replace"))

    def stop(self) -> None:
        thread, self.thread = self.thread, None
        if thread is not None and thread is not threading.current_thread():
            self.writer.send(b"")
            # A handler may wait for what the thread that forks holds.
            thread.join(timeout=1)


_listener: Optional[_Listener] = None


def listen(library: str) -> None:
    """Messages of this copy of the library, which is loaded, or will be, go to the logger."""
    global _listener
    loaded = ctypes.CDLL(library)
    if _listener is None:
        _listener = _Listener([loaded])
        _listener.start()
        os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
    elif all(loaded._handle != known._handle for known in _listener.libraries):
        _listener.libraries.append(loaded)
        loaded.pwal_messages_to(_listener.writer.fileno())


def _before_fork() -> None:
    _listener.stop()


def _after_in_parent() -> None:
    _listener.start()


def _after_in_child() -> None:
    # The parent reads the old one.
    global _listener
    old, _listener = _listener, _Listener(_listener.libraries)
    old.reader.close()
    old.writer.close()
    _listener.start()


def record(line: str) -> None:
    """One line of the library as a log record."""
    found = _LINE.match(line)
    if found is None:
        logger.error("%s", line)
        return
    _, code, text = found.groups()
    logger.log(_LEVELS.get(int(code), logging.ERROR), "%s", text)
