"""Keras models that are not of this package are exported, and their files hold on inputs that calibration never saw."""

import json
import pathlib
import sys

import keras
import pytest
from foreign import measure
from foreign_models import FOREIGN, NOT_SHOWN

DOCS = pathlib.Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS))

import keras_layers as table  # noqa: E402 - in docs

# See `foreign.error`. The proof asks for R2 of 0.9167 of int8 files, which is an error of 0.289, and for 0.9867 of the
# others, which is one of 0.115. Other inputs than those of the proof may be a tenth worse.
BOUNDS = {
    "none": 1e-4,
    "float16": 1e-2,
    **dict.fromkeys(("weight_only_int8", "dynamic_int8", "int16x8"), 0.127),
    "int8": 0.318,
}
QUICK = ("Conv2D", "AdaptiveAveragePooling2D", "uint8 pixels", "MultiHeadAttention, causal", "subclassed")


def _parameters():
    reason = "a model of the pool is six exports; make test runs some of them"
    for name in FOREIGN:
        yield pytest.param(name, marks=() if name in QUICK else pytest.mark.slow(reason=reason), id=name)


@pytest.mark.parametrize("name", _parameters())
def test_files_hold_on_fresh_inputs(name, tmp_path):
    """Each quantization exports or refuses as the table says. What it exports is near Keras's outputs."""
    recorded = json.loads(table.REPORT.read_text())["models"][name]
    result = measure(FOREIGN[name], tmp_path, targets=() if name in QUICK else tuple(table.FILES))
    for quantization, file in result["files"].items():
        assert file.get("refused") == recorded["files"][quantization].get("refused"), quantization
        assert file.get("error", 0.0) <= BOUNDS[quantization], quantization
    for target, share in result["targets"].items():
        assert table.rounded(share) == recorded["targets"][target], target


def test_every_layer_of_keras_has_a_model_or_a_reason():
    shown = {name for foreign in FOREIGN.values() for name in foreign.shows}
    reasons = [name for names in NOT_SHOWN.values() for name in names.split()]
    assert len(reasons) == len(set(reasons))
    assert not shown & set(reasons)
    known = {getattr(keras.layers, name).__name__ for name in (*shown, *reasons)}
    classes = (x for x in vars(keras.layers).values() if isinstance(x, type))
    everything = {x.__name__ for x in classes if issubclass(x, keras.layers.Layer)}
    assert known == everything


def test_page_is_made_of_the_report():
    assert table.PAGE.read_text() == table.page(json.loads(table.REPORT.read_text()))
    assert set(json.loads(table.REPORT.read_text())["models"]) == set(FOREIGN)
