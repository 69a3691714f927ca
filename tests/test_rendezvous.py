"""Processes of one training: how they meet, what they refuse, and that each hears of the end of another."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import pytest

from keras_dl.launching import free_ports
from keras_dl.recipes.training import rendezvous
from keras_dl.recipes.training.rendezvous import ClusterError

SECONDS = 30  # within which anything must have happened, on a busy machine


@contextlib.contextmanager
def meeting(haves, seconds=SECONDS, addresses=None, indices=None):
    """The `Meeting` of each process, here a thread; or its `ClusterError`. `ended` has the numbers of those ended."""
    addresses = addresses or [f"127.0.0.1:{port}" for port in free_ports(len(haves))]
    ended = []

    def one(index, have):
        try:
            return rendezvous.meet(index, addresses, have, seconds, ending=lambda: ended.append(index))
        except ClusterError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = list(pool.map(one, indices or range(len(haves)), haves))
    try:
        yield found, ended
    finally:
        for each in found:
            if isinstance(each, rendezvous.Meeting):
                each.leave()


def soon(condition):
    until = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def vanish(meeting):
    """What the system does with the connections of a killed process."""
    meeting._over.set()
    meeting._close()


def test_news_and_farewell():
    with meeting([{"keras": "3"}] * 3) as ((first, *others), ended):
        first.tell({"epochs": 2})
        first.tell(None)
        assert [[other.hear(), other.hear()] for other in others] == [[{"epochs": 2}, None]] * 2
        first.leave()
        for other in others:
            other.wait()
            other.leave()
        assert (first.lost, ended) == (None, [])


def test_port_in_use():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ClusterError, match=f"Port {port} of worker 0 .* cannot be used"):
            rendezvous.meet(0, [f"127.0.0.1:{port}", "127.0.0.1:1"], {}, 1)


def test_one_missing():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    with meeting([{}, {}], seconds=1, addresses=addresses) as (found, _):
        message = f"Within 1 s, these workers did not come: 2 ({addresses[2]})."
        assert [str(error).startswith(message) for error in found] == [True, True]


def test_first_missing():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    with pytest.raises(ClusterError, match=r"Worker 0 .* could not be reached within 1 s"):
        rendezvous.meet(1, addresses, {}, 1)


def test_difference():
    with meeting([{"keras": "3.15", "options": "a"}, {"keras": "3.14", "options": "a"}]) as (found, _):
        for error in found:
            assert "differs: keras: 3.15 at worker 0, 3.14 there." in str(error)


def test_two_with_one_number():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    thread = threading.Timer(0.5, lambda: say_hello(addresses[0], 1, {"number of workers": 3}))
    thread.start()
    with meeting([{}, {}], addresses=addresses) as (found, _):
        thread.join()
        assert ["Two processes say that they are worker 1" in str(error) for error in found] == [True, True]


def test_another_number_of_workers():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    thread = threading.Timer(0.5, lambda: say_hello(addresses[0], 2, {"number of workers": 3}))
    thread.start()
    with pytest.raises(ClusterError, match="Worker 2 differs: number of workers: 2 at worker 0, 3 there"):
        rendezvous.meet(0, addresses, {}, SECONDS)
    thread.join()


def say_hello(address, number, have):
    with socket.create_connection(rendezvous.split(address)) as connection:
        rendezvous._Line(connection).send({"worker": number, "has": have})
        connection.recv(1000)


@contextlib.contextmanager
def first_that_says(words):
    """The addresses of two workers, of which the first one answers these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(words)
                connection.recv(1000)  # until the other one leaves

        thread = threading.Thread(target=answer)
        thread.start()
        yield [f"127.0.0.1:{port}" for port in (server.getsockname()[1], *free_ports(1))]
        thread.join(SECONDS)


def test_news_at_once():
    """What comes in one piece with the welcome is not lost."""
    with first_that_says(b'{"welcome": true}\n{"news": {"epochs": 2}}\n{"done": true}\n') as addresses:
        other = rendezvous.meet(1, addresses, {}, SECONDS)
        assert other._news.get(timeout=SECONDS) == {"news": {"epochs": 2}}
        other.wait()
        other.leave()


def test_first_does_not_begin(monkeypatch):
    monkeypatch.setattr(rendezvous, "SECONDS_TO_SAY_WHO_IS_MISSING", 0)
    with (
        first_that_says(b"") as addresses,
        pytest.raises(ClusterError, match=r"Worker 0 .* has not begun within 1 s: it may wait for others"),
    ):
        rendezvous.meet(1, addresses, {}, 1)


def test_strangers():
    """What scans ports, and what sends anything, is no worker."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    done = []

    def disturb():
        unlike = (b'{"worker": 7, "has": {}}', b'{"worker": [1], "has": {}}\n', b'{"worker": 1}\n')
        for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", *unlike):
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(rendezvous.split(addresses[0])) as one:
                    one.sendall(words)
                    break
                time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=disturb)
    thread.start()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(rendezvous.meet, 0, addresses, {}, SECONDS)
        thread.join()
        second = rendezvous.meet(1, addresses, {}, SECONDS)
        assert done
        first.result().leave()
        second.leave()


@pytest.mark.parametrize("dead", [0, 1])
def test_loss(dead, monkeypatch):
    """All others hear at once that one has vanished, and end if they do not by themselves."""
    monkeypatch.setattr(rendezvous, "SECONDS_TO_END", 0.1)
    with meeting([{}] * 3) as (all_, ended):
        vanish(all_[dead])
        others = [each for each in all_ if each.index != dead]
        assert soon(lambda: all(each.lost for each in others))
        assert all(f"worker {dead} (127.0.0.1:" in each.lost for each in others)
        assert soon(lambda: sorted(ended) == [each.index for each in others])
        for each in others:
            if each.index:
                with pytest.raises(ClusterError, match=f"worker {dead} .* has ended, or cannot be reached"):
                    each.hear()


def test_silence(monkeypatch):
    """A machine without power closes no connection."""
    monkeypatch.setattr(rendezvous, "SECONDS_BETWEEN_SIGNS", 0.1)
    monkeypatch.setattr(rendezvous, "SECONDS_OF_SILENCE", 4.0)
    with meeting([{}, {}]) as ((first, second), _):
        time.sleep(5)
        assert first.lost is None
        second._over.set()  # its thread ends, and the connection stays
        assert soon(lambda: first.lost)
        assert "worker 1" in first.lost
        assert "has given no sign of life" in first.lost


def test_error_of_one(monkeypatch):
    monkeypatch.setattr(rendezvous, "SECONDS_TO_END", 0.1)
    with meeting([{}] * 3) as ((first, second, third), ended):
        second.leave("OSError: no space left")
        assert soon(lambda: first.lost and third.lost)
        assert first.lost.endswith("has ended: OSError: no space left")
        assert third.lost == first.lost
        assert soon(lambda: sorted(ended) == [0, 2])
