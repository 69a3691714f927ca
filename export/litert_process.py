"""A LiteRT file in a process of its own, whose death is an error here."""

import contextlib
import pathlib
import signal
import subprocess
import tempfile
import threading
import weakref

from keras_dl.export.litert_run import receive, send
from keras_dl.files import FileError
from keras_dl.processes import python

_BATCHES = 64  # of one request, so that memory holds few at a time
_DYING = 5  # seconds that a process may take to end after its last answer


class SessionProcess:
    """`keras_dl.export.litert_run.Session` in another process.

    Args:
        path: str.
        num_threads: int, or None for the runtime's default.

    Attributes:
        signatures: as of `Session`.

    Raises:
        RuntimeError: if LiteRT refuses the file.
        FileError: if the process ended.
    """

    def __init__(self, path, num_threads=None):
        self._path = path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._lock = threading.Lock()
        script = pathlib.Path(__file__).with_name("litert_run.py")
        command = python(script, path, *([] if num_threads is None else [num_threads]))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        weakref.finalize(self, _end, self._process, self._errors)
        self.signatures = self._receive()[0]["signatures"]

    def reset_between_calls(self):
        """As `Session.reset_between_calls`."""
        self._ask(None, [])

    def run(self, name, batches):
        """As `Session.run`."""
        outputs = []
        for start in range(0, len(batches), _BATCHES):
            outputs += self._ask(name, batches[start : start + _BATCHES])
        return outputs

    def _ask(self, name, batches):
        with self._lock:
            try:
                with contextlib.suppress(BrokenPipeError):  # the answer says how the process ended
                    send(self._process.stdin, {"name": name}, batches)
                return self._receive()[1]
            except KeyboardInterrupt:  # half of an answer may have been read: the process cannot be asked again
                self._process.kill()
                raise

    def _receive(self):
        try:
            document, batches = receive(self._process.stdout)
        except (EOFError, ValueError, TypeError, KeyError):  # it ended, or its memory is damaged
            raise FileError(self._path, self._death()) from None
        if "error" in document:
            raise RuntimeError(document["error"])
        return document, batches

    def _death(self):
        try:
            code = self._process.wait(_DYING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        said = [line for line in said if not line.startswith(("INFO:", "WARNING:"))]
        names = {number.value: number.name for number in signal.Signals}
        how = f"by {names.get(-code, f'signal {-code}')}" if code < 0 else f"with code {code}"
        why = f" ({said[-1]})" if said else ""
        return (
            f"ended the process that ran it in LiteRT, {how}{why}. It is damaged, or LiteRT has a fault: export the "
            "model again."
        )


def _end(process, errors):
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, errors):
        with contextlib.suppress(BrokenPipeError):  # what was not sent is not needed
            file.close()
