"""Scales of tensors that are zeros throughout, which the converter makes 0 where activations have 16 bits.

By such a scale no number becomes an integer, and the runtime does not refuse it: kernels that check what they compute
from it end the process. The first state of an unrolled GRU is such a tensor. Here it has the scale of numbers from -1
to 1; zeros stay zeros by any.
"""

import numpy as np

from keras_dl.export import flatbuffer

_SCALE = 2.0**-15


def mended(content):
    """A LiteRT file, bytes, whose scales are above 0; one that has no other comes back as it is."""
    found = (tensor.Quantization() for tensor in flatbuffer.tensors(content))
    if not any(x is not None and x.ScaleLength() and (x.ScaleAsNumpy() == 0).any() for x in found):
        return content
    model = flatbuffer.unpacked(content)
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            quantization = tensor.quantization
            if quantization is not None and quantization.scale is not None:
                quantization.scale = np.where(quantization.scale == 0, np.float32(_SCALE), quantization.scale)
    return flatbuffer.packed(model, len(content))
