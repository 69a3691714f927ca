"""FCN."""

import numpy as np
from case import DROPOUT_UNDER_XLA, NO_MASK, Case, covered_by, images

import keras_dl
from keras_dl.losses import PixelCrossentropy

SIDES = (37, 46)


def pixels(num_classes):
    """Labels of pixels: rectangles on a background, and a border that is not judged."""

    def make(rng, n):
        labels = np.zeros((n, *SIDES), "int32")
        for image in labels:
            for number in range(1, num_classes):
                y, x = rng.integers(0, 20, 2)
                image[y : y + 16, x : x + 20] = number
        labels[:, :3] = 255
        return labels

    return make


def scored(model, inputs):
    """Scores start at zero: a file of zeros would prove nothing."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.startswith("score"):
            layer.kernel.assign(rng.normal(size=layer.kernel.shape) * 0.3)


def calm(model, inputs):
    """Scores of a new net differ by as much as 8, where 4% of rounding changes a probability by 0.08."""
    layer = model.get_layer("head")
    layer.kernel.assign(0.3 * layer.kernel)


CASES = [
    Case(
        name="fcn",
        architecture="fcn",
        model=keras_dl.FCN,
        arguments=dict(
            image_shape=(*SIDES, 2),
            num_classes=3,
            stride=16,
            padding="same",
            num_blocks=(1, 1, 2, 1, 1),
            filters=(4, 6, 8, 8, 6),
            hidden_dim=12,
            dropout_rate=0.1,
            batch_normalization=True,
            at_once=True,
            learned_upsampling=True,
            mean=(60.0, 70.0),
            std=(50.0, 60.0),
        ),
        forced=dict(padding="the other case has the other value"),
        inputs=images(*SIDES, 2),
        targets=pixels(3),
        compile=dict(loss=PixelCrossentropy(class_weights=(1.0, 2.0, 0.5))),
        prepare=scored,
        bad_arguments=(
            (dict(stride=4), "stride"),
            (dict(padding="valid"), "padding"),
            (dict(num_blocks=(1, 1)), "num_blocks"),
            (dict(filters=(4, 6, 8, 8)), "filters"),
            (dict(num_classes=0), "num_classes"),
            (dict(dropout_rate=1.0), "dropout_rate"),
            (dict(std=0.0), "std"),
        ),
        skips=NO_MASK | DROPOUT_UNDER_XLA,
    ),
    Case(
        name="fcn_paper",
        slow=True,
        architecture="fcn",
        model=keras_dl.FCN,
        arguments=dict(
            image_shape=(*SIDES, 1),
            num_classes=2,
            stride=32,
            padding="paper",
            num_blocks=(1, 1, 1, 1, 1),
            filters=(2, 4, 4, 4, 6),
            hidden_dim=8,
            dropout_rate=0.0,
            batch_normalization=True,
            at_once=True,
            learned_upsampling=False,
            mean=60.0,
            std=50.0,
        ),
        forced=dict(learned_upsampling="the other case has the other value"),
        inputs=images(*SIDES, 1),
        targets=pixels(2),
        compile=dict(loss=PixelCrossentropy()),
        prepare=scored,
        bad_arguments=((dict(padding="full"), "padding"),),
        skips=NO_MASK,
    ),
    Case(
        name="fcn_resnet",
        architecture="fcn",
        model=keras_dl.FCNResNet,
        arguments=dict(
            image_shape=(*SIDES, 2),
            num_classes=3,
            num_blocks=(1, 1, 1, 2),
            filters=(4, 4, 6, 6),
            auxiliary_weight=0.3,
            dropout_rate=0.2,
            mean=(60.0, 70.0),
            std=(50.0, 60.0),
        ),
        inputs=images(*SIDES, 2),
        targets=pixels(3),
        compile=dict(loss=PixelCrossentropy()),
        bad_arguments=(
            (dict(num_blocks=(1, 1)), "num_blocks"),
            (dict(filters=(4, 4)), "filters"),
            (dict(auxiliary_weight=-0.1), "auxiliary_weight"),
        ),
        prepare=calm,
        skips=NO_MASK | DROPOUT_UNDER_XLA,
        slow_checks=covered_by("fcn", "the resize to the image, which only `make test-all` exports")
        | {"exports": "11 s; other cases export residual stages"},
    ),
]
