"""Clients of the example applications: threads that keep their connection and remember what they were told."""

import http.client
import json
import threading
import time

# An answer that takes longer is none.
ANSWER_SECONDS = 60


class Client(threading.Thread):
    """Puts one note after the other; each must be readable as soon as it is acknowledged.

    A connection that breaks without an answer is no error of the application (it was restarted): the note is put
    again on a new one, which adds it once.
    """

    def __init__(self, load, name):
        super().__init__(name=name, daemon=True)
        self.load, self.acknowledged, self.broken, self.slowest = load, 0, 0, 0.0
        self.connection = None

    def run(self):
        try:
            while not self.load.stopping.is_set():
                key = f"{self.name}-{self.acknowledged + 1}"
                begun = time.monotonic()
                self.ask("PUT", f"/notes/{key}", f"text of {key}")
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.acknowledged += 1
                if self.acknowledged % 10 == 0:
                    self.read_back(key)
        except Exception as error:  # it is the test's result
            self.load.errors.append(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self.forget()

    def read_back(self, key):
        """On a new connection: most probably another worker."""
        self.forget()
        text = self.ask("GET", f"/notes/{key}")["text"]
        if text != f"text of {key}":
            raise AssertionError(f"{key} reads {text!r}")

    def ask(self, method, path, body=None):
        """The answer, which must be a good one."""
        limit = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.load.port, timeout=ANSWER_SECONDS)
                self.connection.request(method, path, body)
                response = self.connection.getresponse()
                content = response.read()
                break
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException) as error:
                self.broken += 1
                self.forget()
                if self.load.stopping.is_set() or time.monotonic() > limit:
                    raise AssertionError(f"{method} {path}: no server in {ANSWER_SECONDS} s: {error!r}") from error
                time.sleep(0.02)
        if response.status != 200:
            raise AssertionError(f"{method} {path}: {response.status} {content[:300]!r}")
        return json.loads(content)

    def forget(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Load:
    """All clients."""

    def __init__(self, port, clients):
        self.port, self.stopping, self.errors = port, threading.Event(), []
        self.clients = [Client(self, f"client{n}") for n in range(clients)]

    def start(self):
        for client in self.clients:
            client.start()

    def stop(self):
        self.stopping.set()
        for client in self.clients:
            client.join(ANSWER_SECONDS + 10)
            if client.is_alive():
                self.errors.append(f"{client.name} hangs")

    def acknowledged(self):
        return [client.acknowledged for client in self.clients]

    def slowest(self):
        """The longest answer since it was asked last, in seconds."""
        found = max(client.slowest for client in self.clients)
        for client in self.clients:
            client.slowest = 0.0
        return found
