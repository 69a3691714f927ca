"""A repair of ARG_MAX and ARG_MIN of an output, which the converter computes in float32.

If the values are an output of the file as well, the converter leaves a DEQUANTIZE in front of these ops, and NPUs
refuse them. The order of integers is that of the numbers that they stand for, so that the index is the same. Here the
ops read the integers.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_OPS = ("ARG_MAX", "ARG_MIN")


def mended(content):
    """A quantized LiteRT file, as bytes, in which these ops read int8. Unchanged if they do."""
    if not (flatbuffer.has_op(content, _OPS) and flatbuffer.has_op(content, ("DEQUANTIZE",))):
        return content
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    codes = {getattr(schema.BuiltinOperator, name) for name in _OPS}
    model, changed = flatbuffer.unpacked(content), False
    for subgraph in model.subgraphs:
        made = {op.outputs[0]: op for op in subgraph.operators if _code(model, op) == schema.BuiltinOperator.DEQUANTIZE}
        for op in subgraph.operators:
            source = made.get(op.inputs[0]) if _code(model, op) in codes else None
            if source is not None and subgraph.tensors[source.inputs[0]].type == schema.TensorType.INT8:
                op.inputs = np.array([source.inputs[0], op.inputs[1]], np.int32)
                op.opcodeIndex = flatbuffer.op_code(model, _name(model, op, schema), 2)  # 2: the first with int8
                changed = True
        read = {index for op in subgraph.operators for index in op.inputs} | set(subgraph.outputs)
        unread = {id(op) for index, op in made.items() if index not in read}
        subgraph.operators = [op for op in subgraph.operators if id(op) not in unread]
    return flatbuffer.packed(model, len(content)) if changed else content


def _code(model, op):
    return model.operatorCodes[op.opcodeIndex].builtinCode


def _name(model, op, schema):
    return next(name for name in _OPS if getattr(schema.BuiltinOperator, name) == _code(model, op))
