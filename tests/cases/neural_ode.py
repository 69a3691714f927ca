"""Neural ODEs: a classifier, a model of irregular series, and a density."""

import numpy as np
from case import NO_MASK, Case, classification, covered_by, images, labels, no_targets, normal

import keras_dl

OTHER_DRAWS = {
    "trains_equally_under_xla": "TensorFlow draws other random numbers under XLA; test_neural_ode.py compares the "
    "gradients of each solver under XLA with those of the graph"
}


def series(rng, n, length=3, queries=2, features=2):
    """Rows of two to `length` observations, of which single features are missing, and what pads them."""
    mask = np.arange(length)[:, None] < rng.integers(2, length + 1, (n, 1, 1))
    mask = mask & (rng.random((n, length, features)) < 0.8)
    return dict(
        mask=mask,
        query_times=np.sort(rng.uniform(0.0, 2.0, (n, queries)), axis=1).astype("float32"),
        times=np.sort(rng.uniform(0.0, 1.0, (n, length)), axis=1).astype("float32"),
        values=rng.normal(size=(n, length, features)).astype("float32"),
    )


def other_padding(rows):
    """The same series, with other values where the mask is False, and other times where nothing was observed."""
    seen = rows["mask"].any(-1)
    values, times = np.where(rows["mask"], rows["values"], 1e6), np.where(seen, rows["times"], -1e6)
    return rows | dict(values=values.astype("float32"), times=times.astype("float32"))


def spread_out(model, inputs):
    """A net that was hardly trained takes every series for nearly the same: no integer could tell them apart."""
    kernel = model.get_layer("encoder").posterior.kernel
    kernel.assign(kernel * np.array([5.0] * 3 + [1.0] * 3, "float32"))


def encoded(rng, n):
    rows = series(rng, n)
    return {name: rows[name] for name in ("values", "mask", "times")}


def decoded(rng, n):
    return dict(latents=rng.normal(size=(n, 3)).astype("float32"), times=series(rng, n)["query_times"])


CASES = [
    Case(
        name="ode_classifier",
        architecture="neural_ode",
        model=keras_dl.ODEClassifier,
        arguments=dict(
            image_shape=(10, 12, 2),
            num_classes=5,
            filters=6,
            num_groups=3,
            method="euler",
            num_steps=1,
            gradient="backprop",
            end_time=0.8,
            unroll=True,
            tolerance=1e-2,
            max_num_steps=50,
            mean=(60.0, 70.0),
            std=(50.0, 60.0),
        ),
        inputs=images(10, 12, 2),
        targets=labels(5),
        compile=classification(),
        bad_arguments=(
            (dict(image_shape=(4, 12, 2)), "image_shape"),
            (dict(num_groups=4), "num_groups"),
            (dict(method="bdf"), "method"),
            (dict(num_steps=0), "num_steps"),
            (dict(gradient="none"), "gradient"),
            (dict(end_time=0.0), "end_time"),
            (dict(tolerance=-1.0), "tolerance"),
        ),
        slow_checks={"trains_equally_under_xla": "compiles_under_xla compiles the step, and test_odeint.py gradients"},
        skips=NO_MASK,
    ),
    Case(
        name="latent_ode",
        architecture="neural_ode",
        model=keras_dl.LatentODE,
        arguments=dict(
            num_features=2,
            length=3,
            num_queries=2,
            latent_dim=3,
            encoder="rnn",
            encoder_dim=6,
            hidden_dims=(7,),
            decoder_dims=(5, 4),
            noise_std=0.5,
            num_samples=16,
            kl_weight=0.5,
            method="euler",
            num_steps=1,
            gradient="backprop",
            unroll=True,
            seed=3,
        ),
        inputs=series,
        targets=lambda rng, n: rng.normal(size=(n, 2, 2)).astype("float32"),
        compile={},
        served=dict(predict=lambda rng, n: series(rng, n), encode=encoded, decode=decoded),
        padded=other_padding,
        prepare=spread_out,
        tolerances={"int8": 0.25},  # measured 0.20: values, mask and the time between them share one scale
        bad_arguments=(
            (dict(num_features=0), "num_features"),
            (dict(encoder="lstm"), "encoder"),
            (dict(hidden_dims=()), "hidden_dims"),
            (dict(noise_std=0.0), "noise_std"),
            (dict(kl_weight=-1.0), "kl_weight"),
            (dict(method="dopri5"), "method"),
        ),
        skips=OTHER_DRAWS,
    ),
    Case(
        name="continuous_flow",
        architecture="neural_ode",
        model=keras_dl.ContinuousFlow,
        arguments=dict(
            dim=3,
            hidden_dims=(8,),
            activation="softplus",
            trace="hutchinson",
            method="midpoint",
            num_steps=2,
            gradient="backprop",
            end_time=0.5,
            unroll=True,
            tolerance=1e-3,
            mean=(0.5, 0.0, 0.0),
            std=(2.0, 1.0, 1.0),
            seed=3,
        ),
        inputs=lambda rng, n: rng.normal(size=(n, 3)).astype("float32") * np.array((2.0, 1.0, 0.5), "float32"),
        targets=no_targets,
        compile={},
        served=dict(sample=normal("noise", 3)),
        slow_checks=covered_by("latent_ode", but="the gates of its dense layers and their trace"),
        bad_arguments=(
            (dict(dim=0), "dim"),
            (dict(hidden_dims=()), "hidden_dims"),
            (dict(activation="relu"), "activation"),
            (dict(trace="none"), "trace"),
            (dict(std=(2.0, 1.0)), "std"),
            (dict(end_time=-1.0), "end_time"),
        ),
        skips=NO_MASK | OTHER_DRAWS,
    ),
]
