"""Data files from pinned Debian packages: downloaded by apt, checked by hash, cached, and never installed.

It is to apt what `wheels` is to pip: a `Deb` names one file of a Debian archive by its name and its sha256, and reads
members of it. No script of a package runs. The cache is that of the wheels. Without apt, without a release that has
this version, or without a network, put the file there by hand, under its own name.
"""

import io
import shutil
import subprocess
import tarfile

from keras_dl.recipes.datasets.tarballs import files_in
from keras_dl.recipes.datasets.wheels import Archive, DataError

_MAGIC, _HEADER = b"!<arch>\n", 60  # of an `ar` file, and the bytes before each of its members


class Deb(Archive):
    """A `.deb` file of a Debian archive, pinned by its hash.

    Attributes:
        filename: str, as apt calls it: `name_version_architecture.deb`.
        sha256: str, 64 hexadecimal digits.
        licence: str. The license of the content.
        bytes: int. Size of the file.

    Example:

    >>> Deb("sweethome3d-furniture_1.8-1_all.deb", "3ccb90...", "CC0", 119782356).requirement
    'sweethome3d-furniture=1.8-1'
    """

    @property
    def distribution(self):
        """str: name of the package."""
        return self.filename.split("_")[0]

    @property
    def version(self):
        """str: version of the package."""
        return self.filename.split("_")[1]

    @property
    def requirement(self):
        """str: `name=version`, as apt takes it."""
        return f"{self.distribution}={self.version}"

    def members(self, folder):
        """The files of one folder, in the order in which they are stored.

        Args:
            folder: str. Its path where the package would be installed, without the first slash.

        Yields:
            `(name, bytes)`: str without the folder, and the content.

        Raises:
            DataError: as `fetch`, and if the folder has no files.
        """
        with tarfile.open(fileobj=io.BytesIO(self._data()), mode="r:*") as archive:
            yield from files_in(archive, folder, self.filename)

    def _data(self):
        """The compressed archive of what the package installs: the member `data.tar.xz` of the `ar` file."""
        with open(self.fetch(), "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise DataError(f"{self.filename} is no Debian package.")
            while len(header := file.read(_HEADER)) == _HEADER:
                name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
                if name.startswith("data.tar"):
                    return file.read(size)
                file.seek(size + size % 2, io.SEEK_CUR)  # a member begins at an even place
        raise DataError(f"{self.filename} has no data.tar.")

    def _download(self, path):
        by_hand = f"put {self.filename} into {self.path().parent} by hand"
        apt = shutil.which("apt-get")
        if apt is None:
            raise DataError(
                f"{self.requirement} holds the data and apt-get is needed to download it, but there is none. Take the "
                f"file from a Debian archive, and {by_hand}."
            )
        command = [apt, "download", self.requirement, "--quiet", "--option=APT::Sandbox::User=root"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
        if result.returncode or not path.exists():
            reason = (result.stderr or result.stdout).strip()[-500:] or "it said nothing"
            raise DataError(
                f"apt-get could not download {self.requirement}, which holds the data: {reason}. Run apt-get update, "
                f"check that the release of Debian has this version, or {by_hand}."
            )
        self._check(path, "the Debian archive", f"check the archive, or {by_hand}")
