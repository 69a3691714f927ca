"""Neural ODEs: the authors' block, densities that integrate to one, latent paths, files, and the recipe's data."""

import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm

from keras_dl import ContinuousFlow, LatentODE, ODEClassifier
from keras_dl.export import ExportError, export
from keras_dl.layers.norm import GroupNormalization
from keras_dl.models.continuous.continuous_flow import Flow
from keras_dl.models.continuous.neural_ode import ODEBlock, TimeConv2D
from keras_dl.ops.odeint import Solver, SolverError

ORACLE = np.load(pathlib.Path(__file__).parent / "oracles" / "neural_ode.npz")


def test_the_flow_has_the_density_that_torchdiffeq_finds():
    flow = Flow(2, (6, 6), end_time=0.7, solver=Solver("rk4", num_steps=20))
    flow.build((None, 2))
    for i, layer in enumerate(flow.stack):
        for variable in layer.weights:
            variable.assign(ORACLE[f"flow/{i}/{variable.name}"])
    latents, log_prob = flow(ORACLE["flow/points"].astype("float32"))
    np.testing.assert_allclose(latents, ORACLE["flow/latents"], atol=1e-5)
    np.testing.assert_allclose(log_prob, ORACLE["flow/log_prob"], atol=1e-5)


def test_the_block_is_that_of_the_authors_net():
    block = ODEBlock(num_groups=3, solver=Solver("midpoint", num_steps=2))
    block.build((None, 5, 4, 6))
    for layer in (*block.norms, *block.convolutions):
        for variable in layer.weights:
            variable.assign(ORACLE[f"block/{layer.name}/{variable.name}"])
    np.testing.assert_allclose(block(ORACLE["block/maps"]), ORACLE["block/end"], atol=2e-4)  # torch pads its variance


def test_layers_keep_their_solver():
    for layer in (
        Flow(2, (3,), Solver("dopri5", rtol=1e-4), name="flow"),
        ODEBlock(2, Solver("midpoint", num_steps=3), name="block"),
    ):
        config = json.loads(json.dumps(keras.layers.serialize(layer)))
        copy = keras.layers.deserialize(config)
        assert copy.solver == layer.solver != Solver()
        assert json.loads(json.dumps(keras.layers.serialize(copy))) == config
    with pytest.raises(ValueError, match=r"solver='rk4' must be a keras_dl.ops.odeint.Solver"):
        Flow(2, (3,), "rk4")


# The classifier


def test_preset_has_the_parameters_of_the_authors_net():
    assert ODEClassifier.from_preset("odenet_mnist").count_params() == 208_266  # 0.22M in table 1


def test_time_is_one_more_channel():
    layer = TimeConv2D(4)
    images, time = tf.random.normal((2, 5, 6, 3)), tf.constant(0.7)
    found = layer(images, time)
    beside = tf.concat([tf.fill((2, 5, 6, 1), time), images], -1)
    np.testing.assert_allclose(found, tf.nn.conv2d(beside, layer.kernel, 1, "SAME") + layer.bias, atol=1e-5)


def test_group_normalization_is_that_of_keras():
    images = 3 + 2 * tf.random.normal((2, 5, 4, 6))
    for options in ({}, dict(scale=False), dict(center=False), dict(axis=1, groups=5)):
        ours, theirs = (
            layer(**dict(groups=3, epsilon=1e-5) | options)
            for layer in (GroupNormalization, keras.layers.GroupNormalization)
        )
        for layer in (ours, theirs):
            layer.build(images.shape)
        theirs.set_weights([w + 0.1 * np.arange(w.shape[0]) for w in theirs.get_weights()])
        ours.set_weights(theirs.get_weights())
        np.testing.assert_allclose(ours(images), theirs(images), atol=1e-5)


def test_one_step_of_euler_is_a_residual_block():
    block = ODEBlock(num_groups=2, solver=Solver("euler", num_steps=1))
    maps = tf.random.normal((2, 4, 4, 4))
    np.testing.assert_allclose(block(maps), maps + block.derivative(tf.constant(0.0), maps), atol=1e-6)


def test_trajectories_end_where_the_classifier_reads():
    model = ODEClassifier((12, 12, 1), 3, filters=4, num_groups=2, num_steps=6)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 1)).astype("float32")
    path = model.trajectories(images, np.linspace(0, 1, 4))
    assert path.shape == (4, 2, 3, 3, 4)
    head = keras.Model(model.get_layer("ode").output, model.output)
    np.testing.assert_allclose(head(path[-1]), model(images), atol=1e-3)


