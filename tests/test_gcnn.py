"""Group convolutions: turning or mirroring the image does so to every feature map, and folding changes nothing."""

import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import GCNN, GroupResNet
from keras_dl.layers.group_convolution import (
    AlignedPooling2D,
    GroupBatchNormalization,
    GroupConv2D,
    GroupPooling,
    LiftingConv2D,
)
from keras_dl.ops.groups import GROUPS, act, turn_pixels

GROUP_NAMES = list(GROUPS)


def _randomise(model, seed=0):
    """Weights with which no symmetry holds by accident: statistics and scales of normalisations too."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name == "kernel":
            continue
        positive = variable.name in ("gamma", "moving_variance")
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else 0.3 * rng.normal(size=variable.shape))
    return model


def _images(side, channels=1, n=2):
    return np.random.default_rng(side).integers(0, 256, (n, side, side, channels)).astype("float32")


@pytest.mark.parametrize(
    ("preset", "trained"),
    [("p4cnn", 24_620), ("z2cnn", 21_630), ("p4m_resnet44", 2_618_679), ("z2_resnet44", 2_636_458)],
)
def test_presets_have_the_published_counts(preset, trained):
    """Table 1 prints the ResNets' as 2.62M and 2.64M; section 8.1 keeps those of the digits' nets nearly equal."""
    model = GCNN if "cnn" in preset else GroupResNet
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        weights = model.from_preset(preset).trainable_variables
        assert sum(np.prod(v.shape) for v in weights) == trained


@pytest.mark.parametrize("name", GROUP_NAMES)
def test_the_group_acts_as_its_table(name):
    """On pixels and on feature maps, of odd and even, equal and unequal sides, g after h is `table[g, h]`."""
    group = GROUPS[name]
    rng = np.random.default_rng(0)
    for shape in ((4, 4), (3, 5)):
        image, maps = rng.normal(size=(1, *shape, 2)), rng.normal(size=(1, *shape, 2 * group.order))
        for g, h in itertools.product(range(group.order), repeat=2):
            both = group.table[g, h]
            np.testing.assert_array_equal(turn_pixels(turn_pixels(image, h), g), turn_pixels(image, both))
            np.testing.assert_array_equal(act(act(maps, h, name), g, name), act(maps, both, name))
        for g in range(group.order):
            np.testing.assert_array_equal(act(act(maps, g, name), group.inverse[g], name), maps)


@pytest.mark.parametrize("name", GROUP_NAMES)
def test_the_table_is_that_of_a_group(name):
    order, table = GROUPS[name].order, GROUPS[name].table
    np.testing.assert_array_equal(table[0], range(order))
    np.testing.assert_array_equal(table[:, 0], range(order))
    for g, h, k in itertools.product(range(order), repeat=3):
        assert table[table[g, h], k] == table[g, table[h, k]]
    for lines in (table, table.T):
        assert all(sorted(line) == list(range(order)) for line in lines)


@pytest.mark.parametrize("name", ["p4", "p4m"])
def test_group_convolution_is_the_sum_of_the_paper(name):
    """Eq. 10 and 11 as they stand: pixel by pixel, element by element."""
    group, size = GROUPS[name], 5
    rng = np.random.default_rng(1)
    for layer, inputs in ((LiftingConv2D(2, 3, name), 1), (GroupConv2D(2, 3, name), group.order)):
        maps = rng.normal(size=(1, size, size, inputs * 3)).astype("float32")
        layer.build(maps.shape)
        layer.bias.assign([0.5, -0.25])
        kernel = layer.kernel.numpy().reshape(3, 3, inputs, 3, 2)
        expected = np.zeros((3, 3, group.order, 2))
        for g in range(group.order):
            for h in range(inputs):
                within = group.table[group.inverse[g], h] if inputs > 1 else 0
                turned = turn_pixels(kernel[:, :, within], g, axes=(0, 1))
                for y, x in itertools.product(range(3), repeat=2):
                    window = maps[0, y : y + 3, x : x + 3, 3 * h : 3 * h + 3]
                    expected[y, x, g] += np.einsum("abc,abcd->d", window, turned)
        expected += [0.5, -0.25]
        np.testing.assert_allclose(layer(maps)[0], expected.reshape(3, 3, -1), atol=1e-5)


def _layers_of(model):
    """Outputs of all layers with maps, and whether each is a feature map of the group, or moves as an image does."""
    lifted = {layer.name: False for layer in model.layers[:2]}
    for layer in model.layers[2:]:
        lifted[layer.name] = not isinstance(layer, GroupPooling)
        if isinstance(layer, GroupPooling):
            break
    return keras.Model(model.input, {name: model.get_layer(name).output for name in lifted}), lifted


EQUIVARIANT = [
    *[pytest.param(GCNN, dict(image_shape=(28, 28, 1), group=g, filters=2), id=f"gcnn-{g}-28") for g in ("p4", "p4m")],
    *[
        pytest.param(
            GroupResNet,
            dict(image_shape=(side, side, 3), group=group, num_blocks=(1, 1, 1), filters=(2, 3, 4)),
            id=f"resnet-{group}-{side}",
        )
        for group, side in (("p4", 16), ("p4m", 15), ("p4m", 14), ("p4", 9))
    ],
]


@pytest.mark.parametrize(("model", "arguments"), EQUIVARIANT)
def test_every_layer_is_equivariant_and_the_logits_invariant(model, arguments):
    net = _randomise(model(num_classes=3, **arguments))
    images = _images(arguments["image_shape"][0], arguments["image_shape"][2])
    hidden, lifted = _layers_of(net)
    outputs, logits = hidden(images), net(images)
    assert np.abs(logits - net(np.transpose(images, (0, 2, 1, 3))[:, :, ::-1] * 0.5)).max() > 1e-3
    group = arguments["group"]
    for element in (1, 2) if group == "p4" else (1, 4, 6):  # these make all others
        moved = turn_pixels(images, element)
        for name, found in hidden(moved).items():
            expected = act(outputs[name], element, group) if lifted[name] else turn_pixels(outputs[name], element)
            error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1)
            assert error <= 1e-5, f"{name}, element {element}: {error:.1e}"
        np.testing.assert_allclose(net(moved), logits, atol=1e-5 * max(np.abs(logits).max(), 1))


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_training_keeps_the_symmetry(group):
    """Gradients and statistics of a batch do too: no weight sees how the batch was turned.

    A gradient is a sum over pixels and elements, taken in another order when these move: its rounding goes with the
    size of the terms, which may be much larger than their sum. The largest gradient stands for them. The largest error
    measured is 6e-6 of it.
    """
    trained = []
    for element in (0, GROUPS[group].order - 1):
        keras.utils.set_random_seed(0)
        net = GCNN(group=group, filters=2, dropout_rate=0.0)
        images = tf.constant(turn_pixels(_images(28, n=4), element))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        with tf.GradientTape() as tape:
            value = loss(np.array([1, 2, 3, 4]), net(images, training=True))
        gradients = tape.gradient(value, net.trainable_variables)
        trained.append([np.asarray(array) for array in (*gradients, *net.non_trainable_variables)])
    tolerance = 2e-5 * max(np.abs(array).max() for array in trained[0])
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_training_is_the_same_under_xla():
    """Where no dropout draws: the battery leaves GCNN out, since XLA draws other numbers."""
    images, labels = _images(14, 2, n=8), np.arange(8) % 5
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        net = GCNN((14, 14, 2), 5, group="p4m", filters=2, num_layers=4, dropout_rate=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit)
        history = net.fit(images, labels, batch_size=8, epochs=3, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("size", "kernel_size", "strides", "padding"),
    [
        (9, 3, 2, "same"),
        (9, 3, 2, "valid"),
        (10, 4, 2, "valid"),
        (10, 4, 3, "valid"),
        (13, 5, 3, "same"),
        (8, 2, 2, "valid"),
    ],
)
@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_aligned_strides_keep_the_symmetry(size, kernel_size, strides, padding, group):
    maps = np.random.default_rng(0).normal(size=(2, size, size, 2 * GROUPS[group].order)).astype("float32")
    for layer in (
        GroupConv2D(3, kernel_size, group, strides, padding),
        *([AlignedPooling2D(kernel_size, strides, mode) for mode in ("max", "mean")] if padding == "valid" else []),
    ):
        outputs = layer(maps)
        assert outputs.shape == layer.compute_output_shape(maps.shape)
        for element in range(GROUPS[group].order):
            found = layer(np.asarray(act(maps, element, group)))
            np.testing.assert_allclose(found, act(outputs, element, group), atol=1e-5)


def test_strides_that_break_the_symmetry_are_refused():
    maps = np.zeros((1, 10, 10, 4), "float32")
    for layer in (GroupConv2D(2, 3, strides=2, padding="same"), AlignedPooling2D(3, 2)):
        with pytest.raises(ValueError, match=r"strides=2 .* would break the symmetry.* Use maps of 9 or 11 pixels"):
            layer(maps)
    # It would: the plain convolution that TensorFlow makes of it does not turn with its input.
    maps = np.random.default_rng(0).normal(size=(1, 10, 10, 1)).astype("float32")
    symmetric = np.ones((3, 3, 1, 1), "float32")
    out = keras.ops.conv(maps, symmetric, 2, "same")
    assert np.abs(keras.ops.conv(turn_pixels(maps, 2), symmetric, 2, "same") - turn_pixels(out, 2)).max() > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kernel_size=(3, 5)), r"kernel_size=\(3, 5\) must be square"),
        (dict(kernel_size=4, padding="same"), "kernel_size=4 must be odd"),
        (dict(kernel_size=3, group="p6"), "group='p6' must be one of 'z2', 'p4', 'p4m'"),
        (dict(kernel_size=3, padding="full"), "padding='full'"),
    ],
)
def test_bad_arguments_of_a_group_convolution(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupConv2D(2, **arguments)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="group='p4' has 4 elements, which do not divide 6 maps"):
        GroupConv2D(2, 3)(np.zeros((1, 5, 5, 6), "float32"))
    with pytest.raises(ValueError, match="kernel_size=7 of 7 pixels is larger than maps of 5"):
        GroupConv2D(2, 7)(np.zeros((1, 5, 5, 4), "float32"))


def test_group_batch_normalisation_takes_statistics_over_elements():
    maps = np.random.default_rng(0).normal(2, 3, (8, 5, 5, 12)).astype("float32")
    layer = GroupBatchNormalization("p4")
    normed = np.asarray(layer(maps, training=True)).reshape(-1, 4, 3)
    np.testing.assert_allclose(normed.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(normed.std((0, 1)), 1, rtol=1e-4)
    assert layer.norm.moving_mean.shape == (3,)


def test_group_pooling():
    maps = np.random.default_rng(0).normal(size=(2, 3, 3, 8 * 5)).astype("float32")
    elements = maps.reshape(2, 3, 3, 8, 5)
    np.testing.assert_array_equal(GroupPooling("p4m", "max")(maps), elements.max(3))
    np.testing.assert_allclose(GroupPooling("p4m", "mean")(maps), elements.mean(3), atol=1e-6)


FOLDED = [
    pytest.param(GCNN, dict(group="p4m", filters=2), id="gcnn"),
    pytest.param(
        GroupResNet,
        dict(image_shape=(15, 15, 3), group="p4", num_blocks=(1, 1), filters=(2, 3)),
        id="resnet",
    ),
]


@pytest.mark.parametrize(("model", "arguments"), FOLDED)
def test_folding_leaves_plain_layers_that_compute_the_same(model, arguments):
    net = _randomise(model(**arguments))
    folded = net.fold()
    images = _images(net.image_shape[0], net.image_shape[2])
    np.testing.assert_allclose(folded(images), net(images), rtol=1e-5, atol=1e-5)
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert not kinds & {"GroupConv2D", "LiftingConv2D", "GroupBatchNormalization"}
    served = net.serving_signatures(2)["classify"].function(images.astype("uint8"))["probabilities"]
    np.testing.assert_allclose(served, keras.ops.softmax(net(images)), atol=1e-5)


@pytest.mark.parametrize(("model", "arguments"), FOLDED)
def test_the_file_has_the_ops_of_a_plain_network(model, arguments, tmp_path):
    """The same ops as the folded network exported by itself, and no op that turns, gathers or transposes."""
    from keras_dl.export import export

    net = _randomise(model(**arguments))
    ops = export(net, tmp_path / "group.tflite").ops
    assert not set(ops) & {"GATHER", "GATHER_ND", "REVERSE_V2", "TRANSPOSE", "CONCATENATION", "PACK", "TILE"}
    convolutions = [layer for layer in net.layers if isinstance(layer, GroupConv2D)]
    assert ops["CONV_2D"] == len(convolutions)
    plain = export(net.fold(), tmp_path / "plain.tflite").ops
    ignored = ("SOFTMAX", "CAST")  # of the signature around it
    assert {k: v for k, v in ops.items() if k not in ignored} == {k: v for k, v in plain.items() if k not in ignored}


def test_an_npu_runs_it_as_it_runs_the_plain_network(tmp_path):
    """On an Ethos-U every op runs on the NPU, and the multiplications are those of the folded network."""
    from keras_dl.export import export

    net = _randomise(GCNN(group="p4", filters=2))
    images = _images(28, n=8)[:, None]
    reports = {}
    for name, model, dtype in (("group", net, "uint8"), ("plain", net.fold(), "float32")):
        samples = [{"images": image.astype(dtype)} for image in images]
        path = tmp_path / f"{name}.tflite"
        report = export(model, path, quantization="int8", target="ethos-u55-128", calibration=samples)
        reports[name] = report.target_report
    assert reports["group"]["npu_op_share"] == 1
    assert reports["group"]["macs"] == reports["plain"]["macs"] > 0


def test_messages_say_which_images_would_do():
    with pytest.raises(ValueError, match=re.escape("image_shape=(28, 30, 1) must be square")):
        GCNN((28, 30, 1))
    with pytest.raises(ValueError, match=r"image_shape=\(27, 27, 1\) must have an even side.* of at least 22 pixels"):
        GCNN((27, 27, 1))
    GCNN((22, 22, 1), filters=1)
