"""ViT."""

from case import DROPOUT_UNDER_XLA, NO_MASK, Case, classification, images, labels

import keras_dl

CASES = [
    Case(
        name="vit",
        architecture="vit",
        model=keras_dl.ViT,
        arguments=dict(
            image_shape=(12, 20, 2),
            num_classes=5,
            patch_size=4,
            hidden_dim=12,
            mlp_dim=20,
            num_layers=1,
            num_heads=3,
            dropout_rate=0.05,
            norm_epsilon=1e-5,
            mean=(60.0, 70.0),
            std=(50.0, 60.0),
        ),
        inputs=images(12, 20, 2),
        targets=labels(5),
        compile=classification(),
        bad_arguments=(
            (dict(patch_size=5), "patch_size"),
            (dict(patch_size=3), "patch_size"),
            (dict(num_heads=5), "num_heads"),
            (dict(dropout_rate=1.0), "dropout_rate"),
            (dict(hidden_dim=0), "hidden_dim"),
        ),
        skips=NO_MASK | DROPOUT_UNDER_XLA,  # test_vit.py trains without dropout under XLA
    ),
]
