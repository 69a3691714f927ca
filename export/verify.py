"""The proof: a file computes what the Keras model computes.

An output may be large and hardly vary: a price, or a score beside a box of 320 pixels. A file that always gives the
mean is close to Keras by any measure of size, and useless. So the proof asks how much of the variation of each output
the file reproduces:

    R2 = 1 - mean((file - Keras)^2) / var(Keras)

The variance is that of each channel: of an output's last axis, over all samples and all other axes. R2 is 1 for an
equal file, 0 for one that always gives the mean, and negative for a worse one. Errors of the mean and of the scale
count too.

The bounds follow from rounding. Rounding to steps of `s` standard deviations has a mean squared error of `s^2 / 12`
variances: `R2 = 1 - s^2 / 12`. A file has to be as exact as such a rounding; `STEPS` has `s`. With a step of one
standard deviation, an output takes some five values. This is the least that an int8 file may resolve, after all of its
layers: it puts `arctan(s / sqrt(12)) / pi` of the pairs of inputs in the wrong order, 9%.

The bound is for all channels of an output together, so that the channels of the largest variance decide. Each channel
is looked at too, with a step twice as large. One that does not meet this is lost. An int8 output has one step for all
channels, and cannot hold a channel that varies by less. Whether this matters is a question of units:

- In probabilities and their logarithms, steps have an absolute meaning. A channel that hardly varies, as that of a
  class that hardly occurs, may be lost. The rounding of the output itself is allowed. If that is why an output is below
  its bound, the report has a warning.
- Any other output may lose `LOST_SHARE` of its channels, as there are features that are hardly active. Then the report
  has a warning. A file that loses more is refused, such as one that loses the scores beside boxes.
- A channel that does not vary in Keras cannot be lost.

Detections are compared as sets: see `keras_dl.export.detections`.
"""

import numpy as np

from keras_dl.export import detections
from keras_dl.export.errors import ExportError
from keras_dl.export.samples import FEW_SAMPLES, count_distinct

# The bounds of R2, as the size of the steps, in standard deviations, of a rounding that is as exact. See above.
STEPS = {
    "none": 1 / 32,
    "float16": 1 / 10,
    "weight_only_int8": 0.4,
    "dynamic_int8": 0.4,
    "int16x8": 0.4,
    "int8": 1.0,
}
# A channel is lost if it is only as exact as steps so many times larger.
CHANNEL = 2
# Largest share of the channels of an output that a file may lose, unless they are probabilities.
LOST_SHARE = 0.1
# A standard deviation of a smaller share of the largest magnitude is rounding of float32.
ROUNDING = 1e-5
# Largest error of a float file, as a share of the largest magnitude of Keras's output.
RELATIVE_TOLERANCE = {"none": 1e-4, "float16": 1e-2}
# Lowest cosine similarity between the outputs of a quantized file and of Keras, over all samples together. For outputs
# that vary, it follows from R2.
COSINE_BOUND = {"weight_only_int8": 0.99, "dynamic_int8": 0.99, "int16x8": 0.99, "int8": 0.95}
# Lowest share of equal values in integer and boolean outputs of a quantized file. In a float file all must be equal.
AGREEMENT_BOUND = 0.8
# Lowest kappa of these outputs: the share of equal values beyond what outputs of these frequencies have by chance. It
# is that of 80% equal values where two values are equally frequent.
KAPPA_BOUND = 0.6
# Random inputs may be so unlike real ones that outputs hardly vary, and R2 says little. It is no bound for outputs
# whose standard deviation is a smaller share of their largest magnitude than this.
RANDOM_VARIATION = 0.1


