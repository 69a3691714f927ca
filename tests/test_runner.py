"""The run of a recipe: resuming after a kill, repeating from the seed, divergence, the folder, XLA's choice."""

import csv
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from keras_dl.export import inspect
from keras_dl.export.metadata import into_litert
from keras_dl.files import FileError
from keras_dl.recipes.training import batches, commands, folder, jit, recipe, report, resume, runner, stopping
from keras_dl.recipes.training.recipe import OptionError, Options
from keras_dl.text import Subwords

FILES = {"model.keras", "report.json", "history.csv", "picture.png", "run.json"}


def _train(path, epochs=2, seed=0, resume=False, overwrite=False, recipe=toy.RECIPE, tensorboard=False, **options):
    options = recipe.options(epochs=epochs, seed=seed, **{"jit": "off"} | options)
    return runner.train(recipe, options, path, resume, overwrite, tensorboard)


def _changed(**changes):
    return dataclasses.replace(toy.RECIPE, **changes)


def _visible(path):
    return {p.name for p in path.iterdir() if not p.name.startswith(".")}


def _assert_equal_runs(one, other):
    """Equal histories, and equal weights and optimizer states, to the bit."""
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()
    models = [keras.saving.load_model(run / "model.keras") for run in (one, other)]
    states = [[np.asarray(v) for v in model.weights + model.optimizer.variables] for model in models]
    assert len(states[0]) == len(states[1]) > 20
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run of all epochs that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    _train(path, epochs=None)
    return path


def _toy_process(path, where=None):
    command = [sys.executable, toy.__file__, str(path), *([where] if where else [])]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(whole_run, tmp_path):
    """Killed by SIGKILL within an epoch, within a checkpoint's writing, between variants, and at a random moment."""
    run = tmp_path / "run"
    for where in ("step:11", "write:2", "variant:2"):
        process = _toy_process(run, where)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert not (run / "report.json").exists()

    process = _toy_process(run)
    for line in process.stderr:
        if "narrow  epoch 1" in line:
            break
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.communicate()

    process = _toy_process(run)
    progress = process.communicate(timeout=120)[1]
    assert process.returncode == 0, progress
    assert "wide  continues after epoch 4/4" in progress
    _assert_equal_runs(whole_run, run)
    assert _visible(run) == FILES
    assert report.read(run)["resumed"] == 4
    assert report.read(run)["variants"] == report.read(whole_run)["variants"]


def test_a_run_killed_before_its_report_is_whole_after_resuming(whole_run, tmp_path):
    run = tmp_path / "run"
    process = _toy_process(run, "picture")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert (run / "model.keras").exists()
    _train(run, epochs=None, resume=True)
    _assert_equal_runs(whole_run, run)
    assert _visible(run) == FILES


def test_early_stopping_keeps_the_weights_it_names_and_resumes_exactly(tmp_path):
    """Stops after 3 of 9 epochs with the weights of the second, also where a run was broken off between the two."""

    def build(data, options, variant):
        model = toy.build_model(data, options, variant)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        return model

    def rule(variant, history):
        return stopping.Verdict(len(history) >= 3, min(len(history), 2))

    def broken_off(variant, history):
        if variant == "narrow" and len(history) == 3:
            raise RuntimeError("broken off")
        return rule(variant, history)

    rules = {"whole": rule, "two": lambda variant, history: stopping.Verdict(len(history) >= 2, len(history))}
    for name, stop in rules.items():
        _train(tmp_path / name, epochs=9, recipe=_changed(build_model=build, stopping=stop))
    with pytest.raises(RuntimeError, match="broken off"):
        _train(tmp_path / "resumed", epochs=9, recipe=_changed(build_model=build, stopping=broken_off))
    _train(tmp_path / "resumed", epochs=9, resume=True, recipe=_changed(build_model=build, stopping=rule))

    assert (tmp_path / "whole" / "history.csv").read_text().count("wide") == 3
    whole, two, resumed = (report.read(tmp_path / name)["variants"] for name in ("whole", "two", "resumed"))
    assert whole == two == resumed
    _assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")
    weights = [keras.saving.load_model(tmp_path / name / "model.keras").weights for name in rules]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_looks_at_the_validation_data(tmp_path):
    def load(options, variant):
        data = toy.load_data(options, variant)
        return dataclasses.replace(data, validation=data.test.map(lambda waves, labels: (waves, 1 - labels)))

    recipe = _changed(load_data=load, stopping=lambda variant, history: stopping.patience(history, 9))
    _train(tmp_path / "run", epochs=3, recipe=recipe)
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert float(rows[2]["accuracy"]) > 0.6 > 0.5 > float(rows[2]["val_accuracy"])


