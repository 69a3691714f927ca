"""Training on `tf.distribute`: `fit`, `evaluate` and `predict` on several devices, and on several machines.

Models of this package made in the scope of a strategy have it; `distributed` gives it to any other Keras model. It
stands in for these lines of Keras 3.15.1, `trainer.py` and `optimizer.py` in `keras/src/backend/tensorflow`. Where the
first two are mended, it does not:

- `_maybe_symbolic_build` takes a batch from the data and averages it over the replicas. There is no mean of booleans
  and texts. On several workers it leaves `PerReplica` values, of which no symbols can be made. Then it calls the model
  on `x`, and the loss on `y`: a model whose step makes its own inputs or targets fails. `build` reads the specs of the
  data, and traces the step of evaluation.
- `reduce_per_replica` takes the mean of logs on several workers over their axis 0, which scalars do not have. `spread`
  gives them one.

- An optimizer clips and accumulates the gradients of a replica before they are added up, and updates variables by
  `merge_call`, which fails inside of the condition of gradient accumulation. A loss scale looks at the gradients of a
  replica for infinities: a replica without one would wait forever for another that skips its step. `add_up_first` adds
  them up before.

Keras says nothing of the rest:

- Random layers have one seed, so that all replicas draw the same dropout and noise. `spread` gives each its own, a
  function of the seed and of the number of the replica, which the state of the model does not show.
- Each replica has its own moving statistics. `agree` sets all to their mean after each epoch, before anything reads
  them.
- An optimizer made outside of the scope does not add up gradients, and XLA cannot compile a step that waits for others.
  Both are refused.
"""

import functools
import inspect
import logging

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.backend.tensorflow import trainer
from keras.src.optimizers import base_optimizer
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from keras_dl.replicas import in_replica

_SEED_STRIDE = 0x9E3779B1  # odd and without pattern, so that seeds of replicas do not meet

log = logging.getLogger(__name__)


def needs_build() -> bool:
    """Whether this Keras builds a model on averaged batches."""
    return "self.distribute_strategy.reduce(" in inspect.getsource(trainer.TensorFlowTrainer._maybe_symbolic_build)


def needs_axis() -> bool:
    """Whether this Keras takes the mean of logs over their axis 0."""
    return '"MEAN", v, axis=0' in inspect.getsource(trainer.reduce_per_replica)


def is_multi_worker(strategy) -> bool:
    """Whether other processes take part."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and strategy.extended._in_multi_worker_mode()


def wait_for_signs(workers: int, seconds: float) -> None:
    """Sets how long TensorFlow waits for a sign of life of a worker, before it makes a MultiWorkerMirroredStrategy.

    Its 10 s end trainings on machines that are busy with other work. There is no public setting.
    """
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        heartbeat_timeout_in_ms=int(1000 * seconds),
        coordinated_jobs=[coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=workers)],
    )


def build(model, keras_build, iterator=None, data_batch=None):
    """Makes what is missing of the model, its metrics and its optimizer, before the replicas run.

    Args:
        model: `keras.Model`.
        keras_build: the method of Keras that this stands in for.
        iterator: Keras's iterator of epochs. None for `data_batch`.
        data_batch: a tuple of arrays.
    """
    if model._distribute_strategy is None or not needs_build():
        keras_build(iterator=iterator, data_batch=data_batch)
        return
    with model.distribute_strategy.scope():
        if not _is_built(model):
            found = data_batch if iterator is None else iterator._distributed_dataset.element_spec
            backend.compute_output_spec(model.test_step, keras.tree.map_structure(_symbol, found))
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model._post_build()


def _is_built(model):
    parts = [model._compile_metrics, model._compile_loss]
    return all(x.built for x in [*model._flatten_layers(), *(part for part in parts if part is not None)])


def _symbol(x):
    """The symbol of one replica's share of an array, or of what a spec describes."""
    x = getattr(x, "_value_specs", [x])[0]  # a PerReplicaSpec has the specs of this process's replicas
    if x is None or isinstance(x, tf.OptionalSpec):
        return None
    return keras.KerasTensor(x.shape, backend.standardize_dtype(x.dtype))


