"""The anchor-free YOLO: published sizes, equality with kyolo, the losses against NumPy, and what files hold."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle
from oracles import yolo as reference

import keras_dl
from keras_dl.averaging import RampedAdamW, RampedSGD
from keras_dl.export import export
from keras_dl.models.detection.yolo import distribution_focal_loss
from keras_dl.models.detection.yolo_blocks import STRIDES
from keras_dl.ops import align_tasks, box_ciou

PUBLISHED = {"n": 3_157_200, "s": 11_166_560, "m": 25_902_640, "l": 43_691_520, "x": 68_229_648}
DFL = 16  # numbers, which published files hold as a kernel
SHAPE, CLASSES = (64, 96, 3), 3


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


def tiny(**arguments):
    given = dict(image_shape=SHAPE, num_classes=CLASSES, depth=0.1, width=0.06, activation="relu", bins=8)
    return keras_dl.YOLO(**(given | arguments))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return tiny()


def images(n=2):
    return np.random.default_rng(1).integers(0, 256, (n, *SHAPE)).astype("float32")


def targets(slots=3):
    """Two objects in the first image, none in the second."""
    boxes = np.zeros((2, slots, 4), "float32")
    boxes[0, :2] = [(5, 10, 45, 40), (50, 8, 90, 60)]
    classes = np.full((2, slots), -1, "int32")
    classes[0, :2] = 2, 0
    return {"boxes": boxes, "classes": classes}


def losses(model, outputs, y):
    y = {name: tf.constant(x) for name, x in y.items()}
    return {name: float(x) for name, x in model.detection_losses(outputs, None, y, True).items()}


# Sizes and weights.


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = keras_dl.YOLO.from_preset(name)
        assert count(model.trainable_variables) == PUBLISHED[name] - DFL
        if name == "n":
            assert len(model.net.weights) + 1 == 298  # entries of the published file


def test_published_size_with_a_level_of_stride_4():
    """Ultralytics' issue 3607 has the number of the largest such net."""
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = keras_dl.YOLO.from_preset("x", image_shape=(64, 64, 3), strides=(4, 8, 16, 32))
        assert count(model.trainable_variables) == 66_637_536 - DFL


