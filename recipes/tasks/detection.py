"""Detection: one pipeline from TFDS sets in the layout of `coco` to images and targets, and the metric on a file.

    image -> letterbox -> random changes, for training -> batches of (images, {"boxes", "classes", ...})

Images are raw pixels, targets are as `keras_dl.objects` says. A crowd, and a difficult object of VOC, is no object in
training, and is not judged in the test. What the test says is in pixels of the original images.
"""

import numpy as np
import tensorflow as tf

from keras_dl.export import KerasRunner
from keras_dl.extras import require
from keras_dl.metrics import CocoMetric
from keras_dl.objects import pad_targets
from keras_dl.ops.letterbox import letterbox, letterbox_boxes, letterbox_frame, unletterbox_boxes
from keras_dl.recipes.data.own import OwnData
from keras_dl.recipes.training import augment_objects as augment
from keras_dl.recipes.training.batches import fold_in, limit, open_dataset, origin, shuffled
from keras_dl.recipes.training.recipe import WHOLE, Data

TEST_BATCH = 50
PLAIN_EPOCHS = 10  # at the end, without mosaics
SHUFFLED_FILES = 1024  # encoded images in memory at a time


def objects(options, shape, max_boxes, change=None, mosaic=0.0, masks=False, mosaic_options=None):
    """`Data` of a TFDS set with features `image` and `objects`, whose images may have any sides.

    Args:
        options: `Options`.
        shape: `(height, width)` of the model's images. Others come in a letterbox.
        max_boxes: int. Slots of the targets; a mosaic has four times as many. Own data has as many as it needs.
        change: `change(sample, seed) -> sample`, such as of `keras_dl.recipes.training.augment_objects`, for training
            images of `shape`. None for none.
        mosaic: float in [0, 1]. The share of training images that are mosaics of four, except in the last epochs.
        masks: bool. Whether targets have an `instance_map`, which the data set then must have.
        mosaic_options: dict of `low`, `high` and `min_visible` of `augment_objects.mosaic`, or None for its defaults.

    Returns:
        `Data`. Training images are float32, those of the test uint8; all have three channels. The targets of the test
        also hold `crowd`, and `image_shape`, the sides of the original image.

    Raises:
        ValueError: if a mosaic is asked for with masks, or an object of the data is wrong; the message names the image.
        DataError: if the data set is not available.
    """
    tfds = require("tensorflow_datasets", extra="recipes")
    if mosaic and masks:
        raise ValueError(f"mosaic={mosaic} must be 0 with masks.")
    change, mosaic = (change, mosaic) if options.augment else (None, 0.0)
    builder, own = open_dataset(options), options.data is not None
    if own:
        max_boxes = builder.metadata["most"]
    feature = builder.info.features["image"]
    labels = tuple(builder.info.features["objects"].feature["label"].names)
    same_size = None not in feature.shape and not own
    decoders = None if same_size else {"image": tfds.decode.SkipDecoding()}
    faulty = "raise" if hasattr(builder, "SOURCE") else "drop"  # COCO has boxes without area

    def standard(example):
        """Image, perhaps encoded; its sides; boxes, classes, crowd, and perhaps the map."""
        image, found = example["image"], example if own else example["objects"]
        if own:
            sides, crowd = tf.ensure_shape(example["sides"], (2,)), example["crowd"]
        else:
            sides = tf.shape(image)[:2] if same_size else tf.io.extract_jpeg_shape(image)[:2]
            crowd = found["is_crowd"] if "is_crowd" in found else found["is_difficult"]
        name = example["image/filename"]

        def padded(bbox, classes, crowd, sides, name):
            boxes = bbox if own else bbox[:, [1, 0, 3, 2]] * sides[[1, 0, 1, 0]]
            given = dict(num_classes=len(labels), max_boxes=max_boxes, names=[name], faulty=faulty)
            targets = pad_targets([boxes], [classes], [sides], crowd=[crowd], **given)
            return [targets[key][0] for key in ("boxes", "classes", "crowd")]

        inputs = [*(found[key] for key in (("boxes", "classes") if own else ("bbox", "label"))), crowd, sides, name]
        boxes, classes, crowd = tf.numpy_function(padded, inputs, [tf.float32, tf.int32, tf.bool], stateful=False)
        columns = [image, sides, tf.ensure_shape(boxes, (max_boxes, 4)), tf.ensure_shape(classes, (max_boxes,))]
        columns.append(tf.ensure_shape(crowd, (max_boxes,)))
        if masks:
            columns.append(example["number"] if own else fitting(tf.cast(example["instance_map"][..., 0], tf.int32)))
        return tuple(columns)

    def fitting(instance_map):
        """Without objects that are cut for want of a slot, which are background."""
        return tf.where(instance_map <= max_boxes, instance_map, 0)

    def drawn(number):
        """The map of own data, whose row has a number only: images of several sides cannot be batched."""
        instance_map = tf.numpy_function(builder.metadata["map_of"], [number], tf.int32, stateful=False)
        return fitting(tf.ensure_shape(instance_map, (None, None)))

    def split(names, which):
        if own:
            dataset = builder.rows(names)
        else:
            dataset = builder.as_dataset(split=names, decoders=decoders, shuffle_files=False)
        dataset = dataset.take(limit(which, options)).map(standard, tf.data.AUTOTUNE)
        return dataset.cache() if same_size else dataset

    def sample_of(image, sides, boxes, classes, crowd, *instance_map):
        """A sample of `shape`, and what is not in it."""
        if own:
            image, instance_map = builder.decode("image", image), [drawn(x) for x in instance_map]
        else:
            image = image if same_size else feature.decode_example(image)
        image = tf.image.grayscale_to_rgb(image) if image.shape[-1] == 1 else image
        if not same_size or tuple(image.shape[:2]) != tuple(shape):
            image, boxes = letterbox(image, shape), letterbox_boxes(boxes, (sides[0], sides[1]), shape)
            instance_map = [_letterboxed_map(x, shape) for x in instance_map]
        boxes = tf.where(classes[:, None] >= 0, boxes, 0.0)
        sample = {"image": image, "boxes": boxes, "classes": classes}
        sample |= {"instance_map": instance_map[0]} if instance_map else {}
        return sample, {"crowd": crowd, "image_shape": sides}

    def prepared(*columns):
        sample, rest = sample_of(*columns)
        sample = augment.only(sample, tf.logical_not(rest["crowd"]))
        return sample | {"image": tf.cast(sample["image"], tf.float32)}

    names, test_names = _splits(builder)
    train, test = split(names, "train"), split(test_names, "test")
    validation = split("validation", "test") if own and "validation" in builder.counts else None
    slots = max_boxes * (4 if mosaic else 1)
    num_train = _count(train)

    def epoch(number, part=WHOLE):
        order = fold_in(options.seed, number)
        block = () if same_size or own else (SHUFFLED_FILES,)
        streams = [shuffled(train, fold_in(options.seed, number, i), *block) for i in range(4 if mosaic else 1)]
        share = tf.where(number < options.epochs - PLAIN_EPOCHS, mosaic, 0.0)

        def changed(index, *samples):
            seeds = tf.random.split(tf.random.fold_in(order, index), 3)
            samples = [prepared(*columns) for columns in samples]
            sample = samples[0]
            if mosaic:
                sample = tf.cond(
                    tf.random.stateless_uniform((), seeds[0]) < share,
                    lambda: augment.mosaic(samples, seeds[1], shape, **(mosaic_options or {})),
                    lambda: augment.resize_slots(samples[0], slots),
                )
            return pair(sample if change is None else change(sample, seeds[2]))

        dataset = tf.data.Dataset.zip(*streams) if len(streams) > 1 else streams[0].map(lambda *columns: (columns,))
        dataset = part.of(dataset.enumerate(), options, num_train)
        dataset = dataset.map(lambda index, samples: changed(index, *samples), tf.data.AUTOTUNE)
        return dataset.batch(part.size(options), drop_remainder=True)

    def as_served(*columns):
        sample, rest = sample_of(*columns)
        image, targets = pair(sample)
        return image, targets | rest

    def calibration(samples):
        dataset = shuffled(train, fold_in(options.seed, -1), samples if not same_size else len(train)).take(samples)
        return dataset.map(lambda *columns: {"images": as_served(*columns)[0][None]})

    return Data(
        train=epoch,
        test=test.map(as_served, tf.data.AUTOTUNE).batch(TEST_BATCH).prefetch(1),
        num_train=num_train,
        num_test=_count(test),
        calibration=calibration,
        divides="rows",
        labels=labels,
        input_shape=(*shape, 3),
        input_range="uint8 pixels in [0, 255]",
        validation=None if validation is None else validation.map(as_served).batch(TEST_BATCH).prefetch(1),
        **origin(builder),
    )


