"""Checkpoints: all that decides how a training goes on, in one file that is whole or not there.

`keras.callbacks.BackupAndRestore` keeps weights and optimizers, but not the state of random layers: a net with dropout
that resumes from it goes another way. This keeps both, and writes one file, renamed into place, so that no moment of a
kill leaves half of it.
"""

import json
from typing import NamedTuple

import keras
import numpy as np

from keras_dl.files import replacing


class Checkpoint(NamedTuple):
    """How far a training had come.

    Attributes:
        epochs: int. Number of epochs that are done.
        history: list of one dict of floats an epoch.
        seconds: float. Of training until here.
        kept: list of arrays: the model's weights after the epoch that early stopping would leave; None without it.
    """

    epochs: int
    history: list[dict]
    seconds: float
    kept: list | None = None


def state_variables(model):
    """Every variable that training changes: weights, states of random layers, and optimizers.

    Args:
        model: a built and compiled `keras.Model`. Every optimizer that it holds is built.

    Returns:
        list of variables, each once, in the order in which the model was made.
    """
    variables = {id(v): v for v in model.variables}
    for owner in _with_parts(model):
        for value in vars(owner).values():
            if isinstance(value, keras.optimizers.Optimizer):
                variables |= {id(v): v for v in value.variables}
    return list(variables.values())


def _with_parts(model):
    """The model and the models inside it, which may hold optimizers of their own."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _with_parts(layer)


def save(path, model, checkpoint):
    """Writes the state of `model` and `checkpoint` to one file, in place of the one before.

    Raises:
        FloatingPointError: if a weight is not finite; the file before stays.
    """
    arrays = [np.asarray(v) for v in state_variables(model)]
    if not all(np.isfinite(np.asarray(w)).all() for w in model.weights):
        raise FloatingPointError("weights are not finite")
    arrays = {f"variable_{i:05d}": array for i, array in enumerate(arrays)}
    arrays |= {f"kept_{i:05d}": array for i, array in enumerate(checkpoint.kept or ())}
    with replacing(path) as temporary:
        np.savez(temporary, checkpoint=json.dumps(checkpoint._replace(kept=None)._asdict()), **arrays)


def restore(path, model):
    """Puts the saved state back into `model`, in place.

    Returns:
        `Checkpoint`, or None where there is no file: the training has not finished an epoch.

    Raises:
        ValueError: if the file is of another model.
    """
    if not path.exists():
        return None
    variables = state_variables(model)
    with np.load(path) as file:
        saved, kept = ([file[name] for name in sorted(file.files) if name.startswith(x)] for x in ("variable", "kept"))
        checkpoint = Checkpoint(**json.loads(str(file["checkpoint"])))._replace(kept=kept or None)
    if [tuple(v.shape) for v in variables] != [a.shape for a in saved]:
        raise ValueError(
            f"{path} holds another model: the recipe has changed since that run began. "
            "Begin anew with --overwrite, or in another --output."
        )
    for variable, array in zip(variables, saved, strict=True):
        variable.assign(array)
    return checkpoint
