"""NCSN of points: the score of data that are no images, by dense layers.

    s(x, i) = net(x / sqrt(c^2 + sigma_i^2), i) / sigma_i

Each hidden layer has a scale and an offset for each level, as the norms of images have. The paper's own toy net is told
nothing, for it is trained at one level. In few dimensions a net cannot find the level by itself, as v2's does.

Reference: Song, Ermon 2019, arXiv:1907.05600, section 3.2.2 and fig. 3.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import ActivationName, Positive, Rate, Size, Sizes, arguments
from keras_dl.base import Layer
from keras_dl.models.generative.langevin_model import LangevinModel, TimesLevel
from keras_dl.models.generative.ncsn import LevelsArgument


@keras.saving.register_keras_serializable(package="keras_dl")
class LevelScale(Layer):
    """A scale and an offset of each feature, for each noise level.

    Args:
        num_levels: int.

    Call arguments:
        features: float, `(batch, size)`.
        level: int32, `(batch,)`, in [0, num_levels).

    Returns:
        The layer's compute dtype, the shape of `features`.
    """

    def __init__(self, num_levels, **kwargs):
        super().__init__(**kwargs)
        self.num_levels = num_levels

    def build(self, features_shape, level_shape):
        shape = (self.num_levels, features_shape[-1])
        self.scale = self.add_weight(shape=shape, initializer="ones", name="scale")
        self.offset = self.add_weight(shape=shape, initializer="zeros", name="offset")

    def call(self, features, level):
        scale, offset = (ops.take(ops.convert_to_tensor(table), level, axis=0) for table in (self.scale, self.offset))
        return ops.cast(features, self.compute_dtype) * scale + offset

    def compute_output_spec(self, features, level):
        return keras.KerasTensor(features.shape, self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dl")
class DenseNCSN(LangevinModel):
    """Noise conditional score network of points, by dense layers.

    Compile it with an optimizer and no loss; `fit(points)` needs no targets. `sample` makes points.

    Args:
        num_dims: int. Numbers of a point.
        hidden_dims: sequence of int. Sizes of the hidden layers.
        activation: str. By its name in Keras.
        data_scale: float, c: about the standard deviation of the data.
        process, step_size, steps_per_level, denoise, averaging, seed: as of `keras_dl.NCSN`.

    Call arguments:
        inputs: dict of `"points"`, float, `(batch, num_dims)`: noisy points; and `"times"`, int32, `(batch,)`: times
            of the process, which count from the least noise.
        training: bool. True takes the weights themselves, False their moving average.

    Returns:
        float32, `(batch, num_dims)`: the score.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Example:

    >>> model = DenseNCSN(num_dims=2, steps_per_level=2)
    >>> model.sample(5).shape
    TensorShape([5, 2])
    """

    inner_range = None
    data_name = "points"
    center = 0.0
    float_layers = ("scaled", "outputs", "scores")  # each level has a range of its own

    @arguments
    def __init__(
        self,
        num_dims: Size = 2,
        hidden_dims: Sizes = (128, 128, 128),
        activation: ActivationName = "silu",
        data_scale: Positive = 1.0,
        process: LevelsArgument = "first_paper",
        step_size: Positive | None = None,
        steps_per_level: Size = 100,
        denoise: bool = True,
        averaging: Rate = 0.999,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.process, self.step_size, self.steps_per_level = process, step_size, steps_per_level

        def make_network(name):
            points = keras.Input((num_dims,), dtype="float32", name="points")
            level = keras.Input((), dtype="int32", name="times")
            hidden = TimesLevel(1 / np.sqrt(data_scale**2 + process.sigmas**2), name="scaled")(points, level)
            for i, size in enumerate(hidden_dims):
                hidden = layers.Dense(size, name=f"hidden_{i}")(hidden)
                hidden = LevelScale(process.size, name=f"level_{i}")(hidden, level)
                hidden = layers.Activation(activation, name=f"activation_{i}")(hidden)
            outputs = layers.Dense(num_dims, dtype="float32", name="outputs")(hidden)
            outputs = TimesLevel(1 / process.sigmas, name="scores")(outputs, level)
            return keras.Model({"points": points, "times": level}, outputs, name=name)

        self._hold(make_network, averaging, seed)