def pair(sample):
    """Image and targets, as `fit` takes them."""
    targets = {name: x for name, x in sample.items() if name != "image"}
    return sample["image"], targets


def _letterboxed_map(instance_map, shape):
    """By nearest neighbors, since numbers have no mean."""
    height, width = tf.unstack(tf.shape(instance_map))
    top, left, *sides = letterbox_frame(height, width, shape)
    scaled = tf.image.resize(instance_map[..., None], tf.stack(sides), "nearest")
    return tf.ensure_shape(tf.image.pad_to_bounding_box(scaled, top, left, *shape)[..., 0], shape)


def _splits(builder):
    """The splits to train on, joined, and the one of the test. COCO's test split has no objects."""
    if isinstance(builder, OwnData):
        return "train", "test"
    present = set(builder.info.splits) or set(builder.as_dataset(shuffle_files=False))
    if builder.name == "coco" or "test" not in present:
        return "train", "validation"
    return ("train+validation" if "validation" in present else "train"), "test"


def _count(dataset):
    known = int(dataset.cardinality())
    return known if known >= 0 else int(dataset.reduce(np.int64(0), lambda n, _: n + 1))


def coco_figures(serve, data, masks=False, signature="detect"):
    """COCO's figures of what a model or a file detects in `data.test`, in pixels of the original images.

    Args:
        serve: `serve(signature, **inputs)`, as recipes get it.
        data: `Data` of `objects`.
        masks: bool. Whether masks are judged, too; then all is in pixels of the letterbox.
        signature: str.

    Returns:
        dict, as of `keras_dl.metrics.CocoMetric.result`.
    """
    metric, shape = CocoMetric(len(data.labels), masks), data.input_shape[:2]
    for images, targets in data.test.as_numpy_iterator():
        found = dict(serve(signature, images=images))
        sides = targets.pop("image_shape")
        if not masks:
            targets = targets | {"boxes": _unboxed(targets["boxes"], sides, shape)}
            found["boxes"] = _unboxed(found["boxes"], sides, shape)
        metric.update(found, targets)
    return metric.result()


def calibration(serve, data, samples):
    """Training images for `detect` and `raw`, and what `raw` makes of them for `postprocess`: a dict by signature."""
    images = list(data.calibration(samples).as_numpy_iterator())
    outputs = serve("raw", images=np.concatenate([x["images"] for x in images]))
    rows = [{name: x[i : i + 1] for name, x in outputs.items()} for i in range(len(images))]
    return {"detect": images, "raw": images, "postprocess": rows}


def serving(model):
    """`serve` of a model, as `Recipe.evaluate` has it."""
    return KerasRunner(model, TEST_BATCH).serve


def _unboxed(boxes, sides, shape):
    return np.stack([unletterbox_boxes(b, tuple(s), shape) for b, s in zip(boxes, sides, strict=True)])
