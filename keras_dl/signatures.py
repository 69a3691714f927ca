"""What a model serves on a device: its signatures, and the one that any built Keras model has."""

import re
from collections.abc import Callable
from typing import NamedTuple

import keras


class Signature(NamedTuple):
    """One entry point of a deployed model.

    One that goes through a stream, `step`, takes each state under a name of its own, and returns it as `next_` and that
    name (`next_states`): what comes back is the input of the next call.

    Attributes:
        function: called as `function(**inputs)`, one tensor for each of `inputs`;
            returns a dict of named tensors.
        inputs: dict of `keras.KerasTensor` by argument name. Each has a static
            shape, the batch included, and the dtype that a device hands over.
    """

    function: Callable
    inputs: dict[str, keras.KerasTensor]


def next_states(states):
    """The states that a signature `step` returns, by the names that they have there.

    Example:

    >>> next_states({"hidden_1": 0.5})
    {'next_hidden_1': 0.5}
    """
    return {f"next_{name}": state for name, state in states.items()}


def default_signatures(model, batch_size=1):
    """What any built Keras model serves: one entry point `serve`, which is `model.call` in inference.

    Args:
        model: a built `keras.Model` with known input shapes (functional, sequential,
            or any other whose `inputs` are set).
        batch_size: int. The static batch of every input.

    Returns:
        dict with one `Signature`, `"serve"`. Its inputs carry the names of `model.inputs`, with
        `_` for what a Python variable's name cannot hold; its outputs those of `model.output_names`,
        or the keys of the dict that the model returns.

    Raises:
        ValueError: if the model has no known inputs.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"model={model.name!r} has no known inputs. Call it once on a batch if it is not built; give a subclassed "
            "model a method `serving_signatures(batch_size)` that returns a dict of `keras_dl.Signature`."
        )
    names = [re.sub(r"\W|^(?=\d)", "_", x.name) for x in model.inputs]
    inputs = {
        name: keras.KerasTensor((batch_size, *x.shape[1:]), x.dtype, name=name)
        for name, x in zip(names, model.inputs, strict=True)
    }
    output_names = getattr(model, "output_names", None)
    # A Sequential knows `inputs` before its first call, `input` only after.
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def serve(**tensors):
        outputs = model(keras.tree.pack_sequence_as(structure, [tensors[name] for name in inputs]), training=False)
        if isinstance(outputs, dict):
            return outputs
        outputs = keras.tree.flatten(outputs)
        # One layer can give several outputs, and then lends them all its name.
        unique = output_names is not None and len(set(output_names)) == len(outputs)
        names = output_names if unique else [f"output_{i}" for i in range(len(outputs))]
        return dict(zip(names, outputs, strict=True))

    return {"serve": Signature(serve, inputs)}
