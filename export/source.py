"""The source of several files: the signatures of a model, traced, run and written for the converter once."""

import copy
import functools
import logging
import pathlib
import tempfile

from keras_dl.export import litert, saved_model
from keras_dl.export.given import rereadable
from keras_dl.export.runners import KerasRunner
from keras_dl.export.samples import CALIBRATION_BATCHES, draw_inputs, read_calibration, split
from keras_dl.export.signatures import collect, inferred, named_as_scopes
from keras_dl.export.verify import reference

LOG = logging.getLogger("keras_dl.export")


class Source:
    """The signatures of a model, their samples, and results that several files share.

    The model must not change while this is in use.

    Args:
        model: a built `keras.Model`.
        batch_size: int. The static batch of every input.
        signatures: names of the signatures; None for all.
        calibration, input_shapes: as `keras_dl.export.export` takes them.

    Attributes:
        model: the model.
        batch_size: int.
        signatures: dict of `keras_dl.Signature` by name.
        samples: dict by signature of lists of dicts of arrays: the calibration data, or random inputs without it.
        assumed: list of the inputs whose dtype nobody has said.
        drawn: set of the names of signatures whose samples are random.
        calibrating: dict by signature of lists: the samples that set the ranges of integer files.
        held_out: dict by signature of int: so many of the proof's samples, the first ones, are not among them.
    """

    def __init__(self, model, batch_size=1, signatures=None, calibration=None, input_shapes=None):
        calibration = rereadable(calibration, CALIBRATION_BATCHES)
        self.model, self.batch_size = model, batch_size
        self.signatures = collect(model, batch_size, signatures, input_shapes, calibration)
        unsaid = inferred(model) and calibration is None
        inputs = [key for signature in self.signatures.values() for key in signature.inputs] if unsaid else []
        self.assumed = [key for key in inputs if not hasattr((input_shapes or {}).get(key), "dtype")]
        read = read_calibration(calibration, self.signatures)
        self.drawn = {name for name in self.signatures if name not in read}
        self.samples = {
            name: draw_inputs(x) if name in self.drawn else read[name] for name, x in self.signatures.items()
        }
        self.calibrating, self._proving, self.held_out = {}, {}, {}
        for name, samples in self.samples.items():
            self.calibrating[name], self._proving[name], self.held_out[name] = split(samples)
        self._expected = {}
        self._scratch = tempfile.TemporaryDirectory()
        self._start(loops=True)

    def _start(self, loops, fused=True):
        self._loops, self._fused, self._unlooped = loops, fused, {}
        self._traced, self._converters, self._float_files = {}, {}, {}

    def close(self):
        """Deletes the scratch folder."""
        self._scratch.cleanup()

    def without_loops(self, names, fused=True):
        """This source if the signatures have no loops; else one in whose graphs recurrent layers have none.

        The calibration of integer files cannot run loops. The outputs of Keras that the proof compares with stay those
        of the model as it is.

        Args:
            names: list of str.
            fused: bool. Whether a recurrent layer may be one fused op, which `int16x8` does not have.
        """
        concrete = [x.concrete for x in self.traced(names).values()]
        if not any(saved_model.has_loops(x) or (saved_model.has_fused(x) and not fused) for x in concrete):
            return self
        if fused not in self._unlooped:
            self._unlooped[fused] = copy.copy(self)
            self._unlooped[fused]._start(loops=False, fused=fused)
        return self._unlooped[fused]

    def unlooped_layers(self, names):
        """The layers whose loops `without_loops` has written out: list of str."""
        traced = [x for other in self._unlooped.values() for (name, _), x in other._traced.items() if name in names]
        return sorted({layer for x in traced for layer in x.unlooped})

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
                LOG.info("Tracing %r%s.", name, "" if self._loops else " without loops")
                traced = saved_model.trace(self.model, {name: self.signatures[name]}, dtypes, self._loops, self._fused)
                self._traced[name, float_pixels] = traced[name]
        return {name: self._traced[name, float_pixels] for name in names}

    def proof_samples(self, names):
        """The samples that the proof runs on, by signature."""
        return {name: self._proving[name] for name in names}

    def expected(self, names):
        """The outputs of Keras for the samples of the proof: see `keras_dl.export.verify.reference`."""
        for name in names:
            if name not in self._expected:
                runner = KerasRunner(self.model, self.batch_size, [name], self.traced([name]), self.signatures)
                self._expected |= reference(runner, self.proof_samples([name]))
        return {name: self._expected[name] for name in names}

    def converter(self, names, float_pixels=False):
        """A function from settings of the converter to a LiteRT file, bytes: see `keras_dl.export.litert.convert`."""
        key = (*names, float_pixels)
        if key not in self._converters:
            folder = pathlib.Path(tempfile.mkdtemp(dir=self._scratch.name))
            traced = self.traced(names, float_pixels)
            with named_as_scopes(self.model):
                litert.write(self.model, traced, folder)
            origins = {
                name: {key: saved_model.origin(y) for key, y in x.concrete.structured_outputs.items()}
                for name, x in traced.items()
            }
            opened = litert.reader(folder, names)
            self._converters[key] = functools.partial(litert.convert, self.model, opened, origins)
        return self._converters[key]

    def float_file(self, names, float_pixels=False):
        """The LiteRT file in float32, bytes, from which several quantizations are made."""
        key = (*names, float_pixels)
        if key not in self._float_files:
            self._float_files[key] = self.converter(names, float_pixels)()
        return self._float_files[key]
