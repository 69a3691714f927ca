"""DDPM: the mathematics of its process, samplers and bound; diffusers' weights, gradients and steps; files."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import randomized, write_safetensors

from keras_dl import DDPM, diffusion
from keras_dl.diffusion.ancestral import ancestral, ddim, ddim_steps, posterior_steps, posterior_variances
from keras_dl.diffusion.bound import normal_kl, pixel_log_likelihood, prior_kl, to_bits
from keras_dl.export import export
from keras_dl.export.runners import LiteRTRunner
from keras_dl.models.generative.unet import unet

TINY = dict(
    image_shape=(8, 8, 2), filters=4, multipliers=(1, 2), num_blocks=1, attention_sides=(4,), groups=2,
    dropout_rate=0.0, sampling_steps=10, seed=0,
)  # fmt: skip
# With one level: what is traced or compiled takes seconds for each block.
SMALL = TINY | dict(multipliers=(1,), attention_sides=())


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
                assert spread == pytest.approx(v, rel=0.04)


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
    assert float(tails[0]) == pytest.approx(np.log(1.17e-7), abs=0.01)


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


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_bound_of_gaussian_data_is_known(variance):
    """For pixels N(0, v) and the best net, each term is a number, and the sum is above the entropy."""
    process, v = diffusion.LinearBetas(200), 0.05
    model = DDPM(**TINY | dict(image_shape=(4, 4, 1), multipliers=(1,)), process=process, variance=variance)
    seen = tf.constant(_gaussian(process, v), "float32")
    model.guided = lambda x, t, labels=None, guidance=0.0: process.convert(
        tf.reshape(tf.gather(seen, t), (-1, 1, 1, 1)) * x, x, t, "data", "noise"
    )
    rng = np.random.default_rng(0)
    images = np.clip(np.round((rng.normal(size=(400, 4, 4, 1)) * v**0.5 + 1) * 127.5), 0, 255)
    found = model.bound(images)
    assert found["terms"].shape == found["mse"].shape == (200, 400)
    np.testing.assert_allclose(found["total"], tf.reduce_sum(found["terms"], 0) + found["prior"], rtol=1e-5)

    alpha, sigma = process.tables
    left = v * sigma**2 / (alpha**2 * v + sigma**2)  # variance of the data when x_t is known
    small = posterior_variances(process)[1:]
    used = small if variance == "fixed_small" else process.variances[1:]
    of_data = posterior_steps(process).of_data[1:]
    nats = 0.5 * (small / used - 1 - np.log(small / used) + of_data**2 * left[1:] / used)
    # Means of 6,400 squares.
    np.testing.assert_allclose(np.mean(found["terms"][1:], 1), nats / np.log(2), rtol=0.1)
    np.testing.assert_allclose(np.mean(found["mse"], 1), left * alpha**2 / sigma**2, rtol=0.1)
    # Bits of a normal density, less those of the width of a bin, 1 / 127.5.
    assert np.mean(found["total"]) > 0.5 * np.log2(2 * np.pi * np.e * v) + np.log2(127.5)


def test_a_learned_variance_lies_between_the_two():
    model = DDPM(**TINY, variance="learned", process="cosine")
    process = model.process.respaced(20)
    i = tf.constant([0, 1, 10, 19])
    x = tf.zeros((4, 2, 2, 1))
    small, large = np.log(np.maximum(posterior_variances(process), 1e-30)), np.log(process.variances)
    small[0] = small[1]
    for share, expected in ((-1.0, small), (1.0, large), (0.0, 0.5 * (small + large))):
        found = model.log_variance(process, i, tf.fill(x.shape, share), x)
        np.testing.assert_allclose(found[:, 0, 0, 0], expected[i.numpy()], rtol=1e-5, atol=1e-6)


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
    eta = float(setting) if sampler == "ddim" else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion.Betas, "respaced", lambda self, n: diffusion.RespacedBetas(self, n, spacing))
        _, path = model._sampled(start, draws.reshape(-1, 3, 3, 2), None, 10, sampler, eta, 0.0, num_kept=11)
    # float32 tables on their side: 1 - abar has lost four digits at the first steps.
    np.testing.assert_allclose(path[1:], np.moveaxis(oracle[f"path/{name}"], 2, -1), atol=1e-4)


# Samples.


def _pixels(n=8, shape=(8, 8, 2)):
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype("float32")


def _drawing(**overrides):
    """A model whose net returns something."""
    model = DDPM(**SMALL | overrides)
    randomized(model.network)
    model.average.set_weights(model.network.get_weights())
    return model


def test_equal_noise_gives_equal_images():
    model = _drawing(process="cosine")
    for settings in (dict(eta=0.0), dict(eta=0.7), dict(sampler="ancestral")):
        chains = model.draw_chains(3, seed=1, **settings)
        assert chains.shape == (3, model.num_draws(**settings), 128)
        images = model.sample(noise=chains, **settings)
        assert images.shape == (3, 8, 8, 2)
        assert 0 <= np.min(images) < np.max(images) <= 255
        drawn = model.sample(3, seed=4, **settings)
        np.testing.assert_array_equal(model.sample(3, seed=4, **settings), drawn)
        assert not np.array_equal(model.sample(3, **settings), model.sample(3, **settings))
    # No image depends on others of its batch.
    np.testing.assert_allclose(model.sample(noise=chains[1:2], **settings)[0], images[1], atol=1e-2)
    path = model.sample(noise=chains, num_kept=3, **settings)
    np.testing.assert_allclose(path[2], images, atol=1e-3)
    np.testing.assert_allclose(path[0], model.from_inner(chains[:, 0]).numpy().reshape(3, 8, 8, 2), atol=1e-4)
    assert (model.num_draws(), model.num_draws(eta=0.1), model.num_draws(20, "ancestral")) == (1, 10, 20)


def test_labels_and_guidance_reach_the_samples():
    model = _drawing(num_classes=3, variance="learned", sampler="ancestral")
    chains = model.draw_chains(2, seed=1)
    found = [model.sample(labels=labels, noise=chains) for labels in ([0, 0], [2, 2], None)]
    found.append(model.sample(labels=[0, 0], noise=chains, guidance=3.0))
    for i, some in enumerate(found):
        for other in found[:i]:
            assert not np.allclose(some, other, atol=1.0)
    # The net's own share of the variance is not extrapolated.
    x, t = tf.ones((2, 8, 8, 2)), tf.constant([3, 400])
    plain, guided = (model.guided(x, t, [0, 1], w) for w in (0.0, 2.0))
    np.testing.assert_allclose(guided[..., 2:], plain[..., 2:], rtol=1e-4, atol=1e-4)
    assert not np.allclose(guided[..., :2], plain[..., :2], atol=1e-3)


def test_what_users_call():
    model = _drawing(process="cosine", variance="learned")
    images, noise = _pixels(4), np.random.default_rng(1).normal(size=(4, 8, 8, 2)).astype("float32")
    t = tf.constant([0, 10, 500, 999])
    noisy = model.q_sample(images, t, noise)
    seen = model.denoise(noisy, t)
    again = model.process.perturb(seen["data"], t, seen["noise"])
    np.testing.assert_allclose(again, noisy, atol=1e-3)
    assert seen["log_variance"].shape == noisy.shape
    mean, variance = model.q_posterior(model.to_inner(images), noisy, t)
    assert mean.shape == noisy.shape
    np.testing.assert_allclose(mean[0], model.to_inner(images)[0], atol=1e-5)  # at 0, the data are known
    assert float(variance[0, 0, 0, 0]) == 0
    between = model.interpolate(images[0], images[1], 3, time=0)
    assert between.shape == (3, 8, 8, 2)
    # The net sees little noise at time 0, so that the ends are what it makes of the images.
    data = model.denoise(model.q_sample(images[:2], tf.constant([0, 0]), model.draw_noise(1, seed=0)), [0, 0])["data"]
    np.testing.assert_allclose(between[0], model.from_inner(data)[0], atol=1e-2)
    np.testing.assert_allclose(between[2], model.from_inner(data)[1], atol=1e-2)


def test_a_sample_is_one_file(tmp_path):
    """Ten deterministic steps in one WHILE; the same images as Keras from the same noise. The battery's case draws."""
    model = _drawing(process="cosine")
    path = tmp_path / "sample.tflite"
    report = export(model, path, signatures=["sample"], verify=False)
    assert report.ops["WHILE"] == 1
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    chains = model.draw_chains(2, seed=3).numpy()
    found = LiteRTRunner(path).serve("sample", noise=chains)["images"]
    expected = model.sample(noise=chains)
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(found / 255, expected / 255, atol=1e-4)


