"""CycleGAN: counts, the receptive field, the history of images, the schedule, and a step of the authors' nets."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import load_oracle, state_dict
from reference import policy, write_safetensors

from keras_dl import CycleGAN
from keras_dl.layers import InstanceNormalization
from keras_dl.models.generative import cyclegan_nets
from keras_dl.models.generative.image_history import ImageHistory
from keras_dl.recipes.training import resume
from keras_dl.schedules import LinearDecay

TINY = dict(image_shape=(16, 16, 1), filters=2, num_blocks=1, discriminator_filters=2, discriminator_layers=1)


def tiny(seed=0, **overrides):
    keras.utils.set_random_seed(seed)
    return CycleGAN(**(TINY | overrides))


def compiled(model, *optimizers, **options):
    model.compile(*(optimizers or (keras.optimizers.Adam(2e-3, beta_1=0.5),)), **{"run_eagerly": True} | options)
    return model


def pixels(n=8, shape=(16, 16, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype("float32")


def values(variables):
    return [np.array(v.numpy()) for v in variables]


def equal(some, others):
    return [np.array_equal(a, b) for a, b in zip(some, others, strict=True)]


# Nets.


def count(net):
    return sum(math.prod(v.shape) for v in net.trainable_variables)


@pytest.mark.parametrize(
    ("preset", "channels", "generator", "discriminator"),
    [
        ("zhu2017_256", 3, 11_378_179, 2_764_737),
        ("zhu2017_256", 1, 11_365_633, 2_762_689),
        ("zhu2017_128", 3, 7_837_699, 2_764_737),
    ],
)
def test_presets_have_the_counts_of_their_code(preset, channels, generator, discriminator):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        side = CycleGAN.presets[preset]["image_shape"][0]
        model = CycleGAN.from_preset(preset, image_shape=(side, side, channels))
    assert [count(net) for net in model.generators] == [generator] * 2
    assert [count(net) for net in model.discriminators] == [discriminator] * 2


def test_weights_start_as_in_the_code():
    model = tiny(filters=16, discriminator_filters=32)
    for net in (*model.generators, *model.discriminators):
        for variable in net.trainable_variables:
            spread, n = {"kernel": 0.02, "bias": 0.0}[variable.name], math.prod(variable.shape)
            # Five standard errors of a mean and of a deviation.
            assert abs(np.mean(variable)) <= 5 * spread / math.sqrt(n)
            assert abs(np.std(variable) - spread) <= 5 * spread / math.sqrt(2 * n)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (3, 70)])
def test_a_logit_sees_a_patch(layers, side, monkeypatch):
    """The gradient of one logit is not 0 in exactly 70x70 pixels; normalization adds means of the whole map."""
    monkeypatch.setattr(InstanceNormalization, "call", lambda self, images: images)
    net = cyclegan_nets.discriminator(2, 4, layers, "judge")
    images = tf.random.stateless_normal((1, 112, 112, 2), (0, 1))
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = net(images)
        logit = logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]
    seen = np.abs(tape.gradient(logit, images).numpy()[0]).sum(-1) > 0
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    assert rows[-1] - rows[0] + 1 == columns[-1] - columns[0] + 1 == side == cyclegan_nets.patch_size(layers)
    assert seen.sum() == side**2


def test_logits_of_256_pixels():
    assert cyclegan_nets.discriminator(3, 64, 3, "judge").compute_output_shape((None, 256, 256, 3)) == (None, 30, 30, 1)


@pytest.mark.parametrize("shape", [(8, 8), (12, 20), (36, 8)])
def test_any_size_that_4_divides(shape):
    model = tiny()
    images = pixels(2, (*shape, 1))
    for translate in (model.a_to_b, model.b_to_a):
        found = translate(images)
        assert found.shape == images.shape
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        assert 0 <= np.min(found) < np.max(found) <= 255
        np.testing.assert_allclose(translate(images[:1].astype("uint8")), found[:1], atol=1e-3)


def test_a_cycle_is_there_and_back():
    model = tiny()
    images = pixels(2)
    there, back = model.cycle(images)
    np.testing.assert_array_equal(there, model.a_to_b(images))
    np.testing.assert_array_equal(back, model.b_to_a(there))
    there, back = model.cycle(images, domain="b")
    np.testing.assert_array_equal(there, model.b_to_a(images))
    np.testing.assert_array_equal(back, model.a_to_b(there))


# Losses.


def test_generators_that_change_nothing_lose_nothing():
    model = compiled(tiny())
    model.generator_ab = model.generator_ba = keras.layers.Identity()
    data, made = model.examples((pixels(), pixels(seed=1))), {}
    loss, figures = model.generator_loss(data, made)
    assert float(figures["cycle_loss"]) == float(figures["identity_loss"]) == 0
    assert float(loss) == pytest.approx(float(figures["adversarial_loss"]), rel=1e-6)
    np.testing.assert_array_equal(made["fakes"][1], data[0])


def test_the_losses_are_those_of_one_image_at_a_time():
    """What stands in one batch is not mixed: means over the images of the losses of each alone."""
    model = tiny(identity_weight=0.25, cycle_weight=3.0)
    data = model.examples((pixels(3), pixels(3, seed=1)))
    loss, figures = model.generator_loss(data, {})
    alone = [model.generator_loss(tuple(x[i : i + 1] for x in data), {})[1] for i in range(3)]
    for name, value in figures.items():
        assert float(value) == pytest.approx(np.mean([float(each[name]) for each in alone]), rel=1e-5)
    expected = figures["adversarial_loss"] + 3.0 * figures["cycle_loss"] + 0.75 * figures["identity_loss"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    without = tiny(identity_weight=0.0, cycle_weight=3.0)
    loss, others = without.generator_loss(data, {})
    assert float(others["identity_loss"]) == 0
    assert float(others["cycle_loss"]) == pytest.approx(float(figures["cycle_loss"]), rel=1e-5)
    assert float(loss) == pytest.approx(float(others["adversarial_loss"] + 3.0 * others["cycle_loss"]), rel=1e-6)


def test_an_evaluation_leaves_the_history_alone():
    model = compiled(tiny())
    found = model.evaluate(pixels(4), pixels(4, seed=1), batch_size=4, verbose=0, return_dict=True)
    data = model.examples((pixels(4), pixels(4, seed=1)))
    made = {}
    assert found["generator_loss"] == pytest.approx(float(model.generator_loss(data, made)[0]), rel=1e-5)
    assert found["loss"] == pytest.approx(float(model._judge(data, made["fakes"])[0]), rel=1e-5)
    assert int(model.history_a.count) == int(model.history_b.count) == 0
    assert not np.any(model.history_a.images)


# The history.


class PoolTwin:
    """The authors' pool in NumPy, with draws that are given."""

    def __init__(self, size):
        self.size, self.images = size, []

    def query(self, images, exchange, places):
        found = []
        for image, swap, place in zip(images, exchange, places, strict=True):
            if self.size == 0:
                found.append(image)
            elif len(self.images) < self.size:
                self.images.append(image)
                found.append(image)
            elif swap:
                found.append(self.images[place])
                self.images[place] = image
            else:
                found.append(image)
        return np.stack(found)


