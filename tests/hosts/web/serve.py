"""gunicorn with one of the example applications, as an operator runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[3] / "python" / "examples"
APPLICATIONS = {
    "django": (EXAMPLES / "django_notes", "notes.wsgi", ["manage.py", "migrate", "--verbosity", "0"]),
    "flask": (EXAMPLES, "flask_notes:app", ["-m", "flask", "--app", "flask_notes", "migrate"]),
}


class Late(Exception):
    """Something that was waited for did not come."""


def wait_for(what, condition, seconds=60):
    """Waits until the condition holds, and returns what it answers."""
    limit = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > limit:
            raise Late(f"{what}: not after {seconds} s")
        time.sleep(0.02)


class Application:
    """What to start, and with which environment."""

    def __init__(self, arguments, directory, port):
        self.arguments, self.directory, self.port = arguments, directory, port
        self.place, self.module, self.migration = APPLICATIONS[arguments.app]
        self.log = directory / "gunicorn.log"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PWAL_")}
        self.environment["NOTES_DB"] = str(directory / "app.db")
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"
        if arguments.max_age is not None:
            self.environment["NOTES_CONN_MAX_AGE"] = str(arguments.max_age)
        if arguments.stock:
            self.environment["PYTHONPATH"] = str(Path(__file__).resolve().parent / "stock")

    def migrate(self):
        subprocess.run([sys.executable, *self.migration], cwd=self.place, env=self.environment, check=True, timeout=120)

    def start(self):
        return Server(self)


class Server:
    """One gunicorn master and its workers."""

    def __init__(self, application):
        arguments = application.arguments
        # The script, not `-m gunicorn`: USR2 starts the same words again.
        script = str(Path(sys.executable).parent / "gunicorn")
        command = [sys.executable, script, application.module, "--bind", f"127.0.0.1:{application.port}"]
        command += ["--worker-class", "gthread", "--workers", str(arguments.workers), "--threads", str(arguments.threads)]
        command += ["--keep-alive", "30", "--timeout", "60", "--graceful-timeout", "30"]
        command += ["--no-control-socket", "--pid", str(application.directory / f"master-{time.monotonic_ns()}")]
        # For two instances on one port; gunicorn does not hand such sockets on at USR2.
        if "replace" in arguments.steps:
            command.append("--reuse-port")
        if arguments.preload:
            command.append("--preload")
        with open(application.log, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=application.place, env=application.environment, stdout=log, stderr=log
            )
        self.pid = self.process.pid

    def workers(self):
        """The processes that the master has forked."""
        return children(self.pid)

    def signal(self, number):
        os.kill(self.pid, number)

    def stop(self):
        """TERM, and its end, which must be a good one."""
        self.signal(signal.SIGTERM)
        status = self.process.wait(timeout=90)
        if status:
            raise Late(f"gunicorn ended with status {status} after TERM")

    def kill(self):
        """For a test that has failed: nothing is left running."""
        for pid in [self.pid, *self.workers()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def children(pid):
    """The children of a process that are not dead."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in listed if alive(int(child))]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
