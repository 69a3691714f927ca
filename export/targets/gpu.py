"""A check for LiteRT's GPU delegate: which ops it would leave on the CPU, and why.

The rules come from the delegate's source, read at LiteRT commit 34ec5ba and TensorFlow commit 03a5e4e:
`tflite/delegates/gpu/common/model_builder.cc` (`NewOperationParser`, `GetOpsToReplace`: ops, ranks, dtypes) and
`tflite/tools/versioning/gpu_compatibility.cc` (limits of each op). The same check in
`tf.lite.experimental.Analyzer(gpu_compatibility=True)` is not used: in TensorFlow 2.21 and ai-edge-litert 2.3 it calls
every op compatible, even WHERE and REVERSE_V2, for which the delegate has no kernel.

Two rules are about the whole graph. A tensor of dynamic shape makes the delegate refuse all of it. Of several parts
that it could take, it only takes the largest (`max_delegated_partitions` is 1 by default).
"""

import dataclasses

from keras_dl.export.targets import preflight
from keras_dl.export.targets.base import Context, Target

SOURCES = [
    "https://github.com/google-ai-edge/LiteRT/blob/34ec5ba/tflite/delegates/gpu/common/model_builder.cc",
    "https://github.com/tensorflow/tensorflow/blob/03a5e4e/tensorflow/lite/tools/versioning/gpu_compatibility.cc",
]
MAX_RANK = 4

_UNARY = "ABS COS ELU EXP FLOOR GELU HARD_SWISH LOG LOGISTIC NEG RSQRT SIGN SIN SQRT SQUARE TANH"
_COMPARISONS = "EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND NOT_EQUAL"
_BINARY = "DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM POW SQUARED_DIFFERENCE SUB"
_REDUCTIONS = "MEAN REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM"
_ONE_INPUT = """
    AVERAGE_POOL_2D CAST DEPTH_TO_SPACE DEQUANTIZE MAX_POOL_2D MIRROR_PAD PAD PADV2 QUANTIZE RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR SPACE_TO_DEPTH TILE TRANSPOSE
"""
_OTHERS = """
    ADD ADD_N BATCH_MATMUL CONCATENATION CONV_2D CUMSUM DENSIFY DEPTHWISE_CONV_2D FULLY_CONNECTED GATHER LEAKY_RELU
    LSTM MUL ONE_HOT PACK PRELU RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 SELECT SELECT_V2 SLICE SOFTMAX SPLIT SPLIT_V
    STRIDED_SLICE TRANSPOSE_CONV UNPACK
"""
COMPARISONS = frozenset(_COMPARISONS.split())
REDUCTIONS = frozenset(_REDUCTIONS.split())
ONE_INPUT = frozenset(_UNARY.split()) | frozenset(_ONE_INPUT.split()) | REDUCTIONS
TWO_INPUTS = COMPARISONS | frozenset(_BINARY.split())
SUPPORTED = ONE_INPUT | TWO_INPUTS | frozenset(_OTHERS.split())

# Dtypes of computed tensors; constants may have any. int8 and uint8 are dequantized at the inputs.
DTYPES = frozenset(["float32", "float16", "int8", "uint8"])
MORE_INPUT_DTYPES = {
    "CAST": ("bool", "int32"),
    "GATHER": ("int32",),
    "LOGICAL_AND": ("bool",),
    "ONE_HOT": ("int32",),
    "SELECT": ("bool",),
    "SELECT_V2": ("bool",),
}
MORE_OUTPUT_DTYPES = {"CAST": ("bool", "int32")} | dict.fromkeys(COMPARISONS, ("bool",))
FLOATS = ("float16", "float32")
MIRROR_PAD_REFLECT = 0  # schema: MirrorPadMode


class Gpu(Target):
    """Names each op that the GPU delegate would refuse, and the reason. Nothing is run on a GPU."""

    def run(self, litert_path, context: Context) -> dict:
        return preflight.report(
            [_whole_graph(subgraph) for subgraph in preflight.check(litert_path, refuse, _with_constants)],
            SOURCES,
            "A pre-flight by the delegate's rules; the driver of the device has the last word.",
        )


def _with_constants(ops):
    """The ops without a DEQUANTIZE of constants, whose results are constants to the others.

    Float16 files keep weights so. The delegate reads the weights in float16 and takes these ops out of the graph before
    it looks at the others (`FP16GraphPartitionHelper`, `tflite/delegates/utils.cc`).
    """
    folded = {
        id(op.outputs[0]): dataclasses.replace(op.outputs[0], constant=True)
        for op in ops
        if op.name == "DEQUANTIZE" and op.inputs[0].constant and op.inputs[0].dtype == "float16"
    }
    return [
        dataclasses.replace(op, inputs=[folded.get(id(x), x) for x in op.inputs])
        for op in ops
        if not any(id(x) in folded for x in op.outputs)
    ]


