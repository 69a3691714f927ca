"""A repair of scales that tensors of zeros get from the converter.

No number can be quantized by a scale of 0, and products with a scale near 0 leave the range of a kernel's multipliers.
The runtime accepts them, but kernels that check what they compute from them end the process. With 16-bit activations,
the scale of a tensor that is all zeros is 0, such as that of the first state of an unrolled GRU. That of recurrent
weights of zeros is 4e-9. Here the first get the scale of numbers from -1 to 1, and the second that of weights from -1
to 1. Zeros stay zeros by any scale.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_SCALE = 2.0**-15
_WEIGHT_SCALE = 2.0**-7
# The recurrent weights among the inputs of an LSTM. No bias has a scale that follows from theirs.
_RECURRENT = range(5, 9)


def mended(content):
    """A LiteRT file, as bytes, with such scales changed. A file without them is returned unchanged."""
    quantizations = (tensor.Quantization() for tensor in flatbuffer.tensors(content))
    zero = any(x is not None and x.ScaleLength() and (x.ScaleAsNumpy() == 0).any() for x in quantizations)
    if not zero and not flatbuffer.has_op(content, ("UNIDIRECTIONAL_SEQUENCE_LSTM",)):
        return content
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    model = flatbuffer.unpacked(content)
    changed = False
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            code = model.operatorCodes[op.opcodeIndex].builtinCode
            if code == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM:
                for index in (op.inputs[i] for i in _RECURRENT if op.inputs[i] >= 0):
                    changed |= _rescale_zeros(subgraph.tensors[index], model)
        for tensor in subgraph.tensors:
            quantization = tensor.quantization
            if quantization is not None and quantization.scale is not None and (quantization.scale == 0).any():
                quantization.scale = np.where(quantization.scale == 0, np.float32(_SCALE), quantization.scale)
                changed = True
    return flatbuffer.packed(model, len(content)) if changed else content


def _rescale_zeros(tensor, model):
    """Gives quantized weights that are all zeros another scale. Returns whether they are."""
    data, quantization = model.buffers[tensor.buffer].data, tensor.quantization
    if quantization is None or quantization.scale is None or data is None or np.any(data):
        return False
    quantization.scale = np.full_like(quantization.scale, _WEIGHT_SCALE)
    return True