@pytest.mark.slow  # adaptive steps take seconds to trace; test_odeint.py has their gradients, in a graph and under XLA
def test_an_adaptive_classifier_trains_and_serves_fixed_steps():
    model = ODEClassifier((8, 8, 1), 3, filters=2, num_groups=1, method="dopri5", num_steps=8, tolerance=1e-4)
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype("float32")
    losses = model.fit(images, np.arange(8) % 3, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    served = model.serving_signatures(8)["classify"].function(tf.cast(images, tf.uint8))["probabilities"]
    np.testing.assert_allclose(served, tf.nn.softmax(model(images)), atol=2e-3)
    assert model.get_layer("ode").solver.method == "dopri5"


def test_the_solver_of_a_model_says_when_it_gives_up():
    model = ODEClassifier((12, 12, 1), 3, filters=4, num_groups=2, method="dopri5", tolerance=1e-7, max_num_steps=3)
    with pytest.raises(SolverError, match=r"max_num_steps=3.*Steps taken: 4"):
        model(np.ones((1, 12, 12, 1)))


# The flow


@pytest.fixture(scope="module")
def flow():
    """A flow with weights large enough to bend the plane."""
    keras.utils.set_random_seed(5)
    model = ContinuousFlow(2, (16, 16), num_steps=10, mean=(0.3, 0.0), std=(1.2, 0.8), seed=1)
    for weight in model.trainable_weights:
        weight.assign(2.0 * weight + 0.1)
    return model


def grid(limit, count):
    axis = np.linspace(-limit, limit, count, dtype="float32")
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), (axis[1] - axis[0]) ** 2


@pytest.fixture(scope="module")
def density_on_a_grid(flow):
    points, area = grid(9.0, 181)
    return points, area, np.exp(np.asarray(flow.log_prob(points), "float64"))


@pytest.mark.parametrize("time", [None, 0.4])
def test_density_integrates_to_one(flow, density_on_a_grid, time):
    points, area, density = density_on_a_grid
    if time is not None:
        density = np.exp(np.asarray(flow.log_prob(points, time), "float64"))
    assert density.sum() * area == pytest.approx(1.0, abs=1e-3)
    assert np.abs(density - norm.pdf(points).prod(-1)).max() > 0.05  # it is not the density it started from


