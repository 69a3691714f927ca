"""Faster R-CNN: a network proposes boxes, and a head classifies and corrects the features of each.

    image -> ResNet -> pyramid P2 ... P5 -> P6, every second place of P5
    P2 ... P6 -> region proposal network -> boxes, without classes
    boxes -> RoIAlign of P2 ... P5 -> two dense layers -> class or background, and a box for each class

    loss = objectness + codes of anchors + class + codes of boxes

The parts are in `rpn` and `roi_heads`. The true boxes are among the proposals of a training step.

    ResNet-50, 91 classes of torchvision, of which one is the background    41,755,286 without the frozen norms
    the same with the four numbers of each frozen norm                      41,861,526

References: Ren, He, Girshick, Sun 2015, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
Networks", arXiv:1506.01497; Lin et al. 2016, "Feature Pyramid Networks", arXiv:1612.03144. Sizes and thresholds are
those of torchvision's `fasterrcnn_resnet50_fpn`, whose weights `load_torchvision` takes.

Deviations from torchvision, which conventions="torchvision" and arguments undo:
- RoIAlign has the middle of a pixel at 0.5, and anchors are not rounded to pixels.
- Batch normalization is trained, for the network has no weights to keep. See `frozen_norms`.
- Sizes of anchors fit images of 800 pixels. For smaller ones, give `anchor_sizes` and `canonical_side`.
- The last suppression sees the best 1,000 boxes of an image, where torchvision's sees all above the threshold.
"""

import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_dl.arguments import (
    ImageShape,
    NumberIn,
    OneOf,
    PerChannel,
    Positive,
    PositivePerChannel,
    Size,
    Sizes,
    arguments,
)
from keras_dl.checks import check_stages
from keras_dl.compat import all_layers
from keras_dl.layers.norm import BatchNormalization
from keras_dl.layers.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization
from keras_dl.layers.pyramid import FeaturePyramid
from keras_dl.models.detection import rcnn_weights
from keras_dl.models.detection.detector import Detector
from keras_dl.models.detection.rcnn_arguments import Levels, Pair, Positives
from keras_dl.models.detection.roi_heads import box_head, box_losses, detected, sample_regions
from keras_dl.models.detection.rpn import RegionHead, in_rows, propose, region_losses
from keras_dl.models.upkeep import SavedSeeds
from keras_dl.models.vision.resnet import Block, resnet_stages
from keras_dl.ops.anchors import level_anchors
from keras_dl.ops.roi_align import roi_align
from keras_dl.weights import Weights

BINS = 7  # of a box along each axis
STEM = 4  # the stride of the first stage
POSITIVE_SHARE = 0.25  # of the boxes that the head learns from, at most

# torchvision's network for 91 classes, of which the first is the background. Nothing is added to the variance of norms,
# as with its file COCO_V1. Its other files want norm_epsilon=1e-5.
TORCHVISION = dict(
    image_shape=(800, 1333, 3), num_classes=90, conventions="torchvision", frozen_norms=True, norm_epsilon=0.0
)
PRESETS = {"fasterrcnn_resnet50_fpn": TORCHVISION}


