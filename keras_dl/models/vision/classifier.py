"""Shared parts of models that classify images: the entry point of a device, and the last layers of early networks."""

from collections.abc import Callable

from keras import KerasTensor, layers, ops

from keras_dl.arguments import Size
from keras_dl.layers.pooling import AdaptivePooling2D
from keras_dl.models.classifier import Classifier
from keras_dl.signatures import Signature


class ImageClassifier(Classifier):
    """A `Classifier` of raw pixels, which serves probabilities from uint8 pixels.

    Subclasses have the arguments `image_shape` and `num_classes`. `features` is the layer before `head`.
    """

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of one `Signature`, `classify`, or `extract` without a head.

        `classify(images: uint8, (batch_size, *image_shape), in [0, 255])` returns
        `{"probabilities": float32, (batch_size, num_classes)}`. `extract(images)` returns
        `{"features": float32, (batch_size, ...)}`.
        """
        return self._served(lambda images: self(images, training=False), batch_size)

    def _served(self, compute: Callable, batch_size: int) -> dict[str, Signature]:
        """The entry point of a device, where `compute` is what the model computes of float32 images."""

        def classify(images):
            return {"probabilities": ops.softmax(ops.cast(compute(ops.cast(images, "float32")), "float32"))}

        def extract(images):
            return {"features": ops.cast(compute(ops.cast(images, "float32")), "float32")}

        serve = extract if self.num_classes is None else classify
        images = KerasTensor((batch_size, *self.image_shape), "uint8", name="images")
        return {serve.__name__: Signature(serve, {"images": images})}

    def _without(self, head: bool, name: str) -> tuple[str, ...]:
        """The modules of a checkpoint that are not loaded: its head, if it is not wanted or the model has none."""
        return () if head and self.num_classes is not None else (name,)


def logits_of(features, num_classes: Size | None, **options):
    """The logits of features, by a dense layer `head`; the features themselves, if there are no classes.

    Args:
        features: `(batch, channels)`.
        num_classes: int or None.
        options: keyword arguments of `keras.layers.Dense`.

    Returns:
        `(batch, num_classes)`, or `features`.
    """
    return features if num_classes is None else layers.Dense(num_classes, name="head", **options)(features)


def dense_head(maps, hidden_dim, num_classes, dropout_rate, pool_size, kernel_initializer):
    """Two hidden dense layers with relu and dropout, and the logits, if any: the end of AlexNet and VGG."""
    if pool_size is not None and maps.shape[1:3] != (pool_size, pool_size):
        maps = AdaptivePooling2D(pool_size, name="resize")(maps)  # (batch, pool_size, pool_size, channels)
    hidden = layers.Flatten(name="flatten")(maps)  # (batch, height * width * channels)
    for dense, dropout in (("dense_1", "dropout_1"), ("dense_2", "features")):
        hidden = layers.Dense(hidden_dim, activation="relu", kernel_initializer=kernel_initializer, name=dense)(hidden)
        hidden = layers.Dropout(dropout_rate, name=dropout)(hidden)  # (batch, hidden_dim)
    return logits_of(hidden, num_classes)
