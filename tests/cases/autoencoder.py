"""Autoencoders."""

from case import NO_MASK, Case, images, no_targets, normal

import keras_dl

CASES = [
    Case(
        name="autoencoder",
        architecture="autoencoder",
        model=keras_dl.Autoencoder,
        arguments=dict(
            image_shape=(12, 8, 2),
            latent_dim=5,
            hidden_dims=(16,),
            filters=(4, 6),
            activation="tanh",
            corruption="gaussian",
            corruption_level=0.1,
            seed=3,
        ),
        inputs=images(12, 8, 2),
        targets=no_targets,
        compile=dict(loss="mse"),
        served=dict(decode=normal("latents", 5)),
        bad_arguments=(
            (dict(image_shape=(12, 10, 2)), "image_shape"),
            (dict(filters=(4, 0)), "filters"),
            (dict(activation="reglu"), "activation"),
            (dict(corruption="blur"), "corruption"),
            (dict(corruption_level=1.5), "corruption_level"),
        ),
        tolerances=dict(int8=0.15),  # measured 0.12, for a sample beyond the range of those that calibrate
        skips=NO_MASK,
    ),
    Case(
        name="vae",
        architecture="autoencoder",
        model=keras_dl.VAE,
        arguments=dict(
            image_shape=(8, 12, 2),
            latent_dim=4,
            hidden_dims=(16, 12),
            filters=(6,),
            activation="relu",
            likelihood="gaussian",
            bound="iwae",
            num_samples=8,
            beta=0.5,
            seed=3,
        ),
        inputs=images(8, 12, 2),
        targets=no_targets,
        compile={},
        served=dict(decode=normal("latents", 4), sample=normal("noise", 4)),
        bad_arguments=(
            (dict(latent_dim=0), "latent_dim"),
            (dict(activation="reglu"), "activation"),
            (dict(likelihood="poisson"), "likelihood"),
            (dict(bound="renyi"), "bound"),
            (dict(num_samples=0), "num_samples"),
            (dict(beta=-1.0), "beta"),
        ),
        skips=NO_MASK
        | {
            "trains_equally_under_xla": "TensorFlow draws other random numbers under XLA; the architecture's test "
            "compares the two where the draws make no difference"
        },
    ),
]
