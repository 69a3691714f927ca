"""The private parts of TensorFlow and Keras that the package needs, each with its reason.

`tests/test_compat.py` fails, and names the versions, where one of them is no longer what it was.
"""

import contextlib
import re
from collections.abc import Callable

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow import nn as tensorflow_nn
from tensorflow.python.eager import record
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.ops import control_flow_util


def is_eager(x) -> bool:
    """Whether `x` is a tensor with values, not a symbol of a graph.

    `tf.executing_eagerly` does not tell: Keras traces its symbolic tensors while TensorFlow executes eagerly.
    """
    return isinstance(x, tf.__internal__.EagerTensor)


def is_recording() -> bool:
    """Whether a tape of the caller records gradients now. TensorFlow has no public name for it."""
    return record.could_possibly_record()


def in_xla() -> bool:
    """Whether what is traced now will be compiled by XLA. TensorFlow has no public name for it."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


class NoDropoutMasksInInference:
    """Mixin of recurrent layers, before Keras's class. The layer itself draws dropout masks, and only in training.

    Keras draws them in each call of its layer, and a file that draws random numbers cannot be exported. There is no
    public switch for this.
    """

    def _maybe_config_dropout_masks(self, cell, inputs, states):
        pass


def inner_layers(layer) -> list:
    """The layers that a layer holds in its attributes, lists and dicts. Only `Model.layers` is public."""
    return layer._layers


def all_layers(layer) -> list:
    """A layer and all layers inside it, at any depth. Keras has no public walk through the layers of layers."""
    return list(layer._flatten_layers())


@contextlib.contextmanager
def taking(model, dtypes):
    """Inside the block, functional models take inputs of other dtypes: `dtypes` gives each by the one that it has.

    A functional model casts its inputs to their declared dtypes, which cannot change after it is built. All functional
    models inside `model` are meant, and those that a `Sequential` makes of itself, which goes by its `InputLayer`.
    """
    layers = all_layers(model)
    layers += [layer._functional for layer in layers if isinstance(layer, keras.Sequential) and layer._functional]
    held = [x for layer in layers for x in keras.tree.flatten(getattr(layer, "_inputs", ()))]
    held += [layer for layer in layers if isinstance(layer, keras.layers.InputLayer)]
    inputs = {id(x): x for x in held if isinstance(x, keras.KerasTensor | keras.layers.InputLayer)}
    changed = [(x, x.dtype) for x in inputs.values() if x.dtype in dtypes]
    try:
        for x, dtype in changed:
            x._dtype = dtypes[dtype]
        yield
    finally:
        for x, dtype in changed:
            x._dtype = dtype


def bare_operations(model) -> list:
    """The calls of `keras.ops` in a functional model and the models inside it. Keras keeps them beside the layers."""
    found = [x for layer in all_layers(model) for x in getattr(layer, "_operations", ())]
    return list({id(x): x for x in found if not isinstance(x, keras.layers.Layer)}.values())


def operations_before(operation) -> list:
    """The operations and layers of a functional model whose outputs an operation takes. Keras has no public way."""
    return [node.operation for first in operation._inbound_nodes[:1] for node in first.parent_nodes]


@contextlib.contextmanager
def in_named_scopes(operations, name: Callable[[str], str]):
    """Inside the block, each bare operation of Keras runs in a TensorFlow scope, as layers do: `name` of its own name.

    Keras opens scopes for layers alone, and has no public hook for other operations.
    """

    def scoped(operation):
        def call(*args, **kwargs):
            with tf.name_scope(name(operation.name)):
                return type(operation).call(operation, *args, **kwargs)

        return call

    try:
        for operation in operations:
            vars(operation)["call"] = scoped(operation)
        yield
    finally:
        for operation in operations:
            vars(operation).pop("call", None)


@contextlib.contextmanager
def plain_argmax():
    """Inside the block, `keras.ops.argmax` and `argmin` of floats are one op of TensorFlow each.

    Keras first makes -0.0 smaller than 0.0, by ops on bits that devices do not have, and has no public switch for it.
    Without this, the two are equal, and the first of them wins.
    """
    kept = {name: getattr(backend.numpy, name) for name in ("argmax", "argmin")}

    def plain(name):
        def extremum(x, axis=None, keepdims=False):
            x = tf.convert_to_tensor(x)
            if not x.dtype.is_floating or x.shape.rank == 0:
                return kept[name](x, axis, keepdims)
            flat = tf.reshape(x, [-1]) if axis is None else x
            found = getattr(tf, name)(flat, axis=0 if axis is None else axis, output_type=tf.int32)
            if not keepdims:
                return found
            return tf.reshape(found, [1] * x.shape.rank) if axis is None else tf.expand_dims(found, axis)

        return extremum

    try:
        for name in kept:
            setattr(backend.numpy, name, plain(name))
        yield
    finally:
        for name, function in kept.items():
            setattr(backend.numpy, name, function)


@contextlib.contextmanager
def _replaced(*changes):
    """Inside the block, attributes are others: `(owner, name, function from the old attribute to the new one)`."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, make in changes:
            setattr(owner, name, make(getattr(owner, name)))
        yield
    finally:
        for owner, name, old in kept:
            setattr(owner, name, old)


