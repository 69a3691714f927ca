"""Translation between two domains of images that are not paired, in the splits of TFDS's `cycle_gan`, for recipes.

`trainA`, `trainB`, `testA` and `testB` have a feature `image`. `Data.arrays` holds `test_a` and `test_b`, uint8, in the
order of the data set; `label_a` and `label_b` of digits; and `paired`, whether image `i` of both tests shows the same.
Own images of the form `domains` become the same: squares from the middle of images that are scaled to cover them.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_dl import metrics
from keras_dl.recipes.tasks import digit_judge, generation
from keras_dl.recipes.training import batches, pipelines
from keras_dl.recipes.training.recipe import Data, OptionError

SIDES = "AB"
# The sides of the judges of both domains. They see the pictures as their own data.
JUDGES = {"a": 32, "b": 8}
CROP, LOADED = 256, 286
MOST_TEST = 2000  # images of a set that are kept for the test


def unpaired(options, prepare, names) -> Data:
    """`Data` of pairs of batches of both domains, in orders of their own. The smaller set is shown again and again.

    Args:
        options: `Options`.
        prepare: function from an image and a seed to a training image of the model's size.
        names: of both domains.
    """
    builder = batches.open_dataset(options)
    most = batches.limit("train", options)

    def images(split, limit):
        dataset = builder.as_dataset(split=split, shuffle_files=False).take(limit)
        return dataset.map(lambda row: (sized(row["image"]),), tf.data.AUTOTUNE)

    train = [images(f"train{side}", most) for side in SIDES]
    for side, dataset in zip(SIDES, train, strict=True):
        if (count := int(dataset.cardinality())) < 2:
            raise ValueError(f"{options.dataset} has {count} image in train{side}; a domain needs at least 2.")
    return _data(options, builder, train, prepare, lambda image: image, _tests(builder, options), domains=names)


def own(options, fits, rule: str) -> Data:
    """`Data` of two own sets of images.

    Images of the model's size are trained on as they are. Others are scaled to cover 286/256 of it, and a square is cut
    out at random, as the authors do. None is mirrored.

    Args:
        options: `Options`.
        fits: function from a side to bool: whether the model takes it. By default images have `pipelines.OWN_SIDE`, or
            their own side if that is smaller, both are equal, and it fits.
        rule: str. What fits, in words, for errors.

    Raises:
        OptionError: if `--image-size` does not fit.
    """
    if options.image_size is not None and not fits(options.image_size):
        raise OptionError(f"--image-size {options.image_size}: the side of images for {options.recipe} is {rule}.")
    builder = batches.open_dataset(options)
    stored = builder.features["image"].shape
    shape = pipelines.own_shape(stored, fits=lambda x: x[0] == x[1] and fits(x[0]))
    shape = pipelines.sized(options, shape)

    def paths(split, domain):
        columns = builder.splits[split]
        return columns["image"][columns["label"] == domain][: batches.limit(split, options, None)]

    def cut(path):
        return pipelines.resize_and_crop(builder.decode("image", path), shape, margin=0)

    def prepare(path, seed):
        if tuple(stored) == tuple(shape) or not options.augment:
            return tf.cast(cut(path), tf.float32)
        larger = (*(round(side * LOADED / CROP) for side in shape[:2]), shape[-1])
        image = pipelines.resize_and_crop(builder.decode("image", path), larger, margin=0)
        return tf.image.stateless_random_crop(tf.cast(image, tf.float32), shape, seed)

    def in_memory(split):
        found = {}
        for domain, side in enumerate("ab"):
            rows = tf.data.Dataset.from_tensor_slices(paths(split, domain)[:MOST_TEST]).map(cut, tf.data.AUTOTUNE)
            found[f"test_{side}"] = np.stack(list(rows.as_numpy_iterator()))
        return found

    train = [tf.data.Dataset.from_tensor_slices((paths("train", domain),)) for domain in range(2)]
    arrays = in_memory("test") | {"paired": np.array(False)}
    others = dict(domains=builder.labels)
    if "validation" in builder.counts:
        others["validation"] = _pairs(*in_memory("validation").values())
    return _data(options, builder, train, prepare, cut, arrays, **others)


def _pairs(a, b):
    """Batches of an image of each domain; what one has more of is left out."""
    count = min(len(a), len(b))
    return tf.data.Dataset.from_tensor_slices((a[:count], b[:count])).batch(min(count, 50), True)


def _data(options, builder, train, prepare, served, arrays, **others) -> Data:
    """`Data` of two sets.

    Args:
        options: `Options`.
        builder: as `batches.open_dataset` returns it.
        train: two `tf.data.Dataset` of tuples of one: an image, or what `prepare` and `served` make one of.
        prepare: function from an element and a seed to a training image.
        served: function from an element to the image, uint8, as a signature takes it.
        arrays: as of `Data`.
        others: arguments of `Data`.
    """
    counts = [int(dataset.cardinality()) for dataset in train]
    larger = max(counts)

    def side(dataset, count, key):
        rounds = tf.data.Dataset.range(-(-larger // count))
        rows = rounds.flat_map(lambda n: batches.shuffled(dataset, tf.random.fold_in(key, tf.cast(n, tf.int32))))
        seeds = tf.random.fold_in(key, -1)

        def prepared(i, row):
            return prepare(row[0], tf.random.fold_in(seeds, tf.cast(i, tf.int32)))

        return rows.take(larger).enumerate().map(prepared, tf.data.AUTOTUNE)

    def epoch(number):
        keys = (batches.fold_in(options.seed, number, n) for n in range(2))
        sides = tuple(side(*each) for each in zip(train, counts, keys, strict=True))
        return tf.data.Dataset.zip(sides).batch(options.batch_size, drop_remainder=True)

    def calibration(samples):
        key = batches.fold_in(options.seed, -1)
        sides = [
            batches.shuffled(dataset, key).take(samples).map(lambda row: {"images": served(row)[None]})
            for dataset in train
        ]
        return dict(zip(("a_to_b", "b_to_a"), sides, strict=True))

    tests = arrays["test_a"], arrays["test_b"]
    return Data(
        train=epoch,
        test=_pairs(*tests),
        num_train=larger,
        num_test=sum(map(len, tests)),
        calibration=calibration,
        labels=(),
        input_shape=tests[0].shape[1:],
        input_range="uint8 pixels in [0, 255]",
        arrays=arrays,
        **batches.origin(builder),
        **others,
    )


def _tests(builder, options):
    """The test images of both domains, and what is known of them."""
    rows = {}
    for side in SIDES:
        dataset = builder.as_dataset(split=f"test{side}", shuffle_files=False).take(batches.limit("test", options))
        rows[side] = list(dataset.map(lambda row: row | {"image": sized(row["image"])}).as_numpy_iterator())
    paired = "code" in rows["A"][0]
    if paired:
        both = {row["code"] for row in rows["A"]} & {row["code"] for row in rows["B"]}
        rows = {
            side: sorted((row for row in found if row["code"] in both), key=lambda row: row["code"])
            for side, found in rows.items()
        }
    arrays = {f"test_{side.lower()}": np.stack([row["image"] for row in found]) for side, found in rows.items()}
    if options.dataset == "mnist_optdigits":
        arrays |= {f"label_{side.lower()}": np.array([row["label"] for row in found]) for side, found in rows.items()}
    return arrays | {"paired": np.array(paired)}


def sized(image):
    """An image as it is; a photograph, of which TFDS does not know the size, with 256x256 pixels: uint8."""
    if image.shape.is_fully_defined():
        return image
    image = tf.image.resize(tf.cast(image, tf.float32), (CROP, CROP), "bicubic", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)


def as_they_are(image, seed):
    """No augmentation."""
    return tf.cast(image, tf.float32)


def flipped_crop(image, seed):
    """The authors' augmentation of photographs: 286x286, a crop of 256x256, and a flip of half of them."""
    image = tf.image.resize(tf.cast(image, tf.float32), (LOADED, LOADED), "bicubic")
    seeds = tf.unstack(tf.random.split(seed))
    image = tf.image.stateless_random_crop(tf.clip_by_value(image, 0.0, 255.0), (CROP, CROP, 3), seeds[0])
    return tf.image.stateless_random_flip_left_right(image, seeds[1])


