"""A web application on pwal under load, with gunicorn: restarted, killed, and replaced by a second instance while it runs.

    python tests/hosts/web --app django --workers 4 --seconds 2

No request may fail, no acknowledged note may be missing or twice, and one plain file is left. `--stock` runs the same on
stock SQLite. The Python must have pwal's wheel, gunicorn, and Django or Flask.
"""

import argparse
import os
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from load import Client, Load
from serve import APPLICATIONS, Application, Server, alive, children, wait_for


class Drill:
    """What an operator does to the application, one after the other, while the clients go on."""

    def __init__(self, arguments, directory):
        self.arguments = arguments
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.application = Application(arguments, directory, port)
        self.load = Load(port, arguments.clients)
        self.servers = []

    def run(self):
        self.application.migrate()
        try:
            server = self.start()
            self.load.start()
            for name in self.arguments.steps.split(","):
                begun, before = time.monotonic(), sum(self.load.acknowledged())
                server = getattr(self, name)(server)
                self.everybody_goes_on()
                seconds = time.monotonic() - begun
                notes = sum(self.load.acknowledged()) - before
                print(
                    f"  {name}: {notes} notes in {seconds:.1f} s, the slowest {self.load.slowest():.2f} s", flush=True
                )
            self.load.stop()
            server.stop()
            self.servers.remove(server)
        finally:
            for server in self.servers:
                server.kill()
        return self.verdict()

    def start(self):
        """A server whose workers all answer."""
        server = self.application.start()
        self.servers.append(server)
        wait_for("all workers", lambda: len(server.workers()) == self.arguments.workers)
        self.answered_by(server.workers)
        return server

    def answered_by(self, workers):
        """Waits until each of these workers has answered, on the VFS it should be on."""
        asker, heard = Client(self.load, "asker"), set()

        def all_answer():
            self.no_errors()
            asker.forget()
            answer = asker.ask("GET", "/status")
            if not self.arguments.stock and not answer["status"].get("active"):
                raise AssertionError(f"a worker is not on pwal: {answer}")
            heard.add(answer["pid"])
            return heard.issuperset(workers())

        wait_for("an answer of each worker", all_answer)
        asker.forget()

    def no_errors(self):
        if self.load.errors:
            raise AssertionError("\n".join(self.load.errors))

    def everybody_goes_on(self):
        """Each client gets more notes acknowledged."""
        before = self.load.acknowledged()

        def more():
            self.no_errors()
            return all(now >= then + 3 for now, then in zip(self.load.acknowledged(), before))

        wait_for("every client goes on", more)

    # The steps.

    def steady(self, server):
        """Nothing but load."""
        limit = time.monotonic() + self.arguments.seconds
        while time.monotonic() < limit:
            self.no_errors()
            time.sleep(0.05)
        return server

    def reload(self, server):
        """HUP: the master starts new workers and lets the old ones finish."""
        old = set(server.workers())
        server.signal(signal.SIGHUP)
        wait_for("the old workers' end", lambda: not any(alive(pid) for pid in old))
        wait_for("all new workers", lambda: len(set(server.workers()) - old) == self.arguments.workers)
        self.answered_by(server.workers)
        return server

    def kill_worker(self, server):
        """SIGKILL of a worker in the middle of its work; the master starts another."""
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for("the worker's end", lambda: not alive(victim))
        wait_for("another worker", lambda: len(server.workers()) == self.arguments.workers)
        self.answered_by(server.workers)
        return server

    def restart(self, server):
        """TERM, and a start after the end."""
        server.stop()
        self.servers.remove(server)
        return self.start()

    def replace(self, server):
        """A second instance beside the first; when it answers, the first is stopped."""
        second = self.start()
        server.stop()
        self.servers.remove(server)
        self.answered_by(second.workers)
        return second

    def upgrade(self, server):
        """USR2: the master starts another master on the same socket; then the first is stopped."""
        old = set(server.workers())
        server.signal(signal.SIGUSR2)
        second = wait_for("the second master", lambda: set(server.workers()) - old).pop()
        wait_for("its workers", lambda: len(children(second)) == self.arguments.workers)
        self.answered_by(lambda: children(second))
        server.stop()
        self.servers.remove(server)
        # The second is no child of ours: from here on a plain restart.
        os.kill(second, signal.SIGTERM)
        wait_for("the second master's end", lambda: not alive(second))
        return self.start()

    # What is there afterwards.

    def verdict(self):
        path, load = self.application.directory / "app.db", self.load
        problems = list(load.errors)
        beside = sorted(name.name for name in path.parent.glob("app.db?*"))
        if beside:
            problems.append(f"left beside the database: {beside}")
        stock = sqlite3.connect(path)  # this process has no pwal
        found = stock.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            problems.append(f"integrity_check: {found}")
        keys = [row[0] for row in stock.execute("SELECT key FROM notes_note")]
        there = set(keys)
        total = stock.execute("SELECT notes FROM notes_total WHERE id = 1").fetchone()[0]
        stock.close()
        if not len(keys) == len(there) == total:
            problems.append(f"{len(keys)} notes, {len(there)} different ones, {total} counted")
        missing = [
            key
            for client in load.clients
            for key in (f"{client.name}-{n}" for n in range(1, client.acknowledged + 1))
            if key not in there
        ]
        if missing:
            problems.append(f"{len(missing)} acknowledged notes are missing, the first {missing[:5]}")
        for line in self.application.log.read_text(errors="replace").splitlines():
            killed = "was sent SIGKILL" in line and "kill_worker" in self.arguments.steps
            if any(word in line for word in ("Traceback", "Error", "[ERROR]", "[CRITICAL]")) and not killed:
                problems.append(f"gunicorn.log: {line}")
        print(
            f"  {sum(load.acknowledged())} acknowledged (by client {min(load.acknowledged())} to "
            f"{max(load.acknowledged())}), {len(keys)} there, {len(missing)} missing; "
            f"{sum(client.broken for client in load.clients)} connections ended by the server",
            flush=True,
        )
        return problems


def main():
    parser = argparse.ArgumentParser(prog="web", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--app", choices=APPLICATIONS, default="django")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=4, help="of each worker")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2, help="of each `steady`")
    parser.add_argument("--steps", default="steady,reload,kill_worker,restart,replace,steady")
    parser.add_argument("--preload", action="store_true", help="the master loads the application before it forks")
    parser.add_argument("--max-age", type=int, help="Django's CONN_MAX_AGE in seconds; kept for ever without")
    parser.add_argument("--stock", action="store_true", help="without pwal, for comparison")
    parser.add_argument("--keep", action="store_true", help="leave the directory")
    arguments = parser.parse_args()
    if {"replace", "upgrade"} <= set(arguments.steps.split(",")):
        parser.error("replace and upgrade need different sockets: run one after the other")
    directory = Path(tempfile.mkdtemp(prefix="pwal-web-"))
    print(f"{' '.join(sys.argv[1:])}: {directory}", flush=True)
    try:
        problems = Drill(arguments, directory).run()
    except Exception as error:
        problems = [f"{type(error).__name__}: {error}"]
    for problem in problems[:20]:
        print(f"  FAILED: {problem}")
    if problems:
        log = directory / "gunicorn.log"
        print("".join(log.read_text(errors="replace").splitlines(True)[-60:]) if log.exists() else "no log")
        sys.exit(1)
    if not arguments.keep:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
    print("  ok")


main()
