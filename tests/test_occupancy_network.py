"""Occupancy networks: how they start, what order and padding change, their loss, the authors' outputs, and meshes."""

import keras
import numpy as np
import pytest
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import OccupancyNetwork
from keras_dl.metrics import OccupancyIoU
from keras_dl.models.scenes.occupancy_blocks import (
    ConditionalBatchNormalization,
    ConditionalBlock,
    Draw,
    SlicedConvolution3D,
)
from keras_dl.ops.isosurface import extract, grid_points, marching_cubes
from keras_dl.ops.meshes import check_watertight, is_inside, mesh_volume, volume_iou

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
    keys = ["points", "cloud", "voxels", *(["occupancies"] if f"{name}/kl" in oracle else [])]
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


def test_what_does_not_fit_is_refused_and_changes_nothing(oracle):
    weights = state_dict(oracle, "points/weight")
    model = theirs("points")
    before = model.get_weights()
    del weights["decoder.bn.bn.running_var"]
    weights["decoder.fc_p.weight"] = weights["decoder.fc_p.weight"][..., 0]
    with pytest.raises(ValueError, match="2 entries differ") as caught:
        model.load_torch(weights)
    assert "missing: decoder.bn.bn.running_var (8,)" in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_image_encoder_takes_the_names_of_the_authors():
    sizes = dict(image_shape=(16, 16, 3), image_blocks=(1, 1), image_filters=(2, 3), code_dim=4, hidden_dim=5)
    model = OccupancyNetwork(encoder="image", **sizes)
    with pytest.raises(ValueError, match="entries differ") as caught:
        model.load_torch({})
    for name in (
        "features.conv1.weight (2, 3, 7, 7)",
        "features.layer2.0.downsample.1.running_var (3,)",
        "fc.bias (4,)",
    ):
        assert f"missing: encoder.{name}" in str(caught.value)


# How it starts.


def test_blocks_start_as_the_identity_and_the_code_changes_nothing():
    x, code = points(3, 40), np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_array_equal(ConditionalBlock()(x, code), x)
    layer = ConditionalBatchNormalization()
    expected = x / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(layer(x, code), expected, rtol=1e-6)
    np.testing.assert_allclose(layer.gamma(code), 1)
    np.testing.assert_allclose(layer.beta(code), 0)
    trained = layer(x, code, training=True)
    np.testing.assert_allclose(np.mean(trained, (0, 1)), 0, atol=1e-6)  # over shapes and points
    np.testing.assert_allclose(np.std(trained, (0, 1)), 1, rtol=1e-3)
    model = theirs("points")
    logits = model({"points": points(3, 40), "cloud": points(3, 30, seed=2)})
    other = model({"points": points(3, 40), "cloud": points(3, 30, seed=3)})
    np.testing.assert_array_equal(logits, other)


def test_inference_by_one_product_is_that_of_batch_normalization():
    layer = randomized_layer(ConditionalBatchNormalization(), points(2, 9), np.ones((2, 4), "float32"))
    x, code = points(2, 9), np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    plain = layer.norm(x, training=False) * layer.gamma(code)[:, None] + layer.beta(code)[:, None]
    np.testing.assert_allclose(layer(x, code), plain, rtol=1e-4, atol=1e-5)


def randomized_layer(layer, *inputs):
    layer(*inputs)
    return randomized(layer)


def test_sliced_convolution_is_that_of_keras():
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 7, 3)).astype("float32")
    for strides in (1, 2):
        layer = randomized_layer(SlicedConvolution3D(7, 4, strides), x.reshape(2, 6, 5, 21))
        plain = keras.layers.Conv3D(4, 3, strides, padding="valid")
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
        plain.build(padded.shape)
        plain.set_weights(layer.get_weights())
        expected = np.asarray(plain(padded))
        found = np.asarray(layer(x.reshape(2, 6, 5, 21)))
        assert found.shape == layer.compute_output_shape((2, 6, 5, 21))
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


# What changes nothing, and what does.


@pytest.fixture(scope="module")
def net():
    return randomized(OccupancyNetwork(**TINY))


