"""Inputs of signatures: checked, cut into batches of the static shape, or drawn at random if there are none."""

import itertools

import numpy as np

from keras_dl.export.given import elements

# At most so many batches are read of one calibration set, which may be endless. The proof runs on fewer.
CALIBRATION_BATCHES = 256
PROOF_BATCHES = 64
# Every fourth batch is kept out of calibration for the proof, if there are at least eight.
HELD_OUT_EVERY = 4
FEWEST_TO_HOLD_OUT = 8
# The largest of `n + 1` samples is any of them with equal probability. So a fresh sample leaves the range of `n` at one
# of its two ends with the probability `2 / (n + 1)`, in every tensor: 2% for 100 samples.
FEW_SAMPLES = 100
# The numbers of steps that an integer input has in all, and that the samples but for the largest need of them.
INTEGER_STEPS = {"int8": 255, "int16x8": 65535}
STEPS_NEEDED, STEPS_WANTED = 4, 32


def static_shapes(signature):
    """dict of `(shape, dtype)` by input name, of a `keras_dl.Signature`."""
    return {name: (tuple(x.shape), str(x.dtype)) for name, x in signature.inputs.items()}


def batches(arrays, shapes, what="inputs"):
    """Cuts rows into batches of a static shape.

    Args:
        arrays: dict of arrays by input name. Each has its static shape, or any number of rows, the same for all inputs.
        shapes: dict of `(shape, dtype)` by input name. The dtype None allows any real numbers.
        what: str. The name of the arrays in errors.

    Returns:
        list of `(batch, rows)`: a dict of arrays of the static shapes, and the number of rows that come from `arrays`.
        The last batch is filled up with its last row. `rows` is None if the arrays had the static shape.

    Raises:
        ValueError: if an input is missing or unknown, or a shape or dtype does not fit.
    """
    if set(arrays) != set(shapes):
        raise ValueError(f"{what} must have the names {sorted(shapes)}, not {sorted(map(str, arrays))}.")
    arrays = {name: _cast(arrays[name], dtype, f"{what}: {name!r}") for name, (_, dtype) in shapes.items()}
    if all(arrays[name].shape == shape for name, (shape, _) in shapes.items()):
        return [(arrays, None)]

    for name, (shape, _) in shapes.items():
        if not shape or arrays[name].ndim == 0 or arrays[name].shape[1:] != shape[1:]:
            rows = f" or ({', '.join(map(str, ('rows', *shape[1:])))})" if shape else ""
            raise ValueError(f"{what}: {name!r} has shape {arrays[name].shape}; it must be {shape}{rows}.")
    sizes = {shape[0] for shape, _ in shapes.values()}
    counts = {name: len(x) for name, x in arrays.items()}
    if len(set(counts.values())) > 1 or len(sizes) > 1:
        raise ValueError(f"{what}: every input needs the same number of rows, not {counts}.")
    count, size = next(iter(counts.values())), sizes.pop()
    if count == 0:
        raise ValueError(f"{what}: there are no rows.")
    result = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        index = np.minimum(np.arange(start, start + size), count - 1)
        result.append(({name: x[index] for name, x in arrays.items()}, rows))
    return result


