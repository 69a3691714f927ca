"""`keras-dl train --distribute` and `keras-dl launch`: who takes part, which rows each gets, and how it ends."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from keras_dl import launching
from keras_dl.processes import python
from keras_dl.recipes.training import cluster, recipe, runner
from keras_dl.recipes.training.recipe import OptionError
from keras_dl.recipes.training.rendezvous import ClusterError

SECONDS = 1800  # of a busy machine


def config(kind="worker", index=1, **jobs):
    jobs = jobs or {"worker": ["a:1", "b:2"]}
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (config(), (1, ["a:1", "b:2"])),
        (config("chief", 0, chief=["c:3"], worker=["a:1"]), (0, ["c:3", "a:1"])),
        (config("worker", 0, chief=["c:3"], worker=["a:1"]), (1, ["c:3", "a:1"])),
    ],
)
def test_workers_of_config(monkeypatch, text, expected):
    monkeypatch.setenv("TF_CONFIG", text)
    assert cluster.find_workers() == expected


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "{}",
        config(index=2),
        config(index=-1),
        config("ps", 0, ps=["a:1"]),
        config(worker=["a", "b"]),
        config(worker=["a:1", "b:65536"]),
    ],
)
def test_no_cluster(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(OptionError, match=r"^TF_CONFIG "):
        cluster.find_workers()


def test_workers_of_slurm(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(OptionError, match="needs the environment variable TF_CONFIG"):
        cluster.find_workers()
    step = dict(PROCID="2", STEP_NUM_TASKS="4", STEP_NODELIST="n[01-02]", STEP_TASKS_PER_NODE="2(x2)")
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("KERAS_DL_PORT", "9000")
    assert cluster.find_workers() == (2, ["n01:9000", "n01:9001", "n02:9000", "n02:9001"])
    monkeypatch.setenv("KERAS_DL_PORT", "http")
    with pytest.raises(OptionError, match="KERAS_DL_PORT http must be the number of a port"):
        cluster.find_workers()


class TwoOfTwo:
    """A strategy of two workers with two replicas each, which gives each worker's datasets as lists."""

    num_replicas_in_sync = 4

    def distribute_datasets_from_function(self, function):
        contexts = [tf.distribute.InputContext(2, i, 4) for i in range(2)]
        return [[x.tolist() for x in function(context).as_numpy_iterator()] for context in contexts]


def test_rows_of_replicas():
    team = cluster.Team("mirrored", TwoOfTwo())
    rows = team.shared(tf.data.Dataset.range(16).batch(8))
    assert rows == [[[0, 1], [2, 3], [8, 9], [10, 11]], [[4, 5], [6, 7], [12, 13], [14, 15]]]
    # 6 rows, and then 3, which are fewer than the replicas.
    assert team.shared(tf.data.Dataset.range(9).batch(6)) == [
        [[0], [1, 2], *[[6, 7, 8]] * 2],
        [[3], [4, 5], *[[6, 7, 8]] * 2],
    ]


def test_data_that_cannot_be_shared():
    team = cluster.Team("mirrored", TwoOfTwo())
    data = tf.data.Dataset.from_tensors((tf.zeros((8, 2)), tf.zeros(5)))
    with pytest.raises(OptionError, match=r"a part of the shape \(5,\), which is not 8 rows"):
        team.check_data(data, 8, {})
    team.check_data(tf.data.Dataset.from_tensors({"x": tf.zeros((8, 2))}), 8, {})


def test_refused_before_the_folder_is_made(tmp_path, monkeypatch):
    team = cluster.Team("mirrored", TwoOfTwo())
    monkeypatch.setattr(cluster, "gathered", lambda *given: contextlib.nullcontext(team))
    data = toy.RECIPE.load_data(toy.RECIPE.options(), "model")
    graph = tf.data.Dataset.from_tensors((tf.zeros((8, 2)), tf.zeros(5)))
    data = dataclasses.replace(data, train=lambda epoch: graph)
    of_graphs = dataclasses.replace(toy.RECIPE, load_data=lambda options, variant: data)
    for found, size, message in (
        (toy.RECIPE, 6, "--batch-size 6 must be a multiple of the 4 replicas"),
        (of_graphs, 8, r"a part of the shape \(5,\), which is not 8 rows"),
    ):
        with pytest.raises(OptionError, match=message):
            runner.train(found, found.options(batch_size=size), tmp_path / "run", distribute="mirrored")
    assert not (tmp_path / "run").exists()


