"""What a case is: a tiny model or layer with every argument set, data for it, and how exact it must be."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

# How far an artifact may be from the Keras model, as the largest error over the largest magnitude of the output. For
# detections in a quantized file: the share by which two sets, the boxes of partners and their masks do not agree.
# float32 and ONNX are held at 1e-4 by `keras_dl.export` itself. Measured values stand in each case where they differ.
TOLERANCES = {"float16": 5e-3, "dynamic_int8": 5e-2, "int8": 1e-1}


class Case(NamedTuple):
    """What the battery needs to know of an architecture.

    Attributes:
        name: of the case, as pytest shows it.
        architecture: one of the 31; also the name of its test and of its recipe.
        model: the class, of a model or of a layer.
        arguments: every argument of the constructor, each with a value other than its default.
        inputs: makes `n` examples from a random generator: an array, or a dict of them.
        targets: makes their targets.
        compile: arguments of `model.compile` but for the optimizer.
        bad_arguments: (overrides, name) pairs; each must raise a ValueError that names the argument and its value.
        forced: names of arguments that can only be given their default here, each with the reason.
        called: makes `n` inputs of a call, where `fit` takes something else, as that of a generator does; else None.
        padded: changes only the inputs at masked positions; None where the model takes no mask.
        served: for signatures that do not take the model's inputs: by name, what makes a dict of `n` rows of theirs.
        integer_signatures: names of those that int8 files hold; None for all, () for no int8 file. A loop cannot be
            calibrated.
        whole_signatures: names of those that hold all others as parts: float16 and dynamic_int8 files have these alone.
            None for all.
        around: for a layer: makes the `keras.Model` that the battery trains and exports, from a new layer.
        prepare: called with the new model and the inputs before use, to adapt statistics, say.
        tolerances: overrides of TOLERANCES.
        agreements: by quantization, the share of tokens to be equal, where one that differs is no small error.
        skips: checks that do not apply, each with the reason.
        slow_checks: checks that `make test-all` runs and `make test` does not, each with the reason.
        calibration: rows of which three quarters calibrate a file and the others prove it. About one row in 25 goes
            beyond the range of 48, which costs an int8 file the more, the less its outputs vary.
        slow: bool. A further case of a class that another one covers: `make test-all` runs it, `make test` does not.
    """

    name: str
    architecture: str
    model: type
    arguments: Mapping[str, Any]
    inputs: Callable
    targets: Callable
    compile: Mapping[str, Any]
    bad_arguments: tuple = ()
    forced: Mapping[str, str] = {}
    called: Callable | None = None
    padded: Callable | None = None
    served: Mapping[str, Callable] = {}
    integer_signatures: tuple[str, ...] | None = None
    whole_signatures: tuple[str, ...] | None = None
    around: Callable | None = None
    prepare: Callable = lambda model, inputs: None
    tolerances: Mapping[str, float] = {}
    agreements: Mapping[str, float] = {}
    skips: Mapping[str, str] = {}
    slow_checks: Mapping[str, str] = {}
    calibration: int = 64
    slow: bool = False

    def build(self, **overrides):
        """A new object of the class; `overrides` win over the case's arguments."""
        return self.model(**(dict(self.arguments) | overrides))

    def create(self, **overrides):
        """A new model: the object itself, or the one around it."""
        model = self.build(**overrides)
        if self.around is not None:
            model = self.around(model)
        self.prepare(model, self.inputs(np.random.default_rng(0), 16))
        return model

    def policy(self, model):
        """The dtype policy of the object in a model that `create` made."""
        return model.dtype_policy if self.around is None else self._inside(model).dtype_policy

    def _inside(self, model):
        (layer,) = (layer for layer in model.layers if type(layer) is self.model)
        return layer

    def data(self, n, seed=0):
        """`n` examples and their targets."""
        rng = np.random.default_rng(seed)
        return self.inputs(rng, n), self.targets(rng, n)

    def call_inputs(self, n, seed=0):
        """`n` inputs of a call."""
        return self.data(n, seed)[0] if self.called is None else self.called(np.random.default_rng(seed), n)

    def tolerance(self, quantization):
        return self.tolerances.get(quantization, TOLERANCES[quantization])


def images(height, width, channels):
    """Raw pixels with some structure: a bright patch on a noisy ground."""

    def make(rng, n):
        batch = rng.integers(0, 64, (n, height, width, channels))
        for image in batch:
            y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
            image[y : y + height // 2, x : x + width // 2] += rng.integers(64, 192)
        return batch.astype("float32")

    return make


def labels(num_classes):
    return lambda rng, n: rng.integers(0, num_classes, n)


def classification(**options):
    """What `model.compile` needs for logits of classes."""
    return dict(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)


def columns(num_columns):
    """Raw columns of different scales, though not so different that one int8 scale could not serve them all."""

    def make(rng, n):
        return (rng.normal(size=(n, num_columns)) * (10.0 + 5.0 * np.arange(num_columns)) + 5.0).astype("float32")

    return make


def adapt_columns(model, features):
    model.adapt(features)


def adapt_columns_and_values(model, features):
    model.adapt(features, 40.0 + 9.0 * np.random.default_rng(0).normal(size=(len(features), model.num_outputs)))


def no_targets(rng, n):
    """For a model that learns from its inputs alone."""


def normal(name, *shape):
    """Inputs of a signature that takes standard normal noise called `name`."""
    return lambda rng, n: {name: rng.standard_normal((n, *shape)).astype("float32")}


NO_MASK = {"masked_positions_change_nothing": "the model takes no mask"}

WHOLE = ("detect",)  # of `raw` and `postprocess`

ONE_LAYER = {"frozen_layers_stay_frozen": "one layer holds all weights: none is left to train beside a frozen one"}


def covered_by(case, but=None):
    """Slow checks of a class whose layers are those of another case, which `make test` checks in the same way.

    `but` says which layers are not, and what checks them.
    """
    names = ("compiles_under_xla", "trains_in_mixed_precision", "exports_to_onnx")
    return dict.fromkeys(names, f"the case {case} has the same layers" + (f" but for {but}" if but else ""))


DROPOUT_UNDER_XLA = {"trains_equally_under_xla": "dropout draws other numbers under XLA"}
