"""The dtype of the inputs and outputs of an integer file.

The integers inside are the same, so that outputs of `uint8` are those of `int8` plus 128, and outputs of `float32`
their real values. Runtimes differ in what they take: MediaPipe Tasks `uint8` and `float32`, LiteRT.js `float32`.

The converter can do this, too. Here one way serves all files, also those with float layers, which another function of
TensorFlow quantizes.
"""

import copy

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

# By quantization, what `io` may be. The first is that of the file as it was quantized.
IO = {"int8": ("int8", "uint8", "float32"), "int16x8": ("int16", "float32")}
_ZERO = 128  # of uint8, beside the 0 of int8
_VERSIONS = {"int8": 2, "int16": 3}  # the first of QUANTIZE and of DEQUANTIZE with such integers


def check_io(io, quantization):
    """Refuses an `io` that does not fit a quantization.

    Raises:
        ValueError: if it is not one of those that the quantization has. None always is.
    """
    if io is not None and io not in IO.get(quantization, ()):
        allowed = "; ".join(f"{_either(names)} with quantization={name!r}" for name, names in IO.items())
        raise ValueError(
            f"io={io!r} does not fit quantization={quantization!r}. It is the dtype of the inputs and outputs of "
            f"integer files: {allowed}."
        )


def with_io(content, io):
    """An integer LiteRT file, as bytes, whose quantized inputs and outputs have another dtype.

    Args:
        content: bytes of an `int8` or `int16x8` file.
        io: str as `IO` has it, or None. Returned unchanged if the file has this dtype.
    """
    if io is None:
        return content
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    model, changed = flatbuffer.unpacked(content), False
    for signature in model.signatureDefs or ():
        subgraph = model.subgraphs[signature.subgraphIndex]
        inputs, before = _outside(model, subgraph, subgraph.inputs, io, schema, reads=False)
        outputs, after = _outside(model, subgraph, subgraph.outputs, io, schema, reads=True)
        subgraph.operators = [*before, *subgraph.operators, *after]
        for field, entries, new in (("inputs", signature.inputs, inputs), ("outputs", signature.outputs, outputs)):
            indices = [new.get(index, index) for index in getattr(subgraph, field)]
            setattr(subgraph, field, np.array(indices, np.int32))
            for entry in entries or ():
                entry.tensorIndex = new.get(entry.tensorIndex, entry.tensorIndex)
        changed = changed or bool(before or after)
    return flatbuffer.packed(model, len(content)) if changed else content


def _outside(model, subgraph, indices, io, schema, reads):
    """The tensors that take the place of quantized inputs or outputs, and the ops in between.

    Args:
        reads: bool. Whether the new tensors are made of the old ones, as outputs are.

    Returns:
        dict of the new tensors' indices by those of the old, and a list of ops.
    """
    integers = {schema.TensorType.INT8: "int8", schema.TensorType.INT16: "int16"}
    new, ops = {}, []
    for index in dict.fromkeys(int(index) for index in indices):
        inner = subgraph.tensors[index]
        dtype, quantization = integers.get(inner.type), inner.quantization
        if dtype in (None, io) or quantization is None or quantization.scale is None:
            continue
        outer = copy.copy(inner)
        outer.type, outer.buffer = getattr(schema.TensorType, io.upper()), 0
        outer.quantization = None if io == "float32" else copy.copy(quantization)
        if io != "float32":
            outer.quantization.zeroPoint = quantization.zeroPoint + _ZERO
        inner.name = inner.name + b";" + dtype.encode()
        new[index] = len(subgraph.tensors)
        subgraph.tensors.append(outer)
        op = schema.OperatorT()
        name = "DEQUANTIZE" if reads and io == "float32" else "QUANTIZE"
        op.opcodeIndex = flatbuffer.op_code(model, name, _VERSIONS[dtype])
        ends = (index, new[index]) if reads else (new[index], index)
        op.inputs, op.outputs = (np.array([end], np.int32) for end in ends)
        ops.append(op)
    return new, ops


def steps(file):
    """The real size of a step of the integers that outputs come from.

    Args:
        file: `keras_dl.export.graph.Graph`.

    Returns:
        dict by signature of dicts by output of float, or None for an output that comes from no integers.
    """
    read = {id(op.outputs[0]): op.inputs[0] for op in file.ops if op.name == "DEQUANTIZE"}
    found = {}
    for name, signature in file.signatures.items():
        integers = {key: read.get(id(x), x) for key, x in signature.outputs.items()}
        found[name] = {key: x.scales[0] if x.scales else None for key, x in integers.items()}
    return found


def _either(names):
    return f"{', '.join(names[:-1])} or {names[-1]}"
