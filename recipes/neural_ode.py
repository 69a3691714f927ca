"""Neural ODEs read digits, fit a density, and continue series that are seen at irregular times.

Paper:     Chen, Rubanova, Bettencourt, Duvenaud 2018, "Neural Ordinary Differential Equations", arXiv:1806.07366:
           table 1 (MNIST, 0.42% error with a third of the parameters of a residual network), sections 4 and 5
Data:      mnist_5k: 4,000 digits for training, shifted and rotated at random in each epoch; 1,000 for the test
Command:   keras-dl train neural_ode
Aim:       97%, with a third of the baseline's parameters
Baseline:  ResNet-20 on the same digits, by the recipe `resnet`: 98.7% with 270,810 parameters, after 15 epochs
Reaches:   97.2% after 8 epochs with 82,170 parameters, by midpoint steps and adjoint gradients; 49 s of training on two
           CPU cores, under XLA
Files:     float32 97.2%, as the model; int8 96.8%, with 169 of 199 ops and all multiplications on an Ethos-U55

`--dataset spirals --jit on` (generated): a latent ODE predicts places on paths from noisy observations with RMSE 0.136,
and 0.151 after the last observation. GRUs trained on the same data have 0.343 and 0.366. 51 s on the same cores.
`--dataset two_moons --jit on` (generated): a flow reaches -1.041 nats per test point. A Gaussian mixture of 10
components, the best by the Bayesian criterion, has -1.047; the density that made the points has -1.027. 599 s on the
same cores.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_dl
from keras_dl.extras import require
from keras_dl.recipes.training import batches, pictures, pipelines
from keras_dl.recipes.training.recipe import (
    DYNAMIC_INT8,
    EDGETPU,
    ETHOS_U55,
    FLOAT,
    INT8,
    Data,
    Recipe,
    Task,
    run_as_script,
)

# From the recipe `resnet` on the same digits: its 20 layers have three times the parameters of the network here.
RESNET = ("ResNet-20, 270,810 parameters", 0.987)
SERIES = ("mask", "query_times", "times", "values")


def load_data(options, variant):
    if options.dataset in ("mnist_5k", "mnist") or options.data is not None:
        return pipelines.augmented_images(options, pixels=2, degrees=12)
    builder = batches.open_dataset(options)
    columns = {}
    for split in ("train", "test"):
        rows = batches.read(builder, split, options)
        columns[split] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    points = options.dataset == "two_moons"

    def pairs(split, target):
        part = columns[split]
        return (part["point"], part["point"][:, 0]) if points else ({k: part[k] for k in SERIES}, part[target])

    train = pairs("train", "noisy_targets")
    test = tf.data.Dataset.from_tensor_slices(pairs("test", "targets")).batch(batches.TEST_BATCH)
    count = {split: len(next(iter(part.values()))) for split, part in columns.items()}

    def epoch(number):
        return batches.shuffled_batches(train, options.batch_size, batches.fold_in(options.seed, number))

    def calibration(samples):
        random, part = np.random.default_rng(options.seed), columns["train"]
        rows = {key: value[:samples, None] for key, value in part.items()}
        if points:
            signatures = {"density": {"points": rows["point"]}}
            signatures["sample"] = {"noise": _normal(random, rows["point"].shape)}
        else:
            served = {"predict": SERIES, "encode": ("mask", "times", "values")}
            signatures = {name: {key: rows[key] for key in keys} for name, keys in served.items()}
            latents = _normal(random, (len(rows["times"]), 1, LATENT_DIM))
            signatures["decode"] = {"latents": latents, "times": rows["query_times"]}
        return {name: tf.data.Dataset.from_tensor_slices(inputs) for name, inputs in signatures.items()}

    return Data(
        train=epoch,
        test=test,
        num_train=count["train"],
        num_test=count["test"],
        **batches.origin(builder),
        calibration=calibration,
        labels=(),
        input_shape=(2,) if points else columns["train"]["values"].shape[1:],
        input_range="float32 points" if points else "float32 values, times in radians, a mask",
        arrays={f"{split}/{key}": value for split, part in columns.items() for key, value in part.items()},
    )


LATENT_DIM = 6


def _normal(random, shape):
    return random.standard_normal(shape).astype("float32")


def build_model(data, options, variant):
    steps = data.steps(options)

    def adam(rate, **settings):
        return keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(options.rate(rate), steps), **settings)

    if options.dataset == "two_moons":
        points = data.arrays["train/point"]
        scale = dict(mean=points.mean(0).tolist(), std=points.std(0).tolist())
        model = keras_dl.ContinuousFlow(2, hidden_dims=(64, 64), seed=options.seed, **scale)
        model.compile(adam(1e-2, weight_decay=0.0))
    elif options.dataset == "spirals":
        length, queries = (data.arrays[f"train/{key}"].shape[1] for key in ("times", "query_times"))
        model = keras_dl.LatentODE(
            2, length, queries, latent_dim=LATENT_DIM, encoder=variant, encoder_dim=40, num_steps=1, seed=options.seed
        )
        model.compile(adam(1e-2, weight_decay=0.0, global_clipnorm=10.0))
    else:
        # Unrolled, because the int8 calibration of LiteRT cannot look into a loop.
        model = keras_dl.ODEClassifier(data.input_shape, len(data.labels), 40, 20, "midpoint", 2, unroll=True)
        model.compile(
            adam(4e-3, weight_decay=1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def evaluate(serve, data):
    """Accuracy; or the log-likelihood of the test points in nats; or the RMSE of positions at the query times."""
    if data.labels:
        return pipelines.accuracy(serve, data)
    if "test/point" in data.arrays:
        return float(np.mean(serve("density", points=data.arrays["test/point"])["log_prob"]))
    inputs = {key: data.arrays[f"test/{key}"] for key in SERIES}
    return _rmse(serve("predict", **inputs)["predictions"], data)


def _rmse(predicted, data):
    return float(np.sqrt(np.mean(np.square(predicted - data.arrays["test/targets"]))))


def baseline(outcome):
    data = outcome.data
    if outcome.options.data is not None:
        return "guessing", 1 / len(data.labels)
    if data.labels:
        return RESNET
    if outcome.options.dataset == "two_moons":
        mixture = _mixture(data)
        return f"Gaussian mixture, {mixture.n_components} components", float(mixture.score(data.arrays["test/point"]))
    return "plain GRU", _rmse(_recurrent(outcome), data)


def _mixture(data, most=24):
    """The mixture of up to `most` components with the best Bayesian information criterion."""
    mixture = require("sklearn.mixture", extra="recipes")
    points = data.arrays["train/point"]
    fits = [mixture.GaussianMixture(n, n_init=2, random_state=0).fit(points) for n in range(2, most + 1, 2)]
    return min(fits, key=lambda fit: fit.bic(points))


def _recurrent(outcome):
    """Predictions of GRUs for the test series: one reads values and the times between them, one writes."""
    keras.utils.set_random_seed(outcome.options.seed)
    data, arrays = outcome.data, outcome.data.arrays

    def columns(split):
        mask, times, queries = (arrays[f"{split}/{key}"] for key in ("mask", "times", "query_times"))
        gaps = np.where(mask[..., 0], np.diff(times, axis=1, prepend=0), 0.0)
        seen = np.concatenate([arrays[f"{split}/values"], mask[..., :1], gaps[..., None]], -1).astype("float32")
        return seen, np.diff(queries, axis=1, prepend=0)[..., None], mask[..., 0]

    seen, gaps = keras.Input(columns("train")[0].shape[1:]), keras.Input(columns("train")[1].shape[1:])
    mask = keras.Input(columns("train")[2].shape[1:], dtype="bool")
    state = keras.layers.GRU(40)(seen, mask=mask)
    written = keras.layers.GRU(40, return_sequences=True)(gaps, initial_state=state)
    model = keras.Model([seen, gaps, mask], keras.layers.Dense(2)(written))
    epochs = outcome.options.epochs
    steps = data.steps(outcome.options)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=10.0), "mse", jit_compile=True)
    model.fit(columns("train"), arrays["train/noisy_targets"], outcome.options.batch_size, epochs, verbose=0)
    return model.predict(columns("test"), verbose=0)


def picture(outcome):
    draw = {"two_moons": _moons_picture, "spirals": _spirals_picture}
    return draw.get(outcome.options.dataset, _digits_picture)(outcome)


def _digits_picture(outcome):
    """Test images with all mistakes first, the error over the epochs, and the flow of the features of digits."""
    figure = pictures.figure(12, 6)
    left, right = figure.subfigures(1, 2, width_ratios=(1.3, 1))
    pictures.predictions(left, outcome.model, outcome.data)
    error, flow = right.subplots(2, 1, height_ratios=(1, 2))
    pictures.curves(error, outcome.trained, "val_accuracy", lambda accuracy: 100 * (1 - accuracy), label=None)
    pictures.style(error, "Test error, %", "epoch")
    error.set_yscale("log")

    images, labels = next(outcome.data.test.as_numpy_iterator())
    chosen = np.concatenate([np.flatnonzero(labels == c)[:12] for c in range(len(outcome.data.labels))])
    path = np.asarray(outcome.model.trajectories(images[chosen], np.linspace(0, 1, 9, dtype="float32"))).mean((2, 3))
    centered = path - path.mean((0, 1))
    axes = np.linalg.svd(centered[-1], full_matrices=False)[2][:2]
    places = centered @ axes.T
    import matplotlib

    colors = matplotlib.colormaps["tab10"](np.arange(max(10, len(outcome.data.labels))))
    for digit, line in zip(labels[chosen], np.swapaxes(places, 0, 1), strict=True):
        flow.plot(*line.T, color=colors[digit], linewidth=0.8, alpha=0.7)
        flow.plot(*line[-1], "o", color=colors[digit], markersize=3)
    for digit in range(len(outcome.data.labels)):
        flow.plot([], [], "o", color=colors[digit], markersize=4, label=outcome.data.labels[digit])
    flow.legend(frameon=False, fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    pictures.style(flow, "Paths of digits from time 0 to 1 (dot)", "features, first component", "second")
    return figure


def _moons_picture(outcome):
    """The density at several times of the flow, the paths of samples, and the likelihood over the epochs."""
    from keras_dl.recipes.datasets.points_and_paths import moons_log_density

    model, test = outcome.model, outcome.data.arrays["test/point"]
    figure = pictures.figure(13, 6.4)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    x, y = np.meshgrid(np.linspace(-2.2, 3.2, 140), np.linspace(-2.2, 2.7, 130))
    grid = np.stack([x, y], -1).reshape(-1, 2).astype("float32")
    for axis, share in zip(top.subplots(1, 6), (0.01, 0.2, 0.4, 0.6, 0.8, 1.0), strict=True):
        density = np.exp(np.asarray(model.log_prob(grid, share * model.end_time))).reshape(x.shape)
        axis.imshow(density, origin="lower", extent=(-2.2, 3.2, -2.2, 2.7), cmap="magma")
        axis.set_title(f"density at time {share * model.end_time:.2g}", fontsize=9, color=pictures.INK)
        axis.set_axis_off()
    ways, curve = bottom.subplots(1, 2, width_ratios=(1.2, 1))
    noise = keras.random.normal((150, 2), seed=outcome.options.seed)
    times = np.linspace(0.02, 1, 25) * model.end_time
    path = np.stack([np.asarray(model.flow.to_points(noise, time)) for time in times])
    ways.plot(path[..., 0], path[..., 1], color=pictures.FAINT, linewidth=0.6)
    ways.scatter(*test[:800].T, s=4, color=pictures.COLORS[0], alpha=0.35, label="test points")
    ways.scatter(*path[-1].T, s=9, color=pictures.COLORS[1], label="samples, and their paths")
    ways.set_aspect("equal")
    ways.legend(frameon=False, fontsize=8)
    pictures.style(ways, "Paths of 150 samples")
    pictures.curves(curve, outcome.trained, "val_loss", lambda loss: -loss, label="flow")
    best = float(np.mean(moons_log_density(test)))
    lines = {"the density that made the points": best}
    if outcome.with_baseline:
        lines = {"Gaussian mixture": baseline(outcome)[1]} | lines
    for color, (name, value) in zip(pictures.COLORS[1:], lines.items(), strict=False):
        curve.axhline(value, color=color, linestyle="--", linewidth=1.2, label=f"{name}: {value:.3f}")
    curve.set_ylim(best - 0.6, best + 0.05)
    curve.legend(frameon=False, fontsize=8)
    pictures.style(curve, f"Test log-likelihood, nats: {outcome.value:.3f}", "epoch")
    return figure


def _spirals_picture(outcome):
    """Test paths: the observations, the predictions of the latent ODE and of the GRU, and the truth."""
    from keras_dl.recipes.datasets.points_and_paths import Spirals

    arrays, model = outcome.data.arrays, outcome.model
    rows = {key: arrays[f"test/{key}"] for key in SERIES}
    predictions = {"latent ODE": np.asarray(model(rows)["predictions"])}
    if outcome.with_baseline:
        predictions["plain GRU"] = _recurrent(outcome)
    figure = pictures.figure(13, 6.6)
    axes = figure.subplots(2, 4)
    for row, axis in enumerate(axes.flat[:7]):
        queries, mask = rows["query_times"][row], rows["mask"][row][:, 0]
        later = queries > Spirals.SPAN
        axis.plot(*arrays["test/targets"][row].T, color=pictures.INK, linewidth=1, label="truth")
        axis.scatter(*rows["values"][row][mask].T, s=8, color=pictures.FAINT, label="seen")
        for color, (name, values) in zip(pictures.COLORS, predictions.items(), strict=False):
            axis.plot(*values[row].T, color=color, linewidth=1, alpha=0.6)
            axis.plot(*values[row][later].T, ".", color=color, markersize=4, label=f"{name}, after what was seen")
        pictures.style(axis, f"{int(mask.sum())} observations")
    axes.flat[0].legend(frameon=False, fontsize=6)
    last = axes.flat[7]
    pictures.curves(last, outcome.trained, "val_loss", label=None)
    last.set_yscale("log")
    pictures.style(last, "", "epoch: negative ELBO, test")
    late = rows["query_times"] > Spirals.SPAN
    lines = []
    for name, values in predictions.items():
        squares = np.square(values - arrays["test/targets"])
        lines.append(f"{name}: RMSE {np.sqrt(squares.mean()):.3f}, after {np.sqrt(squares[late].mean()):.3f}")
    last.set_title("\n".join(lines), loc="left", fontsize=8, color=pictures.INK)
    return figure


FILES = (FLOAT, INT8, ETHOS_U55, EDGETPU)  # not tried with tflite-micro
# The steps are a loop, which the calibration to int8 cannot look into.
LOOP = dict(exports=(FLOAT, DYNAMIC_INT8), reproduced=True)
RECIPE = Recipe(
    name="neural_ode",
    model="ODEClassifier",
    summary="neural ODEs read digits, fit a density, and continue irregular series",
    tasks={
        "mnist_5k": Task(epochs=8, batch_size=64, aim=0.97, variants=("odenet",), exports=FILES),
        "two_moons": Task(epochs=300, batch_size=500, metric="log-likelihood, nats", variants=("flow",), **LOOP),
        "spirals": Task(80, 100, metric="RMSE", variants=("ode_rnn",), higher_is_better=False, **LOOP),
        "mnist": Task(epochs=20, batch_size=128, aim=0.995, variants=("odenet",)),
    },
    own={"images": Task(epochs=20, batch_size=32, variants=("odenet",))},
    load_data=load_data,
    build_model=build_model,
    evaluate=evaluate,
    baseline=baseline,
    picture=picture,
)

if __name__ == "__main__":
    run_as_script("neural_ode")
