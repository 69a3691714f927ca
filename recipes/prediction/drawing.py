"""Answers drawn on the pictures that were asked about."""

import numpy as np
import tensorflow as tf

from keras_dl.files import replacing
from keras_dl.ops.letterbox import letterbox_frame
from keras_dl.ops.masks import paste_masks
from keras_dl.recipes.tasks import detection_pictures
from keras_dl.recipes.training import pictures


def draw(path, image, answer, outputs, labels, shape):
    """Writes a `.png`: boxes with labels, and masks; classes by color; or a title.

    Args:
        path: path of the file. Its folder is made.
        image: uint8, `(height, width, 3)`: the picture that was asked about.
        answer: dict of `predict`.
        outputs: dict of arrays of the signature, with one row.
        labels: sequence of str.
        shape: that of the model's input.
    """
    figure = pictures.figure(6, 6 * image.shape[0] / image.shape[1] + 0.5)
    axis = figure.subplots()
    if "objects" in answer:
        names = list(dict.fromkeys([*labels, *(o["label"] for o in answer["objects"])]))
        boxes = np.float32([o["box"] for o in answer["objects"]]).reshape(-1, 4)
        numbers = [names.index(o["label"]) for o in answer["objects"]]
        scores, masks = [o["score"] for o in answer["objects"]], None
        if "masks" in outputs:  # the objects of an answer are the first ones
            masks = unletterboxed(outputs["masks"][0], outputs["boxes"][0], image.shape[:2], shape[1:3])[: len(scores)]
        detection_pictures.draw(axis, image, boxes, numbers, scores, masks, labels=names)
    elif "shares" in answer:
        classes = outputs["probabilities"][0].argmax(-1)
        axis.imshow(classes, cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
        pictures.style(axis, ", ".join(f"{name} {share:.0%}" for name, share in answer["shares"].items()))
    else:
        pictures.show_image(axis, image)
        axis.set_title(", ".join(f"{c['label']} {c['probability']:.0%}" for c in answer.get("classes", ())))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def write_picture(path, image):
    """Writes a picture that a model made as a `.png`, pixel by pixel.

    Args:
        path: path of the file. Its folder is made.
        image: float, `(height, width, channels)`, in [0, 255], 1 or 3 channels.
    """
    pixels = np.clip(np.rint(image), 0, 255).astype("uint8")
    with replacing(path) as temporary:
        temporary.write_bytes(tf.io.encode_png(pixels).numpy())


def unletterboxed(masks, boxes, image_shape, shape):
    """Masks of objects in the original image.

    Args:
        masks: `(n, *shape)`, bool, or small ones of probabilities, `(n, side, side)`.
        boxes: `(n, 4)`, xyxy in pixels of the letterbox.
        image_shape: `(height, width)` of the original.
        shape: `(height, width)` of the letterbox.

    Returns:
        bool `(n, *image_shape)`.
    """
    masks = np.asarray(masks)
    if masks.shape[1:] != tuple(shape):
        masks = np.asarray(paste_masks(masks, boxes, shape)) >= 0.5
    top, left, height, width = (int(x) for x in letterbox_frame(*image_shape, shape))
    rows, columns = (
        start + ((np.arange(side) + 0.5) * scaled / side).astype(int)  # the nearest pixel
        for start, scaled, side in zip((top, left), (height, width), image_shape, strict=True)
    )
    return masks[:, rows[:, None], columns].astype(bool)
