"""Shared parts of the recipes' pictures: one style, and the plots that several recipes draw."""

import itertools

import numpy as np

from keras_dl.extras import require

INK = "#1f2933"
FAINT = "#9aa5b1"
COLORS = ("#2667c9", "#d1495b", "#2a9d6f", "#e0912f", "#7b52ab", "#3aa6b9")


def figure(width, height):
    """An empty matplotlib `Figure` of this size in inches, which needs no display."""
    return require("matplotlib.figure", extra="recipes").Figure(figsize=(width, height), layout="constrained")


def style(axis, title=None, x=None, y=None):
    """Sets title and labels of an axis, and removes all that is not data."""
    axis.set_title(title or "", loc="left", fontsize=11, color=INK, fontweight="bold")
    axis.set_xlabel(x or "", color=INK)
    axis.set_ylabel(y or "", color=INK)
    axis.tick_params(colors=INK, labelsize=8)
    axis.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["bottom", "left"]].set_color(FAINT)


def show_image(axis, image, caption=None, color=INK, cmap="gray_r"):
    """Draws one image `(height, width, channels)` of raw pixels without axes, with a caption below it."""
    image = np.asarray(image)
    pixels = image[..., 0] if image.shape[-1] == 1 else image.astype("uint8")
    axis.imshow(pixels, cmap=cmap, vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(caption or "", fontsize=8, color=color, labelpad=2)
    for spine in axis.spines.values():
        spine.set_color(color)
        spine.set_alpha(0.6)


def tiled(images, columns: int):
    """Images side by side in rows, a blank pixel apart: one image. What does not fill a row is left out.

    Args:
        images: `(n, height, width, channels)`, pixels in [0, 255].
        columns: int.
    """
    images = np.asarray(images)
    rows = len(images) // columns
    _, height, width, channels = images.shape
    blank = 0 if channels == 1 else 255  # as `show_image` draws white
    images = np.pad(images[: rows * columns], ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=blank)
    images = images.reshape(rows, columns, height + 1, width + 1, channels).transpose(0, 2, 1, 3, 4)
    return images.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def row(images, columns: int):
    """The first images in one row, as `tiled` has them; less than `columns` if there are fewer."""
    return tiled(images[:columns], min(columns, len(images)))


def curves(axis, trained, key, scaled=lambda value: value, **look):
    """Draws `scaled(row[key])` of each variant's history over the epochs, with one color per variant.

    Args:
        axis: matplotlib axis.
        trained: dict of `Trained` by variant.
        key: str. A key of the rows of the history.
        scaled: function from a float to a float.
        look: keyword arguments for `axis.plot`. `label=None` keeps the curves out of the legend.
    """
    for color, (variant, result) in zip(itertools.cycle(COLORS), trained.items(), strict=False):
        values = [scaled(row[key]) for row in result.history]
        axis.plot(range(1, len(values) + 1), values, **(dict(color=color, linewidth=1.8, label=variant) | look))


def predictions(figure, model, data, rows=5, columns=8):
    """Draws test images with the classes that a classifier predicts: first its mistakes, then others.

    Args:
        figure: matplotlib figure or subfigure.
        model: a `keras.Model` from raw pixels to logits.
        data: `Data` of images.
        rows, columns: int. Size of the grid.
    """
    images, labels, predicted = [], [], []
    for batch, truth in data.test.as_numpy_iterator():
        images.append(batch)
        labels.append(truth)
        predicted.append(np.argmax(model.predict_on_batch(batch), axis=-1))
    images, labels, predicted = np.concatenate(images), np.concatenate(labels), np.concatenate(predicted)
    order = np.argsort(predicted == labels, kind="stable")
    wrong = int(np.sum(predicted != labels))
    shown = min(wrong, rows * columns)
    which = "all" if shown == wrong else "the first"
    figure.suptitle(
        f"{len(labels):,} test images, {wrong} mistakes ({which} {shown} in red)",
        fontsize=11,
        color=INK,
        fontweight="bold",
    )
    for axis, i in zip(figure.subplots(rows, columns, squeeze=False).flat, order, strict=False):
        right = predicted[i] == labels[i]
        names = (data.labels[predicted[i]], data.labels[labels[i]])
        show_image(axis, images[i], names[0] if right else f"{names[0]}, not {names[1]}", INK if right else COLORS[1])


def of_classifier(outcome, height, ratio):
    """A figure of a classifier: test images on the left, the test error over the epochs on the right.

    Args:
        outcome: `Outcome` of a task whose history has `val_accuracy`.
        height: float. Height of the figure in inches.
        ratio: float. Height of the error, as a multiple of the height of the space below it.

    Returns:
        `(figure, space)`: the matplotlib figure, and the empty subfigure below the error.
    """
    whole = figure(12, height)
    left, right = whole.subfigures(1, 2, width_ratios=(1.3, 1))
    error, space = right.subfigures(2, 1, height_ratios=(ratio, 1))
    predictions(left, outcome.model, outcome.data)
    axis = error.subplots()
    curves(axis, outcome.trained, "val_accuracy", lambda accuracy: 100 * (1 - accuracy))
    style(axis, "Test error, %", "epoch")
    if any(row["val_accuracy"] < 1 for trained in outcome.trained.values() for row in trained.history):
        axis.set_yscale("log")
    if len(outcome.trained) > 1:
        axis.legend(frameon=False)
    return whole, space


def kernels(figure, kernels, title):
    """Draws kernels `(height, width, n)` side by side, blue for negative and red for positive weights."""
    figure.suptitle(title, fontsize=11, color=INK, fontweight="bold")
    limit = np.abs(kernels).max()
    for i, axis in enumerate(figure.subplots(1, kernels.shape[-1])):
        axis.imshow(kernels[..., i], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_axis_off()
