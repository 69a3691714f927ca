"""Writing files so that an interruption leaves either the old file or the new one, never a partial file."""

import contextlib
import errno
import os
import pathlib

from keras_dl import scratch

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`, and renames it to `path` when the block ends without an error.

    The block may write a file or a folder there. If it raises, or if the process dies, the file or folder at `path`
    stays as it was. What a killed process has left is removed by the next call in the same folder.

    Args:
        path: str or path. The destination. Its parent folder is created.

    Yields:
        `pathlib.Path`: a path with the same ending as `path`, at which nothing exists yet.

    Example:

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> path.read_text()
    'whole'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch.beside(path) as folder:
        temporary = folder / path.name
        try:
            yield temporary
        except OSError as error:
            if error.errno in _FULL and error.filename is None:  # Python does not say which file it was writing
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        if path.is_dir():
            _replace_folder(temporary, path, folder / scratch.OLD)
        else:
            os.replace(temporary, path)


def _replace_folder(new, path, old):
    """Moves the old folder aside, since a rename cannot replace a full folder. Moves it back if the rename fails."""
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
