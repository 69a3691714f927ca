"""A gated recurrent unit remembers for two hundred steps where a plain recurrent network cannot: the adding problem.

Paper:     Cho et al. 2014, arXiv:1406.1078 (the unit); Hochreiter and Schmidhuber 1997, section 5.4 (the problem).
Data:      adding_problem/200: 10,000 sequences of 200 steps to learn from, 1,000 to test on.
Command:   keras-dl train gru
Reaches:   mean squared error 0.0003 (aim 0.01); 44 s of training for both nets on two cores that others used too. The
           int8 file has 0.011: its rounding adds up over two hundred steps
Baseline:  a plain RNN, 0.1672: no better than always saying 1

`--dataset japanese_vowels`: which of nine speakers said it, 270 series to learn from, 370 to test on: accuracy 97.6%
after 18 s; logistic regression on means and deviations has 96.2%.
"""

from keras_dl.recipes.tasks import series
from keras_dl.recipes.training.recipe import FLOAT, INT8, Recipe, Task, run_as_script

# Two hundred steps, written one after the other, are thousands of ops: too many for tflite-micro.
SUMS = dict(variants=("gru", "rnn"), exports=(FLOAT, INT8), **series.SUMS)
RECIPE = Recipe(
    name="gru",
    model="RecurrentNetwork",
    summary="a GRU adds two marked numbers out of two hundred, and tells speakers apart",
    tasks={
        "adding_problem/200": Task(epochs=6, batch_size=50, aim=0.01, **SUMS),
        "adding_problem/400": Task(epochs=20, batch_size=50, aim=0.01, **SUMS),
        **series.series_tasks("gru", aim=0.95),
    },
    **series.FUNCTIONS,
)

if __name__ == "__main__":
    run_as_script("gru")
