"""From inputs of users to answers: which signature is asked, and what its outputs mean."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_dl.export.decoding import beam_search
from keras_dl.ops.letterbox import unletterbox_boxes
from keras_dl.recipes.prediction import drawing, reading, surfaces
from keras_dl.recipes.prediction.source import open_source
from keras_dl.recipes.training.recipe import OptionError

# Signatures that answer a question about one input, the best first. Others are parts, or make something of noise.
ASKED = (
    "detect",
    "segment",
    "classify",
    "translate",
    "predict",
    "sequence",
    "extract",
    "serve",
    "a_to_b",
    "classify_nodes",
)
NETWORK = {"nodes", "node_mask", "edges", "edge_mask"}
TRANSLATING = {"encode", "decode_step"}
BETWEEN = {"a_to_b": (0, 1), "b_to_a": (1, 0)}  # signatures that translate pictures: from and to which domain
BEST = 3  # classes that are named
SHOWN_SCORE = 0.25  # of detections


def predict(
    source: str | os.PathLike,
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    signature: str | None = None,
    output: str | os.PathLike | None = None,
    trust: bool = False,
) -> list[dict]:
    """Answers for pictures, rows of tables, series or texts: also `keras_dl.predict`.

    Args:
        source: the folder of a run, a `.keras` file, or a file that `keras_dl.export` made.
        inputs: paths of pictures; of `.csv` files, a row for each sample (below the names of its columns, for a model
            of an own table), or for a model of series a line for each step; of `.npy`, `.ply`, `.off` and `.obj` files,
            for a model of clouds, and of meshes too for one that reconstructs solids; of folders with `nodes.csv` and
            `edges.csv`, for a model of an own graph; texts, or paths of `.txt` files with a text in each line. One of
            these stands for a list of it. Arrays are for `keras_dl.export.load(file).serve`, or for `predict` of the
            model.
        signature: str. Which entry point is asked. None for the one that answers, such as "classify" or "detect".
            "b_to_a" translates pictures in the other direction than "a_to_b".
        output: path of a `.png` file for one picture, or of a folder for several, where the answers are drawn, or the
            pictures written that are translated or made of rows of noise. Of solids, of a `.ply`, `.obj` or `.glb`
            file, or a folder.
        trust: bool. Whether a file may hold Python, and ops that touch files.

    Returns:
        A list with a dict for each input, or each node of a graph: `input`, and what is known of it. `classes`: dicts
        of `label` and `probability`, the most probable first. `objects`: dicts of `label`, `score` and `box`, in pixels
        of the picture. `shares` of the pixels by label. `text`. Of a translated picture, `images`, `from` and `to`. Of
        a solid, `vertices` and `faces`. Else the outputs of the signature as lists. `output` is the path of a picture
        or mesh that was written.

    Raises:
        OptionError: if the source answers no question about such inputs. A ValueError.
        FileError: if a file is damaged or does not fit; the message names it and the line. A ValueError.
    """
    inputs = _words(inputs)
    source = open_source(source, trust)
    if (
        source.vocabularies
        and signature is None
        and ("translate" in source.inputs or set(source.inputs) >= TRANSLATING)
    ):
        _refuse(output, "texts")
        return _translations(source, inputs)
    if signature is None and surfaces.reconstructs(source):
        return surfaces.reconstruct(source, inputs, output)
    name = _signature(source, signature)
    if set(source.inputs[name]) == NETWORK and source.columns:
        _refuse(output, "nodes")
        return _nodes(source, name, inputs)
    (key, (shape, dtype)), *others = source.inputs[name].items()
    padded = set(source.inputs[name]) == {"features", "mask"}
    if padded:  # series of unequal lengths
        key, (shape, dtype), others = "features", source.inputs[name]["features"], []
    given = _read(inputs, name, key, shape, dtype, others, source.columns, padded)
    runner = source.runner([name])
    answers = []
    for one in given:
        outputs = runner.serve(name, **{key: one.value.astype(dtype)} | (one.further or {}))
        answers.append({"input": one.name} | _meaning(outputs, source.labels, one.original, shape))
        if name in BETWEEN:
            domains = source.domains or ("A", "B")
            answers[-1] |= dict(zip(("from", "to"), (domains[i] for i in BETWEEN[name]), strict=True))
        if output is not None:
            picture = outputs["images"][0] if "images" in outputs else one.original
            if picture is None:
                raise OptionError(f"--output draws answers on pictures, and {one.name} is none.")
            path = pathlib.Path(output)
            path = path if len(given) == 1 else path / f"{_stem(one)}.png"
            if "images" in outputs:
                drawing.write_picture(path, picture)
                answers[-1]["output"] = str(path)
            else:
                drawing.draw(path, picture, answers[-1], outputs, source.labels, shape)
    return answers


def _words(inputs):
    """The inputs as a list of str."""
    words = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    for word in words:
        if not isinstance(word, str | os.PathLike):
            raise OptionError(
                f"inputs holds a {type(word).__name__}; each must be a text, or the path of a file. Arrays are for "
                "keras_dl.export.load(file).serve, or for predict of the model."
            )
    if not words:
        raise OptionError("There is no input. Name at least one.")
    return [str(word) for word in words]


def _stem(one):
    """What a drawing is named by: the file, and the row of those that have several."""
    path = pathlib.Path(one.name)
    return path.stem if one.original is not None else path.name.replace(":", "-")


def _refuse(output, what):
    if output is not None:
        raise OptionError(f"--output {output}: answers about {what} are not drawn. Leave it out.")


def _signature(source, wanted):
    if wanted is not None:
        if wanted not in source.inputs:
            raise OptionError(f"--signature {wanted} is not in {source.path}: {', '.join(source.inputs)}.")
        return wanted
    for name in ASKED:
        if name in source.inputs:
            return name
    raise OptionError(
        f"{source.path} has the signatures {', '.join(source.inputs)}, and none of them answers a question about one "
        f"input: {', '.join(ASKED)}. Name one with --signature, or call them by keras_dl.export.load."
    )


def _read(inputs, name, key, shape, dtype, others, columns, padded):
    size = shape[1:]
    if others:
        raise OptionError(
            f"{name} takes {1 + len(others)} inputs, which no file here holds. Call it by keras_dl.export.load."
        )
    if len(size) == 3 and size[-1] in (1, 3):
        return reading.pictures(inputs, size, whole=name == "detect")
    if len(size) == 1 and columns:
        return reading.table(inputs, columns)
    if len(size) == 1 and dtype.startswith("float"):
        return reading.rows(inputs, *size)
    if len(size) == 2 and key == "points" and any(not word.endswith(".csv") for word in inputs):
        return reading.clouds(inputs, *size)
    if len(size) == 2 and dtype.startswith("float"):
        return reading.series(inputs, *size, padded)
    raise OptionError(
        f"{name} takes {dtype} of the shape {shape}, which is no picture, row, series or text. Call it by "
        "keras_dl.export.load."
    )


def _nodes(source, name, inputs):
    """An answer for each node of each graph."""
    shapes = source.inputs[name]
    num_nodes, num_edges = (shapes[key][0][1] for key in ("nodes", "edges"))
    answers, runner = [], source.runner([name])
    for names, given in reading.network(inputs, source.columns, num_nodes, num_edges):
        outputs = runner.serve(name, **given)
        for i, node in enumerate(names):
            one = {key: x[:, i] for key, x in outputs.items()}
            answers.append({"input": node} | _meaning(one, source.labels, None, ()))
    return answers


def _translations(source, inputs):
    given = reading.texts(inputs)
    vocabularies = source.vocabularies
    first, last = (vocabularies.get(side) or next(iter(vocabularies.values())) for side in ("source", "target"))
    whole = "translate" in source.inputs
    name = "translate" if whole else "encode"
    length = source.inputs[name]["tokens"][0][1]
    runner = source.runner([name] if whole else sorted(TRANSLATING))
    answers = []
    for one in given:
        tokens = first.encode([one.value])
        if tokens.shape[1] > length:
            raise ValueError(f"{one.name!r} has {tokens.shape[1]} tokens; the model takes at most {length}.")
        tokens = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
        found = (
            runner.serve(name, tokens=tokens)["tokens"]
            if whole
            else beam_search(runner, tokens, 1, length).tokens[:, 0]
        )
        answers.append({"input": one.name, "text": last.decode(found)[0]})
    return answers


def _meaning(outputs, labels, original, shape):
    """What outputs of one row say: a dict, as `predict` returns it."""

    def label(i):
        return labels[i] if i < len(labels) else str(i)

    if {"boxes", "scores", "classes", "count"} <= set(outputs):
        count = int(outputs["count"][0])
        boxes = unletterbox_boxes(outputs["boxes"][0][:count], original.shape[:2], shape[1:3])
        found = zip(np.asarray(boxes), outputs["scores"][0], outputs["classes"][0], strict=False)
        return {
            "objects": [
                {"label": label(int(c)), "score": float(s), "box": [round(float(x), 2) for x in box]}
                for box, s, c in found
                if s >= SHOWN_SCORE
            ]
        }
    if "probabilities" in outputs:
        probabilities = outputs["probabilities"][0]
        if probabilities.ndim == 3:  # (height, width, classes)
            shares = np.bincount(probabilities.argmax(-1).ravel(), minlength=probabilities.shape[-1])
            return {"shares": {label(i): float(n / shares.sum()) for i, n in enumerate(shares)}}
        if probabilities.shape == (1,):  # of the second of two classes
            probabilities = np.append(1 - probabilities, probabilities)
        best = np.argsort(-probabilities, kind="stable")[:BEST]
        return {"classes": [{"label": label(i), "probability": float(probabilities[i])} for i in best]}
    return {name: x[0].tolist() for name, x in outputs.items()}


def as_text(answers):
    """Answers as lines of text."""
    return "\n".join(f"{answer['input']}: {_line(answer)}" for answer in answers)


def _line(answer):
    if "classes" in answer:
        return ", ".join(f"{c['label']} {c['probability']:.1%}" for c in answer["classes"])
    if "objects" in answer:
        found = [
            f"{o['label']} {o['score']:.0%} at ({', '.join(f'{x:.0f}' for x in o['box'])})" for o in answer["objects"]
        ]
        return "; ".join(found) or "nothing"
    if "shares" in answer:
        return ", ".join(f"{name} {share:.1%} of the pixels" for name, share in answer["shares"].items())
    if "text" in answer:
        return answer["text"]
    if "faces" in answer:
        size = f"a mesh of {len(answer['faces']):,} triangles"
        return _written(answer, size) if answer["faces"] else f"{size}: no point is inside at the threshold"
    if "images" in answer:
        way = f"{answer['from']} as {answer['to']}, " if "to" in answer else ""
        return _written(answer, f"{way}{len(answer['images'])} x {len(answer['images'][0])} pixels")
    return "; ".join(f"{name} {_values(x)}" for name, x in answer.items() if name != "input")


def _written(answer, what):
    """What was made, and where it is or how it would be written."""
    return f"{what}, in {answer['output']}" if "output" in answer else f"{what}; --output FILE writes it"


def _values(x):
    flat = np.ravel(x)
    shown = " ".join(f"{value:.5g}" for value in flat[:8])
    return shown if len(flat) <= 8 else f"{shown} ... ({len(flat)} numbers; --json prints them)"
