"""The README's demo at smoke size: each of its promises but the accuracy, which needs the whole training."""

import json
import pathlib

import pytest

from keras_dl.recipes.training import demo
from keras_dl.recipes.training.recipe import OptionError


def test_demo(tmp_path):
    reports = demo.run(tmp_path / "demo", smoke=True)
    trained, exported = reports["trained"], reports["exported"]
    assert trained["smoke"] is True
    assert trained["value"] == exported["metric"]["keras"]
    assert abs(exported["metric"]["artifact"] - exported["metric"]["keras"]) <= 0.03  # of 128 digits, 3
    assert (exported["flex_ops"], exported["custom_ops"]) == (0, 0)
    assert exported["target_report"]["npu_op_share"] == exported["target_report"]["npu_mac_share"] == 1
    for name in ("model.keras", "report.json", "history.csv", "picture.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    assert pathlib.Path(exported["path"]).stat().st_size == exported["bytes"]
    said = demo.summary(tmp_path / "demo", **reports)
    assert "100% of the ops" in said
    assert f"{exported['path'].removesuffix('.tflite')}_vela.tflite" in said  # the one to flash
    assert f"{exported['metric']['artifact']:.2%}" in said

    # A whole run is not given up for a smoke run.
    record = json.loads((tmp_path / "demo" / "run.json").read_text())
    record["options"]["smoke"] = False
    (tmp_path / "demo" / "run.json").write_text(json.dumps(record))
    with pytest.raises(OptionError, match="would replace"):
        demo.run(tmp_path / "demo", smoke=True)
