"""Repairs of what ai-edge-quantizer makes of weights.

It leaves tables of embeddings and the weights of fused LSTMs in float32, which are quantized here:

- A table is read by GATHER. It becomes int8, GATHER reads its rows as int8, and a DEQUANTIZE after it makes them float.
- For `dynamic_int8`, the op of a fused LSTM gets int8 weights. It then quantizes its input and its state at each step.
- For `weight_only_int8`, a DEQUANTIZE before the op makes the int8 weights float.

Both have one scale per matrix: LiteRT has no kernels with more.

For `dynamic_int8`, it makes any constant of BATCH_MATMUL int8. LiteRT multiplies floats by an int8 matrix on the right
alone. A DEQUANTIZE before the op makes one on the left float.
"""

import numpy as np

from keras_dl.export import flatbuffer
from keras_dl.extras import require

_LSTM_WEIGHTS = range(1, 9)  # indices among the inputs of the op: one matrix per gate, for the input and for the state


def quantized(content, quantization):
    """A LiteRT file, as bytes, in which these weights are int8 and can be read. One without them is unchanged.

    Args:
        content: bytes.
        quantization: str: `"dynamic_int8"` or `"weight_only_int8"`.
    """
    if not flatbuffer.has_op(content, ("GATHER", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BATCH_MATMUL")):
        return content
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    builtins = schema.BuiltinOperator
    gather, lstm, product = builtins.GATHER, builtins.UNIDIRECTIONAL_SEQUENCE_LSTM, builtins.BATCH_MATMUL
    model = flatbuffer.unpacked(content)
    for subgraph in model.subgraphs:
        edit, ops = _Edit(schema, model, subgraph), []
        for op in subgraph.operators:
            code = model.operatorCodes[op.opcodeIndex].builtinCode
            if code == gather and edit.is_table(op.inputs[0]) and edit.is_quantized(op.inputs[0], {(gather, 0)}):
                rows = op.outputs[0]
                op.outputs = list(op.outputs)
                op.outputs[0] = edit.new_tensor(like=rows, values_of=op.inputs[0])
                ops += [op, edit.dequantize(op.outputs[0], rows)]
            elif code == lstm:
                op.inputs = list(op.inputs)
                weights = [i for i in _LSTM_WEIGHTS if op.inputs[i] >= 0]
                allowed = {(lstm, i) for i in _LSTM_WEIGHTS}
                for i in [i for i in weights if edit.is_quantized(op.inputs[i], allowed)]:
                    if quantization == "weight_only_int8":
                        integers = op.inputs[i]
                        op.inputs[i] = edit.new_tensor(like=integers)
                        ops.append(edit.dequantize(integers, op.inputs[i]))
                ops.append(op)
            elif code == product and edit.is_int8(op.inputs[0]) and not edit.is_int8(op.inputs[1]):
                op.inputs = list(op.inputs)
                integers, op.inputs[0] = op.inputs[0], edit.new_tensor(like=op.inputs[0])
                ops += [edit.dequantize(integers, op.inputs[0]), op]
            else:
                ops.append(op)
        subgraph.operators = ops
    return flatbuffer.packed(model, len(content))


class _Edit:
    """Changes of one subgraph."""

    def __init__(self, schema, model, subgraph):
        self._schema, self._model, self._subgraph = schema, model, subgraph
        self._done = set()

    def is_table(self, index):
        """Whether a tensor has rows. A row of numbers is no embedding: the noise of each step of a sampler, say."""
        return len(self._subgraph.tensors[index].shape) > 1

    def is_int8(self, index):
        return self._subgraph.tensors[index].type == self._schema.TensorType.INT8

    def is_quantized(self, index, allowed):
        """Makes a constant int8, if it is float32 and only read as one of `allowed`; returns whether it is int8 now.

        Args:
            index: int. The tensor.
            allowed: set of pairs of an op's code and the index of its input.
        """
        tensor = self._subgraph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        if index in self._done:
            return True
        if tensor.type != self._schema.TensorType.FLOAT32 or data is None or not self._read_only_as(index, allowed):
            return False
        values = np.frombuffer(bytes(data), "float32")
        scale = np.abs(values).max(initial=0.0) / 127 or 1.0
        integers = np.rint(values / scale).astype("int8").view("uint8")
        readers = [x for graph in self._model.subgraphs for x in graph.tensors if x.buffer == tensor.buffer]
        if len(readers) > 1:
            self._model.buffers.append(self._schema.BufferT())
            tensor.buffer = len(self._model.buffers) - 1
        self._model.buffers[tensor.buffer].data = integers
        tensor.type = self._schema.TensorType.INT8
        tensor.quantization = self._quantization([scale])
        self._done.add(index)
        return True

    def new_tensor(self, like, values_of=None):
        """The index of a new tensor with the shape of `like`: float32, or int8 by the scale of `values_of`."""
        old, new = self._subgraph.tensors[like], self._schema.TensorT()
        new.name, new.shape, new.shapeSignature = old.name + b";converted", old.shape, old.shapeSignature
        new.hasRank, new.buffer, new.type = old.hasRank, 0, self._schema.TensorType.FLOAT32
        if values_of is not None:
            new.type = self._schema.TensorType.INT8
            new.quantization = self._quantization(self._subgraph.tensors[values_of].quantization.scale)
        self._subgraph.tensors.append(new)
        return len(self._subgraph.tensors) - 1

    def dequantize(self, integers, floats):
        """An op DEQUANTIZE from one tensor to another."""
        op = self._schema.OperatorT()
        op.opcodeIndex = flatbuffer.op_code(self._model, "DEQUANTIZE", 2)  # 2: the first of int8
        op.inputs, op.outputs = [integers], [floats]
        return op

    def _read_only_as(self, index, allowed):
        readers = {
            (self._model.operatorCodes[op.opcodeIndex].builtinCode, place)
            for op in self._subgraph.operators
            for place, x in enumerate(op.inputs if op.inputs is not None else ())
            if x == index
        }
        return readers <= allowed and index not in self._subgraph.outputs

    def _quantization(self, scales):
        quantization = self._schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = np.array(scales, "float32"), np.zeros(len(scales), "int64")
        return quantization