def errors(actual, expected) -> dict[str, float]:
    """How far an output is from the one expected.

    Args:
        actual, expected: arrays of the same shape.

    Returns:
        dict of float: `max_abs_error`, `mean_abs_error`; `max_rel_error`, the largest error as a share of the largest
        expected magnitude (if only zeros are expected, 1 for any error); `cosine`, the cosine similarity of the two
        arrays as vectors (1 if both are zero, 0 if one is); for integers and booleans, `agreement`, the share of equal
        values; and `kappa`, how far this is above chance (1 if all are equal, 0 for chance), if enough values differ
        that it is not chance itself.

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
        if (kappa := _kappa(a, b)) is not None:
            result["kappa"] = kappa
    return result


def _cosine(a, b):
    # Scaled first: the squares of very small or very large numbers leave the range of float64.
    peaks = np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)
    if not all(peaks):
        return float(not any(peaks))
    a, b = a / peaks[0], b / peaks[1]
    return float(np.clip(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)), -1.0, 1.0))


def variation(actual, expected, lost=CHANNEL**2 / 12):
    """How much of the variation of an output a file reproduces, by channel: see the head of this module.

    Args:
        actual: array `(samples, *shape)` of the file. The last axis of `shape` is that of the channels. An output of
            rank 0 or 1 has one channel.
        expected: array of Keras, with as many samples or more. The first ones are those of `actual`.
        lost: float. A channel is lost if the mean squared error is a larger share of its variance.

    Returns:
        dict: `r2` of all channels together; `deviation`, the standard deviation of Keras's output, the root of the mean
        over the channels' variances; `channels`, the number of those that vary; `lost_channels`, how many of them are
        lost; `channel_r2`, the lowest of a channel, with its index `worst_channel` and its standard deviation
        `worst_deviation`. Empty if the output does not vary.

    Example:

    >>> keras = np.array([[[310.0, 0.1]], [[20.0, 0.9]], [[160.0, 0.8]]])  # (samples, batch, channels)
    >>> found = variation(np.rint(keras / 100) * 100, keras)  # in steps of 100
    >>> round(found["r2"], 2), found["lost_channels"], found["worst_channel"]
    (0.95, 1, 1)
    """
    magnitude = float(np.abs(expected).max(initial=0.0))
    if not magnitude:
        return {}
    # Scaled, because the squares of very large numbers leave the range of float64.
    population, found = _channels(expected) / magnitude, _channels(actual) / magnitude
    variance = population.var(axis=0)  # (channels,)
    error = np.square(found - population[: len(found)]).mean(axis=0)
    varying = np.flatnonzero(np.sqrt(variance) > ROUNDING)
    if not len(varying):
        return {}
    unexplained = error[varying] / variance[varying]
    worst = int(unexplained.argmax())
    return {
        "r2": float(1 - error.sum() / variance.sum()),
        "deviation": float(np.sqrt(variance.mean()) * magnitude),
        "channels": len(varying),
        "lost_channels": int((unexplained > lost).sum()),
        "channel_r2": float(1 - unexplained[worst]),
        "worst_channel": int(varying[worst]),
        "worst_deviation": float(np.sqrt(variance[varying[worst]]) * magnitude),
    }


def _channels(values):
    """Float64 array `(values, channels)` of one `(samples, *shape)`."""
    return np.asarray(values, "float64").reshape(-1, values.shape[-1] if values.ndim > 2 else 1)


def _kappa(a, b):
    """Cohen's kappa of two arrays. None if fewer than five values would differ by chance: it is mostly noise."""
    (values, counts), (others, found) = (np.unique(x, return_counts=True) for x in (a, b))
    _, i, j = np.intersect1d(values, others, return_indices=True)
    chance = float(counts[i] @ found[j]) / a.size**2 if a.size else 1.0
    if (1 - chance) * a.size < 5:
        return None
    return (float((a == b).mean()) - chance) / (1 - chance)


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


