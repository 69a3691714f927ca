"""How far data parallelism scales, by arithmetic: writes the table of docs/several_machines.md.

python docs/scaling.py           writes the table into the page
python docs/scaling.py --check   fails if the page has another one

A replica that computes for `c` seconds a step, and whose gradients are added up in `s` seconds, computes for the share
`c / (c + s)` of its time if nothing is sent meanwhile, and for `c / max(c, s)` if all is. A ring of `n` replicas sends
`2 (n - 1) / n` times the bytes of the gradients from each. Latency, reading and the speed of memory are left out.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "several_machines.md"
HEAD = "| Model, and batch of a replica |"

REPLICAS = (1, 2, 4, 8, 16, 64, 512)
GIGABITS = (10, 25, 100, 400)
OPERATIONS_A_SECOND = 50e12
PASSES = 3  # the backward pass takes as long as two forward passes


def resnet50():
    """Multiplications of one image of 224 pixels in convolutions and the last layer (v1.5: 3 x 3 has the stride)."""
    count, channels = 112**2 * 7 * 7 * 3 * 64, 64
    for side, width, blocks in ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3)):
        for block in range(blocks):
            before = 2 * side if block == 0 and side < 56 else side
            count += before**2 * channels * width + side**2 * (9 * width**2 + 4 * width**2)
            count += side**2 * channels * 4 * width if block == 0 else 0
            channels = 4 * width
    return count + channels * 1000


def vit_l16():
    """Multiplications of one image of 224 pixels: 196 patches and a class token, 24 blocks of 1024 units."""
    tokens, width = 197, 1024
    block = tokens * (4 * width**2 + 2 * width * 4096) + 2 * tokens**2 * width
    return 196 * 16 * 16 * 3 * width + 24 * block + width * 1000


def transformer_big():
    """Multiplications of one token of the source and one of the target, without those of tokens with each other."""
    width, vocabulary = 1024, 37_000
    encoder = 4 * width**2 + 2 * width * 4096
    return 6 * encoder + 6 * (encoder + 4 * width**2) + width * vocabulary


MODELS = (
    ("ResNet-50, 64 images", ("resnet", "resnet50"), 64, resnet50),
    ("ViT-L/16, 32 images", ("vit", "vit_l16"), 32, vit_l16),
    ("Transformer big, 4,096 tokens of each language", ("transformer", "big"), 4096, transformer_big),
)


def weights(architecture, preset):
    rows = json.loads((ROOT / "recipes" / "presets.json").read_text())["presets"]
    return next(row["parameters"] for row in rows if (row["architecture"], row["preset"]) == (architecture, preset))


def shares(computing, size, replicas, gigabits):
    """The share of time that a replica computes: `(if nothing is sent meanwhile, if all is)`."""
    sending = 2 * (replicas - 1) / replicas * size * 8 / (gigabits * 1e9)
    return computing / (computing + sending), computing / max(computing, sending)


def table():
    lines = [f"{HEAD} Gradients | Computing | Network | {' | '.join(map(str, REPLICAS))} |"]
    lines.append(f"| --- | --- | --- | --- |{' --- |' * len(REPLICAS)}")
    for name, preset, batch, multiplications in MODELS:
        size, computing = 4 * weights(*preset), PASSES * 2 * batch * multiplications() / OPERATIONS_A_SECOND
        first = f"| {name} | {size / 1e6:,.0f} MB | {1000 * computing:.0f} ms"
        for gigabits in GIGABITS:
            cells = [shares(computing, size, n, gigabits) for n in REPLICAS]
            shown = [f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%}-{high:.0%}" for low, high in cells]
            lines.append(f"{first} | {gigabits} Gb/s | {' | '.join(shown)} |")
            first = "| | |"
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare the page")
    options = parser.parse_args()
    text = PAGE.read_text()
    first = text.index(HEAD)
    last = text.find("\n\n", first) + 1 or len(text)
    if options.check:
        if text[first:last] != table():
            sys.exit(f"{PAGE.name} has another table. Run: python docs/scaling.py")
        return
    PAGE.write_text(text[:first] + table() + text[last:])


if __name__ == "__main__":
    main()
