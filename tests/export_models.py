"""Small models that the tests of the exporter share."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_dl import Signature

SIDE = 8
CLASSES = 3


def dense(units=3):
    return keras.Sequential([keras.Input((4,), name="features"), layers.Dense(units, name="values")])


def convolutional():
    """Takes features and gives probabilities, through convolution, pooling, a residual, and products."""
    x = keras.Input((SIDE, SIDE, 1), name="images")
    h = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    h = layers.Add()([h, layers.Conv2D(8, 3, padding="same", name="second")(h)])
    h = layers.Flatten()(layers.MaxPooling2D()(h))
    return keras.Model(x, layers.Dense(CLASSES, activation="softmax", name="probabilities")(h), name="convolutional")


class Classifier(keras.Model):
    """A foreign model whose one signature takes pixels of uint8."""

    def __init__(self):
        super().__init__(name="classifier")
        self.net = convolutional()
        self.built = True

    def call(self, images):
        return self.net(ops.cast(images, "float32") / 255)

    def serving_signatures(self, batch_size=1):
        images = keras.KerasTensor((batch_size, SIDE, SIDE, 1), "uint8", name="images")
        return {"classify": Signature(lambda images: {"probabilities": self(images)}, {"images": images})}


class Autoencoder(keras.Model):
    """A foreign model of two signatures, the second of two inputs and two outputs."""

    def __init__(self):
        super().__init__(name="autoencoder")
        self.encoder, self.decoder = layers.Dense(6, name="encoder"), layers.Dense(4, name="decoder")
        self.encoder.build((None, 4))
        self.decoder.build((None, 6))
        self.built = True

    def call(self, x):
        return self.decoder(self.encoder(x))

    def decode(self, codes, gains):
        decoded = self.decoder(codes) * gains
        return {"x": decoded, "largest": tf.argmax(decoded, axis=-1, output_type=tf.int32)}

    def serving_signatures(self, batch_size=1):
        def tensor(size, name):
            return keras.KerasTensor((batch_size, size), name=name)

        return {
            "encode": Signature(lambda x: {"codes": self.encoder(x)}, {"x": tensor(4, "x")}),
            "decode": Signature(self.decode, {"codes": tensor(6, "codes"), "gains": tensor(1, "gains")}),
        }


def pixels(rows, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (rows, SIDE, SIDE, 1), "uint8")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")
