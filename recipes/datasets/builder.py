"""The base class of the builders of this package."""

import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A `tfds.core.GeneratorBasedBuilder` that several processes may prepare at once.

    Attributes that a subclass sets beside those of TFDS:
        TITLE: str. One line.
        LICENCE: str. License of the data, in one line.
        SOURCE: `Wheel`, `Tarball` or `Deb`, a list of them, or None for data of scikit-learn and for generated data.
        ORIGIN: str, or None. `"formula"` for data that is generated.
        EXAMPLES: dict of int. Number of examples by split.
    """

    # TFDS looks for the checksums of downloads beside the code. A wheel has its own, so there is no such file; and
    # the search for it needs importlib_resources, which TFDS 4.9.10 forgets to require (tensorflow/datasets#11212).
    code_path = None
    ORIGIN = None

    def download_and_prepare(self, **kwargs):
        """As in TFDS, but without an error if another process was faster."""
        try:
            super().download_and_prepare(**kwargs)
        except OSError:  # the finished folder could not be renamed onto that of the other process
            if not self.is_prepared():
                raise
            self.info.read_from_directory(self.data_dir)
        if not self.info.splits:  # prepared by the other process after this object was made
            self.info.read_from_directory(self.data_dir)
