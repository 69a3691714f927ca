"""Shared parts of the recurrent layers: a Keras layer's interface around the loops of `keras_dl.ops.recurrence`.

A layer is a subclass of Keras's own, and replaces it: arguments, weights, masks, states, `Bidirectional`. It runs its
steps in another way:

- In training under XLA, in a loop with a backward pass of its own (`product_scan`), if the only weights of a step are
  in its products with input and state.
- In training without XLA, in `scan`, with the product with the input inside it: TensorFlow computes the gradients of
  the weights beside the steps, on another thread.
- In training with dropout of the state, or with a dropout mask for each gate, in `scan` around Keras's own step.
- Otherwise, and in inference, in `scan`, after one product of all steps with the input kernel; unrolled with
  `unroll=True`.
- On a GPU, as Keras does it (cuDNN). Not measured.

Its cell is a subclass of Keras's with three methods: `project(inputs)`, the part of all steps that does not need the
state; `product(h)`, that of one step with the recurrent kernel; and `advance(*parts, *states)`, the rest.
"""

import inspect

import keras
import tensorflow as tf
from keras import ops

from keras_dl.checks import asserted, shapes_agree
from keras_dl.compat import NoDropoutMasksInInference, in_xla
from keras_dl.ops.recurrence import product_scan, scan
from keras_dl.tracing import is_unrolled

# Names of the states of a layer, by its cell. With the number of the layer: `hidden_0`, `cell_0`, `hidden_1`, ...
STATES = {"rnn": ("hidden",), "irnn": ("hidden",), "lstm": ("hidden", "cell"), "gru": ("hidden",)}


class Cell:
    """Mixin of the cells, before Keras's class.

    Attributes that a cell sets:
        additive: bool. Whether a step needs only the sum of its products with input and state.
        elementwise: bool. Whether `advance` has no weights, so that `product_scan` can run it.
        implementation: int, as in Keras: 1 has a dropout mask for each gate. Elman's cell has no gates.
    """

    additive = True
    elementwise = True
    implementation = 2

    def project(self, inputs):
        """`(..., features)` to the part of the gates that is known before any state: `(..., width)`."""
        kernel, bias = self.input_weights()
        projected = ops.matmul(inputs, kernel)  # (..., width)
        return projected if bias is None else projected + ops.cast(bias, projected.dtype)

    def product(self, hidden):
        """`(batch, units)` to `(batch, width)`."""
        return ops.matmul(hidden, self.recurrent_kernel)

    def parts(self, projected, hidden):
        """The arguments of `advance` before the states."""
        product = self.product(hidden)
        return (projected + product,) if self.additive else (projected, product)

    def input_weights(self):
        """Kernel and bias (or None) of `project`."""
        return self.kernel, self.bias

    def recurrent_weights(self):
        """Kernel and bias (or None) of `product`."""
        return self.recurrent_kernel, None

    def step(self, projected, states):
        """The new states of one step, from its row of `project`."""
        return self.advance(*self.parts(projected, states[0]), *states)

    @property
    def drops_in_the_step(self):
        """Whether Keras's own step does the dropout in training: masks of the state, or one for each gate."""
        return bool(self.recurrent_dropout or (self.dropout and self.implementation == 1))

    def call(self, inputs, states, training=False):
        if training and self.drops_in_the_step:
            return super().call(inputs, states, training=training)
        if training and self.dropout:
            inputs = inputs * self.get_dropout_mask(inputs)
        listed = states if isinstance(states, list | tuple) else [states]
        new = list(self.step(self.project(inputs), listed))
        return new[0], (new if isinstance(states, list | tuple) else new[0])


