"""Without a network, a download fails soon, with one clear error. No host is reached here but this machine."""

import socket
import time

import pytest
import tensorflow_datasets as tfds

from keras_dl.recipes import datasets
from keras_dl.recipes.datasets import network
from keras_dl.recipes.datasets.builder import Builder

CLOSED = "127.0.0.1:9"  # nothing listens there


class FarAway(Builder):
    """A data set of four files at `URL`."""

    VERSION = tfds.core.Version("1.0.0")
    URL = f"http://{CLOSED}"

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"x": tfds.features.Text()}))

    def _split_generators(self, downloads):
        downloads.download([f"{self.URL}/{i}" for i in range(4)])

    def _generate_examples(self):
        yield from ()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_download_without_a_network_fails_soon(tmp_path):
    start = time.perf_counter()
    with pytest.raises(datasets.DataError, match=r"far_away could not be .* no connection to 127\.0\.0\.1, port 9: "):
        datasets.prepare("far_away", data_dir=tmp_path, quiet=True)
    assert time.perf_counter() - start < network.SECONDS


def test_a_host_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.1)
    monkeypatch.setattr(socket, "create_connection", lambda *arguments: time.sleep(3) or socket.socket())
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"no connection to far\.invalid, port 443: no answer"):
        network.reach("https://far.invalid/file")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("url", ["http://far.invalid/x", "https://far.invalid/x"])
def test_a_proxy_is_tried_in_place_of_the_host(url, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(f"{url.partition(':')[0]}_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        network.reach(url)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1"):
        network.reach(url)


def test_the_port_of_the_url_and_its_scheme(monkeypatch):
    tried = []

    def refuse(address, seconds):
        tried.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for url in ("http://a/x", "https://a/x", "ftp://a/x", "http://a:8080/x", "gs://bucket/x"):
        with pytest.raises(ConnectionError):
            network.reach(url)
    network.reach("/a/file/of/this/machine")
    assert tried == [("a", 80), ("a", 443), ("a", 21), ("a", 8080), ("storage.googleapis.com", 443)]
