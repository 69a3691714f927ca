"""The serving signatures of a model, checked before any work on them."""

import contextlib
import keyword
import re

import keras

from keras_dl.compat import all_layers, renamed
from keras_dl.signatures import Signature, default_signatures

# Precisions for training. Device runtimes have few kernels for the first two, and almost none for the last.
_OTHER_PRECISIONS = ("float16", "bfloat16", "float64")


def collect(model, batch_size: int = 1, names=None) -> dict[str, Signature]:
    """The signatures of any built Keras 3 model.

    Args:
        model: `keras.Model`. Its method `serving_signatures(batch_size)` is called if it has one. Otherwise
            `keras_dl.signatures.default_signatures` serves `call`.
        batch_size: int >= 1. The static batch of every input.
        names: names of the signatures, in this order; None for all.

    Returns:
        dict of `keras_dl.Signature` by name, every input of a static shape.

    Raises:
        TypeError: if `model` is not a Keras model, or `batch_size` is not an int.
        ValueError: if the model was never built, has no signatures, lacks one of `names`, or has an input whose shape
            is not static.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, not {type(model).__name__}.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size must be an int, not {batch_size!r}.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    if not model.built:
        raise ValueError(f"model={model.name!r} was never built. Call it once on a batch, or give it a keras.Input.")
    serve = getattr(model, "serving_signatures", None)
    signatures = default_signatures(model, batch_size) if serve is None else serve(batch_size)
    if not isinstance(signatures, dict) or not all(isinstance(x, Signature) for x in signatures.values()):
        raise TypeError(f"serving_signatures of model={model.name!r} must return a dict of keras_dl.Signature.")
    if not signatures:
        raise ValueError(f"serving_signatures of model={model.name!r} returned no signature.")
    for name, signature in signatures.items():
        for key, x in signature.inputs.items():
            if not key.isidentifier() or keyword.iskeyword(key) or key == "self":
                raise ValueError(f"The input {key!r} of signature {name!r} must be named like a Python variable.")
            if x.dtype == "string":
                raise ValueError(f"The input {key!r} of signature {name!r} holds strings; a device takes numbers.")
            if any(size is None for size in x.shape):
                raise ValueError(
                    f"The input {key!r} of signature {name!r} has the dynamic shape {tuple(x.shape)}. A file for a "
                    "device has static shapes: build the model with every size given, and pad what varies."
                )
    return signatures if names is None else select(signatures, names)


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
