"""Small GANs, data and comparisons for the tests of adversarial training."""

import keras
import numpy as np
import tensorflow as tf

TINY = dict(image_shape=(8, 8, 1), noise_dim=4, filters=4)


def pixels(n=16, shape=(8, 8, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype("float32")


def compiled(model, *optimizers, **options):
    optimizers = optimizers or (keras.optimizers.Adam(2e-3, beta_1=0.5),)
    model.compile(*optimizers, **{"run_eagerly": True} | options)
    return model


def values(variables):
    return [np.array(v.numpy()) for v in variables]


def equal(some, others):
    return [np.array_equal(a, b) for a, b in zip(some, others, strict=True)]


def given(model, *noises):
    """Makes the model draw these, one after the other."""
    queue = iter(noises)
    model.draw_noise = lambda count, seed=None: tf.constant(next(queue))
    return model
