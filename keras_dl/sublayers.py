"""State of the layers inside a layer or model that its constructor arguments do not hold.

Users can freeze layers, set their dtype policies, quantize them by `quantize`, or add low-rank adapters by
`enable_lora`. The config of a layer or model holds this state by the path of each sublayer, so that it is restored with
the model.
"""

import collections

import keras

from keras_dl.compat import inner_layers

# Attributes that `enable_lora` sets.
LORA = ("lora_rank", "lora_alpha")


def walk(layer: keras.Layer, prefix: str = "") -> dict[str, keras.Layer]:
    """The layers inside a layer by their paths, parents first: dict.

    A path consists of class names, each with its number among layers of that class, as the paths of weights in Keras's
    files. Names of layers would not do: Keras's automatic names differ from process to process.

    Example:

    >>> list(walk(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])))
    ['InputLayer', 'Dense', 'Dense_1']
    """
    layers, count = {}, collections.Counter()
    for inner in inner_layers(layer):
        name = type(inner).__name__
        path = f"{prefix}{name}_{count[name]}" if count[name] else f"{prefix}{name}"
        count[name] += 1
        layers[path] = inner
        layers |= walk(inner, f"{path}/")
    return layers


def state(layer: keras.Layer) -> dict[str, dict]:
    """State of each sublayer that differs from `layer` itself: a dict by path, for a config.

    `"trainable"` and `"dtype"` (a serialized policy) stand where they differ from those of `layer`; `"lora_rank"` and
    `"lora_alpha"` where the sublayer has a low-rank adapter.
    """
    states = {}
    policy = _policy(layer)
    for path, inner in walk(layer).items():
        own = {}
        if inner.trainable != layer.trainable:
            own["trainable"] = inner.trainable
        if _policy(inner) != policy:
            own["dtype"] = _policy(inner)
        if getattr(inner, "lora_enabled", False):
            own |= {name: getattr(inner, name) for name in LORA}
        if own:
            states[path] = own
    return states


def exist(layer: keras.Layer, states: dict[str, dict]) -> bool:
    """Whether `layer` has all sublayers that `states` names, and those with a low-rank adapter are built."""
    layers = walk(layer)
    return all(path in layers and (layers[path].built or "lora_rank" not in own) for path, own in states.items())


def restore(layer: keras.Layer, states: dict[str, dict]) -> None:
    """Restores the sublayers of `layer` to what `state` returned.

    Raises:
        ValueError: if `states` names a sublayer that `layer` does not have.
    """
    layers = walk(layer)
    unknown = [path for path in states if path not in layers]
    if unknown:
        raise ValueError(
            f"The config of {layer.name!r} has state of {', '.join(map(repr, unknown))}, which the model does not have."
        )
    policy = _policy(layer)
    for path, inner in layers.items():
        own = states.get(path, {})
        trainable = own.get("trainable", layer.trainable)
        if inner.trainable != trainable:
            inner.trainable = trainable
        dtype = own.get("dtype", policy)
        if _policy(inner) != dtype:
            inner.dtype_policy = keras.saving.deserialize_keras_object(dtype)
        if "lora_rank" in own and not inner.lora_enabled:
            inner.enable_lora(own["lora_rank"], lora_alpha=own["lora_alpha"])


def _policy(layer):
    return keras.saving.serialize_keras_object(layer.dtype_policy)
