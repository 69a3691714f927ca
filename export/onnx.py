"""From a traced signature to ONNX."""

import json
import logging
import types

import numpy as np
import tensorflow as tf

from keras_dl.compat import without_xla
from keras_dl.export.errors import ExportError
from keras_dl.export.metadata import NAME, encode
from keras_dl.export.saved_model import located
from keras_dl.extras import require

# The newest that tf2onnx writes.
OPSET = 18
# Added to the name of an output that is also an input.
STATE_SUFFIX = "_out"


def convert(model, name, signature, concrete, metadata):
    """Converts one signature; an ONNX file holds a single graph.

    Args:
        model: the `keras.Model` that the signature belongs to; errors name its layers.
        name: str. The signature's name. The file holds it.
        signature: `keras_dl.Signature`.
        concrete: the concrete function of the signature.
        metadata: dict. The file holds it in its `metadata_props`, as JSON under `keras_dl`.

    Returns:
        bytes: the ONNX file. Its inputs and outputs have the signature's names, with one exception: ONNX has one name
        space for both, so an output with the name of an input, such as a state, gets the suffix `_out`. These names are
        in the file's `metadata_props`, as JSON under `keras_dl.states`.

    Raises:
        ExportError: if ONNX has no op for one of the model's.
        ImportError: if tf2onnx is missing.
    """
    tf2onnx = require("tf2onnx", extra="export")
    onnx = require("onnx", extra="export")
    specs = [tf.TensorSpec(x.shape, x.dtype, name=key) for key, x in signature.inputs.items()]
    states = [key for key in signature.inputs if key in concrete.structured_outputs]

    @tf.function(autograph=False)
    def positional(*tensors):
        outputs = concrete(**dict(zip(signature.inputs, tensors, strict=True)))
        return {key + STATE_SUFFIX if key in states else key: x for key, x in outputs.items()}

    inlined = without_xla(positional.get_concrete_function(*specs), specs)
    # tf2onnx logs ops that it cannot translate. Here they raise an error.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    try:
        proto, _ = tf2onnx.convert.from_function(
            types.SimpleNamespace(get_concrete_function=lambda *_: inlined),
            specs,
            opset=OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    except Exception as error:  # tf2onnx passes on any error of its handlers
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"tf2onnx could not convert signature {name!r}: {lines[0].removesuffix('.')}. Choose format='litert' or "
            "'saved_model', or export less than the whole model."
        ) from error
    unknown = [x for x in nodes(proto.graph) if not onnx.defs.has(x.op_type, OPSET, x.domain)]
    if unknown:
        ops = dict.fromkeys(located(x.op_type, x.name, model) for x in unknown)
        raise ExportError(f"ONNX has no op for {', '.join(ops)}. Write that part of the model with other ops.")
    _hold_constants(proto.graph, positional.get_concrete_function(*specs), signature.inputs)
    properties = {NAME: encode(metadata).decode(), f"{NAME}.signature": name, f"{NAME}.states": json.dumps(states)}
    for key, value in properties.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def _hold_constants(graph, concrete, names):
    """Turns inputs that the signature does not have into constants. They are tensors of the model."""
    onnx = require("onnx", extra="export")
    held = {inner.name: outer for outer, inner in concrete.graph.captures if inner.dtype != tf.resource}
    for x in [x for x in graph.input if x.name not in names]:
        graph.initializer.append(onnx.numpy_helper.from_array(held[x.name].numpy(), x.name))
        graph.input.remove(x)


def nodes(graph):
    """Yields the nodes of an ONNX graph, and those of the graphs inside them (loops and branches)."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def _erfc(context, node, name, arguments):
    """Keras computes exact GELU with erfc(x) = 1 - erf(x). ONNX has no such op, and tf2onnx no rule for it."""
    onnx = require("onnx", extra="export")
    (x,), dtype = node.input, context.get_dtype(node.output[0])
    one = context.make_const(f"{name}/one", np.ones((), onnx.helper.tensor_dtype_to_np_dtype(dtype)))
    erf = context.make_node("Erf", [x], name=f"{name}/erf")
    context.remove_node(name)
    context.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=list(node.output))
