"""Keeps notices that libraries write to the terminal, and that no user can act on, out of what a user sees.

The command line loads this file without the package, so it imports only the standard library.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import threading

from keras_dl.processes import python

_SECONDS = 2  # that the filter may take to end; a process that still writes to it may keep it
_HIDING = threading.Lock()


@contextlib.contextmanager
def hidden():
    """In the block, such lines that C++ code writes to stderr are left out.

    The filter is a process of its own: if a library ends this process, its last words are still shown. Python's own
    `sys.stderr` does not go through the filter. In a notebook, `sys.stderr` is another object, and stays. Without a
    stderr, or inside of such a block, nothing happens.
    """
    try:
        shown = os.dup(2)
    except OSError:  # closed
        yield
        return
    if not _HIDING.acquire(blocking=False):
        os.close(shown)
        yield
        return
    try:
        with _filtered(shown):
            yield
    finally:
        _HIDING.release()


@contextlib.contextmanager
def _filtered(shown):
    """In the block, what is written to stderr goes through the filter to `shown`, a copy of stderr."""
    before = sys.stderr
    try:
        real = before.fileno() == 2
    except (AttributeError, OSError, ValueError):  # None, closed, or an object that is no file
        real = False
    script = pathlib.Path(__file__).with_name("notice_filter.py")
    filter_ = subprocess.Popen(python("-S", script), stdin=subprocess.PIPE, stdout=shown, stderr=shown)
    if real:
        before.flush()
        sys.stderr = os.fdopen(shown, "w", buffering=1, encoding=before.encoding, errors=before.errors)
    os.dup2(filter_.stdin.fileno(), 2)
    filter_.stdin.close()
    try:
        yield
    finally:
        if real:
            sys.stderr.flush()
        os.dup2(shown, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            filter_.wait(_SECONDS)
        if real:
            sys.stderr = before  # the other one stays open: handlers of logs may have kept it
        else:
            os.close(shown)
