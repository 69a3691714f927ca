"""Downloads of TensorFlow Datasets that end soon where there is no network.

TFDS tries each file up to ten times, waits longer each time, and waits without limit for an answer. Here, the host of a
file is tried first, once and for seconds.
"""

import contextlib
import errno
import queue
import socket
import threading
import urllib.parse
import urllib.request

SECONDS = 8  # for the name of a host and a connection to it


@contextlib.contextmanager
def reachable_hosts_only():
    """Makes downloads of TFDS fail at once, with a `ConnectionError`, if their host cannot be reached."""
    from tensorflow_datasets.core.download import downloader

    original = downloader._Downloader._sync_download

    def download(self, url, *arguments, **options):
        reach(url)
        return original(self, url, *arguments, **options)

    downloader._Downloader._sync_download = download
    try:
        yield
    finally:
        downloader._Downloader._sync_download = original


def reach(url):
    """Opens and closes a connection to the host of a URL, or to the proxy that the environment names for it.

    Args:
        url: str. Paths of files are not tried.

    Raises:
        ConnectionError: if there is none within `SECONDS`. The message names the host and the reason.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "gs":
        parts = urllib.parse.urlsplit("https://storage.googleapis.com")
    if not parts.hostname:
        return
    if not urllib.request.proxy_bypass(parts.hostname):
        proxy = urllib.request.getproxies().get(parts.scheme)
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"//{proxy}") if proxy else parts
    port = parts.port or {"http": 80, "ftp": 21}.get(parts.scheme, 443)
    outcome = queue.SimpleQueue()

    def connect():
        try:
            # Of several addresses, the first may lead nowhere: a third of the time for each.
            socket.create_connection((parts.hostname, port), SECONDS / 3).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    # In a thread, because the look-up of a name has no time limit. The end of the process does not wait for a daemon.
    threading.Thread(target=connect, daemon=True).start()
    try:
        error = outcome.get(timeout=SECONDS)
    except queue.Empty:
        error = TimeoutError(errno.ETIMEDOUT, "no answer")
    if error is not None:
        reason = error.strerror or error
        raise ConnectionError(f"There is no connection to {parts.hostname}, port {port}: {reason}.") from error
