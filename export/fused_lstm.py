"""A repair of LiteRT's fused LSTM: three settings that the converter gets wrong, and lost names.

- The converter clips cell states at 10. The layer does not clip, and trained networks exceed 10: the log-probabilities
  of a character model were off by up to 7 after its first cell state had reached 10. Here nothing is clipped.
- An int8 op keeps cell states in 16 bits. Their scale is the smallest power of two that holds what calibration saw, and
  calibration sees them only at the ends of sequences. Larger states in between would be clipped. For states below 1/2
  the scale is less than 2^-15, which the kernel's tanh does not support: its results are wrong, without an error. Here
  the scale is at least 2^-10. It holds states up to 32, in steps 8 times finer than those of an int8 output in [-1, 1].
  The int8 file of that character model costs 1.4506 bits with it, and at most 1.4516 with scales from 2^-13 to 2^-9.
- The op writes its hidden state as integers by the scale of its fifth intermediate tensor. In the next step it reads
  them by the scale of its state. The next op reads them by the scale of the output. The integers are copied, so that
  all three scales must be equal. If a concatenation follows, as in `Bidirectional`, the converter gives the output the
  scale of the concatenation and leaves the other two: probabilities were off by 0.1 and more.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_INPUT_WEIGHTS = 1  # of the input gate, which is the first; this and the next two are indices of the op's inputs
_HIDDEN_STATE, _CELL_STATE = 18, 19
_HIDDEN = 4  # index among the intermediate tensors: the output before a projection, of which there is none
_LEAST_SCALE = 2.0**-10


def mended(content, variables=()):
    """A LiteRT file, as bytes, whose fused LSTMs compute what the layers do. One without LSTMs is returned unchanged.

    Args:
        content: bytes.
        variables: of the Keras model. A float op whose weights are those of one gets the name of its layer.
    """
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    code = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    head = schema.Model.GetRootAs(content, 0)
    if code not in [head.OperatorCodes(i).BuiltinCode() for i in range(head.OperatorCodesLength())]:
        return content
    model = flatbuffer.unpacked(content)
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            if model.operatorCodes[op.opcodeIndex].builtinCode == code:
                _name(model, subgraph, op, variables)
                op.builtinOptions.cellClip = 0.0
                quantization = subgraph.tensors[op.inputs[_CELL_STATE]].quantization
                if quantization is not None and quantization.scale is not None:
                    quantization.scale = np.maximum(quantization.scale, np.float32(_LEAST_SCALE))
                    output = subgraph.tensors[op.outputs[0]].quantization
                    for index in (op.inputs[_HIDDEN_STATE], op.intermediates[_HIDDEN]):
                        copy = subgraph.tensors[index].quantization
                        copy.scale, copy.zeroPoint = output.scale.copy(), output.zeroPoint.copy()
    return flatbuffer.packed(model, len(content))


def _name(model, subgraph, op, variables):
    """Adds the op's layer to the name of its output if it is missing and the file has it.

    The layer is in the names of the op's states, with two exceptions: the converter merges equal states of two ops, and
    quantized states have no names.
    """
    output, state, weights = (
        subgraph.tensors[i] for i in (op.outputs[0], op.inputs[_HIDDEN_STATE], op.inputs[_INPUT_WEIGHTS])
    )
    if not output.name.startswith(b"tfl."):
        return
    scopes = state.name.decode().rpartition("/")[0] or _layer_of(model.buffers[weights.buffer], weights, variables)
    if scopes:
        output.name = scopes.encode() + b"/" + output.name


def _layer_of(buffer, weights, variables):
    """The path of the layer whose kernel, `(features, 4 * units)`, has these weights of one gate; empty if none has."""
    units, features = weights.shape
    for variable in variables:
        if tuple(variable.shape) == (features, 4 * units):
            gate = np.ascontiguousarray(np.asarray(variable)[:, :units].T, "float32")
            if buffer.data is not None and gate.tobytes() == bytes(buffer.data):
                return variable.path.rpartition("/")[0]
    return ""
