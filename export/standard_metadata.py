"""TensorFlow Lite's own metadata, which MediaPipe and Android read: names of tensors, pixels, and files of labels.

The metadata is a flatbuffer of its own, with the identifier `M001`, in the buffer `TFLITE_METADATA` of the file. The
files that it names are in a zip archive behind the file, which runtimes do not read. The numbers of the fields are
those of `metadata_schema.fbs` of TFLite Support. (MediaPipe's wheel 1.2.3 has a writer that cannot be imported.)

MediaPipe gives pixels to an input, and names to a result, only as this metadata says: without labels, `category_name`
is None; without `mean` and `std`, an input of floats is refused.
"""

import dataclasses
import io
import re
import zipfile

import numpy as np

from keras_dl.export import graph
from keras_dl.export.metadata import into_litert, with_integers
from keras_dl.export.names import shortened
from keras_dl.extras import require
from keras_dl.files import check_zip, reading

NAME = "TFLITE_METADATA"
LABELS = "labels.txt"
_VERSION = "1.0.0"  # of the readers; the first has all that is written here
_AXIS, _VALUES = 2, 3  # kinds of label files: one label for each place on the last axis, and one for each number
_IMAGE, _NORMALIZATION = 2, 1  # of the unions ContentProperties and ProcessUnitOptions
_COLORS = {3: 1, 1: 2}  # RGB, GRAYSCALE
_RANGE = re.compile(r"\[\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\]")


@dataclasses.dataclass
class _Table:
    """A table of a flatbuffer, by the numbers of its fields. Scalars are NumPy's, which have a size."""

    fields: dict


def with_metadata(content, signatures, metadata, own, name):
    """A converted file, as bytes, with short inner names, keras_dl's metadata, TFLite's, and its label file.

    Args:
        content: bytes.
        signatures, metadata, name: as `encoded` takes them.
        own: dict. What keras_dl itself says of the file.
    """
    parsed = graph.parse(content)
    document = with_integers({**metadata, "keras_dl": own}, parsed.signatures)
    others = [(NAME, encoded(parsed, signatures, metadata, name))]
    return with_files(into_litert(shortened(content), document, others), document)


def encoded(file, signatures, metadata, name):
    """The metadata of a LiteRT file: bytes.

    Args:
        file: `keras_dl.export.graph.Graph`.
        signatures: dict of `keras_dl.Signature` by name: what the model serves.
        metadata: dict, as given to `export`. `labels` and `input_range` are read.
        name: str. The name of the model.
    """
    labels, by_index = _labels(metadata), {x.subgraph: name for name, x in file.signatures.items()}
    subgraphs = []
    for index in range(max(by_index, default=-1) + 1):
        subgraph, served = file.subgraphs[index], signatures.get(by_index.get(index))
        inputs = [_input(x, served, metadata) for x in subgraph.inputs]
        outputs = [_output(x, served, labels) for x in subgraph.outputs]
        subgraphs.append(_Table({0: by_index.get(index, subgraph.name), 2: inputs, 3: outputs}))
    builder = require("flatbuffers", extra="export").Builder(1024)
    builder.Finish(_write(builder, _Table({0: name, 3: subgraphs, 7: _VERSION})), file_identifier=b"M001")
    return bytes(builder.Output())


def with_files(content, metadata):
    """A LiteRT file, as bytes, with a zip archive of its label file behind it. Unchanged if there are no labels."""
    if not (labels := _labels(metadata)):
        return content
    archive = io.BytesIO(content)
    with zipfile.ZipFile(archive, "a") as zipped:  # stored, since readers map the file; of one date, to be repeatable
        zipped.writestr(zipfile.ZipInfo(LABELS), "".join(f"{label}\n" for label in labels))
    return archive.getvalue()


def labels_in(path):
    """The labels in the label file of a LiteRT file, also of another exporter: list of str; empty if it has none.

    Raises:
        FileError: if the archive is damaged, or would unpack to far more than its size.
    """
    if not zipfile.is_zipfile(path):
        return []
    with reading(path, "a LiteRT file with labels", "Export it again."), zipfile.ZipFile(path) as zipped:
        check_zip(zipped, path)
        names = [name for name in zipped.namelist() if name == LABELS]
        return zipped.read(names[0]).decode().splitlines() if names else []


def pixel_scale(metadata):
    """`(mean, std)` by which an input takes pixels from 0 to 255, as `(pixel - mean) / std`.

    Args:
        metadata: dict. Its `input_range` has two numbers in brackets, such as `"[-1, 1]"`.

    Returns:
        two floats, or None if the range is not said.

    Example:

    >>> pixel_scale({"input_range": "[-1, 1]"})
    (127.5, 127.5)
    """
    found = _RANGE.search(str(metadata.get("input_range")))
    low, high = (float(end) for end in found.groups()) if found else (0.0, 0.0)
    return None if low >= high else ((0.0 - low) * 255 / (high - low), 255 / (high - low))


def image_input(signature, name):
    """Whether an input of a signature takes images: uint8 or floats `(batch, height, width, 1 or 3)`, and no others."""
    if len(signature.inputs) != 1:
        return False
    x = signature.inputs[name]
    return len(x.shape) == 4 and x.shape[-1] in _COLORS and str(x.dtype) in ("uint8", "float32")


def _labels(metadata):
    labels = metadata.get("labels")
    labels = labels if isinstance(labels, list | tuple) else []
    return [" ".join(str(label).split()) for label in labels]  # one line each


def _input(tensor, served, metadata):
    if served is None or tensor.public not in served.inputs:
        return _Table({0: tensor.public or tensor.name})
    x = served.inputs[tensor.public]
    # What a signature takes as uint8 is pixels as they are, also where floats stand for them.
    scale = (0.0, 1.0) if str(x.dtype) == "uint8" else pixel_scale(metadata)
    if scale is None or not image_input(served, tensor.public):
        return _Table({0: tensor.public})
    height, width, channels = x.shape[1:]
    size = _Table({0: np.uint32(width), 1: np.uint32(height)})
    image = _Table({0: np.uint8(_COLORS[channels]), 1: size})
    mean, std = ([np.float32(value)] for value in scale)
    unit = _Table({0: np.uint8(_NORMALIZATION), 1: _Table({0: mean, 1: std})})
    return _Table({0: tensor.public, 3: _Table({0: np.uint8(_IMAGE), 1: image}), 4: [unit]})


def _output(tensor, served, labels):
    kind = None
    if labels and tensor.public and tensor.shape:
        if served is not None and served.detections and tensor.public == "classes":
            kind = _VALUES
        elif len(tensor.shape) > 1 and tensor.shape[-1] == len(labels):
            kind = _AXIS
    file = _Table({0: LABELS, 1: "The names of the classes.", 2: np.uint8(kind or 0)})
    return _Table({0: tensor.public or tensor.name, 6: [file] if kind else None})


def _write(builder, value):
    """Writes a table, a str or a list, and returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list):
        numbers = bool(value) and isinstance(value[0], np.float32)
        entries = value if numbers else [_write(builder, entry) for entry in value]
        builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            builder.PrependFloat32(entry) if numbers else builder.PrependUOffsetTRelative(entry)
        return builder.EndVector()
    fields = {slot: x for slot, x in value.fields.items() if x is not None}
    offsets = {slot: _write(builder, x) for slot, x in fields.items() if not isinstance(x, np.generic)}
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, x in fields.items():
        match x:
            case np.uint8():
                builder.PrependUint8Slot(slot, int(x), 0)
            case np.uint32():
                builder.PrependUint32Slot(slot, int(x), 0)
            case _:
                builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
    return builder.EndObject()
