"""Time and peak memory of attention, in chunks and whole; and the layer against those of Keras and torch.

Measured by `keras-dl benchmark attention --rounds 1`. Peak memory of the process in MiB, and milliseconds:

    length     chunked       whole         memory beyond that at 1,024: chunked, whole
     1,024     769, 8.5      754, 9.3
     4,096     803, 117      970, 164        34,   216
    16,384     928, 2,229    4,025, 1,708   159, 3,271

From 4,096 to 16,384 tokens, the memory beyond that at 1,024 grows 4.7 times in chunks (linear growth is 5 times), and
15 times as a whole (quadratic growth is 17 times).
"""

import functools

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.extras import require

DIM, CHUNK = 64, 512
BATCH, LENGTH, WIDTH, HEADS = 32, 128, 256, 8


def gradients(length, form):
    """Forward and backward of one head, compiled by XLA."""

    def set_up():
        import tensorflow as tf

        from keras_dl.ops.attention import chunked_attention, dot_product_attention

        attend = {
            "whole": lambda *x: dot_product_attention(*x)[0],
            "chunked": functools.partial(chunked_attention, chunk_size=CHUNK),
        }[form]
        inputs = [tf.constant(x) for x in _inputs(3, 1, length, DIM)]

        @tf.function(jit_compile=True)
        def step(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                loss = tf.reduce_sum(attend(*inputs) ** 2)
            return tape.gradient(loss, inputs)

        return lambda: [gradient.numpy() for gradient in step(*inputs)]

    return set_up


def torch_gradients(length):
    """The same by torch's scaled_dot_product_attention, which also works in chunks on CPUs."""

    def set_up():
        torch = require("torch", extra="benchmarks")
        inputs = [torch.from_numpy(x)[None].requires_grad_() for x in _inputs(3, 1, length, DIM)]

        def step():
            for x in inputs:
                x.grad = None
            torch.nn.functional.scaled_dot_product_attention(*inputs).square().sum().backward()
            return [x.grad.numpy() for x in inputs]

        return step

    return set_up


def layer_step(create, jit):
    """The gradients of a self-attention layer's weights."""

    def set_up():
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        layer = create()
        tokens = tf.constant(_inputs(1, BATCH, LENGTH, WIDTH)[0])
        layer(tokens, tokens)

        @tf.function(jit_compile=jit)
        def step(tokens):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(tokens, tokens) ** 2)
            return tape.gradient(loss, layer.trainable_variables)

        return lambda: [gradient.numpy() for gradient in step(tokens)]

    return set_up


def torch_layer_step():
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    tokens = torch.from_numpy(_inputs(1, BATCH, LENGTH, WIDTH)[0])

    def step():
        layer.zero_grad()
        output, _ = layer(tokens, tokens, tokens, need_weights=False)
        output.square().sum().backward()
        return [parameter.grad.numpy() for parameter in layer.parameters()]

    return step


def ours():
    from keras_dl import MultiHeadAttention

    return MultiHeadAttention(HEADS, WIDTH // HEADS)


def theirs():
    import keras

    return keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)


def _inputs(count, *shape):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") for _ in range(count)]


TASKS = [
    *(
        Task(
            f"attention-{length // 1024}k",
            f"One head of width {DIM}, {length:,} queries and keys, forward and backward, float32",
            {
                f"chunked, {CHUNK} keys": gradients(length, "chunked"),
                "whole": gradients(length, "whole"),
                "torch": torch_gradients(length),
            },
            steps=3,
            warmup=1,
        )
        for length in (1024, 4096, 16384)
    ),
    Task(
        "multi-head-train",
        f"Multi-head self-attention, {HEADS} heads, width {WIDTH}, ({BATCH}, {LENGTH}) tokens, forward and backward",
        {
            "keras_dl XLA": layer_step(ours, jit=True),
            "keras_dl graph": layer_step(ours, jit=False),
            "keras XLA": layer_step(theirs, jit=True),
            "keras graph": layer_step(theirs, jit=False),
            "torch eager": torch_layer_step,
        },
    ),
]
