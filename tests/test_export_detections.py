"""The proof of detections: sets are compared; near ties are allowed, few of them; what is wrong fails."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import Signature
from keras_dl.export import ExportError, Report, detections, export, inspect, quantize, ties, verify
from keras_dl.models.detection.detector import Detector
from keras_dl.ops.nms import detections as postprocessed

SIDE, CLASSES, SLOTS = 32, 3, 6


class Toy(Detector):
    """Boxes around the places of a grid, by their brightness. Some weights are there to be damaged."""

    def __init__(self, score_threshold=0.5):
        super().__init__(name="toy")
        self.image_shape, self.num_classes, self.score_threshold = (SIDE, SIDE, 3), CLASSES, score_threshold
        self.pool = keras.layers.AveragePooling2D(8)
        self.head = keras.layers.Conv2D(4, 1, kernel_initializer=keras.initializers.RandomNormal(0.5, seed=3))
        self.head.build((None, 4, 4, 3))
        self.shift = self.add_weight(shape=(4,), initializer="zeros", name="shift")
        self.gain = self.add_weight(shape=(1,), initializer="ones", name="gain")
        self.classes = self.add_weight(shape=(CLASSES, CLASSES), name="classes")
        self.silent = self.add_weight(shape=(4, 4, 1), initializer="ones", name="silent")
        self.classes.assign(np.eye(CLASSES))
        self._hold(CLASSES)

    def call(self, images):
        maps = self.pool(tf.cast(images, "float32") / 255)  # (batch, 4, 4, 3)
        scores = tf.sigmoid(12 * (tf.matmul(maps, self.classes) - 0.5)) * self.silent
        return {"boxes": tf.tanh(self.head(maps)), "scores": scores}

    def postprocess(self, boxes, scores):
        rows, columns = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
        base = np.stack([columns, rows, columns + 1, rows + 1], -1).astype("float32") * 8  # (4, 4, 4)
        boxes = tf.reshape(base + 2 * boxes + self.shift, (-1, 16, 4))
        scores = tf.reshape(scores * self.gain, (-1, 16, CLASSES))
        return postprocessed(boxes, scores, iou_threshold=0.3, score_threshold=self.score_threshold, max_boxes=SLOTS)


def pictures(count, seed=0):
    """Some places are bright in one channel, as clearly as it takes not to be near the threshold."""
    rng = np.random.default_rng(seed)
    places = rng.choice([0.15, 0.3, 0.65, 0.8], size=(count, 4, 4, 3), p=[0.5, 0.35, 0.1, 0.05])
    places = places + rng.uniform(-0.05, 0.05, places.shape)
    return (places.repeat(8, 1).repeat(8, 2) * 255).astype("uint8")


CALIBRATION = [{"images": pictures(64)}]
CONVERT = quantize.to_litert


@pytest.fixture(scope="module")
def toy():
    return Toy()


def damaged(monkeypatch, model, name, value):
    """Converts from a model of which one weight has another value."""

    def convert(*arguments):
        weight = getattr(model, name)
        before = weight.numpy()
        weight.assign(value)
        try:
            return CONVERT(*arguments)
        finally:
            weight.assign(before)

    monkeypatch.setattr(quantize, "to_litert", convert)


SILENT = np.ones((4, 4, 1), "float32")
SILENT[1, 2] = 0.0
SWAPPED = np.eye(CLASSES)[[1, 0, 2]]
DAMAGES = {
    "shift": ("shift", [1.0, 0, 1.0, 0], "finds class"),
    "small shift": ("shift", [0.02] * 4, "of a coordinate are allowed"),
    "swap": ("classes", SWAPPED, "finds class"),
    "silence": ("silent", SILENT, "and the file does not"),
    "scale": ("gain", [1.001], "of the score"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_float_file_is_refused(damage, toy, tmp_path, monkeypatch):
    name, value, message = DAMAGES[damage]
    damaged(monkeypatch, toy, name, value)
    with pytest.raises(ExportError, match=f"^Signature 'detect': .*{message}"):
        export(toy, tmp_path / "x.tflite", signatures="detect", calibration=CALIBRATION)
    assert list(tmp_path.iterdir()) == []


def test_a_right_file_says_how_right(toy, tmp_path):
    report = export(toy, tmp_path / "x.tflite", signatures="detect", calibration=CALIBRATION, batch_size=2)
    found = report.proof["detections"]["detect"]
    assert found["images"] == 64
    assert found["expected"] == found["found"] == found["pairs"] > 100
    assert found["agreement"] == pytest.approx(1, abs=1e-5)
    assert found["mean_iou"] == pytest.approx(1, abs=1e-5)
    assert found["exceptions"] == {}
    assert report.proof["tolerance"]["detections"] == {"exceptions": 0.01}
    assert set(report.proof["signatures"]["detect"]) == {"boxes", "scores"}
    assert report.proof["signatures"]["detect"]["boxes"]["max_rel_error"] < 1e-5
    assert f"{found['expected']} detections by Keras, {found['found']} in the file" in str(report)
    assert Report.load(f"{report.path}.json") == report
    assert inspect(report.path)["metadata"]["keras_dl"]["detections"] == ["detect"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gain", [0.75], "the sets agree by 0.7"),
        ("classes", SWAPPED, "the sets agree by 0."),
        ("shift", [2.0, 2.0, 2.0, 2.0], "mean IoU|the sets agree by"),
        ("silent", SILENT * [[[0.0]], [[1.0]], [[0.0]], [[1.0]]], "the sets agree by 0."),
    ],
)
def test_a_damaged_quantized_file_is_refused(name, value, message, toy, tmp_path, monkeypatch):
    damaged(monkeypatch, toy, name, value)
    with pytest.raises(ExportError, match=f"^Signature 'detect': .*(?:{message}).* 'raw' and 'postprocess'"):
        export(toy, tmp_path / "x.tflite", signatures="detect", quantization="dynamic_int8", calibration=CALIBRATION)


def test_the_cut_for_integer_hardware(toy, tmp_path):
    nets = export(toy, tmp_path / "raw.tflite", signatures="raw", quantization="int8", calibration=CALIBRATION)
    assert set(nets.signatures) == {"raw"}
    assert "detections" not in nets.proof
    rest = export(toy, tmp_path / "post.tflite", signatures="postprocess")
    assert rest.proof["detections"]["postprocess"]["pairs"] > 0


def test_without_detections_a_proof_says_that_it_shows_nothing(tmp_path):
    blind = Toy(score_threshold=0.9999)
    report = export(blind, tmp_path / "x.tflite", signatures="detect", calibration=CALIBRATION)
    assert any("Keras finds no detection in the 64 images" in warning for warning in report.warnings)
    report = export(blind, tmp_path / "x.tflite", signatures="detect")
    assert any("shows nothing" in x and "Give calibration data with objects" in x for x in report.warnings)
    with pytest.raises(ExportError, match=r"Keras finds no detection in 64 images. The proof would show nothing"):
        export(blind, tmp_path / "y.tflite", signatures="detect", quantization="dynamic_int8", calibration=CALIBRATION)


# Arrays.

A, B, C, D = [0, 0, 8, 8], [1, 0, 9, 8], [20, 20, 30, 30], [40, 0, 50, 10]
FILL = [[50.0 + 3 * i, 50, 52 + 3 * i, 60] for i in range(60)]  # far from the others


def image(*found, slots=4):
    """Outputs `(samples=1, batch=1, ...)` of detections `(box, score, class)`."""
    boxes, scores, classes = np.zeros((slots, 4), "float32"), np.zeros(slots, "float32"), np.full(slots, -1, "int32")
    for i, (box, score, of_class) in enumerate(found):
        boxes[i], scores[i], classes[i] = box, score, of_class
    outputs = {"boxes": boxes, "scores": scores, "classes": classes, "count": np.int32(len(found))}
    return {name: np.asarray(x)[None, None] for name, x in outputs.items()}


def several(*images):
    return {name: np.concatenate([x[name] for x in images]) for name in images[0]}


BACKGROUND = image(*[(box, 0.5 + 0.004 * i, i % 3) for i, box in enumerate(FILL)], slots=64)
NEAR = 2e-5  # within 1e-4 of the largest score


def compared(found, expected, quantization="none", random=False, background=True):
    sides = [x if not background else several(x, BACKGROUND) for x in (found, expected)]
    return detections.compare(
        "Signature 'detect'", *sides, quantization, verify.RELATIVE_TOLERANCE.get(quantization), random
    )[1]


def one(*found):
    return image(*found, slots=64)


@pytest.mark.parametrize(
    ("found", "expected", "reasons"),
    [
        # Rows that change places are no exception.
        ([(A, 0.9, 0), (C, 0.9 + NEAR, 0)], [(C, 0.9, 0), (A, 0.9, 0)], {}),
        # The loser of a tie is suppressed; either may lose.
        ([(A, 0.9, 0), (C, 0.8, 0)], [(B, 0.9 + NEAR, 0), (C, 0.8, 0)], {"tie": 2}),
        # The best class of a box.
        ([(A, 0.9, 0), (C, 0.8, 0)], [(A, 0.9, 1), (C, 0.8, 0)], {"tie": 2}),
        # At the threshold of scores: the lowest of all.
        ([(A, 0.9, 0)], [(A, 0.9, 0), (C, 0.25, 0)], {"threshold": 1}),
    ],
)
def test_near_ties_are_allowed_and_counted(found, expected, reasons):
    figures = compared(one(*found), one(*expected))
    assert figures["exceptions"] == reasons
    assert figures["pairs"] == len(expected) + 60 - len(reasons)


def test_what_a_tie_displaced_is_allowed():
    """B suppresses E, and A does not: E comes with A."""
    e = [5, 0, 13, 8]
    found, expected = [(A, 0.9, 0), (e, 0.7, 0)], [(B, 0.9 + NEAR, 0)]
    limits = ties.Limits(box=1e-3, score=1e-4, lowest=0.0, overlap=0.9, slots=64)
    sides = [detections._images("x", one(*x), "x")[0] for x in (found, expected)]
    reasons = ties.reasons(sides, [[0, 1], [0]], limits)
    assert reasons == {(0, 0): "tie", (1, 0): "tie", (0, 1): "displaced"}
    # Without the tie, nothing explains it.
    sides[1] = sides[1]._replace(scores=sides[1].scores - 0.1)
    assert ties.reasons(sides, [[0, 1], [0]], limits) == {}


def test_the_last_slot_may_go_to_either():
    found = [(A, 0.9, 0), (C, 0.8, 0)]
    full = [image(*found, (box, 0.7, 2), slots=3) for box in (D, [60, 0, 70, 10])]
    more = image((A, 0.6, 0), slots=3)
    figures = compared(*(several(x, more) for x in full), background=False)
    assert figures["exceptions"] == {"full": 2}


def test_an_overlap_at_the_threshold_of_suppression():
    near = [0, 2.0, 8, 10]  # IoU with A: 0.6, the largest of all
    figures = compared(one((A, 0.9, 0)), one((A, 0.9, 0), (near, 0.7, 0)))
    assert figures["exceptions"] == {"overlap": 1}
    # Others were kept that overlap more.
    kept = ([20, 20, 30, 29.0], 0.5, 1), (C, 0.6, 1)
    with pytest.raises(ExportError, match=r"Keras finds class 0 with a score of 0\.7 at \[0, 2, 8, 10\], and the file"):
        compared(one((A, 0.9, 0), *kept), one((A, 0.9, 0), (near, 0.7, 0), *kept))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([(A, 0.9, 0)], "Keras finds class 1 with a score of 0.8"),
        ([(A, 0.9, 0), (C, 0.8, 1), (D, 0.7, 2)], "the file finds class 2 with a score of 0.7"),
        ([(A, 0.9, 0), (C, 0.7999, 2)], "Keras finds class 1 .* It has class 2 with a score of 0.7999"),
        ([(A, 0.9, 0), ([20, 20, 31, 30], 0.81, 1)], r"It has class 1 .* at \[20, 20, 31, 30\] there"),
        ([(C, 0.9, 0), (A, 0.8, 1)], "Keras finds class 0"),
    ],
)
def test_what_no_tie_explains_fails(found, message):
    with pytest.raises(ExportError, match=f"^Signature 'detect': in image 0, .*{message}"):
        compared(one(*found), one((A, 0.9, 0), (C, 0.8, 1)))


def test_ties_are_few():
    pairs = [([20.0 * i, 0, 20 * i + 8, 8], [20.0 * i + 1, 0, 20 * i + 9, 8]) for i in range(10)]
    sides = [one(*[(pair[side], 0.9, 0) for pair in pairs]) for side in (0, 1)]
    with pytest.raises(ExportError, match=r"20 of 140 detections, .* have no equal. Near ties explain 1% at most"):
        compared(*sides)


@pytest.mark.parametrize("change", [{"count": 1}, {"count": 70}, {"count": 3}])
def test_slots_and_count_must_fit(change):
    expected = one((A, 0.9, 0), (C, 0.8, 1))
    found = expected | {name: np.full_like(expected[name], x) for name, x in change.items()}
    with pytest.raises(ExportError, match=r"the file gives count=.* the others the class -1"):
        compared(found, expected, background=False)


def test_outputs_that_are_no_detections(toy, tmp_path, monkeypatch):
    def detect(images):
        return {"boxes": tf.zeros((1, 4, 4)), "scores": tf.reduce_mean(tf.cast(images, "float32"), (1, 2, 3))}

    images = keras.KerasTensor((1, 8, 8, 1), "uint8", name="images")
    monkeypatch.setattr(
        Toy, "serving_signatures", lambda self, n: {"detect": Signature(detect, {"images": images}, detections=True)}
    )
    with pytest.raises(ExportError, match=r"Signature 'detect' is said to give detections.*It must give boxes"):
        export(toy, tmp_path / "x.tflite")


def many(count, seed=0, move=0.0, same=False):
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        rng = np.random.default_rng(seed if same else seed + i)
        corners, scores = rng.uniform(0, 80, (5, 2)), rng.uniform(0.5, 1, 5)
        boxes = np.concatenate([corners, corners + rng.uniform(10, 20, (5, 2))], -1) + move
        images.append(image(*zip(boxes, scores, rng.integers(0, 3, 5), strict=True), slots=8))
    return several(*images)


def test_a_file_that_ignores_its_images_fails():
    """It has few sets right by chance, and where all images look alike, many."""
    expected, found = many(16), many(16, same=True)
    with pytest.raises(ExportError, match=r"the sets agree by 0\.0"):
        compared(found, expected, "int8", background=False)
    mostly = several(many(15, same=True), many(1, seed=50))
    with pytest.raises(ExportError, match=r"Beyond this, it is -?0\.\d\d \(kappa\)"):
        compared(many(16, same=True), mostly, "int8", background=False)
    figures = compared(mostly, mostly, "int8", background=False)
    assert figures["kappa"] == pytest.approx(1)
    figures = compared(many(16, same=True), mostly, "int8", background=False, random=True)
    assert "kappa" not in figures


def test_agreement_by_hand():
    found, expected = image((A, 0.8, 0), (C, 0.5, 1)), image((A, 0.9, 0), (D, 0.3, 1))
    with pytest.raises(ExportError, match=r"2 detections, the file 2, and 1 agree. .* agree by 0\.471"):
        compared(found, expected, "int8", background=False)
    (a,), (b,) = (detections._images("x", x, "x") for x in (found, expected))
    figures = detections._agreement([a], [b], [{0: 0}])
    assert figures["agreement"] == pytest.approx(0.8 / (0.9 + 0.5 + 0.3))
    assert figures["mean_score_error"] == pytest.approx(0.1)
    assert figures["mean_iou"] == 1
    assert ties.overlaps(np.float64([A, C]), np.float64([B, C]))[0, 0] == pytest.approx(56 / 72)


def test_as_many_pairs_as_possible():
    """The nearest partner of one may be the only one of another."""
    limits = ties.Limits(1.0, 0.1, 0.0, 0.0, 4)
    (a,), (b,) = (
        detections._images("x", image(*x), "x")
        for x in (
            [([10, 0, 20, 9], 0.9, 0), ([11.2, 0, 20, 9], 0.9, 0)],
            [([9.5, 0, 20, 9], 0.9, 0), ([10.3, 0, 20, 9], 0.9, 0)],
        )
    )
    assert ties.equal_pairs(a, b, limits) == {0: 0, 1: 1}


@pytest.mark.parametrize(("quantization", "kind"), [("none", "float32"), ("none", "bool"), ("int8", "float32")])
def test_masks_go_with_their_boxes(quantization, kind):
    expected = one((A, 0.9, 0), (C, 0.8, 1))
    masks = np.random.default_rng(0).uniform(size=(1, 1, 64, 30, 30))  # 1,800 pixels of two masks
    masks = (masks > 0.5 if kind == "bool" else masks).astype(kind)
    sides = [x | {"masks": masks.copy()} for x in (expected, expected)]
    assert compared(*sides, quantization, background=False)["mean_mask_iou"] == 1
    sides[0]["masks"][0, 0, 1, 0, 0] = 1 - masks[0, 0, 1, 0, 0]  # one of them may differ
    compared(*sides, quantization, background=False)
    sides[0]["masks"][0, 0, 1] = masks[0, 0, 1, ::-1]
    with pytest.raises(ExportError, match="masks"):
        compared(*sides, quantization, background=False)
