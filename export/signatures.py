"""The serving signatures of a model, checked before any work on them."""

import collections.abc
import contextlib
import keyword
import numbers
import re

import keras
import numpy as np

from keras_dl.compat import all_layers, renamed
from keras_dl.export.given import elements
from keras_dl.signatures import Signature, default_signatures

# Precisions for training. Device runtimes have few kernels for the first two, and almost none for the last.
_OTHER_PRECISIONS = ("float16", "bfloat16", "float64")


def collect(model, batch_size: int = 1, names=None, input_shapes=None, calibration=None) -> dict[str, Signature]:
    """The signatures of any built Keras 3 model.

    Args:
        model: `keras.Model`. Its method `serving_signatures(batch_size)` is called if it has one. Otherwise
            `keras_dl.signatures.default_signatures` serves `call`.
        batch_size: int >= 1. The static batch of every input.
        names: names of the signatures, in this order; None for all.
        input_shapes: dict by input name of whole shapes, the batch included, or of `keras.KerasTensor`, which also have
            a dtype. They replace those of the model, where its sizes are not known.
        calibration: calibration data that can be read again. A model that was only called, not built from
            `keras.Input`, does not know the dtypes of its inputs: they are those of the data, or float32.

    Returns:
        dict of `keras_dl.Signature` by name, every input of a static shape.

    Raises:
        TypeError: if `model` is not a Keras model, or `batch_size` is not an int.
        ValueError: if the model was never built, has no signatures, lacks one of `names`, or has an input whose shape
            is not static.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, not {type(model).__name__}.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral):
        raise TypeError(f"batch_size must be an int, not {batch_size!r}.")
    batch_size = int(batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    if not model.built:
        raise ValueError(f"model={model.name!r} was never built. Call it once on a batch, or give it a keras.Input.")
    shapes = _checked_shapes(input_shapes, batch_size)
    sizes = {name: shape for name, (shape, _) in shapes.items()}
    own = _has_its_own(model)
    signatures = model.serving_signatures(batch_size) if own else default_signatures(model, batch_size, sizes)
    if not isinstance(signatures, dict) or not all(isinstance(x, Signature) for x in signatures.values()):
        raise TypeError(f"serving_signatures of model={model.name!r} must return a dict of keras_dl.Signature.")
    if not signatures:
        raise ValueError(f"serving_signatures of model={model.name!r} returned no signature.")
    called = inferred(model)
    signatures = {
        name: signature._replace(inputs=_reshaped(signature, shapes, calibration, called))
        for name, signature in signatures.items()
    }
    known = {key for signature in signatures.values() for key in signature.inputs}
    if unknown := [key for key in shapes if key not in known]:
        raise ValueError(f"input_shapes has {unknown}: the inputs of model={model.name!r} are {sorted(known)}.")
    for name, signature in signatures.items():
        for key, x in signature.inputs.items():
            if not key.isidentifier() or keyword.iskeyword(key) or key == "self":
                raise ValueError(f"The input {key!r} of signature {name!r} must be named like a Python variable.")
            if x.dtype == "string":
                raise ValueError(
                    f"The input {key!r} of signature {name!r} holds strings; a device takes numbers. Export the part "
                    "of the model behind the layer that turns strings into numbers."
                )
            if any(size is None for size in x.shape):
                raise ValueError(
                    f"The input {key!r} of signature {name!r} has the dynamic shape {tuple(x.shape)}. A file for a "
                    f"device has static shapes: give input_shapes={{{key!r}: {_example(x.shape)}}} with the sizes that "
                    "it takes, and pad what varies."
                )
    return signatures if names is None else select(signatures, names)


def _example(shape):
    """The shape with sizes in the place of those that are not known."""
    return tuple(size if size is not None else 224 if len(shape) == 4 else 64 for size in shape)


def _checked_shapes(input_shapes, batch_size):
    """`input_shapes` as a dict of `keras.KerasTensor`, whose dtype is None where only a shape was given."""
    if input_shapes is None:
        return {}
    if not isinstance(input_shapes, collections.abc.Mapping):
        raise TypeError(f"input_shapes must be a dict of shapes by input name, not {type(input_shapes).__name__}.")
    checked = {}
    for name, x in input_shapes.items():
        shape = getattr(x, "shape", x)
        sizes = tuple(shape) if isinstance(shape, collections.abc.Iterable) and not isinstance(shape, str) else None
        if not sizes or not all(isinstance(size, numbers.Integral) and size > 0 for size in sizes):
            raise ValueError(f"input_shapes: {name!r} has {shape!r}; it must be sizes, such as (1, 224, 224, 3).")
        if sizes[0] != batch_size:
            raise ValueError(
                f"input_shapes: {name!r} has {sizes}, which begins with the batch {sizes[0]}; batch_size={batch_size}."
            )
        checked[name] = tuple(map(int, sizes)), str(x.dtype) if hasattr(x, "dtype") else None
    return checked


def inferred(model):
    """Whether the shapes of a model's inputs are those of its last call, and their dtypes are not known."""
    return not _has_its_own(model) and not getattr(model, "inputs", None)