def spread(model, step):
    """The step of a replica: with random numbers of its own, and with logs that Keras can average.

    Args:
        model: `keras.Model` with a strategy.
        step: function of a batch that returns logs.
    """
    seeds = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    as_rows = is_multi_worker(model.distribute_strategy) and needs_axis()

    @functools.wraps(step)
    def one(data):
        mask = _SEED_STRIDE * tf.distribute.get_replica_context().replica_id_in_sync_group
        for seed in seeds:  # the same again restores them
            seed.assign(seed.value ^ tf.cast(tf.stack([mask, 0]) & 0x7FFFFFFF, seed.dtype))
        logs = step(data)
        for seed in seeds:
            seed.assign(seed.value ^ tf.cast(tf.stack([mask, 0]) & 0x7FFFFFFF, seed.dtype))
        return keras.tree.map_structure(lambda value: tf.convert_to_tensor(value)[None], logs) if as_rows else logs

    return one


def add_up_first(optimizer) -> None:
    """Lets an optimizer take the gradients of the whole batch, and update each replica by itself.

    All replicas have the same gradients then, so that they make the same step, or all skip it for a loss scale.

    Args:
        optimizer: `keras.optimizers.Optimizer`, perhaps a `LossScaleOptimizer` or a `MultiOptimizer`.
    """

    def first(owner, keras_apply):
        def apply(gradients, variables):
            if in_replica():
                known = variables or owner._trainable_variables
                pairs = owner._all_reduce_sum_gradients(list(zip(gradients, known, strict=True)))
                gradients = [gradient for gradient, _ in pairs]
            keras_apply(gradients, variables)

        return apply

    def either(owner, name, simple):
        """Keras's method for one device in the step of a replica, else its method for `tf.distribute`."""
        distributed, alone = getattr(owner, name), functools.partial(simple, owner)
        return lambda *args: alone(*args) if in_replica() else distributed(*args)

    has_scale = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if has_scale and "_tf_apply" not in vars(optimizer):
        simple = keras.optimizers.LossScaleOptimizer._common_apply
        vars(optimizer)["_tf_apply"] = first(optimizer, either(optimizer, "_tf_apply", simple))  # past Keras's tracking
    names = ("_backend_update_step", "_backend_increment_gradient_accumulators", "_apply_weight_decay")
    names += ("_overwrite_model_variables_with_average_value",)
    base = base_optimizer.BaseOptimizer
    for part in parts(optimizer):
        if "_backend_update_step" in vars(part):
            continue
        vars(part).update({name: either(part, name, getattr(base, name)) for name in names})
        if has_scale:  # the step is inside of a condition, in which a counter of all replicas cannot wait for them
            if isinstance(part._iterations.value, tf.distribute.DistributedValues):
                part._iterations.value._aggregation = tf.VariableAggregation.NONE
        else:
            vars(part)["_backend_apply_gradients"] = first(part, part._backend_apply_gradients)


