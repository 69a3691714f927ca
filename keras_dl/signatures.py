"""Signatures: the entry points of a model on a device, and the default one of any built Keras model."""

import inspect
import keyword
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras


class Signature(NamedTuple):
    """One entry point of a deployed model.

    A signature that processes a stream, `step`, takes each state by its name. It returns the new state with the prefix
    `next_` (see `next_states`), for the input of the next call.

    Attributes:
        function: called as `function(**inputs)`, one tensor for each of `inputs`;
            returns a dict of named tensors.
        inputs: dict of `keras.KerasTensor` by argument name. Each has a static
            shape, the batch included, and the dtype that a device hands over.
        model_names: dict of two dicts, `"inputs"` and `"outputs"`: the names that tensors have in the model, by their
            names here, where these differ. Those of outputs are known after the first call of the function.
        detections: bool. Whether outputs are the fields of `keras_dl.ops.Detections`. Those of an image are a set: near
            scores may change their order. A proof then matches them by class and overlap.
    """

    function: Callable
    inputs: dict[str, keras.KerasTensor]
    model_names: Mapping[str, Mapping[str, str]] = {"inputs": {}, "outputs": {}}
    detections: bool = False


def next_states(states: dict) -> dict:
    """The states that a signature `step` returns, by the names that they have there.

    Example:

    >>> next_states({"hidden_0": 0.5})
    {'next_hidden_0': 0.5}
    """
    return {f"next_{name}": state for name, state in states.items()}


def default_signatures(model, batch_size: int = 1, shapes: Mapping | None = None) -> dict[str, Signature]:
    """The signature of any built Keras model: one entry point `serve`, which is `model.call` in inference.

    Args:
        model: a built `keras.Model`: functional, sequential, or one that was called once on a batch.
        batch_size: int. The static batch of every input.
        shapes: dict of shapes by argument of `call`, for a model without `inputs`: Keras keeps only the first one's.

    Returns:
        dict with one `Signature`, `"serve"`. Its inputs carry the names of `model.inputs`, changed where a Python
        function cannot have such a parameter: `a b` becomes `a_b`, `class` becomes `class_`. Its outputs carry
        those of `model.output_names`, or the keys of the dict that the model returns. Nested inputs and outputs
        carry their paths: `boxes` of `first` becomes `first_boxes`. No two get the same name.

        A model without `inputs` has those of the call that built it: their shapes, by the names of the arguments of
        `call`. Keras does not keep their dtypes: they are float32.

    Raises:
        ValueError: if the model has no known inputs.
    """
    if not getattr(model, "inputs", None):
        return _signatures_of_a_call(model, batch_size, shapes or {})
    # A Sequential knows `inputs` before its first call, `input` only after.
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    paths = _paths(structure)
    given = ["/".join(path) for path in paths] if _nested(paths) else [x.name for x in model.inputs]
    names = _distinct([_parameter(name) for name in given], given)
    inputs = {
        name: keras.KerasTensor((batch_size, *x.shape[1:]), x.dtype, name=name)
        for name, x in zip(names, model.inputs, strict=True)
    }

    def call(tensors):
        return model(keras.tree.pack_sequence_as(structure, tensors), training=False)

    return _serving(call, inputs, given, getattr(model, "output_names", None))


