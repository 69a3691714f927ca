"""Latency of a stream: one `step` for each new sample, against `sequence` on the whole window.

    python -m keras_dl.benchmarks.streaming docs/results/streaming

An LSTM, a GRU and a TCN of one width answer after every sample. A file with the signature `step` carries the state from
call to call. Without it, a device runs the whole window again. Both files come from one network and must give the same
answer, which is checked before anything is timed.

All are timed in this process, in turn, on one thread. The times include the call from Python, which is most of a small
step. Figures are medians, and ratios are taken within a round. A TCN's `sequence` computes its blocks at all samples of
the window, as an LSTM does.
"""

import argparse
import json
import pathlib
import platform
import statistics
import sys
import tempfile
import time

import numpy as np

from keras_dl.benchmarks.devices import litert_runner
from keras_dl.files import replacing

FEATURES, WIDTH = 8, 64
LENGTHS = (16, 32, 64, 128, 256, 512)
NETS = ("lstm", "gru", "tcn")
KERNEL = 8
ROUNDS, CALLS, WARMUP = 7, 30, 5
TOLERANCE = 1e-4  # between the answers of both files, as between a file and its model


def create(net, width, serving_length, reach):
    """The network `net`, its weights equal for every `serving_length`. A TCN has the blocks to see `reach` samples."""
    import keras

    import keras_dl

    keras.utils.set_random_seed(0)
    ends = dict(num_features=FEATURES, num_outputs=1, task="regression", serving_length=serving_length)
    if net == "tcn":
        blocks = next(n for n in range(1, 20) if 2 * (KERNEL - 1) * (2**n - 1) >= reach - 1)
        return keras_dl.TCN(hidden_dims=(width,) * blocks, kernel_size=KERNEL, **ends)
    return keras_dl.RecurrentNetwork(cell=net, hidden_dims=(width,), standardize=False, **ends)


def advance(runner, features, states):
    """One call of `step`: the answer `(1, 1)` and the states for the next call."""
    outputs = runner(features=features, **states)
    return outputs["values"], {key: outputs[f"next_{key}"] for key in states}


def _files(net, width, lengths, folder):
    """`(parameters, runner of step, {length: runner of sequence})`."""
    from keras_dl.export import export

    def runner(signature, serving_length):
        model = create(net, width, serving_length, max(lengths))
        path = str(pathlib.Path(folder) / f"{net}-{signature}-{serving_length}.tflite")
        export(model, path, signatures=[signature], verify=False)
        return model.count_params(), litert_runner(path, threads=1, signature=signature)

    parameters, step = runner("step", max(lengths))
    return parameters, step, {length: runner("sequence", length)[1] for length in lengths}


def _zeros(step):
    shapes = {key: x["shape"] for key, x in step.get_input_details().items() if key != "features"}
    return {key: np.zeros(shape, "float32") for key, shape in shapes.items()}


def _difference(step, sequences, stream):
    """The largest difference between the answers of `step` and `sequence` at the ends of the windows."""
    states, differences = _zeros(step), []
    for t in range(max(sequences)):
        answer, states = advance(step, stream[:, t], states)
        if t + 1 in sequences:
            differences.append(np.abs(sequences[t + 1](features=stream[:, : t + 1])["values"] - answer).max())
    return float(max(differences))


def _milliseconds(call, calls):
    for _ in range(min(WARMUP, calls)):
        call()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def _ratios(times, reference):
    """Ratios of medians within the same rounds."""
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    return {
        "median": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
    }


