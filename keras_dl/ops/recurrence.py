"""Loops over time: one state after the other, in one builtin WHILE that trains under XLA.

    s_t = step(x_t, s_{t-1})                                t = 1 .. T           `scan`
    s_t = step(x_t W + a, h_{t-1} R + b, s_{t-1})           t = 1 .. T           `product_scan`, h the first of s

Both take and give time as the first axis. A step whose mask is False hands the state on as it was. With `truncate=k`
the gradient stops at every k-th step: backpropagation through time, truncated to blocks of k steps (Williams and Peng
1990); the values stay what they are.

`scan` leaves the gradient to TensorFlow, which accumulates that of each weight step by step. `product_scan` has its
own: only the elementwise part of a step is differentiated in the backward loop, and the gradients of the kernels are
products of all steps at once after it,

    dR = sum_t h_{t-1}^T dp_t = [h_0 .. h_{T-1}]^T [dp_1 .. dp_T]          p_t = h_{t-1} R + b

which is what makes a training step fast under XLA. The two are equal in values and gradients, and the tests hold that.

The product with W is computed step by step as well: on CPUs, XLA (of TensorFlow 2.21) is slow in an elementwise step
that reads its row of a product made before the loop.
"""

import tensorflow as tf


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
            stops = _begins_a_block(t, truncate)
            states = tuple(tf.where(stops, tf.stop_gradient(s), s) for s in states)
        new = _carried(masks, t, tuple(step(rows.read(t), states)), states)
        return t + 1, new, tuple(array.write(t, new[0]) for array in outputs)

    _, states, outputs = loop(body, steps, (states, outputs))
    return (stacked(outputs[0], inputs) if keep_outputs else None), states


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
        additive: bool. Whether the step looks at the sum of both products alone.
        mask, keep_outputs, truncate: as in `scan`.

    Returns:
        outputs: `(time, batch, units)`, the first state after each step; None without `keep_outputs`.
        states: tuple of tensors, after the last step.
    """
    steps = size_of(inputs)
    masks = rows_of(mask, steps)

    @tf.custom_gradient
    def run(inputs, input_weights, state_weights, states):
        rows = rows_of(inputs, steps)
        if additive:  # (x, h) times (W, R): one product is faster than two and their sum
            kernel = tf.concat([input_weights[0], state_weights[0]], 0)
            biases = (*input_weights[1:], *state_weights[1:])

        def parts_of(x, hidden):
            if additive:
                return (_affine(tf.concat([x, hidden], 1), kernel, *biases),)
            return _affine(x, *input_weights), _affine(hidden, *state_weights)

        def body(t, now, arrays):
            parts = parts_of(rows.read(t), now[0])
            new = _carried(masks, t, tuple(step(*parts, *now)), now)
            seen, paths = arrays
            seen = tuple(a.write(t, x) for a, x in zip(seen, parts, strict=True))
            return t + 1, new, (seen, tuple(a.write(t + 1, x) for a, x in zip(paths, new, strict=True)))

        # What the elementwise part saw, (time, batch, width), and all states, the first ones before them,
        # (1 + time, batch, units): an array of those before each step, made after the loop, would be a copy.
        shape = inputs.shape[1], input_weights[0].shape[1]
        seen = tuple(tf.TensorArray(inputs.dtype, steps, element_shape=shape) for _ in range(1 if additive else 2))
        paths = tuple(empty(s, steps + 1).write(0, s) for s in states)
        _, last, (seen, paths) = loop(body, steps, (states, (seen, paths)))
        parts, paths = [stacked(array, inputs) for array in seen], [array.stack() for array in paths]

        def gradient(*d_results):
            d_outputs, d_last = (d_results[0], d_results[1:]) if keep_outputs else (None, d_results)
            d_parts, d_first = backward(state_weights[0], parts, paths, d_outputs, d_last)
            d_inputs = tf.matmul(d_parts[0], input_weights[0], transpose_b=True)
            d_input_weights = affine_gradient(inputs, d_parts[0], input_weights)
            d_state_weights = affine_gradient(paths[0][:-1], d_parts[-1], state_weights)
            return d_inputs, *d_input_weights, *d_state_weights, *d_first

        outputs = tf.ensure_shape(paths[0][1:], (inputs.shape[0], *paths[0].shape[1:]))
        return ((outputs, *last) if keep_outputs else last), gradient

    def backward(kernel, seen, paths, d_outputs, d_last):
        """Gradients of what each step saw, and of the states before the first."""
        states_rows = [rows_of(x, steps + 1) for x in paths]
        d_rows = rows_of(d_outputs, steps)
        kernel = tf.transpose(kernel)

        def body(i, d_states, arrays):
            t = steps - 1 - i
            parts, now = (tuple(x.read(t) for x in group) for group in (arrays, states_rows))
            d_hidden = d_states[0] + d_rows.read(t) if keep_outputs else d_states[0]
            d_new, d_kept = _split(masks, t, (d_hidden, *d_states[1:]))
            with tf.GradientTape() as tape:
                tape.watch((parts, now))
                new = tuple(step(*parts, *now))
            d_parts, d_now = tape.gradient(new, (parts, now), d_new, tf.UnconnectedGradients.ZERO)
            d_now = (d_now[0] + tf.matmul(d_parts[-1], kernel), *d_now[1:])
            d_now = tuple(a if b is None else a + b for a, b in zip(d_now, d_kept, strict=True))
            if truncate is not None:
                goes_on = tf.cast(tf.logical_not(_begins_a_block(t, truncate)), d_now[0].dtype)
                d_now = tuple(goes_on * d for d in d_now)
            return i + 1, d_now, tuple(a.write(t, d) for a, d in zip(arrays, d_parts, strict=True))

        # The gradient by what a step saw takes its place: another large array would cost time to fill.
        _, d_first, arrays = loop(body, steps, (tuple(d_last), tuple(rows_of(x, steps) for x in seen)))
        return [stacked(array, inputs) for array in arrays], d_first

    weights = (tuple(w for w in group if w is not None) for group in (input_weights, state_weights))
    results = tuple(run(inputs, *weights, tuple(states)))
    return (results[0], results[1:]) if keep_outputs else (None, results)


def _affine(x, kernel, *biases):
    product = tf.matmul(x, kernel)
    for bias in biases:
        product = product + bias
    return product


def affine_gradient(x, d, weights):
    """Gradients of the weights of `x kernel + bias`, of all steps at once."""
    x, d = (tf.reshape(a, (-1, a.shape[-1])) for a in (x, d))
    if len(weights) == 1:
        return (tf.matmul(x, d, transpose_a=True),)
    # The bias is the weight of a further feature, 1: faster than a sum over the steps, which would read them again.
    both = tf.matmul(tf.concat([x, tf.ones_like(x[:, :1])], 1), d, transpose_a=True)
    return both[:-1], both[-1]


def _unrolled(step, inputs, states, mask, keep_outputs, truncate):
    masks = None if mask is None else tf.unstack(mask)
    outputs = []
    for t, row in enumerate(tf.unstack(inputs)):
        if truncate is not None and t and t % truncate == 0:
            states = tuple(map(tf.stop_gradient, states))
        new = tuple(step(row, states))
        states = new if masks is None else _where(masks[t], new, states)
        outputs.append(states[0])
    return (tf.stack(outputs) if keep_outputs else None), states


def loop(body, steps, carried):
    """Runs `body(i, *carried) -> (i + 1, *carried)` for i = 0 .. steps - 1."""
    # XLA differentiates a loop only where it knows how often it runs at most.
    return tf.while_loop(lambda i, *_: i < steps, body, (tf.constant(0), *carried), maximum_iterations=steps)


def size_of(inputs):
    """Number of steps: int, or a scalar tensor where it is not known."""
    return tf.shape(inputs)[0] if inputs.shape[0] is None else inputs.shape[0]


def rows_of(x, steps):
    """A tensor `(time, ...)` to be read step by step; None of None."""
    if x is None:
        return None
    return tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:], clear_after_read=False).unstack(x)


def empty(like, steps):
    """An array of `steps` rows, each in the shape and dtype of `like`, to be written."""
    return tf.TensorArray(like.dtype, steps, element_shape=like.shape)


def stacked(array, inputs):
    """An array as a tensor `(time, ...)`, the time being that of `inputs` where it is known."""
    x = array.stack()
    return tf.ensure_shape(x, (inputs.shape[0], *x.shape[1:]))


def _begins_a_block(t, truncate):
    return tf.logical_and(t > 0, tf.equal(t % truncate, 0))


def _carried(masks, t, new, old):
    """The new states, or the old ones where the mask is False."""
    return new if masks is None else _where(masks.read(t), new, old)


def _where(mask, new, old):
    return tuple(tf.where(tf.expand_dims(mask, -1), a, b) for a, b in zip(new, old, strict=True))


def _split(masks, t, d_states):
    """What of the states' gradients goes through the step, and what past it (None: nothing)."""
    if masks is None:
        return d_states, (None,) * len(d_states)
    mask = tf.expand_dims(masks.read(t), -1)
    zeros = [tf.zeros_like(d) for d in d_states]
    through = tuple(tf.where(mask, d, zero) for d, zero in zip(d_states, zeros, strict=True))
    return through, tuple(tf.where(mask, zero, d) for d, zero in zip(d_states, zeros, strict=True))
