"""Faster R-CNN: torchvision's losses, proposals and detections; counts; images without objects; what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import FasterRCNN
from keras_dl.layers import FeaturePyramid
from keras_dl.models.detection import rcnn_weights, roi_heads, rpn
from keras_dl.objects import pad_targets

MASKS = ("roi_heads.mask_head", "roi_heads.mask_predictor")
SIZES = dict(
    num_blocks=(1, 1, 1, 1), filters=(8, 8, 12, 16), block="basic", pyramid_filters=8, head_dims=(16, 16), num_classes=3
)
THEIRS = SIZES | dict(
    anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
    canonical_side=40,
    anchor_samples=40,
    box_samples=32,
    candidates=(60, 40),
    proposals=(50, 30),
    score_threshold=0.2,
    max_detections=12,
    frozen_norms=True,
    norm_epsilon=1e-3,
    conventions="torchvision",
)
SMALL = SIZES | dict(num_blocks=(1, 1), filters=(8, 8), anchor_sizes=((8,), (16,)), proposals=(20, 10))


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("rcnn")


def theirs(oracle, shape=(75, 100), **options):
    model = FasterRCNN((*shape, 3), **THEIRS | options)
    weights = state_dict(oracle)
    model.load_torchvision({name: x for name, x in weights.items() if not name.startswith(MASKS)})
    return model


@pytest.fixture(scope="module")
def net(oracle):
    return theirs(oracle)


def targets_of(oracle):
    boxes, labels = oracle["boxes"], oracle["labels"] - 1
    return pad_targets([boxes, []], [labels, []], [(75, 100)] * 2, num_classes=3, max_boxes=4)


def scene(count=2, side=32, seed=0):
    """Images with bright boxes, and targets; the last image has none."""
    random = np.random.default_rng(seed)
    images, boxes, classes = random.integers(0, 60, (count, side, side, 3)).astype("uint8"), [], []
    for image in images[:-1]:
        x, y = random.integers(0, side - 12, 2)
        image[y : y + 10, x : x + 12] += 150
        boxes.append([[x, y, x + 12, y + 10]])
        classes.append([1])
    shapes = [(side, side)] * count
    return images, pad_targets([*boxes, []], [*classes, []], shapes, num_classes=3, max_boxes=2)


# The pyramid.


def test_the_pyramid_adds_what_coarser_maps_saw():
    pyramid = FeaturePyramid(2)
    maps = [np.zeros((1, 5, 3, 1), "float32"), np.arange(6, dtype="float32").reshape(1, 3, 2, 1)]
    pyramid.build([x.shape for x in maps])
    for inner, outer in zip(pyramid.inner, pyramid.outer, strict=True):
        inner.kernel.assign(np.ones(inner.kernel.shape))
        kernel = np.zeros(outer.kernel.shape)
        kernel[1, 1] = np.eye(2)
        outer.kernel.assign(kernel)
    fine, coarse = pyramid(maps)
    np.testing.assert_array_equal(coarse[0, ..., 0], maps[1][0, ..., 0])
    np.testing.assert_array_equal(fine[0, ..., 0], np.repeat(np.repeat(maps[1][0, ..., 0], 2, 0), 2, 1)[:5, :3])
    with pytest.raises(ValueError, match="half the sides"):
        FeaturePyramid(2)([maps[0], maps[0]])


def test_the_gradient_of_the_pyramid_is_that_of_a_sum():
    from keras_dl.layers.pyramid import enlarge

    maps = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4, 5)), "float32")
    weights = tf.constant(np.random.default_rng(1).normal(size=(2, 6, 8, 5)), "float32")

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            value = tf.reduce_sum(weights * function(maps) ** 2)
        return tape.gradient(value, maps)

    expected = gradient(lambda x: tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2))
    np.testing.assert_allclose(gradient(enlarge), expected, rtol=1e-5)
    np.testing.assert_allclose(tf.function(lambda: gradient(enlarge), jit_compile=True)(), expected, rtol=1e-5)


# Counts.


def test_published_counts():
    """torchvision's, without its frozen norms, at its 91 classes; and by part."""
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = FasterRCNN.from_preset("fasterrcnn_resnet50_fpn", image_shape=(64, 64, 3))
        assert trainable(model) == 41_755_286
        assert model.net.count_params() + model.box_head.count_params() == 41_861_526
        assert trainable(model.box_head) == 13_895_680 + 466_375
        assert trainable(model.net.get_layer("pyramid")) == 3_344_384
        names = ("rpn_conv", "rpn_objectness", "rpn_codes")
        assert sum(trainable(model.net.get_layer(name)) for name in names) == 593_935


