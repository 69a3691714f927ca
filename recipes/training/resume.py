"""Checkpoints: all that decides how a training continues, in one file that is complete or absent.

`keras.callbacks.BackupAndRestore` saves weights and optimizers, but not the state of random layers: a model with
dropout that resumes from it trains differently. This saves both. It writes one file under a temporary name and renames
it, so that a kill at any moment leaves a complete file.
"""

import json
from typing import NamedTuple

import keras
import numpy as np

from keras_dl.files import FileError, parse_json, read_arrays, reading, replacing
from keras_dl.replicas import local_value

_WHAT = "a whole checkpoint"
_CURE = "Start the run again with --overwrite."


class Checkpoint(NamedTuple):
    """The progress of a training.

    Attributes:
        epochs: int. Number of finished epochs.
        history: list of dicts of floats, one per epoch.
        seconds: float. Duration of the training so far.
        kept: list of arrays: the weights that early stopping would keep. None without early stopping.
        snapshots: dict of arrays by epoch: what `Recipe.snapshot` kept. Empty without one.
    """

    epochs: int
    history: list[dict]
    seconds: float
    kept: list | None = None
    snapshots: dict[int, np.ndarray] = {}


def state_variables(model):
    """Every variable that training changes: weights, states of random layers, and optimizers.

    Args:
        model: a built and compiled `keras.Model`, with all of its optimizers built.

    Returns:
        list of variables, each once, in the order in which they were made.
    """
    variables = {id(v): v for v in model.variables}
    for owner in _with_parts(model):
        for value in vars(owner).values():
            if isinstance(value, keras.optimizers.Optimizer):
                variables |= {id(v): v for v in value.variables}
    return list(variables.values())


def _with_parts(model):
    """The model and the models inside it, which may have their own optimizers."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _with_parts(layer)


def save(path, model, checkpoint):
    """Writes the state of `model` and `checkpoint` to one file, which replaces the previous one.

    Raises:
        FloatingPointError: if a weight is not finite. The previous file is kept.
    """
    arrays = [local_value(v) for v in state_variables(model)]
    if not all(np.isfinite(np.asarray(w)).all() for w in model.weights):
        raise FloatingPointError("weights are not finite")
    arrays = {f"variable_{i:05d}": array for i, array in enumerate(arrays)}
    arrays |= {f"kept_{i:05d}": array for i, array in enumerate(checkpoint.kept or ())}
    arrays |= {f"snapshot_{epoch:07d}": array for epoch, array in checkpoint.snapshots.items()}
    progress = {name: getattr(checkpoint, name) for name in ("epochs", "history", "seconds")}
    with replacing(path) as temporary:
        np.savez(temporary, checkpoint=json.dumps(progress), **arrays)


def restore(path, model):
    """Restores the saved state of `model` in place.

    Returns:
        `Checkpoint`, or None if there is no file, because no epoch was finished.

    Raises:
        FileError: if the file is damaged.
        ValueError: if the file is from another model.
    """
    if not path.exists():
        return None
    variables = state_variables(model)
    arrays = read_arrays(path, _WHAT, _CURE)
    saved, kept = ([arrays[name] for name in sorted(arrays) if name.startswith(x)] for x in ("variable", "kept"))
    if [tuple(v.shape) for v in variables] != [a.shape for a in saved]:
        raise ValueError(
            f"{path} holds another model: the recipe has changed since that run began. "
            "Start again with --overwrite, or choose another --output."
        )
    kinds = [local_value(v).dtype for v in variables]
    if kinds != [a.dtype for a in saved] or (kept and [a.shape for a in kept] != [w.shape for w in model.weights]):
        raise FileError(path, f"is not {_WHAT}: its arrays have other dtypes or shapes than the model. {_CURE}")
    snapshots = {int(name.split("_")[1]): array for name, array in arrays.items() if name.startswith("snapshot_")}
    checkpoint = _read_progress(path, arrays)._replace(kept=kept or None, snapshots=snapshots)
    for variable, array in zip(variables, saved, strict=True):
        variable.assign(array)
    return checkpoint


def _read_progress(path, arrays):
    """The `Checkpoint` in the arrays of a file, without `kept` and `snapshots`."""
    with reading(path, _WHAT, _CURE):
        types = {"epochs": int, "history": list, "seconds": int | float}
        document = parse_json(str(arrays["checkpoint"]), path, _WHAT, _CURE, types=types)
        epochs, history, seconds = (document[name] for name in types)
        if epochs != len(history) or not all(isinstance(row, dict) for row in history):
            raise ValueError("its epochs and its history do not fit each other")
        return Checkpoint(epochs, history, float(seconds))
