"""Makes the `.keras` files of this folder, each with inputs and outputs beside it.

They were made by version 0.1.0 at commit e93b547, before the models were grouped in folders, and are not made again:
`tests/test_saved.py` holds that files of users still load and predict the same. Run it at the commit that it names:

    python tests/saved/make.py FOLDER
"""

import pathlib
import sys

import keras
import numpy as np
from cases import CASES

# Second cases of a class that has one here, with large files.
LEFT_OUT = {"lenet5_rbf", "alexnet_towers", "seq2seq_context"}


def make(folder):
    for case in CASES:
        if case.name in LEFT_OUT:
            continue
        keras.utils.set_random_seed(0)
        model = case.create()
        if case.name == "vit":  # its head starts at zero, and would hide all other weights
            model = case.model(**(case.arguments | {"num_layers": 2}))
            rng = np.random.default_rng(0)
            for variable in model.trainable_variables:
                variable.assign(rng.normal(size=variable.shape))
        inputs = case.call_inputs(2)
        outputs = keras.tree.flatten(model(inputs, training=False))
        inputs = inputs if isinstance(inputs, dict) else {"0": inputs}
        arrays = {f"input_{name}": value for name, value in inputs.items()}
        arrays |= {f"output_{i}": np.asarray(keras.ops.cast(x, "float32")) for i, x in enumerate(outputs)}
        model.save(folder / f"{case.name}.keras")
        np.savez_compressed(folder / f"{case.name}.npz", **arrays)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
    make(pathlib.Path(sys.argv[1]))
