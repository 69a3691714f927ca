"""StyleGAN and StyleGAN2: counts, penalties, styles, growth, and refusals."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversarial import compiled, pixels, values
from keras import ops

from keras_dl import StyleGAN, StyleGAN2
from keras_dl.models.generative.projection import pyramid_distance
from keras_dl.models.generative.stylegan import at_level

TINY = dict(
    image_shape=(8, 8, 1), noise_dim=4, style_dim=3, mapping_layers=1, base_filters=16, max_filters=2, group_size=2
)
SHAPE = TINY["image_shape"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def trainable(nets):
    return sum(math.prod(v.shape) for net in nets for v in net.trainable_variables)


@pytest.mark.parametrize(
    ("cls", "preset", "generator", "discriminator"),
    [
        (StyleGAN2, "config_f_256", 30_034_338, 28_864_129),
        (StyleGAN2, "config_f_1024", 30_370_060, 29_012_513),
        (StyleGAN, "karras2018_1024", 26_219_627, 23_087_249),
        # More sizes of the same nets.
        pytest.param(StyleGAN2, "config_f_512", 30_276_583, 28_982_849, marks=pytest.mark.slow),
        pytest.param(StyleGAN2, "ada_paper256", 24_767_458, 24_001_089, marks=pytest.mark.slow),
        pytest.param(StyleGAN, "karras2018_256", 26_086_229, 23_052_353, marks=pytest.mark.slow),
    ],
)
def test_presets_have_the_published_counts(cls, preset, generator, discriminator):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone, no memory
        model = cls.from_preset(preset, averaging=0.0)
    assert (trainable(model.generators), trainable(model.discriminators)) == (generator, discriminator)


# Penalties.


def with_judge(model, judge):
    model.judge = lambda images, training=False: judge((images - 127.5) / 127.5)
    return model


def test_r1_in_closed_form_and_against_finite_differences():
    images = pixels(6, SHAPE)
    direction = normal(*SHAPE)
    linear = with_judge(StyleGAN2(**TINY), lambda x: ops.sum(x * direction, axis=(1, 2, 3)))
    assert float(linear.r1(images)) == pytest.approx(np.square(direction).sum(), rel=1e-5)
    penalty, figures = linear.r1_penalty(images)
    assert float(penalty) == pytest.approx(16 * 10 / 2 * np.square(direction).sum(), rel=1e-5)
    assert set(figures) == {"r1"}

    model = StyleGAN2(**TINY | dict(group_size=1))
    slopes = np.zeros((2, *SHAPE))
    for place in np.ndindex(SHAPE):
        move = np.zeros(SHAPE, "float32")
        move[place] = 8.0  # in pixels; the leaky rectifiers make the net linear but for kinks
        ends = [model.judge(images[:2] + sign * move) for sign in (1, -1)]
        slopes[(slice(None), *place)] = (ends[0] - ends[1]) / (2 * 8.0 / 127.5)
    expected = np.square(slopes).sum((1, 2, 3)).mean()
    assert float(model.r1(images[:2])) == pytest.approx(expected, rel=0.03)


def test_path_lengths_of_a_linear_generator():
    """`x = sum_l A_l w_l`: the slopes by `w_l` are `A_l^T y`, whatever the style."""
    model = StyleGAN2(**TINY)
    matrices = normal(model.num_styles, TINY["style_dim"], math.prod(SHAPE))

    def images(styles):
        return 127.5 * tf.reshape(tf.einsum("bld,ldp->bp", styles, matrices), (-1, *SHAPE)) + 127.5

    model.training_images = images
    styles, y = normal(5, model.num_styles, 3), normal(5, *SHAPE, seed=1)
    slopes = np.einsum("ldp,bp->bld", matrices, y.reshape(5, -1))
    expected = np.sqrt(np.square(slopes).sum(2).mean(1))
    np.testing.assert_allclose(model.path_lengths(tf.constant(styles), tf.constant(y)), expected, rtol=1e-4)

    model.draw_directions = lambda count: tf.constant(y[:count])
    model.path_length.assign(3.0)
    penalty, _ = model.path_penalty(2)
    mean = 3.0 + 0.01 * (expected[:2].mean() - 3.0)
    assert float(model.path_length) == pytest.approx(mean, rel=1e-5)
    assert float(penalty) == pytest.approx(4 * 2 * np.square(expected[:2] - mean).mean(), rel=1e-3)
    directions = np.asarray(StyleGAN2(**TINY, seed=1).draw_directions(4000))
    assert directions.std() == pytest.approx(1 / 8, rel=0.01)  # one over the root of 8 x 8 pixels


def test_lazy_optimizers():
    """With an interval of k, c = k / (k + 1): the rate is c times as high, and decays are taken to the power c."""
    first, second = StyleGAN2(**TINY).optimizers(0.002)
    assert float(first.learning_rate) == pytest.approx(0.002 * 4 / 5)
    assert float(second.learning_rate) == pytest.approx(0.002 * 16 / 17)
    assert (first.beta_1, second.beta_1) == (0, 0)
    assert (first.beta_2, second.beta_2) == pytest.approx((0.99**0.8, 0.99 ** (16 / 17)))
    for each in StyleGAN2(**TINY, r1_weight=0.0, path_length_weight=0.0).optimizers(0.002):
        assert (float(each.learning_rate), each.beta_2) == (pytest.approx(0.002), 0.99)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])  # 40 s to compile
def test_lazy_steps_run_when_due_and_without_another_trace(jit):
    model = StyleGAN2(**TINY, r1_interval=3, path_length_interval=2)
    traces = []
    loss = model.generator_loss
    model.generator_loss = lambda *arguments: traces.append(1) or loss(*arguments)
    compiled(model, *model.optimizers(), run_eagerly=False, jit_compile=jit)
    history = model.fit(tf.data.Dataset.from_tensor_slices(pixels(28)).batch(4, drop_remainder=True), verbose=0).history
    assert np.isfinite(list(history.values())).all()
    # Steps 0 to 6: path length in 0, 2, 4, 6; R1 in 0, 3, 6.
    assert (int(model.optimizer.iterations), int(model.discriminator_optimizer.iterations)) == (7 + 4, 7 + 3)
    assert len(traces) == 1
    assert float(model.path_length) > 0


def test_float16_survives_its_penalties():
    """The penalties' inner gradients are not scaled: both scales stay as they were."""
    # Small weights, or the scaled gradients would be beyond float16 at first.
    keras.utils.set_random_seed(0)
    weights = dict(r1_weight=0.01, path_length_weight=0.01)
    model = StyleGAN2(**TINY, **weights, r1_interval=1, path_length_interval=1, dtype="mixed_float16")
    compiled(model, *model.optimizers())
    scales = [float(x.dynamic_scale) for x in (model.optimizer, model.discriminator_optimizer)]
    logs = [model.train_on_batch(pixels(4, seed=i), return_dict=True) for i in range(2)]
    assert np.isfinite([list(log.values()) for log in logs]).all()
    assert [float(x.dynamic_scale) for x in (model.optimizer, model.discriminator_optimizer)] == scales
    assert int(model.discriminator_optimizer.iterations) == 4
    reference = StyleGAN2(**TINY)
    reference.set_weights(model.get_weights())
    assert float(model.r1(pixels(4))) == pytest.approx(float(reference.r1(pixels(4))), rel=0.02)


