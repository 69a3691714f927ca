"""DETR: the matching and the losses, positions and padding, counts, and the outputs and losses of transformers."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import randomized, write_safetensors

from keras_dl import DETR
from keras_dl.layers import SinePositions
from keras_dl.models.detection.detr import frames
from keras_dl.models.detection.detr_transformer import DETRTransformer
from keras_dl.models.detection.detr_weights import _transformers_name
from keras_dl.models.detection.set_losses import match_queries, set_losses
from keras_dl.ops import box_giou, cxcywh_to_xyxy

ORACLE = load_oracle("detr")
MATCHING = (1.0, 5.0, 2.0)
TINY = dict(
    image_shape=(40, 56, 3),
    num_classes=5,
    num_blocks=(1, 2),
    filters=(4, 6),
    num_queries=7,
    hidden_dim=16,
    num_heads=4,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=3,
)


def targets():
    return {"boxes": tf.constant(ORACLE["boxes"]), "classes": tf.constant(ORACLE["classes"])}


@pytest.fixture(scope="module")
def net():
    model = DETR(**TINY)
    model.load_transformers(state_dict(ORACLE))
    return model


@pytest.fixture(scope="module")
def other():
    """A model of the same size, of other weights."""
    return DETR(**TINY)


# Counts.


def test_published_counts():
    """41,524,768 and 60,464,672, which leave out the frozen norms; and 41,302,368 of the first are trained."""
    for preset, stages, trained, count, norms in (
        ("detr_resnet50_dc5", 1, 41_302_368, 41_524_768, 26_560),
        ("detr_resnet101", 0, 60_464_672, 60_464_672, 52_672),
    ):
        with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
            model = DETR.from_preset(preset, image_shape=(64, 64, 3), frozen_stages=stages)
            assert sum(v.shape.num_elements() for v in model.trainable_variables) == trained
            assert model.count_params() == count + 4 * norms


def test_dc5_has_maps_of_twice_the_sides():
    shapes = [DETR(**TINY | dict(dilated=dilated)).backbone.output.shape for dilated in ((), (2,))]
    assert shapes == [(None, 5, 7, 24), (None, 10, 14, 24)]


# Transformers' outputs and losses.


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_outputs_and_losses_of_transformers(net, kind):
    masked = kind == "masked"
    inputs = {"images": ORACLE["images"], "mask": ORACLE["mask"]} if masked else ORACLE["images"]
    outputs = net(inputs, training=False)
    for name in ("logits", "boxes"):
        expected = ORACLE[f"{kind}/{name}"]
        np.testing.assert_allclose(outputs[name][:, -1], expected, atol=3e-6 * np.abs(expected).max() + 1e-6)
    raw = net.raw(inputs)
    np.testing.assert_allclose(raw["logits"], outputs["logits"][:, -1], atol=1e-5)
    losses = net.layer_losses(outputs, targets())
    for name, theirs in (("class", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        np.testing.assert_allclose(losses[name], ORACLE[f"{kind}/{theirs}"], rtol=1e-5)
    weighted = net.detection_losses(outputs, None, targets(), training=True)
    assert list(weighted) == ["class", "l1", "giou"]
    np.testing.assert_allclose(sum(weighted.values()), ORACLE[f"{kind}/loss"], rtol=1e-5)


def test_matching_of_transformers(net):
    size = np.float32([56, 40, 56, 40])
    found = match_queries(
        ORACLE["plain/logits"], ORACLE["plain/boxes"], ORACLE["boxes"] / size, ORACLE["classes"], MATCHING
    )
    np.testing.assert_array_equal(found, ORACLE["plain/matching"])


def test_matcher_has_the_least_costs():
    """Sums are compared, since several matchings can cost the same."""
    logits, boxes, objects, classes = (ORACLE[f"matcher/{name}"] for name in ("logits", "boxes", "targets", "classes"))
    found = match_queries(logits, boxes, objects, classes, MATCHING).numpy()
    assert ((found >= 0) == (classes >= 0)).all()
    probabilities = tf.nn.softmax(logits).numpy()
    for i, total in enumerate(ORACLE["matcher/totals"]):
        kept = classes[i] >= 0
        queries = found[i][kept]
        assert len(set(queries)) == len(queries)
        own = boxes[i][queries]
        center = (objects[i][kept][:, :2] + objects[i][kept][:, 2:]) / 2
        distance = np.abs(own - np.concatenate([center, objects[i][kept][:, 2:] - objects[i][kept][:, :2]], -1)).sum()
        overlap = box_giou(cxcywh_to_xyxy(own), objects[i][kept]).numpy().sum()
        cost = 5 * distance - 2 * overlap - probabilities[i][queries, classes[i][kept]].sum()
        np.testing.assert_allclose(cost, total, rtol=1e-5)


def test_positions_of_transformers():
    valid = ORACLE["positions/mask"]
    found = SinePositions(16)(np.zeros((*valid.shape, 1)), valid)
    np.testing.assert_allclose(found, ORACLE["positions"], atol=2e-6)
    constant = SinePositions(16)(np.zeros((1, 5, 7, 1)))
    np.testing.assert_allclose(constant, SinePositions(16)(np.zeros((1, 5, 7, 1)), np.ones((1, 5, 7))), atol=2e-6)


# Layouts of weights.


def layouts():
    """The oracle's weights as other programs name them."""
    weights = state_dict(ORACLE)
    root = "model.backbone.model."
    older = {}
    for name, array in weights.items():
        name = (
            name.replace("o_proj", "out_proj").replace(".mlp.", ".").replace(root, "model.backbone.conv_encoder.model.")
        )
        older[name] = array
    body = {_transformers_name(name): name for name in torchvision_names()}
    timm = {
        root + body[name.removeprefix(root)] if name.startswith(root) else name: array
        for name, array in weights.items()
    }
    original = state_dict(ORACLE, "original")
    original |= {
        "backbone.0.body." + body[name.removeprefix(root)]: array
        for name, array in weights.items()
        if name.startswith(root)
    }
    return {"older": older, "timm": timm, "original": original}


