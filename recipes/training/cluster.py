"""`--distribute`: on what the training runs, and what its processes share.

`Alone` is one device, as without the option. `Team` has a strategy of `tf.distribute`: "mirrored" for the devices of
this machine, "multi_worker" for several processes, each on its own machine or not. Worker 0 is the chief, which writes
the run. What the chief reads, a checkpoint for example, it tells the others, which need no disk in common with it.

The batch size is that of all replicas together. Each replica gets its rows of each batch that one machine would make,
in the order that seed and epoch give: replica i of n the rows from `i * size / n` on. Where the recipe can, a worker
decodes and augments only its own rows; with `--shards`, it reads only its own part of the files.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import time

import numpy as np
import tensorflow as tf

from keras_dl.distributing import wait_for_signs
from keras_dl.recipes.training import rendezvous
from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import RATE_RULES, OptionError, Part
from keras_dl.recipes.training.rendezvous import ClusterError
from keras_dl.recipes.training.report import versions
from keras_dl.replicas import local_value, replica_sum

DISTRIBUTIONS = ("mirrored", "multi_worker")
EPOCHS_TO_RISE = 5  # of the learning rate to that for larger batches, by Goyal et al. 2017
SECONDS_OF_PATIENCE = 600.0  # of TensorFlow, for a sign of life of a worker: the meeting notices earlier
SECONDS_FOR_A_CAUSE = 20.0  # after an error of TensorFlow, until the other processes know whose it was


class Alone:
    """One process on one device."""

    name, replicas, is_chief, flags = None, 1, True, ""
    index, workers = 0, 1

    def scope(self):
        return contextlib.nullcontext()

    def shared(self, dataset, is_own=False):
        return dataset

    def steps(self, dataset):
        """The number of batches, for `validation_steps`. None lets Keras find it, which it does for one device."""
        return None

    def agreed(self, document):
        """The chief's document."""
        return document

    def spread(self, variables):
        """Gives all replicas the values that the chief has."""

    def single(self, model, build):
        """The model for what follows the training, on one device."""
        return model

    def check_batches(self, dataset, batch_size):
        """Refuses a `tf.data.Dataset` of batches whose rows cannot be shared."""

    def check_data(self, dataset, batch_size, known, shards=False):
        """Refuses data that cannot be shared, or that is not the same on all workers.

        Args:
            dataset: `tf.data.Dataset` of whole batches.
            batch_size: int.
            known: dict that JSON can hold: what is known of the data.
            shards: bool. Whether a worker need not have what the first batch is made of.
        """