def test_a_cloud_has_no_order_and_points_do_not_know_each_other(net):
    inputs = {"points": points(2, 40), "cloud": points(2, 30, seed=2)}
    logits = np.asarray(net(inputs))
    order = np.random.default_rng(0).permutation(30)
    mixed = inputs | {"cloud": inputs["cloud"][:, order]}
    np.testing.assert_allclose(net(mixed), logits, rtol=1e-4, atol=1e-5)
    repeated = inputs | {"cloud": inputs["cloud"][:, np.arange(75) % 30]}
    np.testing.assert_allclose(net(repeated), logits, rtol=1e-4, atol=1e-5)
    some = inputs | {"points": inputs["points"][:, 7:11]}
    np.testing.assert_allclose(net(some), logits[:, 7:11], rtol=1e-4, atol=1e-5)
    other = inputs | {"cloud": points(2, 30, seed=4)}
    assert np.abs(net(other) - logits).max() > 1e-2


def test_the_loss_is_a_sum_over_points_and_a_mean_over_shapes(net):
    net.compile("sgd", run_eagerly=True)
    inputs = {"points": points(2, 40), "cloud": points(2, 30, seed=2)}
    occupied = (np.random.default_rng(0).uniform(size=(2, 40)) < 0.3).astype("float32")
    p = 1 / (1 + np.exp(-np.asarray(net(inputs), "float64")))
    entropy = -np.log(np.where(occupied > 0, p, 1 - p))
    assert net.evaluate(inputs, occupied, verbose=0) == pytest.approx(entropy.sum(1).mean(), rel=1e-4)
    for weight in (np.array([1.0, 3.0]), np.random.default_rng(1).uniform(size=(2, 40))):
        expected = (entropy * weight.reshape(2, -1)).sum(1).mean()
        found = net.test_on_batch(inputs, occupied, sample_weight=weight)
        assert float(np.ravel(found)[0]) == pytest.approx(expected, rel=1e-4)


def test_the_metric_is_the_iou_of_numpy_and_is_saved(net, tmp_path):
    random = np.random.default_rng(0)
    occupied, logits = random.random((4, 50)) < 0.3, random.normal(size=(4, 50))
    occupied[3], logits[3] = False, -1.0  # no point in either
    metric = OccupancyIoU()
    for rows in (slice(0, 2), slice(2, 4)):
        metric.update_state(occupied[rows].astype("float32"), logits[rows])
    assert float(metric.result()) == pytest.approx(volume_iou(logits >= 0, occupied).mean(), abs=1e-6)
    model = keras.models.clone_model(net)
    model.compile("sgd", metrics=[metric])
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert [type(x) for x in again._compile_metrics._user_metrics] == [OccupancyIoU]


def test_draws_have_the_moments_of_the_posterior_and_the_kl_is_that_of_normals():
    layer = Draw(seed=0)
    mean, log_std = np.array([[0.5, -1.0]] * 4000, "float32"), np.array([[-0.3, 0.2]] * 4000, "float32")
    np.testing.assert_array_equal(layer(mean, log_std), mean)
    drawn = np.asarray(layer(mean, log_std, training=True))
    np.testing.assert_allclose(drawn.mean(0), mean[0], atol=4 * 1.3 / np.sqrt(4000))
    np.testing.assert_allclose(drawn.std(0), np.exp(log_std[0]), rtol=4 / np.sqrt(2 * 4000))
    variance = np.exp(2 * log_std[0])
    expected = 0.5 * (variance + mean[0] ** 2 - 1 - np.log(variance)).sum()
    np.testing.assert_allclose(layer.losses[-1], expected, rtol=1e-5)


# Meshes.


class Ball:
    """In the place of a decoder: log odds that a point is in a ball whose radius is the code."""

    def __call__(self, given, training=False):
        away = keras.ops.sqrt(keras.ops.sum(keras.ops.square(given["points"]), axis=-1))
        return 20.0 * (given["code"][:, :1] - away)


@pytest.fixture
def ball_net(monkeypatch):
    model = OccupancyNetwork(**TINY)
    find, ball = model.get_layer, Ball()
    ball.input = find("decoder").input
    monkeypatch.setattr(model, "get_layer", lambda name: ball if name == "decoder" else find(name))
    return model


