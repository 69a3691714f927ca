"""Temporal convolutional network: dilated causal convolutions with residuals, for sequences of any length.

    F(s)   = sum_{i=0}^{k-1} f(i) x_{s - d i}                                  eq. 2: a causal convolution of dilation d
    block  = relu(x + drop(relu(conv(drop(relu(conv(x)))))))                   fig. 1b; both have the same dilation
    kernel = g v / ||v||, one g per output channel                             Salimans and Kingma, eq. 2

Block i has dilation `dilation_base ** i`, so that an output depends on the last `receptive_field` inputs and no others:

    receptive field = 1 + 2 (k - 1) sum_i dilation_base^i

References:
- Bai, Kolter, Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
  Modeling", arXiv:1803.01271: section 3 and tables 1 and 2.
- Salimans, Kingma 2016, "Weight Normalization", arXiv:1602.07868.

Deviations: none from the paper. The authors' code differs from it in one place: dropout is spatial here, as in the
text, so that whole channels of a sequence are dropped together. Convolutions are initialized as in that code, with
torch's default for v and g = ||v||. (It also sets the derived kernel to N(0, 0.01), which the next forward pass
overwrites.) The 1x1 residual and the head are initialized as Keras's Dense. That code draws them from N(0, 0.01).
"""

import keras
from keras import layers, ops

from keras_dl.arguments import AtLeast, OneOf, Rate, Size, Sizes, arguments
from keras_dl.base import FunctionalModel, Layer
from keras_dl.checks import check_shapes
from keras_dl.layers.sequences import CleanSequence, Pool, StandardizesSteps
from keras_dl.layers.standardization import Standardization
from keras_dl.ops.convolution import dilated_convolution
from keras_dl.signatures import Signature, next_states
from keras_dl.tracing import unrolled


@keras.saving.register_keras_serializable(package="keras_dl")
class CausalConv1D(Layer):
    """A dilated causal convolution whose kernel is split into a length `g` and a direction `v`.

    Args:
        filters: int.
        kernel_size: int.
        dilation_rate: int.
        weight_normalization: bool. False makes it a plain convolution.

    Call arguments:
        x: float, `(batch, length, channels)`. It is padded with zeros in front.

    Returns:
        float, `(batch, length, filters)`.

    Raises:
        ValueError: if an argument is out of its range, or `x` has no step.
    """

    @arguments
    def __init__(
        self,
        filters: Size,
        kernel_size: Size,
        dilation_rate: Size = 1,
        weight_normalization: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)

    @property
    def reach(self) -> int:
        """Number of inputs before the present one that an output depends on."""
        return (self.kernel_size - 1) * self.dilation_rate

    def build(self, x_shape):
        shape = (self.kernel_size, x_shape[-1], self.filters)
        # Uniform in +-1/sqrt(fan_in), as torch draws kernels and biases.
        initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        bound = (self.kernel_size * x_shape[-1]) ** -0.5
        # Not cast when read: a norm in float16 is not accurate.
        self.direction = self.add_weight(shape=shape, initializer=initializer, autocast=False, name="direction")
        if self.weight_normalization:
            self.length = self.add_weight(shape=(self.filters,), initializer="ones", autocast=False, name="length")
            self.length.assign(self._norm())
        uniform = keras.initializers.RandomUniform(-bound, bound)
        self.bias = self.add_weight(shape=(self.filters,), initializer=uniform, name="bias")

    def _norm(self):
        return ops.sqrt(ops.sum(ops.square(self.direction), axis=(0, 1)))

    def folded(self):
        """The kernel of the equivalent plain convolution, `(kernel_size, channels, filters)`."""
        kernel = ops.convert_to_tensor(self.direction)
        if self.weight_normalization:
            kernel = kernel * (self.length / ops.maximum(self._norm(), 1e-12))
        return ops.cast(kernel, self.compute_dtype)

    def call(self, x):
        if x.shape[1] == 0:
            raise ValueError(f"inputs of shape {tuple(x.shape)} must have at least one step.")
        x = ops.pad(x, ((0, 0), (self.reach, 0), (0, 0)))  # (batch, reach + length, channels)
        return self._convolve(x)  # (batch, length, filters)

    def step(self, x, memory):
        """One step of a stream.

        Args:
            x: float, `(batch, channels)`: the present input.
            memory: float, `(batch, reach, channels)`: the inputs before it, the oldest first.

        Returns:
            The output `(batch, filters)` and the next `memory`.
        """
        window = ops.concatenate([memory, ops.expand_dims(x, 1)], axis=1)  # (batch, reach + 1, channels)
        return ops.squeeze(self._convolve(window), 1), window[:, 1:]  # (batch, filters), (batch, reach, channels)

    def _convolve(self, x):
        """`(batch, length, channels)` to `(batch, length - reach, filters)`."""
        return dilated_convolution(ops.cast(x, self.compute_dtype), self.folded(), self.dilation_rate) + self.bias