@pytest.mark.parametrize(("strides", "head"), [((4, 8, 16, 32), 28), ((4, 8, 16), 25), ((8, 16), 19), ((8,), 16)])
def test_levels_that_detect(strides, head):
    """Names count what precedes; boxes and classes come from these levels alone."""
    sizes = dict(depth=reference.DEPTH, width=reference.WIDTH, max_channels=reference.MAX_CHANNELS)
    model = keras_dl.YOLO(image_shape=(64, 96, 3), num_classes=2, strides=strides, **sizes)
    outputs = model(np.zeros((1, 64, 96, 3), "float32"))
    assert {name: x.shape[1:3] for name, x in outputs.items()} == {
        f"{what}_{s}": (64 // s, 96 // s) for s in strides for what in ("boxes", "classes")
    }
    assert {name.split(".")[1] for name in model.torch_modules()} >= {str(head), str(head - 1)}
    assert not any(name.startswith(f"model.{head + 1}.") for name in model.torch_modules())
    boxes, logits, _ = model.decode(outputs)  # (1, places, 4)
    places = sum(64 * 96 // s**2 for s in strides)
    assert boxes.shape[1] == logits.shape[1] == len(model.steps) == places
    # Of a black image, all 16 distances are as likely, with a mean of 7.5 strides.
    expected = np.concatenate([model.points - 7.5 * model.steps, model.points + 7.5 * model.steps], -1)
    # A softmax in float32: each distance is right to some 1e-6 of it.
    np.testing.assert_allclose(boxes[0], expected, rtol=0, atol=1e-6 * 7.5 * max(strides))


@pytest.fixture(scope="module")
def small():
    sizes = dict(depth=reference.DEPTH, width=reference.WIDTH, max_channels=reference.MAX_CHANNELS)
    return keras_dl.YOLO(image_shape=reference.SHAPE, num_classes=reference.CLASSES, **sizes)


def tensors(model):
    """Weights by their names in files, as the reference has them: torch's layout."""
    names = {"kernel": "weight", "gamma": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {}
    for prefix, layer in model.torch_modules().items():
        for variable in layer.weights:
            name = f"{prefix}.{names.get(variable.name, 'bias')}"
            array = reference.weight(name, tuple(variable.shape))
            found[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    return found


def test_outputs_are_those_of_kyolo(small):
    oracle = load_oracle("yolo")
    weights = tensors(small)
    assert len(weights) == oracle["entries"]
    dfl = {"model.22.dfl.conv.weight": np.arange(16, dtype="float32").reshape(1, 16, 1, 1)}
    small.load_tensors(weights | dfl | {"model.0.bn.num_batches_tracked": np.int64(1)})
    outputs = small(reference.image())
    for stride in STRIDES:
        expected = oracle[f"level_{stride}"]
        found = np.concatenate([outputs[f"boxes_{stride}"], outputs[f"classes_{stride}"]], -1)
        # 60 convolutions in another order of sums: a few units of 2^-23 of the largest value each.
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_weights_of_another_shape_or_without_a_place_are_refused(small):
    weights, before = tensors(small), small.get_weights()
    for change, message in (
        ({"model.0.conv.weight": np.zeros((1, 3, 3, 3))}, r"of another shape: model\.0\.conv\.weight"),
        ({"model.23.conv.weight": np.zeros(3)}, r"unknown: model\.23"),
    ):
        with pytest.raises(ValueError, match=message):
            small.load_tensors(weights | change)
    with pytest.raises(ValueError, match=r"missing: model\.9\.cv1\.bn\.bias"):
        small.load_tensors({k: v for k, v in weights.items() if k != "model.9.cv1.bn.bias"})
    for a, b in zip(before, small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_number_of_classes_keeps_its_head(small):
    sizes = dict(depth=reference.DEPTH, width=reference.WIDTH, max_channels=reference.MAX_CHANNELS)
    other = keras_dl.YOLO(image_shape=(64, 64, 3), num_classes=2, **sizes)
    before = other.net.get_layer("model.22.cv3.0.2").get_weights()
    other.load_tensors(tensors(small), head=False)
    np.testing.assert_array_equal(before[0], other.net.get_layer("model.22.cv3.0.2").get_weights()[0])
    kernel = tensors(small)["model.22.cv2.0.2.weight"]
    np.testing.assert_array_equal(other.net.get_layer("model.22.cv2.0.2").kernel, kernel.transpose(2, 3, 1, 0))


# From maps to boxes.


def test_boxes_are_means_of_distributions(model):
    outputs = {name: np.zeros(x.shape, "float32") for name, x in model(images(1)).items()}
    outputs["boxes_8"].reshape(1, 8, 12, 4, 8)[0, 2, 3, :, :] = -1e9
    for side, bin in enumerate((1, 2, 3, 0)):  # left, top, right, bottom, in strides
        outputs["boxes_8"].reshape(1, 8, 12, 4, 8)[0, 2, 3, side, bin] = 0.0
    outputs["boxes_8"].reshape(1, 8, 12, 4, 8)[0, 2, 3, 3, 1] = 0.0  # the bottom: 0 or 1, as likely
    boxes, logits, distances = model.decode(outputs)
    assert boxes.shape[1] == logits.shape[1] == distances.shape[1] == 8 * 12 + 4 * 6 + 2 * 3
    x, y = 8 * 3.5, 8 * 2.5
    # A softmax in float32: each distance is right to some 1e-6 of it.
    np.testing.assert_allclose(boxes[0, 2 * 12 + 3], [x - 8, y - 16, x + 24, y + 4], rtol=0, atol=2.4e-5)
    # The mean of 0 to 7 is 3.5.
    np.testing.assert_allclose(boxes[0, -1], [80 - 112, 48 - 112, 80 + 112, 48 + 112], rtol=0, atol=1.12e-4)


def test_detections_have_a_class_or_several(model):
    outputs = {name: np.full(x.shape, -9.0, "float32") for name, x in model(images(1)).items()}
    outputs["classes_16"][0, 1, 2] = 2.0, -9.0, 1.0
    found = model.postprocess(**outputs)
    best = [int(found.classes[0, 0]), float(found.scores[0, 0])]
    assert best == [0, pytest.approx(1 / (1 + np.exp(-2)))]
    assert int(found.count[0]) == 1
    assert float(tf.reduce_max(found.boxes)) <= 96  # clipped
    several = tiny(several=True).postprocess(**outputs)
    assert several.classes[0, : int(several.count[0])].numpy().tolist() == [0, 2]


# Losses.


def bce(logit, target):
    return np.log1p(np.exp(-np.abs(logit))) + np.maximum(logit, 0) - logit * target


def expected_losses(model, outputs, y):
    """The sums of the module's docstring, place by place."""
    predicted, logits, distances = (np.asarray(x, "float64") for x in model.decode(outputs))
    found = align_tasks(
        1 / (1 + np.exp(-logits)), predicted, model.points, y["boxes"], y["classes"], smallest_side=16.0
    )
    total = max(float(np.sum(found.weights)), 1.0)
    result = dict.fromkeys(("box", "class", "dfl"), 0.0)
    for i, place in np.ndindex(*found.objects.shape):
        wanted = np.zeros(CLASSES)
        number, weight = int(found.objects[i, place]), float(found.weights[i, place])
        if number >= 0:
            box = y["boxes"][i, number].astype("float64")
            wanted[y["classes"][i, number]] = weight
            result["box"] += 7.5 * weight * (1 - float(box_ciou(predicted[i, place], box))) / total
            (x, y_), stride = model.points[place], model.steps[place, 0]
            sides = np.array([x - box[0], y_ - box[1], box[2] - x, box[3] - y_]) / stride
            for side, z in zip(np.clip(sides, 0, 8 - 1 - 0.01), distances[i, place], strict=True):
                log = z - z.max() - np.log(np.sum(np.exp(z - z.max())))
                low = int(side)
                entropy = -(low + 1 - side) * log[low] - (side - low) * log[low + 1]
                result["dfl"] += 1.5 * weight * entropy / 4 / total
        result["class"] += 0.5 * bce(logits[i, place], wanted).sum() / total
    return result


def test_losses_are_the_sums_of_the_papers(model):
    outputs = model(images(), training=True)
    found, expected = losses(model, outputs, targets()), expected_losses(model, outputs, targets())
    assert found == pytest.approx(expected, rel=2e-5)
    assert min(found.values()) > 0


def test_padding_changes_nothing_and_empty_images_teach(model):
    x = images()

    def of(y):
        with tf.GradientTape() as tape:
            outputs = model(x, training=False)
            loss = sum(model.detection_losses(outputs, x, {k: tf.constant(v) for k, v in y.items()}, True).values())
        return float(loss), tape.gradient(loss, model.trainable_variables)

    few, many = of(targets(2)), of(targets(7))
    assert few[0] == pytest.approx(many[0], rel=1e-6)
    for a, b in zip(few[1], many[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    nothing = targets() | {"classes": np.full((2, 3), -1, "int32")}
    assert losses(model, model(x), nothing) == {"box": 0, "dfl": 0, "class": pytest.approx(of(nothing)[0])}
    bias = next(g for g, v in zip(of(nothing)[1], model.trainable_variables, strict=True) if v is head_bias(model))
    assert np.min(bias) > 0  # all scores are to fall


def head_bias(model):
    return model.net.get_layer("model.22.cv3.0.2").bias


def test_a_box_between_the_places_is_learned(model):
    """Its sides of 4 pixels hold no middle of a cell of 8."""
    y = targets() | {"boxes": np.tile(np.float32([33, 33, 35, 35]), (2, 3, 1))}
    outputs = model(images())
    assert losses(model, outputs, y)["box"] > 0
    assert losses(tiny(smallest_side=0.0), outputs, y)["box"] == 0


def test_losses_are_the_same_under_xla(model):
    outputs, y = model(images()), {name: tf.constant(x) for name, x in targets().items()}

    def of(outputs):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            parts = model.detection_losses(outputs, None, y, True)
            loss = sum(parts.values())
        return parts, tape.gradient(loss, outputs)

    eager, compiled = of(outputs), tf.function(of, jit_compile=True)(outputs)
    for a, b in zip(tf.nest.flatten(eager), tf.nest.flatten(compiled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_losses_of_half_precision_are_float32(model):
    outputs = model(images())
    half = {name: tf.cast(x, "float16") for name, x in outputs.items()}
    exact = {name: tf.cast(x, "float32") for name, x in half.items()}
    assert losses(model, half, targets()) == losses(model, exact, targets())


def test_weights_of_classes(model):
    outputs, y = model(images()), targets()
    single = [losses(tiny(class_weights=np.eye(3)[i] + 1e-6), outputs, y)["class"] for i in range(3)]
    assert sum(single) == pytest.approx(losses(model, outputs, y)["class"], rel=1e-4)
    assert losses(tiny(class_weights=2.0), outputs, y)["class"] == pytest.approx(2 * sum(single), rel=1e-4)


def test_distribution_focal_loss_is_least_at_its_value():
    """Its gradient is 0 where the distribution has the value's two numbers, and the value is their mean."""
    values = tf.constant([0.0, 2.3, 5.0, -1.0, 99.0])
    weights = np.maximum(1 - np.abs(np.clip(values, 0, 6.99)[:, None] - np.arange(8)), 1e-9)
    logits = tf.Variable(np.log(weights).astype("float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(distribution_focal_loss(logits[:, None], values[:, None]))
    np.testing.assert_allclose(tape.gradient(loss, logits), 0, atol=1e-6)


# The moving average, and files.


@pytest.mark.parametrize("optimizer", [RampedSGD, RampedAdamW])
def test_the_average_forgets_the_first_weights(optimizer):
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    net.compile(optimizer(0.1, ramp=3.0, ema_momentum=0.9), "mse", run_eagerly=True)
    net.set_weights([np.float32([[5.0]])])
    x, average = np.ones((4, 1), "float32"), None
    reached = []
    for step in range(1, 5):
        # `fit` would end with the average.
        net.train_on_batch(x, x)
        weight = float(net.get_weights()[0][0, 0])
        decay = 0.9 * (1 - np.exp(-step / 3)) if step > 1 else 0.0
        average = weight if average is None else decay * average + (1 - decay) * weight
        reached.append(weight)
    net.optimizer.finalize_variable_values(net.trainable_weights)
    assert float(net.get_weights()[0][0, 0]) == pytest.approx(average, rel=1e-5)
    assert abs(average - reached[-1]) > 1e-3
    again = keras.optimizers.deserialize(keras.optimizers.serialize(net.optimizer))
    assert (type(again), again.ramp, again.get_config()["ema_momentum"]) == (optimizer, 3.0, 0.9)


def test_a_ramp_must_be_positive():
    with pytest.raises(ValueError, match="ramp=0 must be positive"):
        RampedSGD(0.1, ramp=0)


def test_files_hold_no_batch_normalization(model, tmp_path):
    """Each of its products would be a MUL, and each of its sums an ADD."""
    report = export(model, tmp_path / "raw.tflite", signatures=["raw"], verify=False)  # the battery does
    blocks = sum(name.endswith(".bn") for name in model.torch_modules())
    shortcuts = 4  # one bottleneck in each block of the backbone
    found = dict(report.ops)
    assert found.pop("CONV_2D") == blocks + 6  # and the last of each branch
    assert (found.pop("ADD"), found.pop("MUL")) == (shortcuts, 1)  # the pixels are scaled
    moved = {"CAST", "CONCATENATION", "MAX_POOL_2D", "PAD", "RESIZE_NEAREST_NEIGHBOR", "SPLIT"}
    assert set(found) == moved
