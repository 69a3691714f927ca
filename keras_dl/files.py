"""Writing files so that an interruption leaves either the old file or the new one, never a partial file."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`, and renames it to `path` when the block ends without an error.

    The block may write a file or a folder there. If it raises, or if the process dies, the file or folder at `path`
    stays as it was.

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
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = scratch / path.name
        yield temporary
        if path.is_dir():
            _replace_folder(temporary, path, scratch / "old")
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(scratch)


def _replace_folder(new, path, old):
    """Moves the old folder aside, since a rename cannot replace a full folder. Moves it back if the rename fails."""
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