def translated(serve, data):
    """All test images in the other domain, by a model or a file: dict of arrays, `b` of those of A, and `a`."""
    return {
        "b": serve("a_to_b", images=data.arrays["test_a"])["images"],
        "a": serve("b_to_a", images=data.arrays["test_b"])["images"],
    }


def untouched(data):
    """The test images as they are, as if they were of the other domain."""
    return {"b": data.arrays["test_a"].astype("float32"), "a": data.arrays["test_b"].astype("float32")}


# Digits.


def seen_by_judge(images, domain):
    """Digits of 32x32 as the judge of a domain takes them: of optdigits, the means of the areas of its pixels."""
    return tf.image.resize(tf.cast(images, tf.float32), (JUDGES[domain],) * 2, "area").numpy()


def read(images, domain):
    """The classes that the judge of a domain sees: int `(n,)`."""
    return digit_judge.judge(JUDGES[domain]).look(seen_by_judge(images, domain))[1].argmax(-1)


def kept(images, data) -> dict[str, float]:
    """The share of test digits that the judge of the other domain reads as before: by that domain, `b` and `a`."""
    return {domain: float(np.mean(read(x, domain) == _labels(data, domain))) for domain, x in images.items()}


def _labels(data, domain):
    """Of the test images that are translated into a domain."""
    return data.arrays["label_a" if domain == "b" else "label_b"]


