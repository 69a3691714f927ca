"""Mask R-CNN: torchvision's five losses, boxes and masks; counts; what is pasted; images without objects."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from test_faster_rcnn import NAMES, SMALL, THEIRS, compare_detections, compare_gradients, trainable

from keras_dl import MaskRCNN
from keras_dl.models.detection import roi_heads, rpn
from keras_dl.objects import pad_targets
from keras_dl.ops import paste_masks

TINY = SMALL | dict(mask_dims=(8,), mask_samples=6)


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("rcnn")


@pytest.fixture(scope="module")
def net(oracle):
    model = MaskRCNN(image_shape=(75, 100, 3), mask_dims=(8, 8), **THEIRS)
    model.load_torchvision(state_dict(oracle))
    return model


def test_published_counts():
    """torchvision's, without its frozen norms, at its 91 classes; and of the heads of masks."""
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = MaskRCNN.from_preset("maskrcnn_resnet50_fpn", image_shape=(64, 64, 3))
        assert trainable(model) == 44_401_393
        assert sum(net.count_params() for net in (model.net, model.box_head, model.mask_head)) == 44_507_633
        assert trainable(model.mask_head) == 2_360_320 + 285_787


# torchvision's values.


@pytest.fixture(scope="module")
def found(oracle, net):
    return net.detect(oracle["images"])


def test_detections_are_torchvisions(oracle, found):
    compare_detections(found, oracle, "")


def test_masks_are_torchvisions(oracle, found):
    for number in (0, 1):
        masks = oracle[f"masks_{number}"] / 255
        np.testing.assert_allclose(found.masks[number], masks, atol=0.5 / 255 + 1e-4)
        assert 0.2 < masks.mean() < 0.8


def test_pasted_masks_are_torchvisions(oracle, found):
    """Of masks near 0.5 few pixels differ, for rounding."""
    pasted = paste_masks(found.masks, found.boxes, (75, 100), "torchvision").numpy() >= 0.5
    for number in (0, 1):
        expected = np.unpackbits(oracle[f"pasted_{number}"]).reshape(pasted.shape[1:]).astype(bool)
        assert (pasted[number] != expected).mean() < 1e-4
        assert expected.sum() > 100


@pytest.fixture
def their_samples(oracle, monkeypatch):
    monkeypatch.setattr(rpn, "hashed_uniform", lambda shape, seed: tf.constant(oracle["keys/region"]))
    monkeypatch.setattr(roi_heads, "hashed_uniform", lambda shape, seed: tf.constant(oracle["keys/box"]))


def test_losses_and_gradients_are_torchvisions(oracle, net, their_samples):
    """Five losses, and the gradient of their sum for each weight."""
    targets = pad_targets(
        [oracle["boxes"], []], [oracle["labels"] - 1, []], [(75, 100)] * 2, num_classes=3, max_boxes=4
    )
    instance_map = np.stack([oracle["map"], np.zeros_like(oracle["map"])]).astype("int32")
    targets = {name: tf.constant(x) for name, x in (targets | {"instance_map": instance_map}).items()}
    with tf.GradientTape() as tape:
        losses = net.detection_losses(net(oracle["images"], training=True), oracle["images"], targets, training=True)
        total = sum(losses.values())
    assert tuple(losses) == net.loss_names
    for name, value in losses.items():
        np.testing.assert_allclose(value, oracle[f"loss/{NAMES[name]}"], rtol=1e-4, err_msg=name)
    compare_gradients(net, tape.gradient(total, net.trainable_variables), oracle)


# Masks.


def scene():
    """An image with two ellipses, and one without object."""
    images = np.full((2, 32, 32, 3), 20, "uint8")
    y, x = np.mgrid[:32, :32] + 0.5
    masks = np.stack([((x - 9) / 6) ** 2 + ((y - 10) / 8) ** 2 < 1, ((x - 22) / 7) ** 2 + ((y - 20) / 5) ** 2 < 1])
    images[0][masks.any(0)] = 220
    boxes = [[[3, 2, 15, 18], [15, 15, 29, 25]], []]
    return images, pad_targets(
        boxes, [[0, 2], []], [(32, 32)] * 2, num_classes=3, max_boxes=3, masks=[masks, np.zeros((0, 32, 32))]
    )


