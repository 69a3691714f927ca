"""The base classes: shared parts of every layer and every model of the package."""

import keras

from keras_dl import sublayers
from keras_dl.arguments import check_keywords, config_arguments, renamed_arguments
from keras_dl.compat import inner_layers, last_compiled_loss, no_shared_objects
from keras_dl.compiling import check_loss, check_optimizer
from keras_dl.distributing import Distributed
from keras_dl.inputs import checked_inputs
from keras_dl.replicas import share_of_loss
from keras_dl.signatures import Signature, default_signatures


class _Described:
    """Serializes an object by its constructor's arguments, each kept under its own name.

    The config also holds what a user has changed in the layers inside: see `keras_dl.sublayers`.
    """

    # Arguments that had another name in files of earlier versions: {old name: new name}.
    renamed_arguments: dict[str, str] = {}

    def __new__(cls, *args, **kwargs):
        instance = super().__new__(cls, *args, **kwargs)
        vars(instance)["_given_arguments"] = (args, kwargs)  # past Keras, which would track the layers among them
        return instance

    def get_config(self):
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }
        config |= config_arguments(self)
        if self.activity_regularizer is not None:
            config["activity_regularizer"] = keras.regularizers.serialize(self.activity_regularizer)
        if inner_layers(self):
            states = sublayers.state(self)
            if self.built:
                config["sublayers"] = states
            elif states:
                config["sublayers_before_build"] = states
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        renamed = renamed_arguments(cls)
        config = {renamed.get(name, name): value for name, value in config.items()}
        states, states_before_build = config.pop("sublayers", None), config.pop("sublayers_before_build", None)
        with no_shared_objects():
            instance = cls(**config)
        if states_before_build is not None:
            sublayers.restore(instance, states_before_build)
        if states is not None:
            instance._awaited_state = states
            if instance.built:
                instance._restore_sublayers(states)
        return instance

    def build_from_config(self, config):
        super().build_from_config(config)
        # Keras marks the model as built only after this, and then makes its optimizer. A model that Keras could not
        # build gets its layers at its first call.
        states = getattr(self, "_awaited_state", None)
        if states is not None and (self.built or sublayers.exist(self, states)):
            self._restore_sublayers(states)

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        states = getattr(self, "_awaited_state", None)
        if states is not None and self.built:
            self._restore_sublayers(states)
        return outputs

    def _restore_sublayers(self, states):
        self._awaited_state = None
        sublayers.restore(self, states)


class Layer(_Described, keras.layers.Layer):
    """A `keras.layers.Layer` whose constructor arguments are its config."""


class _Published(Distributed, _Described):
    """A model with published presets and with entry points for devices.

    Attributes:
        presets: dict of arguments by name.
        returns_logits: bool. Whether a call returns logits, which losses must be told.
        has_own_loss: bool. Whether `compute_loss` is the model's own, which uses no compiled loss.
        float_layers: tuple of str. Names of layers that an int8 file computes in float32, as of `keras_dl.export`.
    """

    presets: dict[str, dict] = {}
    returns_logits = False
    has_own_loss = False
    float_layers: tuple[str, ...] = ()

    @classmethod
    def from_preset(cls, name: str, **overrides):
        """Builds the architecture published as `name`; `overrides` win over its arguments.

        Raises:
            ValueError: if `name` is not one of `cls.presets`; the message lists them.
        """
        if name not in cls.presets:
            raise ValueError(f"{cls.__name__} has no preset {name!r}. Choose one of: {', '.join(cls.presets)}.")
        return cls(**(cls.presets[name] | overrides))

    def check_training(self) -> None:
        """Refuses what would train wrongly without a word, or warns of it. It is called before a training."""
        check_optimizer(self.optimizer)
        check_loss(self, self._loss_to_check())

    def _loss_to_check(self):
        # Keras goes on with the loss of an earlier `compile` if the last one had none. An own loss does not.
        return last_compiled_loss(self) if self.has_own_loss else self.loss

    def _compute_loss(self, *args, **kwargs):
        loss = super()._compute_loss(*args, **kwargs)
        return share_of_loss(loss) if self.has_own_loss else loss  # Keras's steps take a share, and log the whole

    def make_test_function(self, force=False):
        check_loss(self, self._loss_to_check())
        return super().make_test_function(force)

    def make_train_function(self, force=False):
        self.check_training()
        # TensorFlow traces a step twice if the first time creates variables. With those of the optimizer made before,
        # the first step of a training takes half the time.
        if self.built and self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device, by name. By default one, `call` on inputs of a static shape."""
        return default_signatures(self, batch_size)


@keras.saving.register_keras_serializable(package="keras_dl")
class FunctionalModel(_Published, keras.Model):
    """A model that its constructor builds from `keras.Input` to outputs, and hands to `super().__init__`.

    Subclasses set `presets` to the rows of the paper's table, and override `serving_signatures` where a device should
    run more than `call`: decoded boxes, a sampler, one decoding step.

    A call checks the names, shapes and dtypes of its inputs before Keras casts them: see `keras_dl.inputs`.

    (Keras changes the bases of such a class when its first model is made. So it is apart from `Model`.)
    """

    def __init__(self, *args, dtype=None, **kwargs):
        # keras.Model ignores what it does not know, if built from inputs and outputs.
        check_keywords(self, FunctionalModel.__init__, kwargs, hidden=("inputs", "outputs"))
        super().__init__(*args, **kwargs)
        # keras.Model drops it when built from inputs and outputs. None is the policy in force, which `arguments` sets.
        self.dtype_policy = keras.dtype_policies.get(dtype)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(checked_inputs(inputs, self.input), *args, **kwargs)

    def get_config(self):
        if type(self) is FunctionalModel:  # it has no constructor of its own: its layers are its config
            return super(_Described, self).get_config()
        return super().get_config()

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if cls is FunctionalModel:
            return super(_Described, cls).from_config(config, custom_objects)
        return super().from_config(config, custom_objects)


class Model(_Published, keras.Model):
    """A model that holds several nets, or has a `call` of its own. Subclasses set `presets` and `serving_signatures`.

    `keras_dl.Model(inputs, outputs)` is a `FunctionalModel`, as `keras.Model(inputs, outputs)` is a functional model.
    """

    def __new__(cls, *args, **kwargs):
        if cls is Model and (len(args) > 1 or {"inputs", "outputs"} & kwargs.keys()):
            return FunctionalModel(*args, **kwargs)
        return super().__new__(cls, *args, **kwargs)
