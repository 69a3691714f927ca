"""The parts of a recipe: data, a model, a metric with an aim and a baseline, and a picture.

A recipe is a module `keras_dl.recipes.NAME` with a constant `RECIPE`. Its functions take `Options`, which hold all that
decides the result, and `Data`. The runner (`keras_dl.recipes.training.runner`) does the rest: progress, checkpoints,
resuming, the folder of the run and its report.
"""

import dataclasses
import importlib
import math
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_dl.architectures import ARCHITECTURES

# The recipes that can be trained, in the order in which `keras-dl list` shows them.
NAMES = tuple(architecture.recipe for architecture in ARCHITECTURES if architecture.recipe)

JITS = ("auto", "on", "off")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
RATE_RULES = {"linear": 1.0, "square-root": 0.5}  # powers of the batch that the learning rate follows

MOST_EPOCHS = 1_000_000
MOST_PIXELS = 4096

# Forms of own data that take --image-size.
SIZED_FORMS = ("images", "pictures", "domains", "boxes", "masks", "instances", "scene")

# `--smoke` trains for seconds: one variant, without a baseline, on few examples, for few epochs.
SMOKE_TRAIN = 256
SMOKE_TEST = 128
SMOKE_EPOCHS = 2


class OptionError(ValueError):
    """A wrong value of an option. The message names the option, the value, and a valid one."""


