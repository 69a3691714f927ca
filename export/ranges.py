"""A repair of tensors that the converter quantizes by the range of another tensor.

The inputs and outputs of some integer ops have one scale. The converter may take it from the output, whose range is
smaller, and cuts off the input:

- An integer CONCATENATION has one scale, and so have AVERAGE_POOL_2D and RESIZE_BILINEAR. A pool before a concatenation
  gets its scale, and so does the input of the pool: averages are smaller than what they are averages of. An adaptive
  pooling, which is a concatenation of averages, had an R2 of 0.91.
- MINIMUM, MAXIMUM and SELECT do not need what they cut off. Other readers of their inputs do: for
  `max(x, 0) + min(exp(x) - 1, 0)`, which is `celu`, all x above 0 were 0, and the cosine similarity was 0.48.

Here an op between the two lets each have a scale of its own: in the float file a product with 1, for which the
calibration finds the range, and in the integer file a QUANTIZE.
"""

import collections

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_NAME = b"/rescaled"
_AVERAGES = ("AVERAGE_POOL_2D", "RESIZE_BILINEAR")
_JOINS = ("CONCATENATION", "PACK")
# Ops that take a part of the range of their inputs, and the index of the first of these.
_CUTS = {"MAXIMUM": 0, "MINIMUM": 0, "SELECT": 1, "SELECT_V2": 1}
# Ops that keep the scale of their input.
_MOVES = ("GATHER", "MAX_POOL_2D", "PAD", "RESHAPE", "SLICE", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE")


def separated(content):
    """A float LiteRT file, as bytes, with such products. Unchanged without them."""
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    averages = flatbuffer.has_op(content, _AVERAGES) and flatbuffer.has_op(content, _JOINS)
    if not (averages or flatbuffer.has_op(content, tuple(_CUTS))):
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
    readers = collections.Counter(index for op in subgraph.operators for index in op.inputs)
    readers.update(subgraph.outputs)
    averages = {}  # by the index of an average: the index of its product, and the op

    def apart(index):
        """Puts a product behind each average that reaches tensor `index` through moves. The index to read instead."""
        op = makers.get(index)
        name = None if op is None else _name(model, op, schema)
        if name in _AVERAGES:
            if index not in averages:
                averages[index] = _product(model, subgraph, index, schema)
            return averages[index][0]
        if name in _MOVES:
            place = int(name == "SPLIT")  # of what it moves, among its inputs
            op.inputs = np.array([*op.inputs[:place], apart(op.inputs[place]), *op.inputs[place + 1 :]], np.int32)
        return index

    def read_elsewhere(index):
        """Whether other ops read tensor `index`, or what it is made of by moves, or another part of that."""
        op = makers.get(index)
        if readers[index] > 1 or (op is not None and len(op.outputs) > 1):
            return True
        return op is not None and _name(model, op, schema) in _MOVES and read_elsewhere(op.inputs[0])

    for op in subgraph.operators:
        if _name(model, op, schema) in _JOINS:
            op.inputs = np.array([apart(index) for index in op.inputs], np.int32)
    operators, count = [], len(subgraph.operators)
    for op in subgraph.operators:
        first = _CUTS.get(_name(model, op, schema), len(op.inputs))
        op.inputs = np.array(op.inputs, np.int32)  # those of a file cannot be written
        for place, index in enumerate(op.inputs[first:], first):
            computed = index in makers or index in subgraph.inputs
            if computed and subgraph.tensors[index].type == schema.TensorType.FLOAT32 and read_elsewhere(index):
                op.inputs[place], product = _product(model, subgraph, index, schema)
                operators.append(product)
        operators += [op, *(averages[index][1] for index in op.outputs if index in averages)]
    subgraph.operators = operators
    return len(operators) > count


def _product(model, subgraph, index, schema):
    """The index of a new tensor, and the op that computes it: the tensor of `index` times 1."""
    one = schema.TensorT()
    # The converter leaves out a product with 1 itself. This is the next number.
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.nextafter(np.float32(1), np.float32(2)).tobytes(), np.uint8)
    model.buffers.append(buffer)
    read, count = subgraph.tensors[index], len(subgraph.tensors)
    one.name, one.shape, one.hasRank = read.name + b"/one", np.array([], np.int32), True
    one.type, one.buffer = read.type, len(model.buffers) - 1
    product = schema.TensorT()
    # A tensor may have several products, whose names differ by a number.
    product.name, product.type, product.hasRank = read.name + b"/%d" % count + _NAME, read.type, read.hasRank
    product.shape, product.shapeSignature = read.shape, read.shapeSignature
    subgraph.tensors += [one, product]
    op = schema.OperatorT()
    op.opcodeIndex = flatbuffer.op_code(model, "MUL")
    op.inputs, op.outputs = np.array([index, count], np.int32), np.array([count + 1], np.int32)
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    return count + 1, op


def _name(model, op, schema):
    code = model.operatorCodes[op.opcodeIndex].builtinCode
    for name in (*_AVERAGES, *_JOINS, *_CUTS, *_MOVES, "MUL"):
        if getattr(schema.BuiltinOperator, name) == code:
            return name
    return None