def trainable(layer):
    return sum(int(np.prod(v.shape)) for v in layer.trainable_variables)


def test_counts_of_other_classes():
    """torchvision's differences between 91, 21 and 11 classes: five outputs for each, of 1,024 inputs and a bias."""
    few, more = (FasterRCNN((32, 32, 3), **SMALL | dict(num_classes=n)) for n in (10, 20))
    assert trainable(more) - trainable(few) == 10 * 5 * (16 + 1)
    assert 41_396_536 - 41_345_286 == 10 * 5 * (1024 + 1)


# torchvision's values.


def test_outputs_are_torchvisions(oracle, net):
    for number in (0, 1):
        boxes, held = (np.asarray(x)[number] for x in net.propose(**net.raw(oracle["images"])))
        assert held.all()
        np.testing.assert_allclose(boxes, oracle[f"proposals_{number}"], atol=2e-3)
    compare_detections(net.detect(oracle["images"]), oracle, "")


def compare_detections(found, oracle, prefix):
    for number in (0, 1):
        expected = {name: oracle[f"{prefix}{name}_{number}"] for name in ("boxes", "scores", "labels")}
        assert found.count[number] == len(expected["boxes"])
        np.testing.assert_allclose(found.scores[number], expected["scores"], atol=1e-5)
        np.testing.assert_array_equal(found.classes[number], expected["labels"] - 1)
        np.testing.assert_allclose(found.boxes[number], expected["boxes"], atol=5e-3)


def test_detections_of_images_that_need_no_padding(oracle):
    model = theirs(oracle, (64, 96))
    compare_detections(model.detect(oracle["images"][:, :64, :96]), oracle, "even/")


@pytest.fixture
def their_samples(oracle, monkeypatch):
    """Chooses by the keys of the reference."""
    monkeypatch.setattr(rpn, "hashed_uniform", lambda shape, seed: tf.constant(oracle["keys/region"]))
    monkeypatch.setattr(roi_heads, "hashed_uniform", lambda shape, seed: tf.constant(oracle["keys/box"]))


NAMES = dict(objectness="loss_objectness", region_box="loss_rpn_box_reg", box="loss_box_reg", mask="loss_mask") | {
    "class": "loss_classifier"
}


def test_losses_and_gradients_are_torchvisions(oracle, net, their_samples):
    """Of a batch with an image without objects."""
    images, targets = oracle["images"], {name: tf.constant(x) for name, x in targets_of(oracle).items()}
    with tf.GradientTape() as tape:
        outputs = net(images, training=True)
        losses = net.detection_losses(outputs, images, targets, training=True)
        total = sum(losses.values())
    for name, value in losses.items():
        np.testing.assert_allclose(value, oracle[f"loss/{NAMES[name]}"], rtol=1e-4, err_msg=name)
    boxes, _ = net.propose(training=True, **outputs)
    for number in (0, 1):
        np.testing.assert_allclose(boxes[number], oracle[f"training/proposals_{number}"], atol=2e-3)
    # The masks of the reference add to the gradients of what is before the heads.
    compare_gradients(net, tape.gradient(total, net.trainable_variables), oracle, "roi_heads.box")


def compare_gradients(net, gradients, oracle, prefix=""):
    """The lengths of the gradients of all weights whose names begin with `prefix`."""
    lengths = {v.path: float(tf.norm(g)) for v, g in zip(net.trainable_variables, gradients, strict=True)}
    compared = 0
    for module, layer in rcnn_weights.modules_of(net).items():
        for variable in layer.trainable_variables if module.startswith(prefix) else ():
            name = f"gradient/{module}.{'bias' if variable.name == 'bias' else 'weight'}"
            np.testing.assert_allclose(lengths[variable.path], oracle[name], rtol=2e-3, atol=1e-5, err_msg=name)
            compared += 1
    assert compared >= 8


