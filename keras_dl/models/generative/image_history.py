"""A history of generated images, from which a discriminator sees some again."""

import keras
from keras import ops

from keras_dl.arguments import AtLeast, ImageShape, arguments
from keras_dl.base import Layer


@keras.saving.register_keras_serializable(package="keras_dl")
class ImageHistory(Layer):
    """Keeps generated images, so that a discriminator does not only follow the last step of its generator.

    While it fills, it keeps each image and returns it. When it is full, an image whose `exchange` is True takes the
    place of a kept one, which is returned instead; another is returned and not kept. Images of a batch are handled one
    after the other, so that one can come back in its own batch. All shapes are static. The images are weights that are
    not trained: files of the model have them, and a training goes on with them.

    Args:
        size: int. Images that are kept. 0 returns all images as they are.
        image_shape: `(height, width, channels)`.

    Call arguments:
        images: float, `(batch, *image_shape)`.
        exchange: bool, `(batch,)`. The authors draw it with probability 0.5.
        places: int32, `(batch,)`, in `[0, size)`: which image each one would be exchanged for.

    Returns:
        float32, `(batch, *image_shape)`.

    Example:

    >>> history = ImageHistory(1, (1, 1, 1))
    >>> images = ops.reshape(ops.array([1.0, 2.0, 3.0, 4.0]), (4, 1, 1, 1))
    >>> returned = history(images, ops.array([False, False, True, True]), ops.zeros(4, "int32"))
    >>> returned.numpy().ravel(), history.images.numpy().ravel()
    (array([1., 2., 1., 3.], dtype=float32), array([4.], dtype=float32))

    Reference: Shrivastava et al. 2016, "Learning from Simulated and Unsupervised Images through Adversarial Training",
    arXiv:1612.07828, section 2.3; Zhu et al. 2017, arXiv:1703.10593, section 4, with the code of its authors.
    """

    holds_examples = True  # on several replicas, a mean of their images would be of no use

    @arguments
    def __init__(self, size: AtLeast(0), image_shape: ImageShape, **kwargs):
        super().__init__(autocast=False, **kwargs)
        options = dict(initializer="zeros", trainable=False)
        self.images = self.add_weight(shape=(size, *image_shape), dtype="float32", name="images", **options)
        self.count = self.add_weight(shape=(), dtype="int32", name="count", **options)
        self.built = True

    def call(self, images, exchange, places):
        images = ops.cast(images, "float32")
        if self.size == 0:
            return images
        order = ops.arange(ops.shape(images)[0], dtype="int32")  # (batch,)
        free = self.count + order
        fills = free < self.size
        places = ops.where(fills, free, ops.cast(places, "int32"))
        writes = ops.logical_or(fills, exchange)
        # What a place holds, as a row of the old images and of the new ones after them: that of the last one who wrote.
        rows = ops.concatenate([self.images.value, images])

        def content(places_asked, writers):
            last = ops.max(ops.where(writers, order, -1), axis=1)
            return ops.where(last >= 0, self.size + last, places_asked)

        wrote = ops.logical_and(ops.expand_dims(places, 1) == places, writes)  # (batch, batch)
        earlier = ops.logical_and(wrote, order < ops.expand_dims(order, 1))
        comes_back = ops.logical_and(exchange, ops.logical_not(fills))
        returned = ops.take(rows, ops.where(comes_back, content(places, earlier), self.size + order), axis=0)
        every = ops.arange(self.size, dtype="int32")
        wrote = ops.logical_and(ops.expand_dims(every, 1) == places, writes)  # (size, batch)
        self.images.assign(ops.take(rows, content(every, wrote), axis=0))
        self.count.assign(ops.minimum(self.count + ops.shape(order)[0], self.size))
        return returned

    def compute_output_shape(self, images_shape, exchange_shape=None, places_shape=None):
        return images_shape
