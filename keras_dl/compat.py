"""The private parts of TensorFlow and Keras that the package needs, each with its reason.

`tests/test_compat.py` fails, and names the versions, where one of them is no longer what it was.
"""

import contextlib
import re
from collections.abc import Callable

import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import record
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