class Second(TwoOfTwo):
    """The strategy of a worker that is asked alone."""

    def run(self, function, args):
        return args[0]

    def experimental_local_results(self, value):
        return [value]


class Heard:
    """A meeting in which worker 0 has told what it has."""

    index, addresses = 1, ["a:1", "b:2"]

    def __init__(self, theirs):
        self.theirs = theirs

    def hear(self):
        return self.theirs


def test_unequal_data():
    texts, known = tf.constant([[b"a"], [b"b"]] * 2), {"data set": "numbers", "version": "1.0.0", "examples": 8}
    data = tf.data.Dataset.from_tensors((tf.range(4.0)[:, None], texts, tf.range(4)))

    def check(theirs, shards=False):
        cluster.Team("multi_worker", Second(), Heard(theirs)).check_data(data, 4, known, shards)

    own = [known, *map(cluster._summary, next(iter(data)))]
    check(json.loads(json.dumps(own)))
    check([known, [1.5001, 1.5001], *own[2:]])  # floats, that another processor has rounded
    check([known], shards=True)
    for theirs in (
        [known | {"version": "1.0.1"}, *own[1:]],
        [known, [1.6, 1.5], *own[2:]],
        [known, own[1], own[3], own[2]],
        [known],
    ):
        with pytest.raises(ClusterError, match=r"1 replicas have others than worker 0\. Here they are .*numbers"):
            check(theirs)
    with pytest.raises(ClusterError, match="not the same on all workers"):
        check([known | {"examples": 9}], shards=True)


def test_one_batch_for_the_learning_rate(capsys):
    found = recipe.find("mlp")
    team = cluster.Team("mirrored", TwoOfTwo())
    rules = (
        ({"scale_rate": "linear"}, "it goes to 4 times that"),
        ({"scale_rate": "square-root"}, "it goes to 2 times that"),
    )
    for given, factor in (
        ({}, None),
        ({"batch_size": 128}, "by 4 then"),
        ({"accumulate": 2}, "by 2 then"),
        *(({"batch_size": 64, "accumulate": 2, **rule}, said) for rule, said in rules),
    ):
        cluster.tell_of_batch(found, found.options(**given), team)
        said = capsys.readouterr().err
        assert (factor in said) if factor else (said == "")
    cluster.tell_of_batch(found, found.options(batch_size=128, learning_rate=1e-3), team)
    cluster.tell_of_batch(found, found.options(batch_size=128), cluster.Alone())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("end", "expected"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 1)])
def test_all_end_when_one_dies(monkeypatch, capfd, end, expected):
    script = f"import json, os, sys, time; i = json.loads(os.environ['TF_CONFIG'])['task']['index']\nif i == 1: {end}\n"
    monkeypatch.setattr(launching, "python", lambda *words: [sys.executable, "-c", f"{script}time.sleep({SECONDS})"])
    monkeypatch.setattr(launching, "SECONDS_TO_END", 0.1)
    started = time.monotonic()
    assert launching.launch(3, ["train", "mlp"]) == expected
    assert time.monotonic() - started < SECONDS / 2
    assert "keras-dl: worker 1 " in capfd.readouterr().err


