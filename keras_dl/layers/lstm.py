"""Long short-term memory: a cell that adds to its memory instead of overwriting it.

    i_t = sigm(W_i x_t + U_i h_{t-1} + p_i * c_{t-1} + b_i)
    f_t = sigm(W_f x_t + U_f h_{t-1} + p_f * c_{t-1} + b_f)
    g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
    c_t = f_t * c_{t-1} + i_t * g_t
    o_t = sigm(W_o x_t + U_o h_{t-1} + p_o * c_t + b_o)
    h_t = V (o_t * tanh(c_t))

The peepholes p (`peephole`) and the projection V (`projection_units`) are options; without them p = 0 and V = 1. With
`layer_norm`, the gates get LN(W x_t) + LN(U h_{t-1}) + b, normalized over all four gates together, and the last tanh
gets LN(c_t). The bias of the forget gate starts at 1, so that the cell remembers at first.

References: Hochreiter and Schmidhuber 1997, "Long short-term memory", Neural Computation 9. Gers, Schmidhuber, Cummins
2000, "Learning to forget", Neural Computation 12 (forget gate). Gers and Schmidhuber 2000, "Recurrent nets that time
and count", IJCNN (peepholes). Sak, Senior, Beaufays 2014, arXiv:1402.1128, eq. 1 to 6 (projection; their second,
non-recurrent one is a Dense layer after this). Ba, Kiros, Hinton 2016, arXiv:1607.06450, eq. 20 to 22 (layer
normalization). Jozefowicz, Zaremba, Sutskever 2015 (the forget gate's bias).

Deviations: the paper of 1997 has no forget gate and truncates the gradient inside the cell; this has the full gradient,
or `bptt_steps`. Peepholes connect a cell with its own gates only, as in Gers and Schmidhuber. The gain of each
normalization starts at 1, its shift at 0.

In a LiteRT file, inference from the zero state over a static shape is one fused UNIDIRECTIONAL_SEQUENCE_LSTM, in
float32 or int8. That op has no peepholes, projection, layer normalization, masks, initial or returned state, or other
activations. With any of them the file has a builtin WHILE, or with `unroll=True` one step after the other. The fused op
keeps its state between calls: reset the interpreter's variables before each sequence, as `keras_dl.export.load` does.
"""

import uuid

import keras
import tensorflow as tf
from keras import activations, ops

from keras_dl.arguments import Size, arguments
from keras_dl.compat import is_eager
from keras_dl.layers.recurrent import Cell, Recurrent
from keras_dl.ops.recurrence import scan
from keras_dl.tracing import STAND_INS, is_fusing

EPSILON = 1e-5  # of layer normalization


