"""A plain recurrent network remembers for 100 steps if it starts as a sum: IRNN on the adding problem.

Paper:     Le, Jaitly, Hinton 2015, arXiv:1504.00941, section 4.1
Data:      adding_problem/100: 10,000 generated sequences of 100 steps for training, 1,000 for the test
Command:   keras-dl train rnn --jit on
Aim:       a mean squared error of 0.0177, a tenth of what always saying 1 has in the paper
Baseline:  an RNN with tanh and orthogonal initialization: 0.0138
Reaches:   0.0023; 107 s of training for both networks on two busy cores
Files:     int8 0.017: rounding errors add up over 100 steps

`--dataset japanese_vowels`: which of nine speakers said it, from 270 series for training and 370 for the test. Accuracy
97.0% after 8 s (aim 93%). Logistic regression on means and deviations has 96.2%.
"""

from keras_dl.recipes.tasks import series
from keras_dl.recipes.training.recipe import FLOAT, INT8, Recipe, Task, run_as_script

# A hundred unrolled steps are thousands of ops: too many for tflite-micro.
SUMS = dict(variants=("irnn", "rnn"), baselines=("rnn",), exports=(FLOAT, INT8), **series.SUMS)
RECIPE = Recipe(
    name="rnn",
    model="RecurrentNetwork",
    summary="an RNN that starts as a sum adds two marked numbers out of 100, and tells speakers apart",
    tasks={
        "adding_problem/100": Task(epochs=30, batch_size=32, aim=0.0177, **SUMS),
        "adding_problem/200": Task(epochs=30, batch_size=32, **SUMS),
        **series.series_tasks("rnn", aim=0.93),
    },
    own=series.own_tasks("rnn"),
    **series.FUNCTIONS,
)

if __name__ == "__main__":
    run_as_script("rnn")
