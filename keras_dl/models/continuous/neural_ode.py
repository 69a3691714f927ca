"""Neural ODE: a stack of residual blocks becomes one differential equation, whose solver decides how deep it is.

    h(0) = downsampled image,  dh/dt = f(t, h(t)),  logits = head(h(T))
    f(t, h) = norm(conv(t, relu(norm(conv(t, relu(norm(h)))))))

A convolution that takes the time has it as one more channel, constant over the image. A residual net is the same with
Euler's method, a step of 1 and weights of its own for each step. How the equation is solved and differentiated is in
`keras_dl.ops.odeint`. The other models of the family are in `latent_ode` and `continuous_flow`.

Reference: Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366,
section 3; the net's sizes are those of the authors' odenet_mnist.

Deviations: convolutions of stride 2 pad as Keras's "same", so that the second of them makes 7x7 maps of a digit, not
6x6. The default solver takes fixed steps of Runge and Kutta, which export; the paper's is adaptive (`method="dopri5"`).
"""

import contextlib

import keras
import numpy as np
from keras import layers, ops

from keras_dl.base import Layer
from keras_dl.checks import check_choice, check_image_shape, check_size
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier
from keras_dl.ops.odeint import ADAPTIVE, GRADIENTS, METHODS, odeint

_EPSILON = 1e-5

# The authors' net for MNIST: 208,266 parameters, "0.22M" in table 1 of the paper, beside 0.60M of a residual net;
# errors of 0.42% and 0.41%. Adaptive steps, with gradients by the adjoint.
PRESETS = {
    "odenet_mnist": dict(
        image_shape=(28, 28, 1), num_classes=10, filters=64, num_groups=32, method="dopri5", gradient="adjoint"
    )
}


