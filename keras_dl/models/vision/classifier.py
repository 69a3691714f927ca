"""What models that classify images share."""

from keras import KerasTensor, ops

from keras_dl.base import FunctionalModel, Signature


class ImageClassifier(FunctionalModel):
    """A `Model` from raw pixels to logits, with an attribute `image_shape`; it serves probabilities from uint8."""

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of one `Signature`, `classify`.

        `classify(images: uint8, (batch_size, *image_shape), in [0, 255])` returns
        `{"probabilities": float32, (batch_size, num_classes)}`.
        """

        def classify(images):
            logits = self(ops.cast(images, "float32"), training=False)
            return {"probabilities": ops.softmax(ops.cast(logits, "float32"))}

        images = KerasTensor((batch_size, *self.image_shape), "uint8", name="images")
        return {"classify": Signature(classify, {"images": images})}
