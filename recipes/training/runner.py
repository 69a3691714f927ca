"""Runs a recipe: trains its variants, measures them, and writes a folder with the model and a report.

A run is a function of its `Options`. Weights, data order, augmentation and dropout depend on the seed and the epoch,
and each epoch ends with a checkpoint. So a run that was killed and resumed ends with the same weights as one that was
not: bit for bit on the CPU of one machine with the same versions. Some GPU kernels sum in any order; they are
reproducible with the environment variable TF_DETERMINISTIC_OPS=1, with which Keras does not use XLA.
"""

import contextlib
import csv
import functools
import math
import time

import keras
import tensorflow as tf

from keras_dl.distributing import optimizers, parts
from keras_dl.export.runners import KerasRunner
from keras_dl.files import replacing
from keras_dl.recipes.training import cluster, jit, report, resume, service
from keras_dl.recipes.training import folder as folders
from keras_dl.recipes.training.progress import Progress, say
from keras_dl.recipes.training.recipe import RATE_RULES, OptionError, Outcome, Trained
from keras_dl.recipes.training.scalars import Scalars
from keras_dl.recipes.training.stopping import Verdict
from keras_dl.schedules import ScaledForBatch

EVALUATION_BATCH = 64  # the static batch in which the metric is measured on the Keras model


class NonFiniteError(ArithmeticError):
    """A loss or a weight is NaN or infinite: the training has diverged."""

    def __init__(self, message, epoch, step=None, loss=None):
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.loss = loss


class Interrupted(Exception):
    """The run was interrupted from the keyboard. It can be resumed."""


def train(
    recipe,
    options,
    output,
    resume=False,
    overwrite=False,
    tensorboard=False,
    distribute=None,
    wait=None,
    services=(),
):
    """Trains all variants of a recipe.

    Args:
        recipe: `Recipe`.
        options: `Options`.
        output: str or path. The folder of the run.
        resume: bool. Continues the run in `output`, or starts it if there is none.
        overwrite: bool. Replaces the run in `output`. It is kept until the new one is complete.
        tensorboard: bool. Writes curves to `output/tensorboard`.
        distribute: one of `cluster.DISTRIBUTIONS`, or None for one device.
        wait: float. Seconds to wait for other workers, and for data services. None for the default.
        services: addresses of data services that prepare the batches: see `keras_dl.recipes.training.service`.

    Returns:
        dict: the report, with the keys that `keras_dl.recipes.training.report` lists. For a worker other than the
        first, which writes nothing: `{"worker": its number}`.

    Raises:
        OptionError: if the options do not match the data or the folder.
        NonFiniteError: if a loss is not finite. The folder has the last good model and the place of the failure.
        Interrupted: on Ctrl-C.
        ClusterError: if the workers or the data services are not found, or one of them ends.
    """
    recipe.check(options)
    if distribute and options.jit == "on":
        raise OptionError(f"--jit on: XLA cannot compile a step of --distribute {distribute}, which waits for others.")
    with cluster.gathered(distribute, options, wait) as team, service.reached(services, wait):
        if not team.is_chief:
            with _settings(options):
                _follow(recipe, options, team, services)
            return {"worker": team.meeting.index}
        return _lead(recipe, options, output, resume, overwrite, tensorboard, team, services)


def _lead(recipe, options, output, resume, overwrite, tensorboard, team, services):
    """What `train` says, on one device or on the first worker."""
    folders.clear(output)
    folders.check(output, options, resume, overwrite)
    first = recipe.load_data(options, recipe.variants(options)[0])
    if options.batch_size > first.num_train:
        raise OptionError(f"--batch-size {options.batch_size} is more than the {first.num_train} training examples.")
    if options.accumulate > (steps := first.steps(options)):
        raise OptionError(
            f"--accumulate {options.accumulate} is more than the {steps} batches of all epochs: the weights would not "
            "move. Take fewer, or more --epochs."
        )
    cluster.check_reading(recipe, options, first, team, services)
    team.check_batches(epochs(first, 0, 1), options.batch_size)
    cluster.tell_of_batch(recipe, options, team)
    with folders.open_run(output, options, resume, overwrite) as folder, _settings(options):
        if folder.complete:
            say(f"{folder.path} is complete.")
            team.agreed({"complete": True})
            return report.read(folder.path)
        team.agreed({"complete": False})
        folders.note_replicas(folder, team.replicas, team.workers)
        for name in ("failure.json", "last_good.keras"):
            (folder / name).unlink(missing_ok=True)
        try:
            return _run(recipe, options, folder, tensorboard, team, services)
        except KeyboardInterrupt as error:
            how = f"keras-dl train {options.recipe} --output {folder.path}{team.flags} --resume"
            raise Interrupted(f"Interrupted. Continue with: {how}") from error