def test_snapshots_outlive_a_kill_and_figures_are_reported(tmp_path):
    shown = {}

    def snapshot(options, epoch, model):
        return None if epoch == 2 else np.array([epoch, int(model.optimizer.iterations)])

    def broken_off(options, epoch, model):
        if epoch == 2:
            raise RuntimeError("broken off")
        return snapshot(options, epoch, model)

    def picture(outcome):
        shown.update(outcome.trained["wide"].snapshots)
        return toy.RECIPE.picture(outcome)

    changes = dict(picture=picture, figures=lambda outcome: {"answer": 42.0, "hash": "0af3"})
    with pytest.raises(RuntimeError, match="broken off"):
        _train(tmp_path / "run", epochs=3, recipe=_changed(snapshot=broken_off, **changes))
    _train(tmp_path / "run", epochs=3, resume=True, recipe=_changed(snapshot=snapshot, **changes))
    assert {epoch: array.tolist() for epoch, array in shown.items()} == {1: [1, 8], 3: [3, 24]}
    document = report.read(tmp_path / "run")
    assert document["figures"] == {"answer": 42.0, "hash": "0af3"}
    assert all(text in report.describe(document) for text in ("42.0000", "0af3"))


def test_equal_seeds_give_equal_runs_and_others_do_not(whole_run, tmp_path):
    _train(tmp_path / "same", epochs=None)
    _assert_equal_runs(whole_run, tmp_path / "same")
    _train(tmp_path / "other", epochs=None, seed=1)
    assert (tmp_path / "other/history.csv").read_text() != (whole_run / "history.csv").read_text()


def test_report_and_history_say_what_was_done(whole_run):
    document = report.read(whole_run)
    documented = [line.split()[0] for line in report.__doc__.splitlines() if line.startswith("    ")]
    assert set(documented) == set(document)
    assert document["value"] == document["variants"]["wide"]
    assert (document["baseline"], document["baseline_value"]) == ("a coin", 0.5)
    assert document["aim_met"] is (document["value"] >= 0.7)
    assert document["parameters"] == keras.saving.load_model(whole_run / "model.keras").count_params()
    assert document["versions"]["tensorflow"] == tf.__version__
    assert document["command"] == (
        "keras-dl train toy --dataset sines --epochs 4 --batch-size 16 --seed 0 --jit off --precision float32"
    )
    assert not any(name in json.dumps(document) for name in (os.uname().nodename, str(whole_run)))
    with open(whole_run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["epoch"]) for row in rows] == [
        (v, str(e)) for v in ("wide", "narrow") for e in range(1, 5)
    ]
    assert float(rows[0]["loss"]) > float(rows[3]["loss"]) > 0
    assert "aim 0.7" in report.describe(document)


def test_reports_of_earlier_versions_are_read(tmp_path, whole_run):
    document = report.read(whole_run)
    old = {{"license": "licence"}.get(key, key): value for key, value in document.items()}
    old["command"] = old["command"].replace("--jit off", "--jit auto")
    assert old["command"] != document["command"]
    report.write_json(tmp_path / "report.json", old)
    assert report.read(tmp_path) == document


def test_a_folder_that_exists_is_not_overwritten(whole_run, tmp_path):
    before = (whole_run / "report.json").read_text()
    with pytest.raises(OptionError, match=r"exists\. Continue it with --resume, replace it with --overwrite"):
        _train(whole_run)
    assert (whole_run / "report.json").read_text() == before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/love.txt").touch()
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OptionError, match="not the folder of a run"):
            _train(tmp_path / "letters", **how)
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="is a file"):
        _train(tmp_path / "file")
    with pytest.raises(OptionError, match="exclude each other"):
        _train(whole_run, resume=True, overwrite=True)