@pytest.mark.parametrize(("size", "batch"), [(0, 2), (1, 3), (4, 1), (4, 3), (5, 8), (3, 3)])
def test_the_history_is_the_authors_pool(size, batch):
    """Image by image, also where one batch fills it, or takes out what it has just put in."""
    rng = np.random.default_rng(batch)
    history, twin = ImageHistory(size, (2, 1, 1)), PoolTwin(size)
    step = tf.function(history)
    for number in range(12):
        images = (100 * number + rng.normal(size=(batch, 2, 1, 1))).astype("float32")
        exchange, places = rng.random(batch) > 0.5, rng.integers(0, max(size, 1), batch).astype("int32")
        found = step(tf.constant(images), tf.constant(exchange), tf.constant(places))
        np.testing.assert_array_equal(found, twin.query(images, exchange, places))
        assert int(history.count) == len(twin.images)
        if twin.images:
            np.testing.assert_array_equal(history.images[: len(twin.images)], np.stack(twin.images))


def test_the_history_returns_a_new_image_with_probability_a_half():
    """Else one of the 50, each as often. So an image stays for 100 steps in the mean."""
    model, batch, steps = tiny(history_size=50), 40, 250
    history = tf.function(ImageHistory(50, (1, 1, 1)))
    images = np.arange(batch * (steps + 2), dtype="float32").reshape(-1, batch, 1, 1, 1)
    history(images[0], *model.draw_exchanges(batch))
    history(images[1], *model.draw_exchanges(batch))
    fresh, taken = 0, []
    for each in images[2:]:
        exchange, places = model.draw_exchanges(batch)
        found = history(each, exchange, places)
        fresh += np.sum(np.asarray(found) == each)
        taken += np.asarray(places)[np.asarray(exchange)].tolist()
    n = batch * steps
    assert abs(fresh - n / 2) < 5 * math.sqrt(n / 4)  # five standard deviations
    shares = np.bincount(taken, minlength=50)
    assert len(shares) == 50
    chi_square = np.sum((shares - len(taken) / 50) ** 2) / (len(taken) / 50)
    assert chi_square < 49 + 5 * math.sqrt(2 * 49)


