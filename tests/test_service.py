"""`--data-service`: batches that another process prepares are those that the training would make itself."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from keras_dl.launching import free_ports
from keras_dl.processes import python
from keras_dl.recipes.training import runner, service
from keras_dl.recipes.training.recipe import WHOLE, OptionError, Part
from keras_dl.recipes.training.rendezvous import ClusterError

OPTIONS = toy.RECIPE.options(epochs=2, batch_size=8)
ROWS = 20  # two batches of 8, and a rest
SECONDS = 1800  # of a busy machine


def make(part):
    """Two epochs of numbered rows, or a part of each batch."""

    def epoch(number, part=part or WHOLE):
        rows = tf.data.Dataset.range(ROWS).map(lambda i: (i * tf.cast(number + 1, tf.int64), -i)).enumerate()
        rows = part.of(rows, OPTIONS, ROWS).map(lambda number, row: row)
        return rows.batch(part.size(OPTIONS), drop_remainder=True)

    return tf.data.Dataset.range(0, 2, output_type=tf.int32).flat_map(epoch)


def batches(dataset):
    return [[x.tolist() for x in batch] for batch in dataset.as_numpy_iterator()]


def ports_of_services(count):
    """Ports of which the next one is free, too."""
    found = []
    while len(found) < count:
        (port,) = free_ports(1)
        if all(abs(port - each) > 1 for each in found) and port < 65535:
            with socket.socket() as tried, contextlib.suppress(OSError):
                tried.bind(("", port + 1))
                found.append(port)
    return found


@contextlib.contextmanager
def services(count, host="127.0.0.1"):
    ports = ports_of_services(count)
    with contextlib.ExitStack() as held:
        for port in ports:
            held.enter_context(service.serving(port, host))
        yield [f"grpc://127.0.0.1:{port}" for port in ports]


@pytest.fixture(scope="module")
def addresses():
    with services(2) as found:
        yield found


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("part", [None, Part(1, 2)], ids=["whole", "second"])
def test_same_batches_in_the_same_order(addresses, count, part):
    found = service.through(addresses[:count], make, part)
    assert found.element_spec == make(part).element_spec
    expected = batches(make(part))
    assert len(expected) == 4
    assert batches(found) == expected
    assert batches(found) == expected, "each time it is read from its begin"


def test_no_service_is_needed():
    assert batches(service.through((), make, None)) == batches(make(None))


def test_a_second_worker_at_an_address(addresses):
    """tf.data service would hand out each batch twice."""
    with services(1) as [address]:
        options = dict(dispatcher_address=address.removeprefix("grpc://"), worker_address="127.0.0.1:%port%")
        second = tf.data.experimental.service.WorkerServer(tf.data.experimental.service.WorkerConfig(**options))
        message = f"^--data-service {address} sent another batch than was due"
        with pytest.raises(ClusterError, match=message), service.reached([address]):
            batches(service.through([address], make, None))
        del second


def test_a_service_that_was_started_again():
    """TensorFlow's dispatcher does not know the reader any more."""
    (port,) = ports_of_services(1)
    address = f"grpc://127.0.0.1:{port}"

    with contextlib.ExitStack() as held:
        first = held.enter_context(contextlib.ExitStack())
        first.enter_context(service.serving(port, "127.0.0.1"))

        def read():
            for number, _ in enumerate(service.through([address], lambda part: make(part).repeat(), None)):
                if number == 0:
                    first.close()
                    held.enter_context(service.serving(port, "127.0.0.1"))

        with (
            pytest.raises(ClusterError, match=r"was started again\. Continue with --resume"),
            service.reached([address]),
        ):
            read()


def test_functions_of_python(addresses):
    def of_python(part):
        return make(part).map(lambda x, y: (tf.numpy_function(lambda x: x, [x], tf.int64), y))

    with pytest.raises(OptionError, match="read by a function of Python, which only this process has"):
        service.through(addresses[:1], of_python, None)


@pytest.mark.parametrize(
    "address", ["localhost:5050", "grpc://:5050", "grpc://localhost", "http://localhost:5050", "grpc://a:65536", ""]
)
def test_wrong_addresses(address):
    with pytest.raises(OptionError, match=rf"--data-service {address} must be grpc://HOST:PORT"):
        service.reached([address]).__enter__()


def test_addresses_that_cannot_serve(addresses, monkeypatch):
    with pytest.raises(OptionError, match="is given twice"):
        service.reached([addresses[0], addresses[0]]).__enter__()
    with services(1) as [address]:
        pass
    with pytest.raises(ClusterError, match=rf"{address} was not reached: .*Connection refused"):
        service.reached([addresses[0], address], seconds=1).__enter__()
    monkeypatch.setattr(service, "SECONDS_TO_ANSWER", 2.0)
    with services(1, "unknown.invalid") as [address], pytest.raises(ClusterError, match=f"{address} sends nothing"):
        service.reached([address], seconds=1).__enter__()
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OptionError, match=f"--port {port}: port {port} cannot be used"):
            service.serving(port, "localhost").__enter__()


