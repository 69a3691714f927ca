"""Checks of arguments. Each raises a ValueError that names the argument.

Checks of constructor arguments return the value in the form that the config keeps.
"""

import math
import numbers

import keras
import numpy as np
import tensorflow as tf


def check_choice(name: str, value, choices):
    """`value`, which must be one of `choices`.

    Example:

    >>> check_choice("block", "basic", ("basic", "bottleneck"))
    'basic'
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}.")
    return value


def check_activation_name(name: str, value) -> str:
    """`value`, which must be a str that names an activation of Keras.

    Example:

    >>> check_activation_name("activation", "relu")
    'relu'
    """
    try:
        if isinstance(value, str) and keras.activations.get(value):
            return value
    except ValueError:
        pass  # Keras knows no such name
    raise ValueError(f"{name}={value!r} must be the name of a Keras activation, such as 'relu'.")


def check_size(name: str, value, minimum: int = 1) -> int:
    """`value` as an int, which must be an integer of at least `minimum`."""
    if not _is_integer(value) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}.")
    return int(value)


def check_odd_size(name: str, value) -> int:
    """`value` as an int, which must be an odd integer of at least 1, such as the side of a kernel with a center."""
    if not _is_integer(value) or value < 1 or value % 2 == 0:
        raise ValueError(f"{name}={value!r} must be an odd integer of at least 1.")
    return int(value)


def check_sizes(name: str, values, minimum: int = 1, allow_empty: bool = False) -> tuple[int, ...]:
    """`values` as a tuple of ints, each an integer of at least `minimum`."""
    valid = isinstance(values, list | tuple) and all(_is_integer(n) and n >= minimum for n in values)
    if not valid or not (values or allow_empty):
        raise ValueError(f"{name}={values!r} must be a sequence of integers of at least {minimum}.")
    return tuple(int(n) for n in values)


def check_rate(name: str, value) -> float:
    """`value` as a float, which must be in [0, 1), such as the share of units that dropout sets to zero."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"{name}={value!r} must be a number in [0, 1).")
    return float(value)


def check_positive(name: str, value) -> float:
    """`value` as a float, which must be a finite number above 0."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number above 0.")
    return float(value)


def check_number(name: str, value, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """`value` as a float, which must be a finite number from `minimum` to `maximum`."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not minimum <= value <= maximum:
        bounds = "" if minimum == -math.inf else f" of at least {minimum:g}"
        bounds = bounds if maximum == math.inf else f" in [{minimum:g}, {maximum:g}]"
        raise ValueError(f"{name}={value!r} must be a finite number{bounds}.")
    return float(value)


def check_per_channel(name: str, value) -> float | tuple[float, ...]:
    """`value` as a float, or a tuple of floats, one per channel; all finite."""
    array = np.asarray(value, "float64")
    if array.ndim > 1 or not np.isfinite(array).all():
        raise ValueError(f"{name}={value!r} must be a finite number, or one for each channel.")
    return tuple(array.tolist()) if array.ndim else array.item()


def check_positive_per_channel(name: str, value) -> float | tuple[float, ...]:
    """`value` as `check_per_channel` returns it, all above 0."""
    checked = check_per_channel(name, value)
    if not np.all(np.asarray(checked) > 0):
        raise ValueError(f"{name}={value!r} must be positive.")
    return checked


def check_image_shape(name: str, image_shape, min_side: int = 1) -> tuple[int, int, int]:
    """`image_shape` as a tuple `(height, width, channels)` of ints, both sides at least `min_side`."""
    valid = isinstance(image_shape, list | tuple) and len(image_shape) == 3 and all(map(_is_integer, image_shape))
    if not valid or min(image_shape[:2]) < min_side or image_shape[2] < 1:
        raise ValueError(
            f"{name}={image_shape!r} must be (height, width, channels), integers, sides of at least {min_side}."
        )
    return tuple(int(n) for n in image_shape)


def check_heads(num_heads: int, hidden_dim: int) -> None:
    """Refuses a number of attention heads that does not divide the width of the vectors.

    Example:

    >>> check_heads(5, 12)
    Traceback (most recent call last):
    ...
    ValueError: num_heads=5 must divide hidden_dim=12.
    """
    if hidden_dim % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide hidden_dim={hidden_dim}.")


def check_stages(num_blocks: tuple[int, ...], filters: tuple[int, ...]) -> None:
    """Refuses blocks and filters of different numbers of stages.

    Example:

    >>> check_stages((2, 2), (16, 32, 64))
    Traceback (most recent call last):
    ...
    ValueError: num_blocks=(2, 2) and filters=(16, 32, 64) must have one value for each stage.
    """
    if len(num_blocks) != len(filters):
        raise ValueError(f"num_blocks={num_blocks} and filters={filters} must have one value for each stage.")


def shape_of(x) -> tuple | None:
    """The shape of an array, tensor or list of numbers. None if its rank is not known, which only graphs have."""
    shape = x.shape if hasattr(x, "shape") else np.shape(x)
    return None if getattr(shape, "rank", 0) is None else tuple(shape)


def shapes_agree(shape, wanted) -> bool:
    """Whether two shapes can be the same. They are sequences of int, or of None for a size that is not known."""
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )


def check_shapes(name: str, tensors, shapes: dict[str, tuple], remedy: str) -> None:
    """Checks that `tensors`, such as the states of a step, have the names and shapes of `shapes`.

    Args:
        name: str. The name of the tensors in an error.
        tensors: dict of arrays or tensors.
        shapes: dict of tuples. None is any size. A str is a size that is the same in all shapes that have this str.
        remedy: str. The advice at the end of the error.

    Example:

    >>> check_shapes("states", {"hidden": np.zeros((1, 4))}, {"hidden": (2, 4)}, "start with zeros")
    Traceback (most recent call last):
    ...
    ValueError: states has {'hidden': (1, 4)}; it must have {'hidden': (2, 4)}: start with zeros.
    """
    if not isinstance(tensors, dict):
        raise ValueError(f"{name} is a {type(tensors).__name__}; it must be a dict of {shapes}: {remedy}.")
    given = {key: shape_of(x) for key, x in tensors.items()}
    sizes = {}  # the sizes of each str
    for key in given.keys() & shapes.keys():
        for size, wanted in zip(given[key] or (), shapes[key], strict=False):
            sizes[wanted] = sizes.get(wanted, set()) | {size} - {None}

    def agrees(key):
        if key not in given or key not in shapes:
            return False
        several = any(isinstance(n, str) and len(sizes.get(n, ())) > 1 for n in shapes[key])
        wanted = [None if isinstance(n, str) else n for n in shapes[key]]
        return not several and (given[key] is None or shapes_agree(given[key], wanted))

    wrong, right = ({key: x for key, x in side.items() if not agrees(key)} for side in (given, shapes))
    if wrong or right:
        raise ValueError(f"{name} has {wrong}; it must have {right}: {remedy}.")


def asserted(x, condition, message: str):
    """`x`, a tensor of a graph. The graph raises an `InvalidArgumentError` with this message if the condition is False.

    It is for values that are only known when the graph runs, such as a size that was None when it was traced. XLA
    drops assertions.
    """
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(x)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
