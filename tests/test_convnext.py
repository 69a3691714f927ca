"""ConvNeXt: the paper's sizes, torchvision's outputs and gradients, and branches that are scaled and dropped safely."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import loss_and_gradients, write_safetensors

from keras_dl import ConvNeXt
from keras_dl.export import export
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.residual import LayerScale, StochasticDepth
from keras_dl.ops.activations import gelu

TINY = dict(
    image_shape=(35, 42, 3), num_classes=5, num_blocks=(2, 1, 1), filters=(8, 12, 16), stochastic_depth_rate=0.0
)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnext_tiny", 28_589_128),
        ("convnext_small", 50_223_688),
        ("convnext_base", 88_591_464),
        ("convnext_large", 197_767_336),
    ],
)
def test_presets_have_the_published_counts(name, count):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        assert ConvNeXt.from_preset(name).count_params() == count


def test_torchvision_weights_give_its_outputs_loss_and_gradients(tmp_path):
    oracle = load_oracle("convnext")
    model = ConvNeXt(**TINY)
    write_safetensors(tmp_path / "weights.safetensors", state_dict(oracle, "weights"))
    for weights in (state_dict(oracle, "weights"), tmp_path / "weights.safetensors"):
        for variable in model.variables:
            variable.assign(keras.ops.zeros_like(variable))
        model.load_torchvision(weights)
        np.testing.assert_allclose(model(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-4)

    loss, gradients = loss_and_gradients(model, oracle["images"], oracle["labels"])
    np.testing.assert_allclose(loss, oracle["loss"], rtol=1e-5)
    assert len(gradients) == len(state_dict(oracle, "gradients"))
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign(gradient)
    found = [v.numpy() for v in model.trainable_variables]
    model.load_torchvision(state_dict(oracle, "gradients"))  # the same road from torch's names and axes
    for variable, gradient in zip(model.trainable_variables, found, strict=True):
        expected = variable.numpy()
        error = np.abs(gradient - expected).max() / np.abs(expected).max()
        assert error < 1e-4, f"{variable.path}: {error:.1e}"


def test_transformers_weights_give_its_outputs(tmp_path):
    oracle = load_oracle("convnext_transformers")
    model = ConvNeXt(**TINY)
    write_safetensors(tmp_path / "weights.safetensors", state_dict(oracle, "weights"))
    for weights in (state_dict(oracle, "weights"), tmp_path / "weights.safetensors"):
        for variable in model.variables:
            variable.assign(keras.ops.zeros_like(variable))
        model.load_transformers(weights)
        np.testing.assert_allclose(model(oracle["images"]), oracle["logits"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"missing: convnext\.embeddings\.layernorm\.weight \(8,\)"):
        model.load_transformers({"classifier.bias": np.zeros(5)})


def test_weights_that_do_not_fit_change_nothing():
    weights = state_dict(load_oracle("convnext"), "weights")
    weights["features.1.0.layer_scale"] = weights["features.1.0.layer_scale"][:4]
    del weights["classifier.2.bias"]
    model = ConvNeXt(**TINY)
    before = [v.numpy() for v in model.variables]
    with pytest.raises(ValueError, match=r"features\.1\.0\.layer_scale is \(4, 1, 1\)") as caught:
        model.load_torchvision(weights)
    assert "missing: classifier.2.bias (5,)" in str(caught.value)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_rates_of_stochastic_depth_rise_from_zero():
    model = ConvNeXt(**TINY | dict(stochastic_depth_rate=0.3))
    rates = [layer.stochastic_depth_rate for layer in model.layers if hasattr(layer, "stochastic_depth_rate")]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])


def test_dropped_branches_are_zero_by_example_and_keep_the_mean():
    drop = StochasticDepth(0.25, seed=1)
    branch = np.random.default_rng(0).normal(1, 0.1, (4000, 3, 2)).astype("float32")
    out = np.array(drop(branch, training=True))
    kept = out[:, 0, 0] != 0
    np.testing.assert_allclose(out[kept], branch[kept] / 0.75, rtol=1e-6)
    assert (out[~kept] == 0).all()
    deviation = (0.25 * 0.75 / 4000) ** 0.5
    assert abs(kept.mean() - 0.75) < 4 * deviation
    assert (np.array(drop(branch, training=True))[:, 0, 0] != 0).tolist() != kept.tolist()
    np.testing.assert_array_equal(drop(branch, training=False), branch)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_dropping_an_overflow_is_exact(dtype, jit):
    """A dropped branch is 0 and passes no gradient, even if it is infinite."""
    drop = StochasticDepth(0.5, seed=3, dtype=f"mixed_{dtype}")
    branch = tf.fill((64, 2), tf.constant(np.inf, dtype))

    @tf.function(jit_compile=jit)
    def step(branch):
        with tf.GradientTape() as tape:
            tape.watch(branch)
            out = drop(branch, training=True)
        return out, tape.gradient(out, branch)

    out, gradient = (np.array(keras.ops.cast(x, "float32")) for x in step(branch))
    assert out.dtype == gradient.dtype
    dropped = out[:, 0] == 0
    assert 10 < dropped.sum() < 54
    assert (gradient[dropped] == 0).all()
    assert (gradient[~dropped] == 2).all()


def test_stochastic_depth_refuses_a_rate_of_one():
    with pytest.raises(ValueError, match=r"rate=1\.0"):
        StochasticDepth(1.0)


@pytest.mark.parametrize(("policy", "error"), [("mixed_float16", 0.005), ("mixed_bfloat16", 0.04)])
def test_a_branch_scaled_by_1e_6_survives_half_precision(policy, error):
    """The block adds what it adds in float32: in half precision both the scale and the sum would be lost."""
    from keras_dl.models.vision.convnext import ConvNeXtBlock

    maps = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    added = {}
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(0)
        block = ConvNeXtBlock(dtype=dtype)
        block.build(maps.shape)
        block.project.kernel.assign(30_000 * block.project.kernel)
        out = block(tf.constant(maps))
        assert out.dtype == "float32"
        added[dtype] = np.array(out, "float64") - maps
    assert 1e-5 < np.abs(added["float32"]).max() < 2e-4  # below the resolution of float16 next to 1
    # The 49 products of a depthwise convolution may be summed in the half type itself: some 10 of its units.
    np.testing.assert_allclose(added[policy], added["float32"], atol=error * np.abs(added["float32"]).max())


def test_gradients_behind_a_scale_of_1e_6_survive_float16():
    """They point where those of float32 point, in every weight, with the loss scaling that `fit` begins with."""
    rng = np.random.default_rng(0)
    images, labels = tf.constant(rng.integers(0, 256, (8, 35, 42, 3)), "float32"), rng.integers(0, 5, 8)

    def gradients_of(dtype, scale, jit=False):
        keras.utils.set_random_seed(0)
        model = ConvNeXt(**TINY, dtype=dtype)

        @tf.function(jit_compile=jit)
        def gradients():
            with tf.GradientTape() as tape:
                logits = tf.cast(model(images, training=True), "float32")
                losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
                loss = scale * tf.reduce_mean(losses)
            return tape.gradient(loss, model.trainable_variables)

        return model.trainable_variables, [g.numpy() / scale for g in gradients()]

    _, full = gradients_of("float32", 1.0)
    for jit in (False, True):
        variables, half = gradients_of("mixed_float16", 2.0**15, jit)
        for variable, a, b in zip(variables, half, full, strict=True):
            np.testing.assert_allclose(np.linalg.norm(a), np.linalg.norm(b), rtol=0.1, err_msg=variable.path)
            assert (a * b).sum() > 0.99 * np.linalg.norm(a) * np.linalg.norm(b), variable.path


def test_all_of_it_runs_on_an_npu(tmp_path):
    keras.utils.set_random_seed(0)
    model = ConvNeXt(**TINY | dict(initial_scale=0.5))
    images = np.random.default_rng(1).integers(0, 256, (8, 35, 42, 3)).astype("uint8")
    report = export(
        model, tmp_path / "net.tflite", quantization="int8", target="ethos-u55-128", calibration=[{"images": images}]
    )
    assert report.target_report["cpu_ops"] == []
    assert report.tensors["float_ops"] == []
    assert report.ops["GELU"] == sum(TINY["num_blocks"])


def test_layer_scale_multiplies_channels():
    scale = LayerScale(0.5)
    x = np.ones((1, 2, 3), "float32")
    np.testing.assert_array_equal(scale(x), 0.5 * x)
    scale.scale.assign([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(scale(x), x * [1, 2, 3])


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (2, 3, 5, 6)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_layer_normalization_is_that_of_keras(dtype, shape):
    """Outputs, and gradients of inputs and weights."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(2.0, 3.0, shape), "float32")
    found = []
    for kind in (keras.layers.LayerNormalization, LayerNormalization):
        layer = kind(epsilon=1e-3, dtype=dtype)
        layer.build(x.shape)
        layer.set_weights([np.arange(1.0, 7.0), np.arange(6.0) - 2.0])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.cast(y, "float32") ** 3)
        assert y.dtype == layer.compute_dtype
        found.append([y, *tape.gradient(loss, [x, *layer.trainable_variables])])
    for theirs, ours in zip(*found, strict=True):
        theirs, ours = (np.array(t, "float32") for t in (theirs, ours))
        tolerance = 1e-5 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("jit", [False, True])
def test_the_gradient_of_gelu_is_the_derived_one(jit):
    x = tf.constant(np.linspace(-12, 12, 481), "float32")

    @tf.function(jit_compile=jit)
    def step(training):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = gelu(x, training)
            slope = tape.gradient(y, x)
        return y, slope, outer.gradient(slope, x)

    for ours, derived in zip(step(True), step(False), strict=True):
        np.testing.assert_allclose(ours, derived, rtol=1e-5, atol=1e-6)
