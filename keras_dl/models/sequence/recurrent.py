"""A recurrent network that reads a sequence: layers of one cell on top of each other, and a head.

    h^0_t = (x_t - mean) / std
    h^l_t = cell^l(dropout(h^{l-1}_t), h^l_{t-1})                     l = 1 .. n, t = 1 .. T
    y_t   = W h^n_t + b              `pooling=None`: an output at every step
    y     = W h^n_T + b              `pooling="last"`
    y     = W mean_t(h^n_t) + b      `pooling="mean"`

Dropout is between the layers, not in time (Zaremba, Sutskever, Vinyals 2014, arXiv:1409.2329, fig. 2). A bidirectional
layer runs a second cell from the end, and concatenates the outputs of both. Its last output is that of the forward cell
at T and that of the backward cell at 1.

Sequences of different lengths are padded at the end, and come with a mask. A net in one direction needs no mask inside:
later steps do not change earlier outputs, so it reads the output at the last step of each row. That lets LiteRT fuse
the LSTM for padded sequences too. Bidirectional layers get the mask.

The equations and references of the cells are in `keras_dl.layers`: `rnn`, `lstm` and `gru`.
"""

from collections.abc import Mapping

import keras
from keras import KerasTensor, layers, ops

from keras_dl.arguments import OneOf, Rate, Size, Sizes, arguments
from keras_dl.base import FunctionalModel
from keras_dl.checks import check_shapes
from keras_dl.layers.gru import GRU
from keras_dl.layers.lstm import LSTM
from keras_dl.layers.recurrent import STATES
from keras_dl.layers.recurrent_weights import torch_recurrent_entries
from keras_dl.layers.rnn import SimpleRNN
from keras_dl.layers.sequences import CleanSequence, Pool, StandardizesSteps
from keras_dl.layers.standardization import Standardization
from keras_dl.signatures import Signature, next_states
from keras_dl.tracing import unrolled
from keras_dl.weights import Weights, load_entries, read_safetensors, torch_entries

CELLS = {"rnn": SimpleRNN, "irnn": SimpleRNN.irnn, "lstm": LSTM, "gru": GRU}

TORCH_NAMES = {"layers": "rnn", "head": "fc"}  # of modules, as `RecurrentNetwork.load_torch` takes them

CellName = OneOf(*CELLS)
Task = OneOf("classification", "regression")


def state_shapes(cell: str, hidden_dims, batch_size) -> dict[str, tuple]:
    """The shapes of `zero_states`, by name."""
    return {f"{name}_{i}": (batch_size, units) for i, units in enumerate(hidden_dims) for name in STATES[cell]}


def zero_states(cell: str, hidden_dims, batch_size: int = 1) -> dict:
    """The states of layers before a sequence: dict of zeros, float32 `(batch_size, units)`.

    They are `hidden_0`, of an LSTM also `cell_0`, then those of the next layer.

    Example:

    >>> list(zero_states("lstm", (8, 4)))
    ['hidden_0', 'cell_0', 'hidden_1', 'cell_1']
    """
    return {name: ops.zeros(shape) for name, shape in state_shapes(cell, hidden_dims, batch_size).items()}


def step_through(stack, cell: str, hidden, states: dict) -> tuple:
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
    for i, layer in enumerate(stack):
        names = [f"{name}_{i}" for name in STATES[cell]]
        before = [ops.cast(states[name], layer.compute_dtype) for name in names]
        hidden, new = layer.cell(ops.cast(hidden, layer.compute_dtype), before)  # (batch, units)
        after |= {name: ops.cast(state, "float32") for name, state in zip(names, new, strict=True)}
    return hidden, after


