"""Ctrl-C and the signal of termination: neither is lost, and both let what is under way clean up.

The command line loads this file without the package, so it imports only the standard library.
"""

import _thread
import contextlib
import signal
import sys
import threading

_AGAIN = 0.05  # seconds


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


@contextlib.contextmanager
def terminating():
    """In the block, SIGTERM raises `Terminated`, so that scratch files are removed. Otherwise it just ends the process.

    In a thread other than the main one it does nothing, since Python handles signals only in the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def heard():
    """Lets an interruption in the block end it, also where it comes in a destructor or callback.

    Python raises `KeyboardInterrupt` wherever the main thread is. In a destructor (`__del__`) it only prints it and
    goes on, and TensorFlow's converter runs many of them. Here such an interruption is raised again, until it is heard.

    Raises:
        KeyboardInterrupt: if the process was interrupted in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, lock, lost, over = sys.unraisablehook, threading.Lock(), [], []

    def again():
        with lock:
            if not over:
                _thread.interrupt_main(signal.SIGTERM if lost[-1].__name__ == "Terminated" else signal.SIGINT)

    def hook(unraisable):
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        lost.append(unraisable.exc_type)
        timer = threading.Timer(_AGAIN, again)  # later, since this hook runs in the destructor
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    except KeyboardInterrupt:
        lost.clear()
        raise
    finally:
        with lock:
            over.append(True)
        sys.unraisablehook = before
    if lost:
        raise lost[-1]