# Styles.


@pytest.fixture(scope="module")
def drawn():
    """A StyleGAN2 whose noise has a strength, with a mean style, and two batches of styles."""
    model = StyleGAN2(**TINY | dict(image_shape=(16, 16, 1)), averaging=0.0)
    for i, variable in enumerate(model.synthesis.trainable_variables):
        variable.assign(variable + 0.3 * normal(*variable.shape, seed=i))
    model.mean_style.assign(ops.mean(model.map(normal(500, 4, seed=9))[:, 0], axis=0))
    return model, model.map(normal(2, 4)), model.map(normal(2, 4, seed=1))


def test_truncation(drawn):
    model, styles, _ = drawn
    noise = normal(2, 4)
    mean = np.tile(model.mean_style, (2, model.num_styles, 1))
    np.testing.assert_array_equal(model.map(noise, truncation=0.0), mean)
    images = model.generate(noise, truncation=0.0)
    np.testing.assert_array_equal(images[0], images[1])  # one image, that of the mean style
    np.testing.assert_array_equal(images, model.synthesize(mean))
    np.testing.assert_allclose(model.map(noise, 0.3), 0.7 * mean + 0.3 * np.asarray(styles), rtol=1e-5, atol=1e-6)
    cut = np.asarray(model.map(noise, 0.0, cutoff=2))
    np.testing.assert_array_equal(cut[:, :2], mean[:, :2])
    np.testing.assert_array_equal(cut[:, 2:], styles[:, 2:])


