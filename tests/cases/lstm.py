"""Long short-term memory: the layer with all its options, and a network whose steps stream."""

from case import Case, covered_by
from keras import activations

import keras_dl
from cases.rnn import STEPS, adapt, layer_case, network_case, other_padding, padded_sequences, states
from cases.transformer import PADDING_IS_A_TOKEN, joined, named, texts
from keras_dl.losses import SmoothedCrossentropy

WIDE = 32  # a matrix of fewer than 1,024 weights stays float32 in a file of dynamic_int8

CASES = [
    layer_case(
        "lstm",
        keras_dl.LSTM,
        bad_arguments=(
            (dict(projection_units=0), "projection_units"),
            (dict(use_cudnn="never"), "use_cudnn"),
            (dict(recurrent_dropout=0.3), "recurrent_dropout"),
        ),
        activation=activations.softsign,
        recurrent_activation=activations.hard_sigmoid,
        unit_forget_bias=False,
        use_cudnn=False,
        peephole=True,
        projection_units=4,
        layer_norm=True,
        recurrent_dropout=0.0,
        tolerances={"int8": 3e-1},  # normalized twice per step in 8 bits: 0.24 measured
    )._replace(
        forced={
            "stateful": "keeps the batch of its first call; test_lstm.py has it",
            "recurrent_dropout": "does not work with peephole, projection and layer norm; test_lstm.py has it",
        }
    ),
    network_case(
        "lstm",
        slow_checks=covered_by("rnn_network", but="the LSTM, which the case lstm_layer and test_lstm.py check"),
        arguments=dict(
            num_features=WIDE,
            cell="lstm",
            hidden_dims=(WIDE,),
            bidirectional=False,
            pooling=None,
            task="classification",
            masked=True,
            standardize=True,
        ),
        forced={
            "cell": "this case is of the LSTM, which is fused",
            "bidirectional": "one direction alone has a step",
            "task": "the case of rnn has regression",
            "standardize": "the case of rnn has raw features",
        },
        inputs=padded_sequences(WIDE),
        targets=lambda rng, n: rng.integers(0, 3, (n, STEPS)),
        padded=other_padding,
        prepare=adapt,
        served={"step": states("hidden_0", "cell_0", features=WIDE, units=WIDE)},
    ),
    Case(
        name="recurrent_lm",
        architecture="lstm",
        model=keras_dl.RecurrentLM,
        arguments=dict(
            vocabulary_size=WIDE + 1,
            embedding_dim=WIDE,
            cell="irnn",
            hidden_dims=(WIDE, WIDE),
            tied=True,
            dropout_rate=0.0,
            initial_range=0.2,
            bptt_steps=4,
            stateful_batch_size=None,
            serving_length=STEPS,
            start_token=4,
            end_token=3,
        ),
        forced={
            "dropout_rate": "the case of rnn has it; without it training is held equal under XLA",
            "stateful_batch_size": "takes only batches of one size; test_recurrent_lm.py has it",
        },
        inputs=texts(STEPS, WIDE + 1),
        targets=texts(STEPS, WIDE + 1),
        slow_checks=covered_by("lstm_layer")
        | {"trains_equally_under_xla": "test_lstm.py and test_rnn.py compare the gradients under XLA"},
        compile=dict(loss=SmoothedCrossentropy(0.0)),
        bad_arguments=(
            (dict(vocabulary_size=2), "vocabulary_size"),
            (dict(embedding_dim=0), "embedding_dim"),
            (dict(cell="elman"), "cell"),
            (dict(hidden_dims=()), "hidden_dims"),
            (dict(hidden_dims=(WIDE, 16)), "hidden_dims"),
            (dict(embedding_dim=16), "embedding_dim"),
            (dict(dropout_rate=1.0), "dropout_rate"),
            (dict(initial_range=0.0), "initial_range"),
            (dict(bptt_steps=0), "bptt_steps"),
            (dict(stateful_batch_size=0), "stateful_batch_size"),
            (dict(serving_length=0), "serving_length"),
            (dict(end_token=WIDE + 1), "end_token"),
        ),
        served={
            "step": joined(
                named("tokens", lambda rng, n: rng.integers(3, WIDE + 1, n).astype("int32")),
                lambda rng, n: {f"hidden_{i}": rng.uniform(0, 1, (n, WIDE)).astype("float32") for i in (0, 1)},
            )
        },
        skips=PADDING_IS_A_TOKEN,
    ),
]
