"""Training on `tf.distribute`: two replicas end as one device does, and as each other bit by bit."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dl import distributing
from keras_dl.launching import free_ports

SCRIPT = pathlib.Path(__file__).with_name("replica_training.py")
SECONDS = 1800  # of a busy machine
# How far the variables may be from those of one device. Sums in another order differ by some bits of float32, or, of
# gradients in half precision, by their last bits in each step.
BITS = dict.fromkeys(
    ("perceptron", "accumulating", "averaging", "detector", "language", "by_layers", "without_targets"), 1e-5
)
BITS |= dict.fromkeys(("adversarial", "sampled_feeding", "diffusion"), 1e-5)
BITS |= {"half": 2.0**-10, "bfloat": 2.0**-7, "adversarial_half": 2.0**-10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


def run(strategy, folder, *tasks, workers=1):
    """Runs the tasks in processes of their own: what these wrote on stderr."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    command = [sys.executable, str(SCRIPT), strategy, str(folder), *tasks]
    processes = []
    try:
        for index in range(workers):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": json.dumps(config)}
            options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            processes.append(subprocess.Popen(command, **options))
        said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, words in zip(processes, said, strict=True):
        assert process.returncode == 0, words[-3000:]
    return said


def arrays(folder, task, which):
    with np.load(folder / f"{task}-{which}.npz") as file:
        return dict(file)


def check(folder, task, workers):
    """Workers are equal, and equal one device where nothing is random."""
    first = arrays(folder, task, 0)
    if workers == 2:
        other = arrays(folder, task, 1)
        assert first.keys() == other.keys()
        assert [name for name in first if first[name].tobytes() != other[name].tobytes()] == []
    one = arrays(folder, task, "one")
    if task not in BITS:
        return
    for name in set(one) - {"history"}:
        options = dict(rtol=BITS[task], atol=BITS[task], err_msg=f"{task}: {name}")
        np.testing.assert_allclose(first[name], one[name], **options)
    if task != "detector":  # of which one loss is a sum over the batch
        histories = [json.loads(str(x["history"])) for x in (first, one)]
        for key in histories[1]:
            if task == "diffusion" and key.startswith("val_"):  # with noise that is the same for each share
                continue
            np.testing.assert_allclose(*(x[key] for x in histories), rtol=10 * BITS[task], err_msg=f"{task}: {key}")


def test_two_workers(folder):
    run("multi_worker", folder, "perceptron", workers=2)
    check(folder, "perceptron", workers=2)


@pytest.mark.slow  # two processes with two more trainings
def test_two_workers_with_statistics_of_their_own(folder):
    said = run("multi_worker", folder, "own_statistics", "detector", workers=2)
    for task in ("own_statistics", "detector"):
        check(folder, task, workers=2)
    # The first worker says that statistics are of shares, for the model of which they are.
    assert [words.count("of 2 replicas normalizes its own share") for words in said] == [1, 0]
    final, after = (
        [x for name, x in arrays(folder, "own_statistics", 0).items() if k in name] for k in ("final", "epoch1")
    )
    assert len(final) == len(after)
    assert all(map(np.array_equal, final, after))


@pytest.mark.slow  # two processes with five or four more trainings; the short test has each kind of reduction
@pytest.mark.parametrize(
    "tasks",
    [
        ("accumulating", "averaging", "by_layers", "dropping", "language"),
        ("sampled_feeding", "adversarial", "convolutional", "diffusion"),
    ],
    ids=["of_keras", "of_their_own"],
)
def test_two_workers_with_steps(folder, tasks):
    run("multi_worker", folder, *tasks, workers=2)
    for task in tasks:
        check(folder, task, workers=2)


@pytest.mark.slow  # two processes with three more trainings
def test_two_workers_with_half_precision(folder):
    """With loss scales, of which both workers must skip a step for the gradients of one."""
    tasks = ("half", "bfloat", "adversarial_half")
    run("multi_worker", folder, *tasks, workers=2)
    for task in tasks:
        check(folder, task, workers=2)
    numbers = [float(x) for name, x in arrays(folder, "half", 0).items() if "final" in name and x.shape == ()]
    assert 2.0**13 in numbers  # of 2**15, halved by one step in each of two epochs


def test_mirrored(folder):
    tasks = ("language", "sampled_feeding")
    run("mirrored", folder, *tasks)
    for task in tasks:
        check(folder, task, workers=1)


@pytest.mark.slow  # the mirrored strategy differs from several workers in what test_mirrored has
def test_mirrored_steps(folder):
    tasks = (
        "perceptron",
        "accumulating",
        "averaging",
        "dropping",
        "detector",
        "adversarial",
        "without_targets",
        "diffusion",
        "half",
        "adversarial_half",
    )
    run("mirrored", folder, *tasks)
    for task in tasks:
        check(folder, task, workers=1)
    # The states of random generators are those of one device; what the second replica draws is not.
    seeds, kernels = ([arrays(folder, "dropping", which)[f"final_{i}"] for which in (0, "one")] for i in (0, 1))
    np.testing.assert_array_equal(*seeds)
    assert kernels[0].shape == (4, 1)
    assert not np.allclose(*kernels)


def test_keras_still_needs_it(monkeypatch):
    """If one of these fails, this Keras has mended what `keras_dl.distributing` stands in for: delete that part."""
    assert distributing.needs_build(), keras.__version__
    assert distributing.needs_axis(), keras.__version__

    class Mended:
        def _maybe_symbolic_build(self):
            """Keras's own way, which works."""

    def reduce_per_replica():
        """The same."""

    monkeypatch.setattr(distributing.trainer, "TensorFlowTrainer", Mended)
    monkeypatch.setattr(distributing.trainer, "reduce_per_replica", reduce_per_replica)
    assert not distributing.needs_build()
    assert not distributing.needs_axis()
    called = []
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([keras.layers.Dense(1)])
    distributing.build(model, lambda **given: called.append(given), iterator="the data")
    assert called == [{"iterator": "the data", "data_batch": None}]
    assert not model.built


def test_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    outside = keras.optimizers.SGD()
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(outside, "mse")
    distributing.distributed(model)
    with pytest.raises(ValueError, match="optimizer 'sgd' was made outside of the strategy that Sequential"):
        model.fit(np.ones((2, 1)), np.ones(2), verbose=0)
    with pytest.raises(ValueError, match="model=Sequential was made outside of the scope"):
        distributing.distributed(keras.Sequential([keras.layers.Dense(1)]))


def test_refused_on_several_replicas():
    class Two:
        num_replicas_in_sync = 2

    class Model(keras.Sequential):
        distribute_strategy = Two()

    model = Model([keras.Input((3, 1), batch_size=2), keras.layers.LSTM(1, stateful=True, name="carrying")])
    with pytest.raises(ValueError, match="layer 'carrying' is stateful"):
        distributing.check(model)
    model.jit_compile = True
    with pytest.raises(
        ValueError, match="jit_compile=True: XLA cannot compile a step of Model that waits for 2 replicas"
    ):
        distributing.check(model)


def test_statistics_agree_after_each_epoch():
    """Also after one whose steps moved no weights, since gradients were accumulated or a loss scale skipped them."""
    ran = []

    class Two:
        num_replicas_in_sync = 2

        def run(self, function):
            ran.append(function)

    class Model(keras.Sequential):
        distribute_strategy = Two()

    model = Model([keras.Input((3,)), keras.layers.BatchNormalization()])
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=4), "mse")
    for steps in (0, 1, 2):
        model.optimizer._iterations.assign(steps)
        assert model.optimizer.iterations == 0
        distributing.agree(model)
    assert len(ran) == 3