# Training.


@pytest.mark.parametrize(
    "policy",
    ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)],  # half a minute of compiling
)
def test_xla_trains_as_the_graph_on_equal_noise(policy):
    rng = np.random.default_rng(0)
    noise, times = tf.constant(rng.normal(size=(8, 8, 8, 2)), "float32"), tf.constant(rng.integers(0, 1000, 8), "int32")
    losses = {}
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = DDPM(**SMALL, dtype=policy)
        model.draw_noise = lambda count, num_steps=1, seed=None: noise
        object.__setattr__(model.process, "draw_times", lambda count, seed: times)
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit, run_eagerly=not jit)
        losses[jit] = model.fit(_pixels(), batch_size=8, epochs=3, verbose=0, shuffle=False).history["loss"]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4 if policy == "float32" else 1e-2)
    assert losses[True][-1] < losses[True][0]


def test_an_overflow_skips_a_step_and_leaves_the_average_finite():
    model = DDPM(**SMALL, dtype="mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3), initial_scale=2.0**100)
    model.compile(optimizer, run_eagerly=True)
    before = model.network.get_weights()
    model.fit(_pixels(), batch_size=8, verbose=0)
    assert float(model.optimizer.dynamic_scale) == 2.0**99
    for a, b, c in zip(before, model.network.get_weights(), model.average.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(c, a, atol=1e-6)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(image_shape=(9, 8, 1)), r"image_shape=\(9, 8, 1\): both sides must be multiples of 2"),
        (dict(image_shape=(28, 28, 1), multipliers=(1, 2, 2, 2)), "multiples of 8"),
        (dict(image_shape=(28, 28, 1), multipliers=(1, 2), patch_size=4), "multiples of 8: patch_size=4"),
        (dict(process=diffusion.CosineBetas(5)), "sampling_steps=10 is more than the 5 steps"),
        (dict(process="sigmoid"), "process='sigmoid' must be 'linear', 'cosine', or a"),
        (dict(guidance=2.0), r"guidance=2\.0 needs num_classes"),
    ],
)
def test_wrong_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DDPM(**TINY | arguments)


