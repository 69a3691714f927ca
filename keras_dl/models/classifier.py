"""What classifiers of images and of clouds of points have in common: a backbone, and a head that may be missing."""

import keras

from keras_dl.base import FunctionalModel


class Classifier(FunctionalModel):
    """A `FunctionalModel` from one example to logits, or to features.

    Subclasses have the argument `num_classes`. Two of their layers have the same names in each of them: `head` computes
    the logits, and `features` has the output that a model without a head returns, for `num_classes=None`.
    """

    @property
    def returns_logits(self) -> bool:
        return self.num_classes is not None

    @property
    def backbone(self) -> keras.Model:
        """The model up to its features, `(batch, ...)`. It shares all of its layers.

        `model.backbone.trainable = False` freezes everything but what makes logits of features.
        """
        return keras.Model(self.input, self.get_layer("features").output, name="backbone")