def test_a_service_that_vanishes(monkeypatch, capsys):
    monkeypatch.setattr(service, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(service, "SECONDS_OF_SILENCE", 1.0)
    monkeypatch.setattr(service, "_try", lambda address: None)  # nothing serves there
    ended = []
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(100)
        address = f"grpc://127.0.0.1:{one.getsockname()[1]}"
        with service.reached([address], ending=lambda: ended.append(True)):
            time.sleep(2)
            assert ended == []
            one.close()
            until = time.monotonic() + 60
            while not ended and time.monotonic() < until:
                time.sleep(0.05)
    assert ended == [True]
    assert f"--data-service {address} has not been reached for 1 s" in capsys.readouterr().err


@pytest.mark.slow  # three trainings
def test_weights_of_a_resumed_run(addresses, tmp_path):
    """Interrupted and resumed with the service, it ends bit by bit as a run that nobody interrupted without it."""
    options = dataclasses.replace(toy.RECIPE.options(epochs=4, batch_size=16, baseline=False), jit="off")

    def interrupt(options, epoch, model):
        if epoch == 2:
            raise KeyboardInterrupt

    runner.train(toy.RECIPE, options, tmp_path / "alone")
    interrupted = dataclasses.replace(toy.RECIPE, snapshot=interrupt)
    with pytest.raises(runner.Interrupted):
        runner.train(interrupted, options, tmp_path / "run", services=addresses[:1])
    assert (tmp_path / "run/checkpoints").exists()
    runner.train(toy.RECIPE, options, tmp_path / "run", resume=True, services=addresses[:1])
    whole, resumed = (
        keras.models.load_model(tmp_path / name / "model.keras").get_weights() for name in ("alone", "run")
    )
    assert all(map(np.array_equal, whole, resumed))
    with pytest.raises(OptionError, match="is given 2 times, and toy on sines prepares whole batches"):
        runner.train(toy.RECIPE, options, tmp_path / "two", services=addresses)


@pytest.mark.slow  # two processes that import everything
def test_killed_service(tmp_path):
    """The training does not wait for a service that is gone."""
    (port,) = ports_of_services(1)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    script = (
        "import sys, toy; from keras_dl.recipes.training import runner, service; service.SECONDS_OF_SILENCE = 5.0; "
        "options = toy.RECIPE.options(epochs=100000, jit='off'); "
        "runner.train(toy.RECIPE, options, sys.argv[1], services=sys.argv[2:])"
    )
    serve = python("-m", "keras_dl", "data", "serve", "--port", port, "--host", "127.0.0.1")
    train = python("-c", script, tmp_path / "run", f"grpc://127.0.0.1:{port}")
    with (
        subprocess.Popen(serve, env=environment) as serving,
        subprocess.Popen(train, env=environment, stderr=subprocess.PIPE, text=True) as training,
    ):
        try:
            while not list((tmp_path / "run").glob("checkpoints/*")):
                assert training.poll() is None
                time.sleep(0.05)
            serving.kill()
            said = training.communicate(timeout=SECONDS)[1]
        finally:
            serving.kill()
            training.kill()
    assert training.returncode != 0
    assert "has not been reached for 5 s. The training ends here. Continue with --resume." in said


@pytest.mark.slow  # five processes that import everything, and two trainings
def test_workers_with_services(tmp_path):
    """Two workers, whose rows two other processes augment, train as two that do it themselves."""
    words = ("launch", "--workers", "2", "train", "cnn", "--smoke", "--batch-size", "32", "--output")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    ports = ports_of_services(2)
    serving = [
        subprocess.Popen(
            python("-m", "keras_dl", "data", "serve", "--port", port, "--host", "127.0.0.1"), env=environment
        )
        for port in ports
    ]
    try:
        given = [word for port in ports for word in ("--data-service", f"grpc://127.0.0.1:{port}")]
        for name, more in (("alone", []), ("served", given)):
            subprocess.run(
                python("-m", "keras_dl", *words, tmp_path / name, *more), check=True, env=environment, timeout=SECONDS
            )
        for process in serving:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        for process in serving:
            process.kill()
            process.wait()
    alone, served = (keras.models.load_model(tmp_path / x / "model.keras").get_weights() for x in ("alone", "served"))
    assert all(map(np.array_equal, alone, served))