@keras.saving.register_keras_serializable(package="keras_dl")
class TemporalBlock(Layer):
    """Two causal convolutions with ReLU and spatial dropout, and a residual, which is 1x1 if the widths differ.

    Args:
        filters, kernel_size, dilation_rate, weight_normalization: of both convolutions.
        dropout_rate: float in [0, 1). The share of channels that is set to zero after each.

    Call arguments:
        x: float, `(batch, length, channels)`.
        training: bool. Whether dropout is on.

    Returns:
        float, `(batch, length, filters)`.

    Raises:
        ValueError: if an argument is out of its range, or `x` has no step.
    """

    @arguments
    def __init__(
        self,
        filters: Size,
        kernel_size: Size,
        dilation_rate: Size = 1,
        dropout_rate: Rate = 0.0,
        weight_normalization: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)

    def build(self, x_shape):
        shared = dict(dtype=self.dtype_policy)
        convolution = (self.filters, self.kernel_size, self.dilation_rate, self.weight_normalization)
        self.first = CausalConv1D(*convolution, name="first", **shared)
        self.second = CausalConv1D(*convolution, name="second", **shared)
        self.first.build(x_shape)
        self.second.build((*x_shape[:-1], self.filters))
        self.dropout = layers.SpatialDropout1D(self.dropout_rate, name="dropout", **shared)
        self.shortcut = None
        if x_shape[-1] != self.filters:
            self.shortcut = layers.Dense(self.filters, name="shortcut", **shared)  # at each step: a 1x1 convolution
            self.shortcut.build(x_shape)

    def call(self, x, training=False):
        hidden = self.dropout(ops.relu(self.first(x)), training=training)  # (batch, length, filters)
        hidden = self.dropout(ops.relu(self.second(hidden)), training=training)
        return ops.relu(hidden + (x if self.shortcut is None else self.shortcut(x)))

    def step(self, x, memories):
        """One step of a stream: the output `(batch, filters)` and the next memories of both convolutions."""
        hidden, first = self.first.step(x, memories[0])
        hidden, second = self.second.step(ops.relu(hidden), memories[1])
        return ops.relu(ops.relu(hidden) + (x if self.shortcut is None else self.shortcut(x))), (first, second)


