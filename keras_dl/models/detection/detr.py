"""DETR: detection as the prediction of a set, by a transformer, without anchors and without suppression.

    ResNet -> maps of the last stage -> encoder -> decoder of N learned queries -> a class and a box for each query

A query predicts one object or none. In training, the objects of an image are matched to queries by the least sum of
costs, inside of the compiled step. See `keras_dl.models.detection.set_losses` for the losses, and `detr_transformer`
for the transformer. Every decoder layer has the losses of the last.

    training as in the paper    AdamW(1e-4, weight_decay=1e-4, rate_factors={DETR.BODY: 0.1}, global_clipnorm=0.1)
                                of `keras_dl.optimizers`, batches of 64, 300 or 500 epochs

Reference: Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko 2020, "End-to-End Object Detection with Transformers",
arXiv:2005.12872. Constants, the weighted mean, and the layouts of weights are those of the authors' code.

Deviations:
- Images of a batch have one shape. Pixels of padding are said by a mask, and their normalized values are set to 0, as
  those of the authors' batches are.
- The kernels of attention start at Glorot's distribution each; in the authors' code, those of queries, keys and values
  are one matrix.
- Boxes are clipped to the image.
"""

import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dl.arguments import (
    AtLeast,
    ImageShape,
    NumberIn,
    OneOf,
    PerChannel,
    Positive,
    PositivePerChannel,
    Rate,
    Size,
    Sizes,
    SizesAtLeast,
    arguments,
)
from keras_dl.checks import check_heads, check_stages
from keras_dl.compat import all_layers
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.models.detection import detr_weights
from keras_dl.models.detection.class_weights import ClassWeights, checked_class_weights
from keras_dl.models.detection.detector import Detector
from keras_dl.models.detection.detr_transformer import DETRTransformer
from keras_dl.models.detection.set_losses import set_losses
from keras_dl.models.upkeep import traced
from keras_dl.models.vision.resnet import Block, resnet_stages
from keras_dl.objects import check_pixels
from keras_dl.ops.boxes import clip_boxes, cxcywh_to_xyxy, full_precision
from keras_dl.ops.nms import Detections, filled
from keras_dl.weights import Weights

_COCO = dict(image_shape=(800, 1066, 3), num_classes=91, frozen_norms=True)
_DEEPER = dict(num_blocks=(3, 4, 23, 3))

