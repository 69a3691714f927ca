"""Generative adversarial nets of dense layers: a generator that makes data of noise, a discriminator that judges them.

    x = G(z),   D(x) = the logit of "x is real";   V(G, D) = E_x ln sigmoid(D(x)) + E_z ln(1 - sigmoid(D(G(z))))

`D` maximizes `V`. `G` minimizes it, or minimizes `-E_z ln sigmoid(D(G(z)))` instead, whose gradient does not vanish
where `D` is sure: `adversarial` has both, and others. Both start at the same fixed point.

Reference: Goodfellow et al. 2014, "Generative Adversarial Networks", arXiv:1406.2661, with the settings of the authors'
`mnist.yaml`; Goodfellow et al. 2013, "Maxout Networks", arXiv:1302.4389, for the discriminator.

Deviations from the authors' code:
- The biases of the last layer of the generator start at 0, not at the logits of the mean pixels.
- Their momentum rises from 0.5 to 0.7 over 250 epochs. Keras's SGD keeps the one that it is given.
"""

import math

import keras
from keras import layers, ops

from keras_dl.arguments import OneOf, Positive, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.models.generative.adversarial import OBJECTIVES
from keras_dl.models.generative.noise_to_data import NOISES, NoiseToData


@keras.saving.register_keras_serializable(package="keras_dl")
class Maxout(Layer):
    """Units that are the largest of several linear functions.

    Args:
        units: int.
        pieces: int. Linear functions of each unit.
        initial_range: float or None. Kernels start uniform in [-initial_range, initial_range]. None for Glorot's.

    Call arguments:
        x: float, `(batch, features)`.

    Returns:
        float, `(batch, units)`.
    """

    @arguments
    def __init__(self, units: Size, pieces: Size, initial_range: Positive | None = None, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units * pieces, kernel_initializer=uniform(initial_range), dtype=self.dtype_policy)

    def build(self, x_shape):
        self.dense.build(x_shape)

    def call(self, x):
        return ops.max(ops.reshape(self.dense(x), (-1, self.units, self.pieces)), axis=-1)

    def compute_output_shape(self, x_shape):
        return (x_shape[0], self.units)


def uniform(limit):
    """An initializer: uniform in [-limit, limit]; Glorot's uniform one if None."""
    return "glorot_uniform" if limit is None else keras.initializers.RandomUniform(-limit, limit)


