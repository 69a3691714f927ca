"""Layers for residual branches: a learned scale, and stochastic depth."""

import keras
import tensorflow as tf
from keras import ops

from keras_dl.arguments import Number, Rate, arguments
from keras_dl.base import Layer


@keras.saving.register_keras_serializable(package="keras_dl")
class LayerScale(Layer):
    """Multiplies each channel of a residual branch by a learned scale that starts near zero.

    It computes and returns float32 under any dtype policy. In half precision a branch times 1e-6 would vanish when it
    is added to the residual stream. float16 cannot even hold the scale: its smallest normal number is 6.1e-5.

    Args:
        initial_scale: float. Initial scale of every channel.

    Call arguments:
        branch: float, `(batch, ..., channels)`.

    Returns:
        float32, same shape.

    Example:

    >>> LayerScale(initial_scale=0.5)(ops.array([[2.0, 4.0]])).numpy()
    array([[1., 2.]], dtype=float32)

    Reference: Touvron et al. 2021, "Going deeper with Image Transformers", arXiv:2103.17239, eq. 4.
    """

    @arguments
    def __init__(self, initial_scale: Number = 1e-6, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def build(self, branch_shape):
        self.scale = self.add_weight(
            shape=branch_shape[-1:],
            initializer=keras.initializers.Constant(self.initial_scale),
            dtype="float32",
            name="scale",
        )

    def call(self, branch):
        return ops.cast(branch, "float32") * self.scale

    def compute_output_spec(self, branch):
        return keras.KerasTensor(branch.shape, "float32")

    def magnify_gradient(self, function, inputs):
        """`function(inputs)`, with gradients that do not pass through tiny numbers. The function ends in this layer.

        Behind a scale of 1e-6 the gradients of the branch are 1e-6 times those of the stream. No loss scaling fits both
        into float16. So the upstream gradient is divided by the smallest power of two above the largest scale. The
        resulting gradients, of the weights and of `inputs`, are multiplied by it in float32.

        Args:
            function: from a tensor to a float32 tensor. Its weights are float32 variables.
            inputs: float32 tensor.

        Returns:
            `function(inputs)`. Its gradients are exact except for underflow.
        """

        @tf.custom_gradient
        def branch(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = function(inputs)

            def gradient(upstream, variables=()):
                largest = ops.maximum(ops.max(ops.abs(self.scale)), 2.0**-24)
                unit = ops.power(2.0, ops.ceil(ops.log2(largest)))
                sources = [inputs, *variables]
                gradients = [g * unit for g in tape.gradient(outputs, sources, upstream / unit)]
                return gradients[0], gradients[1:]

            return outputs, gradient

        return branch(inputs)


@keras.saving.register_keras_serializable(package="keras_dl")
class StochasticDepth(Layer):
    """Drops the residual branches of random examples in training, and divides the other branches by `1 - rate`.

    A dropped branch is exactly 0, even if it had overflowed in half precision, and passes no gradient. The result has
    the dtype of the branch. In inference the layer is the identity.

    Args:
        rate: float in [0, 1). Probability that the branch of an example is dropped.
        seed: int, or None for a seed that depends on `keras.utils.set_random_seed`.

    Call arguments:
        branch: float, `(batch, ...)`.
        training: bool. Whether to drop branches.

    Returns:
        Same dtype and shape as `branch`.

    Raises:
        ValueError: if `rate` is not in [0, 1).

    Example:

    >>> branch = ops.ones((1000, 1))
    >>> sorted(set(StochasticDepth(0.5, seed=1)(branch, training=True).numpy().ravel().tolist()))
    [0.0, 2.0]

    Reference: Huang et al. 2016, "Deep Networks with Stochastic Depth", arXiv:1603.09382, eq. 2. The paper
    multiplies by `1 - rate` in inference; dividing in training has the same mean.
    """

    @arguments
    def __init__(self, rate: Rate, seed: int | None = None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, branch, training=False):
        if not training or self.rate == 0:
            return branch
        shape = (ops.shape(branch)[0], *[1] * (len(branch.shape) - 1))  # (batch, 1, ..., 1)
        kept = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) >= self.rate
        return ops.where(kept, branch / (1 - self.rate), ops.zeros_like(branch))

    def compute_output_shape(self, branch_shape):
        return branch_shape

    def compute_output_spec(self, branch, training=False):
        return keras.KerasTensor(branch.shape, branch.dtype)
