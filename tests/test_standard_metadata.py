"""TFLite's own metadata: what other readers find in a file, and MediaPipe's names of classes."""

import contextlib
import json
import pathlib
import subprocess
import venv
import zipfile

import export_models as models
import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.number_types import Float32Flags, Int32Flags, Uint8Flags, UOffsetTFlags
from flatbuffers.table import Table

import keras_dl
from keras_dl.export import Exporter, FileError, inspect, load, standard_metadata

LABELS = ["ant", "bee\nwasp", "Käfer"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("metadata") / "file.tflite"
    with contextlib.closing(Exporter(models.Classifier())) as exporter:
        exporter.export(path, metadata={"labels": LABELS})
    return path


def buffers(path):
    """The metadata buffers of a file: dict of bytes by name."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    return {x.Name().decode(): model.Buffers(x.Buffer()).DataAsNumpy().tobytes() for x in entries}


class Fields:
    """A table of a flatbuffer, read by the numbers of its fields."""

    def __init__(self, table):
        self._table = table

    def _place(self, field):
        offset = self._table.Offset(4 + 2 * field)
        return offset and self._table.Pos + offset

    def text(self, field):
        return self._table.String(self._place(field)).decode() if self._place(field) else None

    def table(self, field):
        return Fields(Table(self._table.Bytes, self._table.Indirect(self._place(field))))

    def tables(self, field):
        if not self._place(field):
            return []
        start, count = self._vector(field)
        return [Fields(Table(self._table.Bytes, self._table.Indirect(start + 4 * i))) for i in range(count)]

    def floats(self, field):
        start, count = self._vector(field)
        return [self._table.Get(Float32Flags, start + 4 * i) for i in range(count)]

    def _vector(self, field):
        offset = self._place(field) - self._table.Pos
        return self._table.Vector(offset), self._table.VectorLen(offset)

    def byte(self, field):
        return self._table.Get(Uint8Flags, self._place(field)) if self._place(field) else 0

    def number(self, field):
        return self._table.Get(Int32Flags, self._place(field))


def root(content):
    assert flatbuffers.util.BufferHasIdentifier(content, 0, b"M001")
    return Fields(Table(content, flatbuffers.encode.Get(UOffsetTFlags.packer_type, content, 0)))


def test_names_pixels_and_labels_are_where_readers_look(file):
    """By the numbers of the fields in metadata_schema.fbs."""
    metadata = root(buffers(file)["TFLITE_METADATA"])
    assert (metadata.text(0), metadata.text(7)) == ("classifier", "1.0.0")
    (subgraph,) = metadata.tables(3)
    (images,), (probabilities,) = subgraph.tables(2), subgraph.tables(3)
    assert (subgraph.text(0), images.text(0), probabilities.text(0)) == ("classify", "images", "probabilities")
    assert images.table(3).byte(0) == 2  # ImageProperties
    picture = images.table(3).table(1)
    assert picture.byte(0) == 2  # GRAYSCALE
    assert (picture.table(1).number(0), picture.table(1).number(1)) == (models.SIDE, models.SIDE)
    (unit,) = images.tables(4)
    assert unit.byte(0) == 1  # NormalizationOptions
    assert (unit.table(1).floats(0), unit.table(1).floats(1)) == ([0.0], [1.0])
    (labels,) = probabilities.tables(6)
    assert (labels.text(0), labels.byte(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_labels_are_read_back(file, tmp_path):
    with zipfile.ZipFile(file) as zipped:
        assert zipped.namelist() == ["labels.txt"]
        assert zipped.read("labels.txt").decode() == "ant\nbee wasp\nKäfer\n"
        assert zipped.infolist()[0].compress_type == zipfile.ZIP_STORED
    assert standard_metadata.labels_in(file) == ["ant", "bee wasp", "Käfer"]
    assert inspect(file)["metadata"]["labels"] == LABELS  # as they were given
    pixels = models.pixels(1)
    assert load(file).serve("classify", images=pixels)["probabilities"].shape == (1, 3)
    damaged = bytearray(file.read_bytes())
    place = damaged.rindex(b"ant\nbee")
    damaged[place] ^= 1
    (tmp_path / "damaged.tflite").write_bytes(damaged)
    with pytest.raises(FileError, match=r"damaged\.tflite"):
        standard_metadata.labels_in(tmp_path / "damaged.tflite")
    with zipfile.ZipFile(tmp_path / "bomb.tflite", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("labels.txt", bytes(65 << 20))
    with pytest.raises(FileError, match="would unpack"):
        standard_metadata.labels_in(tmp_path / "bomb.tflite")


def test_a_file_without_labels_has_no_archive(tmp_path):
    with contextlib.closing(Exporter(models.dense())) as exporter:
        exporter.export(tmp_path / "file.tflite")
    assert not zipfile.is_zipfile(tmp_path / "file.tflite")
    assert standard_metadata.labels_in(tmp_path / "file.tflite") == []
    (subgraph,) = root(buffers(tmp_path / "file.tflite")["TFLITE_METADATA"]).tables(3)
    (features,), (values,) = subgraph.tables(2), subgraph.tables(3)
    assert (features.text(0), features.tables(4), values.tables(6)) == ("features", [], [])


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("uint8 pixels in [0, 255]", (0.0, 1.0)),
        ("[0, 1]", (0.0, 255.0)),
        ("[-1.0, 1.0]", (127.5, 127.5)),
        ("[1, 0]", None),
        ("raw", None),
        (None, None),
    ],
)
def test_the_scale_of_pixels_follows_from_the_range(text, scale):
    assert standard_metadata.pixel_scale({"input_range": text}) == scale


MEDIAPIPE = """
import json, sys
import mediapipe, numpy
from mediapipe.tasks.python import BaseOptions, vision
rows = []
options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]), max_results=1)
with vision.ImageClassifier.create_from_options(options) as classifier:
    for pixels in numpy.load(sys.argv[2]):
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        (category,) = classifier.classify(image).classifications[0].categories
        rows.append([category.category_name, category.score])
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def mediapipe(tmp_path_factory):
    """The Python of an environment with MediaPipe."""
    folder = tmp_path_factory.mktemp("mediapipe") / "environment"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "mediapipe>=1.2"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"mediapipe could not be installed: {run.stderr.strip().splitlines()[-1:]}")
    return python


