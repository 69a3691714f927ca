"""Writing files so that an interruption leaves either the old file or the new one, never half of one."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`, and renames it to `path` when the block ends without an error.

    The block may write a file or a folder there. If it raises, or the process
    dies, whatever stood at `path` stays as it was.

    Args:
        path: str or path. Where the result goes. Its folder is created.

    Yields:
        `pathlib.Path`: a name, ending like `path`, at which nothing exists yet.

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
    """A folder cannot be renamed onto a full one: moves the full one aside first, and back if that was in vain."""
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