@dataclasses.dataclass(frozen=True)
class Options:
    """All that decides the result of a run. On one machine, two runs with equal options give equal weights.

    Attributes:
        recipe: str, one of `NAMES`.
        dataset: str, one of the recipe's `tasks`.
        epochs: int in [1, 1,000,000].
        batch_size: int in [1, 2**31).
        seed: int in [0, 2**31). Seed of weights, data order, augmentation and dropout.
        jit: "on" (XLA), "off" (graph), or "auto" (the faster of the two on this device, by timing both).
        precision: str, one of `PRECISIONS`: Keras's dtype policy.
        smoke: bool. Trains one variant on a small part of the data, for seconds. The aim is not judged.
        variants: tuple of str: those to train, of the task's `variants`; the first one is saved as model.keras. Empty
            for all of them, or for the first one in a smoke run.
        baseline: bool. Whether the baseline is measured, and variants are trained that only serve as one. None for yes,
            except in a smoke run, and where `variants` leaves them out.
        learning_rate: float or None. The peak of the recipe's schedule. None for the recipe's own.
        image_size: int in [1, 4096] or None. Height and width of the images that the model takes. None for the recipe's
            own. `from_folder` may give images in folders by class a pair of both.
        data_dir: str or None. The folder of TFDS. None for the default of TFDS.
        data: str or None. The path of own data; `dataset` is then its form, one of the recipe's `own`.
        target: str or None. The column to predict, of a table.
        fingerprint: str or None. That of the own data: a run goes on only with the same.
        accumulate: int, at least 1. The weights move after so many batches, by the mean of their gradients.
        scale_rate: None, or the rule by which the recipe's learning rate follows the batch that moves the weights: one
            of `RATE_RULES`. "linear" is that of Goyal et al. 2017, arXiv:1706.02677, for SGD; "square-root" that of
            Malladi et al. 2022, arXiv:2205.10287, for Adam.
        shards: bool. Each of several workers reads its own part of the training files. The rows of a batch then depend
            on the number of workers, too.
        augment: bool. Whether training examples of own data are changed at random, as the recipe does. Only
            `from_folder` sets it to False; each pipeline of own data heeds it.
    """

    recipe: str
    dataset: str
    epochs: int
    batch_size: int
    seed: int = 0
    jit: str = "auto"
    precision: str = "float32"
    smoke: bool = False
    variants: tuple[str, ...] = ()
    baseline: bool | None = None
    learning_rate: float | None = None
    image_size: int | None = None
    data_dir: str | None = None
    data: str | None = None
    target: str | None = None
    fingerprint: str | None = None
    accumulate: int = 1
    scale_rate: str | None = None
    shards: bool = False
    augment: bool = True

    def __post_init__(self):
        object.__setattr__(self, "variants", tuple(self.variants))  # JSON has a list
        for name, most in (("epochs", MOST_EPOCHS), ("batch_size", 2**31 - 1), ("accumulate", 2**31 - 1)):
            value = self._checked(name, int)
            if value < 1:
                raise OptionError(f"{flag(name)} {value} must be at least 1.")
            if value > most:
                raise OptionError(f"{flag(name)} {value} must be at most {most}.")
        if not 0 <= self._checked("seed", int) < 2**31:
            raise OptionError(f"--seed {self.seed} must be in [0, 2147483648).")
        for name, choices in (("jit", JITS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise OptionError(f"--{name} {getattr(self, name)} must be one of {', '.join(choices)}.")
        for name in ("recipe", "dataset"):
            self._checked(name, str)
        for name in ("data", "target", "fingerprint"):
            if getattr(self, name) is not None:
                self._checked(name, str)
        for name in ("smoke", "shards", "augment"):
            self._checked(name, bool)
        if self.scale_rate is not None and self.scale_rate not in RATE_RULES:
            raise OptionError(f"--scale-rate {self.scale_rate} must be one of {', '.join(RATE_RULES)}.")
        if self.scale_rate is not None and self.learning_rate is not None:
            raise OptionError(
                f"--learning-rate {self.learning_rate} and --scale-rate {self.scale_rate} exclude each other: the "
                "first is the rate itself, the second changes the recipe's."
            )
        if self.baseline is not None:
            self._checked("baseline", bool)
        if self.learning_rate is not None and not 0 < self._checked("learning_rate", float) < math.inf:
            raise OptionError(f"--learning-rate {self.learning_rate} must be a positive number.")
        if isinstance(self.image_size, tuple | list):
            self._check_pair()
        elif self.image_size is not None and not 1 <= self._checked("image_size", int) <= MOST_PIXELS:
            raise OptionError(f"--image-size {self.image_size} must be in [1, {MOST_PIXELS}] pixels.")

    def _check_pair(self):
        """A height and a width, which images in folders by class can have."""
        sides = self.image_size
        if self.data is None or self.dataset != "images":
            raise OptionError(f"image_size={sides} must be an int; a height and a width are for images by class.")
        if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= MOST_PIXELS for side in sides):
            raise OptionError(f"image_size={sides} must be an int, or a height and a width, in [1, {MOST_PIXELS}].")
        object.__setattr__(self, "image_size", tuple(sides))

    def _checked(self, name, kind):
        """The value of an option, which is of this type."""
        value = getattr(self, name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise OptionError(f"{flag(name)} {value!r} must be of type {kind.__name__}.")
        return value

    def rate(self, default):
        """The peak learning rate: the given one, or the recipe's."""
        return default if self.learning_rate is None else self.learning_rate

    def command(self, jit):
        """The command that repeats the run: all options that decide the result, and no path but that of own data.

        Args:
            jit: bool. Whether the run used XLA. It stands for `"auto"`, which might choose differently the next time.
        """
        words = ["keras-dl", "train", self.recipe]
        source = "dataset" if self.data is None else "data"
        values = {name: getattr(self, name) for name in (source, "epochs", "batch_size", "seed", "jit", "precision")}
        for name, value in (values | {"jit": "on" if jit else "off"}).items():
            words += [flag(name), shlex.quote(str(value))]
        if self.target is not None:
            words += ["--target", shlex.quote(self.target)]
        for variant in self.variants:
            words += ["--variant", variant]
        if self.baseline is not None:
            words.append("--baseline" if self.baseline else "--no-baseline")
        for name in ("learning_rate", "image_size"):
            if getattr(self, name) is not None:
                words += [flag(name), str(getattr(self, name))]
        if self.accumulate > 1:
            words += ["--accumulate", str(self.accumulate)]
        if self.scale_rate is not None:
            words += ["--scale-rate", self.scale_rate]
        if self.shards:
            words.append("--shards")
        return " ".join([*words, "--smoke"] if self.smoke else words)


def flag(name):
    """The option of the command line for a field of `Options`: `"batch_size"` becomes `--batch-size`."""
    return "--variant" if name == "variants" else f"--{name.replace('_', '-')}"


class Part(NamedTuple):
    """What one of several readers prepares of each batch, without the rows of the others.

    Attributes:
        index: int in [0, count). The reader.
        count: int, of which the batch size is a multiple.
        own_files: bool. False: its rows of the batch that one reader would make. True: rows of its own part of the
            files, in an order of their own.
    """

    index: int = 0
    count: int = 1
    own_files: bool = False

    def of(self, rows, options, num_train):
        """The rows of this reader in the numbered rows of an epoch: a `tf.data.Dataset`.

        Args:
            rows: `tf.data.Dataset` of `(number, row)` before rows are prepared: of all rows, or of those of its own
                files.
            options: `Options`.
            num_train: int. All examples.
        """
        size = self.size(options)
        if self.own_files:
            return rows.take(num_train // options.batch_size * size)
        if self.count == 1:
            return rows
        rows = rows.take(num_train // options.batch_size * options.batch_size)
        return rows.filter(lambda number, _: number % options.batch_size // size == self.index)

    def size(self, options) -> int:
        """The rows of this reader in a batch."""
        return options.batch_size // self.count


WHOLE = Part()  # the only reader


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run, as `load_data` returns it.

    Attributes:
        train: function from the number of an epoch (int32 scalar tensor) to the `tf.data.Dataset` of its batches
            `(inputs, targets)`. All batches have the same size. Order and augmentation depend only on the seed and the
            epoch, so that a resumed run sees the same data: use stateless random ops. With `divides`, the keyword
            `part`, a `Part`, gives the batches of one of several readers.
        test: `tf.data.Dataset` of batches `(inputs, targets)`, raw inputs, in a fixed order; the last may be smaller.
        num_train: int. Examples of the training split.
        num_test: int. Examples of the test split.
        dataset: str. Its name in TFDS.
        version: str. Its version.
        licence: str. Its license in one line.
        calibration: function from a number of samples to a `tf.data.Dataset` of single raw training examples
            `{input name: (1, ...)}`, as the serving signature takes them.
        labels: tuple of str. Names of the classes. Empty for regression.
        input_shape: tuple of int. Shape of one input.
        input_range: str. Dtype and range of the raw inputs.
        arrays: dict of NumPy arrays by name, for data that fits into memory, such as tables.
        vocabularies: dict of tokenizers by name, as their `to_json` returns them. They are saved with the run as
            vocabularies.json, and in the metadata of each exported file.
        validation: `tf.data.Dataset` like `test`, of examples that are in neither split. The `val_*` entries of the
            history are measured on it, for `Recipe.stopping`. None for the test split, which then decides nothing.
        columns: list of dicts, of a table with names: what each column of the file is, and which numbers it becomes
            (`keras_dl.recipes.data.table`). It goes into the run and into exported files. Empty for other data.
        domains: names of two sets of images that are translated into each other. They go into the run and into exported
            files. Empty for other data.
        form: str. The form of own data, whose name can be that of a data set. Empty for a data set.
        divides: "" if each reader must prepare whole batches, "rows" if it can prepare its own rows alone, or "files"
            if it can also read its own part of the files.
    """

    train: Callable
    test: Any
    num_train: int
    num_test: int
    dataset: str
    version: str
    licence: str
    calibration: Callable
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    input_range: str
    arrays: dict = dataclasses.field(default_factory=dict)
    vocabularies: dict = dataclasses.field(default_factory=dict)
    validation: Any = None
    columns: list = dataclasses.field(default_factory=list)
    domains: tuple[str, ...] = ()
    form: str = ""
    divides: str = ""

    def steps(self, options) -> int:
        """The training steps of all epochs together."""
        return options.epochs * (self.num_train // options.batch_size)


class Export(NamedTuple):
    """A file that `docs/reproduce.py` makes of a run.

    Attributes:
        quantization: str, as `keras-dl export --quantization` takes it.
        target: str, as `--target` takes it.
        signatures: tuple of str. The signatures that the file holds. Empty for all.
        float_layers: tuple of str, as `--float-layer` takes them.
        batch_size: int, as `--batch-size` takes it.
    """

    quantization: str
    target: str
    signatures: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()
    batch_size: int = 1


FLOAT = Export("none", "cpu")
INT8 = Export("int8", "cpu")
INT8_RAW = Export("int8", "cpu", ("raw",))  # maps of a detector; the rest stays float
INT16X8 = Export("int16x8", "cpu")
DYNAMIC_INT8 = Export("dynamic_int8", "cpu")
MICRO = Export("int8", "micro")
ETHOS_U55 = Export("int8", "ethos-u55-128")
EDGETPU = Export("int8", "edgetpu")
FOLDS = tuple(f"fold-{i}" for i in range(1, 6))  # variants: the folds of a cross-validation


@dataclasses.dataclass(frozen=True)
class Task:
    """How a recipe trains on one dataset.

    Attributes:
        epochs: int. Default of `--epochs`. With `Recipe.stopping`, the largest number.
        batch_size: int. Default of `--batch-size`.
        metric: str. Name and unit of the metric that `Recipe.evaluate` measures on the test split.
        aim: float, the value to reach, or None.
        variants: names of the trainings of a run: folds of a cross-validation, or networks to compare. The first one
            is saved as model.keras.
        order: tuple of str. The variants in the order in which they are trained, where `Recipe.begin` needs another one
            than that of `variants`. Their models are then kept for `begin` and for the picture.
        baselines: those of the variants that only serve as a baseline.
        combine: function from the list of the variants' metrics, in order, to the value of the run. The default takes
            that of the first variant.
        higher_is_better: bool. Whether a larger metric is better.
        exports: tuple of `Export`. The files of the reproduced run, for `docs/results`.
        reproduced: bool. Whether `make reproduce` trains it. It needs data that comes without a download from a hub.
            The first dataset of a recipe is always reproduced.
    """

    epochs: int
    batch_size: int
    metric: str = "accuracy"
    aim: float | None = None
    variants: tuple[str, ...] = ("model",)
    order: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    combine: Callable = lambda values: values[0]
    higher_is_better: bool = True
    exports: tuple[Export, ...] = (FLOAT, MICRO, ETHOS_U55)
    reproduced: bool = False

    def reaches_aim(self, value):
        """Whether `value` is at least as good as the aim."""
        return value >= self.aim if self.higher_is_better else value <= self.aim


@dataclasses.dataclass(frozen=True)
class Trained:
    """One variant after its training.

    Attributes:
        value: float. The recipe's metric on the test split.
        history: list of dicts, one per epoch: the logs of Keras (`loss`, `val_loss`, ...).
        seconds: float. Duration of the training, including validation.
        data: the `Data` that it was trained on.
        snapshots: dict of arrays by epoch, as `Recipe.snapshot` returned them.
    """

    value: float
    history: list[dict]
    seconds: float
    data: Data
    snapshots: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A whole run, as `baseline` and `picture` receive it.

    Attributes:
        options: `Options`.
        task: `Task`.
        model: the trained `keras.Model` of the first variant.
        trained: dict of `Trained` by variant, in order.
        with_baseline: bool. Whether the baseline is measured; a picture without it costs less.
        models: dict of `keras.Model` by variant: of the first one, and of all if `Task.order` is given.
    """

    options: Options
    task: Task
    model: Any
    trained: dict[str, Trained]
    with_baseline: bool = True
    models: dict = dataclasses.field(default_factory=dict)

    @property
    def data(self):
        """`Data` of the first variant, which `model` was trained on."""
        return next(iter(self.trained.values())).data

    @property
    def value(self):
        """float. The metric of the run."""
        return float(self.task.combine([variant.value for variant in self.trained.values()]))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one architecture is trained, measured and shown.

    Attributes:
        name: str. Name of the module, and on the command line.
        model: str. Public name of the class that it trains.
        summary: str. One line for `keras-dl list`.
        tasks: dict of `Task` by dataset. The first dataset is the default.
        own: dict of `Task` by the form of own data (`keras_dl.recipes.data.FORMS`), for `--data`. One at least.
        load_data: `load_data(options, variant) -> Data`.
        build_model: `build_model(data, options, variant) -> keras.Model`, built and compiled. Random numbers of
            the training come from layers or from a `keras.random.SeedGenerator` that the model holds, so that their
            state is in the checkpoint.
        evaluate: `evaluate(serve, data) -> float`: the metric on `data.test`. `serve(signature name, **arrays)` calls a
            signature of the model or of a file, and returns a dict of arrays.
        baseline: `baseline(outcome) -> (name, value)`: a simpler method on the same test data, which the run must beat.
        picture: `picture(outcome) -> matplotlib Figure`.
        stopping: `stopping(variant, history) -> Verdict`, asked after each epoch: `keras_dl.recipes.training.stopping`
            has rules. None trains all epochs. It cannot be used with an optimizer that averages weights.
        calibrate: `calibrate(serve, data, samples)`: calibration data by signature, for a model whose signatures take
            what other signatures return. None if `Data.calibration` has all of it.
        takes_learning_rate: bool. Whether `build_model` asks `Options.rate` for its learning rate.
        takes_image_size: bool. Whether `load_data` gives images of `Options.image_size`.
        snapshot: `snapshot(options, epoch, model) -> array or None`, asked after each epoch: what `picture` shows of
            the training's course. It must draw no random numbers of the model. None for no snapshots.
        figures: `figures(outcome) -> dict` of float or str: what the report says beside the metric. None for nothing.
        begin: `begin(model, variant, earlier)`, called before the first epoch of a variant: it may give the new model
            weights of `earlier`, a dict of the trained models by variant that were kept so far. None for none.
    """

    name: str
    model: str
    summary: str
    tasks: dict[str, Task]
    load_data: Callable
    build_model: Callable
    evaluate: Callable
    baseline: Callable
    picture: Callable
    stopping: Callable | None = None
    calibrate: Callable | None = None
    takes_learning_rate: bool = True
    takes_image_size: bool = False
    snapshot: Callable | None = None
    figures: Callable | None = None
    begin: Callable | None = None
    own: dict[str, Task] = dataclasses.field(default_factory=dict)

    @property
    def reproduced(self) -> tuple[str, ...]:
        """The datasets that `make reproduce` trains on: the first one, and those whose task says so."""
        first = next(iter(self.tasks))
        return tuple(dataset for dataset, task in self.tasks.items() if task.reproduced or dataset == first)

    def options(self, dataset=None, epochs=None, batch_size=None, smoke=False, **others):
        """`Options` with the recipe's defaults for arguments that are None.

        Raises:
            OptionError: if a value is out of its range, or the recipe has no such dataset or variant.
        """
        own = others.get("data") is not None
        tasks = self.own if own else self.tasks
        dataset = dataset or next(iter(self.tasks))
        if dataset not in tasks:
            what = "The form of --data" if own else "--dataset"
            raise OptionError(f"{what} {dataset} must be one of {', '.join(tasks)} for {self.name}.")
        task = tasks[dataset]
        epochs = task.epochs if epochs is None else epochs
        default = min(task.batch_size, SMOKE_TRAIN) if smoke else task.batch_size
        options = Options(
            recipe=self.name,
            dataset=dataset,
            epochs=min(epochs, SMOKE_EPOCHS) if smoke else epochs,
            batch_size=default if batch_size is None else batch_size,
            smoke=smoke,
            **others,
        )
        self.check(options)
        return options

    def check(self, options):
        """Refuses options that do not fit the recipe, before any work.

        Raises:
            OptionError: if the recipe has no such dataset or variant, or they exclude each other.
        """
        if options.data is None and options.dataset not in self.tasks:
            raise OptionError(
                f"--dataset {options.dataset} must be one of {', '.join(self.tasks)} for {self.name}. For other data, "
                "add a Task to the recipe, or train its model with `fit`: see Training in the documentation."
            )
        if options.data is not None and options.dataset not in self.own:
            raise OptionError(f"{self.name} takes no own data of the form {options.dataset!r}.")
        if options.target is not None and options.data is None:
            raise OptionError(f"--target {options.target} is for an own table: give it by --data PATH.")
        task, chosen = self.task(options), options.variants
        for name in chosen:
            if name not in task.variants:
                raise OptionError(f"--variant {name} must be one of {', '.join(task.variants)} on {options.dataset}.")
        if len(set(chosen)) < len(chosen):
            raise OptionError(f"--variant names one of {', '.join(chosen)} twice.")
        if options.baseline and chosen and task.baselines and not set(chosen) & set(task.baselines):
            raise OptionError(f"--baseline needs --variant {task.baselines[0]}, which is not among the chosen ones.")
        if not self.variants(options):
            raise OptionError(f"--no-baseline excludes --variant {', '.join(chosen)}, which only serves as a baseline.")
        if options.learning_rate is not None and not self.takes_learning_rate:
            raise OptionError(f"--learning-rate: the schedule of {self.name} has none to set.")
        if options.image_size is not None and not self._sized(options):
            raise OptionError(f"--image-size: {self.name} has none to set.")

    def _sized(self, options):
        return options.dataset in SIZED_FORMS if options.data is not None else self.takes_image_size

    def task(self, options) -> Task:
        """The `Task` of these options."""
        return (self.tasks if options.data is None else self.own)[options.dataset]

    def variants(self, options) -> tuple[str, ...]:
        """The variants that a run with these options trains. The first one is saved as model.keras."""
        task = self.task(options)
        names = options.variants or task.variants
        if options.smoke and not options.variants:
            names = (*names[:1], *(task.baselines if options.baseline else ()))
        return tuple(name for name in names if options.baseline is not False or name not in task.baselines)

    def order(self, options) -> list[str]:
        """The variants of a run, in the order in which they are trained."""
        variants = self.variants(options)
        return sorted(variants, key=(self.task(options).order or variants).index)

    def has_baseline(self, options) -> bool:
        """Whether a run with these options measures the baseline."""
        if options.baseline is not None or options.smoke:
            return bool(options.baseline)
        baselines = self.task(options).baselines
        return not baselines or bool(set(baselines) & set(self.variants(options)))


def find(name):
    """The `Recipe` with this name.

    Raises:
        OptionError: if there is none. The message lists the names.
    """
    if name not in NAMES:
        raise OptionError(f"There is no recipe {name!r}. Choose one of: {', '.join(NAMES)}.")
    return importlib.import_module(f"keras_dl.recipes.{name}").RECIPE


def takers(form) -> tuple[str, ...]:
    """The names of the recipes that take own data of a form."""
    return tuple(name for name in NAMES if form in find(name).own)


def run_as_script(name):
    """Runs `python recipes/NAME.py ARGUMENTS` as `keras-dl train NAME ARGUMENTS`."""
    import keras_dl_cli

    # Python puts the script's folder first on the path, where its modules would hide others with the same names.
    sys.path[:] = [path for path in sys.path if path != str(pathlib.Path(__file__).parents[1])]
    keras_dl_cli.main(["train", name, *sys.argv[1:]])