@pytest.mark.slow  # it installs MediaPipe, 650 MB
@pytest.mark.parametrize(("quantization", "io"), [("none", None), ("int8", "uint8"), ("int8", "float32")])
def test_mediapipe_names_the_classes(mediapipe, quantization, io, tmp_path):
    """Of pictures in color: MediaPipe takes no others."""
    model, labels = keras_dl.LeNet5((32, 32, 3), 10), [f"class {i}" for i in range(10)]
    pixels = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), "uint8")
    path = pathlib.Path(tmp_path / "file.tflite")
    with contextlib.closing(Exporter(model, [{"images": pixels}])) as exporter:
        report = exporter.export(path, quantization=quantization, io=io, metadata={"labels": labels})
    np.save(tmp_path / "pixels.npy", pixels[:8])
    (tmp_path / "run.py").write_text(MEDIAPIPE)
    command = [mediapipe, tmp_path / "run.py", path, tmp_path / "pixels.npy"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout.splitlines()[-1])
    (name,) = report.signatures
    probabilities = load(path).serve(name, images=pixels[:8])["probabilities"]
    step = 1 / 256 if io else 1e-4  # MediaPipe's kernels may round otherwise
    for (label, score), values in zip(rows, probabilities, strict=True):
        assert score == pytest.approx(values.max(), abs=step)
        assert values[labels.index(label)] == pytest.approx(values.max(), abs=step)
