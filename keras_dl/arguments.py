"""Constructor arguments: checked before the constructor runs, and stored after it.

A signature says everything about an argument: its name, what it may be, and its default.

    @arguments
    def __init__(self, num_classes: Size = 1000, dropout_rate: Rate = 0.5, block: OneOf("A", "B") = "A"):

A validator is a function `check(name, value)`. It returns the value in the form that the config keeps, or raises a
ValueError that names the argument. It is in the signature as the metadata of `typing.Annotated`. `Size | None`
also takes None. Checks of two arguments against each other are in the constructor. `help` and `inspect.signature`
show the plain types: `num_classes: int = 1000`.
"""

import contextlib
import difflib
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import keras

from keras_dl import checks

Size = Annotated[int, checks.check_size]
OddSize = Annotated[int, checks.check_odd_size]
Sizes = Annotated[tuple[int, ...], checks.check_sizes]
Rate = Annotated[float, checks.check_rate]
Positive = Annotated[float, checks.check_positive]
Number = Annotated[float, checks.check_number]
PerChannel = Annotated[float | tuple[float, ...], checks.check_per_channel]
PositivePerChannel = Annotated[float | tuple[float, ...], checks.check_positive_per_channel]
ActivationName = Annotated[str, checks.check_activation_name]
ImageShape = Annotated[tuple[int, int, int], checks.check_image_shape]


def OneOf(*choices) -> Any:
    """The type of an argument that must be one of `choices`."""
    return Annotated[Literal[choices], lambda name, value: checks.check_choice(name, value, choices)]


def AtLeast(minimum: int) -> Any:
    """The type of an integer of at least `minimum`."""
    return Annotated[int, lambda name, value: checks.check_size(name, value, minimum)]


def NumberIn(minimum: float, maximum: float = math.inf) -> Any:
    """The type of a finite number from `minimum` to `maximum`."""
    return Annotated[float, lambda name, value: checks.check_number(name, value, minimum, maximum)]


def FromKeras(get: Callable) -> Any:
    """The type of an argument that `get` of Keras, such as `keras.activations.get`, finds by name, config or object."""
    return Annotated[str | dict | Callable | None, lambda name, value: _from_keras(get, name, value)]


def _from_keras(get, name, value):
    try:
        return get(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r} is not known to Keras: {error}") from error


Activation = FromKeras(keras.activations.get)
Regularizer = FromKeras(keras.regularizers.get)


def SizesAtLeast(minimum: int = 1, allow_empty: bool = False) -> Any:
    """The type of a sequence of integers of at least `minimum`, which may have none with `allow_empty`."""
    return Annotated[tuple[int, ...], lambda name, values: checks.check_sizes(name, values, minimum, allow_empty)]


def ImageShapeAtLeast(min_side: int) -> Any:
    """The type of `(height, width, channels)` with sides of at least `min_side`."""
    return Annotated[tuple[int, int, int], lambda name, value: checks.check_image_shape(name, value, min_side)]


# Arguments of Keras's own constructors.
_KERAS_LAYER = ("name", "trainable", "dtype", "activity_regularizer", "autocast")
_KERAS_MODEL = ("name", "trainable", "dtype")


def arguments(init: Callable | None = None, *, like=(), hidden: tuple[str, ...] = ()) -> Callable:
    """Decorates a constructor: checks each argument before it runs, and stores each under its own name after it.

    An attribute that the constructor sets itself is not overwritten, nor is a property of the class. So the attribute
    can have another form than the argument. `name`, `trainable` and `dtype` belong to Keras.

    If the constructor has an argument `dtype`, it is the dtype policy of every layer made in the constructor without a
    policy of its own.

    Args:
        like: class, or a tuple of them. The constructor takes their arguments too, first and in their order, and gets
            them in its `**kwargs`, defaults included. `inspect.signature` and `help` show all of them. Only the
            arguments that the constructor names itself are stored.
        hidden: names of keywords that the constructor takes although no signature shows them.

    Raises:
        TypeError: by the decorated constructor, for a keyword that neither it nor the constructors of its base classes
            take. The message names the nearest one.

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

    A layer that takes all arguments of Keras's own:

    >>> class Wide(keras.layers.Dropout):
    ...     @arguments(like=keras.layers.Dropout)
    ...     def __init__(self, width: Size = 2, **kwargs):
    ...         super().__init__(**kwargs)
    >>> list(inspect.signature(Wide).parameters)
    ['rate', 'noise_shape', 'seed', 'width', 'kwargs']
    """
    if init is None:
        return functools.partial(arguments, like=like, hidden=hidden)
    own_signature = inspect.signature(init, eval_str=True)  # `from __future__ import annotations` makes them strings
    own = own_signature.parameters
    signature = _merged(own, like if isinstance(like, tuple) else (like,)) if like else own_signature
    checkers = {name: _checks(parameter.annotation) for name, parameter in signature.parameters.items()}
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    @functools.wraps(init)
    def wrapper(self, *args, **kwargs):
        check_keywords(self, wrapper, kwargs, hidden)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            for check in checkers[name]:
                bound.arguments[name] = value = check(name, value)
        with _dtype_policy(bound.arguments.get("dtype")):
            if like:
                named = {name: value for name, value in bound.arguments.items() if name not in ("self", rest)}
                init(self, **named, **bound.arguments[rest])
            else:
                init(*bound.args, **bound.kwargs)
        stored = vars(self).setdefault("_stored_arguments", {})  # past Keras, which would track a dict
        for name, value in bound.arguments.items():
            if name in own and name not in ("self", "dtype", rest) and not _is_set(self, name):
                setattr(self, name, value)
                stored[name] = wrapper
        if type(self).__init__ is wrapper:
            vars(self)["_given_arguments"] = (bound.args[1:], bound.kwargs)

    # Keras reads the signature by `inspect.getfullargspec`, which does not follow `__wrapped__`.
    wrapper.__signature__ = _without_validators(signature)
    wrapper.validated_signature = signature
    return wrapper


