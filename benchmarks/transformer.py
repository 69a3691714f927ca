"""One training step of the Transformer against Keras and torch; and decoding with and without the cache.

The counterpart in Keras has as many parameters, in `keras.layers.MultiHeadAttention`, `Dense` and `LayerNormalization`.
The one in torch has `torch.nn.Transformer`. All tie the embedding and the softmax. None has dropout.

docs/speed.md has the times of a training step and of decoding. The time of one decoding step does not rise with the
tokens decoded so far, but it rises with the size of the cache. In milliseconds, with batch 8, on one thread of two
shared cores (`TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 keras-dl benchmark transformer --rounds 1 --task
decode-step`):

    places of the cache   first one written   all but one written
    16                    4.1                 3.0
    128                   17                  7
    1,024                 77                  48
"""

import functools

import numpy as np

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

LAYERS, WIDTH, MLP, HEADS, VOCABULARY = 3, 256, 1024, 4, 4000
BATCH, LENGTH = 32, 32


def _model(target_length=LENGTH, **options):
    import keras

    import keras_dl

    keras.utils.set_random_seed(0)
    sizes = dict(num_layers=LAYERS, hidden_dim=WIDTH, mlp_dim=MLP, num_heads=HEADS, attention_bias=True)
    return keras_dl.Transformer(
        VOCABULARY, dropout_rate=0.0, source_length=LENGTH, target_length=target_length, **sizes | options
    )


def _tokens(rows=BATCH, length=LENGTH):
    return np.random.default_rng(0).integers(3, VOCABULARY, (rows, length)).astype("int32")


def _keras_counterpart():
    """A functional model of post-norm blocks, built from the layers of Keras."""
    import keras
    from keras import layers, ops

    from keras_dl.layers.embedding import sinusoids

    keras.utils.set_random_seed(0)

    def attend(x, memory, mask, causal=False):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        return layers.LayerNormalization()(x + attention(x, memory, attention_mask=mask, use_causal_mask=causal))

    def mlp(x):
        return layers.LayerNormalization()(x + layers.Dense(WIDTH)(layers.Dense(MLP, activation="relu")(x)))

    source, target = (keras.Input((LENGTH,), dtype="int32", name=name) for name in ("source", "target"))
    table = layers.ReversibleEmbedding(VOCABULARY, WIDTH)
    mask = ops.expand_dims(ops.not_equal(source, 0), 1)
    places = sinusoids(LENGTH, WIDTH)[None]
    memory = table(source) * WIDTH**0.5 + places
    for _ in range(LAYERS):
        memory = mlp(attend(memory, memory, mask))
    x = table(target) * WIDTH**0.5 + places
    for _ in range(LAYERS):
        x = mlp(attend(attend(x, x, None, causal=True), memory, mask))
    return keras.Model({"source": source, "target": target}, table(x, reverse=True))


def keras_train(create, jit):
    def set_up():
        import keras
        import tensorflow as tf

        model = create()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile=jit)
        tokens = tf.constant(_tokens())
        data = {"source": tokens, "target": tokens}, tokens
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        model.optimizer.build(model.trainable_variables)
        return lambda: float(function(data)["loss"])

    return set_up


def torch_train():
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # as TensorFlow does
    table = torch.nn.Embedding(VOCABULARY, WIDTH)
    net = torch.nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, MLP, dropout=0.0, batch_first=True)
    optimizer = torch.optim.Adam([*table.parameters(), *net.parameters()], 1e-4)
    tokens = torch.from_numpy(_tokens().astype("int64"))
    places = torch.randn(LENGTH, WIDTH)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def loss():
        source, target = (table(tokens) * WIDTH**0.5 + places for _ in range(2))
        padding = tokens == 0
        hidden = net(
            source, target, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )  # fmt: skip
        return torch.nn.functional.cross_entropy((hidden @ table.weight.T).flatten(0, 1), tokens.flatten())

    return torch_descent(optimizer, loss)


def cached(length, rows):
    """Greedy decoding of `length` tokens: a loop in the graph."""
    import tensorflow as tf

    model = _model(length, end_token=VOCABULARY - 1)
    function = tf.function(lambda x: _decode(model, x, length))
    tokens = tf.constant(_tokens(rows))
    return lambda: function(tokens).numpy()


def _decode(model, source, length):
    """Decodes `length` tokens. No end token stops it."""
    import tensorflow as tf

    state = model.encode(source)
    memory = {name: state.pop(name) for name in model.constant_states}

    def body(place, last, state):
        log_p, after = model.decode_step(last, memory | state)
        return place + 1, tf.argmax(log_p, -1, tf.int32), {name: after[name] for name in state}

    start = (tf.constant(0), tf.ones([source.shape[0]], tf.int32), state)
    return tf.while_loop(lambda place, *_: place < length, body, start)[1]


def uncached(length, rows):
    """The same without the cache: at each step the decoder runs over all earlier tokens.

    The steps are unrolled, so that no padding is computed. The encoder runs once.
    """
    import tensorflow as tf

    model = _model(length, end_token=VOCABULARY - 1)

    @tf.function
    def function(source):
        memory, mask = model._memory(source)
        tokens = tf.ones([rows, 1], tf.int32)
        for _ in range(length):
            states = model._target_states(tokens)
            for block in model.decoder:
                states = block(states, None, memory, mask, causal=True)
            log_p = model._logits(states[:, -1:])[:, 0]
            tokens = tf.concat([tokens, tf.expand_dims(tf.argmax(log_p, -1, tf.int32), 1)], 1)
        return tokens[:, -1]

    source = tf.constant(_tokens(rows))
    return lambda: function(source).numpy()


def one_step(length, place):
    """One decoding step with a cache of `length` places, of which `place` are written."""
    import tensorflow as tf

    model = _model(length)
    state = model.encode(tf.constant(_tokens(8))) | {"position": tf.fill([8], place)}
    function = tf.function(model.decode_step)
    last = tf.ones([8], tf.int32)
    return lambda: function(last, state)[0].numpy()


SIZES = f"{LAYERS}+{LAYERS} layers of width {WIDTH}, {VOCABULARY:,} tokens"
TASKS = [
    Task(
        "transformer-train",
        f"training step, {SIZES}, batch {BATCH}, lengths {LENGTH}, Adam, float32",
        {
            "keras_dl XLA": keras_train(_model, jit=True),
            "keras_dl graph": keras_train(_model, jit=False),
            "Keras layers XLA": keras_train(_keras_counterpart, jit=True),
            "Keras layers graph": keras_train(_keras_counterpart, jit=False),
            "torch.nn eager": torch_train,
        },
        steps=8,
    ),
    *(
        Task(
            f"decode-{length}-batch-{rows}",
            f"greedy decoding of {length} tokens, {SIZES}, batch {rows}",
            {
                "with the cache": functools.partial(cached, length, rows),
                "without": functools.partial(uncached, length, rows),
            },
            steps=8,
        )
        for rows in (1, 8)
        for length in (16, 64)
    ),
    Task(
        "decode-step",
        f"one step of decoding, {SIZES}, batch 8: places of the cache, and the number of written ones",
        {
            f"{length} places, {place} written": functools.partial(one_step, length, place)
            for length, place in ((16, 1), (16, 15), (128, 1), (128, 127), (1024, 1), (1024, 1023))
        },
        steps=30,
        warmup=5,
    ),
]
