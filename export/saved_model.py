"""From Keras signatures to TensorFlow graphs, and from graphs to a SavedModel."""

import contextlib
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_dl.compat import (
    all_layers,
    bare_operations,
    bounded_masks,
    in_named_scopes,
    operations_before,
    plain_argmax,
    plain_lookups,
    taking,
)
from keras_dl.export.errors import ExportError
from keras_dl.export.reasons import failing_layer, reason, unfiltered_errors
from keras_dl.export.signatures import computing_in_float32, lowered, named_as_scopes, scope_name
from keras_dl.tracing import without_loops

_NAMELESS = ("arith.", "tf.", "tfl.")  # prefixes of names that the converter makes up for tensors that lost their own


class Traced(NamedTuple):
    """A signature as a graph.

    Attributes:
        function: the `tf.function`.
        concrete: its one concrete function.
        unlooped: tuple of str: the names of the recurrent layers whose loops were written out.
    """

    function: Any
    concrete: Any
    unlooped: tuple[str, ...] = ()


def trace(model, signatures, dtypes=None, loops=True, fused=True):
    """Traces each signature for a file: with static shapes, computing in float32, with ops that devices have.

    Args:
        model: the `keras.Model` that the signatures belong to.
        signatures: dict of `keras_dl.Signature`.
        dtypes: dict of replacements for dtypes of inputs, such as `{"uint8": "float32"}`, as integer quantization needs
            them. With it, the masks of Keras's layers are bounded.
        loops: bool. False to write out the loops of recurrent layers, as `keras_dl.tracing.without_loops` does.
        fused: bool. Whether it may write one as a fused op.

    Returns:
        dict of `Traced` by signature.

    Raises:
        ExportError: as `trace_signature`. Also if a signature draws random numbers or changes a variable.
    """
    traced = {}
    in_scopes = in_named_scopes(bare_operations(model), _operation_scope)
    unlooped = contextlib.nullcontext(()) if loops else without_loops(model, fused)
    masks = bounded_masks() if dtypes else contextlib.nullcontext()
    with computing_in_float32(model), plain_argmax(), plain_lookups(), masks, in_scopes, unlooped as changed:
        for name, signature in signatures.items():
            traced[name] = trace_signature(model, name, signature, dtypes)._replace(unlooped=tuple(changed))
            _check_pure(name, traced[name].concrete, model)
    return traced


def trace_signature(model, name, signature, dtypes=None):
    """Traces one signature with its static shapes.

    Args:
        model: the `keras.Model` that it belongs to.
        name: str. The signature's name, for errors.
        signature: `keras_dl.Signature`.
        dtypes: as in `trace`.

    Returns:
        `Traced`.

    Raises:
        ExportError: if the signature fails when it is traced, does not return a dict of tensors, or returns a tensor
            whose shape is not static.
    """
    function = tf.function(signature.function, autograph=False)
    dtypes = dtypes or {}
    specs = {key: tf.TensorSpec(x.shape, dtypes.get(x.dtype, x.dtype), name=key) for key, x in signature.inputs.items()}
    try:
        with named_as_scopes(model), taking(model, dtypes), unfiltered_errors():
            concrete = function.get_concrete_function(**specs)
    except Exception as error:  # the model's own code runs here, and may raise anything
        raise ExportError(
            f"Signature {name!r} failed on its declared inputs{failing_layer(error, model)}: {type(error).__name__}: "
            f"{reason(error)}{_advice(model, signature)}"
        ) from error
    outputs = concrete.structured_outputs
    if not isinstance(outputs, dict) or not outputs or not all(isinstance(x, tf.Tensor) for x in outputs.values()):
        raise ExportError(f"Signature {name!r} must return a dict of named tensors.")
    for key, x in outputs.items():
        if not x.shape.is_fully_defined():
            raise ExportError(
                f"The output {key!r} of signature {name!r} has the dynamic shape {x.shape}: it comes from "
                f"{located(x.op.type, origin(x), model)}. A file for a device has static shapes: pad what varies to "
                "its largest size."
            )
    return Traced(function, concrete)


def origin(tensor):
    """The name in the graph of the op that computes a tensor, behind the identities that TensorFlow adds: str."""
    while tensor.op.type == "Identity" and "/" not in tensor.op.name:
        (tensor,) = tensor.op.inputs
    return tensor.op.name


def has_loops(concrete):
    """Whether a graph, or a function in it, has a loop."""
    return any(node.op in ("While", "StatelessWhile") for node in _nodes(concrete))


