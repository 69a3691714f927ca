"""Keeps notices that libraries write to the terminal, and that no user can act on, out of the command line's output.

The command line loads this file without the package, so it imports only the standard library.
"""

import contextlib
import os
import pathlib
import subprocess
import sys

from keras_dl.processes import python

_SECONDS = 2  # that the filter may take to end; a process that still writes to it may keep it


@contextlib.contextmanager
def hidden():
    """In the block, such lines that C++ code writes to stderr are left out.

    The filter is a process of its own: if a library ends this process, its last words are still shown. Python's own
    `sys.stderr` does not go through the filter. Without a real stderr, in tests for example, nothing happens.
    """
    try:
        real = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # None, closed, or an object that is no file
        real = False
    if not real:
        yield
        return
    shown, before = os.dup(2), sys.stderr
    script = pathlib.Path(__file__).with_name("notice_filter.py")
    filter_ = subprocess.Popen(python(script), stdin=subprocess.PIPE, stdout=shown, stderr=shown)
    before.flush()
    os.dup2(filter_.stdin.fileno(), 2)
    filter_.stdin.close()
    sys.stderr = os.fdopen(shown, "w", buffering=1, encoding=before.encoding, errors=before.errors)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            filter_.wait(_SECONDS)
        sys.stderr = before  # the other one stays open: handlers of logs may have kept it
