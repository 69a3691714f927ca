"""The target `micro`: tflite-micro computes what LiteRT does, in the arena that the report names, from the C source."""

import ctypes
import re
import shutil
import subprocess
import types

import keras
import litert_files
import numpy as np
import pytest

from keras_dl.export import graph
from keras_dl.export.errors import ExportError
from keras_dl.export.targets import Context, c_array, get_target, micro

COMPILERS = {"c11": ["gcc", "-std=c11"], "c++17": ["g++", "-std=c++17", "-x", "c++"]}
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("micro")


@pytest.fixture(scope="module")
def int8(folder):
    return litert_files.write_classifier(folder / "le-net.int8.tflite", "int8")


@pytest.fixture(scope="module")
def report(int8, folder):
    return run(int8, folder)


def run(path, folder, quantization="int8", signature="classify", count=3):
    samples = {signature: litert_files.images(count)}
    return get_target("micro").run(path, Context(folder, quantization, samples))


def test_int8_is_equal_bit_for_bit(report):
    assert report["signature"] == "classify"
    assert report["samples"] == 3
    assert report["equal"]
    assert report["differences"] == {"probabilities": {"equal": True, "equal_share": 1.0, "max_steps": 0}}
    assert report["not_run"] == []
    assert f"an arena of {report['arena_bytes']:,} bytes" in report["summary"][0]
    assert (
        "probabilities of tflite-micro against LiteRT's reference kernels on 3 samples: equal bit"
        in report["summary"][1]
    )


def test_arena_is_enough_and_no_larger(int8, report):
    from tflite_micro.python.tflite_micro import runtime

    content, arena = int8.read_bytes(), report["arena_bytes"]
    runtime.Interpreter.from_bytes(content, arena_size=arena)
    with pytest.raises(RuntimeError, match="allocate"):
        runtime.Interpreter.from_bytes(content, arena_size=arena - 16)
    # It holds at least the largest pair of feature maps: 12 x 12 x 4 before and after tanh, which may share memory.
    assert arena >= 12 * 12 * 4


