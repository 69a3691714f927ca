"""A repair of biases that several products share in files of int16x8.

The integers of a bias have the scale of the product: that of the input times that of the weights. If a layer is called
several times, as in a recurrence that is written out step by step, each call has its own input and scale. The converter
copies the bias for int8. For int16x8 it quantizes the one bias by the scale of its first product, and the others read
its integers by their own scales: they added up to 2.5 times the bias. Stacked recurrent cells had a cosine similarity
of 0.93.
"""

import copy

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_OPS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")  # their inputs are values, weights, and a bias
_TOLERANCE = 1e-4  # of the ratio of two scales, which float32 rounds by 1e-7


def mended(content):
    """A LiteRT file, as bytes, in which each product has a bias of its scale. Unchanged if each has."""
    if not flatbuffer.has_op(content, _OPS):
        return content
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    codes = {getattr(schema.BuiltinOperator, name) for name in _OPS}
    model, changed = flatbuffer.unpacked(content), False
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            if model.operatorCodes[op.opcodeIndex].builtinCode in codes and len(op.inputs) > 2 and op.inputs[2] >= 0:
                changed |= _rescale(model, subgraph, op, schema)
    return flatbuffer.packed(model, len(content)) if changed else content


def _rescale(model, subgraph, op, schema):
    """Gives an op a copy of its bias if its scale is that of another op. Returns whether it is."""
    values, weights, bias = (subgraph.tensors[index] for index in op.inputs[:3])
    scales = [None if x.quantization is None else x.quantization.scale for x in (values, weights, bias)]
    if bias.type != schema.TensorType.INT64 or any(x is None or len(x) == 0 for x in scales):
        return False
    right = np.float32(scales[0] * scales[1])
    ratio = scales[2].astype("float64") / right
    if np.all(np.abs(ratio - 1) <= _TOLERANCE):
        return False
    integers = np.rint(np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int64) * ratio).astype(np.int64)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(integers.tobytes(), np.uint8)
    model.buffers.append(buffer)
    own = copy.copy(bias)
    own.name, own.buffer = bias.name + b"/%d" % len(subgraph.tensors), len(model.buffers) - 1
    own.quantization = copy.copy(bias.quantization)
    own.quantization.scale = np.broadcast_to(right, scales[2].shape).copy()
    subgraph.tensors.append(own)
    op.inputs = np.array([*op.inputs[:2], len(subgraph.tensors) - 1, *op.inputs[3:]], np.int32)
    return True