@pytest.fixture(scope="module")
def small():
    return MaskRCNN(image_shape=(32, 32, 3), **TINY, seed=0)


def mask_loss(model, targets, images=None):
    images = scene()[0] if images is None else images
    targets = {name: tf.constant(x) for name, x in targets.items()}
    return model.detection_losses(model(images), images, targets, training=False)["mask"]


def test_images_without_objects_have_no_mask_loss(small):
    _, targets = scene()
    none = {name: np.full_like(x, -1 if name == "classes" else 0) for name, x in targets.items()}
    assert mask_loss(small, none) == 0
    assert mask_loss(small, targets) > 0


def test_the_mask_of_the_true_class_alone_is_learned(small):
    """The gradient of the other classes' outputs, and of the background's, is 0."""
    _, targets = scene()
    kernel = small.mask_head.get_layer("masks").kernel
    with tf.GradientTape() as tape:
        loss = mask_loss(small, targets)
    gradient = tape.gradient(loss, kernel.value).numpy()[0, 0]  # (channels, classes)
    assert [bool(column.any()) for column in gradient.T] == [True, False, True, False]


def test_the_loss_is_that_of_all_slots(small, monkeypatch):
    """Without XLA, the mask head sees 1, 3 or 6 slots. Value and gradients are those of all 6."""
    monkeypatch.setattr(MaskRCNN, "jit_compile", False)
    images, targets = scene()
    targets = {name: tf.constant(x) for name, x in targets.items()}
    outputs = small(images)
    corners = np.arange(6, dtype="float32")[:, None] / 4
    boxes = np.tile(np.array([2, 3, 16, 19], "float32"), (2, 6, 1)) + corners
    objects = np.tile([0, 1], (2, 3)).astype("int32")

    def regions(positives):
        positive = tf.constant(np.arange(6) < [[positives], [0]])
        return roi_heads.Regions(tf.constant(boxes), tf.where(positive, objects, 0), positive, positive)

    @tf.function
    def losses(regions):
        arguments = outputs, regions, targets, False
        with tf.GradientTape(persistent=True) as tape:
            found = small.further_losses(*arguments)["mask"], small._mask_loss(*arguments, 6)
        weights = small.mask_head.trainable_variables
        return [(loss, *tape.gradient(loss, weights)) for loss in found]

    for positives in (0, 1, 2, 3, 4, 6):
        found, expected = losses(regions(positives))
        assert (found[0] > 0) == (positives > 0)
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-7)

    monkeypatch.setattr(MaskRCNN, "_mask_loss", lambda *arguments: tf.constant(arguments[-1]))
    seen = [int(small.further_losses(outputs, regions(n), targets, False)["mask"]) for n in (0, 1, 2, 3, 4, 6)]
    assert seen == [1, 1, 3, 3, 6, 6]


def test_pasted_detections_are_those_of_the_boxes(small):
    images, _ = scene()
    pasting = MaskRCNN.from_config(small.get_config() | {"paste": True})
    pasting.set_weights(small.get_weights())
    plain, pasted = small.detect(images), pasting.detect(images)
    assert plain.masks.shape == (2, 100, 28, 28)
    assert pasted.masks.shape == (2, 100, 32, 32)
    expected = paste_masks(plain.masks, plain.boxes, (32, 32))
    np.testing.assert_allclose(pasted.masks, expected, atol=1e-5)
    assert pasted.count.numpy().min() > 0


def test_a_map_of_another_size_is_refused(small):
    images, targets = scene()
    with pytest.raises(
        ValueError, match=r"instance_map'\] has the shape \(2, 16, 32\); it must be \('batch', 32, 32\)"
    ):
        mask_loss(small, targets | {"instance_map": targets["instance_map"][:, ::2]})
    small.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="targets a dict of boxes, classes, instance_map; targets: boxes, classes"):
        small.fit(images, {name: targets[name] for name in ("boxes", "classes")}, verbose=0)
