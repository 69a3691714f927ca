"""Processes of one training that find each other, compare what they have, and notice when one of them ends.

The first process listens at its own address, which TensorFlow takes over afterwards; the connections stay. A process
that ends, by whatever cause, closes its connection. A machine that vanishes sends no more signs of life. The first
process hears both, and tells the others: TensorFlow itself would let some of them wait.

    before the training    each says what it has; all must have the same; SECONDS_TO_MEET
    during the training    a sign of life every SECONDS_BETWEEN_SIGNS; without one for SECONDS_OF_SILENCE, it is lost
    after a loss           all hear of it at once; each ends at the latest SECONDS_TO_END + 5 later

Standard library only.
"""

import contextlib
import errno
import json
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time

SECONDS_TO_MEET = 300.0
SECONDS_BETWEEN_SIGNS = 2.0
SECONDS_OF_SILENCE = 60.0
SECONDS_TO_END = 20.0
SECONDS_TO_SAY_WHO_IS_MISSING = 10.0  # of the first process, which may have begun to wait later
_MOST_BYTES = 1 << 28  # of a message; what sends more is no process of this training


class ClusterError(RuntimeError):
    """The processes of a training do not find each other, do not have the same, or one of them has ended."""


class _Line:
    """A connection that carries JSON documents, one a line."""

    def __init__(self, connection):
        self.connection = connection
        self.left = b""
        self.early = []  # documents that came before a meeting looked for them
        self.sending = threading.Lock()
        self.heard = time.monotonic()

    def send(self, document):
        with self.sending:
            self.connection.sendall(json.dumps(document).encode() + b"\n")

    def receive(self):
        """The documents that have come. None at the end of the connection."""
        data = self.connection.recv(1 << 16)
        if not data or len(self.left) > _MOST_BYTES:
            return None
        self.heard = time.monotonic()
        *lines, self.left = (self.left + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Meeting:
    """The connections of a process to the others, and the thread that watches them.

    Attributes:
        index: int. The number of this process; 0 is the first.
        lost: str or None. What happened, if a process ended before its time.
    """

    def __init__(self, index, addresses, lines, ending=None):
        self.index, self.addresses, self.lines = index, addresses, lines
        self.lost = None
        self._news = queue.Queue()
        self._over = threading.Event()
        self._done = set()
        # The main thread may wait in TensorFlow, which nothing interrupts.
        self._ending = ending or (lambda: os._exit(1))
        self._has_alarm = ending is None and hasattr(signal, "setitimer")
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def tell(self, document):
        """Sends a document from the first process to all others."""
        self._send({"news": document})

    def hear(self):
        """The next document that the first process tells.

        Raises:
            ClusterError: if a process ends before.
        """
        news = self._news.get()
        if news is None:
            raise ClusterError(self.lost)
        return news["news"]

    def leave(self, error=None):
        """Ends the meeting: the others go on after a word of farewell, or end with the error of this process.

        The first process that leaves without error ends it for all.
        """
        if self._over.is_set():
            return
        self._over.set()
        with contextlib.suppress(OSError):
            self._send({"error": error} if error else {"done": True})
        self._close()

    def wait(self):
        """Waits until the first process leaves.

        Raises:
            ClusterError: if it ends otherwise.
        """
        if self.index and self._news.get() is None and self.lost:
            raise ClusterError(self.lost)

    def _send(self, document):
        for index, line in list(self.lines.items()):
            try:
                line.send(document)
            except OSError:
                if not self._over.is_set() and index not in self._done:
                    self._lose(index, "has ended, or cannot be reached")

    def _close(self):
        for line in self.lines.values():
            with contextlib.suppress(OSError):
                line.connection.shutdown(socket.SHUT_RDWR)
            line.connection.close()

    def _watch(self):
        try:
            self._look()
        except (KeyError, OSError, ValueError):  # of a connection that this process closed meanwhile
            if not self._over.is_set():
                raise

    def _look(self):
        for index, line in self.lines.items():
            self._take(index, line.early)
        with selectors.DefaultSelector() as selector:
            for index, line in self.lines.items():
                selector.register(line.connection, selectors.EVENT_READ, index)
            signed = time.monotonic()
            while not self._over.is_set():
                for key, _ in selector.select(SECONDS_BETWEEN_SIGNS / 2):
                    if not self._read(key.data):
                        selector.unregister(key.fileobj)
                if time.monotonic() - signed > SECONDS_BETWEEN_SIGNS:
                    self._send({})
                    signed = time.monotonic()
                for index, line in self.lines.items():
                    if index not in self._done and time.monotonic() - line.heard > SECONDS_OF_SILENCE:
                        self._lose(index, f"has given no sign of life for {SECONDS_OF_SILENCE:.0f} s")

    def _read(self, index):
        """Takes in what a process says. False if it says no more."""
        if self._over.is_set():
            return False
        try:
            documents = self.lines[index].receive()
        except (OSError, ValueError):
            documents = None
        if documents is None:
            if not self._over.is_set() and index not in self._done:
                self._lose(index, "has ended, or cannot be reached")
            return False
        return self._take(index, documents)

    def _take(self, index, documents):
        """Does what a process says. False if it says no more."""
        for document in documents:
            if "news" in document:
                self._news.put(document)
            elif "lost" in document:
                self._end(document["lost"])
            elif "error" in document:
                self._end(f"{self._name(index)} has ended: {document['error']}")
            elif "done" in document:
                self._done.add(index)
                if index == 0:
                    self._over.set()
                    self._news.put(None)
                return False
        return True

    def _name(self, index):
        return f"worker {index} ({self.addresses[index]})"

    def _lose(self, index, how):
        self._end(f"{self._name(index)} {how}. The training ends here. Continue with --resume.")

    def _end(self, message):
        """Says what happened, and ends the process if it does not end by itself."""
        if self.lost or self._over.is_set():
            return
        self.lost = message
        # At once: TensorFlow itself ends the process at times.
        print(f"keras-dl: {message}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            for line in self.lines.values():
                line.send({"lost": message})
        self._news.put(None)
        if self._has_alarm:  # the system's: Python's threads stop before TensorFlow has ended, which can take minutes
            signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_END + 5)
        timer = threading.Timer(SECONDS_TO_END, self._ending)
        timer.daemon = True  # it ends with the process
        timer.start()


def meet(index, addresses, have, seconds=SECONDS_TO_MEET, say=lambda message: None, ending=None):
    """Meets the other processes.

    Args:
        index: int. The number of this process.
        addresses: list of str, `"host:port"` of each process.
        have: dict that JSON can hold: what must be equal in all processes.
        seconds: float. How long to wait for the others.
        say: function that shows a line of progress.
        ending: function that ends the process when another one is lost and it does not end by itself.

    Returns:
        `Meeting`.

    Raises:
        ClusterError: if the port is in use, one does not come in time, or has something else. All of them get it.
    """
    own = _reserve(index, addresses)
    have = {"number of workers": len(addresses)} | have
    until = time.monotonic() + seconds
    lines = _host(own, index, addresses, have, until, seconds, say) if index == 0 else None
    if lines is None:
        own.close()  # it was only tried
        lines = _join(index, addresses, have, until, seconds, say)
    return Meeting(index, addresses, lines, ending)


def is_address(text):
    """Whether a text is `host:port`."""
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16


def split(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _reserve(index, addresses):
    """A socket at the port of this process, if no other process has it."""
    _, port = split(addresses[index])
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind(("", port))
        own.listen(len(addresses))
    except OSError as error:
        own.close()
        held = "Another process has it, perhaps a training that has not ended. " * (error.errno == errno.EADDRINUSE)
        raise ClusterError(
            f"Port {port} of worker {index} ({addresses[index]}) cannot be used: {error.strerror}. {held}Choose "
            "another port for this worker, in all processes."
        ) from error
    return own


def _host(own, index, addresses, have, until, seconds, say):
    lines, told = {}, time.monotonic() + 5
    strangers = []
    with own, selectors.DefaultSelector() as selector:
        own.setblocking(False)
        selector.register(own, selectors.EVENT_READ)
        while len(lines) < len(addresses) - 1:
            missing = [i for i in range(1, len(addresses)) if i not in lines]
            names = ", ".join(f"{i} ({addresses[i]})" for i in missing)
            if time.monotonic() > until:
                error = f"Within {seconds:.0f} s, these workers did not come: {names}. Each needs its own index."
                return _refuse(lines.values(), error)
            if time.monotonic() > told:
                say(f"waits for workers: {names}")
                told = time.monotonic() + 30
            for key, _ in selector.select(0.2):
                if key.fileobj is own:
                    connection, _ = own.accept()
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    strangers.append(_Line(connection))
                    selector.register(connection, selectors.EVENT_READ, strangers[-1])
                    continue
                try:
                    documents = key.data.receive()
                except (OSError, ValueError):
                    documents = None
                if documents == []:
                    continue
                selector.unregister(key.fileobj)
                number, theirs = _hello(documents)
                if not number:  # something else that tried the port
                    key.fileobj.close()
                    continue
                connected = [*lines.values(), key.data]
                if different := [name for name in {**have, **theirs} if have.get(name) != theirs.get(name)]:
                    said = "; ".join(f"{x}: {have.get(x)} at worker 0, {theirs.get(x)} there" for x in different)
                    place = f" ({addresses[number]})" if number < len(addresses) else ""
                    return _refuse(connected, f"Worker {number}{place} differs: {said}. All must have the same.")
                if number not in missing:
                    error = f"Two processes say that they are worker {number}. Each needs its own index in TF_CONFIG."
                    return _refuse(connected, error)
                lines[number] = key.data
    for line in lines.values():
        line.send({"welcome": True})
    return lines


def _hello(documents):
    """The number of a process, and what it has; two times None if it is none of a training."""
    match documents:
        case [{"worker": int(number), "has": dict(theirs)}] if number > 0:
            return number, theirs
    return None, None


def _refuse(lines, error):
    for line in lines:
        with contextlib.suppress(OSError):
            line.send({"error": error})
            line.connection.close()
    raise ClusterError(error)


def _join(index, addresses, have, until, seconds, say):
    told = time.monotonic() + 5
    while True:
        try:
            connection = socket.create_connection(split(addresses[0]), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > until:
                raise ClusterError(
                    f"Worker 0 ({addresses[0]}) could not be reached within {seconds:.0f} s: {error}."
                ) from error
            if time.monotonic() > told:
                say(f"waits for worker 0 ({addresses[0]})")
                told = time.monotonic() + 30
            time.sleep(0.2)
    line = _Line(connection)
    line.send({"worker": index, "has": have})
    connection.settimeout(max(1.0, until - time.monotonic()) + SECONDS_TO_SAY_WHO_IS_MISSING)
    try:
        documents = []
        while documents == []:
            documents = line.receive()
    except TimeoutError as error:
        raise ClusterError(
            f"Worker 0 ({addresses[0]}) has not begun within {seconds:.0f} s: it may wait for others."
        ) from error
    except (OSError, ValueError):
        documents = None
    if not documents:
        raise ClusterError(f"Worker 0 ({addresses[0]}) has ended before the training began.")
    if "error" in documents[0]:
        raise ClusterError(documents[0]["error"])
    connection.settimeout(None)
    line.early = documents[1:]
    return {0: line}
