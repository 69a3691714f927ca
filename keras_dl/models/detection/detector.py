"""The base of detectors: from raw images and padded targets to losses, and from raw images to detections.

    training    images -> call -> outputs; with the targets -> losses by name, weighted; their sum is minimized
    inference   images -> raw -> outputs -> postprocess -> boxes, scores, classes, count

Targets are those of `keras_dl.objects`. `raw` is what an NPU computes in int8, `postprocess` what a CPU computes in
float32, so that boxes and scores never share a scale.
"""

import warnings

import keras
import tensorflow as tf
from keras import ops

from keras_dl.arguments import config_arguments
from keras_dl.base import Model
from keras_dl.models.upkeep import BatchRange, FirstBatch, Observation, check_raw_pixels, traced
from keras_dl.objects import NO_CLASS, check_pixels
from keras_dl.replicas import values_of_replicas
from keras_dl.signatures import Signature

TARGETS = ("boxes", "classes")
FAR_OUTSIDE = 1.0  # pixels: boxes that reach so far outside of their image are of another one


@keras.saving.register_keras_serializable(package="keras_dl")
class TargetFaults(Observation):
    """What is wrong with the targets that were seen.

    It holds the number of wrong boxes, the lowest and the highest class, the largest coordinate of a right box, and the
    number of right boxes that reach outside of their image.

    Args:
        num_classes: int. Classes below -1 and from this on are wrong.
    """

    def __init__(self, num_classes, name="target_faults", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.values = self.add_variable(shape=(5,), initializer="zeros", name="values")

    def update_state(self, wrong_boxes, classes, boxes, image_shape):
        """Adds a batch.

        Args:
            wrong_boxes: bool, `(batch, slots)`.
            classes: int32, `(batch, slots)`.
            boxes: float32, `(batch, slots, 4)`, xyxy; 0 where there is no right box.
            image_shape: `(height, width)`, pixels.
        """
        wrong, low, high, largest, outside = ops.unstack(self.values, 5)
        classes = ops.cast(classes, "float32")
        height, width = image_shape
        reach = ops.concatenate([-boxes[..., :2], boxes[..., 2:] - ops.array([width, height], "float32")], -1)
        values = (
            wrong + ops.sum(ops.cast(wrong_boxes, "float32")),
            ops.minimum(low, ops.min(classes)),
            ops.maximum(high, ops.max(classes)),
            ops.maximum(largest, ops.max(boxes)),
            outside + ops.sum(ops.cast(ops.max(reach, axis=-1) > FAR_OUTSIDE, "float32")),
        )
        self.values.assign(ops.stack(values))

    def result(self):
        return self.values

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}

    def check(self):
        """Raises ValueError if there is a fault, which is then forgotten: the next training starts anew."""
        boxes, low, high = values_of_replicas(self.values).T[:3]
        boxes, low, high = boxes.sum(), low.min(), high.max()
        if boxes or low < -1 or high >= self.num_classes:
            self.reset_state()
        if boxes:
            raise ValueError(
                f"targets['boxes'] hold {boxes:.0f} boxes that are not finite or not left, top, right, bottom, with "
                "left < right and top < bottom. Make targets by `keras_dl.objects.pad_targets`, which names them."
            )
        if low < -1 or high >= self.num_classes:
            wrong = low if low < -1 else high
            raise ValueError(
                f"targets['classes'] hold {wrong:.0f}; they must be in [0, {self.num_classes}), and -1 in slots of no "
                "object. There is no class for the background."
            )

    def warn(self, image_shape):
        """Warns of boxes that are not in pixels of the images that the model gets, of `(height, width)`."""
        largest, outside = values_of_replicas(self.values).T[3:]
        largest, outside = largest.max(), outside.sum()
        height, width = image_shape
        if outside:
            warnings.warn(
                f"targets['boxes'] hold {outside:.0f} boxes that reach outside of the images of {height} x {width} "
                "pixels. They must be in pixels of the images that the model gets, and not of those before a resize; "
                "`keras_dl.objects.pad_targets` clips them.",
                stacklevel=2,
            )
        elif 0 < largest <= 1:
            warnings.warn(
                "targets['boxes'] are within one pixel; they must be in pixels, not in shares of the image.",
                stacklevel=2,
            )