def test_density_is_the_change_of_variables_of_the_whole_flow(flow):
    """log p(x) = log N(z) + log |det dz/dx|, with the Jacobian of the solution itself."""
    points = tf.constant(np.random.default_rng(0).normal(size=(6, 2)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(points)
        latents, log_prob = flow.flow.to_latents(points)
        axes = tf.unstack(latents, axis=1)
    jacobian = np.stack([tape.gradient(axis, points) for axis in axes], 1)
    expected = norm.logpdf(latents).sum(-1) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(log_prob, expected, atol=2e-3)


def test_flow_forward_then_backward_is_the_identity(flow):
    latents = tf.constant(np.random.default_rng(1).normal(size=(50, 2)), tf.float32)
    points = flow.flow.to_points(latents)
    np.testing.assert_allclose(flow(points)["latents"], latents, atol=2e-3)
    assert np.abs(points - latents).max() > 0.5


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_exact_trace_is_that_of_the_jacobian(activation):
    layer = Flow(3, (7, 5), Solver(), activation=activation)
    layer.build((None, 3))
    points, time = tf.random.normal((6, 3)), tf.constant(0.3)
    with tf.GradientTape() as tape:
        tape.watch(points)
        velocity = layer.velocity(time, points)[0]
    jacobian = tape.batch_jacobian(velocity, points)
    found, trace = layer.divergence(time, points)
    np.testing.assert_allclose(found, velocity, atol=1e-6)
    np.testing.assert_allclose(trace, tf.linalg.trace(jacobian), atol=1e-5)
    noise = tf.random.normal((6, 3))
    estimate = layer.divergence(time, points, noise)[1]
    np.testing.assert_allclose(estimate, tf.einsum("bi,bij,bj->b", noise, jacobian, noise), atol=1e-5)


def test_hutchinson_is_unbiased(flow):
    layer, draws = flow.flow, 4000
    point, time = tf.constant([[0.4, -0.7]]), tf.constant(0.6)
    noise = layer.signs(tf.zeros((draws, 2)))
    assert set(np.unique(noise)) == {-1.0, 1.0}
    estimates = np.asarray(layer.divergence(time, tf.tile(point, (draws, 1)), noise)[1])
    exact = float(layer.divergence(time, point)[1][0])
    error = estimates.std() / math.sqrt(draws)
    assert abs(estimates.mean() - exact) < 4 * error
    assert 0 < error < 0.1


def test_the_estimate_is_for_training_alone():
    model = ContinuousFlow(2, (8,), trace="hutchinson", num_steps=2)
    points = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    np.testing.assert_array_equal(model(points)["log_prob"], model.log_prob(points))
    first, second = (np.asarray(model(points, training=True)["log_prob"]) for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.allclose(first, model.log_prob(points), atol=1e-6)


def test_distribution_is_that_of_tensorflow_probability(flow, density_on_a_grid):
    distribution = flow.distribution()
    assert (distribution.event_shape, distribution.batch_shape) == ([2], [])
    points = distribution.sample((3, 400), seed=(1, 7))
    np.testing.assert_array_equal(points, distribution.sample((3, 400), seed=(1, 7)))
    found = distribution.log_prob(points)
    assert found.shape == (3, 400)
    np.testing.assert_allclose(tf.reshape(found, [-1]), flow.log_prob(tf.reshape(points, (-1, 2))), atol=1e-5)
    # The mean of the samples is that of the density, by a sum over a grid.
    places, area, density = density_on_a_grid
    weights = density[:, None] * area
    error = np.std(points, axis=(0, 1)) / math.sqrt(1200)
    assert (np.abs(np.mean(points, axis=(0, 1)) - (weights * places).sum(0)) < 4 * error).all()


def test_a_flow_of_no_velocity_is_the_normal_density():
    model = ContinuousFlow(2, (4,), mean=(1.0, -2.0), std=(3.0, 0.5), num_steps=1)
    for weight in model.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    points = np.random.default_rng(0).normal(size=(9, 2)).astype("float32")
    expected = norm.logpdf(points, (1.0, -2.0), (3.0, 0.5)).sum(-1)
    np.testing.assert_allclose(model.log_prob(points), expected, rtol=1e-5)
    model.compile("adam")
    assert model.evaluate(points, verbose=0) == pytest.approx(-expected.mean(), rel=1e-5)


def test_a_number_of_samples_below_one_is_refused(flow):
    with pytest.raises(ValueError, match="num_points=0 must be an integer of at least 1"):
        flow.sample(0)


@pytest.fixture(scope="module")
def adaptive_flow():
    return ContinuousFlow(2, (4,), method="dopri5", end_time=0.7, tolerance=1e-2, seed=0)


FIVE_POINTS = tf.constant(np.random.default_rng(0).normal(size=(5, 2)), tf.float32)


def test_adaptive_steps_called_eagerly_are_traced_once(adaptive_flow, monkeypatch):
    """Each step would run from Python else. The graph follows the weights and the times."""
    model, points = adaptive_flow, FIVE_POINTS
    velocity, calls = Flow.velocity, []
    monkeypatch.setattr(Flow, "velocity", lambda *args: calls.append(args) or velocity(*args))

    in_graph = tf.function(model.log_prob, autograph=False)  # traced once for each time

    def calls_when_eager(time=None):
        """The number of calls of the net from Python; the result must be that of a graph of one's own."""
        calls.clear()
        found = model.log_prob(points, time)
        count = len(calls)
        np.testing.assert_allclose(found, in_graph(points, time), atol=1e-5)
        return count

    assert calls_when_eager() > 0
    for weight in model.trainable_weights:
        weight.assign(2.0 * weight + 0.1)
    assert calls_when_eager() == calls_when_eager(time=0.4) == 0
    with pytest.raises(ValueError, match=r"times=\[ ?0\. +-1\.\] must be increasing"):
        model.log_prob(points, time=-1.0)


@pytest.mark.slow  # as above; the other gradients of a flow are those of its fixed steps
def test_a_tape_sees_adaptive_steps_called_eagerly(adaptive_flow):
    model = adaptive_flow

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.log_prob(FIVE_POINTS))
        return tape.gradient(loss, model.trainable_weights)

    for found, expected in zip(gradients(), tf.function(gradients, autograph=False)(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


# The latent ODE


def series(length=6, queries=5, rows=3):
    rng = np.random.default_rng(2)
    mask = np.arange(length)[:, None] < np.array([length, 4, 2])[:rows, None, None]
    return dict(
        mask=np.broadcast_to(mask, (rows, length, 2)).copy(),
        query_times=np.sort(rng.uniform(0, 2, (rows, queries)), axis=1).astype("float32"),
        times=np.sort(rng.uniform(0, 1, (rows, length)), axis=1).astype("float32"),
        values=rng.normal(size=(rows, length, 2)).astype("float32"),
    )


@pytest.mark.parametrize("encoder", ["ode_rnn", "rnn"])
def test_padding_changes_nothing_whatever_its_length(encoder):
    """Rows of two to six observations in room for six, and each alone in a row without padding."""
    inputs = series()
    model = LatentODE(2, 6, 5, encoder=encoder)
    together = model(inputs)
    for row in range(3):
        length = int(inputs["mask"][row, :, 0].sum())
        alone = LatentODE(2, length, 5, encoder=encoder)
        alone.set_weights(model.get_weights())
        part = {k: v[row : row + 1] if k == "query_times" else v[row : row + 1, :length] for k, v in inputs.items()}
        for name, found in alone(part).items():
            np.testing.assert_allclose(found[0], together[name][row], atol=1e-5)


def test_recognition_follows_its_equation_between_observations():
    """With a GRU that keeps its state, only the time from the last observation to 0 matters, not how it is cut."""
    model = LatentODE(2, 4, 2, encoder="ode_rnn", num_steps=8)
    layer = model.get_layer("encoder")
    bias = np.zeros((2, 75), "float32")
    bias[0, :25] = 30.0  # Keras has the update gate first: h = gate h + (1 - gate) new
    layer.cell.bias.assign(bias)
    layer.drift[-1].bias.assign(np.linspace(-1, 1, 25))  # so that h, which begins at 0, moves
    values, mask = np.zeros((1, 4, 2), "float32"), np.ones((1, 4, 2), bool)
    one, other = (
        layer(values, mask, np.array([[*times, 1.0]], "float32"))[0] for times in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.9))
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    far = layer(values, mask, np.array([[0.5, 0.6, 0.9, 2.0]], "float32"))[0]
    assert np.abs(far - one).max() > 0.05


def test_an_empty_series_and_an_empty_mask_give_numbers():
    inputs = series() | dict(mask=np.zeros((3, 6, 2), bool))
    assert all(np.isfinite(x).all() for x in LatentODE(2, 6, 5)(inputs).values())


def test_values_at_a_time_do_not_depend_on_the_other_times():
    model = LatentODE(2, 6, 5, num_steps=8)
    latents = np.random.default_rng(0).normal(size=(1, 4)).astype("float32")
    one = model.decode(latents, np.array([[0.2, 0.9, 1.0, 1.1, 3.0]], "float32")).numpy()
    other = model.decode(latents, np.array([[0.5, 1.0, 1.0, 2.0, 3.0]], "float32")).numpy()
    np.testing.assert_allclose(one[:, [2, 4]], other[:, [1, 4]], atol=1e-4)
    np.testing.assert_array_equal(other[:, 1], other[:, 2])


def test_loss_of_the_latent_ode_in_closed_form():
    """With all weights at zero the values do not depend on z, and q is the same for every series."""
    model = LatentODE(2, 6, 5, noise_std=0.4, kl_weight=0.5, num_samples=3)
    for weight in model.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    mean, log_variance = np.array([0.3, -1.0, 0.0, 0.5]), np.array([0.0, -0.7, 0.4, 0.0])
    model.get_layer("encoder").posterior.bias.assign([*mean, *log_variance])
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum()
    rng = np.random.default_rng(0)
    targets, known = rng.normal(size=(3, 5, 2)).astype("float32"), rng.random((3, 5, 2)) < 0.6
    expected = 0.5 * kl - (norm.logpdf(targets, 0.0, 0.4) * known).sum((1, 2)).mean()
    model.compile("adam")
    assert model.evaluate(series(), targets, sample_weight=known, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "times"), [("times", [0.5, 0.4, 0.6]), ("times", [-0.1, 0.4, 0.6]), ("query_times", [0.5, 0.4, 0.6])]
)
def test_times_of_a_series_that_do_not_increase_are_refused(name, times):
    inputs = {key: value[:, :3] for key, value in series().items()}
    inputs[name] = np.array([[0.1, 0.2, 0.3], times, [0.1, 0.2, 0.3]], "float32")
    with pytest.raises(ValueError, match=r"(?s)times.*increasing"):
        LatentODE(2, 3, 3)(inputs)


# Files


@pytest.mark.parametrize(
    "name",
    ["classifier", *(pytest.param(x, marks=pytest.mark.slow) for x in ("latent", "flow"))],  # the same loop again
)
def test_fixed_steps_are_a_loop_of_builtin_ops(name, tmp_path):
    steps, options = dict(method="midpoint", num_steps=2), dict(quantization=("none", "float16"))
    match name:
        case "classifier":
            model = ODEClassifier((12, 12, 1), 3, filters=4, num_groups=2, **steps)
            options["quantization"] = ("none", "dynamic_int8")
        case "flow":
            model = ContinuousFlow(2, (8,), **steps)
        case "latent":
            model, inputs = LatentODE(2, 3, 2, **steps), series(length=3, queries=2)
            rows = {"predict": inputs, "decode": dict(latents=np.ones((3, 4)), times=inputs["query_times"])}
            options |= dict(calibration={key: [x] for key, x in rows.items()}, signatures=list(rows))
    reports = export(model, tmp_path / "model.tflite", **options)
    for report in reports.values():
        assert report.flex_ops == report.custom_ops == 0
        assert report.ops["WHILE"] >= 1


def test_integer_files_ask_for_steps_that_are_written_out(tmp_path):
    model = ODEClassifier((12, 12, 1), 3, filters=4, num_groups=2, num_steps=2)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 1)).astype("uint8")
    with pytest.raises(ExportError, match=r"loop.*Unroll it"):
        export(model, tmp_path / "model.tflite", quantization="int8", calibration={"images": images})
    unrolled = ODEClassifier.from_config(model.get_config() | {"unroll": True})
    unrolled.set_weights(model.get_weights())
    np.testing.assert_allclose(unrolled(images.astype("float32")), model(images.astype("float32")), atol=1e-5)


