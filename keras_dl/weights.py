"""Weights that were trained in torch: their names, axes and checks for a Keras model. Torch itself is not needed.

Torch and Keras store the same weight in different layouts:

    layer                   torch                                Keras
    convolution             weight (out, in, h, w)               kernel (h, w, in, out)
    depthwise convolution   weight (in * multiplier, 1, h, w)    kernel (h, w, in, multiplier)
    transposed convolution  weight (in, out, h, w)               kernel (h, w, out, in)
    dense                   weight (out, in)                     kernel (in, out)
    batch normalization     weight, bias, running_{mean,var}     gamma, beta, moving_{mean,variance}
    layer, group norm       weight, bias                         gamma, beta
    embedding               weight (rows, width)                 embeddings (rows, width)

The first dense layer after a convolution also has its inputs in another order: torch flattens `(channels, height,
width)`, and Keras flattens `(height, width, channels)`. See `flattened` of `load_torch`.
"""

import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import ml_dtypes
import numpy as np

from keras_dl.files import FileError, parse_json, reading

# What a loader of weights takes: arrays by name, or the path of a `.safetensors` file.
Weights = Mapping[str, np.ndarray] | str | os.PathLike

# Entries of torch that a model does not need.
_IGNORED_SUFFIX = "num_batches_tracked"