def parts(optimizer) -> list:
    """The optimizers that move variables: those in a `LossScaleOptimizer` or a `MultiOptimizer`, or the optimizer."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(inner.optimizers) if isinstance(inner, keras.optimizers.MultiOptimizer) else [inner]


def optimizers(model) -> list:
    """All optimizers of a model, with the loss scale around them."""
    return [x for x in vars(model).values() if isinstance(x, keras.optimizers.Optimizer)]


def check(model) -> None:
    """Refuses what would train wrongly, or fail with a word of no help, on the replicas of a strategy.

    Raises:
        ValueError: if an optimizer was made outside of the strategy's scope, XLA is wanted, or a layer carries states
            of rows from batch to batch.
    """
    strategy, name = model.distribute_strategy, type(model).__name__
    for optimizer in (part for each in optimizers(model) for part in parts(each)):
        if optimizer._distribution_strategy is not strategy:
            raise ValueError(
                f"optimizer {optimizer.name!r} was made outside of the strategy that {name} was made in, and would not "
                "add up the gradients of its replicas. Make and compile both in `with strategy.scope():`."
            )
    if strategy.num_replicas_in_sync == 1:
        return
    if model.jit_compile:
        raise ValueError(
            f"jit_compile=True: XLA cannot compile a step of {name} that waits for {strategy.num_replicas_in_sync} "
            "replicas. Compile the model with jit_compile=False."
        )
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) is True:
            raise ValueError(
                f"layer {layer.name!r} is stateful: it carries the states of the rows of a batch on, and each replica "
                "has some of the rows. Train it on one device."
            )


def tell_of_statistics(model) -> None:
    """Says, on the first worker, that layers of batch normalization take the statistics of a part of each batch."""
    if "_has_told" in vars(model):
        return
    vars(model)["_has_told"] = True  # past Keras, which would track it
    strategy = model.distribute_strategy
    kinds = keras.layers.BatchNormalization
    own = [x for x in model._flatten_layers() if isinstance(x, kinds) and not x.synchronized and x.trainable]
    if own and strategy.num_replicas_in_sync > 1 and strategy.extended.should_checkpoint:
        log.warning(
            "%d layers of batch normalization (%s, ...): each of %d replicas normalizes its own share of a batch. "
            "Moving statistics are averaged after each epoch. With synchronized=True, the whole batch counts.",
            *(len(own), own[0].name, strategy.num_replicas_in_sync),
        )


def agree(model) -> None:
    """Sets the weights that are not trained, such as moving statistics, to their mean over the replicas.

    Where they are equal already, they keep their bits. Layers with the attribute `holds_examples` have no statistics:
    those of the first replica stay. All workers must call it at the same place.
    """
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return
    examples = {
        id(v) for layer in model._flatten_layers() if getattr(layer, "holds_examples", False) for v in layer.weights
    }
    own = [v for v in model.non_trainable_weights if v.dtype in ("float16", "bfloat16", "float32", "float64")]
    if own and "_agreement" not in vars(model):

        @tf.function
        def agreement():
            replica = tf.distribute.get_replica_context()
            values = [tf.convert_to_tensor(v.value) for v in own]
            of_first = [tf.where(replica.replica_id_in_sync_group == 0, v, tf.zeros_like(v)) for v in values]
            of_first = replica.all_reduce(tf.distribute.ReduceOp.SUM, of_first)
            others = [v - first for v, first in zip(values, of_first, strict=True)]
            others = replica.all_reduce(tf.distribute.ReduceOp.MEAN, others)
            for variable, first, other in zip(own, of_first, others, strict=True):
                variable.value.assign(first if id(variable) in examples else first + other)

        vars(model)["_agreement"] = agreement  # past Keras, which would track it
    if own:
        strategy.run(model._agreement)


def make_function(model, keras_make, step_function):
    """Keras's function of batches around a step, with the step that each replica runs."""
    if model._distribute_strategy is not None:
        check(model)
        tell_of_statistics(model)
        if model.distribute_strategy.num_replicas_in_sync > 1:
            for optimizer in optimizers(model):
                add_up_first(optimizer)
            step_function = spread(model, step_function)
    return keras_make(step_function)


def metrics_or_logs(model, keras_result, logs):
    """What Keras calls at the end of an epoch, before anything else sees the model. The replicas then agree."""
    if model._distribute_strategy is not None:
        agree(model)
    return keras_result(logs)


class Distributed:
    """A mixin of Keras models, before Keras's class."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        build(self, super()._maybe_symbolic_build, iterator, data_batch)

    def _make_function(self, step_function):
        return make_function(self, super()._make_function, step_function)

    def _get_metrics_result_or_logs(self, logs):
        return metrics_or_logs(self, super()._get_metrics_result_or_logs, logs)


_HOOKS = {"_maybe_symbolic_build": build, "_make_function": make_function}
_HOOKS |= {"_get_metrics_result_or_logs": metrics_or_logs}


def distributed(model):
    """Lets a Keras model that is not of this package train on `tf.distribute` as those of this package do.

    Args:
        model: `keras.Model`, made and compiled in the scope of a strategy. It is changed in place. Files of it are as
            before.

    Returns:
        The model.

    Raises:
        ValueError: if it was made outside of a scope.

    Example:

    >>> strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(), "mse")
    >>> history = distributed(model).fit(tf.ones((4, 2)), tf.ones((4, 1)), verbose=0)
    """
    if isinstance(model, Distributed):
        return model
    if model._distribute_strategy is None:
        raise ValueError(
            f"model={type(model).__name__} was made outside of the scope of a strategy. Make it in "
            "`with strategy.scope():`."
        )
    for name, hook in _HOOKS.items():
        if name not in vars(model):  # the second time it is there
            vars(model)[name] = functools.partial(hook, model, getattr(model, name))  # past Keras, which tracks
    return model