def refuse(op):
    """The reason why the GPU delegate does not take `op`, or None if its rules allow it."""
    if op.custom or op.name not in SUPPORTED:
        return "the GPU delegate has no such op"
    if reason := preflight.dynamic(op):
        return reason
    for tensor in preflight.present(op):
        if tensor.rank > MAX_RANK:
            return f"{tensor.name!r} has rank {tensor.rank}; the delegate's tensors have at most rank {MAX_RANK}"
    for tensors, more in ((op.inputs, MORE_INPUT_DTYPES), (op.outputs, MORE_OUTPUT_DTYPES)):
        allowed = DTYPES.union(more.get(op.name, ()))
        for tensor in preflight.runtime(tensors):
            if tensor.dtype not in allowed:
                return f"{tensor.name!r} is {tensor.dtype}; {op.name} takes and gives {', '.join(sorted(allowed))}"
    return _limitation(op)


def _whole_graph(verdicts):
    """Adds a reason for ops that the delegate only refuses because of other ops of their graph."""
    if any(preflight.dynamic(op) for op, _ in verdicts):
        return [
            (op, reason or "another op has a dynamic shape, so the whole graph is refused") for op, reason in verdicts
        ]
    parts = preflight.parts(verdicts)
    largest = max(parts, key=len, default=[])
    why = f"it is not in the largest of the {len(parts)} parts into which the refused ops cut the graph"
    return [(op, reason or (None if i in largest else why)) for i, (op, reason) in enumerate(verdicts)]


def _limitation(op):
    """The limits of `gpu_compatibility.cc` for an op, in addition to those of ranks and dtypes."""
    computed = preflight.runtime(op.inputs)
    x = op.inputs[0]
    options = op.options
    if op.name in ONE_INPUT and len(computed) != 1:
        folded = op.name == "DEQUANTIZE" and not computed  # a single one: see `_with_constants`
        return None if folded else f"it has {len(computed)} computed inputs instead of 1"
    if op.name in TWO_INPUTS and (len(op.inputs) != 2 or not computed):
        return "it does not have 2 inputs of which at least one is computed"
    match op.name:
        case "ADD" | "MUL":
            return _broadcast(op)
        case "ADD_N":
            if len(op.inputs) != 2:
                return f"it adds {len(op.inputs)} tensors; the delegate adds 2"
        case "CAST":
            pair = (x.dtype, op.outputs[0].dtype)
            boolean = "bool" in pair and (pair[0] in FLOATS or pair[1] in FLOATS)
            if not boolean and not set(pair) <= {"float32", "int32"}:
                return f"it casts {pair[0]} to {pair[1]}; only bool to and from floats, float32 and int32 are supported"
        case "CUMSUM":
            if x.dtype not in FLOATS or not op.inputs[1].constant:
                return "it needs a floating-point input and a constant axis"
        case "DEPTHWISE_CONV_2D":
            if options.depthMultiplier != 1 and x.shape[-1] != 1:
                return f"its depth multiplier is {options.depthMultiplier} on {x.shape[-1]} channels; one must be 1"
        case "FULLY_CONNECTED":
            if x.constant or len(computed) > 2 or options.weightsFormat:
                return "its input is constant, its weights are shuffled, or its weights and bias are both computed"
            if options.keepNumDims and x.rank != op.outputs[0].rank:
                return "it keeps the number of dimensions, but input and output differ in rank"
        case "GATHER":
            if x.dtype == "int32" or op.inputs[1].dtype != "int32" or op.inputs[1].rank != 1:
                return "it needs indices of rank 1 and dtype int32, and values that are not int32"
        case "MIRROR_PAD" | "PAD" | "PADV2":
            if op.name == "MIRROR_PAD" and options.mode != MIRROR_PAD_REFLECT:
                return "it pads symmetrically; only reflection is supported"
            if op.inputs[1].shape not in ((3, 2), (4, 2)):
                return f"its paddings have shape {op.inputs[1].shape} instead of (3, 2) or (4, 2)"
        case "SLICE" | "STRIDED_SLICE":
            if x.rank not in (3, 4):
                return f"{x.name!r} has rank {x.rank}; slices need 3 or 4"
            if op.name == "STRIDED_SLICE" and (options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask):
                return "it has an ellipsis mask, a new-axis mask or a shrink-axis mask"
        case "SELECT" | "SELECT_V2":
            if any(branch.dtype not in FLOATS for branch in op.inputs[1:]):
                return "its branches are not floating-point"
        case "SOFTMAX":
            if options.beta != 1:
                return f"its beta is {options.beta:g}; only 1 is supported"
        case name if name in REDUCTIONS:
            if not op.inputs[1].constant or op.inputs[1].dtype != "int32":
                return "its axes are not a constant int32 tensor"
    return None


def _broadcast(op):
    first, second = (tensor.shape for tensor in op.inputs)
    if len(first) == len(second):
        smaller = any(a < b for a, b in zip(first, second, strict=True))
        larger = any(a > b for a, b in zip(first, second, strict=True))
        if op.name == "MUL" and smaller and larger:
            return f"it broadcasts both inputs, {first} and {second}; one must be at least as large in every dimension"
    return None
