"""NVIDIA's StyleGAN2 on the same weights: outputs, both penalties, and a step of training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversarial import compiled, equal, values
from keras import ops
from oracles import load_oracle, state_dict
from reference import write_safetensors

from keras_dl import StyleGAN2


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("stylegan")


def theirs():
    return StyleGAN2(
        (16, 16, 2),
        noise_dim=5,
        style_dim=3,
        mapping_layers=2,
        base_filters=32,
        max_filters=4,
        group_size=2,
        r1_weight=0.3,
        r1_interval=2,
        path_length_weight=0.5,
        path_length_interval=3,
        averaging=0.5,
    )


def last(x):
    return x.transpose(0, 2, 3, 1)


def in_pixels(x):
    return 127.5 + 127.5 * last(x)


def test_nvidias_weights_give_the_same_outputs(oracle, tmp_path):
    model = theirs()
    for side in ("generator", "discriminator"):
        write_safetensors(tmp_path / f"{side}.safetensors", state_dict(oracle, f"before/{side}"))
    model.load_torch(tmp_path / "generator.safetensors", tmp_path / "discriminator.safetensors")
    np.testing.assert_allclose(model.map(oracle["noise"]), oracle["styles"], atol=1e-5)
    images = np.clip(in_pixels(oracle["images"]), 0, 255)
    np.testing.assert_allclose(model.generate(oracle["noise"]), images, atol=5e-3)
    truncated = np.clip(in_pixels(oracle["truncated"]), 0, 255)
    np.testing.assert_allclose(model.generate(oracle["noise"], 0.6, cutoff=3), truncated, atol=5e-3)
    real = in_pixels(oracle["real"])
    np.testing.assert_allclose(model.judge(real), oracle["logits"], rtol=1e-4, atol=1e-5)
    assert float(model.r1(real)) == pytest.approx(oracle["r1"].mean(), rel=1e-4)
    model.draw_noise_maps = lambda count, seed=None: constant_maps(model, count)
    lengths = model.path_lengths(tf.constant(oracle["styles"]), tf.constant(last(oracle["directions"])))
    np.testing.assert_allclose(lengths, oracle["path_lengths"], rtol=1e-4)


def constant_maps(model, count):
    return [ops.repeat(x, count, axis=0) for x in model.noise_maps]


def test_nvidias_training_step(oracle):
    """Both sides and both penalties: every loss, and every weight."""
    model = theirs()
    model.load_torch(state_dict(oracle, "before/generator"), state_dict(oracle, "before/discriminator"))
    compiled(model, keras.optimizers.SGD(0.02, momentum=0.5))
    latents, crossovers = (iter(oracle[key].reshape(-1, *oracle[key].shape[-2:])) for key in ("latents", "latents"))
    crossovers = iter(oracle["crossovers"].tolist())
    model.draw_noise = lambda count, seed=None: tf.constant(next(latents)[:count])
    model.draw_crossover = lambda: next(crossovers)
    model.draw_noise_maps = lambda count, seed=None: constant_maps(model, count)
    model.draw_directions = lambda count: tf.constant(last(oracle["directions"])[:count])
    losses = []
    minimize = model.minimize
    model.minimize = lambda *arguments: losses.append(float(minimize(*arguments)))
    model._logged = lambda values: {}
    model.train_on_batch(in_pixels(oracle["real"]))
    np.testing.assert_allclose(losses, oracle["losses"], rtol=1e-3)

    expected = theirs()
    after = {side: state_dict(oracle, f"after/{side}") for side in ("generator", "discriminator")}
    expected.load_torch(**after)
    for side in ("generator", "discriminator"):
        for found, wanted in zip(model.trained_by(side), expected.trained_by(side), strict=True):
            scale = max(np.abs(wanted).max(), 1e-2)
            np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-4, err_msg=found.path)


def test_wrong_weights_change_nothing(oracle):
    model = theirs()
    before = values(model.weights)
    weights = state_dict(oracle, "before/generator")
    with pytest.raises(ValueError, match="give the weights of one of them"):
        model.load_torch()
    with pytest.raises(ValueError, match=r"missing: discriminator: b4\.fc\.weight \(4, 64\)"):
        model.load_torch(weights, {})
    weights["synthesis.b8.resample_filter"] = np.outer([1, 2, 2, 1], [1, 2, 2, 1]) / 36
    with pytest.raises(ValueError, match=r"fir=.* is not the filter of the weights, synthesis\.b8\.resample_filter"):
        model.load_torch(weights)
    assert all(equal(values(model.weights), before))
