"""Shared parts of models that classify images: the entry point of a device, and the last layers of early networks."""

from collections.abc import Callable

from keras import KerasTensor, layers, ops

from keras_dl.base import FunctionalModel
from keras_dl.signatures import Signature


class ImageClassifier(FunctionalModel):
    """A `FunctionalModel` from raw pixels to logits. It serves probabilities from uint8 pixels.

    Subclasses have an argument `image_shape`. Two of their layers have the same names in each of them: `head` computes
    the logits, and `features` is the layer before it, whose output it takes. So this reads the features of any of them:
    `keras.Model(model.input, model.get_layer("features").output)`.
    """

    returns_logits = True

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `classify`.

        `classify(images: uint8, (batch_size, *image_shape), in [0, 255])` returns
        `{"probabilities": float32, (batch_size, num_classes)}`.
        """
        return classify_signature(lambda images: self(images, training=False), self.image_shape, batch_size)


def classify_signature(logits: Callable, image_shape, batch_size: int) -> dict[str, Signature]:
    """The signature `classify` of an image classifier whose logits are a function of float32 images."""

    def classify(images):
        return {"probabilities": ops.softmax(ops.cast(logits(ops.cast(images, "float32")), "float32"))}

    images = KerasTensor((batch_size, *image_shape), "uint8", name="images")
    return {"classify": Signature(classify, {"images": images})}


def dense_head(maps, hidden_dim, num_classes, dropout_rate, kernel_initializer):
    """Two hidden dense layers with relu and dropout, and the logits: the end of AlexNet and VGG."""
    hidden = layers.Flatten(name="flatten")(maps)  # (batch, height * width * channels)
    for dense, dropout in (("dense_1", "dropout_1"), ("dense_2", "features")):
        hidden = layers.Dense(hidden_dim, activation="relu", kernel_initializer=kernel_initializer, name=dense)(hidden)
        hidden = layers.Dropout(dropout_rate, name=dropout)(hidden)  # (batch, hidden_dim)
    return layers.Dense(num_classes, name="head")(hidden)  # (batch, num_classes)
