"""A repair of averages before concatenations, which the converter quantizes by the wrong range.

The inputs and the output of an integer CONCATENATION have one scale. So have those of AVERAGE_POOL_2D and
RESIZE_BILINEAR. The converter gives the scale of the concatenation to a pool before it, and to the input of the pool,
whose range is larger: averages are smaller than what they are averages of. That input is cut off. An adaptive pooling,
which is a concatenation of averages, had an R2 of 0.91.

Here an op between the two lets each have a scale of its own: in the float file a product with 1, for which the
calibration finds the range of the averages, and in the integer file a QUANTIZE.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_NAME = b"/rescaled"
_AVERAGES = ("AVERAGE_POOL_2D", "RESIZE_BILINEAR")
_JOINS = ("CONCATENATION", "PACK")
# Ops that keep the scale of their input.
_MOVES = ("GATHER", "MAX_POOL_2D", "PAD", "RESHAPE", "SLICE", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE")


def separated(content):
    """A float LiteRT file, as bytes, with a product between averages and concatenations. Unchanged without them."""
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    if not (flatbuffer.has_op(content, _AVERAGES) and flatbuffer.has_op(content, _JOINS)):
        return content
    model = flatbuffer.unpacked(content)
    changed = [_separate(model, subgraph, schema) for subgraph in model.subgraphs]
    return flatbuffer.packed(model, len(content)) if any(changed) else content


def requantized(content):
    """A quantized LiteRT file, as bytes, in which those products are QUANTIZE ops. Unchanged without them."""
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    if not any(tensor.Name().endswith(_NAME) for tensor in flatbuffer.tensors(content)):
        return content
    model = flatbuffer.unpacked(content)
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            tensors = subgraph.tensors
            if _name(model, op, schema) != "MUL" or not tensors[op.outputs[0]].name.endswith(_NAME):
                continue
            if tensors[op.outputs[0]].type == tensors[op.inputs[0]].type != schema.TensorType.FLOAT32:
                op.opcodeIndex, op.inputs = flatbuffer.op_code(model, "QUANTIZE", 2), op.inputs[:1]
                op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.NONE, None
    return flatbuffer.packed(model, len(content))


def _separate(model, subgraph, schema):
    """Adds the products to one subgraph, and returns whether there are any."""
    makers = {index: op for op in subgraph.operators for index in op.outputs}
    products = {}  # by the average, a tensor's index: the product's

    def apart(index):
        """Puts a product behind each average that reaches tensor `index` through moves. The index to read instead."""
        op = makers.get(index)
        name = None if op is None else _name(model, op, schema)
        if name in _AVERAGES:
            if index not in products:
                products[index] = _product(model, subgraph, index, schema)
            return products[index][0]
        if name in _MOVES:
            op.inputs = np.array([apart(op.inputs[0]), *op.inputs[1:]], np.int32)
        return index

    for op in subgraph.operators:
        if _name(model, op, schema) in _JOINS:
            op.inputs = np.array([apart(index) for index in op.inputs], np.int32)
    operators = []
    for op in subgraph.operators:
        operators += [op, *(products[index][1] for index in op.outputs if index in products)]
    subgraph.operators = operators
    return bool(products)


def _product(model, subgraph, index, schema):
    """The index of a new tensor, and the op that computes it: the tensor of `index` times 1."""
    one = schema.TensorT()
    # The converter leaves out a product with 1 itself. This is the next number.
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.nextafter(np.float32(1), np.float32(2)).tobytes(), np.uint8)
    model.buffers.append(buffer)
    average = subgraph.tensors[index]
    one.name, one.shape, one.hasRank = average.name + b"/one", np.array([], np.int32), True
    one.type, one.buffer = average.type, len(model.buffers) - 1
    product = schema.TensorT()
    product.name, product.type, product.hasRank = average.name + _NAME, average.type, average.hasRank
    product.shape, product.shapeSignature = average.shape, average.shapeSignature
    subgraph.tensors += [one, product]
    op = schema.OperatorT()
    op.opcodeIndex = flatbuffer.op_code(model, "MUL")
    count = len(subgraph.tensors)
    op.inputs, op.outputs = np.array([index, count - 2], np.int32), np.array([count - 1], np.int32)
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    return count - 1, op


def _name(model, op, schema):
    code = model.operatorCodes[op.opcodeIndex].builtinCode
    for name in (*_AVERAGES, *_JOINS, *_MOVES, "MUL"):
        if getattr(schema.BuiltinOperator, name) == code:
            return name
    return None