@keras.saving.register_keras_serializable(package="keras_dl")
class LSTMCell(Cell, keras.layers.LSTMCell):
    """One step of `LSTM`, for `keras.layers.RNN`.

    Args:
        units: int.
        The next arguments are those of `keras.layers.LSTMCell`, in its order.
        peephole, projection_units, layer_norm: as in `LSTM`. None of them works with `recurrent_dropout`.

    Call arguments:
        inputs: float, `(batch, features)`: one step.
        states: list of h, `(batch, units)` or `(batch, projection_units)`, and c, `(batch, units)`, before the step.
        training: bool. Whether dropout is on: one mask for all steps of a sequence.

    Returns:
        output: float, `(batch, units)` or `(batch, projection_units)`: the first of the new states.
        states: as given, after the step.

    Raises:
        ValueError: if an argument is out of its range, or does not work with another.
        TypeError: if a keyword is unknown. The message names the nearest one.

    Example:

    >>> layer = keras.layers.RNN([LSTMCell(8, peephole=True), LSTMCell(4, layer_norm=True)])
    >>> layer(keras.ops.ones((2, 3, 5))).shape
    TensorShape([2, 4])
    """

    peephole, projection_units, layer_norm = False, None, False

    @arguments(like=keras.layers.LSTMCell, hidden=("implementation",))
    def __init__(
        self, peephole: bool = False, projection_units: Size | None = None, layer_norm: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        self.elementwise = not (peephole or projection_units or layer_norm)
        if not self.elementwise and self.implementation == 1:
            cause = f"recurrent_dropout={self.recurrent_dropout}" if self.recurrent_dropout else "implementation=1"
            raise ValueError(f"{cause} does not work with peephole, projection_units or layer_norm.")
        self.output_size = projection_units or self.units
        self.state_size = [self.output_size, self.units]

    def get_config(self):
        options = ("peephole", "projection_units", "layer_norm")
        return super().get_config() | {name: getattr(self, name) for name in options}

    def build(self, input_shape):
        units = self.units

        def bias_initializer(shape, dtype=None):
            if not self.unit_forget_bias:
                return self.bias_initializer(shape, dtype)
            first, last = (self.bias_initializer((n * units,), dtype) for n in (1, 2))
            return ops.concatenate([first, ops.ones((units,), dtype), last])

        def weight(name, shape, initializer="zeros", kind=None):
            options = {key: getattr(self, f"{kind}_{key}") for key in ("regularizer", "constraint")} if kind else {}
            return self.add_weight(shape=shape, name=name, initializer=initializer, **options)

        self.kernel = weight("kernel", (input_shape[-1], 4 * units), self.kernel_initializer, "kernel")
        self.recurrent_kernel = weight(
            "recurrent_kernel", (self.output_size, 4 * units), self.recurrent_initializer, "recurrent"
        )
        self.bias = weight("bias", (4 * units,), bias_initializer, "bias") if self.use_bias else None
        if self.peephole:
            self.peephole_kernel = weight("peephole_kernel", (3, units), self.kernel_initializer.clone())
        if self.projection_units:
            self.projection_kernel = weight(
                "projection_kernel",
                (units, self.projection_units),
                self.kernel_initializer.clone(),
            )
        if self.layer_norm:
            for name, width in (("input", 4 * units), ("recurrent", 4 * units), ("cell", units)):
                setattr(self, f"{name}_gain", weight(f"{name}_gain", (width,), "ones"))
                setattr(self, f"{name}_shift", weight(f"{name}_shift", (width,)))

    def _normalized(self, x, name):
        if not self.layer_norm:
            return x
        wide = ops.cast(x, "float32")
        centered = wide - ops.mean(wide, axis=-1, keepdims=True)
        scaled = centered * ops.rsqrt(ops.mean(ops.square(centered), axis=-1, keepdims=True) + EPSILON)
        gain, shift = (ops.cast(getattr(self, f"{name}_{kind}"), x.dtype) for kind in ("gain", "shift"))
        return ops.cast(scaled, x.dtype) * gain + shift

    def project(self, inputs):
        projected = self._normalized(ops.matmul(inputs, self.kernel), "input")  # (..., 4 * units)
        return projected if self.bias is None else projected + ops.cast(self.bias, projected.dtype)

    def product(self, hidden):
        return self._normalized(super().product(hidden), "recurrent")

    def advance(self, gates, hidden, cell):
        input_gate, forget_gate, new, output_gate = ops.split(gates, 4, axis=-1)  # (batch, units) each
        if self.peephole:
            to_input, to_forget, to_output = ops.split(ops.cast(self.peephole_kernel, gates.dtype), 3)  # (1, units)
            input_gate, forget_gate = input_gate + to_input * cell, forget_gate + to_forget * cell
        gate = self.recurrent_activation
        cell = gate(forget_gate) * cell + gate(input_gate) * self.activation(new)
        if self.peephole:
            output_gate = output_gate + to_output * cell
        hidden = gate(output_gate) * self.activation(self._normalized(cell, "cell"))
        if self.projection_units:
            hidden = ops.matmul(hidden, self.projection_kernel)  # (batch, projection_units)
        return hidden, cell


@keras.saving.register_keras_serializable(package="keras_dl")
class LSTM(Recurrent, keras.layers.LSTM):
    """Long short-term memory. It replaces `keras.layers.LSTM`: same arguments, weights, states and values.

    Args:
        units: int. Width of the cell state, and of the output where it is not projected.
        The next arguments are those of `keras.layers.LSTM`, in its order.
        peephole: bool. Whether the gates also get the cell state.
        projection_units: int, or None. Width of the output, which is projected from `units`.
        layer_norm: bool. Whether the inputs of the gates, and the cell state on its way to the output, are normalized.
        bptt_steps: int, or None. The gradient stops where the number of the step, from 0, is a multiple of it. The
            values do not change.

    Call arguments:
        sequences: float, `(batch, time, features)`, at least one step.
        initial_state: list of h, `(batch, units)`, or `(batch, projection_units)`, and c, `(batch, units)`; zeros by
            default.
        mask: bool, `(batch, time)`. True = the step counts. Other steps keep the states, and their values do not
            matter, not even NaN. A row without any step that counts keeps its initial states, and its outputs are 0.
        training: bool. Whether dropout is on.

    Returns:
        float, `(batch, units)`, or `(batch, time, units)` with `return_sequences`; with `return_state` a tuple of it, h
        and c after the last step.

    Raises:
        ValueError: if an argument is out of its range, the sequences have no step, or a state has a wrong shape.
        TypeError: if a keyword is unknown. The message names the nearest one.
        tf.errors.InvalidArgumentError: the same for sizes that a graph does not know before it runs. Under XLA the
            message is XLA's own.

    Example:

    >>> layer = LSTM(4, peephole=True, projection_units=2, return_state=True)
    >>> outputs, h, c = layer(keras.ops.ones((2, 3, 5)))
    >>> outputs.shape, h.shape, c.shape
    (TensorShape([2, 2]), TensorShape([2, 2]), TensorShape([2, 4]))
    """

    @arguments(like=(keras.layers.LSTM, LSTMCell), hidden=("implementation",))
    def __init__(self, bptt_steps: Size | None = None, **kwargs):
        self._set_up(LSTMCell, "lstm_cell", bptt_steps, kwargs)

    @property
    def peephole(self):
        return self.cell.peephole

    @property
    def projection_units(self):
        return self.cell.projection_units

    @property
    def layer_norm(self):
        return self.cell.layer_norm

    def get_config(self):
        options = ("use_cudnn", "peephole", "projection_units", "layer_norm")
        return super().get_config() | {name: getattr(self, name) for name in options}

    def call(self, sequences, initial_state=None, mask=None, training=False):
        if initial_state is None and mask is None and not training and self._fuses(sequences):
            last, outputs = self._fused(sequences)
            return outputs if self.return_sequences else last
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    def _fuses(self, sequences):
        """Whether this call is traced for a device, and LiteRT's fused op can compute it."""
        if (
            not is_fusing()
            or is_eager(sequences)
            or self.return_state
            or self.stateful
            or self.unroll
            or not self.cell.elementwise
        ):
            return False
        gates = (self.cell.activation, self.cell.recurrent_activation)
        static = sequences.shape.is_fully_defined() and 0 not in sequences.shape
        return static and self.compute_dtype == "float32" and gates == (activations.tanh, activations.sigmoid)

    def _fused(self, sequences):
        """`(last output, outputs)` of a function that LiteRT's converter recognizes by its attributes and replaces."""
        batch, steps, _ = sequences.shape
        units = self.units

        def recurrence(inputs, init_h, init_c, kernel, recurrent_kernel, bias):
            def step(projected, states):
                return self.cell.advance(projected + tf.matmul(states[0], recurrent_kernel), *states)

            rows = tf.transpose(tf.matmul(inputs, kernel) + bias, (1, 0, 2))  # (time, batch, 4 units)
            outputs, (h, c) = scan(step, rows, (init_h, init_c), truncate=self.bptt_steps)
            return h, tf.transpose(outputs, (1, 0, 2)), h, c, tf.constant(1.0)

        # With fewer attributes the converter returns an empty file. Under a name that exists already, TensorFlow looks
        # for another implementation of the same function.
        attributes = {
            "api_implements": f"lstm_{uuid.uuid4()}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": False,
        }
        function = tf.function(recurrence, autograph=False, experimental_attributes=attributes)
        state = tf.zeros((batch, units))
        cell = self.cell
        weights = [tf.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel)]
        bias = tf.zeros((4 * units,)) if cell.bias is None else tf.convert_to_tensor(cell.bias)
        inputs = ops.flip(sequences, axis=1) if self.go_backwards else sequences
        last, outputs, *_ = function(inputs, state, state, *weights, bias)
        return last, tf.ensure_shape(outputs, (batch, steps, units))


STAND_INS[keras.layers.LSTM] = LSTM, LSTMCell