def torchvision_names():
    norm = ("weight", "bias", "running_mean", "running_var")
    names = ["conv1.weight", *(f"bn1.{kind}" for kind in norm)]
    for stage, blocks in enumerate(TINY["num_blocks"], 1):
        for i in range(blocks):
            block = f"layer{stage}.{i}"
            names += [f"{block}.conv{j}.weight" for j in (1, 2, 3)]
            names += [f"{block}.bn{j}.{kind}" for j in (1, 2, 3) for kind in norm]
            if i == 0:
                names += [f"{block}.downsample.0.weight", *(f"{block}.downsample.1.{kind}" for kind in norm)]
    return names


@pytest.mark.parametrize("layout", ["older", "timm", "original"])
def test_layouts(net, other, layout, tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, layouts()[layout])
    randomized(other)
    load = other.load_original if layout == "original" else other.load_transformers
    load(path)
    for mine, theirs in zip(other.weights, net.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)


def test_wrong_weights_change_nothing(other):
    weights = layouts()["original"]
    weights["transformer.encoder.layers.0.self_attn.in_proj_weight"] = np.zeros((32, 16), "float32")
    del weights["query_embed.weight"]
    before = other.get_weights()
    expected = (
        r"2 entries differ:\n  missing: query_embed.weight \(7, 16\)\n.*in_proj_weight is \(32, 16\), .* \(48, 16\)"
    )
    with pytest.raises(ValueError, match=expected):
        other.load_original(weights)
    for old, new in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# Losses.


def test_queries_in_another_order(net):
    """The outputs change their order, and the losses stay."""
    net_of = DETRTransformer(5, 6, hidden_dim=8, num_heads=2, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=2)
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    outputs = net_of(maps)
    order = np.array([3, 0, 5, 1, 4, 2])
    net_of.queries.assign(net_of.queries.numpy()[order])
    permuted = net_of(maps)
    for name in ("logits", "boxes"):
        np.testing.assert_allclose(permuted[name], outputs[name].numpy()[:, :, order], atol=1e-5)
    objects = tf.constant([[[0.1, 0.2, 0.5, 0.6], [0.6, 0.5, 0.9, 0.9]], [[0.3, 0.3, 0.4, 0.9], [0.0, 0.0, 0.0, 0.0]]])
    classes = tf.constant([[1, 4], [0, -1]])
    weights = [1.0] * 5 + [0.1]
    before, after = (set_losses(x, objects, classes, MATCHING, weights) for x in (outputs, permuted))
    for name in before:
        np.testing.assert_allclose(before[name], after[name], rtol=1e-5)


