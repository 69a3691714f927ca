"""Projection: the style whose image is nearest to a given one, found by gradients.

As in StyleGAN2's appendix D: it begins at the mean style; noise on the style, which dies away, keeps it from the first
valley that it meets; the rate rises at first, and falls to 0 in the last quarter.

Deviation: the distance is of pixels, the mean of the squared differences at all halved sizes of the images, not of the
features of a VGG net. And the maps of noise are not optimized, so that the style has to tell all there is.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

NOISE, NOISE_UNTIL = 0.05, 0.75  # of the distance of styles from their mean; of the steps
RISE, FALL = 0.05, 0.25
SAMPLES = 1000  # styles that tell how far they are from their mean


def pyramid_distance(images, others):
    """The mean of the squared differences at full size, half, a quarter, ... down to 4 pixels: float32, `(batch,)`.

    Args:
        images, others: float32, `(batch, height, width, channels)`.
    """
    difference, total, levels = images - others, 0.0, 0
    while True:
        total, levels = total + ops.mean(ops.square(difference), axis=(1, 2, 3)), levels + 1
        if difference.shape[1] <= 4 or difference.shape[1] % 2:
            return total / levels
        difference = tf.nn.avg_pool2d(difference, 2, 2, "VALID")


def project(model, images, steps: int, learning_rate: float, per_layer: bool, seed: int):
    """Styles whose images are nearest to given ones.

    Args:
        model: a `StyleBased`.
        images: float, `(batch, *image_shape)`, in [0, 255].
        steps: int, of Adam.
        learning_rate: float. The highest of the training, in units of the styles.
        per_layer: bool. Whether each layer finds a style of its own (the space W+), which comes nearer, also to images
            that the model would never make. Else all have the same (W).
        seed: int.

    Returns:
        `(styles, distances)`: float32, `(batch, num_styles, style_dim)`, for `synthesize`; and `(steps,)`, the mean
        distance before each step, of images in [-1, 1].

    Raises:
        ValueError: if images are not in [0, 255], or `steps` or `learning_rate` is not positive.
    """
    lowest, highest = float(ops.min(images)), float(ops.max(images))
    if not (0 <= lowest <= highest <= 255) or lowest < highest <= 1:
        raise ValueError(f"images has values from {lowest:g} to {highest:g}; project takes raw pixels in [0, 255].")
    if steps < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(f"steps={steps}, learning_rate={learning_rate}: both must be positive.")
    random = np.random.default_rng(seed)
    spread = _spread(model, random)
    rows = model.num_styles if per_layer else 1
    start = np.tile(np.asarray(model.mean_style), (images.shape[0], rows, 1))
    styles = keras.Variable(start.astype("float32"))
    optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.9, beta_2=0.999)
    optimizer.build([styles])

    @tf.function(jit_compile=False)
    def step(noise):
        with tf.GradientTape() as tape:
            all_layers = ops.tile(styles + noise, (1, model.num_styles // rows, 1))
            made = model.unclipped(all_layers)
            distances = pyramid_distance(made / 127.5, images / 127.5)
            total = ops.sum(distances)
        optimizer.apply([tape.gradient(total, styles.value)])
        return ops.mean(distances)

    found = []
    for i in range(steps):
        done = i / steps
        optimizer.learning_rate = learning_rate * _schedule(done)
        amount = NOISE * spread * max(0.0, 1.0 - done / NOISE_UNTIL) ** 2
        found.append(float(step(tf.constant(amount * random.standard_normal(start.shape), tf.float32))))
    return ops.tile(styles.value, (1, model.num_styles // rows, 1)), np.array(found, "float32")


def _schedule(done):
    """The share of the highest rate after a share of the steps."""
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - done) / FALL))
    return fall * min(1.0, (done + 1e-3) / RISE)


def _spread(model, random):
    """The root of the mean squared distance of a style's coordinates from the mean style."""
    noise = random.standard_normal((SAMPLES, model.noise_dim)).astype("float32")
    return float(ops.sqrt(ops.mean(ops.square(model.map(noise)[:, 0] - model.mean_style))))
