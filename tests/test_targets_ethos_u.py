"""The targets `ethos-u*`: what Vela places on the NPU, what falls back to the CPU, and why."""

import csv

import keras
import litert_files
import pytest
import tensorflow as tf

from keras_dl.export import graph
from keras_dl.export.errors import ExportError
from keras_dl.export.targets import Context, ethos_u, get_target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ethos_u")


@pytest.fixture(scope="module")
def int8(folder):
    return litert_files.write_classifier(folder / "int8.tflite", "int8")


def run(name, path, folder):
    return get_target(name).run(path, Context(folder, "int8", {}))


@pytest.mark.parametrize("name", ethos_u.NAMES)
def test_convolutional_network_runs_wholly_on_the_npu(int8, tmp_path, name):
    report = run(name, int8, tmp_path)
    assert report["npu_ops"] == report["ops"] == len(graph.read(int8).ops)
    assert report["npu_op_share"] == report["npu_mac_share"] == 1.0
    assert report["cpu_ops"] == []
    assert report["macs"] == sum(op.macs for op in graph.read(int8).ops)
    assert report["accelerator"] == name
    assert [op.name for op in graph.read(tmp_path / "int8_vela.tflite").ops] == [ethos_u.NPU_OP]
    assert report["compiled_bytes"] == (tmp_path / "int8_vela.tflite").stat().st_size
    # The three figures are one: cycles at the clock that the report names.
    assert report["estimated_ms"] == pytest.approx(report["estimated_cycles"] / report["clock_mhz"] / 1e3, rel=1e-6)
    weights = sum(len(tensor.data) for op in graph.read(int8).ops for tensor in op.inputs if tensor and tensor.data)
    constants = "flash_bytes" if name.startswith("ethos-u55") else "dram_bytes"
    assert report[constants] > weights / 2  # compressed, beside the commands
    assert report["sram_bytes"] >= 12 * 12 * 4  # the largest feature map


def test_more_macs_per_cycle_are_faster(int8, tmp_path):
    cycles = [run(name, int8, tmp_path)["estimated_cycles"] for name in ("ethos-u55-32", "ethos-u55-256")]
    assert cycles[0] > cycles[1]


def test_layers_are_listed_in_a_file(int8, tmp_path):
    report = run("ethos-u55-128", int8, tmp_path)
    assert report["files"] == ["int8_vela.tflite", "int8_vela_layers.csv"]
    rows = list(csv.DictReader((tmp_path / "int8_vela_layers.csv").open()))
    assert {"Op Cycles", "MAC Count", "Name"} <= set(rows[0])
    assert sum("/first" in row["Name"] for row in rows) == 2  # the convolution and its tanh


def test_summary_states_what_the_estimate_assumes(int8, tmp_path):
    report = run("ethos-u65-512", int8, tmp_path)
    flash, shares, memory, estimate = report["summary"]
    assert report["flash"] == "int8_vela.tflite"
    assert flash.startswith("Flash int8_vela.tflite, which is compiled for ethos-u65-512. Its source int8.tflite runs")
    assert shares == f"100.0% of {report['ops']} ops and 100.0% of {report['macs']:,} MACs run on the NPU."
    assert f"SRAM {report['sram_bytes']:,} bytes, DRAM {report['dram_bytes']:,} bytes" in memory
    assert f"{report['estimated_cycles']:,} cycles at 1000 MHz (Ethos_U65_Client_Server, Dedicated_Sram" in estimate


def test_file_without_an_op_for_the_npu(folder, tmp_path):
    """Of a float file, which `check` refuses, Vela compiles nothing: no memory and no time is claimed."""
    path = litert_files.write_classifier(folder / "float32.tflite")
    report = run("ethos-u55-128", path, tmp_path)
    assert report["npu_ops"] == report["npu_op_share"] == report["npu_mac_share"] == 0
    assert report["summary"][1].startswith("0.0% of ")
    assert len(report["summary"]) == 2 + len({(op["op"], op["reason"]) for op in report["cpu_ops"]})


def test_fallback_is_named_with_its_layer_and_reason(folder, tmp_path):
    last = keras.layers.Lambda(lambda x: keras.ops.floor(x), name="floored")
    path = litert_files.write_classifier(folder / "floor.tflite", "int8", last=last)
    report = run("ethos-u55-128", path, tmp_path)
    fallen = {op["op"]: op for op in report["cpu_ops"]}
    assert fallen["FLOOR"]["reason"] == "Unsupported opType"
    assert "floored" in fallen["FLOOR"]["layer"]
    assert f"FLOOR in {fallen['FLOOR']['layer']!r} stays on the CPU: Unsupported opType" in report["summary"]
    assert "unsupported DataType Float32" in fallen["QUANTIZE"]["reason"]
    assert report["npu_ops"] == report["ops"] - len(report["cpu_ops"]) > 0
    assert report["npu_op_share"] == report["npu_ops"] / report["ops"]
    assert report["npu_mac_share"] == 1.0  # what fell back multiplies nothing