def has_fused(concrete):
    """Whether a function in a graph is to become one fused op: see `keras_dl.LSTM`."""
    return any("api_implements" in function.attr for function in concrete.graph.as_graph_def().library.function)


def _advice(model, signature):
    """What may help if a model fails on the inputs of a signature; empty if nothing is known."""
    advice = ""
    fixed = {x.shape[0] for x in getattr(model, "inputs", None) or () if len(x.shape)} - {None}
    served = {x.shape[0] for x in signature.inputs.values() if len(x.shape)}
    if len(fixed) == 1 and fixed != served:
        advice += (
            f" The inputs of the model have a fixed batch of {min(fixed)}: export it with batch_size={min(fixed)}."
        )
    if lowered(model):
        advice += " A file computes in float32: inside of a layer, cast to the dtype of its input, not to float16."
    return advice


def _check_pure(name, concrete, model):
    """Refuses random numbers and changes of variables: a file must give the same result for the same input."""
    nodes = list(_nodes(concrete))
    draws = [node for node in nodes if any(word in node.op for word in ("Random", "Normal", "Multinomial", "Stateful"))]
    draws = [node for node in draws if node.op != "StatefulPartitionedCall"]
    changes = [node for node in nodes if node.op.startswith(("Assign", "ResourceScatter"))]
    # Keras keeps a seed in a variable, and each draw changes it. Draws from a constant seed are always the same.
    if draws and (changes or not all(node.op.startswith("Stateless") for node in draws)):
        node, what, cure = draws[0], "draws random numbers", "Make the noise an input of the signature."
    elif changes:
        node, what, cure = changes[0], "changes a variable", "Make the state an input and an output of the signature."
        path = layer_path(node.name, layer_names(model))
        if any(getattr(x, "stateful", False) for x in all_layers(model) if x.name in path):
            cure = "Build that layer with stateful=False. To go step by step, take and return its states."
    else:
        return
    raise ExportError(f"Signature {name!r} {what} ({located(node.op, node.name, model)}), and a file cannot. {cure}")


def _nodes(concrete):
    graph = concrete.graph.as_graph_def()
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def located(op, scopes, model):
    """An op and the Keras layer that it belongs to, in words: `"Softmax in layer 'block/attention'"`.

    Args:
        op: str.
        scopes: str. The op's name in the graph, such as `"model_1/block_1/attention_1/Softmax"`. Keras opens the scope
            of a layer twice per call. So TensorFlow appends `_1` to the layer's name, and `_3` in a second call.
        model: `keras.Model`.
    """
    path = layer_path(scopes, layer_names(model))
    operation = next((x for x in bare_operations(model) if path and x.name == path[-1]), None)
    if operation is not None:
        before = list(dict.fromkeys(repr(x.name) for x in operations_before(operation)))
        return f"{op} in the operation {path[-1]!r}" + f" on {', '.join(before)}" * bool(before)
    if not path and scopes.startswith(_NAMELESS):
        return f"{op} in a layer that the converter did not write down"
    if not path and layer_path(scopes, {scope_name(model.name): model.name}):
        return f"{op} in the call of model {model.name!r} itself"
    return f"{op} in layer {'/'.join(path)!r}" if path else f"{op} outside of the model's layers"


def layer_names(model):
    """The names of the layers of a model, of the layers inside them, and of bare operations, by their scopes: dict."""
    layers = {scope_name(layer.name): layer.name for layer in all_layers(model) if layer is not model}
    return {_operation_scope(x.name): x.name for x in bare_operations(model)} | layers


def _operation_scope(name):
    """The scope of a call of `keras.ops` in a functional model. Ops of TensorFlow have no such names."""
    return f"{scope_name(name)}.call"


def layer_path(scopes, known):
    """The layers that an op is in, the outermost first: list of str.

    Args:
        scopes: str, as in `located`.
        known: dict, the result of `layer_names`.
    """
    path = []
    for scope in scopes.split("/"):
        stem, _, number = scope.rpartition("_")
        scope = stem if number.isdigit() and stem in known else scope
        if scope in known:
            path.append(known[scope])
    return path


def write(model, traced, folder):
    """Writes traced signatures as a SavedModel.

    Args:
        model: the `keras.Model` whose variables and lookup tables they use.
        traced: dict of `Traced` by signature.
        folder: path of the new folder.
    """
    with named_as_scopes(model):
        archive = keras.export.ExportArchive()
        archive.track(model)
        for name, x in traced.items():
            archive.add_endpoint(name, x.function)
        archive.write_out(str(folder), verbose=False)
