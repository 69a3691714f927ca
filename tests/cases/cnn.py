"""LeNet-5, AlexNet and VGG."""

from case import DROPOUT_UNDER_XLA, NO_MASK, Case, classification, images, labels

import keras_dl

CASES = [
    Case(
        name="alexnet",
        architecture="cnn",
        model=keras_dl.AlexNet,
        arguments=dict(
            image_shape=(67, 71, 1),
            num_classes=5,
            filters=(4, 8, 6, 6, 4),
            towers=1,
            response_normalization=False,
            hidden_dim=16,
            dropout_rate=0.05,  # a loss of eight rows goes up and down by more
            mean=60.0,
            std=50.0,
        ),
        inputs=images(67, 71, 1),
        targets=labels(5),
        compile=classification(),
        bad_arguments=(
            (dict(image_shape=(32, 32, 1)), "image_shape"),
            (dict(filters=(4, 8)), "filters"),
            (dict(towers=3), "towers"),
        ),
        skips=NO_MASK | DROPOUT_UNDER_XLA,
    ),
    Case(
        name="alexnet_towers",
        slow=True,
        tolerances=dict(int8=0.15),  # measured 0.12
        architecture="cnn",
        model=keras_dl.AlexNet,
        arguments=dict(
            image_shape=(71, 67, 1),
            num_classes=5,
            filters=(4, 8, 6, 6, 4),
            towers=2,
            response_normalization=True,
            hidden_dim=16,
            dropout_rate=0.2,
            mean=60.0,
            std=50.0,
        ),
        forced=dict.fromkeys(("towers", "response_normalization"), "the other case has the other value"),
        inputs=images(71, 67, 1),
        targets=labels(5),
        compile=classification(),
        bad_arguments=((dict(hidden_dim=0), "hidden_dim"),),
        skips=NO_MASK | DROPOUT_UNDER_XLA,
    ),
    Case(
        name="vgg",
        architecture="cnn",
        model=keras_dl.VGG,
        arguments=dict(
            image_shape=(17, 20, 1),
            num_classes=5,
            num_blocks=(1, 2),
            filters=(4, 8),
            hidden_dim=16,
            dropout_rate=0.2,
            mean=60.0,
            std=50.0,
        ),
        inputs=images(17, 20, 1),
        targets=labels(5),
        compile=classification(),
        bad_arguments=((dict(num_blocks=(1, 2, 3)), "num_blocks"), (dict(dropout_rate=2.0), "dropout_rate")),
        skips=NO_MASK | DROPOUT_UNDER_XLA,
    ),
    Case(
        name="lenet5",
        architecture="cnn",
        model=keras_dl.LeNet5,
        arguments=dict(image_shape=(20, 24, 3), num_classes=7, head="softmax", mean=30.0, std=150.0),
        forced=dict(head="the other head takes only ten classes"),
        inputs=images(20, 24, 3),
        targets=labels(7),
        compile=classification(),
        bad_arguments=(
            (dict(image_shape=(40, 20, 3)), "image_shape"),
            (dict(head="linear"), "head"),
            (dict(std=0.0), "std"),
        ),
        skips=NO_MASK,
    ),
    Case(
        name="lenet5_rbf",
        slow=True,
        architecture="cnn",
        model=keras_dl.LeNet5,
        arguments=dict(image_shape=(24, 20, 3), num_classes=10, head="rbf", mean=30.0, std=150.0),
        forced=dict(num_classes="there are bitmaps of ten digits"),
        inputs=images(24, 20, 3),
        targets=labels(10),
        compile=classification(),
        bad_arguments=((dict(num_classes=7), "num_classes"),),
        # Measured 0.14 and 0.061: distances reach some hundreds, so that a step of int8 is about 1.
        tolerances=dict(int8=0.2, dynamic_int8=0.1),
        skips=NO_MASK,
    ),
]
