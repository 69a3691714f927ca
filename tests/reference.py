"""What is compared with a reference: a loss with its gradients; a checkpoint as a file; and random weights."""

import contextlib
import json

import keras
import numpy as np
import tensorflow as tf


def loss_and_gradients(model, images, labels):
    """Mean cross-entropy of logits, and its gradient for each trainable variable, in order."""
    with tf.GradientTape() as tape:
        logits = model(tf.constant(images, "float32"), training=True)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    return float(loss), tape.gradient(loss, model.trainable_variables)


def write_safetensors(path, arrays):
    """A `.safetensors` file of float32 arrays."""
    header, offset = {}, 0
    for name, array in arrays.items():
        header[name] = dict(dtype="F32", shape=array.shape, data_offsets=[offset, offset + array.nbytes])
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in arrays.values()))


def randomized(model, seed=0):
    """Weights with which no term drops out: matrices that are no identity, statistics that are not 0 and 1."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        else:
            variable.assign(rng.normal(size=variable.shape) * (0.4 if variable.name == "kernel" else 0.2))
    return model


@contextlib.contextmanager
def policy(dtype):
    """What is made in the block has this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
