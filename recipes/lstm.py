"""An LSTM remembers for 200 steps, where a plain recurrent network cannot: the adding problem.

Paper:     Hochreiter and Schmidhuber 1997, "Long short-term memory", Neural Computation 9, section 5.4, with the
           lengths of Le et al. 2015, arXiv:1504.00941
Data:      adding_problem/200: 10,000 generated sequences of 200 steps for training, 1,000 for the test
Command:   keras-dl train lstm --jit on
Aim:       a mean squared error of 0.01
Baseline:  a plain RNN: 0.1677, no better than always saying 1
Reaches:   0.0004; 147 s of training for both networks on two busy cores
Files:     int16x8 0.0005

`--dataset japanese_vowels`: which of nine speakers said it, from 270 series for training and 370 for the test. Accuracy
98.1% after 21 s. Logistic regression on means and deviations has 96.2%.

`--dataset bible`: characters of the King James Version, the first 256 of each verse, which leaves out 0.7%. 1.465 bits
per character on the 1,013 test verses (aim 1.8) after 6 epochs and 1,314 s on two busy cores. A trigram model has
2.495. No setting was tuned.

`--dataset lm1b`: the same for the One Billion Word benchmark (Chelba et al. 2013, arXiv:1312.3005). Not measured.
"""

from keras_dl.recipes.tasks import characters, series
from keras_dl.recipes.training.recipe import DYNAMIC_INT8, FLOAT, INT16X8, Recipe, Task, run_as_script

# The proof refuses int8: the log-probabilities of unlikely characters are too far off.
TEXTS = dict(metric="bits per character", higher_is_better=False, variants=("lstm",), exports=(FLOAT, DYNAMIC_INT8))

# The proof refuses int8: outputs are rounded 200 times, and R2 is 0.878.
SUMS = dict(variants=("lstm", "rnn"), baselines=("rnn",), exports=(FLOAT, INT16X8), **series.SUMS)


def _of(data):
    """The module with the functions for this data: texts have a vocabulary."""
    return characters if data.vocabularies else series


def load_data(options, variant):
    return (characters if options.dataset in characters.FEATURES else series).load_data(options, variant)


RECIPE = Recipe(
    name="lstm",
    model="RecurrentNetwork",
    summary="an LSTM adds two marked numbers out of 200, tells speakers apart, and writes verses",
    tasks={
        "adding_problem/200": Task(epochs=20, batch_size=50, aim=0.01, **SUMS),
        "adding_problem/400": Task(epochs=30, batch_size=50, aim=0.01, **SUMS),
        **series.series_tasks("lstm", aim=0.95),
        "bible": Task(epochs=6, batch_size=64, aim=1.8, reproduced=True, **TEXTS),
        "lm1b": Task(epochs=1, batch_size=128, **TEXTS),
    },
    own={
        **series.own_tasks("lstm"),
        "text": Task(epochs=20, batch_size=32, **TEXTS),
    },
    load_data=load_data,
    build_model=lambda data, options, variant: _of(data).build_model(data, options, variant),
    evaluate=lambda serve, data: _of(data).evaluate(serve, data),
    baseline=lambda outcome: _of(outcome.data).baseline(outcome),
    picture=lambda outcome: _of(outcome.data).picture(outcome),
    calibrate=lambda serve, data, samples: _of(data).calibrate(serve, data, samples),
)

if __name__ == "__main__":
    run_as_script("lstm")