def confusion(images, data, domain):
    """Counts of digits: int `(10, 10)`, a row for what was translated, a column for what came out."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (_labels(data, domain), read(images, domain)), 1)
    return counts


def figures_of_digits(images, data) -> dict[str, float]:
    """What the report says of translated digits: both ways, and what to compare with. Names end in the direction."""
    names = {"b": "MNIST to optdigits", "a": "optdigits to MNIST"}
    nothing = kept(untouched(data), data)
    found = {}
    for domain, share in kept(images, data).items():
        real = data.arrays[f"test_{domain}"]
        count = min(len(real), len(images[domain]))
        random = np.random.default_rng(0).permutation(read(images[domain], domain))
        looked = [seen_by_judge(x[:count], domain) for x in (real, images[domain])]
        quality = digit_judge.quality(*looked, judge=digit_judge.judge(JUDGES[domain]))
        counts = confusion(images[domain], data, domain)
        wrong = counts * (1 - np.eye(10, dtype=int))
        shown, seen = np.unravel_index(wrong.argmax(), wrong.shape)
        values = {
            "kept": share,
            "kept without a translation": nothing[domain],
            "kept of a random pairing": float(np.mean(random == _labels(data, domain))),
            "accuracy of the judge on real digits": float(
                np.mean(read(real, domain) == data.arrays[f"label_{domain}"])
            ),
            "lowest share kept of a digit": float((np.diag(counts) / counts.sum(1)).min()),
            "most frequent mistake": f"{shown} read as {seen}: {wrong.max() / counts[shown].sum():.1%}",
            "class entropy, nats": quality["class_entropy"],
            "recall": quality["recall"],
            "digit-FID": quality["digit_fid"],
        }
        found |= {f"{name}, {names[domain]}": value for name, value in values.items()}
    return found


# Pairs, and photographs.


def distance_of_pairs(images, data) -> float:
    """The mean absolute difference from the true image of each pair, of both ways: pixels in [0, 1]."""
    return float(np.mean([np.abs(images[x] - data.arrays[f"test_{x}"]).mean() / 255 for x in "ab"]))


def ssim_of_pairs(images, data) -> dict[str, float]:
    """The mean structural similarity with the true image of each pair, by the domain that was reached."""
    found = {}
    for domain in "ab":
        metric = metrics.SSIM(max_value=255.0)
        metric.update_state(data.arrays[f"test_{domain}"].astype("float32"), images[domain])
        found[domain] = float(metric.result())
    return found


def distances_of_sets(images, data) -> dict[str, float]:
    """The Frechet distance of thumbnails of translated images from the test images of the domain, by that domain."""
    found = {}
    for domain, made in images.items():
        real = data.arrays[f"test_{domain}"]
        count = min(len(made), len(real))
        found[domain] = generation.thumbnail_distance(real[:count], made[:count])
    return found


def mean_distance_of_cycles(model, data, count=100) -> float:
    """The mean absolute difference of test images from themselves there and back, of both ways: pixels in [0, 1]."""
    values = []
    for domain in "ab":
        images = data.arrays[f"test_{domain}"][:count]
        _, back = model.cycle(images, domain)
        values.append(np.abs(keras.ops.convert_to_numpy(back) - images).mean() / 255)
    return float(np.mean(values))