@keras.saving.register_keras_serializable(package="keras_dl")
class FasterRCNN(SavedSeeds, Detector):
    """Two-stage detector on the pyramid of a ResNet, by default ResNet-50.

    Nets: `net`, from images to maps, scores and codes of anchors, and `box_head`. Layers of `net` by name: `stem`,
    `stage_1_block_0` and so on, `pyramid`, `rpn_conv`, `rpn_objectness`, `rpn_codes`.

    Before a training, look at how anchors fit: `keras_dl.ops.coverage(boxes, model.anchors)`.

    Args:
        image_shape: `(height, width, channels)`. Inside, images are padded at the right and at the bottom to a
            multiple of the last stage's stride, with the mean pixel.
        num_classes: int, without a background. torchvision counts one more.
        num_blocks, filters, block: as of `ResNet`. A first stage of stride 4, and each further one of twice that.
        pyramid_filters: int. Channels of the maps of the pyramid.
        head_dims: sequence of int. Widths of the dense layers of the box head.
        anchor_sizes: for each level a sequence of numbers, roots of the areas in pixels. One level for each stage, or
            one more, which is pooled. All have as many sizes.
        anchor_ratios: sequence of numbers: height / width.
        canonical_side: float. Boxes of this side take their features from the fourth level, P4 of stride 16. 224 for
            images of 800 pixels; proportionally less for others.
        anchor_samples: int. Anchors of an image that are learned in a step, at most half of them positive.
        box_samples: int. Boxes of an image that the head learns in a step, at most a quarter of them positive.
        candidates: two int, in training and in inference. Best anchors of each level that may become proposals.
        proposals: two int, in training and in inference. Proposals of an image.
        score_threshold: float in [0, 1]. The score of a detection must be above it.
        iou_threshold: float in [0, 1]. Of detections of a class that overlap more, the best remains.
        max_detections: int, of an image.
        class_weights: sequence of float, one for each class, in the loss of classes; the background has 1. None for 1.
        frozen_norms: bool. Whether the batch normalization of the ResNet is an affine map that is not trained: for
            weights that are loaded, and batches of a few images.
        norm_epsilon: float, at least 0. Batch normalization adds it to the variance. 0 is nothing for half precision.
        conventions: "pixel_centers", or "torchvision" for weights that were trained there: RoIAlign half a pixel off,
            and anchors of whole pixels.
        roi_form: "gather" or "matrix": how RoIAlign is computed, see `keras_dl.ops.roi_align`. "matrix" is faster for
            small images.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides the image.
        seed: int or None. Of the choice of samples.

    Call arguments:
        images: uint8 or float, `(batch, *image_shape)`, raw pixels in [0, 255].

    Returns:
        dict by level, named after the logarithm of its stride: `maps_2` `(batch, height, width, pyramid_filters)`,
        `objectness_2` `(batch, height, width, anchors)`, `codes_2` `(batch, height, width, 4 anchors)`, and so on. See
        `detect` for detections.

    Raises:
        ValueError: if an argument is not one of those above; the message names it and its value.

    Example:

    >>> sizes = dict(num_blocks=(1, 1), filters=(8, 8), pyramid_filters=8, head_dims=(16,))
    >>> model = FasterRCNN((32, 48, 3), 2, anchor_sizes=((8,), (16,)), **sizes)
    >>> found = model.detect(np.zeros((1, 32, 48, 3), "uint8"))
    >>> found.boxes.shape, found.count.shape
    (TensorShape([1, 100, 4]), TensorShape([1]))
    """

    presets = PRESETS
    loss_names = ("objectness", "region_box", "class", "box")

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (800, 800, 3),
        num_classes: Size = 90,
        num_blocks: Sizes = (3, 4, 6, 3),
        filters: Sizes = (64, 128, 256, 512),
        block: Block = "bottleneck",
        pyramid_filters: Size = 256,
        head_dims: Sizes = (1024, 1024),
        anchor_sizes: Levels = ((32,), (64,), (128,), (256,), (512,)),
        anchor_ratios: Positives = (0.5, 1.0, 2.0),
        canonical_side: Positive = 224.0,
        anchor_samples: Size = 256,
        box_samples: Size = 512,
        candidates: Pair = (2000, 1000),
        proposals: Pair = (2000, 1000),
        score_threshold: NumberIn(0, 1) = 0.05,
        iou_threshold: NumberIn(0, 1) = 0.5,
        max_detections: Size = 100,
        class_weights: Positives | None = None,
        frozen_norms: bool = False,
        norm_epsilon: NumberIn(0) = 1e-5,
        conventions: OneOf("pixel_centers", "torchvision") = "pixel_centers",
        roi_form: OneOf("gather", "matrix") = "gather",
        mean: PerChannel = IMAGENET_MEAN,
        std: PositivePerChannel = IMAGENET_STD,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        check_stages(num_blocks, filters)
        levels = len(filters)
        if len(anchor_sizes) not in (levels, levels + 1) or len({len(sizes) for sizes in anchor_sizes}) != 1:
            raise ValueError(
                f"anchor_sizes={anchor_sizes} must have {levels} or {levels + 1} levels for filters={filters}, all of "
                "as many sizes."
            )
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(f"class_weights={class_weights} must have one number for each of {num_classes} classes.")
        super().__init__(dtype=dtype, **kwargs)
        self.strides = tuple(STEM * 2**i for i in range(levels))

        images = keras.Input(image_shape, name="images")
        pixels = PixelNormalization(mean, std, name="pixels")(images)
        margins = [(0, -side % self.strides[-1]) for side in image_shape[:2]]
        if margins != [(0, 0), (0, 0)]:
            pixels = layers.ZeroPadding2D(margins, name="margins")(pixels)
        stages = resnet_stages(pixels, num_blocks, filters, block=block, norm_epsilon=norm_epsilon)
        maps = FeaturePyramid(pyramid_filters, pooled=len(anchor_sizes) > levels, name="pyramid")(stages)
        regions = RegionHead(pyramid_filters, len(anchor_ratios) * len(anchor_sizes[0]))
        first, outputs = STEM.bit_length() - 1, {}
        for level, features in enumerate(maps):
            if level < levels:
                outputs[f"maps_{first + level}"] = features
            outputs[f"objectness_{first + level}"], outputs[f"codes_{first + level}"] = regions(features)
        self.net = keras.Model(images, outputs, name="net")
        self.pooled_shape = (BINS, BINS, pyramid_filters)
        self.box_head = box_head(int(np.prod(self.pooled_shape)), head_dims, num_classes)
        self.level_names = [str(first + level) for level in range(len(maps))]
        self.anchors = level_anchors(
            [side + margin for side, (_, margin) in zip(image_shape, margins, strict=False)],
            [tuple(x.shape[1:3]) for x in maps],
            anchor_sizes,
            anchor_ratios,
            rounded=conventions == "torchvision",
        )
        if frozen_norms:
            for norm in self._norms():
                norm.trainable = False
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._hold(num_classes)

    def _norms(self):
        return [layer for layer in all_layers(self.net) if isinstance(layer, BatchNormalization)]

    def check_training(self):
        super().check_training()
        if self.frozen_norms and not any(np.any(norm.moving_mean) for norm in self._norms()):
            warnings.warn(
                "frozen_norms=True, and the model has no trained normalization: it would be left out. Load weights "
                "first, or build the model with frozen_norms=False.",
                stacklevel=2,
            )

    def call(self, images, training=False):
        return self.net(images, training=training)

    def compute_output_shape(self, images_shape):
        return dict(sorted(self.net.compute_output_shape(images_shape).items()))

    # The parts of a step.

    def _rows(self, outputs):
        """Scores and codes of the anchors: lists of float32 `(batch, n)` and `(batch, n, 4)`, one for each level."""
        rows = [in_rows(outputs[f"objectness_{i}"], outputs[f"codes_{i}"]) for i in self.level_names]
        return [list(x) for x in zip(*rows, strict=True)]

    def propose(self, training=False, **outputs):
        """The proposals of what a call returned.

        Args:
            training: bool. Decides which of the two numbers of `candidates` and `proposals` counts.
            **outputs: what a call returned.

        Returns:
            boxes: float32 `(batch, slots, 4)`, xyxy in pixels, by falling score; 0 in slots that hold none.
            held: bool `(batch, slots)`: which slots hold a proposal.
        """
        return self._propose(*self._rows(outputs), training)

    def _propose(self, objectness, codes, training):
        number = 0 if training else 1
        sizes = dict(candidates=self.candidates[number], count=self.proposals[number])
        return propose(objectness, codes, self.anchors, self.image_shape[:2], **sizes)

    def pool(self, outputs, boxes, bins=BINS):
        """Features of boxes: `(batch * boxes, bins, bins, pyramid_filters)`."""
        return roi_align(
            [outputs[f"maps_{i}"] for i in self.level_names[: len(self.strides)]],
            boxes,
            bins,
            self.strides,
            aligned=self.conventions == "pixel_centers",
            canonical_side=self.canonical_side,
            form=self.roi_form,
        )

    def _judge(self, outputs, boxes, training=False):
        """The box head's logits and codes of boxes."""
        features = tf.reshape(self.pool(outputs, boxes), (-1, int(np.prod(self.pooled_shape))))
        found = self.box_head(features, training=training)
        return found["logits"], found["codes"]

    def detection_losses(self, outputs, images, targets, training):
        seed = self._seed(training)
        objectness, codes = self._rows(outputs)
        of_anchors = region_losses(
            tf.concat(objectness, 1),
            tf.concat(codes, 1),
            np.concatenate(self.anchors),
            targets,
            tf.concat([seed, [0]], 0),
            samples=self.anchor_samples,
        )
        boxes, held = self._propose(objectness, codes, training)
        options = dict(samples=self.box_samples, positive_share=POSITIVE_SHARE)
        regions = sample_regions(boxes, held, targets, tf.concat([seed, [1]], 0), **options)
        of_boxes = box_losses(
            *self._judge(outputs, regions.boxes, training), regions, targets, class_weights=self.class_weights
        )
        return dict(zip(self.loss_names, (*of_anchors, *of_boxes), strict=False)) | self.further_losses(
            outputs, regions, targets, training
        )

    def further_losses(self, outputs, regions, targets, training) -> dict:
        """The losses of further heads by name: none here."""
        return {}

    def _seed(self, training):
        """Another one for each step of a training, and the same for all steps of an evaluation: int32 `(2,)`."""
        return tf.cast(self.seed_generator.next(), tf.int32) if training else tf.zeros((2,), tf.int32)

    def postprocess(self, **outputs):
        boxes, held = self.propose(**outputs)
        return self.finish(*self._judge(outputs, boxes), boxes, held)

    def finish(self, logits, codes, boxes, held):
        """`keras_dl.ops.Detections` of the box head's outputs for proposals."""
        return detected(
            logits,
            codes,
            boxes,
            held,
            self.image_shape[:2],
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
        )

    def load_torchvision(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of torchvision's `fasterrcnn_resnet50_fpn`, or of one on another ResNet of these sizes.

        Its first class is the background, so that `num_classes` is one less here, and class 0 is its class 1. The
        names of COCO's 91 classes have gaps. Give `norm_epsilon=0.0` for COCO_V1, and 1e-5 for other files.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the layers whose outputs belong to classes are loaded. False leaves them as they are,
                for a training on other classes.

        Raises:
            ValueError: if conventions="pixel_centers", or if entries are missing, unknown or of another shape. The
                message lists all of them, and the model stays as it was.
        """
        if self.conventions != "torchvision":
            raise ValueError(
                f"conventions={self.conventions!r}: weights of torchvision were trained half a pixel off. Build the "
                "model with conventions='torchvision'."
            )
        rcnn_weights.load_torchvision(self, weights, head)