def test_weights_without_counterpart_are_refused(oracle):
    model = FasterRCNN((64, 64, 3), **THEIRS | dict(conventions="pixel_centers"))
    weights = state_dict(oracle)
    with pytest.raises(ValueError, match="conventions='pixel_centers'"):
        model.load_torchvision(weights)
    model = FasterRCNN((64, 64, 3), **THEIRS)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"unknown: roi_heads\.mask_head"):
        model.load_torchvision(weights)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_names_of_older_files_are_read(oracle, net, tmp_path):
    weights = state_dict(oracle)
    old = {
        name.replace("_blocks.0.0.", "_blocks.0.").replace("head.conv.0.0.", "head.conv."): x
        for name, x in weights.items()
        if not name.startswith(MASKS)
    }
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert "rpn.head.conv.weight" in old
    model = FasterRCNN((75, 100, 3), **THEIRS)
    write_safetensors(tmp_path / "old.safetensors", old)
    model.load_torchvision(tmp_path / "old.safetensors")
    for a, b in zip(model.get_weights(), net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_classes_keep_their_head(oracle):
    weights = {name: x for name, x in state_dict(oracle).items() if not name.startswith(MASKS)}
    model = FasterRCNN((64, 64, 3), **THEIRS | dict(num_classes=5))
    before = model.box_head.get_layer("classes").get_weights()
    model.load_torchvision(weights, head=False)
    for a, b in zip(model.box_head.get_layer("classes").get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    first = model.box_head.get_layer("fc_0").bias
    np.testing.assert_array_equal(first, weights["roi_heads.box_head.fc6.bias"])


# Training.


@pytest.fixture(scope="module")
def small():
    model = FasterRCNN((32, 32, 3), **SMALL, seed=0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return model


def test_padding_changes_neither_losses_nor_gradients(small):
    images, targets = scene()
    wider = {name: np.pad(x, ((0, 0), (0, 3), *[(0, 0)] * (x.ndim - 2))) for name, x in targets.items()}
    wider["classes"][:, 2:] = -1

    def both(targets):
        targets = {name: tf.constant(x) for name, x in targets.items()}
        with tf.GradientTape() as tape:
            # So many samples that all boxes are among them; the choice depends on the number of slots.
            losses = small.detection_losses(small(images, training=False), images, targets, training=False)
            total = sum(losses.values())
        return losses, tape.gradient(total, small.trainable_variables)

    (losses, gradients), (wider_losses, wider_gradients) = both(targets), both(wider)
    for name, value in losses.items():
        np.testing.assert_allclose(wider_losses[name], value, rtol=1e-5, err_msg=name)
    for a, b in zip(gradients, wider_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_images_without_objects_teach_the_background(small):
    images, targets = scene()
    targets = {"boxes": np.zeros_like(targets["boxes"]), "classes": np.full_like(targets["classes"], -1)}
    tensors = {name: tf.constant(x) for name, x in targets.items()}
    with tf.GradientTape() as tape:
        losses = small.detection_losses(small(images, training=False), images, tensors, training=False)
        total = sum(losses.values())
    assert losses["region_box"] == losses["box"] == 0
    assert losses["objectness"] > 0
    assert losses["class"] > 0
    variables = small.trainable_variables
    gradients = {v.path: g for v, g in zip(variables, tape.gradient(total, variables), strict=True)}
    assert all(np.isfinite(g).all() for g in gradients.values())
    bias = small.box_head.get_layer("classes").bias
    assert gradients[bias.path][-1] < 0 < min(gradients[bias.path][:-1])  # the background becomes more likely


def test_class_weights_weigh_the_classes():
    """Of a hand-made batch: one object of class 0, one of class 1, one of the background."""
    logits = tf.constant(np.log([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]), "float32")
    boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0], [4.0, 4.0, 8.0, 9.0], [1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]]])
    flags = tf.constant([[True, True, False, False]]), tf.constant([[True, True, True, False]])
    regions = roi_heads.Regions(boxes, tf.constant([[0, 1, 0, 0]]), *flags)
    targets = {"boxes": boxes[:, :2], "classes": tf.constant([[0, 1]])}
    codes = np.zeros((4, 12), "float32")
    codes[0, 0:4], codes[1, 8:12] = 1.0, 5.0  # the second one is of a class that is not learned
    for weights, expected in (
        (None, -np.log([0.5, 0.4, 0.8]).mean()),
        ((3.0, 0.5), -(np.log([0.5, 0.4, 0.8]) @ [3, 0.5, 1]) / 4.5),
    ):
        of_class, of_boxes = roi_heads.box_losses(logits, codes, regions, targets, weights)
        np.testing.assert_allclose(of_class, expected, rtol=1e-6)
        np.testing.assert_allclose(of_boxes, 4 * (1 - 0.5 / 9) / 3, rtol=1e-6)