def test_wrong_samplers_are_refused():
    model = DDPM(**SMALL)
    for settings, message in (
        (dict(num_steps=0), "num_steps=0 must be an integer of at least 1"),
        (dict(num_steps=1001), "num_steps=1001 is more than the 1000 steps that were trained"),
        (dict(eta=-0.1), r"eta=-0\.1 must be"),
        (dict(sampler="euler"), "sampler='euler' must be one of 'ddim', 'ancestral'"),
        (dict(labels=[1, 1]), "num_classes is None"),
        (dict(num_kept=1), "num_kept=1 must be"),
    ):
        with pytest.raises(ValueError, match=message):
            model.sample(2, **settings)
    with pytest.raises(ValueError, match="num_images=None must be"):
        model.sample()
    with pytest.raises(
        ValueError, match=r"noise has the shape \(2, 3, 128\); these settings take \('num_images', 1, 128\)"
    ):
        model.sample(noise=np.zeros((2, 3, 128)))
    with pytest.raises(ValueError, match="time=1000 must be from 0 to 999"):
        model.interpolate(_pixels()[0], _pixels()[1], time=1000)
    with pytest.raises(ValueError, match="t has values from 5 to 1000; they must be from 0 to 999"):
        model.denoise(tf.zeros((2, 8, 8, 2)), tf.constant([5, 1000]))
    assert np.isfinite(model.sample(2, num_steps=1)).all()


def test_wrong_labels_are_refused():
    model = DDPM(**SMALL, num_classes=3)
    for labels, message in (
        ([0, 3], "labels has values from 0 to 3; num_classes=3 has the classes 0 to 2"),
        ([-1, 0], "labels has values from -1 to 0"),
        ([0, 1, 2], r"labels has the shape \(3,\); 2 images take \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.sample(2, labels=labels)