def test_arg_max_runs_on_the_npu(folder, tmp_path):
    """Vela makes several ops of it, some of which come from no op of the file."""
    model = litert_files.convolutional()

    def classify(images):
        return {"label": tf.argmax(model(images), axis=-1, output_type=tf.int32)}

    path = litert_files.write(folder / "label.tflite", {"classify": classify}, "int8", model=model)
    assert "ARG_MAX" in [op.name for op in graph.read(path).ops]
    report = run("ethos-u55-128", path, tmp_path)
    assert report["npu_op_share"] == 1.0
    assert report["cpu_ops"] == []


def test_convolution_that_falls_back_lowers_the_share_of_macs(folder, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="kept"),
            keras.layers.Conv2D(4, 5, 4, padding="same", name="wide"),  # strides over 3 need valid padding
        ]
    )
    path = litert_files.write(
        folder / "wide.tflite", {"serve": lambda images: {"y": model(images)}}, "int8", model=model
    )
    report = run("ethos-u55-128", path, tmp_path)
    (fallen,) = report["cpu_ops"]
    assert fallen["op"] == "CONV_2D"
    assert fallen["layer"].endswith("wide_1")
    assert "stride" in fallen["reason"].lower()
    kept, wide = 12 * 12 * 4 * 9 * 1, 3 * 3 * 4 * 25 * 4
    assert report["macs"] == kept + wide
    assert report["npu_mac_share"] == pytest.approx(kept / (kept + wide))


def test_int16x8_compiles(folder, tmp_path):
    path = litert_files.write_classifier(folder / "int16x8.tflite", "int16x8")
    report = run("ethos-u55-128", path, tmp_path)
    assert report["npu_mac_share"] == 1.0


def test_file_that_vela_cannot_read(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\0\0\0\0TFL3" + bytes(100))
    with pytest.raises(ExportError, match=r"Vela cannot compile broken\.tflite for ethos-u55-64: .+"):
        run("ethos-u55-64", path, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["broken.tflite"]


def test_a_file_that_vela_refuses_stays_on_the_cpu(folder, tmp_path):
    """Of a normalised row, Vela makes products that the NPU has not, and stops."""

    def normalised(images):
        row = tf.reshape(images, (1, -1))[:, :32]
        mean = tf.reduce_mean(row, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(row, mean), axis=-1, keepdims=True)
        return {"y": tf.math.floor((row - mean) * tf.math.rsqrt(variance + 1e-6))}

    path = litert_files.write(folder / "normalised.tflite", {"serve": normalised}, "int8")
    report = run("ethos-u55-128", path, tmp_path)
    assert report["refused"] == (
        "Vela refuses the whole file: RuntimeError: Non-passthrough operation (Mul) could not run on NPU"
    )
    assert report["npu_ops"] == report["npu_op_share"] == 0
    assert len(report["cpu_ops"]) == report["ops"]
    reasons = {op["op"]: op["reason"] for op in report["cpu_ops"]}
    assert reasons["FLOOR"] == "Unsupported opType"
    assert reasons["SQUARED_DIFFERENCE"] == report["refused"]
    assert report["files"] == []
    assert report["flash"] is None
    assert report["summary"][0] == "There is no file for the NPU, and nothing to flash."
    assert not list(tmp_path.iterdir())


def test_cause_of_a_failure_is_the_whole_error():
    printed = """Traceback (most recent call last):
  File "vela.py", line 137, in process_regor
    compiled_model = regor.compile(network)
                     ^^^^^^^^^^^^^^^^^^^^^^
RuntimeError: Compilation failed: Error: ARGMAX 'y' Does not have valid TFLite Semantics.
 - IFM has to be 8bit
   IFM type=FLOAT32,
Failed to parse TFLite file
"""
    assert ethos_u._cause(printed) == (
        "RuntimeError: Compilation failed: Error: ARGMAX 'y' Does not have valid TFLite Semantics. "
        "- IFM has to be 8bit IFM type=FLOAT32, Failed to parse TFLite file"
    )
    assert ethos_u._cause("first\nlast\n") == "last"
    assert ethos_u._cause("") == "it printed nothing"


def test_reasons_are_read_from_velas_warnings():
    output = """Some other line
Warning (supported operators) operator: RELU, ofm: "quoted, not in Vela's way"

Warning (supported operators) operator: QUANTIZE, ofm: 'a/b;c, d'
Reason: Unsupported type Float32 (x)
Must be one of {"INT8"}

Warning (supported operators) operator: CUMSUM, ofm: 'it's'
Reason: Unsupported opType
"""
    assert ethos_u._reasons(output) == {
        ("QUANTIZE", "a/b;c, d"): 'Unsupported type Float32 (x). Must be one of {"INT8"}',
        ("CUMSUM", "it's"): "Unsupported opType",
    }
    assert ethos_u._reasons("") == {}


def test_reason_of_an_op():
    convolution = graph.Op("CONV_2D", False, [], [graph.Tensor("y", (1,), "int8", constant=False)])
    assert ethos_u._reason(convolution, {("CONV_2D", "y"): "Too wide", ("RELU", "y"): "No"}) == "Too wide"
    assert ethos_u._reason(convolution, {("RELU", "y"): "Too wide"}) == "RELU: Too wide"
    assert ethos_u._reason(convolution, {("CONV_2D", "z"): "Too wide"}) == "Vela gave no reason"
