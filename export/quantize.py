"""Quantization: the meaning of each name, the conversion, and a check that the file is quantized accordingly.

| name             | weights         | activations                | inputs, outputs | calibration |
|------------------|-----------------|----------------------------|-----------------|-------------|
| none             | float32         | float32                    | as the model's  | no          |
| float16          | float16         | float32                    | as the model's  | no          |
| weight_only_int8 | int8            | float32                    | as the model's  | no          |
| dynamic_int8     | int8            | int8, scaled at run time   | as the model's  | no          |
| int16x8          | int8            | int16                      | int16, or `io`  | yes         |
| int8             | int8            | int8                       | int8, or `io`   | yes         |

Weights in int8 have one scale per channel.

TensorFlow's LiteRT converter makes `none`, `float16`, `int8` and `int16x8`. Its calibration keeps the exact minimum and
maximum of every tensor; that of ai-edge-quantizer keeps moving averages. The int8 file of a small residual net was off
by 1% of the largest probability with the first, by 38% with the second.

ai-edge-quantizer makes `weight_only_int8` and `dynamic_int8` from the float file, without calibration. The converter
would keep weights of fewer than 1,024 elements in float32. ai-edge-quantizer keeps fused LSTMs and embeddings (GATHER)
in float32, and gives products on the left what LiteRT cannot read: `keras_dl.export.remaining_weights` repairs both.

If one layer ruins an `int8` file, `float_layers` keeps it in float32, between two conversions.
"""

import collections
import functools
import math
import re

import tensorflow as tf

from keras_dl.compat import CALIBRATE_ONLY, MASKING, all_layers
from keras_dl.export import constants, graph, io_types, litert, remaining_weights
from keras_dl.export.errors import ExportError
from keras_dl.export.saved_model import layer_names, layer_path, located
from keras_dl.extras import require

QUANTIZATIONS = ("none", "float16", "dynamic_int8", "int8", "int16x8", "weight_only_int8")
CALIBRATED = {"int8": tf.int8, "int16x8": tf.int16}

