"""Gated recurrent units: the layer in Cho's convention, and a network of two layers whose steps stream."""

from case import NO_MASK
from keras import activations

import keras_dl
from cases.rnn import STEPS, adapt, layer_case, network_case, sequences, states

CASES = [
    layer_case(
        "gru",
        keras_dl.GRU,
        bad_arguments=((dict(use_cudnn="never"), "use_cudnn"),),
        activation=activations.softsign,
        recurrent_activation=activations.hard_sigmoid,
        reset_after=False,
        use_cudnn=False,
    ),
    network_case(
        "gru",
        slow=True,  # lstm_network has the same layers around its own
        arguments=dict(
            cell="gru",
            hidden_dims=(4, 4),
            bidirectional=False,
            pooling=None,
            task="classification",
            masked=False,
            standardize=True,
        ),
        forced={
            "bidirectional": "one direction alone has a step",
            "task": "the case of rnn has regression",
            "masked": "the cases of rnn and lstm have padded sequences",
            "standardize": "the case of rnn has raw features",
        },
        inputs=sequences(),
        targets=lambda rng, n: rng.integers(0, 3, (n, STEPS)),
        prepare=adapt,
        served={"step": states("hidden_0", "hidden_1")},
        skips=NO_MASK,
    ),
]
