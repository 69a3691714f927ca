"""Calibration data as users have it: arrays, datasets with targets, generator functions of lists; read as dicts."""

import collections.abc

import numpy as np


def rereadable(calibration, count):
    """The data in a form that can be read several times: of an iterator, a list of its first `count` elements."""
    if isinstance(calibration, collections.abc.Iterator):
        return [element for element, _ in zip(calibration, range(count), strict=False)]
    if isinstance(calibration, dict):
        return {name: rereadable(data, count) for name, data in calibration.items()}
    return calibration


def elements(data, shapes, what, renamed=dict):
    """The elements of one calibration set.

    Args:
        data: an array for a model of one input; or an iterable (such as a `tf.data.Dataset`), or a function without
            arguments that returns one. Each element is a dict of arrays by input name; or a list or tuple of arrays in
            the order of the inputs; or one array for one input; or a pair or triple of inputs, targets and weights.
        shapes: dict by input name of the input's static shape.
        what: str. The name of the data in errors.
        renamed: function that gives a dict of arrays the names of the file's inputs.

    Yields:
        dict of arrays by input name. An array without a batch, of the shape of one row, gets a batch of 1.

    Raises:
        TypeError: if the data or an element is of another kind, or it is not known which array belongs to which input.
    """
    data = data() if callable(data) and not _is_array(data) else data
    if _is_array(data):
        data = [data]
    elif isinstance(data, collections.abc.Mapping) or not isinstance(data, collections.abc.Iterable):
        raise TypeError(
            f"{what} must be an iterable of dicts of arrays, not {type(data).__name__}"
            + (f" with the keys {list(map(str, data))}." if isinstance(data, collections.abc.Mapping) else ".")
        )
    for element in data:
        named = renamed(_by_name(element, list(shapes), what))
        yield {name: _batched(x, shapes.get(name)) for name, x in named.items()}


def _by_name(element, names, what):
    if isinstance(element, collections.abc.Mapping):
        return dict(element)
    if _is_array(element) and len(names) == 1:
        return {names[0]: element}
    if isinstance(element, list | tuple):
        if len(element) == len(names) and all(map(_is_array, element)):
            return dict(zip(names, element, strict=True))
        # As `fit` takes them: inputs and targets, or inputs, targets and weights.
        if isinstance(element, tuple) and len(element) in (2, 3) and (len(names) == 1 or not _is_array(element[0])):
            return _by_name(element[0], names, what)
    kind = (
        f"a {type(element).__name__} of {len(element)}" if isinstance(element, list | tuple) else type(element).__name__
    )
    raise TypeError(
        f"{what} must hold dicts of arrays by input name ({', '.join(names)}), or arrays in the order of these inputs, "
        f"not {kind}."
    )


def _is_array(x):
    return hasattr(x, "__array__")


def _batched(x, shape):
    """The array, with a batch of 1 if it has the shape of one row."""
    size = tuple(np.shape(x))
    return np.asarray(x)[None] if shape and size == tuple(shape[1:]) else x
