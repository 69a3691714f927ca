"""Weights of classes in the classification loss of a detector."""

import math
from typing import Annotated


def _check(name, value):
    try:
        wrong = [x for x in value if not 0 < x < math.inf]
    except TypeError as error:
        raise ValueError(f"{name}={value!r} must be a sequence of numbers, one for each class.") from error
    if wrong:
        raise ValueError(f"{name}={value!r} has {wrong[0]!r}; weights must be positive and finite.")
    return tuple(map(float, value))


ClassWeights = Annotated[tuple[float, ...], _check]


def checked_class_weights(weights, num_classes: int) -> tuple[float, ...]:
    """One weight for each class.

    Args:
        weights: sequence of `num_classes` numbers; a number for all; or None for 1.
        num_classes: int.

    Returns:
        tuple of `num_classes` float.

    Raises:
        ValueError: if the number of weights is another one.

    Example:

    >>> checked_class_weights(None, num_classes=3)
    (1.0, 1.0, 1.0)
    """
    if weights is None or isinstance(weights, int | float):
        return (1.0 if weights is None else float(weights),) * num_classes
    if len(weights) != num_classes:
        raise ValueError(f"class_weights={weights} has {len(weights)} weights for num_classes={num_classes}.")
    return weights
