"""The judges of generated digits: small classifiers of 28x28, 8x8 and 32x32, whose weights come with the package.

The 64 features of a judge are what the Frechet distance, precision and recall of generated digits are measured in. It
is no Inception net: the distance, "digit-FID", cannot be compared with an Inception FID, nor that of one judge with
that of the other. The same weights judge every model.

    python -m keras_dl.recipes.tasks.digit_judge        trains it again, and writes digit_judge.npz beside this file
    python -m keras_dl.recipes.tasks.digit_judge 8      the same of digit_judge_8.npz; and 32

The judge of 28x28 was trained on the 4,000 training digits of mnist_5k, each moved a little in each epoch, with the
seed 0. It reads 98.6% of the 1,000 test digits, with weights in float16, whose hash begins with f99bb85cb57f56b0.

The judge of 8x8 was trained on the 1,447 training digits of optdigits in the same way. It reads 99.4% of the 350 test
digits, and its hash begins with 7c7570b67b07f480. (The judge of 28x28 reads at most 83.4% of those, enlarged: they are
by other writers, from another country.)

The judge of 32x32 was trained on the 4,000 digits of MNIST in mnist_optdigits, which are upright and in another frame,
in the same way. It reads 98.7% of the 1,000 test digits, and its hash begins with b6394fb4f45fc517.
"""

import functools
import hashlib
import pathlib
import sys
import types

import keras
import numpy as np
import tensorflow as tf

from keras_dl import metrics
from keras_dl.files import read_arrays, replacing

_FOLDER = pathlib.Path(__file__).parent
FILES = {28: _FOLDER / "digit_judge.npz", 8: _FOLDER / "digit_judge_8.npz", 32: _FOLDER / "digit_judge_32.npz"}
# Channels, kernel size and stride of the convolutions, and the largest shift of a training digit, in pixels.
LARGE = ((16, 5, 2), (32, 3, 2), (48, 3, 2))
NETS = {28: (LARGE, 1.0), 8: (((24, 3, 1), (32, 3, 2), (48, 3, 2)), 0.5), 32: (LARGE, 1.0)}
DATASETS = {28: "mnist_5k", 8: "optdigits", 32: "mnist_optdigits"}
SURE = 0.9  # a probability of a class, from which on the judge is sure of a digit


class Judge:
    """A frozen classifier.

    Args:
        side: int. 28, 8 or 32.
        weights: list of float arrays: those of `network`.
        accuracy: float. Share of the test digits of its data set that it reads right.
    """

    def __init__(self, side, weights, accuracy):
        self.side = side
        self.net = network(side)
        self.net.set_weights([x.astype("float32") for x in weights])
        self.accuracy = accuracy
        self.hash = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in weights)).hexdigest()[:16]

    def look(self, images):
        """What it makes of digits.

        Args:
            images: `(batch, height, width, 1)`, in [0, 255], 0 is paper; of the judge's side, or larger with a
                margin, which is cut.

        Returns:
            `(features, probabilities)`: float32, `(batch, 64)` and `(batch, 10)`.

        Raises:
            ValueError: if the images have another shape.
        """
        images = np.asarray(images, "float32")
        height, width = images.shape[1:3] if images.ndim == 4 else (0, 0)
        side = self.side
        if min(height, width) < side or images.shape[-1] != 1:
            raise ValueError(
                f"images has the shape {images.shape}; it must be (batch, {side} or more, {side} or more, 1)."
            )
        top, left = (height - side) // 2, (width - side) // 2
        features, logits = self.net.predict(images[:, top : top + side, left : left + side], batch_size=250, verbose=0)
        return features, np.asarray(keras.ops.softmax(logits))


def network(side=28):
    """Pixels in [0, 255] to 64 features, and logits of 10 classes. float32 under any policy."""
    options = dict(dtype="float32")
    images = keras.Input((side, side, 1))
    hidden = keras.layers.Rescaling(1 / 255, **options)(images)
    for channels, size, stride in NETS[side][0]:
        # (batch, 14, 14, 16), (batch, 7, 7, 32), (batch, 4, 4, 48); of 8x8: (8, 8, 24), (4, 4, 32), (2, 2, 48)
        hidden = keras.layers.Conv2D(channels, size, stride, "same", activation="relu", **options)(hidden)
    hidden = keras.layers.Flatten(**options)(hidden)  # (batch, 768), or (batch, 192)
    hidden = keras.layers.Dropout(0.25, **options)(hidden)
    features = keras.layers.Dense(64, "relu", **options)(hidden)
    logits = keras.layers.Dense(10, **options)(keras.layers.Dropout(0.25, **options)(features))
    return keras.Model(images, (features, logits))