def features(model, styles):
    """The outputs of all layers that take a style, in their order."""
    names = [f"{kind}_{side}" for side in (4, 8, 16) for kind in ("up", "conv", "rgb") if (kind, side) != ("up", 4)]
    net = keras.Model(model.synthesis.inputs, [model.synthesis.get_layer(name).output for name in names])
    maps = [ops.repeat(x, len(styles), axis=0) for x in model.noise_maps]
    return dict(zip(names, net([styles, *maps]), strict=True))


def test_a_style_changes_only_what_follows_it(drawn):
    """Layer 3 is the first at 16x16, and the one whose style the colors of 8x8 have."""
    model, styles, others = drawn
    before, after = features(model, styles), features(model, model.mix(styles, others, 3))
    same = {name: np.array_equal(before[name], after[name]) for name in before}
    assert same == {
        "conv_4": True,
        "rgb_4": True,
        "up_8": True,
        "conv_8": True,
        "rgb_8": False,
        "up_16": False,
        "conv_16": False,
        "rgb_16": False,
    }
    np.testing.assert_array_equal(model.mix(styles, others, 0), others)
    np.testing.assert_array_equal(model.mix(styles, others, 2, 2), styles)
    middle = np.asarray(model.mix(styles, others, 1, 3))
    np.testing.assert_array_equal(middle[:, 1:3], others[:, 1:3])
    np.testing.assert_array_equal(middle[:, [0, 3, 4]], np.asarray(styles)[:, [0, 3, 4]])


def test_noise_changes_nothing_at_first_and_something_later(drawn):
    model, styles, _ = drawn
    some, others = (model.synthesize(styles, model.draw_noise_maps(2, seed=seed)) for seed in (1, 2))
    assert np.abs(some - others).max() > 1
    np.testing.assert_array_equal(model.synthesize(styles), model.synthesize(styles, model.noise_maps))
    for cls in (StyleGAN, StyleGAN2):
        new = cls(**TINY)
        styles = new.map(normal(2, 4))
        np.testing.assert_array_equal(new.synthesize(styles), new.synthesize(styles, new.draw_noise_maps(2, seed=3)))
        np.testing.assert_array_equal(new.synthesize(styles), cls.generate(new, normal(2, 4)))


def test_interpolation(drawn):
    model, styles, others = drawn
    line = model.interpolate(styles[0], others[0], 5)
    np.testing.assert_array_equal(line[0], styles[0])
    np.testing.assert_array_equal(line[4], others[0])
    np.testing.assert_allclose(line[1], 0.75 * styles[0] + 0.25 * others[0], rtol=1e-6)


