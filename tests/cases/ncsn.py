"""Noise conditional score networks."""

from case import NO_MASK, Case, covered_by, images, no_targets, normal

import keras_dl
from keras_dl.diffusion import GeometricLevels, NoiseLevels

SKIPS = NO_MASK | {
    "trains_equally_under_xla": "TensorFlow draws other noise under XLA; the architecture's test compares the two on "
    "noise that is given"
}


def noisy(name, *shape, levels):
    """Inputs of a call: noisy data in the inner range, and times."""

    def make(rng, n):
        x = rng.uniform(-0.5, 1.5, (n, *shape))  # with ends, or a few values beyond those calibrated decide the error
        return {name: x.astype("float32"), "times": rng.integers(0, levels, n).astype("int32")}

    return make


def scored(name, *shape, levels):
    """Inputs of the signature `score`."""

    def make(rng, n):
        found = noisy(name, *shape, levels=levels)(rng, n)
        return {name: found[name], "level": found["times"]}

    return make


def points(rng, n):
    return (2 * rng.integers(0, 2, (n, 1)) + 0.1 * rng.normal(size=(n, 3))).astype("float32")


def spread(model, inputs):
    """Makes scores that differ: those of a new net are nearly 0, and vary by less than a step of an int8 file."""
    for net in (model.network, model.average):
        net.get_layer("outputs").kernel.assign(5 * net.get_layer("outputs").kernel)


def image_case(name, **options):
    """One stage is checked here; the further stages, dilations and enlargements by the oracle, and in the slow case."""
    return Case(
        name=name,
        architecture="ncsn",
        model=keras_dl.NCSN,
        inputs=images(4, 6, 2),
        called=noisy("images", 4, 6, 2, levels=3),
        targets=no_targets,
        compile={},
        served=dict(score=scored("images", 4, 6, 2, levels=3), sample=normal("noise", 7, 48)),
        integer_signatures=("score",),  # a loop cannot be calibrated
        tolerances=dict(int8=2e-1),  # 0.12 of the largest score, which is that of the least noise
        skips=SKIPS,
        **options,
    )


ARGUMENTS = dict(
    image_shape=(4, 6, 2),
    filters=3,
    multipliers=(2,),
    dilations=(),
    activation="silu",
    conditioning="division",
    process=GeometricLevels(0.8, 0.1, 3),
    step_size=2e-3,
    steps_per_level=2,
    denoise=False,
    dequantize=True,
    averaging=0.6,
    seed=3,
)

CASES = [
    image_case(
        "ncsn",
        arguments=ARGUMENTS,
        forced=dict(conditioning="the case ncsn_norms has the other one"),
        bad_arguments=(
            (dict(image_shape=(5, 6, 2), multipliers=(1, 2)), "image_shape"),
            (dict(filters=1), "filters"),
            (dict(multipliers=()), "multipliers"),
            (dict(dilations=(2, 2)), "dilations"),
            (dict(conditioning="embedding"), "conditioning"),
            (dict(process="cosine"), "process"),
            (dict(step_size=0.0), "step_size"),
            (dict(steps_per_level=0), "steps_per_level"),
            (dict(averaging=1.0), "averaging"),
        ),
    ),
    image_case(
        "ncsn_norms",
        arguments=ARGUMENTS | dict(conditioning="norms", multipliers=(1, 1, 2), dilations=(3,)),
        bad_arguments=((dict(filters=0), "filters"),),
        slow=True,
    ),
    Case(
        name="ncsn_dense",
        architecture="ncsn",
        model=keras_dl.DenseNCSN,
        arguments=dict(
            num_dims=3,
            hidden_dims=(12, 10),
            activation="tanh",
            data_scale=1.5,
            process=NoiseLevels((2.0, 0.7, 0.2)),
            step_size=5e-3,
            steps_per_level=2,
            denoise=False,
            averaging=0.6,
            seed=3,
        ),
        inputs=points,
        called=noisy("points", 3, levels=3),
        targets=no_targets,
        compile={},
        prepare=spread,
        served=dict(score=scored("points", 3, levels=3), sample=normal("noise", 7, 3)),
        integer_signatures=("score",),
        bad_arguments=(
            (dict(num_dims=0), "num_dims"),
            (dict(hidden_dims=(0,)), "hidden_dims"),
            (dict(data_scale=0.0), "data_scale"),
        ),
        skips=SKIPS,
        slow_checks=covered_by("ncsn", but="dense ones, of which other cases have the same"),
    ),
]
