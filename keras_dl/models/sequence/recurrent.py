"""A recurrent network that reads a sequence: layers of one cell on top of each other, and a head.

    h^0_t = (x_t - mean) / std
    h^l_t = cell^l(dropout(h^{l-1}_t), h^l_{t-1})                     l = 1 .. n, t = 1 .. T
    y_t   = W h^n_t + b              `pooling=None`: an answer at every step
    y     = W h^n_T + b              `pooling="last"`
    y     = W mean_t(h^n_t) + b      `pooling="mean"`

Dropout is between the layers, not in time (Zaremba, Sutskever, Vinyals 2014, arXiv:1409.2329, fig. 2). A bidirectional
layer runs a second cell from the end, and both outputs side by side go on; its last output is that of the forward cell
at T beside that of the backward cell at 1.

Sequences of different lengths are padded behind their end, and come with a mask. A net in one direction needs no mask
inside: what comes after a step does not touch it, so that it is enough to read the output at each row's own last step.
That lets LiteRT fuse the LSTM for padded sequences too. Bidirectional layers get the mask.

The cells are in `keras_dl.layers`: `rnn`, `lstm` and `gru` have their equations and references.
"""

import keras
import tensorflow as tf
from keras import KerasTensor, layers, ops

from keras_dl.base import FunctionalModel, Layer, Signature, next_states
from keras_dl.checks import check_choice, check_rate, check_shapes, check_size, check_sizes
from keras_dl.compat import is_eager
from keras_dl.layers.gru import GRU
from keras_dl.layers.lstm import LSTM
from keras_dl.layers.recurrent import is_unrolled, unrolled
from keras_dl.layers.rnn import SimpleRNN
from keras_dl.layers.standardization import Standardization

CELLS = {"rnn": SimpleRNN, "irnn": SimpleRNN.irnn, "lstm": LSTM, "gru": GRU}
STATES = {"rnn": ("hidden",), "irnn": ("hidden",), "lstm": ("hidden", "memory"), "gru": ("hidden",)}
POOLINGS = ("last", "mean", None)
TASKS = ("classification", "regression")


def zero_states(cell, hidden_dims, batch_size=1):
    """The states of layers before a sequence: dict of zeros, float32 `(batch_size, units)`.

    They are `hidden_1`, of an LSTM also `memory_1`, and so on.
    """
    return {name: ops.zeros(shape) for name, shape in state_shapes(cell, hidden_dims, batch_size).items()}


def state_shapes(cell, hidden_dims, batch_size):
    """The shapes of `zero_states`, by name."""
    return {f"{name}_{i}": (batch_size, units) for i, units in enumerate(hidden_dims, start=1) for name in STATES[cell]}


def step_through(stack, cell, hidden, states):
    """One step of a sequence, in inference.

    Args:
        stack: list of the recurrent layers, in order.
        cell: str. Which of `CELLS` they are.
        hidden: float, `(batch, features)`.
        states: dict, as of `zero_states`.

    Returns:
        The last layer's output, `(batch, units)` in its compute dtype, and the states after the step.
    """
    after = {}
    for i, layer in enumerate(stack, start=1):
        names = [f"{name}_{i}" for name in STATES[cell]]
        before = [ops.cast(states[name], layer.compute_dtype) for name in names]
        hidden, new = layer.cell(ops.cast(hidden, layer.compute_dtype), before)
        after |= {name: ops.cast(state, "float32") for name, state in zip(names, new, strict=True)}
    return hidden, after


@keras.saving.register_keras_serializable(package="keras_dl")
class Pool(Layer):
    """The output at the last step of each row, or their mean over its steps.

    Args:
        pooling: "last" or "mean".

    Call arguments:
        hidden: float, `(batch, time, width)`.
        keep: float, `(batch, time)`, 1 up to the row's last step and 0 behind it; None where all rows are whole.

    Returns:
        float, `(batch, width)`. Zeros of a row without any step.
    """

    def __init__(self, pooling="last", **kwargs):
        super().__init__(**kwargs)
        self.pooling = pooling
        self.supports_masking = True

    def compute_mask(self, inputs, previous_mask=None):
        """None: of time, nothing is left."""

    def call(self, hidden, keep=None):
        if keep is None:
            return hidden[:, -1] if self.pooling == "last" else ops.mean(hidden, axis=1)
        weights = ops.cast(keep, hidden.dtype)
        if self.pooling == "last":
            after = ops.pad(weights[:, 1:], ((0, 0), (0, 1)))
            weights = weights - after
        else:
            weights = weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), hidden), 1)

    def compute_output_shape(self, hidden_shape, keep_shape=None):
        return (hidden_shape[0], hidden_shape[2])


