"""What versions of stock SQLite say to a database whose process was killed: python3 stock_versions.py LIBPWAL LIBSQLITE...

Each LIBSQLITE is a shared library of SQLite. Every statement must be refused, with 14 (SQLITE_CANTOPEN) where the directory
at app.db-wal lies beside the file, and the file must stay as it is, byte for byte.
"""
import ctypes, os, shutil, signal, subprocess, sys, tempfile

WRITER = """
import sqlite3, os, signal, sys
c = sqlite3.connect(":memory:"); c.enable_load_extension(True); c.load_extension(sys.argv[1]); c.close()
d = sqlite3.connect(sys.argv[2], isolation_level=None)
d.execute("PRAGMA journal_mode=WAL"); d.execute("CREATE TABLE t(x)"); d.execute("INSERT INTO t VALUES(1)")
os.kill(os.getpid(), signal.SIGKILL)
"""
READWRITE, READONLY, URI = 2, 1, 0x40
RESET_DATABASE = 1009
# What is opened, how, and the statements; the code that the last one gets.
CASES = [
    ("select", "", READWRITE, ["SELECT count(*) FROM t"], 14),
    ("insert", "", READWRITE, ["INSERT INTO t VALUES(2)"], 14),
    ("read-only", "", READONLY, ["SELECT count(*) FROM t"], 14),
    ("mode=ro", "?mode=ro", READONLY, ["SELECT count(*) FROM t"], 14),
    ("nolock=1", "?nolock=1", READWRITE, ["SELECT count(*) FROM t"], 14),
    ("immutable=1", "?immutable=1", READONLY, ["SELECT count(*) FROM t"], 26),
    ("exclusive", "", READWRITE, ["PRAGMA locking_mode=EXCLUSIVE", "INSERT INTO t VALUES(2)"], 14),
    ("to delete", "", READWRITE, ["PRAGMA journal_mode=DELETE"], 14),
    ("to wal", "", READWRITE, ["PRAGMA journal_mode=WAL"], 14),
    ("checkpoint", "", READWRITE, ["PRAGMA wal_checkpoint(TRUNCATE)"], 14),
    ("vacuum", "", READWRITE, ["VACUUM"], 14),
    ("reset", "", READWRITE, [RESET_DATABASE, "VACUUM"], 14),
]


def load(path):
    library = ctypes.CDLL(path)
    pointer = ctypes.c_void_p
    library.sqlite3_libversion.restype = ctypes.c_char_p
    library.sqlite3_open_v2.argtypes = [ctypes.c_char_p, ctypes.POINTER(pointer), ctypes.c_int, ctypes.c_char_p]
    library.sqlite3_exec.argtypes = [pointer, ctypes.c_char_p, pointer, pointer, pointer]
    library.sqlite3_db_config.argtypes = [pointer, ctypes.c_int, ctypes.c_int, pointer]
    library.sqlite3_close.argtypes = [pointer]
    return library


def last_code(library, uri, flags, statements):
    connection = ctypes.c_void_p()
    code = library.sqlite3_open_v2(uri.encode(), ctypes.byref(connection), flags | URI, None)
    for statement in statements:
        if statement == RESET_DATABASE:
            library.sqlite3_db_config(connection, RESET_DATABASE, 1, None)
        else:
            code = library.sqlite3_exec(connection, statement.encode(), None, None, None)
    library.sqlite3_close(connection)
    return code


pwal, libraries = os.path.abspath(sys.argv[1]), [load(os.path.abspath(path)) for path in sys.argv[2:]]
with tempfile.TemporaryDirectory() as scratch:
    killed = os.path.join(scratch, "killed")
    os.mkdir(killed)
    writer = subprocess.run([sys.executable, "-c", WRITER, pwal, os.path.join(killed, "app.db")])
    assert writer.returncode == -signal.SIGKILL, writer
    assert sorted(os.listdir(killed)) == ["app.db", "app.db-pwal", "app.db-wal"], os.listdir(killed)
    before = open(os.path.join(killed, "app.db"), "rb").read()
    for library in libraries:
        version = library.sqlite3_libversion().decode()
        for name, parameters, flags, statements, expected in CASES:
            place = os.path.join(scratch, "copy")
            shutil.copytree(killed, place)
            database = os.path.join(place, "app.db")
            code = last_code(library, f"file:{database}{parameters}", flags, statements)
            assert code == expected, (version, name, code)
            assert open(database, "rb").read() == before, (version, name, "written")
            shutil.rmtree(place)
        print(f"{version}: {len(CASES)} ways to open it, all refused, nothing written")
