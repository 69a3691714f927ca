"""Splits of a data set in memory, and their rows in batches whose order depends on the seed and the epoch only."""

import contextlib
import contextvars
import pathlib

import tensorflow as tf

from keras_dl.recipes.data.own import OwnData
from keras_dl.recipes.training.recipe import SMOKE_TEST, SMOKE_TRAIN, OptionError

# So many examples are shuffled at a time. TFDS writes its examples in a random order, so that mixing within a block is
# enough for larger data.
SHUFFLE_BLOCK = 16_384
TEST_BATCH = 250

_opened = contextvars.ContextVar("opened", default=None)  # the data sets that were opened, for errors


def open_dataset(options):
    """The prepared TFDS builder of the options' dataset, or own data, which has the same interface.

    Raises:
        DataError: if the data set is not available.
    """
    if options.data is not None:
        return _open_own(options)
    from keras_dl.recipes.datasets import prepare

    builder = prepare(options.dataset, data_dir=options.data_dir)
    if (opened := _opened.get()) is not None:
        opened.append(builder)
    return builder


def _open_own(options):
    """The `keras_dl.recipes.data.OwnData` of the options.

    Raises:
        OptionError: if it is missing, or is not what the run began with.
        FileError: if a file is wrong.
    """
    from keras_dl.recipes.data import open_data

    if not pathlib.Path(options.data).exists():
        raise OptionError(f"The data of the run, {options.data}, is missing. Give its new place by --data PATH.")
    data = open_data(options.data, options.dataset, options.seed, options.target)
    data.check_unchanged(options.fingerprint)
    if (opened := _opened.get()) is not None:
        opened.append(data)
    return data


@contextlib.contextmanager
def naming_damaged_data():
    """Turns TensorFlow's errors about damaged records of the data sets opened in the block into a `DataError`.

    Raises:
        FileError: of own data; it names the file.
        DataError: it names the file. TensorFlow's errors give only a place in it.
    """
    token = _opened.set([])
    try:
        yield
    except (
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,
        tf.errors.InvalidArgumentError,
        tf.errors.NotFoundError,
    ) as error:
        for builder in _opened.get():
            if isinstance(builder, OwnData):
                problem = builder.problem and builder.problem()
                if problem:
                    raise problem from error
                continue
            if isinstance(error, tf.errors.InvalidArgumentError):
                continue
            damaged = _damaged_file(builder)
            if damaged:
                from keras_dl.recipes.datasets import DataError

                raise DataError(
                    f"{damaged} is damaged. Delete its folder, and have it prepared again: "
                    f"keras-dl data prepare {builder.info.full_name.rsplit('/', 1)[0]}."
                ) from error
        raise
    finally:
        _opened.reset(token)


def _damaged_file(builder):
    """The first file of a data set that does not hold its records; None if there is none."""
    for split in builder.info.splits.values():
        for path, count in zip(split.filepaths, split.shard_lengths, strict=True):
            try:
                found = int(tf.data.TFRecordDataset(str(path)).reduce(0, lambda number, _: number + 1))
            except tf.errors.OpError:
                return path
            if found != count:
                return path
    return None


def origin(builder) -> dict:
    """Name, version and license of a data set, as arguments of `Data`."""
    if isinstance(builder, OwnData):
        return builder.origin
    license = builder.info.redistribution_info.license or f"see {builder.info.homepage}"
    return dict(dataset=builder.info.full_name.rsplit("/", 1)[0], version=str(builder.version), licence=license)


def limit(split, options, most=-1):
    """The number of examples of a split that a run reads: few for a smoke run, else `most`. -1 means all."""
    return (SMOKE_TRAIN if split == "train" else SMOKE_TEST) if options.smoke else most


def read(builder, split, options, most=-1) -> list[dict]:
    """The first examples of a split, `limit` of them, in the order in which they are stored: dicts of NumPy arrays."""
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    return list(dataset.take(limit(split, options, most)).as_numpy_iterator())


def fold_in(seed, *numbers):
    """A seed, int32 `(2,)`, that depends on `seed` (int) and on all `numbers` (integers or scalar tensors)."""
    key = tf.constant([seed, 0], tf.int32)
    for number in numbers:
        key = tf.random.fold_in(key, number)
    return key


def shuffled_rows(rows, batch_size, key):
    """Row numbers in batches, in an order that `key` decides. The rest that fills no batch is dropped.

    Args:
        rows: int, for the rows `0 ... rows - 1`; or an int array `(n,)` of row numbers.
        batch_size: int.
        key: int32, `(2,)`: a seed, as `fold_in` returns it; may be a symbolic tensor.

    Returns:
        `tf.data.Dataset` of int tensors `(batch_size,)`.
    """
    rows = tf.range(rows) if isinstance(rows, int) else rows
    order = tf.random.experimental.stateless_shuffle(rows, key)
    return tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)


def shuffled_batches(arrays, batch_size, key):
    """One epoch of arrays in memory: batches of their rows, in an order that `key` decides.

    Args:
        arrays: array, or a structure (tuple, dict) of arrays, all with as many rows.
        batch_size: int. The rest that fills no batch is dropped.
        key: int32, `(2,)`: a seed, as `fold_in` returns it; may be a symbolic tensor.

    Returns:
        `tf.data.Dataset` of tensors in the structure of `arrays`.

    Example:

    >>> numbers = tf.range(1, 6)
    >>> for batch in shuffled_batches({"x": numbers, "doubled": 2 * numbers}, 2, fold_in(0, 1)):
    ...     print(batch["doubled"].numpy() / batch["x"].numpy())
    [2. 2.]
    [2. 2.]
    """
    rows = shuffled_rows(len(tf.nest.flatten(arrays)[0]), batch_size, key)
    return rows.map(lambda rows: tf.nest.map_structure(lambda array: tf.gather(array, rows), arrays))


def shuffled(dataset, key, block=SHUFFLE_BLOCK):
    """A `tf.data.Dataset` of tuples with each run of `block` elements in an order that `key` decides.

    `tf.data.Dataset.shuffle` keeps a state, so that it cannot give epoch n without the epochs before; this has none.

    Args:
        dataset: `tf.data.Dataset` of tuples of tensors.
        key: int32, `(2,)`: a seed, as `fold_in` returns it; may be a symbolic tensor.
        block: int.
    """

    def mix(*columns):
        order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(columns[0])[0]), key)
        return tf.data.Dataset.from_tensor_slices(tuple(tf.gather(column, order) for column in columns))

    return dataset.batch(block).flat_map(mix)
