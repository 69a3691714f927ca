"""Score-based generative models through stochastic differential equations.

    dx = f x dt + g dw,                    x(0) ~ data, x(1) ~ noise                                       (eq. 5)
    dx = (f x - g^2 score) dt + g dw,      backward in time, by predictor-corrector steps                  (eq. 6)
    dx = (f x - g^2 score / 2) dt,         the probability flow, with exact likelihoods                    (eq. 13)
    min E w(t) |sigma(t) score(x(t), t) + z|^2,  x(t) = alpha(t) x(0) + sigma(t) z                         (eq. 7)

A net learns the score of the data with noise of all times between 0 and 1. With it, the equation from data to noise
can be followed backward. `keras_dl.diffusion` has the equations and the samplers, `ncsnpp` and `point_net` the nets.

Reference: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021, "Score-Based Generative Modeling through Stochastic
Differential Equations", arXiv:2011.13456.

Deviations:
- The losses are means over the values of an example. The authors have half the sum for VE.
- The moving average warms up, as `DiffusionModel` says.
- The residual pyramid of inputs is the paper's for CIFAR-10. The nets for 256 and 1024 pixels have pyramids of skips,
  which are not here.
- Pixels between 0 and 1 are `(pixel (levels - 1) / 255 + u) / levels` with `u` in [0, 1), in training, too.
"""

import math
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.arguments import (
    AtLeast,
    OneOf,
    PerChannel,
    Positive,
    PositivePerChannel,
    Rate,
    Size,
    Sizes,
    SizesAtLeast,
    arguments,
)
from keras_dl.checks import check_image_shape, check_sizes
from keras_dl.diffusion import probability_flow as flow
from keras_dl.diffusion.predictor_corrector import (
    CORRECTORS,
    NORMS,
    PREDICTORS,
)
from keras_dl.diffusion.process import ProcessOf
from keras_dl.diffusion.sdes import SDE, SDES, VE, WEIGHTINGS, SubVP
from keras_dl.models.generative.ncsnpp import check_sides, entries, image_net
from keras_dl.models.generative.point_net import point_net
from keras_dl.models.generative.sde_model import SDEModel
from keras_dl.models.generative.time_features import TIME_FEATURES
from keras_dl.signatures import Signature
from keras_dl.weights import Weights, load_entries, read_safetensors


def _check_data_shape(name, value):
    if isinstance(value, list | tuple) and len(value) == 1:
        return check_sizes(name, value)
    return check_image_shape(name, value, 2)


def to_pixels(scaled, inner_range, levels: int | None):
    """Pixels in [0, 255] of images in the scale of a process, clipped and not rounded.

    Args:
        scaled: float.
        inner_range: pair of float: where pixels are for the process.
        levels: int, or None, as of `ScoreSDE`.
    """
    low, high = inner_range
    if levels is None:
        return ops.clip((scaled - low) * (255.0 / (high - low)), 0.0, 255.0)
    level = (scaled - low) * (levels / (high - low)) - 0.5  # the middle of a level is the level
    return ops.clip(level * (255.0 / (levels - 1)), 0.0, 255.0)