def test_projection_finds_an_image_of_the_model(drawn):
    model, styles, _ = drawn
    target = model.synthesize(styles)
    found, distances = model.project(target, steps=60)
    assert found.shape == styles.shape
    np.testing.assert_array_equal(found[:, 0], found[:, -1])  # one style for all layers
    assert distances.shape == (60,)
    assert distances[-5:].mean() < 0.2 * distances[0]
    nearer, others = model.project(target, steps=60, per_layer=True)
    assert np.abs(nearer[:, 0] - nearer[:, -1]).max() > 0
    assert others[-1] < 0.2 * others[0]
    difference = normal(3, 8, 8, 2)
    halves = [difference.reshape(3, 8 // n, n, 8 // n, n, 2).mean((2, 4)) for n in (1, 2)]
    expected = np.mean([np.square(x).mean((1, 2, 3)) for x in halves], axis=0)
    np.testing.assert_allclose(pyramid_distance(tf.constant(difference), 0.0 * difference), expected, rtol=1e-5)


def test_mixing_in_training():
    model = StyleGAN2(**TINY, mixing_rate=0.75, seed=0)
    crossovers = np.array([int(model.draw_crossover()) for _ in range(400)])
    # Layers 1 to L - 1 with 0.75, all L of the first style with 0.25: within 4 deviations.
    assert np.mean(crossovers == model.num_styles) == pytest.approx(0.25, abs=0.09)
    assert set(crossovers) == set(range(1, model.num_styles + 1))
    noises = iter([normal(6, 4), normal(6, 4, seed=1)])
    model.draw_noise = lambda count, seed=None: next(noises)
    model.draw_crossover = lambda: 2
    styles = model.training_styles(6)
    first, second = (model.mapping(normal(6, 4, seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(styles[:, 1], first)
    np.testing.assert_array_equal(styles[:, 2], second)
    np.testing.assert_allclose(model.mean_style, 0.005 * np.mean(first, axis=0), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("cls", [StyleGAN, StyleGAN2])
def test_both_generator_nets_are_averaged(cls):
    model = cls(**TINY, averaging=0.5)
    compiled(model, *model.optimizers())
    expected = [values(net.trainable_variables) for net in model.generators]
    for n in range(1, 3):
        model.train_on_batch(pixels(4, seed=n))
        beta = min(0.5, (1 + n) / (10 + n))
        for old, net in zip(expected, model.generators, strict=True):
            old[:] = [beta * a + (1 - beta) * b.numpy() for a, b in zip(old, net.trainable_variables, strict=True)]
    for old, (_, average) in zip(expected, model.averages, strict=True):
        for a, b in zip(old, average.weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.abs(model(normal(2, 4)) - model(normal(2, 4), training=True)).max() > 0


@pytest.mark.parametrize("cls", [StyleGAN, StyleGAN2])
def test_evaluation_has_both_losses(cls):
    model = cls(**TINY)
    compiled(model, *model.optimizers())
    logs = model.evaluate(pixels(4), batch_size=2, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "generator_loss", "real_logit", "fake_logit"}
    assert np.isfinite(list(logs.values())).all()


# Growth.


def test_levels_follow_the_images_that_were_seen():
    model = StyleGAN(**TINY | dict(image_shape=(32, 32, 1), base_filters=32), first_side=8, growing_images=100)
    levels = [model.level_after(n) for n in (0, 99, 100, 150, 200, 300, 325, 400, 10_000)]
    assert levels == [2, 2, 2, 1.5, 1, 1, 0.75, 0, 0]
    assert float(model.level) == 2
    model = StyleGAN(**TINY, first_side=4, growing_images=4)
    compiled(model, *model.optimizers())
    model.train_on_batch(pixels(4))
    assert (int(model.images_seen), float(model.level)) == (4, 1)
    model.train_on_batch(pixels(2))
    assert (int(model.images_seen), float(model.level)) == (6, 0.5)
    crossovers = {int(model.draw_crossover()) for _ in range(30)}
    assert crossovers <= {1, 2, 3, 4}


def test_the_nets_at_whole_levels():
    """At level 1, image and logits are those of half the size; at 0, those of the grown nets; between, a mixture."""
    model = StyleGAN(**TINY | dict(group_size=1), averaging=0.0)
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(variable + 0.3 * normal(*variable.shape, seed=i))
    styles, x = model.map(normal(2, 4)), pixels(2, SHAPE)
    maps = [ops.repeat(m, 2, axis=0) for m in model.noise_maps]

    def at(level):
        model.level.assign(level)
        return np.asarray(model.draw(model.synthesis, styles, maps)), np.asarray(model.judge(x))

    (whole, a), (half, b), (small, c) = at(0.0), at(0.5), at(1.0)
    np.testing.assert_allclose(half, (whole + small) / 2, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(small, small[:, ::2, ::2].repeat(2, 1).repeat(2, 2), atol=1e-3)
    grown = keras.Model(model.synthesis.inputs, model.synthesis.get_layer("rgb_8").output)
    np.testing.assert_allclose(whole, 127.5 + 127.5 * grown([styles, *maps, tf.zeros((2, 1))]), atol=1e-3)
    # The logits of the smaller net see pixels of half the size alone.
    blurred = x.reshape(2, 4, 2, 4, 2, 1).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(model.judge(blurred), c, rtol=1e-4, atol=1e-5)
    assert np.abs(b - a).min() > 0
    served = model.serving_signatures(2)["synthesize"].function
    assert len({float(level) for level in (model.level,)}) == 1
    np.testing.assert_allclose(
        served(styles=styles, **{f"noise_{i}": m for i, m in enumerate(maps)})["images"],
        np.clip(small, 0, 255),
        atol=1e-3,
    )
    model.level.assign(0.0)
    served = model.serving_signatures(2)["synthesize"].function
    np.testing.assert_allclose(
        served(styles=styles, **{f"noise_{i}": m for i, m in enumerate(maps)})["images"],
        np.clip(whole, 0, 255),
        atol=1e-3,
    )


def test_real_images_at_a_level():
    x = normal(2, 8, 8, 1)
    halves = x.reshape(2, 4, 2, 4, 2, 1).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    quarters = x.reshape(2, 2, 4, 2, 4, 1).mean((2, 4)).repeat(4, 1).repeat(4, 2)
    for level, expected in ((0.0, x), (1.0, halves), (1.25, 0.75 * halves + 0.25 * quarters), (2.0, quarters)):
        np.testing.assert_allclose(at_level(tf.constant(x), tf.constant(level), 2), expected, atol=1e-6)


# Wrong use.


def test_wrong_data_is_refused():
    model = StyleGAN2(**TINY)
    compiled(model, *model.optimizers())
    with pytest.raises(ValueError, match=r"a batch of 1 cannot be divided into groups of group_size=2"):
        model.fit(pixels(1), batch_size=1, verbose=0)
    with pytest.raises(ValueError, match=r"a batch of 3 .* drop what does not fill a batch"):
        model.fit(pixels(3), batch_size=3, verbose=0)
    for wrong in (pixels(4) / 127.5 - 1, 2 * pixels(4)):
        with pytest.raises(ValueError, match="raw pixels"):
            compiled(StyleGAN2(**TINY), "sgd").fit(wrong, batch_size=4, verbose=0)
    with pytest.raises(ValueError, match="optimizer=None: StyleGAN2 needs one for its generators"):
        model.compile(discriminator_optimizer="adam")


def test_wrong_calls_are_refused():
    model = StyleGAN2(**TINY)
    noise, styles = normal(2, 4), np.zeros((2, model.num_styles, 3), "float32")
    for call, message in (
        (lambda: model.map(normal(2, 5)), r"noise has the shape \(2, 5\); it must be \(batch, 4\)"),
        (lambda: model.map(noise, truncation=float("nan")), r"truncation=nan must be a number in \[-10, 10\]"),
        (lambda: model.map(noise, 0.5, cutoff=9), r"cutoff=9 must be a number of layers from 0 to 4"),
        (lambda: model.synthesize(styles[:, 1:]), r"styles has the shape \(2, 3, 3\); it must be \(batch, 4, 3\)"),
        (lambda: model.synthesize(styles, model.noise_maps[1:]), r"noise_maps has the shapes"),
        (lambda: model.mix(styles, styles, 3, 2), r"first=3, last=2: the layers are 0 to 4"),
        (lambda: model.interpolate(styles[0], styles[1], 1), r"steps=1 must be at least 2"),
        (lambda: model.project(pixels(2), steps=0), r"steps=0"),
        (lambda: model.project(pixels(2) / 255), r"project takes raw pixels"),
        (lambda: model.project(pixels(2, (8, 8, 2))), r"images has the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