# Training.


def test_the_rate_of_200_epochs():
    rate = LinearDecay(2e-4, steps_per_epoch=7)
    for epoch in (0, 50, 99, 100, 150, 199, 250):
        expected = 2e-4 * max(0.0, 1 - max(0, epoch + 1 - 100) / 101)
        for step in (7 * epoch, 7 * epoch + 6):
            assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert LinearDecay.from_config(rate.get_config()).get_config() == rate.get_config()
    with pytest.raises(ValueError, match="steps_per_epoch=0"):
        LinearDecay(1e-3, 0)


def given(model, exchange, places):
    """Makes the model draw these, one after the other: `(steps, 2, batch)`, for the histories of A and of B."""
    queue = iter(
        [
            (tf.constant(e), tf.constant(p, tf.int32))
            for s, q in zip(exchange, places, strict=True)
            for e, p in zip(s, q, strict=True)
        ]
    )
    model.draw_exchanges = lambda count: next(queue)
    return model


def test_xla_trains_as_without_it_on_equal_exchanges():
    results = []
    rng = np.random.default_rng(0)
    exchange, places = tf.constant(rng.random((4, 4)) > 0.5), tf.constant(rng.integers(0, 5, (4, 4)), tf.int32)
    data = tf.data.Dataset.from_tensor_slices((pixels(8), pixels(8, seed=1))).batch(4, drop_remainder=True)
    for jit in (False, True):
        model = tiny(history_size=5)

        def draw(count, step=model.step_count):
            return tf.gather(exchange, step.value), tf.gather(places, step.value)

        model.draw_exchanges = draw
        compiled(model, keras.optimizers.SGD(1e-3), run_eagerly=not jit, jit_compile=jit)
        results.append(model.fit(data, epochs=2, verbose=0).history)
        assert model.train_function is not None
    for name, expected in results[0].items():
        np.testing.assert_allclose(results[1][name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_reloaded_model_goes_on_as_if_it_had_never_stopped(tmp_path):
    """Bit by bit: weights, both optimizers with schedules and loss scales, histories, and the draws from them."""
    model = tiny(history_size=3, dtype="mixed_float16", seed=1)
    compiled(model, keras.optimizers.Adam(LinearDecay(1e-3, 2, 1, 3), beta_1=0.5), keras.optimizers.RMSprop(1e-3))
    data, options = (pixels(4), pixels(4, seed=1)), dict(batch_size=2, shuffle=False, verbose=0)
    model.fit(*data, epochs=1, **options)
    resume.save(tmp_path / "state.npz", model, resume.Checkpoint(1, [{}], 0.0))
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    other = tiny(seed=7, history_size=3, dtype="mixed_float16")
    compiled(other, keras.optimizers.Adam(LinearDecay(1e-3, 2, 1, 3), beta_1=0.5), keras.optimizers.RMSprop(1e-3))
    resume.restore(tmp_path / "state.npz", other)  # the checkpoint of the recipes
    for each in (copy, other):
        assert all(equal(values(resume.state_variables(each)), values(resume.state_variables(model))))
    histories = [each.fit(*data, epochs=1, **options).history for each in (model, copy)]
    assert histories[0] == histories[1]
    assert all(equal(values(resume.state_variables(copy)), values(resume.state_variables(model))))
    assert int(model.history_a.count) == 3
    assert np.any(model.history_b.images)


def test_an_overflow_skips_a_step_and_leaves_no_nan():
    """Scales that float16 cannot hold: both are halved, no weight moves, and the histories keep finite images."""
    model = compiled(tiny(dtype="mixed_float16"))
    optimizers = model.optimizer, model.discriminator_optimizer
    for optimizer in optimizers:
        optimizer.dynamic_scale.assign(1e38)
    before = values(model.trainable_variables)
    logs = model.train_on_batch(pixels(), pixels(seed=1), return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert [float(x.dynamic_scale) for x in optimizers] == pytest.approx([5e37, 5e37])
    assert all(equal(values(model.trainable_variables), before))
    assert np.isfinite(model.history_a.images).all()


# Pairs of batches.


def test_unpaired_sets_of_different_sizes():
    few, many = (np.arange(n, dtype="float32").reshape(n, 1, 1, 1) for n in (3, 8))
    epochs = [list(CycleGAN.unpaired(few, many, batch_size=2, seed=seed).as_numpy_iterator()) for seed in (0, 0, 1)]
    sides = [[np.concatenate(side).ravel() for side in zip(*epoch, strict=True)] for epoch in epochs]
    for a, b in sides:
        assert sorted(b) == list(range(8))
        assert sorted(a[:3]) == sorted(a[3:6]) == [0, 1, 2]
    np.testing.assert_array_equal(sides[0], sides[1])
    assert not np.array_equal(sides[0], sides[2])
    dataset = CycleGAN.unpaired(few, many, batch_size=8)
    first, second = (np.concatenate([b.ravel() for _, b in dataset.as_numpy_iterator()]) for _ in range(2))
    assert not np.array_equal(first, second)  # the next epoch has another order


def test_wrong_data_is_refused():
    model = compiled(tiny())
    a, b = pixels(4), pixels(4, seed=1)
    for arguments, message in (
        ((a[:1], b[:1]), "x has 1 images; a set needs at least 2"),
        ((a, b[:1]), "y has 1 images; a set needs at least 2"),
        ((a, b[:3]), r"x has 4 images and y has 3.*CycleGAN.unpaired"),
        ((a,), r"y=None: CycleGAN is trained on images of two domains"),
        ((a, b[:, :12]), r"y has images of shape \(12, 16, 1\); image_shape is \(16, 16, 1\)"),
        ((a / 255, b), r"images of A has values from 0.* raw pixels in \[0, 255\]"),
        ((a, b / 127.5 - 1), r"images of B has values from -1.* raw pixels"),
        ((a, np.full_like(b, np.nan)), "images of B .* all must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*arguments, batch_size=2, verbose=0)
    with pytest.raises(ValueError, match="sample_weight was given"):
        model.fit(a, b, sample_weight=np.ones(4), verbose=0)
    with pytest.raises(ValueError, match=r"images_b has 1 images; a set needs at least 2"):
        CycleGAN.unpaired(a, b[:1])
    with pytest.raises(ValueError, match=r"different shapes, \(16, 16, 1\) and \(12, 16, 1\)"):
        CycleGAN.unpaired(a, b[:, :12])
    with pytest.raises(ValueError, match="batch_size=5 is more than the 4 images"):
        CycleGAN.unpaired(a, b, batch_size=5)
    with pytest.raises(ValueError, match=r"optimizer=None: .* discriminator_optimizer alone does not do"):
        tiny().compile(discriminator_optimizer="adam")
    with pytest.raises(ValueError, match=r"images.shape=\(4, 18, 16, 1\): 4 must divide both sides"):
        model.a_to_b(np.zeros((4, 18, 16, 1)))
    with pytest.raises(ValueError, match=r"images has the shape \(4, 16, 16, 3\)"):
        model.b_to_a(np.zeros((4, 16, 16, 3)))
    with pytest.raises(ValueError, match="domain='c'"):
        model.cycle(a, domain="c")
    with pytest.raises(ValueError, match=r"image_shape=\(16, 16, 1\) is too small for discriminator_layers=3.* 24"):
        tiny(discriminator_layers=3)


# Torch.


@pytest.fixture(scope="module")
def oracle():
    return load_oracle("cyclegan")


NETS = ("g_a", "g_b", "d_a", "d_b")


def theirs(dtype="float64"):
    """In float64, since the sign of a difference of images is a gradient: rounding of 1e-7 may turn it over."""
    with policy(dtype):
        return CycleGAN((32, 32, 2), 2, 1, discriminator_filters=2, history_size=3)


def channels_last(images):
    return np.moveaxis(images, -3, -1)


def test_torch_weights_give_the_same_outputs(oracle, tmp_path):
    model = theirs()
    for name in NETS:
        write_safetensors(tmp_path / f"{name}.safetensors", state_dict(oracle, f"before/{name}"))
    model.load_torch(tmp_path / "g_a.safetensors", tmp_path / "g_b.safetensors")
    model.load_torch(d_a=tmp_path / "d_a.safetensors", d_b=tmp_path / "d_b.safetensors")
    a, b = channels_last(oracle["real"][0])
    for found, expected in ((model.a_to_b(a[:1]), oracle["fake_b"]), (model.b_to_a(b[:1]), oracle["fake_a"])):
        np.testing.assert_allclose(found, 127.5 + 127.5 * channels_last(expected), atol=2e-3)
    for net, images, expected in (
        (model.discriminator_b, b, oracle["logits_b"]),
        (model.discriminator_a, a, oracle["logits_a"]),
    ):
        np.testing.assert_allclose(net(model.scaling(images)), channels_last(expected), rtol=1e-4, atol=1e-4)


def test_torch_training_steps(oracle):
    """Two steps: every loss, every weight, and so the images that came back from the histories."""
    model = theirs()
    model.load_torch(*(state_dict(oracle, f"before/{name}") for name in NETS))
    # Their first pool is of images of B; here the history of A draws first.
    given(model, oracle["exchange"][:, ::-1], oracle["places"][:, ::-1])
    compiled(model, keras.optimizers.SGD(0.02))
    names = ("loss", "generator_loss", "adversarial_loss", "cycle_loss", "identity_loss")
    for (a, b), expected in zip(channels_last(oracle["real"]), oracle["losses"], strict=True):
        logs = model.train_on_batch(a, b, return_dict=True)
        np.testing.assert_allclose([logs[name] for name in names], expected, rtol=1e-4)
        model.reset_metrics()
    expected = theirs()
    expected.load_torch(*(state_dict(oracle, f"after/{name}") for name in NETS))
    for found, right in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-5, err_msg=found.path)


def test_statistics_of_old_files_are_dropped(oracle):
    model = theirs()
    weights = {name: state_dict(oracle, f"before/{name}") for name in NETS}
    old = {"model.2.running_mean": np.zeros(2), "model.10.conv_block.6.running_var": np.ones(8)}
    old |= {"model.12.running_mean": np.zeros(4), "model.12.num_batches_tracked": np.zeros(())}
    judge = {"model.3.running_var": np.ones(4)}
    with pytest.warns(UserWarning, match="4 statistics of instance normalization were dropped"):
        model.load_torch(g_a=weights["g_a"] | old, d_b=weights["d_b"] | judge)
    kernel = model.generator_ab.get_layer("block_0_1").kernel.numpy()
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), weights["g_a"]["model.10.conv_block.5.weight"])
    before = values(model.weights)
    # What no normalization has is an error still, and so is a scale of one.
    for wrong in ("model.1.running_mean", "model.2.weight"):
        with pytest.raises(ValueError, match=f"unknown: g_a: {wrong}"):
            model.load_torch(g_a=weights["g_a"] | {wrong: np.zeros(2)})
    with pytest.raises(ValueError, match=r"missing: d_a: model\.0\.weight \(2, 2, 4, 4\)"):
        model.load_torch(g_a=weights["g_a"], d_a={})
    with pytest.raises(ValueError, match="give the weights of at least one net"):
        model.load_torch()
    assert all(equal(values(model.weights), before))


# Instance normalization.


def maps(shape=(3, 5, 4, 2), seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


@pytest.mark.parametrize("affine", [False, True])
def test_instance_normalization_is_its_formula(affine):
    x = maps()
    layer = InstanceNormalization(epsilon=0.1, affine=affine)
    layer.build(x.shape)
    expected = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 0.1)
    if affine:
        layer.gamma.assign([2.0, -1.0])
        layer.beta.assign([0.5, 3.0])
        expected = expected * [2.0, -1.0] + [0.5, 3.0]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert len(layer.weights) == 2 * affine
    assert InstanceNormalization.from_config(layer.get_config()).get_config() == layer.get_config()


def test_instance_normalization_forgets_contrast_and_brightness():
    """Of each image and channel alone: so of what a generator sees, only the pattern matters."""
    x = maps()
    change = np.array([2.0, 0.5, 7.0], "float32")[:, None, None, None]
    layer = InstanceNormalization()
    np.testing.assert_allclose(layer(x * change + change), layer(x), atol=1e-4)
    np.testing.assert_allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)


def test_instance_normalization_refuses_a_single_pixel():
    with pytest.raises(ValueError, match=r"images has the shape \(3, 1, 1, 2\); .* at least two pixels"):
        InstanceNormalization()(np.zeros((3, 1, 1, 2), "float32"))
    with pytest.raises(ValueError, match=r"images has the shape \(3, 2\)"):
        InstanceNormalization()(np.zeros((3, 2), "float32"))
    with pytest.raises(ValueError, match="epsilon=0 must be"):
        InstanceNormalization(epsilon=0)
    assert np.isfinite(InstanceNormalization()(np.ones((1, 1, 2, 1), "float32"))).all()


def test_instance_normalization_in_half_precision_has_statistics_in_float32():
    x = maps((1, 64, 64, 2)) * 100 + 1000  # whose squares no float16 holds
    found = InstanceNormalization(dtype="mixed_float16")(x)
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
    np.testing.assert_allclose(found, InstanceNormalization()(x.astype("float16").astype("float32")), atol=4e-3)