# Indices of the weights among the inputs of an op.
_WEIGHTS = {
    "BATCH_MATMUL": (0, 1),
    "CONV_2D": (1,),
    "CONV_3D": (1,),
    "CONV_3D_TRANSPOSE": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "FULLY_CONNECTED": (1,),
    "GATHER": (0,),
    "TRANSPOSE_CONV": (1,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (1, 2, 3, 4, 5, 6, 7, 8),
}
# Share of the elements of all weights that must have the dtype of the quantization.
WEIGHTS_SHARE = 0.9
# Ops that the converter cannot calibrate.
_LOOPS = ("WHILE", "IF")
_NO_INTEGER_KERNEL = re.compile(r"not yet supported for op: '(\w+)'")


def to_litert(source, names, quantization, float_layers=(), io=None):
    """Converts and quantizes.

    Args:
        source: `keras_dl.export.source.Source`.
        names: list of str: the signatures that the file holds.
        quantization: str, one of `QUANTIZATIONS`.
        float_layers: names of layers that stay in float32, for `int8`.
        io: str, the dtype of the inputs and outputs of an integer file. None for its own integers.

    Returns:
        bytes: the flatbuffer.

    Raises:
        ExportError: if LiteRT has no builtin for an op, or cannot quantize it in this way.
    """
    if quantization in CALIBRATED:
        source = source.without_loops(names, fused=quantization != "int16x8")
    signatures = {name: source.signatures[name] for name in names}
    pixels = any(x.dtype == "uint8" for signature in signatures.values() for x in signature.inputs.values())
    masks = any(isinstance(layer, MASKING) for layer in all_layers(source.model))
    variant = names, (pixels or masks) and quantization in CALIBRATED
    optimize = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if quantization == "float16":
        return source.converter(*variant)(**optimize, target_spec={"supported_types": [tf.float16]})
    if quantization in CALIBRATED:
        representative = functools.partial(_representative, signatures, source.calibrating)
        content = _calibrate(source.model, source.converter(*variant), quantization, representative, float_layers)
        return io_types.with_io(content, io)
    content = source.float_file(*variant)
    if quantization == "none":
        return content
    content = remaining_weights.quantized(_quantize_weights(constants.separated(content), quantization), quantization)
    return constants.joined(content)


def check_float_layers(float_layers, quantization, model):
    """`float_layers` as a tuple.

    Raises:
        TypeError: if `float_layers` is one str.
        ValueError: if the quantization does not support it, or the model has no such layer.
    """
    if isinstance(float_layers, str):
        raise TypeError(f"float_layers={float_layers!r} must be a sequence of names, not one str.")
    float_layers = tuple(float_layers)
    if float_layers and quantization != "int8":
        raise ValueError(f"float_layers={float_layers} needs quantization='int8', not {quantization!r}.")
    known = set(layer_names(model).values())
    if unknown := [name for name in float_layers if name not in known]:
        raise ValueError(f"float_layers={unknown}: the model has no such layer. It has {', '.join(sorted(known))}.")
    return float_layers


def _calibrate(model, convert, quantization, representative, float_layers):
    float_ops = []

    def check(content):
        float_ops.extend(graph.parse(content).ops)
        for op in float_ops:
            if op.name in _LOOPS:  # the calibrator crashes in a loop, without an error
                raise ExportError(
                    f"quantization={quantization!r} cannot calibrate the loop or branch "
                    f"{located(op.name, op.layer, model)}. Unroll it: write its steps one after the other. "
                    "Or choose float16 or dynamic_int8, which keep loops."
                )

    ops = {
        "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        "int16x8": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
    }
    settings = dict(
        optimizations=[tf.lite.Optimize.DEFAULT],
        target_spec={"supported_ops": [ops[quantization]]},
        representative_dataset=representative,
        check=check,
    )
    if float_layers:
        content = convert(**settings, **{CALIBRATE_ONLY: True})
        nodes = _outputs_of(float_layers, graph.parse(content), model)
        return litert.quantize_all_but(content, nodes, CALIBRATED[quantization])
    ends = dict.fromkeys(("inference_input_type", "inference_output_type"), CALIBRATED[quantization])
    try:
        return convert(**settings, **ends)
    except ExportError as error:
        lacking = _NO_INTEGER_KERNEL.search(str(error))
        if lacking is None:
            raise
        ops = dict.fromkeys(located(op.name, op.layer, model) for op in float_ops if op.name == lacking[1])
        in_float = quantization == "int16x8" and lacking[1] not in _WEIGHTS
        cure = "Choose int8, which computes such ops in float32." if in_float else "Choose float16."
        raise ExportError(f"LiteRT has no {quantization} kernel for {', '.join(ops)}. {cure}") from None


def _outputs_of(float_layers, calibrated, model):
    """The names of the first outputs of the ops in these layers."""
    known, nodes, present = layer_names(model), [], set()
    for op in calibrated.ops:
        if inside := set(layer_path(op.layer, known)) & set(float_layers):
            nodes.append(op.outputs[0].name)
            present |= inside
    own = getattr(model, "float_layers", ())  # of all signatures, of which the file may hold some
    if missing := [name for name in float_layers if name not in present and name not in own]:
        raise ExportError(
            f"float_layers={missing}: the file has no op of these layers; the converter merged them into others."
        )
    return nodes


def _representative(signatures, samples):
    for name, signature in signatures.items():
        pixels = [key for key, x in signature.inputs.items() if x.dtype == "uint8"]
        for i, batch in enumerate(samples[name]):
            if i == 0:
                batch = {key: _reaching_both_ends(x) if key in pixels else x for key, x in batch.items()}
            yield name, {key: x.astype("float32") if key in pixels else x for key, x in batch.items()}


def _reaching_both_ends(pixels):
    """Sets one pixel to 0 and one to 255, so that int8 has scale 1 and zero point -128, and loses no gray value."""
    pixels = pixels.copy()
    pixels.flat[0], pixels.flat[-1] = 0, 255
    return pixels


def _quantize_weights(content, quantization):
    quantizer = require("ai_edge_quantizer.quantizer", extra="export")
    recipes = require("ai_edge_quantizer.recipe", extra="export")
    recipe = {"dynamic_int8": recipes.dynamic_wi8_afp32, "weight_only_int8": recipes.weight_only_wi8_afp32}
    result = quantizer.Quantizer(bytearray(content), recipe[quantization]()).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)


