"""A check for the Coral Edge TPU: which ops its compiler would leave on the CPU, and why.

The rules are those that Google publishes for the Edge TPU compiler 16 and the Edge TPU runtime 14:
"TensorFlow models on the Edge TPU", sections "Model requirements" and "Supported operations",
https://coral.ai/docs/edgetpu/models-intro/. The compiler itself is not run: it only exists for Debian on x86-64.

The compiler maps one part of the graph: from the inputs to the first op that it cannot map. Every later op stays on the
CPU, supported or not ("Compiling", same page).
"""

import math

from keras_dl.export.targets import preflight
from keras_dl.export.targets.base import Context, Target

SOURCE = "https://coral.ai/docs/edgetpu/models-intro/"

_OPS = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC
    LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1
    RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
"""
SUPPORTED = frozenset(_OPS.split())
WEIGHTED = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2), "TRANSPOSE_CONV": (1, 3)}
MAX_SOFTMAX = 16_000


class EdgeTpu(Target):
    """Names each op that the Edge TPU compiler would not map, and the reason. Nothing is compiled."""

    def run(self, litert_path, context: Context) -> dict:
        verdicts = preflight.check(litert_path, refuse)
        return preflight.report(
            [_after_the_first(subgraph) for subgraph in verdicts],
            [SOURCE],
            "A pre-flight by the published rules; edgetpu_compiler has the last word. It may also leave large resizes "
            "and reshapes on the CPU, for which no limit is published.",
        )


def refuse(op):
    """The reason why the Edge TPU compiler does not map `op`, or None if the published rules allow it."""
    if op.custom or op.name not in SUPPORTED:
        return "the Edge TPU has no such op"
    if reason := preflight.dynamic(op):
        return reason
    for tensor in preflight.runtime(preflight.present(op)):
        if tensor.dtype not in ("int8", "uint8"):
            return f"{tensor.name!r} is {tensor.dtype}; only int8 and uint8 run there: export with quantization='int8'"
    for tensor in preflight.present(op):
        if any(size > 1 for size in tensor.shape[:-3]) and not tensor.constant:
            return f"{tensor.name!r} has shape {tensor.shape}; only the 3 innermost dimensions may be larger than 1"
    for index in WEIGHTED.get(op.name, ()):
        if index < len(op.inputs) and op.inputs[index] is not None and not op.inputs[index].constant:
            return f"its parameter {op.inputs[index].name!r} is not a constant"
    return _limitation(op)


def _limitation(op):
    """The column "Known limitations" of the table of supported operations."""
    x, out = op.inputs[0], op.outputs[0]
    options = op.options
    if op.name in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION") and options.fusedActivationFunction:
        return "it has a fused activation"
    match op.name:
        case "CONCATENATION":
            constants = [tensor for tensor in op.inputs if tensor.constant]
            if constants and (len(op.inputs) != 2 or any(tensor.values.any() for tensor in constants)):
                return "a constant is concatenated; only zeros may be, to one other tensor"
        case "CONV_2D" | "DEPTHWISE_CONV_2D":
            if options.dilationHFactor != options.dilationWFactor:
                return f"its dilations {options.dilationHFactor} and {options.dilationWFactor} differ"
        case "FULLY_CONNECTED":
            if options.weightsFormat:
                return "its weights are shuffled"
            if _outer(out) > 1:
                return f"its output {out.shape} is not one-dimensional"
        case "MEAN":
            axes = _axes(op)
            if 0 in axes:
                return "it reduces the batch dimension"
            if x.rank - 1 in axes and x.shape[-1] % 4:
                return f"it reduces {x.shape[-1]} channels, which is no multiple of 4"
        case "REDUCE_MAX" | "REDUCE_MIN" | "SUM":
            if 0 in _axes(op):
                return "it reduces the batch dimension"
        case "PACK":
            if options.axis % out.rank == 0:
                return "it packs in the batch dimension"
        case "PAD":
            if any((preflight.constant(op, 1) or [1])[:2]):
                return "it pads the batch dimension, or by amounts that are not constant"
        case "PRELU":
            if _outer(op.inputs[1]) > 1:
                return f"its alpha {op.inputs[1].shape} is not one-dimensional: share it over height and width"
        case "SOFTMAX":
            if _outer(x) > 1 or x.shape[-1] > MAX_SOFTMAX:
                return f"its input {x.shape} is not one-dimensional with at most {MAX_SOFTMAX:,} elements"
        case "SPLIT":
            if 0 in [axis % op.inputs[1].rank for axis in preflight.constant(op, 0) or [0]]:
                return "it splits in the batch dimension, or along an axis that is not constant"
        case "SQUEEZE":
            if x.shape[x.rank - out.rank :] != out.shape:
                return f"it removes dimensions of {x.shape} that are not leading"
        case "STRIDED_SLICE":
            if set(preflight.constant(op, 3) or [0]) != {1}:
                return "its strides are not all 1"
            if options.ellipsisMask or options.newAxisMask:
                return "it has an ellipsis mask or a new-axis mask"
    return None


def _after_the_first(verdicts):
    first = next((i for i, (_, reason) in enumerate(verdicts) if reason), len(verdicts))
    if first == len(verdicts):
        return verdicts
    after = f"it comes after {verdicts[first][0]}: the compiler maps only what comes before the first unmapped op"
    return [(op, reason or (after if i > first else None)) for i, (op, reason) in enumerate(verdicts)]


def _outer(tensor):
    """Product of all sizes except the innermost."""
    return math.prod(tensor.shape[:-1])


def _axes(op):
    """The reduced axes of `op`, counted from the front; axis 0 if they are only known at run time."""
    return [axis % op.inputs[0].rank for axis in preflight.constant(op, 1) or [0]]