# With the 91 ids of COCO, of which 11 are not used. Parameters without those of batch normalization, of which the
# authors' code trains none: 41,524,768 and 60,464,672. Average precision in the paper: 42.0, 43.3, 43.5 and 44.9.
PRESETS = {
    "detr_resnet50": _COCO,
    "detr_resnet50_dc5": _COCO | dict(dilated=(4,)),
    "detr_resnet101": _COCO | _DEEPER,
    "detr_resnet101_dc5": _COCO | _DEEPER | dict(dilated=(4,)),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class DETR(Detector):
    """Detection transformer.

    Compile it with an optimizer and no loss. `fit` takes images and targets as `keras_dl.objects` has them. `detect`
    finds objects. The parts are `backbone`, a functional model, and `transformer`.

    Args:
        image_shape: `(height, width, channels)`. Any sides.
        num_classes: int, without a class for no object, which the model adds as the last.
        num_blocks: sequence of int. Blocks of each stage of the ResNet. Each stage after the first halves the sides.
        filters: sequence of int, one per stage, as of `keras_dl.ResNet`.
        block: "basic" or "bottleneck".
        stem: "imagenet", of stride 4, or "cifar", of stride 1.
        dilated: sequence of int. Stages without a stride, with dilation in its place: (4,) is the paper's DC5.
        frozen_norms: bool. Whether batch normalization keeps its statistics, scales and offsets, as in the paper and in
            the presets. It is for loaded weights: a training that starts from new ones warns.
        frozen_stages: int. The first stages, with the stem, are not trained. The paper has 1.
        num_queries: int. More than an image has objects: those left over are not learned.
        hidden_dim: int, a multiple of 4 and of `num_heads`.
        num_heads: int.
        mlp_dim: int.
        num_encoder_layers, num_decoder_layers: int.
        dropout_rate: float in [0, 1).
        auxiliary: bool. Whether the decoder layers before the last one have losses too.
        class_cost, l1_cost, giou_cost: float, at least 0. Weights in the matching.
        class_loss, l1_loss, giou_loss: float, at least 0. Weights of the losses.
        no_object_weight: float, positive. Weight of queries without an object in the class loss.
        class_weights: sequence of float, one per class, positive: weights in the class loss. None for 1.
        max_detections: int. Slots of a result; no more than queries are filled.
        score_threshold: float in [0, 1). Detections have scores above it. COCO's metric wants all: 0.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.

    Call arguments:
        inputs: images, `(batch, *image_shape)`, raw pixels in [0, 255]. Or a dict of `images` and `mask`, bool
            `(batch, height, width)`, False in the pixels of padding, such as of a letterbox. What is not padding must
            be a rectangle, the frame.

    Returns:
        dict of `boxes`, float32 `(batch, layers, queries, 4)`, cxcywh as shares of the frame; `logits`, float32
        `(batch, layers, queries, num_classes + 1)`; and with a mask `frame`, float32 `(batch, 4)`, xyxy in pixels.

    Raises:
        ValueError: if an argument is out of its range. By `fit`, after the first step, if images are not raw pixels, or
            targets are wrong.

    Example:

    >>> tiny = dict(num_blocks=(1, 1), filters=(8, 8), hidden_dim=8, num_heads=2, mlp_dim=8, num_queries=5)
    >>> model = DETR((32, 48, 3), num_classes=3, num_encoder_layers=1, num_decoder_layers=1, **tiny)
    >>> model.detect(np.full((2, 32, 48, 3), 255, "uint8")).boxes.shape
    TensorShape([2, 100, 4])
    """

    presets = PRESETS
    loss_names = ("class", "l1", "giou")
    BODY = "(^|/)(stem|stage_)"  # in the paths of the backbone's variables, for `keras_dl.optimizers.AdamW`

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (800, 1066, 3),
        num_classes: Size = 91,
        num_blocks: Sizes = (3, 4, 6, 3),
        filters: Sizes = (64, 128, 256, 512),
        block: Block = "bottleneck",
        stem: OneOf("imagenet", "cifar") = "imagenet",
        dilated: SizesAtLeast(2, allow_empty=True) = (),
        frozen_norms: bool = False,
        frozen_stages: AtLeast(0) = 0,
        num_queries: Size = 100,
        hidden_dim: AtLeast(4) = 256,
        num_heads: Size = 8,
        mlp_dim: Size = 2048,
        num_encoder_layers: AtLeast(0) = 6,
        num_decoder_layers: Size = 6,
        dropout_rate: Rate = 0.1,
        auxiliary: bool = True,
        class_cost: NumberIn(0) = 1.0,
        l1_cost: NumberIn(0) = 5.0,
        giou_cost: NumberIn(0) = 2.0,
        class_loss: NumberIn(0) = 1.0,
        l1_loss: NumberIn(0) = 5.0,
        giou_loss: NumberIn(0) = 2.0,
        no_object_weight: Positive = 0.1,
        class_weights: ClassWeights | None = None,
        max_detections: Size = 100,
        score_threshold: Rate = 0.0,
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        check_stages(num_blocks, filters)
        check_heads(num_heads, hidden_dim)
        for name, value in (("frozen_stages", frozen_stages), ("dilated", max(dilated, default=0))):
            if value > len(num_blocks):
                raise ValueError(f"{name}={value} must be at most {len(num_blocks)}, the stages of num_blocks.")
        self._class_weights = (*checked_class_weights(class_weights, num_classes), no_object_weight)
        self.pixels = PixelNormalization(mean, std, name="pixels")
        pixels = keras.Input(image_shape, name="normalized_pixels")
        *_, maps = resnet_stages(pixels, num_blocks, filters, stem=stem, block=block, dilated=dilated)
        self.backbone = keras.Model(pixels, maps, name="backbone")
        self.transformer = DETRTransformer(
            num_classes,
            num_queries,
            hidden_dim,
            num_heads,
            mlp_dim,
            num_encoder_layers,
            num_decoder_layers,
            dropout_rate,
            name="transformer",
        )
        self.pixels.build((None, *image_shape))
        self.transformer.build(maps.shape)
        fixed = ("stem", *(f"stage_{i}_" for i in range(1, frozen_stages + 1))) if frozen_stages else ()
        for layer in all_layers(self.backbone):
            if fixed and layer.name.startswith(fixed):
                layer.trainable = False
            if frozen_norms and isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        self._hold(num_classes)

    def check_training(self):
        super().check_training()
        if self.frozen_norms and not np.any(self.backbone.get_layer("stem_norm").moving_mean):
            warnings.warn(
                "frozen_norms=True keeps the statistics of new norms: load weights, or train with frozen_norms=False.",
                stacklevel=2,
            )

    def call(self, inputs, training=False):
        return self._computed(inputs, training=training)

    def raw(self, images):
        """The class and the box of each query by the last decoder layer.

        Args:
            images: as of a call.

        Returns:
            dict as of a call, without the axis `layers`.
        """
        return self._computed(images, last=True)

    def _computed(self, inputs, **options):
        if not isinstance(inputs, dict):
            maps = self.backbone(self.pixels(inputs), training=options.get("training", False))
            return self.transformer(maps, **options)
        mask = ops.cast(inputs["mask"], "bool")
        pixels = self.pixels(inputs["images"])
        pixels = ops.where(mask[..., None], pixels, ops.zeros_like(pixels))
        maps = self.backbone(pixels, training=options.get("training", False))
        # By nearest neighbors, as the authors' code: (batch, height', width').
        rows, columns = (np.arange(n) * side // n for n, side in zip(maps.shape[1:3], mask.shape[1:], strict=True))
        valid = ops.take(ops.take(mask, rows, axis=1), columns, axis=2)
        found = self.transformer(maps, valid=valid, **options)
        return {"boxes": found["boxes"], "frame": frames(mask), "logits": found["logits"]}

    def compute_output_shape(self, inputs_shape):
        masked = isinstance(inputs_shape, dict)
        batch = (inputs_shape["images"] if masked else inputs_shape)[0]
        found = (batch, self.num_decoder_layers, self.num_queries)
        frame = {"frame": (batch, 4)} if masked else {}
        return {"boxes": (*found, 4), **frame, "logits": (*found, self.num_classes + 1)}

    def _images(self, inputs):
        return inputs["images"] if isinstance(inputs, dict) else inputs

    def layer_losses(self, outputs, targets) -> dict:
        """The losses of each decoder layer before they are weighted.

        Args:
            outputs: what a call returned.
            targets: dict of `boxes`, float32 `(batch, slots, 4)`, xyxy in pixels, and `classes`, int32
                `(batch, slots)`, -1 in slots of no object.

        Returns:
            dict of `class`, `l1` and `giou`, float32 `(layers,)` each. The last one is that of the last layer.
        """
        if targets["classes"].shape[1] is None:
            raise ValueError(
                "targets['boxes'] has an unknown number of slots; the matching needs a fixed one. Pad all batches to "
                "the same max_boxes, as `keras_dl.objects.pad_targets` does."
            )
        height, width = self.image_shape[:2]
        frame = outputs.get("frame", tf.constant([[0.0, 0.0, width, height]]))
        corner, size = frame[:, None, :2], tf.maximum(frame[:, None, 2:] - frame[:, None, :2], 1.0)
        boxes = (targets["boxes"] - tf.concat([corner, corner], -1)) / tf.concat([size, size], -1)
        matching = self.class_cost, self.l1_cost, self.giou_cost
        return set_losses(outputs, boxes, targets["classes"], matching, self._class_weights)

    def detection_losses(self, outputs, images, targets, training):
        if not self.auxiliary:
            outputs = outputs | {name: outputs[name][:, -1:] for name in ("boxes", "logits")}
        losses = self.layer_losses(outputs, targets)
        weights = {"class": self.class_loss, "l1": self.l1_loss, "giou": self.giou_loss}
        return {name: weights[name] * tf.reduce_sum(losses[name]) for name in self.loss_names}

    def postprocess(self, boxes, logits, frame=None):
        """Detections of what `raw` returned: the best class of each query, by falling score.

        Args:
            boxes: float, `(batch, queries, 4)`, cxcywh as shares of the frame.
            logits: float, `(batch, queries, num_classes + 1)`.
            frame: float, `(batch, 4)`, xyxy in pixels. None for the whole image.

        Returns:
            `keras_dl.ops.Detections`. A query of which a logit is NaN is none.
        """
        height, width = self.image_shape[:2]
        boxes, logits = full_precision(boxes), full_precision(logits)
        probabilities = tf.nn.softmax(logits)[..., :-1]
        scores = tf.reduce_max(tf.where(tf.math.is_nan(probabilities), 0.0, probabilities), axis=-1)
        classes = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        slots = min(self.max_detections, scores.shape[1])
        scores, order = tf.math.top_k(scores, slots)  # (batch, slots)
        boxes = cxcywh_to_xyxy(tf.gather(boxes, order, batch_dims=1))
        classes = tf.gather(classes, order, batch_dims=1)
        if frame is None:
            boxes = boxes * tf.constant([width, height] * 2, boxes.dtype)
        else:
            corner, size = frame[:, None, :2], frame[:, None, 2:] - frame[:, None, :2]
            boxes = boxes * tf.concat([size, size], -1) + tf.concat([corner, corner], -1)
        count = tf.reduce_sum(tf.cast(scores > self.score_threshold, tf.int32), axis=-1)
        held = filled(count, slots)
        boxes = tf.where(held[..., None], clip_boxes(boxes, height, width), 0.0)
        scores, classes = tf.where(held, scores, 0.0), tf.where(held, classes, -1)
        missing = self.max_detections - slots
        if missing:
            boxes, scores = tf.pad(boxes, ((0, 0), (0, missing), (0, 0))), tf.pad(scores, ((0, 0), (0, missing)))
            classes = tf.pad(classes, ((0, 0), (0, missing)), constant_values=-1)
        return Detections(boxes, scores, classes, count)

    def detect(self, images, mask=None):
        """Finds objects.

        Args:
            images: uint8 or float, `(batch, *image_shape)`, raw pixels in [0, 255].
            mask: bool, `(batch, height, width)`, False in the pixels of padding. None if there is none, or if the model
                was trained without masks.

        Returns:
            `keras_dl.ops.Detections`: boxes in pixels, by falling score.

        Raises:
            ValueError: if a shape is another one, or a pixel is not finite.
        """
        if mask is None:
            return super().detect(images)
        check_pixels(images)
        images, mask = tf.convert_to_tensor(images), tf.cast(mask, tf.bool)
        if images.shape[1:] != self.image_shape or mask.shape != images.shape[:3]:
            raise ValueError(
                f"images and mask have the shapes {images.shape} and {mask.shape}; they must be "
                f"{('batch', *self.image_shape)} and {('batch', *self.image_shape[:2])}."
            )
        graph = traced(self, self._graph_key("detect_masked"), lambda **inputs: self.postprocess(**self.raw(inputs)))
        return graph(images=images, mask=mask)

    def load_transformers(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of transformers' `DetrForObjectDetection`. The model then gives the same outputs.

        Args:
            weights: mapping from name to array, or the path of a `.safetensors` file: in the layout of version 5 with
                its own ResNet (`use_timm_backbone=False`) or that of timm, or in that of files of version 4.
            head: bool. Whether the layer of the classes is loaded too. False leaves it as it is.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was.
        """
        detr_weights.load_transformers(self, weights, head)

    def load_original(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of the authors' code, facebookresearch/detr. The model then gives the same outputs.

        Args:
            weights: the item `model` of a checkpoint as mapping from name to array, or a `.safetensors` file of it.
            head: as of `load_transformers`.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model stays as it was.
        """
        detr_weights.load_original(self, weights, head)


def frames(mask):
    """The smallest box around the pixels that are not padding.

    Args:
        mask: bool, `(batch, height, width)`.

    Returns:
        float32, `(batch, 4)`, xyxy in pixels. 0 where all is padding.

    Example:

    >>> frames(tf.constant([[[False, True, True], [False, True, True], [False, False, False]]])).numpy()
    array([[1., 0., 3., 2.]], dtype=float32)
    """
    ends = []
    for axis in (1, 2):  # over the rows, for left and right; over the columns, for top and bottom
        line = tf.reduce_any(mask, axis=axis)  # (batch, side)
        side = line.shape[1]
        first = tf.reduce_min(tf.where(line, tf.range(side), side), axis=1)
        last = tf.reduce_max(tf.where(line, tf.range(1, side + 1), 0), axis=1)
        ends.append((tf.minimum(first, last), last))
    (left, right), (top, bottom) = ends
    return tf.cast(tf.stack([left, top, right, bottom], axis=-1), tf.float32)
