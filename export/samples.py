"""Inputs of signatures: checked, cut into batches of the static shape, or drawn at random if there are none."""

import itertools

import numpy as np

from keras_dl.export.given import elements

# At most so many batches are read of one calibration set, which may be endless. The proof runs on the first ones.
CALIBRATION_BATCHES = 256
PROOF_BATCHES = 64


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
            signature's static shape or any number of rows.
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
        if only is not None and set(calibration) == set(signatures[only].inputs):
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


def _read(data, signature, name):
    what = f"calibration of {name!r}"
    result = []
    given = elements(data, {name: shape for name, (shape, _) in static_shapes(signature).items()}, what)
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