class Team(Alone):
    """Replicas in this process, and perhaps in others.

    Args:
        name: one of `DISTRIBUTIONS`.
        strategy: `tf.distribute.Strategy`.
        meeting: `rendezvous.Meeting`, or None for one process.
    """

    def __init__(self, name, strategy, meeting=None):
        self.name, self.strategy, self.meeting = name, strategy, meeting
        self.replicas = strategy.num_replicas_in_sync
        self.is_chief = meeting is None or meeting.index == 0
        self.flags = f" --distribute {name}"
        if meeting is not None:
            self.index, self.workers = meeting.index, len(meeting.addresses)

    def scope(self):
        return self.strategy.scope()

    def shared(self, dataset, is_own=False):
        """A dataset for `fit`, of which each replica gets its rows of each batch.

        A batch of fewer rows than there are replicas, such as the last one of a test, goes to each of them.

        Args:
            dataset: `tf.data.Dataset` of batches.
            is_own: bool. Whether the batches have only the rows of the replicas of this process.
        """
        replicas = self.replicas // self.workers if is_own else self.replicas

        def rows(batch, replica):
            def part(x):
                count = tf.shape(x)[0]
                first, last = replica * count // replicas, (replica + 1) * count // replicas
                found = tf.cond(count < replicas, lambda: x, lambda: x[first:last])
                size = None if x.shape[0] is None or x.shape[0] % replicas else x.shape[0] // replicas
                return tf.ensure_shape(found, [size, *x.shape[1:]])

            return tf.nest.map_structure(part, batch)

        def of_worker(context):
            local = context.num_replicas_in_sync // context.num_input_pipelines
            first = 0 if is_own else context.input_pipeline_id * local

            def shares(*batch):
                batch = batch[0] if len(batch) == 1 else batch
                parts = [tf.data.Dataset.from_tensors(rows(batch, first + i)) for i in range(local)]
                return functools.reduce(lambda a, b: a.concatenate(b), parts)

            return dataset.flat_map(shares).prefetch(tf.data.AUTOTUNE)

        return self.strategy.distribute_datasets_from_function(of_worker)

    def steps(self, dataset):
        known = int(dataset.cardinality())
        return known if known > 0 else None

    def agreed(self, document):
        if self.meeting is None:
            return document
        if self.is_chief:
            self.meeting.tell(document)
            return document
        return self.meeting.hear()

    def spread(self, variables):
        if self.meeting is None:
            return

        @tf.function
        def take():
            replica = tf.distribute.get_replica_context()
            is_first = replica.replica_id_in_sync_group == 0
            for variable in (v for v in variables if v.synchronization != "on_read"):  # those are sums, of metrics
                x = tf.convert_to_tensor(variable.value)
                # Bits, which all-reduce adds to zeros: it has no booleans, and -0.0 + 0.0 is 0.0.
                as_number = tf.cast(x, tf.int32) if x.dtype in (tf.bool, tf.uint32, tf.int8, tf.uint8) else x
                found = replica.all_reduce(
                    tf.distribute.ReduceOp.SUM, tf.where(is_first, as_number, tf.zeros_like(as_number))
                )
                variable.value.assign(tf.cast(found, x.dtype))

        self.strategy.run(take)

    def single(self, model, build):
        """A model outside of the strategy with the same state. Its methods wait for no other worker."""
        from keras_dl.recipes.training.resume import state_variables

        plain = build()
        for variable, source in zip(state_variables(plain), state_variables(model), strict=True):
            variable.assign(local_value(source))
        return plain

    def check_batches(self, dataset, batch_size):
        for spec in tf.nest.flatten(dataset.element_spec):
            if spec.shape.rank in (None, 0) or spec.shape[0] not in (None, batch_size):
                raise OptionError(
                    f"--distribute {self.name}: the data have batches with a part of the shape {spec.shape}, which is "
                    f"not {batch_size} rows. Such batches cannot be shared: train this recipe on one device."
                )

    def check_data(self, dataset, batch_size, known, shards=False):
        self.check_batches(dataset, batch_size)
        if self.meeting is None:
            return
        first = [] if shards else tf.nest.flatten(next(iter(dataset.take(1))))
        own = [known, *map(_summary, first)]
        theirs = self.agreed(own)
        alike = len(own) == len(theirs) and all(map(_alike, own, theirs))
        # All must know, so that none waits for one that ended with the error.
        differ = self.strategy.run(_sum, args=(tf.constant(int(not alike), tf.int32),))
        differ = int(self.strategy.experimental_local_results(differ)[0])
        if differ:
            raise ClusterError(
                f"The data are not the same on all workers: {differ} replicas have others than worker 0. Here they are "
                f"{known}, and the first batch is compared, too. All need the same files of the data set: see "
                "--data-dir."
            )


@tf.function
def _sum(x):
    return replica_sum(x)


def _summary(tensor):
    """What tells whether two workers have the same. Floats are compared by their size: processors round differently."""
    array = tensor.numpy()
    if array.dtype.kind == "f":
        return [float(np.mean(array)), float(np.mean(np.abs(array)))]
    data = b"".join(array.ravel().tolist()) if array.dtype == object else array.tobytes()
    return hashlib.sha256(data).hexdigest()


def _alike(own, other):
    return own == other or (
        isinstance(own, list) and isinstance(own[0], float) and np.allclose(own, other, rtol=1e-3, atol=1e-6)
    )


def find_workers():
    """The processes of the training: `(index, addresses)`, from TF_CONFIG, or from Slurm's variables.

    Raises:
        OptionError: if there are none, or they are not what a training has.
    """
    if os.environ.get("TF_CONFIG"):
        return _from_config(os.environ["TF_CONFIG"])
    if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= set(os.environ):
        # Slurm itself gives GPUs to tasks. The resolver wants one for each, and without this it asks for them.
        gpus = dict(gpus_per_node=int(os.environ["SLURM_STEP_NUM_TASKS"]), gpus_per_task=1, auto_set_gpu=False)
        port = os.environ.get("KERAS_DL_PORT", "8888")
        if not rendezvous.is_address(f"node:{port}"):
            raise OptionError(f"KERAS_DL_PORT {port} must be the number of a port, in [1, 65535].")
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(port_base=int(port), **gpus)
        addresses = resolver.cluster_spec().as_dict()["worker"]
        return resolver.task_id, list(addresses)
    raise OptionError(
        "--distribute multi_worker needs the environment variable TF_CONFIG, which a TFJob sets, or those of a step of "
        "Slurm (srun). On this machine, try `keras-dl launch --workers 2 train ...`."
    )


def _from_config(text):
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        kind, number = task["type"], int(task["index"])
        addresses = [address for job in ("chief", "worker") for address in jobs.get(job, [])]
        index = number if kind == "chief" else number + len(jobs.get("chief", []))
        known = set(jobs) <= {"chief", "worker"} and kind in ("chief", "worker")
        right = known and 0 <= number < len(jobs[kind]) and all(map(rendezvous.is_address, addresses))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"TF_CONFIG {text} is not a cluster: {type(error).__name__}: {error}.") from error
    if not right:
        raise OptionError(
            f"TF_CONFIG {text} must have a cluster of workers, of which one may be the chief, as host:port, and a task "
            "that is one of them."
        )
    return index, addresses