@keras.saving.register_keras_serializable(package="keras_dl")
class CleanSequence(Layer):
    """Sets what padding holds to 0. Called eagerly, it checks that the mask has nothing but padding behind each row.

    On a device it multiplies by the mask, for NPUs do not select: what padding holds must be finite there.
    """

    def call(self, sequence, keep):
        if is_eager(keep) and bool(tf.reduce_any(keep[:, :-1] < keep[:, 1:])):
            raise ValueError("mask must be True up to the last step of each row and False behind it.")
        keep = ops.expand_dims(keep, -1)
        return sequence * keep if is_unrolled() else ops.where(keep > 0, sequence, 0)

    def compute_output_shape(self, sequence_shape, keep_shape):
        return sequence_shape


@keras.saving.register_keras_serializable(package="keras_dl")
class RecurrentNetwork(FunctionalModel):
    """Classifies sequences or steps, or predicts values of them, with an RNN, LSTM or GRU.

    Args:
        num_features: int. Features of a step.
        num_outputs: int. Classes, or values.
        cell: "rnn", "irnn" (relu and identity, Le et al.), "lstm" or "gru".
        hidden_dims: sequence of int. Units of each layer.
        bidirectional: bool.
        dropout_rate: float in [0, 1). Of what goes from layer to layer and to the head; never in time.
        pooling: "last", "mean", or None for an output at every step.
        task: "classification" or "regression".
        masked: bool. Whether sequences are padded and come with a mask.
        standardize: bool. Whether the model standardises its features; call `adapt` before `fit`.
        bptt_steps: int, or None. Truncates the gradient in time, see `keras_dl.SimpleRNN`.
        num_steps: int. Steps, padding included, of the sequence that a device takes. Training takes any number.

    Call arguments:
        inputs: float `(batch, time, num_features)`, raw features, at least one step; with `masked`, a dict of
            `features`, that, and `mask`: bool `(batch, time)`, True up to the row's last step and False behind it.

    Returns:
        float32, `(batch, num_outputs)`, or `(batch, time, num_outputs)` without pooling: logits or values. Of padding
        they mean nothing; give it the sample weight 0. A row without any step gets what the head makes of zeros.

    Raises:
        ValueError: if an argument is out of its range, a sequence has no step, or, called eagerly, a mask has holes.

    Example:

    >>> model = RecurrentNetwork(num_features=12, num_outputs=9, cell="gru", hidden_dims=(16,))
    >>> model(keras.ops.zeros((2, 20, 12))).shape
    TensorShape([2, 9])
    >>> sorted(model.serving_signatures())
    ['sequence', 'step']
    """

    def __init__(
        self,
        num_features,
        num_outputs,
        cell="lstm",
        hidden_dims=(64,),
        bidirectional=False,
        dropout_rate=0.0,
        pooling="last",
        task="classification",
        masked=False,
        standardize=True,
        bptt_steps=None,
        num_steps=32,
        dtype=None,
        **kwargs,
    ):
        num_features = check_size("num_features", num_features)
        num_outputs = check_size("num_outputs", num_outputs)
        check_choice("cell", cell, tuple(CELLS))
        hidden_dims = check_sizes("hidden_dims", hidden_dims)
        dropout_rate = check_rate("dropout_rate", dropout_rate)
        check_choice("pooling", pooling, POOLINGS)
        check_choice("task", task, TASKS)
        bptt_steps = None if bptt_steps is None else check_size("bptt_steps", bptt_steps)
        num_steps = check_size("num_steps", num_steps)

        features = keras.Input((None, num_features), name="features")
        # Keras makes it of bool. An NPU takes numbers, and no bool.
        mask = keras.Input((None,), dtype="float32", name="mask") if masked else None
        hidden = features
        if standardize:
            hidden = Standardization(dtype="float32", name="standardize")(hidden)
        if masked:
            hidden = CleanSequence(dtype="float32", name="clean")(hidden, mask)
        for i, units in enumerate(hidden_dims, start=1):
            if dropout_rate and i > 1:
                hidden = layers.Dropout(dropout_rate, dtype=dtype, name=f"dropout_{i - 1}")(hidden)
            # In one direction, a padded row's last output is read behind the loop, at a step of its own.
            whole = i < len(hidden_dims) or pooling != "last" or (masked and not bidirectional)
            layer = CELLS[cell](units, return_sequences=whole, bptt_steps=bptt_steps, dtype=dtype, name=f"{cell}_{i}")
            if bidirectional:
                layer = layers.Bidirectional(layer, dtype=dtype, name=f"bidirectional_{i}")
            hidden = layer(hidden, mask=mask > 0) if masked and bidirectional else layer(hidden)
        if pooling and whole:
            hidden = Pool(pooling, dtype=dtype, name="pool")(hidden, mask)
        if dropout_rate:
            hidden = layers.Dropout(dropout_rate, dtype=dtype, name=f"dropout_{len(hidden_dims)}")(hidden)
        outputs = layers.Dense(num_outputs, dtype="float32", name="head")(hidden)
        inputs = {"features": features, "mask": mask} if masked else features
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)

        self.num_features = num_features
        self.num_outputs = num_outputs
        self.cell = cell
        self.hidden_dims = hidden_dims
        self.bidirectional = bidirectional
        self.dropout_rate = dropout_rate
        self.pooling = pooling
        self.task = task
        self.masked = masked
        self.standardize = standardize
        self.bptt_steps = bptt_steps
        self.num_steps = num_steps

    def adapt(self, features, mask=None):
        """Measures the mean and variance of each feature, by which the model standardises. Call it before `fit`.

        Args:
            features: array `(n, time, num_features)`.
            mask: bool array `(n, time)`, or None. Steps that are False do not count.

        Raises:
            ValueError: if the model was made with `standardize=False`, or a value is not finite.
        """
        if not self.standardize:
            raise ValueError("standardize=False: this model takes its features as they are.")
        steps = keras.ops.convert_to_numpy(features)
        steps = steps.reshape(-1, self.num_features) if mask is None else steps[keras.ops.convert_to_numpy(mask)]
        self.get_layer("standardize").adapt(steps[:, None])

    def initial_states(self, batch_size=1):
        """The states before a sequence, for the signature `step`: dict of zeros, float32 `(batch_size, units)`."""
        return zero_states(self.cell, self.hidden_dims, batch_size)

    def step(self, features, states):
        """One step of a sequence.

        Args:
            features: float, `(batch, num_features)`, raw.
            states: dict as `initial_states` gives it, or as this returned it for the step before.

        Returns:
            outputs: float32, `(batch, num_outputs)`: logits or values, as the model gives them for the sequence so far.
            states: dict.

        Raises:
            ValueError: if the model cannot go step by step: it is bidirectional, or takes the mean over all steps; or
                if features or states have other names or shapes; it says which.
        """
        if not self._streams:
            raise ValueError(f"bidirectional={self.bidirectional}, pooling={self.pooling!r}: no step without the rest.")
        features = ops.convert_to_tensor(features)
        known = f"take (batch, num_features={self.num_features})"
        check_shapes("features", {"features": features}, {"features": (None, self.num_features)}, known)
        shapes = state_shapes(self.cell, self.hidden_dims, features.shape[0])
        check_shapes("states", states, shapes, "start with initial_states(batch_size)")
        hidden = self.get_layer("standardize")(features) if self.standardize else features
        stack = [self.get_layer(f"{self.cell}_{i}") for i in range(1, len(self.hidden_dims) + 1)]
        hidden, after = step_through(stack, self.cell, hidden, states)
        return self.get_layer("head")(hidden), after

    @property
    def _streams(self):
        return not self.bidirectional and self.pooling != "mean"

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

        - `sequence` takes the model's inputs at `num_steps` steps, the mask as float32, 1 and 0, and returns
          `{"probabilities": ...}` or, for regression, `{"values": ...}`, float32 in the model's output shape.
        - `step`, of a model in one direction that does not take the mean: takes `features`, float32
          `(batch_size, num_features)`, and the states after the step before, zeros at first: `hidden_1`, of an LSTM
          also `memory_1`, and so on, float32 `(batch_size, units)`. Returns the same as `sequence` for the sequence so
          far, and the states after it: `next_hidden_1` and so on.

        A fused LSTM is one op; other cells are written step by step, which LiteRT runs faster than a loop, and which
        int8 files need.
        """
        answer = "values" if self.task == "regression" else "probabilities"

        def answers(outputs):
            return outputs if self.task == "regression" else ops.softmax(outputs)

        def sequence(**inputs):
            with unrolled():
                return {answer: answers(self(inputs if self.masked else inputs["features"], training=False))}

        def step(features, **states):
            outputs, states = self.step(features, states)
            return {answer: answers(outputs)} | next_states(states)

        inputs = {"features": KerasTensor((batch_size, self.num_steps, self.num_features), "float32", name="features")}
        if self.masked:
            inputs["mask"] = KerasTensor((batch_size, self.num_steps), "float32", name="mask")
        signatures = {"sequence": Signature(sequence, inputs)}
        if self._streams:
            states = self.initial_states(batch_size)
            signatures["step"] = Signature(
                step,
                {"features": KerasTensor((batch_size, self.num_features), "float32", name="features")}
                | {name: KerasTensor(x.shape, "float32", name=name) for name, x in states.items()},
            )
        return signatures
