"""DDPM: the mathematics of its process, samplers and bound; diffusers' weights, gradients and steps; files."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import write_safetensors

from keras_dl import DDPM, diffusion
from keras_dl.diffusion.ancestral import ancestral, ddim, ddim_steps, posterior_steps, posterior_variances
from keras_dl.diffusion.bound import normal_kl, pixel_log_likelihood, prior_kl, to_bits
from keras_dl.models.generative.unet import unet

TINY = dict(
    image_shape=(8, 8, 2), filters=4, multipliers=(1, 2), num_blocks=1, attention_sides=(4,), groups=2,
    dropout_rate=0.0, sampling_steps=10, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def oracle():
    with np.load(pathlib.Path(__file__).parent / "oracles" / "ddpm.npz") as file:
        return {name: file[name] for name in file.files}


def last(array):
    """Channels last."""
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


# Published sizes.


@pytest.mark.parametrize(("preset", "name"), [("ho2020_cifar10", "cifar10"), ("ho2020_lsun", "lsun")])
def test_published_counts(preset, name, oracle):
    arguments = DDPM.presets[preset]
    sizes = dict(
        filters=128, multipliers=(1, 2, 2, 2), num_blocks=2, attention_sides=(16,), dropout_rate=0.1, groups=32,
        num_heads=1, patch_size=1, num_classes=None,
    ) | {k: v for k, v in arguments.items() if k != "image_shape"}  # fmt: skip
    with keras.StatelessScope(initialize_variables=False):  # without 140 MB of weights
        count = unet(arguments["image_shape"], 3, **sizes, name="net").count_params()
    assert count == oracle[f"count/{name}"] == {"cifar10": 35_746_307, "lsun": 113_673_219}[name]


# The process.


def test_the_posterior_is_bayes():
    """In float64, by the product of the two normal densities, for two sorts of betas and for skipped steps."""
    for process in (diffusion.LinearBetas(200), diffusion.CosineBetas(100), diffusion.LinearBetas().respaced(13)):
        kept_before = np.concatenate([[1.0], process.kept[:-1]])
        beta = 1 - process.kept / kept_before
        steps = posterior_steps(process)
        x0, x = 0.7, -1.3
        for i in range(1, process.size):
            # q(x_{t-1} | x_0) q(x_t | x_{t-1}): precisions add.
            precision = 1 / (1 - kept_before[i]) + (1 - beta[i]) / beta[i]
            mean = (
                np.sqrt(kept_before[i]) * x0 / (1 - kept_before[i]) + np.sqrt(1 - beta[i]) * x / beta[i]
            ) / precision
            np.testing.assert_allclose(steps.of_data[i] * x0 + steps.of_state[i] * x, mean, rtol=1e-8)
            np.testing.assert_allclose(posterior_variances(process)[i], 1 / precision, rtol=1e-8)
        np.testing.assert_allclose([steps.of_data[0], steps.of_state[0]], [1, 0], atol=1e-12)
    # Numbers of the paper's schedule.
    process = diffusion.LinearBetas()
    ratios = posterior_variances(process) / process.variances
    np.testing.assert_allclose(ratios[[1, 10, 100]], [0.455, 0.864, 0.982], atol=5e-4)
    assert posterior_variances(process)[1] == pytest.approx(5.453e-5, rel=1e-3)


def test_ddim_at_eta_1_is_ancestral_sampling():
    for process in (diffusion.LinearBetas(), diffusion.CosineBetas(), diffusion.CosineBetas().respaced(20)):
        for a, b in zip(ddim_steps(process, 1.0), posterior_steps(process, "fixed_small"), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
    # All steps of a process are the process itself.
    process = diffusion.LinearBetas(100)
    for a, b in zip(ddim_steps(process), ddim_steps(process.respaced(100)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)


def _gaussian(process, variance):
    """What the best net makes of `x_t` if the data are N(0, variance): a multiple of it, by index, float64."""
    alpha, sigma = process.tables
    return alpha * variance / (alpha**2 * variance + sigma**2)


@pytest.mark.parametrize("betas", [diffusion.LinearBetas(), diffusion.CosineBetas(200)], ids=["linear", "cosine"])
def test_gaussian_data_are_sampled_exactly(betas):
    """With the best net for data N(0, v), DDIM is a product of numbers, and ancestral variances a recursion."""
    v, rng = 0.3, np.random.default_rng(0)
    for process in (betas, betas.respaced(25)):
        seen = _gaussian(process, v)

        def predict(x, i, seen=seen):
            return tf.reshape(tf.gather(tf.constant(seen, "float32"), i), (-1, 1)) * x

        start = tf.constant(rng.normal(size=(4, 3)), "float32")
        a, b, _ = ddim_steps(process)
        expected = start * np.prod(a * seen + b)
        np.testing.assert_allclose(ddim(predict, start, process), expected, rtol=1e-4)
        # Between two steps, DDIM multiplies by the ratio of the marginals' deviations, up to the size of the steps.
        flow = np.sqrt(v / (process.kept[-1] * v + 1 - process.kept[-1]))
        assert abs(np.prod(a * seen + b) - flow) < (0.01 if process is betas else 0.06)

        for variance in ("fixed_small", "fixed_large"):
            a, b, s = posterior_steps(process, variance)
            draws = rng.normal(size=(process.size, 4000, 1)).astype("float32")
            first = rng.normal(size=(4000, 1)).astype("float32")
            found = ancestral(predict, first, draws.reshape(-1, 1), process, variance)
            x, spread = first.astype("float64"), 1.0
            for j, i in enumerate(range(process.size - 1, -1, -1)):
                x = (a[i] * seen[i] + b[i]) * x + s[i] * draws[j]
                spread = (a[i] * seen[i] + b[i]) ** 2 * spread + s[i] ** 2
            np.testing.assert_allclose(found, x, atol=1e-4)
            assert np.var(found) == pytest.approx(spread, rel=5 * (2 / 4000) ** 0.5)
            if process is betas:
                assert spread == pytest.approx(v, rel=0.03)


# The bound.


def test_the_bins_of_a_pixel_sum_to_1():
    pixels = tf.constant(np.arange(256) / 127.5 - 1, "float32")
    for mean, deviation in ((0.0, 0.5), (0.93, 0.02), (-1.4, 0.3), (1.0, 1.0), (0.2, 3.0)):
        likelihoods = tf.exp(pixel_log_likelihood(pixels, mean, 2 * np.log(deviation)))
        # 256 differences of a function that is exact to a few 1e-8, and the least share of 1e-12
        assert float(tf.reduce_sum(likelihoods)) == pytest.approx(1, abs=1e-5)
    # Next to nothing is left in float32 of a difference of numbers near 1; here it is, on both sides.
    tails = pixel_log_likelihood(tf.constant([0.5, -0.5]), tf.constant([0.0, 0.0]), 2 * np.log(0.1))
    np.testing.assert_allclose(tails, tails[::-1], rtol=1e-5)
    assert float(tails[0]) == pytest.approx(np.log(5.09e-8), abs=0.1)


def test_divergences_of_normal_distributions():
    rng = np.random.default_rng(0)
    m1, l1, m2, l2 = rng.normal(size=(4, 50))
    expected = 0.5 * (l2 - l1 + np.exp(l1 - l2) + (m1 - m2) ** 2 / np.exp(l2) - 1)
    np.testing.assert_allclose(normal_kl(m1, l1, m2, l2), expected, rtol=1e-9)
    process = diffusion.LinearBetas()
    kept = process.kept[-1]
    expected = 0.5 * (kept * 0.25 + (1 - kept) - 1 - np.log1p(-kept))
    found = prior_kl(process, tf.constant(0.5))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)
    assert to_bits(tf.ones((3, 2, 2, 1))).numpy().tolist() == [pytest.approx(1 / np.log(2))] * 3


def test_the_bound_of_gaussian_data_is_its_entropy():
    """For pixels N(0, v) and the best net, the bound is above the entropy, and near it."""
    process, v = diffusion.CosineBetas(200), 0.15
    model = DDPM(**TINY | dict(image_shape=(4, 4, 1), multipliers=(1,)), process=process, variance="fixed_small")
    seen = tf.constant(_gaussian(process, v), "float32")
    model.guided = lambda x, t, labels=None, guidance=0.0: process.convert(
        tf.reshape(tf.gather(seen, t), (-1, 1, 1, 1)) * x, x, t, "data", "noise"
    )
    rng = np.random.default_rng(0)
    images = np.clip(np.round((rng.normal(size=(400, 4, 4, 1)) * v**0.5 + 1) * 127.5), 0, 255)
    found = model.bound(images)
    assert found["terms"].shape == found["mse"].shape == (200, 400)
    np.testing.assert_allclose(found["total"], tf.reduce_sum(found["terms"], 0) + found["prior"], rtol=1e-5)
    # Bits of a normal density, less those of the width of a bin, 1 / 127.5.
    entropy = 0.5 * np.log2(2 * np.pi * np.e * v) + np.log2(127.5)
    assert entropy < np.mean(found["total"]) < entropy + 0.1
    # The best net's error of the noise, in closed form.
    alpha, sigma = process.tables
    expected = alpha**2 * v / (alpha**2 * v + sigma**2)
    np.testing.assert_allclose(np.mean(found["mse"], 1), expected, atol=0.05)


def test_a_learned_variance_lies_between_the_two():
    model = DDPM(**TINY, variance="learned", process="cosine")
    process = model.process.respaced(20)
    i = tf.constant([0, 1, 10, 19])
    x = tf.zeros((4, 2, 2, 1))
    small, large = np.log(posterior_variances(process)), np.log(process.variances)
    small[0] = small[1]
    for share, expected in ((-1.0, small), (1.0, large), (0.0, 0.5 * (small + large))):
        found = model.log_variance(process, i, tf.fill(x.shape, share), x)
        np.testing.assert_allclose(found[:, 0, 0, 0], expected[i.numpy()], rtol=1e-5)


def test_a_learned_variance_gets_no_gradient_into_the_mean():
    model = DDPM(**TINY, variance="learned", process="cosine")
    rng = np.random.default_rng(0)
    data = tf.constant(rng.uniform(-1, 1, (3, 8, 8, 2)), "float32")
    noise, t = tf.constant(rng.normal(size=(3, 8, 8, 2)), "float32"), tf.constant([0, 5, 900])
    inputs = {"images": model.process.perturb(data, t, noise), "times": t}
    output = tf.Variable(tf.constant(rng.normal(size=(3, 8, 8, 4)), "float32"))
    with tf.GradientTape() as tape:
        losses = model.example_losses(output, inputs, {"data": data, "noise": noise})
    gradient = tape.gradient(losses, output)
    expected = 2 * (output[..., :2] - noise) / (8 * 8 * 2)  # of L_simple alone
    np.testing.assert_allclose(gradient[..., :2], expected, rtol=1e-4, atol=1e-7)
    assert (np.abs(gradient[..., 2:]).max((1, 2, 3)) > 0).all()


# Diffusers.


@pytest.fixture(scope="module")
def loaded(oracle):
    model = DDPM(**TINY, num_classes=2, process="linear")
    model.load_diffusers({k.removeprefix("weight/"): v for k, v in oracle.items() if k.startswith("weight/")})
    return model


def test_diffusers_weights_give_its_outputs_and_gradients(oracle, loaded):
    data, noise, noisy, seen = (last(oracle[f"unet/{name}"]) for name in ("data", "noise", "noisy", "seen"))
    t, labels = (tf.constant(oracle[f"unet/{name}"], "int32") for name in ("t", "labels"))
    np.testing.assert_allclose(loaded.process.perturb(data, t, noise), noisy, atol=1e-5)
    inputs = {"images": noisy, "times": t, "labels": labels}
    scale = np.abs(seen).max()
    for training in (False, True):  # the average, and the net itself
        np.testing.assert_allclose(loaded(inputs, training=training), seen, atol=1e-5 * scale)
    with tf.GradientTape() as tape:
        prediction = loaded(inputs, training=True)
        loss = loaded.compute_loss(inputs, {"data": data, "noise": noise}, prediction)
    assert float(loss) == pytest.approx(float(oracle["unet/loss"]), rel=1e-5)
    variables = loaded.network.trainable_variables
    gradients = tape.gradient(loss, variables)
    # Each gradient in the layout of its weight.
    before = loaded.network.get_weights()
    loaded.load_diffusers({k.removeprefix("gradient/"): v for k, v in oracle.items() if k.startswith("gradient/")})
    expected = [v.numpy() for v in variables]
    loaded.network.set_weights(before)
    loaded.average.set_weights(before)
    largest = max(np.abs(x).max() for x in expected)
    for variable, found, wanted in zip(variables, gradients, expected, strict=True):
        # A bias before a normalization has a gradient of 0, of which there is only the rounding of others.
        np.testing.assert_allclose(
            tf.convert_to_tensor(found), wanted, rtol=1e-3, atol=1e-5 * largest, err_msg=variable.path
        )


def test_a_file_of_the_hub_has_old_names(oracle, loaded, tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, array in oracle.items():
        if name.startswith("weight/"):
            name = name.removeprefix("weight/")
            for new, other in old.items():
                name = name.replace(new, other)
            weights[name] = array
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    write_safetensors(path, weights)
    model = DDPM(**TINY | dict(seed=1), num_classes=2)
    model.load_diffusers(path)
    for a, b, c in zip(model.network.weights, model.average.weights, loaded.network.weights, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)
    del weights["conv_in.bias"]
    with pytest.raises(ValueError, match=r"missing: conv_in\.bias \(4,\)"):
        model.load_diffusers(weights)


def _walks(oracle):
    return [name.removeprefix("path/") for name in oracle if name.startswith("path/")]


WALKS = [
    *(f"ancestral/{betas}/{v}/noise" for betas in ("linear", "cosine") for v in ("fixed_small", "fixed_large")),
    *(f"ancestral/{betas}/learned_range/noise" for betas in ("linear", "cosine")),
    *(f"ddim/{betas}/{eta}/noise" for betas in ("linear", "cosine") for eta in (0.0, 0.5, 1.0)),
    *(f"{sampler}/{target}" for sampler in ("ancestral/linear/fixed_small", "ddim/linear/0.0")
      for target in ("data", "velocity")),
]  # fmt: skip


def test_all_walks_are_compared(oracle):
    assert sorted(_walks(oracle)) == sorted(WALKS)


@pytest.mark.parametrize("name", WALKS)
def test_samplers_are_those_of_diffusers_step_by_step(name, oracle):
    sampler, betas, setting, predicts = name.split("/")
    learned = setting == "learned_range"
    model = DDPM(
        **TINY | dict(image_shape=(3, 3, 2), multipliers=(1,)), process=betas, predicts=predicts,
        variance={"learned_range": "learned"}.get(setting, setting) if sampler == "ancestral" else "fixed_small",
    )  # fmt: skip

    def net(x, t, labels=None, guidance=0.0):
        time = tf.reshape(tf.cast(t, "float32"), (-1, 1, 1, 1))
        seen = tf.sin(2 * x) * (0.5 + time / 1000)
        return tf.concat([seen, tf.cos(x + time)], -1) if learned else seen

    model.guided = net
    start, draws = last(oracle["start"]), np.moveaxis(oracle["draws"], 2, -1)
    spacing = "trailing" if name.endswith("0.0/noise") else "leading"
    process = model.process.respaced(10, spacing)
    np.testing.assert_array_equal(process.timesteps[::-1], oracle[f"timesteps/{name}"])
    model.process.respaced  # noqa: B018
    eta = float(setting) if sampler == "ddim" else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion.Betas, "respaced", lambda self, n: diffusion.RespacedBetas(self, n, spacing))
        _, path = model._sampled(start, draws.reshape(-1, 3, 3, 2), None, 10, sampler, eta, 0.0, num_kept=11)
    # float32 tables on their side: 1 - abar has lost four digits at the first steps.
    np.testing.assert_allclose(path[1:], np.moveaxis(oracle[f"path/{name}"], 2, -1), atol=1e-4)