# The data sets and the recipe


def test_two_moons_has_its_density(tmp_path):
    from keras_dl.recipes.datasets import prepare
    from keras_dl.recipes.datasets.points_and_paths import moons_log_density

    builder = prepare("two_moons", data_dir=tmp_path, quiet=True)
    assert "Generated" in builder.info.description
    points = {
        s: np.stack([x["point"] for x in builder.as_dataset(split=s).as_numpy_iterator()]) for s in ("train", "test")
    }
    assert (len(points["train"]), len(points["test"])) == (4000, 2000)
    assert not {p.tobytes() for p in points["train"]} & {p.tobytes() for p in points["test"]}
    places, area = grid(4.0, 101)
    density = np.exp(moons_log_density(places, count=500))
    assert density.sum() * area == pytest.approx(1.0, abs=1e-5)  # what the grid leaves out: 2e-6
    np.testing.assert_allclose((density[:, None] * places).sum(0) * area, [0.5, 0.25], atol=1e-4)
    # The mean log-density of the points is minus the entropy, within four standard errors.
    found = moons_log_density(points["test"], count=500)
    entropy = -(density * np.log(np.maximum(density, 1e-300))).sum() * area
    assert abs(found.mean() + entropy) < 4 * found.std() / math.sqrt(len(found))