def config_arguments(instance) -> dict[str, Any]:
    """The arguments that the config of `instance` holds, besides Keras's own.

    They are the parameters of the constructor of its class, and the keywords that it passes on by `**kwargs`. The value
    is that of the attribute of the same name, which the decorator sets. It is the value that was given, if there is no
    such attribute, or if it is the argument of a base class: that may have another value.

    Raises:
        TypeError: if the constructor took positional arguments by `*args`, whose names are not known.
    """
    init = type(instance).__init__
    args, kwargs = vars(instance)["_given_arguments"]
    bound = inspect.signature(init).bind(instance, *args, **kwargs)
    bound.apply_defaults()
    stored = vars(instance).get("_stored_arguments", {})
    values, handed_on = {}, {}
    for parameter in bound.signature.parameters.values():
        value = bound.arguments[parameter.name]
        if parameter.kind is parameter.VAR_KEYWORD:
            handed_on = value
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            values[parameter.name] = value
        elif value:
            raise TypeError(
                f"{type(instance).__name__}() got *{parameter.name}={value!r}. A config needs the names of arguments: "
                "give them by keyword, or name them in the constructor's signature."
            )
    own = {
        name: getattr(instance, name, value) if stored.get(name, init) is init else value
        for name, value in values.items()
    }
    handed_on = {name: getattr(instance, name, value) for name, value in handed_on.items()}
    return {name: value for name, value in (own | handed_on).items() if name not in ("self", *_KERAS_MODEL)}


def renamed_arguments(cls) -> dict[str, str]:
    """The old names of arguments of `cls` and its base classes: {old name: new name}."""
    classes = reversed(cls.__mro__)
    return {old: new for base in classes for old, new in vars(base).get("renamed_arguments", {}).items()}


def _merged(own, classes):
    """The signature of a constructor with the parameters `own` and those of `classes`, theirs first."""
    theirs = {}
    for cls in classes:
        signature = getattr(cls.__init__, "validated_signature", None) or inspect.signature(cls)
        theirs |= {name: p for name, p in signature.parameters.items() if name not in theirs}
    first, *others = own.values()  # self
    parameters = [p for p in theirs.values() if p.name not in own and p.kind is p.POSITIONAL_OR_KEYWORD]
    return inspect.Signature([first, *parameters, *others])


def _without_validators(signature):
    parameters = [p.replace(annotation=_plain(p.annotation)) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters)


def _plain(annotation):
    """The type in an annotation, without validators."""
    if _is_union(annotation):
        return functools.reduce(operator.or_, map(_plain, typing.get_args(annotation)))
    return _plain(annotation.__origin__) if typing.get_origin(annotation) is Annotated else annotation


def _is_union(annotation):
    return isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union


def _checks(annotation):
    """The validators in an annotation. Those of a union with None let None pass."""
    if _is_union(annotation):
        options = typing.get_args(annotation)
        return [_unless_none(check) for option in options for check in _checks(option)]
    return list(getattr(annotation, "__metadata__", ()))


def _unless_none(check):
    return lambda name, value: None if value is None else check(name, value)


@contextlib.contextmanager
def _dtype_policy(dtype):
    """Makes `dtype` the policy of the layers that are made in the block without one. None changes nothing."""
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


def check_keywords(instance, init, keywords, hidden=()):
    """Raises a TypeError for a keyword that neither the constructor `init` nor those of the base classes take.

    Args:
        instance: a layer, model or other object that is being made.
        init: a constructor of its class or of a base class.
        keywords: names of the keyword arguments that `init` got.
        hidden: further names that it takes.
    """
    classes = type(instance).__mro__
    owner = next((i for i, cls in enumerate(classes) if vars(cls).get("__init__") is init), 0)
    known = _keywords(classes[owner:])
    if isinstance(instance, keras.Layer):
        known += _KERAS_MODEL if isinstance(instance, keras.Model) else _KERAS_LAYER
    unknown = [name for name in keywords if name not in (*known, *hidden)]
    if not unknown:
        return
    name = unknown[0]
    renamed = renamed_arguments(type(instance))
    takes = list(dict.fromkeys([*(_keywords(classes) if owner else ()), *known]))
    nearest = difflib.get_close_matches(name, takes, n=1)
    if name in renamed:
        hint = f"It is called {renamed[name]!r} now."
    else:
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It takes: {', '.join(takes)}."
    raise TypeError(f"{type(instance).__name__}() got an unexpected keyword argument {name!r}. {hint}")


def _keywords(classes):
    """Names that the constructors of `classes` take, each handing the rest on to the next, up to those of Keras."""
    names = {}
    for cls in classes:
        if issubclass(keras.layers.Layer, cls):
            break
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        names |= dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    # Nobody gives the tensors that a constructor makes.
    return [name for name in names if name not in ("self", "inputs", "outputs")]
