"""LiteRT's REVERSE_V2 copies integers: it has to read and write them by one scale, which the converter does not see to.

Where a concatenation follows, as in `Bidirectional`, it gives what comes out of the reversal the scale of all that is
concatenated, and leaves what goes in with its own: half of the outputs of a bidirectional LSTM were off by 0.02. Here
the reversal keeps the scale of what goes in, and a QUANTIZE after it brings the integers to the other.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require


def mended(content):
    """A LiteRT file, bytes, whose reversals are right; one without a wrong one comes back as it is."""
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    code = schema.BuiltinOperator.REVERSE_V2
    head = schema.Model.GetRootAs(content, 0)
    if code not in [head.OperatorCodes(i).BuiltinCode() for i in range(head.OperatorCodesLength())]:
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
    """Scale and zero point of a quantized tensor; None of another."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _requantized(model, subgraph, op, schema):
    """A QUANTIZE from what a reversal writes, a new tensor in the scale of its input, to what it wrote before."""
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
    quantize.opcodeIndex = _code(model, schema)
    quantize.inputs, quantize.outputs = op.outputs, last
    return quantize


def _code(model, schema):
    """The index of QUANTIZE among the file's kinds of ops, made where there is none."""
    number = schema.BuiltinOperator.QUANTIZE
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == number:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = 2  # the first with integers as inputs
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
