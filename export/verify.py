"""The proof: a file computes what the Keras model computes."""

import numpy as np

from keras_dl.export.errors import ExportError

# Largest error of a float32 file, as a share of the largest magnitude of Keras's output.
RELATIVE_TOLERANCE = {"none": 1e-4, "float16": 1e-2}
# Lowest cosine similarity between the outputs of a quantized file and of Keras, over all samples together.
# A sound export of a trained network is far above it. Below it, the file computes something else.
COSINE_BOUND = {"weight_only_int8": 0.99, "dynamic_int8": 0.99, "int16x8": 0.99, "int8": 0.95}
# Lowest share of equal values in integer and boolean outputs of a quantized file. In a float file all must be equal.
AGREEMENT_BOUND = 0.8


def errors(actual, expected) -> dict[str, float]:
    """How far an output is from the one expected.

    Args:
        actual, expected: arrays of the same shape.

    Returns:
        dict of float: `max_abs_error`, `mean_abs_error`; `max_rel_error`, the largest error as a share of the largest
        expected magnitude (if only zeros are expected, 1 for any error); `cosine`, the cosine similarity of the two
        arrays as vectors (1 if both are zero, 0 if one is); and, for integers and booleans, `agreement`, the share of
        equal values.

    Example:

    >>> errors(np.array([1.0, 2.5]), np.array([1.0, 2.0]))["max_rel_error"]
    0.25
    """
    a, b = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    difference = np.abs(a - b)
    largest, magnitude = difference.max(initial=0.0), np.abs(b).max(initial=0.0)
    result = {
        "max_abs_error": float(largest),
        "mean_abs_error": float(difference.mean()) if difference.size else 0.0,
        "max_rel_error": float(largest / magnitude) if magnitude else float(largest > 0),
        "cosine": _cosine(a.ravel(), b.ravel()),
    }
    if np.asarray(expected).dtype.kind in "biu":
        result["agreement"] = float((a == b).mean()) if a.size else 1.0
    return result


def _cosine(a, b):
    # Scaled first: the squares of very small or very large numbers leave the range of float64.
    peaks = np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)
    if not all(peaks):
        return float(not any(peaks))
    a, b = a / peaks[0], b / peaks[1]
    return float(np.clip(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)), -1.0, 1.0))


def reference(keras_runner, samples):
    """The outputs of Keras for the samples.

    Args:
        keras_runner: `Runner` of the model, computing in float32.
        samples: dict by signature of lists of dicts of arrays, of the signature's static shapes.

    Returns:
        dict by signature of dicts of arrays by output, all samples stacked.

    Raises:
        ExportError: if an output is not finite.
    """
    expected = {name: _stack(keras_runner, name, batches) for name, batches in samples.items()}
    for name, outputs in expected.items():
        for key, values in outputs.items():
            if not _finite(values):
                raise ExportError(f"Keras gives NaN or infinity for output {key!r} of signature {name!r}.")
    return expected


def prove(artifact, expected, samples, quantization):
    """Runs a file on samples and compares with Keras.

    Args:
        artifact: `Runner` of the file.
        expected: the result of `reference` for the samples.
        samples: dict by signature of lists of dicts of arrays, of the signature's static shapes.
        quantization: str.

    Returns:
        dict: `signatures`, the result of `errors` by signature and output; `samples`, the number of batches by
        signature; `tolerance`, the bound that the file met.

    Raises:
        ExportError: if an output is missing, is not finite, has another shape, is constant although that of Keras is
            not, or differs from that of Keras by more than `RELATIVE_TOLERANCE` or `COSINE_BOUND` allows.
    """
    if quantization in RELATIVE_TOLERANCE:
        tolerance = {"max_rel_error": RELATIVE_TOLERANCE[quantization]}
    else:
        tolerance = {"cosine": COSINE_BOUND[quantization], "agreement": AGREEMENT_BOUND}
    proof = {"signatures": {}, "samples": {}, "tolerance": tolerance}
    for name, batches in samples.items():
        actual = _stack(artifact, name, batches)
        if set(actual) != set(expected[name]):
            raise ExportError(f"Signature {name!r} has outputs {sorted(actual)}; Keras has {sorted(expected[name])}.")
        proof["samples"][name] = len(batches)
        proof["signatures"][name] = {
            key: _compare(f"Output {key!r} of signature {name!r}", actual[key], values, tolerance)
            for key, values in expected[name].items()
        }
    return proof


def _stack(runner, name, batches):
    results = [runner.serve(name, **batch) for batch in batches]
    return {key: np.stack([result[key] for result in results]) for key in results[0]}


def _compare(what, actual, expected, tolerance):
    if actual.shape != expected.shape:
        raise ExportError(f"{what} has shape {actual.shape[1:]}; Keras gives {expected.shape[1:]}.")
    if not _finite(actual):
        raise ExportError(f"{what} holds NaN or infinity, where Keras gives numbers.")
    if _varies(expected) and not (actual != actual[:1]).any():
        raise ExportError(f"{what} is constant in the file, but varies with the samples in Keras.")
    result = errors(actual, expected)
    if "max_rel_error" in tolerance:
        if result["max_rel_error"] > tolerance["max_rel_error"]:
            raise ExportError(
                f"{what} is off by {result['max_rel_error']:.2e} of its largest magnitude; "
                f"{tolerance['max_rel_error']:.0e} is allowed."
            )
    elif "agreement" in result:
        if result["agreement"] < tolerance["agreement"]:
            raise ExportError(
                f"{what} equals that of Keras in {result['agreement']:.1%} of its values; "
                f"it must be at least {tolerance['agreement']:.0%}."
            )
    elif result["cosine"] < tolerance["cosine"]:
        raise ExportError(
            f"{what} has a cosine similarity of {result['cosine']:.4f} with that of Keras; "
            f"it must be at least {tolerance['cosine']}."
        )
    return result


def _finite(values):
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _varies(values):
    """Whether an output depends on the sample by more than rounding."""
    spread = np.ptp(values.astype("float64"), axis=0).max(initial=0.0)
    return spread > 1e-3 * np.abs(values.astype("float64")).max(initial=0.0)