def _cast(value, dtype, what):
    """`value` in `dtype`. Values may only change by rounding to a float's precision."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and str(array.dtype) != "bfloat16":
        raise ValueError(f"{what} must be numbers, not {array.dtype}.")
    if dtype is None or str(array.dtype) == dtype:
        return array
    to = np.dtype(dtype)
    if to.kind == "f" and array.dtype.kind in "biuf":
        return array.astype(to)
    cast = array.astype(to) if to.kind in "biu" and array.dtype.kind in "biu" else None
    if cast is None or not np.array_equal(cast, array):
        ends = f" (from {array.min()} to {array.max()})" if array.size else ""
        raise ValueError(
            f"{what} has dtype {array.dtype}{ends}; it must be {dtype}. If its values mean that, round and cast them: "
            f"np.rint(x).astype({dtype!r}), or tf.cast(tf.round(x), {dtype!r}) in a data set."
        )
    return cast


def read_calibration(calibration, signatures):
    """Reads calibration data into batches of each signature's static shape.

    Args:
        calibration: None; or data in one of the forms that `keras_dl.export.given.elements` takes; or, for several
            signatures, a dict of such data by signature. A dict of arrays is one element. Each element has the
            signature's static shape or any number of rows, and the names of the file's inputs or of the model's.
        signatures: dict of `keras_dl.Signature`.

    Returns:
        dict by signature of lists of dicts of arrays; a signature without data is absent. At most
        `CALIBRATION_BATCHES` batches are read.

    Raises:
        TypeError: if the data is of another kind.
        ValueError: if a set is empty or belongs to no signature, or an element does not fit its signature.
    """
    if calibration is None:
        return {}
    sets = _by_signature(calibration, signatures)
    return {name: _read(data, signatures[name], name) for name, data in sets.items()}


def _by_signature(calibration, signatures):
    only = next(iter(signatures)) if len(signatures) == 1 else None
    if isinstance(calibration, dict):
        if only is not None and set(_as_in_the_file(calibration, signatures[only])) == set(signatures[only].inputs):
            return {only: [calibration]}
        unknown = [str(name) for name in calibration if name not in signatures]
        if unknown:
            raise ValueError(
                f"calibration has data for {', '.join(unknown)}, and the model serves {', '.join(signatures)}."
            )
        return calibration
    if only is None:
        raise ValueError(f"calibration must be a dict of data by signature: {', '.join(signatures)}.")
    return {only: calibration}


def _as_in_the_file(arrays, signature):
    """`arrays` by the names of a file's inputs, if they have the names of the model's, of which some are changed."""
    names = {signature.model_names["inputs"].get(key, key): key for key in signature.inputs}
    return {names[name]: x for name, x in arrays.items()} if set(arrays) == set(names) else arrays


def _read(data, signature, name):
    what = f"calibration of {name!r}"
    result = []
    shapes = {name: shape for name, (shape, _) in static_shapes(signature).items()}
    given = elements(data, shapes, what, lambda arrays: _as_in_the_file(arrays, signature))
    for element in itertools.islice(given, CALIBRATION_BATCHES):
        read = [batch for batch, _ in batches(element, static_shapes(signature), what)]
        for name in signature.inputs:
            if not all(np.isfinite(batch[name]).all() for batch in read):
                raise ValueError(f"{what}: {name!r} holds a value that is not finite.")
        result += read
        if len(result) >= CALIBRATION_BATCHES:
            break
    if not result:
        raise ValueError(f"{what} is empty.")
    return result[:CALIBRATION_BATCHES]


def split(batches):
    """Divides samples into those that calibrate and those that prove.

    Args:
        batches: list of dicts of arrays.

    Returns:
        `(calibrating, proving, held_out)`: two lists, and the number of samples at the head of `proving` that
        `calibrating` does not have. 0 if there are too few to keep some out: both lists then have the same samples.

    Example:

    >>> split(list(range(9)))
    ([0, 1, 2, 4, 5, 6, 8], [3, 7, 0, 1, 2, 4, 5, 6, 8], 2)
    """
    if len(batches) < FEWEST_TO_HOLD_OUT:
        return batches, batches, 0
    held = batches[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY][:PROOF_BATCHES]
    calibrating = [batch for i, batch in enumerate(batches) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    return calibrating, (held + calibrating)[:PROOF_BATCHES], len(held)


def review(samples, quantization, what):
    """Looks for calibration data that cannot set the ranges of an integer file, or that a proof cannot go by.

    Args:
        samples: list of dicts of arrays, of the static shapes of a signature.
        quantization: str.
        what: str. The name of the samples in messages.

    Returns:
        list of str: warnings about few, equal and extreme samples.

    Raises:
        ValueError: for `"int8"` and `"int16x8"`, if all inputs are constant, or one sample of many takes the range of
            an input for itself.
    """
    rows, distinct = _rows(samples), count_distinct(samples)
    integer = quantization in INTEGER_STEPS
    floats = {name: x for name, x in rows.items() if x.dtype.kind == "f"}
    constant = [name for name, x in rows.items() if x.size and (x == x.flat[0]).all()]
    warnings = []
    if integer and len(constant) == len(rows):
        values = ", ".join(f"{name!r} is always {rows[name].flat[0]:g}" for name in constant)
        raise ValueError(f"{what} is constant: {values}. It must be real inputs, which set the ranges of all tensors.")
    if fixed := [name for name in constant if name in floats or len(constant) == len(rows)]:
        warnings.append(f"{what}: {', '.join(fixed)} never changes. The proof does not show how outputs follow it.")
    if integer and distinct < FEW_SAMPLES:
        warnings.append(
            f"{what} has {distinct} different sample{'s' * (distinct > 1)}. In each tensor, about "
            f"{2 / (distinct + 1):.0%} of other inputs go beyond their range, and are cut off. Give at least "
            f"{FEW_SAMPLES}."
        )
    elif distinct == 1:
        warnings.append(f"{what} has one different sample. The proof shows little.")
    for name, x in floats.items():
        extreme = _extreme(x, INTEGER_STEPS.get(quantization, INTEGER_STEPS["int8"]))
        if extreme is None:
            continue
        row, largest, others, steps = extreme
        text = f"{what}: row {row} of {name!r} reaches {largest:.3g}, and most rows at most {others:.3g}."
        if not integer:
            warnings.append(f"{text} The proof may not see the errors of those.")
            continue
        text += f" They have {steps:.2g} of the {INTEGER_STEPS[quantization]} steps of the input."
        text += " Drop what is not real data."
        if steps < STEPS_NEEDED:
            raise ValueError(text)
        warnings.append(text)
    for name, x in floats.items() if integer else ():
        if lost := _lost_columns(x, INTEGER_STEPS[quantization]):
            columns = ", ".join(map(str, lost))
            warnings.append(
                f"{what}: column{'s' * (len(lost) > 1)} {columns} of {name!r} have a deviation below one of the "
                f"{INTEGER_STEPS[quantization]} steps of the input, which has one scale for all columns. Scale the "
                "columns to one range before the model, give them as inputs of their own, or choose float16."
            )
    return warnings


def _lost_columns(x, steps):
    """The columns of a table, float (rows, columns), whose deviation is below one step of its range: list of int."""
    if x.ndim != 2 or not x.size or np.ptp(x) == 0:
        return []
    deviations = np.std(x, axis=0, dtype="float64")
    return [int(i) for i in np.flatnonzero((deviations > 0) & (deviations < np.ptp(x) / steps))]


def like_pixels(samples):
    """The inputs of floats that hold only whole numbers from 0 to 255, like pixels: list of names."""
    floats = {name: x for name, x in _rows(samples).items() if x.dtype.kind == "f" and x.size}
    return [name for name, x in floats.items() if x.min() >= 0 and 128 <= x.max() <= 255 and (x == np.rint(x)).all()]


def _rows(samples):
    """dict of arrays: the rows of all samples, or the samples where inputs have no common number of rows."""
    sizes = {x.shape[:1] for x in samples[0].values()}
    join = np.concatenate if len(sizes) == 1 and () not in sizes else np.stack
    return {name: join([batch[name] for batch in samples]) for name in samples[0]}


def count_distinct(samples):
    """The number of different rows: int.

    Args:
        samples: list of dicts of arrays.
    """
    arrays = list(_rows(samples).values())
    return len({b"".join(x[i].tobytes() for x in arrays) for i in range(len(arrays[0]))})


def _extreme(x, steps):
    """The row that takes the range of an input for itself: `(row, what it reaches, what others reach, their steps)`.

    None if there is no such row. Of many rows, a twentieth is set aside as extreme.
    """
    reach = np.abs(x.reshape(len(x), -1).astype("float64")).max(axis=1, initial=0.0)
    order = np.argsort(reach)
    others = order[: len(order) - max(1, len(order) // 20)]
    if not len(others) or not reach[others[-1]]:
        return None
    width = max(float(x.max()), 0.0) - min(float(x.min()), 0.0)  # the range of a tensor always has zero
    left = float(reach[others[-1]] / width * steps)
    if left >= STEPS_WANTED:
        return None
    return int(order[-1]), float(reach[order[-1]]), float(reach[others[-1]]), left


def draw_inputs(signature, count=8, seed=0):
    """Random inputs, for models without calibration data.

    Floats come from the standard normal distribution, and 8-bit integers from their whole range. Wider integers and
    booleans are 0 or 1, because only the model knows what larger integers mean.

    Returns:
        list of `count` dicts of arrays of the signature's static shapes.
    """
    generator = np.random.default_rng(seed)

    def one(shape, dtype):
        dtype = np.dtype(dtype)
        if dtype.kind == "f":
            return generator.normal(size=shape).astype(dtype)
        if dtype.itemsize == 1 and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        return generator.integers(0, 2, shape).astype(dtype)

    shapes = static_shapes(signature)
    return [{name: one(*shape_and_dtype) for name, shape_and_dtype in shapes.items()} for _ in range(count)]