def plain_lookups():
    """Inside the block, Keras's `Embedding` looks ids up in its table, and does nothing else.

    Keras first adds the number of rows to negative ids, by ops that small devices do not have, and has no switch for
    it. A negative id is no token.
    """

    def make(call):
        def lookup(layer, inputs):
            if layer.quantization_mode is not None:
                return call(layer, inputs)
            ids = inputs if inputs.dtype in ("int32", "int64") else keras.ops.cast(inputs, "int32")
            rows = tf.gather(tf.convert_to_tensor(layer.embeddings), tf.convert_to_tensor(ids))
            return keras.ops.cast(rows, layer.compute_dtype)

        return lookup

    return _replaced((keras.layers.Embedding, "call", make))


# Keras's layers that mask scores before a softmax.
MASKING = (keras.layers.Softmax, keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
MASKING += (keras.layers.Attention,)
# A masked score is set this far below the lowest that is kept, so that its exponential is at most 1e-13 of any other.
_MARGIN = 30.0


def _is_constant(tensor):
    """Whether a tensor of a graph depends on no input and no variable, so that a converter folds it."""
    waiting, seen = [tensor.op], set()
    while waiting:
        op = waiting.pop()
        shape_alone = op.type == "Shape" and op.inputs[0].shape.is_fully_defined()
        if op.type in ("Placeholder", "ReadVariableOp") or (not op.inputs and op.type not in ("Const", "Shape")):
            return False
        if op.name not in seen and not shape_alone:
            waiting += [x.op for x in op.inputs]
        seen.add(op.name)
    return True


def bounded_masks():
    """Inside the block, Keras's layers set masked scores a little below the others, and not to -1e9.

    Calibration would take -1e9 for the range of the scores, of which an integer file has no step left. The softmax is
    the same. Keras has no public setting for the number. Masks that are constants become products, for which there are
    kernels of 16 bits.
    """

    def masked(scores, mask, axis=-1):
        scores, mask = tf.convert_to_tensor(scores), tf.cast(mask, "bool")
        kept = tf.cast(mask, scores.dtype)
        if not _is_constant(mask):
            lowest = tf.reduce_min(tf.where(mask, scores, 0.0), axis, keepdims=True)
            return tf.where(mask, scores, lowest - _MARGIN)
        lowest = tf.reduce_min(scores * kept, axis, keepdims=True)
        return scores * kept + (lowest - _MARGIN) * (1.0 - kept)

    def dot_products(apply_masks):
        def apply(logits, mask, is_causal):
            if is_causal:
                causal = tf.range(logits.shape[2])[:, None] >= tf.range(logits.shape[3])
                mask = causal if mask is None else tf.logical_and(mask, causal)
            return logits if mask is None else masked(logits, mask)

        return apply

    def softmax(call):
        def masked_call(layer, inputs, mask=None):
            if mask is None:
                return call(layer, inputs)
            mask = mask if mask.dtype == "bool" else mask > 0.5
            axis = layer.axis if isinstance(layer.axis, int) else list(layer.axis)
            return call(layer, masked(inputs, mask, axis)) * tf.cast(mask, inputs.dtype)

        return masked_call

    def attention(apply_scores):
        def apply(layer, scores, value, scores_mask=None, training=False):
            if scores_mask is not None:
                mask = scores_mask if len(scores_mask.shape) == 3 else keras.ops.expand_dims(scores_mask, -2)
                scores = masked(scores, mask)
            return apply_scores(layer, scores, value, None, training)

        return apply

    return _replaced(
        (tensorflow_nn, "_apply_masks", dot_products),
        (keras.layers.Softmax, "call", softmax),
        (keras.layers.Attention, "_apply_scores", attention),
    )


# The attribute of a call, and of the function that it calls, by which TensorFlow leaves a call to XLA.
_XLA = "_XlaMustCompile"


def without_xla(concrete, specs):
    """A concrete function whose inner functions are not compiled by XLA; the same one if none is.

    What reads a graph does not look into functions that are: `tf.function(jit_compile=True)`, as Keras writes grouped
    convolutions. TensorFlow has no public way to take this back.

    Args:
        concrete: the concrete function.
        specs: list of `tf.TensorSpec`: its positional inputs.

    Returns:
        a concrete function with the same structure of outputs. It holds values of variables as constants, and takes
        its inputs and what it has captured as positional inputs, under the names that they have in the graph.
    """
    definition = concrete.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    if not any(_XLA in node.attr and node.attr[_XLA].b for node in nodes):
        return concrete
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    definition = frozen.graph.as_graph_def()
    # The process already has functions of these names.
    names = {
        function.signature.name: f"{function.signature.name}_without_xla" for function in definition.library.function
    }
    for function in definition.library.function:
        function.signature.name = names[function.signature.name]
        function.attr.pop(_XLA, None)
    for node in [*definition.node, *(node for function in definition.library.function for node in function.node_def)]:
        node.attr.pop(_XLA, None)
        node.op = names.get(node.op, node.op)
        for attribute in node.attr.values():
            for called in (attribute.func, *attribute.list.func):
                if called.name:
                    called.name = names.get(called.name, called.name)
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    outputs = tf.nest.pack_sequence_as(concrete.structured_outputs, [x.name for x in frozen.outputs])
    return wrapped.prune([x.name for x in frozen.inputs], outputs, input_signature=(tuple(specs), {}))


def saved_path(store) -> str | None:
    """The path in a `.keras` or `.weights.h5` file that `load_own_variables(store)` reads; None if there is none.

    Layers whose variables stood elsewhere in earlier versions need it. Keras does not tell a layer its path.
    """
    return getattr(store, "_h5_entry_path", None)


def variables_of_class(store, snake_case_name):
    """The variables that a file holds for a layer by the earlier name of its class.

    A layer in a list is found in a file by its class: `layers/group_norm_1`. Keras has no public way to rename a class.
    `store`, which Keras gives to `load_own_variables`, is the whole file at the place of one layer.
    """
    folder, _, name = saved_path(store).rpartition("/")
    number = re.search(r"(_\d+)?$", name).group()
    return store.get(f"{folder}/{snake_case_name}{number}")


def optimizer_map(optimizer):
    """What a `keras.optimizers.MultiOptimizer` asks for the optimizer of a variable; None of any other optimizer.

    Keras does not check it. Only its config is public, which cannot be made of a wrong one.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a loss scale
    return getattr(optimizer, "_optimizer_map", None)


def last_compiled_loss(model):
    """The loss that the last `compile` of a model was given; None if it was given none, or never called.

    `model.loss` is that of an earlier `compile` if the last one was given none. The public config has the optimizer as
    well, which not every class can write.
    """
    config = getattr(model, "_compile_config", None)
    return None if config is None else config.config["loss"]


@contextlib.contextmanager
def no_shared_objects():
    """Inside the block, nothing that is deserialized stands for another object.

    While Keras loads a file, it finds shared objects by the `id` with which they were serialized.
    `keras.layers.Bidirectional` serializes the layer that it is given. If a constructor makes several of them and keeps
    none of the layers, Python reuses an `id`, and a layer of the first may be taken for one of the second. There is no
    public way to prevent it.
    """
    names = ("shared_objects/id_to_obj_map", "shared_objects/id_to_config_map")
    before = {name: global_state.get_global_attribute(name) for name in names}
    try:
        for name in names:
            global_state.set_global_attribute(name, None)
        yield
    finally:
        for name, value in before.items():
            global_state.set_global_attribute(name, value)


@contextlib.contextmanager
def renamed(variables, rename):
    """Inside the block, TensorFlow variables have other names: `rename` gives each from the one that it has.

    TensorFlow creates variables by any name, and does not save those whose names cannot be scopes. Only the handle of a
    variable holds its name, and there is no public way to change it.
    """
    names = [(variable, variable._handle_name) for variable in variables if rename(variable.name) != variable.name]
    try:
        for variable, name in names:
            variable._handle_name = rename(name)
        yield
    finally:
        for variable, name in names:
            variable._handle_name = name


def change_before_quantizing(converter, change: Callable[[bytes], bytes]) -> None:
    """Lets `change` edit the float file of a `tf.lite.TFLiteConverter` before the converter calibrates it.

    TensorFlow has no public step between conversion and quantization.
    """
    quantize = converter._quantize
    converter._quantize = lambda content, *arguments: quantize(change(content), *arguments)


# The setting of a `tf.lite.TFLiteConverter` that `quantize_calibrated` needs: the file has the ranges of its tensors,
# and is not quantized yet.
CALIBRATE_ONLY = "_experimental_calibrate_only"


def quantize_calibrated(content: bytes, dtype, float_nodes: list[str]) -> bytes:
    """Quantizes a calibrated LiteRT file, except the ops that write `float_nodes`.

    TensorFlow's public `QuantizationDebugger` calls this function, but leaves inputs and outputs in float32.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    return mlir_quantize(content, input_data_type=dtype, output_data_type=dtype, denylisted_nodes=float_nodes)


def saved_model_proto(folder):
    """The `SavedModel` message of a folder, as `tf.saved_model.load` reads it, without loading it.

    It is read from `saved_model.pb`, or from `saved_model.pbtxt` if there is no such file. TensorFlow's public function
    loads what it reads, and that runs the ops that initialize its objects.
    """
    return tf.__internal__.saved_model.parse_saved_model(str(folder))


def variable_index(optimizer, variable) -> int:
    """The number of a variable among those that an optimizer was built with. Keras has no public name for it."""
    return optimizer._get_variable_index(variable)