@functools.cache
def judge(side: int = 28) -> Judge:
    """The judge of digits of a side, 28, 8 or 32, with the weights of the package."""
    arrays = read_arrays(FILES[side], "the judge's weights", "Install the package again.")
    return Judge(side, [arrays[f"weight_{i:02d}"] for i in range(len(arrays) - 1)], float(arrays["accuracy"]))


def judge_of(images) -> Judge:
    """The judge of the side of some images: that of 8x8 for these, else that of 28x28."""
    return judge(8 if np.shape(images)[1:3] == (8, 8) else 28)


def digit_fid(real, generated) -> float:
    """The Frechet distance of two sets of digits in the features of the judge.

    Args:
        real, generated: `(rows, height, width, 1)`, in [0, 255]. As many rows each, or the value means nothing beside
            others.
    """
    return metrics.frechet_distance(*(judge_of(real).look(images)[0] for images in (real, generated)))


def quality(real, generated, judge=None) -> dict[str, float]:
    """All figures of generated digits.

    Args:
        real, generated: as of `digit_fid`.
        judge: `Judge`. None for that of the images' side.

    Returns:
        dict of float: `digit_fid`; `precision` and `recall`, which is the share of real digits with something like them
        among the generated ones, and falls if a generator collapses; `class_entropy` in nats, ln 10 = 2.303 if all
        classes are as frequent; `sure`, the share of generated digits of which the judge is at least 90% sure.
    """
    judge = judge or judge_of(real)
    features, _ = judge.look(real)
    generated_features, probabilities = judge.look(generated)
    shares = np.bincount(probabilities.argmax(-1), minlength=10) / len(probabilities)
    found = metrics.precision_recall(features, generated_features)
    return {
        "digit_fid": metrics.frechet_distance(features, generated_features),
        "precision": found.precision,
        "recall": found.recall,
        "class_entropy": float(np.sum(shares * -np.log(np.maximum(shares, 1e-12)))),
        "sure": float(np.mean(probabilities.max(-1) >= SURE)),
    }


def _domain(options, pixels, **changes):
    """What `train` needs of the digits of one domain of `mnist_optdigits`, which is no data set of classes."""
    from keras_dl.recipes.training import augment, batches

    builder = batches.open_dataset(options)
    splits = [list(builder.as_dataset(split=split).as_numpy_iterator()) for split in ("trainA", "testA")]
    arrays, test = ([np.stack([row[key] for row in rows]) for key in ("image", "label")] for rows in splits)

    def epoch(number):
        key = batches.fold_in(options.seed, number)

        def moved(i, images, labels):
            seeds = tf.random.split(tf.random.fold_in(key, tf.cast(i, tf.int32)), options.batch_size)
            change = functools.partial(augment.affine, pixels=pixels / 28 * images.shape[1], **changes)
            pairs = (images, seeds)
            return tf.map_fn(lambda pair: change(*pair), pairs, fn_output_signature=tf.float32), labels

        return (
            batches.shuffled_batches(tuple(arrays), options.batch_size, key)
            .enumerate()
            .map(lambda i, batch: moved(i, *batch))
        )

    steps = len(arrays[0]) // options.batch_size
    test = tf.data.Dataset.from_tensor_slices(tuple(test)).batch(250)
    return types.SimpleNamespace(
        train=epoch, test=test, num_train=len(arrays[0]), steps=lambda options: steps * options.epochs
    )


def train(side=28, epochs=60):
    """Trains a judge, and writes its file. Weights are kept in float16."""
    from keras_dl.recipes.training import pipelines, recipe, runner

    changes = dict(pixels=NETS[side][1], degrees=10, zoom=0.1, shear=0.15)
    if side == 32:
        options = recipe.Options("cyclegan", DATASETS[side], epochs, 64)
        data = _domain(options, **changes)
    else:
        options = recipe.Options("cnn", DATASETS[side], epochs, 64)
        data = pipelines.augmented_images(options, **changes)
    keras.utils.set_random_seed(options.seed)
    net = network(side)
    classifier = keras.Model(net.input, net.output[1])
    classifier.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, data.steps(options))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    steps = data.num_train // options.batch_size
    classifier.fit(runner.epochs(data, 0, epochs), epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=2)
    weights = [x.astype("float16") for x in net.get_weights()]
    net.set_weights([x.astype("float32") for x in weights])
    accuracy = classifier.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    with replacing(FILES[side]) as temporary:
        arrays = {f"weight_{i:02d}": x for i, x in enumerate(weights)}
        np.savez_compressed(temporary, accuracy=accuracy, **arrays)
    print(f"{FILES[side]}: accuracy {accuracy:.4f}, hash {Judge(side, weights, accuracy).hash}")


if __name__ == "__main__":
    train(*map(int, sys.argv[1:]))