PRESETS = {
    # Table 1 says 70K weights for the first two. Here they have 70,369 and 66,910. The sizes of the second, and of copy
    # memory (12,530 weights; table 1: 16K), are the defaults of the authors' code.
    "adding_600": dict(num_features=2, num_outputs=1, hidden_dims=(24,) * 8, kernel_size=8),
    "sequential_mnist": dict(
        num_features=1, num_outputs=10, hidden_dims=(25,) * 8, kernel_size=7, task="classification"
    ),
    "copy_memory": dict(
        num_features=1, num_outputs=10, hidden_dims=(10,) * 8, kernel_size=8, task="classification", pooling=None
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class TCN(StandardizesSteps, FunctionalModel):
    """Temporal convolutional network: classifies sequences or steps, or predicts values of them.

    Train it on sequences of any length, by `fit` with a loss of values or of logits. It serves the whole sequence at
    once and one step at a time, under the names of `RecurrentNetwork`.

    Args:
        num_features: int. Width of one step of the input.
        num_outputs: int. Width of the output: values, or logits of classes.
        hidden_dims: sequence of int. Widths of the blocks. Block i has the dilation `dilation_base ** i`.
        kernel_size: int, at least 2.
        dilation_base: int.
        dropout_rate: float in [0, 1). The share of channels dropped after each convolution.
        weight_normalization: bool.
        pooling: "last" for an output at the end of the sequence, None for one at every step.
        task: "regression" or "classification". A device gets values, or probabilities.
        masked: bool. Whether sequences are padded at the end and come with a mask.
        standardize: bool. Whether the model standardizes its features; call `adapt` before `fit`.
        serving_length: int. Steps, padding included, of the sequence that a device takes. Training takes any number.

    Call arguments:
        inputs: float `(batch, time, num_features)`, at least one step; with `masked`, a dict of `features`, that, and
            `mask`: bool `(batch, time)`, True up to the row's last step and False behind it.

    Returns:
        float, `(batch, num_outputs)`, or `(batch, time, num_outputs)` without pooling: values or logits. Outputs at
        padding have no meaning: give them the sample weight 0. A row without any step gets the head's output for zeros.

    Raises:
        ValueError: if an argument is out of its range, or the input has no step. Called eagerly, also if a mask has
            holes.

    Example:

    >>> model = TCN(num_features=2, num_outputs=1, hidden_dims=(8, 8, 8), kernel_size=3)
    >>> model.receptive_field
    29
    >>> model(ops.zeros((4, 50, 2))).shape
    TensorShape([4, 1])
    """

    presets = PRESETS

    renamed_arguments = {"num_steps": "serving_length"}

    @arguments
    def __init__(
        self,
        num_features: Size,
        num_outputs: Size,
        hidden_dims: Sizes = (25,) * 8,
        kernel_size: AtLeast(2) = 7,
        dilation_base: Size = 2,
        dropout_rate: Rate = 0.0,
        weight_normalization: bool = True,
        pooling: OneOf("last", None) = "last",
        task: OneOf("regression", "classification") = "regression",
        masked: bool = False,
        standardize: bool = False,
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
        for i, filters in enumerate(hidden_dims):
            hidden = TemporalBlock(  # (batch, time, filters)
                filters, kernel_size, dilation_base**i, dropout_rate, weight_normalization, name=f"block_{i}"
            )(hidden)
        if pooling:  # causal, so that padding changes no step before it
            hidden = Pool(pooling, name="pool")(hidden, mask) if masked else hidden[:, -1]  # (batch, filters)
        outputs = layers.Dense(num_outputs, name="head")(hidden)  # (batch, [time,] num_outputs)
        super().__init__(inputs={"features": features, "mask": mask} if masked else features, outputs=outputs, **kwargs)

    @property
    def blocks(self) -> list[TemporalBlock]:
        """The blocks, in order."""
        return [self.get_layer(f"block_{i}") for i in range(len(self.hidden_dims))]

    @property
    def receptive_field(self) -> int:
        """Number of inputs, the present one included, that an output depends on."""
        return 1 + sum(block.first.reach + block.second.reach for block in self.blocks)

    def initial_states(self, batch_size: int = 1) -> dict:
        """The states before a sequence, for `step`: dict of zeros, float32 `(batch_size, reach, channels)`.

        There are two entries per block, the last inputs of its convolutions, the oldest first. They are queues, not
        ring buffers, because a signature returns its states and so copies them anyway.
        """
        return {name: ops.zeros(shape) for name, shape in self._state_shapes(batch_size).items()}

    def _state_shapes(self, batch_size):
        return {
            f"{name}_{i}": (batch_size, convolution.reach, convolution.direction.shape[1])
            for i, block in enumerate(self.blocks)
            for name, convolution in (("first", block.first), ("second", block.second))
        }

    def step(self, features, states: dict) -> tuple:
        """One step of a sequence.

        Args:
            features: float, `(batch, num_features)`.
            states: dict, as `initial_states` or the step before returned it.

        Returns:
            outputs: float, `(batch, num_outputs)`: values or logits, as the model gives them for the sequence so far.
            states: dict.

        Raises:
            ValueError: if features or states have other names or shapes.
        """
        features = ops.convert_to_tensor(features)
        known = f"take (batch, num_features={self.num_features})"
        check_shapes("features", {"features": features}, {"features": (None, self.num_features)}, known)
        check_shapes("states", states, self._state_shapes(features.shape[0]), "start with initial_states(batch_size)")
        hidden, after = self.get_layer("standardize")(features) if self.standardize else features, {}
        for i, block in enumerate(self.blocks):
            hidden, memories = block.step(hidden, (states[f"first_{i}"], states[f"second_{i}"]))
            after |= {f"first_{i}": memories[0], f"second_{i}": memories[1]}
        return self.get_layer("head")(hidden), after

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device, with plain convolutions: dict of `Signature`.

        - `sequence` takes the model's inputs at `serving_length` steps, the mask as float32, 1 and 0, and returns
          `{"values": ...}` or, for classification, `{"probabilities": ...}`, float32 in the model's output shape.
        - `step` takes `features`, float32 `(batch_size, num_features)`, and the states of `initial_states`, zeros at
          first. It returns the same as `sequence` for the sequence so far, and the states after it:
          `next_first_0`, `next_second_0` and so on.
        """

        def answers(outputs):
            return {"values": outputs} if self.task == "regression" else {"probabilities": ops.softmax(outputs)}

        def sequence(**inputs):
            with unrolled():
                return answers(self(inputs if self.masked else inputs["features"], training=False))

        def step(features, **states):
            outputs, states = self.step(features, states)
            return answers(outputs) | next_states(states)

        def tensor(name, *shape):
            return keras.KerasTensor(shape, "float32", name=name)

        states = {name: tensor(name, *shape) for name, shape in self._state_shapes(batch_size).items()}
        inputs = {"features": tensor("features", batch_size, self.serving_length, self.num_features)}
        if self.masked:
            inputs["mask"] = tensor("mask", batch_size, self.serving_length)
        return {
            "sequence": Signature(sequence, inputs),
            "step": Signature(step, {"features": tensor("features", batch_size, self.num_features)} | states),
        }
