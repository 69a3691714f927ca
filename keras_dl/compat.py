"""The private parts of TensorFlow and Keras that the package needs, each with its reason.

`tests/test_compat.py` fails, and names the versions, where one of them is no longer what it was.
"""

import re

import tensorflow as tf
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


def inner_layers(layer) -> list:
    """The layers that a layer holds in its attributes, lists and dicts. Only `Model.layers` is public."""
    return layer._layers


def all_layers(layer) -> list:
    """A layer and all layers inside it, at any depth. Keras has no public walk through the layers of layers."""
    return list(layer._flatten_layers())


def variables_of_class(store, snake_case_name):
    """The variables that a file holds for a layer by the earlier name of its class.

    A layer in a list is found in a file by its class: `layers/group_norm_1`. Keras has no public way to rename a class.
    `store`, which Keras gives to `load_own_variables`, is the whole file at the place of one layer.
    """
    folder, _, name = store._h5_entry_path.rpartition("/")
    number = re.search(r"(_\d+)?$", name).group()
    return store.get(f"{folder}/{snake_case_name}{number}")
