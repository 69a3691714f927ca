"""Constructor arguments, said once: checked before the constructor runs, and stored after it.

A signature says everything about an argument: its name, what it may be, and its default.

    @arguments
    def __init__(self, num_classes: Size = 1000, dropout_rate: Rate = 0.5, block: OneOf("A", "B") = "A"):

A validator is a function `check(name, value)`. It returns the value in the form that the config keeps, or raises a
ValueError that names the argument. It stands in the signature as the metadata of `typing.Annotated`. `Size | None`
also takes None. What checks two arguments against each other stands in the constructor.
"""

import contextlib
import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

import keras

from keras_dl import checks

Size = Annotated[int, checks.check_size]
Sizes = Annotated[tuple[int, ...], checks.check_sizes]
Rate = Annotated[float, checks.check_rate]
Positive = Annotated[float, checks.check_positive]
Number = Annotated[float, checks.check_number]
PerChannel = Annotated[float | tuple[float, ...], checks.check_per_channel]
PositivePerChannel = Annotated[float | tuple[float, ...], checks.check_positive_per_channel]
ImageShape = Annotated[tuple[int, int, int], checks.check_image_shape]


def OneOf(*choices) -> Any:
    """The type of an argument that must be one of `choices`."""
    return Annotated[object, lambda name, value: checks.check_choice(name, value, choices)]


def AtLeast(minimum: int) -> Any:
    """The type of an integer of at least `minimum`."""
    return Annotated[int, lambda name, value: checks.check_size(name, value, minimum)]


def NumberIn(minimum: float, maximum: float = math.inf) -> Any:
    """The type of a finite number from `minimum` to `maximum`."""
    return Annotated[float, lambda name, value: checks.check_number(name, value, minimum, maximum)]


def FromKeras(get: Callable) -> Any:
    """The type of an argument that `get` of Keras, such as `keras.activations.get`, finds by name, config or object."""
    return Annotated[object, lambda name, value: _from_keras(get, name, value)]


def _from_keras(get, name, value):
    try:
        return get(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r} is not known to Keras: {error}") from error


Activation = FromKeras(keras.activations.get)
Regularizer = FromKeras(keras.regularizers.get)


def SizesAtLeast(minimum: int = 1, allow_empty: bool = False) -> Any:
    """The type of a sequence of integers of at least `minimum`, which may have none with `allow_empty`."""
    return Annotated[tuple, lambda name, values: checks.check_sizes(name, values, minimum, allow_empty)]


def ImageShapeAtLeast(min_side: int) -> Any:
    """The type of `(height, width, channels)` with sides of at least `min_side`."""
    return Annotated[tuple, lambda name, value: checks.check_image_shape(name, value, min_side)]


# What Keras's own constructors take by keyword, and what nobody gives: the tensors that a constructor makes.
_KERAS_LAYER = ("name", "trainable", "dtype", "activity_regularizer", "autocast")
_KERAS_MODEL = ("name", "trainable", "dtype")


def arguments(init: Callable) -> Callable:
    """Decorates a constructor: checks each argument before it runs, and stores each under its own name after it.

    An attribute that the constructor sets itself stays, and so does a property of the class. So an argument can be
    kept in another form than it came in. `name`, `trainable` and `dtype` belong to Keras.

    If the constructor has an argument `dtype`, it is the dtype policy of every layer made inside it that is not given
    another one.

    Raises:
        TypeError: by the decorated constructor, if it gets a keyword that neither it nor a constructor above it takes.
            The message names the nearest one.

    Example:

    >>> class Doubling(keras.layers.Layer):
    ...     @arguments
    ...     def __init__(self, factor: Size = 2, **kwargs):
    ...         super().__init__(**kwargs)
    >>> Doubling().factor
    2
    >>> Doubling(factor=0)
    Traceback (most recent call last):
    ...
    ValueError: factor=0 must be an integer of at least 1.
    >>> Doubling(facto=3)
    Traceback (most recent call last):
    ...
    TypeError: Doubling() got an unexpected keyword argument 'facto'. Did you mean 'factor'?
    """
    signature = inspect.signature(init)
    checkers = {name: _checks(parameter.annotation) for name, parameter in signature.parameters.items()}
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    @functools.wraps(init)
    def wrapper(self, *args, **kwargs):
        _check_keywords(self, wrapper, kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            for check in checkers[name]:
                bound.arguments[name] = value = check(name, value)
        with _dtype_policy(bound.arguments.get("dtype")):
            init(*bound.args, **bound.kwargs)
        for name, value in bound.arguments.items():
            if name not in ("self", "dtype", rest) and not _is_set(self, name):
                setattr(self, name, value)
        passed_on = [name for name in bound.arguments.get(rest, ()) if name not in _KERAS_LAYER]
        if type(self).__init__ is wrapper and passed_on:
            self._passed_on = passed_on

    # Keras reads the signature by `inspect.getfullargspec`, which does not follow `__wrapped__`.
    wrapper.__signature__ = signature
    return wrapper


def config_names(instance) -> list[str]:
    """Names of the arguments that the config of `instance` holds, besides Keras's own."""
    parameters = inspect.signature(type(instance).__init__).parameters.values()
    names = [p.name for p in parameters if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return [name for name in [*names, *getattr(instance, "_passed_on", ())] if name not in _KERAS_MODEL]


def _checks(annotation):
    """The validators in an annotation. Those of a union with None let None pass."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        options = typing.get_args(annotation)
        return [_unless_none(check) for option in options for check in _checks(option)]
    return list(getattr(annotation, "__metadata__", ()))


def _unless_none(check):
    return lambda name, value: None if value is None else check(name, value)


@contextlib.contextmanager
def _dtype_policy(dtype):
    """Makes `dtype` the policy of each layer made meanwhile that is not given one; None changes nothing."""
    if dtype is None:
        yield
        return
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(keras.dtype_policies.get(dtype))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _is_set(instance, name):
    return name in vars(instance) or isinstance(getattr(type(instance), name, None), property)


def _check_keywords(instance, wrapper, keywords):
    """Raises a TypeError for a keyword that no constructor from this one up takes."""
    classes = type(instance).__mro__
    owner = next((i for i, cls in enumerate(classes) if vars(cls).get("__init__") is wrapper), 0)
    known = dict.fromkeys(_KERAS_MODEL if isinstance(instance, keras.Model) else _KERAS_LAYER)
    for cls in classes[owner:]:
        if issubclass(keras.layers.Layer, cls):
            break
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        known |= dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    known = [name for name in known if name not in ("self", "inputs", "outputs")]
    for name in keywords:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It takes: {', '.join(known)}."
            raise TypeError(f"{type(instance).__name__}() got an unexpected keyword argument {name!r}. {hint}")