def test_overwriting_keeps_the_old_run_until_the_new_one_is_complete(tmp_path):
    run, previous = tmp_path / "run", tmp_path / "run.previous"
    _train(run, epochs=1)
    old = report.read(run)

    def fail(outcome):
        assert report.read(previous) == old
        raise RuntimeError("the picture fell off the wall")

    for _ in range(2):  # the second time, the run in the folder is the unfinished one
        with pytest.raises(RuntimeError, match="fell off"):
            _train(run, epochs=1, seed=1, overwrite=True, recipe=_changed(picture=fail))
        assert report.read(previous) == old
    _train(run, epochs=1, seed=1, resume=True)
    assert report.read(run)["seed"] == 1
    assert _visible(tmp_path) == {"run"}


def test_resuming_a_complete_run_changes_nothing(whole_run, capsys):
    before = (whole_run / "report.json").stat().st_mtime_ns
    assert _train(whole_run, epochs=None, resume=True) == report.read(whole_run)
    assert (whole_run / "report.json").stat().st_mtime_ns == before
    assert "is complete" in capsys.readouterr().err


def test_resuming_with_other_options_is_refused(whole_run):
    with pytest.raises(OptionError, match=r"--epochs 9 differs from 4, the value of the run in"):
        _train(whole_run, epochs=9, resume=True)


def test_two_processes_do_not_write_into_one_run(tmp_path):
    run = tmp_path / "run"
    with folder.open_run(run, toy.RECIPE.options()), pytest.raises(OptionError, match="is in use"):
        _train(run, epochs=None, resume=True, jit="auto")


def test_only_one_of_several_processes_begins_a_run(tmp_path):
    """In an empty place, where each of them finds nothing to be careful with; also if all of them want to replace."""
    for attempt in range(6):
        path, how = tmp_path / f"run-{attempt}", [{}, {"resume": True}, {"overwrite": True}][attempt % 3]
        if attempt % 3 == 2:
            with folder.open_run(path, toy.RECIPE.options(seed=99)):
                pass
        (start, go), (ending, end), (told, tell) = os.pipe(), os.pipe(), os.pipe()
        children = [_begins(path, seed, how, start, go, ending, end, tell) for seed in range(4)]
        os.close(go)  # all start now
        seeds = sorted(os.read(told, 1)[0] for _ in children)
        os.close(end)
        for descriptor in (start, ending, told, tell):
            os.close(descriptor)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
        assert seeds[1:] == [REFUSED] * 3
        assert folder.read_run(path).options.seed == seeds[0]


REFUSED, BROKEN = 100, 101


def _begins(path, seed, how, start, go, ending, end, tell):
    """A child that opens a run when `go` is closed, tells its seed or `REFUSED`, and holds it until `end` is closed."""
    child = os.fork()
    if child:
        return child
    try:
        os.close(go)
        os.close(end)
        os.read(start, 1)
        try:
            with folder.open_run(path, toy.RECIPE.options(seed=seed), **how):
                os.write(tell, bytes([seed]))
                os.read(ending, 1)
        except OptionError:
            os.write(tell, bytes([REFUSED]))
        os._exit(0)
    except BaseException:
        os.write(tell, bytes([BROKEN]))
    finally:
        os._exit(1)


def _killed(function, *arguments, **options):
    """Runs a function in a child, which kills itself in it by `toy.die`."""
    child = os.fork()
    if not child:
        try:
            function(*arguments, **options)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _open(*arguments, **options):
    with folder.open_run(*arguments, **options):
        pass