def _has_its_own(model):
    """Whether a model says its signatures. The method of the base classes gives the default ones."""
    method = getattr(type(model), "serving_signatures", None)
    return hasattr(model, "serving_signatures") and getattr(method, "__module__", None) != "keras_dl.base"


def _reshaped(signature, shapes, calibration, called):
    """The inputs of a signature with the given shapes; of a model that was only called, with the dtypes of the data."""
    dtypes = _dtypes(calibration, signature) if called and calibration is not None else {}
    inputs = {}
    for name, x in signature.inputs.items():
        shape, dtype = shapes.get(name, (tuple(x.shape), None))
        known = [None] * len(x.shape) if called else x.shape  # a called model may take other sizes, too
        if len(shape) != len(known) or any(a is not None and a != b for a, b in zip(known, shape, strict=True)):
            raise ValueError(f"input_shapes: {name!r} has {shape}; the model takes {tuple(x.shape)}.")
        inputs[name] = keras.KerasTensor(shape, dtype or dtypes.get(name, x.dtype), name=name)
    return inputs


def _dtypes(calibration, signature):
    """The dtypes of integers in the first element of calibration data, by input."""
    shapes = {name: tuple(x.shape) for name, x in signature.inputs.items()}
    if isinstance(calibration, collections.abc.Mapping):
        calibration = [calibration] if set(calibration) == set(shapes) else next(iter(calibration.values()), [])
    first = next(elements(calibration, shapes, "calibration"), {})
    dtypes = {name: np.asarray(x).dtype for name, x in first.items() if name in shapes}
    return {name: x.name if x.itemsize < 8 else "int32" for name, x in dtypes.items() if x.kind in "iu"}


def select(signatures: dict[str, Signature], names) -> dict[str, Signature]:
    """Some of the signatures, in the order of their names.

    Args:
        signatures: dict of `keras_dl.Signature` by name.
        names: str, or sequence of str.

    Raises:
        ValueError: if `names` is empty, or one of them is unknown.
    """
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in signatures]
    if unknown or not names:
        raise ValueError(f"signatures={names!r} must name some of: {', '.join(signatures)}.")
    return {name: signatures[name] for name in names}


def lowered(model):
    """Whether a layer of the model has another precision, and is inside `computing_in_float32`."""
    return any(isinstance(layer.dtype_policy, _Float32) for layer in all_layers(model))


class _Float32(keras.DTypePolicy):
    """Computes in float32 on variables of any precision, which are cast when they are read."""

    def __init__(self, variable_dtype):
        super().__init__("float32")
        self._kept = variable_dtype

    @property
    def variable_dtype(self):
        return self._kept


@contextlib.contextmanager
def computing_in_float32(model):
    """Inside the block, every layer of `model` computes in float32. After it, in its own precision.

    Other precisions are for training: device runtimes have few kernels for them, or none. A LiteRT file of quantization
    `float16` stores weights in float16 and computes in float32. Variables are not changed.

    Yields:
        set of the precisions that were changed; empty for a float32 model.
    """
    changed = [layer for layer in all_layers(model) if layer.compute_dtype in _OTHER_PRECISIONS]
    policies = [layer.dtype_policy for layer in changed]
    try:
        for layer, policy in zip(changed, policies, strict=True):
            layer.dtype_policy = _Float32(policy.variable_dtype)
        yield {policy.compute_dtype for policy in policies}
    finally:
        for layer, policy in zip(changed, policies, strict=True):
            layer.dtype_policy = policy


def scope_name(name: str) -> str:
    """A name of a layer as TensorFlow accepts it for a scope.

    Example:

    >>> scope_name("dense_1"), scope_name("my model (b)"), scope_name("_first")
    ('dense_1', 'my_model__b_', 'layer_first')
    """
    name = re.sub(r"[^A-Za-z0-9_.:>-]", "_", name)
    return name if re.match("[A-Za-z0-9.]", name) else f"layer{name}"


@contextlib.contextmanager
def named_as_scopes(model):
    """Inside the block, layers and variables whose names TensorFlow refuses as scopes have other names."""
    variables = [variable.value for variable in model.variables]
    changed = [(layer, layer.name) for layer in all_layers(model) if scope_name(layer.name) != layer.name]
    try:
        for layer, name in changed:
            layer.name = scope_name(name)
        with renamed(variables, lambda name: "/".join(map(scope_name, name.split("/")))):
            yield
    finally:
        for layer, name in changed:
            layer.name = name