def prove(artifact, expected, samples, quantization, held_out=None, drawn=(), of_detections=(), steps=None):
    """Runs a file on samples and compares with Keras.

    Args:
        artifact: `Runner` of the file.
        expected: the result of `reference` for the samples.
        samples: dict by signature of lists of dicts of arrays, of the signature's static shapes.
        quantization: str.
        held_out: for a calibrated file, a dict by signature of int: so many of its samples, the first ones, were kept
            out of calibration. The file runs on these alone; for 0, on all samples. None for other files.
        drawn: the signatures whose samples are random.
        of_detections: the signatures whose outputs are detections.
        steps: the result of `keras_dl.export.io_types.steps`, if outputs of floats may come from integers.

    Returns:
        dict: `signatures`, by signature and output the result of `errors`, and for outputs of floats also that of
        `variation`; `detections`, by signature what `keras_dl.export.detections.compare` found, and its `signatures`
        are then of pairs; `samples`, the number of batches by signature that the file ran on; `inputs`, by signature
        `"random"`, `"held_out"` or `"calibration"`; `tolerance`, the bounds that the file met.

    Raises:
        ExportError: if an output is missing, is not finite, has another shape, is constant although that of Keras is
            not, or differs from that of Keras by more than the bounds of this module allow.
    """
    if quantization in RELATIVE_TOLERANCE:
        tolerance = {"max_rel_error": RELATIVE_TOLERANCE[quantization]}
    else:
        tolerance = {"cosine": COSINE_BOUND[quantization], "agreement": AGREEMENT_BOUND, "kappa": KAPPA_BOUND}
    unexplained = STEPS[quantization] ** 2 / 12
    tolerance |= {"r2": 1 - unexplained, "channel_r2": 1 - CHANNEL**2 * unexplained}
    proof = {"signatures": {}, "samples": {}, "inputs": {}, "tolerance": tolerance}
    for name, batches in samples.items():
        unseen = (held_out or {}).get(name, 0)
        actual = _stack(artifact, name, batches[: unseen or None])
        if set(actual) != set(expected[name]):
            raise ExportError(f"Signature {name!r} has outputs {sorted(actual)}; Keras has {sorted(expected[name])}.")
        proof["samples"][name] = len(next(iter(actual.values())))
        proof["inputs"][name] = "random" if name in drawn else "held_out" if unseen else "calibration"
        if (
            held_out is not None
            and count_distinct(batches) == 1
            and not any(variation(x, x) for x in expected[name].values())
        ):
            raise ExportError(
                f"Signature {name!r} has one sample, and no output varies with it. The proof of an {quantization} file "
                f"needs different samples, at least {FEW_SAMPLES}."
            )
        step = {key: x.get("scale") for key, x in artifact.signatures[name]["outputs"].items()}
        step |= (steps or {}).get(name, {})
        paired = {}
        if name in of_detections:
            paired, figures = _compare_sets(name, actual, expected[name], quantization, name in drawn)
            proof.setdefault("detections", {})[name] = figures
            tolerance["detections"] = detections.bounds(quantization)
        proof["signatures"][name] = paired | {
            key: _compare(
                f"Output {key!r} of signature {name!r}", actual[key], values, tolerance, name in drawn, step[key]
            )
            for key, values in expected[name].items()
            if not (paired and key in detections.OUTPUTS)
        }
    return proof


def _compare_sets(name, actual, expected, quantization, random):
    """The errors of pairs of detections by output, and the figures of the sets."""
    for key in detections.OUTPUTS:
        if key in actual and not _finite(actual[key]):
            raise ExportError(f"Output {key!r} of signature {name!r} holds NaN or infinity, where Keras gives numbers.")
    tolerance = RELATIVE_TOLERANCE.get(quantization)
    pairs, figures = detections.compare(f"Signature {name!r}", actual, expected, quantization, tolerance, random)
    return {key: errors(*values) for key, values in pairs.items()}, figures


def doubts(proof):
    """What a proof leaves open: list of str, for the warnings of a report.

    Args:
        proof: the result of `prove`.
    """
    found = [(f"Signature {name!r}", x, proof["inputs"][name]) for name, x in proof.get("detections", {}).items()]
    result = [text for text in (detections.doubt(*x) for x in found) if text]
    for name, outputs in proof["signatures"].items():
        for key, found in outputs.items():
            what = f"Of output {key!r} of signature {name!r}"
            if found.get("r2", 1.0) < proof["tolerance"]["r2"]:
                random = proof["inputs"][name] == "random"
                cause = "the random inputs show little" if random else "the integers show little"
                result.append(
                    f"{what} {cause}: its standard deviation is {found['deviation']:.2g}, and the file reproduces R2 = "
                    f"{found['r2']:.3g} of its variation."
                    + " Give calibration data to prove it." * random
                    + " For probabilities, this is the rounding of the output alone." * (not random)
                )
            elif lost := found.get("lost_channels"):
                result.append(
                    f"{what} the file loses the variation of {_counted(lost, found['channels'])}, which is small "
                    "beside that of the others. If it matters, make these channels an output of their own."
                )
    return result


