"""Loops over time in one builtin WHILE, and the two passes of a recurrence that has a gradient of its own.

Time is the first axis. Such a recurrence has its weights in what a step sees, and none in the step itself:

    parts_t = see(t, h_{t-1})               products with the weights
    s_t = step(*parts_t, *s_{t-1})          elementwise; h is the first of the states s

`forward_loop` keeps all parts and all states. `backward_loop` goes from the last step to the first, differentiates
`step` there, and returns the gradients of all parts. From those the caller computes the gradient of each weight, as one
product of all steps at once:

    p_t = h_{t-1} R + b          dR = sum_t h_{t-1}^T dp_t = [h_0 .. h_{T-1}]^T [dp_1 .. dp_T]

TensorFlow's own gradient of a loop adds it up step by step, which is slow under XLA.
"""

import tensorflow as tf


def loop(body, steps, carried):
    """Runs `body(i, *carried) -> (i + 1, *carried)` for i = 0 .. steps - 1."""
    # XLA differentiates a loop only where it knows how often it runs at most.
    return tf.while_loop(lambda i, *_: i < steps, body, (tf.constant(0), *carried), maximum_iterations=steps)


def forward_loop(see, step, inputs, states, widths, masks=None):
    """Runs all steps, and keeps what the backward pass needs.

    Args:
        see: `see(t, hidden) -> (parts, others)`: tuples of tensors `(batch, width)`. `parts` go to the step, `others`
            are kept with them.
        step: `step(*parts, *states) -> new states`, without weights of its own.
        inputs: `(time, batch, ...)`. The loop has its length, its batch and its dtype.
        states: tuple of tensors `(batch, units)`: those before the first step.
        widths: sequence of int: those of the parts and of the others.
        masks: bool rows `(batch,)`, as of `rows_of`, or None. A step whose mask is False keeps the states.

    Returns:
        kept: list of tensors `(time, batch, width)`: the parts and the others.
        paths: list of tensors `(1 + time, batch, units)`: each state before the first step and after each.
        last: tuple of tensors `(batch, units)`: the states after the last step.
    """
    steps = size_of(inputs)

    def body(t, states, kept, paths):
        parts, others = see(t, states[0])
        new = carried_on(masks, t, tuple(step(*parts, *states)), states)
        kept = tuple(a.write(t, x) for a, x in zip(kept, (*parts, *others), strict=True))
        return t + 1, new, kept, tuple(a.write(t + 1, x) for a, x in zip(paths, new, strict=True))

    kept = tuple(tf.TensorArray(inputs.dtype, steps, element_shape=(inputs.shape[1], width)) for width in widths)
    # An array of the states before each step, made after the loop, would be a copy.
    paths = tuple(empty(s, steps + 1).write(0, s) for s in states)
    _, last, kept, paths = loop(body, steps, (states, kept, paths))
    return [stacked(array, inputs) for array in kept], [array.stack() for array in paths], last


def backward_loop(step, back, parts, paths, d_hidden, d_last, carried=(), masks=None, truncate=None):
    """The backward pass of `forward_loop`.

    Args:
        step, masks: as in `forward_loop`.
        back: `back(t, d_parts, carried) -> (d_hidden, carried)`: from the gradients of the parts of step t, the
            gradient of the hidden state that the step saw, and the values for the step before it.
        parts: list of tensors `(time, batch, width)`.
        paths: list of tensors `(1 + time, batch, units)`.
        d_hidden: gradients of the hidden states after each step, `(time, batch, units)`; None for zeros.
        d_last: sequence of tensors `(batch, units)`: gradients of the states after the last step.
        carried: nested tensors and `tf.TensorArray`s: the first argument `carried` of `back`.
        truncate: int, or None. The gradient stops where the number of the step, from 0, is a multiple of it.

    Returns:
        d_parts: list of tensors `(time, batch, width)`.
        d_first: tuple of tensors `(batch, units)`: gradients of the states before the first step.
        carried: the last result `carried` of `back`.
    """
    steps = size_of(parts[0])
    states_rows, d_rows = [rows_of(x, steps + 1) for x in paths], rows_of(d_hidden, steps)

    def body(i, d_states, arrays, carried):
        t = steps - 1 - i
        seen, states = (tuple(x.read(t) for x in group) for group in (arrays, states_rows))
        d_new = d_states if d_rows is None else (d_states[0] + d_rows.read(t), *d_states[1:])
        d_new, d_past = _split(masks, t, d_new)
        with tf.GradientTape() as tape:
            tape.watch((seen, states))
            new = tuple(step(*seen, *states))
        d_seen, d_states = tape.gradient(new, (seen, states), d_new, tf.UnconnectedGradients.ZERO)
        d_product, carried = back(t, d_seen, carried)
        d_states = (d_states[0] + d_product, *d_states[1:])
        d_states = tuple(a if b is None else a + b for a, b in zip(d_states, d_past, strict=True))
        if truncate is not None:
            goes_on = tf.cast(tf.logical_not(begins_a_block(t, truncate)), d_states[0].dtype)
            d_states = tuple(goes_on * d for d in d_states)
        return i + 1, d_states, tuple(a.write(t, d) for a, d in zip(arrays, d_seen, strict=True)), carried

    # The gradient of a part takes the place of the part: another large array would cost time to fill.
    arrays = tuple(rows_of(x, steps) for x in parts)
    _, d_first, arrays, carried = loop(body, steps, (tuple(d_last), arrays, carried))
    return [stacked(array, parts[0]) for array in arrays], d_first, carried


def affine(x, kernel, *biases):
    """`x kernel + bias`, with any number of biases."""
    product = tf.matmul(x, kernel)
    for bias in biases:
        product = product + bias
    return product


def affine_gradient(x, d, weights):
    """Gradients of the weights, kernel and perhaps bias, of `affine(x, *weights)`, of all steps at once."""
    x, d = (tf.reshape(a, (-1, a.shape[-1])) for a in (x, d))  # (time x batch, width)
    if len(weights) == 1:
        return (tf.matmul(x, d, transpose_a=True),)
    # The bias is the weight of a further feature, 1: faster than a sum over the steps, which would read them again.
    both = tf.matmul(tf.concat([x, tf.ones_like(x[:, :1])], 1), d, transpose_a=True)
    return both[:-1], both[-1]


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


def begins_a_block(t, truncate):
    """Whether the gradient stops before step t, a scalar tensor."""
    return tf.logical_and(t > 0, tf.equal(t % truncate, 0))


def carried_on(masks, t, new, old):
    """The new states, or the old ones where the mask of step t is False."""
    return new if masks is None else where(masks.read(t), new, old)


def where(mask, new, old):
    """Of two tuples of tensors `(batch, ...)`, the rows of the first where the mask `(batch,)` is True."""
    return tuple(tf.where(tf.expand_dims(mask, -1), a, b) for a, b in zip(new, old, strict=True))


def _split(masks, t, d_states):
    """The part of the states' gradients that goes through the step, and the part that goes past it (None: nothing)."""
    if masks is None:
        return d_states, (None,) * len(d_states)
    zeros = tuple(map(tf.zeros_like, d_states))
    mask = masks.read(t)
    return where(mask, d_states, zeros), where(mask, zeros, d_states)
