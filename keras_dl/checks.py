"""Checks of constructor arguments: each returns the value as a config keeps it, or raises a ValueError naming it."""

import numbers


def check_choice(name, value, choices):
    """`value`, which must be one of `choices`.

    Example:

    >>> check_choice("block", "basic", ("basic", "bottleneck"))
    'basic'
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}.")
    return value


def check_size(name, value, minimum=1):
    """`value` as an int, which must be an integer of at least `minimum`."""
    if not _is_integer(value) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}.")
    return int(value)


def check_sizes(name, values, minimum=1, allow_empty=False):
    """`values` as a tuple of ints, each an integer of at least `minimum`."""
    valid = isinstance(values, list | tuple) and all(_is_integer(n) and n >= minimum for n in values)
    if not valid or not (values or allow_empty):
        raise ValueError(f"{name}={values!r} must be a sequence of integers of at least {minimum}.")
    return tuple(int(n) for n in values)


def check_rate(name, value):
    """`value` as a float, which must be in [0, 1): the share of units that dropout sets to zero, say."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"{name}={value!r} must be a number in [0, 1).")
    return float(value)


def check_positive(name, value):
    """`value` as a float, which must be a finite number above 0."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number above 0.")
    return float(value)


def check_image_shape(image_shape, min_side=1):
    """`image_shape` as a tuple `(height, width, channels)` of ints, both sides at least `min_side`."""
    valid = isinstance(image_shape, list | tuple) and len(image_shape) == 3 and all(map(_is_integer, image_shape))
    if not valid or min(image_shape[:2]) < min_side or image_shape[2] < 1:
        raise ValueError(
            f"image_shape={image_shape!r} must be (height, width, channels), integers, sides of at least {min_side}."
        )
    return tuple(int(n) for n in image_shape)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
