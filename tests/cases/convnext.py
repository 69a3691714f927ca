"""ConvNeXt."""

from case import NO_MASK, Case, classification, images, labels

import keras_dl

CASES = [
    Case(
        name="convnext",
        architecture="convnext",
        model=keras_dl.ConvNeXt,
        arguments=dict(
            image_shape=(17, 22, 2),
            num_classes=5,
            num_blocks=(1, 1),
            filters=(8, 12),
            patch_size=3,
            kernel_size=5,
            initial_scale=0.1,
            stochastic_depth_rate=0.2,
            mean=(60.0, 70.0),
            std=(50.0, 60.0),
        ),
        inputs=images(17, 22, 2),
        targets=labels(5),
        compile=classification(),
        bad_arguments=(
            (dict(image_shape=(4, 22, 2)), "image_shape"),
            (dict(kernel_size=4), "kernel_size"),
            (dict(initial_scale="small"), "initial_scale"),
            (dict(filters=(8, 12, 16)), "filters"),
            (dict(stochastic_depth_rate=1.0), "stochastic_depth_rate"),
            (dict(patch_size=0), "patch_size"),
        ),
        skips=NO_MASK,
    ),
]
