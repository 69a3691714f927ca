"""A pyramid of features: maps of all sizes, each of which knows what the coarser ones saw.

    P_i = conv3x3(M_i),    M_i = conv1x1(C_i) + nearest(M_i+1),    M of the coarsest is conv1x1(C) alone

Reference: Lin et al. 2016, "Feature Pyramid Networks for Object Detection", arXiv:1612.03144, section 3.
"""

import itertools

import keras
import tensorflow as tf
from keras import layers, ops

from keras_dl.arguments import Size, arguments
from keras_dl.base import Layer


@tf.custom_gradient
def enlarge(maps):
    """Each place of a map twice in both axes: `(batch, height, width, channels)` to twice both sides.

    It is one builtin op of LiteRT. TensorFlow's own gradient of it does not compile under XLA; this one does.

    Example:

    >>> enlarge(tf.constant([[[[1.0], [2.0]]]])).numpy()[0, :, :, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]], dtype=float32)
    """
    height, width = maps.shape[1:3]

    def gradient(upstream):
        return 4.0 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")  # the sum of the four copies

    return tf.raw_ops.ResizeNearestNeighbor(images=maps, size=[2 * height, 2 * width]), gradient


@keras.saving.register_keras_serializable(package="keras_dl")
class FeaturePyramid(Layer):
    """From the maps of a network's stages to as many maps of one width.

    Args:
        filters: int. Channels of each map.
        pooled: bool. Whether there is one more map: every second place of the coarsest.

    Call arguments:
        maps: list of `(batch, height, width, channels)`, the finest first, of static sides. Each has half the sides of
            the one before, rounded up.

    Returns:
        list of `(batch, height, width, filters)`: of the same sides, and perhaps one more.

    Raises:
        ValueError: if a map does not have half the sides of the one before.

    Example:

    >>> maps = [ops.zeros((1, 8, 6, 4)), ops.zeros((1, 4, 3, 8))]
    >>> [tuple(x.shape) for x in FeaturePyramid(16, pooled=True)(maps)]
    [(1, 8, 6, 16), (1, 4, 3, 16), (1, 2, 2, 16)]
    """

    @arguments
    def __init__(self, filters: Size = 256, pooled: bool = False, **kwargs):
        super().__init__(**kwargs)

    def build(self, shapes):
        for fine, coarse in itertools.pairwise(shapes):
            if any(-(-a // 2) != b for a, b in zip(fine[1:3], coarse[1:3], strict=True)):
                raise ValueError(f"maps have the shapes {shapes}: each must have half the sides of the one before.")
        self.inner, self.outer = [], []
        for i, shape in enumerate(shapes):
            for convs, name, size in ((self.inner, "inner", 1), (self.outer, "outer", 3)):
                conv = layers.Conv2D(
                    self.filters,
                    size,
                    padding="same",
                    kernel_initializer="lecun_uniform",
                    dtype=self.dtype_policy,
                    name=f"{name}_{i}",
                )
                conv.build(shape if size == 1 else (*shape[:3], self.filters))
                convs.append(conv)

    def call(self, maps):
        found, above = [], None
        for fine, inner, outer in reversed(list(zip(maps, self.inner, self.outer, strict=True))):
            merged = inner(fine)
            if above is not None:
                height, width = merged.shape[1:3]
                merged = merged + enlarge(above)[:, :height, :width]
            above = merged
            found.insert(0, outer(merged))
        if self.pooled:
            found.append(ops.max_pool(found[-1], 1, 2))
        return found

    def compute_output_shape(self, shapes):
        found = [(*shape[:3], self.filters) for shape in shapes]
        if self.pooled:
            batch, height, width = found[-1][:3]
            found.append((batch, -(-height // 2), -(-width // 2), self.filters))
        return found

    def torch_modules(self, prefix: str) -> dict[str, keras.Layer]:
        """The layers by their names in torchvision, as `keras_dl.weights.load_torch` takes them."""
        modules = {f"{prefix}.inner_blocks.{i}.0": conv for i, conv in enumerate(self.inner)}
        return modules | {f"{prefix}.layer_blocks.{i}.0": conv for i, conv in enumerate(self.outer)}
