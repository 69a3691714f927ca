"""Temporal convolutions: causality, the receptive field, weight normalization, streams, and equality with torch."""

import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import TCN
from keras_dl.models.sequence.tcn import CausalConv1D
from keras_dl.ops.convolution import dilated_convolution

ORACLE = pathlib.Path(__file__).parent / "oracles" / "tcn.npz"


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _tcn(**options):
    return TCN(**(dict(num_features=3, num_outputs=2, hidden_dims=(6, 6, 4), kernel_size=3) | options))


@pytest.mark.parametrize(
    ("name", "count"), [("adding_600", 70_369), ("sequential_mnist", 66_910), ("copy_memory", 12_530)]
)
def test_presets_have_their_sizes(name, count):
    """Counted by hand. Table 1 gives thousands: 70K, 70K and 16K."""
    assert TCN.from_preset(name).count_params() == count


@pytest.mark.parametrize("options", [{}, dict(dilation_base=3, kernel_size=2), dict(hidden_dims=(5,), kernel_size=4)])
def test_output_depends_on_the_receptive_field_and_on_nothing_else(options):
    """Measured by changing one input after the other: nothing that follows, and nothing that is further back."""
    model = _tcn(pooling=None, **options)
    field = model.receptive_field
    sizes = dict(hidden_dims=(6, 6, 4), kernel_size=3, dilation_base=2) | options
    dilations = sum(sizes["dilation_base"] ** i for i in range(len(sizes["hidden_dims"])))
    assert field == 1 + 2 * (sizes["kernel_size"] - 1) * dilations
    for block in model.blocks:  # all positive: no path is cut by a ReLU
        for weight in block.trainable_weights:
            weight.assign(np.abs(weight) + 0.01)
    length = field + 6
    x = tf.constant(np.abs(_normal(1, length, 3)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        last = tf.reduce_sum(model(x)[0, length - 3])
    reached = np.abs(tape.gradient(last, x)[0]).max(-1) > 0
    expected = np.arange(length)
    np.testing.assert_array_equal(reached, (expected <= length - 3) & (expected > length - 3 - field))


def test_what_follows_never_moves_an_output():
    model = _tcn(pooling=None, dropout_rate=0.3)
    x = _normal(1, 24, 3)
    before = model(x).numpy()
    for t in range(24):
        other = x.copy()
        other[:, t:] = _normal(1, 24 - t, 3, seed=t + 1) * 100
        np.testing.assert_array_equal(model(other)[:, :t], before[:, :t])


def test_last_is_the_last_step():
    sequence, last = _tcn(pooling=None), _tcn()
    last.set_weights(sequence.get_weights())
    x = _normal(2, 17, 3)
    np.testing.assert_allclose(last(x), sequence(x)[:, -1], atol=1e-6)


def test_kernel_has_the_length_g_and_the_direction_v():
    layer = CausalConv1D(5, 3, 2)
    layer.build((None, None, 4))
    norm = np.sqrt(np.square(layer.folded()).sum((0, 1)))
    np.testing.assert_allclose(layer.length, norm, rtol=1e-6)
    np.testing.assert_allclose(layer.folded(), layer.direction, rtol=1e-5)  # at first g = ||v||
    layer.length.assign([1.0, 2.0, 3.0, 4.0, 5.0])
    layer.direction.assign(7 * layer.direction)  # the length of v makes no difference
    norm = np.sqrt(np.square(layer.folded()).sum((0, 1)))
    np.testing.assert_allclose(norm, [1, 2, 3, 4, 5], rtol=1e-5)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(_normal(2, 9, 4)) * _normal(2, 9, 5, seed=1))
    gradient = tape.gradient(total, layer.direction.value)
    along = tf.reduce_sum(gradient * layer.direction.value, (0, 1))  # eq. 3: v is only ever turned
    np.testing.assert_allclose(along, 0, atol=1e-4 * float(tf.reduce_max(tf.abs(gradient))))


def test_plain_convolution_has_no_length():
    layer = CausalConv1D(5, 3, weight_normalization=False)
    layer.build((None, None, 4))
    assert [w.name for w in layer.weights] == ["direction", "bias"]
    np.testing.assert_array_equal(layer.folded(), layer.direction)


@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_convolution_is_the_equation(dilation):
    layer = CausalConv1D(4, 3, dilation)
    x = _normal(2, 13, 3)
    found, kernel = layer(x), layer.folded().numpy()
    for t in range(13):
        expected = layer.bias.numpy() + sum(
            x[:, t - dilation * i] @ kernel[2 - i] for i in range(3) if t - dilation * i >= 0
        )
        np.testing.assert_allclose(found[:, t], expected, atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 3])
