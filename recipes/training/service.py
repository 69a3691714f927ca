"""`--data-service`: other processes read, decode and augment, and send the batches: tf.data service.

Each address is that of a `keras-dl data serve`: one dispatcher and one worker. Several addresses divide the rows of
each batch between them. The batches are those that the training would make itself, in the same order: each carries its
number, and a number that is not due ends the training. (The sharding of tf.data service hands out rows in the order in
which its workers ask, which no seed decides. It is not used.)

A service that vanishes would let TensorFlow wait for an hour. The training looks for it, and ends after
`SECONDS_OF_SILENCE`; `--resume` goes on from the last epoch.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time

import tensorflow as tf

from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import WHOLE, OptionError, Part
from keras_dl.recipes.training.rendezvous import ClusterError, is_address, split

SECONDS_TO_REACH = 300.0
SECONDS_TO_ANSWER = 60.0  # after it was reached
SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_OF_SILENCE = 60.0
_NOT_DUE = "sent another batch than was due. It must have one worker: start it by `keras-dl data serve`."
_FUNCTIONS_OF_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


@contextlib.contextmanager
def serving(port: int, host: str):
    """Runs a dispatcher at `port` and a worker at the next one, until the end of the block.

    Args:
        port: int.
        host: str. The name or address of this machine, by which trainings reach it.

    Raises:
        OptionError: if a port is in use.
    """
    for each in (port, port + 1):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("", each))
            except OSError as error:
                raise OptionError(f"--port {port}: port {each} cannot be used: {error.strerror}.") from error
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    worker = service.WorkerServer(
        service.WorkerConfig(dispatcher_address=f"localhost:{port}", worker_address=f"{host}:{port + 1}", port=port + 1)
    )
    try:
        yield
    finally:
        del worker, dispatcher  # which ends them


def serve(port: int, host: str) -> str:
    """Prepares batches for trainings until it is interrupted. Arguments and errors are those of `serving`.

    Returns:
        str: the address for `--data-service`.
    """
    over, address = threading.Event(), f"grpc://{host}:{port}"
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with serving(port, host):
        say(f"prepares batches for trainings with --data-service {address}; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            over.wait()
    return address


@contextlib.contextmanager
def reached(addresses, seconds=None, ending=lambda: os._exit(1)):
    """Waits for data services, and looks for them in the block. If one vanishes, this process ends.

    Args:
        addresses: list of str: `"grpc://host:port"`.
        seconds: float. How long to wait. None for `SECONDS_TO_REACH`.
        ending: function that ends the process.

    Raises:
        OptionError: if an address is none, or is given twice.
        ClusterError: if one is not reached in time, sends nothing, or sends what is not due in the block.
    """
    places = [_place(address) for address in addresses]
    for place, address in zip(places, addresses, strict=True):
        if places.count(place) > 1:
            raise OptionError(f"--data-service {address} is given twice: each divides the work with the others.")
    until = time.monotonic() + (SECONDS_TO_REACH if seconds is None else seconds)
    for place, address in zip(places, addresses, strict=True):
        told = False
        while (error := _error_of(place)) and time.monotonic() < until:
            if not told:
                say(f"waits for --data-service {address}: {error}")
            told = True
            time.sleep(0.5)
        if error:
            raise ClusterError(
                f"--data-service {address} was not reached: {error}. `keras-dl data serve` starts one there."
            )
        _try(address)
    over = threading.Event()
    if places:
        threading.Thread(target=_look, args=(places, addresses, over, ending), daemon=True).start()
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        if addresses and "dispatcher restart" in str(error):
            raise ClusterError("A service of --data-service was started again. Continue with --resume.") from error
        for address in addresses:
            if f"{address} {_NOT_DUE}" in str(error):
                raise ClusterError(f"--data-service {address} {_NOT_DUE}") from error
        raise
    finally:
        over.set()


def _try(address):
    """Reads something through a service: its worker may have a name that this machine does not know."""
    service, found, errors = tf.data.experimental.service, [], []

    def read():
        numbers = tf.data.Dataset.range(1).apply(service.distribute(service.ShardingPolicy.OFF, address))
        try:
            found.extend(numbers.as_numpy_iterator())
        except tf.errors.OpError as error:
            errors.append(f": {error}")

    thread = threading.Thread(target=read, daemon=True)  # TensorFlow would wait without end
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    if not found:
        raise ClusterError(
            f"--data-service {address} sends nothing{''.join(errors)}. Start it by `keras-dl data serve`, with a "
            "--host by which this machine reaches it."
        )


def _place(address):
    protocol, _, place = address.rpartition("://")
    if protocol != "grpc" or not is_address(place):
        raise OptionError(f"--data-service {address} must be grpc://HOST:PORT.")
    return split(place)


def _error_of(place):
    """What keeps from reaching a server; None if it can be reached."""
    try:
        socket.create_connection(place, timeout=5).close()
    except OSError as error:
        return str(error)
    return None


def _look(places, addresses, over, ending):
    heard = [time.monotonic()] * len(places)
    while not over.wait(SECONDS_BETWEEN_LOOKS):
        for i, place in enumerate(places):
            if _error_of(place) is None:
                heard[i] = time.monotonic()
            elif time.monotonic() - heard[i] > SECONDS_OF_SILENCE and not over.is_set():
                print(
                    f"keras-dl: --data-service {addresses[i]} has not been reached for {SECONDS_OF_SILENCE:.0f} s. The "
                    "training ends here. Continue with --resume.",
                    file=sys.stderr,
                    flush=True,
                )
                ending()
                return


def through(addresses, make, part):
    """A dataset of batches, which the services prepare.

    Args:
        addresses: list of str. None of them: the batches are made here.
        make: function from a `Part`, or None for whole batches, to the `tf.data.Dataset` of batches.
        part: `Part` that this process trains on, or None for whole batches.

    Returns:
        `tf.data.Dataset`, with the elements of `make(part)` in their order.

    Raises:
        OptionError: if the data are read by functions of Python, which no other process has.
    """
    if not addresses:
        return make(part)
    if len(addresses) == 1:
        return _served(addresses[0], make(part))
    own = part or WHOLE
    readers = [Part(own.index * len(addresses) + i, own.count * len(addresses)) for i in range(len(addresses))]
    parts = [_served(address, make(reader)) for address, reader in zip(addresses, readers, strict=True)]
    joined = tf.data.Dataset.zip(*parts).map(lambda *rows: tf.nest.map_structure(lambda *x: tf.concat(x, 0), *rows))
    return joined.prefetch(tf.data.AUTOTUNE)


def _served(address, dataset):
    graph = tf.compat.v1.GraphDef.FromString(
        tf.raw_ops.DatasetToGraphV2(
            input_dataset=tf.data.experimental.to_variant(dataset), external_state_policy=1
        ).numpy()
    )
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if any(node.op in _FUNCTIONS_OF_PYTHON for node in nodes):
        raise OptionError(
            f"--data-service {address}: these data are read by a function of Python, which only this process has. "
            "Train without it."
        )
    service = tf.data.experimental.service
    served = dataset.enumerate().apply(service.distribute(service.ShardingPolicy.OFF, address))

    def due(number, numbered):
        found, batch = numbered
        said = f"{address} {_NOT_DUE}"
        with tf.control_dependencies([tf.debugging.assert_equal(found, number, said)]):
            return tf.nest.map_structure(tf.identity, batch)

    return served.enumerate().map(due).prefetch(tf.data.AUTOTUNE)
