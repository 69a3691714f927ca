"""Files: written whole or not at all, and read with an error that names the file and says what to do.

Users give files that are damaged, of another kind, or made to do harm. All that fails in reading one is a `FileError`.
"""

import contextlib
import errno
import json
import lzma
import os
import pathlib
import struct
import zipfile
import zlib

import numpy as np

from keras_dl import scratch

_FULL = (errno.ENOSPC, errno.EDQUOT)

# A member of a zip file may unpack to more than so many bytes only if it is at most so many times its packed size.
# Keras and NumPy pack nothing, packed weights shrink to half or a tenth, and packed zeros to a thousandth.
LARGE = 64 << 20
RATIO = 100

# What the readers of zip files and of arrays raise where the bytes are wrong; FileNotFoundError is not meant.
_WRONG_BYTES = (
    ValueError,  # also of JSON and of text
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    EOFError,
    MemoryError,  # a size that was damaged
    RecursionError,
    RuntimeError,  # a member with a password; NotImplementedError, of an unknown compression, is one too
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class FileError(ValueError):
    """A file is damaged, or is not what it should be, or may do harm. The message begins with its path.

    Args:
        path: str or path.
        problem: str. What is wrong with it, to be read after the path, and what to do.

    Attributes:
        path, problem: str.

    Example:

    >>> str(FileError("a.json", "is empty. Write it again."))
    'a.json is empty. Write it again.'
    """

    def __init__(self, path, problem):
        super().__init__(f"{path} {problem}")
        self.path, self.problem = str(path), problem


def reason(error) -> str:
    """The first line of an error without its final period, or its type if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextlib.contextmanager
def reading(path, what, cure=""):
    """Turns errors of the block, which reads the file at `path`, into a `FileError`.

    Args:
        path: str or path.
        what: str. What the file should be, with an article: `"a checkpoint"`.
        cure: str. A sentence that says what to do.

    Raises:
        FileError: if the bytes are not those of such a file.
        OSError: if the file does not exist, or cannot be read.

    Example:

    >>> with reading("a.json", "a list", "Write it again."):
    ...     json.loads("[1, ")
    Traceback (most recent call last):
    ...
    keras_dl.files.FileError: a.json is not a list: Expecting value: line 1 column 5 (char 4). Write it again.
    """
    try:
        yield
    except FileError:
        raise
    except IsADirectoryError as error:
        raise FileError(path, f"is not {what}: it is a folder. {cure}".rstrip()) from error
    except (*_WRONG_BYTES, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the system, not of a reader: h5py gives no number, and zipfile seeks to impossible places
        why = reason(error)
        why = f"{type(error).__name__} {why}" if isinstance(error, KeyError | struct.error) else why
        raise FileError(path, f"is not {what}: {why}. {cure}".rstrip()) from error


def read_json(path, what, cure="", kind=dict, types=None):
    """The document in a JSON file.

    Args:
        path: str or path.
        what, cure: as `reading` takes them.
        kind: the type that the document must have.
        types: dict of the types, as `isinstance` takes them, of keys that the document must have.

    Returns:
        The document.

    Raises:
        FileError: if the file is not JSON in UTF-8, or its document lacks a key or has another type.
        OSError: if the file does not exist, or cannot be read.
    """
    with reading(path, what, cure):
        content = pathlib.Path(path).read_bytes()
    return parse_json(content, path, what, cure, kind, types)


def parse_json(content, path, what, cure="", kind=dict, types=None):
    """The document in JSON that is a part of the file at `path`: as `read_json`.

    Args:
        content: bytes or str.
    """
    with reading(path, what, cure):
        if not content:
            raise ValueError("it is empty")
        try:
            document = json.loads(content if isinstance(content, str) else bytes(content).decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON ({reason(error)})") from error
        if not isinstance(document, kind):
            raise ValueError(f"it holds no JSON {'object' if kind is dict else kind.__name__}")
        for name, of in (types or {}).items():
            if name not in document:
                raise ValueError(f"it has no {name!r}")
            if not isinstance(document[name], of):
                raise ValueError(f"its {name!r} is {repr(document[name])[:60]}")
    return document


def read_arrays(path, what, cure="") -> dict[str, np.ndarray]:
    """The arrays in an `.npz` file, by name. Nothing in the file is run: pickled objects are refused.

    Args:
        path: str or path.
        what, cure: as `reading` takes them.

    Raises:
        FileError: if the file is not such a file, or if it unpacks to far more than its size: see `check_zip`.
        OSError: if the file does not exist, or cannot be read.
    """
    with reading(path, what, cure):
        if pathlib.Path(path).stat().st_size == 0:
            raise ValueError("it is empty")
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path)
            for member in archive.infolist():
                _check_array(archive, member)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def _check_array(archive, member):
    """Refuses an array whose header asks for more bytes than the member has: NumPy allocates them first."""
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.hasobject:
            raise ValueError(f"its array {member.filename} holds pickled objects, which can run code")
        if dtype.itemsize * int(np.prod(shape, dtype=object)) != member.file_size - file.tell():
            raise ValueError(f"its array {member.filename} has another size than its header says")


def check_zip(archive, path):
    """Refuses a zip file that would unpack to far more than its size, as a whole or in one member.

    More than `LARGE` bytes may be unpacked only if they are at most `RATIO` times their packed size.

    Args:
        archive: `zipfile.ZipFile`.
        path: the path of the file.

    Raises:
        FileError: if it would.
    """
    members = archive.infolist()
    sizes = [(member.filename, member.compress_size, member.file_size) for member in members]
    # The size on the disk, since several members of a hostile file can share their bytes.
    sizes.append(("all members", pathlib.Path(path).stat().st_size, sum(member.file_size for member in members)))
    for name, packed, unpacked in sizes:
        if unpacked > max(LARGE, RATIO * packed):
            raise FileError(
                path,
                f"would unpack {packed:,} bytes to {unpacked:,} ({name}). At most {RATIO} times its size is unpacked. "
                "If you trust the file, pack its members without compression.",
            )


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`, and renames it to `path` when the block ends without an error.

    The block may write a file or a folder there. If it raises, or if the process dies, the file or folder at `path`
    stays as it was. What was written is on the disk before it gets its name, so that a power cut leaves no empty file.
    What a killed process has left is removed by the next call in the same folder.

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
        _flush(temporary)
        if path.is_dir():
            _replace_folder(temporary, path, folder / scratch.OLD)
        else:
            os.replace(temporary, path)
        _flush_folder(path.parent)


def _flush(path):
    """Waits until a file, or all files in a folder, are on the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _flush(inner)
        _flush_folder(path)
    elif path.is_file():
        _fsync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes only what may be written


def _flush_folder(path):
    """Waits until the names in a folder are on the disk. Windows has no such call."""
    if os.name != "nt":
        _fsync(path, os.O_RDONLY)


def _fsync(path, flags):
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_folder(new, path, old):
    """Moves the old folder aside, since a rename cannot replace a full folder. Moves it back if the rename fails."""
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
