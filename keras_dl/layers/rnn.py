"""Elman's recurrent network: a state that is fed back.

    h_t = act(W x_t + U h_{t-1} + b)                                                              t = 1 .. T

Gradients of h_T by h_t are products of T - t matrices U^T diag(act'), which vanish or explode with the distance. U
starts orthogonal, which keeps their length as long as act' is near 1. `SimpleRNN.irnn` starts it as the identity with
relu, so that the state is a plain sum until training changes it. `bptt_steps` cuts the products after so many steps.
Clip the norm of the gradients (`global_clipnorm` of the optimizer): that cures only the exploding ones.

A masked step keeps the state.

References: Elman 1990, "Finding structure in time", Cognitive Science 14. Le, Jaitly, Hinton 2015, "A simple way to
initialize recurrent networks of rectified linear units", arXiv:1504.00941, section 3 (IRNN). Williams and Peng 1990,
"An efficient gradient-based algorithm for on-line training of recurrent network trajectories", Neural Computation 2
(truncated backpropagation).

Deviations: Elman's network contains its output layer, and no gradient goes through its copy of the state
(`bptt_steps=1`). Le et al. draw the input weights from a normal distribution of standard deviation 0.001, and so does
`irnn`.
"""

import keras
from keras import initializers

from keras_dl.arguments import Size, arguments
from keras_dl.layers.recurrent import Cell, Recurrent
from keras_dl.tracing import STAND_INS


@keras.saving.register_keras_serializable(package="keras_dl")
class SimpleRNNCell(Cell, keras.layers.SimpleRNNCell):
    """One step of `SimpleRNN`, for `keras.layers.RNN`.

    Args:
        units: int.
        The other arguments are those of `keras.layers.SimpleRNNCell`, in its order.

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

    >>> layer = keras.layers.RNN([SimpleRNNCell(8), SimpleRNNCell(4)], return_sequences=True)
    >>> layer(keras.ops.ones((2, 3, 5))).shape
    TensorShape([2, 3, 4])
    """

    @arguments(like=keras.layers.SimpleRNNCell)
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def advance(self, gates, hidden):
        return (self.activation(gates),)


@keras.saving.register_keras_serializable(package="keras_dl")
class SimpleRNN(Recurrent, keras.layers.SimpleRNN):
    """Elman's recurrent layer. It replaces `keras.layers.SimpleRNN`: same arguments, weights, states and values.

    In LiteRT its steps are one builtin WHILE. With `unroll=True` they are written one after the other, which the
    calibration of an int8 file needs.

    Args:
        units: int. Width of the state, which is the output.
        The next arguments are those of `keras.layers.SimpleRNN`, in its order.
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

    >>> layer = SimpleRNN.irnn(4, return_sequences=True)
    >>> layer(keras.ops.ones((2, 3, 5))).shape
    TensorShape([2, 3, 4])
    """

    @arguments(like=keras.layers.SimpleRNN)
    def __init__(self, bptt_steps: Size | None = None, **kwargs):
        self._set_up(SimpleRNNCell, "simple_rnn_cell", bptt_steps, kwargs)

    @classmethod
    def irnn(cls, units: int, **options) -> "SimpleRNN":
        """The layer of Le et al.: relu, the identity as recurrent kernel, small input weights.

        `options` are arguments of the constructor, and win over those three.
        """
        defaults = dict(
            activation="relu",
            recurrent_initializer="identity",
            kernel_initializer=initializers.RandomNormal(stddev=0.001),
        )
        return cls(units, **(defaults | options))


STAND_INS[keras.layers.SimpleRNN] = SimpleRNN, SimpleRNNCell
