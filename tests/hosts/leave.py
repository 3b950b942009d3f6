"""The ways a Python program ends that does not crash."""
import os
import sqlite3
import sys
import threading

loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension("./libpwal")
way = sys.argv[1]
done = threading.Event()


def work():
    global connection
    connection = sqlite3.connect("app.db", check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(writer, n)")
    connection.execute("INSERT INTO t VALUES(0,1),(1,1)")
    connection.commit()
    os.write(1, b"written\n")
    done.set()
    if way == "daemon":
        threading.Event().wait()


if way == "daemon":
    # The interpreter ends while this thread holds the connection: nobody closes it.
    threading.Thread(target=work, daemon=True).start()
    done.wait()
else:
    work()
if way == "close":
    connection.close()
elif way == "exit":
    sys.exit(3)
elif way == "raise":
    sys.stderr = open(os.devnull, "w")
    raise RuntimeError("the application failed")
