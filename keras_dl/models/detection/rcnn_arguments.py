"""Types of the arguments that detectors with anchors take."""

from typing import Annotated


def _check_levels(name, values):
    """`values` as a tuple of tuples of positive floats, at least one in each."""
    valid = isinstance(values, list | tuple) and values and all(isinstance(x, list | tuple) and x for x in values)
    if not valid or not all(_is_positive(x) for level in values for x in level):
        raise ValueError(f"{name}={values!r} must be a sequence with a sequence of positive numbers for each level.")
    return tuple(tuple(float(x) for x in level) for level in values)


def _check_positives(name, values):
    """`values` as a tuple of positive floats, at least one."""
    if not isinstance(values, list | tuple) or not values or not all(map(_is_positive, values)):
        raise ValueError(f"{name}={values!r} must be a sequence of positive numbers.")
    return tuple(float(x) for x in values)


def _check_pair(name, values):
    """`values` as a tuple of two ints of at least 1."""
    valid = isinstance(values, list | tuple) and len(values) == 2
    if not valid or not all(isinstance(x, int) and not isinstance(x, bool) and x >= 1 for x in values):
        raise ValueError(f"{name}={values!r} must be two integers of at least 1: in training, and in inference.")
    return tuple(values)


def _is_positive(x):
    return isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < float("inf")


Levels = Annotated[tuple[tuple[float, ...], ...], _check_levels]
Positives = Annotated[tuple[float, ...], _check_positives]
Pair = Annotated[tuple[int, int], _check_pair]
