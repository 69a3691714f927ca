"""NeRF."""

import numpy as np
from case import NO_MASK, Case

import keras_dl
from keras_dl.ops import frequency_encoding


def rays(rng, n):
    """Rays of cameras near the origin that look along -z."""
    directions = np.concatenate([rng.uniform(-0.4, 0.4, (n, 2)), -np.ones((n, 1))], axis=1)
    return dict(directions=directions.astype("float32"), origins=rng.normal(0, 0.1, (n, 3)).astype("float32"))


def colors(rng, n):
    return rng.uniform(0, 1, (n, 3)).astype("float32")


def views(rng, n):
    cameras = np.concatenate([np.tile(np.eye(3), (n, 1, 1)), rng.normal(0, 0.1, (n, 3, 1))], axis=-1)
    return dict(camera_to_world=cameras.astype("float32"), focal=rng.uniform(3, 5, (n, 1)).astype("float32"))


def encoded(count):
    """Rows of what the networks take: calibration has one ray at a time."""

    def make(rng, n):
        points = rng.uniform(-1, 1, (n, count, 3))
        directions = rays(rng, n)["directions"]
        return dict(
            directions=np.asarray(frequency_encoding(directions / np.linalg.norm(directions, axis=-1)[:, None], 1)),
            points=np.asarray(frequency_encoding(points, 2)),
        )

    return make


CASES = [
    Case(
        name="nerf",
        architecture="nerf",
        model=keras_dl.NeRF,
        arguments=dict(
            near=0.1,
            far=0.9,
            num_samples=4,
            num_fine_samples=3,
            point_frequencies=2,
            direction_frequencies=1,
            view_dependent=True,
            num_layers=3,
            hidden_dim=8,
            skips=(0,),
            density_activation="softplus",
            density_noise=0.0,
            white_background=True,
            infinite_end=False,
            ndc=(1.2, 1.5),
            perturb=False,
            served_rays=2,
            served_size=(2, 3),
            seed=3,
        ),
        forced=dict(
            view_dependent="without directions, the layers of colors were not checked; test_nerf.py has that network",
            density_noise="with noise, a training under XLA could not be compared; test_nerf.py has noise",
        ),
        inputs=rays,
        targets=colors,
        compile={},
        served=dict(render_image=views, coarse=encoded(4), fine=encoded(7)),
        integer_signatures=("coarse", "fine"),  # coordinates do not fit into 8 bits: the others need float layers
        bad_arguments=(
            (dict(near=0.9), "near"),
            (dict(near=-1.0), "near"),
            (dict(far=2.0), "far"),
            (dict(num_samples=2), "num_samples"),
            (dict(num_fine_samples=-1), "num_fine_samples"),
            (dict(skips=(2,)), "skips"),
            (dict(hidden_dim=1), "hidden_dim"),
            (dict(density_activation="exp"), "density_activation"),
            (dict(density_noise=-1.0), "density_noise"),
            (dict(infinite_end=True), "infinite_end"),
            (dict(ndc=(1.0, 0.0)), "ndc"),
            (dict(ndc=(1.0,)), "ndc"),
            (dict(served_size=(4,)), "served_size"),
        ),
        skips=NO_MASK,
    ),
]
