"""Neural ODE: a stack of residual blocks becomes one differential equation, whose solver decides how deep it is.

    h(0) = downsampled image,  dh/dt = f(t, h(t)),  logits = head(h(T))
    f(t, h) = norm(conv(t, relu(norm(conv(t, relu(norm(h)))))))

The convolutions take the time as one more channel, constant over the image. A residual net is the same with Euler's
method, a step of 1, and other weights in each step. `keras_dl.ops.odeint` says how the equation is solved and
differentiated. The other models of the family are in `latent_ode` and `continuous_flow`.

Reference: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 3; the net's sizes are those of the authors' odenet_mnist.

Deviations: convolutions of stride 2 pad as Keras's "same", so that the second of them makes 7x7 maps of a digit, not
6x6. The default solver takes fixed Runge-Kutta steps, which export; the paper's is adaptive (`method="dopri5"`).
Kernels start at Glorot's uniform distribution and biases at 0; the authors' code has torch's defaults.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import ImageShapeAtLeast, PerChannel, Positive, PositivePerChannel, Size, arguments
from keras_dl.base import Layer
from keras_dl.layers.norm import GroupNormalization
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.continuous.solving import SolvingLayer, until
from keras_dl.models.vision.classifier import ImageClassifier, logits_of
from keras_dl.ops.odeint import AnySolver, Gradient, Method, Solver
from keras_dl.signatures import Signature

# The authors' net for MNIST: 208,266 parameters, "0.22M" in table 1 of the paper, beside 0.60M of a residual net;
# errors of 0.42% and 0.41%. Adaptive steps, with gradients by the adjoint.
PRESETS = {
    "odenet_mnist": dict(
        image_shape=(28, 28, 1), num_classes=10, filters=64, num_groups=32, method="dopri5", gradient="adjoint"
    )
}


@keras.saving.register_keras_serializable(package="keras_dl")
class TimeConv2D(Layer):
    """A 3x3 convolution, padded with zeros, of an image and of the time as its first channel.

    It is computed as the convolution of the image, plus the time multiplied by the convolution of a map of ones. So the
    image is not copied. The result is the same as for both side by side, at the edges too.

    Args:
        filters: int.

    Call arguments:
        images: float, `(batch, height, width, channels)`.
        time: float scalar.

    Returns:
        float, `(batch, height, width, filters)`.
    """

    @arguments
    def __init__(self, filters: Size, **kwargs):
        super().__init__(**kwargs)

    def build(self, images_shape, time_shape=None):
        shape = (3, 3, 1 + images_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, images, time):
        _, height, width, _ = images.shape
        of_time, of_images = ops.split(self.kernel, [1], axis=2)  # (3, 3, 1, filters), (3, 3, channels, filters)
        ones = np.ones((1, height, width, 1), "float32")
        shift = ops.conv(ops.cast(ones, self.compute_dtype), of_time, padding="same")  # (1, height, width, filters)
        return ops.conv(images, of_images, padding="same") + (ops.cast(time, self.compute_dtype) * shift + self.bias)

    def compute_output_shape(self, images_shape, time_shape=None):
        return (*images_shape[:-1], self.filters)


@keras.saving.register_keras_serializable(package="keras_dl")
class ODEBlock(SolvingLayer):
    """Follows feature maps along `dh/dt = f(t, h)` from time 0 to `end_time`.

    Args:
        num_groups: int. Groups of the normalizations. Must divide the channels.
        solver: `keras_dl.ops.odeint.Solver`.
        end_time: float, positive.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, same shape. The equation is solved in float32.
    """

    @arguments
    def __init__(self, num_groups: Size, solver: AnySolver, end_time: Positive = 1.0, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def build(self, maps_shape):
        dtype = self.dtype_policy
        self.norms = [GroupNormalization(self.num_groups, dtype=dtype, name=f"norm_{i}") for i in range(3)]
        self.convolutions = [TimeConv2D(maps_shape[-1], dtype=dtype, name=f"conv_{i}") for i in range(2)]
        for layer in (*self.norms, *self.convolutions):
            layer.build(maps_shape)

    def derivative(self, time, maps):
        """`f(t, h)`: the derivative of feature maps, in their shape."""
        hidden = self.norms[0](ops.cast(maps, self.compute_dtype))
        hidden = self.convolutions[0](ops.relu(hidden), time)
        hidden = self.convolutions[1](ops.relu(self.norms[1](hidden)), time)
        return self.norms[2](hidden)

    def solve(self, maps, times):
        """The feature maps at `times`, of which the first is the time of `maps`: float32, `(n, batch, ...)`."""
        return self._solved(self._follow, times, ops.cast(maps, "float32"))

    def _follow(self, times, maps):
        return self.solver.solve(self.derivative, maps, times)

    def call(self, maps):
        return ops.cast(self.solve(maps, until(self.end_time))[-1], self.compute_dtype)

    def compute_output_spec(self, maps):
        return keras.KerasTensor(maps.shape, self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dl")
class ODEClassifier(ImageClassifier):
    """Classifies images by the end of the path on which a differential equation takes their features.

    A device runs fixed steps. They are a loop inside its graph, one WHILE. `unroll=True` writes them out one after the
    other. Integer files need this, since LiteRT's calibration cannot look into a loop. To unroll a trained model, build
    another one by `ODEClassifier.from_config(model.get_config() | {"unroll": True})`, and copy the weights by
    `set_weights(model.get_weights())`.

    Args:
        image_shape: `(height, width, channels)`, sides of at least 8.
        num_classes: int. None for a model without a head, which returns features.
        filters: int. Channels of all convolutions.
        num_groups: int. Groups of the normalizations. Must divide `filters`.
        method: "euler", "midpoint", "rk4", "rk4_38" or "dopri5": see `keras_dl.ops.odeint`. "dopri5" chooses its steps
            for all images of a batch together; devices run "rk4" in its place.
        num_steps: int. Steps of a fixed solver, and of the served functions.
        gradient: "adjoint", whose memory does not grow with the steps, or "backprop", through the steps.
        end_time: float, positive. T; the equation starts at 0.
        unroll: bool. Whether fixed steps are written out in the graph instead of a loop.
        tolerance: float, positive. Relative and absolute error that "dopri5" allows in a step.
        max_num_steps: int. Steps after which "dopri5" gives up.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides it.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float32, `(batch, num_classes)`: logits. Without a head: features, `(batch, filters)`.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value.
        keras_dl.ops.odeint.SolverError: if, called eagerly, "dopri5" gives up; the message has the number of steps.

    Example:

    >>> model = ODEClassifier(filters=8, num_groups=4, num_steps=2)
    >>> model(np.zeros((2, 28, 28, 1))).shape
    TensorShape([2, 10])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: ImageShapeAtLeast(8) = (28, 28, 1),
        num_classes: Size | None = 10,
        filters: Size = 64,
        num_groups: Size = 32,
        method: Method = "rk4",
        num_steps: Size = 4,
        gradient: Gradient = "adjoint",
        end_time: Positive = 1.0,
        unroll: bool = False,
        tolerance: Positive = 1e-3,
        max_num_steps: Size = 1000,
        mean: PerChannel = 33.3,
        std: PositivePerChannel = 78.6,
        dtype=None,
        **kwargs,
    ):
        if filters % num_groups:
            raise ValueError(f"num_groups={num_groups} must divide filters={filters}.")
        solver = Solver(method, num_steps, gradient, unroll, tolerance, tolerance, max_num_steps)

        def activated(maps, i):
            return layers.ReLU(name=f"relu_{i}")(GroupNormalization(num_groups, name=f"norm_{i}")(maps))

        images = keras.Input(image_shape, name="images")
        maps = PixelNormalization(mean, std, name="pixels")(images)
        maps = layers.Conv2D(filters, 3, name="conv_0")(maps)  # (batch, height - 2, width - 2, filters)
        maps = layers.Conv2D(filters, 4, 2, "same", name="conv_1")(activated(maps, 0))
        # (batch, ceil((height - 2) / 4), ceil((width - 2) / 4), filters)
        maps = layers.Conv2D(filters, 4, 2, "same", name="conv_2")(activated(maps, 1))
        maps = ODEBlock(num_groups, solver, end_time, name="ode")(maps)
        features = layers.GlobalAveragePooling2D(name="features")(activated(maps, 2))  # (batch, filters)
        super().__init__(inputs=images, outputs=logits_of(features, num_classes, dtype="float32"), **kwargs)

    def trajectories(self, images, times):
        """The feature maps on their path, at each of `times`: float32, `(n, batch, height, width, filters)`.

        Args:
            images: `(batch, height, width, channels)`, raw pixels in [0, 255].
            times: float, `(n,)`, increasing. The first is 0, the time of the downsampled image.
        """
        block = self.get_layer("ode")
        stem = keras.Model(self.input, block.input)
        return block.solve(stem(images), times)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, as for other classifiers of images."""
        ((name, signature),) = super().serving_signatures(batch_size).items()

        def serve(images):
            with self.get_layer("ode").fixed_steps():
                return signature.function(images)

        return {name: signature._replace(function=serve)}