@contextlib.contextmanager
def _settings(options):
    """Sets the dtype policy of the options during a run."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(options.precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _follow(recipe, options, team, services):
    """The trainings of `_run` on a worker that is not the first."""
    if team.agreed(None)["complete"]:
        return
    for variant in recipe.order(options):
        _train_variant(recipe, options, variant, None, False, {}, team, services)


def _run(recipe, options, folder, tensorboard, team, services):
    task = recipe.task(options)
    variants = recipe.variants(options)
    trained, models = {}, {}
    for variant in recipe.order(options):
        trained[variant], net = _train_variant(recipe, options, variant, folder, tensorboard, models, team, services)
        if variant == variants[0]:
            with replacing(folder / "model.keras") as temporary:
                net.save(temporary)
        if variant == variants[0] or task.order:  # others would fill the memory
            models[variant] = net
    trained = {variant: trained[variant] for variant in variants}
    outcome = Outcome(options, task, models[variants[0]], trained, recipe.has_baseline(options), models)
    if outcome.data.vocabularies:
        report.write_json(folder / "vocabularies.json", outcome.data.vocabularies)
    _write_history(folder / "history.csv", trained)
    with replacing(folder / "picture.png") as temporary:
        recipe.picture(outcome).savefig(temporary, dpi=150)
    baseline = recipe.baseline(outcome) if outcome.with_baseline else (None, None)
    document = report.build(recipe, outcome, baseline, folder.record["jit"], folder.record["resumed"])
    if team.name:
        document |= {"replicas": team.replicas, "command": document["command"] + team.flags}
    folder.finish(document)
    return document


def _train_variant(recipe, options, variant, folder, tensorboard, earlier, team, services):
    """Trains one variant from its last checkpoint: `(Trained, model)`. `earlier` has the models of others.

    On a worker that is not the first, the folder is None, and so is the first result.
    """
    data = recipe.load_data(options, variant)
    steps = data.num_train // options.batch_size
    keras.utils.set_random_seed(options.seed)
    with team.scope():
        model = _build(recipe, data, options, variant)
    title = options.recipe if len(recipe.variants(options)) == 1 else f"{options.recipe} {variant}"
    known = {"data set": data.dataset, "version": data.version, "examples": data.num_train}
    team.check_data(epochs(data, 0, 1), options.batch_size, known, options.shards)
    compiled, done = False, None
    if folder:
        if recipe.begin:
            recipe.begin(model, variant, earlier)
        if folder.record["jit"] is None:
            folder.update(jit=_choose_jit(model, data, options, team))
            compiled = folder.record["jit"]["jit_ms"] is not None  # timed, by the functions that the training uses
        if model.jit_compile != folder.record["jit"]["jit"]:
            model.jit_compile = folder.record["jit"]["jit"]
            model.make_train_function(force=True)
        done = resume.restore(folder.checkpoint(variant), model)
        if done:
            say(f"{title}  continues after epoch {done.epochs}/{options.epochs}")
    done = done or resume.Checkpoint(0, [], 0.0)
    done = done._replace(**team.agreed({"epochs": done.epochs, "history": done.history}))
    team.spread(resume.state_variables(model))
    single = functools.cache(lambda: _alone(recipe, data, options, variant))
    keeper = _Keeper(folder and folder.checkpoint(variant), done, title)
    keeper.stopping = recipe.stopping and functools.partial(recipe.stopping, variant)
    if recipe.snapshot and folder:
        keeper.snapshot = lambda epoch, model: recipe.snapshot(options, epoch, team.single(model, single))
    progress = Progress(title, options.epochs, steps, compiled)
    callbacks = [keeper, progress] if folder else [keeper]
    if tensorboard:
        callbacks.append(Scalars(folder / "tensorboard" / variant))
    if done.epochs < options.epochs and not (done.epochs and keeper.verdict.stop):
        validation = data.test if data.validation is None else data.validation
        part = cluster.part_of(data, options, team)
        batches = service.through(services, functools.partial(epochs, data, done.epochs, options.epochs), part)
        try:
            model.fit(
                team.shared(batches, is_own=part is not None),
                validation_data=team.shared(validation),
                validation_steps=team.steps(validation),
                initial_epoch=done.epochs,
                epochs=options.epochs,
                steps_per_epoch=steps,
                callbacks=callbacks,
                shuffle=False,  # the data sets its own order
                verbose=0,
            )
        except NonFiniteError as error:
            if folder:
                _keep_last_good(recipe, options, variant, folder, data, error)
            raise
        finally:
            progress.close()
    elif model.optimizer:  # as fit does after its last epoch: an optimizer that averages weights assigns the averages
        model.optimizer.finalize_variable_values(model.trainable_weights)
    if not folder:
        return None, model
    if keeper.verdict.keep < keeper.done.epochs:
        for variable, array in zip(model.weights, keeper.done.kept, strict=True):
            variable.assign(array)
    model = team.single(model, single)
    value = float(recipe.evaluate(KerasRunner(model, EVALUATION_BATCH).serve, data))
    return Trained(value, keeper.done.history, keeper.done.seconds, data, keeper.done.snapshots), model


def _build(recipe, data, options, variant):
    """The model with the variables of its optimizer, which otherwise the first step would make."""
    model = recipe.build_model(data, options, variant)
    if options.accumulate > 1:
        _accumulate(model, options)
    if options.scale_rate is not None:
        _scale_rate(model, recipe, options, data)
    if model.optimizer and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model


def _alone(recipe, data, options, variant):
    """The model on one device, without XLA, as the replicas of a strategy had it."""
    keras.utils.set_random_seed(options.seed)
    model = _build(recipe, data, options, variant)
    model.jit_compile = False
    return model


def _accumulate(model, options):
    """Lets the optimizer add up the gradients of several batches."""
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is None or optimizer.built or inner.built or isinstance(inner, keras.optimizers.MultiOptimizer):
        raise OptionError(
            f"--accumulate {options.accumulate}: {options.recipe} has optimizers of its own making, whose gradients "
            "cannot be accumulated."
        )
    inner.gradient_accumulation_steps = options.accumulate


def _scale_rate(model, recipe, options, data):
    """Lets the learning rates of all optimizers follow the batch by which the weights move."""
    ratio = options.batch_size * options.accumulate / recipe.task(options).batch_size
    rising = min(cluster.EPOCHS_TO_RISE, options.epochs) * (data.num_train // options.batch_size)
    for part in (part for each in optimizers(model) for part in parts(each)):
        rate = keras.saving.deserialize_keras_object(part.get_config()["learning_rate"])
        part.learning_rate = ScaledForBatch(rate, ratio ** RATE_RULES[options.scale_rate], rising)


def epochs(data, first, last, part=None):
    """The training batches of the epochs `first` to `last - 1`, one after the other: a `tf.data.Dataset`.

    Args:
        data: `Data`.
        first, last: int.
        part: `Part` of each batch. None for whole batches.
    """
    train = data.train if part is None else functools.partial(data.train, part=part)
    return tf.data.Dataset.range(first, last, output_type=tf.int32).flat_map(train).prefetch(tf.data.AUTOTUNE)


def _choose_jit(model, data, options, team):
    """dict as `jit.choose` returns it: timed for "auto", else by the options."""
    untimed = dict.fromkeys(("jit_ms", "graph_ms", "jit_compile_s", "graph_compile_s"))
    if team.name:
        return {"jit": False, **untimed}
    if options.jit == "on" and not jit.supported(model):
        raise OptionError(f"--jit on: XLA does not compile every layer of {options.recipe} on this device.")
    if options.jit != "auto":
        return {"jit": options.jit == "on", **untimed}
    if options.smoke:
        say("jit auto: a smoke run uses the graph, without timing")
        return {"jit": False, **untimed}
    if not jit.supported(model):
        say("jit auto: XLA does not compile every layer on this device; using the graph")
        return {"jit": False, **untimed}
    say("jit auto: compiles the training step with XLA and without, to time both; a deep network takes minutes")
    timed = jit.choose(model, epochs(data, 0, 1).take(1).cache().repeat())
    say(
        f"jit auto: a step takes {timed['jit_ms']:.1f} ms with XLA (first step {timed['jit_compile_s']:.1f} s), "
        f"{timed['graph_ms']:.1f} ms without (first step {timed['graph_compile_s']:.1f} s): "
        f"using {'XLA' if timed['jit'] else 'the graph'}"
    )
    return timed


class _Keeper(keras.callbacks.Callback):
    """Stops at a loss that is not finite, or by the rule of the recipe, and writes a checkpoint after each epoch.

    Without a path it writes nothing: another worker does.
    """

    def __init__(self, path, done, title, stopping=None, snapshot=None):
        super().__init__()
        self.path = path
        self.done = done
        self.title = title
        self.stopping = stopping
        self.snapshot = snapshot

    @property
    def verdict(self):
        """The verdict of the recipe's rule on the finished epochs. Without a rule, the last epoch is kept."""
        return self.stopping(self.done.history) if self.stopping else Verdict(False, self.done.epochs)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        for name, value in logs.items():
            # These are means since the start of the epoch: not finite from the first bad step on.
            if name.endswith("loss") and not math.isfinite(value):
                raise NonFiniteError(
                    f"{self.title}: the {name} is {float(value)} in epoch {self.epoch + 1}, step {batch + 1}.",
                    *(self.epoch + 1, batch + 1, float(value)),
                )

    def on_epoch_end(self, epoch, logs=None):
        self.done = resume.Checkpoint(
            epoch + 1,
            [*self.done.history, {name: float(value) for name, value in logs.items()}],
            self.done.seconds + time.perf_counter() - self.started,
            self.done.kept,
            self.done.snapshots,
        )
        shown = self.snapshot and self.snapshot(epoch + 1, self.model)
        if shown is not None:
            self.done = self.done._replace(snapshots={**self.done.snapshots, epoch + 1: shown})
        if self.stopping:
            self.model.stop_training = self.verdict.stop
            if self.path and self.verdict.keep == epoch + 1:
                self.done = self.done._replace(kept=[w.numpy() for w in self.model.weights])
        if self.path is None:
            return
        try:
            resume.save(self.path, self.model, self.done)
        except FloatingPointError as error:
            raise NonFiniteError(f"{self.title}: {error} after epoch {epoch + 1}.", epoch + 1) from error


def _keep_last_good(recipe, options, variant, folder, data, error):
    """Saves the model of the last checkpoint, and a description of the failure."""
    model = _build(recipe, data, options, variant)
    good = resume.restore(folder.checkpoint(variant), model)
    if good:
        with replacing(folder / "last_good.keras") as temporary:
            model.save(temporary)
    report.write_json(
        folder / "failure.json",
        {
            "message": str(error),
            "variant": variant,
            "epoch": error.epoch,
            "step": error.step,
            "loss": None if error.loss is None else str(error.loss),
            "last_good_epoch": good.epochs if good else None,
        },
    )


def _write_history(path, trained):
    names = list(dict.fromkeys(name for result in trained.values() for row in result.history for name in row))
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, ["variant", "epoch", *names])
        writer.writeheader()
        for variant, result in trained.items():
            writer.writerows({"variant": variant, "epoch": i, **row} for i, row in enumerate(result.history, 1))
