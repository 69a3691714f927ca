"""A repair of scales of 0: with 16-bit activations, the converter gives them to tensors that are all zeros.

No number can be quantized by such a scale. The runtime accepts it, but kernels that check what they compute from it end
the process. The first state of an unrolled GRU is such a tensor. Here it gets the scale of numbers from -1 to 1. Zeros
stay zeros by any scale.
"""

import numpy as np

from keras_dl.export import flatbuffer

_SCALE = 2.0**-15


def mended(content):
    """A LiteRT file, as bytes, with all scales above 0. A file without a scale of 0 is returned unchanged."""
    quantizations = (tensor.Quantization() for tensor in flatbuffer.tensors(content))
    if not any(x is not None and x.ScaleLength() and (x.ScaleAsNumpy() == 0).any() for x in quantizations):
        return content
    model = flatbuffer.unpacked(content)
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            quantization = tensor.quantization
            if quantization is not None and quantization.scale is not None:
                quantization.scale = np.where(quantization.scale == 0, np.float32(_SCALE), quantization.scale)
    return flatbuffer.packed(model, len(content))
