"""What users change in the layers inside a model, which its constructor's arguments do not say.

Layers can be frozen, given another dtype policy, quantized by `quantize`, or given a low-rank adapter by `enable_lora`.
The config of a layer or model holds this by the path of each sublayer, so that it comes back with the model.
"""

import collections

import keras

from keras_dl.compat import inner_layers

# Of `enable_lora`, by the names of Keras's attributes.
LORA = ("lora_rank", "lora_alpha")


def walk(layer, prefix=""):
    """The layers inside a layer with their paths, parents first: dict.

    A path says the class of each layer and its place among its sisters, as Keras's own paths of weights in a file do:
    the names that Keras gives differ from process to process.

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


def state(layer):
    """What each sublayer has that differs from `layer` itself: a dict by path, for a config.

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


def restore(layer, states):
    """Gives the sublayers of a built `layer` what `state` said of them.

    Raises:
        ValueError: if `states` names a sublayer that `layer` has not.
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
