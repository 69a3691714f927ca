"""Adversarial training: nets that generate and nets that judge, each side with its optimizer, in one training step.

    D: min E_x f(D(x)) + E_z g(D(G(z))),     G: min E_z h(D(G(z)))

    objective         f(a)              g(a)              h(a)
    non_saturating    softplus(-a)      softplus(a)       softplus(-a)
    saturating        softplus(-a)      softplus(a)       -softplus(a)
    least_squares     (a - 1)^2 / 2     a^2 / 2           (a - 1)^2 / 2
    hinge             max(0, 1 - a)     max(0, 1 + a)     -a

`a` is a logit, so that no logarithm of a sigmoid can overflow. With the first two, `D` is best at
`sigmoid(a) = p_data / (p_data + p_G)`; where both densities are equal, the value of the game is `-ln 4`.

References: Goodfellow et al. 2014, "Generative Adversarial Networks", arXiv:1406.2661, algorithm 1, with one step of
the discriminator for each of the generator, proposition 1 and theorem 1; Mao et al. 2016, "Least Squares Generative
Adversarial Networks", arXiv:1611.04076, eq. 9; Lim, Ye 2017, "Geometric GAN", arXiv:1705.02894, for the hinge;
Mescheder, Geiger, Nowozin 2018, "Which Training Methods for GANs do actually Converge?", arXiv:1801.04406, eq. 9, for
R1; Karras et al. 2019, "Analyzing and Improving the Image Quality of StyleGAN", arXiv:1912.04958, section 3.1, for lazy
regularization.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_dl.base import Model
from keras_dl.models.upkeep import SavedSeeds, update_average
from keras_dl.replicas import share_of_loss

OBJECTIVES = ("non_saturating", "saturating", "least_squares", "hinge")


def discriminator_objective(objective: str, real_logits, fake_logits):
    """What the discriminator minimizes: float32, scalar.

    Args:
        objective: one of `OBJECTIVES`.
        real_logits: float, any shape, of real data.
        fake_logits: float, any shape, of generated data.

    Example:

    >>> value = -discriminator_objective("saturating", ops.zeros(4), ops.zeros(4))  # D cannot tell: -ln 4
    >>> round(float(ops.exp(value)), 4)
    0.25
    """
    real, fake = ops.cast(real_logits, "float32"), ops.cast(fake_logits, "float32")
    if objective == "least_squares":
        return 0.5 * (ops.mean(ops.square(real - 1.0)) + ops.mean(ops.square(fake)))
    if objective == "hinge":
        return ops.mean(ops.relu(1.0 - real)) + ops.mean(ops.relu(1.0 + fake))
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


def generator_objective(objective: str, fake_logits):
    """What the generator minimizes: float32, scalar.

    Args:
        objective: one of `OBJECTIVES`.
        fake_logits: float, any shape, of generated data.
    """
    fake = ops.cast(fake_logits, "float32")
    if objective == "least_squares":
        return 0.5 * ops.mean(ops.square(fake - 1.0))
    if objective == "hinge":
        return -ops.mean(fake)
    return -ops.mean(ops.softplus(fake)) if objective == "saturating" else ops.mean(ops.softplus(-fake))


def r1_penalty(discriminator, images):
    """`E_x |grad_x D(x)|^2`, which is 0 where the discriminator is flat on real data: float32, scalar.

    The gradient is of the logits themselves, so that no loss scale is squared. The penalty in the paper is this times
    `gamma / 2`.

    Args:
        discriminator: function from a batch to logits.
        images: float, `(batch, ...)`: real data.
    """
    images = tf.convert_to_tensor(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = ops.sum(discriminator(images))
    slopes = ops.cast(tape.gradient(logits, images), "float32")
    return ops.sum(ops.square(slopes)) / ops.cast(ops.shape(images)[0], "float32")


class AdversarialModel(SavedSeeds, Model):
    """A model of generators and discriminators. The two sides have an optimizer each, and move in turn.

    A subclass sets its nets, names them in `generators` and `discriminators`, and says what each side minimizes in
    `generator_loss` and `discriminator_loss`. Everything else is here: both optimizers with their loss scales, one
    training step that XLA compiles whole, moving averages of generators, and a `.keras` file from which a training
    goes on as if it had never stopped. Regularizers of single layers are not added to the losses.

    Attributes:
        order: the sides in the order in which they move.
        figures: names of what the losses report beside their values. `fit` logs their means.
        step_count: int64 variable. Training steps so far.
    """

    has_own_loss = True
    order = ("discriminator", "generator")
    figures: tuple[str, ...] = ()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.step_count = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step_count"
        )
        self.trackers = {name: keras.metrics.Mean(name=name) for name in ("generator_loss", *self.figures)}

    @property
    def generators(self) -> list[keras.Model]:
        """The nets that the first optimizer trains."""
        raise NotImplementedError

    @property
    def discriminators(self) -> list[keras.Model]:
        """The nets that the second optimizer trains."""
        raise NotImplementedError

    @property
    def averages(self) -> list[tuple[keras.Model, keras.Model]]:
        """Pairs of a net and the copy that holds the moving average of its weights, with the decay `averaging`."""
        return []

    def generator_loss(self, data, made):
        """What the generators minimize on a batch.

        Args:
            data: what `examples` returns.
            made: dict. The side that moves first can leave tensors in it for the other.

        Returns:
            `(loss, figures)`: float32 scalar, and a dict of scalars by the names in `figures`.
        """
        raise NotImplementedError

    def discriminator_loss(self, data, made):
        """What the discriminators minimize on a batch: as `generator_loss`."""
        raise NotImplementedError

    def regularize(self, data):
        """Further steps after both sides moved, such as `self.every(16, ...)` of `self.minimize(...)`. None here."""

    def trained_by(self, side: str) -> list[keras.Variable]:
        """The variables that the optimizer of a side trains: `"generator"` or `"discriminator"`."""
        nets = self.generators if side == "generator" else self.discriminators
        return [variable for net in nets for variable in net.trainable_variables]

    def compile(self, optimizer=None, discriminator_optimizer=None, auto_scale_loss=True, **options):
        """Sets both optimizers, and makes their variables.

        Args:
            optimizer: as Keras takes it. Of the generators.
            discriminator_optimizer: as Keras takes it. Of the discriminators. None for a copy of the first, with the
                same settings and schedule, and a state of its own.
            auto_scale_loss: bool. Whether both get loss scales of their own under `mixed_float16`.
            options: `run_eagerly`, `steps_per_execution` and `jit_compile`, as Keras takes them.

        Raises:
            ValueError: if the first optimizer is missing, one object is given for both, one averages weights itself,
                or a loss or a metric is given, which would not be used.
        """
        self._check_compile(optimizer, discriminator_optimizer, options)
        first = keras.optimizers.get(optimizer)
        if discriminator_optimizer is None:
            second = type(first).from_config(first.get_config())
        else:
            second = keras.optimizers.get(discriminator_optimizer)
        for name, each in (("optimizer", first), ("discriminator_optimizer", second)):
            if getattr(getattr(each, "inner_optimizer", each), "use_ema", False):
                raise ValueError(
                    f"{name}={each.name!r} has use_ema=True: fit would replace the weights by their average at its "
                    "end, and a training that goes on would not be the same. Use the model's own averages."
                )
        super().compile(optimizer=first, auto_scale_loss=auto_scale_loss, **options)
        given = second
        scaled = isinstance(second, keras.optimizers.LossScaleOptimizer)
        if auto_scale_loss and self.dtype_policy.name == "mixed_float16" and not scaled:
            second = keras.optimizers.LossScaleOptimizer(second, name="loss_scale_optimizer")
        self._adds_loss_scale = second is not given
        self.discriminator_optimizer = second
        # At once: a file that is loaded holds the state of both.
        for side, each in (("generator", self.optimizer), ("discriminator", second)):
            if not each.built:
                each.build(self.trained_by(side))

    def _check_compile(self, optimizer, discriminator_optimizer, options):
        name = type(self).__name__
        if optimizer is None:
            given = "" if discriminator_optimizer is None else "discriminator_optimizer alone does not do. "
            raise ValueError(f"optimizer=None: {name} needs one for its generators. {given}Give optimizer=Adam(2e-4).")
        if optimizer is discriminator_optimizer and not isinstance(optimizer, str):
            raise ValueError(
                f"optimizer and discriminator_optimizer are the same object {optimizer!r}, which cannot hold the state "
                "of both. Give two objects, or optimizer alone: the discriminators get a copy."
            )
        for key in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if options.get(key) is not None:
                raise ValueError(f"{key}={options[key]!r} would not be used: {name} has losses and figures of its own.")

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        given = self.discriminator_optimizer.inner_optimizer if self._adds_loss_scale else self.discriminator_optimizer
        return config | {"discriminator_optimizer": keras.saving.serialize_keras_object(given)}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    def minimize(self, side: str, loss, *arguments):
        """One step of a side's optimizer, by its own loss scale. Other variables do not move.

        Args:
            side: `"generator"` or `"discriminator"`.
            loss: function of `arguments`. Returns `(loss, figures)`, as `generator_loss` does.

        Returns:
            float32, scalar: the loss before the step.
        """
        optimizer = self.optimizer if side == "generator" else self.discriminator_optimizer
        variables = self.trained_by(side)
        with tf.GradientTape() as tape:
            value, figures = loss(*arguments)
            scaled = optimizer.scale_loss(share_of_loss(value))
        gradients = tape.gradient(scaled, variables)
        # A penalty need not depend on every variable. Momentum moves all of them.
        optimizer.apply([ops.zeros_like(v) if g is None else g for g, v in zip(gradients, variables, strict=True)])
        for name, figure in figures.items():
            self.trackers[name].update_state(figure)
        return value

    def every(self, interval: int, function):
        """Runs `function` in every `interval`-th training step, from the first on, without another trace.

        This is lazy regularization. A penalty that is applied so belongs multiplied by `interval`.
        """

        def run():
            function()
            return tf.constant(0)  # both branches return the same

        tf.cond(tf.equal(tf.convert_to_tensor(self.step_count) % interval, 0), run, lambda: tf.constant(0))

    def examples(self, data):
        """What the losses get, of a batch that `fit` hands on.

        Raises:
            ValueError: if there are targets or weights, which would not be used.
        """
        data, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        for name, value in (("y", targets), ("sample_weight", weights)):
            if value is not None:
                raise ValueError(f"{name} was given: {type(self).__name__} is trained on data alone, fit(x).")
        return data

    def train_step(self, data):
        data = self.examples(data)
        losses, made, values = dict(generator=self.generator_loss, discriminator=self.discriminator_loss), {}, {}
        for side in self.order:
            values[side] = self.minimize(side, losses[side], data, made)
        self.regularize(data)
        self.step_count.assign_add(1)
        self._update_averages()
        return self._logged(values)

    def _logged(self, values):
        """The means of both losses and the figures. Keras's "loss" is that of the discriminators."""
        (tracker,) = (metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(values["discriminator"])
        self.trackers["generator_loss"].update_state(values["generator"])
        return self.get_metrics_result()

    def _update_averages(self):
        for net, average in self.averages:
            update_average(net, average, self.averaging, self.step_count)