def losses_and_gradients(logits, boxes, objects, classes, class_weights=(1.0,) * 5 + (0.1,)):
    logits, boxes = tf.constant(logits), tf.constant(boxes)
    with tf.GradientTape() as tape:
        tape.watch([logits, boxes])
        losses = set_losses({"logits": logits, "boxes": boxes}, objects, classes, MATCHING, class_weights)
        total = sum(tf.reduce_sum(x) for x in losses.values())
    return losses, [x.numpy() for x in tape.gradient(total, [logits, boxes])]


def predictions(seed=0, batch=2, layers=2, queries=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, layers, queries, 6)).astype("float32")
    return logits, rng.uniform(0.2, 0.6, (batch, layers, queries, 4)).astype("float32")


def test_padding_of_targets_changes_nothing():
    objects, classes = np.float32([[[0.1, 0.2, 0.5, 0.6]], [[0.3, 0.3, 0.4, 0.9]]]), np.int32([[1], [2]])
    more = np.concatenate([np.zeros((2, 5, 4), "float32"), objects], 1)
    padded = np.concatenate([np.full((2, 5), -1, "int32"), classes], 1)
    short, long = (losses_and_gradients(*predictions(), x, y) for x, y in ((objects, classes), (more, padded)))
    for name in short[0]:
        np.testing.assert_allclose(short[0][name], long[0][name], rtol=1e-6)
    for a, b in zip(short[1], long[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_an_unknown_number_of_slots_is_refused(net):
    given = {"boxes": tf.TensorSpec((2, None, 4)), "classes": tf.TensorSpec((2, None), tf.int32)}
    outputs = {"boxes": tf.TensorSpec((2, 1, 5, 4)), "logits": tf.TensorSpec((2, 1, 5, net.num_classes + 1))}
    losses = tf.function(net.layer_losses, input_signature=[outputs, given])
    with pytest.raises(ValueError, match=r"unknown number of slots.*same max_boxes"):
        losses.get_concrete_function()


def test_no_objects_at_all():
    """Only the class loss is left, and it says "no object"."""
    logits, boxes = predictions()
    losses, (of_logits, of_boxes) = losses_and_gradients(
        logits, boxes, np.zeros((2, 3, 4), "float32"), np.full((2, 3), -1)
    )
    expected = -tf.nn.log_softmax(logits)[..., -1].numpy().mean(axis=(0, 2))
    np.testing.assert_allclose(losses["class"], expected, rtol=1e-5)
    assert not np.any(losses["l1"])
    assert not np.any(losses["giou"])
    assert not np.any(of_boxes)
    assert np.all(np.abs(of_logits).max(-1) > 0)


def test_class_loss_is_divided_by_the_sum_of_the_weights():
    logits, boxes = predictions(batch=1, layers=1)
    objects, classes = cxcywh_to_xyxy(boxes[:, 0, 2:3]), np.int32([[3]])
    weights = (1.0, 1.0, 1.0, 4.0, 1.0, 0.1)
    losses, _ = losses_and_gradients(logits, boxes, objects, classes, weights)
    entropy = -tf.nn.log_softmax(logits)[0, 0].numpy()
    expected = (4.0 * entropy[2, 3] + 0.1 * (entropy[:, 5].sum() - entropy[2, 5])) / (4.0 + 3 * 0.1)
    np.testing.assert_allclose(losses["class"], [expected], rtol=1e-5)
    np.testing.assert_allclose([losses["l1"][0], losses["giou"][0]], 0, atol=1e-6)


def test_more_objects_than_queries():
    logits, boxes = predictions(queries=2)
    objects = np.sort(np.random.default_rng(1).uniform(size=(2, 5, 2, 2)), 2).reshape(2, 5, 4).astype("float32")
    matched = match_queries(logits[:, 0], boxes[:, 0], objects, np.zeros((2, 5), "int32"), MATCHING).numpy()
    assert ((matched >= 0).sum(1) == 2).all()
    losses, gradients = losses_and_gradients(logits, boxes, objects, np.zeros((2, 5), "int32"))
    assert all(np.isfinite(x).all() for x in (*losses.values(), *gradients))


def test_a_logit_that_is_nan_is_matched_last_and_detected_never(net):
    logits, boxes = predictions(batch=1, layers=1)
    logits[0, 0, 2] = np.nan
    objects, classes = cxcywh_to_xyxy(boxes[:, 0]), np.int32([[0, 1, 2, 3]])
    matched = match_queries(logits[:, 0], boxes[:, 0], objects[:, :3], classes[:, :3], MATCHING).numpy()
    assert sorted(matched[0]) == [0, 1, 3]  # the third box would fit the third object
    assert sorted(match_queries(logits[:, 0], boxes[:, 0], objects, classes, MATCHING).numpy()[0]) == [0, 1, 2, 3]
    found = net.postprocess(boxes=boxes[:, 0], logits=logits[:, 0])
    assert found.count.numpy() == [3]
    assert all(np.isfinite(x).all() for x in found)


def test_losses_under_xla():
    logits, boxes = predictions(batch=3)
    objects = cxcywh_to_xyxy(np.random.default_rng(2).uniform(0.3, 0.5, (3, 3, 4)).astype("float32"))
    classes = np.int32([[0, 1, -1], [-1, -1, -1], [2, 2, 2]])
    outputs = {"logits": logits, "boxes": boxes}
    compiled = tf.function(set_losses, jit_compile=True)(outputs, objects, classes, MATCHING, (1.0,) * 5 + (0.1,))
    for name, expected in set_losses(outputs, objects, classes, MATCHING, (1.0,) * 5 + (0.1,)).items():
        np.testing.assert_allclose(compiled[name], expected, rtol=1e-5)


# Padding.


def test_transformer_of_padded_maps():
    """Padding around maps changes nothing: positions count the valid pixels, and no query attends to the others."""
    net = DETRTransformer(5, 6, hidden_dim=8, num_heads=2, mlp_dim=8, num_encoder_layers=2, num_decoder_layers=2)
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    valid = np.zeros((2, 5, 9), bool)
    valid[:, 1:4, 3:7] = True
    padded = np.full((2, 5, 9, 5), 1e3, "float32")
    padded[:, 1:4, 3:7] = maps
    plain, masked = net(maps), net(padded, valid)
    for name in plain:
        np.testing.assert_allclose(masked[name], plain[name], atol=1e-5)


def test_boxes_are_shares_of_the_frame(net):
    mask = np.zeros((1, 40, 56), bool)
    mask[:, 8:32, 16:48] = True
    np.testing.assert_array_equal(frames(tf.constant(mask)), [[16, 8, 48, 32]])
    outputs = {
        "logits": np.zeros((1, 1, 2, 6), "float32"),
        "boxes": np.float32([[[[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]]]),
    }
    outputs = {name: tf.constant(x) for name, x in outputs.items()} | {"frame": frames(tf.constant(mask))}
    found = {"boxes": tf.constant([[[24.0, 14.0, 40.0, 26.0]]]), "classes": tf.constant([[3]])}
    losses = net.layer_losses(outputs, found)
    np.testing.assert_allclose([losses["l1"][0], losses["giou"][0]], 0, atol=1e-6)
    logits = np.float32([[[0, 0, 0, 9, 0, 0], [0, 0, 0, 0, 0, 9]]])
    served = net.postprocess(boxes=outputs["boxes"][:, 0], logits=logits, frame=outputs["frame"])
    np.testing.assert_allclose(served.boxes[0, 0], [24, 14, 40, 26], atol=1e-5)


def test_detect_with_a_mask(net):
    images, mask = ORACLE["images"], ORACLE["mask"]
    other = np.where(mask[..., None], images, 255 - images)
    first, second = (net.detect(x, mask) for x in (images, other))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="images and mask have the shapes"):
        net.detect(images, mask[:, :-1])


# Detections.


def test_detections_fall_by_score(net):
    boxes = np.float32([[[0.5, 0.5, 0.2, 0.4], [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]])
    logits = np.log(
        np.float32([[[0.2, 0.1, 0, 0, 0.0, 0.7], [0.1, 0.6, 0, 0, 0, 0.3], [0, 0, 0.05, 0, 0.0, 0.95]]]) + 1e-9
    )
    model = DETR(**TINY | dict(num_queries=3, max_detections=4, score_threshold=0.1))
    found = model.postprocess(boxes=boxes, logits=logits)
    assert found.count.numpy() == [2]
    assert found.classes.numpy().tolist() == [[1, 0, -1, -1]]
    np.testing.assert_allclose(found.scores, [[0.6, 0.2, 0, 0]], atol=1e-5)
    expected = [[0, 0, 14, 10], [22.4, 12, 33.6, 28], [0] * 4, [0] * 4]  # the first is clipped to the image
    np.testing.assert_allclose(found.boxes[0], expected, atol=1e-4)


# Training.


def test_learns_one_scene_and_knows_it_from_another():
    """The class and the place of one square in each image: outputs depend on the image."""
    keras.utils.set_random_seed(0)
    sizes = dict(image_shape=(32, 32, 3), num_blocks=(1, 1), num_queries=3, num_encoder_layers=0, num_decoder_layers=1)
    model = DETR(**TINY | sizes, dropout_rate=0.0)
    images = np.full((4, 32, 32, 3), 60, "float32")
    corners = [(2, 4), (16, 4), (4, 16), (16, 18)]
    for image, (x, y) in zip(images, corners, strict=True):
        image[y : y + 12, x : x + 10] = [250, 200, 0]
    boxes = np.float32([[[x, y, x + 10, y + 12]] for x, y in corners])
    model.compile(keras.optimizers.Adam(1e-2))
    data = images, {"boxes": boxes, "classes": np.int32([[0], [1], [2], [3]])}
    model.fit(*data, batch_size=4, epochs=80, verbose=0)
    found = model.detect(images)
    assert found.classes[:, 0].numpy().tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.boxes[:, 0], boxes[:, 0], atol=3)


def test_all_weights_get_a_gradient_but_those_of_zeros(other):
    """The decoder starts from zeros: its first self-attention has equal values, however it weighs them."""
    randomized(other)
    with tf.GradientTape() as tape:
        outputs = other(ORACLE["images"], training=True)
        loss = sum(other.detection_losses(outputs, None, targets(), training=True).values())
    gradients = tape.gradient(loss, other.trainable_variables)
    size = {v.path: float(tf.reduce_max(tf.abs(g))) for v, g in zip(other.trainable_variables, gradients, strict=True)}
    none = {path for path, largest in size.items() if largest < 1e-6 * max(size.values())}
    attention = {f"transformer/decoder_0/attention/{name}" for name in ("query_kernel", "key_kernel", "value_kernel")}
    biases = {path for path in size if path.endswith(("attention/key_bias", "decoder_0/attention/query_bias"))}
    assert size["transformer/decoder_0/attention/value_kernel"] == 0
    assert none <= attention | biases


def test_frozen_norms_of_new_weights_warn():
    model = DETR(**TINY, frozen_norms=True)
    model.compile("adam")
    with pytest.warns(UserWarning, match="frozen_norms=True keeps the statistics of new norms"):
        model.check_training()
    assert not [v.path for v in model.trainable_variables if re.search("gamma|beta", v.path) and "stage_" in v.path]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (dict(class_weights=(1.0,) * 4), "class_weights=.* has 4 weights for num_classes=5"),
        (dict(class_weights=(1.0, 1.0, -1.0, 1.0, 1.0)), "class_weights=.* has -1.0"),
        (dict(frozen_stages=3), "frozen_stages=3 must be at most 2"),
        (dict(dilated=(4,)), "dilated=4 must be at most 2"),
        (dict(hidden_dim=18, num_heads=3), "dim=18 must be a multiple of 4"),
    ],
)
def test_bad_arguments(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        DETR(**TINY | arguments)