class Recurrent(NoDropoutMasksInInference):
    """Mixin of the layers, before Keras's class. A layer's `cell` is a `Cell`."""

    use_cudnn = False
    bptt_steps = None

    def _set_up(self, cell_class, cell_name, bptt_steps, options):
        """The constructor. Each option goes to the cell or to `keras.layers.RNN`, by the signature of the cell."""
        use_cudnn = options.pop("use_cudnn", False)
        if use_cudnn not in ("auto", True, False):
            raise ValueError(f"use_cudnn={use_cudnn!r} must be 'auto', True or False.")
        names = [*inspect.signature(cell_class).parameters, "implementation"]
        of_cell = {name: options.pop(name) for name in names if name in options}
        of_both = {name: options[name] for name in ("dtype", "trainable") if name in options}
        keras.layers.RNN.__init__(self, cell_class(**of_cell, **of_both, name=cell_name), **options)
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.bptt_steps = bptt_steps
        self.use_cudnn = use_cudnn
        self.supports_jit = not self._leaves_it_to_keras()  # XLA does not compile cuDNN's kernels

    def get_config(self):
        return super().get_config() | {"seed": self.seed, "bptt_steps": self.bptt_steps}

    @property
    def seed(self):
        return self.cell.seed

    def add_loss(self, loss):
        """As in Keras, in the weights' precision: Keras cannot add losses of two precisions."""
        super().add_loss(keras.tree.map_structure(lambda x: ops.cast(x, self.variable_dtype), loss))

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        if initial_state_shape is not None:
            nested = isinstance(initial_state_shape[0], list | tuple)
            self._check(sequences_shape, initial_state_shape if nested else [initial_state_shape])
        else:
            self._check(sequences_shape)
        return super().compute_output_shape(sequences_shape)

    def _check(self, sequences_shape, states_shapes=None):
        if sequences_shape[1] == 0:
            raise ValueError(
                f"sequences of shape {tuple(sequences_shape)} have no step; {self.name} needs at least one."
            )
        if states_shapes is None:
            return
        wanted = [(sequences_shape[0], size) for size in self.state_size]
        given = [tuple(shape) for shape in states_shapes]
        if len(given) != len(wanted) or not all(map(shapes_agree, given, wanted)):
            raise ValueError(
                f"initial_state of {self.name} has the shapes {given}; it must have {wanted}, (batch, units) each."
            )

    def call(self, sequences, initial_state=None, mask=None, training=False):
        if initial_state is None:
            self._check(sequences.shape)
        else:
            states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
            self._check(sequences.shape, [s.shape for s in states])
            initial_state = [self._of_as_many_rows(s, sequences) for s in states]
        if sequences.shape[1] is None:
            sequences = asserted(
                sequences, tf.shape(sequences)[1] > 0, f"sequences have no step; {self.name} needs at least one."
            )
        if self.stateful and sequences.shape[0] is None:
            # Otherwise a batch of one row would be broadcast to as many as the states have.
            sequences = tf.ensure_shape(sequences, (self.states[0].shape[0], None, None))
        if isinstance(mask, list | tuple):
            mask = mask[0]
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    def _of_as_many_rows(self, state, sequences):
        """The state, which must have as many rows as the sequences. Unknown sizes are checked when the graph runs."""
        if None not in (state.shape[0], sequences.shape[0]):
            return state
        same = tf.equal(tf.shape(state)[0], tf.shape(sequences)[0])
        return asserted(state, same, f"initial_state of {self.name} must have as many rows as the sequences.")

    def inner_loop(self, sequences, initial_state, mask, training=False):
        states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
        if self._leaves_it_to_keras():
            self._draw_dropout_masks(sequences, states)
            return super().inner_loop(sequences, initial_state, mask, training=training)
        # Those of a stateful layer are variables, which hold the last states when the gradient is computed.
        states = [tf.convert_to_tensor(s) for s in states]
        if mask is not None:
            mask = ops.cast(mask, "bool")
            mask = ops.squeeze(mask, -1) if len(mask.shape) == 3 else mask  # (batch, time)
            if not is_unrolled():  # a device has no gradients, and NPUs do not select
                # NaN at a masked step would make the gradient by the kernel NaN: 0 times NaN.
                sequences = ops.where(ops.expand_dims(mask, -1), sequences, ops.zeros((), sequences.dtype))
        if training:
            self._draw_dropout_masks(sequences, states)
        if self.go_backwards:
            sequences = ops.flip(sequences, axis=1)
            mask = None if mask is None else ops.flip(mask, axis=1)
        outputs, states = self._steps(sequences, states, mask, training)
        if mask is not None:
            outputs = self._masked(outputs, states[0], mask)
        if not self.return_sequences:
            last = states[0] if mask is None else outputs
            return last, last, list(states)
        outputs = ops.transpose(outputs, (1, 0, 2)) if mask is None else outputs  # (batch, time, units)
        return outputs[:, -1], outputs, list(states)

    def _draw_dropout_masks(self, sequences, states):
        """Before the loop, so that all steps have the same ones."""
        self.cell.get_dropout_mask(sequences[:, 0])
        self.cell.get_recurrent_dropout_mask(states[0])

    def _steps(self, sequences, states, mask, training):
        """Runs the loop: outputs `(time, batch, units)`, or None without `return_sequences`, and the last states."""
        cell = self.cell
        mask = None if mask is None else ops.transpose(mask)  # (time, batch)
        unroll = (self.unroll or is_unrolled()) and sequences.shape[1] is not None
        options = dict(mask=mask, truncate=self.bptt_steps, keep_outputs=self.return_sequences)
        if training and cell.drops_in_the_step:
            # Keras's own step, whose dropout masks stay the same over all steps of a batch.
            def step(x, states):
                return cell(x, list(states), training=True)[1]

            rows = ops.transpose(sequences, (1, 0, 2))  # (time, batch, features)
            return scan(step, rows, states, unroll=unroll, **options)
        if training and cell.dropout:
            sequences = sequences * ops.expand_dims(cell.get_dropout_mask(sequences[:, 0]), 1)
        rows = ops.transpose(sequences, (1, 0, 2))  # (time, batch, features)
        if training and cell.elementwise and not unroll:
            if not in_xla():
                return scan(lambda x, states: cell.step(cell.project(x), states), rows, states, **options)
            weights = (
                [None if w is None else ops.cast(w, rows.dtype) for w in pair]
                for pair in (cell.input_weights(), cell.recurrent_weights())
            )
            return product_scan(cell.advance, rows, *weights, states, cell.additive, **options)
        rows = cell.project(rows)  # (time, batch, width)
        return scan(cell.step, rows, states, unroll=unroll, **options)

    def _masked(self, outputs, last, mask):
        """Outputs as Keras defines them at masked steps: those of the step before, or zeros.

        They are zeros before the first step that counts, and at all masked steps with `zero_output_for_mask`.

        Returns:
            `(batch, time, units)`, or `(batch, units)` without `return_sequences`.
        """
        if self.return_sequences:
            outputs = ops.transpose(outputs, (1, 0, 2))  # (batch, time, units)
            begun = mask if self.zero_output_for_mask else ops.cumsum(ops.cast(mask, "int32"), axis=1) > 0
        else:
            outputs = last
            begun = mask[:, -1] if self.zero_output_for_mask else ops.any(mask, axis=1)
        return ops.where(ops.expand_dims(begun, -1), outputs, ops.zeros((), outputs.dtype))

    def _leaves_it_to_keras(self):
        """Whether Keras uses cuDNN here. `use_cudnn=True` without cuDNN is an error that Keras raises."""
        plain = self.bptt_steps is None and self.cell.elementwise
        on_gpu = plain and self.use_cudnn == "auto" and bool(tf.config.list_physical_devices("GPU"))
        return self.use_cudnn is True or on_gpu
