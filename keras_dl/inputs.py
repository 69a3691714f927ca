"""What a model is given in a call: names, shapes and whole numbers, checked before anything casts them.

Keras casts each input of a functional model to its dtype, so that the id 5.9 becomes 5, and 2**32 + 5 becomes 5, too.
It spreads an axis of size 1, and warns of an unknown name, but may take that input for another one. The checks here see
what was given. Names, shapes and dtypes are known while a graph is traced, so `fit` and `predict` check them as well,
at no cost when the graph runs. Values are checked if called eagerly.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_dl.checks import shape_of, shapes_agree
from keras_dl.compat import is_eager

INT32 = np.iinfo("int32")


def as_integers(name: str, x):
    """`x` with the dtype int32.

    Args:
        name: str. The name of `x` in an error.
        x: array, tensor or list of numbers.

    Returns:
        `x` in int32. In a graph, a number beyond int32 becomes the nearest one in it.

    Raises:
        ValueError: if `x` has no int dtype, for floats would be cut down to other numbers. Also if it has values, and
            one of them is beyond int32.

    Example:

    >>> as_integers("edges", np.array([0.5]))
    Traceback (most recent call last):
    ...
    ValueError: edges has the dtype float64; it must be int.
    >>> as_integers("edges", np.array([2**32 + 5]))
    Traceback (most recent call last):
    ...
    ValueError: edges holds 4294967301, which is beyond int32.
    """
    x = x if hasattr(x, "dtype") else np.asarray(x)
    dtype = tf.as_dtype(x.dtype)
    if not dtype.is_integer:
        raise ValueError(f"{name} has the dtype {dtype.name}; it must be int.")
    if dtype == tf.int32:
        return x
    if is_eager(x) or isinstance(x, np.ndarray):
        values = np.asarray(x)
        beyond = (values < INT32.min) | (values > INT32.max)
        if beyond.any():
            raise ValueError(f"{name} holds {values[beyond][0]}, which is beyond int32.")
    return _cast(x)


def _cast(x):
    if isinstance(x, np.ndarray):
        return x.astype("int32")
    unsigned = tf.as_dtype(x.dtype) == tf.uint64
    x = tf.cast(x, "int64")
    if unsigned:
        x = tf.where(x < 0, tf.constant(INT32.max, "int64"), x)  # from 2**63 on
    return tf.cast(tf.clip_by_value(x, INT32.min, INT32.max), "int32")


def check_names(inputs: Mapping, required, optional=(), hint: str = "") -> None:
    """Refuses a dict of inputs that lacks one, or has one that the model would not use.

    Example:

    >>> check_names({"input_ids": [[1]]}, ["tokens"], ["segments"])
    Traceback (most recent call last):
    ...
    ValueError: inputs has the keys 'input_ids'; it must have 'tokens', and may have 'segments'.
    """
    if set(required) <= inputs.keys() <= {*required, *optional}:
        return
    given, required, optional = (", ".join(map(repr, sorted(names))) for names in (inputs, required, optional))
    may = f", and may have {optional}" if optional else ""
    came = f"inputs has the keys {given}" if given else "inputs is empty"
    raise ValueError(f"{came}; it must have {required}{may}.{hint}")


def check_rows(inputs: Mapping) -> None:
    """Refuses inputs whose numbers of rows are known and differ. One row would be spread over the others.

    Example:

    >>> check_rows({"source": np.zeros((2, 5)), "target": np.zeros((1, 4))})
    Traceback (most recent call last):
    ...
    ValueError: inputs must have the same number of rows; they have {'source': 2, 'target': 1}.
    """
    arrays = {name: _array(x) for name, x in inputs.items()}
    shapes = {name: shape_of(x) for name, x in arrays.items() if hasattr(x, "shape")}  # not of what is nested
    rows = {name: shape[0] for name, shape in shapes.items() if shape and shape[0] is not None}
    if len(set(rows.values())) > 1:
        raise ValueError(f"inputs must have the same number of rows; they have {rows}.")


def checked_inputs(inputs, wanted):
    """What a functional model is given, checked: the same structure, with whole numbers in int32.

    Args:
        inputs: an array, a tensor, or a dict or list of them. Other structures are returned as they are.
        wanted: the model's own inputs: a `keras.KerasTensor`, or a dict or list of them.

    Raises:
        ValueError: if names, shapes or numbers of rows differ from those of the model's inputs, or if whole numbers are
            floats or beyond int32.
    """
    if isinstance(wanted, list) and len(wanted) == 1:
        (wanted,) = wanted
    if isinstance(inputs, Mapping):
        wanted = {wanted.name: wanted} if isinstance(wanted, keras.KerasTensor) else wanted
        if not isinstance(wanted, Mapping):
            return inputs
        check_names(inputs, wanted)
        checked = {name: _checked(name, _array(inputs[name]), wanted[name]) for name in wanted}
        check_rows(checked)
        return checked
    if isinstance(wanted, keras.KerasTensor):
        if isinstance(inputs, list | tuple):
            return inputs if len(inputs) != 1 else [_checked(wanted.name, inputs[0], wanted)]
        return _checked(wanted.name, inputs, wanted)
    if isinstance(wanted, list | tuple) and isinstance(inputs, list | tuple) and len(wanted) == len(inputs):
        return [_checked(getattr(spec, "name", None), x, spec) for x, spec in zip(inputs, wanted, strict=True)]
    return inputs


def _array(x):
    """A list of numbers as an array. Keras would take each of them for an input."""
    numbers = isinstance(x, list | tuple) and all(isinstance(leaf, int | float) for leaf in keras.tree.flatten(x))
    return np.asarray(x) if numbers else x


def _checked(name, x, wanted):
    if not hasattr(x, "shape") or not isinstance(wanted, keras.KerasTensor):
        return x
    shape = shape_of(x)
    if shape is None:
        return x
    if not _fits(shape, wanted.shape):
        axes = ", ".join(["batch", *("any" if n is None else str(n) for n in wanted.shape[1:])])
        gray = len(shape) == len(wanted.shape) == 4 and (shape[-1], wanted.shape[-1]) == (1, 3)
        hint = f" To give gray images, repeat their channel: np.repeat({name}, 3, axis=-1)." if gray else ""
        raise ValueError(f"{name} has the shape {shape}; it must be ({axes}).{hint}")
    known = isinstance(x, np.ndarray | tf.Tensor | tf.Variable)
    return as_integers(name, x) if known and tf.as_dtype(wanted.dtype).is_integer else x


def _fits(shape, wanted):
    """Whether Keras takes the shape for the wanted one: it adds or drops a last axis of 1."""
    if len(shape) == len(wanted) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) == len(wanted) - 1 and wanted[-1] == 1:
        shape = (*shape, 1)
    return shapes_agree(shape[1:], wanted[1:]) and len(shape) == len(wanted)