@contextlib.contextmanager
def gathered(name, options, seconds=None):
    """Yields the `Team` of a training, or `Alone` if `name` is None. With several processes, it ends for all at once.

    Args:
        name: one of `DISTRIBUTIONS`, or None.
        options: `Options`, which must be the same in all processes.
        seconds: float. How long to wait for the other processes. None for `rendezvous.SECONDS_TO_MEET`.

    Raises:
        ClusterError: if the processes do not find each other, or one of them ends.
        OptionError: if there is no cluster.
    """
    if name is None:
        yield Alone()
        return
    if name == "mirrored":
        yield Team(name, tf.distribute.MirroredStrategy())
        return
    index, addresses = find_workers()
    have = {f"{package} version": version for package, version in versions().items()}
    have |= {"Python version": platform.python_version(), "options": options.command(False)}
    have |= {"own data": options.fingerprint} if options.fingerprint else {}
    seconds = rendezvous.SECONDS_TO_MEET if seconds is None else seconds
    meeting = rendezvous.meet(index, addresses, have, seconds, say)
    try:
        # What TensorFlow reads, whatever started the process.
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        )
        wait_for_signs(len(addresses), SECONDS_OF_PATIENCE)
        team = Team(name, tf.distribute.MultiWorkerMirroredStrategy(), meeting)
        if index == 0:
            say(f"{len(addresses)} workers train on {team.replicas} replicas")
        yield team
        meeting.wait()
    except tf.errors.OpError as error:
        until = time.monotonic() + SECONDS_FOR_A_CAUSE
        while meeting.lost is None and time.monotonic() < until:
            time.sleep(0.1)
        if meeting.lost is None:
            meeting.leave(f"{type(error).__name__}: {str(error)[:500]}")
            raise
        raise ClusterError(meeting.lost) from error
    except BaseException as error:
        meeting.leave(f"{type(error).__name__}: {error}")
        raise
    finally:
        meeting.leave()


def tell_of_batch(recipe, options, team):
    """Says what the learning rate does if the weights move by other batches than it was chosen for."""
    own, batch = recipe.task(options).batch_size, options.batch_size * options.accumulate
    if options.scale_rate is not None:
        factor = (batch / own) ** RATE_RULES[options.scale_rate]
        say(
            f"the weights move by {batch} examples at a time, and the learning rate of the recipe is for {own}: with "
            f"--scale-rate {options.scale_rate}, it goes to {factor:g} times that in the first "
            f"{min(EPOCHS_TO_RISE, options.epochs)} epochs."
        )
        return
    if (team.name or options.accumulate > 1) and batch != own and options.learning_rate is None and not options.smoke:
        say(
            f"the weights move by {batch} examples at a time, and the learning rate is that of the recipe, for {own}. "
            f"Goyal et al. 2017, arXiv:1706.02677, multiply the rate of SGD by {batch / own:g} then, and raise it from "
            f"the recipe's in the first {EPOCHS_TO_RISE} epochs: --scale-rate linear does so, --learning-rate sets it."
        )


def check_reading(recipe, options, data, team, services=()):
    """Refuses ways of reading that the data do not have, before the training.

    Args:
        recipe: `Recipe`.
        options: `Options`.
        data: `Data`.
        team: `Alone` or `Team`.
        services: list of str: the addresses of `--data-service`.
    """
    if options.shards and team.workers == 1:
        raise OptionError("--shards is for --distribute multi_worker: one process reads all files.")
    if options.shards and data.divides != "files":
        raise OptionError(f"--shards: {recipe.name} reads all files of {data.dataset}. Leave it out.")
    if options.shards and services:
        raise OptionError("--shards and --data-service exclude each other.")
    if len(services) > 1 and not data.divides:
        raise OptionError(
            f"--data-service is given {len(services)} times, and {recipe.name} on {data.dataset} prepares whole "
            "batches, which cannot be divided: give one address."
        )
    if options.batch_size % team.replicas:
        raise OptionError(f"--batch-size {options.batch_size} must be a multiple of the {team.replicas} replicas.")
    if services and options.batch_size % (readers := team.workers * len(services)):
        raise OptionError(
            f"--batch-size {options.batch_size} must be a multiple of {readers}, the number of workers times that of "
            f"data services, {team.workers} x {len(services)}."
        )


def part_of(data, options, team):
    """The `Part` of each batch that this process prepares; None for whole batches, of which it drops rows."""
    if team.workers == 1 or not data.divides:
        return None
    return Part(team.index, team.workers, options.shards)