def _signatures_of_a_call(model, batch_size, given_shapes):
    """The signature of a model that is not built from `keras.Input`, by the shapes of the call that built it."""
    parameters = {
        name: x
        for name, x in inspect.signature(model.call).parameters.items()
        if name != "training" and x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)
    }
    first = next(iter(parameters), None)
    shape = (model.get_build_config() or {}).get("input_shape")
    arguments = {} if first is None or shape is None else {first: shape}
    arguments = {name: arguments.get(name, given_shapes.get(name)) for name in parameters}
    missing = [
        name for name, x in arguments.items() if x is None and parameters[name].default is inspect.Parameter.empty
    ]
    if arguments and arguments[first] is not None and missing:
        raise ValueError(
            f"model={model.name!r} takes {', '.join(parameters)}, and Keras keeps the shape of {first} alone. Give "
            f"input_shapes={{{missing[0]!r}: ...}}, the batch included, and so on for the others."
        )
    arguments = {name: x for name, x in arguments.items() if x is not None}
    places = {(name, *path): shape for name, x in arguments.items() for path, shape in _shapes(x)}
    if not places or first not in arguments:
        raise ValueError(
            f"model={model.name!r} has no known inputs. Call it once on a batch, build it from keras.Input, or give it "
            "a method `serving_signatures(batch_size)` that returns a dict of `keras_dl.Signature`."
        )
    # The name of the only argument says nothing of a dict in it.
    short = len(arguments) == 1 and all(len(place) > 1 for place in places)
    given = ["/".join(map(str, place[1:] if short else place)) for place in places]
    names = _distinct([_parameter(name) for name in given], given)
    inputs = {
        name: keras.KerasTensor((batch_size, *shape[1:]), name=name)
        for name, shape in zip(names, places.values(), strict=True)
    }

    def call(tensors):
        values = iter(tensors)
        filled = {name: _filled(x, values) for name, x in arguments.items()}
        return model(filled.pop(first), **filled, training=False)

    return _serving(call, inputs, given, None)


def _shapes(structure, path=()):
    """The paths and shapes of the leaves of a structure of shapes."""
    if isinstance(structure, dict):
        items = structure.items()
    elif all(size is None or isinstance(size, int) for size in structure):
        return [(path, tuple(structure))]
    else:
        items = enumerate(structure)
    return [leaf for key, x in items for leaf in _shapes(x, (*path, key))]


def _filled(structure, values):
    """A structure of shapes with the next of `values` in the place of each shape."""
    if isinstance(structure, dict):
        return {key: _filled(x, values) for key, x in structure.items()}
    if all(size is None or isinstance(size, int) for size in structure):
        return next(values)
    return type(structure)(_filled(x, values) for x in structure)


def _serving(call, inputs, given, output_names):
    """The signature `serve` of `call`, a function of a list of tensors.

    Args:
        inputs: dict of `keras.KerasTensor`.
        given: list of str: the names that the inputs have in the model.
        output_names: list of str, or None.
    """
    model_names = {"inputs": _differing(inputs, given), "outputs": {}}

    def serve(**tensors):
        outputs = call([tensors[name] for name in inputs])
        paths = _paths(outputs)
        if _nested(paths):
            # An item of a list has a number for its name.
            joined = ["_".join(path) if path[0].isidentifier() else f"output_{'_'.join(path)}" for path in paths]
            given = ["/".join(path) for path in paths]
            names = _distinct(joined, given)
            model_names["outputs"].update(_differing(names, given))
        elif isinstance(outputs, dict):
            return outputs
        else:
            # One layer can give several outputs, and then lends them all its name.
            unique = output_names is not None and len(set(output_names)) == len(paths)
            names = output_names if unique else [f"output_{i}" for i in range(len(paths))]
        return dict(zip(names, keras.tree.flatten(outputs), strict=True))

    return {"serve": Signature(serve, inputs, model_names)}


def _paths(structure):
    """The path of each leaf, a tuple of str, in the order in which `keras.tree.flatten` gives them."""
    return [tuple(str(key) for key in path) for path, _ in keras.tree.flatten_with_path(structure)]


def _nested(paths):
    return any(len(path) > 1 for path in paths)


def _parameter(name):
    """A name that a parameter of a Python function and a graph's input can have."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", name)
    if not name[:1].isalpha():
        name = f"input_{name.lstrip('_')}"
    return f"{name}_" if keyword.iskeyword(name) or name == "self" else name


def _distinct(names, given):
    """The names, with numbers after those that occur again. A name that was not changed before keeps its form."""
    kept = {name for name, other in zip(names, given, strict=True) if name == other}
    taken, result = set(), []
    for name, other in zip(names, given, strict=True):
        number, distinct = 0, name
        while distinct in taken or ((number or name != other) and distinct in kept):
            number += 1
            distinct = f"{name}_{number}"
        taken.add(distinct)
        result.append(distinct)
    return result


def _differing(names, given):
    return {name: other for name, other in zip(names, given, strict=True) if name != other}
