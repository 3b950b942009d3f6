"""The SQLite that a Python module uses: how the library gets into it, and what has been opened with it before."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import re
import stat
from types import ModuleType
from typing import Any, Optional

MAGIC = b"SQLite format 3\0"


class InstallError(RuntimeError):
    """pwal cannot be loaded into this SQLite; the text says why, and what to do."""


class AnotherCopy(InstallError):
    """Another file of the library is loaded into this SQLite."""


def load(module: ModuleType, library: str, entry: str) -> None:
    """Loads the library into the SQLite of this module: by its own call, or else past Python."""
    connection = open_memory(module)
    try:
        if hasattr(connection, "enable_load_extension"):
            _load_by_module(module, connection, library, entry)
        else:
            _load_past_python(module, connection, library, entry)
    finally:
        connection.close()


def open_memory(module: ModuleType) -> Any:
    """A connection to no file, of `sqlite3`, of a module that is like it, or of apsw."""
    opener = getattr(module, "connect", None) or getattr(module, "Connection", None)
    if opener is None:
        raise InstallError(f"{module.__name__} is no SQLite module: it has neither connect nor Connection")
    return opener(":memory:")


def one(connection: Any, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
    """The first value of a statement's first row."""
    cursor = connection.cursor()
    cursor.execute(sql, parameters)
    row = cursor.fetchone()
    return row and row[0]


def has_pwal(module: ModuleType) -> bool:
    """Whether pwal is loaded into this module's SQLite, by whatever."""
    connection = open_memory(module)
    try:
        one(connection, "SELECT pwal_version()")
        return True
    except Exception:  # each module has its own class of errors
        return False
    finally:
        connection.close()


def _load_by_module(module: ModuleType, connection: Any, library: str, entry: str) -> None:
    try:
        connection.enable_load_extension(True)
        # The method has no argument for the entry point before Python 3.12; the SQL function always had.
        connection.cursor().execute("SELECT load_extension(?, ?)", (library, entry)).fetchall()
        connection.enable_load_extension(False)
    except Exception as error:  # each module has its own class of errors
        raise _failure(str(error))(f"{module.__name__} cannot load {library}: {error}") from error


def _failure(text: str) -> type[InstallError]:
    return AnotherCopy if "is registered already, by other code" in text else InstallError


def _load_past_python(module: ModuleType, connection: Any, library: str, entry: str) -> None:
    """For a Python that was built without `enable_load_extension`: by the C functions of the same SQLite."""
    remedy = (
        "Use a Python whose sqlite3 can load extensions (Debian's and Ubuntu's can; pyenv's if it is built with "
        "PYTHON_CONFIGURE_OPTS=--enable-loadable-sqlite-extensions), or `pip install pysqlite3-binary` and "
        "pwal.install(into=pysqlite3)"
    )
    why = f"this Python's {module.__name__} was built without enable_load_extension"
    sqlite = _library_of(module)
    source_id = getattr(sqlite, "sqlite3_sourceid", None)
    if source_id is None:
        raise InstallError(f"{why}, and its SQLite cannot be found in the process. {remedy}")
    source_id.restype = ctypes.c_char_p
    if source_id().decode() != one(connection, "SELECT sqlite_source_id()"):
        raise InstallError(f"{why}, and the SQLite found in the process is another one. {remedy}")
    if not hasattr(sqlite, "sqlite3_load_extension"):
        raise InstallError(f"{why}, and its SQLite without loading of extensions at all. {remedy}")

    sqlite.sqlite3_free.argtypes = [ctypes.c_void_p]
    sqlite.sqlite3_close.argtypes = [ctypes.c_void_p]
    sqlite.sqlite3_enable_load_extension.argtypes = [ctypes.c_void_p, ctypes.c_int]
    text, handle, message = ctypes.c_char_p, ctypes.c_void_p(), ctypes.c_void_p()
    sqlite.sqlite3_load_extension.argtypes = [ctypes.c_void_p, text, text, ctypes.POINTER(ctypes.c_void_p)]
    try:
        code = sqlite.sqlite3_open(b":memory:", ctypes.byref(handle))
        code = code or sqlite.sqlite3_enable_load_extension(handle, 1)
        file = os.fsencode(library)
        code = code or sqlite.sqlite3_load_extension(handle, file, entry.encode(), ctypes.byref(message))
        if code:
            told = ctypes.string_at(message.value).decode(errors="replace") if message else f"result code {code}"
            raise _failure(told)(f"{why}, and loading {library} past it failed: {told}. {remedy}")
    finally:
        sqlite.sqlite3_free(message)
        sqlite.sqlite3_close(handle)


def copy_of(module: ModuleType, library: str, error: AnotherCopy) -> str:
    """The file of the library that is loaded into this SQLite, if it is of the package's version."""
    connection = open_memory(module)
    try:
        loaded = one(connection, "SELECT pwal_version()").split()[0]
    finally:
        connection.close()
    try:
        wanted = importlib.metadata.version("pwal")
    except importlib.metadata.PackageNotFoundError:  # in a checkout
        wanted = loaded
    others = [name for name in _loaded_files() if "pwal" in os.path.basename(name) and name != os.path.realpath(library)]
    for other in others:
        if loaded == wanted and hasattr(ctypes.CDLL(other), "sqlite3_pwal_init"):
            return other
    raise InstallError(f"{error}. It is version {loaded}, from {', '.join(others) or 'the program itself'}; this package's is {wanted}")


def _loaded_files() -> list[str]:
    """The files that are mapped into this process."""
    with open("/proc/self/maps") as maps:
        return sorted({line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line})


def _library_of(module: ModuleType) -> ctypes.CDLL:
    """What the names of SQLite's functions are looked up in: the extension module and the libraries that it is linked
    to, before any other SQLite of the process; or the program, if the module is built into it."""
    inner = importlib.import_module("_sqlite3" if module.__name__ == "sqlite3" else f"{module.__name__}._sqlite3")
    return ctypes.CDLL(getattr(inner, "__file__", None))


def open_databases() -> list[str]:
    """The SQLite database files that this process has open now, by whatever library.

    Reads through the descriptors that are there: to open such a file once more and to close it would drop SQLite's
    locks on it (they are the process's, not the descriptor's).
    """
    found = set()
    for name in _descriptors():
        path = _database_behind(int(name))
        if path is not None:
            found.add(path)
    return sorted(found)


def _descriptors() -> list[str]:
    try:
        return [name for name in os.listdir("/proc/self/fd") if re.fullmatch(r"\d+", name)]
    except OSError:
        return []


def _database_behind(descriptor: int) -> Optional[str]:
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and os.pread(descriptor, len(MAGIC), 0) == MAGIC:
            return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # not to be read, or closed meanwhile
        pass
    return None
