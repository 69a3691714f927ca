"""The decoders of occupancy networks: from points, and what describes a shape, to the log odds to be inside."""

import keras
from keras import layers, ops

from keras_dl.models.scenes.occupancy_blocks import ConditionalBatchNormalization, ConditionalBlock, ResidualDense
from keras_dl.models.scenes.occupancy_planes import PlaneSampling


def code_decoder(kind, code_dim, latent_dim, hidden_dim, num_blocks, momentum, described):
    """The network from points, and the code or latents that `described` names, to logits `(batch, points)`."""
    inputs = {"points": keras.Input((None, 3), name="points")}
    inputs |= {
        name: keras.Input((size,), name=name)
        for name, size in (("code", code_dim), ("latents", latent_dim))
        if name in described
    }
    hidden = layers.Dense(hidden_dim, name="coordinates")(inputs["points"])  # (batch, points, hidden_dim)
    if "latents" in inputs:
        added = layers.Dense(hidden_dim, name="latents_added")(inputs["latents"])
        hidden = hidden + ops.expand_dims(added, 1)
    if kind == "conditional_norm":
        for i in range(num_blocks):
            hidden = ConditionalBlock(momentum, name=f"block_{i}")(hidden, inputs["code"])
        hidden = ConditionalBatchNormalization(momentum, name="norm")(hidden, inputs["code"])
    else:
        if "code" in inputs:
            hidden = hidden + ops.expand_dims(layers.Dense(hidden_dim, name="code_added")(inputs["code"]), 1)
        for i in range(num_blocks):
            hidden = ResidualDense(hidden_dim, name=f"block_{i}")(hidden)
    logits = layers.Dense(1, name="occupancy")(ops.relu(hidden))  # (batch, points, 1)
    return keras.Model(inputs, ops.squeeze(logits, -1), name="decoder")


def local_decoder(code_shape, hidden_dim, num_blocks, planes, padding):
    """The network from points and planes to logits `(batch, points)`."""
    inputs = {"points": keras.Input((None, 3), name="points"), "code": keras.Input(code_shape, name="code")}
    hidden = layers.Dense(hidden_dim, name="coordinates")(inputs["points"])  # (batch, points, hidden_dim)
    features = PlaneSampling(planes, padding, name="features")(inputs["points"], inputs["code"])
    for i in range(num_blocks):
        hidden = hidden + layers.Dense(hidden_dim, name=f"features_added_{i}")(features)
        hidden = ResidualDense(hidden_dim, name=f"block_{i}")(hidden)
    logits = layers.Dense(1, name="occupancy")(ops.relu(hidden))  # (batch, points, 1)
    return keras.Model(inputs, ops.squeeze(logits, -1), name="decoder")