PRESETS = {
    # mnist.yaml of the authors: 2,503,984 parameters in the generator, 1,231,441 in the discriminator. Table 1 of the
    # paper has a Parzen log-likelihood of 225 nats on MNIST.
    "goodfellow2014_mnist": dict(
        data_shape=(28, 28, 1),
        noise_dim=100,
        generator_dims=(1200, 1200),
        discriminator_dims=(240, 240),
        pieces=5,
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class GAN(NoiseToData):
    """The adversarial nets of 2014, of dense layers: for images, or for vectors such as points of the plane.

    Compile it with one optimizer, of which the discriminator gets a copy, or with two, and no loss:
    `compile(keras.optimizers.SGD(0.1, momentum=0.5))`. `fit(data)` needs no targets. `call` and `generate` make data of
    noise. In the logs, `loss` is the discriminator's, and 1.386 (ln 4) where it cannot tell.

    Args:
        data_shape: sequence of int. The shape of one example.
        noise_dim: int.
        generator_dims: sequence of int. Hidden layers of the generator, of rectified linear units.
        discriminator_dims: sequence of int. Hidden layers of the discriminator.
        pieces: int. Linear pieces of each maxout unit in them; 1 for rectified linear units.
        input_dropout_rate: float in [0, 1). Of the discriminator's input.
        dropout_rate: float in [0, 1). Of its hidden layers.
        data_range: "pixels" for data in [0, 255], made by a sigmoid, or "unbounded".
        noise: "uniform" or "normal", of variance 1: the first is in [-1.73, 1.73].
        objective: "non_saturating", "saturating", "least_squares" or "hinge": see `adversarial`.
        generator_range: float or None. The generator's kernels start uniform in [-generator_range, generator_range].
            None for Glorot's initialization.
        discriminator_range: float or None. The same of the discriminator.
        averaging: float in [0, 1). Decay per step of a moving average of the generator's weights, which `generate` and
            the served function then use. 0 for none.
        seed: int or None. Of the noise.

    Call arguments:
        noise: float, `(batch, noise_dim)`, as `draw_noise` makes it.
        training: bool. Whether the trained weights are used rather than their average.

    Returns:
        float32, `(batch, *data_shape)`: data; in [0, 255] if they are pixels.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value. By `fit`, after the first
            step, if the data are not finite, or pixels are not in [0, 255].

    Reference: arXiv:1406.2661, algorithm 1 with one step of the discriminator for each of the generator.

    Example:

    >>> model = GAN.from_preset("goodfellow2014_mnist")
    >>> model.generator.count_params(), model.discriminator.count_params()
    (2503984, 1231441)
    >>> model.generate(model.draw_noise(2)).shape
    TensorShape([2, 28, 28, 1])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        data_shape: Sizes = (28, 28, 1),
        noise_dim: Size = 100,
        generator_dims: Sizes = (1200, 1200),
        discriminator_dims: Sizes = (240, 240),
        pieces: Size = 5,
        input_dropout_rate: Rate = 0.2,
        dropout_rate: Rate = 0.5,
        data_range: OneOf("pixels", "unbounded") = "pixels",
        noise: OneOf(*NOISES) = "uniform",
        objective: OneOf(*OBJECTIVES) = "non_saturating",
        generator_range: Positive | None = 0.05,
        discriminator_range: Positive | None = 0.005,
        averaging: Rate = 0.0,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)

        def make_generator(name):
            inputs = hidden = keras.Input((noise_dim,), name="noise")
            for i, width in enumerate(generator_dims):
                dense = layers.Dense(width, "relu", kernel_initializer=uniform(generator_range), name=f"dense_{i}")
                hidden = dense(hidden)  # (batch, width)
            last = layers.Dense(
                math.prod(data_shape), kernel_initializer=uniform(generator_range), dtype="float32", name="last"
            )
            data = layers.Reshape(data_shape, dtype="float32", name="data")(last(hidden))  # (batch, *data_shape)
            if data_range == "pixels":
                data = layers.Activation("sigmoid", dtype="float32", name="sigmoid")(data)
                data = layers.Rescaling(255.0, dtype="float32", name="pixels")(data)
            return keras.Model(inputs, data, name=name)

        data = keras.Input(data_shape, name="data")
        hidden = layers.Rescaling(1 / 255 if data_range == "pixels" else 1.0, name="scaled")(data)
        hidden = layers.Flatten(name="flatten")(hidden)  # (batch, prod(data_shape))
        hidden = layers.Dropout(input_dropout_rate, seed=seed, name="input_dropout")(hidden)
        for i, units in enumerate(discriminator_dims):
            if pieces == 1:
                kernel = uniform(discriminator_range)
                hidden = layers.Dense(units, "relu", kernel_initializer=kernel, name=f"dense_{i}")(hidden)
            else:
                hidden = Maxout(units, pieces, discriminator_range, name=f"maxout_{i}")(hidden)  # (batch, units)
            # Dropout layers with one seed would draw the same masks.
            own_seed = None if seed is None else seed + i + 1
            hidden = layers.Dropout(dropout_rate, seed=own_seed, name=f"dropout_{i}")(hidden)
        logit = layers.Dense(1, kernel_initializer=uniform(discriminator_range), dtype="float32", name="logit")(hidden)
        logit = layers.Reshape((), dtype="float32", name="logits")(logit)  # (batch,)
        self._hold(make_generator, keras.Model(data, logit, name="discriminator"), averaging, seed)

    @property
    def pixels(self):
        return self.data_range == "pixels"

    @property
    def output_name(self):
        return "images" if self.pixels else "samples"
