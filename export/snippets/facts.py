"""What a snippet says of a file: its entry points, with names that every language allows, and its labels."""

import dataclasses
import json
import keyword
import math
import pathlib
import re

from keras_dl.export import graph, metadata, standard_metadata
from keras_dl.export.targets.c_array import identifier
from keras_dl.files import FileError

# Words of the four languages that no name may be, and the names that snippets use themselves.
_RESERVED = """
    abstract alignas arena arguments arrays async auto await bool boolean byte catch char class const constexpr context
    delete dequantize do double enum eval explicit export extends extern false final float found fun function goto i
    image import in init inline int interface interpreter it label labels LABELS let load long main MODEL model mutable
    namespace native new np null operator outputs package private protected public quantize register results return
    short signed sizeof static std struct super switch sys template tensor this throw true try typealias typename typeof
    union unsigned using val value values var virtual void volatile wasm when with yield
"""
_NAMES = frozenset(_RESERVED.split()) | frozenset(keyword.kwlist)


@dataclasses.dataclass(frozen=True)
class Value:
    """An input or output of an entry point.

    Attributes:
        name: str. Its name in the file.
        identifier: str. A name for it in code.
        index: int. Its place among those of the subgraph.
        dtype: str. That of the file: `"int8"`, `"float32"`, ...
        shape: tuple of int.
        scale, zero_point: of integers that stand for real values, else None.
        takes: str. What the metadata says of the range of an input; may be empty.
    """

    name: str
    identifier: str
    index: int
    dtype: str
    shape: tuple
    scale: float | None
    zero_point: int | None
    takes: str = ""

    @property
    def size(self):
        """int. The number of its elements."""
        return math.prod(self.shape)

    @property
    def described(self):
        """str. What it holds, for a comment."""
        shape = ", ".join(map(str, self.shape)) + "," * (len(self.shape) == 1)
        takes = f", {plain(self.takes)}" if self.takes else ""
        return f"{'real values' if self.scale is not None else self.dtype} ({shape}){takes}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A signature of the file.

    Attributes:
        name, identifier: str, as of a `Value`.
        first: bool. Whether it is the first subgraph, the one that tflite-micro runs.
        inputs, outputs: lists of `Value`.
        classes: the output whose last axis has a place for each label; None without one.
    """

    name: str
    identifier: str
    first: bool
    inputs: list[Value]
    outputs: list[Value]
    classes: Value | None


@dataclasses.dataclass(frozen=True)
class Facts:
    """A LiteRT file.

    Attributes:
        path: path of the file.
        entries: list of `Entry`; one with `classes` is the first, and those that only learn are the last.
        labels: list of str.
        pixels: `(mean, std)` of the first entry's one input, if that takes pictures; else None.
        stateful: bool. Whether a call continues from the last one, unless variables are reset.
    """

    path: pathlib.Path
    entries: list[Entry]
    labels: list[str]
    pixels: tuple | None
    stateful: bool

    @property
    def file(self):
        """str. The name of the file."""
        return self.path.name

    @property
    def stem(self):
        """str. The name of the file without its suffix."""
        return self.path.stem

    @property
    def values(self):
        """list of `Value`: all inputs and outputs."""
        return [value for entry in self.entries for value in (*entry.inputs, *entry.outputs)]

    def check(self, dtypes, runtime, cure):
        """Raises a ValueError if a value has another dtype than the runtime of a language has."""
        for entry in self.entries:
            for value in (*entry.inputs, *entry.outputs):
                if value.dtype not in dtypes:
                    raise ValueError(
                        f"{self.path}: {runtime} has no {value.dtype}, which {value.name!r} of signature "
                        f"{entry.name!r} is; it has {', '.join(dtypes)}. {cure}"
                    )


def read(path):
    """The `Facts` of a LiteRT file.

    Raises:
        FileError: if it is no such file, or has no signature, or one with sizes that are only known at run time.
    """
    path = pathlib.Path(path)
    file, document = graph.read(path), metadata.from_litert(path.read_bytes(), path)
    if not file.signatures:
        raise FileError(path, "has no signature, whose names a snippet would need. Export it with keras_dl.")
    labels = document.get("labels") or standard_metadata.labels_in(path)
    labels = [str(label) for label in labels] if isinstance(labels, list) else []
    names = _identifiers(file.signatures)
    entries = [_entry(path, file, name, names[name], labels) for name in file.signatures]
    own = document.get(metadata.NAME)
    learning = metadata.LEARNING if isinstance(own, dict) and "training" in own else ()
    entries.sort(key=lambda entry: (entry.classes is None, entry.name in learning))
    entries = _with_ranges(entries, document.get("input_range"))
    return Facts(
        path=path,
        entries=entries,
        labels=labels if entries[0].classes else [],
        pixels=_pixels(entries[0], document),
        stateful=bool(file.stateful),
    )


def _with_ranges(entries, text):
    """Entries with the range that the metadata says of the inputs of the first one. States and weights have none."""
    if not isinstance(text, str):
        return entries
    takes, known = text.partition(";")[0].removeprefix("real values: "), {x.name for x in entries[0].inputs}
    return [
        dataclasses.replace(
            entry, inputs=[dataclasses.replace(x, takes=takes) if x.name in known else x for x in entry.inputs]
        )
        for entry in entries
    ]


def _entry(path, file, name, own, labels):
    signature = file.signatures[name]
    subgraph, sides = file.subgraphs[signature.subgraph], []
    names = _identifiers([*signature.inputs, *signature.outputs])
    for tensors, places in ((signature.inputs, subgraph.inputs), (signature.outputs, subgraph.outputs)):
        values = []
        for key, x in tensors.items():
            if x.dynamic:
                raise FileError(path, f"has {key!r} of shape {x.shape}; a snippet needs sizes that are fixed.")
            index = next(i for i, other in enumerate(places) if other is x)
            scale, zero = (x.scales[0], x.zero_points[0]) if x.scales else (None, None)
            values.append(Value(key, names[key], index, x.dtype, x.shape, scale, zero))
        sides.append(sorted(values, key=lambda value: value.name))  # converters order them anew each time
    classes = [x for x in sides[1] if labels and len(x.shape) == 2 and x.shape[-1] == len(labels) and _is_real(x)]
    return Entry(name, own, signature.subgraph == 0, *sides, classes[0] if classes else None)


def _is_real(value):
    return value.scale is not None or value.dtype == "float32"


def _pixels(entry, document):
    """`(mean, std)` of an input of pictures with a known range."""
    if len(entry.inputs) != 1 or len(entry.inputs[0].shape) != 4 or entry.inputs[0].shape[0] != 1:
        return None
    return standard_metadata.pixel_scale(document) if entry.inputs[0].shape[-1] in (1, 3) else None


def _identifiers(names):
    """Names for code, each by a name of the file, all different."""
    found = {}
    for name in names:
        base = identifier(name)
        base = f"{base}_" if base in _NAMES else base
        free = (base, *(f"{base}_{number}" for number in range(2, len(names) + 2)))
        found[name] = next(text for text in free if text not in found.values())
    return found


def camel(name):
    """A name for a class: `"cnn-int8"` becomes `"CnnInt8"`."""
    return "".join(part[:1].upper() + part[1:] for part in identifier(name).split("_"))


def plain(text):
    """Text of a file for a comment, which it must not end."""
    return re.sub(r"[^\w .,:;()\[\]<>=+-]", "?", text, flags=re.ASCII)


def quoted(text):
    """A literal of JavaScript, of a str or a list of them."""
    return json.dumps(text)
