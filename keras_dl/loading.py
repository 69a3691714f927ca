"""Loads files of Keras models that others may have made. They are checked first, and errors name the file.

Keras itself refuses Lambda layers, since they run Python that is in the file, and modules that are not Keras's.
"""

import io
import os
import pathlib
import zipfile

import h5py
import keras

from keras_dl.files import LARGE, RATIO, FileError, check_zip, parse_json, reading, reason

_WHAT = "a model that Keras can load"
_CURE = "Save the model again, or copy the file again."
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"


def load_model(path: str | os.PathLike, compile: bool = False, trust: bool = False) -> keras.Model:
    """The Keras model in a `.keras` or `.h5` file.

    Args:
        path: str or path.
        compile: bool. Whether the model is compiled as it was saved.
        trust: bool. Whether to load layers that run Python from the file (`keras.layers.Lambda`).

    Returns:
        `keras.Model`.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if the file is damaged or is no model; if it unpacks to far more than its size (see
            `keras_dl.files.check_zip`); or if it has Lambda layers and `trust` is False. A ValueError.

    Example:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/model.keras"
    >>> keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    >>> load_model(path).output_shape
    (None, 1)
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_dir():
        raise FileError(path, "is a folder, not a .keras or .h5 file.")
    if path.suffix == ".keras":
        _check_keras(path)
    elif path.suffix in (".h5", ".hdf5"):
        with reading(path, _WHAT, _CURE), path.open("rb") as file:
            _check_arrays(file, path)
    else:
        raise FileError(path, f"is not {_WHAT}: its name must end with .keras or .h5.")
    try:
        return keras.saving.load_model(path, compile=compile, safe_mode=not trust)
    except Exception as error:  # the constructors that the config names run here, and may raise anything
        raise FileError(path, f"is not {_WHAT}: {_way_out(_without_path(path, reason(error)))}.") from error


def _check_keras(path):
    """Looks at the members of a `.keras` file before Keras unpacks them."""
    with reading(path, _WHAT, _CURE), zipfile.ZipFile(path) as archive:
        check_zip(archive, path)
        parse_json(archive.read(_CONFIG), path, f"{_WHAT}: its {_CONFIG} cannot be read", _CURE)
        damaged = archive.testzip()  # Keras reads weights without the check sums of the zip file
        if damaged:
            raise ValueError(f"its {damaged} is damaged")
        if _WEIGHTS in archive.namelist():
            member = archive.getinfo(_WEIGHTS)
            stored = member.compress_type == zipfile.ZIP_STORED  # else each jump backward unpacks from the start
            with archive.open(member) as file:
                _check_arrays(file if stored else io.BytesIO(file.read()), path)


def _check_arrays(file, path):
    """Refuses arrays of an HDF5 file that unpack to far more than their size, or lie in other files."""
    problems = []  # h5py does not pass on errors of the functions that it calls
    with h5py.File(file, "r") as content:
        content.visititems(lambda name, item: problems.extend(_array_problems(name, item)))
        content.visititems_links(lambda name, link: problems.extend(_link_problems(name, link)))
    if problems:
        raise FileError(path, problems[0])


def _array_problems(name, item):
    if not isinstance(item, h5py.Dataset):
        return
    stored = item.id.get_storage_size()
    if item.external or item.is_virtual:
        yield f"has the array {name!r} in another file, which is not read."
    elif item.nbytes > max(LARGE, RATIO * stored):
        yield (
            f"would unpack {stored:,} bytes to {item.nbytes:,} ({name!r}). At most {RATIO} times its size is unpacked."
        )


def _link_problems(name, link):
    if isinstance(link, h5py.ExternalLink):
        yield f"has {name!r} in another file, {link.filename!r}, which is not read."


def _without_path(path, text):
    return text.replace(f"{path}: ", "").replace(f"filepath={path}", "it")


def _way_out(text):
    """What Keras says of a file that could run Python, with the way out that this package has."""
    refused, found, _ = text.partition("If you trust the source of the artifact")
    if not found:
        return text
    return (
        f"{refused}If you trust the one who made it, load it with keras_dl.loading.load_model(path, trust=True), or "
        "with --trust on the command line"
    )
