"""Occupancy networks: how they start, what order and padding change, their loss, the authors' outputs, and meshes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import OccupancyNetwork
from keras_dl.models.scenes.occupancy_blocks import (
    ConditionalBatchNormalization,
    ConditionalBlock,
    Draw,
    SlicedConvolution3D,
)
from keras_dl.ops.isosurface import extract, grid_points, marching_cubes
from keras_dl.ops.meshes import check_watertight, is_inside, mesh_volume

TINY = dict(code_dim=6, hidden_dim=8, encoder_dim=7)
CONDITIONS = {
    "points": dict(encoder="points"),
    "additive": dict(encoder="points", decoder="additive"),
    "voxels": dict(encoder="voxels", voxel_filters=(2, 3, 4, 8, 5)),
    "unconditional": dict(encoder=None, decoder="additive", latent_dim=5, latent_hidden_dim=4),
    "both": dict(encoder="points", latent_dim=5, latent_hidden_dim=4),
}


def randomized(model, seed=0):
    """Weights with which no term drops out."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name != "seed_generator_state":
            variable.assign(0.4 * rng.normal(size=variable.shape))
    return model


def points(*shape, seed=1):
    return np.random.default_rng(seed).uniform(-0.55, 0.55, (*shape, 3)).astype("float32")


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("occupancy_network")


def theirs(name, **overrides):
    return OccupancyNetwork(**TINY | CONDITIONS[name] | overrides)


def given(oracle, name):
    keys = ("points", "cloud", "voxels") + (("occupancies",) if "mean" in name or name in ("unconditional", "both") else ())
    return {key: oracle[f"{name}/{key}"].astype("float32") for key in keys if f"{name}/{key}" in oracle}


# Counts.


@pytest.mark.parametrize(
    ("preset", "trained"),
    [("points", 10_373_889), ("image", 13_414_465), ("voxels", 7_857_473), ("unconditional", 298_369)],
)
def test_presets_have_the_counts_of_the_authors_code(preset, trained):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = OccupancyNetwork.from_preset(preset)
        assert sum(np.prod(v.shape) for v in model.trainable_variables) == trained


# The authors' code.


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_authors_weights_give_the_same_outputs(name, oracle, tmp_path):
    model = theirs(name)
    write_safetensors(tmp_path / "model.safetensors", state_dict(oracle, f"{name}/weight"))
    model.load_torch(tmp_path / "model.safetensors")
    inputs = given(oracle, name)
    close = dict(rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(model(inputs), oracle[f"{name}/logits"], **close)
    code = latents = None
    if model.observation:
        code = model.encode(inputs[model.observation])
        np.testing.assert_allclose(code, oracle[f"{name}/code"], **close)
    if model.latent_dim:
        posterior = model.infer(inputs["points"], inputs["occupancies"], code)
        np.testing.assert_allclose(posterior["mean"], oracle[f"{name}/mean"], **close)
        np.testing.assert_allclose(posterior["log_std"], oracle[f"{name}/log_std"], **close)
        np.testing.assert_allclose(sum(model.losses), oracle[f"{name}/kl"].mean(), rtol=1e-4)
        latents = posterior["mean"]
    np.testing.assert_allclose(model.logits(inputs["points"], code, latents), oracle[f"{name}/logits"], **close)


# The battery compares a training under XLA with one without.
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_authors_training_step(jit, oracle):
    """Loss, every gradient and every moving statistic of one step, read back through the mapping of the weights."""
    weights = state_dict(oracle, "points/weight")
    model = theirs("points")
    model.load_torch(weights)
    model.compile(keras.optimizers.SGD(1.0), jit_compile=jit, run_eagerly=not jit)
    found = model.train_on_batch(given(oracle, "points"), oracle["points/occupancies"])
    np.testing.assert_allclose(found, oracle["points/loss"], rtol=1e-4)
    gradients = state_dict(oracle, "points/gradient")
    expected = theirs("points")
    expected.load_torch(
        weights | {key: weights[key] - x for key, x in gradients.items()} | state_dict(oracle, "points/after")
    )
    for ours, wanted in zip(model.weights, expected.weights, strict=True):
        error = np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-4, f"{wanted.path}: {error:.1e}"
