"""Denoising diffusion probabilistic models."""

import numpy as np
from case import NO_MASK, Case, images, labels

import keras_dl

CLASSES, SHAPE, STEPS = 3, (8, 16, 1), 4
SKIPS = NO_MASK | {
    "trains_equally_under_xla": "TensorFlow draws other noise under XLA; the architecture's test compares the two on "
    "noise that is given"
}


def noisy(rng, n):
    """Inputs of a call, and of `denoise`."""
    return {
        "images": rng.normal(size=(n, *SHAPE)).astype("float32"),
        "times": rng.integers(0, 20, n).astype("int32"),
        "labels": rng.integers(0, CLASSES + 1, n).astype("int32"),
    }


def chains(rng, n):
    """Inputs of `sample`."""
    noise = rng.normal(size=(n, STEPS, int(np.prod(SHAPE)))).astype("float32")
    return {"noise": noise, "labels": rng.integers(0, CLASSES, n).astype("int32")}


def spread(model, inputs):
    """Lets the net return something: that of a new one is nearly 0, and its branches are."""
    rng = np.random.default_rng(0)
    for variable in model.network.weights:
        if variable.name == "kernel" and float(np.abs(variable.numpy()).max()) < 1e-3:
            variable.assign(rng.normal(size=variable.shape) * 0.3)
    model.average.set_weights(model.network.get_weights())


CASES = [
    Case(
        name="ddpm",
        architecture="ddpm",
        model=keras_dl.DDPM,
        arguments=dict(
            image_shape=SHAPE,
            filters=8,
            multipliers=(1, 2),
            num_blocks=1,
            attention_sides=(),
            dropout_rate=0.2,
            groups=4,
            num_heads=2,
            patch_size=2,
            process=keras_dl.diffusion.CosineBetas(20),
            predicts="velocity",
            variance="learned",
            num_classes=CLASSES,
            label_dropout=0.2,
            averaging=0.5,
            sampler="ancestral",
            sampling_steps=STEPS,
            eta=0.5,
            guidance=1.5,
            seed=3,
        ),
        inputs=images(*SHAPE),
        called=noisy,
        targets=labels(CLASSES),
        compile={},
        prepare=spread,
        served=dict(denoise=noisy, sample=chains),
        integer_signatures=("denoise",),
        # Guidance of 1.5 multiplies the error of a pass by up to 4, and each of the four steps has one.
        tolerances=dict(dynamic_int8=2e-1, float16=1e-2, int8=3e-1),  # float16 6.4e-3, int8 0.17 of the velocity
        bad_arguments=(
            (dict(image_shape=(8, 18, 1)), "image_shape"),
            (dict(filters=9), "filters"),
            (dict(multipliers=()), "multipliers"),
            (dict(groups=3), "groups"),
            (dict(num_heads=3), "num_heads"),
            (dict(process="quadratic"), "process"),
            (dict(predicts="score"), "predicts"),
            (dict(variance="large"), "variance"),
            (dict(sampling_steps=21), "sampling_steps"),
            (dict(sampling_steps=0), "sampling_steps"),
            (dict(eta=1.5), "eta"),
            (dict(guidance=1.0, num_classes=None), "guidance"),
            (dict(averaging=1.0), "averaging"),
        ),
        skips=SKIPS,
        slow_checks={
            "compiles_under_xla": "half a minute of compiling; the architecture's test compiles a training step",
            "exports_to_onnx": "20 s for two graphs of the U-Net",
            "frozen_layers_stay_frozen": "6 CPU seconds; score_sde has the same layers",
        },
    ),
]