def test_gradients_of_the_convolution_are_those_of_its_taps(dilation):
    """First and second ones, for TensorFlow derives those of the sum of products by itself."""
    x, kernel = tf.constant(_normal(2, 11, 3)), tf.constant(_normal(3, 3, 4, seed=1))
    length = 11 - 2 * dilation

    def of_taps(x, kernel):
        return sum(x[:, i * dilation : i * dilation + length] @ kernel[i] for i in range(3))

    def derived(function):
        with tf.GradientTape() as outer:
            outer.watch([x, kernel])
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                total = tf.reduce_sum(function(x, kernel) ** 3)
            first = tape.gradient(total, [x, kernel])
            of_first = sum(tf.reduce_sum(g**2) for g in first)
        return [*first, *outer.gradient(of_first, [x, kernel])]

    found = tf.function(lambda: derived(lambda x, k: dilated_convolution(x, k, dilation)))()
    for a, b in zip(found, derived(of_taps), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(tf.reduce_max(tf.abs(b))))


def test_shortcut_is_there_only_where_widths_differ():
    assert [block.shortcut is not None for block in _tcn().blocks] == [True, False, True]


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_stream_equals_the_whole_sequence(task):
    model = _tcn(pooling=None, task=task, serving_length=40)
    x = _normal(2, 40, 3)
    served, answer = model.serving_signatures(2), "values" if task == "regression" else "probabilities"
    whole = served["sequence"].function(features=x)[answer]
    assert model.receptive_field < 40
    states = {name: np.zeros(spec.shape, "float32") for name, spec in served["step"].inputs.items()}
    del states["features"]
    assert {name: x.shape for name, x in states.items()} == {
        name: x.shape for name, x in model.initial_states(2).items()
    }
    for t in range(40):
        after = served["step"].function(x[:, t], **states)
        np.testing.assert_allclose(after.pop(answer), whole[:, t], atol=1e-5)
        assert set(after) == {f"next_{name}" for name in states}
        states = {name: after[f"next_{name}"] for name in states}
    if task == "regression":
        np.testing.assert_allclose(whole, model(x), atol=1e-6)
    else:
        np.testing.assert_allclose(np.sum(whole, -1), 1, rtol=1e-5)


def test_stream_of_a_file_equals_the_whole_sequence_of_the_file(tmp_path):
    """And both hold plain convolutions: no op of weight normalization is left, and one kernel for each convolution."""
    from keras_dl.export import export, load

    model = _tcn(serving_length=40)
    path = tmp_path / "tcn.tflite"
    report = export(model, path)
    assert not {"DIV", "SQRT", "RSQRT", "SUM", "WHILE", "SPACE_TO_BATCH_ND"} & set(report.ops), report.ops
    x = _normal(1, 40, 3)
    runner = load(path)
    states = {name: np.asarray(value) for name, value in model.initial_states().items()}
    for t in range(40):
        after = runner.serve("step", features=x[:, t], **states)
        states = {name: after[f"next_{name}"] for name in states}
    np.testing.assert_allclose(after["values"], runner.serve("sequence", features=x)["values"], atol=1e-5)


