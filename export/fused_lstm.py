"""Three settings of LiteRT's fused LSTM that the converter does not set as the model has them, and its lost names.

- It has cell states clipped at 10, which the layer does not do. Trained nets go beyond: the log-probabilities of a
  character model were off by up to 7 from where its first cell state had reached 10. Here nothing is clipped.
- An int8 op keeps cell states in 16 bits, on the least power of two that holds what calibration saw, and that sees them
  at the ends of sequences alone. What was larger in between would be clipped after all; and for states below 1/2 the
  scale is less than 2^-15, for which the kernel's tanh has no form: its results are wrong, without an error. Here the
  scale is 2^-10 at least: states up to 32, in steps 8 times finer than those of an int8 output in [-1, 1]. The int8
  file of that character model costs 1.4506 bits with it, and 1.4516 at worst with scales from 2^-13 to 2^-9.
- The op writes its hidden state as integers by the scale of its fifth intermediate tensor, reads it back in the next
  step by that of its state, and whoever comes after it reads it by that of its output. It copies the integers from one
  to the next, so that all three must be one. Where a concatenation follows, as in `Bidirectional`, the converter gives
  the output the scale of all that is concatenated and leaves the other two: probabilities were off by 0.1 and more.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_INPUT_WEIGHTS = 1  # of the input gate, which is the first; this and the next two are places among the op's inputs
_HIDDEN_STATE, _CELL_STATE = 18, 19
_HIDDEN = 4  # and that of what it computes before a projection, which is none here, among the intermediate tensors
_LEAST_SCALE = 2.0**-10


def mended(content, variables=()):
    """A LiteRT file, bytes, whose fused LSTMs compute what the layers do; one without any comes back as it is.

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
    """Puts the op's layer before the name of its output where that has none, as long as the file tells it.

    Its states have the layer in their names, unless two ops have equal ones, of which the converter makes one; and
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
    """The path of the layer whose kernel, `(features, 4 units)`, has these weights of one gate; or nothing."""
    units, features = weights.shape
    for variable in variables:
        if tuple(variable.shape) == (features, 4 * units):
            gate = np.ascontiguousarray(np.asarray(variable)[:, :units].T, "float32")
            if buffer.data is not None and gate.tobytes() == bytes(buffer.data):
                return variable.path.rpartition("/")[0]
    return ""
