"""The metadata inside a file: a JSON document under the name `keras_dl`."""

import json
import pathlib

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require
from keras_dl.files import parse_json, read_json, reading

NAME = "keras_dl"
LEARNING = ("train", "save", "restore")  # signatures of a file that learns; the document of such a file has `training`
_CURE = "Export the model again."


def encode(metadata):
    """The document as bytes.

    Raises:
        TypeError: if `metadata` is not a dict, or JSON cannot hold it.
    """
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata must be a dict, not {type(metadata).__name__}.")
    try:
        return json.dumps(metadata, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must be what JSON can hold: {error}") from error


def check_labels(metadata, outputs):
    """Refuses `labels` that cannot be the names of a model's classes.

    They can if an output has as many values in its last axis, or holds integers, which may be indices. The two labels
    of a single probability are right too.

    Args:
        metadata: dict, or None.
        outputs: list of `(shape, dtype)`, a sequence of int and a str for each output. The dtype
            of what is quantized is that of the real values.

    Raises:
        ValueError: if there are labels, and another number of classes.
    """
    labels = (metadata or {}).get("labels")
    if not isinstance(labels, list | tuple) or not labels:
        return
    if any(dtype.startswith(("int", "uint")) for _, dtype in outputs):
        return
    sizes = sorted({shape[-1] if len(shape) > 1 else 1 for shape, _ in outputs})
    if len(labels) in sizes or (len(labels) == 2 and 1 in sizes):
        return
    raise ValueError(
        f"metadata has {len(labels)} labels, and the outputs have {', '.join(map(str, sizes))} values in their last "
        "axis. Give one label for each class, or names of something else by another key than 'labels'."
    )


def with_integers(metadata, signatures):
    """The document of a file, and how its integer inputs mean real values.

    `input_range` is that of the real values, which the model takes. An integer file takes others, of another dtype.

    Args:
        metadata: dict.
        signatures: dict of `keras_dl.export.graph.Signature` by name.

    Returns:
        dict: if the file has quantized inputs, with `integer_inputs`: by signature and input the `dtype`, `scale` and
        `zero_point`, where the real value is `scale * (integer - zero_point)`.
    """
    inputs = {
        name: {
            key: {"dtype": x.dtype, "scale": x.scales[0], "zero_point": x.zero_points[0]}
            for key, x in signature.inputs.items()
            if x.scales
        }
        for name, signature in signatures.items()
    }
    if not any(inputs.values()):
        return metadata
    meaning = "real value = scale * (integer - zero_point)"
    changed = metadata | {"integer_inputs": {"meaning": meaning} | inputs}
    if isinstance(text := metadata.get("input_range"), str):
        changed["input_range"] = f"real values: {text}; the file takes them as integers, see integer_inputs"
    return changed


def into_litert(content, metadata, others=()):
    """A LiteRT flatbuffer with `metadata` in a metadata buffer named `keras_dl`.

    Args:
        content: bytes.
        metadata: dict.
        others: pairs of the name (str) and the bytes of further metadata buffers.

    Returns:
        bytes. The data of tensors is aligned to 16 bytes. The schema asks for this (`force_align: 16`), and the kernels
        of microcontrollers need it.
    """
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    model = flatbuffer.unpacked(content)
    for name, data in ((NAME, encode(metadata)), *others):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [x for x in model.metadata or [] if x.name != name.encode()] + [entry]
    return flatbuffer.packed(model, len(content))


def from_litert(content, path="file"):
    """The metadata of a LiteRT flatbuffer, or an empty dict if it has none of keras_dl.

    Args:
        content: bytes.
        path: the name of the file in errors.

    Raises:
        FileError: if it is damaged.
    """
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    with reading(path, "a whole LiteRT file", _CURE):
        model = schema.Model.GetRootAs(content, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == NAME.encode():
                return _read(np.asarray(model.Buffers(entry.Buffer()).DataAsNumpy()).tobytes(), path)
    return {}


def into_saved_model(folder, metadata):
    """Writes `assets.extra/keras_dl.json`. TensorFlow leaves this folder to users."""
    path = pathlib.Path(folder) / "assets.extra" / f"{NAME}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(metadata))


def from_saved_model(folder):
    """The metadata of a SavedModel's folder, or an empty dict if it has none of keras_dl. FileError if damaged."""
    path = pathlib.Path(folder) / "assets.extra" / f"{NAME}.json"
    return read_json(path, "the metadata of a file", _CURE) if path.exists() else {}


def from_onnx(properties, path="file"):
    """The metadata among an ONNX file's `metadata_props`, given as a dict of str. FileError if damaged."""
    return _read(properties.get(NAME, "{}"), path)


def _read(text, path):
    return parse_json(text, path, "a whole file: its metadata cannot be read", _CURE)
