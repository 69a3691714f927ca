"""Reads the contents of an exported file without running it."""

import collections
import os
import pathlib

from keras_dl.export import graph, metadata
from keras_dl.export.runners import LiteRTRunner, OnnxRunner, SavedModelRunner, file_format
from keras_dl.extras import require

_ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def inspect(path: str | os.PathLike, trust: bool = False) -> dict:
    """Reads a file's ops, signatures and metadata.

    Args:
        path: str or path of a `.tflite` or `.onnx` file, or of a SavedModel's folder, from any exporter.
        trust: bool. As `keras_dl.export.load` takes it: False for files that others may have made or changed.

    Returns:
        dict that JSON can hold: `path, format, bytes`; `ops`, a histogram; `flex_ops` and `custom_ops`, the
        numbers of ops that need TensorFlow's runtime, or a kernel of the application; `signatures`, each with `inputs`
        and `outputs` as `{"shape", "dtype"}`, and `"scale"` and `"zero_point"` where quantized; `tensors`, counts by
        dtype of `constants` and `activations` (LiteRT only); `metadata`, as given to `export`, else empty.

    Raises:
        FileNotFoundError: if the path does not exist.
        FileError: if it is not such a file, is damaged, or is refused without `trust`. A ValueError.
        ImportError: if the runtime of its format is missing.
    """
    path = pathlib.Path(path)
    read = {"litert": _litert, "onnx": _onnx, "saved_model": _saved_model}
    format = file_format(path)
    return {"path": str(path), "format": format, "bytes": size(path), **read[format](path, trust)}


def size(path: str | os.PathLike) -> int:
    """Bytes of a file, or of all files in a folder."""
    path = pathlib.Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _litert(path, trust):
    # LiteRT's own loader comes first, because it checks the offsets of the flatbuffer.
    signatures = LiteRTRunner(path, trust=trust).signatures
    file = graph.read(path)
    constants, activations = collections.Counter(), collections.Counter()
    for subgraph in file.subgraphs:
        read = {id(x): x for op in subgraph.ops for x in op.inputs if x is not None and x.constant}
        made = {id(x): x for op in subgraph.ops for x in op.outputs} | {id(x): x for x in subgraph.inputs}
        constants.update(x.dtype for x in read.values())
        activations.update(x.dtype for x in made.values())
    flex = [op for op in file.ops if op.custom and op.name.startswith("Flex")]
    return {
        "ops": _histogram(op.name for op in file.ops),
        "flex_ops": len(flex),
        "custom_ops": sum(op.custom for op in file.ops) - len(flex),
        "signatures": signatures,
        "tensors": {"constants": dict(constants), "activations": dict(activations)},
        "metadata": metadata.from_litert(path.read_bytes(), path),
    }


def _onnx(path, trust):
    from keras_dl.export.onnx import nodes as onnx_nodes

    runner = OnnxRunner(path)
    onnx = require("onnx", extra="export")
    proto = onnx.load(str(path))
    nodes = list(onnx_nodes(proto.graph))
    return {
        "ops": _histogram(node.op_type for node in nodes),
        "flex_ops": 0,
        "custom_ops": sum(node.domain not in _ONNX_DOMAINS for node in nodes),
        "signatures": runner.signatures,
        "tensors": {},
        "metadata": metadata.from_onnx({x.key: x.value for x in proto.metadata_props}, path),
    }


def _saved_model(path, trust):
    runner = SavedModelRunner(path, trust)
    return {
        "ops": _histogram(op for name in runner.signatures for op in runner.ops(name)),
        "flex_ops": 0,
        "custom_ops": 0,
        "signatures": runner.signatures,
        "tensors": {},
        "metadata": metadata.from_saved_model(path),
    }


def _histogram(names):
    counts = collections.Counter(names)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
