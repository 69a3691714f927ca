"""The base classes: what every layer and every model of the package shares."""

import inspect

import keras
from keras.src.models.functional import Functional  # what Keras makes of models of inputs and outputs; not public

from keras_dl.signatures import Signature, default_signatures, next_states

__all__ = ["Layer", "Model", "Signature", "default_signatures", "next_states"]


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