@pytest.mark.slow  # the battery exports and proves an int8 file; this compiles one for two devices
def test_integer_file_runs_on_the_npu_and_on_a_microcontroller(tmp_path):
    """All of its ops: dilated convolutions of one pixel's height are what both take."""
    from keras_dl.export import export

    model = _tcn(serving_length=20)
    calibration = {"sequence": [{"features": row[None]} for row in _normal(16, 20, 3)]}
    options = dict(quantization="int8", calibration=calibration, signatures=["sequence"])
    report = export(model, tmp_path / "npu.tflite", target="ethos-u55-128", **options)
    assert report.target_report["npu_op_share"] == 1
    assert report.proof["signatures"]["sequence"]["values"]["max_rel_error"] < 0.05
    report = export(model, tmp_path / "micro.tflite", target="micro", **options)
    assert set(report.ops) <= {"CONV_2D", "PAD", "ADD", "RESHAPE", "FULLY_CONNECTED", "STRIDED_SLICE"}


def test_whole_channels_are_dropped():
    model = _tcn(dropout_rate=0.5, hidden_dims=(32,))
    dropped = np.asarray(model.blocks[0].dropout(np.ones((4, 10, 32)), training=True)) == 0
    np.testing.assert_array_equal(dropped.all(1), dropped.any(1))
    assert 0.3 < dropped.mean() < 0.7


