"""Own data drawn for tests: what users have in their folders, small."""

import numpy as np
from PIL import Image

SHAPES = ("bar", "ring")


def picture(shape, seed, sides=(20, 20), mode="RGB"):
    """A bright bar or ring on a dark ground."""
    random = np.random.default_rng(seed)
    height, width = sides
    y, x = np.mgrid[:height, :width]
    radius = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5)
    inside = np.abs(x - width / 2) < width / 6 if shape == "bar" else (radius > 0.25) & (radius < 0.42)
    image = random.integers(0, 60, (height, width, 3)) + inside[..., None] * random.integers(120, 180, 3)
    return Image.fromarray(image.astype("uint8")).convert(mode)


def table(rows=60, seed=0):
    """Lines of a table: two numbers and a category that decide a class, and a value that follows from them."""
    random = np.random.default_rng(seed)
    lines = ["height,width,soil,kind,weight"]
    for _ in range(rows):
        height, width, soil = random.uniform(1, 9), random.uniform(100, 300), random.choice(["clay", "sand"])
        kind = "tall" if height > 5 else "broad" if soil == "clay" else "short"
        lines.append(f"{height:.2f},{width:.1f},{soil},{kind},{height * width / 100 + (soil == 'clay'):.3f}")
    return lines


def write_pictures(folder, count=10, names=SHAPES, sides=(20, 20), mode="RGB", suffix="png"):
    """A folder for each class with pictures of it."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            of = sides(i) if callable(sides) else sides
            picture(SHAPES[names.index(name) % 2], i, of, mode).save(folder / name / f"{i:02d}.{suffix}")
    return folder
