"""A repair of quantized REVERSE_V2 ops: their input and output must have one scale.

LiteRT's REVERSE_V2 copies integers. If a concatenation follows, as in `Bidirectional`, the converter gives the output
of the reversal the scale of the concatenation, and its input another scale. Half of the outputs of a bidirectional LSTM
were off by 0.02. Here the reversal keeps the scale of its input, and a QUANTIZE after it changes the scale.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require


def mended(content):
    """A LiteRT file, as bytes, with right reversals. A file without wrong ones is returned unchanged."""
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    code = schema.BuiltinOperator.REVERSE_V2
    if not flatbuffer.has_op(content, ("REVERSE_V2",)):
        return content
    model = flatbuffer.unpacked(content)
    wrong = False
    for subgraph in model.subgraphs:
        operators = []
        for op in subgraph.operators:
            operators.append(op)
            if model.operatorCodes[op.opcodeIndex].builtinCode != code:
                continue
            before, after = (subgraph.tensors[index] for index in (op.inputs[0], op.outputs[0]))
            if _scale(before) != _scale(after):
                operators.append(_requantized(model, subgraph, op, schema))
                wrong = True
        subgraph.operators = operators
    return flatbuffer.packed(model, len(content)) if wrong else content


def _scale(tensor):
    """Scale and zero point of a quantized tensor. None for other tensors."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _requantized(model, subgraph, op, schema):
    """A QUANTIZE op from a new tensor, which the reversal now writes by the scale of its input, to its old output."""
    before, after = (subgraph.tensors[index] for index in (op.inputs[0], op.outputs[0]))
    copy = schema.TensorT()
    copy.name = after.name + b"/reversed"
    copy.shape, copy.shapeSignature, copy.type, copy.hasRank = (
        after.shape,
        after.shapeSignature,
        after.type,
        after.hasRank,
    )
    copy.quantization = schema.QuantizationParametersT()
    copy.quantization.scale, copy.quantization.zeroPoint = before.quantization.scale, before.quantization.zeroPoint
    subgraph.tensors.append(copy)
    last, op.outputs = op.outputs, np.array([len(subgraph.tensors) - 1], np.int32)
    quantize = schema.OperatorT()
    quantize.opcodeIndex = flatbuffer.op_code(model, "QUANTIZE", 2)  # 2: the first with integers as inputs
    quantize.inputs, quantize.outputs = op.outputs, last
    return quantize