def _stack(runner, name, batches):
    results = [runner.serve(name, **batch) for batch in batches]
    return {key: np.stack([result[key] for result in results]) for key in results[0]}


def _compare(what, actual, expected, tolerance, random, step):
    """The errors of an output on the first samples of `expected`, as many as `actual` has."""
    if actual.shape[1:] != expected.shape[1:]:
        raise ExportError(f"{what} has shape {actual.shape[1:]}; Keras gives {expected.shape[1:]}.")
    population, expected = expected, expected[: len(actual)]
    if not _finite(actual):
        raise ExportError(f"{what} holds NaN or infinity, where Keras gives numbers.")
    if _varies(expected) and not (actual != actual[:1]).any():
        raise ExportError(f"{what} is constant in the file, but varies with the samples in Keras.")
    result = errors(actual, expected)
    if "max_rel_error" in tolerance:
        if result.get("agreement", 1.0) < 1.0:  # also of large integers, whose relative error is small
            raise ExportError(f"{what} differs from that of Keras in {1 - result['agreement']:.2%} of its integers.")
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
        if result.get("kappa", 1.0) < tolerance["kappa"]:
            raise ExportError(
                f"{what} equals that of Keras in {result['agreement']:.1%} of its values, most of which are the same "
                f"value. Beyond chance it is {result['kappa']:.2f} (kappa); it must be at least {tolerance['kappa']}."
            )
    elif result["cosine"] < tolerance["cosine"]:
        raise ExportError(
            f"{what} has a cosine similarity of {result['cosine']:.4f} with that of Keras; "
            f"it must be at least {tolerance['cosine']}."
        )
    if expected.dtype.kind == "f":
        result |= _check_variation(what, actual, population, tolerance, random, step)
    return result


def _check_variation(what, actual, population, tolerance, random, step):
    found = variation(actual, population, 1 - tolerance["channel_r2"])
    if not found or (random and found["deviation"] < RANDOM_VARIATION * np.abs(population).max()):
        return found
    steps = f" A step of the file is {step:.3g}." if step else ""
    probabilities = _probabilities(population)
    rounding = (step / found["deviation"]) ** 2 / 12 if probabilities and step else 0.0
    if found["r2"] < tolerance["r2"] - rounding:
        raise ExportError(
            f"{what} reproduces R2 = {found['r2']:.3g} of the variation of Keras's, of which the standard deviation is "
            f"{found['deviation']:.3g}; it must be at least {tolerance['r2']:.4f}.{steps}"
        )
    if found["lost_channels"] > LOST_SHARE * found["channels"] and not probabilities:
        raise ExportError(
            f"{what} loses {_counted(found['lost_channels'], found['channels'])}: of channel {found['worst_channel']}, "
            f"whose standard deviation is {found['worst_deviation']:.3g}, the file reproduces R2 = "
            f"{found['channel_r2']:.3g}.{steps} Outputs of different ranges, such as boxes and scores, need names of "
            "their own, or a scale that makes their ranges equal."
        )
    return found


def _counted(lost, channels):
    return f"{lost} of {channels} channels" if channels > 1 else "its one channel"


def _probabilities(values):
    """Whether these may be probabilities, or logarithms of probabilities."""
    low, high = values.min(initial=0.0), values.max(initial=0.0)
    if low >= 0.0:
        return high <= 1.0 + 1e-6
    if high > 1e-6 or values.ndim < 3:
        return False
    return np.allclose(np.exp(values.astype("float64")).sum(axis=-1), 1.0, atol=1e-3)


def _finite(values):
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _varies(values):
    """Whether an output depends on the sample by more than rounding."""
    spread = np.ptp(values.astype("float64"), axis=0).max(initial=0.0)
    return spread > 1e-3 * np.abs(values.astype("float64")).max(initial=0.0)
