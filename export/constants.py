"""A repair of constants that products or signatures share, for quantizers that work on the buffers of a file.

The converter's quantizer of int16x8 does so:

- It quantizes a buffer once for each signature that has it, the second time as if the integers were floats. Of a GRU
  with signatures for a sequence and for a step, a quarter of the weights and most biases were 0.
- The integers of a bias have the scale of its product: that of the input times that of the weights. If a layer is
  called several times, as in a recurrence that is written out step by step, the products of a signature read the
  integers of the first by their own scales. They added up to 2.5 times the bias: stacked recurrent cells had a cosine
  similarity of 0.93.

ai-edge-quantizer does so too. Weights that one signature multiplies by, and another hands to a loop as floats, become
integers that are still called floats there: LiteRT cannot load the file.

Here the float file has a buffer for each signature, and a bias for each product. What is equal after all is one buffer
again in the integer file.
"""

import copy

from keras_dl.export import flatbuffer
from keras_dl.extras import require

# The place of the bias among the inputs.
_BIASES = {"FULLY_CONNECTED": 2, "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "TRANSPOSE_CONV": 3}


def separated(content):
    """A float LiteRT file, as bytes, in which no signature or product shares what would be quantized twice."""
    schema = require("ai_edge_litert.schema_py_generated", extra="export")
    places = {getattr(schema.BuiltinOperator, name): place for name, place in _BIASES.items()}
    model, used = flatbuffer.unpacked(content), set()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            if _is_empty(model.buffers[tensor.buffer]) or tensor.type != schema.TensorType.FLOAT32:
                continue
            if tensor.buffer in used:
                tensor.buffer = _copied(model, tensor.buffer)
            used.add(tensor.buffer)
        read = set()
        for op in subgraph.operators:
            place = places.get(model.operatorCodes[op.opcodeIndex].builtinCode, len(op.inputs))
            if place >= len(op.inputs) or op.inputs[place] < 0:
                continue
            if op.inputs[place] in read:
                own = copy.copy(subgraph.tensors[op.inputs[place]])
                own.name, own.buffer = own.name + b"/%d" % len(subgraph.tensors), _copied(model, own.buffer)
                op.inputs = op.inputs.copy()  # those of a file cannot be written
                op.inputs[place] = len(subgraph.tensors)
                subgraph.tensors.append(own)
            read.add(op.inputs[place])
    return flatbuffer.packed(model, len(content))


def joined(content):
    """A LiteRT file, as bytes, in which tensors with the same data share one buffer."""
    model, firsts = flatbuffer.unpacked(content), {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            buffer = model.buffers[tensor.buffer]
            # A variable is written, so that its buffer is its own.
            if not _is_empty(buffer) and not tensor.isVariable:
                tensor.buffer = firsts.setdefault(bytes(buffer.data), tensor.buffer)
    kept = {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors}
    kept |= {0} | {metadata.buffer for metadata in model.metadata or ()}
    numbers = {old: new for new, old in enumerate(sorted(kept))}
    model.buffers = [model.buffers[old] for old in numbers]
    for part in [*(tensor for subgraph in model.subgraphs for tensor in subgraph.tensors), *(model.metadata or ())]:
        part.buffer = numbers[part.buffer]
    return flatbuffer.packed(model, len(content))


def _is_empty(buffer):
    return buffer.data is None or len(buffer.data) == 0


def _copied(model, number):
    """The number of a new buffer with the same data."""
    model.buffers.append(copy.copy(model.buffers[number]))
    return len(model.buffers) - 1
