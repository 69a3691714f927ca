"""The device targets: their names, what they refuse beforehand, and the two pre-flights."""

import platform
import sys
from types import SimpleNamespace

import keras
import litert_files
import numpy as np
import pytest
import tensorflow as tf

import keras_dl
from keras_dl.export import export, graph
from keras_dl.export.errors import ExportError
from keras_dl.export.targets import Context, edgetpu, get_target, gpu, preflight, target_names
from keras_dl.export.targets.base import on_the_cpu


@pytest.fixture(autouse=True)
def _seeded():
    """In place of the one in conftest: it clears Keras's session, which takes longer than most of these tests."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """dict of LiteRT files by what is special about them."""
    folder = tmp_path_factory.mktemp("files")
    int8 = litert_files.write_classifier(folder / "int8.tflite", "int8")
    floor = litert_files.write_classifier(
        folder / "floor.tflite", "int8", last=keras.layers.Lambda(keras.ops.floor, name="floored")
    )

    def plain(name, function, shape=(1, 4, 4, 2)):
        return litert_files.write(folder / f"{name}.tflite", {"serve": function}, shape=shape)

    return {
        "float32": litert_files.write_classifier(folder / "float32.tflite"),
        "int8": int8,
        "floor": floor,
        "rank 5": plain("rank5", lambda images: {"y": tf.transpose(tf.reshape(images, (1, 2, 2, 4, 2)))}),
        "float64": plain("float64", lambda images: {"y": tf.cast(tf.sin(images), tf.float64)}),
        "dynamic": plain("dynamic", lambda images: {"y": tf.nn.relu(tf.sin(images))}, (None, 4, 4, 2)),
        "reverse": plain("reverse", lambda images: {"y": tf.sin(tf.reverse(tf.cos(tf.sin(images)), [1]))}),
    }


def run(name, path, tmp_path):
    return get_target(name).run(path, Context(tmp_path, "none", {}))


def test_names():
    assert target_names() == [
        *("cpu", "micro", "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256"),
        *("ethos-u65-512", "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048"),
        *("edgetpu", "gpu"),
    ]
    assert [get_target(name).name for name in target_names()] == target_names()


def test_unknown_name_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"target='ethos-u55-512' is unknown.*ethos-u55-256.*gpu"):
        get_target("ethos-u55-512")


def test_cpu_adds_nothing(files, tmp_path):
    for file_format in ("litert", "onnx", "saved_model"):
        get_target("cpu").check(file_format, "none")
    assert run("cpu", files["int8"], tmp_path) == {"summary": [], "files": []}


@pytest.mark.parametrize("name", [name for name in target_names() if name != "cpu"])
def test_other_formats_are_refused(name):
    with pytest.raises(ValueError, match=f"target='{name}' needs format 'litert', not format='onnx'"):
        get_target(name).check("onnx", "int8")


@pytest.mark.parametrize(
    ("name", "quantization", "allowed"),
    [
        ("ethos-u55-128", "none", "'int8' or 'int16x8'"),
        ("ethos-u85-2048", "float16", "'int8' or 'int16x8'"),
        ("micro", "dynamic_int8", "'none' or 'int8' or 'int16x8'"),
    ],
)
def test_quantization_that_would_do_is_named(name, quantization, allowed):
    with pytest.raises(ValueError, match=f"target='{name}' needs quantization {allowed}, not .*'{quantization}'"):
        get_target(name).check("litert", quantization)


@pytest.mark.parametrize(("name", "module"), [("micro", "tflite_micro"), ("ethos-u65-256", "ethosu.vela")])
def test_missing_package_is_named_before_any_work(name, module, monkeypatch):
    get_target(name).check("litert", "int8")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} is not installed.*keras_dl\[edge\]"):
        get_target(name).check("litert", "int8")


def test_a_system_without_a_wheel_of_tflite_micro_is_named(monkeypatch):
    """There, the command that installs it would fail."""
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(ImportError, match="wheels for Linux on x86-64 only, not for Darwin on arm64"):
        get_target("micro").check("litert", "int8")


@pytest.fixture(scope="module")
def lenet():
    return keras_dl.LeNet5((28, 28, 1), 10)


def calibration(model):
    (signature,) = model.serving_signatures().values()
    ((name, spec),) = signature.inputs.items()
    generator = np.random.default_rng(0)
    return [{name: generator.integers(0, 256, spec.shape, dtype="uint8")} for _ in range(64)]  # with 8, luck decides


def test_lenet_runs_wholly_on_an_ethos_u(lenet, tmp_path):
    report = export(
        lenet, tmp_path / "lenet.tflite", quantization="int8", target="ethos-u55-128", calibration=calibration(lenet)
    )
    found = report.target_report
    assert found["npu_op_share"] == found["npu_mac_share"] == 1.0
    assert found["ops"] == sum(report.ops.values())
    assert report.flex_ops == 0
    assert "100.0% of" in str(report)
    assert {file.name for file in tmp_path.iterdir()} == {"lenet.tflite", "lenet.tflite.json", *found["files"]}


def test_lenet_runs_in_tflite_micro(lenet, tmp_path):
    report = export(
        lenet, tmp_path / "lenet.tflite", quantization="int8", target="micro", calibration=calibration(lenet)
    )
    assert report.target_report["differences"]["probabilities"]["max_steps"] <= 1  # see micro.py on FULLY_CONNECTED
    assert {file.name for file in tmp_path.iterdir()} == {
        *("lenet.tflite", "lenet.tflite.json", "lenet.h", "lenet.c", "lenet_ops.h")
    }


def test_export_that_the_target_refuses_leaves_nothing(lenet, tmp_path):
    with pytest.raises(ValueError, match="target='ethos-u55-128' needs quantization 'int8' or 'int16x8'"):
        export(lenet, tmp_path / "lenet.tflite", target="ethos-u55-128")
    with pytest.raises(ExportError, match=r"tflite-micro cannot run lenet\.tflite: Input type UINT8"):
        export(lenet, tmp_path / "lenet.tflite", target="micro")  # it has no kernel that casts uint8 images
    assert list(tmp_path.iterdir()) == []


def test_graph_names_layers_and_counts_macs(files):
    ops = {op.layer.rpartition("/")[2].removesuffix("_1"): op for op in graph.read(files["int8"]).ops if op.macs}
    # Each output value of a convolution takes height x width x channels of its kernel.
    assert {layer: op.macs for layer, op in ops.items()} == {
        "first": 12 * 12 * 4 * 3 * 3 * 1,
        "second": 4 * 4 * 8 * 3 * 3 * 4,
        "head": 2 * 2 * 8 * 6,
    }


def test_parts_are_cut_where_an_op_is_refused():
    a, b, c, d, e = (tensor((1,), name=name) for name in "abcde")
    # x -> ADD a; a -> SIN b (refused); a -> COS c; b -> ABS d; (c, d) -> MUL e. COS does not wait for SIN.
    verdicts = [
        (op("ADD", [tensor((1,))], [a]), None),
        (op("SIN", [a], [b]), "refused"),
        (op("COS", [a], [c]), None),
        (op("ABS", [b], [d]), None),
        (op("MUL", [c, d], [e]), None),
    ]
    assert preflight.parts(verdicts) == [[0, 2], [3, 4]]


@pytest.mark.parametrize(
    ("file", "name", "op_name", "reason"),
    [
        ("rank 5", "gpu", "TRANSPOSE", "rank 5"),
        ("float64", "gpu", "CAST", "float64"),
        ("dynamic", "gpu", "SIN", "dynamic shape (-1, 4, 4, 2)"),
        ("reverse", "gpu", "REVERSE_V2", "no such op"),
        ("reverse", "gpu", "SIN", "not in the largest of the 2 parts"),
        ("float32", "edgetpu", "CONV_2D", "is float32; only int8 and uint8 run there"),
        ("dynamic", "edgetpu", "RELU", "dynamic shape (-1, 4, 4, 2)"),
        ("reverse", "edgetpu", "REVERSE_V2", "no such op"),
        ("rank 5", "edgetpu", "TRANSPOSE", "is float32"),
        ("floor", "edgetpu", "FLOOR", "no such op"),
        ("floor", "edgetpu", "SOFTMAX", "it comes after DEQUANTIZE"),
    ],
)
def test_refused_op_is_named_with_its_reason(files, tmp_path, file, name, op_name, reason):
    report = run(name, files[file], tmp_path)
    found = [refused["reason"] for refused in report["not_delegated"] if refused["op"] == op_name]
    assert any(reason in why for why in found), report["not_delegated"]
    assert report["delegated_ops"] + len(report["not_delegated"]) == report["ops"]
    assert report["delegated_share"] == report["delegated_ops"] / report["ops"]
    assert report["summary"][0].startswith(f"{report['delegated_ops']} of {report['ops']} ops delegated.")
    assert len(report["summary"]) == 1 + len({(x["op"], x["reason"]) for x in report["not_delegated"]})
    assert any(op_name in line and reason in line for line in report["summary"][1:])


def test_what_stays_on_the_cpu_for_one_reason_is_one_line():
    refused = [("PAD", "a", "no such op"), ("MUL", "b", "it comes after"), ("PAD", "c", "no such op")]
    lines = on_the_cpu([dict(zip(("op", "layer", "reason"), each, strict=True)) for each in refused])
    assert lines == [
        "PAD in 'a' and 1 more stay on the CPU: no such op",
        "MUL in 'b' stays on the CPU: it comes after",
    ]


@pytest.mark.parametrize(("file", "name"), [("int8", "edgetpu"), ("int8", "gpu"), ("float32", "gpu")])
def test_plain_network_is_wholly_delegated(files, tmp_path, file, name):
    report = run(name, files[file], tmp_path)
    assert report["not_delegated"] == []
    assert report["delegated_ops"] == report["ops"] == len(graph.read(files[file]).ops)
    assert report["delegated_share"] == 1.0


def test_weights_in_float16_are_constants_to_the_gpu(tmp_path):
    """The delegate takes as many ops of a float16 file as of a float32 file."""
    x = keras.Input((8, 8, 2), name="x")
    h = keras.layers.PReLU(shared_axes=(1, 2))(keras.layers.Conv2D(4, 3)(x))
    h = keras.layers.LayerNormalization()(keras.layers.Conv2DTranspose(4, 3)(h))
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(h)))
    for variable in model.trainable_variables:  # ones and zeros would be left out of the file
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    reports = export(model, tmp_path / "m.tflite", quantization=["none", "float16"], target="gpu")
    plain, half = (report.target_report for report in reports.values())
    assert reports["float16"].ops["DEQUANTIZE"] >= 6
    assert half["ops"] == plain["ops"]
    assert half["not_delegated"] == plain["not_delegated"]


def test_dynamic_shape_keeps_the_whole_graph_off_the_gpu(files, tmp_path):
    assert run("gpu", files["dynamic"], tmp_path)["delegated_ops"] == 0


def test_edgetpu_maps_what_comes_before_the_first_refused_op(files, tmp_path):
    report = run("edgetpu", files["floor"], tmp_path)
    ops = [op.name for op in graph.read(files["floor"]).ops]
    assert 0 < report["delegated_ops"] == ops.index("DEQUANTIZE")
    assert [refused["op"] for refused in report["not_delegated"]] == ops[ops.index("DEQUANTIZE") :]
    assert any(refused["layer"].endswith("floored_1") for refused in report["not_delegated"])


def tensor(shape, dtype="int8", values=None, name="x"):
    data = None
    if values is not None:
        data = tf.constant(values, dtype, shape).numpy().tobytes()
    return graph.Tensor(name, tuple(shape), dtype, constant=data is not None, data=data)


def axes(*values):
    return tensor((len(values),), "int32", values)


def op(name, inputs, outputs, **options):
    return graph.Op(name, False, inputs, outputs, SimpleNamespace(**options))


IMAGE = tensor((1, 8, 8, 6))
FLOATS = tensor((1, 8, 8, 6), "float32")
VECTOR = tensor((1, 6))
BATCH = tensor((2, 8, 8, 6))
KERNEL = tensor((4, 3, 3, 6), values=1)
MASKS = dict(ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0)
NO_PADDING, PADDING = [0, 0, 1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (op("RELU", [IMAGE], [IMAGE]), None),
        (op("RELU", [BATCH], [BATCH]), "only the 3 innermost"),
        (op("CONV_2D", [IMAGE, KERNEL, None], [IMAGE], dilationHFactor=2, dilationWFactor=2), None),
        (op("CONV_2D", [IMAGE, KERNEL, None], [IMAGE], dilationHFactor=1, dilationWFactor=2), "dilations 1 and 2"),
        (op("CONV_2D", [IMAGE, IMAGE, None], [IMAGE], dilationHFactor=1, dilationWFactor=1), "is not a constant"),
        (op("MAX_POOL_2D", [IMAGE], [IMAGE], fusedActivationFunction=0), None),
        (op("MAX_POOL_2D", [IMAGE], [IMAGE], fusedActivationFunction=1), "fused activation"),
        (op("CONCATENATION", [IMAGE, tensor((1, 8, 8, 6), values=0)], [IMAGE], fusedActivationFunction=0), None),
        (op("CONCATENATION", [IMAGE, tensor((1, 8, 8, 6), values=1)], [IMAGE], fusedActivationFunction=0), "zeros"),
        (op("FULLY_CONNECTED", [VECTOR, tensor((4, 6), values=1)], [tensor((1, 4))], weightsFormat=0), None),
        (op("FULLY_CONNECTED", [IMAGE, tensor((4, 6), values=1)], [IMAGE], weightsFormat=0), "not one-dimensional"),
        (op("MEAN", [IMAGE, axes(1, 2)], [VECTOR]), None),
        (op("MEAN", [IMAGE, axes(0)], [VECTOR]), "reduces the batch"),
        (op("MEAN", [IMAGE, axes(-1)], [VECTOR]), "reduces 6 channels"),
        (op("SUM", [IMAGE, axes(0, 1)], [VECTOR]), "reduces the batch"),
        (op("PACK", [VECTOR, VECTOR], [tensor((2, 1, 6))], axis=0), "packs in the batch"),
        (op("PAD", [IMAGE, tensor((4, 2), "int32", NO_PADDING)], [IMAGE]), None),
        (op("PAD", [IMAGE, tensor((4, 2), "int32", PADDING)], [IMAGE]), "pads the batch"),
        (op("PRELU", [IMAGE, tensor((1, 1, 6), values=1)], [IMAGE]), None),
        (op("PRELU", [IMAGE, tensor((8, 8, 6), values=1)], [IMAGE]), "share it over height and width"),
        (op("SOFTMAX", [VECTOR], [VECTOR]), None),
        (op("SOFTMAX", [IMAGE], [IMAGE]), "not one-dimensional"),
        (op("SOFTMAX", [tensor((1, 16_001))], [tensor((1, 16_001))]), "at most 16,000"),
        (op("SPLIT", [axes(3), IMAGE], [IMAGE]), None),
        (op("SPLIT", [axes(0), IMAGE], [IMAGE]), "splits in the batch"),
        (op("SQUEEZE", [tensor((1, 1, 10))], [tensor((1, 10))]), None),
        (op("SQUEEZE", [tensor((5, 1, 10))], [tensor((5, 10))]), "not leading"),
        (op("STRIDED_SLICE", [IMAGE, axes(0), axes(1), axes(1)], [IMAGE], **MASKS), None),
        (op("STRIDED_SLICE", [IMAGE, axes(0), axes(1), axes(2)], [IMAGE], **MASKS), "strides"),
    ],
)
def test_limits_of_the_edgetpu(one, reason):
    found = edgetpu.refuse(one)
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (op("RELU", [BATCH], [BATCH]), None),
        (op("UNIDIRECTIONAL_SEQUENCE_LSTM", [FLOATS], [FLOATS]), "no such op"),
        (op("ADD", [FLOATS, tensor((6,), "float32")], [FLOATS]), None),
        (op("MUL", [tensor((1, 8), "float32"), tensor((8, 1), "float32")], [FLOATS]), "broadcasts both"),
        (op("CAST", [FLOATS], [tensor((1,), "bool")]), None),
        (op("CAST", [tensor((1,))], [FLOATS]), "casts int8 to float32"),
        (op("CUMSUM", [FLOATS, axes(1)], [FLOATS]), None),
        (op("CUMSUM", [IMAGE, axes(1)], [IMAGE]), "floating-point"),
        (op("DEPTHWISE_CONV_2D", [FLOATS, KERNEL], [FLOATS], depthMultiplier=2), "multiplier is 2 on 6 channels"),
        (op("FULLY_CONNECTED", [FLOATS, KERNEL], [VECTOR], weightsFormat=0, keepNumDims=True), "differ in rank"),
        (op("GATHER", [FLOATS, axes(1, 2)], [FLOATS]), None),
        (op("GATHER", [FLOATS, tensor((1, 1), "int32", 0)], [FLOATS]), "indices of rank 1"),
        (op("GREATER", [FLOATS, FLOATS], [tensor((1,), "bool")]), None),
        (op("MEAN", [FLOATS, tensor((1,), "int64", 1)], [FLOATS]), "constant int32"),
        (op("PAD", [VECTOR, tensor((2, 2), "int32", 1)], [VECTOR]), "(2, 2) instead of"),
        (op("MIRROR_PAD", [FLOATS, tensor((4, 2), "int32", 1)], [FLOATS], mode=1), "symmetrically"),
        (op("RESHAPE", [FLOATS, axes(1, -1)], [VECTOR]), None),
        (op("RESHAPE", [FLOATS, tensor((2,), "int8")], [VECTOR]), "2 computed inputs"),
        (op("SELECT_V2", [tensor((1,), "bool"), FLOATS, FLOATS], [FLOATS]), None),
        (op("SELECT_V2", [tensor((1,), "bool"), IMAGE, IMAGE], [IMAGE]), "not floating-point"),
        (op("SLICE", [VECTOR, axes(0), axes(1)], [VECTOR]), "slices need 3 or 4"),
        (op("SOFTMAX", [VECTOR], [VECTOR], beta=1.0), None),
        (op("SOFTMAX", [VECTOR], [VECTOR], beta=2.0), "beta is 2"),
        (op("STRIDED_SLICE", [FLOATS, axes(0), axes(1), axes(1)], [FLOATS], **MASKS), None),
        (op("STRIDED_SLICE", [FLOATS, axes(0)], [FLOATS], **MASKS | {"shrinkAxisMask": 1}), "shrink-axis mask"),
        (op("DEQUANTIZE", [tensor((1,), "float16", 1)], [FLOATS]), None),
    ],
)
def test_limits_of_the_gpu(one, reason):
    found = gpu.refuse(one)
    assert (found is None) if reason is None else (reason in found)


def test_custom_ops_are_refused():
    custom = graph.Op("ADD", True, [FLOATS], [FLOATS])
    assert "no such op" in edgetpu.refuse(custom)
    assert "no such op" in gpu.refuse(custom)
