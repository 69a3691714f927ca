"""Generative adversarial nets."""

import numpy as np
from case import NO_MASK, Case, images, no_targets, normal

import keras_dl

SKIPS = NO_MASK | {
    "trains_equally_under_xla": "TensorFlow draws other noise under XLA; the architecture's test compares the two on "
    "noise that is given"
}


def noise(size):
    return lambda rng, n: rng.standard_normal((n, size)).astype("float32")


def ring(rng, n):
    angles = rng.integers(0, 8, n) * np.pi / 4
    points = 2 * np.stack([np.cos(angles), np.sin(angles), angles], axis=-1)
    return (points + 0.02 * rng.normal(size=(n, 3))).astype("float32")


def spread(model, inputs):
    """Makes images with contrast: those of a new DCGAN are gray, and vary by less than a step of an int8 file."""
    for variable in [*model.generator.weights, *model.average.weights]:
        if variable.name == "kernel":
            variable.assign(10 * variable)


CASES = [
    Case(
        name="dcgan",
        architecture="gan",
        model=keras_dl.DCGAN,
        arguments=dict(
            image_shape=(16, 24, 2),
            noise_dim=6,
            filters=4,
            noise="uniform",
            objective="hinge",
            averaging=0.5,
            seed=3,
        ),
        inputs=images(16, 24, 2),
        called=noise(6),
        targets=no_targets,
        compile={},
        prepare=spread,
        served=dict(generate=normal("noise", 6)),
        bad_arguments=(
            (dict(image_shape=(30, 30, 1)), "image_shape"),
            (dict(image_shape=(16, 22, 1)), "image_shape"),
            (dict(filters=0), "filters"),
            (dict(noise="pink"), "noise"),
            (dict(objective="wasserstein"), "objective"),
            (dict(averaging=1.0), "averaging"),
        ),
        skips=SKIPS,
    ),
    Case(
        name="gan_dense",
        architecture="gan",
        model=keras_dl.GAN,
        arguments=dict(
            data_shape=(3,),
            noise_dim=5,
            generator_dims=(12,),
            discriminator_dims=(8, 6),
            pieces=3,
            input_dropout_rate=0.1,
            dropout_rate=0.3,
            data_range="unbounded",
            noise="normal",
            objective="least_squares",
            generator_range=None,
            discriminator_range=0.2,
            averaging=0.6,
            seed=3,
        ),
        inputs=ring,
        called=noise(5),
        targets=no_targets,
        compile={},
        served=dict(generate=normal("noise", 5)),
        bad_arguments=(
            (dict(data_shape=(0,)), "data_shape"),
            (dict(pieces=0), "pieces"),
            (dict(data_range="unit"), "data_range"),
            (dict(generator_range=0.0), "generator_range"),
        ),
        skips=SKIPS,
        slow_checks={"compiles_under_xla": "the test of lazy regularization compiles this class"},
    ),
]
