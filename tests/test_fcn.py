"""FCN: offsets of the crops, bilinear kernels, published counts, any image size; and torchvision's outputs and loss."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl.initializers import Bilinear
from keras_dl.losses import PixelCrossentropy
from keras_dl.models.segmentation.fcn import FCN
from keras_dl.models.segmentation.fcn_resnet import FCNResNet
from keras_dl.models.vision.vgg import VGG

ORACLE = np.load(pathlib.Path(__file__).parent / "oracles" / "fcn.npz")
TINY = dict(num_classes=3, num_blocks=(1, 1, 1, 1, 1), filters=(4, 4, 6, 6, 8), hidden_dim=8)


def tiny(seed=0, **options):
    """A small net whose scores are not zero."""
    keras.utils.set_random_seed(seed)
    model = FCN((32, 32, 3), **(TINY | options))
    for layer in model.layers:
        if layer.name.startswith("score"):
            layer.kernel.assign(np.random.default_rng(seed).normal(size=layer.kernel.shape))
    return model


def counted(make):
    with keras.StatelessScope(initialize_variables=False):
        return sum(int(np.prod(w.shape)) for w in make().trainable_weights)


@pytest.mark.parametrize(("stride", "count"), [(32, 134_346_581), (16, 134_357_354), (8, 134_362_751)])
def test_vgg_presets_have_the_published_counts(stride, count):
    assert counted(lambda: FCN.from_preset(f"fcn{stride}s_vgg16")) == count


@pytest.mark.parametrize(
    ("preset", "weight", "count"),
    [("fcn_resnet50", 0.5, 35_322_218), ("fcn_resnet50", 0.0, 32_957_013), ("fcn_resnet101", 0.5, 54_314_346)],
)
def test_resnet_presets_have_the_published_counts(preset, weight, count):
    assert counted(lambda: FCNResNet.from_preset(preset, auxiliary_weight=weight)) == count


def test_the_bilinear_kernel_is_the_authors():
    for size, factor, center in ((64, 32, 31.5), (4, 2, 1.5), (3, 2, 1.0)):
        weights = 1 - np.abs(np.arange(size) - center) / factor
        kernel = Bilinear()((size, size, 3, 3)).numpy()
        np.testing.assert_allclose(kernel[:, :, 1, 1], np.outer(weights, weights), rtol=1e-6)
        assert not kernel[:, :, 0, 1].any()


def test_enlarging_is_tensorflows_bilinear_resize_inside():
    maps = np.random.default_rng(0).normal(size=(1, 6, 7, 2)).astype("float32")
    up = keras.layers.Conv2DTranspose(2, 8, 4, padding="same", use_bias=False, kernel_initializer=Bilinear())
    expected = tf.image.resize(maps, (24, 28))
    np.testing.assert_allclose(up(maps)[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], atol=1e-5)


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("padding", ["same", "paper"])
def test_any_size_and_shifts_by_the_stride(stride, padding):
    """Where the border does not reach, shifting an image by 32 pixels shifts its scores."""
    model = tiny(stride=stride, padding=padding)
    for shape in ((32, 32), (45, 71), (1, 1)):
        assert model(np.zeros((1, *shape, 3))).shape == (1, *shape, 3)
    # A score sees 404 pixels, and a pixel the scores of two strides.
    image = np.random.default_rng(1).integers(0, 256, (1, 640, 32, 3)).astype("float32")
    before, after = (np.asarray(model(x)) for x in (image, np.roll(image, 32, axis=1)))
    scale = np.abs(before).max()
    np.testing.assert_allclose(after[:, 320:352], before[:, 288:320], atol=1e-5 * scale)
    assert np.ptp(before[:, 288:320]) > 1e-2 * scale


@pytest.mark.parametrize(("stride", "offset"), [(32, 19), (16, 27), (8, 31)])
def test_crops_follow_from_the_maps_of_coordinates(stride, offset):
    """Middle of place i of a map, in pixels of the image, as a factor and an offset."""
    conv = lambda at, kernel, pad: (at[0], at[1] + at[0] * ((kernel - 1) / 2 - pad))  # noqa: E731
    pool = lambda at: (2 * at[0], at[1] + at[0] * 0.5)  # noqa: E731
    up = lambda at, factor: (at[0] / factor, at[1] - at[0] / factor * (factor - 0.5))  # noqa: E731
    at, pools = conv((1, 0), 3, 100), {}
    for stage in range(1, 6):
        at = pools[stage] = pool(at)
    at = conv(at, 7, 0)
    for stage, crop in ((4, 5), (3, 9))[: {32: 0, 16: 1, 8: 2}[stride]]:
        at = up(at, 2)
        factor, begin = pools[stage]
        assert factor == at[0]
        assert (at[1] - begin) / factor == crop
        at = (factor, begin + crop * factor)
    assert -up(at, stride)[1] == offset


def test_finer_nets_start_as_coarser_ones():
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("float32")
    coarse = tiny(stride=32, padding="paper")
    for stride in (16, 8):
        finer = FCN((32, 32, 3), stride=stride, padding="paper", **TINY)
        finer.take_weights(coarse)
        # Up by 2 and by 16 is not quite up by 32; what differs is small beside the scores.
        difference = np.abs(finer(images) - coarse(images)).mean() / np.abs(coarse(images)).mean()
        assert difference < 0.1
        finer.get_layer(f"score_pool_{4 if stride == 16 else 3}").bias.assign([1.0, 0.0, 0.0])
        assert np.abs(finer(images) - coarse(images)).max() > 0.1
    with pytest.raises(ValueError, match="other has the layer 'score_pool_4'"):
        coarse.take_weights(FCN((32, 32, 3), stride=16, **TINY))


def test_a_classifier_becomes_an_fcn():
    """The dense layers see a whole image of 224 pixels; fc6 sees the same at the place in the middle of the padding."""
    options = dict(num_blocks=(1,) * 5, filters=(4, 4, 4, 4, 4), hidden_dim=8)
    vgg, model = VGG((224, 224, 3), 5, **options), FCN((224, 224, 3), 2, stride=32, **options)
    entries, index = {}, 0
    for stage in range(1, 6):
        layer = vgg.get_layer(f"conv_{stage}_1")
        entries[f"features.{index}.weight"] = layer.kernel.numpy().transpose(3, 2, 0, 1)
        entries[f"features.{index}.bias"] = layer.bias.numpy()
        index += 3
    first = vgg.get_layer("dense_1").kernel.numpy().reshape(7, 7, 4, 8).transpose(3, 2, 0, 1).reshape(8, -1)
    second, last = (vgg.get_layer(name).kernel.numpy().T for name in ("dense_2", "head"))
    for name, kernel in (("0", first), ("3", second), ("6", last)):
        entries |= {f"classifier.{name}.weight": kernel, f"classifier.{name}.bias": np.zeros(len(kernel), "float32")}
    model.load_torchvision(entries)
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype("float32")
    features = keras.Model(vgg.input, vgg.get_layer("dense_2").output)(image)
    maps = keras.Model(model.input, model.get_layer("fc7").output)(image)
    np.testing.assert_allclose(maps[:, 3, 3], keras.ops.relu(features), rtol=1e-4, atol=1e-3)
    del entries["classifier.3.bias"]
    with pytest.raises(ValueError, match=r"classifier\.3\.bias"):
        model.load_torchvision(entries)


def test_outputs_and_loss_are_torchvisions():
    model = FCNResNet((45, 38, 3), 3, (1, 1, 2, 2), (4, 4, 4, 6), mean=0.0, std=1.0)
    weights = {name.removeprefix("weight/"): x for name, x in ORACLE.items() if name.startswith("weight/")}
    model.load_torchvision(weights)
    images, labels = np.moveaxis(ORACLE["images"], 1, -1), ORACLE["labels"]
    found = model(images)
    for ours, theirs in (("logits", "out"), ("auxiliary", "aux")):
        expected = np.moveaxis(ORACLE[theirs], 1, -1)
        np.testing.assert_allclose(found[ours], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    model.compile(loss=PixelCrossentropy(), metrics=["accuracy"])
    loss, _ = model.evaluate(images, labels, verbose=0)
    assert loss == pytest.approx(float(ORACLE["loss"]), rel=1e-4)


def test_ignored_pixels_and_class_weights():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(2, 5, 4, 3)).astype("float32"), random.integers(0, 3, (2, 5, 4))
    labels[0, :3] = 255
    weights = (1.0, 2.0, 0.5)
    chosen = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.minimum(labels, 2)[..., None], -1)[..., 0]
    kept = labels != 255
    w = np.where(kept, np.take(weights, np.minimum(labels, 2)), 0)
    assert float(PixelCrossentropy()(labels, logits)) == pytest.approx(chosen[kept].mean(), rel=1e-5)
    weighted = PixelCrossentropy(class_weights=weights)
    assert float(weighted(labels, logits)) == pytest.approx((w * chosen).sum() / w.sum(), rel=1e-5)
    assert float(PixelCrossentropy()(np.full((2, 5, 4), 255), logits)) == 0
    again = PixelCrossentropy.from_config(weighted.get_config())
    assert again.class_weights == weights


@pytest.mark.parametrize(
    ("kind", "jit_compile"),
    [
        ("vgg", False),
        ("resnet", False),
        # 12 and 14 s of compiling; the battery compiles a step of FCN
        pytest.param("vgg", True, marks=pytest.mark.slow),
        pytest.param("resnet", True, marks=pytest.mark.slow),
    ],
)
def test_it_learns_which_pixels_are_bright(kind, jit_compile):
    keras.utils.set_random_seed(0)
    if kind == "vgg":
        model = FCN(
            (32, 32, 3),
            2,
            num_blocks=(1,) * 5,
            filters=(8, 8, 8, 8, 8),
            hidden_dim=8,
            batch_normalization=True,
            dropout_rate=0.0,
        )
    else:
        model = FCNResNet((32, 32, 3), 2, (1, 1, 1, 1), (4, 4, 4, 4))
    labels = np.zeros((8, 32, 32), "int32")
    labels[:, 8:24, 4:20] = 1
    images = np.where(labels[..., None] > 0, 200.0, 50.0) * np.ones(3)
    labels[:, :2] = 255
    model.compile(keras.optimizers.Adam(1e-2), PixelCrossentropy(), jit_compile=jit_compile)
    losses = model.fit(images, labels, epochs=8, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


def kinds_of(num_classes):
    """A net of each kind, as small as can be."""
    sizes = dict(num_blocks=(1,) * 5, filters=(4,) * 5, hidden_dim=4, batch_normalization=True)
    yield FCN((32, 32, 3), num_classes, **sizes)
    yield FCNResNet((32, 32, 3), num_classes, (1, 1, 1, 1), (4, 4, 4, 4))


def test_wrong_data_are_named_and_leave_no_nan():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    labels = np.zeros((2, 32, 32), "int64")
    labels[:, :8], labels[:, 8:16] = 1, 255

    def with_label(number):
        wrong = labels.copy()
        wrong[1, -1, -1] = number
        return wrong

    for model in kinds_of(2):
        model.compile("sgd", PixelCrossentropy(), run_eagerly=True)
        for number in (2, -1, 254):
            for run in (model.fit, model.evaluate):
                with pytest.raises(
                    ValueError, match=rf"labels hold {number}; they must be integers in \[0, 2\), or 255"
                ):
                    run(images, with_label(number), verbose=0)
        for wrong in (labels[:, :16], labels[..., None]):
            with pytest.raises(ValueError, match=r"labels have the shape .* and images \(2, 32, 32, 3\)"):
                model.fit(images, wrong, verbose=0)
        for number, text in ((7, "7"), (0.5, "0.5"), (np.nan, "nan")):  # as numbers of float
            with pytest.raises(ValueError, match=rf"labels hold {text}; they must be integers"):
                model.evaluate(images, np.where(np.arange(32) < 31, labels, number).astype("float32"), verbose=0)
        model.evaluate(images, labels.astype("float32"), verbose=0)
        model.fit(images, labels.astype("uint8"), verbose=0)  # the fault of the data before is forgotten
        assert all(np.isfinite(w).all() for w in model.get_weights())
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), run_eagerly=True)
        model.evaluate(images, np.eye(2, dtype="uint8")[np.minimum(labels, 1)], verbose=0)


@pytest.mark.parametrize("index", [0, 1])
def test_one_class_scaled_pixels_and_sides_below_the_stride(index):
    images, labels = np.full((2, 32, 32, 3), 9.0, "float32"), np.zeros((2, 32, 32), "int32")

    def fit(images, labels):
        model = list(kinds_of(1))[index]
        model.compile("sgd", PixelCrossentropy(), run_eagerly=True)
        assert model.fit(images, labels, verbose=0).history["loss"] == [0.0]
        return model

    model = fit(images, labels)
    fit(images, labels + 255)  # nothing is judged
    assert all(np.isfinite(w).all() for w in model.get_weights())
    for sides in ((1, 1), (3, 40)):
        outputs = model(np.zeros((1, *sides, 3), "float32"))
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        assert logits.shape == (1, *sides, 1)
        assert np.isfinite(logits).all()
    with pytest.warns(UserWarning, match=r"raw pixels in \[0, 255\]"):
        fit(images / 255, labels)
    for wrong, message in ((images - 128, "from -119"), (images * np.nan, "finite")):
        with pytest.raises(ValueError, match=message):
            fit(wrong, labels)


def test_wrong_arguments_are_refused():
    for call, message in (
        (lambda: FCN((32, 32, 3), stride=4), "stride=4"),
        (lambda: FCN((32, 32, 3), padding="valid"), "padding='valid'"),
        (lambda: FCN((32, 32, 3), num_blocks=(1,), filters=(4,)), r"filters=\(4,\)"),
        (lambda: FCNResNet((32, 32, 3), num_blocks=(1, 1), filters=(4, 4)), r"filters=\(4, 4\)"),
        (lambda: FCNResNet((32, 32, 3), auxiliary_weight=-1.0), "auxiliary_weight=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
