"""The report of an export: JSON beside the file, and a table for the terminal."""

import dataclasses
import json
import os
import pathlib

from keras_dl.files import read_json, reading

_KINDS = {"held_out": "held-out", "calibration": "calibration", "random": "random"}


@dataclasses.dataclass
class Report:
    """The exported file and its proof.

    Attributes:
        path: str.
        format, quantization, target: str, as given to `export`.
        bytes: int. Size of the file, or of all files in the folder.
        sha256: str. Of the file; of a SavedModel's folder, of `saved_model.pb`. It ties the report to the file.
        ops: dict. How often each op occurs.
        flex_ops, custom_ops: int. Ops that are not builtins of the format; always 0.
        signatures: dict by name of `{"inputs", "outputs", "latency_ms"}`; a tensor is `{"shape", "dtype"}`, with
            `"scale"` and `"zero_point"` where quantized, and `"model_name"` where the model has another name for it.
        tensors: dict. Of a LiteRT file, counts by dtype of `constants`, `activations` and, among the constants,
            `weights`; `float_ops`, the ops of an integer file that compute in float32, with their layers, because
            LiteRT has no integer kernel for them; `float_layers`, as given to `export` or named by the model; and
            `io`, as given to `export`.
        proof: dict. `signatures`: by signature and output `max_abs_error, mean_abs_error, max_rel_error, cosine` (see
            `keras_dl.export.verify.errors`), and `r2, deviation, channels, lost_channels, channel_r2` with others (see
            `keras_dl.export.verify.variation`); `samples`, the number of batches by signature; `inputs`: `"held_out"`
            for calibration data that did not calibrate the file, `"calibration"` or `"random"`; `tolerance`. Empty if
            not verified. `detections`, by signature that gives some, compares sets (see `keras_dl.export.detections`):
            `images`; the numbers of detections `expected` from Keras and `found` in the file; `pairs` of them;
            `exceptions` of a float file, numbers by the reason why one has no partner; `agreement` of the sets, from 0
            to 1; `mean_iou`, `mean_score_error` and, with masks, `mean_mask_iou` of pairs; of a quantized file also
            `chance`, the agreement of sets of different images, and `kappa`, that beyond chance. Its `signatures`
            then hold the errors of pairs.
            `training`, of a file that learns: by `"loss"` and weight the errors after a step.
        metric: dict `{"name", "keras", "artifact"}`, or None.
        latency_ms: dict. Median milliseconds of the first signature by number of threads: `{"1": ..., "2": ...}`.
        target_report: dict. The report of the target.
        metadata: dict. The metadata inside the file.
        versions: dict. Versions of the packages that made it.
        warnings: list of str.
    """

    path: str
    format: str
    quantization: str
    target: str
    bytes: int
    sha256: str
    ops: dict
    flex_ops: int
    custom_ops: int
    signatures: dict
    tensors: dict
    proof: dict
    metric: dict | None
    latency_ms: dict
    target_report: dict
    metadata: dict
    versions: dict
    warnings: list

    def to_dict(self) -> dict:
        """A dict that JSON can hold."""
        return dataclasses.asdict(self)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the report as JSON."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        pathlib.Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Report":
        """Reads a report that `save` wrote.

        Raises:
            FileError: if the file is not such a report. A ValueError.
            OSError: if the file does not exist, or cannot be read.
        """
        what, cure = "a report of an export", "Export the model again."
        document = read_json(path, what, cure, types={field.name: field.type for field in dataclasses.fields(cls)})
        with reading(path, what, cure):
            return cls(**document)

    def __str__(self):
        rows = [
            ("file", f"{self.path} ({_bytes(self.bytes)})"),
            ("format", f"{self.format}, quantization {self.quantization}, target {self.target}"),
            ("ops", f"{sum(self.ops.values())}: " + ", ".join(f"{n} {name}" for name, n in self.ops.items())),
            ("", f"{self.flex_ops} Flex, {self.custom_ops} custom"),
        ]
        for kind in ("weights", "activations"):
            if self.tensors.get(kind):
                rows.append((kind, ", ".join(f"{n} {dtype}" for dtype, n in self.tensors[kind].items())))
        for name, signature in self.signatures.items():
            inputs, outputs = (
                ", ".join(f"{key} {_tensor(x)}" for key, x in signature[side].items()) for side in ("inputs", "outputs")
            )
            rows.append((name, f"{inputs} -> {outputs}"))
        for name, outputs in self.proof.get("signatures", {}).items():
            batches = self.proof["samples"][name]
            for key, errors in outputs.items():
                text = (
                    f"{key}: largest error {errors['max_abs_error']:.2e} ({errors['max_rel_error']:.2e} of the largest "
                    f"value), mean {errors['mean_abs_error']:.2e}, cosine {errors['cosine']:.6f}"
                )
                if "r2" in errors:
                    text += f", R2 {errors['r2']:.5f} (lowest of a channel {errors['channel_r2']:.5f})"
                rows.append(("proof", f"{text}; {batches} {_KINDS[self.proof['inputs'][name]]} batches"))
        for name, errors in self.proof.get("training", {}).items():
            text = f"{errors['max_rel_error']:.2e} of the largest value"
            rows.append(("training", f"{name} after a step: largest error {text}"))
        for name, found in self.proof.get("detections", {}).items():
            rows.append(("proof", _detections(name, found)))
        if self.metric:
            rows.append(
                (self.metric["name"], f"{self.metric['keras']:.4g} in Keras, {self.metric['artifact']:.4g} in the file")
            )
        if self.latency_ms:
            rows.append(
                (
                    "latency",
                    ", ".join(f"{ms:.3f} ms on {n} thread{'s' * (n != '1')}" for n, ms in self.latency_ms.items()),
                )
            )
        rows += [(self.target, text) for text in self.target_report.get("summary", ())]
        rows += [("warning", text) for text in self.warnings]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {text}".rstrip() for key, text in rows)


def _detections(name, found):
    text = (
        f"{name}: {found['expected']} detections by Keras, {found['found']} in the file, {found['pairs']} pairs, in "
        f"{found['images']} images; agreement {found['agreement']:.4f}"
    )
    if "chance" in found:
        text += f" (of different images {found['chance']:.4f})"
    text += f", mean IoU {found['mean_iou']:.4f}, mean error of a score {found['mean_score_error']:.2e}"
    if "mean_mask_iou" in found:
        text += f", mean IoU of masks {found['mean_mask_iou']:.4f}"
    if found.get("exceptions"):
        reasons = ", ".join(f"{n} {reason}" for reason, n in found["exceptions"].items())
        text += f"; without a partner for near ties: {reasons}"
    return text


def _bytes(count):
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1000
    return f"{count:.3g} GB"


def _tensor(x):
    quantized = f" (scale {x['scale']:.6g}, zero point {x['zero_point']})" if "scale" in x else ""
    return f"{x['dtype']}{x['shape']}{quantized}"
