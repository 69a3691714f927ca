"""Recurrences: one state after the other, in one builtin WHILE that trains under XLA.

    s_t = step(x_t, s_{t-1})                                t = 1 .. T           `scan`
    s_t = step(x_t W + a, h_{t-1} R + b, s_{t-1})           t = 1 .. T           `product_scan`, h the first of s

Both take and give time as the first axis. A step whose mask is False hands the state on as it was. With `truncate=k`
the gradient stops at every k-th step: backpropagation through time, truncated to blocks of k steps (Williams and Peng
1990). The values stay the same.

`scan` leaves the gradient to TensorFlow, which adds up that of each weight step by step. `product_scan` has its own
(`keras_dl.ops.loops`), which makes a training step fast under XLA. The two are equal in values and gradients, and the
tests hold that.

The product with W is computed step by step as well: on CPUs, XLA (of TensorFlow 2.21) is slow in an elementwise step
that reads its row of a product made before the loop.
"""

import tensorflow as tf

from keras_dl.ops.loops import (
    affine,
    affine_gradient,
    backward_loop,
    begins_a_block,
    carried_on,
    empty,
    forward_loop,
    loop,
    rows_of,
    size_of,
    stacked,
    where,
)


def scan(step, inputs, states, mask=None, keep_outputs=True, truncate=None, unroll=False):
    """Runs `step` over all steps.

    Args:
        step: `step(x, states) -> new states`: tensors in the shapes and dtypes of `states`, without time.
        inputs: `(time, batch, ...)`.
        states: sequence of tensors `(batch, ...)`: those before the first step.
        mask: bool, `(time, batch)`, or None. True = the step counts.
        keep_outputs: bool. Whether the first state of each step is wanted.
        truncate: int, or None. The gradient stops where the number of the step, from 0, is a multiple of it.
        unroll: bool. Writes the steps one after the other, without a loop; needs a static time.

    Returns:
        outputs: `(time, batch, ...)`, the first state after each step; None without `keep_outputs`.
        states: tuple of tensors, after the last step.

    Example:

    >>> outputs, (total,) = scan(lambda x, s: (s[0] + x,), tf.ones((4, 1, 1)), [tf.zeros((1, 1))])
    >>> outputs.numpy().ravel(), total.numpy().ravel()
    (array([1., 2., 3., 4.], dtype=float32), array([4.], dtype=float32))
    """
    states = tuple(states)
    if unroll:
        return _unrolled(step, inputs, states, mask, keep_outputs, truncate)
    steps = size_of(inputs)
    rows, masks = rows_of(inputs, steps), rows_of(mask, steps)
    outputs = (empty(states[0], steps),) if keep_outputs else ()

    def body(t, states, outputs):
        if truncate is not None:
            stops = begins_a_block(t, truncate)
            states = tuple(tf.where(stops, tf.stop_gradient(s), s) for s in states)
        new = carried_on(masks, t, tuple(step(rows.read(t), states)), states)
        return t + 1, new, tuple(array.write(t, new[0]) for array in outputs)

    _, states, outputs = loop(body, steps, (states, outputs))
    return (stacked(outputs[0], inputs) if keep_outputs else None), states


def _unrolled(step, inputs, states, mask, keep_outputs, truncate):
    masks = None if mask is None else tf.unstack(mask)
    outputs = []
    for t, row in enumerate(tf.unstack(inputs)):
        if truncate is not None and t and t % truncate == 0:
            states = tuple(map(tf.stop_gradient, states))
        new = tuple(step(row, states))
        states = new if masks is None else where(masks[t], new, states)
        outputs.append(states[0])
    return (tf.stack(outputs) if keep_outputs else None), states


def product_scan(
    step, inputs, input_weights, state_weights, states, additive, mask=None, keep_outputs=True, truncate=None
):
    """`scan` of a step whose only weights are in the products `q = x W + a` and `p = states[0] R + b`.

    Args:
        step: `step(*parts, *states) -> new states`, without weights of its own. `parts` is `(q + p,)` where `additive`,
            else `(q, p)`.
        inputs: `(time, batch, features)`.
        input_weights: W, `(features, width)`, and a, `(width,)` or None.
        state_weights: R, `(units, width)`, and b, `(width,)` or None.
        states: sequence of tensors `(batch, units)`.
        additive: bool. Whether the step needs only the sum of both products.
        mask, keep_outputs, truncate: as in `scan`.

    Returns:
        outputs: `(time, batch, units)`, the first state after each step; None without `keep_outputs`.
        states: tuple of tensors, after the last step.

    Example:

    >>> def step(total, state):
    ...     return (tf.tanh(total),)
    >>> x, weights = tf.ones((4, 1, 2)), (tf.ones((2, 3)), None)
    >>> outputs, states = product_scan(step, x, weights, (tf.eye(3), None), [tf.zeros((1, 3))], additive=True)
    >>> outputs.shape, states[0].shape
    (TensorShape([4, 1, 3]), TensorShape([1, 3]))
    """
    steps = size_of(inputs)
    masks = rows_of(mask, steps)

    @tf.custom_gradient
    def run(inputs, input_weights, state_weights, states):
        rows = rows_of(inputs, steps)
        if additive:  # (x, h) times (W, R): one product is faster than two and their sum
            kernel = tf.concat([input_weights[0], state_weights[0]], 0)
            biases = (*input_weights[1:], *state_weights[1:])

        def see(t, hidden):
            x = rows.read(t)
            if additive:
                return (affine(tf.concat([x, hidden], 1), kernel, *biases),), ()
            return (affine(x, *input_weights), affine(hidden, *state_weights)), ()

        widths = [input_weights[0].shape[1]] * (1 if additive else 2)
        parts, paths, last = forward_loop(see, step, inputs, states, widths, masks)

        def gradient(*d_results):
            d_outputs, d_last = (d_results[0], d_results[1:]) if keep_outputs else (None, d_results)
            transposed = tf.transpose(state_weights[0])

            def back(t, d_parts, carried):
                return tf.matmul(d_parts[-1], transposed), carried

            d_parts, d_first, _ = backward_loop(
                step, back, parts, paths, d_outputs, d_last, masks=masks, truncate=truncate
            )
            d_inputs = tf.matmul(d_parts[0], input_weights[0], transpose_b=True)  # (time, batch, features)
            d_input_weights = affine_gradient(inputs, d_parts[0], input_weights)
            d_state_weights = affine_gradient(paths[0][:-1], d_parts[-1], state_weights)
            return d_inputs, *d_input_weights, *d_state_weights, *d_first

        outputs = tf.ensure_shape(paths[0][1:], (inputs.shape[0], *paths[0].shape[1:]))  # (time, batch, units)
        return ((outputs, *last) if keep_outputs else last), gradient

    weights = (tuple(w for w in group if w is not None) for group in (input_weights, state_weights))
    results = tuple(run(inputs, *weights, tuple(states)))
    return (results[0], results[1:]) if keep_outputs else (None, results)