def test_meshes_of_balls(ball_net):
    """Closed, of the right volume, at the threshold, with radial normals, in the cube of side 1.1."""
    code = np.array([[0.3] * 6, [0.45] * 6], "float32")
    meshes = ball_net.meshes(code, resolution=16, steps=2)
    level = np.log(0.2 / 0.8) / 20  # the radius is larger at the threshold 0.2
    for mesh, radius in zip(meshes, (0.3 - level, 0.45 - level), strict=True):
        check_watertight(mesh.vertices, mesh.faces)
        away = np.linalg.norm(mesh.vertices, axis=-1)
        np.testing.assert_allclose(away, radius, atol=(1.1 / 64) ** 2 / (4 * radius))
        volume = 4 / 3 * np.pi * radius**3
        assert mesh_volume(mesh.vertices, mesh.faces) == pytest.approx(volume, rel=2 * (1.1 / 64 / radius) ** 2)
        np.testing.assert_allclose(mesh.normals, mesh.vertices / away[:, None], atol=1e-4)
    wide = ball_net.meshes(code[:1], threshold=0.5, resolution=8, steps=1, normals=False)[0]
    assert wide.normals is None
    assert np.linalg.norm(wide.vertices, axis=-1).max() == pytest.approx(0.3, abs=1e-6)
    assert len(ball_net.meshes(-code[:1], resolution=4, steps=0)[0].faces) == 0  # nothing is inside


def test_the_mesh_holds_what_the_network_says_is_inside(ball_net):
    mesh = ball_net.meshes(np.full((1, 6), 0.4, "float32"), threshold=0.5, resolution=16, steps=1)[0]
    asked = points(1, 1000)
    inside = np.asarray(ball_net.logits(asked, np.full((1, 6), 0.4, "float32")))[0] >= 0
    same = is_inside(asked[0], mesh.vertices, mesh.faces) == inside
    near = np.abs(np.linalg.norm(asked[0], axis=-1) - 0.4) < (1.1 / 32) ** 2
    assert same[~near].all()
    assert 0.1 < inside.mean() < 0.3


def test_drawn_shapes(oracle):
    model = theirs("unconditional")
    model.load_torch(state_dict(oracle, "unconditional/weight"))
    latents = model.draw_latents(2, seed=3)
    np.testing.assert_array_equal(latents, model.draw_latents(2, seed=3))
    assert latents.shape == (2, 5)
    for mesh, own in zip(model.meshes(latents=latents, resolution=8, steps=1), latents, strict=True):
        values, _ = extract(
            lambda p, own=own: np.asarray(model.logits(p[None], latents=own[None]))[0], np.log(0.25), 8, 1
        )
        assert len(mesh.faces) == len(marching_cubes(values, np.log(0.25)).faces)
        if len(mesh.faces):
            check_watertight(mesh.vertices, mesh.faces)


def test_the_served_grid_is_that_of_the_points(net):
    code = net.encode(points(1, 30, seed=2))
    served = net.serving_signatures()["grid"]
    center = np.array([[0.1, -0.2, 0.0]], "float32")
    found = np.asarray(served.function(center=center, side=np.array([[0.5]], "float32"), code=code)["occupancies"])
    assert found.shape == (1, 32, 32, 32)
    expected = 1 / (1 + np.exp(-np.asarray(net.logits(grid_points(32, 0.5)[None] + center, code))))
    np.testing.assert_allclose(found.reshape(1, -1), expected, atol=1e-5)


# Wrong input.


def test_wrong_input_is_refused(net):
    cloud = points(2, 30)
    with pytest.raises(ValueError, match=r"cloud has the shape \(2, 0, 3\)"):
        net({"points": points(2, 4), "cloud": cloud[:, :0]})
    cloud[1, 7, 2] = np.nan
    with pytest.raises(ValueError, match=r"cloud\[1, 7\] = .*nan\] is not finite"):
        net({"points": points(2, 4), "cloud": cloud})
    with pytest.raises(ValueError, match="is not finite"):
        net.encode(cloud)
    with pytest.raises(ValueError, match="code is needed by a model with encoder='points' and latent_dim=0"):
        net.logits(points(1, 4))
    with pytest.raises(ValueError, match="latents is not taken"):
        net.logits(points(1, 4), np.zeros((1, 6)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="threshold=1 must be"):
        net.meshes(np.zeros((1, 6), "float32"), threshold=1)
    with pytest.raises(ValueError, match="latent_dim=0: the model draws no shapes"):
        net.draw_latents(2)
    with pytest.raises(ValueError, match="encoder=None needs latent_dim"):
        OccupancyNetwork(encoder=None, decoder="additive")
    with pytest.raises(ValueError, match="decoder='conditional_norm' needs a code"):
        OccupancyNetwork(encoder=None, latent_dim=2)
    with pytest.raises(ValueError, match="encoder=None: the model takes no observation"):
        theirs("unconditional").encode(points(1, 4))
