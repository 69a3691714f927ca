"""Scratch folders, and locks that a kill releases.

A process that is killed leaves its scratch folder behind. It also loses its lock on it, so that the next process that
writes beside it can tell the folder from one in use, and removes it. The number of a process could not tell that: the
system gives it to another one.

Windows, and some network file systems, have no such locks. Nothing is reserved or removed there.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SUFFIX = ".keras_dl"  # of every scratch folder: no other folder is ever removed
OLD = ".old"  # in a scratch folder: what was at the place of its other entry
_LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def beside(path):
    """Yields a new folder beside `path`, and removes it at the end, as well as those that killed processes left there.

    Args:
        path: str or path. Its parent folder exists.

    Yields:
        `pathlib.Path`. It holds nothing but the hidden file of its lock.

    Example:

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "report.json")
    >>> with beside(path) as folder:
    ...     print(folder.parent == path.parent, folder.name.startswith(".report.json."))
    True True
    >>> folder.exists()
    False
    """
    path = pathlib.Path(path)
    clear(path.parent)
    with contextlib.ExitStack() as after:
        held = after.enter_context(contextlib.ExitStack())
        folder = _new(path, held)
        after.callback(_drop, folder, held)
        yield folder


def _new(path, held):
    """A new scratch folder, locked until `held` is closed."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent))
        try:
            held.enter_context(locked(folder / _LOCK))
        except (BlockingIOError, FileNotFoundError):
            continue  # before it was locked, another process took it for one that was left behind
        return folder


def _drop(folder, held):
    """Removes a scratch folder whose lock `held` has. NFS cannot remove an open file: the lock goes last."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
    held.close()
    with contextlib.suppress(FileNotFoundError):  # another process that clears may be faster
        (folder / _LOCK).unlink()
        shutil.rmtree(folder)


def clear(parent):
    """Removes the scratch folders in `parent` that no process holds. Those of other users stay.

    Args:
        parent: path of a folder, which need not exist.
    """
    for folder in pathlib.Path(parent).glob(f".*.*{SUFFIX}"):
        held = contextlib.ExitStack()
        # Held, gone, of another user, or no folder.
        with contextlib.suppress(BlockingIOError, FileNotFoundError, PermissionError, NotADirectoryError), held:
            if held.enter_context(locked(folder / _LOCK)):
                _put_back(folder)
                _drop(folder, held)


def _put_back(folder):
    """Puts the old entry of a scratch folder back, if its process was killed before the new one was in its place."""
    for entry in folder.iterdir():
        place = folder.with_name(entry.name)
        if entry.name not in (OLD, _LOCK) and (folder / OLD).exists() and not place.exists():
            os.replace(folder / OLD, place)


def remove(path):
    """Removes a folder so that a kill leaves either the whole folder or a scratch folder.

    Args:
        path: path of a folder.
    """
    with beside(path) as folder:
        os.replace(path, folder / pathlib.Path(path).name)


@contextlib.contextmanager
def locked(path):
    """Locks a file for this process, and makes it if there is none. The end of the block or a kill releases it.

    Args:
        path: path of a file, which stays.

    Yields:
        bool. Whether it is locked: False where the system has no locks.

    Raises:
        BlockingIOError: if another process holds it.
        FileNotFoundError: if its folder does not exist, or was removed or renamed meanwhile.
    """
    with open(path, "a") as file:
        yield _reserve(file, path)


def _reserve(file, path):
    """Locks an open file: False where the system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        raise FileNotFoundError(errno.ENOENT, "replaced meanwhile", str(path))
    return True