def test_spirals_are_on_their_formula(tmp_path):
    from keras_dl.recipes.datasets import prepare
    from keras_dl.recipes.datasets.points_and_paths import Spirals, spiral

    # Where the closing spiral's angle is one, and where the opening one has made a turn.
    np.testing.assert_allclose(spiral(np.array([6 * np.pi]), True), [[-5 + 15 * math.cos(1), 15 * math.sin(1)]])
    np.testing.assert_allclose(spiral(np.array([2 * np.pi]), False), [[5 + 0.6 * np.pi, 0]], atol=1e-9)
    builder = prepare("spirals", data_dir=tmp_path, quiet=True)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == Spirals.EXAMPLES
    for row in builder.as_dataset(split="test[:50]").as_numpy_iterator():
        seen = row["mask"][:, 0]
        assert 10 <= seen.sum() <= 40
        assert (np.diff(row["times"][seen]) > 0).all()
        assert (np.diff(row["query_times"]) >= 0).all()
        assert np.sum(row["query_times"] > Spirals.SPAN) == 20
        assert np.abs(row["noisy_targets"] - row["targets"]).max() < 5 * Spirals.NOISE
        assert not row["values"][~seen].any()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["two_moons", "spirals"])
def test_smoke_run_of_the_recipe(dataset, tmp_path):
    from keras_dl.recipes.training import recipe, runner

    found = recipe.find("neural_ode")
    document = runner.train(found, found.options(dataset, smoke=True, batch_size=64, baseline=True), tmp_path / "run")
    assert math.isfinite(document["value"])
    assert math.isfinite(document["baseline_value"])
    assert (tmp_path / "run" / "picture.png").stat().st_size > 20_000
