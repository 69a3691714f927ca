"""What the tests of transformers share: tiny models with every weight random, and tokens."""

import keras
import numpy as np

from keras_dl import Transformer, TransformerLM

SIZES = dict(num_layers=2, hidden_dim=12, mlp_dim=20, num_heads=3)
PLAIN = dict(SIZES, dropout_rate=0.0, attention_dropout_rate=0.0)
SOURCE = np.array([[5, 9, 3, 10, 2, 0, 0], [4, 6, 6, 8, 7, 3, 2], [9, 2, 0, 0, 0, 0, 0]], "int32")
TARGET = np.array([[1, 4, 4, 9, 10, 3], [1, 7, 6, 5, 4, 3], [1, 8, 3, 0, 0, 0]], "int32")


def shaken(model, seed=0, scale=0.5):
    """Every weight random: what starts at zero or one could not be told from what is not there."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(weight + scale * rng.normal(size=weight.shape))
    return model


def tiny_transformer(norm_first, **options):
    keras.utils.set_random_seed(3)
    lengths = dict(source_length=7, target_length=6)
    return shaken(Transformer(11, norm_first=norm_first, attention_bias=True, **lengths, **PLAIN | options))


def tiny_language_model(norm_first):
    return shaken(TransformerLM(11, 9, norm_first=norm_first, serving_length=4, **PLAIN))