@keras.saving.register_keras_serializable(package="keras_dl")
class GroupNorm(Layer):
    """Group normalisation of images, without tensors of more than four axes, which edge devices do not take.

    Args:
        groups: int. Must divide the channels.

    Call arguments:
        images: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, same shape; statistics are taken in float32.

    Reference: Wu, He 2018, "Group Normalization", arXiv:1803.08494, eq. 1 and 7.
    """

    def __init__(self, groups, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def build(self, images_shape):
        self.gamma = self.add_weight(shape=(images_shape[-1],), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(images_shape[-1],), initializer="zeros", name="beta")

    def call(self, images):
        _, height, width, channels = images.shape
        # (batch, pixels, groups, channels of a group)
        x = ops.reshape(ops.cast(images, "float32"), (-1, height * width, self.groups, channels // self.groups))
        x = x - ops.mean(x, axis=(1, 3), keepdims=True)
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=(1, 3), keepdims=True) + _EPSILON)
        x = ops.reshape(ops.cast(x, self.compute_dtype), (-1, height, width, channels))
        return x * self.gamma + self.beta

    def compute_output_shape(self, images_shape):
        return images_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class TimeConv2D(Layer):
    """A 3x3 convolution, padded with zeros, of an image and of the time as its first channel.

    It is computed as the convolution of the image plus the time times that of a map of ones, so that the image is not
    copied; at the edges, too, that is what the convolution of both beside each other gives.

    Args:
        filters: int.

    Call arguments:
        images: float, `(batch, height, width, channels)`.
        time: float scalar.

    Returns:
        float, `(batch, height, width, filters)`.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, images_shape, time_shape=None):
        shape = (3, 3, 1 + images_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, images, time):
        _, height, width, _ = images.shape
        of_time, of_images = ops.split(self.kernel, [1], axis=2)
        ones = np.ones((1, height, width, 1), "float32")
        shift = ops.conv(ops.cast(ones, self.compute_dtype), of_time, padding="same")
        return ops.conv(images, of_images, padding="same") + (ops.cast(time, self.compute_dtype) * shift + self.bias)

    def compute_output_shape(self, images_shape, time_shape=None):
        return (*images_shape[:-1], self.filters)


@keras.saving.register_keras_serializable(package="keras_dl")
class ODEBlock(Layer):
    """Follows feature maps along `dh/dt = f(t, h)` from time 0 to `end_time`.

    Args:
        num_groups, method, num_steps, gradient, end_time, unroll, tolerance, max_num_steps: as of `ODEClassifier`.

    Call arguments:
        maps: float, `(batch, height, width, channels)`.

    Returns:
        The layer's compute dtype, same shape. The equation is solved in float32.
    """

    def __init__(
        self,
        num_groups,
        method="rk4",
        num_steps=4,
        gradient="adjoint",
        end_time=1.0,
        unroll=False,
        tolerance=1e-3,
        max_num_steps=1000,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.num_groups = num_groups
        self.method = method
        self.num_steps = num_steps
        self.gradient = gradient
        self.end_time = end_time
        self.unroll = unroll
        self.tolerance = tolerance
        self.max_num_steps = max_num_steps

    def build(self, maps_shape):
        dtype = self.dtype_policy
        self.norms = [GroupNorm(self.num_groups, dtype=dtype, name=f"norm_{i}") for i in range(3)]
        self.convolutions = [TimeConv2D(maps_shape[-1], dtype=dtype, name=f"conv_{i}") for i in range(2)]
        for layer in (*self.norms, *self.convolutions):
            layer.build(maps_shape)

    def derivative(self, time, maps):
        """`f(t, h)`: the derivative of feature maps, in their shape."""
        x = self.norms[0](ops.cast(maps, self.compute_dtype))
        x = self.convolutions[0](ops.relu(x), time)
        x = self.convolutions[1](ops.relu(self.norms[1](x)), time)
        return self.norms[2](x)

    def solve(self, maps, times):
        """The feature maps at all of `times`, of which the first is that of `maps`: float32, `(n, batch, ...)`."""
        return odeint(
            self.derivative,
            ops.cast(maps, "float32"),
            times,
            method=self.method,
            num_steps=self.num_steps,
            gradient=self.gradient,
            unroll=self.unroll,
            rtol=self.tolerance,
            atol=self.tolerance,
            max_num_steps=self.max_num_steps,
        )

    def call(self, maps):
        return ops.cast(self.solve(maps, np.array([0.0, self.end_time], "float32"))[-1], self.compute_dtype)

    def compute_output_spec(self, maps):
        return keras.KerasTensor(maps.shape, self.compute_dtype)

    @contextlib.contextmanager
    def fixed_steps(self):
        """Inside the block, an adaptive solver is replaced by "rk4" with `num_steps`."""
        method, self.method = self.method, "rk4" if self.method == ADAPTIVE else self.method
        try:
            yield
        finally:
            self.method = method


@keras.saving.register_keras_serializable(package="keras_dl")
class ODEClassifier(ImageClassifier):
    """Classifies images by where a differential equation takes their features.

    A device runs fixed steps. They are a loop inside its graph, one WHILE; `unroll=True` writes them out one after the
    other, as integer files need it, for LiteRT's calibration cannot look into a loop. To change that of a
    trained model, build another: `ODEClassifier.from_config(model.get_config() | {"unroll": True})`, and give it the
    weights by `set_weights(model.get_weights())`.

    Args:
        image_shape: `(height, width, channels)`, sides of at least 8.
        num_classes: int.
        filters: int. Channels of all convolutions.
        num_groups: int. Groups of the normalisations; it must divide `filters`.
        method: "euler", "midpoint", "rk4", "rk4_38" or "dopri5": see `keras_dl.ops.odeint`. "dopri5" chooses its steps
            for all images of a batch together, and a device is served "rk4" in its place.
        num_steps: int. Steps of a fixed solver, and of what is served.
        gradient: "adjoint", whose memory does not grow with the steps, or "backprop", through the steps.
        end_time: float, positive. T; the equation starts at 0.
        unroll: bool. Whether fixed steps are written out in the graph instead of a loop.
        tolerance: float, positive. Relative and absolute error that "dopri5" allows in a step.
        max_num_steps: int. Steps after which "dopri5" gives up.
        mean: float, or one a channel. Of the pixels.
        std: float, or one a channel. Of the pixels.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float32, `(batch, num_classes)`: logits.

    Raises:
        ValueError: if an argument is none of the above; it says which and what it was.
        keras_dl.ops.odeint.SolverError: if, called eagerly, "dopri5" gives up; the message has the number of steps.

    Example:

    >>> model = ODEClassifier(filters=8, num_groups=4, num_steps=2)
    >>> model(np.zeros((2, 28, 28, 1))).shape
    TensorShape([2, 10])
    """

    presets = PRESETS

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=64,
        num_groups=32,
        method="rk4",
        num_steps=4,
        gradient="adjoint",
        end_time=1.0,
        unroll=False,
        tolerance=1e-3,
        max_num_steps=1000,
        mean=33.3,
        std=78.6,
        dtype=None,
        **kwargs,
    ):
        image_shape = check_image_shape("image_shape", image_shape, min_side=8)
        filters = check_size("filters", filters)
        num_groups = check_size("num_groups", num_groups)
        if filters % num_groups:
            raise ValueError(f"num_groups={num_groups} must divide filters={filters}.")
        check_solver(method, num_steps, gradient)
        for name, value in (("end_time", end_time), ("tolerance", tolerance)):
            if not value > 0:
                raise ValueError(f"{name}={value!r} must be positive.")
        check_size("max_num_steps", max_num_steps)

        def convolution(i, kernel, strides, padding):
            return layers.Conv2D(filters, kernel, strides, padding, dtype=dtype, name=f"conv_{i}")

        def normalized(x, name):
            return layers.ReLU(dtype=dtype, name=f"relu_{name}")(GroupNorm(num_groups, dtype=dtype, name=name)(x))

        images = keras.Input(image_shape, name="images")
        x = PixelNormalization(mean, std, dtype=dtype, name="pixels")(images)
        x = convolution(0, 3, 1, "valid")(x)
        for i in (1, 2):
            x = convolution(i, 4, 2, "same")(normalized(x, f"norm_{i - 1}"))
        x = ODEBlock(
            num_groups,
            method=method,
            num_steps=num_steps,
            gradient=gradient,
            end_time=end_time,
            unroll=unroll,
            tolerance=tolerance,
            max_num_steps=max_num_steps,
            dtype=dtype,
            name="ode",
        )(x)
        x = layers.GlobalAveragePooling2D(dtype=dtype, name="pool")(normalized(x, "norm_2"))
        logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
        super().__init__(inputs=images, outputs=logits, dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.num_classes = num_classes
        self.filters = filters
        self.num_groups = num_groups
        self.method = method
        self.num_steps = num_steps
        self.gradient = gradient
        self.end_time = end_time
        self.unroll = unroll
        self.tolerance = tolerance
        self.max_num_steps = max_num_steps
        pixels = self.get_layer("pixels")
        self.mean, self.std = pixels.mean, pixels.std

    def trajectories(self, images, times):
        """The feature maps at each of `times`, as they flow: float32, `(n, batch, height, width, filters)`.

        Args:
            images: `(batch, height, width, channels)`, raw pixels in [0, 255].
            times: float, `(n,)`, increasing. The first is where the image itself is, 0.
        """
        block = self.get_layer("ode")
        stem = keras.Model(self.input, block.input)
        return block.solve(stem(images), times)

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of one `Signature`, `classify`, as of other classifiers of images."""
        signature = super().serving_signatures(batch_size)["classify"]

        def classify(images):
            with self.get_layer("ode").fixed_steps():
                return signature.function(images)

        return {"classify": signature._replace(function=classify)}


def check_solver(method, num_steps, gradient, methods=METHODS):
    """The arguments by which a model solves, or a ValueError that names the wrong one."""
    check_choice("method", method, methods)
    check_size("num_steps", num_steps)
    check_choice("gradient", gradient, GRADIENTS)
    if method == ADAPTIVE and gradient == "backprop":
        raise ValueError("gradient='backprop' is not to be had of method='dopri5'. Choose 'adjoint'.")
