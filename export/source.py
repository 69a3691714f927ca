"""The source of several files: the signatures of a model, traced, run and written for the converter once."""

import functools
import pathlib
import tempfile

from keras_dl.export import litert, saved_model
from keras_dl.export.runners import KerasRunner
from keras_dl.export.samples import draw_inputs, read_calibration, split
from keras_dl.export.signatures import collect, named_as_scopes
from keras_dl.export.verify import reference


class Source:
    """The signatures of a model, their samples, and results that several files share.

    The model must not change while this is in use.

    Args:
        model: a built `keras.Model`.
        batch_size: int. The static batch of every input.
        signatures: names of the signatures; None for all.
        calibration: as `keras_dl.export.export` takes it.

    Attributes:
        model: the model.
        batch_size: int.
        signatures: dict of `keras_dl.Signature` by name.
        samples: dict by signature of lists of dicts of arrays: the calibration data, or random inputs without it.
        drawn: set of the names of signatures whose samples are random.
        calibrating: dict by signature of lists: the samples that set the ranges of integer files.
        held_out: dict by signature of int: so many of the proof's samples, the first ones, are not among them.
    """

    def __init__(self, model, batch_size=1, signatures=None, calibration=None):
        self.model, self.batch_size = model, batch_size
        self.signatures = collect(model, batch_size, signatures)
        given = read_calibration(calibration, self.signatures)
        self.drawn = {name for name in self.signatures if name not in given}
        self.samples = {
            name: draw_inputs(x) if name in self.drawn else given[name] for name, x in self.signatures.items()
        }
        self.calibrating, self._proving, self.held_out = {}, {}, {}
        for name, samples in self.samples.items():
            self.calibrating[name], self._proving[name], self.held_out[name] = split(samples)
        self._traced, self._expected, self._converters, self._float_files = {}, {}, {}, {}
        self._scratch = tempfile.TemporaryDirectory()

    def close(self):
        """Deletes the scratch folder."""
        self._scratch.cleanup()

    def traced(self, names, float_pixels=False):
        """The signatures as graphs.

        Args:
            names: list of str.
            float_pixels: bool. Whether inputs of uint8 are float32 instead, as integer quantization needs them.

        Returns:
            dict of `keras_dl.export.saved_model.Traced` by signature.
        """
        dtypes = {"uint8": "float32"} if float_pixels else None
        for name in names:
            if (name, float_pixels) not in self._traced:
                traced = saved_model.trace(self.model, {name: self.signatures[name]}, dtypes)
                self._traced[name, float_pixels] = traced[name]
        return {name: self._traced[name, float_pixels] for name in names}

    def proof_samples(self, names):
        """The samples that the proof runs on, by signature."""
        return {name: self._proving[name] for name in names}

    def expected(self, names):
        """The outputs of Keras for the samples of the proof: see `keras_dl.export.verify.reference`."""
        for name in names:
            if name not in self._expected:
                runner = KerasRunner(self.model, self.batch_size, [name], self.traced([name]))
                self._expected |= reference(runner, self.proof_samples([name]))
        return {name: self._expected[name] for name in names}

    def converter(self, names, float_pixels=False):
        """A function from settings of the converter to a LiteRT file, bytes: see `keras_dl.export.litert.convert`."""
        key = (*names, float_pixels)
        if key not in self._converters:
            folder = pathlib.Path(self._scratch.name) / str(len(self._converters))
            traced = self.traced(names, float_pixels)
            with named_as_scopes(self.model):
                litert.write(traced, folder)
            self._converters[key] = functools.partial(litert.convert, self.model, litert.reader(folder, names))
        return self._converters[key]

    def float_file(self, names, float_pixels=False):
        """The LiteRT file in float32, bytes, from which several quantizations are made."""
        key = (*names, float_pixels)
        if key not in self._float_files:
            self._float_files[key] = self.converter(names, float_pixels)()
        return self._float_files[key]
