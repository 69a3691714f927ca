"""Own data as `tf.data` for `fit`: what a recipe trains on, in code.

The data comes from the `load_data` of a recipe, so that a form that a recipe takes is a form that `from_folder` reads.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_dl.recipes.data.forms import FORMS, open_data
from keras_dl.recipes.training.recipe import MOST_EPOCHS, MOST_PIXELS, OptionError
from keras_dl.text import tokenizers

# Where the first recipe that takes a form is not the one whose pipeline fits most models of that form.
USUAL = {"images": "resnet", "pictures": "ddpm", "series": "lstm", "pairs": "transformer"}
WHOLE = ("images", "boxes", "instances", "masks", "table", "values")  # forms of which recipes validate on each example


class Folder(NamedTuple):
    """Own data for `fit`.

    Attributes:
        train: `tf.data.Dataset` of batches of one size, as `fit` of the recipe's model takes them: `(inputs, targets)`,
            or inputs alone. Each pass has another order. Examples that fill no batch are left out of a pass.
        test: `tf.data.Dataset` of the test split in a fixed order. The last batch may be smaller.
        validation: the same of the validation split; None if the data has none.
        labels: tuple of str. Names of the classes. Empty for regression and texts.
        input_shape: tuple of int. Shape of one input.
        notes: list of str. How the data was split, and what was left out.
        recipe: str. The recipe whose pipeline it is.
        tokenizers: dict by name of `keras_dl.text.Subwords` or `Symbols`. Empty but for texts.
        columns: list of dicts: what each column of a table, or of the nodes of a graph, is. Empty for other data.
        arrays: dict of arrays by name, of data that is in memory. docs/own_data.md names those of each form.
    """

    train: Any
    test: Any
    validation: Any
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    notes: list[str]
    recipe: str
    tokenizers: dict[str, Any]
    columns: list[dict]
    arrays: dict[str, Any]


def from_folder(
    path, *, recipe=None, image_size=None, batch_size=None, seed=0, target=None, form=None, augment=False
) -> Folder:
    """Own data as `tf.data` for `fit`, in each form that `keras-dl train NAME --data PATH` takes.

    Args:
        path: str or path.
        recipe: str. The recipe whose pipeline is taken, such as "faster_rcnn". None for the usual one of the form.
        image_size: int, or for images in folders by class also `(height, width)`. None for the recipe's, as for
            `--image-size`.
        batch_size: int. None for that of the recipe, and smaller for small data: ten steps in an epoch, if batches of
            eight allow it.
        seed: int. Of the split, where the data has none, of the order, and of `augment`.
        target: str. The column to predict, of a table or a graph.
        form: str, one of `FORMS`, where a path has several: a `.tsv` file is a table, or "pairs"; COCO's JSON has
            "boxes", or "instances" with masks. None to find it; `recipe` may decide, too.
        augment: bool. Whether training examples are changed at random, as the recipe does: images moved, series made
            noisy, clouds rotated, mosaics for "yolo".

    Returns:
        `Folder`. Images are raw pixels: uint8, or float32 in training with `augment` and for objects. docs/own_data.md
        has the inputs and targets of each form, with a model that takes them.

    Raises:
        OptionError: if the path has no form that a recipe takes, or has fewer training examples than `batch_size`. A
            ValueError.
        FileError: if a file is wrong. The message begins with its name. A ValueError.

    Example:

    >>> from PIL import Image
    >>> import pathlib
    >>> for name, level in (("dark", 40), ("light", 200)):
    ...     pathlib.Path("photos", name).mkdir(parents=True)
    ...     for i in range(5):
    ...         Image.new("RGB", (30, 20), (level + i,) * 3).save(f"photos/{name}/{i}.png")
    >>> data = from_folder("photos", image_size=16, batch_size=4)
    >>> data.labels, data.input_shape, data.notes
    (('dark', 'light'), (16, 16, 3), ['a fifth for the test, by the seed 0'])
    >>> images, labels = next(iter(data.train))
    >>> images.shape, images.dtype.name
    (TensorShape([4, 16, 16, 3]), 'uint8')
    """
    from keras_dl.recipes.training import own_options  # which reads forms itself
    from keras_dl.recipes.training import recipe as recipes

    _check(batch_size, image_size)
    takers = {name: recipes.takers(name) for name in FORMS}
    wanted = [name for name in FORMS if takers[name]] if recipe is None else list(recipes.find(recipe).own)
    if form is not None and form in FORMS and form not in wanted:
        who = "any recipe" if recipe is None else f"recipe={recipe!r}"
        raise OptionError(f"form={form!r} is not among the forms of {who}: {', '.join(wanted)}.")
    found = open_data(path, form, seed, target, wanted, "from_folder" if recipe is None else recipe)
    chosen = recipes.find(recipe or USUAL.get(found.form) or takers[found.form][0])
    options = chosen.options(
        found.form,
        epochs=MOST_EPOCHS,  # a pipeline that changes in the last epochs does not know which they are
        batch_size=batch_size or own_options.batch_size(found.form, chosen.own[found.form], found.counts["train"]),
        seed=seed,
        data=str(found.path),
        target=target,
        fingerprint=found.fingerprint,
        image_size=image_size,
        augment=augment,
    )
    data = chosen.load_data(options, chosen.variants(options)[0])
    if options.batch_size > data.num_train:
        raise OptionError(f"batch_size={options.batch_size} is more than the {data.num_train} training examples.")
    return Folder(
        train=_passes(data, options),
        test=_rebatched(data.test, data.num_test, options),
        validation=_rebatched(data.validation, found.counts.get("validation"), options)
        if found.form in WHOLE
        else data.validation,
        labels=tuple(data.labels),
        input_shape=tuple(data.input_shape),
        notes=[found.how, *found.notes],
        recipe=chosen.name,
        tokenizers=tokenizers(data.vocabularies),
        columns=list(data.columns),
        arrays={name: x for name, x in data.arrays.items() if not callable(x)},
    )


def _check(batch_size, image_size):
    """In the words of Python; `Options` has those of the command line."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise OptionError(f"batch_size={batch_size} must be an int of at least 1.")
    if image_size is None:
        return
    sides = (image_size,) if isinstance(image_size, int) else image_size
    if not isinstance(sides, tuple | list) or len(sides) not in (1, 2):
        raise OptionError(f"image_size={image_size!r} must be an int, or a height and a width.")
    if not all(isinstance(side, int) and 1 <= side <= MOST_PIXELS for side in sides):
        raise OptionError(f"image_size={image_size!r} must be in [1, {MOST_PIXELS}] pixels.")


def _rebatched(dataset, count, options):
    """A split of `count` examples in batches of the options: those of recipes are too large for large models.

    A graph, whose batch is the whole graph, stays as it is.
    """
    if dataset is None or tf.nest.flatten(dataset.element_spec)[0].shape[0] is not None:
        return dataset
    steps = -(-count // options.batch_size)  # Keras warns of data that ends, if its length is not known
    return dataset.rebatch(options.batch_size).apply(tf.data.experimental.assert_cardinality(steps)).prefetch(1)


def _passes(data, options):
    """The training batches of epoch 0, 1, ...: a dataset of which each pass is the next epoch."""
    number = tf.Variable(-1, dtype=tf.int32, trainable=False)
    epochs = tf.data.Dataset.from_tensors(0).map(lambda _: number.assign_add(1)).flat_map(data.train)
    steps = data.num_train // options.batch_size
    return epochs.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)
