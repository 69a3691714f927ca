"""A repair of sums in files of int16x8.

The converter gives a SUM of 16 bits the scale of its terms, which a sum leaves: those of `AdditiveAttention` were cut
off at a tenth of their range, and the cosine similarity was 0.93. Here the float file, before its calibration, has a
MEAN and its product with the number of terms. The converter gives each of these a scale of its own.
"""

import math

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require


def as_means(content):
    """A float LiteRT file, as bytes, with such means for its sums. Unchanged without sums."""
    if not flatbuffer.has_op(content, ("SUM",)):
        return content
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    model = flatbuffer.unpacked(content)
    for subgraph in model.subgraphs:
        operators = []
        for op in subgraph.operators:
            operators.append(op)
            is_sum = model.operatorCodes[op.opcodeIndex].builtinCode == schema.BuiltinOperator.SUM
            if is_sum and subgraph.tensors[op.outputs[0]].type == schema.TensorType.FLOAT32:
                operators.append(_product(model, subgraph, op, schema))
        subgraph.operators = operators
    return flatbuffer.packed(model, len(content))


def _product(model, subgraph, op, schema):
    """Makes a SUM a MEAN that writes a new tensor. The op that makes the sum of it."""
    terms, total = (subgraph.tensors[index] for index in (op.inputs[0], op.outputs[0]))
    number = math.prod(terms.shape) // math.prod(total.shape)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.float32(number).tobytes(), np.uint8)
    model.buffers.append(buffer)
    count, mean = schema.TensorT(), schema.TensorT()
    count.name, count.type, count.buffer = total.name + b"/count", total.type, len(model.buffers) - 1
    count.shape, count.hasRank = np.array([], np.int32), True
    mean.name, mean.type, mean.hasRank = total.name + b"/mean", total.type, total.hasRank
    mean.shape, mean.shapeSignature = total.shape, total.shapeSignature
    size = len(subgraph.tensors)
    subgraph.tensors += [count, mean]
    product = schema.OperatorT()
    product.opcodeIndex = flatbuffer.op_code(model, "MUL")
    product.inputs, product.outputs = np.array([size + 1, size], np.int32), op.outputs
    product.builtinOptionsType, product.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    op.opcodeIndex, op.outputs = flatbuffer.op_code(model, "MEAN"), np.array([size + 1], np.int32)
    return product
