"""Ctrl-C and SIGTERM: heard where Python would ignore them, and ended with a message and without scratch files."""

import os
import signal
import time

import pytest

import keras_dl_cli
from keras_dl.files import replacing
from keras_dl.interrupts import Terminated, heard, terminating
from keras_dl.recipes.training import commands


@pytest.fixture(autouse=True)
def _interruptible():
    """A process that the shell started in the background ignores Ctrl-C, and so do the processes that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted:
    """An object in whose destructor the process is interrupted. Python then only prints the interruption."""

    def __init__(self, number=signal.SIGINT):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


def wait():
    for _ in range(500):  # 5 s
        time.sleep(0.01)


def test_an_interruption_in_a_destructor_ends_the_block():
    def block():
        with heard():
            Interrupted()
            wait()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        block()
    assert time.monotonic() - start < 4


def test_an_interruption_at_the_end_of_the_block_is_raised_there():
    reached = []

    def block():
        with heard():
            Interrupted()
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached
    time.sleep(0.2)  # it is not raised a second time


def test_sigterm_is_an_interruption_too():
    before = signal.getsignal(signal.SIGTERM)

    def block():
        with terminating(), heard():
            Interrupted(signal.SIGTERM)
            wait()

    with pytest.raises(Terminated):
        block()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "message"), [("SIGINT", "Interrupted."), ("SIGTERM", "Ended by SIGTERM.")])
@pytest.mark.parametrize("where", ["code", "destructor"])
def test_the_command_line_ends_with_a_message_and_leaves_nothing(tmp_path, monkeypatch, capsys, number, message, where):
    def benchmark(name, rounds, only):
        with replacing(tmp_path / "new.txt") as temporary:
            temporary.write_text("half")
            if where == "code":
                os.kill(os.getpid(), signal.Signals[number])
            else:
                Interrupted(signal.Signals[number])
            wait()

    monkeypatch.setattr(commands, "benchmark", benchmark)
    with pytest.raises(SystemExit) as exit_:
        keras_dl_cli.main(["benchmark", "abacus"])
    assert exit_.value.code == 1
    assert capsys.readouterr().err.strip() == f"keras-dl: {message}"
    assert list(tmp_path.iterdir()) == []