def test_a_run_killed_at_its_very_start_leaves_a_free_folder(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(report.json, "dumps", lambda *arguments, **options: toy.die())
        _killed(_open, run, toy.RECIPE.options())
    assert {path.name for path in run.iterdir()} > {".lock"}
    _train(run, epochs=1)
    assert _visible(run) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_replacement_killed_at_its_very_start_still_removes_the_old_run_in_the_end(tmp_path, monkeypatch):
    run = tmp_path / "run"
    _train(run, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_begin", lambda *arguments: toy.die())
        _killed(_open, run, toy.RECIPE.options(seed=1), overwrite=True)
    assert (tmp_path / "run.previous/report.json").exists()
    _train(run, epochs=1, seed=1)
    assert _visible(tmp_path) == {"run"}
    assert report.read(run)["seed"] == 1


def test_what_a_run_killed_at_its_very_end_left_is_removed_by_the_next_one(tmp_path, monkeypatch):
    run = tmp_path / "run"
    _train(run, epochs=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(folder.RunFolder, "clean", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with folder.open_run(run, toy.RECIPE.options(seed=1), overwrite=True) as new:
            (new / "checkpoints").mkdir()
            new.finish(report.read(tmp_path / "run.previous"))
    assert _visible(tmp_path) == {"run", "run.previous"}
    (tmp_path / ".run.abc.keras_dl").mkdir()
    with pytest.raises(OptionError, match="exists"):
        _train(run, epochs=1)
    assert _visible(tmp_path) == {"run"}
    assert not (run / "checkpoints").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_a_user_named_previous_is_not_removed(tmp_path):
    for name in ("run", "run.previous"):
        with folder.open_run(tmp_path / name, toy.RECIPE.options()):
            pass
    with pytest.raises(OptionError, match=r"run\.previous is in the way: move it"):
        _train(tmp_path / "run", overwrite=True, epochs=None, jit="auto")
    assert (tmp_path / "run.previous/run.json").exists()


def _diverges_at(step):
    """The toy's build_model, with a loss that is not a number from the given training step on."""

    def build(data, options, variant):
        model = toy.build_model(data, options, variant)
        plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def loss(y_true, y_pred):
            return tf.where(model.optimizer.iterations >= step - 1, float("nan"), plain(y_true, y_pred))

        model.compile(model.optimizer, loss)
        return model

    return build


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_model(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(runner.NonFiniteError, match=r"toy wide: the loss is nan in epoch 2, step 3\."):
        _train(run, epochs=3, recipe=_changed(build_model=_diverges_at(11)))  # 8 steps an epoch
    failure = json.loads((run / "failure.json").read_text())
    assert (failure["variant"], failure["epoch"], failure["step"]) == ("wide", 2, 3)
    assert failure["last_good_epoch"] == 1
    assert not (run / "report.json").exists()
    model = keras.saving.load_model(run / "last_good.keras", compile=False)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    with pytest.raises(runner.NonFiniteError, match=r"epoch 2, step 3"):
        _train(run, epochs=3, resume=True, recipe=_changed(build_model=_diverges_at(11)))
    _train(run, epochs=3, resume=True)  # mended
    assert _visible(run) == FILES


def test_weights_that_are_not_finite_do_not_reach_a_checkpoint(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    resume.save(tmp_path / "state.npz", model, resume.Checkpoint(1, [], 0.0))
    good = (tmp_path / "state.npz").read_bytes()
    model.layers[-1].bias.assign([float("inf")])
    with pytest.raises(FloatingPointError, match="not finite"):
        resume.save(tmp_path / "state.npz", model, resume.Checkpoint(2, [], 0.0))
    assert (tmp_path / "state.npz").read_bytes() == good


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    models = [keras.Sequential([keras.Input((n,)), keras.layers.Dense(1)]) for n in (2, 3)]
    for model in models:
        model.compile("sgd", "mse")
    resume.save(tmp_path / "state.npz", models[0], resume.Checkpoint(1, [], 0.0))
    with pytest.raises(ValueError, match="another model"):
        resume.restore(tmp_path / "state.npz", models[1])


def test_state_holds_every_optimizer_and_random_layer():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = (keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]) for _ in range(2))
            self.drop = keras.layers.Dropout(0.5)
            self.other_optimizer = keras.optimizers.SGD(momentum=0.9)

    model = Pair()
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.one.trainable_variables)
    model.other_optimizer.build(model.other.trainable_variables)
    found = {id(v) for v in resume.state_variables(model)}
    wanted = [*model.weights, *model.optimizer.variables, *model.other_optimizer.variables]
    wanted.append(model.drop.seed_generator.state)
    assert found == {id(v) for v in wanted}


def test_interrupting_says_how_to_go_on(tmp_path):
    def interrupt(outcome):
        raise KeyboardInterrupt

    with pytest.raises(runner.Interrupted, match=r"Continue with: keras-dl train toy .* --resume"):
        _train(tmp_path / "run", epochs=1, recipe=_changed(picture=interrupt))
    _train(tmp_path / "run", epochs=1, resume=True)


def test_jit_auto_times_both_and_leaves_no_trace(tmp_path, monkeypatch):
    options = toy.RECIPE.options(epochs=1)
    data = toy.load_data(options, "wide")
    keras.utils.set_random_seed(0)
    model = toy.build_model(data, options, "wide")
    model.optimizer.build(model.trainable_variables)
    before = [np.array(v.numpy()) for v in resume.state_variables(model)]
    monkeypatch.setattr(jit, "SECONDS", 0.1)
    found = jit.choose(model, runner.epochs(data, 0, 1).take(1).cache().repeat())
    for a, b in zip(before, resume.state_variables(model), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))
    assert found["jit"] is (found["jit_ms"] < found["graph_ms"])
    assert found["jit"] is model.jit_compile
    assert min(found[key] for key in ("jit_ms", "graph_ms", "jit_compile_s", "graph_compile_s")) > 0


def test_jit_choice_is_remembered_by_a_resumed_run(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    timed = {"jit": True, "jit_ms": 1.0, "graph_ms": 2.0, "jit_compile_s": 3.0, "graph_compile_s": 4.0}
    monkeypatch.setattr(jit, "choose", lambda model, batches: timed)

    def fail(outcome):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        _train(run, epochs=1, jit="auto", recipe=_changed(picture=fail))
    progress = capsys.readouterr().err  # the first variant is compiled by the timing, the second by its first step
    assert progress.count("jit auto: compiles the training step with XLA and without, to time both") == 1
    assert progress.count("compiles the training step with XLA: the first step takes longer") == 1
    monkeypatch.setattr(jit, "choose", lambda model, batches: pytest.fail("timed again"))
    document = _train(run, epochs=1, jit="auto", resume=True)
    assert {key: document[key] for key in timed} == timed
    assert document["jit_option"] == "auto"
    assert " --jit on " in document["command"]  # timed again, it might choose otherwise


def test_xla_draws_other_random_numbers_than_the_graph():
    """So `--jit on` and `off` give different weights, as the module says, and not only different rounding."""
    dropout = keras.layers.Dropout(0.5, seed=0)
    masks = []
    for compiled in (False, True):
        dropout.seed_generator.state.assign([0, 0])
        masks.append(np.asarray(tf.function(lambda x: dropout(x, training=True), jit_compile=compiled)(tf.ones(64))))
    assert set(masks[0]) == set(masks[1]) == {0, 2}
    assert np.mean(masks[0] != masks[1]) > 0.2
    assert "XLA draws other random numbers" in " ".join(jit.__doc__.split())


def test_jit_on_compiles(tmp_path):
    seen = []

    def build(data, options, variant):
        seen.append(toy.build_model(data, options, variant))
        return seen[-1]

    assert _train(tmp_path / "run", epochs=1, jit="on", recipe=_changed(build_model=build))["jit"] is True
    assert all(model.jit_compile for model in seen)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_precision_is_that_of_the_model_and_only_of_the_run(tmp_path, precision):
    document = _train(tmp_path / "run", epochs=1, precision=precision)
    assert document["precision"] == precision
    model = keras.saving.load_model(tmp_path / "run/model.keras")
    assert model.layers[0].dtype_policy.name == precision
    assert keras.config.dtype_policy().name == "float32"


def test_smoke_is_short_and_not_judged(tmp_path):
    """One variant, no baseline, and no smaller rate."""
    document = _train(tmp_path / "run", epochs=50, jit="auto", smoke=True)
    assert list(document["variants"]) == ["wide"]
    assert document["baseline"] is document["baseline_value"] is None
    assert "one variant" in report.describe(document)
    assert document["epochs"] == recipe.SMOKE_EPOCHS
    assert document["smoke"] is True
    assert document["aim_met"] is None
    assert document["jit"] is False


VARIANTS = {
    "as they are": ({}, ("wide", "narrow"), True),
    "no baseline": ({"baseline": False}, ("wide",), False),
    "chosen": ({"variants": ("wide",)}, ("wide",), False),
    "a baseline alone": ({"variants": ("narrow",)}, ("narrow",), True),
    "in another order": ({"variants": ["narrow", "wide"]}, ("narrow", "wide"), True),
    "smoke": ({"smoke": True}, ("wide",), False),
    "smoke with a baseline": ({"smoke": True, "baseline": True}, ("wide", "narrow"), True),
    "smoke of all": ({"smoke": True, "variants": ("wide", "narrow")}, ("wide", "narrow"), False),
}


@pytest.mark.parametrize(("options", "variants", "baseline"), VARIANTS.values(), ids=VARIANTS)
def test_variants_and_baselines_that_are_trained(options, variants, baseline):
    found = toy.RECIPE.options(**options)
    assert toy.RECIPE.variants(found) == variants
    assert toy.RECIPE.has_baseline(found) is baseline


def test_a_run_of_one_variant_at_another_rate_can_be_exported_resumed_and_repeated(tmp_path, monkeypatch):
    run, rates = tmp_path / "run", []

    def build(data, options, variant):
        model = toy.build_model(data, options, variant)
        rates.append(float(model.optimizer._learning_rate.initial_learning_rate))
        return model

    changed = _changed(build_model=build)
    chosen = dict(variants=("narrow",), learning_rate=0.003, epochs=1)
    document = _train(run, recipe=changed, **chosen)
    assert (list(document["variants"]), document["learning_rate"], document["aim_met"]) == (["narrow"], 0.003, None)
    assert rates == [0.003]
    assert document["command"].endswith("--precision float32 --variant narrow --learning-rate 0.003")
    assert keras.saving.load_model(run / "model.keras").layers[0].units == 4
    assert _train(run, recipe=changed, resume=True, **chosen) == document
    with pytest.raises(OptionError, match="--variant wide differs from narrow"):
        _train(run, recipe=changed, resume=True, **chosen | {"variants": ("wide",)})

    monkeypatch.setattr(recipe, "find", lambda name: changed)
    assert commands.evaluate(run)["value"] == document["value"]
    exported = commands.export(run)
    assert exported["metadata"]["variants"] == ["narrow"]
    assert exported["metric"]["keras"] == commands.evaluate(exported["path"])["value"] == document["value"]

    file = pathlib.Path(exported["path"])
    for labels, message in (["a", "b", "c"], "its metadata has 3 labels"), (["fast", "slow"], r"'slow'\], and sines"):
        file.write_bytes(into_litert(file.read_bytes(), exported["metadata"] | {"labels": labels}))
        with pytest.raises(FileError, match=message):
            commands.evaluate(file)


def test_a_run_of_a_recipe_that_the_package_does_not_have(tmp_path, whole_run, capsys):
    """Its file is made as that of any Keras model; only its metric cannot be measured."""
    exported = commands.export(whole_run, output=tmp_path / "toy.tflite")
    assert exported["metric"] is None
    assert "names the recipe 'toy' and the data set 'sines', which keras_dl does not have" in capsys.readouterr().err
    np.savez(tmp_path / "waves.npz", waves=toy._sines(20, 3)[0])
    options = dict(quantization="int8", calibration=tmp_path / "waves.npz", output=tmp_path / "int8.tflite")
    exported = commands.export(whole_run, batch_size=4, **options)
    assert exported["proof"]["inputs"] == {"serve": "held_out"}
    assert exported["signatures"]["serve"]["inputs"]["waves"]["shape"][0] == 4
    with pytest.raises(OptionError, match="--batch-size 0 must be at least 1"):
        commands.export(whole_run, batch_size=0)
    with pytest.raises(OptionError, match="--batch-size does not go with --training"):
        commands.export(whole_run, batch_size=4, training=8)
    with pytest.raises(OptionError, match=r"run\.json names the recipe 'toy' and"):
        commands.evaluate(whole_run)
    with pytest.raises(OptionError, match=r"--dataset cosines must be one of sines for toy\. For other data, add"):
        runner.train(toy.RECIPE, dataclasses.replace(toy.RECIPE.options(), dataset="cosines"), tmp_path / "run")


def test_tensorboard_files_hold_the_history(tmp_path):
    _train(tmp_path / "run", tensorboard=True)
    (file,) = (tmp_path / "run/tensorboard/wide").iterdir()
    values = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            values[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    with open(tmp_path / "run/history.csv", newline="") as history:
        row = next(csv.DictReader(history))
    assert values["loss", 1] == pytest.approx(float(row["loss"]), rel=1e-6)
    assert {step for _, step in values} == {1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs 0 must be at least 1"),
        ({"batch_size": -1}, "--batch-size -1 must be at least 1"),
        ({"batch_size": 129}, "--batch-size 129 is more than the 128 training examples"),
        ({"epochs": 2, "batch_size": 64, "accumulate": 5}, "--accumulate 5 is more than the 4 batches of all epochs"),
        ({"seed": -1}, r"--seed -1 must be in \[0, 2147483648\)"),
        ({"jit": "maybe"}, "--jit maybe must be one of auto, on, off"),
        ({"precision": "float8"}, "--precision float8 must be one of"),
        ({"dataset": "cosines"}, "--dataset cosines must be one of sines for toy"),
        ({"epochs": 10**20}, "--epochs 100000000000000000000 must be at most 1000000"),
        ({"batch_size": 10**20}, "--batch-size 100000000000000000000 must be at most 2147483647"),
        ({"epochs": "4"}, "--epochs '4' must be of type int"),
        ({"smoke": 1}, "--smoke 1 must be of type bool"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0 must be a positive number"),
        ({"learning_rate": float("nan")}, "--learning-rate nan must be a positive number"),
        ({"image_size": 0}, r"--image-size 0 must be in \[1, 4096\] pixels"),
        ({"image_size": 32.0}, r"--image-size 32.0 must be of type int"),
        ({"image_size": 32}, "--image-size: toy has none to set"),
        ({"variants": ("broad",)}, "--variant broad must be one of wide, narrow on sines"),
        ({"variants": ("wide", "wide")}, "--variant names one of wide, wide twice"),
        ({"variants": ("wide",), "baseline": True}, "--baseline needs --variant narrow"),
        ({"variants": ("narrow",), "baseline": False}, "--no-baseline excludes --variant narrow"),
    ],
)
def test_wrong_options_are_named_and_leave_no_folder(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        _train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_shuffled_is_a_permutation_that_the_seed_decides():
    data = tf.data.Dataset.range(100).map(lambda i: (i,))

    def order(seed, block):
        return [int(i) for (i,) in batches.shuffled(data, batches.fold_in(0, seed), block)]

    assert sorted(order(1, 100)) == list(range(100))
    assert order(1, 100) == order(1, 100) != order(2, 100)
    assert sorted(order(1, 30)[:30]) == list(range(30))  # blocks stay together
    assert order(1, 100) != list(range(100))


def test_data_of_an_epoch_does_not_depend_on_where_a_run_begins():
    options = toy.RECIPE.options()
    data = toy.load_data(options, "wide")
    whole = [x.numpy() for x, _ in runner.epochs(data, 0, 3)]
    late = [x.numpy() for x, _ in runner.epochs(data, 2, 3)]
    np.testing.assert_array_equal(whole[16:], late)
    assert not np.array_equal(whole[:8], late)


def test_every_recipe_is_listed():
    files = pathlib.Path(recipe.__file__).parents[1].glob("*.py")
    having = {path.stem for path in files if "\nRECIPE = " in path.read_text()}
    assert having == set(recipe.NAMES)
    for name in recipe.NAMES:
        assert recipe.find(name).name == name
    with pytest.raises(OptionError, match="Choose one of: mlp, cnn, rnn"):
        recipe.find("perceptron")


def test_resumed_options_come_from_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "find", lambda name: toy.RECIPE)
    given = dict.fromkeys(("dataset", "epochs", "batch_size", "seed", "jit", "precision", "smoke", "data_dir"))
    with folder.open_run(tmp_path / "run", Options("toy", "sines", 1, 32, seed=7, jit="off")) as run:
        pass
    document = commands.train("toy", output=run.path, resume=True, **given)
    assert (document["epochs"], document["batch_size"], document["seed"]) == (1, 32, 7)
    with pytest.raises(OptionError, match="holds a run of toy, not of cnn"):
        commands.train("cnn", output=run.path, resume=True, **given)


def _with_words(options, variant):
    words = Subwords.learn(["slow waves and fast waves", "a fast wave"], 30)
    return dataclasses.replace(toy.load_data(options, variant), vocabularies={"words": words.to_json()})


def test_vocabularies_are_kept_with_the_run_and_go_into_its_files(tmp_path, monkeypatch):
    changed = _changed(load_data=_with_words)
    _train(tmp_path / "run", epochs=1, recipe=changed)
    kept = json.loads((tmp_path / "run/vocabularies.json").read_text())
    assert Subwords.from_json(kept["words"]).decode([[4, 5, 2, 4]]) != [""]

    monkeypatch.setattr(recipe, "find", lambda name: changed)
    exported = commands.export(tmp_path / "run")
    inside = inspect(exported["path"])["metadata"]["vocabularies"]
    assert inside == kept

    monkeypatch.setattr(recipe, "find", lambda name: toy.RECIPE)
    _train(tmp_path / "plain", epochs=1)
    assert not (tmp_path / "plain/vocabularies.json").exists()
    assert "vocabularies" not in inspect(commands.export(tmp_path / "plain")["path"])["metadata"]


def _linear(data, options, variant):
    model = keras.Sequential([keras.Input(data.input_shape, name="waves"), keras.layers.Dense(2)])
    rate = keras.optimizers.schedules.CosineDecay(options.rate(0.1), data.steps(options))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, run_eagerly=True)
    return model


def test_accumulated_batches():
    """Two batches of 8 move the weights as one of 16 does, at the rate of the second of their steps."""
    found = []
    for given in ({"batch_size": 16}, {"batch_size": 8, "accumulate": 2}):
        options = toy.RECIPE.options(epochs=1, jit="off", **given)
        data = toy.load_data(options, "wide")
        keras.utils.set_random_seed(0)
        model = runner._build(_changed(build_model=_constant), data, options, "wide")
        model.fit(runner.epochs(data, 0, 1), shuffle=False, steps_per_epoch=toy.TRAIN // options.batch_size, verbose=0)
        assert int(model.optimizer.iterations) == toy.TRAIN // 16
        found.append(model.get_weights())
    for whole, halves in zip(*found, strict=True):
        np.testing.assert_allclose(halves, whole, rtol=1e-5, atol=1e-6)

    def built(*arguments):
        model = _constant(*arguments)
        model.optimizer.build(model.trainable_variables)
        return model

    with pytest.raises(OptionError, match="--accumulate 2: toy has optimizers of its own making"):
        runner._build(_changed(build_model=built), data, options, "wide")


def _constant(*arguments):
    model = _linear(*arguments)
    model.compile(keras.optimizers.SGD(0.1), model.loss, run_eagerly=True)
    return model


@pytest.mark.parametrize(("rule", "factor"), [("linear", 4.0), ("square-root", 2.0)])
@pytest.mark.parametrize("build", [_linear, _constant], ids=["schedule", "constant"])
def test_scaled_rate(rule, factor, build, tmp_path):
    """The rate of the recipe at first, and that of a batch of 64 instead of 16 after five epochs of two steps."""
    options = toy.RECIPE.options(epochs=6, batch_size=32, accumulate=2, scale_rate=rule)
    data = toy.load_data(options, "wide")
    own = build(data, options, "wide")
    model = runner._build(_changed(build_model=build), data, options, "wide")
    model.save(tmp_path / "model.keras")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        for step, share in ((0, 0.0), (5, 0.25), (20, 1.0), (23, 1.0)):
            for x in (each, own):
                x.optimizer._iterations.assign(step)
            expected = float(own.optimizer.learning_rate) * (1 + (factor - 1) * share)
            assert float(each.optimizer.learning_rate) == pytest.approx(expected, rel=1e-5)


def test_rates_that_cannot_be_scaled():
    with pytest.raises(OptionError, match=r"--learning-rate 0\.1 and --scale-rate linear exclude each other"):
        toy.RECIPE.options(learning_rate=0.1, scale_rate="linear")
    with pytest.raises(OptionError, match="--scale-rate cubic must be one of linear, square-root"):
        toy.RECIPE.options(scale_rate="cubic")
    options = toy.RECIPE.options(scale_rate="linear")
    assert options.command(False).endswith("--scale-rate linear")
