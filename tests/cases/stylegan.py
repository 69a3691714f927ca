"""Style-based generators."""

import numpy as np
from case import NO_MASK, Case, images, no_targets, normal

import keras_dl

SKIPS = NO_MASK | {
    "trains_equally_under_xla": "TensorFlow draws other noise under XLA, and another style for each layer with it"
}
SHARED = dict(
    image_shape=(8, 8, 2),
    noise_dim=6,
    style_dim=5,
    mapping_layers=2,
    base_filters=32,
    max_filters=4,
    mixing_rate=0.5,
    group_size=2,
    averaging=0.5,
    seed=3,
)
BAD = (
    (dict(image_shape=(12, 12, 1)), "image_shape"),
    (dict(image_shape=(8, 16, 1)), "image_shape"),
    (dict(image_shape=(4, 4, 1)), "image_shape"),
    (dict(base_filters=4), "base_filters"),
    (dict(fir=()), "fir"),
    (dict(fir=(1, -1)), "fir"),
    (dict(mixing_rate=1.5), "mixing_rate"),
    (dict(r1_weight=-1.0), "r1_weight"),
    (dict(averaging=1.0), "averaging"),
)


def noise(rng, n):
    return rng.standard_normal((n, SHARED["noise_dim"])).astype("float32")


def synthesis(map_sides, num_styles):
    """Styles, and noise for each layer."""

    def make(rng, n):
        made = {f"noise_{i}": rng.standard_normal((n, side, side, 1)) for i, side in enumerate(map_sides)}
        made["styles"] = rng.standard_normal((n, num_styles, SHARED["style_dim"]))
        return {name: x.astype("float32") for name, x in made.items()}

    return make


def prepared(model, inputs):
    """Noise with a strength, first maps that differ, and images of less contrast, most of which is not cut."""
    for net in (model.synthesis, model.average_synthesis):
        for layer in net.layers:
            for variable in layer.weights:
                if variable.name == "strength":
                    variable.assign(variable + 0.3)
                if variable.name == "maps":
                    variable.assign(np.random.default_rng(0).normal(size=variable.shape))
                if variable.name == "kernel" and layer.name.startswith("rgb_"):
                    variable.assign(0.3 * variable)
    model.mean_style.assign(np.linspace(-0.5, 0.5, SHARED["style_dim"]))


CASES = [
    Case(
        name="stylegan2",
        architecture="stylegan",
        model=keras_dl.StyleGAN2,
        arguments=SHARED
        | dict(fir=(1.0, 2.0, 1.0), r1_weight=0.1, r1_interval=2, path_length_weight=0.0, path_length_interval=2),
        inputs=images(8, 8, 2),
        called=noise,
        targets=no_targets,
        compile={},
        prepare=prepared,
        served=dict(generate=normal("noise", 6), map=normal("noise", 6), synthesize=synthesis((4, 8, 8), 4)),
        tolerances=dict(int8=0.2),  # measured 0.14 in `synthesize`: four channels, so that no error is averaged
        bad_arguments=(
            *BAD,
            (dict(r1_interval=0), "r1_interval"),
            (dict(path_length_interval=0), "path_length_interval"),
        ),
        skips=SKIPS,
        slow_checks={
            "trains_in_mixed_precision": "its own tests train in float16, with both penalties",
            "compiles_under_xla": "two nets that are trained through each other take 20 CPU seconds to compile",
        },
    ),
    Case(
        name="stylegan",
        architecture="stylegan",
        model=keras_dl.StyleGAN,
        arguments=SHARED | dict(fir=(1.0, 3.0, 3.0, 1.0), r1_weight=0.1, first_side=4, growing_images=8),
        inputs=images(8, 8, 2),
        called=noise,
        targets=no_targets,
        compile={},
        prepare=prepared,
        served=dict(generate=normal("noise", 6), map=normal("noise", 6), synthesize=synthesis((4, 4, 8, 8), 4)),
        bad_arguments=(*BAD, (dict(first_side=16), "first_side"), (dict(growing_images=0), "growing_images")),
        skips=SKIPS,
        slow_checks=dict.fromkeys(
            (
                "compiles_under_xla",
                "exports",
                "exports_to_onnx",
                "fit_lowers_the_loss_and_moves_every_weight",
                "frozen_layers_stay_frozen",
                "reloads_in_a_fresh_process",
                "trains_in_mixed_precision",
            ),
            "the base class and most layers are those of stylegan2; its own tests train it and draw with it",
        ),
    ),
]