def test_equals_torch():
    """Outputs, and the gradients of the input and of every weight, g and v among them."""
    with np.load(ORACLE) as file:
        saved = {name: file[name] for name in file.files}
    model = _tcn(pooling=None)

    def arrays(kind):
        found = []
        for i, block in enumerate(model.blocks):
            for name in ("first", "second"):
                torch_name = f"{kind}/blocks.{i}.{name}"
                found += [
                    saved[f"{torch_name}.parametrizations.weight.original1"].transpose(2, 1, 0),
                    saved[f"{torch_name}.parametrizations.weight.original0"][:, 0, 0],
                    saved[f"{torch_name}.bias"],
                ]
            if block.shortcut is not None:
                found += [
                    saved[f"{kind}/blocks.{i}.shortcut.weight"][:, :, 0].T,
                    saved[f"{kind}/blocks.{i}.shortcut.bias"],
                ]
        return [*found, saved[f"{kind}/head.weight"].T, saved[f"{kind}/head.bias"]]

    variables = [
        w
        for block in model.blocks
        for part in (block.first, block.second, block.shortcut)
        if part
        for w in part.weights
    ]
    variables += model.get_layer("head").weights
    assert len(variables) == len(model.weights)
    for variable, array in zip(variables, arrays("state"), strict=True):
        variable.assign(array)
    x = tf.constant(saved["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = model(x)
        total = tf.reduce_sum(output**2)
    np.testing.assert_allclose(output, saved["output"], atol=1e-5)
    gradients = tape.gradient(total, [x, *(v.value for v in variables)])
    for found, expected in zip(gradients, [saved["x_gradient"], *arrays("gradient")], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("jit", [False, True])
def test_learns_under_a_dilation(jit):
    """The input of five steps ago, which only a dilated path brings to the output."""
    keras.utils.set_random_seed(0)
    model = _tcn(num_features=1, num_outputs=1, pooling=None, hidden_dims=(8, 8))
    x = _normal(64, 20, 1)
    y = np.roll(x, 5, axis=1)
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=jit)
    # Ten epochs of six times the rows are faster than sixty.
    x, y, weights = (np.tile(a, (6,) + (1,) * (a.ndim - 1)) for a in (x, y, np.arange(20)[None].repeat(64, 0) >= 5))
    history = model.fit(x, y, sample_weight=weights, epochs=10, verbose=0)
    assert history.history["loss"][-1] < 0.05 * history.history["loss"][0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(2, 0, 3\) must have at least one step"):
        _tcn()(np.zeros((2, 0, 3), "float32"))
    with pytest.raises(ValueError, match="initial_states"):
        _tcn().step(np.zeros((2, 3), "float32"), _tcn().initial_states(1))


@pytest.mark.parametrize("dataset", ["adding_problem/200", "copy_memory"])
def test_recipe_calibrates_steps_that_follow_each_other(dataset, tmp_path):
    """The states of its calibration are those that the sequence leads to."""
    from keras_dl.export import KerasRunner
    from keras_dl.recipes.tcn import RECIPE

    options = RECIPE.options(dataset, epochs=2, smoke=True, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "tcn")
    if dataset.startswith("adding"):
        _check_marks(data)
    model = RECIPE.build_model(data, options, "tcn")
    assert model.receptive_field >= data.input_shape[0]
    found = RECIPE.calibrate(KerasRunner(model, 4).serve, data, 4)
    assert len(found["sequence"]) == len(found["step"]) == 4
    last = found["step"][3]  # of row 3, at its step 3
    states = model.initial_states()
    for t in range(3):
        _, states = model.step(data.arrays["x_train"][3:4, t], states)
    np.testing.assert_array_equal(last["features"], data.arrays["x_train"][3:4, 3])
    for name, state in states.items():
        np.testing.assert_allclose(last[name], state, atol=1e-6)


def _check_marks(data):
    """The data set's in the first half of the epochs, others in the second: one in each half of a sequence."""
    known = {row.tobytes() for row in data.arrays["x_train"][..., 0]}
    marks = {row.tobytes() for row in data.arrays["x_train"]}
    for epoch, old in ((0, True), (1, False)):
        sequences, sums = next(data.train(epoch).as_numpy_iterator())
        numbers, ones = sequences[..., 0], sequences[..., 1]
        assert all(row.tobytes() in known for row in numbers)
        assert np.mean([row.tobytes() in marks for row in sequences]) == (1 if old else 0)
        for half in np.split(ones, 2, axis=1):
            np.testing.assert_array_equal(np.sort(half, axis=1)[:, -2:], [[0, 1]] * len(half))
        np.testing.assert_allclose(sums[:, 0], (numbers * ones).sum(1), rtol=1e-6)


def test_recipe_names_what_it_has_to_beat():
    from keras_dl.recipes.tcn import RECIPE

    def outcome(targets, labels=(), **trained):
        data = types.SimpleNamespace(arrays={"y_test": np.array(targets)}, labels=labels)
        return types.SimpleNamespace(data=data, trained=trained)

    lstm = types.SimpleNamespace(value=0.5)
    assert RECIPE.baseline(outcome([[1.0]], lstm=lstm)) == ("LSTM of as many weights", 0.5)
    assert RECIPE.baseline(outcome([[1.5], [1.0]])) == ("always saying 1", 0.125)
    assert RECIPE.baseline(outcome([[0, 3]], labels="0123456789")) == ("any symbol", 1 / 8)


@pytest.mark.parametrize("pooling", ["last", None])
def test_a_padded_row_has_the_output_of_the_row_alone(pooling):
    """With features that are standardized by the steps that exist."""
    model = _tcn(masked=True, standardize=True, pooling=pooling)
    features, lengths = 5 + 3 * _normal(4, 9, 3), np.array([9, 4, 1, 7])
    rows = {"features": features, "mask": np.arange(9) < lengths[:, None]}
    model.adapt(**rows)
    steps = features[rows["mask"]]
    mean, variance, _ = model.get_layer("standardize").get_weights()
    np.testing.assert_allclose(mean, steps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, steps.var(0), rtol=1e-5)
    outputs = model(rows).numpy()
    for row, length, found in zip(features, lengths, outputs, strict=True):
        alone = model({"features": row[None, :length], "mask": np.ones((1, length), bool)}).numpy()[0]
        np.testing.assert_allclose(found if pooling else found[:length], alone, atol=1e-5)
        states = model.initial_states()
        for step in row[:length]:
            last, states = model.step(step[None], states)
        np.testing.assert_allclose(last[0], alone if pooling else alone[-1], atol=1e-5)


def test_masks_with_holes_are_refused():
    with pytest.raises(ValueError, match="mask must be True up to the last step"):
        _tcn(masked=True)({"features": _normal(1, 3, 3), "mask": np.array([[True, False, True]])})
