"""The symmetries of a square of pixels: quarter turns (p4), with mirror images (p4m), or none (z2).

An element is a number: `turns + 4 * mirrored`. It mirrors an image left to right if `mirrored` is 1, then turns it
counter-clockwise by that many quarter turns. A feature map on a group has one value for each pixel, element and
channel. Its last axis holds the elements, and within each element its channels.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_dl.checks import check_choice


class Group(NamedTuple):
    """A finite group of symmetries.

    Attributes:
        name: str.
        order: int. Number of elements; element 0 does nothing.
        table: int array, `(order, order)`: `table[g, h]` is the element that acts as h, then g.
        inverse: int array, `(order,)`.
    """

    name: str
    order: int
    table: np.ndarray
    inverse: np.ndarray


def _group(name, turns, mirrors):
    elements = np.arange(turns * mirrors)
    turn, mirrored = elements % 4, elements // 4
    # A mirror reverses turns: m r = r^-1 m.
    turned = turn[:, None] + np.where(mirrored[:, None], -turn, turn)
    table = turned % turns + 4 * ((mirrored[:, None] + mirrored) % 2)
    return Group(name, len(elements), table, np.argmin(table, axis=1))


GROUPS = {group.name: group for group in (_group("z2", 1, 1), _group("p4", 4, 1), _group("p4m", 4, 2))}


def find_group(name: str) -> Group:
    """The group of a name.

    Args:
        name: str, "z2", "p4" or "p4m".

    Returns:
        `Group`.

    Raises:
        ValueError: if there is none. The message lists the names.

    Example:

    >>> group = find_group("p4")
    >>> group.order, int(group.table[1, 3])  # a quarter turn after three of them is none
    (4, 0)
    """
    return GROUPS[check_choice("group", name, tuple(GROUPS))]


def turn_pixels(images, element: int, axes=(1, 2)):
    """Mirrors and turns images: `(L_g f)(x) = f(g^-1 x)`.

    Args:
        images: tensor or NumPy array. A quarter turn swaps the sides of an image that is not square.
        element: int in [0, 8).
        axes: the axes of height and width.

    Returns:
        Tensor or NumPy array, as `images`; same dtype and rank.

    Example:

    >>> turn_pixels(np.array([[[1, 2], [3, 4]]]), 1).tolist()
    [[[2, 4], [1, 3]]]
    """
    library = np if isinstance(images, np.ndarray) else ops
    turns, mirrored = element % 4, element >= 4
    # Not `keras.ops.rot90`: its half turn of an array that is not square is wrong in Keras 3.15.1.
    if mirrored != (turns in (1, 2)):
        images = library.flip(images, axes[1])
    if turns == 2:
        images = library.flip(images, axes[0])
    if turns in (1, 3):
        images = library.swapaxes(images, *axes)
    return library.flip(images, axes[1]) if turns == 3 else images


def act(maps, element: int, group: str):
    """An element's action on feature maps of a group: it moves the pixels, and permutes the elements.

    `(L_g f)(x, h) = f(g^-1 x, g^-1 h)`. An equivariant network maps the image moved by `element` to its moved maps.

    Args:
        maps: float, `(batch, height, width, order * channels)`.
        element: int, of the group.
        group: str, "z2", "p4" or "p4m".

    Returns:
        float, same shape, or with height and width swapped.

    Example:

    >>> maps = np.array([[[[1.0, 2.0, 3.0, 4.0]]]])  # one pixel, one channel: a value for each turn
    >>> np.asarray(act(maps, 1, "p4")).ravel().tolist()
    [4.0, 1.0, 2.0, 3.0]

    Reference: Cohen and Welling 2016, arXiv:1602.07576, eq. 12 and fig. 2.
    """
    group = find_group(group)
    moved = turn_pixels(maps, element)
    elements = ops.split(moved, group.order, axis=-1)  # (batch, height, width, channels) each
    return ops.concatenate([elements[i] for i in group.table[group.inverse[element]]], axis=-1)


def kernel_places(kernel_size: int, group: str, lifting: bool) -> np.ndarray:
    """For each value of the kernels of all elements, its place in the one kernel that is trained.

    Args:
        kernel_size: int.
        group: str.
        lifting: bool. True if the input is an image, False if it is a feature map of the group.

    Returns:
        int array, `(kernel_size, kernel_size, inputs, order)`, with values in `[0, kernel_size ** 2 * inputs)`: the
        kernel of element g at pixel x and input element h takes the trained value at `g^-1 x` and `g^-1 h`;
        `inputs` is 1 if lifting, else the group's order.
    """
    group = find_group(group)
    inputs = 1 if lifting else group.order
    trained = np.arange(kernel_size**2 * inputs).reshape(kernel_size, kernel_size, inputs)
    kernels = []
    for element in range(group.order):
        order = [0] if lifting else group.table[group.inverse[element]]
        kernels.append(turn_pixels(trained, element, axes=(0, 1))[:, :, order])
    return np.stack(kernels, axis=-1)
