"""The recipe of FCN: images and their labels go through the pipeline together, folders are read, nets follow nets."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_dl.recipes import fcn
from keras_dl.recipes.datasets import DataError, hela_nuclei, mask_folders
from keras_dl.recipes.tasks import segmentation
from keras_dl.recipes.training import recipe, runner

RECIPE = recipe.find("fcn")
SIDE = 128  # of a tile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data set of small frames: nuclei are three times as bright as their ground."""
    rng = np.random.default_rng(0)
    masks = np.zeros((1, 256, 900), "uint16")
    for number in range(1, 60):
        y, x = rng.integers(0, 230), rng.integers(0, 870)
        masks[0, y : y + 24, x : x + 28] = number
    frames = np.where(masks > 0, 34000, 33000) + rng.integers(0, 100, masks.shape)
    path = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hela_nuclei, "read_frames", lambda name: frames if name == "img" else masks)
        tfds.builder("hela_nuclei", data_dir=path).download_and_prepare()
    return str(path)


def test_nuclei_are_brighter_in_each_view(folder):
    options = RECIPE.options(batch_size=5, data_dir=folder)
    data = RECIPE.load_data(options, "fcn8s")
    assert (data.num_train, data.num_test, data.labels) == (10, 4, ("background", "nucleus"))
    epochs = [list(data.train(tf.constant(i)).as_numpy_iterator()) for i in (0, 0, 1)]
    for (images, labels), (again, same), (later, _) in zip(*epochs, strict=True):
        assert images.shape == (5, SIDE, SIDE, 1)
        assert labels.shape == (5, SIDE, SIDE)
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, same)
        assert not np.array_equal(images, later)
        assert set(np.unique(labels)) <= {0, 1, 255}
        # Edges are read between the pixels.
        bright = images[..., 0] > 0.5 * images.max(axis=(1, 2, 3))[:, None, None]
        judged = labels != 255
        assert ((labels == 1) == bright)[judged].mean() > 0.97
    assert any((labels == 255).any() for _, labels in epochs[0])
    images, labels = next(iter(data.test))
    assert images.dtype == tf.uint8
    assert not (labels == 255).numpy().any()
    (sample,) = data.calibration(1).as_numpy_iterator()
    assert (sample["images"].shape, sample["images"].dtype) == ((1, SIDE, SIDE, 1), np.uint8)


def test_a_view_is_the_image_at_its_place():
    """Of whole images in units of themselves, nothing changes but the side."""
    image = np.zeros((40, 60, 1), "uint8")
    image[5:20, 10:30] = 200
    labels = (image[..., 0] > 0).astype("int32")
    sides = set()
    for i in range(24):
        seed = tf.constant([0, i])
        view, found = segmentation.random_view(image, labels, seed, (30, 30), 0.5, 1.0, turned=True)
        view, found = view.numpy()[..., 0], found.numpy()
        assert found.shape == (30, 30)
        assert 150 <= (found != 255).sum() <= 600  # 10 x 15 to 20 x 30 pixels
        high, low = view[found == 1], view[found == 0]
        assert np.median(high) > 150
        assert np.median(low) < 5
        y, x = np.nonzero(found == 1)
        sides.add(((np.ptp(y) + 1 > np.ptp(x) + 1), y.mean() > 15))
    assert len(sides) > 2, "turned both ways"


def test_the_bars_of_a_letterbox_are_not_judged():
    image, labels = np.full((20, 40, 3), 7, "uint8"), np.tile(np.int32([1, 2]), (20, 20))
    boxed, found = segmentation.fitted(image, labels, (40, 40))
    np.testing.assert_array_equal(found[10:30], labels)
    assert (found.numpy() == 255).sum() == 20 * 40
    assert (boxed.numpy()[10:30] == 7).all()
    assert (boxed.numpy()[:10] == 114).all()


def test_pets_go_through_the_same_pipeline(tmp_path):
    def photos(builder, **options):
        """Four files; TFDS's own random ones have boxes that it refuses."""
        rng = np.random.default_rng(0)
        sizes = [(30 + 7 * i, 60 - 5 * i) for i in range(4)]
        files = [
            (tf.io.encode_jpeg(rng.integers(0, 256, (*size, 3), "uint8")), tf.io.encode_png(mask))
            for size in sizes
            for mask in [rng.integers(1, 4, (*size, 1), "uint8")]
        ]
        names = ("image", "segmentation_mask")
        return tf.data.Dataset.from_tensor_slices(dict(zip(names, map(list, zip(*files, strict=True)), strict=True)))

    with tfds.testing.mock_data(as_dataset_fn=photos):
        options = RECIPE.options("oxford_iiit_pet", batch_size=2, image_size=48, data_dir=str(tmp_path))
        data = RECIPE.load_data(options, "fcn8s")
        images, labels = next(iter(data.train(tf.constant(0))))
        test_images, test_labels = next(iter(data.test))
        next(iter(data.calibration(1)))
    assert data.labels == ("background", "pet")
    assert images.shape == (2, 48, 48, 3)
    assert test_images.shape == (4, 48, 48, 3)
    for x in (labels, test_labels):
        assert set(np.unique(x)) == {0, 1, 255}


