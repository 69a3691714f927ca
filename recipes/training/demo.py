"""From real digits to a trained CNN, its int8 file, the proof, and its use of an NPU: `keras-dl demo`.

Each step is one command of `keras-dl`, which is printed before it runs, so that a user can continue from there.
"""

import pathlib

from keras_dl.recipes.training import commands, folder, report
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError

TARGET = "ethos-u55-128"


def run(output, smoke=False, data_dir=None):
    """Trains LeNet-5 and exports it in int8 for an Arm Ethos-U55.

    Args:
        output: str or path. The folder of the run. A run in it is replaced when the new one is complete.
        smoke: bool. Trains for seconds on a small part of the data.
        data_dir: folder of TFDS. None for its default.

    Returns:
        dict of the two reports, `trained` and `exported`.

    Raises:
        OptionError: if the folder holds a run of another recipe, or `smoke` would replace a whole run.
    """
    output = pathlib.Path(output)
    if (output / "run.json").exists():
        begun = folder.read_run(output).options
        if begun.recipe != "cnn" or begun.smoke < smoke:
            raise OptionError(f"--output {output} holds a run of {begun.recipe} that the demo would replace by less.")
    say(f"\n$ keras-dl train cnn --output {output} --overwrite{' --smoke' if smoke else ''}")
    trained = commands.train("cnn", output=output, overwrite=True, smoke=smoke or None, data_dir=data_dir)
    say(report.describe(trained))

    say(f"\n$ keras-dl export {output} --quantization int8 --target {TARGET}")
    exported = commands.export(output, quantization="int8", target=TARGET, overwrite=True, data_dir=data_dir)
    return {"trained": trained, "exported": exported}


def summary(output, trained, exported):
    """The results of the demo: str of a few lines, with figures that were measured in this run."""
    metric, device, (proof,) = exported["metric"], exported["target_report"], _proofs(exported)
    file = pathlib.Path(exported["path"])
    rows = [
        ("Trained", f"{trained['model']} on {trained['train_examples']:,} digits in {trained['seconds']:.0f} s"),
        ("In Keras", f"{metric['name']} {metric['keras']:.2%} on {trained['test_examples']:,} test digits"),
        ("In the file", f"{metric['name']} {metric['artifact']:.2%}, int8, {exported['bytes'] / 1000:.0f} kB"),
        ("Proof", f"cosine {proof['cosine']:.5f}, largest error {proof['max_abs_error']:.4f} of a probability"),
        ("Ops", f"{sum(exported['ops'].values())}, of which Flex or custom: {exported['flex_ops']}"),
        (
            "On the NPU",
            f"{device['npu_op_share']:.0%} of the ops, {device['npu_mac_share']:.0%} of the MACs ({TARGET})",
        ),
        ("File", f"{file}"),
        ("To flash", f"{file.with_name(device['flash'])}"),
        ("Picture", f"{pathlib.Path(output) / 'picture.png'}"),
        ("Next", f"keras-dl inspect {file}"),
    ]
    return "\n" + "\n".join(f"{name:<12} {text}" for name, text in rows)


def _proofs(exported):
    return [errors for outputs in exported["proof"]["signatures"].values() for errors in outputs.values()]