# Parameters that are trained: 62,758,787, 107,586,947, 61,804,419 and 106,632,579 (authors' code). NCSN++ has 128 more,
# which are not.
_NCSNPP = dict(process="ve", fir=True, pyramid=True, time_features="fourier", averaging=0.999)
_DDPMPP = dict(process="vp", fir=False, pyramid=False, time_features="sinusoidal", averaging=0.9999)
_EULER = dict(predictor="euler_maruyama", corrector="none")
PRESETS = {
    "ncsnpp_cifar10": _NCSNPP,
    "ncsnpp_deep_cifar10": _NCSNPP | dict(num_blocks=8),
    "ddpmpp_cifar10": _DDPMPP | _EULER,
    "ddpmpp_deep_cifar10": _DDPMPP | _EULER | dict(num_blocks=8),
    "ddpmpp_deep_sub_vp_cifar10": _DDPMPP | _EULER | dict(num_blocks=8, process="sub_vp"),
    # Not of the paper: a net for points in the plane.
    "plane": _EULER
    | dict(data_shape=(2,), process="vp", time_features="sinusoidal", filters=32, norms="sigma", averaging=0.999),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class ScoreSDE(SDEModel):
    """Generates images, or points, by the reverse of an equation that turns them into noise; and tells likelihoods.

    Compile it with an optimizer and no loss. `fit(images)` takes raw pixels in [0, 255], or points, and no targets. The
    paper has `Adam(2e-4, clipnorm=1)` with 5,000 steps of warm-up, and batches of 128.

    Args:
        data_shape: `(height, width, channels)`, or `(dim,)` for points. Sides that can be halved as often as the net
            has levels, less one.
        process: "ve", "vp", "sub_vp", or one of `keras_dl.diffusion.VE`, `VP`, `SubVP` with other numbers.
        filters: int, a multiple of 4. Channels of the first level; for points, features of the time.
        multipliers: sequence of int. Of images: channels of each level in multiples of `filters`.
        num_blocks: int. Of images: residual blocks of a level.
        attention_sides: sequence of int. Of images: heights of the levels with attention.
        fir: bool. Of images: whether they are filtered by [1, 3, 3, 1] where they are resampled.
        pyramid: bool. Of images: whether smaller images are added on the way down.
        hidden_dims: sequence of int. Of points: hidden layers.
        time_features: "fourier", of log sigma, which "ve" needs; or "sinusoidal", of the time.
        dropout_rate: float in [0, 1). Of images.
        weighting: "simple", for samples; or "likelihood", for likelihoods, with times drawn in proportion to it.
        levels: int, at least 2, or None. Gray levels of the pixels, 256 as a rule. Training adds uniform noise that
            fills them, without which likelihoods of pixels are not defined. None: no noise is added.
        mean, std: float, or one for each axis. Of points, which are scaled by them.
        num_steps: int. Steps of `sample`, `inpaint` and of the exported sampler.
        predictor: "reverse_diffusion", "ancestral" (not for sub-VP), "euler_maruyama" or "none".
        corrector: "langevin" or "none".
        snr: float, positive. Signal-to-noise ratio of the corrector.
        norms: "batch", as in the paper, where a sample depends a little on its neighbors; "sample", not for points; or
            "sigma": see `keras_dl.diffusion.predictor_corrector`.
        flow_steps: int. Steps of the exported `likelihood`, by the Runge-Kutta method of order 4.
        tolerance: float, positive. Error of a step of the adaptive solver of the probability flow.
        averaging: float in [0, 1). Decay of the moving average of the weights, with which is sampled. 0 for none.
        seed: int or None. Of the noise.

    Call arguments:
        inputs: dict of `"images"` or `"points"`, float, `(batch, *data_shape)`, with noise, in the scale of the
            process, which `to_inner` makes; and `"times"`, float, `(batch,)`, in (0, 1].

    Returns:
        float32, the shape of the data: the noise in them, `-sigma score`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.

    Reference: arXiv:2011.13456.

    Example:

    >>> model = ScoreSDE(data_shape=(2,), hidden_dims=(16,), filters=4, process="vp", num_steps=30)
    >>> points = model.sample(5, seed=0)
    >>> points.shape, model.log_likelihood(points).shape
    (TensorShape([5, 2]), TensorShape([5]))
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        data_shape: Annotated[tuple[int, ...], _check_data_shape] = (32, 32, 3),
        process: ProcessOf(SDE, **SDES) = "ve",
        filters: AtLeast(4) = 128,
        multipliers: Sizes = (1, 2, 2, 2),
        num_blocks: Size = 4,
        attention_sides: SizesAtLeast(1, allow_empty=True) = (16,),
        fir: bool = True,
        pyramid: bool = True,
        hidden_dims: Sizes = (128, 128, 128),
        time_features: OneOf(*TIME_FEATURES) = "fourier",
        dropout_rate: Rate = 0.1,
        weighting: OneOf(*WEIGHTINGS) = "simple",
        levels: AtLeast(2) | None = None,
        mean: PerChannel = 0.0,
        std: PositivePerChannel = 1.0,
        num_steps: Size = 1000,
        predictor: OneOf(*PREDICTORS) = "reverse_diffusion",
        corrector: OneOf(*CORRECTORS) = "langevin",
        snr: Positive = 0.16,
        norms: OneOf(*NORMS) = "batch",
        flow_steps: Size = 50,
        tolerance: Positive = 1e-5,
        averaging: Rate = 0.999,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.process = process
        if filters % 4:
            raise ValueError(f"filters={filters} must be a multiple of 4.")
        if isinstance(process, VE) and time_features != "fourier":
            raise ValueError(f"time_features={time_features!r}: VE needs 'fourier', for its sigmas differ by powers.")
        if predictor == "ancestral" and isinstance(process, SubVP):
            raise ValueError("predictor='ancestral' needs the chain of VE or VP: process='sub_vp' has none.")
        if predictor == corrector == "none":
            raise ValueError("predictor='none' and corrector='none' would not move the noise: give one of them.")
        if predictor in ("reverse_diffusion", "ancestral") or corrector != "none":
            process.discretization(num_steps)  # which can be too few
        if len(data_shape) == 1:
            self.data_name, self.inner_range = "points", None
            for name, value in (("mean", mean), ("std", std)):
                if isinstance(value, tuple) and len(value) != data_shape[0]:
                    raise ValueError(f"{name}={value!r} must be a number, or one for each of {data_shape[0]} axes.")
        else:
            check_sides(data_shape, multipliers)
            self.data_name, self.inner_range = "images", (0.0, 1.0) if isinstance(process, VE) else (-1.0, 1.0)

        def make_network(name):
            if len(data_shape) == 1:
                return point_net(data_shape[0], hidden_dims, time_features, filters, process, name)
            widths = (filters, multipliers, num_blocks, attention_sides, dropout_rate, fir, pyramid)
            return image_net(data_shape, *widths, time_features, process, name)

        self._hold(make_network, averaging, seed)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Those that see the time: an integer could not tell the times at which the noise is small."""
        names = ("level", "fourier", "sines", "sigma", "scaled", "bounded")
        return tuple(name for name in names if any(layer.name == name for layer in self.network.layers))

    # Scales.

    def to_inner(self, data, seed=None):
        data = ops.cast(data, "float32")
        if self.inner_range is None:
            return (data - np.asarray(self.mean, "float32")) / np.asarray(self.std, "float32")
        if self.levels is None:
            return super().to_inner(data)
        fill = 0.5 if seed is None else keras.random.uniform(ops.shape(data), seed=seed, dtype="float32")
        low, high = self.inner_range
        return low + (high - low) / self.levels * (data * ((self.levels - 1) / 255.0) + fill)

    def from_inner(self, data):
        if self.inner_range is None:
            return data * np.asarray(self.std, "float32") + np.asarray(self.mean, "float32")
        return to_pixels(data, self.inner_range, self.levels)

    # Training.

    def corrupt(self, data, labels, t, noise, keep_label=None, seed=None):
        if self.weighting == "likelihood":  # uniform times become those of this weight
            first = self.process.smallest_time
            t = self.process.likelihood_times((t - first) / (1.0 - first))
        return super().corrupt(data, labels, t, noise, keep_label, seed)

    def example_losses(self, prediction, inputs, targets):
        losses = ops.mean(ops.square(prediction - targets["noise"]), axis=list(range(1, len(prediction.shape))))
        # The weight at a time over its density, which is the same for all times.
        return losses if self.weighting == "simple" else losses * self.process.likelihood_mass

    # Likelihoods.

    def log_likelihood(self, points, seed=None):
        """The log-density of points in nats, in their own units: float32, `(batch,)`.

        Args:
            points: float, `(batch, dim)`.
            seed: int or `keras.random.SeedGenerator`, for Hutchinson's estimate. None for the exact divergence.
        """
        if self.inner_range is not None:
            raise ValueError("log_likelihood is of points: bits_per_dimension is that of images.")
        points = self.to_inner(points)
        return self._log_density(points, seed) - np.float32(self._log_scale())

    def bits_per_dimension(self, images, seed=0, exact: bool = False):
        """Bits that a pixel takes, from the likelihood of images with uniform noise added: float32, `(batch,)`.

        Args:
            images: pixels in [0, 255], `(batch, height, width, channels)`.
            seed: int or `keras.random.SeedGenerator`. Of the noise, and of Hutchinson's estimate.
            exact: bool. Whether the divergence is exact, at the cost of a gradient for each pixel.

        Raises:
            ValueError: if the model has no `levels`, or is one of points.
        """
        if self.inner_range is None or self.levels is None:
            raise ValueError(
                f"levels={self.levels}: bits are those of pixels with noise that fills their levels. Train a model of "
                "images with levels=256, or as many as its images have."
            )
        generator = keras.random.SeedGenerator(seed) if isinstance(seed, int) else seed
        density = self._log_density(self.to_inner(images, generator), None if exact else generator)
        low, high = self.inner_range
        return flow.bits_per_dimension(density, math.prod(self.data_shape), (high - low) / self.levels)

    def _log_scale(self):
        """The log of the volume of data that one of the scale of the process stands for."""
        return np.log(np.broadcast_to(np.asarray(self.std, "float64"), self.data_shape)).sum()

    # Weights and files.

    def load_torch(self, weights: Weights) -> None:
        """Loads weights of the authors' code for NCSN++ and DDPM++, into the net and its moving average.

        Args:
            weights: the `state_dict` of the model as NumPy arrays by name, `all_modules.0.weight` or
                `module.all_modules.0.weight` and so on; or the path of a `.safetensors` file. Copy the averages of its
                checkpoint (`ema`, `shadow_params`) to the model first: they are those that sample well.

        Raises:
            ValueError: if the model is one of points; or if entries are missing, unknown or of another shape. The
                message lists them, and no weight is changed.
        """
        if len(self.data_shape) == 1:
            raise ValueError(f"data_shape={self.data_shape}: weights of the authors are those of nets of images.")
        weights = weights if hasattr(weights, "keys") else read_safetensors(weights)
        weights = {name.removeprefix("module."): x for name, x in weights.items() if not name.endswith("sigmas")}
        load_entries(entries(self.network, -1.0 if isinstance(self.process, VE) else 1.0), weights)
        if self.average is not None:
            self.average.set_weights(self.network.get_weights())

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        `score(images or points: float32, (batch_size, *data_shape), times: float32, (batch_size,))` takes data with
        noise in the scale of the process, and returns `{"scaled_score": float32, their shape}`: sigma(t) times the
        score, which has the same range at all times, so that an integer file can hold it.

        `sample(noise: float32, (batch_size, noise_rows(), size of an example))` returns `{"images" or "points":
        float32}`, as `fit` takes them. `noise` is standard normal: first what each sample starts from, then what the
        `num_steps` steps draw. The device draws it, so that equal noise gives equal samples everywhere.

        `likelihood(points)`, of a model of points, returns `{"log_prob": float32, (batch_size,)}`, in nats, with
        `flow_steps` steps.
        """
        name, shape = self.data_name, self.data_shape
        rows, size = self.noise_rows(), math.prod(shape)
        spec = lambda shape, name: keras.KerasTensor(shape, "float32", name=name)  # noqa: E731

        def score(**inputs):
            return {"scaled_score": -self(inputs, training=False)}

        def sample(noise):
            noise = tf.reshape(tf.transpose(noise, (1, 0, 2)), (rows * batch_size, *shape))
            start = noise[:batch_size] * self.process.prior_std
            return {name: self.from_inner(self._walk(self.score, start, noise[batch_size:], self.num_steps))}

        def likelihood(points):
            points = self.to_inner(points)
            density = flow.log_likelihood(self.score, self.process, points, self._solver(fixed=True))[0]
            return {"log_prob": density - np.float32(self._log_scale())}

        inputs = {name: spec((batch_size, *shape), name), "times": spec((batch_size,), "times")}
        found = {
            "score": Signature(score, inputs),
            "sample": Signature(sample, {"noise": spec((batch_size, rows, size), "noise")}),
        }
        if len(shape) == 1:
            found["likelihood"] = Signature(likelihood, {"points": spec((batch_size, *shape), "points")})
        return found