def test_which_pixels_are_a_pet():
    assert segmentation.LAYOUTS["oxford_iiit_pet"].classes(np.uint8([[1, 2, 3]])).numpy().tolist() == [[1, 0, 255]]


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for split, names in (("train", ("a", "b", "c")), ("val", ("d",))):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            mask = np.zeros((30 + i, 40), "uint8")
            mask[10:20, 10:20], mask[9] = 15, 255
            file = Image.fromarray(mask, "P")
            file.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())  # the colors mean nothing
            file.save(root / f"SegmentationClass/{name}.png")
            Image.new("RGB", (40, 30 + i), (200, 100, 50)).save(root / f"JPEGImages/{name}.jpg")
    return root


def test_masks_of_voc(voc, tmp_path):
    options = RECIPE.options("voc/2012", batch_size=3, image_size=40, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "fcn32s")
    assert (data.num_train, data.num_test, len(data.labels)) == (3, 1, 21)
    assert data.labels[15] == "person"
    images, labels = next(iter(data.test))
    assert images.shape == (1, 40, 40, 3)
    assert set(np.unique(labels)) == {0, 15, 255}
    assert (labels.numpy() == 15).sum() == 100
    assert next(iter(data.train(tf.constant(0))))[1].shape == (3, 40, 40)
    model = RECIPE.build_model(data, options, "fcn32s")
    assert (model.stride, model.num_classes) == (32, 21)


def test_what_is_missing_of_voc_is_named(voc, tmp_path):
    with pytest.raises(DataError, match=r"voc/2012 is not downloaded: TensorFlow Datasets has its boxes.*--data-dir"):
        RECIPE.load_data(RECIPE.options("voc/2012", data_dir=str(tmp_path / "other")), "fcn8s")
    mask = voc / "SegmentationClass/d.png"
    Image.fromarray(np.full((30, 40), 21, "uint8")).save(mask)
    with pytest.raises(DataError, match=r"d\.png has the class 21; it must be in \[0, 21\)"):
        mask_folders.read_mask(mask, 21)
    Image.new("RGB", (40, 30)).save(mask)
    with pytest.raises(DataError, match="mode RGB"):
        mask_folders.read_mask(mask, 21)
    mask.unlink()
    with pytest.raises(DataError, match=r"d\.png is missing, and .*val\.txt names it"):
        mask_folders.voc2012(voc)
    (voc / "ImageSets/Segmentation/train.txt").write_text("")
    with pytest.raises(DataError, match=r"train\.txt names no image"):
        mask_folders.voc2012(voc)
    with pytest.raises(DataError, match="is not the folder VOC2012"):
        mask_folders.voc2012(tmp_path)


def test_the_metric_and_the_baselines(folder):
    data = RECIPE.load_data(RECIPE.options(data_dir=folder), "fcn8s")
    truth = {images.tobytes(): labels for images, labels in data.test.as_numpy_iterator()}

    def perfect(name, images):
        assert name == "segment"
        return {"probabilities": np.eye(2)[truth[images.tobytes()]]}

    assert RECIPE.evaluate(perfect, data) == 1
    assert segmentation.by_threshold(data) == 1, "of such images, where Otsu is right"
    share = np.mean([labels == 0 for labels in truth.values()])
    assert segmentation.by_majority(data) == pytest.approx(share / 2)
    # All ways to divide an image in two.
    image = np.random.default_rng(0).integers(0, 40, 200).astype("uint8")
    within = [sum(part.var() * part.size for part in (image[image <= t], image[image > t])) for t in range(image.max())]
    assert segmentation.otsu(image) == np.argmin(within)
    assert segmentation.otsu(np.full((3, 3), 9, "uint8")) == 0


def test_each_net_starts_from_the_coarser_one(folder, tmp_path, monkeypatch):
    """A run of two nets on tiles of 32 pixels: the order of the trainings, the saved model, and the picture."""
    assert RECIPE.tasks["hela_nuclei"].order == ("fcn32s", "fcn16s", "fcn8s")
    monkeypatch.setattr(fcn, "SMALL", dict(filters=(4, 4, 4, 4, 4), num_blocks=(1,) * 5, hidden_dim=8))
    begun, order, build = [], [], fcn.build_model

    def eager(*arguments):
        order.append(arguments[-1])
        return build(*arguments)

    def begin(model, variant, earlier):
        before = model.get_layer("fc6").kernel.numpy()
        fcn.begin(model, variant, earlier)
        source = earlier.get(fcn.COARSER.get(variant))
        begun.append((variant, sorted(earlier), not np.array_equal(before, model.get_layer("fc6").kernel)))
        if source is not None:
            np.testing.assert_array_equal(source.get_layer("fc6").kernel, model.get_layer("fc6").kernel)

    changed = recipe.dataclasses.replace(RECIPE, build_model=eager, begin=begin)
    options = changed.options(
        epochs=1, batch_size=10, image_size=32, variants=("fcn8s", "fcn16s"), jit="off", smoke=True, data_dir=folder
    )
    document = runner.train(changed, options, tmp_path / "run")
    assert order == ["fcn16s", "fcn8s"]
    assert begun == [("fcn16s", [], False), ("fcn8s", ["fcn16s"], True)]
    assert list(document["variants"]) == ["fcn8s", "fcn16s"]
    assert set(document["figures"]) == {f"{name}, mean IoU without the background" for name in order}
    assert keras.saving.load_model(tmp_path / "run/model.keras").stride == 8
    assert min(tf.io.decode_png((tmp_path / "run/picture.png").read_bytes()).shape[:2]) >= 600
