"""RoIAlign and masks against torchvision's values and NumPy; gradients; XLA."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.ops.masks import mask_targets, paste_masks
from keras_dl.ops.roi_align import box_levels, roi_align

ORACLE = np.load(pathlib.Path(__file__).parent / "oracles" / "detection.npz")
MAPS = [np.moveaxis(ORACLE[f"roi_align/map{i}"], 1, -1) for i in range(3)]
BOXES = ORACLE["roi_align/boxes"]
OPTIONS = dict(size=(5, 7), strides=(4, 8, 16), canonical_side=16, canonical_level=3, aligned=False)


def channels_last(name):
    return np.moveaxis(ORACLE[f"roi_align/{name}"], 1, -1)


@pytest.fixture(params=["eager", "unknown batch", "xla"])
def run(request):
    def call(function, *arrays):
        tensors = [tf.constant(x) for x in arrays]
        if request.param == "eager":
            return function(*tensors)
        if request.param == "xla":
            return tf.function(function, jit_compile=True)(*tensors)
        specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in tensors]
        return tf.function(function, input_signature=specs)(*tensors)

    return call


def test_levels_are_torchvisions():
    found = box_levels(BOXES.reshape(-1, 4), (4, 8, 16), 16, 3)
    np.testing.assert_array_equal(found, ORACLE["roi_align/levels"])
    assert set(found.numpy()) == {0, 1, 2}


@pytest.mark.parametrize("form", ["gather", "matrix"])
def test_features_and_gradients_are_torchvisions(run, form):
    def both(boxes, *maps):
        with tf.GradientTape() as tape:
            tape.watch([boxes, *maps])
            pooled = roi_align(maps, boxes, form=form, **OPTIONS)
            total = tf.reduce_sum(pooled * channels_last("weights").astype("float32"))
        of_boxes, *gradients = tape.gradient(total, [boxes, *maps])
        assert of_boxes is None
        return pooled, *map(tf.convert_to_tensor, gradients)

    pooled, *gradients = run(both, BOXES, *MAPS)
    assert pooled.shape == (28, 5, 7, 3)
    np.testing.assert_allclose(pooled, channels_last("pooled"), rtol=1e-4, atol=1e-4)  # of places up to 100 pixels
    for i, gradient in enumerate(gradients):
        np.testing.assert_allclose(gradient, channels_last(f"gradient{i}"), rtol=1e-3, atol=1e-3)
    assert not pooled[1].numpy().any()  # a box outside


@pytest.mark.parametrize("form", ["gather", "matrix"])
def test_an_aligned_level_is_torchvisions(form):
    found = roi_align(MAPS[:1], BOXES, size=(5, 7), strides=(4,), form=form)
    np.testing.assert_allclose(found, channels_last("aligned"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["gather", "matrix"])
def test_aligned_features_of_a_ramp_are_the_middles_of_the_bins(form):
    """A pixel of the map has its value at its middle."""
    ramp = np.broadcast_to(np.arange(16, dtype="float32")[None, None, :, None] + 0.5, (1, 16, 16, 1)) * 4
    found = roi_align([ramp], np.float32([[[10, 8, 38, 40]]]), size=7, strides=(4,), form=form)
    np.testing.assert_allclose(found[0, :, :, 0], np.tile(10 + 4 * (np.arange(7) + 0.5), (7, 1)), rtol=1e-6)


@pytest.mark.parametrize("form", ["gather", "matrix"])
def test_numbers_that_are_not_finite_do_no_harm(form):
    boxes = BOXES.copy()
    boxes[0, 2], boxes[1, 3, 2] = np.nan, np.inf
    found = roi_align(MAPS, boxes, form=form, **OPTIONS)
    assert np.isfinite(found).all()
    others = np.delete(np.arange(28), [2, 14 + 3])
    np.testing.assert_allclose(found.numpy()[others], channels_last("pooled")[others], rtol=1e-4, atol=1e-4)


def test_wrong_arguments_are_refused():
    for options, message in (
        (dict(strides=(4, 8)), r"3 maps; strides=\(4, 8\)"),
        (dict(strides=(4, 8, 12)), r"strides=\(4, 8, 12\) must be powers of 2"),
        (dict(strides=(4, 8, 16), samples=0), "samples=0"),
        (dict(strides=(4, 8, 16), form="crop"), "form='crop'"),
    ):
        with pytest.raises(ValueError, match=message):
            roi_align(MAPS, BOXES, **options)


# Masks


def test_targets_are_torchvisions(run):
    """Which samples each bin as often as it has pixels."""
    instance_map, boxes = ORACLE["masks/map"][None], ORACLE["masks/boxes"][None]
    numbers = np.int32([[1, 2, 3, 4]])
    found = run(lambda *x: mask_targets(*x, size=14, samples=None, aligned=False), instance_map, numbers, boxes)
    np.testing.assert_allclose(found[0], ORACLE["masks/targets"], atol=1e-5)
    assert 0.1 < found.numpy().mean() < 0.9


def test_targets_are_roi_align_of_a_mask(run):
    instance_map, boxes = ORACLE["masks/map"][None], ORACLE["masks/boxes"][None]
    numbers = np.int32([[2, 0, 3, 2]])
    found = run(lambda *x: mask_targets(*x, size=7), instance_map, numbers, boxes)
    for i, number in enumerate(numbers[0]):
        mask = (instance_map == number).astype("float32")[..., None] * (number > 0)
        expected = roi_align([mask], boxes[:, i : i + 1], size=7, strides=(1,))[0, :, :, 0]
        np.testing.assert_allclose(found[0, i], expected, atol=1e-6)


def test_pasting_is_torchvisions(run):
    small, boxes = ORACLE["masks/small"][None] / np.float32(64), ORACLE["masks/places"][None]
    found = run(lambda *x: paste_masks(*x, (40, 48), "torchvision"), small, boxes)
    np.testing.assert_allclose(found[0], ORACLE["masks/pasted"], atol=2e-5)


def slow_paste(mask, box, shape):
    """The mask at the middle of each pixel, between cells by bilinear interpolation, 0 outside of the cells."""
    side, result = len(mask), np.zeros(shape)
    padded = np.pad(mask, 1)
    for y, x in np.ndindex(shape):
        v = (y + 0.5 - box[1]) / (box[3] - box[1]) * side + 0.5  # in cells of the padded mask, from its first middle
        u = (x + 0.5 - box[0]) / (box[2] - box[0]) * side + 0.5
        if 0 <= v <= side + 1 and 0 <= u <= side + 1:
            i, j = min(int(v), side), min(int(u), side)
            row = padded[i : i + 2, j : j + 2] @ [1 - (u - j), u - j]
            result[y, x] = row @ [1 - (v - i), v - i]
    return result


def test_pasting_at_pixel_centers_is_numpys(run):
    small, boxes = ORACLE["masks/small"][None] / np.float32(64), ORACLE["masks/places"][None]
    found = run(lambda *x: paste_masks(*x, (40, 48)), small, boxes)
    for mask, box, pasted in zip(small[0], boxes[0], found[0], strict=True):
        np.testing.assert_allclose(pasted, slow_paste(mask, box.astype("float64"), (40, 48)), atol=1e-4)


def test_cut_and_pasted_masks_are_the_masks():
    """What the default conventions lose of small objects is less than torchvision's."""
    instance_map = ORACLE["masks/map"]
    numbers = np.arange(1, 5)
    boxes = []
    for number in numbers:
        ys, xs = np.nonzero(instance_map == number)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    boxes, truth = np.float32(boxes)[None], instance_map == numbers[:, None, None]

    def mean_iou(aligned, convention):
        targets = mask_targets(instance_map[None], numbers[None], boxes, aligned=aligned)
        pasted = paste_masks(targets, boxes, instance_map.shape, convention)[0].numpy() >= 0.5
        return np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(truth, pasted, strict=True)])

    assert mean_iou(True, "pixel_centers") > 0.99
    assert mean_iou(False, "torchvision") < 0.9


def test_unknown_conventions_are_refused():
    with pytest.raises(ValueError, match="convention='other' must be one of"):
        paste_masks(np.zeros((1, 2, 2)), np.zeros((1, 4)), (4, 4), "other")
    with pytest.raises(ValueError, match="samples=0"):
        mask_targets(np.zeros((1, 4, 4), int), np.zeros((1, 1), int), np.zeros((1, 1, 4)), samples=0)