def check(file, quantization, model, float_layers=(), io=None):
    """Checks by the tensors of a file that it is quantized as `quantization` says.

    Args:
        file: `keras_dl.export.graph.Graph`.
        quantization: str, one of `QUANTIZATIONS`.
        model: the exported `keras.Model`; errors name its layers.
        float_layers: names of the layers that stay in float32.
        io: str, the dtype of the inputs and outputs of an integer file. None for its own integers.

    Returns:
        dict: `weights`, counts by dtype of the weights of convolutions, products, LSTMs and embeddings; `float_ops`,
        the ops of an integer file that compute in float32 because LiteRT has no integer kernel for them, each with its
        layer; `float_layers`, as given; and `io`, if given.

    Raises:
        ExportError: if the file is quantized in another way.
    """
    dtype = {"none": "float32", "float16": "float16"}.get(quantization, "int8")
    activation = {"int8": "int8", "int16x8": "int16"}.get(quantization, "float32")
    weights, elements, kept, float_ops = collections.Counter(), collections.Counter(), collections.Counter(), []
    known = layer_names(model)
    for subgraph in file.subgraphs:
        dequantized = {id(op.outputs[0]): op.inputs[0] for op in subgraph.ops if op.name == "DEQUANTIZE"}
        for op in subgraph.ops:
            spared = bool(set(layer_path(op.layer, known)) & set(float_layers))
            for x, direct in _weights(op, dequantized):
                weights[x.dtype] += 1
                if spared:
                    continue
                elements[x.dtype] += math.prod(x.shape)
                if x.dtype != dtype:
                    kept[located(op.name, op.layer, model)] += math.prod(x.shape)
                # Always converted to float: a row of an embedding, and the left matrix of a product.
                left = op.name == "BATCH_MATMUL" and x is dequantized.get(id(op.inputs[0]))
                if (
                    not (left or op.name == "GATHER")
                    and x.dtype == "int8"
                    and direct == (quantization == "weight_only_int8")
                ):
                    where, how = located(op.name, op.layer, model), "read as int8" if direct else "dequantized first"
                    raise ExportError(f"{quantization!r} is not available: the weights of {where} are {how}.")
            # The state of a fused LSTM is a variable, of int16 also in int8 files.
            tensors = [x for x in (*op.inputs, *op.outputs) if x is not None and not (x.constant or x.variable)]
            dtypes = {x.dtype for x in tensors}
            others = dtypes & {"int8", "int16"} - {activation}
            if others and not (activation == "float32" and op.name in ("GATHER", "DEQUANTIZE")):
                where = located(op.name, op.layer, model)
                raise ExportError(f"{quantization!r} is not available: activations of {where} are {others.pop()}.")
            if spared or op.name in ("QUANTIZE", "DEQUANTIZE"):
                continue
            if activation != "float32" and "float32" in dtypes:
                float_ops.append(located(op.name, op.layer, model))
    if elements[dtype] < WEIGHTS_SHARE * elements.total():
        where, count = kept.most_common(1)[0]
        raise ExportError(
            f"{quantization!r} is not available: {count} of {elements.total()} weights are not quantized, in {where}: "
            "there is no such kernel. Choose float16."
        )
    wrong = {"float32", "int8", "int16"} - {io or activation}
    for name, signature in file.signatures.items():
        for key, x in (signature.inputs | signature.outputs).items():
            if activation != "float32" and x.dtype in wrong:
                raise ExportError(f"{quantization!r} is not available: {key!r} of signature {name!r} stays {x.dtype}.")
    found = {"weights": dict(weights), "float_ops": float_ops, "float_layers": list(float_layers)}
    return found | ({} if io is None else {"io": io})


def _weights(op, dequantized=None):
    """The weights of an op: list of `(tensor, direct)`. `direct` is False where a DEQUANTIZE op is in between.

    Args:
        op: `keras_dl.export.graph.Op`.
        dequantized: dict of the inputs of DEQUANTIZE ops by the identity of their outputs.
    """
    dequantized = dequantized or {}
    held = [op.inputs[i] for i in _WEIGHTS.get(op.name, ()) if i < len(op.inputs) and op.inputs[i] is not None]
    if op.name == "GATHER":
        held = [x for x in held if len(x.shape) > 1]  # a row of numbers is no embedding
    pairs = [(dequantized.get(id(x), x), id(x) not in dequantized) for x in held]
    return [(x, direct) for x, direct in pairs if x.constant and x.dtype in ("float32", "float16", "int8")]
