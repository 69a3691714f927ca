"""Folders of published models, as the Hugging Face Hub has them: a `config.json` and weights in safetensors.

Weights may be in one file or in several (shards), which an index lists. A pickle is never opened, for it can run code.
"""

import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from keras_dl.extras import require
from keras_dl.files import FileError, read_json
from keras_dl.weights import read_safetensors

# transformers' name, and that of diffusers.
_NAMES = ("model", "diffusion_pytorch_model")
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")
_WANTED = ["config.json", "preprocessor_config.json", *(f"{name}*.safetensors*" for name in _NAMES)]
_CURE = "Download it again."


class Checkpoint(NamedTuple):
    """A published model.

    Attributes:
        folder: `pathlib.Path`.
        config: dict, of `config.json`.
        preprocessor: dict, of `preprocessor_config.json`; empty if there is none.
        weights: dict of NumPy arrays by name. They are memory-mapped: one is read when it is used.
    """

    folder: pathlib.Path
    config: dict
    preprocessor: dict
    weights: dict[str, np.ndarray]


def read_checkpoint(source: str | os.PathLike, revision: str | None = None) -> Checkpoint:
    """Reads a folder, or downloads one from the Hugging Face Hub.

    Args:
        source: the path of a folder with `config.json` and `model.safetensors` (or shards with their index, or
            diffusers' `diffusion_pytorch_model.safetensors`); or an id on the Hub, `"owner/name"`, where there is no
            such folder. What was downloaded before is not downloaded again.
        revision: str. Branch, tag or commit on the Hub; None for its main branch.

    Raises:
        ValueError: if `source` is neither a folder nor an id, or has a revision and is a folder.
        FileError: if a file of the folder is missing or damaged, or weights are a pickle alone. A ValueError.
        ImportError: if an id is given and huggingface_hub is not installed; the message holds the pip command.
    """
    folder = _folder(source, revision)
    if not (folder / "config.json").exists():
        raise FileError(folder, "has no config.json, which says what the model is.")
    optional = folder / "preprocessor_config.json"
    return Checkpoint(
        folder,
        read_json(folder / "config.json", "a model's config", _CURE),
        read_json(optional, "the config of a preprocessor", _CURE) if optional.exists() else {},
        _weights(folder),
    )


def _folder(source, revision):
    path = pathlib.Path(source)
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} was given, and source={str(source)!r} is a folder.")
        return path
    if path.is_file():
        raise FileError(path, "is a file. Give the folder that holds it and its config.json.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise ValueError(
            f"source={str(source)!r} is neither a folder nor an id on the Hugging Face Hub, such as 'google/vit-base'."
        )
    hub = require("huggingface_hub", extra="hub")
    errors = require("huggingface_hub.errors", extra="hub")
    try:
        return pathlib.Path(hub.snapshot_download(str(source), revision=revision, allow_patterns=_WANTED))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise ValueError(
            f"source={str(source)!r}{at} is no folder here, and the Hugging Face Hub does not give it: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def _weights(folder):
    for name in _NAMES:
        whole, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
        if whole.exists():
            return read_safetensors(whole)
        if index.exists():
            return _shards(folder, index)
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise FileError(
            pickles[0],
            "can run code when it is opened, so that it is not read. Convert it where torch is installed:\n"
            f"    state = torch.load({pickles[0].name!r}, weights_only=True)\n"
            "    safetensors.torch.save_file(state, 'model.safetensors')",
        )
    raise FileError(folder, "has no model.safetensors.")


def _shards(folder, index):
    places = read_json(index, "an index of shards", _CURE, types={"weight_map": dict})["weight_map"]
    names = set(places.values())
    for name in names:
        if not isinstance(name, str) or pathlib.PurePath(name).name != name or "\\" in name:
            raise FileError(index, f"names the shard {name!r}, which is not a file beside it.")
        if not (folder / name).exists():
            raise FileError(index, f"names the shard {name!r}, which is missing. {_CURE}")
    shards = {name: read_safetensors(folder / name) for name in sorted(names)}
    absent = [tensor for tensor, name in places.items() if tensor not in shards[name]]
    if absent:
        raise FileError(index, f"says that {places[absent[0]]} holds {absent[0]!r}, which it does not. {_CURE}")
    return {tensor: shards[name][tensor] for tensor, name in places.items()}
