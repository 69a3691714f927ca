"""ViT."""

import numpy as np
from case import DROPOUT_UNDER_XLA, NO_MASK, Case, classification, images, labels

import keras_dl


def like_trained(model, inputs):
    """A class token and positions as large as patches, and a head that is not zero. New ones are so small that int8,
    with one scale for all tokens, has no step for the class token, which the answer is read from."""
    rng = np.random.default_rng(3)
    for variable in model.weights:
        if variable.path.startswith(("class_token/", "positions/", "head/kernel")):
            variable.assign(rng.normal(size=variable.shape))


CASES = [
    Case(
        name="vit",
        architecture="vit",
        model=keras_dl.ViT,
        arguments=dict(
            image_shape=(12, 20, 2),
            num_classes=5,
            patch_size=4,
            hidden_dim=24,
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
        prepare=like_trained,
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
