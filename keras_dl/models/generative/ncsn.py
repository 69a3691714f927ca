"""NCSN: noise conditional score networks, which sample by Langevin dynamics at less and less noise.

    s(x, i) = net(x, i)                 v1, "norms": each level has norms of its own
    s(x, i) = net(x) / sigma_i          v2, "division": the net finds the level by itself

The second paper's five techniques are options, with the numbers of `keras_dl.diffusion`:

    1  the largest noise is the largest distance between two examples           `largest_distance`
    2  the ratio of neighboring levels follows from the dimension of the data   `choose_levels`
    3  the net is not told the level: its output is divided by sigma            `conditioning="division"`
    4  the step size follows from the levels and the number of steps            `step_size=None`
    5  samples come from a moving average of the weights                        `averaging`

References: Song, Ermon 2019, "Generative Modeling by Estimating Gradients of the Data Distribution", arXiv:1907.05600
(v1); Song, Ermon 2020, "Improved Techniques for Training Score-Based Generative Models", arXiv:2006.09011 (v2). The
nets are those of the authors' code (ermongroup/ncsn, ermongroup/ncsnv2), whose weights load.

Deviations:
- Chains begin at N(1/2, sigma_1^2), and not at U(0, 1): the noise that a file takes is all normal, and this is what the
  first level samples. `keras_dl.diffusion.annealed_langevin` takes any start.
- The decay of the moving average grows from 0 to `averaging`: see `upkeep.update_average`.
- In inpainting, what is known is known exactly at the end, not up to the noise of the last level.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import (
    ActivationName,
    AtLeast,
    ImageShape,
    OneOf,
    Positive,
    Rate,
    Size,
    Sizes,
    SizesAtLeast,
    arguments,
)
from keras_dl.diffusion import GeometricLevels, Levels
from keras_dl.diffusion.process import ProcessOf
from keras_dl.models.generative import refinenet
from keras_dl.models.generative.langevin_model import LangevinModel, TimesLevel
from keras_dl.weights import Weights, load_entries, read_safetensors

LevelsArgument = ProcessOf(Levels, first_paper=GeometricLevels)

_FIRST = dict(
    conditioning="norms",
    process=GeometricLevels(1.0, 0.01, 10),
    step_size=2e-5,
    steps_per_level=100,
    denoise=False,
    averaging=0.0,
    dequantize=True,
)
_DEEPER = (1, 2, 2, 4, 4)
PRESETS = {
    # Trainable parameters: 7,638,657.
    "song2019_mnist": dict(image_shape=(28, 28, 1), filters=64, **_FIRST),
    # 30,117,635; FID 25.32.
    "song2019_cifar10": dict(image_shape=(32, 32, 3), filters=128, **_FIRST),
    # 29,694,083; FID 10.87.
    "song2020_cifar10": dict(
        image_shape=(32, 32, 3), process=GeometricLevels(50.0, 0.01, 232), step_size=6.2e-6, steps_per_level=5
    ),
    # 29,694,083.
    "song2020_celeba64": dict(
        image_shape=(64, 64, 3), process=GeometricLevels(90.0, 0.01, 500), step_size=3.3e-6, steps_per_level=5
    ),
    # 83,445,379.
    "song2020_lsun_church": dict(
        image_shape=(64, 64, 3),
        multipliers=_DEEPER,
        process=GeometricLevels(140.0, 0.01, 788),
        step_size=4.9e-6,
        steps_per_level=4,
    ),
    "song2020_lsun_bedroom": dict(
        image_shape=(128, 128, 3),
        multipliers=_DEEPER,
        process=GeometricLevels(190.0, 0.01, 1086),
        step_size=1.8e-6,
        steps_per_level=3,
    ),
    # 94,132,611.
    "song2020_ffhq": dict(
        image_shape=(256, 256, 3),
        multipliers=(1, 2, 2, 2, 4, 4),
        process=GeometricLevels(348.0, 0.01, 2311),
        step_size=9e-7,
        steps_per_level=3,
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class NCSN(LangevinModel):
    """Noise conditional score network of images: RefineNet, and annealed Langevin dynamics.

    Compile it with an optimizer and no loss: v1 has `Adam(1e-3)`, v2 `Adam(1e-4)`, both with batches of 128.
    `fit(images)` needs no targets. The loss is half a squared error, summed over pixels: a net that returns 0 has half
    of their number. `sample` makes images, `inpaint` completes them.

    Args:
        image_shape: `(height, width, channels)`. The sides must be multiples of 2 to the number of stages that halve
            them, `len(multipliers) - 1 - len(dilations)`.
        filters: int, at least 2. Channels of the first stage.
        multipliers: sequence of int. Channels of each stage, as multiples of `filters`.
        dilations: sequence of int. Dilations of the last stages, which keep the size: fewer than stages.
        activation: str. By its name in Keras. "elu", as in the paper, stays in float32 in an int8 file; "relu" does
            not.
        conditioning: "division" (v2) or "norms" (v1). With "norms" the refinement has norms, too, and pools means.
        process: `keras_dl.diffusion.Levels`, such as `GeometricLevels(50.0, 0.01, 232)`, or "first_paper" for 10
            levels from 1 to 0.01. Pixels are in [0, 1].
        step_size: float or None. Of Langevin dynamics at the last level; None for v2's technique 4.
        steps_per_level: int. Of Langevin dynamics.
        denoise: bool. Whether samples end with a step without noise, as in v2.
        dequantize: bool. Whether training spreads pixels over the numbers between them, as in v1.
        averaging: float in [0, 1). Decay per step of a moving average of the weights, which samples, scores and files
            then use. 0 for none, as in v1.
        seed: int or None. Of the noise.

    Call arguments:
        inputs: dict of `"images"`, float, `(batch, *image_shape)`: noisy images, pixels divided by 255; and `"times"`,
            int32, `(batch,)`: times of the process, which count from the least noise.
        training: bool. True takes the weights themselves, False their moving average.

    Returns:
        float32, `(batch, *image_shape)`: the score.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value. By `fit`, after the first
            step, if images are not raw pixels in [0, 255].

    Reference: arXiv:1907.05600, section 4; arXiv:2006.09011, section 3 to 5.

    Example:

    >>> model = NCSN.from_preset("song2019_mnist", filters=8, steps_per_level=1)
    >>> model.sample(2).shape
    TensorShape([2, 28, 28, 1])
    """

    presets = PRESETS
    inner_range = (0.0, 1.0)

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (32, 32, 3),
        filters: AtLeast(2) = 128,
        multipliers: Sizes = (1, 2, 2, 2),
        dilations: SizesAtLeast(2, allow_empty=True) = (2, 4),
        activation: ActivationName = "elu",
        conditioning: OneOf("division", "norms") = "division",
        process: LevelsArgument = "first_paper",
        step_size: Positive | None = None,
        steps_per_level: Size = 5,
        denoise: bool = True,
        dequantize: bool = False,
        averaging: Rate = 0.999,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        halvings = refinenet.halvings(multipliers, dilations)
        if halvings < 0:
            raise ValueError(
                f"dilations={dilations} must be fewer than the {len(multipliers)} stages of multipliers={multipliers}."
            )
        if any(side % 2**halvings for side in image_shape[:2]):
            raise ValueError(
                f"image_shape={image_shape}: {halvings} of {len(multipliers)} stages halve the sides, which must be "
                f"multiples of {2**halvings}. Choose other sides, or more dilations={dilations}."
            )
        self.process, self.step_size, self.steps_per_level = process, step_size, steps_per_level
        by_norms = conditioning == "norms"

        def make_network(name):
            images = keras.Input(image_shape, dtype="float32", name="images")
            level = keras.Input((), dtype="int32", name="times")
            scaled = layers.Rescaling(2.0, -1.0, name="scaled")(images)
            options = dict(num_levels=process.size, level=level) if by_norms else {}
            outputs = refinenet.refinenet(scaled, image_shape, filters, multipliers, dilations, activation, **options)
            if not by_norms:
                outputs = TimesLevel(1 / process.sigmas, name="scores")(outputs, level)
            return keras.Model({"images": images, "times": level}, outputs, name=name)

        self._hold(make_network, averaging, seed)

    @property
    def float_layers(self):
        """Scores of the last level are so much larger than those of the first that 8 bits have no scale for both."""
        return ("scores",) if self.conditioning == "division" else ("end_conv",)

    def to_inner(self, data, seed=None):
        data = ops.cast(data, "float32")
        if self.dequantize and seed is not None:
            data = (data + keras.random.uniform(ops.shape(data), seed=seed, dtype="float32")) * (255 / 256)
        return super().to_inner(data)

    def load_torch(self, weights: Weights) -> None:
        """Loads weights in the layout of the authors' nets, v1's or v2's, into the network and its moving average.

        Their samples come from the moving average, the last item of v2's checkpoints, and from the weights of v1's.

        Args:
            weights: the `state_dict` as NumPy arrays by name, or the path of a `.safetensors` file. The prefix
                `module.` of `DataParallel` is dropped. v2's `sigmas`, if they are there, must be those of `process`.

        Raises:
            ValueError: if entries are missing, unknown or of another shape, or the levels are others. The message lists
                them, and no weight is changed.
        """
        weights = weights if hasattr(weights, "keys") else read_safetensors(weights)
        weights = {name.removeprefix("module."): array for name, array in weights.items()}
        sigmas = weights.pop("sigmas", None)
        ours = self.process.sigmas
        if sigmas is not None and (len(sigmas) != len(ours) or not np.allclose(sigmas, ours, rtol=1e-3)):
            raise ValueError(
                f"weights have {len(sigmas)} noise levels from {np.max(sigmas):g} to {np.min(sigmas):g}; the model's "
                f"process={self.process} has others."
            )
        load_entries(refinenet.entries(self.network), weights)
        if self.average is not None:
            self.average.set_weights(self.network.get_weights())
