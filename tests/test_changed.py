"""Which tests a change asks for, and whose CPU seconds a test's are."""

import subprocess

import pytest
from changed import NoBase, Selection, changed_files
from cpu_seconds import table
from parts import ARCHITECTURES, part_of


def wanted(*files):
    """A question to the selection of these changed files."""
    return Selection(list(files)).wants


def battery(ask, check="compiles_under_xla"):
    """The architectures of whose cases the battery runs a check."""
    return {name for name in ARCHITECTURES if ask("tests/test_battery.py", name, check)}


def test_a_model_asks_for_its_architecture_alone():
    ask = wanted("keras_dl/models/vision/vit.py")
    assert battery(ask) == {"vit"}
    assert ask("tests/test_vit.py")
    assert ask("tests/test_docs.py", values=("keras_dl.models.vision.vit",))
    assert not ask("tests/test_docs.py", values=("keras_dl.models.vision.resnet",))
    assert not ask("tests/test_resnet.py")
    assert not ask("tests/test_export_files.py")
    assert ask("tests/test_package.py"), "it reads all files"
    assert ask("tests/test_saved.py"), "it loads files of all classes"
    assert ask("tests/test_recipes.py", values=("vit", None))
    assert not ask("tests/test_recipes.py", values=("tcn", None))
    assert not wanted("export/quantize.py")("tests/test_saved.py")


def test_a_layer_asks_for_all_that_use_it():
    ask = wanted("keras_dl/layers/lstm.py")
    assert battery(ask) >= {"lstm", "seq2seq"}
    assert not battery(ask) & {"vit", "resnet", "mlp", "gnn"}
    assert ask("tests/test_recurrent_lm.py")
    assert ask("tests/test_characters.py"), "it finds the recipe by its name"
    assert not ask("tests/test_resnet.py")


def test_what_all_share_asks_for_all():
    assert battery(wanted("keras_dl/base.py")) == set(ARCHITECTURES)
    assert battery(wanted("tests/battery.py")) == set(ARCHITECTURES)
    assert battery(wanted("tests/case.py")) == set(ARCHITECTURES)
    for file in ("setup.cfg", "tests/conftest.py", "unknown.bin"):
        assert wanted(file)("tests/test_series.py")


def test_the_exporter_asks_for_its_tests_and_the_checks_of_files():
    ask = wanted("export/quantize.py")
    assert battery(ask) == set()
    assert battery(ask, "exports") == battery(ask, "exports_to_onnx") == set(ARCHITECTURES)
    assert ask("tests/test_export_quantization.py")
    assert not ask("tests/test_series.py")


def test_a_recipe_asks_for_its_tests():
    ask = wanted("recipes/tcn.py")
    assert battery(ask) == set()
    assert ask("tests/test_tcn.py")
    assert ask("tests/test_recipes.py", values=("tcn", "mnist_5k"))
    assert not ask("tests/test_recipes.py", values=("mlp", None))
    assert not ask("tests/test_mlp.py")


def test_tests_and_their_data_ask_for_themselves():
    assert battery(wanted("tests/cases/vit.py")) == {"vit"}
    assert battery(wanted("tests/cases/rnn.py")) == {"rnn", "gru", "lstm", "tcn"}, "the others import it"
    ask = wanted("tests/test_vit.py", "tests/oracles/convnext.npz")
    assert battery(ask) == set()
    assert [name for name in ARCHITECTURES if ask(f"tests/test_{name}.py")] == ["convnext", "vit"]


def test_texts_ask_for_the_tests_of_texts():
    for file in ("README.md", "docs/results/vit.md", "CHANGELOG.md"):
        ask = wanted(file)
        assert ask("tests/test_readme.py")
        assert not ask("tests/test_vit.py")
        assert battery(ask) == set()
    assert not battery(wanted())


def test_changed_files(tmp_path):
    """Committed since the branch began, changed and new; without a base, since the last tag."""

    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    def write(name, text):
        (tmp_path / name).write_text(text)
        git("add", name)
        git("commit", "-m", name)

    git("init", "--initial-branch", "main")
    write("old.py", "1")
    write("gone.py", "1")
    with pytest.raises(NoBase, match=r"neither origin/main nor a tag.*BASE="):
        changed_files(root=tmp_path)
    git("tag", "v1")
    git("branch", "other")
    write("committed.py", "1")
    (tmp_path / "old.py").write_text("2")
    (tmp_path / "new.py").write_text("1")
    (tmp_path / "gone.py").unlink()
    expected = ["committed.py", "gone.py", "new.py", "old.py"]
    assert changed_files(root=tmp_path) == changed_files("other", root=tmp_path) == expected
    with pytest.raises(NoBase, match="'nowhere' is no revision"):
        changed_files("nowhere", root=tmp_path)


def test_part_of_a_file():
    assert {part_of(name) for name in ("test_lstm", "test_recurrent_lm", "test_characters")} == {"lstm"}
    assert part_of("test_transformer_input") == "transformer"
    assert part_of("test_export_files") == "export_files"


def test_table_of_cpu_seconds():
    lines = table({"vit": 80.0, "gnn": 75.0, "export": 9.5, "docs": 90.0}, 12.0)
    assert [line.split() for line in lines if line.startswith(" ")] == [
        ["80.0", "vit", "OVER", "THE", "BUDGET"],
        ["75.0", "gnn"],
        ["90.0", "docs"],
        ["9.5", "export"],
        ["12.0"],
        ["266.5", "in", "all"],
    ]