def measure(nets=NETS, width=WIDTH, lengths=LENGTHS, rounds=ROUNDS, calls=CALLS, progress=lambda line: None):
    """Exports and times the networks.

    Args:
        nets: names from `NETS`.
        width: int. Units of the recurrent layers, channels of the TCN's blocks.
        lengths: ints. Samples of a window.
        rounds, calls: int. Each contender is timed `calls` times in each round.
        progress: called with a line of text after each network and each round.

    Returns:
        dict that can be written as JSON. For each network, `nets` has `parameters`; `step_ms`, and `sequence_ms` by
        length, in milliseconds (the median of the rounds' medians); `ratio` by length (`sequence` over `step` within a
        round: median, lowest and highest of the rounds); and `difference`, the largest between their answers.

    Raises:
        RuntimeError: if the two files give different answers.
    """
    stream = np.random.default_rng(0).normal(size=(1, max(lengths), FEATURES)).astype("float32")
    report, contenders = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for net in nets:
            parameters, step, sequences = _files(net, width, lengths, folder)
            difference = _difference(step, sequences, stream)
            if not difference <= TOLERANCE:
                raise RuntimeError(f"{net}: step and sequence differ by {difference}, more than {TOLERANCE}.")
            progress(f"{net}: {parameters:,} parameters; step and sequence differ by {difference:.1g}")
            report[net] = {"parameters": parameters, "difference": difference}
            states = {net: _zeros(step)}

            def next_step(net=net, step=step, states=states):
                states[net] = advance(step, stream[:, 0], states[net])[1]

            contenders[net, "step"] = next_step
            for length, sequence in sequences.items():
                contenders[net, length] = lambda run=sequence, x=stream[:, :length]: run(features=x)
        times = {key: [] for key in contenders}
        for round_ in range(rounds):
            for key in list(contenders) if round_ % 2 == 0 else reversed(contenders):  # no contender always comes first
                times[key].append(_milliseconds(contenders[key], calls))
            progress(f"round {round_ + 1} of {rounds}")
    for net, figures in report.items():
        figures["step_ms"] = round(statistics.median(times[net, "step"]), 4)
        figures["sequence_ms"] = {n: round(statistics.median(times[net, n]), 4) for n in lengths}
        figures["ratio"] = {n: _ratios(times[net, n], times[net, "step"]) for n in lengths}
    return {
        "title": f"Milliseconds to answer after one more sample: {FEATURES} features, width {width}, float32",
        "nets": report,
        "rounds": rounds,
        "calls": calls,
        "threads": 1,
        "platform": f"{platform.system()} {platform.machine()}",
        "command": "python -m keras_dl.benchmarks.streaming docs/results/streaming",
    }


def picture(report):
    """A figure of a report that was read from JSON: for each network, milliseconds over the length of the window."""
    from keras_dl.recipes.training import pictures

    figure = pictures.figure(11, 4.2)
    axes = figure.subplots(1, len(report["nets"]), sharey=True, squeeze=False)[0]
    figure.suptitle(report["title"], fontsize=11, color=pictures.INK)
    for axis, (net, figures) in zip(axes, report["nets"].items(), strict=True):
        lengths = [int(n) for n in figures["sequence_ms"]]
        axis.plot(
            *(lengths, figures["sequence_ms"].values()),
            **dict(color=pictures.COLORS[1], marker="o", markersize=4, label="sequence: the whole window again"),
        )
        axis.plot(
            *(lengths, [figures["step_ms"]] * len(lengths)),
            **dict(color=pictures.COLORS[0], linewidth=2.2, label="step: the state is carried along"),
        )
        faster = figures["ratio"][str(lengths[-1])]["median"]
        title = f"{net.upper()}, {figures['parameters']:,} weights\nat {lengths[-1]} samples {faster:.0f} times as fast"
        pictures.style(axis, title, "samples in the window")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xticks(lengths, lengths)
    axes[0].set_ylabel("milliseconds per sample", color=pictures.INK)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def main(folder):
    """Measures, and writes report.json and picture.png to `folder`."""
    from keras_dl.recipes.training.report import write_json

    folder = pathlib.Path(folder)
    report = json.loads(json.dumps(measure(progress=lambda line: print(line, file=sys.stderr))))
    write_json(folder / "report.json", report)
    with replacing(folder / "picture.png") as temporary:
        picture(report).savefig(temporary, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m keras_dl.benchmarks.streaming", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", help="where report.json and picture.png go")
    main(parser.parse_args().folder)
