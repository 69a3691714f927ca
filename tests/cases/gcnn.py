"""Group equivariant networks."""

from case import DROPOUT_UNDER_XLA, NO_MASK, Case, classification, images, labels

import keras_dl

CASES = [
    Case(
        name="gcnn",
        architecture="gcnn",
        model=keras_dl.GCNN,
        arguments=dict(
            image_shape=(14, 14, 2),
            num_classes=5,
            group="p4m",
            filters=2,
            num_layers=4,
            dropout_rate=0.05,
            mean=(60.0, 70.0),
            std=(50.0, 60.0),
        ),
        inputs=images(14, 14, 2),
        targets=labels(5),
        compile=classification(),
        bad_arguments=(
            (dict(image_shape=(14, 16, 2)), "image_shape"),
            (dict(image_shape=(13, 13, 2)), "image_shape"),
            (dict(group="p6"), "group"),
            (dict(num_layers=2), "num_layers"),
            (dict(dropout_rate=1.0), "dropout_rate"),
        ),
        skips=NO_MASK | DROPOUT_UNDER_XLA,
    ),
    Case(
        name="group_resnet",
        architecture="gcnn",
        model=keras_dl.GroupResNet,
        arguments=dict(
            image_shape=(10, 10, 2),
            num_classes=5,
            group="p4",
            num_blocks=(1, 1),
            filters=(2, 3),
            mean=(60.0, 70.0),
            std=(50.0, 60.0),
        ),
        inputs=images(10, 10, 2),
        targets=labels(5),
        compile=classification(),
        bad_arguments=(
            (dict(image_shape=(10, 12, 2)), "image_shape"),
            (dict(filters=(2, 3, 4)), "filters"),
            (dict(group="p6"), "group"),
        ),
        skips=NO_MASK,
    ),
]
