"""Makes transformer.npz: tiny transformers of torch and of Hugging Face, with their outputs, loss and gradient.

    pip install torch==2.14.1 transformers==5.24.0 && python tests/oracles/transformer.py

- `post/`, `pre/`: torch.nn.Transformer, post-norm as in the paper (torch adds a norm at the end of both stacks, which
  is taken away) and pre-norm, with embeddings, sinusoids and tied logits around it; cross-entropy with smoothed labels.
- `bert/`: transformers.BertModel with its pooler. `gpt2/`: transformers.GPT2LMHeadModel.
"""

import math
import pathlib

import numpy as np
import torch
import transformers

WIDTH, HEADS, LAYERS, MLP, VOCABULARY, PADDING = 12, 3, 2, 20, 17, 0


def positions(length):
    table = torch.zeros(length, WIDTH)
    for place in range(length):
        for i in range(0, WIDTH, 2):
            angle = place / 10_000 ** (i / WIDTH)
            table[place, i], table[place, i + 1] = math.sin(angle), math.cos(angle)
    return table


def shaken(module):
    """Every weight random, and one that float16 holds: biases and norms start at what could not be told from none."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
        parameter.data = parameter.data.half().float()
    return module


def seq2seq(norm_first):
    model = shaken(
        torch.nn.Transformer(
            WIDTH, HEADS, LAYERS, LAYERS, MLP, dropout=0.0, batch_first=True, norm_first=norm_first, layer_norm_eps=1e-5
        )
    )
    if not norm_first:
        model.encoder.norm = model.decoder.norm = None
    table = torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH) * WIDTH**-0.5)
    source = torch.tensor([[5, 9, 3, 16, 7, 2], [4, 8, 2, 0, 0, 0]])
    target = torch.tensor([[1, 6, 6, 11, 3], [1, 15, 10, 0, 0]])
    labels = torch.tensor([[6, 6, 11, 3, 2], [15, 10, 2, 0, 0]])

    def embed(tokens):
        return table[tokens] * math.sqrt(WIDTH) + positions(tokens.shape[1])

    hidden = model(
        embed(source),
        embed(target),
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
        src_key_padding_mask=source == PADDING,
        memory_key_padding_mask=source == PADDING,
    )
    logits = hidden @ table.T
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=PADDING, label_smoothing=0.1)
    loss.backward()
    arrays = dict(source=source, target=target, labels=labels, logits=logits, loss=loss, table=table)
    return arrays | {"table_gradient": table.grad} | {f"weights/{k}": v for k, v in model.state_dict().items()}


def bert():
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        max_position_embeddings=8,
        type_vocab_size=2,
    )
    model = shaken(transformers.BertModel(config)).eval()
    tokens = torch.tensor([[5, 9, 3, 16, 7, 2], [4, 8, 2, 0, 0, 0]])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0]])
    out = model(tokens, attention_mask=(tokens != PADDING).long(), token_type_ids=segments)
    arrays = dict(tokens=tokens, segments=segments, states=out.last_hidden_state, pooled=out.pooler_output)
    return arrays | {f"weights/{k}": v for k, v in model.state_dict().items()}


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=8, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=MLP
    )
    model = shaken(transformers.GPT2LMHeadModel(config)).eval()
    tokens = torch.tensor([[5, 9, 3, 16, 7, 2], [4, 8, 2, 12, 1, 6]])
    arrays = dict(tokens=tokens, logits=model(tokens).logits)
    return arrays | {f"weights/{k}": v for k, v in model.transformer.state_dict().items()}


def main():
    torch.manual_seed(0)
    parts = {"post": seq2seq(False), "pre": seq2seq(True), "bert": bert(), "gpt2": gpt2()}
    arrays = {f"{part}/{k}": v.detach().numpy() for part, found in parts.items() for k, v in found.items()}
    arrays = {k: v.astype("float16") if "/weights/" in k else v for k, v in arrays.items()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
