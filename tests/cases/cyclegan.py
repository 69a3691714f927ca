"""Translation between two domains of images."""

from case import NO_MASK, Case, images

import keras_dl


def other_images(height, width, channels):
    """Images of another domain: stripes."""

    def make(rng, n):
        batch = rng.integers(0, 64, (n, height, width, channels))
        batch[:, ::4] += rng.integers(64, 192, (n, 1, 1, 1))
        return batch.astype("float32")

    return make


def pixels(rng, n):
    return {"images": images(16, 20, 2)(rng, n).astype("uint8")}


def spread(model, inputs):
    """Makes images with contrast: those of a new model are gray, and vary by less than a step of an int8 file."""
    for net in model.generators:
        kernel = net.get_layer("last").kernel
        kernel.assign(5 * kernel)


CASES = [
    Case(
        name="cyclegan",
        architecture="cyclegan",
        model=keras_dl.CycleGAN,
        arguments=dict(
            image_shape=(16, 20, 2),
            filters=2,
            num_blocks=1,
            discriminator_filters=4,
            discriminator_layers=1,
            cycle_weight=5.0,
            identity_weight=0.25,
            history_size=9,
            seed=3,
        ),
        inputs=images(16, 20, 2),
        targets=other_images(16, 20, 2),
        compile={},
        prepare=spread,
        served=dict(a_to_b=pixels, b_to_a=pixels),
        bad_arguments=(
            (dict(image_shape=(16, 22, 2)), "image_shape"),
            (dict(image_shape=(4, 16, 2)), "image_shape"),
            (dict(discriminator_layers=3), "discriminator_layers"),
            (dict(num_blocks=0), "num_blocks"),
            (dict(history_size=-1), "history_size"),
            (dict(cycle_weight=-1.0), "cycle_weight"),
            (dict(identity_weight=-0.5), "identity_weight"),
        ),
        tolerances={"dynamic_int8": 0.13, "int8": 0.2},  # measured: 0.085, 0.11; normalization of few values
        skips=NO_MASK
        | {
            "trains_equally_under_xla": "TensorFlow draws other exchanges with the history under XLA; the "
            "architecture's test compares the two on exchanges that are given"
        },
        slow_checks={
            "compiles_under_xla": "the architecture's test compiles a training step",
            "frozen_layers_stay_frozen": "the architecture's test of reloading trains on in the same way",
        },
    ),
]
