"""Scratch folders and locks: what a killed process leaves is removed, and what a living one holds is not.

The processes are real. They are forks of this one, which call nothing of TensorFlow.
"""

import contextlib
import errno
import os
import signal

import pytest

from keras_dl import scratch
from keras_dl.files import replacing


@contextlib.contextmanager
def process(function):
    """Runs a function, which gets a function `ready` to call, in a child that is killed at the end. Waits for it."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            function(lambda: os.write(tell, b"1"))
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(told, 1) == b"1"
        yield
    finally:
        os.close(told)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path):
    def write(ready):
        with replacing(tmp_path / "model.tflite") as temporary:
            temporary.write_text("half")
            ready()
            signal.pause()

    with process(write):
        (left,) = tmp_path.iterdir()
        with replacing(tmp_path / "other.txt") as temporary:
            temporary.touch()
        assert {path.name for path in tmp_path.iterdir()} == {"other.txt", left.name}
        assert (left / "model.tflite").read_text() == "half"
    with replacing(tmp_path / "another.txt") as temporary:
        temporary.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"other.txt", "another.txt"}


def test_a_folder_that_a_killed_process_had_moved_aside_is_put_back(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").touch()
    original = os.replace

    def write(ready):
        def killed(source, target):
            if target == path:
                ready()
                signal.pause()
            original(source, target)

        os.replace = killed
        with replacing(path) as temporary:
            temporary.mkdir()

    with process(write):
        assert not path.exists()
    scratch.clear(tmp_path)
    assert [x.name for x in tmp_path.iterdir()] == ["model"]
    assert [x.name for x in path.iterdir()] == ["old.txt"]


def test_a_folder_that_was_made_and_not_yet_locked_is_removed_too(tmp_path):
    """A kill between the two. A maker that is alive notices, and makes another one."""
    (tmp_path / ".run.abc.keras_dl").mkdir()
    original, made = scratch.tempfile.mkdtemp, []

    def slow(**options):
        made.append(original(**options))
        if len(made) == 1:
            scratch.clear(tmp_path)
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch.tempfile, "mkdtemp", slow)
        with replacing(tmp_path / "file") as temporary:
            temporary.touch()
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_of_others_stay(tmp_path):
    for name in (".config.settings", ".file.abcdefgh", "file.keras_dl", ".keras_dl"):
        (tmp_path / name).mkdir()
    (tmp_path / ".note.txt.keras_dl").write_text("a file")
    before = sorted(tmp_path.iterdir())
    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "file"])


def test_a_lock_belongs_to_one_process_until_it_dies(tmp_path):
    def hold(ready):
        with scratch.locked(tmp_path / "lock") as reserved:
            assert reserved
            ready()
            signal.pause()

    with process(hold), pytest.raises(BlockingIOError), scratch.locked(tmp_path / "lock"):
        pass
    with scratch.locked(tmp_path / "lock") as reserved:
        assert reserved


def test_without_locks_files_are_written_and_nothing_is_removed(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".file.abc.keras_dl").mkdir()
    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert (tmp_path / ".file.abc.keras_dl").exists()


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/report\.json'"):  # noqa: SIM117
        with replacing(tmp_path / "report.json"), open("/dev/full", "w") as file:
            file.write("x" * 100_000)
    assert list(tmp_path.iterdir()) == []
