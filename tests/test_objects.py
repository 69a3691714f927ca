"""The format of targets, letterboxes, and augmentations: a box that is drawn is found again under its box."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.objects import check_pixels, pad_targets
from keras_dl.ops.letterbox import letterbox, letterbox_boxes, letterbox_frame, unletterbox_boxes
from keras_dl.recipes.training import augment_objects as augment

GIVEN = dict(num_classes=3, max_boxes=3)


@pytest.fixture(autouse=True)
def no_unexpected_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_ragged_lists_become_padded_arrays():
    boxes = [[[1, 2, 5, 6], [-3, 0, 4, 9]], [], np.zeros((0, 4))]
    targets = pad_targets(boxes, [[2, 0], [], []], [(8, 8)] * 3, **GIVEN)
    assert targets["boxes"].tolist() == [[[1, 2, 5, 6], [0, 0, 4, 8], [0] * 4], [[0] * 4] * 3, [[0] * 4] * 3]
    assert targets["classes"].tolist() == [[2, 0, -1], [-1] * 3, [-1] * 3]
    assert set(targets) == {"boxes", "classes"}
    assert {x.dtype.name for x in targets.values()} == {"float32", "int32"}


def test_masks_become_a_map_whose_numbers_are_slots():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, 0, 0], masks[2, 1:3, 2:] = True, True, True
    boxes = [[0, 0, 4, 2], [9, 9, 12, 12], [2, 1, 4, 3]]  # the second one is outside
    with pytest.warns(UserWarning, match="image a: 1 objects without area or outside"):
        targets = pad_targets(
            [boxes],
            [[0, 1, 2]],
            [(4, 4)],
            masks=[masks],
            crowd=[[False, False, True]],
            names=[b"a"],
            faulty="drop",
            **GIVEN,
        )
    assert targets["instance_map"][0].tolist() == [[1, 1, 1, 1], [1, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]]
    assert targets["crowd"].tolist() == [[False, True, False]]
    none = pad_targets([[]], [[]], [(4, 4)], masks=[[]], crowd=[[]], **GIVEN)
    assert not none["instance_map"].any()


def test_more_objects_than_slots_are_counted():
    with pytest.warns(UserWarning, match="image 0 has 5 objects, and max_boxes=3: 2 are cut"):
        targets = pad_targets([np.tile([0, 0, 3, 3], (5, 1))], [np.arange(5) % 3], [(9, 9)], **GIVEN)
    assert targets["classes"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("box", "label", "message"),
    [
        ([5, 2, 3, 6], 0, r"image b.png: boxes\[1\] = \[5.0, 2.0, 3.0, 6.0\] has no area: boxes are left, top, right"),
        ([3, 2, 3, 6], 0, "has no area"),
        ([9, 2, 12, 6], 0, "is outside, in an image of 8 x 8 pixels"),
        ([1, 2, np.nan, 6], 0, "is not finite"),
        ([1, 2, 3, 6], 3, r"image b.png: classes\[1\] = 3 must be an integer in \[0, 3\)"),
        ([1, 2, 3, 6], -1, r"classes\[1\] = -1"),
    ],
)
def test_wrong_objects_name_the_image(box, label, message):
    with pytest.raises(ValueError, match=message):
        pad_targets([[], [[0, 0, 2, 2], box]], [[], [0, label]], [(8, 8)] * 2, names=["a.png", "b.png"], **GIVEN)


def test_wrong_shapes_are_refused():
    box = [[[0, 0, 2, 2]]]
    for arguments, options, message in (
        ((box, [[0, 1]], [(8, 8)]), {}, r"boxes and classes have the shapes \(1, 4\) and \(2,\)"),
        ((box, [[0], [1]], [(8, 8)]), {}, "classes has 2 entries, and boxes 1"),
        (
            (box, [[0]], [(8, 8)]),
            dict(masks=[np.ones((1, 4, 8))]),
            r"masks has the shape \(1, 4, 8\); it must be \(1, 8",
        ),
        ((box * 2, [[0]] * 2, [(8, 8), (9, 8)]), dict(masks=[None] * 2), "must be one shape where there are masks"),
        ((box, [[0]], [(8, 8, 3)]), {}, r"image 0: image_shapes has \(8, 8, 3\); it must be \(height, width\)"),
        ((box, [["cat"]], [(8, 8)]), {}, r"classes\[0\] = .*cat.* must be an integer in \[0, 3\)"),
        ((box, [[None]], [(8, 8)]), {}, r"classes\[0\] = None must be an integer"),
        ((box, [[0]], [(8, 8)]), dict(max_boxes=0), "max_boxes=0"),
        ((box, [[0]], [(8, 8)]), dict(faulty="mend"), "faulty='mend'"),
    ):
        with pytest.raises(ValueError, match=message):
            pad_targets(*arguments, **(GIVEN | options))


def test_what_looks_scaled_is_said():
    with pytest.warns(UserWarning, match="in pixels, not in shares"):
        pad_targets([[[0.1, 0.2, 0.5, 0.9]]], [[0]], [(32, 32)], **GIVEN)
    with pytest.warns(UserWarning, match=r"images are in \[0, 0.5\]; they must be raw pixels in \[0, 255\]"):
        check_pixels(np.full((1, 4, 4, 3), 0.5))
    with pytest.warns(UserWarning, match=r"images are in \[-2.1, 2.6\]; they must be raw pixels"):
        check_pixels(np.float32([-2.1, 0, 2.6]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_pixels(np.float32([-3, 258]))  # a cubic resize goes beyond
        check_pixels(np.zeros(3, "float32"))
    check_pixels(np.zeros((1, 4, 4, 3), "uint8"))
    check_pixels(np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="not finite"):
        check_pixels(np.array([np.nan]))


# Letterboxes


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (33, 65)])
@pytest.mark.parametrize("image_shape", [(100, 50), (37, 91), (5, 300), (64, 64), (1, 1)])
def test_the_way_back_is_exact(shape, image_shape):
    height, width = image_shape
    random = np.random.default_rng(0)
    corner = random.uniform(0, 0.7, (20, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0, 0.3, (20, 2))], 1) * ([width, height] * 2)
    boxes = np.clip(boxes, 0, [width, height, width, height])
    inside = letterbox_boxes(boxes, image_shape, shape)
    np.testing.assert_allclose(unletterbox_boxes(inside, image_shape, shape), boxes, rtol=0, atol=1e-9)
    top, left, h, w = (int(x) for x in letterbox_frame(height, width, shape))
    whole = letterbox_boxes(np.float64([0, 0, width, height]), image_shape, shape)
    np.testing.assert_allclose(whole, [left, top, left + w, top + h])
    assert h == shape[0] or w == shape[1]
    assert 0 <= shape[0] - h - 2 * top <= 1
    assert 0 <= shape[1] - w - 2 * left <= 1


def test_the_image_is_where_the_boxes_are():
    image = tf.fill((30, 50, 3), tf.constant(250, tf.uint8))
    boxed = letterbox(image, (64, 64))
    assert boxed.dtype == tf.uint8
    assert (
        extent(boxed.numpy()[..., 0] == 250) == letterbox_boxes([0.0, 0, 50, 30], (30, 50), (64, 64)).numpy().tolist()
    )
    assert (boxed.numpy()[0] == 114).all()


# Augmentations


def extent(mask):
    """The box of what is True: left, top, right, bottom."""
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def drawn(height=60, width=80, bright=250.0):
    """A dark image with a rectangle in each of two channels, and as many padded slots."""
    boxes = np.float32([[12, 8, 40, 30], [45, 25, 70, 50], [0, 0, 0, 0]])
    image, instance_map = np.zeros((height, width, 3), "float32"), np.zeros((height, width), "int32")
    for i, (x1, y1, x2, y2) in enumerate(boxes[:2].astype(int)):
        image[y1:y2, x1:x2, i] = bright
        instance_map[y1:y2, x1:x2] = i + 1
    sample = dict(image=image, boxes=boxes, classes=np.int32([4, 7, -1]), instance_map=instance_map)
    return {name: tf.constant(x) for name, x in sample.items()}


def check_found(sample, bright=250.0):
    """Each object is under its box, in the image and in the map. A middle of a pixel may lie on either side."""
    seen = 0
    for slot, (box, label) in enumerate(zip(sample["boxes"].numpy(), sample["classes"].numpy(), strict=True)):
        if label < 0:
            assert not box.any()
            continue
        seen += 1
        channel = {4: 0, 7: 1}[label]
        image = sample["image"].numpy()
        mask = image[..., channel] - image.min(-1) > bright / 2
        if "instance_map" in sample:
            assert np.abs(extent(sample["instance_map"].numpy() == slot + 1) - box).max() <= 1
        if "instance_map" in sample or label == 4:
            part = mask.copy()
            x1, y1, x2, y2 = np.round(box).astype(int)
            part[:y1], part[y2:], part[:, :x1], part[:, x2:] = False, False, False, False
            assert part.sum() >= 0.85 * np.prod(box[2:] - box[:2])
    return seen


@pytest.mark.parametrize(
    "change",
    [
        augment.flip,
        lambda x, seed: augment.jitter(x, seed, (50, 70)),
        lambda x, seed: augment.jitter(x, seed, (96, 64), low=0.3, high=0.9),
        lambda x, seed: augment.fit(x, (48, 48)),
    ],
    ids=["flip", "crop", "small", "letterbox"],
)
def test_objects_are_found_again_under_their_boxes(change):
    change = tf.function(change)
    seen = [check_found(change(drawn(), tf.constant([0, seed]))) for seed in range(20)]
    assert sum(seen) > 20


def test_exact_changes():
    sample = drawn()
    turned = augment.place(sample, tf.constant([1.0, -1.0]), tf.constant([0.0, 80.0]), (60, 80))
    np.testing.assert_array_equal(turned["image"], sample["image"][:, ::-1])
    np.testing.assert_array_equal(turned["boxes"][0], [40, 8, 68, 30])
    moved = augment.place(sample, tf.constant([1.0, 1.0]), tf.constant([-10.0, -20.0]), (40, 30), fill=9)
    np.testing.assert_array_equal(moved["image"], sample["image"][10:50, 20:50])
    np.testing.assert_array_equal(moved["instance_map"], np.where(sample["instance_map"] == 1, 1, 0)[10:50, 20:50])
    assert moved["boxes"].numpy().tolist() == [[0, 0, 20, 20], [0] * 4, [0] * 4]  # a fifth of the second is left
    assert moved["classes"].numpy().tolist() == [4, -1, -1]


def test_a_mosaic_keeps_what_is_seen():
    @tf.function
    def make(seed):
        samples = [drawn(), drawn(60, 80), drawn(bright=0.0), drawn()]
        return augment.mosaic(samples, seed, (96, 128), fill=0)

    counts = []
    for seed in range(10):
        mixed = make(tf.constant([1, seed]))
        assert mixed["classes"].shape == (12,)
        assert mixed["image"].shape == (96, 128, 3)

        image, boxes, classes = (mixed[name].numpy() for name in ("image", "boxes", "classes"))
        counts.append((classes >= 0).sum())
        for slot in np.flatnonzero(classes >= 0):
            x1, y1, x2, y2 = np.round(boxes[slot]).astype(int)
            part = image[y1:y2, x1:x2, {4: 0, 7: 1}[classes[slot]]]
            assert part.mean() < 1 if slot // 3 == 2 else part.mean() > 0.8 * 250
    assert len(set(counts)) > 1


def test_mixed_objects_are_found_again_under_their_boxes():
    """Those of each image are as bright as its weight; the second image is the first one turned over."""
    first = {name: x for name, x in drawn().items() if name != "instance_map"}
    second = augment.place(first, tf.constant([1.0, -1.0]), tf.constant([0.0, 80.0]), (60, 80))
    for seed in range(5):
        mixed = augment.mixup(first, second, tf.constant([2, seed]))
        image, boxes, classes = (mixed[name].numpy() for name in ("image", "boxes", "classes"))
        assert classes.tolist() == [4, 7, -1, 4, 7, -1]
        assert not boxes[classes < 0].any()
        found = []
        for own, other in ((0, 3), (1, 4)):  # slots of the same class
            for slot, channel in ((own, own), (other, own)):
                x1, y1, x2, y2 = boxes[slot].astype(int)
                part = image[y1:y2, x1:x2, channel]
                found.append(float(part.min()) / 250)
                rest = image[..., channel].copy()
                for i in (own, other):
                    x1, y1, x2, y2 = boxes[i].astype(int)
                    rest[y1:y2, x1:x2] = 0
                assert not rest.any()
        shares = found[::2], found[1::2]
        np.testing.assert_allclose(np.sum(shares, axis=0), 1, atol=1e-5)
        np.testing.assert_allclose(np.ptp(shares, axis=1), 0, atol=1e-5)


def test_mixup_and_slots():
    first, second = drawn(), drawn(bright=100.0)
    mixed = augment.mixup(first, second, tf.constant([0, 1]))
    assert mixed["classes"].numpy().tolist() == [4, 7, -1, 4, 7, -1]
    share = (mixed["image"].numpy().max() - 100) / 150
    assert 0.3 < share < 0.7
    assert augment.resize_slots(mixed, 4)["classes"].numpy().tolist() == [4, 7, 4, 7]
    wide = augment.resize_slots(mixed, 8)
    assert wide["classes"].numpy().tolist() == [4, 7, 4, 7, -1, -1, -1, -1]
    assert wide["boxes"].shape == (8, 4)
    assert wide["boxes"].numpy()[3].tolist() == drawn()["boxes"].numpy()[1].tolist()