@keras.saving.register_keras_serializable(package="keras_dl")
class RecurrentNetwork(StandardizesSteps, FunctionalModel):
    """Classifies sequences or steps, or predicts values of them, with an RNN, LSTM or GRU.

    Args:
        num_features: int. Features of a step.
        num_outputs: int. Classes, or values.
        cell: "rnn", "irnn" (relu and identity, Le et al.), "lstm" or "gru".
        hidden_dims: sequence of int. Units of each layer.
        bidirectional: bool.
        dropout_rate: float in [0, 1). Drops units between layers and before the head; never in time.
        pooling: "last", "mean", or None for an output at every step.
        task: "classification" or "regression".
        masked: bool. Whether sequences are padded and come with a mask.
        standardize: bool. Whether the model standardizes its features; call `adapt` before `fit`.
        bptt_steps: int, or None. Truncates the gradient in time, see `keras_dl.SimpleRNN`.
        serving_length: int. Steps, padding included, of the sequence that a device takes. Training takes any number.

    Call arguments:
        inputs: float `(batch, time, num_features)`, raw features, at least one step; with `masked`, a dict of
            `features`, that, and `mask`: bool `(batch, time)`, True up to the row's last step and False behind it.

    Returns:
        float32, `(batch, num_outputs)`, or `(batch, time, num_outputs)` without pooling: logits or values. Outputs at
        padding have no meaning: give them the sample weight 0. A row without any step gets the head's output for zeros.

    Raises:
        ValueError: if an argument is out of its range, or a sequence has no step. Called eagerly, also if a mask has
            holes.

    Example:

    >>> model = RecurrentNetwork(num_features=12, num_outputs=9, cell="gru", hidden_dims=(16,))
    >>> model(keras.ops.zeros((2, 20, 12))).shape
    TensorShape([2, 9])
    >>> sorted(model.serving_signatures())
    ['sequence', 'step']
    """

    renamed_arguments = {"num_steps": "serving_length"}

    @arguments
    def __init__(
        self,
        num_features: Size,
        num_outputs: Size,
        cell: CellName = "lstm",
        hidden_dims: Sizes = (64,),
        bidirectional: bool = False,
        dropout_rate: Rate = 0.0,
        pooling: OneOf("last", "mean", None) = "last",
        task: Task = "classification",
        masked: bool = False,
        standardize: bool = True,
        bptt_steps: Size | None = None,
        serving_length: Size = 32,
        dtype=None,
        **kwargs,
    ):
        features = keras.Input((None, num_features), name="features")  # (batch, time, num_features)
        # Keras casts a bool mask. An NPU takes numbers, not bool.
        mask = keras.Input((None,), dtype="float32", name="mask") if masked else None  # (batch, time)
        hidden = features
        if standardize:
            hidden = Standardization(dtype="float32", name="standardize")(hidden)
        if masked:
            hidden = CleanSequence(dtype="float32", name="clean")(hidden, mask)
        for i, units in enumerate(hidden_dims):
            if dropout_rate and i > 0:
                hidden = layers.Dropout(dropout_rate, name=f"dropout_{i - 1}")(hidden)
            # In one direction, `Pool` reads the output of a padded row at the last step of that row.
            whole = i < len(hidden_dims) - 1 or pooling != "last" or (masked and not bidirectional)
            layer = CELLS[cell](units, return_sequences=whole, bptt_steps=bptt_steps, name=f"{cell}_{i}")
            if bidirectional:
                layer = layers.Bidirectional(layer, name=f"bidirectional_{i}")
            # (batch, time, units), or (batch, units) where not whole; 2 units if bidirectional
            hidden = layer(hidden, mask=mask > 0) if masked and bidirectional else layer(hidden)
        if pooling and whole:
            hidden = Pool(pooling, name="pool")(hidden, mask)  # (batch, units)
        if dropout_rate:
            hidden = layers.Dropout(dropout_rate, name=f"dropout_{len(hidden_dims) - 1}")(hidden)
        outputs = layers.Dense(num_outputs, dtype="float32", name="head")(hidden)  # (batch, [time,] num_outputs)
        super().__init__(inputs={"features": features, "mask": mask} if masked else features, outputs=outputs, **kwargs)

    def load_torch(self, weights: Weights, names: Mapping[str, str] = TORCH_NAMES) -> None:
        """Takes the weights of a `torch.nn.RNN`, `LSTM` or `GRU`, and of the `Linear` behind it.

        The model must have the same sizes and directions, and no other arguments of the layers than their defaults.
        Statistics of `standardize` stay as they are: without `adapt`, features are taken as torch's module takes them.
        Note that the last output of a bidirectional layer is here that of each direction at its own end.

        Args:
            weights: mapping from name to array, as `state_dict()` gives it, or the path of a `.safetensors` file.
            names: the names of the two modules in torch, by `"layers"` and `"head"`. Without `"head"`, the head keeps
                its weights, and the checkpoint's other entries are left out.

        Raises:
            ValueError: if names or shapes differ. The model then keeps its weights.
        """
        stack = [self.get_layer(name) for name in self._layer_names]
        entries = torch_recurrent_entries(stack, f"{names['layers']}.")
        weights = weights if isinstance(weights, Mapping) else read_safetensors(weights)
        if "head" in names:
            entries |= torch_entries(names["head"], self.get_layer("head"))
        else:
            weights = {name: array for name, array in weights.items() if name.startswith(f"{names['layers']}.")}
        load_entries(entries, weights)

    @property
    def _layer_names(self):
        kind = "bidirectional" if self.bidirectional else self.cell
        return [f"{kind}_{i}" for i in range(len(self.hidden_dims))]

    def initial_states(self, batch_size: int = 1) -> dict:
        """The states before a sequence, for the signature `step`: dict of zeros, float32 `(batch_size, units)`."""
        return zero_states(self.cell, self.hidden_dims, batch_size)

    def step(self, features, states: dict) -> tuple:
        """One step of a sequence.

        Args:
            features: float, `(batch, num_features)`, raw.
            states: dict, as `initial_states` or the step before returned it.

        Returns:
            outputs: float32, `(batch, num_outputs)`: logits or values, as the model gives them for the sequence so far.
            states: dict.

        Raises:
            ValueError: if features or states have other names or shapes, or if the model cannot go step by step,
                because it is bidirectional or takes the mean over all steps.
        """
        if not self._streams:
            raise ValueError(
                f"bidirectional={self.bidirectional}, pooling={self.pooling!r}: the model needs the whole sequence and "
                "cannot go step by step."
            )
        features = ops.convert_to_tensor(features)
        known = f"take (batch, num_features={self.num_features})"
        check_shapes("features", {"features": features}, {"features": (None, self.num_features)}, known)
        shapes = state_shapes(self.cell, self.hidden_dims, features.shape[0])
        check_shapes("states", states, shapes, "start with initial_states(batch_size)")
        hidden = self.get_layer("standardize")(features) if self.standardize else features
        stack = [self.get_layer(name) for name in self._layer_names]
        hidden, after = step_through(stack, self.cell, hidden, states)
        return self.get_layer("head")(hidden), after

    @property
    def _streams(self):
        return not self.bidirectional and self.pooling != "mean"

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        - `sequence` takes the model's inputs at `serving_length` steps, the mask as float32, 1 and 0, and returns
          `{"probabilities": ...}` or, for regression, `{"values": ...}`, float32 in the model's output shape.
        - `step` exists for models in one direction that do not take the mean. It takes `features`, float32
          `(batch_size, num_features)`, and the states after the step before, zeros at first: `hidden_0`, of an LSTM
          also `cell_0`, and so on, float32 `(batch_size, units)`. It returns the same as `sequence` for the sequence
          so far, and the states after it: `next_hidden_0` and so on.

        A fused LSTM is one op. Other cells are written step by step: LiteRT runs that faster than a loop, and int8
        files need it.
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

        inputs = {
            "features": KerasTensor((batch_size, self.serving_length, self.num_features), "float32", name="features")
        }
        if self.masked:
            inputs["mask"] = KerasTensor((batch_size, self.serving_length), "float32", name="mask")
        signatures = {"sequence": Signature(sequence, inputs)}
        if self._streams:
            states = self.initial_states(batch_size)
            signatures["step"] = Signature(
                step,
                {"features": KerasTensor((batch_size, self.num_features), "float32", name="features")}
                | {name: KerasTensor(x.shape, "float32", name=name) for name, x in states.items()},
            )
        return signatures