_TORCH_NAMES = {
    "kernel": "weight",
    "embeddings": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class Entry(NamedTuple):
    """The destination of one array of a checkpoint.

    Attributes:
        variable: the `keras.Variable` that takes the array, or a tuple of those that share it.
        shape: tuple of int. The array's shape in the checkpoint.
        convert: function from an array of that shape to an array of the variable's shape; for a tuple, to a list.
    """

    variable: keras.Variable | tuple[keras.Variable, ...]
    shape: tuple[int, ...]
    convert: Callable


def torch_entries(prefix: str, layer, flattened=None, kernel_axes: int = 0) -> dict[str, Entry]:
    """The checkpoint entries of one built Keras layer.

    Args:
        prefix: str. The module's name in torch, such as `"layer1.0.conv1"`.
        layer: a built Keras layer with weights of its own (convolution, dense, embedding, normalization).
        flattened: None, or the shape `(height, width, channels)` of the maps that were flattened for this dense layer.
        kernel_axes: int. The axes of size 1 that the kernel of a dense layer has at its end in torch, where it is a
            convolution over single places: 1 for `Conv1d`, 2 for `Conv2d`.

    Returns:
        dict of `Entry` by name in the checkpoint.

    Raises:
        ValueError: if a weight of the layer has no counterpart in torch.

    Example:

    >>> dense = keras.layers.Dense(3)
    >>> dense.build((None, 2))
    >>> {name: entry.shape for name, entry in torch_entries("fc", dense).items()}
    {'fc.weight': (3, 2), 'fc.bias': (3,)}
    """
    entries = {}
    for variable in layer.weights:
        if variable.name not in _TORCH_NAMES:
            raise ValueError(f"layer={layer.name!r} has a weight {variable.name!r} without a counterpart in torch.")
        entries[f"{prefix}.{_TORCH_NAMES[variable.name]}"] = _entry(layer, variable, flattened, kernel_axes)
    return entries


def _entry(layer, variable, flattened, kernel_axes):
    shape = tuple(variable.shape)
    if variable.name == "kernel" and isinstance(layer, keras.layers.DepthwiseConv2D):
        height, width, channels, multiplier = shape
        return Entry(
            variable,
            (channels * multiplier, 1, height, width),
            lambda array: array.reshape(channels, multiplier, height, width).transpose(2, 3, 0, 1),
        )
    if variable.name == "kernel" and len(shape) == 4:  # (h, w, in, out), or (h, w, out, in) where transposed
        return Entry(variable, (shape[3], shape[2], *shape[:2]), lambda array: array.transpose(2, 3, 1, 0))
    if variable.name == "kernel" and len(shape) == 2:
        if flattened is None:
            return Entry(variable, (*shape[::-1], *[1] * kernel_axes), lambda array: array.reshape(shape[::-1]).T)
        height, width, channels = flattened

        def reorder(array):
            maps = array.reshape(shape[1], channels, height, width)
            return maps.transpose(2, 3, 1, 0).reshape(shape)

        return Entry(variable, shape[::-1], reorder)
    if variable.name == "kernel":
        raise ValueError(f"layer={layer.name!r} has a kernel of shape {shape}, which is not mapped to torch.")
    return Entry(variable, shape, np.asarray)


def stacked(entries: list[Entry]) -> Entry:
    """The entry of one array that holds several ones, one after the other on its first axis.

    Example:

    >>> layers = [keras.layers.Dense(3), keras.layers.Dense(4)]
    >>> for layer in layers:
    ...     layer.build((None, 2))
    >>> stacked([torch_entries("fc", layer)["fc.weight"] for layer in layers]).shape
    (7, 2)
    """
    ends = np.cumsum([entry.shape[0] for entry in entries])

    def convert(array):
        parts = np.split(array, ends[:-1])
        return [entry.convert(part) for entry, part in zip(entries, parts, strict=True)]

    return Entry(tuple(entry.variable for entry in entries), (int(ends[-1]), *entries[0].shape[1:]), convert)


def load_torch(layers: dict, weights: Weights, flattened: dict | None = None, without: tuple[str, ...] = ()) -> None:
    """Loads a torch checkpoint into Keras layers. It loads all entries or none.

    Args:
        layers: dict of built Keras layers, by the module's name in torch.
        weights: mapping from name to array (`state_dict` with each tensor as NumPy array), or the path of a
            `.safetensors` file. Entries that end in `num_batches_tracked` are ignored.
        flattened: dict of the shapes `(height, width, channels)` of flattened maps, by the names of the dense layers
            that follow them.
        without: as of `load_entries`.

    Raises:
        ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and no layer is
            changed.
    """
    entries = {}
    for prefix, layer in layers.items():
        entries |= torch_entries(prefix, layer, (flattened or {}).get(prefix))
    load_entries(entries, weights, without)


def check_built(layer) -> None:
    """Raises a ValueError if a layer, which is to take weights, has none yet."""
    if not layer.built:
        raise ValueError(f"layer={layer.name!r} must be built before it takes weights: call it once.")


def load_entries(entries: dict[str, Entry], weights: Weights, without: tuple[str, ...] = ()) -> None:
    """Assigns each array of a checkpoint to its variable, after it has checked all of them.

    Args:
        entries: dict of `Entry` by name.
        weights: mapping from name to array, or the path of a `.safetensors` file.
        without: tuple of str. Modules that keep their weights, and are not read if the checkpoint has them.

    Raises:
        ValueError: if entries are missing, unknown or of another shape, as of `load_torch`.
    """
    if not isinstance(weights, Mapping):
        weights = read_safetensors(weights)
    ignored = tuple(f"{module}." for module in without)
    entries = {name: entry for name, entry in entries.items() if not name.startswith(ignored)}
    given = {name for name in weights if not name.endswith(_IGNORED_SUFFIX) and not name.startswith(ignored)}
    wrong = [f"missing: {name} {entry.shape}" for name, entry in entries.items() if name not in given]
    wrong += [f"unknown: {name} {np.shape(weights[name])}" for name in sorted(given - set(entries))]
    wrong += [
        f"of another shape: {name} is {np.shape(weights[name])}, the model takes {entry.shape}"
        for name, entry in entries.items()
        if name in given and np.shape(weights[name]) != entry.shape
    ]
    if wrong:
        raise ValueError(
            f"weights do not fit the model, which was left as it was; {len(wrong)} entries differ:\n  "
            + "\n  ".join(wrong)
        )
    for name, entry in entries.items():
        array = entry.convert(np.asarray(weights[name]))
        if isinstance(entry.variable, tuple):
            for variable, part in zip(entry.variable, array, strict=True):
                variable.assign(part)
        else:
            entry.variable.assign(array)


_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


_CONVERT = (
    "which can run code when it is opened. Convert it where torch is installed: "
    'safetensors.torch.save_file(torch.load(path, weights_only=True), "model.safetensors")'
)
# What other files of weights begin with.
_OTHERS = (
    (b"PK\x03\x04", f"a zip file. A checkpoint of torch (.pth, .pt, .bin) is one around a pickle, {_CONVERT}"),
    (b"\x80", f"a pickle, as old checkpoints of torch are, {_CONVERT}"),
    (b"\x89HDF", "an HDF5 file, as those of Keras are"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run `git lfs pull`"),
)
_MAX_HEADER = 100_000_000  # bytes, as safetensors itself allows


def read_safetensors(path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` file. They are memory-mapped: a tensor is read when it is used.

    The file holds the length of the header in eight bytes, the header (JSON: dtype, shape and place of each tensor),
    and the bytes of the tensors, all little-endian.

    Args:
        path: str or path, of the file or of a folder with `model.safetensors`.

    Returns:
        dict of NumPy arrays by name. bfloat16 is `ml_dtypes.bfloat16`.

    Raises:
        FileError: if the file does not have this format, or has a dtype that is not supported. A ValueError.
        FileNotFoundError: if there is no such file.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        if not (path / "model.safetensors").exists():
            raise FileError(path, "is a folder without model.safetensors. Give the path of one `.safetensors` file.")
        path /= "model.safetensors"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(24)
        header_size = int.from_bytes(start[:8], "little")
        if size < 8 or header_size > min(size - 8, _MAX_HEADER):
            for magic, kind in _OTHERS:
                if start.startswith(magic):
                    raise FileError(path, f"is {kind}. Weights are read from `.safetensors` files.")
            found = f"its header would be {header_size} bytes" if size >= 8 else f"it has {size} bytes"
            raise FileError(path, f"is no safetensors file: {found}.")
        file.seek(8)
        header = file.read(header_size)
    cure = "Download it again."
    header = parse_json(header, path, "a safetensors file: its header cannot be read", cure)
    data = np.memmap(path, "uint8", "r")[8 + header_size :]
    tensors = {}
    for name, row in header.items():
        if name != "__metadata__":
            with reading(path, f"a whole safetensors file: its tensor {name!r} cannot be read", cure):
                tensors[name] = _tensor(path, name, row, data)
    return tensors


def _tensor(path, name, row, data):
    dtype, shape, (start, stop) = row["dtype"], row["shape"], row["data_offsets"]
    if dtype not in _SAFETENSORS_DTYPES:
        raise FileError(path, f"holds a tensor {name!r} of dtype {dtype}, which is not supported.")
    dtype = np.dtype(_SAFETENSORS_DTYPES[dtype])
    if not all(type(size) is int and size >= 0 for size in (*shape, start, stop)):
        raise ValueError(f"shape {shape} and place [{start}, {stop}) must be natural numbers")
    if not start <= stop <= len(data) or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its shape {tuple(shape)} does not fit its bytes [{start}, {stop}) of {len(data)}")
    return data[start:stop].view(dtype).reshape(shape)