class Detector(FirstBatch, Model):
    """A model that finds objects.

    A subclass has the arguments `image_shape`, `num_classes` and `max_detections`, builds its nets in its constructor
    and then calls `_hold`. It has four methods of its own: `call`, `raw` if that is not `call` in inference,
    `detection_losses` and `postprocess`.

    Attributes:
        loss_names: tuple of str: the keys of `detection_losses`, in the order of the log.
        target_names: tuple of str: what targets must hold.
    """

    has_own_loss = True
    loss_names: tuple[str, ...] = ()
    target_names = TARGETS

    def _hold(self, num_classes):
        """Makes what the log and the checks need."""
        self.loss_means = [keras.metrics.Mean(name=f"{name}_loss") for name in self.loss_names]
        self.batch_range = BatchRange()
        self.target_faults = TargetFaults(num_classes)
        self.built = True

    # What subclasses compute.

    def raw(self, images) -> dict:
        """The outputs of the nets in inference.

        Args:
            images: uint8 or float, `(batch, *image_shape)`, in [0, 255].

        Returns:
            dict of tensors by name, whose shapes depend on the batch alone.
        """
        return self(images, training=False)

    def postprocess(self, **outputs):
        """`keras_dl.ops.Detections` of what `raw` returned, in pixels of the image."""
        raise NotImplementedError

    def detection_losses(self, outputs, images, targets, training: bool) -> dict:
        """The losses of a batch by name: float32 scalars, weighted. Their sum is minimized.

        Args:
            outputs: what `call` returned.
            images: `(batch, *image_shape)`.
            targets: dict as of `keras_dl.objects`: `boxes` float32 `(batch, slots, 4)`, `classes` int32
                `(batch, slots)`, -1 in slots of no object, and what else `target_names` says.
            training: bool.
        """
        raise NotImplementedError

    # Training.

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            raise ValueError(f"sample_weight was given: {type(self).__name__} has no weights of images.")
        losses = self.detection_losses(y_pred, x, self._checked_targets(y), training)
        for name, mean in zip(self.loss_names, self.loss_means, strict=True):
            mean.update_state(losses[name])
        return sum(losses[name] for name in self.loss_names) + sum(self.losses)  # and those of regularizers

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return self.get_metrics_result()

    def _checked_targets(self, targets):
        """The targets as float32 and int32. A wrong object becomes none, and is counted: the step then raises."""
        name = type(self).__name__
        if not isinstance(targets, dict) or not set(self.target_names) <= set(targets):
            found = ", ".join(sorted(targets)) if isinstance(targets, dict) else type(targets).__name__
            raise ValueError(
                f"{name} is trained on (images, targets), targets a dict of {', '.join(self.target_names)}; "
                f"targets: {found or 'none'}. `keras_dl.objects.pad_targets` makes them."
            )
        boxes, classes = ops.cast(targets["boxes"], "float32"), ops.cast(targets["classes"], "int32")
        right = len(boxes.shape) == 3 and boxes.shape[-1] == 4 and len(classes.shape) == 2
        if not right or not boxes.shape[:2].is_compatible_with(classes.shape):
            raise ValueError(
                f"targets['boxes'] has the shape {tuple(boxes.shape)} and targets['classes'] {tuple(classes.shape)}; "
                "they must be (batch, slots, 4) and (batch, slots)."
            )
        if not boxes.shape[1]:  # none, or an unknown number: a batch of no object may have no slot, and losses need one
            boxes = tf.pad(boxes, ((0, 0), (0, 1), (0, 0)))
            classes = tf.pad(classes, ((0, 0), (0, 1)), constant_values=NO_CLASS)
        finite = ops.all(ops.isfinite(boxes), axis=-1)
        ordered = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
        sound, known = ops.logical_and(finite, ordered), classes >= 0  # (batch, slots)
        right = ops.logical_and(sound, ops.logical_and(known, classes < self.num_classes))
        boxes = ops.where(right[..., None], boxes, ops.zeros_like(boxes))
        wrong = ops.logical_and(known, ops.logical_not(sound))
        self.target_faults.update_state(wrong, classes, boxes, self.image_shape[:2])
        return dict(targets) | {"boxes": boxes, "classes": ops.where(right, classes, NO_CLASS)}

    def train_step(self, data):
        self.batch_range.update_state(self._images(keras.utils.unpack_x_y_sample_weight(data)[0]))
        return super().train_step(data)

    def _images(self, inputs):
        """The images of what a call takes."""
        return inputs

    def _check_batch(self, lowest, highest, rows):
        check_raw_pixels(lowest, highest)
        self.target_faults.warn(self.image_shape[:2])

    def _check_each_batch(self):
        self.target_faults.check()

    # Inference.

    def detect(self, images):
        """Finds objects.

        Args:
            images: uint8 or float, `(batch, *image_shape)`, raw pixels in [0, 255]. An image of other sides must come
                in a letterbox: see `keras_dl.ops.letterbox`.

        Returns:
            `keras_dl.ops.Detections`: boxes in pixels, by falling score.

        Raises:
            ValueError: if the shape is another one, or a pixel is not finite.
        """
        check_pixels(images)
        images = tf.convert_to_tensor(images)
        if images.shape.rank != 4 or tuple(images.shape[1:]) != tuple(self.image_shape):
            raise ValueError(f"images has the shape {images.shape}; it must be {('batch', *self.image_shape)}.")
        return traced(self, self._graph_key("detect"), lambda images: self.postprocess(**self.raw(images)))(images)

    def _graph_key(self, name):
        """What a graph that detects depends on: its arguments. Another threshold, say, makes another one."""
        return name, repr(config_arguments(self))

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """`detect`: all in one. `raw` and `postprocess`: its two parts, for int8 hardware and a CPU."""
        images = keras.KerasTensor((batch_size, *self.image_shape), "uint8", name="images")
        graph = tf.function(self.raw).get_concrete_function(tf.TensorSpec(images.shape, images.dtype))
        outputs = {
            name: keras.KerasTensor(x.shape, x.dtype.name, name=name) for name, x in graph.structured_outputs.items()
        }

        def detect(images):
            return _named(self.postprocess(**self.raw(images)))

        def postprocess(**outputs):
            return _named(self.postprocess(**outputs))

        return {
            "detect": Signature(detect, {"images": images}, detections=True),
            "raw": Signature(self.raw, {"images": images}),
            "postprocess": Signature(postprocess, outputs, detections=True),
        }


def _named(detections):
    """As a dict, without what is None."""
    return {name: x for name, x in detections._asdict().items() if x is not None}
