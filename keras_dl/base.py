"""The base classes: what every layer and every model of the package shares."""

import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras.src.models.functional import Functional  # what Keras makes of models of inputs and outputs; not public


class _ConfiguredByArguments:
    """Serialises an object by its constructor's arguments, each kept under its own name."""

    def get_config(self):
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }
        for argument in inspect.signature(type(self).__init__).parameters:
            if argument not in ("self", "kwargs", *config):
                config[argument] = getattr(self, argument)
        return config


class Layer(_ConfiguredByArguments, keras.layers.Layer):
    """A `keras.layers.Layer` whose constructor arguments are its config."""


class Signature(NamedTuple):
    """One entry point of a deployed model.

    One that goes through a stream, `step`, takes each state under a name of its own, and returns it as `next_` and that
    name (`next_states`): what comes back is the input of the next call.

    Attributes:
        function: called as `function(**inputs)`, one tensor for each of `inputs`;
            returns a dict of named tensors.
        inputs: dict of `keras.KerasTensor` by argument name. Each has a static
            shape, the batch included, and the dtype that a device hands over.
    """

    function: Callable
    inputs: dict[str, keras.KerasTensor]


def next_states(states):
    """The states that a signature `step` returns, by the names that they have there.

    Example:

    >>> next_states({"hidden_1": 0.5})
    {'next_hidden_1': 0.5}
    """
    return {f"next_{name}": state for name, state in states.items()}


def default_signatures(model, batch_size=1):
    """What any built Keras model serves: one entry point `serve`, which is `model.call` in inference.

    Args:
        model: a built `keras.Model` with known input shapes (functional, sequential,
            or any other whose `inputs` are set).
        batch_size: int. The static batch of every input.

    Returns:
        dict with one `Signature`, `"serve"`. Its inputs carry the names of `model.inputs`, with
        `_` for what a Python variable's name cannot hold; its outputs those of `model.output_names`,
        or the keys of the dict that the model returns.

    Raises:
        ValueError: if the model has no known inputs.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"model={model.name!r} has no known inputs. Call it once on a batch if it is not built; give a subclassed "
            "model a method `serving_signatures(batch_size)` that returns a dict of `keras_dl.Signature`."
        )
    names = [re.sub(r"\W|^(?=\d)", "_", x.name) for x in model.inputs]
    inputs = {
        name: keras.KerasTensor((batch_size, *x.shape[1:]), x.dtype, name=name)
        for name, x in zip(names, model.inputs, strict=True)
    }
    output_names = getattr(model, "output_names", None)
    # A Sequential knows `inputs` before its first call, `input` only after.
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def serve(**tensors):
        outputs = model(keras.tree.pack_sequence_as(structure, [tensors[name] for name in inputs]), training=False)
        if isinstance(outputs, dict):
            return outputs
        outputs = keras.tree.flatten(outputs)
        # One layer can give several outputs, and then lends them all its name.
        unique = output_names is not None and len(set(output_names)) == len(outputs)
        names = output_names if unique else [f"output_{i}" for i in range(len(outputs))]
        return dict(zip(names, outputs, strict=True))

    return {"serve": Signature(serve, inputs)}


class Model(_ConfiguredByArguments, keras.Model):
    """A `keras.Model` that knows its published presets and what it serves on a device.

    Subclasses set `presets` to the rows of the paper's table, and override
    `serving_signatures` where a device should run more than `call`: decoded
    boxes, a sampler, one decoding step.
    """

    presets: dict[str, dict] = {}

    def __init__(self, *args, dtype=None, **kwargs):
        if "outputs" in kwargs or len(args) > 1:
            _make_functional(self)
        super().__init__(*args, **kwargs)
        if dtype is not None:  # keras.Model drops it when built from inputs and outputs
            self.dtype_policy = keras.dtype_policies.get(dtype)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)

    @classmethod
    def from_preset(cls, name, **overrides):
        """Builds the architecture published as `name`; `overrides` win over its arguments.

        Raises:
            ValueError: if `name` is not one of `cls.presets`; the message lists them.
        """
        if name not in cls.presets:
            raise ValueError(f"{cls.__name__} has no preset {name!r}. Choose one of: {', '.join(cls.presets)}.")
        return cls(**(cls.presets[name] | overrides))

    def serving_signatures(self, batch_size=1):
        """What a device runs, by name: dict of `Signature`. By default `call` on inputs of a static shape."""
        return default_signatures(self, batch_size)


class _FunctionalModel(Model, Functional):
    """What stands in the place of `Model` above classes whose models are built from inputs and outputs."""


def _make_functional(model):
    """Makes the class of a new model functional, as Keras does where inputs and outputs come to the constructor.

    Keras changes the bases of all classes up to its own `Model`. `Model` here would then be functional for each of
    its subclasses, and those that are not built from inputs and outputs could not be made any more.
    """
    if type(model) is Model:
        model.__class__ = _FunctionalModel
    elif not isinstance(model, Functional):
        for cls in type(model).__mro__:
            if Model in cls.__bases__:
                cls.__bases__ = tuple(_FunctionalModel if base is Model else base for base in cls.__bases__)