def test_true_boxes_are_among_the_samples():
    """So that the head has something to learn while proposals are bad."""
    targets = {"boxes": tf.constant([[[2.0, 2.0, 9.0, 9.0], [0.0] * 4]]), "classes": tf.constant([[4, -1]])}
    far = tf.constant([[[20.0, 20.0, 30.0, 30.0], [0.0] * 4]])
    held = tf.constant([[True, False]])
    regions = roi_heads.sample_regions(far, held, targets, 0, samples=8, positive_share=0.25)
    assert regions.positive.numpy().tolist() == [[True] + 7 * [False]]
    assert regions.chosen.numpy().tolist() == [2 * [True] + 6 * [False]]
    np.testing.assert_array_equal(regions.boxes[0, :2], [[2, 2, 9, 9], [20, 20, 30, 30]])
    assert roi_heads.region_labels(regions, targets["classes"], 10).numpy()[0, :2].tolist() == [4, 10]


def test_evaluation_always_chooses_the_same(small):
    images, targets = scene()
    first, again = (small.evaluate(images, targets, verbose=0, return_dict=True) for _ in range(2))
    assert first == again
    a, b = (np.asarray(small._seed(training=True)) for _ in range(2))
    assert (a != b).any()


def test_frozen_norms_want_weights():
    model = FasterRCNN((32, 32, 3), **SMALL, frozen_norms=True)
    assert not any("norm" in v.path for v in model.trainable_variables)
    model.compile("sgd")
    with pytest.warns(UserWarning, match="frozen_norms=True"):
        model.check_training()


def test_bad_targets_are_named(small):
    images, targets = scene()
    with pytest.raises(ValueError, match=r"targets\['classes'\] hold 3"):
        small.fit(images, targets | {"classes": np.where(targets["classes"] >= 0, 3, -1)}, verbose=0)
    with pytest.raises(ValueError, match="not left, top, right, bottom"):
        small.fit(images, targets | {"boxes": targets["boxes"][..., [2, 1, 0, 3]]}, verbose=0)


def test_images_of_another_shape_are_refused(small):
    with pytest.raises(ValueError, match=r"must be \('batch', 32, 32, 3\)"):
        small.detect(np.zeros((1, 32, 40, 3), "uint8"))


def test_objects_outside_of_all_scores_are_none():
    model = FasterRCNN((32, 32, 3), **SMALL, score_threshold=1.0)
    found = model.detect(np.zeros((2, 32, 32, 3), "uint8"))
    assert found.count.numpy().tolist() == [0, 0]
    assert (found.classes.numpy() == -1).all()
    assert not found.boxes.numpy().any()


def test_scores_that_are_not_finite_propose_nothing():
    anchors = [np.float32([[0, 0, 8, 8], [4, 4, 20, 20], [8, 8, 12, 12]])]
    logits = tf.constant([[np.nan, 1.0, np.inf]])
    options = dict(candidates=3, count=3)
    boxes, held = rpn.propose([logits], [tf.zeros((1, 3, 4))], anchors, (32, 32), **options)
    assert held.numpy().tolist() == [[True, True, False]]
    np.testing.assert_array_equal(boxes[0], [[8, 8, 12, 12], [4, 4, 20, 20], [0, 0, 0, 0]])