def test_launch(monkeypatch, capfd):
    shown = "import json, os, sys; print(sys.argv[1:], os.environ['TF_CONFIG'])"
    monkeypatch.setattr(launching, "python", lambda *words: [sys.executable, "-c", shown, *words])
    assert launching.launch(2, ["train", "mlp", "--smoke"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("['-m', 'keras_dl', 'train', 'mlp', '--smoke', '--distribute', 'multi_worker']")
    assert err.startswith("worker 1: ['-m', 'keras_dl'")
    assert len(set(json.loads(out.split("] ", 1)[1])["cluster"]["worker"])) == 2
    with pytest.raises(ValueError, match="launch starts trainings"):
        launching.launch(2, ["evaluate", "x"])
    for words in (["--distribute", "mirrored"], ["--distribute=mirrored"]):
        with pytest.raises(ValueError, match=r"not --distribute mirrored\. Leave this option out"):
            launching.launch(2, ["train", "mlp", *words])


def weights(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


def start(folder, *words, workers=2):
    """The processes of a training, as a cluster starts them."""
    addresses = [f"127.0.0.1:{port}" for port in launching.free_ports(workers)]
    command = python("-m", "keras_dl", "train", *words, "--output", str(folder), "--distribute", "multi_worker")
    for index in range(workers):
        environment = os.environ | {"TF_CONFIG": config(index=index, worker=addresses), "TF_CPP_MIN_LOG_LEVEL": "3"}
        yield subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@contextlib.contextmanager
def training(folder, *words, **options):
    processes = list(start(folder, *words, **options))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


FOLD = ("mlp", "--variant", "fold-1", "--no-baseline", "--epochs", "60")


@pytest.mark.slow  # six processes that import everything, and three trainings
@pytest.mark.parametrize("dead", [0, 1])
def test_killed_and_resumed(tmp_path, dead):
    with training(tmp_path / "whole", *FOLD) as whole:
        assert [(process.communicate(timeout=SECONDS), process.returncode)[1] for process in whole] == [0, 0]
    with training(tmp_path / "killed", *FOLD) as killed:
        while not (tmp_path / "killed/checkpoints/fold-1.npz").exists():
            assert killed[0].poll() is None
            time.sleep(0.05)
        killed[dead].send_signal(signal.SIGKILL)
        _, said = killed[1 - dead].communicate(timeout=60)
        assert killed[1 - dead].returncode != 0
        assert f"worker {dead} (127.0.0.1:" in said
        assert not (tmp_path / "killed/report.json").exists()
    with training(tmp_path / "killed", *FOLD, "--resume") as resumed:
        assert [(process.communicate(timeout=SECONDS), process.returncode)[1] for process in resumed] == [0, 0]
    assert all(map(np.array_equal, weights(tmp_path / "killed"), weights(tmp_path / "whole")))
    assert (tmp_path / "killed/history.csv").read_text() == (tmp_path / "whole/history.csv").read_text()


@pytest.mark.slow  # whole commands in three processes
def test_as_one_machine(tmp_path):
    """A recipe without random layers: the same rows in the same steps."""
    words = ("train", "rnn", "--smoke", "--jit", "off", "--output")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    for command in (words, ("launch", "--workers", "2", *words)):
        folder = tmp_path / command[0]
        subprocess.run(python("-m", "keras_dl", *command, folder), check=True, env=environment, timeout=SECONDS)
    for found, expected in zip(weights(tmp_path / "launch"), weights(tmp_path / "train"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    report = json.loads((tmp_path / "launch/report.json").read_text())
    assert report["replicas"] == 2
    assert report["command"].endswith("--distribute multi_worker")
    assert not (pathlib.Path(tmp_path) / "launch/checkpoints").exists()


@pytest.mark.slow  # two processes that import everything
def test_other_options(tmp_path):
    with contextlib.ExitStack() as held:
        addresses = launching.free_ports(2)
        processes = []
        for index in range(2):
            environment = os.environ | {
                "TF_CONFIG": config(index=index, worker=[f"127.0.0.1:{port}" for port in addresses]),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            }
            words = ("train", "mlp", "--seed", index, "--output", tmp_path / "run", "--distribute", "multi_worker")
            options = dict(stderr=subprocess.PIPE, text=True, env=environment)
            processes.append(subprocess.Popen(python("-m", "keras_dl", *words), **options))
            held.callback(processes[-1].kill)
        for process in processes:
            assert "differs: options: keras-dl train mlp" in process.communicate(timeout=SECONDS)[1]
            assert process.returncode == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # two processes that import everything
def test_other_data(tmp_path):
    """Two machines have other files."""
    addresses = [f"127.0.0.1:{port}" for port in launching.free_ports(2)]
    with contextlib.ExitStack() as held:
        processes = []
        for index in range(2):
            place = tmp_path / str(index)
            place.mkdir()
            rows = [f"{i},{i * i + index},{'even' if i % 2 == 0 else 'odd'}" for i in range(40)]
            (place / "numbers.csv").write_text("\n".join(["x,y,kind", *rows]))
            environment = os.environ | {
                "TF_CONFIG": config(index=index, worker=addresses),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            }
            words = ("train", "mlp", "--data", "numbers.csv", "--target", "kind", "--distribute", "multi_worker")
            options = dict(stderr=subprocess.PIPE, text=True, env=environment, cwd=place)
            processes.append(subprocess.Popen(python("-m", "keras_dl", *words), **options))
            held.callback(processes[-1].kill)
        for process in processes:
            assert "Worker 1 (127.0.0.1:" in (said := process.communicate(timeout=SECONDS)[1])
            assert "; own data: " in said  # their paths differ, too
            assert process.returncode == 1
