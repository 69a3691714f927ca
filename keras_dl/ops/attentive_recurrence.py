"""A loop over time that looks at a memory before each step, as the decoder of Bahdanau et al. does.

    a_t = softmax_s(v^T tanh(h_{t-1} Q + k_s))                 weights, over the places s that are kept
    c_t = sum_s a_ts m_s                                       context
    s_t = step(x_t + c_t K, h_{t-1} R + b, s_{t-1})            h the first of s

It has a gradient of its own, in the two loops of `keras_dl.ops.loops`. Values and weights that all steps share get
their gradients as one product of all steps after the backward loop:

    dm_s = sum_t a_ts dc_t        dK = sum_t c_t^T dx_t        d[Q R] = sum_t h_{t-1}^T [dq_t dp_t]

The keys k and the vector v are the exception. Their part of a step is `(batch, places, units)`, too large to keep for
all steps. So the backward loop computes the hidden layer of the scores again, and adds up its gradients.

Reference: Bahdanau, Cho, Bengio 2014, arXiv:1409.0473, appendix A.1.2 and A.2.2.
"""

import typing

import tensorflow as tf

from keras_dl.ops.attention import masked_softmax
from keras_dl.ops.loops import affine_gradient, backward_loop, empty, forward_loop, rows_of, size_of, stacked


class Memory(typing.NamedTuple):
    """The memory that the steps look at, and the weights of the attention.

    Attributes:
        values: m, float `(batch, places, width)`.
        keys: k, float `(batch, places, units)`: the part of the memory in the hidden layer of the scores.
        keep: bool, `(batch, places)`. True = a place that counts. Where none does, weights and context are zeros.
        query_kernel: Q, `(hidden, units)`.
        vector: v, `(units, 1)`.
        context_kernel: K, `(width, gates)`.
    """

    values: tf.Tensor
    keys: tf.Tensor
    keep: tf.Tensor
    query_kernel: tf.Tensor
    vector: tf.Tensor
    context_kernel: tf.Tensor


def attentive_scan(step, rows, memory, state_weights, states, additive):
    """Runs all steps.

    Args:
        step: `step(*parts, *states) -> new states`, without weights of its own. `parts` is `(x + p,)` where `additive`,
            else `(x, p)`: x with the context's part, and the product with the state.
        rows: x, float `(time, batch, gates)`: the part of each step's input in the gates, without the context.
        memory: `Memory`.
        state_weights: R, `(hidden, gates)`, and b, `(gates,)` or None.
        states: sequence of tensors `(batch, hidden)`: those before the first step.
        additive: bool. Whether the step needs only the sum of both parts.

    Returns:
        float `(time, batch, ...)` each: hidden states, contexts, and weights.
    """
    steps = size_of(rows)
    keep, widths = memory.keep, (memory.query_kernel.shape[1], state_weights[0].shape[1])
    wide = tf.float64 if rows.dtype == tf.float64 else tf.float32  # of a softmax, as in `masked_softmax`

    def hidden_layer(query, keys):
        """That of the scores: `(batch, units)` and `(batch, places, units)` to `(batch, places, units)`."""
        return tf.tanh(tf.expand_dims(query, 1) + keys)

    @tf.custom_gradient
    def run(rows, values, keys, query_kernel, vector, context_kernel, state_weights, states):
        x_rows = rows_of(rows, steps)
        both = tf.concat([query_kernel, state_weights[0]], 1)  # one product with the state is faster than two

        def see(t, hidden):
            query, product = tf.split(tf.matmul(hidden, both), widths, 1)  # (batch, units), (batch, gates)
            if len(state_weights) > 1:
                product += state_weights[1]
            scores = tf.squeeze(tf.matmul(hidden_layer(query, keys), vector), -1)  # (batch, places)
            weights = tf.cast(masked_softmax(scores, keep), values.dtype)
            context = tf.squeeze(tf.matmul(tf.expand_dims(weights, 1), values), 1)  # (batch, width)
            projected = x_rows.read(t) + tf.matmul(context, context_kernel)
            return (projected + product,) if additive else (projected, product), (query, context, weights)

        sizes = [widths[1]] * (1 if additive else 2) + [widths[0], values.shape[2], values.shape[1]]
        kept, paths, _ = forward_loop(see, step, rows, tuple(states), sizes)
        *parts, queries, contexts, weights = kept

        def gradient(d_hidden, d_contexts, d_weights):
            both_t, context_kernel_t = tf.transpose(both), tf.transpose(context_kernel)
            query_rows, weight_rows, d_context_rows, d_weight_rows = (
                rows_of(x, steps) for x in (queries, weights, d_contexts, d_weights)
            )

            def back(t, d_parts, carried):
                (d_keys, d_vector), (d_query_array, d_context_array) = carried
                d_context = d_context_rows.read(t) + tf.matmul(d_parts[0], context_kernel_t)
                d_weights = d_weight_rows.read(t) + tf.squeeze(tf.matmul(values, tf.expand_dims(d_context, 2)), 2)
                a, d_a = (tf.cast(x, wide) for x in (weight_rows.read(t), d_weights))  # (batch, places)
                d_scores = tf.cast(a * (d_a - tf.reduce_sum(a * d_a, 1, keepdims=True)), values.dtype)
                hidden = hidden_layer(query_rows.read(t), keys)
                d_inner = tf.expand_dims(d_scores, 2) * tf.squeeze(vector, 1) * (1 - hidden * hidden)
                d_query = tf.reduce_sum(d_inner, 1)  # (batch, units)
                d_vector += affine_gradient(hidden, tf.expand_dims(d_scores, 2), (vector,))[0]
                arrays = d_query_array.write(t, d_query), d_context_array.write(t, d_context)
                return tf.matmul(tf.concat([d_query, d_parts[-1]], 1), both_t), ((d_keys + d_inner, d_vector), arrays)

            sums = tf.zeros_like(keys), tf.zeros_like(vector)
            arrays = empty(queries[0], steps), empty(contexts[0], steps)
            d_last = [tf.zeros_like(path[0]) for path in paths]
            d_parts, d_first, ((d_keys, d_vector), arrays) = backward_loop(
                step, back, parts, paths, d_hidden, d_last, (sums, arrays)
            )
            d_queries, d_contexts = (stacked(array, rows) for array in arrays)
            # (batch, places, width)
            d_values = tf.matmul(tf.transpose(weights, (1, 2, 0)), tf.transpose(d_contexts, (1, 0, 2)))
            (d_context_kernel,) = affine_gradient(contexts, d_parts[0], (context_kernel,))
            d_query_kernel, *d_state_weights = _split(
                affine_gradient(paths[0][:-1], tf.concat([d_queries, d_parts[-1]], 2), (both, *state_weights[1:])),
                widths,
            )
            return (
                *(d_parts[0], d_values, d_keys, d_query_kernel, d_vector, d_context_kernel),
                *d_state_weights,
                *d_first,
            )

        hidden = tf.ensure_shape(paths[0][1:], (rows.shape[0], *paths[0].shape[1:]))
        return (hidden, contexts, weights), gradient

    *tensors, context_kernel = memory.values, memory.keys, memory.query_kernel, memory.vector, memory.context_kernel
    weights = tuple(w for w in state_weights if w is not None)
    return run(rows, *tensors, context_kernel, weights, tuple(states))


def _split(d_weights, widths):
    """Gradients of both kernels, and of the second one's bias where there is one."""
    kernel, *bias = d_weights
    return *tf.split(kernel, widths, 1), *(b[widths[0] :] for b in bias)
