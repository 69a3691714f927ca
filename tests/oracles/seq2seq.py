"""Writes seq2seq.npz: three tiny encoder-decoders of torch.nn with teacher forcing.

Made with torch 2.14.1 (CPU), in an environment of its own: python tests/oracles/seq2seq.py

`bahdanau`: a bidirectional GRU, additive attention, a GRU cell and a maxout output; `sutskever`: two layers of LSTM on
the reversed source; `cho`: a GRU whose vector is fed at every step. For each, its weights as `name/weight`, as PyTorch
has them, its logits as `name/logits`, the mean cross-entropy of the tokens that are no padding as `name/loss`, the
gradient of each weight as `name/gradient/weight`, and the tokens of its greedy search as `name/greedy`. All read
`sources` and `targets`, in which 0 is padding and 2 the end; the start is 1.
"""

import pathlib

import numpy as np
import torch
from torch import nn

SOURCES, TARGETS, EMBEDDING, HIDDEN, ATTENTION, MAXOUT = 9, 8, 4, 5, 3, 4
START, END, STEPS = 1, 2, 6


def packed(module, tokens, embedded):
    """Outputs, padded to the length of `tokens`, and last states, of what is no padding."""
    lengths = (tokens > 0).sum(1)
    sequence = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    outputs, state = module(sequence)
    outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=tokens.shape[1])
    return outputs, state


class Bahdanau(nn.Module):
    def __init__(self):
        super().__init__()
        self.source = nn.Embedding(SOURCES, EMBEDDING)
        self.encoder = nn.GRU(EMBEDDING, HIDDEN, bidirectional=True, batch_first=True)
        self.bridge = nn.Linear(2 * HIDDEN, HIDDEN)
        self.query = nn.Linear(HIDDEN, ATTENTION, bias=False)
        self.keys = nn.Linear(2 * HIDDEN, ATTENTION)
        self.score = nn.Linear(ATTENTION, 1, bias=False)
        self.target = nn.Embedding(TARGETS, EMBEDDING)
        self.cell = nn.GRUCell(EMBEDDING + 2 * HIDDEN, HIDDEN)
        self.maxout = nn.Linear(HIDDEN + 2 * HIDDEN + EMBEDDING, 2 * MAXOUT)
        self.output = nn.Linear(MAXOUT, TARGETS)

    def begin(self, sources):
        self.memory, last = packed(self.encoder, sources, self.source(sources))
        self.mask = sources > 0
        return torch.tanh(self.bridge(torch.cat([last[0], last[1]], -1)))

    def step(self, tokens, state):
        scores = self.score(torch.tanh(self.query(state)[:, None] + self.keys(self.memory)))[..., 0]
        weights = torch.softmax(scores.masked_fill(~self.mask, -torch.inf), -1)
        context = (weights[..., None] * self.memory).sum(1)
        embedded = self.target(tokens)
        state = self.cell(torch.cat([embedded, context], -1), state)
        pairs = self.maxout(torch.cat([state, context, embedded], -1))
        return self.output(torch.maximum(pairs[:, :MAXOUT], pairs[:, MAXOUT:])), state


class Sutskever(nn.Module):
    def __init__(self):
        super().__init__()
        self.source = nn.Embedding(SOURCES, EMBEDDING)
        self.encoder = nn.LSTM(EMBEDDING, HIDDEN, num_layers=2, batch_first=True)
        self.target = nn.Embedding(TARGETS, EMBEDDING)
        self.decoder = nn.LSTM(EMBEDDING, HIDDEN, num_layers=2, batch_first=True)
        self.output = nn.Linear(HIDDEN, TARGETS)

    def begin(self, sources):
        backwards = torch.zeros_like(sources)
        for i, row in enumerate(sources):
            tokens = row[row > 0].flip(0)
            backwards[i, : len(tokens)] = tokens
        return packed(self.encoder, backwards, self.source(backwards))[1]

    def step(self, tokens, state):
        outputs, state = self.decoder(self.target(tokens)[:, None], state)
        return self.output(outputs[:, 0]), state


class Cho(nn.Module):
    def __init__(self):
        super().__init__()
        self.source = nn.Embedding(SOURCES, EMBEDDING)
        self.encoder = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.summary = nn.Linear(HIDDEN, HIDDEN)
        self.bridge = nn.Linear(HIDDEN, HIDDEN)
        self.target = nn.Embedding(TARGETS, EMBEDDING)
        self.cell = nn.GRUCell(EMBEDDING + HIDDEN, HIDDEN)
        self.maxout = nn.Linear(HIDDEN + HIDDEN + EMBEDDING, 2 * MAXOUT)
        self.output = nn.Linear(MAXOUT, TARGETS)

    def begin(self, sources):
        self.context = torch.tanh(self.summary(packed(self.encoder, sources, self.source(sources))[1][0]))
        return torch.tanh(self.bridge(self.context))

    def step(self, tokens, state):
        embedded = self.target(tokens)
        state = self.cell(torch.cat([embedded, self.context], -1), state)
        pairs = self.maxout(torch.cat([state, self.context, embedded], -1))
        return self.output(torch.maximum(pairs[:, :MAXOUT], pairs[:, MAXOUT:])), state


def main():
    torch.manual_seed(0)
    sources = torch.tensor([[3, 4, 5, 6, 7, 2], [8, 3, 2, 0, 0, 0], [5, 5, 4, 2, 0, 0], [2, 0, 0, 0, 0, 0]])
    targets = torch.tensor([[3, 4, 5, 6, 2], [7, 2, 0, 0, 0], [6, 6, 3, 2, 0], [4, 3, 2, 0, 0]])
    arrays = {"sources": sources.int(), "targets": targets.int()}
    for name, model in (("bahdanau", Bahdanau()), ("sutskever", Sutskever()), ("cho", Cho())):
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.7)
        state = model.begin(sources)
        logits, token = [], torch.full((len(sources),), START)
        for t in range(targets.shape[1]):
            step, state = model.step(token, state)
            logits.append(step)
            token = targets[:, t]
        logits = torch.stack(logits, 1)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
        loss.backward()
        arrays |= {f"{name}/{key}": value for key, value in model.state_dict().items()}
        arrays |= {f"{name}/gradient/{key}": value.grad for key, value in model.named_parameters()}
        arrays |= {f"{name}/logits": logits, f"{name}/loss": loss, f"{name}/greedy": greedy(model, sources)}
    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{key: value.detach().numpy() for key, value in arrays.items()})


@torch.no_grad()
def greedy(model, sources):
    state, token = model.begin(sources), torch.full((len(sources),), START)
    found, over = [], torch.zeros(len(sources), dtype=torch.bool)
    for _ in range(STEPS):
        logits, state = model.step(token, state)
        logits[:, 0] = -torch.inf  # padding is no token
        token = logits.argmax(-1).masked_fill(over, 0)
        over = over | (token == END)
        found.append(token)
    return torch.stack(found, 1).int()


if __name__ == "__main__":
    main()
