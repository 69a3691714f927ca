"""Gated recurrent unit: a state that a gate mixes with its candidate.

    z_t = sigm(W_z x_t + U_z h_{t-1} + b_z)               r_t = sigm(W_r x_t + U_r h_{t-1} + b_r)
    g_t = tanh(W_g x_t + U_g (r_t * h_{t-1}) + b_g)                 `reset_after=False`: Cho et al.
    g_t = tanh(W_g x_t + b_g + r_t * (U_g h_{t-1} + a_g))           `reset_after=True`: cuDNN, Keras's default, torch
    h_t = z_t * h_{t-1} + (1 - z_t) * g_t

With `reset_after` each gate has two biases. Those of z and r could be one each; they are two, as in Keras and cuDNN.

Reference: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine
translation", arXiv:1406.1078, eq. 5 to 8. The other convention is eq. 9 and 10 of its version 1, and that of cuDNN.

Deviations: biases, which the paper leaves out of its equations.
"""

import keras
from keras import ops

from keras_dl.arguments import Size, arguments
from keras_dl.layers.recurrent import Cell, Recurrent
from keras_dl.tracing import STAND_INS


@keras.saving.register_keras_serializable(package="keras_dl")
class GRUCell(Cell, keras.layers.GRUCell):
    """One step of `GRU`, for `keras.layers.RNN`.

    Args:
        units: int.
        The other arguments are those of `keras.layers.GRUCell`, in its order.

    Call arguments:
        inputs: float, `(batch, features)`: one step.
        states: list of h, `(batch, units)`, before the step.
        training: bool. Whether dropout is on: one mask for all steps of a sequence.

    Returns:
        output: float, `(batch, units)`: the first of the new states.
        states: as given, after the step.

    Raises:
        ValueError: if `units` is not positive.
        TypeError: if a keyword is unknown. The message names the nearest one.

    Example:

    >>> layer = keras.layers.RNN([GRUCell(8, reset_after=False), GRUCell(4)])
    >>> layer(keras.ops.ones((2, 3, 5))).shape
    TensorShape([2, 4])
    """

    additive = False

    @arguments(like=keras.layers.GRUCell, hidden=("implementation",))
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    @property
    def elementwise(self):
        return self.reset_after

    def input_weights(self):
        return self.kernel, self.bias[0] if self.reset_after and self.bias is not None else self.bias

    def product(self, hidden):
        if not self.reset_after:
            return ops.matmul(hidden, self.recurrent_kernel[:, : 2 * self.units])  # (batch, 2 * units)
        kernel, bias = self.recurrent_weights()
        product = ops.matmul(hidden, kernel)  # (batch, 3 * units)
        return product if bias is None else product + ops.cast(bias, product.dtype)

    def recurrent_weights(self):
        return self.recurrent_kernel, None if self.bias is None else self.bias[1]

    def advance(self, projected, product, hidden):
        x_update, x_reset, x_new = ops.split(projected, 3, axis=-1)  # (batch, units) each
        if self.reset_after:
            p_update, p_reset, p_new = ops.split(product, 3, axis=-1)  # (batch, units) each
        else:
            p_update, p_reset = ops.split(product, 2, axis=-1)  # (batch, units) each
        reset = self.recurrent_activation(x_reset + p_reset)
        if self.reset_after:
            p_new = reset * p_new
        else:
            p_new = ops.matmul(reset * hidden, self.recurrent_kernel[:, 2 * self.units :])
        update = self.recurrent_activation(x_update + p_update)
        new = self.activation(x_new + p_new)
        return (new + update * (hidden - new),)


@keras.saving.register_keras_serializable(package="keras_dl")
class GRU(Recurrent, keras.layers.GRU):
    """Gated recurrent unit. It replaces `keras.layers.GRU`: same arguments, weights, states and values.

    LiteRT has no fused op for it: its steps are one builtin WHILE. With `unroll=True` they are written one after the
    other, which the calibration of an int8 file needs.

    Int8 files of one layer from zero states may differ by three ops per direction. At the first step the reset gate has
    nothing to reset with `reset_after=False`, without biases, or with the zero biases of an untrained layer. The
    converter then drops the gate, and the SPLIT before it runs in int8 or, by chance, in float32. With `reset_after`
    and nonzero biases the gate stays.

    Args:
        units: int. Width of the state, which is the output.
        The next arguments are those of `keras.layers.GRU`, in its order.
        bptt_steps: int, or None. The gradient stops where the number of the step, from 0, is a multiple of it. The
            values do not change.

    Call arguments:
        sequences: float, `(batch, time, features)`, at least one step.
        initial_state: float, `(batch, units)`, or a list of one; zeros by default.
        mask: bool, `(batch, time)`. True = the step counts. Other steps keep the state, and their values do not matter,
            not even NaN. A row without any step that counts keeps its initial state, and its outputs are 0.
        training: bool. Whether dropout is on.

    Returns:
        float, `(batch, units)`, or `(batch, time, units)` with `return_sequences`; with `return_state` a tuple of it
        and the last state.

    Raises:
        ValueError: if an argument is out of its range, the sequences have no step, or a state has a wrong shape.
        TypeError: if a keyword is unknown. The message names the nearest one.
        tf.errors.InvalidArgumentError: the same for sizes that a graph does not know before it runs. Under XLA the
            message is XLA's own.

    Example:

    >>> layer = GRU(4, reset_after=False, return_sequences=True)
    >>> layer(keras.ops.ones((2, 3, 5))).shape
    TensorShape([2, 3, 4])
    """

    @arguments(like=keras.layers.GRU, hidden=("implementation",))
    def __init__(self, bptt_steps: Size | None = None, **kwargs):
        self._set_up(GRUCell, "gru_cell", bptt_steps, kwargs)

    def get_config(self):
        return super().get_config() | {"use_cudnn": self.use_cudnn}


STAND_INS[keras.layers.GRU] = GRU, GRUCell
