"""The arithmetic of the benchmarks, and one real measurement of the smallest net."""

import json
import sys

import pytest

from keras_dl.benchmarks import paired, seq2seq, streaming, workers
from keras_dl.benchmarks.contenders import tasks_of


def test_ratios_are_taken_within_a_round():
    """The machine is twice as slow in the second round; the ratio does not notice."""
    fast = [{"milliseconds": [10.0, 10, 99], "peak_mib": 5}, {"milliseconds": [20.0, 20, 99], "peak_mib": 7}]
    slow = [{"milliseconds": [15.0, 15, 99], "peak_mib": 5}, {"milliseconds": [30.0, 30, 99], "peak_mib": 5}]
    compared = paired._compare({"fast": fast, "slow": slow, "absent": [{"left_out": "not installed"}] * 2})
    assert compared["fast"]["ratio"]["median"] == 1
    assert compared["slow"]["ratio"] == {"median": 1.5, "lowest": 1.5, "highest": 1.5}
    assert compared["slow"]["milliseconds"] == 22.5
    assert compared["fast"]["peak_mib"] == 7
    assert compared["absent"] == {"left_out": "not installed"}


def test_contenders_take_turns(monkeypatch):
    seen = []

    def measure(benchmark, task, label):
        seen.append(label)
        return {"milliseconds": [1.0], "peak_mib": 1}

    monkeypatch.setattr(paired, "_in_a_process", measure)
    paired.run_benchmark("cnn", rounds=2, only=["lenet5-train"])
    assert seen == ["graph", "xla", "xla", "graph"]


def test_measures_in_processes_of_their_own():
    lines = []
    result = paired.run_benchmark("cnn", rounds=1, only=["lenet5-infer"], progress=lines.append)
    contenders = json.loads(json.dumps(result))["tasks"]["lenet5-infer"]["contenders"]
    assert set(contenders) == {"LiteRT file", "onnxruntime file", "keras_dl graph"}
    assert all(row["milliseconds"] > 0 and row["peak_mib"] > 50 for row in contenders.values())
    assert len(lines) == 3


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"no benchmark 'resnot'.*resnet"):
        tasks_of("resnot")
    with pytest.raises(ValueError, match="rounds=0"):
        paired.run_benchmark("cnn", rounds=0)
    with pytest.raises(ValueError, match=r"nothing.*lenet5-train"):
        paired.run_benchmark("cnn", only=["nothing"])


@pytest.mark.parametrize("create", [seq2seq.ours, seq2seq.theirs])
def test_both_translators_learn_the_same_task(create, monkeypatch):
    """The contenders with attention have as many weights, and their loss falls; in a graph, at the smallest sizes."""
    for name, size in dict(BATCH=2, LENGTH=4, VOCABULARY=9, EMBEDDING=3, UNITS=5).items():
        monkeypatch.setattr(seq2seq, name, size)
    assert create(attention=True)().count_params() == 938
    step = seq2seq.keras_step(create(attention=True), jit=False)()
    losses = [step() for _ in range(8)]
    assert losses[-1] < losses[0]


def test_streaming_times_what_gives_one_answer(monkeypatch):
    settings = dict(nets=("lstm", "tcn"), width=4, lengths=(3, 40), rounds=3, calls=2)
    report = json.loads(json.dumps(streaming.measure(**settings)))
    for net in report["nets"].values():
        assert net["difference"] <= streaming.TOLERANCE
        assert net["step_ms"] > 0
        assert set(net["sequence_ms"]) == {"3", "40"}
        assert net["ratio"]["40"]["lowest"] <= net["ratio"]["40"]["median"] <= net["ratio"]["40"]["highest"]
    assert report["nets"]["tcn"]["parameters"] == streaming.create("tcn", 4, 3, 40).count_params()
    panels = [axis.get_title(loc="left") for axis in streaming.picture(report).axes]
    assert [title.split(",")[0] for title in panels] == ["LSTM", "TCN"]

    def forgets(runner, features, states):
        answer, _ = advance(runner, features, states)
        return answer, states

    advance = streaming.advance
    monkeypatch.setattr(streaming, "advance", forgets)
    with pytest.raises(RuntimeError, match=r"lstm: step and sequence differ by 0\.\d+"):
        streaming.measure(**settings)


def test_reach_of_the_streamed_network():
    assert streaming.create("tcn", 2, 3, 15).receptive_field == 15
    assert streaming.create("tcn", 2, 3, 16).receptive_field == 43


def test_ratios_of_workers():
    times = {"one core": [40.0, 80.0, 44.0], "all cores": [20.0, 40.0, 20.0], "workers": [25.0, 50.0, 22.0]}
    found = workers.summary(times)
    assert found["milliseconds"] == {"one core": 44.0, "all cores": 20.0, "workers": 25.0}
    assert found["workers / all cores"] == {"median": 1.25, "lowest": 1.1, "highest": 1.25}
    assert found["one core / workers"] == {"median": 1.6, "lowest": 1.6, "highest": 2.0}
    for given, message in ((dict(workers=1), "workers=1 must be in"), (dict(rounds=0), "rounds=0 must be at least 1")):
        with pytest.raises(ValueError, match=message):
            workers.measure(**given)


def test_a_worker_that_fails(monkeypatch):
    """The other one, which would wait for it, is ended."""
    script = "import json, os, sys, time; i = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
    script += "sys.exit('no memory') if i else time.sleep(1800)"
    monkeypatch.setattr(workers, "python", lambda *words: [sys.executable, "-c", script])
    with pytest.raises(RuntimeError, match="workers ended with exit code 1:\nno memory"):
        workers._run("workers", [0, 1], 2)


@pytest.mark.slow  # four processes that import TensorFlow and train a ResNet
def test_workers_take_the_same_steps():
    found = workers.measure(rounds=1, steps=2)
    assert set(found["milliseconds"]) == set(workers.WAYS)
    assert all(milliseconds > 0 for milliseconds in found["milliseconds"].values())
