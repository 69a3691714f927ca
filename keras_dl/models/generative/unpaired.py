"""Pairs of batches of two sets of images that are not paired."""

import numpy as np
import tensorflow as tf

from keras_dl.checks import check_size, shape_of


def check_set(name: str, images) -> None:
    """Refuses a set of one image. What is no array passes."""
    shape = shape_of(images) if hasattr(images, "shape") else None
    if shape and shape[0] is not None and shape[0] < 2:
        raise ValueError(
            f"{name} has {shape[0]} images; a set needs at least 2. A discriminator that knows one image of a domain "
            "learns that image, not what images of the domain share."
        )


def unpaired(images_a, images_b, batch_size: int = 1, seed: int = 0) -> tf.data.Dataset:
    """One epoch after the other of pairs of batches for `CycleGAN.fit`, each in a new order.

    An epoch shows every image of the larger set once. The smaller set is shown again and again, whole in each round.
    The order of one set does not depend on that of the other. Images that fill no batch are left out of an epoch.

    Args:
        images_a, images_b: arrays, `(n, height, width, channels)` and `(m, height, width, channels)`, in memory.
        batch_size: int. At most `max(n, m)`.
        seed: int.

    Returns:
        `tf.data.Dataset` of `max(n, m) // batch_size` pairs of batches.

    Raises:
        ValueError: if a set has one image, or the images have different shapes, or fill no batch.

    Example:

    >>> few, many = np.zeros((2, 8, 8, 1)), np.ones((5, 8, 8, 1))
    >>> [(len(a), len(b)) for a, b in unpaired(few, many, batch_size=2)]
    [(2, 2), (2, 2)]
    """
    images = {"images_a": np.asarray(images_a), "images_b": np.asarray(images_b)}
    check_size("batch_size", batch_size)
    for name, array in images.items():
        check_set(name, array)
    shapes = [array.shape[1:] for array in images.values()]
    if shapes[0] != shapes[1]:
        raise ValueError(f"images_a and images_b have images of different shapes, {shapes[0]} and {shapes[1]}.")
    count = max(map(len, images.values()))
    if batch_size > count:
        raise ValueError(f"batch_size={batch_size} is more than the {count} images of the larger set.")

    def order(array, number):
        rows = tf.data.Dataset.range(len(array)).shuffle(len(array), seed=seed + number).repeat()
        return rows.take(count).map(lambda row: tf.gather(array, row))

    sides = tuple(order(array, number) for number, array in enumerate(images.values()))
    return tf.data.Dataset.zip(sides).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