def test_arena_of_a_tiny_network_is_found(folder):
    """The search tries arenas with which the interpreter does not fail on this network but crashes."""
    model = keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(64, "relu", name="hidden_1"),
            keras.layers.Dense(64, "relu", name="hidden_2"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    path = litert_files.write(
        folder / "tiny.tflite", {"classify": lambda images: {"y": model(images)}}, "int8", (1, 30), model
    )
    report = get_target("micro").run(path, Context(folder, "int8", {"classify": litert_files.images(2, (1, 30))}))
    assert report["differences"]["y"]["max_steps"] <= 1  # see micro.py on FULLY_CONNECTED
    assert 1024 < report["arena_bytes"] < 4096


def test_float32_is_equal_to_rounding(folder):
    path = litert_files.write_classifier(folder / "float32.tflite")
    difference = run(path, folder, "none")["differences"]["probabilities"]
    assert difference["max_abs_error"] <= 1e-6  # probabilities


def test_int16x8(folder):
    path = litert_files.write_classifier(folder / "int16x8.tflite", "int16x8")
    difference = run(path, folder, "int16x8")["differences"]["probabilities"]
    assert difference["max_steps"] <= 1  # of 65,536


def test_first_of_two_signatures_is_run_and_the_other_is_named(folder):
    model = litert_files.convolutional()
    signatures = {
        "first": lambda images: {"y": model(images)},
        "second": lambda images: {"y": keras.ops.cumsum(model(images), axis=-1)},
    }
    path = litert_files.write(folder / "two.tflite", signatures, model=model)
    served = min(graph.read(path).signatures.items(), key=lambda item: item[1].subgraph)[0]
    report = run(path, folder, "none", signature=served)
    assert [report["signature"], *report["not_run"]] == [served, *({"first", "second"} - {served})]
    assert f"runs the first signature, {served!r}" in " ".join(report["summary"])
    assert "AddCumSum" in report["resolver_methods"]  # every subgraph is set up


def test_op_without_kernel_is_named_with_its_layer(folder):
    last = keras.layers.Lambda(lambda x: keras.ops.sign(x), name="signs")
    path = litert_files.write_classifier(folder / "sign.tflite", last=last)
    with pytest.raises(ExportError, match=r"tflite-micro has no kernel for SIGN in '.*signs.*'"):
        run(path, folder, "none")


def test_dtype_that_a_kernel_refuses_is_explained(folder):
    model = litert_files.convolutional()
    signatures = {"classify": lambda images: {"y": keras.ops.abs(keras.ops.cast(images, "int32")), "p": model(images)}}
    path = litert_files.write(folder / "int32.tflite", signatures, model=model)
    with pytest.raises(ExportError, match=r"tflite-micro cannot run int32\.tflite: .*ABS in '"):
        run(path, folder, "none")


def test_no_sample_no_proof(int8, folder):
    with pytest.raises(ValueError, match=r"target='micro' needs at least one sample of the signature 'classify'"):
        run(int8, folder, count=0)


def test_an_op_without_a_reference_kernel_is_compared_with_the_optimized_one(folder):
    path = litert_files.write_classifier(folder / "elu.tflite", last=keras.layers.ELU())
    report = run(path, folder, "none")
    assert report["kernels"] == "optimized"
    assert "against LiteRT's optimized kernels" in report["summary"][1]


def test_a_file_that_never_ends_is_an_error(int8, folder, monkeypatch):
    monkeypatch.setattr(micro, "MAX_SECONDS", 0.01)
    with pytest.raises(ExportError, match=r"did not finish 3 samples of le-net.int8.tflite in 0.01 s\.$"):
        run(int8, folder)


@pytest.mark.parametrize(("steps", "agrees"), [(micro.MAX_STEPS, True), (micro.MAX_STEPS + 1, False)])
def test_disagreement_is_an_error(int8, folder, monkeypatch, steps, agrees):
    litert = micro._run_litert

    def shifted(*args):
        kernels, outputs = litert(*args)
        return kernels, [{name: x.astype("int16") + steps for name, x in sample.items()} for sample in outputs]

    monkeypatch.setattr(micro, "_run_litert", shifted)
    if agrees:
        report = run(int8, folder)
        assert not report["equal"]
        assert report["differences"]["probabilities"] == {"equal": False, "equal_share": 0.0, "max_steps": steps}
        assert "0.0% of the values are equal, the others at most 8 quantization steps apart" in report["summary"][1]
    else:
        with pytest.raises(ExportError, match=rf"disagree on the output 'probabilities' by {steps}; 8 is allowed"):
            run(int8, folder)


def test_sums_of_integers_that_tflite_micro_adds_wrongly_are_named(folder):
    """All sums of a layer of additive attention differed, by up to 102 steps."""
    x = keras.Input((48,), name="images")
    model = keras.Model(x, keras.ops.sum(keras.layers.Dense(48)(x), axis=-1))
    path = litert_files.write(
        folder / "sum.tflite", {"serve": lambda images: {"y": model(images)}}, "int8", (1, 48), model
    )
    samples = {"serve": litert_files.images(3, (1, 48))}
    with pytest.raises(
        ExportError, match=r"allowed \(max_steps\)\. tflite-micro adds integers of 8 bits wrongly, in SUM"
    ):
        get_target("micro").run(path, Context(folder, "int8", samples))


def test_a_softmax_that_ends_the_process_is_named():
    x = graph.Tensor("model/probabilities/Softmax", (1,), "int8", constant=False, scales=(1e-9,), zero_points=(0,))
    ops = [graph.Op("SOFTMAX", False, [x], [x], types.SimpleNamespace(beta=1.0))]
    cause = micro._cause(subprocess.CompletedProcess([], -6, "", ""), ops)
    assert "The scale of the input of SOFTMAX in 'model/probabilities' is too small" in cause


@pytest.mark.parametrize(
    ("code", "stderr", "cause"),
    [
        (-6, "", "its interpreter was ended by signal 6."),
        (1, "No.\nNo.\nTraceback (most recent call last):\nRuntimeError: failed", "No."),
        (1, "Traceback (most recent call last):\nRuntimeError: failed", "RuntimeError: failed"),
        (1, "Node ABS (number 0f) failed to prepare", "ABS in 'model/layer' failed to prepare"),
        (1, "Node ABS (number 7) failed to prepare", "Node ABS (number 7) failed to prepare"),
    ],
)
def test_cause_of_a_failure(code, stderr, cause):
    ops = [graph.Op("ABS", False, [], [graph.Tensor("model/layer/Abs", (1,), "int8", constant=False)])]
    assert micro._cause(subprocess.CompletedProcess([], code, "", stderr), ops) == cause


def test_resolver_methods_belong_to_builtin_ops():
    from ai_edge_litert import schema_py_generated

    builtins = {name.replace("_", "") for name in vars(schema_py_generated.BuiltinOperator)}
    assert set(micro._BY_OP) <= builtins
    # Names that do not follow from the op's by rule, as tflite-micro's documentation and examples spell them.
    for name, method in {
        "CONV_2D": "AddConv2D",
        "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
        "BATCH_MATMUL": "AddBatchMatMul",
        "CUMSUM": "AddCumSum",
        "PADV2": "AddPadV2",
        "SPACE_TO_BATCH_ND": "AddSpaceToBatchNd",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    }.items():
        assert micro._BY_OP[name.replace("_", "")] == method


@pytest.mark.parametrize(
    ("stem", "name"), [("le-net.int8", "le_net_int8"), ("3d", "model_3d"), ("été", "model__t_"), ("_x", "model__x")]
)
def test_identifier(stem, name):
    assert c_array.identifier(stem) == name


def compiled(arguments, language):
    compiler = COMPILERS[language]
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    subprocess.run([*compiler, *STRICT, *map(str, arguments)], check=True)


@pytest.mark.parametrize("language", COMPILERS)
def test_c_source_holds_the_file(int8, report, folder, tmp_path, language):
    assert report["files"] == ["le-net.int8.h", "le-net.int8.c", "le-net.int8_ops.h"]
    library = tmp_path / "model.so"
    compiled(["-shared", "-fPIC", folder / "le-net.int8.c", "-o", library], language)
    loaded = ctypes.CDLL(str(library))
    size = ctypes.c_size_t.in_dll(loaded, "le_net_int8_size").value
    array = (ctypes.c_ubyte * size).in_dll(loaded, "le_net_int8")
    assert bytes(array) == int8.read_bytes()
    assert ctypes.addressof(array) % c_array.ALIGNMENT == 0
    header = (folder / "le-net.int8.h").read_text()
    assert re.search(r"#define LE_NET_INT8_ARENA_BYTES (\d+)", header)[1] == str(report["arena_bytes"])


def test_resolver_registers_each_op_once(int8, report, folder, tmp_path):
    expected = {op.name for op in graph.read(int8).ops}
    assert len(report["resolver_methods"]) == len(expected)
    # A stand-in for tflite-micro's header, with the methods that the resolver really has for these ops.
    methods = "".join(
        f"  TfLiteStatus {method}() {{ ++count; return kTfLiteOk; }}\n"
        for method in sorted(
            {
                "AddConv2D",
                "AddTanh",
                "AddAveragePool2D",
                "AddMaxPool2D",
                "AddReshape",
                "AddFullyConnected",
                "AddSoftmax",
            }
        )
    )
    header = tmp_path / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    header.write_text(
        "#pragma once\nenum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };\n"
        "#define TF_LITE_ENSURE_STATUS(a) do { if ((a) != kTfLiteOk) return kTfLiteError; } while (false)\n"
        f"namespace tflite {{ template <unsigned int N> struct MicroMutableOpResolver {{\n  unsigned int count = 0;\n"
        f"  static constexpr unsigned int size = N;\n{methods}}}; }}\n"
    )
    main = tmp_path / "main.cc"
    main.write_text(
        f'#include "{folder}/le-net.int8.h"\n#include "{folder}/le-net.int8_ops.h"\n'
        "int main() { LeNetInt8OpResolver resolver; if (RegisterLeNetInt8Ops(resolver) != kTfLiteOk) return 1;\n"
        "  return resolver.count == LeNetInt8OpResolver::size ? 0 : 2; }\n"
    )
    compiled(["-I", tmp_path, main, "-o", tmp_path / "main"], "c++17")
    assert subprocess.run([tmp_path / "main"]).returncode == 0


def test_micro_reads_real_values(int8, folder):
    """Samples are raw pixels: quantized by the file's own scale, they differ from sample to sample."""
    model = graph.read(int8)
    samples = micro._integers(model, "classify", litert_files.images(2))
    tensor = model.signatures["classify"].inputs["images"]
    for raw, stored in zip(litert_files.images(2), samples, strict=True):
        assert stored["images"].dtype == np.int8
        back = tensor.scales[0] * (stored["images"].astype("float64") - tensor.zero_points[0])
        np.testing.assert_allclose(back, raw["images"], atol=tensor.scales[0] / 2 + 1e-6)
